/* experts/cpu_optimizer.c - passes over flat arrays of parameters: norm, SGD, Adam.
 *
 * Bound by memory: each array is read once and written at most once, by all threads of the team.
 * The norm's chunks do not depend on the team, so that it has one value.  An optimizer goes by
 * pieces that fit a cache: a piece of weights that have a packed copy is packed while it is there. */
#include "experts/cpu.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

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

/* Of magnitudes, as bits: they are ordered as the numbers are, with infinity and NaN above. */
HM_CPU_CLONES static uint32_t largest_bits(const float *x, size_t n)
{
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

enum hm_status hm_cpu_largest(struct hm_stream *s, const struct hm_tensor *x, float *largest)
{
    (void)s;
    size_t count = (size_t)hm_rows(x) * hm_columns(x);
    uint32_t part[CHUNKS], bits = 0;
    HM_CPU_PARALLEL(count)
    for (unsigned i = 0; i < CHUNKS; i++) {
        size_t first = chunk_first(count, i);
        part[i] = largest_bits(hm_f32(x) + first, chunk_first(count, i + 1) - first);
    }
    for (unsigned i = 0; i < CHUNKS; i++) bits = part[i] > bits ? part[i] : bits;
    memcpy(largest, &bits, sizeof *largest);
    if (!isfinite(*largest)) *largest = INFINITY;
    return HM_OK;
}

/* ---- optimizers: a pass over pieces of all arrays -------------------------------------------- */

enum { PIECE = 16 << 10 }; /* elements; of four arrays 256 KiB, which a core's cache holds */

typedef void (*piece_fn)(const void *arg, const struct hm_update *u, size_t first, size_t n);

static size_t pieces_of(const struct hm_update *u)
{
    return u->packed ? hm_cpu_pack_pieces(u->packed) : (u->count + PIECE - 1) / PIECE;
}

static bool run_piece(const struct hm_update *u, size_t i, piece_fn fn, const void *arg)
{
    size_t first = i * PIECE, n = u->count - first < PIECE ? u->count - first : PIECE;
    if (u->packed) hm_cpu_pack_range(u->packed, (unsigned)i, &first, &n);
    fn(arg, u, first, n);
    return !u->packed || hm_cpu_pack_piece(u->packed, (unsigned)i);
}

static enum hm_status run_pass(const struct hm_update *updates, unsigned update_count, piece_fn fn,
                               const void *arg)
{
    size_t elements = 0, pieces = 0;
    for (unsigned k = 0; k < update_count; k++) {
        elements += updates[k].count;
        pieces += pieces_of(&updates[k]);
    }
    atomic_bool good = true;
    HM_CPU_PARALLEL(elements)
    for (size_t i = 0; i < pieces; i++) {
        size_t at = i;
        unsigned k = 0;
        while (at >= pieces_of(&updates[k])) at -= pieces_of(&updates[k++]);
        if (!run_piece(&updates[k], at, fn, arg)) atomic_store(&good, false);
    }
    return good ? HM_OK : hm_fail(HM_ERR_DEVICE, "oneDNN could not pack weights that were stepped");
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

struct sgd_step {
    float rate, momentum, weight_decay, gradient_scale;
};

static void sgd_piece(const void *arg, const struct hm_update *u, size_t first, size_t n)
{
    const struct sgd_step *a = arg;
    if (u->slot[0])
        sgd_momentum(u->param + first, u->grad + first, u->slot[0] + first, n, a->rate, a->momentum,
                     a->weight_decay, a->gradient_scale);
    else
        sgd_plain(u->param + first, u->grad + first, n, a->rate, a->weight_decay,
                  a->gradient_scale);
}

enum hm_status hm_cpu_sgd(struct hm_stream *s, float rate, float momentum, float weight_decay,
                          float gradient_scale, const struct hm_update *updates,
                          unsigned update_count)
{
    (void)s;
    const struct sgd_step a = {rate, momentum, weight_decay, gradient_scale};
    return run_pass(updates, update_count, sgd_piece, &a);
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

static void adam_piece(const void *arg, const struct hm_update *u, size_t first, size_t n)
{
    adam_chunk(arg, u->param + first, u->grad + first, u->slot[0] + first, u->slot[1] + first, n);
}

enum hm_status hm_cpu_adam(struct hm_stream *s, const struct hm_adam *conf, uint64_t step,
                           float rate, float gradient_scale, const struct hm_update *updates,
                           unsigned update_count)
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
    return run_pass(updates, update_count, adam_piece, &a);
}
