/* sched/sched.h - the Runtime: rows in, batches onto devices, rows out.  No sockets, no experts.
 *
 * A pool is one (expert, pass).  A task is some rows for one pool.  When a lane (one per device) is
 * free the policy picks the most urgent of that lane's pools, and its oldest tasks form a batch of
 * at most batch_rows_max rows, never one more.  The lane runs the batch (pool->run, on the lane's
 * thread) and hands it back by post.  A lane that is busy lets rows gather: that is the batching;
 * batch_delay_max adds to it only where asked for.
 *
 * Splitting: a task of more than batch_rows_max rows is split over several batches, and its rows
 * are joined in a slab that submit takes (BUSY if it cannot be had), so that a split never fails
 * later.  A task that fits into one batch is never split: it waits for the next one if it does not
 * fit into this one.  So its answer is one piece of the batch's slab, sent without a copy; a
 * backward of it is one optimizer step and is never half applied; and while tasks wait, two batches
 * in a row have together more than batch_rows_max rows.
 *
 * Memory: a batch's output comes from the buffer pool.  If that is exhausted (slow readers hold
 * replies), the lane's own reserve is used, which hm_pool_create has set aside; while that is lent
 * too, the lane tries again every millisecond.  Rows of split tasks leave the reserve at once, so
 * tasks that hold slabs and wait for a batch cannot lock each other out.
 *
 *   submit ──► QUEUED ──(policy picks)──► RUNNING ──(last piece back)──► end(status, rows)
 *                │ deadline, cancel          │ deadline, cancel: ends when its running pieces are
 *                ▼                           ▼ back; rows not yet given to a batch are dropped
 *              end(TIMED_OUT / CANCELED)   end(TIMED_OUT / CANCELED)
 *
 * Promises (hm_sched_check, tests): every accepted task ends exactly once; a batch never exceeds
 * batch_rows_max; rows come back in order and belong to their task; FIFO inside a pool; queues are
 * bounded in tasks and rows: HM_ERR_BUSY is said at once by submit.  No pool waits for ever: the
 * head of a batch has never arrived HM_PRIORITIES aging steps (100 ms each) or more after the head
 * of a pool that could have run instead.
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
    /* Bytes of a row of its answer, where run makes it shorter than its pool's out_row_bytes; 0:
     * those.  Its rows lie one behind the other all the same, from where its piece's would begin. */
    size_t out_row_bytes;
    hm_ns deadline;
    /* out: NULL unless HM_OK */
    void (*end)(struct hm_task *task, enum hm_status status, const struct hm_rows *out);
    void *arg;
    /* the scheduler's: need not be zeroed */
    struct hm_link link;
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
    /* the scheduler's */
    enum hm_status status;
    hm_ns started;     /* given to the lane */
    hm_ns begun, done; /* run by the lane, on hm_loop_clock */
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
    /* A batch that is not full waits this long for more rows while no other pool is ready. */
    hm_ns batch_delay_max;
    enum hm_priority priority;
    size_t out_row_bytes;
    /* Lane thread.  Gathers from its tasks' inputs, computes, fills out.  Its status is every
     * piece's status. */
    enum hm_status (*run)(void *arg, struct hm_batch *batch);
    void *arg;
};

/* What a policy may see of a pool. */
struct hm_pool_view { /* of a pool with queued rows */
    uint32_t rows;    /* queued */
    bool full;        /* waiting would not make its next batch larger */
    hm_ns oldest;     /* arrival of its oldest task */
    hm_ns earliest_deadline;
    hm_ns service; /* its next batch would take this long; 0: unknown yet */
    enum hm_priority priority;
    uint32_t batch_rows_max;
    hm_ns batch_delay_max;
};
struct hm_policy {
    const char *name;
    /* Index of the pool to run now, or -1: nothing to run before *again (HM_NS_NEVER: until a
     * submit).  Pure. */
    int (*pick)(const struct hm_pool_view *pools, unsigned count, hm_ns now, hm_ns *again);
};
/* Priority class first, but aged: a pool's oldest task counts as one class more urgent for every
 * 100 ms it has waited; inside a class the oldest task wins.  So no pool starves.  A batch that is
 * not full waits out its pool's batch_delay_max, or until its earliest deadline leaves just its
 * service time, and only while no other pool is ready. */
#define HM_AGING_NS (100 * HM_MS)
extern const struct hm_policy hm_policy_oldest_first;

struct hm_sched_conf {
    struct hm_loop *loop;
    struct hm_buf_pool *buffers;    /* batch outputs and joined rows */
    struct hm_metrics *metrics;     /* NULL: none */
    const struct hm_policy *policy; /* NULL: oldest first */
    unsigned pools_max;
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
 * HM_ERR_BUSY      its queue is full, or a split task's slab cannot be had
 * HM_ERR_TOO_BIG   more rows than the queue ever takes
 * HM_ERR_REFUSED   the deadline has passed, or is predicted to be missed: only by a trained
 *                  estimate, by a margin of a quarter, and never on the service time of a pool that
 *                  is idle (its estimate may be stale: one task is let in to renew it)
 * HM_ERR_INVALID   no rows
 * HM_ERR_DRAINING */
HM_MUST_CHECK enum hm_status hm_sched_submit(struct hm_sched *sched, struct hm_task *task);
/* end() still comes: HM_ERR_CANCELED (or what it had failed with before), in the next turn for what
 * is queued and when its batch is back for what runs.  Nothing happens once end() has started, or
 * to a zeroed task that was never accepted: whoever holds several need not know which have ended. */
void hm_sched_cancel(struct hm_task *task);
/* How long `rows` submitted now to `pool` would take to be back: what runs on its lane, the rows
 * ahead in pools that are at least as urgent, and its own, at measured costs; 0: unknown yet. */
hm_ns hm_sched_predict(const struct hm_pool *pool, uint32_t rows);
/* Asserts every invariant above, between two turns of the loop; for tests and the simulator. */
void hm_sched_check(const struct hm_sched *sched);

/* ---- lanes ---------------------------------------------------------------------------------- */

/* A lane runs one batch after another.  lane_thread.c is the real one; sim/lane.c a timer with a
 * cost model. */
struct hm_lane_ops {
    /* Takes a batch: hm_batch_run(batch) on the lane's thread, then hm_lane_batch_done(batch) on
     * the loop thread, in the order of launching, never inside launch. */
    void (*launch)(struct hm_lane *lane, struct hm_batch *batch);
    void (*destroy)(struct hm_lane *lane); /* the lane is idle */
};
/* With one batch at a time rows gather until the lane is free.  A lane that overlaps copies with
 * computing takes two: the second only if it is full, so that it loses nothing by being formed
 * early. */
enum { HM_LANE_BATCHES_MAX = 2 };
struct hm_lane { /* embedded in an implementation's own struct */
    const struct hm_lane_ops *ops;
    const char *device; /* "cpu"; the implementation's memory */
    struct hm_sched *sched;
    unsigned batches_max; /* at the lane at once: 1 by init, at most HM_LANE_BATCHES_MAX */
    /* the scheduler's */
    struct hm_link running; /* batches at the lane, oldest first */
    unsigned running_count;
    struct hm_link idle; /* batches not in use: one more than can run, while another's tasks end */
    struct hm_batch batch[HM_LANE_BATCHES_MAX + 1];
    struct hm_link ready;  /* pools with queued rows */
    struct hm_timer timer; /* the next look at the queues */
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
