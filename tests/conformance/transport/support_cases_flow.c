/* Flow: back-pressure, credit, and what must not wait for what. */
#include "support_suite.h"

enum { PINGS = 101 };

static bool has_ponged(void *arg)
{
    struct end *end = arg;
    return end->pongs > 0 || end->downs > 0;
}

static hm_ns ping_once(struct suite *suite, struct end *end)
{
    end->pongs = 0;
    enum hm_status status;
    while ((status = end_ping(end)) == HM_ERR_BUSY) suite_let_pass(suite, HM_MS);
    assert_ok(status);
    /* A pong that met BUSY is not sent at all: ask again. */
    while (!has_ponged(end)) {
        suite_let_pass(suite, HM_MS);
        for (int waits = 0; waits < 400 && !has_ponged(end); waits++) suite_let_pass(suite, HM_MS);
        if (!has_ponged(end)) (void)!end_ping(end);
    }
    assert_int_equal(end->downs, 0);
    return end->round_trip;
}

static int by_time(const void *a, const void *b)
{
    hm_ns x = *(const hm_ns *)a, y = *(const hm_ns *)b;
    return x < y ? -1 : x > y;
}

static hm_ns ping_median(struct suite *suite, struct end *end)
{
    hm_ns sample[PINGS];
    for (int i = 0; i < PINGS; i++) sample[i] = ping_once(suite, end);
    qsort(sample, PINGS, sizeof sample[0], by_time);
    return sample[PINGS / 2];
}

static size_t bulk_size(struct node *node, unsigned number)
{
    (void)number;
    return node->suite->provider->bulk_bytes;
}

/* The bound is the design's own: 10 ms.  Medians of 101, before and during, in the same run. */
static void a_very_large_payload_that_nobody_pulls_delays_no_ping(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    hm_ns before = ping_median(suite, at_a);
    unsigned one = 1;
    b->arg = &one;
    end_pump(at_a, 0, 1, bulk_size);
    await(suite, node_has_messages, b);
    hm_ns during = ping_median(suite, at_a), back = ping_median(suite, at_b);
    print_message("ping median: %.3f ms before, %.3f ms during, %.3f ms the other way\n",
                  (double)before / 1e6, (double)during / 1e6, (double)back / 1e6);
    assert_true(during < before + 10 * HM_MS);
    assert_true(back < before + 10 * HM_MS);
    assert_int_equal(a->ops_open, 1);
    node_take_held(b, TAKE_DROP);
    await(suite, node_ops_done, a);
    assert_int_equal(a->sends_canceled, 1);
    suite_finish(suite);
}

static void pings_overtake_a_very_large_payload_that_is_pulled(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned one = 1;
    b->arg = &one;
    end_pump(at_a, 0, 1, bulk_size);
    await(suite, node_has_messages, b);
    node_take_held(b, TAKE_PULL);
    unsigned overtaken = 0;
    while (b->verified == 0) {
        (void)ping_once(suite, at_a);
        if (b->verified == 0) overtaken++;
    }
    assert_true(overtaken > 0 || suite->provider->bulk_bytes < 32 * MIB);
    await(suite, node_ops_done, a);
    suite_finish(suite);
}

static size_t page_size(struct node *node, unsigned number)
{
    (void)node;
    (void)number;
    return 4000;
}

static bool has_met_busy(void *arg)
{
    struct end *end = arg;
    return end->busy > 0;
}

/* Not of the spurious kind: nothing has come through for a while. */
static unsigned messages_at_rest(struct suite *suite, struct node *receiver)
{
    unsigned before;
    do {
        before = receiver->messages;
        suite_let_pass(suite, 200 * HM_MS);
    } while (receiver->messages != before);
    return before;
}

static void back_pressure_is_busy_and_then_writable(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b =
        node_open(suite, &(struct node_conf){.take = TAKE_HOLD, .receive_bytes_max = 256 * KIB});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned all = 20000; /* 80 MB: more than anything may queue for one peer */
    b->arg = &all;
    end_pump(at_a, 0, all, page_size);
    await(suite, has_met_busy, at_a);
    unsigned stopped_at = messages_at_rest(suite, b);
    assert_true(stopped_at < all && at_a->next < all);
    /* The receiver's credit bounds what it holds. */
    assert_true((size_t)stopped_at * 4000 <= 256 * KIB);
    unsigned writables = at_a->writables;
    b->take = TAKE_DROP;
    node_take_held(b, TAKE_DROP);
    await(suite, node_has_messages, b);
    await(suite, node_ops_done, a);
    assert_true(at_a->writables > writables);
    assert_int_equal(a->sends_ok, all);
    suite_finish(suite);
}

static void who_holds_everything_starves_himself_alone(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *c = node_open(suite, NULL);
    struct node *b =
        node_open(suite, &(struct node_conf){.take = TAKE_HOLD, .receive_bytes_max = 256 * KIB});
    struct end *ab, *ba, *ac, *ca, *cb, *bc;
    nodes_connect(a, b, &ab, &ba);
    nodes_connect(a, c, &ac, &ca);
    nodes_connect(c, b, &cb, &bc);
    end_pump(ab, 0, 20000, page_size);
    await(suite, has_met_busy, ab);
    unsigned held = messages_at_rest(suite, b);
    /* The same link the other way, another link of the sender's, and another link of the
     * receiver's. */
    unsigned count = 500, from_c = held + 10;
    a->arg = c->arg = &count;
    end_pump(ba, 0, count, page_size);
    end_pump(ac, 0, count, page_size);
    await(suite, node_has_verified, a);
    await(suite, node_has_verified, c);
    b->arg = &from_c;
    end_pump(cb, 40000, 40010, page_size);
    await(suite, node_has_messages, b);
    /* What needs no credit still passes. */
    (void)ping_once(suite, ab);
    suite_finish(suite);
}

static size_t mixed_size(struct node *node, unsigned number)
{
    static const size_t part[] = {0, 300, 4000, 20 * KIB, 300 * KIB};
    size_t size = part[number % HM_COUNT_OF(part)];
    return size > node->caps.eager_bytes_max && number % 2 ? node->caps.eager_bytes_max : size;
}

static void two_sides_out_of_buffers_make_progress(void **state)
{
    struct suite *suite = *state;
    /* Little credit, little to buffer in, and both flood before either takes anything. */
    struct node_conf conf = {
        .take = TAKE_HOLD, .receive_bytes_max = 64 * KIB, .buffer_bytes_max = 2 * MIB};
    struct node *a = node_open(suite, &conf), *b = node_open(suite, &conf);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 2000;
    a->arg = b->arg = &count;
    end_pump(at_a, 0, count, mixed_size);
    end_pump(at_b, 0, count, mixed_size);
    await(suite, has_met_busy, at_a);
    await(suite, has_met_busy, at_b);
    (void)messages_at_rest(suite, a);
    (void)messages_at_rest(suite, b);
    a->take = b->take = TAKE_PULL;
    node_take_held(a, TAKE_PULL);
    node_take_held(b, TAKE_PULL);
    await(suite, node_has_verified, a);
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    await(suite, node_ops_done, b);
    assert_int_equal(a->sends_ok + b->sends_ok, 2 * count);
    suite_finish(suite);
}

static size_t large_size(struct node *node, unsigned number)
{
    (void)number;
    return node->caps.eager_bytes_max + 1;
}

static void announcements_are_bounded_and_small_messages_pass_them(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned all = 20000;
    b->arg = &all;
    end_pump(at_a, 0, all, large_size);
    await(suite, has_met_busy, at_a);
    unsigned held = messages_at_rest(suite, b);
    assert_true(held > 0 && held < all);
    (void)ping_once(suite, at_a);
    /* One pulled makes room for another. */
    unsigned more = held + 1;
    b->arg = &more;
    assert_ok(end_pull(&b->held[0]));
    await(suite, node_has_messages, b);
    at_a->last = at_a->next; /* enough */
    suite_finish(suite);
}

const struct CMUnitTest suite_cases_flow[] = {
    cmocka_unit_test(a_very_large_payload_that_nobody_pulls_delays_no_ping),
    cmocka_unit_test(pings_overtake_a_very_large_payload_that_is_pulled),
    cmocka_unit_test(back_pressure_is_busy_and_then_writable),
    cmocka_unit_test(who_holds_everything_starves_himself_alone),
    cmocka_unit_test(two_sides_out_of_buffers_make_progress),
    cmocka_unit_test(announcements_are_bounded_and_small_messages_pass_them),
};
const size_t suite_cases_flow_count = HM_COUNT_OF(suite_cases_flow);
