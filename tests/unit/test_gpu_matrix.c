/* test_gpu_matrix.c - lutra/cuda.h on the emulated GPU: values, layouts of memory, every refusal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/context.h"
#include "lutra/cuda.h"
#include "support/gpu_emulated.h"
#include "tensor/convert.h"

enum { N = 5, K = 96, GROUP = 32, M = 3 };

typedef struct {
    lutra_ctx *ctx;
    lutra_cuda *gpu;
    lutra_err err;
    float table[8];
    uint8_t codes[N * ((K * 3 + 7) / 8)], zeros[N * (K / GROUP)];
    uint16_t scales[N * (K / GROUP)], x[M * K], bias[N];
    lutra_cuda_source source;
} room;

static int code_of(const room *r, int row, int col)
{
    const uint8_t *codes = r->codes + row * ((K * 3 + 7) / 8);
    int v = 0;
    for (int b = 0; b < 3; b++)
        v |= (codes[(col * 3 + b) / 8] >> ((col * 3 + b) % 8) & 1) << b;
    return v;
}

static int setup(void **state)
{
    room *r = calloc(1, sizeof *r);
    uint32_t v = 7;
    *state = r;
    gpu_emulated_reset();
    if (!r || lutra_open(NULL, &r->ctx, &r->err) != LUTRA_OK)
        return 1;
    r->ctx->gpu = gpu_emulated();
    for (size_t i = 0; i < sizeof r->codes; i++)
        r->codes[i] = (uint8_t)((v = v * 1664525u + 1013904223u) >> 24);
    for (int i = 0; i < 8; i++)
        r->table[i] = (float)(i - 3) / 4;
    for (int i = 0; i < N * (K / GROUP); i++) {
        r->scales[i] = lu_f32_to_f16(0.25f * (float)(1 + i % 3));
        r->zeros[i] = (uint8_t)(i % 8);
    }
    for (int i = 0; i < M * K; i++)
        r->x[i] = lu_f32_to_f16((float)((int)((v = v * 1664525u + 1013904223u) >> 28) - 8) / 8);
    for (int i = 0; i < N; i++)
        r->bias[i] = lu_f32_to_f16((float)i);
    lutra_cuda_source_init(&r->source);
    r->source.n = N;
    r->source.k = K;
    r->source.bits = 3;
    r->source.group_size = GROUP;
    r->source.table = r->table;
    r->source.codes = r->codes;
    r->source.scales = r->scales;
    r->source.zeros = r->zeros;
    return lutra_cuda_open(r->ctx, 0, &r->gpu, &r->err) != LUTRA_OK;
}

static int teardown(void **state)
{
    room *r = *state;
    lutra_cuda_close(r->gpu);
    lutra_close(r->ctx);
    free(r);
    return 0;
}

static void check_product(room *r, lutra_cuda_matrix *w)
{
    uint16_t y[M * (N + 2)];
    memset(y, 0xff, sizeof y);
    assert_int_equal(lutra_cuda_multiply(w, M, r->x, K, y, N + 2, r->bias, NULL, &r->err),
                     LUTRA_OK);
    for (int m = 0; m < M; m++) {
        for (int n = 0; n < N; n++) {
            double sum = n;
            for (int k = 0; k < K; k++) {
                const int g = n * (K / GROUP) + k / GROUP;
                const float zero = r->source.zeros ? r->table[r->zeros[g]] : 0;
                sum += (double)lu_f16_to_f32(r->scales[g]) *
                       (double)(r->table[code_of(r, n, k)] - zero) *
                       (double)lu_f16_to_f32(r->x[m * K + k]);
            }
            assert_true(fabs((double)lu_f16_to_f32(y[m * (N + 2) + n]) - sum) <=
                        0.001 * fabs(sum) + 1e-3);
        }
        assert_int_equal(y[m * (N + 2) + N], 0xffff);
        assert_int_equal(y[m * (N + 2) + N + 1], 0xffff);
    }
}

static void test_products_from_host_and_device_memory(void **state)
{
    room *r = *state;
    lutra_cuda_matrix *w;
    for (int way = 0; way < 8; way++) {
        void *block = NULL;
        r->source.zeros = way & 1 ? r->zeros : NULL;
        r->source.on_device = (way & 2) != 0;
        if (way & 4) {
            const size_t bytes = lutra_cuda_matrix_bytes(r->gpu, &r->source);
            assert_true(bytes > 0);
            block = aligned_alloc(256, (bytes + 255) / 256 * 256);
            assert_non_null(block);
        }
        r->source.block = block;
        assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_OK);
        check_product(r, w);
        check_product(r, w);
        assert_int_equal(lutra_cuda_multiply(w, 0, NULL, 0, NULL, 0, NULL, NULL, &r->err),
                         LUTRA_OK);
        lutra_cuda_matrix_close(w);
        free(block);
        assert_int_equal(gpu_emulated_now.taken, 0);
    }
}

static void test_matrices_of_the_encoder(void **state)
{
    static const char *const specs[] = {"nf4:g32", "int4:g32:asym:f32", "nf3:channel:bf16",
                                        "int8:g96:f32"};
    room *r = *state;
    float w[N * K], decoded[N * K];
    for (int i = 0; i < N * K; i++)
        w[i] = sinf((float)i);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        lutra_format f;
        lutra_qmatrix q = {0};
        lutra_cuda_matrix *packed;
        uint16_t y[M * N];
        assert_int_equal(lutra_format_parse(specs[i], &f, &r->err), LUTRA_OK);
        assert_int_equal(
            lutra_quantize_matrix(r->ctx, &f, LUTRA_RANGE_MINMAX,
                                  &(lutra_matrix){.n = N, .k = K, .w = w, .dtype = LUTRA_F32}, &q,
                                  &r->err),
            LUTRA_OK);
        assert_int_equal(lutra_dequantize_matrix(r->ctx, &q, decoded, &r->err), LUTRA_OK);
        assert_int_equal(lutra_cuda_matrix_from(r->gpu, &q, LUTRA_F16, &packed, &r->err), LUTRA_OK);
        assert_int_equal(lutra_cuda_multiply(packed, M, r->x, K, y, N, NULL, NULL, &r->err),
                         LUTRA_OK);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) {
                double sum = 0;
                for (int k = 0; k < K; k++)
                    sum += (double)decoded[n * K + k] * (double)lu_f16_to_f32(r->x[m * K + k]);
                assert_true(fabs((double)lu_f16_to_f32(y[m * N + n]) - sum) <= 0.01);
            }
        lutra_cuda_matrix_close(packed);
        lutra_qmatrix_free(&q);
    }
    float scale = 1e6f;
    lutra_qmatrix q = {.n = 1, .k = 8, .codes = r->codes, .scales = &scale};
    assert_int_equal(lutra_format_parse("nf4:g8:f32", &q.format, &r->err), LUTRA_OK);
    lutra_cuda_matrix *none = NULL;
    assert_int_equal(lutra_cuda_matrix_from(r->gpu, &q, LUTRA_F16, &none, &r->err), LUTRA_E_ARG);
    assert_non_null(strstr(r->err.msg, "scale 0"));
    assert_null(none);
}

static void refuse(room *r, const char *text)
{
    lutra_cuda_matrix *w = NULL;
    assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_E_ARG);
    assert_null(w);
    assert_non_null(strstr(r->err.msg, text));
}

static void test_sources_that_make_no_sense(void **state)
{
    room *r = *state;
    const lutra_cuda_source good = r->source;
#define REFUSE(change, text) \
    r->source = good;        \
    r->source.change;        \
    refuse(r, text)
    REFUSE(size = 8, "lutra_cuda_source_init");
    REFUSE(n = 0, "0 x 96");
    REFUSE(k = (int64_t)1 << 40, "2^30");
    REFUSE(bits = 9, "9 bits");
    REFUSE(bits = 1, "1 bits");
    REFUSE(group_size = 36, "36 does not divide");
    REFUSE(group_size = -32, "-32");
    REFUSE(act = LUTRA_F32, "F32");
    REFUSE(table = NULL, "no table");
    REFUSE(codes = NULL, "no codes");
    REFUSE(scales = NULL, "no scales");
    REFUSE(block = r->codes + 1 + (256 - (uintptr_t)r->codes % 256) % 256, "aligned");
    r->source = good;
    r->table[5] = 1e5f; /* fp16 ends at 65504 */
    refuse(r, "table value 5");
    r->table[5] = NAN;
    refuse(r, "table value 5");
#undef REFUSE
}

static void test_products_that_make_no_sense(void **state)
{
    room *r = *state;
    lutra_cuda_matrix *w;
    uint16_t y[M * N];
    assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_OK);
    assert_int_equal(lutra_cuda_multiply(w, -1, r->x, K, y, N, NULL, NULL, &r->err), LUTRA_E_ARG);
    assert_int_equal(lutra_cuda_multiply(w, M, NULL, K, y, N, NULL, NULL, &r->err), LUTRA_E_ARG);
    assert_int_equal(lutra_cuda_multiply(w, M, r->x, K, NULL, N, NULL, NULL, &r->err), LUTRA_E_ARG);
    assert_int_equal(lutra_cuda_multiply(w, M, r->x, K - 1, y, N, NULL, NULL, &r->err),
                     LUTRA_E_ARG);
    assert_int_equal(lutra_cuda_multiply(w, M, r->x, K, y, N - 1, NULL, NULL, &r->err),
                     LUTRA_E_ARG);
    assert_non_null(strstr(r->err.msg, "rows of y"));
    lutra_cuda_matrix_close(w);
    lutra_cuda_matrix_close(NULL);
}

/* Memory for one stream, taken once and given back; a full GPU leaves products as they were. */
static void test_a_stream_is_favoured(void **state)
{
    room *r = *state;
    lutra_cuda_matrix *w;
    int stream;
    assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_OK);
    const size_t before = gpu_emulated_now.taken;
    gpu_emulated_now.memory = before + 100;
    assert_int_equal(lutra_cuda_favour(r->gpu, NULL, &r->err), LUTRA_E_NOMEM);
    assert_int_equal(gpu_emulated_now.taken, before);
    check_product(r, w);
    gpu_emulated_now.memory = before + 100000;
    assert_int_equal(lutra_cuda_favour(r->gpu, NULL, &r->err), LUTRA_OK);
    const size_t with = gpu_emulated_now.taken;
    assert_true(with > before);
    check_product(r, w);
    assert_int_equal(lutra_cuda_favour(r->gpu, &stream, &r->err), LUTRA_OK);
    assert_int_equal(gpu_emulated_now.taken, with);
    check_product(r, w);
    lutra_cuda_matrix_close(w);
    lutra_cuda_close(r->gpu);
    r->gpu = NULL;
    assert_int_equal(gpu_emulated_now.taken, 0);
}

static void test_full_and_missing_gpus(void **state)
{
    room *r = *state;
    lutra_cuda_matrix *w = NULL;
    lutra_cuda *gpu = NULL;
    gpu_emulated_now.memory = 100;
    assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_E_NOMEM);
    assert_null(w);
    assert_int_equal(gpu_emulated_now.taken, 0);
    gpu_emulated_reset();
    assert_int_equal(lutra_cuda_matrix_open(r->gpu, &r->source, &w, &r->err), LUTRA_OK);
    uint16_t y[M * N];
    gpu_emulated_now.fail_at = 1;
    assert_int_not_equal(lutra_cuda_multiply(w, M, r->x, K, y, N, NULL, NULL, &r->err), LUTRA_OK);
    assert_non_null(strstr(r->err.msg, "a product"));
    gpu_emulated_now.fail_at = 0;
    check_product(r, w);
    lutra_cuda_matrix_close(w);
    assert_int_equal(gpu_emulated_now.taken, 0);
    assert_int_equal(lutra_cuda_open(r->ctx, -1, &gpu, &r->err), LUTRA_E_ARG);
    assert_int_equal(lutra_cuda_open(r->ctx, 99, &gpu, &r->err), LUTRA_E_UNSUPPORTED);
    assert_null(gpu);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_products_from_host_and_device_memory),
        TEST(test_matrices_of_the_encoder),
        TEST(test_sources_that_make_no_sense),
        TEST(test_products_that_make_no_sense),
        TEST(test_a_stream_is_favoured),
        TEST(test_full_and_missing_gpus),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
