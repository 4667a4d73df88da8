/* perf/preload/count_heap.c - counts what a process asks of the heap, whoever asks in it: loaded before the C
 * library (LD_PRELOAD) into the processes of `hivemind bench throughput` and `latency`, which find hm_heap_asked by
 * name.
 *
 * Threads: any.  What is freed is not counted: it was asked for before. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* glibc's own names of what is replaced. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *old, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
uint64_t hm_heap_asked(void);

static _Atomic uint64_t asked;

static void count(void)
{
    atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed);
}

uint64_t hm_heap_asked(void)
{
    return atomic_load_explicit(&asked, memory_order_relaxed);
}

void *malloc(size_t bytes)
{
    count();
    return __libc_malloc(bytes);
}

void *calloc(size_t items, size_t bytes)
{
    count();
    return __libc_calloc(items, bytes);
}

void *realloc(void *old, size_t bytes)
{
    count();
    return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
    count();
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    void *got = memalign(alignment, bytes);
    if (!got) return ENOMEM;
    *out = got;
    return 0;
}
