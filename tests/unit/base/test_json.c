/* tests/unit/base/test_json.c - the writer's text, character by character. */
#include "test.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>

static void an_object_of_every_kind_is_one_line(void **state)
{
    (void)state;
    struct hm_json json;
    hm_json_init(&json);
    assert_string_equal(hm_json_text(&json), "");
    hm_json_object_begin(&json, NULL);
    hm_json_string(&json, "name", "ffn.0.1");
    hm_json_int(&json, "low", INT64_MIN);
    hm_json_uint(&json, "high", UINT64_MAX);
    hm_json_bool(&json, "up", true);
    hm_json_array_begin(&json, "list");
    hm_json_int(&json, NULL, 1);
    hm_json_object_begin(&json, NULL);
    hm_json_object_end(&json);
    hm_json_array_begin(&json, NULL);
    hm_json_array_end(&json);
    hm_json_string(&json, NULL, NULL);
    hm_json_array_end(&json);
    hm_json_bool(&json, "down", false);
    hm_json_object_end(&json);
    assert_string_equal(hm_json_text(&json), "{\"name\":\"ffn.0.1\",\"low\":-9223372036854775808,"
                                             "\"high\":18446744073709551615,\"up\":true,"
                                             "\"list\":[1,{},[],null],\"down\":false}");
    hm_json_fini(&json);
}

static void assert_quoted(const char *value, const char *wanted)
{
    struct hm_json json;
    hm_json_init(&json);
    hm_json_string(&json, NULL, value);
    assert_string_equal(hm_json_text(&json), wanted);
    hm_json_fini(&json);
}

static void strings_are_escaped(void **state)
{
    (void)state;
    assert_quoted("a\"b\\c", "\"a\\\"b\\\\c\"");
    assert_quoted("a\nb\tc\x01\x1f\x7f", "\"a\\nb\\tc\\u0001\\u001f\\u007f\"");
    assert_quoted("\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\x9d",
                  "\"\xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\x9d\"");
}

static void what_is_no_utf8_becomes_the_replacement_character(void **state)
{
    (void)state;
#define FFFD "\xef\xbf\xbd"
    assert_quoted("a\xff"
                  "b",
                  "\"a" FFFD "b\"");
    assert_quoted("\xc0\xaf", "\"" FFFD FFFD "\"");                   /* overlong slash */
    assert_quoted("\xe0\x80\xaf", "\"" FFFD FFFD FFFD "\"");          /* overlong, three bytes */
    assert_quoted("\xed\xa0\x80", "\"" FFFD FFFD FFFD "\"");          /* half a surrogate pair */
    assert_quoted("\xf4\x90\x80\x80", "\"" FFFD FFFD FFFD FFFD "\""); /* above U+10FFFF */
    assert_quoted("\xf0\x9f\x90", "\"" FFFD FFFD FFFD "\"");          /* cut by the end */
    assert_quoted("\xe2\x82", "\"" FFFD FFFD "\"");
}

static void numbers_read_back_as_themselves(void **state)
{
    (void)state;
    static const double values[] = {0.1, 1.0 / 3.0, 1e300, -2.5e-8, 0.0, 123456789.0, 5e-324};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct hm_json json;
        hm_json_init(&json);
        hm_json_double(&json, NULL, values[i]);
        assert_true(strtod(hm_json_text(&json), NULL) == values[i]);
        hm_json_fini(&json);
    }
    struct hm_json json;
    hm_json_init(&json);
    hm_json_array_begin(&json, NULL);
    hm_json_double(&json, NULL, 0.1);
    hm_json_double(&json, NULL, NAN);
    hm_json_double(&json, NULL, -INFINITY);
    hm_json_array_end(&json);
    assert_string_equal(hm_json_text(&json), "[0.1,null,null]");
    hm_json_fini(&json);
}

static void the_text_grows_as_long_as_it_must(void **state)
{
    (void)state;
    struct hm_json json;
    hm_json_init(&json);
    hm_json_array_begin(&json, NULL);
    for (int i = 0; i < 10000; i++) hm_json_int(&json, NULL, 12345678);
    hm_json_array_end(&json);
    assert_int_equal(strlen(hm_json_text(&json)), 10000 * 9 + 1);
    hm_json_fini(&json);
}

static void a_failed_writer_gives_no_text(void **state)
{
    (void)state;
    struct hm_json json;
    hm_json_init(&json);
    hm_json_object_begin(&json, NULL);
    json.failed = true; /* as an allocation that failed sets it */
    hm_json_int(&json, "a", 1);
    hm_json_object_end(&json);
    assert_null(hm_json_text(&json));
    hm_json_fini(&json);
}

static bool valid(const char *text)
{
    return hm_json_valid(text, strlen(text));
}

static void what_a_writer_writes_is_valid_and_can_be_put_into_another(void **state)
{
    (void)state;
    struct hm_json inner, outer;
    hm_json_init(&inner);
    hm_json_object_begin(&inner, NULL);
    hm_json_double(&inner, "a", -1.5e-300);
    hm_json_array_begin(&inner, "b\n\"\x01");
    hm_json_uint(&inner, NULL, 0);
    hm_json_bool(&inner, NULL, false);
    hm_json_string(&inner, NULL, NULL);
    hm_json_array_end(&inner);
    hm_json_object_end(&inner);
    assert_true(valid(hm_json_text(&inner)));
    hm_json_init(&outer);
    hm_json_object_begin(&outer, NULL);
    hm_json_raw(&outer, "inner", hm_json_text(&inner));
    hm_json_bool(&outer, "more", true);
    hm_json_object_end(&outer);
    assert_true(valid(hm_json_text(&outer)));
    hm_json_fini(&inner);
    hm_json_fini(&outer);
}

static void what_is_no_single_value_is_not_valid(void **state)
{
    (void)state;
    static const char *const good[] = {"0", "-0.5E+7", "\"\\u00fF\"", "[[],{}]", "{\"\":[1,2]}"};
    static const char *const bad[] = {
        "",       "{",     "}",          "{{}}",      "{\"a\"}", "{\"a\":}",   "{\"a\":1,}",
        "[1,]",   "[,1]",  "[1 ,2]",     "1 ",        "01",      "-",          "1.",
        "1e",     "+1",    "nul",        "truefalse", "\"\n\"",  "\"\\x\"",    "\"\\u12g4\"",
        "\"open", "{1:2}", "\"a\"\"b\"", "[1}",       "NaN",     "{\"a\":1}\n"};
    for (unsigned i = 0; i < sizeof good / sizeof *good; i++) assert_true(valid(good[i]));
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(valid(bad[i]));
    assert_false(hm_json_valid("1\0", 2));
    char deep[64];
    memset(deep, '[', 32);
    memset(deep + 32, ']', 32);
    assert_false(hm_json_valid(deep, 64)); /* deeper than anybody writes */
    assert_true(hm_json_valid(deep + 24, 16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_object_of_every_kind_is_one_line),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(what_is_no_utf8_becomes_the_replacement_character),
        cmocka_unit_test(numbers_read_back_as_themselves),
        cmocka_unit_test(the_text_grows_as_long_as_it_must),
        cmocka_unit_test(a_failed_writer_gives_no_text),
        cmocka_unit_test(what_a_writer_writes_is_valid_and_can_be_put_into_another),
        cmocka_unit_test(what_is_no_single_value_is_not_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
