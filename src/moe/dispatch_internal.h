/* moe/dispatch_internal.h - what dispatch.c (operations), dispatch_call.c (one call to a server) and
 * dispatch_build.c (what it sends) share. */
#ifndef HM_MOE_DISPATCH_INTERNAL_H
#define HM_MOE_DISPATCH_INTERNAL_H

#include "base/assert.h"
#include "moe/dispatch.h"
#include "moe/refusals.h"
#include "moe/shared_call.h"

#include <stdatomic.h>

struct hm_dispatch {
    struct hm_loop *loop;
    struct hm_rpc *rpc;
    struct hm_buf_pool *buffers;
    struct hm_directory *directory;
    uint8_t priority;
    unsigned calls_max, call_count; /* made and not freed: in use, left behind and idle */
    unsigned calls_used;
    struct hm_link idle; /* server calls to use again */
    struct hm_link left; /* whose operation has ended */
    struct hm_link ops;
    uint64_t incarnation, forward_sequence, backward_sequence;
    _Atomic uint64_t calls, calls_failed, calls_coded, parts, parts_failed, rows;
    uint32_t timed_every, timed_turn; /* every 0: no call is timed */
    struct hm_stages stages;
    struct hm_shared_calls shared;
    struct hm_refusals refusals;
    struct hm_metric parts_again; /* asked again after a refusal */
    bool closing;
    struct hm_timer close_turn;
    void (*closed)(void *arg);
    void *closed_arg;
};

struct hm_pull { /* an announced answer on its way into a pooled buffer */
    struct hm_server_call *call;
    struct hm_buf *buf;
    uint16_t part;                /* of the call */
    bool lent;                    /* buf is the part's answer itself */
    struct hm_server_times times; /* of a timed call */
};
enum { HM_DISPATCH_HEADER_BYTES = 256 };
struct hm_server_call { /* one HM_METHOD_EXPERT_CALL: pooled, outlives its operation on the wire */
    struct hm_dispatch *dispatch;
    struct hm_dispatch_op *op; /* NULL: the operation has ended */
    struct hm_link link;       /* of op->calls, dispatch->left or dispatch->idle */
    struct hm_node_id server;
    struct hm_peer *peer;
    struct hm_call call;
    bool tried;          /* to be sent */
    bool latecomer;      /* for rows that were refused elsewhere: it has what is left of the time */
    bool on_wire;        /* end() will come */
    bool suspected;      /* the directory was told so: nothing it still answers clears that */
    bool timed;          /* its answers say where the time went */
    hm_ns sent;          /* of a timed call, on hm_loop_clock: when it was given to rpc */
    struct hm_buf *slab; /* part table, and rows unless they are lent */
    struct hm_buf *lent[2];       /* x, dy; NULL: in the slab */
    const struct hm_codec *codec; /* of its rows, and of their answers */
    unsigned part_count, pulls;
    uint16_t part[HM_CALL_PARTS_MAX];       /* numbers in op->part */
    bool taken[HM_CALL_PARTS_MAX];          /* its reply has come: nothing more is expected */
    struct hm_pull pull[HM_CALL_PARTS_MAX]; /* of part i */
};

/* A call for the operation, linked; NULL: calls_max. */
struct hm_server_call *hm_server_call_get(struct hm_dispatch_op *op,
                                          const struct hm_node_id *server);
static inline struct hm_dispatch_part *hm_server_call_part(const struct hm_server_call *call,
                                                           unsigned number)
{
    return &call->op->part[call->part[number]];
}
/* dispatch_build.c: slab, lent rows and header.  On an error the call holds what it got so far. */
HM_MUST_CHECK enum hm_status hm_server_call_build(struct hm_server_call *call,
                                                  uint8_t header[HM_DISPATCH_HEADER_BYTES],
                                                  size_t *header_bytes);
/* Builds the slab and hands it to rpc.  What cannot be sent fails its parts; the call is given back
 * then. */
void hm_server_call_send(struct hm_server_call *call);
/* The operation has ended: whatever still comes is dropped. */
void hm_server_call_leave(struct hm_server_call *call);
/* dispatch.c: a part is decided, once. */
void hm_dispatch_decide(struct hm_dispatch_op *op, struct hm_dispatch_part *part,
                        enum hm_status status);
/* dispatch.c: a part that was refused, and is open again, goes into a call to its server that has not
 * been sent. */
void hm_dispatch_place(struct hm_dispatch_op *op, unsigned number, bool latecomer);
/* dispatch.c: sends what has been placed, once it is known where to. */
void hm_dispatch_set_out(struct hm_dispatch_op *op, hm_ns deadline);
void hm_dispatch_end_soon(struct hm_dispatch_op *op);
/* dispatch_retry.c: a server has said that it is overloaded. */
void hm_dispatch_turned_away(struct hm_dispatch_op *op, struct hm_dispatch_part *part,
                             enum hm_status status, const struct hm_call_answer *answer);
/* dispatch_retry.c: whether every row has hope (op->hopeful >= op->need), with parts that from now on
 * wait to be asked again. */
bool hm_dispatch_hold_on(struct hm_dispatch_op *op);
/* dispatch_retry.c: op->retry.  Asks those whose time has come; who is not needed any more waits no
 * longer. */
void hm_dispatch_ask_again(struct hm_timer *timer);
/* dispatch_retry.c: the operation ends: who waits has what was said. */
void hm_dispatch_stop_waiting(struct hm_dispatch_op *op);
/* dispatch_explain.c: says which row lacks answers, and what went wrong first; before late parts get
 * their status. */
enum hm_status hm_dispatch_explain(const struct hm_dispatch_op *op);
/* dispatch.c: the call ran into the deadline. */
void hm_dispatch_late(struct hm_dispatch_op *op, struct hm_server_call *call);
/* dispatch.c: a call has been given back. */
void hm_dispatch_call_free(struct hm_dispatch *dispatch);

#endif
