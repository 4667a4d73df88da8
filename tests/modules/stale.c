/* A module that an older build has left behind.  It must not be called. */
#include "base/module.h"

#include <stdlib.h>

static void bind_never(const struct hm_core *core)
{
    (void)core;
    abort();
}

__attribute__((visibility("default"))) extern const struct hm_module_info hm_module_info;
const struct hm_module_info hm_module_info = {
    .abi = HM_MODULE_ABI, .build = "0.0.9-older", .name = "stale", .bind = bind_never};
