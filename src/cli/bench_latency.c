/* cli/bench_latency.c - hivemind bench latency: one caller, one call at a time, beside a raw program
 * that echoes the same bytes; and the stages that a call goes through.
 *
 * Every call is timed, which costs it less than a microsecond. */
#include "cli/bench.h"
#include "cli/bench_measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "hivemind bench latency - how long a single call takes, and where that time goes.\n"
    "\n"
    "  hivemind bench latency\n"
    "  hivemind bench latency --transport ucx --repeats 5 --json\n"
    "  hivemind bench latency --kind ffn --rows 32\n"
    "\n"
    "One client process with one call at a time to one server process.  The limit is a round trip "
    "of "
    "as many bytes by\n"
    "perf-raw_tls_echo or perf-raw_ucx_echo in the same run (cmake --build build --target perf); "
    "the "
    "ratio is the\n"
    "limit's median by ours: 1 is as good as raw, less is slower.\n";

#define AT(member) offsetof(struct bench_conf, member)
static const struct hm_option latency_options[] = {
    {"kind", HM_OPTION_STRING, "nop", "KIND",
     "nop gives back its input; ffn; or nop_delay (with --delay)", AT(kind), 0, 0},
    {"delay", HM_OPTION_DURATION, NULL, "TIME", "what a batch of a nop_delay takes", AT(delay),
     1e-6, 60},
    {"rows", HM_OPTION_U32, "1", "ROWS", "rows a call", AT(rows), 1, 1 << 20},
    {"hidden", HM_OPTION_U32, "1024", "COLUMNS", "features of a row", AT(hidden), 1, 65536},
    {"backward", HM_OPTION_BOOL, "false", NULL, "a forward and a backward call, together",
     AT(backward), 0, 0},
    {"transport", HM_OPTION_STRING, "tcp", "NAME",
     "tcp, or ucx: both of one cluster, over shared memory or what UCX finds", AT(transport), 0, 0},
    {"blocking", HM_OPTION_BOOL, "true", NULL,
     "the caller is a thread that waits; --no-blocking: it lives on its node's loop", AT(blocking),
     0, 0},
    {"seconds", HM_OPTION_DURATION, "2s", "TIME", "how long it calls", AT(duration), 0.01, 3600},
    {"repeats", HM_OPTION_U32, "1", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     BENCH_REPEATS_MAX},
    {"codec", HM_OPTION_STRING, "none", "NAME", "how rows travel: none, f16, bf16 or u8", AT(codec),
     0, 0},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT",
     "threads that compute on the server; 0: one a processor", AT(lane_threads), 0, 1024},
    {"limit", HM_OPTION_BOOL, "true", NULL,
     "run the raw program too, half of the time before and half after", AT(limit), 0, 0},
    {"timeout", HM_OPTION_DURATION, "60s", "TIME", "of a call", AT(timeout), 0.01, 3600},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON", AT(json), 0, 0},
};

static void print_json(const struct bench_conf *conf, const struct bench_result *result)
{
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "latency");
    bench_result_json(conf, result, &json);
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

static void print_table(const struct bench_conf *conf, const struct bench_result *result)
{
    const struct bench_figures *figures = &result->figures;
    const struct bench_limit *limit = &result->limit;
    printf("a call of %u rows of %u columns to a %s expert over %s, %s\n", conf->rows, conf->hidden,
           conf->kind, conf->transport,
           conf->blocking ? "by a thread that waits" : "by the node's loop");
    printf("  %-22s %9s %9s %9s %9s\n", "us", "p50", "p99", "p99.9", "mean");
    printf("  %-22s %9.1f %9.1f %9.1f %9.1f\n", "ours", bench_figure(figures, BENCH_P50_US),
           bench_figure(figures, BENCH_P99_US), bench_figure(figures, BENCH_P999_US),
           bench_figure(figures, BENCH_MEAN_US));
    if (isnan(bench_figure(figures, BENCH_RATIO)))
        printf("  no limit: %s\n", limit->why);
    else
        printf("  %-22s %9.1f %9.1f %20s ratio %.2f\n", limit->program,
               bench_figure(figures, BENCH_LIMIT), bench_figure(figures, BENCH_LIMIT_P99_US), "",
               bench_figure(figures, BENCH_RATIO));
    bench_figures_print_stages(figures);
    if (bench_figure(figures, BENCH_FAILED) > 0)
        printf("  %.0f calls failed, the last with %s\n", bench_figure(figures, BENCH_FAILED),
               result->last);
}

int bench_latency(int argc, char **argv)
{
    static struct bench_result result;
    struct bench_conf conf = {0};
    struct hm_options options;
    hm_options_defaults(bench_options, bench_option_count, &conf);
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", latency_options, HM_COUNT_OF(latency_options), &conf);
    int code = cli_parse(&options, usage, argc, argv);
    conf.clients = conf.client_processes = conf.experts = conf.times = 1;
    enum hm_status status = code == CLI_GO_ON ? bench_work_check(&conf) : HM_OK;
    if (status) code = cli_fail(CLI_USAGE, status);
    if (code == CLI_GO_ON) code = bench_measure(&conf, BENCH_LATENCY, &result);
    if (code == CLI_GO_ON) {
        conf.json ? print_json(&conf, &result) : print_table(&conf, &result);
        code = result.last[0] ? CLI_FAILED : CLI_OK;
    }
    hm_options_fini(&options);
    return code;
}
