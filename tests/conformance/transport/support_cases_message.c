/* Messages: every size of header and payload, spans, announce and pull, drop. */
#include "support_suite.h"

enum { SIZES = 9 };

static size_t boundary_size(struct node *node, unsigned number)
{
    size_t eager = node->caps.eager_bytes_max;
    const size_t size[SIZES] = {
        0, 1, eager - 1, eager, eager + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB};
    return size[number % SIZES];
}

static void payloads_of_every_size_arrive_whole(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 3 * SIZES;
    a->arg = b->arg = &count;
    end_pump(at_a, 0, count, boundary_size);
    end_pump(at_b, 0, count, boundary_size);
    await(suite, node_has_verified, a);
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    await(suite, node_ops_done, b);
    assert_int_equal(a->sends_ok, count);
    assert_int_equal(b->sends_ok, count);
    assert_true(a->announced > 0 && a->announced < count);
    suite_finish(suite);
}

static size_t bulk_size(struct node *node, unsigned number)
{
    (void)number;
    return node->suite->provider->bulk_bytes;
}

static void a_very_large_payload_arrives_whole(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 1;
    b->arg = &count;
    end_pump(at_a, 7, 8, bulk_size);
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    assert_int_equal(a->sends_ok, 1);
    suite_finish(suite);
}

/* Headers of byte_count bytes, each a function of the count; `got` counts them by size. */
struct headers {
    unsigned got[HM_HEADER_BYTES_MAX + 1], total;
};

static void header_fill(uint8_t *header, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) header[i] = (uint8_t)(i * 7 + bytes);
}

static void on_header(struct node *node, struct end *end, const void *header, size_t bytes,
                      struct hm_inbound *in)
{
    (void)end;
    struct headers *headers = node->arg;
    uint8_t wanted[HM_HEADER_BYTES_MAX];
    header_fill(wanted, bytes);
    claim(node->suite, bytes == 0 || memcmp(header, wanted, bytes) == 0);
    claim(node->suite, in->bytes == 0);
    headers->got[bytes]++;
    headers->total++;
    hm_inbound_drop(in);
}

static bool all_headers_there(void *arg)
{
    struct headers *headers = arg;
    return headers->total > HM_HEADER_BYTES_MAX;
}

static void headers_of_every_size_arrive_whole(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    struct headers headers = {0};
    nodes_connect(a, b, &at_a, &at_b);
    b->on_message = on_header;
    b->arg = &headers;
    uint8_t header[HM_HEADER_BYTES_MAX + 1];
    for (size_t bytes = 0; bytes <= HM_HEADER_BYTES_MAX; bytes++) {
        header_fill(header, bytes);
        enum hm_status status;
        while ((status = end_send_header(at_a, header, bytes)) == HM_ERR_BUSY)
            suite_let_pass(suite, HM_MS);
        assert_ok(status);
    }
    assert_status(end_send_header(at_a, header, HM_HEADER_BYTES_MAX + 1), HM_ERR_TOO_BIG);
    await(suite, all_headers_there, &headers);
    for (size_t bytes = 0; bytes <= HM_HEADER_BYTES_MAX; bytes++)
        assert_int_equal(headers.got[bytes], 1);
    b->on_message = NULL;
    suite_finish(suite);
}

static void many_spans_are_one_payload(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned sent = 0;
    b->arg = &sent;
    const size_t size[] = {0, 1, 2, 1000, a->caps.eager_bytes_max, 200 * KIB + 3};
    for (unsigned spans = 1; spans <= HM_SPANS_MAX; spans++)
        for (size_t i = 0; i < HM_COUNT_OF(size); i++, sent++) {
            enum hm_status status;
            while ((status = end_send(at_a, sent, size[i], spans)) == HM_ERR_BUSY)
                suite_let_pass(suite, HM_MS);
            assert_ok(status);
        }
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    suite_finish(suite);
}

static void a_payload_over_the_limit_is_too_big(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    static uint8_t byte;
    /* Nobody reads them. */
    struct hm_span spans[2] = {{.base = &byte, .bytes = HM_PAYLOAD_BYTES_MAX},
                               {.base = &byte, .bytes = 1}};
    const struct hm_transport_ops *ops = suite->provider->ops;
    assert_status(ops->send(at_a->ep, "x", 1, spans, 2, NULL, NULL), HM_ERR_TOO_BIG);
    spans[0].bytes = SIZE_MAX;
    assert_status(ops->send(at_a->ep, "x", 1, spans, 2, NULL, NULL), HM_ERR_TOO_BIG);
    assert_int_equal(at_a->downs, 0);
    suite_finish(suite);
}

static size_t large_size(struct node *node, unsigned number)
{
    return node->caps.eager_bytes_max + 1 + number * 1000;
}

static void dropping_an_announced_payload_cancels_its_send(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_DROP});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 20;
    b->arg = &count;
    end_pump(at_a, 0, count, large_size);
    await(suite, node_has_messages, b);
    await(suite, node_ops_done, a);
    assert_int_equal(a->sends_canceled, count);
    suite_finish(suite);
}

static void an_announced_payload_waits_until_it_is_pulled(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 3;
    b->arg = &count;
    end_pump(at_a, 0, count, large_size);
    await(suite, node_has_messages, b);
    suite_let_pass(suite, 50 * HM_MS);
    assert_int_equal(a->ops_open, count); /* OK means that the receiver has pulled it all */
    node_take_held(b, TAKE_PULL);
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    assert_int_equal(a->sends_ok, count);
    suite_finish(suite);
}

static size_t small_size(struct node *node, unsigned number)
{
    (void)node;
    return 100 + number;
}

static void an_eager_payload_stays_readable_until_it_is_pulled(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL);
    struct node *b = node_open(suite, &(struct node_conf){.take = TAKE_HOLD});
    struct end *at_a, *at_b;
    nodes_connect(a, b, &at_a, &at_b);
    unsigned count = 50;
    b->arg = &count;
    end_pump(at_a, 0, count, small_size);
    await(suite, node_has_messages, b);
    await(suite, node_ops_done, a); /* the wire has taken it: that needs no pull */
    assert_int_equal(a->sends_ok, count);
    suite_let_pass(suite, 10 * HM_MS);
    for (unsigned i = 0; i < b->held_count; i++)
        assert_true(hm_hash(b->held[i].in->data, b->held[i].in->bytes, 0) == b->held[i].hash);
    node_take_held(b, TAKE_PULL);
    await(suite, node_has_verified, b);
    suite_finish(suite);
}

static size_t random_size(struct node *node, unsigned number)
{
    /* The same answer each time it is asked for a number: BUSY makes it ask again. */
    struct hm_rng rng;
    hm_rng_init(&rng, suite_seed, number);
    size_t eager = node->caps.eager_bytes_max;
    switch (hm_rng_below(&rng, 4)) {
    case 0: return (size_t)hm_rng_below(&rng, 64);
    case 1: return (size_t)hm_rng_below(&rng, eager);
    case 2: return eager - 16 + (size_t)hm_rng_below(&rng, 32);
    default: return eager + (size_t)hm_rng_below(&rng, 300 * KIB);
    }
}

static void many_messages_in_flight_both_ways_keep_their_bytes(void **state)
{
    struct suite *suite = *state;
    struct node *a = node_open(suite, NULL), *b = node_open(suite, NULL);
    struct end *at_a[3], *at_b[3];
    unsigned each = 300, total = 3 * each;
    a->arg = b->arg = &total;
    for (int i = 0; i < 3; i++) nodes_connect(a, b, &at_a[i], &at_b[i]);
    for (unsigned i = 0; i < 3; i++) {
        end_pump(at_a[i], i * each, (i + 1) * each, random_size);
        end_pump(at_b[i], i * each, (i + 1) * each, random_size);
    }
    await(suite, node_has_verified, a);
    await(suite, node_has_verified, b);
    await(suite, node_ops_done, a);
    await(suite, node_ops_done, b);
    for (unsigned i = 0; i < total; i++) assert_true(a->got[i] == 1 && b->got[i] == 1);
    assert_int_equal(a->sends_ok, total);
    suite_finish(suite);
}

const struct CMUnitTest suite_cases_message[] = {
    cmocka_unit_test(payloads_of_every_size_arrive_whole),
    cmocka_unit_test(a_very_large_payload_arrives_whole),
    cmocka_unit_test(headers_of_every_size_arrive_whole),
    cmocka_unit_test(many_spans_are_one_payload),
    cmocka_unit_test(a_payload_over_the_limit_is_too_big),
    cmocka_unit_test(dropping_an_announced_payload_cancels_its_send),
    cmocka_unit_test(an_announced_payload_waits_until_it_is_pulled),
    cmocka_unit_test(an_eager_payload_stays_readable_until_it_is_pulled),
    cmocka_unit_test(many_messages_in_flight_both_ways_keep_their_bytes),
};
const size_t suite_cases_message_count = HM_COUNT_OF(suite_cases_message);
