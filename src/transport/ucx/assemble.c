/* transport/ucx/assemble.c - eager messages that are longer than a segment, put together.
 *
 *   BEGIN bytes, header; first piece ──► a buffer of the pool ◄── MORE offset; next piece ...
 *                                                │ all of it is here
 *                                                ▼
 *                                            message()
 *
 * UCX would do it too, in memory that it asks the heap for once a message.
 *
 * Owns:      the message at hand of each endpoint, until it is delivered.
 * Failure:   what is not the next piece of the message at hand ends the endpoint with
 *            HM_ERR_PEER_PROTOCOL; so does a second BEGIN before the first is whole.
 * Invariant: a message takes its credit when it begins, so what a peer can have begun is within it. */
#include "base/copy.h"
#include "transport/ucx/ucx.h"

#include <string.h>

static void take(struct ucx_inbound *in, const void *data, size_t bytes)
{
    struct ucx *ucx = in->ep->ucx;
    hm_copy((uint8_t *)in->buf->base + in->received, data, bytes);
    in->received += bytes;
    ucx->metrics.bytes_received.value += bytes;
    ucx->metrics.bytes_copied.value += bytes;
}

bool hm_ucx_assemble_begin(struct ucx_ep *ep, uint64_t total, const void *header,
                           size_t header_bytes, const void *data, size_t bytes)
{
    if (ep->assembling || total > UCX_EAGER_BYTES_LIMIT || bytes == 0 || bytes >= total ||
        header_bytes > HM_HEADER_BYTES_MAX || !hm_ucx_credit_spend(ep, (size_t)total))
        return false;
    struct ucx_inbound *in = hm_ucx_inbound_make(ep, (size_t)total);
    if (!in) return true;
    /* The header behind the payload, which so stays aligned. */
    if (hm_buf_pool_get(ep->ucx->pool, (size_t)total + header_bytes, &in->buf) != HM_OK) {
        hm_ucx_inbound_put(ep->ucx, in);
        hm_ucx_ep_fail(ep, HM_ERR_NO_MEMORY);
        return true;
    }
    if (header_bytes > 0) memcpy((uint8_t *)in->buf->base + total, header, header_bytes);
    in->header_bytes = header_bytes;
    ep->assembling = in;
    take(in, data, bytes);
    return true;
}

bool hm_ucx_assemble_more(struct ucx_ep *ep, uint64_t offset, const void *data, size_t bytes)
{
    struct ucx_inbound *in = ep->assembling;
    if (!in || bytes == 0 || offset != in->received || bytes > in->base.bytes - in->received)
        return false;
    take(in, data, bytes);
    if (in->received < in->base.bytes) return true;
    ep->assembling = NULL;
    in->base.data = in->buf->base;
    hm_ucx_deliver(ep, in, (const uint8_t *)in->buf->base + in->base.bytes, in->header_bytes);
    return true;
}

void hm_ucx_assemble_abort(struct ucx_ep *ep)
{
    struct ucx_inbound *in = ep->assembling;
    ep->assembling = NULL;
    if (!in) return;
    hm_buf_put(in->buf);
    hm_ucx_inbound_put(ep->ucx, in);
}
