/* base/log.c - formats one line on the stack and hands it to the kernel in one write(2).
 *
 * Owns the process's level.  A line over LINE_BYTES is cut and ends in "..."; control characters in
 * the text become spaces, so that what a peer sent cannot forge a line.  A stderr that is closed or
 * full loses the line: logging never blocks a second time and never fails its caller. */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static _Atomic int log_level = HM_LOG_WARN;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

void hm_log_set_level(enum hm_log_level level)
{
    atomic_store_explicit(&log_level, (int)level, memory_order_relaxed);
}

enum hm_log_level hm_log_get_level(void)
{
    return (enum hm_log_level)atomic_load_explicit(&log_level, memory_order_relaxed);
}

enum hm_status hm_log_level_parse(const char *text, enum hm_log_level *level)
{
    for (int i = HM_LOG_ERROR; i <= HM_LOG_DEBUG; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum hm_log_level)i;
            return HM_OK;
        }
    }
    return hm_fail(HM_ERR_INVALID, "log level '%s' is none of error, warn, info, debug", text);
}

void hm_log_write(enum hm_log_level level, const char *module, const char *format, ...)
{
    int errno_kept = errno; /* callers log between a failed system call and its strerror */
    char line[LINE_BYTES];
    struct timespec wall;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &wall);
    gmtime_r(&wall.tv_sec, &utc);
    size_t count = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    int head = snprintf(line + count, sizeof line - count, ".%03dZ  %-5s  %-5s  ",
                        (int)(wall.tv_nsec / 1000000), level_names[level], module);
    if (head < 0) return;
    count += (size_t)head;
    if (count > sizeof line / 2) count = sizeof line / 2; /* an absurd module name */

    va_list arguments;
    va_start(arguments, format);
    int text = vsnprintf(line + count, sizeof line - count, format, arguments);
    va_end(arguments);
    size_t end = text < 0 ? count : count + (size_t)text;
    if (end > sizeof line - 1) { /* the last byte is for the newline */
        end = sizeof line - 1;
        memcpy(line + end - 3, "...", 3);
    }
    for (size_t i = count; i < end; i++) {
        unsigned char byte = (unsigned char)line[i];
        if (byte < 0x20 || byte == 0x7f) line[i] = ' ';
    }
    line[end++] = '\n';
    ssize_t written;
    do written = write(STDERR_FILENO, line, end);
    while (written < 0 && errno == EINTR);
    errno = errno_kept;
}
