/* tests/support/death.h - claims that a statement ends its process by an assertion of ours. */
#ifndef HM_TEST_DEATH_H
#define HM_TEST_DEATH_H

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a child: no core file, and nothing on the test's stderr. */
static inline void death_child_begin(void)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0) dup2(null, STDERR_FILENO);
}

#define assert_aborts(statement)                                                                   \
    do {                                                                                           \
        pid_t child_ = fork();                                                                     \
        assert_true(child_ >= 0);                                                                  \
        if (child_ == 0) {                                                                         \
            death_child_begin();                                                                   \
            statement;                                                                             \
            _exit(0);                                                                              \
        }                                                                                          \
        int wait_status_;                                                                          \
        assert_int_equal(waitpid(child_, &wait_status_, 0), child_);                               \
        if (!WIFSIGNALED(wait_status_) || WTERMSIG(wait_status_) != SIGABRT)                       \
            fail_msg("%s did not abort", #statement);                                              \
    } while (0)

#endif
