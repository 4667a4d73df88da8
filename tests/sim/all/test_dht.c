/* The DHT in simulated swarms: what it promises when nothing is wrong. */
#include "support_dht.h"

#include <stdio.h>

static void a_lone_node_holds_its_own_records(void **state)
{
    (void)state;
    struct swarm swarm;
    swarm_open(&swarm, 1);
    swarm_node_open(&swarm, 0, true);
    struct hm_dht_id key;
    swarm_key("lone", 0, &key);
    enum hm_status status;
    assert_int_equal(swarm_store(&swarm.node[0], &key, "a", "1", 60 * HM_S, &status), 1);
    assert_status(status, HM_OK);
    struct swarm_finding finding;
    swarm_find(&swarm.node[0], &key, 1, 10 * HM_S, &finding);
    assert_status(finding.status, HM_OK);
    assert_int_equal(finding.count, 1);
    assert_string_equal(finding.found[0].value, "1");
    swarm_finding_free(&finding);
    swarm_close(&swarm);
}

static void a_record_is_stored_on_the_five_nearest_nodes(void **state)
{
    (void)state;
    struct swarm swarm;
    swarm_open(&swarm, 2);
    swarm_grow(&swarm, 12);
    for (unsigned k = 0; k < 10; k++) {
        struct hm_dht_id key;
        struct swarm_node *owner = &swarm.node[k];
        swarm_key("five", k, &key);
        assert_int_equal(swarm_store(owner, &key, "s", "v", 60 * HM_S, NULL), 5);
        for (unsigned i = 0; i < 12; i++) {
            bool held = swarm_held(&swarm.node[i], &key, hm_identity_node(owner->identity), "s");
            assert_int_equal(held, swarm_rank(&swarm, &swarm.node[i], &key) < 5);
        }
    }
    swarm_close(&swarm);
}

static void dictionaries_merge_the_entries_of_many_owners(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    swarm_open(&swarm, 3);
    swarm_grow(&swarm, 8);
    swarm_key("dictionary", 0, &key);
    for (unsigned i = 0; i < 8; i++) {
        (void)swarm_store(&swarm.node[i], &key, "0", "old", 60 * HM_S, NULL);
        (void)swarm_store(&swarm.node[i], &key, "1", "other", 60 * HM_S, NULL);
        assert_int_equal(swarm_store(&swarm.node[i], &key, "0", "new", 60 * HM_S, NULL), 5);
    }
    struct swarm_finding finding;
    swarm_find(&swarm.node[5], &key, 1, 10 * HM_S, &finding);
    assert_status(finding.status, HM_OK);
    assert_int_equal(finding.count, 16);
    for (unsigned i = 0; i < 8; i++) {
        const struct hm_node_id *owner = hm_identity_node(swarm.node[i].identity);
        assert_string_equal(swarm_finding_get(&finding, &key, owner, "0")->value, "new");
        assert_string_equal(swarm_finding_get(&finding, &key, owner, "1")->value, "other");
    }
    swarm_finding_free(&finding);
    swarm_close(&swarm);
}

static void absence_is_an_answer_and_nobody_to_ask_is_not(void **state)
{
    (void)state;
    struct swarm swarm;
    struct swarm_finding finding;
    struct hm_dht_id key;
    swarm_open(&swarm, 4);
    swarm_key("absent", 0, &key);
    swarm_node_open(&swarm, 0, false);
    swarm_find(&swarm.node[0], &key, 1, 10 * HM_S, &finding);
    assert_status(finding.status, HM_ERR_PEER_UNREACHABLE);
    assert_int_equal(finding.count, 0);
    swarm_finding_free(&finding);
    enum hm_status status;
    assert_int_equal(swarm_store(&swarm.node[0], &key, "a", "1", 60 * HM_S, &status), 0);
    assert_status(status, HM_ERR_PEER_UNREACHABLE);
    swarm_node_close(&swarm.node[0]);
    swarm_grow(&swarm, 4);
    swarm_find(&swarm.node[2], &key, 1, 10 * HM_S, &finding);
    assert_status(finding.status, HM_OK);
    assert_int_equal(finding.key_count, 1);
    assert_int_equal(finding.count, 0);
    swarm_finding_free(&finding);
    swarm_close(&swarm);
}

static void a_node_that_does_not_listen_asks_and_is_not_asked(void **state)
{
    (void)state;
    struct swarm swarm;
    struct swarm_finding finding;
    struct hm_dht_id key;
    swarm_open(&swarm, 5);
    swarm_grow(&swarm, 6);
    swarm_node_open(&swarm, 6, false);
    struct swarm_node *shy = &swarm.node[6];
    swarm_node_join(shy, &swarm.node[3], true);
    assert_true(hm_world_run_while_not(swarm.world, &shy->join_ended, 60 * HM_S));
    assert_status(shy->join_status, HM_OK);
    swarm_key("shy", 0, &key);
    assert_int_equal(swarm_store(shy, &key, "a", "1", 60 * HM_S, NULL), 5);
    swarm_run(&swarm, 5 * HM_S);
    assert_int_equal(hm_dht_records(shy->dht), 0);
    assert_int_equal(hm_dht_contacts(shy->dht), 6);
    for (unsigned i = 0; i < 6; i++) {
        assert_null(hm_table_find(&swarm.node[i].dht->table, &shy->dht->self));
        assert_int_equal(hm_dht_contacts(swarm.node[i].dht), 5);
    }
    swarm_find(shy, &key, 1, 10 * HM_S, &finding);
    assert_int_equal(finding.count, 1);
    swarm_finding_free(&finding);
    swarm_close(&swarm);
}

static uint64_t calls_of(const struct swarm_node *node)
{
    return hm_metrics_value(&node->metrics, "dht.calls");
}

static void keys_share_calls_and_lookups_are_bounded(void **state)
{
    (void)state;
    enum { NODES = 40, KEYS = 200 };
    struct swarm swarm;
    swarm_open(&swarm, 6);
    swarm_grow(&swarm, NODES);
    static struct hm_record records[KEYS];
    static struct hm_dht_id keys[KEYS];
    for (unsigned i = 0; i < KEYS; i++) {
        swarm_key("bulk", i, &keys[i]);
        records[i] = (struct hm_record){.key = keys[i],
                                        .expires_wall_ns = swarm_wall_in(&swarm, 600 * HM_S),
                                        .schema = SWARM_SCHEMA,
                                        .subkey = "s",
                                        .subkey_bytes = 1,
                                        .value = "value",
                                        .value_bytes = 5};
    }
    static struct swarm_storing storing;
    storing = (struct swarm_storing){0};
    uint64_t calls = calls_of(&swarm.node[7]);
    assert_ok(hm_dht_store(swarm.node[7].dht, records, KEYS,
                           hm_deadline_after(swarm.loop, 60 * HM_S), swarm_on_stored, &storing,
                           NULL));
    assert_true(hm_world_run_while_not(swarm.world, &storing.done, 60 * HM_S));
    assert_status(storing.status, HM_OK);
    for (unsigned i = 0; i < KEYS; i++) assert_int_equal(storing.replicas[i], 5);
    uint64_t store_calls = calls_of(&swarm.node[7]) - calls;
    /* One call a key would be 200 for the finds and 1000 for the stores. */
    assert_in_range(store_calls, 1, 6 * NODES);
    calls = calls_of(&swarm.node[30]);
    struct swarm_finding finding;
    swarm_find(&swarm.node[30], keys, KEYS, 30 * HM_S, &finding);
    assert_status(finding.status, HM_OK);
    assert_int_equal(finding.count, KEYS);
    swarm_finding_free(&finding);
    uint64_t find_calls = calls_of(&swarm.node[30]) - calls;
    assert_in_range(find_calls, 1, 3 * NODES);
    calls = calls_of(&swarm.node[30]);
    swarm_find(&swarm.node[30], keys, 1, 30 * HM_S, &finding);
    assert_int_equal(finding.count, 1);
    swarm_finding_free(&finding);
    uint64_t single_calls = calls_of(&swarm.node[30]) - calls;
    assert_in_range(single_calls, 1, HM_DHT_K + HM_DHT_ALPHA);
    print_message("calls: store of %d keys %u, find of them %u, find of one %u\n", KEYS,
                  (unsigned)store_calls, (unsigned)find_calls, (unsigned)single_calls);
    swarm_close(&swarm);
}

static void a_dictionary_larger_than_a_reply_is_found_whole(void **state)
{
    (void)state;
    enum { ENTRIES = 1500 }; /* 250 KiB hold some 170, and six nodes might differ in which */
    struct swarm swarm;
    struct hm_dht_id key;
    swarm_open(&swarm, 7);
    swarm_grow(&swarm, 6);
    swarm_key("large", 0, &key);
    static struct hm_record records[ENTRIES];
    static char subkeys[ENTRIES][8];
    static char value[1000];
    memset(value, 'v', sizeof value);
    for (unsigned i = 0; i < ENTRIES; i++) {
        snprintf(subkeys[i], sizeof subkeys[i], "%u", i);
        records[i] = (struct hm_record){.key = key,
                                        .expires_wall_ns = swarm_wall_in(&swarm, 600 * HM_S),
                                        .schema = SWARM_SCHEMA,
                                        .subkey = subkeys[i],
                                        .subkey_bytes = (uint16_t)strlen(subkeys[i]),
                                        .value = value,
                                        .value_bytes = sizeof value};
    }
    static struct swarm_storing storing;
    storing = (struct swarm_storing){0};
    assert_ok(hm_dht_store(swarm.node[1].dht, records, ENTRIES,
                           hm_deadline_after(swarm.loop, 60 * HM_S), swarm_on_stored, &storing,
                           NULL));
    assert_true(hm_world_run_while_not(swarm.world, &storing.done, 60 * HM_S));
    assert_status(storing.status, HM_OK);
    struct swarm_finding finding;
    struct swarm_node *finder = &swarm.node[0]; /* the one that holds none of them */
    while (swarm_rank(&swarm, finder, &key) < HM_DHT_REPLICAS) finder++;
    assert_int_equal(hm_dht_records(finder->dht), 0);
    swarm_find(finder, &key, 1, 60 * HM_S, &finding);
    assert_status(finding.status, HM_OK);
    assert_int_equal(finding.count, ENTRIES);
    swarm_finding_free(&finding);
    swarm_close(&swarm);
}

static void a_joining_node_receives_what_it_should_hold(void **state)
{
    (void)state;
    struct swarm swarm;
    swarm_open(&swarm, 8);
    swarm_grow(&swarm, 9);
    for (unsigned k = 0; k < 60; k++) {
        struct hm_dht_id key;
        swarm_key("push", k, &key);
        (void)swarm_store(&swarm.node[k % 9], &key, "s", "v", 600 * HM_S, NULL);
    }
    swarm_node_open(&swarm, 9, true);
    struct swarm_node *joiner = &swarm.node[9];
    swarm_node_join(joiner, &swarm.node[4], false);
    swarm_run(&swarm, 10 * HM_S);
    assert_true(joiner->joined);
    unsigned should = 0;
    for (unsigned k = 0; k < 60; k++) {
        struct hm_dht_id key;
        swarm_key("push", k, &key);
        if (swarm_rank(&swarm, joiner, &key) >= 5) continue;
        should++;
        assert_non_null(
            swarm_held(joiner, &key, hm_identity_node(swarm.node[k % 9].identity), "s"));
    }
    assert_in_range(should, 10, 60);
    /* Only these: it is no mirror. */
    assert_int_equal(hm_dht_records(joiner->dht), should);
    swarm_close(&swarm);
}

static void records_end_at_their_time_everywhere(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    struct swarm_finding finding;
    swarm_open(&swarm, 9);
    swarm_grow(&swarm, 7);
    swarm_key("expiry", 0, &key);
    (void)swarm_store(&swarm.node[2], &key, "short", "v", 20 * HM_S, NULL);
    (void)swarm_store(&swarm.node[2], &key, "long", "v", 100 * HM_S, NULL);
    swarm_run(&swarm, 25 * HM_S);
    swarm_find(&swarm.node[6], &key, 1, 10 * HM_S, &finding);
    assert_int_equal(finding.count, 1);
    assert_string_equal(finding.found[0].subkey, "long");
    swarm_finding_free(&finding);
    swarm_run(&swarm, 80 * HM_S);
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(hm_dht_records(swarm.node[i].dht), 0);
        assert_int_equal(swarm.node[i].dht->store.bytes, 0);
    }
    swarm_close(&swarm);
}

static void values_against_the_rules_and_unknown_schemas_are_no_replicas(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    enum hm_status status;
    swarm_open(&swarm, 10);
    swarm_grow(&swarm, 6);
    swarm_key("rules", 0, &key);
    assert_int_equal(swarm_store(&swarm.node[1], &key, "a", "!bad", 60 * HM_S, &status), 0);
    assert_status(status, HM_ERR_INVALID);
    struct hm_record record = {.key = key,
                               .schema = SWARM_SCHEMA + 1,
                               .expires_wall_ns = swarm_wall_in(&swarm, 60 * HM_S)};
    struct swarm_storing storing = {0};
    assert_ok(hm_dht_store(swarm.node[1].dht, &record, 1, hm_deadline_after(swarm.loop, 30 * HM_S),
                           swarm_on_stored, &storing, NULL));
    assert_true(hm_world_run_while_not(swarm.world, &storing.done, 40 * HM_S));
    assert_status(storing.status, HM_ERR_UNSUPPORTED);
    assert_int_equal(storing.replicas[0], 0);
    swarm_close(&swarm);
}

static void a_find_ends_at_its_deadline_and_a_cancelled_one_at_once(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    struct swarm_finding finding;
    swarm_open(&swarm, 11);
    swarm_grow(&swarm, 5);
    swarm_key("deadline", 0, &key);
    for (unsigned i = 1; i < 5; i++)
        hm_net_cut_both(swarm.world, swarm.node[0].number, swarm.node[i].number, true);
    hm_ns start = hm_loop_now(swarm.loop);
    swarm_find(&swarm.node[0], &key, 1, 500 * HM_MS, &finding);
    assert_status(finding.status, HM_ERR_TIMED_OUT);
    assert_int_equal(hm_loop_now(swarm.loop) - start, 500 * HM_MS);
    swarm_finding_free(&finding);
    struct swarm_storing storing = {0};
    struct hm_record record = {
        .key = key, .schema = SWARM_SCHEMA, .expires_wall_ns = swarm_wall_in(&swarm, 60 * HM_S)};
    struct hm_dht_query *query;
    assert_ok(hm_dht_store(swarm.node[0].dht, &record, 1, hm_deadline_after(swarm.loop, 30 * HM_S),
                           swarm_on_stored, &storing, &query));
    swarm_run(&swarm, 10 * HM_MS);
    hm_dht_query_cancel(query);
    assert_false(storing.done);
    swarm_run(&swarm, HM_MS);
    assert_true(storing.done);
    assert_status(storing.status, HM_ERR_CANCELED);
    swarm_close(&swarm);
}

static void too_many_queries_at_once_are_refused(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    swarm_open(&swarm, 12);
    swarm_grow(&swarm, 2);
    swarm_key("many", 0, &key);
    static struct swarm_storing storing[65];
    memset(storing, 0, sizeof storing);
    for (unsigned i = 0; i < 65; i++) {
        struct hm_record record = {.key = key,
                                   .schema = SWARM_SCHEMA,
                                   .subkey = "0123456789abcdefghijklmnopqrstuvwxyz0123456789"
                                             "0123456789abcdefghijklmnopqrstuvwxyz" +
                                             i,
                                   .subkey_bytes = 10,
                                   .expires_wall_ns = swarm_wall_in(&swarm, 60 * HM_S)};
        assert_status(hm_dht_store(swarm.node[0].dht, &record, 1,
                                   hm_deadline_after(swarm.loop, 30 * HM_S), swarm_on_stored,
                                   &storing[i], NULL),
                      i < 64 ? HM_OK : HM_ERR_BUSY);
    }
    swarm_run(&swarm, 30 * HM_S);
    for (unsigned i = 0; i < 64; i++) assert_true(storing[i].done);
    assert_false(storing[64].done);
    swarm_close(&swarm);
}

static void closing_ends_queries_and_leaves_nothing(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    swarm_open(&swarm, 13);
    swarm_grow(&swarm, 6);
    swarm_key("close", 0, &key);
    struct swarm_storing storing = {0};
    struct hm_record record = {
        .key = key, .schema = SWARM_SCHEMA, .expires_wall_ns = swarm_wall_in(&swarm, 60 * HM_S)};
    assert_ok(hm_dht_store(swarm.node[3].dht, &record, 1, hm_deadline_after(swarm.loop, 30 * HM_S),
                           swarm_on_stored, &storing, NULL));
    hm_world_run_for(swarm.world, 300 * HM_US);
    swarm_node_close(&swarm.node[3]);
    assert_true(storing.done);
    assert_status(storing.status, HM_ERR_CANCELED);
    swarm_close(&swarm); /* asserts of timers, posts, buffers */
}

static void a_bootstrap_node_that_was_away_for_an_hour_is_found_again(void **state)
{
    (void)state;
    struct swarm swarm;
    swarm_open(&swarm, 14);
    swarm_grow(&swarm, 5);
    swarm_node_crash(&swarm.node[0]);
    swarm_run(&swarm, 3600 * HM_S);
    for (unsigned i = 1; i < 5; i++) assert_int_equal(hm_dht_contacts(swarm.node[i].dht), 3);
    swarm_node_open(&swarm, 0, true); /* it knows nobody, and joins nobody */
    swarm_run(&swarm, 400 * HM_S);
    for (unsigned i = 0; i < 5; i++) assert_int_equal(hm_dht_contacts(swarm.node[i].dht), 4);
    swarm_close(&swarm);
}

static void a_swarm_that_was_cut_in_two_is_one_again(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_dht_id key;
    swarm_open(&swarm, 15);
    swarm_grow(&swarm, 8);
    for (unsigned a = 0; a < 4; a++)
        for (unsigned b = 4; b < 8; b++)
            hm_net_cut_both(swarm.world, swarm.node[a].number, swarm.node[b].number, true);
    swarm_run(&swarm, 300 * HM_S);
    /* Each half goes on by itself: its records are stored, on its own nodes. */
    swarm_key("halves", 0, &key);
    for (unsigned i = 0; i < 8; i += 4)
        assert_int_equal(swarm_store(&swarm.node[i], &key, "s", "v", 3600 * HM_S, NULL), 4);
    for (unsigned a = 0; a < 4; a++)
        for (unsigned b = 4; b < 8; b++)
            hm_net_cut_both(swarm.world, swarm.node[a].number, swarm.node[b].number, false);
    swarm_run(&swarm, 200 * HM_S);
    for (unsigned i = 0; i < 8; i++) {
        struct swarm_finding finding;
        assert_int_equal(swarm.node[i].dht->table.contact_count, 7);
        assert_int_equal(swarm.node[i].dht->table.suspect_count, 0);
        swarm_find(&swarm.node[i], &key, 1, 10 * HM_S, &finding);
        assert_int_equal(finding.count, 2);
        swarm_finding_free(&finding);
    }
    swarm_close(&swarm);
}

static void slow_round_trips_are_waited_for(void **state)
{
    (void)state;
    struct swarm swarm;
    struct hm_net_options net;
    struct hm_dht_id key;
    struct swarm_finding finding;
    swarm_open(&swarm, 16);
    hm_net_options_default(&net);
    net.delay_min = 400 * HM_MS; /* a round trip of 0.8 to 1.2 s: a fixed 400 ms would kill all */
    net.delay_max = 600 * HM_MS;
    net.slow_per_million = 0;
    hm_net_set_options(swarm.world, &net);
    swarm_grow(&swarm, 8);
    swarm_key("slow", 0, &key);
    assert_int_equal(swarm_store(&swarm.node[3], &key, "s", "v", 600 * HM_S, NULL), 5);
    swarm_find(&swarm.node[6], &key, 1, 30 * HM_S, &finding);
    assert_int_equal(finding.count, 1);
    swarm_finding_free(&finding);
    swarm_run(&swarm, 60 * HM_S);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(swarm.node[i].dht->table.suspect_count, 0);
        assert_int_equal(hm_metrics_value(&swarm.node[i].metrics, "dht.calls_failed"), 0);
    }
    swarm_close(&swarm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lone_node_holds_its_own_records),
        cmocka_unit_test(a_record_is_stored_on_the_five_nearest_nodes),
        cmocka_unit_test(dictionaries_merge_the_entries_of_many_owners),
        cmocka_unit_test(absence_is_an_answer_and_nobody_to_ask_is_not),
        cmocka_unit_test(a_node_that_does_not_listen_asks_and_is_not_asked),
        cmocka_unit_test(keys_share_calls_and_lookups_are_bounded),
        cmocka_unit_test(a_dictionary_larger_than_a_reply_is_found_whole),
        cmocka_unit_test(a_joining_node_receives_what_it_should_hold),
        cmocka_unit_test(records_end_at_their_time_everywhere),
        cmocka_unit_test(values_against_the_rules_and_unknown_schemas_are_no_replicas),
        cmocka_unit_test(a_find_ends_at_its_deadline_and_a_cancelled_one_at_once),
        cmocka_unit_test(too_many_queries_at_once_are_refused),
        cmocka_unit_test(closing_ends_queries_and_leaves_nothing),
        cmocka_unit_test(a_bootstrap_node_that_was_away_for_an_hour_is_found_again),
        cmocka_unit_test(a_swarm_that_was_cut_in_two_is_one_again),
        cmocka_unit_test(slow_round_trips_are_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
