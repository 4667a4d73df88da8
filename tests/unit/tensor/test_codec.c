/* The codec table: none copies, what is reserved is refused by name. */
#include "test.h"

#include "tensor/codec.h"

static void codec_none_gives_back_every_bit(void **state)
{
    (void)state;
    const struct hm_codec *codec = hm_codec_find(0);
    assert_non_null(codec);
    assert_ptr_equal(codec, hm_codec_by_name("none"));
    const float source[3] = {1.5f, -0.0f, 3e38f};
    uint8_t bytes[16];
    struct hm_span target = {.base = bytes, .bytes = sizeof bytes};
    assert_int_equal(codec->bytes_max(3), 12);
    assert_ok(codec->encode(source, 3, &target));
    assert_int_equal(target.bytes, 12);
    float back[3];
    assert_ok(codec->decode(&target, 3, back));
    assert_memory_equal(source, back, sizeof back);
}

static void a_target_that_is_too_small_is_refused_untouched(void **state)
{
    (void)state;
    const float source[2] = {1, 2};
    uint8_t bytes[8] = {9, 9, 9, 9, 9, 9, 9, 9};
    struct hm_span target = {.base = bytes, .bytes = 7};
    assert_status(hm_codec_find(0)->encode(source, 2, &target), HM_ERR_TOO_BIG);
    assert_int_equal(target.bytes, 7);
    assert_int_equal(bytes[0], 9);
}

static void bytes_of_another_length_break_the_protocol(void **state)
{
    (void)state;
    uint8_t bytes[12] = {0};
    float back[3] = {7, 7, 7};
    for (size_t count = 0; count <= sizeof bytes; count++) {
        struct hm_span source = {.base = bytes, .bytes = count};
        enum hm_status wanted = count == 8 ? HM_OK : HM_ERR_PEER_PROTOCOL;
        assert_status(hm_codec_find(0)->decode(&source, 2, back), wanted);
    }
    struct hm_span wraps = {.base = bytes, .bytes = 4};
    assert_status(hm_codec_find(0)->decode(&wraps, ((uint64_t)1 << 62) + 1, back),
                  HM_ERR_PEER_PROTOCOL);
    assert_true(back[2] == 7);
}

static void reserved_and_unknown_codecs_are_refused_by_name(void **state)
{
    (void)state;
    const char *const reserved[] = {"f16", "bf16", "u8"};
    for (unsigned i = 0; i < 3; i++) {
        assert_null(hm_codec_find((uint8_t)(i + 1)));
        assert_null(hm_codec_by_name(reserved[i]));
        assert_non_null(strstr(hm_fail_line(), reserved[i]));
        assert_non_null(strstr(hm_fail_line(), "none"));
    }
    assert_null(hm_codec_find(255));
    assert_null(hm_codec_by_name("gzip"));
    assert_non_null(strstr(hm_fail_line(), "gzip"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codec_none_gives_back_every_bit),
        cmocka_unit_test(a_target_that_is_too_small_is_refused_untouched),
        cmocka_unit_test(bytes_of_another_length_break_the_protocol),
        cmocka_unit_test(reserved_and_unknown_codecs_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
