/* moe/shape.h - inputs of any number of dimensions: the last is columns, those before it are rows.
 * */
#ifndef HM_MOE_SHAPE_H
#define HM_MOE_SHAPE_H

#include "tensor/tensor.h"

/* Rows of [.., columns]; `columns` 0: any, and told.  HM_ERR_SHAPE with a line that calls the
 * tensor `what`: not f32, another last dimension, no rows, too many, or less memory than the shape
 * says. */
HM_MUST_CHECK enum hm_status hm_shape_rows(const char *what, const struct hm_tensor *tensor,
                                           uint32_t *columns, uint32_t *rows);
/* HM_ERR_SHAPE with a line, unless both have the same dims. */
HM_MUST_CHECK enum hm_status hm_shape_same(const char *what, const struct hm_tensor *tensor,
                                           const char *like, const struct hm_tensor *other);

#endif
