/* tests/unit/base/support_loop.h - one real loop a case, with a guard: a case that hangs fails instead. */
#ifndef HM_TEST_SUPPORT_LOOP_H
#define HM_TEST_SUPPORT_LOOP_H

#include "test.h"

#include "base/loop_uv.h"

struct loop_fixture {
    struct hm_loop *loop;
    struct hm_timer guard;
    bool guard_fired;
};

int loop_setup(void **state);
int loop_teardown(void **state);
#define CASE(name) cmocka_unit_test_setup_teardown(name, loop_setup, loop_teardown)

/* Until somebody stops it, and `guard_after` at the latest: then the case has failed. */
void loop_run(struct loop_fixture *f, hm_ns guard_after);
void loop_stop_from_timer(struct hm_timer *timer); /* arg: the loop */

#endif
