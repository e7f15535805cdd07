/* self_attention.c - the attention branch of a block: q, k, v, rotation, KV cache, attention, o.
   Tasks are (segment, KV head, part of its query heads, block of queries); which task computes a
   query does not change its result, so the cut may follow the number of threads. */
#include "base/context.h"
#include "model/step.h"

/* (query, head) rows of one task: what the kernel works on at a time. */
#define TASK_ROWS 64
/* Below this many multiply-adds a layer's attention runs inline. */
#define INLINE_WORK 32768

typedef struct {
    lu_forward *f;
    int64_t layer;
    int64_t heads_per_task, tasks_per_group; /* a group: the query heads of one KV head */
    int64_t queries_per_task;
} attention_job;

static void *scratch_of(const lu_forward *f, int worker)
{
    return f->scratch + (size_t)worker * f->scratch_bytes;
}

static void rotate_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const attention_job *job = arg;
    const lu_forward *f = job->f;
    const lu_model_config *c = &f->model->config;
    const int64_t q_cols = c->n_heads * c->head_dim, kv_cols = c->n_kv_heads * c->head_dim;
    const int64_t half = c->head_dim / 2;
    const int kind = c->kind[job->layer];
    for (int64_t r = begin; r < end; r++) {
        const float *cosines = f->cosines[kind] + r * half, *sines = f->sines[kind] + r * half;
        f->model->ops.rope(f->q + r * q_cols, cosines, sines, c->n_heads, c->head_dim);
        f->model->ops.rope(f->k + r * kv_cols, cosines, sines, c->n_kv_heads, c->head_dim);
        lu_kv_put(f->segments[f->rows[r].segment].kv, &f->model->ops, job->layer, f->rows[r].pos,
                  f->k + r * kv_cols, f->v + r * kv_cols, scratch_of(f, worker));
    }
}

/* KIVI groups of keys that the pass completes: indices are groups of all segments in order, times
   heads. */
static void round_groups(void *arg, int64_t begin, int64_t end, int worker)
{
    const attention_job *job = arg;
    const lu_forward *f = job->f;
    const int64_t heads = f->model->config.n_kv_heads;
    int64_t base = 0;
    for (int64_t i = 0; i < f->n_segments && base < end; i++) {
        const lu_segment *s = &f->segments[i];
        const int64_t first = s->pos / LU_KIVI_GROUP;
        const int64_t tasks = ((s->pos + s->n) / LU_KIVI_GROUP - first) * heads;
        for (int64_t t = begin > base ? begin - base : 0; t < tasks && base + t < end; t++)
            lu_kv_round_keys(s->kv, &f->model->ops, job->layer, t % heads, first + t / heads,
                             scratch_of(f, worker));
        base += tasks;
    }
}

static void round_all_groups(attention_job *job)
{
    const lu_forward *f = job->f;
    int64_t groups = 0;
    for (int64_t i = 0; i < f->n_segments; i++) {
        const lu_segment *s = &f->segments[i];
        if (lu_kv_is_kivi(s->kv->kind))
            groups += (s->pos + s->n) / LU_KIVI_GROUP - s->pos / LU_KIVI_GROUP;
    }
    lu_pool_for(f->model->ctx->pool, groups * f->model->config.n_kv_heads, 1, round_groups, job);
}

static int64_t query_blocks(const attention_job *job, const lu_segment *s)
{
    return (s->n + job->queries_per_task - 1) / job->queries_per_task;
}

/* n_q queries from query `first` of segment s (row `row` of the pass), heads of part `part`. */
static void attend_block(const attention_job *job, const lu_segment *s, int64_t row, int64_t first,
                         int64_t part, int worker)
{
    const lu_forward *f = job->f;
    const lu_model_config *c = &f->model->config;
    const int64_t group = c->n_heads / c->n_kv_heads, cols = c->n_heads * c->head_dim;
    const int64_t kv_head = part / job->tasks_per_group;
    const int64_t head0 = kv_head * group + part % job->tasks_per_group * job->heads_per_task;
    const int64_t left = (kv_head + 1) * group - head0;
    const int64_t heads = left < job->heads_per_task ? left : job->heads_per_task;
    const int64_t n_q = s->n - first < job->queries_per_task ? s->n - first : job->queries_per_task;
    const int64_t at = (row + first) * cols + head0 * c->head_dim;
    lu_attend_args a = {
        .q = f->q + at,
        .q_stride = cols,
        .q_head_stride = c->head_dim,
        .n_q = n_q,
        .n_heads = heads,
        .pos = s->pos + first,
        .head_dim = c->head_dim,
        .window = c->kind[job->layer] == LU_ATTN_SLIDING ? c->window : 0,
        .scale = c->query_scale,
        .softcap = c->attn_softcap,
        .out = f->attended + at,
        .out_stride = cols,
        .out_head_stride = c->head_dim,
        .scratch = scratch_of(f, worker),
    };
    lu_kv_attend_args(s->kv, job->layer, kv_head, &a);
    f->model->ops.attend(&a);
    for (int64_t i = 0; i < n_q; i++)
        lu_store_act(f, f->in, at + i * cols, f->attended + at + i * cols, heads * c->head_dim);
}

/* Index = blocks of all segments in order, times parts; the part is the fastest. */
static void attend_tasks(void *arg, int64_t begin, int64_t end, int worker)
{
    const attention_job *job = arg;
    const lu_forward *f = job->f;
    const int64_t parts = f->model->config.n_kv_heads * job->tasks_per_group;
    int64_t base = 0, row = 0;
    for (int64_t i = 0; i < f->n_segments && base < end; i++) {
        const lu_segment *s = &f->segments[i];
        const int64_t tasks = query_blocks(job, s) * parts;
        const int64_t from = begin > base ? begin - base : 0,
                      to = end - base < tasks ? end - base : tasks;
        for (int64_t t = from; t < to; t++)
            attend_block(job, s, row, t / parts * job->queries_per_task, t % parts, worker);
        base += tasks;
        row += s->n;
    }
}

/* Splits the heads of a group only where the KV heads alone would leave threads idle. */
static void cut(attention_job *job)
{
    const lu_forward *f = job->f;
    const lu_model_config *c = &f->model->config;
    const int64_t group = c->n_heads / c->n_kv_heads, threads = lu_pool_size(f->model->ctx->pool);
    job->heads_per_task = group;
    while (job->heads_per_task > 1 && f->n_rows * c->n_heads / job->heads_per_task < 2 * threads)
        job->heads_per_task = (job->heads_per_task + 1) / 2;
    job->tasks_per_group = (group + job->heads_per_task - 1) / job->heads_per_task;
    job->queries_per_task = TASK_ROWS / job->heads_per_task;
    if (job->queries_per_task < 1)
        job->queries_per_task = 1;
}

static void attend_all(attention_job *job)
{
    const lu_forward *f = job->f;
    const lu_model_config *c = &f->model->config;
    int64_t tasks = 0, work = 0;
    cut(job);
    for (int64_t i = 0; i < f->n_segments; i++) {
        const lu_segment *s = &f->segments[i];
        tasks += query_blocks(job, s) * c->n_kv_heads * job->tasks_per_group;
        work += s->n * (s->pos + s->n) * c->n_heads * c->head_dim * 2;
    }
    lu_pool_for(f->model->ctx->pool, tasks, work < INLINE_WORK ? tasks : 1, attend_tasks, job);
}

void lu_attention_branch(lu_forward *f, int64_t layer, lu_stage to)
{
    const lu_model_config *c = &f->model->config;
    lu_module *modules = f->model->layers[layer].attention;
    const int64_t q_cols = c->n_heads * c->head_dim;
    float *const outputs[] = {f->q, f->k, f->v};
    for (int s = LU_SLOT_Q; s <= LU_SLOT_V; s++) {
        lu_tap_act(f, layer, modules[s].site, f->in, f->n_rows, c->hidden_size);
        f->products[s] = (lu_product){
            .linear = &modules[s].linear, .x = f->in, .rows = f->n_rows, .y = outputs[s]};
    }
    if (to == LU_STAGE_QKV)
        return;
    lu_run_products(f, f->products, 3);
    attention_job job = {.f = f, .layer = layer};
    lu_for_rows(f, f->n_rows, q_cols * 2, rotate_rows, &job);
    round_all_groups(&job);
    attend_all(&job);
    lu_tap_act(f, layer, modules[LU_SLOT_O].site, f->in, f->n_rows, q_cols);
    if (to == LU_STAGE_O)
        return;
    f->products[0] = (lu_product){
        .linear = &modules[LU_SLOT_O].linear, .x = f->in, .rows = f->n_rows, .y = f->branch};
    lu_run_products(f, f->products, 1);
}
