/* moe/arena.c - blocks of growing size; a reset after which more than one is left makes them one.
 * */
#include "moe/arena.h"

#include "base/assert.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>

enum { ALIGN = 64 };
static const size_t block_bytes_min = (size_t)1 << 20;

struct hm_arena_block {
    alignas(ALIGN) struct hm_arena_block *older;
    size_t bytes, used;
    alignas(ALIGN) char memory[];
};

void hm_arena_init(struct hm_arena *arena, size_t bytes_max)
{
    *arena = (struct hm_arena){.bytes_max = bytes_max};
}

static void free_blocks(struct hm_arena *arena)
{
    while (arena->block) {
        struct hm_arena_block *older = arena->block->older;
        free(arena->block);
        arena->block = older;
    }
}

void hm_arena_fini(struct hm_arena *arena)
{
    free_blocks(arena);
    arena->bytes_used = 0;
}

static struct hm_arena_block *make_block(size_t bytes)
{
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    struct hm_arena_block *block = aligned_alloc(ALIGN, sizeof *block + bytes);
    if (!block) return NULL;
    block->older = NULL;
    block->bytes = bytes;
    block->used = 0;
    return block;
}

void hm_arena_reset(struct hm_arena *arena)
{
    if (arena->block && arena->block->older) {
        size_t bytes = arena->bytes_used;
        free_blocks(arena);
        arena->block = make_block(bytes); /* NULL: the next get tries again */
    } else if (arena->block) {
        arena->block->used = 0;
    }
    arena->bytes_used = 0;
}

void *hm_arena_get(struct hm_arena *arena, size_t bytes)
{
    if (bytes > arena->bytes_max) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > arena->bytes_max - arena->bytes_used) return NULL;
    struct hm_arena_block *block = arena->block;
    if (!block || block->bytes - block->used < bytes) {
        size_t wanted = block ? 2 * block->bytes : block_bytes_min;
        if (wanted < bytes) wanted = bytes;
        block = make_block(wanted);
        if (!block) return NULL;
        block->older = arena->block;
        arena->block = block;
    }
    void *piece = block->memory + block->used;
    block->used += bytes;
    arena->bytes_used += bytes;
    return piece;
}

size_t hm_arena_blocks(const struct hm_arena *arena)
{
    size_t count = 0;
    for (const struct hm_arena_block *block = arena->block; block; block = block->older) count++;
    return count;
}
