/* topo/cpuset.h - bits of a cpuset as hm_place and hm_topo_numa keep them; inside src/topo only. */
#ifndef HM_TOPO_CPUSET_H
#define HM_TOPO_CPUSET_H

#include "base/thread.h"

#include <stdbool.h>
#include <stdint.h>

static inline bool cpuset_has(const uint64_t *cpuset, unsigned cpu)
{
    return (cpuset[cpu / 64] >> (cpu % 64) & 1) != 0;
}
static inline void cpuset_add(uint64_t *cpuset, unsigned cpu)
{
    cpuset[cpu / 64] |= UINT64_C(1) << (cpu % 64);
}
static inline void cpuset_unite(uint64_t *into, const uint64_t *from)
{
    for (unsigned i = 0; i < HM_CPUS_MAX / 64; i++) into[i] |= from[i];
}
static inline unsigned cpuset_count(const uint64_t *cpuset)
{
    unsigned count = 0;
    for (unsigned i = 0; i < HM_CPUS_MAX / 64; i++)
        count += (unsigned)__builtin_popcountll(cpuset[i]);
    return count;
}

#endif
