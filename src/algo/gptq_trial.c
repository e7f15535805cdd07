/* gptq_trial.c - see gptq_trial.h. For inputs x / s the Hessian is S^-1 H S^-1, S = diag(s), whose
   inverse is S H^-1 S = (U S)^T (U S): the factor is that of x with its columns scaled, so that
   each candidate costs k^2 and not k^3. */
#include "algo/gptq_trial.h"

#include <string.h>

#include "algo/gptq.h"
#include "base/mem.h"

lutra_status lu_gptq_trial_open(lu_block *b, const lu_site *site, const lu_gptq_settings *set,
                                lu_gptq_trial *t, lutra_err *err)
{
    const size_t k = (size_t)site->k, bytes = k * k * sizeof *t->u;
    *t = (lu_gptq_trial){.u = NULL};
    if (site->stats.n_rows < set->min_rows)
        return LUTRA_OK;
    t->u = lu_array(k, k * sizeof *t->u);
    t->scaled = lu_array(k, k * sizeof *t->scaled);
    t->order = lu_array(k, sizeof *t->order);
    if (!t->u || !t->scaled || !t->order)
        return lu_fail_nomem(err, bytes);
    memcpy(t->u, site->stats.hessian, bytes);
    bool definite;
    LU_TRY(lu_gptq_factor(b->la, t->u, site->k, set, t->order, &definite, err));
    if (!definite)
        lu_gptq_trial_close(t);
    return LUTRA_OK;
}

void lu_gptq_trial_close(lu_gptq_trial *t)
{
    lu_free(t->u);
    lu_free(t->scaled);
    lu_free(t->order);
    *t = (lu_gptq_trial){.u = NULL};
}

typedef struct {
    const lu_gptq_trial *t;
    const float *s;
    int64_t k;
} scale_job;

static void scale_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const scale_job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = r; c < j->k; c++)
            j->t->scaled[r * j->k + c] = j->t->u[r * j->k + c] * j->s[j->t->order[c]];
}

lutra_status lu_gptq_trial_round(lu_block *b, lu_gptq_trial *t, const lu_gptq_settings *set,
                                 const float *s, lu_site_linear *l, lutra_err *err)
{
    if (!t->u)
        return lu_linear_fake_round(b, l, l->w, l->w, err);
    if (s)
        lu_pool_for(b->ctx->pool, l->k, 16, scale_rows, &(scale_job){.t = t, .s = s, .k = l->k});
    memset(&l->codes, 0, sizeof l->codes);
    const lutra_status status = lu_gptq_round(b, l, s ? t->scaled : t->u, t->order, set, err);
    lu_linear_free_codes(l);
    return status;
}
