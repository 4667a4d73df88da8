/* api/queue.c - hm_queue: calls that are started by a thread and waited for later, several at once.
 *
 *   caller:  start: free -> slot -> post ─┐                      wait: ended -> fresh -> completion -> free
 *   loop:                                 └► forward, backward ... ended: push -> wake who waits
 *
 * Owns:      the slots.  A slot is the caller's while it is free or fresh, the loop's from its post
 *            to its push.
 * Failure:   a call ends by its deadline, whatever becomes of its server; so closing ends too.
 * Invariant: slots = free + under way.  `ended` is pushed to by the loop and taken whole by the
 *            caller, so that neither waits for the other.  Who waits looks at `ended` on the loop, so
 *            that nothing is pushed between its look and its sleep; while it sleeps the queue
 *            stays. */
#include "api/remote.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS_STANDARD = 64, CALLS_MAX = 1024, TIMEOUT_STANDARD_MS = 5000 };

struct slot {
    struct hm_moe_expert_op op;
    struct hm_queue *queue;
    struct slot *next; /* in free, ended or fresh */
    struct hm_post post;
    struct hm_uid uid;
    bool backward;
    struct hm_tensor x, dy, out;
    hm_ns deadline;
    void *tag;
    enum hm_status status;
    char line[HM_ERROR_LINE_BYTES];
};

struct waiter { /* of one hm_queue_wait, on its stack */
    struct hm_queue *queue;
    struct hm_wait *wait;
    struct hm_timer timer;
    hm_ns timeout;
};

struct hm_queue {
    struct hm_node *node;
    struct slot *free, *fresh;    /* the caller's; fresh: ended, the oldest first */
    unsigned under_way;           /* started and not told */
    _Atomic(struct slot *) ended; /* the newest first */
    struct waiter *waiter;        /* the loop's */
    struct slot slot[];
};

/* ---- on the loop ----------------------------------------------------------------------------- */

static void stop_waiting(struct waiter *waiter, enum hm_status status)
{
    waiter->queue->waiter = NULL;
    hm_timer_stop(waiter->queue->node->loop, &waiter->timer);
    hm_wait_end(waiter->wait, status);
}

static void end(struct slot *slot, enum hm_status status)
{
    struct hm_queue *queue = slot->queue;
    struct waiter *waiter = queue->waiter; /* without one the queue may be gone after the push */
    slot->status = status;
    if (status) snprintf(slot->line, sizeof(slot->line), "%s", hm_fail_line_of(status));
    slot->next = atomic_load_explicit(&queue->ended, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&queue->ended, &slot->next, slot,
                                                  memory_order_release, memory_order_relaxed)) {
    }
    if (waiter) stop_waiting(waiter, HM_OK);
}

static void ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    end(op->arg, status);
}

static void begin(struct hm_post *post)
{
    struct slot *slot = post->arg;
    struct hm_dispatch *dispatch = slot->queue->node->dispatch;
    hm_fail_clear();
    enum hm_status status =
        slot->backward ? hm_moe_expert_backward(dispatch, &slot->op, &slot->uid, &slot->x,
                                                &slot->dy, &slot->out, slot->deadline, ended)
                       : hm_moe_expert_forward(dispatch, &slot->op, &slot->uid, &slot->x,
                                               &slot->out, slot->deadline, ended);
    if (status) end(slot, status);
}

static void waited_enough(struct hm_timer *timer)
{
    stop_waiting(timer->arg, hm_fail(HM_ERR_TIMED_OUT, "no call of the queue has ended yet"));
}

static void wait_on_loop(struct hm_wait *wait, void *arg)
{
    struct waiter *waiter = arg;
    waiter->wait = wait;
    waiter->timer = (struct hm_timer){.cb = waited_enough, .arg = waiter};
    if (atomic_load_explicit(&waiter->queue->ended, memory_order_relaxed)) {
        hm_wait_end(wait, HM_OK);
        return;
    }
    waiter->queue->waiter = waiter;
    hm_timer_start(waiter->queue->node->loop, &waiter->timer, waiter->timeout);
}

/* ---- the caller's ---------------------------------------------------------------------------- */

int hm_queue_open(struct hm_node *node, unsigned calls_max, struct hm_queue **out)
{
    unsigned count = calls_max ? calls_max : CALLS_STANDARD;
    if (count > CALLS_MAX)
        return hm_fail(HM_ERR_INVALID, "a queue of %u calls; it can have %d at most", count,
                       CALLS_MAX);
    struct hm_queue *queue = calloc(1, sizeof(*queue) + count * sizeof(queue->slot[0]));
    if (!queue) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a queue of %u calls", count);
    queue->node = node;
    for (unsigned i = 0; i < count; i++) {
        queue->slot[i].queue = queue;
        queue->slot[i].next = queue->free;
        queue->free = &queue->slot[i];
    }
    *out = queue;
    return HM_OK;
}

static int start(struct hm_queue *queue, struct hm_remote_expert *expert, const struct hm_array *x,
                 const struct hm_array *dy, struct hm_array *result, int timeout_ms, void *tag)
{
    struct slot *slot = queue->free;
    if (queue->node != expert->node)
        return hm_fail(HM_ERR_INVALID, "the queue and the expert are of two nodes");
    if (!slot)
        return hm_fail(HM_ERR_BUSY, "all %u calls of the queue are under way; wait for one",
                       queue->under_way);
    enum hm_status status = hm_array_tensor(x, &slot->x);
    if (!status) status = hm_array_tensor(result, &slot->out);
    if (!status) status = hm_array_same_shape(x, result);
    if (!status && dy) status = hm_array_tensor(dy, &slot->dy);
    if (!status && dy) status = hm_array_same_shape(x, dy);
    if (status) return status;
    hm_ns now = hm_loop_clock(queue->node->loop);
    queue->free = slot->next;
    queue->under_way++;
    slot->op = (struct hm_moe_expert_op){.arg = slot, .asked = now, .codec = expert->codec};
    slot->uid = expert->uid;
    slot->backward = dy;
    slot->deadline = now + hm_node_timeout(timeout_ms, TIMEOUT_STANDARD_MS);
    slot->tag = tag;
    slot->post = (struct hm_post){.cb = begin, .arg = slot};
    hm_loop_post(queue->node->loop, &slot->post);
    return HM_OK;
}

int hm_remote_expert_forward_start(struct hm_remote_expert *expert, const struct hm_array *x,
                                   struct hm_array *y, int timeout_ms, struct hm_queue *queue,
                                   void *tag)
{
    return start(queue, expert, x, NULL, y, timeout_ms, tag);
}

int hm_remote_expert_backward_start(struct hm_remote_expert *expert, const struct hm_array *x,
                                    const struct hm_array *dy, struct hm_array *dx, int timeout_ms,
                                    struct hm_queue *queue, void *tag)
{
    return start(queue, expert, x, dy, dx, timeout_ms, tag);
}

/* What has ended, the oldest first -> fresh. */
static void take_ended(struct hm_queue *queue)
{
    struct slot *slot = atomic_exchange_explicit(&queue->ended, NULL, memory_order_acquire);
    while (slot) {
        struct slot *next = slot->next;
        slot->next = queue->fresh;
        queue->fresh = slot;
        slot = next;
    }
}

int hm_queue_wait(struct hm_queue *queue, int timeout_ms, struct hm_completion *completion)
{
    if (queue->under_way == 0)
        return hm_fail(HM_ERR_NOT_FOUND, "no call of the queue is under way");
    if (!queue->fresh) take_ended(queue);
    if (!queue->fresh) {
        struct waiter waiter = {.queue = queue,
                                .timeout = hm_node_timeout(timeout_ms, TIMEOUT_STANDARD_MS)};
        enum hm_status status = hm_node_run(queue->node, wait_on_loop, &waiter);
        if (status) return status;
        take_ended(queue);
    }
    struct slot *slot = queue->fresh;
    HM_ASSERT(slot);
    queue->fresh = slot->next;
    queue->under_way--;
    completion->tag = slot->tag;
    completion->status = slot->status;
    snprintf(completion->line, sizeof(completion->line), "%s", slot->status ? slot->line : "");
    slot->next = queue->free;
    queue->free = slot;
    return HM_OK;
}

void hm_queue_close(struct hm_queue *queue)
{
    struct hm_completion dropped;
    if (!queue) return;
    while (queue->under_way > 0) (void)!hm_queue_wait(queue, 0, &dropped);
    free(queue);
}
