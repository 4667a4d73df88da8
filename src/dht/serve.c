/* dht/serve.c - what other nodes ask of us: FIND and STORE.
 *
 * Happy path:  a request's payload is read where it lies (or pulled), answered at once, in one
 * reply.
 * FIND:        for each key the k nearest good contacts and the entries held.  A reply has at
 *              most HM_FIND_REPLY_BYTES_MAX bytes; entries are taken in turns, one of each key,
 *              so that a large dictionary does not crowd out the others; the asker sees how many
 *              there are, and asks for the rest.  What a request may cost is bounded, whatever keys
 *              and skips it names.
 * STORE:       each record is judged and stored by itself, up to the first whose proof does not
 *              hold: nobody sends such a one unknowingly, and each costs a verification.
 * Failure:     a malformed request is HM_ERR_PEER_PROTOCOL, no buffer for the reply HM_ERR_BUSY. */
#include "dht/node.h"

#include "base/assert.h"
#include "dht/record_internal.h"

#include <stdlib.h>
#include <string.h>

enum { FIND_STEPS_MAX = 65536 }; /* entries walked over for one request */

typedef void (*answer_fn)(struct hm_dht *dht, struct hm_request *request, const void *bytes,
                          size_t byte_count);

/* A request whose payload is being pulled. */
struct hm_serving {
    struct hm_link link;
    struct hm_dht *dht;
    struct hm_request *request;
    struct hm_fetch *fetch;
    answer_fn answer;
};

static void refuse(struct hm_request *request, enum hm_status status)
{
    hm_request_reply(request, true, status, NULL, 0, NULL, 0);
}

static void reply_buf(struct hm_request *request, struct hm_buf *buf)
{
    struct hm_span span = hm_buf_span(buf);
    hm_request_reply(request, true, HM_OK, NULL, 0, &span, 1);
    hm_buf_put(buf);
}

/* ---- FIND ----------------------------------------------------------------------------------- */

struct answer_key {
    uint16_t nearest[HM_DHT_K];
    unsigned nearest_count;
    unsigned held, given;
    const struct hm_entry *first, *next; /* the first to give, and the first not to */
};
struct answer {
    struct hm_contact *contact[HM_FIND_CONTACTS_MAX];
    unsigned contact_count;
    size_t contact_bytes;
    unsigned key_count;
    struct answer_key key[HM_FIND_KEYS_MAX];
};

/* The contact's index in the answer, HM_FIND_CONTACTS_MAX if there is no room for it. */
static unsigned contact_index(struct answer *answer, struct hm_contact *contact)
{
    for (unsigned i = 0; i < answer->contact_count; i++)
        if (answer->contact[i] == contact) return i;
    size_t bytes = hm_contact_encoded_bytes(contact);
    if (answer->contact_count == HM_FIND_CONTACTS_MAX ||
        answer->contact_bytes + bytes > HM_FIND_CONTACT_BYTES_MAX)
        return HM_FIND_CONTACTS_MAX;
    answer->contact_bytes += bytes;
    answer->contact[answer->contact_count] = contact;
    return answer->contact_count++;
}

static void plan_contacts(struct hm_dht *dht, const struct hm_find_request *request,
                          const struct hm_dht_id *asker, struct answer *answer)
{
    for (unsigned i = 0; i < request->key_count; i++) {
        struct hm_contact *nearest[HM_DHT_K + 1];
        unsigned count =
            hm_table_nearest(&dht->table, &request->key[i].id, false, nearest, HM_DHT_K + 1);
        struct answer_key *key = &answer->key[i];
        key->nearest_count = 0;
        for (unsigned j = 0; j < count && key->nearest_count < HM_DHT_K; j++) {
            if (memcmp(nearest[j]->id.byte, asker->byte, sizeof asker->byte) == 0) continue;
            unsigned index = contact_index(answer, nearest[j]);
            if (index < HM_FIND_CONTACTS_MAX) key->nearest[key->nearest_count++] = (uint16_t)index;
        }
    }
}

/* *steps: what is left of the entries that this request may make us walk over.  A key for which
 * they do not suffice is answered by a number only; who wants its entries asks again with fewer
 * keys. */
static void plan_dictionary(struct hm_dht *dht, const struct hm_find_key *wanted, int64_t wall_ns,
                            struct answer_key *key, unsigned *steps)
{
    const struct hm_dict *dict = hm_store_dict(&dht->store, &wanted->id);
    if (!dict) return;
    key->held = dict->live_count;
    unsigned walk = dict->entry_count - dict->live_count + wanted->skip;
    if (wanted->skip >= key->held || walk > *steps) return;
    *steps -= walk;
    const struct hm_entry *entry = hm_dict_first(dict, wall_ns);
    for (unsigned i = 0; entry && i < wanted->skip; i++) entry = hm_store_next(entry, wall_ns);
    key->first = key->next = entry;
}

/* Takes entries in turns while `bytes` last; returns how many bytes are taken. */
static size_t plan_entries(struct answer *answer, int64_t wall_ns, size_t bytes)
{
    size_t taken = 0;
    bool progress = true;
    while (progress) {
        progress = false;
        for (unsigned i = 0; i < answer->key_count; i++) {
            struct answer_key *key = &answer->key[i];
            size_t size = key->next ? hm_record_encoded_bytes(&key->next->record) : 0;
            if (!key->next || taken + size > bytes) continue;
            taken += size;
            key->given++;
            key->next = hm_store_next(key->next, wall_ns);
            progress = true;
        }
    }
    return taken;
}

static void write_answer(const struct answer *answer, int64_t wall_ns, struct hm_writer *writer)
{
    hm_find_reply_contacts_begin(writer, answer->contact_count);
    for (unsigned i = 0; i < answer->contact_count; i++)
        hm_contact_encode(answer->contact[i], writer);
    hm_find_reply_keys_begin(writer, answer->key_count);
    for (unsigned i = 0; i < answer->key_count; i++) {
        const struct answer_key *key = &answer->key[i];
        hm_find_reply_key_begin(writer, key->nearest, key->nearest_count, key->held, key->given);
        const struct hm_entry *entry = key->first;
        for (unsigned j = 0; j < key->given; j++, entry = hm_store_next(entry, wall_ns))
            hm_record_encode(&entry->record, writer);
    }
}

static void answer_find(struct hm_dht *dht, struct hm_request *request, const void *bytes,
                        size_t byte_count)
{
    struct hm_find_request find;
    if (hm_find_request_decode(bytes, byte_count, &find) != HM_OK) {
        refuse(request, HM_ERR_PEER_PROTOCOL);
        return;
    }
    struct answer *answer = calloc(1, sizeof *answer);
    if (!answer) {
        refuse(request, HM_ERR_NO_MEMORY);
        return;
    }
    int64_t wall_ns = hm_dht_wall_ns(dht);
    unsigned steps = FIND_STEPS_MAX;
    hm_store_expire(&dht->store, wall_ns); /* from here on what is counted as live is */
    struct hm_dht_id asker = hm_dht_node(hm_request_from(request));
    answer->key_count = find.key_count;
    plan_contacts(dht, &find, &asker, answer);
    size_t size = 2 + answer->contact_bytes + 2;
    for (unsigned i = 0; i < find.key_count; i++) {
        if (!find.nodes_only) plan_dictionary(dht, &find.key[i], wall_ns, &answer->key[i], &steps);
        size += hm_find_reply_key_bytes(answer->key[i].nearest_count);
    }
    HM_ASSERT(size < HM_FIND_REPLY_BYTES_MAX);
    size += plan_entries(answer, wall_ns, HM_FIND_REPLY_BYTES_MAX - size);
    struct hm_buf *buf;
    enum hm_status status = hm_buf_pool_get(hm_rpc_buffers(dht->rpc), size, &buf);
    if (status == HM_OK) {
        struct hm_writer writer;
        hm_writer_init(&writer, buf->base, buf->bytes);
        write_answer(answer, wall_ns, &writer);
        HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == size);
        reply_buf(request, buf);
    } else {
        refuse(request, status);
    }
    free(answer);
}

/* ---- STORE ---------------------------------------------------------------------------------- */

static void answer_store(struct hm_dht *dht, struct hm_request *request, const void *bytes,
                         size_t byte_count)
{
    struct hm_record record[HM_STORE_RECORDS_MAX];
    enum hm_status statuses[HM_STORE_RECORDS_MAX];
    unsigned count;
    if (hm_store_request_decode(bytes, byte_count, record, HM_STORE_RECORDS_MAX, &count) != HM_OK) {
        refuse(request, HM_ERR_PEER_PROTOCOL);
        return;
    }
    struct hm_buf *buf;
    enum hm_status status = hm_buf_pool_get(hm_rpc_buffers(dht->rpc), 2 + (size_t)count, &buf);
    if (status != HM_OK) {
        refuse(request, status);
        return;
    }
    bool forged = false;
    for (unsigned i = 0; i < count; i++) {
        statuses[i] = forged ? HM_ERR_PEER_DENIED : hm_dht_accept(dht, &record[i]);
        forged = statuses[i] == HM_ERR_PEER_DENIED;
    }
    struct hm_writer writer;
    hm_writer_init(&writer, buf->base, buf->bytes);
    hm_store_reply_encode(statuses, count, &writer);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == buf->bytes);
    reply_buf(request, buf);
}

/* ---- requests ------------------------------------------------------------------------------- */

static void on_fetched(void *arg, enum hm_status status, const void *bytes, size_t byte_count)
{
    struct hm_serving *serving = arg;
    struct hm_dht *dht = serving->dht;
    struct hm_request *request = serving->request;
    answer_fn answer = serving->answer;
    hm_list_remove(&serving->link);
    free(serving);
    if (status == HM_OK)
        answer(dht, request, bytes, byte_count);
    else
        refuse(request, status);
}

static void serve(struct hm_dht *dht, struct hm_request *request, struct hm_inbound *in,
                  answer_fn answer)
{
    dht->metrics.requests.value++;
    struct hm_serving *serving = dht->closing ? NULL : calloc(1, sizeof *serving);
    if (!serving) {
        hm_inbound_drop(in);
        refuse(request, dht->closing ? HM_ERR_DRAINING : HM_ERR_NO_MEMORY);
        return;
    }
    hm_dht_heard(dht, hm_request_peer(request));
    serving->dht = dht;
    serving->request = request;
    serving->answer = answer;
    hm_list_push(&dht->servings, &serving->link);
    hm_request_set_user(request, serving);
    struct hm_fetch *fetch;
    enum hm_status status =
        hm_fetch_start(hm_rpc_buffers(dht->rpc), in, on_fetched, serving, &fetch);
    if (status == HM_OK) return; /* answered, and `serving` is gone */
    if (status == HM_INPROGRESS)
        serving->fetch = fetch;
    else
        on_fetched(serving, status, NULL, 0);
}

void hm_dht_serve_find(void *arg, struct hm_request *request, const void *header,
                       size_t header_bytes, struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    serve(arg, request, in, answer_find);
}

void hm_dht_serve_store(void *arg, struct hm_request *request, const void *header,
                        size_t header_bytes, struct hm_inbound *in)
{
    (void)header;
    (void)header_bytes;
    serve(arg, request, in, answer_store);
}

/* Only a request whose payload is being pulled can be gone before it is answered. */
void hm_dht_serve_gone(void *arg, struct hm_request *request)
{
    struct hm_serving *serving = hm_request_user(request);
    (void)arg;
    hm_fetch_abandon(serving->fetch);
    on_fetched(serving, HM_ERR_CANCELED, NULL, 0);
}

void hm_dht_serve_close(struct hm_dht *dht)
{
    while (!hm_list_empty(&dht->servings)) {
        struct hm_serving *serving = HM_CONTAINER_OF(dht->servings.next, struct hm_serving, link);
        hm_fetch_abandon(serving->fetch);
        on_fetched(serving, HM_ERR_DRAINING, NULL, 0);
    }
}
