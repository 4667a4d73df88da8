/* experts/cpu_linear.c - linear layers around the products, activations, sums and gathers of rows.
 *
 * Invariants: NaN goes through every op: an activation that turned one into 0 would hide it from
 * the finite checks. */
#include "experts/cpu.h"

#include <math.h>
#include <string.h>

enum { COLUMN_BLOCK = 256 }; /* a thread's share of a column sum: 1 KiB of a row */

/* ---- kernels of one row ---------------------------------------------------------------------- */

static float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/* d/dx x Phi(x) = Phi(x) + x phi(x), with Phi and phi those of the standard normal distribution */
static float gelu_slope(float x)
{
    float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    return cdf + x * 0.39894228040143268f * expf(-0.5f * x * x);
}

HM_CPU_CLONES static void relu_row(const float *x, float *y, size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) y[i] = x[i] < 0.0f ? 0.0f : x[i];
}

HM_CPU_CLONES static void relu_grad_row(const float *x, const float *dy, float *dx, size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) dx[i] = x[i] <= 0.0f ? 0.0f : dy[i];
}

HM_CPU_CLONES static void add_row(const float *a, const float *b, float *y, size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

HM_CPU_CLONES static void scale_row(const float *x, float scale, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = scale * x[i];
}

static void activation_row(enum hm_activation act, const float *x, float *y, size_t n)
{
    switch (act) {
    case HM_ACT_NONE:
        if (y != x) memcpy(y, x, n * sizeof *y);
        break;
    case HM_ACT_RELU: relu_row(x, y, n); break;
    case HM_ACT_GELU:
        for (size_t i = 0; i < n; i++) y[i] = gelu(x[i]);
        break;
    }
}

/* sum[c] += column sums of x[rows, columns], for `n` columns; rows in order, so the result has one
 * value */
HM_CPU_CLONES static void column_sums(const float *x, uint32_t rows, size_t columns,
                                      float *restrict sum, size_t n)
{
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = x + r * columns;
        for (size_t c = 0; c < n; c++) sum[c] += row[c];
    }
}

/* ---- ops ------------------------------------------------------------------------------------- */

/* Weights as a factor [in, out], or [out, in], of a product in f32; `data` is in w's layout. */
static struct hm_cpu_matrix factor(const struct hm_weights *w, const float *data, bool in_first)
{
    /* of a matrix of one input both strides may be 1 */
    bool in_major = w->layout.out_stride == 1 && w->layout.in_stride >= w->out;
    size_t stride = in_major ? w->layout.in_stride : w->layout.out_stride;
    HM_ASSERT(in_major || w->layout.in_stride == 1);
    return (struct hm_cpu_matrix){data, stride, in_major != in_first};
}

static struct hm_cpu_matrix dense(const float *data, uint32_t columns, bool transposed)
{
    return (struct hm_cpu_matrix){data, columns, transposed};
}

/* The rows of a product, finished one by one while they are in cache. */
static void finish_rows(const struct hm_epilogue *e, struct hm_tensor *y)
{
    uint32_t rows = hm_rows(y), out = hm_columns(y);
    const float *bias = e->bias ? hm_f32(e->bias) : NULL, *add = e->add ? hm_f32(e->add) : NULL;
    if (e->bias) hm_cpu_check_vector(e->bias, out);
    if (e->add) hm_cpu_check(e->add, rows, out);
    if (e->norm) {
        hm_cpu_check_vector(e->norm->scale, out);
        hm_cpu_check_vector(e->norm->shift, out);
        hm_cpu_check(e->norm->stats, rows, 2);
        hm_cpu_check(e->norm->result, rows, out);
    }
    HM_CPU_PARALLEL((uint64_t)rows * out)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * out;
        float *row = hm_f32(y) + at, *result = row;
        if (bias) add_row(row, bias, row, out);
        if (add) add_row(row, add + at, row, out);
        bool relu = e->norm && e->act == HM_ACT_RELU;
        if (e->norm) {
            result = hm_f32(e->norm->result) + at;
            hm_cpu_norm_row(row, hm_f32(e->norm->scale), hm_f32(e->norm->shift), e->norm->epsilon,
                            relu, result, hm_f32(e->norm->stats) + 2 * (size_t)r, out);
        }
        if (!relu) activation_row(e->act, result, result, out);
    }
}

enum hm_status hm_cpu_linear(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_weights *w, const struct hm_epilogue *epilogue,
                             struct hm_tensor *y)
{
    uint32_t rows = hm_rows(x), in = w->in, out = w->out;
    const float *factors = w->data, *from = hm_f32(x);
    enum hm_status status = HM_OK;
    hm_cpu_check(x, rows, in);
    hm_cpu_check(y, rows, out);
    if (w->packed && w->packed->library) {
        status = w->packed->library->linear(s, x, w->packed, y);
    } else {
        if (w->packed) {
            factors = w->packed->rounded.base;
            status = hm_cpu_round_matrix(s, HM_CPU_WORK_X, x, &from);
        }
        if (status == HM_OK)
            status = hm_cpu_gemm(rows, out, in, dense(from, in, false), factor(w, factors, true),
                                 0.0f, hm_f32(y), out);
    }
    if (status == HM_OK && epilogue) finish_rows(epilogue, y);
    return status;
}

enum hm_status hm_cpu_linear_dx(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_weights *w, const struct hm_tensor *add,
                                struct hm_tensor *dx)
{
    uint32_t rows = hm_rows(dy), in = w->in, out = w->out;
    const float *factors = w->data, *from = hm_f32(dy);
    enum hm_status status = HM_OK;
    hm_cpu_check(dy, rows, out);
    hm_cpu_check(dx, rows, in);
    if (w->packed && w->packed->library) {
        status = w->packed->library->linear_dx(s, dy, w->packed, dx);
    } else {
        if (w->packed) {
            factors = w->packed->rounded.base;
            status = hm_cpu_round_matrix(s, HM_CPU_WORK_DY, dy, &from);
        }
        if (status == HM_OK)
            status = hm_cpu_gemm(rows, in, out, dense(from, out, false), factor(w, factors, false),
                                 0.0f, hm_f32(dx), in);
    }
    const struct hm_epilogue epilogue = {.add = add};
    if (status == HM_OK && add) finish_rows(&epilogue, dx);
    return status;
}

/* dw (+)= dy^T x, in f32: x and dy as they are, or rounded. */
static enum hm_status gradient_product(const float *x, const float *dy, uint32_t rows,
                                       bool accumulate, struct hm_weights *dw)
{
    uint32_t in = dw->in, out = dw->out;
    float beta = accumulate ? 1.0f : 0.0f;
    struct hm_cpu_matrix to = factor(dw, dw->data, true);
    if (!to.transposed)
        return hm_cpu_gemm(in, out, rows, dense(x, in, true), dense(dy, out, false), beta, dw->data,
                           to.stride);
    return hm_cpu_gemm(out, in, rows, dense(dy, out, true), dense(x, in, false), beta, dw->data,
                       to.stride);
}

static void bias_gradient(const struct hm_tensor *dy, bool accumulate, struct hm_tensor *dbias)
{
    uint32_t rows = hm_rows(dy), out = hm_columns(dy);
    const float *gradient = hm_f32(dy);
    float *sum = hm_f32(dbias);
    hm_cpu_check_vector(dbias, out);
    uint32_t blocks = (out + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
    HM_CPU_PARALLEL((uint64_t)rows * out)
    for (uint32_t b = 0; b < blocks; b++) {
        size_t first = (size_t)b * COLUMN_BLOCK,
               count = out - first < COLUMN_BLOCK ? out - first : COLUMN_BLOCK;
        if (!accumulate) memset(sum + first, 0, count * sizeof *sum);
        column_sums(gradient + first, rows, out, sum + first, count);
    }
}

enum hm_status hm_cpu_linear_dw(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, const struct hm_weights *w,
                                bool accumulate, struct hm_weights *dw, struct hm_tensor *dbias)
{
    uint32_t rows = hm_rows(x);
    const float *left = hm_f32(x), *right = hm_f32(dy);
    enum hm_status status = HM_OK;
    hm_cpu_check(x, rows, dw->in);
    hm_cpu_check(dy, rows, dw->out);
    HM_ASSERT(w->in == dw->in && w->out == dw->out);
    if (w->packed && w->packed->library) {
        status = w->packed->library->linear_dw(s, x, dy, w->packed, accumulate, dw);
    } else {
        if (w->packed) status = hm_cpu_round_matrix(s, HM_CPU_WORK_X, x, &left);
        if (w->packed && status == HM_OK)
            status = hm_cpu_round_matrix(s, HM_CPU_WORK_DY, dy, &right);
        if (status == HM_OK) status = gradient_product(left, right, rows, accumulate, dw);
    }
    if (status == HM_OK && dbias) bias_gradient(dy, accumulate, dbias);
    return status;
}

enum hm_status hm_cpu_activation(struct hm_stream *s, enum hm_activation act,
                                 const struct hm_tensor *x, struct hm_tensor *y)
{
    (void)s;
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    hm_cpu_check(x, rows, columns);
    hm_cpu_check(y, rows, columns);
    const float *from = hm_f32(x);
    float *to = hm_f32(y);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++)
        activation_row(act, from + (size_t)r * columns, to + (size_t)r * columns, columns);
    return HM_OK;
}

static void activation_grad_row(enum hm_activation act, const float *x, const float *dy, float *dx,
                                size_t n)
{
    switch (act) {
    case HM_ACT_NONE:
        if (dx != dy) memcpy(dx, dy, n * sizeof *dx);
        break;
    case HM_ACT_RELU: relu_grad_row(x, dy, dx, n); break;
    case HM_ACT_GELU:
        for (size_t i = 0; i < n; i++) dx[i] = dy[i] * gelu_slope(x[i]);
        break;
    }
}

enum hm_status hm_cpu_activation_grad(struct hm_stream *s, enum hm_activation act,
                                      const struct hm_tensor *x, const struct hm_tensor *dy,
                                      struct hm_tensor *dx)
{
    (void)s;
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    hm_cpu_check(x, rows, columns);
    hm_cpu_check(dy, rows, columns);
    hm_cpu_check(dx, rows, columns);
    const float *in = hm_f32(x), *gradient = hm_f32(dy);
    float *to = hm_f32(dx);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * columns;
        activation_grad_row(act, in + at, gradient + at, to + at, columns);
    }
    return HM_OK;
}

enum hm_status hm_cpu_add(struct hm_stream *s, const struct hm_tensor *a, const struct hm_tensor *b,
                          struct hm_tensor *y)
{
    (void)s;
    uint32_t rows = hm_rows(a), columns = hm_columns(a);
    hm_cpu_check(a, rows, columns);
    hm_cpu_check(b, rows, columns);
    hm_cpu_check(y, rows, columns);
    const float *left = hm_f32(a), *right = hm_f32(b);
    float *to = hm_f32(y);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * columns;
        add_row(left + at, right + at, to + at, columns);
    }
    return HM_OK;
}

enum hm_status hm_cpu_gather(struct hm_stream *s, const struct hm_tensor *from,
                             const uint32_t *index, const float *scale, struct hm_tensor *to)
{
    (void)s;
    uint32_t rows = hm_rows(to), columns = hm_columns(to), from_rows = hm_rows(from);
    hm_cpu_check(from, from_rows, columns);
    hm_cpu_check(to, rows, columns);
    HM_ASSERT(index || rows <= from_rows);
    const float *source = hm_f32(from);
    float *target = hm_f32(to);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t at = index ? index[r] : r;
        HM_ASSERT(at < from_rows);
        float *row = target + (size_t)r * columns;
        if (scale)
            scale_row(source + (size_t)at * columns, scale[r], row, columns);
        else if (columns > 0)
            memcpy(row, source + (size_t)at * columns, columns * sizeof *row);
    }
    return HM_OK;
}
