/* api/node.h - what a node is made of; for src/api and src/cli. */
#ifndef HM_API_NODE_H
#define HM_API_NODE_H

#include "api/fabric.h"
#include "base/loop_uv.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "experts/device.h"
#include "hivemind.h"
#include "moe/bridge.h"
#include "moe/dispatch.h"

struct hm_node {
    struct hm_node_options options;
    uint8_t priority; /* enum hm_priority, of its calls */
    char *state_dir; /* NULL: ephemeral */
    int lock_fd;
    struct hm_join join; /* count 0: a new swarm */
    struct hm_hello hello;
    struct hm_identity *identity;
    struct hm_loop *loop;
    struct hm_thread *thread;
    struct hm_metrics metrics; /* the loop's */
    struct hm_buf_pool *buffers;
    struct hm_node_fabric fabric;
    struct hm_rpc *rpc;
    struct hm_dht *dht;
    struct hm_directory *directory;
    struct hm_dispatch *dispatch; /* this node as a client of experts */
    struct hm_bridge bridge;
    struct hm_device *device;  /* the trainer's local layers run on it */
    struct hm_server *servers; /* closed ones too: they end with the connections */
};

/* Runs `start` on the node's loop with `arg` and waits for its hm_wait_end; the status' line comes
 * with it.  Thread: any but the loop's. */
enum hm_status hm_node_run(struct hm_node *node, hm_wait_start start, void *arg);
/* server.c: after the node's connections are closed, loop thread; returns the next of the node's
 * servers. */
struct hm_server *hm_server_end(struct hm_server *server);
struct hm_expert_server;
struct hm_expert_server *hm_server_inner(struct hm_server *server);
/* "<state>/<leaf>" (malloc'ed), or NULL for an ephemeral node. */
char *hm_node_path(const struct hm_node *node, const char *leaf);
hm_ns hm_node_timeout(int timeout_ms, int standard_ms);

#endif
