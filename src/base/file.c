/* base/file.c - whole files, replaced and read at once.
 *
 * Fails:  a failed write leaves the old file and no other behind. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

bool hm_file_write_all(int fd, const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count > 0) {
        ssize_t written = write(fd, at, count);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        at += written;
        count -= (size_t)written;
    }
    return fsync(fd) == 0;
}

bool hm_file_sync_folder_of(const char *path)
{
    char folder[PATH_BYTES];
    snprintf(folder, sizeof(folder), "%s", path);
    int fd = open(dirname(folder), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    return ok;
}

static enum hm_status replace(const char *path, const void *bytes, size_t count, mode_t mode)
{
    char aside[PATH_BYTES];
    if (snprintf(aside, sizeof(aside), "%s.tmp", path) >= (int)sizeof(aside))
        return hm_fail(HM_ERR_STORAGE, "the name %s is too long for a file", path);
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    bool ok = fd >= 0 && hm_file_write_all(fd, bytes, count);
    if (fd >= 0) ok = close(fd) == 0 && ok;
    if (ok && rename(aside, path) == 0 && hm_file_sync_folder_of(path)) return HM_OK;
    enum hm_status status = hm_fail(HM_ERR_STORAGE, "cannot write %s (%s)", path, strerror(errno));
    if (fd >= 0) (void)unlink(aside);
    return status;
}

enum hm_status hm_file_replace(const char *path, const void *bytes, size_t count)
{
    return replace(path, bytes, count, 0600);
}

enum hm_status hm_file_publish(const char *path, const void *bytes, size_t count)
{
    return replace(path, bytes, count, 0666);
}

enum hm_status hm_file_read(const char *path, size_t count_max, void **out, size_t *count)
{
    struct stat file;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return hm_fail(errno == ENOENT ? HM_ERR_NOT_FOUND : HM_ERR_STORAGE, "cannot open %s (%s)",
                       path, strerror(errno));
    enum hm_status status = HM_OK;
    size_t got = 0;
    char *bytes = NULL;
    if (fstat(fd, &file) != 0)
        status = hm_fail(HM_ERR_STORAGE, "cannot read %s (%s)", path, strerror(errno));
    else if ((uint64_t)file.st_size > count_max)
        status = hm_fail(HM_ERR_TOO_BIG, "%s has more than %zu bytes", path, count_max);
    else if (!(bytes = malloc((size_t)file.st_size + 1)))
        status = hm_fail(HM_ERR_NO_MEMORY, "no memory for %s", path);
    while (!status && got < (size_t)file.st_size) {
        ssize_t some = read(fd, bytes + got, (size_t)file.st_size - got);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0)
            status = hm_fail(HM_ERR_STORAGE, "cannot read %s (%s)", path,
                             some ? strerror(errno) : "it became shorter");
        else
            got += (size_t)some;
    }
    close(fd);
    if (status) {
        free(bytes);
        return status;
    }
    *out = bytes;
    *count = got;
    return HM_OK;
}
