/* transport/rpc_serve.c - requests: from the wire to a handler, and its answers back.
 *
 * Owns struct hm_request, from a pool of requests_max.
 *
 *   message --> refused (unknown method, too big, too many, no time left): a reply with the status,
 *         |     nothing is pulled
 *         +---> LIVE --> handle() --> hm_request_reply ... hm_request_reply(last) --> free
 *                |                                               ^
 *                +-- cancel, deadline, connection down --> GONE -+
 *                    gone() runs once; replies lead nowhere
 *
 * Failure modes: a reply that finds no place on its connection closes it (the caller then ends at
 * once, and does not wait for something that is lost).  An id that is used twice at a time is
 * garbage.
 * Invariant: a request has a connection exactly while it is live, and counts against its peer until
 * last. */
#include "transport/rpc_internal.h"

#include "base/log.h"

struct request_key {
    const struct hm_conn *conn;
    uint64_t id;
};

static bool has_request_id(const struct hm_map_node *node, const void *key)
{
    const struct hm_request *request = HM_CONTAINER_OF(node, struct hm_request, node);
    const struct request_key *wanted = key;
    return request->id == wanted->id && request->conn == wanted->conn;
}

/* Callers choose their ids: mix them with what they do not know. */
static uint64_t request_hash(const struct hm_conn *conn, uint64_t id)
{
    return hm_hash(&id, sizeof id, conn->rpc->hash_seed ^ conn->born);
}

static struct hm_request *request_find(const struct hm_conn *conn, uint64_t id)
{
    struct request_key key = {conn, id};
    struct hm_map_node *node =
        hm_map_find(&conn->rpc->requests_by_id, request_hash(conn, id), has_request_id, &key);
    return node ? HM_CONTAINER_OF(node, struct hm_request, node) : NULL;
}

/* ---- life */

/* Nobody waits for its answers any more. */
static void request_detach(struct hm_request *request)
{
    struct hm_rpc *rpc = request->peer->rpc;
    hm_timer_stop(rpc->loop, &request->timer);
    hm_map_remove(&rpc->requests_by_id, &request->node);
    hm_list_remove(&request->conn_link);
    request->conn = NULL;
}

void hm_request_lose(struct hm_request *request)
{
    struct hm_rpc *rpc = request->peer->rpc;
    request_detach(request);
    hm_list_remove(&request->link);
    hm_list_push(&rpc->requests_gone, &request->link);
    if (request->method->gone) request->method->gone(request->method->arg, request);
}

static void request_destroy(struct hm_request *request)
{
    struct hm_peer *peer = request->peer;
    struct hm_rpc *rpc = peer->rpc;
    HM_ASSERT(!request->pulled);
    if (request->conn) request_detach(request);
    hm_list_remove(&request->link);
    peer->request_bytes -= request->payload_bytes;
    hm_slots_give(&rpc->request_slots, request);
    rpc->request_count--;
    peer->request_count--;
    peer->holds--;
    hm_peer_settle(peer);
    hm_rpc_settle(rpc);
}

static void on_request_deadline(struct hm_timer *timer)
{
    hm_request_lose(timer->arg);
}

/* ---- answers */

static void reply_send(struct hm_conn *conn, const struct hm_rpc_header *header,
                       const void *user_header, size_t user_bytes, const struct hm_span *payload,
                       unsigned span_count, hm_ns expires)
{
    enum hm_status status =
        hm_conn_send(conn, header, user_header, user_bytes, payload, span_count, NULL, expires);
    if (status == HM_OK || conn->state != HM_CONN_UP) return;
    if (status != HM_ERR_PEER_UNREACHABLE)
        hm_log(HM_LOG_INFO, "rpc", "a reply found no place (%s): its connection is closed",
               hm_status_name(status));
    hm_conn_fail(conn, HM_ERR_PEER_RESET);
}

static void refuse(struct hm_conn *conn, const struct hm_rpc_header *request, enum hm_status status,
                   struct hm_inbound *in)
{
    struct hm_rpc_header header = {.kind = HM_RPC_REPLY,
                                   .last = true,
                                   .method = request->method,
                                   .status = status,
                                   .id = request->id};
    hm_inbound_drop(in);
    if (status != HM_OK) conn->rpc->requests_refused.value++;
    reply_send(conn, &header, NULL, 0, NULL, 0,
               hm_loop_now(conn->rpc->loop) + request->time_us * HM_US);
}

void hm_request_reply(struct hm_request *request, bool last, enum hm_status status,
                      const void *header, size_t header_bytes, const struct hm_span *payload,
                      unsigned span_count)
{
    HM_ASSERT(header_bytes <= HM_CALL_HEADER_BYTES_MAX && span_count <= HM_SPANS_MAX);
    HM_ASSERT(status <= 0 && (last || request->reply_count + 1 < HM_RPC_REPLIES_MAX));
    struct hm_conn *conn = request->conn;
    if (conn) {
        hm_ns now = hm_loop_now(conn->rpc->loop);
        struct hm_rpc_header wire = {.kind = HM_RPC_REPLY,
                                     .last = last,
                                     .method = request->method->id,
                                     .status = status,
                                     .id = request->id,
                                     .index = request->reply_count++,
                                     .time_us = hm_rpc_time_us(now - request->arrived)};
        if (hm_spans_bytes(payload, span_count) == SIZE_MAX) {
            wire.status = HM_ERR_TOO_BIG; /* the caller must learn that this answer does not come */
            span_count = 0;
        }
        conn->used = now;
        reply_send(conn, &wire, header, header_bytes, payload, span_count, request->deadline);
    }
    if (last) request_destroy(request);
}

/* ---- arrivals */

/* What is left of the caller's time: it went on while the request travelled. */
static hm_ns time_left(const struct hm_conn *conn, const struct hm_rpc_header *header)
{
    hm_ns left = header->time_us * HM_US, half = hm_peer_round_trip_min(conn->peer) / 2;
    if (left > HM_RPC_TIME_MAX) left = HM_RPC_TIME_MAX;
    return left > half ? left - half : 0;
}

/* Over what its peer may have in flight, by the bounds that this node was given. */
static bool is_over(const struct hm_conn *conn, size_t payload_bytes)
{
    const struct hm_rpc_conf *conf = &conn->rpc->conf;
    size_t bytes_max = conf->request_bytes_max_per_peer;
    return conn->peer->request_count >= conf->requests_max_per_peer ||
           conn->peer->request_bytes > bytes_max - payload_bytes || conn->reply_bytes > bytes_max;
}

static enum hm_status admit(const struct hm_conn *conn, const struct hm_rpc_header *header,
                            const struct hm_method *method, size_t payload_bytes)
{
    if (!method) return HM_ERR_UNSUPPORTED;
    if (time_left(conn, header) == 0) return HM_ERR_TIMED_OUT;
    if (payload_bytes > method->payload_bytes_max) return HM_ERR_TOO_BIG;
    /* Alone it is over: no later moment is better. */
    if (payload_bytes > conn->rpc->conf.request_bytes_max_per_peer) return HM_ERR_TOO_BIG;
    if (is_over(conn, payload_bytes)) return HM_ERR_BUSY;
    if (hm_conn_is_greedy(conn) || hm_peer_is_greedy(conn->peer, payload_bytes)) return HM_ERR_BUSY;
    return HM_OK;
}

void hm_request_receive(struct hm_conn *conn, const struct hm_rpc_header *header,
                        const void *user_header, size_t user_bytes, struct hm_inbound *in)
{
    struct hm_rpc *rpc = conn->rpc;
    rpc->requests_total.value++;
    if (header->method == HM_METHOD_PING) { /* a call that rpc itself answers */
        refuse(conn, header, HM_OK, in);
        return;
    }
    const struct hm_method *method =
        header->method < HM_RPC_METHOD_IDS ? rpc->method[header->method] : NULL;
    enum hm_status status = admit(conn, header, method, in->bytes);
    if (status == HM_OK && request_find(conn, header->id)) {
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    struct hm_request *request = status == HM_OK ? hm_slots_take(&rpc->request_slots) : NULL;
    if (!request) {
        refuse(conn, header, status == HM_OK ? HM_ERR_BUSY : status, in);
        return;
    }
    hm_ns now = hm_loop_now(rpc->loop);
    hm_ns left = time_left(conn, header);
    *request = (struct hm_request){.peer = conn->peer,
                                   .conn = conn,
                                   .method = method,
                                   .id = header->id,
                                   .arrived = now,
                                   .deadline = now + left,
                                   .payload_bytes = in->bytes};
    hm_list_init(&request->pull_link);
    request->timer.cb = on_request_deadline;
    request->timer.arg = request;
    hm_list_init(&request->link);
    hm_list_init(&request->conn_link);
    hm_list_push(&rpc->requests, &request->link);
    hm_list_push(&conn->requests, &request->conn_link);
    hm_map_insert(&rpc->requests_by_id, &request->node, request_hash(conn, header->id));
    hm_timer_start(rpc->loop, &request->timer, left);
    rpc->request_count++;
    conn->peer->request_count++;
    conn->peer->request_bytes += in->bytes;
    conn->peer->holds++;
    method->handle(method->arg, request, user_header, user_bytes, in);
}

void hm_request_receive_cancel(struct hm_conn *conn, uint64_t id)
{
    struct hm_request *request = request_find(conn, id);
    if (request) hm_request_lose(request);
}

/* ---- payloads */

static void on_pulled(void *arg, enum hm_status status)
{
    struct hm_request *request = arg;
    hm_wire_cb pulled = request->pulled;
    hm_list_remove(&request->pull_link);
    request->pulled = NULL;
    pulled(request->pulled_arg, status);
}

enum hm_status hm_request_pull(struct hm_request *request, struct hm_inbound *in,
                               const struct hm_span *into, hm_wire_cb done, void *arg)
{
    HM_ASSERT(!request->pulled && done);
    enum hm_status status = hm_inbound_pull(in, into, on_pulled, request);
    if (status != HM_OK) return status;
    request->pulled = done;
    request->pulled_arg = arg;
    if (request->conn) hm_list_push(&request->conn->pulls, &request->pull_link);
    return HM_OK;
}

/* ---- what a handler asks */

const struct hm_node_id *hm_request_from(const struct hm_request *request)
{
    return &request->peer->id;
}

struct hm_peer *hm_request_peer(const struct hm_request *request)
{
    return request->peer;
}

hm_ns hm_request_deadline(const struct hm_request *request)
{
    return request->deadline;
}

hm_ns hm_request_arrived(const struct hm_request *request)
{
    return request->arrived;
}

void hm_request_set_user(struct hm_request *request, void *user)
{
    request->user = user;
}

void *hm_request_user(const struct hm_request *request)
{
    return request->user;
}
