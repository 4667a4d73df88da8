/* tensor/tensor.c - dtypes, shapes and schemas: their sizes, names and wire form.
 *
 * Happy path:    a call's schema is decoded from the wire, compared with the expert's, and its row
 *                bytes size the slab.
 * Failure modes: a shape off the wire may say anything: products are checked before they are used
 *                for sizes.
 * Invariants:    a schema that was decoded without failing has known dtypes and a row of at most
 *                2^48 elements a tensor.
 *
 * Wire form of a schema: u8 tensors; for each u8 dtype, u8 dims, then a u32 a dim. */
#include "tensor/tensor.h"

#include "base/assert.h"

#include <stdio.h>
#include <string.h>

static const uint64_t elements_max = (uint64_t)1 << 48;

static const struct {
    const char *name;
    uint8_t bytes;
} dtypes[HM_DTYPE_COUNT] = {
    [HM_F32] = {"f32", 4},
    [HM_F16] = {"f16", 2},
    [HM_BF16] = {"bf16", 2},
    [HM_I64] = {"i64", 8},
};

size_t hm_dtype_bytes(enum hm_dtype dtype)
{
    HM_ASSERT((unsigned)dtype < HM_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *hm_dtype_name(enum hm_dtype dtype)
{
    HM_ASSERT((unsigned)dtype < HM_DTYPE_COUNT);
    return dtypes[dtype].name;
}

enum hm_status hm_dtype_parse(const char *name, enum hm_dtype *dtype)
{
    for (unsigned i = 0; i < HM_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *dtype = (enum hm_dtype)i;
            return HM_OK;
        }
    }
    return hm_fail(HM_ERR_INVALID, "'%s' is no dtype; use f32, f16, bf16 or i64", name);
}

enum hm_status hm_shape_elements(const struct hm_shape *shape, uint64_t *elements)
{
    if (shape->dim_count > HM_DIMS_MAX) return HM_ERR_TOO_BIG;
    /* A zero anywhere makes the product zero, whatever the dims before it come to. */
    for (unsigned i = 0; i < shape->dim_count; i++) {
        if (shape->dim[i] == 0) {
            *elements = 0;
            return HM_OK;
        }
    }
    uint64_t product = 1;
    for (unsigned i = 0; i < shape->dim_count; i++) {
        if (shape->dim[i] > elements_max / product) return HM_ERR_TOO_BIG;
        product *= shape->dim[i];
    }
    *elements = product;
    return HM_OK;
}

enum hm_status hm_schema_row_bytes(const struct hm_schema *schema, uint64_t *bytes)
{
    if (schema->count > HM_TENSORS_MAX) return HM_ERR_TOO_BIG;
    uint64_t sum = 0; /* at most 8 tensors * 2^48 elements * 8 bytes */
    for (unsigned i = 0; i < schema->count; i++) {
        uint64_t elements;
        enum hm_status status = hm_shape_elements(&schema->row[i], &elements);
        if (status != HM_OK) return status;
        sum += elements * hm_dtype_bytes(schema->dtype[i]);
    }
    *bytes = sum;
    return HM_OK;
}

bool hm_schema_equal(const struct hm_schema *a, const struct hm_schema *b)
{
    if (a->count != b->count) return false;
    for (unsigned i = 0; i < a->count; i++) {
        const struct hm_shape *p = &a->row[i], *q = &b->row[i];
        if (a->dtype[i] != b->dtype[i] || p->dim_count != q->dim_count) return false;
        for (unsigned k = 0; k < p->dim_count; k++) {
            if (p->dim[k] != q->dim[k]) return false;
        }
    }
    return true;
}

struct hm_schema hm_schema_f32(uint32_t columns)
{
    struct hm_schema schema = {.count = 1, .dtype = {HM_F32}};
    schema.row[0] = (struct hm_shape){.dim_count = 1, .dim = {columns}};
    return schema;
}

/* Appends to text, which stays terminated; what does not fit is dropped. */
static void append(char *text, size_t text_bytes, size_t *used, const char *what)
{
    size_t room = text_bytes - 1 - *used, length = strlen(what);
    if (length > room) length = room;
    memcpy(text + *used, what, length);
    *used += length;
    text[*used] = '\0';
}

const char *hm_schema_text(const struct hm_schema *schema, char *text, size_t text_bytes)
{
    HM_ASSERT(text_bytes > 0);
    size_t used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < schema->count && i < HM_TENSORS_MAX; i++) {
        if (i > 0) append(text, text_bytes, &used, ", ");
        append(text, text_bytes, &used, hm_dtype_name(schema->dtype[i]));
        append(text, text_bytes, &used, "[");
        const struct hm_shape *row = &schema->row[i];
        for (unsigned k = 0; k < row->dim_count && k < HM_DIMS_MAX; k++) {
            char number[16];
            snprintf(number, sizeof number, k > 0 ? "x%u" : "%u", (unsigned)row->dim[k]);
            append(text, text_bytes, &used, number);
        }
        append(text, text_bytes, &used, "]");
    }
    return text;
}

void hm_schema_encode(const struct hm_schema *schema, struct hm_writer *writer)
{
    HM_ASSERT(schema->count <= HM_TENSORS_MAX);
    hm_write_u8(writer, schema->count);
    for (unsigned i = 0; i < schema->count; i++) {
        const struct hm_shape *row = &schema->row[i];
        HM_ASSERT(row->dim_count <= HM_DIMS_MAX);
        hm_write_u8(writer, (uint8_t)schema->dtype[i]);
        hm_write_u8(writer, row->dim_count);
        for (unsigned k = 0; k < row->dim_count; k++) hm_write_u32(writer, row->dim[k]);
    }
}

/* One tensor's dtype and row shape; false for what no expert can have. */
static bool decode_row(struct hm_reader *reader, enum hm_dtype *dtype, struct hm_shape *row)
{
    uint8_t type = hm_read_u8(reader);
    uint8_t dim_count = hm_read_u8(reader);
    if (!hm_reader_ok(reader) || type >= HM_DTYPE_COUNT || dim_count > HM_DIMS_MAX) return false;
    *dtype = (enum hm_dtype)type;
    row->dim_count = dim_count;
    for (unsigned k = 0; k < dim_count; k++) row->dim[k] = hm_read_u32(reader);
    uint64_t elements;
    return hm_reader_ok(reader) && hm_shape_elements(row, &elements) == HM_OK;
}

void hm_schema_decode(struct hm_reader *reader, struct hm_schema *schema)
{
    struct hm_schema decoded = {.count = hm_read_u8(reader)};
    memset(schema, 0, sizeof *schema);
    if (decoded.count > HM_TENSORS_MAX) reader->failed = true;
    for (unsigned i = 0; i < decoded.count && !reader->failed; i++) {
        if (!decode_row(reader, &decoded.dtype[i], &decoded.row[i])) reader->failed = true;
    }
    if (hm_reader_ok(reader)) *schema = decoded;
}

struct hm_tensor hm_matrix_f32(float *data, uint32_t rows, uint32_t columns)
{
    return (struct hm_tensor){
        .dtype = HM_F32,
        .shape = {.dim_count = 2, .dim = {rows, columns}},
        .data = {.base = data, .bytes = (size_t)rows * columns * sizeof(float), .mem = HM_MEM_HOST},
    };
}

uint32_t hm_columns(const struct hm_tensor *t)
{
    uint64_t product = 1;
    HM_ASSERT(t->shape.dim_count <= HM_DIMS_MAX);
    for (unsigned i = 1; i < t->shape.dim_count; i++) {
        product *= t->shape.dim[i];
        HM_ASSERT(product <= UINT32_MAX);
    }
    return (uint32_t)product;
}
