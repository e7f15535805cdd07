/* test_gpu_factor.c - dense algebra that goes to a GPU: products, the factor of GPTQ, division by it
   and walks along columns, against the definition in float64 and as good as the CPU's. By itself on
   the emulated GPU; with LUTRA_TEST_GPU=cuda on a real one, with larger matrices. */
#include "support/expect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "la/column_walk.h"
#include "la/dense_gpu.h"
#include "support/gpu_emulated.h"

static lu_pool *pool;
static lu_gpu *gpu;
static lu_la *cpu, *la; /* without and with the GPU */
static bool emulated = true;

static float noise(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*s >> 40) / (1 << 23) - 1);
}

static float *random_matrix(int64_t n, uint64_t seed)
{
    float *a = malloc((size_t)n * sizeof *a);
    for (int64_t i = 0; i < n; i++)
        a[i] = noise(&seed);
    return a;
}

/* x^T x / rows + damp I, whole; neighbours are correlated, as activations are. */
static float *random_hessian(int64_t n, float damp)
{
    const int64_t rows = 2 * n + 3;
    float *x = random_matrix(rows * n, (uint64_t)n), *h = calloc((size_t)(n * n), sizeof *h);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 1; c < n; c++)
            x[i * n + c] += x[i * n + c - 1] * 0.9f;
    lu_la_add_gram(cpu, rows, n, 1.0f / (float)rows, x, n, h);
    lu_la_mirror(cpu, n, h);
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] += damp;
    free(x);
    return h;
}

static const int64_t sizes[] = {1, 5, 64, 127, 128, 129, 300, 513};
#define N_SIZES (sizeof sizes / sizeof *sizes)

/* |U h U^T - 1| over some rows, against the definition U^T U = h^-1. */
static double defect(int64_t n, const float *u, const float *h)
{
    double worst = 0, *t = malloc((size_t)n * sizeof *t);
    for (int64_t i = 0; i < n; i += 1 + n / 7) {
        for (int64_t j = 0; j < n; j++) {
            t[j] = 0;
            for (int64_t k = i; k < n; k++)
                t[j] += (double)u[i * n + k] * (double)h[k * n + j];
        }
        for (int64_t j = 0; j < n; j++) {
            double sum = i == j ? -1 : 0;
            for (int64_t k = j; k < n; k++)
                sum += t[k] * (double)u[j * n + k];
            worst = fmax(worst, fabs(sum));
        }
    }
    free(t);
    return worst;
}

static void factors_are_as_good_as_those_of_the_cpu(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SIZES; s++)
        for (int hard = 0; hard < 2; hard++) {
            const int64_t n = sizes[s];
            lutra_err err = {0};
            bool definite[2];
            float *h = random_hessian(n, hard ? 1e-4f : 0.01f);
            float *u[2];
            for (int i = 0; i < 2; i++) {
                u[i] = malloc((size_t)(n * n) * sizeof **u);
                memcpy(u[i], h, (size_t)(n * n) * sizeof **u);
                must(lu_la_inverse_factor(i ? la : cpu, n, u[i], &definite[i], &err), &err);
                assert_true(definite[i]);
            }
            const double own = defect(n, u[0], h), got = defect(n, u[1], h);
            if (!(got <= 4 * own + 1e-5))
                fail_msg("n = %d: off by %g, on the CPU by %g", (int)n, got, own);
            for (int64_t i = 1; i < n; i++)
                for (int64_t j = 0; j < i; j++)
                    assert_true(u[1][i * n + j] == 0);
            lu_la_release(la);
            free(h);
            free(u[0]);
            free(u[1]);
        }
}

static void what_is_not_definite_stays_as_it_was(void **state)
{
    (void)state;
    const int64_t n = 200;
    lutra_err err = {0};
    bool definite = true;
    for (int nan = 0; nan < 2; nan++) {
        float *h = random_hessian(n, 0.01f), *before = malloc((size_t)(n * n) * sizeof *h);
        h[150 * n + 150] = nan ? NAN : -1;
        memcpy(before, h, (size_t)(n * n) * sizeof *h);
        must(lu_la_inverse_factor(la, n, h, &definite, &err), &err);
        assert_false(definite);
        assert_memory_equal(h, before, (size_t)(n * n) * sizeof *h);
        free(h);
        free(before);
    }
}

static void division_and_walks_follow_the_factor(void **state)
{
    (void)state;
    for (size_t s = 0; s < N_SIZES; s++) {
        const int64_t n = sizes[s], m = 19, block = n < 96 ? n : 96;
        lutra_err err = {0};
        bool definite;
        float *u = random_hessian(n, 0.01f), *b[2], *w[2], *e = random_matrix(m * block, 4);
        must(lu_la_inverse_factor(la, n, u, &definite, &err), &err);
        for (int i = 0; i < 2; i++) {
            lu_column_walk *walk;
            b[i] = random_matrix(m * n, 5);
            w[i] = random_matrix(m * n, 6);
            must(lu_la_divide_upper(i ? la : cpu, n, u, m, b[i], &err), &err);
            must(lu_column_walk_open(i ? la : cpu, n, u, m, block, &walk, &err), &err);
            must(lu_column_walk_begin(walk, w[i], m, block, &err), &err);
            for (int64_t begin = 0, end; begin < n; begin = end) {
                end = n - begin < block ? n : begin + block;
                const int64_t next = n - end < block ? n : end + block;
                must(lu_column_walk_pass(walk, begin, end, next, e, block, &err), &err);
            }
            lu_column_walk_close(walk);
        }
        if (!(relative(b[1], b[0], m * n) <= 1e-4))
            fail_msg("n = %d: quotients differ by %g", (int)n, relative(b[1], b[0], m * n));
        if (!(relative(w[1], w[0], m * n) <= 1e-5))
            fail_msg("n = %d: walks differ by %g", (int)n, relative(w[1], w[0], m * n));
        lu_la_release(la);
        free(u);
        free(e);
        for (int i = 0; i < 2; i++) {
            free(b[i]);
            free(w[i]);
        }
    }
}

static void products_are_those_of_the_cpu(void **state)
{
    (void)state;
    for (int mode = 0; mode < 32; mode++) {
        const int64_t m = 70, n = 131, k = 45;
        const bool ta = mode & 1, tb = mode & 2, held = mode & 4;
        lutra_err err = {0};
        float *a = random_matrix(m * k, 1), *b = random_matrix(k * n, 2), *c[2];
        lu_la_gpu_of(la)->piece = mode & 16 ? 1000 : 1 << 20;
        if (held)
            must(lu_la_hold(la, b, k * n, &err), &err);
        for (int i = 0; i < 2; i++) {
            c[i] = random_matrix(m * n, 3);
            const lu_la_gemm_args g = {ta, tb, m, n, k, 0.5f, a, ta ? m : k, b, tb ? k : n,
                                       mode & 8 ? 2.0f : 0.0f, c[i], n};
            must(lu_la_gemm(i ? la : cpu, &g, &err), &err);
        }
        assert_true(relative(c[1], c[0], m * n) <= 1e-6);
        lu_la_release(la);
        free(a);
        free(b);
        free(c[0]);
        free(c[1]);
    }
}

static void what_does_not_fit_is_said(void **state)
{
    (void)state;
    const int64_t n = 300;
    lutra_err err = {0};
    bool definite;
    if (!emulated)
        skip();
    float *h = random_hessian(n, 0.01f);
    gpu_emulated_now.memory = gpu_emulated_now.taken + 1000;
    assert_int_equal(lu_la_inverse_factor(la, n, h, &definite, &err), LUTRA_E_NOMEM);
    assert_non_null(strstr(err.msg, "are free"));
    gpu_emulated_now.memory = 1 << 30;
    must(lu_la_inverse_factor(la, n, h, &definite, &err), &err);
    assert_true(definite);
    lu_la_release(la);
    free(h);
}

static int open_all(void **state)
{
    const char *wanted = getenv("LUTRA_TEST_GPU");
    int ordinal = 0;
    lutra_err err = {0};
    (void)state;
    gpu_emulated_reset();
    emulated = !wanted || !*wanted;
    if (!emulated)
        must(lu_gpu_parse(wanted, &ordinal, &err), &err);
    must(lu_gpu_open(emulated ? gpu_emulated() : NULL, ordinal, &gpu, &err), &err);
    gpu->worth = 0;
    must(lu_pool_open(2, &pool, &err), &err);
    must(lu_la_open(pool, NULL, &cpu, &err), &err);
    must(lu_la_open(pool, gpu, &la, &err), &err);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    lu_la_close(cpu);
    lu_la_close(la);
    lu_pool_close(pool);
    lu_gpu_close(gpu);
    if (emulated)
        assert_int_equal(gpu_emulated_now.taken, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_are_as_good_as_those_of_the_cpu),
        cmocka_unit_test(what_is_not_definite_stays_as_it_was),
        cmocka_unit_test(division_and_walks_follow_the_factor),
        cmocka_unit_test(products_are_those_of_the_cpu),
        cmocka_unit_test(what_does_not_fit_is_said),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
