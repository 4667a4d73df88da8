/* tests/unit/base/test_loop_uv.c - the real loop: order, turns, frozen time, posts, hooks. */
#include "support_loop.h"

#include "base/assert.h"

#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static void run(struct loop_fixture *f)
{
    loop_run(f, 30 * HM_S);
}

static void stop_from_post(struct hm_post *post)
{
    hm_loop_uv_stop(post->arg);
}

/* ---- timers and time ----------------------------------------------------- */

struct ticks {
    struct hm_loop *loop;
    struct hm_timer timer[4];
    hm_ns fired_at[4];
    int order[8], count;
};

static void on_tick(struct hm_timer *timer)
{
    struct ticks *ticks = timer->arg;
    int index = (int)(timer - ticks->timer);
    assert_false(hm_timer_active(timer));
    ticks->fired_at[index] = hm_loop_now(ticks->loop);
    ticks->order[ticks->count++] = index;
    if (ticks->count == 4) hm_loop_uv_stop(ticks->loop);
}

static void timers_fire_in_order_and_never_early(void **state)
{
    struct loop_fixture *f = *state;
    struct ticks ticks = {.loop = f->loop};
    static const hm_ns after[] = {3 * HM_MS, 0, 200 * HM_US, 3 * HM_MS};
    static const int order[] = {1, 2, 0, 3};
    hm_ns before = hm_loop_now(f->loop);
    for (int i = 0; i < 4; i++) {
        ticks.timer[i] = (struct hm_timer){.cb = on_tick, .arg = &ticks};
        hm_timer_start(f->loop, &ticks.timer[i], after[i]);
    }
    assert_int_equal(ticks.count, 0);
    run(f);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(ticks.order[i], order[i]);
        assert_true(ticks.fired_at[i] - before >= after[i]);
    }
}

static void a_stopped_timer_does_not_fire_and_a_moved_one_fires_once(void **state)
{
    struct loop_fixture *f = *state;
    struct ticks ticks = {.loop = f->loop};
    struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
    for (int i = 0; i < 2; i++) ticks.timer[i] = (struct hm_timer){.cb = on_tick, .arg = &ticks};
    hm_timer_start(f->loop, &ticks.timer[0], HM_MS);
    hm_timer_start(f->loop, &ticks.timer[1], HM_MS);
    hm_timer_stop(f->loop, &ticks.timer[0]);
    hm_timer_stop(f->loop, &ticks.timer[0]);
    hm_timer_start(f->loop, &ticks.timer[1], 5 * HM_MS);
    hm_timer_start(f->loop, &end, 20 * HM_MS);
    run(f);
    assert_int_equal(ticks.count, 1);
    assert_int_equal(ticks.order[0], 1);
}

struct frozen {
    struct hm_loop *loop;
    struct hm_timer first, second, next_turn;
    hm_ns now;
    uint64_t turn;
    bool second_ran, next_ran;
};

static void on_frozen_next(struct hm_timer *timer)
{
    struct frozen *frozen = timer->arg;
    frozen->next_ran = true;
    assert_true(hm_loop_now(frozen->loop) > frozen->now);
    assert_true(frozen->loop->ops->turn(frozen->loop) > frozen->turn);
    hm_loop_uv_stop(frozen->loop);
}

static void on_frozen_second(struct hm_timer *timer)
{
    struct frozen *frozen = timer->arg;
    frozen->second_ran = true;
    assert_false(frozen->next_ran);
    assert_true(hm_loop_now(frozen->loop) == frozen->now);
    assert_int_equal(frozen->loop->ops->turn(frozen->loop), frozen->turn);
}

static void on_frozen_first(struct hm_timer *timer)
{
    struct frozen *frozen = timer->arg;
    frozen->now = hm_loop_now(frozen->loop);
    frozen->turn = frozen->loop->ops->turn(frozen->loop);
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    assert_true(hm_loop_now(frozen->loop) == frozen->now);
    hm_timer_start(frozen->loop, &frozen->next_turn, 0);
}

static void time_is_frozen_in_a_turn_and_a_timer_of_zero_waits_for_the_next(void **state)
{
    struct loop_fixture *f = *state;
    struct frozen frozen = {.loop = f->loop};
    frozen.first = (struct hm_timer){.cb = on_frozen_first, .arg = &frozen};
    frozen.second = (struct hm_timer){.cb = on_frozen_second, .arg = &frozen};
    frozen.next_turn = (struct hm_timer){.cb = on_frozen_next, .arg = &frozen};
    hm_timer_start(f->loop, &frozen.first, 0);
    hm_timer_start(f->loop, &frozen.second, 0);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* both are due in the first turn */
    run(f);
    assert_true(frozen.second_ran && frozen.next_ran);
}

static void time_goes_on_outside_of_run(void **state)
{
    struct loop_fixture *f = *state;
    hm_ns before = hm_loop_now(f->loop);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(hm_loop_now(f->loop) >= before + HM_MS);
    assert_true(hm_loop_wall_ns(f->loop) > INT64_C(1700000000) * 1000000000); /* after 2023 */
}

static void deadlines_do_not_overflow(void **state)
{
    struct loop_fixture *f = *state;
    struct hm_timer never = {.cb = loop_stop_from_timer, .arg = f->loop};
    assert_true(hm_deadline_after(f->loop, HM_NS_NEVER) == HM_NS_NEVER);
    assert_true(hm_deadline_left(f->loop, HM_NS_NEVER) == HM_NS_NEVER);
    assert_true(hm_deadline_left(f->loop, 1) == 0);
    struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
    hm_timer_start(f->loop, &never, HM_NS_NEVER);
    hm_timer_start(f->loop, &end, HM_MS);
    run(f);
    assert_true(hm_timer_active(&never));
    hm_timer_stop(f->loop, &never);
}

static void streams_follow_the_seed_and_not_each_other(void **state)
{
    struct loop_fixture *f = *state;
    struct hm_loop *other;
    assert_ok(hm_loop_uv_create(1, &other));
    for (int i = 0; i < 10; i++) (void)hm_loop_random(f->loop, HM_RANDOM_DHT);
    assert_true(hm_loop_random(f->loop, HM_RANDOM_IDS) == hm_loop_random(other, HM_RANDOM_IDS));
    assert_true(hm_loop_random(f->loop, HM_RANDOM_DHT) != hm_loop_random(other, HM_RANDOM_DHT));
    hm_loop_uv_destroy(other);
}

/* ---- posts --------------------------------------------------------------- */

enum { POSTERS = 4, POSTS_EACH = 20000 };
struct numbered {
    struct hm_post post;
    struct posters *all;
    int thread, number;
};
struct posters {
    struct hm_loop *loop;
    struct numbered *posts[POSTERS];
    int next[POSTERS], count;
};

static void on_numbered(struct hm_post *post)
{
    struct numbered *numbered = HM_CONTAINER_OF(post, struct numbered, post);
    struct posters *all = numbered->all;
    assert_int_equal(numbered->number, all->next[numbered->thread]++);
    if (++all->count == POSTERS * POSTS_EACH) hm_loop_uv_stop(all->loop);
}

static void *post_all(void *arg)
{
    struct numbered *posts = arg;
    for (int i = 0; i < POSTS_EACH; i++) hm_loop_post(posts->all->loop, &posts[i].post);
    return NULL;
}

static void posts_of_many_threads_arrive_each_in_its_order(void **state)
{
    struct loop_fixture *f = *state;
    struct posters all = {.loop = f->loop};
    pthread_t threads[POSTERS];
    for (int t = 0; t < POSTERS; t++) {
        all.posts[t] = calloc(POSTS_EACH, sizeof *all.posts[t]);
        assert_non_null(all.posts[t]);
        for (int i = 0; i < POSTS_EACH; i++)
            all.posts[t][i] = (struct numbered){{.cb = on_numbered}, &all, t, i};
        assert_int_equal(pthread_create(&threads[t], NULL, post_all, all.posts[t]), 0);
    }
    run(f);
    for (int t = 0; t < POSTERS; t++) {
        pthread_join(threads[t], NULL);
        free(all.posts[t]);
    }
    assert_int_equal(all.count, POSTERS * POSTS_EACH);
}

struct reposter {
    struct hm_loop *loop;
    struct hm_post post;
    uint64_t last_turn;
    int left;
    bool inside;
};

static void on_repost(struct hm_post *post)
{
    struct reposter *reposter = post->arg;
    uint64_t turn = reposter->loop->ops->turn(reposter->loop);
    assert_false(reposter->inside);
    assert_true(turn > reposter->last_turn);
    reposter->last_turn = turn;
    reposter->inside = true;
    if (--reposter->left > 0)
        hm_loop_post(reposter->loop, post);
    else
        hm_loop_uv_stop(reposter->loop);
    reposter->inside = false;
}

static void a_post_made_in_a_post_runs_in_a_later_turn(void **state)
{
    struct loop_fixture *f = *state;
    struct reposter reposter = {.loop = f->loop, .left = 1000};
    reposter.post = (struct hm_post){.cb = on_repost, .arg = &reposter};
    hm_loop_post(f->loop, &reposter.post);
    run(f);
    assert_int_equal(reposter.left, 0);
}

static void post_from_timer(struct hm_timer *timer)
{
    struct reposter *reposter = timer->arg;
    reposter->last_turn = reposter->loop->ops->turn(reposter->loop);
    hm_loop_post(reposter->loop, &reposter->post);
}

static void a_post_made_in_a_timer_wakes_the_loop(void **state)
{
    struct loop_fixture *f = *state;
    struct reposter reposter = {.loop = f->loop, .left = 1};
    struct hm_timer timer = {.cb = post_from_timer, .arg = &reposter};
    reposter.post = (struct hm_post){.cb = on_repost, .arg = &reposter};
    hm_timer_start(f->loop, &timer, HM_MS);
    run(f);
    assert_int_equal(reposter.left, 0);
}

static void *post_one(void *arg)
{
    struct hm_post *post = arg;
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL); /* the loop sleeps by then, mostly */
    hm_loop_post(post->arg, post);
    return NULL;
}

static void a_post_of_another_thread_wakes_a_loop_that_sleeps(void **state)
{
    struct loop_fixture *f = *state;
    struct hm_post post = {.cb = stop_from_post, .arg = f->loop};
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, post_one, &post), 0);
        run(f);
        pthread_join(thread, NULL);
    }
}

/* ---- hooks --------------------------------------------------------------- */

struct counting_hook {
    struct hm_hook hook;
    struct hm_loop *loop;
    int calls, unhook_at, stop_at;
    bool busy; /* says no */
};

static bool count_hook(struct hm_hook *hook)
{
    struct counting_hook *counting = hook->arg;
    counting->calls++;
    if (counting->calls == counting->unhook_at) counting->loop->ops->unhook(counting->loop, hook);
    if (counting->calls == counting->stop_at) hm_loop_uv_stop(counting->loop);
    return !counting->busy;
}

static void a_hook_that_says_no_keeps_the_loop_awake(void **state)
{
    struct loop_fixture *f = *state;
    struct counting_hook busy = {.loop = f->loop, .busy = true, .stop_at = 1000};
    struct counting_hook other = {.loop = f->loop};
    busy.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &busy};
    other.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &other};
    f->loop->ops->hook(f->loop, &busy.hook);
    f->loop->ops->hook(f->loop, &other.hook);
    run(f); /* nothing else is due: a loop that slept would sleep until the guard */
    assert_int_equal(busy.calls, 1000);
    assert_int_equal(other.calls, 1000);
    f->loop->ops->unhook(f->loop, &busy.hook);
    f->loop->ops->unhook(f->loop, &other.hook);
    f->loop->ops->unhook(f->loop, &other.hook);
}

static void a_loop_sleeps_when_every_hook_says_yes(void **state)
{
    struct loop_fixture *f = *state;
    struct counting_hook hook = {.loop = f->loop};
    struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
    hook.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &hook};
    f->loop->ops->hook(f->loop, &hook.hook);
    hm_timer_start(f->loop, &end, 50 * HM_MS);
    run(f);
    assert_in_range(hook.calls, 1, 10); /* one that did not would call it for all of 50 ms */
    f->loop->ops->unhook(f->loop, &hook.hook);
}

static void a_hook_may_take_itself_off(void **state)
{
    struct loop_fixture *f = *state;
    struct counting_hook first = {.loop = f->loop, .unhook_at = 1}, second = {.loop = f->loop};
    struct hm_timer end = {.cb = loop_stop_from_timer, .arg = f->loop};
    first.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &first};
    second.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &second};
    f->loop->ops->hook(f->loop, &first.hook);
    f->loop->ops->hook(f->loop, &second.hook);
    hm_timer_start(f->loop, &end, HM_MS);
    run(f);
    assert_int_equal(first.calls, 1);
    assert_true(second.calls >= 1);
    f->loop->ops->unhook(f->loop, &second.hook);
}

struct staying_hook {
    struct hm_hook hook;
    struct hm_loop *loop;
    struct hm_timer due;
    struct hm_post post;
    unsigned stays, posts_run;
    uint64_t turn;
    hm_ns now;
    bool went_on_with_a_post, same_turn, clock_back;
};

static void on_staying_post(struct hm_post *post)
{
    struct staying_hook *staying = post->arg;
    staying->posts_run++;
}

static bool stay_until_due(struct hm_hook *hook)
{
    struct staying_hook *staying = hook->arg;
    struct hm_loop *loop = staying->loop;
    if (staying->stays > 0) return true;
    while (loop->ops->stay(loop)) {
        staying->stays++;
        if (loop->ops->turn(loop) == staying->turn) staying->same_turn = true;
        if (hm_loop_now(loop) < staying->now) staying->clock_back = true;
        staying->turn = loop->ops->turn(loop);
        staying->now = hm_loop_now(loop);
    }
    hm_loop_post(loop, &staying->post);
    staying->went_on_with_a_post = loop->ops->stay(loop);
    return true;
}

static void a_hook_may_stay_until_a_timer_is_due_or_a_post_waits(void **state)
{
    struct loop_fixture *f = *state;
    struct staying_hook staying = {.loop = f->loop};
    staying.hook = (struct hm_hook){.before_sleep = stay_until_due, .arg = &staying};
    staying.due = (struct hm_timer){.cb = loop_stop_from_timer, .arg = f->loop};
    staying.post = (struct hm_post){.cb = on_staying_post, .arg = &staying};
    f->loop->ops->hook(f->loop, &staying.hook);
    hm_timer_start(f->loop, &staying.due, 20 * HM_MS);
    run(f);
    assert_true(staying.stays > 1);
    assert_false(staying.went_on_with_a_post || staying.same_turn || staying.clock_back);
    assert_int_equal(staying.posts_run, 1);
    f->loop->ops->unhook(f->loop, &staying.hook);
}

/* ---- life ---------------------------------------------------------------- */

static void loops_come_and_go_without_leaving_descriptors(void **state)
{
    (void)state;
    int before = open("/dev/null", O_RDONLY);
    close(before);
    for (int i = 0; i < 100; i++) {
        struct hm_loop *loop;
        assert_ok(hm_loop_uv_create((uint64_t)i, &loop));
        struct hm_timer end = {.cb = loop_stop_from_timer, .arg = loop};
        hm_timer_start(loop, &end, 0);
        hm_loop_uv_run(loop);
        hm_loop_uv_destroy(loop);
    }
    int after = open("/dev/null", O_RDONLY);
    close(after);
    assert_int_equal(before, after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(timers_fire_in_order_and_never_early),
        CASE(a_stopped_timer_does_not_fire_and_a_moved_one_fires_once),
        CASE(time_is_frozen_in_a_turn_and_a_timer_of_zero_waits_for_the_next),
        CASE(time_goes_on_outside_of_run),
        CASE(deadlines_do_not_overflow),
        CASE(streams_follow_the_seed_and_not_each_other),
        CASE(posts_of_many_threads_arrive_each_in_its_order),
        CASE(a_post_made_in_a_post_runs_in_a_later_turn),
        CASE(a_post_made_in_a_timer_wakes_the_loop),
        CASE(a_post_of_another_thread_wakes_a_loop_that_sleeps),
        CASE(a_hook_that_says_no_keeps_the_loop_awake),
        CASE(a_loop_sleeps_when_every_hook_says_yes),
        CASE(a_hook_may_take_itself_off),
        CASE(a_hook_may_stay_until_a_timer_is_due_or_a_post_waits),
        CASE(loops_come_and_go_without_leaving_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
