/* dht/query_store.c - store: signed records to the 5 nodes nearest to their keys.
 *
 *   sign all --> wave of up to 256 keys: look up the 10 nearest --> deliver to the 5 nearest of
 *   them; for each refusal or
 *            failure, to the next one --> next wave ... --> done
 *
 * A node counts as a replica of a record when it has accepted that record, and not before.  This
 * node is one of the nearest if it listens and its id says so.
 * Owns:     copies of the records, their proofs, the search, deliveries in flight (bounded).
 * Invariant: state.inflight counts the deliveries (queued or in flight) that carry the record. */
#include "base/assert.h"
#include "dht/record_internal.h"
#include "dht/search.h"

#include <stdlib.h>
#include <string.h>

enum {
    WAVE_KEYS_MAX = HM_FIND_KEYS_MAX,
    DELIVERIES_MAX = 6,
    DELIVERY_BYTES_MAX = 128 * 1024,
    TARGET_SELF = UINT16_MAX,
};

struct target_list {                      /* of one key of the wave */
    uint16_t contact[HM_DHT_STORE_K + 1]; /* into store->contact, or TARGET_SELF */
    unsigned count;
};
struct record_state {
    uint8_t replicas, inflight, rank; /* rank: the next target to try */
    uint16_t key;                     /* of the wave */
    enum hm_status refusal;           /* the last one */
};
struct assignment {
    uint16_t contact;
    uint16_t record;
};
struct delivery {
    struct hm_link link;
    struct store *store;
    struct hm_dht_call *call;
    unsigned count;
    uint16_t record[HM_STORE_RECORDS_MAX];
};
struct store {
    struct hm_dht_query query;
    hm_dht_stored_cb cb;
    void *arg;
    struct hm_record *record; /* sorted by key */
    uint16_t *position;       /* of each in the user's order */
    struct record_state *state;
    unsigned record_count;
    void *proofs;
    uint8_t *bytes; /* subkeys and values */

    unsigned wave_begin, wave_end; /* records */
    struct hm_search *search;
    unsigned key_count;
    struct target_list *target;
    struct hm_contact **contact; /* references */
    unsigned contact_count, contact_max;
    struct assignment *assignment; /* still to be sent, by contact */
    unsigned assignment_begin, assignment_end;
    struct hm_link deliveries;
    unsigned delivery_count;
};

static struct store *store_of(struct hm_dht_query *query)
{
    return HM_CONTAINER_OF(query, struct store, query);
}

static void wave_start(struct store *store);

/* ---- the end -------------------------------------------------------------------------------- */

static void drop_contacts(struct store *store)
{
    for (unsigned i = 0; i < store->contact_count; i++) hm_contact_put(store->contact[i]);
    store->contact_count = 0;
}

static void store_free(struct store *store)
{
    hm_search_destroy(store->search);
    for (struct hm_link *link; (link = hm_list_pop(&store->deliveries));) {
        struct delivery *delivery = HM_CONTAINER_OF(link, struct delivery, link);
        hm_dht_call_cancel(delivery->call);
        free(delivery);
    }
    drop_contacts(store);
    free(store->contact);
    free(store->target);
    free(store->assignment);
    free(store->state);
    free(store->position);
    free(store->record);
    free(store->proofs);
    free(store->bytes);
    free(store);
}

static enum hm_status verdict(const struct store *store)
{
    for (unsigned i = 0; i < store->record_count; i++) {
        const struct record_state *state = &store->state[i];
        if (state->replicas > 0) continue;
        return state->refusal != HM_OK ? state->refusal : HM_ERR_PEER_UNREACHABLE;
    }
    return HM_OK;
}

static void store_finish(struct hm_dht_query *query, enum hm_status status)
{
    struct store *store = store_of(query);
    uint8_t replicas[HM_DHT_QUERY_RECORDS_MAX];
    for (unsigned i = 0; i < store->record_count; i++)
        replicas[store->position[i]] = store->state[i].replicas;
    /* A deadline that only cut off further replicas has cost nothing that was promised. */
    enum hm_status found = verdict(store);
    if (status == HM_OK || (status == HM_ERR_TIMED_OUT && found == HM_OK)) status = found;
    unsigned count = store->record_count;
    hm_dht_stored_cb cb = store->cb;
    void *arg = store->arg;
    hm_dht_query_end(query);
    store_free(store);
    cb(arg, status, replicas, count);
}

/* ---- deliveries ----------------------------------------------------------------------------- */

static int by_contact(const void *a, const void *b)
{
    const struct assignment *x = a, *y = b;
    if (x->contact != y->contact) return x->contact < y->contact ? -1 : 1;
    return x->record < y->record ? -1 : x->record > y->record;
}

static void accept_self(struct store *store, unsigned record)
{
    struct record_state *state = &store->state[record];
    enum hm_status status = hm_dht_accept(store->query.dht, &store->record[record]);
    if (status == HM_OK)
        state->replicas++;
    else
        state->refusal = status;
}

/* Chooses for each record of the wave as many next targets as it lacks replicas. */
static void assign(struct store *store)
{
    store->assignment_begin = store->assignment_end = 0;
    for (unsigned i = store->wave_begin; i < store->wave_end; i++) {
        struct record_state *state = &store->state[i];
        const struct target_list *target = &store->target[state->key];
        while (state->replicas + state->inflight < HM_DHT_REPLICAS && state->rank < target->count) {
            uint16_t contact = target->contact[state->rank++];
            if (contact == TARGET_SELF) {
                accept_self(store, i);
                continue;
            }
            state->inflight++;
            store->assignment[store->assignment_end++] =
                (struct assignment){.contact = contact, .record = (uint16_t)i};
        }
    }
    qsort(store->assignment, store->assignment_end, sizeof store->assignment[0], by_contact);
}

static void delivery_end(struct delivery *delivery, const enum hm_status *statuses,
                         enum hm_status status)
{
    struct store *store = delivery->store;
    for (unsigned i = 0; i < delivery->count; i++) {
        struct record_state *state = &store->state[delivery->record[i]];
        enum hm_status said = statuses ? statuses[i] : status;
        HM_ASSERT(state->inflight > 0);
        state->inflight--;
        if (said == HM_OK)
            state->replicas++;
        else
            state->refusal = said;
    }
}

static void pump(struct store *store);

static void on_stored(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    struct delivery *delivery = arg;
    struct store *store = delivery->store;
    enum hm_status statuses[HM_STORE_RECORDS_MAX];
    if (status == HM_OK)
        status = hm_store_reply_decode(bytes, byte_count, statuses, delivery->count);
    delivery_end(delivery, status == HM_OK ? statuses : NULL, status);
    hm_list_remove(&delivery->link);
    store->delivery_count--;
    free(delivery);
    pump(store);
}

/* Takes the next assignments of one contact, as many as one call carries. */
static size_t delivery_fill(struct store *store, struct delivery *delivery, uint16_t *contact)
{
    size_t bytes = 2;
    *contact = store->assignment[store->assignment_begin].contact;
    while (store->assignment_begin < store->assignment_end) {
        struct assignment next = store->assignment[store->assignment_begin];
        size_t size = hm_record_encoded_bytes(&store->record[next.record]);
        if (next.contact != *contact || delivery->count == HM_STORE_RECORDS_MAX) break;
        if (delivery->count > 0 && bytes + size > DELIVERY_BYTES_MAX) break;
        bytes += size;
        delivery->record[delivery->count++] = next.record;
        store->assignment_begin++;
    }
    return bytes;
}

static enum hm_status delivery_send(struct store *store, struct delivery *delivery,
                                    uint16_t contact, size_t bytes)
{
    struct hm_dht *dht = store->query.dht;
    struct hm_buf *payload;
    enum hm_status status = hm_buf_pool_get(hm_rpc_buffers(dht->rpc), bytes, &payload);
    if (status != HM_OK) return status;
    struct hm_writer writer;
    hm_writer_init(&writer, payload->base, payload->bytes);
    hm_store_request_begin(&writer, delivery->count);
    for (unsigned i = 0; i < delivery->count; i++)
        hm_record_encode(&store->record[delivery->record[i]], &writer);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == bytes);
    return hm_dht_call_start(dht, store->contact[contact], HM_METHOD_DHT_STORE, payload,
                             store->query.deadline, on_stored, delivery, &delivery->call);
}

/* Sends what may be sent; goes on to the next wave, or ends, when nothing is left. */
static void pump(struct store *store)
{
    for (;;) {
        if (store->assignment_begin == store->assignment_end) assign(store);
        if (store->assignment_begin == store->assignment_end) break;
        if (store->delivery_count == DELIVERIES_MAX) break;
        struct delivery *delivery = calloc(1, sizeof *delivery);
        if (!delivery) {
            store_finish(&store->query, HM_ERR_NO_MEMORY);
            return;
        }
        delivery->store = store;
        uint16_t contact;
        size_t bytes = delivery_fill(store, delivery, &contact);
        enum hm_status status = delivery_send(store, delivery, contact, bytes);
        if (status != HM_OK) {
            delivery_end(delivery, NULL, status);
            free(delivery);
            continue;
        }
        hm_list_push(&store->deliveries, &delivery->link);
        store->delivery_count++;
    }
    if (store->delivery_count > 0 || store->assignment_begin < store->assignment_end) return;
    store->wave_begin = store->wave_end;
    wave_start(store);
}

/* ---- waves ---------------------------------------------------------------------------------- */

static unsigned contact_index(struct store *store, struct hm_contact *contact)
{
    for (unsigned i = 0; i < store->contact_count; i++)
        if (store->contact[i] == contact) return i;
    HM_ASSERT(store->contact_count < store->contact_max);
    store->contact[store->contact_count] = hm_contact_get(contact);
    return store->contact_count++;
}

/* The nearest that answered, and this node at its place among them. */
static void choose_targets(struct store *store, unsigned key, const struct hm_dht_id *id)
{
    struct hm_dht *dht = store->query.dht;
    struct hm_contact *nearest[HM_DHT_STORE_K];
    unsigned count = hm_search_nearest(store->search, key, nearest, HM_DHT_STORE_K);
    struct target_list *target = &store->target[key];
    bool self_placed = !dht->listening;
    target->count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!self_placed && hm_distance_compare(id, &dht->self, &nearest[i]->id) < 0) {
            target->contact[target->count++] = TARGET_SELF;
            self_placed = true;
        }
        target->contact[target->count++] = (uint16_t)contact_index(store, nearest[i]);
    }
    if (!self_placed) target->contact[target->count++] = TARGET_SELF;
}

static void on_searched(void *arg)
{
    struct store *store = arg;
    for (unsigned i = store->wave_begin; i < store->wave_end; i++)
        if (i == store->wave_begin || store->state[i].key != store->state[i - 1].key)
            choose_targets(store, store->state[i].key, &store->record[i].key);
    hm_search_destroy(store->search);
    store->search = NULL;
    pump(store);
}

static void wave_start(struct store *store)
{
    static const struct hm_search_ops ops = {NULL, on_searched};
    struct hm_dht_id keys[WAVE_KEYS_MAX];
    unsigned i = store->wave_begin, count = 0;
    if (i == store->record_count) {
        store_finish(&store->query, HM_OK);
        return;
    }
    for (; i < store->record_count; i++) {
        const struct hm_dht_id *key = &store->record[i].key;
        if (count == 0 || memcmp(key->byte, keys[count - 1].byte, sizeof key->byte) != 0) {
            if (count == WAVE_KEYS_MAX) break;
            keys[count++] = *key;
        }
        store->state[i].key = (uint16_t)(count - 1);
    }
    store->wave_end = i;
    store->key_count = count;
    drop_contacts(store);
    enum hm_status status = hm_search_create(store->query.dht, keys, count, HM_DHT_STORE_K,
                                             store->query.deadline, &ops, store, &store->search);
    if (status == HM_OK)
        hm_search_start(store->search);
    else
        store_finish(&store->query, status);
}

static void store_start(struct hm_dht_query *query)
{
    wave_start(store_of(query));
}

/* ---- the beginning -------------------------------------------------------------------------- */

struct sorted {
    const struct hm_record *record;
    unsigned position;
};

static int by_key(const void *a, const void *b)
{
    const struct sorted *x = a, *y = b;
    int order = memcmp(x->record->key.byte, y->record->key.byte, sizeof x->record->key.byte);
    return order ? order : x->position < y->position ? -1 : x->position > y->position;
}

/* Copies the records, sorted by key. */
static enum hm_status copy_records(struct store *store, const struct hm_record *records)
{
    unsigned count = store->record_count;
    size_t bytes = 0;
    for (unsigned i = 0; i < count; i++) bytes += records[i].subkey_bytes + records[i].value_bytes;
    struct sorted *sorted = malloc(count * sizeof *sorted);
    store->bytes = malloc(bytes + 1);
    if (!sorted || !store->bytes) {
        free(sorted);
        return HM_ERR_NO_MEMORY;
    }
    for (unsigned i = 0; i < count; i++) sorted[i] = (struct sorted){&records[i], i};
    qsort(sorted, count, sizeof *sorted, by_key);
    uint8_t *at = store->bytes;
    for (unsigned i = 0; i < count; i++) {
        struct hm_record *record = &store->record[i];
        *record = *sorted[i].record;
        store->position[i] = (uint16_t)sorted[i].position;
        if (record->subkey_bytes) memcpy(at, record->subkey, record->subkey_bytes);
        record->subkey = at;
        at += record->subkey_bytes;
        if (record->value_bytes) memcpy(at, record->value, record->value_bytes);
        record->value = at;
        at += record->value_bytes;
    }
    free(sorted);
    return HM_OK;
}

/* Sequences and lives that the user left open, or too long. */
static enum hm_status complete_records(struct store *store, struct hm_dht *dht)
{
    int64_t wall_ns = hm_dht_wall_ns(dht);
    uint64_t sequence = wall_ns > 0 ? (uint64_t)wall_ns : 1;
    if (sequence <= dht->sequence_last) sequence = dht->sequence_last + 1;
    for (unsigned i = 0; i < store->record_count; i++) {
        struct hm_record *record = &store->record[i];
        if (record->expires_wall_ns <= wall_ns)
            return hm_fail(HM_ERR_INVALID, "a record to be stored has expired already");
        if (record->expires_wall_ns - wall_ns > HM_RECORD_LIFE_MAX_NS)
            record->expires_wall_ns = wall_ns + HM_RECORD_LIFE_MAX_NS;
        if (record->sequence == 0) record->sequence = sequence;
    }
    dht->sequence_last = sequence;
    return HM_OK;
}

static enum hm_status prepare(struct store *store, struct hm_dht *dht,
                              const struct hm_record *records)
{
    unsigned count = store->record_count;
    store->contact_max = WAVE_KEYS_MAX * HM_DHT_STORE_K;
    store->record = malloc(count * sizeof store->record[0]);
    store->position = malloc(count * sizeof store->position[0]);
    store->state = calloc(count, sizeof store->state[0]);
    store->target = malloc(WAVE_KEYS_MAX * sizeof store->target[0]);
    store->contact = malloc(store->contact_max * sizeof store->contact[0]);
    store->assignment = malloc(count * HM_DHT_REPLICAS * sizeof store->assignment[0]);
    if (!store->record || !store->position || !store->state || !store->target || !store->contact ||
        !store->assignment)
        return hm_fail(HM_ERR_NO_MEMORY, "no memory to store %u records", count);
    enum hm_status status = copy_records(store, records);
    if (status == HM_OK) status = complete_records(store, dht);
    if (status == HM_OK)
        status = hm_records_sign(hm_rpc_identity(dht->rpc), store->record, count, &store->proofs);
    return status;
}

enum hm_status hm_dht_store(struct hm_dht *dht, const struct hm_record *records, unsigned count,
                            hm_ns deadline, hm_dht_stored_cb cb, void *arg,
                            struct hm_dht_query **query)
{
    if (count == 0 || count > HM_DHT_QUERY_RECORDS_MAX)
        return hm_fail(HM_ERR_INVALID, "a store takes 1 to %d records, not %u",
                       (int)HM_DHT_QUERY_RECORDS_MAX, count);
    struct store *store = calloc(1, sizeof *store);
    if (!store) return hm_fail(HM_ERR_NO_MEMORY, "no memory to store %u records", count);
    hm_list_init(&store->deliveries);
    store->record_count = count;
    store->cb = cb;
    store->arg = arg;
    store->query.start = store_start;
    store->query.finish = store_finish;
    enum hm_status status = prepare(store, dht, records);
    if (status == HM_OK) status = hm_dht_query_begin(dht, &store->query, deadline);
    if (status != HM_OK) {
        store_free(store);
        return status;
    }
    dht->metrics.stores.value++;
    if (query) *query = &store->query;
    return HM_OK;
}
