/* Storms: on every seed other faults, drawn at random.  Every pass ends once, by its deadline; one
 *         that succeeds equals the
 * direct computation over those that it says have answered; no backward is applied twice; and when
 * the storm is over, everything is well again. */
#include "support_moe.h"

#include "base/rng.h"
#include "moe/mixture_internal.h"

#include <math.h>
#include <stdio.h>

enum { SEEDS = 60, PASSES = 25 };
static struct moe_swarm swarm;
static unsigned spares_answered; /* over all seeds */

/* The average over a row's survivors, from the op's own candidates: what is alive changes in a storm,
 * so they are not those of the whole grid. */
static void check_forward(const struct moe_pass *pass)
{
    const struct hm_mixture_op *op = &pass->op;
    for (uint32_t row = 0; row < pass->rows; row++) {
        double sum = 0;
        float y[MOE_HIDDEN] = {0};
        unsigned answers = 0;
        for (int round = 0; round < 2; round++) {
            for (uint32_t k = 0; k < hm_mixture_candidates(op, row); k++) {
                const struct hm_beam_choice *choice = hm_mixture_candidate(op, row, k);
                float one[MOE_HIDDEN];
                if (hm_mixture_answered(op, row, k) == HM_NO_SLOT) continue;
                if (round == 0) {
                    spares_answered += k >= op->beam.k_best;
                    sum += exp(choice->logit);
                    answers++;
                    continue;
                }
                moe_expert_forward(&op->beam.expert[choice->expert].uid, pass->x + row * MOE_HIDDEN,
                                   one);
                for (unsigned i = 0; i < MOE_HIDDEN; i++)
                    y[i] += (float)(exp(choice->logit) / sum) * one[i];
            }
        }
        /* More than k_best where one was asked again, which other rows needed. */
        assert_in_range(answers, 1, hm_mixture_candidates(op, row));
        moe_assert_near(pass->y + row * MOE_HIDDEN, y, MOE_HIDDEN, 1e-4f);
    }
}

static void draw_faults(struct hm_rng *rng)
{
    struct hm_net_options options;
    hm_net_options_default(&options);
    options.break_per_million_messages = (unsigned)hm_rng_below(rng, 30000);
    options.busy_per_million = (unsigned)hm_rng_below(rng, 100000);
    options.delay_max = HM_MS + hm_rng_below(rng, 40 * HM_MS);
    hm_net_set_options(swarm.world, &options);
    for (unsigned s = 0; s < swarm.server_count; s++) {
        for (unsigned e = 0; e < swarm.server[s].expert_count; e++) {
            struct moe_expert *expert = &swarm.server[s].expert[e];
            static const enum hm_status statuses[] = {HM_ERR_BUSY, HM_ERR_EXPERT_GONE,
                                                      HM_ERR_REFUSED, HM_ERR_DRAINING};
            bool bad = hm_rng_below(rng, 5) == 0;
            expert->forward = bad ? (enum moe_behaviour)hm_rng_below(rng, 6) : MOE_GOOD;
            expert->backward =
                hm_rng_below(rng, 5) == 0 ? (enum moe_behaviour)hm_rng_below(rng, 6) : MOE_GOOD;
            expert->fails_with = statuses[hm_rng_below(rng, 4)];
            expert->retry_after_us = (uint32_t)hm_rng_below(rng, 50000) >> hm_rng_below(rng, 17);
            expert->fails_first = (unsigned)hm_rng_below(rng, 3);
            expert->delay = hm_rng_below(rng, 4) == 0 ? hm_rng_below(rng, 3 * HM_S) + 1 : 0;
        }
    }
}

static void heal(void)
{
    struct hm_net_options options;
    hm_net_options_default(&options);
    hm_net_set_options(swarm.world, &options);
    for (unsigned s = 0; s < swarm.server_count; s++) {
        for (unsigned e = 0; e < swarm.server[s].expert_count; e++) {
            swarm.server[s].expert[e].forward = swarm.server[s].expert[e].backward = MOE_GOOD;
            swarm.server[s].expert[e].delay = 0;
            swarm.server[s].expert[e].fails_first = 0;
        }
        if (!swarm.server[s].node.open) moe_server_open(&swarm, s);
    }
}

static void crash_or_restart(struct hm_rng *rng)
{
    struct moe_server *server = &swarm.server[hm_rng_below(rng, swarm.server_count)];
    unsigned open = 0;
    for (unsigned s = 0; s < swarm.server_count; s++) open += swarm.server[s].node.open;
    if (server->node.open && open > 1) moe_server_crash(server);
}

static void storm(uint64_t seed)
{
    struct hm_rng rng;
    static struct moe_pass pass;
    struct hm_mixture_conf conf;
    unsigned good = 0, backs = 0;
    hm_rng_init(&rng, seed, 31);
    moe_swarm_open(&swarm, seed, 2 + (unsigned)hm_rng_below(&rng, 3));
    moe_conf(&swarm, &conf);
    conf.forward_timeout = conf.backward_timeout = 2 * HM_S;
    conf.timeout_after_k_min = hm_rng_below(&rng, 2) ? 300 * HM_MS : 0;
    conf.backward_k_min = (uint32_t)hm_rng_below(&rng, 2);
    conf.spares = (uint32_t)hm_rng_below(&rng, 4);
    moe_pass_init(&pass, &swarm, &conf, 1 + (uint32_t)hm_rng_below(&rng, 60), seed);
    for (unsigned i = 0; i < PASSES; i++) {
        draw_faults(&rng);
        if (i % 8 == 7) crash_or_restart(&rng);
        enum hm_status status = moe_forward(&pass);
        assert_true(pass.result.took <= 2 * HM_S);
        if (status != HM_OK) {
            assert_true(pass.result.line[0] != '\0');
            continue;
        }
        good++;
        check_forward(&pass);
        status = moe_backward(&pass);
        assert_true(pass.result.took <= 2 * HM_S);
        for (unsigned k = 0; status == HM_OK && k < pass.rows * MOE_HIDDEN; k++)
            assert_true(isfinite(pass.dx[k]));
        backs += status == HM_OK;
        hm_mixture_release(&pass.op);
    }
    if (good == 0 || backs == 0)
        fail_msg("seed %u: no pass succeeded; the last: %s", (unsigned)seed, pass.result.line);

    heal();
    moe_run(&swarm, 90 * HM_S); /* back-offs and holds pass */
    float wanted[64 * MOE_HIDDEN], dx[64 * MOE_HIDDEN], dlogits[64 * 2 * MOE_GRID];
    enum hm_status status = moe_forward(&pass);
    for (unsigned tries = 0; tries < 20 && (status != HM_OK || pass.op.parts_failed > 0); tries++) {
        moe_run(&swarm, 5 * HM_S);
        status = moe_forward(&pass);
    }
    if (status != HM_OK) fail_msg("seed %u: after the storm: %s", (unsigned)seed, pass.result.line);
    moe_direct_forward(&pass, 4, NULL, NULL, wanted);
    moe_assert_near(pass.y, wanted, pass.rows * MOE_HIDDEN, 1e-4f);
    assert_status(moe_backward(&pass), HM_OK);
    moe_direct_backward(&pass, 4, NULL, NULL, NULL, dx, dlogits);
    moe_assert_near(pass.dx, dx, pass.rows * MOE_HIDDEN, 1e-4f);
    moe_pass_fini(&pass);
    moe_swarm_close(&swarm);
}

static void in_a_storm_every_pass_ends_in_time_and_what_succeeds_is_right(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        storm(seed);
    }
    assert_true(spares_answered > 0);
}

static uint64_t trace_of(uint64_t seed)
{
    static struct moe_pass pass;
    struct hm_rng rng;
    struct hm_mixture_conf conf;
    hm_rng_init(&rng, seed, 1);
    moe_swarm_open(&swarm, seed, 3);
    moe_conf(&swarm, &conf);
    conf.forward_timeout = 2 * HM_S;
    moe_pass_init(&pass, &swarm, &conf, 16, 1);
    for (unsigned i = 0; i < 5; i++) {
        draw_faults(&rng);
        if (moe_forward(&pass) == HM_OK) (void)moe_backward(&pass);
        hm_mixture_release(&pass.op);
    }
    uint64_t hash = hm_world_trace_hash(swarm.world);
    moe_pass_fini(&pass);
    moe_swarm_close(&swarm);
    return hash;
}

static void the_same_seed_replays(void **state)
{
    (void)state;
    assert_true(trace_of(5) == trace_of(5));
    assert_true(trace_of(5) != trace_of(6));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_a_storm_every_pass_ends_in_time_and_what_succeeds_is_right),
        cmocka_unit_test(the_same_seed_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
