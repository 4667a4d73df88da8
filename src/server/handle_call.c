/* server/handle_call.c - HM_METHOD_EXPERT_CALL: a request in, its parts out one by one.
 *
 *   handle ──► pull the payload into one slab ──► decode the table ──► admit each part
 *                                                                       │         │ refused:
 *                                                                       ▼ task    ▼ answered at once
 *                     finished ◄── last part answered ◄── task ended: answered ◄──┘
 *
 * Failure modes: what does not decode is answered as a whole with its status; a part that is
 *                refused or fails is answered alone; a caller that is gone has its queued parts
 *                cancelled, and what they answer leads nowhere.
 * Invariants:    a call in calls_busy is finished exactly once, by the answer that takes parts_left
 *                to 0; its slab lives until then, so that the lane may read it. */
#include "server/internal.h"

#include <string.h>

static struct hm_served_part *parts_of(struct hm_served_call *call)
{
    return call->parts->base;
}

static void finish(struct hm_served_call *call)
{
    struct hm_expert_server *server = call->server;
    hm_buf_put(call->slab);
    hm_buf_put(call->parts);
    hm_list_remove(&call->link);
    *call = (struct hm_served_call){.server = server};
    hm_list_push(&server->calls_free, &call->link);
}

/* The call as a whole cannot be served: one reply says why. */
static void refuse(struct hm_served_call *call, enum hm_status status)
{
    hm_request_reply(call->request, true, status, NULL, 0, NULL, 0);
    finish(call);
}

static uint64_t between(hm_ns from, hm_ns to)
{
    return to > from ? to - from : 0;
}

/* Of a part that is about to be answered: what it never reached has taken no time. */
static void stage_times(const struct hm_served_part *part, struct hm_server_times *times)
{
    const struct hm_served_call *call = part->call;
    const struct hm_task *task = &part->task;
    struct hm_expert_server *server = call->server;
    hm_ns now = hm_loop_clock(server->conf.loop), queued = part->queued ? part->queued : now;
    bool ran = part->queued && task->begun;
    *times = (struct hm_server_times){0};
    times->stage[HM_STAGE_ADMIT] = between(hm_request_arrived(call->request) + call->pull, queued);
    times->stage[HM_STAGE_WAIT] = between(queued, ran ? task->begun : now);
    times->stage[HM_STAGE_COMPUTE] = ran ? between(task->begun, task->done) : 0;
    times->stage[HM_STAGE_REPLY] = ran ? between(task->done, now) : 0;
    for (unsigned i = 0; i < HM_SERVER_STAGES; i++)
        hm_histogram_add(&server->stages.ns[i], times->stage[i]);
}

/* The rows that a pass gives back: y, or dx. */
static const struct hm_schema *out_schema(const struct hm_served_part *part)
{
    const struct hm_plan *plan = hm_expert_plan(part->hosted->expert);
    return part->call->head.pass == HM_PASS_FORWARD ? &plan->output : &plan->input;
}

size_t hm_expert_server_out_row_bytes(const struct hm_served_part *part)
{
    return hm_codec_row_bytes(hm_served_codec(part), out_schema(part)->row[0].dim[0]);
}

/* Said by a full queue whose costs are not measured yet: who asks again waits longer each time. */
enum { RETRY_AFTER_UNKNOWN_US = 1000 };

static uint32_t wire_us(hm_ns time)
{
    return time / HM_US > UINT32_MAX ? UINT32_MAX : (uint32_t)(time / HM_US);
}

/* Where its answer lies, whole and coded. */
static struct hm_span answer_span(const struct hm_served_part *part, const struct hm_rows *rows)
{
    size_t row_bytes = hm_expert_server_out_row_bytes(part);
    if (part->echoed) {
        size_t x = (size_t)((const char *)part->x - (const char *)part->call->slab->base);
        return hm_buf_part(part->call->slab, x + part->view.first * row_bytes,
                           rows->count * row_bytes);
    }
    size_t pitch = out_schema(part)->row[0].dim[0] * sizeof(float); /* of the batch's pieces */
    return hm_buf_part(rows->slab, rows->first * pitch, rows->count * row_bytes);
}

void hm_expert_server_answer(struct hm_served_part *part, enum hm_status status,
                             const struct hm_rows *rows)
{
    struct hm_served_call *call = part->call;
    struct hm_expert_server *server = call->server;
    uint8_t header[HM_CALL_HEADER_BYTES_MAX];
    struct hm_writer writer;
    struct hm_call_answer answer = {.part = (uint16_t)(part - parts_of(call)),
                                    .codec = call->head.codec,
                                    .step = part->step,
                                    .schema = call->head.schema};
    struct hm_span span = {0};
    unsigned span_count = 0;
    if (status == HM_OK) {
        answer.schema = *out_schema(part);
        answer.row_count = rows->count;
        span = answer_span(part, rows);
        span_count = 1;
        server->parts_ok.value++;
        server->rows_done += rows->count;
    } else if ((status == HM_ERR_BUSY || status == HM_ERR_REFUSED) && part->hosted) {
        const struct hm_task next = {.pool = part->task.pool, /* of this client, and like it */
                                     .client = part->task.client,
                                     .priority = part->task.priority};
        answer.retry_after_us = wire_us(hm_sched_predict(&next));
        if (answer.retry_after_us == 0 && status == HM_ERR_BUSY)
            answer.retry_after_us = RETRY_AFTER_UNKNOWN_US;
        answer.load_us = wire_us(hm_sched_load(next.pool));
    }
    answer.timed = call->timed;
    if (call->timed) stage_times(part, &answer.times);
    hm_writer_init(&writer, header, sizeof(header));
    hm_call_answer_encode(&answer, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    HM_ASSERT(call->parts_left > 0);
    bool last = --call->parts_left == 0;
    hm_request_reply(call->request, last, status, header, hm_writer_count(&writer), &span,
                     span_count);
    if (last) finish(call);
}

/* ---- from a request to its parts ----------------------------------------------------------------
 */

static enum hm_status decode_parts(struct hm_served_call *call)
{
    struct hm_call_head *head = &call->head;
    struct hm_buf_pool *buffers = call->server->conf.buffers;
    struct hm_buf *views;
    size_t view_bytes = head->part_count * sizeof(struct hm_call_part);
    enum hm_status status = hm_buf_pool_get(buffers, view_bytes, &views);
    if (status) return status;
    status = hm_call_table_decode(head, call->slab->base, views->base);
    if (status) goto put_views;
    size_t part_bytes = head->part_count * sizeof(struct hm_served_part);
    status = hm_buf_pool_get(buffers, part_bytes, &call->parts);
    if (status) goto put_views;

    uint64_t rows_bytes = 0;
    status = hm_call_rows_bytes(&head->schema, head->codec, head->row_count, &rows_bytes);
    if (status) goto put_views;
    const char *x = (const char *)call->slab->base + head->table_bytes;
    const char *dy = x + rows_bytes;
    memset(call->parts->base, 0, part_bytes);
    for (unsigned i = 0; i < head->part_count; i++) {
        struct hm_served_part *part = &parts_of(call)[i];
        part->call = call;
        part->view = ((const struct hm_call_part *)views->base)[i];
        part->x = x;
        if (head->pass == HM_PASS_BACKWARD) part->dy = dy;
    }
put_views:
    hm_buf_put(views);
    return status;
}

/* A client is a node in one of its lives: its sequences start again when it does. */
static void client_id(struct hm_served_call *call)
{
    enum { HALF = HM_CLIENT_ID_BYTES / 2 };
    uint8_t bytes[HM_NODE_ID_BYTES + sizeof(uint64_t)], digest[HM_DIGEST_BYTES];
    memcpy(bytes, hm_request_from(call->request)->byte, HM_NODE_ID_BYTES);
    memcpy(bytes + HM_NODE_ID_BYTES, &call->head.incarnation, sizeof(uint64_t));
    hm_sha256(bytes, HM_NODE_ID_BYTES, digest);
    memcpy(call->client.byte, digest, HALF);
    hm_sha256(bytes, sizeof(bytes), digest);
    memcpy(call->client.byte + HALF, digest, HALF);
}

static void payload_pulled(void *arg, enum hm_status status)
{
    struct hm_served_call *call = arg;
    struct hm_expert_server *server = call->server;
    if (call->pull) call->pull = between(call->pull, hm_loop_clock(server->conf.loop));
    if (call->gone) status = HM_ERR_CANCELED;
    if (!status && server->draining) status = HM_ERR_DRAINING;
    if (!status) status = decode_parts(call);
    if (status) {
        refuse(call, status);
        return;
    }
    if (call->head.pass == HM_PASS_BACKWARD) client_id(call);
    call->parts_left = call->head.part_count;
    /* The last refusal may finish the call, so nothing of it is touched after its answer. */
    for (unsigned i = 0, count = call->head.part_count; i < count; i++) {
        struct hm_served_part *part = &parts_of(call)[i];
        status = hm_expert_server_admit(part);
        if (!status) continue;
        if (status == HM_ERR_DUPLICATE)
            server->parts_duplicate.value++;
        else
            server->parts_refused.value++;
        hm_expert_server_answer(part, status, NULL);
    }
}

static enum hm_status check_head(struct hm_served_call *call, const void *header,
                                 size_t header_bytes, const struct hm_inbound *in)
{
    uint64_t payload_bytes = 0;
    enum hm_status status = hm_call_head_decode(header, header_bytes, &call->head);
    if (!status) status = hm_call_payload_bytes(&call->head, &payload_bytes);
    if (!status && !(call->server->conf.codecs >> call->head.codec & 1))
        status = HM_ERR_UNSUPPORTED;
    if (!status && payload_bytes != in->bytes) status = HM_ERR_PEER_PROTOCOL;
    if (!status && call->server->draining) status = HM_ERR_DRAINING;
    if (!status) status = hm_buf_pool_get(call->server->conf.buffers, in->bytes, &call->slab);
    return status;
}

void hm_expert_server_handle_call(void *arg, struct hm_request *request, const void *header,
                                  size_t header_bytes, struct hm_inbound *in)
{
    struct hm_expert_server *server = arg;
    struct hm_link *link = hm_list_pop(&server->calls_free);
    if (!link) {
        hm_inbound_drop(in);
        hm_request_reply(request, true, HM_ERR_BUSY, NULL, 0, NULL, 0);
        return;
    }
    struct hm_served_call *call = HM_CONTAINER_OF(link, struct hm_served_call, link);
    call->request = request;
    hm_request_set_user(request, call);
    hm_list_push(&server->calls_busy, &call->link);
    enum hm_status status = check_head(call, header, header_bytes, in);
    if (status) {
        hm_inbound_drop(in);
        refuse(call, status);
        return;
    }
    call->timed = call->head.flags & HM_CALL_TIMED;
    /* What came with the message is here; the pull of what was announced is the wire's time. */
    if (call->timed && !in->data) call->pull = hm_loop_clock(server->conf.loop);
    struct hm_span into = hm_buf_span(call->slab);
    status = hm_request_pull(request, in, &into, payload_pulled, call);
    if (status) refuse(call, status);
}

void hm_expert_server_call_gone(void *arg, struct hm_request *request)
{
    (void)arg;
    struct hm_served_call *call = hm_request_user(request);
    if (!call) return;
    call->gone = true;
    hm_expert_server_call_cancel(call);
}

void hm_expert_server_call_cancel(struct hm_served_call *call)
{
    if (call->parts_left == 0) return; /* still being pulled: payload_pulled ends it */
    for (unsigned i = 0; i < call->head.part_count; i++)
        if (parts_of(call)[i].admitted) hm_sched_cancel(&parts_of(call)[i].task);
}
