/* base/log.h - one line an event, on stderr, written with a single write(2) so that processes do
 * not mix lines.
 *
 * An error is logged once, where it is first decided; callers pass its status on in silence.
 * Line:  2026-11-22T18:49:01.123Z  warn   tcp   text          Thread: any. */
#ifndef HM_BASE_LOG_H
#define HM_BASE_LOG_H

#include "base/status.h"

enum hm_log_level { HM_LOG_ERROR, HM_LOG_WARN, HM_LOG_INFO, HM_LOG_DEBUG };

/* Sets the level for the process; default HM_LOG_WARN. */
void hm_log_set_level(enum hm_log_level level);
enum hm_log_level hm_log_get_level(void);
/* "error", "warn", "info", "debug" -> level; HM_ERR_INVALID otherwise. */
HM_MUST_CHECK enum hm_status hm_log_level_parse(const char *text, enum hm_log_level *level);
void hm_log_write(enum hm_log_level level, const char *module, const char *format, ...)
    HM_PRINTF(3, 4);

#define hm_log(level, module, ...)                                                                 \
    ((level) <= hm_log_get_level() ? hm_log_write((level), (module), __VA_ARGS__) : (void)0)

#endif
