/* rpc over real sockets with TLS, the server in a process of its own that is killed and stopped. */
#include "support_rpc_process.h"

struct dialled {
    struct node *node;
    struct hm_peer *peer;
    enum hm_status status;
    unsigned count;
};

static void on_dialled(void *arg, enum hm_status status, struct hm_peer *peer)
{
    struct dialled *dialled = arg;
    dialled->status = status;
    dialled->peer = peer;
    dialled->count++;
    hm_loop_uv_stop(dialled->node->loop);
}

static void a_join_line_leads_to_its_node_and_a_dead_one_to_a_status(void **state)
{
    (void)state;
    struct server server;
    struct node node;
    server_start(&server, "127.0.0.1:0");
    node_open(&node, 2, NULL);
    struct dialled dialled = {.node = &node};
    hm_ns deadline = hm_deadline_after(node.loop, 20 * HM_S);
    assert_ok(hm_rpc_dial(node.rpc, &server.addrs.addr[0], deadline, on_dialled, &dialled));
    run(&node, 30 * HM_S);
    assert_int_equal(dialled.count, 1);
    assert_ok(dialled.status);
    struct hm_peer *known = peer_of(&node, &server);
    assert_ptr_equal(known, dialled.peer);
    hm_peer_put(known);
    hm_peer_put(dialled.peer);
    server_kill(&server);
    assert_ok(hm_rpc_dial(node.rpc, &server.addrs.addr[0], deadline, on_dialled, &dialled));
    run(&node, 30 * HM_S);
    assert_int_equal(dialled.count, 2);
    assert_int_equal(hm_status_scope(dialled.status), HM_SCOPE_PEER);
    assert_null(dialled.peer);
    node_close(&node);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--serve") == 0) serve_main(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_small_and_large_are_answered),
        cmocka_unit_test(a_killed_server_ends_calls_in_flight_with_a_status),
        cmocka_unit_test(calls_on_a_stopped_server_end_at_their_deadline),
        cmocka_unit_test(a_join_line_leads_to_its_node_and_a_dead_one_to_a_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
