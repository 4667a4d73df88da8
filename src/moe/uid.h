/* moe/uid.h - names of experts: `name.i.j…`, as in the Python hivemind:
 * ^[^.]+(\.(0|[1-9][0-9]*))+$
 *
 * A prefix ends with a dot ("ffn.3."); a pattern has ranges, end exclusive ("ffn.[0:4].[0:4]"). */
#ifndef HM_MOE_UID_H
#define HM_MOE_UID_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HM_UID_BYTES = 128, HM_GRID_DIMS_MAX = 4 };
#define HM_COORDINATE_MAX 1000000u
struct hm_uid {
    char text[HM_UID_BYTES]; /* "ffn.3.1" */
    uint8_t name_bytes;      /* length of "ffn" */
    uint8_t dim_count;
    uint32_t coordinate[HM_GRID_DIMS_MAX];
};
/* HM_ERR_INVALID with a line that says what a uid looks like.  Total. */
HM_MUST_CHECK enum hm_status hm_uid_parse(const char *text, struct hm_uid *uid);
/* "ffn." + {3, 1} -> uid. */
HM_MUST_CHECK enum hm_status hm_uid_make(const char *name, const uint32_t *coordinate,
                                         unsigned dim_count, struct hm_uid *uid);
/* The prefix of the first `dims` coordinates: 0 -> "ffn.", 1 -> "ffn.3."; returns its length. */
size_t hm_uid_prefix(const struct hm_uid *uid, unsigned dims, char prefix[HM_UID_BYTES]);
/* A uid or a pattern -> every uid it means, in order (malloc'ed, the caller's).  HM_ERR_TOO_BIG
 * over `count_max`. */
HM_MUST_CHECK enum hm_status hm_uid_expand(const char *pattern, unsigned count_max,
                                           struct hm_uid **uids, unsigned *count);

#endif
