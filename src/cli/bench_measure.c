/* cli/bench_measure.c - rounds: half of the raw program's time, ours, the other half. */
#include "cli/bench_measure.h"

#include <string.h>

_Static_assert(sizeof(((struct bench_result *)0)->last) ==
                   sizeof(((struct bench_report *)0)->status),
               "one is copied into the other");

int bench_measure(const struct bench_conf *conf, enum bench_goal goal, struct bench_result *result)
{
    static struct bench_fleet fleet;
    static struct bench_round round;
    memset(result, 0, sizeof(*result));
    bench_limit_init(&result->limit, conf, goal);
    enum hm_status status = bench_fleet_open(&fleet, conf);
    for (uint32_t i = 0; i < conf->repeats && !status; i++) {
        bench_limit_before(&result->limit);
        status = bench_fleet_round(&fleet, &round);
        if (status) break;
        bench_limit_after(&result->limit, &round);
        bench_figures_add(&result->figures, conf, &round);
        bench_limit_add(&result->limit, &result->figures);
        if (round.clients.status[0])
            memcpy(result->last, round.clients.status, sizeof(result->last));
    }
    bench_fleet_close(&fleet);
    return status ? cli_fail(CLI_FAILED, status) : CLI_GO_ON;
}

void bench_result_json(const struct bench_conf *conf, const struct bench_result *result,
                       struct hm_json *json)
{
    bench_work_json(conf, json);
    bench_figures_json(&result->figures, json);
    const struct bench_limit *limit = &result->limit;
    if (limit->program) hm_json_string(json, "limit_by", limit->program);
    if (limit->sizes[0]) hm_json_string(json, "limit_batches", limit->sizes);
    if (limit->sizes[0]) hm_json_string(json, "limit_dtype", limit->dtype);
}
