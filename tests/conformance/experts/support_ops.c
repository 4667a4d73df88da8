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

static enum hm_status linear_forward(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)c;
    return ops(s)->linear(s, &in[0], &in[1], &in[2], HM_ACT_NONE, out);
}

static enum hm_status linear_backward(struct hm_stream *s, const struct op_case *c,
                                      const struct hm_tensor *in, const struct hm_tensor *out,
                                      const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    (void)c, (void)out;
    enum hm_status status = ops(s)->linear_dx(s, dy, &in[1], &gradient[0]);
    if (status == HM_OK) status = ops(s)->linear_dw(s, &in[0], dy, &gradient[1], &gradient[2]);
    return status;
}

static const struct op linear = {
    .name = "linear",
    .shape = linear_shape,
    .reference = linear_reference,
    .forward = linear_forward,
    .backward = linear_backward,
    .accumulates = 1u << 1 | 1u << 2,
    .error_max = 1e-11,
    .gradient_error_max = 1e-10,
};

/* The activation fused into linear, without bias; its columns out are as many as in. */
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
    return ops(s)->linear(s, &in[0], &in[1], NULL, (enum hm_activation)c->option, out);
}

static const struct op linear_fused = {
    .name = "linear+act",
    .shape = fused_shape,
    .reference = fused_reference,
    .forward = fused_forward,
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
        status = ops(s)->layer_norm_grad(s, &in[0], &stats, &in[1], dy, &gradient[0], &gradient[1],
                                         &gradient[2]);
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
    return ops(s)->sgd(s, (float)rate, (float)momentum, (float)decay, (float)gradient_scale, count,
                       param, hm_f32(&in[1]), velocity);
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
    return ops(s)->adam(s, &conf, c->option, (float)rate, (float)gradient_scale, count, param,
                        hm_f32(&in[1]), m, v);
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
    {&linear_fused, 5, 37, HM_ACT_NONE, false},
    {&linear_fused, 5, 37, HM_ACT_RELU, false},
    {&linear_fused, 33, 259, HM_ACT_GELU, false},
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
    {&norm, 1, 1, 0, false},
    {&norm, 1, 1023, 0, false},
    {&norm, 67, 4099, 0, false},
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
