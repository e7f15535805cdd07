/* gpu_walk.c - the walk through the layers on a GPU (gpu_step.h), as forward.c, self_attention.c
   and mlp.c do it on the CPU; and through a part of one layer, as layer_pass.c does. */
#include <string.h>

#include "base/context.h"
#include "model/gpu_step.h"

typedef struct {
    const float *out_norm, *in_norm;
    bool add;
} joint;

static lutra_status seam(lu_gpu_forward *f, int64_t row, int64_t n, joint j, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const lu_cuda_seam_args a = {.n = n,
                                 .cols = c->hidden_size,
                                 .x = f->x + row * c->hidden_size,
                                 .branch = j.add ? f->branch : NULL,
                                 .out_norm = j.out_norm,
                                 .in_norm = j.in_norm,
                                 .eps = c->eps,
                                 .norm_offset = c->arch->norm_offset,
                                 .in = j.in_norm ? f->in : NULL,
                                 .bf16 = f->g->bf16,
                                 .stream = f->gpu->stream};
    LU_GPU_TRY(f->gpu, f->gpu->api->seam(&a), "a norm", err);
    return LUTRA_OK;
}

/* Shows the inputs of a linear to whoever watches. */
static lutra_status show(const lu_gpu_pass *p, const lu_module *module, uint16_t *x, int64_t rows,
                         lutra_err *err)
{
    return p->tap ? p->tap(p->tap_user, module->site, x, rows, module->weight.k, err) : LUTRA_OK;
}

static lutra_status embed(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err)
{
    const lutra_model *m = f->model;
    const lu_weight *w = &m->embedding;
    const lu_gpu_embedding *e = &f->g->embedding;
    float table[256];
    memset(table, 0, sizeof table);
    if (e->codes && w->tables)
        memcpy(table, w->tables, sizeof *table << w->bits);
    else if (e->codes)
        memcpy(table, w->table, sizeof *table << w->bits);
    const lu_cuda_embed_args a = {.n = p->rows.n,
                                  .cols = m->config.hidden_size,
                                  .ids = p->ids,
                                  .dense = e->dense,
                                  .codes = e->codes,
                                  .scales = e->scales,
                                  .zeros = e->zeros,
                                  .bits = w->bits,
                                  .group_size = w->group_size ? w->group_size : w->k,
                                  .table = table,
                                  .bf16 = f->g->bf16,
                                  .scale = m->config.embed_scale,
                                  .x = f->x,
                                  .stream = f->gpu->stream};
    LU_GPU_TRY(f->gpu, f->gpu->api->embed(&a), "the embedding", err);
    return LUTRA_OK;
}

/* Rotation, the cache, attention: in one launch where each row is of a sequence of its own. */
static lutra_status attend(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer, int64_t ld,
                           lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const lu_gpu_api *api = f->gpu->api;
    const float *cosines = f->cosines[c->kind[layer]], *sines = f->sines[c->kind[layer]];
    const lu_cuda_kv kv = {.data = f->g->pool.data,
                           .n_pages = f->g->pool.n_pages,
                           .page_tokens = LU_GPU_PAGE_TOKENS,
                           .n_kv_heads = c->n_kv_heads,
                           .head_dim = c->head_dim,
                           .pages = f->table,
                           .max_pages = f->max_pages};
    const lu_cuda_attend_args a = {
        .rows = p->rows,
        .q = f->qkv,
        .ld = ld,
        .n_heads = c->n_heads,
        .kv = kv,
        .layer = p->one_layer ? 0 : layer,
        .window = c->kind[layer] == LU_ATTN_SLIDING ? c->window : 0,
        .scale = c->query_scale,
        .softcap = c->attn_softcap,
        .out = f->attended,
        .bf16 = f->g->bf16,
        .max_position = p->bound,
        .scratch = f->scratch,
        .stream = f->gpu->stream,
    };
    if (p->single) {
        LU_GPU_TRY(f->gpu, api->rope_attend_decode(&a, cosines, sines), "attention", err);
        return LUTRA_OK;
    }
    const lu_cuda_rope_args rope = {.rows = p->rows,
                                    .qkv = f->qkv,
                                    .ld = ld,
                                    .n_heads = c->n_heads,
                                    .cosines = cosines,
                                    .sines = sines,
                                    .kv = kv,
                                    .layer = a.layer,
                                    .bf16 = f->g->bf16,
                                    .stream = f->gpu->stream};
    LU_GPU_TRY(f->gpu, api->rope_store(&rope), "the rotation", err);
    LU_GPU_TRY(f->gpu, api->attend_prefill(&a, p->starts, p->n_segments), "attention", err);
    return LUTRA_OK;
}

static lutra_status attention_branch(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer,
                                     lu_stage to, lutra_err *err)
{
    const lu_gpu_layer *l = &f->g->layers[layer];
    const lu_module *modules = f->model->layers[layer].attention;
    LU_TRY(show(p, &modules[LU_SLOT_Q], f->in, p->rows.n, err));
    if (to == LU_STAGE_QKV)
        return LUTRA_OK;
    LU_TRY(lu_gpu_product(f->g, &f->rounded, &l->qkv, f->in, p->rows.n, f->qkv, err));
    LU_TRY(attend(f, p, layer, l->qkv.n, err));
    LU_TRY(show(p, &modules[LU_SLOT_O], f->attended, p->rows.n, err));
    if (to == LU_STAGE_O)
        return LUTRA_OK;
    return lu_gpu_product(f->g, &f->rounded, &l->o, f->attended, p->rows.n, f->branch, err);
}

/* Rows [first, first + rows) of the buffers, through one expert, up to stage `to`. */
static lutra_status feed_forward(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer,
                                 int64_t expert, uint16_t *in, int64_t first, int64_t rows,
                                 lu_stage to, uint16_t *out, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const lu_gpu_expert *e = &f->g->layers[layer].experts[expert];
    const lu_module *modules = f->model->layers[layer].experts[expert];
    const int64_t cols = c->intermediate_size;
    uint16_t *gate_up = f->gate_up + first * 2 * cols, *mid = f->mid + first * cols;
    LU_TRY(show(p, &modules[LU_GATE], in, rows, err));
    if (to == LU_STAGE_MLP)
        return LUTRA_OK;
    LU_TRY(lu_gpu_product(f->g, &f->rounded, &e->gate_up, in, rows, gate_up, err));
    LU_GPU_TRY(f->gpu,
               f->gpu->api->act_mul(rows, cols, gate_up, c->activation == LU_ACT_GELU_TANH,
                                    f->g->bf16, mid, f->gpu->stream),
               "the activation", err);
    LU_TRY(show(p, &modules[LU_DOWN], mid, rows, err));
    if (to == LU_STAGE_DOWN)
        return LUTRA_OK;
    return lu_gpu_product(f->g, &f->rounded, &e->down, mid, rows, out, err);
}

static lutra_status expert_branch(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer,
                                  lu_stage to, lutra_err *err)
{
    const lu_model_config *c = &f->model->config;
    const lu_gpu_layer *l = &f->g->layers[layer];
    const lu_gpu_api *api = f->gpu->api;
    const int64_t cols = c->hidden_size, n = p->rows.n;
    LU_TRY(show(p, &f->model->layers[layer].router, f->in, n, err));
    LU_TRY(lu_gpu_product(f->g, &f->rounded, &l->router, f->in, n, f->router, err));
    LU_GPU_TRY(f->gpu,
               api->moe_route(n, c->n_experts, c->n_active, f->router, f->g->bf16, f->source,
                              f->place, f->share, f->first, f->gpu->stream),
               "the router", err);
    LU_GPU_TRY(
        f->gpu,
        api->moe_gather(n * c->n_active, cols, f->source, f->in, f->gathered, f->gpu->stream),
        "the experts' rows", err);
    LU_GPU_TRY(f->gpu,
               api->download(f->gpu, f->host_first, f->first,
                             (size_t)(c->n_experts + 1) * sizeof *f->first),
               "the router", err);
    for (int64_t e = 0; e < c->n_experts; e++) {
        const int64_t first = f->host_first[e], rows = f->host_first[e + 1] - first;
        if (rows > 0)
            LU_TRY(feed_forward(f, p, layer, e, f->gathered + first * cols, first, rows, to,
                                f->expert_out + first * cols, err));
    }
    if (to < LU_STAGE_END)
        return LUTRA_OK;
    LU_GPU_TRY(f->gpu,
               api->moe_scatter(n, cols, c->n_active, f->place, f->share, f->expert_out, f->g->bf16,
                                f->branch, f->gpu->stream),
               "the experts' sum", err);
    return LUTRA_OK;
}

static lutra_status mlp_branch(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer, lu_stage to,
                               lutra_err *err)
{
    return f->moe ? expert_branch(f, p, layer, to, err)
                  : feed_forward(f, p, layer, 0, f->in, 0, p->rows.n, to, f->branch, err);
}

lutra_status lu_gpu_walk_layer(lu_gpu_forward *f, const lu_gpu_pass *p, int64_t layer,
                               lu_stage from, lu_stage to, lutra_err *err)
{
    const lu_gpu_layer *l = &f->g->layers[layer];
    const int64_t n = p->rows.n;
    const bool attention = from == LU_STAGE_QKV;
    LU_TRY(lu_check_cancel(f->model->ctx, err));
    LU_TRY(seam(f, 0, n, (joint){.in_norm = l->norm[attention ? LU_NORM_ATTN_IN : LU_NORM_MLP_IN]},
                err));
    if (attention) {
        LU_TRY(attention_branch(f, p, layer, to, err));
        if (to < LU_STAGE_MLP)
            return LUTRA_OK;
        LU_TRY(seam(f, 0, n,
                    (joint){.add = true,
                            .out_norm = l->norm[LU_NORM_ATTN_OUT],
                            .in_norm = l->norm[LU_NORM_MLP_IN]},
                    err));
    }
    LU_TRY(mlp_branch(f, p, layer, to, err));
    if (to < LU_STAGE_END)
        return LUTRA_OK;
    return seam(f, 0, n, (joint){.add = true, .out_norm = l->norm[LU_NORM_MLP_OUT]}, err);
}

lutra_status lu_gpu_walk(lu_gpu_forward *f, const lu_gpu_pass *p, lutra_err *err)
{
    const int64_t n = p->rows.n, n_layers = f->model->config.n_layers;
    const lu_gpu_layer *layers = f->g->layers;
    LU_TRY(embed(f, p, err));
    LU_TRY(seam(f, 0, n, (joint){.in_norm = layers[0].norm[LU_NORM_ATTN_IN]}, err));
    for (int64_t i = 0; i < n_layers; i++) {
        const lu_gpu_layer *l = &layers[i];
        LU_TRY(lu_check_cancel(f->model->ctx, err));
        LU_TRY(attention_branch(f, p, i, LU_STAGE_MLP, err));
        LU_TRY(seam(f, 0, n,
                    (joint){.add = true,
                            .out_norm = l->norm[LU_NORM_ATTN_OUT],
                            .in_norm = l->norm[LU_NORM_MLP_IN]},
                    err));
        LU_TRY(mlp_branch(f, p, i, LU_STAGE_END, err));
        LU_TRY(
            seam(f, 0, n,
                 (joint){.add = true,
                         .out_norm = l->norm[LU_NORM_MLP_OUT],
                         .in_norm = i + 1 < n_layers ? layers[i + 1].norm[LU_NORM_ATTN_IN] : NULL},
                 err));
    }
    return LUTRA_OK;
}

lutra_status lu_gpu_head(lu_gpu_forward *f, int64_t row, int64_t n, lutra_err *err)
{
    LU_TRY(seam(f, row, n, (joint){.in_norm = f->g->final_norm}, err));
    return lu_gpu_product(f->g, &f->rounded, &f->g->lm_head, f->in, n, f->logits, err);
}
