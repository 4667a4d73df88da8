/* sched/sched.h - the Runtime: rows in, batches onto devices, rows out.  Knows neither sockets nor experts.
 *
 * A pool is one (expert, pass).  A task is some rows for one pool.  When a lane (one per device) is free the policy picks the
 * most urgent of that lane's pools, and its oldest tasks form a batch of at most batch_rows_max rows, never one more; a task
 * that does not fit is split over several batches and joined again.  The lane runs the batch (pool->run, on the lane's
 * thread) and hands it back by post.
 *
 *   submit ──► QUEUED ──(policy picks)──► RUNNING ──(last piece back)──► end(status, rows)
 *                │ deadline, cancel                 deadline, cancel: ends when its running pieces are back,
 *                └──► end(TIMED_OUT / CANCELED)     queued pieces are dropped; status TIMED_OUT / CANCELED
 *
 * Promises (hm_sched_check, tests): every accepted task ends exactly once; a batch never exceeds batch_rows_max; rows come
 * back in order and belong to their task; FIFO inside a pool and class; no pool waits for ever (oldest first);
 * queues are bounded in tasks and rows: HM_ERR_BUSY is said at once by submit.
 * Thread: everything but run belongs to the loop's thread.  end never runs inside submit or cancel. */
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

enum hm_priority { HM_PRIORITY_INFERENCE, HM_PRIORITY_TRAINING, HM_PRIORITY_BACKGROUND, HM_PRIORITIES };

/* Where a task's answer lies: count rows from row `first` of `slab`.  Reference it (hm_buf_get) to keep it past end(). */
struct hm_rows {
    struct hm_buf *slab;
    uint32_t first, count;
};

struct hm_task { /* caller's memory, until end() has run; the caller keeps the input rows alive until then */
    struct hm_pool *pool;
    uint32_t row_count; /* >= 1 */
    hm_ns deadline;
    void (*end)(struct hm_task *task, enum hm_status status, const struct hm_rows *out); /* out NULL unless HM_OK */
    void *arg;
    /* the scheduler's */
    struct hm_link link;
    hm_ns arrived;
    struct hm_timer timer;
    uint32_t rows_taken, rows_back; /* given to batches so far; come back so far */
    struct hm_buf *joined;          /* a split task's rows are gathered here */
    uint16_t state;
    enum hm_status failed; /* the first failure of its pieces */
};

/* A piece of a task in a batch: rows [task_first, task_first + count) of the task are rows [batch_first, ...) of the batch. */
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
    /* the scheduler's */
    enum hm_status status;
    hm_ns started;
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
    hm_ns batch_delay_max; /* a batch that is not full waits this long for more rows while nothing else is ready; 0: never */
    enum hm_priority priority;
    size_t out_row_bytes;
    /* Lane thread.  Gathers from its tasks' inputs, computes, fills out.  Its status is every piece's status. */
    enum hm_status (*run)(void *arg, struct hm_batch *batch);
    void *arg;
};

/* What a policy may see of a pool. */
struct hm_pool_view {
    uint32_t rows;          /* queued */
    hm_ns oldest;           /* arrival of its oldest task */
    hm_ns earliest_deadline;
    enum hm_priority priority;
    uint32_t batch_rows_max;
    hm_ns batch_delay_max;
};
struct hm_policy {
    const char *name;
    /* Index of the pool to run now, or -1: nothing to run before *again (HM_NS_NEVER: until a submit).  Pure. */
    int (*pick)(const struct hm_pool_view *pools, unsigned count, hm_ns now, hm_ns *again);
};
/* Priority class first, but aged: a class's oldest task counts as one class more urgent for every 100 ms it has waited;
 * inside a class the oldest task wins.  So no pool starves. */
extern const struct hm_policy hm_policy_oldest_first;

struct hm_sched_conf {
    struct hm_loop *loop;
    struct hm_buf_pool *buffers; /* batch outputs and joined rows */
    struct hm_metrics *metrics;  /* NULL: none */
    const struct hm_policy *policy; /* NULL: oldest first */
    unsigned pools_max;
};
HM_MUST_CHECK enum hm_status hm_sched_create(const struct hm_sched_conf *conf, struct hm_sched **sched);
/* Every task must have ended (hm_sched_drain first). */
void hm_sched_destroy(struct hm_sched *sched);
/* No more submits (HM_ERR_DRAINING); what is queued runs on; done is called when nothing is left. */
void hm_sched_drain(struct hm_sched *sched, void (*done)(void *arg), void *arg);

HM_MUST_CHECK enum hm_status hm_pool_create(struct hm_sched *sched, const struct hm_pool_conf *conf, struct hm_pool **pool);
void hm_pool_destroy(struct hm_pool *pool); /* no task of it may be left */
uint32_t hm_pool_rows_queued(const struct hm_pool *pool); /* queued or running */
/* HM_ERR_BUSY: its queue is full; HM_ERR_REFUSED: predicted to miss its deadline; HM_ERR_DRAINING.  Else end() will come. */
HM_MUST_CHECK enum hm_status hm_sched_submit(struct hm_sched *sched, struct hm_task *task);
/* end() still comes: HM_ERR_CANCELED, at once for what is queued and when its batch is back for what runs. */
void hm_sched_cancel(struct hm_task *task);
/* When `rows` submitted now to `pool` would be back: rows ahead of it on its lane times the measured cost; 0: unknown yet. */
hm_ns hm_sched_predict(const struct hm_pool *pool, uint32_t rows);
void hm_sched_check(const struct hm_sched *sched); /* asserts every invariant above; for tests and the simulator */

/* ---- lanes ---------------------------------------------------------------------------------------------------- */

/* A lane runs one batch after another.  lane_thread.c is the real one; sim/lane.c a timer with a cost model. */
struct hm_lane_ops {
    /* Takes a batch; calls hm_lane_batch_done(batch) on the loop thread when it has run, never inside launch. */
    void (*launch)(struct hm_lane *lane, struct hm_batch *batch);
    void (*destroy)(struct hm_lane *lane);
};
struct hm_lane {
    const struct hm_lane_ops *ops;
    const char *device; /* "cpu" */
    struct hm_sched *sched;
    struct hm_batch *running; /* NULL: free */
    struct hm_link link;
};
struct hm_place;
/* The real lane: a thread in `place`; `enter` (NULL: none) runs on it first, to size the device's team. */
HM_MUST_CHECK enum hm_status hm_lane_thread_start(struct hm_sched *sched, const char *device, const struct hm_place *place,
                                                  void (*enter)(void *arg), void *arg, struct hm_lane **lane);
void hm_lane_destroy(struct hm_lane *lane); /* stops its thread; it must be idle */
void hm_lane_init(struct hm_lane *lane, const struct hm_lane_ops *ops, struct hm_sched *sched, const char *device);
void hm_lane_batch_done(struct hm_batch *batch); /* for lanes: batch->status is set */

#endif
