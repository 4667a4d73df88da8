/* What PyTorch computed, stored, against what the CPU device and the expert compute: 1e-4,
 * norm-wise.
 *
 * Updates (parameters minus the first ones) are compared as well, to 1e-3: beside a whole parameter
 * an update is so small that a wrong one could hide. */
#include "test.h"

#include "base/assert.h"
#include "experts/expert.h"
#include "support_golden.h"

#include <math.h>

enum { HIDDEN = 12, ROWS = 5, STEPS = 4, OP_ROWS = 3, OP_COLUMNS = 37 };

static struct golden golden;
static struct hm_device *device;
static struct hm_stream *stream;

static int setup(void **state)
{
    (void)state;
    golden_load(&golden, HM_SOURCE_DIR "/tests/parity/goldens/experts.bin");
    assert_ok(hm_device_cpu_create(&device));
    assert_ok(device->ops->stream_create(device, &stream));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    device->ops->stream_destroy(stream);
    hm_device_destroy(device);
    golden_free(&golden);
    return 0;
}

/* |got - wanted| / |wanted| */
static double distance(const float *got, const float *wanted, size_t count)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)got[i] - (double)wanted[i]) * ((double)got[i] - (double)wanted[i]);
        size += (double)wanted[i] * (double)wanted[i];
    }
    return sqrt(difference) / sqrt(size);
}

static void agree(const char *what, const float *got, const float *wanted, size_t count,
                  double distance_max)
{
    double d = distance(got, wanted, count);
    if (!(d <= distance_max))
        fail_msg("%s differs by %g of its norm, over %g", what, d, distance_max);
}

/* Compares with the record "op/part". */
static void agree_with(const char *op, const char *part, const float *got, size_t count)
{
    float *wanted = golden_get(&golden, count, "%s/%s", op, part);
    agree(part, got, wanted, count, 1e-4);
    free(wanted);
}

/* ---- ops ------------------------------------------------------------------------------------- */

static struct hm_tensor op_input(const char *op, const char *part, uint32_t rows, uint32_t columns)
{
    return hm_matrix_f32(golden_get(&golden, (uint64_t)rows * columns, "%s/%s", op, part), rows,
                         columns);
}

static void layer_norm_agrees(void **state)
{
    (void)state;
    struct hm_tensor x = op_input("layer_norm", "x", OP_ROWS, OP_COLUMNS);
    struct hm_tensor dy = op_input("layer_norm", "dy", OP_ROWS, OP_COLUMNS);
    struct hm_tensor scale = op_input("layer_norm", "scale", 1, OP_COLUMNS);
    struct hm_tensor shift = op_input("layer_norm", "shift", 1, OP_COLUMNS);
    float y_data[OP_ROWS * OP_COLUMNS], dx_data[OP_ROWS * OP_COLUMNS], stats_data[OP_ROWS * 2];
    float dscale_data[OP_COLUMNS] = {0}, dshift_data[OP_COLUMNS] = {0};
    struct hm_tensor y = hm_matrix_f32(y_data, OP_ROWS, OP_COLUMNS),
                     dx = hm_matrix_f32(dx_data, OP_ROWS, OP_COLUMNS);
    struct hm_tensor stats = hm_matrix_f32(stats_data, OP_ROWS, 2),
                     dscale = hm_matrix_f32(dscale_data, 1, OP_COLUMNS);
    struct hm_tensor dshift = hm_matrix_f32(dshift_data, 1, OP_COLUMNS);
    assert_ok(device->ops->layer_norm(stream, &x, &scale, &shift, 1e-5f, &y, &stats));
    assert_ok(device->ops->layer_norm_grad(stream, &x, &stats, &scale, NULL, &dy, false, &dx,
                                           &dscale, &dshift));
    agree_with("layer_norm", "y", y_data, HM_COUNT_OF(y_data));
    agree_with("layer_norm", "dx", dx_data, HM_COUNT_OF(dx_data));
    agree_with("layer_norm", "dscale", dscale_data, HM_COUNT_OF(dscale_data));
    agree_with("layer_norm", "dshift", dshift_data, HM_COUNT_OF(dshift_data));
    free(hm_f32(&x));
    free(hm_f32(&dy));
    free(hm_f32(&scale));
    free(hm_f32(&shift));
}

static void softmax_agrees(void **state)
{
    (void)state;
    struct hm_tensor x = op_input("softmax", "x", OP_ROWS, OP_COLUMNS),
                     dy = op_input("softmax", "dy", OP_ROWS, OP_COLUMNS);
    float y_data[OP_ROWS * OP_COLUMNS], dx_data[OP_ROWS * OP_COLUMNS];
    struct hm_tensor y = hm_matrix_f32(y_data, OP_ROWS, OP_COLUMNS),
                     dx = hm_matrix_f32(dx_data, OP_ROWS, OP_COLUMNS);
    assert_ok(device->ops->softmax(stream, &x, &y));
    assert_ok(device->ops->softmax_grad(stream, &y, &dy, &dx));
    agree_with("softmax", "y", y_data, HM_COUNT_OF(y_data));
    agree_with("softmax", "dx", dx_data, HM_COUNT_OF(dx_data));
    free(hm_f32(&x));
    free(hm_f32(&dy));
}

static void gelu_agrees(void **state)
{
    (void)state;
    struct hm_tensor x = op_input("gelu", "x", OP_ROWS, OP_COLUMNS),
                     dy = op_input("gelu", "dy", OP_ROWS, OP_COLUMNS);
    float y_data[OP_ROWS * OP_COLUMNS], dx_data[OP_ROWS * OP_COLUMNS];
    struct hm_tensor y = hm_matrix_f32(y_data, OP_ROWS, OP_COLUMNS),
                     dx = hm_matrix_f32(dx_data, OP_ROWS, OP_COLUMNS);
    assert_ok(device->ops->activation(stream, HM_ACT_GELU, &x, &y));
    assert_ok(device->ops->activation_grad(stream, HM_ACT_GELU, &x, &dy, &dx));
    agree_with("gelu", "y", y_data, HM_COUNT_OF(y_data));
    agree_with("gelu", "dx", dx_data, HM_COUNT_OF(dx_data));
    free(hm_f32(&x));
    free(hm_f32(&dy));
}

static void cross_entropy_agrees(void **state)
{
    (void)state;
    struct hm_tensor x = op_input("cross_entropy", "x", OP_ROWS, OP_COLUMNS);
    float *label_data = golden_get(&golden, OP_ROWS, "cross_entropy/label");
    int64_t label[OP_ROWS];
    for (int i = 0; i < OP_ROWS; i++) label[i] = (int64_t)label_data[i];
    float dx_data[OP_ROWS * OP_COLUMNS], loss;
    struct hm_tensor dx = hm_matrix_f32(dx_data, OP_ROWS, OP_COLUMNS);
    assert_ok(device->ops->cross_entropy(stream, &x, label, 1.0f, &loss, &dx));
    agree_with("cross_entropy", "loss", &loss, 1);
    agree_with("cross_entropy", "dx", dx_data, HM_COUNT_OF(dx_data));
    free(label_data);
    free(hm_f32(&x));
}

/* ---- ffn: several steps of every optimizer --------------------------------------------------- */

/* Distances, at most: of y and dx, of a parameter, of its update.  bf16 against PyTorch's f32: a
 * rounding is 2^-9 of a factor at most, but what it takes over ReLU's zero counts in full, and
 * Adam's first steps are signs of gradients, of which some are so small that it turns them over.
 * (That products are exact but for the roundings is tested in unit/experts/test_cpu_packed.c.) */
struct tolerance {
    double result, parameter, update;
};
static const struct tolerance exact = {1e-4, 1e-4, 1e-3}, rough = {2e-2, 1e-2, 6e-2},
                              rough_adam = {0.1, 5e-2, 0.4};

static const struct training {
    const char *name;           /* tools/make_goldens.py has the same list */
    struct hm_expert_conf conf; /* and what all have in common */
    const struct tolerance *tolerance;
} trainings[] = {
    {"sgd", {.optimizer = "sgd"}, &exact},
    {"sgd_momentum", {.optimizer = "sgd", .weight_decay = 0.05f, .momentum = 0.9f}, &exact},
    {"sgd_clip", {.optimizer = "sgd", .clip_norm = 0.5f}, &exact},
    {"adam", {.optimizer = "adam"}, &exact},
    {"adamw", {.optimizer = "adamw", .weight_decay = 0.05f}, &exact},
    {"sgd", {.optimizer = "sgd", .dtype = HM_BF16}, &rough},
    {"sgd_clip", {.optimizer = "sgd", .clip_norm = 0.5f, .dtype = HM_BF16}, &rough},
    {"adam", {.optimizer = "adam", .dtype = HM_BF16}, &rough_adam},
};

/* Loads the parameters that PyTorch started with, by their names. */
static void load_first(struct hm_expert *expert)
{
    const struct hm_plan *plan = hm_expert_plan(expert);
    for (unsigned i = 0; i < plan->parameter_count; i++) {
        uint64_t elements;
        assert_ok(hm_shape_elements(&plan->parameter[i].shape, &elements));
        float *values = golden_get(&golden, elements, "ffn/init/%s", plan->parameter[i].name);
        hm_parameter_put(&hm_expert_places(expert)[i], &plan->parameter[i],
                         hm_expert_array(expert, 0), values);
        free(values);
    }
    assert_ok(hm_expert_loaded(expert, 0));
}

static void compare_parameters(struct hm_expert *expert, const char *run, int step,
                               const struct tolerance *tolerance)
{
    const struct hm_plan *plan = hm_expert_plan(expert);
    for (unsigned i = 0; i < plan->parameter_count; i++) {
        const struct hm_parameter *parameter = &plan->parameter[i];
        uint64_t elements;
        assert_ok(hm_shape_elements(&parameter->shape, &elements));
        float *now = malloc(elements * sizeof *now);
        assert_non_null(now);
        hm_parameter_get(&hm_expert_places(expert)[i], parameter, hm_expert_array(expert, 0), now);
        float *wanted =
            golden_get(&golden, elements, "ffn/%s/after%d/%s", run, step, parameter->name);
        agree(parameter->name, now, wanted, elements, tolerance->parameter);
        float *first = golden_get(&golden, elements, "ffn/init/%s", parameter->name);
        float *update = malloc(elements * sizeof *update);
        assert_non_null(update);
        for (uint64_t k = 0; k < elements; k++) {
            update[k] = now[k] - first[k];
            wanted[k] -= first[k];
        }
        agree(parameter->name, update, wanted, elements, tolerance->update);
        free(update);
        free(first);
        free(now);
        free(wanted);
    }
}

static void train_step(struct hm_expert *expert, struct hm_exec *exec, const char *run, int step,
                       const struct tolerance *tolerance)
{
    float out[ROWS * HIDDEN];
    struct hm_tensor result = hm_matrix_f32(out, ROWS, HIDDEN);
    struct hm_tensor x =
        hm_matrix_f32(golden_get(&golden, ROWS * HIDDEN, "ffn/step%d/x", step), ROWS, HIDDEN);
    struct hm_tensor dy =
        hm_matrix_f32(golden_get(&golden, ROWS * HIDDEN, "ffn/step%d/dy", step), ROWS, HIDDEN);
    float *y = golden_get(&golden, ROWS * HIDDEN, "ffn/%s/step%d/y", run, step);
    float *dx = golden_get(&golden, ROWS * HIDDEN, "ffn/%s/step%d/dx", run, step);
    assert_ok(hm_expert_forward(expert, exec, &x, &result));
    agree("y", out, y, HM_COUNT_OF(out), tolerance->result);
    assert_ok(hm_expert_backward(expert, exec, &x, &dy, &result));
    agree("dx", out, dx, HM_COUNT_OF(out), tolerance->result);
    assert_int_equal(hm_expert_step(expert), step);
    free(y);
    free(dx);
    free(hm_f32(&x));
    free(hm_f32(&dy));
}

static void ffn_trains_as_in_pytorch(void **state)
{
    const struct training *training = *state;
    struct hm_expert *expert;
    struct hm_expert_conf conf = training->conf;
    conf.kind = "ffn";
    conf.hidden = HIDDEN;
    conf.rate = 1e-2f;
    conf.seed = 1;
    assert_ok(hm_expert_create(device, "ffn.0.0", &conf, &expert));
    load_first(expert);
    struct hm_exec exec = {.device = device, .stream = stream};
    size_t scratch_bytes = ROWS * hm_expert_plan(expert)->scratch_bytes_per_row;
    assert_ok(device->ops->alloc(device, scratch_bytes, &exec.scratch));
    for (int step = 1; step <= STEPS; step++) {
        train_step(expert, &exec, training->name, step, training->tolerance);
        if (step == 1 || step == STEPS)
            compare_parameters(expert, training->name, step, training->tolerance);
    }
    device->ops->free(device, &exec.scratch);
    hm_expert_destroy(expert);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layer_norm_agrees),
        cmocka_unit_test(softmax_agrees),
        cmocka_unit_test(gelu_agrees),
        cmocka_unit_test(cross_entropy_agrees),
        {"ffn_with_sgd_trains_as_in_pytorch", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[0]},
        {"ffn_with_momentum_and_decay_trains_as_in_pytorch", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[1]},
        {"ffn_with_clipping_trains_as_in_pytorch", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[2]},
        {"ffn_with_adam_trains_as_in_pytorch", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[3]},
        {"ffn_with_adamw_trains_as_in_pytorch", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[4]},
        {"ffn_in_bf16_with_sgd_trains_as_in_pytorch_roughly", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[5]},
        {"ffn_in_bf16_with_clipping_trains_as_in_pytorch_roughly", ffn_trains_as_in_pytorch, NULL,
         NULL, (void *)(uintptr_t)&trainings[6]},
        {"ffn_in_bf16_with_adam_trains_as_in_pytorch_roughly", ffn_trains_as_in_pytorch, NULL, NULL,
         (void *)(uintptr_t)&trainings[7]},
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
