/* cli/bench_limit.c - choosing the raw program of a benchmark, running it, and the ratio.
 *
 *   nop       the rows of a call echoed: over OpenSSL (perf-raw_tls_echo), over UCX
 *             (perf-raw_ucx_echo); "bulk" where each client is a process of its own with calls that
 *             are worth a thread, else "single", whose row is a whole call of ours
 *   latency   the same, one call at a time
 *   ffn       perf-raw_ffn at the sizes of the batches that our round formed, so only after it; a
 *             pair of calls is a forward pass, and one with gradients and Adam.  Of bf16, f32's
 *             where the CPU has no bf16 products: ours multiply in f32 there as well */
#include "cli/bench_limit.h"

#include "cli/bench_raw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BULK_BYTES = 32 << 10, ARGUMENTS_MAX = 16, SIZES_MAX = 12, BATCHES_A_LIST = 24 };

static size_t call_bytes(const struct bench_conf *conf)
{
    return (size_t)conf->rows * conf->hidden * sizeof(float);
}

static const char *program_of(const struct bench_conf *conf, enum bench_goal goal)
{
    if (strcmp(conf->kind, "nop_delay") == 0) return NULL; /* nothing raw sleeps as it does */
    if (strcmp(conf->kind, "ffn") == 0) return goal == BENCH_LATENCY ? NULL : "raw_ffn";
    if (conf->backward) return NULL;
    return strcmp(conf->transport, "ucx") == 0 ? "raw_ucx_echo" : "raw_tls_echo";
}

void bench_limit_init(struct bench_limit *limit, const struct bench_conf *conf,
                      enum bench_goal goal)
{
    const char *program = program_of(conf, goal);
    *limit = (struct bench_limit){.conf = conf, .goal = goal, .dtype = conf->dtype};
    if (!conf->limit)
        snprintf(limit->why, sizeof(limit->why), "not asked for");
    else if (!program)
        snprintf(limit->why, sizeof(limit->why), "no raw program does this work");
    else if (!bench_raw_there(program))
        snprintf(limit->why, sizeof(limit->why),
                 "perf-%s is not built (cmake --build build --target perf)", program);
    else
        limit->program = program;
}

/* ---- running it ------------------------------------------------------------------------------ */

struct arguments {
    char text[ARGUMENTS_MAX][32];
    const char *argument[ARGUMENTS_MAX + 1];
    unsigned count;
};

static void say(struct arguments *arguments, const char *name, const char *value)
{
    HM_ASSERT(arguments->count + 2 <= ARGUMENTS_MAX);
    arguments->argument[arguments->count++] = name;
    arguments->argument[arguments->count++] = value;
}

static void say_number(struct arguments *arguments, const char *name, double value, int digits)
{
    char *text = arguments->text[arguments->count];
    snprintf(text, sizeof(arguments->text[0]), "%.*f", digits, value);
    say(arguments, name, text);
}

/* Its line of JSON. */
static bool run(struct bench_limit *limit, struct arguments *arguments, double seconds, char *line,
                size_t line_bytes)
{
    say_number(arguments, "--seconds", seconds, 3);
    if (bench_raw_run(limit->program, arguments->argument, (hm_ns)(seconds * 1e9) + 60 * HM_S, line,
                      line_bytes))
        return true;
    snprintf(limit->why, sizeof(limit->why), "perf-%s failed", limit->program);
    return false;
}

/* ---- echoes ---------------------------------------------------------------------------------- */

static void say_echo(struct arguments *arguments, const struct bench_limit *limit)
{
    const struct bench_conf *conf = limit->conf;
    bool ucx = strcmp(limit->program, "raw_ucx_echo") == 0;
    if (limit->goal == BENCH_LATENCY) {
        say(arguments, "--mode", "latency");
        say_number(arguments, "--bytes", (double)call_bytes(conf), 0);
    } else if (conf->clients == conf->client_processes && call_bytes(conf) >= BULK_BYTES) {
        say(arguments, "--mode", "bulk");
        say_number(arguments, "--clients", conf->clients, 0);
        say_number(arguments, "--rows", conf->rows, 0);
        say_number(arguments, "--hidden", conf->hidden, 0);
    } else {
        uint32_t share = (conf->clients + conf->client_processes - 1) / conf->client_processes;
        say(arguments, "--mode", "single");
        say_number(arguments, "--clients", conf->client_processes, 0);
        say_number(arguments, ucx ? "--calls" : "--connections", ucx ? share : conf->clients, 0);
        say_number(arguments, "--hidden", (double)conf->rows * conf->hidden, 0);
    }
}

static void measure_echo(struct bench_limit *limit, unsigned half, double seconds)
{
    struct arguments arguments = {.count = 0};
    char line[1024];
    say_echo(&arguments, limit);
    if (!run(limit, &arguments, seconds, line, sizeof(line))) return;
    limit->rows[half] = bench_raw_number(line, "calls_per_second") * limit->conf->rows;
    limit->p50_us[half] = bench_raw_number(line, "p50_us");
    limit->p99_us[half] = bench_raw_number(line, "p99_us");
}

/* ---- experts --------------------------------------------------------------------------------- */

/* The most frequent sizes of the round's batches, in its proportions: "32x13,64x7". */
static void note_sizes(struct bench_limit *limit, const struct bench_round *round)
{
    static struct hm_histogram rows;
    double all = 0;
    unsigned top[SIZES_MAX], count = 0;
    size_t at = 0;
    bench_histogram_since(&rows, bench_report_find(&round->before, "sched.batch_rows"),
                          bench_report_find(&round->after, "sched.batch_rows"));
    for (; count < SIZES_MAX; count++) {
        unsigned most = 0;
        for (unsigned i = 1; i < HM_HISTOGRAM_BUCKETS; i++) {
            bool taken = false;
            for (unsigned j = 0; j < count; j++) taken = taken || top[j] == i;
            if (!taken && rows.bucket[i] > rows.bucket[most]) most = i;
        }
        if (rows.bucket[most] == 0 || most == 0) break;
        top[count] = most;
        all += rows.bucket[most];
    }
    limit->sizes[0] = 0;
    for (unsigned i = 0; i < count; i++) {
        long batches = lround(rows.bucket[top[i]] / all * BATCHES_A_LIST);
        if (batches == 0 && i > 0) continue;
        at += (size_t)snprintf(
            limit->sizes + at, sizeof(limit->sizes) - at, "%s%llux%ld", at > 0 ? "," : "",
            (unsigned long long)hm_histogram_bucket_low(top[i]), batches > 0 ? batches : 1);
    }
}

static double ffn_rows(struct bench_limit *limit, const char *pass, double seconds)
{
    char line[1024];
    if (bench_raw_ffn(pass, limit->sizes, limit->conf->hidden, &limit->dtype, seconds, line,
                      sizeof(line)))
        return bench_raw_number(line, "rows_per_second");
    snprintf(limit->why, sizeof(limit->why), "perf-%s failed", limit->program);
    return NAN;
}

static void measure_ffn(struct bench_limit *limit, unsigned half, double seconds)
{
    if (!limit->sizes[0]) return;
    if (!limit->conf->backward) {
        limit->rows[half] = ffn_rows(limit, "forward", seconds);
        return;
    }
    double forward = ffn_rows(limit, "forward", seconds / 2);
    limit->train_rows[half] = ffn_rows(limit, "train", seconds / 2);
    limit->rows[half] = 1 / (1 / forward + 1 / limit->train_rows[half]);
}

/* ---- halves ---------------------------------------------------------------------------------- */

static void measure(struct bench_limit *limit, unsigned half)
{
    const struct bench_conf *conf = limit->conf;
    /* As long as a round, where that is by time. */
    double seconds = conf->batches > 0 ? 1 : (double)conf->duration / 2e9;
    limit->rows[half] = limit->p50_us[half] = limit->p99_us[half] = limit->train_rows[half] = NAN;
    if (!limit->program) return;
    if (strcmp(limit->program, "raw_ffn") == 0)
        measure_ffn(limit, half, seconds);
    else
        measure_echo(limit, half, seconds);
}

void bench_limit_before(struct bench_limit *limit)
{
    measure(limit, 0);
}

void bench_limit_after(struct bench_limit *limit, const struct bench_round *round)
{
    if (limit->program && strcmp(limit->program, "raw_ffn") == 0) note_sizes(limit, round);
    measure(limit, 1);
}

/* Of those that there are: before the first round nobody knows the sizes of its batches. */
static double mean(const double half[2])
{
    if (isnan(half[0])) return half[1];
    return isnan(half[1]) ? half[0] : (half[0] + half[1]) / 2;
}

void bench_limit_add(const struct bench_limit *limit, struct bench_figures *figures)
{
    unsigned round = figures->rounds - 1;
    double(*value)[BENCH_REPEATS_MAX] = figures->value;
    if (limit->goal == BENCH_LATENCY) {
        value[BENCH_LIMIT][round] = mean(limit->p50_us);
        value[BENCH_LIMIT_P99_US][round] = mean(limit->p99_us);
        value[BENCH_RATIO][round] = value[BENCH_LIMIT][round] / value[BENCH_P50_US][round];
    } else {
        value[BENCH_LIMIT][round] = mean(limit->rows);
        value[BENCH_LIMIT_TRAIN][round] = mean(limit->train_rows);
        value[BENCH_RATIO][round] = value[BENCH_ROWS][round] / value[BENCH_LIMIT][round];
    }
}
