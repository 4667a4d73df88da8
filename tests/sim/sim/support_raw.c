#include "support_raw.h"

static void raw_up(void *arg, struct hm_ep *ep, const struct hm_node_id *node,
                   const struct hm_hello *hello)
{
    struct raw *raw = arg;
    (void)node;
    (void)hello;
    raw->ep = ep;
    raw->up = true;
}

static void raw_message(void *arg, struct hm_ep *ep, const void *header, size_t header_bytes,
                        struct hm_inbound *in)
{
    struct raw *raw = arg;
    (void)ep;
    raw->messages++;
    assert_ok(hm_rpc_header_decode(header, header_bytes, &raw->last));
    if (raw->on_message) raw->on_message(raw, &raw->last, in);
    if (raw->hoards && raw->hoarded < HM_COUNT_OF(raw->hoard))
        raw->hoard[raw->hoarded++] = in;
    else
        hm_inbound_drop(in);
}

static void raw_writable(void *arg, struct hm_ep *ep)
{
    (void)arg;
    (void)ep;
}

static void raw_down(void *arg, struct hm_ep *ep, enum hm_status why)
{
    struct raw *raw = arg;
    assert_ptr_equal(ep, raw->ep);
    for (; raw->hoarded > 0; raw->hoarded--) hm_inbound_drop(raw->hoard[raw->hoarded - 1]);
    raw->ep = NULL;
    raw->up = false;
    raw->why = why;
    raw->downs++;
}

void raw_open(struct raw *raw, struct hm_world *world, unsigned key, const char *listen,
              const uint8_t *fabric_key)
{
    *raw = (struct raw){.world = world};
    uint8_t seed[32] = {(uint8_t)key, 0, 78};
    struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR};
    assert_ok(hm_identity_create(seed, &raw->identity));
    assert_ok(hm_buf_pool_create(1 << 20, &raw->buffers));
    struct hm_transport_conf conf = {.identity = raw->identity,
                                     .hello = &hello,
                                     .listen = listen,
                                     .buffers = raw->buffers,
                                     .endpoints_max = 8,
                                     .receive_bytes_max = 256 * 1024,
                                     .handshake_max = HM_S,
                                     .fabric_key = fabric_key,
                                     .world = world};
    struct hm_transport_sink sink = {raw_up, raw_message, raw_writable, raw_down, raw};
    assert_ok(hm_transport_sim.open(&conf, hm_world_loop(world), &sink, &raw->transport));
    if (hm_net_find(world, hm_identity_node(raw->identity)))
        hm_net_set_lawless(world, hm_net_number(raw->transport), true);
}

void raw_connect(struct raw *raw)
{
    struct hm_addr to = {{"sim:1"}};
    assert_null(raw->ep);
    assert_ok(hm_transport_sim.connect(raw->transport, &to, NULL, &raw->ep));
    hm_world_run_for(raw->world, 500 * HM_MS);
    assert_true(raw->up);
}

void raw_send_bytes(struct raw *raw, struct hm_ep *ep, const void *header, size_t header_bytes,
                    const void *payload, size_t payload_bytes)
{
    struct hm_span span = {.base = (void *)(uintptr_t)payload, .bytes = payload_bytes};
    enum hm_status status =
        hm_transport_sim.send(ep, header, header_bytes, &span, payload_bytes > 0, NULL, NULL);
    if (status == HM_ERR_BUSY) raw->busy++;
    assert_true(status == HM_OK || status == HM_ERR_BUSY || status == HM_ERR_PEER_UNREACHABLE);
}

void raw_send(struct raw *raw, const struct hm_rpc_header *header, size_t user_bytes,
              size_t payload_bytes)
{
    static const uint8_t payload[100000];
    uint8_t bytes[HM_HEADER_BYTES_MAX] = {0};
    hm_rpc_header_encode(header, bytes);
    raw_send_bytes(raw, raw->ep, bytes, HM_RPC_HEADER_BYTES + user_bytes, payload, payload_bytes);
}

static void on_raw_closed(void *arg)
{
    ((struct raw *)arg)->closed = true;
}

void raw_close(struct raw *raw)
{
    hm_transport_sim.close(raw->transport, on_raw_closed, raw);
    assert_true(hm_world_run_while_not(raw->world, &raw->closed, 10 * HM_S));
    hm_buf_pool_destroy(raw->buffers);
    hm_identity_destroy(raw->identity);
}
