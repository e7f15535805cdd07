/* gptq.c - GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one by one, and the
   error of each is made up for by the columns that are still to come. With H = mean x x^T + damping
   and U upper, U^T U = H^-1, a row w becomes

       for j = 0 .. k-1:   q_j = nearest code,  e_j = (w_j - decoded q_j) / U_jj,
                           w_l -= e_j U_jl      for l > j

   The sum of e_j^2 is the row's loss d H d^T, d = w - decoded, in the damped norm. Updates stay
   within a block of columns; a block's effect on the rest is one matrix product (section 3.3
   there). Any format goes: "nearest" is the codec's rule for the group's scale and zero point.

   Order: as it is, or by falling H_jj (act-order). Groups: their ranges are taken from the original
   weights (static) or from the updated columns when the walk gets to them; the latter with
   act-order makes groups of columns that are not neighbours (codes.group_of).

   Invariant: no row ends with a larger loss than rounding it to nearest gives (fallback). Columns
   that are always 0 in the data (H_jj = 0) are rounded to nearest, and pass no error on. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "algo/gptq.h"
#include "algo/pass.h"
#include "algo/rtn.h"
#include "base/mem.h"
#include "la/column_walk.h"

#define SLAB 1024 /* rows worked on at a time; they are independent */
#define MAX_DAMP 1.0

typedef lu_gptq_settings settings;

static const lutra_param params[] = {
    {"damp", LUTRA_PARAM_REAL, offsetof(settings, damp), 0.01, 0, 1, NULL,
     "added to the Hessian's diagonal, as a share of its mean; grows tenfold while the matrix is "
     "not "
     "positive definite"},
    {"act_order", LUTRA_PARAM_BOOL, offsetof(settings, act_order), 1, 0, 1, NULL,
     "round the columns with the largest activations first"},
    {"static_groups", LUTRA_PARAM_BOOL, offsetof(settings, static_groups), 1, 0, 1, NULL,
     "scales from the original weights; without, from the updated ones, which with act_order makes "
     "the checkpoint hold a group index for every column"},
    {"sequential", LUTRA_PARAM_BOOL, offsetof(settings, sequential), 1, 0, 1, NULL,
     "each linear of a block is calibrated on the outputs of the rounded ones before it"},
    {"block_size", LUTRA_PARAM_INT, offsetof(settings, block_size), 128, 1, 4096, NULL,
     "columns between two updates of the rest: speed only"},
    {"min_rows", LUTRA_PARAM_INT, offsetof(settings, min_rows), 128, 1, 1e9, NULL,
     "inputs that saw fewer tokens (seldom used experts) are rounded to nearest"},
    {"fallback", LUTRA_PARAM_BOOL, offsetof(settings, fallback), 1, 0, 1, NULL,
     "rows that rounding to nearest serves better are rounded to nearest"},
    {0},
};

/* ---- order and factor -------------------------------------------------------------------------
 */

typedef struct {
    float value;
    int32_t at;
} ranked;

static int falling(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->value > y->value ? -1 : x->value < y->value ? 1 : (x->at > y->at) - (x->at < y->at);
}

static lutra_status choose_order(const float *h, int64_t k, bool by_size, int32_t *order,
                                 lutra_err *err)
{
    ranked *r = lu_array((size_t)k, sizeof *r);
    if (!r)
        return lu_fail_nomem(err, (size_t)k * sizeof *r);
    for (int64_t i = 0; i < k; i++)
        r[i] = (ranked){h[i * k + i], (int32_t)i};
    if (by_size)
        qsort(r, (size_t)k, sizeof *r, falling);
    for (int64_t i = 0; i < k; i++)
        order[i] = r[i].at;
    lu_free(r);
    return LUTRA_OK;
}

typedef struct {
    float *h;
    int64_t k;
    const int32_t *order;
    const bool *leads; /* [k] the lowest row of its cycle */
    float *rows;       /* [threads][k] */
} permute_job;

static void permute_columns(void *arg, int64_t begin, int64_t end, int worker)
{
    const permute_job *p = arg;
    float *row = p->rows + worker * p->k;
    for (int64_t i = begin; i < end; i++) {
        float *h = p->h + i * p->k;
        for (int64_t j = 0; j < p->k; j++)
            row[j] = h[p->order[j]];
        memcpy(h, row, (size_t)p->k * sizeof *h);
    }
}

#define STRIPE 256 /* columns of rows that a thread moves at a time */

/* Row i becomes row order[i], along the cycles of the permutation. Indices are stripes. */
static void permute_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const permute_job *p = arg;
    const int64_t k = p->k;
    const int64_t first_column = begin * STRIPE, last = end * STRIPE < k ? end * STRIPE : k;
    const size_t bytes = (size_t)(last - first_column) * sizeof *p->h;
    float *h = p->h + first_column, *held = p->rows + worker * k;
    for (int64_t first = 0; first < k; first++) {
        if (!p->leads[first] || p->order[first] == first)
            continue;
        memcpy(held, h + first * k, bytes);
        int64_t i = first;
        for (; p->order[i] != first; i = p->order[i])
            memcpy(h + i * k, h + p->order[i] * k, bytes);
        memcpy(h + i * k, held, bytes);
    }
}

static void find_leads(const int32_t *order, int64_t k, bool *leads)
{
    for (int64_t i = 0; i < k; i++)
        leads[i] = true;
    for (int64_t first = 0; first < k; first++)
        if (leads[first])
            for (int64_t i = order[first]; i != first; i = order[i])
                leads[i] = false;
}

static lutra_status permute(lu_la *la, float *h, int64_t k, const int32_t *order, lutra_err *err)
{
    lu_pool *pool = lu_la_pool(la);
    permute_job p = {.h = h, .k = k, .order = order};
    p.rows = lu_array((size_t)lu_pool_size(pool), (size_t)k * sizeof *p.rows);
    bool *leads = lu_array((size_t)k, sizeof *leads);
    const bool ok = p.rows && leads;
    if (ok) {
        find_leads(order, k, leads);
        p.leads = leads;
        lu_pool_for(pool, (k + STRIPE - 1) / STRIPE, 1, permute_rows, &p);
        lu_pool_for(pool, k, 16, permute_columns, &p);
    }
    lu_free(p.rows);
    lu_free(leads);
    return ok ? LUTRA_OK : lu_fail_nomem(err, (size_t)k * sizeof *p.rows);
}

/* h becomes U; *definite is false when no damping up to MAX_DAMP helps. */
static lutra_status factor(lu_la *la, float *h, int64_t k, double damp, bool *definite,
                           lutra_err *err)
{
    double mean = 0, added = 0;
    for (int64_t i = 0; i < k; i++) {
        if (h[i * k + i] == 0)
            h[i * k + i] = 1;
        else
            mean += (double)h[i * k + i] / (double)k;
    }
    *definite = false;
    for (;; damp = damp > 0 ? 10 * damp : 1e-4) {
        const double want = fmin(damp, MAX_DAMP) * mean;
        for (int64_t i = 0; i < k; i++)
            h[i * k + i] += (float)(want - added);
        added = want;
        LU_TRY(lu_la_inverse_factor(la, k, h, definite, err));
        if (*definite || damp >= MAX_DAMP)
            return LUTRA_OK;
    }
}

lutra_status lu_gptq_factor(lu_la *la, float *h, int64_t k, const lu_gptq_settings *s,
                            int32_t *order, bool *definite, lutra_err *err)
{
    LU_TRY(choose_order(h, k, s->act_order, order, err));
    if (s->act_order)
        LU_TRY(permute(la, h, k, order, err));
    return factor(la, h, k, s->damp, definite, err);
}

/* ---- rows --------------------------------------------------------------------------------------
 */

typedef struct {
    const settings *s;
    const lu_encoder *encoder;
    const lu_ops *ops;
    lu_site_linear *l;
    const float *u;       /* [k][k] */
    lu_column_walk *along;
    const int32_t *order; /* [k]; place j of the walk is column order[j] */
    bool fixed_groups;    /* ranges from the original weights, or given */
    bool walk_groups;     /* groups are runs of places, not of columns */
    int64_t group_size, groups;
    int64_t first;       /* row of l that row 0 of the slab is */
    int64_t begin, end;  /* the block of places */
    int64_t block;       /* places of a whole block */
    float *w;            /* [SLAB][k] in the order of the walk */
    float *e;            /* [SLAB][block] */
    float *scale, *zero; /* [SLAB][groups] zero: the value of the zero point */
    uint8_t *codes;      /* [SLAB][k] in the order of columns */
    double *loss;        /* [SLAB] */
    uint8_t *spare; /* [threads][spare_bytes] codes of a group that only its scale is wanted of */
    size_t spare_bytes;
    _Atomic int64_t bad_row; /* the lowest that cannot be encoded, l->n if none */
} walk;

static void note_bad(walk *g, int64_t row)
{
    int64_t lowest = atomic_load(&g->bad_row);
    while (row < lowest && !atomic_compare_exchange_weak(&g->bad_row, &lowest, row))
        continue;
}

/* Scale and zero point of group i of slab row r, for the weights w[group_size]. */
static bool set_group(walk *g, int64_t r, int64_t i, const float *w, int worker)
{
    const lutra_format *f = &g->encoder->format;
    const lu_site_linear *l = g->l;
    const int64_t at = (g->first + r) * g->groups + i;
    uint8_t *scale = (uint8_t *)l->codes.scales + (size_t)at * lutra_dtype_bytes(f->scale_dtype);
    uint8_t *zero = l->codes.zeros ? l->codes.zeros + at : NULL;
    if (l->lo) {
        float s;
        int z;
        if (!lu_group_scale(f, l->lo[at], l->hi[at], &s, &z))
            return false;
        lu_scale_set(f->scale_dtype, scale, 0, s);
        if (zero)
            *zero = (uint8_t)z;
    } else {
        lu_encode_row_args a = {.w = w, .dtype = LUTRA_F32, .k = g->group_size};
        a.codes = g->spare + (size_t)worker * g->spare_bytes;
        a.scales = scale;
        a.zeros = zero;
        if (lu_encoder_row(g->encoder, &a) >= 0)
            return false;
    }
    g->scale[r * g->groups + i] = lu_scale_get(f->scale_dtype, scale, 0);
    g->zero[r * g->groups + i] = zero ? f->table[*zero] : 0;
    return true;
}

static void begin_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    walk *g = arg;
    const int64_t k = g->l->k;
    for (int64_t r = begin; r < end; r++) {
        const float *from = g->l->w + (g->first + r) * k;
        g->loss[r] = 0;
        for (int64_t j = 0; j < k; j++)
            g->w[r * k + j] = from[g->order[j]];
        for (int64_t i = 0; g->fixed_groups && i < g->groups; i++)
            if (!set_group(g, r, i, from + i * g->group_size, worker))
                note_bad(g, g->first + r);
    }
}

/* The codec's nearest value (fmt/codec.h) for one weight; the pivots follow as they are needed. */
static uint8_t nearest(const lu_grid *grid, float scale, float zero, float w)
{
    int rank = 0;
    if (scale == 0)
        return grid->code[grid->near_zero];
    for (int step = grid->n / 2; step > 0; step /= 2)
        if ((grid->mid[rank + step - 1] - zero) * scale < w)
            rank += step;
    return grid->code[rank];
}

static void walk_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    walk *g = arg;
    const lu_grid *grid = &g->encoder->grid;
    const lutra_format *f = &g->encoder->format;
    const int64_t k = g->l->k;
    for (int64_t r = begin; r < end; r++) {
        float *w = g->w + r * k, *e = g->e + r * g->block;
        const float *scale = g->scale + r * g->groups, *zero = g->zero + r * g->groups;
        double loss = 0;
        for (int64_t j = g->begin; j < g->end; j++) {
            const int64_t group = (g->walk_groups ? j : g->order[j]) / g->group_size;
            if (!g->fixed_groups && j % g->group_size == 0 &&
                !set_group(g, r, group, w + j, worker))
                note_bad(g, g->first + r);
            const uint8_t code = nearest(grid, scale[group], zero[group], w[j]);
            const float decoded = scale[group] * (f->table[code] - zero[group]);
            const float error = (w[j] - decoded) / g->u[j * k + j];
            g->codes[r * k + g->order[j]] = code;
            e[j - g->begin] = error;
            loss += (double)error * (double)error;
            g->ops->axpy(w + j + 1, -error, g->u + j * k + j + 1, g->end - j - 1);
        }
        g->loss[r] += loss;
    }
}

/* ---- rows that rounding to nearest serves better -----------------------------------------------
 */

typedef struct {
    walk *g;
    lu_codes nearest; /* of the slab's rows */
    float *d;         /* [SLAB][k] error of rounding to nearest, in the order of the walk */
} rival;

static void rival_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const rival *v = arg;
    walk *g = v->g;
    const lutra_format *f = &g->encoder->format;
    const int64_t k = g->l->k;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *from = g->l->w + (g->first + r) * k;
        float *d = v->d + r * k, *w = g->w + r * k; /* the walk is over: w is free */
        const size_t groups = (size_t)g->groups, row = (size_t)r;
        uint8_t *codes = v->nearest.codes + row * lutra_format_row_bytes(f, k);
        uint8_t *scales =
            (uint8_t *)v->nearest.scales + row * groups * lutra_dtype_bytes(f->scale_dtype);
        uint8_t *zeros = v->nearest.zeros ? v->nearest.zeros + row * groups : NULL;
        for (int64_t j = 0; j < k; j++)
            w[j] = from[g->walk_groups ? g->order[j] : j];
        lu_encode_row_args a = {.w = w, .dtype = LUTRA_F32, .k = k, .codes = codes};
        a.scales = scales;
        a.zeros = zeros;
        if (lu_encoder_row(g->encoder, &a) >= 0) {
            note_bad(g, g->first + r);
            continue;
        }
        lu_decode_row(f, codes, scales, zeros, k, w);
        for (int64_t j = 0; j < k; j++)
            d[j] = from[g->order[j]] - w[g->walk_groups ? j : g->order[j]];
    }
}

static void take_better(void *arg, int64_t begin, int64_t end, int worker)
{
    const rival *v = arg;
    walk *g = v->g;
    const lutra_format *f = &g->encoder->format;
    const int64_t k = g->l->k;
    const size_t groups = (size_t)g->groups, scale_row = groups * lutra_dtype_bytes(f->scale_dtype);
    uint8_t *row = g->spare + (size_t)worker * g->spare_bytes;
    for (int64_t r = begin; r < end; r++) {
        double loss = 0;
        for (int64_t j = 0; j < k; j++)
            loss += (double)v->d[r * k + j] * (double)v->d[r * k + j];
        if (!(loss < g->loss[r]))
            continue;
        const size_t from = (size_t)r, to = (size_t)(g->first + r);
        lu_codes_unpack(v->nearest.codes + from * lutra_format_row_bytes(f, k), k, f->bits, row);
        for (int64_t j = 0; j < k; j++)
            g->codes[r * k + (g->walk_groups ? g->order[j] : j)] = row[j];
        memcpy((uint8_t *)g->l->codes.scales + to * scale_row,
               (uint8_t *)v->nearest.scales + from * scale_row, scale_row);
        if (v->nearest.zeros)
            memcpy(g->l->codes.zeros + to * groups, v->nearest.zeros + from * groups, groups);
    }
}

static lutra_status compare(lu_block *b, walk *g, int64_t n, lutra_err *err)
{
    lu_site_linear rows = {.name = g->l->name, .n = n, .k = g->l->k, .format = g->l->format};
    LU_TRY(lu_linear_open_codes(&rows, err));
    rival v = {.g = g, .nearest = rows.codes};
    v.d = lu_array((size_t)n, (size_t)g->l->k * sizeof *v.d);
    lutra_status status =
        v.d ? LUTRA_OK : lu_fail_nomem(err, (size_t)n * (size_t)g->l->k * sizeof *v.d);
    if (v.d) {
        lu_pool_for(b->ctx->pool, n, 8, rival_rows, &v);
        status = lu_la_divide_upper(b->la, g->l->k, g->u, n, v.d, err);
    }
    if (status == LUTRA_OK)
        lu_pool_for(b->ctx->pool, n, 8, take_better, &v);
    lu_linear_free_codes(&rows);
    lu_free(v.d);
    return status;
}

/* ---- one linear --------------------------------------------------------------------------------
 */

static void pack_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const walk *g = arg;
    const lutra_format *f = &g->encoder->format;
    const size_t row_bytes = lutra_format_row_bytes(f, g->l->k);
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        lu_codes_pack(g->codes + r * g->l->k, g->l->k, f->bits,
                      g->l->codes.codes + (size_t)(g->first + r) * row_bytes);
}

static lutra_status round_slab(lu_block *b, walk *g, int64_t n, lutra_err *err)
{
    lu_pool *pool = b->ctx->pool;
    const int64_t k = g->l->k;
    lu_pool_for(pool, n, 8, begin_rows, g);
    LU_TRY(lu_column_walk_begin(g->along, g->w, n, k < g->block ? k : g->block, err));
    for (g->begin = 0; g->begin < k; g->begin = g->end) {
        LU_TRY(lu_check_cancel(b->ctx, err));
        g->end = k - g->begin < g->block ? k : g->begin + g->block;
        lu_pool_for(pool, n, 8, walk_rows, g);
        const int64_t next = k - g->end < g->block ? k : g->end + g->block;
        LU_TRY(lu_column_walk_pass(g->along, g->begin, g->end, next, g->e, g->block, err));
    }
    if (g->s->fallback && !g->l->lo)
        LU_TRY(compare(b, g, n, err));
    lu_pool_for(pool, n, 8, pack_rows, g);
    return LUTRA_OK;
}

/* Blocks begin where groups begin, or groups where blocks do: a group's scale is then taken from
   columns that have all updates. */
static int64_t block_of(const settings *s, int64_t group_size, int64_t k)
{
    int64_t block = s->block_size < k ? s->block_size : k;
    if (group_size <= block)
        block -= block % group_size;
    else if (group_size % block)
        block = group_size;
    return block;
}

static lutra_status fail_row(const walk *g, lutra_err *err)
{
    const lu_site_linear *l = g->l;
    const lutra_tensor t = {.dtype = LUTRA_F32, .rank = 2, .shape = {l->n, l->k}, .data = l->w};
    const int64_t row = g->bad_row;
    int64_t worst = 0;
    for (int64_t c = 0; c < l->k; c++) {
        const float v = fabsf(l->w[row * l->k + c]), most = fabsf(l->w[row * l->k + worst]);
        if (!isfinite(v)) {
            worst = c;
            break;
        }
        worst = v > most ? c : worst;
    }
    return lu_fail_prefix(err, lu_rtn_fail(&l->format, &t, row, worst, err), "%s", l->name);
}

static lutra_status take_room(lu_block *b, walk *g, lutra_err *err)
{
    const size_t k = (size_t)g->l->k, groups = (size_t)g->groups;
    const size_t rows = (size_t)(g->l->n < SLAB ? g->l->n : SLAB);
    g->spare_bytes = k;
    g->w = lu_array(rows, k * sizeof *g->w);
    g->e = lu_array(rows, (size_t)g->block * sizeof *g->e);
    g->scale = lu_array(rows, groups * sizeof *g->scale);
    g->zero = lu_array(rows, groups * sizeof *g->zero);
    g->codes = lu_array(rows, k);
    g->loss = lu_array(rows, sizeof *g->loss);
    g->spare = lu_array((size_t)lu_pool_size(b->ctx->pool), g->spare_bytes);
    return g->w && g->e && g->scale && g->zero && g->codes && g->loss && g->spare
               ? LUTRA_OK
               : lu_fail_nomem(err, rows * k * sizeof *g->w);
}

static void leave_room(walk *g)
{
    lu_free(g->w);
    lu_free(g->e);
    lu_free(g->scale);
    lu_free(g->zero);
    lu_free(g->codes);
    lu_free(g->loss);
    lu_free(g->spare);
}

static lutra_status note_groups(const walk *g, lutra_err *err)
{
    lu_codes *c = &g->l->codes;
    c->group_of = lu_array((size_t)g->l->k, sizeof *c->group_of);
    if (!c->group_of)
        return lu_fail_nomem(err, (size_t)g->l->k * sizeof *c->group_of);
    for (int64_t j = 0; j < g->l->k; j++)
        c->group_of[g->order[j]] = (int32_t)(j / g->group_size);
    return LUTRA_OK;
}

lutra_status lu_gptq_round(lu_block *b, lu_site_linear *l, const float *u, const int32_t *order,
                           const lu_gptq_settings *s, lutra_err *err)
{
    LU_TRY(lu_linear_open_codes(l, err));
    lu_encoder *encoder = lu_alloc(sizeof *encoder);
    if (!encoder)
        return lu_fail_nomem(err, sizeof *encoder);
    lu_ops ops;
    lu_ops_fill(&ops, b->level);
    walk g = {.s = s, .encoder = encoder, .ops = &ops, .l = l, .u = u, .order = order};
    g.groups = lutra_format_groups(&l->format, l->k);
    g.group_size = l->k / g.groups;
    g.fixed_groups = s->static_groups || l->lo;
    g.walk_groups = !g.fixed_groups;
    g.block = block_of(s, g.group_size, l->k);
    atomic_init(&g.bad_row, l->n);
    lutra_status status = take_room(b, &g, err);
    if (status == LUTRA_OK)
        status = lu_column_walk_open(b->la, l->k, u, l->n < SLAB ? l->n : SLAB, g.block, &g.along,
                                     err);
    for (int64_t end; status == LUTRA_OK && g.first < l->n; g.first = end) {
        lu_linear_encoder(b, l, g.first, encoder, &end);
        end = end - g.first < SLAB ? end : g.first + SLAB;
        status = round_slab(b, &g, end - g.first, err);
    }
    if (status == LUTRA_OK && atomic_load(&g.bad_row) < l->n)
        status = fail_row(&g, err);
    if (status == LUTRA_OK && g.walk_groups && s->act_order && g.groups > 1)
        status = note_groups(&g, err);
    lu_column_walk_close(g.along);
    leave_room(&g);
    lu_free(encoder);
    return status == LUTRA_OK ? lu_linear_close_codes(b, l, err) : status;
}

/* ---- the pass ----------------------------------------------------------------------------------
 */

static lutra_status round_to_nearest(lu_block *b, lu_site *s, lutra_err *err)
{
    for (int i = 0; i < s->n_linears; i++)
        if (s->linears[i]->wanted)
            LU_TRY(lu_linear_round(b, s->linears[i], err));
    return LUTRA_OK;
}

static lutra_status learn_tables(lu_block *b, lu_site *s, lutra_err *err)
{
    float *importance = lu_site_importance(s);
    lutra_status status =
        importance ? LUTRA_OK : lu_fail_nomem(err, (size_t)s->k * sizeof *importance);
    for (int i = 0; status == LUTRA_OK && i < s->n_linears; i++)
        if (s->linears[i]->wanted)
            status = lu_linear_learn(b, s->linears[i], importance, err);
    lu_free(importance);
    return status;
}

static lutra_status gptq_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    const settings *s = set;
    float *h = site->stats.hessian;
    if (site->stats.n_rows < s->min_rows) {
        lu_log(b->ctx, LUTRA_LOG_WARN,
               "layer %lld %s: saw %lld tokens, fewer than %lld: rounded to nearest",
               (long long)b->index, site->name, (long long)site->stats.n_rows,
               (long long)s->min_rows);
        return round_to_nearest(b, site, err);
    }
    int32_t *order = lu_array((size_t)site->k, sizeof *order);
    if (!order)
        return lu_fail_nomem(err, (size_t)site->k * sizeof *order);
    bool definite = false;
    lutra_status status = learn_tables(b, site, err); /* while h is the Hessian */
    if (status == LUTRA_OK)
        status = lu_gptq_factor(b->la, h, site->k, s, order, &definite, err);
    if (status == LUTRA_OK && !definite) {
        lu_log(b->ctx, LUTRA_LOG_WARN,
               "layer %lld %s: its Hessian is not positive definite at any damping: rounded to "
               "nearest",
               (long long)b->index, site->name);
        status = round_to_nearest(b, site, err);
    }
    for (int i = 0; status == LUTRA_OK && definite && i < site->n_linears; i++)
        if (site->linears[i]->wanted)
            status = lu_gptq_round(b, site->linears[i], h, order, s, err);
    lu_la_release(b->la);
    lu_free(order);
    return status;
}

static unsigned gptq_needs(const void *set)
{
    (void)set;
    return LU_STAT_HESSIAN;
}

static bool gptq_sequential(const void *set) { return ((const settings *)set)->sequential; }

static void gptq_scheme(const void *p, lu_scheme *scheme)
{
    const settings *s = p;
    scheme->column_groups = s->act_order && !s->static_groups && scheme->format.group_size > 0;
}

const lu_pass lu_pass_gptq = {
    .method = {.name = "gptq",
               .summary = "rounds column by column, each column making up for the errors before it",
               .source = "Frantar et al. 2022, arXiv 2210.17323",
               .kind = LUTRA_METHOD_ROUND,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = gptq_needs,
    .sequential = gptq_sequential,
    .scheme = gptq_scheme,
    .site = gptq_site,
};
