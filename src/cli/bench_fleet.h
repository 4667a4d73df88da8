/* cli/bench_fleet.h - the processes of a benchmark: one server, some clients; rounds of calls, and
 * what all of them counted in one.
 *
 *   open: server ──► clients, each "ready"      round: server reports ─► go ─► clients report ─►
 *                                                      server reports
 *
 * The clock of a round runs from the first "go" to the end of the last call, so that the slowest
 * client is measured, and its report is not.  Owned by the conductor, which has one thread. */
#ifndef HM_CLI_BENCH_FLEET_H
#define HM_CLI_BENCH_FLEET_H

#include "cli/bench_report.h"
#include "cli/bench_work.h"

struct bench_fleet {
    const struct bench_conf *conf;
    uint32_t arrivals; /* calls a second of the next round, of all clients; 0: one after another */
    struct child server, client[BENCH_PROCESSES_MAX];
    char join[HM_JOIN_LINE_BYTES], key[2 * HM_FABRIC_KEY_BYTES + 2]; /* ends with a newline */
};
struct bench_round {
    double seconds;
    struct bench_report before, after, clients; /* of the server; of all clients together */
};
HM_MUST_CHECK enum hm_status bench_fleet_open(struct bench_fleet *fleet,
                                              const struct bench_conf *conf);
HM_MUST_CHECK enum hm_status bench_fleet_round(struct bench_fleet *fleet,
                                               struct bench_round *round);
void bench_fleet_close(struct bench_fleet *fleet); /* also one that did not open */

#endif
