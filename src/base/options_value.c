/* base/options_value.c - from the text of an option to its value, with a line that says what is
 * allowed.
 *
 * Parsing is total and takes the whole text or refuses it: no sign where none makes sense, no
 * spaces, no overflow that wraps, nothing left over. */
#include "base/options_impl.h"

#include "base/assert.h"
#include "base/loop.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t scale;
};

static const struct unit byte_units[] = {
    {"", 1},
    {"K", UINT64_C(1) << 10},
    {"M", UINT64_C(1) << 20},
    {"G", UINT64_C(1) << 30},
    {"T", UINT64_C(1) << 40},
};
static const struct unit duration_units[] = {
    {"ns", 1}, {"us", HM_US}, {"ms", HM_MS}, {"s", HM_S}, {"m", 60 * HM_S}, {"h", 3600 * HM_S},
};

/* Digits at *at; moves *at behind them.  False if there are none, or more than fit. */
static bool parse_digits(const char **at, uint64_t *value)
{
    if (!isdigit((unsigned char)**at)) return false;
    uint64_t sum = 0;
    for (; isdigit((unsigned char)**at); (*at)++) {
        unsigned digit = (unsigned)(**at - '0');
        if (sum > (UINT64_MAX - digit) / 10) return false;
        sum = sum * 10 + digit;
    }
    *value = sum;
    return true;
}

/* A whole number, or one with a decimal point ("1.5s"), and one of `units`. */
static bool parse_quantity(const char *text, const struct unit *units, size_t unit_count,
                           uint64_t *value)
{
    const char *at = text;
    uint64_t whole, fraction_value = 0;
    double fraction = 0.0;
    if (!parse_digits(&at, &whole)) return false;
    if (*at == '.') {
        const char *first = ++at;
        if (!parse_digits(&at, &fraction_value)) return false;
        fraction = (double)fraction_value * pow(10.0, -(double)(at - first));
    }
    for (size_t i = 0; i < unit_count; i++) {
        if (strcasecmp(at, units[i].name) != 0) continue;
        uint64_t scale = units[i].scale, part = (uint64_t)llround(fraction * (double)scale);
        if (scale == 1 && fraction > 0.0) return false; /* half a byte */
        if (whole > (UINT64_MAX - part) / scale) return false;
        *value = whole * scale + part;
        return true;
    }
    return false;
}

static bool parse_float(const char *text, float *value)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && !strchr("+-.", text[0])) return false;
    float parsed = strtof(text, &end);
    if (end == text || *end || !isfinite(parsed)) return false;
    *value = parsed;
    return true;
}

static bool parse_bool(const char *text, bool *value)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < HM_COUNT_OF(yes); i++) {
        if (strcasecmp(text, yes[i]) != 0 && strcasecmp(text, no[i]) != 0) continue;
        *value = strcasecmp(text, yes[i]) == 0;
        return true;
    }
    return false;
}

/* `value` in the largest unit that divides it: 2097152 -> "2M". */
static void print_quantity(char *text, size_t text_bytes, uint64_t value, const struct unit *units,
                           size_t unit_count)
{
    size_t best = 0;
    for (size_t i = 1; value > 0 && i < unit_count; i++)
        if (value % units[i].scale == 0) best = i;
    snprintf(text, text_bytes, "%llu%s", (unsigned long long)(value / units[best].scale),
             units[best].name);
}

static void print_bound(char *text, size_t text_bytes, const struct hm_option *option, double bound)
{
    if (option->kind == HM_OPTION_BYTES)
        print_quantity(text, text_bytes, (uint64_t)bound, byte_units, HM_COUNT_OF(byte_units));
    else if (option->kind == HM_OPTION_DURATION)
        print_quantity(text, text_bytes, (uint64_t)llround(bound * 1e9), duration_units,
                       HM_COUNT_OF(duration_units));
    else if (option->kind == HM_OPTION_F32)
        snprintf(text, text_bytes, "%g", bound);
    else
        snprintf(text, text_bytes, "%.0f", bound);
}

static enum hm_status refuse(const struct hm_option *option, const char *text, const char *source)
{
    static const char *const wanted[] = {
        [HM_OPTION_BOOL] = "true or false",
        [HM_OPTION_U32] = "a whole number",
        [HM_OPTION_U64] = "a whole number",
        [HM_OPTION_F32] = "a number",
        [HM_OPTION_BYTES] = "a size like 4096, 64K, 256M or 2G",
        [HM_OPTION_DURATION] = "a time with its unit, like 250us, 500ms, 30s or 5m",
        [HM_OPTION_STRING] = "text",
    };
    char low[32], high[32], range[80] = "";
    if (option->min != 0.0 || option->max != 0.0) {
        print_bound(low, sizeof low, option, option->min);
        print_bound(high, sizeof high, option, option->max);
        snprintf(range, sizeof range, " from %s to %s", low, high);
    }
    return hm_fail(HM_ERR_INVALID, "%s: '%.100s' is not allowed; give %s%s", source, text,
                   wanted[option->kind], range);
}

enum hm_status hm_option_set(const struct hm_option *option, void *target, const char *text,
                             const char *source)
{
    void *field = (char *)target + option->offset;
    uint64_t whole = 0;
    float real = 0.0f;
    bool truth = false, parsed = true;
    double checked = 0.0; /* in the unit of the bounds */
    const char *at = text;
    switch (option->kind) {
    case HM_OPTION_BOOL: parsed = parse_bool(text, &truth); break;
    case HM_OPTION_U32:
    case HM_OPTION_U64:
        parsed = parse_digits(&at, &whole) && !*at &&
                 (option->kind == HM_OPTION_U64 || whole <= UINT32_MAX);
        checked = (double)whole;
        break;
    case HM_OPTION_F32:
        parsed = parse_float(text, &real);
        checked = (double)real;
        break;
    case HM_OPTION_BYTES:
        parsed =
            parse_quantity(text, byte_units, HM_COUNT_OF(byte_units), &whole) && whole <= SIZE_MAX;
        checked = (double)whole;
        break;
    case HM_OPTION_DURATION:
        /* A bare 0 is clear enough in a default, and in nothing that a person writes. */
        parsed = parse_quantity(text, duration_units, HM_COUNT_OF(duration_units), &whole) ||
                 (!source && strcmp(text, "0") == 0);
        checked = (double)whole / 1e9;
        break;
    case HM_OPTION_STRING: break;
    }
    if (!source) HM_ASSERT(parsed);
    if (!parsed) return refuse(option, text, source);
    bool bounded = source && (option->min != 0.0 || option->max != 0.0);
    if (bounded && option->kind != HM_OPTION_BOOL && option->kind != HM_OPTION_STRING &&
        (checked < option->min || checked > option->max))
        return refuse(option, text, source);
    switch (option->kind) {
    case HM_OPTION_BOOL: *(bool *)field = truth; break;
    case HM_OPTION_U32: *(uint32_t *)field = (uint32_t)whole; break;
    case HM_OPTION_U64: *(uint64_t *)field = whole; break;
    case HM_OPTION_F32: *(float *)field = real; break;
    case HM_OPTION_BYTES: *(size_t *)field = (size_t)whole; break;
    case HM_OPTION_DURATION: *(hm_ns *)field = whole; break;
    case HM_OPTION_STRING: *(const char **)field = text; break;
    }
    return HM_OK;
}

static void clear(const struct hm_option *option, void *target)
{
    void *field = (char *)target + option->offset;
    switch (option->kind) {
    case HM_OPTION_BOOL: *(bool *)field = false; break;
    case HM_OPTION_U32: *(uint32_t *)field = 0; break;
    case HM_OPTION_U64: *(uint64_t *)field = 0; break;
    case HM_OPTION_F32: *(float *)field = 0.0f; break;
    case HM_OPTION_BYTES: *(size_t *)field = 0; break;
    case HM_OPTION_DURATION: *(hm_ns *)field = 0; break;
    case HM_OPTION_STRING: *(const char **)field = NULL; break;
    }
}

void hm_options_defaults(const struct hm_option *rows, unsigned row_count, void *target)
{
    for (unsigned i = 0; i < row_count; i++) {
        clear(&rows[i], target);
        if (!rows[i].standard) continue;
        enum hm_status status = hm_option_set(&rows[i], target, rows[i].standard, NULL);
        HM_ASSERT(status == HM_OK);
    }
}

void hm_option_variable(const struct hm_option *option, char name[HM_OPTION_NAME_BYTES])
{
    int count = snprintf(name, HM_OPTION_NAME_BYTES, "HM_%s", option->name);
    HM_ASSERT(count > 0 && count < HM_OPTION_NAME_BYTES);
    for (char *at = name; *at; at++) *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
}
