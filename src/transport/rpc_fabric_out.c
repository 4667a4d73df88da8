/* transport/rpc_fabric_out.c - messages out over the fast path: numbered, and kept until the other
 * side has taken them.
 *
 * Owns the records on fast->unacked, with header and payload's owners.
 *
 *   hm_fast_send --> unacked --ACK--> free (once the wire has let go of the payload)
 *                       | both sides have said LOST
 *                       +--> the front of conn->queue --> over the connection, unacked again
 *
 * Failure modes: a receiver that takes nothing closes the window; then messages wait in conn->queue,
 * whose bounds are rpc_send.c's.
 * Invariant: a tagged message is never given up but by its connection: what nobody needs any more
 * goes as a VOID in its place, since the other side may hold its header and wait for the payload. */
#include "transport/rpc_fast.h"

static void acked(struct hm_send *send)
{
    if (send->carried)
        send->acked = true; /* the wire will let go of the payload in its time */
    else
        hm_send_destroy(send->fast->rpc, send);
}

void hm_fast_forget_sends(struct hm_fast *fast)
{
    HM_LIST_EACH_SAFE (link, &fast->unacked) {
        struct hm_send *send = HM_CONTAINER_OF(link, struct hm_send, link);
        send->conn = NULL;
        acked(send);
    }
}

static bool is_needed(const struct hm_send *send, hm_ns now)
{
    bool is_request = send->header[0] == HM_RPC_REQUEST;
    return is_request ? send->call != NULL : send->expires >= now;
}

void hm_conn_queue_unacked(struct hm_conn *conn)
{
    struct hm_fast *fast = conn->fast;
    hm_ns now = hm_loop_now(conn->rpc->loop);
    while (!hm_list_empty(&fast->unacked)) {
        struct hm_send *send = HM_CONTAINER_OF(fast->unacked.prev, struct hm_send, link);
        HM_ASSERT(!send->carried); /* its callback came before the endpoint's down() */
        hm_send_take_out(send);
        send->place = HM_SEND_QUEUE;
        hm_list_push_front(&conn->queue, &send->link);
        conn->queue_count++;
        if (!is_needed(send, now)) hm_send_void(send);
    }
}

static void on_tagged_done(void *arg, enum hm_status status)
{
    struct hm_send *send = arg;
    struct hm_conn *conn = send->conn;
    (void)status; /* the acknowledgement tells */
    send->carried = false;
    if (send->acked) hm_send_destroy(send->fast->rpc, send);
    if (conn && conn->state == HM_CONN_UP) hm_conn_flush(conn);
}

bool hm_fast_has_room(const struct hm_fast *fast)
{
    if (hm_list_empty(&fast->unacked)) return true;
    const struct hm_send *oldest = HM_CONTAINER_OF(fast->unacked.next, struct hm_send, link);
    return fast->next - hm_tag_number(oldest->tag) < HM_FAST_WINDOW;
}

enum hm_status hm_fast_send(struct hm_conn *conn, struct hm_send *send)
{
    struct hm_fast *fast = conn->fast;
    bool first = send->tag == 0;
    const struct hm_transport_ops *ops = first ? conn->rpc->conf.fabric : conn->rpc->conf.transport;
    unsigned bare_bytes = send->header_bytes;
    uint64_t tag = first ? hm_tag(fast->attempt_out, fast->next) : send->tag;
    if (first) send->header_bytes = (unsigned)hm_rpc_header_set_tag(send->header, bare_bytes, tag);
    bool carried = send->payload_bytes > 0;
    enum hm_status status =
        ops->send(first ? fast->ep : conn->ep, send->header, send->header_bytes, send->payload,
                  send->span_count, carried ? on_tagged_done : NULL, send);
    if (status != HM_OK) {
        if (first) {
            hm_rpc_header_clear_tag(send->header);
            send->header_bytes = bare_bytes;
        }
        return status;
    }
    if (first) {
        send->fast = fast;
        send->tag = tag;
        fast->next++;
        fast->tagged_count++;
    }
    if (send->place == HM_SEND_QUEUE)
        hm_send_take_out(send);
    else
        hm_send_held(conn, send);
    send->conn = conn;
    send->carried = carried;
    send->place = HM_SEND_UNACKED;
    hm_list_push(&fast->unacked, &send->link);
    fast->unacked_count++;
    hm_fast_watch(fast);
    hm_conn_count_sent(conn, send->method, first);
    return HM_OK;
}

void hm_send_void(struct hm_send *send)
{
    struct hm_rpc_header header = {.kind = HM_RPC_VOID, .method = send->method};
    if (send->is_reply) send->conn->reply_bytes -= send->payload_bytes;
    hm_send_put_owners(send);
    send->payload_bytes = 0;
    hm_rpc_header_encode(&header, send->header);
    send->header_bytes =
        (unsigned)hm_rpc_header_set_tag(send->header, HM_RPC_HEADER_BYTES, send->tag);
    if (send->call) send->call->send = NULL;
    send->call = NULL;
}

void hm_fast_receive_ack(struct hm_conn *conn, const struct hm_rpc_header *header,
                         const uint8_t *bits, size_t byte_count)
{
    struct hm_fast *fast = conn->fast;
    uint64_t low = hm_tag_number(header->id);
    if (!fast || hm_tag_attempt(header->id) != fast->attempt_out) return; /* of an older one */
    HM_LIST_EACH_SAFE (link, &fast->unacked) {
        struct hm_send *send = HM_CONTAINER_OF(link, struct hm_send, link);
        uint64_t number = hm_tag_number(send->tag);
        if (number >= low + 8 * byte_count) break;
        if (number >= low && !(bits[(number - low) / 8] >> (number - low) % 8 & 1)) continue;
        if (!send->acked) acked(send);
    }
    hm_conn_flush(conn);
}
