/* Judging scales and ranges by what GPTQ will make of the weights. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "algo/gptq.h"
#include "algo/seam_trial.h"
#include "support/run_pass.h"
#include "support/toy_block.h"

enum { N = 24, K = 96, ROWS = 400 };

static lutra_ctx *ctx;

static int open_all(void **state)
{
    lutra_options o;
    (void)state;
    lutra_options_init(&o);
    o.n_threads = 2;
    return lutra_open(&o, &ctx, NULL);
}

static int close_all(void **state)
{
    (void)state;
    lutra_close(ctx);
    return 0;
}

static lu_gptq_settings defaults(void)
{
    lu_gptq_settings s;
    lu_pass_defaults(lu_pass_find("gptq"), &s);
    return s;
}

/* w becomes what the pass makes of it for the Hessian; the loss d H d of that. */
static double run_gptq(lu_block *b, const lu_gptq_settings *set, const lu_site_linear *like,
                       const float *h, float *w)
{
    static float hessian[K * K];
    float before[N * K];
    double loss = 0;
    lu_site_linear l = *like, *list[] = {&l};
    lu_site site = {.name = "test", .k = K, .linears = list, .n_linears = 1};
    memcpy(hessian, h, sizeof hessian);
    memcpy(before, w, sizeof before);
    l.w = w;
    site.stats = (lu_stats){.n_rows = ROWS, .hessian = hessian};
    assert_int_equal(lu_pass_find("gptq")->site(b, &site, set, NULL), LUTRA_OK);
    lu_linear_free_codes(&l);
    memcpy(hessian, h, sizeof hessian);
    l.w = before;
    assert_int_equal(lu_linear_loss(b, &site, &l, w, &loss, NULL), LUTRA_OK);
    return loss;
}

static void a_trial_rounds_as_gptq_does(void **state)
{
    (void)state;
    static const char *const specs[] = {"int2:g32:asym", "int3:g32", "nf3:channel", "lm2:g48"};
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++) {
        lu_block b = bare_block(ctx);
        lu_gptq_settings set = defaults();
        lu_gptq_trial t;
        lu_site_linear l = bare_linear(specs[f], N, K, 3), copy = l;
        lu_site site = {.name = "test", .k = K, .stats = bare_stats(&b, ROWS, K, 8)};
        float w[N * K], tried[N * K];
        memcpy(w, l.w, sizeof w);
        memcpy(tried, l.w, sizeof tried);
        copy.w = tried;
        (void)run_gptq(&b, &set, &l, site.stats.hessian, w);
        assert_int_equal(lu_gptq_trial_open(&b, &site, &set, &t, NULL), LUTRA_OK);
        assert_int_equal(lu_gptq_trial_round(&b, &t, &set, NULL, &copy, NULL), LUTRA_OK);
        assert_memory_equal(w, tried, sizeof w);
        lu_gptq_trial_close(&t);
        bare_stats_free(&site.stats);
        bare_linear_free(&l);
        lu_la_close(b.la);
    }
}

/* Without damping and in the order of the columns the scaled factor is that of the scaled inputs.
 */
static void scaled_inputs_have_a_scaled_factor(void **state)
{
    (void)state;
    lu_block b = bare_block(ctx);
    lu_gptq_settings set = defaults();
    lu_gptq_trial t;
    lu_site_linear l = bare_linear("int4:g32:asym:f32", N, K, 5), copy = l;
    lu_site site = {.name = "test", .k = K, .stats = bare_stats(&b, ROWS, K, 9)};
    float w[N * K], tried[N * K], s[K];
    static float h[K * K];
    uint64_t seed = 7;
    double loss = 0;
    set.damp = 0;
    set.act_order = false;
    for (int c = 0; c < K; c++)
        s[c] = expf(bare_noise(&seed));
    for (int i = 0; i < N * K; i++)
        w[i] = tried[i] = l.w[i] * s[i % K];
    for (int i = 0; i < K * K; i++)
        h[i] = site.stats.hessian[i] / (s[i / K] * s[i % K]);
    assert_int_equal(lu_gptq_trial_open(&b, &site, &set, &t, NULL), LUTRA_OK);
    copy.w = tried;
    assert_int_equal(lu_gptq_trial_round(&b, &t, &set, s, &copy, NULL), LUTRA_OK);
    lu_gptq_trial_close(&t);
    for (int i = 0; i < N * K; i++)
        copy.w[i] /= s[i % K];
    assert_int_equal(lu_linear_loss(&b, &site, &l, copy.w, &loss, NULL), LUTRA_OK);
    const double pass = run_gptq(&b, &set, &l, h, w);
    assert_true(fabs(loss - pass) <= 0.01 * pass); /* a code here and there falls the other way */
    bare_stats_free(&site.stats);
    bare_linear_free(&l);
    lu_la_close(b.la);
}

static void few_rows_are_rounded_to_nearest(void **state)
{
    (void)state;
    lu_block b = bare_block(ctx);
    lu_gptq_settings set = defaults();
    lu_gptq_trial t;
    lu_site_linear l = bare_linear("int2:g32", N, K, 3);
    lu_site site = {.name = "test", .k = K, .stats = bare_stats(&b, ROWS, K, 8)};
    float nearest[N * K];
    set.min_rows = ROWS + 1;
    assert_int_equal(lu_linear_fake_round(&b, &l, l.w, nearest, NULL), LUTRA_OK);
    assert_int_equal(lu_gptq_trial_open(&b, &site, &set, &t, NULL), LUTRA_OK);
    assert_int_equal(lu_gptq_trial_round(&b, &t, &set, NULL, &l, NULL), LUTRA_OK);
    assert_memory_equal(nearest, l.w, sizeof nearest);
    lu_gptq_trial_close(&t);
    bare_stats_free(&site.stats);
    bare_linear_free(&l);
    lu_la_close(b.la);
}

/* A large weight on an input that is hardly ever there: the whole range serves nobody. Without one
   GPTQ makes up for what clipping would gain. */
static void ranges_are_clipped_where_gptq_gains_by_it(void **state)
{
    (void)state;
    for (int useless = 0; useless < 2; useless++) {
        lu_block b = bare_block(ctx);
        const lu_gptq_settings set = defaults();
        lu_site_linear l = bare_linear("int3:g32:asym", N, K, 3), *list[] = {&l};
        lu_site site = {.name = "test", .k = K, .linears = list, .n_linears = 1};
        float with[N * K], without[N * K];
        site.stats = bare_stats(&b, ROWS, K, 8);
        for (int g = 0; useless && g < K; g += 32) {
            for (int r = 0; r < N; r++)
                l.w[r * K + g] *= 30;
            for (int c = 0; c < K; c++)
                site.stats.hessian[g * K + c] = site.stats.hessian[c * K + g] *= 1e-3f;
        }
        memcpy(with, l.w, sizeof with);
        memcpy(without, l.w, sizeof without);
        l.gptq = &set;
        b.sites = &site;
        b.n_sites = 1;
        assert_int_equal(run_pass(&b, "clip", "max_shrink=0.95"), LUTRA_OK);
        assert_true(!l.lo == !useless);
        if (useless) {
            const double clipped = run_gptq(&b, &set, &l, site.stats.hessian, with);
            lu_site_linear plain = l;
            plain.lo = plain.hi = NULL;
            assert_true(clipped <= LU_GPTQ_TRIAL_GAIN *
                                       run_gptq(&b, &set, &plain, site.stats.hessian, without));
        }
        bare_stats_free(&site.stats);
        bare_linear_free(&l);
        lu_la_close(b.la);
    }
}

static double trial_loss(toy_block *t, int seam)
{
    const lu_act_format no_act = {.bits = 0};
    double loss = 0;
    lu_seam_trial trial;
    assert_int_equal(lu_seam_trial_open(&t->block, &t->seams[seam], &no_act, &trial, NULL),
                     LUTRA_OK);
    assert_int_equal(lu_seam_trial_loss(&trial, NULL, &loss, NULL), LUTRA_OK);
    lu_seam_trial_close(&trial);
    return loss;
}

/* The toy's channels differ by much: there scales gain even under GPTQ. */
static void awq_judges_by_gptq_where_that_comes_next(void **state)
{
    (void)state;
    const lu_gptq_settings set = defaults();
    toy_block *t = toy_open(ctx, "int2:g32:asym", 0, false);
    double before[TOY_SEAMS], nearest[TOY_SEAMS];
    for (int i = 0; i < TOY_SEAMS; i++)
        nearest[i] = trial_loss(t, i);
    for (int i = 0; i < TOY_LINEARS; i++)
        t->linears[i].gptq = &set;
    for (int i = 0; i < TOY_SEAMS; i++) {
        before[i] = trial_loss(t, i);
        assert_true(before[i] < nearest[i]);
    }
    assert_int_equal(run_pass(&t->block, "awq", "clip=0"), LUTRA_OK);
    for (int i = 0; i < TOY_SEAMS; i++)
        assert_true(trial_loss(t, i) <= before[i] * 1.1); /* seams before it changed its inputs */
    toy_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trial_rounds_as_gptq_does),
        cmocka_unit_test(scaled_inputs_have_a_scaled_factor),
        cmocka_unit_test(few_rows_are_rounded_to_nearest),
        cmocka_unit_test(ranges_are_clipped_where_gptq_gains_by_it),
        cmocka_unit_test(awq_judges_by_gptq_where_that_comes_next),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
