/* tests/conformance/experts/support_ops_rows.c - what is done to each row: layer norm, activations,
 * softmax, and the loss over it. */
#include "support_ops.h"

#include <math.h>

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
    enum hm_status status =
        op_calls(s)->alloc(s->device, (size_t)c->rows * 2 * sizeof(float), span);
    if (status != HM_OK) return status;
    *stats = hm_matrix_f32(span->base, c->rows, 2);
    return op_calls(s)->layer_norm(s, &in[0], &in[1], &in[2], layer_norm_epsilon(c), out, stats);
}

static enum hm_status layer_norm_forward(struct hm_stream *s, const struct op_case *c,
                                         const struct hm_tensor *in, struct hm_tensor *out)
{
    struct hm_span span;
    struct hm_tensor stats;
    enum hm_status status = layer_norm_run(s, c, in, out, &span, &stats);
    op_calls(s)->free(s->device, &span);
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
        status = op_calls(s)->layer_norm_grad(s, &in[0], &stats, &in[1], NULL, dy, true,
                                              &gradient[0], &gradient[1], &gradient[2]);
    op_calls(s)->free(s->device, &span);
    return status;
}

const struct op op_layer_norm = {
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
        out[i] = op_act_value((enum hm_activation)c->option, in[0][i]);
}

static enum hm_status activation_forward(struct hm_stream *s, const struct op_case *c,
                                         const struct hm_tensor *in, struct hm_tensor *out)
{
    return op_calls(s)->activation(s, (enum hm_activation)c->option, &in[0], out);
}

static enum hm_status activation_backward(struct hm_stream *s, const struct op_case *c,
                                          const struct hm_tensor *in, const struct hm_tensor *out,
                                          const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    /* of ReLU the output will do as well */
    const struct hm_tensor *x = c->option == HM_ACT_RELU && c->rows > 1 ? out : &in[0];
    return op_calls(s)->activation_grad(s, (enum hm_activation)c->option, x, dy, &gradient[0]);
}

const struct op op_activation = {
    .name = "activation",
    .shape = op_shape_unary,
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
    return op_calls(s)->softmax(s, &in[0], out);
}

static enum hm_status softmax_backward(struct hm_stream *s, const struct op_case *c,
                                       const struct hm_tensor *in, const struct hm_tensor *out,
                                       const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    (void)c, (void)in;
    return op_calls(s)->softmax_grad(s, out, dy, &gradient[0]);
}

const struct op op_softmax = {
    .name = "softmax",
    .shape = op_shape_unary,
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
        op_calls(s)->alloc(s->device, count * sizeof(float) + c->rows * sizeof(int64_t), &span);
    if (status != HM_OK) return status;
    int64_t *label = span.base; /* first: they are aligned to 8 bytes */
    for (uint32_t r = 0; r < c->rows; r++) label[r] = label_of(c, r);
    struct hm_tensor nowhere =
        hm_matrix_f32((float *)(void *)(label + c->rows), c->rows, c->columns);
    status =
        op_calls(s)->cross_entropy(s, logits, label, scale, loss, dlogits ? dlogits : &nowhere);
    op_calls(s)->free(s->device, &span);
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

const struct op op_cross_entropy = {
    .name = "cross_entropy",
    .shape = op_shape_to_one,
    .draw = spread_logits,
    .reference = cross_entropy_reference,
    .forward = cross_entropy_forward,
    .backward = cross_entropy_backward,
    .error_max = 1e-12,
    .gradient_error_max = 1e-8,
};
