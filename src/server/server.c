/* server/server.c - making and unmaking a server: lanes, experts, pools, methods.
 *
 * Invariants: every map, list and pool is sized at create or start; an expert's arrays belong to
 * its lane's thread from start to destroy. */
#include "server/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEDUPE_CLIENTS_MAX = 1024, IO_JOBS_MAX = 4, SNAPSHOTS_MAX = 4 };
/* A batch that is handed to a thread that sleeps, and back, takes 50 us where a wake-up takes 25; and the
 * loop gives its timers and posts ten times this before it looks at descriptors. */
static const hm_ns brief_max = 50 * HM_US, ahead_max = 200 * HM_US;

static bool uid_equal(const struct hm_map_node *node, const void *key)
{
    const struct hm_hosted *hosted = HM_CONTAINER_OF(node, struct hm_hosted, node);
    return strcmp(hosted->uid.text, key) == 0;
}

struct hm_hosted *hm_expert_server_find(const struct hm_expert_server *server, const char *uid)
{
    uint64_t hash = hm_hash(uid, strlen(uid), server->hash_seed);
    struct hm_map_node *node = hm_map_find(&server->hosted, hash, uid_equal, uid);
    return node ? HM_CONTAINER_OF(node, struct hm_hosted, node) : NULL;
}

static void metrics_add(struct hm_expert_server *server)
{
    const struct {
        struct hm_metric *metric;
        const char *name, *help;
    } row[] = {
        {&server->parts_ok, "server.parts_ok", "parts answered with rows"},
        {&server->parts_failed, "server.parts_failed", "parts that failed after admission"},
        {&server->parts_refused, "server.parts_refused", "parts refused at admission"},
        {&server->parts_duplicate, "server.parts_duplicate", "backwards applied before"},
        {&server->checkpoints_saved, "server.checkpoints_saved", "checkpoints written"},
        {&server->checkpoints_failed, "server.checkpoints_failed", "checkpoints not written"},
    };
    for (unsigned i = 0; i < HM_COUNT_OF(row); i++) {
        *row[i].metric =
            (struct hm_metric){.name = row[i].name, .help = row[i].help, .kind = HM_COUNTER};
        if (server->conf.metrics) hm_metrics_add(server->conf.metrics, row[i].metric);
    }
    hm_stages_init(&server->stages, true, server->conf.metrics);
}

static void metrics_remove(struct hm_expert_server *server)
{
    hm_stages_fini(&server->stages);
    if (!server->conf.metrics) return;
    hm_metrics_remove(&server->parts_ok);
    hm_metrics_remove(&server->parts_failed);
    hm_metrics_remove(&server->parts_refused);
    hm_metrics_remove(&server->parts_duplicate);
    hm_metrics_remove(&server->checkpoints_saved);
    hm_metrics_remove(&server->checkpoints_failed);
}

enum hm_status hm_expert_server_create(const struct hm_expert_server_conf *conf,
                                       struct hm_expert_server **out)
{
    HM_ASSERT(conf->plan->lane_count > 0 && conf->batch_rows_max > 0 && conf->calls_max > 0);
    struct hm_expert_server *server = calloc(1, sizeof(*server));
    if (!server) return HM_ERR_NO_MEMORY;
    server->conf = *conf;
    server->plan = *conf->plan;
    if (conf->codecs == 0) server->conf.codecs = HM_CODECS_ALL;
    server->conf.codecs |= UINT64_C(1) << HM_CODEC_NONE;
    server->hash_seed = hm_loop_random(conf->loop, HM_RANDOM_IDS);
    hm_list_init(&server->hosted_list);
    hm_list_init(&server->calls_free);
    hm_list_init(&server->calls_busy);

    enum hm_status status = hm_map_init(&server->hosted, conf->experts_max);
    if (status) goto err_free;
    server->calls = calloc(conf->calls_max, sizeof(*server->calls));
    if (!server->calls) {
        status = HM_ERR_NO_MEMORY;
        goto err_map;
    }
    for (uint32_t i = 0; i < conf->calls_max; i++) {
        server->calls[i].server = server;
        hm_list_push(&server->calls_free, &server->calls[i].link);
    }
    status = hm_device_cpu_create(&server->cpu);
    if (status) goto err_calls;
    /* Two pools an expert, one a lane for snapshots. */
    struct hm_sched_conf sched = {.loop = conf->loop,
                                  .buffers = conf->buffers,
                                  .metrics = conf->metrics,
                                  .pools_max = HM_PASSES * conf->experts_max + HM_LANES_MAX};
    status = hm_sched_create(&sched, &server->sched);
    if (status) goto err_device;
    metrics_add(server);
    *out = server;
    return HM_OK;

err_device:
    hm_device_destroy(server->cpu);
err_calls:
    free(server->calls);
err_map:
    hm_map_fini(&server->hosted);
err_free:
    free(server);
    return status;
}

/* ---- hosting ------------------------------------------------------------------------------------
 */

/* Restores `hosted` from its newest checkpoint; a new expert stays as it was made. */
static enum hm_status restore(struct hm_hosted *hosted)
{
    const char *dir = hosted->server->conf.checkpoint_dir;
    void *window = NULL;
    size_t window_bytes = 0;
    hosted->saved_step = UINT64_MAX;
    if (!dir) return HM_OK;
    enum hm_status status = hm_checkpoint_load(dir, hosted->expert, &window, &window_bytes);
    if (status == HM_ERR_NOT_FOUND) return HM_OK;
    if (status) return status;
    if (window_bytes > 0) status = hm_dedupe_decode(hosted->dedupe, window, window_bytes);
    free(window);
    if (status) return status;
    hosted->step = hosted->saved_step = hm_expert_step(hosted->expert);
    struct hm_expert_server *server = hosted->server;
    server->restored_count++;
    if (hosted->step > server->restored_step) server->restored_step = hosted->step;
    return HM_OK;
}

enum hm_status hm_expert_server_host(struct hm_expert_server *server, const struct hm_uid *uid,
                                     const struct hm_expert_conf *conf, uint64_t *restored_step)
{
    HM_ASSERT(!server->started);
    if (hm_expert_server_find(server, uid->text))
        return hm_fail(HM_ERR_INVALID, "expert %s is named twice; name each expert once",
                       uid->text);
    if (server->hosted.count == server->conf.experts_max)
        return hm_fail(HM_ERR_TOO_BIG,
                       "more than %u experts on one server; host the rest on another",
                       server->conf.experts_max);
    struct hm_hosted *hosted = calloc(1, sizeof(*hosted));
    if (!hosted) return HM_ERR_NO_MEMORY;
    hosted->server = server;
    hosted->uid = *uid;
    enum hm_status status = hm_expert_create(server->cpu, uid->text, conf, &hosted->expert);
    if (status) goto err_free;
    status = hm_dedupe_create(DEDUPE_CLIENTS_MAX, &hosted->dedupe);
    if (status) goto err_expert;
    status = restore(hosted);
    if (status) goto err_dedupe;

    hm_map_insert(&server->hosted, &hosted->node,
                  hm_hash(uid->text, strlen(uid->text), server->hash_seed));
    hm_list_push(&server->hosted_list, &hosted->link);
    *restored_step = hosted->step;
    return HM_OK;

err_dedupe:
    hm_dedupe_destroy(hosted->dedupe);
err_expert:
    hm_expert_destroy(hosted->expert);
err_free:
    free(hosted);
    return status;
}

/* ---- start --------------------------------------------------------------------------------------
 */

static void enter_lane(void *arg)
{
    const struct hm_served_lane *lane = arg;
    hm_device_cpu_team(lane->team);
}

static enum hm_status lane_start(struct hm_expert_server *server, unsigned index)
{
    struct hm_served_lane *lane = &server->lane[index];
    const struct hm_topo_lane *place = &server->plan.lane[index];
    lane->team = place->team;
    lane->exec.device = server->cpu;
    enum hm_status status = server->cpu->ops->stream_create(server->cpu, &lane->exec.stream);
    if (status) return status;
    status = hm_lane_thread_start(server->sched, place->device, &place->place, enter_lane, lane,
                                  &lane->lane);
    if (status) {
        server->cpu->ops->stream_destroy(lane->exec.stream);
        return status;
    }
    if (server->cpu->ops->is_alone) lane->lane->brief_max = brief_max;
    lane->lane->batches_max = HM_LANE_BATCHES_MAX;
    lane->lane->ahead_max = ahead_max;
    server->lane_count = index + 1; /* from here on destroy takes it back */
    struct hm_pool_conf conf = {.name = "snapshot",
                                .lane = lane->lane,
                                .batch_rows_max = 1,
                                .queue_rows_max = SNAPSHOTS_MAX,
                                .queue_tasks_max = SNAPSHOTS_MAX,
                                .priority = HM_PRIORITY_BACKGROUND,
                                .run = hm_expert_server_run_snapshot};
    return hm_pool_create(server->sched, &conf, &lane->snapshots);
}

/* The lane's arena: for the largest batch of the hungriest of its experts. */
static enum hm_status lane_alloc(struct hm_expert_server *server, struct hm_served_lane *lane)
{
    uint64_t row_bytes = 0, scratch = 0, rows = server->conf.batch_rows_max;
    HM_LIST_EACH (link, &server->hosted_list) {
        struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        const struct hm_plan *plan = hm_expert_plan(hosted->expert);
        uint64_t in = 0, out = 0;
        if (hosted->lane != lane) continue;
        enum hm_status status = hm_schema_row_bytes(&plan->input, &in);
        if (!status) status = hm_schema_row_bytes(&plan->output, &out);
        if (status) return status;
        if (in > row_bytes) row_bytes = in;
        if (out > row_bytes) row_bytes = out;
        if (plan->scratch_bytes_per_row > scratch) scratch = plan->scratch_bytes_per_row;
    }
    struct hm_device *device = lane->exec.device;
    enum hm_status status = device->ops->alloc(device, rows * row_bytes + 64, &lane->x);
    if (!status) status = device->ops->alloc(device, rows * row_bytes + 64, &lane->dy);
    if (!status) status = device->ops->alloc(device, (rows + 1) * row_bytes + 64, &lane->out);
    if (!status) status = device->ops->alloc(device, rows * scratch + 64, &lane->exec.scratch);
    return status;
}

static enum hm_status pool_create(struct hm_hosted *hosted, enum hm_pass pass)
{
    const struct hm_expert_server_conf *conf = &hosted->server->conf;
    const struct hm_plan *plan = hm_expert_plan(hosted->expert);
    bool forward = pass == HM_PASS_FORWARD;
    uint64_t row_bytes = 0;
    enum hm_status status = hm_schema_row_bytes(forward ? &plan->output : &plan->input, &row_bytes);
    if (status) return status;

    struct hm_served_pass *served = &hosted->pass[pass];
    served->hosted = hosted;
    served->pass = pass;
    char name[HM_UID_BYTES + 16];
    snprintf(name, sizeof(name), "%s %s", hosted->uid.text, forward ? "forward" : "backward");
    struct hm_pool_conf pool = {.name = name,
                                .lane = hosted->lane->lane,
                                .batch_rows_max = conf->batch_rows_max,
                                .queue_rows_max = conf->queue_rows_max,
                                .queue_tasks_max = conf->calls_max * 2,
                                .batch_delay_max = conf->batch_delay_max,
                                .batch_rows_preferred = conf->batch_rows_preferred,
                                .priority = forward || conf->equal_passes ? HM_PRIORITY_INFERENCE
                                                                          : HM_PRIORITY_TRAINING,
                                .out_row_bytes = row_bytes,
                                .run = hm_expert_server_run_batch,
                                .may_be_brief = hm_expert_server_may_be_brief,
                                .arg = served};
    return hm_pool_create(hosted->server->sched, &pool, &served->pool);
}

static enum hm_status serve(struct hm_expert_server *server)
{
    /* A call holds its slab and its answers' slabs at once: a quarter each keeps two going. */
    size_t payload_bytes_max = hm_buf_pool_bytes_max(server->conf.buffers) / 4;
    if (payload_bytes_max > HM_PAYLOAD_BYTES_MAX) payload_bytes_max = HM_PAYLOAD_BYTES_MAX;
    server->methods[0] = (struct hm_method){.id = HM_METHOD_EXPERT_CALL,
                                            .name = "expert.call",
                                            .payload_bytes_max = payload_bytes_max,
                                            .handle = hm_expert_server_handle_call,
                                            .gone = hm_expert_server_call_gone,
                                            .arg = server};
    server->methods[1] = (struct hm_method){.id = HM_METHOD_EXPERT_INFO,
                                            .name = "expert.info",
                                            .handle = hm_expert_server_handle_info,
                                            .arg = server};
    server->methods[2] = (struct hm_method){.id = HM_METHOD_SERVER_STATUS,
                                            .name = "server.status",
                                            .handle = hm_expert_server_handle_status,
                                            .arg = server};
    return hm_rpc_serve(server->conf.rpc, server->methods, HM_COUNT_OF(server->methods));
}

enum hm_status hm_expert_server_start(struct hm_expert_server *server,
                                      void (*done)(void *arg, enum hm_status status), void *arg)
{
    HM_ASSERT(!server->started);
    enum hm_status status = HM_OK;
    unsigned turn = 0;
    for (unsigned i = 0; i < server->plan.lane_count && !status; i++)
        status = lane_start(server, i);
    if (status) return status;
    HM_LIST_EACH (link, &server->hosted_list) {
        struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        hosted->lane = &server->lane[turn++ % server->lane_count];
        for (unsigned pass = 0; pass < HM_PASSES && !status; pass++)
            status = pool_create(hosted, pass);
        if (status) return status;
    }
    for (unsigned i = 0; i < server->lane_count && !status; i++)
        status = lane_alloc(server, &server->lane[i]);
    if (status) return status;
    status = hm_worker_start(server->conf.loop, &server->plan.io, IO_JOBS_MAX, &server->io);
    if (!status) status = hm_expert_server_save_start(server);
    if (!status) status = serve(server);
    if (status) {
        hm_expert_server_save_stop(server); /* no round of it may find us half made */
        return status;
    }

    server->started = true;
    server->start_done = done;
    server->start_arg = arg;
    hm_expert_server_announce_start(server);
    return HM_OK;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static void lane_destroy(struct hm_expert_server *server, struct hm_served_lane *lane)
{
    const struct hm_device_ops *ops = server->cpu->ops;
    if (lane->snapshots) hm_pool_destroy(lane->snapshots);
    hm_lane_destroy(lane->lane);
    if (lane->x.base) ops->free(server->cpu, &lane->x);
    if (lane->dy.base) ops->free(server->cpu, &lane->dy);
    if (lane->out.base) ops->free(server->cpu, &lane->out);
    if (lane->exec.scratch.base) ops->free(server->cpu, &lane->exec.scratch);
    ops->stream_destroy(lane->exec.stream);
}

void hm_expert_server_destroy(struct hm_expert_server *server)
{
    HM_ASSERT(hm_list_empty(&server->calls_busy));
    hm_expert_server_announce_stop(server);
    hm_expert_server_save_stop(server);
    if (server->io) hm_worker_stop(server->io);
    struct hm_link *link;
    while ((link = hm_list_pop(&server->hosted_list))) {
        struct hm_hosted *hosted = HM_CONTAINER_OF(link, struct hm_hosted, link);
        for (unsigned pass = 0; pass < HM_PASSES; pass++)
            if (hosted->pass[pass].pool) hm_pool_destroy(hosted->pass[pass].pool);
        hm_map_remove(&server->hosted, &hosted->node);
        hm_dedupe_destroy(hosted->dedupe);
        hm_expert_destroy(hosted->expert);
        free(hosted);
    }
    for (unsigned i = 0; i < server->lane_count; i++) lane_destroy(server, &server->lane[i]);
    hm_sched_destroy(server->sched);
    metrics_remove(server);
    hm_device_destroy(server->cpu);
    hm_map_fini(&server->hosted);
    free(server->calls);
    free(server);
}

unsigned hm_expert_server_expert_count(const struct hm_expert_server *server)
{
    return server->hosted.count;
}
uint64_t hm_expert_server_saved_count(const struct hm_expert_server *server)
{
    return server->saved_count;
}
unsigned hm_expert_server_restored_count(const struct hm_expert_server *server)
{
    return server->restored_count;
}
uint64_t hm_expert_server_restored_step(const struct hm_expert_server *server)
{
    return server->restored_step;
}
