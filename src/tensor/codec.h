/* tensor/codec.h - compression of activations and gradients.  Stateless, const, one table; `id` is
 * the byte on the wire. */
#ifndef HM_TENSOR_CODEC_H
#define HM_TENSOR_CODEC_H

#include "tensor/tensor.h"

struct hm_codec {
    uint8_t id; /* 0 none; 1 f16, 2 bf16, 3 u8 are reserved for the codecs of that name */
    const char *name;
    size_t (*bytes_max)(uint64_t elements);
    /* `elements` f32 values <-> encoded bytes.  decode: HM_ERR_PEER_PROTOCOL unless bytes are
     * exactly what encode gives. */
    HM_MUST_CHECK enum hm_status (*encode)(const float *source, uint64_t elements,
                                           struct hm_span *target);
    HM_MUST_CHECK enum hm_status (*decode)(const struct hm_span *source, uint64_t elements,
                                           float *target);
};
const struct hm_codec *hm_codec_find(uint8_t id); /* NULL: unknown here */
const struct hm_codec *
hm_codec_by_name(const char *name); /* NULL: unknown; hm_fail line names the known ones */

#endif
