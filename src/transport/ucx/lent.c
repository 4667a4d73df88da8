/* transport/ucx/lent.c - pieces that fit a segment, as a datatype of UCX, and so copied by us.
 *
 * UCX's own copy is one memcpy of 8 KiB, which some machines are slow at (base/copy.h).  And the
 * memory may be lent (base/buf.h): UCX may keep an operation for as long as the other side does not
 * take it, and reads its buffer when it goes out after all: the lender's memory could be gone by
 * then.  So it is given no buffer, but the operation, and asks for the bytes when it packs them; they
 * are then read through the span.
 *
 * Invariant: as long as UCX has the operation, that holds its send, and the send its spans. */
#include "base/copy.h"
#include "transport/ucx/ucx.h"

#include <string.h>

bool hm_ucx_any_lent(const struct hm_span *span, unsigned span_count)
{
    for (unsigned i = 0; i < span_count; i++)
        if (span[i].owner && span[i].owner->lent) return true;
    return false;
}

static void *pack_start(void *context, const void *buffer, size_t count)
{
    (void)context, (void)count;
    return (void *)(uintptr_t)buffer;
}

static size_t packed_size(void *state)
{
    const struct ucx_op *op = state;
    return op->bytes;
}

/* Bytes of the payload from `offset` on. */
static void payload_copy(const struct ucx_send *send, size_t offset, uint8_t *to, size_t bytes)
{
    for (unsigned i = 0; i < send->span_count && bytes > 0; i++) {
        const struct hm_span *span = &send->span[i];
        for (size_t part; offset < span->bytes && bytes > 0; offset += part) {
            part = bytes;
            const uint8_t *from = hm_span_read(span, offset, &part);
            hm_copy(to, from, part);
            to += part;
            bytes -= part;
        }
        offset -= span->bytes;
    }
    HM_ASSERT(bytes == 0);
}

static size_t pack(void *state, size_t offset, void *to, size_t room)
{
    const struct ucx_op *op = state;
    size_t bytes = op->bytes - offset < room ? op->bytes - offset : room;
    payload_copy(op->send, op->head.value + offset, to, bytes);
    return bytes;
}

static void pack_finish(void *state)
{
    (void)state;
}

/* Nothing is received so. */
static void *unpack_start(void *context, void *buffer, size_t count)
{
    (void)context, (void)count;
    return buffer;
}

static ucs_status_t unpack(void *state, size_t offset, const void *from, size_t bytes)
{
    (void)state, (void)offset, (void)from, (void)bytes;
    return UCS_ERR_UNSUPPORTED;
}

enum hm_status hm_ucx_lent_open(struct ucx *ucx)
{
    static const ucp_generic_dt_ops_t ops = {.start_pack = pack_start,
                                             .start_unpack = unpack_start,
                                             .packed_size = packed_size,
                                             .pack = pack,
                                             .unpack = unpack,
                                             .finish = pack_finish};
    ucs_status_t status = ucp_dt_create_generic(&ops, NULL, &ucx->pieces);
    if (status == UCS_OK) {
        ucx->packs = true;
        return HM_OK;
    }
    return hm_fail(HM_ERR_NO_MEMORY, "UCX takes no datatype: %s", ucs_status_string(status));
}

void hm_ucx_lent_close(struct ucx *ucx)
{
    if (ucx->packs) ucp_dt_destroy(ucx->pieces);
    ucx->packs = false;
}
