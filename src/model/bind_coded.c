/* bind_coded.c - see bind_coded.h. */
#include "model/bind_coded.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "fmt/codec.h"

#define NAME_BYTES 256

static const char *shape_text(const int64_t *shape, int rank, char *buf, size_t size)
{
    size_t used = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (used < size)
        snprintf(buf + used, size - used, "]");
    return buf;
}

lutra_status lu_bind_tensor(const lutra_checkpoint *files, const char *name, int rank,
                            const int64_t *shape, const lutra_tensor **out, lutra_err *err)
{
    const lu_st_entry *e = lu_checkpoint_find(files, name);
    if (!e)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor %s is missing, config.json promises it",
                       lu_checkpoint_path(files), name);
    const lutra_tensor *t = &e->view;
    if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        char found[96], want[64];
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: tensor %s has shape %s, expected %s: config.json and the weights do "
                       "not belong together",
                       lu_checkpoint_path(files), name,
                       shape_text(t->shape, t->rank, found, sizeof found),
                       shape_text(shape, rank, want, sizeof want));
    }
    *out = t;
    return LUTRA_OK;
}

lutra_status lu_bind_wrong_dtype(const lutra_checkpoint *files, const char *name,
                                 lutra_dtype found, const char *want, lutra_err *err)
{
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: tensor %s is %s, expected %s",
                   lu_checkpoint_path(files), name, lutra_dtype_name(found), want);
}

/* ---- contents -------------------------------------------------------------------------------- */

/* A tensor of the module, found, for messages and checks. */
typedef struct {
    const lutra_checkpoint *files;
    const char *name;
    const lu_scheme *scheme;
    const void *data;
    int64_t n; /* elements */
} part;

static int32_t int_at(const part *p, int64_t i)
{
    int32_t v;
    memcpy(&v, (const uint8_t *)p->data + (size_t)i * sizeof v, sizeof v);
    return v;
}

/* Zero points are codes; kernels look them up without asking. */
static lutra_status check_zeros(const part *p, lutra_err *err)
{
    const uint8_t *zeros = p->data;
    const int limit = 1 << p->scheme->format.bits;
    for (int64_t i = 0; i < p->n; i++)
        if (zeros[i] >= limit)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: tensor %s holds the zero point %d, expected codes below %d",
                           lu_checkpoint_path(p->files), p->name, zeros[i], limit);
    return LUTRA_OK;
}

static lutra_status check_tables(const part *p, lutra_err *err)
{
    for (int64_t i = 0; i < p->n; i++) {
        float v;
        memcpy(&v, (const uint8_t *)p->data + (size_t)i * sizeof v, sizeof v);
        if (!(fabsf(v) <= LU_MAX_ABSMAX_REF))
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: tensor %s holds %g, expected finite values of magnitude up to %g",
                           lu_checkpoint_path(p->files), p->name, (double)v,
                           (double)LU_MAX_ABSMAX_REF);
    }
    return LUTRA_OK;
}

/* Each group has as many columns as any other: kernels sort columns by it into whole groups. */
static lutra_status check_groups(const part *p, lutra_err *err)
{
    const int64_t size = p->scheme->format.group_size, groups = p->n / size;
    int64_t *count = lu_calloc((size_t)groups, sizeof *count);
    if (!count)
        return lu_fail_nomem(err, (size_t)groups * sizeof *count);
    lutra_status status = LUTRA_OK;
    for (int64_t i = 0; i < p->n && status == LUTRA_OK; i++) {
        const int32_t g = int_at(p, i);
        if (g < 0 || g >= groups || ++count[g] > size)
            status = lu_fail(err, LUTRA_E_FORMAT,
                             "%s: tensor %s puts column %" PRId64 " in group %d, expected %" PRId64
                             " columns in each of %" PRId64 " groups",
                             lu_checkpoint_path(p->files), p->name, i, g, size, groups);
    }
    lu_free(count);
    return status;
}

static lutra_status check_columns(const part *p, int64_t k, lutra_err *err)
{
    for (int64_t i = 0; i < p->n; i++)
        if (int_at(p, i) < 0 || int_at(p, i) >= k || (i && int_at(p, i) <= int_at(p, i - 1)))
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s: tensor %s holds column %d, expected ascending ones below %" PRId64,
                           lu_checkpoint_path(p->files), p->name, int_at(p, i), k);
    return LUTRA_OK;
}

static lutra_status check_input_scale(const part *p, lutra_err *err)
{
    float v;
    memcpy(&v, p->data, sizeof v);
    if (!(v >= LU_ACT_MIN_SCALE) || !isfinite(v))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor %s is %g, expected a positive number",
                       lu_checkpoint_path(p->files), p->name, (double)v);
    return LUTRA_OK;
}

static lutra_status check_input_zero(const part *p, lutra_err *err)
{
    const int zero = *(const uint8_t *)p->data, highest = lu_act_highest(&p->scheme->act);
    if (zero > highest)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: tensor %s is %d, expected a code up to %d",
                       lu_checkpoint_path(p->files), p->name, zero, highest);
    return LUTRA_OK;
}

/* Checks what a tensor holds and puts it in its place in w. */
static lutra_status place(const part *p, lu_tensor_kind kind, lu_weight *w, lu_act_quant *input,
                          lutra_err *err)
{
    switch (kind) {
    case LU_TENSOR_CODES: w->data = p->data; break;
    case LU_TENSOR_SCALES: w->scales = p->data; break;
    case LU_TENSOR_ZEROS: LU_TRY(check_zeros(p, err)); w->zeros = p->data; break;
    case LU_TENSOR_TABLE:
        LU_TRY(check_tables(p, err));
        w->tables = p->data;
        w->table_rows = p->scheme->format.table_rows;
        if (!w->table_rows) { /* one for the matrix */
            memcpy(w->table, p->data, sizeof w->table[0] << w->bits);
            w->tables = NULL;
        }
        break;
    case LU_TENSOR_GROUPS: LU_TRY(check_groups(p, err)); w->groups = p->data; break;
    case LU_TENSOR_OUTLIER_COLUMNS:
        LU_TRY(check_columns(p, w->k, err));
        w->outlier_columns = p->data;
        w->n_outliers = p->n;
        break;
    case LU_TENSOR_OUTLIER_WEIGHTS: w->outlier_weights = p->data; break;
    case LU_TENSOR_INPUT_SCALE:
        LU_TRY(check_input_scale(p, err));
        memcpy(&input->scale, p->data, sizeof input->scale);
        break;
    case LU_TENSOR_INPUT_ZERO:
        LU_TRY(check_input_zero(p, err));
        input->zero = *(const uint8_t *)p->data;
        break;
    case LU_N_TENSOR_KINDS: break;
    }
    return LUTRA_OK;
}

/* The number of outlier columns is the one size that the scheme does not give. */
static int64_t count_outliers(const lutra_checkpoint *files, const char *module)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s%s", module, lu_tensor_suffix(LU_TENSOR_OUTLIER_COLUMNS));
    const lu_st_entry *e = lu_checkpoint_find(files, name);
    return e && e->view.rank == 1 ? e->view.shape[0] : 0;
}

lutra_status lu_bind_coded(const lutra_checkpoint *files, const char *module, const lu_scheme *s,
                           lu_weight *w, lu_act_quant *input, lutra_err *err)
{
    const lutra_format *f = &s->format;
    if (!lutra_format_groups(f, w->k))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: %s has %" PRId64 " columns, which group size %" PRId64
                       " does not divide",
                       lu_checkpoint_path(files), module, w->k, f->group_size);
    if (s->act.scope == LU_ACT_GROUP && w->k % s->act.group_size != 0)
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: %s has %" PRId64 " columns, which the activations' group size %" PRId64
                       " does not divide",
                       lu_checkpoint_path(files), module, w->k, s->act.group_size);
    w->bits = f->bits;
    w->group_size = f->group_size;
    w->scale_dtype = f->scale_dtype;
    input->format = s->act;
    input->zero = LU_ACT_SYM_ZERO;
    memcpy(w->table, f->table, sizeof w->table);
    lu_tensor_info tensors[LU_N_TENSOR_KINDS];
    const int n = lu_scheme_tensors(s, w->n, w->k, count_outliers(files, module), tensors);
    for (int i = 0; i < n; i++) {
        const lu_tensor_info *want = &tensors[i];
        char name[NAME_BYTES];
        const lutra_tensor *t;
        snprintf(name, sizeof name, "%s%s", module, lu_tensor_suffix(want->kind));
        LU_TRY(lu_bind_tensor(files, name, want->rank, want->shape, &t, err));
        if (t->dtype != want->dtype)
            return lu_bind_wrong_dtype(files, name, t->dtype, lutra_dtype_name(want->dtype), err);
        const part p = {files, name, s, t->data,
                        want->rank == 1 ? want->shape[0] : want->shape[0] * want->shape[1]};
        LU_TRY(place(&p, want->kind, w, input, err));
    }
    return LUTRA_OK;
}
