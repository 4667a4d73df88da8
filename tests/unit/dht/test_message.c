/* FIND and STORE as bytes. */
#include "test.h"

#include "dht/message.h"
#include "dht/record_internal.h"

#include <stdio.h>

static struct hm_contact *contact_of(uint8_t number)
{
    struct hm_dht_id id = {{number}};
    struct hm_addrs addrs = {.count = 2};
    snprintf(addrs.addr[0].text, sizeof addrs.addr[0].text, "sim:%u", number);
    snprintf(addrs.addr[1].text, sizeof addrs.addr[1].text, "tcp:[::1]:%u", 4000u + number);
    struct hm_contact *contact;
    assert_ok(hm_contact_create(&id, &addrs, &contact));
    return contact;
}

static struct hm_record record_of(uint8_t number)
{
    struct hm_record record = {.sequence = number,
                               .subkey = "subkey",
                               .subkey_bytes = 6,
                               .value = "value",
                               .value_bytes = 5,
                               .proof = "proof",
                               .proof_bytes = 5};
    record.key.byte[0] = number;
    return record;
}

static void a_find_request_survives_the_wire(void **state)
{
    (void)state;
    static struct hm_find_request request, back;
    static uint8_t bytes[HM_FIND_REQUEST_BYTES_MAX];
    static const unsigned counts[] = {0, 1, 7, HM_FIND_KEYS_MAX};
    for (unsigned c = 0; c < 4; c++) {
        request.nodes_only = c % 2;
        request.key_count = counts[c];
        for (unsigned i = 0; i < counts[c]; i++) {
            request.key[i].id.byte[31] = (uint8_t)i;
            request.key[i].skip = (uint16_t)(3 * i);
        }
        struct hm_writer writer;
        hm_writer_init(&writer, bytes, sizeof bytes);
        hm_find_request_encode(&request, &writer);
        assert_true(hm_writer_ok(&writer));
        size_t count = hm_writer_count(&writer);
        assert_ok(hm_find_request_decode(bytes, count, &back));
        assert_int_equal(back.nodes_only, request.nodes_only);
        assert_int_equal(back.key_count, request.key_count);
        for (unsigned i = 0; i < counts[c]; i++) {
            assert_memory_equal(back.key[i].id.byte, request.key[i].id.byte, 32);
            assert_int_equal(back.key[i].skip, request.key[i].skip);
        }
        for (size_t cut = 0; cut < count; cut++) {
            assert_status(hm_find_request_decode(bytes, cut, &back), HM_ERR_PEER_PROTOCOL);
            assert_int_equal(back.key_count, 0);
        }
    }
    bytes[1] = 1; /* 257 keys */
    bytes[2] = 1;
    assert_status(hm_find_request_decode(bytes, sizeof bytes, &back), HM_ERR_PEER_PROTOCOL);
}

struct heard {
    unsigned contacts, nearest, records, keys;
    unsigned last_held, last_given;
    uint8_t contact[8];
};

static void on_contact(void *arg, unsigned index, struct hm_contact *contact)
{
    struct heard *heard = arg;
    assert_int_equal(index, heard->contacts++);
    assert_non_null(contact);
    heard->contact[index] = contact->id.byte[0];
    struct hm_addrs addrs;
    hm_contact_addrs(contact, &addrs);
    assert_int_equal(addrs.count, 2);
    hm_contact_put(contact);
}

static void on_nearest(void *arg, unsigned key, unsigned contact)
{
    struct heard *heard = arg;
    assert_true(key < 2 && contact < heard->contacts);
    heard->nearest++;
}

static void on_record(void *arg, unsigned key, const struct hm_record *record)
{
    struct heard *heard = arg;
    assert_int_equal(key, 1);
    assert_int_equal(record->value_bytes, 5);
    heard->records++;
}

static void on_key_end(void *arg, unsigned key, unsigned held, unsigned given)
{
    struct heard *heard = arg;
    assert_int_equal(key, heard->keys++);
    heard->last_held = held;
    heard->last_given = given;
}

static const struct hm_find_sink sink = {on_contact, on_nearest, on_record, on_key_end};

static size_t write_reply(uint8_t *bytes, size_t byte_count, uint16_t index)
{
    struct hm_writer writer;
    const uint16_t nearest[2] = {index, 0};
    hm_writer_init(&writer, bytes, byte_count);
    hm_find_reply_contacts_begin(&writer, 3);
    for (uint8_t i = 0; i < 3; i++) {
        struct hm_contact *contact = contact_of((uint8_t)(i + 1));
        hm_contact_encode(contact, &writer);
        hm_contact_put(contact);
    }
    hm_find_reply_keys_begin(&writer, 2);
    hm_find_reply_key_begin(&writer, nearest, 2, 0, 0);
    hm_find_reply_key_begin(&writer, nearest, 1, 9, 2);
    for (uint8_t i = 0; i < 2; i++) {
        struct hm_record record = record_of(i);
        hm_record_encode(&record, &writer);
    }
    assert_true(hm_writer_ok(&writer));
    return hm_writer_count(&writer);
}

static void a_find_reply_survives_the_wire(void **state)
{
    (void)state;
    uint8_t bytes[2000];
    struct heard heard = {0};
    size_t count = write_reply(bytes, sizeof bytes, 2);
    assert_ok(hm_find_reply_decode(bytes, count, 2, &sink, &heard));
    assert_int_equal(heard.contacts, 3);
    assert_int_equal(heard.contact[2], 3);
    assert_int_equal(heard.nearest, 3);
    assert_int_equal(heard.records, 2);
    assert_int_equal(heard.keys, 2);
    assert_int_equal(heard.last_held, 9);
    assert_int_equal(heard.last_given, 2);
}

static void a_find_reply_that_is_broken_anywhere_has_no_effect(void **state)
{
    (void)state;
    uint8_t bytes[2000];
    struct heard heard = {0};
    size_t count = write_reply(bytes, sizeof bytes, 2);
    for (size_t cut = 0; cut < count; cut++)
        assert_status(hm_find_reply_decode(bytes, cut, 2, &sink, &heard), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_find_reply_decode(bytes, count + 1, 2, &sink, &heard), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_find_reply_decode(bytes, count, 1, &sink, &heard), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_find_reply_decode(bytes, count, 3, &sink, &heard), HM_ERR_PEER_PROTOCOL);
    count = write_reply(bytes, sizeof bytes, 3); /* a contact that is not there */
    assert_status(hm_find_reply_decode(bytes, count, 2, &sink, &heard), HM_ERR_PEER_PROTOCOL);
    assert_int_equal(heard.contacts + heard.nearest + heard.records + heard.keys, 0);
}

static void a_store_request_and_its_reply_survive_the_wire(void **state)
{
    (void)state;
    uint8_t bytes[1000];
    struct hm_record records[4];
    unsigned count = 99;
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_store_request_begin(&writer, 3);
    for (uint8_t i = 0; i < 3; i++) {
        struct hm_record record = record_of(i);
        hm_record_encode(&record, &writer);
    }
    size_t byte_count = hm_writer_count(&writer);
    assert_status(hm_store_request_decode(bytes, byte_count, records, 2, &count),
                  HM_ERR_PEER_PROTOCOL);
    for (size_t cut = 0; cut < byte_count; cut++)
        assert_status(hm_store_request_decode(bytes, cut, records, 4, &count),
                      HM_ERR_PEER_PROTOCOL);
    assert_int_equal(count, 99);
    assert_ok(hm_store_request_decode(bytes, byte_count, records, 4, &count));
    assert_int_equal(count, 3);
    assert_int_equal(records[2].sequence, 2);

    const enum hm_status statuses[3] = {HM_OK, HM_ERR_STALE, HM_ERR_STORAGE};
    enum hm_status back[3];
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_store_reply_encode(statuses, 3, &writer);
    byte_count = hm_writer_count(&writer);
    assert_ok(hm_store_reply_decode(bytes, byte_count, back, 3));
    assert_status(back[0], HM_OK);
    assert_status(back[1], HM_ERR_STALE);
    /* Its disk is not our node: scopes are local. */
    assert_int_not_equal(hm_status_scope(back[2]), HM_SCOPE_NODE);
    assert_status(hm_store_reply_decode(bytes, byte_count, back, 2), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_store_reply_decode(bytes, byte_count - 1, back, 3), HM_ERR_PEER_PROTOCOL);
    bytes[2] = 1; /* HM_INPROGRESS is no end */
    assert_ok(hm_store_reply_decode(bytes, byte_count, back, 3));
    assert_status(back[0], HM_ERR_PEER_PROTOCOL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_find_request_survives_the_wire),
        cmocka_unit_test(a_find_reply_survives_the_wire),
        cmocka_unit_test(a_find_reply_that_is_broken_anywhere_has_no_effect),
        cmocka_unit_test(a_store_request_and_its_reply_survive_the_wire),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
