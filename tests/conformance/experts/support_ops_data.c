/* tests/conformance/experts/support_ops_data.c - ops whose gradient is another op, or none. */
#include "support_ops.h"

#include <math.h>

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
    return op_calls(s)->add(s, &in[0], &in[1], out);
}

const struct op op_add = {
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
    enum hm_status status = op_calls(s)->alloc(s->device, c->rows * sizeof(uint32_t), &span);
    if (status != HM_OK) return status;
    uint32_t *index = span.base;
    for (uint32_t r = 0; r < c->rows; r++) index[r] = gather_index(c, r);
    status = op_calls(s)->gather(s, &in[0], c->option & 1 ? index : NULL,
                                 c->option & 2 ? hm_f32(&in[1]) : NULL, out);
    op_calls(s)->free(s->device, &span);
    return status;
}

const struct op op_gather = {
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
    enum hm_status status = op_calls(s)->encode(s, codec, &in[0], coded, &finite);
    if (status == HM_OK && finite)
        status =
            op_calls(s)->decode(s, codec, (char *)coded + second_half, NULL, NULL, out, &finite);
    if (status == HM_OK && finite) status = HM_ERR_NUMERIC;
    *value = kept;
    if (status == HM_OK) status = op_calls(s)->encode(s, codec, &in[0], coded, &finite);
    if (status == HM_OK && !finite) status = HM_ERR_NUMERIC;
    if (status == HM_OK)
        status = op_calls(s)->decode(s, codec, coded, c->option & 1 ? index : NULL,
                                     c->option & 2 ? hm_f32(&in[1]) : NULL, out, &finite);
    return status == HM_OK && !finite ? HM_ERR_NUMERIC : status;
}

static enum hm_status coded_forward(struct hm_stream *s, const struct op_case *c,
                                    const struct hm_tensor *in, struct hm_tensor *out)
{
    struct hm_span index, rows;
    enum hm_status status = op_calls(s)->alloc(s->device, c->rows * sizeof(uint32_t), &index);
    if (status != HM_OK) return status;
    for (uint32_t r = 0; r < c->rows; r++) ((uint32_t *)index.base)[r] = gather_index(c, r);
    status = op_calls(s)->alloc(s->device, 2 * (size_t)c->rows * c->columns * sizeof(float), &rows);
    if (status == HM_OK) {
        status = coded_both(s, c, in, rows.base, index.base, out);
        op_calls(s)->free(s->device, &rows);
    }
    op_calls(s)->free(s->device, &index);
    return status;
}

const struct op op_coded = {
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
        op_calls(s)->norm(s, hm_f32(&in[0]), (size_t)c->rows * c->columns, &norm, &finite);
    hm_f32(out)[0] = (float)norm;
    hm_f32(out)[1] = finite;
    return status;
}

const struct op op_norm = {
    .name = "norm",
    .shape = norm_shape,
    .draw = wide_range,
    .reference = norm_reference,
    .forward = norm_forward,
    .error_max = 1e-12,
};

static void largest_reference(const struct op_case *c, const double *const *in, double *out)
{
    out[0] = 0.0;
    for (size_t i = 0; i < (size_t)c->rows * c->columns; i++) out[0] = fmax(out[0], fabs(in[0][i]));
}

static enum hm_status largest_forward(struct hm_stream *s, const struct op_case *c,
                                      const struct hm_tensor *in, struct hm_tensor *out)
{
    (void)c;
    return op_calls(s)->largest(s, &in[0], hm_f32(out));
}

const struct op op_largest = {
    .name = "largest",
    .shape = op_shape_to_one,
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
    return op_calls(s)->zero(s, hm_f32(out), (size_t)c->rows * c->columns * sizeof(float));
}

const struct op op_zero = {
    .name = "zero",
    .shape = op_shape_unary,
    .reference = zero_reference,
    .forward = zero_forward,
    .error_max = 0.0,
};
