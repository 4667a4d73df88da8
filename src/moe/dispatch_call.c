/* moe/dispatch_call.c - one call to one server: what it sends (dispatch_build.c), and answers out of
 * pulled buffers.
 *
 *   get ──► send ──► reply, reply, … ──► end ──► idle again (once no pull is left)
 *                        └─ the operation may leave at any time: cancelled, later replies dropped
 *
 * Happy path:    each reply decides one part, decoded from where it arrived into the caller's answer;
 *                many rows that are not coded are pulled straight into it.
 * Failure modes: a reply that does not fit what was asked breaks the protocol: its part fails, the
 *                server is suspected. A failing reply without a header, and end() with an error,
 *                fail every part that is still open.
 * Invariants:    the wire refers to slabs, and to the caller's memory only as lent (base/buf.h): it is
 *                reclaimed before the operation ends.  Answers are written while it lives, and only
 *                there. */
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
    call->slab = call->lent[0] = call->lent[1] = NULL;
    call->codec = hm_codec_find(HM_CODEC_NONE);
    call->tried = call->latecomer = call->on_wire = call->suspected = false;
    call->timed = false;
    call->part_count = call->pulls = 0;
    memset(call->taken, 0, sizeof call->taken);
    hm_list_push(&op->calls, &call->link);
    return call;
}

static void reclaim(struct hm_server_call *call)
{
    for (unsigned i = 0; i < HM_COUNT_OF(call->lent); i++) hm_buf_reclaim(call->lent[i]);
    for (unsigned i = 0; i < call->part_count; i++)
        if (call->pull[i].lent) hm_buf_reclaim(call->pull[i].buf);
}

static void give_back(struct hm_server_call *call)
{
    HM_ASSERT(!call->on_wire && call->pulls == 0);
    if (call->peer) hm_peer_put(call->peer);
    reclaim(call); /* the wire may hold on to what it has sent */
    hm_buf_put(call->slab);
    for (unsigned i = 0; i < HM_COUNT_OF(call->lent); i++) hm_buf_put(call->lent[i]);
    call->peer = NULL;
    hm_list_remove(&call->link);
    hm_list_push(&call->dispatch->idle, &call->link);
    call->dispatch->calls_used--;
    hm_dispatch_call_free(call->dispatch);
}

static void give_back_if_over(struct hm_server_call *call)
{
    if (!call->on_wire && call->pulls == 0) give_back(call);
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
    struct hm_dispatch_part *part = hm_server_call_part(call, number);
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

void hm_server_call_send(struct hm_server_call *call)
{
    struct hm_dispatch *dispatch = call->dispatch;
    uint8_t header[HM_DISPATCH_HEADER_BYTES];
    size_t header_bytes = 0;
    call->tried = true;
    call->timed = call->peer && is_timed(call);
    enum hm_status status =
        call->peer ? hm_server_call_build(call, header, &header_bytes) : HM_ERR_PEER_UNREACHABLE;
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
        for (unsigned i = 0; i < HM_COUNT_OF(call->lent) && call->lent[i]; i++)
            call->call.payload[call->call.span_count++] = hm_buf_span(call->lent[i]);
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
    struct hm_dispatch_part *part = hm_server_call_part(call, number);
    if (call->codec->id == HM_CODEC_NONE && /* looked at before anything is written */
        !hm_f32_all_finite(rows, (size_t)part->row_count * call->op->columns))
        return HM_ERR_EXPERT_NUMERIC;
    enum hm_status status = hm_codec_decode(call->codec, rows, call->op->columns, NULL, NULL,
                                            part->row_count, part->answer);
    return status == HM_ERR_NUMERIC ? HM_ERR_EXPERT_NUMERIC : status;
}

/* Those that have been pulled to where they belong. */
static enum hm_status look_at_rows(struct hm_server_call *call, unsigned number)
{
    const struct hm_dispatch_part *part = hm_server_call_part(call, number);
    bool finite = hm_f32_all_finite(part->answer, (size_t)part->row_count * call->op->columns);
    return finite ? HM_OK : HM_ERR_EXPERT_NUMERIC;
}

/* A place for an announced answer: where it belongs, if it may come there as it is. */
static enum hm_status pull_init(struct hm_pull *pull, struct hm_server_call *call,
                                const struct hm_call_answer *answer, size_t bytes)
{
    struct hm_buf_pool *buffers = call->dispatch->buffers;
    pull->call = call;
    pull->part = answer->part;
    pull->times = answer->times;
    pull->lent = call->codec->id == HM_CODEC_NONE && bytes >= HM_DISPATCH_LEND_BYTES_MIN &&
                 hm_rpc_pulls_lent(call->dispatch->rpc);
    enum hm_status status =
        pull->lent ? hm_buf_lend(buffers, hm_server_call_part(call, answer->part)->answer, bytes,
                                 &pull->buf)
                   : hm_buf_pool_get(buffers, bytes, &pull->buf);
    if (status != HM_OK) pull->lent = false;
    return status;
}

static void pull_fini(struct hm_pull *pull)
{
    if (pull->lent) hm_buf_reclaim(pull->buf); /* whoever still refers to it */
    hm_buf_put(pull->buf);
    pull->buf = NULL;
    pull->lent = false;
}

static void pulled(void *arg, enum hm_status status)
{
    struct hm_pull *pull = arg;
    struct hm_server_call *call = pull->call;
    call->pulls--;
    if (call->op) {
        if (status == HM_OK && call->timed) count_times(call, &pull->times);
        if (status == HM_OK)
            status = pull->lent ? look_at_rows(call, pull->part)
                                : take_rows(call, pull->part, pull->buf->base);
        else if (status == HM_ERR_CANCELED)
            status = HM_ERR_PEER_RESET; /* nobody here cancels a pull */
        decide(call, pull->part, status);
    }
    pull_fini(pull);
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
    enum hm_status status = pull_init(pull, call, answer, in->bytes);
    if (status != HM_OK) {
        hm_inbound_drop(in);
        return status;
    }
    struct hm_span span = hm_buf_span(pull->buf);
    call->pulls++;
    status = hm_inbound_pull(in, &span, pulled, pull);
    if (status == HM_OK || status == HM_INPROGRESS) return HM_INPROGRESS;
    call->pulls--;
    pull_fini(pull);
    return status;
}

/* Does the answer fit the part that it is about? */
static bool fits(struct hm_server_call *call, const struct hm_call_answer *answer, size_t bytes)
{
    uint64_t wanted;
    return answer->row_count == hm_server_call_part(call, answer->part)->row_count &&
           answer->codec == call->codec->id && answer->timed == call->timed &&
           hm_schema_equal(&answer->schema, &call->op->schema) &&
           hm_call_rows_bytes(&answer->schema, answer->codec, answer->row_count, &wanted) ==
               HM_OK &&
           bytes == wanted;
}

/* The server refuses the call before it looks at parts: it has too many of this node's, or in all. */
static void turned_away_all(struct hm_server_call *call, enum hm_status status)
{
    if (status != HM_ERR_BUSY && status != HM_ERR_REFUSED) return;
    for (unsigned i = 0; i < call->part_count; i++)
        if (!call->taken[i])
            hm_dispatch_turned_away(call->op, hm_server_call_part(call, i), status, NULL);
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
        if (header_bytes == 0) turned_away_all(call, status);
        decide_open(call, status == HM_OK || header_bytes > 0 ? HM_ERR_PEER_PROTOCOL : status);
        return;
    }
    call->taken[answer.part] = true;
    struct hm_dispatch_part *part = hm_server_call_part(call, answer.part);
    if (status == HM_ERR_BUSY || status == HM_ERR_REFUSED)
        hm_dispatch_turned_away(call->op, part, status, &answer);
    part->step = answer.step;
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
    reclaim(call);
    call->op = NULL;
    hm_list_remove(&call->link);
    hm_list_push(&call->dispatch->left, &call->link);
    if (call->on_wire)
        hm_rpc_cancel(&call->call);
    else if (call->pulls == 0)
        give_back(call);
}
