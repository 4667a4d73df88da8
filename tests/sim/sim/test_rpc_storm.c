/* Many seeds: nodes that call each other (support_storm.h) while connections break, nodes crash and
 * come back, links are cut and processes stand still.  Liveness after it: every call is answered. */
#include "support_storm.h"

enum { NODES = 5 };

static hm_ns patience(struct storm *storm)
{
    if (storm->calm) return 60 * HM_S;
    return 1 + storm_below(storm, storm_below(storm, 4) ? HM_S : 10 * HM_S);
}

static void node_open(struct storm_node *at)
{
    struct hm_rpc_conf limits = {.peers_max = 16,
                                 .calls_max = 128,
                                 .requests_max = 64,
                                 .requests_max_per_peer = 32,
                                 .ping_interval = HM_S};
    char listen[16];
    snprintf(listen, sizeof listen, "sim:%u", at->index + 1);
    rpc_node_open(&at->node, at->storm->world, at->index + 1, listen, &limits);
}

static const struct storm_conf conf = {
    .nodes = NODES,
    .calls = 400,
    .method = 100,
    .parts_max = 4,
    .payload_max = 60000,
    .drop_in = 4,
    .answer_max = 50 * HM_MS,
    .part_max = 20 * HM_MS,
    .cancel_max = 100 * HM_MS,
    .patience = patience,
    .open = node_open,
};

static void fault(struct storm *storm)
{
    unsigned a = (unsigned)storm_below(storm, NODES), b = (unsigned)storm_below(storm, NODES);
    struct storm_node *node = &storm->nodes[a];
    switch (storm_below(storm, 6)) {
    case 0: hm_net_break(storm->world, a + 1, b + 1); break;
    case 1:
    case 2: hm_net_cut(storm->world, a + 1, b + 1, storm_below(storm, 2)); break;
    case 3: hm_net_pause(storm->world, a + 1, storm_below(storm, 2)); break;
    case 4:
        /* At least two stay up, so that somebody can call somebody. */
        for (unsigned i = 0, up = 0; i < NODES; i++)
            if (!storm->nodes[i].down && ++up == 3 && !node->down) {
                hm_net_crash(storm->world, a + 1);
                node->down = true;
                rpc_node_start_close(&node->node);
                return;
            }
        break;
    default:
        if (node->down && node->node.closed) {
            rpc_node_free(&node->node);
            storm_node_start(storm, a);
        }
    }
}

static void heal(struct storm *storm)
{
    for (unsigned a = 1; a <= NODES; a++) {
        hm_net_pause(storm->world, a, false);
        for (unsigned b = 1; b <= NODES; b++) hm_net_cut(storm->world, a, b, false);
    }
    hm_world_run_for(storm->world, 10 * HM_S);
    for (unsigned i = 0; i < NODES; i++)
        if (storm->nodes[i].down) {
            assert_true(storm->nodes[i].node.closed);
            rpc_node_free(&storm->nodes[i].node);
            storm_node_start(storm, i);
        }
    hm_world_run_for(storm->world, 90 * HM_S); /* every back-off is over */
    assert_int_equal(storm->live, 0);
}

static uint64_t run_storm(uint64_t seed)
{
    struct storm *storm = storm_open(&conf, seed, 1234);
    struct hm_net_options options;
    hm_net_options_default(&options);
    options.break_per_million_messages = 2000;
    hm_net_set_options(storm->world, &options);
    storm_blow(storm, 200 * HM_MS, fault);
    options.break_per_million_messages = 0;
    hm_net_set_options(storm->world, &options);
    heal(storm);
    assert_true(storm->succeeded > 0 && storm->failed > 0);
    storm->calm = true;
    unsigned before = storm->made;
    for (unsigned step = 0; step < 20; step++) {
        storm_make_calls(storm, 3);
        hm_world_run_for(storm->world, 100 * HM_MS);
    }
    hm_world_run_for(storm->world, 60 * HM_S);
    assert_true(storm->made > before);
    return storm_close(storm);
}

static void every_call_ends_once_by_its_deadline_whatever_breaks(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= storm_seeds(); seed++) {
        print_message("seed %lu\n", (unsigned long)seed);
        run_storm(seed);
    }
}

static void a_seed_replays_and_another_one_does_not(void **state)
{
    (void)state;
    uint64_t first = run_storm(7), again = run_storm(7), other = run_storm(8);
    print_message("trace of seed 7: %016llx\n", (unsigned long long)first);
    assert_true(first == again);
    assert_true(first != other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call_ends_once_by_its_deadline_whatever_breaks),
        cmocka_unit_test(a_seed_replays_and_another_one_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
