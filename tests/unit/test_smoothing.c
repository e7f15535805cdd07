/* SmoothQuant and OS+: scales against the equations in float64; with inputs rounded to 8 bits by
   one range for all rows, both bring the loss of a block with outliers far down; searches end no
   higher than where they began. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "algo/seam_trial.h"
#include "support/run_pass.h"
#include "support/toy_block.h"

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

static double trial_loss(toy_block *t, int seam, const lu_act_format *act)
{
    double loss = 0;
    lu_seam_trial trial;
    assert_int_equal(lu_seam_trial_open(&t->block, &t->seams[seam], act, &trial, NULL), LUTRA_OK);
    assert_int_equal(lu_seam_trial_loss(&trial, NULL, &loss, NULL), LUTRA_OK);
    lu_seam_trial_close(&trial);
    return loss;
}

static void smoothquant_scales_by_equation_4(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int8:channel:f32", 1, false);
    float before[2][TOY_INNER * TOY_HIDDEN], x[TOY_HIDDEN];
    const lu_site_linear *gate = &t->linears[TOY_GATE], *up = &t->linears[TOY_UP];
    const double alpha = 0.7;
    memcpy(before[0], gate->w, sizeof before[0]);
    memcpy(before[1], up->w, sizeof before[1]);
    t->sites[TOY_SITE_MLP].stats.absmax[9] = 0; /* a dead channel */
    memcpy(x, t->sites[TOY_SITE_MLP].stats.absmax, sizeof x);
    assert_int_equal(run_pass(&t->block, "smoothquant", "alpha=0.7"), LUTRA_OK);
    for (int c = 0; c < TOY_HIDDEN; c++) {
        double w = 0;
        for (int r = 0; r < TOY_INNER; r++)
            for (int l = 0; l < 2; l++)
                w = fmax(w, fabs((double)before[l][r * TOY_HIDDEN + c]));
        const double s = c == 9 ? 1 : pow((double)x[c], alpha) / pow(w, 1 - alpha);
        for (int r = 0; r < TOY_INNER; r++)
            assert_true(fabs((double)gate->w[r * TOY_HIDDEN + c] -
                             s * (double)before[0][r * TOY_HIDDEN + c]) <=
                        2e-6 * fabs(s * (double)before[0][r * TOY_HIDDEN + c]));
    }
    toy_close(t);
}

/* What has no norm before it is scaled with the linear before it, unless pairs is off. */
static void pairs_of_linears_are_smoothed_unless_it_is_off(void **state)
{
    (void)state;
    static const char *const passes[] = {"smoothquant", "osplus"};
    for (int p = 0; p < 4; p++) {
        toy_block *t = toy_open(ctx, "int8:channel", 0, false);
        float before[TOY_HIDDEN * TOY_INNER];
        memcpy(before, t->linears[TOY_DOWN].w, sizeof before);
        assert_int_equal(run_pass(&t->block, passes[p / 2], p % 2 ? "act_range=1" : "pairs=0"),
                         LUTRA_OK);
        if (p % 2)
            assert_memory_not_equal(before, t->linears[TOY_DOWN].w, sizeof before);
        else
            assert_memory_equal(before, t->linears[TOY_DOWN].w, sizeof before);
        toy_close(t);
    }
}

static void outliers_no_longer_spoil_the_range(void **state)
{
    (void)state;
    static const struct {
        const char *pass, *settings;
    } runs[] = {{"smoothquant", "act_range=1"},
                {"smoothquant", "act_range=1 search=1"},
                {"osplus", "act_range=1"},
                {"osplus", "act_range=1 stride=1"},
                {"osplus", "act_range=1 act_symmetric=0"}};
    const lu_act_format act = {.bits = 8, .scope = LU_ACT_TENSOR};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++)
        for (int offset = 0; offset < 2; offset++) {
            toy_block *t = toy_open(ctx, "int8:channel", (float)offset, false);
            const double v = trial_loss(t, TOY_SEAM_V, &act),
                         mlp = trial_loss(t, TOY_SEAM_MLP, &act);
            assert_int_equal(run_pass(&t->block, runs[i].pass, runs[i].settings), LUTRA_OK);
            assert_true(trial_loss(t, TOY_SEAM_V, &act) < 0.1 * v);
            assert_true(trial_loss(t, TOY_SEAM_MLP, &act) < 0.1 * mlp);
            toy_close(t);
        }
}

/* OS+ by brute force over all thresholds of section 4.2. */
static void osplus_finds_the_best_threshold(void **state)
{
    (void)state;
    const lu_act_format act = {.bits = 8, .scope = LU_ACT_TOKEN};
    toy_block *t = toy_open(ctx, "int8:channel:f32", 0, false);
    lu_seam *seam = &t->seams[TOY_SEAM_MLP];
    const lu_stats *stats = &t->sites[TOY_SITE_MLP].stats;
    double best = trial_loss(t, TOY_SEAM_MLP, &act), largest = 0;
    lu_seam_trial trial;
    assert_int_equal(lu_seam_trial_open(&t->block, seam, &act, &trial, NULL), LUTRA_OK);
    for (int c = 0; c < TOY_HIDDEN; c++)
        largest = fmax(largest, (double)stats->absmax[c]);
    const int steps = (int)fmax(100, floor(largest / 0.5));
    for (int i = 1; i <= steps; i++) {
        const double threshold = largest - (largest - 0.1) * i / steps;
        float s[TOY_HIDDEN];
        double loss;
        for (int c = 0; c < TOY_HIDDEN; c++)
            s[c] = (float)fmax(1, fmax((double)stats->highest[c] / threshold,
                                       (double)stats->lowest[c] / -threshold));
        assert_int_equal(lu_seam_trial_loss(&trial, s, &loss, NULL), LUTRA_OK);
        best = fmin(best, loss);
    }
    lu_seam_trial_close(&trial);
    assert_int_equal(run_pass(&t->block, "osplus", "stride=1 act_range=0"), LUTRA_OK);
    const double found = trial_loss(t, TOY_SEAM_MLP, &act);
    assert_true(fabs(found - best) <= 0.02 * best); /* rounding of x by another ulp */
    toy_close(t);
}

/* With biases v's outputs are centred: o sees channels whose ends lie evenly around 0. */
static void osplus_shifts_where_there_are_biases(void **state)
{
    (void)state;
    static double now[TOY_ROWS][TOY_HIDDEN];
    toy_block *t = toy_open(ctx, "int8:channel", 0, true);
    toy_record(&t->block, LU_PART_ATTENTION, NULL);
    assert_int_equal(run_pass(&t->block, "osplus", "act_range=1"), LUTRA_OK);
    toy_run(t, LU_PART_ATTENTION, NULL, NULL, now);
    for (int r = 0; r < TOY_ROWS; r++)
        for (int c = 0; c < TOY_HIDDEN; c++)
            assert_true(fabs(now[r][c] - t->recorded[LU_PART_ATTENTION][r][c]) < 1e-4);
    const lu_stats *s = &t->sites[TOY_SITE_O].stats;
    for (int c = 0; c < TOY_KV * TOY_HEAD; c++) {
        const int kv = c / TOY_HEAD, first = kv * 2 * TOY_HEAD + c % TOY_HEAD;
        const float lo = fminf(s->lowest[first], s->lowest[first + TOY_HEAD]);
        const float hi = fmaxf(s->highest[first], s->highest[first + TOY_HEAD]);
        assert_true(fabsf(lo + hi) <= 1e-4f * (hi - lo));
    }
    toy_close(t);
}

static void searches_never_end_higher(void **state)
{
    (void)state;
    static const char *const specs[] = {"int4:g32:asym", "nf4:g32", "int8:channel"};
    static const char *const runs[][2] = {{"smoothquant", "search=1 act_range=1"},
                                          {"smoothquant", "search=1 grid=3 act_range=1"},
                                          {"osplus", "act_range=1"}};
    const lu_act_format act = {.bits = 8, .scope = LU_ACT_TENSOR};
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++)
        for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
            toy_block *t = toy_open(ctx, specs[f], 0, false);
            const double before = trial_loss(t, TOY_SEAM_MLP, &act);
            assert_int_equal(run_pass(&t->block, runs[i][0], runs[i][1]), LUTRA_OK);
            assert_true(trial_loss(t, TOY_SEAM_MLP, &act) <= before * (1 + 1e-3));
            toy_close(t);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(smoothquant_scales_by_equation_4),
        cmocka_unit_test(pairs_of_linears_are_smoothed_unless_it_is_off),
        cmocka_unit_test(outliers_no_longer_spoil_the_range),
        cmocka_unit_test(osplus_finds_the_best_threshold),
        cmocka_unit_test(osplus_shifts_where_there_are_biases),
        cmocka_unit_test(searches_never_end_higher),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
