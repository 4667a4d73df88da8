/* moe/grow.h - buffers that grow to the largest batch seen and stay, so that a step does not malloc
 * after warm-up. */
#ifndef HM_MOE_GROW_H
#define HM_MOE_GROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Makes room for `count` items of `item_bytes` in *memory (a pointer to some pointer; contents are
 * not kept when it moves).
 * False: no memory; what was there stays. */
static inline bool hm_grow(void *memory, size_t *capacity, size_t count, size_t item_bytes)
{
    void **base = memory;
    if (count <= *capacity) return true;
    size_t wanted = count + count / 4;
    if (wanted > SIZE_MAX / item_bytes) return false;
    void *larger = malloc(wanted * item_bytes);
    if (!larger) return false;
    free(*base);
    *base = larger;
    *capacity = wanted;
    return true;
}

#endif
