/* A stranger speaks FIND and STORE with his own hands: what he may not do is refused. */
#include "support_dht.h"

#include "dht/record_internal.h"

#include <stdio.h>

/* A node without a DHT, whose calls the test writes byte by byte. */
struct stranger {
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_rpc *rpc;
    struct swarm *swarm;
    bool closed;
};
struct raw_call {
    struct hm_call call;
    struct swarm *swarm;
    bool done;
    enum hm_status status;
    uint8_t bytes[4096];
    size_t byte_count;
};

static void stranger_open(struct stranger *stranger, struct swarm *swarm, const char *listen)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    const uint8_t seed[32] = {200, 200};
    *stranger = (struct stranger){.swarm = swarm};
    assert_ok(hm_identity_create(seed, &stranger->identity));
    assert_ok(hm_buf_pool_create((size_t)8 << 20, &stranger->buffers));
    struct hm_rpc_conf conf = {.loop = swarm->loop,
                               .transport = &hm_transport_sim,
                               .peers_max = 64,
                               .calls_max = 64,
                               .requests_max = 64};
    conf.transport_conf = (struct hm_transport_conf){.identity = stranger->identity,
                                                     .hello = &hello,
                                                     .listen = listen,
                                                     .buffers = stranger->buffers,
                                                     .endpoints_max = 64,
                                                     .receive_bytes_max = 256 * 1024,
                                                     .handshake_max = 5 * HM_S,
                                                     .world = swarm->world};
    assert_ok(hm_rpc_open(&conf, &stranger->rpc));
}

static void set_flag(void *arg)
{
    *(bool *)arg = true;
}

static void stranger_close(struct stranger *stranger)
{
    hm_rpc_close(stranger->rpc, set_flag, &stranger->closed);
    assert_true(hm_world_run_while_not(stranger->swarm->world, &stranger->closed, 60 * HM_S));
    assert_int_equal(hm_buf_pool_bytes_used(stranger->buffers), 0);
    hm_buf_pool_destroy(stranger->buffers);
    hm_identity_destroy(stranger->identity);
}

static void on_reply(struct hm_call *call, enum hm_status status, const void *header,
                     size_t header_bytes, struct hm_inbound *in)
{
    struct raw_call *raw = call->arg;
    (void)header;
    assert_int_equal(header_bytes, 0);
    raw->status = status;
    raw->byte_count = in->bytes;
    if (in->data && in->bytes <= sizeof raw->bytes) memcpy(raw->bytes, in->data, in->bytes);
    hm_inbound_drop(in);
}

static void on_end(struct hm_call *call, enum hm_status status)
{
    struct raw_call *raw = call->arg;
    if (status != HM_OK) raw->status = status;
    raw->done = true;
}

/* Sends these bytes to a node and waits for its answer. */
static void ask(struct stranger *stranger, const struct swarm_node *node, uint16_t method,
                const void *bytes, size_t byte_count, struct raw_call *raw)
{
    struct hm_addrs addrs = {.count = 1};
    struct hm_peer *peer;
    struct hm_buf *buf;
    snprintf(addrs.addr[0].text, sizeof addrs.addr[0].text, "sim:%u", node->index + 1);
    assert_ok(hm_peer_get(stranger->rpc, hm_identity_node(node->identity), &addrs, &peer));
    assert_ok(hm_buf_pool_get(stranger->buffers, byte_count, &buf));
    if (byte_count) memcpy(buf->base, bytes, byte_count);
    *raw = (struct raw_call){.swarm = stranger->swarm};
    raw->call = (struct hm_call){.method = method,
                                 .deadline = hm_deadline_after(stranger->swarm->loop, 10 * HM_S),
                                 .span_count = 1,
                                 .reply = on_reply,
                                 .end = on_end,
                                 .arg = raw};
    raw->call.payload[0] = hm_buf_span(buf);
    assert_ok(hm_rpc_call(peer, &raw->call));
    assert_true(hm_world_run_while_not(stranger->swarm->world, &raw->done, 20 * HM_S));
    hm_buf_put(buf);
    hm_peer_put(peer);
}

static enum hm_status store_one(struct stranger *stranger, const struct swarm_node *node,
                                const struct hm_record *record)
{
    uint8_t bytes[2 + HM_RECORD_BYTES_MAX];
    struct hm_writer writer;
    static struct raw_call raw;
    enum hm_status status;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_store_request_begin(&writer, 1);
    hm_record_encode(record, &writer);
    assert_true(hm_writer_ok(&writer));
    ask(stranger, node, HM_METHOD_DHT_STORE, bytes, hm_writer_count(&writer), &raw);
    assert_status(raw.status, HM_OK);
    assert_ok(hm_store_reply_decode(raw.bytes, raw.byte_count, &status, 1));
    return status;
}

static struct hm_record record_for(struct swarm *swarm, const char *value, uint64_t sequence,
                                   hm_ns life)
{
    struct hm_record record = {.sequence = sequence,
                               .expires_wall_ns = swarm_wall_in(swarm, life),
                               .schema = SWARM_SCHEMA,
                               .subkey = "s",
                               .subkey_bytes = 1,
                               .value = value,
                               .value_bytes = (uint16_t)strlen(value)};
    swarm_key("stranger", 0, &record.key);
    return record;
}

static void forged_records_are_refused(void **state)
{
    (void)state;
    struct swarm swarm;
    struct stranger stranger;
    void *proofs;
    swarm_open(&swarm, 1);
    swarm_grow(&swarm, 3);
    stranger_open(&stranger, &swarm, NULL);
    struct hm_record record = record_for(&swarm, "mine", 1, 100 * HM_S);
    assert_ok(hm_records_sign(stranger.identity, &record, 1, &proofs));
    assert_status(store_one(&stranger, &swarm.node[1], &record), HM_OK);
    /* The same proof under another value, another sequence, another owner. */
    struct hm_record forged = record;
    forged.value = "less";
    assert_status(store_one(&stranger, &swarm.node[1], &forged), HM_ERR_PEER_DENIED);
    forged = record;
    forged.sequence = 2;
    assert_status(store_one(&stranger, &swarm.node[1], &forged), HM_ERR_PEER_DENIED);
    forged = record;
    forged.owner = *hm_identity_node(swarm.node[2].identity);
    assert_status(store_one(&stranger, &swarm.node[1], &forged), HM_ERR_PEER_DENIED);
    forged = record;
    forged.expires_wall_ns += HM_S;
    assert_status(store_one(&stranger, &swarm.node[1], &forged), HM_ERR_PEER_DENIED);
    forged = record;
    forged.schema = SWARM_SCHEMA + 1;
    assert_status(store_one(&stranger, &swarm.node[1], &forged), HM_ERR_UNSUPPORTED);
    assert_int_equal(hm_dht_records(swarm.node[1].dht), 1);
    free(proofs);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

/* Verifying costs more than forging: who is caught once is not heard out. */
static void a_forged_record_ends_the_hearing(void **state)
{
    (void)state;
    enum { RECORDS = 4, FORGED = 1 };
    struct swarm swarm;
    struct stranger stranger;
    struct hm_record record[RECORDS];
    enum hm_status status[RECORDS];
    static struct raw_call raw;
    uint8_t bytes[4096];
    void *proofs;
    swarm_open(&swarm, 9);
    swarm_grow(&swarm, 2);
    stranger_open(&stranger, &swarm, NULL);
    for (unsigned i = 0; i < RECORDS; i++) {
        record[i] = record_for(&swarm, "v", 1, 100 * HM_S);
        swarm_key("hearing", i, &record[i].key);
    }
    assert_ok(hm_records_sign(stranger.identity, record, RECORDS, &proofs));
    record[FORGED].sequence++;
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_store_request_begin(&writer, RECORDS);
    for (unsigned i = 0; i < RECORDS; i++) hm_record_encode(&record[i], &writer);
    assert_true(hm_writer_ok(&writer));
    ask(&stranger, &swarm.node[1], HM_METHOD_DHT_STORE, bytes, hm_writer_count(&writer), &raw);
    assert_ok(hm_store_reply_decode(raw.bytes, raw.byte_count, status, RECORDS));
    for (unsigned i = 0; i < RECORDS; i++)
        assert_status(status[i], i < FORGED ? HM_OK : HM_ERR_PEER_DENIED);
    assert_int_equal(hm_dht_records(swarm.node[1].dht), FORGED);
    free(proofs);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

/* One key, many times, each time from far inside its dictionary. */
static void a_find_that_is_cheap_to_ask_is_bounded_to_answer(void **state)
{
    (void)state;
    enum { ENTRIES = 1000, SKIP = ENTRIES - 1 };
    static struct hm_record record[ENTRIES];
    static char subkey[ENTRIES][8];
    static struct hm_find_request find;
    static struct raw_call raw;
    uint8_t bytes[HM_FIND_REQUEST_BYTES_MAX];
    struct swarm swarm;
    struct stranger stranger;
    void *proofs;
    swarm_open(&swarm, 10);
    swarm.entries_max = swarm.records_max = ENTRIES;
    swarm_grow(&swarm, 1);
    stranger_open(&stranger, &swarm, NULL);
    for (unsigned i = 0; i < ENTRIES; i++) {
        record[i] = record_for(&swarm, "v", 1, 100 * HM_S);
        snprintf(subkey[i], sizeof subkey[i], "%u", i);
        record[i].subkey = subkey[i];
        record[i].subkey_bytes = (uint16_t)strlen(subkey[i]);
    }
    assert_ok(hm_records_sign(stranger.identity, record, ENTRIES, &proofs));
    for (unsigned i = 0; i < ENTRIES; i++)
        assert_status(store_one(&stranger, &swarm.node[0], &record[i]), HM_OK);
    size_t entry_bytes = hm_record_encoded_bytes(&record[SKIP]), answers[2];
    find.key_count = HM_FIND_KEYS_MAX;
    for (unsigned i = 0; i < HM_FIND_KEYS_MAX; i++) find.key[i].id = record[0].key;
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < HM_FIND_KEYS_MAX; i++) find.key[i].skip = round ? SKIP : ENTRIES;
        struct hm_writer writer;
        hm_writer_init(&writer, bytes, sizeof bytes);
        hm_find_request_encode(&find, &writer);
        ask(&stranger, &swarm.node[0], HM_METHOD_DHT_FIND, bytes, hm_writer_count(&writer), &raw);
        assert_status(raw.status, HM_OK);
        answers[round] = raw.byte_count;
    }
    size_t given = (answers[1] - answers[0]) / entry_bytes;
    assert_in_range(given, 1, 65536 / SKIP);
    free(proofs);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

static void replayed_records_are_refused(void **state)
{
    (void)state;
    struct swarm swarm;
    struct stranger stranger;
    struct swarm_finding finding;
    void *proofs[2];
    swarm_open(&swarm, 2);
    swarm_grow(&swarm, 3);
    stranger_open(&stranger, &swarm, NULL);
    struct hm_record first = record_for(&swarm, "first", 1, 100 * HM_S);
    struct hm_record second = record_for(&swarm, "second", 2, 5 * HM_S);
    assert_ok(hm_records_sign(stranger.identity, &first, 1, &proofs[0]));
    assert_ok(hm_records_sign(stranger.identity, &second, 1, &proofs[1]));
    for (unsigned i = 0; i < 3; i++) {
        assert_status(store_one(&stranger, &swarm.node[i], &first), HM_OK);
        assert_status(store_one(&stranger, &swarm.node[i], &first), HM_ERR_STALE);
        assert_status(store_one(&stranger, &swarm.node[i], &second), HM_OK);
        assert_status(store_one(&stranger, &swarm.node[i], &first), HM_ERR_STALE);
    }
    swarm_run(&swarm, 10 * HM_S); /* the second has ended; the first would still live */
    for (unsigned i = 0; i < 3; i++)
        assert_status(store_one(&stranger, &swarm.node[i], &first), HM_ERR_STALE);
    assert_status(store_one(&stranger, &swarm.node[0], &second), HM_ERR_TIMED_OUT);
    swarm_find(&swarm.node[1], &first.key, 1, 10 * HM_S, &finding);
    assert_int_equal(finding.count, 0);
    swarm_finding_free(&finding);
    free(proofs[0]);
    free(proofs[1]);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

static void a_record_at_the_wrong_place_finds_its_way(void **state)
{
    (void)state;
    enum { NODES = 12 };
    struct swarm swarm;
    struct stranger stranger;
    void *proofs;
    swarm_open(&swarm, 20);
    swarm_grow(&swarm, NODES);
    stranger_open(&stranger, &swarm, NULL);
    struct hm_record record = record_for(&swarm, "lost", 1, 600 * HM_S);
    assert_ok(hm_records_sign(stranger.identity, &record, 1, &proofs));
    for (unsigned i = 0; i < NODES; i++)
        if (swarm_rank(&swarm, &swarm.node[i], &record.key) == NODES - 1)
            assert_status(store_one(&stranger, &swarm.node[i], &record), HM_OK);
    swarm_run(&swarm, 20 * HM_S);
    for (unsigned i = 0; i < NODES; i++) {
        unsigned rank = swarm_rank(&swarm, &swarm.node[i], &record.key);
        bool held = swarm_held(&swarm.node[i], &record.key, &record.owner, "s");
        assert_int_equal(held, rank < HM_DHT_REPLICAS || rank == NODES - 1);
    }
    free(proofs);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

static void a_life_without_end_is_refused(void **state)
{
    (void)state;
    struct swarm swarm;
    struct stranger stranger;
    void *proofs;
    swarm_open(&swarm, 3);
    swarm_grow(&swarm, 2);
    stranger_open(&stranger, &swarm, NULL);
    struct hm_record record =
        record_for(&swarm, "pinned", 1, (hm_ns)HM_RECORD_LIFE_MAX_NS + 4 * HM_S);
    assert_ok(hm_records_sign(stranger.identity, &record, 1, &proofs));
    assert_status(store_one(&stranger, &swarm.node[0], &record), HM_ERR_INVALID);
    free(proofs);
    /* Our own store cuts it to what others stand. */
    assert_int_equal(swarm_store(&swarm.node[0], &record.key, "long", "v",
                                 (hm_ns)HM_RECORD_LIFE_MAX_NS * 10, NULL),
                     2);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

static void a_full_dictionary_and_a_full_node_refuse(void **state)
{
    (void)state;
    struct swarm swarm;
    struct stranger stranger;
    swarm_open(&swarm, 4);
    swarm.entries_max = 3;
    swarm.records_max = 5;
    swarm_grow(&swarm, 1);
    stranger_open(&stranger, &swarm, NULL);
    for (unsigned i = 0; i < 8; i++) {
        void *proofs;
        char subkey[8];
        struct hm_record record = record_for(&swarm, "v", 1, 100 * HM_S);
        snprintf(subkey, sizeof subkey, "%u", i);
        record.subkey = subkey;
        if (i >= 5) swarm_key("another", i, &record.key);
        assert_ok(hm_records_sign(stranger.identity, &record, 1, &proofs));
        enum hm_status wanted = i < 3   ? HM_OK
                                : i < 5 ? HM_ERR_TOO_BIG
                                : i < 7 ? HM_OK
                                        : HM_ERR_BUSY;
        assert_status(store_one(&stranger, &swarm.node[0], &record), wanted);
        free(proofs);
    }
    assert_int_equal(hm_dht_records(swarm.node[0].dht), 5);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

static void garbage_is_answered_as_garbage(void **state)
{
    (void)state;
    struct swarm swarm;
    struct stranger stranger;
    static struct raw_call raw;
    uint8_t bytes[300];
    swarm_open(&swarm, 5);
    swarm_grow(&swarm, 2);
    stranger_open(&stranger, &swarm, NULL);
    for (unsigned i = 0; i < 200; i++) {
        size_t count = hm_rng_below(&swarm.rng, sizeof bytes);
        for (size_t j = 0; j < count; j++) bytes[j] = (uint8_t)hm_rng_next(&swarm.rng);
        if (count > 2) bytes[1] |= 1; /* never the empty, sound request */
        ask(&stranger, &swarm.node[0], i % 2 ? HM_METHOD_DHT_FIND : HM_METHOD_DHT_STORE, bytes,
            count, &raw);
        assert_status(raw.status, HM_ERR_PEER_PROTOCOL);
    }
    static uint8_t large[HM_STORE_REQUEST_BYTES_MAX + 1];
    ask(&stranger, &swarm.node[0], HM_METHOD_DHT_STORE, large, sizeof large, &raw);
    assert_status(raw.status, HM_ERR_TOO_BIG);
    swarm_check(&swarm);
    stranger_close(&stranger);
    swarm_close(&swarm);
}

/* ---- a stranger who answers */

struct liar {
    struct stranger stranger;
    struct hm_method methods[2];
    unsigned mode, asked, asked_values;
    struct hm_record record; /* what he gives for any key */
};

static void lie(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                struct hm_inbound *in)
{
    struct liar *liar = arg;
    static struct hm_find_request find;
    (void)header;
    (void)header_bytes;
    liar->asked++;
    struct hm_buf *buf;
    struct hm_writer writer;
    assert_ok(hm_buf_pool_get(liar->stranger.buffers, 8192, &buf));
    hm_writer_init(&writer, buf->base, buf->bytes);
    if (in->data && hm_find_request_decode(in->data, in->bytes, &find) == HM_OK) {
        liar->asked_values += !find.nodes_only;
        hm_find_reply_contacts_begin(&writer, 0);
        hm_find_reply_keys_begin(&writer, find.key_count);
        for (unsigned i = 0; i < find.key_count; i++) {
            unsigned given = find.nodes_only || liar->mode == 0 ? 0 : 1;
            hm_find_reply_key_begin(&writer, NULL, 0, liar->mode == 2 ? 60000 : given, given);
            if (given) hm_record_encode(&liar->record, &writer);
        }
    }
    if (liar->mode == 0) hm_write_u32(&writer, 0xdeadbeef); /* does not decode */
    hm_inbound_drop(in);
    buf->bytes = hm_writer_count(&writer);
    struct hm_span span = hm_buf_span(buf);
    hm_request_reply(request, true, HM_OK, NULL, 0, &span, 1);
    hm_buf_put(buf);
}

static void liar_open(struct liar *liar, struct swarm *swarm, unsigned mode)
{
    *liar = (struct liar){.mode = mode};
    stranger_open(&liar->stranger, swarm, "sim:60");
    liar->methods[0] = (struct hm_method){.id = HM_METHOD_DHT_FIND,
                                          .name = "lie",
                                          .payload_bytes_max = 65536,
                                          .handle = lie,
                                          .arg = liar};
    assert_ok(hm_rpc_serve(liar->stranger.rpc, liar->methods, 1));
}

/* A key to which no node of the swarm is nearer than the stranger: everybody asks him first. */
static struct hm_dht_id key_nearest_to(const struct swarm *swarm, const struct stranger *stranger)
{
    struct hm_dht_id id = hm_dht_node(hm_identity_node(stranger->identity));
    for (unsigned number = 0;; number++) {
        struct hm_dht_id key;
        bool nearest = true;
        swarm_key("stranger", number, &key);
        for (unsigned i = 0; i < swarm->node_count; i++)
            nearest = nearest && hm_distance_compare(&key, &id, &swarm->node[i].dht->self) < 0;
        if (nearest) return key;
    }
}

/* Lies of each kind; the swarm's own records are found all the same, and nothing else. */
static void liars_are_seen_through(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 3; mode++) {
        struct swarm swarm;
        struct liar liar;
        struct swarm_finding finding;
        static struct raw_call raw;
        void *proofs;
        swarm_open(&swarm, 6 + mode);
        swarm_grow(&swarm, 6);
        liar_open(&liar, &swarm, mode);
        /* Connecting makes him a contact of all: he listens. */
        static const uint8_t nothing[3] = {0};
        for (unsigned i = 0; i < 6; i++)
            ask(&liar.stranger, &swarm.node[i], HM_METHOD_DHT_FIND, nothing, sizeof nothing, &raw);
        assert_int_equal(hm_dht_contacts(swarm.node[2].dht), 6);
        struct hm_dht_id key = key_nearest_to(&swarm, &liar.stranger);
        /* A record by node 4 that node 4 never made. */
        liar.record = record_for(&swarm, "false", UINT64_MAX, 100 * HM_S);
        liar.record.key = key;
        assert_ok(hm_records_sign(liar.stranger.identity, &liar.record, 1, &proofs));
        liar.record.owner = *hm_identity_node(swarm.node[4].identity);
        unsigned replicas = swarm_store(&swarm.node[4], &key, "s", "true", 100 * HM_S, NULL);
        assert_in_range(replicas, 4, 5);
        liar.asked_values = 0;
        for (unsigned i = 0; i < 6; i++) {
            swarm_find(&swarm.node[i], &key, 1, 20 * HM_S, &finding);
            assert_status(finding.status, HM_OK);
            assert_int_equal(finding.count, 1);
            assert_string_equal(finding.found[0].value, "true");
            swarm_finding_free(&finding);
        }
        if (mode > 0) assert_true(liar.asked_values > 0); /* else nobody believes him any more */
        assert_true(liar.asked < 200);
        swarm_run(&swarm, 5 * HM_S);
        free(proofs);
        stranger_close(&liar.stranger);
        swarm_close(&swarm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forged_records_are_refused),
        cmocka_unit_test(a_forged_record_ends_the_hearing),
        cmocka_unit_test(a_find_that_is_cheap_to_ask_is_bounded_to_answer),
        cmocka_unit_test(replayed_records_are_refused),
        cmocka_unit_test(a_record_at_the_wrong_place_finds_its_way),
        cmocka_unit_test(a_life_without_end_is_refused),
        cmocka_unit_test(a_full_dictionary_and_a_full_node_refuse),
        cmocka_unit_test(garbage_is_answered_as_garbage),
        cmocka_unit_test(liars_are_seen_through),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
