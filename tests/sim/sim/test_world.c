/* The virtual loop keeps the contract of base/loop.h, and replays. */
#include "test.h"

#include "sim/world.h"

struct firing {
    struct hm_timer timer;
    struct hm_world *world;
    unsigned number, *log, *count;
    hm_ns fired_at;
    unsigned again; /* restarts itself with 0 so many times */
    uint64_t turn;
};

static void fire(struct hm_timer *timer)
{
    struct firing *firing = timer->arg;
    struct hm_loop *loop = hm_world_loop(firing->world);
    firing->fired_at = hm_loop_now(loop);
    assert_true(loop->ops->turn(loop) > firing->turn);
    firing->turn = loop->ops->turn(loop);
    firing->log[(*firing->count)++] = firing->number;
    if (firing->again > 0) {
        firing->again--;
        hm_timer_start(loop, timer, 0);
        assert_true(hm_timer_active(timer));
    }
}

static void timers_fire_in_order_of_due_time_then_of_starting(void **state)
{
    (void)state;
    struct hm_world *world;
    assert_ok(hm_world_create(1, &world));
    struct hm_loop *loop = hm_world_loop(world);
    hm_ns start = hm_loop_now(loop);
    unsigned log[16], count = 0;
    struct firing firing[4] = {0};
    static const hm_ns after[4] = {5 * HM_MS, 3 * HM_MS, 5 * HM_MS, 1};
    for (unsigned i = 0; i < 4; i++) {
        firing[i] = (struct firing){.world = world, .number = i, .log = log, .count = &count};
        firing[i].timer.cb = fire;
        firing[i].timer.arg = &firing[i];
        hm_timer_start(loop, &firing[i].timer, after[i]);
    }
    firing[1].again = 2;
    hm_world_run_for(world, 4 * HM_MS);
    assert_int_equal(hm_loop_now(loop), start + 4 * HM_MS);
    assert_int_equal(count, 4);
    assert_int_equal(firing[3].fired_at, start + 1);
    assert_int_equal(firing[1].fired_at, start + 3 * HM_MS);
    while (hm_world_step(world)) continue;
    static const unsigned wanted[6] = {3, 1, 1, 1, 0, 2};
    assert_int_equal(count, 6);
    assert_memory_equal(log, wanted, sizeof wanted);
    assert_int_equal(hm_loop_now(loop), start + 5 * HM_MS);
    hm_world_destroy(world);
}

static void a_stopped_or_moved_timer_does_not_fire_at_its_old_time(void **state)
{
    (void)state;
    struct hm_world *world;
    assert_ok(hm_world_create(1, &world));
    struct hm_loop *loop = hm_world_loop(world);
    hm_ns start = hm_loop_now(loop);
    unsigned log[4], count = 0;
    struct firing a = {.world = world, .number = 1, .log = log, .count = &count}, b = a;
    a.timer = (struct hm_timer){.cb = fire, .arg = &a};
    b.timer = (struct hm_timer){.cb = fire, .arg = &b};
    hm_timer_start(loop, &a.timer, HM_MS);
    hm_timer_start(loop, &b.timer, HM_MS);
    hm_timer_stop(loop, &a.timer);
    hm_timer_stop(loop, &a.timer);
    hm_timer_start(loop, &b.timer, 2 * HM_MS);
    while (hm_world_step(world)) continue;
    assert_int_equal(count, 1);
    assert_int_equal(b.fired_at, start + 2 * HM_MS);
    hm_world_destroy(world);
}

struct posting {
    struct hm_post post;
    unsigned number, *log, *count;
};

static void posted(struct hm_post *post)
{
    struct posting *posting = post->arg;
    posting->log[(*posting->count)++] = posting->number;
}

static void posts_run_first_come_first_served_and_never_inside_post(void **state)
{
    (void)state;
    struct hm_world *world;
    assert_ok(hm_world_create(1, &world));
    unsigned log[8], count = 0;
    struct posting posting[5];
    for (unsigned i = 0; i < 5; i++) {
        posting[i] = (struct posting){.number = i, .log = log, .count = &count};
        posting[i].post.cb = posted;
        posting[i].post.arg = &posting[i];
        hm_loop_post(hm_world_loop(world), &posting[i].post);
        assert_int_equal(count, 0);
    }
    while (hm_world_step(world)) continue;
    assert_int_equal(count, 5);
    for (unsigned i = 0; i < 5; i++) assert_int_equal(log[i], i);
    hm_world_destroy(world);
}

struct sleeper {
    struct hm_hook hook;
    unsigned calls, refusals;
};

static bool before_sleep(struct hm_hook *hook)
{
    struct sleeper *sleeper = hook->arg;
    sleeper->calls++;
    if (sleeper->refusals == 0) return true;
    sleeper->refusals--;
    return false;
}

static void the_clock_waits_for_a_hook_that_forbids_sleeping(void **state)
{
    (void)state;
    struct hm_world *world;
    assert_ok(hm_world_create(1, &world));
    struct hm_loop *loop = hm_world_loop(world);
    hm_ns start = hm_loop_now(loop);
    unsigned log[4], count = 0;
    struct firing a = {.world = world, .log = log, .count = &count};
    a.timer = (struct hm_timer){.cb = fire, .arg = &a};
    struct sleeper sleeper = {.refusals = 2};
    sleeper.hook = (struct hm_hook){.before_sleep = before_sleep, .arg = &sleeper};
    loop->ops->hook(loop, &sleeper.hook);
    hm_timer_start(loop, &a.timer, HM_MS);
    for (int i = 0; i < 2; i++) {
        assert_true(hm_world_step(world));
        assert_int_equal(hm_loop_now(loop), start);
    }
    assert_true(hm_world_step(world));
    assert_int_equal(count, 1);
    assert_int_equal(sleeper.calls, 3);
    loop->ops->unhook(loop, &sleeper.hook);
    hm_world_destroy(world);
}

static void skew_moves_the_wall_clock_alone(void **state)
{
    (void)state;
    struct hm_world *world;
    assert_ok(hm_world_create(1, &world));
    struct hm_loop *loop = hm_world_loop(world);
    int64_t wall = hm_loop_wall_ns(loop);
    hm_ns now = hm_loop_now(loop);
    hm_world_set_wall_skew(world, -3 * (int64_t)HM_S);
    assert_int_equal(hm_loop_wall_ns(loop), wall - 3 * (int64_t)HM_S);
    assert_int_equal(hm_loop_now(loop), now);
    hm_world_destroy(world);
}

/* A hundred timers that draw their next delay at random. */
struct walker {
    struct hm_timer timer;
    struct hm_world *world;
    unsigned left;
};

static void walk(struct hm_timer *timer)
{
    struct walker *walker = timer->arg;
    struct hm_loop *loop = hm_world_loop(walker->world);
    if (walker->left-- > 0)
        hm_timer_start(loop, timer, hm_loop_random(loop, HM_RANDOM_LOAD) % HM_S);
}

static uint64_t walk_hash(uint64_t seed)
{
    struct hm_world *world;
    assert_ok(hm_world_create(seed, &world));
    static struct walker walker[100];
    memset(walker, 0, sizeof walker);
    for (unsigned i = 0; i < 100; i++) {
        walker[i] = (struct walker){.world = world, .left = 50};
        walker[i].timer.cb = walk;
        walker[i].timer.arg = &walker[i];
        hm_timer_start(hm_world_loop(world), &walker[i].timer, 0);
    }
    while (hm_world_step(world)) continue;
    uint64_t hash = hm_world_trace_hash(world);
    hm_world_destroy(world);
    return hash;
}

static void the_same_seed_replays_and_another_does_not(void **state)
{
    (void)state;
    assert_true(walk_hash(7) == walk_hash(7));
    assert_true(walk_hash(7) != walk_hash(8));
}

static void random_streams_do_not_shift_each_other(void **state)
{
    (void)state;
    struct hm_world *a, *b;
    assert_ok(hm_world_create(5, &a));
    assert_ok(hm_world_create(5, &b));
    for (int i = 0; i < 10; i++) (void)hm_loop_random(hm_world_loop(a), HM_RANDOM_NET);
    for (int i = 0; i < 10; i++)
        assert_true(hm_loop_random(hm_world_loop(a), HM_RANDOM_IDS) ==
                    hm_loop_random(hm_world_loop(b), HM_RANDOM_IDS));
    hm_world_destroy(a);
    hm_world_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_of_due_time_then_of_starting),
        cmocka_unit_test(a_stopped_or_moved_timer_does_not_fire_at_its_old_time),
        cmocka_unit_test(posts_run_first_come_first_served_and_never_inside_post),
        cmocka_unit_test(the_clock_waits_for_a_hook_that_forbids_sleeping),
        cmocka_unit_test(skew_moves_the_wall_clock_alone),
        cmocka_unit_test(the_same_seed_replays_and_another_does_not),
        cmocka_unit_test(random_streams_do_not_shift_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
