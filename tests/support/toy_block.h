/* toy_block.h - a block in float64 behind the face of algo/pass.h, small enough to follow by hand:

       x ─ norm ─ v ─ mean over the rows up to this one ─ o          grouped heads, biases
       x ─ norm ─ gate, up ─ silu(gate) * up ─ down

   The mean stands for attention: its weights have the sum 1 and depend on nothing. */
#ifndef LU_TESTS_TOY_BLOCK_H
#define LU_TESTS_TOY_BLOCK_H

#include <math.h>

#include "support/bare_block.h"

#define TOY_ROWS 160
#define TOY_HIDDEN 64
#define TOY_HEADS 4
#define TOY_KV 2
#define TOY_HEAD 24 /* heads * head_dim is not the hidden size */
#define TOY_INNER 96

enum { TOY_V, TOY_O, TOY_GATE, TOY_UP, TOY_DOWN, TOY_LINEARS };
enum { TOY_SITE_V, TOY_SITE_O, TOY_SITE_MLP, TOY_SITE_DOWN, TOY_SITES };
enum { TOY_SEAM_V, TOY_SEAM_O, TOY_SEAM_MLP, TOY_SEAM_DOWN, TOY_SEAMS };

typedef struct toy_block {
    lu_block block; /* first */
    float x[TOY_ROWS][TOY_HIDDEN];
    float gain[2][TOY_HIDDEN], offset;
    lu_site_linear linears[TOY_LINEARS];
    lu_site_linear *lists[TOY_LINEARS];
    lu_site sites[TOY_SITES], *readers[TOY_SITES];
    lu_seam seams[TOY_SEAMS];
    float (*inputs[TOY_SITES])[TOY_ROWS][TOY_INNER]; /* what the sites saw last */
    double recorded[LU_N_PARTS][TOY_ROWS][TOY_HIDDEN];
} toy_block;

/* y = x W^T + b for a row; the input goes through the edit and is kept. */
static inline void toy_site(toy_block *t, int site, int64_t row, const double *x, double **y,
                            lu_edit edit, void *arg)
{
    lu_site *s = &t->sites[site];
    float *in = (*t->inputs[site])[row];
    for (int64_t c = 0; c < s->k; c++)
        in[c] = (float)x[c];
    float edited[TOY_INNER];
    memcpy(edited, in, sizeof edited);
    if (edit)
        edit(arg, s, edited, 1);
    for (int i = 0; i < s->n_linears; i++)
        for (int64_t r = 0; r < s->linears[i]->n; r++) {
            const lu_site_linear *l = s->linears[i];
            double sum = l->bias ? (double)l->bias[r] : 0;
            for (int64_t c = 0; c < s->k; c++)
                sum += (edit ? (double)edited[c] : x[c]) * (double)l->w[r * s->k + c];
            y[i][r] = sum;
        }
}

static inline void toy_norm(const toy_block *t, int norm, int64_t row, double *out)
{
    double square = 0;
    for (int c = 0; c < TOY_HIDDEN; c++)
        square += (double)t->x[row][c] * (double)t->x[row][c] / TOY_HIDDEN;
    for (int c = 0; c < TOY_HIDDEN; c++)
        out[c] = (double)t->x[row][c] / sqrt(square + 1e-6) *
                 ((double)t->gain[norm][c] + (double)t->offset);
}

static inline void toy_run(toy_block *t, lu_part part, lu_edit edit, void *arg,
                           double out[TOY_ROWS][TOY_HIDDEN])
{
    static double sums[TOY_KV * TOY_HEAD];
    memset(sums, 0, sizeof sums);
    for (int64_t r = 0; r < TOY_ROWS; r++) {
        double x[TOY_HIDDEN], a[TOY_INNER], b[TOY_INNER];
        toy_norm(t, part, r, x);
        if (part == LU_PART_ATTENTION) {
            toy_site(t, TOY_SITE_V, r, x, (double *[]){a}, edit, arg);
            for (int i = 0; i < TOY_KV * TOY_HEAD; i++)
                sums[i] += a[i];
            for (int i = 0; i < TOY_HEADS * TOY_HEAD; i++) {
                const int kv = i / TOY_HEAD / (TOY_HEADS / TOY_KV);
                b[i] = sums[kv * TOY_HEAD + i % TOY_HEAD] / (double)(r + 1);
            }
            toy_site(t, TOY_SITE_O, r, b, (double *[]){out[r]}, edit, arg);
        } else {
            toy_site(t, TOY_SITE_MLP, r, x, (double *[]){a, b}, edit, arg);
            for (int i = 0; i < TOY_INNER; i++)
                b[i] *= a[i] / (1 + exp(-a[i]));
            toy_site(t, TOY_SITE_DOWN, r, b, (double *[]){out[r]}, edit, arg);
        }
    }
}

static inline lutra_status toy_record(lu_block *b, lu_part part, lutra_err *err)
{
    (void)err;
    toy_block *t = (toy_block *)b;
    toy_run(t, part, NULL, NULL, t->recorded[part]);
    return LUTRA_OK;
}

static inline lutra_status toy_loss(lu_block *b, lu_part part, lu_edit edit, void *arg, double *out,
                                    lutra_err *err)
{
    static double now[TOY_ROWS][TOY_HIDDEN];
    toy_block *t = (toy_block *)b;
    (void)err;
    toy_run(t, part, edit, arg, now);
    *out = 0;
    for (int r = 0; r < TOY_ROWS; r++)
        for (int c = 0; c < TOY_HIDDEN; c++)
            *out += pow(now[r][c] - t->recorded[part][r][c], 2) / (TOY_ROWS * TOY_HIDDEN);
    return LUTRA_OK;
}

/* All statistics of all sites, from a run of both parts. */
static inline void toy_gather(toy_block *t)
{
    static double out[TOY_ROWS][TOY_HIDDEN];
    toy_run(t, LU_PART_ATTENTION, NULL, NULL, out);
    toy_run(t, LU_PART_MLP, NULL, NULL, out);
    for (int i = 0; i < TOY_SITES; i++) {
        lu_site *site = &t->sites[i];
        const size_t k = (size_t)site->k;
        bare_stats_free(&site->stats);
        lu_stats *s = &site->stats;
        *s = (lu_stats){.n_rows = TOY_ROWS, .n_kept = TOY_ROWS};
        s->absmax = lu_calloc(k, 4);
        s->absmean = lu_calloc(k, 4);
        s->lowest = lu_calloc(k, 4);
        s->highest = lu_calloc(k, 4);
        s->rows = lu_array(TOY_ROWS * k, 4);
        s->hessian = lu_calloc(k * k, 4);
        if (!s->absmax || !s->absmean || !s->lowest || !s->highest || !s->rows || !s->hessian)
            abort();
        for (int64_t c = 0; c < site->k; c++) {
            s->lowest[c] = s->highest[c] = (*t->inputs[i])[0][c];
            for (int64_t r = 0; r < TOY_ROWS; r++) {
                const float v = (*t->inputs[i])[r][c];
                s->rows[r * site->k + c] = v;
                s->absmax[c] = fmaxf(s->absmax[c], fabsf(v));
                s->absmean[c] += fabsf(v) / TOY_ROWS;
                s->lowest[c] = fminf(s->lowest[c], v);
                s->highest[c] = fmaxf(s->highest[c], v);
            }
        }
        lu_la_add_gram(t->block.la, TOY_ROWS, site->k, 1.0f / TOY_ROWS, s->rows, site->k,
                       s->hessian);
        lu_la_mirror(t->block.la, site->k, s->hessian);
    }
}

static inline void toy_seam(toy_block *t, int seam, const char *name, lu_part part, int reader)
{
    t->readers[reader] = &t->sites[reader];
    t->seams[seam] = (lu_seam){.name = name,
                               .part = part,
                               .readers = &t->readers[reader],
                               .n_readers = 1,
                               .k = t->sites[reader].k,
                               .n_scales = t->sites[reader].k,
                               .stored = LUTRA_F32,
                               .repeat = 1};
}

/* Channels 5 and 40 of the norms have gains of 40 and 25 (plus the offset taken off). */
static inline toy_block *toy_open(lutra_ctx *ctx, const char *spec, float offset, bool biases)
{
    static const struct {
        int site;
        int64_t n, k;
    } shapes[TOY_LINEARS] = {
        [TOY_V] = {TOY_SITE_V, TOY_KV * TOY_HEAD, TOY_HIDDEN},
        [TOY_O] = {TOY_SITE_O, TOY_HIDDEN, TOY_HEADS * TOY_HEAD},
        [TOY_GATE] = {TOY_SITE_MLP, TOY_INNER, TOY_HIDDEN},
        [TOY_UP] = {TOY_SITE_MLP, TOY_INNER, TOY_HIDDEN},
        [TOY_DOWN] = {TOY_SITE_DOWN, TOY_HIDDEN, TOY_INNER},
    };
    static const char *const names[TOY_SITES] = {"qkv", "o", "gate_up", "down"};
    toy_block *t = lu_calloc(1, sizeof *t);
    uint64_t seed = 5;
    if (!t)
        abort();
    t->block = bare_block(ctx);
    t->block.sites = t->sites;
    t->block.n_sites = TOY_SITES;
    t->block.seams = t->seams;
    t->block.n_seams = TOY_SEAMS;
    t->block.record = toy_record;
    t->block.loss = toy_loss;
    t->offset = offset;
    for (int r = 0; r < TOY_ROWS; r++)
        for (int c = 0; c < TOY_HIDDEN; c++)
            t->x[r][c] = bare_noise(&seed) + (c % 7 == 2 ? 0.5f : 0);
    for (int n = 0; n < 2; n++)
        for (int c = 0; c < TOY_HIDDEN; c++)
            t->gain[n][c] = (c == 5    ? 40.0f
                             : c == 40 ? 25.0f
                                       : 1 + 0.3f * bare_noise(&seed)) -
                            offset;
    for (int i = 0; i < TOY_LINEARS; i++) {
        lu_site *site = &t->sites[shapes[i].site];
        t->linears[i] = bare_linear(spec, shapes[i].n, shapes[i].k, 100 + (uint64_t)i);
        for (int64_t j = 0; j < shapes[i].n * shapes[i].k; j++) /* outliers meet small weights */
            t->linears[i].w[j] /= j % shapes[i].k == 5 ? 20.0f : j % shapes[i].k == 40 ? 12.0f : 1;
        if (biases && (i == TOY_V || i == TOY_O)) {
            t->linears[i].bias = lu_array((size_t)shapes[i].n, sizeof(float));
            for (int64_t r = 0; r < shapes[i].n; r++)
                t->linears[i].bias[r] = 0.5f * bare_noise(&seed) + 1;
        }
        t->lists[i] = &t->linears[i];
        if (!site->linears)
            *site =
                (lu_site){.name = names[shapes[i].site], .k = shapes[i].k, .linears = &t->lists[i]};
        site->n_linears++;
    }
    for (int i = 0; i < TOY_SITES; i++)
        t->inputs[i] = lu_calloc(1, sizeof *t->inputs[i]);
    toy_seam(t, TOY_SEAM_V, "norm to qkv", LU_PART_ATTENTION, TOY_SITE_V);
    toy_seam(t, TOY_SEAM_O, "v to o", LU_PART_ATTENTION, TOY_SITE_O);
    toy_seam(t, TOY_SEAM_MLP, "norm to gate_up", LU_PART_MLP, TOY_SITE_MLP);
    toy_seam(t, TOY_SEAM_DOWN, "up to down", LU_PART_MLP, TOY_SITE_DOWN);
    for (int n = 0; n < 2; n++) {
        lu_seam *s = &t->seams[n ? TOY_SEAM_MLP : TOY_SEAM_V];
        s->kind = LU_SEAM_NORM;
        s->gain = t->gain[n];
        s->offset = offset;
        s = &t->seams[n ? TOY_SEAM_DOWN : TOY_SEAM_O];
        s->kind = LU_SEAM_ROWS;
        s->in_part_alone = true;
        s->producer = &t->linears[n ? TOY_UP : TOY_V];
        s->n_scales = s->producer->n;
    }
    t->seams[TOY_SEAM_O].head_dim = TOY_HEAD;
    t->seams[TOY_SEAM_O].repeat = TOY_HEADS / TOY_KV;
    t->seams[TOY_SEAM_O].passes_constants = true;
    toy_gather(t);
    return t;
}

static inline void toy_close(toy_block *t)
{
    for (int i = 0; i < TOY_LINEARS; i++)
        bare_linear_free(&t->linears[i]);
    for (int i = 0; i < TOY_SITES; i++) {
        bare_stats_free(&t->sites[i].stats);
        lu_free(t->inputs[i]);
    }
    lu_la_close(t->block.la);
    lu_free(t);
}

#endif
