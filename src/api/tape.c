/* api/tape.c - hm_tape and hm_module: src/moe's tape and layers, with an Adam over every layer that
 * was used.
 *
 * A tape remembers the layers that its ops have touched (modules and mixtures' gates) by their
 * addresses; each gets an Adam of its own at its first use, so that the moments belong to the layer,
 * and keeps it until the tape closes. */
#include "api/tape.h"
#include "api/remote.h"

#include <stdlib.h>

/* ---- modules --------------------------------------------------------------------------------- */

static int module_finish(enum hm_status status, struct hm_module *module, struct hm_module **out)
{
    if (status)
        free(module);
    else
        *out = module;
    return status;
}

int hm_module_linear(struct hm_node *node, uint32_t in, uint32_t out, uint64_t seed,
                     struct hm_module **module)
{
    struct hm_module *made = calloc(1, sizeof(*made));
    if (!made) return HM_ERR_NO_MEMORY;
    return module_finish(hm_layer_linear_create(node->device, in, out, seed, &made->layer), made,
                         module);
}

int hm_module_layer_norm(struct hm_node *node, uint32_t columns, struct hm_module **module)
{
    struct hm_module *made = calloc(1, sizeof(*made));
    if (!made) return HM_ERR_NO_MEMORY;
    return module_finish(hm_layer_norm_create(node->device, columns, &made->layer), made, module);
}

int hm_module_relu(struct hm_node *node, struct hm_module **module)
{
    struct hm_module *made = calloc(1, sizeof(*made));
    if (!made) return HM_ERR_NO_MEMORY;
    return module_finish(hm_layer_activation_create(node->device, HM_ACT_RELU, &made->layer), made,
                         module);
}

void hm_module_close(struct hm_module *module)
{
    if (!module) return;
    hm_layer_destroy(module->layer);
    free(module);
}

/* ---- tape ------------------------------------------------------------------------------------ */

int hm_tape_open(struct hm_node *node, struct hm_tape **out)
{
    struct hm_tape *tape = calloc(1, sizeof(*tape));
    if (!tape) return HM_ERR_NO_MEMORY;
    tape->node = node;
    struct hm_moe_tape_conf conf = {.device = node->device, .bridge = &node->bridge};
    enum hm_status status = hm_moe_tape_create(&conf, &tape->tape);
    if (status) {
        free(tape);
        return status;
    }
    *out = tape;
    return HM_OK;
}

void hm_tape_reset(struct hm_tape *tape)
{
    hm_moe_tape_reset(tape->tape);
    for (unsigned i = 0; i < tape->trained_count; i++) {
        if (tape->trained[i].used) hm_layer_zero_gradient(tape->trained[i].layer);
        tape->trained[i].used = false;
    }
    tape->balanced_count = 0;
}

void hm_tape_close(struct hm_tape *tape)
{
    if (!tape) return;
    for (unsigned i = 0; i < tape->trained_count; i++)
        hm_local_optimizer_destroy(tape->trained[i].optimizer);
    hm_moe_tape_destroy(tape->tape);
    free(tape->loaded);
    free(tape);
}

/* Notes that the layer takes part in this pass. */
static enum hm_status use(struct hm_tape *tape, struct hm_layer *layer)
{
    for (unsigned i = 0; i < tape->trained_count; i++) {
        if (tape->trained[i].layer != layer) continue;
        tape->trained[i].used = true;
        return HM_OK;
    }
    if (tape->trained_count == HM_TAPE_LAYERS_MAX)
        return hm_fail(HM_ERR_TOO_BIG, "a tape trains at most %d local layers", HM_TAPE_LAYERS_MAX);
    struct hm_tape_trained *trained = &tape->trained[tape->trained_count];
    struct hm_local_optimizer_conf conf = {
        .device = tape->node->device, .name = "adam", .rate = 1e-3f};
    enum hm_status status = hm_local_optimizer_create(&conf, &layer, 1, &trained->optimizer);
    if (status) return status;
    trained->layer = layer;
    trained->used = true;
    status = hm_tape_restore(tape, trained);
    if (status) {
        hm_local_optimizer_destroy(trained->optimizer);
        return status;
    }
    tape->trained_count++;
    return HM_OK;
}

hm_value hm_tape_input(struct hm_tape *tape, const struct hm_array *x)
{
    struct hm_tensor tensor;
    enum hm_status status = hm_array_tensor(x, &tensor);
    if (status) return hm_moe_tape_fail(tape->tape, status);
    return hm_moe_tape_input(tape->tape, &tensor, true);
}

hm_value hm_tape_apply(struct hm_tape *tape, struct hm_module *module, hm_value x)
{
    enum hm_status status = use(tape, module->layer);
    if (status) return hm_moe_tape_fail(tape->tape, status);
    return hm_moe_tape_layer(tape->tape, module->layer, x);
}

hm_value hm_tape_add(struct hm_tape *tape, hm_value a, hm_value b)
{
    return hm_moe_tape_add(tape->tape, a, b);
}

hm_value hm_tape_remote_expert(struct hm_tape *tape, struct hm_remote_expert *expert,
                               int timeout_ms, hm_value x)
{
    return hm_moe_tape_expert(tape->tape, tape->node->dispatch, &expert->uid, expert->codec,
                              hm_node_timeout(timeout_ms, 5000), x);
}

hm_value hm_tape_remote_mixture(struct hm_tape *tape, struct hm_remote_mixture *mixture, hm_value x)
{
    enum hm_status status = use(tape, mixture->gate);
    if (status) return hm_moe_tape_fail(tape->tape, status);
    hm_value mixed = hm_moe_tape_mixture(tape->tape, mixture->mixture, mixture->gate, x);
    if (mixture->balance > 0 && mixed != HM_MOE_VALUE_NONE) {
        if (tape->balanced_count == HM_TAPE_BALANCED_MAX)
            return hm_moe_tape_fail(tape->tape,
                                    hm_fail(HM_ERR_TOO_BIG, "a pass balances at most %d mixtures",
                                            HM_TAPE_BALANCED_MAX));
        tape->balanced[tape->balanced_count].value = mixed;
        tape->balanced[tape->balanced_count++].weight = mixture->balance;
    }
    return mixed;
}

hm_value hm_tape_cross_entropy(struct hm_tape *tape, hm_value logits, const int64_t *label)
{
    return hm_moe_tape_cross_entropy(tape->tape, logits, label);
}

int hm_tape_read(struct hm_tape *tape, hm_value value, struct hm_array *array)
{
    struct hm_tensor tensor = hm_moe_tape_value(tape->tape, value);
    if (!tensor.data.base) {
        enum hm_status status = hm_moe_tape_status(tape->tape);
        if (status) return hm_fail(status, "%s", hm_moe_tape_line(tape->tape));
        return hm_fail(HM_ERR_INVALID, "no such value on the tape");
    }
    *array = (struct hm_array){.dims = tensor.shape.dim_count, .data = hm_f32(&tensor)};
    for (unsigned i = 0; i < array->dims; i++) array->dim[i] = tensor.shape.dim[i];
    return HM_OK;
}

int hm_tape_backward(struct hm_tape *tape, hm_value loss)
{
    for (unsigned i = 0; i < tape->balanced_count; i++) {
        hm_value balance = hm_moe_tape_balance(tape->tape, tape->balanced[i].value);
        loss = hm_moe_tape_add(tape->tape, loss,
                               hm_moe_tape_scale(tape->tape, balance, tape->balanced[i].weight));
    }
    tape->balanced_count = 0;
    return hm_moe_tape_backward(tape->tape, loss);
}

int hm_tape_step(struct hm_tape *tape, float rate)
{
    enum hm_status first = HM_OK;
    for (unsigned i = 0; i < tape->trained_count; i++) {
        struct hm_tape_trained *trained = &tape->trained[i];
        if (!trained->used) continue;
        trained->used = false;
        hm_local_optimizer_set_rate(trained->optimizer, rate);
        enum hm_status status = hm_local_optimizer_step(trained->optimizer);
        if (!first) first = status;
    }
    return first;
}
