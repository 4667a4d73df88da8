/* A server and its client, see the header. */
#include "support_rpc_pair.h"

static void on_echo(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct rpc_service *service = arg;
    service->handled++;
    service->left = hm_request_deadline(request) - hm_loop_now(service->loop);
    hm_inbound_drop(in);
    hm_request_reply(request, true, HM_OK, header, header_bytes, NULL, 0);
}

/* As many replies as the header's first byte says; each names itself. */
static void on_parts(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                     struct hm_inbound *in)
{
    struct rpc_service *service = arg;
    static uint8_t big[40000];
    service->handled++;
    hm_inbound_drop(in);
    assert_int_equal(header_bytes, 1);
    unsigned count = *(const uint8_t *)header;
    for (unsigned i = 0; i < count; i++) {
        uint8_t part = (uint8_t)i;
        struct hm_span span = {.base = big, .bytes = i % 3 == 1 ? sizeof big : i % 3};
        hm_request_reply(request, i + 1 == count, HM_OK, &part, 1, &span, 1);
    }
}

static void on_hold(void *arg, struct hm_request *request, const void *header, size_t header_bytes,
                    struct hm_inbound *in)
{
    struct rpc_service *service = arg;
    (void)header;
    (void)header_bytes;
    service->handled++;
    service->left = hm_request_deadline(request) - hm_loop_now(service->loop);
    hm_inbound_drop(in);
    hm_request_set_user(request, service);
    service->held[service->held_count++] = request;
}

static void on_hold_gone(void *arg, struct hm_request *request)
{
    struct rpc_service *service = arg;
    assert_ptr_equal(hm_request_user(request), service);
    service->gone++;
}

void rpc_service_release(struct rpc_service *service)
{
    for (unsigned i = 0; i < service->held_count; i++)
        hm_request_reply(service->held[i], true, HM_OK, NULL, 0, NULL, 0);
    service->held_count = 0;
}

void rpc_pair_open(struct rpc_pair *pair, uint64_t seed, const struct hm_rpc_conf *limits)
{
    *pair = (struct rpc_pair){0};
    assert_ok(hm_world_create(seed, &pair->world));
    pair->loop = pair->service.loop = hm_world_loop(pair->world);
    rpc_node_open(&pair->server, pair->world, 1, "sim:1", limits);
    rpc_node_open(&pair->client, pair->world, 2, "sim:2", limits);
    pair->methods[0] = (struct hm_method){ECHO, "echo", 1 << 20, on_echo, NULL, &pair->service};
    pair->methods[1] = (struct hm_method){PARTS, "parts", 0, on_parts, NULL, &pair->service};
    pair->methods[2] = (struct hm_method){HOLD, "hold", 0, on_hold, on_hold_gone, &pair->service};
    pair->methods[3] = (struct hm_method){TINY, "tiny", 10, on_echo, NULL, &pair->service};
    assert_ok(hm_rpc_serve(pair->server.rpc, pair->methods, 4));
    pair->peer = rpc_peer(&pair->client, &pair->server);
}

void rpc_pair_close(struct rpc_pair *pair)
{
    rpc_service_release(&pair->service);
    hm_peer_put(pair->peer);
    rpc_node_close(&pair->client);
    rpc_node_close(&pair->server);
    hm_world_destroy(pair->world);
}

void rpc_pair_run(struct rpc_pair *pair, hm_ns duration)
{
    hm_world_run_for(pair->world, duration);
}

void rpc_delay_always(struct hm_world *world, hm_ns delay)
{
    struct hm_net_options options;
    hm_net_options_default(&options);
    options.delay_min = options.delay_max = delay;
    options.slow_per_million = options.busy_per_million = 0;
    hm_net_set_options(world, &options);
}
