/* Peers and their connections (transport/rpc.h): dialled, lost, noticed, forgotten, closed. */
#include "support_rpc_pair.h"

struct dialled {
    struct hm_peer *peer;
    enum hm_status status;
    unsigned count;
};

static void on_dialled(void *arg, enum hm_status status, struct hm_peer *peer)
{
    struct dialled *dialled = arg;
    dialled->peer = peer;
    dialled->status = status;
    dialled->count++;
}

static enum hm_status dial(struct rpc_pair *pair, const char *address, hm_ns after,
                           struct dialled *dialled)
{
    struct hm_addr addr = {{0}};
    strcpy(addr.text, address);
    *dialled = (struct dialled){0};
    hm_ns deadline = hm_deadline_after(pair->loop, after);
    enum hm_status status = hm_rpc_dial(pair->client.rpc, &addr, deadline, on_dialled, dialled);
    if (status != HM_OK) return status;
    assert_int_equal(dialled->count, 0);
    rpc_pair_run(pair, 10 * HM_S);
    assert_int_equal(dialled->count, 1);
    return dialled->status;
}

static void a_killed_server_ends_the_calls_in_flight_long_before_their_deadline(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call calls[20];
    rpc_pair_open(&pair, 5, NULL);
    for (unsigned i = 0; i < 20; i++) {
        rpc_call_init(&calls[i], &pair.client, HOLD, 1000 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &calls[i].call));
    }
    rpc_pair_run(&pair, HM_S);
    assert_int_equal(pair.service.held_count, 20);
    hm_net_crash(pair.world, 1);
    rpc_pair_run(&pair, HM_S);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_status(calls[i].status, HM_ERR_PEER_RESET);
    }
    assert_int_equal(pair.client.downs, 1);
    rpc_pair_close(&pair);
}

static void calls_to_nobody_end_and_the_peer_backs_off_twice_as_long_each_time(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 6, NULL);
    struct hm_node_id nobody = {{9}};
    struct hm_addrs addrs = {.count = 2, .addr = {{"sim:55"}, {"sim:66"}}};
    struct hm_peer *peer;
    assert_ok(hm_peer_get(pair.client.rpc, &nobody, &addrs, &peer));
    hm_ns wait_max = 500 * HM_MS;
    for (unsigned i = 0; i < 9; i++) {
        rpc_call_init(&call, &pair.client, ECHO, 30 * HM_S);
        assert_status(rpc_call_run(&call, peer), HM_ERR_PEER_UNREACHABLE);
        assert_true(hm_peer_backing_off(peer));
        rpc_call_init(&call, &pair.client, ECHO, 30 * HM_S);
        assert_status(hm_rpc_call(peer, &call.call), HM_ERR_PEER_UNREACHABLE);
        hm_ns since = hm_loop_now(pair.loop);
        while (hm_peer_backing_off(peer)) rpc_pair_run(&pair, HM_MS);
        hm_ns waited = hm_loop_now(pair.loop) - since;
        assert_true(waited >= wait_max / 2 && waited <= wait_max + HM_MS);
        wait_max = wait_max * 2 > 60 * HM_S ? 60 * HM_S : wait_max * 2;
    }
    hm_peer_put(peer);
    rpc_pair_close(&pair);
}

static void a_peer_without_addresses_is_unreachable_at_once(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 7, NULL);
    struct hm_node_id nobody = {{9}};
    struct hm_addrs foreign = {.count = 1, .addr = {{"tcp:127.0.0.1:4242"}}};
    struct hm_peer *peer;
    assert_ok(hm_peer_get(pair.client.rpc, &nobody, &foreign, &peer));
    assert_int_equal(hm_peer_addrs(peer)->count, 0); /* not this provider's */
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_status(hm_rpc_call(peer, &call.call), HM_ERR_PEER_UNREACHABLE);
    hm_peer_put(peer);
    assert_status(hm_peer_get(pair.client.rpc, hm_identity_node(pair.client.identity), NULL, &peer),
                  HM_ERR_INVALID);
    rpc_pair_close(&pair);
}

static void the_next_address_is_tried_when_one_fails_or_is_slow(void **state)
{
    (void)state;
    for (unsigned slow = 0; slow < 2; slow++) {
        struct rpc_pair pair;
        struct rpc_call call;
        rpc_pair_open(&pair, 8 + slow, NULL);
        struct rpc_node black_hole;
        rpc_node_open(&black_hole, pair.world, 3, "sim:3", NULL);
        if (slow) hm_net_cut_both(pair.world, 0, 3, true);
        struct hm_addrs hints = {.count = 2, .addr = {{"sim:77"}, {"sim:3"}}};
        struct hm_peer *peer; /* newest first: 77 (nobody), 3 (another node, or silent), then 1 */
        assert_ok(
            hm_peer_get(pair.client.rpc, hm_identity_node(pair.server.identity), &hints, &peer));
        assert_int_equal(hm_peer_addrs(peer)->count, 3);
        assert_string_equal(hm_peer_addrs(peer)->addr[2].text, "sim:1");
        rpc_call_init(&call, &pair.client, ECHO, 2 * HM_S);
        assert_ok(rpc_call_run(&call, peer));
        assert_string_equal(hm_peer_addrs(peer)->addr[0].text, "sim:1"); /* it works: first now */
        hm_peer_put(peer);
        if (slow) hm_net_cut_both(pair.world, 0, 3, false);
        rpc_node_close(&black_hole);
        rpc_pair_close(&pair);
    }
}

static void a_bootstrap_address_is_dialled_without_knowing_who_answers(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct dialled dialled;
    struct rpc_call call;
    rpc_pair_open(&pair, 16, NULL);
    assert_ok(dial(&pair, "sim:1", 5 * HM_S, &dialled));
    assert_ptr_equal(dialled.peer, pair.peer);
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, dialled.peer));
    hm_peer_put(dialled.peer);
    assert_status(dial(&pair, "sim:2", 5 * HM_S, &dialled), HM_ERR_INVALID); /* itself */
    assert_status(dial(&pair, "sim:99", 5 * HM_S, &dialled), HM_ERR_PEER_UNREACHABLE);
    assert_status(dial(&pair, "nonsense", 5 * HM_S, &dialled), HM_ERR_INVALID);
    hm_net_cut_both(pair.world, 0, 1, true);
    assert_status(dial(&pair, "sim:1", HM_S, &dialled), HM_ERR_TIMED_OUT);
    assert_null(dialled.peer);
    hm_net_cut_both(pair.world, 0, 1, false);
    rpc_pair_close(&pair);
}

static void two_nodes_that_dial_each_other_are_each_told_once_and_use_one_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct rpc_pair pair;
        struct rpc_call there, back;
        rpc_pair_open(&pair, seed, &(struct hm_rpc_conf){.ping_interval = 2 * HM_S});
        assert_ok(hm_rpc_serve(pair.client.rpc, pair.methods, 4));
        struct hm_peer *client = rpc_peer(&pair.server, &pair.client);
        rpc_call_init(&there, &pair.client, ECHO, 5 * HM_S);
        rpc_call_init(&back, &pair.server, ECHO, 5 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &there.call));
        assert_ok(hm_rpc_call(client, &back.call));
        rpc_pair_run(&pair, HM_S);
        assert_ok(there.status);
        assert_ok(back.status);
        assert_int_equal(pair.client.ups, 1);
        assert_int_equal(pair.server.ups, 1);
        rpc_pair_run(&pair,
                     30 * HM_S); /* what was dialled twice is closed once, and nobody notices */
        assert_int_equal(hm_metrics_value(&pair.client.metrics, "rpc.connections"), 1);
        assert_int_equal(hm_metrics_value(&pair.server.metrics, "rpc.connections"), 1);
        assert_int_equal(pair.client.downs + pair.server.downs, 0);
        hm_peer_put(client);
        rpc_pair_close(&pair);
    }
}

static void a_cut_link_is_noticed_without_a_call(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    rpc_pair_open(&pair, 18, NULL);
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    rpc_pair_run(&pair, 1000 * HM_S); /* pings keep an idle connection */
    assert_int_equal(pair.client.downs + pair.server.downs, 0);
    hm_net_cut_both(pair.world, 1, 2, true);
    rpc_pair_run(&pair, 15 * HM_S);
    assert_int_equal(pair.client.downs + pair.server.downs, 0); /* not at the first one */
    rpc_pair_run(&pair, 40 * HM_S);
    assert_int_equal(pair.client.downs, 1);
    assert_int_equal(pair.server.downs, 1);
    assert_status(pair.client.why, HM_ERR_PEER_UNREACHABLE);
    hm_net_cut_both(pair.world, 1, 2, false);
    rpc_pair_close(&pair);
}

static void round_trips_are_measured_without_the_time_that_the_server_holds_a_call(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call call;
    hm_ns deviation;
    rpc_pair_open(&pair, 19, NULL);
    rpc_delay_always(pair.world, 20 * HM_MS);
    assert_int_equal(hm_peer_round_trip(pair.peer, &deviation), 0);
    for (unsigned i = 0; i < 10; i++) {
        rpc_call_init(&call, &pair.client, HOLD, 5 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &call.call));
        rpc_pair_run(&pair, HM_S);
        rpc_service_release(&pair.service);
        rpc_pair_run(&pair, HM_S);
        assert_ok(call.status);
    }
    hm_ns round_trip = hm_peer_round_trip(pair.peer, &deviation);
    assert_true(round_trip >= 40 * HM_MS && round_trip < 45 * HM_MS);
    assert_true(deviation < 10 * HM_MS);
    rpc_pair_close(&pair);
}

static void a_full_table_forgets_the_longest_idle_peer_and_never_a_referenced_one(void **state)
{
    (void)state;
    struct rpc_pair pair;
    rpc_pair_open(&pair, 20, &(struct hm_rpc_conf){.peers_max = 4});
    struct hm_peer *peers[4];
    struct hm_addrs addrs = {.count = 1, .addr = {{"sim:9"}}};
    for (unsigned i = 0; i < 3; i++) { /* pair.peer is the fourth */
        struct hm_node_id id = {{(uint8_t)(i + 1)}};
        assert_ok(hm_peer_get(pair.client.rpc, &id, &addrs, &peers[i]));
    }
    struct hm_node_id one_more = {{50}};
    assert_status(hm_peer_get(pair.client.rpc, &one_more, &addrs, &peers[3]), HM_ERR_BUSY);
    hm_peer_put(peers[1]);
    hm_peer_put(peers[2]);
    assert_ok(hm_peer_get(pair.client.rpc, &one_more, NULL, &peers[3])); /* in the place of 1 */
    assert_int_equal(hm_peer_addrs(peers[3])->count, 0);
    struct hm_peer *again;
    assert_ok(hm_peer_get(pair.client.rpc, &(struct hm_node_id){{3}}, NULL, &again));
    assert_int_equal(hm_peer_addrs(again)->count, 1); /* still known */
    hm_peer_put(again);
    hm_peer_put(peers[0]);
    hm_peer_put(peers[3]);
    rpc_pair_close(&pair);
}

static void closing_cancels_calls_and_waits_for_requests_that_are_held(void **state)
{
    (void)state;
    struct rpc_pair pair;
    struct rpc_call calls[3], late;
    struct dialled dialled = {0};
    rpc_pair_open(&pair, 21, NULL);
    assert_ok(hm_rpc_serve(pair.client.rpc, pair.methods, 4));
    struct hm_peer *client = rpc_peer(&pair.server, &pair.client);
    for (unsigned i = 0; i < 3; i++) {
        struct rpc_node *from = i == 2 ? &pair.server : &pair.client;
        rpc_call_init(&calls[i], from, HOLD, 100 * HM_S);
        assert_ok(hm_rpc_call(i == 2 ? client : pair.peer, &calls[i].call));
        rpc_pair_run(&pair, HM_S);
    }
    struct hm_addr nobody = {{"sim:99"}};
    assert_ok(hm_rpc_dial(pair.client.rpc, &nobody, HM_NS_NEVER, on_dialled, &dialled));
    rpc_node_start_close(&pair.client);
    rpc_call_init(&late, &pair.client, HOLD, HM_S);
    assert_status(hm_rpc_call(pair.peer, &late.call), HM_ERR_CANCELED);
    rpc_pair_run(&pair, HM_S);
    assert_false(pair.client.closed); /* the handler still holds the server's request */
    assert_int_equal(dialled.count, 1);
    assert_status(dialled.status, HM_ERR_CANCELED);
    assert_status(calls[0].status, HM_ERR_CANCELED);
    assert_status(calls[1].status, HM_ERR_CANCELED);
    assert_status(calls[2].status, HM_ERR_PEER_RESET); /* the server's own call, on our node */
    assert_int_equal(pair.service.gone, 3);
    hm_peer_put(pair.peer);
    rpc_service_release(&pair.service);
    rpc_pair_run(&pair, HM_S);
    assert_true(pair.client.closed);
    rpc_node_free(&pair.client);
    hm_peer_put(client);
    rpc_node_close(&pair.server);
    hm_world_destroy(pair.world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_server_ends_the_calls_in_flight_long_before_their_deadline),
        cmocka_unit_test(calls_to_nobody_end_and_the_peer_backs_off_twice_as_long_each_time),
        cmocka_unit_test(a_peer_without_addresses_is_unreachable_at_once),
        cmocka_unit_test(the_next_address_is_tried_when_one_fails_or_is_slow),
        cmocka_unit_test(a_bootstrap_address_is_dialled_without_knowing_who_answers),
        cmocka_unit_test(two_nodes_that_dial_each_other_are_each_told_once_and_use_one_connection),
        cmocka_unit_test(a_cut_link_is_noticed_without_a_call),
        cmocka_unit_test(round_trips_are_measured_without_the_time_that_the_server_holds_a_call),
        cmocka_unit_test(a_full_table_forgets_the_longest_idle_peer_and_never_a_referenced_one),
        cmocka_unit_test(closing_cancels_calls_and_waits_for_requests_that_are_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
