/* sim/world.c - the virtual loop.
 *
 * Owns:        the clock, the timer heap, the queue of posts, one random stream a purpose, the
 *              trace.
 * Happy path:  step runs the first post, or else the first timer of the heap after setting the
 *              clock to its due time.  Each event is a turn of its own: the virtual loop
 *              interleaves as finely as the contract of base/loop.h allows.
 * Failure:     none but our own bugs, which are asserted.
 * Invariant:   the clock never goes back, and stays as it is during a callback. */
#include "sim/world.h"

#include "base/assert.h"
#include "base/map.h"
#include "base/rng.h"
#include "base/thread.h"
#include "base/timer_heap.h"

#include <stdlib.h>
#include <string.h>

enum { STANDING_STEPS_MAX = 10 * 1000 * 1000 };
#define CLOCK_START   HM_S                               /* not 0: a due time of 0 means idle */
#define WALL_START_NS (INT64_C(1767225600) * 1000000000) /* 2026-01-01 */

struct hm_world {
    struct hm_loop loop;
    uint64_t seed;
    hm_ns now;
    int64_t wall_skew_ns;
    struct hm_timer_heap heap;
    struct hm_post *post_first, **post_last;
    struct hm_hook *hooks;
    struct hm_rng rng[HM_RANDOM_STREAMS];
    uint64_t turn, trace;
    uint64_t standing_steps; /* since the clock last moved */
    struct hm_world_part *parts;
    uintptr_t thread;
};

static struct hm_world *world_of(struct hm_loop *loop)
{
    return HM_CONTAINER_OF(loop, struct hm_world, loop);
}

static hm_ns loop_now(struct hm_loop *loop)
{
    return world_of(loop)->now;
}

static int64_t loop_wall_ns(struct hm_loop *loop)
{
    struct hm_world *world = world_of(loop);
    return WALL_START_NS + (int64_t)world->now + world->wall_skew_ns;
}

static uint64_t loop_random(struct hm_loop *loop, enum hm_random_stream stream)
{
    HM_ASSERT(stream < HM_RANDOM_STREAMS);
    return hm_rng_next(&world_of(loop)->rng[stream]);
}

static void loop_timer_start(struct hm_loop *loop, struct hm_timer *timer, hm_ns after)
{
    hm_timer_heap_start(&world_of(loop)->heap, timer, hm_deadline_after(loop, after));
}

static void loop_timer_stop(struct hm_loop *loop, struct hm_timer *timer)
{
    hm_timer_heap_stop(&world_of(loop)->heap, timer);
}

static enum hm_status loop_watch(struct hm_loop *loop, struct hm_watch *watch, int events)
{
    (void)loop;
    (void)watch;
    (void)events;
    HM_ASSERT(!"the virtual loop has no descriptors");
    return HM_ERR_UNSUPPORTED;
}

static void loop_hook(struct hm_loop *loop, struct hm_hook *hook)
{
    struct hm_world *world = world_of(loop);
    hook->next = world->hooks;
    world->hooks = hook;
}

static void loop_unhook(struct hm_loop *loop, struct hm_hook *hook)
{
    struct hm_hook **at = &world_of(loop)->hooks;
    while (*at && *at != hook) at = &(*at)->next;
    HM_ASSERT(*at);
    *at = hook->next;
}

static bool loop_stay(struct hm_loop *loop)
{
    (void)loop;
    return false;
}

static void loop_post(struct hm_loop *loop, struct hm_post *post)
{
    struct hm_world *world = world_of(loop);
    HM_ASSERT(world->thread == hm_thread_here() && post->cb);
    post->next = NULL;
    *world->post_last = post;
    world->post_last = &post->next;
}

static uint64_t loop_turn(struct hm_loop *loop)
{
    return world_of(loop)->turn;
}

static const struct hm_loop_ops world_loop_ops = {
    .now = loop_now,
    .clock = loop_now, /* one thread, and nothing takes time but waiting */
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

enum hm_status hm_world_create(uint64_t seed, struct hm_world **world)
{
    struct hm_world *created = calloc(1, sizeof *created);
    if (!created) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a simulated world");
    enum hm_status status = hm_timer_heap_init(&created->heap);
    if (status) {
        free(created);
        return status;
    }
    created->loop.ops = &world_loop_ops;
    created->seed = seed;
    created->now = CLOCK_START;
    created->post_last = &created->post_first;
    created->thread = hm_thread_here();
    created->trace = seed;
    for (unsigned i = 0; i < HM_RANDOM_STREAMS; i++) hm_rng_init(&created->rng[i], seed, i);
    *world = created;
    return HM_OK;
}

void hm_world_destroy(struct hm_world *world)
{
    if (!world) return;
    while (world->parts) {
        struct hm_world_part *part = world->parts;
        world->parts = part->next;
        part->destroy(part);
    }
    HM_ASSERT(world->heap.count == 0); /* somebody's timer still runs */
    HM_ASSERT(!world->post_first && !world->hooks);
    hm_timer_heap_fini(&world->heap);
    free(world);
}

struct hm_loop *hm_world_loop(struct hm_world *world)
{
    return &world->loop;
}

uint64_t hm_world_seed(const struct hm_world *world)
{
    return world->seed;
}

void hm_world_set_wall_skew(struct hm_world *world, int64_t skew_ns)
{
    world->wall_skew_ns = skew_ns;
}

void hm_world_trace(struct hm_world *world, const char *tag, uint64_t a, uint64_t b)
{
    uint64_t words[4] = {world->now, a, b, hm_hash(tag, strlen(tag), 0)};
    world->trace = hm_hash(words, sizeof words, world->trace);
}

uint64_t hm_world_trace_hash(const struct hm_world *world)
{
    return world->trace;
}

/* The clock is about to move: a real loop would sleep here.  False: somebody still has work. */
static bool may_sleep(struct hm_world *world)
{
    bool may = true;
    for (struct hm_hook *hook = world->hooks, *next; hook; hook = next) {
        next = hook->next;
        may &= hook->before_sleep(hook);
    }
    return may;
}

static void step_count(struct hm_world *world)
{
    world->turn++;
    world->standing_steps++;
    HM_ASSERT(world->standing_steps < STANDING_STEPS_MAX);
}

/* One event due at or before `limit`; false if there is none. */
static bool step_before(struct hm_world *world, hm_ns limit)
{
    struct hm_post *post = world->post_first;
    if (post) {
        step_count(world);
        world->post_first = post->next;
        if (!world->post_first) world->post_last = &world->post_first;
        hm_world_trace(world, "post", world->turn, 0);
        post->cb(post);
        return true;
    }
    hm_ns due = hm_timer_heap_next(&world->heap);
    if (due > world->now && world->hooks && !may_sleep(world)) {
        step_count(world);
        return true;
    }
    due = hm_timer_heap_next(&world->heap); /* a hook may have started one, or posted */
    if (world->post_first) return step_before(world, limit);
    if (due == HM_NS_NEVER || due > limit) return false;
    if (due > world->now) {
        world->now = due;
        world->standing_steps = 0;
    }
    step_count(world);
    struct hm_timer *timer = hm_timer_heap_pop(&world->heap, world->now, UINT64_MAX);
    HM_ASSERT(timer);
    hm_world_trace(world, "timer", world->turn, timer->order);
    timer->cb(timer);
    return true;
}

bool hm_world_step(struct hm_world *world)
{
    return step_before(world, HM_NS_NEVER);
}

void hm_world_run_until(struct hm_world *world, hm_ns when)
{
    HM_ASSERT(when != HM_NS_NEVER);
    while (step_before(world, when)) continue;
    if (when > world->now) {
        world->now = when;
        world->standing_steps = 0;
    }
}

void hm_world_run_for(struct hm_world *world, hm_ns duration)
{
    hm_world_run_until(world, hm_deadline_after(&world->loop, duration));
}

bool hm_world_run_while_not(struct hm_world *world, const bool *flag, hm_ns duration)
{
    hm_ns limit = hm_deadline_after(&world->loop, duration);
    while (!*flag)
        if (!step_before(world, limit)) return false;
    return true;
}

void hm_world_part_add(struct hm_world *world, struct hm_world_part *part)
{
    HM_ASSERT(part->kind && part->destroy && !hm_world_part_find(world, part->kind));
    part->next = world->parts;
    world->parts = part;
}

struct hm_world_part *hm_world_part_find(struct hm_world *world, const void *kind)
{
    for (struct hm_world_part *part = world->parts; part; part = part->next)
        if (part->kind == kind) return part;
    return NULL;
}
