/* tests/unit/base/test_thread.c - threads where they should run, events, and workers beside a real
 * loop. */
#include "test.h"

#include "base/loop_uv.h"
#include "base/rng.h"
#include "base/thread.h"
#include "death.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>

struct seen {
    char name[16];
    cpu_set_t cpus;
    int nice;
    sigset_t blocked;
    uintptr_t here;
};

static void look_around(void *arg)
{
    struct seen *seen = arg;
    pthread_getname_np(pthread_self(), seen->name, sizeof seen->name);
    pthread_getaffinity_np(pthread_self(), sizeof seen->cpus, &seen->cpus);
    seen->nice = getpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid));
    pthread_sigmask(SIG_SETMASK, NULL, &seen->blocked);
    seen->here = hm_thread_here();
}

static void a_thread_runs_at_its_place(void **state)
{
    (void)state;
    struct seen seen;
    struct hm_thread *thread;
    struct hm_place place = {.cpu_count = 1, .nice = 3, .name = "lane-with-a-long-name"};
    cpu_set_t mine;
    int cpu = 0, nice_before = getpriority(PRIO_PROCESS, 0);
    pthread_getaffinity_np(pthread_self(), sizeof mine, &mine);
    while (!CPU_ISSET(cpu, &mine)) cpu++;
    place.cpuset[cpu / 64] = UINT64_C(1) << (cpu % 64);
    assert_ok(hm_thread_start(&place, look_around, &seen, &thread));
    hm_thread_join(thread);
    assert_string_equal(seen.name, "lane-with-a-lon");
    assert_int_equal(CPU_COUNT(&seen.cpus), 1);
    assert_true(CPU_ISSET(cpu, &seen.cpus));
    assert_int_equal(seen.nice, nice_before + 3 < 19 ? nice_before + 3 : 19);
    assert_int_equal(getpriority(PRIO_PROCESS, 0), nice_before); /* the thread's alone */
    assert_true(sigismember(&seen.blocked, SIGTERM) && sigismember(&seen.blocked, SIGINT));
}

static void a_thread_without_a_place_runs_anywhere(void **state)
{
    (void)state;
    struct seen seen;
    struct hm_thread *thread;
    cpu_set_t mine;
    pthread_getaffinity_np(pthread_self(), sizeof mine, &mine);
    assert_ok(hm_thread_start(NULL, look_around, &seen, &thread));
    hm_thread_join(thread);
    assert_true(CPU_EQUAL(&seen.cpus, &mine));
    assert_true(seen.here != hm_thread_here());
    assert_true(hm_thread_here() == hm_thread_here());
}

static void a_place_that_is_not_granted_does_not_stop_the_work(void **state)
{
    (void)state;
    struct seen seen = {.name = ""};
    struct hm_thread *thread;
    struct hm_place place = {.cpu_count = 1, .name = "far"};
    place.cpuset[HM_CPUS_MAX / 64 - 1] = UINT64_C(1) << 63; /* processor 1023 */
    assert_ok(hm_thread_start(&place, look_around, &seen, &thread));
    hm_thread_join(thread);
    assert_string_equal(seen.name, "far");
}

struct ping_pong {
    struct hm_event ping, pong;
    int value;
};

static void play(void *arg)
{
    struct ping_pong *game = arg;
    for (int i = 0; i < 2000; i++) {
        hm_event_wait(&game->ping);
        game->value++;
        hm_event_set(&game->pong);
    }
}

static void an_event_hands_over_and_clears_itself(void **state)
{
    (void)state;
    struct ping_pong game = {.value = 0};
    struct hm_thread *thread;
    assert_ok(hm_thread_start(NULL, play, &game, &thread));
    for (int i = 1; i <= 2000; i++) {
        hm_event_set(&game.ping);
        hm_event_wait(&game.pong); /* would run ahead if an event stayed set */
        assert_int_equal(game.value, i);
    }
    hm_thread_join(thread);
}

static void set_event(void *arg)
{
    hm_event_set(arg);
}

static void the_waiter_may_free_the_event_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) {
        struct hm_event *event = calloc(1, sizeof *event);
        struct hm_thread *thread;
        assert_non_null(event);
        assert_ok(hm_thread_start(NULL, set_event, event, &thread));
        hm_event_wait(event);
        free(event);
        hm_thread_join(thread);
    }
}

static void waiting_for_an_event_ends_with_it_or_with_the_time(void **state)
{
    (void)state;
    struct hm_event event = {0};
    struct hm_thread *thread;
    hm_ns before = hm_thread_clock();
    assert_false(hm_event_wait_for(&event, 2 * HM_MS));
    assert_true(hm_thread_clock() - before >= 2 * HM_MS);
    hm_event_set(&event);
    assert_true(hm_event_wait_for(&event, 0));  /* set before it was waited for */
    assert_false(hm_event_wait_for(&event, 0)); /* and cleared by that */
    assert_ok(hm_thread_start(NULL, set_event, &event, &thread));
    assert_true(hm_event_wait_for(&event, 60 * HM_S));
    hm_thread_join(thread);
}

/* ---- workers ------------------------------------------------------------- */

struct work {
    struct hm_loop *loop;
    struct hm_worker *worker;
    struct hm_event started, go;
    pthread_t loop_thread;
    int runs, dones, wanted;
};
struct item {
    struct hm_job job;
    struct work *work;
    int number;
};

static void run_item(struct hm_job *job)
{
    struct item *item = job->arg;
    assert_false(pthread_equal(pthread_self(), item->work->loop_thread));
    assert_int_equal(item->number, item->work->runs++); /* one after another, in order */
}

static void run_slowly(struct hm_job *job)
{
    struct item *item = job->arg;
    hm_event_set(&item->work->started);
    hm_event_wait(&item->work->go);
    run_item(job);
}

static void item_done(struct hm_job *job)
{
    struct item *item = job->arg;
    struct work *work = item->work;
    assert_true(pthread_equal(pthread_self(), work->loop_thread));
    assert_int_equal(item->number, work->dones++);
    free(item);
    if (work->dones == work->wanted) hm_loop_uv_stop(work->loop);
}

static struct item *item_create(struct work *work, int number, void (*run)(struct hm_job *job))
{
    struct item *item = calloc(1, sizeof *item);
    assert_non_null(item);
    *item = (struct item){.job = {.run = run, .done = item_done, .arg = item}};
    item->work = work;
    item->number = number;
    return item;
}

static void work_begin(struct work *work, unsigned jobs_max)
{
    *work = (struct work){.loop_thread = pthread_self()};
    assert_ok(hm_loop_uv_create(1, &work->loop));
    assert_ok(
        hm_worker_start(work->loop, &(struct hm_place){.name = "io"}, jobs_max, &work->worker));
}

static void work_end(struct work *work)
{
    hm_loop_uv_destroy(work->loop);
}

static void jobs_run_in_order_and_end_on_the_loop(void **state)
{
    (void)state;
    enum { JOBS = 500 };
    struct work work;
    work_begin(&work, JOBS);
    work.wanted = JOBS;
    for (int i = 0; i < JOBS; i++)
        assert_ok(hm_worker_submit(work.worker, &item_create(&work, i, run_item)->job));
    hm_loop_uv_run(work.loop);
    assert_int_equal(work.runs, JOBS);
    assert_int_equal(work.dones, JOBS);
    hm_worker_stop(work.worker);
    work_end(&work);
}

static void a_full_worker_answers_busy_until_a_job_has_run(void **state)
{
    (void)state;
    struct work work;
    work_begin(&work, 2);
    work.wanted = 2;
    struct item *more = item_create(&work, 2, run_item);
    assert_ok(hm_worker_submit(work.worker, &item_create(&work, 0, run_slowly)->job));
    hm_event_wait(&work.started);
    assert_ok(hm_worker_submit(work.worker, &item_create(&work, 1, run_item)->job));
    assert_status(hm_worker_submit(work.worker, &more->job), HM_ERR_BUSY);
    hm_event_set(&work.go);
    hm_loop_uv_run(work.loop);
    assert_int_equal(work.dones, 2);
    work.wanted = 3;
    assert_ok(hm_worker_submit(work.worker, &more->job));
    hm_loop_uv_run(work.loop);
    assert_int_equal(work.dones, 3);
    hm_worker_stop(work.worker);
    work_end(&work);
}

static void stopping_runs_what_is_queued_and_the_loop_still_hears_of_it(void **state)
{
    (void)state;
    enum { JOBS = 20 };
    struct work work;
    work_begin(&work, JOBS);
    work.wanted = JOBS;
    assert_ok(hm_worker_submit(work.worker, &item_create(&work, 0, run_slowly)->job));
    for (int i = 1; i < JOBS; i++)
        assert_ok(hm_worker_submit(work.worker, &item_create(&work, i, run_item)->job));
    hm_event_set(&work.go);
    hm_worker_stop(work.worker);
    assert_int_equal(work.runs, JOBS);
    assert_int_equal(work.dones, 0);
    hm_loop_uv_run(work.loop);
    assert_int_equal(work.dones, JOBS);
    hm_worker_stop(NULL);
    work_end(&work);
}

static void a_job_without_an_end_aborts(void **state)
{
    (void)state;
    struct hm_job job = {.run = run_item};
    struct work work;
    work_begin(&work, 1);
    assert_aborts((void)!hm_worker_submit(work.worker, &job));
    hm_worker_stop(work.worker);
    work_end(&work);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_runs_at_its_place),
        cmocka_unit_test(a_thread_without_a_place_runs_anywhere),
        cmocka_unit_test(a_place_that_is_not_granted_does_not_stop_the_work),
        cmocka_unit_test(an_event_hands_over_and_clears_itself),
        cmocka_unit_test(the_waiter_may_free_the_event_at_once),
        cmocka_unit_test(waiting_for_an_event_ends_with_it_or_with_the_time),
        cmocka_unit_test(jobs_run_in_order_and_end_on_the_loop),
        cmocka_unit_test(a_full_worker_answers_busy_until_a_job_has_run),
        cmocka_unit_test(stopping_runs_what_is_queued_and_the_loop_still_hears_of_it),
        cmocka_unit_test(a_job_without_an_end_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
