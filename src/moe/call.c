/* moe/call.c - encoding and decoding of expert calls, their answers and infos.
 *
 * Happy path:    a trainer encodes head and table, a server decodes them and finds views into the
 *                pulled table.
 * Failure modes: every bound of call.h is checked here; a decoder writes its output only on
 *                success.
 * Invariants:    what decodes is what encode could have written: padding is zero, no bytes are left
 *                over, lists are aligned, and every index is below the head's row_count. */
#include "moe/call.h"

#include "base/assert.h"
#include "transport/transport.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "index and scale lists are read where they lie");

/* ---- head ------------------------------------------------------------------------------------ */

void hm_call_head_encode(const struct hm_call_head *head, struct hm_writer *writer)
{
    HM_ASSERT(head->sequence > 0 && head->part_count > 0 && head->row_count > 0);
    hm_write_u8(writer, HM_CALL_VERSION);
    hm_write_u8(writer, head->pass);
    hm_write_u8(writer, head->codec);
    hm_write_u8(writer, head->priority);
    hm_schema_encode(&head->schema, writer);
    hm_write_u32(writer, head->row_count);
    hm_write_u16(writer, head->part_count);
    hm_write_u32(writer, head->table_bytes);
    hm_write_u64(writer, head->incarnation);
    hm_write_u64(writer, head->sequence);
    if (head->flags) hm_write_u8(writer, head->flags);
}

enum hm_status hm_call_head_decode(const void *bytes, size_t byte_count, struct hm_call_head *head)
{
    struct hm_reader reader;
    struct hm_call_head decoded;
    hm_reader_init(&reader, bytes, byte_count);
    uint8_t version = hm_read_u8(&reader);
    if (hm_reader_ok(&reader) && version != HM_CALL_VERSION) return HM_ERR_UNSUPPORTED;
    decoded.pass = hm_read_u8(&reader);
    decoded.codec = hm_read_u8(&reader);
    decoded.priority = hm_read_u8(&reader);
    hm_schema_decode(&reader, &decoded.schema);
    decoded.row_count = hm_read_u32(&reader);
    decoded.part_count = hm_read_u16(&reader);
    decoded.table_bytes = hm_read_u32(&reader);
    decoded.incarnation = hm_read_u64(&reader);
    decoded.sequence = hm_read_u64(&reader);
    bool has_flags = hm_reader_left(&reader) > 0;
    decoded.flags = has_flags ? hm_read_u8(&reader) : 0;
    if (!hm_reader_ended(&reader)) return HM_ERR_PEER_PROTOCOL;
    if (has_flags && (decoded.flags == 0 || decoded.flags & ~(unsigned)HM_CALL_FLAGS))
        return HM_ERR_PEER_PROTOCOL;
    if (decoded.pass > HM_PASS_BACKWARD || decoded.priority >= HM_CALL_PRIORITIES ||
        decoded.sequence == 0 || decoded.row_count == 0 || decoded.part_count == 0 ||
        decoded.table_bytes == 0 || decoded.table_bytes % HM_CALL_ALIGN != 0 ||
        decoded.schema.count == 0)
        return HM_ERR_PEER_PROTOCOL;
    if (!hm_codec_find(decoded.codec)) return HM_ERR_UNSUPPORTED;
    if (decoded.row_count > HM_CALL_ROWS_MAX || decoded.part_count > HM_CALL_PARTS_MAX ||
        decoded.table_bytes > HM_PAYLOAD_BYTES_MAX)
        return HM_ERR_TOO_BIG;
    uint64_t payload_bytes;
    enum hm_status status = hm_call_payload_bytes(&decoded, &payload_bytes);
    if (status != HM_OK) return status;
    *head = decoded;
    return HM_OK;
}

enum hm_status hm_call_rows_bytes(const struct hm_schema *schema, uint8_t codec_id,
                                  uint32_t row_count, uint64_t *bytes)
{
    const struct hm_codec *codec = hm_codec_find(codec_id);
    if (!codec) return HM_ERR_UNSUPPORTED;
    uint64_t sum = 0;
    for (unsigned i = 0; i < schema->count; i++) {
        uint64_t elements, row_bytes;
        enum hm_status status = hm_shape_elements(&schema->row[i], &elements);
        if (status != HM_OK) return status;
        /* 2^20 rows of at most 2^30 elements stay far below 2^64, also in bytes. */
        if (elements > HM_PAYLOAD_BYTES_MAX || row_count > HM_CALL_ROWS_MAX) return HM_ERR_TOO_BIG;
        row_bytes = schema->dtype[i] == HM_F32 ? hm_codec_row_bytes(codec, (uint32_t)elements)
                                               : elements * hm_dtype_bytes(schema->dtype[i]);
        sum += row_bytes * row_count;
    }
    *bytes = sum;
    return HM_OK;
}

enum hm_status hm_call_payload_bytes(const struct hm_call_head *head, uint64_t *bytes)
{
    uint64_t rows_bytes;
    enum hm_status status =
        hm_call_rows_bytes(&head->schema, head->codec, head->row_count, &rows_bytes);
    if (status != HM_OK) return status;
    uint64_t sum = head->table_bytes + rows_bytes * (head->pass == HM_PASS_BACKWARD ? 2 : 1);
    if (sum > HM_PAYLOAD_BYTES_MAX) return HM_ERR_TOO_BIG;
    *bytes = sum;
    return HM_OK;
}

/* ---- part table ------------------------------------------------------------------------------ */

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

size_t hm_call_table_bytes(const struct hm_call_part *parts, unsigned part_count)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < part_count; i++) {
        bytes = round_up(bytes + 2 + strlen(parts[i].uid.text) + 1 + 4, 4);
        bytes += parts[i].index ? 4 * (size_t)parts[i].row_count : 4;
        if (parts[i].scale) bytes += 4 * (size_t)parts[i].row_count;
    }
    return round_up(bytes, HM_CALL_ALIGN);
}

static const uint8_t zeros[HM_CALL_ALIGN];

static void pad(struct hm_writer *writer, size_t start, size_t to)
{
    size_t count = hm_writer_count(writer) - start;
    hm_write_bytes(writer, zeros, round_up(count, to) - count);
}

void hm_call_table_encode(const struct hm_call_part *parts, unsigned part_count,
                          struct hm_writer *writer)
{
    size_t start = hm_writer_count(writer);
    for (unsigned i = 0; i < part_count; i++) {
        const struct hm_call_part *part = &parts[i];
        hm_write_string(writer, part->uid.text);
        hm_write_u8(writer, (uint8_t)((part->index ? 0 : HM_PART_CONTIGUOUS) |
                                      (part->scale ? HM_PART_SCALED : 0)));
        hm_write_u32(writer, part->row_count);
        pad(writer, start, 4);
        if (part->index)
            hm_write_bytes(writer, part->index, 4 * (size_t)part->row_count);
        else
            hm_write_u32(writer, part->first);
        if (part->scale) hm_write_bytes(writer, part->scale, 4 * (size_t)part->row_count);
    }
    pad(writer, start, HM_CALL_ALIGN);
}

/* Skips zeros up to a multiple of `to` from the table's start. */
static bool read_pad(struct hm_reader *reader, const uint8_t *start, size_t to)
{
    size_t count = (size_t)(reader->at - start), rest = round_up(count, to) - count;
    const void *bytes = hm_read_bytes(reader, rest);
    return bytes && memcmp(bytes, zeros, rest) == 0;
}

static bool indices_fit(const uint32_t *index, uint32_t count, uint32_t row_count)
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < count; i++) largest = index[i] > largest ? index[i] : largest;
    return largest < row_count;
}

static bool scales_finite(const float *scale, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!isfinite(scale[i])) return false;
    }
    return true;
}

/* A uid of any length is taken over as bytes; one that is malformed leaves an empty text. */
static void read_uid(struct hm_reader *reader, struct hm_uid *uid)
{
    memset(uid, 0, sizeof *uid);
    uint16_t length = hm_read_u16(reader);
    const void *bytes = hm_read_bytes(reader, length);
    if (!bytes || length >= HM_UID_BYTES || memchr(bytes, 0, length)) return;
    char text[HM_UID_BYTES];
    memcpy(text, bytes, length);
    text[length] = '\0';
    if (hm_uid_parse(text, uid) != HM_OK) {
        memset(uid, 0, sizeof *uid);
        hm_fail_clear(); /* a peer's mistake is no line of ours */
    }
}

static bool read_part(struct hm_reader *reader, const struct hm_call_head *head,
                      const uint8_t *start, struct hm_call_part *part)
{
    read_uid(reader, &part->uid);
    uint8_t flags = hm_read_u8(reader);
    part->row_count = hm_read_u32(reader);
    if (!hm_reader_ok(reader) || !read_pad(reader, start, 4)) return false;
    if (flags & ~(unsigned)(HM_PART_CONTIGUOUS | HM_PART_SCALED)) return false;
    if (part->row_count == 0 || part->row_count > head->row_count) return false;
    size_t list_bytes = 4 * (size_t)part->row_count;
    part->first = 0;
    part->index = NULL;
    part->scale = NULL;
    if (flags & HM_PART_CONTIGUOUS) {
        part->first = hm_read_u32(reader);
        if (part->first > head->row_count - part->row_count) return false;
    } else {
        part->index = hm_read_bytes(reader, list_bytes);
        if (!part->index || !indices_fit(part->index, part->row_count, head->row_count))
            return false;
    }
    if (flags & HM_PART_SCALED) {
        if (head->pass != HM_PASS_BACKWARD) return false;
        part->scale = hm_read_bytes(reader, list_bytes);
        if (!part->scale || !scales_finite(part->scale, part->row_count)) return false;
    }
    return hm_reader_ok(reader);
}

enum hm_status hm_call_table_decode(const struct hm_call_head *head, const void *table,
                                    struct hm_call_part *parts)
{
    HM_ASSERT((uintptr_t)table % sizeof(uint32_t) == 0); /* our slab */
    struct hm_reader reader;
    hm_reader_init(&reader, table, head->table_bytes);
    for (unsigned i = 0; i < head->part_count; i++) {
        if (!read_part(&reader, head, table, &parts[i])) return HM_ERR_PEER_PROTOCOL;
    }
    if (!read_pad(&reader, table, HM_CALL_ALIGN) || !hm_reader_ended(&reader))
        return HM_ERR_PEER_PROTOCOL;
    return HM_OK;
}

/* ---- answers --------------------------------------------------------------------------------- */

void hm_call_answer_encode(const struct hm_call_answer *answer, struct hm_writer *writer)
{
    hm_write_u16(writer, answer->part);
    hm_write_u8(writer, answer->codec);
    hm_write_u32(writer, answer->row_count);
    hm_write_u64(writer, answer->step);
    hm_write_u32(writer, answer->retry_after_us);
    hm_write_u32(writer, answer->load_us);
    hm_schema_encode(&answer->schema, writer);
    for (unsigned i = 0; answer->timed && i < HM_SERVER_STAGES; i++)
        hm_write_u64(writer, answer->times.stage[i]);
}

enum hm_status hm_call_answer_decode(const void *bytes, size_t byte_count,
                                     struct hm_call_answer *answer)
{
    struct hm_reader reader;
    struct hm_call_answer decoded;
    hm_reader_init(&reader, bytes, byte_count);
    decoded.part = hm_read_u16(&reader);
    decoded.codec = hm_read_u8(&reader);
    decoded.row_count = hm_read_u32(&reader);
    decoded.step = hm_read_u64(&reader);
    decoded.retry_after_us = hm_read_u32(&reader);
    decoded.load_us = hm_read_u32(&reader);
    hm_schema_decode(&reader, &decoded.schema);
    decoded.timed = hm_reader_left(&reader) > 0;
    for (unsigned i = 0; i < HM_SERVER_STAGES; i++)
        decoded.times.stage[i] = decoded.timed ? hm_read_u64(&reader) : 0;
    if (!hm_reader_ended(&reader) || decoded.part >= HM_CALL_PARTS_MAX) return HM_ERR_PEER_PROTOCOL;
    if (decoded.row_count > HM_CALL_ROWS_MAX) return HM_ERR_TOO_BIG;
    if (!hm_codec_find(decoded.codec)) return HM_ERR_UNSUPPORTED;
    *answer = decoded;
    return HM_OK;
}

/* ---- info ------------------------------------------------------------------------------------ */

void hm_expert_info_encode(const struct hm_expert_info *info, struct hm_writer *writer)
{
    hm_schema_encode(&info->input, writer);
    hm_schema_encode(&info->output, writer);
    hm_write_u64(writer, info->step);
    hm_write_u64(writer, info->parameter_count);
    hm_write_u32(writer, info->batch_rows_max);
    hm_write_string(writer, info->kind);
}

enum hm_status hm_expert_info_decode(const void *bytes, size_t byte_count,
                                     struct hm_expert_info *info)
{
    struct hm_reader reader;
    struct hm_expert_info decoded = {0};
    hm_reader_init(&reader, bytes, byte_count);
    hm_schema_decode(&reader, &decoded.input);
    hm_schema_decode(&reader, &decoded.output);
    decoded.step = hm_read_u64(&reader);
    decoded.parameter_count = hm_read_u64(&reader);
    decoded.batch_rows_max = hm_read_u32(&reader);
    hm_read_string(&reader, decoded.kind, sizeof decoded.kind);
    if (!hm_reader_ended(&reader) || decoded.input.count == 0 || decoded.output.count == 0)
        return HM_ERR_PEER_PROTOCOL;
    *info = decoded;
    return HM_OK;
}

void hm_expert_query_encode(const struct hm_uid *uid, struct hm_writer *writer)
{
    hm_write_string(writer, uid->text);
}

enum hm_status hm_expert_query_decode(const void *bytes, size_t byte_count, struct hm_uid *uid)
{
    struct hm_reader reader;
    struct hm_uid decoded;
    hm_reader_init(&reader, bytes, byte_count);
    read_uid(&reader, &decoded);
    if (!hm_reader_ended(&reader)) return HM_ERR_PEER_PROTOCOL;
    *uid = decoded;
    return HM_OK;
}
