/* base/timer_heap.c - 4-ary min-heap of the callers' timers.
 *
 * Owns the array of keys and pointers, which grows by doubling and never shrinks.  timer->heap_slot
 * is the timer's place in it, and means something only while timer->due is not 0.  Four children to
 * a node halve the depth of a binary heap and lie side by side, which pays because most timers here
 * are deadlines that are stopped before they are due. */
#include "base/timer_heap.h"

#include "base/assert.h"

#include <stdlib.h>

enum { CHILDREN = 4, SLOTS_AT_START = 256 };

static bool before(const struct hm_timer_slot *a, const struct hm_timer_slot *b)
{
    return a->due != b->due ? a->due < b->due : a->order < b->order;
}

static void place(struct hm_timer_heap *heap, uint32_t at, const struct hm_timer_slot *moved)
{
    heap->slot[at] = *moved;
    moved->timer->heap_slot = at;
}

/* `moved` is not in the array: its place is free at `at`. */
static void sift_up(struct hm_timer_heap *heap, uint32_t at, const struct hm_timer_slot *moved)
{
    while (at > 0) {
        uint32_t parent = (at - 1) / CHILDREN;
        if (!before(moved, &heap->slot[parent])) break;
        place(heap, at, &heap->slot[parent]);
        at = parent;
    }
    place(heap, at, moved);
}

static void sift_down(struct hm_timer_heap *heap, uint32_t at, const struct hm_timer_slot *moved)
{
    for (;;) {
        uint64_t first = (uint64_t)at * CHILDREN + 1;
        if (first >= heap->count) break;
        uint64_t end = first + CHILDREN < heap->count ? first + CHILDREN : heap->count;
        uint32_t least = (uint32_t)first;
        for (uint64_t child = first + 1; child < end; child++)
            if (before(&heap->slot[child], &heap->slot[least])) least = (uint32_t)child;
        if (!before(&heap->slot[least], moved)) break;
        place(heap, at, &heap->slot[least]);
        at = least;
    }
    place(heap, at, moved);
}

enum hm_status hm_timer_heap_init(struct hm_timer_heap *heap)
{
    struct hm_timer_slot *slot = malloc(SLOTS_AT_START * sizeof *slot);
    if (!slot) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the timer heap");
    *heap = (struct hm_timer_heap){.slot = slot, .capacity = SLOTS_AT_START, .order_next = 1};
    return HM_OK;
}

void hm_timer_heap_fini(struct hm_timer_heap *heap)
{
    free(heap->slot);
    *heap = (struct hm_timer_heap){0};
}

static void grow(struct hm_timer_heap *heap)
{
    HM_ASSERT(heap->capacity <= UINT32_MAX / 2);
    uint32_t capacity = heap->capacity * 2;
    struct hm_timer_slot *slot = realloc(heap->slot, capacity * sizeof *slot);
    HM_ASSERT(slot); /* starting a timer has no way to fail: a deadline that is not kept would hang
                        a call */
    heap->slot = slot;
    heap->capacity = capacity;
}

void hm_timer_heap_start(struct hm_timer_heap *heap, struct hm_timer *timer, hm_ns due)
{
    HM_ASSERT(due > 0 && timer->cb);
    if (timer->due != 0) hm_timer_heap_stop(heap, timer);
    if (heap->count == heap->capacity) grow(heap);
    timer->due = due;
    timer->order = heap->order_next++;
    const struct hm_timer_slot added = {due, timer->order, timer};
    sift_up(heap, heap->count++, &added);
}

void hm_timer_heap_stop(struct hm_timer_heap *heap, struct hm_timer *timer)
{
    if (timer->due == 0) return;
    uint32_t slot = timer->heap_slot;
    HM_ASSERT(slot < heap->count && heap->slot[slot].timer == timer);
    const struct hm_timer_slot last = heap->slot[--heap->count];
    timer->due = 0;
    if (last.timer == timer) return;
    if (slot > 0 && before(&last, &heap->slot[(slot - 1) / CHILDREN]))
        sift_up(heap, slot, &last);
    else
        sift_down(heap, slot, &last);
}

hm_ns hm_timer_heap_next(const struct hm_timer_heap *heap)
{
    return heap->count > 0 ? heap->slot[0].due : HM_NS_NEVER;
}

struct hm_timer *hm_timer_heap_pop(struct hm_timer_heap *heap, hm_ns now, uint64_t order_limit)
{
    if (heap->count == 0) return NULL;
    const struct hm_timer_slot *first = &heap->slot[0];
    struct hm_timer *timer = first->timer;
    if (first->due > now || first->due == HM_NS_NEVER || first->order >= order_limit) return NULL;
    hm_timer_heap_stop(heap, timer);
    return timer;
}

void hm_timer_heap_check(const struct hm_timer_heap *heap)
{
    HM_ASSERT(heap->count <= heap->capacity);
    for (uint32_t slot = 0; slot < heap->count; slot++) {
        const struct hm_timer_slot *at = &heap->slot[slot];
        HM_ASSERT(at->timer->heap_slot == slot && at->timer->due == at->due && at->due > 0);
        HM_ASSERT(at->timer->order == at->order && at->order < heap->order_next);
        HM_ASSERT(slot == 0 || before(&heap->slot[(slot - 1) / CHILDREN], at));
    }
}
