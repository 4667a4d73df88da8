/* experts/cpu_norm.c - ops that reduce a row: layer norm, softmax, cross entropy.
 *
 * Invariants: a row's sums have 16 partial sums, added in one fixed order: they vectorise without
 * reassociation, and give the same bits on every machine.  A non-finite value anywhere in a row
 * makes the row's results non-finite. */
#include "experts/cpu.h"

#include <math.h>

enum { LANES = 16, COLUMN_BLOCK = 256 };

static inline __attribute__((always_inline)) float lanes_sum(const float *lane)
{
    float half[8], quarter[4];
    for (int k = 0; k < 8; k++) half[k] = lane[k] + lane[k + 8];
    for (int k = 0; k < 4; k++) quarter[k] = half[k] + half[k + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* ---- layer norm (Ba, Kiros & Hinton 2016) ---------------------------------------------------- */

HM_CPU_CLONES static float row_sum(const float *x, size_t n)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += x[i + (size_t)k];
    for (int k = 0; i < n; i++, k++) lane[k] += x[i];
    return lanes_sum(lane);
}

/* Sum of squared distances from the mean: a second pass costs little (the row is in cache) and
 * cancels nothing. */
HM_CPU_CLONES static float row_spread(const float *x, float mean, size_t n)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            float d = x[i + (size_t)k] - mean;
            lane[k] += d * d;
        }
    }
    for (int k = 0; i < n; i++, k++) lane[k] += (x[i] - mean) * (x[i] - mean);
    return lanes_sum(lane);
}

HM_CPU_CLONES static void normalise_row(const float *x, float mean, float inverse,
                                        const float *scale, const float *shift, float *y, size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scale[i] + shift[i];
}

HM_CPU_CLONES static void normalise_row_relu(const float *x, float mean, float inverse,
                                             const float *scale, const float *shift, float *y,
                                             size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) {
        float z = (x[i] - mean) * inverse * scale[i] + shift[i];
        y[i] = z < 0.0f ? 0.0f : z;
    }
}

void hm_cpu_norm_row(const float *x, const float *scale, const float *shift, float epsilon,
                     bool relu, float *y, float *stat, size_t n)
{
    float mean = row_sum(x, n) / (float)n;
    float inverse = 1.0f / sqrtf(row_spread(x, mean, n) / (float)n + epsilon);
    (relu ? normalise_row_relu : normalise_row)(x, mean, inverse, scale, shift, y, n);
    stat[0] = mean;
    stat[1] = inverse;
}

enum hm_status hm_cpu_layer_norm(struct hm_stream *s, const struct hm_tensor *x,
                                 const struct hm_tensor *scale, const struct hm_tensor *shift,
                                 float epsilon, struct hm_tensor *y, struct hm_tensor *stats)
{
    (void)s;
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    hm_cpu_check(x, rows, columns);
    hm_cpu_check(y, rows, columns);
    hm_cpu_check(stats, rows, 2);
    hm_cpu_check_vector(scale, columns);
    hm_cpu_check_vector(shift, columns);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * columns;
        hm_cpu_norm_row(hm_f32(x) + at, hm_f32(scale), hm_f32(shift), epsilon, false,
                        hm_f32(y) + at, hm_f32(stats) + 2 * (size_t)r, columns);
    }
    return HM_OK;
}

/* The gradient of the norm's result at one place: dy, or 0 where ReLU made 0 of it. */
static inline __attribute__((always_inline)) float behind_relu(const float *relu, const float *dy,
                                                               size_t i)
{
    return relu && relu[i] <= 0.0f ? 0.0f : dy[i];
}

/* With x' = (x - mean) inverse and g = dy scale:  dx = inverse (g - mean(g) - x' mean(g x')) */
static inline __attribute__((always_inline)) void gradient_row(const float *x, const float *stat,
                                                               const float *scale,
                                                               const float *relu, const float *dy,
                                                               float *dx, size_t n)
{
    float mean = stat[0], inverse = stat[1], lane_g[LANES] = {0}, lane_gx[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            size_t at = i + (size_t)k;
            float g = behind_relu(relu, dy, at) * scale[at];
            lane_g[k] += g;
            lane_gx[k] += g * ((x[at] - mean) * inverse);
        }
    }
    for (int k = 0; i < n; i++, k++) {
        float g = behind_relu(relu, dy, i) * scale[i];
        lane_g[k] += g;
        lane_gx[k] += g * ((x[i] - mean) * inverse);
    }
    float mean_g = lanes_sum(lane_g) / (float)n, mean_gx = lanes_sum(lane_gx) / (float)n;
    HM_CPU_IN_PLACE
    for (i = 0; i < n; i++)
        dx[i] = inverse *
                (behind_relu(relu, dy, i) * scale[i] - mean_g - (x[i] - mean) * inverse * mean_gx);
}

HM_CPU_CLONES static void layer_norm_grad_row(const float *x, const float *stat, const float *scale,
                                              const float *dy, float *dx, size_t n)
{
    gradient_row(x, stat, scale, NULL, dy, dx, n);
}

HM_CPU_CLONES static void layer_norm_grad_row_relu(const float *x, const float *stat,
                                                   const float *scale, const float *relu,
                                                   const float *dy, float *dx, size_t n)
{
    gradient_row(x, stat, scale, relu, dy, dx, n);
}

/* dscale += dy x', dshift += dy, of one row's `n` columns */
HM_CPU_CLONES static void layer_norm_columns(const float *x, const float *stat, const float *dy,
                                             float *restrict dscale, float *restrict dshift,
                                             size_t n)
{
    float mean = stat[0], inverse = stat[1];
    for (size_t c = 0; c < n; c++) {
        dscale[c] += dy[c] * ((x[c] - mean) * inverse);
        dshift[c] += dy[c];
    }
}

HM_CPU_CLONES static void layer_norm_columns_relu(const float *x, const float *stat,
                                                  const float *relu, const float *dy,
                                                  float *restrict dscale, float *restrict dshift,
                                                  size_t n)
{
    float mean = stat[0], inverse = stat[1];
    for (size_t c = 0; c < n; c++) {
        float g = behind_relu(relu, dy, c);
        dscale[c] += g * ((x[c] - mean) * inverse);
        dshift[c] += g;
    }
}

/* Shared by the loops over blocks of columns, then over rows: dx may be dy. */
struct norm_grad {
    const float *x, *stat, *scale, *relu, *dy;
    float *dx, *dscale, *dshift;
    uint32_t rows, columns;
    bool accumulate;
};

static void norm_grad_block(const struct norm_grad *g, uint32_t block)
{
    size_t first = (size_t)block * COLUMN_BLOCK;
    size_t n = g->columns - first < COLUMN_BLOCK ? g->columns - first : COLUMN_BLOCK;
    float *dscale = g->dscale + first, *dshift = g->dshift + first;
    if (!g->accumulate)
        for (size_t c = 0; c < n; c++) dscale[c] = dshift[c] = 0.0f;
    for (uint32_t r = 0; r < g->rows; r++) { /* rows in order: a sum has one value */
        size_t at = (size_t)r * g->columns + first;
        const float *stat = g->stat + 2 * (size_t)r;
        if (g->relu)
            layer_norm_columns_relu(g->x + at, stat, g->relu + at, g->dy + at, dscale, dshift, n);
        else
            layer_norm_columns(g->x + at, stat, g->dy + at, dscale, dshift, n);
    }
}

enum hm_status hm_cpu_layer_norm_grad(struct hm_stream *s, const struct hm_tensor *x,
                                      const struct hm_tensor *stats, const struct hm_tensor *scale,
                                      const struct hm_tensor *relu, const struct hm_tensor *dy,
                                      bool accumulate, struct hm_tensor *dx,
                                      struct hm_tensor *dscale, struct hm_tensor *dshift)
{
    (void)s;
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    hm_cpu_check(x, rows, columns);
    hm_cpu_check(stats, rows, 2);
    if (relu) hm_cpu_check(relu, rows, columns);
    hm_cpu_check(dy, rows, columns);
    hm_cpu_check(dx, rows, columns);
    hm_cpu_check_vector(scale, columns);
    hm_cpu_check_vector(dscale, columns);
    hm_cpu_check_vector(dshift, columns);
    const struct norm_grad g = {
        hm_f32(x),  hm_f32(stats), hm_f32(scale),  relu ? hm_f32(relu) : NULL,
        hm_f32(dy), hm_f32(dx),    hm_f32(dscale), hm_f32(dshift),
        rows,       columns,       accumulate};
    uint32_t blocks = (columns + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t b = 0; b < blocks; b++) norm_grad_block(&g, b);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * columns;
        const float *stat = g.stat + 2 * (size_t)r;
        if (g.relu)
            layer_norm_grad_row_relu(g.x + at, stat, g.scale, g.relu + at, g.dy + at, g.dx + at,
                                     columns);
        else
            layer_norm_grad_row(g.x + at, stat, g.scale, g.dy + at, g.dx + at, columns);
    }
    return HM_OK;
}

/* ---- softmax and cross entropy --------------------------------------------------------------- */

static float row_max(const float *x, size_t n)
{
    float max = x[0];
    for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* y = exp(x - max); returns its sum */
static float exp_row(const float *x, float max, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = expf(x[i] - max);
    return row_sum(y, n);
}

HM_CPU_CLONES static void multiply_row(float *y, float factor, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] *= factor;
}

enum hm_status hm_cpu_softmax(struct hm_stream *s, const struct hm_tensor *x, struct hm_tensor *y)
{
    (void)s;
    uint32_t rows = hm_rows(x), columns = hm_columns(x);
    hm_cpu_check(x, rows, columns);
    hm_cpu_check(y, rows, columns);
    HM_ASSERT(columns > 0);
    const float *in = hm_f32(x);
    float *out = hm_f32(y);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = in + (size_t)r * columns;
        float *to = out + (size_t)r * columns;
        float sum = exp_row(row, row_max(row, columns), to, columns);
        multiply_row(to, 1.0f / sum, columns);
    }
    return HM_OK;
}

HM_CPU_CLONES static float row_dot(const float *a, const float *b, size_t n)
{
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += a[i + (size_t)k] * b[i + (size_t)k];
    for (int k = 0; i < n; i++, k++) lane[k] += a[i] * b[i];
    return lanes_sum(lane);
}

HM_CPU_CLONES static void softmax_grad_row(const float *y, const float *dy, float dot, float *dx,
                                           size_t n)
{
    HM_CPU_IN_PLACE
    for (size_t i = 0; i < n; i++) dx[i] = (dy[i] - dot) * y[i];
}

enum hm_status hm_cpu_softmax_grad(struct hm_stream *s, const struct hm_tensor *y,
                                   const struct hm_tensor *dy, struct hm_tensor *dx)
{
    (void)s;
    uint32_t rows = hm_rows(y), columns = hm_columns(y);
    hm_cpu_check(y, rows, columns);
    hm_cpu_check(dy, rows, columns);
    hm_cpu_check(dx, rows, columns);
    const float *out = hm_f32(y), *gradient = hm_f32(dy);
    float *to = hm_f32(dx);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * columns;
        softmax_grad_row(out + at, gradient + at, row_dot(out + at, gradient + at, columns),
                         to + at, columns);
    }
    return HM_OK;
}

enum hm_status hm_cpu_cross_entropy(struct hm_stream *s, const struct hm_tensor *logits,
                                    const int64_t *label, float scale, float *loss,
                                    struct hm_tensor *dlogits)
{
    (void)s;
    uint32_t rows = hm_rows(logits), columns = hm_columns(logits);
    hm_cpu_check(logits, rows, columns);
    hm_cpu_check(dlogits, rows, columns);
    HM_ASSERT(rows > 0 && columns > 0);
    float factor = scale / (float)rows;
    double sum = 0.0;
    /* One thread: a trainer has few classes, and the loss is then a sum in one order. */
    for (uint32_t r = 0; r < rows; r++) {
        const float *row = hm_f32(logits) + (size_t)r * columns;
        float *to = hm_f32(dlogits) + (size_t)r * columns;
        HM_ASSERT(label[r] >= 0 && label[r] < (int64_t)columns);
        float max = row_max(row, columns), chosen = row[label[r]];
        float total = exp_row(row, max, to, columns);
        sum += (double)(logf(total) - (chosen - max));
        multiply_row(to, factor / total, columns);
        to[label[r]] -= factor;
    }
    *loss = (float)(sum / rows);
    return HM_OK;
}
