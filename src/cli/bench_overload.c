/* cli/bench_overload.c - hivemind bench overload: more calls than the lanes can answer.
 *
 *   closed loop: capacity ──► open loop at three times that, with deadlines ──► figures; repeated
 *
 * The expert sleeps, so that overload is not starvation of those who make it.  Definitions:
 *   ratio               calls a second answered in time, by those of the closed loop
 *   answered_dead       of the calls that lanes have run, those whose callers got no answer in time
 *   refused_feasible    of the refusals, those beyond what arrivals less capacity made necessary */
#include "cli/bench.h"
#include "cli/bench_fleet.h"

#include <math.h>
#include <stdio.h>

static const char usage[] =
    "hivemind bench overload - more calls than a server can answer: what it still answers, and how "
    "soon it refuses.\n"
    "\n"
    "  hivemind bench overload\n"
    "  hivemind bench overload --transport ucx --repeats 5 --json\n"
    "\n"
    "Experts that only sleep (nop_delay).  Callers that wait for each answer measure the peak; "
    "then "
    "calls arrive at\n"
    "three times that pace, each with a deadline, whether or not earlier ones are answered.  What "
    "the client\n"
    "processes could not offer, or not in time, is stated (not_offered, late_p99_us).\n";

#define AT(member) offsetof(struct bench_conf, member)
static const struct hm_option overload_options[] = {
    {"delay", HM_OPTION_DURATION, "5ms", "TIME", "what a batch takes", AT(delay), 1e-4, 60},
    {"deadline", HM_OPTION_DURATION, "50ms", "TIME", "of a call that arrives", AT(deadline), 0.001,
     60},
    {"experts", HM_OPTION_U32, "4", "COUNT", "experts on the server", AT(experts), 1, 1024},
    {"rows", HM_OPTION_U32, "16", "ROWS", "rows a call", AT(rows), 1, 1 << 20},
    {"hidden", HM_OPTION_U32, "64", "COLUMNS", "features of a row", AT(hidden), 1, 65536},
    {"batch-rows-max", HM_OPTION_U32, "64", "ROWS", "the server's bound on a batch",
     AT(batch_rows_max), 1, 1 << 20},
    {"clients", HM_OPTION_U32, "512", "COUNT", "callers that wait; then, calls under way at most",
     AT(clients), 1, 4096},
    {"client-processes", HM_OPTION_U32, "2", "COUNT", "processes that they share",
     AT(client_processes), 1, BENCH_PROCESSES_MAX},
    {"transport", HM_OPTION_STRING, "tcp", "NAME",
     "tcp, or ucx: all of one cluster, over shared memory or what UCX finds", AT(transport), 0, 0},
    {"seconds", HM_OPTION_DURATION, "3s", "TIME", "each of the two parts of a round", AT(duration),
     0.01, 3600},
    {"repeats", HM_OPTION_U32, "1", "COUNT", "rounds, of which the medians count", AT(repeats), 1,
     BENCH_REPEATS_MAX},
    {"lane-threads", HM_OPTION_U32, "0", "COUNT",
     "threads that compute on the server; 0: one a processor", AT(lane_threads), 0, 1024},
    {"timeout", HM_OPTION_DURATION, "60s", "TIME", "of a call of the closed loop", AT(timeout),
     0.01, 3600},
    {"seed", HM_OPTION_U64, "0", "SEED", "of arrivals", AT(seed), 0, 0},
    {"json", HM_OPTION_BOOL, "false", NULL, "one line of JSON", AT(json), 0, 0},
};
enum { LOAD = 3 }; /* times the peak */

enum figure {
    PEAK,
    OFFERED,
    GOODPUT,
    RATIO,
    ANSWERED_DEAD,
    REFUSED_FEASIBLE,
    REFUSAL_P50_US,
    REFUSAL_P99_US,
    ANSWER_P50_US,
    ANSWER_P99_US,
    ARRIVED,
    NOT_OFFERED,
    ANSWERED,
    REFUSED,
    TIMED_OUT,
    FAILED,
    REFUSED_AT_ONCE, /* by the server: too late, or a queue was full */
    SHED,            /* let in, and refused when its turn came */
    LATE_P99_US,
    CPU_SERVER,
    CPU_CLIENTS,
    FIGURES
};
static const char *const names[FIGURES] = {
    [PEAK] = "peak_calls_per_second",
    [OFFERED] = "offered_calls_per_second",
    [GOODPUT] = "goodput_calls_per_second",
    [RATIO] = "ratio",
    [ANSWERED_DEAD] = "answered_dead",
    [REFUSED_FEASIBLE] = "refused_feasible",
    [REFUSAL_P50_US] = "refusal_p50_us",
    [REFUSAL_P99_US] = "refusal_p99_us",
    [ANSWER_P50_US] = "answer_p50_us",
    [ANSWER_P99_US] = "answer_p99_us",
    [ARRIVED] = "arrived",
    [NOT_OFFERED] = "not_offered",
    [ANSWERED] = "answered",
    [REFUSED] = "refused",
    [TIMED_OUT] = "timed_out",
    [FAILED] = "failed",
    [REFUSED_AT_ONCE] = "server_refused",
    [SHED] = "server_shed",
    [LATE_P99_US] = "late_p99_us",
    [CPU_SERVER] = "cpu_seconds_server",
    [CPU_CLIENTS] = "cpu_seconds_clients",
};
struct overload {
    double value[FIGURES][BENCH_REPEATS_MAX];
    double median[FIGURES];
    char last[32]; /* status of the last call that failed; "": none did */
};

static double since(const struct bench_round *round, const char *name)
{
    return (double)(bench_report_value(&round->after, name) -
                    bench_report_value(&round->before, name));
}

static double quantile_us(const struct bench_round *round, const char *name, double quantile)
{
    const struct hm_histogram *histogram = bench_report_find(&round->clients, name);
    return histogram->count ? (double)hm_histogram_quantile(histogram, quantile) / 1e3 : NAN;
}

static double part(double some, double all)
{
    return some <= 0 || all <= 0 ? 0 : some / all;
}

static void figures_of(double *of, const struct bench_conf *conf, const struct bench_round *round)
{
    static const struct {
        enum figure figure;
        const char *name;
    } counters[] = {{ARRIVED, "arrived"}, {NOT_OFFERED, "not_offered"}, {ANSWERED, "answered"},
                    {REFUSED, "refused"}, {TIMED_OUT, "timed_out"},     {FAILED, "failed"}};
    for (unsigned i = 0; i < HM_COUNT_OF(counters); i++)
        of[counters[i].figure] = (double)bench_report_value(&round->clients, counters[i].name);
    double run = since(round, "sched.rows") / conf->rows;
    of[OFFERED] = (of[ARRIVED] - of[NOT_OFFERED]) / ((double)conf->duration / 1e9);
    of[GOODPUT] = of[ANSWERED] / round->seconds;
    of[RATIO] = of[GOODPUT] / of[PEAK];
    of[ANSWERED_DEAD] = part(run - of[ANSWERED], run);
    double necessary = of[ARRIVED] - of[NOT_OFFERED] - of[PEAK] * round->seconds;
    if (necessary < 0) necessary = 0;
    of[REFUSED_FEASIBLE] = part(of[REFUSED] - necessary, of[REFUSED]);
    of[REFUSAL_P50_US] = quantile_us(round, "refusal_ns", 0.5);
    of[REFUSAL_P99_US] = quantile_us(round, "refusal_ns", 0.99);
    of[ANSWER_P50_US] = quantile_us(round, "answer_ns", 0.5);
    of[ANSWER_P99_US] = quantile_us(round, "answer_ns", 0.99);
    of[LATE_P99_US] = quantile_us(round, "late_ns", 0.99);
    of[REFUSED_AT_ONCE] = since(round, "sched.refused") + since(round, "sched.busy");
    of[SHED] = since(round, "sched.shed");
    of[CPU_SERVER] = since(round, "cpu_us") / 1e6;
    of[CPU_CLIENTS] = (double)bench_report_value(&round->clients, "cpu_us") / 1e6;
}

static enum hm_status round_of_both(struct bench_fleet *fleet, double *of, char last[32])
{
    static struct bench_round round;
    fleet->arrivals = 0;
    enum hm_status status = bench_fleet_round(fleet, &round);
    if (status) return status;
    double answered = (double)bench_report_value(&round.clients, "pairs") -
                      (double)bench_report_value(&round.clients, "failed");
    of[PEAK] = answered > 0 && round.seconds > 0 ? answered / round.seconds : 0;
    if (of[PEAK] * LOAD < 1 || of[PEAK] * LOAD > UINT32_MAX)
        return hm_fail(HM_ERR_TIMED_OUT,
                       "the closed loop had no calls answered (%s); give it more "
                       "--seconds, or a shorter --delay",
                       round.clients.status[0] ? round.clients.status : "none ended");
    fleet->arrivals = (uint32_t)(of[PEAK] * LOAD);
    status = bench_fleet_round(fleet, &round);
    if (status) return status;
    figures_of(of, fleet->conf, &round);
    if (round.clients.status[0]) snprintf(last, 32, "%s", round.clients.status);
    return HM_OK;
}

static int measure(const struct bench_conf *conf, struct overload *overload)
{
    static struct bench_fleet fleet;
    double of[FIGURES];
    enum hm_status status = bench_fleet_open(&fleet, conf);
    for (uint32_t i = 0; i < conf->repeats && !status; i++) {
        status = round_of_both(&fleet, of, overload->last);
        for (unsigned j = 0; j < FIGURES && !status; j++) overload->value[j][i] = of[j];
    }
    bench_fleet_close(&fleet);
    if (status) return cli_fail(CLI_FAILED, status);
    for (unsigned j = 0; j < FIGURES; j++)
        overload->median[j] = bench_median(overload->value[j], conf->repeats);
    return CLI_GO_ON;
}

static void print_json(const struct bench_conf *conf, const struct overload *overload)
{
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "benchmark", "overload");
    bench_work_json(conf, &json);
    hm_json_uint(&json, "load", LOAD);
    hm_json_double(&json, "delay_us", (double)conf->delay / 1e3);
    hm_json_double(&json, "deadline_us", (double)conf->deadline / 1e3);
    for (unsigned i = 0; i < FIGURES; i++)
        if (!isnan(overload->median[i])) hm_json_double(&json, names[i], overload->median[i]);
    hm_json_object_end(&json);
    printf("%s\n", hm_json_text(&json));
    hm_json_fini(&json);
}

static void print_table(const struct bench_conf *conf, const struct overload *overload)
{
    const double *of = overload->median;
    printf("calls of %u rows to %u experts that take %.1f ms a batch of %u rows, over %s; deadline "
           "%.0f ms\n",
           conf->rows, conf->experts, (double)conf->delay / 1e6, conf->batch_rows_max,
           conf->transport, (double)conf->deadline / 1e6);
    printf("  %-34s %10.0f calls/s\n", "peak, closed loop", of[PEAK]);
    printf("  %-34s %10.0f calls/s\n", "offered, open loop", of[OFFERED]);
    printf("  %-34s %10.0f calls/s   ratio %.3f\n", "answered in time", of[GOODPUT], of[RATIO]);
    printf("  %-34s %10.2f %%\n", "computed for dead calls", 100 * of[ANSWERED_DEAD]);
    printf("  %-34s %10.2f %%\n", "refused though feasible", 100 * of[REFUSED_FEASIBLE]);
    printf("  %-34s %10.0f us p50 %10.0f us p99\n", "a refusal takes", of[REFUSAL_P50_US],
           of[REFUSAL_P99_US]);
    printf("  %-34s %10.0f us p50 %10.0f us p99\n", "an answer takes", of[ANSWER_P50_US],
           of[ANSWER_P99_US]);
    printf(
        "  of %.0f arrivals: %.0f answered, %.0f refused (%.0f when their turn came), %.0f timed "
        "out, %.0f not offered\n",
        of[ARRIVED], of[ANSWERED], of[REFUSED], of[SHED], of[TIMED_OUT], of[NOT_OFFERED]);
    printf("  calls were offered %.0f us after they were due (p99)\n", of[LATE_P99_US]);
    if (of[FAILED] > 0)
        printf("  %.0f calls failed, the last with %s\n", of[FAILED], overload->last);
}

int bench_overload(int argc, char **argv)
{
    static struct overload overload;
    struct bench_conf conf = {0};
    struct hm_options options;
    hm_options_defaults(bench_options, bench_option_count, &conf);
    hm_options_init(&options);
    hm_options_add(&options, "Benchmark", overload_options, HM_COUNT_OF(overload_options), &conf);
    int code = cli_parse(&options, usage, argc, argv);
    conf.kind = "nop_delay";
    enum hm_status status = code == CLI_GO_ON ? bench_work_check(&conf) : HM_OK;
    if (!status && code == CLI_GO_ON && conf.batch_rows_max < conf.rows)
        status = hm_fail(HM_ERR_INVALID, "--rows %u do not fit a batch (--batch-rows-max %u)",
                         conf.rows, conf.batch_rows_max);
    if (status) code = cli_fail(CLI_USAGE, status);
    if (code == CLI_GO_ON) code = measure(&conf, &overload);
    if (code == CLI_GO_ON) {
        conf.json ? print_json(&conf, &overload) : print_table(&conf, &overload);
        code = overload.last[0] ? CLI_FAILED : CLI_OK;
    }
    hm_options_fini(&options);
    return code;
}
