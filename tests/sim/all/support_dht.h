/* A swarm of DHT nodes in one simulated world, and an oracle that knows what each of them holds. */
#ifndef HM_TEST_SUPPORT_DHT_H
#define HM_TEST_SUPPORT_DHT_H

#include "test.h"

#include "base/rng.h"
#include "dht/node.h"
#include "sim/net.h"

enum { SWARM_NODES_MAX = 64, SWARM_SCHEMA = 7, SWARM_FOUND_MAX = 4096 };

struct swarm;
struct swarm_node {
    struct swarm *swarm;
    unsigned index;
    bool up, joined, join_ended;
    enum hm_status join_status;
    unsigned number; /* in the network */
    struct hm_identity *identity;
    struct hm_buf_pool *buffers;
    struct hm_metrics metrics;
    struct hm_rpc *rpc;
    struct hm_dht *dht; /* NULL: down */
    bool dht_closed, rpc_closed;
};
struct swarm {
    struct hm_world *world;
    struct hm_loop *loop;
    struct hm_rng rng;
    struct swarm_node node[SWARM_NODES_MAX];
    unsigned node_count; /* ever opened */
    unsigned check_next;
    struct hm_proof_cache *proofs; /* the tests' own */
    unsigned entries_max, records_max;
};

void swarm_open(struct swarm *swarm, uint64_t seed);
void swarm_close(struct swarm *swarm); /* closes every node, and demands that nothing is left */
void swarm_node_open(struct swarm *swarm, unsigned index, bool listens);
void swarm_node_close(struct swarm_node *node);
void swarm_node_crash(struct swarm_node *node); /* its memory is lost, its key is not */
/* Starts to join through another node; ends on its own time. */
void swarm_node_join(struct swarm_node *node, const struct swarm_node *via, bool expect_id);
/* The id of node number `index`, up or not. */
const struct hm_node_id *swarm_id(unsigned index);
/* `count` nodes, all joined through node 0. */
void swarm_grow(struct swarm *swarm, unsigned count);
/* Runs the world, checking one node's invariants a step. */
void swarm_run(struct swarm *swarm, hm_ns duration);
void swarm_check(struct swarm *swarm); /* of all nodes */
unsigned swarm_alive(const struct swarm *swarm);
struct swarm_node *swarm_pick(struct swarm *swarm); /* a random node that is up */

void swarm_key(const char *text, unsigned number, struct hm_dht_id *key);
int64_t swarm_wall_in(struct swarm *swarm, hm_ns after);

struct swarm_found { /* a copy of one record that was found */
    struct hm_dht_id key;
    struct hm_node_id owner;
    uint64_t sequence;
    int64_t expires_wall_ns;
    char subkey[32], value[64];
};
struct swarm_finding {
    struct swarm *swarm;
    bool done;
    enum hm_status status;
    unsigned key_count;
    unsigned count;
    struct swarm_found *found; /* SWARM_FOUND_MAX; malloc'ed */
};
/* Finds and waits. */
void swarm_find(struct swarm_node *node, const struct hm_dht_id *keys, unsigned count, hm_ns limit,
                struct swarm_finding *finding);
void swarm_finding_free(struct swarm_finding *finding);
const struct swarm_found *swarm_finding_get(const struct swarm_finding *finding,
                                            const struct hm_dht_id *key,
                                            const struct hm_node_id *owner, const char *subkey);

struct swarm_storing {
    bool done;
    enum hm_status status;
    unsigned count;
    uint8_t replicas[HM_DHT_QUERY_RECORDS_MAX];
};
void swarm_on_stored(void *arg, enum hm_status status, const uint8_t *replicas, unsigned count);
/* One record, stored and waited for; returns how many replicas it has. */
unsigned swarm_store(struct swarm_node *node, const struct hm_dht_id *key, const char *subkey,
                     const char *value, hm_ns life, enum hm_status *status);
/* Its live entry at this node, or NULL. */
const struct hm_entry *swarm_held(const struct swarm_node *node, const struct hm_dht_id *key,
                                  const struct hm_node_id *owner, const char *subkey);
/* Among how many living listeners nearer to key does this node stand? */
unsigned swarm_rank(const struct swarm *swarm, const struct swarm_node *node,
                    const struct hm_dht_id *key);

#endif
