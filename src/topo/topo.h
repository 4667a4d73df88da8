/* topo/topo.h - hwloc -> a placement plan: which processors every thread gets.
 *
 * Discovery reads the machine (or a stored XML) into facts; planning is a pure function facts + wishes -> plan, so that it
 * is tested on machines that we do not have. */
#ifndef HM_TOPO_TOPO_H
#define HM_TOPO_TOPO_H

#include "base/json.h"
#include "base/thread.h"

enum { HM_LANES_MAX = 16, HM_NUMA_MAX = 64, HM_GPUS_MAX = 16 };
struct hm_topo_numa {
    unsigned index;
    uint64_t memory_bytes;
    uint64_t cpuset[HM_CPUS_MAX / 64]; /* allowed logical processors */
    unsigned cpu_count, core_count;
};
struct hm_topo_gpu {
    char name[32]; /* "cuda0" */
    unsigned numa; /* index into hm_topo.numa */
};
struct hm_topo { /* facts */
    unsigned numa_count, gpu_count;
    struct hm_topo_numa numa[HM_NUMA_MAX];
    struct hm_topo_gpu gpu[HM_GPUS_MAX];
    unsigned cpu_count, core_count; /* allowed to this process */
};
struct hm_topo_lane {
    char device[32]; /* "cpu", "cuda0" */
    unsigned numa;
    unsigned team; /* threads of its math team */
    struct hm_place place;
};
struct hm_topo_wish {
    const char *device;    /* "auto", "cpu" or one GPU's name */
    unsigned cpu_lanes;    /* 0: one a NUMA node */
    unsigned lane_threads; /* 0: all its processors */
    int lane_nice;         /* so that the loop answers while lanes compute */
};
struct hm_topo_plan {
    unsigned lane_count;
    struct hm_topo_lane lane[HM_LANES_MAX];
    struct hm_place loop, io; /* of the node's other threads */
};

/* xml NULL: this machine, as this process is allowed to use it.  HM_ERR_INVALID with a line for an unreadable XML. */
HM_MUST_CHECK enum hm_status hm_topo_discover(const char *xml, struct hm_topo *topo);
/* HM_ERR_INVALID with a line for a wish that the machine cannot fulfil. */
HM_MUST_CHECK enum hm_status hm_topo_plan(const struct hm_topo *topo, const struct hm_topo_wish *wish,
                                          struct hm_topo_plan *plan);

#endif
