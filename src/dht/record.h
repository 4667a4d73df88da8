/* dht/record.h - what the DHT stores: signed entries of dictionaries.
 *
 * A key names a dictionary; an entry of it is named by (owner, subkey), so that nobody can
 * overwrite another's entry. Of two versions of one entry the higher sequence wins; an equal one
 * is HM_ERR_STALE. Signing is per announcement, not per record: the records signed together are
 * the leaves of a Merkle tree (RFC 6962, section 2.1: 0x00 before a leaf, 0x01 before a node),
 * the owner signs the root, and each record's proof is the public key, the signature and its
 * path, so it can be verified alone (one Ed25519 verification, remembered by root). */
#ifndef HM_DHT_RECORD_H
#define HM_DHT_RECORD_H

#include "base/wire.h"
#include "transport/identity.h"

struct hm_dht_id { /* a point of the key space: SHA-256 of a raw key, or a node's id */
    uint8_t byte[32];
};
enum {
    HM_RECORD_SUBKEY_BYTES_MAX = 128,
    HM_RECORD_VALUE_BYTES_MAX = 2048,
    HM_RECORD_PATH_MAX = 16, /* so at most 65,536 records in one announcement */
    HM_RECORD_PROOF_BYTES_MAX =
        HM_PUBLIC_KEY_BYTES + HM_SIGNATURE_BYTES + 4 + 1 + 32 * HM_RECORD_PATH_MAX,
    HM_RECORD_BYTES_MAX = 32 + 32 + 8 + 8 + 2 + 2 + HM_RECORD_SUBKEY_BYTES_MAX + 2 +
                          HM_RECORD_VALUE_BYTES_MAX + 2 + HM_RECORD_PROOF_BYTES_MAX,
};
#define HM_RECORD_LIFE_MAX_NS ((int64_t)24 * 3600 * 1000000000) /* nothing is pinned for ever */
#define HM_RECORD_SKEW_MAX_NS ((int64_t)3 * 1000000000)         /* of two nodes' wall clocks */

/* views; whoever made the record owns the memory behind subkey, value and proof */
struct hm_record {
    struct hm_dht_id key;
    struct hm_node_id owner;
    uint64_t sequence;
    int64_t expires_wall_ns;
    uint16_t schema; /* version of value's format; the validator of a key space understands it */
    uint16_t subkey_bytes, value_bytes, proof_bytes;
    const void *subkey, *value, *proof;
};

void hm_dht_key(const void *raw, size_t raw_bytes, struct hm_dht_id *key);
static inline struct hm_dht_id hm_dht_node(const struct hm_node_id *node)
{
    struct hm_dht_id id;
    __builtin_memcpy(id.byte, node->byte, sizeof(id.byte));
    return id;
}

/* Signs `records` together: fills owner and proof of each; the proofs lie in *proofs (malloc'ed,
 * the caller's to free). */
HM_MUST_CHECK enum hm_status hm_records_sign(const struct hm_identity *identity,
                                             struct hm_record *records, unsigned count,
                                             void **proofs);
/* HM_ERR_PEER_DENIED: the proof does not hold.  Total. */
struct hm_proof_cache; /* roots that were verified before: bounded, least recently used first out */
HM_MUST_CHECK enum hm_status hm_proof_cache_create(unsigned roots_max,
                                                   struct hm_proof_cache **cache);
void hm_proof_cache_destroy(struct hm_proof_cache *cache);
HM_MUST_CHECK enum hm_status hm_record_verify(const struct hm_record *record,
                                              struct hm_proof_cache *cache /* or NULL */);

void hm_record_encode(const struct hm_record *record, struct hm_writer *writer);
/* Views into the reader's memory; fails the reader on anything over a limit. */
void hm_record_decode(struct hm_reader *reader, struct hm_record *record);

#endif
