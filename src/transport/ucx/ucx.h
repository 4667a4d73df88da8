/* transport/ucx/ucx.h - what the files of the ucx module share.
 *
 *   ucx.c       the provider: open, close, the worker in the loop, the vtable, pools
 *   context.c   environment, interfaces, ucp_init, settings, UCX's log
 *   address.c   whether a peer's bytes are an address
 *   endpoint.c  an endpoint's life: offer, accept, hello, up, failing, closing
 *   send.c      operations on the wire, queues, credit, announced payloads
 *   lent.c      pieces that we copy ourselves, also of memory that can be taken back
 *   receive.c   active messages in: messages, announces, pulls
 *   assemble.c  those that come in several
 *
 * One worker, of whichever thread runs the loop: one at a time (UCS_THREAD_MODE_SERIALIZED).  The fabric is homogeneous (settings
 * name the architecture), so heads are plain memory: a token, then what UCX's id says.  The
 * commonest message has the shortest head: 8 bytes more and it takes one more cache line.
 *
 *     BARE    token, header               -> a message without a payload
 *     EAGER   token, header; payload      -> a message with it; the receiver may keep the payload
 *     CONTROL token, type, id, value, ...
 *       ANNOUNCE id bytes, header         -> a large one; its payload stays where it is
 *       PULL id | DROP id                 <- the receiver wants it, or nobody does
 *       DATA id offset; payload           -> a piece of it, in order
 *       DONE id                           <- all of it is here
 *       CREDIT bytes                      <- eager bytes given back
 *       BEGIN bytes, header; payload      -> a message that is longer than a segment: its first piece
 *       MORE offset; payload              -> the next, in order; no other BEGIN before the last
 *       HELLO credit                      -> the first: I have accepted your offer
 *
 * The id of an announced payload is (number << 8 | place): the place is its index on both sides. */
#ifndef HM_TRANSPORT_UCX_UCX_H
#define HM_TRANSPORT_UCX_UCX_H

#include "base/assert.h"
#include "base/linger.h"
#include "base/list.h"
#include "base/log.h"
#include "transport/transport.h"
#include "transport/ucx_options.h"

#include <ucp/api/ucp.h>

enum { UCX_AM_BARE = 1, UCX_AM_EAGER = 2, UCX_AM_CONTROL = 3 };
enum {
    UCX_ENDPOINTS_MAX = 1 << 15,
    UCX_PLACES = 256,           /* announced and not done, each way */
    UCX_QUEUED_MAX = 256,       /* sends of a class that have to wait */
    UCX_BARE_MAX = 512,         /* operations in UCX's hands before a bare message is BUSY */
    UCX_WINDOW = 32,            /* eager sends and pieces in UCX's hands, an endpoint */
    UCX_PUMP_BYTES = 256 << 10, /* pieces an endpoint may post before the others have their turn */
    UCX_EAGER_BYTES_MAX = 32 << 10,   /* larger ones are pulled: two round trips more */
    UCX_EAGER_BYTES_LIMIT = 32 << 10, /* what a peer may send eagerly */
    UCX_PAGE_BYTES = 4096,            /* the least that an eager payload takes from the credit */
};

enum ucx_type {
    UCX_HELLO = 1,
    UCX_ANNOUNCE,
    UCX_PULL,
    UCX_DROP,
    UCX_DATA,
    UCX_DONE,
    UCX_CREDIT,
    UCX_BEGIN,
    UCX_MORE,
};
struct ucx_control {
    uint64_t token; /* the receiver's, as all that a shorter head has */
    uint32_t type, zero;
    uint64_t id, value;
};

struct ucx_ep;

enum ucx_stage { UCX_WAITING, UCX_POSTED, UCX_ANNOUNCED, UCX_STREAMING, UCX_UNACKED };

/* A message given to send.
 *
 *   bare    -> posted ------------------------------------------------------------> finished
 *   eager   -> [waits for credit] -> posted --------------------------------------> finished
 *   large   -> [waits for a place] -> posted -> announced -> streaming -> unacked -> finished
 *                                                   '--------- dropped ------------------^
 * It is freed when it has called back and UCX holds nothing of it.  Most messages are over when UCX
 * has been told of them, and nobody asks: those take no references and are in no list. */
struct
    ucx_op { /* one active message in UCX's hands, which reads head and iov until it has completed */
    struct hm_link link;
    struct ucx_ep *ep;
    struct ucx_send *send; /* NULL: a control message */
    bool windowed;
    struct ucx_control head; /* of control messages and pieces */
    size_t bytes;            /* of a piece */
    ucp_dt_iov_t iov[HM_SPANS_MAX];
};

struct ucx_send {
    struct hm_link link;
    struct ucx_ep *ep;
    hm_wire_cb done;
    void *arg;
    enum hm_status status;
    bool finished, called;
    bool held;         /* span and references to its owners are there */
    bool in_pieces;    /* eager, and longer than a segment */
    uint8_t stage;     /* enum ucx_stage */
    unsigned wire_ops; /* operations of it in UCX's hands */
    uint64_t id;
    size_t bytes, sent;
    unsigned span_count, span_at;
    size_t span_offset;
    struct ucx_op op; /* of its head; pieces have others */
    struct hm_span span[HM_SPANS_MAX];
    size_t head_bytes;
    uint8_t head[sizeof(struct ucx_control) + HM_HEADER_BYTES_MAX];
};

struct ucx_inbound {
    struct hm_inbound base;
    struct hm_link link;
    struct ucx_ep *ep;
    void *kept;  /* eager: UCX's, until ucp_am_data_release */
    bool *taken; /* not NULL: we are in its callback; set when it is pulled or dropped there */
    struct hm_buf *buf;  /* eager: put together here; NULL: kept */
    size_t header_bytes; /* behind the payload, while it is */
    uint64_t id;         /* announced; 0: eager or empty */
    struct hm_span into;
    size_t posted, received; /* bytes of pieces that have come, and of those that are in place */
    unsigned receiving;      /* rendezvous of pieces under way */
    hm_wire_cb done;
    void *arg;
    enum hm_status status;
    bool finished;
};

enum ucx_state {
    UCX_OFFERED, /* theirs is awaited */
    UCX_JOINING, /* our hello is on its way, theirs is awaited */
    UCX_UP,
    UCX_FAILING, /* over; down() comes with the next turn */
    UCX_GONE,    /* down() has been said; waits for UCX and for inbounds */
};

struct ucx_queue {
    struct hm_link head;
    unsigned count;
    bool told_busy;
};

struct ucx_ep {
    struct hm_ep base;
    struct ucx *ucx;
    struct hm_link link, turn_link;
    enum ucx_state state;
    enum hm_status why;
    struct hm_node_id node;
    uint64_t token, their_token;
    bool heard;
    ucp_ep_h ep;   /* NULL: not yet, or closed */
    bool broken;   /* UCX has given it up: nothing can be flushed */
    bool flushing; /* closing, when what was sent has gone or its time is over */
    struct hm_timer timer;

    /* send.c */
    struct ucx_queue eager, large;
    bool bare_busy;
    unsigned wire_ops, windowed;                /* operations in UCX's hands */
    struct hm_link posted, streaming, finished; /* posted: also announced and unacked ones */
    struct ucx_send *place_out[UCX_PLACES];
    unsigned places_out, place_next;
    uint64_t number_last, credit, credit_total;

    /* receive.c */
    struct ucx_inbound nothing; /* of every message without a payload */
    struct ucx_inbound *place_in[UCX_PLACES];
    struct ucx_inbound *assembling; /* NULL: none at hand */
    struct hm_link pulled;
    unsigned inbounds_out; /* in the user's hands */
    unsigned receiving;    /* inbounds that UCX still writes into */
    uint64_t credit_left, credit_owed;
};

struct ucx_metrics {
    struct hm_metric messages_sent, messages_received, bytes_sent, bytes_received, bytes_copied,
        endpoints, ups, stale, broken, failures_protocol;
};

struct ucx {
    struct hm_transport base;
    struct hm_loop *loop;
    struct hm_transport_sink sink;
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_address_t *address;
    size_t address_bytes;
    char settings[HM_FABRIC_SETTINGS_BYTES];
    bool inherited[1024]; /* descriptors that were there before UCX */
    bool memory[3];
    bool busy_poll, tcp;
    size_t piece_bytes;
    bool rendezvous;       /* pieces are larger than a segment */
    bool packs;            /* that is there: */
    ucp_datatype_t pieces; /* lent.c's */
    /* Of assemble.c. Not conf->buffers: what the user has exhausted must not stop what would free it. */
    struct hm_buf_pool *pool;
    unsigned endpoints_max, endpoint_count, slot_next;
    size_t receive_bytes_max;
    hm_ns handshake_max;
    struct ucx_ep **slot; /* endpoints_max: by the low bits of their token */
    struct hm_link eps, turn_eps;
    struct hm_link spare_sends, spare_ops, spare_inbounds, chunks;
    unsigned wire_ops;
    unsigned pulling;     /* announced payloads that were asked for and are not here */
    unsigned piece_looks; /* in vain for a piece of one, since the last */
    struct hm_watch watch;
    struct hm_hook hook;
    struct hm_linger linger; /* looking on before a sleep */
    struct hm_timer poll;    /* looks again where UCX tells nobody */
    unsigned idle;           /* times in a row that nothing moved */
    bool closing;
    void (*close_done)(void *arg);
    void *close_arg;
    struct ucx_metrics metrics;
};

static inline struct ucx *ucx_of(struct hm_transport *base)
{
    return HM_CONTAINER_OF(base, struct ucx, base);
}
static inline struct ucx_ep *ucx_ep_of(struct hm_ep *base)
{
    return HM_CONTAINER_OF(base, struct ucx_ep, base);
}

extern const struct hm_transport_ops hm_ucx_ops;
extern const struct hm_fabric_ops hm_ucx_fabric;

/* ---- ucx.c */
void hm_ucx_turn_soon(struct ucx_ep *ep); /* ucx_ep_turn before the loop sleeps */
/* All NULL if there is no memory; the caller sets every field but the link. */
struct ucx_send *hm_ucx_send_get(struct ucx *ucx);
void hm_ucx_send_put(struct ucx *ucx, struct ucx_send *send);
struct ucx_op *hm_ucx_op_get(struct ucx *ucx);
void hm_ucx_op_put(struct ucx *ucx, struct ucx_op *op);
struct ucx_inbound *hm_ucx_inbound_get(struct ucx *ucx);
void hm_ucx_inbound_put(struct ucx *ucx, struct ucx_inbound *in);

/* ---- context.c */
HM_MUST_CHECK enum hm_status hm_ucx_context_open(struct ucx *ucx,
                                                 const struct hm_ucx_options *options);
void hm_ucx_context_close(struct ucx *ucx);
/* Descriptors that UCX has opened must not live on in programs that this one starts. */
void hm_ucx_descriptors_close_on_exec(const struct ucx *ucx);

/* ---- receive.c, for assemble.c */
struct ucx_inbound *hm_ucx_inbound_make(struct ucx_ep *ep, size_t bytes); /* NULL: ep has failed */
/* What an eager message takes; false: it is more than the peer has. */
HM_MUST_CHECK bool hm_ucx_credit_spend(struct ucx_ep *ep, size_t bytes);
void hm_ucx_deliver(struct ucx_ep *ep, struct ucx_inbound *in, const void *header, size_t bytes);

/* ---- assemble.c: false: the peer may not say that */
HM_MUST_CHECK bool hm_ucx_assemble_begin(struct ucx_ep *ep, uint64_t total, const void *header,
                                         size_t header_bytes, const void *data, size_t bytes);
HM_MUST_CHECK bool hm_ucx_assemble_more(struct ucx_ep *ep, uint64_t offset, const void *data,
                                        size_t bytes);
void hm_ucx_assemble_abort(struct ucx_ep *ep);

/* ---- lent.c */
HM_MUST_CHECK enum hm_status hm_ucx_lent_open(struct ucx *ucx);
void hm_ucx_lent_close(struct ucx *ucx);
bool hm_ucx_any_lent(const struct hm_span *span, unsigned span_count);

/* ---- address.c */
/* Whether `bytes` have the form of the address of another worker; what is named in it may not exist. */
HM_MUST_CHECK bool hm_ucx_address_valid(const struct ucx *ucx, const uint8_t *bytes,
                                        size_t byte_count);

/* ---- endpoint.c */
void hm_ucx_ep_fail(struct ucx_ep *ep, enum hm_status why); /* the first reason stays */
void hm_ucx_ep_turn(struct ucx_ep *ep);
void hm_ucx_ep_heard(struct ucx_ep *ep);     /* says up(), if it can be */
void hm_ucx_ep_release(struct ucx_ep *ep);   /* frees it, if nothing holds it any more */
void hm_ucx_ep_close_now(struct ucx_ep *ep); /* the transport closes: no flushing any more */
struct ucx_ep *hm_ucx_ep_find(struct ucx *ucx, uint64_t token); /* NULL: stale or a stranger's */

/* ---- send.c */
void hm_ucx_send_init(struct ucx_ep *ep);
HM_MUST_CHECK enum hm_status hm_ucx_send(struct hm_ep *base, const void *header,
                                         size_t header_bytes, const struct hm_span *payload,
                                         unsigned span_count, hm_wire_cb done, void *arg);
void hm_ucx_say(struct ucx_ep *ep, enum ucx_type type, uint64_t id, uint64_t value);
void hm_ucx_send_pump(struct ucx_ep *ep); /* posts what may go now */
void hm_ucx_send_callbacks(struct ucx_ep *ep);
void hm_ucx_send_abort(struct ucx_ep *ep); /* everything becomes finished, with ep->why */
/* The peer's PULL, DROP and DONE; false: it may not say that. */
HM_MUST_CHECK bool hm_ucx_send_control(struct ucx_ep *ep, enum ucx_type type, uint64_t id);

/* ---- receive.c */
void hm_ucx_receive_init(struct ucx_ep *ep);
HM_MUST_CHECK enum hm_status hm_ucx_receive_register(struct ucx *ucx);
void hm_ucx_receive_callbacks(struct ucx_ep *ep);
void hm_ucx_receive_abort(struct ucx_ep *ep);
void hm_ucx_receive_credit(struct ucx_ep *ep); /* tells what has been given back, if it is much */
HM_MUST_CHECK enum hm_status hm_ucx_pull(struct hm_inbound *base, const struct hm_span *into,
                                         hm_wire_cb done, void *arg);
void hm_ucx_drop(struct hm_inbound *base);

#endif
