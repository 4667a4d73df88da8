/* base/module.c - finds, checks and loads modules.
 *
 * Owns:       the core's table, and a row for each module that has been loaded.
 * Happy path: the first folder of the search path that has <name>.so; dlopen; compare builds; bind.
 * Failure:    one line (hm_fail) that names the file or the folders, and the remedy.
 * Invariant:  a module that has been refused has not been called; what has been loaded stays. */
#include "base/module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MODULES_MAX = 8, NAME_BYTES = 32, PATH_BYTES = 1024, FOLDERS_BYTES = 4096 };

struct loaded {
    char name[NAME_BYTES];
    const void *ops;
};
static struct loaded loaded[MODULES_MAX];
static unsigned loaded_count;

static void keep_text(enum hm_status status, const char *text)
{
    hm_fail_keep(status, "%s", text);
}

static void log_text(enum hm_log_level level, const char *module, const char *text)
{
    hm_log_write(level, module, "%s", text);
}

static void assert_text(const char *expression, const char *file, int line)
{
    hm_assert_failed(expression, file, line);
}

static const struct hm_core core = {
#define X(result, name, parameters, arguments) .name = name,
    HM_CORE_TABLE(X)
#undef X
#define X(name, parameters, arguments) .name = name,
        HM_CORE_VOID_TABLE(X)
#undef X
            .fail_keep = keep_text,
    .log_write = log_text,
    .assert_failed = assert_text,
};

const char *hm_build_id(void)
{
    return HM_BUILD_ID;
}

/* "<folder of the program>/../lib/hivemind"; "" if the system does not say. */
static void program_folder(char *folder, size_t folder_bytes)
{
    char exe[PATH_BYTES];
    folder[0] = '\0';
    ssize_t count = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (count <= 0) return;
    exe[count] = '\0';
    char *slash = strrchr(exe, '/');
    if (!slash) return;
    *slash = '\0';
    slash = strrchr(exe, '/'); /* without "..", so that it reads well in a line */
    if (!slash) return;
    *slash = '\0';
    (void)snprintf(folder, folder_bytes, "%s/lib/hivemind", exe);
}

/* Everything that is searched, ':' between. */
static void folders_gather(char *folders, size_t folders_bytes)
{
    char program[PATH_BYTES + 16];
    const char *path = getenv("HM_MODULE_PATH");
    program_folder(program, sizeof program);
    (void)snprintf(folders, folders_bytes, "%s%s%s", path ? path : "",
                   path && path[0] && program[0] ? ":" : "", program);
}

static bool find(const char *folders, const char *name, char *path, size_t path_bytes)
{
    while (*folders) {
        size_t length = strcspn(folders, ":");
        int count = snprintf(path, path_bytes, "%.*s/%s.so", (int)length, folders, name);
        if (length > 0 && count > 0 && (size_t)count < path_bytes && access(path, F_OK) == 0)
            return true;
        folders += length + (folders[length] == ':');
    }
    return false;
}

/* dlerror says "libucp.so.0: cannot open shared object file: No such file or directory". */
static enum hm_status not_opened(const char *name, const char *path, const char *error)
{
    const char *missing = strstr(error, ": cannot open shared object file");
    if (missing && strncmp(error, path, strlen(path)) != 0)
        return hm_fail(HM_ERR_UNSUPPORTED,
                       "the %s module needs %.*s, which is not on this machine; install the "
                       "package that has it, or do without %s",
                       name, (int)(missing - error), error, name);
    return hm_fail(HM_ERR_UNSUPPORTED,
                   "the %s module cannot be loaded: %s; build it again (make), or do without %s",
                   name, error, name);
}

static enum hm_status check(const char *name, const char *path, const struct hm_module_info *info)
{
    if (!info) return hm_fail(HM_ERR_UNSUPPORTED, "%s is no hivemind module; build it again", path);
    if (info->abi != HM_MODULE_ABI || strcmp(info->build, HM_BUILD_ID) != 0)
        return hm_fail(HM_ERR_UNSUPPORTED,
                       "%s is of another build (%s) than this program (%s); build both together, "
                       "or set HM_MODULE_PATH to the folder of the right one",
                       path, info->abi == HM_MODULE_ABI ? info->build : "another layout",
                       HM_BUILD_ID);
    if (strcmp(info->name, name) != 0)
        return hm_fail(HM_ERR_UNSUPPORTED, "%s is the module %s under another name", path,
                       info->name);
    return HM_OK;
}

enum hm_status hm_module_load(const char *name, const void **ops)
{
    for (unsigned i = 0; i < loaded_count; i++)
        if (strcmp(loaded[i].name, name) == 0) {
            *ops = loaded[i].ops;
            return HM_OK;
        }
    HM_ASSERT(loaded_count < MODULES_MAX && strlen(name) < NAME_BYTES);
    char folders[FOLDERS_BYTES], path[PATH_BYTES];
    folders_gather(folders, sizeof folders);
    if (!find(folders, name, path, sizeof path))
        return hm_fail(HM_ERR_NOT_FOUND,
                       "the %s module is not there (looked in %s); build it (tools/packages.sh "
                       "cluster, then make), or set HM_MODULE_PATH to its folder",
                       name, folders);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) return not_opened(name, path, dlerror());
    const struct hm_module_info *info = dlsym(handle, "hm_module_info");
    enum hm_status status = check(name, path, info);
    if (status != HM_OK) {
        (void)dlclose(handle);
        return status;
    }
    info->bind(&core);
    (void)snprintf(loaded[loaded_count].name, NAME_BYTES, "%s", name);
    loaded[loaded_count++].ops = info->ops;
    *ops = info->ops;
    return HM_OK;
}
