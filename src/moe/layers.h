/* moe/layers.h - the local layers of a trainer: parameters and gradients of each; applied by the
 * tape. */
#ifndef HM_MOE_LAYERS_H
#define HM_MOE_LAYERS_H

#include "experts/device.h"

enum hm_layer_kind { HM_LAYER_LINEAR, HM_LAYER_NORM, HM_LAYER_ACTIVATION };
struct hm_layer {
    enum hm_layer_kind kind;
    struct hm_device *device;
    uint32_t input, output; /* columns; an activation takes any: 0 */
    enum hm_activation activation;
    float epsilon; /* layer norm */
    size_t parameter_count;
    struct hm_span memory, gradient_memory;
    float *
        parameter; /* linear: weight [output, input], then bias [output]; norm: scale, then shift */
    float *gradient; /* accumulated by the tape's backward; hm_layer_zero_gradient clears it */
};
/* Weight and bias uniform in +-1/sqrt(input), as PyTorch's default.  HM_ERR_INVALID,
 * HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status hm_layer_linear_create(struct hm_device *device, uint32_t input,
                                                    uint32_t output, uint64_t seed,
                                                    struct hm_layer **layer);
HM_MUST_CHECK enum hm_status hm_layer_norm_create(struct hm_device *device, uint32_t columns,
                                                  struct hm_layer **layer);
HM_MUST_CHECK enum hm_status hm_layer_activation_create(struct hm_device *device,
                                                        enum hm_activation activation,
                                                        struct hm_layer **layer);
void hm_layer_destroy(struct hm_layer *layer);
void hm_layer_zero_gradient(struct hm_layer *layer);

#endif
