/* tests/conformance/experts/support_ops_linear.c - products with weights: as a device may keep them,
 * and with what may be fused behind them.
 *
 * linear: x [rows, columns], w [option, columns], bias [option] */
#include "support_ops.h"

#include <math.h>

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

static enum kept kept_by(const struct op_case *c)
{
    return (enum kept)(c->op - op_linear);
}

/* The weights of input 1 and the gradient of them. */
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
    if (how != KEPT_DENSE)
        op_calls(s)->weights_layout(s->device, from.out, from.in, &kept->w.layout);
    size_t bytes = kept->w.layout.elements * sizeof(float);
    enum hm_status status = op_calls(s)->alloc(s->device, bytes, &kept->data);
    if (status == HM_OK) status = op_calls(s)->alloc(s->device, bytes, &kept->gradient_data);
    if (status != HM_OK) return status;
    kept->gradient = kept->w;
    kept->w.data = kept->data.base;
    kept->gradient.data = kept->gradient_data.base;
    copy_weights(&kept->w, &from);
    if (how < KEPT_ROUNDED) return HM_OK;
    status =
        hm_device_cpu_set_bf16(s->device, how == KEPT_LIBRARY ? HM_BF16_LIBRARY : HM_BF16_ROUNDED);
    if (status == HM_OK) status = op_calls(s)->pack_create(s->device, &kept->w, &kept->w.packed);
    return status;
}

static void let_go(struct hm_stream *s, struct kept_weights *kept)
{
    op_calls(s)->pack_destroy(s->device, kept->w.packed);
    op_calls(s)->free(s->device, &kept->data);
    op_calls(s)->free(s->device, &kept->gradient_data);
}

static enum hm_status linear_forward(struct hm_stream *s, const struct op_case *c,
                                     const struct hm_tensor *in, struct hm_tensor *out)
{
    struct kept_weights kept;
    const struct hm_epilogue epilogue = {.bias = &in[2]};
    enum hm_status status = keep(s, &in[1], kept_by(c), &kept);
    if (status == HM_OK) status = op_calls(s)->linear(s, &in[0], &kept.w, &epilogue, out);
    let_go(s, &kept);
    return status;
}

/* Gradients of x, weights and bias; those of the dense weights are accumulated. */
static enum hm_status linear_backward(struct hm_stream *s, const struct op_case *c,
                                      const struct hm_tensor *in, const struct hm_tensor *out,
                                      const struct hm_tensor *dy, struct hm_tensor *gradient)
{
    (void)out;
    struct kept_weights kept;
    struct hm_weights to =
        hm_weights_dense(hm_f32(&gradient[1]), hm_rows(&gradient[1]), hm_columns(&gradient[1]));
    enum hm_status status = keep(s, &in[1], kept_by(c), &kept);
    copy_weights(&kept.gradient, &to); /* NaN, where it is to be written */
    if (status == HM_OK) status = op_calls(s)->linear_dx(s, dy, &kept.w, NULL, &gradient[0]);
    if (status == HM_OK)
        status = op_calls(s)->linear_dw(s, &in[0], dy, &kept.w, kept_by(c) == KEPT_DENSE,
                                        &kept.gradient, &gradient[2]);
    copy_weights(&to, &kept.gradient);
    let_go(s, &kept);
    return status;
}

static bool library_is_there(struct hm_device *device, const char **why)
{
    *why = "oneDNN has no products in bf16 on this CPU";
    return hm_device_cpu_set_bf16(device, HM_BF16_LIBRARY) == HM_OK;
}

#define LINEAR                                                                                     \
    .shape = linear_shape, .reference = linear_reference, .forward = linear_forward,               \
    .backward = linear_backward
/* Those in bf16 are held to the function without any rounding: two factors of 2^-9 each, at most. */
const struct op op_linear[KEPT_COUNT] = {
    [KEPT_DENSE] = {LINEAR, .name = "linear", .accumulates = 1u << 1 | 1u << 2, .error_max = 1e-11,
                    .gradient_error_max = 1e-10},
    [KEPT_PLACED] = {LINEAR, .name = "linear, its layout", .error_max = 1e-11,
                     .gradient_error_max = 1e-10},
    [KEPT_ROUNDED] = {LINEAR, .name = "linear bf16, rounded", .error_max = 1e-5,
                      .gradient_error_max = 1e-5},
    [KEPT_LIBRARY] = {LINEAR, .name = "linear bf16, oneDNN", .there = library_is_there,
                      .error_max = 1e-5, .gradient_error_max = 1e-5},
};

/* An activation as the epilogue, without bias; columns out are as many as in. */
static void fused_shape(const struct op_case *c, struct op_shape *shape)
{
    *shape = (struct op_shape){
        2, {{c->rows, c->columns}, {c->columns, c->columns}}, {c->rows, c->columns}};
}

static void fused_reference(const struct op_case *c, const double *const *in, double *out)
{
    for (uint32_t r = 0; r < c->rows; r++) {
        for (uint32_t o = 0; o < c->columns; o++) {
            double sum = 0.0;
            for (uint32_t k = 0; k < c->columns; k++)
                sum += in[0][(size_t)r * c->columns + k] * in[1][(size_t)o * c->columns + k];
            out[(size_t)r * c->columns + o] = op_act_value((enum hm_activation)c->option, sum);
        }
    }
}

static enum hm_status fused_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->columns, c->columns);
    const struct hm_epilogue epilogue = {.act = (enum hm_activation)c->option};
    return op_calls(s)->linear(s, &in[0], &w, &epilogue, out);
}

const struct op op_linear_fused = {
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
            row[k] = op_act_value(HM_ACT_RELU,
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
        op_calls(s)->alloc(s->device, (count + 2 * (size_t)c->rows) * sizeof(float), &b->span);
    if (status != HM_OK) return status;
    b->a = hm_matrix_f32(b->span.base, c->rows, c->option);
    b->stats = hm_matrix_f32((float *)b->span.base + count, c->rows, 2);
    const struct hm_weights w = hm_weights_dense(hm_f32(&in[1]), c->option, c->columns);
    const struct hm_norm norm = {&in[4], &in[5], 1e-5f, &b->stats, out};
    const struct hm_epilogue epilogue = {&in[2], &in[3], &norm, HM_ACT_RELU};
    return op_calls(s)->linear(s, &in[0], &w, &epilogue, &b->a);
}

static enum hm_status block_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    struct block b;
    enum hm_status status = block_run(s, c, in, out, &b);
    op_calls(s)->free(s->device, &b.span);
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
        status = op_calls(s)->layer_norm_grad(s, &b.a, &b.stats, &in[4], out, dy, false,
                                              &gradient[3], &gradient[4], &gradient[5]);
    if (status == HM_OK) status = op_calls(s)->linear_dx(s, &gradient[3], &w, NULL, &gradient[0]);
    if (status == HM_OK)
        status = op_calls(s)->linear_dw(s, &in[0], &gradient[3], &w, false, &dw, &gradient[2]);
    op_calls(s)->free(s->device, &b.span);
    return status;
}

const struct op op_block = {
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
    return op_calls(s)->linear_dx(s, &in[0], &w, &in[2], out);
}

const struct op op_dx_add = {
    .name = "linear_dx+add",
    .shape = dx_add_shape,
    .reference = dx_add_reference,
    .forward = dx_add_forward,
    .error_max = 1e-11,
};
