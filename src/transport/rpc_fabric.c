/* transport/rpc_fabric.c - the fast path of a connection: how it comes and goes.
 *
 * Owns struct hm_fast.  A connection between two nodes that have proved the fabric's key to each
 * other has one, and with it an endpoint of the fabric while it lasts.
 *
 *           the dialler's retry timer, or its OFFER           up() of the endpoint
 *      IDLE --------------------------------------> OFFERED ----------------------> UP
 *       ^                                              |  down(), LOST, refused      | down(), LOST,
 *       |   our endpoint is down and we have said so,  v                             | no pong
 *       +---------------- and so has the other side - LOST <-------------------------+
 *
 * The side that dialled the connection makes the attempts, numbers them, and offers first; the
 * other side answers with its own offer.  Either side says LOST(attempt) once its endpoint is down,
 * and only when both have said it what was under way goes over the connection: a peer that has died
 * gets nothing more, one that lives nothing twice.
 *
 * Failure modes: every end of an attempt is a LOST on both sides and a line of why; the dialler tries
 * again after 1 s to 60 s, but not against other settings.  An attempt waits until every message of
 * the last one has been acknowledged.  Garbage costs the connection.
 * Invariants: fast->ep is set from offer() to down(); messages are held (hm_conn_holds) for
 * HOLD_MAX at most before the first attempt is decided, so that none goes over the connection that
 * the fabric would have carried. */
#include "transport/rpc_internal.h"

#include "base/log.h"

#include <stdio.h>

enum { ATTEMPTS_MAX = 65535, TICKS_A_PING = 8 };
#define HOLD_MAX    (2 * HM_S)
#define RETRY_FIRST (1 * HM_S)
#define RETRY_MAX   (60 * HM_S)

static void retry_later(struct hm_fast *fast);

static void say_why(struct hm_peer *peer, const char *why)
{
    (void)snprintf(peer->why_not_fast, sizeof peer->why_not_fast, "%s", why);
}

static void hold_end(struct hm_fast *fast)
{
    fast->hold = false;
    hm_timer_stop(fast->rpc->loop, &fast->hold_timer);
}

/* ---- what is said over the connection, when it takes it */

static bool say_lost(struct hm_fast *fast)
{
    struct hm_rpc_header header = {
        .kind = HM_RPC_LOST, .id = fast->lost_attempt, .status = fast->lost_why};
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&header, bytes);
    return fast->rpc->conf.transport->send(fast->conn->ep, bytes, sizeof bytes, NULL, 0, NULL,
                                           NULL) != HM_ERR_BUSY;
}

static bool say_offer(struct hm_fast *fast)
{
    struct hm_rpc_header header = {.kind = HM_RPC_OFFER, .id = fast->attempt};
    struct hm_span span = hm_buf_part(fast->offer_out, 0, fast->offer_out_bytes);
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&header, bytes);
    return fast->rpc->conf.transport->send(fast->conn->ep, bytes, sizeof bytes, &span, 1, NULL,
                                           NULL) != HM_ERR_BUSY;
}

static void fabric_pong(struct hm_fast *fast, enum hm_rpc_kind kind, uint64_t id)
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

void hm_fast_flush(struct hm_fast *fast)
{
    struct hm_conn *conn = fast->conn;
    if (fast->state == HM_FAST_UP && fast->pong_due && !fast->blocked)
        fabric_pong(fast, HM_RPC_PONG, fast->pong_id);
    if (conn->blocked || conn->state != HM_CONN_UP) return;
    if (fast->lost_due) {
        conn->blocked = !say_lost(fast);
        fast->lost_due = conn->blocked;
    }
    if (fast->offer_out && !conn->blocked) {
        conn->blocked = !say_offer(fast);
        if (conn->blocked) return;
        hm_buf_put(fast->offer_out);
        fast->offer_out = NULL;
    }
}

static void lost_say(struct hm_fast *fast, uint64_t attempt, enum hm_status why)
{
    fast->lost_due = true;
    fast->lost_attempt = attempt;
    fast->lost_why = why;
    hm_fast_flush(fast);
}

/* ---- the end of an attempt */

/* Both sides know: what was under way goes over the connection. */
static void resume(struct hm_fast *fast)
{
    struct hm_conn *conn = fast->conn;
    if (fast->state != HM_FAST_LOST || fast->ep || !fast->heard_lost) return;
    fast->state = HM_FAST_IDLE;
    hold_end(fast);
    hm_conn_queue_unacked(conn);
    hm_fast_ack(fast);
    retry_later(fast);
    hm_conn_flush(conn);
}

/* The endpoint of the attempt is no more, or never was. */
static void ended(struct hm_fast *fast)
{
    fast->ep = NULL;
    lost_say(fast, fast->attempt, fast->why);
    resume(fast);
}

static void lose(struct hm_fast *fast, enum hm_status why)
{
    struct hm_loop *loop = fast->rpc->loop;
    char line[HM_PEER_WHY_BYTES], id[HM_NODE_ID_TEXT_BYTES];
    if (fast->state == HM_FAST_LOST || fast->state == HM_FAST_IDLE) return;
    bool was_up = fast->state == HM_FAST_UP;
    fast->state = HM_FAST_LOST;
    fast->why = why;
    fast->never_again = why == HM_ERR_PEER_VERSION || why == HM_ERR_UNSUPPORTED;
    hm_timer_stop(loop, &fast->tick);
    if (fast->offer_out) hm_buf_put(fast->offer_out);
    fast->offer_out = NULL;
    if (was_up) {
        fast->rpc->fabric_peers.value--;
        fast->rpc->fabric_lost.value++;
        fast->failures = 0;
    }
    if (!fast->conn) return;
    struct hm_peer *peer = fast->conn->peer;
    if (why == HM_ERR_PEER_VERSION) {
        const char *kept = hm_fail_line();
        snprintf(line, sizeof line, "other settings: %s",
                 kept[0] ? kept : "the other side refuses ours");
    } else {
        snprintf(line, sizeof line, "%s: %s", was_up ? "lost" : "did not come up",
                 hm_status_text(why));
    }
    say_why(peer, line);
    hm_log(HM_LOG_INFO, "fabric", "%.16s: %s", hm_node_id_text(&peer->id, id), line);
}

void hm_fast_fail(struct hm_fast *fast, enum hm_status why)
{
    if (fast->state != HM_FAST_OFFERED && fast->state != HM_FAST_UP) return;
    lose(fast, why);
    if (fast->ep) fast->rpc->conf.fabric->disconnect(fast->ep);
}

/* ---- an attempt */

static void on_hold_timer(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    hold_end(fast);
    hm_conn_flush(fast->conn);
}

/* Jittered, and longer each time. */
static void retry_later(struct hm_fast *fast)
{
    if (!fast->conn->dialed || fast->never_again || fast->rpc->closing) return;
    hm_ns wait = RETRY_FIRST;
    for (unsigned i = 0; i < fast->failures && wait < RETRY_MAX; i++) wait *= 2;
    if (wait > RETRY_MAX) wait = RETRY_MAX;
    fast->failures++;
    wait = wait / 2 + hm_loop_random(fast->rpc->loop, HM_RANDOM_RETRY) % (wait / 2 + 1);
    hm_timer_start(fast->rpc->loop, &fast->retry, wait);
}

/* Makes the endpoint and what is to be said about it. */
static enum hm_status offer_make(struct hm_fast *fast)
{
    struct hm_rpc *rpc = fast->rpc;
    struct hm_fabric_offer offer;
    struct hm_writer writer;
    struct hm_buf *buf;
    enum hm_status status =
        hm_buf_pool_get(rpc->conf.transport_conf.buffers, HM_FABRIC_OFFER_BYTES_MAX, &buf);
    if (status != HM_OK) return status;
    status = rpc->conf.fabric->fabric->offer(rpc->fabric, &fast->conn->peer->id, &offer, &fast->ep);
    if (status != HM_OK) {
        fast->ep = NULL;
        hm_buf_put(buf);
        return status;
    }
    fast->ep->user = fast;
    hm_writer_init(&writer, buf->base, HM_FABRIC_OFFER_BYTES_MAX);
    hm_fabric_offer_encode(&offer, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    fast->offer_out = buf;
    fast->offer_out_bytes = hm_writer_count(&writer);
    return HM_OK;
}

/* One more attempt begins on this side. */
static enum hm_status attempt_begin(struct hm_fast *fast, uint64_t attempt)
{
    HM_ASSERT(fast->tagged_count == 0 && !fast->ep);
    fast->attempt = attempt;
    fast->state = HM_FAST_OFFERED;
    fast->heard_lost = fast->blocked = fast->pong_due = false;
    fast->attempt_out = attempt;
    fast->next = 0;
    return offer_make(fast);
}

static void on_retry(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    if (fast->state != HM_FAST_IDLE || fast->conn->state != HM_CONN_UP || fast->rpc->closing)
        return;
    if (fast->newest >= ATTEMPTS_MAX) return;
    if (fast->tagged_count > 0 || fast->lost_due) { /* of the last one */
        hm_timer_start(fast->rpc->loop, &fast->retry, RETRY_FIRST);
        return;
    }
    enum hm_status status = attempt_begin(fast, ++fast->newest);
    if (status == HM_OK) {
        hm_fast_flush(fast);
        return;
    }
    lose(fast, status); /* nobody has heard of this attempt */
    fast->heard_lost = true;
    resume(fast);
}

static void accept(struct hm_fast *fast, const struct hm_fabric_offer *theirs)
{
    if (!hm_list_empty(&fast->inbounds)) { /* who offers has had everything acknowledged */
        hm_conn_fail(fast->conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    hm_fast_in_reset(fast, fast->attempt);
    hm_fail_clear();
    enum hm_status status = fast->rpc->conf.fabric->fabric->accept(fast->ep, theirs);
    if (status != HM_OK) hm_fast_fail(fast, status);
}

static void answer_offer(struct hm_fast *fast, uint64_t attempt,
                         const struct hm_fabric_offer *theirs)
{
    if (attempt <= fast->newest) return; /* its LOST has come already */
    fast->newest = attempt;
    if (fast->state != HM_FAST_IDLE || fast->tagged_count > 0 || fast->rpc->closing) {
        lost_say(fast, attempt, HM_ERR_BUSY);
        return;
    }
    enum hm_status status = attempt_begin(fast, attempt);
    if (status != HM_OK) {
        lose(fast, status);
        ended(fast);
        return;
    }
    accept(fast, theirs);
    hm_fast_flush(fast);
}

static void on_offer_pulled(void *arg, enum hm_status status)
{
    struct hm_fast *fast = arg;
    struct hm_fabric_offer theirs;
    struct hm_buf *buf = fast->offer_in;
    struct hm_conn *conn = fast->conn;
    fast->offer_in = NULL;
    if (status == HM_OK && conn->state == HM_CONN_UP) {
        status = hm_fabric_offer_decode(buf->base, fast->offer_in_bytes, &theirs);
        if (status != HM_OK)
            hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        else if (!conn->dialed)
            answer_offer(fast, fast->offer_in_attempt, &theirs);
        else if (fast->state == HM_FAST_OFFERED && fast->attempt == fast->offer_in_attempt)
            accept(fast, &theirs);
    }
    hm_buf_put(buf);
}

/* We have proved the key, but have no fabric all the same (it could not be opened).  Best effort: the
 * other side does not wait for ever. */
static void refuse(struct hm_conn *conn, uint64_t attempt)
{
    struct hm_rpc_header header = {
        .kind = HM_RPC_LOST, .id = attempt, .status = HM_ERR_UNSUPPORTED};
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&header, bytes);
    enum hm_status status =
        conn->rpc->conf.transport->send(conn->ep, bytes, sizeof bytes, NULL, 0, NULL, NULL);
    (void)status;
}

void hm_fast_receive_offer(struct hm_conn *conn, const struct hm_rpc_header *header,
                           struct hm_inbound *in)
{
    struct hm_fast *fast = conn->fast;
    struct hm_buf *buf;
    if (!fast && conn->rpc->conf.transport_conf.fabric_key) {
        hm_inbound_drop(in);
        refuse(conn, header->id);
        return;
    }
    if (!fast || fast->offer_in || in->bytes == 0 || in->bytes > HM_FABRIC_OFFER_BYTES_MAX ||
        header->id == 0 || header->id > ATTEMPTS_MAX) {
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    size_t byte_count = in->bytes;
    enum hm_status status =
        hm_buf_pool_get(conn->rpc->conf.transport_conf.buffers, byte_count, &buf);
    if (status != HM_OK) {
        hm_inbound_drop(in);
        if (conn->dialed) {
            if (header->id == fast->attempt) hm_fast_fail(fast, status);
        } else if (header->id > fast->newest) {
            fast->newest = header->id;
            lost_say(fast, header->id, status);
        }
        return;
    }
    fast->offer_in = buf;
    fast->offer_in_bytes = byte_count;
    fast->offer_in_attempt = header->id;
    struct hm_span into = hm_buf_part(buf, 0, byte_count);
    status = hm_inbound_pull(in, &into, on_offer_pulled, fast);
    if (status != HM_OK) on_offer_pulled(fast, status);
}

void hm_fast_receive_lost(struct hm_conn *conn, const struct hm_rpc_header *header)
{
    struct hm_fast *fast = conn->fast;
    if (!fast && conn->rpc->conf.transport_conf.fabric_key) return; /* the answer to refuse() */
    if (!fast || header->id == 0 || header->id > ATTEMPTS_MAX) {
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    if (fast->state != HM_FAST_IDLE && header->id == fast->attempt) {
        fast->heard_lost = true;
        hm_fail_clear();
        hm_fast_fail(fast, header->status == HM_OK ? HM_ERR_PEER_RESET : header->status);
        resume(fast);
    } else if (!conn->dialed && header->id > fast->newest) {
        fast->newest = header->id; /* it has overtaken its OFFER, or stands for it */
        if (header->status == HM_ERR_UNSUPPORTED)
            say_why(conn->peer, "the other side has no fabric");
        lost_say(fast, header->id, HM_ERR_CANCELED);
        hold_end(fast);
        hm_conn_flush(conn);
    }
}

/* ---- the fabric's sink: ep->user is the path */

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
    hold_end(fast);
    fast->rpc->fabric_peers.value++;
    say_why(fast->conn->peer, "");
    hm_log(HM_LOG_INFO, "fabric", "%.16s: over %s from now on", hm_node_id_text(node, id),
           fast->rpc->conf.fabric->name);
    hm_timer_start(fast->rpc->loop, &fast->tick, fast->rpc->conf.ping_interval / TICKS_A_PING);
    hm_conn_flush(fast->conn);
}

static void on_tick(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    if (fast->state != HM_FAST_UP) return;
    if (fast->heard)
        fast->missed = 0;
    else if (fast->ping_out)
        fast->missed++;
    if (fast->missed >= HM_RPC_PINGS_MISSED_MAX) {
        hm_fast_fail(fast, HM_ERR_PEER_UNREACHABLE);
        return;
    }
    if (!fast->heard) {
        fast->ping_out = true;
        fast->ping_sent = hm_loop_now(fast->rpc->loop);
        fabric_pong(fast, HM_RPC_PING, ++fast->ping_id);
    }
    fast->heard = false;
    hm_timer_start(fast->rpc->loop, &fast->tick, fast->rpc->conf.ping_interval / TICKS_A_PING);
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
        if (fast->state == HM_FAST_UP) fabric_pong(fast, HM_RPC_PONG, header.id);
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

static void destroy(struct hm_fast *fast)
{
    struct hm_rpc *rpc = fast->rpc;
    HM_ASSERT(fast->tagged_count == 0 && hm_list_empty(&fast->inbounds));
    hm_slots_give(&rpc->fast_slots, fast);
}

static void on_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct hm_fast *fast = ep->user;
    (void)arg;
    if (!fast) return;
    ep->user = NULL;
    if (!fast->conn) {
        fast->ep = NULL;
        destroy(fast);
        return;
    }
    lose(fast, why);
    ended(fast);
}

const struct hm_transport_sink hm_fast_sink = {
    .up = on_up, .message = on_message, .writable = on_writable, .down = on_down};

/* ---- with the connection */

static const char *why_not(const struct hm_rpc *rpc, const struct hm_hello *hello)
{
    if (!rpc->conf.transport_conf.fabric_key) return "";
    if (!rpc->fabric) return "this node has no fabric";
    if (hello->fabric_proof_bytes == 0) return "the other side has no fabric";
    if (!hello->fabric_proved) return "the other side has another fabric key";
    return NULL;
}

void hm_fast_start(struct hm_conn *conn, const struct hm_hello *hello)
{
    struct hm_rpc *rpc = conn->rpc;
    const char *why = why_not(rpc, hello);
    struct hm_fast *fast = why ? NULL : hm_slots_take(&rpc->fast_slots);
    char id[HM_NODE_ID_TEXT_BYTES];
    if (!why && !fast) why = "no place for one more";
    if (why) {
        if (hello->fabric_proof_bytes > 0 && rpc->fabric && !hello->fabric_proved)
            hm_log(HM_LOG_WARN, "fabric",
                   "%.16s has another fabric key; messages to it go over %s. Give both the same "
                   "--fabric-key",
                   hm_node_id_text(&conn->peer->id, id), rpc->conf.transport->name);
        if (!conn->peer->sender || !conn->peer->sender->fast) say_why(conn->peer, why);
        if (hello->fabric_proved && conn->dialed) refuse(conn, 1); /* it need not wait */
        return;
    }
    *fast = (struct hm_fast){.rpc = rpc, .conn = conn, .hold = true};
    fast->hold_timer = (struct hm_timer){.cb = on_hold_timer, .arg = fast};
    fast->retry = (struct hm_timer){.cb = on_retry, .arg = fast};
    fast->tick = (struct hm_timer){.cb = on_tick, .arg = fast};
    hm_list_init(&fast->unacked);
    hm_list_init(&fast->inbounds);
    hm_fast_in_reset(fast, 0);
    conn->fast = fast;
    say_why(conn->peer, "being set up");
    hm_timer_start(rpc->loop, &fast->hold_timer, HOLD_MAX);
    if (conn->dialed) hm_timer_start(rpc->loop, &fast->retry, 0);
}

void hm_fast_orphan(struct hm_conn *conn)
{
    struct hm_fast *fast = conn->fast;
    if (!fast) return;
    struct hm_loop *loop = fast->rpc->loop;
    struct hm_timer *timers[] = {&fast->hold_timer, &fast->retry, &fast->ack, &fast->tick};
    for (size_t i = 0; i < HM_COUNT_OF(timers); i++) hm_timer_stop(loop, timers[i]);
    HM_ASSERT(!fast->offer_in); /* its callback came before the connection's down() */
    fast->conn = NULL;
    conn->fast = NULL;
    hm_fast_forget_sends(fast);
    if (fast->state == HM_FAST_UP || fast->state == HM_FAST_OFFERED)
        hm_fast_fail(fast, HM_ERR_CANCELED);
    hm_fast_in_orphan(fast); /* runs callbacks; they cannot reach the path any more */
    if (!fast->ep) destroy(fast);
}
