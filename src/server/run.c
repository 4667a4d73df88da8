/* server/run.c - what a batch is: gather its pieces' rows, compute, hand back.  Lane thread, or the
 * loop's for a brief one.
 *
 * One pass takes each row from the slab that it arrived in to its place in the batch: picked by the
 * part's list, decoded, scaled and looked at.  Rows that are not finite are a stranger's fault, so
 * they are left out (as zeros, whose gradient is zero) and that part alone is refused; the others in
 * the batch, and the expert, never see them.  A batch of nothing else steps nothing.  Rows that are
 * finite but overflow inside the expert fail the batch; its pieces are then run one by one, so that
 * again only theirs fails.
 *
 * What comes out is written where the replies are sent from.  If some part wants its rows coded, it
 * is written aside, and one pass codes it from there.  Rows of an expert that gives back its input
 * are gathered where its output goes, or, where they already lie together, only looked at: they are
 * sent from where they arrived. */
#include "server/internal.h"

static const char *rows_of(const struct hm_served_part *part, const void *rows, uint32_t first,
                           uint32_t columns)
{
    return (const char *)rows +
           (size_t)(part->view.first + first) * hm_codec_row_bytes(hm_served_codec(part), columns);
}

/* Rows [first, first + count) of a part, from its call's rows to `into`. */
static enum hm_status gather(struct hm_exec *exec, const struct hm_served_part *part,
                             const void *rows, const float *scale, uint32_t first, uint32_t count,
                             uint32_t columns, float *into, bool *finite)
{
    const struct hm_call_part *view = &part->view;
    const struct hm_codec *codec = hm_served_codec(part);
    struct hm_tensor to = hm_matrix_f32(into, count, columns);
    const char *from = view->index ? rows : rows_of(part, rows, first, columns);
    return exec->device->ops->decode(exec->stream, codec, from,
                                     view->index ? view->index + first : NULL,
                                     scale ? scale + first : NULL, &to, finite);
}

/* Rows of x, and of dy scaled, likewise. */
static enum hm_status gather_both(struct hm_exec *exec, const struct hm_served_part *part,
                                  uint32_t first, uint32_t count, uint32_t columns, float *x,
                                  float *dy, bool *finite)
{
    bool dy_finite = true;
    enum hm_status status = gather(exec, part, part->x, NULL, first, count, columns, x, finite);
    if (!status && dy)
        status =
            gather(exec, part, part->dy, part->view.scale, first, count, columns, dy, &dy_finite);
    *finite = *finite && dy_finite;
    return status;
}

/* A part that is split over batches must not step its first rows and then turn out not to be finite
 * in its last: with its first piece the rows behind it are looked at as well, one by one through
 * `row` (two rows of room). */
static enum hm_status rest_finite(struct hm_exec *exec, const struct hm_served_part *part,
                                  const struct hm_piece *piece, uint32_t columns, float *row,
                                  bool *finite)
{
    enum hm_status status = HM_OK;
    if (piece->task_first > 0) return HM_OK;
    for (uint32_t i = piece->count; i < part->view.row_count && *finite && !status; i++)
        status =
            gather_both(exec, part, i, 1, columns, row, part->dy ? row + columns : NULL, finite);
    return status;
}

/* Whether the piece is a whole part whose rows lie together. */
static bool lies_together(const struct hm_piece *piece)
{
    const struct hm_served_part *part = piece->task->arg;
    return !part->view.index && piece->count == part->view.row_count;
}

/* Fills x (and the lane's dy) with the batch's rows; *good counts the pieces that take part.  `echo`:
 * of an expert that gives back x as it is, so what lies together may stay where it is. */
static enum hm_status gather_batch(const struct hm_served_pass *pass, const struct hm_batch *batch,
                                   uint32_t columns, float *batch_x, bool echo, unsigned *good)
{
    struct hm_served_lane *lane = pass->hosted->lane;
    *good = 0;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct hm_served_part *part = piece->task->arg;
        size_t offset = (size_t)piece->batch_first * columns;
        size_t elements = (size_t)piece->count * columns;
        float *x = batch_x + offset;
        float *dy = pass->pass == HM_PASS_BACKWARD ? (float *)lane->dy.base + offset : NULL;
        bool finite = false;
        enum hm_status status = HM_OK;
        part->echoed = echo && lies_together(piece);
        if (part->echoed)
            finite = hm_f32_all_finite(rows_of(part, part->x, 0, columns), elements);
        else
            status = gather_both(&lane->exec, part, piece->task_first, piece->count, columns, x, dy,
                                 &finite);
        if (!status && finite)
            status = rest_finite(&lane->exec, part, piece, columns, lane->out.base, &finite);
        if (status) return status;
        if (!part->failed && !finite) part->failed = HM_ERR_NUMERIC;
        if (!part->failed) {
            ++*good;
            continue;
        }
        for (size_t j = 0; j < elements; j++) x[j] = 0;
        for (size_t j = 0; dy && j < elements; j++) dy[j] = 0;
    }
    return HM_OK;
}

/* Rows [first, first + count) of the gathered batch, into these of y. */
static enum hm_status compute(const struct hm_served_pass *pass, float *batch_x, float *y,
                              uint32_t first, uint32_t count)
{
    struct hm_expert *expert = pass->hosted->expert;
    struct hm_served_lane *lane = pass->hosted->lane;
    struct hm_exec *exec = &lane->exec;
    uint32_t columns = hm_expert_plan(expert)->input.row[0].dim[0];
    size_t offset = (size_t)first * columns;
    struct hm_tensor x = hm_matrix_f32(batch_x + offset, count, columns);
    struct hm_tensor dy = hm_matrix_f32((float *)lane->dy.base + offset, count, columns);
    struct hm_tensor out = hm_matrix_f32(y + offset, count, columns);
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
static enum hm_status compute_each(const struct hm_served_pass *pass, const struct hm_batch *batch,
                                   float *batch_x, float *y)
{
    enum hm_status first = HM_OK;
    unsigned good = 0;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct hm_served_part *part = piece->task->arg;
        if (part->failed) continue;
        part->failed = compute(pass, batch_x, y, piece->batch_first, piece->count);
        note(pass, piece, part->failed);
        if (!part->failed) good++;
        if (part->failed && !first) first = part->failed;
    }
    return good > 0 ? HM_OK : first;
}

/* Whether every part wants its rows as they are. */
static bool all_plain(const struct hm_batch *batch)
{
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_served_part *part = batch->piece[i].task->arg;
        if (hm_served_codec(part)->id != HM_CODEC_NONE) return false;
    }
    return true;
}

/* Each piece's rows of y, in its codec, to where they are sent from.  Rows that the codec cannot say
 * fail their part. */
static enum hm_status encode_batch(const struct hm_served_pass *pass, const struct hm_batch *batch,
                                   const float *y, uint32_t columns)
{
    struct hm_exec *exec = &pass->hosted->lane->exec;
    for (unsigned i = 0; i < batch->piece_count; i++) {
        const struct hm_piece *piece = &batch->piece[i];
        struct hm_served_part *part = piece->task->arg;
        size_t offset = (size_t)piece->batch_first * columns;
        struct hm_tensor from = hm_matrix_f32((float *)y + offset, piece->count, columns);
        bool finite = false;
        if (part->failed) continue;
        enum hm_status status =
            exec->device->ops->encode(exec->stream, hm_served_codec(part), &from,
                                      (float *)batch->out->base + offset, &finite);
        if (status) return status;
        if (!finite) part->failed = HM_ERR_EXPERT_NUMERIC;
    }
    return HM_OK;
}

enum hm_status hm_expert_server_run_batch(void *arg, struct hm_batch *batch)
{
    struct hm_served_pass *pass = arg;
    const struct hm_plan *plan = hm_expert_plan(pass->hosted->expert);
    struct hm_served_lane *lane = pass->hosted->lane;
    uint32_t columns = plan->input.row[0].dim[0];
    bool plain = all_plain(batch);
    bool in_place = plan->identity && pass->pass == HM_PASS_FORWARD;
    float *y = plain ? batch->out->base : in_place ? lane->x.base : lane->out.base;
    float *x = in_place ? y : lane->x.base;
    unsigned good = 0;

    enum hm_status status = gather_batch(pass, batch, columns, x, in_place && plain, &good);
    if (!status && good == 0) status = HM_ERR_NUMERIC;
    if (!status) status = compute(pass, x, y, 0, batch->row_count);
    if (status == HM_ERR_EXPERT_NUMERIC && good > 1) {
        status = compute_each(pass, batch, x, y);
    } else {
        for (unsigned i = 0; i < batch->piece_count; i++) note(pass, &batch->piece[i], status);
    }
    if (!status && !plain) status = encode_batch(pass, batch, y, columns);
    return status;
}

bool hm_expert_server_may_be_brief(void *arg, uint32_t row_count)
{
    const struct hm_served_pass *pass = arg;
    return hm_expert_is_alone(pass->hosted->expert, row_count);
}
