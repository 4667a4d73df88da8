#include "support_loop.h"

static void on_guard(struct hm_timer *timer)
{
    struct loop_fixture *f = timer->arg;
    f->guard_fired = true;
    hm_loop_uv_stop(f->loop);
}

int loop_setup(void **state)
{
    struct loop_fixture *f = calloc(1, sizeof *f);
    if (!f || hm_loop_uv_create(1, &f->loop) != HM_OK) return -1;
    f->guard = (struct hm_timer){.cb = on_guard, .arg = f};
    *state = f;
    return 0;
}

int loop_teardown(void **state)
{
    struct loop_fixture *f = *state;
    hm_loop_uv_destroy(f->loop);
    free(f);
    return 0;
}

void loop_run(struct loop_fixture *f, hm_ns guard_after)
{
    hm_timer_start(f->loop, &f->guard, guard_after);
    hm_loop_uv_run(f->loop);
    hm_timer_stop(f->loop, &f->guard);
    assert_false(f->guard_fired);
}

void loop_stop_from_timer(struct hm_timer *timer)
{
    hm_loop_uv_stop(timer->arg);
}
