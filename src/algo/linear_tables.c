/* linear_tables.c - learned tables of a linear of the block view, and the encoder for its rows. */
#include <stdatomic.h>
#include <string.h>

#include "algo/learn_table.h"
#include "algo/pass.h"
#include "base/mem.h"

typedef struct {
    const lu_block *b;
    lu_site_linear *l;
    const float *importance;
    _Atomic bool failed;
} learn_job;

static int64_t rows_of_table(const lu_site_linear *l)
{
    return l->format.table_rows ? l->format.table_rows : l->n;
}

static void learn_blocks(void *arg, int64_t begin, int64_t end, int worker)
{
    learn_job *j = arg;
    const lu_site_linear *l = j->l;
    const int64_t rows = rows_of_table(l);
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i * rows, left = l->n - first;
        const lu_learn_args a = {.format = &l->format,
                                 .level = j->b->level,
                                 .w = l->w + first * l->k,
                                 .dtype = LUTRA_F32,
                                 .n = left < rows ? left : rows,
                                 .k = l->k,
                                 .importance = j->importance};
        if (lu_learn_table(&a, j->l->tables + (i << l->format.bits), NULL) != LUTRA_OK)
            atomic_store(&j->failed, true);
    }
}

lutra_status lu_linear_learn(lu_block *b, lu_site_linear *l, const float *importance,
                             lutra_err *err)
{
    const int64_t tables = lu_format_tables(&l->format, l->n);
    const size_t values = (size_t)tables << l->format.bits;
    if (!l->format.learned)
        return LUTRA_OK;
    if (lutra_format_groups(&l->format, l->k) == 0) /* says which mend there is */
        return lu_linear_open_codes(l, err);
    lu_free(l->tables);
    l->tables = lu_array(values, sizeof *l->tables);
    if (!l->tables)
        return lu_fail_nomem(err, values * sizeof *l->tables);
    learn_job j = {.b = b, .l = l, .importance = importance};
    atomic_init(&j.failed, false);
    lu_pool_for(b->ctx->pool, tables, 1, learn_blocks, &j);
    return atomic_load(&j.failed) ? lu_fail_nomem(err, (size_t)l->k * sizeof(float)) : LUTRA_OK;
}

void lu_linear_encoder(const lu_block *b, const lu_site_linear *l, int64_t row, lu_encoder *out,
                       int64_t *end)
{
    const int64_t rows = rows_of_table(l), block = row / rows;
    lutra_format f = l->format;
    *end = l->n;
    if (l->tables) {
        memcpy(f.table, l->tables + (block << f.bits), sizeof f.table[0] << f.bits);
        *end = (block + 1) * rows < l->n ? (block + 1) * rows : l->n;
    }
    lu_encoder_init(out, &f, b->level);
    out->range = f.learned ? LUTRA_RANGE_MSE : l->range;
}

float *lu_site_importance(const lu_site *s)
{
    const float *h = s->stats.hessian;
    float *d = h ? lu_array((size_t)s->k, sizeof *d) : NULL;
    for (int64_t i = 0; d && i < s->k; i++)
        d[i] = h[i * s->k + i] > 0 ? h[i * s->k + i] : 0;
    return d;
}
