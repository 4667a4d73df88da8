/* api/node.c - a node: identity, loop thread, rpc, DHT, directory, opened in that order and closed
 * in reverse.
 *
 * Everything but the identity and the state lock is the loop thread's; callers hand work over with
 * hm_node_run and wait.  A failed open takes back exactly what it had opened (close_on_loop
 * and its steps look at what is there). */
#include "api/node.h"

#include "api/state.h"
#include "base/rng.h"
#include "sched/sched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ENDPOINTS_MAX = 1024,
    PEERS_MAX = 4096,
    CALLS_MAX = 8192,
    REQUESTS_MAX = 8192,
    REQUESTS_MAX_PER_PEER = 2048,
    RECORDS_MAX = 65536,
    RECORD_BYTES_MAX = 64 << 20,
    DICTIONARY_ENTRIES_MAX = 8192,
    QUERIES_MAX = 256,
};
static const size_t memory_bytes_standard = (size_t)2 << 30, memory_bytes_min = (size_t)16 << 20;
static const size_t receive_bytes_max = (size_t)1
                                        << 20; /* eager bytes a peer may have in flight to us */

const char *hm_last_error(void)
{
    return hm_fail_line();
}
const char *hm_version(void)
{
    return HM_VERSION;
}

hm_ns hm_node_timeout(int timeout_ms, int standard_ms)
{
    return (hm_ns)(timeout_ms > 0 ? timeout_ms : standard_ms) * HM_MS;
}

char *hm_node_path(const struct hm_node *node, const char *leaf)
{
    if (!node->state_dir) return NULL;
    size_t bytes = strlen(node->state_dir) + strlen(leaf) + 2;
    char *path = malloc(bytes);
    if (path) snprintf(path, bytes, "%s/%s", node->state_dir, leaf);
    return path;
}

/* ---- handing work to the loop ---------------------------------------------------------------- */

enum hm_status hm_node_run(struct hm_node *node, hm_wait_start start, void *arg)
{
    return hm_wait_run(&node->bridge, start, arg);
}

/* ---- open ------------------------------------------------------------------------------------ */

static void run_loop(void *arg)
{
    hm_loop_uv_run(arg);
}

static size_t memory_bytes_of(const struct hm_node_options *options)
{
    return options->memory_bytes_max ? options->memory_bytes_max : memory_bytes_standard;
}

/* What node->options says, as far as it can be judged without the network. */
static enum hm_status read_options(struct hm_node *node)
{
    const struct hm_node_options *options = &node->options;
    node->hello = (struct hm_hello){.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    if (options->memory_bytes_max > 0 && options->memory_bytes_max < memory_bytes_min)
        return hm_fail(HM_ERR_INVALID, "memory_bytes_max is %zu; give %zu or more, or 0",
                       options->memory_bytes_max, memory_bytes_min);
    size_t memory_bytes = memory_bytes_of(options);
    if (options->client_bytes_max > memory_bytes)
        return hm_fail(HM_ERR_INVALID,
                       "client_bytes_max is %zu, more than all buffers have; give %zu "
                       "(memory_bytes_max) or less, or 0",
                       options->client_bytes_max, memory_bytes);
    if (options->client_calls_max > REQUESTS_MAX)
        return hm_fail(HM_ERR_INVALID, "client_calls_max is %u; give %d or less, or 0",
                       options->client_calls_max, REQUESTS_MAX);
    static const char *const classes[HM_PRIORITIES] = {"inference", "training", "background"};
    node->priority = HM_PRIORITIES;
    for (unsigned i = 0; i < HM_PRIORITIES; i++)
        if (strcmp(options->priority ? options->priority : classes[0], classes[i]) == 0)
            node->priority = (uint8_t)i;
    if (node->priority == HM_PRIORITIES)
        return hm_fail(HM_ERR_INVALID,
                       "'%.100s' is no priority; it can be inference, training or background",
                       options->priority);
    if (options->join) {
        enum hm_status status = hm_join_parse(options->join, &node->join);
        if (status) return status;
    }
    const char *swarm = options->swarm ? options->swarm : node->join.swarm;
    if (swarm[0] && !hm_swarm_name_valid(swarm))
        return hm_fail(
            HM_ERR_INVALID,
            "'%.100s' is no swarm name: it has 1 to %d letters, digits, '.', '-' and '_'", swarm,
            HM_SWARM_NAME_BYTES - 1);
    strcpy(node->hello.swarm, swarm);
    if (options->advertise) {
        char host[HM_ADDR_BYTES_MAX - 16];
        uint16_t port;
        enum hm_status status =
            hm_host_port_parse(options->advertise, -1, host, sizeof(host), &port);
        if (status) return status;
        if (!options->listen)
            return hm_fail(
                HM_ERR_INVALID,
                "a node that does not listen has nothing to advertise; give --listen too");
        node->hello.listening.count = 1;
        snprintf(node->hello.listening.addr[0].text, HM_ADDR_BYTES_MAX,
                 strchr(host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u", host, port);
    }
    return HM_OK;
}

static enum hm_status open_identity(struct hm_node *node)
{
    if (!node->options.state_dir) return hm_identity_create(NULL, &node->identity);
    node->state_dir = strdup(node->options.state_dir);
    if (!node->state_dir) return HM_ERR_NO_MEMORY;
    enum hm_status status = hm_state_lock(node->state_dir, &node->lock_fd);
    if (status) return status;
    char *path = hm_node_path(node, "key.pem");
    if (!path) return HM_ERR_NO_MEMORY;
    status = hm_identity_load(path, &node->identity);
    free(path);
    return status;
}

static void open_on_loop(struct hm_wait *wait, void *arg)
{
    struct hm_node *node = arg;
    const struct hm_node_options *options = &node->options;
    enum hm_status status = hm_buf_pool_create(memory_bytes_of(options), &node->buffers);
    if (status) goto done;
    struct hm_rpc_conf rpc = {
        .loop = node->loop,
        .transport = &hm_transport_tcp,
        .transport_conf = {.identity = node->identity,
                           .hello = &node->hello,
                           .listen = options->listen,
                           .buffers = node->buffers,
                           .metrics = &node->metrics,
                           .endpoints_max = ENDPOINTS_MAX,
                           .receive_bytes_max = receive_bytes_max,
                           .handshake_max = 10 * HM_S},
        .peers_max = PEERS_MAX,
        .calls_max = CALLS_MAX,
        .requests_max = REQUESTS_MAX,
        .requests_max_per_peer =
            options->client_calls_max ? options->client_calls_max : REQUESTS_MAX_PER_PEER,
        .request_bytes_max_per_peer = options->client_bytes_max,
    };
    hm_node_fabric_conf(&node->fabric, &rpc);
    status = hm_rpc_open(&rpc, &node->rpc);
    if (!status) status = hm_node_fabric_check(&node->fabric, node->rpc);
    if (status) goto done;
    struct hm_dht_conf dht = {.rpc = node->rpc,
                              .validators = hm_directory_validators,
                              .validator_count = hm_directory_validator_count,
                              .records_max = RECORDS_MAX,
                              .entries_max = DICTIONARY_ENTRIES_MAX,
                              .record_bytes_max = RECORD_BYTES_MAX,
                              .queries_max = QUERIES_MAX,
                              .metrics = &node->metrics};
    status = hm_dht_open(&dht, &node->dht);
    if (status) goto done;
    struct hm_directory_conf directory = {.dht = node->dht, .rpc = node->rpc};
    status = hm_directory_create(&directory, &node->directory);
    if (status) goto done;
    struct hm_dispatch_conf dispatch = {.rpc = node->rpc,
                                        .directory = node->directory,
                                        .priority = node->priority,
                                        .metrics = &node->metrics};
    status = hm_dispatch_create(&dispatch, &node->dispatch);
done:
    hm_wait_end(wait, status);
}

struct join_op {
    struct hm_node *node;
    struct hm_wait *wait;
};

static void joined(void *arg, enum hm_status status)
{
    struct join_op *op = arg;
    const char *line = op->node->options.join;
    if (status == HM_ERR_PEER_DENIED)
        status = hm_fail(status,
                         "the node at %s is not the one that the join line names, or is of another "
                         "swarm; ask for a "
                         "fresh join line",
                         line);
    else if (status == HM_ERR_PEER_VERSION)
        status = hm_fail(
            status,
            "the node at %s speaks another wire version than ours (%d.%d); use the same release",
            line, HM_WIRE_MAJOR, HM_WIRE_MINOR);
    else if (status)
        status = hm_fail(status,
                         "nobody answers at %s (%s); is that node still running, and its port "
                         "open? Ask for a fresh "
                         "join line",
                         line, hm_status_text(status));
    hm_wait_end(op->wait, status);
}

static void join_on_loop(struct hm_wait *wait, void *arg)
{
    struct join_op *op = arg;
    struct hm_node *node = op->node;
    op->wait = wait;
    hm_ns deadline =
        hm_deadline_after(node->loop, hm_node_timeout(node->options.join_timeout_ms, 10000));
    hm_dht_join(node->dht, &node->join.addrs, &node->join.node, deadline, joined, op);
}

/* ---- close ----------------------------------------------------------------------------------- */

struct close_op {
    struct hm_node *node;
    struct hm_wait *wait;
};

static void rpc_closed(void *arg)
{
    struct close_op *op = arg;
    for (struct hm_server *server = op->node->servers; server;) server = hm_server_end(server);
    hm_loop_uv_stop(op->node->loop);
    hm_wait_end(op->wait, HM_OK);
}

static void dht_closed(void *arg)
{
    struct close_op *op = arg;
    if (op->node->directory) hm_directory_destroy(op->node->directory);
    if (op->node->rpc)
        hm_rpc_close(op->node->rpc, rpc_closed, op);
    else
        rpc_closed(op);
}

static void dispatch_closed(void *arg)
{
    struct close_op *op = arg;
    if (op->node->dht)
        hm_dht_close(op->node->dht, dht_closed, op);
    else
        dht_closed(op);
}

static void close_on_loop(struct hm_wait *wait, void *arg)
{
    struct close_op *op = arg;
    op->wait = wait;
    if (op->node->dispatch)
        hm_dispatch_close(op->node->dispatch, dispatch_closed, op);
    else
        dispatch_closed(op);
}

void hm_node_close(struct hm_node *node)
{
    if (!node) return;
    if (node->thread) {
        enum hm_status status = hm_node_run(node, close_on_loop, &(struct close_op){.node = node});
        HM_ASSERT(status == HM_OK);
        hm_thread_join(node->thread);
    }
    if (node->buffers) hm_buf_pool_destroy(node->buffers);
    if (node->loop) hm_loop_uv_destroy(node->loop);
    if (node->device) hm_device_destroy(node->device);
    if (node->identity) hm_identity_destroy(node->identity);
    hm_node_fabric_fini(&node->fabric);
    hm_state_unlock(node->lock_fd);
    free(node->state_dir);
    free(node);
}

int hm_node_open(const struct hm_node_options *options, struct hm_node **out)
{
    struct hm_node *node = calloc(1, sizeof(*node));
    if (!node) return HM_ERR_NO_MEMORY;
    node->options = *options;
    node->lock_fd = -1;
    hm_metrics_init(&node->metrics);
    enum hm_status status = read_options(node);
    if (!status) status = hm_node_fabric_load(options, &node->fabric);
    if (!status) status = open_identity(node);
    if (!status) status = hm_device_cpu_create(&node->device);
    if (!status) status = hm_loop_uv_create(hm_rng_os_seed(), &node->loop);
    if (!status) {
        node->bridge = (struct hm_bridge){.loop = node->loop};
        if (!options->listen) /* nobody depends on a node that only asks */
            hm_loop_uv_welcome_guests(node->loop);
        status = hm_thread_start(&(struct hm_place){.name = "hm-loop"}, run_loop, node->loop,
                                 &node->thread);
    }
    if (!status) status = hm_node_run(node, open_on_loop, node);
    if (!status && options->join)
        status = hm_node_run(node, join_on_loop, &(struct join_op){.node = node});
    /* The caller's strings need not outlive this call. */
    node->options = (struct hm_node_options){0};
    if (status) {
        char line[HM_ERROR_LINE_BYTES];
        snprintf(line, sizeof(line), "%s", hm_fail_line_of(status));
        hm_node_close(node);
        return hm_fail(status, "%s", line);
    }
    *out = node;
    return HM_OK;
}

struct join_line {
    struct hm_node *node;
    char *text;
    size_t bytes;
};

static void join_line_on_loop(struct hm_wait *wait, void *arg)
{
    struct join_line *line = arg;
    struct hm_node *node = line->node;
    struct hm_join join = {.node = *hm_identity_node(node->identity)};
    strcpy(join.swarm, node->hello.swarm);
    enum hm_status status = hm_rpc_address(node->rpc, &join.addrs);
    if (status == HM_ERR_NOT_FOUND)
        status = hm_fail(status, "this node does not listen, so nobody can join through it");
    if (!status) status = hm_join_format(&join, line->text, line->bytes);
    hm_wait_end(wait, status);
}

int hm_node_join_line(struct hm_node *node, char *line, size_t line_bytes)
{
    return hm_node_run(node, join_line_on_loop,
                       &(struct join_line){.node = node, .text = line, .bytes = line_bytes});
}
