/* moe/balance.c - the load-balancing loss and its gradient.
 *
 * With p_r the softmax of row r over one dimension of size n, R rows and f the fractions of that
 * dimension:
 *   loss             = n / R * sum over r, i of f_i p_ri
 *   dloss / dz_rj    = n / R * p_rj * (f_j - sum over i of f_i p_ri)        (f is counted, so it
 *   has no gradient) */
#include "moe/balance.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

/* f of every dimension, one after another as the columns are. */
static void count_fractions(const struct hm_beam_grid *grid, uint32_t row_count,
                            const struct hm_beam_expert *expert,
                            const struct hm_beam_choice *choice, const uint32_t *choice_count,
                            uint32_t k_best, float *fraction)
{
    uint64_t total = 0;
    memset(fraction, 0, hm_beam_grid_columns(grid) * sizeof *fraction);
    for (uint32_t row = 0; row < row_count; row++) total += choice_count[row];
    for (uint32_t row = 0; row < row_count; row++) {
        for (uint32_t k = 0; k < choice_count[row]; k++) {
            const struct hm_uid *uid = &expert[choice[(size_t)row * k_best + k].expert].uid;
            uint32_t column = 0;
            for (unsigned d = 0; d < grid->dim_count; d++) {
                fraction[column + uid->coordinate[d]] += 1.f / (float)total;
                column += grid->size[d];
            }
        }
    }
}

/* One row of one dimension: sum of f_i p_i, and its gradient. */
static float row_loss(const float *logit, const float *fraction, uint32_t size, float scale,
                      float *dlogit)
{
    float largest = logit[0], sum = 0, weighted = 0;
    for (uint32_t i = 1; i < size; i++) largest = fmaxf(largest, logit[i]);
    for (uint32_t i = 0; i < size; i++) {
        float e = expf(logit[i] - largest);
        sum += e;
        weighted += fraction[i] * e;
    }
    float loss = weighted / sum;
    for (uint32_t i = 0; dlogit && i < size; i++)
        dlogit[i] += scale * expf(logit[i] - largest) / sum * (fraction[i] - loss);
    return loss;
}

float hm_balance_loss(const struct hm_beam_grid *grid, const float *logits, uint32_t row_count,
                      const struct hm_beam_expert *expert, const struct hm_beam_choice *choice,
                      const uint32_t *choice_count, uint32_t k_best, float scale, float *fraction,
                      float *dlogits)
{
    HM_ASSERT(row_count > 0);
    count_fractions(grid, row_count, expert, choice, choice_count, k_best, fraction);
    uint32_t columns = hm_beam_grid_columns(grid);
    double loss = 0;
    for (uint32_t row = 0; row < row_count; row++) {
        size_t at = (size_t)row * columns, column = 0;
        for (unsigned d = 0; d < grid->dim_count; d++) {
            float factor = (float)grid->size[d] / (float)row_count;
            loss += factor * row_loss(logits + at + column, fraction + column, grid->size[d],
                                      scale * factor, dlogits ? dlogits + at + column : NULL);
            column += grid->size[d];
        }
    }
    return (float)loss;
}
