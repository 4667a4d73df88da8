/* cli/train.h - a training as `hivemind train` and a trainer of `hivemind swarm` run it. */
#ifndef HM_CLI_TRAIN_H
#define HM_CLI_TRAIN_H

#include "cli/cli.h"

struct train_conf {
    const char *data, *experts, *events, *priority, *codec;
    uint32_t hidden, layers, k_best, k_min, backward_k_min, spares, batch, failures_max;
    uint64_t steps, seed;
    float rate, balance, train_fraction;
    hm_ns timeout, timeout_after_k_min, save_interval;
    bool json;
    /* No options: what a swarm's launch adds. */
    bool part;     /* of a launch: `rank` stands in the result; asked to stop it ends at once */
    unsigned rank; /* in the launch */
    uint64_t own;  /* of several trainers: another order of rows, other local layers; one split */
};
extern const struct hm_option train_options[];
extern const unsigned train_option_count;

struct training;
/* Checks the options (CLI_USAGE) and loads the data (CLI_FAILED); CLI_GO_ON: *training.  The
 * configuration stays the caller's and is used until train_free. */
int train_prepare(const struct train_conf *conf, struct training **training);
/* The same without a word: *code is the exit code that goes with the status. */
HM_MUST_CHECK enum hm_status train_try(const struct train_conf *conf, struct training **training,
                                       int *code);
/* To the last step, or until asked to stop; says the result on stdout.  CLI_OK or CLI_FAILED. */
int train_run(struct training *training, struct hm_node *node, struct cli_stop *stop);
void train_free(struct training *training); /* NULL is allowed */

#endif
