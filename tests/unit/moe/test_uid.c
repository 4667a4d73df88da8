/* Names of experts are what the Python hivemind takes, and patterns mean what they say. */
#include "test.h"

#include "base/assert.h"
#include "moe/uid.h"

static void a_uid_is_a_name_and_its_coordinates(void **state)
{
    (void)state;
    struct hm_uid uid;
    assert_ok(hm_uid_parse("ffn.3.11", &uid));
    assert_string_equal(uid.text, "ffn.3.11");
    assert_int_equal(uid.name_bytes, 3);
    assert_int_equal(uid.dim_count, 2);
    assert_int_equal(uid.coordinate[0], 3);
    assert_int_equal(uid.coordinate[1], 11);
    assert_ok(hm_uid_parse("a-b_c.0", &uid));
    assert_int_equal(uid.dim_count, 1);
    assert_ok(hm_uid_parse("x.1.2.3.1000000", &uid));
    assert_int_equal(uid.coordinate[3], 1000000);
}

static void a_malformed_uid_is_refused_with_a_line_and_nothing_is_written(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",        ".",      "ffn",           "ffn.",
        ".1",      "ffn..1", "ffn.1.",        "ffn.01",
        "ffn.-1",  "ffn.+1", "ffn. 1",        "ffn.1 ",
        "ffn.1a",  "ffn.x",  "ffn.1000001",   "ffn.99999999999999999999",
        "f n.1",   "f\nn.1", "ffn.1.2.3.4.5", "ffn.[0:1]",
        "ffn.1\n",
    };
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_uid uid = {.text = "untouched"};
        hm_fail_clear();
        if (hm_uid_parse(bad[i], &uid) != HM_ERR_INVALID) fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(hm_fail_line(), "looks like"));
        assert_string_equal(uid.text, "untouched");
    }
    char longest[HM_UID_BYTES + 1];
    struct hm_uid uid;
    memset(longest, 'a', sizeof longest);
    memcpy(longest + HM_UID_BYTES - 3, ".1", 3); /* 127 characters */
    assert_ok(hm_uid_parse(longest, &uid));
    memset(longest, 'a', sizeof longest);
    memcpy(longest + HM_UID_BYTES - 2, ".1", 3);
    assert_status(hm_uid_parse(longest, &uid), HM_ERR_INVALID);
}

static void prefixes_end_with_a_dot(void **state)
{
    (void)state;
    struct hm_uid uid;
    char prefix[HM_UID_BYTES];
    assert_ok(hm_uid_parse("ffn.3.11.7", &uid));
    assert_int_equal(hm_uid_prefix(&uid, 0, prefix), 4);
    assert_string_equal(prefix, "ffn.");
    assert_int_equal(hm_uid_prefix(&uid, 1, prefix), 6);
    assert_string_equal(prefix, "ffn.3.");
    assert_int_equal(hm_uid_prefix(&uid, 2, prefix), 9);
    assert_string_equal(prefix, "ffn.3.11.");
}

static void making_a_uid_is_the_inverse_of_parsing_it(void **state)
{
    (void)state;
    struct hm_uid uid, parsed;
    assert_ok(hm_uid_make("ffn", (const uint32_t[]){4, 0}, 2, &uid));
    assert_string_equal(uid.text, "ffn.4.0");
    assert_ok(hm_uid_parse(uid.text, &parsed));
    assert_memory_equal(&uid, &parsed, sizeof uid);
    assert_status(hm_uid_make("f.n", (const uint32_t[]){4}, 1, &uid), HM_ERR_INVALID);
    assert_status(hm_uid_make("", (const uint32_t[]){4}, 1, &uid), HM_ERR_INVALID);
    assert_status(hm_uid_make("ffn", (const uint32_t[]){4}, 0, &uid), HM_ERR_INVALID);
    assert_status(hm_uid_make("ffn", (const uint32_t[]){HM_COORDINATE_MAX + 1}, 1, &uid),
                  HM_ERR_INVALID);
    char name[HM_UID_BYTES];
    memset(name, 'n', sizeof name);
    name[sizeof name - 3] = '\0';
    assert_status(hm_uid_make(name, (const uint32_t[]){10}, 1, &uid), HM_ERR_INVALID);
}

static void a_pattern_means_every_uid_of_its_ranges_in_order(void **state)
{
    (void)state;
    struct hm_uid *uids = NULL;
    unsigned count = 0;
    static const char *const wanted[] = {"ffn.1.5.0", "ffn.1.5.1", "ffn.2.5.0", "ffn.2.5.1"};
    assert_ok(hm_uid_expand("ffn.[1:3].5.[0:2]", 4, &uids, &count));
    assert_int_equal(count, 4);
    for (unsigned i = 0; i < 4; i++) assert_string_equal(uids[i].text, wanted[i]);
    free(uids);
    assert_ok(hm_uid_expand("ffn.7", 1, &uids, &count));
    assert_int_equal(count, 1);
    assert_string_equal(uids[0].text, "ffn.7");
    free(uids);
}

static void a_malformed_or_empty_pattern_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",           "ffn",        "ffn.",     "ffn.[0:0]",       "ffn.[3:1]",
        "ffn.[0:4",   "ffn.[0:4]x", "ffn.[:4]", "ffn.[0:]",        "ffn.[0-4]",
        "ffn.[00:4]", "ffn.[0:4].", "[0:4]",    "ffn.[0:1000002]", "ffn.[0:4][0:4]",
        "a.1.1.1.1.1"};
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_uid *uids = NULL;
        unsigned count = 77;
        if (hm_uid_expand(bad[i], 1000, &uids, &count) != HM_ERR_INVALID)
            fail_msg("'%s' was taken", bad[i]);
        assert_null(uids);
        assert_int_equal(count, 77);
    }
}

static void a_pattern_of_too_many_uids_is_refused_before_anything_is_allocated(void **state)
{
    (void)state;
    struct hm_uid *uids = NULL;
    unsigned count;
    assert_status(hm_uid_expand("ffn.[0:3].[0:3]", 8, &uids, &count), HM_ERR_TOO_BIG);
    assert_status(
        hm_uid_expand("f.[0:1000000].[0:1000000].[0:1000000].[0:1000000]", 4096, &uids, &count),
        HM_ERR_TOO_BIG);
    assert_null(uids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_uid_is_a_name_and_its_coordinates),
        cmocka_unit_test(a_malformed_uid_is_refused_with_a_line_and_nothing_is_written),
        cmocka_unit_test(prefixes_end_with_a_dot),
        cmocka_unit_test(making_a_uid_is_the_inverse_of_parsing_it),
        cmocka_unit_test(a_pattern_means_every_uid_of_its_ranges_in_order),
        cmocka_unit_test(a_malformed_or_empty_pattern_is_refused),
        cmocka_unit_test(a_pattern_of_too_many_uids_is_refused_before_anything_is_allocated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
