/* test_gpu_ranges.c - clipped ranges that are searched on a GPU: the kernel's differences against
   the CPU's rounding, bit for bit; which ranges win, and the losses, against the CPU's search;
   losses by half of a Hessian. By itself on the emulated GPU, with LUTRA_TEST_GPU=cuda on a real
   one. */
#include "support/expect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "calib/gpu_ranges.h"
#include "support/bare_block.h"
#include "support/gpu_emulated.h"
#include "support/run_pass.h"

static lutra_ctx *ctx;
static lu_gpu *gpu;
static lu_la *la; /* with the GPU */

static const char *const specs[] = {"int4:g128",     "int2:g32:asym", "int3:channel",
                                    "nf3:g32:f32",   "lm2:g64",       "int4:g8:asym",
                                    "nf4:g128:bf16", "int8:g64",      "int3:channel:asym:f32"};
#define N_SPECS (sizeof specs / sizeof *specs)
#define N 37
#define K 256

static void *to_gpu(const void *host, size_t bytes)
{
    void *p;
    assert_int_equal(gpu->api->take(gpu, bytes, &p), 0);
    assert_int_equal(gpu->api->upload(gpu, p, host, bytes), 0);
    return p;
}

static void whole_ranges(const lu_site_linear *l, int64_t groups, float *lo, float *hi)
{
    const int64_t size = l->k / groups;
    for (int64_t i = 0; i < l->n * groups; i++) {
        lo[i] = hi[i] = l->w[i * size];
        for (int64_t c = 1; c < size; c++) {
            lo[i] = fminf(lo[i], l->w[i * size + c]);
            hi[i] = fmaxf(hi[i], l->w[i * size + c]);
        }
    }
}

static void differences_are_those_of_the_cpu(void **state)
{
    (void)state;
    static const float factors[] = {1, 0.85f, 0.5f, 1.3f};
    lu_block b = bare_block(ctx);
    for (size_t f = 0; f < N_SPECS; f++)
        for (int each = 0; each < 2; each++) {
            lu_site_linear l = bare_linear(specs[f], N, K, 3 + f);
            const int64_t groups = lutra_format_groups(&l.format, K), count = N * groups;
            lu_encoder encoder;
            int64_t end;
            for (int64_t c = 0; c < K; c++)
                l.w[5 * K + c] = 0; /* a row of zeros */
            float *lo = lu_array((size_t)count, sizeof *lo), *hi = lu_array((size_t)count, 4),
                  *p = lu_array((size_t)count, sizeof *p), *want = lu_array(N * K, sizeof *want),
                  *got = lu_array(N * K, sizeof *got);
            whole_ranges(&l, groups, lo, hi);
            for (int64_t i = 0; i < count; i++)
                p[i] = factors[each ? i % 4 : 1];
            lu_linear_encoder(&b, &l, 0, &encoder, &end);
            const lu_cuda_clip_args a = {.encoder = &encoder,
                                         .n = N,
                                         .k = K,
                                         .w = to_gpu(l.w, N * K * 4),
                                         .lo = to_gpu(lo, (size_t)count * 4),
                                         .hi = to_gpu(hi, (size_t)count * 4),
                                         .factors = each ? to_gpu(p, (size_t)count * 4) : NULL,
                                         .factor = factors[1],
                                         .difference = to_gpu(got, N * K * 4),
                                         .stream = gpu->stream};
            assert_int_equal(gpu->api->clip(&a), 0);
            assert_int_equal(gpu->api->download(gpu, got, a.difference, N * K * 4), 0);
            for (int64_t i = 0; i < count; i++) {
                lo[i] *= p[i];
                hi[i] *= p[i];
            }
            l.lo = lo;
            l.hi = hi;
            assert_int_equal(lu_linear_fake_round(&b, &l, l.w, want, NULL), LUTRA_OK);
            for (int64_t i = 0; i < N * K; i++)
                if (l.w[i] - want[i] != got[i])
                    fail_msg("%s, row %d column %d: %g, expected %g", specs[f], (int)(i / K),
                             (int)(i % K), (double)got[i], (double)(l.w[i] - want[i]));
            void *const all[] = {(void *)(uintptr_t)a.w, (void *)(uintptr_t)a.lo,
                                 (void *)(uintptr_t)a.hi, (void *)(uintptr_t)a.factors,
                                 a.difference};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                gpu->api->give(gpu, all[i]);
            lu_free(p);
            lu_free(want);
            lu_free(got);
            bare_linear_free(&l);
        }
    lu_la_close(b.la);
}

/* A weight, or a range, that no scale reaches: not a number, which no search takes for better. */
static void what_has_no_scale_is_no_number(void **state)
{
    (void)state;
    lu_block b = bare_block(ctx);
    lu_site_linear l = bare_linear("int4:g32", 1, 64, 3);
    const float lo[2] = {-1, -3e38f}, hi[2] = {1, 3e38f};
    float got[64];
    lu_encoder encoder;
    int64_t end;
    lu_linear_encoder(&b, &l, 0, &encoder, &end);
    const lu_cuda_clip_args a = {.encoder = &encoder,
                                 .n = 1,
                                 .k = 64,
                                 .w = to_gpu(l.w, sizeof got),
                                 .lo = to_gpu(lo, sizeof lo),
                                 .hi = to_gpu(hi, sizeof hi),
                                 .factor = 1,
                                 .difference = to_gpu(got, sizeof got),
                                 .stream = gpu->stream};
    assert_int_equal(gpu->api->clip(&a), 0);
    assert_int_equal(gpu->api->download(gpu, got, a.difference, sizeof got), 0);
    for (int c = 0; c < 64; c++)
        assert_true(c < 32 ? isfinite(got[c]) : isnan(got[c]));
    double best[2];
    float best_factor[2];
    void *judged = to_gpu(best, sizeof best), *factor = to_gpu(best_factor, sizeof best_factor);
    for (int i = 0; i < 2; i++)
        assert_int_equal(gpu->api->judge_groups(1, 2, 32, a.difference, a.difference, i == 0,
                                                i ? 0.5f : 0.75f, judged, factor, gpu->stream),
                         0);
    assert_int_equal(gpu->api->download(gpu, best, judged, sizeof best), 0);
    assert_int_equal(gpu->api->download(gpu, best_factor, factor, sizeof best_factor), 0);
    assert_true(isfinite(best[0]) && best_factor[0] == 0.75f); /* the first of equals */
    assert_true(isinf(best[1]) && best_factor[1] == 1);
    void *const all[] = {(void *)(uintptr_t)a.w,
                         (void *)(uintptr_t)a.lo,
                         (void *)(uintptr_t)a.hi,
                         a.difference,
                         judged,
                         factor};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        gpu->api->give(gpu, all[i]);
    bare_linear_free(&l);
    lu_la_close(b.la);
}

/* d H_G d^T of one group in float64. */
static double group_error(const lu_stats *s, const float *d, int64_t at, int64_t size)
{
    double sum = 0;
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < size; j++)
            sum += (double)d[i] * (double)s->hessian[(at + i) * K + at + j] * (double)d[j];
    return sum;
}

static lutra_status search(lu_block *b, lu_range_search *s, bool *possible, lutra_err *err)
{
    return lu_gpu_ranges_search(gpu, b, s, possible, err);
}

static void the_same_ranges_win(void **state)
{
    (void)state;
    for (size_t f = 0; f < N_SPECS; f++) {
        lu_block b = bare_block(ctx), there = b;
        lu_site_linear l[2], *list[2];
        lu_site site[2];
        there.la = la;
        there.search_ranges = search;
        for (int i = 0; i < 2; i++) {
            lu_block *block = i ? &there : &b;
            l[i] = bare_linear(specs[f], N, K, 7);
            list[i] = &l[i];
            site[i] = (lu_site){.name = "test", .k = K, .linears = &list[i], .n_linears = 1};
            site[i].stats = bare_stats(&b, 300, K, 8);
            block->sites = &site[i];
            block->n_sites = 1;
            assert_int_equal(run_pass(block, "clip", ""), LUTRA_OK);
        }
        const int64_t groups = lutra_format_groups(&l[0].format, K), size = K / groups;
        assert_true(!l[0].lo == !l[1].lo);
        int64_t others = 0;
        float *w[2] = {lu_array(N * K, sizeof(float)), lu_array(N * K, sizeof(float))};
        for (int i = 0; l[0].lo && i < 2; i++) {
            assert_int_equal(lu_linear_fake_round(&b, &l[i], l[i].w, w[i], NULL), LUTRA_OK);
            for (int64_t c = 0; c < N * K; c++)
                w[i][c] = l[i].w[c] - w[i][c];
        }
        for (int64_t g = 0; l[0].lo && g < N * groups; g++) {
            if (l[0].lo[g] == l[1].lo[g] && l[0].hi[g] == l[1].hi[g])
                continue;
            const double cpu = group_error(&site[0].stats, w[0] + g * size, g * size % K, size),
                         got = group_error(&site[0].stats, w[1] + g * size, g * size % K, size);
            assert_true(fabs(got - cpu) <= 1e-5 * cpu);
            others++;
        }
        assert_true(others <= N * groups / 20);
        for (int i = 0; i < 2; i++) {
            lu_free(w[i]);
            bare_stats_free(&site[i].stats);
            bare_linear_free(&l[i]);
        }
        lu_la_close(b.la);
    }
}

static void losses_are_those_of_the_linear(void **state)
{
    (void)state;
    static const float factors[] = {1, 0.9f, 0.8f, 0.7f};
    for (size_t f = 0; f < N_SPECS; f++)
        for (int mse = 0; mse < 2; mse++) {
            lu_block b = bare_block(ctx), there = b;
            lu_site_linear l = bare_linear(specs[f], N, K, 7), *list[] = {&l};
            lu_site site = {.name = "test", .k = K, .linears = list, .n_linears = 1};
            const int64_t count = N * lutra_format_groups(&l.format, K);
            double clipped, plain;
            bool possible;
            l.range = mse ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
            site.stats = bare_stats(&b, 300, K, 8);
            float *lo = lu_array((size_t)count, 4), *hi = lu_array((size_t)count, 4),
                  *best = lu_array((size_t)count, 4), *rounded = lu_array(N * K, 4);
            whole_ranges(&l, count / N, lo, hi);
            lu_range_search s = {.site = &site,
                                 .l = &l,
                                 .lo = lo,
                                 .hi = hi,
                                 .factors = factors,
                                 .n_factors = 4,
                                 .best = best,
                                 .weigh = true};
            there.la = la;
            assert_int_equal(search(&there, &s, &possible, NULL), LUTRA_OK);
            assert_true(possible);
            assert_int_equal(lu_linear_fake_round(&b, &l, l.w, rounded, NULL), LUTRA_OK);
            assert_int_equal(lu_linear_loss(&b, &site, &l, rounded, &plain, NULL), LUTRA_OK);
            for (int64_t i = 0; i < count; i++) {
                lo[i] *= best[i];
                hi[i] *= best[i];
            }
            l.lo = lo;
            l.hi = hi;
            assert_int_equal(lu_linear_fake_round(&b, &l, l.w, rounded, NULL), LUTRA_OK);
            assert_int_equal(lu_linear_loss(&b, &site, &l, rounded, &clipped, NULL), LUTRA_OK);
            assert_true(fabs(s.plain - plain) <= 1e-5 * plain);
            assert_true(fabs(s.clipped - clipped) <= 1e-5 * clipped);
            lu_free(best);
            lu_free(rounded);
            bare_stats_free(&site.stats);
            bare_linear_free(&l);
            lu_la_close(b.la);
        }
}

/* Of a symmetric matrix that takes several strips, one half is read. */
static void norms_by_half_of_a_matrix(void **state)
{
    (void)state;
    const int64_t n = 4100, m = 2;
    float *h = lu_array((size_t)n, (size_t)n * sizeof *h), *d = lu_array((size_t)(m * n), 4);
    double got[2];
    uint64_t seed = 3;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            h[i * n + j] = h[j * n + i] = (i == j ? 4 : 0) + 0.01f * bare_noise(&seed);
    for (int64_t i = 0; i < m * n; i++)
        d[i] = bare_noise(&seed);
    assert_int_equal(lu_la_norms(la, m, n, d, h, got, NULL), LUTRA_OK);
    for (int64_t r = 0; r < m; r++) {
        double want = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                want += (double)d[r * n + i] * (double)h[i * n + j] * (double)d[r * n + j];
        assert_true(fabs(got[r] - want) <= 1e-5 * want);
    }
    lu_free(h);
    lu_free(d);
}

static int open_all(void **state)
{
    const char *wanted = getenv("LUTRA_TEST_GPU");
    const bool emulated = !wanted || !*wanted;
    int ordinal = 0;
    lutra_err err = {0};
    (void)state;
    gpu_emulated_reset();
    if (!emulated)
        must(lu_gpu_parse(wanted, &ordinal, &err), &err);
    must(lu_gpu_open(emulated ? gpu_emulated() : NULL, ordinal, &gpu, &err), &err);
    gpu->worth = 0;
    ctx = open_ctx(2);
    must(lu_la_open(ctx->pool, gpu, &la, &err), &err);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    lu_la_close(la);
    lu_gpu_close(gpu);
    lutra_close(ctx);
    assert_int_equal(gpu_emulated_now.taken, 0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(differences_are_those_of_the_cpu),
        cmocka_unit_test(what_has_no_scale_is_no_number),
        cmocka_unit_test(the_same_ranges_win),
        cmocka_unit_test(losses_are_those_of_the_linear),
        cmocka_unit_test(norms_by_half_of_a_matrix),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
