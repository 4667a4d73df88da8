/* tensor/codec.h - compression of activations and gradients, a row at a time.
 *
 * A matrix of f32 rows <-> its coded rows, which lie one behind the other, all of the same size.
 * Both ways are fused with the copy that has to be made anyway: encode gathers the rows that a call
 * needs from wherever they lie, decode gathers (and scales) the rows that a batch needs out of the
 * slab that they arrived in.  docs/wire.md has the bytes.
 *
 *   none   the f32 values
 *   f16    IEEE half, rounded to nearest even; what is over its range becomes its largest value
 *   bf16   the upper half of an f32, rounded and bounded likewise
 *   u8     blocks of HM_CODEC_BLOCK columns: f32 minimum and step, then a byte a value; a row of
 *          which that would make more bytes (one or two columns) stays f32
 *
 * Every value has one definition (codec_scalar.c); what is vectorised gives the same bits.
 * Values that are not finite cross neither way: encode refuses them (but for none, whose receiver
 * does), and decode refuses bytes that give one.
 *
 * Thread: any.  Which instructions are used is found out at the first call. */
#ifndef HM_TENSOR_CODEC_H
#define HM_TENSOR_CODEC_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ids are wire format; in sets (what a server takes) they are bits. */
enum hm_codec_id { HM_CODEC_NONE, HM_CODEC_F16, HM_CODEC_BF16, HM_CODEC_U8, HM_CODEC_COUNT };
enum { HM_CODEC_BLOCK = 512 };
#define HM_CODECS_ALL ((UINT64_C(1) << HM_CODEC_COUNT) - 1)

struct hm_codec {
    uint8_t id;
    const char *name;
};
const struct hm_codec *hm_codec_find(uint8_t id); /* NULL: unknown here */
/* NULL: unknown; the hm_fail line names the known ones. */
const struct hm_codec *hm_codec_by_name(const char *name);
/* "none,u8" -> a set, in which none always is: who takes nothing else still understands plain rows.
 * HM_ERR_INVALID with a line. */
HM_MUST_CHECK enum hm_status hm_codec_set_parse(const char *names, uint64_t *set);
enum { HM_CODEC_SET_TEXT_BYTES = 64 };
/* A set's known names, "none,u8"; returns text. */
const char *hm_codec_set_text(uint64_t set, char text[HM_CODEC_SET_TEXT_BYTES]);

/* Bytes of one coded row: never more than the row's own. */
size_t hm_codec_row_bytes(const struct hm_codec *codec, uint32_t columns);

/* Coded row i of `to` is row index[i] of `from` (index NULL: i).
 * Shapes:  from [.., columns]; to [rows * hm_codec_row_bytes], not in `from`
 * Errors:  HM_ERR_NUMERIC: a value is not finite (or the values of a u8 block lie further apart
 *          than f32 reaches); what is in `to` then means nothing. */
HM_MUST_CHECK enum hm_status hm_codec_encode(const struct hm_codec *codec, const float *from,
                                             uint32_t columns, const uint32_t *index, uint32_t rows,
                                             void *to);
/* Row i of `to` is coded row index[i] of `from` times scale[i] (index NULL: i; scale NULL: 1).
 * Shapes:  as above, the other way round; `from` needs no alignment
 * Errors:  HM_ERR_NUMERIC: a value would not be finite; what is in `to` then means nothing. */
HM_MUST_CHECK enum hm_status hm_codec_decode(const struct hm_codec *codec, const void *from,
                                             uint32_t columns, const uint32_t *index,
                                             const float *scale, uint32_t rows, float *to);
/* Whether every one of `count` f32 values is finite; `values` needs no alignment. */
bool hm_f32_all_finite(const void *values, size_t count);
/* Which instructions code here: "avx2", or "scalar". */
const char *hm_codec_instructions(void);

#endif
