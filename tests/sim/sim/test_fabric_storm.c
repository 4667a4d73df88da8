/* Many seeds: nodes of one fabric key that call each other (support_storm.h) while the fabric, and in
 * half of the cases the connections too, are cut and break.  As long as connections hold no call is
 * lost, whatever the fabric does. */
#include "support_fabric.h"
#include "support_storm.h"

enum { NODES = 4 };

static hm_ns patience(struct storm *storm)
{
    bool patient = storm->conf.lossless || storm_below(storm, 2);
    return patient ? 120 * HM_S : (hm_ns)storm_below(storm, 3 * HM_S) + 1;
}

static void node_open(struct storm_node *at)
{
    fabric_node_open(&at->node, at->storm->world, at->index + 1, fabric_key_a);
}

static void uncut(struct storm *storm)
{
    for (unsigned i = 1; i <= NODES; i++)
        for (unsigned j = 1; j <= NODES; j++) {
            hm_net_cut(storm->world, i, j, false);
            hm_net_cut(storm->world, FABRIC + i, FABRIC + j, false);
        }
}

static void fault(struct storm *storm)
{
    unsigned a = 1 + (unsigned)storm_below(storm, NODES),
             b = 1 + (unsigned)storm_below(storm, NODES);
    unsigned plane = storm->conf.lossless || storm_below(storm, 2) ? FABRIC : 0;
    if (a == b) return;
    switch (storm_below(storm, 4)) {
    case 0: hm_net_cut(storm->world, plane + a, plane + b, true); break;
    case 1: hm_net_cut_both(storm->world, plane + a, plane + b, true); break;
    default: hm_net_break(storm->world, plane + a, plane + b);
    }
    if (storm_below(storm, 2) == 0) uncut(storm);
}

static uint64_t run_storm(uint64_t seed, bool lossless)
{
    const struct storm_conf conf = {
        .nodes = NODES,
        .calls = 300,
        .method = HM_METHOD_EXPERT_CALL,
        .parts_max = 3,
        .payload_max = 40000,
        .empty_in = 5,
        .drop_in = 8,
        .think_max = 2 * HM_S,
        .answer_max = 500 * HM_MS,
        .part_max = 300 * HM_MS,
        .cancel_max = HM_S,
        .lossless = lossless,
        .patience = patience,
        .open = node_open,
    };
    struct storm *storm = storm_open(&conf, seed, 4321);
    storm_blow(storm, 400 * HM_MS, fault);
    uncut(storm);
    hm_world_run_for(storm->world, 125 * HM_S);
    assert_true(storm->succeeded > 100);
    uint64_t fast = 0, lost = 0, again = 0;
    for (unsigned i = 0; i < NODES; i++) {
        fast += node_metric(&storm->nodes[i].node, "rpc.fabric_expert");
        lost += node_metric(&storm->nodes[i].node, "rpc.fabric_lost");
        again += node_metric(&storm->nodes[i].node, "rpc.tcp_after_join");
    }
    assert_true(fast > 100 && lost > 0 && again > 0);
    return storm_close(storm);
}

static void run_seeds(bool lossless)
{
    for (uint64_t seed = 1; seed <= storm_seeds(); seed++) {
        print_message("seed %lu\n", (unsigned long)seed);
        run_storm(seed, lossless);
    }
}

static void
while_connections_hold_no_call_is_lost_or_handled_twice_whatever_the_fabric_does(void **state)
{
    (void)state;
    run_seeds(true);
}

static void when_both_break_every_call_still_ends_once(void **state)
{
    (void)state;
    run_seeds(false);
}

static void a_seed_replays(void **state)
{
    (void)state;
    uint64_t first = run_storm(7, true), again = run_storm(7, true), other = run_storm(8, true);
    print_message("trace of seed 7: %016llx\n", (unsigned long long)first);
    assert_true(first == again);
    assert_true(first != other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            while_connections_hold_no_call_is_lost_or_handled_twice_whatever_the_fabric_does),
        cmocka_unit_test(when_both_break_every_call_still_ends_once),
        cmocka_unit_test(a_seed_replays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
