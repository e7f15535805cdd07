/* gpu_decode.c - steps that choose their next tokens on the GPU (lu_forward_steps_* of forward.h).

   A step is one recorded pass: embed the ids that the step before left on the GPU, walk, sample,
   leave the new ids. What changes from step to step, positions and random numbers, goes up ahead of
   it and the ids come down behind it through a ring of page-locked slots, so that the host can
   queue a step before it knows the ids of the last.

       slot 0: send ▸ pass ▸ fetch ▸ mark   slot 1: send ▸ pass ▸ fetch ▸ mark   ...              */
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "model/gpu_step.h"

/* What goes up for a step of n sequences: uniform [n], position [n]. */
#define SLOT_BYTES(n) ((size_t)(n) * (sizeof(double) + sizeof(int32_t)))

struct lu_gpu_decode {
    int64_t n;
    lutra_sampling sampling;
    int64_t position; /* largest, of the next step */
    uint8_t *block;   /* GPU */
    double *uniform;  /* [n], then positions */
    int32_t *ids, *sequence;
    uint32_t *seen; /* NULL without a penalty */
    uint8_t *scratch;
    uint8_t *host; /* page-locked: LU_STEPS_AHEAD slots of SLOT_BYTES, then of ids */
    void *mark[LU_STEPS_AHEAD];
    int queued, taken;      /* steps since begin */
    int64_t *host_position; /* [n] of the next step */
    double (*draw)(void *user, int64_t sequence);
    void *user;
    lu_gpu_graphs graphs;
};

static size_t seen_words(const lu_gpu_forward *f)
{
    return ((size_t)f->model->config.vocab_size + 31) / 32;
}

static int32_t *slot_ids(const lu_gpu_decode *d, int slot)
{
    return (int32_t *)(void *)(d->host + LU_STEPS_AHEAD * SLOT_BYTES(d->n)) + slot * d->n;
}

void lu_gpu_decode_close(lu_gpu_forward *f)
{
    lu_gpu_decode *d = f->decode;
    if (!d)
        return;
    lu_gpu_graphs_drop(f, &d->graphs);
    for (int i = 0; i < LU_STEPS_AHEAD; i++)
        f->gpu->api->mark_close(f->gpu, d->mark[i]);
    f->gpu->api->give(f->gpu, d->block);
    f->gpu->api->give_host(f->gpu, d->host);
    lu_free(d->host_position);
    lu_free(d);
    f->decode = NULL;
}

static lutra_status take_memory(lu_gpu_forward *f, lu_gpu_decode *d, lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    const size_t n = (size_t)d->n, seen = n * seen_words(f) * sizeof(uint32_t);
    const size_t ids = (n * 2 * sizeof(int32_t) + 255) / 256 * 256,
                 slot = (SLOT_BYTES(n) + 255) / 256 * 256;
    const size_t scratch = gpu->api->sample_scratch(d->n, f->model->config.vocab_size);
    d->host_position = lu_array(n, sizeof *d->host_position);
    if (!d->host_position)
        return lu_fail_nomem(err, n * sizeof *d->host_position);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, slot + ids + scratch + 256 + seen, (void **)&d->block),
               "memory for steps", err);
    d->uniform = (double *)(void *)d->block;
    d->ids = (int32_t *)(void *)(d->block + slot);
    d->sequence = d->ids + n;
    d->scratch = d->block + slot + ids;
    d->seen = (uint32_t *)(void *)(d->scratch + (scratch + 255) / 256 * 256);
    LU_GPU_TRY(gpu,
               gpu->api->take_host(gpu, LU_STEPS_AHEAD * (SLOT_BYTES(n) + n * sizeof(int32_t)),
                                   (void **)&d->host),
               "page-locked memory", err);
    for (int i = 0; i < LU_STEPS_AHEAD; i++)
        LU_GPU_TRY(gpu, gpu->api->mark_open(gpu, &d->mark[i]), "steps", err);
    return LUTRA_OK;
}

/* The one that is there if it was for as many sequences and the same choice, else a new one. */
static lutra_status find_decode(lu_gpu_forward *f, const lu_steps *s, lutra_err *err)
{
    lu_gpu_decode *d = f->decode;
    const lutra_sampling *want = &s->sampling;
    if (d && d->n == s->n && d->sampling.temperature == want->temperature &&
        d->sampling.top_k == want->top_k && d->sampling.top_p == want->top_p &&
        d->sampling.min_p == want->min_p &&
        d->sampling.repetition_penalty == want->repetition_penalty)
        return LUTRA_OK;
    lu_gpu_decode_close(f);
    d = f->decode = lu_calloc(1, sizeof *d);
    if (!d)
        return lu_fail_nomem(err, sizeof *d);
    d->n = s->n;
    d->sampling = *want;
    d->graphs.generation = f->g->generation;
    const lutra_status status = take_memory(f, d, err);
    if (status != LUTRA_OK)
        lu_gpu_decode_close(f);
    return status;
}

/* Bits of the tokens that each sequence holds. */
static lutra_status put_seen(lu_gpu_forward *f, const lu_steps *s, lutra_err *err)
{
    const size_t words = seen_words(f), bytes = (size_t)s->n * words * sizeof(uint32_t);
    uint32_t *bits = lu_calloc((size_t)s->n * words, sizeof *bits);
    if (!bits)
        return lu_fail_nomem(err, bytes);
    for (int64_t i = 0; i < s->n; i++) {
        for (int64_t t = 0; t < s->n_held[i]; t++)
            bits[(size_t)i * words + (size_t)s->held[i][t] / 32] |= 1u << (s->held[i][t] % 32);
        bits[(size_t)i * words + (size_t)s->ids[i] / 32] |= 1u << (s->ids[i] % 32);
    }
    const int error = f->gpu->api->upload(f->gpu, f->decode->seen, bits, bytes);
    lu_free(bits);
    LU_GPU_TRY(f->gpu, error, "steps", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_steps_begin(lu_gpu_forward *f, const lu_steps *s, lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    LU_GPU_TRY(gpu, gpu->api->use(gpu), "steps", err);
    if (s->n > f->float_rows)
        return lu_fail(err, LUTRA_E_LIMIT, "%lld sequences decode together, at most %lld can",
                       (long long)s->n, (long long)f->float_rows);
    LU_TRY(find_decode(f, s, err));
    lu_gpu_decode *d = f->decode;
    d->draw = s->draw;
    d->user = s->user;
    d->queued = d->taken = 0;
    d->position = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const lu_segment *segment = &s->segments[i];
        f->host_meta[i] = s->ids[i];
        f->host_meta[s->n + i] = (int32_t)i;
        d->host_position[i] = segment->pos;
        if (segment->pos > d->position)
            d->position = segment->pos;
    }
    LU_TRY(lu_gpu_pool_grow(f->model, err));
    LU_TRY(lu_gpu_put_table(f, s->segments, s->n, err));
    LU_GPU_TRY(gpu,
               gpu->api->upload(gpu, d->ids, f->host_meta, (size_t)(2 * s->n) * sizeof *d->ids),
               "steps", err);
    return s->sampling.repetition_penalty == 1.0f ? LUTRA_OK : put_seen(f, s, err);
}

/* The recorded part of a step. */
static lutra_status step(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err)
{
    lu_gpu_decode *d = f->decode;
    lu_gpu *gpu = f->gpu;
    const lu_model_config *c = &f->model->config;
    LU_TRY(lu_gpu_walk(f, p, err));
    LU_TRY(lu_gpu_head(f, 0, d->n, err));
    LU_GPU_TRY(gpu,
               gpu->api->logits(d->n, c->vocab_size, f->logits, c->final_softcap, f->g->bf16,
                                f->float_logits, gpu->stream),
               "logits", err);
    const lu_cuda_sample_args a = {
        .n = d->n,
        .vocab = c->vocab_size,
        .logits = f->float_logits,
        .seen = d->sampling.repetition_penalty == 1.0f ? NULL : d->seen,
        .temperature = d->sampling.temperature,
        .top_p = d->sampling.top_p,
        .min_p = d->sampling.min_p,
        .repetition_penalty = d->sampling.repetition_penalty,
        .top_k = d->sampling.top_k,
        .uniform = d->uniform,
        .ids = d->ids,
        .scratch = d->scratch,
        .stream = gpu->stream,
    };
    LU_GPU_TRY(gpu, gpu->api->sample(&a), "choosing a token", err);
    return LUTRA_OK;
}

/* Fills a slot with what the step needs; its last use was taken, so nothing reads it any more. */
static lutra_status send_slot(lu_gpu_forward *f, int slot, lutra_err *err)
{
    lu_gpu_decode *d = f->decode;
    uint8_t *host = d->host + (size_t)slot * SLOT_BYTES(d->n);
    for (int64_t i = 0; i < d->n; i++) {
        const double u = d->sampling.temperature > 0.0f ? d->draw(d->user, i) : 0.0;
        const int32_t position = (int32_t)d->host_position[i]++;
        memcpy(host + (size_t)i * sizeof u, &u, sizeof u);
        memcpy(host + (size_t)d->n * sizeof u + (size_t)i * sizeof position, &position,
               sizeof position);
    }
    LU_GPU_TRY(f->gpu, f->gpu->api->send(f->gpu, d->uniform, host, SLOT_BYTES(d->n)), "a step",
               err);
    return LUTRA_OK;
}

lutra_status lu_gpu_steps_queue(lu_gpu_forward *f, lutra_err *err)
{
    lu_gpu_decode *d = f->decode;
    lu_gpu *gpu = f->gpu;
    const int slot = d->queued % LU_STEPS_AHEAD;
    LU_TRY(lu_check_cancel(f->model->ctx, err));
    const lu_gpu_pass p = {.ids = d->ids,
                           .rows = {.n = d->n,
                                    .sequence = d->sequence,
                                    .position = (const int32_t *)(const void *)(d->uniform + d->n)},
                           .single = true,
                           .bound = lu_gpu_bound(f, d->position)};
    LU_TRY(lu_gpu_prepare(f, &p, err));
    LU_TRY(send_slot(f, slot, err));
    LU_TRY(lu_gpu_replay(f, &d->graphs, &p, step, err));
    LU_GPU_TRY(gpu, gpu->api->fetch(gpu, slot_ids(d, slot), d->ids, (size_t)d->n * sizeof *d->ids),
               "a step", err);
    LU_GPU_TRY(gpu, gpu->api->mark(gpu, d->mark[slot]), "a step", err);
    d->queued++;
    d->position++;
    return LUTRA_OK;
}

lutra_status lu_gpu_steps_take(lu_gpu_forward *f, int32_t *ids, lutra_err *err)
{
    lu_gpu_decode *d = f->decode;
    const int slot = d->taken % LU_STEPS_AHEAD;
    LU_GPU_TRY(f->gpu, f->gpu->api->wait(f->gpu, d->mark[slot]), "a step", err);
    memcpy(ids, slot_ids(d, slot), (size_t)d->n * sizeof *ids);
    d->taken++;
    return LUTRA_OK;
}

void lu_gpu_steps_end(lu_gpu_forward *f)
{
    f->gpu->api->sync(f->gpu);
    f->decode->queued = f->decode->taken = 0;
}
