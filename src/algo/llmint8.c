/* llmint8.c - LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339): the few input columns that hold
   the outliers of the activations stay in fp16, all others are rounded vector-wise (one scale per
   row of weights, and per row of activations where these are rounded too).

   In the paper the columns are those whose activations reach 6 in the present input. A checkpoint
   holds them once for all, so here they are the `columns` inputs with the largest activations over
   the calibration rows; more that reach the threshold are reported. Scales are taken over the
   columns that are rounded. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "algo/pass.h"
#include "base/mem.h"
#include "tensor/convert.h"

typedef struct {
    double threshold;
    int64_t columns;
} settings;

static const lutra_param params[] = {
    {"columns", LUTRA_PARAM_INT, offsetof(settings, columns), 16, 0, 65536, NULL,
     "input columns that stay in fp16, at most a quarter of them all"},
    {"threshold", LUTRA_PARAM_REAL, offsetof(settings, threshold), 6, 0, 1e30, NULL,
     "activations of this size are outliers; a warning says where more columns reach it"},
    {0},
};

static int64_t n_outliers(const void *set, int64_t k)
{
    const int64_t columns = ((const settings *)set)->columns, most = k < 8 ? 1 : k / 4;
    return columns < most ? columns : most;
}

typedef struct {
    float size;
    int32_t column;
} ranked;

static int by_falling_size(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->size > y->size   ? -1
           : x->size < y->size ? 1
                               : (x->column > y->column) - (x->column < y->column);
}

static int by_column(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The n columns with the largest activations, ascending, to `columns`. */
static lutra_status choose_columns(const lu_block *b, const lu_site *site, const settings *set,
                                   int64_t n, int32_t *columns, lutra_err *err)
{
    int64_t reach = 0;
    ranked *r = lu_array((size_t)site->k, sizeof *r);
    if (!r)
        return lu_fail_nomem(err, (size_t)site->k * sizeof *r);
    for (int64_t c = 0; c < site->k; c++) {
        r[c] = (ranked){site->stats.absmax[c], (int32_t)c};
        reach += (double)r[c].size >= set->threshold;
    }
    qsort(r, (size_t)site->k, sizeof *r, by_falling_size);
    for (int64_t i = 0; i < n; i++)
        columns[i] = r[i].column;
    qsort(columns, (size_t)n, sizeof *columns, by_column);
    lu_free(r);
    if (reach > n)
        lu_log(b->ctx, LUTRA_LOG_WARN,
               "layer %lld %s: activations of %lld columns reach %g and %lld stay in fp16",
               (long long)b->index, site->name, (long long)reach, set->threshold, (long long)n);
    return LUTRA_OK;
}

/* Moves the columns from w to codes.outlier_weights; zeros stay in their place. */
static void take_columns(lu_site_linear *l, lu_codes *to)
{
    for (int64_t r = 0; r < l->n; r++)
        for (int64_t i = 0; i < to->n_outliers; i++) {
            float *w = l->w + r * l->k + to->outlier_columns[i];
            to->outlier_weights[r * to->n_outliers + i] = lu_f32_to_f16(*w);
            *w = 0;
        }
}

/* True if a weight of the columns is out of fp16's range. */
static bool overflows(const lu_site_linear *l, const int32_t *columns, int64_t n)
{
    bool over = false;
    for (int64_t r = 0; r < l->n; r++)
        for (int64_t i = 0; i < n; i++)
            over |= !(fabsf(l->w[r * l->k + columns[i]]) < 65504.0f);
    return over;
}

static lutra_status round_linear(lu_block *b, lu_site_linear *l, const int32_t *columns, int64_t n,
                                 lutra_err *err)
{
    const size_t bytes = (size_t)l->n * (size_t)l->k * sizeof *l->w;
    if (overflows(l, columns, n))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: a weight of an outlier column does not fit fp16",
                       l->name);
    float *w = lu_alloc(bytes);
    int32_t *kept = lu_array((size_t)n, sizeof *kept);
    uint16_t *weights = lu_array((size_t)l->n, (size_t)n * sizeof *weights);
    lutra_status status = w && kept && weights ? LUTRA_OK : lu_fail_nomem(err, bytes);
    if (status == LUTRA_OK) {
        memcpy(w, l->w, bytes);
        memcpy(kept, columns, (size_t)n * sizeof *kept);
        lu_codes apart = {.n_outliers = n, .outlier_columns = kept, .outlier_weights = weights};
        take_columns(l, &apart);
        status = lu_linear_round(b, l, err);
        memcpy(l->w, w, bytes);
        if (status == LUTRA_OK) {
            l->codes.n_outliers = n;
            l->codes.outlier_columns = kept;
            l->codes.outlier_weights = weights;
            kept = NULL;
            weights = NULL;
            status = lu_linear_close_codes(b, l, err);
        }
    }
    lu_free(w);
    lu_free(kept);
    lu_free(weights);
    return status;
}

static lutra_status llmint8_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    const int64_t n = n_outliers(set, site->k);
    int32_t *columns = lu_array((size_t)n, sizeof *columns);
    if (!columns)
        return lu_fail_nomem(err, (size_t)n * sizeof *columns);
    lutra_status status = choose_columns(b, site, set, n, columns, err);
    for (int i = 0; status == LUTRA_OK && i < site->n_linears; i++) {
        lu_site_linear *l = site->linears[i];
        if (l->wanted && !l->kept)
            status = n ? round_linear(b, l, columns, n, err) : lu_linear_round(b, l, err);
    }
    lu_free(columns);
    return status;
}

static unsigned llmint8_needs(const void *set)
{
    (void)set;
    return LU_STAT_ABSMAX;
}

static void llmint8_scheme(const void *set, lu_scheme *s)
{
    s->outlier_columns = ((const settings *)set)->columns > 0;
}

const lu_pass lu_pass_llmint8 = {
    .method = {.name = "llmint8",
               .summary = "keeps the input columns with the largest activations in fp16",
               .source = "Dettmers et al. 2022, arXiv 2208.07339",
               .kind = LUTRA_METHOD_ROUND,
               .needs_data = true,
               .params = params},
    .settings_size = sizeof(settings),
    .needs = llmint8_needs,
    .scheme = llmint8_scheme,
    .outliers = n_outliers,
    .site = llmint8_site,
};
