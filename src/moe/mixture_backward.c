/* moe/mixture_backward.c - gradients: to the experts that answered forward, through the softmax to the
 * gate.
 *
 * Failure modes: an expert that fails is a constant; fewer than backward_k_min for a row fail the
 *                pass.
 * Invariants:    an expert is asked once, at the server that answered, also where several parts of
 *                forward were its. */
#include "moe/mixture_internal.h"

#include "base/assert.h"
#include "moe/grow.h"
#include "moe/shape.h"

#include <inttypes.h>
#include <string.h>

static float dot(const float *a, const float *b, uint32_t count)
{
    float sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

/* Through the softmax: with g_e = dy . y_e, dlogit_e = w_e (g_e - sum of w g), added to each of the
 * expert's coordinates. Every forward survivor takes part, also one that failed in backward: its
 * y_e is known. */
static void gate_gradient(struct hm_mixture_op *op, uint32_t row)
{
    const struct hm_beam_grid *grid = hm_mixture_grid(op->mixture);
    uint32_t hidden = hm_mixture_conf(op->mixture)->hidden, count = hm_mixture_candidates(op, row);
    const float *dy = op->dy + (size_t)row * hidden;
    float *dlogit = op->dlogits + (size_t)row * hm_mixture_gate_columns(op->mixture);
    float gradient[HM_BEAM_MAX], mean = 0;
    memset(dlogit, 0, hm_mixture_gate_columns(op->mixture) * sizeof *dlogit);
    for (uint32_t k = 0; k < count; k++) {
        uint32_t slot = hm_mixture_answered(op, row, k);
        if (slot == HM_NO_SLOT) continue;
        gradient[k] = dot(dy, op->answer + (size_t)slot * hidden, hidden);
        mean += op->weight[slot] * gradient[k];
    }
    for (uint32_t k = 0; k < count; k++) {
        uint32_t slot = hm_mixture_answered(op, row, k), column = 0;
        if (slot == HM_NO_SLOT) continue;
        const struct hm_uid *uid = &op->beam.expert[hm_mixture_candidate(op, row, k)->expert].uid;
        for (unsigned d = 0; d < grid->dim_count; d++) {
            dlogit[column + uid->coordinate[d]] += op->weight[slot] * (gradient[k] - mean);
            column += grid->size[d];
        }
    }
}

static void backward_ended(struct hm_dispatch_op *dispatch, enum hm_status status)
{
    struct hm_mixture_op *op = dispatch->arg;
    uint32_t hidden = hm_mixture_conf(op->mixture)->hidden;
    hm_mixture_count_failures(op, op->part_back, op->back_count);
    if (status == HM_OK) {
        memset(op->dx, 0, (size_t)op->row_count * hidden * sizeof *op->dx);
        for (unsigned i = 0; i < op->back_count; i++) {
            const struct hm_dispatch_part *part = &op->part_back[i];
            for (uint32_t k = 0; part->status == HM_OK && k < part->row_count; k++) {
                float *dx = op->dx + (size_t)part->row[k] * hidden;
                const float *from = part->answer + (size_t)k * hidden;
                for (uint32_t c = 0; c < hidden; c++) dx[c] += from[c];
            }
        }
        for (uint32_t row = 0; row < op->row_count; row++) gate_gradient(op, row);
    }
    hm_mixture_finish(op, HM_MIXTURE_IDLE, status);
}

/* One part for each expert that answered, also where several of its parts did: a backward names an
 * expert once. */
static void make_back(struct hm_mixture_op *op)
{
    uint32_t hidden = hm_mixture_conf(op->mixture)->hidden, at = 0;
    struct hm_dispatch_part *back =
        op->part_back; /* of every expert, until those without rows go */
    for (unsigned e = 0; e < op->beam.expert_count; e++)
        back[e] = (struct hm_dispatch_part){.uid = op->beam.expert[e].uid,
                                            .server = op->beam.expert[e].server};
    for (unsigned p = 0; p < op->part_count; p++)
        if (op->part[p].status == HM_OK)
            back[op->part_expert[p]].row_count += op->part[p].row_count;
    for (unsigned e = 0; e < op->beam.expert_count; e++) {
        back[e].row = op->row_back + at;
        back[e].scale = op->scale_back + at;
        back[e].answer = op->answer_back + (size_t)at * hidden;
        at += back[e].row_count;
        back[e].row_count = 0; /* counted again while it is filled */
    }
    for (unsigned p = 0; p < op->part_count; p++) {
        const struct hm_dispatch_part *part = &op->part[p];
        struct hm_dispatch_part *to = &back[op->part_expert[p]];
        if (part->status != HM_OK) continue;
        size_t from = (size_t)(part->row - op->slot_row);
        size_t first = (size_t)(to->row - op->row_back) + to->row_count;
        memcpy(op->row_back + first, part->row, part->row_count * sizeof *op->row_back);
        memcpy(op->scale_back + first, op->weight + from, part->row_count * sizeof *op->scale_back);
        to->row_count += part->row_count;
    }
    op->back_count = 0;
    for (unsigned e = 0; e < op->beam.expert_count; e++)
        if (back[e].row_count > 0) back[op->back_count++] = back[e];
}

enum hm_status hm_mixture_backward(struct hm_mixture_op *op, const struct hm_tensor *dy,
                                   struct hm_tensor *dx, struct hm_tensor *dlogits, hm_ns deadline,
                                   hm_mixture_cb cb)
{
    HM_ASSERT(op->state == HM_MIXTURE_HOLDS);
    const struct hm_mixture_conf *conf = hm_mixture_conf(op->mixture);
    uint32_t hidden = conf->hidden, columns = hm_mixture_gate_columns(op->mixture), rows, dx_rows,
             gate_rows;
    enum hm_status status = hm_shape_rows("the mixture's output gradient", dy, &hidden, &rows);
    if (status == HM_OK)
        status = hm_shape_rows("the mixture's input gradient", dx, &hidden, &dx_rows);
    if (status == HM_OK)
        status = hm_shape_rows("the gate's gradient", dlogits, &columns, &gate_rows);
    if (status == HM_OK && (rows != op->row_count || dx_rows != rows || gate_rows != rows))
        status = hm_fail(HM_ERR_SHAPE,
                         "the mixture's gradients have %" PRIu32 ", %" PRIu32 " and %" PRIu32
                         " rows, its input had %" PRIu32,
                         rows, dx_rows, gate_rows, op->row_count);
    if (status != HM_OK) return status;
    size_t slots = op->slot_count, capacity = op->back_capacity;
    if (!hm_grow(&op->row_back, &capacity, slots, sizeof *op->row_back) ||
        !hm_grow(&op->scale_back, &op->back_capacity, slots, sizeof *op->scale_back) ||
        !hm_grow(&op->answer_back, &op->answer_back_capacity, slots * hidden,
                 sizeof *op->answer_back))
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for the gradients of %u experts",
                       op->part_count);
    make_back(op);
    op->dy = hm_f32(dy);
    op->dx = hm_f32(dx);
    op->dlogits = hm_f32(dlogits);
    op->cb = cb;
    op->deadline = hm_mixture_deadline(op->mixture, conf->backward_timeout, deadline);
    status = hm_mixture_call(op, HM_PASS_BACKWARD, op->part_back, op->back_count,
                             conf->backward_k_min, backward_ended);
    if (status == HM_OK) op->state = HM_MIXTURE_BACKWARD;
    return status;
}
