/* moe/bridge.c - one wait between a caller's thread and the loop.
 *
 *   caller:  hm_loop_uv_wait ──────────────────────────────────► status and line
 *   loop:                    start(…) … hm_wait_end
 *
 * The status, the line and `done` are written on the loop before the wait ends, and read after
 * it. */
#include "moe/bridge.h"

#include "base/assert.h"
#include "base/loop_uv.h"

#include <stdio.h>

struct hm_wait {
    const struct hm_bridge *bridge;
    struct hm_loop_wait inner;
    hm_wait_start start;
    void *arg;
    bool done;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};

static void start(struct hm_loop_wait *inner, void *arg)
{
    struct hm_wait *wait = arg;
    (void)inner;
    hm_fail_clear();
    wait->start(wait, wait->arg);
}

static void start_simulated(struct hm_post *post)
{
    start(NULL, post->arg);
}

enum hm_status hm_wait_run(const struct hm_bridge *bridge, hm_wait_start run, void *arg)
{
    struct hm_wait wait; /* not cleared: its line is long, and written where it is read */
    wait.bridge = bridge;
    wait.start = run;
    wait.arg = arg;
    wait.done = false;
    if (bridge->run) {
        wait.inner.post = (struct hm_post){.cb = start_simulated, .arg = &wait};
        hm_loop_post(bridge->loop, &wait.inner.post);
        bridge->run(bridge->arg, &wait.done);
    } else {
        wait.inner.start = start;
        wait.inner.arg = &wait;
        hm_loop_uv_wait(bridge->loop, &wait.inner);
    }
    HM_ASSERT(wait.done);
    if (wait.status == HM_OK) return HM_OK;
    return hm_fail(wait.status, "%s", wait.line);
}

void hm_wait_end(struct hm_wait *wait, enum hm_status status)
{
    HM_ASSERT(!wait->done);
    wait->status = status;
    if (status != HM_OK) snprintf(wait->line, sizeof wait->line, "%s", hm_fail_line_of(status));
    wait->done = true;
    if (!wait->bridge->run) hm_loop_wait_end(&wait->inner); /* the wait may be gone now */
}
