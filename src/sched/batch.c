/* sched/batch.c - from queues to batches and back.
 *
 *   look:  views of the lane's ready pools -> policy -> plan -> output slab -> take rows -> launch
 *   run:   (lane thread) the pool's function, then rows of split tasks into their slabs
 *   done:  measure -> give rows back -> look again, so that the lane works on -> end() of the tasks
 *
 * A plan only reads: if there is no slab for its output, nothing has to be undone, and the lane
 * looks again in a millisecond.  While the tasks of one batch end, the next one already runs: a
 * lane has one batch object more than it can run. */
#include "sched/internal.h"

#include <string.h>

static const hm_ns starved_retry = HM_MS;

/* ---- look ----------------------------------------------------------------------------------- */

static unsigned views_make(struct hm_lane *lane)
{
    struct hm_sched *sched = lane->sched;
    unsigned count = 0;
    HM_LIST_EACH (link, &lane->ready) {
        struct hm_pool *pool = HM_CONTAINER_OF(link, struct hm_pool, ready);
        const struct hm_task *head = HM_CONTAINER_OF(pool->queue.next, struct hm_task, link);
        uint32_t rows = pool->rows_queued < pool->conf.batch_rows_max ? pool->rows_queued
                                                                      : pool->conf.batch_rows_max;
        sched->viewed[count] = pool;
        sched->view[count++] = (struct hm_pool_view){
            .rows = pool->rows_queued,
            .full = rows == pool->conf.batch_rows_max || pool->tasks_queued >= HM_PIECES_MAX,
            .oldest = head->arrived,
            .earliest_deadline = pool_earliest_deadline(pool),
            .service = cost_batch(&pool->cost, rows),
            .priority = pool->conf.priority,
            .batch_rows_max = pool->conf.batch_rows_max,
            .batch_delay_max = pool->conf.batch_delay_max,
        };
    }
    return count;
}

/* Oldest first; a task that one batch could take is taken whole or not at all.  Those whose
 * deadline is due end by their timers in this turn. */
static void plan(struct hm_batch *batch, struct hm_pool *pool, hm_ns now)
{
    uint32_t room = pool->conf.batch_rows_max;
    batch->pool = pool;
    batch->piece_count = 0;
    batch->row_count = 0;
    HM_LIST_EACH (link, &pool->queue) {
        struct hm_task *task = HM_CONTAINER_OF(link, struct hm_task, link);
        uint32_t rows = task->row_count - task->rows_taken;
        if (room == 0 || batch->piece_count == HM_PIECES_MAX) break;
        if (task->deadline <= now) continue;
        if (rows > room) {
            if (task->row_count <= pool->conf.batch_rows_max) break;
            rows = room;
        }
        batch->piece[batch->piece_count++] = (struct hm_piece){.task = task,
                                                               .task_first = task->rows_taken,
                                                               .batch_first = batch->row_count,
                                                               .count = rows};
        batch->row_count += rows;
        room -= rows;
    }
}

static struct hm_buf *output_get(struct hm_lane *lane, size_t bytes)
{
    struct hm_buf *out;
    if (hm_buf_pool_get(lane->sched->buffers, bytes, &out) == HM_OK) return out;
    HM_ASSERT(lane->reserve && lane->reserve->bytes >= bytes);
    return lane->reserve->refs == 1 ? hm_buf_get(lane->reserve) : NULL;
}

static void launch(struct hm_lane *lane, struct hm_batch *batch, hm_ns now)
{
    struct hm_sched *sched = lane->sched;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        struct hm_task *task = batch->piece[i].task;
        if (task->rows_taken == 0) hm_histogram_add(&sched->wait_us, (now - task->arrived) / HM_US);
        pool_take(batch->pool, task, batch->piece[i].count);
    }
    batch->status = HM_OK;
    batch->started = batch->begun = batch->done = now;
    hm_list_push(&lane->running, &batch->link);
    lane->running_count++;
    lane->ops->launch(lane, batch);
}

/* False: nothing more to launch now; the timer looks again. */
static bool start(struct hm_lane *lane, struct hm_pool *pool, hm_ns now)
{
    struct hm_sched *sched = lane->sched;
    HM_ASSERT(!hm_list_empty(&lane->idle));
    struct hm_batch *batch = HM_CONTAINER_OF(lane->idle.next, struct hm_batch, link);
    plan(batch, pool, now);
    if (batch->piece_count == 0) { /* all are late; their timers are due before this one */
        hm_timer_start(sched->loop, &lane->timer, 0);
        return false;
    }
    batch->out = NULL;
    if (pool->conf.out_row_bytes > 0) {
        batch->out = output_get(lane, batch->row_count * pool->conf.out_row_bytes);
        if (!batch->out) {
            sched->metric[SCHED_STARVED].value++;
            hm_timer_start(sched->loop, &lane->timer, starved_retry);
            return false;
        }
    }
    hm_list_remove(&batch->link);
    launch(lane, batch, now);
    return true;
}

void lane_look(struct hm_lane *lane)
{
    struct hm_sched *sched = lane->sched;
    hm_ns now = hm_loop_now(sched->loop);
    while (lane->running_count < lane->batches_max) {
        unsigned count = views_make(lane);
        if (count == 0) return;
        hm_ns again = HM_NS_NEVER;
        int picked = sched->policy->pick(sched->view, count, now, &again);
        if (picked < 0) {
            HM_ASSERT(again > now);
            if (again != HM_NS_NEVER) hm_timer_start(sched->loop, &lane->timer, again - now);
            return;
        }
        HM_ASSERT((unsigned)picked < count);
        struct hm_pool *pool = sched->viewed[picked];
        /* Behind a running batch only a full one: rows for the others may still come. */
        if (lane->running_count > 0 && !sched->view[picked].full) return;
        if (!start(lane, pool, now)) return;
    }
}

/* ---- run ------------------------------------------------------------------------------------ */

void hm_batch_run(struct hm_batch *batch)
{
    const struct hm_pool_conf *conf = &batch->pool->conf;
    struct hm_loop *loop = batch->lane->sched->loop;
    batch->begun = hm_loop_clock(loop);
    batch->status = conf->run(conf->arg, batch);
    batch->done = hm_loop_clock(loop);
    if (batch->status != HM_OK || !batch->out) return;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        size_t row_bytes = task_out_row_bytes(piece->task);
        if (!piece->task->joined) continue;
        memcpy((char *)piece->task->joined->base + piece->task_first * row_bytes,
               (const char *)batch->out->base + piece->batch_first * conf->out_row_bytes,
               piece->count * row_bytes);
    }
}

/* ---- done ----------------------------------------------------------------------------------- */

static void measure(struct hm_lane *lane, struct hm_batch *batch)
{
    struct hm_sched *sched = lane->sched;
    hm_ns now = hm_loop_now(sched->loop);
    hm_ns service = now - (batch->started > lane->freed ? batch->started : lane->freed);
    lane->freed = now;
    sched->metric[SCHED_BATCHES].value++;
    sched->metric[SCHED_ROWS].value += batch->row_count;
    hm_histogram_add(&sched->batch_rows, batch->row_count);
    hm_histogram_add(&sched->service_us, service / HM_US);
    if (batch->status == HM_OK) cost_add(&batch->pool->cost, batch->row_count, service);
}

/* Leaves in the batch only the pieces whose tasks are complete: those are ENDING, and only this
 * batch ends them. */
static void give_back(struct hm_batch *batch)
{
    for (unsigned i = 0; i < batch->piece_count; i++) {
        struct hm_task *task = batch->piece[i].task;
        if (task->rows_back == 0) task->begun = batch->begun;
        task->done = batch->done;
        task->rows_back += batch->piece[i].count;
        HM_ASSERT(task->rows_back <= task->rows_taken);
        if (batch->status != HM_OK) task_fail(task, batch->status);
        if (task->state == TASK_RUNNING && !task_out(task)) task->state = TASK_ENDING;
        if (task->state != TASK_ENDING) batch->piece[i].task = NULL;
    }
}

void hm_lane_batch_done(struct hm_batch *batch)
{
    struct hm_lane *lane = batch->lane;
    HM_ASSERT(lane->running.next == &batch->link); /* lanes keep the order */
    hm_list_remove(&batch->link);
    lane->running_count--;
    measure(lane, batch);
    give_back(batch);
    lane_look(lane);
    for (unsigned i = 0; i < batch->piece_count; i++)
        if (batch->piece[i].task)
            task_end(batch->piece[i].task, batch->out, batch->piece[i].batch_first);
    hm_buf_put(batch->out);
    batch->out = NULL;
    hm_list_push(&lane->idle, &batch->link);
}
