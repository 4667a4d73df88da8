/* sched/predict.c - how long a task would take, from measured costs; whether to refuse it at once.
 *
 * A refusal is kinder than a deadline that passes in the queue: the caller asks another server
 * while there is time.  But an estimate can be stale, and only running renews it; so nothing is
 * refused on the estimate of a pool that has nothing to run.  The estimates of the pools ahead are
 * renewed by what they have queued.  What is not known counts as nothing.
 *
 * What comes between now and the task's turn can have its turn first: other clients' rows, other
 * pools', more urgent ones.  To count all that could come would refuse most of what is feasible; to
 * make a newcomer wait behind all that has been let in would give a flooding client the queue.  So
 * the time that it is predicted to wait in the queue is stretched, as if a part of what it waits for
 * were still to come: one part where others wait at the lane too, since they are likely to send
 * more, and a margin that is learned, for each lane and class.  A task that is given up in the queue
 * raises the margin by a step, one that has its turn in time lowers it by a 1600th of one: of what is
 * let in, about that part is given up.  A lane with nothing left to run halves it: nothing was
 * ahead. */
#include "sched/internal.h"

hm_ns lane_running_left(const struct hm_lane *lane, hm_ns now)
{
    hm_ns left = 0, since = lane->freed;
    HM_LIST_EACH (link, &lane->running) {
        const struct hm_batch *batch = HM_CONTAINER_OF(link, struct hm_batch, link);
        hm_ns takes = cost_batch(&batch->pool->cost, batch->row_count);
        hm_ns ran = 0;
        if (link == lane->running.next)
            ran = now - (batch->started > since ? batch->started : since);
        left += takes > ran ? takes - ran : 0;
    }
    return left;
}

static uint64_t batches_of(uint64_t rows, uint32_t batch_rows_max)
{
    return (rows + batch_rows_max - 1) / batch_rows_max;
}

/* What another pool's lines run while this one has `turns` of class `priority`: all of what is more
 * urgent, and of what is as urgent a batch a turn.  What is less urgent may come first once it has
 * aged; that is not counted. */
static hm_ns other_pool(const struct hm_pool *pool, unsigned priority, uint64_t turns)
{
    uint32_t rows_max = pool->conf.batch_rows_max, most = pool->line[priority].rows;
    uint64_t urgent = 0;
    for (unsigned i = 0; i < priority; i++) urgent += pool->line[i].rows;
    hm_ns all = cost_rows(&pool->cost, most, rows_max);
    hm_ns some = turns * cost_batch(&pool->cost, most < rows_max ? most : rows_max);
    return cost_rows(&pool->cost, urgent, rows_max) + (all < some ? all : some);
}

/* Rows that are given before it and with it, by its own pool. */
static uint64_t rows_until(const struct hm_task *task, const struct line *line)
{
    uint64_t rows = flow_rows_ahead(line, task->client, task->row_count) + task->row_count;
    for (unsigned i = 0; i < line->priority; i++) rows += task->pool->line[i].rows;
    return rows;
}

/* For what is queued at the other pools and has its turn before it. */
static hm_ns wait_queued(const struct hm_task *task, uint64_t rows)
{
    const struct hm_pool *pool = task->pool;
    const struct hm_lane *lane = pool->conf.lane;
    const struct line *line = pool_line(task);
    uint64_t turns = batches_of(rows, pool->conf.batch_rows_max);
    hm_ns wait = 0;
    HM_LIST_EACH (link, &lane->ready) {
        const struct hm_pool *other = HM_CONTAINER_OF(link, struct hm_pool, ready);
        if (other != pool) wait += other_pool(other, line->priority, turns);
    }
    return wait;
}

enum { KEPT_TO_BROKEN = 1600 };
static const double others_part = 0.4, margin_step = 0.1, margin_max = 0.25;

void margin_broken(const struct line *line)
{
    struct hm_lane *lane = line->pool->conf.lane;
    struct hm_lane_margin *margin = &lane->margin[line->priority];
    if (margin->part > 0 && margin->turn == lane->turns) return; /* of one cause */
    margin->turn = lane->turns;
    margin->part += margin_step;
    if (margin->part > margin_max) margin->part = margin_max;
}

void margin_kept(const struct line *line)
{
    struct hm_lane_margin *margin = &line->pool->conf.lane->margin[line->priority];
    margin->part -= margin_step / KEPT_TO_BROKEN;
    if (margin->part < 0) margin->part = 0;
}

void margin_idle(struct hm_lane *lane)
{
    for (unsigned i = 0; i < HM_PRIORITIES; i++) lane->margin[i].part /= 2;
}

/* Whether all that is queued at the lane is its client's, of whichever pool: nobody takes turns with
 * it. */
static bool is_alone(const struct hm_task *task)
{
    HM_LIST_EACH (link, &task->pool->conf.lane->ready) {
        const struct hm_pool *pool = HM_CONTAINER_OF(link, struct hm_pool, ready);
        uint32_t own = 0;
        for (unsigned i = pool->conf.priority; i < HM_PRIORITIES; i++) {
            const struct hm_flow *flow = flow_find(&pool->line[i], task->client);
            if (flow) own += flow->task_count;
        }
        if (own < pool->tasks_queued) return false;
    }
    return true;
}

/* What it waits in the queue if nothing comes -> what it is expected to. */
static double stretch(const struct hm_task *task, hm_ns waits)
{
    const struct hm_lane *lane = task->pool->conf.lane;
    double part = lane->margin[pool_line(task)->priority].part;
    return (double)waits / (1 - part - (is_alone(task) ? 0 : others_part));
}

hm_ns hm_sched_predict(const struct hm_task *task)
{
    const struct hm_pool *pool = task->pool;
    if (!cost_trained(&pool->cost)) return 0;
    uint64_t rows = rows_until(task, pool_line(task));
    return lane_running_left(pool->conf.lane, hm_loop_now(pool->sched->loop)) +
           wait_queued(task, rows) + cost_rows(&pool->cost, rows, pool->conf.batch_rows_max);
}

hm_ns hm_sched_load(const struct hm_pool *pool)
{
    const struct hm_lane *lane = pool->conf.lane;
    hm_ns load = lane_running_left(lane, hm_loop_now(pool->sched->loop));
    HM_LIST_EACH (link, &lane->ready) {
        const struct hm_pool *queued = HM_CONTAINER_OF(link, struct hm_pool, ready);
        load += cost_rows(&queued->cost, queued->rows_queued, queued->conf.batch_rows_max);
    }
    return load;
}

bool sched_refuses(const struct hm_task *task)
{
    const struct hm_pool *pool = task->pool;
    hm_ns now = hm_loop_now(pool->sched->loop);
    if (task->deadline <= now) return true;
    if (task->deadline == HM_NS_NEVER) return false;
    uint64_t rows = rows_until(task, pool_line(task));
    hm_ns sure = lane_running_left(pool->conf.lane, now), waits = wait_queued(task, rows);
    if (pool->tasks_held > 0) {
        uint32_t rows_max = pool->conf.batch_rows_max;
        hm_ns all = cost_rows(&pool->cost, rows, rows_max);
        hm_ns own = cost_batch(&pool->cost, rows < rows_max ? (uint32_t)rows : rows_max);
        sure += own;
        waits += all > own ? all - own : 0;
    }
    return (double)sure + stretch(task, waits) > (double)(task->deadline - now);
}
