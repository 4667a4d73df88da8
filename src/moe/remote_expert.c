/* moe/remote_expert.c - one expert by name.
 *
 *   find:               children of its prefix ──► its server's addresses ──► info ──► cb
 *   forward, backward:  children of its prefix ──► dispatch, one part with all rows ──► cb
 *
 * Forwards of few rows that begin in one turn share all of it (shared_call.c).
 *
 * Happy path:    the directory answers from its cache, so a pass costs one turn and one call.
 * Failure modes: nobody serves it: HM_ERR_NOT_FOUND.  A failed call teaches the directory as
 *                dispatch does, so the next operation finds another server or says that there is
 *                none.
 * Invariants:    an output of less than 64 KiB is written on success only: coded answers lie in a
 *                pooled buffer until then, plain ones are looked at before they are written. */
#include "moe/remote_expert.h"

#include "base/assert.h"
#include "moe/shape.h"
#include "moe/shared_call.h"

#include <inttypes.h>
#include <string.h>

enum what { FIND, FORWARD, BACKWARD };

void hm_moe_expert_end(struct hm_moe_expert_op *op, enum hm_status status)
{
    if (op->peer) hm_peer_put(op->peer);
    op->peer = NULL;
    hm_buf_put(op->rows);
    op->rows = NULL;
    op->cb(op, status);
}

/* ---- forward and backward -------------------------------------------------------------------- */

static void pass_ended(struct hm_dispatch_op *pass, enum hm_status status)
{
    struct hm_moe_expert_op *op = pass->arg;
    op->step = op->part.step;
    if (status == HM_OK && op->part.answer != hm_f32(op->out))
        memcpy(op->out->data.base, op->part.answer,
               (size_t)pass->row_count * pass->columns * sizeof(float));
    hm_moe_expert_end(op, status);
}

static enum hm_status call_expert(struct hm_moe_expert_op *op)
{
    uint32_t columns = 0, rows;
    enum hm_status status = hm_shape_rows("the expert's input", op->x, &columns, &rows);
    if (status != HM_OK) return status;
    size_t index_bytes = ((size_t)rows * sizeof(uint32_t) + 63) / 64 * 64;
    size_t answer_bytes = (size_t)rows * columns * sizeof(float);
    bool aside =
        op->codec && op->codec->id != HM_CODEC_NONE && answer_bytes < HM_DISPATCH_LEND_BYTES_MIN;
    status = hm_buf_pool_get(hm_rpc_buffers(hm_dispatch_rpc(op->dispatch)),
                             index_bytes + (aside ? answer_bytes : 0), &op->rows);
    if (status != HM_OK)
        return hm_fail(status, "no buffer for %" PRIu32 " rows of an expert now", rows);
    uint32_t *row = op->rows->base;
    for (uint32_t i = 0; i < rows; i++) row[i] = i;
    op->part = (struct hm_dispatch_part){
        .uid = op->uid,
        .server = op->server,
        .row = row,
        .row_count = rows,
        .answer = aside ? (float *)(void *)((char *)op->rows->base + index_bytes) : hm_f32(op->out),
    };
    op->pass = (struct hm_dispatch_op){
        .pass = op->what == FORWARD ? HM_PASS_FORWARD : HM_PASS_BACKWARD,
        .codec = op->codec,
        .schema = hm_schema_f32(columns),
        .x = hm_f32(op->x),
        .dy = op->dy ? hm_f32(op->dy) : NULL,
        .row_count = rows,
        .part = &op->part,
        .part_count = 1,
        .k_min = 1,
        .deadline = op->deadline,
        .asked = op->asked,
        .refusals_final = op->refusals_final,
        .timeout_after_k_min = HM_NS_NEVER,
        .cb = pass_ended,
        .arg = op,
    };
    return hm_dispatch_start(op->dispatch, &op->pass);
}

void hm_moe_expert_alone(struct hm_moe_expert_op *op)
{
    enum hm_status status = call_expert(op);
    if (status != HM_OK) hm_moe_expert_end(op, status);
}

/* ---- info ------------------------------------------------------------------------------------ */

static void info_reply(struct hm_call *call, enum hm_status status, const void *header,
                       size_t header_bytes, struct hm_inbound *in)
{
    struct hm_moe_expert_op *op = call->arg;
    hm_inbound_drop(in);
    op->answered =
        status == HM_OK ? hm_expert_info_decode(header, header_bytes, &op->info) : status;
}

static void info_ended(struct hm_call *call, enum hm_status status)
{
    struct hm_moe_expert_op *op = call->arg;
    struct hm_directory *directory = hm_dispatch_directory(op->dispatch);
    if (op->answered != HM_INPROGRESS) status = op->answered;
    if (status == HM_OK && op->answered == HM_INPROGRESS)
        status = HM_ERR_PEER_PROTOCOL; /* an end without an answer */
    if (hm_status_scope(status) == HM_SCOPE_PEER) hm_directory_suspect(directory, &op->server, 0);
    if (status == HM_ERR_EXPERT_GONE) hm_directory_suspect_expert(directory, &op->server, &op->uid);
    if (status != HM_OK) {
        char server[HM_NODE_ID_TEXT_BYTES];
        (void)hm_fail(status, "server %.8s did not describe expert %s: %s",
                      hm_node_id_text(&op->server, server), op->uid.text, hm_status_text(status));
    }
    hm_moe_expert_end(op, status);
}

static void addresses(void *arg, enum hm_status status, const struct hm_server_info *info,
                      unsigned count)
{
    struct hm_moe_expert_op *op = arg;
    struct hm_writer writer;
    if (status == HM_OK) {
        HM_ASSERT(count == 1);
        status = hm_peer_get(hm_dispatch_rpc(op->dispatch), &op->server, &info[0].addrs, &op->peer);
        if (status != HM_OK) {
            op->peer = NULL;
            (void)hm_fail(
                status,
                "expert %s cannot be called from its own node, or too many peers are in use",
                op->uid.text);
        }
    }
    if (status == HM_OK) {
        hm_writer_init(&writer, op->header, sizeof op->header);
        hm_expert_query_encode(&op->uid, &writer);
        op->answered = HM_INPROGRESS;
        op->call = (struct hm_call){.method = HM_METHOD_EXPERT_INFO,
                                    .deadline = op->deadline,
                                    .header = op->header,
                                    .header_bytes = hm_writer_count(&writer),
                                    .reply = info_reply,
                                    .end = info_ended,
                                    .arg = op};
        status = hm_rpc_call(op->peer, &op->call);
        if (status == HM_OK || status == HM_INPROGRESS) return;
        (void)hm_fail(status, "the server of expert %s cannot be called now: %s", op->uid.text,
                      hm_status_text(status));
    }
    hm_moe_expert_end(op, status);
}

/* ---- who serves it --------------------------------------------------------------------------- */

/* The first of those that serve it who is not likely to refuse; if all are, the first. */
static unsigned best_of(const struct hm_moe_expert_op *op, const struct hm_provider *provider)
{
    hm_ns left = hm_deadline_left(hm_dispatch_loop(op->dispatch), op->deadline);
    uint8_t pass = op->what == BACKWARD ? HM_PASS_BACKWARD : HM_PASS_FORWARD;
    for (unsigned i = 0; i < provider->server_count && provider->server_count > 1; i++)
        if (!hm_dispatch_refusal_likely(op->dispatch, &provider->server[i], &op->uid, pass, left))
            return i;
    return 0;
}

static void found(void *arg, enum hm_status status, const struct hm_children *children,
                  unsigned prefix_count)
{
    struct hm_moe_expert_op *op = arg;
    const struct hm_provider *provider = NULL;
    hm_shared_call_close(op);
    if (status == HM_OK) {
        HM_ASSERT(prefix_count == 1);
        for (unsigned i = 0; i < children->count; i++) {
            if (children->provider[i].coordinate == op->uid.coordinate[op->uid.dim_count - 1])
                provider = &children->provider[i];
        }
        if (!provider)
            status =
                hm_fail(HM_ERR_NOT_FOUND,
                        "no live server hosts expert %s; start one (hivemind serve --experts %s)",
                        op->uid.text, op->uid.text);
    }
    if (status == HM_OK) op->server = provider->server[best_of(op, provider)];
    if (status == HM_OK && op->next) {
        hm_shared_call_start(hm_dispatch_shared(op->dispatch), op);
        return;
    }
    if (status == HM_OK)
        status = op->what == FIND
                     ? hm_directory_servers(hm_dispatch_directory(op->dispatch), &op->server, 1,
                                            op->deadline, addresses, op)
                     : call_expert(op);
    if (status != HM_OK) hm_shared_call_end(op, status);
}

static enum hm_status start(struct hm_dispatch *dispatch, struct hm_moe_expert_op *op,
                            const struct hm_uid *uid, enum what what, hm_ns deadline,
                            hm_moe_expert_cb cb)
{
    HM_ASSERT(deadline != HM_NS_NEVER && hm_dispatch_directory(dispatch));
    op->dispatch = dispatch;
    op->uid = *uid;
    op->what = (uint8_t)what;
    op->deadline = deadline;
    op->cb = cb;
    op->peer = NULL;
    op->rows = NULL;
    op->next = NULL;
    op->last = op;
    hm_list_init(&op->open);
    struct hm_shared_calls *shared = hm_dispatch_shared(dispatch);
    if (what == FORWARD && hm_shared_call_join(shared, op)) return HM_OK;
    hm_uid_prefix(uid, uid->dim_count - 1u, op->prefix);
    const char *prefix = op->prefix;
    enum hm_status status =
        hm_directory_children(hm_dispatch_directory(dispatch), &prefix, 1, deadline, found, op);
    if (status == HM_OK && what == FORWARD) hm_shared_call_open(shared, op);
    return status;
}

enum hm_status hm_moe_expert_find(struct hm_dispatch *dispatch, struct hm_moe_expert_op *op,
                                  const struct hm_uid *uid, hm_ns deadline, hm_moe_expert_cb cb)
{
    return start(dispatch, op, uid, FIND, deadline, cb);
}

enum hm_status hm_moe_expert_forward(struct hm_dispatch *dispatch, struct hm_moe_expert_op *op,
                                     const struct hm_uid *uid, const struct hm_tensor *x,
                                     struct hm_tensor *y, hm_ns deadline, hm_moe_expert_cb cb)
{
    uint32_t columns = 0, rows;
    enum hm_status status = hm_shape_rows("the expert's input", x, &columns, &rows);
    if (status == HM_OK) status = hm_shape_same("the expert's output", y, "its input", x);
    if (status == HM_OK) status = hm_shape_rows("the expert's output", y, &columns, &rows);
    if (status != HM_OK) return status;
    op->x = x;
    op->dy = NULL;
    op->out = y;
    op->row_count = rows;
    op->columns = columns;
    return start(dispatch, op, uid, FORWARD, deadline, cb);
}

enum hm_status hm_moe_expert_backward(struct hm_dispatch *dispatch, struct hm_moe_expert_op *op,
                                      const struct hm_uid *uid, const struct hm_tensor *x,
                                      const struct hm_tensor *dy, struct hm_tensor *dx,
                                      hm_ns deadline, hm_moe_expert_cb cb)
{
    uint32_t columns = 0, rows;
    enum hm_status status = hm_shape_rows("the expert's input", x, &columns, &rows);
    if (status == HM_OK) status = hm_shape_same("the output gradient", dy, "the expert's input", x);
    if (status == HM_OK) status = hm_shape_rows("the output gradient", dy, &columns, &rows);
    if (status == HM_OK) status = hm_shape_same("the input gradient", dx, "the expert's input", x);
    if (status == HM_OK) status = hm_shape_rows("the input gradient", dx, &columns, &rows);
    if (status != HM_OK) return status;
    op->x = x;
    op->dy = dy;
    op->out = dx;
    return start(dispatch, op, uid, BACKWARD, deadline, cb);
}
