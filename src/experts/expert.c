/* experts/expert.c - the expert object: a kind's parameters with their gradients and optimizer
 * slots, and the order of a training step.
 *
 * Happy path:    backward = zero gradients, kind->backward, norm of the gradients, one optimizer
 *                pass, step + 1.
 * Failure modes: a caller's non-finite rows are his (HM_ERR_NUMERIC); a non-finite result of finite
 *                rows is the expert's (HM_ERR_EXPERT_NUMERIC).  Both are found before the optimizer
 *                runs, so nothing has been stepped.
 * Invariants:    parameters and slots change only in the optimizer's pass, and step counts those
 *                passes.
 *
 *   backward:  check x, dy ──► zero ──► forward, dx, gradients ──► check dx, norm ──► optimizer,
 *                  │ NUMERIC                                           │              step + 1
 *                  ▼ nothing stepped                    EXPERT_NUMERIC ▼ nothing stepped */
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
    struct hm_span parameters, gradients, slot[HM_SLOTS_MAX];
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

/* Parameters, gradients and slots; on failure hm_expert_destroy frees those that are there. */
static enum hm_status allocate(struct hm_expert *e)
{
    const struct hm_device_ops *op = e->device->ops;
    size_t bytes = e->plan.parameter_elements * sizeof(float);
    enum hm_status status = op->alloc(e->device, bytes, &e->parameters);
    if (status == HM_OK) status = op->alloc(e->device, bytes, &e->gradients);
    for (unsigned i = 0; i < e->optimizer->slot_count && status == HM_OK; i++)
        status = op->alloc(e->device, bytes, &e->slot[i]);
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
    if (status == HM_OK) status = allocate(e);
    if (status != HM_OK) {
        hm_expert_destroy(e);
        return status;
    }
    kind->init(&e->plan, hm_hash(uid, strlen(uid), conf->seed), e->parameters.base);
    *expert = e;
    return HM_OK;
}

void hm_expert_destroy(struct hm_expert *e)
{
    if (!e) return;
    const struct hm_device_ops *op = e->device->ops;
    for (unsigned i = 0; i < HM_SLOTS_MAX; i++) op->free(e->device, &e->slot[i]);
    op->free(e->device, &e->gradients);
    op->free(e->device, &e->parameters);
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
float *hm_expert_parameters(struct hm_expert *e)
{
    return e->parameters.base;
}
unsigned hm_expert_slot_count(const struct hm_expert *e)
{
    return e->optimizer->slot_count;
}
const struct hm_optimizer *hm_expert_optimizer(const struct hm_expert *e)
{
    return e->optimizer;
}
void hm_expert_set_step(struct hm_expert *e, uint64_t step)
{
    e->step = step;
}

float *hm_expert_slot(struct hm_expert *e, unsigned slot)
{
    HM_ASSERT(slot < e->optimizer->slot_count);
    return e->slot[slot].base;
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

enum hm_status hm_expert_forward(struct hm_expert *e, struct hm_exec *exec,
                                 const struct hm_tensor *x, struct hm_tensor *y)
{
    check_shape(x, hm_rows(x), &e->plan.input);
    check_shape(y, hm_rows(x), &e->plan.output);
    enum hm_status status = e->kind->forward(exec, &e->plan, e->parameters.base, x, y);
    if (status == HM_OK) status = check_finite(exec, y, HM_ERR_EXPERT_NUMERIC);
    /* Only now is it worth asking whose fault it was. */
    if (status == HM_ERR_EXPERT_NUMERIC) {
        enum hm_status input = check_finite(exec, x, HM_ERR_NUMERIC);
        if (input != HM_OK) status = input;
    }
    return status;
}

/* One optimizer pass over gradients that are known to be there; nothing is stepped unless they are
 * finite. */
static enum hm_status make_step(struct hm_expert *e, struct hm_exec *exec)
{
    double norm;
    bool finite;
    size_t count = e->plan.parameter_elements;
    enum hm_status status =
        exec->device->ops->norm(exec->stream, e->gradients.base, count, &norm, &finite);
    if (status != HM_OK) return status;
    if (!finite) return HM_ERR_EXPERT_NUMERIC;
    float scale = 1.0f;
    if (e->conf.clip_norm > 0.0f && norm > (double)e->conf.clip_norm)
        scale = (float)((double)e->conf.clip_norm / norm);
    float *slots[HM_SLOTS_MAX];
    for (unsigned i = 0; i < HM_SLOTS_MAX; i++) slots[i] = e->slot[i].base;
    status = e->optimizer->step(exec, &e->conf, e->step + 1, scale, count, e->parameters.base,
                                e->gradients.base, slots);
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
    size_t bytes = e->plan.parameter_elements * sizeof(float);
    if (status == HM_OK) status = exec->device->ops->zero(exec->stream, e->gradients.base, bytes);
    if (status == HM_OK)
        status =
            e->kind->backward(exec, &e->plan, e->parameters.base, x, dy, dx, e->gradients.base);
    if (status == HM_OK) status = check_finite(exec, dx, HM_ERR_EXPERT_NUMERIC);
    if (status == HM_OK) status = make_step(e, exec);
    return status;
}
