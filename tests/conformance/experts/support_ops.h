/* The list of op cases: for each op its sizes, a naive reference in double precision, and the
 * device's calls. */
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

#endif
