/* tests/support/test.h - what every test file starts with: cmocka and checks that print statuses
 * by name. */
#ifndef HM_TEST_H
#define HM_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"

/* CMOCKA_TEST_FILTER='name*' runs these cases alone; cmocka itself does not read it. */
__attribute__((constructor)) static void test_filter_read_(void)
{
    const char *filter = getenv("CMOCKA_TEST_FILTER");
    if (filter) cmocka_set_test_filter(filter);
}

/* Claims that a call gave this status; on failure prints both by name, and the line that
 * hm_fail kept. */
#define assert_status(expression, wanted)                                                          \
    do {                                                                                           \
        enum hm_status got_ = (expression);                                                        \
        if (got_ != (wanted))                                                                      \
            fail_msg("%s is %s, not %s: %s", #expression, hm_status_name(got_), #wanted,           \
                     hm_fail_line());                                                              \
    } while (0)
#define assert_ok(expression) assert_status(expression, HM_OK)

/* |got - wanted| <= distance_max; NaN fails (cmocka's assert_float_equal lets it pass). */
#define assert_near(got, wanted, distance_max)                                                     \
    do {                                                                                           \
        double got_ = (got), wanted_ = (wanted);                                                   \
        if (!(got_ - wanted_ <= (distance_max) && wanted_ - got_ <= (distance_max)))               \
            fail_msg("%s is %g, not %g", #got, got_, wanted_);                                     \
    } while (0)

#endif
