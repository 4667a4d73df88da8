/* moe/tape_remote.c - nodes of the tape that live elsewhere: remote mixtures (with their gates),
 * remote experts.
 *
 * Happy path:    the caller's thread waits (bridge.h) while the loop runs the operation on the
 *                tape's own memory.
 * Failure modes: an operation's error is the tape's; it has ended then, so the memory is the tape's
 *                again.
 * Invariants:    an operation belongs to one node from its forward to the next reset. */
#include "moe/tape_internal.h"

#include <stdlib.h>

/* ---- mixtures -------------------------------------------------------------------------------- */

static void mixture_ended(struct hm_mixture_op *op, enum hm_status status)
{
    struct hm_tape_mixture *remote = op->arg;
    hm_wait_end(remote->tape->wait, status);
}

static void mixture_start(struct hm_wait *wait, void *arg)
{
    struct hm_tape_mixture *remote = arg;
    remote->tape->wait = wait;
    enum hm_status status = remote->backward
                                ? hm_mixture_backward(&remote->op, &remote->dy, &remote->dx,
                                                      &remote->dgate, HM_NS_NEVER, mixture_ended)
                                : hm_mixture_forward(&remote->op, &remote->x, &remote->gate,
                                                     &remote->y, HM_NS_NEVER, mixture_ended);
    if (status != HM_OK) hm_wait_end(wait, status);
}

static enum hm_status mixture_run(struct hm_moe_tape *tape, struct hm_tape_mixture *remote,
                                  bool backward)
{
    enum hm_status status = tape->device->ops->sync(tape->stream);
    if (status != HM_OK) return status;
    remote->backward = backward;
    remote->op.parts = remote->op.parts_failed = 0;
    status = hm_wait_run(tape->bridge, mixture_start, remote);
    tape->counts.parts += remote->op.parts;
    tape->counts.parts_failed += remote->op.parts_failed;
    return status;
}

static struct hm_tape_mixture *mixture_get(struct hm_moe_tape *tape, struct hm_mixture *mixture)
{
    struct hm_tape_mixture *remote = tape->mixtures;
    while (remote && (remote->used || remote->mixture != mixture)) remote = remote->next;
    if (!remote) {
        remote = calloc(1, sizeof *remote);
        if (!remote) {
            (void)hm_moe_tape_fail(
                tape, hm_fail(HM_ERR_NO_MEMORY, "no memory for a mixture on the tape"));
            return NULL;
        }
        hm_mixture_op_init(mixture, &remote->op);
        remote->op.arg = remote;
        remote->mixture = mixture;
        remote->tape = tape;
        remote->next = tape->mixtures;
        tape->mixtures = remote;
    }
    remote->used = true;
    return remote;
}

static enum hm_status mixture_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_tape_mixture *remote = node->mixture;
    remote->dy = hm_tape_gradient_matrix(tape, node->out);
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &remote->dx);
    if (status == HM_OK) status = hm_tape_gradient_take(tape, node->in[1], &remote->dgate);
    if (status == HM_OK) status = mixture_run(tape, remote, true);
    if (status == HM_OK && tape->value[node->in[0]].wanted)
        status = hm_tape_gradient_give(tape, node->in[0], &remote->dx);
    if (status == HM_OK) status = hm_tape_gradient_give(tape, node->in[1], &remote->dgate);
    return status;
}

static bool has_bridge(struct hm_moe_tape *tape)
{
    if (tape->bridge) return true;
    (void)hm_moe_tape_fail(
        tape,
        hm_fail(HM_ERR_INVALID, "this tape was made without a node, so it has no remote experts"));
    return false;
}

hm_moe_value hm_moe_tape_mixture(struct hm_moe_tape *tape, struct hm_mixture *mixture,
                                 struct hm_layer *gate, hm_moe_value x)
{
    if (!hm_tape_usable(tape, x) || !has_bridge(tape)) return HM_MOE_VALUE_NONE;
    if (gate->output != hm_mixture_gate_columns(mixture))
        return hm_moe_tape_fail(
            tape, hm_fail(HM_ERR_SHAPE, "the gate gives %u columns, the grid of '%s' needs %u",
                          gate->output, hm_mixture_grid(mixture)->name,
                          hm_mixture_gate_columns(mixture)));
    hm_moe_value logits = hm_moe_tape_layer(tape, gate, x);
    if (logits == HM_MOE_VALUE_NONE) return logits;
    struct hm_shape shape = tape->value[x].shape;
    hm_moe_value y = hm_tape_add_value(tape, &shape, true);
    struct hm_tape_mixture *remote = y == HM_MOE_VALUE_NONE ? NULL : mixture_get(tape, mixture);
    if (!remote) return HM_MOE_VALUE_NONE;
    remote->x = hm_moe_tape_value(tape, x);
    remote->gate = hm_moe_tape_value(tape, logits);
    remote->y = hm_moe_tape_value(tape, y);
    remote->logits = logits;
    enum hm_status status = mixture_run(tape, remote, false);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    struct hm_tape_node *node = hm_tape_add_node(tape, mixture_backward, x, logits, y);
    if (!node) return HM_MOE_VALUE_NONE;
    node->mixture = remote;
    tape->value[y].mixture = remote;
    return y;
}

static enum hm_status balance_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_tensor dlogits;
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &dlogits);
    if (status != HM_OK) return status;
    size_t elements = (size_t)hm_rows(&dlogits) * hm_columns(&dlogits);
    for (size_t i = 0; i < elements; i++) hm_f32(&dlogits)[i] = 0;
    (void)hm_mixture_balance(&node->mixture->op, tape->value[node->out].gradient[0],
                             hm_f32(&dlogits));
    return hm_tape_gradient_give(tape, node->in[0], &dlogits);
}

hm_moe_value hm_moe_tape_balance(struct hm_moe_tape *tape, hm_moe_value mixed)
{
    if (!hm_tape_usable(tape, mixed)) return HM_MOE_VALUE_NONE;
    struct hm_tape_mixture *remote = tape->value[mixed].mixture;
    if (!remote)
        return hm_moe_tape_fail(
            tape, hm_fail(HM_ERR_INVALID, "the balance loss is of the output of a mixture"));
    struct hm_shape one = {.dim_count = 2, .dim = {1, 1}};
    hm_moe_value loss = hm_tape_add_value(tape, &one, true);
    if (loss == HM_MOE_VALUE_NONE) return loss;
    tape->value[loss].data[0] = hm_mixture_balance(&remote->op, 1.f, NULL);
    struct hm_tape_node *node =
        hm_tape_add_node(tape, balance_backward, remote->logits, HM_MOE_VALUE_NONE, loss);
    if (!node) return HM_MOE_VALUE_NONE;
    node->mixture = remote;
    return loss;
}

/* ---- experts --------------------------------------------------------------------------------- */

static void expert_ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct hm_tape_expert *remote = op->arg;
    hm_wait_end(remote->tape->wait, status);
}

static void expert_start(struct hm_wait *wait, void *arg)
{
    struct hm_tape_expert *remote = arg;
    remote->tape->wait = wait;
    hm_ns deadline = hm_deadline_after(hm_dispatch_loop(remote->dispatch), remote->timeout);
    enum hm_status status =
        remote->backward
            ? hm_moe_expert_backward(remote->dispatch, &remote->op, &remote->uid, &remote->x,
                                     &remote->dy, &remote->dx, deadline, expert_ended)
            : hm_moe_expert_forward(remote->dispatch, &remote->op, &remote->uid, &remote->x,
                                    &remote->y, deadline, expert_ended);
    if (status != HM_OK) hm_wait_end(wait, status);
}

static enum hm_status expert_run(struct hm_moe_tape *tape, struct hm_tape_expert *remote,
                                 bool backward)
{
    enum hm_status status = tape->device->ops->sync(tape->stream);
    if (status != HM_OK) return status;
    remote->backward = backward;
    status = hm_wait_run(tape->bridge, expert_start, remote);
    tape->counts.parts++;
    tape->counts.parts_failed += status != HM_OK;
    return status;
}

static enum hm_status expert_backward(struct hm_moe_tape *tape, struct hm_tape_node *node)
{
    struct hm_tape_expert *remote = node->expert;
    remote->dy = remote->x; /* same shape */
    remote->dy.data.base = tape->value[node->out].gradient;
    struct hm_tensor dx;
    enum hm_status status = hm_tape_gradient_take(tape, node->in[0], &dx);
    if (status != HM_OK) return status;
    remote->dx = remote->x;
    remote->dx.data.base = dx.data.base;
    status = expert_run(tape, remote, true);
    if (status == HM_OK && tape->value[node->in[0]].wanted)
        status = hm_tape_gradient_give(tape, node->in[0], &dx);
    return status;
}

hm_moe_value hm_moe_tape_expert(struct hm_moe_tape *tape, struct hm_dispatch *dispatch,
                                const struct hm_uid *uid, const struct hm_codec *codec,
                                hm_ns timeout, hm_moe_value x)
{
    if (!hm_tape_usable(tape, x) || !has_bridge(tape)) return HM_MOE_VALUE_NONE;
    struct hm_shape shape = tape->value[x].shape;
    hm_moe_value y = hm_tape_add_value(tape, &shape, true);
    if (y == HM_MOE_VALUE_NONE) return y;
    struct hm_tape_expert *remote = tape->experts;
    while (remote && remote->used) remote = remote->next;
    if (!remote) {
        remote = calloc(1, sizeof *remote);
        if (!remote)
            return hm_moe_tape_fail(
                tape, hm_fail(HM_ERR_NO_MEMORY, "no memory for an expert on the tape"));
        remote->next = tape->experts;
        tape->experts = remote;
    }
    remote->used = true;
    remote->op.arg = remote;
    remote->op.codec = codec;
    remote->tape = tape;
    remote->dispatch = dispatch;
    remote->uid = *uid;
    remote->timeout = timeout < HM_MOE_TIMEOUT_MAX ? timeout : HM_MOE_TIMEOUT_MAX;
    remote->x = hm_moe_tape_value(tape, x);
    remote->y = hm_moe_tape_value(tape, y);
    enum hm_status status = expert_run(tape, remote, false);
    if (status != HM_OK) return hm_moe_tape_fail(tape, status);
    struct hm_tape_node *node = hm_tape_add_node(tape, expert_backward, x, HM_MOE_VALUE_NONE, y);
    if (!node) return HM_MOE_VALUE_NONE;
    node->expert = remote;
    return y;
}

/* ---- reset ----------------------------------------------------------------------------------- */

void hm_tape_remote_reset(struct hm_moe_tape *tape)
{
    for (struct hm_tape_mixture *remote = tape->mixtures; remote; remote = remote->next) {
        if (remote->used) hm_mixture_release(&remote->op);
        remote->used = false;
    }
    for (struct hm_tape_expert *remote = tape->experts; remote; remote = remote->next)
        remote->used = false;
}

void hm_tape_remote_fini(struct hm_moe_tape *tape)
{
    while (tape->mixtures) {
        struct hm_tape_mixture *remote = tape->mixtures;
        tape->mixtures = remote->next;
        hm_mixture_op_fini(&remote->op);
        free(remote);
    }
    while (tape->experts) {
        struct hm_tape_expert *remote = tape->experts;
        tape->experts = remote->next;
        free(remote);
    }
}
