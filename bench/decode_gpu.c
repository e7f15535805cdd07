/* decode_gpu.c - a whole model on a GPU: seconds of loading, tokens/s of prefill and of decoding
   batches, peak memory, and the share of the roof that bytes and multiply-adds set.

   Roofs are measured in the same run: memory by copying a block far larger than the caches (read
   and written bytes a second), arithmetic by a square dense product of cuBLASLt. A step of decoding
   must read the weights once and each sequence's keys and values; its floor is that over the first
   roof or its multiply-adds over the second, whichever is longer. Attention's work counts in both.
 */
#include "decode_gpu.h"

#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "lutra/engine.h"
#include "model/forward.h"
#include "model/gpu_model.h"

#define SQUARE 8192
#define COPY_BYTES ((size_t)2 << 30)
#define REPEATS 5
#define WARM_STEPS 4

typedef struct {
    const bench_gpu_options *o;
    lutra_ctx *ctx;
    lutra_model *model;
    lu_gpu *gpu;
    size_t free_before;
    double load_seconds;
    double copy_rate;  /* bytes/s, read + written */
    double dense_rate; /* flop/s */
} bench;

static lutra_err err;

static double macs_per_token(const lutra_model *m)
{
    const lu_model_config *c = &m->config;
    const double attention =
        (double)c->hidden_size * (double)c->head_dim * (double)(2 * c->n_heads + 2 * c->n_kv_heads);
    const double mlp =
        3.0 * (double)c->hidden_size * (double)c->intermediate_size * (double)c->n_active;
    return (double)c->n_layers * (attention + mlp);
}

static double head_macs(const lutra_model *m)
{
    return (double)m->config.hidden_size * (double)m->config.vocab_size;
}

/* Of one token that sees n positions: scores and sums, all layers. */
static double attention_macs(const lutra_model *m, double n)
{
    const lu_model_config *c = &m->config;
    return 2.0 * n * (double)(c->n_layers * c->n_heads * c->head_dim);
}

static double kv_bytes(const lutra_model *m, double positions)
{
    return positions * (double)lu_gpu_page_bytes(m) / LU_GPU_PAGE_TOKENS;
}

/* --- roofs ------------------------------------------------------------------------------------ */

static lutra_status measure_copy(bench *b)
{
    lu_gpu *g = b->gpu;
    uint8_t *block;
    double best = 1e30;
    LU_GPU_TRY(g, g->api->take(g, 2 * COPY_BYTES, (void **)&block), "the copy", &err);
    for (int i = 0; i < REPEATS; i++) {
        LU_GPU_TRY(g, g->api->sync(g), "the copy", &err);
        const double start = lu_seconds();
        for (int k = 0; k < 4; k++)
            LU_GPU_TRY(g, g->api->copy(g, block + COPY_BYTES, block, COPY_BYTES), "the copy", &err);
        LU_GPU_TRY(g, g->api->sync(g), "the copy", &err);
        const double took = (lu_seconds() - start) / 4;
        best = took < best ? took : best;
    }
    g->api->give(g, block);
    b->copy_rate = 2 * (double)COPY_BYTES / best;
    return LUTRA_OK;
}

static lutra_status measure_dense(bench *b)
{
    lu_gpu *g = b->gpu;
    const size_t bytes = (size_t)SQUARE * SQUARE * 2;
    uint16_t *block;
    double best = 1e30;
    uint16_t *host = lu_array((size_t)SQUARE * SQUARE, sizeof *host);
    LU_GPU_TRY(g, g->api->take(g, 3 * bytes, (void **)&block), "the square product", &err);
    uint32_t x = 1;
    for (size_t i = 0; host && i < bytes / 2; i++) {
        x = x * 1664525u + 1013904223u; /* random numbers near 1: zeros would run faster */
        host[i] = (uint16_t)((b->o->dtype == LUTRA_F16 ? 0x3c00 : 0x3f80) ^ (x >> 16 & 0x807f));
    }
    if (!host)
        return lu_fail_nomem(&err, bytes);
    LU_GPU_TRY(g, g->api->upload(g, block, host, bytes), "the square product", &err);
    LU_GPU_TRY(g, g->api->upload(g, block + bytes / 2, host, bytes), "the square product", &err);
    const lu_gpu_dense a = {.m = SQUARE,
                            .n = SQUARE,
                            .k = SQUARE,
                            .x = block,
                            .ldx = SQUARE,
                            .w = block + bytes / 2,
                            .y = block + bytes,
                            .ldy = SQUARE,
                            .bf16 = b->o->dtype == LUTRA_BF16};
    for (int i = 0; i < REPEATS; i++) {
        LU_GPU_TRY(g, g->api->sync(g), "the square product", &err);
        const double start = lu_seconds();
        for (int k = 0; k < 8; k++)
            LU_GPU_TRY(g, g->api->dense(g, &a), "the square product", &err);
        LU_GPU_TRY(g, g->api->sync(g), "the square product", &err);
        const double took = (lu_seconds() - start) / 8;
        best = took < best ? took : best;
    }
    lu_free(host);
    g->api->give(g, block);
    b->dense_rate = 2.0 * SQUARE * SQUARE * SQUARE / best;
    return LUTRA_OK;
}

/* --- the model -------------------------------------------------------------------------------- */

static lutra_status load(bench *b)
{
    lutra_model_options o;
    lu_gpu *probe;
    int ordinal;
    lutra_model_options_init(&o);
    o.device = b->o->device;
    o.dtype = b->o->dtype;
    o.act_quant = b->o->act_quant;
    LU_TRY(lu_gpu_parse(o.device, &ordinal, &err));
    LU_TRY(lu_gpu_open(NULL, ordinal, &probe, &err)); /* the driver's start is not loading */
    LU_GPU_TRY(probe, probe->api->free_memory(probe, &b->free_before), "asking for memory", &err);
    const double start = lu_seconds();
    const lutra_status status = lutra_model_open(b->ctx, b->o->folder, &o, &b->model, &err);
    b->load_seconds = lu_seconds() - start;
    lu_gpu_close(probe);
    if (status == LUTRA_OK)
        b->gpu = b->model->gpu->gpu;
    return status;
}

static double used_gb(bench *b)
{
    size_t left = 0;
    b->gpu->api->free_memory(b->gpu, &left);
    return (double)(b->free_before - left) / 1e9;
}

static void report(bench *b, const char *what, int64_t batch, int64_t position, double rate,
                   double seconds, double floor)
{
    lutra_model_info info;
    lutra_model_get_info(b->model, &info);
    const char *format = info.format[0] ? info.format : "dense",
               *dtype = lutra_dtype_name(b->o->dtype);
    if (b->o->json)
        printf("{\"bench\":\"%s\",\"gpu\":\"%s\",\"format\":\"%s\",\"dtype\":\"%s\",\"batch\":%lld,"
               "\"context\":%lld,\"tok_s\":%.1f,\"us\":%.1f,\"floor_us\":%.1f,\"roof_share\":%.3f,"
               "\"used_gb\":%.3f}\n",
               what, b->gpu->info.name, format, dtype, (long long)batch, (long long)position, rate,
               seconds * 1e6, floor * 1e6, floor / seconds, used_gb(b));
    else
        printf("| %s | %s | %s | %lld | %lld | %.0f | %.0f | %.0f | %.0f %% | %.2f |\n", what,
               format, dtype, (long long)batch, (long long)position, rate, seconds * 1e6,
               floor * 1e6, 100 * floor / seconds, used_gb(b));
    fflush(stdout);
}

static double longer(double a, double b) { return a > b ? a : b; }

static lutra_status prefill(bench *b, int64_t n)
{
    lu_forward *f;
    lu_kv kv;
    double best = 1e30;
    int32_t *ids = lu_array((size_t)n, sizeof *ids);
    float *logits = lu_array((size_t)b->model->config.vocab_size, sizeof *logits);
    if (!ids || !logits)
        return lu_fail_nomem(&err, (size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % b->model->config.vocab_size);
    LU_TRY(lu_kv_open(b->model, n, &kv, &err));
    LU_TRY(lu_forward_open(b->model, n, n, &f, &err));
    const lu_segment segment = {.kv = &kv, .ids = ids, .n = n};
    for (int i = 0; i < REPEATS; i++) {
        const double start = lu_seconds();
        LU_TRY(lu_forward_run(f, &segment, 1, &err));
        LU_TRY(lu_forward_logits(f, n - 1, 1, logits, &err));
        const double took = lu_seconds() - start;
        best = took < best ? took : best;
    }
    const double rows = (double)n,
                 flops = 2 * (rows * macs_per_token(b->model) +
                              rows * attention_macs(b->model, rows / 2) + head_macs(b->model));
    report(b, "prefill", 1, n, rows / best, best, flops / b->dense_rate);
    lu_forward_close(f);
    lu_kv_close(&kv);
    lu_free(ids);
    lu_free(logits);
    return LUTRA_OK;
}

/* Sequences that stand at `context`; what lies before is zeros, which take as long as anything. */
static lutra_status decode(bench *b, int64_t batch)
{
    enum { MOST = 64 };
    const int64_t steps = b->o->tokens, room = b->o->context + steps + WARM_STEPS;
    lu_forward *f;
    lu_kv kv[MOST];
    lu_segment segments[MOST];
    int32_t ids[MOST];
    for (int64_t i = 0; i < batch; i++) {
        LU_TRY(lu_kv_open(b->model, room, &kv[i], &err));
        segments[i] = (lu_segment){.kv = &kv[i], .pos = b->o->context};
        ids[i] = (int32_t)(i % b->model->config.vocab_size);
    }
    LU_TRY(lu_forward_open(b->model, batch, room, &f, &err));
    lu_steps s = {.n = batch, .segments = segments, .ids = ids};
    lutra_sampling_init(&s.sampling);
    LU_TRY(lu_forward_steps_begin(f, &s, &err));
    double start = 0;
    for (int64_t queued = 0, taken = 0; taken < steps + WARM_STEPS; taken++) {
        for (; queued < steps + WARM_STEPS && queued - taken < LU_STEPS_AHEAD; queued++)
            LU_TRY(lu_forward_steps_queue(f, &err));
        LU_TRY(lu_forward_steps_take(f, ids, &err));
        if (taken == WARM_STEPS - 1)
            start = lu_seconds();
    }
    const double step = (lu_seconds() - start) / (double)steps, rows = (double)batch;
    lu_forward_steps_end(f);
    const double position = (double)(b->o->context + WARM_STEPS) + (double)steps / 2;
    const double bytes = (double)b->model->weight_bytes + rows * kv_bytes(b->model, position);
    const double macs = rows * (macs_per_token(b->model) + head_macs(b->model) +
                                attention_macs(b->model, position));
    report(b, "decode", batch, b->o->context, rows / step, step,
           longer(bytes / b->copy_rate, 2 * macs / b->dense_rate));
    lu_forward_close(f);
    for (int64_t i = 0; i < batch; i++)
        lu_kv_close(&kv[i]);
    return LUTRA_OK;
}

static lutra_status run(bench *b)
{
    static const int64_t batches[] = {1, 4, 16, 64};
    LU_TRY(lutra_open(NULL, &b->ctx, &err));
    LU_TRY(load(b));
    LU_TRY(measure_copy(b));
    LU_TRY(measure_dense(b));
    const double weights = (double)b->model->gpu->arena_bytes;
    if (b->o->json)
        printf(
            "{\"bench\":\"load\",\"gpu\":\"%s\",\"seconds\":%.3f,\"weights_gb\":%.3f,\"gb_s\":%.3f,"
            "\"copy_gb_s\":%.1f,\"dense_tflop_s\":%.1f}\n",
            b->gpu->info.name, b->load_seconds, weights / 1e9, weights / b->load_seconds / 1e9,
            b->copy_rate / 1e9, b->dense_rate / 1e12);
    else
        printf("%s: copy %.0f GB/s, dense %.0f TFLOP/s; loading %.2f GB took %.2f s (%.2f GB/s)\n\n"
               "| | format | type | batch | context | tokens/s | us | floor, us | of the roof | GB "
               "used |\n|---|---|---|---|---|---|---|---|---|---|\n",
               b->gpu->info.name, b->copy_rate / 1e9, b->dense_rate / 1e12, weights / 1e9,
               b->load_seconds, weights / b->load_seconds / 1e9);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        LU_TRY(decode(b, batches[i]));
    return prefill(b, b->o->prompt);
}

int bench_decode_on_gpu(const bench_gpu_options *o)
{
    bench b = {.o = o};
    const lutra_status status = run(&b);
    if (status != LUTRA_OK)
        fprintf(stderr, "error: %s\n", err.msg);
    else
        lutra_model_close(b.model);
    if (status == LUTRA_OK)
        lutra_close(b.ctx);
    return status == LUTRA_OK ? 0 : 1;
}
