/* gpu_encoder.c - see gpu_encoder.h. The host's two blocks of a slot have the layout of the GPU's,
   so that each way is one copy. Inputs: run after run. Outputs of a run: energies, scales, codes,
   zeros. */
#include "calib/gpu_encoder.h"

#include <string.h>

#define ALIGN ((size_t)256)

static size_t aligned(size_t bytes) { return (bytes + ALIGN - 1) / ALIGN * ALIGN; }

/* What the arrays of n rows take. */
typedef struct {
    size_t energies, scales, codes, zeros;
} sizes;

static sizes sizes_of(const lutra_format *f, int64_t n, int64_t k)
{
    const size_t rows = (size_t)n, groups = rows * (size_t)lutra_format_groups(f, k);
    return (sizes){.energies = rows * 2 * sizeof(double),
                   .scales = groups * lutra_dtype_bytes(f->scale_dtype),
                   .codes = rows * lutra_format_row_bytes(f, k),
                   .zeros = f->zero_point ? groups : 0};
}

size_t lu_gpu_slot_in_bytes(lutra_dtype t, int64_t n, int64_t k)
{
    return aligned((size_t)n * (size_t)k * lutra_dtype_bytes(t));
}

size_t lu_gpu_slot_out_bytes(const lutra_format *f, int64_t n, int64_t k)
{
    const sizes s = sizes_of(f, n, k);
    return aligned(s.energies) + aligned(s.scales) + aligned(s.codes) + aligned(s.zeros);
}

lutra_status lu_gpu_slot_open(lu_gpu *g, size_t in_bytes, size_t out_bytes, lu_gpu_slot *s,
                              lutra_err *err)
{
    const lu_gpu_api *api = g->api;
    *s = (lu_gpu_slot){.gpu = g, .in_room = in_bytes, .out_room = out_bytes};
    LU_GPU_TRY(g, api->take_host(g, in_bytes, (void **)&s->host_in), "page-locked memory", err);
    LU_GPU_TRY(g, api->take_host(g, out_bytes, (void **)&s->host_out), "page-locked memory", err);
    LU_GPU_TRY(g, api->take(g, in_bytes, (void **)&s->in), "memory for weights", err);
    LU_GPU_TRY(g, api->take(g, out_bytes, (void **)&s->out), "memory for codes", err);
    LU_GPU_TRY(g, api->mark_open(g, &s->mark), "compressing", err);
    return LUTRA_OK;
}

void lu_gpu_slot_close(lu_gpu_slot *s)
{
    lu_gpu *g = s->gpu;
    if (!g)
        return;
    g->api->give(g, s->in);
    g->api->give(g, s->out);
    g->api->give_host(g, s->host_in);
    g->api->give_host(g, s->host_out);
    g->api->mark_close(g, s->mark);
    s->gpu = NULL;
}

void lu_gpu_slot_clear(lu_gpu_slot *s)
{
    s->n_runs = 0;
    s->in_used = s->out_used = 0;
}

bool lu_gpu_slot_add(lu_gpu_slot *s, const lu_encoder *e, lutra_dtype t, int64_t n, int64_t k,
                     bool follows)
{
    const bool grows = follows && s->n_runs > 0;
    lu_gpu_run *last = grows ? &s->runs[s->n_runs - 1] : NULL;
    const int64_t had = grows ? last->n : 0;
    const size_t in = s->in_used - (grows ? lu_gpu_slot_in_bytes(t, had, k) : 0) +
                      lu_gpu_slot_in_bytes(t, had + n, k);
    const size_t out = s->out_used - (grows ? lu_gpu_slot_out_bytes(&e->format, had, k) : 0) +
                       lu_gpu_slot_out_bytes(&e->format, had + n, k);
    if (in > s->in_room || out > s->out_room || (!grows && s->n_runs == LU_GPU_SLOT_RUNS))
        return false;
    if (grows)
        last->n += n;
    else
        s->runs[s->n_runs++] = (lu_gpu_run){.encoder = e, .dtype = t, .n = n, .k = k};
    s->in_used = in;
    s->out_used = out;
    return true;
}

void lu_gpu_slot_lay_out(lu_gpu_slot *s)
{
    uint8_t *in = s->host_in, *out = s->host_out;
    for (int i = 0; i < s->n_runs; i++) {
        lu_gpu_run *r = &s->runs[i];
        const sizes of = sizes_of(&r->encoder->format, r->n, r->k);
        r->w = in;
        in += lu_gpu_slot_in_bytes(r->dtype, r->n, r->k);
        r->energies = (double *)(void *)out;
        r->scales = out + aligned(of.energies);
        r->codes = r->scales + aligned(of.scales);
        r->zeros = of.zeros ? r->codes + aligned(of.codes) : NULL;
        out += lu_gpu_slot_out_bytes(&r->encoder->format, r->n, r->k);
    }
}

/* Where the GPU has what the host has at p. */
static uint8_t *on_gpu(const lu_gpu_slot *s, const void *p)
{
    return p ? s->out + ((const uint8_t *)p - s->host_out) : NULL;
}

lutra_status lu_gpu_slot_queue(lu_gpu_slot *s, lutra_err *err)
{
    lu_gpu *g = s->gpu;
    if (s->n_runs == 0)
        return LUTRA_OK;
    LU_GPU_TRY(g, g->api->send(g, s->in, s->host_in, s->in_used), "sending weights", err);
    for (int i = 0; i < s->n_runs; i++) {
        const lu_gpu_run *r = &s->runs[i];
        const lu_cuda_encode_args a = {.encoder = r->encoder,
                                       .n = r->n,
                                       .k = r->k,
                                       .w = s->in + (r->w - s->host_in),
                                       .dtype = r->dtype,
                                       .codes = on_gpu(s, r->codes),
                                       .scales = on_gpu(s, r->scales),
                                       .zeros = on_gpu(s, r->zeros),
                                       .energies = (double *)(void *)on_gpu(s, r->energies),
                                       .stream = g->stream};
        LU_GPU_TRY(g, g->api->encode(&a), "rounding", err);
    }
    LU_GPU_TRY(g, g->api->fetch(g, s->host_out, s->out, s->out_used), "fetching codes", err);
    LU_GPU_TRY(g, g->api->mark(g, s->mark), "rounding", err);
    s->queued = true;
    return LUTRA_OK;
}

lutra_status lu_gpu_slot_wait(lu_gpu_slot *s, lutra_err *err)
{
    if (!s->queued)
        return LUTRA_OK;
    s->queued = false;
    LU_GPU_TRY(s->gpu, s->gpu->api->wait(s->gpu, s->mark), "rounding", err);
    return LUTRA_OK;
}
