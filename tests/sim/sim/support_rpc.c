#include "support_rpc.h"

static void on_up(void *arg, struct hm_peer *peer)
{
    struct rpc_node *node = arg;
    assert_non_null(peer);
    node->ups++;
}

static void on_down(void *arg, struct hm_peer *peer, enum hm_status why)
{
    struct rpc_node *node = arg;
    assert_false(hm_peer_connected(peer));
    assert_true(node->ups > node->downs);
    node->downs++;
    node->why = why;
}

void rpc_node_open(struct rpc_node *node, struct hm_world *world, unsigned key, const char *listen,
                   const struct hm_rpc_conf *limits)
{
    *node = (struct rpc_node){.world = world};
    uint8_t seed[32] = {(uint8_t)key, (uint8_t)(key >> 8), 77};
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    assert_ok(hm_identity_create(seed, &node->identity));
    assert_ok(hm_buf_pool_create((size_t)64 << 20, &node->buffers));
    hm_metrics_init(&node->metrics);
    struct hm_rpc_conf conf = limits ? *limits : (struct hm_rpc_conf){0};
    const uint8_t *fabric_key = conf.transport_conf.fabric_key;
    conf.loop = hm_world_loop(world);
    conf.transport = &hm_transport_sim;
    conf.transport_conf = (struct hm_transport_conf){.identity = node->identity,
                                                     .hello = &hello,
                                                     .listen = listen,
                                                     .buffers = node->buffers,
                                                     .metrics = &node->metrics,
                                                     .endpoints_max = 64,
                                                     .receive_bytes_max = 256 * 1024,
                                                     .handshake_max = 3 * HM_S,
                                                     .fabric_key = fabric_key,
                                                     .world = world};
    conf.peer_up = on_up;
    conf.peer_down = on_down;
    conf.arg = node;
    assert_ok(hm_rpc_open(&conf, &node->rpc));
    if (listen) {
        assert_ok(hm_rpc_address(node->rpc, &node->addrs));
        node->number = hm_net_find(world, hm_identity_node(node->identity));
    }
}

static void on_closed(void *arg)
{
    struct rpc_node *node = arg;
    assert_false(node->closed);
    node->closed = true;
}

void rpc_node_start_close(struct rpc_node *node)
{
    hm_rpc_close(node->rpc, on_closed, node);
    assert_false(node->closed);
}

void rpc_node_free(struct rpc_node *node)
{
    assert_true(node->closed);
    assert_int_equal(hm_buf_pool_bytes_used(node->buffers), 0);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
}

void rpc_node_close(struct rpc_node *node)
{
    rpc_node_start_close(node);
    assert_true(hm_world_run_while_not(node->world, &node->closed, 600 * HM_S));
    rpc_node_free(node);
}

static void on_reply(struct hm_call *base, enum hm_status status, const void *header,
                     size_t header_bytes, struct hm_inbound *in)
{
    struct rpc_call *call = HM_CONTAINER_OF(base, struct rpc_call, call);
    assert_int_equal(call->ends, 0);
    call->replies++;
    call->reply_status = status;
    call->reply_bytes = in->bytes;
    call->header_bytes = header_bytes;
    memcpy(call->header, header, header_bytes);
    if (header_bytes > 0 && call->header[0] < 64) {
        assert_int_equal(call->parts >> call->header[0] & 1, 0);
        call->parts |= UINT64_C(1) << call->header[0];
    }
    hm_inbound_drop(in);
}

static void on_end(struct hm_call *base, enum hm_status status)
{
    struct rpc_call *call = HM_CONTAINER_OF(base, struct rpc_call, call);
    call->ends++;
    assert_int_equal(call->ends, 1);
    call->status = status;
    call->ended = hm_loop_now(hm_world_loop(call->node->world));
    call->done = true;
    /* The memory is ours again: what rpc still did with it would show. */
    memset(&call->call, 0xdd, sizeof call->call);
}

void rpc_call_init(struct rpc_call *call, struct rpc_node *node, uint16_t method, hm_ns after)
{
    *call = (struct rpc_call){.node = node, .call.method = method};
    call->call.deadline = hm_deadline_after(hm_world_loop(node->world), after);
    call->call.reply = on_reply;
    call->call.end = on_end;
}

enum hm_status rpc_call_run(struct rpc_call *call, struct hm_peer *peer)
{
    enum hm_status status = hm_rpc_call(peer, &call->call);
    if (status != HM_OK) return status;
    assert_false(call->done);
    assert_true(hm_world_run_while_not(call->node->world, &call->done, 7200 * HM_S));
    return call->status;
}

struct hm_peer *rpc_peer(struct rpc_node *node, const struct rpc_node *other)
{
    struct hm_peer *peer;
    assert_ok(hm_peer_get(node->rpc, hm_identity_node(other->identity), &other->addrs, &peer));
    return peer;
}
