/* cli/bench_measure.h - the rounds of a benchmark of one server. */
#ifndef HM_CLI_BENCH_MEASURE_H
#define HM_CLI_BENCH_MEASURE_H

#include "cli/bench_limit.h"

struct bench_result {
    struct bench_figures figures;
    struct bench_limit limit;
    char last[32]; /* status of the last call that failed; "": none did */
};
/* Starts the processes and takes them through conf->repeats rounds, the raw program around each.
 * CLI_GO_ON, or CLI_FAILED after its line. */
int bench_measure(const struct bench_conf *conf, enum bench_goal goal, struct bench_result *result);
/* The work, the figures, and who is the limit. */
void bench_result_json(const struct bench_conf *conf, const struct bench_result *result,
                       struct hm_json *json);

#endif
