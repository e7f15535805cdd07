/* test_ops.c - properties of the row kernels and of attention that hold at every level. Bounds on
   each kernel's error are checkkernel's; here is what a caller relies on by meaning. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kern/table.h"
#include "tensor/convert.h"

typedef struct {
    int64_t n_q, n_heads, pos, head_dim, window;
    float softcap;
    int bf16;
} attend_case;

static const attend_case CASES[] = {
    {1, 1, 0, 64, 0, 0, 0},     {1, 4, 200, 64, 0, 0, 1},    {70, 1, 0, 64, 0, 0, 0},
    {33, 3, 100, 80, 0, 30, 1}, {40, 2, 130, 96, 50, 0, 0},  {20, 1, 63, 128, 1, 0, 1},
    {9, 2, 60, 256, 64, 50, 0}, {17, 5, 250, 33, 100, 0, 1}, {5, 1, 3, 1, 0, 0, 0},
    {67, 2, 0, 7, 3, 5, 0},
};
#define N_CASES (int)(sizeof CASES / sizeof *CASES)

static uint64_t seed;

/* Uniform in [-2, 2): sums of 256 products give scores far enough apart for a peaked softmax. */
static float random_float(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(seed >> 11) * 0x1p-51 - 2.0);
}

typedef struct {
    lu_attend_args args;
    float *q, *out, *scratch;
    void *k, *v;
} attend_data;

static void *random_kv(int64_t n, int bf16)
{
    void *x = lu_array((size_t)n, bf16 ? sizeof(uint16_t) : sizeof(float));
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        if (bf16)
            ((uint16_t *)x)[i] = lu_f32_to_bf16(random_float());
        else
            ((float *)x)[i] = random_float();
    return x;
}

static attend_data make(const attend_case *c)
{
    const int64_t row = c->n_heads * c->head_dim, n_kv = c->pos + c->n_q;
    attend_data t;
    seed = 7;
    t.q = random_kv(c->n_q * row, 0);
    t.k = random_kv(n_kv * c->head_dim, c->bf16);
    t.v = random_kv(n_kv * c->head_dim, c->bf16);
    t.out = lu_array((size_t)(c->n_q * row), sizeof *t.out);
    t.scratch = lu_array(lu_attend_scratch(n_kv, c->head_dim), sizeof *t.scratch);
    assert_non_null(t.out);
    assert_non_null(t.scratch);
    t.args = (lu_attend_args){.q = t.q,
                              .q_stride = row,
                              .q_head_stride = c->head_dim,
                              .n_q = c->n_q,
                              .n_heads = c->n_heads,
                              .pos = c->pos,
                              .k = t.k,
                              .v = t.v,
                              .kind = c->bf16 ? LU_KV_BF16 : LU_KV_F32,
                              .head_dim = c->head_dim,
                              .window = c->window,
                              .scale = 1.0f / sqrtf((float)c->head_dim),
                              .softcap = c->softcap,
                              .out = t.out,
                              .out_stride = row,
                              .out_head_stride = c->head_dim,
                              .scratch = t.scratch};
    return t;
}

static void release(attend_data *t)
{
    lu_free(t->q);
    lu_free(t->k);
    lu_free(t->v);
    lu_free(t->out);
    lu_free(t->scratch);
}

static double kv_at(const lu_attend_args *a, const void *kv, int64_t j, int64_t d)
{
    const int64_t i = j * a->head_dim + d;
    return a->kind == LU_KV_BF16 ? lu_bf16_to_f32(((const uint16_t *)kv)[i]) : ((const float *)kv)[i];
}

/* The definition, in double: weights of every position, the invisible ones 0. */
static void attend_in_double(const lu_attend_args *a, int64_t h, int64_t i, double *out)
{
    const float *q = a->q + h * a->q_head_stride + i * a->q_stride;
    double total = 0;
    for (int64_t d = 0; d < a->head_dim; d++)
        out[d] = 0;
    for (int64_t j = 0; j <= a->pos + i; j++) {
        if (a->window > 0 && a->pos + i - j >= a->window)
            continue;
        double s = 0;
        for (int64_t d = 0; d < a->head_dim; d++)
            s += q[d] * kv_at(a, a->k, j, d);
        s *= a->scale;
        if (a->softcap > 0)
            s = a->softcap * tanh(s / a->softcap);
        const double w = exp(s); /* |s| stays below 64 here: no maximum needed in double */
        total += w;
        for (int64_t d = 0; d < a->head_dim; d++)
            out[d] += w * kv_at(a, a->v, j, d);
    }
    for (int64_t d = 0; d < a->head_dim; d++)
        out[d] /= total;
}

static void attention_is_the_softmax_average_of_visible_values(void **state)
{
    const lu_ops *ops = *state;
    for (int c = 0; c < N_CASES; c++) {
        attend_data t = make(&CASES[c]);
        double want[256];
        ops->attend(&t.args);
        for (int64_t h = 0; h < CASES[c].n_heads; h++)
            for (int64_t i = 0; i < CASES[c].n_q; i++) {
                attend_in_double(&t.args, h, i, want);
                const float *got = t.out + i * t.args.out_stride + h * t.args.out_head_stride;
                /* scores up to 64 carry an error of about 64 u head_dim^(1/2) into the weights;
                   values are below 2 */
                for (int64_t d = 0; d < t.args.head_dim; d++)
                    assert_true(fabs(got[d] - want[d]) <= 2 * 64 * 16 * 0x1p-24);
            }
        release(&t);
    }
}

static void a_query_has_the_same_bits_in_every_batch(void **state)
{
    const lu_ops *ops = *state;
    for (int c = 0; c < N_CASES; c++) {
        attend_data t = make(&CASES[c]);
        const size_t bytes = (size_t)(t.args.n_q * t.args.out_stride) * sizeof(float);
        float *alone = lu_alloc(bytes);
        assert_non_null(alone);
        ops->attend(&t.args);
        for (int64_t chunk = 1; chunk <= 7; chunk += 3)
            for (int64_t i = 0; i < t.args.n_q; i += chunk)
                for (int64_t h = 0; h < CASES[c].n_heads; h++) {
                    lu_attend_args one = t.args;
                    one.q += i * one.q_stride + h * one.q_head_stride;
                    one.out = alone + i * one.out_stride + h * one.out_head_stride;
                    one.n_q = t.args.n_q - i < chunk ? t.args.n_q - i : chunk;
                    one.pos += i;
                    one.n_heads = 0;
                    ops->attend(&one);
                    if (h == CASES[c].n_heads - 1 && i + chunk >= t.args.n_q)
                        assert_memory_equal(alone, t.out, bytes);
                }
        lu_free(alone);
        release(&t);
    }
}

static void what_a_query_does_not_see_cannot_reach_it(void **state)
{
    const lu_ops *ops = *state;
    const attend_case c = {40, 2, 30, 48, 16, 0, 0};
    attend_data t = make(&c);
    for (int64_t d = 0; d < c.head_dim; d++) /* position 50: seen by queries 20 to 35 */
        ((float *)t.k)[50 * c.head_dim + d] = ((float *)t.v)[50 * c.head_dim + d] = NAN;
    ops->attend(&t.args);
    for (int64_t i = 0; i < c.n_q; i++)
        for (int64_t d = 0; d < 2 * c.head_dim; d++)
            assert_int_equal(isnan(t.out[i * t.args.out_stride + d]) != 0, i >= 20 && i < 36);
    release(&t);
}

static void softmax_sums_to_one_and_keeps_order(void **state)
{
    const lu_ops *ops = *state;
    float x[1000], p[1000];
    for (int64_t n = 1; n <= 1000; n += 37) {
        seed = (uint64_t)n;
        for (int64_t i = 0; i < n; i++)
            p[i] = x[i] = 20 * random_float();
        ops->softmax(p, n);
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += p[i];
        /* each term is within 2 ulp or so, signs mixed */
        assert_true(fabs(sum - 1) <= 4 * 0x1p-24);
        assert_int_equal(ops->argmax(p, n), ops->argmax(x, n));
    }
}

static void softmax_of_huge_and_minus_infinite_logits_is_finite(void **state)
{
    const lu_ops *ops = *state;
    float x[20] = {1e38f, 1e38f};
    for (int i = 2; i < 20; i++)
        x[i] = -INFINITY;
    ops->softmax(x, 20);
    assert_true(x[0] == 0.5f && x[1] == 0.5f);
    for (int i = 2; i < 20; i++)
        assert_true(x[i] == 0);
}

static void argmax_takes_the_lowest_index_and_skips_nan(void **state)
{
    const lu_ops *ops = *state;
    float x[70];
    for (int i = 0; i < 70; i++)
        x[i] = (float)(i % 10);
    assert_int_equal(ops->argmax(x, 70), 9);
    x[9] = NAN;
    assert_int_equal(ops->argmax(x, 70), 19);
    for (int i = 0; i < 70; i++)
        x[i] = i < 40 ? NAN : -INFINITY;
    assert_int_equal(ops->argmax(x, 70), 40);
    assert_int_equal(ops->argmax(x, 40), -1);
    assert_int_equal(ops->argmax(x, 0), -1);
    const float zeros[3] = {-0.0f, 0.0f, -0.0f};
    assert_int_equal(ops->argmax(zeros, 3), 0);
}

static void logsumexp_of_equal_values_adds_the_log_of_their_count(void **state)
{
    const lu_ops *ops = *state;
    static float x[100000];
    for (int i = 0; i < 100000; i++)
        x[i] = -3.25f;
    assert_true(fabs(ops->logsumexp(x, 100000) - (-3.25 + log(100000))) <= 8 * 0x1p-24);
    assert_true(ops->logsumexp(x, 1) == -3.25f);
    assert_true(ops->logsumexp(x, 0) == -INFINITY);
}

static void every_half_converts_exactly_and_back(void **state)
{
    const lu_ops *ops = *state;
    static uint16_t h[65536], back[65536];
    static float f[65536];
    for (int i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        (bf16 ? ops->bf16_to_f32 : ops->f16_to_f32)(f, h, 65536);
        (bf16 ? ops->f32_to_bf16 : ops->f32_to_f16)(back, f, 65536);
        for (int i = 0; i < 65536; i++) {
            const float want = bf16 ? lu_bf16_to_f32(h[i]) : lu_f16_to_f32(h[i]);
            assert_true(isnan(want) ? isnan(f[i]) : lu_f32_bits(want) == lu_f32_bits(f[i]));
            assert_true(isnan(want) || back[i] == h[i]);
        }
    }
}

/* Each test runs once per level this machine has. */
/* clang-format off */
#define AT(level, test) {#test " (" #level ")", test, NULL, NULL, &ops[LU_LEVEL_##level]}
#define AT_LEVEL(level)                                                    \
    {                                                                      \
        AT(level, attention_is_the_softmax_average_of_visible_values),     \
        AT(level, a_query_has_the_same_bits_in_every_batch),               \
        AT(level, what_a_query_does_not_see_cannot_reach_it),              \
        AT(level, softmax_sums_to_one_and_keeps_order),                    \
        AT(level, softmax_of_huge_and_minus_infinite_logits_is_finite),    \
        AT(level, argmax_takes_the_lowest_index_and_skips_nan),            \
        AT(level, logsumexp_of_equal_values_adds_the_log_of_their_count),  \
        AT(level, every_half_converts_exactly_and_back),                   \
    }
/* clang-format on */

int main(void)
{
    static lu_ops ops[LU_N_LEVELS];
    const struct CMUnitTest ref[] = AT_LEVEL(REF), avx2[] = AT_LEVEL(AVX2);
    const struct CMUnitTest avx512[] = AT_LEVEL(AVX512);
    int failed = 0;
    for (int i = 0; i <= (int)lu_level_best(); i++)
        lu_ops_fill(&ops[i], (lu_level)i);
    failed += cmocka_run_group_tests(ref, NULL, NULL);
    if (lu_level_available(LU_LEVEL_AVX2))
        failed += cmocka_run_group_tests(avx2, NULL, NULL);
    if (lu_level_available(LU_LEVEL_AVX512))
        failed += cmocka_run_group_tests(avx512, NULL, NULL);
    return failed;
}
