/* tests/unit/base/test_module.c - loading modules: a good one, and each way to be none. */
#include "test.h"

#include "../../modules/modules_for_tests.h"
#include "base/module.h"
#include "death.h"

#include <unistd.h>

static int path_set(void **state)
{
    (void)state;
    return setenv("HM_MODULE_PATH", "/nowhere:" HM_TEST_MODULES, 1);
}

static const struct good_ops *good_load(void)
{
    const void *ops = NULL;
    assert_ok(hm_module_load("good", &ops));
    assert_non_null(ops);
    return ops;
}

static void line_has(const char *text)
{
    if (!strstr(hm_fail_line(), text)) fail_msg("no '%s' in: %s", text, hm_fail_line());
}

static void a_module_is_found_once_and_gives_its_ops(void **state)
{
    (void)state;
    const struct good_ops *ops = good_load();
    setenv("HM_MODULE_PATH", "/nowhere", 1);
    assert_ptr_equal(good_load(), ops); /* nothing is looked for any more */
}

static void a_module_shares_the_error_line_with_the_core(void **state)
{
    (void)state;
    const struct good_ops *ops = good_load();
    hm_fail_clear();
    assert_status(ops->fails(13), HM_ERR_INVALID);
    assert_string_equal(hm_fail_line(), "13 is no good; take another");
}

static void a_module_logs_with_the_core_s_level(void **state)
{
    (void)state;
    const struct good_ops *ops = good_load();
    int kept = dup(STDERR_FILENO), ends[2];
    assert_return_code(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    ops->logs("it");
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    char text[512];
    ssize_t count = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    assert_true(count > 0);
    text[count] = '\0';
    assert_non_null(strstr(text, "enough of it"));
    assert_null(strstr(text, "too much"));
}

static void a_module_takes_buffers_from_the_core_s_pool(void **state)
{
    (void)state;
    struct hm_buf_pool *pool;
    assert_ok(hm_buf_pool_create(1 << 20, &pool));
    assert_true(good_load()->buffers(pool) >= 5000);
    assert_int_equal(hm_buf_pool_bytes_used(pool), 0);
    hm_buf_pool_destroy(pool);
}

static void an_assertion_of_a_module_ends_the_process(void **state)
{
    (void)state;
    const struct good_ops *ops = good_load();
    ops->asserts(7);
    assert_aborts(ops->asserts(6));
}

static void a_missing_module_is_not_found_and_the_line_says_where(void **state)
{
    (void)state;
    const void *ops = NULL;
    assert_status(hm_module_load("absent", &ops), HM_ERR_NOT_FOUND);
    assert_null(ops);
    line_has("the absent module is not there (looked in /nowhere:");
    line_has("/lib/hivemind");
    line_has("HM_MODULE_PATH");
}

static void a_module_of_another_build_is_refused_and_not_called(void **state)
{
    (void)state;
    const void *ops = NULL;
    assert_status(hm_module_load("stale", &ops), HM_ERR_UNSUPPORTED);
    assert_null(ops);
    line_has("0.0.9-older");
    line_has(hm_build_id());
}

static void what_is_no_module_is_refused(void **state)
{
    (void)state;
    const void *ops = NULL;
    assert_status(hm_module_load("hollow", &ops), HM_ERR_UNSUPPORTED);
    line_has("no hivemind module");
}

static void a_library_that_is_missing_is_named(void **state)
{
    (void)state;
    const void *ops = NULL;
    assert_status(hm_module_load("orphan", &ops), HM_ERR_UNSUPPORTED);
    line_has("the orphan module needs libhm-gone.so.7, which is not on this machine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_module_is_found_once_and_gives_its_ops, path_set),
        cmocka_unit_test_setup(a_module_shares_the_error_line_with_the_core, path_set),
        cmocka_unit_test_setup(a_module_logs_with_the_core_s_level, path_set),
        cmocka_unit_test_setup(a_module_takes_buffers_from_the_core_s_pool, path_set),
        cmocka_unit_test_setup(an_assertion_of_a_module_ends_the_process, path_set),
        cmocka_unit_test_setup(a_missing_module_is_not_found_and_the_line_says_where, path_set),
        cmocka_unit_test_setup(a_module_of_another_build_is_refused_and_not_called, path_set),
        cmocka_unit_test_setup(what_is_no_module_is_refused, path_set),
        cmocka_unit_test_setup(a_library_that_is_missing_is_named, path_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
