/* transport/bootstrap_file.c - meeting through a folder that all processes of a launch see.
 *
 *   DIR/round-<k>.rank-<r>     what rank r gives in round k: written aside, fsynced, renamed
 *   DIR/closed.rank-<r>        left behind: the folder is used up
 *
 * Owns:   its own rank's files; it removes them at close (a fabric key is in one).
 * Happy:  round 0 exchanges nonces; each later file carries the digest of all nonces, so that a
 *         file of an earlier launch is told from one of this.  Files are polled for.
 * Fails:  our file is there before we wrote it, or another's digest is not ours: the folder has
 *         been used.  A rank that does not come: HM_ERR_TIMED_OUT, which names it.
 * Keeps:  a round's files stay until everybody has come to the next round, the last one's until
 *         everybody has closed. */
#include "base/assert.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/thread.h"
#include "base/wire.h"
#include "transport/bootstrap.h"
#include "transport/identity.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NONCE_BYTES = 16,
    FILE_BYTES_MAX = HM_BOOTSTRAP_BLOB_BYTES + 256,
    PATH_BYTES = 4096,
    ROUND_CLOSE = 1 << 30, /* "closed" */
};
static const uint32_t magic = 0x31626d68; /* "hmb1" */
static const hm_ns poll_first = HM_MS, poll_most = 50 * HM_MS;

struct file_bootstrap {
    struct hm_bootstrap base;
    char dir[PATH_BYTES - 128];
    hm_ns timeout;
    uint8_t nonce[NONCE_BYTES];
    uint8_t digest[HM_DIGEST_BYTES]; /* of all nonces by rank, from round 1 on */
    uint32_t round;
    bool failed;
};

static void path_of(const struct file_bootstrap *b, uint32_t round, unsigned rank,
                    char path[PATH_BYTES])
{
    if (round == ROUND_CLOSE)
        snprintf(path, PATH_BYTES, "%s/closed.rank-%u", b->dir, rank);
    else
        snprintf(path, PATH_BYTES, "%s/round-%u.rank-%u", b->dir, round, rank);
}

static enum hm_status storage_failed(const char *what, const char *path)
{
    return hm_fail(HM_ERR_STORAGE, "cannot %s %s (%s); is it a folder that every node can write?",
                   what, path, strerror(errno));
}

/* ---- one file ---------------------------------------------------------------------------------- */

static size_t encode(const struct file_bootstrap *b, uint32_t round,
                     const struct hm_bootstrap_blob *blob, uint8_t bytes[FILE_BYTES_MAX])
{
    struct hm_writer writer;
    hm_writer_init(&writer, bytes, FILE_BYTES_MAX - HM_DIGEST_BYTES);
    hm_write_u32(&writer, magic);
    hm_write_u32(&writer, b->base.size);
    hm_write_u32(&writer, b->base.rank);
    hm_write_u32(&writer, round);
    hm_write_bytes(&writer, b->nonce, NONCE_BYTES);
    hm_write_bytes(&writer, b->digest, HM_DIGEST_BYTES);
    hm_write_u32(&writer, blob->bytes);
    hm_write_bytes(&writer, blob->byte, blob->bytes);
    HM_ASSERT(hm_writer_ok(&writer));
    size_t count = hm_writer_count(&writer);
    hm_sha256(bytes, count, bytes + count);
    return count + HM_DIGEST_BYTES;
}

static enum hm_status write_file(const struct file_bootstrap *b, uint32_t round,
                                 const struct hm_bootstrap_blob *blob)
{
    char path[PATH_BYTES], aside[PATH_BYTES];
    uint8_t bytes[FILE_BYTES_MAX];
    size_t count = encode(b, round, blob, bytes);
    path_of(b, round, b->base.rank, path);
    snprintf(aside, sizeof(aside), "%s/.%u-%02x%02x%02x%02x", b->dir, b->base.rank, b->nonce[0],
             b->nonce[1], b->nonce[2], b->nonce[3]);
    int fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return storage_failed("write", aside);
    bool written = hm_file_write_all(fd, bytes, count);
    if (close(fd) || !written || rename(aside, path)) {
        enum hm_status status = storage_failed("write", path);
        (void)unlink(aside);
        return status;
    }
    return HM_OK;
}

struct from { /* a file's contents */
    uint32_t size, rank, round;
    uint8_t nonce[NONCE_BYTES], digest[HM_DIGEST_BYTES];
    struct hm_bootstrap_blob blob;
};

/* Total over any bytes. */
static bool decode(const uint8_t *bytes, size_t count, struct from *from)
{
    struct hm_reader reader;
    uint8_t sum[HM_DIGEST_BYTES];
    if (count < HM_DIGEST_BYTES) return false;
    count -= HM_DIGEST_BYTES;
    hm_sha256(bytes, count, sum);
    if (memcmp(sum, bytes + count, sizeof(sum)) != 0) return false;
    hm_reader_init(&reader, bytes, count);
    bool ours = hm_read_u32(&reader) == magic;
    from->size = hm_read_u32(&reader);
    from->rank = hm_read_u32(&reader);
    from->round = hm_read_u32(&reader);
    const void *nonce = hm_read_bytes(&reader, NONCE_BYTES);
    const void *digest = hm_read_bytes(&reader, HM_DIGEST_BYTES);
    from->blob.bytes = hm_read_u32(&reader);
    if (from->blob.bytes > HM_BOOTSTRAP_BLOB_BYTES) return false;
    const void *blob = hm_read_bytes(&reader, from->blob.bytes);
    if (!hm_reader_ended(&reader) || !hm_reader_ok(&reader) || !ours) return false;
    memcpy(from->nonce, nonce, NONCE_BYTES);
    memcpy(from->digest, digest, HM_DIGEST_BYTES);
    memcpy(from->blob.byte, blob, from->blob.bytes);
    return true;
}

/* HM_ERR_NOT_FOUND (no line): not there yet. */
static enum hm_status read_file(const struct file_bootstrap *b, uint32_t round, unsigned rank,
                                struct from *from)
{
    char path[PATH_BYTES];
    uint8_t bytes[FILE_BYTES_MAX + 1];
    path_of(b, round, rank, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? HM_ERR_NOT_FOUND : storage_failed("read", path);
    ssize_t count = read(fd, bytes, sizeof(bytes));
    (void)close(fd);
    if (count < 0) return storage_failed("read", path);
    if (!decode(bytes, (size_t)count, from) || from->rank != rank || from->round != round)
        return hm_fail(HM_ERR_CORRUPT, "%s is no file of a launch; give each launch a fresh folder",
                       path);
    if (from->size != b->base.size)
        return hm_fail(HM_ERR_INVALID,
                       "rank %u in %s counts %u processes, this one %u; start all with the same "
                       "--size, and each launch with a fresh folder",
                       rank, b->dir, from->size, b->base.size);
    if (round != 0 && memcmp(from->digest, b->digest, HM_DIGEST_BYTES) != 0)
        return hm_fail(HM_ERR_INVALID,
                       "%s has files of an earlier launch (rank %u's); name a fresh folder", b->dir,
                       rank);
    return HM_OK;
}

/* ---- rounds ------------------------------------------------------------------------------------ */

/* Asks the file server for the folder's names: NFS believes for half a minute that a file which was
 * not there is not there. */
static void folder_refresh(const struct file_bootstrap *b)
{
    DIR *dir = opendir(b->dir);
    if (!dir) return;
    (void)readdir(dir);
    (void)closedir(dir);
}

static enum hm_status rank_taken(const struct file_bootstrap *b)
{
    return hm_fail(HM_ERR_INVALID, "two processes are rank %u in %s; give each its own --rank",
                   b->base.rank, b->dir);
}

static enum hm_status not_come(const struct file_bootstrap *b, uint32_t round, unsigned rank,
                               unsigned missing)
{
    struct from ours; /* unless somebody else has put his in its place */
    if (read_file(b, round, b->base.rank, &ours) == HM_OK &&
        memcmp(ours.nonce, b->nonce, NONCE_BYTES) != 0)
        return rank_taken(b);
    return hm_fail(
        HM_ERR_TIMED_OUT,
        "rank %u (and %u more) of %u has not come to %s within %.0f s; does it run, with "
        "the same folder and --size?",
        rank, missing - 1, b->base.size, b->dir, (double)b->timeout / 1e9);
}

/* Writes ours and waits for everybody's; nonces may be NULL. */
static enum hm_status gather(struct file_bootstrap *b, uint32_t round,
                             const struct hm_bootstrap_blob *mine, struct hm_bootstrap_blob *all,
                             uint8_t (*nonces)[NONCE_BYTES])
{
    bool *come = calloc(b->base.size, sizeof(*come));
    unsigned missing = b->base.size, first = 0;
    hm_ns deadline = hm_thread_clock() + b->timeout, pause = poll_first;
    enum hm_status status = come ? write_file(b, round, mine) : HM_ERR_NO_MEMORY;
    struct from from;
    while (!status && missing > 0) {
        bool some = false;
        for (unsigned rank = first; rank < b->base.size && !status; rank++) {
            if (come[rank]) continue;
            status = read_file(b, round, rank, &from);
            if (status == HM_ERR_NOT_FOUND) {
                status = HM_OK;
                continue;
            }
            if (status) break;
            if (all) all[rank] = from.blob;
            if (nonces) memcpy(nonces[rank], from.nonce, NONCE_BYTES);
            come[rank] = some = true;
            missing--;
        }
        while (first < b->base.size && come[first]) first++;
        if (status || missing == 0) break;
        if (hm_thread_clock() >= deadline) status = not_come(b, round, first, missing);
        pause = some ? poll_first : 2 * pause < poll_most ? 2 * pause : poll_most;
        hm_thread_sleep(pause);
        folder_refresh(b);
    }
    free(come);
    return status;
}

static enum hm_status folder_check(const struct file_bootstrap *b)
{
    struct stat stat_;
    char path[PATH_BYTES];
    if (mkdir(b->dir, 0700) && errno != EEXIST) return storage_failed("make", b->dir);
    if (stat(b->dir, &stat_)) return storage_failed("look at", b->dir);
    if (!S_ISDIR(stat_.st_mode))
        return hm_fail(HM_ERR_INVALID, "%s is no folder; name one that every node sees", b->dir);
    if (stat_.st_uid != geteuid() || (stat_.st_mode & (S_IWGRP | S_IWOTH)))
        return hm_fail(HM_ERR_INVALID,
                       "others may write to %s, and who writes there joins the swarm; chmod 700 a "
                       "folder of your own",
                       b->dir);
    const uint32_t rounds[] = {0, ROUND_CLOSE};
    for (unsigned i = 0; i < HM_COUNT_OF(rounds); i++) {
        path_of(b, rounds[i], b->base.rank, path);
        if (access(path, F_OK) == 0)
            return hm_fail(HM_ERR_INVALID,
                           "%s has been used by an earlier launch, or another process is rank %u "
                           "too; give each launch a fresh folder, and each process its own --rank",
                           b->dir, b->base.rank);
    }
    return HM_OK;
}

/* Round 0: the digest of all nonces is the launch's name. */
static enum hm_status meet(struct file_bootstrap *b)
{
    static const struct hm_bootstrap_blob empty;
    uint8_t(*nonces)[NONCE_BYTES] = calloc(b->base.size, sizeof(*nonces));
    if (!nonces) return HM_ERR_NO_MEMORY;
    enum hm_status status = gather(b, 0, &empty, NULL, nonces);
    if (!status && memcmp(nonces[b->base.rank], b->nonce, NONCE_BYTES) != 0) status = rank_taken(b);
    if (!status) hm_sha256(nonces, b->base.size * sizeof(*nonces), b->digest);
    free(nonces);
    b->round = 1;
    return status;
}

static enum hm_status file_open(const struct hm_bootstrap_conf *conf, struct hm_bootstrap **out)
{
    struct file_bootstrap *b = calloc(1, sizeof(*b));
    if (!b) return HM_ERR_NO_MEMORY;
    b->base = (struct hm_bootstrap){
        .ops = &hm_bootstrap_file, .rank = (unsigned)conf->rank, .size = (unsigned)conf->size};
    b->timeout = conf->timeout;
    const uint64_t nonce[2] = {hm_rng_os_seed(), hm_rng_os_seed()};
    memcpy(b->nonce, nonce, sizeof(b->nonce));
    enum hm_status status = HM_OK;
    int bytes = snprintf(b->dir, sizeof(b->dir), "%s", conf->means + strlen("file:"));
    if (bytes < 0 || (size_t)bytes >= sizeof(b->dir))
        status = hm_fail(HM_ERR_INVALID, "the name of the bootstrap's folder is too long");
    if (!status) status = folder_check(b);
    if (!status) status = meet(b);
    if (status) {
        free(b);
        return status;
    }
    *out = &b->base;
    return HM_OK;
}

static enum hm_status file_allgather(struct hm_bootstrap *base,
                                     const struct hm_bootstrap_blob *mine,
                                     struct hm_bootstrap_blob *all)
{
    struct file_bootstrap *b = (struct file_bootstrap *)base;
    enum hm_status status = gather(b, b->round, mine, all, NULL);
    b->failed = b->failed || status;
    if (!status) b->round++;
    return status;
}

static void file_close(struct hm_bootstrap *base)
{
    struct file_bootstrap *b = (struct file_bootstrap *)base;
    char path[PATH_BYTES];
    static const struct hm_bootstrap_blob empty;
    if (!b->failed && gather(b, ROUND_CLOSE, &empty, NULL, NULL)) hm_fail_clear();
    for (uint32_t round = 0; round <= b->round; round++) {
        path_of(b, round, b->base.rank, path);
        (void)unlink(path);
    }
    free(b);
}

const struct hm_bootstrap_ops hm_bootstrap_file = {
    .name = "file", .open = file_open, .allgather = file_allgather, .close = file_close};
