/* Who asked not to be asked before when: bounded, in time and in memory. */
#include "test.h"

#include "moe/refusals.h"

#include <stdio.h>

enum { FORWARD, BACKWARD };
static struct hm_refusals refusals;
static struct hm_node_id server[2] = {{{1}}, {{2}}};
static struct hm_uid uid[2];

static int set_up(void **state)
{
    (void)state;
    hm_refusals_init(&refusals, 42);
    return hm_uid_parse("ffn.1.1", &uid[0]) || hm_uid_parse("ffn.1.2", &uid[1]);
}

static bool likely(unsigned s, unsigned u, uint8_t pass, hm_ns now, hm_ns left)
{
    return hm_refusals_likely(&refusals, &server[s], &uid[u], pass, now, left);
}

static void it_is_of_one_expert_at_one_server_in_one_pass_until_then(void **state)
{
    (void)state;
    assert_false(likely(0, 0, FORWARD, 0, HM_S));
    hm_refusals_note(&refusals, &server[0], &uid[0], FORWARD, HM_S, 100 * HM_MS, HM_NS_NEVER);
    assert_true(likely(0, 0, FORWARD, HM_S, HM_S));
    assert_true(likely(0, 0, FORWARD, HM_S + 99 * HM_MS, 3600 * HM_S));
    assert_false(likely(0, 0, FORWARD, HM_S + 100 * HM_MS, HM_S));
    assert_false(likely(1, 0, FORWARD, HM_S, HM_S));
    assert_false(likely(0, 1, FORWARD, HM_S, HM_S));
    assert_false(likely(0, 0, BACKWARD, HM_S, HM_S));
}

static void who_has_more_time_than_who_was_refused_may_ask(void **state)
{
    (void)state;
    hm_refusals_note(&refusals, &server[0], &uid[0], FORWARD, HM_S, HM_S, 50 * HM_MS);
    assert_true(likely(0, 0, FORWARD, HM_S, 50 * HM_MS));
    assert_false(likely(0, 0, FORWARD, HM_S, 51 * HM_MS));
}

static void what_was_said_last_counts_and_a_year_is_some_seconds(void **state)
{
    (void)state;
    hm_refusals_note(&refusals, &server[0], &uid[0], FORWARD, HM_S, 31536000 * HM_S, HM_NS_NEVER);
    assert_true(likely(0, 0, FORWARD, HM_S + HM_REFUSAL_TIME_MAX - 1, HM_S));
    assert_false(likely(0, 0, FORWARD, HM_S + HM_REFUSAL_TIME_MAX, HM_S));
    hm_refusals_note(&refusals, &server[0], &uid[0], FORWARD, HM_S, HM_MS, HM_NS_NEVER);
    assert_false(likely(0, 0, FORWARD, HM_S + HM_MS, HM_S));
}

static void a_full_table_keeps_the_latest_and_forgets_others(void **state)
{
    (void)state;
    enum { MANY = 10000 };
    unsigned kept = 0;
    for (unsigned i = 0; i < MANY; i++) {
        char text[32];
        snprintf(text, sizeof text, "ffn.%u", i);
        assert_ok(hm_uid_parse(text, &uid[0]));
        hm_refusals_note(&refusals, &server[0], &uid[0], FORWARD, i, HM_S, HM_NS_NEVER);
        assert_true(likely(0, 0, FORWARD, i, HM_S));
    }
    for (unsigned i = 0; i < MANY; i++) {
        char text[32];
        snprintf(text, sizeof text, "ffn.%u", i);
        assert_ok(hm_uid_parse(text, &uid[0]));
        kept += likely(0, 0, FORWARD, MANY, HM_S);
    }
    assert_int_equal(kept, HM_REFUSALS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(it_is_of_one_expert_at_one_server_in_one_pass_until_then, set_up),
        cmocka_unit_test_setup(who_has_more_time_than_who_was_refused_may_ask, set_up),
        cmocka_unit_test_setup(what_was_said_last_counts_and_a_year_is_some_seconds, set_up),
        cmocka_unit_test_setup(a_full_table_keeps_the_latest_and_forgets_others, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
