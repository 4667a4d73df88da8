/* transport/rpc_fabric_in.c - what arrives over the fast path: once each, and whole, even if the path
 * breaks meanwhile.
 *
 * Owns struct hm_fast_in, the inbounds that users see of tagged messages.
 *
 * Happy path: a number that is new goes to its handler with an inbound of ours in front of the
 * wire's; when the user has pulled or dropped it, it counts as taken, and the sender is told (ACK:
 * after 32, or 100 ms, or 5 ms if much memory waits for it) so that it lets go of its copy.
 * Failure modes: the path breaks during a pull, or before: a payload that came with its message is
 * here and is delivered; else the user's pull waits, and is filled by what the sender sends again
 * over the connection.  What was taken before and comes again is dropped.  The sender does not need
 * it any more (VOID): the pull ends with HM_ERR_CANCELED.  The connection ends: with
 * HM_ERR_PEER_RESET.
 * Invariant: fast->inbounds are exactly the numbers that are seen and not taken. */
#include "transport/rpc_fast.h"

enum { ACK_AFTER = 32, ACK_BYTES = 64 << 10 };
/* An ACK is a message of its own, and wakes up somebody who has nothing else to do: a caller with one
 * call at a time would be woken twice for each. */
#define ACK_DELAY      (100 * HM_MS)
#define ACK_DELAY_MUCH (5 * HM_MS)

static void in_pull(struct hm_inbound *base);

/* ---- numbers */

static bool bit(const uint64_t *ring, uint64_t number)
{
    return ring[number / 64 % HM_FAST_WINDOW_WORDS] >> (number % 64) & 1;
}

static void bit_set(uint64_t *ring, uint64_t number, bool value)
{
    uint64_t mask = UINT64_C(1) << (number % 64);
    uint64_t *word = &ring[number / 64 % HM_FAST_WINDOW_WORDS];
    *word = value ? *word | mask : *word & ~mask;
}

static void on_ack_timer(struct hm_timer *timer)
{
    hm_fast_ack(timer->arg);
}

void hm_fast_in_reset(struct hm_fast *fast, uint64_t attempt)
{
    HM_ASSERT(hm_list_empty(&fast->inbounds));
    fast->ack.cb = on_ack_timer;
    fast->ack.arg = fast;
    fast->attempt_in = attempt;
    fast->low = 0;
    fast->taken_untold = 0;
    fast->taken_bytes_untold = 0;
    fast->taken_beyond = 0;
    memset(fast->seen, 0, sizeof fast->seen);
    memset(fast->taken, 0, sizeof fast->taken);
}

/* Says what has been taken: `low`, and a bit for each number after it. */
void hm_fast_ack(struct hm_fast *fast)
{
    struct hm_rpc *rpc = fast->rpc;
    bool fabric = fast->state == HM_FAST_UP;
    struct hm_rpc_header header = {.kind = HM_RPC_ACK, .id = hm_tag(fast->attempt_in, fast->low)};
    uint8_t bytes[HM_RPC_HEADER_BYTES + HM_FAST_WINDOW / 8] = {0};
    size_t used = 0;
    unsigned beyond = fast->taken_beyond;
    hm_timer_stop(rpc->loop, &fast->ack);
    if (!fast->conn || fast->attempt_in == 0) return;
    hm_rpc_header_encode(&header, bytes);
    for (unsigned i = 0; beyond > 0; i++) {
        if (!bit(fast->taken, fast->low + i)) continue;
        bytes[HM_RPC_HEADER_BYTES + i / 8] |= (uint8_t)(1 << i % 8);
        used = i / 8 + 1;
        beyond--;
    }
    const struct hm_transport_ops *ops = fabric ? rpc->conf.fabric : rpc->conf.transport;
    enum hm_status status = ops->send(fabric ? fast->ep : fast->conn->ep, bytes,
                                      HM_RPC_HEADER_BYTES + used, NULL, 0, NULL, NULL);
    if (status == HM_ERR_BUSY) {
        if (fabric)
            fast->blocked = true;
        else
            fast->conn->blocked = true;
        hm_timer_start(rpc->loop, &fast->ack, ACK_DELAY_MUCH);
        return;
    }
    fast->taken_untold = 0;
    fast->taken_bytes_untold = 0;
}

/* `bytes` of payload that the sender keeps until it is told. */
static void taken(struct hm_fast *fast, uint64_t number, size_t bytes)
{
    struct hm_loop *loop = fast->rpc->loop;
    bit_set(fast->taken, number, true);
    fast->taken_beyond++;
    while (bit(fast->taken, fast->low)) {
        bit_set(fast->taken, fast->low, false);
        bit_set(fast->seen, fast->low, false);
        fast->low++;
        fast->taken_beyond--;
    }
    fast->taken_bytes_untold += bytes;
    if (++fast->taken_untold >= ACK_AFTER) {
        hm_fast_ack(fast);
        return;
    }
    /* Without the path the sender also waits for it with its next attempt. */
    bool much = fast->taken_bytes_untold >= ACK_BYTES || fast->state != HM_FAST_UP;
    hm_ns delay = much ? ACK_DELAY_MUCH : ACK_DELAY;
    if (!hm_timer_active(&fast->ack) || (much && fast->ack.due > hm_loop_now(loop) + delay))
        hm_timer_start(loop, &fast->ack, delay);
}

/* ---- inbounds */

static void in_free(struct hm_fast_in *in)
{
    struct hm_rpc *rpc = in->rpc;
    struct hm_fast *fast = in->fast;
    hm_list_remove(&in->link);
    if (fast) taken(fast, in->number, in->base.bytes);
    hm_slots_give(&rpc->fast_in_slots, in);
    hm_rpc_settle(rpc);
}

/* Runs the user's callback. */
static void in_finish(struct hm_fast_in *in, enum hm_status status)
{
    hm_wire_cb done = in->done;
    void *arg = in->arg;
    struct hm_buf *owner = in->into.owner;
    in_free(in);
    if (done) done(arg, status);
    if (owner) hm_buf_put(owner);
}

static void drop_sources(struct hm_fast_in *in)
{
    if (in->real) hm_inbound_drop(in->real);
    if (in->again) hm_inbound_drop(in->again);
    in->real = in->again = NULL;
}

static void on_pulled(void *arg, enum hm_status status)
{
    struct hm_fast_in *in = arg;
    in->pulling = false;
    if (in->base.bytes == 0) status = HM_OK;
    if (status != HM_OK && in->fast) {
        in->waiting = true; /* it is sent again once both sides know that the path is lost */
        hm_fast_fail(in->fast, HM_ERR_PEER_RESET);
        return;
    }
    in_finish(in, status);
}

static void on_again_pulled(void *arg, enum hm_status status)
{
    struct hm_fast_in *in = arg;
    in->pulling = false;
    in_finish(in, status);
}

static void on_copied(struct hm_timer *timer)
{
    in_finish(timer->arg, HM_OK);
}

/* The path is lost, and its payload came with the message: it counts as taken from here on, whatever
 * comes again and whatever the connection does. */
static void copy_here(struct hm_fast_in *in)
{
    struct hm_fast *fast = in->fast;
    memcpy(in->into.base, in->real->data, in->base.bytes);
    drop_sources(in);
    in->pulling = true;
    in->fast = NULL;
    hm_list_remove(&in->link);
    taken(fast, in->number, in->base.bytes);
    in->copied = (struct hm_timer){.cb = on_copied, .arg = in};
    hm_timer_start(in->rpc->loop, &in->copied, 0); /* not inside the user's call */
}

static enum hm_status pull(struct hm_inbound *base, const struct hm_span *into, hm_wire_cb done,
                           void *arg)
{
    struct hm_fast_in *in = HM_CONTAINER_OF(base, struct hm_fast_in, base);
    HM_ASSERT(!in->pulling && !in->waiting && into->bytes >= base->bytes);
    bool lost = !in->fast || in->fast->state != HM_FAST_UP;
    if (!in->fast || in->voided) {
        drop_sources(in);
        in_free(in);
        return HM_ERR_PEER_RESET;
    }
    in->into = *into;
    in->done = done;
    in->arg = arg;
    if (in->into.owner) hm_buf_get(in->into.owner);
    if (lost && in->real) {
        if (in->real->data && into->mem != HM_MEM_CUDA) {
            copy_here(in);
            return HM_OK;
        }
        hm_inbound_drop(in->real);
        in->real = NULL;
    }
    if (!lost) {
        struct hm_inbound *real = in->real;
        in->real = NULL;
        in->pulling = hm_inbound_pull(real, &in->into, on_pulled, in) == HM_OK;
        if (!in->pulling) hm_fast_fail(in->fast, HM_ERR_PEER_RESET);
    } else if (in->again) {
        in_pull(base);
        return HM_OK;
    }
    in->waiting = !in->pulling;
    return HM_OK;
}

/* Fills the user's span from what has come the second time. */
static void in_pull(struct hm_inbound *base)
{
    struct hm_fast_in *in = HM_CONTAINER_OF(base, struct hm_fast_in, base);
    struct hm_inbound *again = in->again;
    in->again = NULL;
    in->waiting = false;
    in->pulling = hm_inbound_pull(again, &in->into, on_again_pulled, in) == HM_OK;
    if (in->pulling) return;
    in->waiting = true; /* the connection's end finishes it */
    hm_conn_fail(in->fast->conn, HM_ERR_PEER_RESET);
}

static void drop(struct hm_inbound *base)
{
    struct hm_fast_in *in = HM_CONTAINER_OF(base, struct hm_fast_in, base);
    HM_ASSERT(!in->pulling && !in->waiting);
    drop_sources(in);
    in_free(in);
}

static const struct hm_transport_ops in_ops = {.name = "rpc", .pull = pull, .drop = drop};

void hm_fast_in_orphan(struct hm_fast *fast)
{
    struct hm_link *link, held;
    hm_list_init(&held);
    while ((link = hm_list_pop(&fast->inbounds))) {
        struct hm_fast_in *in = HM_CONTAINER_OF(link, struct hm_fast_in, link);
        in->fast = NULL; /* what is being pulled ends with its wire */
        if (in->waiting) hm_list_push(&held, &in->link);
    }
    while ((link = hm_list_pop(&held)))
        in_finish(HM_CONTAINER_OF(link, struct hm_fast_in, link), HM_ERR_PEER_RESET);
}

/* ---- arrivals */

static void receive_new(struct hm_conn *conn, const struct hm_rpc_header *header, const void *user,
                        size_t user_bytes, struct hm_inbound *real, bool again)
{
    struct hm_fast *fast = conn->fast;
    uint64_t number = hm_tag_number(header->tag);
    if (header->kind == HM_RPC_VOID || header->kind == HM_RPC_CANCEL) {
        hm_inbound_drop(real);
        bit_set(fast->seen, number, true);
        taken(fast, number, 0);
        if (header->kind == HM_RPC_CANCEL) hm_request_receive_cancel(conn, header->id);
        return;
    }
    struct hm_fast_in *in = hm_slots_take(&conn->rpc->fast_in_slots);
    if (!in) {
        hm_inbound_drop(real);
        hm_conn_fail(conn, HM_ERR_BUSY);
        return;
    }
    *in = (struct hm_fast_in){.base = {&in_ops, real->bytes, real->data},
                              .rpc = conn->rpc,
                              .fast = fast,
                              .number = number};
    if (again)
        in->again = real;
    else
        in->real = real;
    hm_list_push(&fast->inbounds, &in->link);
    bit_set(fast->seen, number, true);
    hm_conn_receive(conn, header, user, user_bytes, &in->base);
}

/* A number that has been seen: what is missing of it is its payload, if anything. */
static void receive_again(struct hm_conn *conn, const struct hm_rpc_header *header,
                          struct hm_inbound *real, bool over_fabric)
{
    struct hm_fast_in *in = NULL;
    HM_LIST_EACH (link, &conn->fast->inbounds) {
        struct hm_fast_in *at = HM_CONTAINER_OF(link, struct hm_fast_in, link);
        if (at->number == hm_tag_number(header->tag)) in = at;
    }
    if (!in) { /* taken */
        hm_inbound_drop(real);
        return;
    }
    bool is_void = header->kind == HM_RPC_VOID;
    if (over_fabric || in->again || in->pulling || in->voided ||
        (!is_void && real->bytes != in->base.bytes)) {
        hm_inbound_drop(real);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    if (is_void) {
        hm_inbound_drop(real);
        in->voided = true;
        if (in->waiting) in_finish(in, HM_ERR_CANCELED);
        return;
    }
    in->again = real;
    if (in->waiting) in_pull(&in->base);
}

void hm_fast_receive_tagged(struct hm_conn *conn, const struct hm_rpc_header *header,
                            const void *user, size_t user_bytes, struct hm_inbound *in,
                            bool over_fabric)
{
    struct hm_fast *fast = conn->fast;
    uint64_t number = hm_tag_number(header->tag);
    bool ours = fast && (over_fabric || fast->state != HM_FAST_UP) && fast->attempt_in > 0 &&
                hm_tag_attempt(header->tag) == fast->attempt_in;
    bool has_payload = in->bytes > 0;
    bool may_have = header->kind == HM_RPC_REQUEST || header->kind == HM_RPC_REPLY;
    if (!ours || (has_payload && !may_have) ||
        (number >= fast->low && number - fast->low >= HM_FAST_WINDOW)) {
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    conn->used = hm_loop_now(conn->rpc->loop);
    if (number < fast->low || bit(fast->seen, number))
        receive_again(conn, header, in, over_fabric);
    else
        receive_new(conn, header, user, user_bytes, in, !over_fabric);
}
