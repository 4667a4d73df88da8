/* No bytes crash the decoders of src/moe, and what they accept lies in bounds.  Seeded: a failure
 * replays. */
#include "test.h"

#include "base/rng.h"
#include "moe/call.h"

#include <stdio.h>

enum { ROUNDS = 60000, BYTES_MAX = 512 };

/* Half the inputs are noise, half a good message with a few bytes changed: noise alone never passes
 * the first check. */
static void mutate(struct hm_rng *rng, uint8_t *bytes, size_t count)
{
    unsigned changes = (unsigned)hm_rng_below(rng, 4);
    for (unsigned i = 0; i < changes && count > 0; i++) {
        size_t at = hm_rng_below(rng, count);
        switch (hm_rng_below(rng, 3)) {
        case 0: bytes[at] = (uint8_t)hm_rng_next(rng); break;
        case 1: bytes[at] ^= (uint8_t)(1u << hm_rng_below(rng, 8)); break;
        default: bytes[at] = hm_rng_below(rng, 2) ? 0xff : 0; break;
        }
    }
}

static size_t good_head(struct hm_rng *rng, uint8_t *bytes)
{
    struct hm_call_head head = {.pass = (uint8_t)hm_rng_below(rng, 2),
                                .schema = hm_schema_f32(16),
                                .row_count = 10,
                                .part_count = 2,
                                .table_bytes = 128,
                                .incarnation = 1,
                                .sequence = 1};
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, BYTES_MAX);
    hm_call_head_encode(&head, &writer);
    return hm_writer_count(&writer);
}

static void no_bytes_crash_the_head_decoder(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 0);
    unsigned accepted = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t bytes[BYTES_MAX];
        size_t count = hm_rng_below(&rng, 80);
        for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)hm_rng_next(&rng);
        if (round % 2) {
            count = good_head(&rng, bytes);
            mutate(&rng, bytes, count);
        }
        struct hm_call_head head;
        uint64_t payload;
        if (hm_call_head_decode(bytes, count, &head) != HM_OK) continue;
        accepted++;
        assert_true(head.part_count >= 1 && head.part_count <= HM_CALL_PARTS_MAX);
        assert_true(head.row_count >= 1 && head.row_count <= HM_CALL_ROWS_MAX);
        assert_ok(hm_call_payload_bytes(&head, &payload));
        assert_true(payload <= (1u << 30));
    }
    assert_true(accepted > 1000);
}

static void no_bytes_crash_the_table_decoder_and_what_passes_is_in_bounds(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 2, 0);
    unsigned accepted = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct hm_call_head head = {.pass = (uint8_t)hm_rng_below(&rng, 2),
                                    .schema = hm_schema_f32(4),
                                    .row_count = 8,
                                    .part_count = 2,
                                    .sequence = 1};
        uint32_t index[8];
        float scale[8];
        for (unsigned i = 0; i < 8; i++) {
            index[i] = (uint32_t)hm_rng_below(&rng, 8);
            scale[i] = hm_rng_normal(&rng);
        }
        struct hm_call_part parts[2] = {{.row_count = 8},
                                        {.row_count = (uint32_t)hm_rng_below(&rng, 8) + 1}};
        assert_ok(hm_uid_parse("ffn.1.2", &parts[0].uid));
        assert_ok(hm_uid_parse("ffn.10.2", &parts[1].uid));
        parts[1].index = index;
        if (head.pass == HM_PASS_BACKWARD) parts[1].scale = scale;
        size_t bytes = hm_call_table_bytes(parts, 2);
        /* On the heap at its exact size, so that the sanitizer sees a read past the end. */
        uint8_t *table = aligned_alloc(64, bytes);
        assert_non_null(table);
        struct hm_writer writer;
        hm_writer_init(&writer, table, bytes);
        hm_call_table_encode(parts, 2, &writer);
        mutate(&rng, table, bytes);
        head.table_bytes = (uint32_t)bytes;
        struct hm_call_part back[2];
        if (hm_call_table_decode(&head, table, back) == HM_OK) {
            accepted++;
            for (unsigned p = 0; p < 2; p++) {
                assert_true(back[p].row_count >= 1 && back[p].row_count <= 8);
                for (unsigned i = 0; back[p].index && i < back[p].row_count; i++)
                    assert_true(back[p].index[i] < 8);
                if (!back[p].index) assert_true(back[p].first + back[p].row_count <= 8);
                assert_true(strlen(back[p].uid.text) < HM_UID_BYTES);
            }
        }
        free(table);
    }
    assert_true(accepted > 1000);
}

static void no_bytes_crash_the_answer_and_info_decoders(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 3, 0);
    unsigned accepted = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint8_t bytes[BYTES_MAX];
        struct hm_writer writer;
        hm_writer_init(&writer, bytes, sizeof bytes);
        struct hm_call_answer answer = {.part = 3,
                                        .row_count = 4,
                                        .retry_after_us = 5,
                                        .load_us = 6,
                                        .schema = hm_schema_f32(8),
                                        .timed = round % 4 == 1};
        struct hm_expert_info info = {
            .input = hm_schema_f32(4), .output = hm_schema_f32(4), .kind = "ffn"};
        if (round % 2)
            hm_call_answer_encode(&answer, &writer);
        else
            hm_expert_info_encode(&info, &writer);
        size_t count = hm_writer_count(&writer);
        mutate(&rng, bytes, count);
        count -= hm_rng_below(&rng, 2);
        if (hm_call_answer_decode(bytes, count, &answer) == HM_OK) {
            accepted++;
            assert_true(answer.part < HM_CALL_PARTS_MAX && answer.row_count <= HM_CALL_ROWS_MAX);
        }
        if (hm_expert_info_decode(bytes, count, &info) == HM_OK) {
            accepted++;
            assert_true(strlen(info.kind) < HM_EXPERT_KIND_BYTES);
        }
        struct hm_uid uid;
        if (hm_expert_query_decode(bytes, count, &uid) == HM_OK)
            assert_true(strlen(uid.text) < HM_UID_BYTES);
    }
    assert_true(accepted > 1000);
}

static void what_parses_as_a_uid_is_canonical(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 4, 0);
    static const char alphabet[] = "ffn..0123456789[:] -";
    unsigned accepted = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        char text[24] = "f.1";
        size_t length = 3 + hm_rng_below(&rng, sizeof text - 4);
        for (size_t i = round % 2 ? 3 : 0; i < length; i++)
            text[i] = alphabet[hm_rng_below(&rng, sizeof alphabet - 1)];
        text[length] = '\0';
        struct hm_uid uid, again, *list = NULL;
        unsigned count;
        if (hm_uid_parse(text, &uid) == HM_OK) {
            accepted++;
            char name[HM_UID_BYTES];
            snprintf(name, sizeof name, "%.*s", uid.name_bytes, uid.text);
            assert_ok(hm_uid_make(name, uid.coordinate, uid.dim_count, &again));
            assert_string_equal(again.text, text);
        }
        if (hm_uid_expand(text, 100, &list, &count) == HM_OK) {
            for (unsigned i = 0; i < count; i++) assert_ok(hm_uid_parse(list[i].text, &again));
            free(list);
        }
    }
    assert_true(accepted > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_bytes_crash_the_head_decoder),
        cmocka_unit_test(no_bytes_crash_the_table_decoder_and_what_passes_is_in_bounds),
        cmocka_unit_test(no_bytes_crash_the_answer_and_info_decoders),
        cmocka_unit_test(what_parses_as_a_uid_is_canonical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
