/* moe/bridge.h - blocking outside, asynchronous inside: a caller's thread starts something on the
 * loop and waits for its end.
 *
 * In the simulated world there is one thread: `run` steps the world until the flag is set, and
 * everything above runs unchanged. */
#ifndef HM_MOE_BRIDGE_H
#define HM_MOE_BRIDGE_H

#include "base/thread.h"

struct hm_bridge {
    struct hm_loop *loop;
    /* NULL: the loop is a real one (loop_uv.h) and runs on a thread of its own.  Else called on the caller's thread, which is the
     * loop's: runs it until *done. */
    void (*run)(void *arg, const bool *done);
    void *arg;
};
struct hm_wait; /* one wait, on its caller's stack */
/* Runs on the loop; leads to exactly one hm_wait_end, now or later. */
typedef void (*hm_wait_start)(struct hm_wait *wait, void *arg);
/* Any thread but the loop's.  Returns what hm_wait_end was given, with its line kept on this
 * thread. */
HM_MUST_CHECK enum hm_status hm_wait_run(const struct hm_bridge *bridge, hm_wait_start start,
                                         void *arg);
/* Loop.  Takes the loop thread's kept line with it if status is an error and the line was kept with
 * it, else the status' text. */
void hm_wait_end(struct hm_wait *wait, enum hm_status status);

#endif
