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
 * the last one has been acknowledged.  Garbage costs the connection, and so does a side that never
 * says LOST: messages would wait for ever.
 * Invariants: fast->ep is set from offer() to down(); messages are held (hm_conn_holds) for
 * HOLD_MAX at most before the first attempt is decided, so that none goes over the connection that
 * the fabric would have carried. */
#include "transport/rpc_fast.h"

#include "base/log.h"

#include <stdio.h>

#define HOLD_MAX    (2 * HM_S)
#define RETRY_FIRST (1 * HM_S)
#define RETRY_MAX   (60 * HM_S)
#define WARN_AGAIN  (60 * HM_S)

static void retry_later(struct hm_fast *fast);

void hm_fast_say_why(struct hm_peer *peer, const char *why)
{
    (void)snprintf(peer->why_not_fast, sizeof peer->why_not_fast, "%s", why);
}

void hm_fast_hold_end(struct hm_fast *fast)
{
    fast->hold = false;
    hm_timer_stop(fast->rpc->loop, &fast->hold_timer);
}

/* ---- the end of an attempt */

/* Both sides know: what was under way goes over the connection. */
void hm_fast_resume(struct hm_fast *fast)
{
    struct hm_conn *conn = fast->conn;
    if (fast->state != HM_FAST_LOST || fast->ep || !fast->heard_lost) return;
    fast->state = HM_FAST_IDLE;
    hm_fast_hold_end(fast);
    hm_conn_queue_unacked(conn);
    hm_fast_ack(fast);
    retry_later(fast);
    hm_conn_flush(conn);
}

/* The endpoint of the attempt is no more, or never was. */
void hm_fast_ended(struct hm_fast *fast)
{
    fast->ep = NULL;
    hm_fast_say_lost(fast, fast->attempt, fast->why);
    hm_fast_resume(fast);
}

void hm_fast_lose(struct hm_fast *fast, enum hm_status why)
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
    /* As long as a silent connection may live. */
    hm_timer_start(loop, &fast->hold_timer,
                   HM_RPC_PINGS_MISSED_MAX * fast->rpc->conf.ping_interval);
    struct hm_peer *peer = fast->conn->peer;
    if (why == HM_ERR_PEER_VERSION) {
        const char *kept = hm_fail_line();
        snprintf(line, sizeof line, "other settings: %s",
                 kept[0] ? kept : "the other side refuses ours");
    } else {
        snprintf(line, sizeof line, "%s: %s", was_up ? "lost" : "did not come up",
                 hm_status_text(why));
    }
    hm_fast_say_why(peer, line);
    hm_log(HM_LOG_INFO, "fabric", "%.16s: %s", hm_node_id_text(&peer->id, id), line);
}

void hm_fast_fail(struct hm_fast *fast, enum hm_status why)
{
    if (fast->state != HM_FAST_OFFERED && fast->state != HM_FAST_UP) return;
    hm_fast_lose(fast, why);
    if (fast->ep) fast->rpc->conf.fabric->disconnect(fast->ep);
}

/* ---- an attempt */

static void on_hold_timer(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    if (fast->state == HM_FAST_LOST) {
        hm_conn_fail(fast->conn, HM_ERR_PEER_UNREACHABLE);
        return;
    }
    hm_fast_hold_end(fast);
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

/* One more attempt begins on this side. */
enum hm_status hm_fast_begin(struct hm_fast *fast, uint64_t attempt)
{
    HM_ASSERT(fast->tagged_count == 0 && !fast->ep);
    fast->attempt = attempt;
    fast->state = HM_FAST_OFFERED;
    fast->heard_lost = fast->accepted = fast->blocked = fast->pong_due = false;
    fast->attempt_out = attempt;
    fast->next = 0;
    return hm_fast_offer_make(fast);
}

static void on_retry(struct hm_timer *timer)
{
    struct hm_fast *fast = timer->arg;
    if (fast->state != HM_FAST_IDLE || fast->conn->state != HM_CONN_UP || fast->rpc->closing)
        return;
    if (fast->newest >= HM_FAST_ATTEMPTS_MAX) return;
    if (fast->tagged_count > 0 || fast->lost_due) { /* of the last one */
        hm_timer_start(fast->rpc->loop, &fast->retry, RETRY_FIRST);
        return;
    }
    enum hm_status status = hm_fast_begin(fast, ++fast->newest);
    if (status == HM_OK) {
        hm_fast_flush(fast);
        return;
    }
    hm_fast_lose(fast, status); /* nobody has heard of this attempt */
    fast->heard_lost = true;
    hm_fast_resume(fast);
}

void hm_fast_destroy(struct hm_fast *fast)
{
    struct hm_rpc *rpc = fast->rpc;
    HM_ASSERT(fast->tagged_count == 0 && hm_list_empty(&fast->inbounds));
    hm_slots_give(&rpc->fast_slots, fast);
}

/* ---- with the connection */

static const char *why_not(const struct hm_rpc *rpc, const struct hm_hello *hello)
{
    if (!rpc->conf.transport_conf.fabric_key) return "";
    if (!rpc->fabric) return "this node has no fabric";
    if (hello->fabric_proof_bytes == 0) return "the other side has no fabric";
    if (!hello->fabric_proved) return "the other side has another fabric key";
    return NULL;
}

/* Strangers cannot fill the log. */
static void warn_of_key(struct hm_conn *conn)
{
    struct hm_rpc *rpc = conn->rpc;
    char id[HM_NODE_ID_TEXT_BYTES];
    hm_ns now = hm_loop_now(rpc->loop);
    bool again = rpc->key_warned != 0 && now - rpc->key_warned < WARN_AGAIN;
    if (!again) rpc->key_warned = now;
    hm_log(again ? HM_LOG_INFO : HM_LOG_WARN, "fabric",
           "%.16s has another fabric key; messages to it go over %s. Give both the same "
           "--fabric-key",
           hm_node_id_text(&conn->peer->id, id), rpc->conf.transport->name);
}

void hm_fast_start(struct hm_conn *conn, const struct hm_hello *hello)
{
    struct hm_rpc *rpc = conn->rpc;
    const char *why = why_not(rpc, hello);
    struct hm_fast *fast = why ? NULL : hm_slots_take(&rpc->fast_slots);
    conn->proved = hello->fabric_proved;
    if (!why && !fast) why = "no place for one more";
    if (why) {
        if (hello->fabric_proof_bytes > 0 && rpc->fabric && !conn->proved) warn_of_key(conn);
        if (!conn->peer->sender || !conn->peer->sender->fast) hm_fast_say_why(conn->peer, why);
        if (conn->proved && conn->dialed) hm_fast_refuse(conn, 1); /* it need not wait */
        return;
    }
    *fast = (struct hm_fast){.rpc = rpc, .conn = conn, .hold = true};
    fast->hold_timer = (struct hm_timer){.cb = on_hold_timer, .arg = fast};
    fast->retry = (struct hm_timer){.cb = on_retry, .arg = fast};
    hm_list_init(&fast->unacked);
    hm_list_init(&fast->inbounds);
    hm_fast_in_reset(fast, 0);
    conn->fast = fast;
    hm_fast_say_why(conn->peer, "being set up");
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
    hm_fast_lose(fast, conn->why);
    if (fast->ep) fast->rpc->conf.fabric->fabric->lost(fast->ep, conn->why);
    hm_fast_in_orphan(fast); /* runs callbacks; they cannot reach the path any more */
    if (!fast->ep) hm_fast_destroy(fast);
}
