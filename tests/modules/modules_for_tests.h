/* What tests/modules/good.c provides. */
#ifndef HM_MODULES_FOR_TESTS_H
#define HM_MODULES_FOR_TESTS_H

#include "base/buf.h"

struct good_ops {
    enum hm_status (*fails)(int number);
    void (*logs)(const char *text);
    size_t (*buffers)(struct hm_buf_pool *pool);
    void (*asserts)(int number);
};

#endif
