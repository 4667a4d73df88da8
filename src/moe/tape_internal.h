/* moe/tape_internal.h - what tape.c (values, local nodes) and tape_remote.c (nodes that live
 * elsewhere) share. */
#ifndef HM_MOE_TAPE_INTERNAL_H
#define HM_MOE_TAPE_INTERNAL_H

#include "base/assert.h"
#include "moe/arena.h"
#include "moe/remote_expert.h"
#include "moe/tape.h"

struct hm_tape_value {
    struct hm_shape shape;
    uint32_t rows, columns;
    float *data;
    float *gradient;                 /* NULL: none has arrived */
    bool wanted;                     /* something that it depends on wants a gradient */
    struct hm_tape_mixture *mixture; /* the value is its output */
};
struct hm_tape_node;
/* Gives the gradient of node->out on to what the node was made from. */
typedef enum hm_status (*hm_tape_backward_step)(struct hm_moe_tape *tape,
                                                struct hm_tape_node *node);
struct hm_tape_node {
    hm_tape_backward_step backward;
    hm_moe_value in[2], out;
    struct hm_layer *layer;
    float factor; /* scale */
    float *saved; /* layer norm: stats; cross entropy: dlogits */
    struct hm_tape_mixture *mixture;
    struct hm_tape_expert *expert;
};
struct hm_tape_mixture { /* kept from one step to the next, with its buffers */
    struct hm_tape_mixture *next;
    struct hm_mixture *mixture;
    struct hm_mixture_op op;
    bool used;
    hm_moe_value logits;
    struct hm_moe_tape *tape;
    struct hm_tensor x, y, gate, dy, dx, dgate; /* of the pass that runs */
    bool backward;
};
struct hm_tape_expert {
    struct hm_tape_expert *next;
    struct hm_moe_expert_op op;
    bool used;
    struct hm_moe_tape *tape;
    struct hm_dispatch *dispatch;
    struct hm_uid uid;
    hm_ns timeout;
    struct hm_tensor x, y, dy, dx;
    bool backward;
};
struct hm_moe_tape {
    struct hm_device *device;
    struct hm_stream *stream;
    const struct hm_bridge *bridge; /* NULL: no remote nodes */
    struct hm_wait *wait;           /* for the operation that the loop is running */
    struct hm_arena arena;
    struct hm_tape_value *value;
    struct hm_tape_node *node;
    unsigned value_count, value_capacity, node_count, node_capacity;
    bool went_back;
    struct hm_tape_mixture *mixtures;
    struct hm_tape_expert *experts;
    struct hm_moe_tape_counts counts;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};

/* tape.c, for both */
bool hm_tape_usable(struct hm_moe_tape *tape,
                    hm_moe_value value); /* no error so far, and it exists; else notes one */
/* A value of the shape, uninitialised; HM_MOE_VALUE_NONE: noted. */
hm_moe_value hm_tape_add_value(struct hm_moe_tape *tape, const struct hm_shape *shape, bool wanted);
struct hm_tape_node *hm_tape_add_node(struct hm_moe_tape *tape, hm_tape_backward_step backward,
                                      hm_moe_value a, hm_moe_value b,
                                      hm_moe_value out);          /* NULL: noted */
float *hm_tape_memory(struct hm_moe_tape *tape, size_t elements); /* NULL: noted */
struct hm_tensor hm_tape_matrix(const struct hm_moe_tape *tape, hm_moe_value value);
struct hm_tensor hm_tape_gradient_matrix(const struct hm_moe_tape *tape, hm_moe_value value);
/* Where to write (=) a gradient of the value; then _give, which adds it where there is one already.
 * */
HM_MUST_CHECK enum hm_status hm_tape_gradient_take(struct hm_moe_tape *tape, hm_moe_value value,
                                                   struct hm_tensor *into);
HM_MUST_CHECK enum hm_status hm_tape_gradient_give(struct hm_moe_tape *tape, hm_moe_value value,
                                                   struct hm_tensor *from);
/* tape_remote.c */
void hm_tape_remote_reset(struct hm_moe_tape *tape);
void hm_tape_remote_fini(struct hm_moe_tape *tape);

#endif
