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

enum loop_driver { LOOP_HOME, LOOP_NOBODY, LOOP_GUEST };

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

    /* loop_uv_guest.c */
    bool guests_welcome;
    _Atomic uint32_t driver;    /* enum loop_driver */
    _Atomic uint64_t visits;    /* of guests that found NOBODY or were invited */
    _Atomic bool dozing;        /* the own thread waits for a guest to leave */
    struct hm_event home;       /* the own thread's */
    hm_ns left;                 /* when a guest last left; 0: its own thread ran it since */
    struct hm_loop_wait *guest; /* who runs the loop; NULL: its own thread */
    struct hm_link waits;       /* of hm_loop_wait: started, not ended */

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
struct loop_uv *hm_loop_uv_here(void); /* that runs on this thread */
/* Until uv_stop.  posts_first: before it looks at descriptors. */
void hm_loop_uv_enter(struct loop_uv *loop, bool posts_first);
void hm_loop_uv_push(struct loop_uv *loop, struct hm_post *post); /* without waking anybody */

/* loop_uv_guest.c */
void hm_loop_uv_posted(struct loop_uv *loop);  /* wakes whoever has to see it */
bool hm_loop_uv_invites(struct loop_uv *loop); /* before a sleep: a guest should run it instead */

#endif
