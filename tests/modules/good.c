/* A module as it should be; its ops call the core in every way that a module may. */
#include "base/module.h"

#include "modules_for_tests.h"

static enum hm_status fails(int number)
{
    return hm_fail(HM_ERR_INVALID, "%d is no good; take another", number);
}

static void logs(const char *text)
{
    hm_log(HM_LOG_DEBUG, "good", "too much of %s", text);
    hm_log(HM_LOG_WARN, "good", "enough of %s", text);
}

static size_t buffers(struct hm_buf_pool *pool)
{
    struct hm_buf *buf;
    if (hm_buf_pool_get(pool, 5000, &buf) != HM_OK) return 0;
    size_t used = hm_buf_pool_bytes_used(pool);
    hm_buf_put(buf);
    return used;
}

static void asserts(int number)
{
    HM_ASSERT(number == 7);
}

static const struct good_ops ops = {
    .fails = fails, .logs = logs, .buffers = buffers, .asserts = asserts};
HM_MODULE("good", &ops);
