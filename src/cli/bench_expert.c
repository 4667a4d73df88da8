/* cli/bench_expert.c - hivemind bench expert: an expert of this process, without server and network,
 * beside raw oneDNN.
 *
 * Happy:  for each number of rows a forward pass, and a training step (forward, gradients, Adam);
 *         then Adam's pass alone.  In a round each is run by ours, then by perf-raw_ffn; figures are
 *         medians of the rounds, a ratio the median of the rounds' ratios.
 * Fails:  an option that makes no sense is one line; without perf-raw_ffn there is no limit. */
#include "base/json.h"
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/bench_raw.h"
#include "cli/cli.h"
#include "experts/expert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "hivemind bench expert - one ffn expert on this machine's processors, without a server: "
    "forward, training,\n"
    "and the pass of its optimizer (Adam) alone.\n"
    "\n"
    "  hivemind bench expert\n"
    "  hivemind bench expert --rows 32,256,2048 --dtype bf16 --repeats 5 --json\n"
    "\n"
    "The limit is perf-raw_ffn, the same mathematics in plain oneDNN (cmake --build build --target "
    "perf).\n";

enum { SIZES_MAX = 16, ROWS_MAX = 1 << 16 };
struct conf {
    const char *pass, *rows, *dtype;
    uint32_t hidden, threads, repeats;
    hm_ns duration;
    bool limit, json;
};
#define AT(member) offsetof(struct conf, member)
static const struct hm_option options_of_expert[] = {
    {"pass", HM_OPTION_STRING, NULL, "NAME", "only this one: forward, train or adam", AT(pass), 0,
     0},
    {"rows", HM_OPTION_STRING, "32,256", "ROWS,...", "of a batch", AT(rows), 0, 0},
    {"dtype", HM_OPTION_STRING, "f32", "NAME", "what it multiplies in: f32 or bf16", AT(dtype), 0,
     0},
    {"hidden", HM_OPTION_U32, "1024", "COLUMNS", "features of a row", AT(hidden), 1, 8192},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT", "threads that compute; 0: one a processor",
     AT(threads), 0, 1024},
    {"seconds", HM_OPTION_DURATION, "500ms", "TIME", "of each measurement", AT(duration), 0.01, 60},
    {"repeats", HM_OPTION_U32, "1", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     BENCH_ROUNDS_MAX},
    {"limit", HM_OPTION_BOOL, "true", NULL, "run the raw program too", AT(limit), 0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON a case", AT(json), 0, 0},
};

enum pass { FORWARD, TRAIN, ADAM, PASSES };
static const char *const pass_names[] = {"forward", "train", "adam"}; /* also perf-raw_ffn's */

struct bench {
    struct conf conf;
    enum pass only; /* PASSES: all */
    uint32_t rows[SIZES_MAX], rows_max;
    unsigned sizes;
    struct hm_exec exec;
    struct hm_expert *expert;
    struct hm_span x, dy, y; /* rows_max rows each */
    const char *raw_dtype;
    bool raw;
};

/* ---- a measurement --------------------------------------------------------------------------- */

static enum hm_status run(struct bench *bench, enum pass pass, uint32_t rows)
{
    uint32_t hidden = bench->conf.hidden;
    struct hm_tensor x = hm_matrix_f32(bench->x.base, rows, hidden),
                     dy = hm_matrix_f32(bench->dy.base, rows, hidden),
                     y = hm_matrix_f32(bench->y.base, rows, hidden);
    enum hm_status status = HM_OK;
    switch (pass) {
    case FORWARD: status = hm_expert_forward(bench->expert, &bench->exec, &x, &y); break;
    case TRAIN: status = hm_expert_backward(bench->expert, &bench->exec, &x, &dy, &y); break;
    case ADAM: status = hm_expert_optimize(bench->expert, &bench->exec); break;
    case PASSES: break; /* none */
    }
    return status ? status : bench->exec.device->ops->sync(bench->exec.stream);
}

/* Milliseconds a pass, of as many as the time takes; the first is not counted. */
static enum hm_status ours(struct bench *bench, enum pass pass, uint32_t rows, double *ms)
{
    enum hm_status status = run(bench, pass, rows);
    hm_ns began = cli_now(), took = 0;
    unsigned passes = 0;
    while (!status && (passes < 2 || took < bench->conf.duration)) {
        status = run(bench, pass, rows);
        passes++;
        took = cli_now() - began;
    }
    if (!status) *ms = (double)took / 1e6 / passes;
    return status;
}

static double raw(struct bench *bench, enum pass pass, uint32_t rows)
{
    char text[16], line[1024];
    snprintf(text, sizeof text, "%u", rows);
    if (!bench->raw || !bench_raw_ffn(pass_names[pass], text, bench->conf.hidden, &bench->raw_dtype,
                                      (double)bench->conf.duration / 1e9, line, sizeof line))
        return NAN;
    return bench_raw_number(line, "ms");
}

/* ---- what is said ---------------------------------------------------------------------------- */

struct figures {
    double ours[BENCH_ROUNDS_MAX], raw[BENCH_ROUNDS_MAX], ratio[BENCH_ROUNDS_MAX];
};

static double millions(const struct bench *bench)
{
    return (double)hm_expert_plan(bench->expert)->parameter_elements / 1e6;
}

static void print_json(const struct bench *bench, enum pass pass, uint32_t rows, double ms,
                       double raw_ms, double ratio)
{
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "expert");
    hm_json_string(&json, "pass", pass_names[pass]);
    hm_json_string(&json, "dtype", bench->conf.dtype);
    hm_json_uint(&json, "hidden", bench->conf.hidden);
    hm_json_uint(&json, "parameters", hm_expert_plan(bench->expert)->parameter_elements);
    if (pass != ADAM) hm_json_uint(&json, "rows", rows);
    hm_json_uint(&json, "repeats", bench->conf.repeats);
    hm_json_double(&json, "ms", ms);
    if (pass != ADAM) hm_json_double(&json, "rows_per_second", rows / ms * 1e3);
    if (!isnan(ratio)) {
        hm_json_double(&json, "limit_ms", raw_ms);
        if (pass != ADAM) hm_json_double(&json, "limit_rows_per_second", rows / raw_ms * 1e3);
        hm_json_string(&json, "limit_dtype", bench->raw_dtype);
        hm_json_double(&json, "ratio", ratio);
    }
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

static void print_row(enum pass pass, uint32_t rows, double ms, double raw_ms, double ratio)
{
    char speed[32] = "-", raw_speed[32] = "-";
    if (pass != ADAM) snprintf(speed, sizeof speed, "%.0f", rows / ms * 1e3);
    if (pass != ADAM && !isnan(ratio))
        snprintf(raw_speed, sizeof raw_speed, "%.0f", rows / raw_ms * 1e3);
    printf("  %-8s", pass_names[pass]);
    pass == ADAM ? printf(" %6s", "-") : printf(" %6u", rows);
    printf(" %11.2f %11s", ms, speed);
    isnan(ratio) ? printf("\n") : printf(" %11.2f %11s %7.2f\n", raw_ms, raw_speed, ratio);
}

static enum hm_status measure(struct bench *bench, enum pass pass, uint32_t rows)
{
    static struct figures figures;
    unsigned repeats = bench->conf.repeats;
    for (unsigned i = 0; i < repeats; i++) {
        enum hm_status status = ours(bench, pass, rows, &figures.ours[i]);
        if (status) return status;
        figures.raw[i] = raw(bench, pass, rows);
        figures.ratio[i] = figures.raw[i] / figures.ours[i];
    }
    double ms = bench_median(figures.ours, repeats), raw_ms = bench_median(figures.raw, repeats),
           ratio = bench_median(figures.ratio, repeats);
    if (bench->conf.json)
        print_json(bench, pass, rows, ms, raw_ms, ratio);
    else
        print_row(pass, rows, ms, raw_ms, ratio);
    fflush(stdout);
    return HM_OK;
}

static void print_head(const struct bench *bench)
{
    enum hm_bf16_way way;
    const char *text = bench->exec.device->ops->bf16_text(bench->exec.device, &way);
    bool bf16 = strcmp(bench->conf.dtype, "bf16") == 0;
    printf("ffn of %u columns, %.1f M parameters, %s%s%s%s\n", bench->conf.hidden, millions(bench),
           bench->conf.dtype, bf16 ? " (" : "", bf16 ? text : "", bf16 ? ")" : "");
    printf("  %-8s %6s %11s %11s", "pass", "rows", "ours, ms", "rows/s");
    if (bench->raw)
        printf(" %11s %11s %7s\n", "raw_ffn, ms", "rows/s", "ratio");
    else
        printf("  (no limit: %s)\n",
               bench->conf.limit ? "perf-raw_ffn is not built" : "not asked for");
}

/* ---- the command ----------------------------------------------------------------------------- */

static enum hm_status check(struct bench *bench)
{
    const char *at = bench->conf.rows, *dtype = bench->conf.dtype, *pass = bench->conf.pass;
    bench->only = PASSES;
    for (enum pass i = 0; pass && i < PASSES; i++)
        if (strcmp(pass, pass_names[i]) == 0) bench->only = i;
    if (pass && bench->only == PASSES)
        return hm_fail(HM_ERR_INVALID, "--pass is '%.20s'; it can be forward, train or adam", pass);
    if (strcmp(dtype, "f32") != 0 && strcmp(dtype, "bf16") != 0)
        return hm_fail(HM_ERR_INVALID, "--dtype is '%.20s'; it can be f32 or bf16", dtype);
    do {
        char *rest;
        unsigned long rows = *at >= '0' && *at <= '9' ? strtoul(at, &rest, 10) : 0;
        if (rows == 0 || rows > ROWS_MAX || (*rest != ',' && *rest != 0) ||
            bench->sizes == SIZES_MAX)
            return hm_fail(
                HM_ERR_INVALID,
                "--rows is '%.80s'; it is a list of at most %d numbers, 32,256, up to %d",
                bench->conf.rows, SIZES_MAX, ROWS_MAX);
        bench->rows[bench->sizes++] = (uint32_t)rows;
        if (rows > bench->rows_max) bench->rows_max = (uint32_t)rows;
        at = *rest ? rest + 1 : NULL;
    } while (at);
    return HM_OK;
}

static void fill(const struct hm_span *span, float range)
{
    struct hm_rng rng;
    float *value = span->base;
    hm_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < span->bytes / sizeof *value; i++) value[i] = range * hm_rng_normal(&rng);
}

/* On failure close_all frees those that are there. */
static enum hm_status open_all(struct bench *bench)
{
    const struct conf *conf = &bench->conf;
    const struct hm_expert_conf expert = {
        .kind = "ffn",
        .hidden = conf->hidden,
        .dtype = strcmp(conf->dtype, "bf16") == 0 ? HM_BF16 : HM_F32,
        .optimizer = "adam",
        .rate = 1e-5f, /* thousands of steps with the same rows */
    };
    struct hm_exec *exec = &bench->exec;
    enum hm_status status = hm_device_cpu_create(&exec->device);
    if (status) return status;
    hm_device_cpu_team(conf->threads);
    const struct hm_device_ops *op = exec->device->ops;
    status = op->stream_create(exec->device, &exec->stream);
    if (!status) status = hm_expert_create(exec->device, "ffn.0", &expert, &bench->expert);
    if (status) return status;
    size_t row_bytes = conf->hidden * sizeof(float);
    struct hm_span *spans[] = {&bench->x, &bench->dy, &bench->y};
    for (unsigned i = 0; i < HM_COUNT_OF(spans) && !status; i++)
        status = op->alloc(exec->device, bench->rows_max * row_bytes, spans[i]);
    if (!status)
        status = op->alloc(exec->device,
                           bench->rows_max * hm_expert_plan(bench->expert)->scratch_bytes_per_row,
                           &exec->scratch);
    if (status) return status;
    fill(&bench->x, 1.0f);
    fill(&bench->dy, 1e-3f);
    return HM_OK;
}

static void close_all(struct bench *bench)
{
    struct hm_device *device = bench->exec.device;
    if (!device) return;
    struct hm_span *spans[] = {&bench->x, &bench->dy, &bench->y, &bench->exec.scratch};
    for (unsigned i = 0; i < HM_COUNT_OF(spans); i++) device->ops->free(device, spans[i]);
    hm_expert_destroy(bench->expert);
    if (bench->exec.stream) device->ops->stream_destroy(bench->exec.stream);
    hm_device_destroy(device);
}

static enum hm_status measure_all(struct bench *bench)
{
    enum hm_status status = open_all(bench);
    if (!status && !bench->conf.json) print_head(bench);
    for (enum pass pass = FORWARD; pass < PASSES && !status; pass++) {
        if (bench->only != PASSES && bench->only != pass) continue;
        /* The optimizer works on gradients, of as many rows as you like. */
        if (pass == ADAM) status = run(bench, TRAIN, bench->rows_max);
        for (unsigned i = 0; i < (pass == ADAM ? 1 : bench->sizes) && !status; i++)
            status = measure(bench, pass, bench->rows[i]);
    }
    close_all(bench);
    return status;
}

int bench_expert(int argc, char **argv)
{
    static struct bench bench;
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", options_of_expert, HM_COUNT_OF(options_of_expert),
                   &bench.conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON && check(&bench)) code = cli_fail(CLI_USAGE, HM_ERR_INVALID);
    if (code == CLI_GO_ON) {
        bench.raw_dtype = bench.conf.dtype;
        bench.raw = bench.conf.limit && bench_raw_there("raw_ffn");
        enum hm_status status = measure_all(&bench);
        code = status ? cli_fail(CLI_FAILED, status) : CLI_OK;
    }
    hm_options_fini(&options);
    return code;
}
