/* The tape goes through remote mixtures and experts as through local layers: gradients by finite
 * differences, training, the balance loss, and errors of the far side as the tape's own. */
#include "support_moe.h"

#include "base/assert.h"
#include "base/rng.h"
#include "moe/local_optimizer.h"
#include "moe/tape.h"

#include <math.h>

enum { ROWS = 8, CLASSES = 3 };
static struct moe_swarm swarm;

struct model {
    struct hm_device *device;
    struct hm_moe_tape *tape;
    struct hm_layer *in, *gate, *norm, *out;
    struct hm_mixture *mixture;
    struct hm_uid uid;
    bool expert; /* one more node: a remote expert */
    float balance;
    float x[ROWS * MOE_HIDDEN];
    int64_t label[ROWS];
};

static void model_open(struct model *model, uint64_t seed)
{
    struct hm_rng rng;
    struct hm_mixture_conf conf;
    memset(model, 0, sizeof *model);
    moe_swarm_open(&swarm, seed, 3);
    moe_conf(&swarm, &conf);
    conf.timeout_after_k_min = HM_S;
    assert_ok(hm_mixture_create(&conf, &model->mixture));
    assert_ok(hm_device_cpu_create(&model->device));
    assert_ok(hm_moe_tape_create(
        &(struct hm_moe_tape_conf){.device = model->device, .bridge = &swarm.bridge},
        &model->tape));
    assert_ok(hm_layer_linear_create(model->device, MOE_HIDDEN, MOE_HIDDEN, 1, &model->in));
    assert_ok(hm_layer_linear_create(model->device, MOE_HIDDEN,
                                     hm_mixture_gate_columns(model->mixture), 2, &model->gate));
    assert_ok(hm_layer_norm_create(model->device, MOE_HIDDEN, &model->norm));
    assert_ok(hm_layer_linear_create(model->device, MOE_HIDDEN, CLASSES, 3, &model->out));
    assert_ok(hm_uid_parse("ffn.1.1", &model->uid));
    hm_rng_init(&rng, seed, 6);
    for (unsigned i = 0; i < ROWS * MOE_HIDDEN; i++) model->x[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < ROWS; i++) model->label[i] = (int64_t)hm_rng_below(&rng, CLASSES);
}

static void model_close(struct model *model)
{
    hm_moe_tape_destroy(model->tape);
    hm_mixture_destroy(model->mixture);
    hm_layer_destroy(model->in);
    hm_layer_destroy(model->gate);
    hm_layer_destroy(model->norm);
    hm_layer_destroy(model->out);
    hm_device_destroy(model->device);
    moe_swarm_close(&swarm);
}

static hm_moe_value model_loss(struct model *model, hm_moe_value *x)
{
    struct hm_tensor input = hm_matrix_f32(model->x, ROWS, MOE_HIDDEN);
    input.shape = (struct hm_shape){.dim_count = 3, .dim = {2, ROWS / 2, MOE_HIDDEN}};
    hm_moe_tape_reset(model->tape);
    *x = hm_moe_tape_input(model->tape, &input, true);
    hm_moe_value h = hm_moe_tape_layer(model->tape, model->in, *x);
    hm_moe_value mixed = hm_moe_tape_mixture(model->tape, model->mixture, model->gate, h);
    h = hm_moe_tape_layer(model->tape, model->norm, hm_moe_tape_add(model->tape, h, mixed));
    if (model->expert)
        h = hm_moe_tape_expert(model->tape, swarm.dispatch, &model->uid, NULL, 10 * HM_S, h);
    hm_moe_value logits = hm_moe_tape_layer(model->tape, model->out, h);
    hm_moe_value loss = hm_moe_tape_cross_entropy(model->tape, logits, model->label);
    if (model->balance == 0) return loss;
    hm_moe_value balance =
        hm_moe_tape_scale(model->tape, hm_moe_tape_balance(model->tape, mixed), model->balance);
    return hm_moe_tape_add(model->tape, loss, balance);
}

static double loss_now(struct model *model)
{
    hm_moe_value x, loss = model_loss(model, &x);
    if (hm_moe_tape_status(model->tape) != HM_OK) fail_msg("%s", hm_moe_tape_line(model->tape));
    struct hm_tensor value = hm_moe_tape_value(model->tape, loss);
    return hm_f32(&value)[0];
}

static void check_gradient(struct model *model, float *value, size_t count, const float *gradient,
                           const char *what)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        const float step = 1e-3f;
        float before = value[i];
        value[i] = before + step;
        double up = loss_now(model);
        value[i] = before - step;
        double down = loss_now(model);
        value[i] = before;
        double wanted = (up - down) / (2 * (double)step);
        error += (gradient[i] - wanted) * (gradient[i] - wanted);
        norm += wanted * wanted;
    }
    assert_true(norm > 0);
    if (sqrt(error / norm) > 2e-2)
        fail_msg("gradient of %s differs by %g", what, sqrt(error / norm));
}

static void gradients_through_remote_nodes_are_those_of_finite_differences(void **state)
{
    (void)state;
    struct model model;
    model_open(&model, 1);
    model.expert = true;
    model.balance = 0.1f;
    hm_moe_value x, loss = model_loss(&model, &x);
    enum hm_status status = hm_moe_tape_backward(model.tape, loss);
    if (status != HM_OK) fail_msg("%s", hm_fail_line());
    float dx[ROWS * MOE_HIDDEN];
    memcpy(dx, hm_moe_tape_gradient(model.tape, x).data.base, sizeof dx);
    check_gradient(&model, model.x, ROWS * MOE_HIDDEN, dx, "x");
    check_gradient(&model, model.in->parameter, model.in->parameter_count, model.in->gradient,
                   "in");
    check_gradient(&model, model.gate->parameter, model.gate->parameter_count, model.gate->gradient,
                   "the gate");
    check_gradient(&model, model.norm->parameter, model.norm->parameter_count, model.norm->gradient,
                   "the norm");
    struct hm_moe_tape_counts counts;
    (void)loss_now(&model);
    hm_moe_tape_counts(model.tape, &counts);
    assert_true(counts.parts > 1 && counts.parts_failed == 0);
    model_close(&model);
}

static void training_through_the_swarm_lowers_the_loss_also_when_a_server_dies(void **state)
{
    (void)state;
    struct model model;
    model_open(&model, 2);
    struct hm_layer *layers[] = {model.in, model.gate, model.norm, model.out};
    struct hm_local_optimizer *optimizer;
    assert_ok(hm_local_optimizer_create(
        &(struct hm_local_optimizer_conf){.device = model.device, .name = "adam", .rate = 0.02f},
        layers, HM_COUNT_OF(layers), &optimizer));
    double first = loss_now(&model);
    unsigned failed = 0;
    for (unsigned step = 0; step < 120; step++) {
        if (step == 40) moe_server_crash(&swarm.server[1]);
        if (step == 80) moe_server_open(&swarm, 1);
        hm_ns before = hm_loop_now(swarm.loop);
        hm_moe_value x, loss = model_loss(&model, &x);
        if (hm_moe_tape_backward(model.tape, loss) == HM_OK) {
            assert_ok(hm_local_optimizer_step(optimizer));
        } else {
            failed++;
            hm_local_optimizer_zero(optimizer);
        }
        assert_true(hm_loop_now(swarm.loop) - before < 2 * HM_S);
    }
    assert_true(failed <= 1); /* the step in whose middle it died, at most */
    assert_true(loss_now(&model) < 0.3 * first);
    hm_local_optimizer_destroy(optimizer);
    model_close(&model);
}

static void the_balance_loss_moves_the_gate(void **state)
{
    (void)state;
    struct model model;
    model_open(&model, 3);
    /* A gate that wants ffn.0.* only. */
    float *bias = model.gate->parameter + (size_t)model.gate->input * model.gate->output;
    bias[0] = 4;
    struct hm_local_optimizer *optimizer;
    assert_ok(hm_local_optimizer_create(
        &(struct hm_local_optimizer_conf){.device = model.device, .name = "sgd", .rate = 0.5f},
        &model.gate, 1, &optimizer));
    struct hm_tensor input = hm_matrix_f32(model.x, ROWS, MOE_HIDDEN);
    float first = 0, last = 0;
    for (unsigned step = 0; step < 60; step++) {
        hm_moe_tape_reset(model.tape);
        hm_moe_value x = hm_moe_tape_input(model.tape, &input, false);
        hm_moe_value loss = hm_moe_tape_balance(
            model.tape, hm_moe_tape_mixture(model.tape, model.mixture, model.gate, x));
        struct hm_tensor value = hm_moe_tape_value(model.tape, loss);
        assert_ok(hm_moe_tape_backward(model.tape, loss));
        last = hm_f32(&value)[0];
        if (step == 0) first = last;
        float size = 0;
        for (size_t i = 0; i < model.gate->parameter_count; i++)
            size += fabsf(model.gate->gradient[i]);
        if (step == 0) assert_true(size > 1e-3f); /* the reference's is zero */
        assert_ok(hm_local_optimizer_step(optimizer));
    }
    assert_true(first > 2.3f);
    assert_true(last < 2.f + 0.5f * (first - 2.f)); /* 2 is an even load */
    assert_true(bias[0] < 3.9f);
    hm_local_optimizer_destroy(optimizer);
    model_close(&model);
}

static void an_error_of_the_far_side_is_the_tapes_error(void **state)
{
    (void)state;
    struct model model;
    model_open(&model, 4);
    hm_moe_value x;
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
            swarm.server[i].expert[e].forward = MOE_FAILS;
            swarm.server[i].expert[e].fails_with = HM_ERR_SHAPE;
        }
    }
    hm_moe_value loss = model_loss(&model, &x);
    assert_int_equal(loss, HM_MOE_VALUE_NONE);
    hm_fail_clear();
    assert_status(hm_moe_tape_backward(model.tape, loss), HM_ERR_SHAPE);
    assert_non_null(strstr(hm_fail_line(), "shape or type does not fit"));
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned e = 0; e < swarm.server[i].expert_count; e++) {
            swarm.server[i].expert[e].forward = MOE_GOOD;
            swarm.server[i].expert[e].backward = MOE_FAILS;
            swarm.server[i].expert[e].fails_with = HM_ERR_BUSY;
        }
    }
    loss = model_loss(&model, &x);
    assert_status(hm_moe_tape_backward(model.tape, loss), HM_ERR_BUSY);
    model.uid.coordinate[1] = 9;
    strcpy(model.uid.text, "ffn.1.9");
    model.expert = true;
    loss = model_loss(&model, &x);
    assert_status(hm_moe_tape_backward(model.tape, loss), HM_ERR_NOT_FOUND);
    /* A gate of the wrong width. */
    hm_moe_tape_reset(model.tape);
    struct hm_tensor input = hm_matrix_f32(model.x, ROWS, MOE_HIDDEN);
    x = hm_moe_tape_input(model.tape, &input, false);
    assert_int_equal(hm_moe_tape_mixture(model.tape, model.mixture, model.out, x),
                     HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(model.tape), HM_ERR_SHAPE);
    model_close(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_through_remote_nodes_are_those_of_finite_differences),
        cmocka_unit_test(training_through_the_swarm_lowers_the_loss_also_when_a_server_dies),
        cmocka_unit_test(the_balance_loss_moves_the_gate),
        cmocka_unit_test(an_error_of_the_far_side_is_the_tapes_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
