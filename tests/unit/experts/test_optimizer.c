/* The optimizers by name, and what their steps do to a parameter, computed by hand. */
#include "test.h"

#include "base/assert.h"
#include "experts/expert.h"

#include <math.h>

static struct hm_device *device;
static struct hm_exec exec;

/* One step over one array. */
static enum hm_status step_of(const char *name, const struct hm_expert_conf *conf, uint64_t step,
                              float gradient_scale, size_t count, float *param, const float *grad,
                              float *const slot[HM_SLOTS_MAX])
{
    const struct hm_optimizer *optimizer = hm_optimizer_find(name);
    struct hm_update update = {.count = count, .param = param, .grad = grad};
    for (unsigned i = 0; i < optimizer->slot_count; i++) update.slot[i] = slot[i];
    return optimizer->step(&exec, conf, step, gradient_scale, &update, 1);
}

static int setup(void **state)
{
    (void)state;
    assert_ok(hm_device_cpu_create(&device));
    exec.device = device;
    assert_ok(device->ops->stream_create(device, &exec.stream));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    device->ops->stream_destroy(exec.stream);
    hm_device_destroy(device);
    return 0;
}

static void optimizers_are_found_by_name_with_pytorchs_slots(void **state)
{
    (void)state;
    const struct hm_optimizer *sgd = hm_optimizer_find("sgd");
    assert_non_null(sgd);
    assert_int_equal(sgd->slot_count, 1);
    assert_string_equal(sgd->slot_name[0], "momentum_buffer");
    const char *const adams[] = {"adam", "adamw"};
    for (unsigned i = 0; i < HM_COUNT_OF(adams); i++) {
        const struct hm_optimizer *adam = hm_optimizer_find(adams[i]);
        assert_non_null(adam);
        assert_string_equal(adam->name, adams[i]);
        assert_int_equal(adam->slot_count, 2);
        assert_string_equal(adam->slot_name[0], "exp_avg");
        assert_string_equal(adam->slot_name[1], "exp_avg_sq");
    }
    assert_null(hm_optimizer_find("lamb"));
    assert_non_null(strstr(hm_fail_line(), "lamb"));
    assert_non_null(strstr(hm_fail_line(), "adamw"));
}

static void sgd_without_momentum_leaves_its_slot_alone(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = 1, .optimizer = "sgd", .rate = 0.5f};
    float param = 1.0f, grad = 4.0f, velocity = 7.0f;
    float *const slot[HM_SLOTS_MAX] = {&velocity};
    assert_ok(step_of("sgd", &conf, 1, 0.25f, 1, &param, &grad, slot));
    assert_true(param == 0.5f); /* 1 - 0.5 * 0.25 * 4 */
    assert_true(velocity == 7.0f);
}

static void sgd_with_momentum_remembers_the_last_step(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = 1, .optimizer = "sgd", .rate = 0.5f, .momentum = 0.5f};
    float param = 1.0f, grad = 1.0f, velocity = 0.0f;
    float *const slot[HM_SLOTS_MAX] = {&velocity};
    assert_ok(step_of("sgd", &conf, 1, 1.0f, 1, &param, &grad, slot));
    assert_true(velocity == 1.0f && param == 0.5f);
    assert_ok(step_of("sgd", &conf, 2, 1.0f, 1, &param, &grad, slot));
    assert_true(velocity == 1.5f && param == -0.25f);
}

/* After bias correction the first step is rate * sign(gradient), whatever the gradient's size. */
static void adams_first_step_is_the_rate(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = 1, .optimizer = "adam", .rate = 0.01f, .weight_decay = 0.5f};
    const float gradients[] = {1e-3f, -5.0f, 1e3f};
    for (unsigned i = 0; i < HM_COUNT_OF(gradients); i++) {
        float param = 2.0f, m = 0.0f, v = 0.0f;
        float *const slot[HM_SLOTS_MAX] = {&m, &v};
        assert_ok(step_of("adam", &conf, 1, 1.0f, 1, &param, &gradients[i], slot));
        assert_near(param, 2.0f - copysignf(0.01f, gradients[i]), 1e-6); /* adam has no decay */
    }
}

static void adamw_decays_a_parameter_without_gradient(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = 1, .optimizer = "adamw", .rate = 0.1f, .weight_decay = 0.5f};
    float param = 2.0f, grad = 0.0f, m = 0.0f, v = 0.0f;
    float *const slot[HM_SLOTS_MAX] = {&m, &v};
    assert_ok(step_of("adamw", &conf, 1, 1.0f, 1, &param, &grad, slot));
    assert_near(param, 1.9f, 1e-6);
}

/* 0.9^t passes the smallest normal number at about t = 830; a denormal slot would slow every later
 * step. */
static void moments_without_gradient_end_at_zero_and_never_as_denormals(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = 1, .optimizer = "adam", .rate = 0.1f};
    float param[20], grad[20], m[20], v[20];
    for (int i = 0; i < 20; i++) {
        param[i] = 0.0f;
        m[i] = 1.0f;
        v[i] = 1e-35f;
        grad[i] = 0.0f;
    }
    float *const slot[HM_SLOTS_MAX] = {m, v};
    for (uint64_t step = 1; step <= 3000; step++) {
        assert_ok(step_of("adam", &conf, step, 1.0f, 20, param, grad, slot));
        for (int i = 0; i < 20; i++) {
            assert_true(fpclassify(m[i]) != FP_SUBNORMAL);
            assert_true(fpclassify(v[i]) != FP_SUBNORMAL);
        }
    }
    assert_true(m[0] == 0.0f && v[19] == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(optimizers_are_found_by_name_with_pytorchs_slots),
        cmocka_unit_test(sgd_without_momentum_leaves_its_slot_alone),
        cmocka_unit_test(sgd_with_momentum_remembers_the_last_step),
        cmocka_unit_test(adams_first_step_is_the_rate),
        cmocka_unit_test(adamw_decays_a_parameter_without_gradient),
        cmocka_unit_test(moments_without_gradient_end_at_zero_and_never_as_denormals),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
