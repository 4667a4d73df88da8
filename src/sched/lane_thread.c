/* sched/lane_thread.c - the real lane: one thread that runs batches in the order of launching.
 *
 *   loop:    slot[launched % N] = batch -> set the event    ...    post -> hm_lane_batch_done
 *   thread:  wait -> batch = slot[run % N] -> hm_batch_run -> slot = NULL -> post
 *   brief:   hm_batch_run on the loop's thread, which posts to itself: the lane has no batch then, so
 *            its thread sleeps or is about to, and what it has written came back with its last post
 *
 * A ring with one writer and one reader, without locks: a slot is empty (the loop's) or full (the
 * thread's).  The event remembers a set that comes before the wait, and the thread looks at its
 * slot again after every wait, so that no batch is overslept.  Nothing spins: a lane without work
 * costs nothing. */
#include "sched/internal.h"

#include "base/thread.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct lane_thread {
    struct hm_lane lane;
    struct hm_thread *thread;
    struct hm_event work;
    _Atomic(struct hm_batch *) slot[HM_LANE_BATCHES_MAX];
    unsigned launched; /* loop */
    unsigned run;      /* thread */
    atomic_bool stopping;
    void (*enter)(void *arg);
    void *enter_arg;
    char device[]; /* lane.device */
};

static void on_done(struct hm_post *post)
{
    hm_lane_batch_done(post->arg);
}

static void thread_run(void *arg)
{
    struct lane_thread *lane = arg;
    struct hm_loop *loop = hm_sched_loop(lane->lane.sched);
    if (lane->enter) lane->enter(lane->enter_arg);
    for (;;) {
        _Atomic(struct hm_batch *) *slot = &lane->slot[lane->run % HM_LANE_BATCHES_MAX];
        struct hm_batch *batch = atomic_load_explicit(slot, memory_order_acquire);
        if (!batch) {
            if (atomic_load_explicit(&lane->stopping, memory_order_acquire)) return;
            hm_event_wait(&lane->work);
            continue;
        }
        hm_batch_run(batch);
        lane->run++;
        atomic_store_explicit(slot, NULL, memory_order_release);
        hm_loop_post(loop, &batch->post);
    }
}

static void lane_launch(struct hm_lane *base, struct hm_batch *batch)
{
    struct lane_thread *lane = HM_CONTAINER_OF(base, struct lane_thread, lane);
    batch->post = (struct hm_post){.cb = on_done, .arg = batch};
    if (batch->brief) {
        HM_ASSERT(base->running_count == 1);
        hm_batch_run(batch);
        hm_loop_post(hm_sched_loop(base->sched), &batch->post);
        return;
    }
    _Atomic(struct hm_batch *) *slot = &lane->slot[lane->launched++ % HM_LANE_BATCHES_MAX];
    HM_ASSERT(!atomic_load_explicit(slot, memory_order_acquire));
    atomic_store_explicit(slot, batch, memory_order_release);
    hm_event_set(&lane->work);
}

static void lane_free(struct hm_lane *base)
{
    struct lane_thread *lane = HM_CONTAINER_OF(base, struct lane_thread, lane);
    atomic_store_explicit(&lane->stopping, true, memory_order_release);
    hm_event_set(&lane->work);
    hm_thread_join(lane->thread);
    free(lane);
}

static const struct hm_lane_ops thread_ops = {.launch = lane_launch, .destroy = lane_free};

enum hm_status hm_lane_thread_start(struct hm_sched *sched, const char *device,
                                    const struct hm_place *place, void (*enter)(void *arg),
                                    void *arg, struct hm_lane **started)
{
    size_t device_bytes = strlen(device) + 1;
    struct lane_thread *lane = calloc(1, sizeof *lane + device_bytes);
    if (!lane) return hm_fail(HM_ERR_NO_MEMORY, "no memory for lane %s", device);
    memcpy(lane->device, device, device_bytes);
    lane->enter = enter;
    lane->enter_arg = arg;
    hm_lane_init(&lane->lane, &thread_ops, sched, lane->device); /* the thread reads it */
    enum hm_status status = hm_thread_start(place, thread_run, lane, &lane->thread);
    if (status != HM_OK) {
        hm_list_remove(&lane->lane.link);
        free(lane);
        return status;
    }
    *started = &lane->lane;
    return HM_OK;
}
