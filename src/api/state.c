/* api/state.c - one process at a time in a state folder: flock on <dir>/lock, which ends with the
 * process. */
#include "api/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* mkdir -p, 0700 for what it makes. */
static enum hm_status make(const char *dir)
{
    char path[4096];
    size_t bytes = strlen(dir);
    if (bytes == 0 || bytes >= sizeof(path))
        return hm_fail(HM_ERR_INVALID, "the state folder's name is %s; name a folder with --state",
                       bytes ? "too long" : "empty");
    memcpy(path, dir, bytes + 1);
    for (char *at = path + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        if (mkdir(path, 0700) && errno != EEXIST) goto failed;
        *at = '/';
    }
    if (mkdir(path, 0700) && errno != EEXIST) goto failed;
    return HM_OK;
failed:
    return hm_fail(HM_ERR_STORAGE,
                   "cannot make the state folder %s (%s); name another with --state", path,
                   strerror(errno));
}

enum hm_status hm_state_lock(const char *dir, int *lock_fd)
{
    enum hm_status status = make(dir);
    if (status) return status;
    char path[4200];
    snprintf(path, sizeof(path), "%s/lock", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return hm_fail(HM_ERR_STORAGE, "cannot open %s (%s); is %s yours to write?", path,
                       strerror(errno), dir);
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        char owner[32] = "";
        ssize_t bytes = pread(fd, owner, sizeof(owner) - 1, 0);
        owner[bytes > 0 ? bytes : 0] = 0;
        close(fd);
        return hm_fail(
            HM_ERR_BUSY,
            "the state folder %s is in use by process %d; stop it, or name another with --state",
            dir, atoi(owner));
    }
    /* For the message above only: the lock itself is the kernel's. */
    if (ftruncate(fd, 0) || dprintf(fd, "%d\n", (int)getpid()) < 0) {
        close(fd);
        return hm_fail(HM_ERR_STORAGE, "cannot write %s (%s)", path, strerror(errno));
    }
    *lock_fd = fd;
    return HM_OK;
}

void hm_state_unlock(int lock_fd)
{
    if (lock_fd >= 0) close(lock_fd);
}
