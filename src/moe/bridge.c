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
#include <stdlib.h>

struct hm_wait {
    struct hm_bridge bridge;
    struct hm_event *event; /* NULL: the loop is run by the caller */
    struct hm_post post;
    hm_wait_start start;
    void *arg;
    bool done;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};

enum hm_status hm_wait_create(const struct hm_bridge *bridge, struct hm_wait **out)
{
    struct hm_wait *wait = calloc(1, sizeof *wait);
    if (!wait) return hm_fail(HM_ERR_NO_MEMORY, "no memory to wait with");
    wait->bridge = *bridge;
    enum hm_status status = bridge->run ? HM_OK : hm_event_create(&wait->event);
    if (status != HM_OK) {
        free(wait);
        return status;
    }
    *out = wait;
    return HM_OK;
}

void hm_wait_destroy(struct hm_wait *wait)
{
    if (!wait) return;
    if (wait->event) hm_event_destroy(wait->event);
    free(wait);
}

static void start(struct hm_post *post)
{
    struct hm_wait *wait = post->arg;
    hm_fail_clear();
    wait->start(wait, wait->arg);
}

enum hm_status hm_wait_run(struct hm_wait *wait, hm_wait_start run, void *arg)
{
    wait->post = (struct hm_post){.cb = start, .arg = wait};
    wait->start = run;
    wait->arg = arg;
    wait->done = false;
    wait->line[0] = '\0';
    hm_loop_post(wait->bridge.loop, &wait->post);
    if (wait->event)
        hm_event_wait(wait->event);
    else
        wait->bridge.run(wait->bridge.arg, &wait->done);
    HM_ASSERT(wait->done);
    if (wait->status == HM_OK) return HM_OK;
    return hm_fail(wait->status, "%s", wait->line);
}

void hm_wait_end(struct hm_wait *wait, enum hm_status status)
{
    HM_ASSERT(!wait->done);
    wait->status = status;
    if (status != HM_OK) snprintf(wait->line, sizeof wait->line, "%s", hm_fail_line_of(status));
    wait->done = true;
    if (wait->event) hm_event_set(wait->event);
}
