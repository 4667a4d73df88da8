/* cli/bench_transport.h - what hivemind bench transport has measured, and how it is told. */
#ifndef HM_CLI_BENCH_TRANSPORT_H
#define HM_CLI_BENCH_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

enum { TRANSPORT_ROUNDS_MAX = 15 };
/* Round trips in us; NAN: not measured. */
struct transport_figures {
    double mean, p50, p99, p999, messages, megabytes;
};
enum who { OURS, RAW, PERFTEST, WHO_COUNT };
struct transport_rounds {
    const char *transport, *tls, *wait; /* tls: NULL but for ucx */
    const char *raw_name;
    unsigned window, repeats;
    bool raw, perftest; /* they are there */
    struct transport_figures figures[WHO_COUNT][TRANSPORT_ROUNDS_MAX];
};

/* A table's head, and a row or a line of JSON with the medians of the rounds of a size: of each
 * figure, and of each ratio within a round. */
void transport_print_head(const struct transport_rounds *rounds);
void transport_print_row(const struct transport_rounds *rounds, size_t bytes);
void transport_print_json(const struct transport_rounds *rounds, size_t bytes);

#endif
