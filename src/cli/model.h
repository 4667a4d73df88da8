/* cli/model.h - what `hivemind train` trains: linear -> (mixture + residual, layer norm) * layers
 * -> linear, on the public API. */
#ifndef HM_CLI_MODEL_H
#define HM_CLI_MODEL_H

#include "hivemind.h"

enum { MODEL_LAYERS_MAX = 16 };
struct model_conf {
    uint32_t inputs, classes, layers;
    uint64_t seed;
    struct hm_remote_mixture_options mixture; /* of every layer; hidden columns included */
};
struct model {
    struct model_conf conf;
    struct hm_tape *tape;
    struct hm_module *first, *last, *norm[MODEL_LAYERS_MAX];
    struct hm_remote_mixture *mixture[MODEL_LAYERS_MAX];
};
struct model_step {
    float loss;
    uint32_t right; /* rows whose largest logit is their label's */
};
int model_open(struct hm_node *node, const struct model_conf *conf, struct model *model);
void model_close(struct model *model); /* also what a failed open left behind */
/* Forward over rows [rows, inputs]; with `rate` > 0 also backward and one step of the local layers. */
int model_run(struct model *model, const float *x, const int64_t *label, uint32_t rows, float rate,
              struct model_step *step);

#endif
