/* base/rng.h - seeded random streams: xoshiro256** (Blackman & Vigna 2018), seeded by SplitMix64.
 *
 * One stream per purpose, so that a new draw in one does not shift the others.  Not for keys: those
 * are OpenSSL's. */
#ifndef HM_BASE_RNG_H
#define HM_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct hm_rng {
    uint64_t state[4];
};

void hm_rng_init(struct hm_rng *rng, uint64_t seed, uint64_t stream);
uint64_t hm_rng_next(struct hm_rng *rng);
/* Uniform in [0, bound), bound > 0, no modulo bias. */
uint64_t hm_rng_below(struct hm_rng *rng, uint64_t bound);
float hm_rng_uniform(struct hm_rng *rng); /* [0, 1), 24 bits */
float hm_rng_normal(struct hm_rng *rng);  /* mean 0, deviation 1 (Box-Muller, no state kept) */
/* Fisher-Yates over 32-bit indices. */
void hm_rng_shuffle(struct hm_rng *rng, uint32_t *index, size_t count);
/* A 64-bit seed from the operating system (getrandom). */
uint64_t hm_rng_os_seed(void);

#endif
