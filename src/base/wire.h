/* base/wire.h - bounded reader and writer of little-endian bytes.  Total: bad input sets `failed`,
 * nothing crashes.
 *
 * Reader:  every hm_read_* past the end sets failed and yields 0 (or NULL); check hm_reader_ok
 *          once, at the end.
 * Writer:  likewise for a full target. */
#ifndef HM_BASE_WIRE_H
#define HM_BASE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hm_reader {
    const uint8_t *at, *end;
    bool failed;
};
struct hm_writer {
    uint8_t *base, *at, *end;
    bool failed;
};

void hm_reader_init(struct hm_reader *reader, const void *bytes, size_t byte_count);
uint8_t hm_read_u8(struct hm_reader *reader);
uint16_t hm_read_u16(struct hm_reader *reader);
uint32_t hm_read_u32(struct hm_reader *reader);
uint64_t hm_read_u64(struct hm_reader *reader);
float hm_read_f32(struct hm_reader *reader);
/* A view into the input, not a copy; NULL (and failed) if fewer bytes are left. */
const void *hm_read_bytes(struct hm_reader *reader, size_t byte_count);
/* u16 length, then bytes: copied with a terminator into `text`; fails if it has a NUL or does not
 * fit `text_bytes`. */
void hm_read_string(struct hm_reader *reader, char *text, size_t text_bytes);
size_t hm_reader_left(const struct hm_reader *reader);
bool hm_reader_ok(const struct hm_reader *reader);    /* nothing failed so far */
bool hm_reader_ended(const struct hm_reader *reader); /* ok, and nothing is left */

void hm_writer_init(struct hm_writer *writer, void *bytes, size_t byte_count);
void hm_write_u8(struct hm_writer *writer, uint8_t value);
void hm_write_u16(struct hm_writer *writer, uint16_t value);
void hm_write_u32(struct hm_writer *writer, uint32_t value);
void hm_write_u64(struct hm_writer *writer, uint64_t value);
void hm_write_f32(struct hm_writer *writer, float value);
void hm_write_bytes(struct hm_writer *writer, const void *bytes, size_t byte_count);
void hm_write_string(struct hm_writer *writer, const char *text);
size_t hm_writer_count(const struct hm_writer *writer); /* bytes written so far */
bool hm_writer_ok(const struct hm_writer *writer);

#endif
