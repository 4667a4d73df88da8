/* base/assert.c - the end of a process that has found a fault in its own logic: one line, then
 * SIGABRT. */
#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void hm_assert_failed(const char *expression, const char *file, int line)
{
    char text[512];
    int count = snprintf(text, sizeof text, "hivemind: assertion failed: %s (%s:%d)\n", expression,
                         file, line);
    if (count > 0) {
        size_t bytes = (size_t)count < sizeof text ? (size_t)count : sizeof text - 1;
        ssize_t written = write(STDERR_FILENO, text, bytes);
        (void)written; /* nothing is left to be done about it */
    }
    abort();
}
