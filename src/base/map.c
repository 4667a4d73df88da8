/* base/map.c - chained hash map over the caller's nodes; the only memory it owns is the array of
 * buckets. */
#include "base/map.h"

#include "base/assert.h"

#include <stdlib.h>
#include <xxhash.h>

/* Fibonacci hashing: callers may pass hashes that are plain ids or counters. */
static uint32_t bucket_of(const struct hm_map *map, uint64_t hash)
{
    return (uint32_t)((hash * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & map->mask;
}

enum hm_status hm_map_init(struct hm_map *map, uint32_t entries_max)
{
    HM_ASSERT(entries_max <= UINT32_C(1) << 31);
    uint32_t buckets = 8;
    while (buckets < entries_max) buckets *= 2;
    struct hm_map_node **bucket = calloc(buckets, sizeof(struct hm_map_node *));
    if (!bucket) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a map of %u buckets", buckets);
    *map = (struct hm_map){.bucket = bucket, .mask = buckets - 1};
    return HM_OK;
}

void hm_map_fini(struct hm_map *map)
{
    free(map->bucket);
    *map = (struct hm_map){0};
}

void hm_map_insert(struct hm_map *map, struct hm_map_node *node, uint64_t hash)
{
    struct hm_map_node **bucket = &map->bucket[bucket_of(map, hash)];
    node->hash = hash;
    node->next = *bucket;
    *bucket = node;
    map->count++;
}

struct hm_map_node *hm_map_find(const struct hm_map *map, uint64_t hash, hm_map_equal equal,
                                const void *key)
{
    struct hm_map_node *node = map->bucket[bucket_of(map, hash)];
    while (node && !(node->hash == hash && equal(node, key))) node = node->next;
    return node;
}

void hm_map_remove(struct hm_map *map, struct hm_map_node *node)
{
    struct hm_map_node **at = &map->bucket[bucket_of(map, node->hash)];
    while (*at && *at != node) at = &(*at)->next;
    HM_ASSERT(*at == node);
    *at = node->next;
    node->next = NULL;
    map->count--;
}

struct hm_map_node *hm_map_next(const struct hm_map *map, const struct hm_map_node *node)
{
    if (node && node->next) return node->next;
    uint64_t first = node ? (uint64_t)bucket_of(map, node->hash) + 1 : 0;
    for (uint64_t i = first; i <= map->mask; i++)
        if (map->bucket[i]) return map->bucket[i];
    return NULL;
}

uint64_t hm_hash(const void *bytes, size_t byte_count, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, byte_count, seed);
}
