/* base/json.c - JSON on one line into a string that grows by doubling.
 *
 * `comma` is all the state a writer on one line needs: true once a value has been written at the
 * current level.  The first failed allocation sets `failed`; everything after it is ignored, and
 * hm_json_text answers NULL. */
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hm_json_init(struct hm_json *json)
{
    *json = (struct hm_json){0};
}

void hm_json_fini(struct hm_json *json)
{
    free(json->text);
    *json = (struct hm_json){0};
}

static void append(struct hm_json *json, const char *bytes, size_t byte_count)
{
    if (json->failed) return;
    if (json->capacity - json->bytes <= byte_count) { /* one byte is kept for the terminator */
        size_t capacity = json->capacity ? json->capacity : 256;
        while (capacity - json->bytes <= byte_count) {
            if (capacity > SIZE_MAX / 2) goto fail;
            capacity *= 2;
        }
        char *text = realloc(json->text, capacity);
        if (!text) goto fail;
        json->text = text;
        json->capacity = capacity;
    }
    memcpy(json->text + json->bytes, bytes, byte_count);
    json->bytes += byte_count;
    json->text[json->bytes] = '\0';
    return;
fail:
    json->failed = true;
}

static void append_text(struct hm_json *json, const char *text)
{
    append(json, text, strlen(text));
}

/* Bytes of the valid UTF-8 character at `text` (RFC 3629: no overlong forms, no surrogates), or 0.
 */
static size_t utf8_bytes(const unsigned char *text)
{
    if (text[0] < 0x80) return 1;
    size_t count = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
    if (text[0] < 0xc2 || text[0] > 0xf4) return 0;
    for (size_t i = 1; i < count; i++) /* stops at the terminator, which is no continuation byte */
        if ((text[i] & 0xc0) != 0x80) return 0;
    if (text[0] == 0xe0 && text[1] < 0xa0) return 0;
    if (text[0] == 0xed && text[1] > 0x9f) return 0;
    if (text[0] == 0xf0 && text[1] < 0x90) return 0;
    if (text[0] == 0xf4 && text[1] > 0x8f) return 0;
    return count;
}

static void append_quoted(struct hm_json *json, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;
    append(json, "\"", 1);
    while (*at) {
        size_t count = utf8_bytes(at);
        char escaped[8];
        if (count == 0) {
            append_text(json, "\xef\xbf\xbd");
            count = 1;
        } else if (*at == '"' || *at == '\\') {
            snprintf(escaped, sizeof escaped, "\\%c", *at);
            append_text(json, escaped);
        } else if (*at == '\n' || *at == '\t') {
            append_text(json, *at == '\n' ? "\\n" : "\\t");
        } else if (*at < 0x20 || *at == 0x7f) {
            snprintf(escaped, sizeof escaped, "\\u%04x", *at);
            append_text(json, escaped);
        } else {
            append(json, (const char *)at, count);
        }
        at += count;
    }
    append(json, "\"", 1);
}

/* What stands before a value: a comma where one is due, and the key. */
static void lead(struct hm_json *json, const char *key)
{
    if (json->comma) append(json, ",", 1);
    if (key) {
        append_quoted(json, key);
        append(json, ":", 1);
    }
    json->comma = true;
}

static void begin(struct hm_json *json, const char *key, const char *bracket)
{
    lead(json, key);
    append(json, bracket, 1);
    json->comma = false;
}

static void end(struct hm_json *json, const char *bracket)
{
    append(json, bracket, 1);
    json->comma = true;
}

void hm_json_object_begin(struct hm_json *json, const char *key)
{
    begin(json, key, "{");
}

void hm_json_object_end(struct hm_json *json)
{
    end(json, "}");
}

void hm_json_array_begin(struct hm_json *json, const char *key)
{
    begin(json, key, "[");
}

void hm_json_array_end(struct hm_json *json)
{
    end(json, "]");
}

void hm_json_string(struct hm_json *json, const char *key, const char *value)
{
    lead(json, key);
    if (value)
        append_quoted(json, value);
    else
        append_text(json, "null");
}

void hm_json_int(struct hm_json *json, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    lead(json, key);
    append_text(json, text);
}

void hm_json_uint(struct hm_json *json, const char *key, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    lead(json, key);
    append_text(json, text);
}

void hm_json_double(struct hm_json *json, const char *key, double value)
{
    char text[40] = "null";
    if (isfinite(value)) {
        /* The shortest of two that reads back as the same number: 0.1 stays 0.1. */
        snprintf(text, sizeof text, "%.15g", value);
        if (strtod(text, NULL) != value) snprintf(text, sizeof text, "%.17g", value);
        char *comma =
            strchr(text, ','); /* a host program may have set a locale with another point */
        if (comma) *comma = '.';
    }
    lead(json, key);
    append_text(json, text);
}

void hm_json_bool(struct hm_json *json, const char *key, bool value)
{
    lead(json, key);
    append_text(json, value ? "true" : "false");
}

void hm_json_raw(struct hm_json *json, const char *key, const char *value)
{
    lead(json, key);
    append_text(json, value);
}

const char *hm_json_text(const struct hm_json *json)
{
    if (json->failed) return NULL;
    return json->text ? json->text : "";
}
