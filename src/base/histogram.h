/* base/histogram.h - fixed-memory histogram of 64-bit values: log-linear, 32 steps a doubling
 * (under 3.2 % error), after HdrHistogram.  Recording is a shift and an add. */
#ifndef HM_BASE_HISTOGRAM_H
#define HM_BASE_HISTOGRAM_H

#include <stdint.h>

enum { HM_HISTOGRAM_STEPS = 32, HM_HISTOGRAM_BUCKETS = 60 * HM_HISTOGRAM_STEPS };
struct hm_histogram {
    uint64_t count, sum, min, max;
    uint32_t bucket[HM_HISTOGRAM_BUCKETS];
};

void hm_histogram_init(struct hm_histogram *histogram);
void hm_histogram_add(struct hm_histogram *histogram, uint64_t value);
void hm_histogram_merge(struct hm_histogram *into, const struct hm_histogram *from);
/* `quantile` in [0, 1]; 0 if the histogram is empty. */
uint64_t hm_histogram_quantile(const struct hm_histogram *histogram, double quantile);
/* The smallest value that is counted in bucket[index]. */
uint64_t hm_histogram_bucket_low(unsigned index);
double hm_histogram_mean(const struct hm_histogram *histogram);

#endif
