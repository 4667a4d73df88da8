/* experts/kind_ffn.c - the reference's feed-forward block.
 *
 *   a1 = W0 x + b0      r1 = ReLU(LN1(a1))
 *   a2 = W3 r1 + b3     r2 = ReLU(LN4(a2))
 *   y  = x + W6 r2 + b6
 *
 * with hidden columns in x and y and 4 hidden in between; a parameter's number is its place in the
 * reference's torch.nn.Sequential, so that a state_dict has the same names.
 *
 * Source: hivemind 0.7.1, hivemind/server/layers.
 *
 * Scratch: five matrices of 4 hidden columns (a1, r1, a2, r2, and a gradient) and the statistics of
 * two layer norms. */
#include "experts/kinds.h"

#include "base/assert.h"
#include "base/rng.h"

#include <math.h>

enum { INNER = 4, HIDDEN_MAX = 8192 }; /* 8192: 1.6 G parameters */

/* Indices into plan->parameter. */
enum { W0, B0, LN1_SCALE, LN1_SHIFT, W3, B3, LN4_SCALE, LN4_SHIFT, W6, B6, PARAMETERS };

static const float layer_norm_epsilon = 1e-5f; /* PyTorch's default */

static void add_parameter(struct hm_plan *plan, const char *name, uint32_t rows, uint32_t columns)
{
    struct hm_parameter *parameter = &plan->parameter[plan->parameter_count++];
    parameter->name = name;
    parameter->shape = (struct hm_shape){.dim_count = columns ? 2 : 1, .dim = {rows, columns}};
    parameter->offset = plan->parameter_elements;
    plan->parameter_elements += (size_t)rows * (columns ? columns : 1);
}

static enum hm_status ffn_plan(const struct hm_expert_conf *conf, struct hm_plan *plan)
{
    uint32_t h = conf->hidden, inner = INNER * h;
    if (h == 0 || h > HIDDEN_MAX)
        return hm_fail(HM_ERR_INVALID, "hidden=%u is out of range for an ffn; use 1 to %d",
                       (unsigned)h, HIDDEN_MAX);
    *plan = (struct hm_plan){.input = hm_schema_f32(h), .output = hm_schema_f32(h)};
    add_parameter(plan, "ffn.0.weight", inner, h);
    add_parameter(plan, "ffn.0.bias", inner, 0);
    add_parameter(plan, "ffn.1.weight", inner, 0);
    add_parameter(plan, "ffn.1.bias", inner, 0);
    add_parameter(plan, "ffn.3.weight", inner, inner);
    add_parameter(plan, "ffn.3.bias", inner, 0);
    add_parameter(plan, "ffn.4.weight", inner, 0);
    add_parameter(plan, "ffn.4.bias", inner, 0);
    add_parameter(plan, "ffn.6.weight", h, inner);
    add_parameter(plan, "ffn.6.bias", h, 0);
    HM_ASSERT(plan->parameter_count == PARAMETERS);
    plan->scratch_bytes_per_row = (5 * (size_t)inner + 4) * sizeof(float);
    return HM_OK;
}

static void fill_uniform(struct hm_rng *rng, float bound, float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) x[i] = bound * (2.0f * hm_rng_uniform(rng) - 1.0f);
}

static void fill(float value, float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) x[i] = value;
}

/* As PyTorch: Linear's weight and bias uniform within 1 / sqrt(fan in), LayerNorm's ones and zeros.
 */
static void ffn_init(const struct hm_plan *plan, uint64_t seed, float *parameters)
{
    static const unsigned weights[] = {W0, W3, W6}, norms[] = {LN1_SCALE, LN4_SCALE};
    for (size_t i = 0; i < HM_COUNT_OF(weights); i++) {
        const struct hm_parameter *weight = &plan->parameter[weights[i]], *bias = weight + 1;
        uint32_t out = weight->shape.dim[0], in = weight->shape.dim[1];
        float bound = 1.0f / sqrtf((float)in);
        struct hm_rng rng;
        hm_rng_init(&rng, seed, i);
        fill_uniform(&rng, bound, parameters + weight->offset, (size_t)out * in);
        fill_uniform(&rng, bound, parameters + bias->offset, out);
    }
    for (size_t i = 0; i < HM_COUNT_OF(norms); i++) {
        const struct hm_parameter *scale = &plan->parameter[norms[i]], *shift = scale + 1;
        fill(1.0f, parameters + scale->offset, scale->shape.dim[0]);
        fill(0.0f, parameters + shift->offset, shift->shape.dim[0]);
    }
}

/* Parameter i of the flat array (parameters or their gradients) as a matrix; a vector is one row.
 */
static struct hm_tensor parameter(const struct hm_plan *plan, const float *flat, unsigned i)
{
    const struct hm_parameter *p = &plan->parameter[i];
    float *data =
        (float *)(uintptr_t)(flat +
                             p->offset); /* ops take inputs as const tensors over mutable memory */
    return p->shape.dim_count == 2 ? hm_matrix_f32(data, p->shape.dim[0], p->shape.dim[1])
                                   : hm_matrix_f32(data, 1, p->shape.dim[0]);
}

/* One batch: what forward leaves for backward, in the lane's scratch. */
struct pass {
    struct hm_stream *stream;
    const struct hm_device_ops *op;
    const struct hm_plan *plan;
    const float *parameters;
    struct hm_tensor a1, r1, a2, r2, gradient, stats1, stats2;
};

static void pass_init(struct pass *pass, struct hm_exec *exec, const struct hm_plan *plan,
                      const float *parameters, uint32_t rows)
{
    uint32_t inner = INNER * plan->input.row[0].dim[0];
    HM_ASSERT(exec->scratch.bytes >= rows * plan->scratch_bytes_per_row);
    float *at = exec->scratch.base;
    struct hm_tensor *matrices[] = {&pass->a1, &pass->r1, &pass->a2, &pass->r2, &pass->gradient};
    for (size_t i = 0; i < HM_COUNT_OF(matrices); i++, at += (size_t)rows * inner)
        *matrices[i] = hm_matrix_f32(at, rows, inner);
    pass->stats1 = hm_matrix_f32(at, rows, 2);
    pass->stats2 = hm_matrix_f32(at + 2 * (size_t)rows, rows, 2);
    pass->stream = exec->stream;
    pass->op = exec->device->ops;
    pass->plan = plan;
    pass->parameters = parameters;
}

/* a = W x + b;  r = ReLU(LN(a)), with W, b and LN's scale and shift at `first` and the three after
 * it */
static enum hm_status inner_forward(struct pass *pass, unsigned first, const struct hm_tensor *x,
                                    struct hm_tensor *a, struct hm_tensor *stats,
                                    struct hm_tensor *r)
{
    const struct hm_tensor w = parameter(pass->plan, pass->parameters, first);
    const struct hm_tensor b = parameter(pass->plan, pass->parameters, first + 1);
    const struct hm_tensor scale = parameter(pass->plan, pass->parameters, first + 2);
    const struct hm_tensor shift = parameter(pass->plan, pass->parameters, first + 3);
    enum hm_status status = pass->op->linear(pass->stream, x, &w, &b, HM_ACT_NONE, a);
    if (status == HM_OK)
        status =
            pass->op->layer_norm(pass->stream, a, &scale, &shift, layer_norm_epsilon, r, stats);
    if (status == HM_OK) status = pass->op->activation(pass->stream, HM_ACT_RELU, r, r);
    return status;
}

static enum hm_status hidden_forward(struct pass *pass, const struct hm_tensor *x)
{
    enum hm_status status = inner_forward(pass, W0, x, &pass->a1, &pass->stats1, &pass->r1);
    if (status == HM_OK)
        status = inner_forward(pass, W3, &pass->r1, &pass->a2, &pass->stats2, &pass->r2);
    return status;
}

static enum hm_status ffn_forward(struct hm_exec *exec, const struct hm_plan *plan,
                                  const float *parameters, const struct hm_tensor *x,
                                  struct hm_tensor *y)
{
    struct pass pass;
    pass_init(&pass, exec, plan, parameters, hm_rows(x));
    const struct hm_tensor w6 = parameter(plan, parameters, W6),
                           b6 = parameter(plan, parameters, B6);
    enum hm_status status = hidden_forward(&pass, x);
    if (status == HM_OK) status = pass.op->linear(pass.stream, &pass.r2, &w6, &b6, HM_ACT_NONE, y);
    if (status == HM_OK) status = pass.op->add(pass.stream, y, x, y);
    return status;
}

/* inner_forward's gradient: `gradient` holds d loss / dr and becomes d loss / da; x and dx are its
 * input and that one's gradient; parameters as in inner_forward. */
static enum hm_status inner_backward(struct pass *pass, unsigned first, const struct hm_tensor *x,
                                     const struct hm_tensor *a, const struct hm_tensor *stats,
                                     const struct hm_tensor *r, struct hm_tensor *gradient,
                                     struct hm_tensor *dx, float *dparameters)
{
    const struct hm_tensor w = parameter(pass->plan, pass->parameters, first);
    const struct hm_tensor scale = parameter(pass->plan, pass->parameters, first + 2);
    struct hm_tensor dw = parameter(pass->plan, dparameters, first),
                     db = parameter(pass->plan, dparameters, first + 1);
    struct hm_tensor dscale = parameter(pass->plan, dparameters, first + 2);
    struct hm_tensor dshift = parameter(pass->plan, dparameters, first + 3);
    struct hm_stream *s = pass->stream;
    enum hm_status status = pass->op->activation_grad(s, HM_ACT_RELU, r, gradient, gradient);
    if (status == HM_OK)
        status =
            pass->op->layer_norm_grad(s, a, stats, &scale, gradient, gradient, &dscale, &dshift);
    if (status == HM_OK) status = pass->op->linear_dw(s, x, gradient, &dw, &db);
    if (status == HM_OK) status = pass->op->linear_dx(s, gradient, &w, dx);
    return status;
}

static enum hm_status ffn_backward(struct hm_exec *exec, const struct hm_plan *plan,
                                   const float *parameters, const struct hm_tensor *x,
                                   const struct hm_tensor *dy, struct hm_tensor *dx,
                                   float *dparameters)
{
    struct pass pass;
    pass_init(&pass, exec, plan, parameters, hm_rows(x));
    const struct hm_tensor w6 = parameter(plan, parameters, W6);
    struct hm_tensor dw6 = parameter(plan, dparameters, W6), db6 = parameter(plan, dparameters, B6);
    struct hm_stream *s = pass.stream;
    enum hm_status status = hidden_forward(&pass, x);
    if (status == HM_OK) status = pass.op->linear_dw(s, &pass.r2, dy, &dw6, &db6);
    if (status == HM_OK) status = pass.op->linear_dx(s, dy, &w6, &pass.gradient);
    /* a2 has been read for the last time when its gradient is there: r1's gradient takes its place.
     */
    if (status == HM_OK)
        status = inner_backward(&pass, W3, &pass.r1, &pass.a2, &pass.stats2, &pass.r2,
                                &pass.gradient, &pass.a2, dparameters);
    if (status == HM_OK)
        status = inner_backward(&pass, W0, x, &pass.a1, &pass.stats1, &pass.r1, &pass.a2, dx,
                                dparameters);
    if (status == HM_OK) status = pass.op->add(s, dx, dy, dx);
    return status;
}

const struct hm_expert_kind hm_kind_ffn = {"ffn", ffn_plan, ffn_init, ffn_forward, ffn_backward};
