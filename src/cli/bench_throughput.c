/* cli/bench_throughput.c - hivemind bench throughput: rows a second through one server, beside a raw
 * program that does the same work.
 *
 * Happy:  the processes start; then a round, or several: half of the raw program's time, ours, the
 *         other half; medians.
 * Fails:  a process that does not come up, or ends early, is one line; a call that fails is counted,
 *         and the exit code says so; without the raw program there is no limit and no ratio. */
#include "cli/bench.h"
#include "cli/bench_measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char usage[] =
    "hivemind bench throughput - rows a second through one server, beside a raw program that does "
    "the same.\n"
    "\n"
    "  hivemind bench throughput --preset nop --clients 8\n"
    "  hivemind bench throughput --preset nop --rows 1 --clients 64 --client-processes 4 --experts "
    "1 --transport ucx\n"
    "  hivemind bench throughput --preset ffn_small_batch --clients 8 --repeats 5 --json\n"
    "\n"
    "The limit is what perf-raw_tls_echo or perf-raw_ucx_echo manages in the same run (cmake "
    "--build "
    "build --target\n"
    "perf); the ratio is ours by theirs.\n"
    "\n";

/* The Python hivemind 0.7.1 on a 2-core Xeon, 2026-11-22; only cases that were measured. */
static const struct reference {
    const char *kind;
    uint32_t rows, clients, experts;
    bool backward;
    double rows_per_second;
} references[] = {
    {"nop", 2048, 8, 16, false, 40600},
    {"nop", 1, 64, 1, false, 444},
    {"ffn", 32, 8, 4, false, 1415},
    {"ffn", 32, 8, 4, true, 149},
};

/* Information only: another machine's day. */
static double reference_of(const struct bench_conf *conf)
{
    for (unsigned i = 0; i < HM_COUNT_OF(references); i++) {
        const struct reference *r = &references[i];
        if (strcmp(r->kind, conf->kind) == 0 && r->rows == conf->rows &&
            r->clients == conf->clients && r->experts == conf->experts &&
            r->backward == conf->backward && conf->hidden == 1024)
            return r->rows_per_second;
    }
    return 0;
}

static void print_json(const struct bench_conf *conf, const struct bench_result *result)
{
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "throughput");
    bench_result_json(conf, result, &json);
    if (reference_of(conf) > 0)
        hm_json_double(&json, "reference_rows_per_second", reference_of(conf));
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

static void print_table(const struct bench_conf *conf, const struct bench_result *result)
{
    const struct bench_figures *figures = &result->figures;
    const struct bench_limit *limit = &result->limit;
    double ratio = bench_figure(figures, BENCH_RATIO);
    double calls = bench_figure(figures, BENCH_CALLS) * bench_figure(figures, BENCH_SECONDS);
    printf("%s over %s, codec %s: %u %s experts of %u columns (%s), %u clients in %u processes, %u "
           "rows "
           "a call, %s\n",
           conf->preset, conf->transport, conf->codec, conf->experts, conf->kind, conf->hidden,
           conf->dtype, conf->clients, conf->client_processes, conf->rows,
           conf->backward ? "forward + backward" : "forward");
    printf("  %-22s %12.0f rows/s  %12.0f calls/s\n", "ours", bench_figure(figures, BENCH_ROWS),
           bench_figure(figures, BENCH_CALLS));
    if (!isnan(ratio))
        printf("  %-22s %12.0f rows/s  ratio %.2f\n", limit->program,
               bench_figure(figures, BENCH_LIMIT), ratio);
    else
        printf("  no limit: %s\n", limit->why);
    if (!isnan(ratio) && strcmp(limit->dtype, conf->dtype) != 0)
        printf("  (products in %s, as this CPU has none in %s)\n", limit->dtype, conf->dtype);
    if (reference_of(conf) > 0)
        printf("  %-22s %12.0f rows/s  (0.7.1 on a 2-core Xeon, another day)\n",
               "the Python hivemind", reference_of(conf));
    printf("  a client waits         %12.1f us (50 of 100) %.1f (99) %.1f (99.9)\n",
           bench_figure(figures, BENCH_P50_US), bench_figure(figures, BENCH_P99_US),
           bench_figure(figures, BENCH_P999_US));
    printf("  processors             %12.2f us a call: server %.2f s, clients %.2f s\n",
           bench_figure(figures, BENCH_CPU) / calls * 1e6, bench_figure(figures, BENCH_CPU_SERVER),
           bench_figure(figures, BENCH_CPU_CLIENTS));
    printf("  on the wire            %12.0f bytes a call\n",
           bench_figure(figures, BENCH_BYTES) / calls);
    printf("  copies                 %12.2f of a byte from process to process",
           bench_figure(figures, BENCH_COPIES));
    if (!isnan(bench_figure(figures, BENCH_ALLOCATIONS)))
        printf("; %.4f allocations a call", bench_figure(figures, BENCH_ALLOCATIONS));
    printf("\n");
    printf(
        "  batches                %12.1f rows (mean), %.0f (50 of 100), %.0f (99), %.0f (most)\n",
        bench_figure(figures, BENCH_BATCH_ROWS), bench_figure(figures, BENCH_BATCH_ROWS_P50),
        bench_figure(figures, BENCH_BATCH_ROWS_P99), bench_figure(figures, BENCH_BATCH_ROWS_MAX));
    bench_figures_print_stages(figures);
    if (bench_figure(figures, BENCH_FAILED) > 0)
        printf("  %.0f calls failed, the last with %s\n", bench_figure(figures, BENCH_FAILED),
               result->last);
}

int bench_throughput(int argc, char **argv)
{
    static struct bench_result result;
    struct bench_conf conf;
    struct hm_options options;
    char text[4096];
    snprintf(text, sizeof(text), "%s%s", usage, bench_presets_help());
    int code = bench_work_parse(&options, &conf, text, argc, argv);
    if (code == CLI_GO_ON) code = bench_measure(&conf, BENCH_THROUGHPUT, &result);
    if (code == CLI_GO_ON) {
        conf.json ? print_json(&conf, &result) : print_table(&conf, &result);
        code = result.last[0] ? CLI_FAILED : CLI_OK;
    }
    hm_options_fini(&options);
    return code;
}
