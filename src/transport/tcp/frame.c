/* transport/tcp/frame.c - encodes, judges and finds frames.
 *
 *              16 bytes            header_bytes           payload_bytes
 *     FIXED ---------------> HEADER -----------> PAYLOAD --------------> END -> FIXED
 *       |  out of bounds       (HM_FRAME_HEAD)     (HM_FRAME_PART ...)    (HM_FRAME_END)
 *       '--> BAD, for ever
 *
 * Owns nothing.  Invariant: a frame that has reached HM_FRAME_HEAD is within the bounds of its
 * type, so whoever handles it checks only what depends on the connection (ids, credit, order). */
#include "transport/tcp/frame.h"

#include "base/assert.h"
#include "base/wire.h"
#include "transport/transport.h"

#include <stdbool.h>
#include <string.h>

enum stage { STAGE_FIXED, STAGE_HEADER, STAGE_PAYLOAD, STAGE_END, STAGE_BAD };

static const struct bounds {
    uint32_t header_min, header_max, payload_min, payload_max;
    uint64_t value_min, value_max;
} bounds_of[HM_FRAME_TYPES] = {
    [HM_FRAME_HELLO] = {1, HM_FRAME_HELLO_BYTES_MAX, 0, 0, 0, UINT64_MAX},
    [HM_FRAME_MESSAGE] = {0, HM_HEADER_BYTES_MAX, 0, HM_FRAME_EAGER_BYTES_MAX, 0, 0},
    [HM_FRAME_ANNOUNCE] = {0, HM_HEADER_BYTES_MAX, 0, 0, 1, HM_PAYLOAD_BYTES_MAX},
    [HM_FRAME_PULL] = {0, 0, 0, 0, 1, UINT64_MAX},
    [HM_FRAME_DROP] = {0, 0, 0, 0, 1, UINT64_MAX},
    [HM_FRAME_DATA] = {0, 0, 1, HM_FRAME_DATA_BYTES_MAX, 1, UINT64_MAX},
    [HM_FRAME_DONE] = {0, 0, 0, 0, 1, UINT64_MAX},
    [HM_FRAME_CREDIT] = {0, 0, 0, 0, 1, UINT64_MAX},
    [HM_FRAME_GOODBYE] = {0, 0, 0, 0, 0, UINT64_MAX},
};

static bool within(const struct hm_frame *frame)
{
    if (frame->type == 0 || frame->type >= HM_FRAME_TYPES) return false;
    const struct bounds *b = &bounds_of[frame->type];
    return frame->header_bytes >= b->header_min && frame->header_bytes <= b->header_max &&
           frame->payload_bytes >= b->payload_min && frame->payload_bytes <= b->payload_max &&
           frame->value >= b->value_min && frame->value <= b->value_max;
}

void hm_frame_encode(const struct hm_frame *frame, uint8_t bytes[HM_FRAME_BYTES])
{
    HM_ASSERT(within(frame));
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, HM_FRAME_BYTES);
    hm_write_u8(&writer, frame->type);
    hm_write_u8(&writer, 0);
    hm_write_u16(&writer, frame->header_bytes);
    hm_write_u32(&writer, frame->payload_bytes);
    hm_write_u64(&writer, frame->value);
}

enum hm_status hm_frame_decode(const uint8_t bytes[HM_FRAME_BYTES], struct hm_frame *frame)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, HM_FRAME_BYTES);
    struct hm_frame read = {.type = hm_read_u8(&reader)};
    uint8_t reserved = hm_read_u8(&reader);
    read.header_bytes = hm_read_u16(&reader);
    read.payload_bytes = hm_read_u32(&reader);
    read.value = hm_read_u64(&reader);
    if (reserved != 0 || !within(&read)) return HM_ERR_PEER_PROTOCOL;
    *frame = read;
    return HM_OK;
}

uint32_t hm_frame_charge(uint32_t payload_bytes)
{
    enum { PAGE = 4096 }; /* the smallest pooled buffer */
    if (payload_bytes == 0) return 0;
    return payload_bytes < PAGE ? PAGE : payload_bytes;
}

/* Copies towards `want` bytes of the stage; true once it has them all. */
static bool gather(struct hm_frame_reader *reader, uint8_t *into, size_t want, const uint8_t **at,
                   const uint8_t *end)
{
    size_t count = want - reader->got, given = (size_t)(end - *at);
    if (count > given) count = given;
    if (count > 0) memcpy(into + reader->got, *at, count);
    *at += count;
    reader->got += (uint32_t)count;
    return reader->got == want;
}

static enum hm_frame_event payload_part(struct hm_frame_reader *reader, const uint8_t **at,
                                        const uint8_t *end)
{
    size_t count = (size_t)(end - *at);
    if (count == 0) return HM_FRAME_MORE;
    if (count > reader->payload_left) count = reader->payload_left;
    reader->part = *at;
    reader->part_bytes = count;
    *at += count;
    hm_frame_skip(reader, count);
    return HM_FRAME_PART;
}

enum hm_frame_event hm_frame_read(struct hm_frame_reader *reader, const uint8_t **at,
                                  const uint8_t *end)
{
    switch ((enum stage)reader->stage) {
    case STAGE_FIXED:
        if (!gather(reader, reader->fixed, HM_FRAME_BYTES, at, end)) return HM_FRAME_MORE;
        reader->got = 0;
        reader->stage = STAGE_BAD;
        if (hm_frame_decode(reader->fixed, &reader->frame) != HM_OK) return HM_FRAME_BAD;
        reader->stage = STAGE_HEADER;
        /* fall through */
    case STAGE_HEADER:
        if (!gather(reader, reader->header, reader->frame.header_bytes, at, end))
            return HM_FRAME_MORE;
        reader->got = 0;
        reader->payload_left = reader->frame.payload_bytes;
        reader->stage = reader->payload_left > 0 ? STAGE_PAYLOAD : STAGE_END;
        return HM_FRAME_HEAD;
    case STAGE_PAYLOAD: return payload_part(reader, at, end);
    case STAGE_END: reader->stage = STAGE_FIXED; return HM_FRAME_END;
    case STAGE_BAD: break;
    }
    return HM_FRAME_BAD;
}

size_t hm_frame_wanted(const struct hm_frame_reader *reader)
{
    switch ((enum stage)reader->stage) {
    case STAGE_FIXED: return HM_FRAME_BYTES - reader->got;
    case STAGE_HEADER: return reader->frame.header_bytes - reader->got;
    case STAGE_PAYLOAD: return reader->payload_left;
    case STAGE_END:
    case STAGE_BAD: break;
    }
    return 0;
}

void hm_frame_skip(struct hm_frame_reader *reader, size_t byte_count)
{
    HM_ASSERT(reader->stage == STAGE_PAYLOAD && byte_count <= reader->payload_left);
    reader->payload_left -= (uint32_t)byte_count;
    if (reader->payload_left == 0) reader->stage = STAGE_END;
}
