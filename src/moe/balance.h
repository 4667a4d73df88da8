/* moe/balance.h - the load-balancing loss of a gate (Fedus et al. 2021, Switch Transformers,
 * equations 4 to 6), a grid dimension at a time.
 *
 *   loss = sum over d of size_d * sum over i of f_di * p_di
 *   f_di  fraction of the chosen experts whose coordinate d is i (no gradient)
 *   p_di  mean over rows of softmax(logits_d)_i (has the gradient; the reference's is constant)
 * It is dim_count when the load is even, and larger otherwise.  Pure. */
#ifndef HM_MOE_BALANCE_H
#define HM_MOE_BALANCE_H

#include "moe/beam.h"

/* logits [row_count, columns]; choices as hm_beam_op gives them; fraction [columns] is written (=)
 * with f.  dlogits (NULL: not wanted) is accumulated (+=) with `scale` times the gradient.  Returns
 * the loss, unscaled. */
float hm_balance_loss(const struct hm_beam_grid *grid, const float *logits, uint32_t row_count,
                      const struct hm_beam_expert *expert, const struct hm_beam_choice *choice,
                      const uint32_t *choice_count, uint32_t k_best, float scale, float *fraction,
                      float *dlogits);

#endif
