/* experts/dedupe.c - an anti-replay window a client; the node with the most clients loses one first.
 *
 * A client's window is a ring of HM_DEDUPE_WINDOW bits: bit (sequence mod window) says whether that
 * sequence was seen, for sequences in (top - window, top].  Moving top forward clears the bits it
 * passes, so that every operation is O(1) but for a jump, which clears at most the whole window.
 * Stored as:  u32 client count, then for each, oldest use first: id, u64 top, the ring's bytes. */
#include "experts/dedupe.h"

#include "base/assert.h"
#include "base/list.h"
#include "base/map.h"

#include <stdlib.h>
#include <string.h>

enum {
    WORDS = HM_DEDUPE_WINDOW / 64,
    CLIENT_BYTES = HM_CLIENT_ID_BYTES + 8 + HM_DEDUPE_WINDOW / 8,
};
struct owner { /* a node that has clients in the table */
    struct hm_map_node node;
    struct hm_link free;
    uint64_t name; /* first half of its clients' ids */
    unsigned client_count;
};
struct client {
    struct hm_map_node node;
    struct owner *owner;
    struct hm_link used; /* hm_dedupe.used, oldest first; or free */
    struct hm_client_id id;
    uint64_t top; /* highest sequence seen */
    uint64_t seen[WORDS];
};
struct hm_dedupe {
    struct hm_map map, owners;
    struct hm_link used, free, owners_free;
    struct client *clients; /* clients_max of each */
    struct owner *owner;
    unsigned clients_max;
};

enum hm_status hm_dedupe_create(unsigned clients_max, struct hm_dedupe **out)
{
    struct hm_dedupe *dedupe = calloc(1, sizeof(*dedupe));
    if (!dedupe) return HM_ERR_NO_MEMORY;
    dedupe->clients_max = clients_max;
    hm_list_init(&dedupe->used);
    hm_list_init(&dedupe->free);
    hm_list_init(&dedupe->owners_free);
    enum hm_status status = hm_map_init(&dedupe->map, clients_max);
    if (status) goto err_free;
    status = hm_map_init(&dedupe->owners, clients_max);
    if (status) goto err_map;
    dedupe->clients = calloc(clients_max, sizeof(*dedupe->clients));
    dedupe->owner = calloc(clients_max, sizeof(*dedupe->owner));
    if (!dedupe->clients || !dedupe->owner) {
        status = HM_ERR_NO_MEMORY;
        goto err_arrays;
    }
    for (unsigned i = 0; i < clients_max; i++) {
        hm_list_push(&dedupe->free, &dedupe->clients[i].used);
        hm_list_push(&dedupe->owners_free, &dedupe->owner[i].free);
    }
    *out = dedupe;
    return HM_OK;

err_arrays:
    free(dedupe->clients);
    free(dedupe->owner);
    hm_map_fini(&dedupe->owners);
err_map:
    hm_map_fini(&dedupe->map);
err_free:
    free(dedupe);
    return status;
}

void hm_dedupe_destroy(struct hm_dedupe *dedupe)
{
    if (!dedupe) return;
    hm_map_fini(&dedupe->map);
    hm_map_fini(&dedupe->owners);
    free(dedupe->clients);
    free(dedupe->owner);
    free(dedupe);
}

/* Ids are digests already.  All of a node's have the first half in common. */
static uint64_t half(const struct hm_client_id *id, unsigned which)
{
    uint64_t value;
    memcpy(&value, id->byte + which * sizeof(value), sizeof(value));
    return value;
}
static uint64_t hash(const struct hm_client_id *id)
{
    return half(id, 0) ^ half(id, 1);
}

static bool equal(const struct hm_map_node *node, const void *key)
{
    const struct client *client = HM_CONTAINER_OF(node, struct client, node);
    return memcmp(client->id.byte, key, HM_CLIENT_ID_BYTES) == 0;
}

static struct client *find(const struct hm_dedupe *dedupe, const struct hm_client_id *id)
{
    struct hm_map_node *node = hm_map_find(&dedupe->map, hash(id), equal, id->byte);
    return node ? HM_CONTAINER_OF(node, struct client, node) : NULL;
}

static bool owner_equal(const struct hm_map_node *node, const void *key)
{
    return HM_CONTAINER_OF(node, struct owner, node)->name == *(const uint64_t *)key;
}

static struct owner *owner_get(struct hm_dedupe *dedupe, const struct hm_client_id *id)
{
    uint64_t name = half(id, 0);
    struct hm_map_node *node = hm_map_find(&dedupe->owners, name, owner_equal, &name);
    struct owner *owner = node ? HM_CONTAINER_OF(node, struct owner, node) : NULL;
    if (!owner) { /* there are as many as clients */
        owner = HM_CONTAINER_OF(hm_list_pop(&dedupe->owners_free), struct owner, free);
        owner->name = name;
        owner->client_count = 0;
        hm_map_insert(&dedupe->owners, &owner->node, name);
    }
    owner->client_count++;
    return owner;
}

static void client_free(struct hm_dedupe *dedupe, struct client *client)
{
    struct owner *owner = client->owner;
    if (--owner->client_count == 0) {
        hm_map_remove(&dedupe->owners, &owner->node);
        hm_list_push(&dedupe->owners_free, &owner->free);
    }
    hm_map_remove(&dedupe->map, &client->node);
    hm_list_remove(&client->used);
    hm_list_push(&dedupe->free, &client->used);
}

static void forget_one(struct hm_dedupe *dedupe)
{
    struct client *chosen = NULL;
    HM_LIST_EACH (link, &dedupe->used) {
        struct client *client = HM_CONTAINER_OF(link, struct client, used);
        if (!chosen || client->owner->client_count > chosen->owner->client_count) chosen = client;
    }
    client_free(dedupe, chosen);
}

static struct client *find_or_add(struct hm_dedupe *dedupe, const struct hm_client_id *id)
{
    struct client *client = find(dedupe, id);
    if (!client) {
        if (hm_list_empty(&dedupe->free)) forget_one(dedupe);
        client = HM_CONTAINER_OF(hm_list_pop(&dedupe->free), struct client, used);
        *client = (struct client){.id = *id, .owner = owner_get(dedupe, id)};
        hm_list_init(&client->used);
        hm_map_insert(&dedupe->map, &client->node, hash(id));
    }
    hm_list_remove(&client->used);
    hm_list_push(&dedupe->used, &client->used);
    return client;
}

static uint64_t *word(struct client *client, uint64_t sequence)
{
    return &client->seen[sequence % HM_DEDUPE_WINDOW / 64];
}
static uint64_t bit(uint64_t sequence)
{
    return UINT64_C(1) << (sequence % 64);
}

bool hm_dedupe_seen(const struct hm_dedupe *dedupe, const struct hm_client_id *id,
                    uint64_t sequence)
{
    struct client *client = find(dedupe, id);
    if (!client || sequence > client->top) return false;
    if (client->top - sequence >= HM_DEDUPE_WINDOW) return true;
    return *word(client, sequence) & bit(sequence);
}

void hm_dedupe_add(struct hm_dedupe *dedupe, const struct hm_client_id *id, uint64_t sequence)
{
    HM_ASSERT(sequence > 0);
    struct client *client = find_or_add(dedupe, id);
    if (sequence > client->top) {
        uint64_t passed = sequence - client->top;
        if (passed >= HM_DEDUPE_WINDOW) {
            memset(client->seen, 0, sizeof(client->seen));
        } else {
            for (uint64_t s = client->top + 1; s <= sequence; s++) *word(client, s) &= ~bit(s);
        }
        client->top = sequence;
    }
    if (client->top - sequence < HM_DEDUPE_WINDOW) *word(client, sequence) |= bit(sequence);
}

void hm_dedupe_remove(struct hm_dedupe *dedupe, const struct hm_client_id *id, uint64_t sequence)
{
    struct client *client = find(dedupe, id);
    if (!client || sequence > client->top || client->top - sequence >= HM_DEDUPE_WINDOW) return;
    *word(client, sequence) &= ~bit(sequence);
}

size_t hm_dedupe_encoded_bytes(const struct hm_dedupe *dedupe)
{
    return 4 + (size_t)dedupe->map.count * CLIENT_BYTES;
}

void hm_dedupe_encode(const struct hm_dedupe *dedupe, struct hm_writer *writer)
{
    hm_write_u32(writer, dedupe->map.count);
    HM_LIST_EACH (link, &dedupe->used) {
        const struct client *client = HM_CONTAINER_OF(link, struct client, used);
        hm_write_bytes(writer, client->id.byte, HM_CLIENT_ID_BYTES);
        hm_write_u64(writer, client->top);
        for (unsigned i = 0; i < WORDS; i++) hm_write_u64(writer, client->seen[i]);
    }
}

static void clear(struct hm_dedupe *dedupe)
{
    while (!hm_list_empty(&dedupe->used))
        client_free(dedupe, HM_CONTAINER_OF(dedupe->used.next, struct client, used));
}

enum hm_status hm_dedupe_decode(struct hm_dedupe *dedupe, const void *bytes, size_t byte_count)
{
    struct hm_reader reader;
    clear(dedupe);
    hm_reader_init(&reader, bytes, byte_count);
    uint32_t count = hm_read_u32(&reader);
    /* A table made smaller keeps the clients used last: they stand at the end. */
    if (!hm_reader_ok(&reader) || hm_reader_left(&reader) != (uint64_t)count * CLIENT_BYTES)
        return HM_ERR_CORRUPT;
    for (uint32_t i = 0; i < count; i++) {
        struct hm_client_id id;
        memcpy(id.byte, hm_read_bytes(&reader, HM_CLIENT_ID_BYTES), HM_CLIENT_ID_BYTES);
        if (find(dedupe, &id)) {
            clear(dedupe);
            return HM_ERR_CORRUPT;
        }
        struct client *client = find_or_add(dedupe, &id);
        client->top = hm_read_u64(&reader);
        for (unsigned j = 0; j < WORDS; j++) client->seen[j] = hm_read_u64(&reader);
    }
    return HM_OK;
}
