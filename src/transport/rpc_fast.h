/* transport/rpc_fast.h - the fast path of a connection, as rpc's files see it (rpc_internal.h).
 *
 *   rpc_fabric.c        how it comes and goes: attempts, and what becomes of them
 *   rpc_fabric_offer.c  what is said about it over the connection: OFFER and LOST
 *   rpc_fabric_ep.c     its endpoint: arrivals, pings, the end
 *   rpc_fabric_out.c    messages out: numbered, kept until they are acknowledged, sent again
 *   rpc_fabric_in.c     messages in: each number once */
#ifndef HM_TRANSPORT_RPC_FAST_H
#define HM_TRANSPORT_RPC_FAST_H

#include "transport/rpc_internal.h"

/* The fast path of a connection, from up() of the connection to down() of both (rpc_fabric.c). */
enum { HM_FAST_WINDOW = 4096, HM_FAST_WINDOW_WORDS = HM_FAST_WINDOW / 64 };
enum hm_fast_state { HM_FAST_IDLE, HM_FAST_OFFERED, HM_FAST_UP, HM_FAST_LOST };
struct hm_fast {
    struct hm_rpc *rpc;
    struct hm_conn *conn; /* NULL: has gone; we wait for our endpoint's down() */
    struct hm_ep *ep;     /* NULL: none, or down */
    enum hm_fast_state state;
    enum hm_status why; /* LOST */
    bool hold;          /* IDLE, OFFERED: messages wait for the first attempt, until hold_timer */
    bool accepted;      /* the other side's offer of this attempt */
    bool heard_lost, never_again;
    unsigned failures;
    struct hm_timer hold_timer, retry, ack, tick;
    /* Attempts; of the dialler the last one that it made, of the other side the last that it saw. */
    uint64_t attempt, newest;
    hm_ns offer_heard; /* when the last one was answered */
    /* Due to be said over the connection, as soon as it takes it. */
    struct hm_buf *offer_out;
    size_t offer_out_bytes;
    bool lost_due;
    uint64_t lost_attempt;
    enum hm_status lost_why;
    struct hm_buf *offer_in; /* being pulled */
    size_t offer_in_bytes;
    uint64_t offer_in_attempt;

    /* The way out.  Numbers of an attempt start at 0. */
    bool blocked;
    uint64_t attempt_out, next;
    struct hm_link unacked; /* of hm_send, by number */
    unsigned unacked_count, tagged_count;

    /* The way in: everything before `low` has been taken (pulled or dropped by the user); bits of
     * the numbers from there on, in rings. */
    uint64_t attempt_in, low;
    uint64_t seen[HM_FAST_WINDOW_WORDS], taken[HM_FAST_WINDOW_WORDS];
    unsigned taken_beyond, taken_untold; /* bits in `taken`; not acknowledged yet */
    size_t taken_bytes_untold;           /* payloads of these */
    struct hm_link inbounds;             /* of hm_fast_in: seen, not taken */

    bool heard, ping_out, pong_due;
    unsigned missed;
    uint64_t ping_id, pong_id;
    hm_ns ping_sent;
};
/* An inbound as the user sees it, over the fast path: it survives the path (rpc_fabric_in.c). */
struct hm_fast_in {
    struct hm_inbound base;
    struct hm_link link; /* fast->inbounds */
    struct hm_rpc *rpc;
    struct hm_fast *fast;            /* NULL: the connection has gone */
    struct hm_inbound *real, *again; /* as it came over the fast path, and the second time */
    uint64_t number;
    bool pulling; /* the wire fills `into` */
    bool waiting; /* `into` is to be filled by what comes the second time */
    bool voided;
    struct hm_span into;
    hm_wire_cb done;
    void *arg;
    struct hm_timer copied; /* runs done, of what was here when the path was lost */
};

/* ---- rpc_fabric.c */

/* The connection is up: does it get a fast path?  Says why not, to the peer's path. */
void hm_fast_start(struct hm_conn *conn, const struct hm_hello *hello);
/* The connection is down.  Runs callbacks. */
void hm_fast_orphan(struct hm_conn *conn);
/* The endpoint is no good any more; its down() follows. */
void hm_fast_fail(struct hm_fast *fast, enum hm_status why);
/* The attempt is over on this side, whatever its endpoint does; the first reason stays. */
void hm_fast_lose(struct hm_fast *fast, enum hm_status why);
/* Its endpoint is no more, or never was: says so to the other side. */
void hm_fast_ended(struct hm_fast *fast);
/* If both sides know that it is lost: what was under way goes over the connection. */
void hm_fast_resume(struct hm_fast *fast);
/* One more attempt begins on this side, with an endpoint and an offer to be said. */
HM_MUST_CHECK enum hm_status hm_fast_begin(struct hm_fast *fast, uint64_t attempt);
void hm_fast_hold_end(struct hm_fast *fast);
void hm_fast_say_why(struct hm_peer *peer, const char *why);
void hm_fast_destroy(struct hm_fast *fast);
static inline bool hm_conn_is_fast(const struct hm_conn *conn)
{
    return conn->fast && conn->fast->state == HM_FAST_UP;
}
/* Messages wait: for the first attempt, or until both sides know that the fast path is lost. */
static inline bool hm_conn_holds(const struct hm_conn *conn)
{
    const struct hm_fast *fast = conn->fast;
    if (!fast || fast->state == HM_FAST_UP) return false;
    return fast->state == HM_FAST_LOST || fast->hold;
}

/* ---- rpc_fabric_offer.c */

enum { HM_FAST_ATTEMPTS_MAX = 65535 };
void hm_fast_receive_offer(struct hm_conn *conn, const struct hm_rpc_header *header,
                           struct hm_inbound *in);
void hm_fast_receive_lost(struct hm_conn *conn, const struct hm_rpc_header *header,
                          const void *settings, size_t settings_bytes);
HM_MUST_CHECK enum hm_status hm_fast_offer_make(struct hm_fast *fast);
void hm_fast_say_lost(struct hm_fast *fast, uint64_t attempt, enum hm_status why);
/* We have proved the key but have no fast path: the other side need not wait. */
void hm_fast_refuse(struct hm_conn *conn, uint64_t attempt);
void hm_fast_flush(struct hm_fast *fast); /* what is due over the connection */

/* ---- rpc_fabric_ep.c */

extern const struct hm_transport_sink hm_fast_sink; /* arg is set by rpc.c */
void hm_fast_flush_pong(struct hm_fast *fast);      /* what is due over the fabric */
void hm_fast_watch(struct hm_fast *fast); /* something is to be acknowledged: looks more often */

/* ---- rpc_fabric_out.c */

/* Over the fast path, where it gets its tag; or, with the tag that it has, once more over the
 * connection.  The record stays. */
HM_MUST_CHECK enum hm_status hm_fast_send(struct hm_conn *conn, struct hm_send *send);
/* The window keeps what the other side must remember bounded. */
bool hm_fast_has_room(const struct hm_fast *fast);
/* Queued to be sent again, but nobody needs it any more: the other side must learn that. */
void hm_send_void(struct hm_send *send);
/* Everything that has been on the fast path and is not acknowledged goes to the front of the queue,
 * in order; what nobody needs any more as HM_RPC_VOID. */
void hm_conn_queue_unacked(struct hm_conn *conn);
void hm_fast_receive_ack(struct hm_conn *conn, const struct hm_rpc_header *header,
                         const uint8_t *bits, size_t byte_count);
void hm_fast_forget_sends(struct hm_fast *fast); /* the connection has gone */
/* The other side can know nothing of it. */
static inline bool hm_send_is_unsent(const struct hm_send *send)
{
    return send->place <= HM_SEND_QUEUE && send->tag == 0;
}

/* ---- rpc_fabric_in.c */

void hm_fast_receive_tagged(struct hm_conn *conn, const struct hm_rpc_header *header,
                            const void *user, size_t user_bytes, struct hm_inbound *in,
                            bool over_fabric); /* runs callbacks */
void hm_fast_ack(struct hm_fast *fast);
void hm_fast_in_reset(struct hm_fast *fast, uint64_t attempt);
void hm_fast_in_orphan(struct hm_fast *fast); /* runs callbacks */

#endif
