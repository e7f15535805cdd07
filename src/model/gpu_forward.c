/* gpu_forward.c - memory of passes on a GPU, passes of given tokens, their logits and losses;
   recorded passes. */
#include "model/gpu_forward.h"

#include <inttypes.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "model/gpu_step.h"

#define ALIGNMENT 256
#define LOGIT_BYTES (256 << 20) /* of logits at a time, roughly */
#define FLOAT_ROWS 64           /* rows whose logits are read or sampled at a time */
#define TABLE_ROOM (1 << 20)    /* entries: pages of all sequences of a pass, at most */
#define SMALLEST_BOUND 256
#define SUM_BYTES (32 << 20) /* of the sums of integer products at a time */

/* --- recorded passes -------------------------------------------------------------------------- */

void lu_gpu_graphs_drop(lu_gpu_forward *f, lu_gpu_graphs *graphs)
{
    for (int i = 0; i < LU_GPU_GRAPHS; i++)
        f->gpu->api->graph_close(f->gpu, graphs->of[i].graph);
    *graphs = (lu_gpu_graphs){.generation = f->g->generation};
}

/* Leaves nothing recording, whatever happens. */
static lutra_status record(lu_gpu_forward *f, const lu_gpu_pass *p, lu_gpu_work work, void **graph,
                           lutra_err *err)
{
    void *recorded = NULL;
    LU_GPU_TRY(f->gpu, f->gpu->api->capture_begin(f->gpu), "recording a pass", err);
    const lutra_status status = work(f, p, err);
    const int error = f->gpu->api->capture_end(f->gpu, &recorded);
    if (status != LUTRA_OK) {
        f->gpu->api->graph_close(f->gpu, recorded);
        return status;
    }
    LU_GPU_TRY(f->gpu, error, "recording a pass", err);
    *graph = recorded;
    return LUTRA_OK;
}

lutra_status lu_gpu_replay(lu_gpu_forward *f, lu_gpu_graphs *graphs, const lu_gpu_pass *p,
                           lu_gpu_work work, lutra_err *err)
{
    if (!f->gpu->api->graphs || f->moe || !p->single)
        return work(f, p, err);
    if (graphs->generation != f->g->generation)
        lu_gpu_graphs_drop(f, graphs);
    lu_gpu_graph *found = NULL;
    for (int i = 0; i < LU_GPU_GRAPHS; i++)
        if (graphs->of[i].rows == p->rows.n && graphs->of[i].bound == p->bound)
            found = &graphs->of[i];
    if (!found) {
        found = &graphs->of[graphs->next];
        graphs->next = (graphs->next + 1) % LU_GPU_GRAPHS;
        f->gpu->api->graph_close(f->gpu, found->graph);
        *found = (lu_gpu_graph){.rows = p->rows.n, .bound = p->bound};
        return work(f, p, err);
    }
    if (!found->graph)
        LU_TRY(record(f, p, work, &found->graph, err));
    LU_GPU_TRY(f->gpu, f->gpu->api->launch(f->gpu, found->graph), "a recorded pass", err);
    return LUTRA_OK;
}

int64_t lu_gpu_bound(const lu_gpu_forward *f, int64_t position)
{
    int64_t bound = SMALLEST_BOUND;
    while (bound <= position)
        bound *= 2;
    return bound < f->max_context ? bound : f->max_context;
}

/* --- a pass ----------------------------------------------------------------------------------- */

lutra_status lu_gpu_put_table(lu_gpu_forward *f, const lu_segment *segments, int64_t n,
                              lutra_err *err)
{
    const int64_t entries = n * f->max_pages;
    if (entries > f->table_room)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "%" PRId64 " sequences of up to %" PRId64
                       " tokens are too many for one pass on a GPU",
                       n, f->max_context);
    bool same = f->table_used >= entries;
    for (int64_t s = 0; s < n; s++) {
        const lu_gpu_pages *pages = segments[s].kv->pages;
        const int64_t used = pages->n < f->max_pages ? pages->n : f->max_pages;
        int32_t *row = f->host_table + s * f->max_pages;
        same = same && memcmp(row, pages->page, (size_t)used * sizeof *row) == 0;
        if (!same)
            memcpy(row, pages->page, (size_t)used * sizeof *row);
    }
    if (same)
        return LUTRA_OK;
    f->table_used = 0;
    LU_GPU_TRY(
        f->gpu,
        f->gpu->api->upload(f->gpu, f->table, f->host_table, (size_t)entries * sizeof *f->table),
        "the page table", err);
    f->table_used = entries;
    return LUTRA_OK;
}

lutra_status lu_gpu_prepare(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    lu_gpu *gpu = f->gpu;
    LU_TRY(lu_gpu_pool_grow(f->model, err));
    if (!p->single)
        return LUTRA_OK;
    const size_t bytes = gpu->api->attend_scratch(p->rows.n, c->n_heads, c->head_dim, p->bound);
    if (bytes <= f->scratch_bytes)
        return LUTRA_OK;
    gpu->api->give(gpu, f->scratch);
    f->scratch = NULL;
    f->scratch_bytes = 0;
    f->g->generation++; /* recorded passes hold the old address */
    LU_GPU_TRY(gpu, gpu->api->take(gpu, bytes, (void **)&f->scratch), "memory for attention", err);
    LU_GPU_TRY(gpu, gpu->api->zero(gpu, f->scratch, bytes), "memory for attention", err);
    f->scratch_bytes = bytes;
    return LUTRA_OK;
}

/* Where each row stands, into host_meta and starts. Returns the rows. */
static int64_t place_rows(lu_gpu_forward *f, const lu_segment *segments, int64_t n, int64_t *last)
{
    int64_t rows = 0, r = 0;
    for (int64_t s = 0; s < n; s++)
        rows += segments[s].n;
    *last = 0;
    for (int64_t s = 0; s < n; s++) {
        f->starts[s] = (int32_t)r;
        for (int64_t t = 0; t < segments[s].n; t++, r++) {
            f->host_meta[r] = segments[s].ids[t];
            f->host_meta[rows + r] = (int32_t)s;
            f->host_meta[2 * rows + r] = (int32_t)(segments[s].pos + t);
        }
        if (segments[s].pos + segments[s].n - 1 > *last)
            *last = segments[s].pos + segments[s].n - 1;
    }
    f->starts[n] = (int32_t)rows;
    return rows;
}

lutra_status lu_gpu_forward_run(lu_gpu_forward *f, const lu_segment *segments, int64_t n_segments,
                                lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    int64_t last;
    LU_GPU_TRY(gpu, gpu->api->use(gpu), "a pass", err);
    const int64_t n = place_rows(f, segments, n_segments, &last);
    const lu_gpu_pass p = {.ids = f->meta,
                           .rows = {.n = n, .sequence = f->meta + n, .position = f->meta + 2 * n},
                           .single = n == n_segments && n <= LU_GPU_DECODE_ROWS,
                           .bound = lu_gpu_bound(f, last),
                           .starts = f->starts,
                           .n_segments = n_segments};
    LU_TRY(lu_check_cancel(f->model->ctx, err));
    LU_TRY(lu_gpu_prepare(f, &p, err));
    LU_TRY(lu_gpu_put_table(f, segments, n_segments, err));
    LU_GPU_TRY(gpu, gpu->api->upload(gpu, f->meta, f->host_meta, (size_t)(3 * n) * sizeof *f->meta),
               "a pass", err);
    return lu_gpu_replay(f, &f->graphs, &p, lu_gpu_walk, err);
}

lutra_status lu_gpu_forward_logits(lu_gpu_forward *f, int64_t row, int64_t n, float *out,
                                   lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    const lu_model_config *c = &f->model->config;
    LU_GPU_TRY(gpu, gpu->api->use(gpu), "logits", err);
    for (int64_t done = 0; done < n; done += f->float_rows) {
        const int64_t rows = n - done < f->float_rows ? n - done : f->float_rows;
        LU_TRY(lu_gpu_head(f, row + done, rows, err));
        LU_GPU_TRY(gpu,
                   gpu->api->logits(rows, c->vocab_size, f->logits, c->final_softcap, f->g->bf16,
                                    f->float_logits, gpu->stream),
                   "logits", err);
        LU_GPU_TRY(gpu,
                   gpu->api->download(gpu, out + done * c->vocab_size, f->float_logits,
                                      (size_t)(rows * c->vocab_size) * sizeof *out),
                   "logits", err);
    }
    return LUTRA_OK;
}

lutra_status lu_gpu_forward_losses(lu_gpu_forward *f, int64_t row, int64_t n,
                                   const int32_t *targets, double *losses, lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    const lu_model_config *c = &f->model->config;
    LU_GPU_TRY(gpu, gpu->api->use(gpu), "losses", err);
    for (int64_t done = 0; done < n; done += f->logit_rows) {
        const int64_t rows = n - done < f->logit_rows ? n - done : f->logit_rows;
        LU_GPU_TRY(
            gpu, gpu->api->upload(gpu, f->targets, targets + done, (size_t)rows * sizeof *targets),
            "losses", err);
        LU_TRY(lu_gpu_head(f, row + done, rows, err));
        LU_GPU_TRY(gpu,
                   gpu->api->nll(rows, c->vocab_size, f->logits, c->final_softcap, f->g->bf16,
                                 f->targets, f->nll, gpu->stream),
                   "losses", err);
        LU_GPU_TRY(gpu, gpu->api->download(gpu, f->host_nll, f->nll, (size_t)rows * sizeof *f->nll),
                   "losses", err);
        for (int64_t i = 0; i < rows; i++)
            losses[done + i] = (double)f->host_nll[i];
    }
    return LUTRA_OK;
}

/* --- memory ----------------------------------------------------------------------------------- */

typedef struct {
    void **slot;
    size_t count, size;
} buffer;

#define BUFFER(field, n)                                  \
    {                                                     \
        (void **)&f->field, (size_t)(n), sizeof *f->field \
    }

static lutra_status take_block(lu_gpu_forward *f, const buffer *buffers, size_t n, lutra_err *err)
{
    lu_gpu *gpu = f->gpu;
    size_t total = 0, there;
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        if (!lu_mul_size(buffers[i].count, buffers[i].size, &bytes) ||
            !lu_add_size(bytes, ALIGNMENT - 1, &bytes) ||
            !lu_add_size(total, bytes / ALIGNMENT * ALIGNMENT, &total))
            return lu_fail(err, LUTRA_E_LIMIT,
                           "a pass of %" PRId64 " tokens does not fit the address space",
                           f->max_rows);
    }
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    if (total > there)
        return lu_fail(err, LUTRA_E_NOMEM,
                       "%s:%d: passes of %" PRId64 " tokens in a context of %" PRId64
                       " need %.2f GB of buffers, %.2f GB are free: take a smaller context",
                       gpu->api->name, gpu->ordinal, f->max_rows, f->max_context,
                       (double)total / 1e9, (double)there / 1e9);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, total, (void **)&f->block), "memory for passes", err);
    uint8_t *p = f->block;
    for (size_t i = 0; i < n; i++) {
        *buffers[i].slot = p;
        p += (buffers[i].count * buffers[i].size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return LUTRA_OK;
}

/* Integer sums at a time: few enough for the L2 cache to keep them until they are scaled, and a row of
   the widest part at least. */
static int64_t n_sums(const lu_gpu_model *g, int64_t rows)
{
    const int64_t least = g->integer_rows, all = rows * least;
    const int64_t most = SUM_BYTES / (int64_t)sizeof(int32_t);
    return all < most ? all : most > least ? most : least;
}

static lutra_status allocate(lu_gpu_forward *f, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const int64_t rows = f->max_rows, expert_rows = rows * c->n_active, h = c->hidden_size;
    const int64_t q_cols = c->n_heads * c->head_dim, kv_cols = c->n_kv_heads * c->head_dim;
    const int64_t angles = f->max_context * (c->head_dim / 2), moe = f->moe ? 1 : 0;
    const int64_t most = rows > f->logit_rows ? rows : f->logit_rows,
                  round_rows = f->g->round_columns ? most : 0;
    f->rounded.n_sums = n_sums(f->g, most);
    const buffer buffers[] = {
        BUFFER(meta, 3 * rows),
        BUFFER(table, f->table_room),
        BUFFER(x, rows * h),
        BUFFER(in, rows * h),
        BUFFER(qkv, rows * (q_cols + 2 * kv_cols)),
        BUFFER(attended, rows * q_cols),
        BUFFER(branch, rows * h),
        BUFFER(gate_up, expert_rows * 2 * c->intermediate_size),
        BUFFER(mid, expert_rows * c->intermediate_size),
        BUFFER(router, moe * rows * c->n_experts),
        BUFFER(gathered, moe * expert_rows * h),
        BUFFER(expert_out, moe * expert_rows * h),
        BUFFER(source, moe * expert_rows),
        BUFFER(place, moe * expert_rows),
        BUFFER(first, c->n_experts + 1),
        BUFFER(share, moe * expert_rows),
        BUFFER(cosines[LU_ATTN_FULL], angles),
        BUFFER(sines[LU_ATTN_FULL], angles),
        BUFFER(cosines[LU_ATTN_SLIDING], angles),
        BUFFER(sines[LU_ATTN_SLIDING], angles),
        BUFFER(logits, f->logit_rows * c->vocab_size),
        BUFFER(float_logits, f->float_rows * c->vocab_size),
        BUFFER(targets, f->logit_rows),
        BUFFER(nll, f->logit_rows),
        BUFFER(rounded.x, round_rows * f->g->round_columns),
        BUFFER(rounded.scale, round_rows),
        BUFFER(rounded.zero, round_rows),
        BUFFER(rounded.sums, f->rounded.n_sums),
    };
    f->host_meta = lu_array((size_t)(3 * rows), sizeof *f->host_meta);
    f->host_table = lu_calloc((size_t)f->table_room, sizeof *f->host_table);
    f->starts = lu_array((size_t)(rows + 1), sizeof *f->starts);
    f->host_first = lu_array((size_t)(c->n_experts + 1), sizeof *f->host_first);
    f->host_nll = lu_array((size_t)f->logit_rows, sizeof *f->host_nll);
    if (!f->host_meta || !f->host_table || !f->starts || !f->host_first || !f->host_nll)
        return lu_fail_nomem(err, (size_t)f->table_room * sizeof *f->host_table);
    return take_block(f, buffers, sizeof buffers / sizeof buffers[0], err);
}

/* --- angles ----------------------------------------------------------------------------------- */

typedef struct {
    const float *inv_freq;
    int64_t head_dim;
    float *cosines, *sines;
} angle_job;

static void fill_angles(void *arg, int64_t begin, int64_t end, int worker)
{
    const angle_job *j = arg;
    const int64_t half = j->head_dim / 2;
    (void)worker;
    for (int64_t p = begin; p < end; p++)
        lu_rope_angles(j->inv_freq, j->head_dim, p, j->cosines + p * half, j->sines + p * half);
}

/* Computed by the CPU's code, so that both rotate by the same angles. */
static lutra_status put_angles(lu_gpu_forward *f, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const size_t half = (size_t)(c->head_dim / 2), n = (size_t)f->max_context * half;
    float *host = lu_array(2 * n + half, sizeof *host);
    lutra_status status = host ? LUTRA_OK : lu_fail_nomem(err, (2 * n + half) * sizeof *host);
    for (int kind = 0; status == LUTRA_OK && kind < LU_N_ATTN_KINDS; kind++) {
        angle_job job = {
            .inv_freq = host + 2 * n, .head_dim = c->head_dim, .cosines = host, .sines = host + n};
        lu_rope_frequencies(&c->rope[kind], c->head_dim, host + 2 * n);
        lu_pool_for(f->model->ctx->pool, f->max_context, 256, fill_angles, &job);
        int error = f->gpu->api->upload(f->gpu, f->cosines[kind], host, n * sizeof *host);
        if (!error)
            error = f->gpu->api->upload(f->gpu, f->sines[kind], host + n, n * sizeof *host);
        if (!error)
            error = f->gpu->api->sync(f->gpu); /* host is filled again */
        if (error)
            status = lu_gpu_fail(f->gpu, error, "the angles", err);
    }
    lu_free(host);
    return status;
}

/* The first products and kernels load libraries and code, tenths of a second: here, where a session
   opens, and not in its first answer. */
static lutra_status warm_up(lu_gpu_forward *f, lutra_err *err)
{
    LU_GPU_TRY(f->gpu, f->gpu->api->zero(f->gpu, f->x, (size_t)f->model->config.hidden_size * 4),
               "a first product", err);
    LU_TRY(lu_gpu_head(f, 0, 1, err));
    LU_GPU_TRY(f->gpu, f->gpu->api->sync(f->gpu), "a first product", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_forward_open(lutra_model *m, int64_t max_rows, int64_t max_context,
                                 lu_gpu_forward **out, lutra_err *err)
{
    return lu_gpu_forward_open_on(m, m->gpu, max_rows, max_context, false, out, err);
}

lutra_status lu_gpu_forward_open_on(lutra_model *m, lu_gpu_model *g, int64_t max_rows,
                                    int64_t max_context, bool layers_only, lu_gpu_forward **out,
                                    lutra_err *err)
{
    const int64_t vocab = m->config.vocab_size;
    lu_gpu_forward *f = lu_calloc(1, sizeof *f);
    if (!f)
        return lu_fail_nomem(err, sizeof *f);
    f->model = m;
    f->g = g;
    f->gpu = g->gpu;
    f->max_rows = max_rows;
    f->max_context = max_context;
    f->max_pages = (max_context - 1) / LU_GPU_PAGE_TOKENS + 1;
    f->table_room = f->max_pages < TABLE_ROOM / max_rows ? f->max_pages * max_rows : TABLE_ROOM;
    if (f->table_room < f->max_pages)
        f->table_room = f->max_pages;
    f->moe = m->layers[0].router.weight.n != 0;
    f->logit_rows = LOGIT_BYTES / (2 * vocab);
    if (f->logit_rows > max_rows)
        f->logit_rows = max_rows;
    if (f->logit_rows < 1)
        f->logit_rows = 1;
    if (layers_only)
        f->logit_rows = 0;
    f->float_rows = f->logit_rows < FLOAT_ROWS ? f->logit_rows : FLOAT_ROWS;
    lutra_status status = LUTRA_OK;
    const int error = f->gpu->api->use(f->gpu);
    if (error)
        status = lu_gpu_fail(f->gpu, error, "opening a pass", err);
    if (status == LUTRA_OK)
        status = allocate(f, err);
    if (status == LUTRA_OK)
        status = put_angles(f, err);
    if (status == LUTRA_OK && !layers_only)
        status = warm_up(f, err);
    if (status != LUTRA_OK) {
        lu_gpu_forward_close(f);
        return status;
    }
    *out = f;
    return LUTRA_OK;
}

void lu_gpu_forward_close(lu_gpu_forward *f)
{
    if (!f)
        return;
    f->gpu->api->use(f->gpu);
    lu_gpu_decode_close(f);
    lu_gpu_graphs_drop(f, &f->graphs);
    f->gpu->api->give(f->gpu, f->scratch);
    f->gpu->api->give(f->gpu, f->block);
    lu_free(f->host_meta);
    lu_free(f->host_table);
    lu_free(f->starts);
    lu_free(f->host_first);
    lu_free(f->host_nll);
    lu_free(f);
}
