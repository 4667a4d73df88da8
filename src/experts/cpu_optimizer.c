/* experts/cpu_optimizer.c - passes over flat arrays of parameters: norm, SGD, Adam.
 *
 * Bound by memory: each array is read once and written at most once, by all threads of the team, in
 * chunks whose number does not depend on it (so that the norm has one value). */
#include "experts/cpu.h"

#include <math.h>

enum { CHUNKS = 64, LANES = 16 };

/* Chunk i of `count` elements begins here; a multiple of 16 elements, so that threads share no
 * cache line. */
static size_t chunk_first(size_t count, unsigned i)
{
    size_t chunk = (count / CHUNKS + LANES) / LANES * LANES, first = chunk * i;
    return first < count ? first : count;
}

/* Sums in double: the square of a finite f32 is finite there, so the sum is finite if and only if
 * every value is. */
HM_CPU_CLONES static double squares(const float *x, size_t n)
{
    double lane[LANES] = {0}, sum = 0.0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += (double)x[i + (size_t)k] * (double)x[i + (size_t)k];
    for (int k = 0; i < n; i++, k++) lane[k] += (double)x[i] * (double)x[i];
    for (int k = 0; k < LANES; k++) sum += lane[k];
    return sum;
}

enum hm_status hm_cpu_norm(struct hm_stream *s, const float *x, size_t count, double *norm,
                           bool *finite)
{
    (void)s;
    double part[CHUNKS];
    HM_CPU_PARALLEL(count)
    for (unsigned i = 0; i < CHUNKS; i++) {
        size_t first = chunk_first(count, i);
        part[i] = squares(x + first, chunk_first(count, i + 1) - first);
    }
    double sum = 0.0;
    for (unsigned i = 0; i < CHUNKS; i++) sum += part[i];
    *norm = sqrt(sum);
    *finite = isfinite(sum);
    return HM_OK;
}

HM_CPU_CLONES static void sgd_plain(float *restrict param, const float *restrict grad, size_t n,
                                    float rate, float weight_decay, float gradient_scale)
{
    for (size_t i = 0; i < n; i++)
        param[i] -= rate * (gradient_scale * grad[i] + weight_decay * param[i]);
}

HM_CPU_CLONES static void sgd_momentum(float *restrict param, const float *restrict grad,
                                       float *restrict velocity, size_t n, float rate,
                                       float momentum, float weight_decay, float gradient_scale)
{
    for (size_t i = 0; i < n; i++) {
        float v = momentum * velocity[i] + (gradient_scale * grad[i] + weight_decay * param[i]);
        velocity[i] = v;
        param[i] -= rate * v;
    }
}

enum hm_status hm_cpu_sgd(struct hm_stream *s, float rate, float momentum, float weight_decay,
                          float gradient_scale, size_t count, float *param, const float *grad,
                          float *velocity)
{
    (void)s;
    HM_CPU_PARALLEL(count)
    for (unsigned i = 0; i < CHUNKS; i++) {
        size_t first = chunk_first(count, i), n = chunk_first(count, i + 1) - first;
        if (velocity)
            sgd_momentum(param + first, grad + first, velocity + first, n, rate, momentum,
                         weight_decay, gradient_scale);
        else
            sgd_plain(param + first, grad + first, n, rate, weight_decay, gradient_scale);
    }
    return HM_OK;
}

/* What is the same for every element of one step. */
struct adam_step {
    float beta1, beta2, epsilon, gradient_scale;
    float decay;        /* 1 - rate * weight_decay */
    float rate;         /* rate / (1 - beta1^step) */
    float second_scale; /* 1 / sqrt(1 - beta2^step) */
};

/* Moments of parameters that get no gradient for long decay into denormal numbers, which many CPUs
 * work on a hundred times more slowly.  Below these bounds they move no parameter (epsilon is
 * 1e-8), and are set to zero. */
#define MOMENT_MIN 1e-30f
#define SECOND_MIN 1e-36f

HM_CPU_CLONES static void adam_chunk(const struct adam_step *step, float *restrict param,
                                     const float *restrict grad, float *restrict m,
                                     float *restrict v, size_t n)
{
    const struct adam_step a = *step;
    const float one_less_beta1 = 1.0f - a.beta1, one_less_beta2 = 1.0f - a.beta2;
    for (size_t i = 0; i < n; i++) {
        float g = a.gradient_scale * grad[i];
        float first = a.beta1 * m[i] + one_less_beta1 * g;
        float second = a.beta2 * v[i] + one_less_beta2 * (g * g);
        first = fabsf(first) < MOMENT_MIN ? 0.0f : first;
        second = second < SECOND_MIN ? 0.0f : second;
        m[i] = first;
        v[i] = second;
        param[i] =
            param[i] * a.decay - a.rate * first / (sqrtf(second) * a.second_scale + a.epsilon);
    }
}

enum hm_status hm_cpu_adam(struct hm_stream *s, const struct hm_adam *conf, uint64_t step,
                           float rate, float gradient_scale, size_t count, float *param,
                           const float *grad, float *m, float *v)
{
    (void)s;
    HM_ASSERT(step > 0);
    const struct adam_step a = {
        .beta1 = conf->beta1,
        .beta2 = conf->beta2,
        .epsilon = conf->epsilon,
        .gradient_scale = gradient_scale,
        .decay = 1.0f - rate * conf->weight_decay,
        .rate = (float)(rate / (1.0 - pow(conf->beta1, (double)step))),
        .second_scale = (float)(1.0 / sqrt(1.0 - pow(conf->beta2, (double)step))),
    };
    HM_CPU_PARALLEL(count)
    for (unsigned i = 0; i < CHUNKS; i++) {
        size_t first = chunk_first(count, i), n = chunk_first(count, i + 1) - first;
        adam_chunk(&a, param + first, grad + first, m + first, v + first, n);
    }
    return HM_OK;
}
