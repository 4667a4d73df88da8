/* cli/bench_work.h - what a benchmark of one server is about: options, presets, and how they reach
 * the benchmark's own processes.
 *
 * The conductor (bench_throughput.c, bench_latency.c) checks the options, starts `bench server` and
 * `bench client` with the same ones (bench_arguments), and talks with them over their standard
 * input and output (bench_fleet.c). */
#ifndef HM_CLI_BENCH_WORK_H
#define HM_CLI_BENCH_WORK_H

#include "base/json.h"
#include "base/loop.h"
#include "base/options.h"
#include "cli/cli.h"

struct bench_conf {
    const char *preset, *transport, *kind, *dtype, *codec;
    uint32_t experts, hidden, rows, batch_rows_max, clients, client_processes, batches, repeats,
        lane_threads, times;
    bool backward, forward_only, blocking, limit, json;
    uint64_t seed;
    hm_ns duration, timeout, delay, deadline; /* deadline: of a call under overload */
    /* Of a client process. */
    const char *join;
    uint32_t place, share; /* which of the processes, how many of the clients are its */
};
enum { BENCH_PROCESSES_MAX = 256, BENCH_REPEATS_MAX = 31 };
extern const struct hm_option bench_options[];
extern const unsigned bench_option_count;

/* Fills in what the preset says and no option does; a usage error with its line. */
HM_MUST_CHECK enum hm_status bench_work_check(struct bench_conf *conf);
/* Parses and checks; conf's strings live as long as *options (hm_options_fini, in any case).
 * CLI_GO_ON, or the exit code after its line. */
int bench_work_parse(struct hm_options *options, struct bench_conf *conf, const char *usage,
                     int argc, char **argv);
/* What was measured, as fields. */
void bench_work_json(const struct bench_conf *conf, struct hm_json *json);
/* The presets, for --help. */
const char *bench_presets_help(void);

/* Arguments that say the same in a process of our own: `first` and `second`, then all options. */
enum { BENCH_ARGUMENTS_MAX = 48, BENCH_ARGUMENT_BYTES = 512 };
struct bench_arguments {
    char text[BENCH_ARGUMENTS_MAX][BENCH_ARGUMENT_BYTES];
    const char *argument[BENCH_ARGUMENTS_MAX + 3]; /* NULL at the end */
};
void bench_arguments(struct bench_arguments *arguments, const char *first, const char *second,
                     const struct bench_conf *conf);

/* Of a process of ours: its node, with the fabric of this run where --transport is ucx, whose key is
 * the first line of its standard input.  CLI_GO_ON: *node is open. */
int bench_node_open(const struct bench_conf *conf, bool hosts, struct hm_node **node);

#endif
