/* No bytes crash the decoders of src/dht, and what they accept lies in bounds.
 * Seeded: a failure replays. */
#include "test.h"

#include "base/rng.h"
#include "dht/message.h"
#include "dht/record_internal.h"

#include <stdio.h>

enum { ROUNDS = 40000, BYTES_MAX = 4096 };

static struct hm_rng rng;

/* Half the inputs are noise, half a sound message with a few bytes changed, cut or appended. */
static size_t spoil(uint8_t *bytes, size_t count)
{
    unsigned changes = (unsigned)hm_rng_below(&rng, 4);
    for (unsigned i = 0; i < changes && count > 0; i++) {
        size_t at = hm_rng_below(&rng, count);
        switch (hm_rng_below(&rng, 4)) {
        case 0: bytes[at] = (uint8_t)hm_rng_next(&rng); break;
        case 1: bytes[at] ^= (uint8_t)(1u << hm_rng_below(&rng, 8)); break;
        case 2: bytes[at] = hm_rng_below(&rng, 2) ? 0xff : 0; break;
        default: count = at; break;
        }
    }
    return count;
}

static size_t noise(uint8_t *bytes)
{
    size_t count = hm_rng_below(&rng, 400);
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)hm_rng_next(&rng);
    if (count > 8 && hm_rng_below(&rng, 2)) memset(bytes, 0, 4); /* small counts: deeper */
    return count;
}

/* A copy of its own size, so that the sanitizers see every byte read beyond the end. */
static uint8_t *exact(const uint8_t *bytes, size_t count)
{
    uint8_t *copy = malloc(count ? count : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, count);
    return copy;
}

static struct hm_record random_record(void)
{
    static uint8_t body[512];
    struct hm_record record = {.sequence = hm_rng_next(&rng),
                               .expires_wall_ns = (int64_t)hm_rng_next(&rng),
                               .schema = (uint16_t)hm_rng_next(&rng),
                               .subkey = body,
                               .subkey_bytes = (uint16_t)hm_rng_below(&rng, 129),
                               .value = body,
                               .value_bytes = (uint16_t)hm_rng_below(&rng, 200),
                               .proof = body,
                               .proof_bytes = (uint16_t)hm_rng_below(&rng, 300)};
    return record;
}

static void in_bounds(const struct hm_record *record)
{
    assert_true(record->subkey_bytes <= HM_RECORD_SUBKEY_BYTES_MAX);
    assert_true(record->value_bytes <= HM_RECORD_VALUE_BYTES_MAX);
    assert_true(record->proof_bytes <= HM_RECORD_PROOF_BYTES_MAX);
    volatile uint8_t sum = 0;
    for (unsigned i = 0; i < record->subkey_bytes; i++) sum += ((const uint8_t *)record->subkey)[i];
    for (unsigned i = 0; i < record->value_bytes; i++) sum += ((const uint8_t *)record->value)[i];
    for (unsigned i = 0; i < record->proof_bytes; i++) sum += ((const uint8_t *)record->proof)[i];
}

static void no_bytes_crash_the_find_request_decoder(void **state)
{
    (void)state;
    static struct hm_find_request request, sound;
    static uint8_t bytes[HM_FIND_REQUEST_BYTES_MAX];
    unsigned accepted = 0;
    hm_rng_init(&rng, 1, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t count = noise(bytes);
        if (round % 2) {
            struct hm_writer writer;
            sound.key_count = (unsigned)hm_rng_below(&rng, 20);
            hm_writer_init(&writer, bytes, sizeof bytes);
            hm_find_request_encode(&sound, &writer);
            count = spoil(bytes, hm_writer_count(&writer));
        }
        uint8_t *copy = exact(bytes, count);
        if (hm_find_request_decode(copy, count, &request) == HM_OK) {
            accepted++;
            assert_true(request.key_count <= HM_FIND_KEYS_MAX);
            assert_int_equal(count, 3 + 34 * request.key_count);
        }
        free(copy);
    }
    assert_true(accepted > ROUNDS / 10);
}

struct tally {
    unsigned contacts, records, keys, key_count;
};

static void on_contact(void *arg, unsigned index, struct hm_contact *contact)
{
    struct tally *tally = arg;
    assert_int_equal(index, tally->contacts++);
    if (contact) {
        struct hm_addrs addrs;
        hm_contact_addrs(contact, &addrs);
        assert_in_range(addrs.count, 1, HM_ADDRS_MAX);
    }
    hm_contact_put(contact);
}

static void on_nearest(void *arg, unsigned key, unsigned contact)
{
    struct tally *tally = arg;
    assert_true(key < tally->key_count && contact < tally->contacts);
}

static void on_record(void *arg, unsigned key, const struct hm_record *record)
{
    struct tally *tally = arg;
    assert_int_equal(key, tally->keys);
    in_bounds(record);
    tally->records++;
}

static void on_key_end(void *arg, unsigned key, unsigned held, unsigned given)
{
    struct tally *tally = arg;
    assert_int_equal(key, tally->keys++);
    assert_true(given <= held);
}

static size_t sound_reply(uint8_t *bytes, unsigned key_count)
{
    struct hm_writer writer;
    unsigned contact_count = 1 + (unsigned)hm_rng_below(&rng, 5);
    hm_writer_init(&writer, bytes, BYTES_MAX);
    hm_find_reply_contacts_begin(&writer, contact_count);
    for (unsigned i = 0; i < contact_count; i++) {
        struct hm_dht_id id = {{(uint8_t)i}};
        struct hm_addrs addrs = {.count = 1};
        struct hm_contact *contact;
        snprintf(addrs.addr[0].text, sizeof addrs.addr[0].text, "sim:%u", i);
        assert_ok(hm_contact_create(&id, &addrs, &contact));
        hm_contact_encode(contact, &writer);
        hm_contact_put(contact);
    }
    hm_find_reply_keys_begin(&writer, key_count);
    for (unsigned i = 0; i < key_count; i++) {
        uint16_t nearest[3];
        unsigned given = (unsigned)hm_rng_below(&rng, 3);
        for (unsigned j = 0; j < 3; j++) nearest[j] = (uint16_t)hm_rng_below(&rng, contact_count);
        hm_find_reply_key_begin(&writer, nearest, 3, given + (unsigned)hm_rng_below(&rng, 3),
                                given);
        for (unsigned j = 0; j < given; j++) {
            struct hm_record record = random_record();
            hm_record_encode(&record, &writer);
        }
    }
    return hm_writer_ok(&writer) ? hm_writer_count(&writer) : 0;
}

static void no_bytes_crash_the_find_reply_decoder(void **state)
{
    (void)state;
    static const struct hm_find_sink sink = {on_contact, on_nearest, on_record, on_key_end};
    static uint8_t bytes[BYTES_MAX];
    unsigned accepted = 0;
    hm_rng_init(&rng, 2, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct tally tally = {.key_count = (unsigned)hm_rng_below(&rng, 4)};
        size_t count = round % 2 ? spoil(bytes, sound_reply(bytes, tally.key_count)) : noise(bytes);
        uint8_t *copy = exact(bytes, count);
        if (hm_find_reply_decode(copy, count, tally.key_count, &sink, &tally) == HM_OK) {
            accepted++;
            assert_int_equal(tally.keys, tally.key_count);
        } else {
            assert_int_equal(tally.contacts + tally.records + tally.keys, 0);
        }
        free(copy);
    }
    assert_true(accepted > ROUNDS / 10);
}

static void no_bytes_crash_the_store_decoders(void **state)
{
    (void)state;
    static uint8_t bytes[BYTES_MAX];
    unsigned accepted = 0;
    hm_rng_init(&rng, 3, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t count = noise(bytes);
        if (round % 2) {
            struct hm_writer writer;
            unsigned records = (unsigned)hm_rng_below(&rng, 5);
            hm_writer_init(&writer, bytes, sizeof bytes);
            hm_store_request_begin(&writer, records);
            for (unsigned i = 0; i < records; i++) {
                struct hm_record record = random_record();
                hm_record_encode(&record, &writer);
            }
            count = spoil(bytes, hm_writer_count(&writer));
        }
        uint8_t *copy = exact(bytes, count);
        struct hm_record records[8];
        unsigned record_count;
        if (hm_store_request_decode(copy, count, records, 8, &record_count) == HM_OK) {
            accepted++;
            assert_true(record_count <= 8);
            for (unsigned i = 0; i < record_count; i++) {
                in_bounds(&records[i]);
                /* Nobody has signed any of them. */
                assert_status(hm_record_verify(&records[i], NULL), HM_ERR_PEER_DENIED);
            }
        }
        enum hm_status statuses[8];
        unsigned wanted = (unsigned)hm_rng_below(&rng, 8);
        if (hm_store_reply_decode(copy, count, statuses, wanted) == HM_OK)
            for (unsigned i = 0; i < wanted; i++) assert_true(statuses[i] <= 0);
        free(copy);
    }
    assert_true(accepted > ROUNDS / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bytes_crash_the_find_request_decoder),
        cmocka_unit_test(no_bytes_crash_the_find_reply_decoder),
        cmocka_unit_test(no_bytes_crash_the_store_decoders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
