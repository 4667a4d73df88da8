/* dht/proof.c - one signature for a whole announcement: a Merkle tree over its records.
 *
 * The tree is that of RFC 6962, section 2.1.  A record's proof (wire.md has the layout) is
 *
 *      public key 32 | signature 64 | turns u32 | path count u8 | path count x sibling 32
 *
 * where bit i of `turns` says that the i-th sibling, counted from the leaf, stands on the left.
 * With the turns in the proof a verifier needs no index and no tree size; they prove nothing
 * about the record's place, and nobody asks for it.
 *
 * Owns:     the cache of roots whose signature held: (public key, signature, root) -> yes, the
 *           least recently used goes first. The signature is part of what is remembered, so that
 *           a record with a broken one is not handed on.
 * Failure:  anything that does not hold is HM_ERR_PEER_DENIED; nothing is remembered about it. */
#include "base/assert.h"
#include "base/list.h"
#include "base/map.h"
#include "base/rng.h"
#include "dht/record_internal.h"

#include <stdlib.h>
#include <string.h>

static const char signed_prefix[] =
    "hivemind dht announcement 1"; /* with its terminator: no other kind of signature */
enum { PROOF_BYTES_MIN = HM_PUBLIC_KEY_BYTES + HM_SIGNATURE_BYTES + 4 + 1 };

struct digest {
    uint8_t byte[HM_DIGEST_BYTES];
};

static void join_digests(const struct digest *left, const struct digest *right,
                         struct digest *parent)
{
    uint8_t bytes[1 + 2 * HM_DIGEST_BYTES];
    bytes[0] = 0x01;
    memcpy(bytes + 1, left->byte, HM_DIGEST_BYTES);
    memcpy(bytes + 1 + HM_DIGEST_BYTES, right->byte, HM_DIGEST_BYTES);
    hm_sha256(bytes, sizeof bytes, parent->byte);
}

static void signed_bytes(const struct digest *root,
                         uint8_t bytes[sizeof signed_prefix + HM_DIGEST_BYTES])
{
    memcpy(bytes, signed_prefix, sizeof signed_prefix);
    memcpy(bytes + sizeof signed_prefix, root->byte, HM_DIGEST_BYTES);
}

/* ---- signing --------------------------------------------------------------------------------- */

/* The levels of the tree one after the other, leaves first; an odd last digest moves up as it is,
 * which gives the same tree as RFC 6962's definition by the largest power of two. */
struct tree {
    struct digest *digest;
    unsigned level_start[HM_RECORD_PATH_MAX + 1], level_count[HM_RECORD_PATH_MAX + 1];
    unsigned levels;
};

static enum hm_status build_tree(const struct hm_record *records, unsigned count, struct tree *tree)
{
    tree->digest = malloc((2 * (size_t)count + HM_RECORD_PATH_MAX) * sizeof(struct digest));
    if (!tree->digest) return hm_fail(HM_ERR_NO_MEMORY, "no memory to sign %u records", count);
    for (unsigned i = 0; i < count; i++) hm_record_leaf(&records[i], tree->digest[i].byte);
    tree->level_start[0] = 0;
    tree->level_count[0] = count;
    tree->levels = 1;
    while (tree->level_count[tree->levels - 1] > 1) {
        unsigned below = tree->levels - 1, level = tree->levels++;
        const struct digest *from = tree->digest + tree->level_start[below];
        unsigned from_count = tree->level_count[below];
        tree->level_start[level] = tree->level_start[below] + from_count;
        tree->level_count[level] = (from_count + 1) / 2;
        struct digest *to = tree->digest + tree->level_start[level];
        for (unsigned i = 0; i < from_count / 2; i++)
            join_digests(&from[2 * i], &from[2 * i + 1], &to[i]);
        if (from_count % 2) to[from_count / 2] = from[from_count - 1];
    }
    return HM_OK;
}

static void write_proof(const struct tree *tree, unsigned index, const uint8_t *public_key,
                        const uint8_t *signature, struct hm_writer *writer)
{
    struct digest path[HM_RECORD_PATH_MAX];
    uint32_t turns = 0;
    unsigned count = 0;
    for (unsigned level = 0; level + 1 < tree->levels; level++, index /= 2) {
        unsigned sibling = index ^ 1;
        if (sibling >= tree->level_count[level]) continue;
        if (sibling < index) turns |= (uint32_t)1 << count;
        path[count++] = tree->digest[tree->level_start[level] + sibling];
    }
    hm_write_bytes(writer, public_key, HM_PUBLIC_KEY_BYTES);
    hm_write_bytes(writer, signature, HM_SIGNATURE_BYTES);
    hm_write_u32(writer, turns);
    hm_write_u8(writer, (uint8_t)count);
    hm_write_bytes(writer, path, count * sizeof(struct digest));
}

enum hm_status hm_records_sign(const struct hm_identity *identity, struct hm_record *records,
                               unsigned count, void **proofs)
{
    if (count == 0 || count > 1u << HM_RECORD_PATH_MAX)
        return hm_fail(HM_ERR_INVALID, "an announcement has 1 to %u records, not %u",
                       1u << HM_RECORD_PATH_MAX, count);
    for (unsigned i = 0; i < count; i++) {
        if (records[i].subkey_bytes > HM_RECORD_SUBKEY_BYTES_MAX ||
            records[i].value_bytes > HM_RECORD_VALUE_BYTES_MAX)
            return hm_fail(HM_ERR_TOO_BIG,
                           "a record's subkey has at most %d bytes and its value %d",
                           (int)HM_RECORD_SUBKEY_BYTES_MAX, (int)HM_RECORD_VALUE_BYTES_MAX);
        records[i].owner = *hm_identity_node(identity);
    }
    struct tree tree;
    enum hm_status status = build_tree(records, count, &tree);
    if (status != HM_OK) return status;
    uint8_t bytes[sizeof signed_prefix + HM_DIGEST_BYTES], signature[HM_SIGNATURE_BYTES];
    signed_bytes(&tree.digest[tree.level_start[tree.levels - 1]], bytes);
    status = hm_identity_sign(identity, bytes, sizeof bytes, signature);
    if (status != HM_OK) goto free_tree;
    size_t proof_bytes_max = PROOF_BYTES_MIN + (tree.levels - 1) * sizeof(struct digest);
    uint8_t *memory = malloc(count * proof_bytes_max);
    if (!memory) {
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for the proofs of %u records", count);
        goto free_tree;
    }
    for (unsigned i = 0; i < count; i++) {
        uint8_t *proof = memory + i * proof_bytes_max;
        struct hm_writer writer;
        hm_writer_init(&writer, proof, proof_bytes_max);
        write_proof(&tree, i, hm_identity_public_key(identity), signature, &writer);
        HM_ASSERT(hm_writer_ok(&writer));
        records[i].proof = proof;
        records[i].proof_bytes = (uint16_t)hm_writer_count(&writer);
    }
    *proofs = memory;
free_tree:
    free(tree.digest);
    return status;
}

/* ---- remembering ----------------------------------------------------------------------------- */

struct vouched {
    uint8_t public_key[HM_PUBLIC_KEY_BYTES], signature[HM_SIGNATURE_BYTES];
    struct digest root;
};
struct cached {
    struct hm_map_node node;
    struct hm_link link; /* in use: most recently used last; or free */
    struct vouched vouched;
};
struct hm_proof_cache {
    struct hm_map map;
    struct hm_link used, unused;
    uint64_t seed;
    struct cached cached[];
};

enum hm_status hm_proof_cache_create(unsigned roots_max, struct hm_proof_cache **cache)
{
    HM_ASSERT(roots_max > 0);
    struct hm_proof_cache *made = calloc(1, sizeof *made + roots_max * sizeof made->cached[0]);
    if (!made) return hm_fail(HM_ERR_NO_MEMORY, "no memory for %u verified roots", roots_max);
    enum hm_status status = hm_map_init(&made->map, roots_max);
    if (status != HM_OK) {
        free(made);
        return status;
    }
    hm_list_init(&made->used);
    hm_list_init(&made->unused);
    made->seed = hm_rng_os_seed(); /* decides which bucket, never what is answered */
    for (unsigned i = 0; i < roots_max; i++) hm_list_push(&made->unused, &made->cached[i].link);
    *cache = made;
    return HM_OK;
}

void hm_proof_cache_destroy(struct hm_proof_cache *cache)
{
    if (!cache) return;
    hm_map_fini(&cache->map);
    free(cache);
}

static struct cached *cached_of_node(const struct hm_map_node *node)
{
    return HM_CONTAINER_OF(node, struct cached, node);
}

static bool same_vouched(const struct hm_map_node *node, const void *key)
{
    return memcmp(&cached_of_node(node)->vouched, key, sizeof(struct vouched)) == 0;
}

static bool remembered(struct hm_proof_cache *cache, const struct vouched *vouched, uint64_t hash)
{
    struct hm_map_node *node = hm_map_find(&cache->map, hash, same_vouched, vouched);
    if (!node) return false;
    struct cached *cached = cached_of_node(node);
    hm_list_remove(&cached->link);
    hm_list_push(&cache->used, &cached->link);
    return true;
}

static void remember(struct hm_proof_cache *cache, const struct vouched *vouched, uint64_t hash)
{
    struct hm_link *link = hm_list_pop(&cache->unused);
    if (!link) {
        link = hm_list_pop(&cache->used);
        hm_map_remove(&cache->map, &HM_CONTAINER_OF(link, struct cached, link)->node);
    }
    struct cached *cached = HM_CONTAINER_OF(link, struct cached, link);
    cached->vouched = *vouched;
    hm_map_insert(&cache->map, &cached->node, hash);
    hm_list_push(&cache->used, &cached->link);
}

/* ---- verifying ------------------------------------------------------------------------------- */

/* Reads the proof and climbs from the record's leaf to the root that it leads to; false: the
 * proof has no such form. */
static bool climb(const struct hm_record *record, struct vouched *vouched)
{
    struct hm_reader reader;
    hm_reader_init(&reader, record->proof, record->proof_bytes);
    const void *public_key = hm_read_bytes(&reader, HM_PUBLIC_KEY_BYTES);
    const void *signature = hm_read_bytes(&reader, HM_SIGNATURE_BYTES);
    uint32_t turns = hm_read_u32(&reader);
    unsigned count = hm_read_u8(&reader);
    if (count > HM_RECORD_PATH_MAX || turns >> count != 0) return false;
    const uint8_t *path = hm_read_bytes(&reader, count * sizeof(struct digest));
    if (!hm_reader_ended(&reader)) return false;
    memcpy(vouched->public_key, public_key, HM_PUBLIC_KEY_BYTES);
    memcpy(vouched->signature, signature, HM_SIGNATURE_BYTES);
    struct digest at, sibling;
    hm_record_leaf(record, at.byte);
    for (unsigned i = 0; i < count; i++) {
        memcpy(&sibling, path + i * sizeof sibling, sizeof sibling);
        if (turns >> i & 1)
            join_digests(&sibling, &at, &at);
        else
            join_digests(&at, &sibling, &at);
    }
    vouched->root = at;
    return true;
}

enum hm_status hm_record_verify(const struct hm_record *record, struct hm_proof_cache *cache)
{
    if (record->subkey_bytes > HM_RECORD_SUBKEY_BYTES_MAX ||
        record->value_bytes > HM_RECORD_VALUE_BYTES_MAX)
        return HM_ERR_PEER_DENIED;
    struct vouched vouched;
    if (!climb(record, &vouched)) return HM_ERR_PEER_DENIED;
    struct hm_node_id signer;
    hm_node_id_from_key(vouched.public_key, &signer);
    if (!hm_node_id_equal(&signer, &record->owner)) return HM_ERR_PEER_DENIED;
    uint64_t hash = cache ? hm_hash(&vouched, sizeof vouched, cache->seed) : 0;
    if (cache && remembered(cache, &vouched, hash)) return HM_OK;
    uint8_t bytes[sizeof signed_prefix + HM_DIGEST_BYTES];
    signed_bytes(&vouched.root, bytes);
    if (!hm_signature_valid(vouched.public_key, bytes, sizeof bytes, vouched.signature))
        return HM_ERR_PEER_DENIED;
    if (cache) remember(cache, &vouched, hash);
    return HM_OK;
}
