/* experts/checkpoint.c - snapshots, generations, and which of them is the newest valid one.
 *
 * Saving:   write <generation>.tmp, fsync, rename, fsync the folder, write the manifest the same way, then remove all but the
 *           newest two generations.  A crash anywhere leaves the old generation or the new one.
 * Loading:  generations by step, newest first, until one is whole.  The manifest is for people and
 * programs; the files
 *           themselves decide, so that a damaged manifest costs nothing. */
#include "experts/checkpoint.h"

#include "base/file.h"
#include "base/log.h"
#include "experts/checkpoint_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, GENERATIONS_KEPT = 2, GENERATIONS_MAX = 64 };

/* ---- snapshots ------------------------------------------------------------------------------- */

struct hm_snapshot {
    char uid[HM_EXPERT_UID_BYTES];
    struct hm_plan plan;
    struct hm_parameter_place places[HM_PARAMETERS_MAX];
    size_t array_elements;
    struct hm_checkpoint_view view;
};

enum hm_status hm_snapshot_create(const struct hm_expert *expert, struct hm_snapshot **out)
{
    struct hm_snapshot *snapshot = calloc(1, sizeof(*snapshot));
    if (!snapshot) return HM_ERR_NO_MEMORY;
    const struct hm_expert_conf *conf = hm_expert_conf(expert);
    const struct hm_optimizer *optimizer = hm_expert_optimizer(expert);
    snprintf(snapshot->uid, sizeof(snapshot->uid), "%s", hm_expert_uid(expert));
    snapshot->plan = *hm_expert_plan(expert);
    memcpy(snapshot->places, hm_expert_places(expert),
           snapshot->plan.parameter_count * sizeof *snapshot->places);
    snapshot->array_elements = hm_expert_array_elements(expert);
    struct hm_checkpoint_view *view = &snapshot->view;
    *view = (struct hm_checkpoint_view){.uid = snapshot->uid,
                                        .kind = conf->kind,
                                        .optimizer = optimizer->name,
                                        .hidden = conf->hidden,
                                        .dtype = conf->dtype,
                                        .plan = &snapshot->plan,
                                        .places = snapshot->places,
                                        .slot_count = hm_expert_slot_count(expert)};
    size_t bytes = snapshot->array_elements * sizeof(float) + 1; /* nop has none */
    bool ok = true;
    for (unsigned i = 0; i < view->slot_count; i++) view->slot_name[i] = optimizer->slot_name[i];
    for (unsigned i = 0; i <= view->slot_count && ok; i++) ok = (view->array[i] = malloc(bytes));
    if (!ok) {
        hm_snapshot_destroy(snapshot);
        return HM_ERR_NO_MEMORY;
    }
    *out = snapshot;
    return HM_OK;
}

void hm_snapshot_destroy(struct hm_snapshot *snapshot)
{
    if (!snapshot) return;
    for (unsigned i = 0; i <= snapshot->view.slot_count; i++) free(snapshot->view.array[i]);
    free(snapshot->view.dedupe);
    free(snapshot);
}

enum hm_status hm_snapshot_take(struct hm_snapshot *snapshot, struct hm_expert *expert)
{
    size_t bytes = snapshot->array_elements * sizeof(float);
    for (unsigned i = 0; i <= snapshot->view.slot_count && bytes > 0; i++)
        memcpy(snapshot->view.array[i], hm_expert_array(expert, i), bytes);
    snapshot->view.step = hm_expert_step(expert);
    return HM_OK;
}

enum hm_status hm_snapshot_set_dedupe(struct hm_snapshot *snapshot, const void *bytes,
                                      size_t byte_count)
{
    void *copy = malloc(byte_count + 1);
    if (!copy) return HM_ERR_NO_MEMORY;
    if (byte_count > 0) memcpy(copy, bytes, byte_count);
    free(snapshot->view.dedupe);
    snapshot->view.dedupe = copy;
    snapshot->view.dedupe_bytes = byte_count;
    return HM_OK;
}

uint64_t hm_snapshot_step(const struct hm_snapshot *snapshot)
{
    return snapshot->view.step;
}

/* ---- files and folders ----------------------------------------------------------------------- */

static void generation_name(char *name, size_t bytes, uint64_t step)
{
    snprintf(name, bytes, "step-%020llu.h5", (unsigned long long)step);
}

/* "step-<20 digits>.h5" -> step; false for anything else (temporary files, manifest, strangers). */
static bool generation_parse(const char *name, uint64_t *step)
{
    char again[64], *end;
    if (strncmp(name, "step-", 5) != 0) return false;
    errno = 0;
    *step = strtoull(name + 5, &end, 10);
    generation_name(again, sizeof(again), *step);
    return errno == 0 && strcmp(name, again) == 0;
}

static int newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of the generations in a folder, newest first; of more than GENERATIONS_MAX the newest. */
static unsigned list_generations(const char *folder, uint64_t step[GENERATIONS_MAX + 1])
{
    unsigned count = 0;
    DIR *dir = opendir(folder);
    if (!dir) return 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!generation_parse(entry->d_name, &step[count])) continue;
        qsort(step, ++count, sizeof(*step), newest_first);
        if (count > GENERATIONS_MAX) count = GENERATIONS_MAX;
    }
    closedir(dir);
    return count;
}

static enum hm_status make_folder(const char *dir, const char *uid, char folder[PATH_BYTES])
{
    int bytes = snprintf(folder, PATH_BYTES - 64, "%s/%s", dir, uid);
    if (bytes >= PATH_BYTES - 64)
        return hm_fail(HM_ERR_STORAGE, "the checkpoint folder's name %s/%s is too long", dir, uid);
    if ((mkdir(dir, 0700) && errno != EEXIST) || (mkdir(folder, 0700) && errno != EEXIST))
        return hm_fail(HM_ERR_STORAGE, "cannot make the checkpoint folder %s (%s)", folder,
                       strerror(errno));
    return HM_OK;
}

static enum hm_status write_manifest(const char *folder, uint64_t step)
{
    char path[PATH_BYTES + 64], name[64], text[160];
    generation_name(name, sizeof(name), step);
    snprintf(path, sizeof(path), "%s/manifest.json", folder);
    int bytes = snprintf(text, sizeof(text), "{\"format\":%d,\"newest\":\"%s\",\"step\":%llu}\n",
                         HM_CHECKPOINT_FORMAT, name, (unsigned long long)step);
    return hm_file_replace(path, text, (size_t)bytes);
}

enum hm_status hm_checkpoint_save(const char *dir, const struct hm_snapshot *snapshot)
{
    char folder[PATH_BYTES], name[64], path[PATH_BYTES + 64], aside[PATH_BYTES + 72];
    enum hm_status status = make_folder(dir, snapshot->uid, folder);
    if (status) return status;
    generation_name(name, sizeof(name), snapshot->view.step);
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    snprintf(aside, sizeof(aside), "%s.tmp", path);
    status = hm_checkpoint_file_write(aside, &snapshot->view);
    if (!status && rename(aside, path))
        status = hm_fail(HM_ERR_STORAGE, "cannot rename %s (%s)", aside, strerror(errno));
    if (status) {
        unlink(aside);
        return status;
    }
    if (!hm_file_sync_folder_of(path))
        return hm_fail(HM_ERR_STORAGE, "cannot sync the folder %s (%s)", folder, strerror(errno));
    status = write_manifest(folder, snapshot->view.step);
    if (status) return status;

    uint64_t step[GENERATIONS_MAX + 1];
    unsigned count = list_generations(folder, step);
    for (unsigned i = GENERATIONS_KEPT; i < count; i++) {
        generation_name(name, sizeof(name), step[i]);
        snprintf(path, sizeof(path), "%s/%s", folder, name);
        unlink(path); /* one that stays is removed next time */
    }
    return HM_OK;
}

enum hm_status hm_checkpoint_load(const char *dir, struct hm_expert *expert, void **dedupe,
                                  size_t *dedupe_bytes)
{
    char folder[PATH_BYTES - 64], name[64], path[PATH_BYTES];
    const struct hm_expert_conf *conf = hm_expert_conf(expert);
    const struct hm_optimizer *optimizer = hm_expert_optimizer(expert);
    uint64_t step[GENERATIONS_MAX + 1];
    if (snprintf(folder, sizeof(folder), "%s/%s", dir, hm_expert_uid(expert)) >=
        (int)sizeof(folder))
        return HM_ERR_NOT_FOUND;
    unsigned count = list_generations(folder, step);
    if (count == 0) return HM_ERR_NOT_FOUND;

    struct hm_checkpoint_view view = {.uid = hm_expert_uid(expert),
                                      .kind = conf->kind,
                                      .optimizer = optimizer->name,
                                      .hidden = conf->hidden,
                                      .plan = hm_expert_plan(expert),
                                      .places = hm_expert_places(expert),
                                      .slot_count = hm_expert_slot_count(expert)};
    for (unsigned i = 0; i < view.slot_count; i++) view.slot_name[i] = optimizer->slot_name[i];
    for (unsigned i = 0; i <= view.slot_count; i++) view.array[i] = hm_expert_array(expert, i);
    for (unsigned i = 0; i < count; i++) {
        generation_name(name, sizeof(name), step[i]);
        snprintf(path, sizeof(path), "%s/%s", folder, name);
        enum hm_status status = hm_checkpoint_file_read(path, &view);
        if (!status) {
            status = hm_expert_loaded(expert, view.step);
            if (status) {
                free(view.dedupe);
                return status;
            }
            *dedupe = view.dedupe;
            *dedupe_bytes = view.dedupe_bytes;
            return HM_OK;
        }
        if (status != HM_ERR_CORRUPT) return status;
        hm_log(HM_LOG_WARN, "checkpoint", "%s", hm_fail_line());
    }
    return hm_fail(
        HM_ERR_CORRUPT,
        "every checkpoint of %s in %s is damaged; mend or move that folder, then start again",
        view.uid, folder);
}
