/* api/swarm.h - a census of the swarm: every name, expert and server that the DHT knows of. */
#ifndef HM_API_SWARM_H
#define HM_API_SWARM_H

#include "api/node.h"

struct hm_swarm_expert {
    struct hm_uid uid;
    struct hm_node_id server;
};
struct hm_swarm {
    struct hm_swarm_expert *expert;
    unsigned expert_count, expert_capacity;
    struct hm_server_info
        *server; /* live ones, and those that experts name but whose record is gone (no addrs) */
    unsigned server_count;
    char **server_status; /* of each what it said of itself, as JSON, or NULL; NULL: nobody asked */
    unsigned contacts, records; /* of this node's DHT */
    struct hm_node_paths paths; /* to this node's own peers */
};
/* Through the directory, whose cache may be HM_DIRECTORY_REFRESH behind.  Thread: any but the
 * loop's.  HM_ERR_TIMED_OUT with what was found by then. */
HM_MUST_CHECK enum hm_status hm_swarm_look(struct hm_node *node, hm_ns timeout,
                                           struct hm_swarm *swarm);
/* Asks every server for its experts and metrics: server_status.  HM_ERR_NO_MEMORY. */
HM_MUST_CHECK enum hm_status hm_swarm_ask_servers(struct hm_node *node, hm_ns timeout,
                                                  struct hm_swarm *swarm);
void hm_swarm_fini(struct hm_swarm *swarm);
void hm_swarm_json(const struct hm_swarm *swarm, struct hm_json *json);

#endif
