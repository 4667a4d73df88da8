/* cli/bench_transport_table.c - the figures of hivemind bench transport as a table, or as JSON. */
#include "base/assert.h"
#include "base/json.h"
#include "cli/bench.h"
#include "cli/bench_transport.h"

#include <math.h>
#include <stdio.h>

static double figure(const struct transport_figures *f, size_t offset)
{
    return *(const double *)((const char *)f + offset);
}

static double of(const struct transport_rounds *rounds, enum who who, size_t offset)
{
    double value[TRANSPORT_ROUNDS_MAX];
    for (unsigned i = 0; i < rounds->repeats; i++)
        value[i] = figure(&rounds->figures[who][i], offset);
    return bench_median(value, rounds->repeats);
}

/* Ours by theirs. */
static double ratio(const struct transport_rounds *rounds, enum who who, size_t offset)
{
    double value[TRANSPORT_ROUNDS_MAX];
    for (unsigned i = 0; i < rounds->repeats; i++)
        value[i] =
            figure(&rounds->figures[OURS][i], offset) / figure(&rounds->figures[who][i], offset);
    return bench_median(value, rounds->repeats);
}

#define FIGURE(member) offsetof(struct transport_figures, member)
static const struct {
    const char *name;
    size_t offset;
} columns[] = {{"mean_us", FIGURE(mean)},
               {"p50_us", FIGURE(p50)},
               {"p99_us", FIGURE(p99)},
               {"p999_us", FIGURE(p999)},
               {"messages_per_second", FIGURE(messages)},
               {"megabytes_per_second", FIGURE(megabytes)}};

void transport_print_json(const struct transport_rounds *rounds, size_t bytes)
{
    static const char *const names[WHO_COUNT][2] = {
        [RAW] = {"limit", "ratio"}, [PERFTEST] = {"perftest", "perftest_ratio"}};
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "transport");
    hm_json_string(&json, "transport", rounds->transport);
    if (rounds->tls) hm_json_string(&json, "ucx_tls", rounds->tls);
    hm_json_string(&json, "wait", rounds->wait);
    hm_json_uint(&json, "bytes", bytes);
    hm_json_uint(&json, "window", rounds->window);
    hm_json_uint(&json, "repeats", rounds->repeats);
    for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
        hm_json_double(&json, columns[i].name, of(rounds, OURS, columns[i].offset));
    for (enum who who = RAW; who < WHO_COUNT; who++) {
        if (who == RAW ? !rounds->raw : !rounds->perftest) continue;
        hm_json_object_begin(&json, names[who][0]);
        for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
            hm_json_double(&json, columns[i].name, of(rounds, who, columns[i].offset));
        hm_json_object_end(&json);
        hm_json_object_begin(&json, names[who][1]);
        for (size_t i = 0; i < HM_COUNT_OF(columns); i++)
            hm_json_double(&json, columns[i].name, ratio(rounds, who, columns[i].offset));
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

void transport_print_head(const struct transport_rounds *rounds)
{
    printf("%s%s%s, %s, %u in flight in a stream, medians of %u\n", rounds->transport,
           rounds->tls ? " over " : "", rounds->tls ? rounds->tls : "", rounds->wait,
           rounds->window, rounds->repeats);
    printf("limit: perf-%s%s; ucx_perftest: %s\n\n", rounds->raw_name,
           rounds->raw ? "" : " (not built)",
           rounds->perftest ? "there"
           : rounds->tls    ? "not run"
                            : "of no use for tcp");
    printf("%8s | %9s %9s %9s %9s | %9s %6s %6s | %9s %11s | %9s %6s %6s\n", "", "round", "trip us",
           "", "", "limit", "times", "times", "stream", "", "limit", "of", "of");
    printf("%8s | %9s %9s %9s %9s | %9s %6s %6s | %9s %11s | %9s %6s %6s\n", "bytes", "mean", "p50",
           "p99", "p99.9", "mean", "limit", "prftst", "MB/s", "messages/s", "MB/s", "limit",
           "prftst");
}

void transport_print_row(const struct transport_rounds *rounds, size_t bytes)
{
    printf("%8zu |", bytes);
    for (size_t i = 0; i < 4; i++) print_number(of(rounds, OURS, columns[i].offset), 2, 10);
    printf(" |");
    print_number(of(rounds, RAW, FIGURE(mean)), 2, 10);
    print_number(ratio(rounds, RAW, FIGURE(mean)), 2, 7);
    print_number(ratio(rounds, PERFTEST, FIGURE(mean)), 2, 7);
    printf(" |");
    print_number(of(rounds, OURS, FIGURE(megabytes)), 1, 10);
    print_number(of(rounds, OURS, FIGURE(messages)), 0, 12);
    printf(" |");
    print_number(of(rounds, RAW, FIGURE(megabytes)), 1, 10);
    print_number(ratio(rounds, RAW, FIGURE(megabytes)), 2, 7);
    print_number(ratio(rounds, PERFTEST, FIGURE(megabytes)), 2, 7);
    printf("\n");
    fflush(stdout);
}
