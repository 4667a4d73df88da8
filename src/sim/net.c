/* sim/net.c - the wire of the simulated network: connections, packets and faults.
 *
 * Owns:        the connections and the packets on them, the cuts, the pauses.
 * Happy path:  a packet draws its delay when it is sent, and is handed to its side when that is
 * over. Failure:     a packet that comes to a cut or a stopped node waits there, as TCP would
 * repeat it; a broken connection swallows what is sent, and each side gets an END in its own time.
 * Invariant:   a connection without sides has no packets; every packet's timer runs, or it is
 * stalled. */
#include "sim/net_internal.h"

#include <stdlib.h>
#include <string.h>

static const char net_kind[] = "net";

void hm_net_options_default(struct hm_net_options *options)
{
    *options = (struct hm_net_options){
        .delay_min = 100 * HM_US,
        .delay_max = 5 * HM_MS,
        .slow_per_million = 10 * 1000,
        .busy_per_million = 20 * 1000,
        .abrupt_per_million_disconnects = 250 * 1000,
        .eager_bytes_max = 4096,
        .sends_max = 8,
        .announces_max = 16,
    };
}

static void net_destroy(struct hm_world_part *part)
{
    struct hm_net *net = HM_CONTAINER_OF(part, struct hm_net, part);
    HM_ASSERT(hm_list_empty(&net->nodes) && hm_list_empty(&net->conns));
    for (struct hm_link *link; (link = hm_list_pop(&net->cuts));)
        free(HM_CONTAINER_OF(link, struct cut, link));
    for (struct hm_link *link; (link = hm_list_pop(&net->pauses));)
        free(HM_CONTAINER_OF(link, struct pause, link));
    free(net);
}

struct hm_net *sim_net_of(struct hm_world *world)
{
    struct hm_world_part *part = hm_world_part_find(world, net_kind);
    if (part) return HM_CONTAINER_OF(part, struct hm_net, part);
    struct hm_net *net = calloc(1, sizeof *net);
    HM_ASSERT(net);
    net->part = (struct hm_world_part){.kind = net_kind, .destroy = net_destroy};
    net->world = world;
    net->loop = hm_world_loop(world);
    hm_net_options_default(&net->options);
    hm_list_init(&net->nodes);
    hm_list_init(&net->conns);
    hm_list_init(&net->cuts);
    hm_list_init(&net->pauses);
    net->conn_id_next = 1;
    net->number_next = 1;
    hm_world_part_add(world, &net->part);
    return net;
}

void hm_net_set_options(struct hm_world *world, const struct hm_net_options *options)
{
    HM_ASSERT(options->delay_min <= options->delay_max);
    HM_ASSERT(options->sends_max > 0 && options->announces_max > 0);
    sim_net_of(world)->options = *options;
}

void hm_net_stats(struct hm_world *world, struct hm_net_stats *stats)
{
    *stats = sim_net_of(world)->stats;
}

hm_ns sim_net_draw(struct hm_net *net, hm_ns min, hm_ns max)
{
    return min + hm_loop_random(net->loop, HM_RANDOM_NET) % (max - min + 1);
}

bool sim_net_chance(struct hm_net *net, unsigned per_million)
{
    return per_million > 0 && hm_loop_random(net->loop, HM_RANDOM_NET) % 1000000 < per_million;
}

struct sim_node *sim_net_node(struct hm_net *net, unsigned number)
{
    HM_LIST_EACH (link, &net->nodes) {
        struct sim_node *node = HM_CONTAINER_OF(link, struct sim_node, link);
        if (node->number == number && !node->dead) return node;
    }
    return NULL;
}

unsigned hm_net_find(struct hm_world *world, const struct hm_node_id *id)
{
    HM_LIST_EACH (link, &sim_net_of(world)->nodes) {
        struct sim_node *node = HM_CONTAINER_OF(link, struct sim_node, link);
        if (!node->dead && hm_node_id_equal(&node->id, id)) return node->number;
    }
    return 0;
}

/* ---- cuts and pauses ------------------------------------------------------------------------- */

static struct cut *cut_find(struct hm_net *net, unsigned from, unsigned to)
{
    HM_LIST_EACH (link, &net->cuts) {
        struct cut *cut = HM_CONTAINER_OF(link, struct cut, link);
        if (cut->from == from && cut->to == to) return cut;
    }
    return NULL;
}

static struct pause *pause_find(struct hm_net *net, unsigned number)
{
    HM_LIST_EACH (link, &net->pauses) {
        struct pause *pause = HM_CONTAINER_OF(link, struct pause, link);
        if (pause->number == number) return pause;
    }
    return NULL;
}

static bool packet_blocked(const struct packet *packet)
{
    struct conn *conn = packet->conn;
    struct hm_net *net = conn->net;
    unsigned from = conn->number[!packet->to], to = conn->number[packet->to];
    HM_LIST_EACH (link, &net->cuts) {
        struct cut *cut = HM_CONTAINER_OF(link, struct cut, link);
        if ((!cut->from || cut->from == from) && (!cut->to || cut->to == to)) return true;
    }
    struct pause *stopped = pause_find(net, from);
    return pause_find(net, to) || (stopped && packet->sent >= stopped->since);
}

/* Something was healed: what waited there is sent again. */
static void packets_resume(struct hm_net *net)
{
    HM_LIST_EACH (conn_link, &net->conns) {
        struct conn *conn = HM_CONTAINER_OF(conn_link, struct conn, link);
        HM_LIST_EACH (link, &conn->packets) {
            struct packet *packet = HM_CONTAINER_OF(link, struct packet, link);
            if (!packet->stalled || packet_blocked(packet)) continue;
            packet->stalled = false;
            hm_timer_start(net->loop, &packet->timer,
                           sim_net_draw(net, net->options.delay_min, net->options.delay_max));
        }
    }
}

void hm_net_cut(struct hm_world *world, unsigned from, unsigned to, bool on)
{
    struct hm_net *net = sim_net_of(world);
    struct cut *cut = cut_find(net, from, to);
    hm_world_trace(world, on ? "cut" : "heal", from, to);
    if (on && !cut) {
        cut = calloc(1, sizeof *cut);
        HM_ASSERT(cut);
        cut->from = from;
        cut->to = to;
        hm_list_push(&net->cuts, &cut->link);
    } else if (!on && cut) {
        hm_list_remove(&cut->link);
        free(cut);
        packets_resume(net);
    }
}

void hm_net_cut_both(struct hm_world *world, unsigned a, unsigned b, bool on)
{
    hm_net_cut(world, a, b, on);
    hm_net_cut(world, b, a, on);
}

void hm_net_pause(struct hm_world *world, unsigned number, bool on)
{
    struct hm_net *net = sim_net_of(world);
    struct pause *pause = pause_find(net, number);
    hm_world_trace(world, on ? "pause" : "resume", number, 0);
    if (on && !pause) {
        pause = calloc(1, sizeof *pause);
        HM_ASSERT(pause);
        pause->number = number;
        pause->since = hm_loop_now(net->loop);
        hm_list_push(&net->pauses, &pause->link);
    } else if (!on && pause) {
        hm_list_remove(&pause->link);
        free(pause);
        packets_resume(net);
    }
}

void hm_net_crash(struct hm_world *world, unsigned number)
{
    struct hm_net *net = sim_net_of(world);
    struct sim_node *node = sim_net_node(net, number);
    HM_ASSERT(node);
    hm_world_trace(world, "crash", number, 0);
    sim_node_crash(node);
}

void hm_net_break(struct hm_world *world, unsigned a, unsigned b)
{
    struct hm_net *net = sim_net_of(world);
    HM_LIST_EACH (link, &net->conns) {
        struct conn *conn = HM_CONTAINER_OF(link, struct conn, link);
        if ((conn->number[0] == a && conn->number[1] == b) ||
            (conn->number[0] == b && conn->number[1] == a))
            sim_conn_break(conn);
    }
}

void hm_net_set_lawless(struct hm_world *world, unsigned number, bool lawless)
{
    struct sim_node *node = sim_net_node(sim_net_of(world), number);
    HM_ASSERT(node);
    node->lawless = lawless;
}

/* ---- packets --------------------------------------------------------------------------------- */

static void packet_free(struct packet *packet)
{
    hm_timer_stop(packet->conn->net->loop, &packet->timer);
    hm_list_remove(&packet->link);
    free(packet);
}

/* Everything but messages between two sides that are up. */
static void control_deliver(struct conn *conn, struct sim_ep *ep, const struct packet *packet)
{
    if (packet->kind == PACKET_SYN) {
        sim_accept(conn);
    } else if (!ep) {
        /* Nobody there: a host answers what it does not know with a reset. */
        if (packet->kind != PACKET_END) sim_packet_say(conn, packet->to, PACKET_END, 0, 0);
    } else if (packet->kind == PACKET_END) {
        sim_ep_end(ep, ep->state == EP_UP ? HM_ERR_PEER_RESET : HM_ERR_PEER_UNREACHABLE);
    } else if (packet->kind == PACKET_REFUSED || packet->kind == PACKET_HELLO) {
        sim_handshake_receive(ep, packet);
    }
}

static void packet_arrived(struct hm_timer *timer)
{
    struct packet *packet = timer->arg;
    struct conn *conn = packet->conn;
    struct sim_ep *ep = conn->side[packet->to];
    if (packet_blocked(packet)) {
        packet->stalled = true;
        return;
    }
    bool message = packet->kind >= PACKET_MESSAGE;
    if (message && ep && (ep->state == EP_ACCEPTED || ep->state == EP_DIALING)) {
        /* It overtook the hello, which a cut has held up: what reads the stream would see it later.
         */
        hm_timer_start(conn->net->loop, timer, conn->net->options.delay_max);
        return;
    }
    hm_world_trace(conn->net->world, "packet", conn->id << 8 | packet->kind,
                   packet->id << 32 ^ packet->bytes);
    hm_list_remove(&packet->link); /* from here on not the connection's, which a callback may end */
    bool kept = false;
    if (message && ep && ep->state == EP_UP)
        kept = sim_message_receive(ep, packet);
    else
        control_deliver(conn, ep, packet);
    if (!kept) free(packet);
}

struct packet *sim_packet_create(struct conn *conn, unsigned from, enum packet_kind kind,
                                 size_t data_bytes)
{
    struct packet *packet = calloc(1, sizeof *packet + data_bytes);
    HM_ASSERT(packet);
    packet->conn = conn;
    packet->kind = (uint8_t)kind;
    packet->to = (uint8_t)!from;
    packet->timer.cb = packet_arrived;
    packet->timer.arg = packet;
    hm_list_init(&packet->link);
    return packet;
}

/* When the last packet that is under way to that side arrives. */
static hm_ns packets_due_last(const struct conn *conn, unsigned to)
{
    hm_ns last = 0;
    HM_LIST_EACH (link, &conn->packets) {
        struct packet *packet = HM_CONTAINER_OF(link, struct packet, link);
        if (packet->to == to && packet->timer.due > last) last = packet->timer.due;
    }
    return last;
}

void sim_packet_send(struct packet *packet, hm_ns after)
{
    struct conn *conn = packet->conn;
    struct hm_net *net = conn->net;
    if (conn->broken && packet->kind != PACKET_END) {
        free(packet);
        return;
    }
    packet->sent = hm_loop_now(net->loop);
    hm_ns delay = sim_net_draw(net, net->options.delay_min, net->options.delay_max);
    if (sim_net_chance(net, net->options.slow_per_million)) delay *= 10;
    hm_ns due = packet->sent + after + delay;
    if (due < conn->hello_due[packet->to]) due = conn->hello_due[packet->to];
    if (packet->kind == PACKET_HELLO) conn->hello_due[packet->to] = due;
    if (packet->kind == PACKET_END && !conn->broken) {
        hm_ns last = packets_due_last(conn, packet->to);
        if (due < last) due = last;
    }
    hm_list_push(&conn->packets, &packet->link);
    hm_timer_start(net->loop, &packet->timer, due - packet->sent);
}

void sim_packet_say(struct conn *conn, unsigned from, enum packet_kind kind, uint64_t id,
                    size_t bytes)
{
    struct packet *packet = sim_packet_create(conn, from, kind, 0);
    packet->id = id;
    packet->bytes = bytes;
    sim_packet_send(packet, 0);
}

/* ---- connections ----------------------------------------------------------------------------- */

struct conn *sim_conn_create(struct hm_net *net, struct sim_ep *dialler, unsigned number)
{
    struct conn *conn = calloc(1, sizeof *conn);
    HM_ASSERT(conn);
    conn->net = net;
    conn->id = net->conn_id_next++;
    conn->side[0] = dialler;
    conn->number[0] = dialler->node->number;
    conn->number[1] = number;
    hm_list_init(&conn->packets);
    hm_list_push(&net->conns, &conn->link);
    net->stats.connections++;
    return conn;
}

/* Forgets what is under way to one side, or to both (2). */
static void packets_lose(struct conn *conn, unsigned to)
{
    HM_LIST_EACH_SAFE (link, &conn->packets) {
        struct packet *packet = HM_CONTAINER_OF(link, struct packet, link);
        if (to == 2 || packet->to == to) packet_free(packet);
    }
}

void sim_conn_leave(struct conn *conn, unsigned side)
{
    struct sim_ep *ep = conn->side[side];
    conn->side[side] = NULL;
    if (!conn->side[!side]) {
        /* Also where the other side was never accepted: its SYN is taken back. */
        packets_lose(conn, 2);
        hm_list_remove(&conn->link);
        free(conn);
        return;
    }
    if (conn->broken) return; /* the other side's END is under way */
    if (ep->abrupt) packets_lose(conn, !side);
    sim_packet_say(conn, side, PACKET_END, 0, 0);
}

void sim_conn_break(struct conn *conn)
{
    if (conn->broken) return;
    hm_world_trace(conn->net->world, "break", conn->id, 0);
    conn->net->stats.breaks++;
    packets_lose(conn, 2);
    conn->broken = true;
    for (unsigned side = 0; side < 2; side++)
        if (conn->side[!side]) sim_packet_say(conn, side, PACKET_END, 0, 0);
}
