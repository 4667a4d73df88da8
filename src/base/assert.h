/* base/assert.h - assertions guard our own logic; bytes from a peer are decoded, never asserted.
 *
 * HM_ASSERT stays on in every build.  HM_DASSERT is for inner numeric loops, and is off where
 * NDEBUG is set. */
#ifndef HM_BASE_ASSERT_H
#define HM_BASE_ASSERT_H

#include <stddef.h>

_Noreturn void hm_assert_failed(const char *expression, const char *file, int line);

#define HM_ASSERT(expression)                                                                      \
    ((expression) ? (void)0 : hm_assert_failed(#expression, __FILE__, __LINE__))
#ifdef NDEBUG
#define HM_DASSERT(expression) ((void)sizeof(expression))
#else
#define HM_DASSERT(expression) HM_ASSERT(expression)
#endif

#define HM_CONTAINER_OF(pointer, type, member)                                                     \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define HM_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
