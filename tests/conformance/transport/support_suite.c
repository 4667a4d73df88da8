/* The nodes of the conformance suite, and what they check at every callback. */
#include "support_suite.h"

#include <stdio.h>

enum { MESSAGE_DATA = 1, MESSAGE_PING, MESSAGE_PONG };
#define WAIT_LIMIT (120 * HM_S) /* only a hang takes so long */

/* The header of the suite's own messages. */
struct numbered {
    uint32_t kind, number;
    uint64_t bytes, hash;
};

uint64_t suite_seed;

/* ---- waiting and claiming -------------------------------------------------------------------- */

void suite_claim(struct suite *suite, bool holds, const char *text, const char *file, int line)
{
    if (holds || suite->failure[0]) return;
    snprintf(suite->failure, sizeof suite->failure, "%s:%d: not true in a callback: %s", file, line,
             text);
}

struct wait {
    struct suite *suite;
    bool (*until)(void *arg);
    void *arg;
};

static bool wait_over(void *arg)
{
    struct wait *wait = arg;
    return wait->suite->failure[0] || (wait->until && wait->until(wait->arg));
}

void suite_await(struct suite *suite, bool (*until)(void *arg), void *arg, const char *text,
                 const char *file, int line)
{
    struct wait wait = {.suite = suite, .until = until, .arg = arg};
    bool came = wait_over(&wait) || suite->provider->run(suite, wait_over, &wait, WAIT_LIMIT);
    if (suite->failure[0]) fail_msg("%s", suite->failure);
    if (!came) fail_msg("%s:%d: waited in vain for %s", file, line, text);
}

void suite_let_pass(struct suite *suite, hm_ns duration)
{
    struct wait wait = {.suite = suite};
    (void)suite->provider->run(suite, wait_over, &wait, duration);
    if (suite->failure[0]) fail_msg("%s", suite->failure);
}

bool end_is_up(void *arg)
{
    struct end *end = arg;
    return end->ups > 0;
}

bool end_is_down(void *arg)
{
    struct end *end = arg;
    return end->downs > 0;
}

bool end_is_settled(void *arg)
{
    return end_is_up(arg) || end_is_down(arg);
}

bool node_ops_done(void *arg)
{
    struct node *node = arg;
    return node->ops_open == 0;
}

bool node_is_closed(void *arg)
{
    struct node *node = arg;
    return node->closed;
}

bool node_ends_down(void *arg)
{
    struct node *node = arg;
    for (unsigned i = 0; i < node->end_count; i++)
        if (node->end[i].downs == 0) return false;
    return true;
}

bool node_has_messages(void *arg)
{
    struct node *node = arg;
    return node->messages >= *(unsigned *)node->arg;
}

bool node_has_verified(void *arg)
{
    struct node *node = arg;
    return node->verified >= *(unsigned *)node->arg;
}

/* ---- operations ------------------------------------------------------------------------------ */

static struct op *op_create(struct end *end, bool pull)
{
    struct node *node = end->node;
    HM_ASSERT(node->op_count < OPS_MAX);
    struct op *op = &node->op[node->op_count++];
    *op = (struct op){.end = end, .pull = pull};
    return op;
}

static void op_accepted(struct op *op)
{
    op->end->ops_open++;
    op->end->node->ops_open++;
}

static void op_done(void *arg, enum hm_status status)
{
    struct op *op = arg;
    struct end *end = op->end;
    struct node *node = end->node;
    struct suite *suite = node->suite;
    claim(suite, suite->inside == 0);
    claim(suite, !op->called);
    claim(suite, end->downs == 0);
    claim(suite, end->ops_open > 0);
    claim(suite, status != HM_INPROGRESS && status != HM_ERR_BUSY);
    claim(suite, !op->buf || op->buf->refs > 0);
    op->called = true;
    op->status = status;
    end->ops_open--;
    node->ops_open--;
    if (!op->pull) {
        if (op->buf && op->bytes > 0)
            claim(suite, hm_hash(op->buf->base, op->bytes, 0) == op->hash);
        node->sends_ok += status == HM_OK;
        node->sends_canceled += status == HM_ERR_CANCELED;
        node->sends_failed += status != HM_OK && status != HM_ERR_CANCELED;
    } else if (status == HM_OK) {
        claim(suite, hm_hash(op->buf->base, op->bytes, 0) == op->hash);
        /* Exactly the payload is written, nothing after it. */
        const uint8_t *behind = (const uint8_t *)op->buf->base + op->bytes;
        for (size_t i = op->bytes; i < op->buf->bytes; i++, behind++) claim(suite, *behind == 0xa5);
        node->verified++;
    } else {
        node->pulls_failed++;
    }
}

/* Bytes that only this number has. */
static void payload_fill(struct hm_buf *buf, unsigned number)
{
    uint64_t state = (number + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ suite_seed, word;
    uint8_t *at = buf->base;
    size_t left = buf->bytes;
    for (; left > 0; at += sizeof word) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        word = state ^ state >> 29;
        size_t part = left < sizeof word ? left : sizeof word;
        memcpy(at, &word, part);
        left -= part;
        if (part < sizeof word) break;
    }
}

enum hm_status end_send(struct end *end, unsigned number, size_t bytes, unsigned span_count)
{
    struct node *node = end->node;
    struct suite *suite = node->suite;
    struct hm_buf *buf;
    HM_ASSERT(number < NUMBERS_MAX && span_count <= HM_SPANS_MAX);
    if (!end->ep) return HM_ERR_PEER_UNREACHABLE;
    HM_ASSERT(hm_buf_pool_get(suite->payloads, bytes, &buf) == HM_OK);
    payload_fill(buf, number);
    struct op *op = op_create(end, false);
    op->buf = buf;
    op->number = number;
    op->bytes = bytes;
    op->hash = hm_hash(buf->base, bytes, 0);
    struct numbered header = {MESSAGE_DATA, number, bytes, op->hash};
    struct hm_span span[HM_SPANS_MAX];
    size_t offset = 0;
    for (unsigned i = 0; i < span_count; i++) {
        size_t left = bytes - offset;
        /* Unequal and sometimes empty ones. */
        size_t part = i + 1 == span_count ? left : i % 3 == 1 ? 0 : left / 3;
        span[i] = hm_buf_part(buf, offset, part);
        offset += part;
    }
    suite->inside++;
    enum hm_status status =
        node->transport->ops->send(end->ep, &header, sizeof header, span, span_count, op_done, op);
    suite->inside--;
    memset(&header, 0, sizeof header); /* it must have been copied, and the spans with it */
    memset(span, 0, sizeof span);
    if (status == HM_OK) {
        claim(suite, !op->called);
        op_accepted(op);
    } else {
        node->op_count--;
    }
    hm_buf_put(buf);
    return status;
}

enum hm_status end_send_header(struct end *end, const void *header, size_t header_bytes)
{
    struct suite *suite = end->node->suite;
    if (!end->ep) return HM_ERR_PEER_UNREACHABLE;
    suite->inside++;
    enum hm_status status =
        end->node->transport->ops->send(end->ep, header, header_bytes, NULL, 0, NULL, NULL);
    suite->inside--;
    return status;
}

enum hm_status end_ping(struct end *end)
{
    struct numbered ping = {.kind = MESSAGE_PING};
    end->pinged = hm_loop_now(end->node->suite->loop);
    return end_send_header(end, &ping, sizeof ping);
}

static void pump(struct end *end)
{
    while (end->next < end->last && end->ep) {
        size_t bytes = end->size_of(end->node, end->next);
        enum hm_status status = end_send(end, end->next, bytes, 1);
        if (status == HM_ERR_BUSY) {
            end->busy++;
            return;
        }
        claim(end->node->suite, status == HM_OK || status == HM_ERR_PEER_UNREACHABLE);
        if (status != HM_OK) return;
        end->next++;
    }
}

void end_pump(struct end *end, unsigned first, unsigned last,
              size_t (*size_of)(struct node *node, unsigned number))
{
    end->next = first;
    end->last = last;
    end->size_of = size_of;
    pump(end);
}

enum hm_status end_pull(struct held *held)
{
    struct node *node = held->end->node;
    struct suite *suite = node->suite;
    struct hm_buf *buf;
    size_t bytes = held->in->bytes;
    /* A little more than is needed, to see that it stays as it is. */
    HM_ASSERT(hm_buf_pool_get(suite->payloads, bytes + held->number % 5, &buf) == HM_OK);
    memset((uint8_t *)buf->base + bytes, 0xa5, buf->bytes - bytes);
    struct op *op = op_create(held->end, true);
    op->buf = buf;
    op->number = held->number;
    op->bytes = bytes;
    op->hash = held->hash;
    struct hm_span into = hm_buf_span(buf);
    suite->inside++;
    enum hm_status status = hm_inbound_pull(held->in, &into, op_done, op);
    suite->inside--;
    claim(suite, !op->called);
    if (status == HM_OK)
        op_accepted(op);
    else
        node->op_count--;
    hm_buf_put(buf);
    held->in = NULL;
    return status;
}

static void inbound_drop(struct suite *suite, struct hm_inbound *in)
{
    suite->inside++;
    hm_inbound_drop(in);
    suite->inside--;
}

void node_hold_any(struct node *node, struct end *end, const void *header, size_t header_bytes,
                   struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    HM_ASSERT(node->held_count < HELD_MAX);
    node->held[node->held_count++] = (struct held){.in = in, .end = end};
}

void node_take_held(struct node *node, enum take take)
{
    for (unsigned i = 0; i < node->held_count; i++) {
        struct held *held = &node->held[i];
        if (!held->in) continue;
        if (take == TAKE_PULL && held->end->ep) {
            enum hm_status status = end_pull(held);
            claim(node->suite, status == HM_OK || status == HM_ERR_PEER_UNREACHABLE);
        } else {
            inbound_drop(node->suite, held->in);
        }
        held->in = NULL;
    }
    node->held_count = 0;
}

/* ---- the sink -------------------------------------------------------------------------------- */

static struct end *end_create(struct node *node, struct hm_ep *ep)
{
    HM_ASSERT(node->end_count < ENDS_MAX);
    struct end *end = &node->end[node->end_count++];
    *end = (struct end){.node = node, .ep = ep};
    ep->user = end;
    return end;
}

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *id,
                  const struct hm_hello *hello)
{
    struct node *node = arg;
    struct suite *suite = node->suite;
    claim(suite, suite->inside == 0 && !node->closed);
    claim(suite, ep->transport == node->transport);
    struct end *end = ep->user ? ep->user : end_create(node, ep);
    claim(suite, end->ups == 0 && end->downs == 0);
    end->ups++;
    end->id = *id;
    end->hello = *hello;
    if (node->on_up) node->on_up(end);
}

static void on_numbered(struct node *node, struct end *end, const struct numbered *header,
                        struct hm_inbound *in)
{
    struct suite *suite = node->suite;
    claim(suite, header->number < NUMBERS_MAX && in->bytes == header->bytes);
    claim(suite, node->got[header->number] == 0); /* at most once */
    node->got[header->number]++;
    node->messages++;
    node->announced += in->bytes > 0 && !in->data;
    if (in->data) claim(suite, hm_hash(in->data, in->bytes, 0) == header->hash);
    /* Payloads up to eager_bytes_max come with the message; larger ones are announced. */
    if (in->bytes > 0) claim(suite, !in->data == (in->bytes > node->caps.eager_bytes_max));
    struct held held = {.in = in, .end = end, .number = header->number, .hash = header->hash};
    if (node->take == TAKE_HOLD) {
        HM_ASSERT(node->held_count < HELD_MAX);
        node->held[node->held_count++] = held;
    } else if (node->take == TAKE_DROP) {
        inbound_drop(suite, in);
    } else {
        claim(suite, end_pull(&held) == HM_OK);
    }
}

static void on_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                       struct hm_inbound *in)
{
    struct node *node = arg;
    struct suite *suite = node->suite;
    struct end *end = ep->user;
    claim(suite, suite->inside == 0);
    claim(suite, in != NULL && header_bytes <= HM_HEADER_BYTES_MAX);
    claim(suite, end && end->ups == 1 && end->downs == 0);
    if (node->on_message) {
        node->on_message(node, end, header, header_bytes, in);
        return;
    }
    struct numbered numbered = {0};
    claim(suite, header_bytes == sizeof numbered);
    if (header_bytes == sizeof numbered) memcpy(&numbered, header, sizeof numbered);
    if (numbered.kind == MESSAGE_DATA) {
        on_numbered(node, end, &numbered, in);
        return;
    }
    claim(suite, numbered.kind == MESSAGE_PING || numbered.kind == MESSAGE_PONG);
    claim(suite, in->bytes == 0);
    inbound_drop(suite, in);
    if (numbered.kind == MESSAGE_PING) {
        struct numbered pong = {.kind = MESSAGE_PONG};
        /* BUSY: it is lost, and asked again. */
        (void)!end_send_header(end, &pong, sizeof pong);
    } else {
        end->pongs++;
        end->round_trip = hm_loop_now(suite->loop) - end->pinged;
    }
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    struct node *node = arg;
    struct end *end = ep->user;
    claim(node->suite, node->suite->inside == 0);
    claim(node->suite, end && end->ups == 1 && end->downs == 0);
    end->writables++;
    pump(end);
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct node *node = arg;
    struct suite *suite = node->suite;
    struct end *end = ep->user;
    claim(suite, suite->inside == 0 && !node->closed);
    claim(suite, end && end->ep == ep && end->downs == 0);
    claim(suite, end->ops_open == 0); /* each has called back */
    claim(suite, why != HM_OK && why != HM_INPROGRESS && why != HM_ERR_BUSY);
    end->downs++;
    end->why = why;
    end->ep = NULL;
}

/* ---- nodes ----------------------------------------------------------------------------------- */

struct node *node_open(struct suite *suite, const struct node_conf *given)
{
    const struct provider *provider = suite->provider;
    struct node_conf conf = given ? *given : (struct node_conf){0};
    struct node *node = calloc(1, sizeof *node);
    HM_ASSERT(node && suite->node_count < NODES_MAX);
    node->op = calloc(OPS_MAX, sizeof *node->op);
    node->held = calloc(HELD_MAX, sizeof *node->held);
    node->got = calloc(NUMBERS_MAX, 1);
    HM_ASSERT(node->op && node->held && node->got);
    node->suite = suite;
    node->take = conf.take;
    uint8_t seed[32] = {0};
    for (unsigned i = 0; i < 4; i++) {
        uint64_t word = hm_rng_next(&suite->rng);
        memcpy(seed + 8 * i, &word, sizeof word);
    }
    assert_ok(hm_identity_create(seed, &node->identity));
    assert_ok(hm_buf_pool_create(conf.buffer_bytes_max ? conf.buffer_bytes_max : 64 * MIB,
                                 &node->buffers));
    struct hm_hello hello = {.wire_major = conf.wire_major ? conf.wire_major : HM_WIRE_MAJOR,
                             .wire_minor = HM_WIRE_MINOR};
    if (conf.swarm) snprintf(hello.swarm, sizeof hello.swarm, "%s", conf.swarm);
    struct hm_transport_conf transport_conf = {
        .identity = node->identity,
        .hello = &hello,
        .listen = conf.dials_only ? NULL : provider->listen,
        .buffers = node->buffers,
        .endpoints_max = conf.endpoints_max ? conf.endpoints_max : 64,
        .receive_bytes_max = conf.receive_bytes_max ? conf.receive_bytes_max : MIB,
        .handshake_max = conf.handshake_max ? conf.handshake_max : 10 * HM_S,
        .world = provider->world ? provider->world(suite) : NULL,
    };
    struct hm_transport_sink sink = {
        .up = on_up, .message = on_message, .writable = on_writable, .down = on_down, .arg = node};
    assert_ok(provider->ops->open(&transport_conf, suite->loop, &sink, &node->transport));
    provider->ops->caps(node->transport, &node->caps);
    suite->node[suite->node_count++] = node;
    return node;
}

const struct hm_node_id *node_id(const struct node *node)
{
    return hm_identity_node(node->identity);
}

void node_addr(struct node *node, struct hm_addr *addr)
{
    struct hm_addrs addrs;
    assert_ok(node->transport->ops->address(node->transport, &addrs));
    assert_true(addrs.count >= 1);
    *addr = addrs.addr[0];
}

static void on_closed(void *arg)
{
    struct node *node = arg;
    claim(node->suite, node->suite->inside == 0 && !node->closed);
    for (unsigned i = 0; i < node->end_count; i++)
        claim(node->suite, node->end[i].downs == 1); /* before done */
    claim(node->suite, node->ops_open == 0);
    node->closed = true;
}

void node_close_begin(struct node *node)
{
    node->suite->inside++;
    node->transport->ops->close(node->transport, on_closed, node);
    node->suite->inside--;
}

void node_close(struct node *node)
{
    node_close_begin(node);
    await(node->suite, node_ends_down, node);
    node_take_held(node, TAKE_DROP); /* done may wait for that */
    await(node->suite, node_is_closed, node);
}

static void node_free(struct node *node)
{
    hm_buf_pool_destroy(node->buffers); /* asserts that the provider has given back all */
    hm_identity_destroy(node->identity);
    free(node->op);
    free(node->held);
    free(node->got);
    free(node);
}

struct end *node_connect(struct node *node, const struct hm_addr *to,
                         const struct hm_node_id *expect)
{
    struct hm_ep *ep = NULL;
    node->suite->inside++;
    enum hm_status status = node->transport->ops->connect(node->transport, to, expect, &ep);
    node->suite->inside--;
    assert_ok(status);
    assert_true(ep && ep->transport == node->transport && !ep->user);
    return end_create(node, ep);
}

void nodes_connect(struct node *a, struct node *b, struct end **at_a, struct end **at_b)
{
    struct hm_addr addr;
    node_addr(b, &addr);
    unsigned known = b->end_count;
    *at_a = node_connect(a, &addr, node_id(b));
    await(a->suite, end_is_settled, *at_a);
    assert_int_equal((*at_a)->downs, 0);
    *at_b = &b->end[known]; /* zero until it is up */
    await(a->suite, end_is_up, *at_b);
}

void end_disconnect(struct end *end)
{
    struct suite *suite = end->node->suite;
    if (!end->ep) return;
    suite->inside++;
    end->ep->transport->ops->disconnect(end->ep);
    suite->inside--;
}

/* ---- puppets --------------------------------------------------------------------------------- */

static size_t one_mebibyte(struct node *node, unsigned number)
{
    (void)node;
    (void)number;
    return MIB;
}

static void hoard(struct end *end)
{
    end_pump(end, 0, 100, one_mebibyte);
}

void puppet_play(struct suite *suite, struct puppet *puppet)
{
    struct node_conf conf = {.take = puppet->role == PUPPET_HOARDS ? TAKE_HOLD : TAKE_DROP};
    puppet->node = node_open(suite, &conf);
    if (puppet->role == PUPPET_HOARDS) puppet->node->on_up = hoard;
    node_addr(puppet->node, &puppet->addr);
    puppet->id = *node_id(puppet->node);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static const struct provider *suite_provider;

struct suite *suite_create(const struct provider *provider)
{
    struct suite *suite = calloc(1, sizeof *suite);
    HM_ASSERT(suite);
    suite->provider = provider;
    hm_rng_init(&suite->rng, suite_seed, 0);
    assert_ok(hm_buf_pool_create((size_t)2 << 30, &suite->payloads));
    provider->start(suite);
    return suite;
}

void suite_finish(struct suite *suite)
{
    for (unsigned i = 0; i < suite->node_count; i++) node_take_held(suite->node[i], TAKE_DROP);
    for (unsigned i = 0; i < suite->node_count; i++)
        if (!suite->node[i]->closed) node_close(suite->node[i]);
    for (unsigned i = 0; i < suite->node_count; i++)
        for (unsigned j = 0; j < suite->node[i]->op_count; j++)
            assert_true(suite->node[i]->op[j].called);
    suite->finished = true;
}

void suite_destroy(struct suite *suite)
{
    for (unsigned i = 0; i < suite->node_count; i++) node_free(suite->node[i]);
    suite->node_count = 0;
    suite->provider->stop(suite);
    assert_int_equal(hm_buf_pool_bytes_used(suite->payloads), 0);
    hm_buf_pool_destroy(suite->payloads);
    free(suite);
}

static int case_setup(void **state)
{
    *state = suite_create(suite_provider);
    return 0;
}

/* What a failed case leaves behind is left alone: to take it apart would only hide its failure. */
static int case_teardown(void **state)
{
    struct suite *suite = *state;
    if (suite->finished) suite_destroy(suite);
    return 0;
}

size_t suite_bulk_bytes(void)
{
    const char *text = getenv("HM_CONFORMANCE_BULK_BYTES");
    if (text) return (size_t)strtoull(text, NULL, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 32 * MIB;
#else
    return 256 * MIB;
#endif
}

int suite_main(const struct provider *provider, uint64_t seed)
{
    struct CMUnitTest tests[64];
    size_t count = 0;
    const struct {
        const struct CMUnitTest *tests;
        size_t count;
    } part[] = {
        {suite_cases_link, suite_cases_link_count},
        {suite_cases_message, suite_cases_message_count},
        {suite_cases_flow, suite_cases_flow_count},
        {suite_cases_end, suite_cases_end_count},
    };
    for (size_t i = 0; i < HM_COUNT_OF(part); i++)
        for (size_t j = 0; j < part[i].count; j++) {
            HM_ASSERT(count < HM_COUNT_OF(tests));
            tests[count] = part[i].tests[j];
            tests[count].setup_func = case_setup;
            tests[count].teardown_func = case_teardown;
            count++;
        }
    const char *only = getenv("HM_CONFORMANCE_ONLY"); /* a pattern of names, for a person */
    if (only) cmocka_set_test_filter(only);
    suite_provider = provider;
    suite_seed = seed;
    char name[64];
    snprintf(name, sizeof name, "%s seed %llu", provider->name, (unsigned long long)seed);
    return _cmocka_run_group_tests(name, tests, count, NULL, NULL);
}
