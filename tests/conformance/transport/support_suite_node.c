/* tests/conformance/transport/support_suite_node.c - the nodes of the suite, and what they check at
 * every callback of their sink. */
#include "support_suite.h"

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
        suite_drop(suite, in);
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
    suite_drop(suite, in);
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
    end_pump_on(end);
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

void node_free(struct node *node)
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
