/* sched/policy.c - which pool runs next: pure functions over what a policy may see. */
#include "sched/internal.h"

/* When the pool's next batch should start, if nothing else is ready. */
static hm_ns ready_at(const struct hm_pool_view *pool)
{
    if (pool->full || pool->batch_delay_max == 0) return pool->oldest;
    hm_ns at = pool->batch_delay_max > HM_NS_NEVER - pool->oldest
                   ? HM_NS_NEVER
                   : pool->oldest + pool->batch_delay_max;
    if (pool->earliest_deadline == HM_NS_NEVER) return at;
    /* A quarter more than it should take, and never the last moment; without a measure, half of the
     * task's life. */
    hm_ns life =
        pool->earliest_deadline > pool->oldest ? pool->earliest_deadline - pool->oldest : 0;
    hm_ns need = pool->service ? pool->service + pool->service / 4 : life / 2;
    hm_ns last = pool->earliest_deadline > need ? pool->earliest_deadline - need : 0;
    return at < last ? at : last;
}

/* Smaller is more urgent; each HM_AGING_NS of waiting is worth a class. */
static int64_t aged_class(const struct hm_pool_view *pool, hm_ns now)
{
    return (int64_t)pool->priority - (int64_t)((now - pool->oldest) / HM_AGING_NS);
}

static int oldest_first(const struct hm_pool_view *pools, unsigned count, hm_ns now, hm_ns *again)
{
    int best = -1;
    int64_t best_class = 0;
    hm_ns next = HM_NS_NEVER;
    for (unsigned i = 0; i < count; i++) {
        hm_ns at = ready_at(&pools[i]);
        if (at > now) {
            if (at < next) next = at;
            continue;
        }
        int64_t class = aged_class(&pools[i], now);
        if (best >= 0 &&
            (class > best_class || (class == best_class && pools[i].oldest >= pools[best].oldest)))
            continue;
        best = (int)i;
        best_class = class;
    }
    *again = best >= 0 ? now : next;
    return best;
}

const struct hm_policy hm_policy_oldest_first = {.name = "oldest_first", .pick = oldest_first};
