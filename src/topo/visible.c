/* topo/visible.c - CUDA_VISIBLE_DEVICES on facts: Slurm and mpirun set it, and CUDA then numbers
 * the GPUs that are left anew.  Pure. */
#include "topo/topo.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { GONE = -1, UNKNOWN = -2 };

static int by_uuid(const struct hm_topo *topo, const char *text, size_t bytes)
{
    int found = UNKNOWN;
    bool known = false;
    for (unsigned g = 0; g < topo->gpu_count; g++) {
        known = known || topo->gpu[g].uuid[0];
        if (strncmp(topo->gpu[g].uuid, text, bytes) != 0) continue;
        if (found >= 0) return GONE; /* ambiguous */
        found = (int)g;
    }
    return found == UNKNOWN && known && strncmp(text, "GPU-", 4) == 0 ? GONE : found;
}

/* Which of the facts' GPUs an entry names. */
static int entry_find(const struct hm_topo *topo, const char *text, size_t bytes)
{
    if (bytes > 4 && (strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0))
        return by_uuid(topo, text, bytes);
    unsigned index = 0;
    if (bytes == 0 || bytes > 4) return GONE;
    for (size_t i = 0; i < bytes; i++) {
        if (!isdigit((unsigned char)text[i])) return GONE;
        index = 10 * index + (unsigned)(text[i] - '0');
    }
    return index < topo->gpu_count ? (int)index : GONE;
}

void hm_topo_gpus_show(struct hm_topo *topo, const char *visible)
{
    struct hm_topo_gpu shown[HM_GPUS_MAX];
    bool used[HM_GPUS_MAX] = {false};
    unsigned count = 0;
    memset(shown, 0, sizeof shown);
    for (const char *at = visible; at && count < HM_GPUS_MAX;) {
        at += strspn(at, " ");
        size_t bytes = strcspn(at, ", ");
        int found = entry_find(topo, at, bytes);
        if (found == GONE || (found >= 0 && used[found])) break;
        if (found >= 0) {
            used[found] = true;
            shown[count] = topo->gpu[found];
        } else {
            shown[count].nic = HM_NIC_NONE;
        }
        snprintf(shown[count].name, sizeof shown[count].name, "cuda%u", count);
        count++;
        at = strchr(at, ',');
        if (at) at++;
    }
    memcpy(topo->gpu, shown, sizeof shown);
    topo->gpu_count = count;
}
