/* cli/bench_report.h - what a process of a benchmark has counted, as lines of text between it and
 * the conductor.
 *
 *   counter calls 12345
 *   histogram latency_ns 12345 987654321 18000 950000 450:3 451:17 ...
 *   end
 *
 * Histograms come whole (sum, min, max, and each bucket that is not empty), so that those of many
 * processes merge truly. */
#ifndef HM_CLI_BENCH_REPORT_H
#define HM_CLI_BENCH_REPORT_H

#include "base/histogram.h"
#include "base/metrics.h"
#include "cli/child.h"

#include <stdio.h>

void bench_report_counter(FILE *to, const char *name, uint64_t value);
void bench_report_histogram(FILE *to, const char *name, const struct hm_histogram *histogram);
/* Every metric of the registry, those of a name one after another. */
void bench_report_metrics(FILE *to, const struct hm_metrics *metrics);
/* What the process has used so far. */
struct bench_usage {
    uint64_t cpu_us;
    uint64_t heap_asked; /* malloc and its kin; counted where perf-count_heap.so is loaded */
};
void bench_usage_read(struct bench_usage *usage);
/* The process' own: resident_bytes; cpu_us and, if counted, heap_asked since `before`, heap_counted. */
void bench_report_process(FILE *to, const struct bench_usage *before);
void bench_report_end(FILE *to);

enum { BENCH_COUNTERS_MAX = 160, BENCH_HISTOGRAMS_MAX = 32, BENCH_NAME_BYTES = 48 };
struct bench_report { /* 256 KiB */
    struct {
        char name[BENCH_NAME_BYTES];
        uint64_t value;
    } counter[BENCH_COUNTERS_MAX];
    struct {
        char name[BENCH_NAME_BYTES];
        struct hm_histogram histogram;
    } histogram[BENCH_HISTOGRAMS_MAX];
    unsigned counter_count, histogram_count;
    char status[32]; /* of what failed last; "": nothing did */
};
/* Adds what the process says until "end"; counters and histograms of one name are summed.
 * HM_ERR_TIMED_OUT; HM_ERR_PEER_RESET: it has ended; HM_ERR_CORRUPT. */
HM_MUST_CHECK enum hm_status bench_report_read(struct bench_report *report, struct child *child,
                                               hm_ns timeout);
/* 0, or an empty one, where there is none. */
uint64_t bench_report_value(const struct bench_report *report, const char *name);
const struct hm_histogram *bench_report_find(const struct bench_report *report, const char *name);
/* What came between two reports of one process.  Its min and max are those of `after`. */
void bench_histogram_since(struct hm_histogram *difference, const struct hm_histogram *before,
                           const struct hm_histogram *after);

#endif
