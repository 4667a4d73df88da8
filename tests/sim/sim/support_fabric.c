#include "support_fabric.h"

const uint8_t fabric_key_a[HM_FABRIC_KEY_BYTES] = {1, 2, 3};
const uint8_t fabric_key_b[HM_FABRIC_KEY_BYTES] = {1, 2, 4};

void fabric_node_open(struct rpc_node *node, struct hm_world *world, unsigned number,
                      const uint8_t *key)
{
    char listen[32], fabric[32];
    (void)snprintf(listen, sizeof listen, "sim:%u", number);
    (void)snprintf(fabric, sizeof fabric, "sim:%u", FABRIC + number);
    struct hm_rpc_conf conf = {.transport_conf.fabric_key = key,
                               .fabric = key ? &hm_transport_sim : NULL,
                               .fabric_conf = {.listen = fabric, .world = world}};
    rpc_node_open(node, world, number, listen, &conf);
    if (key) assert_string_equal(hm_rpc_fabric_error(node->rpc), "");
}

uint64_t node_metric(const struct rpc_node *node, const char *name)
{
    return hm_metrics_value(&node->metrics, name);
}

void expect_path(const struct hm_peer *peer, bool fast, const char *why)
{
    struct hm_peer_path path;
    hm_peer_path(peer, &path);
    assert_string_equal(path.provider, "sim");
    if (!strstr(path.why, why) || fast != (path.why[0] == '\0'))
        fail_msg("the path's why is '%s', wanted '%s'", path.why, why);
}
