/* transport/ucx/receive.c - active messages in: messages, announces, pulled pieces.
 *
 *   eager:      EAGER -> message() -> [kept in UCX's own buffer] -> pull: copied, CREDIT owed
 *                                                       '-----------> drop: CREDIT owed
 *   announced:  ANNOUNCE -> message() -> [held] -> pull: PULL -> DATA ... -> done(), DONE
 *                                           '----> drop: DROP
 *
 * Owns:      inbounds, UCX's buffers of kept payloads, and a reference to the owner of each buffer
 *            that is pulled into.
 * Failure:   a message that may not come now, or over a bound, ends the endpoint with
 *            HM_ERR_PEER_PROTOCOL.  UCX's lengths are not trusted either.
 * Invariant: what a peer can make us hold is receive_bytes_max of eager payloads and UCX_PLACES
 *            announced ones.  Nothing is received into less memory than it has.  The pieces of a pull
 *            come in order (each is one message of one endpoint, and UCX keeps the order of these),
 *            so each byte is received once, and when they are all here nothing is outstanding. */
#include "base/copy.h"
#include "transport/ucx/ucx.h"

#include <string.h>

void hm_ucx_receive_init(struct ucx_ep *ep)
{
    hm_list_init(&ep->pulled);
    ep->credit_left = ep->ucx->receive_bytes_max;
    ep->nothing.base.ops = &hm_ucx_ops;
    ep->nothing.ep = ep;
}

struct ucx_inbound *hm_ucx_inbound_make(struct ucx_ep *ep, size_t bytes)
{
    struct ucx_inbound *in = hm_ucx_inbound_get(ep->ucx);
    if (!in) {
        hm_ucx_ep_fail(ep, HM_ERR_NO_MEMORY);
        return NULL;
    }
    in->base = (struct hm_inbound){.ops = &hm_ucx_ops, .bytes = bytes};
    in->ep = ep;
    in->kept = NULL;
    in->taken = NULL;
    in->buf = NULL;
    in->id = 0;
    in->into.base = NULL;
    in->into.owner = NULL;
    in->posted = in->received = 0;
    in->receiving = 0;
    in->finished = false;
    return in;
}

static uint64_t charge(size_t bytes)
{
    return bytes > UCX_PAGE_BYTES ? bytes : UCX_PAGE_BYTES;
}

bool hm_ucx_credit_spend(struct ucx_ep *ep, size_t bytes)
{
    if (charge(bytes) > ep->credit_left) return false;
    ep->credit_left -= charge(bytes);
    return true;
}

/* ---- arrivals ------------------------------------------------------------------------------ */

void hm_ucx_deliver(struct ucx_ep *ep, struct ucx_inbound *in, const void *header, size_t bytes)
{
    const struct hm_transport_sink *sink = &ep->ucx->sink;
    ep->inbounds_out++;
    ep->ucx->metrics.messages_received.value++;
    sink->message(sink->arg, &ep->base, header, bytes, &in->base);
}

/* Whose a head is; NULL: a stale peer's or a stranger's. */
static struct ucx_ep *addressed(struct ucx *ucx, const void *head, size_t head_bytes)
{
    uint64_t token = 0;
    if (head_bytes >= sizeof token) memcpy(&token, head, sizeof token);
    struct ucx_ep *ep = hm_ucx_ep_find(ucx, token);
    if (!ep) ucx->metrics.stale.value++;
    return ep;
}

/* It speaks; may it be listened to now? */
static bool opened(struct ucx_ep *ep)
{
    if (ep->state == UCX_UP) return true;
    if (ep->state >= UCX_FAILING) return false;
    /* Who speaks has heard us, so we have accepted; his hello may be behind this. */
    if (ep->state == UCX_OFFERED || !ep->heard) {
        hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return false;
    }
    hm_ucx_ep_heard(ep);
    return ep->state == UCX_UP;
}

static void hello_arrived(struct ucx_ep *ep, uint64_t credit)
{
    const uint64_t credit_max = (uint64_t)1 << 40;
    if (ep->heard) {
        hm_ucx_ep_heard(ep); /* its up() may be due: what it did first was right */
        hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return;
    }
    ep->heard = true;
    ep->credit = ep->credit_total = credit < credit_max ? credit : credit_max;
    hm_ucx_ep_heard(ep);
}

static bool announce_arrived(struct ucx_ep *ep, const struct ucx_control *head, const void *header,
                             size_t header_bytes)
{
    struct ucx_inbound **place = &ep->place_in[head->id % UCX_PLACES];
    if (*place || header_bytes > HM_HEADER_BYTES_MAX || head->id == 0 || head->value == 0 ||
        head->value > HM_PAYLOAD_BYTES_MAX)
        return false;
    struct ucx_inbound *in = hm_ucx_inbound_make(ep, (size_t)head->value);
    if (!in) return true;
    in->id = head->id;
    *place = in;
    hm_ucx_deliver(ep, in, header, header_bytes);
    return true;
}

static bool credit_arrived(struct ucx_ep *ep, uint64_t bytes)
{
    if (bytes > ep->credit_total - ep->credit) return false;
    ep->credit += bytes;
    hm_ucx_turn_soon(ep);
    return true;
}

/* ---- pieces -------------------------------------------------------------------------------- */

static void pull_finish(struct ucx_inbound *in, enum hm_status status)
{
    if (in->finished) return;
    if (in->id) in->ep->ucx->pulling--;
    in->finished = true;
    in->status = status;
    hm_list_push(&in->ep->pulled, &in->link);
    hm_ucx_turn_soon(in->ep);
}

/* Once it has called back, and UCX writes nowhere any more: at once, but for a pull that its endpoint
 * has ended with pieces outstanding; that one waits for the last of them. */
static void inbound_release(struct ucx_inbound *in)
{
    struct ucx_ep *ep = in->ep;
    if (in->receiving > 0) {
        HM_ASSERT(ep->state >= UCX_FAILING);
        return;
    }
    hm_buf_put(in->into.owner);
    if (in->id && ep->place_in[in->id % UCX_PLACES] == in) ep->place_in[in->id % UCX_PLACES] = NULL;
    hm_ucx_inbound_put(ep->ucx, in);
}

static void piece_received(struct ucx_inbound *in, size_t bytes)
{
    in->received += bytes;
    HM_ASSERT(in->received <= in->posted);
    in->ep->ucx->piece_looks = 0;
    in->ep->ucx->metrics.bytes_received.value += bytes;
    if (in->received == in->base.bytes) pull_finish(in, HM_OK);
}

static void on_received(void *request, ucs_status_t status, size_t bytes, void *arg)
{
    struct ucx_inbound *in = arg;
    struct ucx_ep *ep = in->ep;
    ucp_request_free(request);
    in->receiving--;
    ep->receiving--;
    if (ep->state == UCX_UP && status == UCS_OK) {
        piece_received(in, bytes);
    } else if (ep->state < UCX_FAILING) {
        hm_ucx_ep_fail(ep, HM_ERR_PEER_RESET);               /* whose turn ends the pull */
    } else if (in->finished && !hm_list_linked(&in->link)) { /* it has called back long ago */
        inbound_release(in);
        hm_ucx_ep_release(ep);
    }
}

/* By rendezvous: straight into the user's memory. */
static ucs_status_t piece_receive(struct ucx_inbound *in, void *into, void *data, size_t bytes)
{
    const ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                                                       UCP_OP_ATTR_FIELD_USER_DATA |
                                                       UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
                                       .cb.recv_am = on_received,
                                       .user_data = in};
    in->receiving++;
    in->ep->receiving++;
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(in->ep->ucx->worker, data, into, bytes, &param);
    if (UCS_PTR_IS_PTR(request)) return UCS_INPROGRESS;
    in->receiving--;
    in->ep->receiving--;
    if (UCS_PTR_STATUS(request) == UCS_OK)
        piece_received(in, bytes);
    else
        hm_ucx_ep_fail(in->ep, HM_ERR_PEER_RESET);
    return UCS_OK;
}

static ucs_status_t piece_arrived(struct ucx_ep *ep, const struct ucx_control *head, void *data,
                                  size_t bytes, bool rendezvous)
{
    struct ucx_inbound *in = ep->place_in[head->id % UCX_PLACES];
    /* How a piece travels is the sender's choice.  By rendezvous it would be UCX that writes, when it
     * likes, also into lent memory that has been taken back: only where none is lent. */
    if ((rendezvous && !ep->ucx->rendezvous) || !in || in->id != head->id || !in->into.base ||
        in->finished || bytes == 0 || head->value != in->posted ||
        bytes > in->base.bytes - in->posted) {
        hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return rendezvous ? UCS_ERR_CANCELED : UCS_OK;
    }
    size_t first = in->posted;
    in->posted += bytes;
    if (rendezvous) return piece_receive(in, (uint8_t *)in->into.base + first, data, bytes);
    for (size_t done = 0, part; done < bytes; done += part) {
        part = bytes - done;
        uint8_t *into = hm_span_write(&in->into, first + done, &part);
        hm_copy(into, (const uint8_t *)data + done, part);
    }
    ep->ucx->metrics.bytes_copied.value += bytes;
    piece_received(in, bytes);
    return UCS_OK;
}

/* ---- UCX's callbacks ----------------------------------------------------------------------- */

static ucs_status_t refused(const ucp_am_recv_param_t *param)
{
    return param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV ? UCS_ERR_CANCELED : UCS_OK;
}

/* A message without a payload. */
static ucs_status_t on_bare(void *arg, const void *head, size_t head_bytes, void *data,
                            size_t bytes, const ucp_am_recv_param_t *param)
{
    struct ucx_ep *ep = addressed(arg, head, head_bytes);
    (void)data;
    if (!ep || !opened(ep)) return refused(param);
    size_t header_bytes = head_bytes - sizeof ep->token;
    if (bytes > 0 || header_bytes > HM_HEADER_BYTES_MAX)
        hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
    else
        hm_ucx_deliver(ep, &ep->nothing, (const uint8_t *)head + sizeof ep->token, header_bytes);
    return refused(param);
}

/* One with a payload; UCS_INPROGRESS: the payload is kept. */
static ucs_status_t on_eager(void *arg, const void *head, size_t head_bytes, void *data,
                             size_t bytes, const ucp_am_recv_param_t *param)
{
    struct ucx_ep *ep = addressed(arg, head, head_bytes);
    if (!ep || !opened(ep)) return refused(param);
    size_t header_bytes = head_bytes - sizeof ep->token;
    if (bytes == 0 || bytes > UCX_EAGER_BYTES_LIMIT || header_bytes > HM_HEADER_BYTES_MAX ||
        !(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_DATA) || !hm_ucx_credit_spend(ep, bytes)) {
        hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
        return refused(param);
    }
    struct ucx_inbound *in = hm_ucx_inbound_make(ep, bytes);
    if (!in) return UCS_OK;
    bool taken = false;
    ep->ucx->metrics.bytes_received.value += bytes;
    in->base.data = in->kept = data;
    in->taken = &taken;
    hm_ucx_deliver(ep, in, (const uint8_t *)head + sizeof ep->token, header_bytes);
    if (taken) return UCS_OK;
    in->taken = NULL;
    return UCS_INPROGRESS;
}

static bool control_arrived(struct ucx_ep *ep, const struct ucx_control *control,
                            const void *header, size_t header_bytes)
{
    switch ((enum ucx_type)control->type) {
    case UCX_HELLO: hello_arrived(ep, control->value); return true;
    case UCX_ANNOUNCE: return announce_arrived(ep, control, header, header_bytes);
    case UCX_PULL:
    case UCX_DROP:
    case UCX_DONE: return hm_ucx_send_control(ep, control->type, control->id);
    case UCX_CREDIT: return credit_arrived(ep, control->value);
    case UCX_DATA:
    case UCX_BEGIN:
    case UCX_MORE: break;
    }
    return false;
}

static ucs_status_t on_control(void *arg, const void *head, size_t head_bytes, void *data,
                               size_t bytes, const ucp_am_recv_param_t *param)
{
    struct ucx_control control;
    struct ucx_ep *ep = addressed(arg, head, head_bytes);
    if (!ep || ep->state >= UCX_FAILING || head_bytes < sizeof control) return refused(param);
    memcpy(&control, head, sizeof control);
    if (control.type != UCX_HELLO && !opened(ep)) return refused(param);
    bool rendezvous = param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV;
    if (control.type == UCX_DATA) return piece_arrived(ep, &control, data, bytes, rendezvous);
    const uint8_t *header = (const uint8_t *)head + sizeof control;
    size_t header_bytes = head_bytes - sizeof control;
    bool good = false;
    if (control.type == UCX_BEGIN)
        good = !rendezvous &&
               hm_ucx_assemble_begin(ep, control.value, header, header_bytes, data, bytes);
    else if (control.type == UCX_MORE)
        good = !rendezvous && hm_ucx_assemble_more(ep, control.value, data, bytes);
    else
        good = bytes == 0 && control_arrived(ep, &control, header, header_bytes);
    if (!good) hm_ucx_ep_fail(ep, HM_ERR_PEER_PROTOCOL);
    return refused(param);
}

enum hm_status hm_ucx_receive_register(struct ucx *ucx)
{
    static const struct {
        unsigned id, flags;
        ucp_am_recv_callback_t cb;
    } handlers[] = {
        {UCX_AM_BARE, 0, on_bare},
        {UCX_AM_EAGER, UCP_AM_FLAG_PERSISTENT_DATA, on_eager},
        {UCX_AM_CONTROL, 0, on_control},
    };
    for (size_t i = 0; i < HM_COUNT_OF(handlers); i++) {
        const ucp_am_handler_param_t param = {
            .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                          UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
            .id = handlers[i].id,
            .flags = UCP_AM_FLAG_WHOLE_MSG | handlers[i].flags,
            .cb = handlers[i].cb,
            .arg = ucx,
        };
        ucs_status_t status = ucp_worker_set_am_recv_handler(ucx->worker, &param);
        if (status != UCS_OK)
            return hm_fail(HM_ERR_UNSUPPORTED, "UCX takes no handlers: %s",
                           ucs_status_string(status));
    }
    return HM_OK;
}

/* ---- pull and drop ------------------------------------------------------------------------- */

/* The payload of an eager one is not needed any more. */
static void eager_release(struct ucx_inbound *in)
{
    struct ucx_ep *ep = in->ep;
    if (in->buf)
        hm_buf_put(in->buf);
    else if (in->taken)
        *in->taken = true; /* UCX takes it back when its callback returns */
    else
        ucp_am_data_release(ep->ucx->worker, in->kept);
    in->kept = NULL;
    in->taken = NULL;
    in->buf = NULL;
    ep->credit_owed += charge(in->base.bytes);
    if (ep->credit_owed >= ep->ucx->receive_bytes_max / 4) hm_ucx_turn_soon(ep);
}

void hm_ucx_drop(struct hm_inbound *base)
{
    struct ucx_inbound *in = HM_CONTAINER_OF(base, struct ucx_inbound, base);
    struct ucx_ep *ep = in->ep;
    HM_ASSERT(ep->inbounds_out > 0);
    ep->inbounds_out--;
    if (in->base.data) eager_release(in);
    if (in->id) {
        uint64_t id = in->id;
        ep->place_in[id % UCX_PLACES] = NULL;
        if (ep->state == UCX_UP) hm_ucx_say(ep, UCX_DROP, id, 0);
    }
    if (in != &ep->nothing) hm_ucx_inbound_put(ep->ucx, in);
    if (ep->state == UCX_GONE) hm_ucx_ep_release(ep);
}

enum hm_status hm_ucx_pull(struct hm_inbound *base, const struct hm_span *into, hm_wire_cb done,
                           void *arg)
{
    struct ucx_inbound *in = HM_CONTAINER_OF(base, struct ucx_inbound, base);
    struct ucx_ep *ep = in->ep;
    HM_ASSERT(into->bytes >= base->bytes);
    enum hm_status status = HM_OK;
    struct ucx_inbound *taken = in;
    if (ep->state != UCX_UP) status = HM_ERR_PEER_UNREACHABLE;
    /* Pieces and eager payloads are copied by the CPU, but for rendezvous. */
    if (!ep->ucx->memory[into->mem]) status = HM_ERR_UNSUPPORTED;
    if (status == HM_OK && in == &ep->nothing && !(taken = hm_ucx_inbound_make(ep, 0)))
        status = HM_ERR_NO_MEMORY;
    if (status != HM_OK) {
        hm_ucx_drop(base);
        return status;
    }
    HM_ASSERT(ep->inbounds_out > 0);
    ep->inbounds_out--;
    taken->done = done;
    taken->arg = arg;
    taken->into = *into;
    if (into->owner) hm_buf_get(into->owner);
    if (taken->id) {
        ep->ucx->pulling++;
        ep->ucx->piece_looks = 0;
        hm_ucx_say(ep, UCX_PULL, taken->id, 0);
        return HM_OK;
    }
    if (taken->base.data) {
        hm_copy(into->base, taken->base.data, taken->base.bytes);
        ep->ucx->metrics.bytes_copied.value += taken->base.bytes;
        eager_release(taken);
    }
    taken->base.data = NULL;
    pull_finish(taken, HM_OK);
    return HM_OK;
}

void hm_ucx_receive_credit(struct ucx_ep *ep)
{
    if (ep->credit_owed == 0 || ep->credit_owed < ep->ucx->receive_bytes_max / 4) return;
    uint64_t owed = ep->credit_owed;
    ep->credit_left += owed;
    ep->credit_owed = 0;
    hm_ucx_say(ep, UCX_CREDIT, 0, owed);
}

void hm_ucx_receive_callbacks(struct ucx_ep *ep)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&ep->pulled)) != NULL) {
        struct ucx_inbound *in = HM_CONTAINER_OF(link, struct ucx_inbound, link);
        uint64_t id = in->id;
        if (in->done) in->done(in->arg, in->status);
        inbound_release(in);
        if (id && ep->state == UCX_UP) hm_ucx_say(ep, UCX_DONE, id, 0);
    }
}

void hm_ucx_receive_abort(struct ucx_ep *ep)
{
    hm_ucx_assemble_abort(ep);
    for (unsigned i = 0; i < UCX_PLACES; i++) {
        struct ucx_inbound *in = ep->place_in[i];
        ep->place_in[i] = NULL;
        if (in && in->into.base) pull_finish(in, ep->why); /* else it is the user's to drop */
    }
}
