/* Every op of a device, on every device, in two modes:
 *
 *   test   the device's result against a naive reference in double precision (support_ops.c)
 *   grad   the device's gradient against central finite differences of that reference (so forward
 *   and gradient are held to
 *          the same function)
 *
 * Errors are normalised: sum of squared differences over sum of squared wanted values.  Before an
 * op runs, what it writes is full of NaN and what it accumulates into holds 0.5, so that an op
 * which reads the first or overwrites the second fails. A device that this machine or build lacks
 * is one SKIP with its reason. */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "experts/device.h"
#include "support_ops.h"

#include <math.h>
#include <stdio.h>

/* ---- the devices: a second one is one line --------------------------------------------------- */

static const struct {
    const char *name;
    enum hm_status (*create)(struct hm_device **device); /* NULL: not in this build */
    const char *absent;
} devices[] = {
    {"cpu", hm_device_cpu_create, NULL},
    {"cuda", NULL, "this build has no cuda module"},
};

/* ---- one run of one case --------------------------------------------------------------------- */

enum mode { MODE_TEST, MODE_GRAD };
struct run {
    unsigned device;
    const struct op_case *c;
    enum mode mode;
    char name[96];
};

/* Memory of the device with host values; the one place that a device with memory of its own has to
 * extend. */
static struct hm_tensor put(struct hm_device *device, const double *value, uint32_t rows,
                            uint32_t columns)
{
    struct hm_span span;
    size_t count = (size_t)rows * columns;
    assert_ok(device->ops->alloc(device, count * sizeof(float), &span));
    assert_int_equal(span.mem, HM_MEM_HOST);
    for (size_t i = 0; i < count; i++) ((float *)span.base)[i] = (float)value[i];
    struct hm_tensor t = hm_matrix_f32(span.base, rows, columns);
    t.data = span;
    return t;
}

static struct hm_tensor put_constant(struct hm_device *device, double value, uint32_t rows,
                                     uint32_t columns)
{
    size_t count = (size_t)rows * columns;
    double *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) values[i] = value;
    struct hm_tensor t = put(device, values, rows, columns);
    free(values);
    return t;
}

/* The rounded inputs go back into the doubles, so that the reference sees what the device sees. */
static double *draw(struct hm_rng *rng, const struct op_case *c, unsigned input, size_t count)
{
    double *value = malloc((count + 1) * sizeof *value);
    assert_non_null(value);
    for (size_t i = 0; i < count; i++) {
        float x = c->op->draw ? c->op->draw(rng, input) : hm_rng_normal(rng);
        value[i] = (double)x;
    }
    return value;
}

static double normalised_error(const double *got, const double *wanted, size_t count)
{
    double difference = 0.0, size = 1e-30;
    for (size_t i = 0; i < count; i++) {
        difference += (got[i] - wanted[i]) * (got[i] - wanted[i]);
        size += wanted[i] * wanted[i];
    }
    return difference / size; /* NaN stays NaN, and fails every comparison below */
}

struct problem {
    struct hm_device *device;
    struct hm_stream *stream;
    struct op_shape shape;
    double *input[OP_INPUTS_MAX], *output;
    struct hm_tensor in[OP_INPUTS_MAX], out;
};

static void problem_init(struct problem *p, const struct run *run)
{
    const struct op_case *c = run->c;
    memset(p, 0, sizeof *p);
    assert_ok(devices[run->device].create(&p->device));
    assert_ok(p->device->ops->stream_create(p->device, &p->stream));
    c->op->shape(c, &p->shape);
    struct hm_rng rng;
    hm_rng_init(&rng, 20261122, c->rows * 7919u + c->columns);
    for (unsigned i = 0; i < p->shape.inputs; i++) {
        uint32_t rows = p->shape.in[i].rows, columns = p->shape.in[i].columns;
        p->input[i] = draw(&rng, c, i, (size_t)rows * columns);
        p->in[i] = put(p->device, p->input[i], rows, columns);
    }
    size_t count = (size_t)p->shape.out.rows * p->shape.out.columns;
    p->output = malloc((count + 1) * sizeof *p->output);
    assert_non_null(p->output);
    p->out = put_constant(p->device, NAN, p->shape.out.rows, p->shape.out.columns);
    c->op->reference(c, (const double *const *)p->input, p->output);
}

static void problem_fini(struct problem *p)
{
    p->device->ops->free(p->device, &p->out.data);
    for (unsigned i = 0; i < p->shape.inputs; i++) {
        p->device->ops->free(p->device, &p->in[i].data);
        free(p->input[i]);
    }
    free(p->output);
    p->device->ops->stream_destroy(p->stream);
    hm_device_destroy(p->device);
}

static void compare(const struct run *run, const char *what, const struct hm_tensor *got,
                    double base, const double *wanted, double error_max)
{
    size_t count = (size_t)hm_rows(got) * hm_columns(got);
    double *values = malloc((count + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++) values[i] = (double)hm_f32(got)[i] - base;
    double error = normalised_error(values, wanted, count);
    free(values);
    if (!(error <= error_max))
        fail_msg("%s, %s: normalised error %g, over %g", run->name, what, error, error_max);
}

static void check_output(const struct run *run)
{
    struct problem p;
    problem_init(&p, run);
    assert_ok(run->c->op->forward(p.stream, run->c, p.in, &p.out));
    assert_ok(p.device->ops->sync(p.stream));
    compare(run, "output", &p.out, 0.0, p.output, run->c->op->error_max);
    problem_fini(&p);
}

/* sum(dy * reference(inputs)) */
static double loss(const struct op_case *c, const struct problem *p, const double *dy,
                   double *scratch)
{
    double sum = 0.0;
    c->op->reference(c, (const double *const *)p->input, scratch);
    for (size_t i = 0; i < (size_t)p->shape.out.rows * p->shape.out.columns; i++)
        sum += dy[i] * scratch[i];
    return sum;
}

/* Central differences at up to 48 places of input i, against what the device says there. */
static void check_gradient(const struct run *run, struct problem *p, unsigned i,
                           const struct hm_tensor *gradient, const double *dy, struct hm_rng *rng)
{
    enum { PLACES = 48 };
    const double step = 1e-4, base = run->c->op->accumulates & (1u << i) ? 0.5 : 0.0;
    size_t count = (size_t)hm_rows(gradient) * hm_columns(gradient);
    size_t places = count < PLACES ? count : PLACES;
    double got[PLACES], wanted[PLACES];
    double *scratch =
        malloc(((size_t)p->shape.out.rows * p->shape.out.columns + 1) * sizeof *scratch);
    assert_non_null(scratch);
    for (size_t k = 0; k < places; k++) {
        size_t at = places == count ? k : (size_t)hm_rng_below(rng, count);
        double was = p->input[i][at];
        p->input[i][at] = was + step;
        double above = loss(run->c, p, dy, scratch);
        p->input[i][at] = was - step;
        double below = loss(run->c, p, dy, scratch);
        p->input[i][at] = was;
        wanted[k] = (above - below) / (2.0 * step);
        got[k] = (double)hm_f32(gradient)[at] - base;
    }
    free(scratch);
    double error = normalised_error(got, wanted, places);
    if (!(error <= run->c->op->gradient_error_max))
        fail_msg("%s, gradient of input %u: normalised error %g, over %g", run->name, i, error,
                 run->c->op->gradient_error_max);
}

static void check_gradients(const struct run *run)
{
    const struct op *op = run->c->op;
    struct problem p;
    problem_init(&p, run);
    struct hm_rng rng;
    hm_rng_init(&rng, 7, 7);
    size_t count = (size_t)p.shape.out.rows * p.shape.out.columns;
    double *dy = malloc((count + 1) * sizeof *dy);
    assert_non_null(dy);
    for (size_t i = 0; i < count; i++) dy[i] = (double)hm_rng_normal(&rng);
    struct hm_tensor dy_tensor = put(p.device, dy, p.shape.out.rows, p.shape.out.columns),
                     gradient[OP_INPUTS_MAX];
    for (size_t i = 0; i < count; i++) dy[i] = (double)hm_f32(&dy_tensor)[i];
    for (unsigned i = 0; i < p.shape.inputs; i++)
        gradient[i] = put_constant(p.device, op->accumulates & (1u << i) ? 0.5 : (double)NAN,
                                   p.shape.in[i].rows, p.shape.in[i].columns);
    assert_ok(op->forward(p.stream, run->c, p.in, &p.out));
    assert_ok(op->backward(p.stream, run->c, p.in, &p.out, &dy_tensor, gradient));
    assert_ok(p.device->ops->sync(p.stream));
    for (unsigned i = 0; i < p.shape.inputs; i++)
        check_gradient(run, &p, i, &gradient[i], dy, &rng);
    for (unsigned i = 0; i < p.shape.inputs; i++) p.device->ops->free(p.device, &gradient[i].data);
    p.device->ops->free(p.device, &dy_tensor.data);
    free(dy);
    problem_fini(&p);
}

static void run_case(void **state)
{
    const struct run *run = *state;
    if (!devices[run->device].create) {
        print_message("SKIP %s: %s\n", devices[run->device].name, devices[run->device].absent);
        skip();
    }
    struct hm_device *device;
    const char *why = NULL;
    assert_ok(devices[run->device].create(&device));
    bool there = !run->c->op->there || run->c->op->there(device, &why);
    hm_device_destroy(device);
    if (!there) {
        print_message("SKIP %s: %s\n", run->name, why);
        skip();
    }
    if (run->mode == MODE_TEST)
        check_output(run);
    else
        check_gradients(run);
}

/* Calls add(run) for every case, mode and device that is there, and once for a device that is
 * not. */
static unsigned list_runs(struct run *runs, unsigned runs_max)
{
    unsigned count = 0;
    for (unsigned d = 0; d < HM_COUNT_OF(devices); d++) {
        for (unsigned i = 0; i < op_case_count && (devices[d].create || i == 0); i++) {
            const struct op_case *c = &op_cases[i];
            for (int mode = MODE_TEST;
                 mode <= (devices[d].create && c->op->backward && c->grad ? MODE_GRAD : MODE_TEST);
                 mode++) {
                HM_ASSERT(count < runs_max);
                struct run *run = &runs[count++];
                *run = (struct run){.device = d, .c = c, .mode = (enum mode)mode};
                if (devices[d].create)
                    snprintf(run->name, sizeof run->name, "%s %s(%ux%u,%u) %s", devices[d].name,
                             c->op->name, (unsigned)c->rows, (unsigned)c->columns,
                             (unsigned)c->option, mode == MODE_TEST ? "test" : "grad");
                else
                    snprintf(run->name, sizeof run->name, "%s, all ops", devices[d].name);
            }
        }
    }
    return count;
}

int main(void)
{
    enum { RUNS_MAX = 512 };
    static struct run runs[RUNS_MAX];
    static struct CMUnitTest tests[RUNS_MAX];
    unsigned count = list_runs(runs, RUNS_MAX);
    for (unsigned i = 0; i < count; i++) {
        tests[i] = (struct CMUnitTest){
            .name = runs[i].name, .test_func = run_case, .initial_state = &runs[i]};
    }
    return _cmocka_run_group_tests("ops", tests, count, NULL, NULL);
}
