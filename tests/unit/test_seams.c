/* Scales and shifts through seams: the block computes what it did, whatever the family - norms with
   and without an offset, biases, grouped heads whose width is not hidden / heads, several readers
   of one norm - and the statistics of the readers are those of their new inputs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/toy_block.h"
#include "tensor/convert.h"

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

/* Largest change of the part's output since it was recorded, relative to its root mean square. */
static double change(toy_block *t, lu_part part)
{
    static double now[TOY_ROWS][TOY_HIDDEN];
    double most = 0, square = 0;
    toy_run(t, part, NULL, NULL, now);
    for (int r = 0; r < TOY_ROWS; r++)
        for (int c = 0; c < TOY_HIDDEN; c++) {
            most = fmax(most, fabs(now[r][c] - t->recorded[part][r][c]));
            square += pow(t->recorded[part][r][c], 2) / (TOY_ROWS * TOY_HIDDEN);
        }
    return most / sqrt(square);
}

static void random_scales(float *s, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++)
        s[i] = expf(1.5f * bare_noise(&seed));
}

/* What lu_seam_apply made of the statistics, against statistics gathered again. */
static void check_stats(toy_block *t)
{
    lu_stats before[TOY_SITES];
    for (int i = 0; i < TOY_SITES; i++) {
        before[i] = t->sites[i].stats;
        t->sites[i].stats = (lu_stats){.n_rows = 0};
    }
    toy_gather(t);
    for (int i = 0; i < TOY_SITES; i++) {
        const lu_stats *a = &before[i], *b = &t->sites[i].stats;
        const int64_t k = t->sites[i].k;
        for (int64_t c = 0; c < k; c++) {
            assert_true(fabsf(a->absmax[c] - b->absmax[c]) <= 1e-5f * b->absmax[c]);
            assert_true(fabsf(a->absmean[c] - b->absmean[c]) <= 1e-5f * b->absmean[c]);
            assert_true(fabsf(a->lowest[c] - b->lowest[c]) <= 1e-5f * b->absmax[c]);
            assert_true(fabsf(a->highest[c] - b->highest[c]) <= 1e-5f * b->absmax[c]);
            for (int64_t r = 0; r < TOY_ROWS; r++)
                assert_true(fabsf(a->rows[r * k + c] - b->rows[r * k + c]) <= 1e-5f * b->absmax[c]);
            for (int64_t d = 0; d < k; d++)
                assert_true(fabsf(a->hessian[c * k + d] - b->hessian[c * k + d]) <=
                            1e-5f * b->absmax[c] * b->absmax[d]);
        }
        bare_stats_free(&before[i]);
    }
}

static void scales_change_nothing(void **state)
{
    (void)state;
    for (int offset = 0; offset < 2; offset++)
        for (int biases = 0; biases < 2; biases++) {
            toy_block *t = toy_open(ctx, "int4:g8", (float)offset, biases);
            float s[TOY_INNER];
            toy_record(&t->block, LU_PART_ATTENTION, NULL);
            toy_record(&t->block, LU_PART_MLP, NULL);
            for (int i = 0; i < TOY_SEAMS; i++) {
                random_scales(s, t->seams[i].n_scales, (uint64_t)i);
                assert_int_equal(lu_seam_apply(&t->block, &t->seams[i], s, NULL), LUTRA_OK);
                assert_true(change(t, t->seams[i].part) < 1e-5);
            }
            check_stats(t);
            toy_close(t);
        }
}

/* A gain written in bf16: what is kept is what can be written, and the columns follow it. */
static void scales_follow_the_stored_gain(void **state)
{
    (void)state;
    for (int offset = 0; offset < 2; offset++) {
        toy_block *t = toy_open(ctx, "int4:g8", (float)offset, false);
        lu_seam *seam = &t->seams[TOY_SEAM_MLP];
        float s[TOY_INNER];
        seam->stored = LUTRA_BF16;
        toy_record(&t->block, LU_PART_MLP, NULL);
        random_scales(s, seam->n_scales, 9);
        s[5] = 4000; /* 40 / 4000 - 1 has two good digits in bf16 */
        assert_int_equal(lu_seam_apply(&t->block, seam, s, NULL), LUTRA_OK);
        for (int64_t c = 0; c < seam->k; c++)
            assert_true(lu_bf16_to_f32(lu_f32_to_bf16(seam->gain[c])) == seam->gain[c]);
        assert_true(change(t, LU_PART_MLP) < 1e-5);
        check_stats(t);
        toy_close(t);
    }
}

static void every_reader_is_scaled(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int4:g8", 0, false);
    lu_site_linear router = bare_linear("int4:g8", 4, TOY_HIDDEN, 3), *list[] = {&router};
    lu_site site = {.name = "router", .k = TOY_HIDDEN, .linears = list, .n_linears = 1};
    lu_site *readers[] = {&t->sites[TOY_SITE_MLP], &site};
    lu_seam *seam = &t->seams[TOY_SEAM_MLP];
    float s[TOY_HIDDEN], before[4 * TOY_HIDDEN];
    router.kept = true;
    router.lo = lu_calloc(4 * TOY_HIDDEN / 8, sizeof(float));
    router.hi = lu_calloc(4 * TOY_HIDDEN / 8, sizeof(float));
    seam->readers = readers;
    seam->n_readers = 2;
    memcpy(before, router.w, sizeof before);
    random_scales(s, TOY_HIDDEN, 8);
    assert_int_equal(lu_seam_apply(&t->block, seam, s, NULL), LUTRA_OK);
    for (int i = 0; i < 4 * TOY_HIDDEN; i++)
        assert_true(fabsf(router.w[i] - before[i] * s[i % TOY_HIDDEN]) <=
                    1e-6f * fabsf(router.w[i]));
    assert_null(router.lo); /* columns of a group have factors of their own */
    bare_linear_free(&router);
    toy_close(t);
}

static void shifts_change_nothing(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int4:g8", 0, true);
    lu_seam *seam = &t->seams[TOY_SEAM_O];
    float z[TOY_INNER];
    for (int stored = 0; stored < 2; stored++) {
        uint64_t seed = 4;
        seam->stored = stored ? LUTRA_BF16 : LUTRA_F32;
        toy_record(&t->block, LU_PART_ATTENTION, NULL);
        for (int64_t i = 0; i < seam->n_scales; i++)
            z[i] = 3 * bare_noise(&seed);
        assert_true(lu_seam_shifts(seam));
        assert_int_equal(lu_seam_shift(&t->block, seam, z, NULL), LUTRA_OK);
        assert_true(change(t, LU_PART_ATTENTION) < 1e-5);
    }
    lu_stats *s = &t->sites[TOY_SITE_O].stats;
    const lu_stats kept = *s;
    *s = (lu_stats){.n_rows = 0};
    assert_null(kept.hessian);
    toy_gather(t);
    for (int64_t c = 0; c < TOY_HEADS * TOY_HEAD; c++) {
        assert_true(fabsf(kept.lowest[c] - s->lowest[c]) <= 1e-4f * s->absmax[c]);
        assert_true(fabsf(kept.highest[c] - s->highest[c]) <= 1e-4f * s->absmax[c]);
    }
    lu_stats gone = kept;
    bare_stats_free(&gone);
    toy_close(t);
}

static void what_cannot_move_is_an_error(void **state)
{
    (void)state;
    toy_block *t = toy_open(ctx, "int4:g8", 0, false);
    float s[TOY_INNER];
    lutra_err err;
    const float bad[] = {0, -1, NAN, INFINITY, 1e-45f};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        random_scales(s, TOY_INNER, 1);
        s[3] = bad[i];
        assert_int_equal(lu_seam_apply(&t->block, &t->seams[TOY_SEAM_DOWN], s, &err), LUTRA_E_ARG);
        assert_non_null(strstr(err.msg, "up to down"));
    }
    for (int i = 0; i < TOY_SEAMS; i++) { /* no biases, and up to down passes no constants */
        assert_false(lu_seam_shifts(&t->seams[i]));
        assert_int_equal(lu_seam_shift(&t->block, &t->seams[i], s, &err), LUTRA_E_ARG);
    }
    t->seams[TOY_SEAM_V].refusal = "for the test";
    random_scales(s, TOY_INNER, 1);
    assert_int_equal(lu_seam_apply(&t->block, &t->seams[TOY_SEAM_V], s, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "for the test"));
    toy_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_change_nothing),
        cmocka_unit_test(scales_follow_the_stored_gain),
        cmocka_unit_test(every_reader_is_scaled),
        cmocka_unit_test(shifts_change_nothing),
        cmocka_unit_test(what_cannot_move_is_an_error),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
