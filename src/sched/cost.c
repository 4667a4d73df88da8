/* sched/cost.c - how long a batch of a pool takes: measured, smoothed, predicted for other sizes.
 *
 * The model is a line (a batch's own cost: launch, weights from memory, the optimizer's pass; and a
 * cost per row), fitted with exponentially falling weights.  Where the sizes seen do not tell the
 * two apart, it errs towards too little: refusing a call that would have been in time is worse than
 * accepting one that will not, since nobody learns from the former. */
#include "sched/internal.h"

static const uint32_t trained_samples = 8;
static const double newest_weight = 1.0 / 16;

void cost_add(struct cost *cost, uint32_t rows, hm_ns ns)
{
    if (cost->samples < UINT32_MAX) cost->samples++;
    double weight = 1.0 / cost->samples; /* a plain mean until there are enough */
    if (weight < newest_weight) weight = newest_weight;
    if (cost_trained(cost)) {
        double off = (double)ns - (double)cost_batch(cost, rows);
        cost->deviation_ns += newest_weight * ((off < 0 ? -off : off) - cost->deviation_ns);
    }
    double rows_off = rows - cost->mean_rows, ns_off = (double)ns - cost->mean_ns;
    cost->mean_rows += weight * rows_off;
    cost->mean_ns += weight * ns_off;
    /* West's update of weighted moments (Communications of the ACM 22, 1979) with constant
     * decay. */
    cost->variance_rows = (1 - weight) * (cost->variance_rows + weight * rows_off * rows_off);
    cost->covariance = (1 - weight) * (cost->covariance + weight * rows_off * ns_off);
}

bool cost_trained(const struct cost *cost)
{
    return cost->samples >= trained_samples;
}

hm_ns cost_batch(const struct cost *cost, uint32_t rows)
{
    if (!cost_trained(cost)) return 0;
    double ns;
    if (cost->variance_rows > 0.01 * cost->mean_rows * cost->mean_rows) {
        double slope = cost->covariance / cost->variance_rows;
        if (slope < 0) slope = 0;
        double fixed = cost->mean_ns - slope * cost->mean_rows;
        if (fixed < 0) {
            fixed = 0;
            slope = cost->mean_ns / cost->mean_rows;
        }
        ns = fixed + slope * rows;
    } else {
        /* One size only: fewer rows may be as much cheaper as they are fewer, more rows may cost
         * nothing more. */
        ns = rows < cost->mean_rows ? cost->mean_ns * rows / cost->mean_rows : cost->mean_ns;
    }
    return ns < 1 ? 1 : (hm_ns)ns;
}

hm_ns cost_at_most(const struct cost *cost, uint32_t rows)
{
    if (!cost_trained(cost)) return 0;
    bool line = cost->variance_rows > 0.01 * cost->mean_rows * cost->mean_rows;
    double most = (double)cost_batch(cost, rows);
    if (!line && most < cost->mean_ns) most = cost->mean_ns;
    double by_rows = cost->mean_ns * rows / cost->mean_rows;
    if (rows > cost->mean_rows && most < by_rows) most = by_rows;
    return (hm_ns)(most + cost->deviation_ns);
}

hm_ns cost_deviation(const struct cost *cost)
{
    return (hm_ns)cost->deviation_ns;
}

hm_ns cost_rows(const struct cost *cost, uint64_t rows, uint32_t batch_rows_max)
{
    uint32_t rest = (uint32_t)(rows % batch_rows_max);
    return rows / batch_rows_max * cost_batch(cost, batch_rows_max) +
           (rest ? cost_batch(cost, rest) : 0);
}
