/* forward.c - the walk through the layers, and the scratch memory of a pass. Between two branches
   one loop over rows does everything that is local to a row: the norm of the branch's output (where
   the class has one), the residual sum, and the norm before the next branch. */
#include "model/forward.h"

#include <inttypes.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "model/gpu_forward.h"
#include "model/step.h"
#include "tensor/convert.h"

/* Elements a thread should find in one chunk of a loop over rows. */
#define ROW_LOOP_WORK 16384
#define ALIGNMENT 64

void lu_for_rows(lu_forward *f, int64_t rows, int64_t cols, lu_task task, void *arg)
{
    const int64_t grain = ROW_LOOP_WORK / cols;
    lu_pool_for(f->model->ctx->pool, rows, grain ? grain : 1, task, arg);
}

void *lu_act_at(const lu_forward *f, void *base, int64_t element)
{
    return (uint8_t *)base + (size_t)element * lutra_dtype_bytes(f->model->act);
}

void lu_store_act(const lu_forward *f, void *dst, int64_t at, const float *src, int64_t n)
{
    if (f->model->act == LUTRA_BF16)
        f->model->ops.f32_to_bf16((uint16_t *)dst + at, src, n);
    else
        memcpy((float *)dst + at, src, (size_t)n * sizeof *src);
}

static void tap_float(lu_forward *f, int64_t layer, const char *site, const float *x, int64_t rows,
                      int64_t cols)
{
    if (f->tap)
        f->tap(f->tap_user, layer, site, x, rows, cols);
}

void lu_tap_act(lu_forward *f, int64_t layer, const char *site, void *act, int64_t rows,
                int64_t cols)
{
    if (f->edit && f->model->act == LUTRA_F32)
        f->edit(f->edit_user, layer, site, act, rows, cols);
    if (!f->tap)
        return;
    if (f->model->act != LUTRA_F32) {
        lu_to_f32(f->model->act, act, rows * cols, f->tap_rows);
        act = f->tap_rows;
    }
    f->tap(f->tap_user, layer, site, act, rows, cols);
}

/* --- loops over rows -------------------------------------------------------------------------- */

void lu_turn_row(lu_forward *f, int64_t row)
{
    const int64_t head_dim = f->model->config.head_dim, half = head_dim / 2;
    for (int k = 0; k < f->n_ropes; k++)
        lu_rope_angles(f->inv_freq[k], head_dim, f->rows[row].pos, f->cosines[k] + row * half,
                       f->sines[k] + row * half);
}

static void embed(const lutra_model *m, int32_t id, float *x)
{
    lu_weight_row(&m->embedding, id, x);
    if (m->config.embed_scale != 1.0f)
        for (int64_t i = 0; i < m->config.hidden_size; i++)
            x[i] *= m->config.embed_scale;
}

void lu_model_embed(const lutra_model *m, const int32_t *ids, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        embed(m, ids[i], out + i * m->config.hidden_size);
}

static void embed_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    lu_forward *f = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const lu_segment *s = &f->segments[f->rows[r].segment];
        embed(f->model, s->ids[f->rows[r].pos - s->pos], f->x + r * f->model->config.hidden_size);
        lu_turn_row(f, r);
    }
}

typedef struct {
    lu_forward *f;
    lu_joint joint;
} join_job;

static void join_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const lu_joint *joint = &((const join_job *)arg)->joint;
    lu_forward *f = ((const join_job *)arg)->f;
    const lu_model_config *c = &f->model->config;
    const lu_ops *ops = &f->model->ops;
    const int64_t cols = c->hidden_size;
    float *tmp = f->row_scratch + worker * cols;
    for (int64_t r = begin; r < end; r++) {
        float *x = f->x + (joint->first + r) * cols;
        const float *branch = f->branch + r * cols;
        if (joint->add && joint->out_norm) {
            ops->rmsnorm(tmp, branch, joint->out_norm, cols, c->eps, c->arch->norm_offset);
            branch = tmp;
        }
        if (joint->add)
            ops->add(x, branch, cols);
        if (joint->in_norm) {
            ops->rmsnorm(tmp, x, joint->in_norm, cols, c->eps, c->arch->norm_offset);
            lu_store_act(f, f->in, r * cols, tmp, cols);
        }
    }
}

void lu_join_rows(lu_forward *f, lu_joint joint, int64_t rows)
{
    join_job job = {f, joint};
    lu_for_rows(f, rows, f->model->config.hidden_size, join_rows, &job);
}

/* --- a pass ----------------------------------------------------------------------------------- */

void lu_place_rows(lu_forward *f, const lu_segment *segments, int64_t n)
{
    f->segments = segments;
    f->n_segments = n;
    f->n_rows = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < segments[i].n; t++)
            f->rows[f->n_rows++] = (lu_row){.segment = i, .pos = segments[i].pos + t};
}

lutra_status lu_forward_run(lu_forward *f, const lu_segment *segments, int64_t n_segments,
                            lutra_err *err)
{
    const lutra_model *m = f->model;
    const int64_t n_layers = m->config.n_layers, cols = m->config.hidden_size;
    if (f->gpu)
        return lu_gpu_forward_run(f->gpu, segments, n_segments, err);
    lu_place_rows(f, segments, n_segments);
    lu_for_rows(f, f->n_rows, cols, embed_rows, f);
    tap_float(f, -1, "embedding", f->x, f->n_rows, cols);
    lu_join_rows(f, (lu_joint){.in_norm = m->layers[0].norm[LU_NORM_ATTN_IN]}, f->n_rows);
    for (int64_t i = 0; i < n_layers; i++) {
        const lu_layer *layer = &m->layers[i];
        LU_TRY(lu_check_cancel(m->ctx, err));
        lu_attention_branch(f, i, LU_STAGE_MLP);
        lu_join_rows(f,
                     (lu_joint){.add = true,
                                .out_norm = layer->norm[LU_NORM_ATTN_OUT],
                                .in_norm = layer->norm[LU_NORM_MLP_IN]},
                     f->n_rows);
        lu_mlp_branch(f, i, LU_STAGE_END);
        const float *next = i + 1 < n_layers ? m->layers[i + 1].norm[LU_NORM_ATTN_IN] : NULL;
        lu_join_rows(
            f, (lu_joint){.add = true, .out_norm = layer->norm[LU_NORM_MLP_OUT], .in_norm = next},
            f->n_rows);
        tap_float(f, i, "layer_out", f->x, f->n_rows, cols);
    }
    return LUTRA_OK;
}

typedef struct {
    const lutra_model *model;
    float *logits;
} cap_job;

/* Indices are single logits of all rows. */
static void cap_logits(void *arg, int64_t begin, int64_t end, int worker)
{
    const cap_job *job = arg;
    (void)worker;
    job->model->ops.softcap(job->logits + begin, job->model->config.final_softcap, end - begin);
}

lutra_status lu_forward_logits(lu_forward *f, int64_t row, int64_t n, float *out, lutra_err *err)
{
    lutra_model *m = f->model;
    const int64_t cols = m->config.hidden_size;
    if (f->gpu)
        return lu_gpu_forward_logits(f->gpu, row, n, out, err);
    lu_join_rows(f, (lu_joint){.in_norm = m->final_norm, .first = row}, n);
    lu_tap_act(f, -1, "final_norm", f->in, n, cols);
    lu_tap_act(f, -1, m->lm_head.site, f->in, n, cols);
    lu_product p = {.linear = &m->lm_head.linear, .x = f->in, .rows = n, .y = out};
    lu_run_products(f, &p, 1);
    cap_job job = {.model = m, .logits = out};
    if (m->config.final_softcap > 0.0f)
        lu_for_rows(f, n * m->config.vocab_size, 1, cap_logits, &job);
    return LUTRA_OK;
}

typedef struct {
    const lutra_model *model;
    const float *logits;
    const int32_t *targets;
    double *losses;
} loss_job;

static void loss_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const loss_job *job = arg;
    const int64_t vocab = job->model->config.vocab_size;
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        const float *row = job->logits + r * vocab;
        job->losses[r] =
            (double)job->model->ops.logsumexp(row, vocab) - (double)row[job->targets[r]];
    }
}

lutra_status lu_forward_losses(lu_forward *f, int64_t row, int64_t n, const int32_t *targets,
                               float *logits, double *losses, lutra_err *err)
{
    if (f->gpu)
        return lu_gpu_forward_losses(f->gpu, row, n, targets, losses, err);
    LU_TRY(lu_forward_logits(f, row, n, logits, err));
    loss_job job = {.model = f->model, .logits = logits, .targets = targets, .losses = losses};
    lu_pool_for(f->model->ctx->pool, n, 1, loss_rows, &job);
    return LUTRA_OK;
}

bool lu_forward_steps_possible(const lu_forward *f) { return f->gpu != NULL; }

lutra_status lu_forward_steps_begin(lu_forward *f, const lu_steps *steps, lutra_err *err)
{
    if (!f->gpu)
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "steps ahead are for models on a GPU");
    return lu_gpu_steps_begin(f->gpu, steps, err);
}

lutra_status lu_forward_steps_queue(lu_forward *f, lutra_err *err)
{
    return lu_gpu_steps_queue(f->gpu, err);
}

lutra_status lu_forward_steps_take(lu_forward *f, int32_t *ids, lutra_err *err)
{
    return lu_gpu_steps_take(f->gpu, ids, err);
}

void lu_forward_steps_end(lu_forward *f) { lu_gpu_steps_end(f->gpu); }

/* --- memory ----------------------------------------------------------------------------------- */

typedef struct {
    void **slot;
    size_t count, size;
} buffer;

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

static int64_t widest_input(const lu_model_config *c)
{
    const int64_t q_cols = c->n_heads * c->head_dim;
    int64_t cols = c->hidden_size > c->intermediate_size ? c->hidden_size : c->intermediate_size;
    return cols > q_cols ? cols : q_cols;
}

/* Bytes of kernel scratch one thread may need at once. */
static lutra_status widest_scratch(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    lu_forward *f = arg;
    (void)layer, (void)err;
    f->scratch_bytes =
        max_size(f->scratch_bytes, lu_linear_scratch(&module->linear, f->max_expert_rows));
    return LUTRA_OK;
}

/* Carves all buffers out of one aligned block. */
static lutra_status take_arena(lu_forward *f, const buffer *buffers, size_t n, lutra_err *err)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        if (!lu_mul_size(buffers[i].count, buffers[i].size, &bytes) ||
            !lu_add_size(bytes, ALIGNMENT, &bytes) ||
            !lu_add_size(total, bytes / ALIGNMENT * ALIGNMENT, &total))
            return lu_fail(err, LUTRA_E_LIMIT,
                           "a pass of %" PRId64 " tokens does not fit the address space",
                           f->max_rows);
    }
    uint8_t *p = f->arena = lu_alloc_aligned(total);
    if (!p)
        return lu_fail_nomem(err, total);
    for (size_t i = 0; i < n; i++) {
        *buffers[i].slot = p;
        p += (buffers[i].count * buffers[i].size + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    }
    return LUTRA_OK;
}

#define BUFFER(field, n)                                  \
    {                                                     \
        (void **)&f->field, (size_t)(n), sizeof *f->field \
    }
#define ACT_BUFFER(field, n)                                     \
    {                                                            \
        &f->field, (size_t)(n), lutra_dtype_bytes(f->model->act) \
    }

/* Bytes of all rounded inputs of one batch of products: at worst q, k, v (gate and up of every
   expert) each round their common input in their own way. */
static size_t rounded_bytes(const lu_forward *f)
{
    const lu_model_config *c = &f->model->config;
    if (!f->model->rounds_inputs)
        return 0;
    const int64_t q_cols = c->n_heads * c->head_dim, h = c->hidden_size;
    const int64_t attention = f->max_rows * (3 * h > q_cols ? 3 * h : q_cols);
    const int64_t wide = 2 * h > c->intermediate_size ? 2 * h : c->intermediate_size;
    const int64_t mlp = f->max_expert_rows * wide;
    const int64_t records = 3 * f->max_expert_rows + 2 * c->n_experts + 3;
    return (size_t)(attention > mlp ? attention : mlp) * sizeof(float) +
           (size_t)records * 2 * ALIGNMENT;
}

static lutra_status allocate(lu_forward *f, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const int64_t rows = f->max_rows, expert_rows = f->max_expert_rows, h = c->hidden_size;
    const int64_t q_cols = c->n_heads * c->head_dim, kv_cols = c->n_kv_heads * c->head_dim;
    const int64_t half = c->head_dim / 2, moe = f->model->layers[0].router.weight.n ? 1 : 0;
    const int64_t threads = lu_pool_size(f->model->ctx->pool), rounds = f->model->rounds_inputs;
    const buffer buffers[] = {
        BUFFER(rows, rows),
        BUFFER(x, rows * h),
        ACT_BUFFER(in, rows * (h > q_cols ? h : q_cols)),
        BUFFER(q, rows * q_cols),
        BUFFER(k, rows * kv_cols),
        BUFFER(v, rows * kv_cols),
        BUFFER(attended, rows * q_cols),
        ACT_BUFFER(mid, expert_rows * c->intermediate_size),
        BUFFER(gate, expert_rows * c->intermediate_size),
        BUFFER(up, expert_rows * c->intermediate_size),
        BUFFER(branch, rows * h),
        BUFFER(inv_freq[LU_ATTN_FULL], half),
        BUFFER(inv_freq[LU_ATTN_SLIDING], half),
        BUFFER(cosines[LU_ATTN_FULL], rows * half),
        BUFFER(cosines[LU_ATTN_SLIDING], rows * half),
        BUFFER(sines[LU_ATTN_FULL], rows * half),
        BUFFER(sines[LU_ATTN_SLIDING], rows * half),
        BUFFER(products, 2 * c->n_experts + 3),
        BUFFER(router, moe * rows * c->n_experts),
        BUFFER(chosen, moe * expert_rows),
        BUFFER(place, moe * expert_rows),
        BUFFER(share, moe * expert_rows),
        BUFFER(first_row, c->n_experts + 1),
        ACT_BUFFER(gathered, moe * expert_rows * h),
        BUFFER(expert_out, moe * expert_rows * h),
        BUFFER(row_scratch, threads * h),
        BUFFER(rounded, rounded_bytes(f)),
        BUFFER(round_rows, rounds * threads * f->max_columns),
        BUFFER(round_codes, rounds * threads * f->max_columns),
        {(void **)&f->scratch, (size_t)threads, f->scratch_bytes},
    };
    return take_arena(f, buffers, sizeof buffers / sizeof buffers[0], err);
}

/* Both kinds of layers mostly rotate alike: then one set of angles serves both. */
static void prepare_ropes(lu_forward *f)
{
    const lu_model_config *c = &f->model->config;
    const size_t bytes = (size_t)(c->head_dim / 2) * sizeof(float);
    for (int k = 0; k < LU_N_ATTN_KINDS; k++)
        lu_rope_frequencies(&c->rope[k], c->head_dim, f->inv_freq[k]);
    f->n_ropes = LU_N_ATTN_KINDS;
    if (memcmp(f->inv_freq[LU_ATTN_FULL], f->inv_freq[LU_ATTN_SLIDING], bytes) == 0) {
        f->n_ropes = 1;
        f->cosines[LU_ATTN_SLIDING] = f->cosines[LU_ATTN_FULL];
        f->sines[LU_ATTN_SLIDING] = f->sines[LU_ATTN_FULL];
    }
}

lutra_status lu_forward_open(lutra_model *m, int64_t max_rows, int64_t max_context,
                             lu_forward **out, lutra_err *err)
{
    lu_forward *f = lu_calloc(1, sizeof *f);
    if (!f)
        return lu_fail_nomem(err, sizeof *f);
    f->model = m;
    f->max_rows = max_rows;
    f->max_context = max_context;
    f->max_expert_rows = max_rows * m->config.n_active;
    f->max_columns = widest_input(&m->config);
    if (m->gpu) {
        const lutra_status opened =
            lu_gpu_forward_open(m, max_rows, max_context, &f->gpu, err);
        if (opened != LUTRA_OK) {
            lu_forward_close(f);
            return opened;
        }
        *out = f;
        return LUTRA_OK;
    }
    lu_model_each_module(m, widest_scratch, f, NULL);
    f->scratch_bytes = max_size(f->scratch_bytes,
                                lu_attend_scratch(max_context, m->config.head_dim) * sizeof(float));
    f->scratch_bytes =
        (f->scratch_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; /* each thread's part aligned */
    const lutra_status status = allocate(f, err);
    if (status != LUTRA_OK) {
        lu_forward_close(f);
        return status;
    }
    prepare_ropes(f);
    *out = f;
    return LUTRA_OK;
}

void lu_forward_close(lu_forward *f)
{
    if (!f)
        return;
    lu_gpu_forward_close(f->gpu);
    lu_free_aligned(f->arena);
    lu_free(f->tap_rows);
    lu_free(f);
}

int64_t lu_forward_max_rows(const lu_forward *f) { return f->max_rows; }

lutra_status lu_forward_set_tap(lu_forward *f, lu_tap tap, void *user, lutra_err *err)
{
    if (tap && f->gpu)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "what flows through a model can be seen on the CPU only");
    const int64_t cols = f->max_columns;
    if (tap && !f->tap_rows && f->model->act != LUTRA_F32) {
        f->tap_rows = lu_array((size_t)(f->max_expert_rows * cols), sizeof *f->tap_rows);
        if (!f->tap_rows)
            return lu_fail_nomem(err, (size_t)(f->max_expert_rows * cols) * sizeof *f->tap_rows);
    }
    f->tap = tap;
    f->tap_user = user;
    return LUTRA_OK;
}

lutra_status lu_forward_set_edit(lu_forward *f, lu_row_edit edit, void *user, lutra_err *err)
{
    if (edit && f->model->act != LUTRA_F32)
        return lu_fail(err, LUTRA_E_ARG, "inputs of linears can be edited in float32 models only");
    f->edit = edit;
    f->edit_user = user;
    return LUTRA_OK;
}
