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
                               uint64_t step, float gradient_scale, const struct hm_update *updates,
                               unsigned update_count)
{
    (void)step;
    struct hm_update plain[HM_PARAMETERS_MAX];
    HM_ASSERT(update_count <= HM_PARAMETERS_MAX);
    for (unsigned i = 0; i < update_count; i++) {
        plain[i] = updates[i];
        if (conf->momentum == 0.0f) plain[i].slot[0] = NULL;
    }
    return exec->device->ops->sgd(exec->stream, conf->rate, conf->momentum, conf->weight_decay,
                                  gradient_scale, plain, update_count);
}

static enum hm_status adam_with(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                float weight_decay, uint64_t step, float gradient_scale,
                                const struct hm_update *updates, unsigned update_count)
{
    const struct hm_adam adam = {beta1, beta2, epsilon, weight_decay};
    return exec->device->ops->adam(exec->stream, &adam, step, conf->rate, gradient_scale, updates,
                                   update_count);
}

static enum hm_status adam_step(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                uint64_t step, float gradient_scale,
                                const struct hm_update *updates, unsigned update_count)
{
    return adam_with(exec, conf, 0.0f, step, gradient_scale, updates, update_count);
}

static enum hm_status adamw_step(struct hm_exec *exec, const struct hm_expert_conf *conf,
                                 uint64_t step, float gradient_scale,
                                 const struct hm_update *updates, unsigned update_count)
{
    return adam_with(exec, conf, conf->weight_decay, step, gradient_scale, updates, update_count);
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
