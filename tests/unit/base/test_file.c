#include "base/file.h"
#include "test.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/hivemind-file-XXXXXX");
    return mkdtemp(folder) ? 0 : 1;
}

static int teardown(void **state)
{
    (void)state;
    (void)unlink(in_folder("one"));
    (void)rmdir(in_folder("taken.tmp"));
    (void)rmdir(in_folder("taken"));
    return rmdir(folder);
}

static void what_is_written_is_read_and_replaced_as_a_whole(void **state)
{
    (void)state;
    static char large[3 << 20];
    void *bytes;
    size_t count;
    struct stat file;
    memset(large, 7, sizeof large);
    assert_status(hm_file_read(in_folder("one"), 100, &bytes, &count), HM_ERR_NOT_FOUND);
    assert_ok(hm_file_replace(in_folder("one"), large, sizeof large));
    assert_ok(hm_file_read(in_folder("one"), sizeof large, &bytes, &count));
    assert_int_equal(count, sizeof large);
    assert_memory_equal(bytes, large, sizeof large);
    free(bytes);
    assert_status(hm_file_read(in_folder("one"), sizeof large - 1, &bytes, &count), HM_ERR_TOO_BIG);
    assert_ok(hm_file_replace(in_folder("one"), "x", 1));
    assert_ok(hm_file_read(in_folder("one"), 1, &bytes, &count));
    assert_int_equal(count, 1);
    free(bytes);
    assert_ok(hm_file_replace(in_folder("one"), NULL, 0));
    assert_ok(hm_file_read(in_folder("one"), 1, &bytes, &count));
    assert_int_equal(count, 0);
    free(bytes);
    assert_int_equal(stat(in_folder("one"), &file), 0);
    assert_int_equal(file.st_mode & 0777, 0600);
}

static void what_is_published_has_the_rights_that_the_umask_leaves(void **state)
{
    (void)state;
    struct stat file;
    mode_t kept = umask(027);
    assert_ok(hm_file_publish(in_folder("one"), "line\n", 5));
    umask(kept);
    assert_int_equal(stat(in_folder("one"), &file), 0);
    assert_int_equal(file.st_mode & 0777, 0640);
    assert_int_equal(file.st_size, 5);
    assert_int_equal(access(in_folder("one.tmp"), F_OK), -1);
}

static void a_failed_write_leaves_the_old_file_and_no_other(void **state)
{
    (void)state;
    void *bytes;
    size_t count;
    assert_status(hm_file_replace(in_folder("none/one"), "x", 1), HM_ERR_STORAGE);
    assert_non_null(strstr(hm_fail_line(), "none/one"));
    assert_int_equal(mkdir(in_folder("taken"), 0700), 0); /* the rename fails */
    assert_status(hm_file_replace(in_folder("taken"), "x", 1), HM_ERR_STORAGE);
    assert_int_equal(access(in_folder("taken.tmp"), F_OK), -1);
    assert_ok(hm_file_replace(in_folder("one"), "old", 3));
    assert_int_equal(mkdir(in_folder("one.tmp"), 0700), 0); /* it cannot be written aside */
    assert_status(hm_file_replace(in_folder("one"), "new", 3), HM_ERR_STORAGE);
    assert_int_equal(rmdir(in_folder("one.tmp")), 0);
    assert_ok(hm_file_read(in_folder("one"), 3, &bytes, &count));
    assert_memory_equal(bytes, "old", 3);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read_and_replaced_as_a_whole, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_published_has_the_rights_that_the_umask_leaves,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_write_leaves_the_old_file_and_no_other, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
