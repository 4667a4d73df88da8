/* dht/call.c - one call to one contact.
 *
 *                     send queue full: every 10 ms
 *                       +---------+
 *                       v         |
 *   hm_dht_call_start --+--> with rpc --reply, eager--> settled (done runs) --end()--> gone
 *                                 |  \--reply, announced--> pulling --> settled --> gone
 *                                 +--end() without a reply--> settled --> gone
 *
 * Time-outs follow RFC 6298: the smoothed round trip plus four deviations, between 1 and 5 s; 5 s
 * for a node that is not connected or measured yet.  A fixed one calls live nodes dead as soon as
 * the net is slower than it.
 *
 * Invariant: the object lives until it is settled (or cancelled), rpc has said end(), and no pull
 *            runs. */
#include "dht/node.h"

#include "base/assert.h"

#include <stdlib.h>

#define RETRY_AFTER (10 * HM_MS)

struct hm_dht_call {
    struct hm_call rpc;
    struct hm_dht *dht;
    struct hm_link link;
    struct hm_contact *contact;
    struct hm_peer *peer;
    struct hm_buf *payload;
    struct hm_fetch *fetch;
    struct hm_timer timer; /* the next try to send, or the end of a pull */
    hm_ns deadline;        /* the asker's */
    hm_dht_call_cb done;
    void *arg;
    bool with_rpc; /* end() will come */
    bool replied, settled;
    bool hurried; /* the asker's deadline came before the contact's time-out: it is not to blame */
};

static hm_ns patience(const struct hm_peer *peer)
{
    hm_ns deviation;
    hm_ns round_trip = hm_peer_round_trip(peer, &deviation);
    if (round_trip == 0 || !hm_peer_connected(peer)) return HM_DHT_PATIENCE_MAX;
    hm_ns wait = round_trip + 4 * deviation;
    if (wait < HM_DHT_PATIENCE_MIN) return HM_DHT_PATIENCE_MIN;
    return wait < HM_DHT_PATIENCE_MAX ? wait : HM_DHT_PATIENCE_MAX;
}

static void release(struct hm_dht_call *call)
{
    struct hm_dht *dht = call->dht;
    if (!call->settled || call->with_rpc || call->fetch) return;
    hm_timer_stop(dht->loop, &call->timer);
    hm_list_remove(&call->link);
    hm_peer_put(call->peer);
    hm_contact_put(call->contact);
    hm_buf_put(call->payload);
    free(call);
    hm_dht_settle(dht);
}

/* What this end says about the contact. */
static void judge_contact(struct hm_dht_call *call, enum hm_status status)
{
    struct hm_dht *dht = call->dht;
    if (status != HM_OK) dht->metrics.calls_failed.value++;
    bool broken = hm_status_scope(status) == HM_SCOPE_PEER ||
                  (call->replied && status == HM_ERR_UNSUPPORTED) ||
                  (!call->replied && status == HM_ERR_TIMED_OUT && !call->hurried);
    if (broken)
        hm_dht_contact_failed(dht, &call->contact->id);
    else if (call->replied)
        hm_dht_heard(dht, call->peer);
}

static void settle(struct hm_dht_call *call, enum hm_status status, const void *bytes,
                   size_t byte_count)
{
    if (call->settled) return;
    call->settled = true;
    hm_timer_stop(call->dht->loop, &call->timer);
    judge_contact(call, status);
    call->done(call->arg, status, bytes, byte_count);
}

static void on_fetched(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    struct hm_dht_call *call = arg;
    call->fetch = NULL;
    settle(call, status, bytes, byte_count);
    release(call);
}

static void on_reply(struct hm_call *rpc, enum hm_status status, const void *header,
                     size_t header_bytes, struct hm_inbound *in)
{
    struct hm_dht_call *call = rpc->arg;
    (void)header;
    (void)header_bytes;
    if (call->settled || call->replied) { /* cancelled, or a second answer */
        hm_inbound_drop(in);
        return;
    }
    call->replied = true;
    if (status == HM_OK && in->bytes > HM_FIND_REPLY_BYTES_MAX) status = HM_ERR_PEER_PROTOCOL;
    if (status != HM_OK) {
        hm_inbound_drop(in);
        settle(call, status, NULL, 0);
        return;
    }
    status = hm_fetch_start(hm_rpc_buffers(call->dht->rpc), in, on_fetched, call, &call->fetch);
    if (status == HM_INPROGRESS) {
        hm_ns left = hm_deadline_left(call->dht->loop, call->deadline);
        hm_timer_start(call->dht->loop, &call->timer,
                       left < HM_DHT_PATIENCE_MAX ? left : HM_DHT_PATIENCE_MAX);
    } else if (status != HM_OK) {
        settle(call, status, NULL, 0);
    }
}

static void on_end(struct hm_call *rpc, enum hm_status status)
{
    struct hm_dht_call *call = rpc->arg;
    call->with_rpc = false;
    if (!call->fetch) settle(call, status == HM_OK ? HM_ERR_PEER_PROTOCOL : status, NULL, 0);
    release(call);
}

static enum hm_status try_send(struct hm_dht_call *call)
{
    struct hm_loop *loop = call->dht->loop;
    hm_ns wait = patience(call->peer), left = hm_deadline_left(loop, call->deadline);
    call->hurried = left < wait;
    call->rpc.deadline = hm_deadline_after(loop, left < wait ? left : wait);
    enum hm_status status = hm_rpc_call(call->peer, &call->rpc);
    if (status == HM_OK) {
        call->with_rpc = true;
        call->dht->metrics.calls.value++;
    } else if (status == HM_ERR_BUSY && left > 0) {
        hm_timer_start(loop, &call->timer, RETRY_AFTER);
        status = HM_OK;
    }
    return status;
}

/* Either the send queue was full, or a pull takes too long. */
static void on_timer(struct hm_timer *timer)
{
    struct hm_dht_call *call = timer->arg;
    enum hm_status status = HM_ERR_TIMED_OUT;
    if (call->fetch) {
        hm_fetch_abandon(call->fetch);
        call->fetch = NULL;
    } else {
        status = try_send(call);
        if (status == HM_OK) return;
    }
    settle(call, status, NULL, 0);
    release(call);
}

enum hm_status hm_dht_call_start(struct hm_dht *dht, struct hm_contact *contact, uint16_t method,
                                 struct hm_buf *payload, hm_ns deadline, hm_dht_call_cb done,
                                 void *arg, struct hm_dht_call **started)
{
    struct hm_node_id node = hm_contact_node(contact);
    struct hm_addrs addrs;
    hm_contact_addrs(contact, &addrs);
    struct hm_peer *peer;
    enum hm_status status = hm_peer_get(dht->rpc, &node, &addrs, &peer);
    if (status != HM_OK) goto put_payload;
    struct hm_dht_call *call = calloc(1, sizeof *call);
    if (!call) {
        status = HM_ERR_NO_MEMORY;
        goto put_peer;
    }
    call->dht = dht;
    call->contact = contact;
    call->peer = peer;
    call->payload = payload;
    call->deadline = deadline;
    call->done = done;
    call->arg = arg;
    call->timer.cb = on_timer;
    call->timer.arg = call;
    call->rpc = (struct hm_call){
        .method = method, .span_count = 1, .reply = on_reply, .end = on_end, .arg = call};
    call->rpc.payload[0] = hm_buf_span(payload);
    status = try_send(call);
    if (status != HM_OK) goto free_call;
    hm_contact_get(contact);
    hm_list_push(&dht->calls, &call->link);
    *started = call;
    return HM_OK;
free_call:
    free(call);
put_peer:
    hm_peer_put(peer);
put_payload:
    hm_buf_put(payload);
    return status;
}

void hm_dht_call_cancel(struct hm_dht_call *call)
{
    call->settled = true;
    hm_timer_stop(call->dht->loop, &call->timer);
    if (call->fetch) hm_fetch_abandon(call->fetch);
    call->fetch = NULL;
    if (call->with_rpc)
        hm_rpc_cancel(&call->rpc);
    else
        release(call);
}

/* ---- ping ----------------------------------------------------------------------------------- */

static void on_pong(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    (void)arg; /* judge_contact has seen to it */
    (void)status;
    (void)bytes;
    (void)byte_count;
}

void hm_dht_ping(struct hm_dht *dht, struct hm_contact *contact)
{
    static const struct hm_find_request nothing = {.nodes_only = true};
    struct hm_buf *payload;
    if (hm_buf_pool_get(hm_rpc_buffers(dht->rpc), 3, &payload) != HM_OK) return;
    struct hm_writer writer;
    hm_writer_init(&writer, payload->base, payload->bytes);
    hm_find_request_encode(&nothing, &writer);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == payload->bytes);
    struct hm_dht_call *call;
    hm_ns deadline = hm_deadline_after(dht->loop, HM_DHT_PATIENCE_MAX + HM_S);
    enum hm_status status = hm_dht_call_start(dht, contact, HM_METHOD_DHT_FIND, payload, deadline,
                                              on_pong, NULL, &call);
    if (status == HM_ERR_PEER_UNREACHABLE) hm_dht_contact_failed(dht, &contact->id);
}
