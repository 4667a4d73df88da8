/* tests/unit/transport/test_tcp.c - where a node listens, what it dials, and whom it takes the other
 * side for: addresses, names, proofs of a fabric's key. */
#include "support_tcp.h"

#include "raw_tls.h"

#include <stdio.h>

/* ---- listening ------------------------------------------------------------------------------- */

static void a_port_in_use_is_a_line_that_says_so(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    struct hm_addr addr = node_addr(&world->node);
    char listen[64];
    (void)snprintf(listen, sizeof listen, "127.0.0.1:%u", (unsigned)raw_port(&addr));
    assert_ok(hm_identity_create(NULL, &world->other.identity));
    unsigned before = descriptors();
    assert_status(node_try(world, &world->other, (struct node_conf){.listen = listen}),
                  HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "in use"));
    assert_non_null(strstr(hm_fail_line(), listen));
    assert_int_equal(descriptors(), before);
}

static void an_address_that_is_not_ours_is_refused(void **state)
{
    struct world *world = *state;
    static const char *const bad[] = {"192.0.2.1:0", "example.org:80", "127.0.0.1", "[::1", ""};
    assert_ok(hm_identity_create(NULL, &world->node.identity));
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        hm_fail_clear();
        assert_status(node_try(world, &world->node, (struct node_conf){.listen = bad[i]}),
                      HM_ERR_INVALID);
        assert_true(hm_fail_line()[0]);
    }
}

static void dial_and_expect_up(struct world *world, const char *text)
{
    struct hm_addr addr = {0};
    struct hm_ep *ep;
    (void)snprintf(addr.text, sizeof addr.text, "%s", text);
    world->other.ups = world->other.downs = 0;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, is_up, &world->other);
    hm_transport_tcp.disconnect(ep);
    await(world, is_down, &world->other);
}

static bool have_ipv6(void)
{
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool have = fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0;
    if (fd >= 0) close(fd);
    return have;
}

static void ipv6_addresses_listen_and_dial(void **state)
{
    struct world *world = *state;
    if (!have_ipv6()) {
        print_message("no IPv6 loopback on this machine\n");
        skip();
    }
    node_open(world, &world->node, (struct node_conf){.listen = "[::1]:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    assert_memory_equal(addr.text, "tcp:[::1]:", 10);
    dial_and_expect_up(world, addr.text);
}

static void every_interface_takes_both_families_and_tells_real_addresses(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = ":0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addrs addrs;
    assert_ok(hm_transport_tcp.address(world->node.transport, &addrs));
    assert_in_range(addrs.count, 1, HM_ADDRS_MAX);
    for (unsigned i = 0; i < addrs.count; i++) {
        assert_null(strstr(addrs.addr[i].text, "0.0.0.0"));
        assert_null(strstr(addrs.addr[i].text, "[::]"));
    }
    char text[64];
    (void)snprintf(text, sizeof text, "tcp:127.0.0.1:%u", (unsigned)raw_port(&addrs.addr[0]));
    dial_and_expect_up(world, text);
    if (!have_ipv6()) return;
    (void)snprintf(text, sizeof text, "tcp:[::1]:%u", (unsigned)raw_port(&addrs.addr[0]));
    dial_and_expect_up(world, text);
}

static void a_name_is_looked_up_and_its_addresses_tried_in_turn(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "localhost:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    char text[64];
    (void)snprintf(text, sizeof text, "tcp:localhost:%u", (unsigned)raw_port(&addr));
    dial_and_expect_up(world, text);
}

static void a_name_that_nobody_knows_is_unreachable(void **state)
{
    struct world *world = *state;
    node_open(world, &world->other, (struct node_conf){.handshake_max = 2 * HM_S});
    struct hm_addr addr = {.text = "tcp:no-such-host.invalid:4242"};
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, is_down, &world->other);
    assert_status(world->other.why, HM_ERR_PEER_UNREACHABLE);
    assert_int_equal(world->other.ups, 0);
}

static void closing_while_a_name_is_looked_up_is_clean(void **state)
{
    struct world *world = *state;
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = {.text = "tcp:localhost:1"};
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    node_close(world, &world->other);
    assert_int_equal(world->other.downs, 1);
    assert_status(world->other.why, HM_ERR_CANCELED);
}

/* ---- proofs of a fabric's key ---------------------------------------------------------------- */

static bool both_up(void *arg)
{
    struct world *world = arg;
    return world->node.ups == 1 && world->other.ups == 1;
}

static void meet(struct world *world, const uint8_t *key, const uint8_t *others_key)
{
    struct hm_ep *ep;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0", .fabric_key = key});
    node_open(world, &world->other, (struct node_conf){.fabric_key = others_key});
    struct hm_addr addr = node_addr(&world->node);
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, both_up, world);
}

static void nodes_with_one_fabric_key_prove_it_to_each_other(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {7};
    meet(world, key, key);
    assert_true(world->node.proved && world->other.proved);
}

static void another_fabric_key_proves_nothing_and_is_no_reason_to_part(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {7}, other[HM_FABRIC_KEY_BYTES] = {8};
    meet(world, key, other);
    assert_true(world->node.proof_came && world->other.proof_came);
    assert_false(world->node.proved || world->other.proved);
    assert_int_equal(world->node.downs + world->other.downs, 0);
}

static void without_a_key_no_proof_is_said_and_none_is_believed(void **state)
{
    struct world *world = *state;
    static const uint8_t key[HM_FABRIC_KEY_BYTES] = {0}; /* zeros are a key as any other */
    meet(world, key, NULL);
    assert_false(world->node.proof_came || world->node.proved);
    assert_true(world->other.proof_came);
    assert_false(world->other.proved);
}

static void an_answerer_that_is_not_the_expected_node_sees_no_hello(void **state)
{
    struct world *world = *state;
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr,
                                       hm_identity_node(world->stranger), &ep));
    await(world, is_down, &world->other);
    assert_status(world->other.why, HM_ERR_PEER_DENIED);
    await(world, is_empty, world);
    assert_int_equal(world->other.ups + world->node.ups + world->node.downs, 0);
}

static bool holds_one(void *node)
{
    return ((struct node *)node)->held_count == 1;
}

static bool has_pulled(void *node)
{
    return ((struct node *)node)->dones > 0;
}

/* TLS copies once on each side; more would be a third copy of a row on its hop. */
static void a_large_payload_goes_between_its_places_and_tls_without_a_copy(void **state)
{
    enum { BYTES = 8 << 20, ENDS = 16 * KIB };
    static uint8_t from[BYTES], to[BYTES];
    struct world *world = *state;
    for (size_t i = 0; i < BYTES; i++) from[i] = (uint8_t)(i * 2654435761u >> 24);
    memset(to, 0, sizeof to);
    node_open(world, &world->node, (struct node_conf){.listen = "127.0.0.1:0"});
    node_open(world, &world->other, (struct node_conf){0});
    struct hm_addr addr = node_addr(&world->node);
    struct hm_ep *ep;
    assert_ok(hm_transport_tcp.connect(world->other.transport, &addr, NULL, &ep));
    await(world, is_up, &world->other);
    await(world, is_up, &world->node);
    world->node.hold = true;
    const struct hm_span sent = {.base = from, .bytes = BYTES}, got = {.base = to, .bytes = BYTES};
    assert_ok(hm_transport_tcp.send(ep, "x", 1, &sent, 1, node_on_done, &world->other));
    await(world, holds_one, &world->node);
    uint64_t copied = hm_metrics_value(&world->metrics, "tcp.bytes_copied");
    assert_ok(hm_inbound_pull(world->node.held[--world->node.held_count], &got, node_on_done,
                              &world->node));
    await(world, has_pulled, &world->node);
    await(world, has_pulled, &world->other);
    assert_memory_equal(from, to, BYTES);
    assert_true(hm_metrics_value(&world->metrics, "tcp.bytes_copied") - copied <= ENDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_port_in_use_is_a_line_that_says_so),
        CASE(an_address_that_is_not_ours_is_refused),
        CASE(ipv6_addresses_listen_and_dial),
        CASE(every_interface_takes_both_families_and_tells_real_addresses),
        CASE(a_name_is_looked_up_and_its_addresses_tried_in_turn),
        CASE(a_name_that_nobody_knows_is_unreachable),
        CASE(closing_while_a_name_is_looked_up_is_clean),
        CASE(nodes_with_one_fabric_key_prove_it_to_each_other),
        CASE(another_fabric_key_proves_nothing_and_is_no_reason_to_part),
        CASE(without_a_key_no_proof_is_said_and_none_is_believed),
        CASE(an_answerer_that_is_not_the_expected_node_sees_no_hello),
        CASE(a_large_payload_goes_between_its_places_and_tls_without_a_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
