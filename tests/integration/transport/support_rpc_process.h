/* rpc between real processes: the server is this same program in a process of its own (--serve), so
 * that it can be stopped and killed.  Over tcp alone, or with a fabric as the fast path. */
#ifndef HM_TEST_SUPPORT_RPC_PROCESS_H
#define HM_TEST_SUPPORT_RPC_PROCESS_H

#include "test.h"

#include "base/loop_uv.h"
#include "transport/rpc.h"

#include <signal.h>

enum { ECHO = 100, HOLD, CALLS = 64, BULK_BYTES = 3 << 20 };

/* What every node opens with; NULL: tcp alone.  The server's process has to set it, too. */
extern const struct hm_transport_ops *node_fabric;

struct node {
    struct hm_loop *loop;
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_metrics metrics;
    struct hm_rpc *rpc;
    bool closed;
    unsigned downs;
};
void node_open(struct node *node, unsigned key, const char *listen);
void node_close(struct node *node);
/* Callbacks stop the loop when what was waited for has come. */
void run(struct node *node, hm_ns longest);

struct server {
    pid_t pid;
    struct hm_addrs addrs;
};
void server_start(struct server *server, const char *listen);
void server_stop(struct server *server); /* SIGSTOP, until it stands still */
void server_kill(struct server *server);
struct hm_peer *peer_of(struct node *node, const struct server *server);
/* A server, and a node that knows it as a peer. */
struct hm_peer *pair_open(struct server *server, struct node *node);
void pair_close(struct server *server, struct node *node, struct hm_peer *peer);
/* What main does for --serve LISTEN: tells its address, then serves until it is killed.  ECHO sends
 * back header and payload, and refuses (HM_ERR_DUPLICATE) a number, the header's first four bytes if
 * it has one, that it has seen before; HOLD says that it has the request, and no more. */
_Noreturn void serve_main(const char *listen);

struct call {
    struct hm_call call;
    struct node *node;
    unsigned *left; /* calls that have not ended; the loop stops at 0 */
    unsigned replies, ends;
    enum hm_status reply_status, status;
    hm_ns ended;
    struct hm_buf *buf;
    bool pulled;
};
/* payload NULL: none. */
void call_make(struct call *call, struct node *node, struct hm_peer *peer, uint16_t method,
               hm_ns after, const uint32_t *number, struct hm_buf *payload, unsigned *left);
/* One echo, answered: the connection, and the fast path if there is one, are up after it. */
void call_warm(struct node *node, struct hm_peer *peer);

/* The cases that every plane passes (support_cases.c). */
void calls_small_and_large_are_answered(void **state);
void a_killed_server_ends_calls_in_flight_with_a_status(void **state);
void calls_on_a_stopped_server_end_at_their_deadline(void **state);

#endif
