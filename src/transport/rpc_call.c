/* transport/rpc_call.c - calls: from hm_rpc_call to the one end().
 *
 * Owns nothing but the fields marked "rpc's" of the caller's struct hm_call.
 *
 *                   connected                        all replies, deadline, peer down
 *   hm_rpc_call ---------------> LIVE, on conn->calls ------------------------------> end()
 *        |                        ^        |                                            ^
 *        | not connected          | up()   | hm_rpc_cancel, no time left at the start   | next turn
 *        +---> LIVE, on peer->waiting -----+----------> ENDING -------------------------+
 *
 * Replies can overtake one another: each has its index, the last one tells their number, and the
 * call ends when as many have come.
 * Failure modes: whatever comes for a call that has ended, or over another connection, is dropped.
 * Invariants: rpc->calls has exactly the LIVE ones; a call's timer runs from hm_rpc_call to its
 * end, so a deadline always ends it. */
#include "transport/rpc_fast.h"

enum call_state { CALL_ENDED, CALL_LIVE, CALL_ENDING };

static bool has_call_id(const struct hm_map_node *node, const void *key)
{
    return HM_CONTAINER_OF(node, struct hm_call, node)->id == *(const uint64_t *)key;
}

/* Out of every list, map and queue: nothing that arrives finds it any more. */
static void call_detach(struct hm_call *call)
{
    struct hm_peer *peer = call->peer;
    if (call->state != CALL_LIVE) return;
    hm_map_remove(&peer->rpc->calls, &call->node);
    hm_list_remove(&call->link);
    if (!call->conn) peer->waiting_count--;
    if (call->send) hm_send_forget(peer->rpc, call->send);
    call->conn = NULL;
}

void hm_call_finish(struct hm_call *call, enum hm_status status)
{
    struct hm_peer *peer = call->peer;
    struct hm_rpc *rpc = peer->rpc;
    HM_ASSERT(call->state != CALL_ENDED);
    call_detach(call);
    hm_timer_stop(rpc->loop, &call->timer);
    call->state = CALL_ENDED;
    if (status != HM_OK) rpc->calls_failed.value++;
    rpc->call_count--;
    peer->holds--;
    hm_peer_settle(peer);
    call->end(call, status); /* the call's memory is the caller's again */
    hm_rpc_settle(rpc);
}

static void on_call_timer(struct hm_timer *timer)
{
    struct hm_call *call = timer->arg;
    hm_call_finish(call, call->state == CALL_ENDING ? call->end_status : HM_ERR_TIMED_OUT);
}

/* ---- making one */

static enum hm_status call_wait(struct hm_peer *peer, struct hm_call *call,
                                const struct hm_rpc_header *header)
{
    if (hm_peer_backing_off(peer)) return HM_ERR_PEER_UNREACHABLE;
    if (peer->addrs.count == 0 && !peer->dialing) return HM_ERR_PEER_UNREACHABLE;
    if (peer->waiting_count >= HM_RPC_QUEUE_CALLS_MAX) return HM_ERR_BUSY;
    struct hm_send *send =
        hm_send_create(peer->rpc, header, call->header, call->header_bytes, call->payload,
                       call->payload_bytes ? call->span_count : 0, call, call->deadline);
    if (!send) return HM_ERR_BUSY;
    hm_list_push(&peer->waiting, &call->link);
    peer->waiting_count++;
    hm_peer_dial(peer);
    return HM_OK;
}

static enum hm_status call_place(struct hm_peer *peer, struct hm_call *call, hm_ns left)
{
    struct hm_rpc_header header = {.kind = HM_RPC_REQUEST,
                                   .method = call->method,
                                   .id = call->id,
                                   .time_us = hm_rpc_time_us(left)};
    struct hm_conn *conn;
    while ((conn = peer->sender)) {
        enum hm_status status = hm_conn_send(conn, &header, call->header, call->header_bytes,
                                             call->payload, call->span_count, call, call->deadline);
        if (status == HM_ERR_PEER_UNREACHABLE) {
            hm_conn_fail(conn, HM_ERR_PEER_RESET); /* its down() is on the way */
            continue;
        }
        if (status != HM_OK) return status;
        call->conn = conn;
        hm_list_push(&conn->calls, &call->link);
        return HM_OK;
    }
    return call_wait(peer, call, &header);
}

enum hm_status hm_rpc_call(struct hm_peer *peer, struct hm_call *call)
{
    struct hm_rpc *rpc = peer->rpc;
    HM_ASSERT(call->deadline != HM_NS_NEVER && call->end && call->span_count <= HM_SPANS_MAX);
    if (rpc->closing) return HM_ERR_CANCELED;
    call->payload_bytes = hm_spans_bytes(call->payload, call->span_count);
    if (call->header_bytes > HM_CALL_HEADER_BYTES_MAX || call->payload_bytes == SIZE_MAX)
        return HM_ERR_TOO_BIG;
    if (rpc->call_count >= rpc->conf.calls_max) return HM_ERR_BUSY;
    hm_ns left = hm_deadline_left(rpc->loop, call->deadline);
    call->id = rpc->call_id_next++;
    call->peer = peer;
    call->conn = NULL;
    call->send = NULL;
    call->reply_count = call->reply_total = 0;
    call->started = hm_loop_now(rpc->loop);
    call->timer = (struct hm_timer){.cb = on_call_timer, .arg = call};
    hm_list_init(&call->link);
    if (left > 0) {
        enum hm_status status = call_place(peer, call, left);
        if (status != HM_OK) return status;
        call->state = CALL_LIVE;
        hm_map_insert(&rpc->calls, &call->node, call->id);
    } else {
        call->state = CALL_ENDING;
        call->end_status = HM_ERR_TIMED_OUT;
    }
    hm_timer_start(rpc->loop, &call->timer, left);
    rpc->calls_total.value++;
    rpc->call_count++;
    peer->holds++;
    hm_peer_settle(peer);
    return HM_OK;
}

void hm_rpc_cancel(struct hm_call *call)
{
    if (call->state != CALL_LIVE) return;
    struct hm_rpc *rpc = call->peer->rpc;
    struct hm_conn *conn = call->conn;
    bool queued = call->send && hm_send_is_unsent(call->send);
    call_detach(call);
    call->state = CALL_ENDING;
    call->end_status = HM_ERR_CANCELED;
    hm_timer_start(rpc->loop, &call->timer, 0);
    if (!conn || queued) return; /* the other side knows nothing of it */
    struct hm_rpc_header header = {.kind = HM_RPC_CANCEL, .method = call->method, .id = call->id};
    enum hm_status status = hm_conn_send(conn, &header, NULL, 0, NULL, 0, NULL, call->deadline);
    (void)status; /* best effort: its deadline ends the request too */
}

/* ---- replies */

/* A small call that was answered tells the round trip: its time less what the other side says it
 * was held. */
static void call_measure(const struct hm_call *call, const struct hm_rpc_header *header,
                         const struct hm_inbound *in)
{
    if (call->reply_count > 0 || call->payload_bytes > HM_RPC_SMALL_BYTES) return;
    if (in->bytes > HM_RPC_SMALL_BYTES) return;
    hm_ns took = hm_loop_now(call->peer->rpc->loop) - call->started;
    hm_ns held = header->time_us * HM_US;
    if (held <= took) hm_peer_measured(call->peer, took - held);
}

void hm_call_receive(struct hm_conn *conn, const struct hm_rpc_header *header,
                     const void *user_header, size_t user_bytes, struct hm_inbound *in)
{
    struct hm_map_node *node = hm_map_find(&conn->rpc->calls, header->id, has_call_id, &header->id);
    struct hm_call *call = node ? HM_CONTAINER_OF(node, struct hm_call, node) : NULL;
    bool wanted = call && call->conn == conn && !(header->last && call->reply_total) &&
                  !(call->reply_total && header->index >= call->reply_total);
    if (!wanted) {
        hm_inbound_drop(in);
        return;
    }
    if (call->send &&
        hm_send_is_unsent(call->send)) { /* an answer to what has not been asked yet */
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    if (header->last && header->index < call->reply_count) { /* fewer than have come */
        hm_inbound_drop(in);
        hm_conn_fail(conn, HM_ERR_PEER_PROTOCOL);
        return;
    }
    call_measure(call, header, in);
    call->reply_count++;
    if (header->last) call->reply_total = header->index + 1;
    if (call->reply)
        call->reply(call, header->status, user_header, user_bytes, in);
    else
        hm_inbound_drop(in);
    /* reply() may have cancelled the call; it cannot have ended. */
    if (call->state == CALL_LIVE && call->reply_count == call->reply_total)
        hm_call_finish(call, HM_OK);
}
