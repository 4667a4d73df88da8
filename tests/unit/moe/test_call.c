/* What is encoded decodes to the same; what encode would not write does not decode. */
#include "test.h"

#include "moe/call.h"

#include <math.h>

static struct hm_call_head sample_head(void)
{
    return (struct hm_call_head){.pass = HM_PASS_BACKWARD,
                                 .priority = 1,
                                 .schema = hm_schema_f32(16),
                                 .row_count = 10,
                                 .part_count = 3,
                                 .table_bytes = 128,
                                 .incarnation = 0x1122334455667788u,
                                 .sequence = 9};
}

static size_t encode_head(const struct hm_call_head *head, uint8_t *bytes, size_t bytes_max)
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, bytes_max);
    hm_call_head_encode(head, &writer);
    assert_true(hm_writer_ok(&writer));
    return hm_writer_count(&writer);
}

static void a_head_comes_back_as_it_went(void **state)
{
    (void)state;
    struct hm_call_head head = sample_head(), back;
    uint8_t bytes[256];
    size_t count = encode_head(&head, bytes, sizeof bytes);
    assert_ok(hm_call_head_decode(bytes, count, &back));
    assert_int_equal(back.pass, head.pass);
    assert_int_equal(back.priority, head.priority);
    assert_true(hm_schema_equal(&back.schema, &head.schema));
    assert_int_equal(back.row_count, 10);
    assert_int_equal(back.part_count, 3);
    assert_int_equal(back.table_bytes, 128);
    assert_true(back.incarnation == head.incarnation && back.sequence == head.sequence);
    assert_int_equal(back.flags, 0);
    uint64_t payload_bytes;
    assert_ok(hm_call_payload_bytes(&back, &payload_bytes));
    assert_int_equal(payload_bytes, 128 + 2 * 10 * 16 * 4);
    back.pass = HM_PASS_FORWARD;
    assert_ok(hm_call_payload_bytes(&back, &payload_bytes));
    assert_int_equal(payload_bytes, 128 + 10 * 16 * 4);
}

static void flags_are_there_only_if_set(void **state)
{
    (void)state;
    struct hm_call_head head = sample_head(), back;
    uint8_t bytes[256];
    size_t plain = encode_head(&head, bytes, sizeof bytes);
    head.flags = HM_CALL_TIMED;
    size_t count = encode_head(&head, bytes, sizeof bytes);
    assert_int_equal(count, plain + 1);
    assert_ok(hm_call_head_decode(bytes, count, &back));
    assert_int_equal(back.flags, HM_CALL_TIMED);
    bytes[plain] = HM_CALL_TIMED | 0x80; /* what nobody has a meaning for */
    assert_status(hm_call_head_decode(bytes, count, &back), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_call_head_decode(bytes, count + 1, &back), HM_ERR_PEER_PROTOCOL);
}

static void every_shortened_or_lengthened_head_is_refused(void **state)
{
    (void)state;
    struct hm_call_head head = sample_head(), back;
    uint8_t bytes[256] = {0};
    size_t count = encode_head(&head, bytes, sizeof bytes);
    for (size_t i = 0; i < count; i++)
        assert_status(hm_call_head_decode(bytes, i, &back), HM_ERR_PEER_PROTOCOL);
    assert_status(hm_call_head_decode(bytes, count + 1, &back), HM_ERR_PEER_PROTOCOL);
}

static void a_head_outside_its_bounds_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[256];
    struct hm_call_head back;
#define REFUSED(change, status)                                                                    \
    do {                                                                                           \
        struct hm_call_head head = sample_head();                                                  \
        change;                                                                                    \
        size_t count = encode_head(&head, bytes, sizeof bytes);                                    \
        assert_status(hm_call_head_decode(bytes, count, &back), status);                           \
    } while (0)
    REFUSED(head.pass = 2, HM_ERR_PEER_PROTOCOL);
    REFUSED(head.priority = HM_CALL_PRIORITIES, HM_ERR_PEER_PROTOCOL);
    REFUSED(head.codec = 77, HM_ERR_UNSUPPORTED);
    REFUSED(head.table_bytes = 100, HM_ERR_PEER_PROTOCOL);
    REFUSED(head.table_bytes = 0, HM_ERR_PEER_PROTOCOL);
    REFUSED(head.table_bytes = 1u << 31, HM_ERR_TOO_BIG);
    REFUSED(head.row_count = HM_CALL_ROWS_MAX + 1, HM_ERR_TOO_BIG);
    REFUSED(head.part_count = HM_CALL_PARTS_MAX + 1, HM_ERR_TOO_BIG);
    REFUSED((head.row_count = HM_CALL_ROWS_MAX, head.schema = hm_schema_f32(1u << 20)),
            HM_ERR_TOO_BIG);
    REFUSED((head.row_count = HM_CALL_ROWS_MAX, head.schema = hm_schema_f32(UINT32_MAX)),
            HM_ERR_TOO_BIG);
    REFUSED(head.schema.count = 0, HM_ERR_PEER_PROTOCOL);
#undef REFUSED
    struct hm_call_head head = sample_head();
    size_t count = encode_head(&head, bytes, sizeof bytes);
    bytes[0] = HM_CALL_VERSION + 1;
    assert_status(hm_call_head_decode(bytes, count, &back), HM_ERR_UNSUPPORTED);
    bytes[0] = HM_CALL_VERSION;
    memset(bytes + count - 8, 0, 8); /* a sequence of 0 */
    assert_status(hm_call_head_decode(bytes, count, &back), HM_ERR_PEER_PROTOCOL);
}

static void sample_parts(struct hm_call_part parts[3])
{
    static const uint32_t index[3] = {9, 0, 4};
    static const float scale[3] = {0.5f, -1.f, 2.f};
    memset(parts, 0, 3 * sizeof *parts);
    assert_ok(hm_uid_parse("ffn.1.2", &parts[0].uid));
    parts[0].row_count = 3;
    parts[0].index = index;
    parts[0].scale = scale;
    assert_ok(hm_uid_parse("ffn.11.2", &parts[1].uid));
    parts[1].row_count = 10;
    assert_ok(hm_uid_parse("f.0", &parts[2].uid));
    parts[2].row_count = 2;
    parts[2].first = 8;
    parts[2].scale = scale;
}

static void a_table_comes_back_as_views_into_it(void **state)
{
    (void)state;
    struct hm_call_part parts[3], back[3];
    sample_parts(parts);
    _Alignas(64) uint8_t table[256];
    size_t bytes = hm_call_table_bytes(parts, 3);
    assert_int_equal(bytes % HM_CALL_ALIGN, 0);
    struct hm_writer writer;
    hm_writer_init(&writer, table, bytes);
    hm_call_table_encode(parts, 3, &writer);
    assert_true(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), bytes);
    struct hm_call_head head = sample_head();
    head.table_bytes = (uint32_t)bytes;
    assert_ok(hm_call_table_decode(&head, table, back));
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(back[i].uid.text, parts[i].uid.text);
        assert_int_equal(back[i].row_count, parts[i].row_count);
        assert_int_equal(back[i].first, parts[i].first);
        assert_int_equal(back[i].index != NULL, parts[i].index != NULL);
        assert_int_equal(back[i].scale != NULL, parts[i].scale != NULL);
        if (parts[i].index)
            assert_memory_equal(back[i].index, parts[i].index, 4 * parts[i].row_count);
        if (parts[i].scale)
            assert_memory_equal(back[i].scale, parts[i].scale, 4 * parts[i].row_count);
    }
    assert_true((const uint8_t *)back[0].index > table &&
                (const uint8_t *)back[0].index < table + bytes);
}

/* Encodes the sample with one change to its head or parts and claims a refusal. */
static void refuse_table(void (*change)(struct hm_call_head *head, struct hm_call_part *parts,
                                        uint8_t *table, size_t bytes))
{
    struct hm_call_part parts[3], back[3];
    sample_parts(parts);
    _Alignas(64) uint8_t table[512] = {0};
    struct hm_call_head head = sample_head();
    change(&head, parts, NULL, 0);
    size_t bytes = hm_call_table_bytes(parts, 3);
    struct hm_writer writer;
    hm_writer_init(&writer, table, bytes);
    hm_call_table_encode(parts, 3, &writer);
    assert_true(hm_writer_ok(&writer));
    head.table_bytes = (uint32_t)bytes;
    change(&head, parts, table, bytes);
    assert_status(hm_call_table_decode(&head, table, back), HM_ERR_PEER_PROTOCOL);
}

static void index_outside(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                          size_t bytes)
{
    (void)head, (void)table, (void)bytes;
    static const uint32_t index[3] = {9, 10, 4};
    parts[0].index = index;
}
static void contiguous_outside(struct hm_call_head *head, struct hm_call_part *parts,
                               uint8_t *table, size_t bytes)
{
    (void)head, (void)table, (void)bytes;
    parts[2].first = 9;
}
static void contiguous_wraps(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                             size_t bytes)
{
    (void)head, (void)table, (void)bytes;
    parts[2].first = UINT32_MAX;
}
static void more_rows_than_there_are(struct hm_call_head *head, struct hm_call_part *parts,
                                     uint8_t *table, size_t bytes)
{
    (void)table, (void)bytes, (void)parts;
    head->row_count = 9;
}
static void no_rows(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                    size_t bytes)
{
    (void)head, (void)table, (void)bytes;
    parts[1].row_count = 0;
}
static void scaled_forward(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                           size_t bytes)
{
    (void)table, (void)bytes, (void)parts;
    head->pass = HM_PASS_FORWARD;
}
static void nan_scale(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                      size_t bytes)
{
    (void)head, (void)table, (void)bytes;
    static const float scale[3] = {1, NAN, 1};
    parts[0].scale = scale;
}
static void one_part_less(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                          size_t bytes)
{
    (void)parts, (void)table, (void)bytes;
    head->part_count = 2;
}
static void one_part_more(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                          size_t bytes)
{
    (void)parts, (void)table, (void)bytes;
    head->part_count = 4; /* reads zero padding as a part */
}
static void dirty_padding(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                          size_t bytes)
{
    (void)parts, (void)head;
    if (table) table[bytes - 1] = 1;
}
static void unknown_flag(struct hm_call_head *head, struct hm_call_part *parts, uint8_t *table,
                         size_t bytes)
{
    (void)parts, (void)head, (void)bytes;
    if (table) table[2 + 7] |= 0x80;
}

static void a_table_outside_its_bounds_is_refused(void **state)
{
    (void)state;
    refuse_table(index_outside);
    refuse_table(contiguous_outside);
    refuse_table(contiguous_wraps);
    refuse_table(more_rows_than_there_are);
    refuse_table(no_rows);
    refuse_table(scaled_forward);
    refuse_table(nan_scale);
    refuse_table(one_part_less);
    refuse_table(dirty_padding);
    refuse_table(unknown_flag);
}

static void a_table_with_fewer_parts_than_promised_is_refused(void **state)
{
    (void)state;
    struct hm_call_part parts[3], back[4];
    sample_parts(parts);
    struct hm_call_head head = sample_head();
    one_part_more(&head, parts, NULL, 0);
    _Alignas(64) uint8_t table[512] = {0};
    size_t bytes = hm_call_table_bytes(parts, 3);
    struct hm_writer writer;
    hm_writer_init(&writer, table, bytes);
    hm_call_table_encode(parts, 3, &writer);
    head.table_bytes = (uint32_t)bytes;
    assert_status(hm_call_table_decode(&head, table, back), HM_ERR_PEER_PROTOCOL);
}

static void a_malformed_uid_empties_its_part_alone(void **state)
{
    (void)state;
    struct hm_call_part parts[3], back[3];
    sample_parts(parts);
    strcpy(parts[1].uid.text, "ffn.01.2");
    struct hm_call_head head = sample_head();
    _Alignas(64) uint8_t table[512] = {0};
    size_t bytes = hm_call_table_bytes(parts, 3);
    struct hm_writer writer;
    hm_writer_init(&writer, table, bytes);
    hm_call_table_encode(parts, 3, &writer);
    head.table_bytes = (uint32_t)bytes;
    assert_ok(hm_call_table_decode(&head, table, back));
    assert_string_equal(back[0].uid.text, "ffn.1.2");
    assert_string_equal(back[1].uid.text, "");
    assert_string_equal(back[2].uid.text, "f.0");
}

static void answers_and_infos_come_back_as_they_went(void **state)
{
    (void)state;
    uint8_t bytes[512];
    struct hm_writer writer;
    struct hm_call_answer answer = {.part = 7,
                                    .row_count = 12,
                                    .step = 1ull << 40,
                                    .retry_after_us = 99,
                                    .load_us = UINT32_MAX,
                                    .schema = hm_schema_f32(8)},
                          answer_back;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_call_answer_encode(&answer, &writer);
    size_t count = hm_writer_count(&writer);
    assert_ok(hm_call_answer_decode(bytes, count, &answer_back));
    assert_int_equal(answer_back.part, 7);
    assert_int_equal(answer_back.row_count, 12);
    assert_true(answer_back.step == 1ull << 40);
    assert_int_equal(answer_back.retry_after_us, 99);
    assert_int_equal(answer_back.load_us, UINT32_MAX);
    assert_true(hm_schema_equal(&answer_back.schema, &answer.schema));
    for (size_t i = 0; i < count; i++)
        assert_status(hm_call_answer_decode(bytes, i, &answer_back), HM_ERR_PEER_PROTOCOL);
    assert_false(answer_back.timed);

    answer.timed = true;
    for (unsigned i = 0; i < HM_SERVER_STAGES; i++) answer.times.stage[i] = (i + 1ull) << 40;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_call_answer_encode(&answer, &writer);
    assert_ok(hm_call_answer_decode(bytes, hm_writer_count(&writer), &answer_back));
    assert_true(answer_back.timed);
    assert_memory_equal(&answer_back.times, &answer.times, sizeof answer.times);
    for (size_t i = count + 1; i < hm_writer_count(&writer); i++)
        assert_status(hm_call_answer_decode(bytes, i, &answer_back), HM_ERR_PEER_PROTOCOL);

    struct hm_expert_info info = {.input = hm_schema_f32(4),
                                  .output = hm_schema_f32(4),
                                  .step = 5,
                                  .parameter_count = 1000,
                                  .batch_rows_max = 64,
                                  .kind = "ffn"},
                          info_back;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_expert_info_encode(&info, &writer);
    count = hm_writer_count(&writer);
    assert_ok(hm_expert_info_decode(bytes, count, &info_back));
    assert_string_equal(info_back.kind, "ffn");
    assert_true(info_back.step == 5 && info_back.parameter_count == 1000 &&
                info_back.batch_rows_max == 64);
    for (size_t i = 0; i < count; i++)
        assert_status(hm_expert_info_decode(bytes, i, &info_back), HM_ERR_PEER_PROTOCOL);

    struct hm_uid uid, uid_back;
    assert_ok(hm_uid_parse("ffn.1.2", &uid));
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_expert_query_encode(&uid, &writer);
    assert_ok(hm_expert_query_decode(bytes, hm_writer_count(&writer), &uid_back));
    assert_string_equal(uid_back.text, "ffn.1.2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_comes_back_as_it_went),
        cmocka_unit_test(flags_are_there_only_if_set),
        cmocka_unit_test(every_shortened_or_lengthened_head_is_refused),
        cmocka_unit_test(a_head_outside_its_bounds_is_refused),
        cmocka_unit_test(a_table_comes_back_as_views_into_it),
        cmocka_unit_test(a_table_outside_its_bounds_is_refused),
        cmocka_unit_test(a_table_with_fewer_parts_than_promised_is_refused),
        cmocka_unit_test(a_malformed_uid_empties_its_part_alone),
        cmocka_unit_test(answers_and_infos_come_back_as_they_went),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
