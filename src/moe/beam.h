/* moe/beam.h - the k best live experts of every row, by beam search over the product grid.
 *
 * An expert's score is the sum of its coordinates' gate logits.  Step d extends each row's best
 * prefixes by their live children; one directory look-up answers a whole step for all rows
 * (Ryabinin & Gusev 2020, section 3.2; the reference's moe/client/beam_search.py does it a row at a
 * time).  Ties go to the smaller coordinates, so that a run replays.
 *
 * Thread: loop; the callback never runs inside a call made by the user.
 * Memory: an op keeps its buffers from one search to the next; they grow to the largest batch and
 *         stay. */
#ifndef HM_MOE_BEAM_H
#define HM_MOE_BEAM_H

#include "moe/directory.h"

enum { HM_BEAM_MAX = 64 };
struct hm_beam_expert {
    struct hm_uid uid;
    struct hm_node_id server; /* who serves it: the least loaded that is not suspected */
};
struct hm_beam_choice {
    uint32_t expert; /* index into op->expert */
    float logit;     /* sum of its coordinates' gate logits */
};
struct hm_beam_grid {
    char name[HM_UID_BYTES];
    unsigned dim_count;
    uint32_t size[HM_GRID_DIMS_MAX]; /* product at most 2^31 */
};
/* HM_ERR_INVALID, with a line. */
HM_MUST_CHECK enum hm_status hm_beam_grid_init(struct hm_beam_grid *grid, const char *name,
                                               unsigned dim_count, const uint32_t *size);
uint32_t
hm_beam_grid_columns(const struct hm_beam_grid *grid); /* of the gate: the sum of the sizes */

struct hm_beam_op;
typedef void (*hm_beam_cb)(struct hm_beam_op *op, enum hm_status status);
struct hm_beam_op { /* caller's memory; hm_beam_init first */
    /* the caller's */
    struct hm_directory *directory;
    const struct hm_beam_grid *grid;
    const float *logits; /* [row_count, hm_beam_grid_columns]; until cb */
    uint32_t row_count;
    uint32_t k_best; /* 1 to HM_BEAM_MAX */
    uint32_t
        spares; /* the next best among the last step's, if any; k_best + spares <= HM_BEAM_MAX */
    uint32_t width; /* prefixes a row keeps at a step; 0: k_best */
    hm_ns deadline;
    hm_beam_cb cb;
    void *arg;
    /* results on HM_OK: the op's, until the next start or fini */
    struct hm_beam_expert *expert;
    unsigned expert_count;         /* each (uid) once */
    struct hm_beam_choice *choice; /* [row_count, k_best], best first */
    uint32_t *choice_count;        /* [row_count], 1 to k_best */
    struct hm_beam_choice *spare;  /* [row_count, spares], best first */
    uint32_t *spare_count;         /* [row_count]; not 0 only where choice_count is k_best */
    /* beam's */
    unsigned step;
    struct hm_beam_prefix *prefix,
        *extended;          /* [row_count, width]: what a row keeps, and the next */
    uint32_t *prefix_count; /* [row_count] */
    uint64_t *key;          /* the distinct prefixes of a step, sorted */
    unsigned key_count;
    char *text;
    const char **text_at;
    size_t prefix_capacity, row_capacity, choice_capacity, spare_capacity, key_capacity,
        text_capacity, expert_capacity;
};
void hm_beam_init(struct hm_beam_op *op);
void hm_beam_fini(struct hm_beam_op *op); /* not while it runs */
/* HM_OK: cb will come.  HM_ERR_NUMERIC: a logit is not finite; HM_ERR_SHAPE: no rows;
 * HM_ERR_NO_MEMORY, HM_ERR_BUSY, HM_ERR_TOO_BIG. Errors of cb: HM_ERR_NOT_FOUND: nothing alive
 * under the name, or a row whose prefixes have all died (with a line); what the directory says. */
HM_MUST_CHECK enum hm_status hm_beam_start(struct hm_beam_op *op);

#endif
