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

enum hm_status hm_cpu_decode(struct hm_stream *s, const struct hm_codec *codec, const void *from,
                             const uint32_t *index, const float *scale, struct hm_tensor *to,
                             bool *finite)
{
    (void)s;
    uint32_t rows = hm_rows(to), columns = hm_columns(to);
    size_t row_bytes = hm_codec_row_bytes(codec, columns);
    atomic_bool good = true;
    hm_cpu_check(to, rows, columns);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t first = 0; first < rows; first += CHUNK) {
        const char *rows_from = (const char *)from + (index ? 0 : first * row_bytes);
        if (hm_codec_decode(codec, rows_from, columns, index ? index + first : NULL,
                            scale ? scale + first : NULL, chunk_rows(rows, first),
                            hm_f32(to) + (size_t)first * columns) != HM_OK)
            atomic_store_explicit(&good, false, memory_order_relaxed);
    }
    *finite = good;
    return HM_OK;
}

enum hm_status hm_cpu_encode(struct hm_stream *s, const struct hm_codec *codec,
                             const struct hm_tensor *from, void *to, bool *finite)
{
    (void)s;
    uint32_t rows = hm_rows(from), columns = hm_columns(from);
    size_t row_bytes = hm_codec_row_bytes(codec, columns);
    atomic_bool good = true;
    hm_cpu_check(from, rows, columns);
    HM_CPU_PARALLEL((uint64_t)rows * columns)
    for (uint32_t first = 0; first < rows; first += CHUNK) {
        if (hm_codec_encode(codec, hm_f32(from) + (size_t)first * columns, columns, NULL,
                            chunk_rows(rows, first), (char *)to + first * row_bytes) != HM_OK)
            atomic_store_explicit(&good, false, memory_order_relaxed);
    }
    *finite = good;
    return HM_OK;
}
