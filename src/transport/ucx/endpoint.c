/* transport/ucx/endpoint.c - an endpoint's life.
 *
 *   offer() -> OFFERED --accept()--> JOINING --their hello--> UP: up()
 *                 |                     |                      |
 *                 '-------- fail -------+----------------------'
 *                              v
 *              FAILING: before the loop sleeps: callbacks, down()
 *                              v
 *                            GONE: UCX lets go of the rest (flushed a while, then forced);
 *                                  freed once it has, and the last inbound is dropped
 *
 * Owns:      the UCP endpoint; the rest of struct ucx_ep is send.c's and receive.c's.
 * Failure:   hm_ucx_ep_fail with a status, once; everything else follows from it.  UCX's own reports
 *            are hints: they end the fast path, not the peer.
 * Invariant: the sink is called from the hook only (UCX's callbacks, turns), never from a user's
 *            call.  A place in the table is a living token. */
#include "transport/ucx/ucx.h"

#include "base/map.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_BITS = 16, MARK_BYTES = 16, ADDRESS_SLACK_BYTES = 256 };
#define FLUSH_NS (100 * HM_MS)

static const char blob_mark[8] = "hm-ucx1";

/* ---- the table ----------------------------------------------------------------------------- */

struct ucx_ep *hm_ucx_ep_find(struct ucx *ucx, uint64_t token)
{
    uint64_t slot = token & ((1u << SLOT_BITS) - 1);
    struct ucx_ep *ep = slot < (uint64_t)2 * ucx->endpoints_max ? ucx->slot[slot] : NULL;
    return ep && ep->token == token ? ep : NULL;
}

/* A place, and a token that names it; false: they are all taken. */
static bool token_draw(struct ucx *ucx, struct ucx_ep *ep)
{
    unsigned slots = 2 * ucx->endpoints_max;
    for (unsigned i = 0; i < slots; i++) {
        unsigned slot = (ucx->slot_next + i) % slots;
        if (ucx->slot[slot]) continue;
        uint64_t drawn = hm_loop_random(ucx->loop, HM_RANDOM_IDS) | (uint64_t)1 << 63;
        ep->token = drawn << SLOT_BITS | slot | (uint64_t)1 << 63;
        ucx->slot[slot] = ep;
        ucx->slot_next = slot + 1;
        return true;
    }
    return false;
}

static void token_forget(struct ucx_ep *ep)
{
    if (ep->token) ep->ucx->slot[ep->token & ((1u << SLOT_BITS) - 1)] = NULL;
}

/* ---- the way up ---------------------------------------------------------------------------- */

static void on_timer(struct hm_timer *timer);

/* The blob: a mark and a checksum, since UCX takes any bytes for an address of its own. */
static void offer_fill(const struct ucx_ep *ep, struct hm_fabric_offer *offer)
{
    const struct ucx *ucx = ep->ucx;
    uint64_t sum = hm_hash(ucx->address, ucx->address_bytes, 0);
    memset(offer, 0, sizeof *offer);
    offer->token = ep->token;
    memcpy(offer->settings, ucx->settings, sizeof offer->settings);
    offer->address_bytes = (uint16_t)(MARK_BYTES + ucx->address_bytes);
    memcpy(offer->address, blob_mark, sizeof blob_mark);
    memcpy(offer->address + sizeof blob_mark, &sum, sizeof sum);
    memcpy(offer->address + MARK_BYTES, ucx->address, ucx->address_bytes);
}

static bool blob_valid(const struct ucx *ucx, const struct hm_fabric_offer *offer)
{
    uint64_t sum;
    if (offer->address_bytes <= MARK_BYTES || offer->address_bytes > sizeof offer->address)
        return false;
    memcpy(&sum, offer->address + sizeof blob_mark, sizeof sum);
    const uint8_t *address = offer->address + MARK_BYTES;
    size_t byte_count = offer->address_bytes - (size_t)MARK_BYTES;
    return memcmp(offer->address, blob_mark, sizeof blob_mark) == 0 && offer->token != 0 &&
           hm_hash(address, byte_count, 0) == sum && hm_ucx_address_valid(ucx, address, byte_count);
}

static enum hm_status fabric_offer(struct hm_transport *base, const struct hm_node_id *node,
                                   struct hm_fabric_offer *offer, struct hm_ep **offered)
{
    struct ucx *ucx = ucx_of(base);
    if (ucx->closing) return HM_ERR_CANCELED;
    if (ucx->endpoint_count >= ucx->endpoints_max) return HM_ERR_BUSY;
    struct ucx_ep *ep = calloc(1, sizeof *ep);
    if (!ep) return HM_ERR_NO_MEMORY;
    ep->ucx = ucx;
    if (!token_draw(ucx, ep)) { /* too much that is dead is still in UCX's hands */
        free(ep);
        return HM_ERR_BUSY;
    }
    ep->base.transport = base;
    ep->node = *node;
    ep->timer = (struct hm_timer){.cb = on_timer, .arg = ep};
    hm_list_init(&ep->turn_link);
    hm_ucx_send_init(ep);
    hm_ucx_receive_init(ep);
    hm_list_push(&ucx->eps, &ep->link);
    ucx->endpoint_count++;
    ucx->metrics.endpoints.value++;
    hm_timer_start(ucx->loop, &ep->timer, ucx->handshake_max);
    offer_fill(ep, offer);
    *offered = &ep->base;
    return HM_OK;
}

/* Inside ucp_worker_progress, or ucp_ep_create and others: the turn does what follows. */
static void on_error(void *arg, ucp_ep_h failed, ucs_status_t status)
{
    struct ucx_ep *ep = arg;
    (void)failed;
    ep->broken = true;
    if (ep->state < UCX_FAILING) {
        ep->ucx->metrics.broken.value++;
        hm_log(HM_LOG_INFO, "ucx", "an endpoint is broken: %s", ucs_status_string(status));
    }
    hm_ucx_ep_fail(ep, ep->state == UCX_UP ? HM_ERR_PEER_RESET : HM_ERR_PEER_UNREACHABLE);
}

static enum hm_status fabric_accept(struct hm_ep *base, const struct hm_fabric_offer *theirs)
{
    struct ucx_ep *ep = ucx_ep_of(base);
    struct ucx *ucx = ep->ucx;
    if (ep->state >= UCX_FAILING) return HM_OK; /* its down() is on the way */
    HM_ASSERT(ep->state == UCX_OFFERED);
    if (strncmp(theirs->settings, ucx->settings, sizeof ucx->settings) != 0)
        return hm_fail(HM_ERR_PEER_VERSION, "the fabric is '%.150s' there and '%.150s' here",
                       theirs->settings, ucx->settings);
    if (!blob_valid(ucx, theirs))
        return hm_fail(HM_ERR_PEER_PROTOCOL, "the other side's UCX address is none");
    /* UCX reads some transports' addresses in their full size, whatever length was said. */
    uint8_t address[HM_FABRIC_ADDRESS_BYTES_MAX + ADDRESS_SLACK_BYTES] = {0};
    memcpy(address, theirs->address + MARK_BYTES, theirs->address_bytes - (size_t)MARK_BYTES);
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER,
        .address = (const ucp_address_t *)address,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {.cb = on_error, .arg = ep},
    };
    ucs_status_t status = ucp_ep_create(ucx->worker, &params, &ep->ep);
    if (status != UCS_OK) {
        ep->ep = NULL;
        return hm_fail(HM_ERR_PEER_UNREACHABLE,
                       "UCX knows no way to that node: %s; processes of one machine share memory, "
                       "others need RDMA or --fabric-tcp",
                       ucs_status_string(status));
    }
    ep->their_token = theirs->token;
    ep->state = UCX_JOINING;
    hm_ucx_say(ep, UCX_HELLO, 0, ucx->receive_bytes_max);
    hm_ucx_turn_soon(ep); /* it may have been heard before */
    return HM_OK;
}

void hm_ucx_ep_heard(struct ucx_ep *ep)
{
    struct ucx *ucx = ep->ucx;
    if (!ep->heard || ep->state != UCX_JOINING) return;
    hm_timer_stop(ucx->loop, &ep->timer);
    ep->state = UCX_UP;
    ucx->metrics.ups.value++;
    if (ucx->tcp) hm_ucx_descriptors_close_on_exec(ucx);
    ucx->sink.up(ucx->sink.arg, &ep->base, &ep->node, NULL);
}

/* ---- the way down -------------------------------------------------------------------------- */

void hm_ucx_ep_fail(struct ucx_ep *ep, enum hm_status why)
{
    if (ep->state >= UCX_FAILING) return;
    hm_timer_stop(ep->ucx->loop, &ep->timer);
    if (why == HM_ERR_PEER_PROTOCOL) ep->ucx->metrics.failures_protocol.value++;
    hm_ucx_turn_soon(ep);
    ep->state = UCX_FAILING;
    ep->why = why;
    /* Nothing may wake the loop before the turn. */
    hm_timer_start(ep->ucx->loop, &ep->timer, 0);
}

void hm_ucx_ep_close_now(struct ucx_ep *ep)
{
    const ucp_request_param_t force = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                       .flags = UCP_EP_CLOSE_FLAG_FORCE};
    ucp_ep_h closing = ep->ep;
    hm_timer_stop(ep->ucx->loop, &ep->timer);
    ep->flushing = false;
    ep->ep = NULL;
    if (closing) {
        ep->wire_ops++; /* UCX calls back from inside: the endpoint must outlive that */
        ucs_status_ptr_t request = ucp_ep_close_nbx(closing, &force);
        if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
        ep->wire_ops--;
    }
    hm_ucx_ep_release(ep);
}

static void on_flushed(void *request, ucs_status_t status, void *arg)
{
    struct ucx_ep *ep = arg;
    (void)status;
    ucp_request_free(request);
    ep->wire_ops--;
    ep->ucx->wire_ops--;
    /* Not here: UCX is inside that endpoint. */
    if (ep->flushing) hm_timer_start(ep->ucx->loop, &ep->timer, 0);
    hm_ucx_ep_release(ep);
}

/* What was sent before a disconnect and fits the wire goes out; then, or soon, the endpoint is
 * closed by force: an orderly close would wait for the peer. */
static void close_begin(struct ucx_ep *ep)
{
    const ucp_request_param_t param = {.op_attr_mask =
                                           UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
                                       .cb.send = on_flushed,
                                       .user_data = ep};
    if (ep->ep && !ep->broken && !ep->ucx->closing && ep->why == HM_ERR_CANCELED) {
        ucs_status_ptr_t request = ucp_ep_flush_nbx(ep->ep, &param);
        if (UCS_PTR_IS_PTR(request)) {
            ep->wire_ops++;
            ep->ucx->wire_ops++;
            ep->flushing = true;
            hm_timer_start(ep->ucx->loop, &ep->timer, FLUSH_NS);
            return;
        }
    }
    hm_ucx_ep_close_now(ep);
}

static void on_timer(struct hm_timer *timer)
{
    struct ucx_ep *ep = timer->arg;
    if (ep->state == UCX_GONE)
        hm_ucx_ep_close_now(ep);
    else if (ep->state != UCX_FAILING) /* failing: awake for the turn */
        hm_ucx_ep_fail(ep, HM_ERR_PEER_UNREACHABLE);
}

static void tear_down(struct ucx_ep *ep)
{
    struct ucx *ucx = ep->ucx;
    hm_timer_stop(ucx->loop, &ep->timer);
    hm_ucx_send_abort(ep);
    hm_ucx_receive_abort(ep);
    hm_ucx_receive_callbacks(ep);
    hm_ucx_send_callbacks(ep);
    ucx->sink.down(ucx->sink.arg, &ep->base, ep->why);
    ucx->endpoint_count--;
    ucx->metrics.endpoints.value--;
    hm_list_remove(&ep->turn_link);
    ep->state = UCX_GONE;
    close_begin(ep);
}

void hm_ucx_ep_turn(struct ucx_ep *ep)
{
    hm_ucx_ep_heard(ep);
    if (ep->state == UCX_UP) {
        hm_ucx_receive_callbacks(ep);
        hm_ucx_receive_credit(ep);
        hm_ucx_send_pump(ep);
        hm_ucx_send_callbacks(ep);
    } else if (ep->state == UCX_FAILING) {
        tear_down(ep);
    }
}

void hm_ucx_ep_release(struct ucx_ep *ep)
{
    if (ep->state != UCX_GONE || ep->ep || ep->wire_ops > 0) return;
    if (ep->inbounds_out > 0 || ep->receiving > 0) return;
    hm_timer_stop(ep->ucx->loop, &ep->timer);
    hm_list_remove(&ep->link);
    token_forget(ep);
    if (ep->ucx->closing && !hm_timer_active(&ep->ucx->poll))
        hm_timer_start(ep->ucx->loop, &ep->ucx->poll, 0); /* the hook ends it */
    free(ep);
}

static void fabric_lost(struct hm_ep *base, enum hm_status why)
{
    struct ucx_ep *ep = ucx_ep_of(base);
    ep->broken = true; /* nothing to flush */
    hm_ucx_ep_fail(ep, why);
}

const struct hm_fabric_ops hm_ucx_fabric = {
    .offer = fabric_offer, .accept = fabric_accept, .lost = fabric_lost};
