/* moe/directory_cache.h - cached dictionaries of the directory, and what failed calls taught.
 * Internal to src/moe. */
#ifndef HM_MOE_DIRECTORY_CACHE_H
#define HM_MOE_DIRECTORY_CACHE_H

#include "moe/directory_records.h"

enum hm_page_kind { HM_PAGE_EXPERTS, HM_PAGE_SERVER, HM_PAGE_NAMES };
struct hm_page_child { /* "that server has live experts under this child" */
    uint32_t coordinate;
    struct hm_node_id server;
    hm_ns expires; /* 5 s before the record does */
};
struct hm_page_name {
    struct hm_grid_name name;
    hm_ns expires;
};
struct hm_page { /* one dictionary of the DHT */
    struct hm_map_node node;
    struct hm_link lru;
    struct hm_dht_id key;
    enum hm_page_kind kind;
    uint8_t about[HM_UID_BYTES]; /* what it is found by: the prefix, or the server's id */
    uint8_t about_bytes;
    unsigned pins; /* operations and fetches that hold it */
    bool fetching;
    enum hm_status status; /* of the last fetch */
    hm_ns fresh_until;     /* older: looked up behind the answer */
    hm_ns usable_until;    /* older: waited for; 0: never fetched */
    /* experts, by coordinate, then server */
    struct hm_page_child *child;
    unsigned child_count;
    /* names */
    struct hm_page_name *name;
    unsigned name_count;
    /* server */
    bool known; /* info and sequence are from a record */
    struct hm_server_info info;
    uint64_t sequence;
    hm_ns expires;
    bool plain, plain_told; /* has refused a codec; the log says that it gets plain rows */
    hm_ns suspect_until;    /* 0: trusted */
    hm_ns suspect_hold;  /* of the last suspicion since it was trusted; the next is twice as long */
    bool baseline_known; /* suspected, and `sequence` was read since: a higher one clears it */
};

struct hm_directory_cache;
/* `fetched` runs when a page stops fetching; from a DHT callback, or inside hm_page_fetch_end if
 * the DHT is full. */
HM_MUST_CHECK enum hm_status hm_directory_cache_create(struct hm_dht *dht, struct hm_loop *loop,
                                                       unsigned pages_max, hm_ns negative_max,
                                                       void (*fetched)(void *arg), void *arg,
                                                       struct hm_directory_cache **cache);
void hm_directory_cache_destroy(struct hm_directory_cache *cache);
/* Finds or makes a page, and pins it; NULL: the table is full of pinned ones, or no memory.
 * Cost: a page that is there is found without its key of the DHT, which is a digest. */
struct hm_page *hm_page_get_experts(struct hm_directory_cache *cache, const char *prefix);
struct hm_page *hm_page_get_server(struct hm_directory_cache *cache,
                                   const struct hm_node_id *server);
struct hm_page *hm_page_get_names(struct hm_directory_cache *cache);
void hm_page_put(struct hm_page *page);
/* directory_page.c: a look-up is over; found NULL: it came back without this page's key. */
void hm_page_take(struct hm_page *page, struct hm_loop *loop, hm_ns negative_max,
                  enum hm_status status, const struct hm_found *found);
bool hm_page_usable(const struct hm_directory_cache *cache, const struct hm_page *page);
/* Gathers pages to fetch where they are worth it: not usable, or not fresh.  _end sends what was
 * gathered, many keys a call. */
void hm_page_fetch(struct hm_directory_cache *cache, struct hm_page *page);
void hm_page_fetch_end(struct hm_directory_cache *cache);
/* A server page: declared, with addresses (else it has withdrawn), not expired and (unless `suspects` do count) not suspected. */
bool hm_page_alive(struct hm_directory_cache *cache, struct hm_page *page, bool suspects);

void hm_directory_cache_suspect(struct hm_directory_cache *cache, const struct hm_node_id *server,
                                hm_ns hold);
void hm_directory_cache_trust(struct hm_directory_cache *cache, const struct hm_node_id *server);
/* directory.h: hm_directory_codec, hm_directory_refused_codec */
const struct hm_codec *hm_directory_cache_codec(struct hm_directory_cache *cache,
                                                const struct hm_node_id *server,
                                                const struct hm_codec *wanted);
void hm_directory_cache_refused_codec(struct hm_directory_cache *cache,
                                      const struct hm_node_id *server);
void hm_directory_cache_suspect_expert(struct hm_directory_cache *cache,
                                       const struct hm_node_id *server, const struct hm_uid *uid);
/* The uid is `prefix` and `coordinate`. */
bool hm_directory_cache_expert_suspected(const struct hm_directory_cache *cache,
                                         const struct hm_node_id *server, const char *prefix,
                                         uint32_t coordinate);

#endif
