/* moe/local_optimizer.c - the optimizers of src/experts over the trainer's own layers.
 *
 * Happy path:    norm of all gradients together, one step a layer, gradients zeroed.
 * Failure modes: a gradient that is not finite steps nothing, so that one bad batch does not
 *                destroy the model.
 * Invariants:    slots lie one after another as the layers do; all layers have made the same number
 *                of steps. */
#include "moe/local_optimizer.h"

#include "base/assert.h"

#include <math.h>
#include <stdlib.h>

struct hm_local_optimizer {
    struct hm_device *device;
    struct hm_stream *stream;
    const struct hm_optimizer *kind;
    struct hm_expert_conf conf; /* what kind->step reads: rate, decay, momentum */
    float clip_norm;
    uint64_t step;
    struct hm_layer **layer;
    unsigned layer_count;
    struct hm_span slot[HM_SLOTS_MAX];
};

enum hm_status hm_local_optimizer_create(const struct hm_local_optimizer_conf *conf,
                                         struct hm_layer *const *layers, unsigned layer_count,
                                         struct hm_local_optimizer **out)
{
    const struct hm_optimizer *kind = hm_optimizer_find(conf->name);
    if (!kind) return HM_ERR_INVALID; /* with hm_optimizer_find's line */
    if (!(conf->rate > 0) || !isfinite(conf->rate))
        return hm_fail(HM_ERR_INVALID, "a learning rate of %g makes no sense; try 0.001",
                       (double)conf->rate);
    struct hm_local_optimizer *optimizer = calloc(1, sizeof *optimizer);
    struct hm_layer **list = calloc(layer_count + 1u, sizeof(struct hm_layer *));
    if (!optimizer || !list) {
        free(optimizer);
        free(list);
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for an optimizer");
    }
    optimizer->device = conf->device;
    optimizer->kind = kind;
    optimizer->clip_norm = conf->clip_norm;
    optimizer->layer = list;
    optimizer->conf = (struct hm_expert_conf){.optimizer = kind->name,
                                              .rate = conf->rate,
                                              .weight_decay = conf->weight_decay,
                                              .momentum = conf->momentum};
    size_t parameters = 0;
    for (unsigned i = 0; i < layer_count; i++) {
        if (layers[i]->parameter_count == 0) continue;
        list[optimizer->layer_count++] = layers[i];
        parameters += layers[i]->parameter_count;
    }
    enum hm_status status = conf->device->ops->stream_create(conf->device, &optimizer->stream);
    for (unsigned i = 0; status == HM_OK && parameters > 0 && i < kind->slot_count; i++)
        status =
            conf->device->ops->alloc(conf->device, parameters * sizeof(float), &optimizer->slot[i]);
    if (status != HM_OK) {
        hm_local_optimizer_destroy(optimizer);
        return hm_fail(status, "no memory for the optimizer's slots of %zu parameters", parameters);
    }
    *out = optimizer;
    return HM_OK;
}

void hm_local_optimizer_destroy(struct hm_local_optimizer *optimizer)
{
    if (!optimizer) return;
    for (unsigned i = 0; i < HM_SLOTS_MAX; i++) {
        if (optimizer->slot[i].base)
            optimizer->device->ops->free(optimizer->device, &optimizer->slot[i]);
    }
    if (optimizer->stream) optimizer->device->ops->stream_destroy(optimizer->stream);
    free(optimizer->layer);
    free(optimizer);
}

void hm_local_optimizer_set_rate(struct hm_local_optimizer *optimizer, float rate)
{
    optimizer->conf.rate = rate;
}
uint64_t hm_local_optimizer_steps(const struct hm_local_optimizer *optimizer)
{
    return optimizer->step;
}

float *hm_local_optimizer_slot(struct hm_local_optimizer *optimizer, unsigned slot)
{
    HM_ASSERT(slot < optimizer->kind->slot_count);
    return optimizer->slot[slot].base;
}
void hm_local_optimizer_set_steps(struct hm_local_optimizer *optimizer, uint64_t steps)
{
    optimizer->step = steps;
}

void hm_local_optimizer_zero(struct hm_local_optimizer *optimizer)
{
    for (unsigned i = 0; i < optimizer->layer_count; i++)
        hm_layer_zero_gradient(optimizer->layer[i]);
}

/* Of all gradients together; HM_ERR_NUMERIC if one is not finite. */
static enum hm_status gradient_norm(struct hm_local_optimizer *optimizer, double *norm)
{
    double sum = 0;
    for (unsigned i = 0; i < optimizer->layer_count; i++) {
        const struct hm_layer *layer = optimizer->layer[i];
        double one;
        bool finite;
        enum hm_status status = optimizer->device->ops->norm(optimizer->stream, layer->gradient,
                                                             layer->parameter_count, &one, &finite);
        if (status != HM_OK) return status;
        if (!finite)
            return hm_fail(HM_ERR_NUMERIC,
                           "a gradient of the trainer is not finite; lower the learning rate");
        sum += one * one;
    }
    *norm = sqrt(sum);
    return HM_OK;
}

enum hm_status hm_local_optimizer_step(struct hm_local_optimizer *optimizer)
{
    double norm = 0;
    enum hm_status status = gradient_norm(optimizer, &norm);
    float scale = optimizer->clip_norm > 0 && norm > optimizer->clip_norm
                      ? (float)(optimizer->clip_norm / norm)
                      : 1.f;
    if (status == HM_OK) {
        struct hm_exec exec = {.device = optimizer->device, .stream = optimizer->stream};
        size_t at = 0;
        optimizer->step++;
        for (unsigned i = 0; status == HM_OK && i < optimizer->layer_count; i++) {
            const struct hm_layer *layer = optimizer->layer[i];
            struct hm_update update = {.count = layer->parameter_count,
                                       .param = layer->parameter,
                                       .grad = layer->gradient};
            for (unsigned k = 0; k < optimizer->kind->slot_count; k++)
                update.slot[k] = (float *)optimizer->slot[k].base + at;
            status =
                optimizer->kind->step(&exec, &optimizer->conf, optimizer->step, scale, &update, 1);
            at += layer->parameter_count;
        }
        if (status == HM_OK) status = optimizer->device->ops->sync(optimizer->stream);
    }
    hm_local_optimizer_zero(optimizer);
    return status;
}
