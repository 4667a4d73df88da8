/* topo/devices.h - GPUs and network cards out of an hwloc topology; inside src/topo only. */
#ifndef HM_TOPO_DEVICES_H
#define HM_TOPO_DEVICES_H

#include "topo/topo.h"

#include <hwloc.h>

/* Fills gpu and nic; the NUMA nodes are there already. */
void topo_devices_read(struct hm_topo *topo, hwloc_topology_t topology);

#endif
