/* block_output.c - see block_output.h. */
#include "calib/block_output.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "tensor/convert.h"

#define NAME_BYTES 176

/* ---- tensors by name --------------------------------------------------------------------------
 */

typedef struct {
    const char *name;
    int64_t at;
} named;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static lutra_status sort_names(lu_output *o, lutra_err *err)
{
    const int64_t n = o->plan->n_tensors;
    named *list = lu_array((size_t)n, sizeof *list);
    o->by_name = lu_array((size_t)n, sizeof *o->by_name);
    const bool ok = list && o->by_name;
    for (int64_t i = 0; ok && i < n; i++)
        list[i] = (named){o->plan->tensors[i].in->name, i};
    if (ok)
        qsort(list, (size_t)n, sizeof *list, by_name);
    for (int64_t i = 0; ok && i < n; i++)
        o->by_name[i] = list[i].at;
    lu_free(list);
    return ok ? LUTRA_OK : lu_fail_nomem(err, (size_t)n * sizeof *list);
}

int64_t lu_output_find(const lu_output *o, const char *name)
{
    int64_t lo = 0, hi = o->plan->n_tensors;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        const int order = strcmp(o->plan->tensors[o->by_name[mid]].in->name, name);
        if (order == 0)
            return o->by_name[mid];
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

static int64_t find_weight(const lu_output *o, const char *module)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s.weight", module);
    return lu_output_find(o, name);
}

const lu_scheme *lu_output_scheme(const lu_output *o, const char *module)
{
    const int64_t i = find_weight(o, module);
    return i >= 0 ? o->plan->tensors[i].scheme : NULL;
}

lutra_status lu_output_open(const lu_plan *plan, const char *folder, lu_journal *journal,
                            lu_journal_entry *entries, lu_output *out, lutra_err *err)
{
    *out = (lu_output){.plan = plan, .folder = folder, .journal = journal, .entries = entries};
    out->fds = lu_array((size_t)plan->n_shards, sizeof *out->fds);
    out->touched = lu_calloc((size_t)plan->n_shards, sizeof *out->touched);
    for (int64_t i = 0; out->fds && i < plan->n_shards; i++)
        out->fds[i] = -1;
    if (!out->fds || !out->touched)
        return lu_fail_nomem(err, (size_t)plan->n_shards * sizeof *out->fds);
    return sort_names(out, err);
}

void lu_output_close(lu_output *o)
{
    for (int64_t i = 0; o->fds && i < o->plan->n_shards; i++)
        if (o->fds[i] >= 0)
            close(o->fds[i]);
    lu_free(o->fds);
    lu_free(o->touched);
    lu_free(o->by_name);
    *o = (lu_output){.plan = NULL};
}

/* The tensors of the layer, ascending in no order; list has room for all. Returns how many. */
static lutra_status list_tensors(const lu_output *o, const lu_view *v, int64_t *list, int64_t *n,
                                 lutra_err *err)
{
    *n = 0;
    for (int i = 0; i < v->n_linears + v->n_vectors; i++) {
        const bool linear = i < v->n_linears;
        const char *name = linear ? v->linears[i].name : v->vectors[i - v->n_linears].name;
        list[*n] = linear ? find_weight(o, name) : lu_output_find(o, name);
        if (list[(*n)++] < 0)
            return lu_fail(err, LUTRA_E_INTERNAL, "%s is not in the plan", name);
    }
    return LUTRA_OK;
}

static int64_t *take_list(const lu_view *v)
{
    return lu_array((size_t)(v->n_linears + v->n_vectors), sizeof(int64_t));
}

bool lu_output_has(const lu_output *o, const lu_view *v)
{
    int64_t n = 0, *list = take_list(v);
    bool all = list && list_tensors(o, v, list, &n, NULL) == LUTRA_OK;
    for (int64_t i = 0; all && i < n; i++)
        all = o->entries[list[i]].done;
    lu_free(list);
    return all;
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

static lutra_status open_shard(lu_output *o, int64_t shard, lutra_err *err)
{
    const lu_plan_shard *s = &o->plan->shards[shard];
    if (o->fds[shard] >= 0)
        return LUTRA_OK;
    char *path = lu_path_join(o->folder, s->name);
    if (!path)
        return lu_fail_nomem(err, strlen(o->folder));
    lutra_status status = LUTRA_OK;
    const int fd = o->fds[shard] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        status = lu_fail_errno(err, errno, path, "create");
    else if (ftruncate(fd, (off_t)s->file_size) != 0)
        status = lu_fail_errno(err, errno, path, "set the size of");
    else
        status = lu_write_at(fd, path, s->header, s->header_bytes, 0, err);
    lu_free(path);
    return status;
}

static lutra_status put(lu_output *o, int64_t shard, const void *data, size_t n, uint64_t at,
                        lutra_err *err)
{
    LU_TRY(open_shard(o, shard, err));
    o->touched[shard] = true;
    return lu_write_at(o->fds[shard], o->plan->shards[shard].name, data, n, at, err);
}

static lutra_status get(lu_output *o, int64_t shard, void *data, size_t n, uint64_t at,
                        lutra_err *err)
{
    LU_TRY(open_shard(o, shard, err));
    for (size_t done = 0; done < n;) {
        const ssize_t got = pread(o->fds[shard], (char *)data + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return lu_fail_errno(err, got < 0 ? errno : EIO, o->plan->shards[shard].name, "read");
        done += (size_t)got;
    }
    return LUTRA_OK;
}

static lutra_status sync_touched(lu_output *o, lutra_err *err)
{
    for (int64_t s = 0; s < o->plan->n_shards; s++) {
        if (o->touched[s] && fdatasync(o->fds[s]) != 0)
            return lu_fail_errno(err, errno, o->plan->shards[s].name, "sync");
        o->touched[s] = false;
    }
    return LUTRA_OK;
}

/* ---- dense tensors ----------------------------------------------------------------------------
 */

typedef enum { ROUND, WRITE, READ } dense_action;

/* values [n] against tensor t as it is stored, a piece at a time. */
static lutra_status dense(lu_output *o, const lu_plan_tensor *t, float *values, int64_t n,
                          dense_action action, lutra_err *err)
{
    uint8_t buffer[16384];
    const lutra_dtype type = t->in->view.dtype;
    const size_t size = lutra_dtype_bytes(type);
    const int64_t most = (int64_t)(sizeof buffer / size);
    for (int64_t i = 0; i < n; i += most) {
        const int64_t m = n - i < most ? n - i : most;
        const uint64_t at = t->at[0] + (uint64_t)i * size;
        if (action == READ)
            LU_TRY(get(o, t->shard, buffer, (size_t)m * size, at, err));
        else if (!lu_from_f32(type, values + i, m, buffer))
            return lu_fail(err, LUTRA_E_UNSUPPORTED, "tensor '%s' is %s, expected F32, F16 or BF16",
                           t->in->name, lutra_dtype_name(type));
        if (action == WRITE)
            LU_TRY(put(o, t->shard, buffer, (size_t)m * size, at, err));
        else
            lu_to_f32(type, buffer, m, values + i);
    }
    for (int64_t i = 0; action == WRITE && i < n; i++)
        if (!isfinite(values[i]))
            return lu_fail(err, LUTRA_E_FORMAT, "tensor '%s' would hold a value that is not finite",
                           t->in->name);
    return LUTRA_OK;
}

static lutra_status each_dense(lu_output *o, lu_view *v, dense_action action, lutra_err *err)
{
    for (int i = 0; i < v->n_linears; i++) {
        lu_view_linear *l = &v->linears[i];
        const lu_plan_tensor *t = &o->plan->tensors[find_weight(o, l->name)];
        const bool held = l->face.w != NULL;
        if (t->scheme || (action == ROUND && !l->changed))
            continue;
        LU_TRY(lu_view_fetch(v, l, err));
        LU_TRY(dense(o, t, l->face.w, l->face.n * l->face.k, action, err));
        l->changed |= action == READ;
        if (!held)
            lu_view_release(l);
    }
    for (int i = 0; i < v->n_vectors; i++)
        LU_TRY(dense(o, &o->plan->tensors[lu_output_find(o, v->vectors[i].name)],
                     v->vectors[i].values, v->vectors[i].n, action, err));
    return LUTRA_OK;
}

lutra_status lu_output_settle(const lu_output *o, lu_view *v, lutra_err *err)
{
    return each_dense((lu_output *)o, v, ROUND, err); /* touches no file */
}

/* ---- codes ------------------------------------------------------------------------------------
 */

/* The tensors of the linear as the plan has laid them out; returns how many. */
static int list_parts(const lu_plan_tensor *t, const lu_site_linear *l,
                      lu_tensor_info out[LU_N_TENSOR_KINDS])
{
    return lu_scheme_tensors(t->scheme, l->n, l->k, t->n_outliers, out);
}

static size_t part_bytes(const lu_tensor_info *t)
{
    size_t bytes = lutra_dtype_bytes(t->dtype);
    for (int i = 0; i < t->rank; i++)
        bytes *= (size_t)t->shape[i];
    return bytes;
}

static lutra_status put_codes(lu_output *o, const lu_plan_tensor *t, lu_site_linear *l,
                              lutra_err *err)
{
    lu_tensor_info parts[LU_N_TENSOR_KINDS];
    const int n = list_parts(t, l, parts);
    lu_codes *c = &l->codes;
    if (!c->codes)
        return lu_fail(err, LUTRA_E_INTERNAL, "%s: no pass of the recipe has rounded it", l->name);
    if ((c->group_of && !t->scheme->column_groups) || c->n_outliers != t->n_outliers)
        return lu_fail(err, LUTRA_E_INTERNAL,
                       "%s: its pass made column groups or outliers that it did not announce",
                       l->name);
    if (t->scheme->column_groups && !c->group_of) { /* rounded to nearest: groups are runs */
        c->group_of = lu_array((size_t)l->k, sizeof *c->group_of);
        if (!c->group_of)
            return lu_fail_nomem(err, (size_t)l->k * sizeof *c->group_of);
        for (int64_t k = 0; k < l->k; k++)
            c->group_of[k] = (int32_t)(k / l->format.group_size);
    }
    if (lu_act_is_static(&t->scheme->act) && !(c->input_scale > 0))
        return lu_fail(err, LUTRA_E_INTERNAL, "%s: no input was seen to scale", l->name);
    for (int i = 0; i < n; i++) {
        const void *data = lu_linear_codes_part(l, parts[i].kind);
        if (!data && part_bytes(&parts[i]))
            return lu_fail(err, LUTRA_E_INTERNAL, "%s: its pass made no %s", l->name,
                           lu_tensor_suffix(parts[i].kind));
        LU_TRY(put(o, t->shard, data, part_bytes(&parts[i]), t->at[parts[i].kind], err));
    }
    return LUTRA_OK;
}

static lutra_status open_extras(const lu_plan_tensor *t, lu_site_linear *l, lutra_err *err)
{
    lu_codes *c = &l->codes;
    const size_t n = (size_t)t->n_outliers;
    const lutra_format *f = &l->format;
    const size_t values = f->learned ? (size_t)lu_format_tables(f, l->n) << f->bits : 0;
    lu_free(l->tables);
    l->tables = values ? lu_array(values, sizeof *l->tables) : NULL;
    c->n_outliers = t->n_outliers;
    c->group_of = t->scheme->column_groups ? lu_array((size_t)l->k, sizeof *c->group_of) : NULL;
    c->outlier_columns = n ? lu_array(n, sizeof *c->outlier_columns) : NULL;
    c->outlier_weights = n ? lu_array((size_t)l->n, n * sizeof *c->outlier_weights) : NULL;
    return (c->group_of || !t->scheme->column_groups) && (l->tables || !values) &&
                   (!n || (c->outlier_columns && c->outlier_weights))
               ? LUTRA_OK
               : lu_fail_nomem(err, (size_t)l->n * n * sizeof *c->outlier_weights);
}

static lutra_status get_codes(lu_output *o, const lu_plan_tensor *t, lu_site_linear *l,
                              lutra_err *err)
{
    lu_tensor_info parts[LU_N_TENSOR_KINDS];
    const int n = list_parts(t, l, parts);
    l->format = t->scheme->format;
    LU_TRY(lu_linear_open_codes(l, err));
    LU_TRY(open_extras(t, l, err));
    for (int i = 0; i < n; i++)
        LU_TRY(get(o, t->shard, lu_linear_codes_part(l, parts[i].kind), part_bytes(&parts[i]),
                   t->at[parts[i].kind], err));
    return LUTRA_OK;
}

/* ---- a layer ----------------------------------------------------------------------------------
 */

lutra_status lu_output_write(lu_output *o, const lu_view *v, const double *errors, lutra_err *err)
{
    int64_t n = 0, *list = take_list(v);
    lutra_status status = list ? list_tensors(o, v, list, &n, err)
                               : lu_fail_nomem(err, (size_t)v->n_linears * sizeof *list);
    for (int i = 0; status == LUTRA_OK && i < v->n_linears; i++)
        if (o->plan->tensors[list[i]].scheme)
            status = put_codes(o, &o->plan->tensors[list[i]], (lu_site_linear *)&v->linears[i].face,
                               err);
    if (status == LUTRA_OK)
        status = each_dense(o, (lu_view *)v, WRITE, err);
    if (status == LUTRA_OK)
        status = sync_touched(o, err);
    for (int64_t i = 0; status == LUTRA_OK && i < n; i++) {
        lu_journal_entry *e = &o->entries[list[i]];
        *e = (lu_journal_entry){.done = true, .error = NAN};
        if (i < v->n_linears && o->plan->tensors[list[i]].scheme) {
            e->signal = v->linears[i].face.signal;
            e->noise = v->linears[i].face.noise;
            e->error = errors[i];
        }
    }
    if (status == LUTRA_OK)
        status = lu_journal_add_list(o->journal, o->entries, list, n, err);
    lu_free(list);
    return status;
}

lutra_status lu_output_read(lu_output *o, lu_view *v, lutra_err *err)
{
    for (int i = 0; i < v->n_linears; i++) {
        lu_site_linear *l = &v->linears[i].face;
        const lu_plan_tensor *t = &o->plan->tensors[find_weight(o, l->name)];
        if (t->scheme)
            LU_TRY(get_codes(o, t, l, err));
    }
    return each_dense(o, v, READ, err);
}
