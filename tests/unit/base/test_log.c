/* tests/unit/base/test_log.c - log lines, read back from where stderr was pointed. */
#include "test.h"

#include "base/log.h"

#include <errno.h>
#include <regex.h>
#include <stdio.h>
#include <unistd.h>

static int stderr_kept, captured;

/* Lines go to a temporary file until capture_end reads them back. */
static void capture_begin(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    captured = dup(fileno(file));
    fclose(file);
    stderr_kept = dup(STDERR_FILENO);
    assert_true(captured >= 0 && stderr_kept >= 0);
    assert_true(dup2(captured, STDERR_FILENO) >= 0);
}

static void capture_end(char *text, size_t text_bytes)
{
    dup2(stderr_kept, STDERR_FILENO);
    close(stderr_kept);
    assert_int_equal(lseek(captured, 0, SEEK_SET), 0);
    ssize_t count = read(captured, text, text_bytes - 1);
    close(captured);
    assert_true(count >= 0);
    text[count] = '\0';
}

static void a_line_has_time_level_module_and_text(void **state)
{
    (void)state;
    char text[4096];
    regex_t regex;
    capture_begin();
    hm_log(HM_LOG_WARN, "tcp", "peer %d is gone", 7);
    capture_end(text, sizeof text);
    assert_int_equal(
        regcomp(&regex,
                "^20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3}Z"
                "  warn   tcp    peer 7 is gone\n$",
                REG_EXTENDED | REG_NOSUB),
        0);
    int mismatch = regexec(&regex, text, 0, NULL, 0);
    regfree(&regex);
    if (mismatch) fail_msg("the line is: %s", text);
}

static void lines_above_the_level_are_not_written_nor_their_arguments_evaluated(void **state)
{
    (void)state;
    char text[4096];
    int evaluated = 0;
    enum hm_log_level kept = hm_log_get_level();
    assert_int_equal(kept, HM_LOG_WARN);
    capture_begin();
    hm_log(HM_LOG_INFO, "test", "%d", ++evaluated);
    hm_log_set_level(HM_LOG_ERROR);
    hm_log(HM_LOG_WARN, "test", "%d", ++evaluated);
    hm_log(HM_LOG_ERROR, "test", "%d", ++evaluated);
    hm_log_set_level(HM_LOG_DEBUG);
    hm_log(HM_LOG_DEBUG, "test", "%d", ++evaluated);
    hm_log_set_level(kept);
    capture_end(text, sizeof text);
    assert_int_equal(evaluated, 2);
    assert_non_null(strstr(text, "error  test   1\n"));
    assert_non_null(strstr(text, "debug  test   2\n"));
}

static void what_a_peer_sent_cannot_begin_a_line(void **state)
{
    (void)state;
    char text[4096];
    capture_begin();
    hm_log(HM_LOG_ERROR, "tcp", "agent '%s'",
           "x\n2026-01-01T00:00:00.000Z  error  all is lost\x1b[2J");
    capture_end(text, sizeof text);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    assert_null(strchr(text, '\x1b'));
}

static void a_long_line_is_cut_and_says_so(void **state)
{
    (void)state;
    char text[8192], long_text[4000];
    memset(long_text, 'y', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    capture_begin();
    hm_log(HM_LOG_ERROR, "test", "%s", long_text);
    hm_log(HM_LOG_ERROR, long_text, "text");
    capture_end(text, sizeof text);
    char *first_end = strchr(text, '\n');
    assert_int_equal(first_end - text, 1023);
    assert_memory_equal(first_end - 3, "...", 3);
    assert_non_null(strchr(first_end + 1, '\n'));
}

static void logging_keeps_errno(void **state)
{
    (void)state;
    char text[4096];
    capture_begin();
    errno = ENOENT;
    hm_log(HM_LOG_ERROR, "test", "open: %s", strerror(errno));
    assert_int_equal(errno, ENOENT);
    errno = ENOENT;
    hm_log(HM_LOG_DEBUG, "test", "not written");
    assert_int_equal(errno, ENOENT);
    capture_end(text, sizeof text);
    assert_non_null(strstr(text, "open: No such file or directory"));
}

static void levels_parse_by_their_names_only(void **state)
{
    (void)state;
    enum hm_log_level level = HM_LOG_WARN;
    assert_ok(hm_log_level_parse("error", &level));
    assert_int_equal(level, HM_LOG_ERROR);
    assert_ok(hm_log_level_parse("debug", &level));
    assert_int_equal(level, HM_LOG_DEBUG);
    assert_status(hm_log_level_parse("loud", &level), HM_ERR_INVALID);
    assert_int_equal(level, HM_LOG_DEBUG);
    assert_non_null(strstr(hm_fail_line(), "'loud'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_time_level_module_and_text),
        cmocka_unit_test(lines_above_the_level_are_not_written_nor_their_arguments_evaluated),
        cmocka_unit_test(what_a_peer_sent_cannot_begin_a_line),
        cmocka_unit_test(a_long_line_is_cut_and_says_so),
        cmocka_unit_test(logging_keeps_errno),
        cmocka_unit_test(levels_parse_by_their_names_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
