/* transport/tcp/send.c - what an endpoint sends: queues, and what goes on the wire next.
 *
 * Owns:      the accepted sends and the stage, a buffer of one TLS record.
 * Happy path: send queues a message and asks for a turn; flush picks one frame after another:
 *            control frames first, then messages, then one frame of data for each pulled payload in
 *            turn.  Small frames, heads and short ends are gathered in the stage, so that one
 *            record carries many; what is long goes to TLS from where it lies.
 * Failure:   a full queue is HM_ERR_BUSY, and writable() once half of it is free.
 * Invariant: while TLS holds half a record (blocked), the bytes offered next begin with the same
 *            bytes: only `writing` moves, or the stage grows at its end. */
#include "transport/tcp/tcp.h"

#include <string.h>

void hm_tcp_send_init(struct tcp_ep *ep)
{
    struct hm_link *const lists[] = {&ep->announced, &ep->streaming, &ep->unacked, &ep->finished};
    for (size_t i = 0; i < TCP_CLASSES; i++) hm_list_init(&ep->queue[i].head);
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++) hm_list_init(lists[i]);
}

static struct tcp_send *send_of(struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct tcp_send, link);
}

static void finish(struct tcp_ep *ep, struct tcp_send *send, enum hm_status status)
{
    send->status = status;
    hm_list_remove(&send->link);
    hm_list_push(&ep->finished, &send->link);
}

/* ---- accepting ----------------------------------------------------------------------------- */

/* HM_ERR_TOO_BIG and HM_ERR_UNSUPPORTED, or the payload's size. */
static enum hm_status measure(const struct hm_span *payload, unsigned span_count, size_t *bytes)
{
    size_t sum = 0;
    for (unsigned i = 0; i < span_count; i++) {
        if (payload[i].mem == HM_MEM_CUDA) return HM_ERR_UNSUPPORTED;
        if (payload[i].bytes > HM_PAYLOAD_BYTES_MAX - sum) return HM_ERR_TOO_BIG;
        sum += payload[i].bytes;
    }
    *bytes = sum;
    return HM_OK;
}

/* Half of the credit at most, so that what the receiver has not given back yet never stops it. */
static bool fits_eager(const struct tcp_ep *ep, size_t bytes)
{
    return bytes <= HM_FRAME_EAGER_BYTES_MAX &&
           hm_frame_charge((uint32_t)bytes) <= ep->credit_total / 2;
}

static void head_encode(struct tcp_send *send, bool large, const void *header, size_t header_bytes)
{
    struct hm_frame frame = {
        .type = large ? HM_FRAME_ANNOUNCE : HM_FRAME_MESSAGE,
        .header_bytes = (uint16_t)header_bytes,
        .payload_bytes = large ? 0 : (uint32_t)send->bytes,
        .value = large ? send->bytes : 0,
    };
    hm_frame_encode(&frame, send->head);
    if (header_bytes > 0) memcpy(send->head + HM_FRAME_BYTES, header, header_bytes);
    send->head_bytes = HM_FRAME_BYTES + header_bytes;
}

enum hm_status hm_tcp_send(struct hm_ep *base, const void *header, size_t header_bytes,
                           const struct hm_span *payload, unsigned span_count, hm_wire_cb done,
                           void *arg)
{
    struct tcp_ep *ep = tcp_ep_of(base);
    size_t bytes;
    if (header_bytes > HM_HEADER_BYTES_MAX || span_count > HM_SPANS_MAX) return HM_ERR_TOO_BIG;
    enum hm_status status = measure(payload, span_count, &bytes);
    if (status != HM_OK) return status;
    if (ep->state != TCP_UP) return HM_ERR_PEER_UNREACHABLE;
    bool large = bytes > 0 && !fits_eager(ep, bytes);
    struct tcp_queue *queue = &ep->queue[large ? TCP_LARGE : bytes > 0 ? TCP_EAGER : TCP_BARE];
    if (queue->count >= TCP_QUEUED_MAX) {
        queue->told_busy = true;
        return HM_ERR_BUSY;
    }
    struct tcp_send *send = hm_tcp_send_get(ep->tcp);
    if (!send) return HM_ERR_NO_MEMORY;
    send->done = done;
    send->arg = arg;
    send->bytes = send->left = bytes;
    send->span_count = span_count;
    for (unsigned i = 0; i < span_count; i++) {
        send->span[i] = payload[i];
        if (payload[i].owner) hm_buf_get(payload[i].owner);
    }
    head_encode(send, large, header, header_bytes);
    hm_list_push(&queue->head, &send->link);
    queue->count++;
    hm_tcp_turn_soon(ep);
    return HM_OK;
}

/* ---- what goes next ------------------------------------------------------------------------ */

static void write_begin(struct tcp_ep *ep, struct tcp_queue *queue)
{
    struct tcp_send *send = send_of(hm_list_pop(&queue->head));
    queue->count--;
    ep->writing = send;
    ep->writing_data = false;
    ep->head = send->head;
    ep->head_left = send->head_bytes;
    ep->frame_left = send->head[0] == HM_FRAME_MESSAGE ? send->bytes : 0;
    ep->burst += send->head_bytes + ep->frame_left;
    ep->tcp->metrics.messages_sent.value++;
}

static void write_data_begin(struct tcp_ep *ep)
{
    struct tcp_send *send = send_of(ep->streaming.next);
    size_t bytes = send->left < HM_FRAME_DATA_BYTES_MAX ? send->left : HM_FRAME_DATA_BYTES_MAX;
    struct hm_frame frame = {
        .type = HM_FRAME_DATA, .payload_bytes = (uint32_t)bytes, .value = send->id};
    hm_frame_encode(&frame, ep->data_head);
    ep->writing = send;
    ep->writing_data = true;
    ep->head = ep->data_head;
    ep->head_left = HM_FRAME_BYTES;
    ep->frame_left = bytes;
    ep->burst = 0;
}

/* The class whose first message may go now; its place or its credit is taken.  NULL: none. */
static struct tcp_queue *next_message(struct tcp_ep *ep)
{
    struct tcp_queue *bare = &ep->queue[TCP_BARE], *large = &ep->queue[TCP_LARGE],
                     *eager = &ep->queue[TCP_EAGER];
    if (bare->count > 0) return bare;
    if (large->count > 0 && ep->announces_out < TCP_ANNOUNCES_MAX) {
        send_of(large->head.next)->id = ++ep->announce_last;
        ep->announces_out++;
        return large;
    }
    if (eager->count == 0) return NULL;
    uint32_t charge = hm_frame_charge((uint32_t)send_of(eager->head.next)->bytes);
    if (charge > ep->credit) return NULL;
    ep->credit -= charge;
    return eager;
}

static bool stage_control(struct tcp_ep *ep)
{
    struct hm_frame frame;
    if (!hm_tcp_receive_control(ep, &frame)) return false;
    hm_frame_encode(&frame, (uint8_t *)ep->stage->base + ep->stage_end);
    ep->stage_end += HM_FRAME_BYTES;
    return true;
}

/* The last words.  A canceled endpoint says first what was sent before. */
static bool stage_goodbye(struct tcp_ep *ep)
{
    if (!ep->say_goodbye) return false;
    struct hm_frame frame = {.type = HM_FRAME_GOODBYE, .value = (uint64_t)(int64_t)ep->why};
    hm_frame_encode(&frame, (uint8_t *)ep->stage->base + ep->stage_end);
    ep->stage_end += HM_FRAME_BYTES;
    ep->say_goodbye = false;
    return true;
}

/* Between frames, with room for a control frame in the stage: begins the next frame.  False: there
 * is none that may go now. */
static bool begin_next(struct tcp_ep *ep)
{
    if (ep->state == TCP_HELLO) return false;
    if (ep->state == TCP_FAILING && ep->why != HM_ERR_CANCELED) return stage_goodbye(ep);
    if (stage_control(ep)) return true;
    bool data = ep->state == TCP_UP && !hm_list_empty(&ep->streaming);
    struct tcp_queue *queue = data && ep->burst >= TCP_BURST_BYTES ? NULL : next_message(ep);
    if (queue) {
        write_begin(ep, queue);
        return true;
    }
    if (ep->state == TCP_FAILING) return stage_goodbye(ep);
    if (data) write_data_begin(ep);
    return data;
}

/* ---- writing ------------------------------------------------------------------------------- */

static void frame_end(struct tcp_ep *ep)
{
    struct tcp_send *send = ep->writing;
    ep->writing = NULL;
    if (!ep->writing_data && send->head[0] == HM_FRAME_MESSAGE) {
        finish(ep, send, HM_OK);
    } else if (!ep->writing_data) {
        hm_list_push(&ep->announced, &send->link);
    } else {
        hm_list_remove(&send->link); /* to the end: each in turn */
        hm_list_push(send->left > 0 ? &ep->streaming : &ep->unacked, &send->link);
    }
}

/* The next bytes of the payload that lie together. */
static size_t payload_piece(struct tcp_ep *ep, const uint8_t **at)
{
    struct tcp_send *send = ep->writing;
    while (send->span_offset == send->span[send->span_at].bytes) {
        send->span_at++;
        send->span_offset = 0;
        HM_ASSERT(send->span_at < send->span_count);
    }
    size_t bytes = ep->frame_left;
    *at = hm_span_read(&send->span[send->span_at], send->span_offset, &bytes);
    return bytes;
}

static void payload_used(struct tcp_ep *ep, size_t bytes)
{
    ep->writing->span_offset += bytes;
    ep->writing->left -= bytes;
    ep->frame_left -= bytes;
}

static size_t stage_room(const struct tcp_ep *ep)
{
    return TCP_STAGE_BYTES - ep->stage_end;
}

static size_t stage_copy(struct tcp_ep *ep, const uint8_t *at, size_t bytes)
{
    if (bytes > stage_room(ep)) bytes = stage_room(ep);
    memcpy((uint8_t *)ep->stage->base + ep->stage_end, at, bytes);
    ep->stage_end += bytes;
    return bytes;
}

/* Offers the next bytes to write, at most a record in the stage or all that lies together in a
 * payload.  0: nothing to write. */
static size_t offer(struct tcp_ep *ep, const uint8_t **at)
{
    while (stage_room(ep) >= HM_FRAME_BYTES) {
        if (!ep->writing) {
            if (!begin_next(ep)) break;
        } else if (ep->head_left > 0) {
            size_t bytes = stage_copy(ep, ep->head, ep->head_left);
            ep->head += bytes;
            ep->head_left -= bytes;
        } else if (ep->frame_left > 0) {
            size_t bytes = payload_piece(ep, at);
            bool direct = bytes >= (ep->writing_data ? TCP_DIRECT_BYTES : TCP_STAGE_BYTES);
            if (direct && ep->stage_end == 0) return bytes;
            if (direct && ep->writing_data) break; /* its head goes alone, into the same packet */
            bytes = stage_copy(ep, *at, bytes);
            ep->tcp->metrics.bytes_copied.value += bytes;
            payload_used(ep, bytes);
        }
        if (ep->writing && ep->head_left + ep->frame_left == 0) frame_end(ep);
    }
    *at = (const uint8_t *)ep->stage->base + ep->stage_at;
    return ep->stage_end - ep->stage_at;
}

/* The first frame; nothing else is written before the peer's has come. */
bool hm_tcp_send_hello(struct tcp_ep *ep)
{
    struct tcp *tcp = ep->tcp;
    if (hm_buf_pool_get(tcp->pool, TCP_STAGE_BYTES, &ep->stage) != HM_OK) return false;
    struct hm_hello hello = tcp->hello;
    struct hm_proof_context context;
    if (tcp->has_fabric_key && hm_tcp_ep_context(ep, true, &context))
        (void)hm_proof_make(tcp->fabric_key, &context, &hello); /* without: one that cannot */
    struct hm_writer writer;
    hm_writer_init(&writer, (uint8_t *)ep->stage->base + HM_FRAME_BYTES, HM_FRAME_HELLO_BYTES_MAX);
    hm_hello_encode(&hello, &writer);
    HM_ASSERT(hm_writer_ok(&writer)); /* hello_fill has tried */
    struct hm_frame frame = {.type = HM_FRAME_HELLO,
                             .header_bytes = (uint16_t)hm_writer_count(&writer),
                             .value = tcp->receive_bytes_max};
    hm_frame_encode(&frame, ep->stage->base);
    ep->stage_end = HM_FRAME_BYTES + hm_writer_count(&writer);
    return true;
}

static void written(struct tcp_ep *ep, size_t bytes)
{
    ep->tcp->metrics.bytes_sent.value += bytes;
    if (ep->stage_end == 0) {
        payload_used(ep, bytes);
        if (ep->frame_left == 0) frame_end(ep);
        return;
    }
    ep->stage_at += bytes;
    if (ep->stage_at == ep->stage_end) ep->stage_at = ep->stage_end = 0;
}

/* Is there surely more to write after one record of `bytes` that are offered? */
static bool follows(const struct tcp_ep *ep, size_t bytes)
{
    if (ep->stage_end > 0) return ep->writing && ep->head_left + ep->frame_left > 0;
    return bytes > TCP_STAGE_BYTES || ep->writing->left > bytes;
}

void hm_tcp_send_flush(struct tcp_ep *ep)
{
    if (!ep->secure || ep->blocked) return;
    if (!ep->stage && hm_buf_pool_get(ep->tcp->pool, TCP_STAGE_BYTES, &ep->stage) != HM_OK) {
        hm_tcp_ep_fail(ep, HM_ERR_NO_MEMORY);
        return;
    }
    size_t moved = 0;
    for (;;) {
        const uint8_t *at;
        size_t bytes = offer(ep, &at), count = 0;
        if (bytes == 0) break;
        if (moved >= TCP_WRITE_BUDGET) {
            hm_tcp_turn_soon(ep);
            return;
        }
        bool more = moved + TCP_STAGE_BYTES < TCP_WRITE_BUDGET && follows(ep, bytes);
        if (!hm_tls_write(&ep->wire, ep->ssl, at, bytes, more, &count)) {
            int events = 0;
            enum hm_status status = hm_tls_error(&ep->wire, ep->ssl, &events);
            if (status != HM_ERR_BUSY) {
                ep->secure = false;
                hm_tcp_ep_fail(ep, status);
                return;
            }
            ep->blocked = true;
            if (ep->state != TCP_FAILING) hm_tcp_ep_watch(ep, HM_READABLE | events);
            return;
        }
        written(ep, count);
        moved += count;
    }
    /* An endpoint with nothing to say holds no buffer. */
    hm_buf_put(ep->stage);
    ep->stage = NULL;
    if (ep->state != TCP_FAILING) hm_tcp_ep_watch(ep, HM_READABLE);
}

/* ---- ends ---------------------------------------------------------------------------------- */

static struct tcp_send *find(struct hm_link *list, uint64_t id)
{
    HM_LIST_EACH (link, list)
        if (send_of(link)->id == id) return send_of(link);
    return NULL;
}

bool hm_tcp_send_control(struct tcp_ep *ep, const struct hm_frame *frame)
{
    bool done = frame->type == HM_FRAME_DONE;
    struct tcp_send *send = find(done ? &ep->unacked : &ep->announced, frame->value);
    if (!send) return false;
    if (frame->type == HM_FRAME_PULL) {
        hm_list_remove(&send->link);
        hm_list_push(&ep->streaming, &send->link);
        return true;
    }
    ep->announces_out--;
    finish(ep, send, done ? HM_OK : HM_ERR_CANCELED);
    return true;
}

void hm_tcp_send_callbacks(struct tcp_ep *ep)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&ep->finished)) != NULL) {
        struct tcp_send *send = send_of(link);
        if (send->done) send->done(send->arg, send->status);
        for (unsigned i = 0; i < send->span_count; i++) hm_buf_put(send->span[i].owner);
        hm_tcp_send_put(ep->tcp, send);
    }
    bool writable = false;
    for (size_t i = 0; i < TCP_CLASSES; i++) {
        struct tcp_queue *queue = &ep->queue[i];
        if (!queue->told_busy || queue->count > TCP_QUEUED_MAX / 2) continue;
        queue->told_busy = false;
        writable = true;
    }
    if (writable && ep->state == TCP_UP) ep->tcp->sink.writable(ep->tcp->sink.arg, &ep->base);
}

void hm_tcp_send_abort(struct tcp_ep *ep)
{
    struct hm_link *const lists[] = {&ep->queue[TCP_BARE].head,
                                     &ep->queue[TCP_EAGER].head,
                                     &ep->queue[TCP_LARGE].head,
                                     &ep->announced,
                                     &ep->streaming,
                                     &ep->unacked};
    if (ep->writing) finish(ep, ep->writing, ep->why);
    ep->writing = NULL;
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++)
        while (!hm_list_empty(lists[i])) finish(ep, send_of(lists[i]->next), ep->why);
    for (size_t i = 0; i < TCP_CLASSES; i++) ep->queue[i].count = 0;
    hm_buf_put(ep->stage);
    ep->stage = NULL;
    ep->stage_at = ep->stage_end = 0;
}
