/* moe/dispatch_build.c - what a call sends: its header, the part table, the rows.
 *
 * Happy path:    each row is coded into the call's slab once, whatever number of parts uses it.  Many
 *                rows that are not coded and lie one behind the other are sent from where they lie:
 *                lent, until the operation ends.
 * Failure modes: no buffer now, or rows that the codec cannot say: nothing is sent. */
#include "moe/dispatch_internal.h"

#include <string.h>

/* Numbers the rows that the call's parts use, in the order of their first use (op->local, and back:
 * op->order); returns how many. */
static uint32_t number_rows(struct hm_server_call *call)
{
    struct hm_dispatch_op *op = call->op;
    uint32_t count = 0;
    memset(op->local, 0xff, op->row_count * sizeof *op->local);
    for (unsigned i = 0; i < call->part_count; i++) {
        const struct hm_dispatch_part *part = hm_server_call_part(call, i);
        for (uint32_t k = 0; k < part->row_count; k++) {
            if (op->local[part->row[k]] != UINT32_MAX) continue;
            op->order[count] = part->row[k];
            op->local[part->row[k]] = count++;
        }
    }
    return count;
}

static bool consecutive(const uint32_t *index, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        if (index[i] != index[i - 1] + 1) return false;
    }
    return true;
}

/* Fills the part table's description; `index` has room for the rows of all parts. */
static void describe_parts(struct hm_server_call *call, struct hm_call_part *parts, uint32_t *index)
{
    for (unsigned i = 0; i < call->part_count; i++) {
        const struct hm_dispatch_part *part = hm_server_call_part(call, i);
        for (uint32_t k = 0; k < part->row_count; k++) index[k] = call->op->local[part->row[k]];
        bool run = consecutive(index, part->row_count);
        parts[i] =
            (struct hm_call_part){.uid = part->uid,
                                  .row_count = part->row_count,
                                  .first = run ? index[0] : 0,
                                  .index = run ? NULL : index,
                                  .scale = call->op->pass == HM_PASS_BACKWARD ? part->scale : NULL};
        if (!run) index += part->row_count;
    }
}

/* The part table at the head of a slab of `slab_bytes`. */
static enum hm_status table_write(struct hm_server_call *call, const struct hm_call_part *parts,
                                  size_t table_bytes, size_t slab_bytes)
{
    enum hm_status status = hm_buf_pool_get(call->dispatch->buffers, slab_bytes, &call->slab);
    if (status != HM_OK) return status;
    struct hm_writer writer;
    hm_writer_init(&writer, call->slab->base, table_bytes);
    hm_call_table_encode(parts, call->part_count, &writer);
    HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == table_bytes);
    return HM_OK;
}

static enum hm_status rows_write(struct hm_server_call *call, uint32_t row_count,
                                 size_t table_bytes, size_t rows_bytes)
{
    const struct hm_dispatch_op *op = call->op;
    uint8_t *rows = (uint8_t *)call->slab->base + table_bytes;
    enum hm_status status =
        hm_codec_encode(call->codec, op->x, op->columns, op->order, row_count, rows);
    if (status == HM_OK && op->pass == HM_PASS_BACKWARD)
        status = hm_codec_encode(call->codec, op->dy, op->columns, op->order, row_count,
                                 rows + rows_bytes);
    return status;
}

static bool may_lend(const struct hm_server_call *call, uint32_t row_count, uint64_t rows_bytes)
{
    return call->codec->id == HM_CODEC_NONE && rows_bytes >= HM_DISPATCH_LEND_BYTES_MIN &&
           consecutive(call->op->order, row_count) && hm_rpc_sends_lent(call->dispatch->rpc);
}

static enum hm_status rows_lend(struct hm_server_call *call, size_t rows_bytes)
{
    const struct hm_dispatch_op *op = call->op;
    struct hm_buf_pool *buffers = call->dispatch->buffers;
    size_t first = (size_t)op->order[0] * op->columns;
    enum hm_status status =
        hm_buf_lend(buffers, (float *)op->x + first, rows_bytes, &call->lent[0]);
    if (status == HM_OK && op->pass == HM_PASS_BACKWARD)
        status = hm_buf_lend(buffers, (float *)op->dy + first, rows_bytes, &call->lent[1]);
    return status;
}

enum hm_status hm_server_call_build(struct hm_server_call *call,
                                    uint8_t header[HM_DISPATCH_HEADER_BYTES], size_t *header_bytes)
{
    struct hm_dispatch *dispatch = call->dispatch;
    struct hm_dispatch_op *op = call->op;
    bool backward = op->pass == HM_PASS_BACKWARD;
    if (op->codec) /* without a directory the caller knows what servers take */
        call->codec = dispatch->directory
                          ? hm_directory_codec(dispatch->directory, &call->server, op->codec)
                          : op->codec;
    struct hm_call_part parts[HM_CALL_PARTS_MAX];
    struct hm_buf *index;
    size_t indices = 0;
    for (unsigned i = 0; i < call->part_count; i++)
        indices += hm_server_call_part(call, i)->row_count;
    enum hm_status status = hm_buf_pool_get(dispatch->buffers, indices * sizeof(uint32_t), &index);
    if (status != HM_OK) return status;
    uint32_t row_count = number_rows(call);
    describe_parts(call, parts, index->base);

    struct hm_call_head head = {
        .pass = op->pass,
        .codec = call->codec->id,
        .priority = dispatch->priority,
        .schema = op->schema,
        .row_count = row_count,
        .part_count = (uint16_t)call->part_count,
        .incarnation = dispatch->incarnation,
        .sequence = backward ? op->sequence : ++dispatch->forward_sequence,
        .flags = call->timed ? HM_CALL_TIMED : 0,
    };
    size_t table_bytes = hm_call_table_bytes(parts, call->part_count);
    uint64_t rows_bytes, payload_bytes;
    head.table_bytes = table_bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)table_bytes;
    status = hm_call_rows_bytes(&op->schema, call->codec->id, row_count, &rows_bytes);
    if (status == HM_OK) status = hm_call_payload_bytes(&head, &payload_bytes);
    if (status == HM_OK && may_lend(call, row_count, rows_bytes)) {
        status = table_write(call, parts, table_bytes, table_bytes);
        if (status == HM_OK) status = rows_lend(call, (size_t)rows_bytes);
    } else if (status == HM_OK) {
        status = table_write(call, parts, table_bytes, (size_t)payload_bytes);
        if (status == HM_OK) status = rows_write(call, row_count, table_bytes, (size_t)rows_bytes);
    }
    hm_buf_put(index);
    if (status != HM_OK) return status;

    struct hm_writer writer;
    hm_writer_init(&writer, header, HM_DISPATCH_HEADER_BYTES);
    hm_call_head_encode(&head, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    *header_bytes = hm_writer_count(&writer);
    atomic_fetch_add_explicit(&dispatch->rows, row_count, memory_order_relaxed);
    if (call->codec->id != HM_CODEC_NONE)
        atomic_fetch_add_explicit(&dispatch->calls_coded, 1, memory_order_relaxed);
    return HM_OK;
}
