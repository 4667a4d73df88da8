/* base/options_impl.h - what options.c, options_value.c and options_help.c share, and nobody else
 * sees. */
#ifndef HM_BASE_OPTIONS_IMPL_H
#define HM_BASE_OPTIONS_IMPL_H

#include "base/options.h"

enum { HM_OPTION_NAME_BYTES = 64, HM_OPTION_SOURCE_BYTES = 320 };

/* Parses `text` into the field of `target` that the row names.  `source` says where the text comes
 * from, for the line that is kept with HM_ERR_INVALID.  Strings are not copied.  `source` NULL: the
 * row's own default, which has no bounds (0 may stand for "automatic") and must parse. */
enum hm_status hm_option_set(const struct hm_option *option, void *target, const char *text,
                             const char *source);
/* "batch-rows-max" -> "HM_BATCH_ROWS_MAX". */
void hm_option_variable(const struct hm_option *option, char name[HM_OPTION_NAME_BYTES]);

#endif
