/* transport/peer.c - nodes that we know by id: the table, their addresses, round trips and
 * connections.
 *
 * Owns struct hm_peer.  The table is bounded (peers_max).  A peer that nothing needs (no reference,
 * call, request, connection or dial) stays known in rpc->idle, with its addresses, back-off and
 * round trip, until a new one needs its place; the longest idle goes first.
 *
 * Happy path: the first connection is attached: peer_up; the last one is down: peer_down.  Of
 * several connections all receive; new calls go to the one whose dialler has the smaller node id,
 * of two that the same side dialled to the newer (a node that restarted dials anew, its old
 * connection may be dead without our knowing).
 * Invariant: peer->sender is up or NULL; a peer is in rpc->idle exactly while nothing needs it. */
#include "transport/rpc_fast.h"

struct node_key {
    const struct hm_node_id *id;
};

static bool has_id(const struct hm_map_node *node, const void *key)
{
    const struct hm_peer *peer = HM_CONTAINER_OF(node, struct hm_peer, node);
    return hm_node_id_equal(&peer->id, ((const struct node_key *)key)->id);
}

static uint64_t node_hash(const struct hm_rpc *rpc, const struct hm_node_id *id)
{
    return hm_hash(id->byte, sizeof id->byte, rpc->hash_seed);
}

/* ---- the table */

static struct hm_peer *peer_find(struct hm_rpc *rpc, const struct hm_node_id *id)
{
    struct node_key key = {id};
    struct hm_map_node *node = hm_map_find(&rpc->peers, node_hash(rpc, id), has_id, &key);
    return node ? HM_CONTAINER_OF(node, struct hm_peer, node) : NULL;
}

static struct hm_peer *place_for_peer(struct hm_rpc *rpc)
{
    struct hm_peer *peer = hm_slots_take(&rpc->peer_slots);
    if (peer) return peer;
    struct hm_link *link = hm_list_pop(&rpc->idle);
    if (!link) return NULL;
    peer = HM_CONTAINER_OF(link, struct hm_peer, idle);
    hm_map_remove(&rpc->peers, &peer->node);
    return peer;
}

struct hm_peer *hm_peer_find_or_make(struct hm_rpc *rpc, const struct hm_node_id *id)
{
    struct hm_peer *peer = peer_find(rpc, id);
    if (peer) return peer;
    struct hm_node_id kept = *id; /* `id` may lie in the peer that is evicted */
    peer = place_for_peer(rpc);
    if (!peer) return NULL;
    *peer = (struct hm_peer){.rpc = rpc, .id = kept};
    hm_list_init(&peer->idle);
    hm_list_init(&peer->conns);
    hm_list_init(&peer->dials);
    hm_list_init(&peer->waiting);
    hm_map_insert(&rpc->peers, &peer->node, node_hash(rpc, &kept));
    hm_peer_settle(peer);
    return peer;
}

static bool is_needed(const struct hm_peer *peer)
{
    return peer->refs > 0 || peer->holds > 0 || peer->dialing || !hm_list_empty(&peer->conns) ||
           !hm_list_empty(&peer->dials);
}

void hm_peer_settle(struct hm_peer *peer)
{
    bool needed = is_needed(peer);
    if (needed == !hm_list_linked(&peer->idle)) return;
    if (needed)
        hm_list_remove(&peer->idle);
    else
        hm_list_push(&peer->rpc->idle, &peer->idle);
}

struct hm_peer *hm_peer_ref(struct hm_peer *peer)
{
    peer->refs++;
    hm_peer_settle(peer);
    return peer;
}

void hm_peer_put(struct hm_peer *peer)
{
    if (!peer) return;
    HM_ASSERT(peer->refs > 0);
    peer->refs--;
    hm_peer_settle(peer);
}

const struct hm_node_id *hm_peer_node(const struct hm_peer *peer)
{
    return &peer->id;
}

const struct hm_addrs *hm_peer_addrs(const struct hm_peer *peer)
{
    return &peer->addrs;
}

void hm_peer_own_addrs(const struct hm_peer *peer, struct hm_addrs *addrs)
{
    *addrs = peer->addrs;
    addrs->count = (uint8_t)peer->own_count;
}

bool hm_peer_connected(const struct hm_peer *peer)
{
    return peer->sender != NULL;
}

uint16_t hm_peer_wire_minor(const struct hm_peer *peer)
{
    return peer->wire_minor;
}

void hm_peer_path(const struct hm_peer *peer, struct hm_peer_path *path)
{
    const struct hm_conn *conn = peer->sender;
    *path = (struct hm_peer_path){0};
    if (!conn) return;
    const struct hm_rpc_conf *conf = &peer->rpc->conf;
    path->provider = hm_conn_is_fast(conn) ? conf->fabric->name : conf->transport->name;
    if (!hm_conn_is_fast(conn)) memcpy(path->why, peer->why_not_fast, sizeof path->why);
}

void hm_rpc_each_peer(const struct hm_rpc *rpc,
                      void (*visit)(void *arg, const struct hm_peer *peer), void *arg)
{
    for (struct hm_map_node *node = NULL; (node = hm_map_next(&rpc->peers, node));)
        visit(arg, HM_CONTAINER_OF(node, struct hm_peer, node));
}

bool hm_peer_backing_off(const struct hm_peer *peer)
{
    return !peer->sender && hm_loop_now(peer->rpc->loop) < peer->backoff_until;
}

/* ---- addresses: the node's own first, then hearsay; of each kind the newest first.  Anybody can
 * give us hearsay about anybody: it never pushes out the last of what we know from the node itself,
 * and is not handed on. */

/* Ours to dial: "<name of the provider>:..." */
static bool is_dialable(const struct hm_rpc *rpc, const struct hm_addr *addr)
{
    size_t name_bytes = strlen(rpc->conf.transport->name);
    return strncmp(addr->text, rpc->conf.transport->name, name_bytes) == 0 &&
           addr->text[name_bytes] == ':' && addr->text[name_bytes + 1];
}

static void learn(struct hm_peer *peer, const struct hm_addr *addr, bool own)
{
    struct hm_addrs *addrs = &peer->addrs;
    if (!is_dialable(peer->rpc, addr)) return;
    struct hm_addr kept = *addr; /* it may be one of ours */
    unsigned at = 0;
    while (at < addrs->count && strcmp(addrs->addr[at].text, kept.text) != 0) at++;
    bool known = at < addrs->count;
    bool tried = known && peer->tried[at];
    if (at < peer->own_count && !own) return; /* hearsay says nothing new about it */
    if (!known) {
        if (addrs->count < HM_ADDRS_MAX) addrs->count++;
        at = addrs->count - 1;   /* the oldest is forgotten */
        peer->backoff_until = 0; /* perhaps the node has moved there */
    }
    if (own && at >= peer->own_count) peer->own_count++;
    if (!own && at < peer->own_count) peer->own_count = at; /* all were its own */
    unsigned to = own ? 0 : peer->own_count;
    memmove(&addrs->addr[to + 1], &addrs->addr[to], (at - to) * sizeof addrs->addr[0]);
    memmove(&peer->tried[to + 1], &peer->tried[to], (at - to) * sizeof peer->tried[0]);
    addrs->addr[to] = kept;
    peer->tried[to] = tried;
}

static void learn_all(struct hm_peer *peer, const struct hm_addrs *addrs, bool own)
{
    HM_ASSERT(addrs->count <= HM_ADDRS_MAX);
    for (unsigned i = addrs->count; i > 0; i--) learn(peer, &addrs->addr[i - 1], own);
}

void hm_peer_learn_all(struct hm_peer *peer, const struct hm_addrs *addrs)
{
    learn_all(peer, addrs, true);
}

enum hm_status hm_peer_get(struct hm_rpc *rpc, const struct hm_node_id *node,
                           const struct hm_addrs *hints, struct hm_peer **peer)
{
    if (hm_node_id_equal(node, rpc->self)) return HM_ERR_INVALID;
    struct hm_peer *found = hm_peer_find_or_make(rpc, node);
    if (!found) return HM_ERR_BUSY;
    if (hints) learn_all(found, hints, false);
    *peer = hm_peer_ref(found);
    return HM_OK;
}

/* ---- round trips (RFC 6298, section 2, with alpha 1/8 and beta 1/4) */

void hm_peer_measured(struct hm_peer *peer, hm_ns round_trip)
{
    if (round_trip == 0) round_trip = 1; /* 0 says: not measured */
    if (peer->round_trip_min == 0 || round_trip < peer->round_trip_min)
        peer->round_trip_min = round_trip;
    if (peer->round_trip == 0) {
        peer->round_trip = round_trip;
        peer->deviation = round_trip / 2;
        return;
    }
    hm_ns off = round_trip > peer->round_trip ? round_trip - peer->round_trip
                                              : peer->round_trip - round_trip;
    peer->deviation += off / 4;
    peer->deviation -= (peer->deviation - off / 4) / 4;
    peer->round_trip = peer->round_trip - peer->round_trip / 8 + round_trip / 8;
    if (peer->round_trip == 0) peer->round_trip = 1;
}

hm_ns hm_peer_round_trip(const struct hm_peer *peer, hm_ns *deviation)
{
    if (deviation) *deviation = peer->deviation;
    return peer->round_trip;
}

hm_ns hm_peer_round_trip_min(const struct hm_peer *peer)
{
    return peer->round_trip_min;
}

/* ---- connections */

static bool is_better_sender(const struct hm_peer *peer, const struct hm_conn *a,
                             const struct hm_conn *b)
{
    if (a->dialed == b->dialed) return a->born > b->born;
    bool we_are_smaller = memcmp(peer->rpc->self->byte, peer->id.byte, sizeof peer->id.byte) < 0;
    return a->dialed == we_are_smaller;
}

void hm_peer_choose_sender(struct hm_peer *peer)
{
    struct hm_conn *best = NULL;
    HM_LIST_EACH (link, &peer->conns) {
        struct hm_conn *conn = HM_CONTAINER_OF(link, struct hm_conn, link);
        if (conn->state != HM_CONN_UP) continue;
        if (!best || is_better_sender(peer, conn, best)) best = conn;
    }
    peer->sender = best;
}

static void tell_up(struct hm_peer *peer)
{
    struct hm_rpc *rpc = peer->rpc;
    if (peer->announced) return;
    peer->announced = true;
    if (rpc->conf.peer_up) rpc->conf.peer_up(rpc->conf.arg, peer);
    if (rpc->up) rpc->up(rpc->up_arg, peer);
}

/* The calls that waited for a dial. */
static void waiting_send(struct hm_peer *peer, struct hm_conn *conn)
{
    struct hm_link *link;
    while ((link = hm_list_pop(&peer->waiting))) {
        struct hm_call *call = HM_CONTAINER_OF(link, struct hm_call, link);
        peer->waiting_count--;
        call->conn = conn;
        hm_list_push(&conn->calls, &call->link);
        hm_conn_enqueue(conn, call->send);
    }
    hm_conn_flush(conn);
}

/* A node may dial as often as it likes; what it holds of our connections is bounded. */
static void drop_surplus(struct hm_peer *peer)
{
    struct hm_conn *oldest = NULL;
    unsigned accepted = 0;
    HM_LIST_EACH (link, &peer->conns) {
        struct hm_conn *conn = HM_CONTAINER_OF(link, struct hm_conn, link);
        if (conn->dialed || conn->state != HM_CONN_UP) continue;
        if (!oldest) oldest = conn;
        accepted++;
    }
    if (accepted > HM_RPC_CONNS_ACCEPTED_MAX) hm_conn_fail(oldest, HM_ERR_PEER_RESET);
}

void hm_peer_attach(struct hm_peer *peer, struct hm_conn *conn)
{
    struct hm_dial *dial = conn->dial;
    HM_LIST_EACH (link, &peer->conns) {
        /* A second connection may mean that the first is dead: ask it now, not at its next turn. */
        struct hm_conn *older = HM_CONTAINER_OF(link, struct hm_conn, link);
        if (older->state == HM_CONN_UP) hm_conn_ping(older);
    }
    hm_list_remove(&conn->link); /* from peer->dials */
    hm_list_push(&peer->conns, &conn->link);
    conn->peer = peer;
    conn->dial = NULL;
    drop_surplus(peer);
    if (conn->dialed) learn(peer, &conn->addr, true);
    peer->failures = 0;
    peer->backoff_until = 0;
    hm_peer_choose_sender(peer);
    hm_peer_dial_end(peer);
    hm_peer_settle(peer);
    hm_conn_ping(conn); /* the first measure of the round trip */
    peer->holds++;      /* the callbacks may close whatever they like */
    tell_up(peer);
    if (peer->sender) waiting_send(peer, peer->sender);
    if (dial) hm_dial_finish(dial, HM_OK, peer);
    peer->holds--;
    hm_peer_settle(peer);
}

void hm_peer_detach(struct hm_peer *peer, enum hm_status why)
{
    struct hm_rpc *rpc = peer->rpc;
    hm_peer_choose_sender(peer);
    if (hm_list_empty(&peer->conns) && peer->announced) {
        peer->announced = false;
        peer->round_trip_min = 0; /* the next connection may take another way */
        if (why == HM_ERR_PEER_PROTOCOL && !rpc->closing) hm_peer_back_off(peer);
        peer->holds++;
        if (rpc->conf.peer_down) rpc->conf.peer_down(rpc->conf.arg, peer, why);
        if (rpc->down) rpc->down(rpc->up_arg, peer, why);
        peer->holds--;
    }
    hm_peer_settle(peer);
}
