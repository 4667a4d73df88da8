/* Claims of transport/rpc.h, one by one, on the simulated network: calls, replies and what is refused.
 * Deadlines are in test_rpc_deadline.c, peers and their connections in test_rpc_peer.c. */
#include "support_rpc_pair.h"

static void on_nothing(void *arg, struct hm_request *request, const void *header,
                       size_t header_bytes, struct hm_inbound *in)
{
    (void)arg, (void)request, (void)header, (void)header_bytes, (void)in;
    fail_msg("it was not taken");
}

static void a_call_dials_and_is_answered(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 1, NULL);
    assert_false(hm_peer_connected(pair.peer));
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    call.call.header = "hello";
    call.call.header_bytes = 5;
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_int_equal(call.replies, 1);
    assert_ok(call.reply_status);
    assert_memory_equal(call.header, "hello", 5);
    assert_true(hm_peer_connected(pair.peer));
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(pair.server.ups, 1);
    assert_int_equal(pair.client.ups, 1);
    assert_string_equal(hm_peer_addrs(pair.peer)->addr[0].text, "sim:1");
    rpc_pair_close(&pair);
    assert_int_equal(pair.server.downs, 1);
    assert_int_equal(pair.client.downs, 1);
}

static void every_one_of_several_replies_arrives_though_they_overtake_one_another(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct rpc_pair pair;
        struct rpc_call call;
        rpc_pair_open(&pair, seed, NULL);
        rpc_call_init(&call, &pair.client, PARTS, 10 * HM_S);
        uint8_t parts = (uint8_t)(1 + seed % 60);
        call.call.header = &parts;
        call.call.header_bytes = 1;
        assert_ok(rpc_call_run(&call, pair.peer));
        assert_int_equal(call.replies, parts);
        assert_true(call.parts == (UINT64_C(1) << parts) - 1);
        rpc_pair_close(&pair);
    }
}

static void what_cannot_be_served_is_refused_with_its_own_status(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call, held[5];
    static uint8_t payload[100000];
    rpc_pair_open(&pair, 12, &(struct hm_rpc_conf){.requests_max_per_peer = 4});
    rpc_call_init(&call, &pair.client, 99, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_status(call.reply_status, HM_ERR_UNSUPPORTED);
    for (unsigned i = 0; i < 2; i++) { /* eager, then announced */
        rpc_call_init(&call, &pair.client, TINY, HM_S);
        call.call.payload[0] = (struct hm_span){.base = payload, .bytes = i ? sizeof payload : 11};
        call.call.span_count = 1;
        assert_ok(rpc_call_run(&call, pair.peer));
        assert_status(call.reply_status, HM_ERR_TOO_BIG);
    }
    assert_int_equal(pair.service.handled, 0);
    for (unsigned i = 0; i < 5; i++) {
        rpc_call_init(&held[i], &pair.client, HOLD, 30 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &held[i].call));
    }
    rpc_pair_run(&pair, HM_S);
    unsigned refused = 0;
    for (unsigned i = 0; i < 5; i++) {
        if (!held[i].done) continue;
        assert_status(held[i].reply_status, HM_ERR_BUSY);
        refused++;
    }
    assert_int_equal(refused, 1);
    assert_int_equal(hm_metrics_value(&pair.server.metrics, "rpc.requests_refused"), 4);
    rpc_service_release(&pair.service);
    rpc_pair_run(&pair, HM_S);
    for (unsigned i = 0; i < 5; i++) assert_status(held[i].status, HM_OK);
    rpc_pair_close(&pair);
}

static void calls_over_fixed_limits_are_refused_before_they_start(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call, other;
    static uint8_t big[HM_CALL_HEADER_BYTES_MAX + 1];
    rpc_pair_open(&pair, 13, &(struct hm_rpc_conf){.calls_max = 1});
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    call.call.header = big;
    call.call.header_bytes = sizeof big;
    assert_status(hm_rpc_call(pair.peer, &call.call), HM_ERR_TOO_BIG);
    call.call.header_bytes = 0;
    call.call.span_count = 2;
    call.call.payload[0].bytes = call.call.payload[1].bytes = HM_PAYLOAD_BYTES_MAX / 2 + 1;
    assert_status(hm_rpc_call(pair.peer, &call.call), HM_ERR_TOO_BIG);
    call.call.span_count = 0;
    call.call.header_bytes = sizeof big - 1;
    assert_ok(hm_rpc_call(pair.peer, &call.call));
    rpc_call_init(&other, &pair.client, ECHO, HM_S);
    assert_status(hm_rpc_call(pair.peer, &other.call), HM_ERR_BUSY);
    rpc_pair_run(&pair, HM_S);
    assert_ok(call.status);
    assert_int_equal(call.header_bytes, sizeof big - 1);
    rpc_pair_close(&pair);
}

static void a_busy_wire_queues_calls_and_replies_and_loses_none(void **state)
{
    (void)state;
    enum { CALLS = 400 };
    static struct rpc_call calls[CALLS];
    static uint8_t payload[3000];
    struct rpc_pair pair;
    rpc_pair_open(&pair, 14, NULL);
    struct hm_net_options options;
    hm_net_options_default(&options);
    options.busy_per_million = 300 * 1000;
    hm_net_set_options(pair.world, &options);
    uint8_t parts = 3;
    for (unsigned i = 0; i < CALLS; i++) {
        rpc_call_init(&calls[i], &pair.client, i % 2 ? ECHO : PARTS, 60 * HM_S);
        calls[i].call.header = &parts;
        calls[i].call.header_bytes = 1;
        if (i % 2) {
            calls[i].call.payload[0] = (struct hm_span){.base = payload, .bytes = sizeof payload};
            calls[i].call.span_count = 1;
        }
        assert_ok(hm_rpc_call(pair.peer, &calls[i].call));
    }
    rpc_pair_run(&pair, 60 * HM_S);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_ok(calls[i].status);
        assert_int_equal(calls[i].replies, i % 2 ? 1 : 3);
    }
    rpc_pair_close(&pair);
}

static void a_queued_payload_outlives_its_callers_reference(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    struct hm_buf *buf;
    rpc_pair_open(&pair, 15, NULL);
    assert_ok(hm_buf_pool_get(pair.client.buffers, 200000, &buf));
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    call.call.payload[0] = hm_buf_span(buf);
    call.call.span_count = 1;
    assert_ok(hm_rpc_call(pair.peer, &call.call)); /* waits for the dial */
    hm_buf_put(buf);
    assert_true(hm_buf_pool_bytes_used(pair.client.buffers) > 0);
    rpc_pair_run(&pair, HM_S);
    assert_ok(call.status);
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(hm_buf_pool_bytes_used(pair.client.buffers), 0);
    rpc_pair_close(&pair);
}

static void method_ids_are_taken_once(void **state)
{
    (void)state;
    struct rpc_pair pair;
    rpc_pair_open(&pair, 22, NULL);
    struct hm_method low = {.id = HM_METHOD_PING, .name = "ping", .handle = on_nothing};
    struct hm_method high = {.id = 256, .name = "high", .handle = on_nothing};
    assert_status(hm_rpc_serve(pair.server.rpc, pair.methods, 1), HM_ERR_INVALID);
    assert_status(hm_rpc_serve(pair.server.rpc, &low, 1), HM_ERR_INVALID);
    assert_status(hm_rpc_serve(pair.server.rpc, &high, 1), HM_ERR_INVALID);
    struct rpc_call call;
    rpc_call_init(&call, &pair.client, HM_METHOD_PING, HM_S); /* rpc itself answers it */
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_ok(call.reply_status);
    rpc_pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_dials_and_is_answered),
        cmocka_unit_test(every_one_of_several_replies_arrives_though_they_overtake_one_another),
        cmocka_unit_test(what_cannot_be_served_is_refused_with_its_own_status),
        cmocka_unit_test(calls_over_fixed_limits_are_refused_before_they_start),
        cmocka_unit_test(a_busy_wire_queues_calls_and_replies_and_loses_none),
        cmocka_unit_test(a_queued_payload_outlives_its_callers_reference),
        cmocka_unit_test(method_ids_are_taken_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
