/* GPTQ against a plain float64 version of its recursion, and the properties that hold for any data:
   the identity for a Hessian gives rounding to nearest, no row ends worse than that, weights lie on
   the grid, threads change nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fmt/codec.h"
#include "support/bare_block.h"

static lutra_ctx *ctxs[2]; /* of 1 and of 3 threads */
static lu_block blocks[2];

static int open_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lutra_options o;
        lutra_options_init(&o);
        o.n_threads = 1 + 2 * i;
        if (lutra_open(&o, &ctxs[i], NULL))
            return -1;
        blocks[i] = bare_block(ctxs[i]);
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lu_la_close(blocks[i].la);
        lutra_close(ctxs[i]);
    }
    return 0;
}

typedef struct {
    double damp;
    bool act_order, static_groups, fallback;
    int64_t block;
} choice;

/* Runs the pass over one linear; h is copied. */
static void run_gptq(lu_block *b, lu_site_linear *l, const lu_stats *stats, choice c)
{
    const lu_pass *p = lu_pass_find("gptq");
    uint8_t settings[256];
    assert_true(p && p->settings_size <= sizeof settings);
    lu_pass_defaults(p, settings);
    for (const lutra_param *q = p->method.params; q->name; q++) {
        if (strcmp(q->name, "damp") == 0)
            lu_param_set(q, settings, c.damp);
        if (strcmp(q->name, "act_order") == 0)
            lu_param_set(q, settings, c.act_order);
        if (strcmp(q->name, "static_groups") == 0)
            lu_param_set(q, settings, c.static_groups);
        if (strcmp(q->name, "fallback") == 0)
            lu_param_set(q, settings, c.fallback);
        if (strcmp(q->name, "block_size") == 0)
            lu_param_set(q, settings, (double)c.block);
    }
    const size_t bytes = (size_t)(l->k * l->k) * sizeof(float);
    lu_site_linear *linears[] = {l};
    lu_site site = {.name = "test", .k = l->k, .linears = linears, .n_linears = 1};
    site.stats.n_rows = stats->n_rows > 128 ? stats->n_rows : 128;
    site.stats.hessian = lu_alloc(bytes);
    memcpy(site.stats.hessian, stats->hessian, bytes);
    lutra_err err = {0};
    if (p->site(b, &site, settings, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    lu_free(site.stats.hessian);
}

/* ---- the reference, float64 --------------------------------------------------------------------
 */

typedef struct {
    int64_t k;
    int64_t *order;
    double *h, *u; /* h: damped, in the columns' order; u: upper, U^T U = (permuted h)^-1 */
} reference;

static reference make_reference(const float *h, int64_t k, double damp, bool act_order)
{
    reference r = {.k = k, .order = calloc((size_t)k, sizeof *r.order)};
    r.h = calloc((size_t)(k * k), sizeof *r.h);
    r.u = calloc((size_t)(k * k), sizeof *r.u);
    double mean = 0, *p = calloc((size_t)(k * k), sizeof *p),
           *inv = calloc((size_t)(k * k), sizeof *p);
    for (int64_t i = 0; i < k; i++) {
        r.order[i] = i;
        mean += (double)h[i * k + i] / (double)k;
    }
    for (int64_t i = 0; act_order && i < k; i++) /* a stable selection of the largest */
        for (int64_t j = k - 1; j > i; j--) {
            const int64_t a = r.order[j - 1], b = r.order[j];
            if (h[b * k + b] > h[a * k + a]) {
                r.order[j - 1] = b;
                r.order[j] = a;
            }
        }
    for (int64_t i = 0; i < k * k; i++)
        r.h[i] = (double)h[i];
    for (int64_t i = 0; i < k; i++)
        r.h[i * k + i] += damp * mean;
    for (int64_t i = 0; i < k; i++) {
        for (int64_t j = 0; j < k; j++)
            p[i * k + j] = r.h[r.order[i] * k + r.order[j]];
        inv[i * k + i] = 1;
    }
    for (int64_t c = 0; c < k; c++) { /* Gauss-Jordan; positive definite needs no pivoting */
        const double d = p[c * k + c];
        for (int64_t j = 0; j < k; j++) {
            p[c * k + j] /= d;
            inv[c * k + j] /= d;
        }
        for (int64_t i = 0; i < k; i++) {
            const double f = p[i * k + c];
            for (int64_t j = 0; i != c && j < k; j++) {
                p[i * k + j] -= f * p[c * k + j];
                inv[i * k + j] -= f * inv[c * k + j];
            }
        }
    }
    for (int64_t i = 0; i < k; i++) /* inv = U^T U row by row */
        for (int64_t j = i; j < k; j++) {
            double sum = inv[i * k + j];
            for (int64_t l = 0; l < i; l++)
                sum -= r.u[l * k + i] * r.u[l * k + j];
            r.u[i * k + j] = i == j ? sqrt(sum) : sum / r.u[i * k + i];
        }
    free(p);
    free(inv);
    return r;
}

static void free_reference(reference *r)
{
    free(r->order);
    free(r->h);
    free(r->u);
}

/* One row by the recursion of the paper; decoded values to out. False if a choice was so close that
   float32 may take the other side. */
static bool walk_reference(const reference *r, const lutra_format *f, const float *row,
                           bool static_groups, double *out)
{
    const int64_t k = r->k, size = f->group_size ? f->group_size : k;
    double *w = calloc((size_t)k, sizeof *w);
    float *part = calloc((size_t)size, sizeof *part);
    float scale = 0, *scales = calloc((size_t)(k / size), sizeof *scales);
    int zero = 0, *zeros = calloc((size_t)(k / size), sizeof *zeros);
    bool clear = true;
    lu_grid grid;
    lu_grid_init(&grid, f);
    const double step = (double)(grid.value[grid.n - 1] - grid.value[0]) / grid.n;
    for (int64_t j = 0; j < k; j++)
        w[j] = (double)row[r->order[j]];
    for (int64_t g = 0; g < k / size; g++) {
        float lo = row[g * size], hi = lo;
        for (int64_t i = g * size; i < (g + 1) * size; i++) {
            lo = row[i] < lo ? row[i] : lo;
            hi = row[i] > hi ? row[i] : hi;
        }
        assert_true(lu_group_scale(f, lo, hi, &scales[g], &zeros[g]));
    }
    for (int64_t j = 0; j < k; j++) {
        if (!static_groups && j % size == 0) {
            float lo = (float)w[j], hi = lo;
            for (int64_t i = j; i < j + size; i++) {
                lo = (float)w[i] < lo ? (float)w[i] : lo;
                hi = (float)w[i] > hi ? (float)w[i] : hi;
            }
            assert_true(lu_group_scale(f, lo, hi, &scale, &zero));
            /* a scale that another rounding of lo or hi would change */
            float near;
            int z;
            for (int side = -1; side <= 1; side += 2) {
                const float t = 1 + (float)side * 2e-5f;
                clear &= lu_group_scale(f, lo * t, hi * t, &near, &z) && z == zero &&
                         (f->scale_dtype == LUTRA_F32 || near == scale);
            }
        } else if (static_groups) {
            scale = scales[r->order[j] / size];
            zero = zeros[r->order[j] / size];
        }
        const double zero_value = f->zero_point ? (double)f->table[zero] : 0;
        int best = 0;
        for (int i = 1; i < grid.n; i++) {
            const double pivot = ((double)grid.mid[i - 1] - zero_value) * (double)scale;
            best = pivot < w[j] ? i : best;
            clear &= !(fabs(pivot - w[j]) < 1e-3 * step * (double)scale);
        }
        const double decoded = (double)scale * ((double)grid.value[best] - zero_value);
        const double e = (w[j] - decoded) / r->u[j * k + j];
        out[r->order[j]] = decoded;
        for (int64_t l = j + 1; l < k; l++)
            w[l] -= e * r->u[j * k + l];
    }
    free(w), free(part), free(scales), free(zeros);
    return clear;
}

static double loss_of(const reference *r, const float *w, const float *decoded)
{
    double sum = 0;
    for (int64_t i = 0; i < r->k; i++)
        for (int64_t j = 0; j < r->k; j++)
            sum += ((double)w[i] - (double)decoded[i]) * r->h[i * r->k + j] *
                   ((double)w[j] - (double)decoded[j]);
    return sum;
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static const char *const specs[] = {
    "int4:g32",     "int3:g32:asym", "int2:g32:asym", "nf4:g32",       "lm2:g32",
    "fp4:g64:bf16", "int4:channel",  "nf3:g64:f32",   "int8:g32:asym", "lm3:channel"};

static void it_equals_the_recursion_in_float64(void **state)
{
    (void)state;
    const int64_t n = 24, k = 64;
    lu_stats stats = bare_stats(&blocks[0], 200, k, 3);
    for (size_t f = 0; f < sizeof specs / sizeof *specs; f++)
        for (int mode = 0; mode < 8; mode++) {
            const choice c = {mode & 4 ? 0.1 : 0.01, mode & 1, mode & 2, false,
                              mode & 4 ? 32 : 128};
            lu_site_linear l = bare_linear(specs[f], n, k, 40 + f);
            float *w = lu_array((size_t)(n * k), sizeof *w);
            memcpy(w, l.w, (size_t)(n * k) * sizeof *w);
            reference r = make_reference(stats.hessian, k, c.damp, c.act_order);
            run_gptq(&blocks[1], &l, &stats, c);
            int64_t compared = 0;
            for (int64_t i = 0; i < n; i++) {
                double want[64];
                if (!walk_reference(&r, &l.format, w + i * k, c.static_groups, want))
                    continue;
                compared++;
                for (int64_t j = 0; j < k; j++)
                    if (!(fabs((double)l.w[i * k + j] - want[j]) <= 1e-6 * (1e-3 + fabs(want[j]))))
                        fail_msg("%s mode %d row %d column %d: %g, expected %g", specs[f], mode,
                                 (int)i, (int)j, (double)l.w[i * k + j], want[j]);
            }
            if (compared < n / 3)
                fail_msg("%s mode %d: %d of %d rows are clear", specs[f], mode, (int)compared, (int)n);
            free_reference(&r);
            bare_linear_free(&l);
            lu_free(w);
        }
    bare_stats_free(&stats);
}

static void the_identity_gives_rounding_to_nearest(void **state)
{
    (void)state;
    const int64_t n = 40, k = 128;
    lu_stats stats = {.n_rows = 500, .hessian = lu_calloc((size_t)(k * k), sizeof(float))};
    for (int64_t i = 0; i < k; i++)
        stats.hessian[i * k + i] = 1;
    for (size_t f = 0; f < sizeof specs / sizeof *specs; f++)
        for (int mode = 0; mode < 8; mode++) {
            lu_site_linear a = bare_linear(specs[f], n, k, 5), b = bare_linear(specs[f], n, k, 5);
            a.range = b.range = mode & 4 ? LUTRA_RANGE_MSE : LUTRA_RANGE_MINMAX;
            run_gptq(&blocks[0], &a, &stats, (choice){0.01, mode & 1, mode & 2, false, 128});
            assert_int_equal(lu_linear_round(&blocks[0], &b, NULL), LUTRA_OK);
            assert_memory_equal(a.codes.codes, b.codes.codes,
                                (size_t)n * lutra_format_row_bytes(&a.format, k));
            assert_memory_equal(a.w, b.w, (size_t)(n * k) * sizeof(float));
            bare_linear_free(&a);
            bare_linear_free(&b);
        }
    lu_free(stats.hessian);
}

static void no_row_ends_worse_than_rounding_to_nearest(void **state)
{
    (void)state;
    const int64_t n = 60, k = 128;
    lu_stats stats = bare_stats(&blocks[0], 300, k, 17);
    for (size_t f = 0; f < sizeof specs / sizeof *specs; f++)
        for (int mode = 0; mode < 4; mode++) {
            const choice c = {0.01, mode & 1, mode & 2, true, 64};
            lu_site_linear a = bare_linear(specs[f], n, k, 70), b = bare_linear(specs[f], n, k, 70);
            float *w = lu_array((size_t)(n * k), sizeof *w);
            memcpy(w, a.w, (size_t)(n * k) * sizeof *w);
            reference r = make_reference(stats.hessian, k, c.damp, false);
            run_gptq(&blocks[1], &a, &stats, c);
            assert_int_equal(lu_linear_round(&blocks[1], &b, NULL), LUTRA_OK);
            double gptq = 0, nearest = 0;
            for (int64_t i = 0; i < n; i++) {
                const double mine = loss_of(&r, w + i * k, a.w + i * k),
                             its = loss_of(&r, w + i * k, b.w + i * k);
                /* groups along the walk are other groups: only the sum is comparable */
                if (!(mode & 1) || (mode & 2))
                    assert_true(mine <= its * (1 + 1e-4));
                gptq += mine;
                nearest += its;
            }
            assert_true(gptq <= 0.8 * nearest);
            free_reference(&r);
            bare_linear_free(&a);
            bare_linear_free(&b);
            lu_free(w);
        }
    bare_stats_free(&stats);
}

static void rounded_weights_lie_on_the_grid(void **state)
{
    (void)state;
    const int64_t n = 30, k = 128;
    lu_stats stats = bare_stats(&blocks[0], 300, k, 23);
    for (size_t f = 0; f < sizeof specs / sizeof *specs; f++)
        for (int mode = 0; mode < 4; mode++) {
            lu_site_linear l = bare_linear(specs[f], n, k, 8);
            run_gptq(&blocks[0], &l, &stats, (choice){0.01, mode & 1, mode & 2, true, 128});
            assert_int_equal(l.codes.group_of != NULL, mode == 1 && l.format.group_size > 0);
            float row[128];
            for (int64_t i = 0; i < n; i++) {
                lu_linear_decode_row(&l, i, row);
                assert_memory_equal(row, l.w + i * k, sizeof row);
            }
            assert_true(l.signal > 0 && l.noise > 0 && l.noise < l.signal);
            bare_linear_free(&l);
        }
    bare_stats_free(&stats);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    const int64_t n = 1100, k = 192;
    lu_stats stats = bare_stats(&blocks[0], 300, k, 29);
    lu_site_linear l[2];
    for (int i = 0; i < 2; i++) {
        l[i] = bare_linear("int3:g64:asym", n, k, 2);
        run_gptq(&blocks[i], &l[i], &stats, (choice){0.01, true, true, true, 128});
    }
    assert_memory_equal(l[0].codes.codes, l[1].codes.codes,
                        (size_t)n * lutra_format_row_bytes(&l[0].format, k));
    assert_memory_equal(l[0].w, l[1].w, (size_t)(n * k) * sizeof(float));
    bare_linear_free(&l[0]);
    bare_linear_free(&l[1]);
    bare_stats_free(&stats);
}

/* Channels without data, a Hessian of rank 1, and one that is no Hessian at all. */
static void poor_hessians_are_survived(void **state)
{
    (void)state;
    const int64_t n = 8, k = 64;
    for (int kind = 0; kind < 4; kind++) {
        lu_stats stats = {.n_rows = 500, .hessian = lu_calloc((size_t)(k * k), sizeof(float))};
        for (int64_t i = 0; i < k * k; i++)
            stats.hessian[i] = kind == 0   ? 0
                               : kind == 1 ? 1
                               : kind == 2 ? NAN
                                           : (i % (k + 1) == 0 && i / k < 10 ? 3.0f : 0);
        lu_site_linear a = bare_linear("int4:g32", n, k, 5), b = bare_linear("int4:g32", n, k, 5);
        run_gptq(&blocks[0], &a, &stats, (choice){0.01, true, true, true, 128});
        assert_int_equal(lu_linear_round(&blocks[0], &b, NULL), LUTRA_OK);
        if (kind != 1)
            assert_memory_equal(a.w, b.w, (size_t)(n * k) * sizeof(float));
        for (int64_t i = 0; i < n * k; i++)
            assert_true(isfinite(a.w[i]));
        bare_linear_free(&a);
        bare_linear_free(&b);
        lu_free(stats.hessian);
    }
}

static void a_weight_that_is_no_number_is_named(void **state)
{
    (void)state;
    lu_stats stats = bare_stats(&blocks[0], 200, 64, 3);
    lu_site_linear l = bare_linear("int4:g32", 4, 64, 1), *linears[] = {&l};
    l.w[2 * 64 + 5] = NAN;
    lu_site site = {.name = "test", .k = 64, .linears = linears, .n_linears = 1, .stats = stats};
    uint8_t settings[256];
    lutra_err err = {0};
    lu_pass_defaults(lu_pass_find("gptq"), settings);
    assert_int_equal(lu_pass_find("gptq")->site(&blocks[0], &site, settings, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "model.layers.0.test: row 2, column 5 is NaN"));
    bare_linear_free(&l);
    bare_stats_free(&stats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_equals_the_recursion_in_float64),
        cmocka_unit_test(the_identity_gives_rounding_to_nearest),
        cmocka_unit_test(no_row_ends_worse_than_rounding_to_nearest),
        cmocka_unit_test(rounded_weights_lie_on_the_grid),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(poor_hessians_are_survived),
        cmocka_unit_test(a_weight_that_is_no_number_is_named),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
