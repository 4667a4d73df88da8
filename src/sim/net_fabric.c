/* sim/net_fabric.c - endpoints that are offered and accepted, instead of dialled.
 *
 * Owns:        nothing of its own.
 * Happy path:  each side offers, then accepts what the other has offered; the second to accept makes
 *              the connection, and each side's hello brings the other up.
 * Failure:     an offer whose endpoint is gone, or that nobody accepts, waits for handshake_max.
 * Invariant:   two endpoints are joined only if each has accepted the other's token. */
#include "sim/net_internal.h"

#include <stdio.h>
#include <string.h>

static enum hm_status fabric_offer(struct hm_transport *transport, const struct hm_node_id *id,
                                   struct hm_fabric_offer *offer, struct hm_ep **created)
{
    struct sim_node *node = HM_CONTAINER_OF(transport, struct sim_node, base);
    if (node->dead) return HM_ERR_PEER_UNREACHABLE;
    if (node->closing) return HM_ERR_CANCELED;
    if (node->endpoint_count == node->endpoints_max) return HM_ERR_BUSY;
    struct sim_ep *ep = sim_ep_create(node, EP_DIALING);
    if (!ep) return HM_ERR_NO_MEMORY;
    ep->expects = true;
    ep->expected = *id;
    ep->token = hm_loop_random(node->net->loop, HM_RANDOM_NET) | 1;
    *offer = (struct hm_fabric_offer){.token = ep->token};
    (void)snprintf(offer->settings, sizeof offer->settings, "%s", node->fabric_settings);
    int bytes = snprintf((char *)offer->address, sizeof offer->address, "sim:%u", node->number);
    offer->address_bytes = (uint16_t)bytes;
    *created = &ep->base;
    return HM_OK;
}

/* The endpoint that these two tokens belong to, if it has accepted and is not joined yet. */
static struct sim_ep *find(struct sim_node *node, uint64_t token, uint64_t their_token)
{
    HM_LIST_EACH (link, &node->endpoints) {
        struct sim_ep *ep = HM_CONTAINER_OF(link, struct sim_ep, link);
        if (ep->state == EP_DIALING && !ep->conn && ep->token == token &&
            ep->their_token == their_token)
            return ep;
    }
    return NULL;
}

static enum hm_status fabric_accept(struct hm_ep *base, const struct hm_fabric_offer *theirs)
{
    struct sim_ep *ep = HM_CONTAINER_OF(base, struct sim_ep, base);
    struct sim_node *node = ep->node;
    HM_ASSERT(ep->token && !ep->their_token);
    char address[32] = {0};
    if (theirs->address_bytes >= sizeof address) return HM_ERR_PEER_PROTOCOL;
    memcpy(address, theirs->address, theirs->address_bytes);
    unsigned number = sim_number_parse(address);
    if (!number || theirs->token == 0) return HM_ERR_PEER_PROTOCOL;
    if (strcmp(theirs->settings, node->fabric_settings) != 0)
        return hm_fail(HM_ERR_PEER_VERSION, "the fabric is '%s' there and '%s' here",
                       theirs->settings, node->fabric_settings);
    if (ep->state != EP_DIALING) return HM_OK; /* its down() is on the way */
    ep->their_token = theirs->token;
    struct sim_node *there = sim_net_node(node->net, number);
    struct sim_ep *other = there ? find(there, ep->their_token, ep->token) : NULL;
    if (!other || other == ep) return HM_OK;
    ep->conn = other->conn = sim_conn_create(node->net, ep, number);
    ep->conn->side[1] = other;
    ep->side = 0;
    other->side = 1;
    sim_hello_send(ep);
    sim_hello_send(other);
    return HM_OK;
}

void hm_net_set_fabric_settings(struct hm_world *world, unsigned number, const char *settings)
{
    struct sim_node *node = sim_net_node(sim_net_of(world), number);
    HM_ASSERT(node);
    node->fabric_settings = settings;
}

static void fabric_lost(struct hm_ep *base, enum hm_status why)
{
    struct sim_ep *ep = HM_CONTAINER_OF(base, struct sim_ep, base);
    ep->abrupt = true;
    sim_ep_end(ep, why);
}

const struct hm_fabric_ops sim_fabric = {
    .offer = fabric_offer, .accept = fabric_accept, .lost = fabric_lost};
