/* cli/grid.c - the grid that a trainer chooses from: read from --experts, and held against the
 * swarm. */
#include "cli/grid.h"

#include "api/swarm.h"

#include <stdlib.h>
#include <string.h>

enum hm_status grid_parse(const char *pattern, char name[HM_UID_BYTES],
                          struct hm_remote_mixture_options *mixture)
{
    struct hm_uid *uids;
    unsigned count;
    enum hm_status status = hm_uid_expand(pattern, 1 << 20, &uids, &count);
    if (status) return status;
    uint64_t cells = 1;
    mixture->grid_dims = uids[0].dim_count;
    memcpy(name, uids[0].text, uids[0].name_bytes);
    name[uids[0].name_bytes] = 0;
    for (unsigned i = 0; i < mixture->grid_dims; i++) {
        mixture->grid[i] = uids[count - 1].coordinate[i] + 1;
        cells *= mixture->grid[i];
    }
    free(uids);
    if (cells != count)
        return hm_fail(
            HM_ERR_INVALID,
            "--experts is '%s'; a trainer's grid starts at 0 everywhere: name.[0:a].[0:b]",
            pattern);
    mixture->name = name;
    return HM_OK;
}

enum hm_status grid_check(struct hm_node *node, const struct hm_remote_mixture_options *grid)
{
    struct hm_swarm swarm;
    unsigned other = 0;
    bool same = false;
    /* What was found by then will do: a look that fails leaves it to the first step. */
    enum hm_status looked = hm_swarm_look(node, 2 * HM_S, &swarm);
    (void)looked;
    for (unsigned i = 0; i < swarm.expert_count; i++) {
        const struct hm_uid *uid = &swarm.expert[i].uid;
        if (strlen(grid->name) != uid->name_bytes ||
            memcmp(grid->name, uid->text, uid->name_bytes) != 0)
            continue;
        if (uid->dim_count == grid->grid_dims) same = true;
        if (uid->dim_count != grid->grid_dims) other = uid->dim_count;
    }
    hm_swarm_fini(&swarm);
    if (same || other == 0) return HM_OK;
    return hm_fail(HM_ERR_INVALID,
                   "the swarm's experts under '%s' have %u dimensions, --experts has %u; hivemind "
                   "status --experts lists them",
                   grid->name, other, grid->grid_dims);
}
