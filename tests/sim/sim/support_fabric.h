/* Nodes of the simulated network with a fabric: node i is sim:<i> as control connections go, and
 * sim:<100 + i> on the fabric. */
#ifndef HM_TEST_SUPPORT_FABRIC_H
#define HM_TEST_SUPPORT_FABRIC_H

#include "support_rpc.h"

enum { FABRIC = 100 };
extern const uint8_t fabric_key_a[HM_FABRIC_KEY_BYTES], fabric_key_b[HM_FABRIC_KEY_BYTES];

/* key NULL: none, and no fabric. */
void fabric_node_open(struct rpc_node *node, struct hm_world *world, unsigned number,
                      const uint8_t *key);
uint64_t node_metric(const struct rpc_node *node, const char *name);
/* Over the fabric, or why not: a part of the line. */
void expect_path(const struct hm_peer *peer, bool fast, const char *why);

#endif
