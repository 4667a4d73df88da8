/* sched/predict.c - how long a task would take, from measured costs; whether to refuse it at once.
 *
 * A refusal is kinder than a deadline that passes in the queue: the caller asks another server
 * while there is time.  But an estimate can be stale, and only running renews it; so nothing is
 * refused on the estimate of a pool that has nothing to run.  The estimates of the pools ahead are
 * renewed by what they have queued.  What is not known counts as nothing. */
#include "sched/internal.h"

static hm_ns running_left(const struct hm_lane *lane, hm_ns now)
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

/* Until rows submitted now would start: what runs, and what is queued in pools that are as urgent
 * or more.  Less urgent ones may come first once they have aged; that is left to the margin. */
static hm_ns wait_ahead(const struct hm_pool *pool, hm_ns now)
{
    const struct hm_lane *lane = pool->conf.lane;
    hm_ns wait = running_left(lane, now);
    HM_LIST_EACH (link, &lane->ready) {
        const struct hm_pool *other = HM_CONTAINER_OF(link, struct hm_pool, ready);
        if (other == pool || other->conf.priority > pool->conf.priority) continue;
        wait += cost_rows(&other->cost, other->rows_queued, other->conf.batch_rows_max);
    }
    return wait;
}

static hm_ns own(const struct hm_pool *pool, uint32_t rows)
{
    return cost_rows(&pool->cost, (uint64_t)pool->rows_queued + rows, pool->conf.batch_rows_max);
}

hm_ns hm_sched_predict(const struct hm_pool *pool, uint32_t rows)
{
    if (!cost_trained(&pool->cost)) return 0;
    return wait_ahead(pool, hm_loop_now(pool->sched->loop)) + own(pool, rows);
}

bool sched_refuses(const struct hm_pool *pool, uint32_t rows, hm_ns deadline)
{
    hm_ns now = hm_loop_now(pool->sched->loop);
    if (deadline <= now) return true;
    if (deadline == HM_NS_NEVER) return false;
    hm_ns left = deadline - now;
    hm_ns takes = wait_ahead(pool, now) + (pool->tasks_held > 0 ? own(pool, rows) : 0);
    return takes > left && takes - left > left / 4;
}
