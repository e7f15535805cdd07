/* test_qmatrix.c - matrices in memory: the codec's result on any number of threads, refusals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "lutra/lutra.h"
#include "support/alloc_sweep.h"
#include "support/expect.h"
#include "tensor/convert.h"

static float *random_weights(int64_t count)
{
    uint32_t seed = 3;
    float *w = malloc((size_t)count * sizeof *w);
    assert_non_null(w);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        w[i] = lu_bf16_to_f32(lu_f32_to_bf16((float)(seed >> 8) / 16777216.0f - 0.5f));
    }
    return w;
}

static void check_against_codec(lutra_ctx *ctx, const char *spec, int64_t n, int64_t k)
{
    lutra_format f;
    lutra_qmatrix q, h;
    lutra_err err;
    float *w = random_weights(n * k), *out = malloc((size_t)(n * k) * sizeof *out),
          *row = malloc((size_t)k * sizeof *row);
    uint16_t *half = malloc((size_t)(n * k) * sizeof *half);
    assert_int_equal(lutra_format_parse(spec, &f, NULL), LUTRA_OK);
    lu_from_f32(LUTRA_BF16, w, n * k, half);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = n, .k = k, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_OK);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = n, .k = k, .w = half, .dtype = LUTRA_BF16}, &h, &err),
                     LUTRA_OK);
    assert_int_equal(lutra_dequantize_matrix(ctx, &q, out, &err), LUTRA_OK);

    const size_t groups = (size_t)lutra_format_groups(&f, k), bytes = lutra_format_row_bytes(&f, k);
    const size_t scale_bytes = groups * lutra_dtype_bytes(f.scale_dtype);
    uint8_t *codes = malloc(bytes), *scales = malloc(scale_bytes), *zeros = malloc(groups);
    for (int64_t i = 0; i < n; i++) {
        const size_t r = (size_t)i;
        assert_int_equal(lu_encode_row(&f, w + i * k, k, codes, scales, zeros), -1);
        assert_memory_equal(codes, q.codes + r * bytes, bytes);
        assert_memory_equal(scales, (uint8_t *)q.scales + r * scale_bytes, scale_bytes);
        if (f.zero_point)
            assert_memory_equal(zeros, q.zeros + r * groups, groups);
        lu_decode_row(&f, codes, scales, zeros, k, row);
        assert_memory_equal(row, out + i * k, (size_t)k * sizeof *row);
    }
    assert_memory_equal(q.codes, h.codes, (size_t)n * bytes);
    assert_memory_equal(q.scales, h.scales, (size_t)n * scale_bytes);
    lutra_qmatrix_free(&q);
    lutra_qmatrix_free(&h);
    free(w);
    free(out);
    free(row);
    free(half);
    free(codes);
    free(scales);
    free(zeros);
}

static void the_result_is_the_codecs_on_any_number_of_threads(void **state)
{
    (void)state;
    static const char *const specs[] = {"nf4:g64", "int3:g32:asym:bf16", "int8:channel:f32",
                                        "nf2:g8", "fp3:channel"};
    for (int threads = 1; threads <= 3; threads++) {
        lutra_ctx *ctx = open_ctx(threads);
        for (int s = 0; s < 5; s++) {
            check_against_codec(ctx, specs[s], 1, 64);
            check_against_codec(ctx, specs[s], 37, 192);
            check_against_codec(ctx, specs[s], 700, 1024);
        }
        check_against_codec(ctx, "int5:channel", 9, 333);
        lutra_close(ctx);
    }
}

static void the_first_bad_weight_is_named(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_ctx(3);
    const int64_t n = 3000, k = 256;
    float *w = random_weights(n * k);
    lutra_format f;
    lutra_qmatrix q = {.n = -5};
    lutra_err err;
    assert_int_equal(lutra_format_parse("nf4:g32", &f, NULL), LUTRA_OK);
    w[2900 * k + 1] = NAN;
    w[1234 * k + 56] = INFINITY;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(lutra_quantize_matrix(
                             ctx, &f, LUTRA_RANGE_MINMAX,
                             &(lutra_matrix){.n = n, .k = k, .w = w, .dtype = LUTRA_F32}, &q, &err),
                         LUTRA_E_FORMAT);
        assert_non_null(strstr(err.msg, "row 1234, column 56 is infinite"));
    }
    w[1234 * k + 56] = 1e6f;
    w[2900 * k + 1] = 0;
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = n, .k = k, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "too large for F16 scales"));
    f.scale_dtype = LUTRA_BF16;
    assert_int_equal(q.n, -5);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = n, .k = k, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_OK);
    lutra_qmatrix_free(&q);
    free(w);
    lutra_close(ctx);
}

static void wrong_shapes_and_types_are_refused(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_ctx(1);
    lutra_format f;
    lutra_qmatrix q;
    lutra_err err;
    const float w[64] = {0};
    assert_int_equal(lutra_format_parse("nf4:g64", &f, NULL), LUTRA_OK);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = 1, .k = 32, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_E_ARG);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = 0, .k = 64, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_E_ARG);
    assert_int_equal(
        lutra_quantize_matrix(
            ctx, &f, LUTRA_RANGE_MINMAX,
            &(lutra_matrix){.n = INT64_MAX, .k = INT64_MAX - 63, .w = w, .dtype = LUTRA_F32}, &q,
            &err),
        LUTRA_E_ARG);
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = 1, .k = 64, .w = w, .dtype = LUTRA_I32}, &q, &err),
                     LUTRA_E_ARG);
    f.bits = 9;
    assert_int_equal(lutra_quantize_matrix(
                         ctx, &f, LUTRA_RANGE_MINMAX,
                         &(lutra_matrix){.n = 1, .k = 64, .w = w, .dtype = LUTRA_F32}, &q, &err),
                     LUTRA_E_ARG);
    lutra_close(ctx);
}

static lutra_status quantize_one_row(void *ctx)
{
    lutra_format f;
    lutra_qmatrix q = {.n = 7};
    const float w[64] = {1};
    assert_int_equal(lutra_format_parse("int4:g64:asym", &f, NULL), LUTRA_OK);
    const lutra_status status = lutra_quantize_matrix(
        ctx, &f, LUTRA_RANGE_MINMAX, &(lutra_matrix){.n = 1, .k = 64, .w = w, .dtype = LUTRA_F32},
        &q, NULL);
    if (status == LUTRA_OK)
        lutra_qmatrix_free(&q);
    else
        assert_int_equal(q.n, 7); /* untouched */
    return status;
}

static void a_failed_allocation_leaves_nothing(void **state)
{
    (void)state;
    lutra_ctx *ctx = open_ctx(1);
    assert_int_equal(fail_each_allocation(quantize_one_row, ctx), 4);
    lutra_close(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_result_is_the_codecs_on_any_number_of_threads),
        cmocka_unit_test(the_first_bad_weight_is_named),
        cmocka_unit_test(wrong_shapes_and_types_are_refused),
        cmocka_unit_test(a_failed_allocation_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
