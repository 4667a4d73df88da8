/* tests/unit/base/test_rng.c - the generator against its reference, and the laws of what is drawn.
 * */
#include "test.h"

#include "base/rng.h"

#include <math.h>
#include <stdbool.h>

static void the_generator_is_xoshiro256starstar(void **state)
{
    (void)state;
    /* The reference implementation's first outputs from the state {1, 2, 3, 4}. */
    static const uint64_t wanted[] = {
        UINT64_C(11520),
        UINT64_C(0),
        UINT64_C(1509978240),
        UINT64_C(1215971899390074240),
        UINT64_C(1216172134540287360),
        UINT64_C(607988272756665600),
        UINT64_C(16172922978634559625),
        UINT64_C(8476171486693032832),
        UINT64_C(10595114339597558777),
        UINT64_C(2904607092377533576),
    };
    struct hm_rng rng = {.state = {1, 2, 3, 4}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        assert_true(hm_rng_next(&rng) == wanted[i]);
}

static void seed_and_stream_name_one_sequence(void **state)
{
    (void)state;
    uint64_t first[4][4];
    for (uint64_t seed = 0; seed < 4; seed++) {
        for (uint64_t stream = 0; stream < 4; stream++) {
            struct hm_rng a, b;
            hm_rng_init(&a, seed, stream);
            hm_rng_init(&b, seed, stream);
            for (int i = 0; i < 100; i++) assert_true(hm_rng_next(&a) == hm_rng_next(&b));
            first[seed][stream] = hm_rng_next(&a);
        }
    }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) assert_true(first[i / 4][i % 4] != first[j / 4][j % 4]);
}

static void below_is_uniform_and_stays_below(void **state)
{
    (void)state;
    enum { DRAWS = 70000, BOUND = 7 };
    struct hm_rng rng;
    unsigned count[BOUND] = {0};
    hm_rng_init(&rng, 3, 0);
    for (int i = 0; i < DRAWS; i++) {
        uint64_t draw = hm_rng_below(&rng, BOUND);
        assert_true(draw < BOUND);
        count[draw]++;
    }
    /* Each is 10,000 with a deviation of 93; five deviations. */
    for (int i = 0; i < BOUND; i++) assert_in_range(count[i], 9537, 10463);
    assert_true(hm_rng_below(&rng, 1) == 0);
    for (int i = 0; i < 100; i++)
        assert_true(hm_rng_below(&rng, UINT64_C(0x8000000000000001)) <=
                    UINT64_C(0x8000000000000000));
}

static void uniform_and_normal_have_their_moments(void **state)
{
    (void)state;
    enum { DRAWS = 200000 };
    struct hm_rng rng;
    double uniform_sum = 0, normal_sum = 0, normal_squares = 0;
    hm_rng_init(&rng, 4, 0);
    for (int i = 0; i < DRAWS; i++) {
        float uniform = hm_rng_uniform(&rng), normal = hm_rng_normal(&rng);
        assert_true(uniform >= 0.0f && uniform < 1.0f);
        assert_true(isfinite(normal));
        uniform_sum += (double)uniform;
        normal_sum += (double)normal;
        normal_squares += (double)normal * (double)normal;
    }
    /* Five deviations of each mean. */
    assert_true(fabs(uniform_sum / DRAWS - 0.5) < 5 * 0.2887 / sqrt(DRAWS));
    assert_true(fabs(normal_sum / DRAWS) < 5 / sqrt(DRAWS));
    assert_true(fabs(normal_squares / DRAWS - 1.0) < 5 * sqrt(2.0 / DRAWS));
}

static void a_shuffle_is_a_permutation_and_each_is_as_likely(void **state)
{
    (void)state;
    struct hm_rng rng;
    unsigned count[6] = {0};
    hm_rng_init(&rng, 5, 0);
    for (int i = 0; i < 60000; i++) {
        uint32_t index[3] = {0, 1, 2};
        hm_rng_shuffle(&rng, index, 3);
        assert_int_equal((1u << index[0]) | (1u << index[1]) | (1u << index[2]), 7);
        count[index[0] * 2 + (index[1] > index[2])]++;
    }
    for (int i = 0; i < 6; i++) assert_in_range(count[i], 9543, 10457); /* five deviations */
    uint32_t one = 9;
    hm_rng_shuffle(&rng, &one, 1);
    hm_rng_shuffle(&rng, NULL, 0);
    assert_int_equal(one, 9);
}

static void seeds_of_the_system_differ(void **state)
{
    (void)state;
    assert_true(hm_rng_os_seed() != hm_rng_os_seed());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_generator_is_xoshiro256starstar),
        cmocka_unit_test(seed_and_stream_name_one_sequence),
        cmocka_unit_test(below_is_uniform_and_stays_below),
        cmocka_unit_test(uniform_and_normal_have_their_moments),
        cmocka_unit_test(a_shuffle_is_a_permutation_and_each_is_as_likely),
        cmocka_unit_test(seeds_of_the_system_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
