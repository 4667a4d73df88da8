/* cli/bench_open_loop.h - calls that arrive at a pace, whether or not earlier ones are answered. */
#ifndef HM_CLI_BENCH_OPEN_LOOP_H
#define HM_CLI_BENCH_OPEN_LOOP_H

#include "api/node.h"
#include "cli/bench_work.h"

/* A round of this process' part of `arrivals` calls a second, for conf->duration, and its report on
 * standard output; uid: conf->experts of them.  Not on the loop: the caller waits. */
HM_MUST_CHECK enum hm_status bench_open_loop(struct hm_node *node, const struct bench_conf *conf,
                                             const struct hm_uid *uid, uint32_t arrivals);

#endif
