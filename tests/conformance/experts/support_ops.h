/* The list of op cases: for each op its sizes, a naive reference in double precision, and the
 * device's calls.  The references are loops over double that say what an op means, and nothing
 * else. */
#ifndef HM_SUPPORT_OPS_H
#define HM_SUPPORT_OPS_H

#include "base/rng.h"
#include "experts/device.h"

enum { OP_INPUTS_MAX = 6 };

struct op_case;
struct op_matrix {
    uint32_t rows, columns;
};
struct op_shape {
    unsigned inputs;
    struct op_matrix in[OP_INPUTS_MAX], out;
};
struct op {
    const char *name;
    /* NULL: on every device; else false where it is not, and why */
    bool (*there)(struct hm_device *device, const char **why);
    void (*shape)(const struct op_case *c, struct op_shape *shape);
    float (*draw)(struct hm_rng *rng, unsigned input); /* NULL: normal */
    void (*reference)(const struct op_case *c, const double *const *in, double *out);
    enum hm_status (*forward)(struct hm_stream *s, const struct op_case *c,
                              const struct hm_tensor *in, struct hm_tensor *out);
    /* NULL: it has no gradient of its own */
    enum hm_status (*backward)(struct hm_stream *s, const struct op_case *c,
                               const struct hm_tensor *in, const struct hm_tensor *out,
                               const struct hm_tensor *dy, struct hm_tensor *gradient);
    unsigned accumulates; /* bit i: the gradient of input i is added to what is there */
    double error_max, gradient_error_max;
};
struct op_case {
    const struct op *op;
    uint32_t rows, columns;
    uint32_t option; /* the op's own: columns out, activation, step */
    bool grad;       /* small enough for finite differences */
};
extern const struct op_case op_cases[];
extern const unsigned op_case_count;

/* How a device may keep weights: in PyTorch's layout, in its own, and there with a packed copy for
 * products in bf16. */
enum kept { KEPT_DENSE, KEPT_PLACED, KEPT_ROUNDED, KEPT_LIBRARY, KEPT_COUNT };
extern const struct op op_linear[KEPT_COUNT];
extern const struct op op_linear_fused, op_block, op_dx_add;
extern const struct op op_layer_norm, op_activation, op_softmax, op_cross_entropy;
extern const struct op op_add, op_gather, op_coded, op_norm, op_largest, op_zero;
extern const struct op op_sgd, op_adam;

/* ---- what several ops share */

static inline const struct hm_device_ops *op_calls(struct hm_stream *s)
{
    return s->device->ops;
}
void op_shape_unary(const struct op_case *c, struct op_shape *shape);  /* out: as in */
void op_shape_to_one(const struct op_case *c, struct op_shape *shape); /* out: one value */
double op_act_value(enum hm_activation act, double x);

#endif
