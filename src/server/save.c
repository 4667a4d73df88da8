/* server/save.c - checkpoints without stalling the lanes.
 *
 *   for each expert that has stepped since its last checkpoint, one at a time:
 *     lane: copy parameters and slots (a memcpy, in turn with the batches)
 *     loop: encode the dedupe window, which then knows of every step in the copy
 *     I/O thread: write, fsync, rename
 *
 * Failure modes: an expert that cannot be saved (full disk) is logged once and tried again at the
 * next round; the generation on the disk stays as it is. */
#include "server/internal.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

struct hm_save {
    struct hm_expert_server *server;
    struct hm_timer timer; /* the next periodic round */
    bool running;
    struct hm_link *next;     /* in hosted_list: to be looked at next */
    struct hm_hosted *hosted; /* being saved */
    struct hm_snapshot *snapshot;
    struct hm_task task;
    struct hm_job job;
    enum hm_status written, first_failure;
    /* What a person needs to know: of the job that was written, and of the round's first failure. */
    char line[HM_ERROR_LINE_BYTES], first_line[HM_ERROR_LINE_BYTES];
    /* Who waits: at most one, besides a periodic round that may be running when drain asks. */
    void (*done)(struct hm_expert_server *server, enum hm_status status);
    void (*queued)(struct hm_expert_server *server,
                   enum hm_status status); /* starts a round of its own */
};

static void save_next(struct hm_save *save);

static void start_round(struct hm_save *save,
                        void (*done)(struct hm_expert_server *server, enum hm_status status))
{
    save->running = true;
    save->done = done;
    save->first_failure = HM_OK;
    save->next = save->server->hosted_list.next;
    save_next(save);
}

static void round_ended(struct hm_save *save)
{
    struct hm_expert_server *server = save->server;
    void (*done)(struct hm_expert_server *, enum hm_status) = save->done;
    enum hm_status status = save->first_failure;
    save->running = false;
    save->done = NULL;
    if (save->queued) {
        void (*queued)(struct hm_expert_server *, enum hm_status) = save->queued;
        save->queued = NULL;
        start_round(save, queued);
    }
    if (status) hm_fail_keep(status, "%s", save->first_line);
    if (done) done(server, status);
}

static void expert_ended(struct hm_save *save, enum hm_status status)
{
    struct hm_expert_server *server = save->server;
    if (status == HM_OK) {
        save->hosted->saved_step = hm_snapshot_step(save->snapshot);
        server->saved_count++;
        server->checkpoints_saved.value++;
    } else {
        server->checkpoints_failed.value++;
        const char *line = save->line[0] ? save->line : hm_status_text(status);
        hm_log(HM_LOG_ERROR, "server", "%s is not saved: %s", save->hosted->uid.text, line);
        if (!save->first_failure) {
            save->first_failure = status;
            snprintf(save->first_line, sizeof save->first_line, "%s", line);
        }
    }
    if (save->snapshot) hm_snapshot_destroy(save->snapshot);
    save->snapshot = NULL;
    save_next(save);
}

static void write_job(struct hm_job *job) /* I/O thread */
{
    struct hm_save *save = job->arg;
    save->written = hm_checkpoint_save(save->server->conf.checkpoint_dir, save->snapshot);
    if (save->written)
        snprintf(save->line, sizeof save->line, "%s", hm_fail_line_of(save->written));
}

static void write_done(struct hm_job *job)
{
    struct hm_save *save = job->arg;
    expert_ended(save, save->written);
}

static void snapshot_taken(struct hm_task *task, enum hm_status status, const struct hm_rows *out)
{
    (void)out;
    struct hm_save *save = task->arg;
    void *window = NULL;
    if (status) goto ended;
    size_t window_bytes = hm_dedupe_encoded_bytes(save->hosted->dedupe);
    window = malloc(window_bytes + 1);
    if (!window) {
        status = HM_ERR_NO_MEMORY;
        goto ended;
    }
    struct hm_writer writer;
    hm_writer_init(&writer, window, window_bytes);
    hm_dedupe_encode(save->hosted->dedupe, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    status = hm_snapshot_set_dedupe(save->snapshot, window, hm_writer_count(&writer));
    if (status) goto ended;
    save->job = (struct hm_job){.run = write_job, .done = write_done, .arg = save};
    status = hm_worker_submit(save->server->io, &save->job);
ended:
    free(window);
    if (status) expert_ended(save, status);
}

enum hm_status hm_expert_server_run_snapshot(void *arg, struct hm_batch *batch)
{
    (void)arg;
    struct hm_save *save = batch->piece[0].task->arg;
    return hm_snapshot_take(save->snapshot, save->hosted->expert);
}

static void save_next(struct hm_save *save)
{
    struct hm_expert_server *server = save->server;
    struct hm_hosted *hosted = NULL;
    while (save->next != &server->hosted_list && !hosted) {
        hosted = HM_CONTAINER_OF(save->next, struct hm_hosted, link);
        save->next = save->next->next;
        if (hosted->saved_step == hosted->step) hosted = NULL;
    }
    if (!hosted || !server->conf.checkpoint_dir) {
        round_ended(save);
        return;
    }
    save->hosted = hosted;
    save->line[0] = 0;
    enum hm_status status = hm_snapshot_create(hosted->expert, &save->snapshot);
    if (!status) {
        save->task = (struct hm_task){.pool = hosted->lane->snapshots,
                                      .row_count = 1,
                                      .deadline = HM_NS_NEVER,
                                      .end = snapshot_taken,
                                      .arg = save};
        status = hm_sched_submit(server->sched, &save->task);
    }
    if (status) expert_ended(save, status);
}

/* ---- when ---------------------------------------------------------------------------------------
 */

static void save_due(struct hm_timer *timer)
{
    struct hm_save *save = timer->arg;
    if (save->server->draining) return;
    hm_timer_start(save->server->conf.loop, timer, save->server->conf.save_interval);
    if (!save->running) start_round(save, NULL);
}

enum hm_status hm_expert_server_save_start(struct hm_expert_server *server)
{
    struct hm_save *save = calloc(1, sizeof(*save));
    if (!save) return HM_ERR_NO_MEMORY;
    save->server = server;
    save->timer = (struct hm_timer){.cb = save_due, .arg = save};
    server->save = save;
    if (server->conf.checkpoint_dir && server->conf.save_interval)
        hm_timer_start(server->conf.loop, &save->timer, server->conf.save_interval);
    return HM_OK;
}

void hm_expert_server_save_all(struct hm_expert_server *server,
                               void (*done)(struct hm_expert_server *server, enum hm_status status))
{
    struct hm_save *save = server->save;
    HM_ASSERT(!save->queued);
    if (save->running)
        save->queued = done;
    else
        start_round(save, done);
}

void hm_expert_server_save_stop(struct hm_expert_server *server)
{
    struct hm_save *save = server->save;
    if (!save) return;
    HM_ASSERT(!save->running);
    hm_timer_stop(server->conf.loop, &save->timer);
    free(save);
    server->save = NULL;
}
