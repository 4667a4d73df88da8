/* base/json_valid.c - is a peer's text one JSON value?  Total and bounded: nesting is counted, every
 * byte is looked at once.
 *
 * Stricter than RFC 8259 where that costs nobody anything: no white space, so that a line stays a
 * line, and at most DEPTH_MAX levels. */
#include "base/json.h"

#include <ctype.h>
#include <string.h>

enum { DEPTH_MAX = 16 };
struct scan {
    const char *at, *end;
};

static bool value(struct scan *scan, unsigned depth);

static bool take(struct scan *scan, char wanted)
{
    if (scan->at == scan->end || *scan->at != wanted) return false;
    scan->at++;
    return true;
}

static bool word(struct scan *scan, const char *wanted)
{
    size_t bytes = strlen(wanted);
    if ((size_t)(scan->end - scan->at) < bytes || memcmp(scan->at, wanted, bytes) != 0)
        return false;
    scan->at += bytes;
    return true;
}

static unsigned digits(struct scan *scan)
{
    unsigned count = 0;
    for (; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) count++;
    return count;
}

static bool number(struct scan *scan)
{
    (void)take(scan, '-');
    const char *first = scan->at;
    unsigned count = digits(scan);
    if (count == 0 || (count > 1 && *first == '0')) return false;
    if (take(scan, '.') && digits(scan) == 0) return false;
    if (!take(scan, 'e') && !take(scan, 'E')) return true;
    if (!take(scan, '+')) (void)take(scan, '-');
    return digits(scan) > 0;
}

static bool escape(struct scan *scan)
{
    if (scan->at == scan->end) return false;
    char kind = *scan->at++;
    if (kind != 'u') return kind && strchr("\"\\/bfnrt", kind) != NULL;
    for (unsigned i = 0; i < 4; i++, scan->at++)
        if (scan->at == scan->end || !isxdigit((unsigned char)*scan->at)) return false;
    return true;
}

/* Bytes over 0x7f are UTF-8 or not: that is for who reads the text. */
static bool string(struct scan *scan)
{
    if (!take(scan, '"')) return false;
    while (scan->at < scan->end) {
        unsigned char byte = (unsigned char)*scan->at++;
        if (byte == '"') return true;
        if (byte < 0x20 || byte == 0x7f || (byte == '\\' && !escape(scan))) return false;
    }
    return false;
}

static bool members(struct scan *scan, unsigned depth, char close, bool named)
{
    if (depth == DEPTH_MAX) return false;
    if (take(scan, close)) return true;
    do {
        if (named && (!string(scan) || !take(scan, ':'))) return false;
        if (!value(scan, depth + 1)) return false;
    } while (take(scan, ','));
    return take(scan, close);
}

static bool value(struct scan *scan, unsigned depth)
{
    if (scan->at == scan->end) return false;
    switch (*scan->at) {
    case '{': scan->at++; return members(scan, depth, '}', true);
    case '[': scan->at++; return members(scan, depth, ']', false);
    case '"': return string(scan);
    case 't': return word(scan, "true");
    case 'f': return word(scan, "false");
    case 'n': return word(scan, "null");
    default: return number(scan);
    }
}

bool hm_json_valid(const char *text, size_t bytes)
{
    struct scan scan = {text, text + bytes};
    return value(&scan, 0) && scan.at == scan.end;
}
