/* cli/bench_limit.c - choosing the raw program of a benchmark, running it, and the ratio.
 *
 *   nop       the rows of a call echoed: over OpenSSL (perf-raw_tls_echo), over UCX
 *             (perf-raw_ucx_echo); "bulk" where each client is a process of its own with calls that
 *             are worth a thread, else "single", whose row is a whole call of ours
 *   latency   the same, one call at a time
 *   others    none yet */
#include "cli/bench_limit.h"

#include "cli/bench_raw.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BULK_BYTES = 32 << 10, ARGUMENTS_MAX = 16 };

static size_t call_bytes(const struct bench_conf *conf)
{
    return (size_t)conf->rows * conf->hidden * sizeof(float);
}

void bench_limit_init(struct bench_limit *limit, const struct bench_conf *conf,
                      enum bench_goal goal)
{
    bool echo = strcmp(conf->kind, "nop") == 0 && !conf->backward;
    *limit = (struct bench_limit){.conf = conf, .goal = goal};
    const char *program = strcmp(conf->transport, "ucx") == 0 ? "raw_ucx_echo" : "raw_tls_echo";
    if (!conf->limit)
        snprintf(limit->why, sizeof(limit->why), "not asked for");
    else if (!echo)
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

static void say_work(struct arguments *arguments, const struct bench_limit *limit)
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

static void measure(struct bench_limit *limit, unsigned half)
{
    const struct bench_conf *conf = limit->conf;
    struct arguments arguments = {.count = 0};
    char line[1024];
    /* As long as a round, where that is by time. */
    double seconds = conf->batches > 0 ? 1 : (double)conf->duration / 2e9;
    limit->rows[half] = limit->p50_us[half] = limit->p99_us[half] = NAN;
    if (!limit->program) return;
    say_work(&arguments, limit);
    say_number(&arguments, "--seconds", seconds, 3);
    if (!bench_raw_run(limit->program, arguments.argument, (hm_ns)(seconds * 1e9) + 60 * HM_S, line,
                       sizeof(line))) {
        snprintf(limit->why, sizeof(limit->why), "perf-%s failed", limit->program);
        return;
    }
    limit->rows[half] = bench_raw_number(line, "calls_per_second") * conf->rows;
    limit->p50_us[half] = bench_raw_number(line, "p50_us");
    limit->p99_us[half] = bench_raw_number(line, "p99_us");
}

void bench_limit_before(struct bench_limit *limit)
{
    measure(limit, 0);
}

void bench_limit_after(struct bench_limit *limit)
{
    measure(limit, 1);
}

void bench_limit_add(const struct bench_limit *limit, struct bench_figures *figures)
{
    unsigned round = figures->rounds - 1;
    double *to = figures->value[BENCH_LIMIT], *ratio = figures->value[BENCH_RATIO];
    if (limit->goal == BENCH_LATENCY) {
        to[round] = (limit->p50_us[0] + limit->p50_us[1]) / 2;
        figures->value[BENCH_LIMIT_P99_US][round] = (limit->p99_us[0] + limit->p99_us[1]) / 2;
        ratio[round] = to[round] / figures->value[BENCH_P50_US][round];
    } else {
        to[round] = (limit->rows[0] + limit->rows[1]) / 2;
        ratio[round] = figures->value[BENCH_ROWS][round] / to[round];
    }
}
