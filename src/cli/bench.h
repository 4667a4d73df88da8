/* cli/bench.h - the benchmarks (cmd_bench.c chooses one), and what a throughput benchmark runs:
 * shared by the conductor (bench_throughput.c) and its clients (bench_client.c). */
#ifndef HM_CLI_BENCH_H
#define HM_CLI_BENCH_H

#include "base/options.h"

/* Each gets its own name as argv[0] and answers with an exit code. */
int bench_throughput(int argc, char **argv);
int bench_throughput_client(int argc, char **argv);

struct bench_conf {
    const char *preset, *transport, *kind;
    uint32_t experts, hidden, rows, batch_rows_max, clients, client_processes, batches,
        lane_threads;
    bool backward, forward_only, json;
    uint64_t seed, timeout; /* timeout: hm_ns */
    const char *join;       /* of a client process */
};
extern const struct hm_option bench_options[];
extern const unsigned bench_option_count;
/* A client process: `clients` threads of one node, each `batches` calls one after another. */
int bench_client(const struct bench_conf *conf);

#endif
