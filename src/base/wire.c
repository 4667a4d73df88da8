/* base/wire.c - bounded little-endian reader and writer.
 *
 * Both are total: the first access past the end sets `failed` and moves to the end, so that
 * everything after it fails too and yields 0; a caller checks once.  Bytes are put together by
 * shifts: no alignment or byte order is assumed. */
#include "base/wire.h"

#include <string.h>

/* ---- reader -------------------------------------------------------------- */

void hm_reader_init(struct hm_reader *reader, const void *bytes, size_t byte_count)
{
    static const uint8_t nothing[1];
    const uint8_t *at = bytes ? bytes : nothing;
    *reader = (struct hm_reader){.at = at, .end = at + (bytes ? byte_count : 0)};
    if (!bytes && byte_count > 0) reader->failed = true;
}

static const uint8_t *take(struct hm_reader *reader, size_t byte_count)
{
    if (reader->failed || byte_count > (size_t)(reader->end - reader->at)) {
        reader->failed = true;
        reader->at = reader->end;
        return NULL;
    }
    const uint8_t *bytes = reader->at;
    reader->at += byte_count;
    return bytes;
}

static uint64_t read_little_endian(struct hm_reader *reader, size_t byte_count)
{
    const uint8_t *bytes = take(reader, byte_count);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < byte_count; i++) value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

uint8_t hm_read_u8(struct hm_reader *reader)
{
    return (uint8_t)read_little_endian(reader, 1);
}

uint16_t hm_read_u16(struct hm_reader *reader)
{
    return (uint16_t)read_little_endian(reader, 2);
}

uint32_t hm_read_u32(struct hm_reader *reader)
{
    return (uint32_t)read_little_endian(reader, 4);
}

uint64_t hm_read_u64(struct hm_reader *reader)
{
    return read_little_endian(reader, 8);
}

float hm_read_f32(struct hm_reader *reader)
{
    uint32_t bits = hm_read_u32(reader);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

const void *hm_read_bytes(struct hm_reader *reader, size_t byte_count)
{
    return take(reader, byte_count);
}

void hm_read_string(struct hm_reader *reader, char *text, size_t text_bytes)
{
    size_t byte_count = hm_read_u16(reader);
    const uint8_t *bytes = take(reader, byte_count);
    if (text_bytes > 0) text[0] = '\0';
    if (!bytes) return;
    if (byte_count >= text_bytes || memchr(bytes, 0, byte_count)) {
        reader->failed = true;
        reader->at = reader->end;
        return;
    }
    memcpy(text, bytes, byte_count);
    text[byte_count] = '\0';
}

size_t hm_reader_left(const struct hm_reader *reader)
{
    return (size_t)(reader->end - reader->at);
}

bool hm_reader_ok(const struct hm_reader *reader)
{
    return !reader->failed;
}

bool hm_reader_ended(const struct hm_reader *reader)
{
    return !reader->failed && reader->at == reader->end;
}

/* ---- writer -------------------------------------------------------------- */

void hm_writer_init(struct hm_writer *writer, void *bytes, size_t byte_count)
{
    static uint8_t nothing[1];
    uint8_t *base = bytes ? bytes : nothing;
    *writer = (struct hm_writer){.base = base, .at = base, .end = base + (bytes ? byte_count : 0)};
}

/* Room for all of `byte_count`, or none: a value is never half written. */
static uint8_t *claim(struct hm_writer *writer, size_t byte_count)
{
    if (writer->failed || byte_count > (size_t)(writer->end - writer->at)) {
        writer->failed = true;
        return NULL;
    }
    uint8_t *bytes = writer->at;
    writer->at += byte_count;
    return bytes;
}

static void write_little_endian(struct hm_writer *writer, uint64_t value, size_t byte_count)
{
    uint8_t *bytes = claim(writer, byte_count);
    for (size_t i = 0; bytes && i < byte_count; i++) bytes[i] = (uint8_t)(value >> (8 * i));
}

void hm_write_u8(struct hm_writer *writer, uint8_t value)
{
    write_little_endian(writer, value, 1);
}

void hm_write_u16(struct hm_writer *writer, uint16_t value)
{
    write_little_endian(writer, value, 2);
}

void hm_write_u32(struct hm_writer *writer, uint32_t value)
{
    write_little_endian(writer, value, 4);
}

void hm_write_u64(struct hm_writer *writer, uint64_t value)
{
    write_little_endian(writer, value, 8);
}

void hm_write_f32(struct hm_writer *writer, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    hm_write_u32(writer, bits);
}

void hm_write_bytes(struct hm_writer *writer, const void *bytes, size_t byte_count)
{
    uint8_t *target = claim(writer, byte_count);
    if (target && byte_count > 0) memcpy(target, bytes, byte_count);
}

void hm_write_string(struct hm_writer *writer, const char *text)
{
    size_t byte_count = strlen(text);
    size_t left = (size_t)(writer->end - writer->at);
    if (byte_count > UINT16_MAX || left < 2 || byte_count > left - 2) {
        writer->failed = true; /* no length without its bytes */
        return;
    }
    hm_write_u16(writer, (uint16_t)byte_count);
    hm_write_bytes(writer, text, byte_count);
}

size_t hm_writer_count(const struct hm_writer *writer)
{
    return (size_t)(writer->at - writer->base);
}

bool hm_writer_ok(const struct hm_writer *writer)
{
    return !writer->failed;
}
