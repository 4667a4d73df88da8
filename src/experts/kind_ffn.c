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

/* A vector among the parameters, or among their gradients, as one row. */
static struct hm_tensor vector(const struct hm_weights *values, unsigned i)
{
    return hm_matrix_f32(values[i].data, 1, values[i].out);
}

/* One batch: what forward leaves for backward, in the lane's scratch. */
struct pass {
    struct hm_stream *stream;
    const struct hm_device_ops *op;
    const struct hm_weights *parameters;
    struct hm_tensor a1, r1, a2, r2, gradient, stats1, stats2;
    double bound; /* of all gradients so far */
};

static void pass_init(struct pass *pass, struct hm_exec *exec, const struct hm_plan *plan,
                      const struct hm_weights *parameters, uint32_t rows)
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
    pass->parameters = parameters;
    pass->bound = 0.0;
}

/* a = W x + b;  r = ReLU(LN(a)), with W, b and LN's scale and shift at `first` and the three after
 * it */
static enum hm_status inner_forward(struct pass *pass, unsigned first, const struct hm_tensor *x,
                                    struct hm_tensor *a, struct hm_tensor *stats,
                                    struct hm_tensor *r)
{
    const struct hm_tensor bias = vector(pass->parameters, first + 1),
                           scale = vector(pass->parameters, first + 2),
                           shift = vector(pass->parameters, first + 3);
    const struct hm_norm norm = {&scale, &shift, layer_norm_epsilon, stats, r};
    const struct hm_epilogue epilogue = {.bias = &bias, .norm = &norm, .act = HM_ACT_RELU};
    return pass->op->linear(pass->stream, x, &pass->parameters[first], &epilogue, a);
}

static enum hm_status hidden_forward(struct pass *pass, const struct hm_tensor *x)
{
    enum hm_status status = inner_forward(pass, W0, x, &pass->a1, &pass->stats1, &pass->r1);
    if (status == HM_OK)
        status = inner_forward(pass, W3, &pass->r1, &pass->a2, &pass->stats2, &pass->r2);
    return status;
}

static enum hm_status ffn_forward(struct hm_exec *exec, const struct hm_plan *plan,
                                  const struct hm_weights *parameters, const struct hm_tensor *x,
                                  struct hm_tensor *y)
{
    struct pass pass;
    pass_init(&pass, exec, plan, parameters, hm_rows(x));
    pass.r1 = pass.a1; /* nothing is kept for backward: half of the memory is touched */
    pass.r2 = pass.a2;
    const struct hm_tensor bias = vector(parameters, B6);
    const struct hm_epilogue epilogue = {.bias = &bias, .add = x};
    enum hm_status status = hidden_forward(&pass, x);
    if (status == HM_OK)
        status = pass.op->linear(pass.stream, &pass.r2, &parameters[W6], &epilogue, y);
    return status;
}

/* Gradients that are sums over the rows of products with dy: of at most `factor`, or of what `x`
 * (NULL: nothing) holds, in magnitude.  A rounding to bf16 adds less than 1 % to either. */
static enum hm_status note_bound(struct pass *pass, const struct hm_tensor *dy, double factor,
                                 const struct hm_tensor *x)
{
    float of_dy, of_x = 0.0f;
    enum hm_status status = pass->op->largest(pass->stream, dy, &of_dy);
    if (status == HM_OK && x) status = pass->op->largest(pass->stream, x, &of_x);
    if (status != HM_OK) return status;
    double bound = 1.02 * hm_rows(dy) * (double)of_dy * fmax(factor, (double)of_x);
    if (isnan(bound)) bound = INFINITY; /* zero times infinity, in the gradients as well */
    pass->bound = fmax(pass->bound, bound);
    return HM_OK;
}

/* Gradients of a linear layer's weights and bias, at `first` and after it. */
static enum hm_status linear_gradients(struct pass *pass, unsigned first, const struct hm_tensor *x,
                                       const struct hm_tensor *dy, struct hm_weights *gradients)
{
    struct hm_tensor dbias = vector(gradients, first + 1);
    enum hm_status status = note_bound(pass, dy, 1.0, x);
    if (status == HM_OK)
        status = pass->op->linear_dw(pass->stream, x, dy, &pass->parameters[first], false,
                                     &gradients[first], &dbias);
    return status;
}

/* inner_forward's gradient but for dx: `gradient` holds d loss / dr and becomes d loss / da; x is its
 * input; parameters as in inner_forward. */
static enum hm_status inner_backward(struct pass *pass, unsigned first, const struct hm_tensor *x,
                                     const struct hm_tensor *a, const struct hm_tensor *stats,
                                     const struct hm_tensor *r, struct hm_tensor *gradient,
                                     struct hm_weights *gradients)
{
    const struct hm_tensor scale = vector(pass->parameters, first + 2);
    struct hm_tensor dscale = vector(gradients, first + 2), dshift = vector(gradients, first + 3);
    /* of n normalised values, whose squares sum up to n at most */
    enum hm_status status = note_bound(pass, gradient, sqrt(hm_columns(a)), NULL);
    if (status == HM_OK)
        status = pass->op->layer_norm_grad(pass->stream, a, stats, &scale, r, gradient, false,
                                           gradient, &dscale, &dshift);
    if (status == HM_OK) status = linear_gradients(pass, first, x, gradient, gradients);
    return status;
}

static enum hm_status ffn_backward(struct hm_exec *exec, const struct hm_plan *plan,
                                   const struct hm_weights *parameters, const struct hm_tensor *x,
                                   const struct hm_tensor *dy, struct hm_tensor *dx,
                                   struct hm_weights *gradients, double *bound)
{
    struct pass pass;
    pass_init(&pass, exec, plan, parameters, hm_rows(x));
    struct hm_stream *s = pass.stream;
    enum hm_status status = hidden_forward(&pass, x);
    if (status == HM_OK) status = linear_gradients(&pass, W6, &pass.r2, dy, gradients);
    if (status == HM_OK) status = pass.op->linear_dx(s, dy, &parameters[W6], NULL, &pass.gradient);
    if (status == HM_OK)
        status = inner_backward(&pass, W3, &pass.r1, &pass.a2, &pass.stats2, &pass.r2,
                                &pass.gradient, gradients);
    /* a2 has been read for the last time: r1's gradient takes its place. */
    if (status == HM_OK)
        status = pass.op->linear_dx(s, &pass.gradient, &parameters[W3], NULL, &pass.a2);
    if (status == HM_OK)
        status =
            inner_backward(&pass, W0, x, &pass.a1, &pass.stats1, &pass.r1, &pass.a2, gradients);
    if (status == HM_OK) status = pass.op->linear_dx(s, &pass.a2, &parameters[W0], dy, dx);
    *bound = pass.bound;
    return status;
}

const struct hm_expert_kind hm_kind_ffn = {"ffn", ffn_plan, ffn_init, ffn_forward, ffn_backward};
