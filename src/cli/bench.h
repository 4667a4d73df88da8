/* cli/bench.h - the benchmarks (cmd_bench.c chooses one), and the processes that they start. */
#ifndef HM_CLI_BENCH_H
#define HM_CLI_BENCH_H

/* Each gets its own name as argv[0] and answers with an exit code. */
int bench_codec(int argc, char **argv);
int bench_expert(int argc, char **argv);
int bench_latency(int argc, char **argv);
int bench_overload(int argc, char **argv);
int bench_throughput(int argc, char **argv);
/* Of latency, throughput and overload: the server, and a process of clients. */
int bench_server(int argc, char **argv);
int bench_client(int argc, char **argv);
int bench_transport(int argc, char **argv);
int bench_end(int argc, char **argv); /* one of its two processes */

/* The median of the rounds that have a value, of BENCH_ROUNDS_MAX at most; NAN: none has. */
enum { BENCH_ROUNDS_MAX = 99 };
double bench_median(const double *value, unsigned count);

#endif
