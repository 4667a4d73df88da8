/* moe/arena.h - memory that is handed out piece by piece and taken back all at once.
 *
 * After the first resets everything lies in one block of the largest size needed so far: no malloc
 * any more. */
#ifndef HM_MOE_ARENA_H
#define HM_MOE_ARENA_H

#include "base/status.h"

#include <stddef.h>

struct hm_arena_block;
struct hm_arena {
    struct hm_arena_block *block; /* the newest; pieces come from it */
    size_t bytes_used;            /* since reset, padding included */
    size_t bytes_max;
};
void hm_arena_init(struct hm_arena *arena, size_t bytes_max);
void hm_arena_fini(struct hm_arena *arena);
void hm_arena_reset(struct hm_arena *arena);
/* Aligned to 64 bytes, not cleared; NULL: over bytes_max, or no memory. */
void *hm_arena_get(struct hm_arena *arena, size_t bytes);
size_t hm_arena_blocks(const struct hm_arena *arena);

#endif
