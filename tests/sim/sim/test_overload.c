/* Overload on the virtual clock: calls with deadlines arrive at three times the pace that fills the
 * lane, whatever becomes of those before them (an open loop). */
#include "support_sched.h"

#include "base/rng.h"

#include <math.h>

enum { ROWS = 4, BATCH_ROWS = 16, CALLS = 12000, WARM = 600, POOLS_MAX = 4 };
static const hm_ns batch_ns = 4 * HM_MS; /* whatever its size, as a nop_delay */
static const hm_ns gap_ns = 1 * HM_MS;   /* between calls, at the pace that fills the lane */
static const hm_ns within = 40 * HM_MS;  /* ten batches */

struct crowd {
    unsigned clients, pools;
};
static struct stage stage;
static struct bench bench[POOLS_MAX];
static struct job job[CALLS];

struct outcome {
    unsigned offered, good, refused, refused_late, dead;
    uint32_t rows_most; /* in the queue, once the estimates are trained */
    hm_ns took;
};

/* Arrivals `times` as dense as the lane can serve, gaps drawn from an exponential distribution. */
static void offer(struct outcome *outcome, const struct crowd *crowd, double times, uint64_t seed)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 1);
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    *outcome = (struct outcome){0};
    stage_open(&stage, seed, 1 << 20, NULL);
    struct hm_lane *lane = stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = batch_ns});
    for (unsigned i = 0; i < crowd->pools; i++)
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){.batch_rows_max = BATCH_ROWS, .out_row_bytes = 8});
    hm_ns began = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        hm_ns gap = (hm_ns)(-log(1.0 - (double)hm_rng_uniform(&rng)) * (double)gap_ns / times);
        stage_run_for(&stage, gap);
        if (i == WARM) began = hm_loop_now(stage.loop);
        job[i].client = hm_rng_below(&rng, crowd->clients);
        struct bench *asked = &bench[hm_rng_below(&rng, crowd->pools)];
        (void)job_submit(&stage, asked, &job[i], i, ROWS, hm_loop_now(stage.loop) + within);
        uint32_t queued = 0;
        for (unsigned j = 0; j < crowd->pools; j++) queued += hm_pool_rows_queued(bench[j].pool);
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
    static const struct crowd alone = {.clients = 8, .pools = 1};
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct outcome outcome;
        offer(&outcome, &alone, 3, seed);
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

/* Each pool's turn, and each client's in it, may come before that of what was let in earlier. */
static void
however_many_take_turns_few_refusals_are_late_and_the_lane_does_what_it_can(void **state)
{
    (void)state;
    for (unsigned pools = 2; pools <= POOLS_MAX; pools *= 2)
        for (unsigned clients = 2; clients <= 8; clients *= 2) {
            struct outcome outcome;
            offer(&outcome, &(struct crowd){.clients = clients, .pools = pools}, 3, 7);
            double goodput = (double)outcome.good / (double)outcome.took / peak();
            double late = (double)outcome.refused_late / (outcome.refused + outcome.refused_late);
            if (goodput < 0.97 || late > 0.02)
                fail_msg("%u pools, %u clients: goodput is %.3f of what the lane can do, %.4f of "
                         "the refusals are late",
                         pools, clients, goodput, late);
            assert_int_equal(outcome.dead, 0);
        }
}

static void at_half_the_pace_nearly_nobody_is_refused(void **state)
{
    (void)state;
    struct outcome outcome;
    offer(&outcome, &(struct crowd){.clients = 8, .pools = 1}, 0.5, 6);
    assert_true(outcome.refused * 200 <= outcome.offered);
    assert_true(outcome.refused_late * 200 <= outcome.offered);
    assert_int_equal(outcome.dead, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(at_three_times_the_pace_the_lane_does_what_it_can_and_nothing_in_vain),
        cmocka_unit_test(
            however_many_take_turns_few_refusals_are_late_and_the_lane_does_what_it_can),
        cmocka_unit_test(at_half_the_pace_nearly_nobody_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
