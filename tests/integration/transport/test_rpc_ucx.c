/* rpc whose fast path is UCX, over shared memory: a killed, a stopped and a silent server, and a fast
 * path that is lost under the calls.  Skipped where the module is not there. */
#include "support_rpc_process.h"

#include "base/module.h"
#include "base/rng.h"
#include "transport/rpc_fast.h"

#include <stdio.h>
#include <unistd.h>

static struct hm_fast *fast_of(struct hm_peer *peer)
{
    assert_non_null(peer->sender);
    return peer->sender->fast;
}

static void until_fast(struct node *node, struct hm_peer *peer)
{
    for (unsigned i = 0; fast_of(peer)->state != HM_FAST_UP; i++) {
        run(node, 20 * HM_MS);
        assert_true(i < 1500);
    }
}

/* As UCX gives up an endpoint: in the middle of small and large calls, again and again. */
static void a_path_that_is_lost_again_and_again_loses_no_call_and_handles_none_twice(void **state)
{
    (void)state;
    enum { ROUNDS = 8 };
    struct server server;
    struct node node;
    static struct call calls[ROUNDS][CALLS];
    uint32_t number = 0;
    unsigned left = 0;
    struct hm_peer *peer = pair_open(&server, &node);
    struct hm_buf *bulk;
    call_warm(&node, peer);
    assert_ok(hm_buf_pool_get(node.buffers, BULK_BYTES / 4, &bulk));
    memset(bulk->base, 0x5a, bulk->bytes);
    for (unsigned round = 0; round < ROUNDS; round++) {
        until_fast(&node, peer);
        for (unsigned i = 0; i < CALLS; i++, number++)
            call_make(&calls[round][i], &node, peer, ECHO, 60 * HM_S, &number, i % 4 ? NULL : bulk,
                      &left);
        run(&node, hm_rng_os_seed() % (4 * HM_MS)); /* somewhere in the middle */
        hm_fast_fail(fast_of(peer), HM_ERR_PEER_RESET);
        assert_false(hm_conn_is_fast(peer->sender));
    }
    if (left > 0) run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < CALLS; i++) {
            const struct call *call = &calls[round][i];
            assert_int_equal(call->ends, 1);
            assert_ok(call->status);
            assert_int_equal(call->replies, 1);
            assert_ok(call->reply_status); /* HM_ERR_DUPLICATE: it has been handled before */
            if (i % 4) continue;
            assert_memory_equal(call->buf->base, bulk->base, bulk->bytes);
            hm_buf_put(call->buf);
        }
    hm_buf_put(bulk);
    assert_int_equal(node.downs, 0);
    assert_int_equal(hm_metrics_value(&node.metrics, "rpc.fabric_lost"), ROUNDS);
    assert_true(hm_metrics_value(&node.metrics, "rpc.tcp_after_join") > 0);
    until_fast(&node, peer); /* and it is tried again */
    pair_close(&server, &node, peer);
}

static void a_connection_that_goes_takes_the_path_and_its_calls_at_once(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    static struct call calls[CALLS];
    unsigned left = 0;
    struct hm_peer *peer = pair_open(&server, &node);
    call_warm(&node, peer);
    for (unsigned i = 0; i < CALLS; i++)
        call_make(&calls[i], &node, peer, HOLD, 120 * HM_S, NULL, NULL, &left);
    run(&node, 300 * HM_MS);
    assert_int_equal(left, CALLS);
    hm_ns began = hm_loop_now(node.loop);
    hm_conn_fail(peer->sender, HM_ERR_PEER_RESET);
    run(&node, 60 * HM_S);
    assert_int_equal(left, 0);
    for (unsigned i = 0; i < CALLS; i++) assert_status(calls[i].status, HM_ERR_PEER_RESET);
    print_message("calls ended %.1f ms after the connection\n",
                  (double)(hm_loop_now(node.loop) - began) / 1e6);
    assert_int_equal(node.downs, 1);
    assert_int_equal(hm_metrics_value(&node.metrics, "rpc.fabric_peers"), 0);
    pair_close(&server, &node, peer);
}

int main(int argc, char **argv)
{
    const void *ops;
    setenv("HM_UCX_TLS", "posix,cma", 1); /* processes of one machine; nothing listens */
    if (hm_module_load("ucx", &ops) != HM_OK) {
        printf("skipped: %s\n", hm_fail_line());
        return 77;
    }
    node_fabric = ops;
    if (argc == 3 && strcmp(argv[1], "--serve") == 0) serve_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_small_and_large_are_answered),
        cmocka_unit_test(a_killed_server_ends_calls_in_flight_with_a_status),
        cmocka_unit_test(calls_on_a_stopped_server_end_at_their_deadline),
        cmocka_unit_test(a_path_that_is_lost_again_and_again_loses_no_call_and_handles_none_twice),
        cmocka_unit_test(a_connection_that_goes_takes_the_path_and_its_calls_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
