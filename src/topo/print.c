/* topo/print.c - machine and plan for people: a drawing, a table, and the reasons in words. */
#include "topo/cpuset.h"
#include "topo/topo.h"

#include <string.h>

enum { CPUSET_TEXT_BYTES = 512 };

static double gib(uint64_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

static const char *many(unsigned count)
{
    return count == 1 ? "" : "s";
}

static void draw_node(const struct hm_topo *topo, unsigned n, FILE *to)
{
    char text[CPUSET_TEXT_BYTES];
    const struct hm_topo_numa *node = &topo->numa[n];
    fprintf(to, "+- NUMA node %u: %u core%s, processors %s, %.1f GiB\n", node->index,
            node->core_count, many(node->core_count),
            hm_topo_cpuset_text(node->cpuset, text, sizeof text), gib(node->memory_bytes));
    for (unsigned g = 0; g < topo->gpu_count; g++) {
        const struct hm_topo_gpu *gpu = &topo->gpu[g];
        if (gpu->numa != n) continue;
        fprintf(to, "|  +- GPU %-6s %-12s", gpu->name, gpu->pci[0] ? gpu->pci : "(place unknown)");
        if (gpu->nic != HM_NIC_NONE) fprintf(to, "  nearest card %s", topo->nic[gpu->nic].name);
        fputc('\n', to);
    }
    for (unsigned i = 0; i < topo->nic_count; i++) {
        const struct hm_topo_nic *nic = &topo->nic[i];
        if (nic->numa != n) continue;
        fprintf(to, "|  +- card %-6s %s", nic->name, nic->pci);
        fprintf(to, nic->port ? "  port %u\n" : "  (down)\n", nic->port);
    }
}

static void print_place(const char *what, const struct hm_place *place, FILE *to)
{
    char text[CPUSET_TEXT_BYTES];
    fprintf(to, "  %-9s %-7s %6s  %s\n", place->name, what, "-",
            hm_topo_cpuset_text(place->cpuset, text, sizeof text));
}

static void print_table(const struct hm_topo *topo, const struct hm_topo_plan *plan, FILE *to)
{
    char text[CPUSET_TEXT_BYTES];
    fprintf(to, "\n  %-9s %-7s %6s  %-24s %-10s %s\n", "thread", "device", "team", "processors",
            "memory", "card");
    for (unsigned i = 0; i < plan->lane_count; i++) {
        const struct hm_topo_lane *lane = &plan->lane[i];
        char nodes[32] = "node";
        size_t used = 4;
        for (unsigned n = 0; n < topo->numa_count && used < sizeof nodes - 6; n++)
            if (lane->memory_nodes >> n & 1)
                used +=
                    (size_t)snprintf(nodes + used, sizeof nodes - used, " %u", topo->numa[n].index);
        fprintf(to, "  %-9s %-7s %6u  %-24s %-10s %s\n", lane->place.name, lane->device, lane->team,
                hm_topo_cpuset_text(lane->place.cpuset, text, sizeof text), nodes,
                lane->nic == HM_NIC_NONE ? "-" : topo->nic[lane->nic].name);
    }
    print_place("network", &plan->loop, to);
    print_place("files", &plan->io, to);
}

static void explain_lanes(const struct hm_topo *topo, const struct hm_topo_plan *plan, FILE *to)
{
    const struct hm_topo_lane *first = &plan->lane[0];
    unsigned lanes = plan->lane_count;
    if (strcmp(first->device, "cpu") != 0)
        fprintf(
            to,
            "%u lane%s, one a GPU.  A GPU's thread only feeds it: a team of one, free to run on "
            "any processor of the\nGPU's NUMA node, whose memory is the nearest to it.\n",
            lanes, many(lanes));
    else if (lanes == topo->numa_count)
        fprintf(to,
                "%u CPU lane%s, one a NUMA node, with all of its processors that this process may "
                "use: a team that stays\nin its node reads its experts from the node's own "
                "memory.\n",
                lanes, many(lanes));
    else if (lanes < topo->numa_count)
        fprintf(to, "%u CPU lane%s over %u NUMA nodes: neighbouring nodes are joined.\n", lanes,
                many(lanes), topo->numa_count);
    else
        fprintf(to, "%u CPU lanes over %u NUMA node%s: nodes are cut between cores.\n", lanes,
                topo->numa_count, many(topo->numa_count));
    for (unsigned i = 0; strcmp(first->device, "cpu") == 0 && i < lanes; i++)
        if (plan->lane[i].team < plan->lane[i].place.cpu_count)
            fprintf(to,
                    "%s computes with %u thread%s on a place of %u processors, as wished "
                    "(--lane-threads).\n",
                    plan->lane[i].place.name, plan->lane[i].team, many(plan->lane[i].team),
                    plan->lane[i].place.cpu_count);
}

static void explain(const struct hm_topo *topo, const struct hm_topo_plan *plan, FILE *to)
{
    fputc('\n', to);
    explain_lanes(topo, plan, to);
    fputs("Network and file threads have little to do and float over the lanes' processors; lanes "
          "run niced, so that the\nnetwork answers while they compute.\n",
          to);
    if (topo->gpu_count > 0 && strcmp(plan->lane[0].device, "cpu") == 0)
        fprintf(to, "%u GPU%s stay%s unused by this plan (--device auto uses them).\n",
                topo->gpu_count, many(topo->gpu_count), topo->gpu_count == 1 ? "s" : "");
    if (plan->net_devices[0])
        fprintf(to, "The fabric uses the nearest cards: UCX_NET_DEVICES=%s\n", plan->net_devices);
    else
        fputs("No network card with RDMA is up here: UCX chooses by itself (shared memory within "
              "the machine).\n",
              to);
}

void hm_topo_print(const struct hm_topo *topo, const struct hm_topo_plan *plan, FILE *to)
{
    fprintf(to, "machine: %u NUMA node%s, %u core%s, %u processor%s, %u GPU%s, %u RDMA card%s\n",
            topo->numa_count, many(topo->numa_count), topo->core_count, many(topo->core_count),
            topo->cpu_count, many(topo->cpu_count), topo->gpu_count, many(topo->gpu_count),
            topo->nic_count, many(topo->nic_count));
    for (unsigned n = 0; n < topo->numa_count; n++) draw_node(topo, n, to);
    print_table(topo, plan, to);
    explain(topo, plan, to);
}
