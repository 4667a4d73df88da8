/* cli/bench_limit.h - which raw program does the same work as a benchmark of one server, and what it
 * manages: half of the time before our round and half after it, so that a machine that changes its
 * pace changes both. */
#ifndef HM_CLI_BENCH_LIMIT_H
#define HM_CLI_BENCH_LIMIT_H

#include "cli/bench_figures.h"

enum bench_goal { BENCH_THROUGHPUT, BENCH_LATENCY };
struct bench_limit {
    const struct bench_conf *conf;
    enum bench_goal goal;
    const char *program; /* NULL: there is no limit */
    char why[160];       /* ... because */
    const char *dtype;   /* of an ffn's limit: f32 where the CPU has no products in bf16 */
    char sizes[256];     /* of batches, as perf-raw_ffn takes them; "": not known yet */
    /* Rows a second, or round trips in us, of the halves of a round; NAN: it failed. */
    double rows[2], p50_us[2], p99_us[2];
    double train_rows[2]; /* of a pair of calls the second alone */
};
void bench_limit_init(struct bench_limit *limit, const struct bench_conf *conf,
                      enum bench_goal goal);
void bench_limit_before(struct bench_limit *limit);
/* `round`: just over; its batches are those that a limit of experts computes. */
void bench_limit_after(struct bench_limit *limit, const struct bench_round *round);
/* The round's limit, and the ratio to it: 1 is as good as raw, less is worse. */
void bench_limit_add(const struct bench_limit *limit, struct bench_figures *figures);

#endif
