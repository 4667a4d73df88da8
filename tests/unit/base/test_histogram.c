/* tests/unit/base/test_histogram.c - quantiles against the sorted values themselves. */
#include "test.h"

#include "base/histogram.h"
#include "base/rng.h"

#include <math.h>

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void an_empty_histogram_has_no_values(void **state)
{
    (void)state;
    struct hm_histogram histogram;
    hm_histogram_init(&histogram);
    assert_int_equal(hm_histogram_quantile(&histogram, 0.5), 0);
    assert_true(hm_histogram_mean(&histogram) == 0.0);
    assert_int_equal(histogram.count, 0);
}

static void quantiles_are_within_a_step_of_the_true_ones(void **state)
{
    (void)state;
    enum { VALUES = 20000 };
    static uint64_t values[VALUES];
    static const double quantiles[] = {0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0};
    struct hm_histogram histogram;
    struct hm_rng rng;
    double sum = 0;
    hm_rng_init(&rng, 41, 0);
    hm_histogram_init(&histogram);
    for (int i = 0; i < VALUES; i++) { /* over many doublings */
        values[i] = hm_rng_next(&rng) >> (20 + hm_rng_below(&rng, 44));
        sum += (double)values[i];
        hm_histogram_add(&histogram, values[i]);
    }
    qsort(values, VALUES, sizeof values[0], compare);
    for (size_t i = 0; i < sizeof quantiles / sizeof quantiles[0]; i++) {
        uint64_t rank = (uint64_t)ceil(quantiles[i] * VALUES);
        double truth = (double)values[rank ? rank - 1 : 0];
        double got = (double)hm_histogram_quantile(&histogram, quantiles[i]);
        assert_true(got >= truth && got <= truth * (1.0 + 1.0 / HM_HISTOGRAM_STEPS));
    }
    assert_true(histogram.min == values[0] && histogram.max == values[VALUES - 1]);
    assert_true(fabs(hm_histogram_mean(&histogram) / (sum / VALUES) - 1.0) < 1e-9);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    struct hm_histogram histogram;
    hm_histogram_init(&histogram);
    for (uint64_t value = 0; value < 64; value++) hm_histogram_add(&histogram, value);
    for (uint64_t value = 1; value <= 64; value++)
        assert_int_equal(hm_histogram_quantile(&histogram, (double)value / 64), value - 1);
}

static void the_ends_of_the_range_have_buckets(void **state)
{
    (void)state;
    struct hm_histogram histogram;
    hm_histogram_init(&histogram);
    hm_histogram_add(&histogram, 0);
    hm_histogram_add(&histogram, UINT64_MAX);
    hm_histogram_add(&histogram, UINT64_MAX);
    assert_true(hm_histogram_quantile(&histogram, 1.0) == UINT64_MAX);
    assert_true(hm_histogram_quantile(&histogram, 0.0) == 0);
    assert_true(histogram.sum == UINT64_MAX); /* saturated, not wrapped */
    assert_int_equal(histogram.bucket[HM_HISTOGRAM_BUCKETS - 1], 2);
}

static void merging_is_as_if_all_had_been_added_to_one(void **state)
{
    (void)state;
    static struct hm_histogram a, b, both, empty;
    struct hm_rng rng;
    hm_rng_init(&rng, 43, 0);
    hm_histogram_init(&a);
    hm_histogram_init(&b);
    hm_histogram_init(&both);
    hm_histogram_init(&empty);
    for (int i = 0; i < 1000; i++) {
        uint64_t value = hm_rng_below(&rng, 1000000);
        hm_histogram_add(i % 3 ? &a : &b, value);
        hm_histogram_add(&both, value);
    }
    hm_histogram_merge(&a, &b);
    hm_histogram_merge(&a, &empty);
    assert_memory_equal(&a, &both, sizeof a);
    hm_histogram_merge(&empty, &both);
    assert_memory_equal(&empty, &both, sizeof empty);
}

static void a_full_bucket_saturates_and_keeps_quantiles_in_range(void **state)
{
    (void)state;
    static struct hm_histogram a, b;
    hm_histogram_init(&a);
    hm_histogram_add(&a, 100);
    hm_histogram_add(&a, 5000);
    for (unsigned i = 0; i < HM_HISTOGRAM_BUCKETS; i++) /* as after four thousand million adds */
        if (a.bucket[i]) a.bucket[i] = UINT32_MAX;
    a.count = UINT64_C(2) * UINT32_MAX + 100;
    b = a;
    hm_histogram_add(&a, 100);
    hm_histogram_merge(&a, &b);
    assert_int_equal(hm_histogram_quantile(&a, 1.0), 5000);
    assert_in_range(hm_histogram_quantile(&a, 0.1), 100, 103);
}

static void every_bucket_begins_where_the_one_before_ends(void **state)
{
    (void)state;
    static struct hm_histogram histogram;
    for (unsigned i = 1; i < HM_HISTOGRAM_BUCKETS; i++) {
        uint64_t low = hm_histogram_bucket_low(i);
        hm_histogram_init(&histogram);
        hm_histogram_add(&histogram, low);
        hm_histogram_add(&histogram, low - 1);
        assert_int_equal(histogram.bucket[i], 1);
        assert_int_equal(histogram.bucket[i - 1], 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_histogram_has_no_values),
        cmocka_unit_test(quantiles_are_within_a_step_of_the_true_ones),
        cmocka_unit_test(small_values_are_exact),
        cmocka_unit_test(the_ends_of_the_range_have_buckets),
        cmocka_unit_test(merging_is_as_if_all_had_been_added_to_one),
        cmocka_unit_test(a_full_bucket_saturates_and_keeps_quantiles_in_range),
        cmocka_unit_test(every_bucket_begins_where_the_one_before_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
