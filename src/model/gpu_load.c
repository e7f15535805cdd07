/* gpu_load.c - a bound model to the GPU. One walk over the model serves twice: first it only
   counts, which gives the size of the arena, then it fills. Codes go up as the checkpoint holds
   them, into a block of scratch, and are packed from there on the GPU. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/gpu_model.h"
#include "model/gpu_upload.h"
#include "tensor/convert.h"

#define ALIGNMENT 256 /* bytes; what vector loads and cuBLASLt like best */
/* Left alone when deciding whether a model fits: contexts of the driver and cuBLASLt. */
#define SPARE_BYTES ((size_t)256 << 20)
#define EXPAND_ROWS 64           /* rows of codes made dense at a time */
#define MOST_UNPACKED (64 << 20) /* values */

typedef struct {
    lutra_model *m;
    lu_gpu_model *g;
    bool filling;
    size_t used;                       /* of the arena */
    uint8_t *raw;                      /* canonical codes, scales and zero points of one part */
    size_t raw_bytes;                  /* the largest that is needed */
    int64_t most_values, most_columns; /* of a coded part */
    int64_t per_token;
    lu_gpu_upload upload;
} loader;

static void *carve(loader *l, size_t bytes)
{
    uint8_t *p = l->filling ? l->g->arena + l->used : NULL;
    l->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return p;
}

static lutra_status put(loader *l, void *to, lutra_dtype as, const void *data, lutra_dtype from,
                        int64_t count, lutra_err *err)
{
    return l->filling ? lu_gpu_upload_put(&l->upload, to, as, data, from, count, err) : LUTRA_OK;
}

static int64_t group_of(const lu_weight *w) { return w->group_size ? w->group_size : w->k; }

/* What the kernels multiply as codes. The rest of what a scheme can say (tables of blocks of rows,
   permuted groups, outlier columns) is expanded to dense rows here. */
static bool is_coded(const lu_weight *w)
{
    return w->dtype == LUTRA_DTYPE_NONE && !w->groups && !w->n_outliers &&
           (!w->tables || w->table_rows >= w->n);
}

static void copy_table(const lu_weight *w, float *table)
{
    memset(table, 0, 256 * sizeof *table);
    if (w->tables)
        memcpy(table, w->tables, sizeof *table << w->bits);
    else
        memcpy(table, w->table, sizeof *table << w->bits);
}

/* Integers are stored as bytes: narrower codes stay codes. */
static lu_gpu_kind kind_of(const lu_module *module)
{
    const lu_weight *w = &module->weight;
    if (lu_act_has_records(&module->input.format) && lu_linear_takes_u8(w) && w->bits > 4 &&
        group_of(w) == w->k && w->k <= LU_INT8_MOST_COLUMNS)
        return LU_GPU_INTEGERS;
    return is_coded(w) ? LU_GPU_CODED : LU_GPU_DENSE;
}

/* Whether two modules of one input can be one part. */
static bool same_format(const lu_module *x, const lu_module *y)
{
    const lu_weight *a = &x->weight, *b = &y->weight;
    float t[256], u[256];
    if (kind_of(x) != kind_of(y) || !lu_act_same(&x->input, &y->input))
        return false;
    if (kind_of(x) == LU_GPU_DENSE)
        return true;
    copy_table(a, t);
    copy_table(b, u);
    return a->bits == b->bits && group_of(a) == group_of(b) && !a->zeros == !b->zeros &&
           memcmp(t, u, sizeof t) == 0;
}

/* --- the parts of a stack --------------------------------------------------------------------- */

/* Codes, scales and zero points of rows [0, n) of a part, one after the other in scratch. */
typedef struct {
    uint8_t *codes, *zeros;
    uint16_t *scales;
    size_t bytes;
} raw_part;

static raw_part lay_raw(uint8_t *base, const lu_weight *w, int64_t n)
{
    const size_t groups = (size_t)(w->k / group_of(w)), rows = (size_t)n;
    const size_t codes = (rows * lu_weight_row_bytes(w) + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    const size_t scales = (rows * groups * 2 + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    raw_part r = {.bytes = codes + scales + (w->zeros ? rows * groups : 0)};
    if (base) {
        r.codes = base;
        r.scales = (uint16_t *)(void *)(base + codes);
        r.zeros = w->zeros ? base + codes + scales : NULL;
    }
    return r;
}

static lutra_status put_codes(loader *l, const raw_part *r, const lu_weight *w, int64_t row,
                              lutra_err *err)
{
    const int64_t groups = w->k / group_of(w), stride = (int64_t)lu_weight_row_bytes(w);
    LU_TRY(put(l, r->codes + row * stride, LUTRA_U8, w->data, LUTRA_U8, w->n * stride, err));
    LU_TRY(
        put(l, r->scales + row * groups, LUTRA_F16, w->scales, w->scale_dtype, w->n * groups, err));
    if (!w->zeros)
        return LUTRA_OK;
    return put(l, r->zeros + row * groups, LUTRA_U8, w->zeros, LUTRA_U8, w->n * groups, err);
}

static lutra_status load_coded(loader *l, lu_module *const *modules, int n, lu_gpu_part *part,
                               lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    const lu_weight *w = &modules[0]->weight;
    const size_t bytes = gpu->api->lut_bytes(part->n, w->k, w->bits, group_of(w), w->zeros != NULL);
    const raw_part raw = lay_raw(l->raw, w, part->n);
    void *block = carve(l, bytes);
    if (raw.bytes > l->raw_bytes)
        l->raw_bytes = raw.bytes;
    l->per_token += (int64_t)bytes;
    if (part->n * w->k > l->most_values)
        l->most_values = part->n * w->k;
    if (w->k > l->most_columns)
        l->most_columns = w->k;
    if (!l->filling)
        return LUTRA_OK;
    float table[256];
    copy_table(w, table);
    int64_t row = 0;
    for (int i = 0; i < n; i++) {
        LU_TRY(put_codes(l, &raw, &modules[i]->weight, row, err));
        row += modules[i]->weight.n;
    }
    LU_GPU_TRY(gpu,
               gpu->api->lut_pack(part->n, w->k, w->bits, group_of(w), raw.codes, raw.scales,
                                  raw.zeros, table, l->g->bf16, block, &part->lut, gpu->stream),
               "packing weights", err);
    return LUTRA_OK;
}

static lutra_status load_integers(loader *l, lu_module *const *modules, int n, lu_gpu_part *part,
                                  lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    const lu_weight *w = &modules[0]->weight;
    const int64_t rows = lu_int8_padded(part->n, LU_INT8_ROWS),
                  cols = lu_int8_padded(w->k, LU_INT8_COLUMNS),
                  stride = (int64_t)lu_weight_row_bytes(w);
    const size_t codes = (size_t)(part->n * stride), zeros = w->zeros ? (size_t)part->n : 0;
    part->integers = carve(l, (size_t)(rows * cols));
    part->scales = carve(l, (size_t)part->n * sizeof *part->scales);
    part->sums = carve(l, (size_t)part->n * sizeof *part->sums);
    l->raw_bytes = codes + zeros > l->raw_bytes ? codes + zeros : l->raw_bytes;
    l->per_token += rows * cols + part->n * 8;
    l->g->integer_rows = rows > l->g->integer_rows ? rows : l->g->integer_rows;
    if (!l->filling)
        return LUTRA_OK;
    uint8_t *raw_zeros = zeros ? l->raw + codes : NULL;
    int64_t row = 0;
    for (int i = 0; i < n; i++) {
        const lu_weight *v = &modules[i]->weight;
        LU_TRY(put(l, l->raw + row * stride, LUTRA_U8, v->data, LUTRA_U8, v->n * stride, err));
        LU_TRY(put(l, part->scales + row, LUTRA_F32, v->scales, v->scale_dtype, v->n, err));
        if (zeros)
            LU_TRY(put(l, raw_zeros + row, LUTRA_U8, v->zeros, LUTRA_U8, v->n, err));
        row += v->n;
    }
    float table[256];
    copy_table(w, table);
    LU_GPU_TRY(gpu,
               gpu->api->int8_pack(part->n, w->k, w->bits, l->raw, raw_zeros, table, part->integers,
                                   part->sums, gpu->stream),
               "packing weights", err);
    return LUTRA_OK;
}

typedef struct {
    const lu_weight *w;
    int64_t first;
    float *rows;
} expand_job;

static void expand(void *arg, int64_t begin, int64_t end, int worker)
{
    const expand_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        lu_weight_row(j->w, j->first + r, j->rows + r * j->w->k);
}

/* Rows of any weight in the activation type. */
static lutra_status put_rows(loader *l, uint16_t *to, const lu_weight *w, lutra_err *err)
{
    if (w->dtype != LUTRA_DTYPE_NONE)
        return put(l, to, l->m->act, w->data, w->dtype, w->n * w->k, err);
    float *rows = lu_array(EXPAND_ROWS * (size_t)w->k, sizeof *rows);
    lutra_status status =
        rows ? LUTRA_OK : lu_fail_nomem(err, EXPAND_ROWS * (size_t)w->k * sizeof *rows);
    for (int64_t r = 0; status == LUTRA_OK && r < w->n; r += EXPAND_ROWS) {
        const int64_t n = w->n - r < EXPAND_ROWS ? w->n - r : EXPAND_ROWS;
        expand_job job = {.w = w, .first = r, .rows = rows};
        lu_pool_for(l->m->ctx->pool, n, 1, expand, &job);
        status = put(l, to + r * w->k, l->m->act, rows, LUTRA_F32, n * w->k, err);
    }
    lu_free(rows);
    return status;
}

static lutra_status load_dense(loader *l, lu_module *const *modules, int n, lu_gpu_part *part,
                               lutra_err *err)
{
    const int64_t k = modules[0]->weight.k;
    part->dense = carve(l, (size_t)(part->n * k) * 2);
    l->per_token += part->n * k * 2;
    uint16_t *to = part->dense;
    for (int i = 0; l->filling && i < n; i++) {
        const lu_weight *w = &modules[i]->weight;
        LU_TRY(put_rows(l, to, w, err));
        to += w->n * k;
    }
    return LUTRA_OK;
}

static lutra_status load_bias(loader *l, lu_module *const *modules, int n, lu_gpu_part *part,
                              lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    bool any = false;
    for (int i = 0; i < n; i++)
        any = any || modules[i]->bias;
    if (!any)
        return LUTRA_OK;
    part->bias = carve(l, (size_t)part->n * 2);
    if (!l->filling)
        return LUTRA_OK;
    LU_GPU_TRY(gpu, gpu->api->zero(gpu, part->bias, (size_t)part->n * 2), "loading", err);
    int64_t row = 0;
    for (int i = 0; i < n; i++) {
        if (modules[i]->bias)
            LU_TRY(put(l, part->bias + row, l->m->act, modules[i]->bias, LUTRA_F32,
                       modules[i]->weight.n, err));
        row += modules[i]->weight.n;
    }
    return LUTRA_OK;
}

static void give_pages_back(const lu_weight *w)
{
    lu_map_release(w->data, (size_t)w->n * lu_weight_row_bytes(w));
}

static void note_rounding(loader *l, const lu_gpu_part *part, int64_t k)
{
    const int64_t columns = lu_int8_padded(k, LU_INT8_COLUMNS);
    if (part->input.format.bits && columns > l->g->round_columns)
        l->g->round_columns = columns;
}

/* Stacks n modules of one input: neighbours of one format become one part. */
static lutra_status load_stack(loader *l, int64_t layer, lu_module *const *modules, int n,
                               lu_gpu_linear *out, lutra_err *err)
{
    static lutra_status (*const load[])(loader *, lu_module *const *, int, lu_gpu_part *,
                                        lutra_err *) = {
        [LU_GPU_DENSE] = load_dense,
        [LU_GPU_CODED] = load_coded,
        [LU_GPU_INTEGERS] = load_integers,
    };
    *out = (lu_gpu_linear){.k = modules[0]->weight.k};
    LU_TRY(lu_check_cancel(l->m->ctx, err));
    for (int first = 0, end; first < n; first = end) {
        lu_gpu_part *part = &out->parts[out->n_parts++];
        *part = (lu_gpu_part){
            .row = out->n, .kind = kind_of(modules[first]), .input = modules[first]->input};
        for (end = first; end < n && same_format(modules[first], modules[end]); end++)
            part->n += modules[end]->weight.n;
        out->n += part->n;
        note_rounding(l, part, out->k);
        lutra_status status = load[part->kind](l, modules + first, end - first, part, err);
        if (status == LUTRA_OK)
            status = load_bias(l, modules + first, end - first, part, err);
        if (status != LUTRA_OK && status != LUTRA_E_CANCELLED)
            return layer < 0 ? lu_fail_prefix(err, status, "%s", modules[first]->site)
                             : lu_fail_prefix(err, status, "layer %" PRId64 " %s", layer,
                                              modules[first]->site);
        LU_TRY(status);
    }
    for (int i = 0; l->filling && i < n; i++)
        give_pages_back(&modules[i]->weight);
    if (l->filling)
        lu_progress(l->m->ctx, "load", modules[0]->site, "bytes", (int64_t)l->used,
                    l->g->arena_bytes);
    return LUTRA_OK;
}

/* Room for half of the largest part: a copy is used up right away, so larger pieces win nothing. */
static void load_unpacked(loader *l)
{
    const int64_t strip = LU_GPU_STRIP * l->most_columns;
    int64_t room = l->most_values / 2 < MOST_UNPACKED ? l->most_values / 2 : MOST_UNPACKED;
    if (room < strip)
        room = strip;
    l->g->unpacked = carve(l, (size_t)room * 2);
    l->g->unpacked_room = room;
}

/* For models that have coded products. */
static lutra_status load_scratch(loader *l, lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    const size_t bytes = l->most_values ? gpu->api->lut_scratch(&gpu->chip) : 0;
    l->g->scratch = bytes ? carve(l, bytes) : NULL;
    if (l->filling && bytes)
        LU_GPU_TRY(gpu, gpu->api->zero(gpu, l->g->scratch, bytes), "clearing memory", err);
    return LUTRA_OK;
}

/* --- the walk --------------------------------------------------------------------------------- */

static lutra_status load_vector(loader *l, const float *v, int64_t n, float **out, lutra_err *err)
{
    if (!v)
        return LUTRA_OK;
    *out = carve(l, (size_t)n * sizeof *v);
    l->per_token += n * (int64_t)sizeof *v;
    return put(l, *out, LUTRA_F32, v, LUTRA_F32, n, err);
}

static lutra_status load_experts(loader *l, int64_t i, lutra_err *err)
{
    lu_layer *from = &l->m->layers[i];
    const int64_t before = l->per_token, n = l->m->config.n_experts;
    for (int64_t e = 0; e < n; e++) {
        lu_module *mlp = from->experts[e], *gate_up[] = {&mlp[LU_GATE], &mlp[LU_UP]},
                  *down = &mlp[LU_DOWN];
        lu_gpu_expert *to = &l->g->layers[i].experts[e];
        LU_TRY(load_stack(l, i, gate_up, 2, &to->gate_up, err));
        LU_TRY(load_stack(l, i, &down, 1, &to->down, err));
    }
    l->per_token = before + (l->per_token - before) / n * l->m->config.n_active;
    return LUTRA_OK;
}

static lutra_status load_layer(loader *l, int64_t i, lutra_err *err)
{
    lu_layer *from = &l->m->layers[i];
    lu_gpu_layer *to = &l->g->layers[i];
    lu_module *a = from->attention, *qkv[] = {&a[LU_SLOT_Q], &a[LU_SLOT_K], &a[LU_SLOT_V]},
              *o = &a[LU_SLOT_O], *router = &from->router;
    for (int s = 0; s < LU_N_NORMS; s++)
        LU_TRY(load_vector(l, from->norm[s], l->m->config.hidden_size, &to->norm[s], err));
    LU_TRY(load_stack(l, i, qkv, 3, &to->qkv, err));
    LU_TRY(load_stack(l, i, &o, 1, &to->o, err));
    if (router->weight.n)
        LU_TRY(load_stack(l, i, &router, 1, &to->router, err));
    return load_experts(l, i, err);
}

static lutra_status load_embedding(loader *l, lutra_err *err)
{
    const lu_weight *w = &l->m->embedding;
    lu_gpu_embedding *to = &l->g->embedding;
    if (!is_coded(w)) {
        to->dense = carve(l, (size_t)(w->n * w->k) * 2);
        return l->filling ? put_rows(l, to->dense, w, err) : LUTRA_OK;
    }
    const raw_part size = lay_raw(NULL, w, w->n);
    uint8_t *base = carve(l, size.bytes);
    if (!l->filling)
        return LUTRA_OK;
    const raw_part raw = lay_raw(base, w, w->n);
    *to = (lu_gpu_embedding){.codes = raw.codes, .zeros = raw.zeros, .scales = raw.scales};
    return put_codes(l, &raw, w, 0, err);
}

static lutra_status load_lm_head(loader *l, lutra_err *err)
{
    lutra_model *m = l->m;
    lu_module *head = &m->lm_head;
    if (!m->config.tied || is_coded(&m->embedding))
        return load_stack(l, -1, &head, 1, &l->g->lm_head, err);
    const int64_t n = head->weight.n, k = head->weight.k;
    l->per_token += n * k * 2;
    l->g->lm_head = (lu_gpu_linear){.n = n, .k = k, .n_parts = 1};
    l->g->lm_head.parts[0] =
        (lu_gpu_part){.n = n, .dense = l->g->embedding.dense, .input = head->input};
    note_rounding(l, l->g->lm_head.parts, k);
    return LUTRA_OK;
}

static lutra_status walk(loader *l, lutra_err *err)
{
    l->used = 0;
    l->per_token = 0;
    const lutra_status status = load_embedding(l, err);
    if (status != LUTRA_OK)
        return status == LUTRA_E_CANCELLED ? status : lu_fail_prefix(err, status, "embed_tokens");
    for (int64_t i = 0; i < l->m->config.n_layers; i++)
        LU_TRY(load_layer(l, i, err));
    LU_TRY(load_vector(l, l->m->final_norm, l->m->config.hidden_size, &l->g->final_norm, err));
    LU_TRY(load_lm_head(l, err));
    load_unpacked(l);
    return load_scratch(l, err);
}

/* --- memory ----------------------------------------------------------------------------------- */

typedef struct {
    double inside, outside; /* elements of linears of the layers; bytes of all else */
} sizes;

static lutra_status add_size(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    sizes *s = arg;
    (void)err;
    const double n = (double)module->weight.n * (double)module->weight.k;
    if (layer < 0)
        s->outside += n * 2;
    else
        s->inside += n;
    return LUTRA_OK;
}

/* Fails with what is needed, what is free, and the widest format that would fit. */
static lutra_status no_room(loader *l, size_t needed, size_t there, lutra_err *err)
{
    static const struct {
        int bits;
        const char *format;
    } formats[] = {{8, "int8"}, {4, "nf4"}, {3, "nf3"}, {2, "lm2"}};
    const lu_gpu *gpu = l->g->gpu;
    sizes s = {0};
    lu_model_each_module(l->m, add_size, &s, NULL);
    if (!l->m->config.tied)
        s.outside += (double)l->m->embedding.n * (double)l->m->embedding.k * 2;
    char mend[160] = "no format would fit: take a smaller model, a larger GPU or the CPU";
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const double bytes = s.outside + s.inside * (formats[i].bits + 0.25) / 8;
        if (bytes * 1.05 < (double)there && bytes < 0.9 * (double)needed) {
            snprintf(
                mend, sizeof mend,
                "compressed to %s in groups of 64 (lutra quantize) it would need about %.1f GB",
                formats[i].format, bytes / 1e9);
            break;
        }
    }
    return lu_fail(err, LUTRA_E_NOMEM,
                   "%s:%d (%s): the model needs %.2f GB, %.2f GB of %.2f GB are free: %s",
                   gpu->api->name, gpu->ordinal, gpu->info.name, (double)needed / 1e9,
                   (double)there / 1e9, (double)gpu->info.memory / 1e9, mend);
}

static lutra_status take_memory(loader *l, lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    size_t there;
    LU_GPU_TRY(gpu, gpu->api->free_memory(gpu, &there), "asking for its memory", err);
    const size_t needed = l->used + l->raw_bytes;
    there = there > SPARE_BYTES ? there - SPARE_BYTES : 0;
    if (needed > there)
        return no_room(l, needed, there, err);
    LU_GPU_TRY(gpu, gpu->api->take(gpu, l->used, (void **)&l->g->arena), "memory for the weights",
               err);
    l->g->arena_bytes = (int64_t)l->used;
    LU_GPU_TRY(gpu, gpu->api->take(gpu, l->raw_bytes, (void **)&l->raw), "memory for packing", err);
    return lu_gpu_upload_open(gpu, l->m->ctx->pool, &l->upload, err);
}

static lutra_status take_slots(lutra_model *m, lu_gpu_model *g, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    g->layers = lu_calloc((size_t)c->n_layers, sizeof *g->layers);
    if (!g->layers)
        return lu_fail_nomem(err, (size_t)c->n_layers * sizeof *g->layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        g->layers[i].experts = lu_calloc((size_t)c->n_experts, sizeof *g->layers[i].experts);
        if (!g->layers[i].experts)
            return lu_fail_nomem(err, (size_t)c->n_experts * sizeof *g->layers[i].experts);
    }
    return LUTRA_OK;
}

static lutra_status fill(loader *l, lutra_err *err)
{
    lu_gpu *gpu = l->g->gpu;
    LU_TRY(walk(l, err));
    LU_TRY(take_memory(l, err));
    l->filling = true;
    LU_TRY(walk(l, err));
    LU_GPU_TRY(gpu, gpu->api->sync(gpu), "loading", err);
    l->m->weight_bytes = l->per_token;
    return LUTRA_OK;
}

/* The kernels round whole rows. */
static lutra_status check_rounding(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    (void)arg;
    if (module->input.format.bits && module->weight.n_outliers)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "layer %" PRId64 " %s: rounded inputs beside columns that stay in fp16 run "
                       "on the CPU only: use it (--device cpu), or leave inputs as they are "
                       "(--act-quant none)",
                       layer, module->site);
    return LUTRA_OK;
}

lutra_status lu_gpu_model_load(lutra_model *m, int ordinal, lutra_err *err)
{
    const lu_model_config *c = &m->config;
    LU_TRY(lu_model_each_module(m, check_rounding, NULL, err));
    if (c->head_dim % 8 != 0 || c->head_dim > 256)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "heads of %" PRId64 " are not supported on a GPU, expected a multiple of 8 "
                       "up to 256: use the CPU (--device cpu)",
                       c->head_dim);
    lu_gpu_model *g = m->gpu = lu_calloc(1, sizeof *g);
    if (!g)
        return lu_fail_nomem(err, sizeof *g);
    g->bf16 = m->act == LUTRA_BF16;
    LU_TRY(lu_gpu_open(m->ctx->gpu, ordinal, &g->gpu, err));
    LU_TRY(take_slots(m, g, err));
    loader l = {.m = m, .g = g};
    const lutra_status status = fill(&l, err);
    lu_gpu_upload_close(&l.upload);
    g->gpu->api->give(g->gpu, l.raw);
    return status;
}

void lu_gpu_model_close(lutra_model *m)
{
    lu_gpu_model *g = m->gpu;
    if (!g)
        return;
    if (g->gpu) {
        g->gpu->api->use(g->gpu);
        lu_gpu_pool_close(g);
        g->gpu->api->give(g->gpu, g->arena);
    }
    for (int64_t i = 0; g->layers && i < m->config.n_layers; i++)
        lu_free(g->layers[i].experts);
    lu_free(g->layers);
    lu_gpu_close(g->gpu);
    lu_free(g);
}
