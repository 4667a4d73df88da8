/* api/remote.c - hm_remote_expert and hm_remote_mixture: the loop's operations of src/moe,
 * blocking. */
#include "api/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CALL_TIMEOUT_STANDARD_MS = 5000,
    AFTER_K_MIN_STANDARD_MS = 1000,
    K_BEST_STANDARD = 4,
    SPARES_STANDARD = 2
};

enum hm_status hm_array_tensor(const struct hm_array *array, struct hm_tensor *tensor)
{
    if (array->dims < 1 || array->dims > HM_ARRAY_DIMS_MAX || !array->data)
        return hm_fail(HM_ERR_INVALID, "an array has 1 to %d dimensions and data",
                       HM_ARRAY_DIMS_MAX);
    *tensor = (struct hm_tensor){.dtype = HM_F32, .shape.dim_count = (uint8_t)array->dims};
    memcpy(tensor->shape.dim, array->dim, array->dims * sizeof(array->dim[0]));
    if (array->dims == 1) { /* one row */
        tensor->shape = (struct hm_shape){.dim_count = 2, .dim = {1, array->dim[0]}};
    }
    uint64_t elements;
    enum hm_status status = hm_shape_elements(&tensor->shape, &elements);
    if (status) return status;
    if (elements == 0) return hm_fail(HM_ERR_INVALID, "an array has a dimension of size 0");
    tensor->data = (struct hm_span){.base = array->data, .bytes = elements * sizeof(float)};
    return HM_OK;
}

/* ---- one expert ------------------------------------------------------------------------------ */

struct expert_op {
    struct hm_moe_expert_op op; /* first: its callback finds the rest */
    struct hm_remote_expert *expert;
    struct hm_wait *wait;
    struct hm_tensor x, dy, out;
    hm_ns timeout;
};

static void expert_ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct expert_op *outer = op->arg;
    hm_wait_end(outer->wait, status);
}

/* The operation is this wait's; its deadline. */
static hm_ns begin(struct expert_op *op, struct hm_wait *wait)
{
    op->wait = wait;
    op->op.arg = op;
    op->op.codec = op->expert->codec;
    return hm_deadline_after(op->expert->node->loop, op->timeout);
}

static void find_on_loop(struct hm_wait *wait, void *arg)
{
    struct expert_op *op = arg;
    hm_ns deadline = begin(op, wait);
    enum hm_status status = hm_moe_expert_find(op->expert->node->dispatch, &op->op,
                                               &op->expert->uid, deadline, expert_ended);
    if (status) hm_wait_end(wait, status);
}

static void forward_on_loop(struct hm_wait *wait, void *arg)
{
    struct expert_op *op = arg;
    hm_ns deadline = begin(op, wait);
    enum hm_status status =
        hm_moe_expert_forward(op->expert->node->dispatch, &op->op, &op->expert->uid, &op->x,
                              &op->out, deadline, expert_ended);
    if (status) hm_wait_end(wait, status);
}

static void backward_on_loop(struct hm_wait *wait, void *arg)
{
    struct expert_op *op = arg;
    hm_ns deadline = begin(op, wait);
    enum hm_status status =
        hm_moe_expert_backward(op->expert->node->dispatch, &op->op, &op->expert->uid, &op->x,
                               &op->dy, &op->out, deadline, expert_ended);
    if (status) hm_wait_end(wait, status);
}

int hm_remote_expert_find(struct hm_node *node, const char *uid, int timeout_ms,
                          struct hm_remote_expert **out)
{
    struct hm_remote_expert *expert = calloc(1, sizeof(*expert));
    if (!expert) return HM_ERR_NO_MEMORY;
    expert->node = node;
    enum hm_status status = hm_uid_parse(uid, &expert->uid);
    struct expert_op op = {.expert = expert,
                           .timeout = hm_node_timeout(timeout_ms, CALL_TIMEOUT_STANDARD_MS)};
    if (!status) status = hm_node_run(node, find_on_loop, &op);
    if (status) {
        free(expert);
        return status;
    }
    *out = expert;
    return HM_OK;
}

int hm_remote_expert_info(struct hm_remote_expert *expert, int timeout_ms,
                          struct hm_remote_expert_info *info)
{
    struct expert_op op = {.expert = expert,
                           .timeout = hm_node_timeout(timeout_ms, CALL_TIMEOUT_STANDARD_MS)};
    enum hm_status status = hm_node_run(expert->node, find_on_loop, &op);
    if (status) return status;
    *info = (struct hm_remote_expert_info){.hidden = op.op.info.input.row[0].dim[0],
                                           .step = op.op.info.step,
                                           .parameter_count = op.op.info.parameter_count};
    snprintf(info->uid, sizeof(info->uid), "%s", expert->uid.text);
    snprintf(info->kind, sizeof(info->kind), "%s", op.op.info.kind);
    return HM_OK;
}

int hm_remote_expert_set_codec(struct hm_remote_expert *expert, const char *codec)
{
    const struct hm_codec *known = hm_codec_by_name(codec);
    if (!known) return HM_ERR_INVALID;
    expert->codec = known;
    return HM_OK;
}

enum hm_status hm_array_same_shape(const struct hm_array *a, const struct hm_array *b)
{
    if (a->dims == b->dims && memcmp(a->dim, b->dim, a->dims * sizeof(a->dim[0])) == 0)
        return HM_OK;
    return hm_fail(HM_ERR_SHAPE, "an expert's output and gradients have the shape of its input");
}

int hm_remote_expert_forward(struct hm_remote_expert *expert, const struct hm_array *x,
                             struct hm_array *y, int timeout_ms)
{
    struct expert_op op = {.op.asked = hm_loop_clock(expert->node->loop),
                           .expert = expert,
                           .timeout = hm_node_timeout(timeout_ms, CALL_TIMEOUT_STANDARD_MS)};
    enum hm_status status = hm_array_tensor(x, &op.x);
    if (!status) status = hm_array_tensor(y, &op.out);
    if (!status) status = hm_array_same_shape(x, y);
    return status ? status : hm_node_run(expert->node, forward_on_loop, &op);
}

int hm_remote_expert_backward(struct hm_remote_expert *expert, const struct hm_array *x,
                              const struct hm_array *dy, struct hm_array *dx, int timeout_ms)
{
    struct expert_op op = {.op.asked = hm_loop_clock(expert->node->loop),
                           .expert = expert,
                           .timeout = hm_node_timeout(timeout_ms, CALL_TIMEOUT_STANDARD_MS)};
    enum hm_status status = hm_array_tensor(x, &op.x);
    if (!status) status = hm_array_tensor(dy, &op.dy);
    if (!status) status = hm_array_tensor(dx, &op.out);
    if (!status) status = hm_array_same_shape(x, dy);
    if (!status) status = hm_array_same_shape(x, dx);
    return status ? status : hm_node_run(expert->node, backward_on_loop, &op);
}

void hm_remote_expert_put(struct hm_remote_expert *expert)
{
    free(expert);
}

/* ---- mixture --------------------------------------------------------------------------------- */

static uint32_t spares_of(int wanted, uint32_t k_best)
{
    uint32_t room = k_best < HM_BEAM_MAX ? HM_BEAM_MAX - k_best : 0;
    if (wanted < 0) return 0;
    uint32_t spares = wanted ? (uint32_t)wanted : SPARES_STANDARD;
    return spares < room ? spares : room;
}

int hm_remote_mixture_open(struct hm_node *node, const struct hm_remote_mixture_options *options,
                           struct hm_remote_mixture **out)
{
    if (!options->name) return hm_fail(HM_ERR_INVALID, "a mixture needs the name of its experts");
    if (options->grid_dims < 1 || options->grid_dims > HM_GRID_DIMS_MAX)
        return hm_fail(HM_ERR_INVALID, "a grid has 1 to %d dimensions, not %u", HM_GRID_DIMS_MAX,
                       options->grid_dims);
    const struct hm_codec *codec = hm_codec_by_name(options->codec ? options->codec : "none");
    if (!codec) return HM_ERR_INVALID;
    struct hm_remote_mixture *mixture = calloc(1, sizeof(*mixture));
    if (!mixture) return HM_ERR_NO_MEMORY;
    mixture->node = node;
    mixture->balance = options->balance;
    uint32_t k_best = options->k_best ? options->k_best : K_BEST_STANDARD;
    struct hm_mixture_conf conf = {
        .dispatch = node->dispatch,
        .name = options->name,
        .dim_count = options->grid_dims,
        .hidden = options->hidden,
        .k_best = k_best,
        .k_min = options->k_min ? options->k_min : 1,
        .backward_k_min = options->backward_k_min,
        .spares = spares_of(options->spares, k_best),
        .forward_timeout = hm_node_timeout(options->forward_timeout_ms, CALL_TIMEOUT_STANDARD_MS),
        .backward_timeout = hm_node_timeout(options->backward_timeout_ms, CALL_TIMEOUT_STANDARD_MS),
        .timeout_after_k_min =
            hm_node_timeout(options->timeout_after_k_min_ms, AFTER_K_MIN_STANDARD_MS),
        .codec = codec};
    memcpy(conf.grid, options->grid, sizeof(conf.grid));
    enum hm_status status = hm_mixture_create(&conf, &mixture->mixture);
    if (status) goto err_free;
    struct hm_device *device = node->device;
    status = device->ops->stream_create(device, &mixture->stream);
    if (status) goto err_mixture;
    status =
        hm_layer_linear_create(device, options->hidden, hm_mixture_gate_columns(mixture->mixture),
                               options->seed, &mixture->gate);
    if (status) goto err_stream;
    *out = mixture;
    return HM_OK;

err_stream:
    device->ops->stream_destroy(mixture->stream);
err_mixture:
    hm_mixture_destroy(mixture->mixture);
err_free:
    free(mixture);
    return status;
}

void hm_remote_mixture_close(struct hm_remote_mixture *mixture)
{
    if (!mixture) return;
    hm_layer_destroy(mixture->gate);
    mixture->node->device->ops->stream_destroy(mixture->stream);
    hm_mixture_destroy(mixture->mixture);
    free(mixture);
}

struct choose_op {
    struct hm_remote_mixture *mixture;
    struct hm_mixture_op op;
    struct hm_wait *wait;
    struct hm_tensor logits;
};

static void chosen(struct hm_mixture_op *op, enum hm_status status)
{
    struct choose_op *outer = op->arg;
    hm_wait_end(outer->wait, status);
}

static void choose_on_loop(struct hm_wait *wait, void *arg)
{
    struct choose_op *op = arg;
    struct hm_loop *loop = op->mixture->node->loop;
    op->wait = wait;
    hm_ns timeout = hm_mixture_conf(op->mixture->mixture)->forward_timeout;
    enum hm_status status =
        hm_mixture_choose(&op->op, &op->logits, hm_deadline_after(loop, timeout), chosen);
    if (status) hm_wait_end(wait, status);
}

static void choose_fini_on_loop(struct hm_wait *wait, void *arg)
{
    struct choose_op *op = arg;
    hm_mixture_release(&op->op);
    hm_mixture_op_fini(&op->op);
    hm_wait_end(wait, HM_OK);
}

int hm_remote_mixture_choose(struct hm_remote_mixture *mixture, const struct hm_array *array,
                             char (*uid)[128], float *logit)
{
    struct hm_tensor x;
    enum hm_status status = hm_array_tensor(array, &x);
    if (status) return status;
    uint32_t columns = hm_mixture_gate_columns(mixture->mixture);
    uint32_t hidden = array->dim[array->dims - 1], k = hm_mixture_conf(mixture->mixture)->k_best;
    if (hidden != mixture->gate->input)
        return hm_fail(HM_ERR_SHAPE, "rows of %u columns for a mixture of %u", hidden,
                       mixture->gate->input);
    uint32_t rows = (uint32_t)(x.data.bytes / sizeof(float) / hidden);
    float *logits = malloc((size_t)rows * columns * sizeof(float));
    if (!logits) return HM_ERR_NO_MEMORY;

    struct choose_op op = {.mixture = mixture, .logits = hm_matrix_f32(logits, rows, columns)};
    struct hm_tensor flat = hm_matrix_f32(array->data, rows, hidden);
    const struct hm_weights w = hm_weights_dense(mixture->gate->parameter, columns, hidden);
    struct hm_tensor bias =
        hm_matrix_f32(mixture->gate->parameter + (size_t)columns * hidden, 1, columns);
    const struct hm_epilogue epilogue = {.bias = &bias};
    status = mixture->node->device->ops->linear(mixture->stream, &flat, &w, &epilogue, &op.logits);
    if (!status) status = mixture->node->device->ops->sync(mixture->stream);
    if (status) goto free_logits;
    hm_mixture_op_init(mixture->mixture, &op.op);
    op.op.arg = &op;
    status = hm_node_run(mixture->node, choose_on_loop, &op);
    for (size_t i = 0; !status && i < (size_t)rows * k; i++) {
        uint32_t row = (uint32_t)(i / k);
        bool there = i % k < op.op.beam.choice_count[row];
        const struct hm_beam_choice *choice = &op.op.beam.choice[i];
        snprintf(uid[i], 128, "%s", there ? op.op.beam.expert[choice->expert].uid.text : "");
        logit[i] = there ? choice->logit : 0;
    }
    enum hm_status ended = hm_node_run(mixture->node, choose_fini_on_loop, &op);
    if (!status) status = ended;
free_logits:
    free(logits);
    return status;
}
