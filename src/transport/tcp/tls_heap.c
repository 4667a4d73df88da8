/* transport/tcp/tls_heap.c - what OpenSSL takes from the heap for every record, without the heap.
 *
 * OpenSSL 3.0 takes two to four blocks of 40 bytes for a record and gives them back before its call
 * returns (its packet writer's), and no setting keeps it from that.  Between hm_tls_hot(true) and
 * hm_tls_hot(false), around reads and writes of connections that are up, blocks so small come from a
 * fixed arena; everything else, and all of a host program that has chosen its own functions or has
 * used OpenSSL before us, comes from malloc as ever.
 *
 * Owns:      the arena, for the life of the process.
 * Happy path: take pops a block, give pushes it back: one atomic exchange each, no lock.
 * Failure:   an empty arena is malloc.
 * Thread:    any.  A block may be given back by another thread than took it, and long after: whose it
 *            is says its address.
 * Invariant: a block is on the stack of free ones or in use.  The tag beside the top grows with each
 *            change, so that a top that has gone and come back is not taken for the same.
 *
 * Sanitizers watch the heap; there OpenSSL keeps to it. */
#include "base/assert.h"
#include "transport/tcp/tls.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

enum { BLOCK_BYTES = 64, BLOCKS = 64 };
static _Alignas(BLOCK_BYTES) unsigned char arena[BLOCKS][BLOCK_BYTES];
static _Atomic uint32_t below[BLOCKS]; /* a free one's: 1 + the next free one's index; 0: none */
static _Atomic uint64_t top;           /* tag << 32 | likewise */
static _Thread_local bool hot;

static uint64_t tagged(uint64_t old, uint32_t number)
{
    return ((old >> 32) + 1) << 32 | number;
}

static void *take(void)
{
    uint64_t old = atomic_load_explicit(&top, memory_order_acquire);
    for (;;) {
        uint32_t number = (uint32_t)old;
        if (number == 0) return NULL;
        uint32_t next = atomic_load_explicit(&below[number - 1], memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&top, &old, tagged(old, next),
                                                  memory_order_acquire, memory_order_acquire))
            return arena[number - 1];
    }
}

static bool is_ours(const void *block)
{
    return (uintptr_t)block - (uintptr_t)arena < sizeof arena;
}

static void give(void *block)
{
    uint32_t index = (uint32_t)(((uintptr_t)block - (uintptr_t)arena) / BLOCK_BYTES);
    uint64_t old = atomic_load_explicit(&top, memory_order_relaxed);
    do atomic_store_explicit(&below[index], (uint32_t)old, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&top, &old, tagged(old, index + 1),
                                                  memory_order_release, memory_order_relaxed));
}

static void *heap_malloc(size_t bytes, const char *file, int line)
{
    (void)file, (void)line;
    void *block = hot && bytes <= BLOCK_BYTES ? take() : NULL;
    return block ? block : malloc(bytes);
}

static void heap_free(void *block, const char *file, int line)
{
    (void)file, (void)line;
    if (block && is_ours(block))
        give(block);
    else
        free(block);
}

static void *heap_realloc(void *block, size_t bytes, const char *file, int line)
{
    (void)file, (void)line;
    if (!block || !is_ours(block)) return realloc(block, bytes);
    void *moved = malloc(bytes); /* what grows lives longer than a record */
    if (!moved) return NULL;
    memcpy(moved, block, bytes < BLOCK_BYTES ? bytes : BLOCK_BYTES);
    give(block);
    return moved;
}

/* OpenSSL takes new functions only before its first block, so this comes before main. */
__attribute__((constructor)) static void heap_start(void)
{
    for (uint32_t i = 0; i < BLOCKS; i++) atomic_init(&below[i], i);
    atomic_init(&top, BLOCKS);
    (void)CRYPTO_set_mem_functions(heap_malloc, heap_realloc, heap_free);
}

void hm_tls_hot(bool begins)
{
    hot = begins;
}

#else
void hm_tls_hot(bool begins)
{
    (void)begins;
}
#endif
