/* sim/net.h - the simulated network: the transport provider hm_transport_sim, and the faults.
 *
 * One network a world, made with the first transport that opens in it.  A node is one transport;
 * its number is its address "sim:<number>".  conf.listen: NULL dials out only, "sim:7" asks for
 * that number (a node that crashed starts again so), anything else takes the next free one.
 * Everything that the contract of transport.h leaves open is drawn from the seed (HM_RANDOM_NET)
 * and chosen unkindly: messages overtake each other, back-pressure comes early and sometimes for no
 * reason, pulled payloads arrive in pieces out of order, payloads lie at odd addresses, a
 * disconnect may lose what was under way. What TCP promises holds: a message is lost only with its
 * connection.
 *
 * It is a fabric too (transport.h): endpoints can be dialled, or offered and accepted.
 *
 * Identities are the real ones (hm_identity_node), without TLS: a node is believed.
 * Thread: the world's. */
#ifndef HM_SIM_NET_H
#define HM_SIM_NET_H

#include "sim/world.h"
#include "transport/transport.h"

extern const struct hm_transport_ops hm_transport_sim;

struct hm_net_options {
    hm_ns delay_min, delay_max;          /* one way, uniform */
    unsigned slow_per_million;           /* packets that take ten times their delay */
    unsigned break_per_million_messages; /* sends that break their connection: both sides go down,
                                            each in its time */
    unsigned
        busy_per_million; /* sends that meet HM_ERR_BUSY without a reason; writable() follows */
    unsigned abrupt_per_million_disconnects; /* disconnects that lose what is still under way */
    uint64_t bytes_per_second;               /* of a node's uplink; 0: no limit */
    size_t eager_bytes_max;
    unsigned sends_max;     /* an endpoint's eager sends that the wire has not taken yet */
    unsigned announces_max; /* an endpoint's announced sends, and what its receiver stands */
};
/* 0.1-5 ms, 1 % slow, no breaks, 2 % BUSY, 25 % abrupt, no bandwidth limit, 4 KiB eager, 8 sends,
 * 16 announces. */
void hm_net_options_default(struct hm_net_options *options);
/* From now on.  A transport keeps the limits that it was opened with. */
void hm_net_set_options(struct hm_world *world, const struct hm_net_options *options);

unsigned hm_net_number(struct hm_transport *transport);
/* The living node of that id; 0: none. */
unsigned hm_net_find(struct hm_world *world, const struct hm_node_id *node);

/* Cuts or heals the way from one node to another: packets stop arriving, silently.  0: every node.
 * TCP repeats what was not acknowledged, so what was sent meanwhile arrives after the cut is
 * healed. */
void hm_net_cut(struct hm_world *world, unsigned from, unsigned to, bool cut);
void hm_net_cut_both(struct hm_world *world, unsigned a, unsigned b, bool cut); /* both ways */
/* As SIGSTOP: nothing goes in or out until it goes on.  (Its timers run, its network stands.) */
void hm_net_pause(struct hm_world *world, unsigned number, bool paused);
/* As SIGKILL: its endpoints vanish, the other sides go down with HM_ERR_PEER_RESET in their time,
 * its number is free. The transport calls nobody back any more, until it is closed: then its
 * endpoints go down as ever, for their owner's sake.  For a host that loses its power cut it off
 * from node 0 first. */
void hm_net_crash(struct hm_world *world, unsigned number);
/* Breaks every connection between two nodes, as a router that forgets them. */
void hm_net_break(struct hm_world *world, unsigned a, unsigned b);
/* This node sends without regard for credit and for the bound on announcements, as a hostile one
 * would. */
void hm_net_set_lawless(struct hm_world *world, unsigned number, bool lawless);

/* This node says, as its own proof of a fabric key, the last proof that it has heard. */
void hm_net_set_thief(struct hm_world *world, unsigned number, bool thief);
/* What this node's offers say (static text; "sim" at first): as another version of a fabric's library would. */
void hm_net_set_fabric_settings(struct hm_world *world, unsigned number, const char *settings);

struct hm_net_stats {
    uint64_t messages, bytes_pulled, connections, breaks, busy;
};
void hm_net_stats(struct hm_world *world, struct hm_net_stats *stats);

#endif
