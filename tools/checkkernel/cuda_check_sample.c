/* cuda_check_sample.c - sampling against engine/sampler.c itself, fed with the same random numbers.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "kern/cuda/cuda_ops.h"
#include "lutra/engine.h"

typedef struct {
    int64_t n, vocab;
    float temperature, top_p, min_p, penalty;
    int32_t top_k;
    int kind; /* of logits: 0 smooth, 1 many ties, 2 flat, 3 with NaN and infinities, 4 only NaN */
} shape;

static float logit(cc *t, int kind)
{
    const double u = cc_uniform(t, 0, 1);
    if (kind == 1)
        return (float)cc_pick(t, -6, 6);
    if (kind == 2)
        return (float)(u * 1e-3);
    if (kind == 4 || (kind == 3 && u < 0.2))
        return NAN;
    if (kind == 3 && u < 0.4)
        return -INFINITY;
    return (float)(cc_uniform(t, -4, 4) + cc_uniform(t, -4, 4) + cc_uniform(t, -4, 4));
}

static void sample(cc *t, const shape *s, double shift)
{
    cc_case(t, "n %lld vocab %lld T %g top_k %d top_p %g min_p %g penalty %g kind %d",
            (long long)s->n, (long long)s->vocab, (double)s->temperature, s->top_k,
            (double)s->top_p, (double)s->min_p, (double)s->penalty, s->kind);
    const int64_t words = (s->vocab + 31) / 32;
    float *logits = cc_host((size_t)(s->n * s->vocab) * 4);
    uint32_t *seen = cc_host((size_t)(s->n * words) * 4);
    double *uniform = cc_host((size_t)s->n * 8);
    int32_t *want = cc_host((size_t)s->n * 4), *got = cc_host((size_t)s->n * 4);
    for (int64_t i = 0; i < s->n * s->vocab; i++)
        logits[i] = logit(t, s->kind);
    for (int64_t r = 0; r < s->n; r++) {
        lutra_sampling p;
        lutra_err err;
        lutra_sampler *sampler = NULL;
        lutra_sampling_init(&p);
        p.temperature = s->temperature;
        p.top_p = s->top_p;
        p.top_k = s->top_k;
        p.min_p = s->min_p;
        p.repetition_penalty = s->penalty;
        p.seed = lu_random_next(&t->random);
        if (lutra_sampler_open(&p, s->vocab, &sampler, &err)) {
            cc_fail(t, "the sampler refuses: %s", err.msg);
            break;
        }
        for (int k = 0; k < 40; k++) {
            const int64_t id = cc_pick(t, 0, s->vocab - 1);
            lutra_sampler_accept(sampler, (int32_t)id);
            seen[r * words + id / 32] |= 1u << (id % 32);
        }
        lu_random random;
        lu_random_seed(&random, p.seed);
        uniform[r] = fmod(lu_random_unit(&random) + shift, 1.0);
        want[r] = lutra_sampler_pick(sampler, logits + r * s->vocab);
        lutra_sampler_close(sampler);
    }
    uint32_t *d_seen = cc_fresh(t, seen, (size_t)(s->n * words) * 4);
    const lu_cuda_sample_args a = {.n = s->n,
                                   .vocab = s->vocab,
                                   .logits = cc_input(t, logits, (size_t)(s->n * s->vocab) * 4),
                                   .seen = d_seen,
                                   .temperature = s->temperature,
                                   .top_p = s->top_p,
                                   .min_p = s->min_p,
                                   .repetition_penalty = s->penalty,
                                   .top_k = s->top_k,
                                   .uniform = cc_input(t, uniform, (size_t)s->n * 8),
                                   .ids = cc_output(t, (size_t)s->n * 4),
                                   .scratch = cc_output(t, lu_cuda_sample_scratch(s->n, s->vocab))};
    cc_status(t, lu_cuda_sample(&a));
    cc_fetch(t, a.ids, got, (size_t)s->n * 4);
    for (int64_t r = 0; r < s->n; r++) {
        if (got[r] != want[r]) {
            const bool inside = got[r] >= 0 && got[r] < s->vocab;
            cc_fail(t, "row %lld: id %d (logit %g), the CPU takes %d (logit %g), u %.6f",
                    (long long)r, got[r], inside ? (double)logits[r * s->vocab + got[r]] : NAN,
                    want[r], (double)logits[r * s->vocab + want[r]], uniform[r]);
            break;
        }
        seen[r * words + want[r] / 32] |= 1u << (want[r] % 32);
    }
    cc_same_bits(t, "seen", d_seen, cc_input(t, seen, (size_t)(s->n * words) * 4),
                 (size_t)(s->n * words) * 4);
    cc_end(t);
    free(got), free(want), free(uniform), free(seen), free(logits);
}

static void check_sample(cc *t)
{
    static const int64_t vocabs[] = {1, 2, 33, 500, 4095, 4097, 32000, 128256};
    static const shape ways[] = {
        {0, 0, 0.0f, 1.0f, 0.0f, 1.0f, 0, 0},    {0, 0, 0.0f, 1.0f, 0.0f, 1.3f, 0, 1},
        {0, 0, 1.0f, 1.0f, 0.0f, 1.0f, 0, 0},    {0, 0, 0.7f, 1.0f, 0.05f, 1.1f, 0, 0},
        {0, 0, 0.8f, 1.0f, 0.0f, 1.0f, 40, 0},   {0, 0, 0.8f, 0.9f, 0.0f, 1.2f, 40, 1},
        {0, 0, 1.0f, 0.9f, 0.0f, 1.0f, 0, 0},    {0, 0, 0.6f, 0.95f, 0.02f, 1.1f, 0, 0},
        {0, 0, 1.5f, 0.99f, 0.0f, 1.0f, 0, 0},   {0, 0, 1.0f, 0.5f, 0.0f, 1.0f, 0, 2},
        {0, 0, 1.0f, 0.9f, 0.1f, 1.0f, 1, 0},    {0, 0, 1.0f, 0.9f, 0.0f, 1.0f, 7, 1},
        {0, 0, 1.0f, 1.0f, 0.0f, 1.0f, 3000, 0}, {0, 0, 1.0f, 0.7f, 0.0f, 1.5f, 0, 3},
        {0, 0, 1.0f, 0.9f, 0.0f, 1.0f, 5, 4},    {0, 0, 2.0f, 0.3f, 0.0f, 1.0f, 0, 1},
        {0, 0, 0.0f, 1.0f, 0.0f, 1.0f, 0, 3},    {0, 0, 1.0f, 1.0f, 0.0f, 1.0f, 0, 3},
    };
    for (int v = 0; v < 8; v++)
        for (int k = 0; k < (int)(sizeof ways / sizeof *ways); k++) {
            shape s = ways[k];
            s.vocab = vocabs[v];
            s.n = v > 5 ? 2 : 6;
            sample(t, &s, 0.0);
        }
    const shape s = {8, 500, 1.0f, 1.0f, 0.0f, 1.0f, 0, 0};
    cc_plant(t);
    sample(t, &s, 0.3);
    cc_planted(t, "another random number");
}

const cc_op cc_sample_ops[] = {{"sample", check_sample}, {NULL, NULL}};
