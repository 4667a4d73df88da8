/* cli/bench_server.c - the server process of a benchmark: what `hivemind serve` runs, and a report
 * whenever the conductor says "report".  It ends when its standard input does. */
#include "cli/bench.h"
#include "cli/bench_report.h"
#include "cli/bench_work.h"
#include "cli/serve.h"

#include <stdio.h>
#include <string.h>

static void report_on_loop(struct hm_wait *wait, void *arg)
{
    struct hm_node *node = arg;
    bench_report_metrics(stdout, &node->metrics);
    hm_wait_end(wait, HM_OK);
}

static enum hm_status report(struct hm_node *node)
{
    enum hm_status status = hm_node_run(node, report_on_loop, node);
    bench_report_process(stdout, &(struct bench_usage){0});
    bench_report_end(stdout);
    return status;
}

static uint32_t queue_rows(const struct bench_conf *conf)
{
    /* Everything that the clients can have under way at once. */
    uint64_t rows = (uint64_t)conf->clients * conf->rows;
    if (rows < conf->batch_rows_max) rows = conf->batch_rows_max;
    return rows > 1 << 30 ? 1 << 30 : rows < 65536 ? 65536 : (uint32_t)rows;
}

static int serve(const struct bench_conf *conf, struct hm_node *node)
{
    struct serve_conf serve = {0};
    struct hm_server *server;
    char pattern[32], line[16];
    hm_options_defaults(serve_options, serve_option_count, &serve);
    snprintf(pattern, sizeof(pattern), "expert.[0:%u]", conf->experts);
    serve.experts = pattern;
    serve.kind = conf->kind;
    serve.delay = conf->delay;
    serve.hidden = conf->hidden;
    serve.dtype = conf->dtype;
    serve.batch_rows_max = conf->batch_rows_max;
    serve.queue_rows_max = queue_rows(conf);
    serve.lane_threads = conf->lane_threads;
    serve.json = true;
    int code = serve_start(node, &serve, &server);
    if (code != CLI_GO_ON) return code;
    enum hm_status status = HM_OK;
    while (!status && fgets(line, sizeof(line), stdin))
        if (strcmp(line, "report\n") == 0) status = report(node);
    code = serve_end(node, server, &serve);
    return status ? cli_fail(CLI_FAILED, status) : code;
}

int bench_server(int argc, char **argv)
{
    struct bench_conf conf;
    struct hm_options options;
    struct hm_node *node = NULL;
    struct cli_stop *stop = NULL;
    int code = bench_work_parse(
        &options, &conf,
        "hivemind bench server - a process of hivemind bench throughput, latency and overload\n",
        argc, argv);
    if (code == CLI_GO_ON) code = bench_node_open(&conf, true, &node);
    /* A signal is no sudden end: the end of the input follows it. */
    if (code == CLI_GO_ON) code = cli_stop_start(node, &stop);
    if (code == CLI_GO_ON) {
        code = serve(&conf, node);
        cli_stop_end(stop);
    }
    hm_node_close(node);
    hm_options_fini(&options);
    return code;
}
