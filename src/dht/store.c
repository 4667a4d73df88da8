/* dht/store.c - dictionaries and entries, and a heap of their ends.
 *
 * Owns:     one allocation a dictionary, one an entry (with its subkey) and one for its value and
 *           proof.  They come from malloc, bounded by records_max and bytes_max: records differ
 *           20-fold in size, and come at the pace of declarations.
 * Happy:    put -> (expire at its end, its value freed) -> forgotten when no older version could
 *           still be alive.
 * Failure:  a full store or dictionary refuses new entries; newer versions of those it has take
 *           what bytes they free. */
#include "dht/store.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

struct entry_key {
    const struct hm_dht_id *key;
    const struct hm_node_id *owner;
    const void *subkey;
    size_t subkey_bytes;
};

static struct hm_dict *dict_of_node(const struct hm_map_node *node)
{
    return HM_CONTAINER_OF(node, struct hm_dict, node);
}

static struct hm_entry *entry_of_node(const struct hm_map_node *node)
{
    return HM_CONTAINER_OF(node, struct hm_entry, node);
}

static struct hm_entry *entry_of_link(const struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct hm_entry, link);
}

static bool dict_equal(const struct hm_map_node *node, const void *key)
{
    return memcmp(dict_of_node(node)->key.byte, key, sizeof(struct hm_dht_id)) == 0;
}

static bool entry_equal(const struct hm_map_node *node, const void *key)
{
    const struct hm_record *record = &entry_of_node(node)->record;
    const struct entry_key *wanted = key;
    return memcmp(record->key.byte, wanted->key->byte, sizeof record->key.byte) == 0 &&
           hm_node_id_equal(&record->owner, wanted->owner) &&
           record->subkey_bytes == wanted->subkey_bytes &&
           (wanted->subkey_bytes == 0 ||
            memcmp(record->subkey, wanted->subkey, wanted->subkey_bytes) == 0);
}

static uint64_t dict_hash(const struct hm_store *store, const struct hm_dht_id *key)
{
    return hm_hash(key->byte, sizeof key->byte, store->seed);
}

static uint64_t entry_hash(const struct hm_store *store, const struct entry_key *key)
{
    uint64_t hash = hm_hash(key->key->byte, sizeof key->key->byte, store->seed);
    hash = hm_hash(key->owner->byte, sizeof key->owner->byte, hash);
    return key->subkey_bytes ? hm_hash(key->subkey, key->subkey_bytes, hash) : hash;
}

enum hm_status hm_store_init(struct hm_store *store, unsigned records_max, unsigned entries_max,
                             size_t bytes_max, uint64_t seed)
{
    HM_ASSERT(records_max > 0 && entries_max > 0);
    *store = (struct hm_store){.records_max = records_max,
                               .entries_max = entries_max,
                               .bytes_max = bytes_max,
                               .seed = seed};
    hm_list_init(&store->all);
    hm_list_init(&store->changed);
    store->heap = malloc(records_max * sizeof(struct hm_entry *));
    if (!store->heap) return hm_fail(HM_ERR_NO_MEMORY, "no memory for %u records", records_max);
    enum hm_status status = hm_map_init(&store->dicts, records_max);
    if (status != HM_OK) goto free_heap;
    status = hm_map_init(&store->entries, records_max);
    if (status != HM_OK) goto fini_dicts;
    return HM_OK;
fini_dicts:
    hm_map_fini(&store->dicts);
free_heap:
    free(store->heap);
    return status;
}

/* ---- the heap: the earliest end first -------------------------------------------------------- */

static void heap_place(struct hm_store *store, unsigned slot, struct hm_entry *entry)
{
    store->heap[slot] = entry;
    entry->heap_slot = slot;
}

/* Moves `entry` from `slot` to where it belongs. */
static void heap_sift(struct hm_store *store, unsigned slot, struct hm_entry *entry)
{
    while (slot > 0 && entry->due_wall_ns < store->heap[(slot - 1) / 2]->due_wall_ns) {
        heap_place(store, slot, store->heap[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    for (;;) {
        unsigned child = 2 * slot + 1;
        if (child >= store->entry_count) break;
        if (child + 1 < store->entry_count &&
            store->heap[child + 1]->due_wall_ns < store->heap[child]->due_wall_ns)
            child++;
        if (entry->due_wall_ns <= store->heap[child]->due_wall_ns) break;
        heap_place(store, slot, store->heap[child]);
        slot = child;
    }
    heap_place(store, slot, entry);
}

/* ---- entries --------------------------------------------------------------------------------- */

static size_t entry_bytes(const struct hm_entry *entry)
{
    return sizeof *entry + entry->record.subkey_bytes +
           (entry->ended ? 0u : (size_t)entry->record.value_bytes + entry->record.proof_bytes);
}

struct hm_dict *hm_store_dict(const struct hm_store *store, const struct hm_dht_id *key)
{
    struct hm_map_node *node = hm_map_find(&store->dicts, dict_hash(store, key), dict_equal, key);
    return node ? dict_of_node(node) : NULL;
}

static struct hm_dict *dict_create(struct hm_store *store, const struct hm_dht_id *key)
{
    struct hm_dict *dict = calloc(1, sizeof *dict);
    if (!dict) return NULL;
    dict->key = *key;
    hm_list_init(&dict->entries);
    hm_list_init(&dict->changed_link);
    hm_list_push(&store->all, &dict->item.link);
    hm_map_insert(&store->dicts, &dict->node, dict_hash(store, key));
    return dict;
}

static void dict_release(struct hm_store *store, struct hm_dict *dict)
{
    if (dict->entry_count > 0) return;
    hm_list_remove(&dict->item.link);
    hm_list_remove(&dict->changed_link);
    hm_map_remove(&store->dicts, &dict->node);
    free(dict);
}

static void count_live(struct hm_store *store, struct hm_dict *dict, int change)
{
    store->live_count += (unsigned)change;
    dict->live_count += (unsigned)change;
}

static void entry_forget(struct hm_store *store, struct hm_entry *entry)
{
    struct hm_entry *last = store->heap[--store->entry_count];
    if (last != entry) heap_sift(store, entry->heap_slot, last);
    if (!entry->ended) count_live(store, entry->dict, -1);
    store->bytes -= entry_bytes(entry);
    hm_map_remove(&store->entries, &entry->node);
    hm_list_remove(&entry->link);
    entry->dict->entry_count--;
    dict_release(store, entry->dict);
    free(entry->body);
    free(entry);
}

static void entry_end(struct hm_store *store, struct hm_entry *entry)
{
    store->bytes -= entry_bytes(entry);
    entry->ended = true;
    store->bytes += entry_bytes(entry);
    count_live(store, entry->dict, -1);
    free(entry->body);
    entry->body = NULL;
    entry->record.value = entry->record.proof = NULL;
    entry->due_wall_ns = entry->forget_wall_ns;
    heap_sift(store, entry->heap_slot, entry);
}

void hm_store_expire(struct hm_store *store, int64_t wall_ns)
{
    while (store->entry_count > 0 && store->heap[0]->due_wall_ns <= wall_ns) {
        struct hm_entry *entry = store->heap[0];
        if (!entry->ended && entry->forget_wall_ns > wall_ns)
            entry_end(store, entry);
        else
            entry_forget(store, entry);
    }
}

void hm_store_fini(struct hm_store *store)
{
    while (store->entry_count > 0) entry_forget(store, store->heap[store->entry_count - 1]);
    HM_ASSERT(hm_list_empty(&store->all));
    hm_map_fini(&store->entries);
    hm_map_fini(&store->dicts);
    free(store->heap);
    *store = (struct hm_store){0};
}

static void *body_create(const struct hm_record *record)
{
    uint8_t *body = malloc((size_t)record->value_bytes + record->proof_bytes + 1);
    if (!body) return NULL;
    if (record->value_bytes) memcpy(body, record->value, record->value_bytes);
    if (record->proof_bytes) memcpy(body + record->value_bytes, record->proof, record->proof_bytes);
    return body;
}

/* Copies what a version consists of into the entry, whose body was freed or never was. */
static void entry_set(struct hm_entry *entry, const struct hm_record *record, uint8_t *body)
{
    entry->record = *record;
    entry->record.subkey = entry->subkey;
    entry->record.value = body;
    entry->record.proof = body + record->value_bytes;
    entry->body = body;
    entry->ended = false;
    entry->due_wall_ns = record->expires_wall_ns;
    if (record->expires_wall_ns > entry->forget_wall_ns)
        entry->forget_wall_ns = record->expires_wall_ns;
}

static enum hm_status replace(struct hm_store *store, struct hm_entry *entry,
                              const struct hm_record *record)
{
    if (record->sequence <= entry->record.sequence) return HM_ERR_STALE;
    size_t bytes =
        sizeof *entry + (size_t)record->subkey_bytes + record->value_bytes + record->proof_bytes;
    if (store->bytes - entry_bytes(entry) + bytes > store->bytes_max) return HM_ERR_BUSY;
    uint8_t *body = body_create(record);
    if (!body) return HM_ERR_NO_MEMORY;
    store->bytes -= entry_bytes(entry);
    if (entry->ended) count_live(store, entry->dict, 1);
    free(entry->body);
    entry_set(entry, record, body);
    store->bytes += entry_bytes(entry);
    heap_sift(store, entry->heap_slot, entry);
    return HM_OK;
}

static enum hm_status insert(struct hm_store *store, const struct hm_record *record, uint64_t hash)
{
    struct hm_dict *dict = hm_store_dict(store, &record->key);
    size_t bytes = sizeof(struct hm_entry) + record->subkey_bytes + (size_t)record->value_bytes +
                   record->proof_bytes;
    if (dict && dict->entry_count >= store->entries_max) return HM_ERR_TOO_BIG;
    if (store->entry_count >= store->records_max || store->bytes + bytes > store->bytes_max)
        return HM_ERR_BUSY;
    struct hm_entry *entry = calloc(1, sizeof *entry + record->subkey_bytes);
    if (!entry) return HM_ERR_NO_MEMORY;
    uint8_t *body = body_create(record);
    if (!body) goto free_entry;
    if (!dict) dict = dict_create(store, &record->key);
    if (!dict) goto free_body;
    if (record->subkey_bytes) memcpy(entry->subkey, record->subkey, record->subkey_bytes);
    entry_set(entry, record, body);
    entry->dict = dict;
    dict->entry_count++;
    hm_list_push(&dict->entries, &entry->link);
    hm_map_insert(&store->entries, &entry->node, hash);
    store->bytes += bytes;
    count_live(store, dict, 1);
    store->entry_count++;
    heap_sift(store, store->entry_count - 1, entry);
    return HM_OK;
free_body:
    free(body);
free_entry:
    free(entry);
    return HM_ERR_NO_MEMORY;
}

static void mark_changed(struct hm_store *store, struct hm_dict *dict)
{
    if (!hm_list_linked(&dict->changed_link)) hm_list_push(&store->changed, &dict->changed_link);
}

enum hm_status hm_store_put(struct hm_store *store, const struct hm_record *record, int64_t wall_ns)
{
    hm_store_expire(store, wall_ns);
    if (record->expires_wall_ns <= wall_ns) return HM_ERR_TIMED_OUT;
    if (record->expires_wall_ns - wall_ns > HM_RECORD_LIFE_MAX_NS + HM_RECORD_SKEW_MAX_NS)
        return HM_ERR_INVALID;
    struct entry_key key = {&record->key, &record->owner, record->subkey, record->subkey_bytes};
    uint64_t hash = entry_hash(store, &key);
    struct hm_map_node *node = hm_map_find(&store->entries, hash, entry_equal, &key);
    enum hm_status status =
        node ? replace(store, entry_of_node(node), record) : insert(store, record, hash);
    if (status == HM_OK) mark_changed(store, hm_store_dict(store, &record->key));
    return status;
}

struct hm_dict *hm_store_next_changed(struct hm_store *store)
{
    struct hm_link *link = hm_list_pop(&store->changed);
    return link ? HM_CONTAINER_OF(link, struct hm_dict, changed_link) : NULL;
}

/* ---- walks ----------------------------------------------------------------------------------- */

static const struct hm_entry *live_from(const struct hm_dict *dict, const struct hm_link *link,
                                        int64_t wall_ns)
{
    for (; link != &dict->entries; link = link->next) {
        const struct hm_entry *entry = entry_of_link(link);
        if (!entry->ended && entry->record.expires_wall_ns > wall_ns) return entry;
    }
    return NULL;
}

const struct hm_entry *hm_dict_first(const struct hm_dict *dict, int64_t wall_ns)
{
    return live_from(dict, dict->entries.next, wall_ns);
}

const struct hm_entry *hm_store_first(const struct hm_store *store, const struct hm_dht_id *key,
                                      int64_t wall_ns)
{
    const struct hm_dict *dict = hm_store_dict(store, key);
    return dict ? hm_dict_first(dict, wall_ns) : NULL;
}

const struct hm_entry *hm_store_next(const struct hm_entry *entry, int64_t wall_ns)
{
    return live_from(entry->dict, entry->link.next, wall_ns);
}

void hm_store_cursor_start(struct hm_store *store, struct hm_store_cursor *cursor)
{
    *cursor = (struct hm_store_cursor){.item.is_cursor = true, .store = store};
    hm_list_push_front(&store->all, &cursor->item.link);
}

struct hm_dict *hm_store_cursor_next(struct hm_store_cursor *cursor)
{
    for (;;) {
        struct hm_link *link = cursor->item.link.next;
        if (link == &cursor->store->all) return NULL;
        hm_list_remove(&cursor->item.link);
        hm_list_push_front(link, &cursor->item.link); /* just behind it */
        struct hm_store_item *item = HM_CONTAINER_OF(link, struct hm_store_item, link);
        if (!item->is_cursor) return HM_CONTAINER_OF(item, struct hm_dict, item);
    }
}

void hm_store_cursor_stop(struct hm_store_cursor *cursor)
{
    if (!cursor->store) return;
    hm_list_remove(&cursor->item.link);
    cursor->store = NULL;
}

void hm_store_check(const struct hm_store *store)
{
    unsigned live = 0, entries = 0, dicts = 0;
    size_t bytes = 0;
    HM_LIST_EACH (link, &store->all) {
        const struct hm_store_item *item = HM_CONTAINER_OF(link, struct hm_store_item, link);
        if (item->is_cursor) continue;
        const struct hm_dict *dict = HM_CONTAINER_OF(item, struct hm_dict, item);
        dicts++;
        unsigned count = 0, live_before = live;
        HM_LIST_EACH (entry_link, &dict->entries) {
            const struct hm_entry *entry = entry_of_link(entry_link);
            HM_ASSERT(entry->dict == dict && store->heap[entry->heap_slot] == entry);
            HM_ASSERT(memcmp(entry->record.key.byte, dict->key.byte, sizeof dict->key.byte) == 0);
            HM_ASSERT(entry->ended == (entry->body == NULL));
            HM_ASSERT(entry->due_wall_ns <= entry->forget_wall_ns);
            bytes += entry_bytes(entry);
            live += !entry->ended;
            count++;
        }
        HM_ASSERT(count > 0 && count == dict->entry_count && count <= store->entries_max);
        HM_ASSERT(live - live_before == dict->live_count);
        entries += count;
    }
    HM_ASSERT(dicts == store->dicts.count && entries == store->entries.count);
    HM_ASSERT(entries == store->entry_count && live == store->live_count);
    HM_ASSERT(entries <= store->records_max && bytes == store->bytes && bytes <= store->bytes_max);
    for (unsigned i = 1; i < store->entry_count; i++)
        HM_ASSERT(store->heap[(i - 1) / 2]->due_wall_ns <= store->heap[i]->due_wall_ns);
}
