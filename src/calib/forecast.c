/* forecast.c - see forecast.h. Follows pipeline.c: a walk holds the packed weights that it
   multiplies and the statistics that it gathers; a site's hook holds the weights of the site, its
   statistics, and GPTQ's slab of rows. With a transform all weights of the block are held. */
#include "calib/forecast.h"

#include "calib/block_view.h"
#include "calib/gather.h"

#define BATCH_ROWS 1024 /* block_runner.c */
#define SLAB 1024       /* gptq.c */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct {
    int64_t weights[LU_STAGE_END], statistics[LU_STAGE_END], work[LU_STAGE_END];
} sizes;

static sizes size_stages(const lu_view *v, bool hessians)
{
    sizes s = {{0}, {0}, {0}};
    for (int i = 0; i < v->n_linears; i++) {
        const lu_view_linear *l = &v->linears[i];
        const int64_t rows = l->face.n < SLAB ? l->face.n : SLAB;
        s.weights[l->stage] += 4 * l->face.n * l->face.k;
        /* weights, errors of rounding to nearest, codes; outputs before and after */
        s.work[l->stage] =
            larger(s.work[l->stage], 10 * rows * l->face.k + 8 * LU_KEPT_ROWS * l->face.n);
    }
    for (int i = 0; i < v->block.n_sites; i++) {
        const int64_t k = v->block.sites[i].k;
        s.statistics[v->stages[i]] += 4 * k * (LU_KEPT_ROWS + (hessians ? k : 4));
    }
    return s;
}

static int64_t phases(const sizes *s, bool transforms, bool sequential)
{
    int64_t all = 0, statistics = 0, peak = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++) {
        all += s->weights[i];
        statistics += s->statistics[i];
    }
    const int64_t held = transforms ? all : 0;
    int64_t packed = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++) {
        const int64_t gathered = sequential ? s->statistics[i] : statistics;
        if (i == LU_STAGE_DOWN && sequential) /* the stream is past the attention */
            packed = s->weights[LU_STAGE_MLP];
        peak = larger(peak, held + packed + gathered);
        peak = larger(peak, held + (transforms ? 0 : s->weights[i]) + gathered + s->work[i]);
        packed += s->weights[i];
    }
    return larger(peak, held + (sequential ? packed : all));
}

static int64_t batch_bytes(const lu_model_config *c, int64_t length)
{
    const int64_t rows = length > BATCH_ROWS ? length : BATCH_ROWS / length * length;
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int64_t inner = c->n_active * c->intermediate_size,
                  moe = c->n_experts > 1 ? 2 * c->n_active * c->hidden_size : 0;
    return 4 * rows * (4 * c->hidden_size + 3 * q + 4 * kv + 3 * inner + moe);
}

lutra_status lu_pipeline_forecast(lutra_ctx *ctx, const lu_plan *plan, const lutra_recipe *recipe,
                                  const lutra_calibration *calibration, int64_t *bytes,
                                  lutra_err *err)
{
    lutra_model *m = NULL;
    lu_view v = {.model = NULL};
    bool hessians = false, transforms = false, sequential = true;
    LU_TRY(lu_model_open_bare(ctx, lu_checkpoint_path(plan->checkpoint), &m, err));
    const lutra_status status = lu_view_open(m, NULL, 0, &v, err);
    for (int i = 0; i < recipe->n_passes; i++) {
        const lu_recipe_pass *p = &recipe->passes[i];
        const unsigned needs = p->pass->needs ? p->pass->needs(p->settings) : 0;
        hessians |= needs & LU_STAT_HESSIAN;
        transforms |= p->pass->method.kind != LUTRA_METHOD_ROUND;
        sequential &= !needs || (p->pass->sequential && p->pass->sequential(p->settings)) ||
                      !(needs & LU_STAT_HESSIAN);
    }
    if (status == LUTRA_OK) {
        const sizes s = size_stages(&v, hessians);
        *bytes = phases(&s, transforms, sequential && !calibration->float_inputs);
        if (calibration->data) {
            const int64_t stream =
                4 * calibration->n_samples * calibration->length * m->config.hidden_size;
            *bytes += batch_bytes(&m->config, calibration->length);
            *bytes += stream <= calibration->memory / 2 ? stream : 0;
        }
    }
    lu_view_close(&v);
    lutra_model_close(m);
    return status;
}
