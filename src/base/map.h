/* base/map.h - intrusive chained hash map with a fixed number of buckets: it never allocates after
 * init.
 *
 * The caller embeds a hm_map_node, supplies a 64-bit hash and compares keys itself.  Whoever owns
 * the map bounds the number of entries; buckets are sized for that bound at init. */
#ifndef HM_BASE_MAP_H
#define HM_BASE_MAP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hm_map_node {
    struct hm_map_node *next;
    uint64_t hash;
};
struct hm_map {
    struct hm_map_node **bucket;
    uint32_t mask;
    uint32_t count;
};
typedef bool (*hm_map_equal)(const struct hm_map_node *node, const void *key);

HM_MUST_CHECK enum hm_status hm_map_init(struct hm_map *map, uint32_t entries_max);
void hm_map_fini(struct hm_map *map); /* the nodes are the caller's */
void hm_map_insert(struct hm_map *map, struct hm_map_node *node, uint64_t hash);
struct hm_map_node *hm_map_find(const struct hm_map *map, uint64_t hash, hm_map_equal equal,
                                const void *key);
void hm_map_remove(struct hm_map *map, struct hm_map_node *node);
/* Walks every node in bucket order; NULL starts, NULL ends.  The returned node may be removed
 * before the next call only if the caller asked for its successor first. */
struct hm_map_node *hm_map_next(const struct hm_map *map, const struct hm_map_node *node);

/* xxHash3 of bytes; `seed` is drawn at random by maps whose keys come from strangers. */
uint64_t hm_hash(const void *bytes, size_t byte_count, uint64_t seed);

#endif
