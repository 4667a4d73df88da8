/* Which pool runs next, by table: the policy is a pure function. */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "sched/sched.h"

static const hm_ns now = 10 * HM_S;

/* A pool whose oldest task has waited `waited`. */
static struct hm_pool_view view(enum hm_priority priority, hm_ns waited)
{
    return (struct hm_pool_view){
        .rows = 1,
        .oldest = now - waited,
        .earliest_deadline = HM_NS_NEVER,
        .priority = priority,
        .batch_rows_max = 8,
    };
}

static int pick(const struct hm_pool_view *pools, unsigned count, hm_ns *again)
{
    *again = 0;
    return hm_policy_oldest_first.pick(pools, count, now, again);
}

static void the_oldest_of_a_class_runs(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_TRAINING, 5 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, 9 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, 7 * HM_MS)};
    assert_int_equal(pick(pools, 3, &again), 1);
}

static void of_equals_the_first_runs(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_TRAINING, HM_MS),
                                   view(HM_PRIORITY_TRAINING, HM_MS)};
    assert_int_equal(pick(pools, 2, &again), 0);
}

static void the_more_urgent_class_runs_first(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_BACKGROUND, 99 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, 50 * HM_MS),
                                   view(HM_PRIORITY_INFERENCE, 0)};
    assert_int_equal(pick(pools, 3, &again), 2);
    assert_int_equal(pick(pools, 2, &again), 1);
}

static void waiting_an_aging_step_is_worth_a_class(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_INFERENCE, 0),
                                   view(HM_PRIORITY_TRAINING, HM_AGING_NS - 1)};
    assert_int_equal(pick(pools, 2, &again), 0);
    pools[1] = view(HM_PRIORITY_TRAINING, HM_AGING_NS); /* the same class now, and older */
    assert_int_equal(pick(pools, 2, &again), 1);
    pools[1] = view(HM_PRIORITY_BACKGROUND, 2 * HM_AGING_NS - 1);
    assert_int_equal(pick(pools, 2, &again), 0);
    pools[1] = view(HM_PRIORITY_BACKGROUND, 2 * HM_AGING_NS);
    assert_int_equal(pick(pools, 2, &again), 1);
}

static void no_pool_is_passed_over_by_one_that_came_three_steps_later(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 1, 0);
    for (unsigned round = 0; round < 20000; round++) {
        struct hm_pool_view pools[8];
        unsigned count = 1 + (unsigned)hm_rng_below(&rng, HM_COUNT_OF(pools));
        for (unsigned i = 0; i < count; i++)
            pools[i] = view((enum hm_priority)hm_rng_below(&rng, HM_PRIORITIES),
                            hm_rng_below(&rng, 600) * HM_MS);
        hm_ns again;
        int picked = pick(pools, count, &again);
        assert_in_range(picked, 0, count - 1);
        for (unsigned i = 0; i < count; i++)
            assert_true(pools[picked].oldest < pools[i].oldest + HM_PRIORITIES * HM_AGING_NS);
    }
}

static void a_batch_that_is_not_full_waits_and_says_until_when(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS),
                                   view(HM_PRIORITY_TRAINING, HM_MS)};
    pools[0].batch_delay_max = 10 * HM_MS;
    pools[1].batch_delay_max = 4 * HM_MS;
    assert_int_equal(pick(pools, 2, &again), -1);
    assert_int_equal(again, now + 3 * HM_MS);
    pools[0].full = true;
    assert_int_equal(pick(pools, 2, &again), 0);
    pools[0].full = false;
    pools[0].batch_delay_max = 2 * HM_MS; /* over just now */
    assert_int_equal(pick(pools, 2, &again), 0);
}

static void a_delay_without_end_waits_for_a_submit(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS)};
    pools[0].batch_delay_max = HM_NS_NEVER;
    assert_int_equal(pick(pools, 1, &again), -1);
    assert_true(again == HM_NS_NEVER);
}

static void the_wait_leaves_time_to_serve_the_earliest_deadline(void **state)
{
    (void)state;
    hm_ns again;
    struct hm_pool_view pools[] = {view(HM_PRIORITY_TRAINING, 2 * HM_MS)};
    pools[0].batch_delay_max = HM_S;
    pools[0].earliest_deadline = now + 20 * HM_MS;
    pools[0].service = 8 * HM_MS;
    assert_int_equal(pick(pools, 1, &again), -1);
    assert_int_equal(again, now + 10 * HM_MS);
    pools[0].service = 16 * HM_MS;
    assert_int_equal(pick(pools, 1, &again), 0);
    pools[0].service = 0; /* unknown: half of the 22 ms that it had */
    assert_int_equal(pick(pools, 1, &again), -1);
    assert_int_equal(again, now + 9 * HM_MS);
    pools[0].service = HM_NS_NEVER / 4; /* longer than there is time since the start */
    assert_int_equal(pick(pools, 1, &again), 0);
}

static void nothing_queued_is_nothing_to_run(void **state)
{
    (void)state;
    hm_ns again;
    assert_int_equal(hm_policy_oldest_first.pick(NULL, 0, now, &again), -1);
    assert_true(again == HM_NS_NEVER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_of_a_class_runs),
        cmocka_unit_test(of_equals_the_first_runs),
        cmocka_unit_test(the_more_urgent_class_runs_first),
        cmocka_unit_test(waiting_an_aging_step_is_worth_a_class),
        cmocka_unit_test(no_pool_is_passed_over_by_one_that_came_three_steps_later),
        cmocka_unit_test(a_batch_that_is_not_full_waits_and_says_until_when),
        cmocka_unit_test(a_delay_without_end_waits_for_a_submit),
        cmocka_unit_test(the_wait_leaves_time_to_serve_the_earliest_deadline),
        cmocka_unit_test(nothing_queued_is_nothing_to_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
