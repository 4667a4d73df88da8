/* sim/net_message.c - messages of the simulated network: send, announce, pull, drop, credit.
 *
 * Owns:        sends and inbounds, until they have called back or been dropped.
 *
 *   eager:      QUEUED ──(wire takes it: bytes copied, done OK)──► MESSAGE ... pull or drop ──►
 * CREDIT announced:  QUEUED ──► ANNOUNCED ──(PULL)──► PULLED ──(TAKEN)──► done OK └──(DROP)──► done
 * CANCELED
 *
 * Failure:     whatever is left when its endpoint ends calls back with the endpoint's reason.
 * Invariant:   a sender that keeps to credit_max and announces_max never makes its receiver break
 * them.
 *
 * Unkind on purpose: eager bytes are read when the wire takes them, not when send returns; headers
 * are wiped when message() returns, and inbounds when they are pulled; pieces of one payload
 * overtake each other. */
#include "sim/net_internal.h"

#include <stdlib.h>
#include <string.h>

enum { PIECES_MAX = 4 };
#define TAKE_NS_MAX (200 * HM_US)

static struct sim_ep *ep_of(struct hm_ep *base)
{
    return HM_CONTAINER_OF(base, struct sim_ep, base);
}

static void writable_owed(struct sim_ep *ep)
{
    struct hm_net *net = ep->node->net;
    if (!ep->starved || ep->state != EP_UP || hm_timer_active(&ep->writable)) return;
    hm_timer_start(net->loop, &ep->writable, sim_net_draw(net, 0, TAKE_NS_MAX));
}

/* How long a node's uplink is busy until it has sent these bytes too; pulled payloads stand in a
 * queue of their own. */
static hm_ns uplink_wait(struct sim_node *node, size_t bytes, hm_ns *free_at)
{
    uint64_t rate = node->net->options.bytes_per_second;
    if (rate == 0) return 0;
    hm_ns now = hm_loop_now(node->net->loop);
    *free_at = (*free_at > now ? *free_at : now) + bytes * HM_S / rate;
    return *free_at - now;
}

/* ---- sending
 * --------------------------------------------------------------------------------------- */

/* Calls back, then lets go of the buffers. */
static void send_finish(struct send *send, enum hm_status status)
{
    struct sim_ep *ep = send->ep;
    hm_list_remove(&send->link);
    hm_timer_stop(ep->node->net->loop, &send->timer);
    if (send->eager)
        ep->queued--;
    else
        ep->announced--;
    if (send->done) send->done(send->arg, status);
    for (unsigned i = 0; i < send->span_count; i++) hm_buf_put(send->span[i].owner);
    free(send);
    writable_owed(ep);
}

/* Copies `bytes` from `offset` of a send's payload, to `place` of a span. */
static void payload_copy(const struct send *send, size_t offset, size_t bytes,
                         const struct hm_span *to, size_t place)
{
    for (unsigned i = 0; i < send->span_count && bytes > 0;) {
        const struct hm_span *span = &send->span[i];
        if (offset >= span->bytes) {
            offset -= span->bytes;
            i++;
            continue;
        }
        size_t part = bytes;
        uint8_t *into = hm_span_write(to, place, &part);
        const uint8_t *from = hm_span_read(span, offset, &part);
        memcpy(into, from, part);
        place += part;
        bytes -= part;
        offset += part;
    }
    HM_ASSERT(bytes == 0);
}

static void wire_takes(struct hm_timer *timer)
{
    struct send *send = timer->arg;
    struct sim_ep *ep = send->ep;
    size_t data_bytes = send->header_bytes + (send->eager ? send->bytes : 0);
    struct packet *packet = sim_packet_create(
        ep->conn, ep->side, send->eager ? PACKET_MESSAGE : PACKET_ANNOUNCE, data_bytes);
    packet->id = send->id;
    packet->bytes = send->bytes;
    packet->header_bytes = send->header_bytes;
    memcpy(packet->data, send->header, send->header_bytes);
    const struct hm_span behind = {.base = packet->data + send->header_bytes, .bytes = send->bytes};
    if (send->eager) payload_copy(send, 0, send->bytes, &behind, 0);
    sim_packet_send(packet, uplink_wait(ep->node, data_bytes, &ep->node->uplink_free_at));
    if (send->eager)
        send_finish(send, HM_OK);
    else
        send->state = SEND_ANNOUNCED;
}

static bool send_admitted(struct sim_ep *ep, bool eager, size_t bytes)
{
    const struct sim_node *node = ep->node;
    if (node->lawless) return true;
    if (sim_net_chance(node->net, node->net->options.busy_per_million)) {
        ep->starved = true;
        writable_owed(ep);
        return false;
    }
    bool room = ep->announced < node->limits.announces_max;
    if (eager)
        room = ep->queued < node->limits.sends_max &&
               (bytes == 0 || ep->credit_used + bytes <= ep->credit_max);
    if (!room) ep->starved = true;
    return room;
}

enum hm_status sim_send(struct hm_ep *base, const void *header, size_t header_bytes,
                        const struct hm_span *payload, unsigned span_count, hm_wire_cb done,
                        void *arg)
{
    struct sim_ep *ep = ep_of(base);
    struct hm_net *net = ep->node->net;
    HM_ASSERT(span_count <= HM_SPANS_MAX);
    if (ep->state != EP_UP) return HM_ERR_PEER_UNREACHABLE;
    size_t bytes = 0;
    for (unsigned i = 0; i < span_count; i++) {
        HM_ASSERT(payload[i].mem == HM_MEM_HOST);
        if (payload[i].bytes > HM_PAYLOAD_BYTES_MAX - bytes) return HM_ERR_TOO_BIG;
        bytes += payload[i].bytes;
    }
    if (header_bytes > HM_HEADER_BYTES_MAX) return HM_ERR_TOO_BIG;
    bool eager = bytes <= ep->node->limits.eager_bytes_max && bytes <= ep->credit_max;
    if (!send_admitted(ep, eager, bytes)) {
        net->stats.busy++;
        return HM_ERR_BUSY;
    }
    struct send *send = calloc(1, sizeof *send + header_bytes);
    if (!send) return HM_ERR_NO_MEMORY;
    send->timer = (struct hm_timer){.cb = wire_takes, .arg = send};
    send->ep = ep;
    send->id = ep->id_next++;
    send->eager = eager;
    send->bytes = bytes;
    send->header_bytes = header_bytes;
    if (header_bytes > 0) memcpy(send->header, header, header_bytes);
    send->done = done;
    send->arg = arg;
    send->span_count = span_count;
    for (unsigned i = 0; i < span_count; i++) {
        send->span[i] = payload[i];
        if (payload[i].owner) hm_buf_get(payload[i].owner);
    }
    hm_list_push(&ep->sends, &send->link);
    if (eager) {
        ep->queued++;
        ep->credit_used += bytes;
    } else {
        ep->announced++;
    }
    net->stats.messages++;
    hm_timer_start(net->loop, &send->timer, sim_net_draw(net, 0, TAKE_NS_MAX));
    if (sim_net_chance(net, net->options.break_per_million_messages)) sim_conn_break(ep->conn);
    return HM_OK;
}

static struct send *send_find(struct sim_ep *ep, uint64_t id, enum send_state state)
{
    HM_LIST_EACH (link, &ep->sends) {
        struct send *send = HM_CONTAINER_OF(link, struct send, link);
        if (send->id == id) return send->state == state ? send : NULL;
    }
    return NULL;
}

/* The receiver wants it: in one to four pieces, which arrive in any order. */
static void send_pulled(struct send *send)
{
    struct sim_ep *ep = send->ep;
    struct sim_node *node = ep->node;
    size_t pieces = (size_t)sim_net_draw(node->net, 1, PIECES_MAX), offset = 0;
    if (pieces > send->bytes) pieces = 1;
    send->state = SEND_PULLED;
    for (size_t i = 0; i < pieces; i++) {
        size_t left = send->bytes - offset;
        size_t bytes = i + 1 < pieces ? left / (pieces - i) : left;
        struct packet *packet = sim_packet_create(ep->conn, ep->side, PACKET_PIECE, 0);
        packet->id = send->id;
        packet->offset = offset;
        packet->bytes = bytes;
        sim_packet_send(packet, uplink_wait(node, bytes, &node->bulk_free_at));
        offset += bytes;
    }
}

/* ---- receiving
 * ------------------------------------------------------------------------------------- */

static void inbound_free(struct inbound *in)
{
    struct sim_node *node = in->node;
    hm_list_remove(&in->link);
    node->inbounds_open--;
    free(in->packet);
    free(in);
    sim_node_check_closed(node);
}

/* The other side may send as much again. */
static void inbound_release(struct inbound *in)
{
    struct sim_ep *ep = in->ep;
    if (!in->packet)
        ep->announced_held--;
    else if (in->packet->bytes > 0) {
        ep->eager_held -= in->packet->bytes;
        if (ep->conn) sim_packet_say(ep->conn, ep->side, PACKET_CREDIT, 0, in->packet->bytes);
    }
}

static void pull_finish(struct inbound *in, enum hm_status status)
{
    hm_wire_cb done = in->done;
    void *arg = in->arg;
    struct hm_buf *owner = in->into.owner;
    hm_timer_stop(in->net->loop, &in->timer);
    inbound_free(in);
    if (done) done(arg, status);
    hm_buf_put(owner);
}

static void eager_copied(struct hm_timer *timer)
{
    struct inbound *in = timer->arg;
    const struct packet *packet = in->packet;
    if (packet->bytes > 0)
        memcpy(in->into.base, packet->data + packet->header_bytes, packet->bytes);
    inbound_release(in);
    pull_finish(in, HM_OK);
}

enum hm_status sim_pull(struct hm_inbound *base, const struct hm_span *into, hm_wire_cb done,
                        void *arg)
{
    struct inbound *in = HM_CONTAINER_OF(base, struct inbound, base);
    struct sim_ep *ep = in->ep;
    HM_ASSERT(!in->pulled && into->bytes >= base->bytes && into->mem == HM_MEM_HOST);
    if (!ep || ep->state != EP_UP) {
        inbound_free(in);
        return HM_ERR_PEER_UNREACHABLE;
    }
    in->pulled = true;
    in->into = *into;
    in->done = done;
    in->arg = arg;
    if (into->owner) hm_buf_get(into->owner);
    if (in->packet)
        hm_timer_start(in->net->loop, &in->timer, sim_net_draw(in->net, 0, TAKE_NS_MAX));
    else
        sim_packet_say(ep->conn, ep->side, PACKET_PULL, in->id, 0);
    base->ops = NULL; /* gone, for the user */
    base->data = NULL;
    return HM_OK;
}

void sim_drop(struct hm_inbound *base)
{
    struct inbound *in = HM_CONTAINER_OF(base, struct inbound, base);
    struct sim_ep *ep = in->ep;
    HM_ASSERT(!in->pulled);
    if (ep && ep->state == EP_UP) {
        inbound_release(in);
        if (!in->packet) sim_packet_say(ep->conn, ep->side, PACKET_DROP, in->id, 0);
    }
    inbound_free(in);
}

/* A message or an announcement; true if the packet is kept. */
static bool message_arrived(struct sim_ep *ep, struct packet *packet)
{
    struct sim_node *node = ep->node;
    bool eager = packet->kind == PACKET_MESSAGE;
    bool too_much = eager ? packet->bytes > node->receive_bytes_max - ep->eager_held
                          : ep->announced_held == node->limits.announces_max;
    if (too_much) {
        sim_ep_end(ep, HM_ERR_PEER_PROTOCOL);
        return false;
    }
    struct inbound *in = calloc(1, sizeof *in);
    uint8_t *header = malloc(packet->header_bytes + 1);
    HM_ASSERT(in && header);
    in->base.ops = &hm_transport_sim;
    in->base.bytes = packet->bytes;
    in->ep = ep;
    in->node = node;
    in->net = node->net;
    in->id = packet->id;
    in->timer = (struct hm_timer){.cb = eager_copied, .arg = in};
    hm_list_push(&ep->inbounds, &in->link);
    node->inbounds_open++;
    if (eager) {
        in->packet = packet;
        if (packet->bytes > 0) in->base.data = packet->data + packet->header_bytes;
        ep->eager_held += packet->bytes;
    } else {
        ep->announced_held++;
    }
    size_t header_bytes = packet->header_bytes;
    memcpy(header, packet->data, header_bytes);
    node->sink.message(node->sink.arg, &ep->base, header, header_bytes, &in->base);
    memset(header, 0xdd, header_bytes);
    free(header);
    return eager;
}

static void piece_arrived(struct sim_ep *ep, const struct packet *packet)
{
    struct sim_ep *sender = ep->conn->side[!ep->side];
    struct send *send = sender ? send_find(sender, packet->id, SEND_PULLED) : NULL;
    if (!send) return; /* it has gone; so will we */
    HM_LIST_EACH (link, &ep->inbounds) {
        struct inbound *in = HM_CONTAINER_OF(link, struct inbound, link);
        if (in->id != packet->id || !in->pulled || in->packet) continue;
        payload_copy(send, packet->offset, packet->bytes, &in->into, packet->offset);
        in->arrived += packet->bytes;
        ep->node->net->stats.bytes_pulled += packet->bytes;
        if (in->arrived < send->bytes) return;
        sim_packet_say(ep->conn, ep->side, PACKET_TAKEN, packet->id, 0);
        inbound_release(in);
        pull_finish(in, HM_OK);
        return;
    }
}

bool sim_message_receive(struct sim_ep *ep, struct packet *packet)
{
    struct send *send;
    switch (packet->kind) {
    case PACKET_MESSAGE:
    case PACKET_ANNOUNCE: return message_arrived(ep, packet);
    case PACKET_PULL:
        if ((send = send_find(ep, packet->id, SEND_ANNOUNCED))) send_pulled(send);
        break;
    case PACKET_DROP:
        if ((send = send_find(ep, packet->id, SEND_ANNOUNCED))) send_finish(send, HM_ERR_CANCELED);
        break;
    case PACKET_PIECE: piece_arrived(ep, packet); break;
    case PACKET_TAKEN:
        if ((send = send_find(ep, packet->id, SEND_PULLED))) send_finish(send, HM_OK);
        break;
    case PACKET_CREDIT:
        ep->credit_used -= packet->bytes;
        writable_owed(ep);
        break;
    default: HM_ASSERT(!"a packet of an unknown kind");
    }
    return false;
}

/* ---- the end
 * --------------------------------------------------------------------------------------- */

void sim_messages_stop(struct sim_ep *ep)
{
    struct hm_loop *loop = ep->node->net->loop;
    HM_LIST_EACH (link, &ep->sends) {
        hm_timer_stop(loop, &HM_CONTAINER_OF(link, struct send, link)->timer);
    }
    HM_LIST_EACH (link, &ep->inbounds) {
        hm_timer_stop(loop, &HM_CONTAINER_OF(link, struct inbound, link)->timer);
    }
}

void sim_messages_end(struct sim_ep *ep, enum hm_status why)
{
    struct hm_link pulls;
    hm_list_init(&pulls);
    for (struct hm_link *link; (link = hm_list_pop(&ep->inbounds));) {
        struct inbound *in = HM_CONTAINER_OF(link, struct inbound, link);
        in->ep = NULL; /* its owner still has to drop it */
        if (in->pulled) hm_list_push(&pulls, link);
    }
    for (struct hm_link *link; (link = hm_list_pop(&ep->sends));)
        send_finish(HM_CONTAINER_OF(link, struct send, link), why);
    for (struct hm_link *link; (link = hm_list_pop(&pulls));)
        pull_finish(HM_CONTAINER_OF(link, struct inbound, link), why);
}
