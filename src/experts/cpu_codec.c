/* experts/cpu_codec.c - coded rows in and out of batches: src/tensor's codecs, spread over the
 * team. */
#include "experts/cpu.h"

#include <stdatomic.h>

/* Rows that a thread takes at a time: enough that the loop around them costs nothing. */
enum { CHUNK = 16 };

static uint32_t chunk_rows(uint32_t rows, uint32_t first)
{
    return rows - first < CHUNK ? rows - first : CHUNK;
}

/* Rows [first, first + CHUNK) or what is left of them. */
static bool decode_chunk(const struct hm_codec *codec, const char *from, const uint32_t *index,
                         const float *scale, const struct hm_tensor *to, uint32_t first)
{
    uint32_t rows = hm_rows(to), columns = hm_columns(to);
    size_t row_bytes = hm_codec_row_bytes(codec, columns);
    return hm_codec_decode(codec, from + (index ? 0 : first * row_bytes), columns,
                           index ? index + first : NULL, scale ? scale + first : NULL,
                           chunk_rows(rows, first), hm_f32(to) + (size_t)first * columns) == HM_OK;
}

static bool encode_chunk(const struct hm_codec *codec, const struct hm_tensor *from, char *to,
                         uint32_t first)
{
    uint32_t rows = hm_rows(from), columns = hm_columns(from);
    return hm_codec_encode(codec, hm_f32(from) + (size_t)first * columns, columns, NULL,
                           chunk_rows(rows, first),
                           to + first * hm_codec_row_bytes(codec, columns)) == HM_OK;
}

/* One chunk does without the team: a parallel region of one thread still ends with a system call, and a
 * batch of single rows has a region a row. */
enum hm_status hm_cpu_decode(struct hm_stream *s, const struct hm_codec *codec, const void *from,
                             const uint32_t *index, const float *scale, struct hm_tensor *to,
                             bool *finite)
{
    (void)s;
    uint32_t rows = hm_rows(to), columns = hm_columns(to);
    hm_cpu_check(to, rows, columns);
    if (rows <= CHUNK) {
        *finite = rows == 0 || decode_chunk(codec, from, index, scale, to, 0);
        return HM_OK;
    }
    atomic_bool good = true;
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t first = 0; first < rows; first += CHUNK)
        if (!decode_chunk(codec, from, index, scale, to, first))
            atomic_store_explicit(&good, false, memory_order_relaxed);
    *finite = good;
    return HM_OK;
}

enum hm_status hm_cpu_encode(struct hm_stream *s, const struct hm_codec *codec,
                             const struct hm_tensor *from, void *to, bool *finite)
{
    (void)s;
    uint32_t rows = hm_rows(from), columns = hm_columns(from);
    hm_cpu_check(from, rows, columns);
    if (rows <= CHUNK) {
        *finite = rows == 0 || encode_chunk(codec, from, to, 0);
        return HM_OK;
    }
    atomic_bool good = true;
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t first = 0; first < rows; first += CHUNK)
        if (!encode_chunk(codec, from, to, first))
            atomic_store_explicit(&good, false, memory_order_relaxed);
    *finite = good;
    return HM_OK;
}
