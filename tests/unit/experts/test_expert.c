/* The expert object: its plan, its first parameters, and what may and may not step it. */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "base/thread.h"
#include "experts/expert.h"
#include "support_arrays.h"

#include <math.h>

enum { HIDDEN = 8, ROWS_MAX = 64 };

static struct hm_device *device;

static int setup(void **state)
{
    (void)state;
    assert_ok(hm_device_cpu_create(&device));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    hm_device_destroy(device);
    return 0;
}

/* An expert and one batch's surroundings; x, dy and out have `rows` rows. */
struct bench {
    struct hm_expert *expert;
    struct hm_exec exec;
    float x_data[ROWS_MAX * HIDDEN], dy_data[ROWS_MAX * HIDDEN], out_data[ROWS_MAX * HIDDEN];
    struct hm_tensor x, dy, out;
};

static const struct hm_expert_conf ffn_adam = {
    .kind = "ffn", .hidden = HIDDEN, .optimizer = "adam", .rate = 1e-2f, .seed = 5};

static void bench_init(struct bench *b, const struct hm_expert_conf *conf, uint32_t rows)
{
    memset(b, 0, sizeof *b);
    HM_ASSERT(rows <= ROWS_MAX && conf->hidden == HIDDEN);
    assert_ok(hm_expert_create(device, "ffn.1.2", conf, &b->expert));
    b->exec.device = device;
    assert_ok(device->ops->stream_create(device, &b->exec.stream));
    size_t bytes = rows * hm_expert_plan(b->expert)->scratch_bytes_per_row;
    assert_ok(device->ops->alloc(device, bytes, &b->exec.scratch));
    struct hm_rng rng;
    hm_rng_init(&rng, 3, rows);
    for (uint32_t i = 0; i < rows * HIDDEN; i++) {
        b->x_data[i] = hm_rng_normal(&rng);
        b->dy_data[i] = hm_rng_normal(&rng);
    }
    b->x = hm_matrix_f32(b->x_data, rows, HIDDEN);
    b->dy = hm_matrix_f32(b->dy_data, rows, HIDDEN);
    b->out = hm_matrix_f32(b->out_data, rows, HIDDEN);
}

static void bench_fini(struct bench *b)
{
    device->ops->free(device, &b->exec.scratch);
    device->ops->stream_destroy(b->exec.stream);
    hm_expert_destroy(b->expert);
}

/* Everything that a step may change, as one digestible copy. */
static float *copy_state(struct hm_expert *expert, size_t *count)
{
    size_t elements = hm_expert_plan(expert)->parameter_elements;
    unsigned slots = hm_expert_slot_count(expert);
    *count = elements * (1 + slots);
    float *copy = malloc((*count + 1) * sizeof *copy);
    assert_non_null(copy);
    for (unsigned i = 0; i <= slots; i++) {
        float *dense = array_get(expert, i);
        memcpy(copy + elements * i, dense, elements * sizeof *copy);
        free(dense);
    }
    return copy;
}

static void kinds_are_found_by_name(void **state)
{
    (void)state;
    assert_string_equal(hm_expert_kind_find("ffn")->name, "ffn");
    assert_string_equal(hm_expert_kind_find("nop")->name, "nop");
    assert_null(hm_expert_kind_find("transformer"));
    assert_non_null(strstr(hm_fail_line(), "transformer"));
    assert_non_null(strstr(hm_fail_line(), "ffn"));
}

static void ffn_has_the_references_parameters(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {.kind = "ffn", .hidden = 1024, .optimizer = "adam"};
    struct hm_plan plan;
    assert_ok(hm_expert_kind_find("ffn")->plan(&conf, &plan));
    /* Linear(1024, 4096), LN(4096), Linear(4096, 4096), LN(4096), Linear(4096, 1024) */
    assert_int_equal(plan.parameter_elements,
                     4096 * 1024 + 4096 + 8192 + 4096 * 4096 + 4096 + 8192 + 1024 * 4096 + 1024);
    static const char *const names[] = {"ffn.0.weight", "ffn.0.bias", "ffn.1.weight", "ffn.1.bias",
                                        "ffn.3.weight", "ffn.3.bias", "ffn.4.weight", "ffn.4.bias",
                                        "ffn.6.weight", "ffn.6.bias"};
    assert_int_equal(plan.parameter_count, HM_COUNT_OF(names));
    size_t offset = 0;
    for (unsigned i = 0; i < plan.parameter_count; i++) {
        uint64_t elements;
        assert_string_equal(plan.parameter[i].name, names[i]);
        assert_int_equal(plan.parameter[i].offset, offset);
        assert_ok(hm_shape_elements(&plan.parameter[i].shape, &elements));
        offset += elements;
    }
    assert_int_equal(plan.parameter_elements, offset);
    struct hm_schema row = hm_schema_f32(1024);
    assert_true(hm_schema_equal(&plan.input, &row) && hm_schema_equal(&plan.output, &row));
}

static void equal_seeds_and_uids_give_equal_experts_and_others_do_not(void **state)
{
    (void)state;
    struct hm_expert_conf other_seed = ffn_adam;
    other_seed.seed = 6;
    struct hm_expert *a, *b, *c, *d;
    assert_ok(hm_expert_create(device, "ffn.0", &ffn_adam, &a));
    assert_ok(hm_expert_create(device, "ffn.0", &ffn_adam, &b));
    assert_ok(hm_expert_create(device, "ffn.1", &ffn_adam, &c));
    assert_ok(hm_expert_create(device, "ffn.0", &other_seed, &d));
    size_t bytes = hm_expert_array_elements(a) * sizeof(float);
    assert_memory_equal(hm_expert_array(a, 0), hm_expert_array(b, 0), bytes);
    assert_memory_not_equal(hm_expert_array(a, 0), hm_expert_array(c, 0), bytes);
    assert_memory_not_equal(hm_expert_array(a, 0), hm_expert_array(d, 0), bytes);
    hm_expert_destroy(a);
    hm_expert_destroy(b);
    hm_expert_destroy(c);
    hm_expert_destroy(d);
}

/* Uniform within +-1/sqrt(fan in): the largest of many is just under the bound, and their mean
 * square is bound^2 / 3. */
static void first_parameters_are_pytorchs_defaults(void **state)
{
    (void)state;
    struct hm_expert_conf conf = ffn_adam;
    conf.hidden = 64;
    struct hm_expert *expert;
    assert_ok(hm_expert_create(device, "ffn.0", &conf, &expert));
    const struct hm_plan *plan = hm_expert_plan(expert);
    float *values = array_get(expert, 0);
    for (unsigned i = 0; i < plan->parameter_count; i++) {
        const struct hm_parameter *p = &plan->parameter[i];
        const float *value = values + p->offset;
        uint64_t count;
        assert_ok(hm_shape_elements(&p->shape, &count));
        bool norm = strstr(p->name, "ffn.1.") || strstr(p->name, "ffn.4.");
        if (norm) {
            float wanted = strstr(p->name, "weight") ? 1.0f : 0.0f;
            for (uint64_t k = 0; k < count; k++) assert_true(value[k] == wanted);
            continue;
        }
        double bound = 1.0 / sqrt(strstr(p->name, "ffn.0.") ? 64.0 : 256.0), largest = 0.0,
               square = 0.0;
        for (uint64_t k = 0; k < count; k++) {
            largest = fmax(largest, fabs((double)value[k]));
            square += (double)value[k] * (double)value[k] / (double)count;
        }
        assert_true(largest <= bound && largest > 0.9 * bound);
        assert_true(fabs(square / (bound * bound / 3.0) - 1.0) < 0.35); /* 64 values and more */
    }
    free(values);
    hm_expert_destroy(expert);
}

static void a_conf_that_makes_no_sense_is_refused_with_a_line(void **state)
{
    (void)state;
    const struct {
        struct hm_expert_conf conf;
        const char *uid, *line;
    } bad[] = {
        {{.kind = "gru", .hidden = 8, .optimizer = "sgd"}, "e.0", "gru"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "lion"}, "e.0", "lion"},
        {{.kind = "ffn", .hidden = 0, .optimizer = "sgd"}, "e.0", "hidden=0"},
        {{.kind = "ffn", .hidden = 1u << 30, .optimizer = "sgd"}, "e.0", "hidden=1073741824"},
        {{.kind = "nop", .hidden = 0, .optimizer = "sgd"}, "e.0", "hidden=0"},
        {{.kind = "nop_delay", .hidden = 8, .optimizer = "sgd"}, "e.0", "--delay"},
        {{.kind = "nop_delay", .hidden = 8, .optimizer = "sgd", .delay = 61 * HM_S}, "e.0", "60 s"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd", .rate = NAN}, "e.0", "rate"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd", .rate = -1.0f}, "e.0", "rate"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd", .clip_norm = INFINITY}, "e.0", "clip"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd", .weight_decay = -0.1f}, "e.0", "decay"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd", .momentum = 1.0f}, "e.0", "momentum"},
        {{.kind = "ffn", .hidden = 8, .optimizer = "sgd"}, "", "uid"},
    };
    for (size_t i = 0; i < HM_COUNT_OF(bad); i++) {
        struct hm_expert *expert = NULL;
        hm_fail_clear();
        assert_status(hm_expert_create(device, bad[i].uid, &bad[i].conf, &expert), HM_ERR_INVALID);
        assert_null(expert);
        if (!strstr(hm_fail_line(), bad[i].line))
            fail_msg("'%s' does not say '%s'", hm_fail_line(), bad[i].line);
    }
    char long_uid[HM_EXPERT_UID_BYTES + 1];
    memset(long_uid, 'e', sizeof long_uid);
    long_uid[HM_EXPERT_UID_BYTES] = '\0';
    struct hm_expert *expert = NULL;
    assert_status(hm_expert_create(device, long_uid, &ffn_adam, &expert), HM_ERR_INVALID);
}

static void nop_gives_back_its_rows_and_counts_steps(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop", .hidden = HIDDEN, .optimizer = "adam", .rate = 0.1f};
    struct bench b;
    bench_init(&b, &conf, 3);
    assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out));
    assert_memory_equal(b.out_data, b.x_data, 3 * HIDDEN * sizeof(float));
    assert_int_equal(hm_expert_step(b.expert), 0);
    assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
    assert_memory_equal(b.out_data, b.dy_data, 3 * HIDDEN * sizeof(float));
    assert_int_equal(hm_expert_step(b.expert), 1);
    bench_fini(&b);
}

static void a_forward_in_place_is_of_identities_alone_and_keeps_the_delay(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop_delay", .hidden = HIDDEN, .optimizer = "sgd", .delay = 3 * HM_MS};
    struct bench b;
    bench_init(&b, &ffn_adam, 3);
    assert_false(hm_expert_plan(b.expert)->identity);
    bench_fini(&b);
    bench_init(&b, &conf, 3);
    assert_true(hm_expert_plan(b.expert)->identity);
    float kept[3 * HIDDEN];
    memcpy(kept, b.x_data, sizeof kept);
    hm_ns before = hm_thread_clock();
    assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.x));
    assert_true(hm_thread_clock() - before >= conf.delay);
    assert_memory_equal(b.x_data, kept, sizeof kept);
    bench_fini(&b);
}

static void nop_delay_gives_back_its_rows_and_no_batch_takes_less_than_its_delay(void **state)
{
    (void)state;
    const struct hm_expert_conf conf = {
        .kind = "nop_delay", .hidden = HIDDEN, .optimizer = "sgd", .delay = 3 * HM_MS};
    struct bench b;
    bench_init(&b, &conf, 3);
    hm_ns before = hm_thread_clock();
    assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out));
    hm_ns between = hm_thread_clock();
    assert_memory_equal(b.out_data, b.x_data, 3 * HIDDEN * sizeof(float));
    assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
    assert_true(between - before >= conf.delay && hm_thread_clock() - between >= conf.delay);
    assert_memory_equal(b.out_data, b.dy_data, 3 * HIDDEN * sizeof(float));
    assert_int_equal(hm_expert_step(b.expert), 1);
    bench_fini(&b);
}

static void forward_changes_nothing_and_backward_steps_once(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, &ffn_adam, 7);
    size_t count;
    float *before = copy_state(b.expert, &count), *after;
    assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out));
    after = copy_state(b.expert, &count);
    assert_memory_equal(before, after, count * sizeof(float));
    assert_int_equal(hm_expert_step(b.expert), 0);
    free(after);
    assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
    assert_int_equal(hm_expert_step(b.expert), 1);
    after = copy_state(b.expert, &count);
    assert_memory_not_equal(before, after, count * sizeof(float));
    free(after);
    free(before);
    bench_fini(&b);
}

/* The gradient that the expert returns and steps by is that of its own forward. */
static void training_towards_a_target_lowers_the_loss(void **state)
{
    const char *const optimizers[] = {"sgd", "adam", "adamw"};
    for (unsigned o = 0; o < HM_COUNT_OF(optimizers); o++) {
        struct hm_expert_conf conf = ffn_adam;
        conf.optimizer = optimizers[o];
        conf.dtype = *(const enum hm_dtype *)*state;
        struct bench b;
        bench_init(&b, &conf, 16);
        float target[16 * HIDDEN];
        memcpy(target, b.dy_data, sizeof target);
        double first = 0.0, last = 0.0;
        for (int step = 0; step < 200; step++) {
            assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out));
            last = 0.0;
            for (int i = 0; i < 16 * HIDDEN; i++) {
                b.dy_data[i] =
                    (b.out_data[i] - target[i]) / 16.0f; /* of half the squared distance */
                last += (double)(b.out_data[i] - target[i]) * (double)(b.out_data[i] - target[i]);
            }
            if (step == 0) first = last;
            assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
        }
        if (!(last < 0.1 * first)) fail_msg("%s: loss from %g to %g", optimizers[o], first, last);
        bench_fini(&b);
    }
}

static void a_strangers_nan_is_his_fault_and_steps_nothing(void **state)
{
    (void)state;
    const float poison[] = {NAN, INFINITY, -INFINITY};
    const struct hm_expert_conf nop = {.kind = "nop", .hidden = HIDDEN, .optimizer = "sgd"};
    struct hm_expert_conf bf16 = ffn_adam;
    bf16.dtype = HM_BF16;
    const struct hm_expert_conf *const confs[] = {&ffn_adam, &bf16, &nop};
    for (unsigned k = 0; k < HM_COUNT_OF(confs); k++) {
        for (unsigned i = 0; i < HM_COUNT_OF(poison); i++) {
            struct bench b;
            bench_init(&b, confs[k], 5);
            size_t count;
            float *before = copy_state(b.expert, &count);
            float was = b.x_data[17];
            b.x_data[17] = poison[i];
            assert_status(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out), HM_ERR_NUMERIC);
            assert_status(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out),
                          HM_ERR_NUMERIC);
            b.x_data[17] = was;
            b.dy_data[39] = poison[i];
            assert_status(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out),
                          HM_ERR_NUMERIC);
            assert_int_equal(hm_expert_step(b.expert), 0);
            float *after = copy_state(b.expert, &count);
            assert_memory_equal(before, after, count * sizeof(float));
            free(after);
            free(before);
            bench_fini(&b);
        }
    }
}

static void a_broken_expert_says_so_and_steps_nothing(void **state)
{
    (void)state;
    struct bench b;
    bench_init(&b, &ffn_adam, 5);
    float *values = array_get(b.expert, 0);
    size_t last = hm_expert_plan(b.expert)->parameter_elements - 1;
    values[last] = NAN; /* a bias of the last layer: in y, and in no gradient */
    array_put(b.expert, 0, values);
    assert_status(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out), HM_ERR_EXPERT_NUMERIC);
    values[last] = 0.0f;
    array_put(b.expert, 0, values);
    assert_ok(hm_expert_forward(b.expert, &b.exec, &b.x, &b.out));

    values[0] = INFINITY;
    array_put(b.expert, 0, values);
    assert_status(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out),
                  HM_ERR_EXPERT_NUMERIC);
    assert_int_equal(hm_expert_step(b.expert), 0);
    values[0] = 0.0f;
    array_put(b.expert, 0, values);
    free(values);

    /* finite dx, overflowing parameter gradients: dy near the largest float, summed over rows for
     * the last bias */
    for (int i = 0; i < 5 * HIDDEN; i++) b.dy_data[i] = 0.0f;
    for (int r = 0; r < 5; r++) b.dy_data[r * HIDDEN] = 1e38f;
    size_t count;
    float *before = copy_state(b.expert, &count);
    assert_status(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out),
                  HM_ERR_EXPERT_NUMERIC);
    float *after = copy_state(b.expert, &count);
    assert_memory_equal(before, after, count * sizeof(float));
    assert_int_equal(hm_expert_step(b.expert), 0);
    free(before);
    free(after);
    bench_fini(&b);
}

static void gradients_are_clipped_to_the_norm_and_not_below_it(void **state)
{
    (void)state;
    /* sgd, rate 1: an update is the gradient */
    struct hm_expert_conf conf = {
        .kind = "ffn", .hidden = HIDDEN, .optimizer = "sgd", .rate = 1.0f, .seed = 5};
    double norm[3];
    const float clip[3] = {0.0f, 0.125f, 1e6f};
    for (int i = 0; i < 3; i++) {
        conf.clip_norm = clip[i];
        struct bench b;
        bench_init(&b, &conf, 5);
        size_t count = hm_expert_plan(b.expert)->parameter_elements, copied;
        float *before = copy_state(b.expert, &copied);
        assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
        float *after = array_get(b.expert, 0);
        double sum = 0.0;
        for (size_t k = 0; k < count; k++) {
            double d = (double)after[k] - (double)before[k];
            sum += d * d;
        }
        norm[i] = sqrt(sum);
        free(before);
        free(after);
        bench_fini(&b);
    }
    assert_true(norm[0] > 1.0);
    assert_true(fabs(norm[1] / 0.125 - 1.0) < 1e-3);
    assert_true(fabs(norm[2] / norm[0] - 1.0) < 1e-5);
}

/* |a - b| / |b| */
static double apart(const float *a, const float *b, size_t count)
{
    double difference = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

static void a_bf16_expert_computes_what_an_f32_one_does_but_for_the_rounding(void **state)
{
    (void)state;
    struct hm_expert_conf conf = ffn_adam;
    struct bench f32, bf16;
    conf.dtype = HM_BF16;
    bench_init(&f32, &ffn_adam, 16);
    bench_init(&bf16, &conf, 16);
    size_t bytes = hm_expert_array_elements(f32.expert) * sizeof(float);
    assert_memory_equal(hm_expert_array(bf16.expert, 0), hm_expert_array(f32.expert, 0), bytes);
    assert_ok(hm_expert_forward(f32.expert, &f32.exec, &f32.x, &f32.out));
    assert_ok(hm_expert_forward(bf16.expert, &bf16.exec, &bf16.x, &bf16.out));
    double y = apart(bf16.out_data, f32.out_data, 16 * HIDDEN);
    assert_true(y > 1e-5 && y < 1e-2);
    assert_ok(hm_expert_backward(f32.expert, &f32.exec, &f32.x, &f32.dy, &f32.out));
    assert_ok(hm_expert_backward(bf16.expert, &bf16.exec, &bf16.x, &bf16.dy, &bf16.out));
    double dx = apart(bf16.out_data, f32.out_data, 16 * HIDDEN);
    /* a value that a rounding takes over ReLU's zero counts in full: a thousandth of them are 3 % */
    if (!(dx > 1e-5 && dx < 6e-2)) fail_msg("dx differs by %g of its norm", dx);
    bench_fini(&f32);
    bench_fini(&bf16);
}

/* Steps that are far smaller than a bf16 can tell from nothing add up in the f32 parameters. */
static void small_steps_of_a_bf16_expert_add_up(void **state)
{
    (void)state;
    struct hm_expert_conf conf = ffn_adam;
    conf.dtype = HM_BF16;
    conf.rate = 1e-5f;
    struct bench b;
    bench_init(&b, &conf, 4);
    float *before = array_get(b.expert, 0);
    for (int step = 0; step < 50; step++)
        assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
    float *after = array_get(b.expert, 0);
    /* of the weights of the last layer, whose gradient is the same each time but for the rounding */
    size_t first = hm_expert_plan(b.expert)->parameter[8].offset, moved = 0;
    enum { LAST_WEIGHTS = HIDDEN * 4 * HIDDEN };
    for (size_t i = first; i < first + LAST_WEIGHTS; i++)
        moved += fabs((double)after[i] - (double)before[i]) > 40 * 1e-5;
    assert_true(moved > LAST_WEIGHTS / 3); /* ReLU leaves some without a gradient */
    free(before);
    free(after);
    bench_fini(&b);
}

static void a_dtype_that_experts_do_not_compute_in_is_refused(void **state)
{
    (void)state;
    struct hm_expert_conf conf = ffn_adam;
    struct hm_expert *expert = NULL;
    conf.dtype = HM_F16;
    assert_status(hm_expert_create(device, "e.0", &conf, &expert), HM_ERR_INVALID);
    assert_null(expert);
    assert_non_null(strstr(hm_fail_line(), "f16"));
}

static bool alone(struct hm_expert_conf conf, uint32_t rows)
{
    struct hm_expert *expert;
    assert_ok(hm_expert_create(device, "e.0", &conf, &expert));
    bool is = hm_expert_is_alone(expert, rows);
    hm_expert_destroy(expert);
    return is;
}

static void only_small_f32_work_that_does_not_sleep_is_one_threads_alone(void **state)
{
    (void)state;
    struct hm_expert_conf conf = ffn_adam;
    assert_true(alone(conf, 1));
    assert_false(alone(conf, 1 << 20));
    conf.dtype = HM_BF16; /* prepares products at the first call of a size */
    assert_false(alone(conf, 1));
    conf.dtype = HM_F32;
    conf.hidden = 1024; /* its optimizer's pass is a team's */
    assert_false(alone(conf, 1));
    conf.kind = "nop";
    assert_true(alone(conf, 1));
    assert_false(alone(conf, 1024));
    conf.kind = "nop_delay";
    conf.delay = HM_US;
    assert_false(alone(conf, 1));
}

static void results_are_equal_bit_for_bit_when_repeated(void **state)
{
    (void)state;
    struct bench a, b;
    bench_init(&a, &ffn_adam, ROWS_MAX);
    bench_init(&b, &ffn_adam, ROWS_MAX);
    for (int step = 0; step < 3; step++) {
        assert_ok(hm_expert_backward(a.expert, &a.exec, &a.x, &a.dy, &a.out));
        assert_ok(hm_expert_backward(b.expert, &b.exec, &b.x, &b.dy, &b.out));
        assert_memory_equal(a.out_data, b.out_data, sizeof a.out_data);
    }
    size_t count;
    float *first = copy_state(a.expert, &count), *second = copy_state(b.expert, &count);
    assert_memory_equal(first, second, count * sizeof(float));
    free(first);
    free(second);
    bench_fini(&a);
    bench_fini(&b);
}

static const enum hm_dtype dtypes[] = {HM_F32, HM_BF16};

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_found_by_name),
        cmocka_unit_test(ffn_has_the_references_parameters),
        cmocka_unit_test(equal_seeds_and_uids_give_equal_experts_and_others_do_not),
        cmocka_unit_test(first_parameters_are_pytorchs_defaults),
        cmocka_unit_test(a_conf_that_makes_no_sense_is_refused_with_a_line),
        cmocka_unit_test(nop_gives_back_its_rows_and_counts_steps),
        cmocka_unit_test(a_forward_in_place_is_of_identities_alone_and_keeps_the_delay),
        cmocka_unit_test(nop_delay_gives_back_its_rows_and_no_batch_takes_less_than_its_delay),
        cmocka_unit_test(forward_changes_nothing_and_backward_steps_once),
        {"training_in_f32_towards_a_target_lowers_the_loss",
         training_towards_a_target_lowers_the_loss, NULL, NULL, (void *)(uintptr_t)&dtypes[0]},
        {"training_in_bf16_towards_a_target_lowers_the_loss",
         training_towards_a_target_lowers_the_loss, NULL, NULL, (void *)(uintptr_t)&dtypes[1]},
        cmocka_unit_test(a_bf16_expert_computes_what_an_f32_one_does_but_for_the_rounding),
        cmocka_unit_test(small_steps_of_a_bf16_expert_add_up),
        cmocka_unit_test(only_small_f32_work_that_does_not_sleep_is_one_threads_alone),
        cmocka_unit_test(a_dtype_that_experts_do_not_compute_in_is_refused),
        cmocka_unit_test(a_strangers_nan_is_his_fault_and_steps_nothing),
        cmocka_unit_test(a_broken_expert_says_so_and_steps_nothing),
        cmocka_unit_test(gradients_are_clipped_to_the_norm_and_not_below_it),
        cmocka_unit_test(results_are_equal_bit_for_bit_when_repeated),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
