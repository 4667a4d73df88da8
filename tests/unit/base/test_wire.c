/* tests/unit/base/test_wire.c - what was written reads back, and nothing else does any harm. */
#include "test.h"

#include "base/rng.h"
#include "base/wire.h"

#include <math.h>

static void numbers_are_little_endian(void **state)
{
    (void)state;
    static const uint8_t wanted[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f, 0x0e, 0x0d,
                                     0x0c, 0x0b, 0x0a, 0x09, 0x08, 0x00, 0x00, 0x80, 0x3f};
    uint8_t bytes[sizeof wanted];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_write_u8(&writer, 0x01);
    hm_write_u16(&writer, 0x0203);
    hm_write_u32(&writer, 0x04050607);
    hm_write_u64(&writer, UINT64_C(0x08090a0b0c0d0e0f));
    hm_write_f32(&writer, 1.0f);
    assert_true(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), sizeof wanted);
    assert_memory_equal(bytes, wanted, sizeof wanted);

    struct hm_reader reader;
    hm_reader_init(&reader, bytes, sizeof bytes);
    assert_int_equal(hm_read_u8(&reader), 0x01);
    assert_int_equal(hm_read_u16(&reader), 0x0203);
    assert_int_equal(hm_read_u32(&reader), 0x04050607);
    assert_true(hm_read_u64(&reader) == UINT64_C(0x08090a0b0c0d0e0f));
    assert_false(hm_reader_ended(&reader));
    assert_true(hm_read_f32(&reader) == 1.0f);
    assert_true(hm_reader_ended(&reader));
}

static void a_read_past_the_end_fails_for_good_and_yields_nothing(void **state)
{
    (void)state;
    const uint8_t bytes[] = {1, 2, 3, 4, 5};
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, sizeof bytes);
    assert_int_equal(hm_read_u8(&reader), 1);
    assert_true(hm_read_u64(&reader) == 0);
    assert_false(hm_reader_ok(&reader));
    assert_int_equal(hm_read_u8(&reader), 0);
    assert_null(hm_read_bytes(&reader, 1));
    assert_null(hm_read_bytes(&reader, SIZE_MAX));
    assert_int_equal(hm_reader_left(&reader), 0);
    assert_false(hm_reader_ended(&reader));
}

static void a_view_points_into_the_input(void **state)
{
    (void)state;
    const uint8_t bytes[] = {1, 2, 3};
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, sizeof bytes);
    (void)hm_read_u8(&reader);
    assert_ptr_equal(hm_read_bytes(&reader, 2), bytes + 1);
    assert_true(hm_reader_ended(&reader));
    assert_non_null(hm_read_bytes(&reader, 0)); /* no bytes are there to be read at the end, too */
    assert_true(hm_reader_ok(&reader));
}

static void no_input_at_all_is_an_end(void **state)
{
    (void)state;
    struct hm_reader reader;
    hm_reader_init(&reader, NULL, 0);
    assert_true(hm_reader_ended(&reader));
    assert_int_equal(hm_read_u8(&reader), 0);
    assert_false(hm_reader_ok(&reader));
}

static void a_string_reads_back_with_its_terminator(void **state)
{
    (void)state;
    uint8_t bytes[32];
    char text[6];
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, sizeof bytes);
    hm_write_string(&writer, "ffn.3");
    hm_write_string(&writer, "");
    assert_int_equal(hm_writer_count(&writer), 2 + 5 + 2);
    struct hm_reader reader;
    hm_reader_init(&reader, bytes, hm_writer_count(&writer));
    hm_read_string(&reader, text, sizeof text);
    assert_string_equal(text, "ffn.3");
    hm_read_string(&reader, text, sizeof text);
    assert_string_equal(text, "");
    assert_true(hm_reader_ended(&reader));
}

static void strings_that_lie_or_do_not_fit_fail_and_leave_no_text(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[8];
        size_t count;
    } cases[] = {
        {{6, 0, 'a', 'b', 'c', 'd', 'e', 'f'}, 8}, /* does not fit */
        {{5, 0, 'a', 'b', 'c', 'd'}, 6},           /* longer than the input */
        {{3, 0, 'a', 0, 'c'}, 5},                  /* a NUL in it */
        {{1}, 1},                                  /* half a length */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hm_reader reader;
        char text[6] = "kept?";
        hm_reader_init(&reader, cases[i].bytes, cases[i].count);
        hm_read_string(&reader, text, sizeof text);
        assert_false(hm_reader_ok(&reader));
        assert_string_equal(text, "");
        assert_int_equal(hm_reader_left(&reader), 0);
    }
}

static void a_full_writer_writes_no_half_values(void **state)
{
    (void)state;
    uint8_t bytes[8];
    memset(bytes, 0xee, sizeof bytes);
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, 6);
    hm_write_u32(&writer, 1);
    hm_write_u32(&writer, 2);
    hm_write_u8(&writer, 3); /* would fit, but comes after a failure */
    assert_false(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), 4);
    assert_int_equal(bytes[4], 0xee);
    assert_int_equal(bytes[6], 0xee);

    hm_writer_init(&writer, bytes, 6);
    hm_write_string(&writer, "12345"); /* seven bytes */
    assert_false(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), 0);

    hm_writer_init(&writer, NULL, 0);
    hm_write_bytes(&writer, NULL, 0);
    assert_true(hm_writer_ok(&writer));
    hm_write_u8(&writer, 1);
    assert_false(hm_writer_ok(&writer));
}

static void a_string_over_64_kib_is_refused(void **state)
{
    (void)state;
    char *text = malloc(65537);
    uint8_t *bytes = malloc(70000);
    assert_true(text && bytes);
    memset(text, 'z', 65536);
    text[65536] = '\0';
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, 70000);
    hm_write_string(&writer, text + 1); /* 65535 is the most that a u16 counts */
    assert_true(hm_writer_ok(&writer));
    assert_int_equal(hm_writer_count(&writer), 65537);
    hm_writer_init(&writer, bytes, 70000);
    hm_write_string(&writer, text);
    assert_false(hm_writer_ok(&writer));
    free(bytes);
    free(text);
}

/* ASan watches the bounds: the input is a heap block of its exact size. */
static void random_bytes_are_read_without_harm(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 11, 0);
    for (int round = 0; round < 5000; round++) {
        size_t count = hm_rng_below(&rng, 64);
        uint8_t *bytes = malloc(count ? count : 1);
        for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)hm_rng_below(&rng, 4);
        struct hm_reader reader;
        hm_reader_init(&reader, bytes, count);
        for (int step = 0; step < 40; step++) {
            char text[16];
            size_t left = hm_reader_left(&reader);
            switch (hm_rng_below(&rng, 5)) {
            case 0: (void)hm_read_u8(&reader); break;
            case 1: (void)hm_read_u32(&reader); break;
            case 2: (void)hm_read_f32(&reader); break;
            case 3: (void)hm_read_bytes(&reader, hm_rng_below(&rng, 8)); break;
            default:
                hm_read_string(&reader, text, 1 + hm_rng_below(&rng, sizeof text));
                assert_true(strlen(text) < sizeof text);
            }
            assert_true(hm_reader_left(&reader) <= left);
            if (!hm_reader_ok(&reader)) assert_int_equal(hm_reader_left(&reader), 0);
        }
        free(bytes);
    }
}

static void floats_keep_every_bit(void **state)
{
    (void)state;
    static const float values[] = {0.0f, -0.0f, 1e-45f, 3.4e38f, INFINITY, -1.5f};
    uint8_t bytes[4];
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct hm_writer writer;
        struct hm_reader reader;
        hm_writer_init(&writer, bytes, sizeof bytes);
        hm_write_f32(&writer, values[i]);
        hm_reader_init(&reader, bytes, sizeof bytes);
        float back = hm_read_f32(&reader);
        assert_memory_equal(&back, &values[i], sizeof back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_little_endian),
        cmocka_unit_test(a_read_past_the_end_fails_for_good_and_yields_nothing),
        cmocka_unit_test(a_view_points_into_the_input),
        cmocka_unit_test(no_input_at_all_is_an_end),
        cmocka_unit_test(a_string_reads_back_with_its_terminator),
        cmocka_unit_test(strings_that_lie_or_do_not_fit_fail_and_leave_no_text),
        cmocka_unit_test(a_full_writer_writes_no_half_values),
        cmocka_unit_test(a_string_over_64_kib_is_refused),
        cmocka_unit_test(random_bytes_are_read_without_harm),
        cmocka_unit_test(floats_keep_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
