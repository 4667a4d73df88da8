/* moe/mixture.c - choose, apply, average; and back.
 *
 *   IDLE ──forward──► SEARCHING ──► CALLING ──► HOLDS ──backward──► BACKWARD ──► IDLE
 *     └────choose───► SEARCHING ──► IDLE (with the choice)             (any failure: IDLE)
 *
 * Happy path:    choices are sorted into slots, an expert's slots together; an answer's row lies
 *                where its slot says.
 * Failure modes: a row without k_min answers fails the pass; a masked expert has no weight.  In
 *                backward only experts that answered forward are asked, at the server that
 *                answered; those that fail are constants.
 * Invariants:    weights of a row's survivors sum to 1; y, dx and dlogits are written on success
 *                only. */
#include "moe/mixture.h"

#include "base/assert.h"
#include "moe/balance.h"
#include "moe/grow.h"
#include "moe/shape.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#define TIMEOUT_STANDARD (30 * HM_S)

struct hm_mixture {
    struct hm_mixture_conf conf;
    struct hm_beam_grid grid;
    uint32_t columns; /* of the gate */
};

enum hm_status hm_mixture_create(const struct hm_mixture_conf *conf, struct hm_mixture **out)
{
    struct hm_beam_grid grid;
    enum hm_status status = hm_beam_grid_init(&grid, conf->name, conf->dim_count, conf->grid);
    if (status != HM_OK) return status;
    if (conf->hidden < 1)
        return hm_fail(HM_ERR_INVALID, "a mixture needs the number of its columns (hidden)");
    if (conf->k_best < 1 || conf->k_best > HM_BEAM_MAX || conf->beam_width > HM_BEAM_MAX)
        return hm_fail(HM_ERR_INVALID,
                       "k_best is %" PRIu32 "; it can be 1 to %d (and so can the beam width)",
                       conf->k_best, HM_BEAM_MAX);
    if (conf->k_min < 1 || conf->k_min > conf->k_best || conf->backward_k_min > conf->k_best)
        return hm_fail(HM_ERR_INVALID,
                       "k_min is %" PRIu32 " and backward_k_min %" PRIu32
                       "; they can be 1 (0) to k_best, which is %" PRIu32,
                       conf->k_min, conf->backward_k_min, conf->k_best);
    struct hm_mixture *mixture = calloc(1, sizeof *mixture);
    if (!mixture) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a mixture");
    mixture->conf = *conf;
    mixture->grid = grid;
    mixture->columns = hm_beam_grid_columns(&grid);
    mixture->conf.name = mixture->grid.name;
    if (mixture->conf.forward_timeout == 0) mixture->conf.forward_timeout = TIMEOUT_STANDARD;
    if (mixture->conf.backward_timeout == 0) mixture->conf.backward_timeout = TIMEOUT_STANDARD;
    if (mixture->conf.forward_timeout > HM_MOE_TIMEOUT_MAX)
        mixture->conf.forward_timeout = HM_MOE_TIMEOUT_MAX;
    if (mixture->conf.backward_timeout > HM_MOE_TIMEOUT_MAX)
        mixture->conf.backward_timeout = HM_MOE_TIMEOUT_MAX;
    if (mixture->conf.timeout_after_k_min == 0) mixture->conf.timeout_after_k_min = HM_NS_NEVER;
    *out = mixture;
    return HM_OK;
}

void hm_mixture_destroy(struct hm_mixture *mixture)
{
    free(mixture);
}
const struct hm_mixture_conf *hm_mixture_conf(const struct hm_mixture *mixture)
{
    return &mixture->conf;
}
const struct hm_beam_grid *hm_mixture_grid(const struct hm_mixture *mixture)
{
    return &mixture->grid;
}
uint32_t hm_mixture_gate_columns(const struct hm_mixture *mixture)
{
    return mixture->columns;
}

void hm_mixture_op_init(struct hm_mixture *mixture, struct hm_mixture_op *op)
{
    memset(op, 0, sizeof *op);
    op->mixture = mixture;
    hm_beam_init(&op->beam);
}

void hm_mixture_op_fini(struct hm_mixture_op *op)
{
    HM_ASSERT(op->state == HM_MIXTURE_IDLE || op->state == HM_MIXTURE_HOLDS);
    hm_beam_fini(&op->beam);
    free(op->part);
    free(op->part_back);
    free(op->slot_row);
    free(op->slot_of);
    free(op->weight);
    free(op->answer);
    free(op->answer_back);
    free(op->fraction);
    hm_mixture_op_init(op->mixture, op);
}

void hm_mixture_release(struct hm_mixture_op *op)
{
    HM_ASSERT(op->state == HM_MIXTURE_IDLE || op->state == HM_MIXTURE_HOLDS);
    op->state = HM_MIXTURE_IDLE;
    op->beam.expert_count = 0;
    op->x = op->logits = NULL;
}

static void finish(struct hm_mixture_op *op, enum hm_mixture_state state, enum hm_status status)
{
    op->state = state;
    op->cb(op, status);
}

static hm_ns earlier(struct hm_mixture *mixture, hm_ns timeout, hm_ns deadline)
{
    hm_ns own = hm_deadline_after(hm_dispatch_loop(mixture->conf.dispatch), timeout);
    return own < deadline ? own : deadline;
}

/* ---- choosing -------------------------------------------------------------------------------- */

static void chosen(struct hm_beam_op *beam, enum hm_status status);

static enum hm_status search(struct hm_mixture_op *op, const float *logits, uint32_t rows,
                             hm_ns deadline, hm_mixture_cb cb)
{
    struct hm_mixture *mixture = op->mixture;
    op->cb = cb;
    op->logits = logits;
    op->row_count = rows;
    op->deadline = earlier(mixture, mixture->conf.forward_timeout, deadline);
    op->part_status = HM_OK;
    op->parts = op->parts_failed = 0;
    op->beam.directory = hm_dispatch_directory(mixture->conf.dispatch);
    op->beam.grid = &mixture->grid;
    op->beam.logits = logits;
    op->beam.row_count = rows;
    op->beam.k_best = mixture->conf.k_best;
    op->beam.width = mixture->conf.beam_width;
    op->beam.deadline = op->deadline;
    op->beam.cb = chosen;
    op->beam.arg = op;
    enum hm_status status = hm_beam_start(&op->beam);
    if (status == HM_OK) op->state = HM_MIXTURE_SEARCHING;
    return status;
}

enum hm_status hm_mixture_choose(struct hm_mixture_op *op, const struct hm_tensor *logits,
                                 hm_ns deadline, hm_mixture_cb cb)
{
    HM_ASSERT(op->state == HM_MIXTURE_IDLE);
    uint32_t columns = op->mixture->columns, rows;
    enum hm_status status = hm_shape_rows("the gate's output", logits, &columns, &rows);
    if (status != HM_OK) return status;
    op->choose_only = true;
    return search(op, hm_f32(logits), rows, deadline, cb);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Sorts the choices by expert: slots, and one part an expert. */
static bool make_slots(struct hm_mixture_op *op)
{
    const struct hm_beam_op *beam = &op->beam;
    uint32_t hidden = op->mixture->conf.hidden, k_best = beam->k_best;
    size_t choices = (size_t)op->row_count * k_best, slots = 0, capacity = op->part_capacity;
    for (uint32_t row = 0; row < op->row_count; row++) slots += beam->choice_count[row];
    if (!hm_grow(&op->part, &capacity, beam->expert_count, sizeof *op->part)) return false;
    if (!hm_grow(&op->part_back, &op->part_capacity, beam->expert_count, sizeof *op->part_back))
        return false;
    if (!hm_grow(&op->slot_of, &op->choice_capacity, choices, sizeof *op->slot_of)) return false;
    capacity = op->slot_capacity;
    if (!hm_grow(&op->slot_row, &capacity, slots, sizeof *op->slot_row)) return false;
    if (!hm_grow(&op->weight, &op->slot_capacity, slots, sizeof *op->weight)) return false;
    if (!hm_grow(&op->answer, &op->answer_capacity, slots * hidden, sizeof *op->answer))
        return false;

    memset(op->part, 0, beam->expert_count * sizeof *op->part);
    for (uint32_t row = 0; row < op->row_count; row++) {
        for (uint32_t k = 0; k < beam->choice_count[row]; k++)
            op->part[beam->choice[(size_t)row * k_best + k].expert].row_count++;
    }
    size_t at = 0;
    for (unsigned i = 0; i < beam->expert_count; i++) {
        struct hm_dispatch_part *part = &op->part[i];
        part->uid = beam->expert[i].uid;
        part->server = beam->expert[i].server;
        part->row = op->slot_row + at;
        part->answer = op->answer + at * hidden;
        at += part->row_count;
        part->row_count = 0; /* counted again while it is filled */
    }
    for (uint32_t row = 0; row < op->row_count; row++) {
        for (uint32_t k = 0; k < beam->choice_count[row]; k++) {
            struct hm_dispatch_part *part =
                &op->part[beam->choice[(size_t)row * k_best + k].expert];
            uint32_t slot = (uint32_t)(part->row - op->slot_row) + part->row_count++;
            op->slot_row[slot] = row;
            op->slot_of[(size_t)row * k_best + k] = slot;
        }
    }
    op->part_count = beam->expert_count;
    return true;
}

static bool answered(const struct hm_mixture_op *op, uint32_t row, uint32_t k)
{
    return op->part[op->beam.choice[(size_t)row * op->beam.k_best + k].expert].status == HM_OK;
}

/* Softmax over a row's survivors of their summed logits. */
static void weigh_row(struct hm_mixture_op *op, uint32_t row)
{
    const struct hm_beam_choice *choice = &op->beam.choice[(size_t)row * op->beam.k_best];
    const uint32_t *slot = &op->slot_of[(size_t)row * op->beam.k_best];
    float largest = -INFINITY, sum = 0;
    for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) {
        if (answered(op, row, k)) largest = fmaxf(largest, choice[k].logit);
    }
    for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) {
        op->weight[slot[k]] = answered(op, row, k) ? expf(choice[k].logit - largest) : 0.f;
        sum += op->weight[slot[k]];
    }
    for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) op->weight[slot[k]] /= sum;
}

static void average(struct hm_mixture_op *op)
{
    uint32_t hidden = op->mixture->conf.hidden, k_best = op->beam.k_best;
    for (uint32_t row = 0; row < op->row_count; row++) {
        float *y = op->y + (size_t)row * hidden;
        weigh_row(op, row);
        memset(y, 0, hidden * sizeof *y);
        for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) {
            if (!answered(op, row, k)) continue;
            uint32_t slot = op->slot_of[(size_t)row * k_best + k];
            const float *from = op->answer + (size_t)slot * hidden;
            float weight = op->weight[slot];
            for (uint32_t i = 0; i < hidden; i++) y[i] += weight * from[i];
        }
    }
}

static void count_failures(struct hm_mixture_op *op, const struct hm_dispatch_part *part,
                           unsigned count)
{
    op->parts = count;
    op->parts_failed = 0;
    op->part_status = HM_OK;
    for (unsigned i = 0; i < count; i++) {
        if (part[i].status == HM_OK) continue;
        if (op->parts_failed++ == 0) op->part_status = part[i].status;
    }
}

static void forward_ended(struct hm_dispatch_op *dispatch, enum hm_status status)
{
    struct hm_mixture_op *op = dispatch->arg;
    count_failures(op, op->part, op->part_count);
    if (status == HM_OK) average(op);
    finish(op, status == HM_OK ? HM_MIXTURE_HOLDS : HM_MIXTURE_IDLE, status);
}

static enum hm_status call_experts(struct hm_mixture_op *op, uint8_t pass,
                                   struct hm_dispatch_part *part, unsigned part_count,
                                   uint32_t k_min, hm_dispatch_cb cb)
{
    const struct hm_mixture_conf *conf = &op->mixture->conf;
    op->dispatch = (struct hm_dispatch_op){
        .pass = pass,
        .codec = conf->codec,
        .schema = hm_schema_f32(conf->hidden),
        .x = op->x,
        .dy = pass == HM_PASS_BACKWARD ? op->dy : NULL,
        .row_count = op->row_count,
        .part = part,
        .part_count = part_count,
        .k_min = k_min > 0 ? k_min : 1,
        .optional = k_min == 0,
        .deadline = op->deadline,
        .timeout_after_k_min = conf->timeout_after_k_min,
        .cb = cb,
        .arg = op,
    };
    return hm_dispatch_start(conf->dispatch, &op->dispatch);
}

static void chosen(struct hm_beam_op *beam, enum hm_status status)
{
    struct hm_mixture_op *op = beam->arg;
    const struct hm_mixture_conf *conf = &op->mixture->conf;
    if (status != HM_OK || op->choose_only) {
        finish(op, HM_MIXTURE_IDLE, status);
        return;
    }
    for (uint32_t row = 0; status == HM_OK && row < op->row_count; row++) {
        if (beam->choice_count[row] < conf->k_min)
            status = hm_fail(HM_ERR_NOT_FOUND,
                             "row %" PRIu32 " found %" PRIu32
                             " live experts under '%s.', k_min is %" PRIu32
                             "; start more servers or lower k_min",
                             row, beam->choice_count[row], conf->name, conf->k_min);
    }
    if (status == HM_OK && !make_slots(op))
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for the answers of %u experts",
                         beam->expert_count);
    if (status == HM_OK) {
        op->state = HM_MIXTURE_CALLING;
        status =
            call_experts(op, HM_PASS_FORWARD, op->part, op->part_count, conf->k_min, forward_ended);
    }
    if (status != HM_OK) finish(op, HM_MIXTURE_IDLE, status);
}

enum hm_status hm_mixture_forward(struct hm_mixture_op *op, const struct hm_tensor *x,
                                  const struct hm_tensor *logits, struct hm_tensor *y,
                                  hm_ns deadline, hm_mixture_cb cb)
{
    HM_ASSERT(op->state == HM_MIXTURE_IDLE);
    uint32_t hidden = op->mixture->conf.hidden, columns = op->mixture->columns, rows, gate_rows;
    enum hm_status status = hm_shape_rows("the mixture's input", x, &hidden, &rows);
    if (status == HM_OK) status = hm_shape_rows("the gate's output", logits, &columns, &gate_rows);
    if (status == HM_OK) status = hm_shape_same("the mixture's output", y, "its input", x);
    if (status == HM_OK && rows != gate_rows)
        status = hm_fail(HM_ERR_SHAPE,
                         "the mixture's input has %" PRIu32 " rows, the gate's output %" PRIu32,
                         rows, gate_rows);
    if (status != HM_OK) return status;
    op->choose_only = false;
    op->x = hm_f32(x);
    op->y = hm_f32(y);
    return search(op, hm_f32(logits), rows, deadline, cb);
}

/* ---- backward -------------------------------------------------------------------------------- */

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
    const struct hm_beam_grid *grid = &op->mixture->grid;
    uint32_t hidden = op->mixture->conf.hidden, k_best = op->beam.k_best;
    const float *dy = op->dy + (size_t)row * hidden;
    float *dlogit = op->dlogits + (size_t)row * op->mixture->columns;
    float gradient[HM_BEAM_MAX], mean = 0;
    memset(dlogit, 0, op->mixture->columns * sizeof *dlogit);
    for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) {
        if (!answered(op, row, k)) continue;
        uint32_t slot = op->slot_of[(size_t)row * k_best + k];
        gradient[k] = dot(dy, op->answer + (size_t)slot * hidden, hidden);
        mean += op->weight[slot] * gradient[k];
    }
    for (uint32_t k = 0; k < op->beam.choice_count[row]; k++) {
        if (!answered(op, row, k)) continue;
        uint32_t slot = op->slot_of[(size_t)row * k_best + k], column = 0;
        const struct hm_uid *uid =
            &op->beam.expert[op->beam.choice[(size_t)row * k_best + k].expert].uid;
        for (unsigned d = 0; d < grid->dim_count; d++) {
            dlogit[column + uid->coordinate[d]] += op->weight[slot] * (gradient[k] - mean);
            column += grid->size[d];
        }
    }
}

static void backward_ended(struct hm_dispatch_op *dispatch, enum hm_status status)
{
    struct hm_mixture_op *op = dispatch->arg;
    uint32_t hidden = op->mixture->conf.hidden;
    count_failures(op, op->part_back, op->back_count);
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
    finish(op, HM_MIXTURE_IDLE, status);
}

enum hm_status hm_mixture_backward(struct hm_mixture_op *op, const struct hm_tensor *dy,
                                   struct hm_tensor *dx, struct hm_tensor *dlogits, hm_ns deadline,
                                   hm_mixture_cb cb)
{
    HM_ASSERT(op->state == HM_MIXTURE_HOLDS);
    const struct hm_mixture_conf *conf = &op->mixture->conf;
    uint32_t hidden = conf->hidden, columns = op->mixture->columns, rows, dx_rows, gate_rows;
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
    size_t slots = 0;
    for (unsigned i = 0; i < op->part_count; i++) slots += op->part[i].row_count;
    if (!hm_grow(&op->answer_back, &op->answer_back_capacity, slots * hidden,
                 sizeof *op->answer_back))
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for the gradients of %u experts",
                       op->part_count);
    op->back_count = 0;
    for (unsigned i = 0; i < op->part_count; i++) {
        if (op->part[i].status != HM_OK) continue;
        size_t slot = (size_t)(op->part[i].row - op->slot_row);
        struct hm_dispatch_part *back = &op->part_back[op->back_count++];
        *back = op->part[i];
        back->scale = op->weight + slot;
        back->answer = op->answer_back + slot * hidden;
    }
    op->dy = hm_f32(dy);
    op->dx = hm_f32(dx);
    op->dlogits = hm_f32(dlogits);
    op->cb = cb;
    op->deadline = earlier(op->mixture, conf->backward_timeout, deadline);
    status = call_experts(op, HM_PASS_BACKWARD, op->part_back, op->back_count, conf->backward_k_min,
                          backward_ended);
    if (status == HM_OK) op->state = HM_MIXTURE_BACKWARD;
    return status;
}

/* ---- balance --------------------------------------------------------------------------------- */

float hm_mixture_balance(struct hm_mixture_op *op, float scale, float *dlogits)
{
    HM_ASSERT(op->state == HM_MIXTURE_IDLE || op->state == HM_MIXTURE_HOLDS);
    HM_ASSERT(op->logits && op->beam.expert_count > 0);
    if (!hm_grow(&op->fraction, &op->fraction_capacity, op->mixture->columns, sizeof *op->fraction))
        return NAN;
    return hm_balance_loss(&op->mixture->grid, op->logits, op->row_count, op->beam.expert,
                           op->beam.choice, op->beam.choice_count, op->beam.k_best, scale,
                           op->fraction, dlogits);
}
