/* topo/plan.c - facts and wishes -> a placement plan.  Pure: no system call, no allocation.
 *
 * Happy:  a lane for each GPU, or for each NUMA node; then a place for the loop and for I/O, and
 *         the network cards.
 * Fails:  a wish that the machine cannot fulfil is refused with the figure that would do.
 * Keeps:  CPU lanes share no processor, none is empty, together they have all allowed ones. */
#include "base/assert.h"
#include "topo/cpuset.h"
#include "topo/topo.h"

#include <stdio.h>
#include <string.h>

/* Places point at their names, and plans are copied: so the names are static. */
static const char *const lane_name[HM_LANES_MAX] = {
    "hm-lane0",  "hm-lane1",  "hm-lane2",  "hm-lane3",  "hm-lane4",  "hm-lane5",
    "hm-lane6",  "hm-lane7",  "hm-lane8",  "hm-lane9",  "hm-lane10", "hm-lane11",
    "hm-lane12", "hm-lane13", "hm-lane14", "hm-lane15",
};

static struct hm_topo_lane *lane_add(struct hm_topo_plan *plan, const char *device, unsigned numa,
                                     int nice)
{
    struct hm_topo_lane *lane = &plan->lane[plan->lane_count];
    snprintf(lane->device, sizeof lane->device, "%s", device);
    lane->numa = numa;
    lane->nic = HM_NIC_NONE;
    lane->place.nice = nice;
    lane->place.name = lane_name[plan->lane_count++];
    return lane;
}

/* `parts` lanes share the node. */
static void lane_memory(const struct hm_topo *topo, struct hm_topo_lane *lane, unsigned numa,
                        unsigned parts)
{
    lane->memory_nodes |= UINT64_C(1) << numa;
    lane->memory_bytes += topo->numa[numa].memory_bytes / parts;
}

static void lane_finish(struct hm_topo_lane *lane, unsigned threads_max)
{
    lane->place.cpu_count = cpuset_count(lane->place.cpuset);
    lane->team = lane->place.cpu_count;
    if (threads_max > 0 && threads_max < lane->team) lane->team = threads_max;
}

/* Share `part` of `parts` of the node: whole cores with all their processors, or single processors
 * where the node has fewer cores than parts. */
static void node_share(const struct hm_topo *topo, const struct hm_topo_numa *node, unsigned part,
                       unsigned parts, uint64_t *cpuset)
{
    bool by_core = node->core_count >= parts;
    unsigned units = by_core ? node->core_count : node->cpu_count, unit_next = 0;
    unsigned first = part * units / parts, end = (part + 1) * units / parts;
    uint64_t seen[HM_CPUS_MAX / 64] = {0};
    uint16_t unit_of[HM_CPUS_MAX] = {0};
    for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++) {
        if (!cpuset_has(node->cpuset, cpu)) continue;
        unsigned key = by_core ? topo->core_of[cpu] : cpu;
        if (!cpuset_has(seen, key)) unit_of[key] = (uint16_t)unit_next++;
        cpuset_add(seen, key);
        if (unit_of[key] >= first && unit_of[key] < end) cpuset_add(cpuset, cpu);
    }
    HM_ASSERT(unit_next == units);
}

static unsigned team_max(const struct hm_topo_plan *plan)
{
    unsigned most = 0;
    for (unsigned i = 0; i < plan->lane_count; i++)
        if (plan->lane[i].place.cpu_count > most) most = plan->lane[i].place.cpu_count;
    return most;
}

/* n lanes over m nodes.  n <= m: lane i joins the nodes [i m / n, (i + 1) m / n).
 * n > m: node k is cut between the lanes [k n / m, (k + 1) n / m). */
static enum hm_status cpu_lanes(const struct hm_topo *topo, const struct hm_topo_wish *wish,
                                struct hm_topo_plan *plan)
{
    unsigned nodes = topo->numa_count, lanes = wish->cpu_lanes;
    if (lanes == 0) lanes = nodes < HM_LANES_MAX ? nodes : HM_LANES_MAX;
    if (lanes > HM_LANES_MAX)
        return hm_fail(HM_ERR_INVALID, "%u CPU lanes are wished, at most %d are possible", lanes,
                       HM_LANES_MAX);
    for (unsigned k = 0; lanes <= nodes && k < lanes; k++) {
        unsigned first = k * nodes / lanes, end = (k + 1) * nodes / lanes;
        struct hm_topo_lane *lane = lane_add(plan, "cpu", first, wish->lane_nice);
        for (unsigned n = first; n < end; n++) {
            cpuset_unite(lane->place.cpuset, topo->numa[n].cpuset);
            lane_memory(topo, lane, n, 1);
        }
        lane_finish(lane, wish->lane_threads);
    }
    for (unsigned n = 0; lanes > nodes && n < nodes; n++) {
        unsigned parts = (n + 1) * lanes / nodes - n * lanes / nodes;
        if (parts > topo->numa[n].cpu_count)
            return hm_fail(
                HM_ERR_INVALID,
                "%u CPU lanes are wished, but NUMA node %u has %u processors for its %u; "
                "wish for fewer",
                lanes, topo->numa[n].index, topo->numa[n].cpu_count, parts);
        for (unsigned part = 0; part < parts; part++) {
            struct hm_topo_lane *lane = lane_add(plan, "cpu", n, wish->lane_nice);
            node_share(topo, &topo->numa[n], part, parts, lane->place.cpuset);
            lane_memory(topo, lane, n, parts);
            lane_finish(lane, wish->lane_threads);
        }
    }
    if (wish->lane_threads > team_max(plan))
        return hm_fail(HM_ERR_INVALID,
                       "%u threads a lane are wished, but the largest lane has %u processors here",
                       wish->lane_threads, team_max(plan));
    return HM_OK;
}

static enum hm_status gpu_lanes(const struct hm_topo *topo, const struct hm_topo_wish *wish,
                                bool all, struct hm_topo_plan *plan)
{
    for (unsigned g = 0; g < topo->gpu_count && plan->lane_count < HM_LANES_MAX; g++) {
        const struct hm_topo_gpu *gpu = &topo->gpu[g];
        if (!all && strcmp(gpu->name, wish->device) != 0) continue;
        struct hm_topo_lane *lane = lane_add(plan, gpu->name, gpu->numa, wish->lane_nice);
        cpuset_unite(lane->place.cpuset, topo->numa[gpu->numa].cpuset);
        lane->memory_nodes = UINT64_C(1) << gpu->numa;
        lane->nic = gpu->nic;
        lane_finish(lane, 1);
    }
    for (unsigned i = 0; i < plan->lane_count; i++) {
        unsigned parts = 0;
        for (unsigned j = 0; j < plan->lane_count; j++)
            parts += plan->lane[j].numa == plan->lane[i].numa;
        plan->lane[i].memory_bytes = topo->numa[plan->lane[i].numa].memory_bytes / parts;
    }
    if (plan->lane_count > 0) return HM_OK;
    if (topo->gpu_count == 0)
        return hm_fail(HM_ERR_INVALID,
                       "device %s is wished, but this machine shows no GPU; use cpu", wish->device);
    return hm_fail(HM_ERR_INVALID, "device %s is not on this machine; it has cpu and %s to %s",
                   wish->device, topo->gpu[0].name, topo->gpu[topo->gpu_count - 1].name);
}

/* ---- network cards ----------------------------------------------------------------------------- */

/* Of the cards that are up, one of the lane's nodes if there is any, and of those the one that the
 * fewest lanes use. */
static int nic_for(const struct hm_topo *topo, const struct hm_topo_plan *plan,
                   const struct hm_topo_lane *lane)
{
    int best = HM_NIC_NONE;
    unsigned best_cost = 0;
    for (unsigned i = 0; i < topo->nic_count; i++) {
        if (topo->nic[i].port == 0) continue;
        bool near = (lane->memory_nodes >> topo->nic[i].numa & 1) != 0;
        unsigned cost = near ? 0 : HM_LANES_MAX + 1;
        for (unsigned j = 0; j < plan->lane_count; j++) cost += plan->lane[j].nic == (int)i;
        if (best != HM_NIC_NONE && cost >= best_cost) continue;
        best = (int)i;
        best_cost = cost;
    }
    return best;
}

static void nics_plan(const struct hm_topo *topo, struct hm_topo_plan *plan)
{
    for (unsigned i = 0; i < plan->lane_count; i++)
        if (plan->lane[i].nic == HM_NIC_NONE)
            plan->lane[i].nic = nic_for(topo, plan, &plan->lane[i]);
    size_t used = 0;
    for (unsigned n = 0; n < topo->nic_count; n++) {
        bool wanted = false;
        for (unsigned i = 0; i < plan->lane_count; i++)
            wanted = wanted || plan->lane[i].nic == (int)n;
        if (!wanted) continue;
        int wrote = snprintf(plan->net_devices + used, sizeof plan->net_devices - used, "%s%s:%u",
                             used ? "," : "", topo->nic[n].name, topo->nic[n].port);
        if (wrote < 0 || (size_t)wrote >= sizeof plan->net_devices - used) {
            plan->net_devices[used] = 0; /* whole names only */
            return;
        }
        used += (size_t)wrote;
    }
}

enum hm_status hm_topo_plan(const struct hm_topo *topo, const struct hm_topo_wish *wish,
                            struct hm_topo_plan *plan)
{
    HM_ASSERT(topo->numa_count > 0);
    struct hm_topo_plan made;
    memset(&made, 0, sizeof made);
    const char *device = wish->device ? wish->device : "auto";
    bool automatic = strcmp(device, "auto") == 0;
    enum hm_status status;
    if (strcmp(device, "cpu") == 0 || (automatic && !(wish->gpus && topo->gpu_count > 0)))
        status = cpu_lanes(topo, wish, &made);
    else if (!wish->gpus)
        status =
            hm_fail(HM_ERR_INVALID,
                    "device %s is wished, but no module for GPUs is loaded here; use cpu", device);
    else
        status = gpu_lanes(topo, wish, automatic, &made);
    if (status != HM_OK) return status;

    for (unsigned i = 0; i < made.lane_count; i++)
        cpuset_unite(made.loop.cpuset, made.lane[i].place.cpuset);
    made.loop.cpu_count = cpuset_count(made.loop.cpuset);
    made.io = made.loop;
    nics_plan(topo, &made);
    made.loop.name = "hm-loop";
    made.io.name = "hm-io";
    *plan = made;
    return HM_OK;
}
