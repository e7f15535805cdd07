/* bind.c - tensors of a checkpoint to slots of the architecture row. Weights stay where the files
   are mapped, dense (M.weight) or coded (bind_coded.c, where quantization_config lists M); norms
   and biases are small and become float32. Tensors nobody asks for (rotary_emb.inv_freq of old
   files) are ignored. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/bind_coded.h"
#include "model/slots.h"
#include "tensor/convert.h"

#define NAME_BYTES 160

static bool is_float16_or_32(lutra_dtype t)
{
    return t == LUTRA_F32 || t == LUTRA_F16 || t == LUTRA_BF16;
}

/* A floating tensor of shape [n] (k = 0) or [n, k]. */
static lutra_status find(const lutra_model *m, const char *name, int64_t n, int64_t k,
                         const lutra_tensor **out, lutra_err *err)
{
    if (!lu_checkpoint_find(m->files, name))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor %s is missing, %s needs it",
                       lu_checkpoint_path(m->files), name, m->config.arch->name);
    const int64_t shape[2] = {n, k};
    LU_TRY(lu_bind_tensor(m->files, name, k ? 2 : 1, shape, out, err));
    return is_float16_or_32((*out)->dtype)
               ? LUTRA_OK
               : lu_bind_wrong_dtype(m->files, name, (*out)->dtype, "F32, F16 or BF16", err);
}

/* A vector as float32, owned by the caller. */
static lutra_status bind_vector(lutra_model *m, const char *name, int64_t n, float **out,
                                lutra_err *err)
{
    const lutra_tensor *t;
    LU_TRY(find(m, name, n, 0, &t, err));
    float *v = lu_array((size_t)n, sizeof *v);
    if (!v)
        return lu_fail_nomem(err, (size_t)n * sizeof *v);
    lu_to_f32(t->dtype, t->data, n, v);
    m->n_params += n;
    *out = v;
    return LUTRA_OK;
}

static lutra_status bind_dense(const lutra_model *m, const char *module, lu_weight *w,
                               lutra_err *err)
{
    char name[NAME_BYTES];
    const lutra_tensor *t;
    snprintf(name, sizeof name, "%s.weight", module);
    LU_TRY(find(m, name, w->n, w->k, &t, err));
    w->dtype = t->dtype;
    w->data = t->data;
    return LUTRA_OK;
}

/* module: the whole name, e.g. "model.layers.0.self_attn.q_proj" */
static lutra_status bind_weight(lutra_model *m, const char *module, int64_t n, int64_t k,
                                lu_weight *out, lu_act_quant *input, lutra_err *err)
{
    lu_weight w = {.n = n, .k = k, .dtype = LUTRA_DTYPE_NONE};
    *input = (lu_act_quant){.zero = 0};
    const lu_scheme *s = m->quantized ? lu_quant_config_find(&m->quant, module) : NULL;
    LU_TRY(s ? lu_bind_coded(m->files, module, s, &w, input, err) : bind_dense(m, module, &w, err));
    m->n_params += n * k;
    m->rounds_inputs |= input->format.bits != 0;
    *out = w;
    return LUTRA_OK;
}

static void slot_shape(const lu_model_config *c, lu_slot slot, int64_t *n, int64_t *k)
{
    const int64_t h = c->hidden_size, q = c->n_heads * c->head_dim,
                  kv = c->n_kv_heads * c->head_dim;
    const int64_t shapes[LU_N_SLOTS][2] = {
        [LU_SLOT_Q] = {q, h},
        [LU_SLOT_K] = {kv, h},
        [LU_SLOT_V] = {kv, h},
        [LU_SLOT_O] = {h, q},
        [LU_SLOT_ROUTER] = {c->n_experts, h},
        [LU_SLOT_GATE] = {c->intermediate_size, h},
        [LU_SLOT_UP] = {c->intermediate_size, h},
        [LU_SLOT_DOWN] = {h, c->intermediate_size},
    };
    *n = shapes[slot][0];
    *k = shapes[slot][1];
}

/* Puts the expert's number where the row's name has '*'. */
static void site_name(const char *pattern, int64_t expert, char *out, size_t size)
{
    const char *star = strchr(pattern, '*');
    if (star)
        snprintf(out, size, "%.*s%" PRId64 "%s", (int)(star - pattern), pattern, expert, star + 1);
    else
        snprintf(out, size, "%s", pattern);
}

static lutra_status bind_module(lutra_model *m, int64_t layer, lu_slot slot, int64_t expert,
                                bool bias, lu_module *out, lutra_err *err)
{
    char name[NAME_BYTES], bias_name[NAME_BYTES + 8];
    int64_t n, k;
    slot_shape(&m->config, slot, &n, &k);
    site_name(m->config.arch->modules[slot], expert, out->site, sizeof out->site);
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s", layer, out->site);
    LU_TRY(bind_weight(m, name, n, k, &out->weight, &out->input, err));
    if (!bias)
        return LUTRA_OK;
    snprintf(bias_name, sizeof bias_name, "%s.bias", name);
    return bind_vector(m, bias_name, n, &out->bias, err);
}

static lutra_status bind_layer(lutra_model *m, int64_t i, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    lu_layer *layer = &m->layers[i];
    for (int s = 0; s < LU_N_NORMS; s++) {
        char name[NAME_BYTES];
        if (!c->arch->norms[s])
            continue;
        snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s.weight", i, c->arch->norms[s]);
        LU_TRY(bind_vector(m, name, c->hidden_size, &layer->norm[s], err));
    }
    for (int s = LU_SLOT_Q; s <= LU_SLOT_O; s++)
        LU_TRY(bind_module(m, i, (lu_slot)s, 0, s == LU_SLOT_O ? c->o_bias : c->qkv_bias,
                           &layer->attention[s], err));
    if (c->arch->modules[LU_SLOT_ROUTER])
        LU_TRY(bind_module(m, i, LU_SLOT_ROUTER, 0, false, &layer->router, err));
    layer->experts = lu_calloc((size_t)c->n_experts, sizeof *layer->experts);
    if (!layer->experts)
        return lu_fail_nomem(err, (size_t)c->n_experts * sizeof *layer->experts);
    for (int64_t e = 0; e < c->n_experts; e++)
        for (int p = 0; p < LU_N_EXPERT_PARTS; p++)
            LU_TRY(bind_module(m, i, (lu_slot)(LU_SLOT_GATE + p), e, c->mlp_bias,
                               &layer->experts[e][p], err));
    return LUTRA_OK;
}

lutra_status lu_model_bind(lutra_model *m, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    m->layers = lu_calloc((size_t)c->n_layers, sizeof *m->layers);
    if (!m->layers)
        return lu_fail_nomem(err, (size_t)c->n_layers * sizeof *m->layers);
    LU_TRY(bind_weight(m, "model.embed_tokens", c->vocab_size, c->hidden_size, &m->embedding,
                       &m->lm_head.input, err));
    for (int64_t i = 0; i < c->n_layers; i++)
        LU_TRY(bind_layer(m, i, err));
    LU_TRY(bind_vector(m, "model.norm.weight", c->hidden_size, &m->final_norm, err));
    snprintf(m->lm_head.site, sizeof m->lm_head.site, "lm_head");
    if (!c->tied)
        return bind_weight(m, "lm_head", c->vocab_size, c->hidden_size, &m->lm_head.weight,
                           &m->lm_head.input, err);
    m->lm_head.weight = m->embedding;
    return LUTRA_OK;
}

static lutra_status visit_layer(lutra_model *m, int64_t i, lu_module_visit visit, void *arg,
                                lutra_err *err)
{
    lu_layer *layer = &m->layers[i];
    for (int s = LU_SLOT_Q; s <= LU_SLOT_O; s++)
        LU_TRY(visit(arg, i, &layer->attention[s], err));
    if (layer->router.weight.n)
        LU_TRY(visit(arg, i, &layer->router, err));
    for (int64_t e = 0; layer->experts && e < m->config.n_experts; e++)
        for (int p = 0; p < LU_N_EXPERT_PARTS; p++)
            LU_TRY(visit(arg, i, &layer->experts[e][p], err));
    return LUTRA_OK;
}

lutra_status lu_model_each_module(lutra_model *m, lu_module_visit visit, void *arg, lutra_err *err)
{
    for (int64_t i = 0; m->layers && i < m->config.n_layers; i++)
        LU_TRY(visit_layer(m, i, visit, arg, err));
    return visit(arg, -1, &m->lm_head, err);
}
