/* tensor/codec.c - the table of codecs.  `none` is there; f16, bf16 and u8 have their ids kept for
 * them and are refused by name, so that a newer peer's choice ends in a line that says what is
 * wrong.
 *
 * Failure modes: encode: HM_ERR_TOO_BIG if the target is too small; decode: HM_ERR_PEER_PROTOCOL
 *                for any other length.
 * Invariants:    encode sets target->bytes to what it wrote; on failure nothing of the target is
 *                touched. */
#include "tensor/codec.h"

#include "base/assert.h"

#include <string.h>

/* Both platforms that we build for are little-endian, so memory is the wire form. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "codec none copies f32 as little-endian");

static size_t none_bytes_max(uint64_t elements)
{
    return (size_t)elements * sizeof(float);
}

static enum hm_status none_encode(const float *source, uint64_t elements, struct hm_span *target)
{
    size_t bytes = none_bytes_max(elements);
    if (target->bytes < bytes) return HM_ERR_TOO_BIG;
    if (bytes > 0) memcpy(target->base, source, bytes);
    target->bytes = bytes;
    return HM_OK;
}

static enum hm_status none_decode(const struct hm_span *source, uint64_t elements, float *target)
{
    if (source->bytes % sizeof(float) != 0 || source->bytes / sizeof(float) != elements)
        return HM_ERR_PEER_PROTOCOL;
    if (source->bytes > 0) memcpy(target, source->base, source->bytes);
    return HM_OK;
}

static const struct hm_codec codecs[] = {
    {0, "none", none_bytes_max, none_encode, none_decode},
};
static const char *const reserved[] = {"f16", "bf16", "u8"};

const struct hm_codec *hm_codec_find(uint8_t id)
{
    for (size_t i = 0; i < HM_COUNT_OF(codecs); i++) {
        if (codecs[i].id == id) return &codecs[i];
    }
    return NULL;
}

const struct hm_codec *hm_codec_by_name(const char *name)
{
    for (size_t i = 0; i < HM_COUNT_OF(codecs); i++) {
        if (strcmp(codecs[i].name, name) == 0) return &codecs[i];
    }
    for (size_t i = 0; i < HM_COUNT_OF(reserved); i++) {
        if (strcmp(reserved[i], name) == 0) {
            (void)hm_fail(HM_ERR_UNSUPPORTED, "codec '%s' is not in this version; use none", name);
            return NULL;
        }
    }
    (void)hm_fail(HM_ERR_INVALID, "'%s' is no codec; the known one is none", name);
    return NULL;
}
