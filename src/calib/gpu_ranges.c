/* gpu_ranges.c - see gpu_ranges.h. Rows pass in pieces. For each candidate one kernel makes the
   differences d of all groups, products with the group's square H_G of the Hessian make d H_G, and
   another kernel keeps the better candidate of each group. Only the squares are needed for that: k
   times the group's size, not k^2. */
#include "calib/gpu_ranges.h"

#include <string.h>

#include "base/mem.h"

#define PIECE_BYTES ((int64_t)256 << 20) /* of float32 rows at a time: weights, d, d H_G each */

typedef struct {
    lu_gpu *gpu;
    lu_block *b;
    lu_range_search *s;
    lu_encoder *encoder;
    int64_t n, k, size, groups, rows; /* rows of a piece */
    float *ones;                      /* on the GPU, as all below: [k] */
    float *squares;                   /* [groups][size][size] */
    float *w, *d, *product;           /* [rows][k] */
    float *lo, *hi, *best_factor;     /* [rows][groups] */
    double *best;                     /* [rows][groups] */
    uint8_t *codes, *scales, *zeros;  /* [rows] of rounding by the linear's own rule */
    double *energies;                 /* [rows][2] */
} search;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t rows_of_piece(int64_t n, int64_t k)
{
    const int64_t rows = PIECE_BYTES / 4 / k;
    return smaller(n, rows > 0 ? rows : 1);
}

int64_t lu_gpu_ranges_bytes(int64_t n, int64_t k, int64_t size)
{
    const int64_t rows = rows_of_piece(n, k), groups = k / size;
    /* codes and scales are at most 8 and 32 bits */
    return rows * (k * (3 * 4 + 1) + groups * (3 * 4 + 8 + 4 + 1) + 16) + 4 * k * size + 4 * k;
}

static lutra_status take(search *g, int64_t bytes, void *out, lutra_err *err)
{
    LU_GPU_TRY(g->gpu, g->gpu->api->take(g->gpu, (size_t)bytes, out), "memory for ranges", err);
    return LUTRA_OK;
}

static lutra_status upload(search *g, void *to, const void *from, int64_t bytes, lutra_err *err)
{
    LU_GPU_TRY(g->gpu, g->gpu->api->upload(g->gpu, to, from, (size_t)bytes), "ranges", err);
    return LUTRA_OK;
}

/* The squares on the Hessian's diagonal, next to each other. */
static lutra_status bring_squares(search *g, lutra_err *err)
{
    const float *h = g->s->site->stats.hessian;
    const size_t row = (size_t)g->size * sizeof *h, square = (size_t)g->size * row;
    if (g->groups == 1)
        return upload(g, g->squares, h, (int64_t)square, err);
    float *all = lu_array((size_t)g->groups, square);
    if (!all)
        return lu_fail_nomem(err, (size_t)g->groups * square);
    for (int64_t i = 0; i < g->k; i++)
        memcpy(all + i * g->size, h + i * g->k + i / g->size * g->size, row);
    const lutra_status status = upload(g, g->squares, all, g->groups * (int64_t)square, err);
    lu_free(all);
    return status;
}

static lutra_status take_room(search *g, lutra_err *err)
{
    const lutra_format *f = &g->encoder->format;
    const int64_t matrix = g->rows * g->k * 4, per_group = g->rows * g->groups;
    const struct {
        void *at;
        int64_t bytes;
    } parts[] = {
        {&g->squares, g->k * g->size * 4},
        {&g->w, matrix},
        {&g->d, matrix},
        {&g->product, matrix},
        {&g->lo, per_group * 4},
        {&g->hi, per_group * 4},
        {&g->best_factor, per_group * 4},
        {&g->best, per_group * 8},
        {&g->ones, g->k * 4},
        {&g->codes, g->rows * (int64_t)lutra_format_row_bytes(f, g->k)},
        {&g->scales, per_group * (int64_t)lutra_dtype_bytes(f->scale_dtype)},
        {&g->zeros, per_group},
        {&g->energies, g->rows * 2 * 8},
    };
    const size_t n = sizeof parts / sizeof *parts;
    for (size_t i = 0; i < (g->s->weigh ? n : n - 5); i++) /* the last are for losses */
        LU_TRY(take(g, parts[i].bytes, parts[i].at, err));
    return LUTRA_OK;
}

static lutra_status bring_ones(search *g, lutra_err *err)
{
    float *ones = lu_array((size_t)g->k, sizeof *ones);
    if (!ones)
        return lu_fail_nomem(err, (size_t)g->k * sizeof *ones);
    for (int64_t c = 0; c < g->k; c++)
        ones[c] = 1;
    const lutra_status status = upload(g, g->ones, ones, g->k * 4, err);
    lu_free(ones);
    return status;
}

static void leave_room(search *g)
{
    void *const all[] = {g->ones,   g->squares, g->w,           g->d,    g->product,
                         g->lo,     g->hi,      g->best_factor, g->best, g->codes,
                         g->scales, g->zeros,   g->energies};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        g->gpu->api->give(g->gpu, all[i]);
    lu_free(g->encoder);
}

/* ---- a piece of n rows -------------------------------------------------------------------------
 */

/* d in the ranges `factor` times the whole, or each group in its best. */
static lutra_status clip(search *g, int64_t n, const float *factors, float factor, lutra_err *err)
{
    const lu_cuda_clip_args a = {.encoder = g->encoder,
                                 .n = n,
                                 .k = g->k,
                                 .w = g->w,
                                 .lo = g->lo,
                                 .hi = g->hi,
                                 .factors = factors,
                                 .factor = factor,
                                 .difference = g->d,
                                 .stream = g->gpu->stream};
    LU_GPU_TRY(g->gpu, g->gpu->api->clip(&a), "ranges", err);
    return LUTRA_OK;
}

static lutra_status try_factor(search *g, int64_t n, int i, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    LU_TRY(lu_check_cancel(g->b->ctx, err));
    LU_TRY(clip(g, n, NULL, g->s->factors[i], err));
    for (int64_t at = 0; at < g->k; at += g->size) {
        const lu_gpu_gemm call = {.of_float = true,
                                  .m = n,
                                  .n = g->size,
                                  .k = g->size,
                                  .alpha = 1,
                                  .a = g->d + at,
                                  .lda = g->k,
                                  .b = g->squares + at * g->size,
                                  .ldb = g->size,
                                  .c = g->product + at,
                                  .ldc = g->k};
        LU_GPU_TRY(gpu, gpu->api->gemm(gpu, &call), "ranges", err);
    }
    LU_GPU_TRY(gpu,
               gpu->api->judge_groups(n, g->groups, g->size, g->d, g->product, i == 0,
                                      g->s->factors[i], g->best, g->best_factor, gpu->stream),
               "ranges", err);
    return LUTRA_OK;
}

/* d by the linear's own rule. */
static lutra_status round_plainly(search *g, int64_t n, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    uint8_t *zeros = g->encoder->format.zero_point ? g->zeros : NULL;
    const lu_cuda_encode_args encode = {.encoder = g->encoder,
                                        .n = n,
                                        .k = g->k,
                                        .w = g->w,
                                        .dtype = LUTRA_F32,
                                        .codes = g->codes,
                                        .scales = g->scales,
                                        .zeros = zeros,
                                        .energies = g->energies,
                                        .stream = gpu->stream};
    const lu_cuda_decode_args decode = {.n = n,
                                        .k = g->k,
                                        .format = &g->encoder->format,
                                        .codes = g->codes,
                                        .scales = g->scales,
                                        .zeros = zeros,
                                        .scale = g->ones,
                                        .w = g->w,
                                        .difference = g->d,
                                        .stream = gpu->stream};
    LU_GPU_TRY(gpu, gpu->api->encode(&encode), "ranges", err);
    LU_GPU_TRY(gpu, gpu->api->decode(&decode), "ranges", err);
    return LUTRA_OK;
}

/* Adds d H d^T of the n rows, so many at a time as lu_linear_loss takes. */
static lutra_status add_losses(search *g, int64_t n, double *loss, lutra_err *err)
{
    double sums[LU_LINEAR_LOSS_ROWS];
    for (int64_t row = 0; row < n; row += LU_LINEAR_LOSS_ROWS) {
        const int64_t m = smaller(LU_LINEAR_LOSS_ROWS, n - row);
        LU_TRY(lu_la_norms_there(g->b->la, m, g->k, g->d + row * g->k, g->s->site->stats.hessian,
                                 sums, err));
        for (int64_t r = 0; r < m; r++)
            *loss += sums[r];
    }
    return LUTRA_OK;
}

static lutra_status search_piece(search *g, int64_t row, int64_t n, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    lu_range_search *s = g->s;
    const int64_t at = row * g->groups, count = n * g->groups;
    LU_TRY(upload(g, g->w, s->l->w + row * g->k, n * g->k * 4, err));
    LU_TRY(upload(g, g->lo, s->lo + at, count * 4, err));
    LU_TRY(upload(g, g->hi, s->hi + at, count * 4, err));
    for (int i = 0; i < s->n_factors; i++)
        LU_TRY(try_factor(g, n, i, err));
    if (s->weigh) {
        LU_TRY(clip(g, n, g->best_factor, 1, err));
        LU_TRY(add_losses(g, n, &s->clipped, err));
        LU_TRY(round_plainly(g, n, err));
        LU_TRY(add_losses(g, n, &s->plain, err));
    }
    LU_GPU_TRY(
        gpu, gpu->api->download(gpu, s->best + at, g->best_factor, (size_t)count * sizeof *s->best),
        "ranges", err);
    return LUTRA_OK;
}

/* ---- the search --------------------------------------------------------------------------------
 */

static lutra_status run(search *g, lutra_err *err)
{
    LU_TRY(take_room(g, err));
    LU_TRY(bring_squares(g, err));
    if (g->s->weigh)
        LU_TRY(bring_ones(g, err));
    for (int64_t row = 0; row < g->n; row += g->rows)
        LU_TRY(search_piece(g, row, smaller(g->rows, g->n - row), err));
    return LUTRA_OK;
}

lutra_status lu_gpu_ranges_search(lu_gpu *gpu, lu_block *b, lu_range_search *s, bool *possible,
                                  lutra_err *err)
{
    const lu_site_linear *l = s->l;
    search g = {.gpu = gpu, .b = b, .s = s, .n = l->n, .k = l->k};
    int64_t end;
    size_t there;
    s->clipped = s->plain = 0;
    g.groups = lutra_format_groups(&l->format, l->k);
    g.size = l->k / g.groups;
    g.rows = rows_of_piece(l->n, l->k);
    g.encoder = lu_alloc(sizeof *g.encoder);
    if (!g.encoder)
        return lu_fail_nomem(err, sizeof *g.encoder);
    lu_linear_encoder(b, l, 0, g.encoder, &end);
    lutra_status status = LUTRA_OK;
    const int error = gpu->api->free_memory(gpu, &there);
    if (error)
        status = lu_gpu_fail(gpu, error, "asking for its memory", err);
    *possible = status == LUTRA_OK && end >= l->n &&
                lu_gpu_ranges_bytes(l->n, l->k, g.size) <= (int64_t)there;
    if (*possible)
        status = run(&g, err);
    leave_room(&g);
    return status;
}
