/* tensor/codec_neon.c - the codecs on arm64, whose every processor has NEON with half precision
 * conversions: 4 values a vector. */
#include "tensor/codec_kernels.h"

#if defined(__aarch64__) && defined(__GNUC__)

#include <arm_neon.h>
#include <float.h>
#include <stdint.h>

#define HM_VECTOR
#define INLINE HM_VECTOR static inline

enum { VECTOR = 4 };
typedef float32x4_t vector;
typedef uint32x4_t bad;

INLINE vector v_load(const void *from)
{
    return vreinterpretq_f32_u8(vld1q_u8(from));
}
INLINE void v_store(float *to, vector v)
{
    vst1q_f32(to, v);
}
INLINE vector v_set(float value)
{
    return vdupq_n_f32(value);
}
INLINE vector v_add(vector a, vector b)
{
    return vaddq_f32(a, b);
}
INLINE vector v_sub(vector a, vector b)
{
    return vsubq_f32(a, b);
}
INLINE vector v_mul(vector a, vector b)
{
    return vmulq_f32(a, b);
}
INLINE vector v_min(vector a, vector b)
{
    return vminq_f32(a, b);
}
INLINE vector v_max(vector a, vector b)
{
    return vmaxq_f32(a, b);
}
INLINE float v_lowest(vector v)
{
    return vminvq_f32(v);
}
INLINE float v_highest(vector v)
{
    return vmaxvq_f32(v);
}

INLINE void v_f16_store(void *to, vector v)
{
    vst1_u8(to, vreinterpret_u8_f16(vcvt_f16_f32(v)));
}
INLINE vector v_f16_load(const void *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}
INLINE void v_bf16_store(void *to, vector v)
{
    uint32x4_t bits = vreinterpretq_u32_f32(v);
    uint32x4_t size = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    size = vminq_u32(size, vdupq_n_u32(0x7f7f7fff));
    uint32x4_t odd = vandq_u32(vshrq_n_u32(size, 16), vdupq_n_u32(1));
    size = vaddq_u32(size, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    uint32x4_t sign = vandq_u32(bits, vdupq_n_u32(0x80000000));
    vst1_u8(to, vreinterpret_u8_u16(vshrn_n_u32(vorrq_u32(size, sign), 16)));
}
INLINE vector v_bf16_load(const void *from)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(from)), 16));
}
INLINE void v_u8_store(void *to, const vector v[4])
{
    uint16x4_t part[4];
    for (unsigned k = 0; k < 4; k++) part[k] = vqmovun_s32(vcvtnq_s32_f32(v[k]));
    uint8x8_t low = vqmovn_u16(vcombine_u16(part[0], part[1]));
    uint8x8_t high = vqmovn_u16(vcombine_u16(part[2], part[3]));
    vst1q_u8(to, vcombine_u8(low, high));
}
INLINE vector v_u8_load(const void *from)
{
    uint32_t four;
    __builtin_memcpy(&four, from, sizeof four);
    uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

INLINE bad bad_none(void)
{
    return vdupq_n_u32(0);
}
INLINE bad bad_infinite(bad so_far, vector v)
{
    return vorrq_u32(so_far, vmvnq_u32(vcaleq_f32(v, v_set(FLT_MAX))));
}
INLINE bad bad_nan(bad so_far, vector a, vector b)
{
    return vorrq_u32(so_far, vmvnq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))));
}
INLINE int bad_any(bad so_far)
{
    return vmaxvq_u32(so_far) != 0;
}

#include "tensor/codec_vector.h"

const struct hm_codec_kernels hm_codec_kernels_neon = HM_CODEC_KERNELS("neon");

#endif
