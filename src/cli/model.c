/* cli/model.c - the trainer's model, built from the public API alone. */
#include "cli/model.h"

#include <stddef.h>

int model_open(struct hm_node *node, const struct model_conf *conf, struct model *model)
{
    *model = (struct model){.conf = *conf};
    uint32_t hidden = conf->mixture.hidden;
    int status = hm_tape_open(node, &model->tape);
    if (!status) status = hm_module_linear(node, conf->inputs, hidden, conf->seed, &model->first);
    for (uint32_t i = 0; i < conf->layers && !status; i++) {
        struct hm_remote_mixture_options options = conf->mixture;
        options.seed = conf->seed + 1 + i;
        status = hm_remote_mixture_open(node, &options, &model->mixture[i]);
        if (!status) status = hm_module_layer_norm(node, hidden, &model->norm[i]);
    }
    if (!status)
        status = hm_module_linear(node, hidden, conf->classes, conf->seed + 1000, &model->last);
    return status;
}

void model_close(struct model *model)
{
    hm_tape_close(model->tape);
    hm_module_close(model->first);
    for (unsigned i = 0; i < MODEL_LAYERS_MAX; i++) {
        hm_remote_mixture_close(model->mixture[i]);
        hm_module_close(model->norm[i]);
    }
    hm_module_close(model->last);
}

static uint32_t count_right(const struct hm_array *logits, const int64_t *label, uint32_t rows)
{
    uint32_t right = 0, classes = logits->dim[logits->dims - 1];
    for (uint32_t i = 0; i < rows; i++) {
        const float *row = logits->data + (size_t)i * classes;
        uint32_t best = 0;
        for (uint32_t j = 1; j < classes; j++)
            if (row[j] > row[best]) best = j;
        right += best == label[i];
    }
    return right;
}

int model_run(struct model *model, const float *x, const int64_t *label, uint32_t rows, float rate,
              struct model_step *step)
{
    struct hm_tape *tape = model->tape;
    /* The tape copies its inputs. */
    struct hm_array input = {.dims = 2, .dim = {rows, model->conf.inputs}, .data = (float *)x},
                    logits, loss_array;
    hm_tape_reset(tape);
    hm_value value = hm_tape_apply(tape, model->first, hm_tape_input(tape, &input));
    for (uint32_t i = 0; i < model->conf.layers; i++) {
        hm_value mixed = hm_tape_remote_mixture(tape, model->mixture[i], value);
        value = hm_tape_apply(tape, model->norm[i], hm_tape_add(tape, value, mixed));
    }
    hm_value last = hm_tape_apply(tape, model->last, value);
    hm_value loss = hm_tape_cross_entropy(tape, last, label);
    int status = hm_tape_read(tape, loss, &loss_array);
    if (!status) status = hm_tape_read(tape, last, &logits);
    if (status) return status;
    struct model_step result = {.loss = loss_array.data[0],
                                .right = count_right(&logits, label, rows)};
    if (rate > 0) {
        status = hm_tape_backward(tape, loss);
        if (!status) status = hm_tape_step(tape, rate);
    }
    if (!status) *step = result;
    return status;
}
