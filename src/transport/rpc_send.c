/* transport/rpc_send.c - the way out of a connection: now if the wire takes it, else in turn.
 *
 * Owns the records (struct hm_send) of messages that wait, and of payloads that the wire still
 * holds.
 *
 *   small message, free wire:  transport->send from the stack, no record
 *   with a payload:            a record on conn->wire until the wire lets go
 *   the wire is BUSY:          a record on conn->queue, with a copy of the header and references to
 *                              the payload's owners, until writable()
 *   over the fast path:        a record on fast->unacked, with header and owners, until the other
 *                              side has acknowledged it; if the path breaks it goes back to the
 *                              front of conn->queue, and over the connection
 *
 * Failure modes: no place to queue is BUSY for a call, and the end of the connection for a reply
 * (the other side would wait for it in vain).  A peer that takes no payload any more is found by
 * HM_RPC_WIRE_MAX (we stop sending) and by the ping timer (rpc_conn.c counts what is past its
 * deadline).  Records and buffers are everybody's: each connection has a share of what is free, and
 * who is over it and lets go of too little loses the connection.
 * Invariants: a record is in at most one list; its owners are referenced by us only while it waits
 * or is unacknowledged; conn->queue is empty, or the wire is blocked or full, or messages are held.
 * A tagged message is never given up but by its connection: what nobody needs any more goes as a
 * VOID in its place, since the other side may hold its header and wait for the payload. */
#include "transport/rpc_fast.h"

size_t hm_spans_bytes(const struct hm_span *spans, unsigned count)
{
    size_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        if (spans[i].bytes > HM_PAYLOAD_BYTES_MAX - sum) return SIZE_MAX;
        sum += spans[i].bytes;
    }
    return sum;
}

static size_t header_encode(uint8_t bytes[HM_HEADER_BYTES_MAX], const struct hm_rpc_header *header,
                            const void *user_header, size_t user_bytes)
{
    HM_ASSERT(user_bytes <= HM_CALL_HEADER_BYTES_MAX);
    hm_rpc_header_encode(header, bytes);
    if (user_bytes > 0) memcpy(bytes + HM_RPC_HEADER_BYTES, user_header, user_bytes);
    return HM_RPC_HEADER_BYTES + user_bytes;
}

struct hm_send *hm_send_create(struct hm_rpc *rpc, const struct hm_rpc_header *header,
                               const void *user_header, size_t user_bytes,
                               const struct hm_span *payload, unsigned span_count,
                               struct hm_call *call, hm_ns expires)
{
    struct hm_send *send = hm_slots_take(&rpc->send_slots);
    if (!send) return NULL;
    hm_list_init(&send->link);
    send->conn = NULL;
    send->call = call;
    send->expires = expires;
    send->header_bytes = (unsigned)header_encode(send->header, header, user_header, user_bytes);
    send->span_count = span_count;
    send->payload_bytes = 0;
    send->place = HM_SEND_NOWHERE;
    send->is_reply = header->kind == HM_RPC_REPLY;
    send->method = header->method;
    send->fast = NULL;
    send->tag = 0;
    send->carried = send->acked = false;
    for (unsigned i = 0; i < span_count; i++) {
        send->payload[i] = payload[i];
        send->payload_bytes += payload[i].bytes;
        if (payload[i].owner) hm_buf_get(payload[i].owner);
    }
    if (call) call->send = send;
    return send;
}

void hm_send_put_owners(struct hm_send *send)
{
    for (unsigned i = 0; i < send->span_count; i++) hm_buf_put(send->payload[i].owner);
    send->span_count = 0;
}

/* ---- shares */

static unsigned records_share(const struct hm_rpc *rpc)
{
    return (rpc->send_slots.count - rpc->send_slots.used) / HM_RPC_SHARE_RECORDS;
}

static size_t bytes_share(const struct hm_rpc *rpc)
{
    const struct hm_buf_pool *pool = rpc->conf.transport_conf.buffers;
    if (!pool) return SIZE_MAX;
    return (hm_buf_pool_bytes_max(pool) - hm_buf_pool_bytes_used(pool)) / HM_RPC_SHARE_BYTES;
}

bool hm_conn_is_greedy(const struct hm_conn *conn)
{
    return conn->reply_bytes > bytes_share(conn->rpc);
}

bool hm_peer_is_greedy(const struct hm_peer *peer, size_t bytes)
{
    const struct hm_buf_pool *pool = peer->rpc->conf.transport_conf.buffers;
    if (!pool || bytes == 0) return false;
    return bytes + peer->request_bytes > hm_buf_pool_bytes_max(pool) - hm_buf_pool_bytes_used(pool);
}

bool hm_conn_is_hog(const struct hm_conn *conn)
{
    unsigned records = conn->queue_count + conn->wire_count;
    if (conn->fast) records += conn->fast->unacked_count;
    if (records > records_share(conn->rpc) && conn->records_gone < records) return true;
    return hm_conn_is_greedy(conn) && conn->reply_bytes_gone < conn->reply_bytes;
}

static bool has_room(const struct hm_conn *conn, bool is_reply)
{
    unsigned share = records_share(conn->rpc);
    unsigned most = is_reply ? HM_RPC_QUEUE_MAX : HM_RPC_QUEUE_CALLS_MAX;
    return conn->queue_count < most && conn->queue_count <= share;
}

/* ---- records */

void hm_send_held(struct hm_conn *conn, const struct hm_send *send)
{
    if (send->is_reply) conn->reply_bytes += send->payload_bytes;
}

static void reply_let_go(struct hm_conn *conn, const struct hm_send *send)
{
    if (!send->is_reply) return;
    HM_ASSERT(conn->reply_bytes >= send->payload_bytes);
    conn->reply_bytes -= send->payload_bytes;
    conn->reply_bytes_gone += send->payload_bytes;
}

/* Out of its list. */
void hm_send_take_out(struct hm_send *send)
{
    unsigned *count = NULL;
    if (send->place == HM_SEND_QUEUE) count = &send->conn->queue_count;
    if (send->place == HM_SEND_WIRE) count = &send->conn->wire_count;
    if (send->place == HM_SEND_UNACKED) count = &send->fast->unacked_count;
    send->place = HM_SEND_NOWHERE;
    hm_list_remove(&send->link);
    if (!count) return;
    HM_ASSERT(*count > 0);
    --*count;
}

/* Takes it out of its list and gives its place back. */
void hm_send_destroy(struct hm_rpc *rpc, struct hm_send *send)
{
    if (send->place != HM_SEND_NOWHERE && send->conn) {
        reply_let_go(send->conn, send);
        send->conn->records_gone++;
    }
    hm_send_take_out(send);
    if (send->call) send->call->send = NULL;
    if (send->tag) send->fast->tagged_count--;
    hm_send_put_owners(send);
    hm_slots_give(&rpc->send_slots, send);
}

void hm_send_forget(struct hm_rpc *rpc, struct hm_send *send)
{
    if (hm_send_is_unsent(send)) {
        hm_send_destroy(rpc, send);
        return;
    }
    if (send->place == HM_SEND_QUEUE) hm_send_void(send);
    if (send->call) send->call->send = NULL;
    send->call = NULL;
}

void hm_conn_enqueue(struct hm_conn *conn, struct hm_send *send)
{
    send->conn = conn;
    send->place = HM_SEND_QUEUE;
    hm_list_push(&conn->queue, &send->link);
    conn->queue_count++;
    hm_send_held(conn, send);
}

void hm_conn_discard_queue(struct hm_conn *conn)
{
    while (!hm_list_empty(&conn->queue))
        hm_send_destroy(conn->rpc, HM_CONTAINER_OF(conn->queue.next, struct hm_send, link));
}

void hm_conn_discard_expired(struct hm_conn *conn)
{
    hm_ns now = hm_loop_now(conn->rpc->loop);
    HM_LIST_EACH_SAFE (link, &conn->queue) {
        struct hm_send *send = HM_CONTAINER_OF(link, struct hm_send, link);
        if (send->call || send->expires >= now) continue;
        if (!send->tag)
            hm_send_destroy(conn->rpc, send);
        else if (send->payload_bytes > 0)
            hm_send_void(send);
    }
}

/* The wire has let go of a payload.  What became of a request its reply tells; a reply whose
 * payload was dropped has found nobody who waits for it. */
static void on_wire_done(void *arg, enum hm_status status)
{
    struct hm_send *send = arg;
    struct hm_conn *conn = send->conn;
    (void)status;
    hm_send_destroy(conn->rpc, send);
    if (conn->state == HM_CONN_UP) hm_conn_flush(conn);
}

static bool wire_free(const struct hm_conn *conn)
{
    const struct hm_fast *fast = conn->fast;
    if (hm_conn_holds(conn)) return false;
    if (hm_conn_is_fast(conn))
        return !fast->blocked && fast->unacked_count < HM_RPC_WIRE_MAX && hm_fast_has_room(fast);
    return !conn->blocked && conn->wire_count < HM_RPC_WIRE_MAX;
}

static enum hm_rpc_class class_of(uint16_t method)
{
    if (method < HM_METHOD_DHT_FIND) return HM_CLASS_CONTROL;
    return method < HM_METHOD_EXPERT_INFO ? HM_CLASS_DHT : HM_CLASS_EXPERT;
}

void hm_conn_count_sent(const struct hm_conn *conn, uint16_t method, bool fast)
{
    struct hm_rpc *rpc = conn->rpc;
    enum hm_rpc_class class = class_of(method);
    struct hm_metric *metric = fast ? rpc->sent_fabric : rpc->sent_control;
    metric[class].value++;
    if (!fast && conn->fast && class != HM_CLASS_CONTROL) rpc->sent_control_after_join.value++;
}

/* A record goes on the wire: to conn->wire if it has a payload (and is given back otherwise). */
static enum hm_status send_put_on_wire(struct hm_conn *conn, struct hm_send *send)
{
    if (send->tag || hm_conn_is_fast(conn)) return hm_fast_send(conn, send);
    bool tracked = send->payload_bytes > 0;
    enum hm_status status =
        conn->rpc->conf.transport->send(conn->ep, send->header, send->header_bytes, send->payload,
                                        send->span_count, tracked ? on_wire_done : NULL, send);
    if (status != HM_OK) return status;
    hm_conn_count_sent(conn, send->method, false);
    if (!tracked) {
        hm_send_destroy(conn->rpc, send);
        return HM_OK;
    }
    if (send->place == HM_SEND_QUEUE)
        hm_send_take_out(send);
    else
        hm_send_held(conn, send);
    hm_send_put_owners(send); /* the wire has its own references */
    send->conn = conn;
    send->place = HM_SEND_WIRE;
    hm_list_push(&conn->wire, &send->link);
    conn->wire_count++;
    return HM_OK;
}

/* The wire that messages take now is full, or gone; true: the message stays for later. */
static bool wire_refused(struct hm_conn *conn, enum hm_status status)
{
    bool fast = hm_conn_is_fast(conn);
    if (status == HM_ERR_BUSY && fast) conn->fast->blocked = true;
    if (status == HM_ERR_BUSY && !fast) conn->blocked = true;
    if (status == HM_ERR_PEER_UNREACHABLE && fast) {
        hm_fast_fail(conn->fast, HM_ERR_PEER_RESET); /* its down() is on the way */
        return true;
    }
    return status == HM_ERR_BUSY;
}

enum hm_status hm_conn_send(struct hm_conn *conn, const struct hm_rpc_header *header,
                            const void *user_header, size_t user_bytes,
                            const struct hm_span *payload, unsigned span_count,
                            struct hm_call *call, hm_ns expires)
{
    if (conn->state != HM_CONN_UP) return HM_ERR_PEER_UNREACHABLE;
    bool free_wire = wire_free(conn) && hm_list_empty(&conn->queue);
    bool bare = hm_spans_bytes(payload, span_count) == 0;
    if (free_wire && bare && !hm_conn_is_fast(conn)) {
        uint8_t bytes[HM_HEADER_BYTES_MAX];
        size_t byte_count = header_encode(bytes, header, user_header, user_bytes);
        enum hm_status status =
            conn->rpc->conf.transport->send(conn->ep, bytes, byte_count, NULL, 0, NULL, NULL);
        if (status == HM_OK) hm_conn_count_sent(conn, header->method, false);
        if (status != HM_ERR_BUSY) return status;
        conn->blocked = true;
        free_wire = false;
    }
    if (!has_room(conn, !call)) return HM_ERR_BUSY;
    struct hm_send *send = hm_send_create(conn->rpc, header, user_header, user_bytes, payload,
                                          bare ? 0 : span_count, call, expires);
    if (!send) return HM_ERR_BUSY;
    if (free_wire) {
        enum hm_status status = send_put_on_wire(conn, send);
        if (status == HM_OK) return HM_OK;
        if (!wire_refused(conn, status)) {
            hm_send_destroy(conn->rpc, send);
            return status;
        }
    }
    hm_conn_enqueue(conn, send);
    return HM_OK;
}

/* ---- pings: never queued, only the newest counts */

static bool control_send(struct hm_conn *conn, enum hm_rpc_kind kind, uint64_t id)
{
    struct hm_rpc_header header = {.kind = kind, .id = id};
    uint8_t bytes[HM_RPC_HEADER_BYTES];
    hm_rpc_header_encode(&header, bytes);
    enum hm_status status =
        conn->blocked
            ? HM_ERR_BUSY
            : conn->rpc->conf.transport->send(conn->ep, bytes, sizeof bytes, NULL, 0, NULL, NULL);
    if (status == HM_ERR_BUSY) conn->blocked = true;
    return status != HM_ERR_BUSY; /* other errors: down() is on its way */
}

void hm_conn_ping(struct hm_conn *conn)
{
    conn->ping_out = true;
    conn->ping_id++;
    conn->ping_sent = hm_loop_now(conn->rpc->loop);
    conn->ping_due = !control_send(conn, HM_RPC_PING, conn->ping_id);
}

void hm_conn_pong(struct hm_conn *conn, uint64_t id)
{
    conn->pong_id = id;
    conn->pong_due = !control_send(conn, HM_RPC_PONG, id);
}

/* ---- writable */

/* A record that waited: sets what is left of its call's time.  False: none is, its timer will tell.
 */
static bool send_refresh(struct hm_conn *conn, struct hm_send *send)
{
    if (!send->call) return true;
    struct hm_loop *loop = conn->rpc->loop;
    hm_ns left = hm_deadline_left(loop, send->call->deadline);
    hm_rpc_header_set_time(send->header, hm_rpc_time_us(left));
    send->call->started = hm_loop_now(loop);
    return left > 0;
}

/* The transport will never take this record. */
static void send_refused(struct hm_conn *conn, struct hm_send *send, enum hm_status status)
{
    struct hm_call *call = send->call;
    bool is_reply = send->is_reply || send->tag;
    hm_send_destroy(conn->rpc, send);
    if (call) hm_call_finish(call, status);
    if (is_reply) hm_conn_fail(conn, HM_ERR_PEER_RESET); /* the other side would wait in vain */
}

void hm_conn_flush(struct hm_conn *conn)
{
    if (conn->pong_due) hm_conn_pong(conn, conn->pong_id);
    if (conn->ping_due) hm_conn_ping(conn);
    if (conn->fast) hm_fast_flush(conn->fast);
    while (conn->state == HM_CONN_UP && wire_free(conn) && !hm_list_empty(&conn->queue)) {
        struct hm_send *send = HM_CONTAINER_OF(conn->queue.next, struct hm_send, link);
        if (!send_refresh(conn, send)) {
            if (!send->tag) {
                hm_send_destroy(conn->rpc, send);
                continue;
            }
            hm_send_void(send);
        }
        enum hm_status status = send_put_on_wire(conn, send);
        if (status == HM_OK || wire_refused(conn, status)) continue;
        if (status == HM_ERR_PEER_UNREACHABLE) return; /* down() takes care of the queue */
        send_refused(conn, send, status);
    }
}
