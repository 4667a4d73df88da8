/* A pool's bounds, said at once; on the real loop, with a lane that holds what it gets. */
#include "test.h"

#include "base/loop_uv.h"
#include "sched/sched.h"

static struct hm_loop *loop;
static struct hm_sched *sched;
static struct hm_buf_pool *buffers;
static struct hm_lane lane;
static struct hm_batch *held;
static struct hm_task task[8];
static unsigned ends;
static bool looping;

static void lane_launch(struct hm_lane *base, struct hm_batch *batch)
{
    (void)base;
    held = batch;
    if (looping) hm_loop_uv_stop(loop);
}
static void lane_free(struct hm_lane *base)
{
    (void)base;
}
static const struct hm_lane_ops holding = {.launch = lane_launch, .destroy = lane_free};

static enum hm_status run(void *arg, struct hm_batch *batch)
{
    (void)arg;
    memset(batch->out->base, 7, batch->row_count * (size_t)16);
    return HM_OK;
}

static void on_end(struct hm_task *ended, enum hm_status status, const struct hm_rows *out)
{
    (void)ended;
    assert_status(status, HM_OK);
    assert_int_equal(((const char *)out->slab->base)[out->first * 16], 7);
    ends++;
}

static const struct hm_pool_conf good = {
    .name = "ffn.0.0 forward",
    .lane = &lane,
    .batch_rows_max = 8,
    .queue_rows_max = 20,
    .queue_tasks_max = 4,
    .out_row_bytes = 16,
    .run = run,
};

static int begin(void **state)
{
    (void)state;
    assert_ok(hm_loop_uv_create(1, &loop));
    assert_ok(hm_buf_pool_create(1 << 20, &buffers));
    struct hm_sched_conf conf = {.loop = loop, .buffers = buffers, .pools_max = 2};
    assert_ok(hm_sched_create(&conf, &sched));
    hm_lane_init(&lane, &holding, sched, "held");
    held = NULL;
    ends = 0;
    return 0;
}

static int end(void **state)
{
    (void)state;
    hm_sched_destroy(sched);
    hm_loop_uv_destroy(loop);
    hm_buf_pool_destroy(buffers);
    return 0;
}

static enum hm_status submit(struct hm_pool *pool, unsigned number, uint32_t rows)
{
    task[number] =
        (struct hm_task){.pool = pool, .row_count = rows, .deadline = HM_NS_NEVER, .end = on_end};
    return hm_sched_submit(sched, &task[number]);
}

static void run_until_held(void)
{
    looping = true;
    while (!held) hm_loop_uv_run(loop);
    looping = false;
}

/* Until nothing is left: what is held is given back, and the next is held. */
static void finish(void)
{
    while (hm_sched_tasks(sched) > 0) {
        run_until_held();
        struct hm_batch *batch = held;
        held = NULL;
        hm_batch_run(batch);
        hm_lane_batch_done(batch);
        hm_sched_check(sched);
    }
}

static void limits_that_make_no_sense_are_invalid_with_a_line(void **state)
{
    (void)state;
    struct hm_pool *pool;
    struct hm_pool_conf conf = good;
    conf.batch_rows_max = 0;
    assert_status(hm_pool_create(sched, &conf, &pool), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "ffn.0.0 forward"));
    conf = good;
    conf.queue_tasks_max = 0;
    assert_status(hm_pool_create(sched, &conf, &pool), HM_ERR_INVALID);
    conf = good;
    conf.queue_rows_max = 7;
    assert_status(hm_pool_create(sched, &conf, &pool), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "7"));
    conf = good;
    conf.out_row_bytes = SIZE_MAX / 4;
    assert_status(hm_pool_create(sched, &conf, &pool), HM_ERR_INVALID);
}

static void a_batch_that_the_buffer_pool_cannot_hold_is_refused_at_creation(void **state)
{
    (void)state;
    struct hm_pool *pool;
    struct hm_pool_conf conf = good;
    conf.out_row_bytes = 1 << 20;
    assert_status(hm_pool_create(sched, &conf, &pool), HM_ERR_NO_MEMORY);
    assert_non_null(strstr(hm_fail_line(), "smaller batches"));
    assert_int_equal(hm_buf_pool_bytes_used(buffers), 0);
}

static void there_are_no_more_pools_than_agreed(void **state)
{
    (void)state;
    struct hm_pool *pool[3];
    assert_ok(hm_pool_create(sched, &good, &pool[0]));
    assert_ok(hm_pool_create(sched, &good, &pool[1]));
    assert_status(hm_pool_create(sched, &good, &pool[2]), HM_ERR_BUSY);
    hm_pool_destroy(pool[0]);
    assert_ok(hm_pool_create(sched, &good, &pool[2]));
}

static void a_queue_full_of_tasks_is_busy(void **state)
{
    (void)state;
    struct hm_pool *pool;
    assert_ok(hm_pool_create(sched, &good, &pool));
    for (unsigned i = 0; i < 4; i++) assert_ok(submit(pool, i, 1));
    assert_status(submit(pool, 4, 1), HM_ERR_BUSY);
    hm_sched_check(sched);
    finish();
    assert_int_equal(ends, 4);
}

static void rows_that_run_count_as_well(void **state)
{
    (void)state;
    struct hm_pool *pool;
    assert_ok(hm_pool_create(sched, &good, &pool));
    assert_ok(submit(pool, 0, 8));
    run_until_held();
    assert_int_equal(hm_pool_rows_queued(pool), 8);
    assert_ok(submit(pool, 1, 8));
    assert_status(submit(pool, 2, 5), HM_ERR_BUSY);
    assert_ok(submit(pool, 2, 4));
    assert_int_equal(hm_pool_rows_queued(pool), 20);
    finish();
    assert_int_equal(hm_pool_rows_queued(pool), 0);
    assert_ok(submit(pool, 3, 20));
    finish();
    assert_int_equal(ends, 4);
}

static void rows_that_no_queue_takes_are_too_big_and_none_are_invalid(void **state)
{
    (void)state;
    struct hm_pool *pool;
    assert_ok(hm_pool_create(sched, &good, &pool));
    assert_status(submit(pool, 0, 21), HM_ERR_TOO_BIG);
    assert_status(submit(pool, 0, UINT32_MAX), HM_ERR_TOO_BIG);
    assert_status(submit(pool, 0, 0), HM_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(limits_that_make_no_sense_are_invalid_with_a_line, begin,
                                        end),
        cmocka_unit_test_setup_teardown(
            a_batch_that_the_buffer_pool_cannot_hold_is_refused_at_creation, begin, end),
        cmocka_unit_test_setup_teardown(there_are_no_more_pools_than_agreed, begin, end),
        cmocka_unit_test_setup_teardown(a_queue_full_of_tasks_is_busy, begin, end),
        cmocka_unit_test_setup_teardown(rows_that_run_count_as_well, begin, end),
        cmocka_unit_test_setup_teardown(rows_that_no_queue_takes_are_too_big_and_none_are_invalid,
                                        begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
