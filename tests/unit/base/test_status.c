/* tests/unit/base/test_status.c - statuses, their scopes, and the line kept for a person. */
#include "test.h"

#include <pthread.h>
#include <stdio.h>

static void every_status_has_its_own_value_name_and_text(void **state)
{
    (void)state;
    static const struct {
        enum hm_status status;
        const char *name, *text;
        int value;
    } rows[] = {
#define X(name, value, scope, text) {name, #name, text, value},
        HM_STATUS_TABLE(X)
#undef X
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(rows[i].status, rows[i].value);
        assert_string_equal(hm_status_name(rows[i].status), rows[i].name);
        assert_string_equal(hm_status_text(rows[i].status), rows[i].text);
        for (size_t j = 0; j < i; j++) {
            assert_int_not_equal(rows[i].value, rows[j].value);
            assert_string_not_equal(rows[i].text, rows[j].text);
        }
    }
}

static void values_on_the_wire_never_change(void **state)
{
    (void)state;
    assert_int_equal(HM_OK, 0);
    assert_int_equal(HM_ERR_BUSY, -3);
    assert_int_equal(HM_ERR_TIMED_OUT, -5);
    assert_int_equal(HM_ERR_DRAINING, -15);
    assert_int_equal(HM_ERR_PEER_DENIED, -24);
    assert_int_equal(HM_ERR_EXPERT_NUMERIC, -41);
    assert_int_equal(HM_ERR_STORAGE, -80);
}

static void an_unknown_status_has_a_name_and_the_smallest_scope(void **state)
{
    (void)state;
    enum hm_status unknown = (enum hm_status) - 77;
    assert_string_equal(hm_status_text(unknown), "unknown status");
    assert_string_equal(hm_status_name(unknown), "HM_UNKNOWN");
    assert_int_equal(hm_status_scope(unknown), HM_SCOPE_CALL);
}

static void scopes_follow_the_table(void **state)
{
    (void)state;
    assert_int_equal(hm_status_scope(HM_OK), HM_SCOPE_NONE);
    assert_int_equal(hm_status_scope(HM_ERR_BUSY), HM_SCOPE_CALL);
    assert_int_equal(hm_status_scope(HM_ERR_PEER_RESET), HM_SCOPE_PEER);
    assert_int_equal(hm_status_scope(HM_ERR_EXPERT_GONE), HM_SCOPE_EXPERT);
    assert_int_equal(hm_status_scope(HM_ERR_DEVICE), HM_SCOPE_LANE);
    assert_int_equal(hm_status_scope(HM_ERR_STORAGE), HM_SCOPE_NODE);
}

static void no_value_off_the_wire_is_about_us(void **state)
{
    (void)state;
    for (int value = -300; value <= 300; value++) {
        enum hm_scope scope = hm_status_scope(hm_status_from_wire(value));
        assert_true(scope != HM_SCOPE_LANE && scope != HM_SCOPE_NODE);
        assert_int_not_equal(hm_status_from_wire(value), HM_INPROGRESS);
    }
    assert_int_equal(hm_status_from_wire(0), HM_OK);
    assert_int_equal(hm_status_from_wire(HM_ERR_BUSY), HM_ERR_BUSY);
    assert_int_equal(hm_status_from_wire(HM_ERR_DEVICE), HM_ERR_EXPERT_GONE);
    assert_int_equal(hm_status_from_wire(HM_ERR_STORAGE), HM_ERR_EXPERT_GONE);
    assert_int_equal(hm_status_from_wire(HM_INPROGRESS), HM_ERR_PEER_PROTOCOL);
    assert_int_equal(hm_status_from_wire(-77), HM_ERR_PEER_PROTOCOL);
    assert_int_equal(hm_status_from_wire(INT32_MIN), HM_ERR_PEER_PROTOCOL);
}

static void a_failure_keeps_one_line_and_returns_its_status(void **state)
{
    (void)state;
    hm_fail_clear();
    assert_string_equal(hm_fail_line(), "");
    assert_status(hm_fail(HM_ERR_INVALID, "port %d is\nin use\t!", 7), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(), "port 7 is in use !");
    assert_status(hm_fail(HM_ERR_BUSY, "again: %s", hm_fail_line()), HM_ERR_BUSY);
    assert_string_equal(hm_fail_line(), "again: port 7 is in use !");
}

static void a_line_explains_its_own_status_and_no_other(void **state)
{
    (void)state;
    assert_status(hm_fail(HM_ERR_BUSY, "port 7 is in use"), HM_ERR_BUSY);
    assert_string_equal(hm_fail_line_of(HM_ERR_BUSY), "port 7 is in use");
    assert_string_equal(hm_fail_line_of(HM_ERR_TIMED_OUT), hm_status_text(HM_ERR_TIMED_OUT));
    hm_fail_clear();
    assert_string_equal(hm_fail_line_of(HM_ERR_BUSY), hm_status_text(HM_ERR_BUSY));
}

static void a_line_that_is_too_long_is_cut_at_a_character(void **state)
{
    (void)state;
    char text[2 * HM_ERROR_LINE_BYTES] = "";
    for (int shift = 0; shift < 3;
         shift++) { /* so that the cut falls on each byte of a character */
        memset(text, 'x', (size_t)shift);
        for (size_t i = (size_t)shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4);
        (void)hm_fail(HM_ERR_INVALID, "%s", text);
        size_t bytes = strlen(hm_fail_line());
        assert_in_range(bytes, HM_ERROR_LINE_BYTES - 4, HM_ERROR_LINE_BYTES - 1);
        assert_int_equal((bytes - (size_t)shift) % 3, 0);
    }
}

static void *fail_elsewhere(void *arg)
{
    (void)hm_fail(HM_ERR_INVALID, "from another thread");
    return arg;
}

static void lines_belong_to_their_thread(void **state)
{
    (void)state;
    pthread_t thread;
    (void)hm_fail(HM_ERR_INVALID, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(hm_fail_line(), "mine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_status_has_its_own_value_name_and_text),
        cmocka_unit_test(values_on_the_wire_never_change),
        cmocka_unit_test(an_unknown_status_has_a_name_and_the_smallest_scope),
        cmocka_unit_test(scopes_follow_the_table),
        cmocka_unit_test(no_value_off_the_wire_is_about_us),
        cmocka_unit_test(a_failure_keeps_one_line_and_returns_its_status),
        cmocka_unit_test(a_line_explains_its_own_status_and_no_other),
        cmocka_unit_test(a_line_that_is_too_long_is_cut_at_a_character),
        cmocka_unit_test(lines_belong_to_their_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
