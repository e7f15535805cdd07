/* quantize_plan.c - chooses the tensors to encode and lays out the output shards.
   Encoded are the linear modules: floating two-dimensional tensors named M.weight, but for those
   whose M matches an ignore pattern and for the routers of mixtures of experts, whose few rows
   decide which experts run. Everything else is copied as it is. */
#include "calib/quantize_plan.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "calib/recipe_parts.h"

#define SUFFIX ".weight"
#define ROUTER "*.block_sparse_moe.gate"
#define MAX_NAME 1024

bool lu_glob_match(const char *pattern, const char *name)
{
    const char *star = NULL, *retry = NULL; /* after the last '*', and where it ends to try next */
    while (*name) {
        if (*pattern == '*') {
            star = ++pattern;
            retry = name;
        } else if (*pattern == '?' || *pattern == *name) {
            pattern++;
            name++;
        } else if (star) {
            pattern = star;
            name = ++retry;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

const char *lu_plan_module(const lu_plan_tensor *t, char *buf, size_t size)
{
    snprintf(buf, size, "%.*s", (int)(strlen(t->in->name) - strlen(SUFFIX)), t->in->name);
    return buf;
}

static bool is_floating(lutra_dtype t)
{
    return t == LUTRA_F32 || t == LUTRA_F16 || t == LUTRA_BF16 || t == LUTRA_F64;
}

static bool is_linear(const lu_st_entry *e)
{
    const size_t n = strlen(e->name), suffix = strlen(SUFFIX);
    return e->view.rank == 2 && is_floating(e->view.dtype) && e->view.bytes > 0 && n > suffix &&
           n < MAX_NAME && strcmp(e->name + n - suffix, SUFFIX) == 0;
}

static const lu_scheme *find_or_add_scheme(lu_plan *p, const lu_scheme *s)
{
    int i = 0;
    while (i < p->n_schemes && !lu_scheme_equal(&p->schemes[i], s))
        i++;
    if (i == p->n_schemes)
        p->schemes[p->n_schemes++] = *s;
    return &p->schemes[i];
}

/* Decides how a tensor is stored. Its format is that of the last rule that matches, else of the
   pass that rounds it, else the general one. */
static void choose(lu_plan *p, lu_plan_tensor *t, const lutra_quantize_options *o)
{
    char module[MAX_NAME];
    if (!is_linear(t->in))
        return;
    lu_plan_module(t, module, sizeof module);
    for (int i = 0; i < o->n_ignore; i++)
        if (lu_glob_match(o->ignore[i], module))
            return;
    if (lu_glob_match(ROUTER, module)) {
        p->n_routers++;
        return;
    }
    /* in the blocks the recipe decides */
    const int64_t layer = lu_module_layer(module);
    const bool in_recipe = o->recipe && layer >= 0;
    const lu_recipe_pass *rp = in_recipe ? lu_recipe_rounds(o->recipe, module, layer) : NULL;
    if (in_recipe && !rp)
        return;
    lu_scheme s = {.format = rp && rp->has_format ? rp->format : o->format};
    for (int i = 0; i < o->n_rules; i++)
        if (lu_glob_match(o->rules[i].pattern, module))
            s.format = o->rules[i].format;
    if (layer >= 0)
        s.act = rp && rp->has_act ? rp->act : p->act;
    if (rp && rp->pass->scheme)
        rp->pass->scheme(rp->settings, &s);
    if (s.outlier_columns)
        t->n_outliers = rp->pass->outliers(rp->settings, t->in->view.shape[1]);
    t->scheme = find_or_add_scheme(p, &s);
}

/* No more than this many schemes come out of choose(). */
static size_t most_schemes(const lutra_quantize_options *o)
{
    const size_t passes = o->recipe ? (size_t)o->recipe->n_passes : 0;
    return ((size_t)o->n_rules + 1 + passes) * (passes + 1) * 2; /* inside and outside of blocks */
}

/* ---- layout --------------------------------------------------------------------------------- */

/* One tensor of the output of one input tensor. */
static lutra_status add_part(lu_plan *p, const char *module, const lu_tensor_info *info,
                             lu_st_entry *e, lutra_err *err)
{
    char name[MAX_NAME + 32];
    snprintf(name, sizeof name, "%s%s", module, lu_tensor_suffix(info->kind));
    if (lu_checkpoint_find(p->checkpoint, name))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "tensor '%.200s' is in the input already: it looks quantized", name);
    size_t bytes = lutra_dtype_bytes(info->dtype);
    e->view = (lutra_tensor){.dtype = info->dtype, .rank = info->rank};
    for (int i = 0; i < info->rank; i++) {
        e->view.shape[i] = info->shape[i];
        if (!lu_mul_size(bytes, (size_t)info->shape[i], &bytes))
            return lu_fail(err, LUTRA_E_LIMIT, "tensor '%.200s' would be too large", name);
    }
    e->view.bytes = bytes;
    e->name = p->names[p->n_names] = lu_strdup(name);
    if (!e->name)
        return lu_fail_nomem(err, strlen(name));
    p->n_names++;
    return LUTRA_OK;
}

/* The output entries of one tensor from e[0] on, and their kinds; *n says how many. */
static lutra_status add_tensor(lu_plan *p, lu_plan_tensor *t, lu_st_entry *e, lu_tensor_kind *kinds,
                               int64_t *n, lutra_err *err)
{
    const lutra_tensor *v = &t->in->view;
    if (!t->scheme) {
        char *copy = lu_strdup(t->in->name);
        if (!copy)
            return lu_fail_nomem(err, strlen(t->in->name));
        p->names[p->n_names++] = copy;
        e[0] = *t->in;
        kinds[0] = (lu_tensor_kind)0;
        t->out_bytes = v->bytes;
        *n = 1;
        return LUTRA_OK;
    }
    char module[MAX_NAME];
    lu_tensor_info tensors[LU_N_TENSOR_KINDS];
    if (lutra_format_groups(&t->scheme->format, v->shape[1]) == 0)
        return lu_fail(
            err, LUTRA_E_ARG,
            "tensor '%.200s': group size %lld does not divide its %lld columns: choose another "
            "group size or 'channel', or ignore this module",
            t->in->name, (long long)t->scheme->format.group_size, (long long)v->shape[1]);
    const lu_act_format *act = &t->scheme->act;
    if (act->bits && act->scope == LU_ACT_GROUP && v->shape[1] % act->group_size != 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "tensor '%.200s': the activations' group size %lld does not divide its %lld "
                       "columns: choose another group size or 'token'",
                       t->in->name, (long long)act->group_size, (long long)v->shape[1]);
    lu_plan_module(t, module, sizeof module);
    *n = lu_scheme_tensors(t->scheme, v->shape[0], v->shape[1], t->n_outliers, tensors);
    for (int64_t i = 0; i < *n; i++) {
        LU_TRY(add_part(p, module, &tensors[i], &e[i], err));
        kinds[i] = tensors[i].kind;
        t->out_bytes += e[i].view.bytes;
    }
    p->n_encoded++;
    p->params_encoded += v->shape[0] * v->shape[1];
    p->bytes_encoded += (int64_t)t->out_bytes;
    return LUTRA_OK;
}

static lutra_status lay_out(lu_plan *p, lu_plan_shard *s, int64_t shard, lutra_err *err)
{
    const size_t most = LU_N_TENSOR_KINDS * (size_t)s->count;
    lu_st_entry *entries = lu_array(most, sizeof *entries);
    lu_tensor_kind *kinds = lu_array(most, sizeof *kinds);
    int64_t *owners = lu_array(most, sizeof *owners); /* which of p->tensors */
    uint64_t *offsets = lu_array(most, sizeof *offsets);
    lutra_status status = entries && kinds && owners && offsets
                              ? LUTRA_OK
                              : lu_fail_nomem(err, most * sizeof *entries);
    int64_t n = 0;
    const int64_t first_name = p->n_names;
    for (int64_t i = s->first; status == LUTRA_OK && i < s->first + s->count; i++) {
        int64_t parts = 0;
        status = add_tensor(p, &p->tensors[i], entries + n, kinds + n, &parts, err);
        for (; status == LUTRA_OK && parts > 0; parts--)
            owners[n++] = i;
    }
    if (status == LUTRA_OK)
        status =
            lu_st_layout(entries, n, &s->header, &s->header_bytes, offsets, &s->file_size, err);
    for (int64_t i = 0; status == LUTRA_OK && i < n; i++)
        p->tensors[owners[i]].at[kinds[i]] = offsets[i];
    for (int64_t i = s->first; status == LUTRA_OK && i < s->first + s->count; i++) {
        p->bytes_in += (int64_t)p->tensors[i].in->view.bytes;
        p->bytes_out += (int64_t)p->tensors[i].out_bytes;
    }
    for (int64_t i = first_name; i < p->n_names; i++)
        p->name_shards[i] = shard;
    lu_free(entries);
    lu_free(kinds);
    lu_free(owners);
    lu_free(offsets);
    return status;
}

/* ---- the plan ------------------------------------------------------------------------------- */

/* Fills p->tensors shard by shard with the tensors that the index maps there. */
static void list_tensors(lu_plan *p, const lutra_quantize_options *o)
{
    for (int64_t s = 0; s < p->n_shards; s++) {
        const lu_st_file *file = lu_checkpoint_shard(p->checkpoint, s);
        lu_plan_shard *shard = &p->shards[s];
        shard->name = lu_checkpoint_shard_name(p->checkpoint, s);
        shard->first = p->n_tensors;
        for (int64_t i = 0; i < lu_st_count(file); i++) {
            const lu_st_entry *e = lu_st_at(file, i);
            if (lu_checkpoint_find(p->checkpoint, e->name) != e)
                continue;
            lu_plan_tensor *t = &p->tensors[p->n_tensors++];
            *t = (lu_plan_tensor){.in = e, .shard = s};
            choose(p, t, o);
        }
        shard->count = p->n_tensors - shard->first;
    }
}

lutra_status lu_plan_make(lutra_checkpoint *c, const lutra_quantize_options *o, lu_plan *out,
                          lutra_err *err)
{
    const size_t count = (size_t)lutra_checkpoint_count(c);
    memset(out, 0, sizeof *out);
    out->range = o->range;
    if (o->act_quant)
        LU_TRY(lu_act_format_parse(o->act_quant, &out->act, err));
    out->checkpoint = c;
    out->n_shards = lu_checkpoint_n_shards(c);
    out->tensors = lu_calloc(count, sizeof *out->tensors);
    out->shards = lu_calloc((size_t)out->n_shards, sizeof *out->shards);
    out->names = lu_calloc(count, LU_N_TENSOR_KINDS * sizeof *out->names);
    out->name_shards = lu_calloc(count, LU_N_TENSOR_KINDS * sizeof *out->name_shards);
    out->schemes = lu_calloc(most_schemes(o), sizeof *out->schemes);
    if (!out->tensors || !out->shards || !out->names || !out->name_shards || !out->schemes)
        return lu_fail_nomem(err, count * sizeof *out->tensors);
    list_tensors(out, o);
    for (int64_t s = 0; s < out->n_shards; s++) {
        const lutra_status status = lay_out(out, &out->shards[s], s, err);
        if (status != LUTRA_OK)
            return lu_fail_prefix(err, status, "%s", out->shards[s].name);
    }
    return LUTRA_OK;
}

void lu_plan_free(lu_plan *p)
{
    for (int64_t i = 0; i < p->n_names; i++)
        lu_free(p->names[i]);
    for (int64_t s = 0; p->shards && s < p->n_shards; s++)
        lu_free(p->shards[s].header);
    lu_free(p->names);
    lu_free(p->name_shards);
    lu_free(p->shards);
    lu_free(p->tensors);
    lu_free(p->schemes);
    memset(p, 0, sizeof *p);
}
