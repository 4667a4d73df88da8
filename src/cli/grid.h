/* cli/grid.h - a trainer's --experts. */
#ifndef HM_CLI_GRID_H
#define HM_CLI_GRID_H

#include "api/node.h"
#include "moe/uid.h"

/* "ffn.[0:4].[0:4]" -> name and sizes (mixture->name points to `name`).  HM_ERR_INVALID with a
 * line: malformed, or a grid that does not start at 0 in every dimension. */
HM_MUST_CHECK enum hm_status grid_parse(const char *pattern, char name[HM_UID_BYTES],
                                        struct hm_remote_mixture_options *mixture);
/* The swarm may have experts of that name in a grid of other dimensions: a wrong --experts, which
 * calls would report as experts that are gone.  HM_ERR_INVALID with a line then.  A swarm without
 * any is HM_OK here. */
HM_MUST_CHECK enum hm_status grid_check(struct hm_node *node,
                                        const struct hm_remote_mixture_options *grid);

#endif
