/* experts/cpu_linear.c - linear layers around the GEMM, activations, sums and gathers of rows.
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

enum hm_status hm_cpu_linear(struct hm_stream *s, const struct hm_tensor *x,
                             const struct hm_tensor *w, const struct hm_tensor *bias,
                             enum hm_activation act, struct hm_tensor *y)
{
    (void)s;
    uint32_t rows = hm_rows(x), in = hm_columns(x), out = hm_rows(w);
    hm_cpu_check(x, rows, in);
    hm_cpu_check(w, out, in);
    hm_cpu_check(y, rows, out);
    if (bias) hm_cpu_check_vector(bias, out);
    enum hm_status status =
        hm_cpu_gemm(false, true, rows, out, in, hm_f32(x), hm_f32(w), 0.0f, hm_f32(y));
    if (status != HM_OK || (!bias && act == HM_ACT_NONE)) return status;
    const float *shift = bias ? hm_f32(bias) : NULL;
    float *result = hm_f32(y);
    HM_CPU_PARALLEL((uint64_t)rows * out)
    for (uint32_t r = 0; r < rows; r++) {
        float *row = result + (size_t)r * out;
        if (shift) add_row(row, shift, row, out);
        activation_row(act, row, row, out);
    }
    return HM_OK;
}

enum hm_status hm_cpu_linear_dx(struct hm_stream *s, const struct hm_tensor *dy,
                                const struct hm_tensor *w, struct hm_tensor *dx)
{
    (void)s;
    uint32_t rows = hm_rows(dy), out = hm_rows(w), in = hm_columns(w);
    hm_cpu_check(w, out, in);
    hm_cpu_check(dy, rows, out);
    hm_cpu_check(dx, rows, in);
    return hm_cpu_gemm(false, false, rows, in, out, hm_f32(dy), hm_f32(w), 0.0f, hm_f32(dx));
}

enum hm_status hm_cpu_linear_dw(struct hm_stream *s, const struct hm_tensor *x,
                                const struct hm_tensor *dy, struct hm_tensor *dw,
                                struct hm_tensor *dbias)
{
    (void)s;
    uint32_t rows = hm_rows(x), in = hm_columns(x), out = hm_columns(dy);
    hm_cpu_check(x, rows, in);
    hm_cpu_check(dy, rows, out);
    if (dw) {
        hm_cpu_check(dw, out, in);
        enum hm_status status =
            hm_cpu_gemm(true, false, out, in, rows, hm_f32(dy), hm_f32(x), 1.0f, hm_f32(dw));
        if (status != HM_OK) return status;
    }
    if (!dbias) return HM_OK;
    hm_cpu_check_vector(dbias, out);
    const float *gradient = hm_f32(dy);
    float *sum = hm_f32(dbias);
    uint32_t blocks = (out + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
    HM_CPU_PARALLEL((uint64_t)rows * out)
    for (uint32_t b = 0; b < blocks; b++) {
        size_t first = (size_t)b * COLUMN_BLOCK,
               count = out - first < COLUMN_BLOCK ? out - first : COLUMN_BLOCK;
        column_sums(gradient + first, rows, out, sum + first, count);
    }
    return HM_OK;
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
