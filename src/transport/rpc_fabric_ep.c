/* transport/rpc_fabric_ep.c - the endpoint of a fast path: what arrives over it, its pings, its end.
 *
 * Owns nothing: ep->user is the path (struct hm_fast), NULL once it has been told of the end.
 * Happy path: up() begins it; tagged messages go to rpc_fabric_in.c, acknowledgements to
 * rpc_fabric_out.c; when nothing is heard it is pinged, sooner where something is not acknowledged.
 * Failure modes: three pings that meet silence while the connection answers are a loss: a stopped or
 * overloaded peer is silent on both.  The provider's down() is one, too; who is dead is decided by
 * the connection.  Garbage costs the connection.
 * Invariant: no message is handled whose connection is not up. */
#include "transport/rpc_fast.h"

#include "base/log.h"

enum { TICKS_A_PING = 8, TICKS_A_PING_BUSY = 32 };

static void fabric_ping(struct hm_fast *fast, enum hm_rpc_kind kind, uint64_t id)
{
    struct hm_rpc_header header = {.kind = kind, .id = id};
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&header, bytes);
    enum hm_status status =
        fast->blocked
            ? HM_ERR_BUSY
            : fast->rpc->conf.fabric->send(fast->ep, bytes, sizeof bytes, NULL, 0, NULL, NULL);
    if (status == HM_ERR_BUSY) fast->blocked = true;
    if (kind == HM_RPC_PONG) {
        fast->pong_id = id;
        fast->pong_due = status == HM_ERR_BUSY;
    }
}

void hm_fast_flush_pong(struct hm_fast *fast)
{
    if (fast->state == HM_FAST_UP && fast->pong_due && !fast->blocked)
        fabric_ping(fast, HM_RPC_PONG, fast->pong_id);
}

static void tick_start(struct hm_fast *fast)
{
    unsigned ticks = fast->unacked_count > 0 ? TICKS_A_PING_BUSY : TICKS_A_PING;
    hm_timer_start(fast->rpc->loop, &fast->tick, fast->rpc->conf.ping_interval / ticks);
}

void hm_fast_watch(struct hm_fast *fast)
{
    struct hm_loop *loop = fast->rpc->loop;
    if (fast->state == HM_FAST_UP &&
        fast->tick.due > hm_loop_now(loop) + fast->rpc->conf.ping_interval / TICKS_A_PING_BUSY)
        tick_start(fast);
}

static void on_tick(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    if (fast->state != HM_FAST_UP) return;
    if (fast->heard)
        fast->missed = 0;
    else if (fast->ping_out && fast->conn->heard_at > fast->ping_sent)
        fast->missed++;
    if (fast->missed >= HM_RPC_PINGS_MISSED_MAX) {
        hm_fast_fail(fast, HM_ERR_PEER_UNREACHABLE);
        return;
    }
    if (!fast->heard) {
        fast->ping_out = true;
        fast->ping_sent = hm_loop_now(fast->rpc->loop);
        fabric_ping(fast, HM_RPC_PING, ++fast->ping_id);
        hm_conn_ping(fast->conn);
    }
    fast->heard = false;
    tick_start(fast);
}

static void on_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                  const struct hm_hello *hello)
{
    struct hm_fast *fast = ep->user;
    (void)arg, (void)hello;
    if (!fast || !fast->conn || fast->state != HM_FAST_OFFERED) return; /* given up meanwhile */
    char id[HM_NODE_ID_TEXT_BYTES];
    fast->state = HM_FAST_UP;
    fast->heard = true;
    fast->ping_out = false;
    fast->missed = 0;
    fast->failures = 0;
    hm_fast_hold_end(fast);
    fast->rpc->fabric_peers.value++;
    hm_fast_say_why(fast->conn->peer, "");
    hm_log(HM_LOG_INFO, "fabric", "%.16s: over %s from now on", hm_node_id_text(node, id),
           fast->rpc->conf.fabric->name);
    fast->tick = (struct hm_timer){.cb = on_tick, .arg = fast};
    tick_start(fast);
    hm_conn_flush(fast->conn);
}

static void on_message(void *arg, struct hm_ep *ep, const void *bytes, size_t byte_count,
                       struct hm_inbound *in)
{
    struct hm_fast *fast = ep->user;
    struct hm_conn *conn = fast ? fast->conn : NULL;
    struct hm_rpc_header header;
    struct hm_rpc *rpc = arg;
    if (!conn || conn->state != HM_CONN_UP || rpc->closing) {
        hm_inbound_drop(in);
        return;
    }
    enum hm_status status = hm_rpc_header_decode(bytes, byte_count, &header);
    bool tagged = status == HM_OK && header.tag != 0;
    bool untagged =
        status == HM_OK && !header.tag && in->bytes == 0 &&
        (header.kind == HM_RPC_PING || header.kind == HM_RPC_PONG || header.kind == HM_RPC_ACK);
    if (!tagged && !untagged) {
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    const uint8_t *user = (const uint8_t *)bytes + HM_RPC_HEADER_BYTES;
    size_t user_bytes = hm_rpc_header_user_bytes(&header, byte_count);
    fast->heard = true;
    if (tagged) {
        hm_fast_receive_tagged(conn, &header, user, user_bytes, in, true);
        return;
    }
    hm_inbound_drop(in);
    if (header.kind == HM_RPC_ACK) {
        hm_fast_receive_ack(conn, &header, user, user_bytes);
    } else if (header.kind == HM_RPC_PING) {
        if (fast->state == HM_FAST_UP) fabric_ping(fast, HM_RPC_PONG, header.id);
    } else if (fast->ping_out && header.id == fast->ping_id) {
        fast->ping_out = false;
        hm_peer_measured(conn->peer, hm_loop_now(rpc->loop) - fast->ping_sent);
    }
}

static void on_writable(void *arg, struct hm_ep *ep)
{
    struct hm_fast *fast = ep->user;
    (void)arg;
    if (!fast) return;
    fast->blocked = false;
    if (fast->conn && fast->conn->state == HM_CONN_UP) hm_conn_flush(fast->conn);
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct hm_fast *fast = ep->user;
    (void)arg;
    if (!fast) return;
    ep->user = NULL;
    if (!fast->conn) {
        fast->ep = NULL;
        hm_fast_destroy(fast);
        return;
    }
    hm_fast_lose(fast, why);
    hm_fast_ended(fast);
}

const struct hm_transport_sink hm_fast_sink = {
    .up = on_up, .message = on_message, .writable = on_writable, .down = on_down};
