/* transport/tcp/tcp.h - what the files of this folder share: the transport, its endpoints, what
 * they send and receive.
 *
 *   tcp.c       the transport: open, close, the vtable, the turn on which deferred things happen
 *   listen.c    accepting
 *   dial.c      names, addresses, connecting; socket.c: a connected socket's options
 *   endpoint.c  an endpoint's life: TLS, hello, up, failing, lingering
 *   send.c      queues, and what goes on the wire next
 *   receive.c   frames in: messages, announces, pulls
 *   frame.c     the bytes
 *   tls*.c      the TLS profile; how records get to the socket; OpenSSL's small blocks
 *
 * Thread: the loop's, all of it. */
#ifndef HM_TRANSPORT_TCP_TCP_H
#define HM_TRANSPORT_TCP_TCP_H

#include "base/linger.h"
#include "base/list.h"
#include "base/loop_uv.h"
#include "transport/tcp/frame.h"
#include "transport/tcp/tls.h"
#include "transport/transport.h"

enum {
    TCP_QUEUED_MAX = 256,       /* sends of a class that are not on the wire yet */
    TCP_ANNOUNCES_MAX = 256,    /* announced and not yet done, each way; docs/wire.md */
    TCP_STAGE_BYTES = 16 << 10, /* the largest TLS record */
    TCP_SCRATCH_BYTES = 16 << 10,
    TCP_DIRECT_BYTES = 4 << 10,  /* of pulled data: from here on a record of its own beats a copy */
    TCP_READ_BUDGET = 256 << 10, /* bytes an endpoint may move before the others have their turn */
    TCP_WRITE_BUDGET = 256 << 10,
    TCP_BURST_BYTES = 256 << 10, /* messages that may go ahead of pulled data in a row */
    TCP_LINGERS_MAX = 64,
    TCP_READ_MS = 4,          /* the same in time: what is cheap to ask can be dear to answer */
    TCP_KEY_UPDATES_MAX = 64, /* of one connection: a good peer needs one in 2^24 records */
};

/* A message given to send.  Where it is:
 *
 *   BARE (no payload) --------------------------------------------> finished
 *   EAGER (waits for credit) -------------------------------------> finished
 *   LARGE (waits for a place) -> announced -> streaming -> unacked -> finished
 *                                    '------- dropped ----------------^ */
struct tcp_send {
    struct hm_link link;
    hm_wire_cb done;
    void *arg;
    enum hm_status status; /* of a finished one */
    uint64_t id;           /* of an announced one */
    size_t bytes, left;    /* of the payload: all, and not on the wire yet */
    struct hm_span span[HM_SPANS_MAX];
    unsigned span_count, span_at;
    size_t span_offset;
    size_t head_bytes;
    uint8_t head[HM_FRAME_BYTES + HM_HEADER_BYTES_MAX];
};

/* A payload that has arrived or is announced; the user's from message() to pull or drop. */
struct tcp_inbound {
    struct hm_inbound base;
    struct hm_link link;
    struct tcp_ep *ep;
    struct hm_buf *buf; /* eager */
    uint64_t id;        /* announced; 0: eager */
    uint8_t control;    /* the frame that has to be said about it: PULL, DROP or DONE */
    struct hm_span into;
    size_t received;
    hm_wire_cb done;
    void *arg;
    enum hm_status status;
};

/* Messages not on the wire yet, by what they wait for; a class that is stuck stops no other. */
enum tcp_class { TCP_BARE, TCP_EAGER, TCP_LARGE, TCP_CLASSES };
struct tcp_queue {
    struct hm_link head;
    unsigned count;
    bool told_busy;
};

struct tcp_dial {
    struct hm_resolve resolve;
    unsigned tried;
};

enum tcp_state {
    TCP_DIALLING, /* a name is looked up, or connect() is under way */
    TCP_HANDSHAKE,
    TCP_HELLO, /* ours is on its way, theirs is awaited */
    TCP_UP,
    TCP_FAILING, /* over; down() comes with the next turn */
    TCP_LINGER,  /* down() has been said; the socket waits until the peer has read our last words */
    TCP_GONE,    /* waits for inbounds and names */
};

struct tcp_ep {
    struct hm_ep base;
    struct tcp *tcp;
    struct hm_link link, handshake_link, turn_link;
    enum tcp_state state;
    enum hm_status why;
    bool known;    /* to the user: connect() returned it or up() named it */
    bool expected; /* only `node` will do */
    bool dialled;
    bool resolving, secure, read_more, blocked, say_goodbye;
    bool moved; /* since the sweep looked */
    struct hm_node_id node;
    struct tcp_dial *dial;
    hm_ns since, deadline;
    struct hm_timer timer;
    struct hm_watch watch;
    int watched;
    SSL *ssl;
    struct hm_tls_wire wire;
    unsigned tls_messages; /* handshake messages since the handshake */

    /* send.c */
    struct tcp_queue queue[TCP_CLASSES];
    struct hm_link announced, streaming, unacked; /* large ones, afterwards */
    struct hm_link finished;
    unsigned announces_out;
    uint64_t announce_last, credit, credit_total;
    size_t burst;
    struct tcp_send *writing; /* the frame at hand; NULL: between frames */
    bool writing_data;
    const uint8_t *head;
    size_t head_left, frame_left;
    uint8_t data_head[HM_FRAME_BYTES];
    struct hm_buf *stage; /* small frames and edges, gathered into one record */
    size_t stage_at, stage_end;

    /* receive.c */
    struct hm_frame_reader reader;
    struct tcp_inbound *filling; /* where the payload at hand goes */
    struct tcp_inbound nothing;  /* of every message without a payload: costs nothing to hold */
    struct hm_link controls, pulling, pulled;
    unsigned inbounds_out; /* in the user's hands */
    unsigned announces_in;
    size_t pulled_bytes; /* of all pulls, since the timer looked */
    uint64_t announce_seen, credit_left, credit_owed;
};

struct tcp_metrics {
    struct hm_metric bytes_sent, bytes_received, bytes_copied, messages_sent, messages_received,
        endpoints, handshakes, refused, unreachable, reset, protocol, version, denied;
};

struct tcp {
    struct hm_transport base;
    struct hm_loop *loop;
    struct hm_transport_sink sink;
    struct hm_hello hello;
    bool has_fabric_key;
    uint8_t fabric_key[HM_FABRIC_KEY_BYTES];
    struct hm_node_id self;
    SSL_CTX *ctx;
    /* Not conf->buffers: what the user has exhausted must not stop what would free it. */
    struct hm_buf_pool *pool;
    unsigned endpoints_max, handshakes_max;
    size_t receive_bytes_max;
    hm_ns handshake_max;
    hm_ns
        stall_max; /* a peer that has been asked for payloads sends a byte in this time, or goes */
    struct hm_link eps, handshakes; /* all; accepted ones that are not up, oldest first */
    unsigned ep_count, handshake_count, linger_count;
    struct hm_link turn_eps; /* have something to do in the next turn */
    struct hm_timer turn;
    struct hm_hook hook;
    struct hm_linger linger; /* before a sleep, where one message at a time goes and comes */
    struct hm_timer sweep;   /* lets go of idle endpoints' TLS buffers; runs while some are not */
    struct hm_link spare_sends, spare_inbounds, chunks;
    struct hm_watch listener;
    struct hm_timer listen_pause;
    bool accept_failed;
    struct hm_addrs listening;
    bool closing;
    bool closed; /* done has been said; the memory waits for inbounds that the user still holds */
    void (*close_done)(void *arg);
    void *close_arg;
    struct tcp_metrics metrics;
    uint8_t scratch[TCP_SCRATCH_BYTES];
};

static inline struct tcp *tcp_of(struct hm_transport *base)
{
    return HM_CONTAINER_OF(base, struct tcp, base);
}
static inline struct tcp_ep *tcp_ep_of(struct hm_ep *base)
{
    return HM_CONTAINER_OF(base, struct tcp_ep, base);
}

/* ---- tcp.c */
void hm_tcp_moved(struct tcp_ep *ep);              /* it is in use: keep its TLS buffers a while */
void hm_tcp_turn_soon(struct tcp_ep *ep);          /* hm_tcp_ep_turn in the next turn */
struct tcp_send *hm_tcp_send_get(struct tcp *tcp); /* zeroed; NULL: no memory */
void hm_tcp_send_put(struct tcp *tcp, struct tcp_send *send);
struct tcp_inbound *hm_tcp_inbound_get(struct tcp *tcp); /* zeroed; NULL: no memory */
void hm_tcp_inbound_put(struct tcp *tcp, struct tcp_inbound *in);
void hm_tcp_close_check(struct tcp *tcp); /* an endpoint is gone or freed */

/* ---- listen.c */
HM_MUST_CHECK enum hm_status hm_tcp_listen(struct tcp *tcp, const char *listen);
void hm_tcp_unlisten(struct tcp *tcp);

/* ---- dial.c */
HM_MUST_CHECK enum hm_status hm_tcp_dial(struct tcp_ep *ep, const struct hm_addr *to);
void hm_tcp_dial_event(struct tcp_ep *ep); /* the socket has an answer */
void hm_tcp_dial_next(struct tcp_ep *ep);  /* this address has had its time */
void hm_tcp_dial_stop(struct tcp_ep *ep);
/* "127.0.0.1", "::1", "fe80::1%eth0"; false: a name. */
HM_MUST_CHECK bool hm_tcp_numeric(const char *host, uint16_t port,
                                  struct sockaddr_storage *address);
socklen_t hm_tcp_address_bytes(const struct sockaddr_storage *address);

/* ---- socket.c */
void hm_tcp_socket_options(int fd); /* connected */

/* ---- endpoint.c */
struct tcp_ep *hm_tcp_ep_create(struct tcp *tcp);                 /* NULL: no memory */
void hm_tcp_ep_connected(struct tcp_ep *ep, int fd, bool client); /* takes fd; TLS begins */
/* A proof on this connection, ours or theirs, is about this.  False: TLS gives no binding. */
HM_MUST_CHECK bool hm_tcp_ep_context(struct tcp_ep *ep, bool ours,
                                     struct hm_proof_context *context);
void hm_tcp_ep_up(struct tcp_ep *ep, const struct hm_hello *hello);
void hm_tcp_ep_fail(struct tcp_ep *ep, enum hm_status why); /* the first reason stays */
void hm_tcp_ep_turn(struct tcp_ep *ep);
void hm_tcp_ep_timer(struct hm_timer *timer);
void hm_tcp_ep_watch(struct tcp_ep *ep, int events);
void hm_tcp_ep_release(struct tcp_ep *ep); /* frees it, if nothing holds it any more */

/* ---- send.c */
void hm_tcp_send_init(struct tcp_ep *ep);
HM_MUST_CHECK enum hm_status hm_tcp_send(struct hm_ep *base, const void *header,
                                         size_t header_bytes, const struct hm_span *payload,
                                         unsigned span_count, hm_wire_cb done, void *arg);
HM_MUST_CHECK bool
hm_tcp_send_hello(struct tcp_ep *ep);      /* puts it in the stage; false: no memory */
void hm_tcp_send_flush(struct tcp_ep *ep); /* writes what can be written; calls nobody */
void hm_tcp_send_callbacks(struct tcp_ep *ep);
void hm_tcp_send_abort(struct tcp_ep *ep); /* everything becomes finished, with ep->why */
/* The peer's PULL, DROP and DONE; false: it may not say that. */
HM_MUST_CHECK bool hm_tcp_send_control(struct tcp_ep *ep, const struct hm_frame *frame);

/* ---- receive.c */
void hm_tcp_receive_init(struct tcp_ep *ep);
void hm_tcp_receive(struct tcp_ep *ep); /* reads what is there, up to the budget; calls the sink */
void hm_tcp_receive_callbacks(struct tcp_ep *ep);
void hm_tcp_receive_timer(struct tcp_ep *ep); /* up, and pulls have been under way for stall_max */
void hm_tcp_receive_abort(struct tcp_ep *ep); /* every accepted pull becomes pulled, with ep->why */
/* The next frame to be said about a received payload or the credit; false: none. */
bool hm_tcp_receive_control(struct tcp_ep *ep, struct hm_frame *frame);
HM_MUST_CHECK enum hm_status hm_tcp_pull(struct hm_inbound *base, const struct hm_span *into,
                                         hm_wire_cb done, void *arg);
void hm_tcp_drop(struct hm_inbound *base);

#endif
