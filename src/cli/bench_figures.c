/* cli/bench_figures.c - figures of a round, medians, and how they are shown. */
#include "cli/bench_figures.h"

#include "cli/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const names[BENCH_FIGURES] = {
    [BENCH_ROWS] = "rows_per_second",
    [BENCH_CALLS] = "calls_per_second",
    [BENCH_SECONDS] = "seconds",
    [BENCH_MEAN_US] = "mean_us",
    [BENCH_P50_US] = "p50_us",
    [BENCH_P99_US] = "p99_us",
    [BENCH_P999_US] = "p999_us",
    [BENCH_MAX_US] = "max_us",
    [BENCH_CPU] = "cpu_seconds",
    [BENCH_CPU_SERVER] = "cpu_seconds_server",
    [BENCH_CPU_CLIENTS] = "cpu_seconds_clients",
    [BENCH_BYTES] = "bytes_on_wire",
    [BENCH_COPIES] = "copies_per_hop",
    [BENCH_ALLOCATIONS] = "allocations_per_call",
    [BENCH_BATCHES] = "batches",
    [BENCH_BATCH_ROWS] = "batch_rows_mean",
    [BENCH_BATCH_ROWS_P50] = "batch_rows_p50",
    [BENCH_BATCH_ROWS_P99] = "batch_rows_p99",
    [BENCH_BATCH_ROWS_MAX] = "batch_rows_max",
    [BENCH_RESIDENT_SERVER] = "resident_bytes_server",
    [BENCH_RESIDENT_CLIENTS] = "resident_bytes_clients",
    [BENCH_FAILED] = "calls_failed",
    [BENCH_STAGE_QUEUE] = "stage_queue_us",
    [BENCH_STAGE_WIRE] = "stage_wire_us",
    [BENCH_STAGE_ADMIT] = "stage_admit_us",
    [BENCH_STAGE_WAIT] = "stage_batch_wait_us",
    [BENCH_STAGE_COMPUTE] = "stage_compute_us",
    [BENCH_STAGE_REPLY] = "stage_reply_us",
    [BENCH_STAGE_RETURN] = "stage_return_us",
    [BENCH_LIMIT] = "limit",
    [BENCH_LIMIT_P99_US] = "limit_p99_us",
    [BENCH_LIMIT_TRAIN] = "limit_train",
    [BENCH_RATIO] = "ratio",
};
/* In the order in which a call meets them. */
static const struct {
    enum bench_figure figure;
    const char *metric, *text, *about;
} stages[] = {
    {BENCH_STAGE_QUEUE, "moe.queue_ns", "queue", "the client's: asked for until given to the wire"},
    {BENCH_STAGE_WIRE, "moe.wire_ns", "wire", "there and back: kernels, TLS or UCX, pulls"},
    {BENCH_STAGE_ADMIT, "moe.admit_ns", "admit", "arrived until queued"},
    {BENCH_STAGE_WAIT, "moe.batch_wait_ns", "batch wait", "queued until the lane begins"},
    {BENCH_STAGE_COMPUTE, "moe.compute_ns", "compute", "its batch on the lane"},
    {BENCH_STAGE_REPLY, "moe.reply_ns", "reply", "computed until given to the wire"},
    {BENCH_STAGE_RETURN, NULL, "return", "the answer is here until its caller has it"},
};

/* ---- of a round ------------------------------------------------------------------------------ */

static double since(const struct bench_round *round, const char *name)
{
    return (double)(bench_report_value(&round->after, name) -
                    bench_report_value(&round->before, name));
}

/* A byte of one plane, of those that pass the server: copied there, and by the clients likewise, whose
 * counters are of all their rounds. */
static double copies(const struct bench_round *round, const char *sent, const char *received,
                     const char *copied, double own)
{
    double server = since(round, sent) + since(round, received);
    double clients = (double)bench_report_value(&round->clients, sent) +
                     (double)bench_report_value(&round->clients, received);
    if (!(server > 0 && clients > 0)) return 0;
    return server * (own + since(round, copied) / server +
                     (double)bench_report_value(&round->clients, copied) / clients);
}

static void add_memory(double *value[], const struct bench_round *round, double calls)
{
    double bytes = *value[BENCH_BYTES];
    if (bytes > 0)
        *value[BENCH_COPIES] =
            (copies(round, "tcp.bytes_sent", "tcp.bytes_received", "tcp.bytes_copied", 2) +
             copies(round, "ucx.bytes_sent", "ucx.bytes_received", "ucx.bytes_copied", 1)) /
            bytes;
    if (calls > 0 && bench_report_value(&round->after, "heap_counted") > 0)
        *value[BENCH_ALLOCATIONS] = (since(round, "heap_asked") +
                                     (double)bench_report_value(&round->clients, "heap_asked")) /
                                    calls;
    *value[BENCH_RESIDENT_SERVER] = (double)bench_report_value(&round->after, "resident_bytes");
    *value[BENCH_RESIDENT_CLIENTS] = (double)bench_report_value(&round->clients, "resident_bytes");
}

static void add_batches(double *value[], const struct bench_round *round)
{
    static struct hm_histogram rows;
    bench_histogram_since(&rows, bench_report_find(&round->before, "sched.batch_rows"),
                          bench_report_find(&round->after, "sched.batch_rows"));
    *value[BENCH_BATCHES] = (double)rows.count;
    if (rows.count == 0) return;
    *value[BENCH_BATCH_ROWS] = hm_histogram_mean(&rows);
    *value[BENCH_BATCH_ROWS_P50] = (double)hm_histogram_quantile(&rows, 0.5);
    *value[BENCH_BATCH_ROWS_P99] = (double)hm_histogram_quantile(&rows, 0.99);
    *value[BENCH_BATCH_ROWS_MAX] = (double)hm_histogram_quantile(&rows, 1);
}

/* A pair of calls is two of those that are timed. */
static void add_stages(double *value[], const struct bench_round *round, double calls_a_pair)
{
    double rest = *value[BENCH_MEAN_US] / calls_a_pair;
    if (bench_report_find(&round->clients, "moe.wire_ns")->count == 0) return;
    for (unsigned i = 0; i < HM_COUNT_OF(stages); i++) {
        if (stages[i].metric) {
            const struct hm_histogram *ns = bench_report_find(&round->clients, stages[i].metric);
            *value[stages[i].figure] = hm_histogram_mean(ns) / 1e3;
            rest -= *value[stages[i].figure];
        } else {
            *value[stages[i].figure] = rest > 0 ? rest : 0;
        }
    }
}

void bench_figures_add(struct bench_figures *figures, const struct bench_conf *conf,
                       const struct bench_round *round)
{
    double *value[BENCH_FIGURES];
    for (unsigned i = 0; i < BENCH_FIGURES; i++) {
        value[i] = &figures->value[i][figures->rounds];
        *value[i] = NAN;
    }
    figures->rounds++;
    const struct hm_histogram *latency = bench_report_find(&round->clients, "latency_ns");
    double calls = (double)bench_report_value(&round->clients, "calls");
    double failed = (double)bench_report_value(&round->clients, "failed");
    double answered = (double)bench_report_value(&round->clients, "pairs") - failed;
    if (round->seconds > 0) {
        *value[BENCH_ROWS] = answered * conf->rows / round->seconds;
        *value[BENCH_CALLS] = calls / round->seconds;
    }
    *value[BENCH_SECONDS] = round->seconds;
    *value[BENCH_MEAN_US] = hm_histogram_mean(latency) / 1e3;
    *value[BENCH_P50_US] = (double)hm_histogram_quantile(latency, 0.5) / 1e3;
    *value[BENCH_P99_US] = (double)hm_histogram_quantile(latency, 0.99) / 1e3;
    *value[BENCH_P999_US] = (double)hm_histogram_quantile(latency, 0.999) / 1e3;
    *value[BENCH_MAX_US] = (double)latency->max / 1e3;
    *value[BENCH_CPU_SERVER] = since(round, "cpu_us") / 1e6;
    *value[BENCH_CPU_CLIENTS] = (double)bench_report_value(&round->clients, "cpu_us") / 1e6;
    *value[BENCH_CPU] = *value[BENCH_CPU_SERVER] + *value[BENCH_CPU_CLIENTS];
    *value[BENCH_BYTES] = since(round, "tcp.bytes_sent") + since(round, "tcp.bytes_received") +
                          since(round, "ucx.bytes_sent") + since(round, "ucx.bytes_received");
    add_memory(value, round, calls);
    *value[BENCH_FAILED] = failed;
    add_batches(value, round);
    add_stages(value, round, conf->backward ? 2 : 1);
}

/* ---- of all ---------------------------------------------------------------------------------- */

double bench_figure(const struct bench_figures *figures, enum bench_figure figure)
{
    return bench_median(figures->value[figure], figures->rounds);
}

/* From the end of the first round to the end of the last: 0.01 is one per cent. */
static double growth(const struct bench_figures *figures, enum bench_figure figure)
{
    const double *value = figures->value[figure];
    return value[figures->rounds - 1] / value[0] - 1;
}

void bench_figures_json(const struct bench_figures *figures, struct hm_json *json)
{
    for (unsigned i = 0; i < BENCH_FIGURES; i++) {
        double value = bench_figure(figures, i);
        if (!isnan(value)) hm_json_double(json, names[i], value);
    }
    if (figures->rounds < 2) return;
    hm_json_double(json, "resident_growth_server", growth(figures, BENCH_RESIDENT_SERVER));
    hm_json_double(json, "resident_growth_clients", growth(figures, BENCH_RESIDENT_CLIENTS));
}

void bench_figures_print_stages(const struct bench_figures *figures)
{
    enum { BAR = 30 };
    double sum = 0;
    for (unsigned i = 0; i < HM_COUNT_OF(stages); i++) {
        double mean = bench_figure(figures, stages[i].figure);
        if (!isnan(mean)) sum += mean;
    }
    if (!(sum > 0)) return;
    printf("  where the time of a call goes (means, us):\n");
    for (unsigned i = 0; i < HM_COUNT_OF(stages); i++) {
        double mean = bench_figure(figures, stages[i].figure);
        int length = (int)lround(mean / sum * BAR);
        printf("    %-10s %9.1f  %.*s%*s  %s\n", stages[i].text, mean, length,
               "##############################", BAR - length, "", stages[i].about);
    }
}
