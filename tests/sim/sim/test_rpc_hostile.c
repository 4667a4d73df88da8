/* A node that speaks the transport but not rpc's rules: what it sends costs it its connection, and
 * nobody else. */
#include "support_raw.h"
#include "support_rpc.h"

#include "base/rng.h"

enum { ECHO = 100, BULK, HOLD, BIT, PULL, BULK_BYTES = 20000, BIT_BYTES = 1000 };

/* ---- an honest server, an honest client, and the stranger */

struct scene {
    struct hm_world *world;
    struct rpc_node server, client;
    struct raw raw;
    struct hm_method methods[5];
    struct hm_peer *peer; /* the server, as the client sees it */
    unsigned handled, gone;
    struct pull {
        struct hm_request *request;
        struct hm_buf *buf;
    } pull[64];
    unsigned pulls, pulled, pulls_failed;
};

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    ((struct scene *)arg)->handled++;
    hm_inbound_drop(in);
    hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
}

static void give(struct scene *scene, struct hm_request *request, struct hm_inbound *in,
                 size_t bytes)
{
    struct hm_buf *buf;
    scene->handled++;
    hm_inbound_drop(in);
    if (hm_buf_pool_get(scene->server.buffers, bytes, &buf) != HM_OK) {
        hm_request_reply(request, true, HM_ERR_BUSY, NULL, 0, NULL, 0);
        return;
    }
    struct hm_span span = hm_buf_span(buf);
    memset(buf->base, 1, bytes);
    hm_request_reply(request, true, HM_OK, NULL, 0, &span, 1);
    hm_buf_put(buf);
}

static void on_bulk(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    give(arg, request, in, BULK_BYTES);
}

static void on_bit(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                   struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    give(arg, request, in, BIT_BYTES);
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    (void)request;
    ((struct scene *)arg)->handled++;
    hm_inbound_drop(in);
}

static void on_hold_gone(void *arg, struct hm_request *request)
{
    ((struct scene *)arg)->gone++;
    hm_request_reply(request, true, HM_ERR_CANCELED, NULL, 0, NULL, 0);
}

static struct scene *pulling;
static void on_pulled(void *arg, enum hm_status status)
{
    struct pull *pull = arg;
    pulling->pulled += status == HM_OK;
    pulling->pulls_failed += status != HM_OK;
    hm_buf_put(pull->buf);
    hm_request_reply(pull->request, true, status, NULL, 0, NULL, 0);
}

static void on_pull(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    struct scene *scene = pulling = arg;
    assert_true(scene->pulls < HM_COUNT_OF(scene->pull));
    struct pull *pull = &scene->pull[scene->pulls++];
    pull->request = request;
    assert_ok(hm_buf_pool_get(scene->server.buffers, in->bytes, &pull->buf));
    struct hm_span into = hm_buf_span(pull->buf);
    assert_ok(hm_request_pull(request, in, &into, on_pulled, pull));
}

/* Or goes at its usual pace again. */
static void wire_trickles(struct scene *scene, bool trickles)
{
    struct hm_net_options options;
    hm_net_options_default(&options);
    if (trickles) options.bytes_per_second = 4000;
    hm_net_set_options(scene->world, &options);
}

static void scene_open(struct scene *scene, uint64_t seed, const struct hm_rpc_conf *limits)
{
    *scene = (struct scene){0};
    assert_ok(hm_world_create(seed, &scene->world));
    rpc_node_open(&scene->server, scene->world, 1, "sim:1", limits);
    rpc_node_open(&scene->client, scene->world, 2, NULL, limits);
    scene->methods[0] = (struct hm_method){ECHO, "echo", 50000, on_echo, NULL, scene};
    scene->methods[1] = (struct hm_method){BULK, "bulk", 0, on_bulk, NULL, scene};
    scene->methods[2] = (struct hm_method){HOLD, "hold", 0, on_hold, on_hold_gone, scene};
    scene->methods[3] = (struct hm_method){BIT, "bit", 0, on_bit, NULL, scene};
    scene->methods[4] = (struct hm_method){PULL, "pull", 16 << 20, on_pull, NULL, scene};
    assert_ok(hm_rpc_serve(scene->server.rpc, scene->methods, 5));
    raw_open(&scene->raw, scene->world, 3, "sim:3", NULL);
    scene->peer = rpc_peer(&scene->client, &scene->server);
}

static void serves_on(struct scene *scene)
{
    struct rpc_call call;
    rpc_call_init(&call, &scene->client, ECHO, 10 * HM_S);
    assert_ok(rpc_call_run(&call, scene->peer));
    assert_ok(call.reply_status);
}

static void scene_close(struct scene *scene)
{
    serves_on(scene);
    hm_peer_put(scene->peer);
    raw_close(&scene->raw);
    rpc_node_close(&scene->client);
    rpc_node_close(&scene->server);
    hm_world_destroy(scene->world);
}

/* ---- claims */

static void headers_that_mean_nothing_cost_the_connection(void **state)
{
    (void)state;
    static const struct {
        struct hm_rpc_header header;
        size_t user_bytes, payload_bytes;
    } wrong[] = {
        {{.kind = 0}, 0, 0},
        {{.kind = (enum hm_rpc_kind)6}, 0, 0},
        {{.kind = HM_RPC_REQUEST, .method = ECHO, .time_us = 1}, HM_CALL_HEADER_BYTES_MAX + 1, 0},
        {{.kind = HM_RPC_REPLY, .index = HM_RPC_REPLIES_MAX}, 0, 0},
        {{.kind = HM_RPC_CANCEL}, 1, 0},
        {{.kind = HM_RPC_CANCEL}, 0, 1},
        {{.kind = HM_RPC_PING}, 0, 50000},
        {{.kind = HM_RPC_PONG}, 0, 1},
    };
    struct scene scene;
    scene_open(&scene, 1, NULL);
    for (unsigned i = 0; i < HM_COUNT_OF(wrong); i++) {
        raw_connect(&scene.raw);
        raw_send(&scene.raw, &wrong[i].header, wrong[i].user_bytes, wrong[i].payload_bytes);
        hm_world_run_for(scene.world, HM_S);
        assert_int_equal(scene.raw.downs, i + 1);
        assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
    }
    assert_int_equal(scene.handled, 0);
    scene_close(&scene);
}

static void an_id_that_is_used_twice_at_a_time_costs_the_connection(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 2, NULL);
    raw_connect(&scene.raw);
    struct hm_rpc_header header = {
        .kind = HM_RPC_REQUEST, .method = ECHO, .id = 5, .time_us = 1000000};
    for (unsigned i = 0; i < 2; i++) { /* one after the other is allowed */
        raw_send(&scene.raw, &header, 0, 0);
        hm_world_run_for(scene.world, HM_S);
    }
    assert_int_equal(scene.raw.downs, 0);
    assert_int_equal(scene.handled, 2);
    header.method = HOLD;
    for (unsigned i = 0; i < 2; i++) raw_send(&scene.raw, &header, 0, 0);
    hm_world_run_for(scene.world, 100 * HM_MS);
    assert_int_equal(scene.raw.downs, 1);
    assert_int_equal(scene.handled, 3);
    assert_int_equal(scene.gone, 1);
    assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
    scene_close(&scene);
}

static void strange_cancels_replies_and_pongs_mean_nothing(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 3, NULL);
    raw_connect(&scene.raw);
    for (uint64_t id = 0; id < 50; id++) {
        raw_send(&scene.raw, &(struct hm_rpc_header){.kind = HM_RPC_CANCEL, .id = id}, 0, 0);
        raw_send(&scene.raw, &(struct hm_rpc_header){.kind = HM_RPC_PONG, .id = id}, 0, 0);
        raw_send(&scene.raw, &(struct hm_rpc_header){.kind = HM_RPC_REPLY, .id = id, .last = true},
                 3, id * 100);
        hm_world_run_for(scene.world, 100 * HM_MS);
    }
    assert_int_equal(scene.raw.downs, 0);
    scene_close(&scene);
}

static void a_request_without_time_is_refused(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 4, NULL);
    raw_connect(&scene.raw);
    raw_send(&scene.raw, &(struct hm_rpc_header){.kind = HM_RPC_REQUEST, .method = ECHO, .id = 9},
             0, 100);
    scene.raw.messages = 0;
    hm_world_run_for(scene.world, HM_S);
    assert_int_equal(scene.handled, 0);
    assert_int_equal(scene.raw.last.kind, HM_RPC_REPLY);
    assert_status(scene.raw.last.status, HM_ERR_TIMED_OUT);
    assert_true(scene.raw.last.last && scene.raw.last.id == 9);
    scene_close(&scene);
}

static void replies_that_nobody_pulls_are_bounded_and_cost_the_connection(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 5, NULL);
    raw_connect(&scene.raw);
    scene.raw.hoards = true;
    for (uint64_t id = 0; id < 500; id++)
        raw_send(&scene.raw,
                 &(struct hm_rpc_header){
                     .kind = HM_RPC_REQUEST, .method = BULK, .id = id, .time_us = 2000000},
                 0, 0);
    hm_world_run_for(scene.world, HM_S);
    assert_int_equal(scene.handled, 500);
    assert_true(hm_buf_pool_bytes_used(scene.server.buffers) > 100 * BULK_BYTES);
    serves_on(&scene);
    hm_world_run_for(scene.world, 15 * HM_S); /* what has expired does not wait for the wire */
    assert_true(hm_buf_pool_bytes_used(scene.server.buffers) < 20 * 32768);
    hm_world_run_for(scene.world, 30 * HM_S);
    assert_int_equal(scene.raw.downs, 1);
    assert_int_equal(hm_buf_pool_bytes_used(scene.server.buffers), 0);
    scene_close(&scene);
}

/* The stranger answers one call with the replies of a script, one after the other. */
static struct {
    struct hm_timer timer;
    struct raw *raw;
    struct hm_rpc_header reply[8];
    unsigned count, said;
    uint64_t id;
} script;

static void on_script_timer(struct hm_timer *timer)
{
    if (script.said == script.count) return;
    struct hm_rpc_header reply = script.reply[script.said++];
    reply.kind = HM_RPC_REPLY;
    if (reply.id == 0) reply.id = script.id;
    raw_send(script.raw, &reply, 0, 10);
    hm_timer_start(hm_world_loop(script.raw->world), timer, 100 * HM_MS);
}

static void on_script(struct raw *raw, const struct hm_rpc_header *header,
                      const struct hm_inbound *in)
{
    (void)in;
    if (header->kind != HM_RPC_REQUEST) return;
    script.timer.cb = on_script_timer;
    script.raw = raw;
    script.id = header->id;
    hm_timer_start(hm_world_loop(raw->world), &script.timer, 0);
}

static void a_callers_end_does_not_depend_on_what_a_server_invents(void **state)
{
    (void)state;
    static const struct {
        struct hm_rpc_header script[8];
        unsigned count, replies;
        enum hm_status status;
    } cases[] = {
        {{{.index = 0, .last = true}}, 1, 1, HM_OK},
        {{{.index = 0, .last = true}, {.index = 0, .last = true}}, 2, 1, HM_OK},
        {{{.id = 77, .last = true}}, 1, 0, HM_ERR_TIMED_OUT},
        {{{.index = 2, .last = true}, {.index = 0}, {.index = 1}}, 3, 3, HM_OK},
        {{{.index = 1, .last = true}, {.index = 5}, {.index = 7}}, 3, 1, HM_ERR_TIMED_OUT},
        {{{.index = 3, .last = true}, {.index = 1, .last = true}}, 2, 1, HM_ERR_TIMED_OUT},
        {{{.status = (enum hm_status) - 9999, .last = true}}, 1, 1, HM_OK},
        {{{0}}, 0, 0, HM_ERR_TIMED_OUT},
    };
    struct scene scene;
    scene_open(&scene, 6, NULL);
    scene.raw.on_message = on_script;
    struct hm_peer *stranger;
    struct hm_addrs addrs = {.count = 1, .addr = {{"sim:3"}}};
    assert_ok(
        hm_peer_get(scene.client.rpc, hm_identity_node(scene.raw.identity), &addrs, &stranger));
    for (unsigned i = 0; i < HM_COUNT_OF(cases); i++) {
        struct rpc_call call;
        memcpy(script.reply, cases[i].script, sizeof script.reply);
        script.count = cases[i].count;
        script.said = 0;
        rpc_call_init(&call, &scene.client, ECHO, 2 * HM_S);
        assert_status(rpc_call_run(&call, stranger), cases[i].status);
        assert_int_equal(call.replies, cases[i].replies);
        hm_world_run_for(scene.world, HM_S);
        if (cases[i].script[0].status) assert_status(call.reply_status, HM_ERR_PEER_PROTOCOL);
    }
    hm_peer_put(stranger);
    scene_close(&scene);
}

static void nodes_over_the_table_are_turned_away_and_the_others_served(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 7, &(struct hm_rpc_conf){.peers_max = 1});
    serves_on(&scene); /* the client has the only place */
    struct hm_addr to = {{"sim:1"}};
    for (unsigned i = 0; i < 10; i++) {
        assert_ok(hm_transport_sim.connect(scene.raw.transport, &to, NULL, &scene.raw.ep));
        hm_world_run_for(scene.world, 2 * HM_S);
        assert_int_equal(scene.raw.downs, i + 1);
    }
    serves_on(&scene);
    assert_int_equal(scene.server.ups, 1);
    assert_int_equal(scene.server.downs, 0);
    scene_close(&scene);
}

/* Messages that are nearly right, from a stranger who comes back each time. */
static void mutated_messages_hurt_nobody_else(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 8, 1);
    struct scene scene;
    scene_open(&scene, 8, &(struct hm_rpc_conf){.requests_max = 32, .requests_max_per_peer = 16});
    unsigned returns = 0;
    for (unsigned round = 0; round < 3000; round++) {
        if (!scene.raw.up) {
            raw_connect(&scene.raw);
            returns++;
        }
        struct hm_rpc_header header = {.kind = (enum hm_rpc_kind)(1 + hm_rng_below(&rng, 5)),
                                       .last = hm_rng_below(&rng, 2),
                                       .method = (uint16_t)(99 + hm_rng_below(&rng, 4)),
                                       .status = (enum hm_status)(-(int)hm_rng_below(&rng, 90)),
                                       .id = hm_rng_below(&rng, 8),
                                       .index = (uint32_t)hm_rng_below(&rng, 4),
                                       .time_us = (uint32_t)hm_rng_below(&rng, 3000000)};
        if (hm_rng_below(&rng, 100) == 0) header.kind = (enum hm_rpc_kind)hm_rng_below(&rng, 256);
        bool with_payload = header.kind <= HM_RPC_REPLY && hm_rng_below(&rng, 2);
        raw_send(&scene.raw, &header, header.kind <= HM_RPC_REPLY ? hm_rng_below(&rng, 50) : 0,
                 with_payload ? hm_rng_below(&rng, 60000) : 0);
        hm_world_run_for(scene.world, hm_rng_below(&rng, 10 * HM_MS));
        if (round % 500 == 0) serves_on(&scene);
    }
    assert_true(returns > 5 && scene.handled > 100);
    scene_close(&scene);
}

static void answer_ping(struct raw *raw, const struct hm_rpc_header *header,
                        const struct hm_inbound *in)
{
    (void)in;
    struct hm_rpc_header pong = {.kind = HM_RPC_PONG, .id = header->id};
    if (header->kind == HM_RPC_PING) raw_send(raw, &pong, 0, 0);
}

/* Strangers who ask for large answers with an hour to go, and take none of them. */
static void hoarders_leave_buffers_for_others(void **state)
{
    (void)state;
    enum { HOARDERS = 8, ASKED = 1500 };
    static struct raw hoarder[HOARDERS];
    struct scene scene;
    scene_open(&scene, 9, NULL);
    serves_on(&scene);
    size_t bytes_max = hm_buf_pool_bytes_max(scene.server.buffers);
    for (unsigned i = 0; i < HOARDERS; i++) {
        raw_open(&hoarder[i], scene.world, 10 + i, NULL, NULL);
        raw_connect(&hoarder[i]);
        hoarder[i].hoards = true;
        for (uint64_t id = 0; id < ASKED; id++) {
            struct hm_rpc_header ask = {
                .kind = HM_RPC_REQUEST, .method = BULK, .id = id, .time_us = UINT32_MAX};
            if (hoarder[i].ep) raw_send(&hoarder[i], &ask, 0, 0);
            if (id % 64 == 63) hm_world_run_for(scene.world, 10 * HM_MS);
        }
        assert_true(hm_buf_pool_bytes_used(scene.server.buffers) < bytes_max / 8 * 7);
    }
    struct rpc_call call;
    rpc_call_init(&call, &scene.client, BULK, 10 * HM_S);
    assert_ok(rpc_call_run(&call, scene.peer));
    assert_ok(call.reply_status);
    /* Who holds more than his share, and takes nothing, loses it long before the hour is over. */
    hm_world_run_for(scene.world, 60 * HM_S);
    assert_true(hm_buf_pool_bytes_used(scene.server.buffers) < bytes_max / 2);
    for (unsigned i = 0; i < HOARDERS; i++) raw_close(&hoarder[i]);
    scene_close(&scene);
}

/* A payload that comes a byte now and then holds its buffer no longer than its call's time and a while:
 * pings go through, so it is not the silence that ends it. */
static void a_payload_that_trickles_past_its_deadline_costs_the_connection(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 11, NULL);
    serves_on(&scene);
    size_t used = hm_buf_pool_bytes_used(scene.server.buffers);
    raw_connect(&scene.raw);
    wire_trickles(&scene, true);
    struct hm_rpc_header ask = {
        .kind = HM_RPC_REQUEST, .method = PULL, .id = 1, .time_us = 5 * 1000 * 1000};
    raw_send(&scene.raw, &ask, 0, 1 << 20); /* for four minutes */
    hm_world_run_for(scene.world, 4 * HM_S);
    assert_int_equal(scene.pulls, 1);
    assert_int_equal(scene.pulled + scene.pulls_failed, 0);
    assert_true(scene.raw.ep && hm_buf_pool_bytes_used(scene.server.buffers) >= used + (1 << 20));
    hm_world_run_for(scene.world, 36 * HM_S); /* its deadline, an interval, and the next tick */
    assert_int_equal(scene.pulls_failed, 1);
    assert_null(scene.raw.ep);
    assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
    assert_int_equal(hm_buf_pool_bytes_used(scene.server.buffers), used);
    wire_trickles(&scene, false);
    scene_close(&scene);
}

static void what_a_peer_has_coming_is_at_most_what_it_leaves_to_others(void **state)
{
    (void)state;
    enum { EACH = 8 << 20, ASKED = 20 };
    struct scene scene;
    scene_open(&scene, 12, NULL);
    size_t bytes_max = hm_buf_pool_bytes_max(scene.server.buffers);
    raw_connect(&scene.raw);
    wire_trickles(&scene, true);
    for (uint64_t id = 1; id <= ASKED && id * EACH < 2 * bytes_max; id++) {
        struct hm_rpc_header ask = {
            .kind = HM_RPC_REQUEST, .method = PULL, .id = id, .time_us = 5 * 1000 * 1000};
        raw_send(&scene.raw, &ask, 0, EACH);
        hm_world_run_for(scene.world, 100 * HM_MS);
    }
    assert_true(scene.pulls >= 1);
    assert_true(hm_buf_pool_bytes_used(scene.server.buffers) <= bytes_max / 2 + EACH);
    assert_int_equal(scene.raw.last.kind, HM_RPC_REPLY);
    assert_status(scene.raw.last.status, HM_ERR_BUSY);
    hm_world_run_for(scene.world, 60 * HM_S);
    wire_trickles(&scene, false);
    assert_int_equal(scene.pulls_failed, scene.pulls);
    scene_close(&scene);
}

/* Asks for `count` payloads of `each` bytes, one every half second. */
static void send_payloads(struct scene *scene, uint64_t first, unsigned count, size_t each)
{
    for (unsigned i = 0; i < count; i++) {
        struct hm_rpc_header ask = {
            .kind = HM_RPC_REQUEST, .method = PULL, .id = first + i, .time_us = 5 * 1000 * 1000};
        raw_send(&scene->raw, &ask, 0, each);
        hm_world_run_for(scene->world, 500 * HM_MS);
    }
}

static void calls_over_a_given_limit_are_busy_at_once_and_only_for_that_node(void **state)
{
    (void)state;
    enum { MAX = 3, ASKED = 10 };
    struct scene scene;
    scene_open(&scene, 15, &(struct hm_rpc_conf){.requests_max_per_peer = MAX});
    raw_connect(&scene.raw);
    for (uint64_t id = 0; id < ASKED; id++) {
        struct hm_rpc_header ask = {
            .kind = HM_RPC_REQUEST, .method = HOLD, .id = id, .time_us = 5 * 1000 * 1000};
        raw_send(&scene.raw, &ask, 0, 0);
        hm_world_run_for(scene.world, 100 * HM_MS);
        assert_int_equal(scene.handled, id < MAX ? id + 1 : MAX);
        if (id < MAX) continue;
        assert_status(scene.raw.last.status, HM_ERR_BUSY);
        assert_true(scene.raw.last.last && scene.raw.last.id == id);
    }
    assert_int_equal(scene.raw.downs, 0);
    serves_on(&scene); /* another node has its own */
    hm_world_run_for(scene.world, 6 * HM_S);
    assert_int_equal(scene.gone, MAX);
    raw_send(&scene.raw, /* and when they are over, so has this one */
             &(struct hm_rpc_header){
                 .kind = HM_RPC_REQUEST, .method = HOLD, .id = 99, .time_us = 1000 * 1000},
             0, 0);
    hm_world_run_for(scene.world, 100 * HM_MS);
    assert_int_equal(scene.handled, MAX + 2);
    hm_world_run_for(scene.world, 2 * HM_S);
    scene_close(&scene);
}

static void bytes_over_a_given_limit_are_busy_at_once_and_free_again_after(void **state)
{
    (void)state;
    enum { EACH = 30000 };
    struct scene scene;
    scene_open(&scene, 16, &(struct hm_rpc_conf){.request_bytes_max_per_peer = 3 * EACH});
    raw_connect(&scene.raw);
    wire_trickles(&scene, true);
    send_payloads(&scene, 1, 3, EACH); /* as many as it may, to the byte */
    assert_int_equal(scene.pulls, 3);
    assert_int_equal(hm_metrics_value(&scene.server.metrics, "rpc.requests_refused"), 0);
    send_payloads(&scene, 4, 1, 1000);
    assert_int_equal(scene.pulls, 3);
    assert_int_equal(scene.raw.last.kind, HM_RPC_REPLY);
    assert_status(scene.raw.last.status, HM_ERR_BUSY);
    assert_int_equal(scene.raw.last.id, 4);
    send_payloads(&scene, 5, 1, 3 * EACH + 1); /* never, not only now */
    assert_status(scene.raw.last.status, HM_ERR_TOO_BIG);
    assert_int_equal(scene.raw.last.id, 5);
    wire_trickles(&scene, false);
    serves_on(&scene);
    hm_world_run_for(scene.world, 60 * HM_S);
    assert_int_equal(scene.pulled + scene.pulls_failed, 3);
    if (!scene.raw.up) raw_connect(&scene.raw);
    send_payloads(&scene, 6, 1, 3 * EACH);
    hm_world_run_for(scene.world, HM_S);
    assert_int_equal(scene.pulls, 4);
    assert_int_equal(scene.raw.last.id, 6);
    assert_status(scene.raw.last.status, HM_OK);
    scene_close(&scene);
}

static void answers_that_a_connection_has_not_taken_count_against_a_given_limit(void **state)
{
    (void)state;
    enum { MAX = 10 * BULK_BYTES, ASKED = 40 };
    struct scene scene;
    scene_open(&scene, 17, &(struct hm_rpc_conf){.request_bytes_max_per_peer = MAX});
    raw_connect(&scene.raw);
    scene.raw.hoards = true;
    for (uint64_t id = 0; id < ASKED; id++) {
        struct hm_rpc_header ask = {
            .kind = HM_RPC_REQUEST, .method = BULK, .id = id, .time_us = 5 * 1000 * 1000};
        raw_send(&scene.raw, &ask, 0, 0);
        hm_world_run_for(scene.world, 20 * HM_MS);
    }
    assert_int_equal(scene.handled, MAX / BULK_BYTES + 1);
    assert_status(scene.raw.last.status, HM_ERR_BUSY);
    assert_int_equal(scene.raw.downs, 0);
    scene_close(&scene);
}

/* Strangers whose answers are small and many, over a wire that they never read. */
static void readers_of_nothing_leave_records_for_others(void **state)
{
    (void)state;
    enum { DEAF = 16, ASKED = 3000 };
    static struct raw deaf[DEAF];
    struct scene scene;
    scene_open(&scene, 11, &(struct hm_rpc_conf){.calls_max = 256, .requests_max = 1024});
    serves_on(&scene);
    for (unsigned i = 0; i < DEAF; i++) {
        raw_open(&deaf[i], scene.world, 30 + i, NULL, NULL);
        raw_connect(&deaf[i]);
        deaf[i].hoards = true; /* the first answers take the credit, the others wait for it */
        for (uint64_t id = 0; id < ASKED; id++) {
            struct hm_rpc_header ask = {
                .kind = HM_RPC_REQUEST, .method = BIT, .id = id, .time_us = UINT32_MAX};
            const struct hm_slots *slots = &scene.server.rpc->send_slots;
            if (slots->used + 2 >= slots->count) break;
            if (deaf[i].ep) raw_send(&deaf[i], &ask, 0, 0);
            hm_world_run_for(scene.world, id % 64 == 63 || id > 2000 ? 10 * HM_MS : 0);
        }
    }
    for (unsigned i = 0; i < 100; i++) {
        struct rpc_call call;
        rpc_call_init(&call, &scene.client, BIT, 10 * HM_S);
        assert_ok(rpc_call_run(&call, scene.peer));
        assert_ok(call.reply_status);
    }
    for (unsigned i = 0; i < DEAF; i++) raw_close(&deaf[i]);
    scene_close(&scene);
}

/* One identity costs nothing, and places are few. */
static void a_node_has_few_connections_whatever_it_dials(void **state)
{
    (void)state;
    enum { DIALS = 60 };
    static struct raw same[DIALS];
    struct scene scene;
    scene_open(&scene, 12, NULL);
    serves_on(&scene);
    for (unsigned i = 0; i < DIALS; i++) {
        raw_open(&same[i], scene.world, 3, NULL, NULL);
        raw_connect(&same[i]);
    }
    hm_world_run_for(scene.world, HM_S);
    assert_true(scene.server.rpc->conn_slots.used <= 2 + HM_RPC_CONNS_ACCEPTED_MAX);
    assert_true(same[DIALS - 1].up); /* the newest is the one that surely lives */
    for (unsigned i = 0; i < DIALS; i++) raw_close(&same[i]);
    scene_close(&scene);
}

static void strangers_that_fill_all_places_do_not_keep_others_out(void **state)
{
    (void)state;
    enum { STRANGERS = 100 };
    static struct raw stranger[STRANGERS];
    struct scene scene;
    scene_open(&scene, 13, NULL);
    serves_on(&scene); /* the client is there, and idle */
    for (unsigned i = 0; i < STRANGERS; i++) {
        raw_open(&stranger[i], scene.world, 50 + i, NULL, NULL);
        stranger[i].on_message = answer_ping;
        raw_connect(&stranger[i]); /* each gets in */
        assert_true(scene.server.rpc->conn_slots.used < scene.server.rpc->conn_slots.count);
    }
    struct rpc_node late;
    rpc_node_open(&late, scene.world, 300, NULL, NULL);
    struct hm_peer *peer = rpc_peer(&late, &scene.server);
    struct rpc_call call;
    rpc_call_init(&call, &late, ECHO, 10 * HM_S);
    assert_ok(rpc_call_run(&call, peer));
    hm_peer_put(peer);
    rpc_node_close(&late);
    for (unsigned i = 0; i < STRANGERS; i++) raw_close(&stranger[i]);
    scene_close(&scene);
}

/* Anybody can say where somebody is. */
static void hearsay_about_addresses_does_not_hide_a_node(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 14, NULL);
    serves_on(&scene);
    for (unsigned round = 0; round < 3; round++) {
        struct hm_addrs hints = {.count = HM_ADDRS_MAX};
        for (unsigned i = 0; i < HM_ADDRS_MAX; i++)
            snprintf(hints.addr[i].text, sizeof hints.addr[i].text, "sim:%u",
                     200 + round * HM_ADDRS_MAX + i);
        struct hm_peer *peer;
        assert_ok(hm_peer_get(scene.client.rpc, hm_peer_node(scene.peer), &hints, &peer));
        hm_peer_put(peer);
    }
    struct hm_addrs own;
    hm_peer_own_addrs(scene.peer, &own);
    assert_int_equal(own.count, 1); /* what is handed on to others */
    assert_string_equal(own.addr[0].text, "sim:1");
    hm_net_break(scene.world, scene.server.number, hm_net_number(scene.client.rpc->transport));
    hm_world_run_for(scene.world, HM_S);
    assert_false(hm_peer_connected(scene.peer));
    serves_on(&scene);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_that_mean_nothing_cost_the_connection),
        cmocka_unit_test(an_id_that_is_used_twice_at_a_time_costs_the_connection),
        cmocka_unit_test(strange_cancels_replies_and_pongs_mean_nothing),
        cmocka_unit_test(a_request_without_time_is_refused),
        cmocka_unit_test(replies_that_nobody_pulls_are_bounded_and_cost_the_connection),
        cmocka_unit_test(a_callers_end_does_not_depend_on_what_a_server_invents),
        cmocka_unit_test(nodes_over_the_table_are_turned_away_and_the_others_served),
        cmocka_unit_test(mutated_messages_hurt_nobody_else),
        cmocka_unit_test(hoarders_leave_buffers_for_others),
        cmocka_unit_test(a_payload_that_trickles_past_its_deadline_costs_the_connection),
        cmocka_unit_test(what_a_peer_has_coming_is_at_most_what_it_leaves_to_others),
        cmocka_unit_test(calls_over_a_given_limit_are_busy_at_once_and_only_for_that_node),
        cmocka_unit_test(bytes_over_a_given_limit_are_busy_at_once_and_free_again_after),
        cmocka_unit_test(answers_that_a_connection_has_not_taken_count_against_a_given_limit),
        cmocka_unit_test(readers_of_nothing_leave_records_for_others),
        cmocka_unit_test(a_node_has_few_connections_whatever_it_dials),
        cmocka_unit_test(hearsay_about_addresses_does_not_hide_a_node),
        cmocka_unit_test(strangers_that_fill_all_places_do_not_keep_others_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
