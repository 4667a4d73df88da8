/* tests/unit/base/test_loop_uv.c - the real loop: order, turns, frozen time, watches that end
 * anywhere. */
#include "test.h"

#include "base/assert.h"
#include "base/loop_uv.h"
#include "death.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct fixture {
    struct hm_loop *loop;
    struct hm_timer guard; /* a test that hangs fails instead */
    bool guard_fired;
};

static void on_guard(struct hm_timer *timer)
{
    struct fixture *f = timer->arg;
    f->guard_fired = true;
    hm_loop_uv_stop(f->loop);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f || hm_loop_uv_create(1, &f->loop) != HM_OK) return -1;
    f->guard = (struct hm_timer){.cb = on_guard, .arg = f};
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    hm_loop_uv_destroy(f->loop);
    free(f);
    return 0;
}

static void run(struct fixture *f)
{
    hm_timer_start(f->loop, &f->guard, 30 * HM_S);
    hm_loop_uv_run(f->loop);
    hm_timer_stop(f->loop, &f->guard);
    assert_false(f->guard_fired);
}

static void stop_from_timer(struct hm_timer *timer)
{
    hm_loop_uv_stop(timer->arg);
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    struct ticks ticks = {.loop = f->loop};
    struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    hm_ns before = hm_loop_now(f->loop);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    assert_true(hm_loop_now(f->loop) >= before + HM_MS);
    assert_true(hm_loop_wall_ns(f->loop) > INT64_C(1700000000) * 1000000000); /* after 2023 */
}

static void deadlines_do_not_overflow(void **state)
{
    struct fixture *f = *state;
    struct hm_timer never = {.cb = stop_from_timer, .arg = f->loop};
    assert_true(hm_deadline_after(f->loop, HM_NS_NEVER) == HM_NS_NEVER);
    assert_true(hm_deadline_left(f->loop, HM_NS_NEVER) == HM_NS_NEVER);
    assert_true(hm_deadline_left(f->loop, 1) == 0);
    struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
    hm_timer_start(f->loop, &never, HM_NS_NEVER);
    hm_timer_start(f->loop, &end, HM_MS);
    run(f);
    assert_true(hm_timer_active(&never));
    hm_timer_stop(f->loop, &never);
}

static void streams_follow_the_seed_and_not_each_other(void **state)
{
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
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
    struct fixture *f = *state;
    struct counting_hook hook = {.loop = f->loop};
    struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
    hook.hook = (struct hm_hook){.before_sleep = count_hook, .arg = &hook};
    f->loop->ops->hook(f->loop, &hook.hook);
    hm_timer_start(f->loop, &end, 50 * HM_MS);
    run(f);
    assert_in_range(hook.calls, 1, 10); /* one that did not would call it for all of 50 ms */
    f->loop->ops->unhook(f->loop, &hook.hook);
}

static void a_hook_may_take_itself_off(void **state)
{
    struct fixture *f = *state;
    struct counting_hook first = {.loop = f->loop, .unhook_at = 1}, second = {.loop = f->loop};
    struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
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
    struct fixture *f = *state;
    struct staying_hook staying = {.loop = f->loop};
    staying.hook = (struct hm_hook){.before_sleep = stay_until_due, .arg = &staying};
    staying.due = (struct hm_timer){.cb = stop_from_timer, .arg = f->loop};
    staying.post = (struct hm_post){.cb = on_staying_post, .arg = &staying};
    f->loop->ops->hook(f->loop, &staying.hook);
    hm_timer_start(f->loop, &staying.due, 20 * HM_MS);
    run(f);
    assert_true(staying.stays > 1);
    assert_false(staying.went_on_with_a_post || staying.same_turn || staying.clock_back);
    assert_int_equal(staying.posts_run, 1);
    f->loop->ops->unhook(f->loop, &staying.hook);
}

/* ---- watches ------------------------------------------------------------- */

struct reader {
    struct hm_watch watch;
    struct fixture *fixture;
    int bytes, calls, last_events, limit;
};

static void on_readable(struct hm_watch *watch, int events)
{
    struct reader *reader = watch->arg;
    char byte;
    reader->calls++;
    reader->last_events = events;
    if (!(events & HM_READABLE)) return;
    while (read(watch->fd, &byte, 1) == 1) reader->bytes++;
    if (reader->bytes >= reader->limit) hm_loop_uv_stop(reader->fixture->loop);
}

static void socket_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

static enum hm_status watch(struct fixture *f, struct hm_watch *watch, int events)
{
    return f->loop->ops->watch(f->loop, watch, events);
}

static void a_watch_tells_what_is_ready(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f, .limit = 3};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_readable, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    assert_int_equal(write(fds[1], "abc", 3), 3);
    run(f);
    assert_int_equal(reader.bytes, 3);
    assert_int_equal(reader.last_events, HM_READABLE);
    assert_ok(watch(f, &reader.watch, 0));
    assert_ok(watch(f, &reader.watch, 0));
    assert_null(reader.watch.impl);
    assert_true(fcntl(fds[0], F_GETFD) >= 0); /* the descriptor is the user's */
    close(fds[0]);
    close(fds[1]);
}

static void on_writable_once(struct hm_watch *watched, int events)
{
    struct reader *reader = watched->arg;
    reader->calls++;
    assert_int_equal(events, HM_WRITABLE);
    assert_ok(watch(reader->fixture, watched, HM_READABLE)); /* writable no more */
}

static void events_that_are_no_longer_wanted_do_not_come(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f};
    struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_writable_once, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    assert_ok(
        watch(f, &reader.watch, HM_READABLE | HM_WRITABLE)); /* changed before it was polled */
    hm_timer_start(f->loop, &end, 20 * HM_MS);
    run(f);
    assert_int_equal(reader.calls, 1);
    assert_ok(watch(f, &reader.watch, 0));
    close(fds[0]);
    close(fds[1]);
}

static void a_peer_that_closes_makes_the_watch_readable(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    socket_pair(fds);
    struct reader reader = {.fixture = f};
    reader.watch = (struct hm_watch){.fd = fds[0], .cb = on_readable, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE));
    close(fds[1]);
    run(f);
    assert_int_equal(reader.calls, 1);
    assert_ok(watch(f, &reader.watch, 0));
    close(fds[0]);
}

static void on_refused(struct hm_watch *watched, int events)
{
    struct reader *reader = watched->arg;
    int error = 0;
    socklen_t bytes = sizeof error;
    assert_true(events & HM_WRITABLE);
    if (++reader->calls < 3) return; /* watching goes on: the error must be told again */
    assert_int_equal(getsockopt(watched->fd, SOL_SOCKET, SO_ERROR, &error, &bytes), 0);
    assert_int_equal(error, ECONNREFUSED);
    hm_loop_uv_stop(reader->fixture->loop);
}

static void a_refused_connection_is_told_as_ready(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    /* A port that is bound and does not listen refuses, and nobody else gets it meanwhile. */
    int bound = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(bound, (struct sockaddr *)&address, bytes), 0);
    assert_int_equal(getsockname(bound, (struct sockaddr *)&address, &bytes), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)connect(fd, (struct sockaddr *)&address, bytes);
    struct reader reader = {.fixture = f};
    reader.watch = (struct hm_watch){.fd = fd, .cb = on_refused, .arg = &reader};
    assert_ok(watch(f, &reader.watch, HM_READABLE | HM_WRITABLE));
    run(f);
    assert_ok(watch(f, &reader.watch, 0));
    close(fd);
    close(bound);
}

static void what_cannot_be_watched_is_a_status(void **state)
{
    struct fixture *f = *state;
    FILE *file = tmpfile();
    int fds[2];
    assert_non_null(file);
    struct hm_watch plain = {.fd = fileno(file), .cb = on_readable};
    assert_status(watch(f, &plain, HM_READABLE), HM_ERR_INVALID);
    assert_null(plain.impl);
    fclose(file);
    struct hm_watch closed = {.fd = 1000000, .cb = on_readable};
    assert_status(watch(f, &closed, HM_READABLE), HM_ERR_INVALID);
    socket_pair(fds);
    struct hm_watch first = {.fd = fds[0], .cb = on_readable}, second = first;
    assert_ok(watch(f, &first, HM_READABLE));
    assert_status(watch(f, &second, HM_READABLE), HM_ERR_INVALID);
    assert_ok(watch(f, &first, 0));
    assert_ok(watch(f, &second, HM_READABLE)); /* the first is out at once */
    assert_ok(watch(f, &second, 0));
    close(fds[0]);
    close(fds[1]);
}

/* Several watches, all ready in one turn; the first that is called ends all of them: stops, closes
 * and frees. */
enum { VICTIMS = 8 };
struct massacre {
    struct fixture *fixture;
    struct hm_watch *watch[VICTIMS];
    int far_end[VICTIMS];
    int calls;
};

static void on_massacre(struct hm_watch *watched, int events)
{
    struct massacre *massacre = watched->arg;
    (void)events;
    massacre->calls++;
    for (int i = 0; i < VICTIMS; i++) {
        assert_ok(watch(massacre->fixture, massacre->watch[i], 0));
        close(massacre->watch[i]->fd);
        memset(massacre->watch[i], 0xdd, sizeof *massacre->watch[i]);
        free(massacre->watch[i]);
        massacre->watch[i] = NULL;
    }
    /* The numbers are used again at once: what was ready before is not news about these. */
    for (int i = 0; i < VICTIMS / 2; i++) {
        int fds[2];
        socket_pair(fds);
        massacre->watch[i] = malloc(sizeof *massacre->watch[i]);
        assert_non_null(massacre->watch[i]);
        *massacre->watch[i] = (struct hm_watch){.fd = fds[0], .cb = on_massacre, .arg = massacre};
        assert_ok(watch(massacre->fixture, massacre->watch[i], HM_READABLE));
        close(massacre->far_end[i]);
        massacre->far_end[i] = fds[1];
    }
}

static void a_callback_may_end_every_watch_of_the_turn(void **state)
{
    struct fixture *f = *state;
    for (int round = 0; round < 50; round++) {
        struct massacre massacre = {.fixture = f};
        struct hm_timer end = {.cb = stop_from_timer, .arg = f->loop};
        for (int i = 0; i < VICTIMS; i++) {
            int fds[2];
            socket_pair(fds);
            massacre.far_end[i] = fds[1];
            massacre.watch[i] = malloc(sizeof *massacre.watch[i]);
            assert_non_null(massacre.watch[i]);
            *massacre.watch[i] =
                (struct hm_watch){.fd = fds[0], .cb = on_massacre, .arg = &massacre};
            assert_ok(watch(f, massacre.watch[i], HM_READABLE | HM_WRITABLE));
            assert_int_equal(write(fds[1], "x", 1), 1);
        }
        hm_timer_start(f->loop, &end, 2 * HM_MS);
        run(f);
        assert_int_equal(massacre.calls, 1);
        for (int i = 0; i < VICTIMS; i++) {
            close(massacre.far_end[i]);
            if (!massacre.watch[i]) continue;
            assert_ok(watch(f, massacre.watch[i], 0));
            close(massacre.watch[i]->fd);
            free(massacre.watch[i]);
        }
    }
}

static void a_broken_pipe_is_a_status_of_write(void **state)
{
    (void)state;
    int fds[2];
    socket_pair(fds);
    close(fds[0]);
    assert_int_equal(write(fds[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    close(fds[1]);
}

/* ---- life ---------------------------------------------------------------- */

static void what_still_runs_at_the_end_aborts(void **state)
{
    struct fixture *f = *state;
    struct hm_timer timer = {.cb = stop_from_timer, .arg = f->loop};
    int fds[2];
    socket_pair(fds);
    struct hm_watch watched = {.fd = fds[0], .cb = on_readable};
    hm_timer_start(f->loop, &timer, HM_S);
    assert_aborts(hm_loop_uv_destroy(f->loop));
    hm_timer_stop(f->loop, &timer);
    assert_ok(watch(f, &watched, HM_READABLE));
    assert_aborts(hm_loop_uv_destroy(f->loop));
    assert_ok(watch(f, &watched, 0));
    close(fds[0]);
    close(fds[1]);
}

static void loops_come_and_go_without_leaving_descriptors(void **state)
{
    (void)state;
    int before = open("/dev/null", O_RDONLY);
    close(before);
    for (int i = 0; i < 100; i++) {
        struct hm_loop *loop;
        assert_ok(hm_loop_uv_create((uint64_t)i, &loop));
        struct hm_timer end = {.cb = stop_from_timer, .arg = loop};
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
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
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
        CASE(a_watch_tells_what_is_ready),
        CASE(events_that_are_no_longer_wanted_do_not_come),
        CASE(a_peer_that_closes_makes_the_watch_readable),
        CASE(a_refused_connection_is_told_as_ready),
        CASE(what_cannot_be_watched_is_a_status),
        CASE(a_callback_may_end_every_watch_of_the_turn),
        CASE(a_broken_pipe_is_a_status_of_write),
        CASE(what_still_runs_at_the_end_aborts),
        CASE(loops_come_and_go_without_leaving_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
