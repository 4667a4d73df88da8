/* tests/unit/base/test_loop_uv_guest.c - threads that wait on a loop run it; nothing is lost between
 * them and the loop's own thread. */
#include "test.h"

#include "base/assert.h"
#include "base/loop_uv.h"

#include <pthread.h>
#include <unistd.h>

struct fixture {
    struct hm_loop *loop;
    struct hm_thread *thread;
    bool welcome;
};

static void run_loop(void *arg)
{
    hm_loop_uv_run(arg);
}

static int open_fixture(void **state, bool welcome)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f || hm_loop_uv_create(1, &f->loop) != HM_OK) return -1;
    f->welcome = welcome;
    if (welcome) hm_loop_uv_welcome_guests(f->loop);
    *state = f;
    return hm_thread_start(NULL, run_loop, f->loop, &f->thread) == HM_OK ? 0 : -1;
}

static int setup(void **state)
{
    return open_fixture(state, true);
}

static int setup_without_guests(void **state)
{
    return open_fixture(state, false);
}

static void stop(struct hm_loop_wait *wait, void *arg)
{
    struct fixture *f = arg;
    hm_loop_uv_stop(f->loop);
    hm_loop_wait_end(wait);
}

/* Stopped by a wait: mostly inside a guest's run, and the loop's own thread must still return. */
static int teardown(void **state)
{
    struct fixture *f = *state;
    struct hm_loop_wait wait = {.start = stop, .arg = f};
    hm_loop_uv_wait(f->loop, &wait);
    hm_thread_join(f->thread);
    hm_loop_uv_destroy(f->loop);
    free(f);
    return 0;
}

struct visit {
    struct hm_loop *loop;
    struct hm_loop_wait wait;
    struct hm_timer timer;
    uint64_t after; /* 0: ended by start */
    pthread_t ran_on;
    unsigned steps;
};

static void on_timer(struct hm_timer *timer)
{
    struct visit *visit = timer->arg;
    visit->steps++;
    visit->ran_on = pthread_self();
    hm_loop_wait_end(&visit->wait);
}

static void on_start(struct hm_loop_wait *wait, void *arg)
{
    struct visit *visit = arg;
    visit->steps++;
    visit->ran_on = pthread_self();
    visit->timer = (struct hm_timer){.cb = on_timer, .arg = visit};
    if (visit->after)
        hm_timer_start(visit->loop, &visit->timer, visit->after);
    else
        hm_loop_wait_end(wait);
}

/* True: the caller's thread ran the end itself. */
static bool visit(struct hm_loop *loop, hm_ns after)
{
    struct visit visit = {.loop = loop, .after = after};
    visit.wait = (struct hm_loop_wait){.start = on_start, .arg = &visit};
    hm_loop_uv_wait(loop, &visit.wait);
    assert_int_equal(visit.steps, after ? 2 : 1);
    return pthread_equal(visit.ran_on, pthread_self()) != 0;
}

static void a_lonely_guest_runs_the_loop_itself(void **state)
{
    struct fixture *f = *state;
    bool before = visit(f->loop, HM_MS); /* invited while it waited, or not yet */
    (void)before;
    unsigned own = 0;
    for (unsigned i = 0; i < 200; i++) own += visit(f->loop, i % 2 ? 50 * HM_US : 0);
    assert_true(own >
                100); /* on a busy machine the loop's own thread may take it back between two */
}

static void a_loop_without_a_welcome_runs_on_its_own_thread_alone(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 50; i++) assert_false(visit(f->loop, i % 2 ? 50 * HM_US : 0));
}

struct flag {
    struct hm_event event;
    struct hm_post post;
    struct hm_timer timer;
};

static void raise_from_post(struct hm_post *post)
{
    struct flag *flag = post->arg;
    hm_event_set(&flag->event);
}

static void raise_from_timer(struct hm_timer *timer)
{
    struct flag *flag = timer->arg;
    hm_event_set(&flag->event);
}

static void a_post_is_run_although_the_last_guest_has_left(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 200; i++) {
        struct flag flag = {.post = {.cb = raise_from_post, .arg = &flag}};
        (void)visit(f->loop, i % 3 ? 20 * HM_US : 0);
        hm_loop_post(f->loop, &flag.post);
        assert_true(hm_event_wait_for(&flag.event, 60 * HM_S));
    }
}

struct start_timer {
    struct hm_loop *loop;
    struct flag *flag;
    hm_ns after;
};

static void start_flags_timer(struct hm_loop_wait *wait, void *arg)
{
    struct start_timer *start = arg;
    start->flag->timer = (struct hm_timer){.cb = raise_from_timer, .arg = start->flag};
    hm_timer_start(start->loop, &start->flag->timer, start->after);
    hm_loop_wait_end(wait);
}

static void timers_fire_although_the_last_guest_has_left(void **state)
{
    struct fixture *f = *state;
    static const hm_ns after[] = {0, HM_US, HM_MS, 60 * HM_MS, 200 * HM_MS};
    for (unsigned i = 0; i < HM_COUNT_OF(after); i++) {
        struct flag flag = {0};
        struct start_timer start = {.loop = f->loop, .flag = &flag, .after = after[i]};
        struct hm_loop_wait wait = {.start = start_flags_timer, .arg = &start};
        (void)visit(f->loop, HM_US);
        hm_loop_uv_wait(f->loop, &wait);
        assert_true(hm_event_wait_for(&flag.event, 60 * HM_S));
    }
}

struct guest {
    struct fixture *f;
    struct hm_thread *thread;
    unsigned seed, visits;
};

static void visit_often(void *arg)
{
    struct guest *guest = arg;
    unsigned random = guest->seed;
    for (unsigned i = 0; i < 400; i++) {
        random = random * 1664525u + 1013904223u;
        (void)visit(guest->f->loop, (hm_ns)(random >> 16 & 3) * 30 * HM_US);
        if (random >> 24 == 0) hm_thread_sleep(30 * HM_MS); /* long enough to lose the loop */
        guest->visits++;
    }
}

static void many_guests_all_get_their_ends(void **state)
{
    enum { GUESTS = 6 };
    struct fixture *f = *state;
    struct guest guest[GUESTS];
    for (unsigned i = 0; i < GUESTS; i++) {
        guest[i] = (struct guest){.f = f, .seed = 17 * i + 1};
        assert_ok(hm_thread_start(NULL, visit_often, &guest[i], &guest[i].thread));
    }
    for (unsigned i = 0; i < GUESTS; i++) {
        hm_thread_join(guest[i].thread);
        assert_int_equal(guest[i].visits, 400);
    }
}

/* Its own thread sleeps without a clock during a long visit, and is back all the same. */
static void a_long_visit_gives_the_loop_back(void **state)
{
    struct fixture *f = *state;
    (void)visit(f->loop, HM_MS);
    (void)visit(f->loop, 400 * HM_MS);
    struct flag flag = {0};
    struct start_timer start = {.loop = f->loop, .flag = &flag, .after = 100 * HM_MS};
    struct hm_loop_wait wait = {.start = start_flags_timer, .arg = &start};
    hm_loop_uv_wait(f->loop, &wait);
    assert_true(hm_event_wait_for(&flag.event, 60 * HM_S));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_lonely_guest_runs_the_loop_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loop_without_a_welcome_runs_on_its_own_thread_alone,
                                        setup_without_guests, teardown),
        cmocka_unit_test_setup_teardown(a_post_is_run_although_the_last_guest_has_left, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(timers_fire_although_the_last_guest_has_left, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(many_guests_all_get_their_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(a_long_visit_gives_the_loop_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
