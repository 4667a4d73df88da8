/* experts/kind_nop.c - experts that give back their input: what a benchmark of everything but the math
 * runs.
 *
 * nop takes the time of a copy, or none where its rows were gathered into the place of its answer;
 * nop_delay takes conf.delay for every batch, whatever its size, and
 * sleeps it away.  So a lane of it can be overloaded while the processors are idle: what is measured
 * then is what the server does under overload, and not that the load's generators starve. */
#include "experts/kinds.h"

#include "base/thread.h"

enum { HIDDEN_MAX = 1 << 20 };
static const hm_ns delay_max = 60 * HM_S;

static enum hm_status nop_plan(const struct hm_expert_conf *conf, struct hm_plan *plan)
{
    if (conf->hidden == 0 || conf->hidden > HIDDEN_MAX)
        return hm_fail(HM_ERR_INVALID, "hidden=%u is out of range for a nop; use 1 to %d",
                       (unsigned)conf->hidden, HIDDEN_MAX);
    *plan = (struct hm_plan){.input = hm_schema_f32(conf->hidden),
                             .output = hm_schema_f32(conf->hidden),
                             .identity = true};
    return HM_OK;
}

static void nop_init(const struct hm_plan *plan, uint64_t seed, float *parameters)
{
    (void)plan, (void)seed, (void)parameters;
}

static enum hm_status nop_forward(struct hm_exec *exec, const struct hm_plan *plan,
                                  const struct hm_weights *parameters, const struct hm_tensor *x,
                                  struct hm_tensor *y)
{
    (void)plan, (void)parameters;
    if (hm_f32(x) == hm_f32(y)) return HM_OK;
    return exec->device->ops->gather(exec->stream, x, NULL, NULL, y);
}

static enum hm_status nop_backward(struct hm_exec *exec, const struct hm_plan *plan,
                                   const struct hm_weights *parameters, const struct hm_tensor *x,
                                   const struct hm_tensor *dy, struct hm_tensor *dx,
                                   struct hm_weights *gradients, double *bound)
{
    (void)plan, (void)parameters, (void)x, (void)gradients;
    *bound = 0.0;
    return exec->device->ops->gather(exec->stream, dy, NULL, NULL, dx);
}

/* ---- nop_delay ------------------------------------------------------------------------------- */

static enum hm_status delay_plan(const struct hm_expert_conf *conf, struct hm_plan *plan)
{
    if (conf->delay == 0 || conf->delay > delay_max)
        return hm_fail(HM_ERR_INVALID,
                       "a nop_delay needs the time that a batch takes, up to 60 s; for example "
                       "--delay 2ms");
    enum hm_status status = nop_plan(conf, plan);
    if (status == HM_OK) plan->delay = conf->delay;
    return status;
}

/* The copy is part of the time. */
static void sleep_rest(const struct hm_plan *plan, hm_ns began)
{
    hm_ns took = hm_thread_clock() - began;
    if (took < plan->delay) hm_thread_sleep(plan->delay - took);
}

static enum hm_status delay_forward(struct hm_exec *exec, const struct hm_plan *plan,
                                    const struct hm_weights *parameters, const struct hm_tensor *x,
                                    struct hm_tensor *y)
{
    hm_ns began = hm_thread_clock();
    enum hm_status status = nop_forward(exec, plan, parameters, x, y);
    sleep_rest(plan, began);
    return status;
}

static enum hm_status delay_backward(struct hm_exec *exec, const struct hm_plan *plan,
                                     const struct hm_weights *parameters, const struct hm_tensor *x,
                                     const struct hm_tensor *dy, struct hm_tensor *dx,
                                     struct hm_weights *gradients, double *bound)
{
    hm_ns began = hm_thread_clock();
    enum hm_status status = nop_backward(exec, plan, parameters, x, dy, dx, gradients, bound);
    sleep_rest(plan, began);
    return status;
}

const struct hm_expert_kind hm_kind_nop = {"nop", nop_plan, nop_init, nop_forward, nop_backward};
const struct hm_expert_kind hm_kind_nop_delay = {"nop_delay", delay_plan, nop_init, delay_forward,
                                                 delay_backward};
