/* cuda_check_int8.c - inputs rounded to integers, packed integer weights, their products: bit for
   bit what the CPU's rounding (kern/act_quant.h) and 64-bit sums give. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "fmt/codec.h"
#include "kern/act_quant.h"
#include "kern/cuda/cuda_int8.h"
#include "kern/table.h"

static const int64_t widths[] = {8, 40, 64, 77, 264, 1000, 4096, 14336};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

typedef struct {
    const char *spec;
    lu_act_quant quant;
    lu_cuda_act_rule rule;
} rounding;

static rounding rounding_of(const char *spec, int64_t k)
{
    rounding r = {.spec = spec, .quant = {.scale = 0.031f, .zero = LU_ACT_SYM_ZERO}};
    lu_act_quant *q = &r.quant;
    (void)lu_act_format_parse(spec, &q->format, NULL);
    if (lu_act_is_static(&q->format) && q->format.zero_point)
        q->zero = (1 << q->format.bits) / 3;
    r.rule = (lu_cuda_act_rule){.bits = q->format.bits,
                                .asymmetric = q->format.zero_point,
                                .group = q->format.scope == LU_ACT_GROUP ? q->format.group_size : k,
                                .fixed = lu_act_is_static(&q->format),
                                .scale = q->scale,
                                .zero = q->zero};
    return r;
}

static void to_float(const uint16_t *x, int64_t n, int bf16, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = cc_act_value(x[i], bf16);
}

/* Equal, or both not a number. */
static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void must_equal(cc *t, const char *what, int64_t row, int64_t at, double got, double want)
{
    cc_fail(t, "%s: row %lld, element %lld is %.9g, expected %.9g", what, (long long)row,
            (long long)at, got, want);
}

/* Row 0 has an outlier, row 1 is of one sign, row 2 zero, row 3 not finite. */
static uint16_t *random_rows(cc *t, int64_t n, int64_t ldx, int bf16)
{
    uint16_t *x = cc_random_act(t, n * ldx, 1.5, bf16);
    for (int64_t c = 0; c < ldx && n > 3; c++) {
        x[ldx + c] &= 0x7fff;
        x[2 * ldx + c] = 0;
    }
    x[cc_pick(t, 0, ldx < 8 ? ldx - 1 : 7)] = cc_to_act(300.0f, bf16);
    if (n > 3)
        x[3 * ldx] = cc_to_act(INFINITY, bf16);
    return x;
}

static void codes(cc *t, int64_t n, int64_t k, int64_t pad, int bf16, const char *spec,
                  const char *given)
{
    const int64_t ldx = k + pad, ld = lu_int8_padded(k, LU_INT8_COLUMNS);
    const rounding r = rounding_of(spec, k);
    lu_ops ops;
    lu_ops_fill(&ops, LU_LEVEL_REF);
    cc_case(t, "%s n %lld k %lld pad %lld bf16 %d", spec, (long long)n, (long long)k,
            (long long)pad, bf16);
    uint16_t *x = random_rows(t, n, ldx, bf16);
    int8_t *d_codes = cc_output(t, (size_t)(n * ld)), *out = cc_host((size_t)(n * ld));
    float *d_scale = cc_output(t, (size_t)n * 4), *scale = cc_host((size_t)n * 4),
          *row = cc_host((size_t)k * 4);
    int32_t *d_zero = cc_output(t, (size_t)n * 4), *zero = cc_host((size_t)n * 4);
    uint8_t *record = cc_host((size_t)lu_act_record_bytes(k));
    const lu_cuda_act_args a = {.n = n,
                                .k = k,
                                .x = cc_input(t, x, (size_t)(n * ldx) * 2),
                                .ldx = ldx,
                                .bf16 = bf16,
                                .rule = rounding_of(given, k).rule};
    cc_status(t, lu_cuda_act_codes(&a, d_codes, d_scale, d_zero));
    cc_fetch(t, d_codes, out, (size_t)(n * ld));
    cc_fetch(t, d_scale, scale, (size_t)n * 4);
    cc_fetch(t, d_zero, zero, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++) {
        float s;
        to_float(x + i * ldx, k, bf16, row);
        lu_act_record(&ops, &r.quant, row, k, record);
        memcpy(&s, record, sizeof s);
        if (!same_float(s, scale[i]))
            must_equal(t, "scale", i, 0, (double)scale[i], (double)s);
        if (zero[i] != record[4] - 128)
            must_equal(t, "zero point", i, 0, zero[i], record[4] - 128);
        for (int64_t c = 0; c < ld; c++) {
            const int want = c < k ? record[LU_ACT_HEADER + c] - 128 : 0;
            if (out[i * ld + c] != want) {
                must_equal(t, "code", i, c, out[i * ld + c], want);
                break;
            }
        }
    }
    cc_end(t);
    free(x), free(out), free(scale), free(zero), free(row), free(record);
}

static void check_codes(cc *t)
{
    static const char *const specs[] = {"int8:token",       "int8:token:asym", "int8:tensor",
                                        "int8:tensor:asym", "int4:token",      "int2:token:asym",
                                        "int6:tensor:asym"};
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++)
        for (int w = 0; w < N_WIDTHS; w++)
            for (int v = 0; v < 3; v++)
                codes(t, 5 + w, widths[w], v == 2 ? 3 : v * 8, (w + v) % 2, specs[s], specs[s]);
    cc_plant(t);
    codes(t, 5, 320, 0, 0, "int8:token", "int8:token:asym");
    cc_planted(t, "with a zero point");
}

static void fake(cc *t, int64_t n, int64_t k, int64_t pad, int bf16, const char *spec,
                 const char *given)
{
    const int64_t ldx = k + pad;
    const rounding r = rounding_of(spec, k);
    lu_ops ops;
    lu_ops_fill(&ops, LU_LEVEL_REF);
    cc_case(t, "%s n %lld k %lld pad %lld bf16 %d", spec, (long long)n, (long long)k,
            (long long)pad, bf16);
    uint16_t *x = random_rows(t, n, ldx, bf16), *d_y = cc_output(t, (size_t)(n * k) * 2),
             *y = cc_host((size_t)(n * k) * 2);
    float *row = cc_host((size_t)k * 4);
    uint8_t *room = cc_host((size_t)k);
    const lu_cuda_act_args a = {.n = n,
                                .k = k,
                                .x = cc_input(t, x, (size_t)(n * ldx) * 2),
                                .ldx = ldx,
                                .bf16 = bf16,
                                .rule = rounding_of(given, k).rule};
    cc_status(t, lu_cuda_act_fake(&a, d_y));
    cc_fetch(t, d_y, y, (size_t)(n * k) * 2);
    for (int64_t i = 0; i < n; i++) {
        to_float(x + i * ldx, k, bf16, row);
        lu_act_fake(&ops, &r.quant, row, k, row, room);
        for (int64_t c = 0; c < k; c++) {
            const float want = cc_act_value(cc_to_act(row[c], bf16), bf16),
                        got = cc_act_value(y[i * k + c], bf16);
            if (!same_float(want, got)) {
                must_equal(t, "value", i, c, (double)got, (double)want);
                break;
            }
        }
    }
    cc_end(t);
    free(x), free(y), free(row), free(room);
}

static void check_fake(cc *t)
{
    static const char *const specs[] = {"int8:token", "int8:tensor:asym", "int4:g8",
                                        "int8:g64:asym", "int3:g128"};
    for (size_t s = 0; s < sizeof specs / sizeof *specs; s++)
        for (int w = 0; w < N_WIDTHS; w++) {
            const char *group = strstr(specs[s], ":g");
            if (group && widths[w] % strtol(group + 2, NULL, 10))
                continue;
            for (int v = 0; v < 3; v++)
                fake(t, 4 + w, widths[w], v == 2 ? 3 : v * 8, (w + v) % 2, specs[s], specs[s]);
        }
    cc_plant(t);
    fake(t, 5, 320, 0, 0, "int4:g8", "int4:g64");
    cc_planted(t, "larger groups");
}

/* The product by our own kernel and, from given sums, by the one that scales; both twice. */
static void product(cc *t, int64_t m, int64_t n, int64_t k, int bits, bool zeros, bool x_zeros,
                    bool bias, int bf16, int64_t pad, int wrong)
{
    const int64_t ld = lu_int8_padded(k, LU_INT8_COLUMNS), rows = lu_int8_padded(n, LU_INT8_ROWS),
                  ldy = n + pad;
    const size_t row_bytes = (size_t)(k * bits + 7) / 8, results = (size_t)(m * ldy) * 2;
    const int64_t at = m / 3; /* the sums begin with this row */
    cc_case(t, "m %lld n %lld k %lld bits %d zeros %d %d bias %d bf16 %d pad %lld", (long long)m,
            (long long)n, (long long)k, bits, zeros, x_zeros, bias, bf16, (long long)pad);
    uint8_t *w_codes = cc_host((size_t)n * row_bytes), *w_zeros = cc_host((size_t)n);
    int8_t *x = cc_host((size_t)(m * ld)), *w = cc_host((size_t)(rows * ld)),
           *got_w = cc_host((size_t)(rows * ld));
    int32_t *zero = cc_host((size_t)m * 4), *w_sum = cc_host((size_t)n * 4),
            *sums = cc_host((size_t)(m * rows) * 4);
    float *x_scale = cc_random_float(t, m, 1e-4, 0.1),
          *w_scale = cc_random_float(t, n, -0.01, 0.01), table[256];
    uint16_t *b = cc_random_act(t, n, 2.0, bf16), *want = cc_host(results), *got = cc_host(results);
    for (int i = 0; i < 1 << bits; i++)
        table[i] = (float)(zeros ? i / 2 : i - (1 << (bits - 1))); /* differences of at most 127 */
    for (size_t i = 0; i < (size_t)n * row_bytes; i++)
        w_codes[i] = (uint8_t)cc_pick(t, 0, 255);
    for (int64_t r = 0; r < n; r++) {
        w_zeros[r] = (uint8_t)cc_pick(t, 0, (1 << bits) - 1);
        for (int64_t c = 0; c < k; c++) {
            const float v = table[lu_code_at(w_codes + r * (int64_t)row_bytes, c, bits)] -
                            (zeros ? table[w_zeros[r]] : 0);
            w[r * ld + c] = (int8_t)v;
            w_sum[r] += w[r * ld + c];
        }
    }
    for (int64_t r = 0; r < m; r++) {
        zero[r] = x_zeros ? (int32_t)cc_pick(t, -128, 127) : 0;
        for (int64_t c = 0; c < k; c++)
            x[r * ld + c] = (int8_t)cc_pick(t, -128, 127);
    }
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c++) {
            int64_t sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += x[r * ld + i] * w[c * ld + i];
            if (r >= at)
                sums[(r - at) * rows + c] = (int32_t)sum;
            sum -= (int64_t)zero[r] * w_sum[c];
            const float v = x_scale[r] * fmaf(w_scale[c], (float)(int32_t)sum, 0.0f);
            want[r * ldy + c] = cc_to_act(bias ? v + cc_act_value(b[c], bf16) : v, bf16);
        }

    int8_t *d_w = cc_output(t, (size_t)(rows * ld));
    int32_t *d_w_sum = cc_output(t, (size_t)n * 4), *now = cc_host((size_t)n * 4);
    cc_status(t, lu_cuda_int8_pack(n, k, bits, cc_input(t, w_codes, (size_t)n * row_bytes),
                                   zeros ? cc_input(t, w_zeros, (size_t)n) : NULL, table, d_w,
                                   d_w_sum, NULL));
    cc_fetch(t, d_w, got_w, (size_t)(rows * ld));
    cc_fetch(t, d_w_sum, now, (size_t)n * 4);
    if (memcmp(got_w, w, (size_t)(rows * ld)) != 0 || memcmp(now, w_sum, (size_t)n * 4) != 0)
        cc_fail(t, "packed weights differ");
    zero[0] += wrong;
    lu_gpu_int8 a = {.m = m,
                     .n = n,
                     .k = k,
                     .x = cc_input(t, x, (size_t)(m * ld)),
                     .x_scale = cc_input(t, x_scale, (size_t)m * 4),
                     .x_zero = x_zeros ? cc_input(t, zero, (size_t)m * 4) : NULL,
                     .w = d_w,
                     .w_scale = cc_input(t, w_scale, (size_t)n * 4),
                     .w_sum = d_w_sum,
                     .bias = bias ? cc_input(t, b, (size_t)n * 2) : NULL,
                     .ldy = ldy,
                     .bf16 = bf16,
                     .sums = (int32_t *)cc_input(t, sums, (size_t)(m * rows) * 4),
                     .sum_rows = m};
    for (int way = 0; way < 4; way++) {
        a.y = cc_output(t, results);
        cc_status(t,
                  way < 2 ? lu_cuda_int8_rows(&a, NULL) : lu_cuda_int8_scale(&a, at, m - at, NULL));
        cc_fetch(t, a.y, got, results);
        bool same = true;
        for (int64_t r = way < 2 ? 0 : at; same && r < m; r++)
            for (int64_t c = 0; same && c < ldy; c++) {
                const uint16_t expected = c < n ? want[r * ldy + c] : 0xffff; /* the gap stays */
                same = got[r * ldy + c] == expected;
                if (!same)
                    must_equal(t, way < 2 ? "y" : "y of sums", r, c,
                               (double)cc_act_value(got[r * ldy + c], bf16),
                               (double)cc_act_value(expected, bf16));
            }
    }
    cc_end(t);
    free(w_codes), free(w_zeros), free(x), free(w), free(got_w), free(zero), free(w_sum),
        free(sums), free(now);
    free(x_scale), free(w_scale), free(b), free(want), free(got);
}

static void check_products(cc *t)
{
    static const int64_t shapes[][3] = {
        {1, 16, 64},   {1, 4096, 1000}, {2, 7, 8},     {3, 33, 77},    {8, 48, 512},
        {9, 16, 4096}, {16, 100, 264},  {17, 31, 64},  {32, 65, 1024}, {33, 96, 328},
        {65, 40, 640}, {128, 130, 192}, {257, 20, 96}, {5, 16, 14336}, {1, 1, 1}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int v = 0; v < 6; v++)
            product(t, shapes[s][0], shapes[s][1], shapes[s][2], v % 3 == 2 ? 5 : 8 - v % 2, v % 2,
                    v % 3 != 1, v > 2, (int)(s + (size_t)v) % 2,
                    v == 4   ? 3
                    : v == 5 ? 8
                             : 0,
                    0);
    product(t, 2, 16, LU_INT8_MOST_COLUMNS, 8, false, true, false, 1, 0, 0);
    cc_plant(t);
    product(t, 4, 33, 256, 8, false, true, false, 0, 0, 1);
    cc_planted(t, "another zero point");
}

const cc_op cc_int8_ops[] = {
    {"act_codes", check_codes}, {"act_fake", check_fake}, {"int8", check_products}, {NULL, NULL}};
