/* DHT nodes over real sockets with TLS, on the real loop (all in one process). */
#include "test.h"

#include "base/loop_uv.h"
#include "base/rng.h"
#include "dht/dht.h"

#include <stdio.h>

enum { NODES = 8, KEYS = 200, ENTRIES = 400, SCHEMA = 3 };

struct node {
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_rpc *rpc;
    struct hm_dht *dht;
};
struct swarm {
    struct hm_loop *loop;
    struct node node[NODES];
    struct hm_timer limit; /* the loop stops by then, whatever is missing */
    bool late;
    unsigned pending;
    enum hm_status status;
    unsigned replicas_min, found;
};

static void on_limit(struct hm_timer *timer)
{
    struct swarm *swarm = timer->arg;
    swarm->late = true;
    hm_loop_uv_stop(swarm->loop);
}

/* Runs until everything that is pending has ended. */
static void run(struct swarm *swarm, unsigned pending)
{
    swarm->pending = pending;
    hm_timer_start(swarm->loop, &swarm->limit, 100 * HM_S);
    hm_loop_uv_run(swarm->loop);
    hm_timer_stop(swarm->loop, &swarm->limit);
    assert_false(swarm->late);
}

static void one_ended(void *arg)
{
    struct swarm *swarm = arg;
    if (--swarm->pending == 0) hm_loop_uv_stop(swarm->loop);
}

static void on_joined(void *arg, enum hm_status status)
{
    struct swarm *swarm = arg;
    if (status != HM_OK || swarm->status == HM_OK) swarm->status = status;
    one_ended(arg);
}

static enum hm_status accept_all(void *arg, const struct hm_record *record)
{
    (void)arg;
    (void)record;
    return HM_OK;
}

static void node_open(struct swarm *swarm, struct node *node)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    static const struct hm_validator validator = {.schema = SCHEMA, .accept = accept_all};
    assert_ok(hm_identity_create(NULL, &node->identity));
    assert_ok(hm_buf_pool_create((size_t)64 << 20, &node->buffers));
    struct hm_rpc_conf conf = {.loop = swarm->loop,
                               .transport = &hm_transport_tcp,
                               .peers_max = 64,
                               .calls_max = 256,
                               .requests_max = 256};
    conf.transport_conf = (struct hm_transport_conf){.identity = node->identity,
                                                     .hello = &hello,
                                                     .listen = "127.0.0.1:0",
                                                     .buffers = node->buffers,
                                                     .endpoints_max = 64,
                                                     .receive_bytes_max = 1 << 20,
                                                     .handshake_max = 20 * HM_S};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
    struct hm_dht_conf dht_conf = {.rpc = node->rpc,
                                   .validators = &validator,
                                   .validator_count = 1,
                                   .records_max = 10000,
                                   .entries_max = 1000,
                                   .record_bytes_max = (size_t)64 << 20,
                                   .queries_max = 16};
    assert_ok(hm_dht_open(&dht_conf, &node->dht));
}

static void swarm_open(struct swarm *swarm)
{
    *swarm = (struct swarm){0};
    assert_ok(hm_loop_uv_create(hm_rng_os_seed(), &swarm->loop));
    swarm->limit.cb = on_limit;
    swarm->limit.arg = swarm;
    for (unsigned i = 0; i < NODES; i++) node_open(swarm, &swarm->node[i]);
    struct hm_addrs addrs;
    assert_ok(hm_rpc_address(swarm->node[0].rpc, &addrs));
    for (unsigned i = 1; i < NODES; i++)
        hm_dht_join(swarm->node[i].dht, &addrs,
                    i % 2 ? hm_identity_node(swarm->node[0].identity) : NULL,
                    hm_deadline_after(swarm->loop, 60 * HM_S), on_joined, swarm);
    run(swarm, NODES - 1);
    assert_status(swarm->status, HM_OK);
}

static void swarm_close(struct swarm *swarm)
{
    for (unsigned i = 0; i < NODES; i++) hm_dht_close(swarm->node[i].dht, one_ended, swarm);
    run(swarm, NODES);
    for (unsigned i = 0; i < NODES; i++) hm_rpc_close(swarm->node[i].rpc, one_ended, swarm);
    run(swarm, NODES);
    for (unsigned i = 0; i < NODES; i++) {
        assert_int_equal(hm_buf_pool_bytes_used(swarm->node[i].buffers), 0);
        hm_buf_pool_destroy(swarm->node[i].buffers);
        hm_identity_destroy(swarm->node[i].identity);
    }
    hm_loop_uv_destroy(swarm->loop);
}

static void on_stored(void *arg, enum hm_status status, const uint8_t *replicas, unsigned count)
{
    struct swarm *swarm = arg;
    swarm->status = status;
    swarm->replicas_min = 99;
    for (unsigned i = 0; i < count; i++)
        if (replicas[i] < swarm->replicas_min) swarm->replicas_min = replicas[i];
    one_ended(swarm);
}

static void on_found(void *arg, enum hm_status status, const struct hm_found *found, unsigned count)
{
    struct swarm *swarm = arg;
    swarm->status = status;
    swarm->found = 0;
    for (unsigned i = 0; i < count; i++) swarm->found += found[i].record_count;
    one_ended(swarm);
}

static struct hm_record record_of(struct swarm *swarm, const char *subkey)
{
    static char value[900];
    return (struct hm_record){.schema = SCHEMA,
                              .expires_wall_ns =
                                  hm_loop_wall_ns(swarm->loop) + 3600 * (int64_t)HM_S,
                              .subkey = subkey,
                              .subkey_bytes = (uint16_t)strlen(subkey),
                              .value = value,
                              .value_bytes = sizeof value};
}

static void store_and_find(struct swarm *swarm, const struct hm_record *records, unsigned count,
                           const struct hm_dht_id *keys, unsigned key_count)
{
    assert_ok(hm_dht_store(swarm->node[2].dht, records, count,
                           hm_deadline_after(swarm->loop, 60 * HM_S), on_stored, swarm, NULL));
    run(swarm, 1);
    assert_status(swarm->status, HM_OK);
    assert_int_equal(swarm->replicas_min, HM_DHT_REPLICAS);
    for (unsigned i = 0; i < NODES; i += 3) {
        assert_ok(hm_dht_find(swarm->node[i].dht, keys, key_count,
                              hm_deadline_after(swarm->loop, 60 * HM_S), on_found, swarm, NULL));
        run(swarm, 1);
        assert_status(swarm->status, HM_OK);
        assert_int_equal(swarm->found, count);
    }
}

static void many_keys_are_stored_and_found(void **state)
{
    (void)state;
    static struct hm_record records[KEYS];
    static struct hm_dht_id keys[KEYS];
    struct swarm swarm;
    swarm_open(&swarm);
    for (unsigned i = 0; i < KEYS; i++) {
        hm_dht_key(&i, sizeof i, &keys[i]);
        records[i] = record_of(&swarm, "s");
        records[i].key = keys[i];
    }
    store_and_find(&swarm, records, KEYS, keys, KEYS);
    swarm_close(&swarm);
}

static void a_large_dictionary_is_stored_and_found(void **state)
{
    (void)state;
    static struct hm_record records[ENTRIES];
    static char subkeys[ENTRIES][8];
    struct hm_dht_id key;
    struct swarm swarm;
    swarm_open(&swarm);
    hm_dht_key("large", 5, &key);
    for (unsigned i = 0; i < ENTRIES; i++) {
        snprintf(subkeys[i], sizeof subkeys[i], "%u", i);
        records[i] = record_of(&swarm, subkeys[i]);
        records[i].key = key;
    }
    store_and_find(&swarm, records, ENTRIES, &key, 1);
    swarm_close(&swarm);
}

static void joining_through_nobody_is_said(void **state)
{
    (void)state;
    struct swarm swarm = {0};
    assert_ok(hm_loop_uv_create(hm_rng_os_seed(), &swarm.loop));
    node_open(&swarm, &swarm.node[0]);
    node_open(&swarm, &swarm.node[1]);
    hm_dht_close(swarm.node[1].dht, one_ended, &swarm);
    swarm.limit.cb = on_limit;
    swarm.limit.arg = &swarm;
    struct hm_addrs addrs;
    assert_ok(hm_rpc_address(swarm.node[1].rpc, &addrs));
    run(&swarm, 1);
    hm_rpc_close(swarm.node[1].rpc, one_ended, &swarm);
    run(&swarm, 1);
    hm_dht_join(swarm.node[0].dht, &addrs, NULL, hm_deadline_after(swarm.loop, 60 * HM_S),
                on_joined, &swarm);
    run(&swarm, 1);
    assert_status(swarm.status, HM_ERR_PEER_UNREACHABLE);
    struct hm_dht_id key;
    hm_dht_key("nobody", 6, &key);
    assert_ok(hm_dht_find(swarm.node[0].dht, &key, 1, hm_deadline_after(swarm.loop, 60 * HM_S),
                          on_found, &swarm, NULL));
    run(&swarm, 1);
    assert_status(swarm.status, HM_ERR_PEER_UNREACHABLE);
    hm_dht_close(swarm.node[0].dht, one_ended, &swarm);
    run(&swarm, 1);
    hm_rpc_close(swarm.node[0].rpc, one_ended, &swarm);
    run(&swarm, 1);
    for (unsigned i = 0; i < 2; i++) {
        hm_buf_pool_destroy(swarm.node[i].buffers);
        hm_identity_destroy(swarm.node[i].identity);
    }
    hm_loop_uv_destroy(swarm.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_keys_are_stored_and_found),
        cmocka_unit_test(a_large_dictionary_is_stored_and_found),
        cmocka_unit_test(joining_through_nobody_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
