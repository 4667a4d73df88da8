/* sched/internal.h - what the scheduler's files share; nobody else includes it.
 *
 *   sched.c        the scheduler's life, submit, cancel, deadlines, the end of tasks
 *   pool.c         a pool's life and its queue
 *   flow.c         clients in turn: which of a line's tasks a batch takes
 *   predict.c      how long a task would take: refusal at submit
 *   cost.c         measured service times and what they predict
 *   policy.c       which line next
 *   batch.c        a free lane's choice; forming, running and taking back batches
 *   lane.c         a lane's life; lane_thread.c is the real one
 *   check.c        the invariants */
#ifndef HM_SCHED_INTERNAL_H
#define HM_SCHED_INTERNAL_H

#include "base/assert.h"
#include "base/map.h"
#include "sched/sched.h"

/* IDLE -> QUEUED (rows left to give) -> RUNNING (none left, some out) -> ENDING (end() due) -> IDLE
 * A task that fails while QUEUED drops the rows it has not given; it is RUNNING if others are out,
 * else ENDING. */
enum task_state { TASK_IDLE, TASK_QUEUED, TASK_RUNNING, TASK_ENDING };

/* Service time of a batch as a line, fixed + slope * rows, by exponentially weighted least
 * squares. */
struct cost {
    uint32_t samples;
    double mean_rows, mean_ns, variance_rows, covariance;
    double deviation_ns; /* mean distance of a sample from what was predicted for it */
};
void cost_add(struct cost *cost, uint32_t rows, hm_ns ns);
bool cost_trained(const struct cost *cost);
hm_ns cost_deviation(const struct cost *cost);            /* 0: not trained */
hm_ns cost_batch(const struct cost *cost, uint32_t rows); /* 0: not trained */
/* As cost_batch, but errs towards too much: no line through what was measured is above it. */
hm_ns cost_at_most(const struct cost *cost, uint32_t rows);
/* Of rows in batches of at most batch_rows_max. */
hm_ns cost_rows(const struct cost *cost, uint64_t rows, uint32_t batch_rows_max);

/* A client's tasks in a line. */
struct hm_flow {
    struct hm_map_node node; /* sched->flows, by line and client; not a line's own */
    struct hm_link link;     /* line->flows while it has tasks; else sched->flows_free */
    struct hm_link
        tasks; /* hm_task.turn, in the order of arrival; only the first may have given rows */
    struct line *line;
    uint64_t client;
    uint32_t rows, task_count;
    uint32_t credit; /* rows that it may give before the next client's turn */
    bool in_turn;    /* has got its credit for this turn */
};
/* A pool's queued tasks of one priority class. */
struct line {
    struct hm_pool *pool;
    enum hm_priority priority;
    struct hm_link tasks; /* hm_task.link, in the order of arrival */
    struct hm_link flows; /* of those who have tasks, the next one first */
    struct hm_flow crowd; /* clients who found no flow of their own */
    unsigned flow_count;
    uint32_t rows, task_count;
    uint64_t turn; /* of the lane's turns the last that it had, and when */
    hm_ns picked;
};

struct hm_pool {
    char *name; /* conf.name, ours */
    struct hm_pool_conf conf;
    struct hm_sched *sched;
    struct line line[HM_PRIORITIES];
    uint32_t rows_queued, tasks_queued; /* of all lines, not given */
    uint32_t rows_held, tasks_held;     /* of tasks that have not ended */
    hm_ns earliest_deadline;            /* of the queue, if known */
    bool earliest_known;
    struct cost cost;     /* a batch on its lane, and there and back */
    struct cost run;      /* a batch by itself */
    struct hm_link ready; /* in lane->ready while rows are queued */
    struct hm_link link;  /* in sched->pools */
};

enum sched_metric {
    SCHED_TASKS,
    SCHED_ROWS,
    SCHED_BATCHES,
    SCHED_BRIEF,
    SCHED_FOLLOWED,
    SCHED_BUSY,
    SCHED_REFUSED,
    SCHED_SHED,
    SCHED_TIMED_OUT,
    SCHED_CANCELED,
    SCHED_FAILED,
    SCHED_STARVED,
    SCHED_ROWS_HELD,
    SCHED_BATCH_ROWS,
    SCHED_WAIT_US,
    SCHED_SERVICE_US,
    SCHED_METRICS
};

struct hm_sched {
    struct hm_loop *loop;
    struct hm_buf_pool *buffers;
    const struct hm_policy *policy;
    struct hm_link pools, lanes;
    unsigned pool_count, pools_max;
    uint32_t tasks; /* accepted, not ended */
    bool draining;
    void (*drained)(void *arg);
    void *drained_arg;
    struct hm_timer drain_timer;
    struct hm_map flows; /* of those in use, but for the lines' own */
    struct hm_link flows_free;
    struct hm_flow *flow; /* flows_max of them */
    uint64_t hash_seed;
    /* scratch of a choice: the lines of a lane and what the policy may see of them */
    struct hm_line_view *view;
    struct line **viewed;
    struct hm_metric metric[SCHED_METRICS];
    struct hm_histogram batch_rows, wait_us, service_us;
};

/* pool.c */
/* The line that the task is in, or would be in. */
struct line *pool_line(const struct hm_task *task);
void pool_push(struct hm_pool *pool, struct hm_task *task);
void pool_take(struct hm_pool *pool, struct hm_task *task,
               uint32_t rows); /* from the queue into a batch */
void pool_drop(struct hm_pool *pool,
               struct hm_task *task); /* its rows not given, out of the queue */
hm_ns pool_earliest_deadline(struct hm_pool *pool);

/* flow.c */
void line_init(struct line *line, struct hm_pool *pool, enum hm_priority priority);
/* The client's flow in the line, if it has tasks there; NULL: none. */
struct hm_flow *flow_find(const struct line *line, uint64_t client);
/* The flow that the client's next task will be in; NULL: a new one. */
struct hm_flow *flow_of(struct line *line, uint64_t client);
void flow_push(struct hm_task *task); /* task->flow: the client's, or the line's own */
void flow_take(struct hm_task *task, uint32_t rows);
void flow_remove(struct hm_task *task); /* and its flow, with the last one */
/* Rows of the line that would be given before `rows` of the client submitted now; at most. */
uint64_t flow_rows_ahead(const struct line *line, uint64_t client, uint32_t rows);
/* Takes rows into the batch, clients in turn, until it is full, the line is empty, or the next task
 * does not fit.  Tasks that could not be back by then (`service`: of the batch) fail. */
void line_fill(struct line *line, struct hm_batch *batch, hm_ns now, hm_ns service);

/* sched.c */
/* As hm_sched_cancel, with another status. */
void task_abandon(struct hm_task *task, enum hm_status status);
void task_fail(struct hm_task *task,
               enum hm_status status); /* keeps the first reason, drops what is queued */
/* Its last piece is back, or it had none: calls end().  `slab`, `first`: where the rows lie, if
 * they were not joined. */
void task_end(struct hm_task *task, struct hm_buf *slab, uint32_t first);
static inline bool task_out(const struct hm_task *task)
{
    return task->rows_taken > task->rows_back;
}
static inline size_t task_out_row_bytes(const struct hm_task *task)
{
    return task->out_row_bytes ? task->out_row_bytes : task->pool->conf.out_row_bytes;
}
void sched_drain_check(struct hm_sched *sched);

/* lane.c */
void lane_kick(struct hm_lane *lane); /* rows have come: look at the queues in the next turn */
/* The lane keeps a buffer that takes any batch of such a pool. */
HM_MUST_CHECK enum hm_status lane_reserve(struct hm_lane *lane, const struct hm_pool_conf *conf);

/* batch.c */
/* Whether there may be one more batch at the lane. */
bool lane_takes_more(const struct hm_lane *lane);
void lane_look(
    struct hm_lane *lane); /* launches what the policy picks, while the lane takes batches */

/* predict.c */
bool sched_refuses(const struct hm_task *task);
/* A task of the line with a deadline was given up before any of its rows had their turn; or had its
 * turn in time. */
void margin_broken(const struct line *line);
void margin_kept(const struct line *line);
void margin_idle(struct hm_lane *lane);                         /* nothing is queued at it */
hm_ns lane_running_left(const struct hm_lane *lane, hm_ns now); /* of the batches at the lane */

#endif
