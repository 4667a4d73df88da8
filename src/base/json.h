/* base/json.h - writes JSON on one line into a growing string, and judges that of others; for
 * `--json` and what servers say of themselves, not for hot paths. */
#ifndef HM_BASE_JSON_H
#define HM_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hm_json {
    char *text;
    size_t bytes, capacity;
    bool comma;  /* the next element needs one */
    bool failed; /* out of memory: hm_json_text gives NULL */
};

void hm_json_init(struct hm_json *json);
void hm_json_fini(struct hm_json *json);
/* `key` NULL inside arrays and at the top. */
void hm_json_object_begin(struct hm_json *json, const char *key);
void hm_json_object_end(struct hm_json *json);
void hm_json_array_begin(struct hm_json *json, const char *key);
void hm_json_array_end(struct hm_json *json);
/* Escaped; invalid UTF-8 becomes U+FFFD, NULL null. */
void hm_json_string(struct hm_json *json, const char *key, const char *value);
void hm_json_int(struct hm_json *json, const char *key, int64_t value);
void hm_json_uint(struct hm_json *json, const char *key, uint64_t value);
/* NaN and infinities become null. */
void hm_json_double(struct hm_json *json, const char *key, double value);
void hm_json_bool(struct hm_json *json, const char *key, bool value);
/* A value that is JSON already. */
void hm_json_raw(struct hm_json *json, const char *key, const char *value);
/* Whether the bytes are one JSON value without white space: for what peers send. */
bool hm_json_valid(const char *text, size_t bytes);
const char *hm_json_text(const struct hm_json *json); /* terminated */

#endif
