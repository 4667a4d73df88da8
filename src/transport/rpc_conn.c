/* transport/rpc_conn.c - connections: what the transport tells us about them, and their pings.
 *
 * Owns struct hm_conn, from connect() or up() to down().
 *
 * Happy path: up() names the node, peer.c attaches the connection, messages go to rpc_call.c
 * (replies) and rpc_serve.c (requests), a timer pings when nothing has been heard for an interval.
 * Failure modes: garbage closes the connection with HM_ERR_PEER_PROTOCOL, so do three missed pings
 * (HM_ERR_PEER_UNREACHABLE) and a peer that lets our payloads rot after their deadlines, or sends its
 * own long after theirs.  down()
 * ends every call and loses every request of the connection.
 * Invariant: an endpoint without a connection (ep->user NULL) is one that we have turned away. */
#include "transport/rpc_fast.h"

#include "base/log.h"

struct hm_conn *hm_conn_create(struct hm_rpc *rpc, bool dialed)
{
    struct hm_conn *conn = hm_slots_take(&rpc->conn_slots);
    if (!conn) return NULL;
    *conn = (struct hm_conn){.rpc = rpc, .dialed = dialed, .born = rpc->born_next++};
    hm_list_init(&conn->link);
    hm_list_init(&conn->calls);
    hm_list_init(&conn->requests);
    hm_list_init(&conn->pulls);
    hm_list_init(&conn->queue);
    hm_list_init(&conn->wire);
    conn->ping_id = hm_loop_random(rpc->loop, HM_RANDOM_IDS);
    return conn;
}

void hm_conn_destroy(struct hm_conn *conn)
{
    HM_ASSERT(hm_list_empty(&conn->calls) && hm_list_empty(&conn->requests));
    HM_ASSERT(hm_list_empty(&conn->queue) && hm_list_empty(&conn->wire));
    hm_timer_stop(conn->rpc->loop, &conn->timer);
    while (hm_list_pop(&conn->pulls)) {
    } /* those of a fast path may end a little later */
    hm_list_remove(&conn->link);
    if (conn->ep) conn->ep->user = NULL;
    hm_slots_give(&conn->rpc->conn_slots, conn);
}

void hm_conn_fail(struct hm_conn *conn, enum hm_status why)
{
    if (conn->state == HM_CONN_CLOSING) return;
    conn->state = HM_CONN_CLOSING;
    conn->why = why;
    hm_timer_stop(conn->rpc->loop, &conn->timer);
    if (conn->peer) hm_peer_choose_sender(conn->peer);
    conn->rpc->conf.transport->disconnect(conn->ep);
}

/* ---- pings */

/* True: the peer holds more of our payloads past their deadline than a slow network explains. */
static bool wire_is_rotten(const struct hm_conn *conn)
{
    hm_ns now = hm_loop_now(conn->rpc->loop);
    const struct hm_link *lists[] = {&conn->wire, conn->fast ? &conn->fast->unacked : NULL};
    unsigned dead = 0;
    for (unsigned i = 0; i < HM_COUNT_OF(lists) && lists[i]; i++)
        HM_LIST_EACH (link, lists[i]) {
            const struct hm_send *send = HM_CONTAINER_OF(link, struct hm_send, link);
            if (send->expires < now && now - send->expires > conn->rpc->conf.ping_interval) dead++;
        }
    return dead > HM_RPC_DEAD_MAX;
}

/* True: a request's payload is still coming, long after its deadline. */
static bool pull_is_rotten(const struct hm_conn *conn)
{
    hm_ns now = hm_loop_now(conn->rpc->loop);
    HM_LIST_EACH (link, &conn->pulls) {
        const struct hm_request *request = HM_CONTAINER_OF(link, struct hm_request, pull_link);
        if (request->deadline < now && now - request->deadline > conn->rpc->conf.ping_interval)
            return true;
    }
    return false;
}

/* Of two connections the one that is not the sender is spare once both sides must know so; the side
 * that dialled it closes it, so that the two never close one each. */
static bool is_spare(const struct hm_conn *conn)
{
    const struct hm_peer *peer = conn->peer;
    if (!hm_list_empty(&conn->calls) || !hm_list_empty(&conn->requests)) return false;
    if (!hm_list_empty(&conn->queue) || !hm_list_empty(&conn->wire)) return false;
    if (conn->fast && conn->fast->tagged_count > 0) return false;
    hm_ns idle = hm_loop_now(conn->rpc->loop) - conn->used;
    if (idle < HM_RPC_IDLE_INTERVALS * conn->rpc->conf.ping_interval) return false;
    if (peer->sender != conn) return conn->dialed;
    /* Nobody here needs this peer; its place is worth something only where places are few. */
    const struct hm_slots *slots = &conn->rpc->conn_slots;
    return peer->refs == 0 && peer->holds == 0 && slots->used > slots->count / 4 * 3 &&
           idle > 4 * HM_RPC_IDLE_INTERVALS * conn->rpc->conf.ping_interval;
}

static void on_tick(struct hm_timer *timer)
{
    struct hm_conn *conn = timer->arg;
    if (conn->heard)
        conn->missed = 0;
    else if (conn->ping_out)
        conn->missed++;
    if (conn->missed >= HM_RPC_PINGS_MISSED_MAX) {
        hm_conn_fail(conn, HM_ERR_PEER_UNREACHABLE);
        return;
    }
    hm_conn_discard_expired(conn);
    if (wire_is_rotten(conn) || pull_is_rotten(conn) || hm_conn_is_hog(conn)) {
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    conn->records_gone = 0;
    conn->reply_bytes_gone = 0;
    if (is_spare(conn)) {
        hm_conn_fail(conn, HM_ERR_CANCELED);
        return;
    }
    if (!conn->heard) hm_conn_ping(conn);
    conn->heard = false;
    hm_timer_start(conn->rpc->loop, &conn->timer, conn->rpc->conf.ping_interval);
}

static void receive_pong(struct hm_conn *conn, uint64_t id)
{
    if (!conn->ping_out || id != conn->ping_id) return; /* late: a newer ping is out */
    conn->ping_out = false;
    if (hm_conn_is_fast(conn)) return; /* not the way that calls take */
    hm_peer_measured(conn->peer, hm_loop_now(conn->rpc->loop) - conn->ping_sent);
}

/* ---- places: when they are nearly all taken, each newcomer takes one from somebody */

/* Nobody here would miss it: not dialled by us, and no call, request or user needs its peer. */
static bool is_dispensable(const struct hm_conn *conn)
{
    const struct hm_peer *peer = conn->peer;
    return !conn->dialed && conn->state == HM_CONN_UP && peer->refs == 0 && peer->holds == 0;
}

/* A few are drawn by chance, and the youngest of them goes: strangers who come in masses meet
 * mostly each other, nothing that they do makes a place safe, and who has been here for long
 * mostly stays. */
static void make_room(struct hm_rpc *rpc)
{
    enum { DRAWN = 4 };
    struct hm_conn *drawn[DRAWN] = {NULL}, *youngest = NULL;
    unsigned seen = 0;
    if (rpc->conn_slots.used <= rpc->conn_slots.count / 8 * 7) return;
    for (struct hm_map_node *node = NULL; (node = hm_map_next(&rpc->peers, node));) {
        const struct hm_peer *peer = HM_CONTAINER_OF(node, struct hm_peer, node);
        HM_LIST_EACH (link, &peer->conns) {
            struct hm_conn *conn = HM_CONTAINER_OF(link, struct hm_conn, link);
            if (!is_dispensable(conn)) continue;
            uint64_t at =
                seen < DRAWN ? seen : hm_loop_random(rpc->loop, HM_RANDOM_IDS) % (seen + 1);
            if (at < DRAWN) drawn[at] = conn; /* reservoir sampling */
            seen++;
        }
    }
    for (unsigned i = 0; i < DRAWN; i++)
        if (drawn[i] && (!youngest || drawn[i]->born > youngest->born)) youngest = drawn[i];
    if (youngest) hm_conn_fail(youngest, HM_ERR_BUSY);
}

/* ---- the transport's sink */

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                  const struct hm_hello *hello)
{
    struct hm_rpc *rpc = arg;
    struct hm_conn *conn = ep->user;
    if (conn && conn->state != HM_CONN_DIALING) return; /* given up meanwhile */
    if (!conn) {
        if (!rpc->closing) make_room(rpc);
        conn = rpc->closing ? NULL : hm_conn_create(rpc, false);
        if (!conn) {
            rpc->conf.transport->disconnect(ep);
            return;
        }
        conn->ep = ep;
        ep->user = conn;
    }
    struct hm_peer *peer = NULL;
    if (hm_node_id_equal(node, rpc->self))
        hm_conn_fail(conn, HM_ERR_INVALID);
    else if (conn->peer && !hm_node_id_equal(node, &conn->peer->id))
        hm_conn_fail(conn, HM_ERR_PEER_DENIED);
    else if ((peer = conn->peer ? conn->peer : hm_peer_find_or_make(rpc, node)) == NULL)
        hm_conn_fail(conn, HM_ERR_BUSY);
    if (!peer) return;
    hm_peer_learn_all(peer, &hello->listening);
    peer->wire_minor = hello->wire_minor;
    conn->state = HM_CONN_UP;
    conn->timer.cb = on_tick;
    conn->timer.arg = conn;
    conn->used = hm_loop_now(rpc->loop);
    rpc->connections.value++;
    hm_timer_start(rpc->loop, &conn->timer, rpc->conf.ping_interval);
    conn->peer = peer;
    hm_fast_start(conn, hello);
    hm_peer_attach(peer, conn);
}

void hm_conn_receive(struct hm_conn *conn, const struct hm_rpc_header *header, const void *user,
                     size_t user_bytes, struct hm_inbound *in)
{
    conn->used = hm_loop_now(conn->rpc->loop);
    if (header->kind == HM_RPC_REQUEST)
        hm_request_receive(conn, header, user, user_bytes, in);
    else
        hm_call_receive(conn, header, user, user_bytes, in);
}

/* Those that carry nothing of the user's. */
static void receive_control(struct hm_conn *conn, const struct hm_rpc_header *header,
                            const uint8_t *user, size_t user_bytes)
{
    switch (header->kind) {
    case HM_RPC_CANCEL: hm_request_receive_cancel(conn, header->id); break;
    case HM_RPC_PING: hm_conn_pong(conn, header->id); break;
    case HM_RPC_PONG: receive_pong(conn, header->id); break;
    case HM_RPC_LOST: hm_fast_receive_lost(conn, header, user, user_bytes); break;
    case HM_RPC_ACK: hm_fast_receive_ack(conn, header, user, user_bytes); break;
    default: HM_ASSERT(false);
    }
}

static void on_message(void *arg, struct hm_ep *ep, const void *bytes, size_t byte_count,
                       struct hm_inbound *in)
{
    struct hm_rpc *rpc = arg;
    struct hm_conn *conn = ep->user;
    struct hm_rpc_header header;
    if (!conn || conn->state != HM_CONN_UP || rpc->closing) {
        hm_inbound_drop(in);
        return;
    }
    enum hm_status status = hm_rpc_header_decode(bytes, byte_count, &header);
    bool may_carry =
        status == HM_OK && (header.kind <= HM_RPC_REPLY || header.kind == HM_RPC_OFFER);
    if (status == HM_OK && !may_carry && in->bytes > 0) status = HM_ERR_PEER_PROTOCOL;
    if (status == HM_OK && (header.kind >= HM_RPC_OFFER || header.tag) && !conn->proved)
        status = HM_ERR_PEER_PROTOCOL; /* nothing of the fabric is for strangers */
    if (status != HM_OK) {
        hm_inbound_drop(in);
        hm_log(HM_LOG_INFO, "rpc", "a peer sent %zu bytes that are no header of ours", byte_count);
        hm_conn_fail(conn, status);
        return;
    }
    conn->heard = true;
    conn->heard_at = hm_loop_now(rpc->loop);
    const uint8_t *user = (const uint8_t *)bytes + HM_RPC_HEADER_BYTES;
    size_t user_bytes = hm_rpc_header_user_bytes(&header, byte_count);
    if (header.tag) {
        hm_fast_receive_tagged(conn, &header, user, user_bytes, in, false);
    } else if (header.kind == HM_RPC_OFFER) {
        hm_fast_receive_offer(conn, &header, in);
    } else if (may_carry) {
        hm_conn_receive(conn, &header, user, user_bytes, in);
    } else {
        hm_inbound_drop(in);
        receive_control(conn, &header, user, user_bytes);
    }
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    struct hm_conn *conn = ep->user;
    (void)arg;
    if (!conn) return;
    conn->blocked = false;
    if (conn->state == HM_CONN_UP) hm_conn_flush(conn);
}

/* What a call on a broken connection ends with: something about the peer, unless we are closing. */
static enum hm_status why_for_calls(const struct hm_rpc *rpc, enum hm_status why)
{
    if (rpc->closing) return HM_ERR_CANCELED;
    return hm_status_scope(why) == HM_SCOPE_PEER ? why : HM_ERR_PEER_RESET;
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct hm_rpc *rpc = arg;
    struct hm_conn *conn = ep->user;
    if (!conn) return;
    bool was_up = conn->timer.cb != NULL;
    if (conn->state == HM_CONN_CLOSING) why = conn->why;
    conn->state = HM_CONN_CLOSING;
    conn->why = why;
    struct hm_peer *peer = conn->peer;
    if (was_up) {
        rpc->connections.value--;
        hm_peer_choose_sender(peer);
        hm_conn_discard_queue(conn);
        hm_fast_orphan(conn);
        struct hm_link *link;
        while ((link = hm_list_pop(&conn->requests)))
            hm_request_lose(HM_CONTAINER_OF(link, struct hm_request, conn_link));
        while (!hm_list_empty(&conn->calls))
            hm_call_finish(HM_CONTAINER_OF(conn->calls.next, struct hm_call, link),
                           why_for_calls(rpc, why));
    }
    struct hm_dial *dial = conn->dial;
    hm_conn_destroy(conn);
    if (dial) {
        dial->conn = NULL;
        hm_dial_finish(dial, why == HM_OK ? HM_ERR_PEER_RESET : why, NULL);
    } else if (peer && was_up) {
        hm_peer_detach(peer, why);
    } else if (peer) {
        hm_peer_dial_lost(peer);
    }
}

const struct hm_transport_sink hm_rpc_sink = {
    .up = on_up, .message = on_message, .writable = on_writable, .down = on_down};
