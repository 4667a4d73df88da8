/* transport/tcp/receive.c - what an endpoint receives: messages, announces, pulled payloads.
 *
 *   eager:      MESSAGE -> message() -> [held] -> pull: copied, CREDIT owed -> pulled -> done()
 *                                          '----> drop: CREDIT owed
 *   announced:  ANNOUNCE -> message() -> [held] -> pull: PULL -> pulling: DATA ... -> pulled
 *                                           |                                 -> done(), DONE
 *                                           '----> drop: DROP
 *
 * Owns:      inbounds, the buffers of eager payloads, and a reference to the owner of each buffer
 *            that is pulled into.
 * Happy path: records are read into the transport's scratch and cut into frames there, and what
 *            belongs to a payload is copied on.  Of a payload at hand, and where pulls are under
 *            way, exactly what is wanted is read, straight to where it belongs.
 * Failure:   a frame that may not come now ends the endpoint with HM_ERR_PEER_PROTOCOL.
 * Invariant: what a peer can make us hold is receive_bytes_max of eager payloads (docs/wire.md says
 *            how each is charged) and TCP_ANNOUNCES_MAX inbounds. */
#include "transport/tcp/tcp.h"

#include <string.h>

enum {
    DIRECT_BYTES_MIN = 1024, /* below this, one more read costs more than a copy */
    /* What a read and a frame cost at least, in bytes of the budget: a peer that sends its bytes
     * one by one has no more of our time than others. */
    READ_COST = 1024,
    FRAME_COST = 128,
};

void hm_tcp_receive_init(struct tcp_ep *ep)
{
    hm_list_init(&ep->controls);
    hm_list_init(&ep->pulling);
    hm_list_init(&ep->pulled);
    ep->credit_left = ep->tcp->receive_bytes_max;
    ep->nothing.base.ops = &hm_transport_tcp;
    ep->nothing.ep = ep;
}

static struct tcp_inbound *inbound_of(struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct tcp_inbound, link);
}

static struct tcp_inbound *inbound_make(struct tcp_ep *ep, size_t bytes)
{
    struct tcp_inbound *in = hm_tcp_inbound_get(ep->tcp);
    if (!in) return NULL;
    in->base.ops = &hm_transport_tcp;
    in->base.bytes = bytes;
    in->ep = ep;
    return in;
}

/* ---- frames -------------------------------------------------------------------------------- */

static enum hm_status message_begin(struct tcp_ep *ep, const struct hm_frame *frame)
{
    uint32_t charge = hm_frame_charge(frame->payload_bytes);
    if (charge > ep->credit_left) return HM_ERR_PEER_PROTOCOL;
    if (charge == 0) return HM_OK;
    struct tcp_inbound *in = inbound_make(ep, frame->payload_bytes);
    if (!in) return HM_ERR_NO_MEMORY;
    enum hm_status status = hm_buf_pool_get(ep->tcp->pool, frame->payload_bytes, &in->buf);
    if (status != HM_OK) {
        hm_tcp_inbound_put(ep->tcp, in);
        return HM_ERR_NO_MEMORY;
    }
    in->base.data = in->buf->base;
    ep->credit_left -= charge;
    ep->filling = in;
    return HM_OK;
}

static enum hm_status data_begin(struct tcp_ep *ep, const struct hm_frame *frame)
{
    HM_LIST_EACH (link, &ep->pulling) {
        struct tcp_inbound *in = inbound_of(link);
        if (in->id != frame->value) continue;
        if (frame->payload_bytes > in->base.bytes - in->received) return HM_ERR_PEER_PROTOCOL;
        ep->filling = in;
        return HM_OK;
    }
    return HM_ERR_PEER_PROTOCOL;
}

/* The head of a frame is complete; what carries a payload finds its place. */
static enum hm_status frame_begin(struct tcp_ep *ep)
{
    const struct hm_frame *frame = &ep->reader.frame;
    if (frame->type == HM_FRAME_GOODBYE) return HM_OK;
    if ((frame->type == HM_FRAME_HELLO) != (ep->state == TCP_HELLO)) return HM_ERR_PEER_PROTOCOL;
    if (frame->type == HM_FRAME_MESSAGE) return message_begin(ep, frame);
    if (frame->type == HM_FRAME_DATA) return data_begin(ep, frame);
    return HM_OK;
}

static enum hm_status hello_end(struct tcp_ep *ep)
{
    const struct hm_frame *frame = &ep->reader.frame;
    const struct hm_hello *ours = &ep->tcp->hello;
    struct hm_hello hello;
    enum hm_status status = hm_hello_decode(ep->reader.header, frame->header_bytes, &hello);
    if (status != HM_OK) return status;
    if (hello.wire_major != ours->wire_major) return HM_ERR_PEER_VERSION;
    if (hello.swarm[0] && ours->swarm[0] && strcmp(hello.swarm, ours->swarm) != 0)
        return HM_ERR_PEER_DENIED;
    struct hm_proof_context context;
    hello.fabric_proved = ep->tcp->has_fabric_key && hm_tcp_ep_context(ep, false, &context) &&
                          hm_proof_check(ep->tcp->fabric_key, &context, &hello);
    const uint64_t credit_max = (uint64_t)1 << 40;
    ep->credit_total = ep->credit = frame->value < credit_max ? frame->value : credit_max;
    hm_tcp_ep_up(ep, &hello);
    return HM_OK;
}

static void deliver(struct tcp_ep *ep, struct tcp_inbound *in)
{
    const struct hm_transport_sink *sink = &ep->tcp->sink;
    ep->inbounds_out++;
    ep->tcp->metrics.messages_received.value++;
    sink->message(sink->arg, &ep->base, ep->reader.header, ep->reader.frame.header_bytes,
                  &in->base);
}

static enum hm_status announce_end(struct tcp_ep *ep)
{
    if (ep->announces_in == TCP_ANNOUNCES_MAX) return HM_ERR_PEER_PROTOCOL;
    struct tcp_inbound *in = inbound_make(ep, (size_t)ep->reader.frame.value);
    if (!in) return HM_ERR_NO_MEMORY;
    ep->announces_in++;
    in->id = ++ep->announce_seen;
    deliver(ep, in);
    return HM_OK;
}

static void data_end(struct tcp_ep *ep, struct tcp_inbound *in)
{
    if (in->received < in->base.bytes) return;
    in->status = HM_OK;
    hm_list_remove(&in->link);
    hm_list_push(&ep->pulled, &in->link);
}

static enum hm_status goodbye_end(struct tcp_ep *ep)
{
    ep->secure = false; /* nobody reads what we would still say */
    switch ((int64_t)ep->reader.frame.value) {
    case HM_ERR_PEER_VERSION: return HM_ERR_PEER_VERSION;
    case HM_ERR_PEER_DENIED: return HM_ERR_PEER_DENIED;
    default: return HM_ERR_PEER_RESET;
    }
}

static enum hm_status frame_end(struct tcp_ep *ep)
{
    const struct hm_frame *frame = &ep->reader.frame;
    struct tcp_inbound *in = ep->filling;
    ep->filling = NULL;
    switch ((enum hm_frame_type)frame->type) {
    case HM_FRAME_HELLO: return hello_end(ep);
    case HM_FRAME_MESSAGE: deliver(ep, in ? in : &ep->nothing); return HM_OK;
    case HM_FRAME_ANNOUNCE: return announce_end(ep);
    case HM_FRAME_DATA: data_end(ep, in); return HM_OK;
    case HM_FRAME_PULL:
    case HM_FRAME_DROP:
    case HM_FRAME_DONE: return hm_tcp_send_control(ep, frame) ? HM_OK : HM_ERR_PEER_PROTOCOL;
    case HM_FRAME_CREDIT:
        if (frame->value > ep->credit_total - ep->credit) return HM_ERR_PEER_PROTOCOL;
        ep->credit += frame->value;
        return HM_OK;
    case HM_FRAME_GOODBYE: return goodbye_end(ep);
    case HM_FRAME_TYPES: break;
    }
    return HM_ERR_PEER_PROTOCOL;
}

/* ---- bytes --------------------------------------------------------------------------------- */

/* Where the next bytes go; at most *bytes, which there is room for. */
static uint8_t *filling_at(const struct tcp_inbound *in, size_t *bytes)
{
    if (in->buf) return (uint8_t *)in->buf->base + in->received;
    return hm_span_write(&in->into, in->received, bytes);
}

static void filled(struct tcp_ep *ep, size_t byte_count)
{
    ep->filling->received += byte_count;
    if (!ep->filling->buf) ep->pulled_bytes += byte_count;
}

/* A part is at most the scratch, so it goes in one piece (base/buf.h). */
static void take_part(struct tcp_ep *ep, const uint8_t *part, size_t part_bytes)
{
    size_t bytes = part_bytes;
    memcpy(filling_at(ep->filling, &bytes), part, part_bytes);
    HM_ASSERT(bytes == part_bytes);
    ep->tcp->metrics.bytes_copied.value += part_bytes;
    filled(ep, part_bytes);
}

/* Returns what it cost beyond the bytes. */
static size_t feed(struct tcp_ep *ep, const uint8_t *at, const uint8_t *end)
{
    size_t cost = 0;
    while (ep->state == TCP_HELLO || ep->state == TCP_UP) {
        enum hm_status status = HM_OK;
        switch (hm_frame_read(&ep->reader, &at, end)) {
        case HM_FRAME_MORE: return cost;
        case HM_FRAME_HEAD: status = frame_begin(ep); break;
        case HM_FRAME_PART: take_part(ep, ep->reader.part, ep->reader.part_bytes); break;
        case HM_FRAME_END:
            cost += FRAME_COST;
            status = frame_end(ep);
            break;
        case HM_FRAME_BAD: status = HM_ERR_PEER_PROTOCOL; break;
        }
        if (status != HM_OK) hm_tcp_ep_fail(ep, status);
    }
    return cost;
}

/* A read that gave nothing: what it has cost, if there may be more behind it, else 0. */
static size_t read_nothing(struct tcp_ep *ep, unsigned updates)
{
    int events = 0;
    enum hm_status status = hm_tls_error(&ep->wire, ep->ssl, &events);
    if (status == HM_ERR_BUSY) {
        if (ep->tls_messages == updates) return 0;
        if (ep->tls_messages <= TCP_KEY_UPDATES_MAX) return READ_COST;
        status = HM_ERR_PEER_PROTOCOL;
    }
    ep->secure = false;
    hm_tcp_ep_fail(ep, status);
    return 0;
}

/* Reads once.  Returns what it cost; 0: nothing more for now, or the endpoint is over. */
static size_t read_once(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    uint8_t *into = tcp->scratch;
    size_t wanted = sizeof tcp->scratch, count = 0;
    bool direct = ep->filling && ep->reader.payload_left >= DIRECT_BYTES_MIN;
    if (direct || !hm_list_empty(&ep->pulling)) wanted = hm_frame_wanted(&ep->reader);
    if (direct) into = filling_at(ep->filling, &wanted);
    if (!direct && wanted > sizeof tcp->scratch) wanted = sizeof tcp->scratch;
    unsigned updates = ep->tls_messages;
    if (!hm_tls_read(&ep->wire, ep->ssl, into, wanted, &count)) return read_nothing(ep, updates);
    tcp->metrics.bytes_received.value += count;
    size_t cost = count < READ_COST ? READ_COST : count;
    if (!direct) return cost + feed(ep, into, into + count);
    filled(ep, count);
    hm_frame_skip(&ep->reader, count);
    return cost + feed(ep, into, into);
}

void hm_tcp_receive(struct tcp_ep *ep)
{
    size_t spent = 0;
    hm_ns until = hm_loop_uv_clock() + TCP_READ_MS * HM_MS;
    hm_tls_wire_begin(&ep->wire);
    while (ep->state == TCP_HELLO || ep->state == TCP_UP) {
        if (spent >= TCP_READ_BUDGET || (spent > 0 && hm_loop_uv_clock() >= until)) {
            /* The loop sees what the kernel holds, but not what TLS has taken from it. */
            if (SSL_has_pending(ep->ssl)) {
                ep->read_more = true;
                hm_tcp_turn_soon(ep);
            }
            return;
        }
        size_t cost = read_once(ep);
        if (cost == 0) return;
        spent += cost;
        if (ep->wire.drained && !SSL_has_pending(ep->ssl)) return; /* the loop asks again */
    }
}

/* ---- pull and drop ------------------------------------------------------------------------- */

bool hm_tcp_receive_control(struct tcp_ep *ep, struct hm_frame *frame)
{
    if (ep->credit_owed > 0 && ep->credit_owed >= ep->tcp->receive_bytes_max / 4) {
        *frame = (struct hm_frame){.type = HM_FRAME_CREDIT, .value = ep->credit_owed};
        ep->credit_left += ep->credit_owed;
        ep->credit_owed = 0;
        return true;
    }
    struct hm_link *link = hm_list_pop(&ep->controls);
    if (!link) return false;
    struct tcp_inbound *in = inbound_of(link);
    *frame = (struct hm_frame){.type = in->control, .value = in->id};
    if (in->control == HM_FRAME_PULL) {
        hm_list_push(&ep->pulling, &in->link);
        if (!hm_timer_active(&ep->timer)) {
            ep->pulled_bytes = 0;
            hm_timer_start(ep->tcp->loop, &ep->timer, ep->tcp->stall_max);
        }
    } else {
        ep->announces_in--;
        hm_tcp_inbound_put(ep->tcp, in);
    }
    return true;
}

/* What is pulled into belongs to somebody who may not be waiting any more: a peer that announces
 * and does not send would keep it for ever. */
void hm_tcp_receive_timer(struct tcp_ep *ep)
{
    if (hm_list_empty(&ep->pulling)) return;
    if (ep->pulled_bytes == 0) {
        hm_tcp_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return;
    }
    ep->pulled_bytes = 0;
    hm_timer_start(ep->tcp->loop, &ep->timer, ep->tcp->stall_max);
}

static void control_later(struct tcp_ep *ep, struct tcp_inbound *in, enum hm_frame_type control)
{
    in->control = (uint8_t)control;
    hm_list_push(&ep->controls, &in->link);
    hm_tcp_turn_soon(ep);
}

static void buffer_release(struct tcp_ep *ep, struct tcp_inbound *in)
{
    ep->credit_owed += hm_frame_charge((uint32_t)in->base.bytes);
    hm_buf_put(in->buf);
    in->buf = NULL;
    if (ep->credit_owed >= ep->tcp->receive_bytes_max / 4) hm_tcp_turn_soon(ep);
}

void hm_tcp_drop(struct hm_inbound *base)
{
    struct tcp_inbound *in = HM_CONTAINER_OF(base, struct tcp_inbound, base);
    struct tcp_ep *ep = in->ep;
    HM_ASSERT(ep->inbounds_out > 0);
    ep->inbounds_out--;
    if (in->buf) buffer_release(ep, in);
    if (in->id && ep->state == TCP_UP)
        control_later(ep, in, HM_FRAME_DROP);
    else if (in != &ep->nothing)
        hm_tcp_inbound_put(ep->tcp, in);
    if (ep->state == TCP_GONE) hm_tcp_ep_release(ep);
}

enum hm_status hm_tcp_pull(struct hm_inbound *base, const struct hm_span *into, hm_wire_cb done,
                           void *arg)
{
    struct tcp_inbound *in = HM_CONTAINER_OF(base, struct tcp_inbound, base);
    struct tcp_ep *ep = in->ep;
    HM_ASSERT(into->bytes >= base->bytes);
    enum hm_status status = HM_OK;
    struct tcp_inbound *taken = in;
    if (ep->state != TCP_UP) status = HM_ERR_PEER_UNREACHABLE;
    if (into->mem == HM_MEM_CUDA) status = HM_ERR_UNSUPPORTED;
    if (status == HM_OK && in == &ep->nothing && !(taken = inbound_make(ep, 0)))
        status = HM_ERR_NO_MEMORY;
    if (status != HM_OK) {
        hm_tcp_drop(base);
        return status;
    }
    HM_ASSERT(ep->inbounds_out > 0);
    ep->inbounds_out--;
    taken->done = done;
    taken->arg = arg;
    taken->into = *into;
    if (into->owner) hm_buf_get(into->owner);
    if (taken->id) {
        control_later(ep, taken, HM_FRAME_PULL);
        return HM_OK;
    }
    if (taken->buf) {
        memcpy(into->base, taken->base.data, taken->base.bytes);
        ep->tcp->metrics.bytes_copied.value += taken->base.bytes;
        buffer_release(ep, taken);
    }
    taken->status = HM_OK;
    hm_list_push(&ep->pulled, &taken->link);
    hm_tcp_turn_soon(ep);
    return HM_OK;
}

void hm_tcp_receive_callbacks(struct tcp_ep *ep)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&ep->pulled)) != NULL) {
        struct tcp_inbound *in = inbound_of(link);
        if (in->done) in->done(in->arg, in->status);
        hm_buf_put(in->into.owner);
        if (in->id && ep->state == TCP_UP)
            control_later(ep, in, HM_FRAME_DONE);
        else
            hm_tcp_inbound_put(ep->tcp, in);
    }
}

void hm_tcp_receive_abort(struct tcp_ep *ep)
{
    struct hm_link *link;
    if (ep->filling && ep->filling->buf) { /* it was never the user's */
        hm_buf_put(ep->filling->buf);
        hm_tcp_inbound_put(ep->tcp, ep->filling);
    }
    ep->filling = NULL;
    while ((link = hm_list_pop(&ep->controls)) != NULL) {
        struct tcp_inbound *in = inbound_of(link);
        if (in->control == HM_FRAME_PULL)
            hm_list_push(&ep->pulling, &in->link);
        else
            hm_tcp_inbound_put(ep->tcp, in);
    }
    while ((link = hm_list_pop(&ep->pulling)) != NULL) {
        inbound_of(link)->status = ep->why;
        hm_list_push(&ep->pulled, link);
    }
}
