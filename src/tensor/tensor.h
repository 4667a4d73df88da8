/* tensor/tensor.h - what a tensor is on the wire and in memory: dtype, dims, bytes.  No math
 * here. */
#ifndef HM_TENSOR_TENSOR_H
#define HM_TENSOR_TENSOR_H

#include "base/buf.h"
#include "base/status.h"
#include "base/wire.h"

#include <stdbool.h>

enum { HM_DIMS_MAX = 4, HM_TENSORS_MAX = 8 };
enum hm_dtype { HM_F32, HM_F16, HM_BF16, HM_I64, HM_DTYPE_COUNT }; /* values are wire format */
struct hm_shape {                                                  /* dim[0] is rows (the batch) */
    uint8_t dim_count;
    uint32_t dim[HM_DIMS_MAX];
};
struct hm_tensor {
    enum hm_dtype dtype;
    struct hm_shape shape; /* dense, row-major */
    struct hm_span data;
};
/* What an expert takes or gives: for each tensor its dtype and the shape of one row (without the
 * batch). */
struct hm_schema {
    uint8_t count;
    enum hm_dtype dtype[HM_TENSORS_MAX];
    struct hm_shape row[HM_TENSORS_MAX];
};

size_t hm_dtype_bytes(enum hm_dtype dtype);
const char *hm_dtype_name(enum hm_dtype dtype); /* "f32" */
HM_MUST_CHECK enum hm_status hm_dtype_parse(const char *name, enum hm_dtype *dtype);
/* Elements of a shape; a shape without dims has one.  HM_ERR_TOO_BIG if the product passes 2^48
 * (also for shapes off the wire, whose dims may be anything). */
HM_MUST_CHECK enum hm_status hm_shape_elements(const struct hm_shape *shape, uint64_t *elements);
/* Bytes of one row of `schema` (all its tensors, in order, unpadded). */
HM_MUST_CHECK enum hm_status hm_schema_row_bytes(const struct hm_schema *schema, uint64_t *bytes);
bool hm_schema_equal(const struct hm_schema *a, const struct hm_schema *b);
/* A schema of one f32 tensor with `columns` columns a row: what every kind of today uses. */
struct hm_schema hm_schema_f32(uint32_t columns);
/* "f32[1024]" into text, for error lines; returns text. */
const char *hm_schema_text(const struct hm_schema *schema, char *text, size_t text_bytes);
void hm_schema_encode(const struct hm_schema *schema, struct hm_writer *writer);
/* Fails the reader on unknown dtypes, too many tensors or dims. */
void hm_schema_decode(struct hm_reader *reader, struct hm_schema *schema);

/* A matrix over memory that somebody else owns. */
struct hm_tensor hm_matrix_f32(float *data, uint32_t rows, uint32_t columns);
static inline uint32_t hm_rows(const struct hm_tensor *t)
{
    return t->shape.dim[0];
}
/* Elements of a row: the product of all dims but the first. */
uint32_t hm_columns(const struct hm_tensor *t);
static inline float *hm_f32(const struct hm_tensor *t)
{
    return (float *)t->data.base;
}

#endif
