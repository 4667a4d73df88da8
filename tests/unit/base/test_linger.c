/* tests/unit/base/test_linger.c - looking on before a sleep: as long as that costs, and hardly ever where
 * it is in vain. */
#include "test.h"

#include "base/linger.h"

static const hm_ns span = 50 * HM_US;
static struct hm_linger linger;
static uint64_t sent, received;
static hm_ns now;

static bool looks_on(void)
{
    return hm_linger(&linger, sent, received, span, now);
}

static int start(void **state)
{
    (void)state;
    linger = (struct hm_linger){0};
    sent = received = 0;
    now = HM_S;
    return 0;
}

/* How many looks are made, each `step` after the last, before it sleeps. */
static unsigned looks(hm_ns step)
{
    unsigned count = 0;
    for (; looks_on(); now += step) assert_true(++count < 1000);
    return count;
}

static void nobody_looks_on_where_no_message_has_gone_or_come(void **state)
{
    (void)state;
    assert_false(looks_on());
    now += HM_S;
    assert_false(looks_on());
}

static void a_message_sent_or_received_is_followed_by_looks_for_the_span(void **state)
{
    sent++;
    hm_ns begin = now;
    looks(HM_US);
    assert_in_range(now - begin, span, 2 * span);
    assert_false(looks_on()); /* it sleeps on, until something moves */
    (void)start(state);
    received++;
    begin = now;
    looks(HM_US);
    assert_in_range(now - begin, span, 2 * span);
    assert_false(looks_on()); /* it sleeps on, until something moves */
}

static void who_gets_the_processor_back_late_still_looks_some_times(void **state)
{
    (void)state;
    sent++;
    assert_in_range(looks(10 * span), 4, 16);
}

/* One message after another, to which nothing answers while it looks on. */
static unsigned tries_of(unsigned messages)
{
    unsigned tries = 0;
    for (unsigned i = 0; i < messages; i++) {
        sent++;
        tries += looks(HM_US) > 0;
        now += HM_MS;
    }
    return tries;
}

static void looks_in_vain_become_rare(void **state)
{
    (void)state;
    (void)tries_of(1024); /* learns it */
    assert_in_range(tries_of(1024), 1, 5);
}

static void one_look_that_was_not_in_vain_brings_them_back(void **state)
{
    (void)state;
    (void)tries_of(1024);
    unsigned messages = 0;
    do {
        assert_true(++messages <= 512); /* it tries again, sometime */
        sent++;
    } while (!looks_on());
    received++; /* while it looks on */
    assert_true(looks_on());
    sent++;
    assert_true(looks_on());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nobody_looks_on_where_no_message_has_gone_or_come, start),
        cmocka_unit_test_setup(a_message_sent_or_received_is_followed_by_looks_for_the_span, start),
        cmocka_unit_test_setup(who_gets_the_processor_back_late_still_looks_some_times, start),
        cmocka_unit_test_setup(looks_in_vain_become_rare, start),
        cmocka_unit_test_setup(one_look_that_was_not_in_vain_brings_them_back, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
