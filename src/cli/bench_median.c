/* cli/bench_median.c - the median of the rounds of a benchmark. */
#include "cli/bench.h"

#include "base/assert.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(const double *value, unsigned count)
{
    double sorted[BENCH_ROUNDS_MAX];
    unsigned kept = 0;
    HM_ASSERT(count <= BENCH_ROUNDS_MAX);
    for (unsigned i = 0; i < count; i++)
        if (!isnan(value[i])) sorted[kept++] = value[i];
    if (kept == 0) return NAN;
    qsort(sorted, kept, sizeof *sorted, by_value);
    return (sorted[(kept - 1) / 2] + sorted[kept / 2]) / 2;
}
