/* sched/sched.h - the Runtime: rows in, batches onto devices, rows out.  No sockets, no experts.
 *
 * A pool is one (expert, pass).  A task is some rows for one pool, of one client and one priority
 * class.  The tasks of a class that wait in a pool are a line.  When a lane (one per device) is free
 * the policy picks a line, and a batch of at most batch_rows_max rows, never one more, is formed: of
 * that line first, and where its rows do not fill it of the pool's other lines.  The lane runs the
 * batch (pool->run, on the lane's thread) and hands it back by post.  A lane that is busy lets rows
 * gather: that is the batching; batch_delay_max adds to it only where asked for, and only until
 * batch_rows_preferred rows have come.
 *
 * Who is next.  Between lines: the more urgent class, but a line counts as one class more urgent for
 * every 100 ms (HM_AGING_NS) since its oldest task came or since it was last picked, whichever is
 * later; of equals the one whose last turn is longest ago.  Within a line: its clients in turn, by
 * rows (deficit round robin; Shreedhar and Varghese 1995), batch_rows_max / HM_TURNS_A_BATCH a turn;
 * the tasks of one client in the order of their arrival.  So a client that floods a pool waits
 * behind itself; and it is refused rows (BUSY) that would make what it has waiting in a line more
 * than HM_QUEUE_SHARE times what the pool's queue has left then, so that the next one finds room.
 *
 * Splitting: a task of more than batch_rows_max rows is split over several batches, and its rows
 * are joined in a slab that submit takes (BUSY if it cannot be had), so that a split never fails
 * later.  A task that fits into one batch is never split: it waits for the next one if it does not
 * fit into this one.  So its answer is one piece of the batch's slab, sent without a copy; a
 * backward of it is one optimizer step and is never half applied; and while a line has tasks, two
 * batches in a row that it is picked for have together more than batch_rows_max rows.
 *
 * Memory: a batch's output comes from the buffer pool.  If that is exhausted (slow readers hold
 * replies), the lane's own reserve is used, which hm_pool_create has set aside; while that is lent
 * too, the lane tries again every millisecond.  Rows of split tasks leave the reserve at once, so
 * tasks that hold slabs and wait for a batch cannot lock each other out.
 *
 *   submit ──► QUEUED ──(its turn)──► RUNNING ──(last piece back)──► end(status, rows)
 *                │ deadline, cancel       │ deadline, cancel: ends when its running pieces are
 *                ▼                        ▼ back; rows not yet given to a batch are dropped
 *              end(TIMED_OUT / CANCELED)  end(TIMED_OUT / CANCELED)
 *
 * Brief batches.  Handing a batch to the lane's thread and back is two wake-ups of a thread, which
 * together take longer than a small batch.  So where a lane has a brief_max, its thread has nothing, and
 * all that is queued at it is predicted to take no longer than that, the loop's own thread runs it
 * (pool->run): a pool says which of its batches may be run so.  What is next is chosen as ever;
 * the lane's devices and buffers are used by one thread at a time, since its thread touches them
 * between launch and done only; and between two looks at descriptors the loop spends no more on it
 * than it does on timers and posts.
 *
 * Late: what could not be back by its deadline is refused at submit (below), and again when its turn
 * comes, before it is run in vain: end(REFUSED), none of its rows having run.  A pool's last task is
 * run all the same, so that an estimate that was too high is renewed.
 * What turns put ahead of tasks after they were let in is learned (hm_lane_margin), so that under
 * overload nearly all who are refused hear it at submit.
 *
 * Promises (hm_sched_check, tests): every accepted task ends exactly once; a batch never exceeds
 * batch_rows_max; rows come back in order and belong to their task; FIFO for a client inside a line;
 * queues are bounded in tasks and rows: HM_ERR_BUSY is said at once by submit.
 *
 * Nobody waits for ever (tests/sim/sim/test_fair.c).  Let S be the longest service of a batch on the
 * lane, L the lines with tasks on it (at most HM_PRIORITIES a pool), B its batches_max, R the pool's
 * batch_rows_max, q = R / HM_TURNS_A_BATCH rounded up, and let there be buffers.
 *   - A line of class c (0: inference) is picked within c * HM_AGING_NS + batch_delay_max +
 *     (L + B) * S of its last turn or of its oldest task's arrival, whichever is later: after the
 *     first two it is ready and as urgent as any, and each other line has at most one turn before it.
 *   - A task that has, with its own, `a` rows of its client to go in its line, while at most n clients
 *     have tasks there, has at most a + (n - 1) * (a + q + R) rows of the line given before it is
 *     itself, since in k turns a client gives at most k * q rows and one task more.
 *   - So its last row is given to the lane within 2 * (a + (n - 1) * (a + q + R)) / R' + 2 turns of
 *     its line, R' = min(R, HM_PIECES_MAX), of which two in a row give R' rows or more; each within
 *     the first bound.  (Tasks that are dropped on the way can end a batch early: add a turn for
 *     each.)
 *
 * Thread: everything but run belongs to the loop's thread.  end never runs inside submit or
 * cancel. */
#ifndef HM_SCHED_SCHED_H
#define HM_SCHED_SCHED_H

#include "base/buf.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

struct hm_sched;
struct hm_pool;
struct hm_lane;

enum hm_priority {
    HM_PRIORITY_INFERENCE,
    HM_PRIORITY_TRAINING,
    HM_PRIORITY_BACKGROUND,
    HM_PRIORITIES
};

/* Where a task's answer lies: count rows from `first` times the pool's out_row_bytes of `slab`.
 * Reference it (hm_buf_get) to keep it past end(). */
struct hm_rows {
    struct hm_buf *slab;
    uint32_t first, count;
};

/* Caller's memory until end() has run; the caller keeps the input rows alive until then. */
struct hm_task {
    struct hm_pool *pool;
    uint32_t row_count; /* >= 1 */
    uint64_t client;    /* whose turn it takes; 0: nobody's, one more client without a share */
    /* Its class; never more urgent than its pool's, whatever it says. */
    enum hm_priority priority;
    /* Bytes of a row of its answer, where run makes it shorter than its pool's out_row_bytes; 0:
     * those.  Its rows lie one behind the other all the same, from where its piece's would begin. */
    size_t out_row_bytes;
    hm_ns deadline;
    /* out: NULL unless HM_OK */
    void (*end)(struct hm_task *task, enum hm_status status, const struct hm_rows *out);
    void *arg;
    /* the scheduler's: need not be zeroed */
    struct hm_link link;  /* of its line, in the order of arrival */
    struct hm_link turn;  /* of its client's in that line */
    struct hm_flow *flow; /* its client's place in that line, while it is QUEUED */
    hm_ns arrived;
    struct hm_timer timer;
    uint32_t rows_taken;   /* given to batches so far; 0 at end(): no row of it ever ran */
    uint32_t rows_back;    /* come back so far */
    struct hm_buf *joined; /* a split task's rows are gathered here */
    uint16_t state;
    enum hm_status failed; /* why it will end, if not well: the first reason holds */
    /* On hm_loop_clock, for whoever asks where the time went: when the lane began with its first
     * rows and was done with its last; 0: none came back. */
    hm_ns begun, done;
};

/* A piece of a task in a batch: rows [task_first, task_first + count) of the task are rows
 * [batch_first, ...) of the batch. */
struct hm_piece {
    struct hm_task *task;
    uint32_t task_first, batch_first, count;
};
enum { HM_PIECES_MAX = 256 }; /* tasks in one batch */
struct hm_batch {
    struct hm_pool *pool;
    struct hm_piece piece[HM_PIECES_MAX];
    unsigned piece_count;
    uint32_t row_count;
    struct hm_buf *out; /* row_count * out_row_bytes, for run to fill; NULL if out_row_bytes is 0 */
    bool brief;         /* may be run inside launch, by the loop's thread */
    /* the scheduler's */
    enum hm_status status;
    hm_ns started;     /* given to the lane */
    hm_ns begun, done; /* run by the lane, on hm_loop_clock */
    hm_ns expected;    /* of the lane's ahead_max, while it runs */
    struct hm_lane *lane;
    struct hm_post post;
    struct hm_link link;
};

struct hm_pool_conf {
    const char *name; /* copied */
    struct hm_lane *lane;
    uint32_t batch_rows_max;
    uint32_t queue_rows_max; /* rows queued or running; over it submit says HM_ERR_BUSY */
    uint32_t queue_tasks_max;
    /* A batch that is not full, and has fewer rows than are preferred, waits this long for more while
     * no other line is ready. */
    hm_ns batch_delay_max;
    uint32_t batch_rows_preferred; /* 0: only a full batch */
    enum hm_priority priority;     /* the most urgent that its tasks can have */
    size_t out_row_bytes;
    /* Lane thread, or the loop's if it is brief.  Gathers from its tasks' inputs, computes, fills out.
     * Its status is every piece's status. */
    enum hm_status (*run)(void *arg, struct hm_batch *batch);
    /* Whether the loop's thread may run a batch of so many rows, if it is short: it neither sleeps nor
     * asks for anything that belongs to the lane's thread, a team for instance.  NULL: never. */
    bool (*may_be_brief)(void *arg, uint32_t row_count);
    void *arg;
};

/* What a policy may see of a line, which has tasks. */
struct hm_line_view {
    enum hm_priority priority;
    hm_ns oldest;            /* arrival of its oldest task */
    hm_ns picked;            /* when it last had its turn; 0: never */
    uint64_t turn;           /* which of the lane's turns that was; 0: none */
    uint32_t rows;           /* queued in its pool: what a batch could have */
    bool full;               /* waiting would not make its batch larger */
    hm_ns earliest_deadline; /* in its pool, if a batch may wait; else HM_NS_NEVER */
    hm_ns service;           /* a batch of these rows would take this long; 0: unknown yet */
    uint32_t batch_rows_preferred;
    hm_ns batch_delay_max;
};
struct hm_policy {
    const char *name;
    /* Index of the line whose turn it is, or -1: nobody's before *again (HM_NS_NEVER: until a
     * submit).  Pure. */
    int (*pick)(const struct hm_line_view *lines, unsigned count, hm_ns now, hm_ns *again);
};
/* As above.  A batch that is not full and has fewer rows than are preferred waits out its
 * batch_delay_max, or until its earliest deadline leaves just its service time, and only while no
 * other line is ready. */
#define HM_AGING_NS (100 * HM_MS)
enum { HM_TURNS_A_BATCH = 16, HM_QUEUE_SHARE = 4 };
extern const struct hm_policy hm_policy_in_turn;

struct hm_sched_conf {
    struct hm_loop *loop;
    struct hm_buf_pool *buffers;    /* batch outputs and joined rows */
    struct hm_metrics *metrics;     /* NULL: none */
    const struct hm_policy *policy; /* NULL: in turn */
    unsigned pools_max;
    /* Clients that have tasks in a line, counted for each line.  Those over it share one turn in
     * theirs, where a client may overtake itself. */
    unsigned flows_max; /* 0: 4096 */
};
HM_MUST_CHECK enum hm_status hm_sched_create(const struct hm_sched_conf *conf,
                                             struct hm_sched **sched);
/* Every task must have ended (hm_sched_drain first).  Destroys the pools and lanes that are
 * left. */
void hm_sched_destroy(struct hm_sched *sched);
struct hm_loop *hm_sched_loop(const struct hm_sched *sched);
uint32_t hm_sched_tasks(const struct hm_sched *sched); /* accepted and not ended, of all pools */
/* No more submits (HM_ERR_DRAINING); what is queued runs on; done is called once, when nothing is
 * left, never inside this call; the scheduler may be destroyed in it. */
void hm_sched_drain(struct hm_sched *sched, void (*done)(void *arg), void *arg);

/* HM_ERR_INVALID with a line for limits of 0 and a queue shorter than a batch; HM_ERR_BUSY if there
 * are pools_max; HM_ERR_NO_MEMORY if the buffer pool cannot set one batch's output aside. */
HM_MUST_CHECK enum hm_status hm_pool_create(struct hm_sched *sched, const struct hm_pool_conf *conf,
                                            struct hm_pool **pool);
/* No task of it may be left; allowed in the end() of its last one. */
void hm_pool_destroy(struct hm_pool *pool);
uint32_t hm_pool_rows_queued(const struct hm_pool *pool); /* queued or running */
/* HM_OK: end() will come.  Otherwise it will not, and the task is untouched:
 * HM_ERR_BUSY      its queue is full, its client is over its share of it, or a split task's slab
 *                  cannot be had
 * HM_ERR_TOO_BIG   more rows than the queue ever takes
 * HM_ERR_REFUSED   the deadline has passed, or is predicted to be missed: only by a trained
 *                  estimate, and never on the service time of a pool that is idle (its estimate may
 *                  be stale: one task is let in to renew it)
 * HM_ERR_INVALID   no rows
 * HM_ERR_DRAINING */
HM_MUST_CHECK enum hm_status hm_sched_submit(struct hm_sched *sched, struct hm_task *task);
/* end() still comes: HM_ERR_CANCELED (or what it had failed with before), in the next turn for what
 * is queued and when its batch is back for what runs.  Nothing happens once end() has started, or
 * to a zeroed task that was never accepted: whoever holds several need not know which have ended. */
void hm_sched_cancel(struct hm_task *task);
/* How long the task would take to be back if it were submitted now: what runs on its lane, the rows
 * that would have their turn before it, and its own, at measured costs; 0: unknown yet.  Needs pool,
 * client, priority and row_count (0: until the next one like it could start). */
hm_ns hm_sched_predict(const struct hm_task *task);
/* What the pool's lane has before it, whoever asked for it: what runs and what is queued of every
 * class and pool, at measured costs.  What is not known counts as nothing. */
hm_ns hm_sched_load(const struct hm_pool *pool);
/* Asserts every invariant above, between two turns of the loop; for tests and the simulator. */
void hm_sched_check(const struct hm_sched *sched);

/* ---- lanes ---------------------------------------------------------------------------------- */

/* A lane runs one batch after another.  lane_thread.c is the real one; sim/lane.c a timer with a
 * cost model. */
struct hm_lane_ops {
    /* Takes a batch: hm_batch_run(batch) on the lane's thread, or at once if it is brief; then
     * hm_lane_batch_done(batch) on the loop thread, in the order of launching, never inside launch. */
    void (*launch)(struct hm_lane *lane, struct hm_batch *batch);
    void (*destroy)(struct hm_lane *lane); /* the lane is idle */
};
/* With one batch at a time rows gather until the lane is free.  Behind a batch that runs the next
 * one is handed over
 *   - where ahead_max is 0, if it is full, so that it loses nothing by being formed early: for lanes
 *     that overlap copies with computing;
 *   - else if it is of another pool and those at the lane take, by themselves and with it, no
 *     longer than ahead_max: small batches of several pools run back to back, without a way to the
 *     loop and back between them.  A pool's own rows gather until its batch is back.
 * It is the policy's choice in either case; if that may not follow nobody does, so that the lane
 * becomes free for it. */
enum { HM_LANE_BATCHES_MAX = 8 };
/* What tasks of a class find put ahead of them after they were let in, as a part of what they wait in
 * the queue; beyond what is presumed (sched/predict.c). */
struct hm_lane_margin {
    double part;
    uint64_t turn; /* the lane's, when it last grew */
};
struct hm_lane { /* embedded in an implementation's own struct */
    const struct hm_lane_ops *ops;
    const char *device; /* "cpu"; the implementation's memory */
    struct hm_sched *sched;
    unsigned batches_max; /* at the lane at once: 1 by init, at most HM_LANE_BATCHES_MAX */
    hm_ns brief_max;      /* what the loop's thread may spend on its batches; 0 by init: nothing */
    hm_ns ahead_max;      /* what several batches at the lane may take together; 0 by init */
    /* the scheduler's */
    struct hm_link running; /* batches at the lane, oldest first */
    unsigned running_count;
    hm_ns expected;      /* that the running ones take by themselves */
    struct hm_link idle; /* batches not in use: one more than can run, while another's tasks end */
    struct hm_batch batch[HM_LANE_BATCHES_MAX + 1];
    struct hm_link ready;  /* pools with queued rows */
    struct hm_timer timer; /* the next look at the queues */
    uint64_t turns;        /* had by its lines so far */
    struct hm_lane_margin margin[HM_PRIORITIES];
    struct hm_buf *reserve;
    hm_ns freed; /* when its last batch came back */
    struct hm_link link;
};
struct hm_place;
/* The real lane: a thread in `place` (NULL: anywhere); `enter` (NULL: none) runs on it first, to
 * size the device's team. */
HM_MUST_CHECK enum hm_status hm_lane_thread_start(struct hm_sched *sched, const char *device,
                                                  const struct hm_place *place,
                                                  void (*enter)(void *arg), void *arg,
                                                  struct hm_lane **lane);
/* Stops its thread.  It must be idle and without pools; not inside an end(). */
void hm_lane_destroy(struct hm_lane *lane);
/* For lanes. */
void hm_lane_init(struct hm_lane *lane, const struct hm_lane_ops *ops, struct hm_sched *sched,
                  const char *device);
/* Lane thread: runs the batch, joins split tasks' rows, sets batch->status. */
void hm_batch_run(struct hm_batch *batch);
/* Loop thread: batch->status is set. */
void hm_lane_batch_done(struct hm_batch *batch);

#endif
