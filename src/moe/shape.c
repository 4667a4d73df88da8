/* moe/shape.c - what a user hands us as a tensor is checked here, before anything is sent. */
#include "moe/shape.h"

#include "moe/call.h"

#include <inttypes.h>
#include <stdio.h>

enum { TEXT_BYTES = 128 };

static const char *text_of(const struct hm_tensor *tensor, char *text)
{
    struct hm_schema schema = {.count = 1, .dtype = {tensor->dtype}, .row = {tensor->shape}};
    if ((unsigned)tensor->dtype >= HM_DTYPE_COUNT) return "of an unknown type";
    return hm_schema_text(&schema, text, TEXT_BYTES);
}

enum hm_status hm_shape_rows(const char *what, const struct hm_tensor *tensor, uint32_t *columns,
                             uint32_t *rows)
{
    char text[TEXT_BYTES];
    const struct hm_shape *shape = &tensor->shape;
    if (tensor->dtype != HM_F32 || shape->dim_count < 1 || shape->dim_count > HM_DIMS_MAX)
        return hm_fail(HM_ERR_SHAPE, "%s is %s; it must be f32 with 1 to %d dimensions", what,
                       text_of(tensor, text), HM_DIMS_MAX);
    uint32_t last = shape->dim[shape->dim_count - 1];
    if (last == 0 || (*columns != 0 && last != *columns))
        return hm_fail(HM_ERR_SHAPE, "%s is %s; its last dimension must be %" PRIu32, what,
                       text_of(tensor, text), *columns ? *columns : 1);
    uint64_t elements;
    if (hm_shape_elements(shape, &elements) != HM_OK || elements == 0 ||
        elements / last > HM_CALL_ROWS_MAX)
        return hm_fail(HM_ERR_SHAPE, "%s is %s; it must have 1 to %d rows", what,
                       text_of(tensor, text), HM_CALL_ROWS_MAX);
    if (!tensor->data.base || tensor->data.bytes / sizeof(float) < elements)
        return hm_fail(HM_ERR_SHAPE, "%s is %s, but there is memory for %zu values only", what,
                       text_of(tensor, text),
                       tensor->data.base ? tensor->data.bytes / sizeof(float) : 0);
    *columns = last;
    *rows = (uint32_t)(elements / last);
    return HM_OK;
}

enum hm_status hm_shape_same(const char *what, const struct hm_tensor *tensor, const char *like,
                             const struct hm_tensor *other)
{
    char a[TEXT_BYTES], b[TEXT_BYTES];
    bool same = tensor->dtype == other->dtype && tensor->shape.dim_count == other->shape.dim_count;
    for (unsigned i = 0; same && i < tensor->shape.dim_count; i++)
        same = tensor->shape.dim[i] == other->shape.dim[i];
    if (same) return HM_OK;
    return hm_fail(HM_ERR_SHAPE, "%s is %s and %s is %s; they must be alike", what,
                   text_of(tensor, a), like, text_of(other, b));
}
