/* tests/unit/transport/test_tcp_rules.c - peers that are who they are and speak frames by hand: what a
 * rule allows is taken, and each broken one ends that connection and it alone. */
#include "support_tcp.h"

#include "base/rng.h"
#include "raw_tls.h"

static struct raw_peer stranger_connect(struct world *world)
{
    struct hm_addr addr = node_addr(&world->node);
    struct raw_peer peer = {.pump = world_pump, .arg = world};
    assert_true(raw_tls(&peer, world->stranger, raw_connect(raw_port(&addr)), true));
    return peer;
}

static uint8_t body[128 * KIB];

/* Reads up to the goodbye; what it says, or HM_OK if the connection ended without. */
static enum hm_status last_words(struct raw_peer *peer)
{
    struct hm_frame frame;
    while (raw_next(peer, &frame, body))
        if (frame.type == HM_FRAME_GOODBYE) return (enum hm_status)(int64_t)frame.value;
    return HM_OK;
}

static struct raw_peer stranger_up(struct world *world)
{
    struct raw_peer peer = stranger_connect(world);
    world->node.ups = world->node.downs = 0;
    assert_true(raw_hello(&peer, HM_WIRE_MAJOR, 64 * KIB));
    await(world, is_up, &world->node);
    return peer;
}

/* The peer announces, the node pulls, and the peer has heard that it did. */
static void announce_and_be_pulled(struct world *world, struct raw_peer *peer, size_t bytes)
{
    static uint8_t into[KIB];
    struct hm_frame frame = {.type = HM_FRAME_ANNOUNCE, .value = bytes};
    struct hm_span span = {.base = into, .bytes = sizeof into};
    world->node.hold = true;
    assert_true(raw_frame(peer, frame, NULL, NULL));
    while (world->node.held_count == 0) world_pump(world);
    assert_ok(hm_inbound_pull(world->node.held[--world->node.held_count], &span, node_on_done,
                              &world->node));
    world->node.hold = false;
    do assert_true(raw_next(peer, &frame, body));
    while (frame.type != HM_FRAME_PULL);
    assert_int_equal(frame.value, 1);
    memset(body, 0, sizeof body);
}

static void a_first_frame_that_is_no_hello_is_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    assert_true(raw_frame(&peer, (struct hm_frame){.type = HM_FRAME_MESSAGE, .header_bytes = 3},
                          "abc", NULL));
    assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    await(world, is_empty, world);
    assert_int_equal(world->node.ups + world->node.downs + world->node.messages, 0);
}

static void another_wire_version_is_told_ours_and_why(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    assert_true(raw_hello(&peer, HM_WIRE_MAJOR + 7, 0));
    struct hm_frame frame;
    struct hm_hello hello;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    assert_ok(hm_hello_decode(body, frame.header_bytes, &hello));
    assert_int_equal(hello.wire_major, HM_WIRE_MAJOR);
    assert_status(last_words(&peer), HM_ERR_PEER_VERSION);
    raw_close(&peer);
    await(world, is_empty, world);
    assert_int_equal(hm_metrics_value(&world->metrics, "tcp.failures_version"), 1);
}

static void garbage_in_the_hello_is_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_connect(world);
    memset(body, 0xff, 100);
    body[0] = HM_WIRE_MAJOR, body[1] = 0;
    assert_true(raw_frame(&peer, (struct hm_frame){.type = HM_FRAME_HELLO, .header_bytes = 100},
                          body, NULL));
    assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    await(world, is_empty, world);
}

/* Each is sent by a proper peer that is up; `announce` first where it is > 0, and pulled. */
static const struct broken {
    const char *name;
    struct hm_frame frame[3];
    uint64_t announce;
} broken[] = {
    {"a second hello", {{HM_FRAME_HELLO, 40, 0, 1}}, 0},
    {"a pull of nothing", {{HM_FRAME_PULL, 0, 0, 1}}, 0},
    {"a drop of nothing", {{HM_FRAME_DROP, 0, 0, 1}}, 0},
    {"done with nothing", {{HM_FRAME_DONE, 0, 0, 1}}, 0},
    {"data that nobody pulled", {{HM_FRAME_DATA, 0, 10, 1}}, 0},
    {"credit out of thin air", {{HM_FRAME_CREDIT, 0, 0, 1}}, 0},
    {"credit that overflows", {{HM_FRAME_CREDIT, 0, 0, UINT64_MAX}}, 0},
    {"more than was announced", {{HM_FRAME_DATA, 0, 100, 1}, {HM_FRAME_DATA, 0, 401, 1}}, 500},
    {"data after the end", {{HM_FRAME_DATA, 0, 500, 1}, {HM_FRAME_DATA, 0, 1, 1}}, 500},
    {"data of another", {{HM_FRAME_DATA, 0, 500, 2}}, 500},
    {"a pull of its own", {{HM_FRAME_PULL, 0, 0, 1}}, 500},
};

static void every_broken_rule_ends_the_connection_and_it_alone(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    memset(body, 0, sizeof body);
    for (size_t i = 0; i < HM_COUNT_OF(broken); i++) {
        struct raw_peer peer = stranger_up(world);
        unsigned dones = world->node.dones;
        if (broken[i].announce) announce_and_be_pulled(world, &peer, broken[i].announce);
        for (unsigned j = 0; j < 3 && broken[i].frame[j].type; j++)
            assert_true(raw_frame(&peer, broken[i].frame[j], body, body));
        await(world, is_down, &world->node);
        if (world->node.why != HM_ERR_PEER_PROTOCOL || world->node.downs != 1)
            fail_msg("%s: %s", broken[i].name, hm_status_name(world->node.why));
        if (broken[i].announce) assert_int_equal(world->node.dones, dones + 1);
        assert_status(last_words(&peer), HM_ERR_PEER_PROTOCOL);
        raw_close(&peer);
    }
    assert_serves(world);
}

static void more_eager_bytes_than_the_credit_are_a_broken_rule(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .receive_bytes_max = 64 * KIB});
    world->node.hold = true;
    struct raw_peer peer = stranger_up(world);
    memset(body, 7, sizeof body);
    /* One byte costs a page: 16 of them are 64 KiB. */
    for (unsigned i = 0; i < 16; i++)
        assert_true(raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    (void)world_run(world, NULL, NULL, 50 * HM_MS);
    assert_int_equal(world->node.messages, 16);
    assert_int_equal(world->node.downs, 0);
    assert_true(raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    assert_int_equal(world->node.messages, 16);
    /* What came before stays readable. */
    for (unsigned i = 0; i < world->node.held_count; i++)
        assert_int_equal(*(const uint8_t *)world->node.held[i]->data, 7);
    raw_close(&peer);
}

static void credit_comes_back_as_payloads_are_dropped(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node,
              (struct node_conf){.listen = "127.0.0.1:0", .receive_bytes_max = 64 * KIB});
    struct raw_peer peer = stranger_up(world);
    struct hm_frame frame;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    assert_int_equal(frame.value, 64 * KIB);
    uint64_t credit = frame.value;
    for (unsigned i = 0; i < 200; i++) {
        while (credit < 8 * KIB) {
            assert_true(raw_next(&peer, &frame, body));
            assert_int_equal(frame.type, HM_FRAME_CREDIT);
            credit += frame.value;
            assert_true(credit <= 64 * KIB);
        }
        credit -= 8 * KIB;
        assert_true(
            raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 2, 8 * KIB, 0}, "hi", body));
    }
    while (world->node.messages < 200) world_pump(world);
    assert_int_equal(world->node.downs, 0);
    raw_close(&peer);
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_RESET);
}

/* What is cheap to ask can be dear to answer: a turn of the loop is shared in time too. */
static void costly_messages_of_one_peer_do_not_keep_others_waiting(void **state)
{
    enum { COSTLY = 16 };
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer greedy = stranger_up(world), modest = stranger_up(world);
    memset(body, 0, sizeof body);
    world->node.toil = 10 * HM_MS;
    for (unsigned i = 0; i < COSTLY; i++)
        assert_true(
            raw_frame(&greedy, (struct hm_frame){HM_FRAME_MESSAGE, 0, 8 * KIB, 0}, NULL, body));
    assert_true(raw_frame(&modest, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body));
    while (world->node.messages < COSTLY + 1) world_pump(world);
    assert_in_range(world->node.messages_before, 0, COSTLY / 2);
    raw_close(&greedy);
    raw_close(&modest);
}

static void who_announces_and_never_sends_is_let_go_of(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    HM_CONTAINER_OF(world->node.transport, struct tcp, base)->stall_max = 400 * HM_MS;
    struct raw_peer peer = stranger_up(world);
    announce_and_be_pulled(world, &peer, 100);
    /* A slow sender is not meant: each byte counts. */
    struct hm_frame data = {.type = HM_FRAME_DATA, .payload_bytes = 1, .value = 1};
    for (unsigned i = 0; i < 50; i++) {
        assert_true(raw_frame(&peer, data, NULL, body));
        (void)world_run(world, NULL, NULL, 20 * HM_MS);
    }
    assert_int_equal(world->node.downs, 0);
    /* Other messages do not count. */
    for (unsigned i = 0; i < 60 && world->node.downs == 0; i++) {
        (void)raw_frame(&peer, (struct hm_frame){HM_FRAME_MESSAGE, 0, 1, 0}, NULL, body);
        (void)world_run(world, NULL, NULL, 20 * HM_MS);
    }
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    assert_int_equal(world->node.dones, 1);
    assert_status(world->node.done_status, HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
}

static void a_connection_cut_in_a_frame_is_reset(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    announce_and_be_pulled(world, &peer, KIB);
    uint8_t half[HM_FRAME_BYTES + 100] = {0};
    hm_frame_encode(&(struct hm_frame){HM_FRAME_DATA, 0, 500, 1}, half);
    assert_true(raw_write(&peer, half, sizeof half));
    world_pump(world);
    raw_close(&peer);
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_RESET);
    assert_int_equal(world->node.dones, 1);
    assert_status(world->node.done_status, HM_ERR_PEER_RESET);
}

static void what_was_sent_before_disconnect_is_said_before_goodbye(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    for (unsigned i = 0; i < 10; i++)
        assert_ok(hm_transport_tcp.send(world->node.ep, &i, sizeof i, NULL, 0, node_on_done,
                                        &world->node));
    hm_transport_tcp.disconnect(world->node.ep);
    struct hm_frame frame;
    assert_true(raw_next(&peer, &frame, body));
    assert_int_equal(frame.type, HM_FRAME_HELLO);
    for (unsigned i = 0; i < 10; i++) {
        assert_true(raw_next(&peer, &frame, body));
        assert_int_equal(frame.type, HM_FRAME_MESSAGE);
        assert_memory_equal(body, &i, sizeof i);
    }
    assert_status(last_words(&peer), HM_ERR_CANCELED);
    uint8_t byte;
    assert_false(raw_read(&peer, &byte, 1));
    assert_int_equal(world->node.dones, 10);
    assert_status(world->node.done_status, HM_OK);
    assert_int_equal(world->node.downs, 1);
    raw_close(&peer);
}

static void key_updates_are_taken_but_not_without_end(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct raw_peer peer = stranger_up(world);
    const struct hm_frame message = {.type = HM_FRAME_MESSAGE, .header_bytes = 1};
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        assert_true(raw_frame(&peer, message, "k", NULL));
    }
    while (world->node.messages < 5) world_pump(world);
    assert_int_equal(world->node.downs, 0);
    for (unsigned i = 0; i < 200 && SSL_key_update(peer.ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
         i++)
        (void)SSL_do_handshake(peer.ssl); /* the update, and nothing else */
    await(world, is_down, &world->node);
    assert_status(world->node.why, HM_ERR_PEER_PROTOCOL);
    raw_close(&peer);
    assert_serves(world);
}

static void random_bytes_after_the_handshake_end_the_connection_and_it_alone(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_rng rng;
    hm_rng_init(&rng, 7, 0);
    for (unsigned i = 0; i < 40; i++) {
        struct raw_peer peer = i % 2 ? stranger_up(world) : stranger_connect(world);
        for (size_t j = 0; j < 4096; j++) body[j] = (uint8_t)hm_rng_next(&rng);
        (void)raw_write(&peer, body, 4096);
        (void)last_words(&peer);
        raw_close(&peer);
    }
    await(world, is_empty, world);
    assert_serves(world);
}

/* Streams of frames that could be meant, with a bit wrong here and there. */
static void mutated_frames_crash_nothing(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_rng rng;
    hm_rng_init(&rng, 11, 0);
    for (unsigned i = 0; i < 60; i++) {
        struct raw_peer peer = stranger_up(world);
        world->node.hold = i % 2;
        size_t bytes = 0;
        for (unsigned j = 0; j < 12; j++) {
            static const struct hm_frame shape[] = {
                {HM_FRAME_MESSAGE, 9, 0, 0},     {HM_FRAME_MESSAGE, 100, 5000, 0},
                {HM_FRAME_ANNOUNCE, 30, 0, 777}, {HM_FRAME_PULL, 0, 0, 1},
                {HM_FRAME_DATA, 0, 300, 1},      {HM_FRAME_CREDIT, 0, 0, 4096},
            };
            /* Most of the proper ones first, so that the wrong ones meet a connection in use. */
            const struct hm_frame *frame = &shape[hm_rng_below(&rng, j < 9 ? 3 : 6)];
            hm_frame_encode(frame, body + bytes);
            bytes += HM_FRAME_BYTES + frame->header_bytes + frame->payload_bytes;
        }
        for (unsigned j = 0; j < 3; j++)
            body[hm_rng_below(&rng, bytes)] ^= (uint8_t)(1u << hm_rng_below(&rng, 8));
        (void)raw_write(&peer, body, bytes);
        (void)world_run(world, NULL, NULL, 2 * HM_MS);
        /* Some are pulled, from a peer that will not send them. */
        while (world->node.held_count > 0) {
            static uint8_t into[64 * KIB];
            struct hm_inbound *in = world->node.held[--world->node.held_count];
            struct hm_span span = {.base = into, .bytes = sizeof into};
            if (in->bytes > sizeof into || world->node.held_count % 2)
                hm_inbound_drop(in);
            else
                (void)!hm_inbound_pull(in, &span, node_on_done, &world->node);
        }
        world_pump(world);
        raw_close(&peer);
        await(world, is_down, &world->node);
    }
    await(world, is_empty, world);
    assert_serves(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_first_frame_that_is_no_hello_is_a_broken_rule),
        CASE(another_wire_version_is_told_ours_and_why),
        CASE(garbage_in_the_hello_is_a_broken_rule),
        CASE(every_broken_rule_ends_the_connection_and_it_alone),
        CASE(more_eager_bytes_than_the_credit_are_a_broken_rule),
        CASE(credit_comes_back_as_payloads_are_dropped),
        CASE(costly_messages_of_one_peer_do_not_keep_others_waiting),
        CASE(who_announces_and_never_sends_is_let_go_of),
        CASE(a_connection_cut_in_a_frame_is_reset),
        CASE(what_was_sent_before_disconnect_is_said_before_goodbye),
        CASE(key_updates_are_taken_but_not_without_end),
        CASE(random_bytes_after_the_handshake_end_the_connection_and_it_alone),
        CASE(mutated_frames_crash_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
