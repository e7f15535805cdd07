/* test_act_quant.c - integer inputs of linears: specs, scales and zero points by hand, records and
   fake rounding that agree, range rules from samples. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "algo/act_range.h"
#include "base/mem.h"
#include "kern/linear.h"
#include "kern/table.h"
#include "lutra/quant.h"
#include "support/expect.h"

static void specs(void **state)
{
    static const char *const same[] = {
        "none",         "int8:token",      "int4:g128", "int6:tensor", "int8:token:asym",
        "int2:g8:asym", "int8:tensor:asym"};
    static const char *const shorter[][2] = {{"int8", "int8:token"},
                                             {"int8:asym", "int8:token:asym"},
                                             {"int8:tensor:static", "int8:tensor"},
                                             {"int8:static:tensor:sym", "int8:tensor"}};
    static const char *const bad[][2] = {{"", "empty"},
                                         {"int9", "int2 to int8"},
                                         {"int1", "int2 to int8"},
                                         {"fp8", "int2 to int8"},
                                         {"int8:tokens", "near: token"},
                                         {"int8:g100", "multiple of 8"},
                                         {"int8:g0", "multiple of 8"},
                                         {"int8:token:tensor", "contradicts"},
                                         {"int8:token:static", "only 'tensor'"},
                                         {"int8:sym:asym", "contradicts"},
                                         {"int88", "int2"},
                                         {"int8:", "unknown part"}};
    lu_act_format f;
    lutra_err err;
    char text[64];
    (void)state;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        must(lu_act_format_parse(same[i], &f, &err), &err);
        assert_string_equal(lu_act_format_spec(&f, text, sizeof text), same[i]);
    }
    for (size_t i = 0; i < sizeof shorter / sizeof *shorter; i++) {
        must(lu_act_format_parse(shorter[i][0], &f, &err), &err);
        assert_string_equal(lu_act_format_spec(&f, text, sizeof text), shorter[i][1]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lu_act_format_parse(bad[i][0], &f, &err), LUTRA_E_ARG);
        if (!strstr(err.msg, bad[i][1]))
            fail_msg("'%s': %s", bad[i][0], err.msg);
    }
}

static lu_act_quant quant(const char *spec)
{
    lu_act_quant q = {.scale = 0};
    lutra_err err;
    must(lu_act_format_parse(spec, &q.format, &err), &err);
    return q;
}

static void params(void **state)
{
    lu_act_quant q = quant("int8");
    float scale;
    int zero;
    (void)state;
    lu_act_params(&q.format, -254, 100, &scale, &zero);
    assert_true(scale == 2.0f && zero == 128);
    q = quant("int4:asym");
    lu_act_params(&q.format, -5, 10, &scale, &zero);
    assert_true(scale == 1.0f && zero == 5);
    lu_act_params(&q.format, 0, 30, &scale, &zero);
    assert_true(scale == 2.0f && zero == 0);
    lu_act_params(&q.format, -30, 0, &scale, &zero);
    assert_true(scale == 2.0f && zero == 15);
    lu_act_params(&q.format, 0, 0, &scale, &zero);
    assert_true(scale == LU_ACT_MIN_SCALE && zero == 0);
    lu_act_params(&q.format, -3e38f, 3e38f, &scale, &zero); /* the span is no float */
    assert_true(isfinite(scale) && zero == 8);
    lu_act_params(&q.format, NAN, NAN, &scale, &zero);
    assert_true(isnan(scale));
}

/* What act_format.h says, value by value in double. */
static double rounded(const lu_act_quant *q, double x, float scale, int zero)
{
    const double r = rint((double)((float)x / scale)) + zero;
    const double lo = lu_act_lowest(&q->format), hi = lu_act_highest(&q->format);
    return (double)scale * ((r < lo ? lo : r > hi ? hi : r) - zero);
}

static void fill(float *x, int n)
{
    uint64_t s = 7;
    for (int i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(int64_t)s / 4e18 + (i % 17 == 0 ? 3 : 0.2));
    }
}

/* Records and fake rounding against the definition, at every level of this machine. */
static void rows(void **state)
{
    enum { K = 96 };
    static const char *const formats[] = {"int8",        "int8:asym",       "int4",
                                          "int3:asym",   "int4:g32",        "int5:g8:asym",
                                          "int8:tensor", "int4:tensor:asym"};
    float x[K], y[K];
    uint8_t record[256], codes[K];
    (void)state;
    fill(x, K);
    for (int level = 0; level <= (int)lu_level_best(); level++)
        for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
            lu_ops ops;
            lu_act_quant q = quant(formats[i]);
            lu_ops_fill(&ops, (lu_level)level);
            q.scale = 0.03f;
            q.zero = q.format.zero_point ? 6 : LU_ACT_SYM_ZERO;
            lu_act_fake(&ops, &q, x, K, y, codes);
            const int64_t group = q.format.scope == LU_ACT_GROUP ? q.format.group_size : K;
            for (int64_t at = 0; at < K; at += group) {
                float scale = q.scale, lo = 0, hi = 0;
                int zero = q.zero;
                for (int64_t j = at; j < at + group; j++) {
                    lo = fminf(lo, x[j]);
                    hi = fmaxf(hi, x[j]);
                }
                if (q.format.scope != LU_ACT_TENSOR)
                    lu_act_params(&q.format, lo, hi, &scale, &zero);
                for (int64_t j = at; j < at + group; j++)
                    assert_true(y[j] == (float)rounded(&q, (double)x[j], scale, zero));
            }
            if (!lu_act_has_records(&q.format))
                continue;
            float scale;
            lu_act_record(&ops, &q, x, K, record);
            memcpy(&scale, record, sizeof scale);
            for (int j = 0; j < K; j++)
                assert_true(scale * (float)(record[LU_ACT_HEADER + j] - record[4]) == y[j]);
        }
}

static void bad_values_spoil_their_row(void **state)
{
    float x[24] = {1, 2, 3}, y[24];
    uint8_t record[64], codes[24];
    lu_ops ops;
    (void)state;
    lu_ops_fill(&ops, lu_level_best());
    for (int i = 0; i < 2; i++) {
        lu_act_quant q = quant(i ? "int8:tensor" : "int8");
        q.scale = 1;
        q.zero = LU_ACT_SYM_ZERO;
        x[5] = i ? INFINITY : NAN;
        lu_act_fake(&ops, &q, x, 24, y, codes);
        lu_act_record(&ops, &q, x, 24, record);
        float scale;
        memcpy(&scale, record, sizeof scale);
        assert_true(isnan(scale));
        for (int j = 0; j < 24; j++)
            assert_true(isnan(y[j]));
    }
}

/* --- products --------------------------------------------------------------------------------- */

enum { ROWS = 3, OUT = 70, IN = 128 };

/* y[ROWS][OUT] of rounded rows, by records (U8) or by float values. */
static void product(const lu_weight *w, const lu_act_quant *q, lutra_dtype act, lu_level level,
                    const float *x, float *y)
{
    lu_ops ops;
    lu_linear l;
    lutra_err err;
    lu_ops_fill(&ops, level);
    must(lu_linear_plan(w, act, level, &l, &err), &err);
    void *packed = lu_alloc_aligned(l.packed_bytes);
    void *scratch = lu_alloc_aligned(lu_linear_scratch(&l, ROWS) + 64);
    uint8_t *rows = lu_alloc_aligned(ROWS * IN * sizeof(float)), codes[IN];
    assert_true(packed && scratch && rows);
    lu_linear_attach(&l, w, packed);
    lu_linear_pack(&l, w, 0, l.n_units);
    for (int m = 0; m < ROWS; m++)
        if (act == LUTRA_U8)
            lu_act_record(&ops, q, x + m * IN, IN, rows + m * lu_act_record_bytes(IN));
        else
            lu_act_fake(&ops, q, x + m * IN, IN, (float *)(void *)rows + m * IN, codes);
    const lu_linear_args a = {.x = rows,
                              .ldx = lu_linear_x_stride(&l),
                              .M = ROWS,
                              .y = y,
                              .ldy = OUT,
                              .unit1 = l.n_units,
                              .scratch = scratch};
    lu_linear_run(&l, &a);
    lu_free_aligned(l.packed);
    lu_free_aligned(scratch);
    lu_free_aligned(rows);
}

/* The product of integers is that of the rounded values, and the same at every level. */
static void integers_multiply_as_their_values(void **state)
{
    static const char *const weights[] = {"int8:channel", "int4:g64", "int3:g32:asym"};
    static const char *const inputs[] = {"int8", "int8:asym", "int4", "int8:tensor"};
    static float w[OUT * IN], x[ROWS * IN], first[ROWS * OUT], y[ROWS * OUT], fake[ROWS * OUT];
    lutra_ctx *ctx = open_ctx(1);
    lutra_err err;
    (void)state;
    fill(w, OUT * IN);
    fill(x, ROWS * IN);
    for (int i = 0; i < 3; i++) {
        lutra_format f;
        lutra_qmatrix m;
        must(lutra_format_parse(weights[i], &f, &err), &err);
        const lutra_matrix dense = {.n = OUT, .k = IN, .w = w, .dtype = LUTRA_F32};
        must(lutra_quantize_matrix(ctx, &f, LUTRA_RANGE_MINMAX, &dense, &m, &err), &err);
        lu_weight weight = {.n = OUT,
                            .k = IN,
                            .data = m.codes,
                            .bits = f.bits,
                            .group_size = f.group_size,
                            .scales = m.scales,
                            .scale_dtype = f.scale_dtype,
                            .zeros = m.zeros};
        memcpy(weight.table, f.table, sizeof weight.table);
        assert_true(lu_linear_takes_u8(&weight));
        for (int j = 0; j < 4; j++) {
            lu_act_quant q = quant(inputs[j]);
            q.scale = 0.03f;
            q.zero = LU_ACT_SYM_ZERO;
            for (int level = 0; level <= (int)lu_level_best(); level++) {
                product(&weight, &q, LUTRA_U8, (lu_level)level, x, level ? y : first);
                if (level)
                    assert_memory_equal(y, first, sizeof y);
            }
            product(&weight, &q, LUTRA_F32, LU_LEVEL_REF, x, fake);
            assert_true(relative(first, fake, (int64_t)ROWS * OUT) < 1e-6);
        }
        lutra_qmatrix_free(&m);
    }
    lutra_close(ctx);
}

static void other_weights_do_not(void **state)
{
    lu_weight w = {.n = 1, .k = 8, .bits = 4};
    (void)state;
    assert_false(lu_linear_takes_u8(&(lu_weight){.n = 1, .k = 8, .dtype = LUTRA_BF16}));
    for (int i = 0; i < 16; i++)
        w.table[i] = (float)i - 7.5f;
    assert_false(lu_linear_takes_u8(&w));
    for (int i = 0; i < 16; i++)
        w.table[i] = (float)(16 * i - 128);
    assert_true(lu_linear_takes_u8(&w));
    w.zeros = (const uint8_t *)"";
    assert_false(lu_linear_takes_u8(&w)); /* differences up to 240 */
    lu_linear l;
    lutra_err err;
    w.scales = "xxxx";
    w.scale_dtype = LUTRA_F32;
    assert_int_equal(lu_linear_plan(&w, LUTRA_U8, LU_LEVEL_REF, &l, &err), LUTRA_E_ARG);
}

/* --- static ranges ---------------------------------------------------------------------------- */

static void range_of(lu_act_rule rule, const char *spec, double percentile, const float *x,
                     int64_t n, int64_t samples, float *lo, float *hi)
{
    static lu_act_observer o;
    const lu_act_quant q = quant(spec);
    lu_act_observer_init(&o, rule);
    for (int64_t s = 0; s < samples; s++) { /* in two parts, which make no difference */
        assert_true(lu_act_observe(&o, x + s * n, n / 3));
        assert_true(lu_act_observe(&o, x + s * n + n / 3, n - n / 3));
        lu_act_observe_end(&o);
    }
    lu_act_observed_range(&o, &q.format, percentile, lo, hi);
}

static void means(void **state)
{
    static const float x[] = {-1, 2, 0, 3, -5, 1, 2, 2, -4, 0, 0, 10};
    float lo, hi;
    (void)state;
    range_of(LU_ACT_MINMAX, "int8:tensor", 0, x, 4, 3, &lo, &hi);
    assert_true(fabsf(lo + 10.0f / 3) < 1e-6f && fabsf(hi - 5) < 1e-6f);
    range_of(LU_ACT_MOVING, "int8:tensor", 0, x, 4, 3, &lo, &hi);
    const double l = -1.04 + 0.01 * (-4 + 1.04), h = 2.99 + 0.01 * (10 - 2.99);
    assert_true(fabs(lo - l) < 1e-6 && fabs(hi - h) < 1e-6);
    range_of(LU_ACT_MSE, "int8:tensor", 0, x, 0, 1, &lo, &hi);
    assert_true(lo == 0 && hi == 0);
}

static void percentiles(void **state)
{
    enum { N = 10000 };
    static float x[N];
    float lo, hi;
    (void)state;
    for (int i = 0; i < N; i++)
        x[i] = (float)((i * 7919) % N) / N * (i % 2 ? 1 : -0.5f);
    x[17] = -300; /* outliers */
    x[40] = 200;
    range_of(LU_ACT_PERCENTILE, "int8:tensor", 99.9, x, N, 1, &lo, &hi);
    assert_true(lo < -0.9f && lo > -1.2f && hi > 0.9f && hi < 1.2f); /* a bin is 0.25 wide */
    range_of(LU_ACT_PERCENTILE, "int8:tensor:asym", 99.9, x, N, 1, &lo, &hi);
    assert_true(lo < -0.4f && lo > -0.8f && hi > 0.9f && hi < 1.2f);
    range_of(LU_ACT_PERCENTILE, "int8:tensor", 100, x, N, 1, &lo, &hi);
    assert_true(lo == -300 && hi >= 200);
}

/* Squared error of the values themselves under a range. */
static double true_error(const lu_act_quant *q, float lo, float hi, const float *x, int n)
{
    float scale;
    int zero;
    double sum = 0;
    lu_act_params(&q->format, lo, hi, &scale, &zero);
    for (int i = 0; i < n; i++) {
        const double e = x[i] - rounded(q, (double)x[i], scale, zero);
        sum += e * e;
    }
    return sum;
}

/* The histogram's choice is as good as the best of the same ranges by the values themselves. */
static void least_squared_error(void **state)
{
    enum { N = 4096 };
    static float x[N];
    (void)state;
    fill(x, N);
    for (int i = 0; i < N; i++)
        x[i] = x[i] * x[i] * x[i]; /* long tails */
    static const char *const formats[] = {"int4:tensor", "int4:tensor:asym", "int6:tensor"};
    for (int f = 0; f < 3; f++) {
        const lu_act_quant q = quant(formats[f]);
        float lo, hi, lowest = 0, highest = 0;
        double best = INFINITY;
        range_of(LU_ACT_MSE, formats[f], 0, x, N / 4, 4, &lo, &hi);
        for (int i = 0; i < N; i++) {
            lowest = fminf(lowest, x[i]);
            highest = fmaxf(highest, x[i]);
        }
        for (int i = 0; i <= 80; i++) {
            const float p = 1 - (float)i * 0.01f;
            best = fmin(best, true_error(&q, p * lowest, p * highest, x, N));
        }
        assert_true(hi < highest);
        assert_true(true_error(&q, lo, hi, x, N) <= best * 1.01);
    }
}

static void samples_may_come_in_any_order(void **state)
{
    enum { N = 3000 };
    static float x[N], y[N];
    float a[2], b[2];
    (void)state;
    fill(x, N);
    for (int i = 0; i < N; i++) {
        x[i] *= i >= 2000 ? 50 : 1;
        y[(i + 1000) % N] = x[i];
    }
    for (int rule = LU_ACT_MSE; rule <= LU_ACT_PERCENTILE; rule++) {
        range_of((lu_act_rule)rule, "int8:tensor", 99, x, 1000, 3, &a[0], &a[1]);
        range_of((lu_act_rule)rule, "int8:tensor", 99, y, 1000, 3, &b[0], &b[1]);
        assert_memory_equal(a, b, sizeof a);
    }
    static lu_act_observer o;
    lu_act_observer_init(&o, LU_ACT_MSE);
    x[100] = NAN;
    assert_false(lu_act_observe(&o, x, N));
    assert_int_equal(o.n_samples, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs),
        cmocka_unit_test(params),
        cmocka_unit_test(rows),
        cmocka_unit_test(bad_values_spoil_their_row),
        cmocka_unit_test(integers_multiply_as_their_values),
        cmocka_unit_test(other_weights_do_not),
        cmocka_unit_test(means),
        cmocka_unit_test(percentiles),
        cmocka_unit_test(least_squared_error),
        cmocka_unit_test(samples_may_come_in_any_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
