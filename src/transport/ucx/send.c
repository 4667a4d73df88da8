/* transport/ucx/send.c - what an endpoint sends.
 *
 * Owns:      the accepted sends, and the operations that UCX has in hand for them.
 * Happy path: a bare message, and an eager one that has credit, go to UCX inside send(); what must
 *            wait (for credit, for a place among the announced) is queued and goes out in a turn.
 *            What has been pulled goes out in pieces, each endpoint a bounded amount a turn.
 * Failure:   full queues are HM_ERR_BUSY, and writable() once half of them is free.  UCX's errors end
 *            the endpoint.
 * Invariant: UCX reads heads and payloads until an operation has completed: an operation holds its
 *            send, and the send its buffers, also after the send has called back and the endpoint is
 *            down.  Of lent buffers it is given none to read (lent.c); their payloads are announced,
 *            and by rendezvous, where UCX reads by itself, none are sent. */
#include "transport/ucx/ucx.h"

#include <limits.h>
#include <string.h>

void hm_ucx_send_init(struct ucx_ep *ep)
{
    struct hm_link *const lists[] = {&ep->eager.head, &ep->large.head, &ep->posted, &ep->streaming,
                                     &ep->finished};
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++) hm_list_init(lists[i]);
}

static struct ucx_send *send_of(struct hm_link *link)
{
    return HM_CONTAINER_OF(link, struct ucx_send, link);
}

/* The payload stays where it is from here on. */
static void hold(struct ucx_send *send, const struct hm_span *payload, unsigned span_count)
{
    if (send->held) return;
    send->held = true;
    send->span_count = span_count;
    for (unsigned i = 0; i < span_count; i++) {
        send->span[i] = payload[i];
        if (payload[i].owner) hm_buf_get(payload[i].owner);
    }
}

static void send_release(struct ucx_send *send)
{
    if (!send->called || send->wire_ops > 0) return;
    hm_list_remove(&send->link);
    for (unsigned i = 0; send->held && i < send->span_count; i++)
        if (send->span[i].owner) hm_buf_put(send->span[i].owner);
    hm_ucx_send_put(send->ep->ucx, send);
}

static void finish(struct ucx_send *send, enum hm_status status)
{
    struct ucx_ep *ep = send->ep;
    if (send->finished) return;
    send->finished = true;
    send->status = status;
    hm_list_remove(&send->link);
    if (send->id) {
        ep->place_out[send->id % UCX_PLACES] = NULL;
        ep->places_out--;
    }
    if (!send->done) { /* nobody asks */
        send->called = true;
        send_release(send);
        return;
    }
    hm_list_push(&ep->finished, &send->link);
    hm_ucx_turn_soon(ep);
}

/* ---- operations ---------------------------------------------------------------------------- */

static void failed(struct ucx_ep *ep)
{
    if (ep->state >= UCX_FAILING) return;
    ep->broken = true;
    hm_ucx_ep_fail(ep, HM_ERR_PEER_RESET);
}

static void on_sent(void *request, ucs_status_t status, void *arg)
{
    struct ucx_op *op = arg;
    struct ucx_ep *ep = op->ep;
    struct ucx_send *send = op->send;
    ucp_request_free(request);
    ep->wire_ops--;
    ep->ucx->wire_ops--;
    if (op->windowed) ep->windowed--;
    if (!send || op != &send->op) hm_ucx_op_put(ep->ucx, op);
    if (send) {
        send->wire_ops--;
        bool all = send->stage == UCX_POSTED && send->sent == send->bytes && send->wire_ops == 0;
        if (all && status == UCS_OK && !send->finished)
            finish(send, HM_OK);
        else
            send_release(send);
    }
    if (status != UCS_OK) failed(ep);
    if (ep->state == UCX_GONE)
        hm_ucx_ep_release(ep);
    else
        hm_ucx_turn_soon(ep); /* there is room again */
}

enum posted {
    POST_OVER,    /* UCX needs nothing of it any more */
    POST_PENDING, /* on_sent() will come */
    POST_FAILED,  /* so does the endpoint */
};

#define IOV_OURS UINT_MAX /* for a count: not the iov, but op->bytes of op->send (lent.c) */

static void describe(struct ucx_op *op, unsigned iov_count, ucp_request_param_t *param,
                     const void **payload, size_t *count)
{
    *payload = NULL;
    *count = 0;
    if (iov_count == 0) return;
    if (iov_count == 1) {
        *payload = op->iov[0].buffer;
        *count = op->iov[0].length;
        return;
    }
    param->op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    if (iov_count == IOV_OURS) {
        *payload = op;
        *count = 1;
        param->datatype = op->ep->ucx->pieces;
    } else {
        *payload = op->iov;
        *count = iov_count;
        param->datatype = ucp_dt_make_iov();
    }
}

static enum posted post(struct ucx_op *op, unsigned id, const void *head, size_t head_bytes,
                        unsigned iov_count, bool rendezvous)
{
    struct ucx_ep *ep = op->ep;
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = rendezvous ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER,
        .cb.send = on_sent,
        .user_data = op,
    };
    const void *payload;
    size_t count;
    describe(op, iov_count, &param, &payload, &count);
    ucs_status_ptr_t request =
        ucp_am_send_nbx(ep->ep, id, head, head_bytes, payload, count, &param);
    if (request == NULL) return POST_OVER;
    if (UCS_PTR_IS_ERR(request)) {
        failed(ep);
        return POST_FAILED;
    }
    ep->wire_ops++;
    ep->ucx->wire_ops++;
    if (op->windowed) ep->windowed++;
    if (op->send) op->send->wire_ops++;
    return POST_PENDING;
}

/* An operation of its own, for what is no message's head. */
static struct ucx_op *op_make(struct ucx_ep *ep, struct ucx_send *send)
{
    struct ucx_op *op = hm_ucx_op_get(ep->ucx);
    if (!op) {
        hm_ucx_ep_fail(ep, HM_ERR_NO_MEMORY);
        return NULL;
    }
    op->ep = ep;
    op->send = send;
    op->windowed = send != NULL;
    return op;
}

static void op_post(struct ucx_op *op, unsigned iov_count, bool rendezvous)
{
    struct ucx *ucx = op->ep->ucx;
    if (post(op, UCX_AM_CONTROL, &op->head, sizeof op->head, iov_count, rendezvous) != POST_PENDING)
        hm_ucx_op_put(ucx, op);
}

void hm_ucx_say(struct ucx_ep *ep, enum ucx_type type, uint64_t id, uint64_t value)
{
    struct ucx_op *op = op_make(ep, NULL);
    if (!op) return;
    op->head =
        (struct ucx_control){.token = ep->their_token, .type = type, .id = id, .value = value};
    op_post(op, 0, false);
}

/* Up to `room` bytes of the payload that have not been sent become the operation's; returns the
 * number of their spans. */
static unsigned piece_take(struct ucx_send *send, struct ucx_op *op, size_t room)
{
    unsigned count = 0;
    op->bytes = 0;
    while (op->bytes < room && send->sent + op->bytes < send->bytes) {
        const struct hm_span *span = &send->span[send->span_at];
        size_t part = span->bytes - send->span_offset;
        if (part > room - op->bytes) part = room - op->bytes;
        if (part > 0)
            op->iov[count++] = (ucp_dt_iov_t){(uint8_t *)span->base + send->span_offset, part};
        op->bytes += part;
        send->span_offset += part;
        if (send->span_offset < span->bytes) break;
        send->span_at++;
        send->span_offset = 0;
    }
    send->sent += op->bytes;
    send->ep->ucx->metrics.bytes_sent.value += op->bytes;
    return count;
}

/* All of an eager message that is longer than a segment, one operation behind the other. */
static void post_in_pieces(struct ucx_send *send)
{
    struct ucx_ep *ep = send->ep;
    struct ucx_op *op = &send->op;
    send->stage = UCX_POSTED;
    op->ep = ep;
    op->send = send;
    op->windowed = true;
    ep->ucx->metrics.messages_sent.value++;
    size_t room = ep->ucx->piece_bytes - (send->head_bytes - sizeof(struct ucx_control));
    unsigned count = piece_take(send, op, room);
    bool good = post(op, UCX_AM_CONTROL, send->head, send->head_bytes, count, false) != POST_FAILED;
    while (good && send->sent < send->bytes && (op = op_make(ep, send))) {
        op->head =
            (struct ucx_control){.token = ep->their_token, .type = UCX_MORE, .value = send->sent};
        count = piece_take(send, op, ep->ucx->piece_bytes);
        op_post(op, count, false);
        good = ep->state < UCX_FAILING;
    }
    if (good && send->sent == send->bytes && send->wire_ops == 0)
        finish(send, HM_OK);
    else
        hm_list_push(&ep->posted, &send->link); /* on_sent, or the endpoint's end, finishes it */
}

/* The head, and all of the payload of an eager message. */
static void post_message(struct ucx_send *send, const struct hm_span *payload, unsigned span_count)
{
    struct ucx_ep *ep = send->ep;
    unsigned count = 0;
    if (send->in_pieces) {
        hold(send, payload, span_count);
        post_in_pieces(send);
        return;
    }
    bool announces = send->stage == UCX_ANNOUNCED, eager = !announces && send->bytes > 0;
    if (!announces) {
        send->stage = UCX_POSTED;
        send->sent = send->bytes;
    }
    for (unsigned i = 0; eager && i < span_count; i++)
        if (payload[i].bytes > 0)
            send->op.iov[count++] = (ucp_dt_iov_t){payload[i].base, payload[i].bytes};
    send->op.ep = ep;
    send->op.send = send;
    send->op.windowed = eager;
    ep->ucx->metrics.messages_sent.value++;
    if (eager) ep->ucx->metrics.bytes_sent.value += send->bytes;
    unsigned id = announces ? UCX_AM_CONTROL : eager ? UCX_AM_EAGER : UCX_AM_BARE;
    enum posted posted = post(&send->op, id, send->head, send->head_bytes, count, false);
    if (posted == POST_OVER && !announces) {
        finish(send, HM_OK);
        return;
    }
    hold(send, payload, span_count);
    hm_list_push(&ep->posted, &send->link);
}

/* ---- accepting ----------------------------------------------------------------------------- */

/* HM_ERR_TOO_BIG and HM_ERR_UNSUPPORTED, or the payload's size. */
static enum hm_status measure(const struct ucx *ucx, const struct hm_span *payload,
                              unsigned span_count, size_t *bytes)
{
    size_t sum = 0;
    for (unsigned i = 0; i < span_count; i++) {
        if (!ucx->memory[payload[i].mem]) return HM_ERR_UNSUPPORTED;
        if (payload[i].bytes > HM_PAYLOAD_BYTES_MAX - sum) return HM_ERR_TOO_BIG;
        sum += payload[i].bytes;
    }
    *bytes = sum;
    return HM_OK;
}

static uint64_t charge(size_t bytes)
{
    return bytes > UCX_PAGE_BYTES ? bytes : UCX_PAGE_BYTES;
}

static bool credit_take(struct ucx_ep *ep, size_t bytes)
{
    if (charge(bytes) > ep->credit || ep->windowed >= UCX_WINDOW) return false;
    ep->credit -= charge(bytes);
    return true;
}

static struct ucx_send *send_make(struct ucx_ep *ep, const void *header, size_t header_bytes,
                                  size_t bytes)
{
    struct ucx_send *send = hm_ucx_send_get(ep->ucx);
    if (!send) return NULL;
    send->ep = ep;
    send->status = HM_OK;
    send->finished = send->called = send->held = false;
    send->stage = UCX_WAITING;
    send->wire_ops = 0;
    send->id = 0;
    send->bytes = bytes;
    send->sent = send->span_offset = 0;
    send->span_count = send->span_at = 0;
    memcpy(send->head, &ep->their_token, sizeof ep->their_token);
    if (header_bytes > 0) memcpy(send->head + sizeof ep->their_token, header, header_bytes);
    send->head_bytes = sizeof ep->their_token + header_bytes;
    return send;
}

static void queue_push(struct ucx_queue *queue, struct ucx_send *send)
{
    hm_list_push(&queue->head, &send->link);
    queue->count++;
    hm_ucx_turn_soon(send->ep);
}

/* The head that announces or begins, in the place of the one that brings all. */
static void head_prepare(struct ucx_send *send, enum ucx_type type)
{
    struct ucx_control head = {.token = send->ep->their_token, .type = type, .value = send->bytes};
    size_t header_bytes = send->head_bytes - sizeof head.token;
    memmove(send->head + sizeof head, send->head + sizeof head.token, header_bytes);
    memcpy(send->head, &head, sizeof head);
    send->head_bytes = sizeof head + header_bytes;
}

enum hm_status hm_ucx_send(struct hm_ep *base, const void *header, size_t header_bytes,
                           const struct hm_span *payload, unsigned span_count, hm_wire_cb done,
                           void *arg)
{
    struct ucx_ep *ep = ucx_ep_of(base);
    size_t bytes;
    if (header_bytes > HM_HEADER_BYTES_MAX || span_count > HM_SPANS_MAX) return HM_ERR_TOO_BIG;
    enum hm_status status = measure(ep->ucx, payload, span_count, &bytes);
    if (status != HM_OK) return status;
    if (ep->state != UCX_UP) return HM_ERR_PEER_UNREACHABLE;
    bool lent = hm_ucx_any_lent(payload, span_count);
    bool eager = bytes <= UCX_EAGER_BYTES_MAX && charge(bytes) <= ep->credit_total / 2 &&
                 !(lent && bytes > 0);
    struct ucx_queue *queue = eager ? &ep->eager : &ep->large;
    bool *told_busy = bytes == 0 ? &ep->bare_busy : &queue->told_busy;
    if (bytes == 0 ? ep->wire_ops >= UCX_BARE_MAX : queue->count >= UCX_QUEUED_MAX) {
        *told_busy = true;
        return HM_ERR_BUSY;
    }
    struct ucx_send *send = send_make(ep, header, header_bytes, bytes);
    if (!send) return HM_ERR_NO_MEMORY;
    send->done = done;
    send->arg = arg;
    send->in_pieces = eager && bytes + header_bytes > ep->ucx->piece_bytes &&
                      ep->ucx->piece_bytes > 2 * HM_HEADER_BYTES_MAX;
    if (!eager || send->in_pieces) head_prepare(send, eager ? UCX_BEGIN : UCX_ANNOUNCE);
    bool now = bytes == 0 || (eager && queue->count == 0 && credit_take(ep, bytes));
    if (done || !now) hold(send, payload, span_count);
    if (now) {
        post_message(send, payload, span_count);
    } else {
        queue_push(queue, send);
    }
    return HM_OK;
}

/* ---- what goes in a turn ------------------------------------------------------------------- */

static struct ucx_send *queue_pop(struct ucx_queue *queue)
{
    queue->count--;
    return send_of(hm_list_pop(&queue->head));
}

static void pump_eager(struct ucx_ep *ep)
{
    while (ep->eager.count > 0 && credit_take(ep, send_of(ep->eager.head.next)->bytes)) {
        struct ucx_send *send = queue_pop(&ep->eager);
        post_message(send, send->span, send->span_count);
    }
}

static void pump_large(struct ucx_ep *ep)
{
    while (ep->large.count > 0 && ep->places_out < UCX_PLACES && ep->wire_ops < UCX_BARE_MAX) {
        struct ucx_send *send = queue_pop(&ep->large);
        unsigned place = ep->place_next;
        while (ep->place_out[place]) place = (place + 1) % UCX_PLACES;
        ep->place_next = (place + 1) % UCX_PLACES;
        ep->place_out[place] = send;
        ep->places_out++;
        send->id = ++ep->number_last * UCX_PLACES + place;
        memcpy(send->head + offsetof(struct ucx_control, id), &send->id, sizeof send->id);
        send->stage = UCX_ANNOUNCED;
        post_message(send, send->span, send->span_count);
    }
}

/* The next piece of a payload that has been pulled.  Returns its bytes; 0: no memory. */
static size_t post_piece(struct ucx_send *send)
{
    struct ucx_ep *ep = send->ep;
    struct ucx_op *op = op_make(ep, send);
    if (!op) return 0;
    op->head = (struct ucx_control){
        .token = ep->their_token, .type = UCX_DATA, .id = send->id, .value = send->sent};
    unsigned count = piece_take(send, op, ep->ucx->piece_bytes);
    hm_list_remove(&send->link); /* to the end: each in turn */
    if (send->sent == send->bytes) {
        send->stage = UCX_UNACKED;
        hm_list_push(&ep->posted, &send->link);
    } else {
        hm_list_push(&ep->streaming, &send->link);
    }
    size_t bytes = op->bytes;
    op_post(op, ep->ucx->rendezvous ? count : IOV_OURS, ep->ucx->rendezvous);
    return bytes;
}

void hm_ucx_send_pump(struct ucx_ep *ep)
{
    size_t moved = 0;
    pump_eager(ep);
    pump_large(ep);
    while (ep->state == UCX_UP && !hm_list_empty(&ep->streaming) && ep->windowed < UCX_WINDOW) {
        if (moved >= UCX_PUMP_BYTES) {
            hm_ucx_turn_soon(ep);
            return;
        }
        moved += post_piece(send_of(ep->streaming.next));
    }
}

/* ---- ends ---------------------------------------------------------------------------------- */

bool hm_ucx_send_control(struct ucx_ep *ep, enum ucx_type type, uint64_t id)
{
    struct ucx_send *send = ep->place_out[id % UCX_PLACES];
    if (!send || send->id != id) return false;
    if (send->stage != (type == UCX_DONE ? UCX_UNACKED : UCX_ANNOUNCED)) return false;
    if (type == UCX_PULL) {
        send->stage = UCX_STREAMING;
        hm_list_remove(&send->link);
        hm_list_push(&ep->streaming, &send->link);
    } else {
        finish(send, type == UCX_DONE ? HM_OK : HM_ERR_CANCELED);
    }
    hm_ucx_turn_soon(ep);
    return true;
}

static bool writable_again(const struct ucx_queue *queue)
{
    return queue->told_busy && queue->count <= UCX_QUEUED_MAX / 2;
}

void hm_ucx_send_callbacks(struct ucx_ep *ep)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&ep->finished)) != NULL) {
        struct ucx_send *send = send_of(link);
        send->done(send->arg, send->status);
        send->called = true;
        send_release(send);
    }
    bool bare = ep->bare_busy && ep->wire_ops <= UCX_BARE_MAX / 2;
    bool eager = writable_again(&ep->eager), large = writable_again(&ep->large);
    if (bare) ep->bare_busy = false;
    if (eager) ep->eager.told_busy = false;
    if (large) ep->large.told_busy = false;
    if ((bare || eager || large) && ep->state == UCX_UP)
        ep->ucx->sink.writable(ep->ucx->sink.arg, &ep->base);
}

void hm_ucx_send_abort(struct ucx_ep *ep)
{
    struct hm_link *const lists[] = {&ep->eager.head, &ep->large.head, &ep->posted, &ep->streaming};
    for (size_t i = 0; i < HM_COUNT_OF(lists); i++)
        while (!hm_list_empty(lists[i])) finish(send_of(lists[i]->next), ep->why);
    ep->eager.count = ep->large.count = 0;
}
