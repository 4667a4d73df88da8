/* experts/optimizer.c - the optimizers by name: which slots they keep, and which pass of the device
 * they are.
 *
 * Slot names are PyTorch's.  Adam's betas and epsilon are its defaults as well (Kingma & Ba 2015).
 */
#include "experts/expert.h"

#include "base/assert.h"

#include <string.h>

static const float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f;

static enum hm_status sgd_step(struct hm_exec *exec, const struct hm_expert_conf *conf,
                               uint64_t step, float gradient_scale, size_t count, float *param,
                               const float *grad, float *const *slot)
{
    (void)step;
    float *velocity = conf->momentum > 0.0f ? slot[0] : NULL;
    return exec->device->ops->sgd(exec->stream, conf->rate, conf->momentum, conf->weight_decay,
                                  gradient_scale, count, param, grad, velocity);
}

static enum hm_status adam_step(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                uint64_t step, float gradient_scale, size_t count, float *param,
                                const float *grad, float *const *slot)
{
    const struct hm_adam adam = {beta1, beta2, epsilon, 0.0f};
    return exec->device->ops->adam(exec->stream, &adam, step, conf->rate, gradient_scale, count,
                                   param, grad, slot[0], slot[1]);
}

static enum hm_status adamw_step(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                 uint64_t step, float gradient_scale, size_t count, float *param,
                                 const float *grad, float *const *slot)
{
    const struct hm_adam adam = {beta1, beta2, epsilon, conf->weight_decay};
    return exec->device->ops->adam(exec->stream, &adam, step, conf->rate, gradient_scale, count,
                                   param, grad, slot[0], slot[1]);
}

static const struct hm_optimizer optimizers[] = {
    {"sgd", 1, {"momentum_buffer"}, sgd_step},
    {"adam", 2, {"exp_avg", "exp_avg_sq"}, adam_step},
    {"adamw", 2, {"exp_avg", "exp_avg_sq"}, adamw_step},
};

const struct hm_optimizer *hm_optimizer_find(const char *name)
{
    for (size_t i = 0; i < HM_COUNT_OF(optimizers); i++) {
        if (strcmp(optimizers[i].name, name) == 0) return &optimizers[i];
    }
    (void)hm_fail(HM_ERR_INVALID, "'%s' is no optimizer; use sgd, adam or adamw", name);
    return NULL;
}
