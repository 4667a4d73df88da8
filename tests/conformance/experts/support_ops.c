/* The list of op cases, and what several ops share.  1 row, odd sizes, 4096 columns; 67 x 4099 is
 * shared by a team. */
#include "support_ops.h"

#include "base/assert.h"

#include <math.h>

void op_shape_unary(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {c->rows, c->columns}};
}

void op_shape_to_one(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {1, 1}};
}

double op_act_value(enum hm_activation act, double x)
{
    switch (act) {
    case HM_ACT_RELU: return x > 0.0 ? x : 0.0;
    case HM_ACT_GELU: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case HM_ACT_NONE: break;
    }
    return x;
}

/* A case with weights in a layout of the device's, and both ways to have them in bf16 besides. */
#define KEPT(...)                                                                                  \
    {&op_linear[KEPT_PLACED], __VA_ARGS__}, {&op_linear[KEPT_ROUNDED], __VA_ARGS__},               \
    {                                                                                              \
        &op_linear[KEPT_LIBRARY], __VA_ARGS__                                                      \
    }

const struct op_case op_cases[] = {
    {&op_linear[KEPT_DENSE], 1, 1, 1, true},
    {&op_linear[KEPT_DENSE], 1, 64, 10, true},
    {&op_linear[KEPT_DENSE], 7, 33, 65, true},
    {&op_linear[KEPT_DENSE], 32, 128, 17, true},
    {&op_linear[KEPT_DENSE], 1, 4096, 31, true},
    {&op_linear[KEPT_DENSE], 32, 1024, 4096, false},
    {&op_linear[KEPT_DENSE], 300, 257, 129, false},
    KEPT(1, 1, 1, true),
    KEPT(1, 64, 10, true),
    KEPT(7, 33, 65, true),
    KEPT(17, 130, 257, true),
    KEPT(1, 4096, 31, true),
    KEPT(33, 1024, 4096, false),
    KEPT(300, 257, 320, false),
    {&op_linear_fused, 5, 37, HM_ACT_NONE, false},
    {&op_linear_fused, 5, 37, HM_ACT_RELU, false},
    {&op_linear_fused, 33, 259, HM_ACT_GELU, false},
    {&op_block, 1, 3, 7, true},
    {&op_block, 33, 65, 130, true},
    {&op_block, 67, 12, 4099, false},
    {&op_dx_add, 1, 1, 1, false},
    {&op_dx_add, 33, 130, 65, false},
    {&op_layer_norm, 1, 5, 5, true},
    {&op_layer_norm, 1, 4096, 5, true},
    {&op_layer_norm, 7, 33, 3, true},
    {&op_layer_norm, 32, 4096, 5, true},
    {&op_layer_norm, 67, 4099, 5, true},
    {&op_activation, 1, 1, HM_ACT_NONE, true},
    {&op_activation, 1, 7, HM_ACT_RELU, true},
    {&op_activation, 67, 4099, HM_ACT_RELU, true},
    {&op_activation, 1, 7, HM_ACT_GELU, true},
    {&op_activation, 67, 4099, HM_ACT_GELU, true},
    {&op_softmax, 1, 1, 0, true},
    {&op_softmax, 1, 10, 0, true},
    {&op_softmax, 37, 131, 0, true},
    {&op_softmax, 32, 4096, 0, true},
    {&op_softmax, 67, 4099, 0, true},
    {&op_cross_entropy, 1, 10, 0, true},
    {&op_cross_entropy, 1, 4096, 0, true},
    {&op_cross_entropy, 33, 10, 0, true},
    {&op_cross_entropy, 257, 101, 0, true},
    {&op_add, 1, 1, 0, false},
    {&op_add, 67, 4099, 0, false},
    {&op_gather, 1, 1, 3, false},
    {&op_gather, 33, 4096, 0, false},
    {&op_gather, 67, 4099, 1, false},
    {&op_gather, 33, 4096, 2, false},
    {&op_gather, 7, 13, 3, false},
    {&op_coded, 1, 1, 0 << 2 | 3, false},
    {&op_coded, 67, 4099, 0 << 2 | 1, false},
    {&op_coded, 33, 4096, 1 << 2 | 2, false},
    {&op_coded, 7, 13, 2 << 2 | 3, false},
    {&op_coded, 1, 2, 3 << 2 | 0, false},
    {&op_coded, 67, 4099, 3 << 2 | 3, false},
    {&op_norm, 1, 1, 0, false},
    {&op_norm, 1, 1023, 0, false},
    {&op_norm, 67, 4099, 0, false},
    {&op_largest, 1, 1, 0, false},
    {&op_largest, 67, 4099, 0, false},
    {&op_zero, 1, 3, 0, false},
    {&op_zero, 301, 4096, 0, false},
    {&op_sgd, 1, 1, 0, false},
    {&op_sgd, 1, 1, 1, false},
    {&op_sgd, 67, 4099, 0, false},
    {&op_sgd, 67, 4099, 1, false},
    {&op_adam, 1, 1, 1, false},
    {&op_adam, 1, 1023, 2, false},
    {&op_adam, 67, 4099, 1000, false},
};
const unsigned op_case_count = HM_COUNT_OF(op_cases);
