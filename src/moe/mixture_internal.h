/* moe/mixture_internal.h - what the files of the mixture share. */
#ifndef HM_MOE_MIXTURE_INTERNAL_H
#define HM_MOE_MIXTURE_INTERNAL_H

#include "moe/mixture.h"

/* A row's candidates are its choices, then its spares: numbered from 0 on.  (There are spares only
 * behind k_best choices.) */
#define HM_NO_SLOT UINT32_MAX
static inline uint32_t hm_mixture_candidates(const struct hm_mixture_op *op, uint32_t row)
{
    return op->beam.choice_count[row] + op->beam.spare_count[row];
}
static inline const struct hm_beam_choice *hm_mixture_candidate(const struct hm_mixture_op *op,
                                                                uint32_t row, uint32_t k)
{
    const struct hm_beam_op *beam = &op->beam;
    return k < beam->k_best ? &beam->choice[(size_t)row * beam->k_best + k]
                            : &beam->spare[(size_t)row * beam->spares + k - beam->k_best];
}
/* Its slot; HM_NO_SLOT: it has not been asked. */
static inline uint32_t *hm_mixture_slot(const struct hm_mixture_op *op, uint32_t row, uint32_t k)
{
    return &op->slot_of[(size_t)row * (op->beam.k_best + op->beam.spares) + k];
}

/* Of the row's candidate k; HM_NO_SLOT: it has not been asked, or has not answered. */
static inline uint32_t hm_mixture_answered(const struct hm_mixture_op *op, uint32_t row, uint32_t k)
{
    uint32_t slot = *hm_mixture_slot(op, row, k);
    if (slot == HM_NO_SLOT || op->part[op->slot_part[slot]].status != HM_OK) return HM_NO_SLOT;
    return slot;
}

/* mixture.c */
hm_ns hm_mixture_deadline(struct hm_mixture *mixture, hm_ns timeout, hm_ns deadline);
HM_MUST_CHECK enum hm_status hm_mixture_call(struct hm_mixture_op *op, uint8_t pass,
                                             struct hm_dispatch_part *part, unsigned part_count,
                                             uint32_t k_min, hm_dispatch_cb cb);
void hm_mixture_count_failures(struct hm_mixture_op *op, const struct hm_dispatch_part *part,
                               unsigned count);
void hm_mixture_finish(struct hm_mixture_op *op, enum hm_mixture_state state,
                       enum hm_status status); /* and tells the user */

/* mixture_spare.c: the candidates that each row begins with, as many as it has choices, get a slot that is
 * not HM_NO_SLOT; and op->standing. */
void hm_mixture_ask_first(struct hm_mixture_op *op);
/* mixture_spare.c: hm_dispatch_op.more of a forward. */
struct hm_mixture_move { /* a row that goes to its candidate k */
    uint32_t expert, row, k;
};
unsigned hm_mixture_more(struct hm_dispatch_op *dispatch);

#endif
