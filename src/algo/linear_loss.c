/* linear_loss.c - how much the output of a linear changes with its weights: for d = w - approx,
   mean |x d^T|^2 = sum over rows of d of d H d^T, H = mean x^T x (LeCun et al. 1990, the layer-wise
   loss of GPTQ); or directly from rows of x that were kept. */
#include "algo/pass.h"
#include "base/mem.h"

#define ROWS 256 /* of d, or of x, at a time */

static void difference(const lu_site_linear *l, const float *approx, int64_t first, int64_t n,
                       float *d)
{
    const float *w = l->w + first * l->k, *a = approx + first * l->k;
    for (int64_t i = 0; i < n * l->k; i++)
        d[i] = w[i] - a[i];
}

static double dot(const float *a, const float *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

lutra_status lu_linear_loss(lu_block *b, const lu_site *s, const lu_site_linear *l,
                            const float *approx, double *out, lutra_err *err)
{
    const lu_stats *t = &s->stats;
    const int64_t k = l->k, across = t->hessian ? k : t->n_kept;
    if (!t->hessian && !t->rows)
        return lu_fail(err, LUTRA_E_INTERNAL, "%s: a loss needs the Hessian or rows of its input",
                       l->name);
    float *d = lu_array(ROWS, (size_t)k * sizeof *d);
    float *product = lu_array(ROWS, (size_t)(across + 1) * sizeof *product);
    double sum = 0;
    lutra_status status =
        d && product ? LUTRA_OK : lu_fail_nomem(err, ROWS * (size_t)k * sizeof *d);
    for (int64_t first = 0; status == LUTRA_OK && first < l->n; first += ROWS) {
        const int64_t n = l->n - first < ROWS ? l->n - first : ROWS;
        difference(l, approx, first, n, d);
        status = lu_la_gemm(b->la,
                            &(lu_la_gemm_args){.transpose_b = !t->hessian,
                                               .m = n,
                                               .n = across,
                                               .k = k,
                                               .alpha = 1,
                                               .a = d,
                                               .lda = k,
                                               .b = t->hessian ? t->hessian : t->rows,
                                               .ldb = k,
                                               .c = product,
                                               .ldc = across},
                            err);
        if (status == LUTRA_OK)
            sum += t->hessian ? dot(product, d, n * k) : dot(product, product, n * across);
    }
    lu_free(d);
    lu_free(product);
    LU_TRY(status);
    *out = t->hessian ? sum : t->n_kept ? sum / (double)t->n_kept : 0;
    return LUTRA_OK;
}
