/* transport/rpc_wire.c - the header that rpc puts before the user's (docs/wire.md, "RPC").
 *
 * Owns nothing.  Decoding is total: any bytes give a header or HM_ERR_PEER_PROTOCOL.  Flag bits
 * that we do not know are ignored, so that a newer minor version can use them; kinds that we do not
 * know are not, since nobody would answer them. */
#include "transport/rpc_internal.h"

enum { FLAG_LAST = 1, FLAG_TAG = 2, FLAGS_OFFSET = 1, TIME_OFFSET = 20, ACK_BYTES_MAX = 512 };

void hm_rpc_header_encode(const struct hm_rpc_header *header, uint8_t bytes[HM_RPC_HEADER_BYTES])
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, HM_RPC_HEADER_BYTES);
    hm_write_u8(&writer, (uint8_t)header->kind);
    hm_write_u8(&writer, header->last ? FLAG_LAST : 0);
    hm_write_u16(&writer, header->method);
    hm_write_u32(&writer, (uint32_t)(int32_t)header->status);
    hm_write_u64(&writer, header->id);
    hm_write_u32(&writer, header->index);
    hm_write_u32(&writer, header->time_us);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == HM_RPC_HEADER_BYTES);
}

void hm_rpc_header_set_time(uint8_t bytes[HM_RPC_HEADER_BYTES], uint32_t time_us)
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes + TIME_OFFSET, HM_RPC_HEADER_BYTES - TIME_OFFSET);
    hm_write_u32(&writer, time_us);
}

size_t hm_rpc_header_set_tag(uint8_t *bytes, size_t byte_count, uint64_t tag)
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes + byte_count, HM_RPC_TAG_BYTES);
    hm_write_u64(&writer, tag);
    bytes[FLAGS_OFFSET] |= FLAG_TAG;
    return byte_count + HM_RPC_TAG_BYTES;
}

void hm_rpc_header_clear_tag(uint8_t *bytes)
{
    bytes[FLAGS_OFFSET] &= (uint8_t)~FLAG_TAG;
}

/* Which kinds may have what.  byte_count: of the user's part. */
static bool fits(const struct hm_rpc_header *header, bool tagged, size_t user_bytes)
{
    bool may_be_tagged = header->kind <= HM_RPC_CANCEL || header->kind == HM_RPC_VOID;
    size_t user_max = 0;
    if (header->kind <= HM_RPC_REPLY) user_max = HM_CALL_HEADER_BYTES_MAX;
    if (header->kind == HM_RPC_LOST) user_max = HM_FABRIC_SETTINGS_BYTES - 1;
    if (header->kind == HM_RPC_ACK) user_max = ACK_BYTES_MAX;
    if (tagged ? !may_be_tagged || header->tag == 0 : header->kind == HM_RPC_VOID) return false;
    if (user_bytes > user_max) return false;
    return header->kind != HM_RPC_REPLY || header->index < HM_RPC_REPLIES_MAX;
}

enum hm_status hm_rpc_header_decode(const void *bytes, size_t byte_count,
                                    struct hm_rpc_header *header)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    unsigned kind = hm_read_u8(&reader);
    unsigned flags = hm_read_u8(&reader);
    struct hm_rpc_header read = {.last = (flags & FLAG_LAST) != 0};
    read.method = hm_read_u16(&reader);
    read.status = hm_status_from_wire((int32_t)hm_read_u32(&reader));
    read.id = hm_read_u64(&reader);
    read.index = hm_read_u32(&reader);
    read.time_us = hm_read_u32(&reader);
    if (!hm_reader_ok(&reader) || kind < HM_RPC_REQUEST || kind > HM_RPC_VOID)
        return HM_ERR_PEER_PROTOCOL;
    read.kind = (enum hm_rpc_kind)kind;
    bool tagged = (flags & FLAG_TAG) != 0;
    if (tagged) {
        if (hm_reader_left(&reader) < HM_RPC_TAG_BYTES) return HM_ERR_PEER_PROTOCOL;
        struct hm_reader end;
        hm_reader_init(&end, (const uint8_t *)bytes + byte_count - HM_RPC_TAG_BYTES,
                       HM_RPC_TAG_BYTES);
        read.tag = hm_read_u64(&end);
    }
    size_t user_bytes = hm_reader_left(&reader) - (tagged ? HM_RPC_TAG_BYTES : 0);
    if (!fits(&read, tagged, user_bytes)) return HM_ERR_PEER_PROTOCOL;
    *header = read;
    return HM_OK;
}

uint32_t hm_rpc_time_us(hm_ns time)
{
    if (time > HM_RPC_TIME_MAX) time = HM_RPC_TIME_MAX;
    return (uint32_t)((time + HM_US - 1) / HM_US);
}
