/* cli/bench_transport.c - hivemind bench transport: two processes with a transport and nothing
 * above it, beside the raw program of that transport, and ucx_perftest where it is.
 *
 * Happy:  for each size and round, one after the other, in turns: ours, the raw program,
 *         ucx_perftest; once a message at a time (latency), once a window of them (stream).  Of each
 *         figure, and of each ratio within a round, the median of the rounds is printed.
 * Fails:  ours must run; a raw program that is not there, or fails, leaves its figures out. */
#include "cli/bench_transport.h"
#include "cli/bench.h"
#include "cli/bench_perftest.h"
#include "cli/bench_raw.h"
#include "cli/child.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "hivemind bench transport - latency and bandwidth of a transport alone, between two "
    "processes.\n"
    "\n"
    "  hivemind bench transport --transport ucx --wait busy\n"
    "  hivemind bench transport --transport tcp --size 8,4K,1M --repeats 5 --json\n"
    "\n"
    "Beside it the same by perf-raw_ucx_echo or perf-raw_tls_echo (cmake --build build --target "
    "perf), and by\n"
    "ucx_perftest: the limits.  Round trips: a payload goes there and comes back.  Streams: one "
    "way, until the\n"
    "other side has it all in its memory.  The two have a processor each.  UCX goes over shared "
    "memory, or what HM_UCX_TLS says.\n";

enum { SIZES_MAX = 16 };
struct conf {
    const char *transport, *wait, *size;
    uint32_t window, repeats;
    hm_ns duration;
    bool perftest, json;
};
#define AT(member) offsetof(struct conf, member)
static const struct hm_option options_of_transport[] = {
    {"transport", HM_OPTION_STRING, "ucx", "NAME", "tcp or ucx", AT(transport), 0, 0},
    {"wait", HM_OPTION_STRING, "wakeup", "HOW", "wakeup, or busy: never sleep (ucx)", AT(wait), 0,
     0},
    {"size", HM_OPTION_STRING, "8,64,512,4K,32K,256K,1M", "BYTES,...", "of a payload", AT(size), 0,
     0},
    {"window", HM_OPTION_U32, "32", "COUNT", "payloads in flight in a stream", AT(window), 1, 256},
    {"seconds", HM_OPTION_DURATION, "300ms", "TIME", "of each measurement", AT(duration), 0.05, 60},
    {"repeats", HM_OPTION_U32, "1", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     TRANSPORT_ROUNDS_MAX},
    {"perftest", HM_OPTION_BOOL, "true", NULL, "run ucx_perftest too, if it is there", AT(perftest),
     0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "a line of JSON a size", AT(json), 0, 0},
};

struct bench {
    struct conf conf;
    bool ucx;
    size_t size[SIZES_MAX];
    unsigned size_count;
    struct transport_rounds rounds;
};

/* ---- ours ------------------------------------------------------------------------------------ */

static enum hm_status ours_start(const struct bench *bench, struct child *child, bool client,
                                 size_t bytes, const char *mode, char *line, size_t line_bytes)
{
    char size[24], window[16], duration[32];
    snprintf(size, sizeof size, "%zu", bytes);
    snprintf(window, sizeof window, "%u", bench->conf.window);
    snprintf(duration, sizeof duration, "%lluus",
             (unsigned long long)(bench->conf.duration / HM_US));
    const char *arguments[] = {"bench",
                               "end",
                               "--transport",
                               bench->conf.transport,
                               "--mode",
                               mode,
                               "--size",
                               size,
                               "--window",
                               window,
                               "--seconds",
                               duration,
                               "--processor",
                               client ? "1" : "0",
                               client ? "--client" : "--no-client",
                               strcmp(bench->conf.wait, "busy") == 0 ? "--busy" : "--no-busy",
                               NULL};
    enum hm_status status = child_start(child, arguments);
    return status ? status : child_line(child, 20 * HM_S, line, line_bytes);
}

static enum hm_status ours_run(const struct bench *bench, size_t bytes, const char *mode,
                               char *report, size_t report_bytes)
{
    struct child server = {0}, client = {0};
    char from_server[4096], from_client[4096];
    enum hm_status status =
        ours_start(bench, &server, false, bytes, mode, from_server, sizeof from_server - 1);
    if (!status)
        status = ours_start(bench, &client, true, bytes, mode, from_client, sizeof from_client - 1);
    strcat(from_server, status ? "" : "\n");
    strcat(from_client, status ? "" : "\n");
    if (!status) status = child_say(&server, from_client);
    if (!status) status = child_say(&client, from_server);
    if (!status)
        status = child_line(&client, bench->conf.duration + 30 * HM_S, report, report_bytes);
    child_stop(&client, 5 * HM_S);
    child_stop(&server, 5 * HM_S);
    return status;
}

static enum hm_status ours(const struct bench *bench, size_t bytes, struct transport_figures *f)
{
    char line[256];
    enum hm_status status = ours_run(bench, bytes, "latency", line, sizeof line);
    if (!status && sscanf(line, "done %lf %lf %lf %lf", &f->mean, &f->p50, &f->p99, &f->p999) != 4)
        status = HM_ERR_CORRUPT;
    if (!status) status = ours_run(bench, bytes, "stream", line, sizeof line);
    if (!status && sscanf(line, "done %lf %lf", &f->messages, &f->megabytes) != 2)
        status = HM_ERR_CORRUPT;
    return status;
}

/* ---- the raw program ------------------------------------------------------------------------- */

static bool raw_run(const struct bench *bench, size_t bytes, const char *mode, char *line,
                    size_t line_bytes)
{
    char size[24], calls[16], seconds[32];
    snprintf(size, sizeof size, "%zu", bytes);
    snprintf(calls, sizeof calls, "%u", bench->conf.window);
    snprintf(seconds, sizeof seconds, "%.6f", (double)bench->conf.duration / 1e9);
    const char *arguments[] = {
        "--mode", mode,     "--bytes",        size,          "--seconds",       seconds, "--calls",
        calls,    "--wait", bench->conf.wait, "--transport", bench->rounds.tls, NULL};
    if (!bench->ucx) arguments[6] = NULL;
    return bench_raw_run(bench->rounds.raw_name, arguments, bench->conf.duration + 30 * HM_S, line,
                         line_bytes);
}

static void raw(const struct bench *bench, size_t bytes, struct transport_figures *f)
{
    char line[1024];
    if (!bench->rounds.raw) return;
    if (raw_run(bench, bytes, "latency", line, sizeof line)) {
        f->mean = bench_raw_number(line, "mean_us");
        f->p50 = bench_raw_number(line, "p50_us");
        f->p99 = bench_raw_number(line, "p99_us");
        f->p999 = bench_raw_number(line, "p999_us");
    }
    if (raw_run(bench, bytes, "stream", line, sizeof line)) {
        f->messages = bench_raw_number(line, "messages_per_second");
        f->megabytes = f->messages * (double)bytes / 1e6;
    }
}

/* ---- ucx_perftest ---------------------------------------------------------------------------- */

/* It wants a count: what the others managed in this time, in this round or the one before, so that it
 * runs about as long as they do. */
static void perftest(const struct bench *bench, size_t bytes, const struct transport_figures *like,
                     struct transport_figures *f)
{
    double seconds = (double)bench->conf.duration / 1e9;
    struct bench_perftest_result result;
    struct bench_perftest what = {.test = "ucp_am_lat",
                                  .bytes = bytes,
                                  .window = bench->conf.window,
                                  .count = seconds * 1e6 / like->mean,
                                  .sleeps = strcmp(bench->conf.wait, "busy") != 0,
                                  .timeout = bench->conf.duration * 20 + 10 * HM_S};
    if (!bench->rounds.perftest || isnan(like->mean) || isnan(like->messages)) return;
    if (bench_perftest_run(&what, &result)) {
        f->mean = 2 * result.mean_us;
        f->p50 = 2 * result.median_us;
    }
    what.test = "ucp_am_bw";
    what.count = seconds * like->messages;
    if (bench_perftest_run(&what, &result)) {
        f->messages = result.messages_per_second;
        f->megabytes = f->messages * (double)bytes / 1e6;
    }
}

/* ---- the command ----------------------------------------------------------------------------- */

static enum hm_status sizes_parse(struct bench *bench)
{
    const char *at = bench->conf.size;
    while (*at) {
        char *rest;
        unsigned long long bytes = strtoull(at, &rest, 10);
        unsigned shift = *rest == 'K' ? 10 : *rest == 'M' ? 20 : 0;
        if (shift > 0) rest++;
        bool good = rest > at && (*rest == ',' || *rest == 0) && bytes > 0 &&
                    bytes <= (1ull << 28) >> shift;
        if (!good || bench->size_count == SIZES_MAX)
            return hm_fail(
                HM_ERR_INVALID,
                "--size is '%.80s'; it is a list of at most %d numbers of bytes, 8,4K,1M, "
                "up to 256M",
                bench->conf.size, SIZES_MAX);
        bench->size[bench->size_count++] = (size_t)(bytes << shift);
        at = *rest ? rest + 1 : rest;
    }
    return HM_OK;
}

static enum hm_status check(struct bench *bench)
{
    const struct conf *conf = &bench->conf;
    bench->ucx = strcmp(conf->transport, "ucx") == 0;
    bool busy = strcmp(conf->wait, "busy") == 0;
    if (!bench->ucx && strcmp(conf->transport, "tcp") != 0)
        return hm_fail(HM_ERR_INVALID, "--transport is '%s'; it can be tcp or ucx",
                       conf->transport);
    if (!busy && strcmp(conf->wait, "wakeup") != 0)
        return hm_fail(HM_ERR_INVALID, "--wait is '%s'; it can be wakeup or busy", conf->wait);
    if (busy && !bench->ucx)
        return hm_fail(HM_ERR_INVALID, "--wait busy is for ucx; tcp sleeps when nothing comes");
    return sizes_parse(bench);
}

/* Who is measured, and how.  The raw program lies beside this one; ucx_perftest is in PATH. */
static void find_others(struct bench *bench)
{
    struct transport_rounds *rounds = &bench->rounds;
    rounds->transport = bench->conf.transport;
    rounds->wait = bench->conf.wait;
    rounds->window = bench->conf.window;
    rounds->repeats = bench->conf.repeats;
    rounds->raw_name = bench->ucx ? "raw_ucx_echo" : "raw_tls_echo";
    rounds->raw = bench_raw_there(rounds->raw_name);
    if (!bench->ucx) return;
    rounds->perftest = bench->conf.perftest && bench_perftest_there();
    rounds->tls = getenv("HM_UCX_TLS") ? getenv("HM_UCX_TLS") : getenv("UCX_TLS");
    if (!rounds->tls) rounds->tls = "posix";
    setenv("UCX_TLS", rounds->tls, 1); /* all three the same */
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1);
    setenv("UCX_KEEPALIVE_INTERVAL", "1s", 1);
}

static enum hm_status measure(struct bench *bench, size_t bytes)
{
    static const struct transport_figures nothing = {NAN, NAN, NAN, NAN, NAN, NAN};
    for (unsigned i = 0; i < bench->conf.repeats; i++) {
        for (enum who who = OURS; who < WHO_COUNT; who++) bench->rounds.figures[who][i] = nothing;
        /* Each round begins with another one: a machine that gets slower is unfair to all. */
        for (unsigned turn = 0; turn < WHO_COUNT; turn++) {
            enum who who = (enum who)((i + turn) % WHO_COUNT);
            struct transport_figures *f = &bench->rounds.figures[who][i];
            const struct transport_figures *last = &bench->rounds.figures[OURS][i];
            if (i > 0 && isnan(last->mean)) last--; /* ours of this round comes later */
            if (who == RAW) raw(bench, bytes, f);
            if (who == PERFTEST) perftest(bench, bytes, last, f);
            enum hm_status status = who == OURS ? ours(bench, bytes, f) : HM_OK;
            if (status)
                return hm_fail(status,
                               "the two processes did not come to an end with %zu bytes (%s)",
                               bytes, hm_status_text(status));
        }
    }
    return HM_OK;
}

int bench_transport(int argc, char **argv)
{
    static struct bench bench;
    struct hm_options options;
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", options_of_transport, HM_COUNT_OF(options_of_transport),
                   &bench.conf);
    int code = cli_parse(&options, usage, argc, argv);
    if (code == CLI_GO_ON) {
        enum hm_status status = check(&bench);
        if (status) code = cli_fail(CLI_USAGE, status);
    }
    if (code == CLI_GO_ON) find_others(&bench);
    if (code == CLI_GO_ON && !bench.conf.json) transport_print_head(&bench.rounds);
    for (unsigned i = 0; i < bench.size_count && code == CLI_GO_ON; i++) {
        enum hm_status status = measure(&bench, bench.size[i]);
        if (status)
            code = cli_fail(CLI_FAILED, status);
        else if (bench.conf.json)
            transport_print_json(&bench.rounds, bench.size[i]);
        else
            transport_print_row(&bench.rounds, bench.size[i]);
    }
    hm_options_fini(&options);
    return code == CLI_GO_ON ? CLI_OK : code;
}
