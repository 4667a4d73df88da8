/* The fast path of peers (transport/rpc_fabric.c): the simulated network as control connections, and
 * once more as the fabric. */
#include "support_fabric.h"

#include "base/log.h"

enum { DHT = HM_METHOD_DHT_FIND, EXPERT = HM_METHOD_EXPERT_CALL, HOLD = 48 };

struct service {
    unsigned handled, gone, held_count;
    struct hm_request *held[16];
};

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct service *service = arg;
    service->handled++;
    hm_inbound_drop(in);
    hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct service *service = arg;
    (void)header, (void)header_bytes;
    service->handled++;
    hm_inbound_drop(in);
    service->held[service->held_count++] = request;
}

static void on_gone(void *arg, struct hm_request *request)
{
    struct service *service = arg;
    (void)request;
    service->gone++;
}

static void service_release(struct service *service)
{
    for (unsigned i = 0; i < service->held_count; i++)
        hm_request_reply(service->held[i], true, HM_OK, NULL, 0, NULL, 0);
    service->held_count = 0;
}

struct pair {
    struct hm_world *world;
    struct rpc_node server, client;
    struct service service;
    struct hm_method methods[3];
    struct hm_peer *peer, *back; /* the server, as the client sees it, and the other way round */
};

static void pair_open_keys(struct pair *pair, uint64_t seed, const uint8_t *server_key,
                           const uint8_t *client_key)
{
    *pair = (struct pair){0};
    assert_ok(hm_world_create(seed, &pair->world));
    fabric_node_open(&pair->server, pair->world, 1, server_key);
    fabric_node_open(&pair->client, pair->world, 2, client_key);
    pair->methods[0] = (struct hm_method){DHT, "dht", 1 << 20, on_echo, NULL, &pair->service};
    pair->methods[1] = (struct hm_method){EXPERT, "expert", 1 << 20, on_echo, NULL, &pair->service};
    pair->methods[2] = (struct hm_method){HOLD, "hold", 0, on_hold, on_gone, &pair->service};
    assert_ok(hm_rpc_serve(pair->server.rpc, pair->methods, 3));
    pair->peer = rpc_peer(&pair->client, &pair->server);
    pair->back = rpc_peer(&pair->server, &pair->client);
}

static void pair_open(struct pair *pair, uint64_t seed)
{
    pair_open_keys(pair, seed, fabric_key_a, fabric_key_a);
}

static void pair_close(struct pair *pair)
{
    service_release(&pair->service);
    hm_peer_put(pair->peer);
    hm_peer_put(pair->back);
    rpc_node_close(&pair->client);
    rpc_node_close(&pair->server);
    hm_world_destroy(pair->world);
}

static void call(struct pair *pair, uint16_t method, hm_ns after, enum hm_status wanted)
{
    struct rpc_call made;
    rpc_call_init(&made, &pair->client, method, after);
    assert_status(rpc_call_run(&made, pair->peer), wanted);
    assert_int_equal(made.replies, wanted == HM_OK);
}

/* The call waits at the server, and the fast path has come up long ago. */
static void hold(struct pair *pair, struct rpc_call *held)
{
    rpc_call_init(held, &pair->client, HOLD, 60 * HM_S);
    assert_ok(hm_rpc_call(pair->peer, &held->call));
    hm_world_run_for(pair->world, 4 * HM_S);
}

/* ---- claims */

static void peers_of_one_key_meet_on_the_fabric_and_nothing_goes_over_the_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct pair pair;
        pair_open(&pair, seed);
        for (unsigned i = 0; i < 10; i++) { /* the first one waits for the fast path */
            call(&pair, DHT, 30 * HM_S, HM_OK);
            call(&pair, EXPERT, 30 * HM_S, HM_OK);
        }
        expect_path(pair.peer, true, "");
        expect_path(pair.back, true, "");
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_dht"), 10);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_expert"), 10);
        assert_int_equal(node_metric(&pair.server, "rpc.fabric_dht"), 10);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_dht"), 0);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_expert"), 0);
        assert_int_equal(node_metric(&pair.server, "rpc.tcp_dht"), 0);
        assert_int_equal(node_metric(&pair.server, "rpc.tcp_expert"), 0);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_after_join"), 0);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_peers"), 1);
        pair_close(&pair);
    }
}

static void stays_on_tcp(const uint8_t *server_key, const uint8_t *client_key, const char *settings,
                         const char *why_client, const char *why_server)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct pair pair;
        pair_open_keys(&pair, seed, server_key, client_key);
        if (settings) hm_net_set_fabric_settings(pair.world, FABRIC + 1, settings);
        call(&pair, DHT, 30 * HM_S, HM_OK);
        hm_world_run_for(pair.world, 5 * HM_S);
        call(&pair, EXPERT, 30 * HM_S, HM_OK);
        expect_path(pair.peer, false, why_client);
        expect_path(pair.back, false, why_server);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_dht"), 1);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_expert"), 1);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_dht"), 0);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_peers"), 0);
        pair_close(&pair);
    }
}

static void another_key_stays_on_tcp_and_both_sides_say_why(void **state)
{
    (void)state;
    stays_on_tcp(fabric_key_a, fabric_key_b, NULL, "another fabric key", "another fabric key");
}

static void other_settings_stay_on_tcp_and_both_sides_say_why(void **state)
{
    (void)state;
    stays_on_tcp(fabric_key_a, fabric_key_a, "another library 2.0", "'another library 2.0' there",
                 "'another library 2.0' here");
}

static void a_node_without_a_fabric_is_served_over_tcp(void **state)
{
    (void)state;
    struct pair pair;
    pair_open_keys(&pair, 3, fabric_key_a, NULL);
    call(&pair, EXPERT, 30 * HM_S, HM_OK);
    expect_path(pair.back, false, "the other side has no fabric");
    struct hm_peer_path path;
    hm_peer_path(pair.peer, &path);
    assert_string_equal(path.why, ""); /* nobody asked for one here */
    assert_int_equal(node_metric(&pair.server, "rpc.tcp_after_join"), 0);
    pair_close(&pair);
}

static void a_fabric_that_cannot_be_opened_is_no_error_and_keeps_nobody_waiting(void **state)
{
    (void)state;
    for (unsigned broken = 0; broken < 2; broken++) {
        struct hm_world *world;
        struct rpc_node node[2];
        struct service service = {0};
        struct hm_method method = {DHT, "dht", 0, on_echo, NULL, &service};
        assert_ok(hm_world_create(40 + broken, &world));
        fabric_node_open(&node[!broken], world, 2, fabric_key_a);
        struct hm_rpc_conf conf = {
            .transport_conf.fabric_key = fabric_key_a,
            .fabric = &hm_transport_sim,
            .fabric_conf = {.listen = "sim:102", .world = world}}; /* taken */
        rpc_node_open(&node[broken], world, 1, "sim:1", &conf);
        assert_string_not_equal(hm_rpc_fabric_error(node[broken].rpc), "");
        assert_ok(hm_rpc_serve(node[0].rpc, &method, 1));
        struct hm_peer *peer = rpc_peer(&node[1], &node[0]);
        struct rpc_call made;
        rpc_call_init(&made, &node[1], DHT, HM_S);
        assert_ok(rpc_call_run(&made, peer));
        hm_world_run_for(world, 10 * HM_S);
        assert_true(hm_peer_connected(peer));
        hm_peer_put(peer);
        rpc_node_close(&node[1]);
        rpc_node_close(&node[0]);
        hm_world_destroy(world);
    }
}

static void a_lost_fabric_falls_back_and_is_tried_again(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct pair pair;
        struct rpc_call held;
        pair_open(&pair, seed);
        hold(&pair, &held);
        expect_path(pair.peer, true, "");
        assert_int_equal(pair.service.held_count, 1);
        hm_net_cut_both(pair.world, FABRIC + 1, FABRIC + 2, true); /* silently */
        call(&pair, EXPERT, 60 * HM_S, HM_OK);
        expect_path(pair.peer, false, "lost");
        assert_int_equal(pair.service.gone, 0);
        service_release(&pair.service);
        assert_true(hm_world_run_while_not(pair.world, &held.done, 10 * HM_S));
        assert_ok(held.status);
        assert_int_equal(pair.service.handled, 2);
        assert_true(node_metric(&pair.client, "rpc.tcp_after_join") > 0);
        hm_net_cut_both(pair.world, FABRIC + 1, FABRIC + 2, false);
        hm_world_run_for(pair.world, 120 * HM_S);
        expect_path(pair.peer, true, "");
        uint64_t before = node_metric(&pair.client, "rpc.tcp_expert");
        call(&pair, EXPERT, HM_S, HM_OK);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_expert"), before);
        assert_int_equal(pair.client.downs, 0);
        pair_close(&pair);
    }
}

struct held_payload {
    struct hm_inbound *in;
    struct hm_request *request;
    uint8_t into[1000];
    unsigned pulled;
};

static void on_hold_payload(void *arg, struct hm_request *request, const void *header,
                            size_t header_bytes, struct hm_inbound *in)
{
    struct held_payload *held = arg;
    (void)header, (void)header_bytes;
    assert_null(held->in);
    held->in = in;
    held->request = request;
}

static void on_payload(void *arg, enum hm_status status)
{
    struct held_payload *held = arg;
    assert_ok(status);
    held->pulled++;
}

/* Nothing comes over the connection either when it is pulled. */
static void a_payload_that_came_with_its_message_outlives_the_path(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        static uint8_t sent[1000];
        struct pair pair;
        struct held_payload held = {0};
        struct rpc_call made;
        struct hm_method method = {56, "payload", sizeof sent, on_hold_payload, NULL, &held};
        pair_open(&pair, seed);
        assert_ok(hm_rpc_serve(pair.server.rpc, &method, 1));
        call(&pair, DHT, 30 * HM_S, HM_OK);
        expect_path(pair.back, true, "");
        for (size_t i = 0; i < sizeof sent; i++) sent[i] = (uint8_t)(i * 7 + seed);
        rpc_call_init(&made, &pair.client, 56, 60 * HM_S);
        made.call.payload[0] = (struct hm_span){.base = sent, .bytes = sizeof sent};
        made.call.span_count = 1;
        assert_ok(hm_rpc_call(pair.peer, &made.call));
        hm_world_run_for(pair.world, HM_S);
        assert_non_null(held.in);
        hm_net_cut_both(pair.world, 1, 2, true);
        hm_net_break(pair.world, FABRIC + 1, FABRIC + 2);
        hm_world_run_for(pair.world, HM_S);
        expect_path(pair.back, false, "lost");
        const struct hm_span into = {.base = held.into, .bytes = sizeof held.into};
        assert_ok(hm_inbound_pull(held.in, &into, on_payload, &held));
        assert_int_equal(held.pulled, 0); /* not inside the call */
        hm_world_run_for(pair.world, HM_MS);
        assert_int_equal(held.pulled, 1);
        assert_memory_equal(held.into, sent, sizeof sent);
        hm_net_cut_both(pair.world, 1, 2, false); /* it comes again, and is known */
        hm_world_run_for(pair.world, 2 * HM_S);
        hm_request_reply(held.request, true, HM_OK, NULL, 0, NULL, 0);
        assert_true(hm_world_run_while_not(pair.world, &made.done, 10 * HM_S));
        assert_ok(made.status);
        assert_int_equal(held.pulled, 1);
        assert_int_equal(pair.server.downs, 0);
        pair_close(&pair);
    }
}

/* The connection answers and the fabric does not. */
static void a_silent_fabric_is_noticed_while_a_call_of_three_seconds_waits(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct pair pair;
        pair_open(&pair, seed);
        call(&pair, DHT, 30 * HM_S, HM_OK);
        hm_world_run_for(pair.world, seed * 300 * HM_MS); /* anywhere between two ticks */
        hm_net_cut(pair.world, FABRIC + 1 + seed % 2, FABRIC + 2 - seed % 2, true);
        call(&pair, EXPERT, 3 * HM_S, HM_OK);
        assert_int_equal(pair.service.handled, 2);
        expect_path(pair.peer, false, "lost");
        hm_net_cut(pair.world, FABRIC + 1 + seed % 2, FABRIC + 2 - seed % 2, false);
        pair_close(&pair);
    }
}

static void a_node_that_stands_still_keeps_its_fast_path(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct pair pair;
        pair_open(&pair, seed);
        call(&pair, DHT, 30 * HM_S, HM_OK);
        for (unsigned plane = 0; plane <= FABRIC; plane += FABRIC)
            hm_net_pause(pair.world, plane + 1, true);
        struct rpc_call late;
        rpc_call_init(&late, &pair.client, EXPERT, 5 * HM_S);
        assert_status(rpc_call_run(&late, pair.peer), HM_ERR_TIMED_OUT);
        hm_world_run_for(pair.world, 10 * HM_S);
        for (unsigned plane = 0; plane <= FABRIC; plane += FABRIC)
            hm_net_pause(pair.world, plane + 1, false);
        call(&pair, EXPERT, 30 * HM_S, HM_OK);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_lost"), 0);
        assert_int_equal(node_metric(&pair.server, "rpc.fabric_lost"), 0);
        assert_int_equal(node_metric(&pair.client, "rpc.tcp_after_join"), 0);
        pair_close(&pair);
    }
}

static void a_connection_that_goes_takes_its_fast_path_and_its_calls_with_it(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct pair pair;
        struct rpc_call held;
        pair_open(&pair, seed);
        hold(&pair, &held);
        hm_net_break(pair.world, 1, 2);
        assert_true(hm_world_run_while_not(pair.world, &held.done, HM_S));
        assert_status(held.status, HM_ERR_PEER_RESET);
        hm_world_run_for(pair.world, HM_S);
        assert_int_equal(pair.client.downs, 1);
        assert_int_equal(pair.service.gone, 1);
        assert_int_equal(node_metric(&pair.client, "rpc.fabric_peers"), 0);
        assert_int_equal(node_metric(&pair.server, "rpc.fabric_peers"), 0);
        pair_close(&pair);
    }
}

static void a_proof_that_is_replayed_or_sent_back_proves_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct pair pair;
        struct rpc_node thief;
        pair_open(&pair, seed);
        hm_log_set_level(HM_LOG_ERROR); /* it is warned of him */
        rpc_node_open(&thief, pair.world, 3, "sim:3", NULL);
        hm_net_set_thief(pair.world, 3, true);
        /* The one who is dialled speaks first here, so a thief who dials sends his proof back ... */
        struct hm_peer *victim = rpc_peer(&thief, &pair.server);
        struct rpc_call made;
        rpc_call_init(&made, &thief, DHT, 30 * HM_S);
        assert_ok(rpc_call_run(&made, victim));
        struct hm_peer *seen = rpc_peer(&pair.server, &thief);
        expect_path(seen, false, "another fabric key");
        /* ... and one who is dialled replays what he has heard before. */
        struct hm_peer *met = rpc_peer(&pair.client, &thief);
        rpc_call_init(&made, &pair.client, HM_METHOD_PING, 30 * HM_S);
        assert_ok(rpc_call_run(&made, met));
        expect_path(met, false, "another fabric key");
        hm_peer_put(victim);
        hm_peer_put(seen);
        hm_peer_put(met);
        rpc_node_close(&thief);
        pair_close(&pair);
    }
}

static void a_proof_is_of_one_key_connection_direction_and_pair(void **state)
{
    (void)state;
    struct hm_node_id a = {{1}}, b = {{2}};
    struct hm_proof_context made = {
        .binding = {9}, .by_dialler = true, .prover = &a, .verifier = &b};
    struct hm_proof_context same = made, binding = made, role = made, pair = made;
    struct hm_hello hello = {0};
    assert_false(hm_proof_check(fabric_key_a, &made, &hello));
    assert_true(hm_proof_make(fabric_key_a, &made, &hello));
    assert_true(hm_proof_check(fabric_key_a, &same, &hello));
    assert_false(hm_proof_check(fabric_key_b, &same, &hello));
    binding.binding[31] ^= 1;
    assert_false(hm_proof_check(fabric_key_a, &binding, &hello));
    role.by_dialler = false;
    assert_false(hm_proof_check(fabric_key_a, &role, &hello));
    pair.prover = &b;
    pair.verifier = &a;
    assert_false(hm_proof_check(fabric_key_a, &pair, &hello));
    hello.fabric_proof_bytes--;
    assert_false(hm_proof_check(fabric_key_a, &same, &hello));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peers_of_one_key_meet_on_the_fabric_and_nothing_goes_over_the_connection),
        cmocka_unit_test(another_key_stays_on_tcp_and_both_sides_say_why),
        cmocka_unit_test(other_settings_stay_on_tcp_and_both_sides_say_why),
        cmocka_unit_test(a_node_without_a_fabric_is_served_over_tcp),
        cmocka_unit_test(a_fabric_that_cannot_be_opened_is_no_error_and_keeps_nobody_waiting),
        cmocka_unit_test(a_lost_fabric_falls_back_and_is_tried_again),
        cmocka_unit_test(a_payload_that_came_with_its_message_outlives_the_path),
        cmocka_unit_test(a_silent_fabric_is_noticed_while_a_call_of_three_seconds_waits),
        cmocka_unit_test(a_node_that_stands_still_keeps_its_fast_path),
        cmocka_unit_test(a_connection_that_goes_takes_its_fast_path_and_its_calls_with_it),
        cmocka_unit_test(a_proof_that_is_replayed_or_sent_back_proves_nothing),
        cmocka_unit_test(a_proof_is_of_one_key_connection_direction_and_pair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
