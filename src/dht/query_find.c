/* dht/query_find.c - find: the entries of some dictionaries, newest version of each.
 *
 * Happy path:  what this node holds itself, then a search over all keys; each entry that comes is
 * verified, and kept
 *              if it is newer than the version we have.
 * Ends:        when every key's lookup is done, or three of the 5 nearest have given theirs; at
 *              the deadline with what there is.
 * Owns:        the search and a copy of each entry (HM_DHT_FOUND_BYTES_MAX of all: what comes
 *              then is left out). */
#include "base/assert.h"
#include "dht/record_internal.h"
#include "dht/search.h"

#include <stdlib.h>
#include <string.h>

struct found {
    struct hm_map_node node;
    struct hm_link link; /* find->key[].entries, in the order in which they came */
    struct hm_record record;
    unsigned key;
    uint8_t bytes[];
};
struct find_key {
    struct hm_dht_id id;
    struct hm_link entries;
    unsigned entry_count;
};
struct find {
    struct hm_dht_query query;
    hm_dht_found_cb cb;
    void *arg;
    struct hm_search *search;
    struct hm_map map;
    size_t bytes;
    unsigned record_count;
    unsigned key_count;
    struct find_key key[];
};

static struct find *find_of(struct hm_dht_query *query)
{
    return HM_CONTAINER_OF(query, struct find, query);
}

/* ---- entries -------------------------------------------------------------------------------- */

struct wanted {
    unsigned key;
    const struct hm_record *record;
};

static bool same_entry(const struct hm_map_node *node, const void *key)
{
    const struct found *found = HM_CONTAINER_OF(node, struct found, node);
    const struct wanted *wanted = key;
    const struct hm_record *record = wanted->record;
    return found->key == wanted->key && hm_node_id_equal(&found->record.owner, &record->owner) &&
           found->record.subkey_bytes == record->subkey_bytes &&
           (record->subkey_bytes == 0 ||
            memcmp(found->record.subkey, record->subkey, record->subkey_bytes) == 0);
}

static void forget(struct find *find, struct found *found)
{
    hm_map_remove(&find->map, &found->node);
    hm_list_remove(&found->link);
    find->key[found->key].entry_count--;
    find->record_count--;
    find->bytes -= hm_record_encoded_bytes(&found->record);
    free(found);
}

/* A copy of a record, whose views point into it. */
static struct found *copy(const struct hm_record *record)
{
    size_t subkey = record->subkey_bytes, value = record->value_bytes, proof = record->proof_bytes;
    struct found *found = malloc(sizeof *found + subkey + value + proof);
    if (!found) return NULL;
    found->record = *record;
    if (subkey) memcpy(found->bytes, record->subkey, subkey);
    if (value) memcpy(found->bytes + subkey, record->value, value);
    if (proof) memcpy(found->bytes + subkey + value, record->proof, proof);
    found->record.subkey = found->bytes;
    found->record.value = found->bytes + subkey;
    found->record.proof = found->bytes + subkey + value;
    return found;
}

/* Keeps a record that is known to be sound, unless we have it as new. */
static void keep(struct find *find, unsigned key, const struct hm_record *record)
{
    struct wanted wanted = {key, record};
    /* Owners choose ids and subkeys: mix them with what they do not know. */
    uint64_t seed = find->query.dht->store.seed ^ key;
    uint64_t hash = hm_hash(record->owner.byte, sizeof record->owner.byte, seed);
    if (record->subkey_bytes) hash = hm_hash(record->subkey, record->subkey_bytes, hash);
    struct hm_map_node *node = hm_map_find(&find->map, hash, same_entry, &wanted);
    struct found *older = node ? HM_CONTAINER_OF(node, struct found, node) : NULL;
    if (older && older->record.sequence >= record->sequence) return;
    size_t bytes = hm_record_encoded_bytes(record);
    if (find->bytes + bytes > HM_DHT_FOUND_BYTES_MAX) return;
    struct found *found = copy(record);
    if (!found) return;
    if (older) forget(find, older);
    found->key = key;
    hm_map_insert(&find->map, &found->node, hash);
    hm_list_push(&find->key[key].entries, &found->link);
    find->key[key].entry_count++;
    find->record_count++;
    find->bytes += bytes;
}

static enum hm_status on_record(void *arg, unsigned key, const struct hm_record *record)
{
    struct find *find = arg;
    struct hm_dht *dht = find->query.dht;
    int64_t wall_ns = hm_dht_wall_ns(dht);
    if (memcmp(record->key.byte, find->key[key].id.byte, sizeof record->key.byte) != 0)
        return HM_ERR_PEER_DENIED; /* not what was asked for */
    if (record->expires_wall_ns <= wall_ns) return HM_ERR_TIMED_OUT;
    if (record->expires_wall_ns - wall_ns > HM_RECORD_LIFE_MAX_NS + HM_RECORD_SKEW_MAX_NS)
        return HM_ERR_INVALID;
    enum hm_status status = hm_dht_judge(dht, record);
    if (status == HM_OK) keep(find, key, record);
    return status;
}

/* ---- life ----------------------------------------------------------------------------------- */

static void find_free(struct find *find)
{
    for (unsigned i = 0; i < find->key_count; i++)
        while (!hm_list_empty(&find->key[i].entries))
            forget(find, HM_CONTAINER_OF(find->key[i].entries.next, struct found, link));
    hm_map_fini(&find->map);
    free(find);
}

/* Gives the user what there is. */
static void deliver(struct find *find, enum hm_status status)
{
    struct hm_found *answers = malloc(find->key_count * sizeof *answers);
    struct hm_record *records = malloc((find->record_count + 1) * sizeof *records);
    if (answers && records) {
        unsigned at = 0;
        for (unsigned i = 0; i < find->key_count; i++) {
            answers[i] = (struct hm_found){.key = find->key[i].id,
                                           .record = records + at,
                                           .record_count = find->key[i].entry_count};
            HM_LIST_EACH (link, &find->key[i].entries)
                records[at++] = HM_CONTAINER_OF(link, struct found, link)->record;
        }
        HM_ASSERT(at == find->record_count);
        find->cb(find->arg, status, answers, find->key_count);
    } else {
        find->cb(find->arg, HM_ERR_NO_MEMORY, NULL, 0);
    }
    free(records);
    free(answers);
}

static void find_finish(struct hm_dht_query *query, enum hm_status status)
{
    struct find *find = find_of(query);
    bool asked = find->search && hm_search_answered(find->search) > 0;
    if (status == HM_OK && !asked && find->record_count == 0) status = HM_ERR_PEER_UNREACHABLE;
    hm_search_destroy(find->search);
    hm_dht_query_end(query);
    deliver(find, status);
    find_free(find);
}

static void on_searched(void *arg)
{
    struct find *find = arg;
    find_finish(&find->query, HM_OK);
}

static void find_start(struct hm_dht_query *query)
{
    static const struct hm_search_ops ops = {on_record, on_searched};
    struct find *find = find_of(query);
    struct hm_dht *dht = query->dht;
    struct hm_dht_id keys[HM_DHT_QUERY_KEYS_MAX];
    for (unsigned i = 0; i < find->key_count; i++) keys[i] = find->key[i].id;
    enum hm_status status = hm_search_create(dht, keys, find->key_count, HM_DHT_K, query->deadline,
                                             &ops, find, &find->search);
    if (status != HM_OK) {
        find_finish(query, status);
        return;
    }
    int64_t wall_ns = hm_dht_wall_ns(dht);
    for (unsigned i = 0; i < find->key_count; i++) {
        const struct hm_entry *entry = hm_store_first(&dht->store, &keys[i], wall_ns);
        if (entry) hm_search_self_holds(find->search, i);
        for (; entry; entry = hm_store_next(entry, wall_ns)) keep(find, i, &entry->record);
    }
    hm_search_start(find->search);
}

enum hm_status hm_dht_find(struct hm_dht *dht, const struct hm_dht_id *keys, unsigned count,
                           hm_ns deadline, hm_dht_found_cb cb, void *arg,
                           struct hm_dht_query **query)
{
    if (count == 0 || count > HM_DHT_QUERY_KEYS_MAX)
        return hm_fail(HM_ERR_INVALID, "a find asks for 1 to %d keys, not %u",
                       (int)HM_DHT_QUERY_KEYS_MAX, count);
    struct find *find = calloc(1, sizeof *find + count * sizeof find->key[0]);
    if (!find) return hm_fail(HM_ERR_NO_MEMORY, "no memory to find %u keys", count);
    enum hm_status status = hm_map_init(&find->map, 64 + 16 * count);
    if (status != HM_OK) goto free_find;
    find->cb = cb;
    find->arg = arg;
    find->key_count = count;
    for (unsigned i = 0; i < count; i++) {
        find->key[i].id = keys[i];
        hm_list_init(&find->key[i].entries);
    }
    find->query.start = find_start;
    find->query.finish = find_finish;
    status = hm_dht_query_begin(dht, &find->query, deadline);
    if (status != HM_OK) goto fini_map;
    dht->metrics.finds.value++;
    if (query) *query = &find->query;
    return HM_OK;
fini_map:
    hm_map_fini(&find->map);
free_find:
    free(find);
    return status;
}
