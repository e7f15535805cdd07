/* tensor_tables.c - see tensor_tables.h. A piece of work is one table, so that many small blocks of
   rows and many matrices keep the threads alike busy. */
#include "calib/tensor_tables.h"

#include <stdatomic.h>

#include "algo/learn_table.h"
#include "base/mem.h"

typedef struct {
    const lu_plan *plan;
    int64_t begin, n;
    int64_t *first; /* [n + 1] tables before each tensor */
    lu_level level;
    float **tables;
    _Atomic bool failed;
} job;

static bool is_learned(const lu_plan_tensor *t) { return t->scheme && t->scheme->format.learned; }

static int64_t tables_of(const lu_plan_tensor *t)
{
    return is_learned(t) ? lu_format_tables(&t->scheme->format, t->in->view.shape[0]) : 0;
}

static void learn(void *arg, int64_t begin, int64_t end, int worker)
{
    job *j = arg;
    (void)worker;
    int64_t at = 0;
    for (int64_t i = begin; i < end; i++) {
        while (j->first[at + 1] <= i)
            at++;
        const lu_plan_tensor *t = &j->plan->tensors[j->begin + at];
        const lutra_format *f = &t->scheme->format;
        const lutra_tensor *v = &t->in->view;
        const int64_t block = i - j->first[at], k = v->shape[1],
                      rows = f->table_rows ? f->table_rows : v->shape[0];
        const int64_t row = block * rows, left = v->shape[0] - row;
        const size_t row_bytes = (size_t)k * lutra_dtype_bytes(v->dtype);
        const lu_learn_args a = {.format = f,
                                 .level = j->level,
                                 .w = (const uint8_t *)v->data + (size_t)row * row_bytes,
                                 .dtype = v->dtype,
                                 .n = left < rows ? left : rows,
                                 .k = k};
        if (lu_learn_table(&a, j->tables[j->begin + at] + (block << f->bits), NULL) != LUTRA_OK)
            atomic_store(&j->failed, true);
    }
}

lutra_status lu_tensor_tables_learn(lutra_ctx *ctx, const lu_plan *plan, int64_t begin, int64_t end,
                                    lu_level level, float **tables, lutra_err *err)
{
    job j = {.plan = plan, .begin = begin, .n = end - begin, .level = level, .tables = tables};
    j.first = lu_array((size_t)j.n + 1, sizeof *j.first);
    bool ok = j.first != NULL;
    atomic_init(&j.failed, false);
    if (ok)
        j.first[0] = 0;
    for (int64_t i = 0; ok && i < j.n; i++) {
        const lu_plan_tensor *t = &plan->tensors[begin + i];
        const int64_t count = tables_of(t);
        j.first[i + 1] = j.first[i] + count;
        tables[begin + i] = NULL;
        if (count)
            tables[begin + i] = lu_array((size_t)count << t->scheme->format.bits, sizeof(float));
        ok = !count || tables[begin + i];
    }
    if (ok && j.first[j.n] > 0)
        lu_pool_for(ctx->pool, j.first[j.n], 1, learn, &j);
    ok = ok && !atomic_load(&j.failed);
    lu_free(j.first);
    return ok ? LUTRA_OK : lu_fail_nomem(err, (size_t)(end - begin) * sizeof *j.first);
}
