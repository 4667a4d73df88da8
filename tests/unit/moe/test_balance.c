/* The load-balancing loss is even at an even load, has the gradient of finite differences, and
 * moves the gate (the reference's is a constant). */
#include "test.h"

#include "base/rng.h"
#include "moe/balance.h"

#include <math.h>

enum { ROWS = 12, K = 2, COLUMNS = 5 };

struct fixture {
    struct hm_beam_grid grid;
    struct hm_beam_expert expert[6];
    struct hm_beam_choice choice[ROWS * K];
    uint32_t choice_count[ROWS];
    float logits[ROWS * COLUMNS], fraction[COLUMNS], gradient[ROWS * COLUMNS];
};

/* Expert e of the grid of 2 by 3 is (e / 3, e % 3). */
static void init(struct fixture *fixture, uint64_t seed)
{
    memset(fixture, 0, sizeof *fixture);
    assert_ok(hm_beam_grid_init(&fixture->grid, "ffn.", 2, (uint32_t[]){2, 3}));
    assert_int_equal(hm_beam_grid_columns(&fixture->grid), COLUMNS);
    struct hm_rng rng;
    hm_rng_init(&rng, seed, 0);
    for (uint32_t e = 0; e < 6; e++)
        assert_ok(hm_uid_make("ffn", (uint32_t[]){e / 3, e % 3}, 2, &fixture->expert[e].uid));
    for (unsigned i = 0; i < ROWS * COLUMNS; i++) fixture->logits[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < ROWS * K; i++)
        fixture->choice[i].expert = (uint32_t)hm_rng_below(&rng, 6);
    for (unsigned i = 0; i < ROWS; i++) fixture->choice_count[i] = K;
}

static float loss_of(struct fixture *fixture, float scale, float *gradient)
{
    return hm_balance_loss(&fixture->grid, fixture->logits, ROWS, fixture->expert, fixture->choice,
                           fixture->choice_count, K, scale, fixture->fraction, gradient);
}

static void an_even_load_costs_one_a_dimension(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture, 1);
    for (unsigned i = 0; i < ROWS * K; i++) fixture.choice[i].expert = i % 6;
    memset(fixture.logits, 0, sizeof fixture.logits);
    assert_true(fabsf(loss_of(&fixture, 1, NULL) - 2.f) < 1e-5f);
    for (unsigned i = 0; i < COLUMNS; i++)
        assert_true(fabsf(fixture.fraction[i] - (i < 2 ? 0.5f : 1.f / 3)) < 1e-6f);
}

static void the_gradient_is_that_of_finite_differences(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture, 2);
    fixture.choice_count[3] = 1; /* rows may have found fewer */
    (void)loss_of(&fixture, 3.f, fixture.gradient);
    for (unsigned i = 0; i < ROWS * COLUMNS; i++) {
        float before = fixture.logits[i];
        fixture.logits[i] = before + 1e-2f;
        float up = loss_of(&fixture, 1, NULL);
        fixture.logits[i] = before - 1e-2f;
        float down = loss_of(&fixture, 1, NULL);
        fixture.logits[i] = before;
        float wanted = 3.f * (up - down) / 2e-2f;
        if (fabsf(fixture.gradient[i] - wanted) > 2e-3f)
            fail_msg("%u: %g, not %g", i, fixture.gradient[i], wanted);
    }
}

static void it_moves_the_gate_away_from_an_expert_that_has_it_all(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture, 3);
    for (unsigned i = 0; i < ROWS * K; i++)
        fixture.choice[i].expert = 1; /* (0, 1), as the gate wants it */
    for (unsigned row = 0; row < ROWS; row++) {
        fixture.logits[row * COLUMNS + 0] = 1.f;
        fixture.logits[row * COLUMNS + 2 + 1] = 1.f;
    }
    float first = loss_of(&fixture, 1, NULL);
    assert_true(first > 2.f);
    for (unsigned step = 0; step < 50; step++) {
        memset(fixture.gradient, 0, sizeof fixture.gradient);
        (void)loss_of(&fixture, 1, fixture.gradient);
        float size = 0;
        for (unsigned i = 0; i < ROWS * COLUMNS; i++) {
            size += fabsf(fixture.gradient[i]);
            fixture.logits[i] -= fixture.gradient[i];
        }
        assert_true(size > 0); /* the reference's gradient is zero here */
    }
    assert_true(loss_of(&fixture, 1, NULL) < 0.8f * first);
    for (unsigned row = 0; row < ROWS; row++)
        assert_true(fixture.logits[row * COLUMNS] < fixture.logits[row * COLUMNS + 1] + 1.f);
}

static void the_gradient_is_added_to_what_is_there(void **state)
{
    (void)state;
    struct fixture fixture;
    init(&fixture, 4);
    float twice[ROWS * COLUMNS] = {0};
    (void)loss_of(&fixture, 1, fixture.gradient);
    (void)loss_of(&fixture, 1, twice);
    (void)loss_of(&fixture, 1, twice);
    for (unsigned i = 0; i < ROWS * COLUMNS; i++)
        assert_true(fabsf(twice[i] - 2 * fixture.gradient[i]) < 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_even_load_costs_one_a_dimension),
        cmocka_unit_test(the_gradient_is_that_of_finite_differences),
        cmocka_unit_test(it_moves_the_gate_away_from_an_expert_that_has_it_all),
        cmocka_unit_test(the_gradient_is_added_to_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
