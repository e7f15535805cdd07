/* codebook.c - the numbers of the built-in codebooks.

   nfB   quantiles of the normal distribution (Dettmers et al. 2023, QLoRA; NF4 as published, NF3
         and NF2 by the same construction). The largest weight of a group maps to 1 or -1.
   lmB   the 2^B values with the smallest mean squared error for a normal distribution of deviation
   1 (Lloyd 1982, Max 1960), for scales near the deviation of the group, as rounding with the
         smallest squared error chooses them. Without that search the largest weight maps to the
         mean of the largest of 64 normal magnitudes, 2.596, which clips what lies beyond the
         table; lm4 reaches further and maps it to its end. No value is 0: a weight of 0 becomes the
         low one of the two next to it (groups of zeros stay zeros), so sparse weights want another
         table. tests/unit/test_lloyd_max.c derives the numbers.
   kmB   a table learned for each matrix, or block of its rows (algo/learn_table.c); learning starts
         from lmB.
   intB  two's complement integers. The largest weight maps to 2^(B-1)-0.5, half of the 2^B-1 steps
         (GPTQ, compressed-tensors): the range has the lowest code in it, and the largest positive
         weight is half a step beyond the highest code. 2^(B-1)-1 leaves the lowest code unused, at
         2 bits one of four (perplexities in docs/accuracy.md).
   fpB   sign and a tiny float. fp4 is E2M1 as in OCP MX. fp3 is E2M0 rather than E1M1: on Gaussian
         weights in groups of 64 (128) its mean squared error is 0.051 (0.057) against 0.063
         (0.075). fp2 is E1M0; +-1, +-2 without a zero is worse (0.59 against 0.52). Both
         zeros of these formats keep their code (sorted they are neighbours), so converting to the
         sign-and-magnitude bits of hardware is a permutation. */
#include "fmt/codebook.h"

#include <string.h>

static const float nf2[] = {-1, 0, 0.3379151367f, 1};
static const float nf3[] = {
    -1, -0.4786290853f, -0.2171417800f, 0, 0.1609301444f, 0.3379151367f, 0.5626168880f, 1,
};
static const float nf4[] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};
static const float lm2[] = {-1.510417608f, -0.4527800346f, 0.4527800346f, 1.510417608f};
static const float lm3[] = {
    -2.151945705f, -1.343909279f, -0.7560052812f, -0.2450941789f,
    0.2450941789f, 0.7560052812f, 1.343909279f,   2.151945705f,
};
static const float lm4[] = {
    -2.732589571f,  -2.069017227f,  -1.618046386f, -1.256231197f, -0.9423404565f, -0.6567591185f,
    -0.3880482995f, -0.1283950299f, 0.1283950299f, 0.3880482995f, 0.6567591185f,  0.9423404565f,
    1.256231197f,   1.618046386f,   2.069017227f,  2.732589571f,
};
static const float fp2[] = {-1, 0, 0, 1};
static const float fp3[] = {-4, -2, -1, 0, 0, 1, 2, 4};
static const float fp4[] = {-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

static const lu_codebook codebooks[] = {
    {"nf4", "4-bit normal float, for bell-shaped weights: the usual choice", 4, false, nf4, 1},
    {"nf3", "3-bit normal float", 3, false, nf3, 1},
    {"nf2", "2-bit normal float", 2, false, nf2, 1},
    {"lm4", "4-bit Lloyd-Max: least squared error for bell-shaped weights", 4, false, lm4,
     2.732589571f},
    {"lm3", "3-bit Lloyd-Max", 3, false, lm3, 2.596110765f},
    {"lm2", "2-bit Lloyd-Max: the choice at 2 bits", 2, false, lm2, 2.596110765f},
    {"km4", "4-bit table learned for each matrix by weighted k-means; :rowsN one per N rows", 4,
     false, lm4, 2.732589571f, .learned = true},
    {"km3", "3-bit learned table", 3, false, lm3, 2.596110765f, .learned = true},
    {"km2", "2-bit learned table", 2, false, lm2, 2.596110765f, .learned = true},
    {"int2", "2-bit integer; :asym adds a zero point", 2, true, NULL, 1.5f},
    {"int3", "3-bit integer; :asym adds a zero point", 3, true, NULL, 3.5f},
    {"int4", "4-bit integer; :asym adds a zero point", 4, true, NULL, 7.5f},
    {"int5", "5-bit integer; :asym adds a zero point", 5, true, NULL, 15.5f},
    {"int6", "6-bit integer; :asym adds a zero point", 6, true, NULL, 31.5f},
    {"int7", "7-bit integer; :asym adds a zero point", 7, true, NULL, 63.5f},
    {"int8", "8-bit integer, close to lossless; :asym adds a zero point", 8, true, NULL, 127.5f},
    {"fp4", "4-bit float E2M1", 4, false, fp4, 6},
    {"fp3", "3-bit float E2M0", 3, false, fp3, 4},
    {"fp2", "2-bit float E1M0: -1, 0, 1", 2, false, fp2, 1},
};

int lutra_codebook_count(void) { return (int)(sizeof codebooks / sizeof codebooks[0]); }

static const lu_codebook *codebook_at(int i)
{
    return i >= 0 && i < lutra_codebook_count() ? &codebooks[i] : NULL;
}

const lu_codebook *lu_codebook_find(const char *name)
{
    for (int i = 0; i < lutra_codebook_count(); i++)
        if (strcmp(codebooks[i].name, name) == 0)
            return &codebooks[i];
    return NULL;
}

void lu_codebook_table(const lu_codebook *c, bool zero_point, float *table)
{
    const int n = 1 << c->bits, first = zero_point ? 0 : -n / 2;
    for (int i = 0; i < n; i++)
        table[i] = c->integer   ? (float)(first + i)
                   : c->learned ? c->values[i] / c->absmax_ref
                                : c->values[i];
}

const char *lutra_codebook_name(int i)
{
    const lu_codebook *c = codebook_at(i);
    return c ? c->name : NULL;
}

const char *lutra_codebook_help(int i)
{
    const lu_codebook *c = codebook_at(i);
    return c ? c->help : NULL;
}
