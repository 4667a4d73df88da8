/* Plans from facts that are written down here: the planner is a pure function. */
#include "test.h"

#include "base/assert.h"
#include "base/rng.h"
#include "topo/topo.h"

static struct hm_topo topo;
static struct hm_topo_plan plan;

/* Nodes of `cores` cores; the second threads of all cores come after all first ones, as Linux
 * numbers them. */
static void machine(unsigned nodes, unsigned cores, unsigned threads, unsigned gpus)
{
    memset(&topo, 0, sizeof topo);
    topo.numa_count = nodes;
    topo.gpu_count = gpus;
    topo.cpu_count = nodes * cores * threads;
    topo.core_count = nodes * cores;
    for (unsigned cpu = 0; cpu < topo.cpu_count; cpu++) {
        unsigned core = cpu % topo.core_count;
        struct hm_topo_numa *node = &topo.numa[core / cores];
        node->cpuset[cpu / 64] |= UINT64_C(1) << (cpu % 64);
        topo.core_of[cpu] = (uint16_t)core;
    }
    for (unsigned n = 0; n < nodes; n++) {
        topo.numa[n].index = n;
        topo.numa[n].cpu_count = cores * threads;
        topo.numa[n].core_count = cores;
    }
    for (unsigned g = 0; g < gpus; g++) {
        memcpy(topo.gpu[g].name, "cuda0", 6);
        topo.gpu[g].name[4] = (char)('0' + g);
        topo.gpu[g].numa = g * nodes / gpus;
        topo.gpu[g].nic = HM_NIC_NONE;
    }
}

static void card(unsigned numa, unsigned port, const char *name)
{
    struct hm_topo_nic *nic = &topo.nic[topo.nic_count++];
    strcpy(nic->name, name);
    nic->numa = numa;
    nic->port = port;
}

static void wish(struct hm_topo_wish wish)
{
    assert_ok(hm_topo_plan(&topo, &wish, &plan));
}

static void refused(struct hm_topo_wish wish, const char *line)
{
    memset(&plan, 0x5a, sizeof plan);
    struct hm_topo_plan before = plan;
    assert_status(hm_topo_plan(&topo, &wish, &plan), HM_ERR_INVALID);
    if (!strstr(hm_fail_line(), line)) fail_msg("\"%s\" lacks \"%s\"", hm_fail_line(), line);
    assert_memory_equal(&before, &plan, sizeof plan);
}

static const char *cpus(const struct hm_place *place)
{
    static char text[4][256];
    static unsigned next;
    next = (next + 1) % 4;
    return hm_topo_cpuset_text(place->cpuset, text[next], sizeof text[next]);
}

static void one_cpu_lane_a_node_with_all_its_processors(void **state)
{
    (void)state;
    machine(2, 4, 2, 0);
    wish((struct hm_topo_wish){.device = "auto", .lane_nice = 5});
    assert_int_equal(plan.lane_count, 2);
    assert_string_equal(plan.lane[0].device, "cpu");
    assert_string_equal(cpus(&plan.lane[0].place), "0-3,8-11");
    assert_string_equal(cpus(&plan.lane[1].place), "4-7,12-15");
    assert_int_equal(plan.lane[1].numa, 1);
    assert_int_equal(plan.lane[1].team, 8);
    assert_int_equal(plan.lane[1].place.cpu_count, 8);
    assert_int_equal(plan.lane[1].place.nice, 5);
    assert_string_equal(plan.lane[1].place.name, "hm-lane1");
}

static void loop_and_io_float_over_what_lanes_have(void **state)
{
    (void)state;
    machine(2, 4, 2, 2);
    wish((struct hm_topo_wish){.lane_nice = 5});
    assert_string_equal(cpus(&plan.loop), "0-15");
    assert_int_equal(plan.loop.cpu_count, 16);
    assert_int_equal(plan.loop.nice, 0);
    assert_string_equal(cpus(&plan.io), "0-15");
    wish((struct hm_topo_wish){.device = "cuda1", .gpus = true});
    assert_string_equal(cpus(&plan.loop), "4-7,12-15");
    assert_string_equal(plan.loop.name, "hm-loop");
    assert_string_equal(plan.io.name, "hm-io");
}

static void lane_threads_limits_the_team_and_not_the_place(void **state)
{
    (void)state;
    machine(2, 4, 2, 0);
    wish((struct hm_topo_wish){.device = "cpu", .lane_threads = 3});
    assert_int_equal(plan.lane[0].team, 3);
    assert_int_equal(plan.lane[0].place.cpu_count, 8);
    refused((struct hm_topo_wish){.device = "cpu", .lane_threads = 9}, "has 8 processors");
}

static void more_lanes_than_nodes_cut_between_cores(void **state)
{
    (void)state;
    machine(2, 4, 2, 0);
    wish((struct hm_topo_wish){.cpu_lanes = 4});
    assert_string_equal(cpus(&plan.lane[0].place), "0-1,8-9"); /* whole cores: both threads */
    assert_string_equal(cpus(&plan.lane[1].place), "2-3,10-11");
    assert_string_equal(cpus(&plan.lane[3].place), "6-7,14-15");
    wish((struct hm_topo_wish){.cpu_lanes = 3});
    assert_string_equal(cpus(&plan.lane[0].place), "0-3,8-11");
    assert_string_equal(cpus(&plan.lane[2].place), "6-7,14-15");
}

static void more_lanes_than_cores_cut_cores_and_more_than_processors_are_refused(void **state)
{
    (void)state;
    machine(1, 2, 2, 0);
    wish((struct hm_topo_wish){.cpu_lanes = 4});
    for (unsigned i = 0; i < 4; i++) assert_int_equal(plan.lane[i].place.cpu_count, 1);
    refused((struct hm_topo_wish){.cpu_lanes = 5}, "wish for fewer");
    refused((struct hm_topo_wish){.cpu_lanes = HM_LANES_MAX + 1}, "at most 16");
}

static void fewer_lanes_than_nodes_join_neighbours(void **state)
{
    (void)state;
    machine(5, 2, 1, 0);
    wish((struct hm_topo_wish){.cpu_lanes = 2});
    assert_string_equal(cpus(&plan.lane[0].place), "0-3");
    assert_string_equal(cpus(&plan.lane[1].place), "4-9");
    machine(64, 16, 1, 0); /* more nodes than lanes are possible */
    wish((struct hm_topo_wish){0});
    assert_int_equal(plan.lane_count, HM_LANES_MAX);
    assert_int_equal(plan.lane[15].place.cpu_count, 64);
}

static void gpus_get_lanes_only_where_a_module_can_use_them(void **state)
{
    (void)state;
    machine(2, 56, 2, 8);
    wish((struct hm_topo_wish){.device = "auto"});
    assert_string_equal(plan.lane[0].device, "cpu");
    wish((struct hm_topo_wish){.device = "auto", .gpus = true});
    assert_int_equal(plan.lane_count, 8);
    assert_string_equal(plan.lane[5].device, "cuda5");
    assert_int_equal(plan.lane[5].numa, 1);
    assert_int_equal(plan.lane[5].team, 1);
    assert_string_equal(cpus(&plan.lane[5].place), "56-111,168-223");
    wish((struct hm_topo_wish){.device = "cpu", .gpus = true});
    assert_string_equal(plan.lane[0].device, "cpu");
    refused((struct hm_topo_wish){.device = "cuda0"}, "no module");
}

static void a_device_that_is_not_there_is_refused_with_those_that_are(void **state)
{
    (void)state;
    machine(2, 4, 1, 4);
    wish((struct hm_topo_wish){.device = "cuda3", .gpus = true});
    assert_int_equal(plan.lane_count, 1);
    assert_string_equal(plan.lane[0].device, "cuda3");
    refused((struct hm_topo_wish){.device = "cuda4", .gpus = true}, "cuda0 to cuda3");
    machine(2, 4, 1, 0);
    refused((struct hm_topo_wish){.device = "cuda0", .gpus = true}, "shows no GPU");
    wish((struct hm_topo_wish){.device = "auto", .gpus = true});
    assert_string_equal(plan.lane[0].device, "cpu");
}

static void a_single_processor_is_enough(void **state)
{
    (void)state;
    machine(1, 1, 1, 0);
    wish((struct hm_topo_wish){0});
    assert_int_equal(plan.lane_count, 1);
    assert_int_equal(plan.lane[0].team, 1);
    assert_string_equal(cpus(&plan.loop), "0");
}

/* Removes processors as a cgroup does, whole cores or single threads, but leaves each node one. */
static void restrict_at_random(struct hm_rng *rng)
{
    topo.cpu_count = topo.core_count = 0;
    for (unsigned n = 0; n < topo.numa_count; n++) {
        struct hm_topo_numa *node = &topo.numa[n];
        uint64_t cores[HM_CPUS_MAX / 64] = {0};
        unsigned count = 0, core_count = 0;
        for (unsigned cpu = HM_CPUS_MAX; cpu-- > 0;) {
            if (!(node->cpuset[cpu / 64] >> (cpu % 64) & 1)) continue;
            if (count > 0 && hm_rng_below(rng, 3) == 0) {
                node->cpuset[cpu / 64] &= ~(UINT64_C(1) << (cpu % 64));
                continue;
            }
            unsigned core = topo.core_of[cpu];
            core_count += !(cores[core / 64] >> (core % 64) & 1);
            cores[core / 64] |= UINT64_C(1) << (core % 64);
            count++;
        }
        node->cpu_count = count;
        node->core_count = core_count;
        topo.cpu_count += count;
        topo.core_count += core_count;
    }
}

static void lanes_share_nothing_and_leave_nothing_on_any_machine(void **state)
{
    (void)state;
    struct hm_rng rng;
    hm_rng_init(&rng, 9, 0);
    unsigned planned = 0;
    for (unsigned round = 0; round < 500; round++) {
        machine(1 + (unsigned)hm_rng_below(&rng, 8), 1 + (unsigned)hm_rng_below(&rng, 40),
                1 + (unsigned)hm_rng_below(&rng, 2), 0);
        restrict_at_random(&rng);
        struct hm_topo_wish wanted = {.cpu_lanes = (unsigned)hm_rng_below(&rng, HM_LANES_MAX + 1)};
        if (hm_topo_plan(&topo, &wanted, &plan) != HM_OK) continue;
        planned++;
        if (wanted.cpu_lanes) assert_int_equal(plan.lane_count, wanted.cpu_lanes);
        uint64_t seen[HM_CPUS_MAX / 64] = {0};
        unsigned count = 0;
        for (unsigned i = 0; i < plan.lane_count; i++) {
            const struct hm_place *place = &plan.lane[i].place;
            assert_true(place->cpu_count > 0 && plan.lane[i].team == place->cpu_count);
            count += place->cpu_count;
            for (unsigned w = 0; w < HM_COUNT_OF(seen); w++) {
                assert_true((seen[w] & place->cpuset[w]) == 0);
                seen[w] |= place->cpuset[w];
            }
        }
        assert_int_equal(count, topo.cpu_count);
        assert_memory_equal(seen, plan.loop.cpuset, sizeof seen);
    }
    assert_true(planned > 300);
}

static void lanes_use_cards_of_their_nodes_in_turn(void **state)
{
    (void)state;
    machine(2, 4, 1, 0);
    card(0, 1, "ib0");
    card(1, 0, "down");
    card(1, 2, "ib2");
    card(1, 1, "ib3");
    wish((struct hm_topo_wish){.cpu_lanes = 4});
    assert_int_equal(plan.lane[0].nic, 0);
    assert_int_equal(plan.lane[1].nic, 0);
    assert_int_equal(plan.lane[2].nic, 2);
    assert_int_equal(plan.lane[3].nic, 3);
    assert_string_equal(plan.net_devices, "ib0:1,ib2:2,ib3:1");
}

static void a_node_without_a_card_uses_any_and_a_machine_without_leaves_it_to_ucx(void **state)
{
    (void)state;
    machine(2, 4, 1, 0);
    wish((struct hm_topo_wish){0});
    assert_int_equal(plan.lane[0].nic, HM_NIC_NONE);
    assert_string_equal(plan.net_devices, "");
    card(1, 1, "ib0");
    wish((struct hm_topo_wish){0});
    assert_int_equal(plan.lane[0].nic, 0);
    assert_int_equal(plan.lane[1].nic, 0);
    assert_string_equal(plan.net_devices, "ib0:1");
}

static void a_gpus_lane_uses_its_gpus_card_whatever_its_node(void **state)
{
    (void)state;
    machine(2, 4, 1, 2);
    card(1, 1, "ib0");
    card(0, 1, "ib1");
    topo.gpu[0].nic = 0;
    topo.gpu[1].nic = 1;
    wish((struct hm_topo_wish){.device = "cuda0", .gpus = true});
    assert_int_equal(plan.lane[0].nic, 0);
    assert_string_equal(plan.net_devices, "ib0:1");
}

static void memory_is_that_of_the_lanes_nodes_shared_by_those_on_it(void **state)
{
    (void)state;
    machine(4, 2, 1, 4);
    for (unsigned n = 0; n < 4; n++) topo.numa[n].memory_bytes = 1000 * (n + 1);
    wish((struct hm_topo_wish){.device = "cpu", .cpu_lanes = 2});
    assert_int_equal(plan.lane[0].memory_nodes, 0x3);
    assert_int_equal(plan.lane[0].memory_bytes, 3000);
    assert_int_equal(plan.lane[1].memory_nodes, 0xc);
    assert_int_equal(plan.lane[1].memory_bytes, 7000);
    wish((struct hm_topo_wish){.device = "cpu", .cpu_lanes = 8});
    assert_int_equal(plan.lane[7].memory_nodes, 0x8);
    assert_int_equal(plan.lane[7].memory_bytes, 2000);
    topo.gpu[3].numa = 2;
    wish((struct hm_topo_wish){.device = "auto", .gpus = true});
    assert_int_equal(plan.lane[1].memory_bytes, 2000);
    assert_int_equal(plan.lane[3].memory_nodes, 0x4);
    assert_int_equal(plan.lane[3].memory_bytes, 1500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_cpu_lane_a_node_with_all_its_processors),
        cmocka_unit_test(loop_and_io_float_over_what_lanes_have),
        cmocka_unit_test(lane_threads_limits_the_team_and_not_the_place),
        cmocka_unit_test(more_lanes_than_nodes_cut_between_cores),
        cmocka_unit_test(more_lanes_than_cores_cut_cores_and_more_than_processors_are_refused),
        cmocka_unit_test(fewer_lanes_than_nodes_join_neighbours),
        cmocka_unit_test(gpus_get_lanes_only_where_a_module_can_use_them),
        cmocka_unit_test(a_device_that_is_not_there_is_refused_with_those_that_are),
        cmocka_unit_test(a_single_processor_is_enough),
        cmocka_unit_test(lanes_use_cards_of_their_nodes_in_turn),
        cmocka_unit_test(a_node_without_a_card_uses_any_and_a_machine_without_leaves_it_to_ucx),
        cmocka_unit_test(a_gpus_lane_uses_its_gpus_card_whatever_its_node),
        cmocka_unit_test(memory_is_that_of_the_lanes_nodes_shared_by_those_on_it),
        cmocka_unit_test(lanes_share_nothing_and_leave_nothing_on_any_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
