/* moe/bridge.c - one wait between a caller's thread and the loop.
 *
 *   caller:  post ──────────────► sleep on the event ─────────────► status and line
 *   loop:           start(…) … hm_wait_end ──► set the event
 *
 * The status, the line and `done` are written on the loop before the event is set, and read after
 * it was waited for. */
#include "moe/bridge.h"

#include "base/assert.h"

#include <stdio.h>

struct hm_wait {
    const struct hm_bridge *bridge;
    struct hm_event event;
    struct hm_post post;
    hm_wait_start start;
    void *arg;
    bool done;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};

static void start(struct hm_post *post)
{
    struct hm_wait *wait = post->arg;
    hm_fail_clear();
    wait->start(wait, wait->arg);
}

enum hm_status hm_wait_run(const struct hm_bridge *bridge, hm_wait_start run, void *arg)
{
    struct hm_wait wait;
    wait.bridge = bridge;
    wait.event = (struct hm_event){0};
    wait.post = (struct hm_post){.cb = start, .arg = &wait};
    wait.start = run;
    wait.arg = arg;
    wait.done = false;
    hm_loop_post(bridge->loop, &wait.post);
    if (bridge->run)
        bridge->run(bridge->arg, &wait.done);
    else
        hm_event_wait(&wait.event);
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
    hm_event_set(&wait->event); /* the wait may be gone now */
}
