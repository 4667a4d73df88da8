/* Overload on the virtual clock: calls with deadlines arrive at three times the pace that fills the
 * lane, whatever becomes of those before them (an open loop). */
#include "support_sched.h"

#include "base/rng.h"

#include <math.h>

enum { ROWS = 4, BATCH_ROWS = 16, CALLS = 12000, WARM = 600, CLIENTS = 8 };
static const hm_ns batch_ns = 4 * HM_MS; /* whatever its size, as a nop_delay */
static const hm_ns gap_ns = 1 * HM_MS;   /* between calls, at the pace that fills the lane */
static struct stage stage;
static struct bench bench;
static struct job job[CALLS];

struct outcome {
    unsigned offered, good, refused, refused_late, dead;
    uint32_t rows_most; /* in the queue, once the estimates are trained */
    hm_ns took;
};

/* Arrivals `times` as dense as the lane can serve, gaps drawn from an exponential distribution. */
static void offer(struct outcome *outcome, double times, hm_ns within, uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 1);
    memset(&bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    *outcome = (struct outcome){0};
    stage_open(&stage, seed, 1 << 20, NULL);
    struct hm_lane *lane = stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = batch_ns});
    bench_open(&stage, &bench, lane,
               (struct hm_pool_conf){.batch_rows_max = BATCH_ROWS, .out_row_bytes = 8});
    hm_ns began = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        hm_ns gap = (hm_ns)(-log(1.0 - (double)hm_rng_uniform(&rng)) * (double)gap_ns / times);
        stage_run_for(&stage, gap);
        if (i == WARM) began = hm_loop_now(stage.loop);
        job[i].client = i % CLIENTS;
        (void)job_submit(&stage, &bench, &job[i], i, ROWS, hm_loop_now(stage.loop) + within);
        uint32_t queued = hm_pool_rows_queued(bench.pool);
        if (i >= WARM && queued > outcome->rows_most) outcome->rows_most = queued;
    }
    outcome->took = hm_loop_now(stage.loop) - began;
    hm_ns stop = hm_loop_now(stage.loop);
    stage_run_for(&stage, HM_S);
    for (unsigned i = WARM; i < CALLS; i++) {
        outcome->offered++;
        if (!job[i].submitted)
            outcome->refused++;
        else if (job[i].status == HM_OK)
            outcome->good += job[i].ended_at <= stop;
        else if (job[i].task.rows_taken > 0)
            outcome->dead++;
        else
            outcome->refused_late++;
    }
    stage_close(&stage);
}

/* Calls a nanosecond that the lane can do: every batch is full. */
static double peak(void)
{
    return 1.0 / ((double)batch_ns / (BATCH_ROWS / ROWS));
}

static void at_three_times_the_pace_the_lane_does_what_it_can_and_nothing_in_vain(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct outcome outcome;
        hm_ns within = 40 * HM_MS; /* ten batches */
        offer(&outcome, 3, within, seed);
        double goodput = (double)outcome.good / (double)outcome.took / peak();
        if (goodput < 0.97 || goodput > 1.02)
            fail_msg("seed %u: goodput is %.3f of what the lane can do", (unsigned)seed, goodput);
        assert_int_equal(outcome.dead, 0);
        /* Two thirds cannot be served; nearly all of them hear it when they come. */
        assert_in_range(outcome.refused, outcome.offered * 63 / 100, outcome.offered * 69 / 100);
        assert_true(outcome.refused_late * 250 <= outcome.refused);
        /* No more waits than can be done in a call's time. */
        assert_true(outcome.rows_most <= (within / batch_ns + 1) * BATCH_ROWS);
    }
}

static void at_half_the_pace_nearly_nobody_is_refused(void **state)
{
    (void)state;
    struct outcome outcome;
    offer(&outcome, 0.5, 40 * HM_MS, 6);
    assert_true(outcome.refused * 200 <= outcome.offered);
    assert_true(outcome.refused_late * 200 <= outcome.offered);
    assert_int_equal(outcome.dead, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_three_times_the_pace_the_lane_does_what_it_can_and_nothing_in_vain),
        cmocka_unit_test(at_half_the_pace_nearly_nobody_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
