/* api/remote.h - what remote experts and mixtures are made of; for src/api. */
#ifndef HM_API_REMOTE_H
#define HM_API_REMOTE_H

#include "api/node.h"
#include "moe/layers.h"
#include "moe/mixture.h"
#include "moe/remote_expert.h"

struct hm_remote_expert {
    struct hm_node *node;
    struct hm_uid uid;
    const struct hm_codec *codec; /* NULL: none */
};
struct hm_remote_mixture {
    struct hm_node *node;
    struct hm_mixture *mixture;
    struct hm_stream *stream;
    struct hm_layer *gate;
    float balance;
};
/* A view of the caller's array; one dimension is one row.  HM_ERR_INVALID with a line. */
HM_MUST_CHECK enum hm_status hm_array_tensor(const struct hm_array *array,
                                             struct hm_tensor *tensor);
/* HM_ERR_SHAPE with a line. */
HM_MUST_CHECK enum hm_status hm_array_same_shape(const struct hm_array *a,
                                                 const struct hm_array *b);

#endif
