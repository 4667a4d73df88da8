/* experts/expert.c - the expert object: a kind's parameters with their gradients and optimizer
 * slots, and the order of a training step.
 *
 * Happy path:    backward = kind->backward, one optimizer pass, step + 1.  The gradients' norm is a
 *                pass of its own, made only where they have to be clipped, or where the kind could
 *                not tell from its batch that they are finite.
 * Failure modes: a caller's non-finite rows are his (HM_ERR_NUMERIC); a non-finite result of finite
 *                rows is the expert's (HM_ERR_EXPERT_NUMERIC).  Both are found before the optimizer
 *                runs, so nothing has been stepped.
 * Invariants:    parameters and slots change only in the optimizer's pass, and step counts those
 *                passes.
 *
 *   backward:  check x, dy ──► forward, dx, gradients ──► check dx, gradients ──► optimizer,
 *                  │ NUMERIC                                  │                     step + 1
 *                  ▼ nothing stepped           EXPERT_NUMERIC ▼ nothing stepped */
#include "experts/expert.h"

#include "base/assert.h"
#include "base/map.h"
#include "experts/kinds.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct hm_expert {
    char uid[HM_EXPERT_UID_BYTES];
    struct hm_expert_conf conf; /* its strings are the tables' */
    struct hm_device *device;
    const struct hm_expert_kind *kind;
    const struct hm_optimizer *optimizer;
    struct hm_plan plan;
    struct hm_parameter_place place[HM_PARAMETERS_MAX];
    size_t array_elements;
    struct hm_span array[1 + HM_SLOTS_MAX], gradients; /* of each `array_elements` */
    struct hm_weights parameter[HM_PARAMETERS_MAX], gradient[HM_PARAMETERS_MAX];
    struct hm_stream *stream; /* for packing outside of a lane */
    uint64_t step;
};

static const struct hm_expert_kind *const kinds[] = {&hm_kind_ffn, &hm_kind_nop,
                                                     &hm_kind_nop_delay};

const struct hm_expert_kind *hm_expert_kind_find(const char *name)
{
    for (size_t i = 0; i < HM_COUNT_OF(kinds); i++) {
        if (strcmp(kinds[i]->name, name) == 0) return kinds[i];
    }
    (void)hm_fail(HM_ERR_INVALID, "'%s' is no kind of expert; use ffn, nop or nop_delay", name);
    return NULL;
}

static enum hm_status check_conf(const char *uid, const struct hm_expert_conf *conf)
{
    size_t length = strlen(uid);
    if (length == 0 || length >= HM_EXPERT_UID_BYTES)
        return hm_fail(HM_ERR_INVALID, "an expert's uid has 1 to %d characters, not %zu",
                       HM_EXPERT_UID_BYTES - 1, length);
    if (conf->dtype != HM_F32 && conf->dtype != HM_BF16)
        return hm_fail(HM_ERR_INVALID, "experts compute in f32 or bf16, not in %s",
                       hm_dtype_name(conf->dtype));
    if (!isfinite(conf->rate) || conf->rate < 0.0f)
        return hm_fail(HM_ERR_INVALID, "learning rate %g makes no sense; use 0 or more",
                       (double)conf->rate);
    if (!isfinite(conf->clip_norm) || conf->clip_norm < 0.0f)
        return hm_fail(HM_ERR_INVALID, "clip norm %g makes no sense; use a norm, or 0 for none",
                       (double)conf->clip_norm);
    if (!isfinite(conf->weight_decay) || conf->weight_decay < 0.0f)
        return hm_fail(HM_ERR_INVALID, "weight decay %g makes no sense; use 0 or more",
                       (double)conf->weight_decay);
    if (!(conf->momentum >= 0.0f && conf->momentum < 1.0f))
        return hm_fail(HM_ERR_INVALID, "momentum %g makes no sense; use 0 or more, and less than 1",
                       (double)conf->momentum);
    return HM_OK;
}

/* Matrices in the device's layout, vectors as they are; each begins on a cache line. */
static void lay_out(struct hm_expert *e)
{
    enum { LINE_ELEMENTS = 16 };
    size_t at = 0;
    for (unsigned i = 0; i < e->plan.parameter_count; i++) {
        const struct hm_shape *shape = &e->plan.parameter[i].shape;
        uint32_t out = shape->dim[0], in = shape->dim_count == 2 ? shape->dim[1] : 1;
        struct hm_parameter_place *place = &e->place[i];
        HM_ASSERT(shape->dim_count == 1 || shape->dim_count == 2);
        if (shape->dim_count == 2)
            e->device->ops->weights_layout(e->device, out, in, &place->layout);
        else
            place->layout = (struct hm_layout){1, out, out};
        place->offset = at;
        at += (place->layout.elements + LINE_ELEMENTS - 1) / LINE_ELEMENTS * LINE_ELEMENTS;
    }
    e->array_elements = at;
}

/* Parameters, gradients and slots; on failure hm_expert_destroy frees those that are there. */
static enum hm_status allocate(struct hm_expert *e)
{
    const struct hm_device_ops *op = e->device->ops;
    size_t bytes = e->array_elements * sizeof(float);
    enum hm_status status = op->alloc(e->device, bytes, &e->gradients);
    for (unsigned i = 0; i <= e->optimizer->slot_count && status == HM_OK; i++)
        status = op->alloc(e->device, bytes, &e->array[i]);
    for (unsigned i = 0; i < e->plan.parameter_count && status == HM_OK; i++) {
        const struct hm_shape *shape = &e->plan.parameter[i].shape;
        e->parameter[i] = (struct hm_weights){.out = shape->dim[0],
                                              .in = shape->dim_count == 2 ? shape->dim[1] : 1,
                                              .layout = e->place[i].layout};
        e->gradient[i] = e->parameter[i];
        e->parameter[i].data = (float *)e->array[0].base + e->place[i].offset;
        e->gradient[i].data = (float *)e->gradients.base + e->place[i].offset;
    }
    return status;
}

static enum hm_status initialise(struct hm_expert *e, uint64_t seed)
{
    float *dense = malloc(e->plan.parameter_elements * sizeof *dense + 1); /* nop has none */
    if (!dense) return HM_ERR_NO_MEMORY;
    e->kind->init(&e->plan, seed, dense);
    for (unsigned i = 0; i < e->plan.parameter_count; i++)
        hm_parameter_put(&e->place[i], &e->plan.parameter[i], e->array[0].base,
                         dense + e->plan.parameter[i].offset);
    free(dense);
    return HM_OK;
}

/* Packed copies of the matrices, as the parameters are now. */
static enum hm_status pack(struct hm_expert *e)
{
    const struct hm_device_ops *op = e->device->ops;
    enum hm_status status = HM_OK;
    if (e->conf.dtype != HM_BF16) return HM_OK;
    if (!e->stream) status = op->stream_create(e->device, &e->stream);
    for (unsigned i = 0; i < e->plan.parameter_count && status == HM_OK; i++) {
        struct hm_weights *w = &e->parameter[i];
        if (e->plan.parameter[i].shape.dim_count != 2) continue;
        status =
            w->packed ? op->pack(e->stream, w->packed) : op->pack_create(e->device, w, &w->packed);
    }
    return status;
}

enum hm_status hm_expert_create(struct hm_device *device, const char *uid,
                                const struct hm_expert_conf *conf, struct hm_expert **expert)
{
    const struct hm_expert_kind *kind = hm_expert_kind_find(conf->kind);
    const struct hm_optimizer *optimizer = hm_optimizer_find(conf->optimizer);
    if (!kind || !optimizer) return HM_ERR_INVALID;
    enum hm_status status = check_conf(uid, conf);
    if (status != HM_OK) return status;
    struct hm_expert *e = calloc(1, sizeof *e);
    if (!e) return HM_ERR_NO_MEMORY;
    memcpy(e->uid, uid, strlen(uid) + 1);
    e->conf = *conf;
    e->conf.kind = kind->name;
    e->conf.optimizer = optimizer->name;
    e->device = device;
    e->kind = kind;
    e->optimizer = optimizer;
    status = kind->plan(conf, &e->plan);
    if (status == HM_OK) {
        lay_out(e);
        status = allocate(e);
    }
    if (status == HM_OK) status = initialise(e, hm_hash(uid, strlen(uid), conf->seed));
    if (status == HM_OK) status = pack(e);
    if (status != HM_OK) {
        hm_expert_destroy(e);
        return status;
    }
    *expert = e;
    return HM_OK;
}

void hm_expert_destroy(struct hm_expert *e)
{
    if (!e) return;
    const struct hm_device_ops *op = e->device->ops;
    for (unsigned i = 0; i < e->plan.parameter_count; i++)
        op->pack_destroy(e->device, e->parameter[i].packed);
    if (e->stream) op->stream_destroy(e->stream);
    for (unsigned i = 0; i <= HM_SLOTS_MAX; i++) op->free(e->device, &e->array[i]);
    op->free(e->device, &e->gradients);
    free(e);
}

const char *hm_expert_uid(const struct hm_expert *e)
{
    return e->uid;
}
const struct hm_expert_conf *hm_expert_conf(const struct hm_expert *e)
{
    return &e->conf;
}
const struct hm_plan *hm_expert_plan(const struct hm_expert *e)
{
    return &e->plan;
}
uint64_t hm_expert_step(const struct hm_expert *e)
{
    return e->step;
}
const struct hm_parameter_place *hm_expert_places(const struct hm_expert *e)
{
    return e->place;
}
size_t hm_expert_array_elements(const struct hm_expert *e)
{
    return e->array_elements;
}
unsigned hm_expert_slot_count(const struct hm_expert *e)
{
    return e->optimizer->slot_count;
}
const struct hm_optimizer *hm_expert_optimizer(const struct hm_expert *e)
{
    return e->optimizer;
}
float *hm_expert_array(struct hm_expert *e, unsigned array)
{
    HM_ASSERT(array <= e->optimizer->slot_count);
    return e->array[array].base;
}

enum hm_status hm_expert_loaded(struct hm_expert *e, uint64_t step)
{
    e->step = step;
    return pack(e);
}

/* HM_OK, or `otherwise` if a value of t is not finite. */
static enum hm_status check_finite(struct hm_exec *exec, const struct hm_tensor *t,
                                   enum hm_status otherwise)
{
    double norm;
    bool finite;
    size_t count = (size_t)hm_rows(t) * hm_columns(t);
    enum hm_status status = exec->device->ops->norm(exec->stream, hm_f32(t), count, &norm, &finite);
    if (status == HM_OK && !finite) status = otherwise;
    return status;
}

static void check_shape(const struct hm_tensor *t, uint32_t rows, const struct hm_schema *schema)
{
    HM_ASSERT(t->dtype == HM_F32 && hm_rows(t) == rows && hm_columns(t) == schema->row[0].dim[0]);
}

bool hm_expert_is_alone(const struct hm_expert *e, uint32_t rows)
{
    const struct hm_device *device = e->device;
    uint64_t widest = e->plan.input.row[0].dim[0], largest = 0;
    if (!device->ops->is_alone || e->conf.dtype != HM_F32 || e->plan.delay > 0) return false;
    for (unsigned i = 0; i < e->plan.parameter_count; i++) {
        const struct hm_weights *w = &e->parameter[i];
        if (w->out > widest) widest = w->out;
        if ((uint64_t)w->out * w->in > largest) largest = (uint64_t)w->out * w->in;
    }
    uint64_t elements = rows * widest > e->array_elements ? rows * widest : e->array_elements;
    return device->ops->is_alone(device, elements, rows * largest);
}

enum hm_status hm_expert_forward(struct hm_expert *e, struct hm_exec *exec,
                                 const struct hm_tensor *x, struct hm_tensor *y)
{
    check_shape(x, hm_rows(x), &e->plan.input);
    check_shape(y, hm_rows(x), &e->plan.output);
    enum hm_status status = e->kind->forward(exec, &e->plan, e->parameter, x, y);
    bool made = hm_f32(x) != hm_f32(y); /* else it is what the caller has looked at */
    if (status == HM_OK && made) status = check_finite(exec, y, HM_ERR_EXPERT_NUMERIC);
    /* Only now is it worth asking whose fault it was. */
    if (status == HM_ERR_EXPERT_NUMERIC) {
        enum hm_status input = check_finite(exec, x, HM_ERR_NUMERIC);
        if (input != HM_OK) status = input;
    }
    return status;
}

/* Gradients up to this size, and all sums of them that anybody makes, are finite. */
static const double bound_safe = 1e15;

/* What the gradients are to be multiplied by; HM_ERR_EXPERT_NUMERIC if they are not finite. */
static enum hm_status check_gradients(struct hm_expert *e, struct hm_exec *exec, double bound,
                                      float *scale)
{
    double norm;
    bool finite;
    *scale = 1.0f;
    if (e->conf.clip_norm == 0.0f && bound <= bound_safe) return HM_OK;
    enum hm_status status =
        exec->device->ops->norm(exec->stream, e->gradients.base, e->array_elements, &norm, &finite);
    if (status != HM_OK) return status;
    if (!finite) return HM_ERR_EXPERT_NUMERIC;
    if (e->conf.clip_norm > 0.0f && norm > (double)e->conf.clip_norm)
        *scale = (float)((double)e->conf.clip_norm / norm);
    return HM_OK;
}

/* One optimizer pass: matrices with packed copies by themselves, all else together. */
static enum hm_status make_step(struct hm_expert *e, struct hm_exec *exec, float scale)
{
    struct hm_update updates[HM_PARAMETERS_MAX];
    unsigned count = 0;
    bool whole = e->conf.dtype == HM_F32;
    for (unsigned i = 0; i < (whole ? 1 : e->plan.parameter_count); i++) {
        struct hm_update *u = &updates[count++];
        size_t offset = e->place[i].offset;
        *u = (struct hm_update){.count = whole ? e->array_elements : e->place[i].layout.elements,
                                .param = (float *)e->array[0].base + offset,
                                .grad = (float *)e->gradients.base + offset,
                                .packed = whole ? NULL : e->parameter[i].packed};
        for (unsigned k = 0; k < e->optimizer->slot_count; k++)
            u->slot[k] = (float *)e->array[1 + k].base + offset;
    }
    enum hm_status status = e->optimizer->step(exec, &e->conf, e->step + 1, scale, updates, count);
    if (status == HM_OK) e->step++;
    return status;
}

enum hm_status hm_expert_backward(struct hm_expert *e, struct hm_exec *exec,
                                  const struct hm_tensor *x, const struct hm_tensor *dy,
                                  struct hm_tensor *dx)
{
    check_shape(x, hm_rows(x), &e->plan.input);
    check_shape(dy, hm_rows(x), &e->plan.output);
    check_shape(dx, hm_rows(x), &e->plan.input);
    enum hm_status status = check_finite(exec, x, HM_ERR_NUMERIC);
    if (status == HM_OK) status = check_finite(exec, dy, HM_ERR_NUMERIC);
    double bound;
    float scale;
    if (status == HM_OK)
        status = e->kind->backward(exec, &e->plan, e->parameter, x, dy, dx, e->gradient, &bound);
    if (status == HM_OK) status = check_finite(exec, dx, HM_ERR_EXPERT_NUMERIC);
    if (status == HM_OK) status = check_gradients(e, exec, bound, &scale);
    if (status == HM_OK) status = make_step(e, exec, scale);
    return status;
}

enum hm_status hm_expert_optimize(struct hm_expert *e, struct hm_exec *exec)
{
    return make_step(e, exec, 1.0f);
}
