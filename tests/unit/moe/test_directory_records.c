/* What a server declares passes the validators that every DHT node runs, and nothing else does. */
#include "test.h"

#include "base/rng.h"
#include "moe/directory_records.h"

#include <stdio.h>

static void describe(struct hm_server_info *info)
{
    memset(info, 0, sizeof *info);
    memset(info->node.byte, 7, sizeof info->node.byte);
    info->addrs.count = 2;
    strcpy(info->addrs.addr[0].text, "tcp:127.0.0.1:4242");
    strcpy(info->addrs.addr[1].text, "tcp:[::1]:4242");
    strcpy(info->version, "0.1.0");
    info->expert_count = 4;
    info->rows_queued = 17;
    info->rows_per_second = 900;
    info->codecs = 1;
    info->started_wall_ns = 123456789;
}

static enum hm_status judge(const struct hm_record *record)
{
    for (unsigned i = 0; i < hm_directory_validator_count; i++) {
        if (hm_directory_validators[i].schema == record->schema)
            return hm_directory_validators[i].accept(hm_directory_validators[i].arg, record);
    }
    return HM_ERR_UNSUPPORTED;
}

static struct hm_declaration declare(const char *const *uid, unsigned count,
                                     const struct hm_server_info *info, bool withdraw)
{
    struct hm_uid uids[16] = {0};
    struct hm_declaration declaration;
    for (unsigned i = 0; i < count; i++) assert_ok(hm_uid_parse(uid[i], &uids[i]));
    assert_ok(hm_declaration_make(info, uids, count, withdraw, 1000, &declaration));
    for (unsigned i = 0; i < declaration.count; i++)
        declaration.record[i].owner = info->node; /* as signing does */
    return declaration;
}

static const struct hm_record *find(const struct hm_declaration *declaration,
                                    const struct hm_dht_id *key, const char *subkey)
{
    for (unsigned i = 0; i < declaration->count; i++) {
        const struct hm_record *record = &declaration->record[i];
        if (memcmp(&record->key, key, sizeof *key) == 0 && record->subkey_bytes == strlen(subkey) &&
            memcmp(record->subkey, subkey, record->subkey_bytes) == 0)
            return record;
    }
    return NULL;
}

static void every_prefix_of_every_expert_is_declared_once(void **state)
{
    (void)state;
    static const char *const uid[] = {"ffn.3.1", "ffn.3.10", "ffn.12.0", "att.5", "ffn.3.2"};
    struct hm_server_info info, back;
    describe(&info);
    struct hm_declaration declaration = declare(uid, 5, &info, false);
    struct hm_dht_id key;
    /* server, ffn.{3,12}, ffn.3.{1,10,2}, ffn.12.{0}, att.{5}, two names */
    assert_int_equal(declaration.count, 1 + 2 + 3 + 1 + 1 + 2);
    hm_directory_expert_key("ffn.", &key);
    assert_non_null(find(&declaration, &key, "3"));
    assert_non_null(find(&declaration, &key, "12"));
    assert_null(find(&declaration, &key, "5"));
    hm_directory_expert_key("ffn.3.", &key);
    const struct hm_record *child = find(&declaration, &key, "10");
    uint32_t coordinate;
    assert_non_null(child);
    assert_true(hm_directory_expert_decode(child, &coordinate));
    assert_int_equal(coordinate, 10);
    assert_true(child->expires_wall_ns == 1000 + (int64_t)HM_DIRECTORY_EXPERT_LIFE);
    hm_directory_names_key(&key);
    struct hm_grid_name name;
    assert_true(hm_directory_name_decode(find(&declaration, &key, "att"), &name));
    assert_string_equal(name.name, "att");
    assert_int_equal(name.dim_count, 1);
    assert_true(hm_directory_name_decode(find(&declaration, &key, "ffn"), &name));
    assert_int_equal(name.dim_count, 2);
    hm_directory_server_key(&info.node, &key);
    const struct hm_record *server = find(&declaration, &key, "self");
    assert_non_null(server);
    assert_true(server->expires_wall_ns == 1000 + (int64_t)HM_DIRECTORY_SERVER_LIFE);
    assert_true(hm_directory_server_decode(server, &back));
    assert_string_equal(back.addrs.addr[1].text, info.addrs.addr[1].text);
    assert_string_equal(back.version, "0.1.0");
    assert_true(back.rows_queued == 17 && back.rows_per_second == 900 && back.expert_count == 4 &&
                back.codecs == 1 && back.started_wall_ns == 123456789 &&
                hm_node_id_equal(&back.node, &info.node));
    for (unsigned i = 0; i < declaration.count; i++) assert_ok(judge(&declaration.record[i]));
    hm_declaration_fini(&declaration);
}

static void a_withdrawal_ends_the_expert_records_and_leaves_a_server_without_addresses(void **state)
{
    (void)state;
    static const char *const uid[] = {"ffn.0.0"};
    struct hm_server_info info, back;
    describe(&info);
    struct hm_declaration declaration = declare(uid, 1, &info, true);
    for (unsigned i = 0; i < declaration.count; i++) {
        const struct hm_record *record = &declaration.record[i];
        assert_ok(judge(record));
        if (record->schema != HM_SCHEMA_SERVER) {
            assert_true(record->expires_wall_ns == 1000 + (int64_t)HM_S);
            continue;
        }
        /* It lives on, so that those who remember the server see that it has gone. */
        assert_true(record->expires_wall_ns == 1000 + (int64_t)HM_DIRECTORY_SERVER_LIFE);
        assert_true(hm_directory_server_decode(record, &back));
        assert_int_equal(back.addrs.count, 0);
    }
    hm_declaration_fini(&declaration);
}

static void as_many_addresses_as_fit_are_declared(void **state)
{
    (void)state;
    struct hm_server_info info, back;
    describe(&info);
    info.addrs.count = HM_ADDRS_MAX;
    for (unsigned i = 0; i < HM_ADDRS_MAX; i++) {
        memset(info.addrs.addr[i].text, 'a', HM_ADDR_BYTES_MAX - 1);
        info.addrs.addr[i].text[HM_ADDR_BYTES_MAX - 1] = '\0';
    }
    struct hm_declaration declaration = declare(NULL, 0, &info, false);
    assert_int_equal(declaration.count, 1);
    assert_ok(judge(&declaration.record[0]));
    assert_true(hm_directory_server_decode(&declaration.record[0], &back));
    assert_true(back.addrs.count >= 6 && back.addrs.count < HM_ADDRS_MAX);
    hm_declaration_fini(&declaration);
}

static void a_version_that_a_terminal_would_obey_is_refused(void **state)
{
    (void)state;
    struct hm_server_info info, back;
    describe(&info);
    strcpy(info.version, "0.1\x1b[2J");
    struct hm_declaration declaration = declare(NULL, 0, &info, false);
    assert_int_equal(declaration.count, 1);
    assert_false(hm_directory_server_decode(&declaration.record[0], &back));
    hm_declaration_fini(&declaration);
}

static void nobody_fills_the_dictionary_of_another_server(void **state)
{
    (void)state;
    struct hm_server_info info;
    describe(&info);
    struct hm_declaration declaration = declare(NULL, 0, &info, false);
    declaration.record[0].owner.byte[0] ^= 1;
    assert_status(judge(&declaration.record[0]), HM_ERR_INVALID);
    hm_declaration_fini(&declaration);
}

static void what_nobody_declares_is_refused(void **state)
{
    (void)state;
    static const uint8_t value[] = {1, 1, 0, 0, 0};
    static const char *const bad[] = {"",        "01",          "-1", "x",  "1.2",
                                      "1000001", "99999999999", " 1", "1\n"};
    struct hm_record record = {
        .schema = HM_SCHEMA_EXPERT, .value = value, .value_bytes = sizeof value};
    record.subkey = "3";
    record.subkey_bytes = 1;
    assert_ok(judge(&record));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        record.subkey = bad[i];
        record.subkey_bytes = (uint16_t)strlen(bad[i]);
        if (judge(&record) != HM_ERR_INVALID) fail_msg("child '%s' was taken", bad[i]);
    }
    record.subkey = "3";
    record.subkey_bytes = 1;
    record.value_bytes = 4;
    assert_status(judge(&record), HM_ERR_INVALID);
    record.value_bytes = 6;
    static const uint8_t newer[] = {2, 1, 0, 0, 0};
    record.value_bytes = sizeof newer;
    record.value = newer;
    assert_status(judge(&record), HM_ERR_INVALID);

    static const char *const bad_names[] = {"", "a.b", "a b", "a\n"};
    static const uint8_t dims[] = {1, 2}, no_dims[] = {1, 0}, five[] = {1, 5};
    record = (struct hm_record){.schema = HM_SCHEMA_NAMES,
                                .value = dims,
                                .value_bytes = 2,
                                .subkey = "ffn",
                                .subkey_bytes = 3};
    assert_ok(judge(&record));
    for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
        record.subkey = bad_names[i];
        record.subkey_bytes = (uint16_t)strlen(bad_names[i]);
        if (judge(&record) != HM_ERR_INVALID) fail_msg("name '%s' was taken", bad_names[i]);
    }
    record.subkey = "ffn";
    record.subkey_bytes = 3;
    record.value = no_dims;
    assert_status(judge(&record), HM_ERR_INVALID);
    record.value = five;
    assert_status(judge(&record), HM_ERR_INVALID);
}

static void no_bytes_crash_the_validators(void **state)
{
    (void)state;
    struct hm_server_info info, back;
    struct hm_rng rng;
    describe(&info);
    hm_rng_init(&rng, 5, 0);
    struct hm_declaration declaration = declare(NULL, 0, &info, false);
    const struct hm_record *good = &declaration.record[0];
    unsigned accepted = 0;
    for (unsigned round = 0; round < 50000; round++) {
        size_t bytes = good->value_bytes - hm_rng_below(&rng, 3) * hm_rng_below(&rng, 2);
        uint8_t *value = malloc(bytes);
        assert_non_null(value);
        memcpy(value, good->value, bytes);
        for (unsigned i = (unsigned)hm_rng_below(&rng, 3); i > 0; i--)
            value[hm_rng_below(&rng, bytes)] = (uint8_t)hm_rng_next(&rng);
        struct hm_record record = *good;
        record.value = value;
        record.value_bytes = (uint16_t)bytes;
        if (judge(&record) == HM_OK) {
            accepted++;
            assert_true(hm_directory_server_decode(&record, &back));
            assert_true(back.addrs.count <= HM_ADDRS_MAX);
            assert_true(strlen(back.version) < sizeof back.version);
        }
        free(value);
    }
    assert_true(accepted > 1000 && accepted < 50000);
    hm_declaration_fini(&declaration);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_prefix_of_every_expert_is_declared_once),
        cmocka_unit_test(
            a_withdrawal_ends_the_expert_records_and_leaves_a_server_without_addresses),
        cmocka_unit_test(as_many_addresses_as_fit_are_declared),
        cmocka_unit_test(a_version_that_a_terminal_would_obey_is_refused),
        cmocka_unit_test(nobody_fills_the_dictionary_of_another_server),
        cmocka_unit_test(what_nobody_declares_is_refused),
        cmocka_unit_test(no_bytes_crash_the_validators),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
