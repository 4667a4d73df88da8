/* moe/remote_expert.h - one expert by name, wherever it lives now: info, forward, backward.
 *
 * Every operation asks the directory (its cache) who serves the uid, so an expert that moved is
 * found again.
 *
 * Thread: loop; callbacks never run inside a call made by the user. */
#ifndef HM_MOE_REMOTE_EXPERT_H
#define HM_MOE_REMOTE_EXPERT_H

#include "moe/dispatch.h"

struct hm_moe_expert_op;
typedef void (*hm_moe_expert_cb)(struct hm_moe_expert_op *op, enum hm_status status);
struct hm_moe_expert_op { /* caller's memory, until cb has run; zero it first */
    void *arg;            /* the caller's */
    hm_ns asked;          /* the caller's, as in struct hm_dispatch_op; so too: */
    const struct hm_codec *codec;
    bool refusals_final;
    /* results */
    struct hm_expert_info info; /* of find */
    struct hm_node_id server;   /* who serves it */
    uint64_t step;              /* of the expert, after forward or backward */
    /* its own */
    struct hm_dispatch *dispatch;
    struct hm_uid uid;
    hm_moe_expert_cb cb;
    hm_ns deadline;
    uint8_t what;
    char prefix[HM_UID_BYTES];
    struct hm_peer *peer;
    struct hm_call call;
    enum hm_status answered;
    uint8_t header[HM_UID_BYTES + 8];
    struct hm_dispatch_op pass;
    struct hm_dispatch_part part;
    struct hm_buf *rows; /* indices, then coded answers */
    const struct hm_tensor *x, *dy;
    struct hm_tensor *out;
    /* moe/shared_call.h: those that go with it, in order; and while more may join */
    struct hm_moe_expert_op *next, *last;
    struct hm_link open;
    uint32_t row_count, columns, rows_shared; /* shared: with those that have joined */
};
/* Who serves it, and what it is (op->info, op->server).  HM_ERR_NOT_FOUND with a line if nobody
 * serves it. */
HM_MUST_CHECK enum hm_status hm_moe_expert_find(struct hm_dispatch *dispatch,
                                                struct hm_moe_expert_op *op,
                                                const struct hm_uid *uid, hm_ns deadline,
                                                hm_moe_expert_cb cb);
/* x [.., hidden] f32 -> y, same shape; from HM_DISPATCH_LEND_BYTES_MIN on what a call that fails has
 * had of its answer may be left there, smaller ones are written on success only.  x and y stay until cb.
 * Forwards of few rows to one expert that begin in one turn of the loop go in one call
 * (moe/shared_call.h).
 * Errors: HM_ERR_NOT_FOUND; HM_ERR_SHAPE and the rest as the server said; HM_ERR_TIMED_OUT. */
HM_MUST_CHECK enum hm_status hm_moe_expert_forward(struct hm_dispatch *dispatch,
                                                   struct hm_moe_expert_op *op,
                                                   const struct hm_uid *uid,
                                                   const struct hm_tensor *x, struct hm_tensor *y,
                                                   hm_ns deadline, hm_moe_expert_cb cb);
/* dx (=): gradient with respect to x; the expert makes one optimizer step, at most once, never
 * repeated. */
HM_MUST_CHECK enum hm_status
hm_moe_expert_backward(struct hm_dispatch *dispatch, struct hm_moe_expert_op *op,
                       const struct hm_uid *uid, const struct hm_tensor *x,
                       const struct hm_tensor *dy, struct hm_tensor *dx, hm_ns deadline,
                       hm_moe_expert_cb cb);

#endif
