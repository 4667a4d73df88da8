/* The list of op cases.  The references are loops over double that say what an op means, and
 * nothing else. */
#include "support_ops.h"

#include "base/assert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct hm_device_ops *ops(struct hm_stream *s)
{
    return s->device->ops;
}

/* ---- linear: x [rows, columns], w [option, columns], bias [option] --------------------------- */

static void linear_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){
        3, {{c->rows, c->columns}, {c->option, c->columns}, {1, c->option}}, {c->rows, c->option}};
}

static void linear_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t o = 0; o < c->option; o++) {
            double sum = in[2][o];
            const double *x = in[0] + (size_t)r * c->columns, *w = in[1] + (size_t)o * c->columns;
            for (uint32_t k = 0; k < c->columns; k++) sum += x[k] * w[k];
            out[(size_t)r * c->option + o] = sum;
        }
    }
}

/* The weights of input 1 and the gradient of them as a device may keep them: in PyTorch's layout, in
 * its own, and there with a packed copy for products in bf16. */
enum kept { KEPT_DENSE, KEPT_PLACED, KEPT_ROUNDED, KEPT_LIBRARY };
struct kept_weights {
    struct hm_span data, gradient_data;
    struct hm_weights w, gradient;
};

static void copy_weights(struct hm_weights *to, const struct hm_weights *from)
{
    for (size_t o = 0; o < to->out; o++)
        for (size_t i = 0; i < to->in; i++)
            to->data[o * to->layout.out_stride + i * to->layout.in_stride] =
                from->data[o * from->layout.out_stride + i * from->layout.in_stride];
}

static enum hm_status keep(struct hm_stream *s, const struct hm_tensor *dense, enum kept how,
                           struct kept_weights *kept)
{
    struct hm_weights from = hm_weights_dense(hm_f32(dense), hm_rows(dense), hm_columns(dense));
    *kept = (struct kept_weights){.w = from};
    if (how != KEPT_DENSE) ops(s)->weights_layout(s->device, from.out, from.in, &kept->w.layout);
    size_t bytes = kept->w.layout.elements * sizeof(float);
    enum hm_status status = ops(s)->alloc(s->device, bytes, &kept->data);
    if (status == HM_OK) status = ops(s)->alloc(s->device, bytes, &kept->gradient_data);
    if (status != HM_OK) return status;
    kept->gradient = kept->w;
    kept->w.data = kept->data.base;
    kept->gradient.data = kept->gradient_data.base;
    copy_weights(&kept->w, &from);
    if (how < KEPT_ROUNDED) return HM_OK;
    status =
        hm_device_cpu_set_bf16(s->device, how == KEPT_LIBRARY ? HM_BF16_LIBRARY : HM_BF16_ROUNDED);
    if (status == HM_OK) status = ops(s)->pack_create(s->device, &kept->w, &kept->w.packed);
    return status;
}

static void let_go(struct hm_stream *s, struct kept_weights *kept)
{
    ops(s)->pack_destroy(s->device, kept->w.packed);
    ops(s)->free(s->device, &kept->data);
    ops(s)->free(s->device, &kept->gradient_data);
}

static enum hm_status linear_run(struct hm_stream *s, const struct hm_tensor *in, enum kept how,
                                 struct hm_tensor *out)
{
    struct kept_weights kept;
    const struct hm_epilogue epilogue = {.bias = &in[2]};
    enum hm_status status = keep(s, &in[1], how, &kept);
    if (status == HM_OK) status = ops(s)->linear(s, &in[0], &kept.w, &epilogue, out);
    let_go(s, &kept);
    return status;
}

/* Gradients of x, weights and bias; those of the dense weights are accumulated. */
static enum hm_status linear_run_back(struct hm_stream *s, const struct hm_tensor *in,
                                      enum kept how, const struct hm_tensor *dy,
                                      struct hm_tensor *gradient)
{
    struct kept_weights kept;
    struct hm_weights to =
        hm_weights_dense(hm_f32(&gradient[1]), hm_rows(&gradient[1]), hm_columns(&gradient[1]));
    enum hm_status status = keep(s, &in[1], how, &kept);
    copy_weights(&kept.gradient, &to); /* NaN, where it is to be written */
    if (status == HM_OK) status = ops(s)->linear_dx(s, dy, &kept.w, NULL, &gradient[0]);
    if (status == HM_OK)
        status = ops(s)->linear_dw(s, &in[0], dy, &kept.w, how == KEPT_DENSE, &kept.gradient,
                                   &gradient[2]);
    copy_weights(&to, &kept.gradient);
    let_go(s, &kept);
    return status;
}

#define LINEAR_AS(NAME, KEPT)                                                                      \
    static enum hm_status NAME##_forward(struct hm_stream *s, const struct op_case *c,             \
                                         const struct hm_tensor *in, struct hm_tensor *out)        \
    {                                                                                              \
        (void)c;                                                                                   \
        return linear_run(s, in, KEPT, out);                                                       \
    }                                                                                              \
    static enum hm_status NAME##_backward(struct hm_stream *s, const struct op_case *c,            \
                                          const struct hm_tensor *in, const struct hm_tensor *out, \
                                          const struct hm_tensor *dy, struct hm_tensor *gradient)  \
    {                                                                                              \
        (void)c, (void)out;                                                                        \
        return linear_run_back(s, in, KEPT, dy, gradient);                                         \
    }
LINEAR_AS(dense, KEPT_DENSE)
LINEAR_AS(placed, KEPT_PLACED)
LINEAR_AS(rounded, KEPT_ROUNDED)
LINEAR_AS(library, KEPT_LIBRARY)

static const struct op linear = {
    .name = "linear",
    .shape = linear_shape,
    .reference = linear_reference,
    .forward = dense_forward,
    .backward = dense_backward,
    .accumulates = 1u << 1 | 1u << 2,
    .error_max = 1e-11,
    .gradient_error_max = 1e-10,
};

static const struct op linear_placed = {
    .name = "linear, its layout",
    .shape = linear_shape,
    .reference = linear_reference,
    .forward = placed_forward,
    .backward = placed_backward,
    .error_max = 1e-11,
    .gradient_error_max = 1e-10,
};

/* Against the function without any rounding: two factors of 2^-9 each, at most. */
static const struct op linear_rounded = {
    .name = "linear bf16, rounded",
    .shape = linear_shape,
    .reference = linear_reference,
    .forward = rounded_forward,
    .backward = rounded_backward,
    .error_max = 1e-5,
    .gradient_error_max = 1e-5,
};

static bool library_is_there(struct hm_device *device, const char **why)
{
    *why = "oneDNN has no products in bf16 on this CPU";
    return hm_device_cpu_set_bf16(device, HM_BF16_LIBRARY) == HM_OK;
}

static const struct op linear_library = {
    .name = "linear bf16, oneDNN",
    .there = library_is_there,
    .shape = linear_shape,
    .reference = linear_reference,
    .forward = library_forward,
    .backward = library_backward,
    .error_max = 1e-5,
    .gradient_error_max = 1e-5,
};

/* An activation as the epilogue, without bias; columns out are as many as in. */
static void fused_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){
        2, {{c->rows, c->columns}, {c->columns, c->columns}}, {c->rows, c->columns}};
}

static double act_value(enum hm_activation act, double x)
{
    switch (act) {
    case HM_ACT_RELU: return x > 0.0 ? x : 0.0;
    case HM_ACT_GELU: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case HM_ACT_NONE: break;
    }
    return x;
}

static void fused_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t o = 0; o < c->columns; o++) {
            double sum = 0.0;
            for (uint32_t k = 0; k < c->columns; k++)
                sum += in[0][(size_t)r * c->columns + k] * in[1][(size_t)o * c->columns + k];
            out[(size_t)r * c->columns + o] = act_value((enum hm_activation)c->option, sum);
        }
    }
}

static enum hm_status fused_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->columns, c->columns);
    const struct hm_epilogue epilogue = {.act = (enum hm_activation)c->option};
    return ops(s)->linear(s, &in[0], &w, &epilogue, out);
}

static const struct op linear_fused = {
    .name = "linear+act",
    .shape = fused_shape,
    .reference = fused_reference,
    .forward = fused_forward,
    .error_max = 1e-11,
};

/* The whole epilogue: ReLU(LN(x w^T + bias + add)); x, w, bias, add, scale, shift; the gradient comes
 * back through the ReLU's zeros. */
static void block_shape(const struct op_case *c, struct op_shape *shape)
{
    struct op_matrix vector = {1, c->option}, out = {c->rows, c->option};
    *shape = (struct op_shape){
        6, {{c->rows, c->columns}, {c->option, c->columns}, vector, out, vector, vector}, out};
}

static void block_reference(const struct op_case *c, const double *const *in, double *out)
{
    linear_reference(c, in, out);
    for (uint32_t r = 0; r < c->rows; r++) {
        double *row = out + (size_t)r * c->option, mean = 0.0, variance = 0.0;
        for (uint32_t k = 0; k < c->option; k++) row[k] += in[3][(size_t)r * c->option + k];
        for (uint32_t k = 0; k < c->option; k++) mean += row[k] / c->option;
        for (uint32_t k = 0; k < c->option; k++)
            variance += (row[k] - mean) * (row[k] - mean) / c->option;
        for (uint32_t k = 0; k < c->option; k++)
            row[k] = act_value(HM_ACT_RELU,
                               (row[k] - mean) / sqrt(variance + 1e-5) * in[4][k] + in[5][k]);
    }
}

/* What forward leaves for backward. */
struct block {
    struct hm_span span;
    struct hm_tensor a, stats;
};

static enum hm_status block_run(struct hm_stream *s, const struct op_case *c,
                                const struct hm_tensor *in, struct hm_tensor *out, struct block *b)
{
    size_t count = (size_t)c->rows * c->option;
    enum hm_status status =
        ops(s)->alloc(s->device, (count + 2 * (size_t)c->rows) * sizeof(float), &b->span);
    if (status != HM_OK) return status;
    b->a = hm_matrix_f32(b->span.base, c->rows, c->option);
    b->stats = hm_matrix_f32((float *)b->span.base + count, c->rows, 2);
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->option, c->columns);
    const struct hm_norm norm = {&in[4], &in[5], 1e-5f, &b->stats, out};
    const struct hm_epilogue epilogue = {&in[2], &in[3], &norm, HM_ACT_RELU};
    return ops(s)->linear(s, &in[0], &w, &epilogue, &b->a);
}

static enum hm_status block_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    struct block b;
    enum hm_status status = block_run(s, c, in, out, &b);
    ops(s)->free(s->device, &b.span);
    return status;
}

static enum hm_status block_backward(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, const struct hm_tensor *out,
                                     const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    struct block b;
    struct hm_tensor again = *out;
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->option, c->columns);
    struct hm_weights dw = hm_weights_dense(hm_f32(&gradient[1]), c->option, c->columns);
    enum hm_status status = block_run(s, c, in, &again, &b);
    if (status == HM_OK)
        status = ops(s)->layer_norm_grad(s, &b.a, &b.stats, &in[4], out, dy, false, &gradient[3],
                                         &gradient[4], &gradient[5]);
    if (status == HM_OK) status = ops(s)->linear_dx(s, &gradient[3], &w, NULL, &gradient[0]);
    if (status == HM_OK)
        status = ops(s)->linear_dw(s, &in[0], &gradient[3], &w, false, &dw, &gradient[2]);
    ops(s)->free(s->device, &b.span);
    return status;
}

static const struct op block = {
    .name = "ReLU(LN(linear))",
    .shape = block_shape,
    .reference = block_reference,
    .forward = block_forward,
    .backward = block_backward,
    .error_max = 1e-11,
    .gradient_error_max = 1e-6,
};

/* dx and what is added to it; option columns out, as in linear */
static void dx_add_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape =
        (struct op_shape){3,
                          {{c->rows, c->option}, {c->option, c->columns}, {c->rows, c->columns}},
                          {c->rows, c->columns}};
}

static void dx_add_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t k = 0; k < c->columns; k++) {
            double sum = in[2][(size_t)r * c->columns + k];
            for (uint32_t o = 0; o < c->option; o++)
                sum += in[0][(size_t)r * c->option + o] * in[1][(size_t)o * c->columns + k];
            out[(size_t)r * c->columns + k] = sum;
        }
    }
}

static enum hm_status dx_add_forward(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, struct hm_tensor *out)
{
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->option, c->columns);
    return ops(s)->linear_dx(s, &in[0], &w, &in[2], out);
}

static const struct op dx_add = {
    .name = "linear_dx+add",
    .shape = dx_add_shape,
    .reference = dx_add_reference,
    .forward = dx_add_forward,
    .error_max = 1e-11,
};

/* ---- layer norm: x [rows, columns], scale, shift; epsilon 10^-option ------------------------- */

static void layer_norm_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){
        3, {{c->rows, c->columns}, {1, c->columns}, {1, c->columns}}, {c->rows, c->columns}};
}

static void layer_norm_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        const double *x = in[0] + (size_t)r * c->columns;
        double mean = 0.0, variance = 0.0;
        for (uint32_t k = 0; k < c->columns; k++) mean += x[k] / c->columns;
        for (uint32_t k = 0; k < c->columns; k++)
            variance += (x[k] - mean) * (x[k] - mean) / c->columns;
        double inverse = 1.0 / sqrt(variance + pow(10.0, -(double)c->option));
        for (uint32_t k = 0; k < c->columns; k++)
            out[(size_t)r * c->columns + k] = (x[k] - mean) * inverse * in[1][k] + in[2][k];
    }
}

static float layer_norm_epsilon(const struct op_case *c)
{
    return powf(10.0f, -(float)c->option);
}

/* The statistics of the rows of x go to `stats`, which is allocated here. */
static enum hm_status layer_norm_run(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, struct hm_tensor *out,
                                     struct hm_span *span, struct hm_tensor *stats)
{
    enum hm_status status = ops(s)->alloc(s->device, (size_t)c->rows * 2 * sizeof(float), span);
    if (status != HM_OK) return status;
    *stats = hm_matrix_f32(span->base, c->rows, 2);
    return ops(s)->layer_norm(s, &in[0], &in[1], &in[2], layer_norm_epsilon(c), out, stats);
}

static enum hm_status layer_norm_forward(struct hm_stream *s, const struct op_case *c,
                                         const struct hm_tensor *in, struct hm_tensor *out)
{
    struct hm_span span;
    struct hm_tensor stats;
    enum hm_status status = layer_norm_run(s, c, in, out, &span, &stats);
    ops(s)->free(s->device, &span);
    return status;
}

static enum hm_status layer_norm_backward(struct hm_stream *s, const struct op_case *c,
                                          const struct hm_tensor *in, const struct hm_tensor *out,
                                          const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    struct hm_span span;
    struct hm_tensor stats, again = *out;
    enum hm_status status = layer_norm_run(s, c, in, &again, &span, &stats);
    if (status == HM_OK)
        status = ops(s)->layer_norm_grad(s, &in[0], &stats, &in[1], NULL, dy, true, &gradient[0],
                                         &gradient[1], &gradient[2]);
    ops(s)->free(s->device, &span);
    return status;
}

static const struct op layer_norm = {
    .name = "layer_norm",
    .shape = layer_norm_shape,
    .reference = layer_norm_reference,
    .forward = layer_norm_forward,
    .backward = layer_norm_backward,
    .accumulates = 1u << 1 | 1u << 2,
    .error_max = 1e-11,
    .gradient_error_max = 1e-8,
};

/* ---- activation: x [rows, columns], act option ----------------------------------------------- */

static void unary_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {c->rows, c->columns}};
}

/* Away from the kink of ReLU, where a finite difference means nothing. */
static float off_zero(struct hm_rng *rng, unsigned input)
{
    (void)input;
    float x = 3.0f * hm_rng_normal(rng);
    return x < 0.0f ? x - 0.01f : x + 0.01f;
}

static void activation_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++)
        out[i] = act_value((enum hm_activation)c->option, in[0][i]);
}

static enum hm_status activation_forward(struct hm_stream *s, const struct op_case *c,
                                         const struct hm_tensor *in, struct hm_tensor *out)
{
    return ops(s)->activation(s, (enum hm_activation)c->option, &in[0], out);
}

static enum hm_status activation_backward(struct hm_stream *s, const struct op_case *c,
                                          const struct hm_tensor *in, const struct hm_tensor *out,
                                          const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    /* of ReLU the output will do as well */
    const struct hm_tensor *x = c->option == HM_ACT_RELU && c->rows > 1 ? out : &in[0];
    return ops(s)->activation_grad(s, (enum hm_activation)c->option, x, dy, &gradient[0]);
}

static const struct op activation = {
    .name = "activation",
    .shape = unary_shape,
    .draw = off_zero,
    .reference = activation_reference,
    .forward = activation_forward,
    .backward = activation_backward,
    .error_max = 1e-12,
    .gradient_error_max = 1e-10,
};

/* ---- softmax, cross entropy ------------------------------------------------------------------ */

static float spread_logits(struct hm_rng *rng, unsigned input)
{
    (void)input;
    return 2.0f * hm_rng_normal(rng);
}

/* out = softmax(x), for one row of n; returns the log of the sum that it is divided by. */
static double softmax_row(const double *x, double *out, uint32_t n)
{
    double max = x[0], sum = 0.0;
    for (uint32_t k = 1; k < n; k++) max = x[k] > max ? x[k] : max;
    for (uint32_t k = 0; k < n; k++) sum += exp(x[k] - max);
    for (uint32_t k = 0; k < n && out; k++) out[k] = exp(x[k] - max) / sum;
    return max + log(sum);
}

static void softmax_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++)
        softmax_row(in[0] + (size_t)r * c->columns, out + (size_t)r * c->columns, c->columns);
}

static enum hm_status softmax_forward(struct hm_stream *s, const struct op_case *c,
                                      const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)c;
    return ops(s)->softmax(s, &in[0], out);
}

static enum hm_status softmax_backward(struct hm_stream *s, const struct op_case *c,
                                       const struct hm_tensor *in, const struct hm_tensor *out,
                                       const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    (void)c, (void)in;
    return ops(s)->softmax_grad(s, out, dy, &gradient[0]);
}

static const struct op softmax = {
    .name = "softmax",
    .shape = unary_shape,
    .draw = spread_logits,
    .reference = softmax_reference,
    .forward = softmax_forward,
    .backward = softmax_backward,
    .error_max = 1e-11,
    .gradient_error_max = 1e-8,
};

static int64_t label_of(const struct op_case *c, uint32_t row)
{
    return (int64_t)(((uint64_t)row * 7919u + 3u) % c->columns);
}

static void cross_entropy_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {1, 1}};
}

static void cross_entropy_reference(const struct op_case *c, const double *const *in, double *out)
{
    *out = 0.0;
    for (uint32_t r = 0; r < c->rows; r++) {
        const double *row = in[0] + (size_t)r * c->columns;
        *out += (softmax_row(row, NULL, c->columns) - row[label_of(c, r)]) / c->rows;
    }
}

/* Loss to *loss; its gradient times `scale` to dlogits (NULL: to nowhere). */
static enum hm_status cross_entropy_run(struct hm_stream *s, const struct op_case *c,
                                        const struct hm_tensor *logits, float scale, float *loss,
                                        struct hm_tensor *dlogits)
{
    struct hm_span span = {0};
    size_t count = (size_t)c->rows * c->columns;
    enum hm_status status =
        ops(s)->alloc(s->device, count * sizeof(float) + c->rows * sizeof(int64_t), &span);
    if (status != HM_OK) return status;
    int64_t *label = span.base; /* first: they are aligned to 8 bytes */
    for (uint32_t r = 0; r < c->rows; r++) label[r] = label_of(c, r);
    struct hm_tensor nowhere =
        hm_matrix_f32((float *)(void *)(label + c->rows), c->rows, c->columns);
    status = ops(s)->cross_entropy(s, logits, label, scale, loss, dlogits ? dlogits : &nowhere);
    ops(s)->free(s->device, &span);
    return status;
}

static enum hm_status cross_entropy_forward(struct hm_stream *s, const struct op_case *c,
                                            const struct hm_tensor *in, struct hm_tensor *out)
{
    return cross_entropy_run(s, c, &in[0], 1.0f, hm_f32(out), NULL);
}

static enum hm_status cross_entropy_backward(struct hm_stream *s, const struct op_case *c,
                                             const struct hm_tensor *in,
                                             const struct hm_tensor *out,
                                             const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    (void)out;
    float loss;
    return cross_entropy_run(s, c, &in[0], hm_f32(dy)[0], &loss, &gradient[0]);
}

static const struct op cross_entropy = {
    .name = "cross_entropy",
    .shape = cross_entropy_shape,
    .draw = spread_logits,
    .reference = cross_entropy_reference,
    .forward = cross_entropy_forward,
    .backward = cross_entropy_backward,
    .error_max = 1e-12,
    .gradient_error_max = 1e-8,
};

/* ---- ops whose gradient is another op, or none ----------------------------------------------- */

static void add_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape =
        (struct op_shape){2, {{c->rows, c->columns}, {c->rows, c->columns}}, {c->rows, c->columns}};
}

static void add_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++) out[i] = in[0][i] + in[1][i];
}

static enum hm_status add_forward(struct hm_stream *s, const struct op_case *c,
                                  const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)c;
    return ops(s)->add(s, &in[0], &in[1], out);
}

static const struct op add = {
    .name = "add",
    .shape = add_shape,
    .reference = add_reference,
    .forward = add_forward,
    .error_max = 1e-14,
};

/* gather: option bit 0: with an index (each second row from the end), bit 1: with a scale (input
 * 1) */
static uint32_t gather_index(const struct op_case *c, uint32_t row)
{
    return c->option & 1 ? (2 * c->rows - 1 - 2 * row) % (2 * c->rows) : row;
}

static void gather_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){2, {{2 * c->rows, c->columns}, {c->rows, 1}}, {c->rows, c->columns}};
}

static void gather_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        const double *row = in[0] + (size_t)gather_index(c, r) * c->columns;
        for (uint32_t k = 0; k < c->columns; k++)
            out[(size_t)r * c->columns + k] = row[k] * (c->option & 2 ? in[1][r] : 1.0);
    }
}

static enum hm_status gather_forward(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, struct hm_tensor *out)
{
    struct hm_span span;
    enum hm_status status = ops(s)->alloc(s->device, c->rows * sizeof(uint32_t), &span);
    if (status != HM_OK) return status;
    uint32_t *index = span.base;
    for (uint32_t r = 0; r < c->rows; r++) index[r] = gather_index(c, r);
    status = ops(s)->gather(s, &in[0], c->option & 1 ? index : NULL,
                            c->option & 2 ? hm_f32(&in[1]) : NULL, out);
    ops(s)->free(s->device, &span);
    return status;
}

static const struct op gather = {
    .name = "gather",
    .shape = gather_shape,
    .reference = gather_reference,
    .forward = gather_forward,
    .error_max = 1e-14,
};

/* Coded rows, encoded and decoded again; option: as gather's, and the codec's id above.  Before that,
 * with one value that is not finite, they are found out: by encode, or (where rows stay f32) by decode. */
static enum hm_status coded_both(struct hm_stream *s, const struct op_case *c,
                                 const struct hm_tensor *in, void *coded, const uint32_t *index,
                                 struct hm_tensor *out)
{
    const struct hm_codec *codec = hm_codec_find((uint8_t)(c->option >> 2));
    size_t second_half = c->rows * hm_codec_row_bytes(codec, c->columns);
    float *value = hm_f32(&in[0]) + (size_t)c->rows * c->columns, kept = *value;
    bool finite = true;
    *value = INFINITY;
    enum hm_status status = ops(s)->encode(s, codec, &in[0], coded, &finite);
    if (status == HM_OK && finite)
        status = ops(s)->decode(s, codec, (char *)coded + second_half, NULL, NULL, out, &finite);
    if (status == HM_OK && finite) status = HM_ERR_NUMERIC;
    *value = kept;
    if (status == HM_OK) status = ops(s)->encode(s, codec, &in[0], coded, &finite);
    if (status == HM_OK && !finite) status = HM_ERR_NUMERIC;
    if (status == HM_OK)
        status = ops(s)->decode(s, codec, coded, c->option & 1 ? index : NULL,
                                c->option & 2 ? hm_f32(&in[1]) : NULL, out, &finite);
    return status == HM_OK && !finite ? HM_ERR_NUMERIC : status;
}

static enum hm_status coded_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    struct hm_span index, rows;
    enum hm_status status = ops(s)->alloc(s->device, c->rows * sizeof(uint32_t), &index);
    if (status != HM_OK) return status;
    for (uint32_t r = 0; r < c->rows; r++) ((uint32_t *)index.base)[r] = gather_index(c, r);
    status = ops(s)->alloc(s->device, 2 * (size_t)c->rows * c->columns * sizeof(float), &rows);
    if (status == HM_OK) {
        status = coded_both(s, c, in, rows.base, index.base, out);
        ops(s)->free(s->device, &rows);
    }
    ops(s)->free(s->device, &index);
    return status;
}

static const struct op coded = {
    .name = "coded",
    .shape = gather_shape,
    .reference = gather_reference,
    .forward = coded_forward,
    .error_max = 1e-4, /* 1 % squared */
};

static void norm_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {1, 2}};
}

/* Far apart: a sum of squares in f32 would lose the small ones or overflow. */
static float wide_range(struct hm_rng *rng, unsigned input)
{
    (void)input;
    return hm_rng_normal(rng) * (hm_rng_below(rng, 4) ? 1.0f : 1e25f);
}

static void norm_reference(const struct op_case *c, const double *const *in, double *out)
{
    double sum = 0.0;
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++) sum += in[0][i] * in[0][i];
    out[0] = sqrt(sum);
    out[1] = 1.0; /* finite */
}

static enum hm_status norm_forward(struct hm_stream *s, const struct op_case *c,
                                   const struct hm_tensor *in, struct hm_tensor *out)
{
    double norm;
    bool finite;
    enum hm_status status =
        ops(s)->norm(s, hm_f32(&in[0]), (size_t)c->rows * c->columns, &norm, &finite);
    hm_f32(out)[0] = (float)norm;
    hm_f32(out)[1] = finite;
    return status;
}

static const struct op norm = {
    .name = "norm",
    .shape = norm_shape,
    .draw = wide_range,
    .reference = norm_reference,
    .forward = norm_forward,
    .error_max = 1e-12,
};

static void largest_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){1, {{c->rows, c->columns}}, {1, 1}};
}

static void largest_reference(const struct op_case *c, const double *const *in, double *out)
{
    out[0] = 0.0;
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++) out[0] = fmax(out[0], fabs(in[0][i]));
}

static enum hm_status largest_forward(struct hm_stream *s, const struct op_case *c,
                                      const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)c;
    return ops(s)->largest(s, &in[0], hm_f32(out));
}

static const struct op largest = {
    .name = "largest",
    .shape = largest_shape,
    .draw = wide_range,
    .reference = largest_reference,
    .forward = largest_forward,
    .error_max = 0.0,
};

static void zero_reference(const struct op_case *c, const double *const *in, double *out)
{
    (void)in;
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++) out[i] = 0.0;
}

static enum hm_status zero_forward(struct hm_stream *s, const struct op_case *c,
                                   const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)in;
    return ops(s)->zero(s, hm_f32(out), (size_t)c->rows * c->columns * sizeof(float));
}

static const struct op zero = {
    .name = "zero",
    .shape = unary_shape,
    .reference = zero_reference,
    .forward = zero_forward,
    .error_max = 0.0,
};

/* ---- optimizers: param, grad, and slots [rows, columns]; out: what they become -- */

static const double rate = 1e-2, decay = 0.1, gradient_scale = 0.5, momentum = 0.9;

static void sgd_shape(const struct op_case *c, struct op_shape *shape)
{
    struct op_matrix m = {c->rows, c->columns};
    *shape = (struct op_shape){3, {m, m, m}, {c->option ? 2 * c->rows : c->rows, c->columns}};
}

static void sgd_reference(const struct op_case *c, const double *const *in, double *out)
{
    size_t count = (size_t)c->rows * c->columns;
    for (size_t i = 0; i < count; i++) {
        double g = gradient_scale * in[1][i] + decay * in[0][i];
        if (c->option) g = out[count + i] = momentum * in[2][i] + g;
        out[i] = in[0][i] - rate * g;
    }
}

static enum hm_status sgd_forward(struct hm_stream *s, const struct op_case *c,
                                  const struct hm_tensor *in, struct hm_tensor *out)
{
    size_t count = (size_t)c->rows * c->columns;
    float *param = hm_f32(out), *velocity = c->option ? param + count : NULL;
    memcpy(param, hm_f32(&in[0]), count * sizeof *param);
    if (velocity) memcpy(velocity, hm_f32(&in[2]), count * sizeof *velocity);
    const struct hm_update update = {
        .count = count, .param = param, .grad = hm_f32(&in[1]), .slot = {velocity}};
    return ops(s)->sgd(s, (float)rate, (float)momentum, (float)decay, (float)gradient_scale,
                       &update, 1);
}

static const struct op sgd = {
    .name = "sgd",
    .shape = sgd_shape,
    .reference = sgd_reference,
    .forward = sgd_forward,
    .error_max = 1e-13,
};

static void adam_shape(const struct op_case *c, struct op_shape *shape)
{
    struct op_matrix m = {c->rows, c->columns};
    *shape = (struct op_shape){4, {m, m, m, m}, {3 * c->rows, c->columns}};
}

/* The second moment is never negative. */
static float adam_draw(struct hm_rng *rng, unsigned input)
{
    float x = hm_rng_normal(rng);
    return input == 3 ? x * x : x;
}

/* Kingma & Ba 2015, algorithm 1, with the decoupled decay of Loshchilov & Hutter 2019, algorithm
 * 2. */
static void adam_reference(const struct op_case *c, const double *const *in, double *out)
{
    size_t count = (size_t)c->rows * c->columns;
    double beta1 = (double)0.9f, beta2 = (double)0.999f, epsilon = 1e-8;
    for (size_t i = 0; i < count; i++) {
        double g = gradient_scale * in[1][i];
        double m = beta1 * in[2][i] + (1.0 - beta1) * g,
               v = beta2 * in[3][i] + (1.0 - beta2) * g * g;
        double m_hat = m / (1.0 - pow(beta1, c->option)), v_hat = v / (1.0 - pow(beta2, c->option));
        out[i] = in[0][i] - rate * decay * in[0][i] - rate * m_hat / (sqrt(v_hat) + epsilon);
        out[count + i] = m;
        out[2 * count + i] = v;
    }
}

static enum hm_status adam_forward(struct hm_stream *s, const struct op_case *c,
                                   const struct hm_tensor *in, struct hm_tensor *out)
{
    const struct hm_adam conf = {0.9f, 0.999f, 1e-8f, (float)decay};
    size_t count = (size_t)c->rows * c->columns;
    float *param = hm_f32(out), *m = param + count, *v = m + count;
    memcpy(param, hm_f32(&in[0]), count * sizeof *param);
    memcpy(m, hm_f32(&in[2]), count * sizeof *m);
    memcpy(v, hm_f32(&in[3]), count * sizeof *v);
    /* in two arrays, of which one may be empty */
    size_t half = count / 2;
    const float *grad = hm_f32(&in[1]);
    const struct hm_update updates[] = {
        {.count = half, .param = param, .grad = grad, .slot = {m, v}},
        {.count = count - half,
         .param = param + half,
         .grad = grad + half,
         .slot = {m + half, v + half}},
    };
    return ops(s)->adam(s, &conf, c->option, (float)rate, (float)gradient_scale, updates, 2);
}

static const struct op adam = {
    .name = "adam",
    .shape = adam_shape,
    .draw = adam_draw,
    .reference = adam_reference,
    .forward = adam_forward,
    .error_max = 1e-12,
};

/* ---- the cases: 1 row, odd sizes, 4096 columns; 67 x 4099 is shared by a team ---------------- */

const struct op_case op_cases[] = {
    {&linear, 1, 1, 1, true},
    {&linear, 1, 64, 10, true},
    {&linear, 7, 33, 65, true},
    {&linear, 32, 128, 17, true},
    {&linear, 1, 4096, 31, true},
    {&linear, 32, 1024, 4096, false},
    {&linear, 300, 257, 129, false},
    {&linear_placed, 1, 1, 1, true},
    {&linear_placed, 1, 64, 10, true},
    {&linear_placed, 7, 33, 65, true},
    {&linear_placed, 17, 130, 257, true},
    {&linear_placed, 1, 4096, 31, true},
    {&linear_placed, 33, 1024, 4096, false},
    {&linear_placed, 300, 257, 320, false},
    {&linear_rounded, 1, 1, 1, true},
    {&linear_rounded, 1, 64, 10, true},
    {&linear_rounded, 7, 33, 65, true},
    {&linear_rounded, 17, 130, 257, true},
    {&linear_rounded, 1, 4096, 31, true},
    {&linear_rounded, 33, 1024, 4096, false},
    {&linear_rounded, 300, 257, 320, false},
    {&linear_library, 1, 1, 1, true},
    {&linear_library, 1, 64, 10, true},
    {&linear_library, 7, 33, 65, true},
    {&linear_library, 17, 130, 257, true},
    {&linear_library, 1, 4096, 31, true},
    {&linear_library, 33, 1024, 4096, false},
    {&linear_library, 300, 257, 320, false},
    {&linear_fused, 5, 37, HM_ACT_NONE, false},
    {&linear_fused, 5, 37, HM_ACT_RELU, false},
    {&linear_fused, 33, 259, HM_ACT_GELU, false},
    {&block, 1, 3, 7, true},
    {&block, 33, 65, 130, true},
    {&block, 67, 12, 4099, false},
    {&dx_add, 1, 1, 1, false},
    {&dx_add, 33, 130, 65, false},
    {&layer_norm, 1, 5, 5, true},
    {&layer_norm, 1, 4096, 5, true},
    {&layer_norm, 7, 33, 3, true},
    {&layer_norm, 32, 4096, 5, true},
    {&layer_norm, 67, 4099, 5, true},
    {&activation, 1, 1, HM_ACT_NONE, true},
    {&activation, 1, 7, HM_ACT_RELU, true},
    {&activation, 67, 4099, HM_ACT_RELU, true},
    {&activation, 1, 7, HM_ACT_GELU, true},
    {&activation, 67, 4099, HM_ACT_GELU, true},
    {&softmax, 1, 1, 0, true},
    {&softmax, 1, 10, 0, true},
    {&softmax, 37, 131, 0, true},
    {&softmax, 32, 4096, 0, true},
    {&softmax, 67, 4099, 0, true},
    {&cross_entropy, 1, 10, 0, true},
    {&cross_entropy, 1, 4096, 0, true},
    {&cross_entropy, 33, 10, 0, true},
    {&cross_entropy, 257, 101, 0, true},
    {&add, 1, 1, 0, false},
    {&add, 67, 4099, 0, false},
    {&gather, 1, 1, 3, false},
    {&gather, 33, 4096, 0, false},
    {&gather, 67, 4099, 1, false},
    {&gather, 33, 4096, 2, false},
    {&gather, 7, 13, 3, false},
    {&coded, 1, 1, 0 << 2 | 3, false},
    {&coded, 67, 4099, 0 << 2 | 1, false},
    {&coded, 33, 4096, 1 << 2 | 2, false},
    {&coded, 7, 13, 2 << 2 | 3, false},
    {&coded, 1, 2, 3 << 2 | 0, false},
    {&coded, 67, 4099, 3 << 2 | 3, false},
    {&norm, 1, 1, 0, false},
    {&norm, 1, 1023, 0, false},
    {&norm, 67, 4099, 0, false},
    {&largest, 1, 1, 0, false},
    {&largest, 67, 4099, 0, false},
    {&zero, 1, 3, 0, false},
    {&zero, 301, 4096, 0, false},
    {&sgd, 1, 1, 0, false},
    {&sgd, 1, 1, 1, false},
    {&sgd, 67, 4099, 0, false},
    {&sgd, 67, 4099, 1, false},
    {&adam, 1, 1, 1, false},
    {&adam, 1, 1023, 2, false},
    {&adam, 67, 4099, 1000, false},
};
const unsigned op_case_count = HM_COUNT_OF(op_cases);
