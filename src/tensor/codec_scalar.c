/* tensor/codec_scalar.c - what every codec means: plain C, a value at a time, the same on every
 * machine.  The vectorised kernels are tested against it bit by bit, and it runs where there are
 * none. */
#include "tensor/codec_kernels.h"
#include "tensor/codec_value.h"

static bool none_encode(const float *row, uint32_t columns, void *to)
{
    memcpy(to, row, columns * sizeof(float));
    return true; /* its receiver looks */
}

#define ENCODE_VALUES(name)                                                                        \
    static bool name##_encode(const float *row, uint32_t columns, void *to)                        \
    {                                                                                              \
        bool finite = true;                                                                        \
        for (size_t i = 0; i < columns; i++) {                                                     \
            uint16_t half = hm_##name##_encode(row[i]);                                            \
            memcpy((char *)to + i * sizeof half, &half, sizeof half);                              \
            finite = finite && hm_f32_finite(row[i]);                                              \
        }                                                                                          \
        return finite;                                                                             \
    }
#define DECODE_VALUES(name, type)                                                                  \
    static bool name##_decode(const void *row, uint32_t columns, float scale, float *to)           \
    {                                                                                              \
        bool finite = true;                                                                        \
        for (size_t i = 0; i < columns; i++) {                                                     \
            type coded;                                                                            \
            memcpy(&coded, (const char *)row + i * sizeof coded, sizeof coded);                    \
            to[i] = hm_##name##_decode(coded) * scale;                                             \
            finite = finite && hm_f32_finite(to[i]);                                               \
        }                                                                                          \
        return finite;                                                                             \
    }

ENCODE_VALUES(f16)
ENCODE_VALUES(bf16)
#define hm_none_decode(value) (value)
DECODE_VALUES(none, float)
DECODE_VALUES(f16, uint16_t)
DECODE_VALUES(bf16, uint16_t)

/* One block of u8: header, then `count` codes. */
static bool u8_block_encode(const float *value, uint32_t count, uint8_t *to)
{
    struct hm_u8_block block;
    float low = value[0], high = value[0];
    for (uint32_t i = 0; i < count; i++) {
        if (!hm_f32_finite(value[i])) return false;
        low = value[i] < low ? value[i] : low;
        high = value[i] > high ? value[i] : high;
    }
    if (!hm_u8_block_fit(low, high, &block)) return false;
    hm_u8_block_save(&block, to);
    for (uint32_t i = 0; i < count; i++)
        to[HM_U8_HEADER_BYTES + i] = hm_u8_encode(value[i], &block);
    return true;
}

static bool u8_encode(const float *row, uint32_t columns, void *to)
{
    uint8_t *at = to;
    if (hm_u8_stays_f32(columns)) return none_encode(row, columns, to);
    for (uint32_t first = 0; first < columns; first += HM_CODEC_BLOCK) {
        uint32_t count = hm_u8_block_count(columns, first);
        if (!u8_block_encode(row + first, count, at)) return false;
        at += HM_U8_HEADER_BYTES + count;
    }
    return true;
}

static bool u8_decode(const void *row, uint32_t columns, float scale, float *to)
{
    const uint8_t *at = row;
    if (hm_u8_stays_f32(columns)) return none_decode(row, columns, scale, to);
    for (uint32_t first = 0; first < columns; first += HM_CODEC_BLOCK) {
        uint32_t count = hm_u8_block_count(columns, first);
        struct hm_u8_block block;
        if (!hm_u8_block_load(at, scale, &block)) return false;
        at += HM_U8_HEADER_BYTES;
        for (uint32_t i = 0; i < count; i++) to[first + i] = hm_u8_decode(at[i], &block);
        at += count;
    }
    return true;
}

const struct hm_codec_kernels hm_codec_kernels_scalar = {
    .name = "scalar",
    .encode = {none_encode, f16_encode, bf16_encode, u8_encode},
    .decode = {none_decode, f16_decode, bf16_decode, u8_decode},
};
