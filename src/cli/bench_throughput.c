/* cli/bench_throughput.c - hivemind bench throughput: one server process, client processes, one
 * figure.
 *
 * The clock runs from "go" to the last client's report, so that opening connections is not measured
 * and the slowest client is.  The reference's figures are printed beside ours as information: they
 * are another machine's day. */
#include "cli/bench.h"
#include "cli/child.h"
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "hivemind bench throughput - rows a second through one server, with the presets of the Python "
    "hivemind.\n"
    "\n"
    "  hivemind bench throughput --preset nop --clients 8 --batches 64\n"
    "  hivemind bench throughput --preset nop --rows 1 --clients 64 --experts 1 --batches 2000 "
    "--json\n"
    "\n"
    "Presets (every parameter is a flag that replaces the preset's):\n"
    "  ffn_forward_backward         16 experts, 128 clients x 16 batches x 2048 rows, forward + "
    "backward with Adam\n"
    "  ffn_forward                  the same, forward\n"
    "  ffn_small_batch              4 experts, 32 rows, batches of at most 8192, forward\n"
    "  ffn_small_batch_512clients   1 expert, 1 row, 512 clients, forward + backward\n"
    "  ffn_massive                  512 clients, 512 rows, forward\n"
    "  minimalistic                 1 expert, 1 client, forward + backward\n"
    "  nop                          16 experts that give back their input, forward\n";

enum { PROCESSES_MAX = 64, PROCESSES_STANDARD = 8 };
static const struct preset {
    const char *name, *kind;
    uint32_t experts, rows, batch_rows_max, clients;
    bool backward;
} presets[] = {
    {"ffn_forward_backward", "ffn", 16, 2048, 8192, 128, true},
    {"ffn_forward", "ffn", 16, 2048, 8192, 128, false},
    {"ffn_small_batch", "ffn", 4, 32, 8192, 128, false},
    {"ffn_small_batch_512clients", "ffn", 1, 1, 8192, 512, true},
    {"ffn_massive", "ffn", 16, 512, 8192, 512, false},
    {"minimalistic", "ffn", 1, 2048, 8192, 1, true},
    {"nop", "nop", 16, 2048, 8192, 128, false},
};
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

#define AT(member) offsetof(struct bench_conf, member)
const struct hm_option bench_options[] = {
    {"preset", HM_OPTION_STRING, "nop", "NAME", "one of those above", AT(preset), 0, 0},
    {"experts", HM_OPTION_U32, NULL, "COUNT", "experts on the server", AT(experts), 1, 1024},
    {"kind", HM_OPTION_STRING, NULL, "KIND", "ffn or nop", AT(kind), 0, 0},
    {"hidden", HM_OPTION_U32, "1024", "COLUMNS", "features of a row", AT(hidden), 1, 65536},
    {"rows", HM_OPTION_U32, NULL, "ROWS", "rows a call", AT(rows), 1, 1 << 20},
    {"batch-rows-max", HM_OPTION_U32, NULL, "ROWS", "the server's bound on a batch",
     AT(batch_rows_max), 1, 1 << 20},
    {"clients", HM_OPTION_U32, NULL, "COUNT", "callers, each with one call at a time", AT(clients),
     1, 4096},
    {"client-processes", HM_OPTION_U32, NULL, "COUNT",
     "processes that they share; none given: 8 at most", AT(client_processes), 1, PROCESSES_MAX},
    {"batches", HM_OPTION_U32, "16", "COUNT", "calls (or forward-backward pairs) a client",
     AT(batches), 1, 1e9},
    {"backward", HM_OPTION_BOOL, "false", NULL, "train as well, where the preset only asks",
     AT(backward), 0, 0},
    {"forward-only", HM_OPTION_BOOL, "false", NULL, "only ask, where the preset trains as well",
     AT(forward_only), 0, 0},
    {"transport", HM_OPTION_STRING, "tcp", "NAME", "tcp", AT(transport), 0, 0},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT",
     "threads that compute on the server; 0: one a processor", AT(lane_threads), 0, 1024},
    {"timeout", HM_OPTION_DURATION, "60s", "TIME", "of a call", AT(timeout), 0.01, 3600},
    {"seed", HM_OPTION_U64, "0", "SEED", "which experts are called", AT(seed), 0, 0},
    {"join", HM_OPTION_STRING, NULL, "hm://…", "(used between the benchmark's own processes)",
     AT(join), 0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON", AT(json), 0, 0},
};
const unsigned bench_option_count = HM_COUNT_OF(bench_options);

static enum hm_status apply_preset(struct bench_conf *conf)
{
    const char *names[HM_COUNT_OF(presets)];
    const struct preset *preset = NULL;
    for (unsigned i = 0; i < HM_COUNT_OF(presets); i++) {
        names[i] = presets[i].name;
        if (strcmp(conf->preset, presets[i].name) == 0) preset = &presets[i];
    }
    if (!preset) {
        const char *near = hm_nearest_name(conf->preset, names, HM_COUNT_OF(presets));
        return hm_fail(HM_ERR_INVALID, "no preset '%s'%s%s; hivemind bench --help lists them",
                       conf->preset, near ? "; did you mean " : "", near ? near : "");
    }
    if (strcmp(conf->transport, "tcp") != 0)
        return hm_fail(HM_ERR_INVALID, "--transport is '%s'; this build has tcp", conf->transport);
    if (conf->backward && conf->forward_only)
        return hm_fail(HM_ERR_INVALID, "give --backward or --forward-only, not both");
    if (!conf->kind) conf->kind = preset->kind;
    if (!conf->experts) conf->experts = preset->experts;
    if (!conf->rows) conf->rows = preset->rows;
    if (!conf->batch_rows_max) conf->batch_rows_max = preset->batch_rows_max;
    if (!conf->clients) conf->clients = preset->clients;
    conf->backward = (preset->backward || conf->backward) && !conf->forward_only;
    if (!conf->client_processes)
        conf->client_processes =
            conf->clients < PROCESSES_STANDARD ? conf->clients : PROCESSES_STANDARD;
    if (conf->client_processes > conf->clients) conf->client_processes = conf->clients;
    return HM_OK;
}

/* ---- the server and the clients as processes ------------------------------------------------- */

struct bench {
    const struct bench_conf *conf;
    struct child server, client[PROCESSES_MAX];
    char join[HM_JOIN_LINE_BYTES];
    uint64_t calls, failed, p50_us,
        p99_us; /* p50: the median process's is not known, so the largest */
    char status[64];
    double seconds;
};

static enum hm_status start_server(struct bench *bench)
{
    const struct bench_conf *conf = bench->conf;
    char pattern[32], hidden[16], batch[16], queue[16], threads[16], line[HM_JOIN_LINE_BYTES + 256];
    snprintf(pattern, sizeof(pattern), "expert.[0:%u]", conf->experts);
    snprintf(hidden, sizeof(hidden), "%u", conf->hidden);
    snprintf(batch, sizeof(batch), "%u", conf->batch_rows_max);
    /* Everything that the clients can have under way at once. */
    uint64_t rows = (uint64_t)conf->clients * conf->rows;
    snprintf(queue, sizeof(queue), "%u",
             rows > 1 << 30 ? 1 << 30
             : rows < 65536 ? 65536
                            : (unsigned)rows);
    snprintf(threads, sizeof(threads), "%u", conf->lane_threads);
    const char *arguments[] = {"serve",
                               "--new-swarm",
                               "--listen",
                               "127.0.0.1:0",
                               "--experts",
                               pattern,
                               "--kind",
                               conf->kind,
                               "--hidden",
                               hidden,
                               "--batch-rows-max",
                               batch,
                               "--json",
                               "--lane-threads",
                               threads,
                               "--queue-rows-max",
                               queue,
                               "--memory",
                               "8G",
                               NULL};
    enum hm_status status = child_start(&bench->server, arguments);
    if (!status) status = child_line(&bench->server, 60 * HM_S, line, sizeof(line));
    if (status)
        return hm_fail(status, "the benchmark's server did not start (%s)", hm_status_text(status));
    const char *join = strstr(line, "hm://");
    size_t bytes = join ? strcspn(join, "\"") : 0;
    if (bytes == 0 || bytes >= sizeof(bench->join))
        return hm_fail(HM_ERR_CORRUPT, "the server printed no join line");
    memcpy(bench->join, join, bytes);
    bench->join[bytes] = 0;
    return HM_OK;
}

static enum hm_status start_client(struct bench *bench, unsigned index)
{
    const struct bench_conf *conf = bench->conf;
    uint32_t share =
        conf->clients / conf->client_processes + (index < conf->clients % conf->client_processes);
    char experts[16], hidden[16], rows[16], clients[16], batches[16], seed[32], timeout[32],
        line[64];
    snprintf(experts, sizeof(experts), "%u", conf->experts);
    snprintf(hidden, sizeof(hidden), "%u", conf->hidden);
    snprintf(rows, sizeof(rows), "%u", conf->rows);
    snprintf(clients, sizeof(clients), "%u", share);
    snprintf(batches, sizeof(batches), "%u", conf->batches);
    snprintf(seed, sizeof(seed), "%llu", (unsigned long long)(conf->seed * 1000 + index));
    snprintf(timeout, sizeof(timeout), "%llums", (unsigned long long)(conf->timeout / HM_MS));
    const char *arguments[] = {
        "bench",     "client",    "--join",
        bench->join, "--experts", experts,
        "--hidden",  hidden,      "--rows",
        rows,        "--clients", clients,
        "--batches", batches,     "--seed",
        seed,        "--timeout", timeout,
        "--kind",    conf->kind,  conf->backward ? "--backward" : "--forward-only",
        NULL};
    enum hm_status status = child_start(&bench->client[index], arguments);
    if (!status) status = child_line(&bench->client[index], 60 * HM_S, line, sizeof(line));
    if (!status && strcmp(line, "ready") == 0) return HM_OK;
    return hm_fail(status ? status : HM_ERR_CORRUPT, "a client process did not get ready");
}

static enum hm_status collect(struct bench *bench, unsigned index)
{
    char line[256];
    unsigned long long calls, failed, p50, p99;
    hm_ns all = bench->conf->timeout * bench->conf->batches;
    enum hm_status status = child_line(&bench->client[index], all < 3600 * HM_S ? all : 3600 * HM_S,
                                       line, sizeof(line));
    char name[64];
    if (!status &&
        sscanf(line, "done %llu %llu %llu %llu %63s", &calls, &failed, &p50, &p99, name) != 5)
        status = HM_ERR_CORRUPT;
    if (status) return hm_fail(status, "a client process ended without its report");
    bench->calls += calls;
    bench->failed += failed;
    if (p50 > bench->p50_us) bench->p50_us = p50;
    if (p99 > bench->p99_us) bench->p99_us = p99;
    if (failed > 0) snprintf(bench->status, sizeof(bench->status), "%s", name);
    return HM_OK;
}

static enum hm_status measure(struct bench *bench)
{
    unsigned count = bench->conf->client_processes;
    enum hm_status status = start_server(bench);
    for (unsigned i = 0; i < count && !status; i++) status = start_client(bench, i);
    hm_ns before = cli_now();
    for (unsigned i = 0; i < count && !status; i++) status = child_say(&bench->client[i], "go\n");
    for (unsigned i = 0; i < count && !status; i++) status = collect(bench, i);
    bench->seconds = (double)(cli_now() - before) / 1e9;
    for (unsigned i = 0; i < count; i++) child_stop(&bench->client[i], 5 * HM_S);
    child_stop(&bench->server, 15 * HM_S);
    return status;
}

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

static void print(const struct bench *bench)
{
    const struct bench_conf *conf = bench->conf;
    double answered = (double)conf->clients * conf->batches - (double)bench->failed;
    double rows = answered * conf->rows / bench->seconds;
    double calls = (double)bench->calls / bench->seconds, reference = reference_of(conf);
    if (conf->json) {
        struct hm_json json;
        hm_json_init(&json);
        hm_json_object_begin(&json, NULL);
        hm_json_string(&json, "preset", conf->preset);
        hm_json_string(&json, "kind", conf->kind);
        hm_json_string(&json, "transport", conf->transport);
        hm_json_uint(&json, "experts", conf->experts);
        hm_json_uint(&json, "hidden", conf->hidden);
        hm_json_uint(&json, "rows", conf->rows);
        hm_json_uint(&json, "clients", conf->clients);
        hm_json_uint(&json, "client_processes", conf->client_processes);
        hm_json_bool(&json, "backward", conf->backward);
        hm_json_double(&json, "rows_per_second", rows);
        hm_json_double(&json, "calls_per_second", calls);
        hm_json_double(&json, "seconds", bench->seconds);
        hm_json_uint(&json, "p50_us_max", bench->p50_us);
        hm_json_uint(&json, "p99_us_max", bench->p99_us);
        hm_json_uint(&json, "calls_failed", bench->failed);
        if (reference > 0) hm_json_double(&json, "reference_rows_per_second", reference);
        hm_json_object_end(&json);
        printf("%s\n", hm_json_text(&json));
        hm_json_fini(&json);
        return;
    }
    printf(
        "%s over %s: %u %s experts of %u columns, %u clients in %u processes, %u rows a call, %s\n",
        conf->preset, conf->transport, conf->experts, conf->kind, conf->hidden, conf->clients,
        conf->client_processes, conf->rows, conf->backward ? "forward + backward" : "forward");
    printf("  %.0f rows/s, %.0f calls/s, %.2f s; a client waits %.1f ms (median), %.1f ms (99 of "
           "100)\n",
           rows, calls, bench->seconds, (double)bench->p50_us / 1e3, (double)bench->p99_us / 1e3);
    if (reference > 0)
        printf("  the Python hivemind 0.7.1, measured on a 2-core Xeon: %.0f rows/s (ours: %.1f "
               "times)\n",
               reference, rows / reference);
    if (bench->failed > 0)
        printf("  %llu calls failed, the last with %s\n", (unsigned long long)bench->failed,
               bench->status);
}

/* Both are `bench` with the same options; a client process is the conductor's own child. */
static int run(int argc, char **argv, bool client)
{
    struct bench_conf conf;
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", bench_options, bench_option_count, &conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON) {
        enum hm_status status = apply_preset(&conf);
        if (status) code = cli_fail(CLI_USAGE, status);
    }
    if (code == CLI_GO_ON && client) {
        code = bench_client(&conf);
    } else if (code == CLI_GO_ON) {
        struct bench bench = {.conf = &conf};
        enum hm_status status = measure(&bench);
        code = status ? cli_fail(CLI_FAILED, status) : CLI_OK;
        if (!status) print(&bench);
        if (!status && bench.failed > 0) code = CLI_FAILED;
    }
    hm_options_fini(&options);
    return code;
}

int bench_throughput(int argc, char **argv)
{
    return run(argc, argv, false);
}

int bench_throughput_client(int argc, char **argv)
{
    return run(argc, argv, true);
}
