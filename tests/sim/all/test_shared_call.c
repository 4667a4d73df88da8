/* Callers that share a call, in the simulated world: what is wrong with a server is everybody's, what may be
 * one caller's is asked again by each alone, once; and storms, in which every call ends once, by its
 * deadline, and what succeeds is right. */
#include "support_moe.h"

#include "base/rng.h"
#include "moe/remote_expert.h"

#include <stdio.h>

enum { CALLERS = 24, ROWS_EACH_MAX = 5, SEEDS = 16 };
static struct moe_swarm swarm;

struct caller {
    struct hm_moe_expert_op op;
    struct hm_uid uid;
    struct hm_tensor tx, ty;
    float x[ROWS_EACH_MAX * MOE_HIDDEN], y[ROWS_EACH_MAX * MOE_HIDDEN];
    hm_ns deadline;
    bool running;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};
static struct caller caller[CALLERS];
static unsigned running, good, bad;
static struct hm_rng rng; /* of the storm */
static bool again;        /* who has ended calls again, until the storm is over */

static void call_anything(struct caller *one);

static void check(const struct caller *one)
{
    float wanted[MOE_HIDDEN];
    for (uint32_t row = 0; row < one->tx.shape.dim[0]; row++) {
        const float *y = one->y + (size_t)row * MOE_HIDDEN;
        moe_expert_forward(&one->uid, one->x + (size_t)row * MOE_HIDDEN, wanted);
        if (one->status == HM_OK) moe_assert_near(y, wanted, MOE_HIDDEN, 1e-6f);
        for (unsigned i = 0; one->status != HM_OK && i < MOE_HIDDEN; i++) assert_true(y[i] == 77);
    }
}

static void ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct caller *one = op->arg;
    assert_true(one->running);
    assert_true(hm_loop_now(swarm.loop) <= one->deadline);
    one->running = false;
    one->status = status;
    snprintf(one->line, sizeof one->line, "%s", status == HM_OK ? "" : hm_fail_line());
    running--;
    if (status == HM_OK) good++;
    if (status != HM_OK) bad++;
    if (status != HM_OK) assert_non_null(strstr(one->line, one->uid.text));
    check(one);
    (void)hm_fail(HM_ERR_CORRUPT, "a line of somebody else");
    if (again) call_anything(one);
}

static void call(struct caller *one, const char *uid, uint32_t rows, hm_ns timeout)
{
    static uint32_t number;
    assert_ok(hm_uid_parse(uid, &one->uid));
    for (unsigned i = 0; i < rows * MOE_HIDDEN; i++) {
        one->x[i] = (float)(++number % 65536) / 16;
        one->y[i] = 77;
    }
    one->tx = hm_matrix_f32(one->x, rows, MOE_HIDDEN);
    one->ty = hm_matrix_f32(one->y, rows, MOE_HIDDEN);
    one->op = (struct hm_moe_expert_op){.arg = one};
    one->deadline = hm_deadline_after(swarm.loop, timeout);
    one->running = true;
    running++;
    assert_ok(hm_moe_expert_forward(swarm.dispatch, &one->op, &one->uid, &one->tx, &one->ty,
                                    one->deadline, ended));
    assert_true(one->running); /* not inside the call */
}

static void wait_for_all(void)
{
    for (unsigned i = 0; running > 0 && i < 60000; i++) moe_run(&swarm, HM_MS);
    assert_int_equal(running, 0);
}

/* Five of one row, in one turn; how many calls that were for the server. */
static unsigned five(struct moe_server *server, const char *uid)
{
    unsigned before = server ? server->calls : 0;
    for (unsigned i = 0; i < 5; i++) call(&caller[i], uid, 1, 3 * HM_S);
    wait_for_all();
    return server ? server->calls - before : 0;
}

static void all_have_the_status(enum hm_status status)
{
    for (unsigned i = 0; i < 5; i++) assert_status(caller[i].status, status);
}

static void rows_of_five_go_in_one_call(void **state)
{
    (void)state;
    struct moe_server *server;
    moe_swarm_open(&swarm, 1, 2);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.1.1", &server);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(five(server, "ffn.1.1"),
                         1); /* the first time nobody knows the expert yet */
        all_have_the_status(HM_OK);
        assert_int_equal(expert->row_count_forward, 5);
        for (unsigned k = 0; k < 5; k++)
            assert_true(hm_node_id_equal(&caller[k].op.server, &server->node.id));
    }
    moe_swarm_close(&swarm);
}

static void what_may_be_one_callers_fault_is_asked_again_by_each_alone_once(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_SHAPE, HM_ERR_NUMERIC, HM_ERR_BUSY,
                                              HM_ERR_TOO_BIG};
    struct moe_server *server;
    moe_swarm_open(&swarm, 2, 1);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.0.0", &server);
    expert->forward = MOE_FAILS;
    for (size_t i = 0; i < HM_COUNT_OF(statuses); i++) {
        expert->fails_with = statuses[i];
        assert_int_equal(five(server, "ffn.0.0"), 1 + 5);
        all_have_the_status(statuses[i]);
    }
    expert->forward = MOE_NAN;
    assert_int_equal(five(server, "ffn.0.0"), 1 + 5);
    all_have_the_status(HM_ERR_EXPERT_NUMERIC);
    moe_swarm_close(&swarm);
}

static void what_is_wrong_with_a_server_is_everybodys(void **state)
{
    (void)state;
    struct moe_server *server;
    moe_swarm_open(&swarm, 3, 2);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.0.0", &server);
    assert_int_equal(five(server, "ffn.0.0"), 1);
    expert->forward = MOE_SILENT;
    assert_int_equal(five(server, "ffn.0.0"), 1);
    all_have_the_status(HM_ERR_TIMED_OUT);
    expert->forward = MOE_FAILS;
    expert->fails_with = HM_ERR_REFUSED;
    assert_int_equal(five(server, "ffn.0.0"), 1);
    all_have_the_status(HM_ERR_REFUSED);
    expert->fails_with = HM_ERR_DRAINING;
    assert_int_equal(five(server, "ffn.0.0"), 1);
    all_have_the_status(HM_ERR_DRAINING);
    moe_swarm_close(&swarm);

    moe_swarm_open(&swarm, 4, 2);
    (void)moe_expert(&swarm, "ffn.0.0", &server);
    assert_int_equal(five(server, "ffn.0.0"), 1);
    moe_server_crash(server);
    (void)five(NULL, "ffn.0.0");
    for (unsigned i = 0; i < 5; i++)
        assert_true(caller[i].status != HM_OK && caller[i].status == caller[0].status);
    moe_swarm_close(&swarm);
}

static void who_is_refused_together_asks_again_together_and_who_finds_no_room_alone(void **state)
{
    (void)state;
    struct moe_server *server;
    moe_swarm_open(&swarm, 6, 1);
    struct moe_expert *expert = moe_expert(&swarm, "ffn.0.0", &server);
    expert->retry_after_us = 20000;
    expert->fails_with = HM_ERR_REFUSED;
    expert->fails_first = 2;
    assert_int_equal(five(server, "ffn.0.0"), 1 + 2);
    all_have_the_status(HM_OK);
    expert->fails_with = HM_ERR_BUSY;
    expert->fails_first = 1 + 5; /* and each by himself once more */
    assert_int_equal(five(server, "ffn.0.0"), 1 + 5 + 5);
    all_have_the_status(HM_OK);
    moe_swarm_close(&swarm);
}

static void an_expert_that_nobody_serves_is_found_by_nobody(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 5, 1);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(five(&swarm.server[0], "ffn.0.17"), 0);
        all_have_the_status(HM_ERR_NOT_FOUND);
    }
    moe_swarm_close(&swarm);
}

/* ---- storms ---------------------------------------------------------------------------------- */

static void call_anything(struct caller *one)
{
    static const hm_ns timeouts[] = {HM_S, HM_S + HM_S / 80, 700 * HM_MS, 2 * HM_S};
    char uid[16];
    snprintf(uid, sizeof uid, "ffn.%u.%u", (unsigned)hm_rng_below(&rng, 2),
             (unsigned)hm_rng_below(&rng, 2));
    call(one, uid, 1 + (uint32_t)hm_rng_below(&rng, ROWS_EACH_MAX),
         timeouts[hm_rng_below(&rng, HM_COUNT_OF(timeouts))]);
}

static void draw_faults(bool any)
{
    static const enum hm_status statuses[] = {HM_ERR_BUSY,     HM_ERR_EXPERT_GONE, HM_ERR_REFUSED,
                                              HM_ERR_DRAINING, HM_ERR_NUMERIC,     HM_ERR_SHAPE};
    struct hm_net_options options;
    hm_net_options_default(&options);
    if (any) {
        options.break_per_million_messages = (unsigned)hm_rng_below(&rng, 30000);
        options.busy_per_million = (unsigned)hm_rng_below(&rng, 100000);
        options.delay_max = HM_MS + hm_rng_below(&rng, 40 * HM_MS);
    }
    hm_net_set_options(swarm.world, &options);
    for (unsigned s = 0; s < swarm.server_count; s++) {
        for (unsigned e = 0; e < swarm.server[s].expert_count; e++) {
            struct moe_expert *expert = &swarm.server[s].expert[e];
            bool faulty = any && hm_rng_below(&rng, 3) == 0;
            expert->forward = faulty ? (enum moe_behaviour)hm_rng_below(&rng, 6) : MOE_GOOD;
            expert->fails_with = statuses[hm_rng_below(&rng, HM_COUNT_OF(statuses))];
            expert->retry_after_us = (uint32_t)hm_rng_below(&rng, 100000);
        }
    }
}

static void storm(uint64_t seed)
{
    hm_rng_init(&rng, seed, 17);
    good = bad = 0;
    moe_swarm_open(&swarm, seed, 2);
    again = true;
    for (unsigned i = 0; i < CALLERS; i++) call_anything(&caller[i]);
    for (unsigned i = 0; i < 20; i++) {
        draw_faults(i % 2);
        moe_run(&swarm, 500 * HM_MS);
    }
    again = false;
    wait_for_all();
    if (good < 100 || bad == 0)
        fail_msg("seed %u: %u calls succeeded, %u failed", (unsigned)seed, good, bad);

    draw_faults(false);
    moe_run(&swarm, 90 * HM_S); /* back-offs and holds pass */
    struct moe_server *server;
    (void)moe_expert(&swarm, "ffn.1.1", &server);
    assert_int_equal(five(server, "ffn.1.1"), 1);
    all_have_the_status(HM_OK);
    moe_swarm_close(&swarm);
}

static void in_a_storm_every_call_ends_once_in_time_and_what_succeeds_is_right(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) storm(seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_five_go_in_one_call),
        cmocka_unit_test(what_may_be_one_callers_fault_is_asked_again_by_each_alone_once),
        cmocka_unit_test(what_is_wrong_with_a_server_is_everybodys),
        cmocka_unit_test(who_is_refused_together_asks_again_together_and_who_finds_no_room_alone),
        cmocka_unit_test(an_expert_that_nobody_serves_is_found_by_nobody),
        cmocka_unit_test(in_a_storm_every_call_ends_once_in_time_and_what_succeeds_is_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
