/* Copies of weights for products in bf16: what is rounded, how, and that optimizers keep them. */
#include "test.h"

#include "base/assert.h"
#include "experts/cpu.h"
#include "support_device.h"

#include <math.h>
#include <stdio.h>

static const enum hm_bf16_way ways[] = {HM_BF16_ROUNDED, HM_BF16_LIBRARY};

/* Packed copies go that way from now on; SKIP where the CPU has none. */
static void choose(enum hm_bf16_way way)
{
    if (hm_device_cpu_set_bf16(device, way) == HM_OK) return;
    print_message("SKIP: %s\n", hm_fail_line());
    skip();
}

/* Weights in the device's layout with a packed copy. */
struct packed_weights {
    struct hm_span span;
    struct hm_weights w;
};

static void pack(struct packed_weights *p, uint32_t out, uint32_t in, uint64_t seed)
{
    p->w = (struct hm_weights){.out = out, .in = in};
    device->ops->weights_layout(device, out, in, &p->w.layout);
    assert_ok(device->ops->alloc(device, p->w.layout.elements * sizeof(float), &p->span));
    p->w.data = p->span.base;
    for (uint32_t i = 0; i < in; i++)
        fill(p->w.data + (size_t)i * p->w.layout.in_stride, out, seed + i);
    assert_ok(device->ops->pack_create(device, &p->w, &p->w.packed));
}

static void unpack(struct packed_weights *p)
{
    device->ops->pack_destroy(device, p->w.packed);
    device->ops->free(device, &p->span);
}

static float rounded(float x)
{
    float y;
    hm_cpu_round(&x, &y, 1);
    return y;
}

static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    const float ulp = 0x1p-7f; /* of 1 */
    assert_true(rounded(1.0f) == 1.0f && rounded(-0.0f) == 0.0f && signbit(rounded(-0.0f)));
    assert_true(rounded(1.0f + 0.49f * ulp) == 1.0f);
    assert_true(rounded(1.0f + 0.51f * ulp) == 1.0f + ulp);
    assert_true(rounded(1.0f + 0.5f * ulp) == 1.0f);
    assert_true(rounded(1.0f + 1.5f * ulp) == 1.0f + 2.0f * ulp);
    assert_true(rounded(-1.0f - 1.5f * ulp) == -1.0f - 2.0f * ulp);
    assert_true(rounded(0x1p-133f) == 0x1p-133f && rounded(0x1p-149f) == 0.0f);
}

/* A NaN whose low bits a carry would run through must not come out as a number. */
static void what_is_not_finite_stays_so(void **state)
{
    (void)state;
    const uint32_t bits[] = {0x7f800001, 0x7fffffff, 0xffffffff, 0x7fc00000, 0xff80ffff};
    for (unsigned i = 0; i < HM_COUNT_OF(bits); i++) {
        float x;
        uint16_t half;
        memcpy(&x, &bits[i], sizeof x);
        assert_true(isnan(rounded(x)));
        hm_cpu_narrow(&x, &half, 1);
        assert_true((half & 0x7fff) > 0x7f80);
    }
    assert_true(rounded(INFINITY) == INFINITY && rounded(-INFINITY) == -INFINITY);
    assert_true(rounded(3.4e38f) == INFINITY); /* nearer to what infinity stands for */
}

static void narrow_values_are_the_upper_halves_of_rounded_ones(void **state)
{
    (void)state;
    enum { COUNT = 1003 };
    float *x = normal(COUNT, 1), y[COUNT];
    uint16_t half[COUNT];
    hm_cpu_round(x, y, COUNT);
    hm_cpu_narrow(x, half, COUNT);
    for (int i = 0; i < COUNT; i++) {
        uint32_t bits;
        memcpy(&bits, &y[i], sizeof bits);
        assert_int_equal(bits, (uint32_t)half[i] << 16);
        assert_true(fabsf(y[i] - x[i]) <= fabsf(x[i]) * 0x1p-8f);
    }
    free(x);
}

/* |got - wanted| / |wanted| */
static double distance(const float *got, const double *wanted, size_t count)
{
    double difference = 0.0, size = 1e-30;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)got[i] - wanted[i]) * ((double)got[i] - wanted[i]);
        size += wanted[i] * wanted[i];
    }
    return sqrt(difference / size);
}

/* All three products of one layer, against double precision on the rounded factors. */
static void check_products(uint32_t rows, uint32_t in, uint32_t out)
{
    struct packed_weights p;
    pack(&p, out, in, 5);
    const struct hm_layout *layout = &p.w.layout;
    float *x = normal((size_t)rows * in, 2), *dy = normal((size_t)rows * out, 3);
    float *y = normal((size_t)rows * out, 0), *dx = normal((size_t)rows * in, 0);
    float *dw = normal(layout->elements, 4);
    double *wanted = calloc((size_t)(rows + 1) * (in + out) + (size_t)in * out, sizeof *wanted);
    assert_non_null(wanted);
    double *wanted_dx = wanted + (size_t)rows * out, *wanted_dw = wanted_dx + (size_t)rows * in;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < out; o++)
            for (uint32_t i = 0; i < in; i++) {
                double w = rounded(p.w.data[(size_t)i * layout->in_stride + o]);
                double xr = rounded(x[(size_t)r * in + i]), dr = rounded(dy[(size_t)r * out + o]);
                wanted[(size_t)r * out + o] += xr * w;
                wanted_dx[(size_t)r * in + i] += dr * w;
                wanted_dw[(size_t)i * out + o] += xr * dr;
            }
    struct hm_tensor tx = hm_matrix_f32(x, rows, in), tdy = hm_matrix_f32(dy, rows, out);
    struct hm_tensor ty = hm_matrix_f32(y, rows, out), tdx = hm_matrix_f32(dx, rows, in);
    struct hm_weights gradient = p.w;
    gradient.data = dw;
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &ty));
    assert_ok(device->ops->linear_dx(stream, &tdy, &p.w, NULL, &tdx));
    assert_ok(device->ops->linear_dw(stream, &tx, &tdy, &p.w, false, &gradient, NULL));
    assert_true(distance(y, wanted, (size_t)rows * out) < 1e-5);
    assert_true(distance(dx, wanted_dx, (size_t)rows * in) < 1e-5);
    for (uint32_t i = 0; i < in; i++)
        memmove(dw + (size_t)i * out, dw + (size_t)i * layout->in_stride, out * sizeof *dw);
    assert_true(distance(dw, wanted_dw, (size_t)in * out) < 1e-5);
    free(x), free(dy), free(y), free(dx), free(dw), free(wanted);
    unpack(&p);
}

static void products_are_those_of_the_rounded_factors(void **state)
{
    choose(*(const enum hm_bf16_way *)*state);
    check_products(1, 1, 1);
    check_products(3, 5, 7);
    check_products(5, 130, 64);
    check_products(33, 64, 321);
    check_products(17, 67, 320);
    for (uint32_t rows = 1; rows < 40; rows += 6) check_products(rows, 24, 20);
}

/* Both matrices are packed while they are stepped; so are pieces that are not full. */
static void a_step_packs_as_packing_does(void **state)
{
    choose(*(const enum hm_bf16_way *)*state);
    enum { ROWS = 9, IN = 150, OUT = 320 };
    const struct hm_adam conf = {0.9f, 0.999f, 1e-8f, 0.0f};
    struct packed_weights p;
    pack(&p, OUT, IN, 7);
    size_t count = p.w.layout.elements;
    float *grad = calloc(count, sizeof *grad), *m = calloc(count, sizeof *m),
          *v = calloc(count, sizeof *v), bias[3] = {1, 2, 3}, bias_grad[3] = {1, 1, 1},
          bias_m[3] = {0}, bias_v[3] = {0};
    assert_true(grad && m && v);
    for (uint32_t i = 0; i < IN; i++) fill(grad + (size_t)i * p.w.layout.in_stride, OUT, 100 + i);
    struct hm_update updates[] = {
        {.count = 3, .param = bias, .grad = bias_grad, .slot = {bias_m, bias_v}},
        {.count = count, .param = p.w.data, .grad = grad, .slot = {m, v}, .packed = p.w.packed},
    };
    float *x = normal(ROWS * OUT, 1), before[ROWS * OUT], stepped[ROWS * OUT], again[ROWS * OUT];
    float back[ROWS * IN], back_again[ROWS * IN];
    struct hm_tensor tx = hm_matrix_f32(x, ROWS, IN), tdy = hm_matrix_f32(x, ROWS, OUT);
    struct hm_tensor first = hm_matrix_f32(before, ROWS, OUT),
                     y = hm_matrix_f32(stepped, ROWS, OUT),
                     y_again = hm_matrix_f32(again, ROWS, OUT);
    struct hm_tensor dx = hm_matrix_f32(back, ROWS, IN),
                     dx_again = hm_matrix_f32(back_again, ROWS, IN);
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &first));
    assert_ok(device->ops->adam(stream, &conf, 1, 0.1f, 1.0f, updates, 2));
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &y));
    assert_ok(device->ops->linear_dx(stream, &tdy, &p.w, NULL, &dx));
    assert_memory_not_equal(before, stepped, sizeof before);
    assert_near(bias[2], 2.9f, 1e-6);
    assert_ok(device->ops->pack(stream, p.w.packed));
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &y_again));
    assert_ok(device->ops->linear_dx(stream, &tdy, &p.w, NULL, &dx_again));
    assert_memory_equal(stepped, again, sizeof stepped);
    assert_memory_equal(back, back_again, sizeof back);
    /* and what lies between the rows is still zero */
    for (uint32_t i = 0; i < IN; i++)
        for (uint32_t o = OUT; o < p.w.layout.in_stride; o++)
            assert_true(p.w.data[(size_t)i * p.w.layout.in_stride + o] == 0.0f);
    free(grad), free(m), free(v), free(x);
    unpack(&p);
}

static void a_nan_among_rounded_factors_comes_out(void **state)
{
    choose(*(const enum hm_bf16_way *)*state);
    enum { ROWS = 3, IN = 70, OUT = 5 };
    struct packed_weights p;
    pack(&p, OUT, IN, 7);
    float *x = normal(ROWS * IN, 1), y[ROWS * OUT];
    struct hm_tensor tx = hm_matrix_f32(x, ROWS, IN), ty = hm_matrix_f32(y, ROWS, OUT);
    x[IN + 69] = NAN;
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &ty));
    for (int o = 0; o < OUT; o++) {
        assert_true(isfinite(y[o]) && isnan(y[OUT + o]) && isfinite(y[2 * OUT + o]));
    }
    x[IN + 69] = 1.0f;
    p.w.data[3] = NAN;
    assert_ok(device->ops->pack(stream, p.w.packed));
    assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &ty));
    for (int r = 0; r < ROWS; r++) assert_true(isnan(y[r * OUT + 3]) && isfinite(y[r * OUT]));
    free(x);
    unpack(&p);
}

/* A swarm mixes machines: the two ways differ by the order of sums only. */
static void both_ways_agree(void **state)
{
    (void)state;
    enum { ROWS = 33, IN = 257, OUT = 320 };
    choose(HM_BF16_LIBRARY); /* skips where the processor has none: before anything is held */
    float *x = normal(ROWS * IN, 1), *y[2];
    struct hm_tensor tx = hm_matrix_f32(x, ROWS, IN);
    for (int way = 0; way < 2; way++) {
        struct packed_weights p;
        choose(ways[way]);
        pack(&p, OUT, IN, 7);
        y[way] = normal(ROWS * OUT, 0);
        struct hm_tensor ty = hm_matrix_f32(y[way], ROWS, OUT);
        assert_ok(device->ops->linear(stream, &tx, &p.w, NULL, &ty));
        unpack(&p);
    }
    double wanted[ROWS * OUT];
    for (int i = 0; i < ROWS * OUT; i++) wanted[i] = y[0][i];
    assert_true(distance(y[1], wanted, ROWS * OUT) < 1e-5);
    free(x), free(y[0]), free(y[1]);
}

static void a_stream_allocates_once_for_a_size(void **state)
{
    (void)state;
    void *first, *again, *more;
    assert_ok(hm_cpu_work(stream, HM_CPU_WORK_X, 100000, &first));
    assert_ok(hm_cpu_work(stream, HM_CPU_WORK_X, 120000, &again)); /* the same power of two */
    assert_ptr_equal(first, again);
    assert_ok(hm_cpu_work(stream, HM_CPU_WORK_X, 10, &again));
    assert_ptr_equal(first, again);
    assert_ok(hm_cpu_work(stream, HM_CPU_WORK_X, 1 << 20, &more));
    assert_ok(hm_cpu_work(stream, HM_CPU_WORK_X, 100000, &again));
    assert_ptr_equal(more, again);
}

static void a_device_says_how_it_computes_bf16(void **state)
{
    (void)state;
    enum hm_bf16_way way;
    struct hm_device *fresh;
    assert_ok(hm_device_cpu_create(&fresh));
    const char *text = fresh->ops->bf16_text(fresh, &way);
    assert_non_null(strstr(text, way == HM_BF16_LIBRARY ? "oneDNN" : "f32"));
    assert_ok(hm_device_cpu_set_bf16(fresh, HM_BF16_ROUNDED));
    assert_non_null(strstr(fresh->ops->bf16_text(fresh, &way), "f32"));
    assert_int_equal(way, HM_BF16_ROUNDED);
    hm_device_destroy(fresh);
}

#define IN_EACH_WAY(test)                                                                          \
    {#test ", rounded", test, NULL, NULL, (void *)(uintptr_t)&ways[0]},                            \
    {                                                                                              \
#test ", oneDNN", test, NULL, NULL, (void *)(uintptr_t)&ways[1]                            \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(narrow_values_are_the_upper_halves_of_rounded_ones),
        IN_EACH_WAY(products_are_those_of_the_rounded_factors),
        IN_EACH_WAY(a_step_packs_as_packing_does),
        IN_EACH_WAY(a_nan_among_rounded_factors_comes_out),
        cmocka_unit_test(both_ways_agree),
        cmocka_unit_test(a_stream_allocates_once_for_a_size),
        cmocka_unit_test(a_device_says_how_it_computes_bf16),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
