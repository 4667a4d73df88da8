/* tests/sim/all/support_moe.c - the swarm: its nodes, what its servers declare, and time. */
#include "support_moe.h"

#include "base/assert.h"
#include "dht/dht.h"

#include <stdio.h>

/* ---- nodes ----------------------------------------------------------------------------------- */

static void set_flag(void *arg)
{
    *(bool *)arg = true;
}

void moe_run(struct moe_swarm *swarm, hm_ns duration)
{
    hm_world_run_for(swarm->world, duration);
}

void moe_wait(struct moe_swarm *swarm, const bool *done, hm_ns limit)
{
    assert_true(hm_world_run_while_not(swarm->world, done, limit));
}

static void on_joined(void *arg, enum hm_status status)
{
    assert_status(status, HM_OK);
    *(bool *)arg = true;
}

unsigned moe_number(unsigned index)
{
    return index == 0 ? 1 : index + 10;
}

static void node_open(struct moe_swarm *swarm, struct moe_node *node, unsigned index, bool listens)
{
    static const struct hm_hello hello = {.wire_major = HM_WIRE_MAJOR, .wire_minor = HM_WIRE_MINOR};
    uint8_t seed[32] = {(uint8_t)(index + 1), 42};
    char listen[32];
    *node = (struct moe_node){.swarm = swarm, .index = index, .open = true};
    assert_ok(hm_identity_create(seed, &node->identity));
    node->id = *hm_identity_node(node->identity);
    assert_ok(hm_buf_pool_create((size_t)64 << 20, &node->buffers));
    hm_metrics_init(&node->metrics);
    snprintf(listen, sizeof listen, "sim:%u", moe_number(index));
    struct hm_rpc_conf conf = {.loop = swarm->loop,
                               .transport = &hm_transport_sim,
                               .peers_max = 64,
                               .calls_max = 512,
                               .requests_max = 256,
                               .requests_max_per_peer = 128};
    conf.transport_conf = (struct hm_transport_conf){.identity = node->identity,
                                                     .hello = &hello,
                                                     .listen = listens ? listen : NULL,
                                                     .buffers = node->buffers,
                                                     .metrics = &node->metrics,
                                                     .endpoints_max = 64,
                                                     .receive_bytes_max = 256 * 1024,
                                                     .handshake_max = 3 * HM_S,
                                                     .world = swarm->world};
    assert_ok(hm_rpc_open(&conf, &node->rpc));
    struct hm_dht_conf dht = {.rpc = node->rpc,
                              .validators = hm_directory_validators,
                              .validator_count = hm_directory_validator_count,
                              .records_max = 8192,
                              .entries_max = 1024,
                              .record_bytes_max = (size_t)16 << 20,
                              .queries_max = 64,
                              .metrics = &node->metrics};
    assert_ok(hm_dht_open(&dht, &node->dht));
    struct hm_directory_conf directory = {
        .dht = node->dht, .rpc = node->rpc, .negative_cache_max = swarm->negative_cache_max};
    assert_ok(hm_directory_create(&directory, &node->directory));
    if (index == 0) return;
    struct hm_addrs addrs = {.count = 1, .addr = {{"sim:1"}}};
    hm_dht_join(node->dht, &addrs, NULL, hm_deadline_after(swarm->loop, 30 * HM_S), on_joined,
                &node->flag);
    moe_wait(swarm, &node->flag, 60 * HM_S);
}

static void node_close(struct moe_node *node)
{
    if (!node->open) return;
    node->open = false;
    hm_directory_destroy(node->directory);
    node->flag = false;
    hm_dht_close(node->dht, set_flag, &node->flag);
    moe_wait(node->swarm, &node->flag, 60 * HM_S);
    node->flag = false;
    hm_rpc_close(node->rpc, set_flag, &node->flag);
    moe_wait(node->swarm, &node->flag, 600 * HM_S);
    assert_int_equal(hm_buf_pool_bytes_used(node->buffers), 0);
    hm_buf_pool_destroy(node->buffers);
    hm_identity_destroy(node->identity);
}

/* ---- servers --------------------------------------------------------------------------------- */

static struct hm_method methods[MOE_SERVERS_MAX][2];

static void describe(struct moe_server *server, struct hm_server_info *info)
{
    *info = (struct hm_server_info){.node = server->node.id,
                                    .version = "test",
                                    .expert_count = server->expert_count,
                                    .rows_queued = server->rows_queued,
                                    .codecs = HM_CODECS_ALL & ~server->codecs_not};
    assert_ok(hm_rpc_address(server->node.rpc, &info->addrs));
}

static void on_redeclared(void *arg, enum hm_status status)
{
    (void)status; /* in a storm it may fail; the next one comes in 30 s */
    ((struct moe_server *)arg)->declaring = false;
}

static void redeclare(struct hm_timer *timer)
{
    struct moe_server *server = timer->arg;
    struct hm_server_info info;
    describe(server, &info);
    hm_timer_start(server->node.swarm->loop, timer, 30 * HM_S);
    if (server->declaring || server->silent_redeclare) return;
    server->declaring = hm_directory_declare(server->node.directory, &info, NULL, 0, false,
                                             hm_deadline_after(server->node.swarm->loop, 20 * HM_S),
                                             on_redeclared, server) == HM_OK;
}

static void on_declared(void *arg, enum hm_status status)
{
    assert_status(status, HM_OK);
    *(bool *)arg = true;
}

void moe_server_declare(struct moe_server *server, bool experts, bool withdraw)
{
    struct moe_swarm *swarm = server->node.swarm;
    struct hm_server_info info;
    struct hm_uid uids[MOE_EXPERTS_MAX];
    bool done = false;
    for (unsigned i = 0; i < server->expert_count; i++) uids[i] = server->expert[i].uid;
    describe(server, &info);
    assert_ok(hm_directory_declare(server->node.directory, &info, experts ? uids : NULL,
                                   experts ? server->expert_count : 0, withdraw,
                                   hm_deadline_after(swarm->loop, 20 * HM_S), on_declared, &done));
    assert_false(done);
    moe_wait(swarm, &done, 30 * HM_S);
}

void moe_server_host(struct moe_server *server, const char *uid)
{
    struct moe_expert *expert = &server->expert[server->expert_count++];
    assert_true(server->expert_count <= MOE_EXPERTS_MAX);
    *expert = (struct moe_expert){.fails_with = HM_ERR_DEVICE};
    assert_ok(hm_uid_parse(uid, &expert->uid));
}

void moe_server_open(struct moe_swarm *swarm, unsigned index)
{
    struct moe_server *server = &swarm->server[index];
    node_open(swarm, &server->node, index + 1, true);
    hm_list_init(&server->served);
    moe_server_methods(server, methods[index]);
    assert_ok(hm_rpc_serve(server->node.rpc, methods[index], 2));
    server->redeclare = (struct hm_timer){.cb = redeclare, .arg = server};
    hm_timer_start(swarm->loop, &server->redeclare, 30 * HM_S);
    if (server->expert_count > 0) moe_server_declare(server, true, false);
}

static void server_close(struct moe_server *server)
{
    if (!server->node.open) return;
    hm_timer_stop(server->node.swarm->loop, &server->redeclare);
    while (server->declaring) assert_true(hm_world_step(server->node.swarm->world));
    node_close(&server->node);
    assert_true(hm_list_empty(&server->served));
}

void moe_server_crash(struct moe_server *server)
{
    hm_net_crash(server->node.swarm->world, moe_number(server->node.index));
    server_close(server); /* nobody hears of it */
}

struct moe_expert *moe_expert(struct moe_swarm *swarm, const char *uid, struct moe_server **server)
{
    for (unsigned i = 0; i < swarm->server_count; i++) {
        struct moe_expert *expert = moe_server_find(&swarm->server[i], uid);
        if (server) *server = &swarm->server[i];
        if (expert) return expert;
    }
    fail_msg("nobody hosts %s", uid);
    return NULL;
}

static void run_world(void *arg, const bool *done)
{
    struct moe_swarm *swarm = arg;
    moe_wait(swarm, done, 3600 * HM_S);
}

void moe_swarm_open(struct moe_swarm *swarm, uint64_t seed, unsigned servers)
{
    hm_ns negative = swarm->negative_cache_max;
    memset(swarm, 0, sizeof *swarm);
    swarm->negative_cache_max = negative;
    assert_ok(hm_world_create(seed, &swarm->world));
    swarm->loop = hm_world_loop(swarm->world);
    swarm->bridge = (struct hm_bridge){.loop = swarm->loop, .run = run_world, .arg = swarm};
    swarm->server_count = servers;
    node_open(swarm, &swarm->boot, 0, true);
    for (unsigned i = 0; i < MOE_GRID * MOE_GRID && servers > 0; i++) {
        char uid[32];
        snprintf(uid, sizeof uid, "ffn.%u.%u", i / MOE_GRID, i % MOE_GRID);
        moe_server_host(&swarm->server[i % servers], uid);
    }
    for (unsigned i = 0; i < servers; i++) moe_server_open(swarm, i);
    node_open(swarm, &swarm->trainer, 100, false);
    struct hm_dispatch_conf conf = {.rpc = swarm->trainer.rpc,
                                    .directory = swarm->trainer.directory,
                                    .metrics = &swarm->trainer.metrics};
    assert_ok(hm_dispatch_create(&conf, &swarm->dispatch));
}

void moe_swarm_close(struct moe_swarm *swarm)
{
    bool closed = false;
    hm_dispatch_close(swarm->dispatch, set_flag, &closed);
    assert_false(closed);
    moe_wait(swarm, &closed, 60 * HM_S);
    node_close(&swarm->trainer);
    for (unsigned i = 0; i < MOE_SERVERS_MAX; i++) server_close(&swarm->server[i]);
    node_close(&swarm->boot);
    hm_world_destroy(swarm->world);
}
