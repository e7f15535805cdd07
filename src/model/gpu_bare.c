/* gpu_bare.c - see gpu_bare.h. All layers have one shape, so the slots of every layer point to the
   same places; which layer's weights lie there is the caller's business. */
#include "model/gpu_bare.h"

#include <inttypes.h>

#include "base/context.h"
#include "base/mem.h"
#include "model/gpu_upload.h"

#define ALIGNMENT 256

struct lu_gpu_bare {
    lutra_model *model;
    lu_gpu *gpu;
    lu_gpu_model g; /* gpu is borrowed, pool.data is one layer's */
    lu_gpu_layer layer;
    lu_gpu_expert *experts;
    lutra_dtype act;
    lu_gpu_upload upload;
    lu_gpu_forward *forward;
    int64_t samples, length;
    int32_t *starts;    /* [samples + 1] */
    int32_t *positions; /* on the GPU: sequences [samples * length], positions [samples * length] */
};

/* --- the layer's memory: laid out once to count, once to fill ---------------------------------- */

typedef struct {
    uint8_t *base; /* NULL: counting */
    size_t used;
} arena;

static void *carve(arena *a, int64_t count, size_t size)
{
    uint8_t *p = a->base ? a->base + a->used : NULL;
    a->used += ((size_t)count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return p;
}

static void lay_linear(arena *a, const lu_module *modules, int n, lu_gpu_linear *out)
{
    lu_gpu_part *part = &out->parts[0];
    bool bias = false;
    *out = (lu_gpu_linear){.k = modules[0].weight.k, .n_parts = 1};
    for (int i = 0; i < n; i++) {
        out->n += modules[i].weight.n;
        bias = bias || modules[i].bias;
    }
    part->n = out->n;
    part->dense = carve(a, out->n * out->k, 2);
    part->bias = bias ? carve(a, out->n, 2) : NULL;
}

static void lay_layer(arena *a, const lutra_model *m, lu_gpu_layer *out, lu_gpu_expert *experts)
{
    const lu_layer *from = &m->layers[0];
    *out = (lu_gpu_layer){.experts = experts};
    for (int s = 0; s < LU_N_NORMS; s++)
        if (from->norm[s])
            out->norm[s] = carve(a, m->config.hidden_size, sizeof(float));
    lay_linear(a, &from->attention[LU_SLOT_Q], 3, &out->qkv);
    lay_linear(a, &from->attention[LU_SLOT_O], 1, &out->o);
    if (from->router.weight.n)
        lay_linear(a, &from->router, 1, &out->router);
    for (int64_t e = 0; experts && e < m->config.n_experts; e++) {
        lay_linear(a, &from->experts[e][LU_GATE], 2, &experts[e].gate_up);
        lay_linear(a, &from->experts[e][LU_DOWN], 1, &experts[e].down);
    }
}

static int64_t pages_of(int64_t length) { return (length - 1) / LU_GPU_PAGE_TOKENS + 1; }

static size_t kv_bytes(const lutra_model *m, int64_t samples, int64_t length)
{
    return (size_t)(samples * pages_of(length) * lu_gpu_page_bytes(m) / m->config.n_layers);
}

int64_t lu_gpu_bare_bytes(const lutra_model *m, int64_t samples, int64_t length)
{
    const lu_model_config *c = &m->config;
    const int64_t rows = samples * length, h = c->hidden_size;
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    lu_gpu_layer layer;
    lu_gpu_expert *experts = lu_calloc((size_t)c->n_experts, sizeof *experts);
    arena a = {.base = NULL};
    lay_layer(&a, m, &layer, experts);
    lu_free(experts);
    const int64_t inner = 3 * c->n_active * c->intermediate_size;
    const int64_t moe = c->n_experts > 1 ? 2 * c->n_active * h : 0;
    return (int64_t)a.used + (int64_t)kv_bytes(m, samples, length) +
           rows * (4 * h + 2 * (2 * h + 2 * q + 2 * kv + inner + moe));
}

static lutra_status no_room(const lu_gpu_bare *b, size_t needed, size_t there, lutra_err *err)
{
    return lu_fail(err, LUTRA_E_NOMEM,
                   "%s:%d (%s): one layer of this model needs %.2f GB, %.2f GB are free: take a "
                   "larger GPU, or the CPU",
                   b->gpu->api->name, b->gpu->ordinal, b->gpu->info.name, (double)needed / 1e9,
                   (double)there / 1e9);
}

static lutra_status take_layer(lu_gpu_bare *b, lutra_err *err)
{
    lu_gpu *gpu = b->gpu;
    const lutra_model *m = b->model;
    const size_t kv = kv_bytes(m, b->samples, b->length);
    arena a = {.base = NULL};
    size_t there;
    lay_layer(&a, m, &b->layer, b->experts);
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    if (a.used + kv > there)
        return no_room(b, a.used + kv, there, err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, a.used, (void **)&b->g.arena), "memory for a layer", err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, kv, (void **)&b->g.pool.data), "memory for keys and values",
               err);
    /* what no token was written to is multiplied by zero: it must be finite */
    LU_GPU_TRY(gpu, gpu->api->zero(gpu, b->g.pool.data, kv), "clearing keys and values", err);
    b->g.pool.n_pages = b->samples * pages_of(b->length);
    a = (arena){.base = b->g.arena};
    lay_layer(&a, m, &b->layer, b->experts);
    for (int64_t i = 0; i < m->config.n_layers; i++)
        b->g.layers[i] = b->layer;
    return LUTRA_OK;
}

/* --- where the rows of a batch stand ----------------------------------------------------------- */

static lutra_status place_samples(lu_gpu_bare *b, lutra_err *err)
{
    lu_gpu *gpu = b->gpu;
    lu_gpu_forward *f = b->forward;
    const int64_t rows = b->samples * b->length, pages = f->max_pages;
    int32_t *host = lu_array((size_t)(2 * rows), sizeof *host);
    if (!host)
        return lu_fail_nomem(err, (size_t)(2 * rows) * sizeof *host);
    for (int64_t r = 0; r < rows; r++) {
        host[r] = (int32_t)(r / b->length);
        host[rows + r] = (int32_t)(r % b->length);
    }
    for (int64_t i = 0; i < b->samples * pages; i++)
        f->host_table[i] = (int32_t)i;
    for (int64_t s = 0; s <= b->samples; s++)
        b->starts[s] = (int32_t)(s * b->length);
    int error = gpu->api->upload(gpu, b->positions, host, (size_t)(2 * rows) * sizeof *host);
    if (!error)
        error = gpu->api->upload(gpu, f->table, f->host_table,
                                 (size_t)(b->samples * pages) * sizeof *f->table);
    if (!error)
        error = gpu->api->sync(gpu);
    lu_free(host);
    return error ? lu_gpu_fail(gpu, error, "where the samples stand", err) : LUTRA_OK;
}

/* --- opening ----------------------------------------------------------------------------------- */

static lutra_status open_parts(lu_gpu_bare *b, lutra_err *err)
{
    lu_gpu *gpu = b->gpu;
    const lu_model_config *c = &b->model->config;
    const int64_t rows = b->samples * b->length;
    b->experts = lu_calloc((size_t)c->n_experts, sizeof *b->experts);
    b->g.layers = lu_calloc((size_t)c->n_layers, sizeof *b->g.layers);
    b->starts = lu_array((size_t)b->samples + 1, sizeof *b->starts);
    if (!b->experts || !b->g.layers || !b->starts)
        return lu_fail_nomem(err, (size_t)c->n_layers * sizeof *b->g.layers);
    LU_GPU_TRY(gpu, gpu->api->use(gpu), "a layer", err);
    LU_TRY(take_layer(b, err));
    LU_GPU_TRY(gpu,
               gpu->api->take(gpu, (size_t)(2 * rows) * sizeof *b->positions,
                              (void **)&b->positions),
               "memory for positions", err);
    LU_TRY(lu_gpu_forward_open_on(b->model, &b->g, rows, b->length, true, &b->forward, err));
    LU_TRY(place_samples(b, err));
    return lu_gpu_upload_open(gpu, b->model->ctx->pool, &b->upload, err);
}

lutra_status lu_gpu_bare_open(lutra_model *m, lu_gpu *gpu, lutra_dtype act, int64_t samples,
                              int64_t length, lu_gpu_bare **out, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    if (c->head_dim % 8 != 0 || c->head_dim > 256)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "heads of %" PRId64 " are not supported on a GPU, expected a multiple of 8 "
                       "up to 256: use the CPU (--device cpu)",
                       c->head_dim);
    if (samples * length > INT32_MAX)
        return lu_fail(err, LUTRA_E_LIMIT, "samples of %" PRId64 " tokens are too long for a GPU",
                       length);
    lu_gpu_bare *b = lu_calloc(1, sizeof *b);
    if (!b)
        return lu_fail_nomem(err, sizeof *b);
    b->model = m;
    b->gpu = b->g.gpu = gpu;
    b->g.bf16 = act == LUTRA_BF16;
    b->act = act;
    b->samples = samples;
    b->length = length;
    const lutra_status status = open_parts(b, err);
    if (status == LUTRA_OK)
        *out = b;
    else
        lu_gpu_bare_close(b);
    return status;
}

void lu_gpu_bare_close(lu_gpu_bare *b)
{
    if (!b)
        return;
    lu_gpu *gpu = b->gpu;
    gpu->api->use(gpu);
    lu_gpu_upload_close(&b->upload);
    lu_gpu_forward_close(b->forward);
    gpu->api->give(gpu, b->positions);
    gpu->api->give(gpu, b->g.pool.data);
    gpu->api->give(gpu, b->g.arena);
    lu_free(b->g.layers);
    lu_free(b->experts);
    lu_free(b->starts);
    lu_free(b);
}

/* --- weights ----------------------------------------------------------------------------------- */

/* The stack that a module of the layer lies in, and its first row there. */
static lu_gpu_linear *stack_of(lu_gpu_bare *b, const lu_layer *l, const lu_module *module,
                               int64_t *row)
{
    *row = 0;
    for (int s = LU_SLOT_Q; s <= LU_SLOT_V; s++) {
        if (module == &l->attention[s])
            return &b->layer.qkv;
        *row += l->attention[s].weight.n;
    }
    *row = 0;
    if (module == &l->attention[LU_SLOT_O])
        return &b->layer.o;
    if (module == &l->router)
        return &b->layer.router;
    for (int64_t e = 0; e < b->model->config.n_experts; e++) {
        if (module == &l->experts[e][LU_DOWN])
            return &b->experts[e].down;
        *row = module == &l->experts[e][LU_UP] ? l->experts[e][LU_GATE].weight.n : 0;
        if (module == &l->experts[e][LU_GATE] || *row)
            return &b->experts[e].gate_up;
    }
    return NULL;
}

uint16_t *lu_gpu_bare_weights(lu_gpu_bare *b, int64_t layer, const lu_module *module)
{
    int64_t row;
    const lu_gpu_linear *l = stack_of(b, &b->model->layers[layer], module, &row);
    return l ? l->parts[0].dense + row * l->k : NULL;
}

lutra_status lu_gpu_bare_put(lu_gpu_bare *b, int64_t layer, const lu_module *module,
                             const float *w, lutra_err *err)
{
    uint16_t *to = lu_gpu_bare_weights(b, layer, module);
    const lutra_status status =
        to ? lu_gpu_upload_put(&b->upload, to, b->act, w, LUTRA_F32,
                               module->weight.n * module->weight.k, err)
           : lu_fail(err, LUTRA_E_INTERNAL, "is no linear of the layer");
    return status == LUTRA_OK ? status
                              : lu_fail_prefix(err, status, "layer %" PRId64 " %s", layer,
                                               module->site);
}

static lutra_status put_bias(lu_gpu_bare *b, int64_t layer, const lu_module *module,
                             lutra_err *err)
{
    int64_t row;
    const lu_gpu_linear *to = stack_of(b, &b->model->layers[layer], module, &row);
    uint16_t *bias = to->parts[0].bias;
    if (!bias)
        return LUTRA_OK;
    if (module->bias)
        return lu_gpu_upload_put(&b->upload, bias + row, b->act, module->bias, LUTRA_F32,
                                 module->weight.n, err);
    LU_GPU_TRY(b->gpu,
               b->gpu->api->zero(b->gpu, bias + row, (size_t)module->weight.n * sizeof *bias),
               "a bias", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_bare_put_vectors(lu_gpu_bare *b, int64_t layer, lutra_err *err)
{
    const lu_layer *l = &b->model->layers[layer];
    for (int s = 0; s < LU_N_NORMS; s++)
        if (b->layer.norm[s])
            LU_TRY(lu_gpu_upload_put(&b->upload, b->layer.norm[s], LUTRA_F32, l->norm[s], LUTRA_F32,
                                     b->model->config.hidden_size, err));
    for (int s = LU_SLOT_Q; s <= LU_SLOT_O; s++)
        LU_TRY(put_bias(b, layer, &l->attention[s], err));
    if (l->router.weight.n)
        LU_TRY(put_bias(b, layer, &l->router, err));
    for (int64_t e = 0; e < b->model->config.n_experts; e++)
        for (int part = 0; part < LU_N_EXPERT_PARTS; part++)
            LU_TRY(put_bias(b, layer, &l->experts[e][part], err));
    return LUTRA_OK;
}

/* --- running ----------------------------------------------------------------------------------- */

lutra_status lu_gpu_bare_run(lu_gpu_bare *b, int64_t layer, int64_t samples, lu_stage from,
                             lu_stage to, lu_gpu_tap tap, void *user, lutra_err *err)
{
    const int64_t n = samples * b->length;
    const lu_gpu_pass p = {
        .rows = {.n = n, .sequence = b->positions, .position = b->positions + b->samples * b->length},
        .bound = b->length,
        .starts = b->starts,
        .n_segments = samples,
        .one_layer = true,
        .tap = tap,
        .tap_user = user};
    return lu_gpu_walk_layer(b->forward, &p, layer, from, to, err);
}

float *lu_gpu_bare_x(lu_gpu_bare *b) { return b->forward->x; }
uint16_t *lu_gpu_bare_branch(lu_gpu_bare *b) { return b->forward->branch; }
uint16_t *lu_gpu_bare_scratch(lu_gpu_bare *b) { return b->forward->in; }
