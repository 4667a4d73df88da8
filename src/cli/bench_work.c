/* cli/bench_work.c - options and presets of a benchmark of one server. */
#include "cli/bench_work.h"

#include "experts/expert.h"
#include "tensor/codec.h"

#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>

/* A call is large if a microsecond is nothing to it. */
enum { PROCESSES_STANDARD = 8, LARGE_ELEMENTS = 16 << 10 };
/* As the Python hivemind names them. */
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

const char *bench_presets_help(void)
{
    return "Presets, named as in the Python hivemind (every parameter is a flag that replaces the "
           "preset's):\n"
           "  ffn_forward_backward         16 experts, 128 clients, 2048 rows a call, forward + "
           "backward with Adam\n"
           "  ffn_forward                  the same, forward\n"
           "  ffn_small_batch              4 experts, 128 clients, 32 rows, forward\n"
           "  ffn_small_batch_512clients   1 expert, 512 clients, 1 row, forward + backward\n"
           "  ffn_massive                  16 experts, 512 clients, 512 rows, forward\n"
           "  minimalistic                 1 expert, 1 client, 2048 rows, forward + backward\n"
           "  nop                          16 experts that give back their input, 128 clients, "
           "2048 rows, forward\n";
}

#define AT(member) offsetof(struct bench_conf, member)
const struct hm_option bench_options[] = {
    {"preset", HM_OPTION_STRING, "nop", "NAME", "one of those above", AT(preset), 0, 0},
    {"experts", HM_OPTION_U32, NULL, "COUNT", "experts on the server", AT(experts), 1, 1024},
    {"kind", HM_OPTION_STRING, NULL, "KIND", "ffn, nop, or nop_delay (with --delay)", AT(kind), 0,
     0},
    {"delay", HM_OPTION_DURATION, NULL, "TIME", "what a batch of a nop_delay takes", AT(delay),
     1e-6, 60},
    {"dtype", HM_OPTION_STRING, "f32", "NAME", "what experts multiply in: f32 or bf16", AT(dtype),
     0, 0},
    {"hidden", HM_OPTION_U32, "1024", "COLUMNS", "features of a row", AT(hidden), 1, 65536},
    {"rows", HM_OPTION_U32, NULL, "ROWS", "rows a call", AT(rows), 1, 1 << 20},
    {"batch-rows-max", HM_OPTION_U32, NULL, "ROWS", "the server's bound on a batch",
     AT(batch_rows_max), 1, 1 << 20},
    {"clients", HM_OPTION_U32, NULL, "COUNT", "callers, each with one call at a time", AT(clients),
     1, 4096},
    {"client-processes", HM_OPTION_U32, NULL, "COUNT",
     "processes that they share; none given: 8 at most", AT(client_processes), 1,
     BENCH_PROCESSES_MAX},
    {"blocking", HM_OPTION_BOOL, "false", NULL,
     "each caller a thread that waits; else a process' loop has them all", AT(blocking), 0, 0},
    {"seconds", HM_OPTION_DURATION, "3s", "TIME", "how long they call", AT(duration), 0.01, 3600},
    {"batches", HM_OPTION_U32, NULL, "COUNT",
     "calls (or forward-backward pairs) a client, instead of a time", AT(batches), 1, 1e9},
    {"repeats", HM_OPTION_U32, "1", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     BENCH_REPEATS_MAX},
    {"backward", HM_OPTION_BOOL, "false", NULL, "train as well, where the preset only asks",
     AT(backward), 0, 0},
    {"forward-only", HM_OPTION_BOOL, "false", NULL, "only ask, where the preset trains as well",
     AT(forward_only), 0, 0},
    {"transport", HM_OPTION_STRING, "tcp", "NAME",
     "tcp, or ucx: server and clients of one cluster, over shared memory or what UCX finds",
     AT(transport), 0, 0},
    {"codec", HM_OPTION_STRING, "none", "NAME", "how rows travel: none, f16, bf16 or u8", AT(codec),
     0, 0},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT",
     "threads that compute on the server; 0: one a processor", AT(lane_threads), 0, 1024},
    {"times", HM_OPTION_U32, NULL, "COUNT",
     "measure the stages of one call in so many; none given: all large ones, 1 in 64 small ones",
     AT(times), 1, 1e9},
    {"limit", HM_OPTION_BOOL, "true", NULL,
     "run the raw program too, half of the time before and half after", AT(limit), 0, 0},
    {"timeout", HM_OPTION_DURATION, "60s", "TIME", "of a call", AT(timeout), 0.01, 3600},
    {"deadline", HM_OPTION_DURATION, NULL, "TIME", "(of bench overload)", AT(deadline), 0.001, 60},
    {"seed", HM_OPTION_U64, "0", "SEED", "which experts are called", AT(seed), 0, 0},
    {"join", HM_OPTION_STRING, NULL, "hm://…", "(used between the benchmark's own processes)",
     AT(join), 0, 0},
    {"place", HM_OPTION_U32, "0", "INDEX", "(likewise)", AT(place), 0, BENCH_PROCESSES_MAX},
    {"share", HM_OPTION_U32, "1", "COUNT", "(likewise)", AT(share), 0, 4096},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON", AT(json), 0, 0},
};
const unsigned bench_option_count = HM_COUNT_OF(bench_options);

enum hm_status bench_work_check(struct bench_conf *conf)
{
    const char *names[HM_COUNT_OF(presets)];
    const struct preset *preset = NULL;
    for (unsigned i = 0; i < HM_COUNT_OF(presets); i++) {
        names[i] = presets[i].name;
        if (strcmp(conf->preset, presets[i].name) == 0) preset = &presets[i];
    }
    if (!preset) {
        const char *near = hm_nearest_name(conf->preset, names, HM_COUNT_OF(presets));
        return hm_fail(HM_ERR_INVALID,
                       "no preset '%s'%s%s; hivemind bench throughput --help lists them",
                       conf->preset, near ? "; did you mean " : "", near ? near : "");
    }
    if (strcmp(conf->transport, "tcp") != 0 && strcmp(conf->transport, "ucx") != 0)
        return hm_fail(HM_ERR_INVALID, "--transport is '%s'; it can be tcp or ucx",
                       conf->transport);
    if (!hm_codec_by_name(conf->codec)) return HM_ERR_INVALID;
    if (conf->backward && conf->forward_only)
        return hm_fail(HM_ERR_INVALID, "give --backward or --forward-only, not both");
    if (!conf->kind) conf->kind = preset->kind;
    bool sleeps = strcmp(conf->kind, "nop_delay") == 0;
    if (strcmp(conf->kind, "ffn") != 0 && strcmp(conf->kind, "nop") != 0 && !sleeps)
        return hm_fail(HM_ERR_INVALID, "--kind is '%s'; it can be ffn, nop or nop_delay",
                       conf->kind);
    if (sleeps != (conf->delay > 0))
        return hm_fail(HM_ERR_INVALID, sleeps ? "--kind nop_delay needs the time that a batch "
                                                "takes: --delay 2ms"
                                              : "--delay belongs to --kind nop_delay");
    const struct hm_expert_conf expert = {
        .kind = conf->kind, .hidden = conf->hidden, .delay = conf->delay};
    struct hm_plan plan;
    enum hm_status status = hm_expert_kind_find(conf->kind)->plan(&expert, &plan);
    if (status) return status;
    if (strcmp(conf->dtype, "f32") != 0 && strcmp(conf->dtype, "bf16") != 0)
        return hm_fail(HM_ERR_INVALID, "--dtype is '%.20s'; it can be f32 or bf16", conf->dtype);
    if (!conf->experts) conf->experts = preset->experts;
    if (!conf->rows) conf->rows = preset->rows;
    if (!conf->batch_rows_max) conf->batch_rows_max = preset->batch_rows_max;
    if (!conf->clients) conf->clients = preset->clients;
    conf->backward = (preset->backward || conf->backward) && !conf->forward_only;
    conf->forward_only = !conf->backward; /* as our own processes are told */
    if (!conf->times)
        conf->times = (uint64_t)conf->rows * conf->hidden >= LARGE_ELEMENTS ? 1 : HM_STAGES_EVERY;
    if (!conf->client_processes)
        conf->client_processes =
            conf->clients < PROCESSES_STANDARD ? conf->clients : PROCESSES_STANDARD;
    if (conf->client_processes > conf->clients) conf->client_processes = conf->clients;
    return HM_OK;
}

int bench_work_parse(struct hm_options *options, struct bench_conf *conf, const char *usage,
                     int argc, char **argv)
{
    hm_options_init(options);
    hm_options_add(options, "Benchmark", bench_options, bench_option_count, conf);
    int code = cli_parse(options, usage, argc, argv);
    if (code != CLI_GO_ON) return code;
    enum hm_status status = bench_work_check(conf);
    return status ? cli_fail(CLI_USAGE, status) : CLI_GO_ON;
}

void bench_work_json(const struct bench_conf *conf, struct hm_json *json)
{
    hm_json_string(json, "preset", conf->preset);
    hm_json_string(json, "kind", conf->kind);
    hm_json_string(json, "dtype", conf->dtype);
    hm_json_string(json, "transport", conf->transport);
    hm_json_string(json, "codec", conf->codec);
    hm_json_uint(json, "experts", conf->experts);
    hm_json_uint(json, "hidden", conf->hidden);
    hm_json_uint(json, "rows", conf->rows);
    hm_json_uint(json, "clients", conf->clients);
    hm_json_uint(json, "client_processes", conf->client_processes);
    hm_json_bool(json, "blocking", conf->blocking);
    hm_json_bool(json, "backward", conf->backward);
    hm_json_uint(json, "repeats", conf->repeats);
}

/* ---- between our own processes --------------------------------------------------------------- */

static bool format(const struct hm_option *option, const struct bench_conf *conf, char *text)
{
    const void *value = (const char *)conf + option->offset;
    int bytes = 0;
    switch (option->kind) {
    case HM_OPTION_BOOL:
        bytes = snprintf(text, BENCH_ARGUMENT_BYTES, "--%s%s", *(const bool *)value ? "" : "no-",
                         option->name);
        break;
    case HM_OPTION_U32:
        if (*(const uint32_t *)value == 0 && option->min > 0) return false; /* not given */
        bytes =
            snprintf(text, BENCH_ARGUMENT_BYTES, "--%s=%u", option->name, *(const uint32_t *)value);
        break;
    case HM_OPTION_U64:
        bytes = snprintf(text, BENCH_ARGUMENT_BYTES, "--%s=%llu", option->name,
                         (unsigned long long)*(const uint64_t *)value);
        break;
    case HM_OPTION_DURATION:
        if (*(const hm_ns *)value == 0 && option->min > 0) return false; /* likewise */
        bytes = snprintf(text, BENCH_ARGUMENT_BYTES, "--%s=%lluus", option->name,
                         (unsigned long long)(*(const hm_ns *)value / HM_US));
        break;
    case HM_OPTION_STRING:
        if (!*(const char *const *)value) return false;
        bytes = snprintf(text, BENCH_ARGUMENT_BYTES, "--%s=%s", option->name,
                         *(const char *const *)value);
        break;
    default: HM_ASSERT(false); /* no option of ours */
    }
    HM_ASSERT(bytes < BENCH_ARGUMENT_BYTES);
    return true;
}

void bench_arguments(struct bench_arguments *arguments, const char *first, const char *second,
                     const struct bench_conf *conf)
{
    HM_ASSERT(bench_option_count <= BENCH_ARGUMENTS_MAX);
    unsigned count = 0;
    arguments->argument[count++] = first;
    arguments->argument[count++] = second;
    for (unsigned i = 0; i < bench_option_count; i++)
        if (format(&bench_options[i], conf, arguments->text[i]))
            arguments->argument[count++] = arguments->text[i];
    arguments->argument[count] = NULL;
}

/* 64 hexadecimal digits. */
static bool key_read(uint8_t key[HM_FABRIC_KEY_BYTES])
{
    char line[2 * HM_FABRIC_KEY_BYTES + 2];
    unsigned byte;
    bool good = fgets(line, sizeof line, stdin) != NULL;
    for (unsigned i = 0; i < HM_FABRIC_KEY_BYTES && good; i++) {
        good = sscanf(line + 2 * i, "%2x", &byte) == 1;
        if (good) key[i] = (uint8_t)byte;
    }
    OPENSSL_cleanse(line, sizeof line);
    return good;
}

int bench_node_open(const struct bench_conf *conf, bool hosts, struct hm_node **node)
{
    uint8_t key[HM_FABRIC_KEY_BYTES];
    struct cli_node_conf node_conf = {0};
    bool fabric = strcmp(conf->transport, "ucx") == 0;
    hm_options_defaults(hosts ? cli_host_options : cli_join_options,
                        hosts ? cli_host_option_count : cli_join_option_count, &node_conf);
    node_conf.new_swarm = hosts;
    node_conf.join = conf->join;
    node_conf.listen = "127.0.0.1:0";
    node_conf.memory_bytes = (size_t)8 << 30; /* a bound; taken as needed */
    node_conf.fabric = fabric ? "auto" : "none";
    if (fabric && !key_read(key)) return cli_fail(CLI_FAILED, HM_ERR_CANCELED);
    if (fabric) node_conf.fabric_secret = key;
    int code = cli_node_open(&node_conf, hosts, node);
    OPENSSL_cleanse(key, sizeof key);
    if (code != CLI_GO_ON || !fabric) return code;
    struct hm_node_paths paths;
    enum hm_status status = hm_node_paths(*node, &paths);
    if (!status && !paths.fabric)
        status = hm_fail(HM_ERR_UNSUPPORTED, "--transport ucx: UCX could not be opened here");
    return status ? cli_fail(CLI_FAILED, status) : code;
}
