/* Coming up: addresses, hellos, who is let in. */
#include "support_suite.h"

static void a_node_has_an_address_if_and_only_if_it_listens(void **state)
{
    struct suite *suite = *state;
    struct node *listener = node_open(suite, NULL);
    struct node *dialler = node_open(suite, &(struct node_conf){.dials_only = true});
    struct hm_addrs addrs;
    const struct hm_transport_ops *ops = suite->provider->ops;
    assert_ok(ops->address(listener->transport, &addrs));
    assert_in_range(addrs.count, 1, HM_ADDRS_MAX);
    size_t prefix = strlen(ops->name);
    for (unsigned i = 0; i < addrs.count; i++) {
        assert_memory_equal(addrs.addr[i].text, ops->name, prefix);
        assert_int_equal(addrs.addr[i].text[prefix], ':');
    }
    assert_status(ops->address(dialler->transport, &addrs), HM_ERR_NOT_FOUND);
    assert_true(listener->caps.memory[HM_MEM_HOST]);
    assert_true(listener->caps.eager_bytes_max > 0);
    suite_finish(suite);
}

static void both_sides_come_up_once_and_know_each_other(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.dials_only = true, .swarm = "bees"});
    struct node *b = node_open(suite, &(struct node_conf){.swarm = "bees"});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    assert_memory_equal(&at_a->id, node_id(b), sizeof at_a->id);
    assert_memory_equal(&at_b->id, node_id(a), sizeof at_b->id);
    assert_int_equal(at_a->hello.wire_major, HM_WIRE_MAJOR);
    assert_int_equal(at_b->hello.wire_minor, HM_WIRE_MINOR);
    assert_string_equal(at_a->hello.swarm, "bees");
    /* The listener tells where it can be dialled; who dials out only, nothing. */
    struct hm_addr addr;
    node_addr(b, &addr);
    assert_true(at_a->hello.listening.count >= 1);
    assert_string_equal(at_a->hello.listening.addr[0].text, addr.text);
    assert_int_equal(at_b->hello.listening.count, 0);
    suite_finish(suite);
}

static void whoever_answers_will_do_if_nobody_is_expected(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *end = node_connect(a, &addr, NULL);
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 1);
    assert_memory_equal(&end->id, node_id(b), sizeof end->id);
    suite_finish(suite);
}

static void nothing_can_be_sent_before_up(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *end = node_connect(a, &addr, NULL);
    assert_status(end_send(end, 1, 10, 1), HM_ERR_PEER_UNREACHABLE);
    await(suite, end_is_up, end);
    suite_finish(suite);
}

static void two_connections_between_the_same_nodes_both_work(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *a1, *b1, *b2, *a2;
    nodes_connect(a, b, &a1, &b1);
    nodes_connect(b, a, &b2, &a2);
    unsigned messages = 1;
    a->arg = b->arg = &messages;
    while (end_send(a1, 1, 100, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    while (end_send(b2, 2, 100, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    await(suite, node_has_messages, a);
    await(suite, node_has_messages, b);
    end_disconnect(a1);
    await(suite, end_is_down, b1);
    assert_int_equal(b2->downs, 0);
    messages = 2;
    while (end_send(a2, 3, 100, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    await(suite, node_has_messages, b);
    suite_finish(suite);
}

static void nobody_there_is_unreachable(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *gone = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(gone, &addr);
    node_close(gone);
    struct end *end = node_connect(a, &addr, NULL);
    assert_int_equal(end->downs, 0); /* never inside connect */
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 0);
    assert_status(end->why, HM_ERR_PEER_UNREACHABLE);
    suite_finish(suite);
}

static void who_never_says_a_word_is_given_up(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.handshake_max = 300 * HM_MS});
    struct hm_addr addr;
    suite->provider->silent_addr(suite, &addr);
    struct end *end = node_connect(a, &addr, NULL);
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 0);
    assert_int_equal(hm_status_scope(end->why), HM_SCOPE_PEER);
    suite_finish(suite);
}

static void another_node_than_expected_is_denied_and_never_up(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct hm_node_id other = *node_id(b);
    other.byte[31] ^= 1;
    struct end *end = node_connect(a, &addr, &other);
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 0);
    assert_status(end->why, HM_ERR_PEER_DENIED);
    suite_finish(suite);
}

static void another_wire_version_is_never_up(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.wire_major = HM_WIRE_MAJOR + 1});
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *end = node_connect(a, &addr, node_id(b));
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 0);
    assert_status(end->why, HM_ERR_PEER_VERSION);
    suite_let_pass(suite, 100 * HM_MS);
    suite_finish(suite);
}

static void swarms_do_not_mix_and_no_name_fits_all(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.swarm = "bees"});
    struct node *b = node_open(suite, &(struct node_conf){.swarm = "wasps"});
    struct node *c = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *end = node_connect(a, &addr, node_id(b)), *at_a, *at_c;
    await(suite, end_is_settled, end);
    assert_int_equal(end->ups, 0);
    assert_status(end->why, HM_ERR_PEER_DENIED);
    nodes_connect(a, c, &at_a, &at_c);
    assert_string_equal(at_a->hello.swarm, "");
    suite_finish(suite);
}

static void a_full_node_lets_nobody_in_and_keeps_those_it_has(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.endpoints_max = 2});
    struct end *at_a[2], *at_b[2];
    for (int i = 0; i < 2; i++) nodes_connect(a, b, &at_a[i], &at_b[i]);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *third = node_connect(a, &addr, NULL);
    await(suite, end_is_down, third);
    assert_int_equal(b->end_count, 2);
    struct hm_ep *ep = NULL;
    node_addr(a, &addr);
    assert_status(suite->provider->ops->connect(b->transport, &addr, NULL, &ep), HM_ERR_BUSY);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(at_a[i]->downs + at_b[i]->downs, 0);
        assert_int_not_equal(end_ping(at_a[i]), HM_ERR_PEER_UNREACHABLE);
    }
    suite_finish(suite);
}

static void an_address_that_does_not_parse_is_refused_at_once(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    static const char *const bad[] = {"",           "nonsense", "ucx:7",
                                      "sim:",       "tcp:",     "sim:x",
                                      "tcp:[::1:7", "sim:7x",   "tcp:127.0.0.1:99999"};
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_addr addr = {0};
        struct hm_ep *ep = NULL;
        snprintf(addr.text, sizeof addr.text, "%s", bad[i]);
        assert_status(suite->provider->ops->connect(a->transport, &addr, NULL, &ep),
                      HM_ERR_INVALID);
        assert_null(ep);
        assert_true(hm_fail_line()[0]);
    }
    suite_finish(suite);
}

static bool flooder_is_gone(void *arg)
{
    struct node *node = arg;
    return node->end_count == 1 && node->end[0].downs == 1;
}

static void who_announces_without_end_goes_down(void **state)
{
    struct suite *suite = *state;
    if (!suite->provider->announce_flood) skip();
    struct node *victim = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    assert_true(suite->provider->announce_flood(suite, victim));
    await(suite, flooder_is_gone, victim);
    assert_status(victim->end[0].why, HM_ERR_PEER_PROTOCOL);
    assert_true(victim->held_count < HELD_MAX);
    /* It serves on. */
    struct node *a = node_open(suite, NULL);
    struct end *at_a, *at_victim;
    nodes_connect(a, victim, &at_a, &at_victim);
    suite_finish(suite);
}

const struct CMUnitTest suite_cases_link[] = {
    cmocka_unit_test(a_node_has_an_address_if_and_only_if_it_listens),
    cmocka_unit_test(both_sides_come_up_once_and_know_each_other),
    cmocka_unit_test(whoever_answers_will_do_if_nobody_is_expected),
    cmocka_unit_test(nothing_can_be_sent_before_up),
    cmocka_unit_test(two_connections_between_the_same_nodes_both_work),
    cmocka_unit_test(nobody_there_is_unreachable),
    cmocka_unit_test(who_never_says_a_word_is_given_up),
    cmocka_unit_test(another_node_than_expected_is_denied_and_never_up),
    cmocka_unit_test(another_wire_version_is_never_up),
    cmocka_unit_test(swarms_do_not_mix_and_no_name_fits_all),
    cmocka_unit_test(a_full_node_lets_nobody_in_and_keeps_those_it_has),
    cmocka_unit_test(an_address_that_does_not_parse_is_refused_at_once),
    cmocka_unit_test(who_announces_without_end_goes_down),
};
const size_t suite_cases_link_count = HM_COUNT_OF(suite_cases_link);
