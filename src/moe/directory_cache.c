/* moe/directory_cache.c - pages: cached dictionaries of the DHT.
 *
 *   absent ──fetch──► fresh ──10 s──► usable (and fetched behind it) ──expiry - 5 s──► waited for
 *
 * Happy path:    an operation pins its pages, asks for those that are not usable, and reads them
 *                when `fetched` runs.
 * Failure modes: a look-up that fails leaves what was known, for as long as it is usable.  One that
 *                finds nothing, or less than before, takes nothing away: what a signed record said
 *                holds until it expires (a replica that died with its records must not empty the
 *                grid); whoever left is found out by his server record or a call.
 * Invariants:    pages are at most pages_max; a pinned page stays; at most one look-up a page at a
 *                time.
 *
 * Suspicion:     a failed call suspects the server at once; the record known then, or the first one
 *                read after it, is the baseline, and only a newer one, a successful call or the end
 *                of the hold clears the suspicion. */
#include "moe/directory_cache.h"

#include "base/assert.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FETCHES_MAX = 64, EXPERT_SUSPECTS_MAX = 256 };
#define FETCH_TIMEOUT (10 * HM_S)
#define HOLD_FIRST    (5 * HM_S)
#define HOLD_MAX      (60 * HM_S)
#define EXPERT_HOLD   (10 * HM_S)

struct fetch { /* one look-up of many keys; outlives a destroyed cache until its callback has run */
    struct hm_directory_cache *cache; /* NULL: destroyed */
    struct hm_dht_query *query;
    struct hm_link link;
    struct hm_page *page[HM_DHT_QUERY_KEYS_MAX];
    unsigned page_count;
};
struct expert_suspect {
    struct hm_node_id server;
    char uid[HM_UID_BYTES];
    hm_ns until;
};
struct hm_directory_cache {
    struct hm_dht *dht;
    struct hm_loop *loop;
    unsigned pages_max;
    hm_ns negative_max;
    void (*fetched)(void *arg);
    void *arg;
    struct hm_map map;
    struct hm_link lru; /* the longest unused first */
    struct hm_link fetches;
    unsigned fetch_count;
    struct fetch *gathering;
    struct expert_suspect suspect[EXPERT_SUSPECTS_MAX];
    unsigned suspect_next;
    hm_ns suspects_until; /* none is younger: mostly there are none at all */
};

enum hm_status hm_directory_cache_create(struct hm_dht *dht, struct hm_loop *loop,
                                         unsigned pages_max, hm_ns negative_max,
                                         void (*fetched)(void *arg), void *arg,
                                         struct hm_directory_cache **out)
{
    struct hm_directory_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return HM_ERR_NO_MEMORY;
    enum hm_status status = hm_map_init(&cache->map, pages_max);
    if (status != HM_OK) {
        free(cache);
        return status;
    }
    cache->dht = dht;
    cache->loop = loop;
    cache->pages_max = pages_max;
    cache->negative_max = negative_max;
    cache->fetched = fetched;
    cache->arg = arg;
    hm_list_init(&cache->lru);
    hm_list_init(&cache->fetches);
    *out = cache;
    return HM_OK;
}

static void free_page(struct hm_directory_cache *cache, struct hm_page *page)
{
    hm_map_remove(&cache->map, &page->node);
    hm_list_remove(&page->lru);
    free(page->child);
    free(page->name);
    free(page);
}

void hm_directory_cache_destroy(struct hm_directory_cache *cache)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&cache->fetches))) {
        struct fetch *fetch = HM_CONTAINER_OF(link, struct fetch, link);
        fetch->cache = NULL;
        for (unsigned i = 0; i < fetch->page_count; i++) hm_page_put(fetch->page[i]);
        hm_dht_query_cancel(fetch->query);
    }
    while (!hm_list_empty(&cache->lru)) {
        struct hm_page *page = HM_CONTAINER_OF(cache->lru.next, struct hm_page, lru);
        HM_ASSERT(page->pins == 0);
        free_page(cache, page);
    }
    hm_map_fini(&cache->map);
    free(cache);
}

/* ---- pages ----------------------------------------------------------------------------------- */

struct about { /* what a page is about */
    enum hm_page_kind kind;
    const void *bytes;
    size_t byte_count;
};

static uint64_t about_hash(const struct about *about)
{
    return hm_hash(about->bytes, about->byte_count, about->kind);
}

static bool page_is(const struct hm_map_node *node, const void *key)
{
    const struct hm_page *page = HM_CONTAINER_OF(node, const struct hm_page, node);
    const struct about *about = key;
    return page->kind == about->kind && page->about_bytes == about->byte_count &&
           memcmp(page->about, about->bytes, about->byte_count) == 0;
}

static struct hm_page *find_page(const struct hm_directory_cache *cache, const struct about *about)
{
    struct hm_map_node *node = hm_map_find(&cache->map, about_hash(about), page_is, about);
    return node ? HM_CONTAINER_OF(node, struct hm_page, node) : NULL;
}

static bool make_room(struct hm_directory_cache *cache)
{
    if (cache->map.count < cache->pages_max) return true;
    HM_LIST_EACH (link, &cache->lru) {
        struct hm_page *page = HM_CONTAINER_OF(link, struct hm_page, lru);
        if (page->pins > 0) continue;
        free_page(cache, page);
        return true;
    }
    return false;
}

static void page_key(const struct about *about, struct hm_dht_id *key)
{
    switch (about->kind) {
    case HM_PAGE_EXPERTS: hm_directory_expert_key(about->bytes, key); break;
    case HM_PAGE_SERVER: hm_directory_server_key(about->bytes, key); break;
    case HM_PAGE_NAMES: hm_directory_names_key(key); break;
    }
}

static struct hm_page *page_get(struct hm_directory_cache *cache, const struct about *about)
{
    struct hm_page *page = find_page(cache, about);
    if (!page) {
        HM_ASSERT(about->byte_count <= sizeof page->about);
        if (!make_room(cache)) return NULL;
        page = calloc(1, sizeof *page);
        if (!page) return NULL;
        page->kind = about->kind;
        page->about_bytes = (uint8_t)about->byte_count;
        memcpy(page->about, about->bytes, about->byte_count);
        page_key(about, &page->key);
        hm_list_init(&page->lru);
        hm_map_insert(&cache->map, &page->node, about_hash(about));
    }
    hm_list_remove(&page->lru);
    hm_list_push(&cache->lru, &page->lru);
    page->pins++;
    return page;
}

struct hm_page *hm_page_get_experts(struct hm_directory_cache *cache, const char *prefix)
{
    return page_get(cache, &(struct about){HM_PAGE_EXPERTS, prefix, strlen(prefix)});
}

struct hm_page *hm_page_get_server(struct hm_directory_cache *cache,
                                   const struct hm_node_id *server)
{
    return page_get(cache, &(struct about){HM_PAGE_SERVER, server, sizeof *server});
}

struct hm_page *hm_page_get_names(struct hm_directory_cache *cache)
{
    return page_get(cache, &(struct about){HM_PAGE_NAMES, "", 0});
}

void hm_page_put(struct hm_page *page)
{
    HM_ASSERT(page->pins > 0);
    page->pins--;
}

bool hm_page_usable(const struct hm_directory_cache *cache, const struct hm_page *page)
{
    return page->usable_until > hm_loop_now(cache->loop);
}

bool hm_page_alive(struct hm_directory_cache *cache, struct hm_page *page, bool suspects)
{
    hm_ns now = hm_loop_now(cache->loop);
    if (!page->known || page->expires <= now || page->info.addrs.count == 0) return false;
    return suspects || page->suspect_until <= now;
}

/* ---- fetching -------------------------------------------------------------------------------- */

static void found(void *arg, enum hm_status status, const struct hm_found *answer,
                  unsigned key_count)
{
    struct fetch *fetch = arg;
    struct hm_directory_cache *cache = fetch->cache;
    if (!cache) {
        free(fetch);
        return;
    }
    for (unsigned i = 0; i < fetch->page_count; i++) {
        struct hm_page *page = fetch->page[i];
        const struct hm_found *mine = NULL;
        for (unsigned k = 0; k < key_count && !mine;
             k++) { /* found in the order of asking, so at once */
            const struct hm_found *next = &answer[(i + k) % key_count];
            if (memcmp(&next->key, &page->key, sizeof page->key) == 0) mine = next;
        }
        hm_page_take(page, cache->loop, cache->negative_max, status, mine);
        page->fetching = false;
        hm_page_put(page);
    }
    hm_list_remove(&fetch->link);
    cache->fetch_count--;
    free(fetch);
    cache->fetched(cache->arg);
}

static void send_gathered(struct hm_directory_cache *cache)
{
    struct fetch *fetch = cache->gathering;
    struct hm_dht_id key[HM_DHT_QUERY_KEYS_MAX];
    cache->gathering = NULL;
    for (unsigned i = 0; i < fetch->page_count; i++) key[i] = fetch->page[i]->key;
    enum hm_status status =
        hm_dht_find(cache->dht, key, fetch->page_count, hm_loop_now(cache->loop) + FETCH_TIMEOUT,
                    found, fetch, &fetch->query);
    if (status == HM_OK || status == HM_INPROGRESS) {
        hm_list_push(&cache->fetches, &fetch->link);
        cache->fetch_count++;
        return;
    }
    for (unsigned i = 0; i < fetch->page_count; i++) {
        hm_page_take(fetch->page[i], cache->loop, cache->negative_max, status, NULL);
        fetch->page[i]->fetching = false;
        hm_page_put(fetch->page[i]);
    }
    free(fetch);
    cache->fetched(cache->arg);
}

void hm_page_fetch(struct hm_directory_cache *cache, struct hm_page *page)
{
    hm_ns now = hm_loop_now(cache->loop);
    bool usable = page->usable_until > now;
    if (page->fetching || (usable && page->fresh_until > now)) return;
    struct fetch *fetch = cache->gathering;
    if (!fetch) {
        fetch = cache->fetch_count < FETCHES_MAX ? calloc(1, sizeof *fetch) : NULL;
        if (!fetch) {
            page->status = HM_ERR_BUSY;
            return;
        }
        fetch->cache = cache;
        hm_list_init(&fetch->link);
        cache->gathering = fetch;
    }
    page->fetching = true;
    page->pins++;
    fetch->page[fetch->page_count++] = page;
    if (fetch->page_count == HM_DHT_QUERY_KEYS_MAX) send_gathered(cache);
}

void hm_page_fetch_end(struct hm_directory_cache *cache)
{
    if (cache->gathering) send_gathered(cache);
}

/* ---- suspicion ------------------------------------------------------------------------------- */

void hm_directory_cache_suspect(struct hm_directory_cache *cache, const struct hm_node_id *server,
                                hm_ns hold)
{
    struct hm_page *page = hm_page_get_server(cache, server);
    if (!page) return;
    hm_ns now = hm_loop_now(cache->loop);
    if (page->suspect_until > now) { /* calls of one batch fail together: one suspicion */
        hm_page_put(page);
        return;
    }
    if (hold == 0) {
        hold = page->suspect_hold == 0 ? HOLD_FIRST : 2 * page->suspect_hold;
        if (hold > HOLD_MAX) hold = HOLD_MAX;
    }
    page->suspect_hold = hold;
    page->suspect_until = now + hold;
    page->baseline_known = false;
    page->fresh_until = now;
    hm_page_fetch(cache, page);
    hm_page_fetch_end(cache);
    hm_page_put(page);
}

/* NULL: nothing is known of it. */
static struct hm_page *find_server(const struct hm_directory_cache *cache,
                                   const struct hm_node_id *server)
{
    return find_page(cache, &(struct about){HM_PAGE_SERVER, server, sizeof *server});
}

void hm_directory_cache_trust(struct hm_directory_cache *cache, const struct hm_node_id *server)
{
    struct hm_page *page = find_server(cache, server);
    if (!page) return;
    page->suspect_until = 0;
    page->suspect_hold = 0;
}

/* ---- codecs ---------------------------------------------------------------------------------- */

const struct hm_codec *hm_directory_cache_codec(struct hm_directory_cache *cache,
                                                const struct hm_node_id *server,
                                                const struct hm_codec *wanted)
{
    const struct hm_codec *none = hm_codec_find(HM_CODEC_NONE);
    struct hm_page *page = wanted == none ? NULL : find_server(cache, server);
    if (!page || !page->known) return none;
    if (!page->plain && page->info.codecs >> wanted->id & 1) return wanted;
    if (!page->plain_told) {
        char node[HM_NODE_ID_TEXT_BYTES], takes[HM_CODEC_SET_TEXT_BYTES];
        hm_log(HM_LOG_WARN, "moe",
               "server %.8s does not take codec %s (it takes %s); its rows go plain",
               hm_node_id_text(server, node), wanted->name,
               hm_codec_set_text(page->plain ? 1 : page->info.codecs, takes));
    }
    page->plain_told = true;
    return none;
}

void hm_directory_cache_refused_codec(struct hm_directory_cache *cache,
                                      const struct hm_node_id *server)
{
    struct hm_page *page = find_server(cache, server);
    if (page) page->plain = true;
}

void hm_directory_cache_suspect_expert(struct hm_directory_cache *cache,
                                       const struct hm_node_id *server, const struct hm_uid *uid)
{
    struct expert_suspect *suspect = &cache->suspect[cache->suspect_next++ % EXPERT_SUSPECTS_MAX];
    suspect->server = *server;
    memcpy(suspect->uid, uid->text, sizeof suspect->uid);
    suspect->until = cache->suspects_until = hm_loop_now(cache->loop) + EXPERT_HOLD;
}

bool hm_directory_cache_expert_suspected(const struct hm_directory_cache *cache,
                                         const struct hm_node_id *server, const char *prefix,
                                         uint32_t coordinate)
{
    hm_ns now = hm_loop_now(cache->loop);
    char uid[HM_UID_BYTES + 16];
    if (cache->suspects_until <= now) return false;
    snprintf(uid, sizeof uid, "%s%" PRIu32, prefix, coordinate);
    for (unsigned i = 0; i < EXPERT_SUSPECTS_MAX; i++) {
        const struct expert_suspect *suspect = &cache->suspect[i];
        if (suspect->until > now && hm_node_id_equal(&suspect->server, server) &&
            strcmp(suspect->uid, uid) == 0)
            return true;
    }
    return false;
}
