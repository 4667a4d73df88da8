/* topo/report.c - facts and plan as text and JSON, for people and programs. */
#include "base/assert.h"
#include "topo/cpuset.h"
#include "topo/topo.h"

#include <stdio.h>

const char *hm_topo_cpuset_text(const uint64_t *cpuset, char *text, size_t text_bytes)
{
    size_t used = 0;
    HM_ASSERT(text_bytes > 0);
    text[0] = 0;
    for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++) {
        if (!cpuset_has(cpuset, cpu)) continue;
        unsigned last = cpu;
        while (last + 1 < HM_CPUS_MAX && cpuset_has(cpuset, last + 1)) last++;
        const char *comma = used ? "," : "";
        int wrote = last == cpu
                        ? snprintf(text + used, text_bytes - used, "%s%u", comma, cpu)
                        : snprintf(text + used, text_bytes - used, "%s%u-%u", comma, cpu, last);
        if (wrote < 0 || (size_t)wrote >= text_bytes - used) {
            text[used] = 0; /* whole ranges only: a cut number would be another processor */
            return text;
        }
        used += (size_t)wrote;
        cpu = last;
    }
    return text;
}

/* NULL (JSON's null) where there is none. */
static const char *nic_name(const struct hm_topo *topo, int nic)
{
    return nic == HM_NIC_NONE ? NULL : topo->nic[nic].name;
}

static void numa_json(const struct hm_topo *topo, struct hm_json *json)
{
    char text[512];
    hm_json_array_begin(json, "numa");
    for (unsigned n = 0; n < topo->numa_count; n++) {
        const struct hm_topo_numa *node = &topo->numa[n];
        hm_json_object_begin(json, NULL);
        hm_json_uint(json, "index", node->index);
        hm_json_uint(json, "memory_bytes", node->memory_bytes);
        hm_json_uint(json, "cpus", node->cpu_count);
        hm_json_uint(json, "cores", node->core_count);
        hm_json_string(json, "cpuset", hm_topo_cpuset_text(node->cpuset, text, sizeof text));
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
}

static void gpus_json(const struct hm_topo *topo, struct hm_json *json)
{
    hm_json_array_begin(json, "gpus");
    for (unsigned g = 0; g < topo->gpu_count; g++) {
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "name", topo->gpu[g].name);
        hm_json_string(json, "pci", topo->gpu[g].pci);
        hm_json_uint(json, "numa", topo->numa[topo->gpu[g].numa].index);
        hm_json_string(json, "nic", nic_name(topo, topo->gpu[g].nic));
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
}

static void nics_json(const struct hm_topo *topo, struct hm_json *json)
{
    hm_json_array_begin(json, "nics");
    for (unsigned n = 0; n < topo->nic_count; n++) {
        hm_json_object_begin(json, NULL);
        hm_json_string(json, "name", topo->nic[n].name);
        hm_json_string(json, "pci", topo->nic[n].pci);
        hm_json_uint(json, "numa", topo->numa[topo->nic[n].numa].index);
        hm_json_uint(json, "port", topo->nic[n].port);
        hm_json_object_end(json);
    }
    hm_json_array_end(json);
}

static void place_json(struct hm_json *json, const char *key, const struct hm_place *place)
{
    char text[512];
    hm_json_string(json, key, hm_topo_cpuset_text(place->cpuset, text, sizeof text));
}

static void lane_json(const struct hm_topo *topo, const struct hm_topo_lane *lane,
                      struct hm_json *json)
{
    hm_json_object_begin(json, NULL);
    hm_json_string(json, "device", lane->device);
    hm_json_uint(json, "numa", topo->numa[lane->numa].index);
    hm_json_uint(json, "team", lane->team);
    place_json(json, "cpuset", &lane->place);
    hm_json_array_begin(json, "memory_nodes");
    for (unsigned n = 0; n < topo->numa_count; n++)
        if (lane->memory_nodes >> n & 1) hm_json_uint(json, NULL, topo->numa[n].index);
    hm_json_array_end(json);
    hm_json_uint(json, "memory_bytes", lane->memory_bytes);
    hm_json_string(json, "nic", nic_name(topo, lane->nic));
    hm_json_object_end(json);
}

void hm_topo_json(const struct hm_topo *topo, const struct hm_topo_plan *plan, struct hm_json *json,
                  const char *key)
{
    hm_json_object_begin(json, key);
    hm_json_uint(json, "cpus", topo->cpu_count);
    hm_json_uint(json, "cores", topo->core_count);
    numa_json(topo, json);
    gpus_json(topo, json);
    nics_json(topo, json);
    if (plan) {
        hm_json_array_begin(json, "lanes");
        for (unsigned i = 0; i < plan->lane_count; i++) lane_json(topo, &plan->lane[i], json);
        hm_json_array_end(json);
        place_json(json, "loop_cpuset", &plan->loop);
        place_json(json, "io_cpuset", &plan->io);
        hm_json_string(json, "net_devices", plan->net_devices);
    }
    hm_json_object_end(json);
}
