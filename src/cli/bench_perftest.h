/* cli/bench_perftest.h - ucx_perftest, UCX's own measurement, beside ours: two processes, a processor
 * each. */
#ifndef HM_CLI_BENCH_PERFTEST_H
#define HM_CLI_BENCH_PERFTEST_H

#include "base/loop.h"

struct bench_perftest {
    const char *test; /* "ucp_am_lat" or "ucp_am_bw" */
    size_t bytes;
    unsigned window; /* in flight, of ucp_am_bw */
    double count;    /* messages, at least 100 */
    bool sleeps;     /* when nothing comes */
    hm_ns timeout;
};
struct bench_perftest_result {
    double median_us, mean_us; /* one way */
    double messages_per_second;
};

/* Whether it is in PATH. */
bool bench_perftest_there(void);
/* UCX_TLS and the like are the environment's.  False: it could not be started, failed, or took
 * longer. */
bool bench_perftest_run(const struct bench_perftest *what, struct bench_perftest_result *result);

#endif
