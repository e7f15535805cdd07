/* forecast.c - see forecast.h. Follows pipeline.c: a walk holds the packed weights that it
   multiplies and the statistics that it gathers; a site's hook holds the weights of the site, its
   statistics, and GPTQ's slab of rows. With a transform all weights of the block are held. On a GPU
   walks multiply 16-bit copies there; its memory holds one layer and one batch, and besides either
   the statistics that a walk gathers or a factor and a slab. */
#include "calib/forecast.h"

#include "calib/block_view.h"
#include "calib/gather.h"
#include "calib/walker.h"
#include "model/gpu_bare.h"

#define BATCH_ROWS 1024     /* walk_cpu.c */
#define GPU_BATCH_ROWS 8192 /* walk_gpu.c */
#define GPU_SPARE ((int64_t)512 << 20) /* libraries' workspaces, kernels, pieces of products */
#define SLAB 1024       /* gptq.c */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct {
    int64_t weights[LU_STAGE_END], statistics[LU_STAGE_END], work[LU_STAGE_END];
    int64_t largest; /* the most columns of a site */
} sizes;

static sizes size_stages(const lu_view *v, bool hessians)
{
    sizes s = {.largest = 0};
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
        s.largest = larger(s.largest, k);
        s.statistics[v->stages[i]] += 4 * k * (LU_KEPT_ROWS + (hessians ? k : 4));
    }
    return s;
}

static int64_t phases(const sizes *s, bool transforms, bool sequential, bool packs)
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
            packed = packs ? s->weights[LU_STAGE_MLP] : 0;
        peak = larger(peak, held + packed + gathered);
        peak = larger(peak, held + (transforms ? 0 : s->weights[i]) + gathered + s->work[i]);
        packed += packs ? s->weights[i] : 0;
    }
    return larger(peak, held + (!packs ? 0 : sequential ? packed : all));
}

static int64_t batch_bytes(const lu_model_config *c, int64_t length)
{
    const int64_t rows = length > BATCH_ROWS ? length : BATCH_ROWS / length * length;
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int64_t inner = c->n_active * c->intermediate_size,
                  moe = c->n_experts > 1 ? 2 * c->n_active * c->hidden_size : 0;
    return 4 * rows * (4 * c->hidden_size + 3 * q + 4 * kv + 3 * inner + moe);
}

/* Statistics while a walk gathers them; or a factor, and a slab with its errors and a rival. */
static int64_t gpu_work(const sizes *s, bool hessians, bool sequential)
{
    int64_t statistics = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++)
        statistics = sequential ? larger(statistics, s->statistics[i])
                                : statistics + s->statistics[i];
    const int64_t factor = 4 * s->largest * (s->largest + 3 * SLAB);
    return GPU_SPARE + larger(statistics, hessians ? factor : 0);
}

lutra_status lu_pipeline_forecast(lutra_ctx *ctx, const lu_plan *plan, const lutra_recipe *recipe,
                                  const lutra_calibration *calibration, bool on_gpu,
                                  lu_forecast *out, lutra_err *err)
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
    sequential &= !calibration->float_inputs;
    *out = (lu_forecast){.host = 0};
    if (status == LUTRA_OK) {
        const sizes s = size_stages(&v, hessians);
        const int64_t rows = calibration->data ? calibration->n_samples * calibration->length : 0;
        const int64_t stream = 4 * rows * m->config.hidden_size;
        const lu_dataset data = {.n_samples = calibration->n_samples,
                                 .length = calibration->length};
        out->host = phases(&s, transforms, sequential, !on_gpu);
        if (rows && on_gpu) {
            const int64_t samples = lu_walker_batch(&data, GPU_BATCH_ROWS);
            out->gpu_reserve = gpu_work(&s, hessians, sequential);
            out->gpu = lu_gpu_bare_bytes(m, samples, data.length) + out->gpu_reserve + stream;
            out->host += 4 * samples * data.length * m->config.hidden_size;
        } else if (rows) {
            out->host += batch_bytes(&m->config, data.length);
            out->host += stream <= calibration->memory / 2 ? stream : 0;
        }
    }
    lu_view_close(&v);
    lutra_model_close(m);
    return status;
}
