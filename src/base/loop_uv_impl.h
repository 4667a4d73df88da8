/* base/loop_uv_impl.h - what loop_uv.c shares with loop_uv_system.c (signals and names), and with
 * nobody else. */
#ifndef HM_BASE_LOOP_UV_IMPL_H
#define HM_BASE_LOOP_UV_IMPL_H

#include "base/list.h"
#include "base/loop_uv.h"
#include "base/rng.h"
#include "base/timer_heap.h"

#include <stdatomic.h>
#include <uv.h>

struct watch_slot;
struct loop_uv {
    struct hm_loop base;
    uv_loop_t uv;

    hm_ns now;     /* of the batch of callbacks that is running */
    uint64_t turn; /* one for each batch */
    bool in_batch; /* now is frozen */
    bool stopping; /* run returns after this round */
    _Atomic bool running;
    _Atomic bool asleep; /* or about to be: who posts must wake it */

    struct hm_timer_heap heap;
    int timer_fd;
    hm_ns armed_due; /* when the timerfd will fire; HM_NS_NEVER: it will not */
    uv_poll_t timer_poll;

    _Atomic(struct hm_post *) posts; /* newest first */
    uv_async_t wake;

    uv_prepare_t prepare; /* last words before the loop sleeps */
    uv_check_t check;     /* after the descriptors: posts, then timers */
    uv_idle_t awake;      /* active while the loop must not sleep */
    struct hm_hook *hooks;

    struct watch_slot *slots_free;
    struct hm_link slots_changed; /* events asked for differ from what libuv polls for */
    unsigned watch_count;
    unsigned resolve_count, signal_count;

    struct hm_rng random[HM_RANDOM_STREAMS];
};

struct loop_uv *hm_loop_uv_of(struct hm_loop *base);
/* Called first by whatever libuv calls: the first callback after a sleep reads the clock and opens
 * a turn. */
void hm_loop_uv_batch_begin(struct loop_uv *loop);

#endif
