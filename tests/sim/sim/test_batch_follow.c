/* Small batches of several pools are handed to a lane one behind the other; who is next, what gathers
 * and what is answered stay as they are. */
#include "support_sched.h"

enum { ROOM = 1 << 20, POOLS = 6 };
#define SERVICE   (50 * HM_US)
#define AHEAD_MAX (200 * HM_US)
static struct stage stage;
static struct hm_lane *lane;
static struct bench bench[POOLS];
static struct job job[400];
static unsigned next;

/* Pool 0 is of inference, the others of training. */
static void begin(hm_ns service, uint32_t rows_max)
{
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    next = 0;
    stage_open(&stage, 1, ROOM, NULL);
    lane = stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = service,
                                                         .run_at_launch = true,
                                                         .batches_max = HM_LANE_BATCHES_MAX,
                                                         .ahead_max = AHEAD_MAX});
    for (unsigned i = 0; i < POOLS; i++) {
        enum hm_priority priority = i == 0 ? HM_PRIORITY_INFERENCE : HM_PRIORITY_TRAINING;
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){
                       .batch_rows_max = rows_max, .priority = priority, .out_row_bytes = 8});
    }
}

static struct job *submit(unsigned pool)
{
    struct job *one = &job[next];
    assert_ok(job_submit(&stage, &bench[pool], one, next, 1, HM_NS_NEVER));
    next++;
    return one;
}

/* One batch at a time, until its pool knows how long they take. */
static void train(unsigned pool)
{
    for (unsigned i = 0; i < 8; i++) {
        const struct job *one = submit(pool);
        stage_run_for(&stage, 10 * HM_MS);
        assert_true(one->ended);
    }
}

static void all_are_well(void)
{
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

static void small_batches_of_several_pools_are_at_the_lane_together(void **state)
{
    (void)state;
    begin(SERVICE, 64);
    for (unsigned i = 1; i < 4; i++) train(i);
    const struct job *last = NULL;
    for (unsigned i = 1; i < 4; i++) last = submit(i);
    stage_run_for(&stage, HM_US);
    assert_int_equal(lane->running_count, 3);
    assert_int_equal(hm_metrics_value(&stage.metrics, "sched.followed"), 2);
    hm_ns began = hm_loop_now(stage.loop);
    stage_run_for(&stage, HM_MS);
    assert_true(last->ended_at - began <= 3 * SERVICE);
    all_are_well();
}

static void what_is_at_the_lane_takes_no_longer_than_its_bound(void **state)
{
    (void)state;
    begin(SERVICE, 64);
    for (unsigned i = 1; i < POOLS; i++) train(i);
    for (unsigned i = 1; i < POOLS; i++) submit(i);
    stage_run_for(&stage, HM_US);
    assert_int_equal(lane->running_count, 4); /* four times 50 us; the fifth waits */
    /* So this is what somebody more urgent waits for, and not the fifth. */
    const struct job *urgent = submit(0);
    hm_ns began = hm_loop_now(stage.loop);
    stage_run_for(&stage, 10 * HM_MS);
    assert_true(urgent->ran_at - began <= AHEAD_MAX);
    assert_true(urgent->ran_at <= job[next - 2].ran_at);
    all_are_well();
}

static void a_pools_own_rows_gather_until_its_batch_is_back(void **state)
{
    (void)state;
    begin(SERVICE, 64);
    train(1);
    train(2);
    unsigned batches = bench[1].batches;
    submit(1);
    stage_run_for(&stage, HM_US);
    for (unsigned i = 0; i < 5; i++) {
        submit(1);
        stage_run_for(&stage, HM_US);
        assert_int_equal(lane->running_count, 1);
    }
    stage_run_for(&stage, HM_MS);
    assert_int_equal(bench[1].batches, batches + 2);
    assert_int_equal(bench[1].batch_rows[batches + 1], 5);
    all_are_well();
}

static void what_is_not_known_or_long_follows_nobody_and_is_not_overtaken(void **state)
{
    (void)state;
    for (unsigned known = 0; known < 2; known++) {
        begin(SERVICE, 64);
        for (unsigned i = 1; i < 4; i++) train(i);
        if (known) { /* pool 4 takes 1 ms a batch */
            hm_sim_lane_change(lane, &(struct hm_sim_lane_conf){.base_ns = HM_MS});
            train(4);
            hm_sim_lane_change(lane, &(struct hm_sim_lane_conf){.base_ns = SERVICE});
        }
        submit(1);
        stage_run_for(&stage, HM_US);
        const struct job *alone = submit(4);
        stage_run_for(&stage, HM_US);
        assert_int_equal(lane->running_count, 1);
        for (unsigned i = 0; i < 60; i++) { /* others come all the while */
            submit(2 + i % 2);
            stage_run_for(&stage, 10 * HM_US);
        }
        assert_true(alone->ended);
        all_are_well();
    }
}

static void with_no_time_ahead_only_full_ones_follow(void **state)
{
    (void)state;
    begin(SERVICE, 4);
    for (unsigned i = 1; i < 3; i++) train(i);
    lane->ahead_max = 0;
    submit(1);
    submit(2);
    stage_run_for(&stage, HM_US);
    assert_int_equal(lane->running_count, 1);
    for (unsigned i = 0; i < 3; i++) submit(2);
    stage_run_for(&stage, HM_US);
    assert_int_equal(lane->running_count, 2);
    all_are_well();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_batches_of_several_pools_are_at_the_lane_together),
        cmocka_unit_test(what_is_at_the_lane_takes_no_longer_than_its_bound),
        cmocka_unit_test(a_pools_own_rows_gather_until_its_batch_is_back),
        cmocka_unit_test(what_is_not_known_or_long_follows_nobody_and_is_not_overtaken),
        cmocka_unit_test(with_no_time_ahead_only_full_ones_follow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
