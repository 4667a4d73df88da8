/* The simulated network is a transport: the suite over several seeds and tempers. */
#include "support_suite.h"

#include "sim/net.h"

static struct hm_net_options options;

static void sim_start(struct suite *suite)
{
    struct hm_world *world;
    HM_ASSERT(hm_world_create(suite_seed, &world) == HM_OK);
    hm_net_set_options(world, &options);
    suite->impl = world;
    suite->loop = hm_world_loop(world);
}

static void sim_stop(struct suite *suite)
{
    hm_world_destroy(suite->impl); /* asserts that nothing is left */
}

static void *sim_world(struct suite *suite)
{
    return suite->impl;
}

static bool sim_run(struct suite *suite, bool (*until)(void *arg), void *arg, hm_ns limit)
{
    struct hm_world *world = suite->impl;
    hm_ns deadline = hm_deadline_after(suite->loop, limit);
    for (;;) {
        if (until(arg)) return true;
        if (hm_loop_now(suite->loop) >= deadline) return false;
        /* With nothing left to run, time passes all the same. */
        if (!hm_world_step(world)) {
            hm_world_run_until(world, deadline);
            return until(arg);
        }
    }
}

static void sim_puppet_start(struct suite *suite, struct puppet *puppet)
{
    puppet_play(suite, puppet);
}

static void sim_puppet_pause(struct suite *suite, struct puppet *puppet, bool paused)
{
    hm_net_pause(suite->impl, hm_net_number(puppet->node->transport), paused);
}

static void sim_puppet_kill(struct suite *suite, struct puppet *puppet)
{
    unsigned number = hm_net_number(puppet->node->transport);
    hm_net_crash(suite->impl, number);
    hm_net_pause(suite->impl, number, false);
}

static void sim_silent_addr(struct suite *suite, struct hm_addr *addr)
{
    struct node *node = node_open(suite, NULL);
    node_addr(node, addr);
    hm_net_cut(suite->impl, hm_net_number(node->transport), 0, true);
}

static size_t large_size(struct node *node, unsigned number)
{
    return node->caps.eager_bytes_max + number + 1;
}

static bool sim_announce_flood(struct suite *suite, struct node *victim)
{
    struct node *flooder = node_open(suite, NULL);
    struct end *here, *there;
    nodes_connect(flooder, victim, &here, &there);
    hm_net_set_lawless(suite->impl, hm_net_number(flooder->transport), true);
    end_pump(here, 0, 2000, large_size);
    await(suite, end_is_down, here);
    return true;
}

static const struct provider sim_provider = {
    .name = "sim",
    .ops = &hm_transport_sim,
    .listen = "any",
    .bulk_bytes = 4 * MIB,
    .start = sim_start,
    .stop = sim_stop,
    .world = sim_world,
    .run = sim_run,
    .puppet_start = sim_puppet_start,
    .puppet_pause = sim_puppet_pause,
    .puppet_kill = sim_puppet_kill,
    .silent_addr = sim_silent_addr,
    .announce_flood = sim_announce_flood,
};

int main(void)
{
    int failed = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        hm_net_options_default(&options);
        if (seed % 2 == 0) { /* a long and roomy network, with a bottleneck */
            options.delay_min = 20 * HM_MS;
            options.delay_max = 120 * HM_MS;
            options.busy_per_million = 200 * 1000;
            options.bytes_per_second = 100 * MIB;
            options.sends_max = 64;
            options.announces_max = 128;
        }
        failed += suite_main(&sim_provider, seed);
    }
    return failed > 0; /* not the number, which may be 77: skipped */
}
