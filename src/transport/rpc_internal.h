/* transport/rpc_internal.h - what the files of rpc share: rpc.c, rpc_call.c, rpc_serve.c,
 * rpc_conn.c, rpc_send.c, rpc_wire.c, rpc_fabric*.c (with rpc_fast.h), peer.c and peer_dial.c.
 * Nobody else includes it (tests and fuzzers do).
 *
 * A peer has connections; a call and a request belong to the one connection that carries them and
 * die with it.  Replies go back over the connection that the request came on, so that both sides
 * agree about what a broken connection takes with it.
 *
 * Reentrancy: every callback of the user may call anything in rpc.h.  Functions here that run
 * users' callbacks say so, are only called from the loop or from the transport (never inside a
 * user's call), and touch nothing afterwards that a callback can have freed.  Connections are freed
 * in their down() only, peers only when somebody needs their place in the table, rpc in a turn of
 * its own. */
#ifndef HM_TRANSPORT_RPC_INTERNAL_H
#define HM_TRANSPORT_RPC_INTERNAL_H

#include "transport/rpc.h"
#include "transport/rpc_slots.h"

/* ---- the header of a message (rpc_wire.c; docs/wire.md) */

enum { HM_RPC_HEADER_BYTES = 24 };
enum hm_rpc_kind {
    HM_RPC_REQUEST = 1,
    HM_RPC_REPLY = 2,
    HM_RPC_CANCEL = 3,
    HM_RPC_PING = 4,
    HM_RPC_PONG = 5,
    /* Of the fast path (rpc_fabric.c), between nodes that have proved its key to each other. */
    HM_RPC_OFFER = 6, /* id: attempt; payload: the offer of an endpoint */
    /* id: attempt; its endpoint is down here, or there is none; status: why; user header: with
     * PEER_VERSION the settings here */
    HM_RPC_LOST = 7,
    HM_RPC_ACK = 8,  /* id: tag, all before it have been taken; user header: bits of later ones */
    HM_RPC_VOID = 9, /* stands for a tagged message that nobody needs any more */
};
enum { HM_RPC_REPLIES_MAX = 65536 }; /* of one call */
struct hm_rpc_header {
    enum hm_rpc_kind kind;
    bool last;
    uint16_t method;
    enum hm_status status;
    uint64_t id;
    uint32_t index;   /* reply: 0 for the first that was sent; with `last` it gives their number */
    uint32_t time_us; /* request: what is left until the deadline; reply: how long the request was
                         held */
    uint64_t tag;     /* attempt << 48 | number of a message of the fast path; 0: none */
};
enum { HM_RPC_TAG_BYTES = 8 };
static inline uint64_t hm_tag(uint64_t attempt, uint64_t number)
{
    return attempt << 48 | number;
}
static inline uint64_t hm_tag_attempt(uint64_t tag)
{
    return tag >> 48;
}
static inline uint64_t hm_tag_number(uint64_t tag)
{
    return tag & ((UINT64_C(1) << 48) - 1);
}
/* Without the tag, which stands at the end: hm_rpc_header_set_tag. */
void hm_rpc_header_encode(const struct hm_rpc_header *header, uint8_t bytes[HM_RPC_HEADER_BYTES]);
/* Writes what is left until the deadline into an encoded request that had to wait. */
void hm_rpc_header_set_time(uint8_t bytes[HM_RPC_HEADER_BYTES], uint32_t time_us);
/* Appends it to a message header of byte_count bytes, the user's part included; returns the new
 * count. */
size_t hm_rpc_header_set_tag(uint8_t *bytes, size_t byte_count, uint64_t tag);
void hm_rpc_header_clear_tag(
    uint8_t *bytes); /* of one that was not sent; the count is the caller's */
/* Total.  byte_count: of the whole message header, the user's part and the tag included. */
HM_MUST_CHECK enum hm_status hm_rpc_header_decode(const void *bytes, size_t byte_count,
                                                  struct hm_rpc_header *header);
/* Bytes of the user's part. */
static inline size_t hm_rpc_header_user_bytes(const struct hm_rpc_header *header, size_t byte_count)
{
    return byte_count - HM_RPC_HEADER_BYTES - (header->tag ? HM_RPC_TAG_BYTES : 0);
}
/* Microseconds for the wire: rounded up, so that time that is left never reads as none; at most 1
 * h. */
uint32_t hm_rpc_time_us(hm_ns time);

/* ---- state */

#define HM_RPC_TIME_MAX (3600 * HM_S) /* what a peer may ask us to remember a request for */
enum {
    HM_RPC_METHOD_IDS = 256,       /* ids are looked up in an array */
    HM_RPC_QUEUE_CALLS_MAX = 1024, /* of a connection, or waiting for a dial */
    HM_RPC_QUEUE_MAX =
        4096, /* of a connection, replies included; over it the connection is closed */
    HM_RPC_WIRE_MAX = 1024, /* payloads of a connection that the wire has not let go of */
    HM_RPC_DEAD_MAX = 8, /* of these, long after their deadline; over it the connection is closed */
    HM_RPC_DIALS_MAX = 32, /* hm_rpc_dial */
    /* Of one peer, dialled by it: it dials 8 addresses at most.  One more, and the oldest goes. */
    HM_RPC_CONNS_ACCEPTED_MAX = 8,
    HM_RPC_PINGS_MISSED_MAX = 3,
    HM_RPC_IDLE_INTERVALS = 6,  /* a connection without use is spare after as many ping intervals */
    HM_RPC_SMALL_BYTES = 16384, /* payloads of calls that tell a round trip */
    /* What one connection may hold of what all share, as a part of what is free: however many take
     * nothing, something is left for the next (dynamic thresholds; Choudhury and Hahne 1998). */
    HM_RPC_SHARE_RECORDS = 16,
    HM_RPC_SHARE_BYTES = 4,
};

struct hm_conn;
struct hm_fast;

/* What a message is about, for the counters. */
enum hm_rpc_class { HM_CLASS_CONTROL, HM_CLASS_DHT, HM_CLASS_EXPERT, HM_CLASSES };

/* Where a record is. */
enum hm_send_place { HM_SEND_NOWHERE, HM_SEND_QUEUE, HM_SEND_WIRE, HM_SEND_UNACKED };

/* A message that waits for the wire, whose payload the wire still holds, or that the other side of
 * the fast path has not acknowledged. */
struct hm_send {
    struct hm_link link;  /* conn->queue, conn->wire, fast->unacked; idle while its call waits for a
                            dial */
    struct hm_conn *conn; /* NULL: has gone before the fast path's wire has let go */
    struct hm_call
        *call;     /* whose request it is; NULL: a reply or a cancel, or the call has ended */
    hm_ns expires; /* its call's deadline */
    size_t payload_bytes;
    unsigned header_bytes, span_count;
    enum hm_send_place place;
    bool is_reply;
    uint16_t method;
    /* Of the fast path: its record stays, payload and all, until it is acknowledged. */
    struct hm_fast *fast;
    uint64_t tag;                         /* 0: has not been on the fast path */
    bool carried;                         /* a wire has the payload: on_tagged_done() will come */
    bool acked;                           /* but carried still */
    struct hm_span payload[HM_SPANS_MAX]; /* owners are referenced while it waits */
    uint8_t header[HM_HEADER_BYTES_MAX];
};

/*            connect()                up()
 *   (free) ------------> DIALING ------------> UP --+
 *      |                    | fail, disconnect      | fail, disconnect, send says unreachable
 *      +----- up() ---------|--------------> UP     |
 *                           +------> CLOSING <------+        down() frees it from any state */
enum hm_conn_state { HM_CONN_DIALING, HM_CONN_UP, HM_CONN_CLOSING };
struct hm_conn {
    struct hm_rpc *rpc;
    struct hm_ep *ep;
    struct hm_peer *peer; /* NULL: hm_rpc_dial's, nobody yet */
    struct hm_link link;  /* peer->conns or peer->dials */
    enum hm_conn_state state;
    enum hm_status why; /* of CLOSING */
    bool dialed;
    bool proved;   /* the fabric's key, by the other side */
    uint64_t born; /* grows: which of two is newer */
    struct hm_dial *dial;
    struct hm_addr addr;  /* dialled */
    struct hm_fast *fast; /* NULL: this connection has none, and never will */

    struct hm_link calls, requests;
    struct hm_link pulls;       /* requests, also those that are gone */
    struct hm_link queue, wire; /* of hm_send */
    unsigned queue_count, wire_count;
    size_t reply_bytes; /* payloads of replies, in queue and wire */
    /* Since the last tick: records and bytes of replies that the wire has let go of. */
    unsigned records_gone;
    size_t reply_bytes_gone;
    bool blocked; /* the wire said BUSY; writable() ends it */

    struct hm_timer timer; /* pings */
    bool heard, ping_out, ping_due, pong_due;
    unsigned missed;
    uint64_t ping_id, pong_id;
    hm_ns ping_sent, used, heard_at;
};

struct hm_peer {
    struct hm_rpc *rpc;
    struct hm_node_id id;
    struct hm_map_node node;
    struct hm_link
        idle;      /* rpc->idle while nothing needs it: the longest idle makes room for a new one */
    unsigned refs; /* the users' */
    unsigned holds; /* calls and requests */
    unsigned request_count;
    size_t request_bytes; /* payloads of its requests, those that are gone included */
    struct hm_link conns, dials;
    struct hm_conn *sender; /* the connection for new calls; NULL: none is up */
    bool announced;         /* peer_up has been told */

    struct hm_link waiting; /* calls, for a dial */
    unsigned waiting_count;
    struct hm_addrs addrs;
    unsigned own_count;       /* the first of these: it said so itself, or has answered there */
    bool tried[HM_ADDRS_MAX]; /* in this dial */
    bool dialing;
    struct hm_timer dial_timer;
    unsigned failures;
    hm_ns backoff_until;

    hm_ns round_trip, deviation;
    hm_ns round_trip_min; /* since it was last without a connection */
    uint16_t wire_minor;  /* of its last hello */
    char why_not_fast[HM_PEER_WHY_BYTES];
};

struct hm_request {
    struct hm_link link;      /* rpc->requests, or rpc->requests_gone */
    struct hm_link conn_link; /* conn->requests */
    struct hm_map_node node;
    struct hm_timer timer;
    struct hm_peer *peer;
    struct hm_conn *conn; /* NULL: gone */
    const struct hm_method *method;
    uint64_t id;
    hm_ns arrived, deadline;
    uint32_t reply_count;
    void *user;
    size_t payload_bytes;
    struct hm_link pull_link; /* conn->pulls, while its payload comes */
    hm_wire_cb pulled;
    void *pulled_arg;
};

struct hm_dial { /* hm_rpc_dial's */
    struct hm_rpc *rpc;
    struct hm_link link;
    struct hm_conn *conn;
    struct hm_timer timer;
    void (*cb)(void *arg, enum hm_status status, struct hm_peer *peer);
    void *arg;
};

struct hm_rpc {
    struct hm_rpc_conf conf;
    struct hm_loop *loop;
    struct hm_transport *transport; /* NULL: closed */
    struct hm_transport *fabric;    /* NULL: none, or closed */
    bool sends_lent, pulls_lent;
    char fabric_error[HM_ERROR_LINE_BYTES], fabric_settings[HM_FABRIC_SETTINGS_BYTES];
    hm_ns key_warned; /* when somebody's other key was last news */
    const struct hm_node_id *self;
    const struct hm_method *method[HM_RPC_METHOD_IDS];
    void (*up)(void *arg, struct hm_peer *peer);
    void (*down)(void *arg, struct hm_peer *peer, enum hm_status why);
    void *up_arg;

    struct hm_slots peer_slots, conn_slots, send_slots, request_slots, dial_slots;
    struct hm_slots fast_slots, fast_in_slots; /* of none where there is no fabric */
    struct hm_map peers, calls, requests_by_id;
    struct hm_link idle; /* peers, longest idle first */
    struct hm_link requests, requests_gone, dials;
    unsigned call_count, request_count;
    uint64_t call_id_next, born_next, hash_seed;

    bool closing, closed_transports;
    struct hm_timer close_timer;
    void (*closed)(void *arg);
    void *closed_arg;

    struct hm_metric calls_total, calls_failed, requests_total, requests_refused, connections;
    /* Messages sent, by class: over the control connection, over the fabric; and over the control
     * connection to a peer that has proved the fabric's key. */
    struct hm_metric sent_control[HM_CLASSES], sent_fabric[HM_CLASSES], sent_control_after_join;
    struct hm_metric fabric_peers, fabric_lost;
};

/* ---- rpc.c */
void hm_rpc_settle(struct hm_rpc *rpc); /* finishes a close that waits for nothing any more */

/* ---- rpc_send.c: the way out of a connection */

/* Sends now or queues; `call`: whose request it is, or NULL.
 * Errors:  HM_ERR_BUSY: no place to queue it; HM_ERR_PEER_UNREACHABLE: the connection is going
 * down; what the transport's send says. */
HM_MUST_CHECK enum hm_status hm_conn_send(struct hm_conn *conn, const struct hm_rpc_header *header,
                                          const void *user_header, size_t user_bytes,
                                          const struct hm_span *payload, unsigned span_count,
                                          struct hm_call *call, hm_ns expires);
/* A message that waits for a connection, filled in and referenced; NULL: no place. */
struct hm_send *hm_send_create(struct hm_rpc *rpc, const struct hm_rpc_header *header,
                               const void *user_header, size_t user_bytes,
                               const struct hm_span *payload, unsigned span_count,
                               struct hm_call *call, hm_ns expires);
void hm_conn_enqueue(struct hm_conn *conn, struct hm_send *send);
void hm_send_forget(struct hm_rpc *rpc, struct hm_send *send); /* its call has ended */
void hm_conn_flush(struct hm_conn *conn);                      /* runs callbacks */
void hm_conn_discard_queue(struct hm_conn *conn);
void hm_conn_discard_expired(struct hm_conn *conn); /* replies that nobody waits for any more */
void hm_send_destroy(struct hm_rpc *rpc, struct hm_send *send); /* out of its list, and free */
void hm_send_take_out(struct hm_send *send);                    /* out of its list */
void hm_send_put_owners(struct hm_send *send);
/* It enters conn->queue or a wire's list: a reply counts. */
void hm_send_held(struct hm_conn *conn, const struct hm_send *send);
void hm_conn_count_sent(const struct hm_conn *conn, uint16_t method, bool fast);
void hm_conn_ping(struct hm_conn *conn);
void hm_conn_pong(struct hm_conn *conn, uint64_t id);
/* More requests would take more than this connection's share of the buffers for their replies. */
bool hm_conn_is_greedy(const struct hm_conn *conn);
/* As many more bytes of a peer's requests would be more than what is left for all. */
bool hm_peer_is_greedy(const struct hm_peer *peer, size_t bytes);
/* It is over a share, and at the pace of the last interval will be for more than another one. */
bool hm_conn_is_hog(const struct hm_conn *conn);
size_t hm_spans_bytes(const struct hm_span *spans,
                      unsigned count); /* SIZE_MAX: over HM_PAYLOAD_BYTES_MAX */

/* ---- rpc_conn.c: life of a connection, and what arrives on it */
extern const struct hm_transport_sink hm_rpc_sink;               /* arg is set by rpc.c */
struct hm_conn *hm_conn_create(struct hm_rpc *rpc, bool dialed); /* NULL: all are taken */
void hm_conn_destroy(struct hm_conn *conn); /* its endpoint is gone, or never was */
/* No more calls over it; its down() follows, and says `why`. */
void hm_conn_fail(struct hm_conn *conn, enum hm_status why);

/* A message from the peer, whichever way it came.  `in` is consumed. */
void hm_conn_receive(struct hm_conn *conn, const struct hm_rpc_header *header, const void *user,
                     size_t user_bytes, struct hm_inbound *in); /* runs callbacks */

/* ---- rpc_call.c */
void hm_call_finish(struct hm_call *call, enum hm_status status); /* runs end() */
void hm_call_receive(struct hm_conn *conn, const struct hm_rpc_header *header,
                     const void *user_header, size_t user_bytes,
                     struct hm_inbound *in); /* runs reply(), end() */

/* ---- rpc_serve.c */
void hm_request_receive(struct hm_conn *conn, const struct hm_rpc_header *header,
                        const void *user_header, size_t user_bytes,
                        struct hm_inbound *in);                    /* runs handle() */
void hm_request_receive_cancel(struct hm_conn *conn, uint64_t id); /* runs gone() */
void hm_request_lose(struct hm_request *request);                  /* runs gone() */

/* ---- peer.c */
struct hm_peer *hm_peer_find_or_make(struct hm_rpc *rpc,
                                     const struct hm_node_id *node); /* NULL: full */
void hm_peer_settle(struct hm_peer *peer); /* something that needed it is gone */
/* The peer itself says so: to the front. */
void hm_peer_learn_all(struct hm_peer *peer, const struct hm_addrs *addrs);
void hm_peer_choose_sender(struct hm_peer *peer);
void hm_peer_measured(struct hm_peer *peer, hm_ns round_trip);
void hm_peer_attach(struct hm_peer *peer, struct hm_conn *conn); /* runs callbacks */
void hm_peer_detach(struct hm_peer *peer, enum hm_status why);   /* runs callbacks */

/* ---- peer_dial.c */
void hm_peer_dial(struct hm_peer *peer); /* starts, if it has not */
void hm_peer_dial_end(struct hm_peer *peer);
void hm_peer_dial_lost(struct hm_peer *peer); /* one attempt has failed */
void hm_peer_back_off(struct hm_peer *peer);
void hm_dial_finish(struct hm_dial *dial, enum hm_status status,
                    struct hm_peer *peer); /* runs cb */

#endif
