/* transport/rpc_fabric_offer.c - what two sides say to each other about their fast path, over the
 * connection: OFFER and LOST.
 *
 * Owns the bytes of the offer that is due to be said, and of the one that is being pulled.
 *
 *     dialler: OFFER n ------------> the other side: an endpoint of its own, accept
 *     dialler: accept  <------------ OFFER n, or LOST n: not this time
 *     LOST n both ways, once the endpoint of attempt n is down on that side
 *
 * Failure modes: a full wire: what is due waits for writable().  What cannot be (an attempt that is
 * over, a second offer in one attempt, garbage) is passed over or costs the connection: who speaks
 * here has proved the key (rpc_conn.c sees to that), and is believed no more than that.
 * Invariant: an endpoint accepts once. */
#include "transport/rpc_fast.h"

/* Those that come faster are refused; ours keep twice as far apart (rpc_fabric.c). */
#define OFFERS_APART (250 * HM_MS)

/* ---- what is said, when the connection takes it */

static bool say_lost(struct hm_fast *fast)
{
    struct hm_rpc_header header = {
        .kind = HM_RPC_LOST, .id = fast->lost_attempt, .status = fast->lost_why};
    uint8_t bytes[HM_RPC_HEADER_BYTES + HM_FABRIC_SETTINGS_BYTES];
    const char *settings = fast->rpc->fabric_settings;
    size_t count = fast->lost_why == HM_ERR_PEER_VERSION ? strlen(settings) : 0;
    hm_rpc_header_encode(&header, bytes);
    memcpy(bytes + HM_RPC_HEADER_BYTES, settings, count);
    return fast->rpc->conf.transport->send(fast->conn->ep, bytes, HM_RPC_HEADER_BYTES + count, NULL,
                                           0, NULL, NULL) != HM_ERR_BUSY;
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

void hm_fast_flush(struct hm_fast *fast)
{
    struct hm_conn *conn = fast->conn;
    hm_fast_flush_pong(fast);
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

void hm_fast_say_lost(struct hm_fast *fast, uint64_t attempt, enum hm_status why)
{
    fast->lost_due = true;
    fast->lost_attempt = attempt;
    fast->lost_why = why;
    hm_fast_flush(fast);
}

/* ---- what is heard */

/* Makes the endpoint and what is to be said about it. */
enum hm_status hm_fast_offer_make(struct hm_fast *fast)
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
    memcpy(rpc->fabric_settings, offer.settings, sizeof offer.settings);
    hm_writer_init(&writer, buf->base, HM_FABRIC_OFFER_BYTES_MAX);
    hm_fabric_offer_encode(&offer, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    fast->offer_out = buf;
    fast->offer_out_bytes = hm_writer_count(&writer);
    return HM_OK;
}

static void accept(struct hm_fast *fast, const struct hm_fabric_offer *theirs)
{
    /* Who offers has had everything acknowledged, and offers once. */
    if (!hm_list_empty(&fast->inbounds) || fast->accepted) {
        hm_conn_fail(fast->conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    fast->accepted = true;
    hm_fast_in_reset(fast, fast->attempt);
    hm_fail_clear();
    enum hm_status status = fast->rpc->conf.fabric->fabric->accept(fast->ep, theirs);
    if (status != HM_OK) hm_fast_fail(fast, status);
}

static void answer_offer(struct hm_fast *fast, uint64_t attempt,
                         const struct hm_fabric_offer *theirs)
{
    hm_ns now = hm_loop_now(fast->rpc->loop);
    bool early = fast->newest > 0 && now - fast->offer_heard < OFFERS_APART;
    if (attempt <= fast->newest) return; /* its LOST has come already */
    fast->newest = attempt;
    if (fast->state != HM_FAST_IDLE || fast->tagged_count > 0 || fast->rpc->closing || early) {
        hm_fast_say_lost(fast, attempt, HM_ERR_BUSY);
        return;
    }
    fast->offer_heard = now;
    enum hm_status status = hm_fast_begin(fast, attempt);
    if (status != HM_OK) {
        hm_fast_lose(fast, status);
        hm_fast_ended(fast);
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
void hm_fast_refuse(struct hm_conn *conn, uint64_t attempt)
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
    if (!fast) {
        hm_inbound_drop(in);
        hm_fast_refuse(conn, header->id);
        return;
    }
    if (fast->offer_in || in->bytes == 0 || in->bytes > HM_FABRIC_OFFER_BYTES_MAX ||
        header->id == 0 || header->id > HM_FAST_ATTEMPTS_MAX) {
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
            hm_fast_say_lost(fast, header->id, status);
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

/* Why the other side refuses ours, as a line for people. */
static enum hm_status settings_differ(const struct hm_rpc *rpc, const char *theirs, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (theirs[i] < ' ' || theirs[i] > '~') return HM_ERR_PEER_PROTOCOL;
    return hm_fail(HM_ERR_PEER_VERSION, "the fabric is '%.*s' there and '%s' here", (int)bytes,
                   theirs, rpc->fabric_settings);
}

void hm_fast_receive_lost(struct hm_conn *conn, const struct hm_rpc_header *header,
                          const void *settings, size_t settings_bytes)
{
    struct hm_fast *fast = conn->fast;
    if (!fast) return; /* the answer to hm_fast_refuse() */
    if (header->id == 0 || header->id > HM_FAST_ATTEMPTS_MAX) {
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    if (fast->state != HM_FAST_IDLE && header->id == fast->attempt) {
        enum hm_status why = header->status == HM_OK ? HM_ERR_PEER_RESET : header->status;
        fast->heard_lost = true;
        hm_fail_clear();
        if (why == HM_ERR_PEER_VERSION && settings_bytes > 0)
            why = settings_differ(conn->rpc, settings, settings_bytes);
        hm_fast_fail(fast, why);
        hm_fast_resume(fast);
    } else if (!conn->dialed && header->id > fast->newest) {
        fast->newest = header->id; /* it has overtaken its OFFER, or stands for it */
        if (header->status == HM_ERR_UNSUPPORTED)
            hm_fast_say_why(conn->peer, "the other side has no fabric");
        hm_fast_say_lost(fast, header->id, HM_ERR_CANCELED);
        hm_fast_hold_end(fast);
        hm_conn_flush(conn);
    }
}
