/* moe/dispatch_call.c - one call to one server: rows into a slab, answers out of pulled buffers.
 *
 *   get ──► send ──► reply, reply, … ──► end ──► idle again (once no pull is left)
 *                        └─ the operation may leave at any time: cancelled, later replies dropped
 *
 * Happy path:    each row is coded into the slab once, whatever number of parts uses it; each reply
 *                decides one part, decoded from where it arrived into the caller's answer.
 * Failure modes: a reply that does not fit what was asked breaks the protocol: its part fails, the
 *                server is suspected. A failing reply without a header, and end() with an error,
 *                fail every part that is still open.
 * Invariants:    the wire refers to the slab only, never to the caller's memory; answers are
 *                written while the operation lives, and only there. */
#include "moe/dispatch_internal.h"

#include <stdlib.h>
#include <string.h>

static void reply(struct hm_call *rpc_call, enum hm_status status, const void *header,
                  size_t header_bytes, struct hm_inbound *in);
static void end(struct hm_call *rpc_call, enum hm_status status);

struct hm_server_call *hm_server_call_get(struct hm_dispatch_op *op,
                                          const struct hm_node_id *server)
{
    struct hm_dispatch *dispatch = op->dispatch;
    struct hm_link *link = hm_list_pop(&dispatch->idle);
    struct hm_server_call *call = link ? HM_CONTAINER_OF(link, struct hm_server_call, link) : NULL;
    if (!call) {
        if (dispatch->call_count == dispatch->calls_max) return NULL;
        call = calloc(1, sizeof *call);
        if (!call) return NULL;
        dispatch->call_count++;
        hm_list_init(&call->link);
    }
    dispatch->calls_used++;
    call->dispatch = dispatch;
    call->op = op;
    call->server = *server;
    call->peer = NULL;
    call->slab = NULL;
    call->codec = hm_codec_find(HM_CODEC_NONE);
    call->tried = call->latecomer = call->on_wire = call->suspected = false;
    call->timed = false;
    call->part_count = call->pulls = 0;
    memset(call->taken, 0, sizeof call->taken);
    hm_list_push(&op->calls, &call->link);
    return call;
}

static void give_back(struct hm_server_call *call)
{
    HM_ASSERT(!call->on_wire && call->pulls == 0);
    if (call->peer) hm_peer_put(call->peer);
    hm_buf_put(call->slab);
    call->peer = NULL;
    call->slab = NULL;
    hm_list_remove(&call->link);
    hm_list_push(&call->dispatch->idle, &call->link);
    call->dispatch->calls_used--;
    hm_dispatch_call_free(call->dispatch);
}

static void give_back_if_over(struct hm_server_call *call)
{
    if (!call->on_wire && call->pulls == 0) give_back(call);
}

static struct hm_dispatch_part *part_of(struct hm_server_call *call, unsigned number)
{
    return &call->op->part[call->part[number]];
}

/* A failure that says something about the server or its expert is told to the directory at once. */
static void teach(struct hm_server_call *call, const struct hm_dispatch_part *part,
                  enum hm_status status)
{
    struct hm_directory *directory = call->dispatch->directory;
    if (!directory) return;
    if (status == HM_ERR_UNSUPPORTED && call->codec->id != HM_CODEC_NONE)
        hm_directory_refused_codec(directory, &call->server);
    if (hm_status_scope(status) == HM_SCOPE_PEER || status == HM_ERR_DRAINING) {
        call->suspected = true;
        hm_directory_suspect(directory, &call->server, 0);
    } else if (status == HM_ERR_EXPERT_GONE && part) {
        hm_directory_suspect_expert(directory, &call->server, &part->uid);
    }
}

static void decide(struct hm_server_call *call, unsigned number, enum hm_status status)
{
    if (!call->op) return;
    struct hm_dispatch_part *part = part_of(call, number);
    if (part->status != HM_INPROGRESS) return;
    if (status != HM_OK) teach(call, part, status);
    hm_dispatch_decide(call->op, part, status);
}

/* Every part whose reply has not come. */
static void decide_open(struct hm_server_call *call, enum hm_status status)
{
    for (unsigned i = 0; i < call->part_count && call->op; i++) {
        if (!call->taken[i]) decide(call, i, status);
        call->taken[i] = true;
    }
}

/* ---- where the time goes ---------------------------------------------------------------------- */

/* Whether this call asks for it. */
static bool is_timed(const struct hm_server_call *call)
{
    struct hm_dispatch *dispatch = call->dispatch;
    return dispatch->timed_every > 0 && dispatch->timed_turn++ % dispatch->timed_every == 0 &&
           hm_peer_wire_minor(call->peer) >= HM_CALL_FLAGS_MINOR;
}

/* An answer is here, whole.  What the server says is clamped: it is its own word. */
static void count_times(struct hm_server_call *call, const struct hm_server_times *times)
{
    struct hm_dispatch *dispatch = call->dispatch;
    hm_ns whole = hm_loop_clock(dispatch->loop) - call->sent, wire = whole;
    for (unsigned i = 0; i < HM_SERVER_STAGES; i++) {
        hm_ns stage = times->stage[i] < wire ? times->stage[i] : wire;
        hm_histogram_add(&dispatch->stages.ns[i], stage);
        wire -= stage;
    }
    hm_histogram_add(&dispatch->stages.ns[HM_STAGE_WIRE], wire);
    hm_histogram_add(&dispatch->stages.ns[HM_STAGE_QUEUE],
                     call->sent > call->op->began ? call->sent - call->op->began : 0);
}

/* ---- sending --------------------------------------------------------------------------------- */

/* Numbers the rows that the call's parts use, in the order of their first use (op->local, and back:
 * op->order); returns how many. */
static uint32_t number_rows(struct hm_server_call *call)
{
    struct hm_dispatch_op *op = call->op;
    uint32_t count = 0;
    memset(op->local, 0xff, op->row_count * sizeof *op->local);
    for (unsigned i = 0; i < call->part_count; i++) {
        const struct hm_dispatch_part *part = part_of(call, i);
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
        const struct hm_dispatch_part *part = part_of(call, i);
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

/* The slab and the header of the call. */
static enum hm_status build(struct hm_server_call *call, uint8_t *header, size_t *header_bytes)
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
    for (unsigned i = 0; i < call->part_count; i++) indices += part_of(call, i)->row_count;
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
        .sequence = backward ? ++dispatch->backward_sequence : ++dispatch->forward_sequence,
        .flags = call->timed ? HM_CALL_TIMED : 0,
    };
    size_t table_bytes = hm_call_table_bytes(parts, call->part_count);
    uint64_t rows_bytes, payload_bytes;
    head.table_bytes = table_bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)table_bytes;
    status = hm_call_rows_bytes(&op->schema, call->codec->id, row_count, &rows_bytes);
    if (status == HM_OK) status = hm_call_payload_bytes(&head, &payload_bytes);
    if (status == HM_OK)
        status = hm_buf_pool_get(dispatch->buffers, (size_t)payload_bytes, &call->slab);
    if (status == HM_OK) {
        struct hm_writer writer;
        hm_writer_init(&writer, call->slab->base, table_bytes);
        hm_call_table_encode(parts, call->part_count, &writer);
        HM_ASSERT(hm_writer_ok(&writer) && hm_writer_count(&writer) == table_bytes);
        uint8_t *rows = (uint8_t *)call->slab->base + table_bytes;
        status = hm_codec_encode(call->codec, op->x, op->columns, op->order, row_count, rows);
        if (status == HM_OK && backward)
            status = hm_codec_encode(call->codec, op->dy, op->columns, op->order, row_count,
                                     rows + rows_bytes);
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

void hm_server_call_send(struct hm_server_call *call)
{
    struct hm_dispatch *dispatch = call->dispatch;
    uint8_t header[HM_DISPATCH_HEADER_BYTES];
    size_t header_bytes = 0;
    call->tried = true;
    call->timed = call->peer && is_timed(call);
    enum hm_status status =
        call->peer ? build(call, header, &header_bytes) : HM_ERR_PEER_UNREACHABLE;
    atomic_fetch_add_explicit(&dispatch->calls, 1, memory_order_relaxed);
    if (status == HM_OK) {
        call->call = (struct hm_call){.method = HM_METHOD_EXPERT_CALL,
                                      .deadline = call->op->deadline,
                                      .header = header,
                                      .header_bytes = header_bytes,
                                      .payload = {hm_buf_span(call->slab)},
                                      .span_count = 1,
                                      .reply = reply,
                                      .end = end,
                                      .arg = call};
        if (call->timed) call->sent = hm_loop_clock(dispatch->loop);
        status = hm_rpc_call(call->peer, &call->call);
    }
    if (status == HM_OK || status == HM_INPROGRESS) {
        call->on_wire = true;
        return;
    }
    atomic_fetch_add_explicit(&dispatch->calls_failed, 1, memory_order_relaxed);
    decide_open(call, status);
    give_back(call);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* Rows as they came -> the part's answer.  A server's NaN masks its expert, it does not poison the
 * mixture. */
static enum hm_status take_rows(struct hm_server_call *call, unsigned number, const void *rows)
{
    struct hm_dispatch_part *part = part_of(call, number);
    enum hm_status status = hm_codec_decode(call->codec, rows, call->op->columns, NULL, NULL,
                                            part->row_count, part->answer);
    return status == HM_ERR_NUMERIC ? HM_ERR_EXPERT_NUMERIC : status;
}

static void pulled(void *arg, enum hm_status status)
{
    struct hm_pull *pull = arg;
    struct hm_server_call *call = pull->call;
    call->pulls--;
    if (call->op) {
        if (status == HM_OK && call->timed) count_times(call, &pull->times);
        if (status == HM_OK)
            status = take_rows(call, pull->part, pull->buf->base);
        else if (status == HM_ERR_CANCELED)
            status = HM_ERR_PEER_RESET; /* nobody here cancels a pull */
        decide(call, pull->part, status);
    }
    hm_buf_put(pull->buf);
    pull->buf = NULL;
    give_back_if_over(call);
}

/* Pulls an announced answer, or reads it where it lies. */
static enum hm_status receive(struct hm_server_call *call, const struct hm_call_answer *answer,
                              struct hm_inbound *in)
{
    if (in->data) {
        if (call->timed) count_times(call, &answer->times);
        enum hm_status status = take_rows(call, answer->part, in->data);
        hm_inbound_drop(in);
        return status;
    }
    struct hm_pull *pull = &call->pull[answer->part];
    enum hm_status status = hm_buf_pool_get(call->dispatch->buffers, in->bytes, &pull->buf);
    if (status != HM_OK) {
        hm_inbound_drop(in);
        return status;
    }
    pull->call = call;
    pull->part = answer->part;
    pull->times = answer->times;
    struct hm_span span = hm_buf_span(pull->buf);
    call->pulls++;
    status = hm_inbound_pull(in, &span, pulled, pull);
    if (status == HM_OK || status == HM_INPROGRESS) return HM_INPROGRESS;
    call->pulls--;
    hm_buf_put(pull->buf);
    pull->buf = NULL;
    return status;
}

/* Does the answer fit the part that it is about? */
static bool fits(struct hm_server_call *call, const struct hm_call_answer *answer, size_t bytes)
{
    uint64_t wanted;
    return answer->row_count == part_of(call, answer->part)->row_count &&
           answer->codec == call->codec->id && answer->timed == call->timed &&
           hm_schema_equal(&answer->schema, &call->op->schema) &&
           hm_call_rows_bytes(&answer->schema, answer->codec, answer->row_count, &wanted) ==
               HM_OK &&
           bytes == wanted;
}

static void reply(struct hm_call *rpc_call, enum hm_status status, const void *header,
                  size_t header_bytes, struct hm_inbound *in)
{
    struct hm_server_call *call = rpc_call->arg;
    struct hm_call_answer answer;
    if (!call->op) {
        hm_inbound_drop(in);
        return;
    }
    enum hm_status decoded = hm_call_answer_decode(header, header_bytes, &answer);
    if (decoded != HM_OK || answer.part >= call->part_count || call->taken[answer.part]) {
        hm_inbound_drop(in);
        decide_open(call, status == HM_OK || header_bytes > 0 ? HM_ERR_PEER_PROTOCOL : status);
        return;
    }
    call->taken[answer.part] = true;
    bool turned_away = status == HM_ERR_BUSY || status == HM_ERR_REFUSED;
    part_of(call, answer.part)->retry_after_us = turned_away ? answer.retry_after_us : 0;
    part_of(call, answer.part)->load_us = turned_away ? answer.load_us : 0;
    part_of(call, answer.part)->step = answer.step;
    if (status != HM_OK) {
        hm_inbound_drop(in);
    } else if (!fits(call, &answer, in->bytes)) {
        hm_inbound_drop(in);
        status = HM_ERR_PEER_PROTOCOL;
    } else {
        status = receive(call, &answer, in);
    }
    if (status != HM_INPROGRESS) decide(call, answer.part, status);
}

static void end(struct hm_call *rpc_call, enum hm_status status)
{
    struct hm_server_call *call = rpc_call->arg;
    call->on_wire = false;
    if (call->op) {
        if (status == HM_ERR_TIMED_OUT) hm_dispatch_late(call->op, call);
        bool complete = status == HM_OK;
        for (unsigned i = 0; i < call->part_count; i++) complete = complete && call->taken[i];
        if (!complete) {
            atomic_fetch_add_explicit(&call->dispatch->calls_failed, 1, memory_order_relaxed);
            if (status != HM_OK) teach(call, NULL, status);
            /* All was said, and still parts are open: that is no server of ours. */
            decide_open(call, status == HM_OK ? HM_ERR_PEER_PROTOCOL : status);
        } else if (call->dispatch->directory && !call->suspected) {
            hm_directory_trust(call->dispatch->directory, &call->server);
        }
    }
    give_back_if_over(call);
}

void hm_server_call_leave(struct hm_server_call *call)
{
    call->op = NULL;
    hm_list_remove(&call->link);
    hm_list_push(&call->dispatch->left, &call->link);
    if (call->on_wire)
        hm_rpc_cancel(&call->call);
    else if (call->pulls == 0)
        give_back(call);
}
