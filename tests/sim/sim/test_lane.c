/* The simulated lane: its cost model, its failures, and that its seed decides both. */
#include "support_sched.h"

static struct stage stage;
static struct bench bench;
static struct job job[200];

static uint64_t run(const struct hm_sim_lane_conf *conf, unsigned count, hm_ns *took,
                    unsigned *failed)
{
    memset(&bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    stage_open(&stage, 1, 1 << 20, NULL);
    bench.lane_fails = true;
    bench_open(&stage, &bench, stage_lane(&stage, conf),
               (struct hm_pool_conf){.batch_rows_max = 10, .out_row_bytes = 8});
    for (unsigned i = 0; i < count; i++)
        assert_ok(job_submit(&stage, &bench, &job[i], i, 10, HM_NS_NEVER));
    stage_run_for(&stage, 10 * HM_S);
    *took = job[count - 1].ended_at - job[0].task.arrived;
    *failed = 0;
    for (unsigned i = 0; i < count; i++) *failed += job[i].status != HM_OK;
    return stage_close(&stage);
}

static void a_batch_takes_its_base_and_its_rows(void **state)
{
    (void)state;
    struct hm_sim_lane_conf conf = {.base_ns = 3 * HM_MS, .row_ns = 200 * HM_US};
    hm_ns took;
    unsigned failed;
    run(&conf, 1, &took, &failed);
    assert_int_equal(took, 5 * HM_MS);
    for (conf.batches_max = 1; conf.batches_max <= HM_LANE_BATCHES_MAX; conf.batches_max++) {
        run(&conf, 20, &took, &failed); /* one after another, however many are at the lane */
        assert_int_equal(took, 100 * HM_MS);
        assert_int_equal(failed, 0);
    }
}

static void jitter_only_lengthens_and_never_beyond_its_share(void **state)
{
    (void)state;
    struct hm_sim_lane_conf conf = {.seed = 5, .base_ns = HM_MS, .jitter_percent = 50};
    hm_ns took;
    unsigned failed;
    run(&conf, 100, &took, &failed);
    assert_in_range(took, 110 * HM_MS, 140 * HM_MS);
}

static void its_share_of_batches_fails_before_or_after_running(void **state)
{
    (void)state;
    struct hm_sim_lane_conf conf = {.seed = 5, .base_ns = HM_MS, .fail_per_million = 300000};
    hm_ns took;
    unsigned failed;
    run(&conf, 200, &took, &failed);
    assert_in_range(failed, 40, 80);
    assert_in_range(200 - bench.batches, 10, 50); /* failed before the function was called */
    for (unsigned i = 0; i < 200; i++)
        assert_true(job[i].status == HM_OK || job[i].status == HM_ERR_DEVICE);
    conf.failure = HM_ERR_NUMERIC;
    conf.fail_per_million = 1000000;
    run(&conf, 5, &took, &failed);
    for (unsigned i = 0; i < 5; i++) assert_status(job[i].status, HM_ERR_NUMERIC);
}

static void a_seed_replays_and_another_differs(void **state)
{
    (void)state;
    struct hm_sim_lane_conf conf = {
        .seed = 5, .base_ns = HM_MS, .jitter_percent = 50, .fail_per_million = 300000};
    hm_ns took;
    unsigned failed;
    uint64_t first = run(&conf, 50, &took, &failed);
    assert_true(run(&conf, 50, &took, &failed) == first);
    conf.seed = 6;
    assert_true(run(&conf, 50, &took, &failed) != first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_takes_its_base_and_its_rows),
        cmocka_unit_test(jitter_only_lengthens_and_never_beyond_its_share),
        cmocka_unit_test(its_share_of_batches_fails_before_or_after_running),
        cmocka_unit_test(a_seed_replays_and_another_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
