/* cli/bench_codec.c - hivemind bench codec: rows coded and decoded, on one thread.
 *
 * Speeds are of f32: bytes of rows over the time to code them (or decode, or both one after the
 * other).  The limit is memcpy of the same rows in the same round; a figure is the median of the
 * rounds, a ratio the median of the rounds' ratios. */
#include "base/rng.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "tensor/codec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "hivemind bench codec - how fast one core codes rows for the wire and decodes them, beside "
    "memcpy.\n"
    "\n"
    "  hivemind bench codec\n"
    "  hivemind bench codec --codec u8 --bytes 8M --columns 4096 --json\n";

enum { DRAWN_MAX = 1 << 20 };
static const size_t sizes[] = {(size_t)1 << 20, (size_t)8 << 20, (size_t)128 << 20};

struct conf {
    const char *codec;
    size_t bytes;
    uint32_t columns, repeats;
    bool json;
};
#define AT(member) offsetof(struct conf, member)
static const struct hm_option options_table[] = {
    {"codec", HM_OPTION_STRING, NULL, "NAME", "only this one", AT(codec), 0, 0},
    {"bytes", HM_OPTION_BYTES, NULL, "BYTES", "of rows; none given: 1, 8 and 128 MiB", AT(bytes),
     4096, 1e10},
    {"columns", HM_OPTION_U32, "1024", "COLUMNS", "of a row", AT(columns), 1, 65536},
    {"repeats", HM_OPTION_U32, "5", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     BENCH_ROUNDS_MAX},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON a case", AT(json), 0, 0},
};

/* One codec at one size. */
struct codec_case {
    const struct conf *conf;
    const struct hm_codec *codec;
    uint32_t rows;
    size_t bytes; /* of the rows as f32 */
    float *row, *back;
    uint8_t *coded;
    double copy[BENCH_ROUNDS_MAX], encode[BENCH_ROUNDS_MAX],
        decode[BENCH_ROUNDS_MAX]; /* seconds a pass */
};

enum what { COPY, ENCODE, DECODE };

/* One pass; what is written is used afterwards, or a compiler might leave it out. */
static enum hm_status pass(const struct codec_case *c, enum what what)
{
    switch (what) {
    case COPY:
        memcpy(c->back, c->row, c->bytes);
        __asm__ volatile("" : : "r"(c->back) : "memory");
        break;
    case ENCODE:
        return hm_codec_encode(c->codec, c->row, c->conf->columns, NULL, c->rows, c->coded);
    case DECODE:
        return hm_codec_decode(c->codec, c->coded, c->conf->columns, NULL, NULL, c->rows, c->back);
    }
    return HM_OK;
}

/* Seconds a pass, of as many as take 20 ms. */
static enum hm_status clock_pass(const struct codec_case *c, enum what what, double *seconds)
{
    hm_ns before = cli_now(), took = 0;
    unsigned passes = 0;
    while (took < 20 * HM_MS) {
        enum hm_status status = pass(c, what);
        if (status) return status;
        passes++;
        took = cli_now() - before;
    }
    *seconds = (double)took / 1e9 / passes;
    return HM_OK;
}

/* Root of the mean square of the error, over that of the values. */
static double rms_error(const struct codec_case *c)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < c->bytes / sizeof(float); i++) {
        double off = (double)c->back[i] - c->row[i];
        error += off * off;
        size += (double)c->row[i] * c->row[i];
    }
    return sqrt(error / size);
}

static void print(const struct codec_case *c)
{
    const struct conf *conf = c->conf;
    double both[BENCH_ROUNDS_MAX], ratio[BENCH_ROUNDS_MAX], gigabytes = (double)c->bytes / 1e9;
    for (unsigned i = 0; i < conf->repeats; i++) {
        both[i] = c->encode[i] + c->decode[i];
        ratio[i] = c->copy[i] / both[i];
    }
    double copy_speed = gigabytes / bench_median(c->copy, conf->repeats),
           encode_speed = gigabytes / bench_median(c->encode, conf->repeats),
           decode_speed = gigabytes / bench_median(c->decode, conf->repeats),
           both_speed = gigabytes / bench_median(both, conf->repeats),
           limit_ratio = bench_median(ratio, conf->repeats), error = rms_error(c);
    double bytes_ratio = (double)hm_codec_row_bytes(c->codec, conf->columns) /
                         (double)(conf->columns * sizeof(float));
    if (!conf->json) {
        printf("%-5s %6.1f MiB  encode %5.1f  decode %5.1f  both %5.1f GB/s  memcpy %5.1f  ratio "
               "%.2f  error %.3f %%  bytes %.1f %%\n",
               c->codec->name, (double)c->bytes / (1 << 20), encode_speed, decode_speed, both_speed,
               copy_speed, limit_ratio, 100 * error, 100 * bytes_ratio);
        return;
    }
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "codec");
    hm_json_string(&json, "codec", c->codec->name);
    hm_json_string(&json, "instructions", hm_codec_instructions());
    hm_json_uint(&json, "bytes", c->bytes);
    hm_json_uint(&json, "columns", conf->columns);
    hm_json_double(&json, "encode_gb_per_second", encode_speed);
    hm_json_double(&json, "decode_gb_per_second", decode_speed);
    hm_json_double(&json, "both_gb_per_second", both_speed);
    hm_json_double(&json, "limit_memcpy_gb_per_second", copy_speed);
    hm_json_double(&json, "ratio", limit_ratio);
    hm_json_double(&json, "rms_error", error);
    hm_json_double(&json, "bytes_ratio", bytes_ratio);
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

/* Gaussian rows; large ones repeat what was drawn, which no codec notices. */
static void fill(float *row, size_t count)
{
    struct hm_rng rng;
    size_t drawn = count < DRAWN_MAX ? count : DRAWN_MAX;
    hm_rng_init(&rng, 1, 0);
    for (size_t i = 0; i < drawn; i++) row[i] = hm_rng_normal(&rng);
    for (size_t i = drawn; i < count; i++) row[i] = row[i - drawn];
}

static enum hm_status run_case(const struct conf *conf, uint8_t id, size_t bytes)
{
    size_t row_bytes = conf->columns * sizeof(float);
    struct codec_case c = {.conf = conf, .codec = hm_codec_find(id)};
    c.rows = bytes < row_bytes ? 1 : (uint32_t)(bytes / row_bytes);
    c.bytes = c.rows * row_bytes;
    c.row = malloc(c.bytes);
    c.back = malloc(c.bytes);
    c.coded = malloc(c.bytes);
    enum hm_status status = c.row && c.back && c.coded ? HM_OK : HM_ERR_NO_MEMORY;
    if (status) goto free_all;
    fill(c.row, c.bytes / sizeof(float));
    memset(c.coded, 0, c.bytes); /* no page is touched for the first time while the clock runs */
    memset(c.back, 0, c.bytes);
    for (unsigned i = 0; i < conf->repeats && !status; i++) {
        status = clock_pass(&c, COPY, &c.copy[i]);
        if (!status) status = clock_pass(&c, ENCODE, &c.encode[i]);
        if (!status) status = clock_pass(&c, DECODE, &c.decode[i]);
    }
    if (!status) print(&c);
free_all:
    free(c.row);
    free(c.back);
    free(c.coded);
    return status;
}

int bench_codec(int argc, char **argv)
{
    struct conf conf;
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", options_table, HM_COUNT_OF(options_table), &conf);
    int code = cli_parse(&options, usage, argc, argv);
    const struct hm_codec *only = NULL;
    if (code == CLI_GO_ON && conf.codec) {
        only = hm_codec_by_name(conf.codec);
        if (!only) code = cli_fail(CLI_USAGE, HM_ERR_INVALID);
    }
    if (code == CLI_GO_ON) {
        enum hm_status status = HM_OK;
        if (!conf.json)
            printf("%u columns, one thread, %s, median of %u rounds\n", conf.columns,
                   hm_codec_instructions(), conf.repeats);
        for (unsigned i = 0; i < (conf.bytes ? 1 : HM_COUNT_OF(sizes)) && !status; i++) {
            for (uint8_t id = 0; id < HM_CODEC_COUNT && !status; id++) {
                if (only && only->id != id) continue;
                status = run_case(&conf, id, conf.bytes ? conf.bytes : sizes[i]);
            }
        }
        code = status ? cli_fail(CLI_FAILED, status) : CLI_OK;
    }
    hm_options_fini(&options);
    return code;
}
