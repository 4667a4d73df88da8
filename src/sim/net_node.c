/* sim/net_node.c - the simulated provider: nodes, their endpoints, the handshake.
 *
 * Owns:        nodes (one a transport) and endpoints.
 * Happy path:  SYN, the acceptor's hello, the dialler's hello; each side judges the other's hello
 * and is up. Failure:     everything that ends an endpoint goes through sim_ep_end: one event later
 * its sends and pulls call back, then down is said, then it is freed. Invariant:   sink and
 * callbacks run from the world's events only, so never inside a user's call. */
#include "base/map.h"
#include "sim/net_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELLO_BYTES_MAX = 4096 };

static struct sim_node *node_of(struct hm_transport *transport)
{
    return HM_CONTAINER_OF(transport, struct sim_node, base);
}

unsigned sim_number_parse(const char *text)
{
    static const char prefix[] = "sim:";
    if (strncmp(text, prefix, sizeof prefix - 1) != 0) return 0;
    text += sizeof prefix - 1;
    unsigned number = 0, digits = 0;
    for (; text[digits] >= '0' && text[digits] <= '9' && digits < 9; digits++)
        number = number * 10 + (unsigned)(text[digits] - '0');
    return text[digits] == '\0' && text[0] != '0' ? number : 0;
}

static enum hm_status node_number(struct hm_net *net, const char *listen, unsigned *number)
{
    unsigned wanted = listen ? sim_number_parse(listen) : 0;
    if (wanted && sim_net_node(net, wanted))
        return hm_fail(HM_ERR_INVALID, "%s is in use; crash or close that node first", listen);
    while (!wanted) {
        if (!sim_net_node(net, net->number_next)) wanted = net->number_next;
        net->number_next++;
    }
    *number = wanted;
    return HM_OK;
}

static void own_address(const struct sim_node *node, struct hm_addrs *addrs)
{
    *addrs = (struct hm_addrs){.count = 1};
    snprintf(addrs->addr[0].text, sizeof addrs->addr[0].text, "sim:%u", node->number);
}

static enum hm_status sim_open(const struct hm_transport_conf *conf, struct hm_loop *loop,
                               const struct hm_transport_sink *sink,
                               struct hm_transport **transport)
{
    HM_ASSERT(conf->world && hm_world_loop(conf->world) == loop);
    HM_ASSERT(conf->identity && conf->hello);
    HM_ASSERT(conf->endpoints_max > 0 && conf->receive_bytes_max > 0 && conf->handshake_max > 0);
    struct hm_net *net = sim_net_of(conf->world);
    unsigned number;
    enum hm_status status = node_number(net, conf->listen, &number);
    if (status) return status;
    struct sim_node *node = calloc(1, sizeof *node);
    if (!node) return hm_fail(HM_ERR_NO_MEMORY, "no memory for a simulated node");
    node->base.ops = &hm_transport_sim;
    node->net = net;
    node->sink = *sink;
    node->limits = net->options;
    node->id = *hm_identity_node(conf->identity);
    node->hello = *conf->hello;
    node->number = number;
    node->endpoints_max = conf->endpoints_max;
    node->receive_bytes_max = conf->receive_bytes_max;
    node->handshake_max = conf->handshake_max;
    node->listens = conf->listen != NULL;
    node->fabric_settings = "sim";
    node->has_fabric_key = conf->fabric_key != NULL;
    if (conf->fabric_key) memcpy(node->fabric_key, conf->fabric_key, sizeof node->fabric_key);
    hm_list_init(&node->endpoints);
    hm_list_push(&net->nodes, &node->link);
    if (node->listens && node->hello.listening.count == 0)
        own_address(node, &node->hello.listening);
    hm_world_trace(net->world, "open", number, node->id.byte[0]);
    *transport = &node->base;
    return HM_OK;
}

unsigned hm_net_number(struct hm_transport *transport)
{
    HM_ASSERT(transport->ops == &hm_transport_sim);
    return node_of(transport)->number;
}

void hm_net_set_thief(struct hm_world *world, unsigned number, bool thief)
{
    struct sim_node *node = sim_net_node(sim_net_of(world), number);
    HM_ASSERT(node);
    node->thief = thief;
}

static void sim_caps(struct hm_transport *transport, struct hm_transport_caps *caps)
{
    *caps = (struct hm_transport_caps){
        .memory[HM_MEM_HOST] = true,
        .eager_bytes_max = node_of(transport)->limits.eager_bytes_max,
        .sends_lent = true,
        .pulls_lent = true,
    };
}

static enum hm_status sim_address(struct hm_transport *transport, struct hm_addrs *addrs)
{
    struct sim_node *node = node_of(transport);
    if (!node->listens) return HM_ERR_NOT_FOUND;
    own_address(node, addrs);
    return HM_OK;
}

/* ---- the end of endpoints and nodes
 * -------------------------------------------------------------- */

static void node_closed(struct hm_timer *timer)
{
    struct sim_node *node = timer->arg;
    void (*done)(void *arg) = node->done;
    void *arg = node->done_arg;
    hm_list_remove(&node->link);
    free(node);
    done(arg);
}

/* Done waits for the inbounds that the user holds: they are the transport's memory. */
void sim_node_check_closed(struct sim_node *node)
{
    if (!node->closing || !hm_list_empty(&node->endpoints) || node->inbounds_open > 0) return;
    node->closed.cb = node_closed;
    node->closed.arg = node;
    hm_timer_start(node->net->loop, &node->closed, 0);
}

static void ep_free(struct sim_ep *ep)
{
    hm_list_remove(&ep->link);
    ep->node->endpoint_count--;
    free(ep);
}

static void ep_ended(struct hm_timer *timer)
{
    struct sim_ep *ep = timer->arg;
    struct sim_node *node = ep->node;
    if (ep->conn) sim_conn_leave(ep->conn, ep->side);
    ep->conn = NULL;
    sim_messages_stop(ep);
    sim_messages_end(ep, ep->why);
    hm_world_trace(node->net->world, "down", node->number, (uint64_t)-ep->why);
    if (ep->known) node->sink.down(node->sink.arg, &ep->base, ep->why);
    ep_free(ep);
    sim_node_check_closed(node);
}

static void ep_stop(struct sim_ep *ep)
{
    struct hm_loop *loop = ep->node->net->loop;
    hm_timer_stop(loop, &ep->handshake);
    hm_timer_stop(loop, &ep->ending);
    hm_timer_stop(loop, &ep->writable);
}

void sim_ep_end(struct sim_ep *ep, enum hm_status why)
{
    if (ep->state == EP_ENDING || ep->state == EP_CRASHED) return;
    ep_stop(ep);
    ep->state = EP_ENDING;
    ep->why = why;
    hm_timer_start(ep->node->net->loop, &ep->ending, 0);
}

static void sim_disconnect(struct hm_ep *base)
{
    struct sim_ep *ep = HM_CONTAINER_OF(base, struct sim_ep, base);
    struct hm_net *net = ep->node->net;
    if (ep->state == EP_ENDING || ep->state == EP_CRASHED) return;
    ep->abrupt = sim_net_chance(net, net->options.abrupt_per_million_disconnects);
    sim_ep_end(ep, HM_ERR_CANCELED);
}

static void sim_close(struct hm_transport *transport, void (*done)(void *arg), void *arg)
{
    struct sim_node *node = node_of(transport);
    HM_ASSERT(!node->closing);
    node->closing = true;
    node->done = done;
    node->done_arg = arg;
    HM_LIST_EACH (link, &node->endpoints) {
        struct sim_ep *ep = HM_CONTAINER_OF(link, struct sim_ep, link);
        if (ep->state == EP_CRASHED) ep->state = EP_UP; /* only to end as others do */
        sim_disconnect(&ep->base);
    }
    sim_node_check_closed(node);
}

void sim_node_crash(struct sim_node *node)
{
    struct hm_net *net = node->net;
    node->dead = true;
    HM_LIST_EACH_SAFE (link, &node->endpoints) {
        struct sim_ep *ep = HM_CONTAINER_OF(link, struct sim_ep, link);
        ep_stop(ep);
        sim_messages_stop(ep);
        ep->state = EP_CRASHED;
        /* The kernel may still send what the process had given it, then it resets. */
        ep->abrupt = sim_net_chance(net, 500 * 1000);
        if (ep->conn) sim_conn_leave(ep->conn, ep->side);
        ep->conn = NULL;
        if (!ep->known) ep_free(ep);
    }
    /* A close that was under way ends as it would have. */
    if (node->closing) {
        HM_LIST_EACH (link, &node->endpoints) {
            struct sim_ep *ep = HM_CONTAINER_OF(link, struct sim_ep, link);
            ep->state = EP_UP;
            sim_ep_end(ep, HM_ERR_CANCELED);
        }
        sim_node_check_closed(node);
    }
}

/* ---- the handshake
 * --------------------------------------------------------------------------------- */

static void handshake_expired(struct hm_timer *timer)
{
    sim_ep_end(timer->arg, HM_ERR_PEER_UNREACHABLE);
}

static void writable_again(struct hm_timer *timer)
{
    struct sim_ep *ep = timer->arg;
    ep->starved = false;
    ep->node->sink.writable(ep->node->sink.arg, &ep->base);
}

struct sim_ep *sim_ep_create(struct sim_node *node, enum ep_state state)
{
    struct sim_ep *ep = calloc(1, sizeof *ep);
    if (!ep) return NULL;
    ep->base.transport = &node->base;
    ep->node = node;
    ep->state = state;
    ep->side = state == EP_ACCEPTED;
    ep->known = state == EP_DIALING;
    ep->id_next = 1;
    ep->handshake = (struct hm_timer){.cb = handshake_expired, .arg = ep};
    ep->ending = (struct hm_timer){.cb = ep_ended, .arg = ep};
    ep->writable = (struct hm_timer){.cb = writable_again, .arg = ep};
    hm_list_init(&ep->sends);
    hm_list_init(&ep->inbounds);
    hm_list_push(&node->endpoints, &ep->link);
    node->endpoint_count++;
    hm_timer_start(node->net->loop, &ep->handshake, node->handshake_max);
    return ep;
}

static enum hm_status sim_connect(struct hm_transport *transport, const struct hm_addr *to,
                                  const struct hm_node_id *expect, struct hm_ep **ep)
{
    struct sim_node *node = node_of(transport);
    unsigned number = sim_number_parse(to->text);
    if (!number)
        return hm_fail(HM_ERR_INVALID, "'%.64s' is no simulated address; it looks like sim:7",
                       to->text);
    if (node->dead || node->closing) return HM_ERR_PEER_UNREACHABLE;
    if (node->endpoint_count == node->endpoints_max) return HM_ERR_BUSY;
    struct sim_ep *created = sim_ep_create(node, EP_DIALING);
    if (!created) return HM_ERR_NO_MEMORY;
    created->expects = expect != NULL;
    if (expect) created->expected = *expect;
    created->conn = sim_conn_create(node->net, created, number);
    sim_packet_say(created->conn, 0, PACKET_SYN, 0, 0);
    *ep = &created->base;
    return HM_OK;
}

/* What a secret of the connection would be, were there TLS: both sides have it, no other connection. */
static void binding(const struct sim_ep *ep, uint8_t out[HM_BINDING_BYTES])
{
    for (uint64_t i = 0; i < HM_BINDING_BYTES / 8; i++) {
        uint64_t about[2] = {ep->conn->id, i};
        uint64_t word = hm_hash(about, sizeof about, hm_world_seed(ep->node->net->world));
        memcpy(out + 8 * i, &word, sizeof word);
    }
}

static void prove(const struct sim_ep *ep, struct hm_hello *hello)
{
    struct sim_node *node = ep->node;
    struct sim_node *other = sim_net_node(node->net, ep->conn->number[!ep->side]);
    struct hm_proof_context context = {.by_dialler = ep->side == 0, .prover = &node->id};
    if (node->thief) {
        hello->fabric_proof_bytes = node->stolen_bytes;
        memcpy(hello->fabric_proof, node->stolen, sizeof node->stolen);
    }
    if (!node->has_fabric_key || !other) return;
    context.verifier = &other->id;
    binding(ep, context.binding);
    bool made = hm_proof_make(node->fabric_key, &context, hello);
    HM_ASSERT(made);
}

static bool proved(const struct sim_ep *ep, const struct hm_node_id *id,
                   const struct hm_hello *hello)
{
    struct sim_node *node = ep->node;
    struct hm_proof_context context = {
        .by_dialler = ep->side == 1, .prover = id, .verifier = &node->id};
    if (node->thief && hello->fabric_proof_bytes > 0) {
        node->stolen_bytes = hello->fabric_proof_bytes;
        memcpy(node->stolen, hello->fabric_proof, sizeof node->stolen);
    }
    if (!node->has_fabric_key) return false;
    binding(ep, context.binding);
    return hm_proof_check(node->fabric_key, &context, hello);
}

/* Node id, our credit for the other side, hello. */
void sim_hello_send(struct sim_ep *ep)
{
    struct sim_node *node = ep->node;
    struct packet *packet = sim_packet_create(ep->conn, ep->side, PACKET_HELLO, HELLO_BYTES_MAX);
    struct hm_writer writer;
    hm_writer_init(&writer, packet->data, HELLO_BYTES_MAX);
    hm_write_bytes(&writer, node->id.byte, HM_NODE_ID_BYTES);
    hm_write_u64(&writer, node->receive_bytes_max);
    struct hm_hello hello = node->hello;
    if (!ep->token) prove(ep, &hello);
    hm_hello_encode(&hello, &writer);
    HM_ASSERT(hm_writer_ok(&writer));
    packet->header_bytes = hm_writer_count(&writer);
    sim_packet_send(packet, 0);
}

void sim_accept(struct conn *conn)
{
    struct sim_node *node = sim_net_node(conn->net, conn->number[1]);
    bool welcome = node && node->listens && !node->closing;
    struct sim_ep *ep = NULL;
    if (welcome && node->endpoint_count < node->endpoints_max)
        ep = sim_ep_create(node, EP_ACCEPTED);
    if (!ep) {
        sim_packet_say(conn, 1, PACKET_REFUSED, 0, 0);
        return;
    }
    ep->conn = conn;
    conn->side[1] = ep;
    sim_hello_send(ep);
}

static enum hm_status hello_judge(const struct sim_ep *ep, const struct hm_node_id *id,
                                  const struct hm_hello *hello)
{
    const struct hm_hello *ours = &ep->node->hello;
    if (ep->expects && !hm_node_id_equal(id, &ep->expected)) return HM_ERR_PEER_DENIED;
    if (hello->wire_major != ours->wire_major) return HM_ERR_PEER_VERSION;
    if (hello->swarm[0] && ours->swarm[0] && strcmp(hello->swarm, ours->swarm) != 0)
        return HM_ERR_PEER_DENIED;
    return HM_OK;
}

void sim_handshake_receive(struct sim_ep *ep, const struct packet *packet)
{
    struct sim_node *node = ep->node;
    if (packet->kind == PACKET_REFUSED) {
        sim_ep_end(ep, HM_ERR_PEER_UNREACHABLE);
        return;
    }
    if (ep->state != EP_DIALING && ep->state != EP_ACCEPTED) return;
    struct hm_reader reader;
    hm_reader_init(&reader, packet->data, packet->header_bytes);
    struct hm_node_id id;
    struct hm_hello hello;
    const void *id_bytes = hm_read_bytes(&reader, HM_NODE_ID_BYTES);
    uint64_t credit = hm_read_u64(&reader);
    HM_ASSERT(id_bytes && hm_reader_ok(&reader));
    memcpy(id.byte, id_bytes, HM_NODE_ID_BYTES);
    enum hm_status status = hm_hello_decode(reader.at, hm_reader_left(&reader), &hello);
    if (!status) status = hello_judge(ep, &id, &hello);
    if (status) {
        sim_ep_end(ep, status);
        return;
    }
    if (!ep->token) hello.fabric_proved = proved(ep, &id, &hello);
    if (ep->state == EP_DIALING && !ep->token) sim_hello_send(ep);
    hm_timer_stop(node->net->loop, &ep->handshake);
    ep->state = EP_UP;
    ep->known = true;
    ep->credit_max = (size_t)credit;
    hm_world_trace(node->net->world, "up", node->number, id.byte[0]);
    node->sink.up(node->sink.arg, &ep->base, &id, ep->token ? NULL : &hello);
}

const struct hm_transport_ops hm_transport_sim = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .caps = sim_caps,
    .address = sim_address,
    .connect = sim_connect,
    .disconnect = sim_disconnect,
    .send = sim_send,
    .pull = sim_pull,
    .drop = sim_drop,
    .fabric = &sim_fabric,
};
