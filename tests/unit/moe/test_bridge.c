/* A caller's thread waits for the loop and gets its status and line, from one thread after another.
 * */
#include "test.h"

#include "base/loop_uv.h"
#include "moe/bridge.h"

#include <stdio.h>

struct fixture {
    struct hm_loop *loop;
    struct hm_thread *thread;
    struct hm_bridge bridge;
};

static void run_loop(void *arg)
{
    hm_loop_uv_run(arg);
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    assert_ok(hm_loop_uv_create(1, &fixture->loop));
    fixture->bridge.loop = fixture->loop;
    assert_ok(hm_thread_start(&(struct hm_place){.name = "loop"}, run_loop, fixture->loop,
                              &fixture->thread));
    *state = fixture;
    return 0;
}

static void stop(struct hm_post *post)
{
    hm_loop_uv_stop(post->arg);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    struct hm_post post = {.cb = stop, .arg = fixture->loop};
    hm_loop_post(fixture->loop, &post);
    hm_thread_join(fixture->thread);
    hm_loop_uv_destroy(fixture->loop);
    free(fixture);
    return 0;
}

struct job {
    struct hm_loop *loop;
    struct hm_wait *wait;
    struct hm_timer timer;
    unsigned number, steps;
};

static void fire(struct hm_timer *timer)
{
    struct job *job = timer->arg;
    if (++job->steps < 3) {
        hm_timer_start(job->loop, timer, HM_US);
        return;
    }
    hm_wait_end(job->wait,
                job->number % 2 ? hm_fail(HM_ERR_BUSY, "job %u is odd", job->number) : HM_OK);
}

static void later(struct hm_wait *wait, void *arg)
{
    struct job *job = arg;
    job->wait = wait;
    job->timer = (struct hm_timer){.cb = fire, .arg = job};
    hm_timer_start(job->loop, &job->timer, 0);
}

static void at_once(struct hm_wait *wait, void *arg)
{
    (void)arg;
    hm_wait_end(wait, HM_ERR_NOT_FOUND); /* without a line of its own */
}

static void a_wait_ends_with_the_loops_status_and_line(void **state)
{
    struct fixture *fixture = *state;
    for (unsigned i = 0; i < 200; i++) {
        struct job job = {.loop = fixture->loop, .number = i};
        char line[64];
        hm_fail_clear();
        enum hm_status status = hm_wait_run(&fixture->bridge, later, &job);
        assert_int_equal(job.steps, 3);
        snprintf(line, sizeof line, "job %u is odd", i);
        if (i % 2) {
            assert_status(status, HM_ERR_BUSY);
            assert_string_equal(hm_fail_line(), line);
        } else {
            assert_status(status, HM_OK);
        }
    }
    assert_status(hm_wait_run(&fixture->bridge, at_once, NULL), HM_ERR_NOT_FOUND);
    assert_string_equal(hm_fail_line(), "not found"); /* not the line of an earlier failure */
}

struct caller {
    struct fixture *fixture;
    struct hm_thread *thread;
    unsigned good;
};

static void call(void *arg)
{
    struct caller *caller = arg;
    for (unsigned i = 0; i < 100; i++) {
        struct job job = {.loop = caller->fixture->loop, .number = 2 * i};
        caller->good +=
            hm_wait_run(&caller->fixture->bridge, later, &job) == HM_OK && job.steps == 3;
    }
}

static void many_threads_wait_for_one_loop(void **state)
{
    struct fixture *fixture = *state;
    struct caller caller[4];
    for (unsigned i = 0; i < 4; i++) {
        caller[i] = (struct caller){.fixture = fixture};
        assert_ok(hm_thread_start(&(struct hm_place){.name = "caller"}, call, &caller[i],
                                  &caller[i].thread));
    }
    for (unsigned i = 0; i < 4; i++) {
        hm_thread_join(caller[i].thread);
        assert_int_equal(caller[i].good, 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_wait_ends_with_the_loops_status_and_line, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(many_threads_wait_for_one_loop, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
