/* tensor/codec_avx512.c - the codecs on AVX-512F: 16 values a vector. */
#include "tensor/codec_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <immintrin.h>
#include <stdint.h>

/* The program is built for every x86-64; codec.c calls this only where the processor has it. */
#define HM_VECTOR __attribute__((target("avx512f")))
#define INLINE    HM_VECTOR static inline

enum { VECTOR = 16 };
typedef __m512 vector;
typedef __mmask16 bad;

INLINE vector v_load(const void *from)
{
    return _mm512_loadu_ps(from);
}
INLINE void v_store(float *to, vector v)
{
    _mm512_storeu_ps(to, v);
}
INLINE vector v_set(float value)
{
    return _mm512_set1_ps(value);
}
INLINE vector v_add(vector a, vector b)
{
    return _mm512_add_ps(a, b);
}
INLINE vector v_sub(vector a, vector b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vector v_mul(vector a, vector b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vector v_min(vector a, vector b)
{
    return _mm512_min_ps(a, b);
}
INLINE vector v_max(vector a, vector b)
{
    return _mm512_max_ps(a, b);
}
INLINE float v_lowest(vector v)
{
    return _mm512_reduce_min_ps(v);
}
INLINE float v_highest(vector v)
{
    return _mm512_reduce_max_ps(v);
}

INLINE void v_f16_store(void *to, vector v)
{
    _mm256_storeu_si256(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vector v_f16_load(const void *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(from));
}
/* Not vcvtneps2bf16: that takes subnormal values for zero. */
INLINE void v_bf16_store(void *to, vector v)
{
    __m512i bits = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
    __m512i size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    size = _mm512_min_epi32(size, _mm512_set1_epi32(0x7f7f7fff));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(size, 16), one);
    size = _mm512_add_epi32(size, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i sign = _mm512_and_si512(bits, _mm512_set1_epi32((int)0x80000000));
    __m512i half = _mm512_srli_epi32(_mm512_or_si512(size, sign), 16);
    _mm256_storeu_si256(to, _mm512_cvtepi32_epi16(half));
}
INLINE vector v_bf16_load(const void *from)
{
    __m512i half = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(half, 16));
}
INLINE void v_u8_store(void *to, const vector v[4])
{
    for (unsigned k = 0; k < 4; k++)
        _mm_storeu_si128((__m128i *)to + k, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v[k])));
}
INLINE vector v_u8_load(const void *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from)));
}

INLINE bad bad_none(void)
{
    return 0;
}
INLINE bad bad_infinite(bad so_far, vector v)
{
    return so_far | _mm512_cmp_ps_mask(_mm512_abs_ps(v), v_set(FLT_MAX), _CMP_NLE_UQ);
}
INLINE bad bad_nan(bad so_far, vector a, vector b)
{
    return so_far | _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q);
}
INLINE int bad_any(bad so_far)
{
    return so_far != 0;
}

#include "tensor/codec_vector.h"

const struct hm_codec_kernels hm_codec_kernels_avx512 = HM_CODEC_KERNELS("avx512");

#endif
