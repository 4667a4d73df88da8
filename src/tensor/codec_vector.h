/* tensor/codec_vector.h - the loops of every codec over whole vectors; included by one file for
 * each instruction set (codec_avx2.c and its like), after it has defined
 *
 *   HM_VECTOR          what every function here needs to be compiled with (its target attribute)
 *   VECTOR             values in a vector
 *   vector, bad        a vector of f32; what has gone wrong so far, a value at a time
 *   v_load, v_store, v_set, v_add, v_sub, v_mul, v_min, v_max, v_lowest, v_highest
 *   v_f16_store, v_f16_load    VECTOR values; store: to nearest even, none over HM_F16_LARGEST
 *   v_bf16_store, v_bf16_load  likewise; what is over the largest value becomes that
 *   v_u8_store, v_u8_load      4 * VECTOR and VECTOR values; store: to nearest even, each in
 *                              [0, 255] (of a NaN: anything)
 *   bad_none, bad_infinite, bad_nan, bad_any    infinite: over FLT_MAX, or NaN; nan: of two vectors
 *
 * Each function does what its namesake in codec_scalar.c does, in the same order for every value;
 * what is left over at the end of a row is done by codec_value.h.  Bytes in coded rows are not
 * aligned. */
#include "tensor/codec_kernels.h"
#include "tensor/codec_value.h"

enum { STEP = 4 * VECTOR };

/* Columns that whole steps cover. */
static inline size_t whole(size_t columns)
{
    return columns - columns % STEP;
}

HM_VECTOR static bool none_encode(const float *row, uint32_t columns, void *to)
{
    return hm_codec_kernels_scalar.encode[HM_CODEC_NONE](row, columns, to);
}

/* Codecs that take each value by itself.  Of the encoded the whole steps store of(value), in two
 * bytes. */
#define ENCODE_VALUES(name, id, of)                                                                \
    HM_VECTOR static bool name##_encode(const float *row, uint32_t columns, void *to)              \
    {                                                                                              \
        size_t i = 0, end = whole(columns);                                                        \
        uint8_t *at = to;                                                                          \
        bad wrong = bad_none();                                                                    \
        for (; i < end; i += STEP) {                                                               \
            for (unsigned k = 0; k < STEP; k += VECTOR) {                                          \
                vector value = v_load(row + i + k);                                                \
                wrong = bad_infinite(wrong, value);                                                \
                v_##name##_store(at + 2 * (i + k), of(value));                                     \
            }                                                                                      \
        }                                                                                          \
        bool rest =                                                                                \
            hm_codec_kernels_scalar.encode[id](row + i, columns - (uint32_t)i, at + 2 * i);        \
        return rest && !bad_any(wrong);                                                            \
    }
#define DECODE_VALUES(name, id, bytes)                                                             \
    HM_VECTOR static bool name##_decode(const void *row, uint32_t columns, float scale, float *to) \
    {                                                                                              \
        size_t i = 0, end = whole(columns);                                                        \
        const uint8_t *at = row;                                                                   \
        vector factor = v_set(scale);                                                              \
        bad wrong = bad_none();                                                                    \
        for (; i < end; i += STEP) {                                                               \
            for (unsigned k = 0; k < STEP; k += VECTOR) {                                          \
                vector value = v_mul(v_##name##_load(at + (bytes) * (i + k)), factor);             \
                wrong = bad_infinite(wrong, value);                                                \
                v_store(to + i + k, value);                                                        \
            }                                                                                      \
        }                                                                                          \
        bool rest = hm_codec_kernels_scalar.decode[id](at + (bytes)*i, columns - (uint32_t)i,      \
                                                       scale, to + i);                             \
        return rest && !bad_any(wrong);                                                            \
    }

HM_VECTOR static inline vector in_f16(vector value)
{
    return v_max(v_min(value, v_set(HM_F16_LARGEST)), v_set(-HM_F16_LARGEST));
}

ENCODE_VALUES(f16, HM_CODEC_F16, in_f16)
ENCODE_VALUES(bf16, HM_CODEC_BF16, )
#define v_none_load v_load
DECODE_VALUES(none, HM_CODEC_NONE, 4)
DECODE_VALUES(f16, HM_CODEC_F16, 2)
DECODE_VALUES(bf16, HM_CODEC_BF16, 2)

/* ---- u8 -------------------------------------------------------------------------------------- */

/* Smallest and largest value, where none is NaN (else anything). */
HM_VECTOR static void extremes(const float *value, uint32_t count, float *low, float *high)
{
    vector least[4], most[4];
    size_t i = 0, end = whole(count);
    for (unsigned k = 0; k < 4; k++) least[k] = most[k] = v_set(value[0]);
    for (; i < end; i += STEP) {
        for (unsigned k = 0; k < 4; k++) {
            vector here = v_load(value + i + k * VECTOR);
            least[k] = v_min(here, least[k]);
            most[k] = v_max(here, most[k]);
        }
    }
    *low = v_lowest(v_min(v_min(least[0], least[1]), v_min(least[2], least[3])));
    *high = v_highest(v_max(v_max(most[0], most[1]), v_max(most[2], most[3])));
    for (; i < count; i++) {
        *low = value[i] < *low ? value[i] : *low;
        *high = value[i] > *high ? value[i] : *high;
    }
}

HM_VECTOR static bool u8_block_encode(const float *value, uint32_t count, uint8_t *to)
{
    struct hm_u8_block block;
    float low, high;
    extremes(value, count, &low, &high);
    if (!hm_u8_block_fit(low, high, &block)) return false;
    hm_u8_block_save(&block, to);
    to += HM_U8_HEADER_BYTES;
    size_t i = 0, end = whole(count);
    vector first = v_set(block.low), per_step = v_set(block.per_step);
    bad wrong = bad_none();
    for (; i < end; i += STEP) {
        vector place[4];
        for (unsigned k = 0; k < 4; k++) {
            place[k] = v_mul(v_sub(v_load(value + i + k * VECTOR), first), per_step);
        }
        wrong = bad_nan(bad_nan(wrong, place[0], place[1]), place[2], place[3]);
        v_u8_store(to + i, place);
    }
    bool finite = !bad_any(wrong);
    for (; i < count && finite; i++) {
        finite = hm_f32_finite(value[i]);
        if (finite) to[i] = hm_u8_encode(value[i], &block);
    }
    return finite;
}

HM_VECTOR static bool u8_encode(const float *row, uint32_t columns, void *to)
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

HM_VECTOR static bool u8_decode(const void *row, uint32_t columns, float scale, float *to)
{
    const uint8_t *at = row;
    if (hm_u8_stays_f32(columns)) return none_decode(row, columns, scale, to);
    for (uint32_t first = 0; first < columns; first += HM_CODEC_BLOCK) {
        uint32_t count = hm_u8_block_count(columns, first);
        struct hm_u8_block block;
        if (!hm_u8_block_load(at, scale, &block)) return false;
        at += HM_U8_HEADER_BYTES;
        size_t i = 0, end = whole(count);
        vector low = v_set(block.low), step = v_set(block.step);
        for (; i < end; i += STEP) {
            for (unsigned k = 0; k < STEP; k += VECTOR)
                v_store(to + first + i + k, v_add(low, v_mul(v_u8_load(at + i + k), step)));
        }
        for (; i < count; i++) to[first + i] = hm_u8_decode(at[i], &block);
        at += count;
    }
    return true;
}

#define HM_CODEC_KERNELS(title)                                                                    \
    {                                                                                              \
        .name = (title), .encode = {none_encode, f16_encode, bf16_encode, u8_encode},              \
        .decode = {none_decode, f16_decode, bf16_decode, u8_decode},                               \
    }
