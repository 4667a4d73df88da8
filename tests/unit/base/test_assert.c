/* tests/unit/base/test_assert.c - assertions end the process and say where. */
#include "test.h"

#include "base/assert.h"
#include "death.h"

#include <signal.h>
#include <stdio.h>

static void a_false_assertion_aborts(void **state)
{
    (void)state;
    assert_aborts(HM_ASSERT(1 + 1 == 3));
}

static void a_true_assertion_does_nothing(void **state)
{
    (void)state;
    int evaluated = 0;
    HM_ASSERT(++evaluated == 1);
    assert_int_equal(evaluated, 1);
}

static void the_line_names_expression_and_file(void **state)
{
    (void)state;
    int pipe_fds[2];
    char line[600] = "";
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        death_child_begin();
        dup2(pipe_fds[1], STDERR_FILENO);
        hm_assert_failed("queue not empty", "sched/pool.c", 42);
    }
    close(pipe_fds[1]);
    assert_true(read(pipe_fds[0], line, sizeof line - 1) > 0);
    close(pipe_fds[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_string_equal(line, "hivemind: assertion failed: queue not empty (sched/pool.c:42)\n");
}

static void a_member_leads_back_to_its_struct(void **state)
{
    (void)state;
    struct outer {
        int first;
        double second;
    } outer;
    assert_ptr_equal(HM_CONTAINER_OF(&outer.second, struct outer, second), &outer);
    int array[7];
    assert_int_equal(HM_COUNT_OF(array), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_false_assertion_aborts),
        cmocka_unit_test(a_true_assertion_does_nothing),
        cmocka_unit_test(the_line_names_expression_and_file),
        cmocka_unit_test(a_member_leads_back_to_its_struct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
