/* sched/internal.h - what the scheduler's files share; nobody else includes it.
 *
 *   sched.c        the scheduler's life, submit, cancel, deadlines, the end of tasks
 *   pool.c         a pool's life and its queue
 *   predict.c      how long a task would take: refusal at submit
 *   cost.c         measured service times and what they predict
 *   policy.c       which pool next
 *   batch.c        a free lane's choice; forming, running and taking back batches
 *   lane.c         a lane's life; lane_thread.c is the real one
 *   check.c        the invariants */
#ifndef HM_SCHED_INTERNAL_H
#define HM_SCHED_INTERNAL_H

#include "base/assert.h"
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
};
void cost_add(struct cost *cost, uint32_t rows, hm_ns ns);
bool cost_trained(const struct cost *cost);
hm_ns cost_batch(const struct cost *cost, uint32_t rows); /* 0: not trained */
/* Of rows in batches of at most batch_rows_max. */
hm_ns cost_rows(const struct cost *cost, uint64_t rows, uint32_t batch_rows_max);

struct hm_pool {
    char *name; /* conf.name, ours */
    struct hm_pool_conf conf;
    struct hm_sched *sched;
    struct hm_link
        queue; /* tasks with rows to give, oldest first; only the first may have given some */
    uint32_t rows_queued, tasks_queued; /* in the queue, not given */
    uint32_t rows_held, tasks_held;     /* of tasks that have not ended */
    hm_ns earliest_deadline;            /* of the queue, if known */
    bool earliest_known;
    struct cost cost;
    struct hm_link ready; /* in lane->ready while rows are queued */
    struct hm_link link;  /* in sched->pools */
};

enum sched_metric {
    SCHED_TASKS,
    SCHED_ROWS,
    SCHED_BATCHES,
    SCHED_BUSY,
    SCHED_REFUSED,
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
    /* scratch of a choice: the ready pools of a lane and what the policy may see of them */
    struct hm_pool_view *view;
    struct hm_pool **viewed;
    struct hm_metric metric[SCHED_METRICS];
    struct hm_histogram batch_rows, wait_us, service_us;
};

/* pool.c */
void pool_push(struct hm_pool *pool, struct hm_task *task);
void pool_take(struct hm_pool *pool, struct hm_task *task,
               uint32_t rows); /* from the queue into a batch */
void pool_drop(struct hm_pool *pool,
               struct hm_task *task); /* its rows not given, out of the queue */
hm_ns pool_earliest_deadline(struct hm_pool *pool);

/* sched.c */
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
void lane_look(
    struct hm_lane *lane); /* launches what the policy picks, while the lane takes batches */

/* predict.c */
bool sched_refuses(const struct hm_pool *pool, uint32_t rows, hm_ns deadline);

#endif
