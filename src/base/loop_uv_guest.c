/* base/loop_uv_guest.c - who runs the loop: its own thread, or a guest that waits on it.
 *
 * A thread that blocks on the loop hands its wish over and is handed the answer: two wake-ups, each
 * of which costs more than a small call itself.  Where guests are welcome the thread runs the loop
 * meanwhile, so that its call goes to the wire, and the answer comes from it, without either.
 *
 *                      guest came           guest ended, nobody else waits
 *     NOBODY ---------------------> GUEST --------------------------------> NOBODY
 *       |  a tick without guests,    ^ |  guest ended, others wait             |
 *       |  or a post                 | |  or the loop stops                    |
 *       '----------> HOME <----------+-'                                       |
 *                     |   invitation |                                         |
 *                     '--------------'    <------------------------------------'
 *
 * Owns:      driver, and the right to run libuv that it stands for.
 * Happy path: the loop's own thread is HOME and sleeps in libuv.  A guest's post wakes it; when it is
 *            about to sleep again and that guest is the only one, it invites the guest and sleeps on
 *            `home`.  The guest runs libuv until its wait has ended and leaves NOBODY; its next wait
 *            finds NOBODY and runs at once.
 * Failure modes: none of its own.  A guest that leaves while others wait, or while something is due,
 *            wakes the loop's own thread; so does whoever posts when NOBODY runs.  After TICK to
 *            2 * TICK without a guest the loop's own thread takes it back by itself: for so long
 *            descriptors and timers may wait after a guest has left, which is why a node that serves
 *            others has no guests.
 * Invariant: one thread at a time is between taking and leaving, and everything of the loop is its.
 *            NOBODY is stored before posts are looked at, and posts are pushed before driver is: a
 *            post is seen by the one or the other. */
#include "base/assert.h"
#include "base/loop_uv_impl.h"

enum { DOZE_TICKS = 8 }; /* of one guest's run: then its end wakes us, and we tick no more */
#define TICK  (25 * HM_MS)
#define FRESH (100 * HM_US)

static bool take(struct loop_uv *loop, enum loop_driver driver)
{
    uint32_t nobody = LOOP_NOBODY;
    return atomic_compare_exchange_strong(&loop->driver, &nobody, driver);
}

static void wake_home(struct loop_uv *loop)
{
    if (take(loop, LOOP_HOME)) hm_event_set(&loop->home);
}

void hm_loop_uv_posted(struct loop_uv *loop)
{
    if (atomic_load(&loop->asleep)) {
        if (!atomic_exchange(&loop->asleep, false)) return; /* somebody else wakes it */
        int failed = uv_async_send(&loop->wake);
        HM_ASSERT(!failed);
    } else if (atomic_load(&loop->driver) == LOOP_NOBODY) {
        wake_home(loop);
    }
}

/* ---- the loop's own thread -------------------------------------------------------------------- */

bool hm_loop_uv_invites(struct loop_uv *loop)
{
    if (!loop->guests_welcome || loop->guest || hm_list_empty(&loop->waits)) return false;
    struct hm_link *link = loop->waits.next;
    return link->next == &loop->waits; /* one guest; several are served best from here */
}

/* What is alone in `waits` gets the loop.  False: it has ended meanwhile. */
static bool invite(struct loop_uv *loop)
{
    if (!hm_loop_uv_invites(loop)) return false;
    struct hm_loop_wait *wait = HM_CONTAINER_OF(loop->waits.next, struct hm_loop_wait, link);
    wait->invited = true;
    atomic_store(&loop->driver, LOOP_GUEST);
    hm_event_set(&wait->event);
    return true;
}

/* Until the loop is ours again. */
static void wait_at_home(struct loop_uv *loop)
{
    uint64_t seen = atomic_load(&loop->visits);
    unsigned same = 0;
    while (atomic_load(&loop->driver) != LOOP_HOME) {
        bool tick = false;
        if (same < DOZE_TICKS) {
            tick = !hm_event_wait_for(&loop->home, TICK);
        } else {
            atomic_store(&loop->dozing, true);
            if (atomic_load(&loop->driver) == LOOP_GUEST) hm_event_wait(&loop->home);
            atomic_store(&loop->dozing, false);
        }
        uint64_t visits = atomic_load(&loop->visits);
        if (tick && visits == seen && take(loop, LOOP_HOME)) return;
        same = tick && visits == seen ? same + 1 : 0;
        seen = visits;
    }
}

void hm_loop_uv_run(struct hm_loop *base)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(!hm_loop_uv_here() && !atomic_load(&loop->running));
    HM_ASSERT(atomic_load(&loop->driver) == LOOP_HOME);
    loop->stopping = false;
    atomic_store(&loop->running, true);
    for (;;) {
        loop->left = 0;
        hm_loop_uv_enter(loop, false); /* the wake handle keeps it alive until uv_stop */
        if (loop->stopping) break;
        if (invite(loop)) wait_at_home(loop);
        if (loop->stopping) break; /* a guest's callback said so */
    }
    atomic_store(&loop->running, false);
}

/* ---- guests ----------------------------------------------------------------------------------- */

static void on_wait(struct hm_post *post)
{
    struct hm_loop_wait *wait = post->arg;
    hm_list_push(&wait->loop->waits, &wait->link);
    wait->start(wait, wait->arg);
}

void hm_loop_wait_end(struct hm_loop_wait *wait)
{
    struct loop_uv *loop = wait->loop;
    HM_ASSERT(!wait->ended && hm_loop_uv_here() == loop);
    wait->ended = true;
    hm_list_remove(&wait->link);
    if (loop->guest == wait) {
        loop->base.leaving = true;
        uv_stop(&loop->uv);
    } else {
        hm_event_set(&wait->event); /* the wait may be gone now */
    }
}

/* Something is due at once, or others wait who nobody would answer. */
static bool is_needed(struct loop_uv *loop)
{
    return loop->stopping || !hm_list_empty(&loop->waits) ||
           hm_timer_heap_next(&loop->heap) <= hm_loop_uv_clock();
}

/* Runs the loop until the wait has ended, or the loop is stopped. */
static void drive(struct loop_uv *loop, struct hm_loop_wait *wait)
{
    atomic_fetch_add(&loop->visits, 1);
    loop->guest = wait;
    /* A connection may have ended since somebody looked; its end is seen before a call is sent on it,
     * unless that was just now. */
    bool fresh = hm_loop_uv_clock() - loop->left < FRESH;
    for (; !wait->ended && !loop->stopping; fresh = false) hm_loop_uv_enter(loop, fresh);
    loop->guest = NULL;
    loop->left = hm_loop_uv_clock();
    loop->base.leaving = false;
    if (is_needed(loop)) {
        atomic_store(&loop->driver, LOOP_HOME);
        hm_event_set(&loop->home);
        return;
    }
    atomic_store(&loop->driver, LOOP_NOBODY);
    if (atomic_load(&loop->posts)) wake_home(loop);
    if (atomic_load(&loop->dozing)) hm_event_set(&loop->home);
}

void hm_loop_uv_welcome_guests(struct hm_loop *base)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(!atomic_load(&loop->running));
    loop->guests_welcome = true;
}

void hm_loop_uv_wait(struct hm_loop *base, struct hm_loop_wait *wait)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(hm_loop_uv_here() != loop);
    wait->loop = loop;
    wait->event = (struct hm_event){0};
    wait->ended = wait->invited = false;
    wait->post = (struct hm_post){.cb = on_wait, .arg = wait};
    hm_list_init(&wait->link);
    hm_loop_uv_push(loop, &wait->post);
    bool mine = take(loop, LOOP_GUEST);
    if (!mine) {
        hm_loop_uv_posted(loop);
        hm_event_wait(&wait->event);
        mine = wait->invited;
    }
    if (!mine) return;
    drive(loop, wait);
    if (!wait->ended) hm_event_wait(&wait->event); /* the loop was stopped */
}
