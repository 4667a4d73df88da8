/* One expert by name: found, described, called forward and backward, wherever it lives now; and
 * every error with a line. */
#include "support_moe.h"

#include "base/rng.h"
#include "moe/remote_expert.h"

#include <stdio.h>
#include <sys/mman.h>

enum { ROWS = 7 };
static struct moe_swarm swarm;
static float x[ROWS * MOE_HIDDEN], y[ROWS * MOE_HIDDEN], dy[ROWS * MOE_HIDDEN],
    dx[ROWS * MOE_HIDDEN];

enum what { FIND, FORWARD, BACKWARD };

static enum hm_status run(struct moe_waiting *waiting, const char *text, enum what what,
                          hm_ns timeout)
{
    struct hm_uid uid;
    struct hm_tensor tx = hm_matrix_f32(x, ROWS, MOE_HIDDEN),
                     ty = hm_matrix_f32(y, ROWS, MOE_HIDDEN);
    struct hm_tensor tdy = hm_matrix_f32(dy, ROWS, MOE_HIDDEN),
                     tdx = hm_matrix_f32(dx, ROWS, MOE_HIDDEN);
    hm_ns start = hm_loop_now(swarm.loop), deadline = hm_deadline_after(swarm.loop, timeout);
    memset(waiting, 0, sizeof *waiting);
    waiting->op.arg = waiting;
    assert_ok(hm_uid_parse(text, &uid));
    if (what == FIND)
        assert_ok(
            hm_moe_expert_find(swarm.dispatch, &waiting->op, &uid, deadline, moe_waiting_ended));
    if (what == FORWARD)
        assert_ok(hm_moe_expert_forward(swarm.dispatch, &waiting->op, &uid, &tx, &ty, deadline,
                                        moe_waiting_ended));
    if (what == BACKWARD)
        assert_ok(hm_moe_expert_backward(swarm.dispatch, &waiting->op, &uid, &tx, &tdy, &tdx,
                                         deadline, moe_waiting_ended));
    assert_false(waiting->result.done);
    moe_wait(&swarm, &waiting->result.done, 60 * HM_S);
    waiting->result.took = hm_loop_now(swarm.loop) - start;
    return waiting->result.status;
}

static void open_swarm(uint64_t seed, unsigned servers)
{
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 5);
    for (unsigned i = 0; i < ROWS * MOE_HIDDEN; i++) {
        x[i] = hm_rng_normal(&rng);
        dy[i] = hm_rng_normal(&rng);
    }
    moe_swarm_open(&swarm, seed, servers);
}

static void an_expert_is_found_and_described(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    struct moe_server *server;
    open_swarm(1, 3);
    moe_expert(&swarm, "ffn.2.1", &server)->step = 12;
    assert_status(run(&waiting, "ffn.2.1", FIND, 10 * HM_S), HM_OK);
    assert_true(hm_node_id_equal(&waiting.op.server, &server->node.id));
    assert_string_equal(waiting.op.info.kind, "linear");
    assert_true(waiting.op.info.step == 12 && waiting.op.info.parameter_count == 2);
    struct hm_schema schema = hm_schema_f32(MOE_HIDDEN);
    assert_true(hm_schema_equal(&waiting.op.info.input, &schema));
    moe_swarm_close(&swarm);
}

static void forward_and_backward_are_the_experts_and_it_steps_once(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    open_swarm(2, 2);
    const struct moe_expert *expert = moe_expert(&swarm, "ffn.1.2", NULL);
    float wanted[MOE_HIDDEN];
    assert_status(run(&waiting, "ffn.1.2", FORWARD, 10 * HM_S), HM_OK);
    for (unsigned row = 0; row < ROWS; row++) {
        moe_expert_forward(&expert->uid, x + row * MOE_HIDDEN, wanted);
        moe_assert_near(y + row * MOE_HIDDEN, wanted, MOE_HIDDEN, 1e-6f);
    }
    assert_status(run(&waiting, "ffn.1.2", BACKWARD, 10 * HM_S), HM_OK);
    for (unsigned row = 0; row < ROWS; row++) {
        moe_expert_backward(&expert->uid, dy + row * MOE_HIDDEN, wanted);
        moe_assert_near(dx + row * MOE_HIDDEN, wanted, MOE_HIDDEN, 1e-6f);
    }
    assert_true(waiting.op.step == 1 && expert->step == 1);
    moe_swarm_close(&swarm);
}

static void an_expert_that_nobody_serves_is_not_found(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    open_swarm(3, 2);
    for (enum what what = FIND; what <= BACKWARD; what++) {
        assert_status(run(&waiting, "ffn.0.17", what, 10 * HM_S), HM_ERR_NOT_FOUND);
        assert_non_null(strstr(waiting.result.line, "ffn.0.17"));
        assert_status(run(&waiting, "other.3", what, 10 * HM_S), HM_ERR_NOT_FOUND);
    }
    moe_swarm_close(&swarm);
}

static void an_output_is_written_on_success_only(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    open_swarm(4, 1);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.0.0", NULL);
    for (unsigned i = 0; i < ROWS * MOE_HIDDEN; i++) y[i] = 77;
    static const struct {
        enum moe_behaviour behaviour;
        enum hm_status fails_with, status;
    } cases[] = {
        {MOE_NAN, HM_OK, HM_ERR_EXPERT_NUMERIC},
        {MOE_FAILS, HM_ERR_SHAPE, HM_ERR_SHAPE},
        {MOE_FAILS, HM_ERR_BUSY, HM_ERR_BUSY},
        {MOE_SILENT, HM_OK, HM_ERR_TIMED_OUT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expert->forward = cases[i].behaviour;
        expert->fails_with = cases[i].fails_with;
        assert_status(run(&waiting, "ffn.0.0", FORWARD, 3 * HM_S), cases[i].status);
        assert_true(cases[i].behaviour == MOE_SILENT ? waiting.result.took == 3 * HM_S
                                                     : waiting.result.took < HM_S);
        assert_non_null(strstr(waiting.result.line, "ffn.0.0"));
        for (unsigned k = 0; k < ROWS * MOE_HIDDEN; k++) assert_true(y[k] == 77);
    }
    moe_swarm_close(&swarm);
}

/* Many rows are sent from the caller's memory and received into it, until the call's last moment:
 * whenever that is, the memory may be gone in the next. */
static void a_call_leaves_its_callers_memory_alone_whenever_it_ends(void **state)
{
    (void)state;
    enum { MANY = 12000, FLOATS = MANY * MOE_HIDDEN, STEPS = 40 };
    const size_t bytes = 4 * (size_t)FLOATS * sizeof(float);
    unsigned ended_ok = 0, ended_late = 0;
    open_swarm(9, 1);
    struct moe_waiting waiting;
    struct hm_uid uid;
    assert_ok(hm_uid_parse("ffn.0.0", &uid));
    assert_ok(run(&waiting, "ffn.0.0", FORWARD, 10 * HM_S)); /* connected, and cached */
    for (unsigned i = 0; i < 2 * STEPS; i++) {
        bool backward = i % 2 == 1;
        float *memory =
            mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_true(memory != MAP_FAILED);
        struct hm_tensor tensor[4];
        for (unsigned k = 0; k < 4; k++)
            tensor[k] = hm_matrix_f32(memory + (size_t)k * FLOATS, MANY, MOE_HIDDEN);
        memset(&waiting, 0, sizeof waiting);
        waiting.op.arg = &waiting;
        hm_ns deadline = hm_deadline_after(swarm.loop, (i / 2 + 1) * (i / 2 + 1) * HM_MS / 8);
        if (backward)
            assert_ok(hm_moe_expert_backward(swarm.dispatch, &waiting.op, &uid, &tensor[0],
                                             &tensor[1], &tensor[2], deadline, moe_waiting_ended));
        else
            assert_ok(hm_moe_expert_forward(swarm.dispatch, &waiting.op, &uid, &tensor[0],
                                            &tensor[3], deadline, moe_waiting_ended));
        moe_wait(&swarm, &waiting.result.done, 60 * HM_S);
        assert_true(waiting.result.status == HM_OK || waiting.result.status == HM_ERR_TIMED_OUT);
        ended_ok += waiting.result.status == HM_OK;
        ended_late += waiting.result.status == HM_ERR_TIMED_OUT;
        assert_int_equal(munmap(memory, bytes), 0);
        moe_run(&swarm, HM_S);
    }
    assert_true(ended_ok > STEPS / 4 && ended_late > STEPS / 4);
    moe_swarm_close(&swarm);
}

/* Our server says it with every failure; it means something only where a queue was the reason. */
static void who_is_turned_away_reads_how_loaded_the_server_is(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_BUSY, HM_ERR_REFUSED, HM_ERR_SHAPE};
    struct moe_waiting waiting;
    open_swarm(4, 1);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.0.0", NULL);
    expert->forward = MOE_FAILS;
    expert->retry_after_us = 12000;
    for (size_t i = 0; i < HM_COUNT_OF(statuses); i++) {
        expert->fails_with = statuses[i];
        assert_status(run(&waiting, "ffn.0.0", FORWARD, 3 * HM_S), statuses[i]);
        bool told = strstr(waiting.result.line, ": 345.6 ms of work queued, ask again in 12.0 ms");
        assert_int_equal(told, statuses[i] != HM_ERR_SHAPE);
        assert_true(told || !strstr(waiting.result.line, "queued"));
    }
    moe_swarm_close(&swarm);
}

static void a_wrong_shape_is_refused_before_anything_is_sent(void **state)
{
    (void)state;
    open_swarm(5, 1);
    struct hm_uid uid;
    struct moe_waiting waiting = {.op.arg = &waiting};
    assert_ok(hm_uid_parse("ffn.0.0", &uid));
    struct hm_tensor tx = hm_matrix_f32(x, ROWS, MOE_HIDDEN),
                     ty = hm_matrix_f32(y, ROWS, MOE_HIDDEN - 1);
    hm_ns deadline = hm_deadline_after(swarm.loop, HM_S);
    assert_status(hm_moe_expert_forward(swarm.dispatch, &waiting.op, &uid, &tx, &ty, deadline,
                                        moe_waiting_ended),
                  HM_ERR_SHAPE);
    assert_status(hm_moe_expert_backward(swarm.dispatch, &waiting.op, &uid, &tx, &ty, &tx, deadline,
                                         moe_waiting_ended),
                  HM_ERR_SHAPE);
    tx.shape.dim_count = 0;
    assert_status(hm_moe_expert_forward(swarm.dispatch, &waiting.op, &uid, &tx, &tx, deadline,
                                        moe_waiting_ended),
                  HM_ERR_SHAPE);
    moe_run(&swarm, HM_S);
    assert_false(waiting.result.done);
    assert_int_equal(swarm.server[0].calls, 0);
    moe_swarm_close(&swarm);
}

static void an_expert_that_moved_is_found_again(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    open_swarm(6, 3);
    struct moe_server *server;
    (void)moe_expert(&swarm, "ffn.2.2", &server);
    assert_status(run(&waiting, "ffn.2.2", FORWARD, 10 * HM_S), HM_OK);
    moe_server_crash(server);
    assert_int_not_equal(run(&waiting, "ffn.2.2", FORWARD, 10 * HM_S), HM_OK);
    assert_true(waiting.result.took < 2 * HM_S); /* its death is noticed, not waited for */
    assert_int_not_equal(run(&waiting, "ffn.2.2", FORWARD, 10 * HM_S), HM_OK);
    assert_true(waiting.result.took < HM_S);
    struct moe_server *other = server == &swarm.server[0] ? &swarm.server[1] : &swarm.server[0];
    moe_server_host(other, "ffn.2.2");
    moe_server_declare(other, true, false);
    hm_ns declared = hm_loop_now(swarm.loop);
    while (run(&waiting, "ffn.2.2", FORWARD, 10 * HM_S) !=
           HM_OK) { /* as a trainer does, step by step */
        moe_run(&swarm, HM_S);
        if (hm_loop_now(swarm.loop) - declared > 15 * HM_S) fail_msg("%s", waiting.result.line);
    }
    assert_true(hm_node_id_equal(&waiting.op.server, &other->node.id));
    moe_swarm_close(&swarm);
}

static void stages_of_timed_calls_add_up_whatever_the_server_says(void **state)
{
    (void)state;
    struct moe_waiting waiting;
    open_swarm(9, 2);
    const struct hm_stages *stages = hm_dispatch_stages(swarm.dispatch);
    hm_dispatch_time(swarm.dispatch, 0);
    assert_status(run(&waiting, "ffn.1.1", FORWARD, 10 * HM_S), HM_OK); /* connects, too */
    for (unsigned i = 0; i < HM_STAGES; i++) assert_int_equal(stages->ns[i].count, 0);

    hm_dispatch_time(swarm.dispatch, 1);
    assert_status(run(&waiting, "ffn.1.1", FORWARD, 10 * HM_S), HM_OK);
    uint64_t sum = 0;
    for (unsigned i = 0; i < HM_STAGES; i++) {
        assert_int_equal(stages->ns[i].count, 1);
        sum += stages->ns[i].sum;
    }
    assert_true(waiting.result.took > HM_US && sum > 0 && sum <= waiting.result.took);
    /* This server claims 3 ns, and then more than there can be. */
    assert_int_equal(stages->ns[HM_STAGE_ADMIT].sum, 3);
    assert_int_equal(stages->ns[HM_STAGE_WIRE].sum, 0);

    hm_dispatch_time(swarm.dispatch, 3);
    for (unsigned i = 0; i < 7; i++)
        assert_status(run(&waiting, "ffn.1.1", BACKWARD, 10 * HM_S), HM_OK);
    assert_int_equal(stages->ns[HM_STAGE_QUEUE].count, 3); /* of seven: 1, 4 and 7 */
    moe_swarm_close(&swarm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_expert_is_found_and_described),
        cmocka_unit_test(forward_and_backward_are_the_experts_and_it_steps_once),
        cmocka_unit_test(an_expert_that_nobody_serves_is_not_found),
        cmocka_unit_test(an_output_is_written_on_success_only),
        cmocka_unit_test(a_call_leaves_its_callers_memory_alone_whenever_it_ends),
        cmocka_unit_test(who_is_turned_away_reads_how_loaded_the_server_is),
        cmocka_unit_test(a_wrong_shape_is_refused_before_anything_is_sent),
        cmocka_unit_test(an_expert_that_moved_is_found_again),
        cmocka_unit_test(stages_of_timed_calls_add_up_whatever_the_server_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
