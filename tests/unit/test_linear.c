/* test_linear.c - matrix products at every level against float64, and what must be bit-exact:
   decoding, one row alone or in a batch, any split of the units, bias. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kern/linear.h"
#include "tensor/convert.h"

enum { MAX_M = 40 };

/* A weight with everything it points at, and the product computed in float64 for comparison. */
typedef struct problem {
    lu_weight w;
    lutra_dtype act;
    uint8_t *data, *scales, *zeros;
    float *bias;
    int64_t M;
    float *x;      /* [M][k] values exact in act */
    void *x_act;   /* the same as act */
    float *wf;     /* [n][k] as multiplied: table rounded to bf16 where act is BF16 */
} problem;

static uint64_t seed = 1;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* Sum of uniform values: close to normal, sigma 1. */
static float random_normal(void)
{
    float s = 0;
    for (int i = 0; i < 12; i++)
        s += (float)(random_bits() & 0xffff) / 65536.0f;
    return s - 6.0f;
}

static float round_as(float v, lutra_dtype t)
{
    if (t == LUTRA_F16)
        return lu_f16_to_f32(lu_f32_to_f16(v));
    return t == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(v)) : v;
}

static void make_x(problem *p, int64_t M)
{
    p->M = M;
    const size_t count = (size_t)(M * p->w.k) + 1;
    p->x = lu_array(count, sizeof *p->x);
    p->x_act = lu_array(count, lutra_dtype_bytes(p->act));
    for (int64_t i = 0; i < M * p->w.k; i++)
        p->x[i] = round_as(random_normal(), p->act);
}

/* Call after changing p->x. */
static void store_x(problem *p) { lu_from_f32(p->act, p->x, p->M * p->w.k, p->x_act); }

static void make_bias(problem *p)
{
    p->bias = lu_array((size_t)p->w.n, sizeof *p->bias);
    for (int64_t i = 0; i < p->w.n; i++)
        p->bias[i] = random_normal();
}

static void make_coded(problem *p, int bits, int64_t group, lutra_dtype scale_dtype, bool zeros,
                       bool int_table)
{
    const int64_t n = p->w.n, k = p->w.k, g = group ? group : k, groups = k / g;
    const size_t row = ((size_t)k * (size_t)bits + 7) / 8;
    const int size = 1 << bits;
    p->w.bits = bits;
    p->w.group_size = group;
    p->w.scale_dtype = scale_dtype;
    for (int i = 0; i < size; i++)
        p->w.table[i] = int_table ? (float)(i - size / 2) : random_normal();
    p->data = lu_calloc((size_t)n, row);
    for (int64_t r = 0; r < n; r++) /* random codes, padding bits zero */
        for (int64_t i = 0; i < k * bits; i++)
            p->data[(size_t)r * row + (size_t)(i >> 3)] |=
                (uint8_t)((random_bits() & 1u) << (i & 7));
    p->scales = lu_array((size_t)(n * groups), lutra_dtype_bytes(scale_dtype));
    p->zeros = zeros ? lu_array((size_t)(n * groups), 1) : NULL;
    for (int64_t i = 0; i < n * groups; i++) {
        const float s = 0.01f + 0.001f * fabsf(random_normal());
        lu_from_f32(scale_dtype, &s, 1, p->scales + (size_t)i * lutra_dtype_bytes(scale_dtype));
        if (zeros)
            p->zeros[i] = (uint8_t)(random_bits() % (unsigned)size);
    }
    p->w.data = p->data;
    p->w.scales = p->scales;
    p->w.zeros = p->zeros;
}

static void make_dense(problem *p, lutra_dtype dtype)
{
    const int64_t count = p->w.n * p->w.k;
    p->w.dtype = dtype;
    p->data = lu_array((size_t)count, lutra_dtype_bytes(dtype));
    for (int64_t i = 0; i < count; i++) {
        const float v = random_normal();
        lu_from_f32(dtype, &v, 1, p->data + (size_t)i * lutra_dtype_bytes(dtype));
    }
    p->w.data = p->data;
}

/* The weights as the product uses them. */
static void make_wf(problem *p)
{
    const int64_t n = p->w.n, k = p->w.k;
    p->wf = lu_array((size_t)(n * k), sizeof *p->wf);
    lu_weight w = p->w;
    if (p->act == LUTRA_BF16 && w.dtype == LUTRA_DTYPE_NONE)
        for (int i = 0; i < 1 << w.bits; i++)
            w.table[i] = round_as(w.table[i], LUTRA_BF16);
    for (int64_t r = 0; r < n; r++)
        lu_weight_row(&w, r, p->wf + r * k);
    if (p->act == LUTRA_BF16 && w.dtype != LUTRA_DTYPE_NONE)
        for (int64_t i = 0; i < n * k; i++)
            p->wf[i] = round_as(p->wf[i], LUTRA_BF16);
}

static void free_problem(problem *p)
{
    lu_free(p->data);
    lu_free(p->scales);
    lu_free(p->zeros);
    lu_free(p->bias);
    lu_free(p->x);
    lu_free(p->x_act);
    lu_free(p->wf);
}

static lu_linear planned(problem *p, lu_level level)
{
    lu_linear l;
    lutra_err err;
    assert_int_equal(lu_linear_plan(&p->w, p->act, level, &l, &err), LUTRA_OK);
    void *packed = lu_alloc_aligned(l.packed_bytes);
    assert_non_null(packed);
    memset(packed, 0xff, l.packed_bytes);
    lu_linear_attach(&l, &p->w, packed);
    lu_linear_pack(&l, &p->w, 0, l.n_units / 2);
    lu_linear_pack(&l, &p->w, l.n_units / 2, l.n_units);
    l.bias = p->bias;
    return l;
}

/* y [M][ldy], poisoned with NaN first; checks that columns past n stay untouched. */
static float *product(const lu_linear *l, const void *x, int64_t M, int64_t split, int64_t ldy)
{
    const size_t bytes = lu_linear_scratch(l, M);
    void *scratch = lu_alloc_aligned(bytes);
    float *y = lu_array((size_t)(M * ldy) + 1, sizeof *y);
    memset(scratch, 0xff, bytes);
    memset(y, 0xff, (size_t)(M * ldy) * sizeof *y);
    for (int64_t u = 0; u < l->n_units; u += split) {
        const int64_t end = u + split < l->n_units ? u + split : l->n_units;
        const lu_linear_args a = {.x = x,
                                  .ldx = l->k,
                                  .M = M,
                                  .y = y,
                                  .ldy = ldy,
                                  .unit0 = u,
                                  .unit1 = end,
                                  .scratch = scratch};
        lu_linear_run(l, &a);
    }
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = l->n; n < ldy; n++)
            assert_int_equal(lu_f32_bits(y[m * ldy + n]), UINT32_MAX);
    lu_free_aligned(scratch);
    return y;
}

/* |y - exact| <= 8 u sqrt(K) |products|_2, plus u |y| for the bias and the last rounding. */
static void assert_close(const problem *p, const float *y, int64_t ldy)
{
    const double u = ldexp(1, -24);
    const int64_t k = p->w.k;
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t n = 0; n < p->w.n; n++) {
            double sum = p->bias ? p->bias[n] : 0, squares = sum * sum;
            for (int64_t i = 0; i < k; i++) {
                const double v = (double)p->x[m * k + i] * p->wf[n * k + i];
                sum += v;
                squares += v * v;
            }
            const double bound = 8 * u * sqrt((double)k * squares) + 2 * u * fabs(sum);
            const double diff = fabs(y[m * ldy + n] - sum);
            if (!(diff <= bound))
                fail_msg("%d bits %s, %lld x %lld, row %lld column %lld: %g, expected %g (bound %g)",
                         p->w.bits, lutra_dtype_name(p->w.dtype), (long long)p->w.n, (long long)k,
                         (long long)m, (long long)n, y[m * ldy + n], sum, bound);
        }
}

static void check_problem(problem *p, lu_level level)
{
    static const int64_t counts[] = {1, 2, 3, 7, 13};
    const int64_t ldy = p->w.n + 3;
    lu_linear l = planned(p, level);
    float *all = product(&l, p->x_act, p->M, l.n_units, ldy);
    assert_close(p, all, ldy);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) { /* rows m, m+1, .. of the batch */
        const int64_t M = counts[c] < p->M ? counts[c] : p->M, from = (p->M - M) / 2;
        const char *x = (const char *)p->x_act + (size_t)(from * l.k) * lutra_dtype_bytes(p->act);
        float *some = product(&l, x, M, 1, ldy);
        assert_memory_equal(some, all + from * ldy, (size_t)(M * ldy) * sizeof *some);
        lu_free(some);
    }
    lu_free(all);
    lu_free_aligned(l.packed);
}

typedef struct shape {
    int64_t n, k, group;
} shape;

static void at_every_level(void (*check)(lu_level level))
{
    for (lu_level level = 0; level < LU_N_LEVELS; level++)
        if (lu_level_available(level))
            check(level);
}

static void check_coded_level(lu_level level)
{
    static const shape shapes[] = {
        {1, 8, 8},     {5, 48, 24},   {16, 64, 64},   {17, 64, 32},  {64, 128, 64}, {65, 40, 8},
        {70, 256, 128}, {33, 1, 0},   {19, 131, 0},   {64, 300, 0},  {31, 512, 256}, {130, 96, 16},
    };
    static const lutra_dtype scale_dtypes[] = {LUTRA_F16, LUTRA_BF16, LUTRA_F32};
    int turn = 0;
    for (int bits = 2; bits <= 8; bits++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int a = 0; a < 2; a++, turn++) {
                problem p = {.w = {.n = shapes[s].n, .k = shapes[s].k}};
                p.act = a ? LUTRA_BF16 : LUTRA_F32;
                make_coded(&p, bits, shapes[s].group, scale_dtypes[turn % 3], turn % 5 < 2,
                           turn % 4 < 2);
                if (turn % 3 == 0)
                    make_bias(&p);
                make_x(&p, turn % 7 == 0 ? MAX_M : 13);
                store_x(&p);
                make_wf(&p);
                check_problem(&p, level);
                free_problem(&p);
            }
}

static void coded_products_match_float64_and_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    at_every_level(check_coded_level);
}

static void check_dense_level(lu_level level)
{
    static const shape shapes[] = {
        {1, 1, 0}, {7, 3, 0}, {16, 32, 0}, {17, 33, 0}, {64, 127, 0}, {65, 128, 0}, {130, 389, 0},
    };
    static const lutra_dtype dtypes[] = {LUTRA_F16, LUTRA_BF16, LUTRA_F32};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int d = 0; d < 3; d++)
            for (int a = 0; a < 2; a++) {
                problem p = {.w = {.n = shapes[s].n, .k = shapes[s].k}};
                p.act = a ? LUTRA_BF16 : LUTRA_F32;
                make_dense(&p, dtypes[d]);
                if (d == 1)
                    make_bias(&p);
                make_x(&p, 13);
                store_x(&p);
                make_wf(&p);
                check_problem(&p, level);
                free_problem(&p);
            }
}

static void dense_products_match_float64_and_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    at_every_level(check_dense_level);
}

/* x = 2 e_i picks column i: y is the decoded weight itself, doubled, to the bit. */
static void check_one_hot_level(lu_level level)
{
    for (int bits = 2; bits <= 8; bits++)
        for (int a = 0; a < 2; a++) {
            problem p = {.w = {.n = 35, .k = 72}};
            p.act = a ? LUTRA_BF16 : LUTRA_F32;
            make_coded(&p, bits, bits % 2 ? 24 : 0, LUTRA_F16, bits % 3 == 0, false);
            make_x(&p, p.w.k);
            for (int64_t i = 0; i < p.w.k * p.w.k; i++)
                p.x[i] = i % (p.w.k + 1) == 0 ? 2.0f : 0.0f;
            store_x(&p);
            make_wf(&p);
            lu_linear l = planned(&p, level);
            float *y = product(&l, p.x_act, p.M, l.n_units, p.w.n);
            for (int64_t m = 0; m < p.M; m++)
                for (int64_t n = 0; n < p.w.n; n++)
                    if (y[m * p.w.n + n] != 2 * p.wf[n * p.w.k + m])
                        fail_msg("%s: w[%lld][%lld] reads as %g, expected %g", l.name, (long long)n,
                                 (long long)m, y[m * p.w.n + n] / 2, p.wf[n * p.w.k + m]);
            lu_free(y);
            lu_free_aligned(l.packed);
            free_problem(&p);
        }
}

static void a_one_hot_input_reads_each_weight_exactly(void **state)
{
    (void)state;
    at_every_level(check_one_hot_level);
}

static void check_not_finite_level(lu_level level)
{
    for (int zeros = 0; zeros < 2; zeros++) {
        problem p = {.w = {.n = 20, .k = 64}};
        p.act = LUTRA_BF16;
        make_coded(&p, 4, 32, LUTRA_F16, zeros, false);
        make_x(&p, 9);
        p.x[3 * 64 + 5] = NAN;
        p.x[7 * 64 + 60] = INFINITY;
        store_x(&p);
        lu_linear l = planned(&p, level);
        float *y = product(&l, p.x_act, p.M, 1, p.w.n);
        for (int64_t m = 0; m < p.M; m++)
            for (int64_t n = 0; n < p.w.n; n++)
                assert_int_equal(isfinite(y[m * p.w.n + n]) != 0, m != 3 && m != 7);
        lu_free(y);
        lu_free_aligned(l.packed);
        free_problem(&p);
    }
}

static void values_that_are_not_finite_stay_in_their_row(void **state)
{
    (void)state;
    at_every_level(check_not_finite_level);
}

static void check_empty_level(lu_level level)
{
    problem p = {.w = {.n = 20, .k = 64}, .act = LUTRA_F32};
    make_dense(&p, LUTRA_BF16);
    make_x(&p, 2);
    memset(p.x, 0, 2 * 64 * sizeof *p.x);
    store_x(&p);
    lu_linear l = planned(&p, level);
    float *none = product(&l, p.x_act, 0, 1, p.w.n);
    float *zero = product(&l, p.x_act, 2, 1, p.w.n);
    for (int64_t i = 0; i < 2 * p.w.n; i++)
        assert_true(zero[i] == 0.0f);
    lu_free(none);
    lu_free(zero);
    lu_free_aligned(l.packed);
    free_problem(&p);
}

static void no_rows_and_zero_rows_are_fine(void **state)
{
    (void)state;
    at_every_level(check_empty_level);
}

static void weights_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const uint8_t data[64];
    const lu_weight good = {.n = 2, .k = 32, .data = data, .bits = 4, .scales = data,
                            .scale_dtype = LUTRA_F16, .group_size = 16};
    lu_linear l;
    lu_weight w = good;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_OK);
    assert_int_equal(lu_linear_plan(&w, LUTRA_F16, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
    w.group_size = 24;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
    w.group_size = 4;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_UNSUPPORTED);
    w = good;
    w.bits = 9;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
    w = good;
    w.table[3] = NAN;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
    w = good;
    w.k = 0;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
    w = good;
    w.dtype = LUTRA_I8;
    assert_int_equal(lu_linear_plan(&w, LUTRA_F32, LU_LEVEL_REF, &l, NULL), LUTRA_E_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coded_products_match_float64_and_do_not_depend_on_the_batch),
        cmocka_unit_test(dense_products_match_float64_and_do_not_depend_on_the_batch),
        cmocka_unit_test(a_one_hot_input_reads_each_weight_exactly),
        cmocka_unit_test(values_that_are_not_finite_stay_in_their_row),
        cmocka_unit_test(no_rows_and_zero_rows_are_fine),
        cmocka_unit_test(weights_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
