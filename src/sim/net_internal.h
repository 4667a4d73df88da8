/* sim/net_internal.h - what the files of the simulated network share.
 *
 *   net.c          the wire: connections, packets, faults
 *   net_node.c     the provider: open, close, connect, the handshake, down
 *   net_message.c  send, announce, pull, drop, credit
 *   net_fabric.c   endpoints that are offered and accepted
 *
 * A connection has two sides (0 dialled, 1 accepted).  A side is an endpoint, or NULL before it is
 * accepted and after it has gone down.  Packets belong to their connection; when both sides are
 * gone, it and they are freed.
 *
 * Endpoint:  DIALING ──(acceptor's hello is good)──► UP ──► ENDING ──(down event)──► freed
 *            ACCEPTED ──(dialler's hello is good)──► UP        ▲
 *               └── refused, disconnected, reset, timed out ───┘        CRASHED ──(close)──► ENDING
 */
#ifndef HM_SIM_NET_INTERNAL_H
#define HM_SIM_NET_INTERNAL_H

#include "base/assert.h"
#include "base/list.h"
#include "sim/net.h"

struct sim_node;

enum packet_kind {
    PACKET_SYN,      /* somebody dials */
    PACKET_REFUSED,  /* nobody there, or no room */
    PACKET_HELLO,    /* who I am: the acceptor's, then the dialler's */
    PACKET_END,      /* FIN or RST: the other side has gone */
    PACKET_MESSAGE,  /* header and eager payload */
    PACKET_ANNOUNCE, /* header, and how much there is to pull */
    PACKET_PULL,
    PACKET_DROP,
    PACKET_PIECE,  /* a part of a pulled payload; its bytes are read from the sender's spans on
                      arrival */
    PACKET_TAKEN,  /* the receiver has it all */
    PACKET_CREDIT, /* eager bytes have been pulled or dropped */
};

struct packet {
    struct hm_timer timer;
    struct hm_link link; /* connection's */
    struct conn *conn;
    hm_ns sent;
    uint64_t id; /* of the send it is about */
    size_t offset, bytes, header_bytes;
    uint8_t kind, to; /* to: side */
    bool stalled;     /* it came to a cut, and waits for it to heal */
    uint8_t data[];   /* header_bytes, then the eager payload */
};

struct conn {
    struct hm_link link; /* net's */
    struct hm_net *net;
    uint64_t id;
    struct sim_ep *side[2];
    unsigned number[2];
    bool broken;        /* what is sent is lost; both sides will learn it */
    hm_ns hello_due[2]; /* nothing reaches a side before the hello that brings it up */
    struct hm_link packets;
};

enum ep_state { EP_DIALING, EP_ACCEPTED, EP_UP, EP_ENDING, EP_CRASHED };

struct sim_ep {
    struct hm_ep base;
    struct hm_link link; /* node's */
    struct sim_node *node;
    struct conn *conn;
    enum ep_state state;
    enum hm_status why; /* ENDING */
    bool known;         /* to the sink: connect() returned it or up() named it */
    bool abrupt;        /* nothing under way is delivered any more */
    bool starved;       /* a send met BUSY: writable() is owed */
    bool expects;
    uint8_t side;
    struct hm_node_id expected;
    uint64_t token, their_token; /* of a fabric's endpoint: ours; theirs once it has accepted */
    struct hm_timer handshake, ending, writable;
    struct hm_link sends, inbounds;
    unsigned queued, announced;     /* sends, by kind */
    unsigned announced_held;        /* inbounds that the other side has announced */
    size_t credit_max, credit_used; /* the other side's, for us */
    size_t eager_held; /* bytes of the other side's that we hold: never over receive_bytes_max */
    uint64_t id_next;
};

enum send_state { SEND_QUEUED, SEND_ANNOUNCED, SEND_PULLED };
struct send {
    struct hm_timer timer; /* QUEUED: the wire takes it */
    struct hm_link link;
    struct sim_ep *ep;
    uint64_t id;
    enum send_state state;
    bool eager;
    struct hm_span span[HM_SPANS_MAX];
    unsigned span_count;
    size_t bytes, header_bytes;
    hm_wire_cb done;
    void *arg;
    uint8_t header[];
};

struct inbound {
    struct hm_inbound base;
    struct hm_link link; /* endpoint's */
    struct sim_ep *ep;   /* NULL: it has gone down */
    struct sim_node *node;
    struct hm_net *net;
    uint64_t id;
    struct packet *packet; /* eager: owns the bytes */
    struct hm_timer timer; /* eager and pulled: the copy */
    bool pulled;
    struct hm_span into;
    size_t arrived;
    hm_wire_cb done;
    void *arg;
};

struct sim_node {
    struct hm_transport base;
    struct hm_link link; /* net's */
    struct hm_net *net;
    struct hm_transport_sink sink;
    struct hm_net_options limits; /* as of open */
    struct hm_node_id id;
    struct hm_hello hello;
    unsigned number, endpoints_max, endpoint_count, inbounds_open;
    size_t receive_bytes_max;
    hm_ns handshake_max, uplink_free_at, bulk_free_at;
    bool listens, dead, lawless;
    bool has_fabric_key, thief;
    uint8_t fabric_key[HM_FABRIC_KEY_BYTES];
    uint8_t stolen_bytes, stolen[HM_PROOF_BYTES_MAX]; /* the last proof that a thief has heard */
    const char *fabric_settings;
    bool closing;
    struct hm_timer closed;
    void (*done)(void *arg);
    void *done_arg;
    struct hm_link endpoints;
};

struct cut {
    struct hm_link link;
    unsigned from, to;
};
struct pause {
    struct hm_link link;
    unsigned number;
    hm_ns since;
};

struct hm_net {
    struct hm_world_part part;
    struct hm_world *world;
    struct hm_loop *loop;
    struct hm_net_options options;
    struct hm_net_stats stats;
    struct hm_link nodes, conns, cuts, pauses;
    uint64_t conn_id_next;
    unsigned number_next;
};

/* net.c */
struct hm_net *sim_net_of(struct hm_world *world);
struct sim_node *sim_net_node(struct hm_net *net, unsigned number); /* a living one, or NULL */
struct conn *sim_conn_create(struct hm_net *net, struct sim_ep *dialler, unsigned number);
void sim_conn_leave(struct conn *conn,
                    unsigned side); /* that side is gone; frees the last one's connection */
void sim_conn_break(struct conn *conn);
/* A packet to the other side of `from`, its data still to be filled in by the caller; then sent. */
struct packet *sim_packet_create(struct conn *conn, unsigned from, enum packet_kind kind,
                                 size_t data_bytes);
void sim_packet_send(struct packet *packet, hm_ns after);
void sim_packet_say(struct conn *conn, unsigned from, enum packet_kind kind, uint64_t id,
                    size_t bytes);
hm_ns sim_net_draw(struct hm_net *net, hm_ns min, hm_ns max);
bool sim_net_chance(struct hm_net *net, unsigned per_million);

/* net_fabric.c */
extern const struct hm_fabric_ops sim_fabric;

/* net_node.c */
struct sim_ep *sim_ep_create(struct sim_node *node, enum ep_state state); /* NULL: no memory */
void sim_hello_send(struct sim_ep *ep);
unsigned sim_number_parse(const char *text); /* "sim:7" -> 7; 0 for anything else */
void sim_ep_end(struct sim_ep *ep, enum hm_status why);
void sim_accept(struct conn *conn);
void sim_handshake_receive(struct sim_ep *ep, const struct packet *packet);
void sim_node_crash(struct sim_node *node);
void sim_node_check_closed(struct sim_node *node);

/* net_message.c */
/* True: the packet now belongs to an inbound. */
bool sim_message_receive(struct sim_ep *ep, struct packet *packet);
void sim_messages_stop(struct sim_ep *ep); /* no timer of a send or pull runs any more */
void sim_messages_end(struct sim_ep *ep, enum hm_status why); /* each calls back */
HM_MUST_CHECK enum hm_status sim_send(struct hm_ep *ep, const void *header, size_t header_bytes,
                                      const struct hm_span *payload, unsigned span_count,
                                      hm_wire_cb done, void *arg);
HM_MUST_CHECK enum hm_status sim_pull(struct hm_inbound *in, const struct hm_span *into,
                                      hm_wire_cb done, void *arg);
void sim_drop(struct hm_inbound *in);

#endif
