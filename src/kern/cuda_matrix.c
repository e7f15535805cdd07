/* cuda_matrix.c - lutra/cuda.h: packed matrices of callers that have an engine of their own, on the
   table of functions that the engine uses too (gpu.h). */
#include "lutra/cuda.h"

#include <math.h>

#include "base/context.h"
#include "base/mem.h"
#include "kern/gpu.h"
#include "tensor/convert.h"

#define BLOCK_ALIGNMENT 256

struct lutra_cuda {
    lu_gpu *g;
    void *scratch; /* for products on `stream`, or NULL */
    void *stream;
};

struct lutra_cuda_matrix {
    lutra_cuda *gpu;
    lu_gpu *g;
    void *own; /* device memory to give back, or NULL */
    lu_cuda_lut lut;
    bool settled; /* a product was queued behind the packing: later ones may fetch weights early */
};

lutra_status lutra_cuda_open(lutra_ctx *ctx, int ordinal, lutra_cuda **out, lutra_err *err)
{
    if (ordinal < 0)
        return lu_fail(err, LUTRA_E_ARG, "GPU ordinal is %d, expected 0 or more", ordinal);
    lutra_cuda *gpu = lu_calloc(1, sizeof *gpu);
    if (!gpu)
        return lu_fail_nomem(err, sizeof *gpu);
    const lutra_status status = lu_gpu_open(ctx->gpu, ordinal, &gpu->g, err);
    if (status != LUTRA_OK) {
        lu_free(gpu);
        return status;
    }
    *out = gpu;
    return LUTRA_OK;
}

void lutra_cuda_close(lutra_cuda *gpu)
{
    if (!gpu)
        return;
    if (gpu->scratch) {
        gpu->g->api->use(gpu->g);
        gpu->g->api->give(gpu->g, gpu->scratch);
    }
    lu_gpu_close(gpu->g);
    lu_free(gpu);
}

lutra_status lutra_cuda_favour(lutra_cuda *gpu, void *stream, lutra_err *err)
{
    lu_gpu *g = gpu->g;
    const size_t bytes = g->api->lut_scratch(&g->chip);
    if (bytes && !gpu->scratch) {
        void *scratch;
        LU_GPU_TRY(g, g->api->take(g, bytes, &scratch), "memory for products", err);
        int e = g->api->zero(g, scratch, bytes);
        if (!e)
            e = g->api->sync(g);
        if (e) {
            g->api->give(g, scratch);
            return lu_gpu_fail(g, e, "clearing memory", err);
        }
        gpu->scratch = scratch;
    }
    gpu->stream = stream;
    return LUTRA_OK;
}

void lutra_cuda_source_init(lutra_cuda_source *s)
{
    *s = (lutra_cuda_source){.size = sizeof *s, .act = LUTRA_F16};
}

static int64_t group_of(const lutra_cuda_source *s) { return s->group_size ? s->group_size : s->k; }

/* The most rows or columns: indices inside the kernels are 32 bits. */
#define MOST (INT64_C(1) << 30)

static lutra_status check_sizes(const lutra_cuda_source *s, lutra_err *err)
{
    if (s->size != sizeof *s)
        return lu_fail(err, LUTRA_E_ARG,
                       "source has size %zu, expected %zu: fill it with lutra_cuda_source_init",
                       s->size, sizeof *s);
    if (s->n < 1 || s->k < 1 || s->n >= MOST || s->k >= MOST)
        return lu_fail(err, LUTRA_E_ARG, "matrix of %lld x %lld, expected 1 to 2^30 - 1 each",
                       (long long)s->n, (long long)s->k);
    if (s->bits < 2 || s->bits > LUTRA_MAX_BITS)
        return lu_fail(err, LUTRA_E_ARG, "codes of %d bits, expected 2 to %d", s->bits,
                       LUTRA_MAX_BITS);
    if (s->group_size < 0 || s->k % group_of(s) != 0)
        return lu_fail(err, LUTRA_E_ARG, "group %lld does not divide %lld columns",
                       (long long)s->group_size, (long long)s->k);
    return LUTRA_OK;
}

size_t lutra_cuda_matrix_bytes(const lutra_cuda *gpu, const lutra_cuda_source *s)
{
    if (check_sizes(s, NULL) != LUTRA_OK)
        return 0;
    return gpu->g->api->lut_bytes(s->n, s->k, s->bits, group_of(s), s->zeros != NULL);
}

static lutra_status check_source(const lutra_cuda_source *s, lutra_err *err)
{
    LU_TRY(check_sizes(s, err));
    if (s->act != LUTRA_F16 && s->act != LUTRA_BF16)
        return lu_fail(err, LUTRA_E_ARG, "activations are %s, expected F16 or BF16",
                       lutra_dtype_name(s->act));
    if (!s->table || !s->codes || !s->scales)
        return lu_fail(err, LUTRA_E_ARG, "source has no %s",
                       !s->table   ? "table"
                       : !s->codes ? "codes"
                                   : "scales");
    if ((uintptr_t)s->block % BLOCK_ALIGNMENT)
        return lu_fail(err, LUTRA_E_ARG, "block is not aligned to %d bytes", BLOCK_ALIGNMENT);
    for (int i = 0; i < 1 << s->bits; i++) {
        const float rounded = s->act == LUTRA_F16 ? lu_f16_to_f32(lu_f32_to_f16(s->table[i]))
                                                  : lu_bf16_to_f32(lu_f32_to_bf16(s->table[i]));
        if (!isfinite(rounded))
            return lu_fail(err, LUTRA_E_ARG, "table value %d is %g, expected a finite %s", i,
                           (double)s->table[i], lutra_dtype_name(s->act));
    }
    return LUTRA_OK;
}

/* Where codes, scales and zeros lie in one piece of device memory that host inputs go through. */
typedef struct {
    size_t scales_at, zeros_at, bytes, code_bytes, n_scales;
} staging;

static staging stage(const lutra_cuda_source *s)
{
    staging t;
    t.code_bytes = (size_t)s->n * (size_t)((s->k * s->bits + 7) / 8);
    t.n_scales = (size_t)s->n * (size_t)(s->k / group_of(s));
    t.scales_at = (t.code_bytes + 15) / 16 * 16;
    t.zeros_at = t.scales_at + 2 * t.n_scales;
    t.bytes = t.zeros_at + (s->zeros ? t.n_scales : 0);
    return t;
}

static lutra_status pack(lutra_cuda_matrix *w, const lutra_cuda_source *s, void *block,
                         void *stream, lutra_err *err)
{
    LU_GPU_TRY(w->g,
               w->g->api->lut_pack(s->n, s->k, s->bits, group_of(s), s->codes, s->scales, s->zeros,
                                   s->table, s->act == LUTRA_BF16, block, &w->lut, stream),
               "packing a matrix", err);
    return LUTRA_OK;
}

static lutra_status upload(lu_gpu *g, const lutra_cuda_source *s, const staging *t, char *to,
                           lutra_err *err)
{
    LU_GPU_TRY(g, g->api->upload(g, to, s->codes, t->code_bytes), "copying codes", err);
    LU_GPU_TRY(g, g->api->upload(g, to + t->scales_at, s->scales, 2 * t->n_scales),
               "copying scales", err);
    if (s->zeros)
        LU_GPU_TRY(g, g->api->upload(g, to + t->zeros_at, s->zeros, t->n_scales),
                   "copying zero points", err);
    return LUTRA_OK;
}

/* Through staging memory on the GPU's own stream; done on return. */
static lutra_status pack_from_host(lutra_cuda_matrix *w, const lutra_cuda_source *s, void *block,
                                   lutra_err *err)
{
    lu_gpu *g = w->g;
    const staging t = stage(s);
    void *room;
    LU_GPU_TRY(g, g->api->take(g, t.bytes, &room), "taking memory for a matrix's codes", err);
    lutra_status status = upload(g, s, &t, room, err);
    if (status == LUTRA_OK) {
        lutra_cuda_source there = *s;
        there.codes = room;
        there.scales = (const uint16_t *)((char *)room + t.scales_at);
        there.zeros = s->zeros ? (const uint8_t *)room + t.zeros_at : NULL;
        status = pack(w, &there, block, g->stream, err);
    }
    const int e = g->api->sync(g);
    g->api->give(g, room);
    if (status == LUTRA_OK && e)
        status = lu_gpu_fail(g, e, "packing a matrix", err);
    return status;
}

lutra_status lutra_cuda_matrix_open(lutra_cuda *gpu, const lutra_cuda_source *s,
                                    lutra_cuda_matrix **out, lutra_err *err)
{
    LU_TRY(check_source(s, err));
    lu_gpu *g = gpu->g;
    lutra_cuda_matrix *w = lu_calloc(1, sizeof *w);
    if (!w)
        return lu_fail_nomem(err, sizeof *w);
    w->gpu = gpu;
    w->g = g;
    w->settled = !s->on_device;
    lutra_status status = LUTRA_OK;
    int e = g->api->use(g);
    if (!e && !s->block)
        e = g->api->take(g, lutra_cuda_matrix_bytes(gpu, s), &w->own);
    void *block = s->block ? s->block : w->own;
    if (e)
        status = lu_gpu_fail(g, e, "taking memory for a matrix", err);
    else if (s->on_device)
        status = pack(w, s, block, s->stream, err);
    else
        status = pack_from_host(w, s, block, err);
    if (status != LUTRA_OK) {
        lutra_cuda_matrix_close(w);
        return status;
    }
    *out = w;
    return LUTRA_OK;
}

static lutra_status scales_to_f16(const lutra_qmatrix *q, int64_t count, uint16_t *to,
                                  lutra_err *err)
{
    for (int64_t i = 0; i < count; i++) {
        const float v = q->format.scale_dtype == LUTRA_F32
                            ? ((const float *)q->scales)[i]
                            : lu_bf16_to_f32(((const uint16_t *)q->scales)[i]);
        to[i] = lu_f32_to_f16(v);
        if (!isfinite(lu_f16_to_f32(to[i])))
            return lu_fail(err, LUTRA_E_ARG,
                           "scale %lld is %g, more than fp16 holds: encode with :f16 scales",
                           (long long)i, (double)v);
    }
    return LUTRA_OK;
}

lutra_status lutra_cuda_matrix_from(lutra_cuda *gpu, const lutra_qmatrix *q, lutra_dtype act,
                                    lutra_cuda_matrix **out, lutra_err *err)
{
    lutra_cuda_source s;
    lutra_cuda_source_init(&s);
    if (q->tables && q->format.table_rows && q->format.table_rows < q->n)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "a table for every %lld rows, the GPU multiplies with one per matrix: learn "
                       "it without ':rowsN'",
                       (long long)q->format.table_rows);
    s.n = q->n;
    s.k = q->k;
    s.bits = q->format.bits;
    s.group_size = q->format.group_size;
    s.table = q->tables ? q->tables : q->format.table;
    s.codes = q->codes;
    s.zeros = q->zeros;
    s.act = act;
    if (q->format.scale_dtype == LUTRA_F16) {
        s.scales = q->scales;
        return lutra_cuda_matrix_open(gpu, &s, out, err);
    }
    LU_TRY(check_sizes(&s, err));
    const int64_t count = s.n * (s.k / group_of(&s));
    uint16_t *scales = lu_calloc((size_t)count, sizeof *scales);
    if (!scales)
        return lu_fail_nomem(err, (size_t)count * sizeof *scales);
    s.scales = scales;
    lutra_status status = scales_to_f16(q, count, scales, err);
    if (status == LUTRA_OK)
        status = lutra_cuda_matrix_open(gpu, &s, out, err);
    lu_free(scales);
    return status;
}

void lutra_cuda_matrix_close(lutra_cuda_matrix *w)
{
    if (!w)
        return;
    if (w->own) {
        w->g->api->use(w->g);
        w->g->api->give(w->g, w->own);
    }
    lu_free(w);
}

lutra_status lutra_cuda_multiply(lutra_cuda_matrix *w, int64_t m, const void *x, int64_t ldx,
                                 void *y, int64_t ldy, const void *bias, void *stream,
                                 lutra_err *err)
{
    lu_gpu *g = w->g;
    if (m < 0 || m >= MOST)
        return lu_fail(err, LUTRA_E_ARG, "%lld rows of x, expected 0 to 2^30 - 1", (long long)m);
    if (m == 0)
        return LUTRA_OK;
    if (!x || !y)
        return lu_fail(err, LUTRA_E_ARG, "no %s", x ? "y" : "x");
    if (m > 1 && (ldx < w->lut.k || ldy < w->lut.n))
        return lu_fail(err, LUTRA_E_ARG, "rows of %s are %lld apart, expected at least %lld",
                       ldx < w->lut.k ? "x" : "y", (long long)(ldx < w->lut.k ? ldx : ldy),
                       (long long)(ldx < w->lut.k ? w->lut.k : w->lut.n));
    const lu_cuda_lut_call call = {.m = m,
                                   .x = x,
                                   .ldx = ldx,
                                   .y = y,
                                   .ldy = ldy,
                                   .bias = bias,
                                   .overlap = w->settled,
                                   .stream = stream,
                                   .scratch = stream == w->gpu->stream ? w->gpu->scratch : NULL};
    LU_GPU_TRY(g, g->api->use(g), "choosing the GPU", err);
    LU_GPU_TRY(g, g->api->lut_matmul(&g->chip, &w->lut, &call), "a product", err);
    w->settled = true;
    return LUTRA_OK;
}
