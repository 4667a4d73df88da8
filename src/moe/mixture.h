/* moe/mixture.h - a layer whose experts live on other machines.
 *
 *   logits = gate(x)              the caller's: any function hidden -> sum of the grid's sizes
 *   chosen = k best live experts  of every row (beam.h)
 *   y_e    = expert e's answer    (dispatch.h); rows whose expert refuses (overloaded, draining, gone)
 *                                 go to their next best in the same pass (mixture_spare.c); experts
 *                                 that fail or are late are masked out
 *   w      = softmax              over a row's survivors, of their summed logits
 *   y      = sum of w_e * y_e
 *
 * Backward: expert e gets w_e * dy (each row sent once a server, scaled there); dx = sum of what they
 * answer; the gate's gradient goes through the softmax.  An expert that fails in backward counts as
 * a constant: no dx from it, its share of the gate's gradient stays, because y_e is known.
 *
 * Thread: loop; callbacks never run inside a call made by the user.
 * Memory: an op keeps its buffers from one pass to the next; they grow to the largest batch and
 *         stay. */
#ifndef HM_MOE_MIXTURE_H
#define HM_MOE_MIXTURE_H

#include "moe/beam.h"
#include "moe/dispatch.h"

struct hm_mixture;
struct hm_mixture_conf {
    struct hm_dispatch *dispatch;
    const char *name; /* "ffn" (or "ffn.") */
    unsigned dim_count;
    uint32_t grid[HM_GRID_DIMS_MAX];
    uint32_t hidden;         /* columns of x and y */
    uint32_t k_best;         /* 1 to HM_BEAM_MAX */
    uint32_t k_min;          /* answers that every row needs in forward; 1 to k_best */
    uint32_t backward_k_min; /* in backward, of those that answered forward; 0: all may fail */
    uint32_t spares;         /* next best experts of a row, asked where one refuses; 0: none */
    uint32_t beam_width;     /* 0: k_best + spares */
    hm_ns forward_timeout, backward_timeout; /* of a whole pass, search included; 0: 30 s */
    hm_ns timeout_after_k_min;               /* 0: wait for all */
    const struct hm_codec *codec;            /* NULL: none */
};
/* HM_ERR_INVALID with a line. */
HM_MUST_CHECK enum hm_status hm_mixture_create(const struct hm_mixture_conf *conf,
                                               struct hm_mixture **mixture);
void hm_mixture_destroy(struct hm_mixture *mixture); /* after its ops */
const struct hm_mixture_conf *hm_mixture_conf(const struct hm_mixture *mixture);
const struct hm_beam_grid *hm_mixture_grid(const struct hm_mixture *mixture);
uint32_t hm_mixture_gate_columns(const struct hm_mixture *mixture); /* of logits */

enum hm_mixture_state {
    HM_MIXTURE_IDLE,
    HM_MIXTURE_SEARCHING,
    HM_MIXTURE_CALLING,
    HM_MIXTURE_HOLDS,
    HM_MIXTURE_BACKWARD
};
struct hm_mixture_op;
typedef void (*hm_mixture_cb)(struct hm_mixture_op *op, enum hm_status status);
struct hm_mixture_op { /* caller's memory; a node of the tape */
    void *arg;         /* the caller's */
    enum hm_status
        part_status; /* of the first part that failed in the last pass; HM_OK: none did */
    unsigned parts, parts_failed; /* of the last pass */
    /* mixture's */
    struct hm_mixture *mixture;
    enum hm_mixture_state state;
    bool choose_only;
    struct hm_beam_op beam; /* after choose or forward: op->beam.expert, .choice, .choice_count */
    struct hm_dispatch_op dispatch;
    /* Slot s is one (row, expert) pair; the slots of an expert lie together, in the order of its
     * rows. */
    struct hm_dispatch_part *part; /* forward: chosen experts, then spare ones as they are asked */
    struct hm_dispatch_part *part_back; /* the experts that answered forward, each once */
    uint32_t *part_expert;              /* of op->beam */
    uint8_t *standing;                  /* [experts of op->beam]: mixture_spare.c */
    unsigned part_count, part_max, back_count;
    const float *x, *logits, *dy;
    float *y, *dx, *dlogits;
    uint32_t row_count;
    hm_ns deadline;
    uint32_t *slot_row;  /* [slots] */
    uint32_t *slot_part; /* [slots] */
    uint32_t *slot_of;   /* [row_count, k_best + spares]: the slot of a choice, then of a spare */
    uint32_t slot_count, slots_max; /* in use; with those that spares may take */
    float *weight;                  /* [slots] */
    float *answer, *answer_back;    /* [slots, hidden] */
    uint32_t *row_back;             /* [slots], by expert: rows and weights of part_back */
    float *scale_back;
    struct hm_mixture_move *move; /* [spare slots]: scratch of the search for somebody else */
    float *fraction;              /* [gate columns] */
    size_t part_capacity, expert_capacity, slot_capacity, choice_capacity, answer_capacity,
        back_capacity, answer_back_capacity, move_capacity, fraction_capacity;
    hm_mixture_cb cb;
};
void hm_mixture_op_init(struct hm_mixture *mixture, struct hm_mixture_op *op);
void hm_mixture_op_fini(struct hm_mixture_op *op); /* not while a pass runs */

/* Which experts are best: logits [.., gate columns] f32 -> op->beam's results.  Errors as
 * hm_beam_start's. */
HM_MUST_CHECK enum hm_status hm_mixture_choose(struct hm_mixture_op *op,
                                               const struct hm_tensor *logits, hm_ns deadline,
                                               hm_mixture_cb cb);
/* x [.., hidden], logits [.., gate columns] -> y [.., hidden], all f32, leading dims are rows.  x
 * and logits stay until hm_mixture_release; y is written only on success.
 * Errors: HM_ERR_SHAPE (from the call, with a line); from cb what beam and dispatch say:
 *         HM_ERR_NOT_FOUND without a live
 * expert, HM_ERR_TIMED_OUT or the first failure's status when a row has fewer than k_min. */
HM_MUST_CHECK enum hm_status hm_mixture_forward(struct hm_mixture_op *op, const struct hm_tensor *x,
                                                const struct hm_tensor *logits, struct hm_tensor *y,
                                                hm_ns deadline, hm_mixture_cb cb);
/* dy [.., hidden] -> dx [.., hidden] (=) from the experts, dlogits [.., gate columns] (=); only
 * after a forward that gave HM_OK, once. */
HM_MUST_CHECK enum hm_status hm_mixture_backward(struct hm_mixture_op *op,
                                                 const struct hm_tensor *dy, struct hm_tensor *dx,
                                                 struct hm_tensor *dlogits, hm_ns deadline,
                                                 hm_mixture_cb cb);
void hm_mixture_release(struct hm_mixture_op *op); /* forgets the pass, keeps the buffers */
/* The balance loss of what the op has chosen (after choose or forward, until release); see
 * balance.h.  Any thread that is alone with the op. */
float hm_mixture_balance(struct hm_mixture_op *op, float scale, float *dlogits);

#endif
