/* The real lane on the real loop: rows cross to a thread and come back, each its own.  Run it under
 * TSan. */
#include "test.h"

#include "base/assert.h"
#include "base/loop_uv.h"
#include "base/thread.h"
#include "sched/sched.h"

#include <sched.h>
#include <stdatomic.h>

enum { JOBS = 64, ROUNDS = 40, LANES = 3, POOLS = 6, ROW = 64 };

struct job {
    struct hm_task task;
    uint64_t input[20]; /* written by the loop before each submit, read by the lane */
    unsigned round;
};
static struct hm_loop *loop;
static struct hm_sched *sched;
static struct hm_buf_pool *buffers;
static struct hm_pool *pool[POOLS];
static struct job job[JOBS];
static unsigned live, canceled, timed_out, ok, refused, shed;
static uintptr_t loop_thread;
static _Atomic unsigned entered, batches;

static enum hm_status run(void *arg, struct hm_batch *batch)
{
    (void)arg;
    assert_true(hm_thread_here() != loop_thread);
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        const struct job *from = piece->task->arg;
        for (uint32_t k = 0; k < piece->count; k++) {
            char *to = (char *)batch->out->base + (size_t)(piece->batch_first + k) * ROW;
            for (unsigned at = 0; at < ROW; at += 8)
                memcpy(to + at, &from->input[piece->task_first + k], 8);
        }
    }
    atomic_fetch_add(&batches, 1);
    return HM_OK;
}

static void enter(void *arg)
{
    assert_ptr_equal(arg, &entered);
    atomic_fetch_add(&entered, 1);
}

static void on_drained(void *arg)
{
    (void)arg;
    hm_loop_uv_stop(loop);
}

static void submit(struct job *one, unsigned rows, hm_ns within);

static void on_end(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    struct job *one = task->arg;
    assert_true(hm_thread_here() == loop_thread);
    live--;
    if (status == HM_ERR_CANCELED) canceled++;
    if (status == HM_ERR_TIMED_OUT) timed_out++;
    if (status == HM_ERR_REFUSED) shed++; /* too late when its turn came */
    if (status == HM_OK) {
        ok++;
        assert_int_equal(out->count, task->row_count);
        for (uint32_t row = 0; row < out->count; row++) {
            const char *from = (const char *)out->slab->base + (size_t)(out->first + row) * ROW;
            for (unsigned at = 0; at < ROW; at += 8)
                assert_memory_equal(from + at, &one->input[row], 8);
        }
    }
    unsigned number = (unsigned)(one - job);
    if (++one->round < ROUNDS)
        submit(one, 1 + (number * 7 + one->round * 5) % 20,
               (number + one->round) % 5 ? HM_NS_NEVER : 200 * HM_US);
    /* Somebody else may be queued, running, or on its way back. */
    if ((number + one->round) % 11 == 0) {
        struct job *other = &job[(number + 13) % JOBS];
        if (other != one && other->round < ROUNDS) hm_sched_cancel(&other->task);
    }
    if (live == 0) hm_sched_drain(sched, on_drained, NULL);
}

static void submit(struct job *one, unsigned rows, hm_ns within)
{
    for (unsigned row = 0; row < rows; row++)
        one->input[row] = (uint64_t)(one - job) << 32 | one->round << 8 | row;
    one->task = (struct hm_task){
        .pool = pool[(one - job) % POOLS],
        .row_count = rows,
        .deadline = hm_deadline_after(loop, within),
        .end = on_end,
        .arg = one,
    };
    enum hm_status status = hm_sched_submit(sched, &one->task);
    if (status == HM_ERR_REFUSED) { /* the short deadlines, once the cost is known */
        refused++;
        one->task.deadline = HM_NS_NEVER;
        status = hm_sched_submit(sched, &one->task);
    }
    assert_ok(status);
    live++;
}

static void open_all(const struct hm_place *place)
{
    assert_ok(hm_loop_uv_create(1, &loop));
    assert_ok(hm_buf_pool_create(16 << 20, &buffers));
    loop_thread = hm_thread_here();
    live = canceled = timed_out = ok = refused = shed = 0;
    atomic_store(&entered, 0);
    atomic_store(&batches, 0);
    memset(job, 0, sizeof job);
    struct hm_sched_conf conf = {.loop = loop, .buffers = buffers, .pools_max = POOLS};
    assert_ok(hm_sched_create(&conf, &sched));
    for (unsigned i = 0; i < LANES; i++) {
        struct hm_lane *lane;
        assert_ok(hm_lane_thread_start(sched, "cpu", place, enter, &entered, &lane));
        lane->batches_max = i == 2 ? HM_LANE_BATCHES_MAX : 1 + i; /* one of each kind */
        if (i == 2) lane->ahead_max = 500 * HM_US;
        struct hm_pool_conf pool_conf = {
            .name = "echo",
            .lane = lane,
            .batch_rows_max = 16,
            .queue_rows_max = 20 * JOBS,
            .queue_tasks_max = JOBS,
            .out_row_bytes = ROW,
            .run = run,
        };
        for (unsigned k = i; k < POOLS; k += LANES)
            assert_ok(hm_pool_create(sched, &pool_conf, &pool[k]));
    }
}

static void close_all(void)
{
    hm_sched_destroy(sched);
    hm_loop_uv_destroy(loop);
    hm_buf_pool_destroy(buffers);
}

static void rows_cross_to_the_thread_and_back_each_its_own(void **state)
{
    (void)state;
    open_all(NULL);
    for (unsigned i = 0; i < JOBS; i++) submit(&job[i], 1 + i % 20, HM_NS_NEVER);
    hm_loop_uv_run(loop);
    assert_int_equal(live, 0);
    assert_int_equal(ok + canceled + timed_out + shed, JOBS * ROUNDS);
    assert_true(ok > JOBS && canceled > 0);
    assert_int_equal(atomic_load(&entered), LANES);
    assert_true(atomic_load(&batches) > 0);
    close_all();
}

static void a_lane_that_never_ran_stops(void **state)
{
    (void)state;
    open_all(NULL);
    close_all();
}

static void read_place(void *arg)
{
    hm_ns *cpus = arg;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) *cpus = (hm_ns)CPU_COUNT(&set);
}

static void a_lane_runs_in_its_place(void **state)
{
    (void)state;
    struct hm_place place = {.cpu_count = 1, .name = "lane-test"};
    cpu_set_t allowed;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    unsigned cpu = 0;
    while (!CPU_ISSET(cpu, &allowed)) cpu++;
    place.cpuset[cpu / 64] = UINT64_C(1) << (cpu % 64);
    hm_ns cpus = 0;
    struct hm_lane *lane;
    open_all(NULL);
    assert_ok(hm_lane_thread_start(sched, "cpu", &place, read_place, &cpus, &lane));
    assert_string_equal(lane->device, "cpu");
    hm_lane_destroy(lane); /* joins: cpus may be read */
    assert_int_equal(cpus, 1);
    close_all();
}

/* ---- brief batches -------------------------------------------------------------------------- */

enum { BRIEF_ROWS = 4, STEPS = 4000 };
/* Nothing of it is atomic: whichever thread runs a batch, all that ran before it is there. */
static struct {
    unsigned steps, here, there;
    uint64_t sum;
} state_of_lane;
static unsigned answered;

static bool few_rows(void *arg, uint32_t row_count)
{
    (void)arg;
    assert_true(hm_thread_here() == loop_thread);
    return row_count <= BRIEF_ROWS;
}

static enum hm_status run_anywhere(void *arg, struct hm_batch *batch)
{
    (void)arg;
    bool here = hm_thread_here() == loop_thread;
    assert_int_equal(here, batch->brief);
    assert_true(!here || batch->row_count <= BRIEF_ROWS);
    state_of_lane.steps++;
    *(here ? &state_of_lane.here : &state_of_lane.there) += 1;
    for (unsigned i = 0; i < batch->piece_count; i++)
        state_of_lane.sum += batch->piece[i].task->row_count;
    return HM_OK;
}

static void on_step(struct hm_task *task, enum hm_status status, const struct hm_rows *out);

static void step_next(struct hm_task *task)
{
    *task = (struct hm_task){.pool = task->pool,
                             .row_count = answered % 3 == 2 ? 2 * BRIEF_ROWS : 1,
                             .deadline = HM_NS_NEVER,
                             .end = on_step};
    assert_ok(hm_sched_submit(sched, task));
}

static void on_step(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    assert_ok(status);
    assert_non_null(out);
    answered++;
    if (answered < STEPS)
        step_next(task);
    else
        hm_loop_uv_stop(loop);
}

static void open_brief(struct hm_lane **lane, struct hm_pool **brief, hm_ns brief_max)
{
    open_all(NULL);
    memset(&state_of_lane, 0, sizeof state_of_lane);
    answered = 0;
    hm_sched_destroy(sched);
    struct hm_sched_conf conf = {.loop = loop, .buffers = buffers, .pools_max = 2};
    assert_ok(hm_sched_create(&conf, &sched));
    assert_ok(hm_lane_thread_start(sched, "cpu", NULL, NULL, NULL, lane));
    (*lane)->brief_max = brief_max;
    struct hm_pool_conf pool_conf = {
        .name = "brief",
        .lane = *lane,
        .batch_rows_max = 16,
        .queue_rows_max = 64,
        .queue_tasks_max = 64,
        .run = run_anywhere,
        .may_be_brief = few_rows,
    };
    assert_ok(hm_pool_create(sched, &pool_conf, brief));
}

static void brief_batches_run_on_the_loops_thread_and_never_beside_the_lanes(void **state)
{
    (void)state;
    struct hm_lane *lane;
    struct hm_pool *brief;
    open_brief(&lane, &brief, HM_S);
    struct hm_task task = {.pool = brief};
    step_next(&task);
    hm_loop_uv_run(loop);
    assert_int_equal(answered, STEPS);
    assert_int_equal(state_of_lane.steps, STEPS);
    assert_true(state_of_lane.here > STEPS / 2 && state_of_lane.there > STEPS / 4);
    assert_int_equal(state_of_lane.sum, STEPS - STEPS / 3 + STEPS / 3 * 2 * BRIEF_ROWS);
    close_all();
}

static void a_lane_without_time_of_the_loop_runs_all_itself(void **state)
{
    (void)state;
    struct hm_lane *lane;
    struct hm_pool *brief;
    open_brief(&lane, &brief, 0);
    struct hm_task task = {.pool = brief};
    step_next(&task);
    hm_loop_uv_run(loop);
    assert_int_equal(state_of_lane.there, STEPS);
    close_all();
}

static enum hm_status run_slow(void *arg, struct hm_batch *batch)
{
    hm_thread_sleep(HM_MS);
    return run_anywhere(arg, batch);
}

static void what_takes_longer_than_the_loop_has_is_the_lanes(void **state)
{
    (void)state;
    enum { SLOW_STEPS = 60 };
    struct hm_lane *lane;
    struct hm_pool *brief, *slow;
    open_brief(&lane, &brief, 50 * HM_US);
    struct hm_pool_conf pool_conf = {
        .name = "slow",
        .lane = lane,
        .batch_rows_max = 16,
        .queue_rows_max = 64,
        .queue_tasks_max = 64,
        .run = run_slow,
        .may_be_brief = few_rows,
    };
    assert_ok(hm_pool_create(sched, &pool_conf, &slow));
    struct hm_task task = {.pool = slow};
    answered = STEPS - SLOW_STEPS;
    step_next(&task);
    hm_loop_uv_run(loop);
    assert_int_equal(state_of_lane.there, SLOW_STEPS);
    close_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_cross_to_the_thread_and_back_each_its_own),
        cmocka_unit_test(a_lane_that_never_ran_stops),
        cmocka_unit_test(a_lane_runs_in_its_place),
        cmocka_unit_test(brief_batches_run_on_the_loops_thread_and_never_beside_the_lanes),
        cmocka_unit_test(a_lane_without_time_of_the_loop_runs_all_itself),
        cmocka_unit_test(what_takes_longer_than_the_loop_has_is_the_lanes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
