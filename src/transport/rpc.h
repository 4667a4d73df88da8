/* transport/rpc.h - peers, and calls with deadlines: the only thing dht, moe and server see of the
 * network.  How it looks on the wire: docs/wire.md.
 *
 * A peer is a node that we know by id.  hm_peer_get finds it or makes it.  Calls to a peer that is
 * not connected wait while it is dialled: its addresses in turn, back-off doubling from 0.5 s to 60
 * s with jitter after all of them failed; while backing off calls fail at once with
 * HM_ERR_PEER_UNREACHABLE.  Two connections between the same two nodes (both dialled) are both used
 * for receiving, and the one whose dialler has the smaller id for new calls.  A reply comes over
 * its request's connection: when that breaks, the call ends on one side and the request is gone on
 * the other.
 *
 * A call may be answered in several replies (one a part, as parts finish) and ends exactly once:
 * after the last reply, at its deadline, on cancel, or when its connection goes down.  Deadlines
 * travel as remaining time; who receives one takes off half of the shortest round trip that he has
 * measured to the caller, so that both mean the same moment.  An idle connection is pinged (every 10 s; 3 missed: down), so a cut
 * link is noticed without a call.
 *
 * A peer is its control connection (conf.transport).  If both sides have a fabric and prove the
 * same key, its messages go over that, which is faster; nothing else changes: calls, requests and
 * their order of events are the control connection's.  When the fabric breaks, what it may have
 * swallowed is sent again over the control connection, and nothing is handled twice.
 *
 * Thread: loop.  Callbacks never run inside a call made by the user. */
#ifndef HM_TRANSPORT_RPC_H
#define HM_TRANSPORT_RPC_H

#include "base/list.h"
#include "base/map.h"
#include "transport/transport.h"

struct hm_rpc;
struct hm_peer;
struct hm_request;
struct hm_conn;
struct hm_send;

/* Method ids are wire format: 0-15 belong to rpc, 16-31 to the DHT, 32-47 to experts, 48-63 to
 * launches (cli/beat.h); 255 is the largest. */
enum hm_method_id {
    HM_METHOD_PING = 1,
    HM_METHOD_DHT_FIND = 16,
    HM_METHOD_DHT_STORE = 17,
    HM_METHOD_EXPERT_INFO = 32,
    HM_METHOD_EXPERT_CALL = 33,
    HM_METHOD_SERVER_STATUS = 34,
    HM_METHOD_LAUNCH_BEAT = 48,
};
enum { HM_CALL_HEADER_BYTES_MAX = HM_HEADER_BYTES_MAX - 64 };

struct hm_call { /* caller's memory, until end() has run */
    uint16_t method;
    hm_ns deadline;     /* on this loop's clock; HM_NS_NEVER is asserted against */
    const void *header; /* copied by hm_rpc_call */
    size_t header_bytes;
    /* Referenced by the wire until it has let go, also after end(). */
    struct hm_span payload[HM_SPANS_MAX];
    unsigned span_count;
    /* One answer of several, in the order of arrival: they may overtake one another.  status: as
     * the other side said, clamped.  `in` must be pulled or dropped, as ever.  NULL: answers are
     * dropped. */
    void (*reply)(struct hm_call *call, enum hm_status status, const void *header,
                  size_t header_bytes, struct hm_inbound *in);
    /* HM_OK: the last reply has been delivered.  Else why it ended without. */
    void (*end)(struct hm_call *call, enum hm_status status);
    void *arg;
    /* rpc's */
    uint64_t id;
    struct hm_peer *peer;
    struct hm_map_node node;
    struct hm_link link;
    struct hm_timer timer;
    hm_ns started;
    struct hm_conn *conn;
    struct hm_send *send;
    size_t payload_bytes;
    uint32_t reply_count, reply_total;
    enum hm_status end_status;
    uint8_t state;
};

struct hm_method {
    uint16_t id;
    const char *name;
    /* Larger requests are refused with HM_ERR_TOO_BIG before anything is pulled. */
    size_t payload_bytes_max;
    /* Answers now or later through hm_request_reply, the last time with last = true; must pull or
     * drop `in`. */
    void (*handle)(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                   struct hm_inbound *in);
    /* The caller has cancelled, its deadline has passed or its connection is down: replies lead
     * nowhere from now on, but the request is held until the handler has said last (which is then
     * free).  May be NULL.  Never runs inside handle. */
    void (*gone)(void *arg, struct hm_request *request);
    void *arg;
};

struct hm_rpc_conf {
    struct hm_loop *loop;
    const struct hm_transport_ops *transport;
    struct hm_transport_conf transport_conf; /* as hm_transport_ops.open wants it */
    /* The fast path (rpc_fabric.c): a provider with `fabric`, NULL: none.  Nodes that prove
     * transport_conf.fabric_key to each other send everything over it, except what keeps it up. */
    const struct hm_transport_ops *fabric;
    /* Identity, hello, buffers and metrics are transport_conf's; so is each limit that is 0 here. */
    struct hm_transport_conf fabric_conf;
    unsigned peers_max, calls_max, requests_max; /* 0: 1024, 4096, 4096 */
    unsigned requests_max_per_peer;              /* 0: requests_max */
    /* Payloads of a peer's requests, until their last answers; as many bytes of answers that one of
     * its connections has not taken. 0: as many as are left for others, whatever there is. */
    size_t request_bytes_max_per_peer;
    hm_ns ping_interval; /* 0: 10 s */
    /* A node has connected (either way): the DHT meets its contacts so.  NULL: nobody asks. */
    void (*peer_up)(void *arg, struct hm_peer *peer);
    void (*peer_down)(void *arg, struct hm_peer *peer, enum hm_status why);
    void *arg;
};
/* A fabric that cannot be opened is no error: everything goes over `transport` then, and
 * hm_rpc_fabric_error says why. */
HM_MUST_CHECK enum hm_status hm_rpc_open(const struct hm_rpc_conf *conf, struct hm_rpc **rpc);
const char *hm_rpc_fabric_error(const struct hm_rpc *rpc); /* a line; "": open, or not asked for */
/* Calls end with HM_ERR_CANCELED, requests' gone() run, the transport closes, then rpc is gone,
 * then done.  It waits for handlers that still hold a request: say last.  References to peers must
 * be put before done. */
void hm_rpc_close(struct hm_rpc *rpc, void (*done)(void *arg), void *arg);
struct hm_loop *hm_rpc_loop(const struct hm_rpc *rpc);
struct hm_buf_pool *hm_rpc_buffers(const struct hm_rpc *rpc);
/* Whether payloads may be sent from, or pulled into, lent memory (base/buf.h), whichever way they
 * take. */
bool hm_rpc_sends_lent(const struct hm_rpc *rpc);
bool hm_rpc_pulls_lent(const struct hm_rpc *rpc);
const struct hm_identity *hm_rpc_identity(const struct hm_rpc *rpc);
/* HM_ERR_NOT_FOUND if this node does not listen. */
HM_MUST_CHECK enum hm_status hm_rpc_address(struct hm_rpc *rpc, struct hm_addrs *addrs);
/* Callbacks of one more user (the DHT) besides conf's; set once before the first connection. */
void hm_rpc_on_peer(struct hm_rpc *rpc, void (*up)(void *arg, struct hm_peer *peer),
                    void (*down)(void *arg, struct hm_peer *peer, enum hm_status why), void *arg);

/* Finds or makes the peer, adds `hints` (NULL: none) to its known addresses (after those that it
 * gave itself; newest first, the oldest forgotten, those of other providers ignored), takes a
 * reference.
 * Errors:  HM_ERR_BUSY: the table is full of referenced or connected peers.
 *          HM_ERR_INVALID: it is this node itself. */
HM_MUST_CHECK enum hm_status hm_peer_get(struct hm_rpc *rpc, const struct hm_node_id *node,
                                         const struct hm_addrs *hints, struct hm_peer **peer);
struct hm_peer *hm_peer_ref(struct hm_peer *peer); /* one more reference */
void hm_peer_put(struct hm_peer *peer);
const struct hm_node_id *hm_peer_node(const struct hm_peer *peer);
/* Where it can be dialled, as far as known. */
const struct hm_addrs *hm_peer_addrs(const struct hm_peer *peer);
/* Of these, those that the node itself has given, or has answered at. */
void hm_peer_own_addrs(const struct hm_peer *peer, struct hm_addrs *addrs);
bool hm_peer_connected(const struct hm_peer *peer);
bool hm_peer_backing_off(const struct hm_peer *peer);
/* What it last said; 0: it has not been connected yet. */
uint16_t hm_peer_wire_minor(const struct hm_peer *peer);
/* Which way messages to it go now. */
enum { HM_PEER_WHY_BYTES = 160 };
struct hm_peer_path {
    const char *provider;        /* "tcp", "ucx"; NULL: not connected */
    char why[HM_PEER_WHY_BYTES]; /* why not over the fabric; "": it is, or nobody asked for one */
};
void hm_peer_path(const struct hm_peer *peer, struct hm_peer_path *path);
/* Every known peer, in no order.  `visit` must not call anything that makes or loses peers. */
void hm_rpc_each_peer(const struct hm_rpc *rpc,
                      void (*visit)(void *arg, const struct hm_peer *peer), void *arg);
/* Smoothed round trip and its deviation (RFC 6298), measured on pings and on small calls, less the
 * time that the other side says it held them; 0: not measured yet. */
hm_ns hm_peer_round_trip(const struct hm_peer *peer, hm_ns *deviation);
/* The shortest since the peer was last without a connection; 0: not measured.  Half of it is what a
 * message takes at least, whatever queues it meets. */
hm_ns hm_peer_round_trip_min(const struct hm_peer *peer);

/* HM_OK: end() will come, in a later turn.  Otherwise it will not:
 * Errors:  HM_ERR_BUSY: calls_max, or the peer's send queue is full.
 *          HM_ERR_PEER_UNREACHABLE: backing off, or no address is known.
 *          HM_ERR_TOO_BIG: header over HM_CALL_HEADER_BYTES_MAX, payload over HM_PAYLOAD_BYTES_MAX.
 *          HM_ERR_CANCELED: rpc is closing. */
HM_MUST_CHECK enum hm_status hm_rpc_call(struct hm_peer *peer, struct hm_call *call);
/* end() still comes, in a later turn, with HM_ERR_CANCELED. */
void hm_rpc_cancel(struct hm_call *call);
/* Dials `addr` without knowing who answers (a bootstrap address); on HM_OK cb comes once, with a
 * referenced peer if its status is HM_OK (HM_ERR_INVALID: this node itself answered).  deadline may
 * be HM_NS_NEVER: the transport bounds handshakes. */
HM_MUST_CHECK enum hm_status
hm_rpc_dial(struct hm_rpc *rpc, const struct hm_addr *addr, hm_ns deadline,
            void (*cb)(void *arg, enum hm_status status, struct hm_peer *peer), void *arg);

/* The table must outlive rpc.  HM_ERR_INVALID: an id is taken, or outside 16 to 255. */
HM_MUST_CHECK enum hm_status hm_rpc_serve(struct hm_rpc *rpc, const struct hm_method *methods,
                                          unsigned count);
/* Forgets the table, whose memory is the caller's again: later requests get HM_ERR_UNSUPPORTED.
 * Its requests must have been answered for the last time. */
void hm_rpc_unserve(struct hm_rpc *rpc, const struct hm_method *methods, unsigned count);
/* Sends one answer; with last = true the request is gone afterwards.  Never fails: what meets a
 * full wire is queued (its buffers referenced, its header copied) until the wire is writable, and
 * lost with the connection or when the caller's deadline has passed.  Over the bounds of the queue
 * the connection is closed.  Payload spans are referenced through their owners. header_bytes <=
 * HM_CALL_HEADER_BYTES_MAX. */
void hm_request_reply(struct hm_request *request, bool last, enum hm_status status,
                      const void *header, size_t header_bytes, const struct hm_span *payload,
                      unsigned span_count);
/* As hm_inbound_pull, of the request's payload; not yet answered for the last time when `done` runs.
 * A peer that is still sending long after the request's deadline loses its connection, and the
 * pull ends: what it is pulled into is not held for ever by who sends a byte now and then. */
HM_MUST_CHECK enum hm_status hm_request_pull(struct hm_request *request, struct hm_inbound *in,
                                             const struct hm_span *into, hm_wire_cb done,
                                             void *arg);
const struct hm_node_id *hm_request_from(const struct hm_request *request);
struct hm_peer *hm_request_peer(const struct hm_request *request); /* not referenced */
hm_ns hm_request_deadline(const struct hm_request *request);       /* on this loop's clock */
hm_ns hm_request_arrived(const struct hm_request *request);
void hm_request_set_user(struct hm_request *request, void *user);
void *hm_request_user(const struct hm_request *request);

#endif
