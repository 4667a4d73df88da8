/* The end: disconnect, close, death and standstill, with work in flight. */
#include "support_suite.h"

static size_t work_size(struct node *node, unsigned number)
{
    return number % 3 ? node->caps.eager_bytes_max + number * 997 : number * 10 % 4000;
}

/* Both nodes hold what they get, have sent what BUSY allows, and pull half of what they hold. */
static void work_begin(struct suite *suite, struct node *a, struct node *b, struct end **at_a,
                       struct end **at_b)
{
    nodes_connect(a, b, at_a, at_b);
    end_pump(*at_a, 0, 100, work_size);
    end_pump(*at_b, 0, 100, work_size);
    suite_let_pass(suite, 20 * HM_MS);
    for (unsigned i = 0; i < a->held_count; i += 2) assert_ok(end_pull(&a->held[i]));
    for (unsigned i = 0; i < b->held_count; i += 2) assert_ok(end_pull(&b->held[i]));
    assert_true(a->ops_open > 0 && b->ops_open > 0);
}

static void disconnect_with_work_in_flight_ends_each_send_and_pull_once_then_down(void **state)
{
    struct suite *suite = *state;
    struct node_conf conf = {.take = TAKE_HOLD};
    struct node *a = node_open(suite, &conf), *b = node_open(suite, &conf);
    struct end *at_a, *at_b;
    work_begin(suite, a, b, &at_a, &at_b);
    end_disconnect(at_a);
    end_disconnect(at_a); /* idempotent */
    assert_int_equal(at_a->downs, 0);
    assert_status(end_send(at_a, 1000, 10, 1), HM_ERR_PEER_UNREACHABLE);
    await(suite, end_is_down, at_a);
    assert_status(at_a->why, HM_ERR_CANCELED);
    assert_int_equal(a->ops_open, 0);
    await(suite, end_is_down, at_b);
    assert_status(at_b->why, HM_ERR_PEER_RESET);
    assert_int_equal(b->ops_open, 0);
    /* What is still held must be dropped, now as well as before. */
    node_take_held(a, TAKE_DROP);
    node_take_held(b, TAKE_DROP);
    suite_finish(suite);
}

static void both_sides_may_disconnect_at_once(void **state)
{
    struct suite *suite = *state;
    struct node_conf conf = {.take = TAKE_HOLD};
    struct node *a = node_open(suite, &conf), *b = node_open(suite, &conf);
    struct end *at_a, *at_b;
    work_begin(suite, a, b, &at_a, &at_b);
    end_disconnect(at_a);
    end_disconnect(at_b);
    await(suite, end_is_down, at_a);
    await(suite, end_is_down, at_b);
    assert_status(at_a->why, HM_ERR_CANCELED);
    assert_status(at_b->why, HM_ERR_CANCELED);
    suite_finish(suite);
}

static void disconnect_before_up_is_down_and_never_up(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *end = node_connect(a, &addr, NULL);
    end_disconnect(end);
    assert_int_equal(end->downs, 0);
    await(suite, end_is_down, end);
    assert_int_equal(end->ups, 0);
    assert_status(end->why, HM_ERR_CANCELED);
    suite_finish(suite);
}

static void disconnect_in_message(struct node *node, struct end *end, const void *header,
                                  size_t bytes, struct hm_inbound *in)
{
    (void)node;
    (void)header;
    (void)bytes;
    end_disconnect(end);
    claim(node->suite, end->downs == 0);
    hm_inbound_drop(in);
}

static void disconnect_inside_a_callback_is_down_in_a_later_turn(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    b->on_message = disconnect_in_message;
    while (end_send(at_a, 1, 100, 1) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    await(suite, end_is_down, at_b);
    assert_status(at_b->why, HM_ERR_CANCELED);
    await(suite, end_is_down, at_a);
    assert_status(at_a->why, HM_ERR_PEER_RESET);
    suite_finish(suite);
}

static void close_with_work_in_flight_ends_everything_then_is_done(void **state)
{
    struct suite *suite = *state;
    struct node_conf conf = {.take = TAKE_HOLD};
    struct node *a = node_open(suite, &conf), *b = node_open(suite, &conf);
    struct end *a1, *b1, *a2, *b2;
    work_begin(suite, a, b, &a1, &b1);
    nodes_connect(a, b, &a2, &b2);
    struct hm_addr addr;
    node_addr(b, &addr);
    struct end *dialling = node_connect(a, &addr, NULL);
    node_close_begin(a);
    assert_false(a->closed);
    assert_int_equal(a1->downs + a2->downs + dialling->downs, 0);
    await(suite, node_ends_down, a);
    suite_let_pass(suite, 10 * HM_MS);
    node_take_held(a, TAKE_DROP); /* it may wait for that, or be closed by now */
    await(suite, node_is_closed, a);
    assert_status(a1->why, HM_ERR_CANCELED);
    assert_status(a2->why, HM_ERR_CANCELED);
    assert_status(dialling->why, HM_ERR_CANCELED);
    await(suite, end_is_down, b1);
    await(suite, end_is_down, b2);
    assert_status(b1->why, HM_ERR_PEER_RESET);
    suite_finish(suite);
}

static void a_node_can_be_closed_when_nothing_has_happened(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    node_close_begin(a);
    assert_false(a->closed);
    await(suite, node_is_closed, a);
    suite_finish(suite);
}

static bool holds_some(void *arg)
{
    struct node *node = arg;
    return node->held_count >= 8;
}

/* Sends and pulls of ours in flight to a puppet that hoards; it stands still when this returns. */
static struct end *puppet_engage(struct suite *suite, struct node *a, struct puppet *puppet)
{
    puppet->role = PUPPET_HOARDS;
    suite->provider->puppet_start(suite, puppet);
    struct end *end = node_connect(a, &puppet->addr, &puppet->id);
    await(suite, end_is_up, end);
    await(suite, holds_some, a);
    end_pump(end, 0, 100, work_size);
    suite_let_pass(suite, 50 * HM_MS);
    suite->provider->puppet_pause(suite, puppet, true);
    for (unsigned i = 0; i < a->held_count; i++) assert_ok(end_pull(&a->held[i]));
    assert_true(a->ops_open >= 8);
    return end;
}

static void a_killed_peer_ends_each_send_and_pull_once_then_down(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct puppet puppet = {0};
    struct end *end = puppet_engage(suite, a, &puppet);
    unsigned in_flight = a->ops_open;
    suite->provider->puppet_kill(suite, &puppet);
    await(suite, end_is_down, end);
    assert_status(end->why, HM_ERR_PEER_RESET);
    assert_int_equal(a->ops_open, 0);
    assert_true(a->sends_failed > 0 && a->pulls_failed > 0);
    assert_true(a->sends_failed + a->pulls_failed <= in_flight);
    suite_finish(suite);
}

static void a_stopped_peer_delays_and_is_not_down(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct node *other = node_open(suite, NULL);
    struct puppet puppet = {0};
    struct end *end = puppet_engage(suite, a, &puppet), *at_a, *at_other;
    unsigned asked = a->verified + a->held_count, verified;
    do { /* until what was under way has come */
        verified = a->verified;
        suite_let_pass(suite, 500 * HM_MS);
    } while (a->verified != verified);
    assert_int_equal(end->downs, 0); /* deadlines are the caller's */
    assert_true(a->ops_open > 0 && verified < asked);
    /* Others are not disturbed. */
    nodes_connect(a, other, &at_a, &at_other);
    unsigned count = 200;
    other->arg = &count;
    end_pump(at_a, 200, 200 + count, work_size);
    await(suite, node_has_verified, other);
    suite->provider->puppet_pause(suite, &puppet, false);
    unsigned more = verified + 1;
    a->arg = &more;
    await(suite, node_has_verified, a); /* it goes on where it stood */
    assert_int_equal(end->downs, 0);
    end_disconnect(end);
    await(suite, end_is_down, end);
    suite->provider->puppet_kill(suite, &puppet);
    suite_finish(suite);
}

static void a_stopped_peer_can_be_left(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct puppet puppet = {0};
    struct end *end = puppet_engage(suite, a, &puppet);
    end_disconnect(end);
    await(suite, end_is_down, end);
    assert_status(end->why, HM_ERR_CANCELED);
    assert_int_equal(a->ops_open, 0);
    suite->provider->puppet_kill(suite, &puppet);
    suite_finish(suite);
}

static void an_inbound_outlives_its_endpoint_until_it_is_dropped(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned some = 6;
    b->arg = &some;
    end_pump(at_a, 0, some, work_size);
    await(suite, node_has_messages, b);
    end_disconnect(at_a);
    await(suite, end_is_down, at_b);
    suite_let_pass(suite, 10 * HM_MS);
    /* A pull is too late, or still possible for what has come with the message; it never calls back
     * after down. */
    unsigned done = b->verified + b->pulls_failed;
    for (unsigned i = 0; i < b->held_count; i++) {
        struct hm_inbound *in = b->held[i].in;
        bool eager = in->data || in->bytes == 0;
        if (i % 2 == 0 || eager) continue;
        assert_status(end_pull(&b->held[i]), HM_ERR_PEER_UNREACHABLE);
    }
    node_take_held(b, TAKE_DROP);
    suite_let_pass(suite, 10 * HM_MS);
    assert_int_equal(b->verified + b->pulls_failed, done);
    suite_finish(suite);
}

const struct CMUnitTest suite_cases_end[] = {
    cmocka_unit_test(disconnect_with_work_in_flight_ends_each_send_and_pull_once_then_down),
    cmocka_unit_test(both_sides_may_disconnect_at_once),
    cmocka_unit_test(disconnect_before_up_is_down_and_never_up),
    cmocka_unit_test(disconnect_inside_a_callback_is_down_in_a_later_turn),
    cmocka_unit_test(close_with_work_in_flight_ends_everything_then_is_done),
    cmocka_unit_test(a_node_can_be_closed_when_nothing_has_happened),
    cmocka_unit_test(a_killed_peer_ends_each_send_and_pull_once_then_down),
    cmocka_unit_test(a_stopped_peer_delays_and_is_not_down),
    cmocka_unit_test(a_stopped_peer_can_be_left),
    cmocka_unit_test(an_inbound_outlives_its_endpoint_until_it_is_dropped),
};
const size_t suite_cases_end_count = HM_COUNT_OF(suite_cases_end);
