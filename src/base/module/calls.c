/* base/module/calls.c - the core's functions as a module sees them; compiled into every module.
 *
 * Owns the module's pointer to the core's table.  Each function of HM_CORE_TABLE is defined here as
 * a call through it; those with variable arguments format here and hand over text.
 * Invariant: hm_module_bind runs before anything else of the module. */
#include "base/module.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEXT_BYTES = 1024 };

const char hm_module_build[] = HM_BUILD_ID;

static const struct hm_core *core;

void hm_module_bind(const struct hm_core *given)
{
    core = given;
}

#define X(result, name, parameters, arguments)                                                     \
    result name parameters                                                                         \
    {                                                                                              \
        return core->name arguments;                                                               \
    }
HM_CORE_TABLE(X)
#undef X
#define X(name, parameters, arguments)                                                             \
    void name parameters                                                                           \
    {                                                                                              \
        core->name arguments;                                                                      \
    }
HM_CORE_VOID_TABLE(X)
#undef X

void hm_fail_keep(enum hm_status status, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    core->fail_keep(status, text);
}

void hm_log_write(enum hm_log_level level, const char *module, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    core->log_write(level, module, text);
}

_Noreturn void hm_assert_failed(const char *expression, const char *file, int line)
{
    core->assert_failed(expression, file, line);
    abort();
}
