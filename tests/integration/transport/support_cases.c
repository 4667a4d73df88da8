/* What holds between two processes whatever carries their messages. */
#include "support_rpc_process.h"

static struct hm_buf *bulk_make(struct node *node)
{
    struct hm_buf *bulk;
    assert_ok(hm_buf_pool_get(node->buffers, BULK_BYTES, &bulk));
    for (size_t i = 0; i < BULK_BYTES; i++) ((uint8_t *)bulk->base)[i] = (uint8_t)(i * 31 >> 3);
    return bulk;
}

void calls_small_and_large_are_answered(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    struct hm_peer *peer = pair_open(&server, &node);
    unsigned left = 0;
    struct hm_buf *bulk = bulk_make(&node);
    for (unsigned i = 0; i < CALLS; i++)
        call_make(&calls[i], &node, peer, ECHO, 60 * HM_S, NULL, i % 8 ? NULL : bulk, &left);
    hm_buf_put(bulk);
    run(&node, 60 * HM_S);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_ok(calls[i].status);
        assert_ok(calls[i].reply_status);
        if (i % 8) continue;
        const uint8_t *bytes = calls[i].buf->base;
        assert_int_equal(calls[i].buf->bytes, BULK_BYTES);
        for (size_t k = 0; k < BULK_BYTES; k++)
            if (bytes[k] != (uint8_t)(k * 31 >> 3)) fail_msg("byte %zu of call %u", k, i);
        hm_buf_put(calls[i].buf);
    }
    assert_true(hm_peer_round_trip(peer, NULL) > 0);
    if (node_fabric) assert_int_equal(hm_metrics_value(&node.metrics, "rpc.tcp_after_join"), 0);
    pair_close(&server, &node, peer);
}

void a_killed_server_ends_calls_in_flight_with_a_status(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    struct hm_peer *peer = pair_open(&server, &node);
    unsigned left = 0;
    call_warm(&node, peer);
    for (unsigned i = 0; i < CALLS; i++)
        call_make(&calls[i], &node, peer, HOLD, 120 * HM_S, NULL, NULL, &left);
    run(&node, 300 * HM_MS);
    for (unsigned i = 0; i < CALLS; i++) assert_int_equal(calls[i].ends, 0);
    hm_ns killed = hm_loop_now(node.loop), latest = 0;
    server_kill(&server);
    run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_int_equal(hm_status_scope(calls[i].status), HM_SCOPE_PEER);
        assert_true(calls[i].ended < calls[i].call.deadline);
        if (calls[i].ended > latest) latest = calls[i].ended;
    }
    print_message("calls ended %.1f ms after the kill\n", (double)(latest - killed) / 1e6);
    assert_int_equal(node.downs, 1);

    /* It comes back at the same address: the peer is found again once its back-off is over. */
    char listen[HM_ADDR_BYTES_MAX];
    strcpy(listen, server.addrs.addr[0].text + 4);
    server_start(&server, listen);
    for (unsigned tries = 0; tries < 200; tries++) {
        struct call call = {.node = &node, .left = &left, .call.method = ECHO};
        call.call.deadline = hm_deadline_after(node.loop, 10 * HM_S);
        enum hm_status status = hm_peer_backing_off(peer) ? HM_ERR_PEER_UNREACHABLE : HM_OK;
        if (status == HM_OK) call_make(&call, &node, peer, ECHO, 10 * HM_S, NULL, NULL, &left);
        run(&node, status == HM_OK ? 20 * HM_S : 50 * HM_MS);
        if (status != HM_OK) continue;
        assert_int_equal(call.ends, 1);
        if (call.status == HM_OK) break;
        assert_true(tries < 199);
    }
    assert_true(hm_peer_connected(peer));
    pair_close(&server, &node, peer);
}

void calls_on_a_stopped_server_end_at_their_deadline(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    struct hm_peer *peer = pair_open(&server, &node);
    unsigned left = 0;
    call_warm(&node, peer);
    server_stop(&server);
    for (unsigned i = 0; i < CALLS; i++)
        call_make(&calls[i], &node, peer, ECHO, 200 * HM_MS + i * HM_MS, NULL, NULL, &left);
    run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    hm_ns late = 0;
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_status(calls[i].status, HM_ERR_TIMED_OUT);
        assert_true(calls[i].ended >= calls[i].call.deadline);
        hm_ns after = calls[i].ended - calls[i].call.deadline;
        if (after > late) late = after;
        if (i > 0) assert_true(calls[i].ended >= calls[i - 1].ended);
    }
    print_message("the latest end was %.2f ms after its deadline\n", (double)late / 1e6);
    assert_return_code(kill(server.pid, SIGCONT), 0);
    call_warm(&node, peer); /* late replies have led nowhere */
    pair_close(&server, &node, peer);
}
