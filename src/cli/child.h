/* cli/child.h - processes of our own program, and others, with their standard input and output as
 * pipes. */
#ifndef HM_CLI_CHILD_H
#define HM_CLI_CHILD_H

#include "base/loop.h"

#include <stdbool.h>
#include <sys/types.h>

enum { CHILD_LINE_BYTES = 1 << 16 }; /* longer ones are HM_ERR_TOO_BIG */
struct child {
    pid_t pid; /* 0: none */
    int in, out;
    char buffer[CHILD_LINE_BYTES];
    size_t bytes;
};
/* Runs this very program with these arguments (argv[0] excluded, NULL at the end); it gets SIGTERM
 * when this process ends.  To be called while this process has one thread.  HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status child_start(struct child *child, const char *const *arguments);
/* The same with another program, by its path or looked for in PATH.  One that is not there is a child
 * that ends at once. */
HM_MUST_CHECK enum hm_status child_start_program(struct child *child, const char *program,
                                                 const char *const *arguments);
/* The next line of its output, without the newline.  HM_ERR_TIMED_OUT; HM_ERR_PEER_RESET: it has
 * ended. */
HM_MUST_CHECK enum hm_status child_line(struct child *child, hm_ns timeout, char *line,
                                        size_t line_bytes);
HM_MUST_CHECK enum hm_status child_say(struct child *child, const char *text);
/* Asks it to end (SIGTERM), waits `grace`, then ends it; true if it exited with 0. */
bool child_stop(struct child *child, hm_ns grace);

#endif
