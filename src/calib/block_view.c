/* block_view.c - see block_view.h. Sites come in the order of the forward pass: q|k|v, o, the
   router if there is one, each expert's gate|up (a dense block is one expert), each expert's down.
   Seams: input norm → q|k|v, v → o, norm before the MLP → router and all gate|up, up → down per
   expert. Norms behind a branch (Gemma-2) have no linear after them and are no seams. */
#include "calib/block_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

#define MAPPED_BYTES ((size_t)64 << 20) /* of a file that are looked at before they are given back */

/* ---- linears ----------------------------------------------------------------------------------
 */

static bool is_query_or_key(const lu_view *v, const lu_module *module)
{
    const lu_module *attention = v->model->layers[v->block.index].attention;
    return module == &attention[LU_SLOT_Q] || module == &attention[LU_SLOT_K];
}

static void add_linear(lu_view *v, lu_module *module, lu_stage stage, int site)
{
    lu_view_linear *l = &v->linears[v->n_linears++];
    snprintf(l->name, sizeof l->name, "model.layers.%" PRId64 ".%s", v->block.index, module->site);
    l->module = module;
    l->stage = stage;
    l->site = site;
    l->face = (lu_site_linear){.name = l->name,
                               .n = module->weight.n,
                               .k = module->weight.k,
                               .bias = module->bias,
                               .kept = true,
                               .feeds_scores = is_query_or_key(v, module)};
}

static void add_vector(lu_view *v, const char *name, const char *suffix, float *values, int64_t n)
{
    lu_view_vector *x = &v->vectors[v->n_vectors];
    if (!values)
        return;
    snprintf(x->name, sizeof x->name, "model.layers.%" PRId64 ".%s%s", v->block.index, name,
             suffix);
    x->values = values;
    x->n = n;
    v->n_vectors++;
}

static int add_site(lu_view *v, lu_stage stage, const char *name, int64_t expert)
{
    const int i = v->block.n_sites++;
    if (expert < 0)
        snprintf(v->site_names[i], sizeof v->site_names[i], "%s", name);
    else
        snprintf(v->site_names[i], sizeof v->site_names[i], "expert %" PRId64 " %s", expert, name);
    v->stages[i] = stage;
    v->block.sites[i] = (lu_site){.name = v->site_names[i]};
    return i;
}

static void add_sites(lu_view *v, lu_layer *layer)
{
    const int64_t experts = v->model->config.n_experts;
    const bool moe = layer->router.weight.n > 0;
    int site = add_site(v, LU_STAGE_QKV, "qkv", -1);
    for (int s = LU_SLOT_Q; s <= LU_SLOT_V; s++)
        add_linear(v, &layer->attention[s], LU_STAGE_QKV, site);
    add_linear(v, &layer->attention[LU_SLOT_O], LU_STAGE_O, add_site(v, LU_STAGE_O, "o", -1));
    if (moe)
        add_linear(v, &layer->router, LU_STAGE_MLP, add_site(v, LU_STAGE_MLP, "router", -1));
    for (int64_t e = 0; e < experts; e++) {
        site = add_site(v, LU_STAGE_MLP, "gate_up", moe ? e : -1);
        add_linear(v, &layer->experts[e][LU_GATE], LU_STAGE_MLP, site);
        add_linear(v, &layer->experts[e][LU_UP], LU_STAGE_MLP, site);
    }
    for (int64_t e = 0; e < experts; e++)
        add_linear(v, &layer->experts[e][LU_DOWN], LU_STAGE_DOWN,
                   add_site(v, LU_STAGE_DOWN, "down", moe ? e : -1));
    for (int i = 0; i < v->n_linears; i++) { /* linears of a site are neighbours */
        lu_site *s = &v->block.sites[v->linears[i].site];
        v->site_lists[i] = &v->linears[i].face;
        if (!s->linears)
            s->linears = &v->site_lists[i];
        s->n_linears++;
        s->k = v->linears[i].face.k;
    }
}

/* ---- seams ------------------------------------------------------------------------------------
 */

static lu_seam *add_seam(lu_view *v, const char *from, lu_seam_kind kind, lu_part part, int first,
                         int n_readers)
{
    const int i = v->block.n_seams++;
    lu_seam *s = &v->block.seams[i];
    int before = 0;
    for (int j = 0; j < i; j++)
        before += v->block.seams[j].n_readers;
    *s = (lu_seam){.name = v->seam_names[i], .kind = kind, .part = part, .repeat = 1};
    s->readers = &v->reader_lists[before];
    s->n_readers = n_readers;
    for (int r = 0; r < n_readers; r++)
        s->readers[r] = &v->block.sites[first + r];
    s->k = s->n_scales = v->block.sites[first].k;
    snprintf(v->seam_names[i], sizeof v->seam_names[i], "layer %" PRId64 ": %s to %s",
             v->block.index, from, n_readers > 1 ? "all experts" : v->block.sites[first].name);
    return s;
}

static lutra_dtype stored_type(const lu_view *v, const char *module, const char *tensor)
{
    char name[192];
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s.%s", v->block.index, module, tensor);
    const lu_st_entry *e = lu_checkpoint_find(v->model->files, name);
    return e ? e->view.dtype : LUTRA_F32;
}

static void add_norm_seam(lu_view *v, lu_layer *layer, lu_norm_slot norm, lu_part part, int first,
                          int n_readers)
{
    const lu_arch *arch = v->model->config.arch;
    lu_seam *s = add_seam(v, arch->norms[norm], LU_SEAM_NORM, part, first, n_readers);
    s->gain = layer->norm[norm];
    s->offset = arch->norm_offset;
    s->stored = stored_type(v, arch->norms[norm], "weight");
}

static lu_site_linear *face_of(lu_view *v, const lu_module *module)
{
    for (int i = 0; i < v->n_linears; i++)
        if (v->linears[i].module == module)
            return &v->linears[i].face;
    return NULL;
}

static void add_row_seam(lu_view *v, const lu_module *producer, lu_part part, int reader)
{
    lu_seam *s = add_seam(v, producer->site, LU_SEAM_ROWS, part, reader, 1);
    s->in_part_alone = true;
    s->producer = face_of(v, producer);
    s->n_scales = s->producer->n;
    s->stored = stored_type(v, producer->site, "bias");
}

static void add_seams(lu_view *v, lu_layer *layer)
{
    const lu_model_config *c = &v->model->config;
    const int moe = layer->router.weight.n > 0 ? 1 : 0, experts = (int)c->n_experts;
    const int first_mlp = 2, first_down = first_mlp + moe + experts;
    add_norm_seam(v, layer, LU_NORM_ATTN_IN, LU_PART_ATTENTION, 0, 1);
    add_row_seam(v, &layer->attention[LU_SLOT_V], LU_PART_ATTENTION, 1);
    lu_seam *vo = &v->block.seams[v->block.n_seams - 1];
    vo->head_dim = c->head_dim;
    vo->repeat = c->n_heads / c->n_kv_heads;
    vo->passes_constants = true;
    add_norm_seam(v, layer, LU_NORM_MLP_IN, LU_PART_MLP, first_mlp, moe + experts);
    for (int e = 0; e < experts; e++)
        add_row_seam(v, &layer->experts[e][LU_UP], LU_PART_MLP, first_down + e);
}

/* ---- the view ---------------------------------------------------------------------------------
 */

static lutra_status take_room(lu_view *v, lutra_err *err)
{
    const size_t experts = (size_t)v->model->config.n_experts;
    const size_t linears = 5 + 3 * experts, sites = 3 + 2 * experts, seams = 3 + experts;
    v->linears = lu_calloc(linears, sizeof *v->linears);
    v->vectors = lu_calloc(linears + LU_N_NORMS, sizeof *v->vectors);
    v->site_lists = lu_calloc(linears, sizeof *v->site_lists);
    v->block.sites = lu_calloc(sites, sizeof *v->block.sites);
    v->site_names = lu_calloc(sites, sizeof *v->site_names);
    v->stages = lu_calloc(sites, sizeof *v->stages);
    v->block.seams = lu_calloc(seams, sizeof *v->block.seams);
    v->seam_names = lu_calloc(seams, sizeof *v->seam_names);
    v->reader_lists = lu_calloc(2 * sites, sizeof(lu_site *));
    const bool ok = v->linears && v->vectors && v->site_lists && v->block.sites && v->site_names &&
                    v->stages && v->block.seams && v->seam_names && v->reader_lists;
    return ok ? LUTRA_OK : lu_fail_nomem(err, linears * sizeof *v->linears);
}

lutra_status lu_view_open(lutra_model *m, lu_la *la, int64_t layer, lu_view *out, lutra_err *err)
{
    *out = (lu_view){.model = m,
                     .block = {.ctx = m->ctx, .la = la, .level = m->level, .index = layer}};
    LU_TRY(take_room(out, err));
    lu_layer *l = &m->layers[layer];
    add_sites(out, l);
    add_seams(out, l);
    for (int s = 0; s < LU_N_NORMS; s++)
        if (l->norm[s])
            add_vector(out, m->config.arch->norms[s], ".weight", l->norm[s], m->config.hidden_size);
    for (int i = 0; i < out->n_linears; i++)
        add_vector(out, out->linears[i].module->site, ".bias", out->linears[i].face.bias,
                   out->linears[i].face.n);
    return LUTRA_OK;
}

void lu_stats_free(lu_stats *s)
{
    lu_free(s->absmax);
    lu_free(s->absmean);
    lu_free(s->lowest);
    lu_free(s->highest);
    lu_free(s->hessian);
    lu_free(s->rows);
    *s = (lu_stats){.n_rows = 0};
}

void lu_stats_keep_rows(lu_stats *s)
{
    lu_stats kept = {.n_rows = s->n_rows, .rows = s->rows, .n_kept = s->n_kept};
    s->rows = NULL;
    lu_stats_free(s);
    *s = kept;
}

void lu_view_close(lu_view *v)
{
    for (int i = 0; v->linears && i < v->n_linears; i++) {
        lu_site_linear *l = &v->linears[i].face;
        lu_module_drop(v->linears[i].module);
        lu_linear_free_codes(l);
        lu_free(l->w);
        lu_free(l->lo);
        lu_free(l->hi);
        lu_free(l->tables);
    }
    for (int i = 0; v->block.sites && i < v->block.n_sites; i++)
        lu_stats_free(&v->block.sites[i].stats);
    lu_free(v->linears);
    lu_free(v->vectors);
    lu_free(v->site_lists);
    lu_free(v->block.sites);
    lu_free(v->site_names);
    lu_free(v->stages);
    lu_free(v->block.seams);
    lu_free(v->seam_names);
    lu_free(v->reader_lists);
    *v = (lu_view){.model = NULL};
}

typedef struct {
    const lu_view_linear *l;
    int64_t first;
} fetch_job;

static void fetch_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const fetch_job *j = arg;
    const lu_view_linear *l = j->l;
    (void)worker;
    for (int64_t r = j->first + begin; r < j->first + end; r++) {
        float *row = l->face.w + r * l->face.k;
        if (l->face.codes.codes)
            lu_linear_decode_row(&l->face, r, row);
        else
            lu_weight_row(&l->module->weight, r, row);
    }
}

lutra_status lu_view_fetch(lu_view *v, lu_view_linear *l, lutra_err *err)
{
    if (l->face.w)
        return LUTRA_OK;
    l->face.w = lu_array((size_t)l->face.n, (size_t)l->face.k * sizeof(float));
    if (!l->face.w)
        return lu_fail_nomem(err, (size_t)(l->face.n * l->face.k) * sizeof(float));
    const lu_weight *from = &l->module->weight;
    const size_t row = lu_weight_row_bytes(from);
    const int64_t most = row < MAPPED_BYTES ? (int64_t)(MAPPED_BYTES / row) : 1;
    fetch_job j = {.l = l};
    for (int64_t n; j.first < l->face.n; j.first += n) {
        n = l->face.n - j.first < most ? l->face.n - j.first : most;
        lu_pool_for(v->block.ctx->pool, n, 16, fetch_rows, &j);
        if (!l->face.codes.codes) /* the copy stands for the mapped pages */
            lu_map_release((const char *)from->data + (size_t)j.first * row, (size_t)n * row);
    }
    return LUTRA_OK;
}

lutra_status lu_view_fetch_all(lu_view *v, lutra_err *err)
{
    for (int i = 0; i < v->n_linears; i++)
        LU_TRY(lu_view_fetch(v, &v->linears[i], err));
    return LUTRA_OK;
}

void lu_view_release(lu_view_linear *l)
{
    if (l->changed && !l->face.codes.codes)
        return;
    lu_free(l->face.w);
    l->face.w = NULL;
}

lutra_status lu_view_each(lu_view *v, lu_stage from, lu_stage to, lu_view_visit visit, void *arg,
                          lutra_err *err)
{
    for (int i = 0; i < v->n_linears; i++) {
        lu_view_linear *l = &v->linears[i];
        const bool router = l->module == &v->model->layers[v->block.index].router;
        const bool held = l->face.w != NULL;
        if (l->stage < from || !(l->stage < to || (router && l->stage == to)))
            continue;
        LU_TRY(lu_view_fetch(v, l, err));
        LU_TRY(visit(arg, v, l, err));
        if (!held)
            lu_view_release(l);
    }
    return LUTRA_OK;
}

static lutra_status pack_linear(void *arg, lu_view *v, lu_view_linear *l, lutra_err *err)
{
    (void)arg;
    return lu_module_set(v->model, l->module, l->face.w, err);
}

lutra_status lu_view_pack(lu_view *v, lu_stage from, lu_stage to, lutra_err *err)
{
    return lu_view_each(v, from, to, pack_linear, NULL, err);
}

void lu_view_unpack(lu_view *v)
{
    for (int i = 0; i < v->n_linears; i++)
        lu_module_drop(v->linears[i].module);
}

int lu_view_find_site(const lu_view *v, const char *site)
{
    for (int i = 0; i < v->n_linears; i++)
        if (strcmp(v->linears[i].module->site, site) == 0)
            return i == 0 || v->linears[i - 1].site != v->linears[i].site ? v->linears[i].site : -1;
    return -1;
}
