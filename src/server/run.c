/* server/run.c - what a batch is: gather its pieces' rows, compute, hand back.  Lane thread.
 *
 * Each piece's rows are checked as they are gathered: rows that are not finite are a stranger's
 * fault, so they are left out (as zeros, whose gradient is zero) and that part alone is refused;
 * the others in the batch, and the expert, never see them.  A batch of nothing else steps nothing.
 * Rows that are finite but overflow inside the expert fail the batch; its pieces are then run one
 * by one, so that again only theirs fails. */
#include "server/internal.h"

#include <math.h>

/* Sum of x - x: 0 for finite values, NaN otherwise; it vectorises where isfinite would not. */
static bool all_finite(const float *x, size_t count)
{
    float lane[16] = {0};
    size_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (size_t j = 0; j < 16; j++) lane[j] += x[i + j] - x[i + j];
    float sum = 0;
    for (size_t j = 0; j < 16; j++) sum += lane[j];
    for (; i < count; i++) sum += x[i] - x[i];
    return sum == 0.0f;
}

/* Rows [first, first + count) of a part, from its call's rows to `into`. */
static enum hm_status gather(struct hm_exec *exec, const struct hm_served_part *part,
                             const float *rows, const float *scale, uint32_t first, uint32_t count,
                             uint32_t columns, float *into)
{
    const struct hm_call_part *view = &part->view;
    struct hm_tensor to = hm_matrix_f32(into, count, columns);
    struct hm_tensor from = hm_matrix_f32((float *)rows, part->call->head.row_count, columns);
    if (!view->index) /* contiguous: the rows themselves */
        from =
            hm_matrix_f32((float *)rows + (size_t)(view->first + first) * columns, count, columns);
    return exec->device->ops->gather(exec->stream, &from, view->index ? view->index + first : NULL,
                                     scale ? scale + first : NULL, &to);
}

/* A part that is split over batches must not step its first rows and then turn out not to be finite
 * in its last: with its first piece the rows behind it are looked at as well, where they lie. */
static bool rest_finite(const struct hm_served_part *part, const struct hm_piece *piece,
                        uint32_t columns)
{
    const struct hm_call_part *view = &part->view;
    if (piece->task_first > 0) return true;
    for (uint32_t i = piece->count; i < view->row_count; i++) {
        size_t at = (size_t)(view->index ? view->index[i] : view->first + i) * columns;
        if (!all_finite(part->x + at, columns)) return false;
        if (part->dy && !all_finite(part->dy + at, columns)) return false;
        if (part->dy && view->scale && !all_finite(view->scale + i, 1)) return false;
    }
    return true;
}

/* Fills x (and dy) with the batch's rows; *good counts the pieces that take part. */
static enum hm_status gather_batch(struct hm_exec *exec, const struct hm_batch *batch,
                                   uint32_t columns, float *x, float *dy, unsigned *good)
{
    *good = 0;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct hm_served_part *part = piece->task->arg;
        size_t offset = (size_t)piece->batch_first * columns;
        size_t elements = (size_t)piece->count * columns;
        enum hm_status status =
            gather(exec, part, part->x, NULL, piece->task_first, piece->count, columns, x + offset);
        if (!status && dy)
            status = gather(exec, part, part->dy, part->view.scale, piece->task_first, piece->count,
                            columns, dy + offset);
        if (status) return status;
        if (!part->failed &&
            !(all_finite(x + offset, elements) && (!dy || all_finite(dy + offset, elements)) &&
              rest_finite(part, piece, columns)))
            part->failed = HM_ERR_NUMERIC;
        if (!part->failed) {
            ++*good;
            continue;
        }
        for (size_t j = 0; j < elements; j++) x[offset + j] = 0;
        for (size_t j = 0; dy && j < elements; j++) dy[offset + j] = 0;
    }
    return HM_OK;
}

/* Rows [first, first + count) of the gathered batch. */
static enum hm_status compute(const struct hm_served_pass *pass, const struct hm_batch *batch,
                              uint32_t first, uint32_t count)
{
    struct hm_expert *expert = pass->hosted->expert;
    struct hm_served_lane *lane = pass->hosted->lane;
    struct hm_exec *exec = &lane->exec;
    uint32_t columns = hm_expert_plan(expert)->input.row[0].dim[0];
    size_t offset = (size_t)first * columns;
    struct hm_tensor x = hm_matrix_f32((float *)lane->x.base + offset, count, columns);
    struct hm_tensor dy = hm_matrix_f32((float *)lane->dy.base + offset, count, columns);
    struct hm_tensor out = hm_matrix_f32((float *)batch->out->base + offset, count, columns);
    enum hm_status status = pass->pass == HM_PASS_BACKWARD
                                ? hm_expert_backward(expert, exec, &x, &dy, &out)
                                : hm_expert_forward(expert, exec, &x, &out);
    return status ? status : exec->device->ops->sync(exec->stream);
}

static void note(const struct hm_served_pass *pass, const struct hm_piece *piece,
                 enum hm_status status)
{
    struct hm_served_part *part = piece->task->arg;
    part->step = hm_expert_step(pass->hosted->expert);
    if (pass->pass == HM_PASS_BACKWARD && !status && !part->failed) part->stepped = true;
}

/* Somebody's values overflowed inside the expert, and nothing was stepped: each piece again by
 * itself, so that it fails alone. */
static enum hm_status compute_each(const struct hm_served_pass *pass, const struct hm_batch *batch)
{
    enum hm_status first = HM_OK;
    unsigned good = 0;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct hm_served_part *part = piece->task->arg;
        if (part->failed) continue;
        part->failed = compute(pass, batch, piece->batch_first, piece->count);
        note(pass, piece, part->failed);
        if (!part->failed) good++;
        if (part->failed && !first) first = part->failed;
    }
    return good > 0 ? HM_OK : first;
}

enum hm_status hm_expert_server_run_batch(void *arg, struct hm_batch *batch)
{
    struct hm_served_pass *pass = arg;
    struct hm_served_lane *lane = pass->hosted->lane;
    bool backward = pass->pass == HM_PASS_BACKWARD;
    uint32_t columns = hm_expert_plan(pass->hosted->expert)->input.row[0].dim[0];
    unsigned good = 0;

    enum hm_status status = gather_batch(&lane->exec, batch, columns, lane->x.base,
                                         backward ? lane->dy.base : NULL, &good);
    if (!status && good == 0) status = HM_ERR_NUMERIC;
    if (!status) status = compute(pass, batch, 0, batch->row_count);
    if (status == HM_ERR_EXPERT_NUMERIC && good > 1) return compute_each(pass, batch);
    for (unsigned i = 0; i < batch->piece_count; i++) note(pass, &batch->piece[i], status);
    return status;
}
