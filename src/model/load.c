/* load.c - opening a model: config, tensors, packing. Packing re-orders every weight into the
   layout its kernel reads, all threads on one matrix at a time, and then gives the mapped pages
   back, so that the process holds the packed copy only. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/gpu_model.h"

void lutra_model_options_init(lutra_model_options *o)
{
    memset(o, 0, sizeof *o);
    o->size = sizeof *o;
    o->dtype = LUTRA_BF16;
}

typedef struct {
    lutra_model *model;
    int64_t done, total; /* packed bytes */
} packing;

typedef struct {
    lu_linear *linear;
    const lu_weight *weight;
} pack_job;

static void pack_units(void *arg, int64_t begin, int64_t end, int worker)
{
    const pack_job *job = arg;
    (void)worker;
    lu_linear_pack(job->linear, job->weight, begin, end);
}

static lutra_status plan_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    packing *p = arg;
    const lutra_model *m = p->model;
    const bool rounded = module->input.format.bits != 0;
    const lutra_dtype act = !rounded ? m->act
                            : lu_act_has_records(&module->input.format) &&
                                    lu_linear_takes_u8(&module->weight)
                                ? LUTRA_U8
                                : LUTRA_F32;
    const lutra_status status = lu_linear_plan(&module->weight, act, m->level, &module->linear, err);
    if (status != LUTRA_OK)
        return layer < 0 ? lu_fail_prefix(err, status, "%s", module->site)
                         : lu_fail_prefix(err, status, "layer %" PRId64 " %s", layer, module->site);
    module->linear.input = rounded ? &module->input : NULL;
    p->total += (int64_t)module->linear.packed_bytes;
    return LUTRA_OK;
}

static lutra_status pack_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    packing *p = arg;
    lutra_model *m = p->model;
    lu_linear *l = &module->linear;
    (void)layer;
    LU_TRY(lu_check_cancel(m->ctx, err));
    void *packed = lu_alloc_aligned(l->packed_bytes);
    if (!packed)
        return lu_fail_nomem(err, l->packed_bytes);
    lu_linear_attach(l, &module->weight, packed);
    l->bias = module->bias;
    pack_job job = {.linear = l, .weight = &module->weight};
    lu_pool_for(m->ctx->pool, l->n_units, 1, pack_units, &job);
    /* tied embeddings are read again: their pages come back from the file */
    lu_map_release(module->weight.data,
                   (size_t)module->weight.n * lu_weight_row_bytes(&module->weight));
    p->done += (int64_t)l->packed_bytes;
    lu_progress(m->ctx, "load", module->site, "bytes", p->done, p->total);
    return LUTRA_OK;
}

/* Packed bytes one token reads: all but the experts it is not routed to. */
static int64_t bytes_per_token(const lutra_model *m)
{
    int64_t bytes = (int64_t)m->lm_head.linear.packed_bytes;
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        const lu_layer *layer = &m->layers[i];
        for (int s = LU_SLOT_Q; s <= LU_SLOT_O; s++)
            bytes += (int64_t)layer->attention[s].linear.packed_bytes;
        bytes += (int64_t)layer->router.linear.packed_bytes;
        for (int part = 0; part < LU_N_EXPERT_PARTS; part++)
            bytes += m->config.n_active * (int64_t)layer->experts[0][part].linear.packed_bytes;
    }
    return bytes;
}

static lutra_status pack(lutra_model *m, lutra_err *err)
{
    packing p = {.model = m};
    LU_TRY(lu_model_each_module(m, plan_module, &p, err));
    LU_TRY(lu_model_each_module(m, pack_module, &p, err));
    m->weight_bytes = bytes_per_token(m);
    return LUTRA_OK;
}

static lutra_status repack_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    packing *p = arg;
    if (layer < 0)
        return LUTRA_OK;
    lu_free_aligned(module->linear.packed);
    module->linear.packed = NULL;
    LU_TRY(plan_module(p, layer, module, err));
    return pack_module(p, layer, module, err);
}

lutra_status lu_model_repack(lutra_model *m, lutra_err *err)
{
    packing p = {.model = m};
    LU_TRY(lu_model_each_module(m, repack_module, &p, err));
    m->weight_bytes = bytes_per_token(m);
    return LUTRA_OK;
}

static lutra_status read_config(lutra_model *m, lutra_err *err)
{
    const char *folder = lu_checkpoint_path(m->files);
    json_t *config = lu_checkpoint_json(m->files), *generation = NULL;
    if (!config)
        return lu_fail(err, LUTRA_E_ARG, "%s: %s, expected a Hugging Face folder", folder,
                       lu_path_is_dir(folder) ? "has no config.json"
                                              : "a single file is not a model");
    char *what = lu_path_join(folder, "config.json");
    char *generation_path = lu_path_join(folder, "generation_config.json");
    lutra_status status =
        what && generation_path ? LUTRA_OK : lu_fail_nomem(err, strlen(folder) + 32);
    if (status == LUTRA_OK && lu_path_exists(generation_path))
        status = lu_json_load(generation_path, &generation, err);
    if (status == LUTRA_OK)
        status = lu_model_config_read(what, config, generation, &m->config, err);
    if (status == LUTRA_OK)
        status = lu_quant_config_read(config, &m->quantized, &m->quant, err);
    json_decref(generation);
    lu_free(what);
    lu_free(generation_path);
    return status;
}

/* ---- weights given as float32, layer by layer ----------------------------------------------- */

static lutra_status plan_float(const lutra_model *m, lu_module *module, const float *w,
                               lutra_err *err)
{
    const lu_weight given = {
        .n = module->weight.n, .k = module->weight.k, .dtype = LUTRA_F32, .data = w};
    return lu_linear_plan(&given, LUTRA_F32, m->level, &module->linear, err);
}

/* A pass sizes its scratch by the plans of all layers. */
static lutra_status plan_bare(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    (void)layer;
    return plan_float(arg, module, NULL, err);
}

void lu_module_drop(lu_module *module)
{
    lu_free_aligned(module->linear.packed);
    module->linear.packed = NULL;
}

lutra_status lu_module_set(lutra_model *m, lu_module *module, const float *w, lutra_err *err)
{
    lu_module_drop(module);
    LU_TRY(plan_float(m, module, w, err));
    lu_linear *l = &module->linear;
    l->packed = lu_alloc_aligned(l->packed_bytes);
    if (!l->packed)
        return lu_fail_nomem(err, l->packed_bytes);
    l->bias = module->bias;
    const lu_weight given = {.n = l->n, .k = l->k, .dtype = LUTRA_F32, .data = w};
    pack_job job = {.linear = l, .weight = &given};
    lu_pool_for(m->ctx->pool, l->n_units, 1, pack_units, &job);
    return LUTRA_OK;
}

/* ---- opening -------------------------------------------------------------------------------- */

typedef struct {
    lutra_dtype act;
    bool bare;            /* weights come later, layer by layer */
    bool given_inputs;    /* else inputs are rounded as the checkpoint says */
    lu_act_format inputs; /* bits 0: not rounded */
    lu_kv_kind kv;
    int gpu;              /* its number; -1 = on the CPU */
} opening;

static lutra_status open_into(lutra_model *m, const char *path, const opening *o, lutra_err *err)
{
    LU_TRY(lu_level_parse(m->ctx->options.cpu, &m->level, err));
    lu_ops_fill(&m->ops, m->level);
    LU_TRY(lu_checkpoint_open(path, &m->files, err));
    LU_TRY(read_config(m, err));
    LU_TRY(lu_model_bind(m, err));
    if (o->given_inputs)
        LU_TRY(lu_model_round_inputs(m, &o->inputs, err));
    if (o->gpu >= 0)
        return lu_gpu_model_load(m, o->gpu, err);
    return o->bare ? lu_model_each_module(m, plan_bare, m, err) : pack(m, err);
}

static lutra_status open_model(lutra_ctx *ctx, const char *path, const opening *o,
                               lutra_model **out, lutra_err *err)
{
    lutra_model *m = lu_calloc(1, sizeof *m);
    if (!m)
        return lu_fail_nomem(err, sizeof *m);
    m->ctx = ctx;
    m->act = o->act;
    m->kv_kind = o->kv;
    const lutra_status status = open_into(m, path, o, err);
    if (status == LUTRA_OK)
        *out = m;
    else
        lutra_model_close(m);
    return status;
}

lutra_status lu_model_open_bare(lutra_ctx *ctx, const char *path, lutra_model **out, lutra_err *err)
{
    const opening o = {.act = LUTRA_F32, .bare = true, .gpu = -1};
    return open_model(ctx, path, &o, out, err);
}

lutra_status lutra_model_open(lutra_ctx *ctx, const char *path, const lutra_model_options *opts,
                              lutra_model **out, lutra_err *err)
{
    lutra_model_options o;
    lutra_model_options_init(&o);
    if (opts)
        memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    opening how = {.act = o.dtype};
    LU_TRY(lu_gpu_parse(o.device, &how.gpu, err));
    const bool gpu = how.gpu >= 0;
    if (o.dtype != LUTRA_BF16 && o.dtype != (gpu ? LUTRA_F16 : LUTRA_F32))
        return lu_fail(err, LUTRA_E_ARG, "model dtype is %s, expected BF16 or %s on the %s",
                       lutra_dtype_name(o.dtype), gpu ? "F16" : "F32", gpu ? "GPU" : "CPU");
    how.given_inputs = o.act_quant != NULL;
    if (o.act_quant)
        LU_TRY(lu_act_format_parse(o.act_quant, &how.inputs, err));
    how.kv = o.dtype == LUTRA_F32 ? LU_KV_F32 : LU_KV_BF16;
    if (o.kv)
        LU_TRY(lu_kv_kind_parse(o.kv, &how.kv, err));
    if (gpu && o.kv)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "KV cache format %s: on the CPU only, leave it out or the device", o.kv);
    return open_model(ctx, path, &how, out, err);
}

static lutra_status free_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    (void)arg, (void)layer, (void)err;
    lu_free_aligned(module->linear.packed);
    lu_free(module->bias);
    return LUTRA_OK;
}

void lutra_model_close(lutra_model *m)
{
    if (!m)
        return;
    lu_gpu_model_close(m);
    lu_model_each_module(m, free_module, NULL, NULL);
    for (int64_t i = 0; m->layers && i < m->config.n_layers; i++) {
        for (int s = 0; s < LU_N_NORMS; s++)
            lu_free(m->layers[i].norm[s]);
        lu_free(m->layers[i].experts);
    }
    lu_free(m->layers);
    lu_free(m->final_norm);
    if (m->quantized)
        lu_quant_config_free(&m->quant);
    lutra_checkpoint_close(m->files);
    lu_free(m);
}

void lutra_model_get_info(const lutra_model *m, lutra_model_info *out)
{
    const lu_model_config *c = &m->config;
    *out = (lutra_model_info){
        .n_layers = c->n_layers,
        .hidden_size = c->hidden_size,
        .intermediate_size = c->intermediate_size,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .vocab_size = c->vocab_size,
        .max_context = c->max_context,
        .n_params = m->n_params,
        .weight_bytes = m->weight_bytes,
        .bos_id = c->bos_id,
        .n_eos = c->n_eos,
    };
    strncpy(out->architecture, c->arch->name, sizeof out->architecture - 1);
    memcpy(out->eos_id, c->eos_id, sizeof out->eos_id);
    if (m->quantized)
        lutra_format_spec(&m->quant.schemes[0].format, out->format, sizeof out->format);
    const size_t n = strlen(out->format);
    if (m->quantized && m->quant.n_schemes > 1)
        snprintf(out->format + n, sizeof out->format - n, " and %" PRId64 " more",
                 m->quant.n_schemes - 1);
}
