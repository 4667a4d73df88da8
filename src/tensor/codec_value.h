/* tensor/codec_value.h - the arithmetic of one value, and of one u8 block's header.  The scalar
 * kernels are made of it; the vectorised ones use it for what is left over at the end of a row, and
 * do the same steps in the same order for the rest.
 *
 * Nothing here may be contracted or reassociated (a multiplication and an addition round twice):
 * src/tensor is compiled with -ffp-contract=off. */
#ifndef HM_TENSOR_CODEC_VALUE_H
#define HM_TENSOR_CODEC_VALUE_H

#include "tensor/codec.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Both platforms that we build for are little-endian, so memory is the wire form. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "coded rows are little-endian");

#define HM_F16_LARGEST 65504.0f
#define HM_U8_STEPS    255.0f
enum { HM_U8_HEADER_BYTES = 2 * sizeof(float) };

static inline uint32_t hm_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float hm_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* False for NaN too. */
static inline bool hm_f32_finite(float value)
{
    return fabsf(value) <= FLT_MAX;
}

/* Of a finite value, to nearest even; beyond the largest: the largest. */
static inline uint16_t hm_f16_encode(float value)
{
    uint32_t bits = hm_f32_bits(value), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x477fe000) size = 0x477fe000; /* 65504 */
    if (size < 0x38800000) {                  /* subnormal: adding 0.5 rounds to steps of 2^-24 */
        uint32_t rounded = hm_f32_bits(hm_f32_of_bits(size) + 0.5f);
        return (uint16_t)(sign | (rounded - 0x3f000000));
    }
    size += 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | (size - 0x38000000) >> 13);
}

static inline float hm_f16_decode(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, size = half & 0x7fff;
    if (size >= 0x7c00)
        size = 0x7f800000 | (size & 0x3ff) << 13; /* infinity, NaN */
    else if (size >= 0x400)
        size = (size << 13) + 0x38000000;
    else
        size = hm_f32_bits((float)size * 0x1p-24f);
    return hm_f32_of_bits(sign | size);
}

/* Of a finite value, to nearest even; beyond the largest: the largest. */
static inline uint16_t hm_bf16_encode(float value)
{
    uint32_t bits = hm_f32_bits(value), size = bits & 0x7fffffff;
    if (size > 0x7f7f7fff) size = 0x7f7f7fff; /* what is above would round to infinity */
    size += 0x7fff + (size >> 16 & 1);
    return (uint16_t)((bits >> 16 & 0x8000) | size >> 16);
}

static inline float hm_bf16_decode(uint16_t half)
{
    return hm_f32_of_bits((uint32_t)half << 16);
}

/* ---- u8: value = low + code * step ----------------------------------------------------------- */

struct hm_u8_block {
    float low, step;
    float per_step; /* 1 / step; encode only */
};

/* The header for values in [low, high]; false: they are not finite, or too far apart for f32.
 * Values that lie closer together than 255 times the smallest normal number count as equal. */
static inline bool hm_u8_block_fit(float low, float high, struct hm_u8_block *block)
{
    block->low = low + 0.0f; /* -0, or 0: which one a minimum gives is nobody's promise */
    block->step = (high - block->low) / HM_U8_STEPS;
    if (block->step < FLT_MIN) block->step = 0;
    block->per_step = block->step > 0 ? 1.0f / block->step : 0;
    return hm_f32_finite(block->low) && hm_f32_finite(block->low + HM_U8_STEPS * block->step);
}

/* A NaN has no code; the caller looks for it. */
static inline uint8_t hm_u8_encode(float value, const struct hm_u8_block *block)
{
    return (uint8_t)lrintf((value - block->low) * block->per_step);
}

static inline float hm_u8_decode(uint8_t code, const struct hm_u8_block *block)
{
    return block->low + (float)code * block->step;
}

static inline void hm_u8_block_save(const struct hm_u8_block *block, uint8_t *to)
{
    memcpy(to, &block->low, sizeof(float));
    memcpy(to + sizeof(float), &block->step, sizeof(float));
}

/* The header of values that are to be multiplied by `scale`.  False: a code would give a value that
 * is not finite; between the first and the last there is none if those two are. */
static inline bool hm_u8_block_load(const uint8_t *from, float scale, struct hm_u8_block *block)
{
    memcpy(&block->low, from, sizeof(float));
    memcpy(&block->step, from + sizeof(float), sizeof(float));
    block->low *= scale;
    block->step *= scale;
    return hm_f32_finite(block->low) && hm_f32_finite(block->low + HM_U8_STEPS * block->step);
}

/* Columns of the block that begins at column `first`; 0 at the end. */
static inline uint32_t hm_u8_block_count(uint32_t columns, uint32_t first)
{
    uint32_t rest = columns - first;
    return rest < HM_CODEC_BLOCK ? rest : HM_CODEC_BLOCK;
}

/* Rows that would grow stay f32. */
static inline bool hm_u8_stays_f32(uint32_t columns)
{
    return columns <= 2;
}

#endif
