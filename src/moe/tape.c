/* moe/tape.c - values, local nodes, the walk back.
 *
 * Happy path:    forward functions append nodes; backward starts with 1 at the loss and lets each
 *                node, the last first, give its gradient on.  A value that several nodes used adds
 *                up what they give.
 * Failure modes: the first error is kept with its line; everything after it does nothing, so that a
 *                caller may check once.
 * Invariants:    a node's inputs are older than its output, so the reverse order is a topological
 *                one.  Nothing is freed before reset. */
#include "moe/tape.h"

#include "moe/shape.h"
#include "moe/tape_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t bytes_max_standard = (size_t)4 << 30;

enum hm_status hm_moe_tape_create(const struct hm_moe_tape_conf *conf, struct hm_moe_tape **out)
{
    struct hm_moe_tape *tape = calloc(1, sizeof *tape);
    if (!tape) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a tape");
    tape->device = conf->device;
    hm_arena_init(&tape->arena, conf->bytes_max ? conf->bytes_max : bytes_max_standard);
    enum hm_status status = conf->device->ops->stream_create(conf->device, &tape->stream);
    tape->bridge = conf->bridge;
    if (status != HM_OK) {
        hm_moe_tape_destroy(tape);
        return hm_fail(status, "no memory for a tape");
    }
    *out = tape;
    return HM_OK;
}

void hm_moe_tape_destroy(struct hm_moe_tape *tape)
{
    if (!tape) return;
    hm_tape_remote_fini(tape);
    if (tape->stream) tape->device->ops->stream_destroy(tape->stream);
    hm_arena_fini(&tape->arena);
    free(tape->value);
    free(tape->node);
    free(tape);
}

void hm_moe_tape_reset(struct hm_moe_tape *tape)
{
    hm_tape_remote_reset(tape);
    hm_arena_reset(&tape->arena);
    tape->value_count = tape->node_count = 0;
    tape->went_back = false;
    tape->counts = (struct hm_moe_tape_counts){0};
    tape->status = HM_OK;
    tape->line[0] = '\0';
}

enum hm_status hm_moe_tape_status(const struct hm_moe_tape *tape)
{
    return tape->status;
}
const char *hm_moe_tape_line(const struct hm_moe_tape *tape)
{
    return tape->line;
}

void hm_moe_tape_counts(const struct hm_moe_tape *tape, struct hm_moe_tape_counts *counts)
{
    *counts = tape->counts;
}

hm_moe_value hm_moe_tape_fail(struct hm_moe_tape *tape, enum hm_status status)
{
    if (tape->status == HM_OK && status != HM_OK) {
        tape->status = status;
        snprintf(tape->line, sizeof tape->line, "%s", hm_fail_line_of(status));
    }
    return HM_MOE_VALUE_NONE;
}

/* ---- values and nodes ------------------------------------------------------------------------ */

bool hm_tape_usable(struct hm_moe_tape *tape, hm_moe_value value)
{
    if (tape->status != HM_OK) return false;
    if (value < tape->value_count && !tape->went_back) return true;
    (void)hm_moe_tape_fail(
        tape, hm_fail(HM_ERR_INVALID, value < tape->value_count
                                          ? "this tape went back already; reset it first"
                                          : "this value is not on the tape; was it reset?"));
    return false;
}

float *hm_tape_memory(struct hm_moe_tape *tape, size_t elements)
{
    float *memory = hm_arena_get(&tape->arena, elements * sizeof *memory);
    if (!memory)
        (void)hm_moe_tape_fail(tape, hm_fail(HM_ERR_NO_MEMORY,
                                             "the tape is full: over %zu bytes of values and "
                                             "gradients; use smaller batches",
                                             tape->arena.bytes_max));
    return memory;
}

/* Grows a list of items by doubling, keeping what is there. */
static bool grow_list(void *list, unsigned count, unsigned *capacity, size_t item_bytes)
{
    void **base = list;
    if (count < *capacity) return true;
    unsigned wanted = *capacity ? 2 * *capacity : 64;
    void *larger = realloc(*base, wanted * item_bytes);
    if (!larger) return false;
    *base = larger;
    *capacity = wanted;
    return true;
}

hm_moe_value hm_tape_add_value(struct hm_moe_tape *tape, const struct hm_shape *shape, bool wanted)
{
    uint64_t elements;
    if (hm_shape_elements(shape, &elements) != HM_OK)
        return hm_moe_tape_fail(tape, hm_fail(HM_ERR_TOO_BIG, "a value of over 2^48 elements"));
    if (!grow_list(&tape->value, tape->value_count, &tape->value_capacity, sizeof *tape->value))
        return hm_moe_tape_fail(
            tape, hm_fail(HM_ERR_NO_MEMORY, "no memory for %u values", tape->value_count + 1));
    float *data = hm_tape_memory(tape, elements);
    if (!data) return HM_MOE_VALUE_NONE;
    uint32_t columns = shape->dim[shape->dim_count - 1];
    tape->value[tape->value_count] = (struct hm_tape_value){.shape = *shape,
                                                            .rows = (uint32_t)(elements / columns),
                                                            .columns = columns,
                                                            .data = data,
                                                            .wanted = wanted};
    return tape->value_count++;
}

struct hm_tape_node *hm_tape_add_node(struct hm_moe_tape *tape, hm_tape_backward_step backward,
                                      hm_moe_value a, hm_moe_value b, hm_moe_value out)
{
    if (!grow_list(&tape->node, tape->node_count, &tape->node_capacity, sizeof *tape->node)) {
        (void)hm_moe_tape_fail(
            tape, hm_fail(HM_ERR_NO_MEMORY, "no memory for %u nodes", tape->node_count + 1));
        return NULL;
    }
    struct hm_tape_node *node = &tape->node[tape->node_count++];
    *node = (struct hm_tape_node){.backward = backward, .in = {a, b}, .out = out};
    return node;
}

struct hm_tensor hm_tape_matrix(const struct hm_moe_tape *tape, hm_moe_value value)
{
    const struct hm_tape_value *v = &tape->value[value];
    return hm_matrix_f32(v->data, v->rows, v->columns);
}

struct hm_tensor hm_tape_gradient_matrix(const struct hm_moe_tape *tape, hm_moe_value value)
{
    const struct hm_tape_value *v = &tape->value[value];
    return hm_matrix_f32(v->gradient, v->rows, v->columns);
}

enum hm_status hm_tape_gradient_take(struct hm_moe_tape *tape, hm_moe_value value,
                                     struct hm_tensor *into)
{
    struct hm_tape_value *v = &tape->value[value];
    float *memory = hm_tape_memory(tape, (size_t)v->rows * v->columns);
    if (!memory) return tape->status;
    *into = hm_matrix_f32(memory, v->rows, v->columns);
    return HM_OK;
}

enum hm_status hm_tape_gradient_give(struct hm_moe_tape *tape, hm_moe_value value,
                                     struct hm_tensor *from)
{
    struct hm_tape_value *v = &tape->value[value];
    if (!v->gradient) {
        v->gradient = hm_f32(from);
        return HM_OK;
    }
    struct hm_tensor sum = hm_tape_gradient_matrix(tape, value);
    return tape->device->ops->add(tape->stream, &sum, from, &sum);
}

static struct hm_tensor view(const struct hm_tape_value *value, float *data)
{
    return (struct hm_tensor){
        .dtype = HM_F32,
        .shape = value->shape,
        .data = {.base = data,
                 .bytes = data ? (size_t)value->rows * value->columns * sizeof *data : 0,
                 .mem = HM_MEM_HOST}};
}

struct hm_tensor hm_moe_tape_value(const struct hm_moe_tape *tape, hm_moe_value value)
{
    if (value >= tape->value_count) return (struct hm_tensor){0};
    return view(&tape->value[value], tape->value[value].data);
}

struct hm_tensor hm_moe_tape_gradient(const struct hm_moe_tape *tape, hm_moe_value value)
{
    if (value >= tape->value_count || !tape->value[value].wanted) return (struct hm_tensor){0};
    return view(&tape->value[value], tape->value[value].gradient);
}

hm_moe_value hm_moe_tape_input(struct hm_moe_tape *tape, const struct hm_tensor *x, bool gradient)
{
    uint32_t columns = 0, rows;
    if (tape->status != HM_OK) return HM_MOE_VALUE_NONE;
    enum hm_status status = hm_shape_rows("the tape's input", x, &columns, &rows);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    hm_moe_value value = hm_tape_add_value(tape, &x->shape, gradient);
    if (value != HM_MOE_VALUE_NONE)
        memcpy(tape->value[value].data, x->data.base, (size_t)rows * columns * sizeof(float));
    return value;
}

/* ---- layers ---------------------------------------------------------------------------------- */

static struct hm_weights weight_of(const struct hm_layer *layer, float *memory)
{
    return hm_weights_dense(memory, layer->output, layer->input);
}

/* The second half of a layer's parameters: bias or shift; `first` elements come before it. */
static struct hm_tensor vector_of(const struct hm_layer *layer, float *memory, size_t first)
{
    return hm_matrix_f32(memory + first, 1, layer->output);
}

static enum hm_status linear_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    const struct hm_device_ops *ops = tape->device->ops;
    struct hm_layer *layer = node->layer;
    size_t weights = (size_t)layer->input * layer->output;
    struct hm_tensor x = hm_tape_matrix(tape, node->in[0]),
                     dy = hm_tape_gradient_matrix(tape, node->out), dx;
    struct hm_weights w = weight_of(layer, layer->parameter),
                      dw = weight_of(layer, layer->gradient);
    struct hm_tensor dbias = vector_of(layer, layer->gradient, weights);
    enum hm_status status = ops->linear_dw(tape->stream, &x, &dy, &w, true, &dw, &dbias);
    if (status != HM_OK || !tape->value[node->in[0]].wanted) return status;
    status = hm_tape_gradient_take(tape, node->in[0], &dx);
    if (status == HM_OK) status = ops->linear_dx(tape->stream, &dy, &w, NULL, &dx);
    if (status == HM_OK) status = hm_tape_gradient_give(tape, node->in[0], &dx);
    return status;
}

static enum hm_status norm_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_layer *layer = node->layer;
    struct hm_tensor x = hm_tape_matrix(tape, node->in[0]),
                     dy = hm_tape_gradient_matrix(tape, node->out), dx;
    struct hm_tensor stats = hm_matrix_f32(node->saved, hm_rows(&x), 2);
    struct hm_tensor scale = vector_of(layer, layer->parameter, 0);
    struct hm_tensor dscale = vector_of(layer, layer->gradient, 0);
    struct hm_tensor dshift = vector_of(layer, layer->gradient, layer->output);
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &dx);
    if (status == HM_OK)
        status = tape->device->ops->layer_norm_grad(tape->stream, &x, &stats, &scale, NULL, &dy,
                                                    true, &dx, &dscale, &dshift);
    if (status == HM_OK) status = hm_tape_gradient_give(tape, node->in[0], &dx);
    return status;
}

static enum hm_status activation_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_tensor x = hm_tape_matrix(tape, node->in[0]),
                     dy = hm_tape_gradient_matrix(tape, node->out), dx;
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &dx);
    if (status == HM_OK)
        status =
            tape->device->ops->activation_grad(tape->stream, node->layer->activation, &x, &dy, &dx);
    if (status == HM_OK) status = hm_tape_gradient_give(tape, node->in[0], &dx);
    return status;
}

static enum hm_status layer_forward(struct hm_moe_tape *tape, struct hm_layer *layer,
                                    const struct hm_tensor *x, struct hm_tensor *y,
                                    float *stats_memory)
{
    const struct hm_device_ops *ops = tape->device->ops;
    switch (layer->kind) {
    case HM_LAYER_LINEAR: {
        const struct hm_weights w = weight_of(layer, layer->parameter);
        struct hm_tensor bias =
            vector_of(layer, layer->parameter, (size_t)layer->input * layer->output);
        const struct hm_epilogue epilogue = {.bias = &bias};
        return ops->linear(tape->stream, x, &w, &epilogue, y);
    }
    case HM_LAYER_NORM: {
        struct hm_tensor scale = vector_of(layer, layer->parameter, 0);
        struct hm_tensor shift = vector_of(layer, layer->parameter, layer->output);
        struct hm_tensor stats = hm_matrix_f32(stats_memory, hm_rows(x), 2);
        return ops->layer_norm(tape->stream, x, &scale, &shift, layer->epsilon, y, &stats);
    }
    case HM_LAYER_ACTIVATION: break;
    }
    return ops->activation(tape->stream, layer->activation, x, y);
}

hm_moe_value hm_moe_tape_layer(struct hm_moe_tape *tape, struct hm_layer *layer, hm_moe_value x)
{
    static const hm_tape_backward_step backward[] = {
        [HM_LAYER_LINEAR] = linear_backward,
        [HM_LAYER_NORM] = norm_backward,
        [HM_LAYER_ACTIVATION] = activation_backward,
    };
    if (!hm_tape_usable(tape, x)) return HM_MOE_VALUE_NONE;
    uint32_t rows = tape->value[x].rows, columns = tape->value[x].columns;
    if (layer->input != 0 && layer->input != columns)
        return hm_moe_tape_fail(tape,
                                hm_fail(HM_ERR_SHAPE,
                                        "a layer for %" PRIu32 " columns was applied to a value of "
                                        "%" PRIu32 " columns",
                                        layer->input, columns));
    struct hm_shape shape = tape->value[x].shape;
    if (layer->output != 0) shape.dim[shape.dim_count - 1] = layer->output;
    hm_moe_value y =
        hm_tape_add_value(tape, &shape, layer->parameter_count > 0 || tape->value[x].wanted);
    float *stats = layer->kind == HM_LAYER_NORM ? hm_tape_memory(tape, 2 * (size_t)rows) : NULL;
    if (tape->status != HM_OK) return HM_MOE_VALUE_NONE;
    struct hm_tensor from = hm_tape_matrix(tape, x), to = hm_tape_matrix(tape, y);
    enum hm_status status = layer_forward(tape, layer, &from, &to, stats);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    struct hm_tape_node *node =
        hm_tape_add_node(tape, backward[layer->kind], x, HM_MOE_VALUE_NONE, y);
    if (!node) return HM_MOE_VALUE_NONE;
    node->layer = layer;
    node->saved = stats;
    return y;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* factor * dy, to one of the inputs. */
static enum hm_status give_scaled(struct hm_moe_tape *tape, hm_moe_value to,
                                  const struct hm_tape_value *from, float factor)
{
    struct hm_tensor dx;
    if (!tape->value[to].wanted) return HM_OK;
    enum hm_status status = hm_tape_gradient_take(tape, to, &dx);
    if (status != HM_OK) return status;
    size_t elements = (size_t)from->rows * from->columns;
    for (size_t i = 0; i < elements; i++) hm_f32(&dx)[i] = factor * from->gradient[i];
    return hm_tape_gradient_give(tape, to, &dx);
}

static enum hm_status add_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    enum hm_status status = give_scaled(tape, node->in[0], &tape->value[node->out], 1.f);
    if (status == HM_OK) status = give_scaled(tape, node->in[1], &tape->value[node->out], 1.f);
    return status;
}

hm_moe_value hm_moe_tape_add(struct hm_moe_tape *tape, hm_moe_value a, hm_moe_value b)
{
    if (!hm_tape_usable(tape, a) || !hm_tape_usable(tape, b)) return HM_MOE_VALUE_NONE;
    struct hm_tensor first = hm_moe_tape_value(tape, a), second = hm_moe_tape_value(tape, b);
    enum hm_status status = hm_shape_same("the second summand", &second, "the first", &first);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    hm_moe_value y =
        hm_tape_add_value(tape, &first.shape, tape->value[a].wanted || tape->value[b].wanted);
    if (y == HM_MOE_VALUE_NONE) return y;
    first = hm_tape_matrix(tape, a);
    second = hm_tape_matrix(tape, b);
    struct hm_tensor sum = hm_tape_matrix(tape, y);
    status = tape->device->ops->add(tape->stream, &first, &second, &sum);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    return hm_tape_add_node(tape, add_backward, a, b, y) ? y : HM_MOE_VALUE_NONE;
}

static enum hm_status scale_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    return give_scaled(tape, node->in[0], &tape->value[node->out], node->factor);
}

hm_moe_value hm_moe_tape_scale(struct hm_moe_tape *tape, hm_moe_value a, float factor)
{
    if (!hm_tape_usable(tape, a)) return HM_MOE_VALUE_NONE;
    struct hm_shape shape = tape->value[a].shape;
    hm_moe_value y = hm_tape_add_value(tape, &shape, tape->value[a].wanted);
    if (y == HM_MOE_VALUE_NONE) return y;
    const struct hm_tape_value *from = &tape->value[a];
    size_t elements = (size_t)from->rows * from->columns;
    for (size_t i = 0; i < elements; i++) tape->value[y].data[i] = factor * from->data[i];
    struct hm_tape_node *node = hm_tape_add_node(tape, scale_backward, a, HM_MOE_VALUE_NONE, y);
    if (!node) return HM_MOE_VALUE_NONE;
    node->factor = factor;
    return y;
}

/* ---- cross entropy --------------------------------------------------------------------------- */

static enum hm_status cross_entropy_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_tensor dx;
    float factor = tape->value[node->out].gradient[0];
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &dx);
    if (status != HM_OK) return status;
    size_t elements = (size_t)tape->value[node->in[0]].rows * tape->value[node->in[0]].columns;
    for (size_t i = 0; i < elements; i++) hm_f32(&dx)[i] = factor * node->saved[i];
    return hm_tape_gradient_give(tape, node->in[0], &dx);
}

hm_moe_value hm_moe_tape_cross_entropy(struct hm_moe_tape *tape, hm_moe_value logits,
                                       const int64_t *label)
{
    if (!hm_tape_usable(tape, logits)) return HM_MOE_VALUE_NONE;
    uint32_t rows = tape->value[logits].rows, columns = tape->value[logits].columns;
    for (uint32_t row = 0; row < rows; row++) {
        if (label[row] < 0 || label[row] >= columns)
            return hm_moe_tape_fail(tape, hm_fail(HM_ERR_INVALID,
                                                  "label %" PRId64 " of row %" PRIu32
                                                  " is none of the %" PRIu32 " classes",
                                                  label[row], row, columns));
    }
    struct hm_shape one = {.dim_count = 2, .dim = {1, 1}};
    hm_moe_value loss = hm_tape_add_value(tape, &one, true);
    float *gradient = hm_tape_memory(tape, (size_t)rows * columns);
    if (tape->status != HM_OK) return HM_MOE_VALUE_NONE;
    struct hm_tensor x = hm_tape_matrix(tape, logits), dx = hm_matrix_f32(gradient, rows, columns);
    enum hm_status status =
        tape->device->ops->cross_entropy(tape->stream, &x, label, 1.f, tape->value[loss].data, &dx);
    if (status == HM_OK) status = tape->device->ops->sync(tape->stream);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    struct hm_tape_node *node =
        hm_tape_add_node(tape, cross_entropy_backward, logits, HM_MOE_VALUE_NONE, loss);
    if (!node) return HM_MOE_VALUE_NONE;
    node->saved = gradient;
    return loss;
}

/* ---- backward -------------------------------------------------------------------------------- */

enum hm_status hm_moe_tape_backward(struct hm_moe_tape *tape, hm_moe_value loss)
{
    if (hm_tape_usable(tape, loss) &&
        tape->value[loss].rows * (uint64_t)tape->value[loss].columns != 1)
        (void)hm_moe_tape_fail(
            tape, hm_fail(HM_ERR_SHAPE, "a loss is one number; average over rows first"));
    if (tape->status == HM_OK) {
        tape->value[loss].gradient = hm_tape_memory(tape, 1);
        if (tape->value[loss].gradient) tape->value[loss].gradient[0] = 1.f;
    }
    for (unsigned i = tape->node_count; tape->status == HM_OK && i-- > 0;) {
        struct hm_tape_node *node = &tape->node[i];
        if (!tape->value[node->out].gradient || !tape->value[node->out].wanted)
            continue; /* the loss does not need it */
        enum hm_status status = node->backward(tape, node);
        if (status != HM_OK) (void)hm_moe_tape_fail(tape, status);
    }
    tape->went_back = true;
    if (tape->status == HM_OK) {
        enum hm_status status = tape->device->ops->sync(tape->stream);
        if (status != HM_OK) (void)hm_moe_tape_fail(tape, status);
    }
    return tape->status == HM_OK ? HM_OK : hm_fail(tape->status, "%s", tape->line);
}
