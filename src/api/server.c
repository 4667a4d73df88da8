/* api/server.c - hm_server: the expert server of src/server, bound to a node and blocking. */
#include "server/server.h"
#include "api/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CALLS_MAX = 1024, EXPERTS_MAX = 4096 };

struct hm_server {
    struct hm_node *node;
    struct hm_server *next; /* the node's other servers */
    struct hm_expert_server *server;
    char *checkpoint_dir;
    bool started; /* or tried */
    bool running; /* between a start that went well and drain */
};

/* What a function hands to the loop, and what it waits for. */
struct server_op {
    struct hm_server *server;
    struct hm_wait *wait;
    const struct hm_expert_server_conf *conf;
    hm_ns timeout;
};

static void server_ended(void *arg, enum hm_status status)
{
    struct server_op *op = arg;
    hm_wait_end(op->wait, status);
}

static void create_on_loop(struct hm_wait *wait, void *arg)
{
    struct server_op *op = arg;
    hm_wait_end(wait, hm_expert_server_create(op->conf, &op->server->server));
}

static enum hm_status checkpoint_dir(struct hm_server *server)
{
    server->checkpoint_dir = hm_node_path(server->node, "experts");
    if (!server->checkpoint_dir) return HM_OK; /* an ephemeral node saves nothing */
    /* hm_checkpoint_save makes each expert's folder and says what is wrong where that fails. */
    (void)mkdir(server->checkpoint_dir, 0700);
    return HM_OK;
}

int hm_server_open(struct hm_node *node, const struct hm_server_options *options,
                   struct hm_server **out)
{
    struct hm_topo *topo = malloc(sizeof(*topo));
    struct hm_topo_plan *plan = malloc(sizeof(*plan));
    struct hm_server *server = calloc(1, sizeof(*server));
    enum hm_status status = topo && plan && server ? HM_OK : HM_ERR_NO_MEMORY;
    if (status) goto failed;
    server->node = node;
    uint64_t codecs = HM_CODECS_ALL;
    if (options->codecs) status = hm_codec_set_parse(options->codecs, &codecs);
    if (status) goto failed;
    struct hm_topo_wish wish = {.device = options->device ? options->device : "auto",
                                .lane_threads = options->lane_threads,
                                .lane_nice = 5};
    status = hm_topo_discover(NULL, topo);
    if (!status) status = hm_topo_plan(topo, &wish, plan);
    if (!status) status = checkpoint_dir(server);
    if (status) goto failed;
    struct hm_expert_server_conf conf = {
        .loop = node->loop,
        .rpc = node->rpc,
        .directory = node->directory,
        .buffers = node->buffers,
        .metrics = &node->metrics,
        .plan = plan,
        .checkpoint_dir = server->checkpoint_dir,
        .batch_rows_max = options->batch_rows_max ? options->batch_rows_max : 2048,
        .queue_rows_max = options->queue_rows_max ? options->queue_rows_max : 65536,
        .batch_delay_max = options->batch_delay_max_us * HM_US,
        .batch_rows_preferred = options->batch_rows_preferred,
        .equal_passes = options->equal_passes,
        .calls_max = CALLS_MAX,
        .codecs = codecs,
        .experts_max = EXPERTS_MAX,
        .save_interval =
            (hm_ns)(options->save_interval_ms > 0 ? options->save_interval_ms : 0) * HM_MS,
    };
    status =
        hm_node_run(node, create_on_loop, &(struct server_op){.server = server, .conf = &conf});
    if (status) goto failed;
    free(topo);
    free(plan);
    server->next = node->servers;
    node->servers = server;
    *out = server;
    return HM_OK;
failed:
    if (server) free(server->checkpoint_dir);
    free(server);
    free(topo);
    free(plan);
    return status;
}

int hm_server_host(struct hm_server *server, const char *pattern,
                   const struct hm_expert_options *options)
{
    struct hm_uid *uids;
    unsigned count;
    enum hm_dtype dtype = HM_F32;
    if (server->started)
        return hm_fail(HM_ERR_INVALID, "experts are named before the server starts");
    enum hm_status status = options->dtype ? hm_dtype_parse(options->dtype, &dtype) : HM_OK;
    if (!status) status = hm_uid_expand(pattern, EXPERTS_MAX, &uids, &count);
    if (status) return status;
    struct hm_expert_conf conf = {.kind = options->kind ? options->kind : "ffn",
                                  .hidden = options->hidden,
                                  .dtype = dtype,
                                  .optimizer = options->optimizer ? options->optimizer : "adam",
                                  .rate = options->rate > 0 ? options->rate : 1e-3f,
                                  .clip_norm = options->clip_norm,
                                  .weight_decay = options->weight_decay,
                                  .seed = options->seed,
                                  .delay = options->delay_us * HM_US};
    for (unsigned i = 0; i < count && !status; i++) {
        uint64_t step;
        status = hm_expert_server_host(server->server, &uids[i], &conf, &step);
    }
    free(uids);
    return status;
}

static void start_on_loop(struct hm_wait *wait, void *arg)
{
    struct server_op *op = arg;
    struct hm_addrs addrs;
    op->wait = wait;
    if (hm_rpc_address(op->server->node->rpc, &addrs)) {
        hm_wait_end(wait, hm_fail(HM_ERR_INVALID, "nobody could call a server whose node does not "
                                                  "listen; open the node with an address"));
        return;
    }
    enum hm_status status = hm_expert_server_start(op->server->server, server_ended, op);
    op->server->running = status == HM_OK;
    if (status) hm_wait_end(wait, status);
}

int hm_server_start(struct hm_server *server)
{
    if (server->started) return hm_fail(HM_ERR_INVALID, "this server has been started before");
    if (hm_expert_server_expert_count(server->server) == 0)
        return hm_fail(HM_ERR_INVALID,
                       "a server without experts has nothing to serve; host some first");
    server->started = true;
    return hm_node_run(server->node, start_on_loop, &(struct server_op){.server = server});
}

static void drain_on_loop(struct hm_wait *wait, void *arg)
{
    struct server_op *op = arg;
    op->wait = wait;
    hm_ns deadline = hm_deadline_after(op->server->node->loop, op->timeout);
    hm_expert_server_drain(op->server->server, deadline, server_ended, op);
}

int hm_server_drain(struct hm_server *server, int timeout_ms)
{
    if (!server->running) return hm_fail(HM_ERR_INVALID, "only a server that runs can be drained");
    server->running = false;
    return hm_node_run(
        server->node, drain_on_loop,
        &(struct server_op){.server = server, .timeout = hm_node_timeout(timeout_ms, 10000)});
}

void hm_server_close(struct hm_server *server)
{
    if (!server) return;
    if (server->running) (void)hm_server_drain(server, 0);
    /* Requests may still come until the node's connections are closed, so the rest waits for that. */
}

struct hm_server *hm_server_end(struct hm_server *server)
{
    struct hm_server *next = server->next;
    hm_expert_server_destroy(server->server);
    free(server->checkpoint_dir);
    free(server);
    return next;
}

struct hm_expert_server *hm_server_inner(struct hm_server *server)
{
    return server->server;
}
