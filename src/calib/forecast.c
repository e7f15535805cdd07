/* forecast.c - see forecast.h. Follows pipeline.c: a walk holds the packed weights that it
   multiplies, and either the float32 weights of the one that is being packed or statistics; a
   site's hook holds the weights of the site, its statistics, and what the method works with. Codes
   stay until the block is written. With a transform all weights of the block are held, and its
   trials hold more. On a GPU walks multiply 16-bit copies there; its memory holds one layer and one
   batch, and besides the statistics that a walk gathers, a factor and a slab, weights on trial, or
   ranges being searched. */
#include "calib/forecast.h"

#include <string.h>

#include "algo/pass_list.h"
#include "calib/block_view.h"
#include "calib/gather.h"
#include "calib/gpu_ranges.h"
#include "calib/gpu_trial.h"
#include "calib/walker.h"
#include "model/gpu_bare.h"

#define BATCH_ROWS 1024                     /* walk_cpu.c */
#define GPU_BATCH_ROWS 8192                 /* walk_gpu.c */
#define SLAB 1024                           /* gptq.c */
#define PRODUCT_PIECE ((int64_t)64 << 20)   /* floats: dense_gpu.c */
#define GPU_SPARE ((int64_t)512 << 20)      /* of a context, kernels, libraries' workspaces */
#define PROCESS_ON_GPU ((int64_t)768 << 20) /* with CUDA and cuBLASLt: 0.7 GB on an H200 */

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* What the recipe does to blocks. */
typedef struct {
    bool hessians, transforms, sequential;
    bool gptq_judges;     /* a transform that looks ahead to GPTQ */
    bool edits;           /* a transform that rounds inputs on trial: on the host */
    int64_t loss_samples; /* that losses of parts are taken over; 0: there are none */
} work;

static work work_of(const lutra_recipe *recipe, const lutra_calibration *calibration)
{
    work w = {.sequential = !calibration->float_inputs};
    bool gptq = false;
    for (int i = 0; i < recipe->n_passes; i++) {
        const lu_recipe_pass *p = &recipe->passes[i];
        const unsigned needs = p->pass->needs ? p->pass->needs(p->settings) : 0;
        w.hessians |= needs & LU_STAT_HESSIAN;
        const bool transforms = p->pass->method.kind != LUTRA_METHOD_ROUND;
        w.transforms |= transforms;
        w.edits |= transforms && (needs & LU_STAT_RANGE);
        w.sequential &= !needs || (p->pass->sequential && p->pass->sequential(p->settings)) ||
                        !(needs & LU_STAT_HESSIAN);
        gptq |= p->pass == &lu_pass_gptq;
        if (p->pass->loss_samples) {
            const int64_t n = p->pass->loss_samples(p->settings), all = calibration->n_samples;
            w.loss_samples = larger(w.loss_samples, n < 0 ? 0 : n > 0 && n < all ? n : all);
        }
    }
    w.gptq_judges = gptq && w.transforms && w.hessians;
    return w;
}

/* Bytes by stage. */
typedef struct {
    int64_t weights[LU_STAGE_END];    /* float32 */
    int64_t widest[LU_STAGE_END];     /* of them the largest linear */
    int64_t statistics[LU_STAGE_END]; /* of its sites */
    int64_t rounding[LU_STAGE_END];   /* a rounding pass at work, but for weights and statistics */
    int64_t judging[LU_STAGE_END];    /* GPTQ for a transform: a factor, and it in a scale */
    int64_t codes;                    /* of all stages */
    int64_t product;                  /* on a GPU: pieces of the largest product */
    int64_t trial, ranges;            /* on a GPU: weights on trial; ranges of a linear */
    int64_t largest;                  /* the most columns of a site */
} sizes;

static const lutra_format *format_of(const lu_plan *plan, const lu_view_linear *l)
{
    const size_t n = strlen(l->name);
    for (int64_t i = 0; i < plan->n_tensors; i++) {
        const char *name = plan->tensors[i].in->name;
        if (plan->tensors[i].scheme && strncmp(name, l->name, n) == 0 &&
            strcmp(name + n, ".weight") == 0)
            return &plan->tensors[i].scheme->format;
    }
    return NULL;
}

static void add_linear(sizes *s, const lu_view_linear *l, const lutra_format *f)
{
    const int64_t n = l->face.n, k = l->face.k, rows = smaller(n, SLAB), bytes = 4 * n * k;
    const lu_stage stage = l->stage;
    const int64_t group = f && f->group_size > 0 ? f->group_size : k;
    s->weights[stage] += bytes;
    s->widest[stage] = larger(s->widest[stage], bytes);
    /* weights, errors of rounding to nearest, codes; outputs before and after */
    s->rounding[stage] = larger(s->rounding[stage], 10 * rows * k + 8 * LU_KEPT_ROWS * n);
    s->judging[stage] = larger(s->judging[stage], 8 * k * k);
    s->product = larger(s->product, 4 * (LU_KEPT_ROWS * (n + k) + smaller(n * k, PRODUCT_PIECE)));
    if (f)
        s->codes += n * ((int64_t)lutra_format_row_bytes(f, k) + k / group * (4 + 1));
    s->ranges = larger(s->ranges, 4 * k * k + lu_gpu_ranges_bytes(n, k, group));
}

static sizes size_stages(const lu_plan *plan, const lu_view *v, bool hessians)
{
    sizes s = {.largest = 0};
    for (int i = 0; i < v->n_linears; i++)
        add_linear(&s, &v->linears[i], format_of(plan, &v->linears[i]));
    for (int i = 0; i < v->block.n_sites; i++) {
        const int64_t k = v->block.sites[i].k;
        s.largest = larger(s.largest, k);
        s.statistics[v->stages[i]] += 4 * k * (LU_KEPT_ROWS + (hessians ? k : 4));
    }
    for (int i = 0; i < v->block.n_seams; i++) {
        const lu_seam *seam = &v->block.seams[i];
        int64_t weights = 0;
        for (int r = 0; r < seam->n_readers; r++)
            for (int l = 0; l < seam->readers[r]->n_linears; l++)
                weights += 4 * seam->readers[r]->linears[l]->n * seam->k;
        s.trial = larger(s.trial, weights + lu_gpu_trial_bytes(seam->k) +
                                      (seam->in_part_alone ? 4 * seam->k * seam->k : 0));
    }
    return s;
}

/* A transform tries scales: copies of the weights that a trial changes, and the part's weights
   packed for a walk; or one linear rounded. Then ranges: differences, and products as large. */
static int64_t trying(const sizes *s, const work *w, bool on_gpu)
{
    int64_t most = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i += 2) { /* a part is two stages */
        const int64_t part = s->weights[i] + s->weights[i + 1];
        const bool copies = !on_gpu || w->gptq_judges || w->edits;
        const int64_t scales = copies ? s->weights[i] + (on_gpu ? 0 : part) : 0;
        for (int j = i; j < i + 2; j++) {
            const int64_t ranges =
                w->gptq_judges || !on_gpu ? s->widest[j] + s->rounding[j] : s->rounding[j] / 2;
            const int64_t judging = w->gptq_judges ? s->judging[j] + s->rounding[j] : 0;
            most = larger(most, larger(scales, ranges) + judging);
        }
    }
    return most;
}

static int64_t phases(const sizes *s, const work *w, bool on_gpu)
{
    int64_t all = 0, statistics = 0, packed = 0, packing = 0, peak = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++) {
        all += s->weights[i];
        statistics += s->statistics[i];
    }
    const int64_t held = w->transforms ? all : 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++) {
        const int64_t gathered = w->sequential ? s->statistics[i] : statistics;
        if (i == LU_STAGE_DOWN && w->sequential) /* the stream is past the attention */
            packed = on_gpu ? 0 : s->weights[LU_STAGE_MLP];
        peak = larger(peak, held + packed + larger(packing, gathered));
        peak = larger(peak, held + (w->transforms ? 0 : s->weights[i]) + gathered + s->rounding[i]);
        packed += on_gpu ? 0 : s->weights[i];
        packing = w->transforms ? 0 : larger(packing, s->widest[i]);
    }
    if (w->transforms)
        peak = larger(peak, held + statistics + trying(s, w, on_gpu));
    if (!on_gpu)
        peak = larger(peak, held + packing + (w->sequential ? packed : all));
    return peak + s->codes;
}

static int64_t batch_bytes(const lu_model_config *c, int64_t length)
{
    const int64_t rows = length > BATCH_ROWS ? length : BATCH_ROWS / length * length;
    const int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    const int64_t inner = c->n_active * c->intermediate_size,
                  moe = c->n_experts > 1 ? 2 * c->n_active * c->hidden_size : 0;
    return 4 * rows * (6 * c->hidden_size + 3 * q + 4 * kv + 3 * inner + moe);
}

/* What a GPU holds besides a layer, a batch and resting rows: at one time or another the statistics
   that a walk gathers, a factor with a slab, its errors and a rival, weights on trial, ranges. */
static int64_t gpu_work(const sizes *s, const work *w)
{
    int64_t most = 0;
    for (int i = LU_STAGE_QKV; i < LU_STAGE_END; i++)
        most = w->sequential ? larger(most, s->statistics[i]) : most + s->statistics[i];
    if (w->hessians)
        most = larger(most, 4 * s->largest * (s->largest + 3 * SLAB));
    if (w->transforms && !w->gptq_judges)
        most = larger(most, s->trial);
    if (w->transforms && w->hessians)
        most = larger(most, s->ranges);
    return GPU_SPARE + s->product + most;
}

lutra_status lu_pipeline_forecast(lutra_ctx *ctx, const lu_plan *plan, const lutra_recipe *recipe,
                                  const lutra_calibration *calibration, bool on_gpu,
                                  lu_forecast *out, lutra_err *err)
{
    lutra_model *m = NULL;
    lu_view v = {.model = NULL};
    LU_TRY(lu_model_open_bare(ctx, lu_checkpoint_path(plan->checkpoint), &m, err));
    const lutra_status status = lu_view_open(m, NULL, 0, &v, err);
    const work w = work_of(recipe, calibration);
    *out = (lu_forecast){.host = 0};
    if (status == LUTRA_OK) {
        const sizes s = size_stages(plan, &v, w.hessians);
        const int64_t rows = calibration->data ? calibration->n_samples * calibration->length : 0;
        const int64_t hidden = m->config.hidden_size, stream = 4 * rows * hidden;
        const int64_t judged = rows ? w.loss_samples * calibration->length * hidden : 0;
        const lu_dataset data = {.n_samples = calibration->n_samples,
                                 .length = calibration->length};
        out->host = phases(&s, &w, on_gpu) + LU_FORECAST_PROCESS;
        if (rows && on_gpu) {
            const int64_t samples = lu_walker_batch(&data, GPU_BATCH_ROWS);
            out->gpu_reserve = gpu_work(&s, &w);
            out->gpu = lu_gpu_bare_bytes(m, samples, data.length) + out->gpu_reserve + stream +
                       judged * (4 + LU_N_PARTS * 2); /* MIDDLE, branches of 16 bits */
            out->host += PROCESS_ON_GPU + 4 * samples * data.length * hidden;
            if (w.edits) /* float32 and 16-bit copies of the inputs of a site */
                out->host += 6 * samples * data.length * s.largest;
        } else if (rows) {
            const int64_t place = 4 * judged;
            out->host += batch_bytes(&m->config, data.length);
            out->host += stream <= calibration->memory / 2 ? stream : 0;
            out->host += place <= calibration->memory / 6 ? (1 + LU_N_PARTS) * place : 0;
        }
    }
    lu_view_close(&v);
    lutra_model_close(m);
    return status;
}
