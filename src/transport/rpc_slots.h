/* transport/rpc_slots.h - a fixed array of equal items with a free list: taken and given back in
 * O(1).
 *
 * The array is allocated once and never cleared: pages that no item has used yet cost nothing, so a
 * generous bound is cheap.  An item comes with whatever its last user left in it. */
#ifndef HM_TRANSPORT_RPC_SLOTS_H
#define HM_TRANSPORT_RPC_SLOTS_H

#include "base/assert.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

struct hm_slots {
    char *base;
    void *free; /* its first bytes point to the next */
    size_t item_bytes;
    unsigned count, touched, used;
};

HM_MUST_CHECK static inline enum hm_status hm_slots_init(struct hm_slots *slots, size_t item_bytes,
                                                         unsigned count)
{
    HM_ASSERT(item_bytes >= sizeof(void *) && count > 0);
    *slots = (struct hm_slots){.item_bytes = item_bytes, .count = count};
    slots->base = malloc(item_bytes * count);
    return slots->base ? HM_OK : HM_ERR_NO_MEMORY;
}

static inline void hm_slots_fini(struct hm_slots *slots)
{
    HM_ASSERT(slots->used == 0);
    free(slots->base);
    slots->base = NULL;
}

static inline void *hm_slots_take(struct hm_slots *slots) /* NULL: all are taken */
{
    void *item = slots->free;
    if (item)
        memcpy(&slots->free, item, sizeof(void *));
    else if (slots->touched < slots->count)
        item = slots->base + slots->item_bytes * slots->touched++;
    if (item) slots->used++;
    return item;
}

static inline void hm_slots_give(struct hm_slots *slots, void *item)
{
    memcpy(item, &slots->free, sizeof(void *));
    slots->free = item;
    slots->used--;
}

#endif
