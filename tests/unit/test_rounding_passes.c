/* HQQ, LLM.int8() and the ranges of weights against formulations of their own in float64. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "algo/hqq.h"
#include "fmt/codec.h"
#include "support/bare_block.h"
#include "support/run_pass.h"
#include "tensor/convert.h"

#define N 24
#define K 128

static lutra_ctx *ctxs[2]; /* of 1 and of 3 threads */

static int open_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lutra_options o;
        lutra_options_init(&o);
        o.n_threads = 1 + 2 * i;
        if (lutra_open(&o, &ctxs[i], NULL))
            return -1;
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        lutra_close(ctxs[i]);
    return 0;
}

typedef struct {
    lu_block b;
    lu_site_linear l, *list[1];
    lu_site site;
    float w[N * K]; /* as it was */
} bench;

static bench *open_bench(int threads, const char *spec)
{
    bench *t = calloc(1, sizeof *t);
    t->b = bare_block(ctxs[threads]);
    t->l = bare_linear(spec, N, K, 21);
    t->list[0] = &t->l;
    t->site = (lu_site){.name = "test", .k = K, .linears = t->list, .n_linears = 1};
    t->site.stats = bare_stats(&t->b, 256, K, 4);
    t->b.sites = &t->site;
    t->b.n_sites = 1;
    memcpy(t->w, t->l.w, sizeof t->w);
    return t;
}

static void close_bench(bench *t)
{
    bare_stats_free(&t->site.stats);
    bare_linear_free(&t->l);
    lu_la_close(t->b.la);
    free(t);
}

static double power_error(const float *a, const float *b, int64_t n, double p)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow(fabs((double)a[i] - (double)b[i]), p);
    return sum;
}

/* ---- HQQ ----------------------------------------------------------------------------------------
 */

/* The generalized shrinkage is the minimum over e of |e|^p + beta / 2 (e - d)^2 made explicit by
   one step; here the formula of the publication, value by value. */
static void a_step_follows_the_publication(void **state)
{
    (void)state;
    uint64_t seed = 6;
    for (int run = 0; run < 40; run++) {
        float w[32], zero = 3 + bare_noise(&seed);
        const double p = run % 2 ? 0.7 : 1, beta = 5 + run, scale = 0.04 + 0.001 * run, z = zero;
        const lu_hqq_solver s = {.norm = p, .beta = beta, .scale = (float)scale, .top = 7};
        double error = 0, want = 0;
        for (int i = 0; i < 32; i++)
            w[i] = i == 7 ? (float)scale * 2 : 0.1f * bare_noise(&seed);
        for (int i = 0; i < 32; i++) {
            double q = nearbyint((double)w[i] / (double)s.scale + z);
            q = q < 0 ? 0 : q > 7 ? 7 : q;
            const double d = (double)w[i] - (double)s.scale * (q - z);
            double e = 0;
            if (d != 0 && fabs(d) > pow(fabs(d), p - 1) / beta)
                e = (d > 0 ? 1 : -1) * (fabs(d) - pow(fabs(d), p - 1) / beta);
            error += fabs(d);
            want += (q - ((double)w[i] - e) / (double)s.scale) / 32;
        }
        const double got = lu_hqq_step(&s, w, 32, &zero);
        assert_true(fabs(got - error) <= 1e-12 * error);
        assert_true(fabs((double)zero - want) <= 1e-6 * fmax(1, fabs(want)));
    }
}

static void steps_lower_the_error(void **state)
{
    (void)state;
    uint64_t seed = 16;
    for (int run = 0; run < 20; run++) {
        float w[64], zero = 2.6f;
        lu_hqq_solver s = {.norm = 0.7, .beta = 10, .scale = 0.05f, .top = 3};
        double first = 0, last = 0;
        for (int i = 0; i < 64; i++)
            w[i] = 0.05f * bare_noise(&seed) - 0.01f;
        for (int i = 0; i < 20; i++, s.beta *= 1.01) {
            const double error = lu_hqq_step(&s, w, 64, &zero);
            first = i == 0 ? error : first;
            last = error;
        }
        assert_true(last < first);
    }
}

static void hqq_never_ends_above_its_start(void **state)
{
    (void)state;
    static const char *const specs[] = {"int2:g32:asym", "int3:g64:asym", "int4:channel:asym:f32",
                                        "int8:g32:asym"};
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++)
        for (int mse = 0; mse < 2; mse++) {
            bench *t = open_bench(1, specs[f]);
            float plain[N * K];
            t->l.range = mse ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
            assert_int_equal(lu_linear_fake_round(&t->b, &t->l, t->w, plain, NULL), LUTRA_OK);
            assert_int_equal(run_pass(&t->b, "hqq", ""), LUTRA_OK);
            const int64_t size = K / lutra_format_groups(&t->l.format, K);
            for (int64_t g = 0; g < N * K / size; g++) {
                const float *w = t->w + g * size;
                const double now = power_error(w, t->l.w + g * size, size, 0.7);
                const double was = power_error(w, plain + g * size, size, 0.7);
                assert_true(now <= was * (1 + 1e-5));
            }
            for (int64_t r = 0; r < N; r++) {                 /* w holds what the codes say */
                float row[K];
                lu_linear_decode_row(&t->l, r, row);
                assert_memory_equal(row, t->l.w + r * K, sizeof row);
            }
            close_bench(t);
        }
}

static void hqq_wants_zero_points(void **state)
{
    (void)state;
    const lu_pass *p = lu_pass_find("hqq");
    lutra_format f;
    lutra_err err;
    assert_int_equal(lutra_format_parse("int4:g64", &f, NULL), LUTRA_OK);
    assert_int_equal(p->check(NULL, &f, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, ":asym"));
    assert_int_equal(lutra_format_parse("int4:g64:asym", &f, NULL), LUTRA_OK);
    assert_int_equal(p->check(NULL, &f, &err), LUTRA_OK);
}

/* ---- LLM.int8() ---------------------------------------------------------------------------------
 */

static void outlier_columns_stay_in_half_precision(void **state)
{
    (void)state;
    bench *t = open_bench(1, "int8:channel:f32");
    float *size = t->site.stats.absmax;
    for (int c = 0; c < K; c++)
        size[c] = 1 + 0.001f * (float)c;
    size[70] = 50;
    size[3] = 20;
    size[127] = 9;
    assert_int_equal(run_pass(&t->b, "llmint8", "columns=3"), LUTRA_OK);
    const int32_t want[] = {3, 70, 127};
    const lu_codes *codes = &t->l.codes;
    assert_int_equal(codes->n_outliers, 3);
    assert_memory_equal(codes->outlier_columns, want, sizeof want);
    for (int r = 0; r < N; r++) {
        float row[K];
        double most = 0;
        lu_linear_decode_row(&t->l, r, row);
        for (int c = 0; c < K; c++)
            if (c != 3 && c != 70 && c != 127)
                most = fmax(most, fabs((double)t->w[r * K + c]));
        for (int c = 0; c < K; c++) {
            const double w = (double)t->w[r * K + c], d = fabs(w - (double)row[c]);
            if (c == 3 || c == 70 || c == 127) {
                assert_true(row[c] == lu_f16_to_f32(lu_f32_to_f16(t->w[r * K + c])));
                assert_true(d <= fabs(w) / 2048);
            } else {
                assert_true(d <= 0.5001 * most / 127.5); /* a step of the other columns' range */
            }
        }
        assert_memory_equal(row, t->l.w + r * K, sizeof row);
    }
    close_bench(t);
}

static void no_columns_is_rounding_to_nearest(void **state)
{
    (void)state;
    bench *t = open_bench(1, "int8:channel");
    float plain[N * K];
    assert_int_equal(lu_linear_fake_round(&t->b, &t->l, t->w, plain, NULL), LUTRA_OK);
    assert_int_equal(run_pass(&t->b, "llmint8", "columns=0"), LUTRA_OK);
    assert_memory_equal(plain, t->l.w, sizeof plain);
    close_bench(t);
}

static void the_number_of_columns_is_known_in_advance(void **state)
{
    (void)state;
    const lu_pass *p = lu_pass_find("llmint8");
    char settings[64] = {0};
    lu_pass_defaults(p, settings);
    assert_int_equal(p->outliers(settings, 4096), 16);
    assert_int_equal(p->outliers(settings, 40), 10);
    assert_int_equal(p->outliers(settings, 3), 1);
}

/* ---- ranges -------------------------------------------------------------------------------------
 */

/* One scale per unit; mse no worse than minmax over the unit, in its own measure. */
static void ranges_are_those_of_their_units(void **state)
{
    (void)state;
    static const int64_t each[] = {32, K, N * K};
    static const char *const specs[] = {"int3:g32:asym:f32", "nf3:g32:f32", "int4:g32:f32"};
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++)
        for (int unit = 0; unit < 3; unit++) {
            float rounded[2][N * K];
            for (int rule = 0; rule < 2; rule++) {
                char settings[64];
                bench *t = open_bench(1, specs[f]);
                snprintf(settings, sizeof settings, "rule=%d over=%d", rule, unit);
                assert_int_equal(run_pass(&t->b, "range", settings), LUTRA_OK);
                assert_memory_equal(t->w, t->l.w, sizeof t->w);
                for (int64_t g = 0; g < N * K / 32; g++) {
                    const int64_t first = g * 32 / each[unit] * each[unit] / 32;
                    assert_true(t->l.lo[g] == t->l.lo[first] && t->l.hi[g] == t->l.hi[first]);
                }
                assert_int_equal(lu_linear_fake_round(&t->b, &t->l, t->w, rounded[rule], NULL),
                                 LUTRA_OK);
                if (rule == 1)
                    for (int64_t u = 0; u < N * K / each[unit]; u++) {
                        const int64_t at = u * each[unit];
                        assert_true(power_error(t->w + at, rounded[1] + at, each[unit], 2.4) <=
                                    power_error(t->w + at, rounded[0] + at, each[unit], 2.4));
                    }
                close_bench(t);
            }
        }
}

/* The error of a group in the range p times the whole, in float64. */
static double error_in_range(const float *w, double lo, double hi)
{
    const double low = fmin(lo, 0), high = fmax(hi, 0), s = (high - low) / 3;
    const double z = fmin(rint(-low / s), 3);
    double error = 0;
    for (int c = 0; c < 32; c++) {
        const double q = fmin(fmax(rint((double)w[c] / s + z), 0), 3);
        error += pow(fabs((double)w[c] - s * (q - z)), 2.4);
    }
    return error;
}

/* By brute force over the 80 ranges of each group. */
static void mse_takes_the_best_of_80(void **state)
{
    (void)state;
    bench *t = open_bench(0, "int2:g32:asym:f32");
    assert_int_equal(run_pass(&t->b, "range", "rule=1 over=0"), LUTRA_OK);
    for (int64_t g = 0; g < N * K / 32; g++) {
        const float *w = t->w + g * 32;
        double best = INFINITY;
        float lo = w[0], hi = w[0];
        for (int c = 0; c < 32; c++) {
            lo = fminf(lo, w[c]);
            hi = fmaxf(hi, w[c]);
        }
        for (int i = 0; i < 80; i++) {
            const double p = 1 - i / 100.0;
            best = fmin(best, error_in_range(w, p * (double)lo, p * (double)hi));
        }
        assert_true(error_in_range(w, (double)t->l.lo[g], (double)t->l.hi[g]) <= best * (1 + 1e-4));
    }
    close_bench(t);
}

static void percentiles_leave_their_share_outside(void **state)
{
    (void)state;
    static const char *const specs[] = {"int4:g32:asym", "int4:g32"};
    for (int symmetric = 0; symmetric < 2; symmetric++)
        for (int percent = 80; percent <= 100; percent += 10) {
            char settings[64];
            int outside = 0;
            bench *t = open_bench(1, specs[symmetric]);
            snprintf(settings, sizeof settings, "rule=2 over=2 percentile=%d", percent);
            assert_int_equal(run_pass(&t->b, "range", settings), LUTRA_OK);
            for (int i = 0; i < N * K; i++)
                outside += t->w[i] < t->l.lo[0] || t->w[i] > t->l.hi[0];
            assert_true(abs(outside - N * K * (100 - percent) / 100) <= 2);
            if (symmetric)
                assert_true(t->l.lo[0] == -t->l.hi[0]);
            close_bench(t);
        }
}

/* ---- all ----------------------------------------------------------------------------------------
 */

static void threads_change_no_bit(void **state)
{
    (void)state;
    static const char *const runs[][3] = {{"hqq", "", "int3:g32:asym"},
                                          {"llmint8", "", "int8:channel"},
                                          {"range", "rule=1 over=2", "nf4:g32"},
                                          {"range", "rule=2 over=1", "int4:g32"},
                                          {"clip", "", "int3:g32"}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        bench *t[2];
        for (int c = 0; c < 2; c++) {
            t[c] = open_bench(c, runs[i][2]);
            assert_int_equal(run_pass(&t[c]->b, runs[i][0], runs[i][1]), LUTRA_OK);
            if (!t[c]->l.codes.codes)
                assert_int_equal(run_pass(&t[c]->b, "rtn", ""), LUTRA_OK);
        }
        assert_memory_equal(t[0]->l.w, t[1]->l.w, sizeof t[0]->w);
        close_bench(t[0]);
        close_bench(t[1]);
    }
}

/* A weight that is not a number is an error that names the linear, and nothing is left behind. */
static void bad_weights_are_errors(void **state)
{
    (void)state;
    static const char *const runs[][2] = {{"hqq", "int3:g32:asym"},
                                          {"llmint8", "int8:channel"},
                                          {"range", "int4:g32"},
                                          {"clip", "int3:g32"}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        bench *t = open_bench(1, runs[i][1]);
        t->l.w[3 * K + 1] = NAN;
        assert_int_equal(run_pass(&t->b, runs[i][0], ""), LUTRA_E_FORMAT);
        close_bench(t);
    }
    bench *t = open_bench(1, "int8:channel");
    for (int c = 0; c < K; c++)
        t->l.w[c] = 1e6f; /* an outlier column among them does not fit fp16 */
    assert_int_equal(run_pass(&t->b, "llmint8", ""), LUTRA_E_FORMAT);
    close_bench(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_follows_the_publication),
        cmocka_unit_test(steps_lower_the_error),
        cmocka_unit_test(hqq_never_ends_above_its_start),
        cmocka_unit_test(hqq_wants_zero_points),
        cmocka_unit_test(outlier_columns_stay_in_half_precision),
        cmocka_unit_test(no_columns_is_rounding_to_nearest),
        cmocka_unit_test(the_number_of_columns_is_known_in_advance),
        cmocka_unit_test(ranges_are_those_of_their_units),
        cmocka_unit_test(mse_takes_the_best_of_80),
        cmocka_unit_test(percentiles_leave_their_share_outside),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(bad_weights_are_errors),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
