/* test_matmul.c - the public matrix product against the decoded matrix in float64. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lutra/lutra.h"
#include "support/expect.h"
#include "tensor/convert.h"

static float *random_floats(int64_t n, uint32_t seed)
{
    float *p = malloc((size_t)n * sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
    return p;
}

/* |y - sum| <= 8 u sqrt(k) ||products||, u: of float32 sums, plus each product's own rounding. */
static void check_product(const float *w, const float *x, const float *bias, int64_t n, int64_t k,
                          int64_t m, lutra_dtype act, const float *y)
{
    const double u = act == LUTRA_BF16 ? 0x1p-9 : 0x1p-24;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = bias ? bias[j] : 0, squares = sum * sum;
            for (int64_t c = 0; c < k; c++) {
                const float xv =
                    act == LUTRA_BF16 ? lu_bf16_to_f32(lu_f32_to_bf16(x[i * k + c])) : x[i * k + c];
                const double product = (double)xv * (double)w[j * k + c];
                sum += product;
                squares += product * product;
            }
            const double bound = 8 * u * sqrt((double)k) * sqrt(squares) + 1e-30;
            assert_true(fabs((double)y[i * n + j] - sum) <= bound);
        }
}

static void products_match_the_decoded_matrix(void **state)
{
    (void)state;
    static const char *const specs[] = {"nf4:g64", "int3:g32:asym", "int8:channel:f32",
                                        "fp2:g32:bf16"};
    const int64_t n = 70, k = 192;
    lutra_ctx *one = open_ctx(1), *three = open_ctx(3);
    float *w = random_floats(n * k, 1), *bias = random_floats(n, 2),
          *decoded = random_floats(n * k, 3);
    for (int s = 0; s < 4; s++)
        for (int a = 0; a < 2; a++) {
            const lutra_dtype act = a ? LUTRA_BF16 : LUTRA_F32;
            lutra_format f;
            lutra_qmatrix q;
            lutra_linear *l = NULL;
            lutra_err err;
            assert_int_equal(lutra_format_parse(specs[s], &f, NULL), LUTRA_OK);
            assert_int_equal(
                lutra_quantize_matrix(one, &f, LUTRA_RANGE_MINMAX,
                                      &(lutra_matrix){.n = n, .k = k, .w = w, .dtype = LUTRA_F32},
                                      &q, &err),
                LUTRA_OK);
            assert_int_equal(lutra_dequantize_matrix(one, &q, decoded, &err), LUTRA_OK);
            assert_int_equal(lutra_linear_open(three, &q, s % 2 ? bias : NULL, act, &l, &err),
                             LUTRA_OK);
            lutra_qmatrix_free(&q);
            for (int64_t m = 0; m < 20; m += 1 + m / 3 * 4) {
                float *x = random_floats(m * k + 1, 4), *y = random_floats(m * n + 1, 5),
                      *z = random_floats(m * n + 1, 5);
                assert_int_equal(lutra_linear_multiply(three, l, m, x, y, &err), LUTRA_OK);
                assert_int_equal(lutra_linear_multiply(one, l, m, x, z, &err), LUTRA_OK);
                assert_memory_equal(y, z, (size_t)(m * n) * sizeof *y);
                check_product(decoded, x, s % 2 ? bias : NULL, n, k, m, act, y);
                free(x);
                free(y);
                free(z);
            }
            lutra_linear_close(l);
        }
    free(w);
    free(bias);
    free(decoded);
    lutra_close(one);
    lutra_close(three);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_ctx(1);
    lutra_format f;
    lutra_qmatrix q;
    lutra_linear *l = NULL;
    lutra_err err;
    float *w = random_floats(64, 1), y[1];
    assert_int_equal(lutra_format_parse("nf4:g64", &f, NULL), LUTRA_OK);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = 1, .k = 64, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_OK);
    assert_int_equal(lutra_linear_open(ctx, &q, NULL, LUTRA_F16, &l, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_linear_open(ctx, &q, NULL, LUTRA_F32, &l, &err), LUTRA_OK);
    assert_int_equal(lutra_linear_multiply(ctx, l, -1, w, y, &err), LUTRA_E_ARG);
    lutra_linear_close(l);
    lutra_linear_close(NULL);
    q.k = 65;
    assert_int_equal(lutra_linear_open(ctx, &q, NULL, LUTRA_F32, &l, &err), LUTRA_E_ARG);
    lutra_qmatrix_free(&q);
    free(w);
    lutra_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_the_decoded_matrix),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
