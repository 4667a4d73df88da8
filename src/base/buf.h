/* base/buf.h - pooled, counted buffers: the unit of ownership on every data path.
 *
 * A slab is pulled into once, gathered from by batches and sent from by replies; whoever still
 * needs it holds a reference.  A pool keeps freed buffers by size class (four classes a doubling,
 * from 4 KiB) and uses them again, also for sizes down to half of theirs; what it holds, in use and cached, never exceeds bytes_max: an
 * exhausted pool is HM_ERR_BUSY for its user.
 *
 * A lent buffer is somebody else's memory on such a path, so that what is large need not be copied
 * into a slab first or out of one last.  Its lender can take it back at any time, whoever still
 * refers to it.
 *
 * Thread:  references and pools belong to the loop thread.  A lane or a caller's thread reads and
 *          writes the *bytes* of a buffer that the loop holds for it, and never touches the count.
 * Memory:  bases are aligned to 64 bytes, and to the page for buffers of 64 KiB and more. */
#ifndef HM_BASE_BUF_H
#define HM_BASE_BUF_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum hm_mem { HM_MEM_HOST, HM_MEM_PINNED, HM_MEM_CUDA };

struct hm_buf_pool;
struct hm_buf {
    void *base;
    size_t bytes;    /* as asked for */
    size_t capacity; /* of its size class, or of one of the three above it */
    uint32_t refs;
    struct hm_buf_pool *pool;
    struct hm_buf *next; /* the pool's free list */
    bool lent, reclaimed;
};

/* A piece of memory and who keeps it alive.  owner NULL: static storage, valid for ever (tests,
 * constants). */
struct hm_span {
    void *base;
    size_t bytes;
    enum hm_mem mem;
    int16_t device;
    struct hm_buf *owner;
};

HM_MUST_CHECK enum hm_status hm_buf_pool_create(size_t bytes_max, struct hm_buf_pool **pool);
/* Every buffer must have come back: a leak is our bug, and asserted. */
void hm_buf_pool_destroy(struct hm_buf_pool *pool);
/* One reference to a buffer of at least `bytes` bytes (0 is allowed).
 * Errors:  HM_ERR_BUSY when what is in use leaves no room now, HM_ERR_TOO_BIG when even an empty
 *          pool would not do, HM_ERR_NO_MEMORY.  Without a kept line: this is a hot path. */
HM_MUST_CHECK enum hm_status hm_buf_pool_get(struct hm_buf_pool *pool, size_t bytes,
                                             struct hm_buf **buf);
size_t hm_buf_pool_bytes_used(const struct hm_buf_pool *pool);
size_t hm_buf_pool_bytes_max(const struct hm_buf_pool *pool);

struct hm_buf *hm_buf_get(struct hm_buf *buf); /* one more reference; returns buf */
void hm_buf_put(struct hm_buf *buf);           /* NULL is allowed */

/* The whole of a buffer (its `bytes`), or a part, as a span that names it as owner.  Takes no
 * reference. */
struct hm_span hm_buf_span(struct hm_buf *buf);
struct hm_span hm_buf_part(struct hm_buf *buf, size_t offset, size_t bytes);

/* ---- lent memory ------------------------------------------------------------------------------ */

/* One reference to `bytes` bytes of the caller's own, which take no room of the pool's.  The caller
 * keeps them until the buffer has come back or is reclaimed.  HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status hm_buf_lend(struct hm_buf_pool *pool, void *base, size_t bytes,
                                         struct hm_buf **buf);
/* Nobody touches the lender's memory any more.  Who still refers to the buffer reads bytes 0xff there
 * (as f32 not a number, which who receives rows refuses), and writes into the void.  For lent
 * buffers, as often as one likes; NULL is allowed. */
void hm_buf_reclaim(struct hm_buf *buf);
/* Where to read, or to write, a span's bytes from `offset` on: *bytes of them (in: how many are
 * wanted, out: at least one of those, if any are) until the next turn of the loop.  Whoever handles
 * spans that may be lent goes through these, piece by piece: a span's own base is not told when its
 * memory is reclaimed.  Pieces of up to 64 KiB are never cut but by the span's end. */
const uint8_t *hm_span_read(const struct hm_span *span, size_t offset, size_t *bytes);
uint8_t *hm_span_write(const struct hm_span *span, size_t offset, size_t *bytes);

#endif
