/* tensor/codec.c - the table of codecs, which instructions code here, and the loops over rows.
 *
 * Invariants: a coded row never has more bytes than the row, so that what holds rows holds them
 *             coded as well. */
#include "tensor/codec.h"

#include "base/assert.h"
#include "tensor/codec_kernels.h"
#include "tensor/codec_value.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static const struct hm_codec codecs[HM_CODEC_COUNT] = {
    {HM_CODEC_NONE, "none"},
    {HM_CODEC_F16, "f16"},
    {HM_CODEC_BF16, "bf16"},
    {HM_CODEC_U8, "u8"},
};

/* ---- names ----------------------------------------------------------------------------------- */

const struct hm_codec *hm_codec_find(uint8_t id)
{
    return id < HM_CODEC_COUNT ? &codecs[id] : NULL;
}

/* The codec of these first `length` characters. */
static const struct hm_codec *by_name(const char *name, size_t length)
{
    for (unsigned i = 0; i < HM_CODEC_COUNT; i++) {
        if (strlen(codecs[i].name) == length && memcmp(codecs[i].name, name, length) == 0)
            return &codecs[i];
    }
    char known[HM_CODEC_SET_TEXT_BYTES];
    (void)hm_fail(HM_ERR_INVALID, "'%.*s' is no codec; there are %s",
                  (int)(length < 32 ? length : 32), name, hm_codec_set_text(HM_CODECS_ALL, known));
    return NULL;
}

const struct hm_codec *hm_codec_by_name(const char *name)
{
    return by_name(name, strlen(name));
}

enum hm_status hm_codec_set_parse(const char *names, uint64_t *set)
{
    uint64_t parsed = UINT64_C(1) << HM_CODEC_NONE;
    for (const char *at = names;;) {
        size_t length = strcspn(at, ",");
        const struct hm_codec *codec = by_name(at, length);
        if (!codec) return HM_ERR_INVALID;
        parsed |= UINT64_C(1) << codec->id;
        if (at[length] == '\0') break;
        at += length + 1;
    }
    *set = parsed;
    return HM_OK;
}

const char *hm_codec_set_text(uint64_t set, char text[HM_CODEC_SET_TEXT_BYTES])
{
    int used = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < HM_CODEC_COUNT; i++) {
        if (!(set >> i & 1)) continue;
        used += snprintf(text + used, HM_CODEC_SET_TEXT_BYTES - (size_t)used, "%s%s",
                         used > 0 ? "," : "", codecs[i].name);
        HM_ASSERT(used < HM_CODEC_SET_TEXT_BYTES);
    }
    return text;
}

/* ---- instructions ---------------------------------------------------------------------------- */

unsigned hm_codec_kernels_list(const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX])
{
    unsigned count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx512f")) list[count++] = &hm_codec_kernels_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
        list[count++] = &hm_codec_kernels_avx2;
#elif defined(__aarch64__) && defined(__GNUC__)
    list[count++] = &hm_codec_kernels_neon;
#endif
    list[count++] = &hm_codec_kernels_scalar;
    return count;
}

/* Threads that come here at once find the same. */
static const struct hm_codec_kernels *kernels(void)
{
    static const struct hm_codec_kernels *_Atomic best;
    const struct hm_codec_kernels *here = atomic_load_explicit(&best, memory_order_relaxed);
    if (!here) {
        const struct hm_codec_kernels *list[HM_CODEC_KERNELS_MAX];
        (void)hm_codec_kernels_list(list);
        here = list[0];
        atomic_store_explicit(&best, here, memory_order_relaxed);
    }
    return here;
}

const char *hm_codec_instructions(void)
{
    return kernels()->name;
}

/* ---- rows ------------------------------------------------------------------------------------ */

size_t hm_codec_row_bytes(const struct hm_codec *codec, uint32_t columns)
{
    size_t blocks = ((size_t)columns + HM_CODEC_BLOCK - 1) / HM_CODEC_BLOCK;
    switch ((enum hm_codec_id)codec->id) {
    case HM_CODEC_F16:
    case HM_CODEC_BF16: return columns * sizeof(uint16_t);
    case HM_CODEC_U8:
        if (!hm_u8_stays_f32(columns)) return columns + blocks * HM_U8_HEADER_BYTES;
        break;
    case HM_CODEC_NONE:
    case HM_CODEC_COUNT: break;
    }
    return columns * sizeof(float);
}

enum hm_status hm_codec_encode(const struct hm_codec *codec, const float *from, uint32_t columns,
                               const uint32_t *index, uint32_t rows, void *to)
{
    hm_codec_encode_fn encode = kernels()->encode[codec->id];
    size_t row_bytes = hm_codec_row_bytes(codec, columns);
    for (uint32_t i = 0; i < rows; i++) {
        const float *row = from + (size_t)(index ? index[i] : i) * columns;
        if (!encode(row, columns, (uint8_t *)to + i * row_bytes)) return HM_ERR_NUMERIC;
    }
    return HM_OK;
}

enum hm_status hm_codec_decode(const struct hm_codec *codec, const void *from, uint32_t columns,
                               const uint32_t *index, const float *scale, uint32_t rows, float *to)
{
    hm_codec_decode_fn decode = kernels()->decode[codec->id];
    size_t row_bytes = hm_codec_row_bytes(codec, columns);
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *row = (const uint8_t *)from + (size_t)(index ? index[i] : i) * row_bytes;
        if (!decode(row, columns, scale ? scale[i] : 1.0f, to + (size_t)i * columns))
            return HM_ERR_NUMERIC;
    }
    return HM_OK;
}

/* A piece at a time, so that what is found early ends it, and the loop over a piece is one of
 * vectors. */
bool hm_f32_all_finite(const void *values, size_t count)
{
    enum { PIECE = 1024 };
    const uint32_t exponent = UINT32_C(0x7f800000);
    const char *at = values;
    for (size_t first = 0; first < count; first += PIECE, at += PIECE * sizeof(uint32_t)) {
        size_t end = count - first < PIECE ? count - first : PIECE;
        uint32_t wrong = 0;
        for (size_t i = 0; i < end; i++) {
            uint32_t bits;
            memcpy(&bits, at + i * sizeof bits, sizeof bits);
            wrong |= (bits & exponent) == exponent;
        }
        if (wrong) return false;
    }
    return true;
}
