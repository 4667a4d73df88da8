/* dht/message.c - FIND and STORE as bytes.
 *
 * A FIND reply is decoded twice: once without effect, to know that all of it is sound, and once
 * into the sink. */
#include "dht/message.h"

#include "base/assert.h"
#include "dht/record_internal.h"

#include <string.h>

enum { FLAG_NODES_ONLY = 1 };

static enum hm_status ended(const struct hm_reader *reader)
{
    return hm_reader_ended(reader) ? HM_OK : HM_ERR_PEER_PROTOCOL;
}

static unsigned read_count(struct hm_reader *reader, unsigned max)
{
    unsigned count = hm_read_u16(reader);
    if (count <= max) return count;
    reader->failed = true;
    return 0;
}

void hm_find_request_encode(const struct hm_find_request *request, struct hm_writer *writer)
{
    HM_ASSERT(request->key_count <= HM_FIND_KEYS_MAX);
    hm_write_u8(writer, request->nodes_only ? FLAG_NODES_ONLY : 0);
    hm_write_u16(writer, (uint16_t)request->key_count);
    for (unsigned i = 0; i < request->key_count; i++) {
        hm_write_bytes(writer, request->key[i].id.byte, sizeof request->key[i].id.byte);
        hm_write_u16(writer, request->key[i].skip);
    }
}

enum hm_status hm_find_request_decode(const void *bytes, size_t byte_count,
                                      struct hm_find_request *request)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    uint8_t flags = hm_read_u8(&reader);
    unsigned count = read_count(&reader, HM_FIND_KEYS_MAX);
    /* Flags that we do not know come from a later minor version, and change nothing for us. */
    request->nodes_only = flags & FLAG_NODES_ONLY;
    request->key_count = 0;
    for (unsigned i = 0; i < count && hm_reader_ok(&reader); i++) {
        const void *id = hm_read_bytes(&reader, sizeof request->key[i].id.byte);
        if (id) memcpy(request->key[i].id.byte, id, sizeof request->key[i].id.byte);
        request->key[i].skip = hm_read_u16(&reader);
    }
    enum hm_status status = ended(&reader);
    if (status == HM_OK) request->key_count = count;
    return status;
}

void hm_find_reply_contacts_begin(struct hm_writer *writer, unsigned contact_count)
{
    HM_ASSERT(contact_count <= HM_FIND_CONTACTS_MAX);
    hm_write_u16(writer, (uint16_t)contact_count);
}

void hm_find_reply_keys_begin(struct hm_writer *writer, unsigned key_count)
{
    hm_write_u16(writer, (uint16_t)key_count);
}

void hm_find_reply_key_begin(struct hm_writer *writer, const uint16_t *nearest,
                             unsigned nearest_count, unsigned held, unsigned given)
{
    HM_ASSERT(nearest_count <= HM_DHT_K && given <= held && held <= UINT16_MAX);
    hm_write_u8(writer, (uint8_t)nearest_count);
    for (unsigned i = 0; i < nearest_count; i++) hm_write_u16(writer, nearest[i]);
    hm_write_u16(writer, (uint16_t)held);
    hm_write_u16(writer, (uint16_t)given);
}

size_t hm_find_reply_key_bytes(unsigned nearest_count)
{
    return 1 + 2 * (size_t)nearest_count + 2 + 2;
}

/* ---- find reply, decoding ------------------------------------------------------------------- */

static unsigned read_contacts(struct hm_reader *reader, const struct hm_find_sink *sink, void *arg)
{
    unsigned count = read_count(reader, HM_FIND_CONTACTS_MAX);
    for (unsigned i = 0; i < count && hm_reader_ok(reader); i++) {
        if (!sink) {
            struct hm_addrs addrs;
            (void)hm_read_bytes(reader, HM_NODE_ID_BYTES);
            hm_addrs_decode(reader, &addrs);
            continue;
        }
        /* A contact without an address, or for which memory is short, spoils only itself: it is
         * read over. */
        struct hm_reader ahead = *reader;
        struct hm_contact *contact = hm_contact_decode(&ahead);
        struct hm_addrs addrs;
        (void)hm_read_bytes(reader, HM_NODE_ID_BYTES);
        hm_addrs_decode(reader, &addrs);
        sink->contact(arg, i, contact);
    }
    return count;
}

static void read_key(struct hm_reader *reader, unsigned key, unsigned contact_count,
                     const struct hm_find_sink *sink, void *arg)
{
    unsigned nearest_count = hm_read_u8(reader);
    if (nearest_count > HM_DHT_K) reader->failed = true;
    for (unsigned i = 0; i < nearest_count && hm_reader_ok(reader); i++) {
        unsigned contact = hm_read_u16(reader);
        if (contact >= contact_count) reader->failed = true;
        if (sink) sink->nearest(arg, key, contact);
    }
    unsigned held = hm_read_u16(reader), given = hm_read_u16(reader);
    if (given > held) reader->failed = true;
    for (unsigned i = 0; i < given && hm_reader_ok(reader); i++) {
        struct hm_record record;
        hm_record_decode(reader, &record);
        if (sink) sink->record(arg, key, &record);
    }
    if (sink) sink->key_end(arg, key, held, given);
}

static void read_reply(struct hm_reader *reader, unsigned key_count,
                       const struct hm_find_sink *sink, void *arg)
{
    unsigned contact_count = read_contacts(reader, sink, arg);
    if (hm_read_u16(reader) != key_count) reader->failed = true;
    for (unsigned key = 0; key < key_count && hm_reader_ok(reader); key++)
        read_key(reader, key, contact_count, sink, arg);
}

enum hm_status hm_find_reply_decode(const void *bytes, size_t byte_count, unsigned key_count,
                                    const struct hm_find_sink *sink, void *arg)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    read_reply(&reader, key_count, NULL, NULL);
    enum hm_status status = ended(&reader);
    if (status != HM_OK || !sink) return status;
    hm_reader_init(&reader, bytes, byte_count);
    read_reply(&reader, key_count, sink, arg);
    HM_ASSERT(hm_reader_ended(&reader));
    return HM_OK;
}

/* ---- store ---------------------------------------------------------------------------------- */

void hm_store_request_begin(struct hm_writer *writer, unsigned record_count)
{
    HM_ASSERT(record_count <= HM_STORE_RECORDS_MAX);
    hm_write_u16(writer, (uint16_t)record_count);
}

enum hm_status hm_store_request_decode(const void *bytes, size_t byte_count,
                                       struct hm_record *records, unsigned max,
                                       unsigned *record_count)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    unsigned count = read_count(&reader, max);
    for (unsigned i = 0; i < count && hm_reader_ok(&reader); i++)
        hm_record_decode(&reader, &records[i]);
    enum hm_status status = ended(&reader);
    if (status == HM_OK) *record_count = count;
    return status;
}

void hm_store_reply_encode(const enum hm_status *statuses, unsigned count, struct hm_writer *writer)
{
    hm_write_u16(writer, (uint16_t)count);
    for (unsigned i = 0; i < count; i++) {
        HM_ASSERT(statuses[i] <= 0 && statuses[i] >= INT8_MIN);
        hm_write_u8(writer, (uint8_t)(int8_t)statuses[i]);
    }
}

enum hm_status hm_store_reply_decode(const void *bytes, size_t byte_count, enum hm_status *statuses,
                                     unsigned count)
{
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, byte_count);
    if (hm_read_u16(&reader) != count || hm_reader_left(&reader) != count)
        return HM_ERR_PEER_PROTOCOL;
    for (unsigned i = 0; i < count; i++)
        statuses[i] = hm_status_from_wire((int8_t)hm_read_u8(&reader));
    return ended(&reader);
}
