/* topo/topo.h - hwloc -> a placement plan: which processors every thread gets.
 *
 * Discovery reads the machine (or a stored XML) into facts; planning is a pure function facts +
 * wishes -> plan, so that it is tested on machines that we do not have. */
#ifndef HM_TOPO_TOPO_H
#define HM_TOPO_TOPO_H

#include "base/json.h"
#include "base/thread.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { HM_LANES_MAX = 16, HM_NUMA_MAX = 64, HM_GPUS_MAX = 16, HM_NICS_MAX = 32 };
enum { HM_NIC_NONE = -1, HM_NET_DEVICES_BYTES = 512 };
struct hm_topo_numa { /* a NUMA node with at least one processor that we may use */
    unsigned index;   /* the operating system's */
    uint64_t memory_bytes;
    uint64_t cpuset[HM_CPUS_MAX / 64]; /* allowed logical processors; each lies in one node only */
    unsigned cpu_count, core_count;
};
struct hm_topo_nic { /* a network card with RDMA */
    char name[32];   /* "mlx5_0" */
    char pci[32];    /* "0000:13:00.0"; "" if unknown */
    unsigned numa;   /* index into hm_topo.numa: the nearest one */
    unsigned port;   /* the first active one; 0: every port is known to be down */
};
struct hm_topo_gpu {
    char name[32]; /* "cuda0" */
    char pci[32];  /* "0000:12:00.0"; "" if unknown */
    char uuid[48]; /* "GPU-..."; "" if unknown */
    unsigned numa; /* index into hm_topo.numa: the nearest one */
    int nic;       /* index into hm_topo.nic: the nearest one that is up; or HM_NIC_NONE */
};
struct hm_topo { /* facts */
    unsigned numa_count, gpu_count, nic_count;
    struct hm_topo_numa numa[HM_NUMA_MAX];
    struct hm_topo_gpu gpu[HM_GPUS_MAX];
    struct hm_topo_nic nic[HM_NICS_MAX];
    unsigned cpu_count, core_count; /* allowed to this process */
    uint16_t core_of[HM_CPUS_MAX];  /* a processor's core, so that a team is not cut through one */
};
struct hm_topo_lane {
    char device[32];       /* "cpu", "cuda0" */
    unsigned numa;         /* the first of its nodes */
    uint64_t memory_nodes; /* bit i: hm_topo.numa[i], where what it touches first comes from */
    uint64_t memory_bytes; /* its share of their memory */
    unsigned team;         /* threads of its math team */
    int nic;               /* index into hm_topo.nic: a nearest one that is up; or HM_NIC_NONE */
    struct hm_place place;
};
struct hm_topo_wish {
    const char *device; /* "auto", "cpu" or one GPU's name */
    bool gpus;          /* a module that can use GPUs is loaded; without it "auto" means the CPU */
    unsigned cpu_lanes; /* 0: one a NUMA node */
    unsigned lane_threads; /* limits the math team; 0: all the lane's processors */
    int lane_nice;         /* so that the loop answers while lanes compute */
};
/* A CPU lane gets all allowed processors of its NUMA node (not one core): the math library's team
 * spreads inside it and the kernel may move it.  More lanes than nodes cut a node between cores;
 * fewer lanes than nodes join neighbours.  A GPU's lane floats over the processors of the GPU's
 * node, with a team of one: its thread only feeds the device.  Loop and I/O float over all
 * processors that lanes have: they have little to do, and must not be locked onto a core that a
 * lane's team keeps busy.
 *
 * Memory follows by first touch: a lane's thread and team run on its nodes' processors only.  A
 * GPU's lane uses the network card with the fewest bridges between them, a CPU lane one of its
 * nodes'; where several are as near, they are shared out.  A node without a card uses any. */
struct hm_topo_plan {
    unsigned lane_count;
    struct hm_topo_lane lane[HM_LANES_MAX];
    struct hm_place loop, io;
    char net_devices[HM_NET_DEVICES_BYTES]; /* "mlx5_0:1,mlx5_1:1" for UCX_NET_DEVICES; "": all */
};

/* xml NULL: this machine, as the calling thread is allowed to use it (cgroup and affinity).
 * CUDA_VISIBLE_DEVICES is honoured (hm_topo_gpus_show) unless the CUDA driver named the GPUs here:
 * it has then done so itself.
 * HM_ERR_INVALID with a line for an unreadable XML.  Takes milliseconds and reads files: once, at
 * start.  Thread: any. */
HM_MUST_CHECK enum hm_status hm_topo_discover(const char *xml, struct hm_topo *topo);
/* Leaves the GPUs of `visible`, in its order and named cuda0, cuda1... as CUDA names them to this
 * process.  As in CUDA: indices or unambiguous beginnings of UUIDs ("GPU-8932f"), comma-separated;
 * the first that names no GPU, or one again, ends the list.  A UUID that cannot be looked up here
 * (facts without UUIDs, MIG instances) is a GPU of unknown place.  Pure. */
void hm_topo_gpus_show(struct hm_topo *topo, const char *visible);
/* HM_ERR_INVALID with a line for a wish that the machine cannot fulfil. */
HM_MUST_CHECK enum hm_status hm_topo_plan(const struct hm_topo *topo,
                                          const struct hm_topo_wish *wish,
                                          struct hm_topo_plan *plan);
/* An object `key` with the machine's facts and the plan (NULL: facts alone), for `doctor` and
 * `status --json`. */
void hm_topo_json(const struct hm_topo *topo, const struct hm_topo_plan *plan, struct hm_json *json,
                  const char *key);
/* The machine as a drawing, the plan as a table, and why it is so in words. */
void hm_topo_print(const struct hm_topo *topo, const struct hm_topo_plan *plan, FILE *to);
/* "0-3,8" of a cpuset into text, as taskset and lstopo write it; returns text. */
const char *hm_topo_cpuset_text(const uint64_t *cpuset, char *text, size_t text_bytes);

#endif
