/* A remote mixture equals the direct computation with all its experts at hand, whatever part of the
 * swarm fails: those that fail are masked, backward reaches whom forward reached, and the line says
 * what was wrong. */
#include "support_moe.h"

#include <math.h>

static struct moe_swarm swarm;
static struct moe_pass pass;

static void open_swarm(uint64_t seed, unsigned servers, uint32_t rows, struct hm_mixture_conf *conf)
{
    moe_swarm_open(&swarm, seed, servers);
    struct hm_mixture_conf standard;
    moe_conf(&swarm, &standard);
    if (conf) {
        standard.k_best = conf->k_best ? conf->k_best : standard.k_best;
        standard.k_min = conf->k_min ? conf->k_min : standard.k_min;
        standard.backward_k_min =
            conf->backward_k_min ? conf->backward_k_min - 1 : 1; /* + 1, so that 0 can be said */
        standard.timeout_after_k_min = conf->timeout_after_k_min;
        standard.name = conf->name ? conf->name : standard.name;
        standard.codec = conf->codec;
    }
    moe_pass_init(&pass, &swarm, &standard, rows, seed);
}

static void close_swarm(void)
{
    moe_pass_fini(&pass);
    moe_swarm_close(&swarm);
}

/* ---- forward ---- */

static void the_average_equals_the_direct_computation_with_one_call_a_server(void **state)
{
    (void)state;
    open_swarm(1, 3, 20, NULL);
    float wanted[64 * MOE_HIDDEN];
    assert_status(moe_forward(&pass), HM_OK);
    moe_direct_forward(&pass, 4, NULL, NULL, wanted);
    moe_assert_near(pass.y, wanted, 20 * MOE_HIDDEN, 1e-4f);
    assert_int_equal(pass.op.parts_failed, 0);
    /* Not one call a row and expert (80), but one a server, each row once. */
    struct hm_dispatch_stats stats;
    hm_dispatch_stats(swarm.dispatch, &stats);
    assert_int_equal(stats.calls, 3);
    assert_true(stats.parts > 3);
    assert_true(stats.rows <= 3 * 20);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(swarm.server[i].calls, 1);
        assert_true(swarm.server[i].rows_last <= 20);
    }
    close_swarm();
}

static void every_leading_dimension_is_rows(void **state)
{
    (void)state;
    open_swarm(2, 2, 12, NULL);
    float wanted[64 * MOE_HIDDEN];
    struct hm_tensor x = hm_matrix_f32(pass.x, 12, MOE_HIDDEN),
                     y = hm_matrix_f32(pass.y, 12, MOE_HIDDEN);
    struct hm_tensor logits = hm_matrix_f32(pass.logits, 12, 2 * MOE_GRID);
    x.shape = y.shape = (struct hm_shape){.dim_count = 4, .dim = {2, 3, 2, MOE_HIDDEN}};
    logits.shape = (struct hm_shape){.dim_count = 3, .dim = {6, 2, 2 * MOE_GRID}};
    assert_status(moe_forward(&pass), HM_OK);
    memcpy(wanted, pass.y, sizeof wanted);
    memset(pass.y, 0, sizeof pass.y);
    pass.result.done = false;
    hm_mixture_release(&pass.op);
    assert_ok(hm_mixture_forward(&pass.op, &x, &logits, &y, HM_NS_NEVER, pass.op.cb));
    moe_wait(&swarm, &pass.result.done, 60 * HM_S);
    assert_status(pass.result.status, HM_OK);
    moe_assert_near(pass.y, wanted, 12 * MOE_HIDDEN, 1e-6f);
    /* And one dimension is one row. */
    x.shape = y.shape = (struct hm_shape){.dim_count = 1, .dim = {MOE_HIDDEN}};
    logits.shape = (struct hm_shape){.dim_count = 1, .dim = {2 * MOE_GRID}};
    pass.result.done = false;
    hm_mixture_release(&pass.op);
    assert_ok(hm_mixture_forward(&pass.op, &x, &logits, &y, HM_NS_NEVER, pass.op.cb));
    moe_wait(&swarm, &pass.result.done, 60 * HM_S);
    assert_status(pass.result.status, HM_OK);
    moe_assert_near(pass.y, wanted, MOE_HIDDEN, 1e-6f);
    close_swarm();
}

static void choosing_alone_calls_nobody_and_tells_the_best(void **state)
{
    (void)state;
    open_swarm(3, 2, 5, NULL);
    assert_status(moe_choose(&pass), HM_OK);
    for (uint32_t row = 0; row < 5; row++) {
        assert_int_equal(pass.op.beam.choice_count[row], 4);
        const struct hm_beam_choice *choice = &pass.op.beam.choice[row * 4];
        for (unsigned k = 0; k < 4; k++) {
            const struct hm_uid *uid = &pass.op.beam.expert[choice[k].expert].uid;
            const float *logit = pass.logits + row * 2 * MOE_GRID;
            float sum = logit[uid->coordinate[0]] + logit[MOE_GRID + uid->coordinate[1]];
            assert_true(fabsf(choice[k].logit - sum) < 1e-6f);
            if (k > 0) assert_true(choice[k].logit <= choice[k - 1].logit);
        }
        for (unsigned i = 0; i < MOE_GRID * MOE_GRID; i++) { /* nobody better was left out */
            const float *logit = pass.logits + row * 2 * MOE_GRID;
            float sum = logit[i / MOE_GRID] + logit[MOE_GRID + i % MOE_GRID];
            unsigned better = 0;
            for (unsigned k = 0; k < 4; k++) better += choice[k].logit >= sum;
            assert_true(better == 4 || sum >= choice[3].logit);
        }
    }
    assert_int_equal(swarm.server[0].calls + swarm.server[1].calls, 0);
    close_swarm();
}

/* ---- who is masked ---- */

static bool not_masked(void *arg, uint32_t row, const char *uid)
{
    (void)row;
    const char *const *masked = arg;
    for (; *masked; masked++) {
        if (strcmp(*masked, uid) == 0) return false;
    }
    return true;
}

static void experts_that_fail_lie_or_come_late_are_masked(void **state)
{
    (void)state;
    open_swarm(4, 3, 20, &(struct hm_mixture_conf){.timeout_after_k_min = 200 * HM_MS});
    static const char *const masked[] = {"ffn.0.0", "ffn.0.1", "ffn.1.2", "ffn.2.2", NULL};
    moe_expert(&swarm, "ffn.0.0", NULL)->forward = MOE_FAILS;
    moe_expert(&swarm, "ffn.0.1", NULL)->forward = MOE_NAN;
    moe_expert(&swarm, "ffn.1.2", NULL)->delay = 5 * HM_S;
    moe_expert(&swarm, "ffn.2.2", NULL)->forward = MOE_SILENT;
    float wanted[64 * MOE_HIDDEN];
    enum hm_status status = moe_forward(&pass);
    if (status != HM_OK) fail_msg("%s: %s", hm_status_name(status), pass.result.line);
    moe_direct_forward(&pass, 4, not_masked, (void *)masked, wanted);
    moe_assert_near(pass.y, wanted, 20 * MOE_HIDDEN, 1e-4f);
    assert_int_equal(pass.op.parts_failed, 4);
    assert_true(pass.result.took < 2 * HM_S);
    /* What comes after the end changes nothing. */
    memcpy(wanted, pass.y, sizeof wanted);
    moe_run(&swarm, 10 * HM_S);
    assert_memory_equal(wanted, pass.y, sizeof wanted);
    close_swarm();
}

static void a_server_that_breaks_the_protocol_is_masked_and_suspected(void **state)
{
    (void)state;
    open_swarm(5, 3, 10, NULL);
    struct moe_server *liar;
    moe_expert(&swarm, "ffn.1.1", &liar)->forward = MOE_WRONG_ROWS;
    for (uint32_t row = 0; row < 10; row++)
        pass.logits[row * 6 + 1] = pass.logits[row * 6 + 4] = 3; /* ffn.1.1 is best */
    assert_status(moe_forward(&pass), HM_OK);
    assert_true(pass.op.parts_failed > 0);
    assert_status(pass.op.part_status, HM_ERR_PEER_PROTOCOL);
    unsigned calls = liar->calls;
    assert_status(moe_forward(&pass), HM_OK); /* without him */
    assert_int_equal(liar->calls, calls);
    assert_int_equal(pass.op.parts_failed, 0);
    close_swarm();
}

/* ---- k_min and deadlines ---- */

static void without_k_min_answers_the_pass_fails_at_its_deadline_never_later(void **state)
{
    (void)state;
    open_swarm(6, 3, 8, &(struct hm_mixture_conf){.k_min = 3});
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++)
            swarm.server[i].expert[e].forward = MOE_SILENT;
    }
    pass.y[0] = 77;
    assert_status(moe_forward(&pass), HM_ERR_TIMED_OUT);
    assert_int_equal(pass.result.took, 10 * HM_S);
    assert_non_null(strstr(pass.result.line, "row 0 has 0 of the 3 answers it needs"));
    assert_true(pass.y[0] == 77);
    close_swarm();
}

static void when_k_min_cannot_be_reached_any_more_nobody_waits(void **state)
{
    (void)state;
    open_swarm(7, 3, 8, &(struct hm_mixture_conf){.k_min = 3});
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
            swarm.server[i].expert[e].forward = i == 2 ? MOE_SILENT : MOE_FAILS;
            swarm.server[i].expert[e].fails_with = HM_ERR_BUSY;
        }
    }
    pass.y[0] = 77;
    assert_status(moe_forward(&pass),
                  HM_ERR_BUSY); /* the first failure's own status, not a time-out */
    assert_true(pass.result.took < HM_S);
    assert_true(pass.y[0] == 77);
    close_swarm();
}

static void k_min_is_enough_and_ends_the_wait_for_the_rest(void **state)
{
    (void)state;
    open_swarm(8, 3, 6, &(struct hm_mixture_conf){.k_min = 2, .timeout_after_k_min = 100 * HM_MS});
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++)
            swarm.server[i].expert[e].delay = (i == 0 ? 2000 : 300) * HM_MS;
    }
    enum hm_status status = moe_forward(&pass);
    if (status != HM_OK) fail_msg("%s: %s", hm_status_name(status), pass.result.line);
    assert_true(pass.result.took > 300 * HM_MS);
    bool needs_first = false; /* some row has only one expert outside server 0 */
    for (uint32_t row = 0; row < 6; row++) {
        unsigned others = 0;
        for (unsigned k = 0; k < 4; k++) {
            const struct hm_beam_expert *expert =
                &pass.op.beam.expert[pass.op.beam.choice[row * 4 + k].expert];
            others += !hm_node_id_equal(&expert->server, &swarm.server[0].node.id);
        }
        needs_first = needs_first || others < 2;
    }
    if (needs_first)
        assert_true(pass.result.took > 2 * HM_S);
    else
        assert_true(pass.result.took < HM_S);
    close_swarm();
}

/* ---- empty grids and wrong shapes ---- */

static void an_empty_grid_is_not_found_and_the_line_says_so(void **state)
{
    (void)state;
    open_swarm(9, 0, 4, NULL);
    assert_status(moe_forward(&pass), HM_ERR_NOT_FOUND);
    assert_non_null(strstr(pass.result.line, "no live experts under 'ffn.'"));
    assert_status(moe_choose(&pass), HM_ERR_NOT_FOUND);
    close_swarm();
    open_swarm(9, 1, 4, &(struct hm_mixture_conf){.name = "other"});
    assert_status(moe_forward(&pass), HM_ERR_NOT_FOUND);
    assert_non_null(strstr(pass.result.line, "'other.'"));
    close_swarm();
}

static void fewer_live_experts_than_k_min_are_not_found(void **state)
{
    (void)state;
    moe_swarm_open(&swarm, 10, 0);
    swarm.server_count = 1;
    moe_server_host(&swarm.server[0], "ffn.1.1");
    moe_server_host(&swarm.server[0], "ffn.2.0");
    moe_server_host(&swarm.server[0], "ffn.7.0"); /* outside the grid: never chosen */
    moe_server_open(&swarm, 0);
    struct hm_mixture_conf conf;
    moe_conf(&swarm, &conf);
    conf.k_min = 3;
    moe_pass_init(&pass, &swarm, &conf, 3, 10);
    assert_status(moe_forward(&pass), HM_ERR_NOT_FOUND);
    assert_non_null(strstr(pass.result.line, "found 2 live experts"));
    moe_pass_fini(&pass);
    conf.k_min = 2;
    moe_pass_init(&pass, &swarm, &conf, 3, 10);
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(pass.op.beam.choice_count[0], 2);
    close_swarm();
}

static void a_wrong_shape_is_an_error_at_once_not_a_wait(void **state)
{
    (void)state;
    open_swarm(11, 2, 4, NULL);
    struct hm_tensor x = hm_matrix_f32(pass.x, 4, MOE_HIDDEN),
                     y = hm_matrix_f32(pass.y, 4, MOE_HIDDEN);
    struct hm_tensor logits = hm_matrix_f32(pass.logits, 4, 2 * MOE_GRID), bad = x;
    bad.shape.dim[1] = MOE_HIDDEN - 1;
    assert_status(hm_mixture_forward(&pass.op, &bad, &logits, &y, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_SHAPE);
    assert_non_null(strstr(hm_fail_line(), "f32[4x5]; its last dimension must be 6"));
    bad = logits;
    bad.shape.dim[0] = 3;
    assert_status(hm_mixture_forward(&pass.op, &x, &bad, &y, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_SHAPE);
    bad = y;
    bad.shape.dim[0] = 3;
    assert_status(hm_mixture_forward(&pass.op, &x, &logits, &bad, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_SHAPE);
    bad = x;
    bad.shape.dim[0] = 0;
    assert_status(hm_mixture_forward(&pass.op, &bad, &logits, &y, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_SHAPE);
    bad = x;
    bad.dtype = HM_I64;
    assert_status(hm_mixture_forward(&pass.op, &bad, &logits, &y, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_SHAPE);
    /* The experts have another width than we believe: their refusal ends the pass, not its
     * deadline. */
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
            swarm.server[i].expert[e].forward = MOE_FAILS;
            swarm.server[i].expert[e].fails_with = HM_ERR_SHAPE;
        }
    }
    assert_status(moe_forward(&pass), HM_ERR_SHAPE);
    assert_true(pass.result.took < HM_S);
    assert_non_null(strstr(pass.result.line, "shape or type does not fit"));
    pass.logits[2] = NAN;
    assert_status(hm_mixture_forward(&pass.op, &x, &logits, &y, HM_NS_NEVER, pass.op.cb),
                  HM_ERR_NUMERIC);
    close_swarm();
}

/* ---- backward ---- */

static void backward_equals_the_direct_gradient_and_reaches_whom_forward_used(void **state)
{
    (void)state;
    open_swarm(12, 3, 20, &(struct hm_mixture_conf){.timeout_after_k_min = 200 * HM_MS});
    static const char *const masked[] = {"ffn.1.0", NULL};
    moe_expert(&swarm, "ffn.1.0", NULL)->forward = MOE_FAILS;
    moe_expert(&swarm, "ffn.1.0", NULL)->fails_with = HM_ERR_BUSY;
    float dx[64 * MOE_HIDDEN], dlogits[64 * 2 * MOE_GRID];
    assert_status(moe_forward(&pass), HM_OK);
    assert_status(moe_backward(&pass), HM_OK);
    moe_direct_backward(&pass, 4, not_masked, NULL, (void *)masked, dx, dlogits);
    moe_assert_near(pass.dx, dx, 20 * MOE_HIDDEN, 1e-4f);
    moe_assert_near(pass.dlogits, dlogits, 20 * 2 * MOE_GRID, 1e-4f);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(swarm.server[i].calls <= 2); /* one forward, one backward, each row once */
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
            const struct moe_expert *expert = &swarm.server[i].expert[e];
            assert_int_equal(expert->backwards, expert->forwards);
            assert_int_equal(expert->step, expert->forwards);
            if (expert->forwards)
                assert_int_equal(expert->row_count_backward, expert->row_count_forward);
        }
    }
    assert_int_equal(moe_expert(&swarm, "ffn.1.0", NULL)->backwards, 0);
    close_swarm();
}

/* ---- coded rows ---- */

static void coded_rows_give_nearly_the_same_and_gradients_too(void **state)
{
    (void)state;
    const float tolerance[HM_CODEC_COUNT] = {1e-4f, 4e-3f, 4e-2f, 4e-2f};
    for (uint8_t id = 0; id < HM_CODEC_COUNT; id++) {
        open_swarm(12, 3, 20, &(struct hm_mixture_conf){.codec = hm_codec_find(id)});
        float y[64 * MOE_HIDDEN], dx[64 * MOE_HIDDEN], dlogits[64 * 2 * MOE_GRID];
        struct hm_dispatch_stats stats;
        assert_status(moe_forward(&pass), HM_OK);
        moe_direct_forward(&pass, 4, NULL, NULL, y);
        moe_assert_near(pass.y, y, 20 * MOE_HIDDEN, tolerance[id]);
        assert_status(moe_backward(&pass), HM_OK);
        moe_direct_backward(&pass, 4, NULL, NULL, NULL, dx, dlogits);
        moe_assert_near(pass.dx, dx, 20 * MOE_HIDDEN, tolerance[id]);
        moe_assert_near(pass.dlogits, dlogits, 20 * 2 * MOE_GRID, 2 * tolerance[id]);
        hm_dispatch_stats(swarm.dispatch, &stats);
        assert_int_equal(stats.calls, 6);
        assert_int_equal(stats.calls_coded, id == HM_CODEC_NONE ? 0 : 6);
        close_swarm();
    }
}

static void servers_that_do_not_take_the_codec_get_plain_rows(void **state)
{
    (void)state;
    open_swarm(12, 3, 20, &(struct hm_mixture_conf){.codec = hm_codec_find(HM_CODEC_U8)});
    swarm.server[1].codecs_not = 1 << HM_CODEC_U8;
    moe_server_declare(&swarm.server[1], false, false);
    assert_status(moe_forward(&pass), HM_OK);
    assert_status(moe_backward(&pass), HM_OK);
    assert_int_equal(pass.op.parts_failed, 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(swarm.server[i].calls, 2);
        assert_int_equal(swarm.server[i].calls_coded, i == 1 ? 0 : 2);
    }
    close_swarm();
}

static void a_server_that_refuses_a_codec_gets_plain_rows_until_its_next_record(void **state)
{
    (void)state;
    open_swarm(12, 3, 20, &(struct hm_mixture_conf){.codec = hm_codec_find(HM_CODEC_BF16)});
    swarm.server[0].refuses_coded = true;
    assert_status(moe_forward(&pass), HM_OK); /* the others are enough */
    assert_true(pass.op.parts_failed > 0);
    assert_status(pass.op.part_status, HM_ERR_UNSUPPORTED);
    hm_mixture_release(&pass.op);
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(pass.op.parts_failed, 0);
    assert_int_equal(swarm.server[0].calls_coded, 0);
    assert_int_equal(swarm.server[1].calls_coded, 2);
    hm_mixture_release(&pass.op);
    swarm.server[0].refuses_coded = false;
    moe_run(&swarm, 45 * HM_S); /* it declares itself, */
    assert_status(moe_forward(&pass), HM_OK);
    hm_mixture_release(&pass.op);
    moe_run(&swarm, HM_S); /* which is read behind an answer */
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(pass.op.parts_failed, 0);
    assert_true(swarm.server[0].calls_coded > 0);
    close_swarm();
}

static void rows_that_no_codec_can_say_are_the_callers_fault_and_cost_no_call(void **state)
{
    (void)state;
    open_swarm(12, 2, 20, &(struct hm_mixture_conf){.codec = hm_codec_find(HM_CODEC_F16)});
    for (unsigned row = 0; row < 20; row++) pass.x[row * MOE_HIDDEN + 3] = NAN;
    assert_status(moe_forward(&pass), HM_ERR_NUMERIC);
    assert_int_equal(swarm.server[0].calls + swarm.server[1].calls, 0);
    close_swarm();
}

static void an_expert_that_fails_in_backward_is_a_constant(void **state)
{
    (void)state;
    open_swarm(13, 3, 20, NULL);
    static const char *const failing[] = {"ffn.0.2", "ffn.2.1", NULL};
    float dx[64 * MOE_HIDDEN], dlogits[64 * 2 * MOE_GRID];
    assert_status(moe_forward(&pass), HM_OK);
    moe_expert(&swarm, "ffn.0.2", NULL)->backward = MOE_FAILS;
    moe_expert(&swarm, "ffn.0.2", NULL)->fails_with = HM_ERR_DUPLICATE;
    moe_expert(&swarm, "ffn.2.1", NULL)->backward = MOE_NAN;
    assert_status(moe_backward(&pass), HM_OK);
    moe_direct_backward(&pass, 4, NULL, not_masked, (void *)failing, dx, dlogits);
    moe_assert_near(pass.dx, dx, 20 * MOE_HIDDEN, 1e-4f);
    moe_assert_near(pass.dlogits, dlogits, 20 * 2 * MOE_GRID,
                    1e-4f); /* its share of the gate's gradient stays */
    assert_int_equal(pass.op.parts_failed, 2);
    close_swarm();
}

static void backward_k_min_decides_whether_lost_gradients_are_an_error(void **state)
{
    (void)state;
    for (unsigned k_min = 0; k_min < 2; k_min++) {
        open_swarm(14, 3, 6, &(struct hm_mixture_conf){.backward_k_min = k_min + 1});
        assert_status(moe_forward(&pass), HM_OK);
        for (unsigned i = 0; i < 3; i++) {
            for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
                swarm.server[i].expert[e].backward = MOE_FAILS;
                swarm.server[i].expert[e].fails_with = HM_ERR_BUSY;
            }
        }
        pass.dx[0] = 77;
        assert_status(moe_backward(&pass), k_min ? HM_ERR_BUSY : HM_OK);
        if (k_min) assert_true(pass.dx[0] == 77);
        for (unsigned i = 0; !k_min && i < 6 * MOE_HIDDEN; i++) assert_true(pass.dx[i] == 0);
        float gate = 0;
        for (unsigned i = 0; !k_min && i < 6 * 2 * MOE_GRID; i++) gate += fabsf(pass.dlogits[i]);
        if (!k_min) assert_true(gate > 0);
        close_swarm();
    }
}

static void a_backward_is_never_repeated(void **state)
{
    (void)state;
    open_swarm(15, 2, 10, NULL);
    for (unsigned i = 0; i < 20; i++) {
        assert_status(moe_forward(&pass), HM_OK);
        if (i % 3 == 1) { /* the connection breaks while the answer is on its way */
            moe_backward_start(&pass);
            moe_run(&swarm, 2 * HM_MS);
            hm_net_break(swarm.world, moe_number(1 + i % 2),
                         hm_net_find(swarm.world, &swarm.trainer.id));
            moe_wait(&swarm, &pass.result.done, 60 * HM_S);
            moe_run(&swarm, 20 * HM_S);
        } else {
            (void)moe_backward(&pass);
        }
        hm_mixture_release(&pass.op);
    }
    uint64_t steps = 0, parts = 0;
    for (unsigned s = 0; s < 2;
         s++) { /* log_backward asserted that no (incarnation, sequence) came twice */
        for (unsigned i = 1; i < swarm.server[s].log_count; i++) {
            assert_true(swarm.server[s].log[i][0] == swarm.server[0].log[0][0]);
            assert_true(swarm.server[s].log[i][1] > swarm.server[s].log[i - 1][1]);
        }
        assert_true(swarm.server[s].log_count <= 20);
        for (unsigned e = 0; e < swarm.server[s].expert_count; e++) {
            steps += swarm.server[s].expert[e].step;
            parts += swarm.server[s].expert[e].forwards;
            assert_true(swarm.server[s].expert[e].step <= 20);
        }
    }
    assert_true(steps > 0 && steps <= parts);
    close_swarm();
}

/* ---- servers that die and come back ---- */

static void a_dead_server_teaches_at_once_and_is_found_again(void **state)
{
    (void)state;
    open_swarm(16, 3, 16, NULL);
    assert_status(moe_forward(&pass), HM_OK);
    moe_server_crash(&swarm.server[1]);
    enum hm_status status = moe_forward(&pass);
    if (status != HM_OK) fail_msg("%s: %s", hm_status_name(status), pass.result.line);
    assert_true(pass.result.took < 2 * HM_S);
    /* Its records live on in the DHT for up to ten minutes, and nobody calls it any more. */
    struct hm_dispatch_stats before, after;
    hm_dispatch_stats(swarm.dispatch, &before);
    for (unsigned i = 0; i < 5; i++) {
        assert_status(moe_forward(&pass), HM_OK);
        assert_int_equal(pass.op.parts_failed, 0);
        assert_true(pass.result.took < HM_S);
        for (unsigned e = 0; e < pass.op.beam.expert_count; e++)
            assert_false(
                hm_node_id_equal(&pass.op.beam.expert[e].server, &swarm.server[1].node.id));
    }
    hm_dispatch_stats(swarm.dispatch, &after);
    assert_int_equal(after.calls_failed, before.calls_failed);
    assert_int_equal(after.calls, before.calls + 5 * 2);
    /* The same key, somewhere else in time: it is found again within seconds of its declaration. */
    moe_server_open(&swarm, 1);
    hm_ns up = hm_loop_now(swarm.loop);
    bool found = false;
    while (!found) {
        assert_status(moe_forward(&pass), HM_OK);
        for (unsigned e = 0; e < pass.op.beam.expert_count; e++)
            found =
                found || hm_node_id_equal(&pass.op.beam.expert[e].server, &swarm.server[1].node.id);
        moe_run(&swarm, 200 * HM_MS);
        assert_true(hm_loop_now(swarm.loop) - up < 10 * HM_S);
    }
    float wanted[64 * MOE_HIDDEN];
    moe_run(&swarm, 5 * HM_S);
    assert_status(moe_forward(&pass), HM_OK);
    moe_direct_forward(&pass, 4, NULL, NULL, wanted);
    moe_assert_near(pass.y, wanted, 16 * MOE_HIDDEN, 1e-4f);
    close_swarm();
}

static void a_server_that_hangs_costs_one_deadline_and_is_then_left_out(void **state)
{
    (void)state;
    open_swarm(17, 3, 16, NULL);
    assert_status(moe_forward(&pass), HM_OK);
    hm_net_pause(swarm.world, moe_number(2), true); /* as SIGSTOP */
    enum hm_status status = moe_forward(&pass);
    if (status != HM_OK && status != HM_ERR_TIMED_OUT)
        fail_msg("%s: %s", hm_status_name(status), pass.result.line);
    assert_int_equal(pass.result.took, 10 * HM_S);
    assert_status(moe_forward(&pass), HM_OK);
    assert_true(pass.result.took < HM_S);
    assert_int_equal(pass.op.parts_failed, 0);
    hm_net_pause(swarm.world, moe_number(2), false);
    close_swarm();
}

static void an_expert_that_is_gone_is_left_out_and_its_server_stays(void **state)
{
    (void)state;
    open_swarm(18, 2, 16, NULL);
    struct moe_server *server;
    struct moe_expert *expert = moe_expert(&swarm, "ffn.1.1", &server);
    for (uint32_t row = 0; row < 16; row++) pass.logits[row * 6 + 1] = pass.logits[row * 6 + 4] = 3;
    expert->forward = MOE_FAILS;
    expert->fails_with = HM_ERR_EXPERT_GONE;
    assert_status(moe_forward(&pass), HM_OK);
    assert_status(pass.op.part_status, HM_ERR_EXPERT_GONE);
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(pass.op.parts_failed, 0);
    bool server_used = false;
    for (unsigned e = 0; e < pass.op.beam.expert_count; e++) {
        assert_string_not_equal(pass.op.beam.expert[e].uid.text, "ffn.1.1");
        server_used =
            server_used || hm_node_id_equal(&pass.op.beam.expert[e].server, &server->node.id);
    }
    assert_true(server_used);
    close_swarm();
}

static void a_draining_server_is_left_out(void **state)
{
    (void)state;
    open_swarm(19, 3, 16, NULL);
    swarm.server[0].refuses = HM_ERR_DRAINING;
    assert_status(moe_forward(&pass), HM_OK);
    assert_status(pass.op.part_status, HM_ERR_DRAINING);
    unsigned calls = swarm.server[0].calls;
    assert_status(moe_forward(&pass), HM_OK);
    assert_int_equal(swarm.server[0].calls, calls);
    close_swarm();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_average_equals_the_direct_computation_with_one_call_a_server),
        cmocka_unit_test(every_leading_dimension_is_rows),
        cmocka_unit_test(choosing_alone_calls_nobody_and_tells_the_best),
        cmocka_unit_test(experts_that_fail_lie_or_come_late_are_masked),
        cmocka_unit_test(a_server_that_breaks_the_protocol_is_masked_and_suspected),
        cmocka_unit_test(without_k_min_answers_the_pass_fails_at_its_deadline_never_later),
        cmocka_unit_test(when_k_min_cannot_be_reached_any_more_nobody_waits),
        cmocka_unit_test(k_min_is_enough_and_ends_the_wait_for_the_rest),
        cmocka_unit_test(an_empty_grid_is_not_found_and_the_line_says_so),
        cmocka_unit_test(fewer_live_experts_than_k_min_are_not_found),
        cmocka_unit_test(a_wrong_shape_is_an_error_at_once_not_a_wait),
        cmocka_unit_test(backward_equals_the_direct_gradient_and_reaches_whom_forward_used),
        cmocka_unit_test(coded_rows_give_nearly_the_same_and_gradients_too),
        cmocka_unit_test(servers_that_do_not_take_the_codec_get_plain_rows),
        cmocka_unit_test(a_server_that_refuses_a_codec_gets_plain_rows_until_its_next_record),
        cmocka_unit_test(rows_that_no_codec_can_say_are_the_callers_fault_and_cost_no_call),
        cmocka_unit_test(an_expert_that_fails_in_backward_is_a_constant),
        cmocka_unit_test(backward_k_min_decides_whether_lost_gradients_are_an_error),
        cmocka_unit_test(a_backward_is_never_repeated),
        cmocka_unit_test(a_dead_server_teaches_at_once_and_is_found_again),
        cmocka_unit_test(a_server_that_hangs_costs_one_deadline_and_is_then_left_out),
        cmocka_unit_test(an_expert_that_is_gone_is_left_out_and_its_server_stays),
        cmocka_unit_test(a_draining_server_is_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
