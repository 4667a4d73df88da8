/* tests/conformance/transport/support_suite_ops.c - sends and pulls that check themselves: each calls
 * back once, with the bytes that belong to its number. */
#include "support_suite.h"

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

void end_pump_on(struct end *end)
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
    end_pump_on(end);
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

void suite_drop(struct suite *suite, struct hm_inbound *in)
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
            suite_drop(node->suite, held->in);
        }
        held->in = NULL;
    }
    node->held_count = 0;
}
