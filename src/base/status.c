/* base/status.c - the tables behind enum hm_status, and the error line that a thread keeps for a
 * person.
 *
 * Owns one static row a status, and HM_ERROR_LINE_BYTES of thread-local text.  Nothing here
 * allocates or fails: a line that is too long is cut at a character, and control characters become
 * spaces, so that it stays one line. */
#include "base/status.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct status_row {
    int value;
    enum hm_scope scope;
    const char *name, *text;
};

static const struct status_row status_rows[] = {
#define X(name, value, scope, text) {value, HM_SCOPE_##scope, #name, text},
    HM_STATUS_TABLE(X)
#undef X
};

static _Thread_local char error_line[HM_ERROR_LINE_BYTES];
static _Thread_local enum hm_status error_status; /* that the line was kept with */

static const struct status_row *find_row(int value)
{
    for (size_t i = 0; i < sizeof(status_rows) / sizeof(status_rows[0]); i++)
        if (status_rows[i].value == value) return &status_rows[i];
    return NULL;
}

const char *hm_status_text(enum hm_status status)
{
    const struct status_row *row = find_row(status);
    return row ? row->text : "unknown status";
}

const char *hm_status_name(enum hm_status status)
{
    const struct status_row *row = find_row(status);
    return row ? row->name : "HM_UNKNOWN";
}

enum hm_scope hm_status_scope(enum hm_status status)
{
    const struct status_row *row = find_row(status);
    /* A value outside the table is our own bug; the smallest scope harms nobody else. */
    return row ? row->scope : HM_SCOPE_CALL;
}

enum hm_status hm_status_from_wire(int value)
{
    const struct status_row *row = find_row(value);
    if (!row || value > 0) return HM_ERR_PEER_PROTOCOL;
    if (row->scope == HM_SCOPE_LANE || row->scope == HM_SCOPE_NODE) return HM_ERR_EXPERT_GONE;
    return (enum hm_status)value;
}

void hm_fail_keep(enum hm_status status, const char *format, ...)
{
    error_status = status;
    /* Written aside first: an argument may be the line kept so far. */
    char line[HM_ERROR_LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (wanted < 0) line[0] = '\0';
    size_t count = 0;
    for (; line[count]; count++) {
        unsigned char byte = (unsigned char)line[count];
        error_line[count] = byte < 0x20 || byte == 0x7f ? ' ' : line[count];
    }
    if (wanted >= (int)sizeof line) {
        /* Do not leave half of a UTF-8 character at the cut: drop its continuation bytes and its
         * start. */
        while (count > 0 && ((unsigned char)error_line[count - 1] & 0xc0) == 0x80) count--;
        if (count > 0 && (unsigned char)error_line[count - 1] >= 0xc0) count--;
    }
    error_line[count] = '\0';
}

const char *hm_fail_line(void)
{
    return error_line;
}

const char *hm_fail_line_of(enum hm_status status)
{
    return error_line[0] && error_status == status ? error_line : hm_status_text(status);
}

void hm_fail_clear(void)
{
    error_line[0] = '\0';
}
