/* transport/tcp/frame.h - the bytes of the open plane: frames, and a reader that finds them in a
 * stream.  docs/wire.md is the same in prose.  A frame is 16 bytes, then a header, then a payload:
 *
 *     0      1   2              4                8                                16
 *     | type | 0 | header_bytes | payload_bytes  | value                          |
 *
 * The reader is pure: no sockets, no memory of its own beyond the struct.  It takes any bytes in
 * pieces of any size. */
#ifndef HM_TRANSPORT_TCP_FRAME_H
#define HM_TRANSPORT_TCP_FRAME_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum hm_frame_type {
    HM_FRAME_HELLO =
        1, /* header: hello; value: the eager bytes that its sender holds at most (credit) */
    HM_FRAME_MESSAGE,  /* header and payload of an eager message */
    HM_FRAME_ANNOUNCE, /* header of a large message; value: its payload bytes; the n-th has id n */
    HM_FRAME_PULL,     /* value: id; send that payload */
    HM_FRAME_DROP,     /* value: id; nobody will pull it */
    HM_FRAME_DATA,     /* payload: the next bytes of what was pulled; value: id */
    HM_FRAME_DONE,     /* value: id; all of it has arrived */
    HM_FRAME_CREDIT,   /* value: eager bytes given back */
    HM_FRAME_GOODBYE,  /* value: why (a status); the last frame */
    HM_FRAME_TYPES
};
enum {
    HM_FRAME_BYTES = 16,
    HM_FRAME_HELLO_BYTES_MAX = 4096,
    HM_FRAME_EAGER_BYTES_MAX = 32 << 10,
    HM_FRAME_DATA_BYTES_MAX = (64 << 10) - HM_FRAME_BYTES,
};
struct hm_frame {
    uint8_t type;
    uint16_t header_bytes;
    uint32_t payload_bytes;
    uint64_t value;
};

void hm_frame_encode(const struct hm_frame *frame, uint8_t bytes[HM_FRAME_BYTES]);
/* Total: HM_ERR_PEER_PROTOCOL for an unknown type and for a field out of the bounds of its
 * type. */
HM_MUST_CHECK enum hm_status hm_frame_decode(const uint8_t bytes[HM_FRAME_BYTES],
                                             struct hm_frame *frame);
/* What an eager message takes from its receiver's credit: nothing without a payload, else at least
 * a page. */
uint32_t hm_frame_charge(uint32_t payload_bytes);

enum hm_frame_event {
    HM_FRAME_MORE, /* everything given has been used */
    HM_FRAME_HEAD, /* reader->frame and reader->header are complete; its payload, if any, follows */
    HM_FRAME_PART, /* part and part_bytes: the next bytes of the payload, within what was given */
    HM_FRAME_END,  /* the frame is complete */
    HM_FRAME_BAD,  /* the stream is garbage from here on */
};
struct hm_frame_reader { /* all zero: at the start of a stream */
    struct hm_frame frame;
    uint8_t fixed[HM_FRAME_BYTES];
    uint8_t header[HM_FRAME_HELLO_BYTES_MAX];
    uint32_t got; /* bytes of the stage */
    uint32_t payload_left;
    uint8_t stage;
    const uint8_t *part;
    size_t part_bytes;
};
/* Moves *at up to the event, and never beyond `end`.  After HM_FRAME_BAD it stays bad. */
enum hm_frame_event hm_frame_read(struct hm_frame_reader *reader, const uint8_t **at,
                                  const uint8_t *end);
/* Bytes that surely belong to the stage at hand: what to ask a stream for if nothing beyond is
 * wanted. */
size_t hm_frame_wanted(const struct hm_frame_reader *reader);
/* In the midst of a payload, `byte_count` of its bytes have been read to where they belong, past
 * this reader. */
void hm_frame_skip(struct hm_frame_reader *reader, size_t byte_count);

#endif
