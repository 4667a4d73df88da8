/* cli/bench_raw.c - finding and running the raw programs. */
#include "cli/bench_raw.h"

#include "cli/child.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

bool bench_raw_find(const char *name, char *path, size_t path_bytes)
{
    char self[PATH_BYTES - 64];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[bytes > 0 ? bytes : 0] = 0;
    char *slash = strrchr(self, '/');
    if (!slash) return false;
    *slash = 0;
    int length = snprintf(path, path_bytes, "%s/perf-%.40s", self, name);
    return length > 0 && (size_t)length < path_bytes && access(path, X_OK) == 0;
}

bool bench_raw_there(const char *name)
{
    char path[PATH_BYTES];
    return bench_raw_find(name, path, sizeof path);
}

bool bench_raw_run(const char *name, const char *const *arguments, hm_ns timeout, char *line,
                   size_t line_bytes)
{
    static struct child child;
    char path[PATH_BYTES];
    if (!bench_raw_find(name, path, sizeof path) ||
        child_start_program(&child, path, arguments) != HM_OK)
        return false;
    bool good = child_line(&child, timeout, line, line_bytes) == HM_OK;
    child_stop(&child, 5 * HM_S);
    return good;
}

double bench_raw_number(const char *line, const char *name)
{
    char key[64];
    snprintf(key, sizeof(key), "\"%s\":", name);
    const char *at = strstr(line, key);
    return at ? strtod(at + strlen(key), NULL) : NAN;
}

bool bench_raw_ffn(const char *pass, const char *rows, uint32_t hidden, const char **dtype,
                   double seconds, char *line, size_t line_bytes)
{
    char columns[16], time[32];
    snprintf(columns, sizeof columns, "%u", hidden);
    snprintf(time, sizeof time, "%.3f", seconds);
    const char *arguments[] = {"--pass",  pass,   "--rows",    rows, "--hidden", columns,
                               "--dtype", *dtype, "--seconds", time, NULL};
    hm_ns timeout = (hm_ns)(seconds * 1e9) + 60 * HM_S;
    if (bench_raw_run("raw_ffn", arguments, timeout, line, line_bytes)) return true;
    if (strcmp(*dtype, "f32") == 0) return false;
    *dtype = "f32";
    return bench_raw_ffn(pass, rows, hidden, dtype, seconds, line, line_bytes);
}
