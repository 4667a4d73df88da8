/* transport/peer_dial.c - connecting: the addresses of a peer in turn, its back-off; bootstrap
 * addresses.
 *
 *               call, not connected
 *      quiet -----------------------> dialling --+  connect() to the next address, when the one
 *        ^                              |   |  ^-+  before failed or after STAGGER
 *        |  up(), whoever dialled       |   |
 *        +------------------------------+   | none is left, none is pending
 *        |                                  v
 *        +--- 0.5 s ... 60 s, jittered --- backing off: calls fail at once
 *
 * Failure modes: when every address has failed, the calls that waited end with
 * HM_ERR_PEER_UNREACHABLE.  Attempts that are pending when another connection comes up are left
 * alone: the other side may already be sending over them; rpc_conn.c closes what turns out to be
 * spare.
 * Invariant: a dial starts in a turn of its own, so its failure never runs end() inside
 * hm_rpc_call. */
#include "transport/rpc_internal.h"

#include "base/log.h"

#define STAGGER                                                                                    \
    (500 *                                                                                         \
     HM_MS) /* RFC 8305 allows 10 ms to 2 s between attempts, for a TLS handshake take the   \
                     slow end */
#define BACK_OFF_FIRST (500 * HM_MS)
#define BACK_OFF_MAX   (60 * HM_S)

void hm_peer_back_off(struct hm_peer *peer)
{
    struct hm_loop *loop = peer->rpc->loop;
    hm_ns wait = BACK_OFF_FIRST;
    for (unsigned i = 0; i < peer->failures && wait < BACK_OFF_MAX; i++) wait *= 2;
    if (wait > BACK_OFF_MAX) wait = BACK_OFF_MAX;
    if (peer->failures < 16) peer->failures++;
    /* Half of it is certain, the other half drawn, so that a swarm does not come back in step. */
    hm_ns jittered = wait / 2 + hm_loop_random(loop, HM_RANDOM_RETRY) % (wait / 2 + 1);
    peer->backoff_until = hm_deadline_after(loop, jittered);
}

static void dial_failed(struct hm_peer *peer)
{
    char id[HM_NODE_ID_TEXT_BYTES];
    peer->dialing = false;
    hm_peer_back_off(peer);
    hm_log(HM_LOG_INFO, "rpc", "node %.16s does not answer at any of its %u addresses",
           hm_node_id_text(&peer->id, id), peer->addrs.count);
    peer->holds++;
    uint64_t made_later = peer->rpc->call_id_next; /* by an end(), for an address learned since */
    while (!hm_list_empty(&peer->waiting)) {
        struct hm_call *call = HM_CONTAINER_OF(peer->waiting.next, struct hm_call, link);
        if (call->id >= made_later) break;
        hm_call_finish(call, HM_ERR_PEER_UNREACHABLE);
    }
    peer->holds--;
    hm_peer_settle(peer);
}

/* Starts one attempt.  False: it failed at once. */
static bool attempt(struct hm_peer *peer, const struct hm_addr *addr)
{
    struct hm_rpc *rpc = peer->rpc;
    struct hm_conn *conn = hm_conn_create(rpc, true);
    if (!conn) return false;
    conn->addr = *addr;
    enum hm_status status =
        rpc->conf.transport->connect(rpc->transport, &conn->addr, &peer->id, &conn->ep);
    if (status != HM_OK) {
        conn->ep = NULL;
        hm_conn_destroy(conn);
        return false;
    }
    conn->ep->user = conn;
    conn->peer = peer;
    hm_list_push(&peer->dials, &conn->link);
    return true;
}

static void on_dial_timer(struct hm_timer *timer)
{
    struct hm_peer *peer = timer->arg;
    if (!peer->dialing) return;
    for (unsigned i = 0; i < peer->addrs.count; i++) {
        if (peer->tried[i]) continue;
        peer->tried[i] = true;
        if (!attempt(peer, &peer->addrs.addr[i])) continue;
        hm_timer_start(peer->rpc->loop, &peer->dial_timer, STAGGER);
        return;
    }
    if (hm_list_empty(&peer->dials)) dial_failed(peer);
}

void hm_peer_dial(struct hm_peer *peer)
{
    if (peer->dialing) return;
    peer->dialing = true;
    memset(peer->tried, 0, sizeof peer->tried);
    peer->dial_timer.cb = on_dial_timer;
    peer->dial_timer.arg = peer;
    hm_timer_start(peer->rpc->loop, &peer->dial_timer, 0);
    hm_peer_settle(peer);
}

void hm_peer_dial_end(struct hm_peer *peer)
{
    peer->dialing = false;
    hm_timer_stop(peer->rpc->loop, &peer->dial_timer);
}

void hm_peer_dial_lost(struct hm_peer *peer)
{
    if (peer->dialing) hm_timer_start(peer->rpc->loop, &peer->dial_timer, 0);
    hm_peer_settle(peer);
}

/* ---- bootstrap addresses: whoever answers */

void hm_dial_finish(struct hm_dial *dial, enum hm_status status, struct hm_peer *peer)
{
    struct hm_rpc *rpc = dial->rpc;
    hm_timer_stop(rpc->loop, &dial->timer);
    hm_list_remove(&dial->link);
    if (dial->conn) dial->conn->dial = NULL;
    void (*cb)(void *arg, enum hm_status status, struct hm_peer *peer) = dial->cb;
    void *arg = dial->arg;
    hm_slots_give(&rpc->dial_slots, dial);
    cb(arg, status, peer ? hm_peer_ref(peer) : NULL);
}

static void on_dial_deadline(struct hm_timer *timer)
{
    struct hm_dial *dial = HM_CONTAINER_OF(timer, struct hm_dial, timer);
    hm_conn_fail(dial->conn, HM_ERR_TIMED_OUT);
    hm_dial_finish(dial, HM_ERR_TIMED_OUT, NULL);
}

enum hm_status hm_rpc_dial(struct hm_rpc *rpc, const struct hm_addr *addr, hm_ns deadline,
                           void (*cb)(void *arg, enum hm_status status, struct hm_peer *peer),
                           void *arg)
{
    if (rpc->closing) return HM_ERR_CANCELED;
    struct hm_dial *dial = hm_slots_take(&rpc->dial_slots);
    if (!dial) return HM_ERR_BUSY;
    struct hm_conn *conn = hm_conn_create(rpc, true);
    if (!conn) {
        hm_slots_give(&rpc->dial_slots, dial);
        return HM_ERR_BUSY;
    }
    conn->addr = *addr;
    enum hm_status status =
        rpc->conf.transport->connect(rpc->transport, &conn->addr, NULL, &conn->ep);
    if (status != HM_OK) {
        conn->ep = NULL;
        hm_conn_destroy(conn);
        hm_slots_give(&rpc->dial_slots, dial);
        return status;
    }
    conn->ep->user = conn;
    conn->dial = dial;
    *dial = (struct hm_dial){.rpc = rpc, .conn = conn, .cb = cb, .arg = arg};
    dial->timer.cb = on_dial_deadline;
    hm_list_init(&dial->link);
    hm_list_push(&rpc->dials, &dial->link);
    if (deadline != HM_NS_NEVER)
        hm_timer_start(rpc->loop, &dial->timer, hm_deadline_left(rpc->loop, deadline));
    return HM_OK;
}
