/* topo/devices.c - GPUs and network cards out of an hwloc topology, and who is near whom.
 *
 * Happy:  cards with RDMA -> GPUs, each with its nearest NUMA node and card ->
 * CUDA_VISIBLE_DEVICES.
 * Fails:  never; what hwloc does not know is "" or HM_NIC_NONE.
 * Keeps:  a GPU's nic is HM_NIC_NONE or a card that is up; cards as near as each other are shared
 *         out evenly, so that eight GPUs and four cards under one bridge do not meet on one
 *         card. */
#include "topo/devices.h"
#include "topo/cpuset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PCI_CLASS_DISPLAY = 0x03, PCI_VENDOR_NVIDIA = 0x10de, PORTS_MAX = 8 };

/* The node that shares processors with the device's place; where none of those may be used, the
 * first. */
static unsigned numa_near(const struct hm_topo *topo, hwloc_topology_t topology, hwloc_obj_t device)
{
    hwloc_obj_t place = hwloc_get_non_io_ancestor_obj(topology, device);
    for (unsigned n = 0; place && place->cpuset && n < topo->numa_count; n++)
        for (unsigned cpu = 0; cpu < HM_CPUS_MAX; cpu++)
            if (cpuset_has(topo->numa[n].cpuset, cpu) && hwloc_bitmap_isset(place->cpuset, cpu))
                return n;
    return 0;
}

static hwloc_obj_t pci_of(hwloc_obj_t device)
{
    while (device && device->type != HWLOC_OBJ_PCI_DEVICE) device = device->parent;
    return device;
}

static void pci_text(hwloc_obj_t pci, char text[32])
{
    text[0] = 0;
    if (!pci) return;
    const struct hwloc_pcidev_attr_s *at = &pci->attr->pcidev;
    snprintf(text, 32, "%04x:%02x:%02x.%01x", (unsigned)at->domain, (unsigned)at->bus,
             (unsigned)at->dev, (unsigned)at->func);
}

/* ---- network cards ----------------------------------------------------------------------------- */

/* hwloc tells each port's state as Linux does: "4" is active.  A stored machine without states
 * counts as up. */
static unsigned port_up(hwloc_obj_t device)
{
    bool told = false;
    for (unsigned port = 1; port <= PORTS_MAX; port++) {
        char key[32];
        snprintf(key, sizeof key, "Port%uState", port);
        const char *state = hwloc_obj_get_info_by_name(device, key);
        if (state && atoi(state) == 4) return port;
        told = told || state;
    }
    return told ? 0 : 1;
}

/* `object` keeps each card's place in the tree, for the GPUs. */
static void nics_read(struct hm_topo *topo, hwloc_topology_t topology,
                      hwloc_obj_t object[HM_NICS_MAX])
{
    for (hwloc_obj_t device = hwloc_get_next_osdev(topology, NULL); device;
         device = hwloc_get_next_osdev(topology, device)) {
        if (device->attr->osdev.type != HWLOC_OBJ_OSDEV_OPENFABRICS || !device->name) continue;
        if (topo->nic_count == HM_NICS_MAX) return;
        object[topo->nic_count] = device;
        struct hm_topo_nic *nic = &topo->nic[topo->nic_count++];
        snprintf(nic->name, sizeof nic->name, "%s", device->name);
        pci_text(pci_of(device), nic->pci);
        nic->numa = numa_near(topo, topology, device);
        nic->port = port_up(device);
    }
}

/* Steps up from `device` until something that `other` is under too. */
static unsigned steps_to_common(hwloc_obj_t device, hwloc_obj_t other)
{
    unsigned steps = 0;
    for (hwloc_obj_t up = device->parent; up; up = up->parent, steps++)
        for (hwloc_obj_t at = other->parent; at; at = at->parent)
            if (at == up) return steps;
    return steps;
}

static int nic_near(const struct hm_topo *topo, hwloc_obj_t const *object, hwloc_obj_t device)
{
    int best = HM_NIC_NONE;
    unsigned best_steps = 0, best_users = 0;
    for (unsigned i = 0; i < topo->nic_count; i++) {
        if (topo->nic[i].port == 0) continue;
        unsigned steps = steps_to_common(device, object[i]), users = 0;
        for (unsigned g = 0; g < topo->gpu_count; g++) users += topo->gpu[g].nic == (int)i;
        if (best != HM_NIC_NONE &&
            (steps > best_steps || (steps == best_steps && users >= best_users)))
            continue;
        best = (int)i;
        best_steps = steps;
        best_users = users;
    }
    return best;
}

/* ---- GPUs -------------------------------------------------------------------------------------- */

/* NVML's object on the same PCI device knows the UUID. */
static void uuid_read(hwloc_obj_t pci, char *uuid, size_t uuid_bytes)
{
    for (hwloc_obj_t child = pci ? pci->io_first_child : NULL; child; child = child->next_sibling) {
        const char *text = hwloc_obj_get_info_by_name(child, "NVIDIAUUID");
        if (text) snprintf(uuid, uuid_bytes, "%s", text);
    }
}

static void gpu_add(struct hm_topo *topo, hwloc_topology_t topology, hwloc_obj_t const *nics,
                    hwloc_obj_t device, const char *name)
{
    if (topo->gpu_count == HM_GPUS_MAX) return;
    struct hm_topo_gpu gpu = {.numa = numa_near(topo, topology, device),
                              .nic = nic_near(topo, nics, device)};
    hwloc_obj_t pci = pci_of(device);
    snprintf(gpu.name, sizeof gpu.name, "%s", name);
    pci_text(pci, gpu.pci);
    uuid_read(pci, gpu.uuid, sizeof gpu.uuid);
    topo->gpu[topo->gpu_count++] = gpu;
}

/* hwloc names CUDA devices where it was built with CUDA; Debian's is not, and shows bare PCI
 * devices: they are named in the order of their bus ids, which is CUDA's own with
 * CUDA_DEVICE_ORDER=PCI_BUS_ID.  True if hwloc named them. */
static bool gpus_read(struct hm_topo *topo, hwloc_topology_t topology, hwloc_obj_t const *nics)
{
    for (hwloc_obj_t device = hwloc_get_next_osdev(topology, NULL); device;
         device = hwloc_get_next_osdev(topology, device))
        if (device->attr->osdev.type == HWLOC_OBJ_OSDEV_COPROC && device->name &&
            strncmp(device->name, "cuda", 4) == 0)
            gpu_add(topo, topology, nics, device, device->name);
    if (topo->gpu_count > 0) return true;
    for (hwloc_obj_t pci = hwloc_get_next_pcidev(topology, NULL); pci;
         pci = hwloc_get_next_pcidev(topology, pci)) {
        const struct hwloc_pcidev_attr_s *at = &pci->attr->pcidev;
        if (at->vendor_id != PCI_VENDOR_NVIDIA || at->class_id >> 8 != PCI_CLASS_DISPLAY) continue;
        char name[16];
        snprintf(name, sizeof name, "cuda%u", topo->gpu_count);
        gpu_add(topo, topology, nics, pci, name);
    }
    return false;
}

void topo_devices_read(struct hm_topo *topo, hwloc_topology_t topology)
{
    hwloc_obj_t nics[HM_NICS_MAX];
    nics_read(topo, topology, nics);
    bool named = gpus_read(topo, topology, nics);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && !(named && hwloc_topology_is_thissystem(topology)))
        hm_topo_gpus_show(topo, visible);
}
