/* linear_loss.c - how much the output of a linear changes with its weights: for d = w - approx,
   mean |x d^T|^2 = sum over rows of d of d H d^T, H = mean x^T x (LeCun et al. 1990, the layer-wise
   loss of GPTQ); or directly from rows of x that were kept. */
#include "algo/pass.h"
#include "base/mem.h"

#define ROWS LU_LINEAR_LOSS_ROWS

typedef struct {
    const float *w, *approx;
    float *d;
    int64_t k;
} difference_job;

static void difference(void *arg, int64_t begin, int64_t end, int worker)
{
    const difference_job *j = arg;
    (void)worker;
    for (int64_t i = begin * j->k; i < end * j->k; i++)
        j->d[i] = j->w[i] - j->approx[i];
}

/* Squares of x d^T, summed over outputs and rows. */
static lutra_status sum_outputs(lu_block *b, const lu_stats *t, int64_t n, int64_t k,
                                const float *d, float *product, double *sum, lutra_err *err)
{
    LU_TRY(lu_la_gemm(b->la,
                      &(lu_la_gemm_args){.transpose_b = true,
                                         .m = n,
                                         .n = t->n_kept,
                                         .k = k,
                                         .alpha = 1,
                                         .a = d,
                                         .lda = k,
                                         .b = t->rows,
                                         .ldb = k,
                                         .c = product,
                                         .ldc = t->n_kept},
                      err));
    for (int64_t i = 0; i < n * t->n_kept; i++)
        *sum += (double)product[i] * (double)product[i];
    return LUTRA_OK;
}

static lutra_status sum_norms(lu_block *b, const lu_stats *t, int64_t n, int64_t k, const float *d,
                              double *sum, lutra_err *err)
{
    double sums[ROWS];
    LU_TRY(lu_la_norms(b->la, n, k, d, t->hessian, sums, err));
    for (int64_t r = 0; r < n; r++)
        *sum += sums[r];
    return LUTRA_OK;
}

lutra_status lu_linear_loss(lu_block *b, const lu_site *s, const lu_site_linear *l,
                            const float *approx, double *out, lutra_err *err)
{
    const lu_stats *t = &s->stats;
    const int64_t k = l->k;
    if (!t->hessian && !t->rows)
        return lu_fail(err, LUTRA_E_INTERNAL, "%s: a loss needs the Hessian or rows of its input",
                       l->name);
    float *d = lu_array(ROWS, (size_t)k * sizeof *d);
    float *product = lu_array(ROWS, (size_t)(t->n_kept + 1) * sizeof *product);
    double sum = 0;
    lutra_status status =
        d && product ? LUTRA_OK : lu_fail_nomem(err, ROWS * (size_t)k * sizeof *d);
    for (int64_t first = 0; status == LUTRA_OK && first < l->n; first += ROWS) {
        const int64_t n = l->n - first < ROWS ? l->n - first : ROWS;
        difference_job job = {l->w + first * k, approx + first * k, d, k};
        lu_pool_for(b->ctx->pool, n, 16, difference, &job);
        status = t->hessian ? sum_norms(b, t, n, k, d, &sum, err)
                            : sum_outputs(b, t, n, k, d, product, &sum, err);
    }
    lu_free(d);
    lu_free(product);
    LU_TRY(status);
    *out = t->hessian ? sum : t->n_kept ? sum / (double)t->n_kept : 0;
    return LUTRA_OK;
}
