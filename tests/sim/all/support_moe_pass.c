/* tests/sim/all/support_moe_pass.c - mixture operations that are waited for, and the same computed
 * directly. */
#include "support_moe.h"

#include "base/rng.h"

#include <math.h>
#include <stdio.h>

/* ---- passes ---------------------------------------------------------------------------------- */

void moe_conf(struct moe_swarm *swarm, struct hm_mixture_conf *conf)
{
    *conf = (struct hm_mixture_conf){.dispatch = swarm->dispatch,
                                     .name = "ffn",
                                     .dim_count = 2,
                                     .grid = {MOE_GRID, MOE_GRID},
                                     .hidden = MOE_HIDDEN,
                                     .k_best = 4,
                                     .k_min = 1,
                                     .backward_k_min = 1,
                                     .forward_timeout = 10 * HM_S,
                                     .backward_timeout = 10 * HM_S};
}

void moe_pass_init(struct moe_pass *pass, struct moe_swarm *swarm,
                   const struct hm_mixture_conf *conf, uint32_t rows, uint64_t seed)
{
    struct hm_rng rng;
    memset(pass, 0, sizeof *pass);
    pass->swarm = swarm;
    pass->rows = rows;
    hm_rng_init(&rng, seed, 99);
    for (unsigned i = 0; i < rows * MOE_HIDDEN; i++) pass->x[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < rows * MOE_HIDDEN; i++) pass->dy[i] = hm_rng_normal(&rng);
    for (unsigned i = 0; i < rows * 2 * MOE_GRID; i++) pass->logits[i] = hm_rng_normal(&rng);
    assert_ok(hm_mixture_create(conf, &pass->mixture));
    hm_mixture_op_init(pass->mixture, &pass->op);
    pass->op.arg = pass;
}

void moe_pass_fini(struct moe_pass *pass)
{
    hm_mixture_op_fini(&pass->op);
    hm_mixture_destroy(pass->mixture);
}

/* Exactly once. */
static void note(struct moe_result *result, enum hm_status status)
{
    assert_false(result->done);
    result->done = true;
    result->status = status;
    snprintf(result->line, sizeof result->line, "%s", status == HM_OK ? "" : hm_fail_line());
}

void moe_waiting_ended(struct hm_moe_expert_op *op, enum hm_status status)
{
    struct moe_waiting *waiting = op->arg;
    note(&waiting->result, status);
}

static void ended(struct hm_mixture_op *op, enum hm_status status)
{
    struct moe_pass *pass = op->arg;
    note(&pass->result, status);
    pass->result.took = hm_loop_now(pass->swarm->loop) - pass->started;
}

static void begin(struct moe_pass *pass)
{
    memset(&pass->result, 0, sizeof pass->result);
    pass->started = hm_loop_now(pass->swarm->loop);
}

void moe_forward_start(struct moe_pass *pass)
{
    struct hm_tensor x = hm_matrix_f32(pass->x, pass->rows, MOE_HIDDEN);
    struct hm_tensor y = hm_matrix_f32(pass->y, pass->rows, MOE_HIDDEN);
    struct hm_tensor logits = hm_matrix_f32(pass->logits, pass->rows, 2 * MOE_GRID);
    hm_mixture_release(&pass->op);
    begin(pass);
    assert_ok(hm_mixture_forward(&pass->op, &x, &logits, &y, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
}

void moe_backward_start(struct moe_pass *pass)
{
    struct hm_tensor dy = hm_matrix_f32(pass->dy, pass->rows, MOE_HIDDEN);
    struct hm_tensor dx = hm_matrix_f32(pass->dx, pass->rows, MOE_HIDDEN);
    struct hm_tensor dlogits = hm_matrix_f32(pass->dlogits, pass->rows, 2 * MOE_GRID);
    begin(pass);
    assert_ok(hm_mixture_backward(&pass->op, &dy, &dx, &dlogits, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
}

enum hm_status moe_forward(struct moe_pass *pass)
{
    moe_forward_start(pass);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

enum hm_status moe_backward(struct moe_pass *pass)
{
    moe_backward_start(pass);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

enum hm_status moe_choose(struct moe_pass *pass)
{
    struct hm_tensor logits = hm_matrix_f32(pass->logits, pass->rows, 2 * MOE_GRID);
    hm_mixture_release(&pass->op);
    begin(pass);
    assert_ok(hm_mixture_choose(&pass->op, &logits, HM_NS_NEVER, ended));
    assert_false(pass->result.done);
    moe_wait(pass->swarm, &pass->result.done, 60 * HM_S);
    return pass->result.status;
}

/* ---- the direct computation ------------------------------------------------------------------ */

struct direct {
    struct hm_uid uid[64];
    float logit[64], weight[64];
    bool alive[64];
    unsigned count;
};

/* The k best of the whole grid for one row, and the weights of those alive. */
static void direct_row(const struct moe_pass *pass, uint32_t row, uint32_t k_best, moe_alive alive,
                       void *arg, struct direct *direct)
{
    const float *logit = pass->logits + (size_t)row * 2 * MOE_GRID;
    bool taken[MOE_GRID][MOE_GRID] = {{false}};
    direct->count = 0;
    for (uint32_t k = 0; k < k_best && k < MOE_GRID * MOE_GRID; k++) {
        int best_i = -1, best_j = -1;
        for (int i = 0; i < MOE_GRID; i++) {
            for (int j = 0; j < MOE_GRID; j++) {
                if (taken[i][j]) continue;
                if (best_i < 0 ||
                    logit[i] + logit[MOE_GRID + j] > logit[best_i] + logit[MOE_GRID + best_j])
                    best_i = i, best_j = j;
            }
        }
        taken[best_i][best_j] = true;
        assert_ok(hm_uid_make("ffn", (uint32_t[]){(uint32_t)best_i, (uint32_t)best_j}, 2,
                              &direct->uid[k]));
        direct->logit[k] = logit[best_i] + logit[MOE_GRID + best_j];
        direct->alive[k] = !alive || alive(arg, row, direct->uid[k].text);
        direct->count++;
    }
    double sum = 0;
    for (unsigned k = 0; k < direct->count; k++)
        sum += direct->alive[k] ? exp(direct->logit[k]) : 0;
    for (unsigned k = 0; k < direct->count; k++)
        direct->weight[k] = direct->alive[k] ? (float)(exp(direct->logit[k]) / sum) : 0;
}

void moe_direct_forward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive, void *arg,
                        float *y)
{
    for (uint32_t row = 0; row < pass->rows; row++) {
        struct direct direct;
        direct_row(pass, row, k_best, alive, arg, &direct);
        for (unsigned i = 0; i < MOE_HIDDEN; i++) y[row * MOE_HIDDEN + i] = 0;
        for (unsigned k = 0; k < direct.count; k++) {
            float one[MOE_HIDDEN];
            moe_expert_forward(&direct.uid[k], pass->x + (size_t)row * MOE_HIDDEN, one);
            for (unsigned i = 0; i < MOE_HIDDEN; i++)
                y[row * MOE_HIDDEN + i] += direct.weight[k] * one[i];
        }
    }
}

void moe_direct_backward(const struct moe_pass *pass, uint32_t k_best, moe_alive alive,
                         moe_alive back, void *arg, float *dx, float *dlogits)
{
    memset(dx, 0, pass->rows * MOE_HIDDEN * sizeof *dx);
    memset(dlogits, 0, pass->rows * 2 * MOE_GRID * sizeof *dlogits);
    for (uint32_t row = 0; row < pass->rows; row++) {
        struct direct direct;
        const float *x = pass->x + (size_t)row * MOE_HIDDEN,
                    *dy = pass->dy + (size_t)row * MOE_HIDDEN;
        float gradient[64] = {0}, mean = 0;
        direct_row(pass, row, k_best, alive, arg, &direct);
        for (unsigned k = 0; k < direct.count; k++) {
            float y[MOE_HIDDEN], one[MOE_HIDDEN];
            moe_expert_forward(&direct.uid[k], x, y);
            moe_expert_backward(&direct.uid[k], dy, one);
            for (unsigned i = 0; i < MOE_HIDDEN; i++) gradient[k] += dy[i] * y[i];
            mean += direct.weight[k] * gradient[k];
            if (!direct.alive[k] || (back && !back(arg, row, direct.uid[k].text))) continue;
            for (unsigned i = 0; i < MOE_HIDDEN; i++)
                dx[row * MOE_HIDDEN + i] += direct.weight[k] * one[i];
        }
        for (unsigned k = 0; k < direct.count; k++) {
            float *to = dlogits + (size_t)row * 2 * MOE_GRID,
                  d = direct.weight[k] * (gradient[k] - mean);
            to[direct.uid[k].coordinate[0]] += d;
            to[MOE_GRID + direct.uid[k].coordinate[1]] += d;
        }
    }
}

void moe_assert_near(const float *a, const float *b, size_t count, float tolerance)
{
    for (size_t i = 0; i < count; i++) {
        if (!(fabsf(a[i] - b[i]) <= tolerance * (1 + fabsf(b[i]))))
            fail_msg("value %zu is %g, not %g", i, a[i], b[i]);
    }
}
