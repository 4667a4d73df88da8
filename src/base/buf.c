/* base/buf.c - the pool of counted buffers.
 *
 * Owns:       the memory of every buffer (in use and cached), and the hm_buf structs, which come
 *             in chunks.
 * Happy path: get takes the newest cached buffer of the size class (its pages are warm), or of the
 *             next three, less than twice as large: else sizes that vary would have the pool grow
 *             until each of them had seen its own worst moment.  Put gives it back; neither asks the
 *             system for anything once the pool has seen its load.
 * Failure:    a get over bytes_max first frees cached buffers of other classes, then answers
 *             HM_ERR_BUSY.
 * Invariant:  bytes_used + bytes_cached <= bytes_max.  Every struct is in use, in one class's list
 *             or in `spare`.
 *
 * Lent buffers are structs without memory; what stands for reclaimed memory is one piece for all of
 * them to read and one to write, made with the first that is lent.
 *
 * Size classes: 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ... KiB: four a doubling, so at most a fifth is
 * lost to rounding.  Under ASan the bytes of cached buffers are poisoned: a lane that reads a
 * buffer after its last put is found. */
#include "base/buf.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(base, bytes)   ASAN_POISON_MEMORY_REGION(base, bytes)
#define UNPOISON(base, bytes) ASAN_UNPOISON_MEMORY_REGION(base, bytes)
#else
#define POISON(base, bytes)   ((void)(base), (void)(bytes))
#define UNPOISON(base, bytes) ((void)(base), (void)(bytes))
#endif

enum {
    SMALLEST_BITS = 12, /* 4 KiB */
    LARGEST_BITS = 47,  /* what x86-64 and arm64 processes can address */
    CLASSES = 1 + 4 * (LARGEST_BITS - SMALLEST_BITS),
    LARGER_CLASSES = 3, /* a buffer of these is as good */
    CHUNK_BUFS = 64,
    MAPPED_BYTES_MIN = 64 << 10, /* from here on whole pages, straight from the kernel */
    HUGE_BYTES_MIN = 2 << 20,
    ALIGNMENT = 64, /* a cache line, and an AVX-512 register */
    NOWHERE_BYTES = 64 << 10,
};

struct chunk {
    struct chunk *next;
    struct hm_buf buf[CHUNK_BUFS];
};

struct hm_buf_pool {
    size_t bytes_max, bytes_used, bytes_cached;
    struct hm_buf *cached[CLASSES];
    struct hm_buf *spare; /* structs without memory */
    struct chunk *chunks;
    uint8_t *nowhere; /* what is read of reclaimed memory, then what is written there */
    unsigned lent;
};

/* The class of `bytes` and its capacity.  Above 4 KiB: e is the highest bit of bytes - 1, and the
 * class is the quarter of the doubling (2^e, 2^(e+1)] that bytes lies in. */
static unsigned class_of(size_t bytes, size_t *capacity)
{
    if (bytes <= (size_t)1 << SMALLEST_BITS) {
        *capacity = (size_t)1 << SMALLEST_BITS;
        return 0;
    }
    unsigned e = 63u - (unsigned)__builtin_clzll((unsigned long long)(bytes - 1));
    size_t base = (size_t)1 << e, step = base / 4;
    size_t quarter = (bytes - 1 - base) / step;
    *capacity = base + (quarter + 1) * step;
    return 1 + 4 * (e - SMALLEST_BITS) + (unsigned)quarter;
}

static void *memory_alloc(size_t capacity)
{
    if (capacity < MAPPED_BYTES_MIN) return aligned_alloc(ALIGNMENT, capacity);
    void *base = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    /* Only advice: a kernel without huge pages gives small ones. */
    if (capacity >= HUGE_BYTES_MIN) (void)madvise(base, capacity, MADV_HUGEPAGE);
    return base;
}

static void memory_free(void *base, size_t capacity)
{
    UNPOISON(base, capacity);
    if (capacity < MAPPED_BYTES_MIN) {
        free(base);
        return;
    }
    int failed = munmap(base, capacity);
    HM_ASSERT(!failed);
}

enum hm_status hm_buf_pool_create(size_t bytes_max, struct hm_buf_pool **pool)
{
    HM_ASSERT(bytes_max <= (size_t)1 << LARGEST_BITS);
    struct hm_buf_pool *created = calloc(1, sizeof *created);
    if (!created) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a buffer pool");
    created->bytes_max = bytes_max;
    *pool = created;
    return HM_OK;
}

/* Frees the memory of one cached buffer of a class; its struct becomes spare. */
static void drop_cached(struct hm_buf_pool *pool, unsigned class)
{
    struct hm_buf *buf = pool->cached[class];
    pool->cached[class] = buf->next;
    pool->bytes_cached -= buf->capacity;
    memory_free(buf->base, buf->capacity);
    *buf = (struct hm_buf){.next = pool->spare};
    pool->spare = buf;
}

void hm_buf_pool_destroy(struct hm_buf_pool *pool)
{
    if (!pool) return;
    HM_ASSERT(pool->bytes_used == 0 && pool->lent == 0); /* a buffer has not come back */
    for (unsigned class = 0; class < CLASSES; class ++)
        while (pool->cached[class]) drop_cached(pool, class);
    HM_ASSERT(pool->bytes_cached == 0);
    while (pool->chunks) {
        struct chunk *chunk = pool->chunks;
        pool->chunks = chunk->next;
        free(chunk);
    }
    free(pool->nowhere);
    free(pool);
}

/* Largest first: the fewest system calls for the room. */
static void trim(struct hm_buf_pool *pool, size_t capacity)
{
    for (unsigned class = CLASSES; class -- > 0;)
        while (pool->cached[class]) {
            if (pool->bytes_used + pool->bytes_cached + capacity <= pool->bytes_max) return;
            drop_cached(pool, class);
        }
}

static struct hm_buf *struct_get(struct hm_buf_pool *pool)
{
    if (!pool->spare) {
        struct chunk *chunk = calloc(1, sizeof *chunk);
        if (!chunk) return NULL;
        chunk->next = pool->chunks;
        pool->chunks = chunk;
        for (unsigned i = 0; i < CHUNK_BUFS; i++) {
            chunk->buf[i].next = pool->spare;
            pool->spare = &chunk->buf[i];
        }
    }
    struct hm_buf *buf = pool->spare;
    pool->spare = buf->next;
    return buf;
}

/* A buffer of a class that has none cached: `capacity` is already known to fit beside what is in
 * use. */
static struct hm_buf *buf_alloc(struct hm_buf_pool *pool, size_t capacity)
{
    trim(pool, capacity);
    struct hm_buf *buf = struct_get(pool);
    if (!buf) return NULL;
    void *base = memory_alloc(capacity);
    if (!base) {
        buf->next = pool->spare;
        pool->spare = buf;
        return NULL;
    }
    *buf = (struct hm_buf){.base = base, .capacity = capacity, .pool = pool};
    return buf;
}

static struct hm_buf *cached_take(struct hm_buf_pool *pool, unsigned class)
{
    unsigned end = class + LARGER_CLASSES < CLASSES ? class + LARGER_CLASSES + 1 : CLASSES;
    for (; class < end; class ++) {
        struct hm_buf *got = pool->cached[class];
        if (!got) continue;
        pool->cached[class] = got->next;
        return got;
    }
    return NULL;
}

enum hm_status hm_buf_pool_get(struct hm_buf_pool *pool, size_t bytes, struct hm_buf **buf)
{
    if (bytes > pool->bytes_max) return HM_ERR_TOO_BIG;
    size_t capacity;
    unsigned class = class_of(bytes, &capacity);
    if (capacity > pool->bytes_max) return HM_ERR_TOO_BIG;
    struct hm_buf *got = cached_take(pool, class);
    if (got) {
        capacity = got->capacity;
        pool->bytes_cached -= capacity;
        UNPOISON(got->base, capacity);
    } else {
        if (capacity > pool->bytes_max - pool->bytes_used) return HM_ERR_BUSY;
        got = buf_alloc(pool, capacity);
        if (!got) return HM_ERR_NO_MEMORY;
    }
    pool->bytes_used += capacity;
    got->bytes = bytes;
    got->refs = 1;
    got->next = NULL;
    *buf = got;
    return HM_OK;
}

size_t hm_buf_pool_bytes_used(const struct hm_buf_pool *pool)
{
    return pool->bytes_used;
}

size_t hm_buf_pool_bytes_max(const struct hm_buf_pool *pool)
{
    return pool->bytes_max;
}

struct hm_buf *hm_buf_get(struct hm_buf *buf)
{
    HM_ASSERT(buf->refs > 0 && buf->refs < UINT32_MAX);
    buf->refs++;
    return buf;
}

void hm_buf_put(struct hm_buf *buf)
{
    if (!buf) return;
    HM_ASSERT(buf->refs > 0);
    if (--buf->refs > 0) return;
    struct hm_buf_pool *pool = buf->pool;
    size_t capacity;
    if (buf->lent) {
        pool->lent--;
        *buf = (struct hm_buf){.next = pool->spare};
        pool->spare = buf;
        return;
    }
    unsigned class = class_of(buf->capacity, &capacity);
    HM_ASSERT(capacity == buf->capacity && pool->bytes_used >= capacity);
    pool->bytes_used -= capacity;
    pool->bytes_cached += capacity;
    buf->next = pool->cached[class];
    pool->cached[class] = buf;
    POISON(buf->base, capacity);
}

struct hm_span hm_buf_span(struct hm_buf *buf)
{
    return hm_buf_part(buf, 0, buf->bytes);
}

struct hm_span hm_buf_part(struct hm_buf *buf, size_t offset, size_t bytes)
{
    HM_ASSERT(offset <= buf->bytes && bytes <= buf->bytes - offset);
    return (struct hm_span){
        .base = (char *)buf->base + offset, .bytes = bytes, .mem = HM_MEM_HOST, .owner = buf};
}

/* ---- lent memory ------------------------------------------------------------------------------ */

enum hm_status hm_buf_lend(struct hm_buf_pool *pool, void *base, size_t bytes, struct hm_buf **buf)
{
    if (!pool->nowhere) {
        pool->nowhere = aligned_alloc(ALIGNMENT, 2 * (size_t)NOWHERE_BYTES);
        if (!pool->nowhere) return HM_ERR_NO_MEMORY;
        memset(pool->nowhere, 0xff, NOWHERE_BYTES);
    }
    struct hm_buf *got = struct_get(pool);
    if (!got) return HM_ERR_NO_MEMORY;
    *got = (struct hm_buf){.base = base, .bytes = bytes, .refs = 1, .pool = pool, .lent = true};
    pool->lent++;
    *buf = got;
    return HM_OK;
}

void hm_buf_reclaim(struct hm_buf *buf)
{
    if (!buf) return;
    HM_ASSERT(buf->lent);
    buf->reclaimed = true;
}

/* What stands for the span's memory, if that is gone. */
static uint8_t *nowhere(const struct hm_span *span, size_t offset, size_t *bytes)
{
    HM_ASSERT(offset <= span->bytes);
    if (*bytes > span->bytes - offset) *bytes = span->bytes - offset;
    if (!span->owner || !span->owner->reclaimed) return NULL;
    if (*bytes > NOWHERE_BYTES) *bytes = NOWHERE_BYTES;
    return span->owner->pool->nowhere;
}

const uint8_t *hm_span_read(const struct hm_span *span, size_t offset, size_t *bytes)
{
    const uint8_t *instead = nowhere(span, offset, bytes);
    return instead ? instead : (const uint8_t *)span->base + offset;
}

uint8_t *hm_span_write(const struct hm_span *span, size_t offset, size_t *bytes)
{
    uint8_t *instead = nowhere(span, offset, bytes);
    return instead ? instead + NOWHERE_BYTES : (uint8_t *)span->base + offset;
}
