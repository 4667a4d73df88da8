/* base/histogram.c - log-linear buckets: values under 32 have one each, and each doubling above
 * has 32.
 *
 * A value v with highest bit e >= 5 lies in step (v >> (e - 5)) - 32 of doubling e - 4; 64 bits of
 * value need 60 groups of 32.  Counts and sums saturate instead of wrapping, so that a quantile of
 * a long-lived histogram stays in range. */
#include "base/histogram.h"

#include "base/assert.h"

#include <string.h>

enum { STEP_BITS = 5 };
_Static_assert(1 << STEP_BITS == HM_HISTOGRAM_STEPS, "a step is a shift");

static unsigned bucket_of(uint64_t value)
{
    if (value < HM_HISTOGRAM_STEPS) return (unsigned)value;
    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return (shift + 1) * HM_HISTOGRAM_STEPS + (unsigned)(value >> shift) - HM_HISTOGRAM_STEPS;
}

uint64_t hm_histogram_bucket_low(unsigned index)
{
    if (index < HM_HISTOGRAM_STEPS) return index;
    return (uint64_t)(HM_HISTOGRAM_STEPS + index % HM_HISTOGRAM_STEPS)
           << (index / HM_HISTOGRAM_STEPS - 1);
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    if (bucket < HM_HISTOGRAM_STEPS) return bucket;
    unsigned shift = bucket / HM_HISTOGRAM_STEPS - 1;
    return hm_histogram_bucket_low(bucket) + ((UINT64_C(1) << shift) - 1);
}

static uint64_t add_saturating(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

void hm_histogram_init(struct hm_histogram *histogram)
{
    memset(histogram, 0, sizeof *histogram);
    histogram->min = UINT64_MAX;
}

void hm_histogram_add(struct hm_histogram *histogram, uint64_t value)
{
    uint32_t *bucket = &histogram->bucket[bucket_of(value)];
    if (*bucket < UINT32_MAX) (*bucket)++;
    histogram->count++;
    histogram->sum = add_saturating(histogram->sum, value);
    if (value < histogram->min) histogram->min = value;
    if (value > histogram->max) histogram->max = value;
}

void hm_histogram_merge(struct hm_histogram *into, const struct hm_histogram *from)
{
    if (from->count == 0) return;
    for (unsigned i = 0; i < HM_HISTOGRAM_BUCKETS; i++) {
        uint64_t sum = (uint64_t)into->bucket[i] + from->bucket[i];
        into->bucket[i] = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
    }
    into->count += from->count;
    into->sum = add_saturating(into->sum, from->sum);
    if (from->min < into->min) into->min = from->min;
    if (from->max > into->max) into->max = from->max;
}

uint64_t hm_histogram_quantile(const struct hm_histogram *histogram, double quantile)
{
    HM_ASSERT(quantile >= 0.0 && quantile <= 1.0);
    if (histogram->count == 0) return 0;
    /* The smallest rank that leaves at most 1 - quantile of the values above it. */
    double wanted = quantile * (double)histogram->count;
    uint64_t rank = (uint64_t)wanted;
    if ((double)rank < wanted || rank == 0) rank++;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HM_HISTOGRAM_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen < rank) continue;
        uint64_t top = bucket_top(i);
        if (top < histogram->min) return histogram->min;
        return top < histogram->max ? top : histogram->max;
    }
    return histogram->max; /* only where a bucket has saturated */
}

double hm_histogram_mean(const struct hm_histogram *histogram)
{
    return histogram->count == 0 ? 0.0 : (double)histogram->sum / (double)histogram->count;
}
