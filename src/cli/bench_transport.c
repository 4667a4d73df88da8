/* cli/bench_transport.c - hivemind bench transport: two processes with a transport and nothing
 * above it, beside the raw program of that transport, and ucx_perftest where it is.
 *
 * Happy:  for each size and round, one after the other, in turns: ours, the raw program,
 *         ucx_perftest; once a message at a time (latency), once a window of them (stream).  Of each
 *         figure, and of each ratio within a round, the median of the rounds is printed.
 * Fails:  ours must run; a raw program that is not there, or fails, leaves its figures out. */
#include "cli/bench.h"
#include "cli/bench_raw.h"
#include "cli/child.h"
#include "cli/cli.h"

#include <arpa/inet.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

enum { SIZES_MAX = 16, ROUNDS_MAX = 15 };
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
     ROUNDS_MAX},
    {"perftest", HM_OPTION_BOOL, "true", NULL, "run ucx_perftest too, if it is there", AT(perftest),
     0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "a line of JSON a size", AT(json), 0, 0},
};

/* Round trips in us; NAN: not measured. */
struct figures {
    double mean, p50, p99, p999, messages, megabytes;
};
enum who { OURS, RAW, PERFTEST, WHO_COUNT };
struct bench {
    struct conf conf;
    bool ucx;
    const char *tls;
    bool raw, perftest; /* they are there */
    size_t size[SIZES_MAX];
    unsigned size_count;
    struct figures figures[WHO_COUNT][ROUNDS_MAX];
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

static enum hm_status ours(const struct bench *bench, size_t bytes, struct figures *f)
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

static const char *raw_name(const struct bench *bench)
{
    return bench->ucx ? "raw_ucx_echo" : "raw_tls_echo";
}

static bool raw_run(const struct bench *bench, size_t bytes, const char *mode, char *line,
                    size_t line_bytes)
{
    char size[24], calls[16], seconds[32];
    snprintf(size, sizeof size, "%zu", bytes);
    snprintf(calls, sizeof calls, "%u", bench->conf.window);
    snprintf(seconds, sizeof seconds, "%.6f", (double)bench->conf.duration / 1e9);
    const char *arguments[] = {"--mode",      mode,       "--bytes", size,     "--seconds",
                               seconds,       "--calls",  calls,     "--wait", bench->conf.wait,
                               "--transport", bench->tls, NULL};
    if (!bench->ucx) arguments[6] = NULL;
    return bench_raw_run(raw_name(bench), arguments, bench->conf.duration + 30 * HM_S, line,
                         line_bytes);
}

static void raw(const struct bench *bench, size_t bytes, struct figures *f)
{
    char line[1024];
    if (!bench->raw) return;
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

static unsigned port_free(void)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t name_bytes = sizeof name;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool good = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof name) == 0 &&
                getsockname(fd, (struct sockaddr *)&name, &name_bytes) == 0;
    if (fd >= 0) close(fd);
    return good ? ntohs(name.sin_port) : 0;
}

/* The first two that we may use. */
static void processors(char cpu[2][8])
{
    cpu_set_t all;
    unsigned found = 0;
    strcpy(cpu[0], "0");
    strcpy(cpu[1], "0");
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    for (unsigned i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &all)) {
            snprintf(cpu[found], sizeof cpu[found], "%u", i);
            if (found++ == 0) strcpy(cpu[1], cpu[0]);
        }
}

/* The line of results: "Final: <iterations> <one way us: median, mean, mean> <MB/s, MB/s>
 * <messages/s, messages/s>". */
static bool perftest_final(struct child *child, hm_ns timeout, double value[8])
{
    char line[512];
    while (child_line(child, timeout, line, sizeof line) == HM_OK) {
        const char *at = strstr(line, "Final:");
        if (at && sscanf(at + 6, "%lf %lf %lf %lf %lf %lf %lf %lf", &value[0], &value[1], &value[2],
                         &value[3], &value[4], &value[5], &value[6], &value[7]) == 8)
            return true;
    }
    return false;
}

static bool perftest_run(const struct bench *bench, size_t bytes, const char *test, double count,
                         double value[8])
{
    char port[8], size[24], iterations[24], window[16], cpu[2][8];
    struct child server, client;
    bool sleeps = strcmp(bench->conf.wait, "busy") != 0, good = false;
    snprintf(port, sizeof port, "%u", port_free());
    snprintf(size, sizeof size, "%zu", bytes);
    snprintf(iterations, sizeof iterations, "%.0f", count < 100 ? 100 : count);
    snprintf(window, sizeof window, "%u", bench->conf.window);
    const char *mode = sleeps ? "sleep" : "poll";
    processors(cpu);
    const char *listens[] = {"-p", port, "-e", "-E", mode, "-c", cpu[0], NULL};
    const char *asks[] = {
        "127.0.0.1", "-p", port,   "-e",

        "-E",        mode, "-t",   test, "-s",  size, "-n",
        iterations,  "-c", cpu[1], "-w", "100", "-O", strcmp(test, "ucp_am_bw") == 0 ? window : "1",
        NULL};
    if (child_start_program(&server, "ucx_perftest", listens) != HM_OK) return false;
    for (unsigned tries = 0; tries < 20 && !good; tries++) { /* until the server listens */
        if (child_start_program(&client, "ucx_perftest", asks) != HM_OK) break;
        good = perftest_final(&client, bench->conf.duration * 20 + 10 * HM_S, value);
        child_stop(&client, 5 * HM_S);
        if (!good) usleep(50000); /* no loop here */
    }
    child_stop(&server, 5 * HM_S);
    return good;
}

/* It wants a count: what the others managed in this time, in this round or the one before, so that it
 * runs about as long as they do. */
static void perftest(const struct bench *bench, size_t bytes, const struct figures *like,
                     struct figures *f)
{
    double seconds = (double)bench->conf.duration / 1e9, value[8];
    if (!bench->perftest || isnan(like->mean) || isnan(like->messages)) return;
    if (perftest_run(bench, bytes, "ucp_am_lat", seconds * 1e6 / like->mean, value)) {
        f->mean = 2 * value[3];
        f->p50 = 2 * value[1];
    }
    if (perftest_run(bench, bytes, "ucp_am_bw", seconds * like->messages, value)) {
        f->messages = value[7];
        f->megabytes = value[7] * (double)bytes / 1e6;
    }
}

/* ---- figures --------------------------------------------------------------------------------- */

static double figure(const struct figures *f, size_t offset)
{
    return *(const double *)((const char *)f + offset);
}

static double of(const struct bench *bench, enum who who, size_t offset)
{
    double value[ROUNDS_MAX];
    for (unsigned i = 0; i < bench->conf.repeats; i++)
        value[i] = figure(&bench->figures[who][i], offset);
    return bench_median(value, bench->conf.repeats);
}

/* Ours by theirs. */
static double ratio(const struct bench *bench, enum who who, size_t offset)
{
    double value[ROUNDS_MAX];
    for (unsigned i = 0; i < bench->conf.repeats; i++)
        value[i] =
            figure(&bench->figures[OURS][i], offset) / figure(&bench->figures[who][i], offset);
    return bench_median(value, bench->conf.repeats);
}

#define FIGURE(member) offsetof(struct figures, member)
static const struct {
    const char *name;
    size_t offset;
} columns[] = {{"mean_us", FIGURE(mean)},
               {"p50_us", FIGURE(p50)},
               {"p99_us", FIGURE(p99)},
               {"p999_us", FIGURE(p999)},
               {"messages_per_second", FIGURE(messages)},
               {"megabytes_per_second", FIGURE(megabytes)}};

static void print_json(const struct bench *bench, size_t bytes)
{
    static const char *const names[WHO_COUNT][2] = {
        [RAW] = {"limit", "ratio"}, [PERFTEST] = {"perftest", "perftest_ratio"}};
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "transport");
    hm_json_string(&json, "transport", bench->conf.transport);
    if (bench->ucx) hm_json_string(&json, "ucx_tls", bench->tls);
    hm_json_string(&json, "wait", bench->conf.wait);
    hm_json_uint(&json, "bytes", bytes);
    hm_json_uint(&json, "window", bench->conf.window);
    hm_json_uint(&json, "repeats", bench->conf.repeats);
    for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
        hm_json_double(&json, columns[i].name, of(bench, OURS, columns[i].offset));
    for (enum who who = RAW; who < WHO_COUNT; who++) {
        if (who == RAW ? !bench->raw : !bench->perftest) continue;
        hm_json_object_begin(&json, names[who][0]);
        for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
            hm_json_double(&json, columns[i].name, of(bench, who, columns[i].offset));
        hm_json_object_end(&json);
        hm_json_object_begin(&json, names[who][1]);
        for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
            hm_json_double(&json, columns[i].name, ratio(bench, who, columns[i].offset));
        hm_json_object_end(&json);
    }
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

static void print_number(double value, int digits, int width)
{
    if (isnan(value))
        printf("%*s", width, "-");
    else
        printf("%*.*f", width, digits, value);
}

static void print_head(const struct bench *bench)
{
    printf("%s%s%s, %s, %u in flight in a stream, medians of %u\n", bench->conf.transport,
           bench->ucx ? " over " : "", bench->ucx ? bench->tls : "", bench->conf.wait,
           bench->conf.window, bench->conf.repeats);
    printf("limit: perf-%s%s; ucx_perftest: %s\n\n", raw_name(bench),
           bench->raw ? "" : " (not built)",
           bench->perftest ? "there"
           : bench->ucx    ? "not run"
                           : "of no use for tcp");
    printf("%8s | %9s %9s %9s %9s | %9s %6s %6s | %9s %11s | %9s %6s %6s\n", "", "round", "trip us",
           "", "", "limit", "times", "times", "stream", "", "limit", "of", "of");
    printf("%8s | %9s %9s %9s %9s | %9s %6s %6s | %9s %11s | %9s %6s %6s\n", "bytes", "mean", "p50",
           "p99", "p99.9", "mean", "limit", "prftst", "MB/s", "messages/s", "MB/s", "limit",
           "prftst");
}

static void print_row(const struct bench *bench, size_t bytes)
{
    printf("%8zu |", bytes);
    for (size_t i = 0; i < 4; i++) print_number(of(bench, OURS, columns[i].offset), 2, 10);
    printf(" |");
    print_number(of(bench, RAW, FIGURE(mean)), 2, 10);
    print_number(ratio(bench, RAW, FIGURE(mean)), 2, 7);
    print_number(ratio(bench, PERFTEST, FIGURE(mean)), 2, 7);
    printf(" |");
    print_number(of(bench, OURS, FIGURE(megabytes)), 1, 10);
    print_number(of(bench, OURS, FIGURE(messages)), 0, 12);
    printf(" |");
    print_number(of(bench, RAW, FIGURE(megabytes)), 1, 10);
    print_number(ratio(bench, RAW, FIGURE(megabytes)), 2, 7);
    print_number(ratio(bench, PERFTEST, FIGURE(megabytes)), 2, 7);
    printf("\n");
    fflush(stdout);
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

/* The raw program lies beside this one; ucx_perftest is in PATH. */
static void find_others(struct bench *bench)
{
    bench->raw = bench_raw_there(raw_name(bench));
    if (!bench->ucx) return;
    struct child child;
    const char *arguments[] = {"-h", NULL};
    char line[64];
    if (bench->conf.perftest && child_start_program(&child, "ucx_perftest", arguments) == HM_OK) {
        bench->perftest = child_line(&child, 5 * HM_S, line, sizeof line) == HM_OK;
        child_stop(&child, HM_S);
    }
    bench->tls = getenv("HM_UCX_TLS") ? getenv("HM_UCX_TLS") : getenv("UCX_TLS");
    if (!bench->tls) bench->tls = "posix";
    setenv("UCX_TLS", bench->tls, 1); /* all three the same */
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1);
    setenv("UCX_KEEPALIVE_INTERVAL", "1s", 1);
}

static enum hm_status measure(struct bench *bench, size_t bytes)
{
    static const struct figures nothing = {NAN, NAN, NAN, NAN, NAN, NAN};
    for (unsigned i = 0; i < bench->conf.repeats; i++) {
        for (enum who who = OURS; who < WHO_COUNT; who++) bench->figures[who][i] = nothing;
        /* Each round begins with another one: a machine that gets slower is unfair to all. */
        for (unsigned turn = 0; turn < WHO_COUNT; turn++) {
            enum who who = (enum who)((i + turn) % WHO_COUNT);
            struct figures *f = &bench->figures[who][i];
            const struct figures *last = &bench->figures[OURS][i];
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
    if (code == CLI_GO_ON && !bench.conf.json) print_head(&bench);
    for (unsigned i = 0; i < bench.size_count && code == CLI_GO_ON; i++) {
        enum hm_status status = measure(&bench, bench.size[i]);
        if (status)
            code = cli_fail(CLI_FAILED, status);
        else if (bench.conf.json)
            print_json(&bench, bench.size[i]);
        else
            print_row(&bench, bench.size[i]);
    }
    hm_options_fini(&options);
    return code == CLI_GO_ON ? CLI_OK : code;
}
