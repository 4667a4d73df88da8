/* moe/local_optimizer.h - one optimizer over the trainer's own layers.  Caller's thread. */
#ifndef HM_MOE_LOCAL_OPTIMIZER_H
#define HM_MOE_LOCAL_OPTIMIZER_H

#include "experts/expert.h"
#include "moe/layers.h"

struct hm_local_optimizer;
struct hm_local_optimizer_conf {
    struct hm_device *device;
    const char *name; /* "sgd", "adam", "adamw" */
    float rate;
    float clip_norm; /* of all gradients together; 0: never */
    float weight_decay, momentum;
};
/* The layers (copied list; those without parameters are ignored) must outlive it.  HM_ERR_INVALID
 * with a line. */
HM_MUST_CHECK enum hm_status hm_local_optimizer_create(const struct hm_local_optimizer_conf *conf,
                                                       struct hm_layer *const *layers,
                                                       unsigned layer_count,
                                                       struct hm_local_optimizer **optimizer);
void hm_local_optimizer_destroy(struct hm_local_optimizer *optimizer);
void hm_local_optimizer_set_rate(struct hm_local_optimizer *optimizer, float rate);
uint64_t hm_local_optimizer_steps(const struct hm_local_optimizer *optimizer);
/* Its state, to be saved and restored: slot i of hm_optimizer.slot_count, as long as the layers'
 * parameters together and in their order. */
float *hm_local_optimizer_slot(struct hm_local_optimizer *optimizer, unsigned slot);
void hm_local_optimizer_set_steps(struct hm_local_optimizer *optimizer, uint64_t steps);
/* One step of every layer, then zeroes their gradients.  HM_ERR_NUMERIC (nothing stepped, gradients
 * zeroed) if a gradient is not finite. */
HM_MUST_CHECK enum hm_status hm_local_optimizer_step(struct hm_local_optimizer *optimizer);
void hm_local_optimizer_zero(struct hm_local_optimizer *optimizer); /* the gradients */

#endif
