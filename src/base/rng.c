/* base/rng.c - xoshiro256** and what is drawn from it.
 *
 * Source: Blackman & Vigna, "Scrambled linear pseudorandom number generators" (2018), section 3 for
 * the generator; Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014) for
 * SplitMix64. */
#include "base/rng.h"

#include "base/assert.h"

#include <errno.h>
#include <math.h>
#include <sys/random.h>

static uint64_t split_mix(uint64_t *state)
{
    *state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int bits)
{
    return (x << bits) | (x >> (64 - bits));
}

void hm_rng_init(struct hm_rng *rng, uint64_t seed, uint64_t stream)
{
    /* The stream is scrambled before it meets the seed: (seed, stream + 1) must not be (seed + 1,
     * stream). */
    uint64_t stream_state = stream;
    uint64_t state = seed ^ split_mix(&stream_state);
    for (int i = 0; i < 4; i++) rng->state[i] = split_mix(&state);
}

uint64_t hm_rng_next(struct hm_rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t hm_rng_below(struct hm_rng *rng, uint64_t bound)
{
    HM_ASSERT(bound > 0);
    if ((bound & (bound - 1)) == 0) return hm_rng_next(rng) & (bound - 1);
    /* 2^64 mod bound draws at the bottom are refused, so that each remainder is hit equally often.
     */
    uint64_t refused = (UINT64_C(0) - bound) % bound;
    uint64_t draw;
    do draw = hm_rng_next(rng);
    while (draw < refused);
    return draw % bound;
}

float hm_rng_uniform(struct hm_rng *rng)
{
    return (float)(hm_rng_next(rng) >> 40) * 0x1p-24f;
}

float hm_rng_normal(struct hm_rng *rng)
{
    const double two_pi = 6.283185307179586476925;
    double radius_draw =
        (double)((hm_rng_next(rng) >> 11) + 1) * 0x1p-53; /* (0, 1]: log is finite */
    double angle_draw = (double)(hm_rng_next(rng) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(radius_draw)) * cos(two_pi * angle_draw));
}

void hm_rng_shuffle(struct hm_rng *rng, uint32_t *index, size_t count)
{
    for (size_t left = count; left > 1; left--) {
        size_t pick = (size_t)hm_rng_below(rng, left);
        uint32_t kept = index[left - 1];
        index[left - 1] = index[pick];
        index[pick] = kept;
    }
}

uint64_t hm_rng_os_seed(void)
{
    uint64_t seed = 0;
    ssize_t got;
    do got = getrandom(&seed, sizeof seed, 0);
    while (got < 0 && errno == EINTR);
    HM_ASSERT(got ==
              (ssize_t)sizeof seed); /* getrandom of 8 bytes does not fail on Linux after 3.17 */
    return seed;
}
