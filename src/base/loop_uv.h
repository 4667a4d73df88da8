/* base/loop_uv.h - the real loop: libuv for descriptors, signals and DNS, one timerfd under the
 * shared timer heap. */
#ifndef HM_BASE_LOOP_UV_H
#define HM_BASE_LOOP_UV_H

#include "base/list.h"
#include "base/thread.h"

#include <netinet/in.h>

/* `seed` starts the random streams; pass hm_rng_os_seed() outside of tests.  SIGPIPE is ignored
 * from here on, unless the program has chosen otherwise: a peer that closes is a status of
 * write. */
HM_MUST_CHECK enum hm_status hm_loop_uv_create(uint64_t seed, struct hm_loop **loop);
/* Asserts that no timer runs, no descriptor is watched, no signal caught and no resolution open any
 * more.  Posts that have not run are dropped.  Waits for names that were canceled while the system
 * looked them up. */
void hm_loop_uv_destroy(struct hm_loop *loop);
/* Runs until hm_loop_uv_stop; the calling thread becomes the loop's thread. */
void hm_loop_uv_run(struct hm_loop *loop);
void hm_loop_uv_stop(struct hm_loop *loop); /* loop thread; from elsewhere, post */

/* Waiting for something that the loop does.  Where guests are welcome a thread that waits runs the
 * loop itself while nobody else has to: its callbacks then run on that thread, one thread at a time as
 * ever.  A guest that leaves may leave descriptors and timers unattended for some milliseconds
 * (loop_uv_guest.c), so loops that others depend on should have none; nor should those with anything
 * on them that knows its thread. */
struct loop_uv;
struct hm_loop_wait {                                    /* caller's memory, its stack */
    void (*start)(struct hm_loop_wait *wait, void *arg); /* loop; leads to one hm_loop_wait_end */
    void *arg;
    /* the loop's */
    struct loop_uv *loop;
    struct hm_post post;
    struct hm_event event;
    struct hm_link link;
    bool ended, invited;
};
void hm_loop_uv_welcome_guests(struct hm_loop *loop); /* before run */
/* Any thread but the loop's: returns once the wait has been ended. */
void hm_loop_uv_wait(struct hm_loop *loop, struct hm_loop_wait *wait);
void hm_loop_wait_end(struct hm_loop_wait *wait); /* loop; the wait may be gone afterwards */

/* The clock itself, which goes on during a callback: for nothing but sharing the loop's time. */
hm_ns hm_loop_uv_clock(void);

/* Signals arrive as ordinary callbacks on the loop thread. */
struct hm_signal {
    void (*cb)(struct hm_signal *signal, int number);
    void *arg;
    void *impl;
};
HM_MUST_CHECK enum hm_status hm_loop_uv_signal_start(struct hm_loop *loop, struct hm_signal *signal,
                                                     int number);
void hm_loop_uv_signal_stop(struct hm_loop *loop, struct hm_signal *signal);

/* Name resolution off the loop thread.  `cb` runs exactly once, also after a cancel
 * (HM_ERR_CANCELED).
 * Answers: up to 8 socket addresses, IPv6 and IPv4 as the resolver orders them, with `port` filled
 *          in.
 * Errors:  HM_ERR_NOT_FOUND (no such name), HM_ERR_TIMED_OUT (no resolver answers), with a kept
 *          line. */
enum { HM_RESOLVED_MAX = 8 };
struct hm_resolve {
    void (*cb)(struct hm_resolve *resolve, enum hm_status status);
    void *arg;
    struct sockaddr_storage address[HM_RESOLVED_MAX];
    unsigned address_count;
    void *impl;
};
HM_MUST_CHECK enum hm_status hm_loop_uv_resolve(struct hm_loop *loop, struct hm_resolve *resolve,
                                                const char *host, uint16_t port);
void hm_loop_uv_resolve_cancel(struct hm_loop *loop, struct hm_resolve *resolve);

#endif
