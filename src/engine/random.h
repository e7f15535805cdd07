/* random.h - the sampler's random numbers: xoshiro256** (Blackman & Vigna 2018), its state filled
   by splitmix64 from a seed. The same seed gives the same numbers on every machine. */
#ifndef LU_ENGINE_RANDOM_H
#define LU_ENGINE_RANDOM_H

#include <stdint.h>

typedef struct lu_random {
    uint64_t s[4];
} lu_random;

static inline uint64_t lu_splitmix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u; /* 2^64 / golden ratio */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline void lu_random_seed(lu_random *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        r->s[i] = lu_splitmix(&seed);
}

static inline uint64_t lu_rotate_left(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

static inline uint64_t lu_random_next(lu_random *r)
{
    uint64_t *s = r->s;
    const uint64_t result = lu_rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = lu_rotate_left(s[3], 45);
    return result;
}

/* Uniform in [0, 1): the upper 53 bits. */
static inline double lu_random_unit(lu_random *r)
{
    return (double)(lu_random_next(r) >> 11) * 0x1p-53;
}

#endif
