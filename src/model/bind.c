/* bind.c - tensors of a checkpoint to slots of the architecture row. Weights stay where the files
   are mapped, dense (M.weight) or coded (M.codes, M.scales, M.zeros where quantization_config lists
   M); norms and biases are small and become float32. Tensors nobody asks for (rotary_emb.inv_freq
   of old files) are ignored. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/slots.h"
#include "tensor/convert.h"

#define NAME_BYTES 160
#define DOES_NOT_BELONG "config.json and the weights do not belong together"

static const char *shape_text(const lutra_tensor *t, char *buf, size_t size)
{
    size_t used = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < t->rank && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    if (used < size)
        snprintf(buf + used, size - used, "]");
    return buf;
}

/* A tensor of shape [n] (k = 0) or [n, k]. */
static lutra_status find(const lutra_model *m, const char *name, int64_t n, int64_t k,
                         const lutra_tensor **out, lutra_err *err)
{
    const lu_st_entry *e = lu_checkpoint_find(m->files, name);
    if (!e)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor %s is missing, %s needs it",
                       lu_checkpoint_path(m->files), name, m->config.arch->name);
    const lutra_tensor *t = &e->view;
    const bool fits = t->rank == (k ? 2 : 1) && t->shape[0] == n && (!k || t->shape[1] == k);
    if (!fits) {
        char found[96], want[64];
        if (k)
            snprintf(want, sizeof want, "[%" PRId64 ", %" PRId64 "]", n, k);
        else
            snprintf(want, sizeof want, "[%" PRId64 "]", n);
        return lu_fail(
            err, LUTRA_E_FORMAT, "%s: tensor %s has shape %s, expected %s: " DOES_NOT_BELONG,
            lu_checkpoint_path(m->files), name, shape_text(t, found, sizeof found), want);
    }
    *out = t;
    return LUTRA_OK;
}

static lutra_status wrong_dtype(const lutra_model *m, const char *name, lutra_dtype found,
                                const char *want, lutra_err *err)
{
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: tensor %s is %s, expected %s",
                   lu_checkpoint_path(m->files), name, lutra_dtype_name(found), want);
}

static bool is_float16_or_32(lutra_dtype t)
{
    return t == LUTRA_F32 || t == LUTRA_F16 || t == LUTRA_BF16;
}

/* A vector as float32, owned by the caller. */
static lutra_status bind_vector(lutra_model *m, const char *name, int64_t n, float **out,
                                lutra_err *err)
{
    const lutra_tensor *t;
    LU_TRY(find(m, name, n, 0, &t, err));
    if (!is_float16_or_32(t->dtype))
        return wrong_dtype(m, name, t->dtype, "F32, F16 or BF16", err);
    float *v = lu_array((size_t)n, sizeof *v);
    if (!v)
        return lu_fail_nomem(err, (size_t)n * sizeof *v);
    lu_to_f32(t->dtype, t->data, n, v);
    m->n_params += n;
    *out = v;
    return LUTRA_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_coded(const lutra_model *m, const char *module)
{
    return m->quantized && bsearch(&module, m->quant.modules, (size_t)m->quant.n_modules,
                                   sizeof(char *), compare_names) != NULL;
}

static lutra_status bind_dense(const lutra_model *m, const char *module, lu_weight *w,
                               lutra_err *err)
{
    char name[NAME_BYTES];
    const lutra_tensor *t;
    snprintf(name, sizeof name, "%s.weight", module);
    LU_TRY(find(m, name, w->n, w->k, &t, err));
    if (!is_float16_or_32(t->dtype))
        return wrong_dtype(m, name, t->dtype, "F32, F16 or BF16", err);
    w->dtype = t->dtype;
    w->data = t->data;
    return LUTRA_OK;
}

/* Zero points are codes; kernels look them up without asking. */
static lutra_status bind_zeros(const lutra_model *m, const char *module, int64_t groups,
                               lu_weight *w, lutra_err *err)
{
    char name[NAME_BYTES];
    const lutra_tensor *t;
    snprintf(name, sizeof name, "%s.zeros", module);
    LU_TRY(find(m, name, w->n, groups, &t, err));
    if (t->dtype != LUTRA_U8)
        return wrong_dtype(m, name, t->dtype, "U8", err);
    const uint8_t *zeros = t->data;
    const int limit = 1 << m->quant.format.bits;
    for (int64_t i = 0; i < w->n * groups; i++)
        if (zeros[i] >= limit)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: tensor %s holds the zero point %d, expected codes below %d",
                           lu_checkpoint_path(m->files), name, zeros[i], limit);
    w->zeros = zeros;
    return LUTRA_OK;
}

static lutra_status bind_coded(const lutra_model *m, const char *module, lu_weight *w,
                               lutra_err *err)
{
    const lutra_format *f = &m->quant.format;
    char name[NAME_BYTES];
    const lutra_tensor *t;
    const int64_t groups = lutra_format_groups(f, w->k);
    if (!groups)
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: %s has %" PRId64 " columns, which group size %" PRId64
                       " does not divide",
                       lu_checkpoint_path(m->files), module, w->k, f->group_size);
    snprintf(name, sizeof name, "%s.codes", module);
    LU_TRY(find(m, name, w->n, (int64_t)lutra_format_row_bytes(f, w->k), &t, err));
    if (t->dtype != LUTRA_U8)
        return wrong_dtype(m, name, t->dtype, "U8", err);
    w->data = t->data;
    snprintf(name, sizeof name, "%s.scales", module);
    LU_TRY(find(m, name, w->n, groups, &t, err));
    if (t->dtype != f->scale_dtype)
        return wrong_dtype(m, name, t->dtype, lutra_dtype_name(f->scale_dtype), err);
    w->scales = t->data;
    w->scale_dtype = t->dtype;
    if (f->zero_point)
        LU_TRY(bind_zeros(m, module, groups, w, err));
    w->bits = f->bits;
    w->group_size = f->group_size;
    memcpy(w->table, f->table, sizeof w->table);
    return LUTRA_OK;
}

/* module: the whole name, e.g. "model.layers.0.self_attn.q_proj" */
static lutra_status bind_weight(lutra_model *m, const char *module, int64_t n, int64_t k,
                                lu_weight *out, lutra_err *err)
{
    lu_weight w = {.n = n, .k = k, .dtype = LUTRA_DTYPE_NONE};
    LU_TRY(is_coded(m, module) ? bind_coded(m, module, &w, err) : bind_dense(m, module, &w, err));
    m->n_params += n * k;
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
    LU_TRY(bind_weight(m, name, n, k, &out->weight, err));
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
    LU_TRY(bind_weight(m, "model.embed_tokens", c->vocab_size, c->hidden_size, &m->embedding, err));
    for (int64_t i = 0; i < c->n_layers; i++)
        LU_TRY(bind_layer(m, i, err));
    LU_TRY(bind_vector(m, "model.norm.weight", c->hidden_size, &m->final_norm, err));
    snprintf(m->lm_head.site, sizeof m->lm_head.site, "lm_head");
    if (!c->tied)
        return bind_weight(m, "lm_head", c->vocab_size, c->hidden_size, &m->lm_head.weight, err);
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
