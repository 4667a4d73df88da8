/* Claims of transport/rpc.h, one by one, on the simulated network. */
#include "support_rpc.h"

enum { ECHO = 100, PARTS, HOLD, TINY };

/* ---- a server */

struct service {
    unsigned handled, gone, held_count;
    struct hm_request *held[64];
    hm_ns left; /* until the last request's deadline, when it was handled */
    struct hm_loop *loop;
};

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct service *service = arg;
    service->handled++;
    service->left = hm_request_deadline(request) - hm_loop_now(service->loop);
    hm_inbound_drop(in);
    hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
}

/* As many replies as the header's first byte says; each names itself. */
static void on_parts(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                     struct hm_inbound *in)
{
    struct service *service = arg;
    static uint8_t big[40000];
    service->handled++;
    hm_inbound_drop(in);
    assert_int_equal(header_bytes, 1);
    unsigned count = *(const uint8_t *)header;
    for (unsigned i = 0; i < count; i++) {
        uint8_t part = (uint8_t)i;
        struct hm_span span = {.base = big, .bytes = i % 3 == 1 ? sizeof big : i % 3};
        hm_request_reply(request, i + 1 == count, HM_OK, &part, 1, &span, 1);
    }
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct service *service = arg;
    (void)header;
    (void)header_bytes;
    service->handled++;
    service->left = hm_request_deadline(request) - hm_loop_now(service->loop);
    hm_inbound_drop(in);
    hm_request_set_user(request, service);
    service->held[service->held_count++] = request;
}

static void on_hold_gone(void *arg, struct hm_request *request)
{
    struct service *service = arg;
    assert_ptr_equal(hm_request_user(request), service);
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
    struct hm_loop *loop;
    struct rpc_node server, client;
    struct service service;
    struct hm_method methods[4];
    struct hm_peer *peer; /* the server, as the client sees it */
};

static void pair_open(struct pair *pair, uint64_t seed, const struct hm_rpc_conf *limits)
{
    *pair = (struct pair){0};
    assert_ok(hm_world_create(seed, &pair->world));
    pair->loop = pair->service.loop = hm_world_loop(pair->world);
    rpc_node_open(&pair->server, pair->world, 1, "sim:1", limits);
    rpc_node_open(&pair->client, pair->world, 2, "sim:2", limits);
    pair->methods[0] = (struct hm_method){ECHO, "echo", 1 << 20, on_echo, NULL, &pair->service};
    pair->methods[1] = (struct hm_method){PARTS, "parts", 0, on_parts, NULL, &pair->service};
    pair->methods[2] = (struct hm_method){HOLD, "hold", 0, on_hold, on_hold_gone, &pair->service};
    pair->methods[3] = (struct hm_method){TINY, "tiny", 10, on_echo, NULL, &pair->service};
    assert_ok(hm_rpc_serve(pair->server.rpc, pair->methods, 4));
    pair->peer = rpc_peer(&pair->client, &pair->server);
}

static void pair_close(struct pair *pair)
{
    service_release(&pair->service);
    hm_peer_put(pair->peer);
    rpc_node_close(&pair->client);
    rpc_node_close(&pair->server);
    hm_world_destroy(pair->world);
}

/* Runs the world for a while without losing sight of what it should not do. */
static void run(struct pair *pair, hm_ns duration)
{
    hm_world_run_for(pair->world, duration);
}

/* ---- claims */

static void a_call_dials_and_is_answered(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 1, NULL);
    assert_false(hm_peer_connected(pair.peer));
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    call.call.header = "hello";
    call.call.header_bytes = 5;
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_int_equal(call.replies, 1);
    assert_ok(call.reply_status);
    assert_memory_equal(call.header, "hello", 5);
    assert_true(hm_peer_connected(pair.peer));
    run(&pair, HM_S);
    assert_int_equal(pair.server.ups, 1);
    assert_int_equal(pair.client.ups, 1);
    assert_string_equal(hm_peer_addrs(pair.peer)->addr[0].text, "sim:1");
    pair_close(&pair);
    assert_int_equal(pair.server.downs, 1);
    assert_int_equal(pair.client.downs, 1);
}

static void every_one_of_several_replies_arrives_though_they_overtake_one_another(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        struct pair pair;
        struct rpc_call call;
        pair_open(&pair, seed, NULL);
        rpc_call_init(&call, &pair.client, PARTS, 10 * HM_S);
        uint8_t parts = (uint8_t)(1 + seed % 60);
        call.call.header = &parts;
        call.call.header_bytes = 1;
        assert_ok(rpc_call_run(&call, pair.peer));
        assert_int_equal(call.replies, parts);
        assert_true(call.parts == (UINT64_C(1) << parts) - 1);
        pair_close(&pair);
    }
}

static void a_call_to_a_stopped_server_ends_at_its_deadline_and_not_later(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 3, NULL);
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    hm_net_pause(pair.world, 1, true);
    rpc_call_init(&call, &pair.client, ECHO, 700 * HM_MS);
    hm_ns deadline = call.call.deadline;
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    assert_int_equal(call.ended, deadline);
    hm_net_pause(pair.world, 1, false);
    run(&pair, HM_S); /* a late reply, if any, leads nowhere */
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    pair_close(&pair);
}

static void a_deadline_that_has_passed_ends_the_call_in_a_later_turn(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 4, NULL);
    run(&pair, HM_S);
    rpc_call_init(&call, &pair.client, ECHO, 0);
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    assert_int_equal(pair.service.handled, 0);
    pair_close(&pair);
}

static void a_killed_server_ends_the_calls_in_flight_long_before_their_deadline(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call calls[20];
    pair_open(&pair, 5, NULL);
    for (unsigned i = 0; i < 20; i++) {
        rpc_call_init(&calls[i], &pair.client, HOLD, 1000 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &calls[i].call));
    }
    run(&pair, HM_S);
    assert_int_equal(pair.service.held_count, 20);
    hm_net_crash(pair.world, 1);
    run(&pair, HM_S);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_status(calls[i].status, HM_ERR_PEER_RESET);
    }
    assert_int_equal(pair.client.downs, 1);
    pair_close(&pair);
}

static void calls_to_nobody_end_and_the_peer_backs_off_twice_as_long_each_time(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 6, NULL);
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
        while (hm_peer_backing_off(peer)) run(&pair, HM_MS);
        hm_ns waited = hm_loop_now(pair.loop) - since;
        assert_true(waited >= wait_max / 2 && waited <= wait_max + HM_MS);
        wait_max = wait_max * 2 > 60 * HM_S ? 60 * HM_S : wait_max * 2;
    }
    hm_peer_put(peer);
    pair_close(&pair);
}

static void a_peer_without_addresses_is_unreachable_at_once(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 7, NULL);
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
    pair_close(&pair);
}

static void the_next_address_is_tried_when_one_fails_or_is_slow(void **state)
{
    (void)state;
    for (unsigned slow = 0; slow < 2; slow++) {
        struct pair pair;
        struct rpc_call call;
        pair_open(&pair, 8 + slow, NULL);
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
        pair_close(&pair);
    }
}

static void a_cancelled_call_ends_in_a_later_turn_and_its_request_is_gone(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call, waiting;
    pair_open(&pair, 10, NULL);
    rpc_call_init(&waiting, &pair.client, HOLD, 100 * HM_S); /* waits for the dial */
    assert_ok(hm_rpc_call(pair.peer, &waiting.call));
    hm_rpc_cancel(&waiting.call);
    assert_int_equal(waiting.ends, 0);
    run(&pair, HM_S);
    assert_status(waiting.status, HM_ERR_CANCELED);
    assert_int_equal(pair.service.handled, 0);
    rpc_call_init(&call, &pair.client, HOLD, 100 * HM_S);
    assert_ok(hm_rpc_call(pair.peer, &call.call));
    run(&pair, HM_S);
    assert_int_equal(pair.service.held_count, 1);
    hm_rpc_cancel(&call.call);
    hm_rpc_cancel(&call.call);
    assert_int_equal(call.ends, 0);
    run(&pair, HM_S);
    assert_int_equal(call.ends, 1);
    assert_status(call.status, HM_ERR_CANCELED);
    assert_int_equal(pair.service.gone, 1);
    service_release(&pair.service); /* leads nowhere */
    run(&pair, HM_S);
    assert_int_equal(call.replies, 0);
    pair_close(&pair);
}

static void deadlines_travel_as_remaining_time(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 11, NULL);
    rpc_call_init(&call, &pair.client, ECHO, 5 * HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_true(pair.service.left <= 5 * HM_S && pair.service.left > 4 * HM_S);
    rpc_call_init(&call, &pair.client, HOLD, 2 * HM_S);
    assert_status(rpc_call_run(&call, pair.peer), HM_ERR_TIMED_OUT);
    run(&pair, 200 * HM_MS);
    assert_int_equal(pair.service.gone, 1);
    rpc_call_init(&call, &pair.client, ECHO, 5 * 3600 * HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    /* Nobody remembers a request for longer. */
    assert_in_range(pair.service.left, 3599 * HM_S, 3600 * HM_S);
    pair_close(&pair);
}

static void what_cannot_be_served_is_refused_with_its_own_status(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call, held[5];
    static uint8_t payload[100000];
    pair_open(&pair, 12, &(struct hm_rpc_conf){.requests_max_per_peer = 4});
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
    run(&pair, HM_S);
    unsigned refused = 0;
    for (unsigned i = 0; i < 5; i++) {
        if (!held[i].done) continue;
        assert_status(held[i].reply_status, HM_ERR_BUSY);
        refused++;
    }
    assert_int_equal(refused, 1);
    assert_int_equal(hm_metrics_value(&pair.server.metrics, "rpc.requests_refused"), 4);
    service_release(&pair.service);
    run(&pair, HM_S);
    for (unsigned i = 0; i < 5; i++) assert_status(held[i].status, HM_OK);
    pair_close(&pair);
}

static void calls_over_fixed_limits_are_refused_before_they_start(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call, other;
    static uint8_t big[HM_CALL_HEADER_BYTES_MAX + 1];
    pair_open(&pair, 13, &(struct hm_rpc_conf){.calls_max = 1});
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
    run(&pair, HM_S);
    assert_ok(call.status);
    assert_int_equal(call.header_bytes, sizeof big - 1);
    pair_close(&pair);
}

static void a_busy_wire_queues_calls_and_replies_and_loses_none(void **state)
{
    (void)state;
    enum { CALLS = 400 };
    static struct rpc_call calls[CALLS];
    static uint8_t payload[3000];
    struct pair pair;
    pair_open(&pair, 14, NULL);
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
    run(&pair, 60 * HM_S);
    for (unsigned i = 0; i < CALLS; i++) {
        assert_int_equal(calls[i].ends, 1);
        assert_ok(calls[i].status);
        assert_int_equal(calls[i].replies, i % 2 ? 1 : 3);
    }
    pair_close(&pair);
}

static void a_queued_payload_outlives_its_callers_reference(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    struct hm_buf *buf;
    pair_open(&pair, 15, NULL);
    assert_ok(hm_buf_pool_get(pair.client.buffers, 200000, &buf));
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    call.call.payload[0] = hm_buf_span(buf);
    call.call.span_count = 1;
    assert_ok(hm_rpc_call(pair.peer, &call.call)); /* waits for the dial */
    hm_buf_put(buf);
    assert_true(hm_buf_pool_bytes_used(pair.client.buffers) > 0);
    run(&pair, HM_S);
    assert_ok(call.status);
    run(&pair, HM_S);
    assert_int_equal(hm_buf_pool_bytes_used(pair.client.buffers), 0);
    pair_close(&pair);
}

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

static enum hm_status dial(struct pair *pair, const char *address, hm_ns after,
                           struct dialled *dialled)
{
    struct hm_addr addr = {{0}};
    strcpy(addr.text, address);
    *dialled = (struct dialled){0};
    hm_ns deadline = hm_deadline_after(pair->loop, after);
    enum hm_status status = hm_rpc_dial(pair->client.rpc, &addr, deadline, on_dialled, dialled);
    if (status != HM_OK) return status;
    assert_int_equal(dialled->count, 0);
    run(pair, 10 * HM_S);
    assert_int_equal(dialled->count, 1);
    return dialled->status;
}

static void a_bootstrap_address_is_dialled_without_knowing_who_answers(void **state)
{
    (void)state;
    struct pair pair;
    struct dialled dialled;
    struct rpc_call call;
    pair_open(&pair, 16, NULL);
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
    pair_close(&pair);
}

static void two_nodes_that_dial_each_other_are_each_told_once_and_use_one_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct pair pair;
        struct rpc_call there, back;
        pair_open(&pair, seed, &(struct hm_rpc_conf){.ping_interval = 2 * HM_S});
        assert_ok(hm_rpc_serve(pair.client.rpc, pair.methods, 4));
        struct hm_peer *client = rpc_peer(&pair.server, &pair.client);
        rpc_call_init(&there, &pair.client, ECHO, 5 * HM_S);
        rpc_call_init(&back, &pair.server, ECHO, 5 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &there.call));
        assert_ok(hm_rpc_call(client, &back.call));
        run(&pair, HM_S);
        assert_ok(there.status);
        assert_ok(back.status);
        assert_int_equal(pair.client.ups, 1);
        assert_int_equal(pair.server.ups, 1);
        run(&pair, 30 * HM_S); /* what was dialled twice is closed once, and nobody notices */
        assert_int_equal(hm_metrics_value(&pair.client.metrics, "rpc.connections"), 1);
        assert_int_equal(hm_metrics_value(&pair.server.metrics, "rpc.connections"), 1);
        assert_int_equal(pair.client.downs + pair.server.downs, 0);
        hm_peer_put(client);
        pair_close(&pair);
    }
}

static void a_cut_link_is_noticed_without_a_call(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 18, NULL);
    rpc_call_init(&call, &pair.client, ECHO, HM_S);
    assert_ok(rpc_call_run(&call, pair.peer));
    run(&pair, 1000 * HM_S); /* pings keep an idle connection */
    assert_int_equal(pair.client.downs + pair.server.downs, 0);
    hm_net_cut_both(pair.world, 1, 2, true);
    run(&pair, 15 * HM_S);
    assert_int_equal(pair.client.downs + pair.server.downs, 0); /* not at the first one */
    run(&pair, 40 * HM_S);
    assert_int_equal(pair.client.downs, 1);
    assert_int_equal(pair.server.downs, 1);
    assert_status(pair.client.why, HM_ERR_PEER_UNREACHABLE);
    hm_net_cut_both(pair.world, 1, 2, false);
    pair_close(&pair);
}

static void delay_always(struct hm_world *world, hm_ns delay)
{
    struct hm_net_options options;
    hm_net_options_default(&options);
    options.delay_min = options.delay_max = delay;
    options.slow_per_million = options.busy_per_million = 0;
    hm_net_set_options(world, &options);
}

static void round_trips_are_measured_without_the_time_that_the_server_holds_a_call(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    hm_ns deviation;
    pair_open(&pair, 19, NULL);
    delay_always(pair.world, 20 * HM_MS);
    assert_int_equal(hm_peer_round_trip(pair.peer, &deviation), 0);
    for (unsigned i = 0; i < 10; i++) {
        rpc_call_init(&call, &pair.client, HOLD, 5 * HM_S);
        assert_ok(hm_rpc_call(pair.peer, &call.call));
        run(&pair, HM_S);
        service_release(&pair.service);
        run(&pair, HM_S);
        assert_ok(call.status);
    }
    hm_ns round_trip = hm_peer_round_trip(pair.peer, &deviation);
    assert_true(round_trip >= 40 * HM_MS && round_trip < 45 * HM_MS);
    assert_true(deviation < 10 * HM_MS);
    pair_close(&pair);
}

static void deadlines_mean_the_same_moment_on_both_sides(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call call;
    pair_open(&pair, 23, NULL);
    delay_always(pair.world, 20 * HM_MS);
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
    run(&pair, HM_S);
    assert_int_equal(pair.service.handled, handled);
    pair_close(&pair);
}

static void a_full_table_forgets_the_longest_idle_peer_and_never_a_referenced_one(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, 20, &(struct hm_rpc_conf){.peers_max = 4});
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
    pair_close(&pair);
}

static void closing_cancels_calls_and_waits_for_requests_that_are_held(void **state)
{
    (void)state;
    struct pair pair;
    struct rpc_call calls[3], late;
    struct dialled dialled = {0};
    pair_open(&pair, 21, NULL);
    assert_ok(hm_rpc_serve(pair.client.rpc, pair.methods, 4));
    struct hm_peer *client = rpc_peer(&pair.server, &pair.client);
    for (unsigned i = 0; i < 3; i++) {
        struct rpc_node *from = i == 2 ? &pair.server : &pair.client;
        rpc_call_init(&calls[i], from, HOLD, 100 * HM_S);
        assert_ok(hm_rpc_call(i == 2 ? client : pair.peer, &calls[i].call));
        run(&pair, HM_S);
    }
    struct hm_addr nobody = {{"sim:99"}};
    assert_ok(hm_rpc_dial(pair.client.rpc, &nobody, HM_NS_NEVER, on_dialled, &dialled));
    rpc_node_start_close(&pair.client);
    rpc_call_init(&late, &pair.client, HOLD, HM_S);
    assert_status(hm_rpc_call(pair.peer, &late.call), HM_ERR_CANCELED);
    run(&pair, HM_S);
    assert_false(pair.client.closed); /* the handler still holds the server's request */
    assert_int_equal(dialled.count, 1);
    assert_status(dialled.status, HM_ERR_CANCELED);
    assert_status(calls[0].status, HM_ERR_CANCELED);
    assert_status(calls[1].status, HM_ERR_CANCELED);
    assert_status(calls[2].status, HM_ERR_PEER_RESET); /* the server's own call, on our node */
    assert_int_equal(pair.service.gone, 3);
    hm_peer_put(pair.peer);
    service_release(&pair.service);
    run(&pair, HM_S);
    assert_true(pair.client.closed);
    rpc_node_free(&pair.client);
    hm_peer_put(client);
    rpc_node_close(&pair.server);
    hm_world_destroy(pair.world);
}

static void method_ids_are_taken_once(void **state)
{
    (void)state;
    struct pair pair;
    pair_open(&pair, 22, NULL);
    struct hm_method low = {.id = HM_METHOD_PING, .name = "ping", .handle = on_echo};
    struct hm_method high = {.id = 256, .name = "high", .handle = on_echo};
    assert_status(hm_rpc_serve(pair.server.rpc, pair.methods, 1), HM_ERR_INVALID);
    assert_status(hm_rpc_serve(pair.server.rpc, &low, 1), HM_ERR_INVALID);
    assert_status(hm_rpc_serve(pair.server.rpc, &high, 1), HM_ERR_INVALID);
    struct rpc_call call;
    rpc_call_init(&call, &pair.client, HM_METHOD_PING, HM_S); /* rpc itself answers it */
    assert_ok(rpc_call_run(&call, pair.peer));
    assert_ok(call.reply_status);
    pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_dials_and_is_answered),
        cmocka_unit_test(every_one_of_several_replies_arrives_though_they_overtake_one_another),
        cmocka_unit_test(a_call_to_a_stopped_server_ends_at_its_deadline_and_not_later),
        cmocka_unit_test(a_deadline_that_has_passed_ends_the_call_in_a_later_turn),
        cmocka_unit_test(a_killed_server_ends_the_calls_in_flight_long_before_their_deadline),
        cmocka_unit_test(calls_to_nobody_end_and_the_peer_backs_off_twice_as_long_each_time),
        cmocka_unit_test(a_peer_without_addresses_is_unreachable_at_once),
        cmocka_unit_test(the_next_address_is_tried_when_one_fails_or_is_slow),
        cmocka_unit_test(a_cancelled_call_ends_in_a_later_turn_and_its_request_is_gone),
        cmocka_unit_test(deadlines_travel_as_remaining_time),
        cmocka_unit_test(what_cannot_be_served_is_refused_with_its_own_status),
        cmocka_unit_test(calls_over_fixed_limits_are_refused_before_they_start),
        cmocka_unit_test(a_busy_wire_queues_calls_and_replies_and_loses_none),
        cmocka_unit_test(a_queued_payload_outlives_its_callers_reference),
        cmocka_unit_test(a_bootstrap_address_is_dialled_without_knowing_who_answers),
        cmocka_unit_test(two_nodes_that_dial_each_other_are_each_told_once_and_use_one_connection),
        cmocka_unit_test(a_cut_link_is_noticed_without_a_call),
        cmocka_unit_test(deadlines_mean_the_same_moment_on_both_sides),
        cmocka_unit_test(round_trips_are_measured_without_the_time_that_the_server_holds_a_call),
        cmocka_unit_test(a_full_table_forgets_the_longest_idle_peer_and_never_a_referenced_one),
        cmocka_unit_test(closing_cancels_calls_and_waits_for_requests_that_are_held),
        cmocka_unit_test(method_ids_are_taken_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
