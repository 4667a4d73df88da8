/* Calls end at their deadline or when they are cancelled, on both sides (transport/rpc.h). */
#include "support_rpc_pair.h"

static void a_call_to_a_stopped_server_ends_at_its_deadline_and_not_later(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 3, NULL);
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    hm_net_pause(pair.world, 1, true);
    rpc_call_init(&call, &pair.client, ECHO, 700 * HM_MS);
    hm_ns deadline = call.call.deadline;
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    assert_int_equal(call.ended, deadline);
    hm_net_pause(pair.world, 1, false);
    rpc_pair_run(&pair, HM_S); /* a late reply, if any, leads nowhere */
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    rpc_pair_close(&pair);
}

static void a_deadline_that_has_passed_ends_the_call_in_a_later_turn(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 4, NULL);
    rpc_pair_run(&pair, HM_S);
    rpc_call_init(&call, &pair.client, ECHO, 0);
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    assert_int_equal(pair.service.handled, 0);
    rpc_pair_close(&pair);
}

static void a_cancelled_call_ends_in_a_later_turn_and_its_request_is_gone(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call, waiting;
    rpc_pair_open(&pair, 10, NULL);
    rpc_call_init(&waiting, &pair.client, HOLD, 100 * HM_S); /* waits for the dial */
    assert_ok(hm_rpc_call(pair.peer, &waiting.call));
    hm_rpc_cancel(&waiting.call);
    assert_int_equal(waiting.ends, 0);
    rpc_pair_run(&pair, HM_S);
    assert_status(waiting.status, HM_ERR_CANCELED);
    assert_int_equal(pair.service.handled, 0);
    rpc_call_init(&call, &pair.client, HOLD, 100 * HM_S);
    assert_ok(hm_rpc_call(pair.peer, &call.call));
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(pair.service.held_count, 1);
    hm_rpc_cancel(&call.call);
    hm_rpc_cancel(&call.call);
    assert_int_equal(call.ends, 0);
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(call.ends, 1);
    assert_status(call.status, HM_ERR_CANCELED);
    assert_int_equal(pair.service.gone, 1);
    rpc_service_release(&pair.service); /* leads nowhere */
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(call.replies, 0);
    rpc_pair_close(&pair);
}

static void deadlines_travel_as_remaining_time(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 11, NULL);
    rpc_call_init(&call, &pair.client, ECHO, 5 * HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_true(pair.service.left <= 5 * HM_S && pair.service.left > 4 * HM_S);
    rpc_call_init(&call, &pair.client, HOLD, 2 * HM_S);
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    rpc_pair_run(&pair, 200 * HM_MS);
    assert_int_equal(pair.service.gone, 1);
    rpc_call_init(&call, &pair.client, ECHO, 5 * 3600 * HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    /* Nobody remembers a request for longer. */
    assert_in_range(pair.service.left, 3599 * HM_S, 3600 * HM_S);
    rpc_pair_close(&pair);
}

static void deadlines_mean_the_same_moment_on_both_sides(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 23, NULL);
    rpc_delay_always(pair.world, 20 * HM_MS);
    for (unsigned i = 0; i < 3; i++) {
        rpc_call_init(&call, &pair.client, ECHO, 5 * HM_S);
        hm_ns before = hm_loop_now(pair.loop);
        assert_ok(rpc_call_run(&call, pair.peer));
        hm_ns handled = before + 20 * HM_MS; /* both share the world's clock */
        if (i > 0)
            assert_in_range(handled + pair.service.left, before + 5 * HM_S - HM_MS,
                            before + 5 * HM_S + HM_MS);
    }
    /* What is over when it arrives is refused, though it was not when it was sent. */
    unsigned handled = pair.service.handled;
    rpc_call_init(&call, &pair.client, ECHO, 15 * HM_MS);
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(pair.service.handled, handled);
    rpc_pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_to_a_stopped_server_ends_at_its_deadline_and_not_later),
        cmocka_unit_test(a_deadline_that_has_passed_ends_the_call_in_a_later_turn),
        cmocka_unit_test(a_cancelled_call_ends_in_a_later_turn_and_its_request_is_gone),
        cmocka_unit_test(deadlines_travel_as_remaining_time),
        cmocka_unit_test(deadlines_mean_the_same_moment_on_both_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
