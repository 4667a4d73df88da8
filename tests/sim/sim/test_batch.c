/* Batches on the virtual clock: what shares one, what waits, what is split, and how tasks end. */
#include "support_sched.h"

enum { ROOM = 1 << 20 };
static struct stage stage;
static struct bench bench[3];
static struct job job[600];

/* A lane that takes 1 ms a batch. */
static struct hm_lane *begin(size_t buffer_bytes)
{
    memset(bench, 0, sizeof bench);
    memset(job, 0, sizeof job);
    stage_open(&stage, 1, buffer_bytes, NULL);
    return stage_lane(&stage, &(struct hm_sim_lane_conf){.base_ns = HM_MS});
}

static void submit(struct job *one, struct bench *to, uint32_t rows, hm_ns within)
{
    hm_ns deadline = within == HM_NS_NEVER ? HM_NS_NEVER : hm_loop_now(stage.loop) + within;
    assert_ok(job_submit(&stage, to, one, (uint32_t)(one - job), rows, deadline));
}

static uint64_t metric(const char *name)
{
    return hm_metrics_value(&stage.metrics, name);
}

/* ---- who shares a batch
 * ------------------------------------------------------------------------ */

static void rows_of_one_turn_share_a_batch(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 64, .out_row_bytes = 8});
    for (unsigned i = 0; i < 10; i++) submit(&job[i], &bench[0], 3, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 1);
    assert_int_equal(bench[0].batch_rows[0], 30);
    for (unsigned i = 0; i < 10; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

static void rows_gather_while_the_lane_is_busy(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 64, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 1, HM_NS_NEVER);
    stage_run_for(&stage, HM_MS / 10);
    for (unsigned i = 1; i <= 5; i++) {
        submit(&job[i], &bench[0], 2, HM_NS_NEVER);
        stage_run_for(&stage, HM_MS / 10);
    }
    assert_int_equal(bench[0].batches, 0); /* runs when it is back */
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 2);
    assert_int_equal(bench[0].batch_rows[1], 10);
    stage_close(&stage);
}

static void a_task_that_does_not_fit_waits_whole_for_the_next_batch(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 5, HM_NS_NEVER);
    submit(&job[1], &bench[0], 5, HM_NS_NEVER);
    submit(&job[2], &bench[0], 3, HM_NS_NEVER); /* would have fitted into the first: not its turn */
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 2);
    assert_int_equal(bench[0].batch_rows[0], 5);
    assert_int_equal(bench[0].batch_rows[1], 8);
    stage_close(&stage);
}

static void a_batch_takes_no_more_tasks_than_it_has_pieces(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 1024, .out_row_bytes = 8});
    for (unsigned i = 0; i < 600; i++) submit(&job[i], &bench[0], 1, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 3);
    assert_int_equal(bench[0].batch_rows[0], HM_PIECES_MAX);
    stage_close(&stage);
}

/* ---- splitting
 * --------------------------------------------------------------------------------- */

static void a_task_larger_than_a_batch_is_split_and_comes_back_whole(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 64});
    submit(&job[0], &bench[0], 3, HM_NS_NEVER);
    submit(&job[1], &bench[0], 20, HM_NS_NEVER); /* 5 beside the first, then 8, then 7 */
    submit(&job[2], &bench[0], 1, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(bench[0].batch_rows[i], 8);
        assert_status(job[i].status, HM_OK); /* its rows were checked */
    }
    stage_close(&stage);
}

static void rows_that_are_shorter_than_their_pools_lie_close_together(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 64});
    job[1].task.out_row_bytes = 16;
    job[2].task.out_row_bytes = 24;
    submit(&job[0], &bench[0], 3, HM_NS_NEVER);
    submit(&job[1], &bench[0], 20, HM_NS_NEVER); /* split, and joined */
    submit(&job[2], &bench[0], 5, HM_NS_NEVER);
    submit(&job[3], &bench[0], 3, HM_NS_NEVER); /* beside it */
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < 4; i++) assert_status(job[i].status, HM_OK); /* rows were checked */
    job[1].task.out_row_bytes = job[2].task.out_row_bytes = 0;
    stage_close(&stage);
}

static void a_split_task_whose_slab_cannot_be_had_is_busy_at_once(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(64 << 10),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 4096});
    assert_status(job_submit(&stage, &bench[0], &job[0], 0, 9, HM_NS_NEVER), HM_ERR_BUSY);
    assert_status(job_submit(&stage, &bench[0], &job[0], 0, 100, HM_NS_NEVER), HM_ERR_TOO_BIG);
    submit(&job[1], &bench[0], 8, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_status(job[1].status, HM_OK);
    stage_close(&stage);
}

static void a_split_task_that_fails_drops_the_rows_it_has_not_given(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    bench[0].fail_every = 2;
    submit(&job[0], &bench[0], 80, HM_NS_NEVER);
    submit(&job[1], &bench[0], 8, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_ERR_EXPERT_NUMERIC);
    assert_int_equal(job[0].task.rows_taken, 16);
    assert_status(job[1].status, HM_OK);
    assert_int_equal(bench[0].batches, 3);
    stage_close(&stage);
}

/* ---- how tasks end
 * ----------------------------------------------------------------------------- */

static void a_queued_task_ends_at_its_deadline_and_never_runs(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 8, HM_NS_NEVER);
    submit(&job[1], &bench[0], 8, HM_MS / 2);
    stage_run_for(&stage, HM_S);
    assert_status(job[1].status, HM_ERR_TIMED_OUT);
    assert_int_equal(job[1].ended_at, job[1].task.deadline);
    assert_int_equal(job[1].task.rows_taken, 0);
    assert_int_equal(bench[0].batches, 1);
    assert_int_equal(metric("sched.timed_out"), 1);
    stage_close(&stage);
}

static void a_running_task_that_is_late_ends_when_its_rows_are_back(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 8, HM_MS / 2);
    stage_run_for(&stage, HM_MS * 9 / 10);
    assert_false(job[0].ended); /* its input is still being read */
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_ERR_TIMED_OUT);
    assert_int_equal(job[0].ended_at, job[0].task.arrived + HM_MS);
    stage_close(&stage);
}

static void the_first_reason_to_fail_is_the_one_that_is_told(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    bench[0].fail_every = 1;
    submit(&job[0], &bench[0], 8, HM_MS / 4); /* late, canceled, and its batch fails */
    submit(&job[1], &bench[0], 8, HM_NS_NEVER);
    stage_run_for(&stage, HM_MS / 2);
    job_cancel(&job[0]);
    stage_run_for(&stage, HM_MS);
    job_cancel(&job[1]); /* canceled, and its batch fails */
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_ERR_TIMED_OUT);
    assert_status(job[1].status, HM_ERR_CANCELED);
    stage_close(&stage);
}

static void cancel_takes_a_queued_task_out_and_tells_in_the_next_turn(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 8, HM_NS_NEVER);
    submit(&job[1], &bench[0], 8, HM_S);
    stage_run_for(&stage, HM_MS / 2);
    job_cancel(&job[1]);
    assert_false(job[1].ended);
    stage_run_for(&stage, 1);
    assert_status(job[1].status, HM_ERR_CANCELED);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 1);
    assert_int_equal(metric("sched.canceled"), 1);
    stage_close(&stage);
}

static void cancel_of_what_is_not_held_does_nothing(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    hm_sched_cancel(&job[1].task); /* never submitted */
    submit(&job[0], &bench[0], 8, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    job_cancel(&job[0]); /* has ended; a second end() would fail */
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_OK);
    assert_int_equal(metric("sched.canceled"), 0);
    stage_close(&stage);
}

static struct hm_pool *pool_to_destroy;
static void destroy_pool(struct job *one)
{
    (void)one;
    hm_pool_destroy(pool_to_destroy);
}

static void a_pool_may_go_in_the_end_of_its_last_task(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 30, HM_NS_NEVER);
    pool_to_destroy = bench[0].pool;
    job[0].then = destroy_pool;
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_OK);
    stage_close(&stage);
}

static void submit_again(struct job *one)
{
    one->then = NULL;
    assert_ok(job_submit(&stage, one->bench, one, one->number + 1, 4, HM_NS_NEVER));
}

static void a_task_may_be_submitted_again_in_its_own_end(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 8, HM_NS_NEVER);
    job[0].then = submit_again;
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 2);
    assert_status(job[0].status, HM_OK);
    stage_close(&stage);
}

static void a_draining_scheduler_takes_nothing_more_and_finishes_what_it_has(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    for (unsigned i = 0; i < 4; i++) submit(&job[i], &bench[0], 8, HM_NS_NEVER);
    stage_drain(&stage);
    assert_status(job_submit(&stage, &bench[0], &job[9], 9, 1, HM_NS_NEVER), HM_ERR_DRAINING);
    stage_run_for(&stage, 3 * HM_MS + HM_MS / 2);
    assert_false(stage.drained);
    stage_run_for(&stage, HM_MS);
    assert_true(stage.drained);
    for (unsigned i = 0; i < 4; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

/* ---- waiting
 * ----------------------------------------------------------------------------------- */

static void a_batch_that_is_not_full_waits_as_long_as_its_pool_says(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM),
               (struct hm_pool_conf){
                   .batch_rows_max = 8, .batch_delay_max = 5 * HM_MS, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 2, HM_NS_NEVER);
    stage_run_for(&stage, 3 * HM_MS);
    submit(&job[1], &bench[0], 2, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 1);
    assert_int_equal(job[1].ended_at, job[0].task.arrived + 6 * HM_MS);
    submit(&job[2], &bench[0], 2, HM_NS_NEVER);
    submit(&job[3], &bench[0], 6, HM_NS_NEVER); /* full: nothing to wait for */
    stage_run_for(&stage, HM_S);
    assert_int_equal(job[3].ended_at, job[3].task.arrived + HM_MS);
    stage_close(&stage);
}

static void a_near_deadline_ends_the_wait(void **state)
{
    (void)state;
    bench_open(
        &stage, &bench[0], begin(ROOM),
        (struct hm_pool_conf){.batch_rows_max = 8, .batch_delay_max = HM_S, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 2, 20 * HM_MS);
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_OK);
    stage_close(&stage);
}

static void a_pool_that_waits_lets_another_run(void **state)
{
    (void)state;
    struct hm_lane *lane = begin(ROOM);
    bench_open(&stage, &bench[0], lane,
               (struct hm_pool_conf){
                   .batch_rows_max = 8, .batch_delay_max = 5 * HM_MS, .out_row_bytes = 8});
    bench_open(&stage, &bench[1], lane,
               (struct hm_pool_conf){
                   .batch_rows_max = 8, .priority = HM_PRIORITY_BACKGROUND, .out_row_bytes = 8});
    submit(&job[0], &bench[0], 2, HM_NS_NEVER);
    submit(&job[1], &bench[1], 2, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_int_equal(job[1].ended_at, job[1].task.arrived + HM_MS);
    assert_int_equal(job[0].ended_at, job[0].task.arrived + 6 * HM_MS);
    stage_close(&stage);
}

/* A stream of inference rows that fills the lane, and one background task. */
static struct hm_timer stream_timer;
static unsigned stream_next;
static void on_stream(struct hm_timer *timer)
{
    if (stream_next == 590) return;
    submit(&job[stream_next++], &bench[0], 8, HM_NS_NEVER);
    hm_timer_start(stage.loop, timer, HM_MS * 9 / 10);
}

static void background_work_is_not_starved_by_a_stream_of_inference(void **state)
{
    (void)state;
    struct hm_lane *lane = begin(ROOM);
    bench_open(&stage, &bench[0], lane,
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    bench_open(&stage, &bench[1], lane,
               (struct hm_pool_conf){
                   .batch_rows_max = 8, .priority = HM_PRIORITY_BACKGROUND, .out_row_bytes = 8});
    stream_next = 0;
    stream_timer = (struct hm_timer){.cb = on_stream};
    on_stream(&stream_timer);
    submit(&job[599], &bench[1], 8, HM_NS_NEVER);
    stage_run_for(&stage, 10 * HM_MS);
    assert_false(job[599].ended); /* inference goes first ... */
    stage_run_for(&stage, 400 * HM_MS);
    assert_true(stream_next < 590);
    assert_status(job[599].status, HM_OK); /* ... until it has aged */
    assert_true(job[599].ended_at >= job[599].task.arrived + 100 * HM_MS);
    hm_timer_stop(stage.loop, &stream_timer);
    stage_close(&stage);
}

/* ---- memory and lanes
 * -------------------------------------------------------------------------- */

static void an_exhausted_buffer_pool_leaves_a_reserve_and_then_waits(void **state)
{
    (void)state;
    struct hm_buf *hog;
    bench_open(&stage, &bench[0], begin(96 << 10),
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 4096});
    assert_ok(hm_buf_pool_get(stage.buffers, 64 << 10, &hog)); /* the reserve has the rest */
    job[0].keep = true;
    submit(&job[0], &bench[0], 8, HM_NS_NEVER);
    submit(&job[1], &bench[0], 8, HM_NS_NEVER);
    stage_run_for(&stage, 10 * HM_MS);
    assert_status(job[0].status, HM_OK); /* in the reserve, which it keeps */
    assert_false(job[1].ended);
    assert_true(metric("sched.starved") > 0);
    job_release(&job[0]);
    stage_run_for(&stage, 10 * HM_MS);
    assert_status(job[1].status, HM_OK);
    hm_buf_put(hog);
    stage_close(&stage);
}

static void split_tasks_that_hold_all_memory_still_end(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(64 << 10),
               (struct hm_pool_conf){.batch_rows_max = 2, .out_row_bytes = 4096});
    unsigned taken = 0;
    while (job_submit(&stage, &bench[0], &job[taken], taken, 3, HM_NS_NEVER) == HM_OK) taken++;
    assert_true(taken >= 3);
    stage_run_for(&stage, HM_S);
    for (unsigned i = 0; i < taken; i++) assert_status(job[i].status, HM_OK);
    stage_close(&stage);
}

static void a_second_batch_is_formed_early_only_if_it_is_full(void **state)
{
    (void)state;
    begin(ROOM);
    struct hm_lane *lane = stage_lane(
        &stage, &(struct hm_sim_lane_conf){
                    .base_ns = HM_MS, .run_at_launch = true, .batches_max = HM_LANE_BATCHES_MAX});
    bench_open(&stage, &bench[0], lane,
               (struct hm_pool_conf){.batch_rows_max = 8, .out_row_bytes = 8});
    for (unsigned i = 0; i < 3; i++) submit(&job[i], &bench[0], 6, HM_NS_NEVER);
    stage_run_for(&stage, HM_MS / 2);
    assert_int_equal(bench[0].batches, 2); /* at the lane: 6 and 6; twelve rows waited: full */
    submit(&job[3], &bench[0], 1, HM_NS_NEVER);
    stage_run_for(&stage, HM_MS / 10);
    assert_int_equal(bench[0].batches, 2);
    stage_run_for(&stage, HM_S);
    assert_int_equal(bench[0].batches, 3);
    assert_int_equal(bench[0].batch_rows[2], 7);
    stage_close(&stage);
}

static void pools_without_output_answer_without_a_slab(void **state)
{
    (void)state;
    bench_open(&stage, &bench[0], begin(ROOM), (struct hm_pool_conf){.batch_rows_max = 8});
    submit(&job[0], &bench[0], 20, HM_NS_NEVER);
    stage_run_for(&stage, HM_S);
    assert_status(job[0].status, HM_OK);
    assert_int_equal(hm_buf_pool_bytes_used(stage.buffers), 0);
    stage_close(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_one_turn_share_a_batch),
        cmocka_unit_test(rows_gather_while_the_lane_is_busy),
        cmocka_unit_test(a_task_that_does_not_fit_waits_whole_for_the_next_batch),
        cmocka_unit_test(a_batch_takes_no_more_tasks_than_it_has_pieces),
        cmocka_unit_test(a_task_larger_than_a_batch_is_split_and_comes_back_whole),
        cmocka_unit_test(rows_that_are_shorter_than_their_pools_lie_close_together),
        cmocka_unit_test(a_split_task_whose_slab_cannot_be_had_is_busy_at_once),
        cmocka_unit_test(a_split_task_that_fails_drops_the_rows_it_has_not_given),
        cmocka_unit_test(a_queued_task_ends_at_its_deadline_and_never_runs),
        cmocka_unit_test(a_running_task_that_is_late_ends_when_its_rows_are_back),
        cmocka_unit_test(the_first_reason_to_fail_is_the_one_that_is_told),
        cmocka_unit_test(cancel_takes_a_queued_task_out_and_tells_in_the_next_turn),
        cmocka_unit_test(cancel_of_what_is_not_held_does_nothing),
        cmocka_unit_test(a_pool_may_go_in_the_end_of_its_last_task),
        cmocka_unit_test(a_task_may_be_submitted_again_in_its_own_end),
        cmocka_unit_test(a_draining_scheduler_takes_nothing_more_and_finishes_what_it_has),
        cmocka_unit_test(a_batch_that_is_not_full_waits_as_long_as_its_pool_says),
        cmocka_unit_test(a_near_deadline_ends_the_wait),
        cmocka_unit_test(a_pool_that_waits_lets_another_run),
        cmocka_unit_test(background_work_is_not_starved_by_a_stream_of_inference),
        cmocka_unit_test(an_exhausted_buffer_pool_leaves_a_reserve_and_then_waits),
        cmocka_unit_test(split_tasks_that_hold_all_memory_still_end),
        cmocka_unit_test(a_second_batch_is_formed_early_only_if_it_is_full),
        cmocka_unit_test(pools_without_output_answer_without_a_slab),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
