/* test_gpu_dense.c - dense products of every kind of shape and alignment against float64: on the
   emulated GPU, or with LUTRA_TEST_GPU=cuda (or cuda:N) on that one, where few rows, cuBLASLt and
   the shapes it refuses take three ways. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/expect.h"
#include "support/gpu_emulated.h"
#include "tensor/convert.h"

static uint16_t act_bits(int bf16, float x) { return bf16 ? lu_f32_to_bf16(x) : lu_f32_to_f16(x); }

static float act_value(int bf16, uint16_t x) { return bf16 ? lu_bf16_to_f32(x) : lu_f16_to_f32(x); }

/* One product of m rows at an offset of `pad` elements; error against float64, relative to the sum
   of magnitudes. */
static double dense_error(lu_gpu *g, int64_t m, int64_t n, int64_t k, int64_t pad, int bf16,
                          bool bias)
{
    const int64_t ldx = k + pad, ldy = n + 2 * pad, sizes[] = {m * ldx, n * k, n, m * ldy};
    int64_t total = 0, at[4];
    for (int i = 0; i < 4; i++) {
        at[i] = total + pad;
        total += (sizes[i] + pad + 127) / 128 * 128;
    }
    uint16_t *host = calloc((size_t)total, sizeof *host), *block;
    assert_non_null(host);
    for (int64_t i = 0; i < at[3]; i++)
        host[i] = act_bits(bf16, sinf((float)(i * 37 % 1009 + 1)));
    assert_int_equal(g->api->take(g, (size_t)total * 2, (void **)&block), 0);
    assert_int_equal(g->api->upload(g, block, host, (size_t)total * 2), 0);
    const lu_gpu_dense a = {.m = m,
                            .n = n,
                            .k = k,
                            .x = block + at[0],
                            .ldx = ldx,
                            .w = block + at[1],
                            .bias = bias ? block + at[2] : NULL,
                            .y = block + at[3],
                            .ldy = ldy,
                            .bf16 = bf16};
    const int status = g->api->dense(g, &a);
    if (status)
        fail_msg("dense product of %d x %d x %d: error %d", (int)m, (int)n, (int)k, status);
    assert_int_equal(g->api->download(g, host, block, (size_t)total * 2), 0);
    double worst = 0.0;
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c++) {
            double sum = bias ? act_value(bf16, host[at[2] + c]) : 0.0, size = fabs(sum);
            for (int64_t i = 0; i < k; i++) {
                const double p = (double)act_value(bf16, host[at[0] + r * ldx + i]) *
                                 (double)act_value(bf16, host[at[1] + c * k + i]);
                sum += p;
                size += fabs(p);
            }
            const double e = fabs(act_value(bf16, host[at[3] + r * ldy + c]) - sum) / size;
            if (!(e <= worst))
                worst = e;
        }
    g->api->give(g, block);
    free(host);
    return worst;
}

static void dense_products_are_right_for_any_shape(void **state)
{
    (void)state;
    static const int64_t shapes[][4] = {{1, 96, 48, 0},   {1, 7, 4104, 0}, {2, 33, 1032, 8},
                                        {3, 130, 256, 0}, {4, 5, 77, 3},   {5, 96, 48, 0},
                                        {6, 64, 128, 1},  {9, 40, 136, 8}, {17, 24, 64, 0},
                                        {70, 48, 56, 0},  {1, 1, 1, 0}};
    lutra_err err;
    lu_gpu *g;
    int ordinal;
    const char *asked = getenv("LUTRA_TEST_GPU");
    const bool real = asked && *asked;
    gpu_emulated_reset();
    must(lu_gpu_parse(real ? asked : "cuda", &ordinal, &err), &err);
    must(lu_gpu_open(real ? NULL : gpu_emulated(), ordinal, &g, &err), &err);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int bias = 0; bias < 2; bias++) {
                const int64_t *s = shapes[i];
                const double e = dense_error(g, s[0], s[1], s[2], s[3], bf16, bias);
                /* the result's rounding, and of sums in float32 */
                if (!(e <= (bf16 ? 0x1p-8 : 0x1p-11)))
                    fail_msg("dense %d x %d x %d: error %g", (int)s[0], (int)s[1], (int)s[2], e);
            }
    lu_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_products_are_right_for_any_shape),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
