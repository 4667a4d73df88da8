/* Facts of machines that are not here: synthetic ones, exported as XML, and a stored one with GPUs;
 * and of this machine as this process may use it. */
#include "test.h"

#include "base/assert.h"
#include "topo/topo.h"

#include <hwloc.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#define PCIE HM_SOURCE_DIR "/tests/fixtures/topo/pcie_4gpu.xml"
#define HGX  HM_SOURCE_DIR "/tests/fixtures/topo/hgx_8gpu.xml"

static char path[] = "/tmp/hm-topo-XXXXXX";
static struct hm_topo topo;

static int path_make(void **state)
{
    (void)state;
    unsetenv("CUDA_VISIBLE_DEVICES");
    int fd = mkstemp(path);
    return fd < 0 ? -1 : close(fd);
}

static int path_remove(void **state)
{
    (void)state;
    return unlink(path);
}

static void discover_synthetic(const char *description)
{
    hwloc_topology_t made;
    assert_int_equal(hwloc_topology_init(&made), 0);
    assert_int_equal(hwloc_topology_set_synthetic(made, description), 0);
    assert_int_equal(hwloc_topology_load(made), 0);
    assert_int_equal(hwloc_topology_export_xml(made, path, 0), 0);
    hwloc_topology_destroy(made);
    assert_ok(hm_topo_discover(path, &topo));
}

/* The stored machine with every `from` replaced by `to`, of the same length. */
static void discover_changed(const char *from, const char *to)
{
    static char text[200000];
    assert_int_equal(strlen(from), strlen(to));
    FILE *file = fopen(HGX, "r");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = 0;
    char *at = strstr(text, from);
    assert_non_null(at);
    for (; at; at = strstr(at, from)) memcpy(at, to, strlen(to));
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    assert_ok(hm_topo_discover(path, &topo));
}

static const char *cpus(unsigned numa)
{
    static char text[256];
    return hm_topo_cpuset_text(topo.numa[numa].cpuset, text, sizeof text);
}

static void nodes_and_cores_are_counted(void **state)
{
    (void)state;
    discover_synthetic("pack:2 [numa(memory=1GB)] core:4 pu:2");
    assert_int_equal(topo.numa_count, 2);
    assert_int_equal(topo.cpu_count, 16);
    assert_int_equal(topo.core_count, 8);
    assert_int_equal(topo.numa[1].cpu_count, 8);
    assert_int_equal(topo.numa[1].core_count, 4);
    assert_string_equal(cpus(1), "8-15");
    assert_int_equal(topo.core_of[11], 10);
    assert_true(topo.numa[0].memory_bytes >= 1000000000);
    assert_int_equal(topo.gpu_count, 0);
}

static void high_bandwidth_memory_beside_dram_is_no_second_node(void **state)
{
    (void)state;
    discover_synthetic("pack:2 [numa(memory=8GB)] [numa(memory=1GB)] core:4 pu:1");
    assert_int_equal(topo.numa_count, 2);
    assert_int_equal(topo.cpu_count, 8);
    assert_string_equal(cpus(0), "0-3");
    assert_string_equal(cpus(1), "4-7");
}

static void every_processor_lies_in_one_node_of_a_large_machine(void **state)
{
    (void)state;
    discover_synthetic("pack:8 [numa] core:64 pu:2");
    uint64_t seen[HM_CPUS_MAX / 64] = {0};
    assert_int_equal(topo.numa_count, 8);
    assert_int_equal(topo.cpu_count, 1024);
    for (unsigned n = 0; n < topo.numa_count; n++)
        for (unsigned i = 0; i < HM_COUNT_OF(seen); i++) {
            assert_true((seen[i] & topo.numa[n].cpuset[i]) == 0);
            seen[i] |= topo.numa[n].cpuset[i];
        }
    for (unsigned i = 0; i < HM_COUNT_OF(seen); i++) assert_true(seen[i] == UINT64_MAX);
}

static void processors_beyond_the_limit_are_left_out(void **state)
{
    (void)state;
    discover_synthetic("pack:3 [numa] core:500 pu:1");
    assert_int_equal(topo.cpu_count, HM_CPUS_MAX);
    assert_int_equal(topo.numa[2].cpu_count, 24);
}

static void gpus_are_found_with_their_node_and_bus(void **state)
{
    (void)state;
    assert_ok(hm_topo_discover(HGX, &topo));
    assert_int_equal(topo.gpu_count, 8);
    assert_int_equal(topo.numa_count, 2);
    assert_string_equal(cpus(0), "0-55,112-167");
    for (unsigned g = 0; g < 8; g++) {
        char name[16];
        snprintf(name, sizeof name, "cuda%u", g);
        assert_string_equal(topo.gpu[g].name, name);
        assert_int_equal(topo.gpu[g].numa, g / 4);
    }
    assert_string_equal(topo.gpu[5].pci, "0000:b2:00.0");
}

static void gpus_are_found_by_their_pci_class_where_hwloc_knows_no_cuda(void **state)
{
    (void)state;
    discover_changed("name=\"cuda", "name=\"what");
    assert_int_equal(topo.gpu_count, 8);
    assert_string_equal(topo.gpu[7].name, "cuda7");
    assert_string_equal(topo.gpu[7].pci, "0000:f2:00.0");
    assert_int_equal(topo.gpu[7].numa, 1);
}

static void only_allowed_processors_are_facts_and_gpus_stay(void **state)
{
    (void)state;
    /* Processors 56 to 59, of the second socket. */
    discover_changed("allowed_cpuset=\"0xffffffff,0xffffffff,0xffffffff,0xffffffff,0xffffffff,"
                     "0xffffffff,0xffffffff\"",
                     "allowed_cpuset=\"0x00000000,0x00000000,0x00000000,0x00000000,0x00000000,"
                     "0x0f000000,0x00000000\"");
    assert_int_equal(topo.numa_count, 1);
    assert_int_equal(topo.numa[0].index, 1);
    assert_string_equal(cpus(0), "56-59");
    assert_int_equal(topo.core_count, 4);
    assert_int_equal(topo.gpu_count, 8);
    for (unsigned g = 0; g < 8; g++) assert_int_equal(topo.gpu[g].numa, 0);
}

static void this_machine_is_read_as_the_thread_may_use_it(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_ok(hm_topo_discover(NULL, &topo));
    assert_int_equal(topo.cpu_count, CPU_COUNT(&all));
    unsigned cpu = 0, last = 0;
    for (; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) last = cpu;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    enum hm_status status = hm_topo_discover(NULL, &topo);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
    assert_ok(status);
    assert_int_equal(topo.cpu_count, 1);
    assert_int_equal(topo.numa_count, 1);
    assert_true(topo.numa[0].cpuset[last / 64] == UINT64_C(1) << (last % 64));
}

static void each_gpu_of_a_switch_has_the_card_beside_it(void **state)
{
    (void)state;
    assert_ok(hm_topo_discover(HGX, &topo));
    assert_int_equal(topo.nic_count, 8);
    for (unsigned g = 0; g < 8; g++) {
        assert_int_equal(topo.gpu[g].nic, g);
        assert_int_equal(topo.nic[g].numa, g / 4);
        assert_int_equal(topo.nic[g].port, 1);
    }
    assert_string_equal(topo.nic[5].name, "mlx5_5");
    assert_string_equal(topo.nic[5].pci, "0000:b3:00.0");
}

static void cards_as_near_as_each_other_are_shared_out_and_one_that_is_down_is_left(void **state)
{
    (void)state;
    unsigned users[3] = {0};
    assert_ok(hm_topo_discover(PCIE, &topo));
    assert_int_equal(topo.gpu_count, 4);
    assert_int_equal(topo.nic_count, 3);
    assert_int_equal(topo.nic[2].port, 0);
    for (unsigned g = 0; g < 4; g++) {
        assert_in_range(topo.gpu[g].nic, 0, 1);
        users[topo.gpu[g].nic]++;
    }
    assert_int_equal(users[0], 2);
    assert_int_equal(users[1], 2);
}

/* The stored machine under CUDA_VISIBLE_DEVICES; the PCI buses of what is left, in order. */
static const char *visible(const char *xml, const char *list)
{
    static char buses[HM_GPUS_MAX * 4];
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", list, 1), 0);
    enum hm_status status = hm_topo_discover(xml, &topo);
    unsetenv("CUDA_VISIBLE_DEVICES");
    assert_ok(status);
    buses[0] = 0;
    for (unsigned g = 0; g < topo.gpu_count; g++) {
        char name[16];
        snprintf(name, sizeof name, "cuda%u", g);
        assert_string_equal(topo.gpu[g].name, name);
        const char *bus = topo.gpu[g].pci[0] ? topo.gpu[g].pci + 5 : "??";
        size_t used = strlen(buses);
        snprintf(buses + used, sizeof buses - used, "%.2s ", bus);
    }
    return buses;
}

static void cuda_visible_devices_picks_orders_and_renames(void **state)
{
    (void)state;
    assert_string_equal(visible(HGX, "6,2"), "d2 52 ");
    assert_int_equal(topo.gpu[0].numa, 1);
    assert_int_equal(topo.gpu[0].nic, 6);
    assert_int_equal(topo.gpu[1].numa, 0);
    assert_string_equal(visible(HGX, "0,1,2,3"), "12 32 52 72 ");
    assert_string_equal(visible(HGX, "7, 0"), "f2 12 ");
    assert_string_equal(visible(HGX, ""), "");
    assert_string_equal(visible(HGX, "NoDevFiles"), "");
}

static void what_is_no_gpu_or_comes_again_ends_the_list_as_in_cuda(void **state)
{
    (void)state;
    assert_string_equal(visible(HGX, "1,8,2"), "32 ");
    assert_string_equal(visible(HGX, "-1,2"), "");
    assert_string_equal(visible(HGX, "1,1,2"), "32 ");
    assert_string_equal(visible(HGX, "1,,2"), "32 ");
    assert_string_equal(visible(HGX, "99999999999999999999"), "");
}

static void gpus_named_by_uuid_are_looked_up_or_have_no_place(void **state)
{
    (void)state;
    assert_string_equal(visible(PCIE, "GPU-c0000002,GPU-a0000000-0000-1111-2222-333333333333"),
                        "13 11 ");
    assert_string_equal(visible(PCIE, "GPU-a,GPU-ffff"), "11 ");
    assert_string_equal(visible(PCIE, "GPU-"), "");
    assert_string_equal(visible(HGX, "GPU-c0000002,MIG-7"), "?? ?? ");
    assert_int_equal(topo.gpu[1].nic, HM_NIC_NONE);
}

static void an_unreadable_xml_is_refused_by_name_and_nothing_is_written(void **state)
{
    (void)state;
    memset(&topo, 0x5a, sizeof topo);
    struct hm_topo before = topo;
    assert_status(hm_topo_discover("/nonexistent/machine.xml", &topo), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), "/nonexistent/machine.xml"));
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("<topology version=\"2.0\"><object type=\"Machine\"", file);
    fclose(file);
    assert_status(hm_topo_discover(path, &topo), HM_ERR_INVALID);
    assert_non_null(strstr(hm_fail_line(), path));
    assert_memory_equal(&before, &topo, sizeof topo);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nodes_and_cores_are_counted),
        cmocka_unit_test(high_bandwidth_memory_beside_dram_is_no_second_node),
        cmocka_unit_test(every_processor_lies_in_one_node_of_a_large_machine),
        cmocka_unit_test(processors_beyond_the_limit_are_left_out),
        cmocka_unit_test(gpus_are_found_with_their_node_and_bus),
        cmocka_unit_test(gpus_are_found_by_their_pci_class_where_hwloc_knows_no_cuda),
        cmocka_unit_test(only_allowed_processors_are_facts_and_gpus_stay),
        cmocka_unit_test(this_machine_is_read_as_the_thread_may_use_it),
        cmocka_unit_test(each_gpu_of_a_switch_has_the_card_beside_it),
        cmocka_unit_test(cards_as_near_as_each_other_are_shared_out_and_one_that_is_down_is_left),
        cmocka_unit_test(cuda_visible_devices_picks_orders_and_renames),
        cmocka_unit_test(what_is_no_gpu_or_comes_again_ends_the_list_as_in_cuda),
        cmocka_unit_test(gpus_named_by_uuid_are_looked_up_or_have_no_place),
        cmocka_unit_test(an_unreadable_xml_is_refused_by_name_and_nothing_is_written),
    };
    return cmocka_run_group_tests(tests, path_make, path_remove);
}
