/* moe/tape.h - a small reverse-mode tape: local layers, remote experts and remote mixtures alike.
 *
 * A value is [rows.., columns] f32, named by its index.  Each function computes its value at once
 * and appends a node; backward walks the nodes in reverse.  The first error of the whole pass is
 * kept: from then on every function answers HM_MOE_VALUE_NONE and does nothing, and backward
 * returns that error with its line.
 *
 * Memory:  values and gradients lie in an arena that reset empties and keeps: no malloc after the
 *          first steps. Parameter gradients are accumulated (+=) into the layers.
 * Thread:  one caller's thread at a time, not the loop's (or the simulated loop's own, see
 *          bridge.h); remote nodes block. */
#ifndef HM_MOE_TAPE_H
#define HM_MOE_TAPE_H

#include "moe/bridge.h"
#include "moe/layers.h"
#include "moe/mixture.h"

struct hm_moe_tape;
typedef uint32_t hm_moe_value;
#define HM_MOE_VALUE_NONE UINT32_MAX
struct hm_moe_tape_conf {
    struct hm_device *device;
    const struct hm_bridge *bridge; /* outlives the tape; NULL: no remote nodes */
    size_t bytes_max;               /* of values and gradients; 0: 4 GiB */
};
HM_MUST_CHECK enum hm_status hm_moe_tape_create(const struct hm_moe_tape_conf *conf,
                                                struct hm_moe_tape **tape);
void hm_moe_tape_destroy(struct hm_moe_tape *tape);
void hm_moe_tape_reset(struct hm_moe_tape *tape); /* forgets every value, and the error */
enum hm_status hm_moe_tape_status(const struct hm_moe_tape *tape); /* the first error so far */
const char *hm_moe_tape_line(const struct hm_moe_tape *tape);      /* and its line */
/* Notes an error found above the tape, as if one of its functions had failed. */
hm_moe_value hm_moe_tape_fail(struct hm_moe_tape *tape, enum hm_status status);

/* Copies x.  `gradient`: hm_moe_tape_gradient of it is wanted after backward. */
hm_moe_value hm_moe_tape_input(struct hm_moe_tape *tape, const struct hm_tensor *x, bool gradient);
hm_moe_value hm_moe_tape_layer(struct hm_moe_tape *tape, struct hm_layer *layer, hm_moe_value x);
hm_moe_value hm_moe_tape_add(struct hm_moe_tape *tape, hm_moe_value a,
                             hm_moe_value b); /* same shapes */
hm_moe_value hm_moe_tape_scale(struct hm_moe_tape *tape, hm_moe_value a, float factor);
/* The gate (a linear layer hidden -> hm_mixture_gate_columns) and its mixture. */
hm_moe_value hm_moe_tape_mixture(struct hm_moe_tape *tape, struct hm_mixture *mixture,
                                 struct hm_layer *gate, hm_moe_value x);
/* [1, 1]: the balance loss of a value that hm_moe_tape_mixture gave; add it (scaled) to the loss.
 * */
hm_moe_value hm_moe_tape_balance(struct hm_moe_tape *tape, hm_moe_value mixed);
/* codec: of servers that take it; NULL: none. */
hm_moe_value hm_moe_tape_expert(struct hm_moe_tape *tape, struct hm_dispatch *dispatch,
                                const struct hm_uid *uid, const struct hm_codec *codec,
                                hm_ns timeout, hm_moe_value x);
/* [1, 1]: mean over rows of -log softmax(logits)[label]; labels [rows] are copied.  HM_ERR_INVALID:
 * a label out of range. */
hm_moe_value hm_moe_tape_cross_entropy(struct hm_moe_tape *tape, hm_moe_value logits,
                                       const int64_t *label);

/* A view, until reset; of HM_MOE_VALUE_NONE an empty tensor (data.base NULL). */
struct hm_tensor hm_moe_tape_value(const struct hm_moe_tape *tape, hm_moe_value value);
/* The loss [1, 1] with respect to the value, after backward; data.base NULL: the loss does not
 * depend on it. */
struct hm_tensor hm_moe_tape_gradient(const struct hm_moe_tape *tape, hm_moe_value value);
/* Once a pass.  The first error of the whole pass, also of the functions above; parameter gradients
 * are then incomplete: zero them and make no step. */
HM_MUST_CHECK enum hm_status hm_moe_tape_backward(struct hm_moe_tape *tape, hm_moe_value loss);

struct hm_moe_tape_counts { /* of the remote nodes since reset */
    unsigned parts, parts_failed;
};
void hm_moe_tape_counts(const struct hm_moe_tape *tape, struct hm_moe_tape_counts *counts);

#endif
