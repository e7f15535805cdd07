/* test_gpu_int8.c - inputs rounded to integers and products of integers on a GPU against the CPU's
   (kern/act_quant.h, kern/ref/int8_ref.c): every bit is the same. On the emulated GPU, or with
   LUTRA_TEST_GPU=cuda (or cuda:N) on that one, where our kernel and cuBLASLt take turns. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "fmt/codec.h"
#include "kern/act_quant.h"
#include "kern/linear.h"
#include "kern/table.h"
#include "support/expect.h"
#include "support/gpu_emulated.h"
#include "support/synthetic_checkpoint.h"
#include "tensor/convert.h"

static lu_gpu *open_gpu(void)
{
    lutra_err err;
    lu_gpu *g;
    int ordinal;
    const char *asked = getenv("LUTRA_TEST_GPU");
    const bool real = asked && *asked;
    gpu_emulated_reset();
    must(lu_gpu_parse(real ? asked : "cuda", &ordinal, &err), &err);
    must(lu_gpu_open(real ? NULL : gpu_emulated(), ordinal, &g, &err), &err);
    return g;
}

/* GPU memory with a copy of `bytes` of host memory, or of that size. */
static void *on_gpu(lu_gpu *g, const void *host, size_t bytes)
{
    void *p;
    assert_int_equal(g->api->take(g, bytes, &p), 0);
    if (host)
        assert_int_equal(g->api->upload(g, p, host, bytes), 0);
    return p;
}

static void *host_copy(lu_gpu *g, const void *p, size_t bytes)
{
    void *host = malloc(bytes ? bytes : 1);
    assert_non_null(host);
    assert_int_equal(g->api->download(g, host, p, bytes), 0);
    return host;
}

static float act_value(int bf16, uint16_t x) { return bf16 ? lu_bf16_to_f32(x) : lu_f16_to_f32(x); }

static uint16_t act_bits(int bf16, float x) { return bf16 ? lu_f32_to_bf16(x) : lu_f32_to_f16(x); }

/* --- inputs -------------------------------------------------------------------------------------
 */

/* Rows of all kinds: large, small, of one sign, with outliers, zero, subnormal, not finite. */
static uint16_t *make_rows(int64_t n, int64_t k, int bf16, bool broken, uint32_t *seed)
{
    uint16_t *x = malloc((size_t)(n * k) * sizeof *x);
    assert_non_null(x);
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < k; c++) {
            float v = syn_random(seed) * (r % 3 == 0 ? 50.0f : 0.01f);
            v = r % 7 == 1 ? fabsf(v) : r % 7 == 2 ? -fabsf(v) : v;
            v = r % 5 == 3 && c % 61 == 7 ? v * 300 : v;
            v = r % 11 == 4 ? 0 : r % 11 == 6 ? v * 1e-6f : v;
            x[r * k + c] = act_bits(bf16, v);
        }
    for (int64_t r = 0; broken && r < n; r += 4)
        x[r * k + r % k] = act_bits(bf16, r % 8 ? NAN : -INFINITY);
    return x;
}

typedef struct {
    int64_t n, k, pad; /* rows of x are pad elements apart */
    int bf16;
    bool broken;
    const char *spec;
} rows_case;

static void check_rows(lu_gpu *g, const rows_case *c, uint32_t *seed)
{
    const int64_t n = c->n, k = c->k, ldx = k + c->pad, ld = lu_int8_padded(k, LU_INT8_COLUMNS);
    const lutra_dtype type = c->bf16 ? LUTRA_BF16 : LUTRA_F16;
    lutra_err err;
    lu_act_quant q = {.scale = 0.037f, .zero = 128};
    lu_ops ops;
    lu_ops_fill(&ops, LU_LEVEL_REF);
    must(lu_act_format_parse(c->spec, &q.format, &err), &err);
    if (lu_act_is_static(&q.format) && q.format.zero_point)
        q.zero = (1 << q.format.bits) / 3;
    uint16_t *x = make_rows(n, ldx, c->bf16, c->broken, seed),
             *d_x = on_gpu(g, x, (size_t)(n * ldx) * 2);
    const lu_cuda_act_args a = {
        .n = n,
        .k = k,
        .x = d_x,
        .ldx = ldx,
        .bf16 = c->bf16,
        .rule = {.bits = q.format.bits,
                 .asymmetric = q.format.zero_point,
                 .group = q.format.scope == LU_ACT_GROUP ? q.format.group_size : k,
                 .fixed = lu_act_is_static(&q.format),
                 .scale = q.scale,
                 .zero = q.zero},
        .stream = g->stream};
    float *row = malloc((size_t)k * sizeof *row);
    uint8_t *record = malloc((size_t)lu_act_record_bytes(k));
    uint16_t *want = malloc((size_t)k * sizeof *want);
    void *d_y = on_gpu(g, NULL, (size_t)(n * k) * 2);
    assert_int_equal(g->api->act_fake(&a, d_y), 0);
    uint16_t *y = host_copy(g, d_y, (size_t)(n * k) * 2);
    for (int64_t r = 0; r < n; r++) {
        lu_to_f32(type, x + r * ldx, k, row);
        lu_act_fake(&ops, &q, row, k, row, record);
        lu_from_f32(type, row, k, want);
        for (int64_t i = 0; i < k; i++)
            if (want[i] != y[r * k + i] &&
                !(isnan(act_value(c->bf16, want[i])) && isnan(act_value(c->bf16, y[r * k + i]))))
                fail_msg("%s k %d bf16 %d: row %d column %d is %04x, expected %04x", c->spec,
                         (int)k, c->bf16, (int)r, (int)i, y[r * k + i], want[i]);
    }
    if (lu_act_has_records(&q.format)) {
        int8_t *d_codes = on_gpu(g, NULL, (size_t)(n * ld));
        float *d_scale = on_gpu(g, NULL, (size_t)n * 4);
        int32_t *d_zero = on_gpu(g, NULL, (size_t)n * 4);
        assert_int_equal(g->api->act_codes(&a, d_codes, d_scale, d_zero), 0);
        int8_t *codes = host_copy(g, d_codes, (size_t)(n * ld));
        float *scale = host_copy(g, d_scale, (size_t)n * 4);
        int32_t *zero = host_copy(g, d_zero, (size_t)n * 4);
        for (int64_t r = 0; r < n; r++) {
            float s;
            lu_to_f32(type, x + r * ldx, k, row);
            lu_act_record(&ops, &q, row, k, record);
            memcpy(&s, record, sizeof s);
            assert_true(isnan(s) ? isnan(scale[r]) : s == scale[r]);
            assert_int_equal(zero[r], record[4] - 128);
            for (int64_t i = 0; i < ld; i++)
                if (codes[r * ld + i] != (i < k ? record[LU_ACT_HEADER + i] - 128 : 0))
                    fail_msg("%s k %d bf16 %d: code %d of row %d is %d, expected %d", c->spec,
                             (int)k, c->bf16, (int)i, (int)r, codes[r * ld + i],
                             i < k ? record[LU_ACT_HEADER + i] - 128 : 0);
        }
        g->api->give(g, d_codes);
        g->api->give(g, d_scale);
        g->api->give(g, d_zero);
        free(codes), free(scale), free(zero);
    }
    g->api->give(g, d_x);
    g->api->give(g, d_y);
    free(x), free(y), free(row), free(record), free(want);
}

static void rows_are_rounded_as_on_the_cpu(void **state)
{
    static const char *const specs[] = {"int8:token",       "int8:token:asym", "int8:tensor",
                                        "int8:tensor:asym", "int4:token",      "int2:token:asym",
                                        "int6:tensor:asym", "int8:g8",         "int4:g64:asym"};
    static const int64_t widths[] = {8, 48, 64, 77, 320, 1000, 4096, 14336};
    lu_gpu *g = open_gpu();
    uint32_t seed = 5;
    (void)state;
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (int v = 0; v < 4; v++) {
                const char *group = strstr(specs[s], ":g");
                if (group && widths[w] % strtol(group + 2, NULL, 10))
                    continue;
                const rows_case c = {.n = widths[w] > 2000 ? 5 : 24,
                                     .k = widths[w],
                                     .pad = v == 3   ? 3
                                            : v == 2 ? 8
                                                     : 0,
                                     .bf16 = v % 2,
                                     .broken = v > 1,
                                     .spec = specs[s]};
                check_rows(g, &c, &seed);
            }
    lu_gpu_close(g);
}

/* --- products -----------------------------------------------------------------------------------
 */

typedef struct {
    int64_t m, n, k;
    int bf16;
    bool bias;
    const char *format, *act;
    int64_t sum_rows, pad; /* rows of y are pad elements apart */
} product_case;

/* The CPU's plain product of the same records and weights; float32 [m][n]. */
static float *cpu_product(const lu_weight *w, const float *bias, const lu_act_quant *q,
                          const uint16_t *x, int64_t m, int bf16)
{
    lutra_err err;
    lu_linear l;
    lu_ops ops;
    lu_ops_fill(&ops, LU_LEVEL_REF);
    must(lu_linear_plan(w, LUTRA_U8, LU_LEVEL_REF, &l, &err), &err);
    void *packed = lu_alloc_aligned(l.packed_bytes);
    lu_linear_attach(&l, w, packed);
    l.bias = bias;
    lu_linear_pack(&l, w, 0, l.n_units);
    const int64_t stride = lu_linear_x_stride(&l);
    uint8_t *records = malloc((size_t)(m * stride));
    float *row = malloc((size_t)w->k * sizeof *row), *y = malloc((size_t)(m * w->n) * sizeof *y);
    for (int64_t r = 0; r < m; r++) {
        lu_to_f32(bf16 ? LUTRA_BF16 : LUTRA_F16, x + r * w->k, w->k, row);
        lu_act_record(&ops, q, row, w->k, records + r * stride);
    }
    const lu_linear_args a = {
        .x = records, .ldx = stride, .M = m, .y = y, .ldy = w->n, .unit1 = l.n_units};
    lu_linear_run(&l, &a);
    free(records), free(row);
    lu_free_aligned(packed);
    return y;
}

static void check_product(lu_gpu *g, const product_case *c, uint32_t *seed)
{
    const int64_t m = c->m, n = c->n, k = c->k, ld = lu_int8_padded(k, LU_INT8_COLUMNS),
                  rows = lu_int8_padded(n, LU_INT8_ROWS), ldy = n + c->pad;
    lutra_err err;
    lutra_format f;
    lu_act_quant q = {.scale = 0.02f, .zero = 131};
    must(lutra_format_parse(c->format, &f, &err), &err);
    must(lu_act_format_parse(c->act, &q.format, &err), &err);
    q.zero = q.format.zero_point ? q.zero : LU_ACT_SYM_ZERO;
    const size_t row_bytes = lutra_format_row_bytes(&f, k);
    uint8_t *codes = malloc((size_t)n * row_bytes), *zeros = malloc((size_t)n);
    float *scales = malloc((size_t)n * sizeof *scales), *bias = malloc((size_t)n * sizeof *bias);
    uint16_t *act_bias = malloc((size_t)n * sizeof *act_bias);
    for (size_t i = 0; i < (size_t)n * row_bytes; i++)
        codes[i] = (uint8_t)(int)((syn_random(seed) + 0.5f) * 256);
    for (int64_t i = 0; i < n; i++) {
        zeros[i] = (uint8_t)(int)((syn_random(seed) + 0.5f) * (float)(1 << f.bits));
        scales[i] = i == 0 ? 1 : syn_random(seed) * 0.01f;
        act_bias[i] = act_bits(c->bf16, syn_random(seed) * 4);
        bias[i] = act_value(c->bf16, act_bias[i]);
    }
    lu_weight w = {.n = n,
                   .k = k,
                   .dtype = LUTRA_DTYPE_NONE,
                   .bits = f.bits,
                   .scale_dtype = LUTRA_F32,
                   .data = codes,
                   .scales = scales,
                   .zeros = f.zero_point ? zeros : NULL};
    memcpy(w.table, f.table, sizeof w.table);
    assert_true(lu_linear_takes_u8(&w));
    uint16_t *x = make_rows(m, k, c->bf16, false, seed);
    float *want = cpu_product(&w, c->bias ? bias : NULL, &q, x, m, c->bf16);

    void *d_x = on_gpu(g, x, (size_t)(m * k) * 2), *d_raw = on_gpu(g, codes, (size_t)n * row_bytes),
         *d_zeros = on_gpu(g, zeros, (size_t)n), *d_scales = on_gpu(g, scales, (size_t)n * 4),
         *d_bias = on_gpu(g, act_bias, (size_t)n * 2);
    int8_t *d_w = on_gpu(g, NULL, (size_t)(rows * ld)),
           *d_codes = on_gpu(g, NULL, (size_t)(m * ld));
    int32_t *d_sum = on_gpu(g, NULL, (size_t)n * 4), *d_zero = on_gpu(g, NULL, (size_t)m * 4),
            *d_sums = on_gpu(g, NULL, (size_t)(c->sum_rows * rows) * 4);
    float *d_scale = on_gpu(g, NULL, (size_t)m * 4);
    uint16_t *d_y = on_gpu(g, NULL, (size_t)(m * ldy) * 2);
    assert_int_equal(g->api->int8_pack(n, k, f.bits, d_raw, f.zero_point ? d_zeros : NULL, f.table,
                                       d_w, d_sum, g->stream),
                     0);
    assert_int_equal(g->api->sync(g), 0);
    const lu_cuda_act_args rounding = {.n = m,
                                       .k = k,
                                       .x = d_x,
                                       .ldx = k,
                                       .bf16 = c->bf16,
                                       .rule = {.bits = q.format.bits,
                                                .asymmetric = q.format.zero_point,
                                                .group = k,
                                                .fixed = lu_act_is_static(&q.format),
                                                .scale = q.scale,
                                                .zero = q.zero},
                                       .stream = g->stream};
    assert_int_equal(g->api->act_codes(&rounding, d_codes, d_scale, d_zero), 0);
    const lu_gpu_int8 a = {.m = m,
                           .n = n,
                           .k = k,
                           .x = d_codes,
                           .x_scale = d_scale,
                           .x_zero = q.format.zero_point ? d_zero : NULL,
                           .w = d_w,
                           .w_scale = d_scales,
                           .w_sum = d_sum,
                           .bias = c->bias ? d_bias : NULL,
                           .y = d_y,
                           .ldy = ldy,
                           .bf16 = c->bf16,
                           .sums = c->sum_rows ? d_sums : NULL,
                           .sum_rows = c->sum_rows};
    for (int again = 0; again < 2; again++) {
        assert_int_equal(g->api->int8(g, &a), 0);
        uint16_t *y = host_copy(g, d_y, (size_t)(m * ldy) * 2);
        for (int64_t r = 0; r < m; r++)
            for (int64_t i = 0; i < n; i++)
                if (y[r * ldy + i] != act_bits(c->bf16, want[r * n + i]))
                    fail_msg("%s %s m %d n %d k %d bf16 %d: y[%d][%d] is %g, expected %g",
                             c->format, c->act, (int)m, (int)n, (int)k, c->bf16, (int)r, (int)i,
                             (double)act_value(c->bf16, y[r * ldy + i]), (double)want[r * n + i]);
        free(y);
    }
    void *const taken[] = {d_x,     d_raw, d_zeros, d_scales, d_bias,  d_w,
                           d_codes, d_sum, d_zero,  d_sums,   d_scale, d_y};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        g->api->give(g, taken[i]);
    free(codes), free(zeros), free(scales), free(bias), free(act_bias), free(x), free(want);
}

static void products_have_the_cpus_bits(void **state)
{
    static const int64_t shapes[][4] = {/* m, n, k, rows of sums */
                                        {1, 16, 64, 0},     {1, 7, 48, 8},       {2, 33, 1000, 8},
                                        {8, 96, 320, 8},    {9, 16, 77, 0},      {16, 130, 512, 0},
                                        {17, 64, 4096, 17}, {31, 5, 8, 4},       {33, 48, 256, 33},
                                        {33, 50, 200, 7},   {64, 160, 1024, 64}, {100, 17, 640, 30},
                                        {70, 31, 136, 0},   {257, 256, 96, 128}, {0, 16, 64, 4}};
    static const char *const formats[] = {"int8:channel", "int7:channel:asym", "int5:channel"},
                             *const acts[] = {"int8:token", "int8:tensor:asym", "int8:token:asym",
                                              "int6:tensor"};
    lu_gpu *g = open_gpu();
    uint32_t seed = 9;
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int v = 0; v < 12; v++) {
            const product_case c = {.m = shapes[s][0],
                                    .n = shapes[s][1],
                                    .k = shapes[s][2],
                                    .sum_rows = shapes[s][3],
                                    .bf16 = v % 2,
                                    .bias = v % 3 == 1,
                                    .format = formats[v % 3],
                                    .act = acts[v % 4],
                                    .pad = v % 5 == 2   ? 3
                                           : v % 5 == 3 ? 4
                                                        : 0};
            check_product(g, &c, &seed);
        }
    lu_gpu_close(g);
}

static void shapes_that_make_no_sense_are_refused(void **state)
{
    lu_gpu *g = open_gpu();
    (void)state;
    uint16_t *x = on_gpu(g, NULL, 4096);
    const lu_cuda_act_args a = {
        .n = 1, .k = 48, .x = x, .ldx = 48, .rule = {.bits = 8, .group = 32}, .stream = g->stream};
    assert_int_equal(g->api->act_fake(&a, x + 1024), LU_CUDA_E_SHAPE); /* 48 columns */
    lu_cuda_act_args b = a;
    b.rule.group = 16;
    assert_int_equal(g->api->act_codes(&b, (int8_t *)(x + 1024), (float *)(void *)(x + 512),
                                       (int32_t *)(void *)(x + 768)),
                     LU_CUDA_E_SHAPE); /* three scales a row */
    g->api->give(g, x);
    lu_gpu_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_rounded_as_on_the_cpu),
        cmocka_unit_test(products_have_the_cpus_bits),
        cmocka_unit_test(shapes_that_make_no_sense_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
