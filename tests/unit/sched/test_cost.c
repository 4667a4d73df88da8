/* The model of service times: a line through what was measured, low where it does not know. */
#include "test.h"

#include "base/rng.h"
#include "sched/internal.h"

static struct cost train(unsigned samples, uint32_t rows_min, uint32_t rows_max, hm_ns fixed,
                         hm_ns per_row, unsigned noise_percent)
{
    struct cost cost = {0};
    struct hm_rng rng;
    hm_rng_init(&rng, 3, 0);
    for (unsigned i = 0; i < samples; i++) {
        uint32_t rows = rows_min + (uint32_t)hm_rng_below(&rng, rows_max - rows_min + 1);
        hm_ns ns = fixed + rows * per_row;
        cost_add(&cost, rows, ns + ns * hm_rng_below(&rng, noise_percent + 1) / 100);
    }
    return cost;
}

static void it_knows_nothing_before_eight_batches(void **state)
{
    (void)state;
    struct cost cost = train(7, 1, 100, HM_MS, HM_US, 0);
    assert_false(cost_trained(&cost));
    assert_int_equal(cost_batch(&cost, 50), 0);
    assert_int_equal(cost_rows(&cost, 1000, 64), 0);
    cost_add(&cost, 10, HM_MS);
    assert_true(cost_trained(&cost));
    assert_true(cost_batch(&cost, 50) > 0);
}

static void it_finds_the_line(void **state)
{
    (void)state;
    struct cost cost = train(100, 1, 100, HM_MS, 10 * HM_US, 0);
    assert_in_range(cost_batch(&cost, 1), 1005 * HM_US, 1015 * HM_US);
    assert_in_range(cost_batch(&cost, 100), 1990 * HM_US, 2010 * HM_US);
    assert_in_range(cost_rows(&cost, 250, 100), 5480 * HM_US, 5520 * HM_US);
}

static void noise_moves_it_little(void **state)
{
    (void)state;
    struct cost cost = train(400, 1, 100, HM_MS, 10 * HM_US, 20);
    assert_in_range(cost_batch(&cost, 50), 1400 * HM_US, 1900 * HM_US);
}

static void of_one_size_only_it_guesses_low(void **state)
{
    (void)state;
    struct cost cost = train(50, 100, 100, 2 * HM_MS, 0, 0);
    assert_in_range(cost_batch(&cost, 100), 1999 * HM_US, 2001 * HM_US);
    assert_in_range(cost_batch(&cost, 50), 999 * HM_US, 1001 * HM_US);
    assert_in_range(cost_batch(&cost, 1000), 1999 * HM_US, 2001 * HM_US);
}

static void at_most_it_guesses_high_of_one_size_only(void **state)
{
    (void)state;
    struct cost cost = train(50, 100, 100, 2 * HM_MS, 0, 0);
    assert_in_range(cost_at_most(&cost, 100), 1999 * HM_US, 2001 * HM_US);
    assert_in_range(cost_at_most(&cost, 1), 1999 * HM_US, 2001 * HM_US);
    assert_in_range(cost_at_most(&cost, 1000), 19990 * HM_US, 20010 * HM_US);
    struct cost untrained = train(7, 100, 100, 2 * HM_MS, 0, 0);
    assert_int_equal(cost_at_most(&untrained, 1), 0);
}

static void at_most_it_is_never_below_the_line(void **state)
{
    (void)state;
    struct cost cost = train(100, 1, 100, HM_MS, 10 * HM_US, 20);
    for (uint32_t rows = 1; rows <= 1000; rows += 37)
        assert_true(cost_at_most(&cost, rows) >= cost_batch(&cost, rows));
}

static void it_never_falls_with_rows_nor_below_nothing(void **state)
{
    (void)state;
    struct cost falling = {0}; /* the more rows, the faster: cold caches */
    for (uint32_t i = 1; i <= 100; i++) cost_add(&falling, i % 10 + 1, (20 - i % 10) * HM_MS);
    assert_true(cost_batch(&falling, 1) > 0);
    assert_true(cost_batch(&falling, 100) >= cost_batch(&falling, 1));
    struct cost steep = {0}; /* its line would cross zero */
    for (uint32_t i = 1; i <= 100; i++) cost_add(&steep, 50 + i % 10, (1 + i % 10 * 5) * HM_MS);
    assert_true(cost_batch(&steep, 1) > 0 && cost_batch(&steep, 1) < 5 * HM_MS);
}

static void it_follows_a_device_that_changes(void **state)
{
    (void)state;
    struct cost cost = train(500, 1, 100, 10 * HM_MS, HM_US, 0);
    for (uint32_t i = 0; i < 100; i++) cost_add(&cost, i % 64 + 1, HM_MS);
    assert_in_range(cost_batch(&cost, 50), 800 * HM_US, 1500 * HM_US);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_knows_nothing_before_eight_batches),
        cmocka_unit_test(it_finds_the_line),
        cmocka_unit_test(noise_moves_it_little),
        cmocka_unit_test(of_one_size_only_it_guesses_low),
        cmocka_unit_test(at_most_it_guesses_high_of_one_size_only),
        cmocka_unit_test(at_most_it_is_never_below_the_line),
        cmocka_unit_test(it_never_falls_with_rows_nor_below_nothing),
        cmocka_unit_test(it_follows_a_device_that_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
