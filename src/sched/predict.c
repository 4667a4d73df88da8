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
 * it is learned how much does come: a lane keeps for each class a margin, the part of a task's time
 * that its prediction may not use.  A task that is given up in the queue raises it by a step, one
 * that has its turn in time lowers it by a four-hundredth of one: of what is let in, about that part
 * is given up.  A lane with nothing left to run halves it: nothing was ahead. */
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

static hm_ns wait_ahead(const struct hm_task *task, uint64_t rows, hm_ns now)
{
    const struct hm_pool *pool = task->pool;
    const struct hm_lane *lane = pool->conf.lane;
    const struct line *line = pool_line(task);
    uint64_t turns = batches_of(rows, pool->conf.batch_rows_max);
    hm_ns wait = lane_running_left(lane, now);
    HM_LIST_EACH (link, &lane->ready) {
        const struct hm_pool *other = HM_CONTAINER_OF(link, struct hm_pool, ready);
        if (other != pool) wait += other_pool(other, line->priority, turns);
    }
    return wait;
}

enum { KEPT_TO_BROKEN = 400 };
static const double margin_step = 0.1, margin_max = 0.5;

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

hm_ns hm_sched_predict(const struct hm_task *task)
{
    const struct hm_pool *pool = task->pool;
    if (!cost_trained(&pool->cost)) return 0;
    uint64_t rows = rows_until(task, pool_line(task));
    return wait_ahead(task, rows, hm_loop_now(pool->sched->loop)) +
           cost_rows(&pool->cost, rows, pool->conf.batch_rows_max);
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
    const struct line *line = pool_line(task);
    uint64_t rows = rows_until(task, line);
    hm_ns takes = wait_ahead(task, rows, now);
    if (pool->tasks_held > 0) takes += cost_rows(&pool->cost, rows, pool->conf.batch_rows_max);
    double usable = 1 - pool->conf.lane->margin[line->priority].part;
    return (double)takes > usable * (double)(task->deadline - now);
}
