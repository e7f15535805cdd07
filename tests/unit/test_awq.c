/* AWQ and the search of clipped ranges against formulations of their own in float64. */
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

static const lu_act_format no_act = {.bits = 0};

/* The part's loss with all readers of a seam rounded as they are now. */
static double rounded_loss(toy_block *t, int seam)
{
    double loss = 0;
    lu_seam_trial trial;
    assert_int_equal(lu_seam_trial_open(&t->block, &t->seams[seam], &no_act, &trial, NULL),
                     LUTRA_OK);
    assert_int_equal(lu_seam_trial_loss(&trial, NULL, &loss, NULL), LUTRA_OK);
    lu_seam_trial_close(&trial);
    return loss;
}

static float *copy_weights(const lu_site_linear *l)
{
    const size_t bytes = (size_t)(l->n * l->k) * sizeof *l->w;
    return memcpy(lu_alloc(bytes), l->w, bytes);
}

/* The loss of a trial is that of the block with s moved and the readers rounded. */
static void a_trial_is_what_moving_gives(void **state)
{
    (void)state;
    for (int i = 0; i < TOY_SEAMS; i++) {
        toy_block *t = toy_open(ctx, "int3:g32:asym:f32", 0, true);
        lu_seam *seam = &t->seams[i];
        float s[TOY_INNER];
        uint64_t seed = 77;
        double tried, moved = 0;
        lu_seam_trial trial;
        for (int64_t c = 0; c < seam->n_scales; c++)
            s[c] = expf(bare_noise(&seed));
        lu_site_linear *l = seam->readers[0]->linears[0];
        float *before = copy_weights(l);
        assert_int_equal(lu_seam_trial_open(&t->block, seam, &no_act, &trial, NULL), LUTRA_OK);
        assert_int_equal(lu_seam_trial_loss(&trial, s, &tried, NULL), LUTRA_OK);
        lu_seam_trial_close(&trial);
        assert_memory_equal(before, l->w, (size_t)(l->n * l->k) * sizeof *l->w);
        toy_record(&t->block, seam->part, NULL);
        assert_int_equal(lu_seam_apply(&t->block, seam, s, NULL), LUTRA_OK);
        for (int x = 0; x < seam->readers[0]->n_linears; x++)
            assert_int_equal(lu_linear_round(&t->block, seam->readers[0]->linears[x], NULL),
                             LUTRA_OK);
        toy_loss(&t->block, seam->part, NULL, NULL, &moved, NULL);
        if (seam->in_part_alone)
            moved *= TOY_HIDDEN; /* lu_linear_loss sums over outputs */
        assert_true(fabs(tried - moved) <= 2e-3 * moved);
        lu_free(before);
        toy_close(t);
    }
}

/* The candidates of section 3.2 of the paper, their losses by brute force; the best one. */
static void the_search_finds_the_best_exponent(void **state)
{
    (void)state;
    const int64_t grid = 10;
    for (int i = 0; i < TOY_SEAMS; i++) {
        toy_block *t = toy_open(ctx, "int3:g32:asym:f32", 0, false);
        lu_seam *seam = &t->seams[i];
        float *const before = copy_weights(seam->readers[0]->linears[0]);
        double best = rounded_loss(t, i), a[TOY_INNER] = {0};
        double best_s[TOY_INNER];
        for (int64_t c = 0; c < TOY_INNER; c++)
            best_s[c] = 1;
        for (int64_t c = 0; c < seam->k; c++)
            a[lu_seam_scale_of(seam, c)] += (double)seam->readers[0]->stats.absmean[c];
        for (int64_t c = 0; c < seam->n_scales; c++)
            a[c] /= (double)(seam->k / seam->n_scales);
        for (int64_t r = 1; r < grid; r++) {
            double most = 0, least = INFINITY, loss;
            float s[TOY_INNER];
            lu_seam_trial trial;
            for (int64_t c = 0; c < seam->n_scales; c++) {
                most = fmax(most, pow(a[c], (double)r / 10));
                least = fmin(least, pow(a[c], (double)r / 10));
            }
            for (int64_t c = 0; c < seam->n_scales; c++)
                s[c] = (float)(pow(a[c], (double)r / 10) / sqrt(most * least));
            assert_int_equal(lu_seam_trial_open(&t->block, seam, &no_act, &trial, NULL), LUTRA_OK);
            assert_int_equal(lu_seam_trial_loss(&trial, s, &loss, NULL), LUTRA_OK);
            lu_seam_trial_close(&trial);
            for (int64_t c = 0; loss < best && c < seam->n_scales; c++)
                best_s[c] = (double)s[c];
            best = fmin(best, loss);
        }
        for (int other = 0; other < TOY_SEAMS; other++)
            if (other != i)
                t->seams[other].refusal = "only one is looked at";
        assert_int_equal(run_pass(&t->block, "awq", "grid=10 clip=0"), LUTRA_OK);
        assert_true(fabs(rounded_loss(t, i) - best) <= 2e-3 * best);
        const lu_site_linear *l = seam->readers[0]->linears[0];
        for (int64_t c = 0; c < l->k; c++)
            assert_true(
                fabs((double)l->w[c] / (double)before[c] - best_s[lu_seam_scale_of(seam, c)]) <=
                1e-4 * fabs(best_s[lu_seam_scale_of(seam, c)]));
        lu_free(before);
        toy_close(t);
    }
}

/* Never above rounding to nearest, for integers and tables, whatever the scales follow; and far
   below where outliers meet small weights. */
static void the_loss_never_rises(void **state)
{
    (void)state;
    static const char *const specs[] = {"int2:g32:asym", "int3:g32", "nf3:g32", "lm2:g32",
                                        "int4:channel:asym"};
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++)
        for (int scaling = 0; scaling < 3; scaling++) {
            char settings[64];
            double before[TOY_SEAMS];
            toy_block *t = toy_open(ctx, specs[f], 1, true);
            for (int i = 0; i < TOY_SEAMS; i++)
                before[i] = rounded_loss(t, i);
            snprintf(settings, sizeof settings, "clip=0 scaling=%d", scaling);
            for (int i = 0; i < TOY_SEAMS; i++) { /* one at a time: seams share linears */
                for (int other = 0; other < TOY_SEAMS; other++)
                    t->seams[other].refusal = other == i ? NULL : "not now";
                assert_int_equal(run_pass(&t->block, "awq", settings), LUTRA_OK);
                t->seams[i].refusal = NULL;
                const double after = rounded_loss(t, i);
                assert_true(after <= before[i] * (1 + 1e-4));
                if (i == TOY_SEAM_V)
                    assert_true(after < 0.85 * before[i]);
                if (i + 1 < TOY_SEAMS)
                    before[i + 1] = rounded_loss(t, i + 1);
            }
            toy_close(t);
        }
}

static void unwanted_linears_are_scaled_and_not_rounded(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int2:g32", 0, false);
    static double now[TOY_ROWS][TOY_HIDDEN];
    t->linears[TOY_UP].wanted = false;
    toy_record(&t->block, LU_PART_MLP, NULL);
    assert_int_equal(run_pass(&t->block, "awq", ""), LUTRA_OK);
    toy_run(t, LU_PART_MLP, NULL, NULL, now);
    for (int r = 0; r < TOY_ROWS; r++)
        for (int c = 0; c < TOY_HIDDEN; c++)
            assert_true(fabs(now[r][c] - t->recorded[LU_PART_MLP][r][c]) < 1e-4);
    assert_null(t->linears[TOY_UP].lo);
    assert_non_null(t->linears[TOY_GATE].lo);
    toy_close(t);
}

static void few_rows_leave_all_as_it_is(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int2:g32", 0, false);
    float *before = copy_weights(&t->linears[TOY_GATE]);
    assert_int_equal(run_pass(&t->block, "awq", "min_rows=161"), LUTRA_OK);
    assert_memory_equal(before, t->linears[TOY_GATE].w, TOY_INNER * TOY_HIDDEN * sizeof(float));
    assert_null(t->linears[TOY_GATE].lo);
    lu_free(before);
    toy_close(t);
}

/* ---- clipped ranges -----------------------------------------------------------------------------
 */

/* sum over rows of (x_G . (w_G - rounded))^2 / rows, in float64. */
static double group_error(const lu_stats *s, int64_t k, int64_t at, int64_t size, const float *w,
                          const float *rounded)
{
    double sum = 0;
    for (int64_t r = 0; r < s->n_kept; r++) {
        double dot = 0;
        for (int64_t c = 0; c < size; c++)
            dot += (double)s->rows[r * k + at + c] * ((double)w[c] - (double)rounded[c]);
        sum += dot * dot / (double)s->n_kept;
    }
    return sum;
}

/* Rounded weights of one group in the range p times the whole. */
static void round_group(lu_block *b, const char *spec, const float *w, int64_t size, float p,
                        float *out)
{
    lu_site_linear l = {.name = "group", .n = 1, .k = size};
    float lo = w[0], hi = w[0];
    assert_int_equal(lutra_format_parse(spec, &l.format, NULL), LUTRA_OK);
    for (int64_t c = 1; c < size; c++) {
        lo = fminf(lo, w[c]);
        hi = fmaxf(hi, w[c]);
    }
    lo *= p;
    hi *= p;
    l.lo = &lo;
    l.hi = &hi;
    assert_int_equal(lu_linear_fake_round(b, &l, w, out, NULL), LUTRA_OK);
}

static void every_group_has_its_best_range(void **state)
{
    (void)state;
    static const char *const specs[] = {"int2:g32:asym", "int3:g32", "nf3:g32", "lm2:g32"};
    lu_block b = bare_block(ctx);
    const int64_t n = 12, k = 96, size = 32;
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++) {
        lu_site_linear l = bare_linear(specs[f], n, k, 3), *list[] = {&l};
        lu_site site = {.name = "test", .k = k, .linears = list, .n_linears = 1};
        float reach = 0, rounded[96], whole[96];
        site.stats = bare_stats(&b, 300, k, 8);
        b.sites = &site;
        b.n_sites = 1;
        assert_int_equal(run_pass(&b, "clip", "clip_grid=20 max_shrink=0.5"), LUTRA_OK);
        for (int i = 0; i < 1 << l.format.bits; i++)
            reach = fmaxf(reach, fabsf(l.format.table[i]));
        const float wide = l.format.zero_point ? 1 : fmaxf(1, l.format.absmax_ref / reach);
        for (int64_t g = 0; g < n * k / size; g++) {
            const float *w = l.w + g * size;
            const int64_t at = g * size % k;
            double best = INFINITY, got;
            for (int i = -1; i <= 10; i++) {
                round_group(&b, specs[f], w, size, i < 0 ? 1 : wide * (1 - (float)i / 20), rounded);
                best = fmin(best, group_error(&site.stats, k, at, size, w, rounded));
            }
            lu_site_linear one = {.name = "one", .n = 1, .k = size, .format = l.format};
            one.lo = &l.lo[g];
            one.hi = &l.hi[g];
            assert_int_equal(lu_linear_fake_round(&b, &one, w, whole, NULL), LUTRA_OK);
            got = group_error(&site.stats, k, at, size, w, whole);
            assert_true(got <= best * (1 + 1e-3) + 1e-12);
        }
        bare_stats_free(&site.stats);
        bare_linear_free(&l);
    }
    lu_la_close(b.la);
}

static void no_shrinking_is_no_clipping(void **state)
{
    (void)state;
    static const char *const specs[] = {"int3:g32:asym", "int4:g32", "nf4:g32"};
    lu_block b = bare_block(ctx);
    for (size_t f = 0; f < sizeof specs / sizeof specs[0]; f++) {
        lu_site_linear l = bare_linear(specs[f], 8, 64, 3), *list[] = {&l};
        lu_site site = {.name = "test", .k = 64, .linears = list, .n_linears = 1};
        float plain[8 * 64], clipped[8 * 64];
        site.stats = bare_stats(&b, 200, 64, 8);
        b.sites = &site;
        b.n_sites = 1;
        assert_int_equal(lu_linear_fake_round(&b, &l, l.w, plain, NULL), LUTRA_OK);
        assert_int_equal(run_pass(&b, "clip", "max_shrink=0"), LUTRA_OK);
        assert_non_null(l.lo);
        assert_int_equal(lu_linear_fake_round(&b, &l, l.w, clipped, NULL), LUTRA_OK);
        assert_memory_equal(plain, clipped, sizeof plain);
        bare_stats_free(&site.stats);
        bare_linear_free(&l);
    }
    lu_la_close(b.la);
}

static void scores_are_clipped_on_request(void **state)
{
    (void)state;
    lu_block b = bare_block(ctx);
    lu_site_linear l = bare_linear("int3:g32", 8, 64, 3), *list[] = {&l};
    lu_site site = {.name = "test", .k = 64, .linears = list, .n_linears = 1};
    l.feeds_scores = true;
    site.stats = bare_stats(&b, 200, 64, 8);
    b.sites = &site;
    b.n_sites = 1;
    assert_int_equal(run_pass(&b, "clip", ""), LUTRA_OK);
    assert_null(l.lo);
    assert_int_equal(run_pass(&b, "clip", "clip_scores=1"), LUTRA_OK);
    assert_non_null(l.lo);
    bare_stats_free(&site.stats);
    bare_linear_free(&l);
    lu_la_close(b.la);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trial_is_what_moving_gives),
        cmocka_unit_test(the_search_finds_the_best_exponent),
        cmocka_unit_test(the_loss_never_rises),
        cmocka_unit_test(unwanted_linears_are_scaled_and_not_rounded),
        cmocka_unit_test(few_rows_leave_all_as_it_is),
        cmocka_unit_test(every_group_has_its_best_range),
        cmocka_unit_test(no_shrinking_is_no_clipping),
        cmocka_unit_test(scores_are_clipped_on_request),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
