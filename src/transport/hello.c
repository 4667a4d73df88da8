/* transport/hello.c - the first bytes that each side says on a new endpoint.
 *
 * Owns nothing.  Layout (little-endian): u16 wire major, u16 wire minor, u64 features, addresses
 * (address.c), swarm name (u16 bytes, text), then two proofs (u8 bytes, bytes).
 * The major comes first and is judged alone: everything after it may look different in another
 * major.
 * A newer minor may append fields; what follows ours is ignored then, and garbage otherwise. */
#include "transport/transport.h"

#include "base/assert.h"

#include <string.h>

void hm_hello_encode(const struct hm_hello *hello, struct hm_writer *writer)
{
    HM_ASSERT(hello->swarm_proof_bytes <= HM_PROOF_BYTES_MAX);
    HM_ASSERT(hello->fabric_proof_bytes <= HM_PROOF_BYTES_MAX);
    hm_write_u16(writer, hello->wire_major);
    hm_write_u16(writer, hello->wire_minor);
    hm_write_u64(writer, hello->features);
    hm_addrs_encode(&hello->listening, writer);
    hm_write_string(writer, hello->swarm);
    hm_write_u8(writer, hello->swarm_proof_bytes);
    hm_write_bytes(writer, hello->swarm_proof, hello->swarm_proof_bytes);
    hm_write_u8(writer, hello->fabric_proof_bytes);
    hm_write_bytes(writer, hello->fabric_proof, hello->fabric_proof_bytes);
}

static uint8_t proof_decode(struct hm_reader *reader, uint8_t proof[HM_PROOF_BYTES_MAX])
{
    uint8_t byte_count = hm_read_u8(reader);
    if (byte_count > HM_PROOF_BYTES_MAX) reader->failed = true;
    const void *bytes = hm_reader_ok(reader) ? hm_read_bytes(reader, byte_count) : NULL;
    if (!bytes) return 0;
    memcpy(proof, bytes, byte_count);
    return byte_count;
}

enum hm_status hm_hello_decode(const void *bytes, size_t byte_count, struct hm_hello *hello)
{
    struct hm_reader reader;
    struct hm_hello read = {0};
    hm_reader_init(&reader, bytes, byte_count);
    read.wire_major = hm_read_u16(&reader);
    read.wire_minor = hm_read_u16(&reader);
    if (!hm_reader_ok(&reader)) return HM_ERR_PEER_PROTOCOL;
    if (read.wire_major != HM_WIRE_MAJOR) return HM_ERR_PEER_VERSION;
    read.features = hm_read_u64(&reader);
    hm_addrs_decode(&reader, &read.listening);
    hm_read_string(&reader, read.swarm, sizeof read.swarm);
    read.swarm_proof_bytes = proof_decode(&reader, read.swarm_proof);
    read.fabric_proof_bytes = proof_decode(&reader, read.fabric_proof);
    if (!hm_reader_ok(&reader)) return HM_ERR_PEER_PROTOCOL;
    if (hm_reader_left(&reader) > 0 && read.wire_minor <= HM_WIRE_MINOR)
        return HM_ERR_PEER_PROTOCOL;
    if (read.swarm[0] && !hm_swarm_name_valid(read.swarm)) return HM_ERR_PEER_PROTOCOL;
    *hello = read;
    return HM_OK;
}
