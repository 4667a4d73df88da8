/* Rows that an expert turns away go to their next best in the same forward, and nothing else changes:
 * who comes first, what backward reaches, how long a pass takes. */
#include "support_moe.h"

enum { ROWS = 20, K_BEST = 4 };

static struct moe_swarm swarm;
static struct moe_pass pass;

/* Three servers; of `other` what is not 0 stands instead of moe_conf's. */
static void open_with(uint64_t seed, uint32_t rows, const struct hm_mixture_conf *other)
{
    struct hm_mixture_conf conf;
    moe_swarm_open(&swarm, seed, 3);
    moe_conf(&swarm, &conf);
    if (other->k_best) conf.k_best = other->k_best;
    if (other->k_min) conf.k_min = other->k_min;
    conf.spares = other->spares;
    conf.timeout_after_k_min = other->timeout_after_k_min;
    moe_pass_init(&pass, &swarm, &conf, rows, seed);
}

static void open_swarm(uint64_t seed, uint32_t k_min, uint32_t spares)
{
    open_with(seed, ROWS, &(struct hm_mixture_conf){.k_min = k_min, .spares = spares});
}

static void close_swarm(void)
{
    moe_pass_fini(&pass);
    moe_swarm_close(&swarm);
}

static void refuse(const char *uid, enum hm_status status)
{
    struct moe_expert *expert = moe_expert(&swarm, uid, NULL);
    expert->forward = MOE_FAILS;
    expert->fails_with = status;
}

static void forward_is_well(void)
{
    enum hm_status status = moe_forward(&pass);
    if (status != HM_OK) fail_msg("%s: %s", hm_status_name(status), pass.result.line);
}

/* The direct computation asks for each row's experts, best first: the first K_BEST that stand. */
struct standing {
    const char *const *gone;
    uint32_t row;
    unsigned taken;
};

static bool stands(void *arg, uint32_t row, const char *uid)
{
    struct standing *standing = arg;
    if (row != standing->row) *standing = (struct standing){standing->gone, row, 0};
    for (const char *const *gone = standing->gone; *gone; gone++)
        if (strcmp(*gone, uid) == 0) return false;
    return standing->taken++ < K_BEST;
}

static struct standing all_but(const char *const *gone)
{
    return (struct standing){.gone = gone, .row = UINT32_MAX};
}

static void rows_of_an_expert_that_refuses_go_to_their_next_best(void **state)
{
    (void)state;
    static const char *const gone[] = {"ffn.1.1", "ffn.2.0", NULL};
    float wanted[64 * MOE_HIDDEN], dx[64 * MOE_HIDDEN], dlogits[64 * 2 * MOE_GRID];
    open_swarm(21, K_BEST, 2);
    for (unsigned i = 0; gone[i]; i++) refuse(gone[i], HM_ERR_EXPERT_GONE);
    forward_is_well(); /* although every row needs all of K_BEST */
    struct standing standing = all_but(gone);
    moe_direct_forward(&pass, K_BEST + 2, stands, &standing, wanted);
    moe_assert_near(pass.y, wanted, ROWS * MOE_HIDDEN, 1e-4f);
    assert_true(pass.op.parts_failed >= 2);
    assert_true(pass.result.took < HM_S);
    assert_status(moe_backward(&pass), HM_OK);
    standing = all_but(gone);
    moe_direct_backward(&pass, K_BEST + 2, stands, NULL, &standing, dx, dlogits);
    moe_assert_near(pass.dx, dx, ROWS * MOE_HIDDEN, 1e-4f);
    moe_assert_near(pass.dlogits, dlogits, ROWS * 2 * MOE_GRID, 1e-4f);
    for (unsigned i = 0; i < 3;
         i++) { /* one step an expert, also where two parts of forward were its */
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++)
            assert_true(swarm.server[i].expert[e].backwards <= 1);
    }
    close_swarm();
}

static void without_spares_the_same_pass_has_too_few_answers(void **state)
{
    (void)state;
    open_swarm(21, K_BEST, 0);
    refuse("ffn.1.1", HM_ERR_EXPERT_GONE);
    assert_status(moe_forward(&pass), HM_ERR_EXPERT_GONE);
    close_swarm();
}

static void what_is_served_by_a_busy_server_is_asked_last(void **state)
{
    (void)state;
    open_swarm(22, 1, 5);
    swarm.server[0].refuses = HM_ERR_BUSY;
    forward_is_well();
    /* 3 of the 9 experts are its: 6 others, so 4 for every row, and nobody asks it again. */
    assert_int_equal(swarm.server[0].calls, 1);
    for (uint32_t row = 0; row < ROWS; row++) {
        unsigned answers = 0;
        for (uint32_t slot = 0; slot < pass.op.slot_count; slot++) {
            const struct hm_dispatch_part *part = &pass.op.part[pass.op.slot_part[slot]];
            answers += pass.op.slot_row[slot] == row && part->status == HM_OK;
        }
        assert_int_equal(answers, K_BEST);
    }
    close_swarm();
}

static void a_busy_servers_other_experts_are_asked_where_there_is_nobody_else(void **state)
{
    (void)state;
    open_swarm(23, K_BEST, 5);
    /* All are spares of all; of server 0, whose experts are 0.0, 1.0 and 2.0, only one is busy. */
    refuse("ffn.1.0", HM_ERR_BUSY);
    refuse("ffn.0.1", HM_ERR_EXPERT_GONE);
    refuse("ffn.1.1", HM_ERR_EXPERT_GONE);
    refuse("ffn.2.1", HM_ERR_EXPERT_GONE);
    refuse("ffn.0.2", HM_ERR_EXPERT_GONE);
    forward_is_well(); /* four experts are left: 0.0 and 2.0 of server 0, 1.2 and 2.2 */
    assert_true(moe_expert(&swarm, "ffn.0.0", NULL)->forwards > 0);
    assert_true(moe_expert(&swarm, "ffn.2.0", NULL)->forwards > 0);
    static const char *const gone[] = {"ffn.1.0", "ffn.0.1", "ffn.1.1", "ffn.2.1", "ffn.0.2", NULL};
    float wanted[64 * MOE_HIDDEN];
    struct standing standing = all_but(gone);
    moe_direct_forward(&pass, 9, stands, &standing, wanted);
    moe_assert_near(pass.y, wanted, ROWS * MOE_HIDDEN, 1e-4f);
    close_swarm();
}

static void where_everybody_refuses_the_pass_ends_at_once_after_a_bounded_search(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_BUSY, HM_ERR_DRAINING, HM_ERR_REFUSED,
                                              HM_ERR_TOO_BIG};
    for (unsigned i = 0; i < 4; i++) {
        open_swarm(31 + i, 1, 3);
        for (unsigned s = 0; s < 3; s++) swarm.server[s].refuses = statuses[i];
        pass.y[0] = 77;
        assert_status(moe_forward(&pass), statuses[i]);
        assert_true(pass.result.took < HM_S);
        assert_true(pass.y[0] == 77);
        for (unsigned s = 0; s < 3; s++) /* a turn each: the choices, then three spares */
            assert_true(swarm.server[s].calls >= 1 && swarm.server[s].calls <= 4);
        assert_true(pass.op.slot_count <= ROWS * (K_BEST + 3));
        close_swarm();
    }
}

static void spares_that_are_silent_cost_no_more_than_the_wait_for_the_rest(void **state)
{
    (void)state;
    open_with(
        27, 1,
        &(struct hm_mixture_conf){.k_best = 2, .spares = 1, .timeout_after_k_min = 100 * HM_MS});
    memset(pass.logits, 0, sizeof pass.logits);
    pass.logits[0] = pass.logits[MOE_GRID] = 5; /* ffn.0.0, then ffn.0.1, then ffn.1.0 */
    pass.logits[MOE_GRID + 1] = 4;
    pass.logits[1] = 3;
    refuse("ffn.0.0", HM_ERR_EXPERT_GONE);
    moe_expert(&swarm, "ffn.1.0", NULL)->forward = MOE_SILENT;
    forward_is_well();
    assert_int_equal(pass.op.part_count, 3);
    assert_string_equal(pass.op.part[2].uid.text, "ffn.1.0");
    assert_status(pass.op.part[2].status, HM_ERR_TIMED_OUT);
    assert_in_range(pass.result.took, 100 * HM_MS, 200 * HM_MS);
    close_swarm();
}

static bool is_well(const struct hm_mixture_op *op, const struct hm_beam_choice *choice,
                    const char *const *bad)
{
    for (; *bad; bad++)
        if (strcmp(op->beam.expert[choice->expert].uid.text, *bad) == 0) return false;
    return true;
}

/* Who refuses at a moment of its own makes parts of its own. */
static void every_row_gets_what_spares_there_are_however_often_somebody_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {"ffn.0.0", "ffn.1.0", "ffn.2.0", NULL};
    enum { MANY = 64, SPARES = 2, K = 2 };
    for (uint64_t seed = 1; seed <= 20; seed++) {
        open_with(seed, MANY, &(struct hm_mixture_conf){.k_best = K, .spares = SPARES});
        for (unsigned i = 0; i < 3; i++) {
            refuse(bad[i], HM_ERR_BUSY);
            moe_expert(&swarm, bad[i], NULL)->delay = (10 + 20 * i) * HM_MS;
        }
        (void)moe_forward(&pass); /* a row may have but these as candidates */
        const struct hm_mixture_op *op = &pass.op;
        for (uint32_t row = 0; row < MANY; row++) {
            unsigned answers = 0, unasked = 0;
            for (uint32_t slot = 0; slot < op->slot_count; slot++)
                answers +=
                    op->slot_row[slot] == row && op->part[op->slot_part[slot]].status == HM_OK;
            for (uint32_t k = 0; k < SPARES; k++)
                unasked += op->slot_of[row * (K + SPARES) + K + k] == UINT32_MAX &&
                           is_well(op, &op->beam.spare[row * SPARES + k], bad);
            if (pass.result.status == HM_OK) assert_true(answers == K || unasked == 0);
        }
        close_swarm();
    }
}

static void a_spare_that_is_late_is_not_suspected_for_it(void **state)
{
    (void)state;
    open_with(40, 2, &(struct hm_mixture_conf){.k_best = 1, .spares = 1});
    memset(pass.logits, 0, sizeof pass.logits);
    float *row = pass.logits; /* ffn.0.0 of server 0, then ffn.0.1 of server 1 */
    row[0] = row[MOE_GRID] = 5;
    row[MOE_GRID + 1] = 4;
    row += 2 * MOE_GRID; /* ffn.2.2 of server 2 */
    row[2] = row[MOE_GRID + 2] = 5;
    refuse("ffn.0.0", HM_ERR_BUSY);
    moe_expert(&swarm, "ffn.0.1", NULL)->forward = MOE_SILENT;
    assert_status(moe_forward(&pass), HM_ERR_TIMED_OUT);
    assert_int_equal(swarm.server[1].calls, 1);
    moe_expert(&swarm, "ffn.0.1", NULL)->forward = MOE_GOOD;
    forward_is_well();
    assert_int_equal(swarm.server[1].calls, 2);
    close_swarm();
}

static void other_failures_are_masked_as_without_spares(void **state)
{
    (void)state;
    static const enum hm_status statuses[] = {HM_ERR_SHAPE, HM_ERR_NUMERIC};
    for (unsigned i = 0; i < 2; i++) {
        open_swarm(30, 1, 3);
        refuse("ffn.1.1", statuses[i]);
        assert_status(moe_forward(&pass), HM_OK);
        for (unsigned s = 0; s < 3; s++) assert_true(swarm.server[s].calls <= 1);
        assert_int_equal(pass.op.parts_failed, 1);
        close_swarm();
    }
}

static void where_nobody_refuses_and_the_beam_has_all_spares_change_nothing(void **state)
{
    (void)state;
    float y[2][64 * MOE_HIDDEN];
    struct hm_dispatch_stats stats[2];
    struct hm_beam_choice choice[2][ROWS * K_BEST];
    for (unsigned i = 0; i < 2; i++) {
        open_swarm(28, 1, i * 3);
        forward_is_well();
        memcpy(y[i], pass.y, sizeof y[i]);
        hm_dispatch_stats(swarm.dispatch, &stats[i]);
        for (uint32_t k = 0; k < ROWS * K_BEST; k++) {
            choice[i][k] = pass.op.beam.choice[k];
            const struct hm_uid *uid = &pass.op.beam.expert[choice[i][k].expert].uid;
            choice[i][k].expert = uid->coordinate[0] * MOE_GRID + uid->coordinate[1];
        }
        close_swarm();
    }
    moe_assert_near(y[1], y[0], ROWS * MOE_HIDDEN, 0);
    for (uint32_t k = 0; k < ROWS * K_BEST; k++) {
        assert_int_equal(choice[0][k].expert, choice[1][k].expert);
        assert_true(choice[0][k].logit == choice[1][k].logit);
    }
    assert_int_equal(stats[0].calls, stats[1].calls);
    assert_int_equal(stats[0].parts, stats[1].parts);
    assert_int_equal(stats[0].rows, stats[1].rows);
}

static void more_spares_than_a_beam_holds_are_refused_with_a_line(void **state)
{
    (void)state;
    struct hm_mixture_conf conf;
    struct hm_mixture *mixture = NULL;
    moe_swarm_open(&swarm, 29, 0);
    moe_conf(&swarm, &conf);
    conf.spares = HM_BEAM_MAX - conf.k_best + 1;
    assert_status(hm_mixture_create(&conf, &mixture), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "61 spare experts with a k_best of 4"));
    conf.spares--;
    assert_ok(hm_mixture_create(&conf, &mixture));
    hm_mixture_destroy(mixture);
    moe_swarm_close(&swarm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_an_expert_that_refuses_go_to_their_next_best),
        cmocka_unit_test(without_spares_the_same_pass_has_too_few_answers),
        cmocka_unit_test(what_is_served_by_a_busy_server_is_asked_last),
        cmocka_unit_test(a_busy_servers_other_experts_are_asked_where_there_is_nobody_else),
        cmocka_unit_test(where_everybody_refuses_the_pass_ends_at_once_after_a_bounded_search),
        cmocka_unit_test(spares_that_are_silent_cost_no_more_than_the_wait_for_the_rest),
        cmocka_unit_test(every_row_gets_what_spares_there_are_however_often_somebody_refuses),
        cmocka_unit_test(a_spare_that_is_late_is_not_suspected_for_it),
        cmocka_unit_test(other_failures_are_masked_as_without_spares),
        cmocka_unit_test(where_nobody_refuses_and_the_beam_has_all_spares_change_nothing),
        cmocka_unit_test(more_spares_than_a_beam_holds_are_refused_with_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
