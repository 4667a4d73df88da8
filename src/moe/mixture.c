/* moe/mixture.c - choose, apply, average; mixture_backward.c is the way back.
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
#include "moe/mixture_internal.h"

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
    if (conf->spares > HM_BEAM_MAX - conf->k_best)
        return hm_fail(HM_ERR_INVALID,
                       "%" PRIu32 " spare experts with a k_best of %" PRIu32
                       "; together they can be %d at most",
                       conf->spares, conf->k_best, HM_BEAM_MAX);
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
    free(op->part_expert);
    free(op->standing);
    free(op->slot_row);
    free(op->slot_part);
    free(op->slot_of);
    free(op->row_back);
    free(op->scale_back);
    free(op->move);
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

void hm_mixture_finish(struct hm_mixture_op *op, enum hm_mixture_state state, enum hm_status status)
{
    op->state = state;
    op->cb(op, status);
}

hm_ns hm_mixture_deadline(struct hm_mixture *mixture, hm_ns timeout, hm_ns deadline)
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
    op->deadline = hm_mixture_deadline(mixture, mixture->conf.forward_timeout, deadline);
    op->part_status = HM_OK;
    op->parts = op->parts_failed = 0;
    op->beam.directory = hm_dispatch_directory(mixture->conf.dispatch);
    op->beam.grid = &mixture->grid;
    op->beam.logits = logits;
    op->beam.row_count = rows;
    op->beam.k_best = mixture->conf.k_best;
    op->beam.spares = mixture->conf.spares;
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

/* Memory of the pass, with that for every spare that may be asked. */
static bool make_room(struct hm_mixture_op *op)
{
    const struct hm_beam_op *beam = &op->beam;
    uint32_t hidden = op->mixture->conf.hidden;
    size_t candidates = (size_t)op->row_count * (beam->k_best + beam->spares);
    size_t slots = 0, spares = 0, capacity = op->part_capacity;
    for (uint32_t row = 0; row < op->row_count; row++) {
        slots += hm_mixture_candidates(op, row);
        spares += beam->spare_count[row];
    }
    /* A part for each expert, and one for every row that looks for somebody at a moment of its own:
     * what is not used of so much is never touched. */
    size_t parts = beam->expert_count + spares;
    op->slots_max = (uint32_t)slots;
    op->part_max = parts < UINT16_MAX ? (unsigned)parts : UINT16_MAX; /* dispatch takes no more */
    if (!hm_grow(&op->part_expert, &capacity, parts, sizeof *op->part_expert)) return false;
    if (!hm_grow(&op->part, &op->part_capacity, parts, sizeof *op->part)) return false;
    capacity = op->expert_capacity;
    if (!hm_grow(&op->standing, &capacity, beam->expert_count, sizeof *op->standing)) return false;
    if (!hm_grow(&op->part_back, &op->expert_capacity, beam->expert_count, sizeof *op->part_back))
        return false;
    if (!hm_grow(&op->slot_of, &op->choice_capacity, candidates, sizeof *op->slot_of)) return false;
    capacity = op->slot_capacity;
    if (!hm_grow(&op->slot_row, &capacity, slots, sizeof *op->slot_row)) return false;
    capacity = op->slot_capacity;
    if (!hm_grow(&op->slot_part, &capacity, slots, sizeof *op->slot_part)) return false;
    if (!hm_grow(&op->weight, &op->slot_capacity, slots, sizeof *op->weight)) return false;
    if (!hm_grow(&op->move, &op->move_capacity, spares, sizeof *op->move)) return false;
    return hm_grow(&op->answer, &op->answer_capacity, slots * hidden, sizeof *op->answer);
}

/* Sorts those that are asked first by expert: slots, and one part an expert. */
static void make_slots(struct hm_mixture_op *op)
{
    const struct hm_beam_op *beam = &op->beam;
    uint32_t hidden = op->mixture->conf.hidden;
    hm_mixture_ask_first(op);
    /* Rows of each expert, then where its part is: in part_back, which is not needed before backward. */
    for (unsigned i = 0; i < beam->expert_count; i++) op->part_back[i].row_count = 0;
    for (uint32_t row = 0; row < op->row_count; row++)
        for (uint32_t k = 0; k < hm_mixture_candidates(op, row); k++)
            if (*hm_mixture_slot(op, row, k) != HM_NO_SLOT)
                op->part_back[hm_mixture_candidate(op, row, k)->expert].row_count++;
    op->part_count = op->slot_count = 0;
    for (unsigned i = 0; i < beam->expert_count; i++) {
        uint32_t rows = op->part_back[i].row_count;
        if (rows == 0) continue; /* is not asked now */
        op->part_back[i].row_count = op->part_count;
        op->part_expert[op->part_count] = i;
        op->part[op->part_count++] =
            (struct hm_dispatch_part){.uid = beam->expert[i].uid,
                                      .server = beam->expert[i].server,
                                      .row = op->slot_row + op->slot_count,
                                      .answer = op->answer + (size_t)op->slot_count * hidden};
        op->slot_count += rows;
    }
    for (uint32_t row = 0; row < op->row_count; row++) {
        for (uint32_t k = 0; k < hm_mixture_candidates(op, row); k++) {
            if (*hm_mixture_slot(op, row, k) == HM_NO_SLOT) continue;
            uint32_t number = op->part_back[hm_mixture_candidate(op, row, k)->expert].row_count;
            struct hm_dispatch_part *part = &op->part[number];
            uint32_t slot = (uint32_t)(part->row - op->slot_row) + part->row_count++;
            op->slot_row[slot] = row;
            op->slot_part[slot] = number;
            *hm_mixture_slot(op, row, k) = slot;
        }
    }
}

/* Softmax over a row's survivors of their summed logits. */
static void weigh_row(struct hm_mixture_op *op, uint32_t row)
{
    float largest = -INFINITY, sum = 0;
    uint32_t count = hm_mixture_candidates(op, row);
    for (uint32_t k = 0; k < count; k++)
        if (hm_mixture_answered(op, row, k) != HM_NO_SLOT)
            largest = fmaxf(largest, hm_mixture_candidate(op, row, k)->logit);
    for (uint32_t k = 0; k < count; k++) {
        uint32_t slot = hm_mixture_answered(op, row, k);
        if (slot == HM_NO_SLOT) continue;
        op->weight[slot] = expf(hm_mixture_candidate(op, row, k)->logit - largest);
        sum += op->weight[slot];
    }
    for (uint32_t k = 0; k < count; k++) {
        uint32_t slot = hm_mixture_answered(op, row, k);
        if (slot != HM_NO_SLOT) op->weight[slot] /= sum;
    }
}

static void average(struct hm_mixture_op *op)
{
    uint32_t hidden = op->mixture->conf.hidden;
    for (uint32_t row = 0; row < op->row_count; row++) {
        float *y = op->y + (size_t)row * hidden;
        weigh_row(op, row);
        memset(y, 0, hidden * sizeof *y);
        for (uint32_t k = 0, count = hm_mixture_candidates(op, row); k < count; k++) {
            uint32_t slot = hm_mixture_answered(op, row, k);
            if (slot == HM_NO_SLOT) continue;
            const float *from = op->answer + (size_t)slot * hidden;
            float weight = op->weight[slot];
            for (uint32_t i = 0; i < hidden; i++) y[i] += weight * from[i];
        }
    }
}

void hm_mixture_count_failures(struct hm_mixture_op *op, const struct hm_dispatch_part *part,
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
    hm_mixture_count_failures(op, op->part, op->part_count);
    if (status == HM_OK) average(op);
    hm_mixture_finish(op, status == HM_OK ? HM_MIXTURE_HOLDS : HM_MIXTURE_IDLE, status);
}

enum hm_status hm_mixture_call(struct hm_mixture_op *op, uint8_t pass,
                               struct hm_dispatch_part *part, unsigned part_count, uint32_t k_min,
                               hm_dispatch_cb cb)
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
        .more = pass == HM_PASS_FORWARD && conf->spares > 0 ? hm_mixture_more : NULL,
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
        hm_mixture_finish(op, HM_MIXTURE_IDLE, status);
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
    if (status == HM_OK && !make_room(op))
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for the answers of %u experts",
                         beam->expert_count);
    if (status == HM_OK) {
        make_slots(op);
        op->state = HM_MIXTURE_CALLING;
        status = hm_mixture_call(op, HM_PASS_FORWARD, op->part, op->part_count, conf->k_min,
                                 forward_ended);
    }
    if (status != HM_OK) hm_mixture_finish(op, HM_MIXTURE_IDLE, status);
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
