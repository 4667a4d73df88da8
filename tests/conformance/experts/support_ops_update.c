/* tests/conformance/experts/support_ops_update.c - optimizers: param, grad, and slots [rows, columns];
 * out: what they become. */
#include "support_ops.h"

#include <math.h>
#include <string.h>

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
    return op_calls(s)->sgd(s, (float)rate, (float)momentum, (float)decay, (float)gradient_scale,
                            &update, 1);
}

const struct op op_sgd = {
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
    return op_calls(s)->adam(s, &conf, c->option, (float)rate, (float)gradient_scale, updates, 2);
}

const struct op op_adam = {
    .name = "adam",
    .shape = adam_shape,
    .draw = adam_draw,
    .reference = adam_reference,
    .forward = adam_forward,
    .error_max = 1e-12,
};
