/* base/loop.h - time, randomness, timers and file descriptors: the first part of the seam to the
 * world.
 *
 * Two implementations: loop_uv.c (libuv for fds, signals, DNS; timers from the shared heap through
 * a timerfd, since libuv's are whole milliseconds) and sim/world.c (virtual clock, one seed).  Both
 * keep their timers in base/timer_heap.h.  Nothing above base/ may call clock_gettime, rand, usleep
 * or a blocking syscall on the loop thread.
 *
 * Thread: everything here belongs to the loop's thread, except post and clock. */
#ifndef HM_BASE_LOOP_H
#define HM_BASE_LOOP_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t hm_ns; /* nanoseconds on the loop's monotonic clock; never wall time */
#define HM_NS_NEVER UINT64_MAX
#define HM_US       ((hm_ns)1000)
#define HM_MS       ((hm_ns)1000000)
#define HM_S        ((hm_ns)1000000000)

struct hm_timer;
typedef void (*hm_timer_cb)(struct hm_timer *timer);
struct hm_timer { /* caller's memory; zero it before first use */
    hm_timer_cb cb;
    void *arg;
    hm_ns due;          /* 0: idle */
    uint64_t order;     /* equal due times fire in the order of starting */
    uint32_t heap_slot; /* the heap's */
};

struct hm_post; /* a message from another thread: intrusive, caller's memory until its cb runs */
typedef void (*hm_post_cb)(struct hm_post *post);
struct hm_post {
    hm_post_cb cb;
    void *arg;
    struct hm_post *next;
};

struct hm_watch; /* a file descriptor, real loop only: sockets, the UCX worker's event fd */
enum { HM_READABLE = 1, HM_WRITABLE = 2 };
typedef void (*hm_watch_cb)(struct hm_watch *watch, int events);
struct hm_watch {
    int fd;
    hm_watch_cb cb;
    void *arg;
    void *impl; /* the loop's; NULL: not watched */
};

/* Runs once before the loop sleeps; answers false to forbid sleeping (there is work, or may be). */
struct hm_hook;
struct hm_hook {
    bool (*before_sleep)(struct hm_hook *hook);
    void *arg;
    struct hm_hook *next;
};

/* Purposes of randomness: one stream each, so that a new draw in one does not shift the others. */
enum hm_random_stream {
    HM_RANDOM_IDS,    /* call ids, client ids, sequence starts */
    HM_RANDOM_DHT,    /* refresh targets, jitter */
    HM_RANDOM_RETRY,  /* back-off jitter */
    HM_RANDOM_NET,    /* the simulated network */
    HM_RANDOM_FAULTS, /* the simulator's faults */
    HM_RANDOM_LOAD,   /* the simulator's workload */
    HM_RANDOM_STREAMS
};

struct hm_loop;
struct hm_loop_ops {
    hm_ns (*now)(struct hm_loop *loop); /* frozen during one callback */
    /* Never frozen, and safe from any thread: for measuring, not for deciding. */
    hm_ns (*clock)(struct hm_loop *loop);
    /* Since 1970, only for record expiry and logs; may jump. */
    int64_t (*wall_ns)(struct hm_loop *loop);
    uint64_t (*random)(struct hm_loop *loop, enum hm_random_stream stream);
    /* Starting a timer that is already started moves it.  after 0: in the next turn, never inside
     * this call. */
    void (*timer_start)(struct hm_loop *loop, struct hm_timer *timer, hm_ns after);
    /* Idempotent; the cb will not run. */
    void (*timer_stop)(struct hm_loop *loop, struct hm_timer *timer);
    /* events 0: stop.  May be called from the watch's own callback.  The simulated loop asserts. */
    HM_MUST_CHECK enum hm_status (*watch)(struct hm_loop *loop, struct hm_watch *watch, int events);
    void (*hook)(struct hm_loop *loop, struct hm_hook *hook);
    void (*unhook)(struct hm_loop *loop, struct hm_hook *hook);
    /* For a hook that would rather look again at once than go round the loop, which costs system
     * calls.  True: nothing waits but descriptors, which it must not keep waiting for long; a new
     * turn has begun.  False: posts or timers wait, return.  Simulated: always false. */
    HM_MUST_CHECK bool (*stay)(struct hm_loop *loop);
    /* Safe from any thread; FIFO a thread. */
    void (*post)(struct hm_loop *loop, struct hm_post *post);
    /* For modules that ask "are we still inside a user's call?": turns only grow, one for every
     * batch of callbacks. */
    uint64_t (*turn)(struct hm_loop *loop);
};
struct hm_loop {
    const struct hm_loop_ops *ops;
    /* Whoever runs it waits for nothing any more and has to go: a hook returns at once. */
    bool leaving;
};

static inline hm_ns hm_loop_now(struct hm_loop *loop)
{
    return loop->ops->now(loop);
}
static inline hm_ns hm_loop_clock(struct hm_loop *loop)
{
    return loop->ops->clock(loop);
}
static inline int64_t hm_loop_wall_ns(struct hm_loop *loop)
{
    return loop->ops->wall_ns(loop);
}
static inline uint64_t hm_loop_random(struct hm_loop *loop, enum hm_random_stream stream)
{
    return loop->ops->random(loop, stream);
}
static inline void hm_timer_start(struct hm_loop *loop, struct hm_timer *timer, hm_ns after)
{
    loop->ops->timer_start(loop, timer, after);
}
static inline void hm_timer_stop(struct hm_loop *loop, struct hm_timer *timer)
{
    loop->ops->timer_stop(loop, timer);
}
static inline bool hm_timer_active(const struct hm_timer *timer)
{
    return timer->due != 0;
}
static inline void hm_loop_post(struct hm_loop *loop, struct hm_post *post)
{
    loop->ops->post(loop, post);
}
/* A deadline `after` from now that cannot overflow; HM_NS_NEVER stays. */
static inline hm_ns hm_deadline_after(struct hm_loop *loop, hm_ns after)
{
    hm_ns now = hm_loop_now(loop);
    return after > HM_NS_NEVER - now ? HM_NS_NEVER : now + after;
}
static inline hm_ns hm_deadline_left(struct hm_loop *loop, hm_ns deadline)
{
    hm_ns now = hm_loop_now(loop);
    return deadline <= now ? 0 : deadline == HM_NS_NEVER ? HM_NS_NEVER : deadline - now;
}

#endif
