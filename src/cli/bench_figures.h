/* cli/bench_figures.h - what a benchmark of one server has measured: one value a figure and round,
 * and of these the medians. */
#ifndef HM_CLI_BENCH_FIGURES_H
#define HM_CLI_BENCH_FIGURES_H

#include "base/json.h"
#include "cli/bench_fleet.h"

enum bench_figure {
    BENCH_ROWS, /* a second */
    BENCH_CALLS,
    BENCH_SECONDS,
    BENCH_MEAN_US,
    BENCH_P50_US,
    BENCH_P99_US,
    BENCH_P999_US,
    BENCH_MAX_US,
    BENCH_CPU, /* seconds of processors, server and clients */
    BENCH_CPU_SERVER,
    BENCH_CPU_CLIENTS,
    BENCH_BYTES, /* on the wire, both ways */
    /* Of a payload's byte from one process to another, in user space: what TLS (in and out) or UCX
     * (in) has to do, and ours. */
    BENCH_COPIES,
    BENCH_ALLOCATIONS, /* of the heap, a call: server and clients, OpenSSL's and UCX's too */
    BENCH_BATCHES,
    BENCH_BATCH_ROWS, /* mean, and so on */
    BENCH_BATCH_ROWS_P50,
    BENCH_BATCH_ROWS_P99,
    BENCH_BATCH_ROWS_MAX,
    BENCH_RESIDENT_SERVER, /* at the end of the round */
    BENCH_RESIDENT_CLIENTS,
    BENCH_FAILED,
    BENCH_STAGE_QUEUE, /* means of the timed calls, us */
    BENCH_STAGE_WIRE,
    BENCH_STAGE_ADMIT,
    BENCH_STAGE_WAIT,
    BENCH_STAGE_COMPUTE,
    BENCH_STAGE_REPLY,
    BENCH_STAGE_RETURN, /* the answer is here, until its caller has it: the mean less the others */
    BENCH_LIMIT,
    BENCH_LIMIT_P99_US,
    BENCH_LIMIT_TRAIN, /* of forward + backward: the passes with gradients and Adam alone */
    BENCH_RATIO,
    BENCH_FIGURES
};
struct bench_figures {
    double value[BENCH_FIGURES][BENCH_REPEATS_MAX]; /* NAN: not measured */
    unsigned rounds;
};
/* Adds a round's, all but limits and ratio. */
void bench_figures_add(struct bench_figures *figures, const struct bench_conf *conf,
                       const struct bench_round *round);
/* The median of the rounds that have it; NAN: none has. */
double bench_figure(const struct bench_figures *figures, enum bench_figure figure);
/* Every figure that there is, as a field. */
void bench_figures_json(const struct bench_figures *figures, struct hm_json *json);
/* Where the time goes, a line a stage, with bars. */
void bench_figures_print_stages(const struct bench_figures *figures);

#endif
