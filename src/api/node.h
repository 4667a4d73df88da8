/* api/node.h - what a node is made of; for src/api and src/cli. */
#ifndef HM_API_NODE_H
#define HM_API_NODE_H

#include "base/loop_uv.h"
#include "base/metrics.h"
#include "base/thread.h"
#include "hivemind.h"
#include "moe/directory.h"

struct hm_node {
    struct hm_node_options options;
    char *state_dir; /* NULL: ephemeral */
    int lock_fd;
    struct hm_join join; /* count 0: a new swarm */
    struct hm_hello hello;
    struct hm_identity *identity;
    struct hm_loop *loop;
    struct hm_thread *thread;
    struct hm_metrics metrics; /* the loop's */
    struct hm_buf_pool *buffers;
    struct hm_rpc *rpc;
    struct hm_dht *dht;
    struct hm_directory *directory;
};

/* Runs `run` on the node's loop and waits until it has called hm_node_call_done, which may be later.
 * Thread: any but the loop's. */
struct hm_node_call {
    void (*run)(struct hm_node_call *call);
    struct hm_node *node;
    void *arg;
    enum hm_status status; /* what done said */
    /* node.c's */
    struct hm_post post;
    struct hm_event *event;
    char
        line[HM_ERROR_LINE_BYTES]; /* the loop's hm_fail line, handed over to the caller's thread */
};
enum hm_status hm_node_call(struct hm_node *node, void (*run)(struct hm_node_call *call),
                            void *arg);
void hm_node_call_done(struct hm_node_call *call, enum hm_status status); /* loop thread */
/* "<state>/<leaf>" (malloc'ed), or NULL for an ephemeral node. */
char *hm_node_path(const struct hm_node *node, const char *leaf);
hm_ns hm_node_timeout(int timeout_ms, int standard_ms);

#endif
