/* sim/lane.c - the simulated lane.
 *
 *   launch:  draw the batch's time and fate -> wait behind the one that is served, or be served
 *   timer:   serve the next -> run the function (unless it ran at launch) -> hm_lane_batch_done
 *
 * A batch that fails does so before its function ran or after it, as devices do: whoever keeps
 * state in the function meets both. */
#include "sim/lane.h"

#include "base/assert.h"
#include "base/rng.h"

#include <stdlib.h>

enum fate { RUNS, FAILS_BEFORE, FAILS_AFTER };

struct job {
    struct hm_batch *batch;
    hm_ns takes;
    enum fate fate;
};
struct sim_lane {
    struct hm_lane lane;
    struct hm_sim_lane_conf conf;
    struct hm_rng rng;
    struct hm_timer timer;
    struct job job[HM_LANE_BATCHES_MAX]; /* the first is served */
    unsigned job_count;
};

static void job_run(struct sim_lane *lane, struct job *job)
{
    if (job->fate != FAILS_BEFORE) hm_batch_run(job->batch);
    if (job->fate != RUNS) job->batch->status = lane->conf.failure;
}

static void job_serve(struct sim_lane *lane)
{
    hm_timer_start(hm_sched_loop(lane->lane.sched), &lane->timer, lane->job[0].takes);
}

static void on_timer(struct hm_timer *timer)
{
    struct sim_lane *lane = timer->arg;
    struct job job = lane->job[0];
    for (unsigned i = 1; i < lane->job_count; i++) lane->job[i - 1] = lane->job[i];
    lane->job_count--;
    if (lane->job_count > 0) job_serve(lane);
    if (!lane->conf.run_at_launch) job_run(lane, &job);
    job.batch->done =
        hm_loop_clock(hm_sched_loop(lane->lane.sched)); /* as if it had run all the while */
    job.batch->begun = job.batch->done - job.takes;
    hm_lane_batch_done(job.batch);
}

static void lane_launch(struct hm_lane *base, struct hm_batch *batch)
{
    struct sim_lane *lane = HM_CONTAINER_OF(base, struct sim_lane, lane);
    const struct hm_sim_lane_conf *conf = &lane->conf;
    HM_ASSERT(lane->job_count < HM_LANE_BATCHES_MAX);
    /* The same draws for every batch, whatever is switched on: a seed stays comparable. */
    uint64_t jitter = hm_rng_below(&lane->rng, 1001), luck = hm_rng_below(&lane->rng, 1000000);
    uint64_t when = hm_rng_below(&lane->rng, 2);

    struct job *job = &lane->job[lane->job_count++];
    hm_ns takes = conf->base_ns + batch->row_count * conf->row_ns;
    job->batch = batch;
    job->takes = takes + takes * conf->jitter_percent / 100 * jitter / 1000;
    job->fate = luck >= conf->fail_per_million ? RUNS : when ? FAILS_AFTER : FAILS_BEFORE;
    if (conf->run_at_launch) job_run(lane, job);
    if (lane->job_count == 1) job_serve(lane);
}

static void lane_free(struct hm_lane *base)
{
    struct sim_lane *lane = HM_CONTAINER_OF(base, struct sim_lane, lane);
    HM_ASSERT(lane->job_count == 0);
    free(lane);
}

static const struct hm_lane_ops sim_ops = {.launch = lane_launch, .destroy = lane_free};

static void conf_set(struct sim_lane *lane, const struct hm_sim_lane_conf *conf)
{
    lane->conf = *conf;
    if (lane->conf.failure == HM_OK) lane->conf.failure = HM_ERR_DEVICE;
}

enum hm_status hm_sim_lane_create(struct hm_sched *sched, const char *device,
                                  const struct hm_sim_lane_conf *conf, struct hm_lane **created)
{
    HM_ASSERT(conf->batches_max <= HM_LANE_BATCHES_MAX);
    struct sim_lane *lane = calloc(1, sizeof *lane);
    if (!lane) return hm_fail(HM_ERR_NO_MEMORY, "no memory for simulated lane %s", device);
    conf_set(lane, conf);
    hm_rng_init(&lane->rng, conf->seed, HM_RANDOM_FAULTS);
    lane->timer.cb = on_timer;
    lane->timer.arg = lane;
    hm_lane_init(&lane->lane, &sim_ops, sched, device);
    if (conf->batches_max > 0) lane->lane.batches_max = conf->batches_max;
    lane->lane.ahead_max = conf->ahead_max;
    *created = &lane->lane;
    return HM_OK;
}

void hm_sim_lane_change(struct hm_lane *base, const struct hm_sim_lane_conf *conf)
{
    struct sim_lane *lane = HM_CONTAINER_OF(base, struct sim_lane, lane);
    bool run_at_launch = lane->conf.run_at_launch; /* batches that wait were treated by it */
    conf_set(lane, conf);
    lane->conf.run_at_launch = run_at_launch;
}
