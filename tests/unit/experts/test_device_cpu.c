/* What conformance cannot see from one op at a time: memory, ops in place, NaN on its way through,
 * teams, no rows. */
#include "test.h"

#include "base/assert.h"
#include "support_device.h"

#include <math.h>

static void memory_is_zeroed_aligned_and_given_back(void **state)
{
    (void)state;
    const size_t sizes[] = {0, 1, 63, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 << 20};
    for (unsigned i = 0; i < HM_COUNT_OF(sizes); i++) {
        struct hm_span span;
        assert_ok(device->ops->alloc(device, sizes[i], &span));
        assert_non_null(span.base);
        assert_int_equal((uintptr_t)span.base % 64, 0);
        assert_int_equal(span.bytes, sizes[i]);
        for (size_t k = 0; k < sizes[i]; k++)
            if (((const uint8_t *)span.base)[k] != 0)
                fail_msg("byte %zu of %zu is not zero", k, sizes[i]);
        if (sizes[i] > 0) memset(span.base, 0xff, sizes[i]);
        device->ops->free(device, &span);
        assert_null(span.base);
        device->ops->free(device, &span); /* of nothing: nothing */
    }
}

static void more_memory_than_there_is_is_refused(void **state)
{
    (void)state;
    struct hm_span span = {.bytes = 77};
    assert_status(device->ops->alloc(device, (size_t)1 << 60, &span), HM_ERR_NO_MEMORY);
    assert_int_equal(span.bytes, 77);
}

/* Each op that may write over its input gives the same bits there as beside it. */
static void ops_in_place_give_the_same_bits(void **state)
{
    (void)state;
    enum { ROWS = 19, COLUMNS = 4099, COUNT = ROWS * COLUMNS };
    const struct hm_device_ops *op = device->ops;
    float *a = normal(COUNT, 1), *b = normal(COUNT, 2), *scale = normal(COLUMNS, 3),
          *beside = normal(COUNT, 4);
    float *place = malloc(COUNT * sizeof *place), *stats = malloc(ROWS * 2 * sizeof *stats);
    float *sums = calloc(2 * COLUMNS, sizeof *sums);
    assert_true(place && stats && sums);
    struct hm_tensor ta = hm_matrix_f32(a, ROWS, COLUMNS), tb = hm_matrix_f32(b, ROWS, COLUMNS);
    struct hm_tensor out = hm_matrix_f32(beside, ROWS, COLUMNS),
                     in = hm_matrix_f32(place, ROWS, COLUMNS);
    struct hm_tensor gain = hm_matrix_f32(scale, 1, COLUMNS), stat = hm_matrix_f32(stats, ROWS, 2);
    struct hm_tensor dscale = hm_matrix_f32(sums, 1, COLUMNS),
                     dshift = hm_matrix_f32(sums + COLUMNS, 1, COLUMNS);
#define SAME_IN_PLACE(source, apart, over)                                                         \
    do {                                                                                           \
        memcpy(place, (source), COUNT * sizeof *place);                                            \
        assert_ok(apart);                                                                          \
        assert_ok(over);                                                                           \
        assert_memory_equal(place, beside, COUNT * sizeof *place);                                 \
    } while (0)
    for (int act = HM_ACT_NONE; act <= HM_ACT_GELU; act++) {
        enum hm_activation kind = (enum hm_activation)act;
        SAME_IN_PLACE(a, op->activation(stream, kind, &ta, &out),
                      op->activation(stream, kind, &in, &in));
        SAME_IN_PLACE(b, op->activation_grad(stream, kind, &ta, &tb, &out),
                      op->activation_grad(stream, kind, &ta, &in, &in));
    }
    SAME_IN_PLACE(a, op->add(stream, &ta, &tb, &out), op->add(stream, &in, &tb, &in));
    SAME_IN_PLACE(b, op->add(stream, &ta, &tb, &out), op->add(stream, &ta, &in, &in));
    SAME_IN_PLACE(a, op->softmax(stream, &ta, &out), op->softmax(stream, &in, &in));
    SAME_IN_PLACE(b, op->softmax_grad(stream, &ta, &tb, &out),
                  op->softmax_grad(stream, &ta, &in, &in));
    SAME_IN_PLACE(a, op->layer_norm(stream, &ta, &gain, &gain, 1e-5f, &out, &stat),
                  op->layer_norm(stream, &in, &gain, &gain, 1e-5f, &in, &stat));
    SAME_IN_PLACE(
        b, op->layer_norm_grad(stream, &ta, &stat, &gain, NULL, &tb, true, &out, &dscale, &dshift),
        op->layer_norm_grad(stream, &ta, &stat, &gain, NULL, &in, true, &in, &dscale, &dshift));
    SAME_IN_PLACE(
        b, op->layer_norm_grad(stream, &ta, &stat, &gain, &tb, &tb, true, &out, &dscale, &dshift),
        op->layer_norm_grad(stream, &ta, &stat, &gain, &tb, &in, true, &in, &dscale, &dshift));
    memset(sums, 0, 2 * COLUMNS * sizeof *sums);
    for (int twice = 0; twice < 2; twice++)
        assert_ok(op->layer_norm_grad(stream, &ta, &stat, &gain, NULL, &tb, true, &out, &dscale,
                                      &dshift));
    /* the column sums were accumulated twice, from the same dy */
    struct hm_tensor once_scale = hm_matrix_f32(place, 1, COLUMNS),
                     once_shift = hm_matrix_f32(place + COLUMNS, 1, COLUMNS);
    memset(place, 0, 2 * COLUMNS * sizeof *place);
    assert_ok(op->layer_norm_grad(stream, &ta, &stat, &gain, NULL, &tb, true, &out, &once_scale,
                                  &once_shift));
    for (int i = 0; i < 2 * COLUMNS; i++) assert_near(sums[i], 2.0f * place[i], 1e-3);
    free(a), free(b), free(scale), free(beside), free(place), free(stats), free(sums);
}

/* If an op turned a NaN into a number, the finite checks around an expert would miss it. */
static void nan_goes_through_every_op(void **state)
{
    (void)state;
    enum { COLUMNS = 37 };
    const struct hm_device_ops *op = device->ops;
    for (int at = 0; at < COLUMNS; at++) {
        float *x = normal(COLUMNS, 5), *ones = malloc(COLUMNS * sizeof *ones), out[COLUMNS],
              stats[2], loss;
        assert_non_null(ones);
        for (int i = 0; i < COLUMNS; i++) ones[i] = 1.0f;
        x[at] = NAN;
        struct hm_tensor tx = hm_matrix_f32(x, 1, COLUMNS), one = hm_matrix_f32(ones, 1, COLUMNS);
        struct hm_tensor y = hm_matrix_f32(out, 1, COLUMNS), stat = hm_matrix_f32(stats, 1, 2);
        for (int act = HM_ACT_NONE; act <= HM_ACT_GELU; act++) {
            assert_ok(op->activation(stream, (enum hm_activation)act, &tx, &y));
            assert_true(isnan(out[at]));
            assert_ok(op->activation_grad(stream, (enum hm_activation)act, &one, &tx, &y));
            assert_true(isnan(out[at]));
        }
        assert_ok(op->add(stream, &one, &tx, &y));
        assert_true(isnan(out[at]));
        assert_ok(op->layer_norm(stream, &tx, &one, &one, 1e-5f, &y, &stat));
        for (int i = 0; i < COLUMNS; i++) assert_true(isnan(out[i]));
        assert_ok(op->softmax(stream, &tx, &y));
        for (int i = 0; i < COLUMNS; i++) assert_true(isnan(out[i]));
        const int64_t label = 11;
        assert_ok(op->cross_entropy(stream, &tx, &label, 1.0f, &loss, &y));
        assert_true(isnan(loss) && isnan(out[0]));
        struct hm_tensor scalar = hm_matrix_f32(out, 1, 1);
        const struct hm_weights weights = hm_weights_dense(ones, 1, COLUMNS);
        const struct hm_epilogue relu = {.act = HM_ACT_RELU};
        assert_ok(op->linear(stream, &tx, &weights, &relu, &scalar));
        assert_true(isnan(out[0]));
        const struct hm_norm norm_of = {&one, &one, 1e-5f, &stat, &y};
        const struct hm_weights column = hm_weights_dense(ones, COLUMNS, 1);
        const struct hm_epilogue norm_relu = {.norm = &norm_of, .act = HM_ACT_RELU};
        struct hm_tensor nan_scalar = hm_matrix_f32(&x[at], 1, 1), wide = y;
        assert_ok(op->linear(stream, &nan_scalar, &column, &norm_relu, &wide));
        for (int i = 0; i < COLUMNS; i++) assert_true(isnan(out[i]));
        float largest;
        assert_ok(op->largest(stream, &tx, &largest));
        assert_true(isinf(largest));
        double norm;
        bool finite = true;
        assert_ok(op->norm(stream, x, COLUMNS, &norm, &finite));
        assert_false(finite);
        free(x), free(ones);
    }
}

static void the_largest_floats_have_a_finite_norm(void **state)
{
    (void)state;
    float x[1000];
    for (int i = 0; i < 1000; i++) x[i] = i % 2 ? 3.4e38f : -3.4e38f;
    double norm;
    bool finite = false;
    assert_ok(device->ops->norm(stream, x, 1000, &norm, &finite));
    assert_true(finite && fabs(norm / (3.4e38 * sqrt(1000.0)) - 1.0) < 1e-6);
    x[999] = INFINITY;
    assert_ok(device->ops->norm(stream, x, 1000, &norm, &finite));
    assert_false(finite);
    assert_ok(device->ops->norm(stream, NULL, 0, &norm, &finite));
    assert_true(finite && norm == 0.0);
}

static void masked_columns_get_no_weight(void **state)
{
    (void)state;
    float x[4] = {1.0f, -INFINITY, 2.0f, -INFINITY}, out[4];
    struct hm_tensor tx = hm_matrix_f32(x, 1, 4), y = hm_matrix_f32(out, 1, 4);
    assert_ok(device->ops->softmax(stream, &tx, &y));
    assert_true(out[1] == 0.0f && out[3] == 0.0f);
    assert_near(out[0] + out[2], 1.0f, 1e-6);
}

/* Everything but the GEMMs: one thread and four give the same bits. */
static void results_do_not_depend_on_the_size_of_the_team(void **state)
{
    (void)state;
    enum { ROWS = 67, COLUMNS = 4099, COUNT = ROWS * COLUMNS };
    const struct hm_device_ops *op = device->ops;
    const struct hm_adam adam = {0.9f, 0.999f, 1e-8f, 0.1f};
    float *x = normal(COUNT, 1), *dy = normal(COUNT, 2), *gain = normal(COLUMNS, 3);
    float *result[2];
    enum { RESULT = 5 * COUNT + 3 * COLUMNS };
    const unsigned teams[2] = {1, 4};
    for (int t = 0; t < 2; t++) {
        hm_device_cpu_team(teams[t]);
        float *r = result[t] = calloc(RESULT, sizeof *r), stats[2 * ROWS];
        assert_non_null(r);
        struct hm_tensor tx = hm_matrix_f32(x, ROWS, COLUMNS),
                         tdy = hm_matrix_f32(dy, ROWS, COLUMNS);
        struct hm_tensor scale = hm_matrix_f32(gain, 1, COLUMNS),
                         stat = hm_matrix_f32(stats, ROWS, 2);
        struct hm_tensor y = hm_matrix_f32(r, ROWS, COLUMNS),
                         dx = hm_matrix_f32(r + COUNT, ROWS, COLUMNS);
        struct hm_tensor dscale = hm_matrix_f32(r + 5 * COUNT, 1, COLUMNS);
        struct hm_tensor dshift = hm_matrix_f32(r + 5 * COUNT + COLUMNS, 1, COLUMNS);
        struct hm_tensor dbias = hm_matrix_f32(r + 5 * COUNT + 2 * COLUMNS, 1, COLUMNS);
        assert_ok(op->layer_norm(stream, &tx, &scale, &scale, 1e-5f, &y, &stat));
        assert_ok(op->layer_norm_grad(stream, &tx, &stat, &scale, NULL, &tdy, false, &dx, &dscale,
                                      &dshift));
        float product[COLUMNS];
        struct hm_tensor one_column = hm_matrix_f32(x, ROWS, 1);
        struct hm_weights dw = hm_weights_dense(product, COLUMNS, 1);
        assert_ok(op->linear_dw(stream, &one_column, &tdy, &dw, false, &dw, &dbias));
        double norm;
        bool finite;
        assert_ok(op->norm(stream, x, COUNT, &norm, &finite));
        float *param = r + 2 * COUNT, *m = r + 3 * COUNT, *v = r + 4 * COUNT;
        const struct hm_update update = {
            .count = COUNT, .param = param, .grad = dy, .slot = {m, v}};
        assert_ok(op->adam(stream, &adam, 1, 0.1f, (float)(1.0 / norm), &update, 1));
    }
    hm_device_cpu_team(0);
    assert_memory_equal(result[0], result[1], RESULT * sizeof(float));
    free(x), free(dy), free(gain), free(result[0]), free(result[1]);
}

static void no_rows_are_no_work(void **state)
{
    (void)state;
    float w[6] = {1, 2, 3, 4, 5, 6}, bias[2] = {7, 8};
    struct hm_tensor x = hm_matrix_f32(NULL, 0, 3), y = hm_matrix_f32(NULL, 0, 2);
    struct hm_weights weight = hm_weights_dense(w, 2, 3);
    struct hm_tensor shift = hm_matrix_f32(bias, 1, 2);
    const struct hm_epilogue epilogue = {.bias = &shift, .act = HM_ACT_RELU};
    assert_ok(device->ops->linear(stream, &x, &weight, &epilogue, &y));
    assert_ok(device->ops->linear_dx(stream, &y, &weight, NULL, &x));
    assert_ok(device->ops->linear_dw(stream, &x, &y, &weight, true, &weight, &shift));
    assert_true(w[0] == 1.0f && w[5] == 6.0f && bias[1] == 8.0f);
    assert_ok(device->ops->linear_dw(stream, &x, &y, &weight, false, &weight, &shift));
    assert_true(w[0] == 0.0f && w[5] == 0.0f && bias[1] == 0.0f); /* an empty sum */
    assert_ok(device->ops->gather(stream, &x, NULL, NULL, &x));
    assert_ok(device->ops->add(stream, &x, &x, &x));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_aligned_and_given_back),
        cmocka_unit_test(more_memory_than_there_is_is_refused),
        cmocka_unit_test(ops_in_place_give_the_same_bits),
        cmocka_unit_test(nan_goes_through_every_op),
        cmocka_unit_test(the_largest_floats_have_a_finite_norm),
        cmocka_unit_test(masked_columns_get_no_weight),
        cmocka_unit_test(results_do_not_depend_on_the_size_of_the_team),
        cmocka_unit_test(no_rows_are_no_work),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
