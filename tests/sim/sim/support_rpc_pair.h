/* A server of four methods and its client on the simulated network: what the tests of
 * transport/rpc.h share. */
#ifndef HM_TEST_SUPPORT_RPC_PAIR_H
#define HM_TEST_SUPPORT_RPC_PAIR_H

#include "support_rpc.h"

/* PARTS gives as many replies as the header's first byte says; HOLD keeps the request; TINY takes
 * payloads of at most 10 bytes. */
enum { ECHO = 100, PARTS, HOLD, TINY };

struct rpc_service {
    unsigned handled, gone, held_count;
    struct hm_request *held[64];
    hm_ns left; /* until the last request's deadline, when it was handled */
    struct hm_loop *loop;
};
struct rpc_pair {
    struct hm_world *world;
    struct hm_loop *loop;
    struct rpc_node server, client;
    struct rpc_service service;
    struct hm_method methods[4];
    struct hm_peer *peer; /* the server, as the client sees it */
};

void rpc_pair_open(struct rpc_pair *pair, uint64_t seed, const struct hm_rpc_conf *limits);
void rpc_pair_close(struct rpc_pair *pair);
void rpc_service_release(struct rpc_service *service); /* answers what is held */
/* Runs the world for a while without losing sight of what it should not do. */
void rpc_pair_run(struct rpc_pair *pair, hm_ns duration);
void rpc_delay_always(struct hm_world *world, hm_ns delay); /* that, one way, and nothing else */

#endif
