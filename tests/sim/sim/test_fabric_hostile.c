/* The fast path against those who have the right key and break every other rule: what they do costs
 * them their connection, or nothing, and nobody else.  And against those who have not. */
#include "support_fabric.h"
#include "support_raw.h"

#include "base/log.h"
#include "base/rng.h"
#include "transport/rpc_fast.h"

enum { ECHO = HM_METHOD_EXPERT_CALL, HOLD = 48, INSIDER = 3 };

/* A node without rpc that proves the key, and has an endpoint of the fabric to use as it likes. */
struct insider {
    struct raw raw;
    struct hm_transport *fabric;
    const struct hm_node_id *victim;
    struct hm_ep *ep;
    bool up, closed, is_deaf; /* deaf: takes no offer */
    unsigned heard, offers, losts;
    struct hm_fabric_offer ours;
    uint8_t bytes[HM_FABRIC_OFFER_BYTES_MAX]; /* of our offer; the wire reads them later */
    size_t byte_count;
    enum hm_status lost_why;
};

struct scene {
    struct hm_world *world;
    struct rpc_node server, client;
    struct hm_method methods[2];
    struct hm_peer *peer; /* the server, as the client sees it */
    struct insider insider;
    unsigned handled, gone;
};

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    ((struct scene *)arg)->handled++;
    hm_inbound_drop(in);
    hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    (void)arg, (void)request, (void)header, (void)header_bytes;
    hm_inbound_drop(in);
}

static void on_hold_gone(void *arg, struct hm_request *request)
{
    ((struct scene *)arg)->gone++;
    hm_request_reply(request, true, HM_ERR_CANCELED, NULL, 0, NULL, 0);
}

/* ---- the insider */

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                  const struct hm_hello *hello)
{
    (void)ep, (void)node, (void)hello;
    ((struct insider *)arg)->up = true;
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    struct hm_rpc_header read;
    (void)ep;
    assert_ok(hm_rpc_header_decode(header, header_bytes, &read));
    ((struct insider *)arg)->heard++;
    hm_inbound_drop(in);
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    (void)arg, (void)ep;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct insider *insider = arg;
    (void)why;
    assert_ptr_equal(ep, insider->ep);
    insider->ep = NULL;
    insider->up = false;
}

/* A new endpoint; its offer is to be said. */
static void offer_make(struct insider *insider)
{
    struct hm_writer writer;
    assert_null(insider->ep);
    assert_ok(hm_transport_sim.fabric->offer(insider->fabric, insider->victim, &insider->ours,
                                             &insider->ep));
    hm_writer_init(&writer, insider->bytes, sizeof insider->bytes);
    hm_fabric_offer_encode(&insider->ours, &writer);
    assert_true(hm_writer_ok(&writer));
    insider->byte_count = hm_writer_count(&writer);
}

static void say(struct insider *insider, enum hm_rpc_kind kind, uint64_t attempt,
                enum hm_status status)
{
    struct hm_rpc_header header = {.kind = kind, .id = attempt, .status = status};
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    bool offer = kind == HM_RPC_OFFER;
    hm_rpc_header_encode(&header, bytes);
    raw_send_bytes(&insider->raw, insider->raw.ep, bytes, sizeof bytes,
                   offer ? insider->bytes : NULL, offer ? insider->byte_count : 0);
}

/* Over the fabric: a header with a tag (0: none) and payload_bytes zeros. */
static void send_fast(struct insider *insider, const struct hm_rpc_header *header, uint64_t tag,
                      size_t payload_bytes)
{
    static const uint8_t payload[30000];
    uint8_t bytes[HM_HEADER_BYTES_MAX] = {0};
    size_t count = HM_RPC_HEADER_BYTES;
    hm_rpc_header_encode(header, bytes);
    if (tag) count = hm_rpc_header_set_tag(bytes, count, tag);
    raw_send_bytes(&insider->raw, insider->ep, bytes, count, payload, payload_bytes);
}

/* Takes the victim's offer, and sends ours back where we have been dialled. */
static void on_control(struct raw *raw, const struct hm_rpc_header *header,
                       const struct hm_inbound *in)
{
    struct insider *insider = raw->arg;
    struct hm_fabric_offer theirs;
    if (header->kind == HM_RPC_PING)
        raw_send(raw, &(struct hm_rpc_header){.kind = HM_RPC_PONG, .id = header->id}, 0, 0);
    if (header->kind == HM_RPC_LOST) {
        insider->losts++;
        insider->lost_why = header->status;
    }
    if (header->kind != HM_RPC_OFFER) return;
    insider->offers++;
    if (insider->is_deaf) return;
    assert_non_null(in->data);
    assert_ok(hm_fabric_offer_decode(in->data, in->bytes, &theirs));
    bool dialled = !insider->ep;
    if (dialled) offer_make(insider);
    assert_ok(hm_transport_sim.fabric->accept(insider->ep, &theirs));
    if (dialled) say(insider, HM_RPC_OFFER, header->id, HM_OK);
}

static void insider_open(struct insider *insider, struct hm_world *world, const uint8_t *key,
                         const struct rpc_node *victim)
{
    char listen[32];
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR};
    *insider = (struct insider){.victim = hm_identity_node(victim->identity)};
    raw_open(&insider->raw, world, INSIDER, "sim:3", key);
    insider->raw.on_message = on_control;
    insider->raw.arg = insider;
    (void)snprintf(listen, sizeof listen, "sim:%d", FABRIC + INSIDER);
    struct hm_transport_conf conf = {.identity = insider->raw.identity,
                                     .hello = &hello,
                                     .listen = listen,
                                     .buffers = insider->raw.buffers,
                                     .endpoints_max = 64,
                                     .receive_bytes_max = 256 * 1024,
                                     .handshake_max = HM_S,
                                     .world = world};
    struct hm_transport_sink sink = {on_up, on_message, on_writable, on_down, insider};
    assert_ok(hm_transport_sim.open(&conf, hm_world_loop(world), &sink, &insider->fabric));
    hm_net_set_lawless(world, FABRIC + INSIDER, true);
}

static void on_closed(void *arg)
{
    ((struct insider *)arg)->closed = true;
}

static void insider_close(struct insider *insider)
{
    hm_transport_sim.close(insider->fabric, on_closed, insider);
    assert_true(hm_world_run_while_not(insider->raw.world, &insider->closed, 10 * HM_S));
    raw_close(&insider->raw);
}

/* Dials, and comes up on the fabric as it should. */
static void insider_join(struct scene *scene, uint64_t attempt)
{
    struct insider *insider = &scene->insider;
    if (!insider->raw.up) raw_connect(&insider->raw);
    if (insider->ep) hm_transport_sim.disconnect(insider->ep);
    hm_world_run_for(scene->world, HM_S);
    offer_make(insider);
    say(insider, HM_RPC_OFFER, attempt, HM_OK);
    assert_true(hm_world_run_while_not(scene->world, &insider->up, 5 * HM_S));
    hm_world_run_for(scene->world, 100 * HM_MS);
}

/* ---- the scene: an honest server and client on the fabric, and the insider */

static void scene_open(struct scene *scene, uint64_t seed, const uint8_t *insiders_key)
{
    *scene = (struct scene){0};
    hm_log_set_level(HM_LOG_ERROR); /* nodes warn of other keys */
    assert_ok(hm_world_create(seed, &scene->world));
    fabric_node_open(&scene->server, scene->world, 1, fabric_key_a);
    fabric_node_open(&scene->client, scene->world, 2, fabric_key_a);
    scene->methods[0] = (struct hm_method){ECHO, "echo", 1 << 20, on_echo, NULL, scene};
    scene->methods[1] = (struct hm_method){HOLD, "hold", 0, on_hold, on_hold_gone, scene};
    assert_ok(hm_rpc_serve(scene->server.rpc, scene->methods, 2));
    scene->peer = rpc_peer(&scene->client, &scene->server);
    insider_open(&scene->insider, scene->world, insiders_key, &scene->server);
}

static void serves_on(struct scene *scene)
{
    struct rpc_call call;
    rpc_call_init(&call, &scene->client, ECHO, 10 * HM_S);
    assert_ok(rpc_call_run(&call, scene->peer));
    assert_ok(call.reply_status);
    expect_path(scene->peer, true, "");
}

static void scene_close(struct scene *scene)
{
    serves_on(scene);
    assert_int_equal(node_metric(&scene->client, "rpc.tcp_expert"), 0);
    hm_peer_put(scene->peer);
    insider_close(&scene->insider);
    rpc_node_close(&scene->client);
    rpc_node_close(&scene->server);
    hm_world_destroy(scene->world);
}

/* The server calls the insider, who answers none of its offers. */
static struct hm_peer *call_deaf_insider(struct scene *scene, struct rpc_call *call, hm_ns after)
{
    struct insider *insider = &scene->insider;
    struct hm_addrs addrs = {.count = 1, .addr = {{"sim:3"}}};
    struct hm_peer *peer;
    insider->is_deaf = true;
    assert_ok(
        hm_peer_get(scene->server.rpc, hm_identity_node(insider->raw.identity), &addrs, &peer));
    rpc_call_init(call, &scene->server, ECHO, after);
    assert_ok(hm_rpc_call(peer, &call->call));
    return peer;
}

/* ---- claims */

static void who_has_not_proved_the_key_reaches_nothing_of_the_fabric(void **state)
{
    (void)state;
    static const enum hm_rpc_kind kinds[] = {HM_RPC_OFFER, HM_RPC_LOST, HM_RPC_ACK, HM_RPC_VOID,
                                             HM_RPC_REQUEST};
    const uint8_t *keys[] = {NULL, fabric_key_b};
    for (unsigned k = 0; k < HM_COUNT_OF(keys); k++) {
        struct scene scene;
        scene_open(&scene, 1 + k, keys[k]);
        struct insider *stranger = &scene.insider;
        for (unsigned i = 0; i < HM_COUNT_OF(kinds); i++) {
            raw_connect(&stranger->raw);
            offer_make(stranger);
            if (kinds[i] == HM_RPC_VOID || kinds[i] == HM_RPC_REQUEST) {
                struct hm_rpc_header header = {.kind = kinds[i], .method = ECHO, .time_us = 1000};
                uint8_t bytes[HM_RPC_HEADER_BYTES + HM_RPC_TAG_BYTES];
                hm_rpc_header_encode(&header, bytes);
                size_t count = hm_rpc_header_set_tag(bytes, HM_RPC_HEADER_BYTES, hm_tag(1, 0));
                raw_send_bytes(&stranger->raw, stranger->raw.ep, bytes, count, NULL, 0);
            } else {
                say(stranger, kinds[i], 1, HM_OK);
            }
            hm_world_run_for(scene.world, 2 * HM_S);
            assert_int_equal(stranger->raw.downs, i + 1);
            assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
            assert_int_equal(stranger->offers, 0); /* no endpoint has been made for it */
        }
        assert_int_equal(scene.handled, 0);
        scene_close(&scene);
    }
}

static void a_second_offer_in_one_attempt_costs_the_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct scene scene;
        struct rpc_call call;
        scene_open(&scene, seed, fabric_key_a);
        struct insider *insider = &scene.insider;
        struct hm_peer *peer = call_deaf_insider(&scene, &call, 3 * HM_S);
        hm_world_run_for(scene.world, 200 * HM_MS);
        assert_int_equal(insider->offers, 1);
        offer_make(insider);
        for (unsigned i = 0; i < 3; i++) say(insider, HM_RPC_OFFER, 1, HM_OK);
        hm_world_run_for(scene.world, HM_S);
        assert_int_equal(insider->raw.downs, 1);
        assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
        assert_true(hm_world_run_while_not(scene.world, &call.done, 10 * HM_S));
        hm_peer_put(peer);
        scene_close(&scene);
    }
}

static void offers_that_are_replayed_are_passed_over(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct scene scene;
        scene_open(&scene, seed, fabric_key_a);
        struct insider *insider = &scene.insider;
        raw_connect(&insider->raw);
        offer_make(insider);
        say(insider, HM_RPC_OFFER, 7, HM_OK);
        assert_true(hm_world_run_while_not(scene.world, &insider->up, 5 * HM_S));
        for (uint64_t attempt = 1; attempt <= 7; attempt++) {
            say(insider, HM_RPC_OFFER, attempt, HM_OK);
            hm_world_run_for(scene.world, 300 * HM_MS);
        }
        assert_int_equal(insider->offers, 1); /* one endpoint, whatever is replayed */
        assert_int_equal(insider->raw.downs, 0);
        struct hm_rpc_header request = {
            .kind = HM_RPC_REQUEST, .method = ECHO, .id = 9, .time_us = 1000000};
        send_fast(insider, &request, hm_tag(7, 0), 0);
        hm_world_run_for(scene.world, HM_S);
        assert_int_equal(scene.handled, 1);
        assert_true(insider->up);
        scene_close(&scene);
    }
}

static void offers_that_are_garbage_cost_the_connection(void **state)
{
    (void)state;
    struct hm_rng rng;
    struct scene scene;
    hm_rng_init(&rng, 5, 5);
    scene_open(&scene, 5, fabric_key_a);
    struct insider *insider = &scene.insider;
    for (unsigned i = 0; i < 60; i++) {
        raw_connect(&insider->raw);
        insider->byte_count = 1 + hm_rng_below(&rng, i % 3 ? 300 : sizeof insider->bytes - 1);
        for (size_t k = 0; k < insider->byte_count; k++)
            insider->bytes[k] = (uint8_t)hm_rng_below(&rng, i % 2 ? 256 : 2);
        say(insider, HM_RPC_OFFER, 1, HM_OK);
        hm_world_run_for(scene.world, HM_S);
        assert_int_equal(insider->raw.downs, i + 1);
        assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
    }
    static const uint64_t attempts[] = {0, 65536, UINT64_MAX};
    for (unsigned i = 0; i < HM_COUNT_OF(attempts); i++) {
        raw_connect(&insider->raw);
        if (!insider->ep) offer_make(insider);
        say(insider, i % 2 ? HM_RPC_LOST : HM_RPC_OFFER, attempts[i], HM_OK);
        hm_world_run_for(scene.world, 100 * HM_MS);
        assert_int_equal(insider->raw.downs, 61 + i);
    }
    scene_close(&scene);
}

/* What decodes, and leads nowhere: tcp goes on, and the other side hears why. */
static void an_offer_of_nothing_is_answered_lost_and_the_connection_stays(void **state)
{
    (void)state;
    static const struct {
        const char *settings, *address;
        enum hm_status why;
    } cases[] = {
        {"sim", "nonsense", HM_ERR_PEER_PROTOCOL},
        {"sim 2.0", "sim:103", HM_ERR_PEER_VERSION},
        {"sim", "sim:9999", HM_ERR_PEER_UNREACHABLE}, /* nobody is there */
    };
    struct scene scene;
    scene_open(&scene, 6, fabric_key_a);
    struct insider *insider = &scene.insider;
    insider->is_deaf = true;
    raw_connect(&insider->raw);
    for (unsigned i = 0; i < HM_COUNT_OF(cases); i++) {
        struct hm_writer writer;
        struct hm_fabric_offer offer = {.token = 1 + i};
        strcpy(offer.settings, cases[i].settings);
        offer.address_bytes = (uint16_t)strlen(cases[i].address);
        memcpy(offer.address, cases[i].address, offer.address_bytes);
        hm_writer_init(&writer, insider->bytes, sizeof insider->bytes);
        hm_fabric_offer_encode(&offer, &writer);
        insider->byte_count = hm_writer_count(&writer);
        insider->losts = 0;
        say(insider, HM_RPC_OFFER, i + 1, HM_OK);
        hm_world_run_for(scene.world, 5 * HM_S);
        assert_int_equal(insider->losts, 1);
        assert_status(insider->lost_why, cases[i].why);
        say(insider, HM_RPC_LOST, i + 1, HM_ERR_CANCELED);
        hm_world_run_for(scene.world, HM_S);
    }
    assert_int_equal(insider->raw.downs, 0);
    scene_close(&scene);
}

static void a_flood_of_offers_makes_few_endpoints(void **state)
{
    (void)state;
    enum { OFFERS = 500 };
    struct scene scene;
    scene_open(&scene, 8, fabric_key_a);
    struct insider *insider = &scene.insider;
    insider->is_deaf = true;
    raw_connect(&insider->raw);
    offer_make(insider);
    hm_ns began = hm_loop_now(hm_world_loop(scene.world));
    for (uint64_t i = 1; i <= OFFERS; i++) {
        assert_true(insider->raw.up);
        say(insider, HM_RPC_OFFER, i, HM_OK);
        say(insider, HM_RPC_LOST, i, HM_ERR_CANCELED);
        hm_world_run_for(scene.world, 60 * HM_MS); /* closer together, and they are too many */
        if (i % 100 == 0) serves_on(&scene);
    }
    hm_ns took = hm_loop_now(hm_world_loop(scene.world)) - began;
    assert_true(insider->offers >= 1 && insider->offers <= 1 + took / (250 * HM_MS));
    assert_true(insider->losts > insider->offers); /* the others are refused */
    scene_close(&scene);
}

static void a_node_that_never_answers_an_offer_costs_its_callers_two_seconds(void **state)
{
    (void)state;
    struct scene scene;
    struct rpc_call call;
    scene_open(&scene, 9, fabric_key_a);
    struct insider *insider = &scene.insider;
    hm_ns began = hm_loop_now(hm_world_loop(scene.world));
    struct hm_peer *peer = call_deaf_insider(&scene, &call, 10 * HM_S);
    while (insider->raw.last.kind != HM_RPC_REQUEST) {
        hm_world_run_for(scene.world, 10 * HM_MS);
        assert_true(hm_loop_now(hm_world_loop(scene.world)) - began < 3 * HM_S);
    }
    assert_true(hm_world_run_while_not(scene.world, &call.done, 20 * HM_S));
    hm_peer_put(peer);
    scene_close(&scene);
}

/* Messages are held until both sides have said LOST: who never does is no peer. */
static void a_node_that_never_says_lost_loses_its_connection(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct scene scene;
        scene_open(&scene, seed, fabric_key_a);
        struct insider *insider = &scene.insider;
        insider_join(&scene, 1);
        hm_transport_sim.disconnect(insider->ep);
        hm_world_run_for(scene.world, 20 * HM_S);
        assert_int_equal(insider->raw.downs, 0);
        assert_int_equal(insider->losts, 1);
        hm_world_run_for(scene.world, 15 * HM_S); /* it answers pings all the while */
        assert_int_equal(insider->raw.downs, 1);
        assert_status(scene.server.why, HM_ERR_PEER_UNREACHABLE);
        scene_close(&scene);
    }
}

static void garbage_over_the_fabric_costs_the_connection(void **state)
{
    (void)state;
    const struct hm_rpc_header request = {
        .kind = HM_RPC_REQUEST, .method = ECHO, .id = 4, .time_us = 1000000};
    static const struct {
        struct hm_rpc_header header;
        uint64_t tag;
        size_t payload_bytes;
    } wrong[] = {
        {{.kind = HM_RPC_REQUEST, .method = ECHO, .id = 4, .time_us = 1000000}, 0, 0},
        {{.kind = HM_RPC_OFFER, .id = 1}, 0, 100},
        {{.kind = HM_RPC_LOST, .id = 1}, 0, 0},
        {{.kind = HM_RPC_PING, .id = 1}, 0, 5},
        {{.kind = HM_RPC_ACK, .id = 1}, 0, 5},
        {{.kind = HM_RPC_CANCEL, .id = 1}, (uint64_t)1 << 48 | 1, 5},
        {{.kind = HM_RPC_VOID}, (uint64_t)1 << 48 | 1, 5},
        {{.kind = HM_RPC_REPLY, .id = 1}, (uint64_t)2 << 48 | 1, 0},    /* attempt */
        {{.kind = HM_RPC_REPLY, .id = 1}, (uint64_t)1 << 48 | 4097, 0}, /* number */
        {{.kind = HM_RPC_REPLY, .id = 1}, UINT64_MAX, 0},               /* both */
        {{.kind = (enum hm_rpc_kind)99}, 0, 0},
    };
    struct scene scene;
    scene_open(&scene, 10, fabric_key_a);
    struct insider *insider = &scene.insider;
    for (unsigned i = 0; i < HM_COUNT_OF(wrong); i++) {
        insider_join(&scene, 1);
        unsigned handled = scene.handled;
        send_fast(insider, &request, hm_tag(1, 0), 100); /* good, and once */
        hm_world_run_for(scene.world, 200 * HM_MS);
        send_fast(insider, &request, hm_tag(1, 0), 100);
        hm_world_run_for(scene.world, 200 * HM_MS);
        assert_int_equal(scene.handled, handled + 1);
        assert_int_equal(insider->raw.downs, i);
        send_fast(insider, &wrong[i].header, wrong[i].tag, wrong[i].payload_bytes);
        hm_world_run_for(scene.world, HM_S);
        assert_int_equal(insider->raw.downs, i + 1);
        assert_status(scene.server.why, HM_ERR_PEER_PROTOCOL);
        assert_int_equal(scene.handled, handled + 1);
    }
    scene_close(&scene);
}

static void acknowledgements_of_what_was_never_sent_mean_nothing(void **state)
{
    (void)state;
    struct scene scene;
    scene_open(&scene, 11, fabric_key_a);
    struct insider *insider = &scene.insider;
    insider_join(&scene, 1);
    const uint64_t tags[] = {hm_tag(1, 0), hm_tag(1, 1 << 20), hm_tag(2, 5), UINT64_MAX, 0};
    for (unsigned i = 0; i < HM_COUNT_OF(tags); i++) {
        struct hm_rpc_header ack = {.kind = HM_RPC_ACK, .id = tags[i]};
        uint8_t bytes[HM_RPC_HEADER_BYTES + 512];
        hm_rpc_header_encode(&ack, bytes);
        memset(bytes + HM_RPC_HEADER_BYTES, 0xff, 512);
        raw_send_bytes(&insider->raw, insider->ep, bytes, sizeof bytes, NULL, 0);
        raw_send_bytes(&insider->raw, insider->raw.ep, bytes, sizeof bytes, NULL, 0);
        struct hm_rpc_header request = {
            .kind = HM_RPC_REQUEST, .method = ECHO, .id = i, .time_us = 1000000};
        send_fast(insider, &request, hm_tag(1, i), 0);
        hm_world_run_for(scene.world, 100 * HM_MS);
        assert_int_equal(scene.handled, i + 1);
    }
    assert_true(insider->up);
    scene_close(&scene);
}

/* Nearly right, over both planes, from one who comes back each time. */
static void mutated_messages_hurt_nobody_else(void **state)
{
    (void)state;
    struct hm_rng rng;
    struct scene scene;
    hm_rng_init(&rng, 12, 1);
    scene_open(&scene, 12, fabric_key_a);
    struct insider *insider = &scene.insider;
    unsigned returns = 0;
    for (unsigned round = 0; round < 3000; round++) {
        if (!insider->raw.up || !insider->up) {
            if (insider->raw.up) hm_transport_sim.disconnect(insider->raw.ep);
            hm_world_run_for(scene.world, 100 * HM_MS);
            insider_join(&scene, 1 + hm_rng_below(&rng, 5));
            returns++;
        }
        struct hm_rpc_header header = {.kind = (enum hm_rpc_kind)(1 + hm_rng_below(&rng, 9)),
                                       .last = hm_rng_below(&rng, 2),
                                       .method = hm_rng_below(&rng, 2) ? ECHO : HOLD,
                                       .status = (enum hm_status)(-(int)hm_rng_below(&rng, 90)),
                                       .id = hm_rng_below(&rng, 8),
                                       .index = (uint32_t)hm_rng_below(&rng, 4),
                                       .time_us = (uint32_t)hm_rng_below(&rng, 3000000)};
        uint64_t tag = hm_tag(1 + hm_rng_below(&rng, 5), hm_rng_below(&rng, round % 3 ? 40 : 5000));
        size_t payload = hm_rng_below(&rng, 4) ? 0 : hm_rng_below(&rng, 30000);
        if (hm_rng_below(&rng, 3))
            send_fast(insider, &header, header.kind <= HM_RPC_CANCEL ? tag : 0, payload);
        else
            raw_send(&insider->raw, &header, 0, payload);
        hm_world_run_for(scene.world, hm_rng_below(&rng, 10 * HM_MS));
        if (round % 500 == 0) serves_on(&scene);
    }
    assert_true(returns > 5 && scene.handled > 20);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_has_not_proved_the_key_reaches_nothing_of_the_fabric),
        cmocka_unit_test(a_second_offer_in_one_attempt_costs_the_connection),
        cmocka_unit_test(offers_that_are_replayed_are_passed_over),
        cmocka_unit_test(offers_that_are_garbage_cost_the_connection),
        cmocka_unit_test(an_offer_of_nothing_is_answered_lost_and_the_connection_stays),
        cmocka_unit_test(a_flood_of_offers_makes_few_endpoints),
        cmocka_unit_test(a_node_that_never_answers_an_offer_costs_its_callers_two_seconds),
        cmocka_unit_test(a_node_that_never_says_lost_loses_its_connection),
        cmocka_unit_test(garbage_over_the_fabric_costs_the_connection),
        cmocka_unit_test(acknowledgements_of_what_was_never_sent_mean_nothing),
        cmocka_unit_test(mutated_messages_hurt_nobody_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
