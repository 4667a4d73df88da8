/* Records: their bytes, and the proof that their owner said so. */
#include "test.h"

#include "dht/record_internal.h"

#include <stdio.h>

enum { RECORDS_MAX = 70 };
static struct hm_identity *identity;

static int open_identity(void **state)
{
    (void)state;
    const uint8_t seed[32] = {1, 2, 3};
    return hm_identity_create(seed, &identity) == HM_OK ? 0 : -1;
}

static int close_identity(void **state)
{
    (void)state;
    hm_identity_destroy(identity);
    return 0;
}

static char subkey[RECORDS_MAX][12];

static void make_records(struct hm_record *records, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        snprintf(subkey[i], sizeof subkey[i], "%u", i);
        records[i] = (struct hm_record){.sequence = 100 + i,
                                        .expires_wall_ns = 1000 + i,
                                        .schema = 3,
                                        .subkey = subkey[i],
                                        .subkey_bytes = (uint16_t)strlen(subkey[i]),
                                        .value = "some value",
                                        .value_bytes = 10};
        hm_dht_key(&i, sizeof i, &records[i].key);
    }
}

static void every_record_of_an_announcement_can_be_verified_alone(void **state)
{
    (void)state;
    static const unsigned counts[] = {1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 64, 65, 70};
    for (unsigned c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct hm_record records[RECORDS_MAX];
        void *proofs;
        make_records(records, counts[c]);
        assert_ok(hm_records_sign(identity, records, counts[c], &proofs));
        for (unsigned i = 0; i < counts[c]; i++) {
            assert_true(hm_node_id_equal(&records[i].owner, hm_identity_node(identity)));
            assert_ok(hm_record_verify(&records[i], NULL));
            assert_true(records[i].proof_bytes <= HM_RECORD_PROOF_BYTES_MAX);
        }
        free(proofs);
    }
}

static void a_change_anywhere_is_denied(void **state)
{
    (void)state;
    struct hm_record records[5];
    void *proofs;
    make_records(records, 5);
    assert_ok(hm_records_sign(identity, records, 5, &proofs));
    uint8_t bytes[HM_RECORD_BYTES_MAX];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_record_encode(&records[3], &writer);
    size_t count = hm_writer_count(&writer);
    unsigned decoded = 0;
    struct hm_proof_cache *cache; /* must not hide anything */
    assert_ok(hm_proof_cache_create(8, &cache));
    assert_ok(hm_record_verify(&records[3], cache));
    for (size_t bit = 0; bit < 8 * count; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        struct hm_reader reader;
        struct hm_record record;
        hm_reader_init(&reader, bytes, count);
        hm_record_decode(&reader, &record);
        if (hm_reader_ended(&reader)) {
            decoded++;
            assert_status(hm_record_verify(&record, cache), HM_ERR_PEER_DENIED);
            assert_status(hm_record_verify(&record, NULL), HM_ERR_PEER_DENIED);
        }
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(decoded > 1000);
    hm_proof_cache_destroy(cache);
    free(proofs);
}

static void a_proof_does_not_fit_another_record(void **state)
{
    (void)state;
    struct hm_record records[4];
    void *proofs;
    make_records(records, 4);
    assert_ok(hm_records_sign(identity, records, 4, &proofs));
    struct hm_record mixed = records[0];
    mixed.proof = records[1].proof;
    mixed.proof_bytes = records[1].proof_bytes;
    assert_status(hm_record_verify(&mixed, NULL), HM_ERR_PEER_DENIED);
    mixed = records[0];
    mixed.value = "some other";
    assert_status(hm_record_verify(&mixed, NULL), HM_ERR_PEER_DENIED);
    mixed = records[0];
    mixed.proof_bytes = 0;
    assert_status(hm_record_verify(&mixed, NULL), HM_ERR_PEER_DENIED);
    free(proofs);
}

static void nobody_signs_for_another_owner(void **state)
{
    (void)state;
    struct hm_identity *other;
    struct hm_record record;
    void *proofs;
    assert_ok(hm_identity_create(NULL, &other));
    make_records(&record, 1);
    assert_ok(hm_records_sign(other, &record, 1, &proofs));
    assert_ok(hm_record_verify(&record, NULL));
    record.owner = *hm_identity_node(identity);
    assert_status(hm_record_verify(&record, NULL), HM_ERR_PEER_DENIED);
    /* Nor with his own signature under the other's key. */
    uint8_t forged[HM_RECORD_PROOF_BYTES_MAX];
    memcpy(forged, record.proof, record.proof_bytes);
    memcpy(forged, hm_identity_public_key(identity), HM_PUBLIC_KEY_BYTES);
    record.proof = forged;
    assert_status(hm_record_verify(&record, NULL), HM_ERR_PEER_DENIED);
    free(proofs);
    hm_identity_destroy(other);
}

static void an_inner_node_cannot_pose_as_a_leaf(void **state)
{
    (void)state;
    struct hm_record records[4];
    void *proofs;
    make_records(records, 4);
    assert_ok(hm_records_sign(identity, records, 4, &proofs));
    /* Dropping the first sibling would prove the parent, were leaves and nodes hashed alike. */
    uint8_t shorter[HM_RECORD_PROOF_BYTES_MAX];
    size_t head = HM_PUBLIC_KEY_BYTES + HM_SIGNATURE_BYTES;
    memcpy(shorter, records[0].proof, records[0].proof_bytes);
    assert_int_equal(shorter[head + 4], 2);
    shorter[head + 4] = 1;
    memmove(shorter + head + 5, shorter + head + 5 + 32, 32);
    struct hm_record cut = records[0];
    cut.proof = shorter;
    cut.proof_bytes = (uint16_t)(records[0].proof_bytes - 32);
    assert_status(hm_record_verify(&cut, NULL), HM_ERR_PEER_DENIED);
    free(proofs);
}

static void what_is_too_long_is_not_signed(void **state)
{
    (void)state;
    static char large[HM_RECORD_VALUE_BYTES_MAX + 1];
    struct hm_record record;
    void *proofs = NULL;
    make_records(&record, 1);
    record.value = large;
    record.value_bytes = sizeof large;
    assert_status(hm_records_sign(identity, &record, 1, &proofs), HM_ERR_TOO_BIG);
    make_records(&record, 1);
    record.subkey = large;
    record.subkey_bytes = HM_RECORD_SUBKEY_BYTES_MAX + 1;
    assert_status(hm_records_sign(identity, &record, 1, &proofs), HM_ERR_TOO_BIG);
    assert_status(hm_records_sign(identity, &record, 0, &proofs), HM_ERR_INVALID);
    assert_null(proofs);
}

static void the_cache_is_bounded_and_forgets_the_least_recently_used(void **state)
{
    (void)state;
    enum { ANNOUNCEMENTS = 20 };
    struct hm_record record[ANNOUNCEMENTS];
    void *proofs[ANNOUNCEMENTS];
    struct hm_proof_cache *cache;
    assert_ok(hm_proof_cache_create(4, &cache));
    for (unsigned i = 0; i < ANNOUNCEMENTS; i++) {
        struct hm_record records[ANNOUNCEMENTS];
        make_records(records, ANNOUNCEMENTS);
        record[i] = records[i];
        assert_ok(hm_records_sign(identity, &record[i], 1, &proofs[i]));
    }
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < ANNOUNCEMENTS; i++) {
            assert_ok(hm_record_verify(&record[i], cache));
            assert_ok(hm_record_verify(&record[0], cache));
        }
    for (unsigned i = 0; i < ANNOUNCEMENTS; i++) free(proofs[i]);
    hm_proof_cache_destroy(cache);
}

static void a_record_survives_the_wire(void **state)
{
    (void)state;
    struct hm_record record, back;
    void *proofs;
    uint8_t bytes[HM_RECORD_BYTES_MAX];
    struct hm_writer writer;
    struct hm_reader reader;
    make_records(&record, 1);
    static char subkey_max[HM_RECORD_SUBKEY_BYTES_MAX], value_max[HM_RECORD_VALUE_BYTES_MAX];
    memset(subkey_max, 's', sizeof subkey_max);
    memset(value_max, 'v', sizeof value_max);
    record.subkey = subkey_max;
    record.subkey_bytes = sizeof subkey_max;
    record.value = value_max;
    record.value_bytes = sizeof value_max;
    assert_ok(hm_records_sign(identity, &record, 1, &proofs));
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_record_encode(&record, &writer);
    assert_true(hm_writer_ok(&writer));
    size_t count = hm_writer_count(&writer);
    assert_int_equal(count, hm_record_encoded_bytes(&record));
    hm_reader_init(&reader, bytes, count);
    hm_record_decode(&reader, &back);
    assert_true(hm_reader_ended(&reader));
    assert_ok(hm_record_verify(&back, NULL));
    assert_int_equal(back.sequence, record.sequence);
    assert_int_equal(back.expires_wall_ns, record.expires_wall_ns);
    assert_int_equal(back.schema, record.schema);
    assert_memory_equal(back.key.byte, record.key.byte, sizeof back.key.byte);
    assert_memory_equal(back.value, record.value, sizeof value_max);
    for (size_t cut = 0; cut < count; cut++) {
        hm_reader_init(&reader, bytes, cut);
        hm_record_decode(&reader, &back);
        assert_false(hm_reader_ok(&reader));
    }
    free(proofs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_record_of_an_announcement_can_be_verified_alone),
        cmocka_unit_test(a_change_anywhere_is_denied),
        cmocka_unit_test(a_proof_does_not_fit_another_record),
        cmocka_unit_test(nobody_signs_for_another_owner),
        cmocka_unit_test(an_inner_node_cannot_pose_as_a_leaf),
        cmocka_unit_test(what_is_too_long_is_not_signed),
        cmocka_unit_test(the_cache_is_bounded_and_forgets_the_least_recently_used),
        cmocka_unit_test(a_record_survives_the_wire),
    };
    return cmocka_run_group_tests(tests, open_identity, close_identity);
}
