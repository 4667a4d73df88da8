#include "support_dht.h"

#include <stdio.h>

void swarm_open(struct swarm *swarm, uint64_t seed)
{
    *swarm = (struct swarm){.entries_max = 4096, .records_max = 16384};
    assert_ok(hm_world_create(seed, &swarm->world));
    swarm->loop = hm_world_loop(swarm->world);
    hm_rng_init(&swarm->rng, seed, 4711);
    assert_ok(hm_proof_cache_create(1024, &swarm->proofs));
}

static struct hm_identity *make_identity(unsigned index)
{
    uint8_t seed[32] = {(uint8_t)(index + 1), 11};
    struct hm_identity *identity;
    assert_ok(hm_identity_create(seed, &identity));
    return identity;
}

const struct hm_node_id *swarm_id(unsigned index)
{
    static struct hm_node_id id[SWARM_NODES_MAX];
    static bool known[SWARM_NODES_MAX];
    assert_true(index < SWARM_NODES_MAX);
    if (!known[index]) {
        struct hm_identity *identity = make_identity(index);
        id[index] = *hm_identity_node(identity);
        known[index] = true;
        hm_identity_destroy(identity);
    }
    return &id[index];
}

/* A value that begins with '!' is against the rules of our key space. */
static enum hm_status accept_value(void *arg, const struct hm_record *record)
{
    (void)arg;
    if (record->value_bytes > 0 && *(const char *)record->value == '!') return HM_ERR_INVALID;
    return HM_OK;
}

static void open_rpc(struct swarm_node *node, const char *listen)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    struct hm_rpc_conf conf = {.loop = node->swarm->loop,
                               .transport = &hm_transport_sim,
                               .peers_max = 128,
                               .calls_max = 256,
                               .requests_max = 128};
    conf.transport_conf = (struct hm_transport_conf){.identity = node->identity,
                                                     .hello = &hello,
                                                     .listen = listen,
                                                     .buffers = node->buffers,
                                                     .metrics = &node->metrics,
                                                     .endpoints_max = 200,
                                                     .receive_bytes_max = 256 * 1024,
                                                     .handshake_max = 5 * HM_S,
                                                     .world = node->swarm->world};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
}

void swarm_node_open(struct swarm *swarm, unsigned index, bool listens)
{
    static const struct hm_validator validator = {.schema = SWARM_SCHEMA, .accept = accept_value};
    struct swarm_node *node = &swarm->node[index];
    assert_true(index < SWARM_NODES_MAX && !node->dht);
    *node = (struct swarm_node){.swarm = swarm, .index = index};
    if (index >= swarm->node_count) swarm->node_count = index + 1;
    char listen[32];
    snprintf(listen, sizeof listen, "sim:%u", index + 1);
    node->identity = make_identity(index);
    assert_ok(hm_buf_pool_create((size_t)16 << 20, &node->buffers));
    hm_metrics_init(&node->metrics);
    open_rpc(node, listens ? listen : NULL);
    node->number = hm_net_find(swarm->world, hm_identity_node(node->identity));
    struct hm_dht_conf conf = {.rpc = node->rpc,
                               .validators = &validator,
                               .validator_count = 1,
                               .records_max = swarm->records_max,
                               .entries_max = swarm->entries_max,
                               .record_bytes_max = (size_t)64 << 20,
                               .queries_max = 64,
                               .metrics = &node->metrics};
    assert_ok(hm_dht_open(&conf, &node->dht));
    node->up = true;
}

static void set_flag(void *arg)
{
    *(bool *)arg = true;
}

void swarm_node_close(struct swarm_node *node)
{
    struct hm_world *world = node->swarm->world;
    node->up = false;
    hm_dht_close(node->dht, set_flag, &node->dht_closed);
    assert_false(node->dht_closed);
    assert_true(hm_world_run_while_not(world, &node->dht_closed, 60 * HM_S));
    hm_rpc_close(node->rpc, set_flag, &node->rpc_closed);
    assert_true(hm_world_run_while_not(world, &node->rpc_closed, 600 * HM_S));
    assert_int_equal(hm_buf_pool_bytes_used(node->buffers), 0);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
    node->dht = NULL;
}

void swarm_node_crash(struct swarm_node *node)
{
    hm_net_crash(node->swarm->world, node->number);
    swarm_node_close(node); /* nobody hears of it */
}

void swarm_close(struct swarm *swarm)
{
    for (unsigned i = 0; i < swarm->node_count; i++)
        if (swarm->node[i].dht) swarm_node_close(&swarm->node[i]);
    hm_proof_cache_destroy(swarm->proofs);
    hm_world_destroy(swarm->world);
}

static void on_joined(void *arg, enum hm_status status)
{
    struct swarm_node *node = arg;
    assert_false(node->join_ended);
    node->join_ended = true;
    node->joined = status == HM_OK;
    node->join_status = status;
}

void swarm_node_join(struct swarm_node *node, const struct swarm_node *via, bool expect_id)
{
    struct hm_addrs addrs = {.count = 1};
    snprintf(addrs.addr[0].text, sizeof addrs.addr[0].text, "sim:%u", via->index + 1);
    struct hm_node_id expect = *hm_identity_node(via->identity);
    node->join_ended = false;
    hm_dht_join(node->dht, &addrs, expect_id ? &expect : NULL,
                hm_deadline_after(node->swarm->loop, 30 * HM_S), on_joined, node);
    assert_false(node->join_ended);
}

void swarm_grow(struct swarm *swarm, unsigned count)
{
    for (unsigned i = 0; i < count; i++) swarm_node_open(swarm, i, true);
    for (unsigned i = 1; i < count; i++) {
        struct swarm_node *node = &swarm->node[i];
        swarm_node_join(node, &swarm->node[0], i % 2);
        assert_true(hm_world_run_while_not(swarm->world, &node->join_ended, 60 * HM_S));
        assert_status(node->join_status, HM_OK);
    }
    swarm_run(swarm, 2 * HM_S);
}

static void check_node(const struct swarm_node *node)
{
    if (!node->dht) return;
    hm_table_check(&node->dht->table);
    hm_store_check(&node->dht->store);
}

void swarm_check(struct swarm *swarm)
{
    for (unsigned i = 0; i < swarm->node_count; i++) check_node(&swarm->node[i]);
}

void swarm_run(struct swarm *swarm, hm_ns duration)
{
    hm_ns until = hm_deadline_after(swarm->loop, duration);
    while (hm_loop_now(swarm->loop) < until) {
        hm_ns left = until - hm_loop_now(swarm->loop);
        /* A few steps, then one node's turn to be checked. */
        hm_ns slice = left < 20 * HM_MS ? left : 20 * HM_MS;
        hm_world_run_for(swarm->world, slice);
        if (swarm->node_count == 0) continue;
        check_node(&swarm->node[swarm->check_next++ % swarm->node_count]);
    }
    swarm_check(swarm);
}

unsigned swarm_alive(const struct swarm *swarm)
{
    unsigned count = 0;
    for (unsigned i = 0; i < swarm->node_count; i++) count += swarm->node[i].up;
    return count;
}

struct swarm_node *swarm_pick(struct swarm *swarm)
{
    for (;;) {
        struct swarm_node *node = &swarm->node[hm_rng_below(&swarm->rng, swarm->node_count)];
        if (node->up) return node;
    }
}

void swarm_key(const char *text, unsigned number, struct hm_dht_id *key)
{
    char raw[64];
    int count = snprintf(raw, sizeof raw, "%s.%u", text, number);
    hm_dht_key(raw, (size_t)count, key);
}

int64_t swarm_wall_in(struct swarm *swarm, hm_ns after)
{
    return hm_loop_wall_ns(swarm->loop) + (int64_t)after;
}

/* ---- finding */

static void on_found(void *arg, enum hm_status status, const struct hm_found *found, unsigned count)
{
    struct swarm_finding *finding = arg;
    assert_false(finding->done);
    finding->done = true;
    finding->status = status;
    finding->key_count = count;
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < found[i].record_count; j++) {
            const struct hm_record *record = &found[i].record[j];
            assert_true(finding->count < SWARM_FOUND_MAX);
            assert_memory_equal(record->key.byte, found[i].key.byte, sizeof record->key.byte);
            assert_ok(hm_record_verify(record, finding->swarm->proofs));
            struct swarm_found *copy = &finding->found[finding->count++];
            *copy = (struct swarm_found){.key = record->key,
                                         .owner = record->owner,
                                         .sequence = record->sequence,
                                         .expires_wall_ns = record->expires_wall_ns};
            assert_true(record->subkey_bytes < sizeof copy->subkey);
            memcpy(copy->subkey, record->subkey, record->subkey_bytes);
            size_t bytes = record->value_bytes;
            if (bytes >= sizeof copy->value) bytes = sizeof copy->value - 1;
            memcpy(copy->value, record->value, bytes);
        }
}

void swarm_find(struct swarm_node *node, const struct hm_dht_id *keys, unsigned count, hm_ns limit,
                struct swarm_finding *finding)
{
    *finding = (struct swarm_finding){.swarm = node->swarm};
    finding->found = malloc(SWARM_FOUND_MAX * sizeof *finding->found);
    assert_non_null(finding->found);
    assert_ok(hm_dht_find(node->dht, keys, count, hm_deadline_after(node->swarm->loop, limit),
                          on_found, finding, NULL));
    assert_false(finding->done);
    assert_true(hm_world_run_while_not(node->swarm->world, &finding->done, limit + HM_S));
}

void swarm_finding_free(struct swarm_finding *finding)
{
    free(finding->found);
}

const struct swarm_found *swarm_finding_get(const struct swarm_finding *finding,
                                            const struct hm_dht_id *key,
                                            const struct hm_node_id *owner, const char *subkey)
{
    for (unsigned i = 0; i < finding->count; i++) {
        const struct swarm_found *found = &finding->found[i];
        if (memcmp(found->key.byte, key->byte, sizeof key->byte) == 0 &&
            hm_node_id_equal(&found->owner, owner) && strcmp(found->subkey, subkey) == 0)
            return found;
    }
    return NULL;
}

/* ---- storing */

void swarm_on_stored(void *arg, enum hm_status status, const uint8_t *replicas, unsigned count)
{
    struct swarm_storing *storing = arg;
    assert_false(storing->done);
    storing->done = true;
    storing->status = status;
    storing->count = count;
    memcpy(storing->replicas, replicas, count);
}

unsigned swarm_store(struct swarm_node *node, const struct hm_dht_id *key, const char *subkey,
                     const char *value, hm_ns life, enum hm_status *status)
{
    struct swarm_storing storing = {0};
    struct hm_record record = {.key = *key,
                               .expires_wall_ns = swarm_wall_in(node->swarm, life),
                               .schema = SWARM_SCHEMA,
                               .subkey = subkey,
                               .subkey_bytes = (uint16_t)strlen(subkey),
                               .value = value,
                               .value_bytes = (uint16_t)strlen(value)};
    assert_ok(hm_dht_store(node->dht, &record, 1, hm_deadline_after(node->swarm->loop, 30 * HM_S),
                           swarm_on_stored, &storing, NULL));
    assert_false(storing.done);
    assert_true(hm_world_run_while_not(node->swarm->world, &storing.done, 40 * HM_S));
    assert_int_equal(storing.count, 1);
    if (status) *status = storing.status;
    return storing.replicas[0];
}

/* ---- the oracle */

const struct hm_entry *swarm_held(const struct swarm_node *node, const struct hm_dht_id *key,
                                  const struct hm_node_id *owner, const char *subkey)
{
    int64_t wall_ns = hm_loop_wall_ns(node->swarm->loop);
    const struct hm_entry *entry = hm_store_first(&node->dht->store, key, wall_ns);
    for (; entry; entry = hm_store_next(entry, wall_ns))
        if (hm_node_id_equal(&entry->record.owner, owner) &&
            entry->record.subkey_bytes == strlen(subkey) &&
            memcmp(entry->record.subkey, subkey, strlen(subkey)) == 0)
            return entry;
    return NULL;
}

unsigned swarm_rank(const struct swarm *swarm, const struct swarm_node *node,
                    const struct hm_dht_id *key)
{
    unsigned nearer = 0;
    for (unsigned i = 0; i < swarm->node_count; i++) {
        const struct swarm_node *other = &swarm->node[i];
        if (!other->up || !other->dht->listening) continue;
        nearer += hm_distance_compare(key, &other->dht->self, &node->dht->self) < 0;
    }
    return nearer;
}
