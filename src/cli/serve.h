/* cli/serve.h - a server of experts as `hivemind serve` and a server of `hivemind swarm` run it. */
#ifndef HM_CLI_SERVE_H
#define HM_CLI_SERVE_H

#include "cli/cli.h"

struct serve_conf {
    const char *experts, *share, *kind, *optimizer, *dtype, *device, *codecs;
    uint32_t hidden, batch_rows_max, batch_rows_preferred, queue_rows_max, lane_threads;
    float rate, clip_norm, weight_decay;
    uint64_t seed;
    hm_ns save_interval, drain_timeout, delay, batch_delay_max;
    bool equal_passes;
    bool json;
    /* No options: what a swarm's launch adds. */
    unsigned share_place, share_count; /* count 0: as `share` says */
    bool part;     /* of a launch: what it says has its rank, and no join line */
    unsigned rank; /* in the launch */
};
extern const struct hm_option serve_options[];
extern const unsigned serve_option_count;

/* A malformed pattern is a usage error, said before anything is opened. */
HM_MUST_CHECK enum hm_status serve_check(const struct serve_conf *conf);
/* Opens the server on the node, restores or makes its experts, serves and announces; says so on
 * stdout. CLI_GO_ON, or CLI_FAILED after the line. */
int serve_start(struct hm_node *node, const struct serve_conf *conf, struct hm_server **server);
/* Withdraws, finishes, saves; says so on stdout.  CLI_OK or CLI_FAILED. */
int serve_end(struct hm_node *node, struct hm_server *server, const struct serve_conf *conf);

#endif
