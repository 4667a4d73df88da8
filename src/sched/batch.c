/* sched/batch.c - from queues to batches and back.
 *
 *   look:  views of the lines with tasks -> policy -> take rows, clients in turn -> output slab -> launch
 *   run:   (lane thread) the pool's function, then rows of split tasks into their slabs
 *   done:  measure -> give rows back -> look again, so that the lane works on -> end() of the tasks
 *
 * Nothing is taken unless its output is sure of a place: the reserve, or a slab for the largest batch
 * that it can be.  Where there is neither, the lane looks again in a millisecond.  While the tasks
 * of one batch end, the next one already runs: a lane has one batch object more than it can run. */
#include "sched/internal.h"

#include <string.h>

static const hm_ns starved_retry = HM_MS;
/* With a weight of 1/16 one such sample alone does not take a short pool from the loop, and three in a
 * row do. */
enum { BRIEF_SAMPLE_MAX = 8 };

/* ---- look ----------------------------------------------------------------------------------- */

static void view_make(struct line *line, struct hm_line_view *view)
{
    struct hm_pool *pool = line->pool;
    const struct hm_pool_conf *conf = &pool->conf;
    bool full = pool->rows_queued >= conf->batch_rows_max || pool->tasks_queued >= HM_PIECES_MAX;
    bool may_wait = !full && conf->batch_delay_max > 0;
    *view = (struct hm_line_view){
        .priority = line->priority,
        .oldest = HM_CONTAINER_OF(line->tasks.next, struct hm_task, link)->arrived,
        .picked = line->picked,
        .turn = line->turn,
        .rows = pool->rows_queued,
        .full = full,
        .earliest_deadline = may_wait ? pool_earliest_deadline(pool) : HM_NS_NEVER,
        .service = may_wait ? cost_batch(&pool->cost, pool->rows_queued) : 0,
        .batch_rows_preferred = conf->batch_rows_preferred,
        .batch_delay_max = conf->batch_delay_max,
    };
}

static unsigned views_make(struct hm_lane *lane)
{
    struct hm_sched *sched = lane->sched;
    unsigned count = 0;
    HM_LIST_EACH (link, &lane->ready) {
        struct hm_pool *pool = HM_CONTAINER_OF(link, struct hm_pool, ready);
        for (unsigned i = pool->conf.priority; i < HM_PRIORITIES; i++) {
            if (pool->line[i].task_count == 0) continue;
            sched->viewed[count] = &pool->line[i];
            view_make(&pool->line[i], &sched->view[count++]);
        }
    }
    return count;
}

/* That the pool's next batch may have. */
static uint32_t rows_next(const struct hm_pool *pool)
{
    return pool->rows_queued < pool->conf.batch_rows_max ? pool->rows_queued
                                                         : pool->conf.batch_rows_max;
}

/* The line's tasks, then those of the pool's other lines into what room is left. */
static void form(struct hm_batch *batch, struct line *line, hm_ns now)
{
    struct hm_pool *pool = line->pool;
    hm_ns service = cost_batch(&pool->cost, rows_next(pool));
    if (service > 0)
        service += cost_deviation(&pool->cost) + lane_running_left(pool->conf.lane, now);
    batch->pool = pool;
    batch->piece_count = 0;
    batch->row_count = 0;
    line_fill(line, batch, now, service);
    for (unsigned i = pool->conf.priority; i < HM_PRIORITIES; i++)
        if (&pool->line[i] != line) line_fill(&pool->line[i], batch, now, service);
}

bool lane_takes_more(const struct hm_lane *lane)
{
    if (lane->running_count == 0) return true;
    if (lane->running_count >= lane->batches_max) return false;
    return lane->ahead_max == 0 || lane->expected < lane->ahead_max;
}

/* Whether the line's batch may be handed over behind those that run. */
static bool may_follow(const struct hm_lane *lane, const struct line *line, bool full)
{
    if (lane->ahead_max == 0) return full;
    const struct hm_pool *pool = line->pool;
    HM_LIST_EACH (link, &lane->running)
        if (HM_CONTAINER_OF(link, struct hm_batch, link)->pool == pool) return false;
    hm_ns takes = cost_at_most(&pool->run, rows_next(pool));
    return takes > 0 && takes <= lane->ahead_max - lane->expected;
}

static struct hm_buf *output_get(struct hm_lane *lane, size_t bytes)
{
    struct hm_buf *out;
    return hm_buf_pool_get(lane->sched->buffers, bytes, &out) == HM_OK ? out : NULL;
}

/* Whether all that is queued at the lane is sooner done here than handed over.  Asked for the
 * largest batch, so that the pool's answer holds for whichever is formed. */
static bool all_brief(const struct hm_lane *lane)
{
    hm_ns total = 0;
    if (lane->brief_max == 0 || lane->running_count > 0) return false;
    HM_LIST_EACH (link, &lane->ready) {
        const struct hm_pool *pool = HM_CONTAINER_OF(link, struct hm_pool, ready);
        const struct hm_pool_conf *conf = &pool->conf;
        if (!conf->may_be_brief || pool->rows_queued > conf->batch_rows_max) return false;
        hm_ns takes = cost_at_most(&pool->run, pool->rows_queued);
        total += takes;
        if (takes == 0 || total > lane->brief_max) return false;
        if (!conf->may_be_brief(conf->arg, pool->rows_queued)) return false;
    }
    return true;
}

/* For what follows it; a brief one is back at once, and nothing is known to follow it. */
static hm_ns expect(const struct hm_lane *lane, const struct hm_batch *batch)
{
    hm_ns takes = batch->brief ? 0 : cost_at_most(&batch->pool->run, batch->row_count);
    return takes > 0 && takes < lane->ahead_max ? takes : lane->ahead_max;
}

static void launch(struct hm_lane *lane, struct hm_batch *batch, hm_ns now)
{
    struct hm_sched *sched = lane->sched;
    for (unsigned i = 0; i < batch->piece_count; i++)
        if (batch->piece[i].task_first == 0)
            hm_histogram_add(&sched->wait_us, (now - batch->piece[i].task->arrived) / HM_US);
    if (batch->brief) sched->metric[SCHED_BRIEF].value++;
    batch->status = HM_OK;
    batch->started = batch->begun = batch->done = now;
    hm_list_remove(&batch->link);
    hm_list_push(&lane->running, &batch->link);
    lane->running_count++;
    batch->expected = expect(lane, batch);
    lane->expected += batch->expected;
    if (lane->running_count > 1) sched->metric[SCHED_FOLLOWED].value++;
    lane->ops->launch(lane, batch);
}

/* False: nothing more to launch now; the timer looks again. */
static bool start(struct hm_lane *lane, struct line *line, hm_ns now)
{
    struct hm_sched *sched = lane->sched;
    const struct hm_pool_conf *conf = &line->pool->conf;
    HM_ASSERT(!hm_list_empty(&lane->idle));
    struct hm_batch *batch = HM_CONTAINER_OF(lane->idle.next, struct hm_batch, link);
    bool reserved = conf->out_row_bytes == 0 || lane->reserve->refs == 1;
    /* Rows that are taken must have a place to go to: without the reserve, find it first. */
    batch->out = reserved ? NULL : output_get(lane, rows_next(line->pool) * conf->out_row_bytes);
    if (!reserved && !batch->out) {
        sched->metric[SCHED_STARVED].value++;
        hm_timer_start(sched->loop, &lane->timer, starved_retry);
        return false;
    }
    batch->brief = all_brief(lane);
    form(batch, line, now);
    if (batch->piece_count == 0) { /* all were late, and end in the next turn */
        hm_buf_put(batch->out);
        batch->out = NULL;
        hm_timer_start(sched->loop, &lane->timer, 0);
        return false;
    }
    line->turn = ++lane->turns;
    line->picked = now;
    if (conf->out_row_bytes > 0 && !batch->out)
        batch->out = output_get(lane, batch->row_count * conf->out_row_bytes);
    if (conf->out_row_bytes > 0 && !batch->out) batch->out = hm_buf_get(lane->reserve);
    launch(lane, batch, now);
    return true;
}

void lane_look(struct hm_lane *lane)
{
    struct hm_sched *sched = lane->sched;
    hm_ns now = hm_loop_now(sched->loop);
    while (lane_takes_more(lane)) {
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
        struct line *line = sched->viewed[picked];
        if (lane->running_count > 0 && !may_follow(lane, line, sched->view[picked].full)) return;
        if (!start(lane, line, now)) return;
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

/* What a batch takes by itself.  One that was interrupted for long tells little about the next. */
static void measure_run(struct hm_lane *lane, struct hm_batch *batch)
{
    hm_ns took = batch->done - batch->begun, most = BRIEF_SAMPLE_MAX * lane->brief_max;
    if (most < 2 * lane->ahead_max) most = 2 * lane->ahead_max;
    if (most > 0) cost_add(&batch->pool->run, batch->row_count, took < most ? took : most);
}

static void measure(struct hm_lane *lane, struct hm_batch *batch)
{
    struct hm_sched *sched = lane->sched;
    hm_ns end = hm_loop_now(sched->loop);
    hm_ns since = batch->started > lane->freed ? batch->started : lane->freed;
    /* Of several that ran back to back the loop can hear late, and in one turn. */
    if (lane->running_count > 0 && batch->done < end) end = batch->done;
    hm_ns service = end > since ? end - since : 0;
    lane->freed = end;
    sched->metric[SCHED_BATCHES].value++;
    sched->metric[SCHED_ROWS].value += batch->row_count;
    hm_histogram_add(&sched->batch_rows, batch->row_count);
    hm_histogram_add(&sched->service_us, service / HM_US);
    if (batch->status != HM_OK) return;
    cost_add(&batch->pool->cost, batch->row_count, service);
    measure_run(lane, batch);
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
    lane->expected -= batch->expected;
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
