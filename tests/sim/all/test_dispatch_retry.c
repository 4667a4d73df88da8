/* A server that is overloaded says when to ask again: callers do, no sooner, in their own time, and have
 * others do the work meanwhile where there are others. */
#include "support_moe.h"

#include "moe/remote_expert.h"

#include <stdio.h>

static struct moe_swarm swarm;
static struct moe_pass pass;
static float x[MOE_HIDDEN] = {1, 2, 3, 4, 5, 6}, dy[MOE_HIDDEN] = {6, 5, 4, 3, 2, 1};
static float out[MOE_HIDDEN];

/* One row to ffn.0.0. */
static enum hm_status call(struct moe_waiting *waiting, bool backward, hm_ns timeout)
{
    struct hm_uid uid;
    struct hm_tensor tx = hm_matrix_f32(x, 1, MOE_HIDDEN), tdy = hm_matrix_f32(dy, 1, MOE_HIDDEN),
                     tout = hm_matrix_f32(out, 1, MOE_HIDDEN);
    hm_ns start = hm_loop_now(swarm.loop), deadline = hm_deadline_after(swarm.loop, timeout);
    waiting->op.arg = waiting;
    waiting->result.done = false;
    memset(out, 0, sizeof out);
    assert_ok(hm_uid_parse("ffn.0.0", &uid));
    assert_ok(backward ? hm_moe_expert_backward(swarm.dispatch, &waiting->op, &uid, &tx, &tdy,
                                                &tout, deadline, moe_waiting_ended)
                       : hm_moe_expert_forward(swarm.dispatch, &waiting->op, &uid, &tx, &tout,
                                               deadline, moe_waiting_ended));
    moe_wait(&swarm, &waiting->result.done, 60 * HM_S);
    waiting->result.took = hm_loop_now(swarm.loop) - start;
    return waiting->result.status;
}

/* So many times, then never again. */
static struct moe_expert *turns_away(const char *uid, enum hm_status status, unsigned times,
                                     uint32_t retry_after_us)
{
    struct moe_expert *expert = moe_expert(&swarm, uid, NULL);
    expert->fails_with = status;
    expert->fails_first = times;
    expert->retry_after_us = retry_after_us;
    expert->failed = 0;
    return expert;
}

static void who_is_turned_away_asks_again_when_told_to_and_not_before(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_BUSY, HM_ERR_REFUSED};
    struct moe_waiting waiting = {0};
    float wanted[MOE_HIDDEN];
    moe_swarm_open(&swarm, 1, 1);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK); /* finds it */
    for (unsigned i = 0; i < 4; i++) {
        bool backward = i % 2;
        struct moe_expert *expert = turns_away("ffn.0.0", statuses[i / 2], 1, 40000);
        unsigned steps = expert->backwards;
        assert_status(call(&waiting, backward, 3 * HM_S), HM_OK);
        assert_in_range(waiting.result.took, 40 * HM_MS, 150 * HM_MS);
        assert_int_equal(expert->failed, 1);
        assert_int_equal(expert->backwards - steps, backward);
        if (backward)
            moe_expert_backward(&expert->uid, dy, wanted);
        else
            moe_expert_forward(&expert->uid, x, wanted);
        moe_assert_near(out, wanted, MOE_HIDDEN, 1e-5f);
    }
    assert_int_equal(hm_metrics_value(&swarm.trainer.metrics, "moe.parts_asked_again"), 4);
    moe_swarm_close(&swarm);
}

static void it_goes_on_asking_while_its_time_allows_and_waits_longer_each_time(void **state)
{
    (void)state;
    struct moe_waiting waiting = {0};
    moe_swarm_open(&swarm, 2, 1);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK);
    struct moe_expert *expert = turns_away("ffn.0.0", HM_ERR_BUSY, 6, 1000);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK);
    assert_int_equal(expert->failed, 6);
    assert_in_range(waiting.result.took, 63 * HM_MS, 300 * HM_MS); /* 1 + 2 + .. 32, at least */
    moe_swarm_close(&swarm);
}

static void who_would_be_told_too_late_fails_at_once_as_refused(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_BUSY, HM_ERR_REFUSED};
    struct moe_waiting waiting = {0};
    moe_swarm_open(&swarm, 3, 1);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK);
    for (unsigned i = 0; i < 2; i++) {
        struct moe_expert *expert = turns_away("ffn.0.0", statuses[i], 1, 3000000);
        assert_status(call(&waiting, i == 1, 2 * HM_S), statuses[i]);
        assert_true(waiting.result.took < 100 * HM_MS);
        assert_int_equal(expert->failed, 1);
        assert_non_null(strstr(waiting.result.line, "ask again in 3000.0 ms"));
    }
    moe_swarm_close(&swarm);
}

static void whatever_a_server_says_a_call_ends_in_its_time_and_asks_some_ten_times(void **state)
{
    (void)state;
    static const struct {
        uint32_t retry_after_us;
        unsigned asked_min, asked_max;
    } cases[] = {{0, 1, 1}, {1, 8, 12}, {999, 8, 12}, {UINT32_MAX, 1, 1}};
    struct moe_waiting waiting = {0};
    moe_swarm_open(&swarm, 4, 1);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK);
    for (unsigned i = 0; i < HM_COUNT_OF(cases); i++) {
        struct moe_expert *expert =
            turns_away("ffn.0.0", HM_ERR_BUSY, UINT32_MAX, cases[i].retry_after_us);
        assert_status(call(&waiting, false, 2 * HM_S), HM_ERR_BUSY);
        assert_true(waiting.result.took < 2 * HM_S);
        assert_in_range(expert->failed, cases[i].asked_min, cases[i].asked_max);
        assert_status(call(&waiting, false, 2 * HM_MS), /* less than a first wait */
                      waiting.result.took < 2 * HM_MS ? HM_ERR_BUSY : HM_ERR_TIMED_OUT);
    }
    moe_swarm_close(&swarm);
}

static void whose_refusals_are_final_is_told_the_first(void **state)
{
    (void)state;
    struct moe_waiting waiting = {.op.refusals_final = true};
    moe_swarm_open(&swarm, 5, 1);
    assert_status(call(&waiting, false, 3 * HM_S), HM_OK);
    struct moe_expert *expert = turns_away("ffn.0.0", HM_ERR_BUSY, 1, 1000);
    assert_status(call(&waiting, false, 3 * HM_S), HM_ERR_BUSY);
    assert_int_equal(expert->failed, 1);
    moe_swarm_close(&swarm);
}

/* ---- mixtures -------------------------------------------------------------------------------- */

/* Row i's experts are, best first, ffn.<i>.<i>, ffn.<i>.<i + 1> and ffn.<i + 1>.<i>, of servers i, i + 1 and
 * i. */
static void open_mixture(uint64_t seed, uint32_t rows, const struct hm_mixture_conf *other)
{
    struct hm_mixture_conf conf;
    moe_swarm_open(&swarm, seed, 3);
    moe_conf(&swarm, &conf);
    conf.k_best = other->k_best;
    conf.k_min = other->k_min;
    conf.spares = other->spares;
    conf.backward_k_min = other->backward_k_min;
    moe_pass_init(&pass, &swarm, &conf, rows, seed);
    memset(pass.logits, 0, sizeof pass.logits);
    for (uint32_t i = 0; i < rows; i++) {
        float *row = pass.logits + (size_t)i * 2 * MOE_GRID;
        row[i] = row[MOE_GRID + i] = 5;
        row[MOE_GRID + (i + 1) % MOE_GRID] = 4;
        row[(i + 1) % MOE_GRID] = 3;
    }
}

static void close_mixture(void)
{
    moe_pass_fini(&pass);
    moe_swarm_close(&swarm);
}

static unsigned forwards(const char *uid)
{
    return moe_expert(&swarm, uid, NULL)->forwards;
}

static void a_mixture_passes_over_who_has_asked_it_to_until_then(void **state)
{
    (void)state;
    open_mixture(6, 1, &(struct hm_mixture_conf){.k_best = 2, .k_min = 1, .spares = 1});
    struct moe_expert *busy = turns_away("ffn.0.0", HM_ERR_BUSY, UINT32_MAX, 500000);
    assert_status(moe_forward(&pass), HM_OK); /* asks it, and goes to the spare one */
    assert_int_equal(busy->failed, 1);
    assert_int_equal(forwards("ffn.0.1") + forwards("ffn.1.0"), 2);
    for (unsigned i = 0; i < 5; i++) {
        assert_status(moe_forward(&pass), HM_OK);
        assert_int_equal(pass.op.part_count, 2); /* no round more */
        assert_int_equal(pass.op.parts_failed, 0);
    }
    assert_int_equal(busy->failed, 1);
    assert_int_equal(forwards("ffn.0.1") + forwards("ffn.1.0"), 12);
    busy->fails_first = 0;
    moe_run(&swarm, 625 * HM_MS);
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(busy->forwards, 1);
    close_mixture();
}

static void who_has_asked_not_to_be_asked_is_where_nobody_else_is_left(void **state)
{
    (void)state;
    open_mixture(7, 1, &(struct hm_mixture_conf){.k_best = 1, .k_min = 1, .spares = 1});
    struct moe_expert *busy = turns_away("ffn.0.0", HM_ERR_BUSY, 1, 500000);
    assert_status(moe_forward(&pass), HM_OK);
    moe_expert(&swarm, "ffn.0.1", NULL)->forward = MOE_FAILS; /* EXPERT_GONE, below */
    moe_expert(&swarm, "ffn.0.1", NULL)->fails_with = HM_ERR_EXPERT_GONE;
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(busy->forwards, 1);
    assert_true(pass.result.took < 100 * HM_MS);
    close_mixture();
}

static void where_all_refuse_it_waits_for_the_first_who_will_not(void **state)
{
    (void)state;
    open_mixture(8, 1, &(struct hm_mixture_conf){.k_best = 1, .k_min = 1, .spares = 1});
    assert_status(moe_forward(&pass), HM_OK); /* finds them */
    struct moe_expert *best = turns_away("ffn.0.0", HM_ERR_BUSY, 1, 300000);
    struct moe_expert *next = turns_away("ffn.0.1", HM_ERR_REFUSED, 2, 40000);
    unsigned before = best->forwards;
    assert_status(moe_forward(&pass), HM_OK);
    assert_in_range(pass.result.took, 80 * HM_MS, 280 * HM_MS);
    assert_int_equal(best->failed, 1);
    assert_int_equal(best->forwards, before);
    assert_int_equal(next->failed, 2);
    assert_int_equal(next->forwards, 1);
    float wanted[MOE_HIDDEN];
    moe_expert_forward(&next->uid, pass.x, wanted);
    moe_assert_near(pass.y, wanted, MOE_HIDDEN, 1e-4f);
    close_mixture();
}

static void a_pass_that_ends_while_it_waits_asks_nobody_any_more(void **state)
{
    (void)state;
    open_mixture(9, 2, &(struct hm_mixture_conf){.k_best = 1, .k_min = 1});
    assert_status(moe_forward(&pass), HM_OK);
    struct moe_expert *busy = turns_away("ffn.0.0", HM_ERR_BUSY, UINT32_MAX, 500000);
    struct moe_expert *bad = turns_away("ffn.1.1", HM_ERR_SHAPE, UINT32_MAX, 0);
    bad->delay = 100 * HM_MS;
    assert_status(moe_forward(&pass), HM_ERR_SHAPE); /* the other row has no hope */
    assert_in_range(pass.result.took, 100 * HM_MS, 200 * HM_MS);
    for (unsigned i = 0; i < pass.op.part_count; i++)
        if (strcmp(pass.op.part[i].uid.text, "ffn.0.0") == 0)
            assert_status(pass.op.part[i].status, HM_ERR_BUSY);
    moe_run(&swarm, 2 * HM_S);
    assert_int_equal(busy->failed, 1);

    bad->fails_first = 0; /* and one whose deadline comes while another row's expert is silent */
    bad->forward = MOE_SILENT;
    busy->fails_first = 1;
    assert_status(moe_forward(&pass), HM_ERR_TIMED_OUT);
    assert_int_equal(busy->failed, 2);
    close_mixture();
}

static void a_backward_that_nobody_takes_waits_and_steps_once(void **state)
{
    (void)state;
    open_mixture(10, 1, &(struct hm_mixture_conf){.k_best = 2, .k_min = 2, .backward_k_min = 2});
    assert_status(moe_forward(&pass), HM_OK);
    struct moe_expert *busy = turns_away("ffn.0.0", HM_ERR_BUSY, 3, 20000);
    assert_status(moe_backward(&pass), HM_OK);
    assert_int_equal(busy->failed, 3);
    assert_int_equal(busy->backwards, 1);
    assert_int_equal(moe_expert(&swarm, "ffn.0.1", NULL)->backwards, 1);
    close_mixture();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_turned_away_asks_again_when_told_to_and_not_before),
        cmocka_unit_test(it_goes_on_asking_while_its_time_allows_and_waits_longer_each_time),
        cmocka_unit_test(who_would_be_told_too_late_fails_at_once_as_refused),
        cmocka_unit_test(whatever_a_server_says_a_call_ends_in_its_time_and_asks_some_ten_times),
        cmocka_unit_test(whose_refusals_are_final_is_told_the_first),
        cmocka_unit_test(a_mixture_passes_over_who_has_asked_it_to_until_then),
        cmocka_unit_test(who_has_asked_not_to_be_asked_is_where_nobody_else_is_left),
        cmocka_unit_test(where_all_refuse_it_waits_for_the_first_who_will_not),
        cmocka_unit_test(a_pass_that_ends_while_it_waits_asks_nobody_any_more),
        cmocka_unit_test(a_backward_that_nobody_takes_waits_and_steps_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
