/* base/loop_uv.c - the real loop over libuv.
 *
 * One iteration of libuv is, for us:
 *
 *     prepare   hooks run, and posts and timers as below, some turns of them    one batch
 *               changed watches are handed to libuv; the timerfd is armed, or
 *               the idle handle is started because something is already due
 *     poll      the only place that sleeps: watches, signals, resolved names    one batch
 *     check     posts that were there when it began, oldest first               one batch
 *               timers due, in the order of (due, order of starting)            one batch
 *               the same again while there are any, for a few rounds: what a
 *               callback puts off to its next turn needs no system call between
 *     closing   slots of stopped watches come back to the pool
 *
 * A batch is a turn: the clock is read once, at its first callback, and stays.  A post or a timer
 * of 0 that a callback makes therefore never runs inside the caller, nor in its turn.  Outside of
 * batches (set-up before run, a program that has stopped the loop) now reads the clock each time.
 *
 * Owns:      the libuv loop and its handles, the timerfd, a pool of watch slots.  Never the
 *            caller's descriptors.
 * Failure:   creation gives a status; a descriptor that epoll refuses (a plain file) is
 *            HM_ERR_INVALID.  A timerfd or libuv that fails later is our bug, and asserted.
 * Invariant: a stopped watch is never called: its slot forgets it at once, also when libuv has the
 *            event in hand. */
#include "base/loop_uv.h"

#include "base/assert.h"
#include "base/loop_uv_impl.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* Of posts and timers, before descriptors are looked at again. */
enum { ROUNDS_MAX = 8, HOOK_TURNS_MAX = 8 };
#define ROUNDS_TIME (HM_MS / 2)

/* The libuv side of a watch; it outlives the watch until libuv has closed the handle. */
struct watch_slot {
    uv_poll_t poll;
    struct loop_uv *loop;
    struct hm_watch *watch; /* NULL: stopped */
    int wanted, polled;     /* events asked for, and events that libuv polls for */
    struct hm_link changed;
    struct watch_slot *next;
};

/* The loop that runs on this thread. */
static _Thread_local struct loop_uv *loop_here;

struct loop_uv *hm_loop_uv_here(void)
{
    return loop_here;
}

struct loop_uv *hm_loop_uv_of(struct hm_loop *base)
{
    return HM_CONTAINER_OF(base, struct loop_uv, base);
}

static struct loop_uv *owned(struct hm_loop *base)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    HM_ASSERT(loop_here == loop || !atomic_load_explicit(&loop->running, memory_order_relaxed));
    return loop;
}

/* ---- time ---------------------------------------------------------------- */

static hm_ns clock_ns(clockid_t clock)
{
    struct timespec now;
    int failed = clock_gettime(clock, &now);
    HM_ASSERT(!failed);
    return (hm_ns)now.tv_sec * HM_S + (hm_ns)now.tv_nsec;
}

void hm_loop_uv_batch_begin(struct loop_uv *loop)
{
    if (loop->in_batch) return;
    atomic_store_explicit(&loop->asleep, false, memory_order_relaxed);
    loop->in_batch = true;
    loop->now = clock_ns(CLOCK_MONOTONIC);
    loop->turn++;
}

static hm_ns loop_now(struct hm_loop *base)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    return loop->in_batch ? loop->now : clock_ns(CLOCK_MONOTONIC);
}

hm_ns hm_loop_uv_clock(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

static hm_ns loop_clock(struct hm_loop *base)
{
    (void)base;
    return hm_loop_uv_clock();
}

static int64_t loop_wall_ns(struct hm_loop *base)
{
    (void)base;
    return (int64_t)clock_ns(CLOCK_REALTIME);
}

static uint64_t loop_turn(struct hm_loop *base)
{
    return hm_loop_uv_of(base)->turn;
}

static uint64_t loop_random(struct hm_loop *base, enum hm_random_stream stream)
{
    HM_ASSERT((unsigned)stream < HM_RANDOM_STREAMS);
    return hm_rng_next(&owned(base)->random[stream]);
}

/* ---- timers -------------------------------------------------------------- */

static void loop_timer_start(struct hm_loop *base, struct hm_timer *timer, hm_ns after)
{
    struct loop_uv *loop = owned(base);
    hm_timer_heap_start(&loop->heap, timer, hm_deadline_after(base, after));
}

static void loop_timer_stop(struct hm_loop *base, struct hm_timer *timer)
{
    hm_timer_heap_stop(&owned(base)->heap, timer);
}

/* Makes the timerfd fire no later than `due`.  One that is armed for an earlier time is left alone:
 * deadlines are mostly stopped before they are due, and one wake-up for nothing is cheaper than a
 * system call for each. */
static void timer_arm(struct loop_uv *loop, hm_ns due)
{
    if (due >= loop->armed_due) return;
    struct itimerspec at = {
        .it_value = {.tv_sec = (time_t)(due / HM_S), .tv_nsec = (long)(due % HM_S)}};
    int failed = timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    HM_ASSERT(!failed);
    loop->armed_due = due;
}

static void on_timer_fd(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct loop_uv *loop = poll->data;
    uint64_t expirations;
    ssize_t got = read(loop->timer_fd, &expirations, sizeof expirations);
    (void)got; /* EAGAIN is as good: the timers are fired by the check phase */
    loop->armed_due = HM_NS_NEVER;
}

/* False: none was due. */
static bool fire_timers(struct loop_uv *loop)
{
    hm_ns due = hm_timer_heap_next(&loop->heap);
    if (due == HM_NS_NEVER || due > clock_ns(CLOCK_MONOTONIC)) return false;
    hm_loop_uv_batch_begin(loop);
    uint64_t order_limit = loop->heap.order_next;
    struct hm_timer *timer;
    while ((timer = hm_timer_heap_pop(&loop->heap, loop->now, order_limit)) != NULL)
        timer->cb(timer);
    loop->in_batch = false;
    return true;
}

/* ---- posts: a stack that any thread pushes on, reversed when it is drained ---- */

/* A loop that is awake needs no wake-up: it says that it will sleep, and then looks at the posts
 * once more.  Who comes after that wakes it, once. */
static void loop_post(struct hm_loop *base, struct hm_post *post)
{
    struct loop_uv *loop = hm_loop_uv_of(base);
    hm_loop_uv_push(loop, post);
    hm_loop_uv_posted(loop);
}

void hm_loop_uv_push(struct loop_uv *loop, struct hm_post *post)
{
    HM_ASSERT(post->cb);
    struct hm_post *newest = atomic_load_explicit(&loop->posts, memory_order_relaxed);
    do post->next = newest;
    while (!atomic_compare_exchange_weak_explicit(&loop->posts, &newest, post, memory_order_seq_cst,
                                                  memory_order_relaxed));
}

static void on_wake(uv_async_t *wake)
{
    (void)wake; /* the check phase does the work */
}

/* False: there were none. */
static bool drain_posts(struct loop_uv *loop)
{
    if (!atomic_load_explicit(&loop->posts, memory_order_relaxed)) return false;
    struct hm_post *newest = atomic_exchange_explicit(&loop->posts, NULL, memory_order_acquire);
    struct hm_post *oldest = NULL;
    while (newest) {
        struct hm_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    hm_loop_uv_batch_begin(loop);
    while (oldest) {
        struct hm_post *post = oldest;
        oldest = post->next;
        post->cb(post); /* may free the post */
    }
    loop->in_batch = false;
    return true;
}

/* ---- watches ------------------------------------------------------------- */

static void on_events(uv_poll_t *poll, int status, int events);

static int uv_events(int events)
{
    return (events & HM_READABLE ? UV_READABLE : 0) | (events & HM_WRITABLE ? UV_WRITABLE : 0);
}

static int slot_poll(struct watch_slot *slot)
{
    slot->polled = slot->wanted;
    return uv_poll_start(&slot->poll, uv_events(slot->wanted), on_events);
}

static void on_events(uv_poll_t *poll, int status, int events)
{
    struct watch_slot *slot = HM_CONTAINER_OF(poll, struct watch_slot, poll);
    struct hm_watch *watch = slot->watch;
    if (!watch) return;
    int ready = (events & UV_READABLE ? HM_READABLE : 0) | (events & UV_WRITABLE ? HM_WRITABLE : 0);
    if (status < 0) {
        /* libuv stops polling a descriptor that has an error (a refused connect).  The user's next
         * read or write tells which, so it looks ready; if he keeps watching, polling starts again
         * before the next sleep. */
        ready = HM_READABLE | HM_WRITABLE;
        slot->polled = 0;
        if (!hm_list_linked(&slot->changed))
            hm_list_push(&slot->loop->slots_changed, &slot->changed);
    }
    ready &= slot->wanted;
    if (!ready) return;
    hm_loop_uv_batch_begin(slot->loop);
    watch->cb(watch, ready); /* may stop and free the watch */
}

static void on_slot_closed(uv_handle_t *handle)
{
    struct watch_slot *slot = HM_CONTAINER_OF((uv_poll_t *)handle, struct watch_slot, poll);
    slot->next = slot->loop->slots_free;
    slot->loop->slots_free = slot;
}

static void watch_stop(struct loop_uv *loop, struct hm_watch *watch)
{
    struct watch_slot *slot = watch->impl;
    if (!slot) return;
    HM_ASSERT(slot->watch == watch && loop->watch_count > 0);
    slot->watch = NULL;
    watch->impl = NULL;
    hm_list_remove(&slot->changed);
    loop->watch_count--;
    /* This takes the descriptor out of epoll, and its events out of those in hand, before it
     * returns: the user may close it at once, and the number may be used again. */
    uv_close((uv_handle_t *)&slot->poll, on_slot_closed);
}

static enum hm_status watch_begin(struct loop_uv *loop, struct hm_watch *watch, int events)
{
    struct watch_slot *slot = loop->slots_free;
    if (slot)
        loop->slots_free = slot->next;
    else if (!(slot = malloc(sizeof *slot)))
        return hm_fail(HM_ERR_NO_MEMORY, "no memory to watch a descriptor");
    *slot = (struct watch_slot){.loop = loop, .watch = watch, .wanted = events};
    hm_list_init(&slot->changed);
    int error = uv_poll_init(&loop->uv, &slot->poll, watch->fd); /* makes it non-blocking */
    if (error) {
        slot->next = loop->slots_free;
        loop->slots_free = slot;
        return hm_fail(error == UV_ENOMEM ? HM_ERR_NO_MEMORY : HM_ERR_INVALID,
                       "descriptor %d cannot be watched: %s", watch->fd, uv_strerror(error));
    }
    error = slot_poll(slot);
    HM_ASSERT(!error); /* uv_poll_init has refused a descriptor that is watched already */
    watch->impl = slot;
    loop->watch_count++;
    return HM_OK;
}

static enum hm_status loop_watch(struct hm_loop *base, struct hm_watch *watch, int events)
{
    struct loop_uv *loop = owned(base);
    HM_ASSERT((events & ~(HM_READABLE | HM_WRITABLE)) == 0);
    struct watch_slot *slot = watch->impl;
    if (events == 0) {
        watch_stop(loop, watch);
        return HM_OK;
    }
    HM_ASSERT(watch->cb);
    if (!slot) return watch_begin(loop, watch, events);
    /* Each change costs libuv two epoll_ctl, and a stream may turn HM_WRITABLE on and off several
     * times a turn: what is wanted when the loop goes to sleep is what counts.  Until then
     * on_events filters. */
    slot->wanted = events;
    if (!hm_list_linked(&slot->changed)) hm_list_push(&loop->slots_changed, &slot->changed);
    return HM_OK;
}

static void apply_changed_watches(struct loop_uv *loop)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&loop->slots_changed)) != NULL) {
        struct watch_slot *slot = HM_CONTAINER_OF(link, struct watch_slot, changed);
        if (slot->wanted == slot->polled) continue;
        int error = slot_poll(slot);
        HM_ASSERT(!error);
    }
}

/* ---- hooks, and the way to sleep ----------------------------------------- */

static void loop_hook(struct hm_loop *base, struct hm_hook *hook)
{
    struct loop_uv *loop = owned(base);
    struct hm_hook **end = &loop->hooks;
    while (*end) {
        HM_ASSERT(*end != hook);
        end = &(*end)->next;
    }
    hook->next = NULL;
    *end = hook;
}

static void loop_unhook(struct hm_loop *base, struct hm_hook *hook)
{
    struct hm_hook **at = &owned(base)->hooks;
    while (*at && *at != hook) at = &(*at)->next;
    if (*at) *at = hook->next;
}

static bool loop_stay(struct hm_loop *base)
{
    struct loop_uv *loop = owned(base);
    if (atomic_load_explicit(&loop->posts, memory_order_relaxed)) return false;
    loop->in_batch = false;
    hm_loop_uv_batch_begin(loop);
    return hm_timer_heap_next(&loop->heap) > loop->now;
}

/* True if every hook lets the loop sleep.  A hook may take itself off. */
static bool run_hooks(struct loop_uv *loop)
{
    if (!loop->hooks) return true;
    bool may_sleep = true;
    hm_loop_uv_batch_begin(loop);
    for (struct hm_hook *hook = loop->hooks, *next; hook; hook = next) {
        next = hook->next;
        if (!hook->before_sleep(hook)) may_sleep = false;
    }
    loop->in_batch = false;
    return may_sleep;
}

/* Posts and timers, and what they put off to their next turn.  True: there were some, and it was not
 * too much for one visit. */
static bool rounds(struct loop_uv *loop)
{
    hm_ns until = 0;
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        bool posts = drain_posts(loop), timers = fire_timers(loop);
        if (!posts && !timers) return round > 0;
        if (round == 0) until = loop->now + ROUNDS_TIME;
        if (loop->stopping || loop->now >= until) break;
    }
    return false;
}

/* A hook brings messages, and what follows from them is put off to another turn: as long as that is
 * little, some turns go by between two looks at the descriptors. */
static bool run_hooks_and_rounds(struct loop_uv *loop)
{
    for (unsigned turn = 0;; turn++) {
        bool may_sleep = run_hooks(loop);
        if (may_sleep || loop->base.leaving || loop->stopping) return may_sleep;
        if (turn == HOOK_TURNS_MAX || !rounds(loop)) return false;
    }
}

static void on_awake(uv_idle_t *idle)
{
    (void)idle; /* it only keeps libuv from sleeping */
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct loop_uv *loop = prepare->data;
    loop->in_batch = false;
    bool may_sleep = run_hooks_and_rounds(loop);
    apply_changed_watches(loop);
    hm_ns due = hm_timer_heap_next(&loop->heap);
    if (due <= clock_ns(CLOCK_MONOTONIC)) may_sleep = false;
    atomic_store_explicit(&loop->asleep, may_sleep, memory_order_seq_cst);
    if (atomic_load_explicit(&loop->posts, memory_order_seq_cst)) may_sleep = false;
    if (may_sleep && hm_loop_uv_invites(loop)) uv_stop(&loop->uv);
    if (may_sleep) {
        timer_arm(loop, due);
        uv_idle_stop(&loop->awake);
    } else {
        uv_idle_start(&loop->awake, on_awake);
    }
}

static void on_check(uv_check_t *check)
{
    struct loop_uv *loop = check->data;
    loop->in_batch = false; /* the descriptors' batch is over */
    atomic_store_explicit(&loop->asleep, false, memory_order_relaxed);
    (void)rounds(loop);
}

/* ---- life ---------------------------------------------------------------- */

static const struct hm_loop_ops loop_uv_ops = {
    .now = loop_now,
    .clock = loop_clock,
    .wall_ns = loop_wall_ns,
    .random = loop_random,
    .timer_start = loop_timer_start,
    .timer_stop = loop_timer_stop,
    .watch = loop_watch,
    .hook = loop_hook,
    .unhook = loop_unhook,
    .stay = loop_stay,
    .post = loop_post,
    .turn = loop_turn,
};

/* A peer that closes its end must be a status of write, not the end of the process.  A host
 * program's own choice is left alone. */
static void ignore_broken_pipes(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) != 0) return;
    if ((action.sa_flags & SA_SIGINFO) || action.sa_handler != SIG_DFL) return;
    action.sa_handler = SIG_IGN;
    (void)sigaction(SIGPIPE, &action, NULL);
}

/* None of these fails but for want of memory or descriptors; uv_loop_init has taken those it needs.
 */
static enum hm_status handles_init(struct loop_uv *loop)
{
    uv_loop_t *uv = &loop->uv;
    int error = uv_async_init(uv, &loop->wake, on_wake);
    if (error) return hm_fail(HM_ERR_NO_MEMORY, "the event loop: %s", uv_strerror(error));
    error = uv_poll_init(uv, &loop->timer_poll, loop->timer_fd);
    HM_ASSERT(!error);
    error = uv_poll_start(&loop->timer_poll, UV_READABLE, on_timer_fd);
    HM_ASSERT(!error);
    uv_prepare_init(uv, &loop->prepare);
    uv_check_init(uv, &loop->check);
    uv_idle_init(uv, &loop->awake);
    uv_prepare_start(&loop->prepare, on_prepare);
    uv_check_start(&loop->check, on_check);
    loop->timer_poll.data = loop->prepare.data = loop->check.data = loop;
    return HM_OK;
}

enum hm_status hm_loop_uv_create(uint64_t seed, struct hm_loop **created)
{
    enum hm_status status = HM_ERR_NO_MEMORY;
    struct loop_uv *loop = calloc(1, sizeof *loop);
    if (!loop) return hm_fail(HM_ERR_NO_MEMORY, "no memory for the event loop");
    loop->base.ops = &loop_uv_ops;
    loop->armed_due = HM_NS_NEVER;
    hm_list_init(&loop->slots_changed);
    hm_list_init(&loop->waits);
    for (unsigned i = 0; i < HM_RANDOM_STREAMS; i++) hm_rng_init(&loop->random[i], seed, i);

    status = hm_timer_heap_init(&loop->heap);
    if (status != HM_OK) goto free_loop;
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (loop->timer_fd < 0) {
        status = hm_fail(HM_ERR_NO_MEMORY, "no descriptor for timers: raise the limit (ulimit -n)");
        goto fini_heap;
    }
    int error = uv_loop_init(&loop->uv);
    if (error) {
        status = hm_fail(HM_ERR_NO_MEMORY, "the event loop: %s", uv_strerror(error));
        goto close_timer_fd;
    }
    status = handles_init(loop);
    if (status != HM_OK) goto close_uv;
    ignore_broken_pipes();
    *created = &loop->base;
    return HM_OK;

close_uv:
    error = uv_loop_close(&loop->uv);
    HM_ASSERT(!error);
close_timer_fd:
    close(loop->timer_fd);
fini_heap:
    hm_timer_heap_fini(&loop->heap);
free_loop:
    free(loop);
    return status;
}

void hm_loop_uv_destroy(struct hm_loop *base)
{
    if (!base) return;
    struct loop_uv *loop = owned(base);
    HM_ASSERT(!atomic_load(&loop->running));
    HM_ASSERT(loop->heap.count == 0);
    HM_ASSERT(loop->watch_count == 0);
    HM_ASSERT(loop->resolve_count == 0 && loop->signal_count == 0);
    uv_handle_t *own[] = {
        (uv_handle_t *)&loop->wake,    (uv_handle_t *)&loop->timer_poll,
        (uv_handle_t *)&loop->prepare, (uv_handle_t *)&loop->check,
        (uv_handle_t *)&loop->awake,
    };
    for (size_t i = 0; i < HM_COUNT_OF(own); i++) uv_close(own[i], NULL);
    /* Closes them and the slots of stopped watches, and waits for names that were canceled while
     * they were looked up. */
    int left = uv_run(&loop->uv, UV_RUN_DEFAULT);
    HM_ASSERT(left == 0);
    int error = uv_loop_close(&loop->uv);
    HM_ASSERT(!error);
    close(loop->timer_fd);
    while (loop->slots_free) {
        struct watch_slot *slot = loop->slots_free;
        loop->slots_free = slot->next;
        free(slot);
    }
    hm_timer_heap_fini(&loop->heap);
    free(loop);
}

void hm_loop_uv_enter(struct loop_uv *loop, bool posts_first)
{
    loop_here = loop;
    if (posts_first) (void)rounds(loop);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    loop->in_batch = false;
    loop_here = NULL;
}

void hm_loop_uv_stop(struct hm_loop *base)
{
    struct loop_uv *loop = owned(base);
    loop->stopping = true;
    uv_stop(&loop->uv);
}
