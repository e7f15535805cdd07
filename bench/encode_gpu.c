/* encode_gpu.c - see encode_gpu.h. A figure is the least time of a few repeats of many calls that
   are queued without waiting, so that starting them is not in it. */
#include "encode_gpu.h"

#include <math.h>
#include <stdio.h>

#include "base/context.h"
#include "base/mem.h"
#include "kern/gpu.h"
#include "tensor/convert.h"

enum { ROWS = 8192, COLUMNS = 4096, CALLS = 16, REPEATS = 5 };

static const struct {
    const char *spec;
    lutra_range range;
} formats[] = {
    {"nf4:g64", LUTRA_RANGE_MINMAX},        {"nf4:g128", LUTRA_RANGE_MINMAX},
    {"int4:g128:asym", LUTRA_RANGE_MINMAX}, {"int8:channel", LUTRA_RANGE_MINMAX},
    {"nf4:g64", LUTRA_RANGE_MSE},           {"lm2:g64", LUTRA_RANGE_MSE},
    {"int3:g128:asym", LUTRA_RANGE_MSE},    {"nf4:channel", LUTRA_RANGE_MSE},
};

typedef struct {
    lu_gpu *gpu;
    uint16_t *w;
    uint8_t *out;
    size_t out_bytes;
} matrix;

static lutra_status fill(matrix *m, lutra_err *err)
{
    lu_gpu *g = m->gpu;
    const size_t bytes = (size_t)ROWS * COLUMNS * sizeof(uint16_t);
    uint16_t *host = lu_alloc(bytes);
    uint32_t seed = 1;
    if (!host)
        return lu_fail_nomem(err, bytes);
    for (size_t i = 0; i < (size_t)ROWS * COLUMNS; i++) {
        float v = 0;
        for (int j = 0; j < 4; j++)
            v += (float)((seed = seed * 1664525u + 1013904223u) >> 8) / 16777216.0f - 0.5f;
        host[i] = lu_f32_to_f16(0.05f * v);
    }
    int error = g->api->take(g, bytes, (void **)&m->w);
    if (!error)
        error = g->api->upload(g, m->w, host, bytes);
    if (!error)
        error = g->api->sync(g);
    lu_free(host);
    m->out_bytes = 2 * bytes;
    if (!error)
        error = g->api->take(g, m->out_bytes, (void **)&m->out);
    return error ? lu_gpu_fail(g, error, "a matrix", err) : LUTRA_OK;
}

/* Seconds of one call. */
static lutra_status time_format(const matrix *m, const lutra_format *f, lutra_range range,
                                double *seconds, lutra_err *err)
{
    lu_gpu *g = m->gpu;
    lu_encoder e;
    lu_encoder_init(&e, f, LU_LEVEL_REF);
    e.range = range;
    uint8_t *at = m->out;
    lu_cuda_encode_args a = {.encoder = &e, .n = ROWS, .k = COLUMNS, .w = m->w};
    a.dtype = LUTRA_F16;
    a.stream = g->stream;
    a.energies = (double *)(void *)at;
    a.scales = at += (size_t)ROWS * 2 * sizeof(double);
    a.codes = at += (size_t)ROWS * (size_t)lutra_format_groups(f, COLUMNS) * sizeof(float);
    a.zeros = f->zero_point ? at + (size_t)ROWS * lutra_format_row_bytes(f, COLUMNS) : NULL;
    *seconds = INFINITY;
    for (int i = 0; i <= REPEATS; i++) { /* the first is not counted */
        const double start = lu_seconds();
        for (int c = 0; c < CALLS; c++)
            LU_GPU_TRY(g, g->api->encode(&a), "encoding", err);
        LU_GPU_TRY(g, g->api->sync(g), "encoding", err);
        const double took = (lu_seconds() - start) / CALLS;
        *seconds = i > 0 && took < *seconds ? took : *seconds;
    }
    return LUTRA_OK;
}

static lutra_status time_formats(const matrix *m, bool json, lutra_err *err)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        lutra_format f;
        double seconds;
        const char *range = formats[i].range == LUTRA_RANGE_MSE ? "mse" : "minmax";
        LU_TRY(lutra_format_parse(formats[i].spec, &f, err));
        LU_TRY(time_format(m, &f, formats[i].range, &seconds, err));
        const double rate = (double)ROWS * COLUMNS * sizeof(uint16_t) / seconds * 1e-9;
        if (json)
            printf("{\"bench\":\"encode\",\"gpu\":\"%s\",\"format\":\"%s\",\"range\":\"%s\","
                   "\"us\":%.1f,\"gb_s\":%.1f}\n",
                   m->gpu->info.name, formats[i].spec, range, seconds * 1e6, rate);
        else
            printf("encode %-16s %-6s %8.1f us %7.1f GB/s of fp16 on the %s\n", formats[i].spec,
                   range, seconds * 1e6, rate, m->gpu->info.name);
        fflush(stdout);
    }
    return LUTRA_OK;
}

lutra_status bench_encode_on_gpu(const char *device, bool json, lutra_err *err)
{
    matrix m = {NULL, NULL, NULL, 0};
    int ordinal;
    LU_TRY(lu_gpu_parse(device, &ordinal, err));
    if (ordinal < 0)
        return LUTRA_OK;
    LU_TRY(lu_gpu_open(NULL, ordinal, &m.gpu, err));
    lutra_status status = fill(&m, err);
    if (status == LUTRA_OK)
        status = time_formats(&m, json, err);
    m.gpu->api->give(m.gpu, m.w);
    m.gpu->api->give(m.gpu, m.out);
    lu_gpu_close(m.gpu);
    return status;
}
