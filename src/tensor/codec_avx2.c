/* tensor/codec_avx2.c - the codecs on AVX2 and F16C: 8 values a vector. */
#include "tensor/codec_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <float.h>
#include <immintrin.h>
#include <stdint.h>

/* The program is built for every x86-64; codec.c calls this only where the processor has both. */
#define HM_VECTOR __attribute__((target("avx2,f16c")))
#define INLINE    HM_VECTOR static inline

enum { VECTOR = 8 };
typedef __m256 vector, bad;

INLINE vector v_load(const void *from)
{
    return _mm256_loadu_ps(from);
}
INLINE void v_store(float *to, vector v)
{
    _mm256_storeu_ps(to, v);
}
INLINE vector v_set(float value)
{
    return _mm256_set1_ps(value);
}
INLINE vector v_add(vector a, vector b)
{
    return _mm256_add_ps(a, b);
}
INLINE vector v_sub(vector a, vector b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vector v_mul(vector a, vector b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vector v_min(vector a, vector b)
{
    return _mm256_min_ps(a, b);
}
INLINE vector v_max(vector a, vector b)
{
    return _mm256_max_ps(a, b);
}
/* The halves with each other, until one value is left. */
#define HALVES(v, of)                                                                              \
    do {                                                                                           \
        __m128 two = of##_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));              \
        two = of##_ps(two, _mm_movehl_ps(two, two));                                               \
        return _mm_cvtss_f32(of##_ss(two, _mm_movehdup_ps(two)));                                  \
    } while (0)
INLINE float v_lowest(vector v)
{
    HALVES(v, _mm_min);
}
INLINE float v_highest(vector v)
{
    HALVES(v, _mm_max);
}

INLINE void v_f16_store(void *to, vector v)
{
    _mm_storeu_si128(to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE vector v_f16_load(const void *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(from));
}
INLINE void v_bf16_store(void *to, vector v)
{
    __m256i bits = _mm256_castps_si256(v), one = _mm256_set1_epi32(1);
    __m256i size = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    size = _mm256_min_epi32(size, _mm256_set1_epi32(0x7f7f7fff));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(size, 16), one);
    size = _mm256_add_epi32(size, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i sign = _mm256_and_si256(bits, _mm256_set1_epi32((int)0x80000000));
    __m256i half = _mm256_srli_epi32(_mm256_or_si256(size, sign), 16);
    _mm_storeu_si128(
        to, _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
INLINE vector v_bf16_load(const void *from)
{
    __m256i half = _mm256_cvtepu16_epi32(_mm_loadu_si128(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(half, 16));
}
INLINE void v_u8_store(void *to, const vector v[4])
{
    __m256i low = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    __m256i high = _mm256_packs_epi32(_mm256_cvtps_epi32(v[2]), _mm256_cvtps_epi32(v[3]));
    /* Packing works on halves of 16 bytes: four values of each vector have come to lie in each. */
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i byte = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
    _mm256_storeu_si256(to, byte);
}
INLINE vector v_u8_load(const void *from)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from)));
}

INLINE bad bad_none(void)
{
    return _mm256_setzero_ps();
}
INLINE bad bad_infinite(bad so_far, vector v)
{
    vector size = _mm256_andnot_ps(v_set(-0.0f), v);
    return _mm256_or_ps(so_far, _mm256_cmp_ps(size, v_set(FLT_MAX), _CMP_NLE_UQ));
}
INLINE bad bad_nan(bad so_far, vector a, vector b)
{
    return _mm256_or_ps(so_far, _mm256_cmp_ps(a, b, _CMP_UNORD_Q));
}
INLINE int bad_any(bad so_far)
{
    return _mm256_movemask_ps(so_far);
}

#include "tensor/codec_vector.h"

const struct hm_codec_kernels hm_codec_kernels_avx2 = HM_CODEC_KERNELS("avx2");

#endif
