/* moe/uid.c - parsing, making and expanding the names of experts.
 *
 * Happy path:    "ffn.3.1" -> name "ffn", coordinates {3, 1}; "ffn.[0:2].7" -> ffn.0.7, ffn.1.7.
 * Failure modes: any other text is HM_ERR_INVALID with a line; more than count_max names is
 *                HM_ERR_TOO_BIG, found before anything is allocated.
 * Invariants:    the text of a parsed uid is canonical: equal texts are equal experts.
 *
 * Stricter than the reference in one thing: a name has no control characters or spaces, since names
 * are printed. */
#include "moe/uid.h"

#include "base/assert.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char looks_like[] = "a uid looks like ffn.3.1: a name without dots or spaces, then 1 "
                                 "to 4 numbers up to 1000000 without leading zeros";

/* Length of the name before the first dot; 0 if there is none, or a byte that no name has. */
static size_t name_length(const char *text)
{
    size_t length = 0;
    for (; text[length] != '.'; length++) {
        unsigned char byte = (unsigned char)text[length];
        if (byte <= ' ' || byte == 0x7f) return 0;
        if (length + 1 >= HM_UID_BYTES) return 0;
    }
    return length;
}

/* A canonical number of at most `max`; moves *at past it. */
static bool parse_number(const char **at, uint32_t max, uint32_t *number)
{
    const char *digit = *at;
    if (*digit < '0' || *digit > '9') return false;
    if (*digit == '0' && digit[1] >= '0' && digit[1] <= '9') return false;
    uint64_t value = 0;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        value = 10 * value + (uint64_t)(*digit - '0');
        if (value > max) return false;
    }
    *number = (uint32_t)value;
    *at = digit;
    return true;
}

static bool parse(const char *text, struct hm_uid *uid)
{
    size_t length = strnlen(text, HM_UID_BYTES), name_bytes = name_length(text);
    if (length == HM_UID_BYTES || name_bytes == 0) return false;
    struct hm_uid parsed = {.name_bytes = (uint8_t)name_bytes};
    const char *at = text + name_bytes;
    while (*at == '.') {
        at++;
        if (parsed.dim_count == HM_GRID_DIMS_MAX) return false;
        if (!parse_number(&at, HM_COORDINATE_MAX, &parsed.coordinate[parsed.dim_count]))
            return false;
        parsed.dim_count++;
    }
    if (*at != '\0' || parsed.dim_count == 0) return false;
    memcpy(parsed.text, text, length + 1);
    *uid = parsed;
    return true;
}

enum hm_status hm_uid_parse(const char *text, struct hm_uid *uid)
{
    if (parse(text, uid)) return HM_OK;
    return hm_fail(HM_ERR_INVALID, "'%.*s' is no expert's uid; %s", HM_UID_BYTES, text, looks_like);
}

enum hm_status hm_uid_make(const char *name, const uint32_t *coordinate, unsigned dim_count,
                           struct hm_uid *uid)
{
    char text[HM_UID_BYTES];
    if (dim_count < 1 || dim_count > HM_GRID_DIMS_MAX)
        return hm_fail(HM_ERR_INVALID, "a grid has 1 to %d dimensions, not %u", HM_GRID_DIMS_MAX,
                       dim_count);
    size_t used = strnlen(name, HM_UID_BYTES);
    if (used == HM_UID_BYTES || used == 0 || strchr(name, '.'))
        return hm_fail(HM_ERR_INVALID, "'%.*s' is no name of experts; %s", HM_UID_BYTES, name,
                       looks_like);
    memcpy(text, name, used + 1);
    for (unsigned i = 0; i < dim_count; i++) {
        int wrote = snprintf(text + used, sizeof text - used, ".%" PRIu32, coordinate[i]);
        used += (size_t)wrote;
        if (used >= sizeof text)
            return hm_fail(HM_ERR_INVALID, "the name '%s' is too long; a uid has at most %d bytes",
                           name, HM_UID_BYTES - 1);
    }
    return hm_uid_parse(text, uid);
}

size_t hm_uid_prefix(const struct hm_uid *uid, unsigned dims, char prefix[HM_UID_BYTES])
{
    HM_ASSERT(dims < uid->dim_count); /* so that it fits: the uid itself goes on after the prefix */
    const char *at = uid->text + uid->name_bytes;
    for (unsigned i = 0; i < dims; i++) at = strchr(at + 1, '.');
    size_t length = (size_t)(at - uid->text) + 1;
    memcpy(prefix, uid->text, length);
    prefix[length] = '\0';
    return length;
}

/* ---- patterns -------------------------------------------------------------------------------- */

struct range {
    uint32_t begin, end; /* end exclusive */
};

static bool parse_range(const char **at, struct range *range)
{
    if (**at != '[') {
        if (!parse_number(at, HM_COORDINATE_MAX, &range->begin)) return false;
        range->end = range->begin + 1;
        return true;
    }
    ++*at;
    if (!parse_number(at, HM_COORDINATE_MAX, &range->begin) || **at != ':') return false;
    ++*at;
    if (!parse_number(at, HM_COORDINATE_MAX + 1, &range->end) || **at != ']') return false;
    ++*at;
    return range->begin < range->end;
}

enum hm_status hm_uid_expand(const char *pattern, unsigned count_max, struct hm_uid **uids,
                             unsigned *count)
{
    static const char pattern_looks_like[] =
        "a pattern looks like ffn.[0:4].[0:4] (end exclusive, not empty), a plain uid like ffn.3.1";
    size_t name_bytes = name_length(pattern);
    struct range range[HM_GRID_DIMS_MAX];
    unsigned dim_count = 0;
    const char *at = pattern + name_bytes;
    bool good = name_bytes > 0;
    while (good && *at == '.') {
        at++;
        good = dim_count < HM_GRID_DIMS_MAX && parse_range(&at, &range[dim_count]);
        dim_count++;
    }
    if (!good || dim_count == 0 || *at != '\0')
        return hm_fail(HM_ERR_INVALID, "'%.*s' means no experts; %s", HM_UID_BYTES, pattern,
                       pattern_looks_like);
    uint64_t total = 1;
    for (unsigned i = 0; i < dim_count; i++) {
        total *= range[i].end - range[i].begin;
        if (total > count_max)
            return hm_fail(HM_ERR_TOO_BIG,
                           "'%s' means more than %u experts; split it, or use smaller ranges",
                           pattern, count_max);
    }

    char name[HM_UID_BYTES];
    memcpy(name, pattern, name_bytes);
    name[name_bytes] = '\0';
    struct hm_uid *list = calloc((size_t)total, sizeof *list);
    if (!list)
        return hm_fail(HM_ERR_NO_MEMORY, "no memory for the %" PRIu64 " uids of '%s'", total,
                       pattern);
    for (uint64_t number = 0; number < total; number++) {
        uint32_t coordinate[HM_GRID_DIMS_MAX];
        uint64_t rest = number;
        for (unsigned i = dim_count; i-- > 0;) {
            uint32_t size = range[i].end - range[i].begin;
            coordinate[i] = range[i].begin + (uint32_t)(rest % size);
            rest /= size;
        }
        enum hm_status status = hm_uid_make(name, coordinate, dim_count, &list[number]);
        if (status != HM_OK) {
            free(list);
            return status;
        }
    }
    *uids = list;
    *count = (unsigned)total;
    return HM_OK;
}
