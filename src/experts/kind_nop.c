/* experts/kind_nop.c - the expert that gives back its input: what a benchmark of everything but the
 * math runs. */
#include "experts/kinds.h"

enum { HIDDEN_MAX = 1 << 20 };

static enum hm_status nop_plan(const struct hm_expert_conf *conf, struct hm_plan *plan)
{
    if (conf->hidden == 0 || conf->hidden > HIDDEN_MAX)
        return hm_fail(HM_ERR_INVALID, "hidden=%u is out of range for a nop; use 1 to %d",
                       (unsigned)conf->hidden, HIDDEN_MAX);
    *plan = (struct hm_plan){.input = hm_schema_f32(conf->hidden),
                             .output = hm_schema_f32(conf->hidden)};
    return HM_OK;
}

static void nop_init(const struct hm_plan *plan, uint64_t seed, float *parameters)
{
    (void)plan, (void)seed, (void)parameters;
}

static enum hm_status nop_forward(struct hm_exec *exec, const struct hm_plan *plan,
                                  const float *parameters, const struct hm_tensor *x,
                                  struct hm_tensor *y)
{
    (void)plan, (void)parameters;
    return exec->device->ops->gather(exec->stream, x, NULL, NULL, y);
}

static enum hm_status nop_backward(struct hm_exec *exec, const struct hm_plan *plan,
                                   const float *parameters, const struct hm_tensor *x,
                                   const struct hm_tensor *dy, struct hm_tensor *dx,
                                   float *dparameters)
{
    (void)plan, (void)parameters, (void)x, (void)dparameters;
    return exec->device->ops->gather(exec->stream, dy, NULL, NULL, dx);
}

const struct hm_expert_kind hm_kind_nop = {"nop", nop_plan, nop_init, nop_forward, nop_backward};
