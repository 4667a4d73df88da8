/* Calls that are started together and waited for later: each ends once, with its own rows and its own
 * line, whatever the others do. */
#include "support_server.h"

#include <pthread.h>

enum { CALLS = 24, ROWS = 3 };
static struct swarm swarm;
static struct hm_remote_expert *expert[4]; /* ffn.0 to ffn.3 */
static float x[CALLS][ROWS * COLUMNS], y[CALLS][ROWS * COLUMNS], wanted[ROWS * COLUMNS];

static struct hm_array rows(float *data)
{
    return (struct hm_array){.dims = 2, .dim = {ROWS, COLUMNS}, .data = data};
}

static int setup(void **state)
{
    (void)state;
    swarm_open(&swarm, 0);
    for (unsigned i = 0; i < 4; i++) {
        char uid[16];
        snprintf(uid, sizeof(uid), "ffn.%u", i);
        assert_ok(hm_remote_expert_find(swarm.b, uid, 20000, &expert[i]));
    }
    fill_normal(x[0], CALLS * ROWS * COLUMNS, 7);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) hm_remote_expert_put(expert[i]);
    swarm_close(&swarm);
    return 0;
}

static void forward_start(struct hm_queue *queue, unsigned call, int timeout_ms)
{
    struct hm_array in = rows(x[call]), out = rows(y[call]);
    assert_ok(
        hm_remote_expert_forward_start(expert[call % 4], &in, &out, timeout_ms, queue, &y[call]));
}

/* The call that has ended. */
static unsigned wait_for(struct hm_queue *queue, enum hm_status status)
{
    struct hm_completion completion;
    assert_ok(hm_queue_wait(queue, 20000, &completion));
    if (completion.status != (int)status)
        fail_msg("a call ended with %s: %s", hm_status_name(completion.status), completion.line);
    assert_int_equal(completion.line[0] == 0, status == HM_OK);
    return (unsigned)((float(*)[ROWS * COLUMNS]) completion.tag - y);
}

static void each_call_ends_once_with_its_own_rows(void **state)
{
    (void)state;
    struct hm_queue *queue;
    bool ended[CALLS] = {false};
    assert_ok(hm_queue_open(swarm.b, CALLS, &queue));
    for (unsigned i = 0; i < CALLS; i++) forward_start(queue, i, 20000);
    for (unsigned i = 0; i < CALLS; i++) {
        unsigned call = wait_for(queue, HM_OK);
        assert_false(ended[call]);
        ended[call] = true;
    }
    for (unsigned i = 0; i < CALLS; i++) { /* as one call at a time */
        struct hm_array in = rows(x[i]), out = rows(wanted);
        assert_ok(hm_remote_expert_forward(expert[i % 4], &in, &out, 20000));
        assert_rows_near(y[i], wanted, ROWS * COLUMNS, 1e-5);
    }
    hm_queue_close(queue);
}

static void all_are_under_way_at_once(void **state)
{
    (void)state;
    struct gate gate;
    struct hm_queue *queue;
    struct hm_completion completion = {.status = 77};
    assert_ok(hm_queue_open(swarm.b, 2, &queue));
    gate_shut(&gate, &swarm, "ffn.0");
    forward_start(queue, 0, 20000);
    forward_start(queue, 4, 20000); /* ffn.0 too */
    wait_queued(&swarm, "ffn.0", HM_PASS_FORWARD, 2 * ROWS);
    struct hm_array in = rows(x[1]), out = rows(y[1]);
    assert_status(hm_remote_expert_forward_start(expert[1], &in, &out, 20000, queue, NULL),
                  HM_ERR_BUSY);
    assert_non_null(strstr(hm_last_error(), "all 2 calls of the queue are under way"));
    assert_status(hm_queue_wait(queue, 20, &completion), HM_ERR_TIMED_OUT);
    assert_int_equal(completion.status, 77); /* written on success only */
    gate_open(&gate);
    assert_int_equal(wait_for(queue, HM_OK) + wait_for(queue, HM_OK), 4);
    assert_status(hm_queue_wait(queue, 20, &completion), HM_ERR_NOT_FOUND);
    hm_queue_close(queue);
}

static void one_that_fails_says_why_and_the_others_are_well(void **state)
{
    (void)state;
    struct hm_queue *queue;
    float narrow[ROWS * 2], out_of_narrow[ROWS * 2];
    struct hm_array bad = {.dims = 2, .dim = {ROWS, 2}, .data = narrow}, bad_out = bad;
    bad_out.data = out_of_narrow;
    fill_normal(narrow, ROWS * 2, 3);
    assert_ok(hm_queue_open(swarm.b, 0, &queue));
    assert_ok(hm_remote_expert_forward_start(expert[0], &bad, &bad_out, 20000, queue, NULL));
    forward_start(queue, 1, 20000);
    bool failed = false, well = false;
    for (unsigned i = 0; i < 2; i++) {
        struct hm_completion completion;
        assert_ok(hm_queue_wait(queue, 20000, &completion));
        if (completion.tag) {
            assert_int_equal(completion.status, HM_OK);
            well = true;
            continue;
        }
        assert_status(completion.status, HM_ERR_SHAPE);
        assert_non_null(strstr(completion.line, "ffn.0"));
        failed = true;
    }
    assert_true(failed && well);
    /* What cannot be sent at all fails at the start, and takes no place. */
    assert_status(
        hm_remote_expert_forward_start(expert[0], &bad, &(struct hm_array){0}, 0, queue, NULL),
        HM_ERR_INVALID);
    struct hm_array in = rows(x[0]);
    assert_status(hm_remote_expert_forward_start(expert[0], &in, &bad_out, 0, queue, NULL),
                  HM_ERR_SHAPE);
    assert_status(hm_queue_wait(queue, 20, &(struct hm_completion){0}), HM_ERR_NOT_FOUND);
    hm_queue_close(queue);
}

static void gradients_step_their_expert_once(void **state)
{
    (void)state;
    struct hm_queue *queue;
    struct local local;
    float dy[ROWS * COLUMNS];
    fill_normal(dy, ROWS * COLUMNS, 11);
    uint64_t before = steps(&swarm, "ffn.2");
    local_open(&local, "ffn.2");
    local_backward(&local, x[2], dy, ROWS, wanted);
    struct hm_array in = rows(x[2]), grad = rows(dy), out = rows(y[2]);
    assert_ok(hm_queue_open(swarm.b, 4, &queue));
    assert_ok(hm_remote_expert_backward_start(expert[2], &in, &grad, &out, 20000, queue, &y[2]));
    assert_int_equal(wait_for(queue, HM_OK), 2);
    assert_rows_near(y[2], wanted, ROWS * COLUMNS, 1e-4);
    assert_int_equal(steps(&swarm, "ffn.2"), before + 1);
    hm_queue_close(queue);
    local_close(&local);
}

/* 72 rows where 64 have room: a full queue is no error to who has time. */
static void who_finds_no_room_asks_again_until_there_is(void **state)
{
    (void)state;
    struct gate gate;
    struct hm_queue *queue;
    struct hm_completion none;
    float dy[ROWS * COLUMNS];
    fill_normal(dy, ROWS * COLUMNS, 12);
    struct hm_array in = rows(x[0]), grad = rows(dy), out = rows(y[0]);
    assert_ok(hm_remote_expert_backward(expert[1], &in, &grad, &out, 20000));
    uint64_t before = steps(&swarm, "ffn.1");
    uint64_t again = hm_metrics_value(&swarm.b->metrics, "moe.parts_asked_again");
    assert_ok(hm_queue_open(swarm.b, CALLS, &queue));
    gate_shut(&gate, &swarm, "ffn.1");
    for (unsigned i = 0; i < CALLS; i++) {
        in = rows(x[i]);
        out = rows(y[i]);
        assert_ok(
            hm_remote_expert_backward_start(expert[1], &in, &grad, &out, 20000, queue, &y[i]));
    }
    assert_status(hm_queue_wait(queue, 200, &none), HM_ERR_TIMED_OUT);
    gate_open(&gate);
    for (unsigned i = 0; i < CALLS; i++) wait_for(queue, HM_OK);
    assert_in_range(steps(&swarm, "ffn.1"), before + 1, before + CALLS); /* one a batch */
    assert_true(hm_metrics_value(&swarm.b->metrics, "moe.parts_asked_again") > again);
    hm_queue_close(queue);
}

static void closing_waits_for_deadlines_and_no_longer(void **state)
{
    (void)state;
    struct gate gate;
    struct hm_queue *queue;
    assert_ok(hm_queue_open(swarm.b, 8, &queue));
    gate_shut(&gate, &swarm, "ffn.3");
    for (unsigned i = 0; i < 8; i++) forward_start(queue, 4 * i % CALLS + 3, 300);
    hm_queue_close(queue); /* although no batch runs */
    gate_open(&gate);
    hm_queue_close(NULL);
    assert_status(hm_queue_open(swarm.b, 1025, &queue), HM_ERR_INVALID);
    assert_ok(hm_queue_open(swarm.a, 1, &queue));
    struct hm_array in = rows(x[0]), out = rows(y[0]);
    assert_status(hm_remote_expert_forward_start(expert[0], &in, &out, 0, queue, NULL),
                  HM_ERR_INVALID); /* of another node */
    hm_queue_close(queue);
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    unsigned first;
    bool good;
};

/* Keeps several under way, in a queue of its own; no cmocka here, whose checks leap. */
static void *work(void *arg)
{
    struct worker *worker = arg;
    struct hm_queue *queue;
    struct hm_completion completion;
    unsigned started = 0, ended = 0;
    bool good = hm_queue_open(swarm.b, 4, &queue) == 0;
    while (good && ended < 100) {
        while (good && started < 100 && started < ended + 4) {
            unsigned call = worker->first + started++ % 8;
            struct hm_array in = rows(x[call]), out = rows(y[call]);
            good = !hm_remote_expert_forward_start(expert[call % 4], &in, &out, 20000, queue, NULL);
        }
        good = good && !hm_queue_wait(queue, 20000, &completion) && !completion.status;
        ended++;
    }
    hm_queue_close(queue);
    worker->good = good;
    return NULL;
}

static void threads_have_queues_of_their_own_on_one_node(void **state)
{
    (void)state;
    struct worker worker[3];
    for (unsigned i = 0; i < 3; i++) {
        worker[i] = (struct worker){.first = 8 * i};
        assert_int_equal(pthread_create(&worker[i].thread, NULL, work, &worker[i]), 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(worker[i].thread, NULL);
        assert_true(worker[i].good);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_call_ends_once_with_its_own_rows),
        cmocka_unit_test(all_are_under_way_at_once),
        cmocka_unit_test(one_that_fails_says_why_and_the_others_are_well),
        cmocka_unit_test(gradients_step_their_expert_once),
        cmocka_unit_test(who_finds_no_room_asks_again_until_there_is),
        cmocka_unit_test(closing_waits_for_deadlines_and_no_longer),
        cmocka_unit_test(threads_have_queues_of_their_own_on_one_node),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
