/* Refusing what would be late, at submit and when its turn has come: only on a trained estimate, and
 * never so that the estimate cannot be renewed. */
#include "support_sched.h"

static struct stage stage;
static struct bench bench[2];
static struct job job[400];
static unsigned next;
static struct hm_sim_lane_conf cost = {.base_ns = 2 * HM_MS, .row_ns = 100 * HM_US};

static struct hm_lane *begin(void)
{
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    next = 0;
    stage_open(&stage, 1, 1 << 20, NULL);
    struct hm_lane *lane = stage_lane(&stage, &cost);
    for (unsigned i = 0; i < 2; i++)
        bench_open(&stage, &bench[i], lane,
                   (struct hm_pool_conf){.batch_rows_max = 20,
                                         .priority = i ? HM_PRIORITY_TRAINING : 0,
                                         .out_row_bytes = 8});
    return lane;
}

static enum hm_status submit(struct bench *to, uint32_t rows, hm_ns within)
{
    hm_ns deadline = within == HM_NS_NEVER ? HM_NS_NEVER : hm_loop_now(stage.loop) + within;
    assert_true(next < HM_COUNT_OF(job));
    enum hm_status status = job_submit(&stage, to, &job[next], next, rows, deadline);
    if (status == HM_OK) next++;
    return status;
}

static hm_ns predict(const struct bench *of, uint32_t rows)
{
    return hm_sched_predict(&(struct hm_task){.pool = of->pool, .row_count = rows});
}

/* One batch after another, of 10 and of 20 rows. */
static void train(struct bench *of, unsigned batches)
{
    for (unsigned i = 0; i < batches; i++) {
        assert_ok(submit(of, i % 2 ? 10 : 20, HM_NS_NEVER));
        stage_run_for(&stage, 10 * HM_MS);
    }
}

static void nothing_is_predicted_or_refused_before_the_cost_is_known(void **state)
{
    (void)state;
    begin();
    assert_int_equal(predict(&bench[0], 1), 0);
    train(&bench[0], 7);
    assert_int_equal(predict(&bench[0], 1), 0);
    for (unsigned i = 0; i < 50; i++) assert_ok(submit(&bench[0], 20, HM_MS));
    train(&bench[0], 1);
    assert_true(predict(&bench[0], 1) > 0);
    stage_close(&stage);
}

static void a_prediction_is_the_rows_ahead_at_their_measured_cost(void **state)
{
    (void)state;
    begin();
    train(&bench[0], 40);
    /* The lane's time is a line of the rows, and so is the model: 2 ms a batch, 100 us a row. */
    assert_in_range(predict(&bench[0], 10), 2990 * HM_US, 3010 * HM_US);
    assert_in_range(predict(&bench[0], 20), 3990 * HM_US, 4010 * HM_US);
    assert_in_range(predict(&bench[0], 50), 10990 * HM_US, 11010 * HM_US);
    for (unsigned i = 0; i < 3; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    assert_in_range(predict(&bench[0], 20), 15950 * HM_US, 16050 * HM_US);
    stage_run_for(&stage, HM_MS); /* one of them runs: 3 ms of it are left */
    assert_in_range(predict(&bench[0], 20), 14950 * HM_US, 15050 * HM_US);
    stage_close(&stage);
}

/* However long one's own turn is: of both pools, of all classes, and what runs. */
static void the_load_is_all_that_the_lane_has_before_it(void **state)
{
    (void)state;
    begin();
    assert_int_equal(hm_sched_load(bench[0].pool), 0);
    train(&bench[0], 40);
    assert_int_equal(hm_sched_load(bench[0].pool), 0); /* a lane without work */
    for (unsigned i = 0; i < 3; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    assert_in_range(hm_sched_load(bench[0].pool), 11950 * HM_US, 12050 * HM_US);
    assert_ok(submit(&bench[1], 20, HM_NS_NEVER)); /* of unknown cost: nothing */
    assert_in_range(hm_sched_load(bench[0].pool), 11950 * HM_US, 12050 * HM_US);
    stage_run_for(&stage, HM_S);
    train(&bench[1], 40);
    for (unsigned i = 0; i < 3; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    for (unsigned i = 0; i < 2; i++) assert_ok(submit(&bench[1], 20, HM_NS_NEVER));
    stage_run_for(&stage, HM_MS); /* one of them runs: 3 ms of it are left */
    assert_in_range(hm_sched_load(bench[0].pool), 18900 * HM_US, 19100 * HM_US);
    assert_int_equal(hm_sched_load(bench[1].pool), hm_sched_load(bench[0].pool));
    assert_in_range(predict(&bench[0], 0), 10900 * HM_US, 11100 * HM_US); /* its own turn */
    stage_close(&stage);
}

static void what_would_be_late_is_refused_at_once(void **state)
{
    (void)state;
    begin();
    train(&bench[0], 40);
    for (unsigned i = 0; i < 10; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    /* 44 ms are predicted. */
    assert_status(submit(&bench[0], 20, 43 * HM_MS), HM_ERR_REFUSED);
    assert_ok(submit(&bench[0], 20, 45 * HM_MS));
    assert_ok(submit(&bench[0], 20, 60 * HM_MS));
    assert_int_equal(hm_metrics_value(&stage.metrics, "sched.refused"), 1);
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

/* Who is alone at the lane waits for what is queued; with others there, more is likely to come. */
static void where_others_wait_too_what_is_queued_counts_for_more(void **state)
{
    (void)state;
    begin();
    train(&bench[0], 40);
    for (unsigned i = 0; i < 10; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    struct hm_task task = {.pool = bench[0].pool, .row_count = 20, .client = 2};
    hm_ns takes = hm_sched_predict(&task); /* what has its turn before, and its own 4 ms */
    assert_in_range(takes, 7 * HM_MS, 20 * HM_MS);
    job[next].client = 1;
    assert_status(submit(&bench[0], 20, takes + HM_MS), HM_ERR_REFUSED);
    job[next].client = 1;
    assert_ok(submit(&bench[0], 20, takes + 8 * HM_MS));
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

static void what_one_client_asks_of_several_experts_is_its_own_queue(void **state)
{
    (void)state;
    struct bench many[8];
    struct hm_lane *lane = begin();
    memset(many, 0, sizeof many);
    for (unsigned i = 0; i < 8; i++) {
        bench_open(&stage, &many[i], lane,
                   (struct hm_pool_conf){.batch_rows_max = 20, .out_row_bytes = 8});
        train(&many[i], 10);
    }
    for (unsigned i = 0; i < 8; i++)
        assert_ok(submit(&many[i], 20, 40 * HM_MS)); /* 32 are needed */
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < next; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

/* The lane turns slow after they were let in: what cannot be done any more is not begun, and what
 * can still be done is not kept waiting by it. */
static void what_has_become_late_is_refused_when_its_turn_comes_and_does_not_run(void **state)
{
    (void)state;
    struct hm_lane *lane = begin();
    train(&bench[0], 40);
    struct hm_sim_lane_conf slow = {.base_ns = 30 * HM_MS};
    hm_sim_lane_change(lane, &slow);
    assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    stage_run_for(&stage, HM_MS);
    hm_sim_lane_change(lane, &cost);
    assert_ok(submit(&bench[0], 20, 32 * HM_MS)); /* would be back after 34 ms */
    assert_ok(submit(&bench[0], 20, 36 * HM_MS));
    unsigned before = bench[0].batches;
    stage_run_for(&stage, HM_S);
    const struct job *late = &job[next - 2], *good = &job[next - 1];
    assert_status(late->status, HM_ERR_REFUSED);
    assert_int_equal(late->task.rows_taken, 0);
    assert_true(late->ended_at < late->task.deadline);
    assert_status(good->status, HM_OK);
    assert_int_equal(bench[0].batches, before + 2);
    assert_int_equal(hm_metrics_value(&stage.metrics, "sched.shed"), 1);
    stage_close(&stage);
}

static void a_deadline_that_has_passed_is_refused(void **state)
{
    (void)state;
    begin();
    assert_status(submit(&bench[0], 1, 0), HM_ERR_REFUSED);
    stage_close(&stage);
}

static void urgent_rows_do_not_wait_for_less_urgent_ones(void **state)
{
    (void)state;
    begin();
    train(&bench[0], 10);
    train(&bench[1], 10);
    for (unsigned i = 0; i < 10; i++) assert_ok(submit(&bench[1], 20, HM_NS_NEVER));
    assert_in_range(predict(&bench[0], 20), 3900 * HM_US, 4100 * HM_US);
    assert_in_range(predict(&bench[1], 20), 43 * HM_MS, 45 * HM_MS);
    for (unsigned i = 0; i < 10; i++) assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
    assert_in_range(predict(&bench[1], 20), 82 * HM_MS, 86 * HM_MS);
    stage_close(&stage);
}

/* A device that was slow once (another job on it) must not lock a pool out for ever. */
static void an_idle_pool_is_probed_however_bad_its_estimate(void **state)
{
    (void)state;
    struct hm_lane *lane = begin();
    struct hm_sim_lane_conf slow = {.base_ns = HM_S};
    hm_sim_lane_change(lane, &slow);
    for (unsigned i = 0; i < 10; i++) {
        assert_ok(submit(&bench[0], 20, HM_NS_NEVER));
        stage_run_for(&stage, 2 * HM_S);
    }
    hm_sim_lane_change(lane, &cost);
    assert_true(predict(&bench[0], 20) > 900 * HM_MS);
    unsigned tried = 0;
    for (; tried < 200 && predict(&bench[0], 20) > 20 * HM_MS; tried++) {
        assert_ok(submit(&bench[0], 20, 50 * HM_MS)); /* alone: let in */
        if (tried == 0) assert_status(submit(&bench[0], 20, 50 * HM_MS), HM_ERR_REFUSED);
        stage_run_for(&stage, 50 * HM_MS);
        assert_status(job[next - 1].status, HM_OK);
    }
    assert_in_range(tried, 2, 100);
    assert_ok(submit(&bench[0], 20, 50 * HM_MS));
    assert_ok(submit(&bench[0], 20, 50 * HM_MS)); /* and now a second one as well */
    stage_close(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_predicted_or_refused_before_the_cost_is_known),
        cmocka_unit_test(a_prediction_is_the_rows_ahead_at_their_measured_cost),
        cmocka_unit_test(the_load_is_all_that_the_lane_has_before_it),
        cmocka_unit_test(what_would_be_late_is_refused_at_once),
        cmocka_unit_test(where_others_wait_too_what_is_queued_counts_for_more),
        cmocka_unit_test(what_one_client_asks_of_several_experts_is_its_own_queue),
        cmocka_unit_test(what_has_become_late_is_refused_when_its_turn_comes_and_does_not_run),
        cmocka_unit_test(a_deadline_that_has_passed_is_refused),
        cmocka_unit_test(urgent_rows_do_not_wait_for_less_urgent_ones),
        cmocka_unit_test(an_idle_pool_is_probed_however_bad_its_estimate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
