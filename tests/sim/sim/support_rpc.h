/* A node of the simulated network with rpc on it, and a call that remembers what happened to it. */
#ifndef HM_TEST_SUPPORT_RPC_H
#define HM_TEST_SUPPORT_RPC_H

#include "test.h"

#include <stdio.h>

#include "base/wire.h"
#include "sim/net.h"
#include "transport/rpc.h"

struct rpc_node {
    struct hm_world *world;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_metrics metrics;
    struct hm_rpc *rpc;
    struct hm_addrs addrs;
    unsigned number;
    bool closed;
    unsigned ups, downs;
    enum hm_status why;
    void *arg;
};
/* key: decides the identity; listen NULL: dials out only. conf: limits, fabric and its key to use, or
 * NULL. */
void rpc_node_open(struct rpc_node *node, struct hm_world *world, unsigned key, const char *listen,
                   const struct hm_rpc_conf *conf);
void rpc_node_close(struct rpc_node *node);       /* and runs the world until it is */
void rpc_node_start_close(struct rpc_node *node); /* node->closed tells */
void rpc_node_free(struct rpc_node *node);        /* after it is closed */

enum { CALL_REPLIES_SEEN = 64 };
struct rpc_call {
    struct hm_call call;
    struct rpc_node *node;
    unsigned replies, ends;
    enum hm_status reply_status, status;
    size_t reply_bytes;
    uint8_t header[HM_CALL_HEADER_BYTES_MAX];
    size_t header_bytes;
    uint64_t parts; /* bit of the first header byte of each reply */
    hm_ns ended;
    bool done;
};
/* Fills in a call; its payload, if any, is static memory. */
void rpc_call_init(struct rpc_call *call, struct rpc_node *node, uint16_t method, hm_ns after);
/* Makes it and runs the world until it has ended. */
enum hm_status rpc_call_run(struct rpc_call *call, struct hm_peer *peer);
struct hm_peer *rpc_peer(struct rpc_node *node, const struct rpc_node *other);

#endif
