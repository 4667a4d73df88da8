/* moe/layers.c - parameters of the trainer's local layers.
 *
 * Failure modes: only at create: no memory, or sizes that make no sense.
 * Invariants:    parameter and gradient are as long as each other, and zero where nothing was
 *                written. */
#include "moe/layers.h"

#include "base/rng.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const float norm_epsilon = 1e-5f; /* PyTorch's */

static enum hm_status make(struct hm_device *device, enum hm_layer_kind kind, uint32_t input,
                           uint32_t output, size_t parameter_count, struct hm_layer **out)
{
    struct hm_layer *layer = calloc(1, sizeof *layer);
    if (!layer) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a layer");
    layer->kind = kind;
    layer->device = device;
    layer->input = input;
    layer->output = output;
    layer->epsilon = norm_epsilon;
    layer->parameter_count = parameter_count;
    if (parameter_count > 0) {
        size_t bytes = parameter_count * sizeof(float);
        if (device->ops->alloc(device, bytes, &layer->memory) != HM_OK ||
            device->ops->alloc(device, bytes, &layer->gradient_memory) != HM_OK) {
            hm_layer_destroy(layer);
            return hm_fail(HM_ERR_NO_MEMORY, "no memory for a layer of %zu parameters",
                           parameter_count);
        }
        layer->parameter = layer->memory.base;
        layer->gradient = layer->gradient_memory.base;
    }
    *out = layer;
    return HM_OK;
}

enum hm_status hm_layer_linear_create(struct hm_device *device, uint32_t input, uint32_t output,
                                      uint64_t seed, struct hm_layer **out)
{
    if (input < 1 || output < 1)
        return hm_fail(HM_ERR_INVALID,
                       "a linear layer from %" PRIu32 " to %" PRIu32 " columns makes no sense",
                       input, output);
    size_t count = (size_t)input * output + output;
    enum hm_status status = make(device, HM_LAYER_LINEAR, input, output, count, out);
    if (status != HM_OK) return status;
    struct hm_rng rng;
    float bound = 1.f / sqrtf((float)input);
    hm_rng_init(&rng, seed, 0);
    for (size_t i = 0; i < count; i++)
        (*out)->parameter[i] = bound * (2.f * hm_rng_uniform(&rng) - 1.f);
    return HM_OK;
}

enum hm_status hm_layer_norm_create(struct hm_device *device, uint32_t columns,
                                    struct hm_layer **out)
{
    if (columns < 1) return hm_fail(HM_ERR_INVALID, "a layer norm needs at least one column");
    enum hm_status status = make(device, HM_LAYER_NORM, columns, columns, 2 * (size_t)columns, out);
    for (uint32_t i = 0; status == HM_OK && i < columns; i++) (*out)->parameter[i] = 1.f;
    return status;
}

enum hm_status hm_layer_activation_create(struct hm_device *device, enum hm_activation activation,
                                          struct hm_layer **out)
{
    enum hm_status status = make(device, HM_LAYER_ACTIVATION, 0, 0, 0, out);
    if (status == HM_OK) (*out)->activation = activation;
    return status;
}

void hm_layer_destroy(struct hm_layer *layer)
{
    if (!layer) return;
    if (layer->memory.base) layer->device->ops->free(layer->device, &layer->memory);
    if (layer->gradient_memory.base)
        layer->device->ops->free(layer->device, &layer->gradient_memory);
    free(layer);
}

void hm_layer_zero_gradient(struct hm_layer *layer)
{
    if (layer->parameter_count > 0)
        memset(layer->gradient, 0, layer->parameter_count * sizeof *layer->gradient);
}
