/* dht/store.h - the records that this node holds: dictionaries of entries, bounded in number and
 * bytes.
 *
 * Of two versions of an entry (one owner, one subkey) the higher sequence wins; an equal or lower
 * one is HM_ERR_STALE.  An entry that has ended is still remembered, without its value, for as long
 * as an older version of it might be replayed: a record that was withdrawn by a short-lived newer
 * one does not rise again.
 * Pure: wall time comes in, nothing is verified here (node.c does, before). */
#ifndef HM_DHT_STORE_H
#define HM_DHT_STORE_H

#include "base/list.h"
#include "base/map.h"
#include "dht/record.h"

struct hm_store_item { /* of the store's list: a dictionary, or a cursor between them */
    struct hm_link link;
    bool is_cursor;
};
struct hm_dict {
    struct hm_store_item item;
    struct hm_dht_id key;
    struct hm_map_node node;
    struct hm_link entries;
    struct hm_link changed_link;      /* store->changed; idle: nothing new since it was looked at */
    unsigned entry_count, live_count; /* ended ones too; without them */
};
struct hm_entry {
    struct hm_record record; /* value and proof are NULL once it has ended */
    struct hm_dict *dict;
    struct hm_link link;
    struct hm_map_node node;
    int64_t due_wall_ns;    /* when it ends, or is forgotten if it has ended */
    int64_t forget_wall_ns; /* the latest end of all its versions */
    uint32_t heap_slot;
    bool ended;
    void *body; /* value and proof */
    uint8_t subkey[];
};
struct hm_store {
    struct hm_map dicts, entries;
    struct hm_link all;     /* dictionaries, the oldest first */
    struct hm_link changed; /* those that have got entries; their user takes them off */
    struct hm_entry **heap;
    unsigned records_max, entries_max, entry_count, live_count;
    size_t bytes_max, bytes;
    uint64_t seed;
};
HM_MUST_CHECK enum hm_status hm_store_init(struct hm_store *store, unsigned records_max,
                                           unsigned entries_max, size_t bytes_max, uint64_t seed);
void hm_store_fini(struct hm_store *store); /* no cursor may be left */
/* Copies.  HM_ERR_STALE; HM_ERR_TIMED_OUT: it has ended already; HM_ERR_INVALID: it lives longer
 * than HM_RECORD_LIFE_MAX_NS (and the skew); HM_ERR_TOO_BIG: its dictionary is full; HM_ERR_BUSY:
 * the store is. */
HM_MUST_CHECK enum hm_status hm_store_put(struct hm_store *store, const struct hm_record *record,
                                          int64_t wall_ns);
void hm_store_expire(struct hm_store *store, int64_t wall_ns);
/* Live entries of one dictionary, in the order in which they came; NULL ends. */
const struct hm_entry *hm_store_first(const struct hm_store *store, const struct hm_dht_id *key,
                                      int64_t wall_ns);
const struct hm_entry *hm_store_next(const struct hm_entry *entry, int64_t wall_ns);
/* or NULL */
struct hm_dict *hm_store_dict(const struct hm_store *store, const struct hm_dht_id *key);
struct hm_dict *hm_store_next_changed(struct hm_store *store); /* takes it off; NULL: none */
const struct hm_entry *hm_dict_first(const struct hm_dict *dict, int64_t wall_ns);

/* A walk over all dictionaries that may rest while the store changes; it sees each dictionary
 * that was there at its start and still is. */
struct hm_store_cursor {
    struct hm_store_item item;
    struct hm_store *store;
};
void hm_store_cursor_start(struct hm_store *store, struct hm_store_cursor *cursor);
struct hm_dict *hm_store_cursor_next(struct hm_store_cursor *cursor); /* NULL: the end */
void hm_store_cursor_stop(struct hm_store_cursor *cursor);            /* idempotent */
void hm_store_check(const struct hm_store *store);

#endif
