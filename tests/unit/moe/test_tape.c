/* The tape's gradients are those of finite differences, its first error is the one that backward
 * tells, and its memory is used again. */
#include "test.h"

#include "base/rng.h"
#include "moe/local_optimizer.h"
#include "moe/tape.h"
#include "moe/tape_internal.h"

#include <math.h>

struct fixture {
    struct hm_device *device;
    struct hm_moe_tape *tape;
    struct hm_rng rng;
};

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    assert_ok(hm_device_cpu_create(&fixture->device));
    assert_ok(
        hm_moe_tape_create(&(struct hm_moe_tape_conf){.device = fixture->device}, &fixture->tape));
    hm_rng_init(&fixture->rng, 11, 0);
    *state = fixture;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    hm_moe_tape_destroy(fixture->tape);
    hm_device_destroy(fixture->device);
    free(fixture);
    return 0;
}

static void fill(struct fixture *fixture, float *value, size_t count)
{
    for (size_t i = 0; i < count; i++) value[i] = hm_rng_normal(&fixture->rng);
}

/* ---- gradients ---- */

enum { ROWS = 6, COLUMNS = 5, HIDDEN = 8, CLASSES = 3 };

struct model {
    struct hm_layer *in, *norm, *gelu, *relu, *residual, *out;
    float x[ROWS * COLUMNS];
    int64_t label[ROWS];
};

static void model_init(struct fixture *fixture, struct model *model)
{
    assert_ok(hm_layer_linear_create(fixture->device, COLUMNS, HIDDEN, 1, &model->in));
    assert_ok(hm_layer_norm_create(fixture->device, HIDDEN, &model->norm));
    assert_ok(hm_layer_activation_create(fixture->device, HM_ACT_GELU, &model->gelu));
    assert_ok(hm_layer_activation_create(fixture->device, HM_ACT_RELU, &model->relu));
    assert_ok(hm_layer_linear_create(fixture->device, HIDDEN, HIDDEN, 2, &model->residual));
    assert_ok(hm_layer_linear_create(fixture->device, HIDDEN, CLASSES, 3, &model->out));
    fill(fixture, model->norm->parameter, model->norm->parameter_count);
    fill(fixture, model->x, ROWS * COLUMNS);
    for (unsigned i = 0; i < ROWS; i++)
        model->label[i] = (int64_t)hm_rng_below(&fixture->rng, CLASSES);
}

static void model_fini(struct model *model)
{
    hm_layer_destroy(model->in);
    hm_layer_destroy(model->norm);
    hm_layer_destroy(model->gelu);
    hm_layer_destroy(model->relu);
    hm_layer_destroy(model->residual);
    hm_layer_destroy(model->out);
}

/* h = gelu(norm(in(x))); loss = 0.5 cross entropy(out(h + relu(residual(h)))): h is used twice. */
static hm_moe_value model_loss(struct fixture *fixture, struct model *model, hm_moe_value *x)
{
    struct hm_tensor input = hm_matrix_f32(model->x, ROWS, COLUMNS);
    hm_moe_tape_reset(fixture->tape);
    *x = hm_moe_tape_input(fixture->tape, &input, true);
    hm_moe_value h = hm_moe_tape_layer(fixture->tape, model->in, *x);
    h = hm_moe_tape_layer(fixture->tape, model->gelu,
                          hm_moe_tape_layer(fixture->tape, model->norm, h));
    hm_moe_value side = hm_moe_tape_layer(fixture->tape, model->relu,
                                          hm_moe_tape_layer(fixture->tape, model->residual, h));
    hm_moe_value logits =
        hm_moe_tape_layer(fixture->tape, model->out, hm_moe_tape_add(fixture->tape, h, side));
    return hm_moe_tape_scale(fixture->tape,
                             hm_moe_tape_cross_entropy(fixture->tape, logits, model->label), 0.5f);
}

static double loss_now(struct fixture *fixture, struct model *model)
{
    hm_moe_value x, loss = model_loss(fixture, model, &x);
    assert_ok(hm_moe_tape_status(fixture->tape));
    return hm_f32(&(struct hm_tensor){.data = hm_moe_tape_value(fixture->tape, loss).data})[0];
}

/* Central differences of every element against the tape's gradient, norm-wise. */
static void check_gradient(struct fixture *fixture, struct model *model, float *value, size_t count,
                           const float *gradient)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        const float step = 2e-3f;
        float before = value[i];
        value[i] = before + step;
        double up = loss_now(fixture, model);
        value[i] = before - step;
        double down = loss_now(fixture, model);
        value[i] = before;
        double wanted = (up - down) / (2 * (double)step);
        error += (gradient[i] - wanted) * (gradient[i] - wanted);
        norm += wanted * wanted;
    }
    assert_true(norm > 0);
    if (sqrt(error / norm) > 1e-2)
        fail_msg("gradient differs from finite differences by %g", sqrt(error / norm));
}

static void gradients_are_those_of_finite_differences(void **state)
{
    struct fixture *fixture = *state;
    struct model model;
    model_init(fixture, &model);
    hm_moe_value x, loss = model_loss(fixture, &model, &x);
    assert_ok(hm_moe_tape_backward(fixture->tape, loss));
    float dx[ROWS * COLUMNS];
    memcpy(dx, hm_moe_tape_gradient(fixture->tape, x).data.base, sizeof dx);
    check_gradient(fixture, &model, model.x, ROWS * COLUMNS, dx);
    struct hm_layer *layers[] = {model.in, model.norm, model.residual, model.out};
    for (size_t i = 0; i < HM_COUNT_OF(layers); i++)
        check_gradient(fixture, &model, layers[i]->parameter, layers[i]->parameter_count,
                       layers[i]->gradient);
    model_fini(&model);
}

static void parameter_gradients_are_added_up_until_they_are_zeroed(void **state)
{
    struct fixture *fixture = *state;
    struct model model;
    model_init(fixture, &model);
    hm_moe_value x, loss = model_loss(fixture, &model, &x);
    assert_ok(hm_moe_tape_backward(fixture->tape, loss));
    float once = model.out->gradient[0];
    assert_true(once != 0);
    loss = model_loss(fixture, &model, &x);
    assert_ok(hm_moe_tape_backward(fixture->tape, loss));
    assert_true(fabsf(model.out->gradient[0] - 2 * once) < 1e-5f * fabsf(once));
    hm_layer_zero_gradient(model.out);
    assert_true(model.out->gradient[0] == 0);
    model_fini(&model);
}

static void leading_dimensions_are_rows(void **state)
{
    struct fixture *fixture = *state;
    struct hm_layer *layer;
    assert_ok(hm_layer_linear_create(fixture->device, 4, 3, 1, &layer));
    float data[2 * 3 * 4];
    fill(fixture, data, HM_COUNT_OF(data));
    struct hm_tensor cube = hm_matrix_f32(data, 6, 4), flat = cube;
    cube.shape = (struct hm_shape){.dim_count = 3, .dim = {2, 3, 4}};
    hm_moe_value a =
        hm_moe_tape_layer(fixture->tape, layer, hm_moe_tape_input(fixture->tape, &cube, false));
    hm_moe_value b =
        hm_moe_tape_layer(fixture->tape, layer, hm_moe_tape_input(fixture->tape, &flat, false));
    struct hm_tensor y = hm_moe_tape_value(fixture->tape, a);
    assert_int_equal(y.shape.dim_count, 3);
    assert_int_equal(y.shape.dim[0], 2);
    assert_int_equal(y.shape.dim[1], 3);
    assert_int_equal(y.shape.dim[2], 3);
    assert_memory_equal(y.data.base, hm_moe_tape_value(fixture->tape, b).data.base,
                        6 * 3 * sizeof(float));
    hm_layer_destroy(layer);
}

/* ---- errors ---- */

static void the_first_error_of_the_pass_is_what_backward_tells(void **state)
{
    struct fixture *fixture = *state;
    struct hm_layer *layer;
    assert_ok(hm_layer_linear_create(fixture->device, 7, 2, 1, &layer));
    float data[8] = {0};
    struct hm_tensor input = hm_matrix_f32(data, 2, 4);
    hm_moe_value x = hm_moe_tape_input(fixture->tape, &input, false);
    hm_moe_value y = hm_moe_tape_layer(fixture->tape, layer, x); /* 4 columns into 7 */
    assert_int_equal(y, HM_MOE_VALUE_NONE);
    int64_t label[2] = {0, 99};
    hm_moe_value loss =
        hm_moe_tape_cross_entropy(fixture->tape, x, label); /* a second error, not told */
    assert_int_equal(loss, HM_MOE_VALUE_NONE);
    assert_null(hm_moe_tape_value(fixture->tape, y).data.base);
    assert_status(hm_moe_tape_backward(fixture->tape, loss), HM_ERR_SHAPE);
    assert_non_null(strstr(hm_fail_line(), "7 columns"));
    assert_true(layer->gradient[0] == 0);
    hm_moe_tape_reset(fixture->tape);
    assert_ok(hm_moe_tape_status(fixture->tape));
    hm_layer_destroy(layer);
}

static void what_makes_no_sense_is_refused_with_a_line(void **state)
{
    struct fixture *fixture = *state;
    float data[8] = {0};
    struct hm_tensor input = hm_matrix_f32(data, 2, 4), other = hm_matrix_f32(data, 4, 2);
    hm_moe_value x = hm_moe_tape_input(fixture->tape, &input, true);
    assert_int_equal(hm_moe_tape_cross_entropy(fixture->tape, x, (int64_t[]){0, 4}),
                     HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(fixture->tape), HM_ERR_INVALID);

    hm_moe_tape_reset(fixture->tape);
    x = hm_moe_tape_input(fixture->tape, &input, true);
    hm_moe_value z = hm_moe_tape_input(fixture->tape, &other, true);
    assert_int_equal(hm_moe_tape_add(fixture->tape, x, z), HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(fixture->tape), HM_ERR_SHAPE);

    hm_moe_tape_reset(fixture->tape);
    x = hm_moe_tape_input(fixture->tape, &input, true);
    assert_status(hm_moe_tape_backward(fixture->tape, x), HM_ERR_SHAPE); /* no number */

    hm_moe_tape_reset(fixture->tape);
    assert_status(hm_moe_tape_backward(fixture->tape, x),
                  HM_ERR_INVALID); /* from before the reset */

    hm_moe_tape_reset(fixture->tape);
    input.shape.dim[1] = 5; /* more than there is */
    assert_int_equal(hm_moe_tape_input(fixture->tape, &input, true), HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(fixture->tape), HM_ERR_SHAPE);

    hm_moe_tape_reset(fixture->tape);
    input.shape.dim[1] = 4;
    x = hm_moe_tape_input(fixture->tape, &input, true);
    struct hm_uid uid;
    assert_ok(hm_uid_parse("ffn.0", &uid));
    assert_int_equal(hm_moe_tape_expert(fixture->tape, NULL, &uid, NULL, HM_S, x), HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(fixture->tape), HM_ERR_INVALID); /* a tape without a node */
}

static void a_full_tape_says_so(void **state)
{
    struct fixture *fixture = *state;
    struct hm_moe_tape *tape;
    assert_ok(hm_moe_tape_create(
        &(struct hm_moe_tape_conf){.device = fixture->device, .bytes_max = 4096}, &tape));
    float data[256] = {0};
    struct hm_tensor input = hm_matrix_f32(data, 16, 16);
    for (unsigned i = 0; i < 4; i++)
        assert_int_not_equal(hm_moe_tape_input(tape, &input, false), HM_MOE_VALUE_NONE);
    assert_int_equal(hm_moe_tape_input(tape, &input, false), HM_MOE_VALUE_NONE);
    assert_status(hm_moe_tape_status(tape), HM_ERR_NO_MEMORY);
    hm_moe_tape_destroy(tape);
}

/* ---- memory ---- */

static void after_the_first_steps_the_tape_takes_no_more_memory(void **state)
{
    struct fixture *fixture = *state;
    struct model model;
    model_init(fixture, &model);
    const void *block = NULL;
    size_t used = 0;
    static float large[1 << 19]; /* more than one block at first */
    struct hm_tensor input = hm_matrix_f32(large, 1 << 10, 1 << 9);
    for (unsigned step = 0; step < 6; step++) {
        hm_moe_value x, loss = model_loss(fixture, &model, &x);
        (void)hm_moe_tape_input(fixture->tape, &input, false);
        assert_ok(hm_moe_tape_backward(fixture->tape, loss));
        if (step == 0) assert_true(hm_arena_blocks(&fixture->tape->arena) > 1);
        if (step >= 2) {
            assert_int_equal(hm_arena_blocks(&fixture->tape->arena), 1);
            assert_ptr_equal(fixture->tape->arena.block, block);
            assert_int_equal(fixture->tape->arena.bytes_used, used);
        }
        block = fixture->tape->arena.block;
        used = fixture->tape->arena.bytes_used;
    }
    model_fini(&model);
}

/* ---- training ---- */

static void a_step_follows_the_gradient_and_training_lowers_the_loss(void **state)
{
    struct fixture *fixture = *state;
    static const char *const names[] = {"sgd", "adam"};
    for (size_t n = 0; n < HM_COUNT_OF(names); n++) {
        struct model model;
        model_init(fixture, &model);
        struct hm_layer *layers[] = {model.in, model.norm, model.gelu, model.residual, model.out};
        struct hm_local_optimizer *optimizer;
        assert_ok(
            hm_local_optimizer_create(&(struct hm_local_optimizer_conf){.device = fixture->device,
                                                                        .name = names[n],
                                                                        .rate = n ? 0.01f : 0.3f,
                                                                        .clip_norm = 1.f},
                                      layers, HM_COUNT_OF(layers), &optimizer));
        double first = loss_now(fixture, &model);
        for (unsigned step = 0; step < 200; step++) {
            hm_moe_value x, loss = model_loss(fixture, &model, &x);
            assert_ok(hm_moe_tape_backward(fixture->tape, loss));
            assert_ok(hm_local_optimizer_step(optimizer));
        }
        assert_true(loss_now(fixture, &model) < 0.2 * first);
        assert_int_equal(hm_local_optimizer_steps(optimizer), 200);
        hm_local_optimizer_destroy(optimizer);
        model_fini(&model);
    }
}

static void a_gradient_that_is_not_finite_steps_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct model model;
    model_init(fixture, &model);
    struct hm_local_optimizer *optimizer;
    assert_ok(hm_local_optimizer_create(
        &(struct hm_local_optimizer_conf){.device = fixture->device, .name = "adam", .rate = 0.1f},
        &model.out, 1, &optimizer));
    float before = model.out->parameter[1];
    model.out->gradient[1] = 1.f;
    model.out->gradient[2] = NAN;
    assert_status(hm_local_optimizer_step(optimizer), HM_ERR_NUMERIC);
    assert_true(model.out->parameter[1] == before);
    assert_true(model.out->gradient[1] == 0);
    assert_int_equal(hm_local_optimizer_steps(optimizer), 0);
    hm_local_optimizer_destroy(optimizer);
    struct hm_local_optimizer_conf bad = {
        .device = fixture->device, .name = "adamant", .rate = 0.1f};
    assert_status(hm_local_optimizer_create(&bad, &model.out, 1, &optimizer), HM_ERR_INVALID);
    bad.name = "adam";
    bad.rate = NAN;
    assert_status(hm_local_optimizer_create(&bad, &model.out, 1, &optimizer), HM_ERR_INVALID);
    model_fini(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gradients_are_those_of_finite_differences, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(parameter_gradients_are_added_up_until_they_are_zeroed,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(leading_dimensions_are_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_error_of_the_pass_is_what_backward_tells, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(what_makes_no_sense_is_refused_with_a_line, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_full_tape_says_so, set_up, tear_down),
        cmocka_unit_test_setup_teardown(after_the_first_steps_the_tape_takes_no_more_memory, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_step_follows_the_gradient_and_training_lowers_the_loss,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_gradient_that_is_not_finite_steps_nothing, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
