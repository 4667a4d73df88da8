/* tensor/codec_kernels.h - one row of each codec, for one instruction set.  For codec*.c, their
 * tests and the benchmark; everybody else has codec.h. */
#ifndef HM_TENSOR_CODEC_KERNELS_H
#define HM_TENSOR_CODEC_KERNELS_H

#include "tensor/codec.h"

#include <stdbool.h>

/* False: a value is not finite, or does not fit; what is in `to` means nothing then. */
typedef bool (*hm_codec_encode_fn)(const float *row, uint32_t columns, void *to);
typedef bool (*hm_codec_decode_fn)(const void *row, uint32_t columns, float scale, float *to);
struct hm_codec_kernels {
    const char *name;
    hm_codec_encode_fn encode[HM_CODEC_COUNT];
    hm_codec_decode_fn decode[HM_CODEC_COUNT];
};
/* The definition of every codec: plain C, a value at a time. */
extern const struct hm_codec_kernels hm_codec_kernels_scalar;
/* Each gives the scalar ones' bits.  Only where the processor has it. */
#if defined(__x86_64__) && defined(__GNUC__)
extern const struct hm_codec_kernels hm_codec_kernels_avx2, hm_codec_kernels_avx512;
#elif defined(__aarch64__) && defined(__GNUC__)
extern const struct hm_codec_kernels hm_codec_kernels_neon;
#endif
enum { HM_CODEC_KERNELS_MAX = 3 };
/* Those that this processor can run, the best first; returns how many. */
unsigned hm_codec_kernels_list(const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX]);

#endif
