/* Dense algebra against float64: products, factors, solutions; and that threads change no bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "la/dense.h"

static lu_pool *pools[2];
static lu_la *las[2]; /* of 1 and of 3 threads */

static int open_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        if (lu_pool_open(1 + 2 * i, &pools[i], NULL) || lu_la_open(pools[i], NULL, &las[i], NULL))
            return -1;
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lu_la_close(las[i]);
        lu_pool_close(pools[i]);
    }
    return 0;
}

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

/* x^T x / rows + damp I, whole. */
static float *random_hessian(int64_t n, int64_t rows, float damp, lu_la *la)
{
    float *x = random_matrix(rows * n, (uint64_t)n), *h = calloc((size_t)(n * n), sizeof *h);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 1; c < n; c++)
            x[i * n + c] += x[i * n + c - 1] * 0.9f; /* correlated, as activations are */
    lu_la_add_gram(la, rows, n, 1.0f / (float)rows, x, n, h);
    lu_la_mirror(la, n, h);
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] += damp;
    free(x);
    return h;
}

static void products_agree_with_float64(void **state)
{
    (void)state;
    const int64_t shapes[][3] = {{1, 1, 1}, {3, 7, 5}, {257, 300, 129}, {512, 64, 33}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int mode = 0; mode < 4; mode++) {
            const int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            const bool ta = mode & 1, tb = mode & 2;
            float *a = random_matrix(m * k, 1), *b = random_matrix(k * n, 2);
            float *c = random_matrix(m * n, 3), *c0 = random_matrix(m * n, 3);
            assert_int_equal(lu_la_gemm(las[1],
                                        &(lu_la_gemm_args){ta, tb, m, n, k, 0.5f, a, ta ? m : k, b,
                                                           tb ? k : n, 2.0f, c, n},
                                        NULL),
                             LUTRA_OK);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < n; j++) {
                    double sum = 0, size = 0;
                    for (int64_t l = 0; l < k; l++) {
                        const double p = (double)(ta ? a[l * m + i] : a[i * k + l]) *
                                         (double)(tb ? b[j * k + l] : b[l * n + j]);
                        sum += p;
                        size += p * p;
                    }
                    const double want = 0.5 * sum + 2.0 * (double)c0[i * n + j];
                    assert_true(fabs((double)c[i * n + j] - want) <=
                                1e-6 * (sqrt(size * (double)k) + fabs(want)));
                }
            free(a), free(b), free(c), free(c0);
        }
}

/* |U h U^T - I| is small, which is U^T U = h^-1 seen from the other side. */
static void the_inverse_factor_inverts(void **state)
{
    (void)state;
    const int64_t sizes[] = {1, 2, 5, 64, 127, 128, 129, 300, 513};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const int64_t n = sizes[s];
        float *h = random_hessian(n, 2 * n + 8, 0.05f, las[0]),
              *u = malloc((size_t)(n * n) * sizeof *u);
        bool definite = false;
        memcpy(u, h, (size_t)(n * n) * sizeof *u);
        assert_int_equal(lu_la_inverse_factor(las[1], n, u, &definite, NULL), LUTRA_OK);
        assert_true(definite);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < i; j++)
                assert_true(u[i * n + j] == 0);
        double worst = 0;
        for (int64_t i = 0; i<n; i += n> 200 ? 17 : 1) {
            double *row = calloc((size_t)n, sizeof *row); /* row i of U h */
            for (int64_t l = i; l < n; l++)
                for (int64_t j = 0; j < n; j++)
                    row[j] += (double)u[i * n + l] * (double)h[l * n + j];
            for (int64_t j = 0; j < n; j++) {
                double sum = 0;
                for (int64_t l = j; l < n; l++)
                    sum += row[l] * (double)u[j * n + l];
                worst = fmax(worst, fabs(sum - (i == j)));
            }
            free(row);
        }
        assert_true(worst <= 2e-3);
        free(h), free(u);
    }
}

static void a_matrix_that_is_not_definite_is_refused(void **state)
{
    (void)state;
    float singular[4] = {1, 1, 1, 1}, negative[1] = {-1}, nan[4] = {NAN, 0, 0, 1};
    bool definite = true;
    assert_int_equal(lu_la_inverse_factor(las[0], 2, singular, &definite, NULL), LUTRA_OK);
    assert_false(definite);
    assert_false(lu_la_cholesky(las[0], 1, negative));
    assert_false(lu_la_cholesky(las[0], 2, nan));
}

static void solutions_solve(void **state)
{
    (void)state;
    const int64_t n = 150, m = 270;
    float *h = random_hessian(n, 400, 0.1f, las[0]), *l = malloc((size_t)(n * n) * sizeof *l);
    float *b = random_matrix(n * m, 9), *x = malloc((size_t)(n * m) * sizeof *x);
    memcpy(l, h, (size_t)(n * n) * sizeof *l);
    memcpy(x, b, (size_t)(n * m) * sizeof *x);
    assert_true(lu_la_cholesky(las[1], n, l));
    lu_la_cholesky_solve(las[1], n, l, m, x);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < m; j++) {
            double sum = 0;
            for (int64_t c = 0; c < n; c++)
                sum += (double)h[i * n + c] * (double)x[c * m + j];
            assert_true(fabs(sum - (double)b[i * m + j]) <= 1e-3);
        }
    free(h), free(l), free(b), free(x);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    const int64_t n = 700;
    float *h[2];
    for (int i = 0; i < 2; i++) {
        bool definite;
        h[i] = random_hessian(n, 900, 0.01f, las[i]);
        assert_int_equal(lu_la_inverse_factor(las[i], n, h[i], &definite, NULL), LUTRA_OK);
        assert_true(definite);
    }
    assert_memory_equal(h[0], h[1], (size_t)(n * n) * sizeof(float));
    free(h[0]), free(h[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_float64),
        cmocka_unit_test(the_inverse_factor_inverts),
        cmocka_unit_test(a_matrix_that_is_not_definite_is_refused),
        cmocka_unit_test(solutions_solve),
        cmocka_unit_test(threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
