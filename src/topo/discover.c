/* topo/discover.c - reads the machine, or a stored XML of one, into facts.
 *
 * Owns:   one hwloc topology, for the length of the call.
 * Happy:  load (with I/O objects) -> NUMA nodes with their allowed processors -> cores ->
 *         GPUs and network cards (devices.c).
 * Fails:  an XML that hwloc cannot read, or a machine none of whose processors we may use.
 * Keeps:  every allowed processor lies in exactly one node, and a node without any is no fact:
 *         memory of GPUs and of CXL cards has no processors, and high-bandwidth memory shares those
 *         of the DRAM beside it, which would make a second lane on the same cores. */
#include "base/assert.h"
#include "topo/cpuset.h"
#include "topo/devices.h"

#include <stdio.h>
#include <string.h>

/* Components that start an X connection, an OpenCL driver or another vendor's runtime only to find
 * names that we do not use; and libpciaccess, which never frees its table of devices: without it
 * hwloc reads the same from /sys.  hwloc ignores a name that is not built in. */
static void blacklist(hwloc_topology_t topology)
{
    static const char *const unused[] = {"gl", "opencl", "levelzero", "rsmi", "pci"};
    for (unsigned i = 0; i < HM_COUNT_OF(unused); i++)
        (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
                                            unused[i]);
}

static enum hm_status load(const char *xml, hwloc_topology_t *loaded)
{
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0)
        return hm_fail(HM_ERR_NO_MEMORY, "hwloc could not start: out of memory");
    blacklist(topology);
    (void)hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if ((xml && hwloc_topology_set_xml(topology, xml) != 0) || hwloc_topology_load(topology) != 0) {
        hwloc_topology_destroy(topology);
        if (!xml)
            return hm_fail(HM_ERR_INVALID,
                           "hwloc cannot read this machine's topology (is /sys mounted? is "
                           "HWLOC_XMLFILE set to an unreadable file?)");
        return hm_fail(
            HM_ERR_INVALID,
            "%s is no topology that hwloc %x can read; make it with `lstopo --of xml` of "
            "the same major version",
            xml, hwloc_get_api_version());
    }
    *loaded = topology;
    return HM_OK;
}

/* Processors that may be used: hwloc knows the cgroup's, the affinity mask is asked for here
 * (Slurm, mpirun and taskset set it), and only where the topology is that of the machine we run on.
 * Caller frees; NULL without memory. */
static hwloc_bitmap_t allowed_get(hwloc_topology_t topology)
{
    hwloc_bitmap_t allowed = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology));
    hwloc_bitmap_t bound = hwloc_bitmap_alloc();
    if (allowed && bound && hwloc_topology_is_thissystem(topology) &&
        hwloc_get_cpubind(topology, bound, HWLOC_CPUBIND_THREAD) == 0 &&
        hwloc_bitmap_intersects(allowed, bound))
        hwloc_bitmap_and(allowed, allowed, bound);
    hwloc_bitmap_free(bound);
    return allowed;
}

/* Moves the node's processors out of `left`, so that none is claimed twice. */
static void numa_add(struct hm_topo *topo, hwloc_obj_t object, hwloc_bitmap_t left)
{
    struct hm_topo_numa node = {.index = object->os_index};
    if (topo->numa_count == HM_NUMA_MAX) return;
    for (int cpu = hwloc_bitmap_first(object->cpuset); cpu >= 0 && cpu < HM_CPUS_MAX;
         cpu = hwloc_bitmap_next(object->cpuset, cpu)) {
        if (!hwloc_bitmap_isset(left, (unsigned)cpu)) continue;
        hwloc_bitmap_clr(left, (unsigned)cpu);
        cpuset_add(node.cpuset, (unsigned)cpu);
        node.cpu_count++;
    }
    if (node.cpu_count == 0) return;
    node.memory_bytes = object->attr->numanode.local_memory;
    topo->cpu_count += node.cpu_count;
    topo->numa[topo->numa_count++] = node;
}

/* Where hwloc shows no cores (some virtual machines), each processor is its own. */
static void cores_read(struct hm_topo *topo, hwloc_topology_t topology)
{
    uint64_t seen[HM_CPUS_MAX / 64] = {0};
    for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++) topo->core_of[cpu] = (uint16_t)cpu;
    for (hwloc_obj_t core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, NULL); core;
         core = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, core)) {
        int first = hwloc_bitmap_first(core->cpuset);
        for (int cpu = first; cpu >= 0 && cpu < HM_CPUS_MAX;
             cpu = hwloc_bitmap_next(core->cpuset, cpu))
            topo->core_of[cpu] = (uint16_t)first;
    }
    for (unsigned n = 0; n < topo->numa_count; n++) {
        struct hm_topo_numa *node = &topo->numa[n];
        for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++) {
            if (!cpuset_has(node->cpuset, cpu) || cpuset_has(seen, topo->core_of[cpu])) continue;
            cpuset_add(seen, topo->core_of[cpu]);
            node->core_count++;
        }
        topo->core_count += node->core_count;
    }
}

enum hm_status hm_topo_discover(const char *xml, struct hm_topo *topo)
{
    hwloc_topology_t topology;
    enum hm_status status = load(xml, &topology);
    if (status != HM_OK) return status;

    struct hm_topo facts;
    memset(&facts, 0, sizeof facts);
    hwloc_bitmap_t left = allowed_get(topology);
    if (!left) {
        status = hm_fail(HM_ERR_NO_MEMORY, "out of memory while reading the topology");
        goto destroy_topology;
    }
    for (hwloc_obj_t node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, NULL); node;
         node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node))
        numa_add(&facts, node, left);
    if (facts.cpu_count == 0) {
        status = hm_fail(HM_ERR_INVALID,
                         "%s has no processor below number %d that may be used here; check the "
                         "cpuset of this job",
                         xml ? xml : "this machine", HM_CPUS_MAX);
        goto free_left;
    }
    cores_read(&facts, topology);
    topo_devices_read(&facts, topology);
    *topo = facts;
free_left:
    hwloc_bitmap_free(left);
destroy_topology:
    hwloc_topology_destroy(topology);
    return status;
}
