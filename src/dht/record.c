/* dht/record.c - the bytes of a record: on the wire, and under its owner's signature.
 *
 * Both are the same up to the proof: what is signed is what is sent.  Decoding is total and gives
 * views. */
#include "dht/record_internal.h"

#include "base/assert.h"

#include <string.h>

void hm_dht_key(const void *raw, size_t raw_bytes, struct hm_dht_id *key)
{
    hm_sha256(raw, raw_bytes, key->byte);
}

static void encode_signed_part(const struct hm_record *record, struct hm_writer *writer)
{
    hm_write_bytes(writer, record->key.byte, sizeof record->key.byte);
    hm_write_bytes(writer, record->owner.byte, sizeof record->owner.byte);
    hm_write_u64(writer, record->sequence);
    hm_write_u64(writer, (uint64_t)record->expires_wall_ns);
    hm_write_u16(writer, record->schema);
    hm_write_u16(writer, record->subkey_bytes);
    hm_write_bytes(writer, record->subkey, record->subkey_bytes);
    hm_write_u16(writer, record->value_bytes);
    hm_write_bytes(writer, record->value, record->value_bytes);
}

void hm_record_leaf(const struct hm_record *record, uint8_t digest[HM_DIGEST_BYTES])
{
    HM_ASSERT(record->subkey_bytes <= HM_RECORD_SUBKEY_BYTES_MAX &&
              record->value_bytes <= HM_RECORD_VALUE_BYTES_MAX);
    uint8_t bytes[1 + HM_RECORD_BYTES_MAX];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_write_u8(&writer, 0x00); /* RFC 6962, section 2.1: a leaf cannot be taken for a node */
    encode_signed_part(record, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    hm_sha256(bytes, hm_writer_count(&writer), digest);
}

void hm_record_encode(const struct hm_record *record, struct hm_writer *writer)
{
    encode_signed_part(record, writer);
    hm_write_u16(writer, record->proof_bytes);
    hm_write_bytes(writer, record->proof, record->proof_bytes);
}

size_t hm_record_encoded_bytes(const struct hm_record *record)
{
    return HM_RECORD_BYTES_MIN + (size_t)record->subkey_bytes + record->value_bytes +
           record->proof_bytes;
}

/* u16 count, then as many bytes, at most `bytes_max`. */
static const void *read_counted(struct hm_reader *reader, uint16_t bytes_max, uint16_t *byte_count)
{
    uint16_t count = hm_read_u16(reader);
    if (count > bytes_max) {
        reader->failed = true;
        count = 0;
    }
    const void *bytes = hm_read_bytes(reader, count);
    *byte_count = bytes ? count : 0;
    return bytes;
}

void hm_record_decode(struct hm_reader *reader, struct hm_record *record)
{
    *record = (struct hm_record){0};
    const void *key = hm_read_bytes(reader, sizeof record->key.byte);
    if (key) memcpy(record->key.byte, key, sizeof record->key.byte);
    const void *owner = hm_read_bytes(reader, sizeof record->owner.byte);
    if (owner) memcpy(record->owner.byte, owner, sizeof record->owner.byte);
    record->sequence = hm_read_u64(reader);
    record->expires_wall_ns = (int64_t)hm_read_u64(reader);
    record->schema = hm_read_u16(reader);
    record->subkey = read_counted(reader, HM_RECORD_SUBKEY_BYTES_MAX, &record->subkey_bytes);
    record->value = read_counted(reader, HM_RECORD_VALUE_BYTES_MAX, &record->value_bytes);
    record->proof = read_counted(reader, HM_RECORD_PROOF_BYTES_MAX, &record->proof_bytes);
}
