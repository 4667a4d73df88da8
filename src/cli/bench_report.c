/* cli/bench_report.c - counters and histograms of a benchmark's process, written and read. */
#include "cli/bench_report.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- writing --------------------------------------------------------------------------------- */

void bench_report_counter(FILE *to, const char *name, uint64_t value)
{
    fprintf(to, "counter %s %" PRIu64 "\n", name, value);
}

void bench_report_histogram(FILE *to, const char *name, const struct hm_histogram *histogram)
{
    fprintf(to, "histogram %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, name, histogram->count,
            histogram->sum, histogram->min, histogram->max);
    for (unsigned i = 0; i < HM_HISTOGRAM_BUCKETS; i++)
        if (histogram->bucket[i] > 0) fprintf(to, " %u:%" PRIu32, i, histogram->bucket[i]);
    fprintf(to, "\n");
}

static void report_metric(void *arg, const struct hm_metric *metric)
{
    FILE *to = arg;
    if (metric->kind == HM_HISTOGRAM)
        bench_report_histogram(to, metric->name, metric->histogram);
    else
        bench_report_counter(to, metric->name, metric->value);
}

void bench_report_metrics(FILE *to, const struct hm_metrics *metrics)
{
    hm_metrics_each(metrics, report_metric, to);
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

typedef uint64_t (*heap_asked)(void);
static heap_asked heap_counter(void)
{
    heap_asked counter;
    void *found = dlsym(RTLD_DEFAULT, "hm_heap_asked");
    memcpy(&counter, &found, sizeof(counter)); /* POSIX: they are of one size */
    return counter;
}

void bench_usage_read(struct bench_usage *usage)
{
    struct rusage own;
    heap_asked heap = heap_counter();
    *usage = (struct bench_usage){.heap_asked = heap ? heap() : 0};
    if (getrusage(RUSAGE_SELF, &own)) return;
    usage->cpu_us = microseconds(own.ru_utime) + microseconds(own.ru_stime);
}

void bench_report_process(FILE *to, const struct bench_usage *before)
{
    struct bench_usage now; /* first: what reporting takes is not the work's */
    bench_usage_read(&now);
    unsigned long long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm && fscanf(statm, "%*u %llu", &pages) != 1) pages = 0;
    if (statm) fclose(statm);
    bench_report_counter(to, "resident_bytes", pages * (uint64_t)sysconf(_SC_PAGESIZE));
    bench_report_counter(to, "cpu_us", now.cpu_us - before->cpu_us);
    if (!heap_counter()) return;
    bench_report_counter(to, "heap_asked", now.heap_asked - before->heap_asked);
    bench_report_counter(to, "heap_counted", 1);
}

void bench_report_end(FILE *to)
{
    fprintf(to, "end\n");
    fflush(to);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool add_counter(struct bench_report *report, const char *name, const char *text)
{
    uint64_t value;
    if (sscanf(text, "%" SCNu64, &value) != 1) return false;
    for (unsigned i = 0; i < report->counter_count; i++)
        if (strcmp(report->counter[i].name, name) == 0) {
            report->counter[i].value += value;
            return true;
        }
    if (report->counter_count == BENCH_COUNTERS_MAX) return false;
    strcpy(report->counter[report->counter_count].name, name); /* as long as it was read */
    report->counter[report->counter_count++].value = value;
    return true;
}

static bool add_histogram(struct bench_report *report, const char *name, const char *text)
{
    static struct hm_histogram read; /* this program has one thread here */
    unsigned bucket, i = 0;
    int used = 0;
    hm_histogram_init(&read);
    if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 "%n", &read.count, &read.sum,
               &read.min, &read.max, &used) != 4)
        return false;
    for (text += used; *text; text += used) {
        uint32_t count;
        if (sscanf(text, " %u:%" SCNu32 "%n", &bucket, &count, &used) != 2) return false;
        if (bucket >= HM_HISTOGRAM_BUCKETS) return false;
        read.bucket[bucket] = count;
    }
    while (i < report->histogram_count && strcmp(report->histogram[i].name, name) != 0) i++;
    if (i == BENCH_HISTOGRAMS_MAX) return false;
    if (i == report->histogram_count) {
        strcpy(report->histogram[i].name, name);
        hm_histogram_init(&report->histogram[i].histogram);
        report->histogram_count++;
    }
    hm_histogram_merge(&report->histogram[i].histogram, &read);
    return true;
}

enum hm_status bench_report_read(struct bench_report *report, struct child *child, hm_ns timeout)
{
    static char line[CHILD_LINE_BYTES];
    for (;;) {
        char name[BENCH_NAME_BYTES];
        int used = 0;
        enum hm_status status = child_line(child, timeout, line, sizeof line);
        if (status) return status;
        if (strcmp(line, "end") == 0) return HM_OK;
        if (sscanf(line, "status %31s", report->status) == 1) continue;
        bool good = false;
        if (sscanf(line, "counter %47s %n", name, &used) == 1)
            good = add_counter(report, name, line + used);
        else if (sscanf(line, "histogram %47s %n", name, &used) == 1)
            good = add_histogram(report, name, line + used);
        if (!good) return HM_ERR_CORRUPT;
    }
}

uint64_t bench_report_value(const struct bench_report *report, const char *name)
{
    for (unsigned i = 0; i < report->counter_count; i++)
        if (strcmp(report->counter[i].name, name) == 0) return report->counter[i].value;
    return 0;
}

const struct hm_histogram *bench_report_find(const struct bench_report *report, const char *name)
{
    static const struct hm_histogram nothing;
    for (unsigned i = 0; i < report->histogram_count; i++)
        if (strcmp(report->histogram[i].name, name) == 0) return &report->histogram[i].histogram;
    return &nothing;
}

void bench_histogram_since(struct hm_histogram *difference, const struct hm_histogram *before,
                           const struct hm_histogram *after)
{
    *difference = *after;
    difference->count -= before->count;
    difference->sum -= before->sum;
    for (unsigned i = 0; i < HM_HISTOGRAM_BUCKETS; i++) difference->bucket[i] -= before->bucket[i];
}
