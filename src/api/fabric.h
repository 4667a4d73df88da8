/* api/fabric.h - a node's fast path to the nodes of its own cluster: options, key file, and what can
 * be seen of it. */
#ifndef HM_API_FABRIC_H
#define HM_API_FABRIC_H

#include "transport/rpc.h"
#include "transport/ucx_options.h"

struct hm_node;
struct hm_node_options;

/* A node's fabric as its options ask for it; node.c owns it. */
struct hm_node_fabric {
    const struct hm_transport_ops *ops; /* NULL: none */
    struct hm_ucx_options ucx;
    char *devices;
    bool wanted;  /* named interfaces, or UCX's TCP: a node without them does not open */
    bool has_key; /* a fabric was asked for; without the module it has none all the same */
    uint8_t key[HM_FABRIC_KEY_BYTES];
};
/* Loads the module if it is asked for.  Without it, where the options say "auto", a line in the log
 * and HM_OK: everything goes over tcp then.  Thread: set-up. */
HM_MUST_CHECK enum hm_status hm_node_fabric_load(const struct hm_node_options *options,
                                                 struct hm_node_fabric *fabric);
/* What rpc is opened with. */
void hm_node_fabric_conf(const struct hm_node_fabric *fabric, struct hm_rpc_conf *conf);
/* After rpc is open: could the fabric be, too? */
HM_MUST_CHECK enum hm_status hm_node_fabric_check(const struct hm_node_fabric *fabric,
                                                  const struct hm_rpc *rpc);
void hm_node_fabric_fini(struct hm_node_fabric *fabric);

/* A file of 32 bytes, raw or as 64 hexadecimal digits, that its owner alone can read.
 * Errors:  HM_ERR_STORAGE, with a line that says what to do. */
HM_MUST_CHECK enum hm_status hm_fabric_key_load(const char *path, uint8_t key[HM_FABRIC_KEY_BYTES]);

enum { HM_NODE_PATHS_MAX = 64 };
struct hm_node_path {
    struct hm_node_id node;
    struct hm_peer_path path;
};
struct hm_node_paths {
    const char *fabric; /* provider's name; NULL: none */
    bool has_key;
    unsigned peers_fabric, peers_tcp;           /* connected ones */
    struct hm_node_path tcp[HM_NODE_PATHS_MAX]; /* of these the first, and why */
    uint64_t messages,
        messages_tcp_after_join; /* of DHT and experts, sent over the fabric; over tcp to
                                                   peers that have proved its key */
};
/* Thread: any but the loop's. */
HM_MUST_CHECK enum hm_status hm_node_paths(struct hm_node *node, struct hm_node_paths *paths);

#endif
