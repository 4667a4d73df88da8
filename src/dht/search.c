/* dht/search.c - the driver of lookups.
 *
 * Owns:     a lookup for each key; references to the contacts met (bounded); an ask for each call
 *           in flight.
 * Happy:    pump() takes the next candidate of some key, adds every other key that could ask it
 *           too, and calls; its reply feeds the lookups; and so on until all are done.
 * Paging:   a node that holds more entries than fit a reply is asked for the rest before it
 *           counts as answered.
 * Failure:  a call that fails makes its node dead for these lookups; a reply that is malformed
 *           or has a forged record does too, and makes it a suspect.
 * Invariant: a candidate is ASKED exactly while an ask to it carries that key. */
#include "dht/search.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

enum { ASKS_MAX = 16, PAGES_MAX = 32, CONTACTS_MIN = 256, CONTACTS_MAX = 2048 };

struct search_key {
    struct hm_lookup lookup;
    bool finished;
    bool self_holds;
};
struct known { /* a contact that some lookup may name: its index is the candidate's handle */
    struct hm_map_node node;
    struct hm_contact *contact;
};
struct ask_item {
    uint16_t key;
    uint16_t skip; /* entries got so far */
    uint16_t held;
    bool sound; /* of these, one at least */
};
struct ask {
    struct hm_link link;
    struct hm_search *search;
    struct hm_dht_call *call;
    struct hm_contact *contact; /* the search's reference */
    uint32_t *handle_of;        /* while a reply is read: its contacts' handles */
    unsigned pages, count;
    bool forged; /* something that it gave */
    struct ask_item item[];
};
struct hm_search {
    struct hm_dht *dht;
    const struct hm_search_ops *ops;
    void *arg;
    hm_ns deadline;
    struct hm_link asks;
    unsigned ask_count, answered;
    struct hm_map map;
    struct known *known;
    uint32_t known_count, known_max;
    unsigned key_count, unfinished;
    struct search_key key[];
};

enum hm_status hm_search_create(struct hm_dht *dht, const struct hm_dht_id *keys, unsigned count,
                                unsigned k, hm_ns deadline, const struct hm_search_ops *ops,
                                void *arg, struct hm_search **created)
{
    HM_ASSERT(count > 0 && count <= HM_FIND_KEYS_MAX);
    struct hm_search *search = malloc(sizeof *search + count * sizeof search->key[0]);
    if (!search) return hm_fail(HM_ERR_NO_MEMORY, "no memory to look up %u keys", count);
    *search = (struct hm_search){.dht = dht,
                                 .ops = ops,
                                 .arg = arg,
                                 .deadline = deadline,
                                 .key_count = count,
                                 .unfinished = count};
    hm_list_init(&search->asks);
    search->known_max = CONTACTS_MIN + 16 * count;
    if (search->known_max > CONTACTS_MAX) search->known_max = CONTACTS_MAX;
    search->known = malloc(search->known_max * sizeof search->known[0]);
    enum hm_status status = search->known ? hm_map_init(&search->map, search->known_max)
                                          : hm_fail(HM_ERR_NO_MEMORY, "no memory to look up keys");
    if (status != HM_OK) {
        free(search->known);
        free(search);
        return status;
    }
    /* Many keys in a small swarm end up asking everybody: then every call should carry as many of
     * them as it can, instead of coming back for those that had alpha others to wait for. */
    bool ask_all = count > HM_DHT_K && dht->table.contact_count <= 3 * HM_DHT_K;
    unsigned alpha = ask_all ? k : HM_DHT_ALPHA;
    for (unsigned i = 0; i < count; i++) {
        hm_lookup_init(&search->key[i].lookup, &keys[i], k, alpha);
        search->key[i].finished = false;
        search->key[i].self_holds = false;
        hm_table_looked_up(&dht->table, &keys[i], hm_loop_now(dht->loop));
    }
    *created = search;
    return HM_OK;
}

void hm_search_destroy(struct hm_search *search)
{
    if (!search) return;
    for (struct hm_link *link; (link = hm_list_pop(&search->asks));) {
        struct ask *ask = HM_CONTAINER_OF(link, struct ask, link);
        hm_dht_call_cancel(ask->call);
        free(ask);
    }
    for (uint32_t i = 0; i < search->known_count; i++) hm_contact_put(search->known[i].contact);
    hm_map_fini(&search->map);
    free(search->known);
    free(search);
}

/* ---- contacts ------------------------------------------------------------------------------- */

static bool is_contact(const struct hm_map_node *node, const void *id)
{
    const struct known *known = HM_CONTAINER_OF(node, struct known, node);
    return memcmp(known->contact->id.byte, id, sizeof(struct hm_dht_id)) == 0;
}

/* Its handle, or known_max: it is this node itself, or there are too many. */
static uint32_t know(struct hm_search *search, struct hm_contact *contact)
{
    const struct hm_dht_id *id = &contact->id;
    if (memcmp(id->byte, search->dht->self.byte, sizeof id->byte) == 0) return search->known_max;
    uint64_t hash = hm_hash(id->byte, sizeof id->byte, search->dht->store.seed);
    struct hm_map_node *node = hm_map_find(&search->map, hash, is_contact, id);
    if (node) return (uint32_t)(HM_CONTAINER_OF(node, struct known, node) - search->known);
    if (search->known_count == search->known_max) return search->known_max;
    struct known *known = &search->known[search->known_count];
    known->contact = hm_contact_get(contact);
    hm_map_insert(&search->map, &known->node, hash);
    return search->known_count++;
}

static void add_candidate(struct hm_search *search, unsigned key, uint32_t handle)
{
    if (handle >= search->known_count) return;
    (void)hm_lookup_add(&search->key[key].lookup, &search->known[handle].contact->id, handle);
}

void hm_search_seed(struct hm_search *search, struct hm_contact *contact)
{
    uint32_t handle = know(search, contact);
    for (unsigned i = 0; i < search->key_count; i++) add_candidate(search, i, handle);
}

static void seed_from_table(struct hm_search *search)
{
    const struct hm_table *table = &search->dht->table;
    bool only_suspects = table->suspect_count == table->contact_count;
    for (unsigned i = 0; i < search->key_count; i++) {
        struct hm_contact *nearest[HM_DHT_K];
        unsigned count = hm_table_nearest(table, &search->key[i].lookup.target, only_suspects,
                                          nearest, HM_DHT_K);
        for (unsigned j = 0; j < count; j++) add_candidate(search, i, know(search, nearest[j]));
    }
}

/* ---- asking --------------------------------------------------------------------------------- */

static void on_answer(void *arg, enum hm_status status, const void *bytes, size_t byte_count);

static enum hm_status ask_send(struct ask *ask)
{
    struct hm_search *search = ask->search;
    struct hm_find_request request = {.nodes_only = !search->ops->record, .key_count = ask->count};
    for (unsigned i = 0; i < ask->count; i++) {
        request.key[i].id = search->key[ask->item[i].key].lookup.target;
        request.key[i].skip = ask->item[i].skip;
    }
    struct hm_buf *payload;
    enum hm_status status = hm_buf_pool_get(hm_rpc_buffers(search->dht->rpc),
                                            1 + 2 + 34 * (size_t)ask->count, &payload);
    if (status != HM_OK) return status;
    struct hm_writer writer;
    hm_writer_init(&writer, payload->base, payload->bytes);
    hm_find_request_encode(&request, &writer);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == payload->bytes);
    return hm_dht_call_start(search->dht, ask->contact, HM_METHOD_DHT_FIND, payload,
                             search->deadline, on_answer, ask, &ask->call);
}

static void items_dead(struct ask *ask)
{
    for (unsigned i = 0; i < ask->count; i++)
        hm_lookup_dead(&ask->search->key[ask->item[i].key].lookup, &ask->contact->id);
}

/* Asks `contact` about key `first` and about every other key that may ask it now. */
static void ask_contact(struct hm_search *search, unsigned first, struct hm_contact *contact)
{
    struct ask *ask = malloc(sizeof *ask + search->key_count * sizeof ask->item[0]);
    if (!ask) {
        hm_lookup_dead(&search->key[first].lookup, &contact->id);
        return;
    }
    *ask = (struct ask){.search = search, .contact = contact, .count = 1};
    ask->item[0] = (struct ask_item){.key = (uint16_t)first};
    for (unsigned i = 0; i < search->key_count; i++) {
        if (i == first || search->key[i].finished) continue;
        if (hm_lookup_ask(&search->key[i].lookup, &contact->id))
            ask->item[ask->count++] = (struct ask_item){.key = (uint16_t)i};
    }
    if (ask_send(ask) != HM_OK) {
        items_dead(ask);
        free(ask);
        return;
    }
    hm_list_push(&search->asks, &ask->link);
    search->ask_count++;
}

/* Three of the five that should hold the key's entries have given theirs: one of them at least is
 * among any three that accepted a store.  Others do not count: they may hold what is left of an
 * older swarm. */
static bool has_enough(const struct hm_search *search, const struct search_key *key)
{
    unsigned holders = hm_lookup_holders(&key->lookup, HM_DHT_REPLICAS);
    if (key->self_holds && hm_lookup_rank(&key->lookup, &search->dht->self) < HM_DHT_REPLICAS)
        holders++;
    return holders >= HM_DHT_HOLDERS_ENOUGH;
}

/* Asks whom it can.  True: every key is finished. */
static bool pump(struct hm_search *search)
{
    for (unsigned i = 0; i < search->key_count; i++) {
        struct search_key *key = &search->key[i];
        struct hm_candidate next;
        while (!key->finished && search->ask_count < ASKS_MAX &&
               hm_lookup_next(&key->lookup, &next))
            ask_contact(search, i, search->known[next.handle].contact);
    }
    for (unsigned i = 0; i < search->key_count; i++) {
        struct search_key *key = &search->key[i];
        if (key->finished) continue;
#ifndef NDEBUG
        hm_lookup_check(&key->lookup);
#endif
        if (!hm_lookup_done(&key->lookup) && !has_enough(search, key)) continue;
        key->finished = true;
        search->unfinished--;
    }
    return search->unfinished == 0;
}

void hm_search_start(struct hm_search *search)
{
    seed_from_table(search);
    if (pump(search)) search->ops->done(search->arg);
}

/* ---- answers -------------------------------------------------------------------------------- */

static void on_contact(void *arg, unsigned index, struct hm_contact *contact)
{
    struct ask *ask = arg;
    ask->handle_of[index] = contact ? know(ask->search, contact) : ask->search->known_max;
    hm_contact_put(contact);
}

static void on_nearest(void *arg, unsigned item, unsigned contact)
{
    struct ask *ask = arg;
    add_candidate(ask->search, ask->item[item].key, ask->handle_of[contact]);
}

static void on_record(void *arg, unsigned item, const struct hm_record *record)
{
    struct ask *ask = arg;
    struct hm_search *search = ask->search;
    if (!search->ops->record || ask->forged) return;
    enum hm_status status = search->ops->record(search->arg, ask->item[item].key, record);
    if (status == HM_OK) ask->item[item].sound = true;
    if (status == HM_ERR_PEER_DENIED) ask->forged = true;
}

static void on_key_end(void *arg, unsigned item, unsigned held, unsigned given)
{
    struct ask *ask = arg;
    unsigned got = ask->item[item].skip + given;
    ask->item[item].held = (uint16_t)held;
    ask->item[item].skip = (uint16_t)(got < held ? got : held);
}

/* Keys whose dictionary has come whole are answered; the others stay in the ask.  True: some do. */
static bool settle_items(struct ask *ask, bool progress)
{
    struct hm_search *search = ask->search;
    bool more = progress && search->ops->record && ++ask->pages < PAGES_MAX;
    unsigned stay = 0;
    for (unsigned i = 0; i < ask->count; i++) {
        struct ask_item *item = &ask->item[i];
        if (more && item->skip < item->held) {
            ask->item[stay++] = *item;
            continue;
        }
        if (item->sound) hm_lookup_mark_holder(&search->key[item->key].lookup, &ask->contact->id);
        hm_lookup_answered(&search->key[item->key].lookup, &ask->contact->id);
    }
    ask->count = stay;
    return stay > 0;
}

static void on_answer(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    static const struct hm_find_sink sink = {on_contact, on_nearest, on_record, on_key_end};
    struct ask *ask = arg;
    struct hm_search *search = ask->search;
    uint32_t handle_of[HM_FIND_CONTACTS_MAX];
    unsigned got = 0, got_before = 0;
    for (unsigned i = 0; i < ask->count; i++) got_before += ask->item[i].skip;
    if (status == HM_OK) {
        ask->handle_of = handle_of;
        status = hm_find_reply_decode(bytes, byte_count, ask->count, &sink, ask);
        if (ask->forged) status = HM_ERR_PEER_DENIED;
        if (status != HM_OK) hm_dht_contact_failed(search->dht, &ask->contact->id);
    }
    for (unsigned i = 0; i < ask->count; i++) got += ask->item[i].skip;
    bool again = false;
    if (status == HM_OK) {
        search->answered += ask->pages == 0;
        again = settle_items(ask, got > got_before);
        if (again && ask_send(ask) == HM_OK) return;
    }
    items_dead(ask); /* what it gave before counts */
    hm_list_remove(&ask->link);
    search->ask_count--;
    free(ask);
    if (pump(search)) search->ops->done(search->arg);
}

unsigned hm_search_answered(const struct hm_search *search)
{
    return search->answered;
}

void hm_search_self_holds(struct hm_search *search, unsigned key)
{
    search->key[key].self_holds = true;
}

unsigned hm_search_nearest(const struct hm_search *search, unsigned key,
                           struct hm_contact **nearest, unsigned max)
{
    struct hm_candidate candidate[HM_DHT_K];
    unsigned count =
        hm_lookup_nearest(&search->key[key].lookup, candidate, max < HM_DHT_K ? max : HM_DHT_K);
    for (unsigned i = 0; i < count; i++) nearest[i] = search->known[candidate[i].handle].contact;
    return count;
}
