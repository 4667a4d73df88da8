/* base/timer_heap.h - the one timer heap, shared by the real and the virtual loop: 4-ary, ordered
 * by (due, order). */
#ifndef HM_BASE_TIMER_HEAP_H
#define HM_BASE_TIMER_HEAP_H

#include "base/loop.h"

struct hm_timer_slot { /* with its key: comparing must not fetch every timer that it passes */
    hm_ns due;
    uint64_t order;
    struct hm_timer *timer;
};
struct hm_timer_heap {
    struct hm_timer_slot *slot;
    uint32_t count, capacity;
    uint64_t order_next;
};

HM_MUST_CHECK enum hm_status hm_timer_heap_init(struct hm_timer_heap *heap);
void hm_timer_heap_fini(struct hm_timer_heap *heap);
void hm_timer_heap_start(struct hm_timer_heap *heap, struct hm_timer *timer,
                         hm_ns due); /* due > 0; moves a started one */
void hm_timer_heap_stop(struct hm_timer_heap *heap, struct hm_timer *timer);
hm_ns hm_timer_heap_next(const struct hm_timer_heap *heap); /* HM_NS_NEVER if empty */
/* Takes the first timer due at or before `now` off the heap (its due becomes 0); NULL if there is
 * none. Timers started while this turn fires have an order >= `order_limit` and wait for the next
 * turn. */
struct hm_timer *hm_timer_heap_pop(struct hm_timer_heap *heap, hm_ns now, uint64_t order_limit);
void hm_timer_heap_check(const struct hm_timer_heap *heap);

#endif
