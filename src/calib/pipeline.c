/* pipeline.c - the loop over blocks:

       load block → for each pass: gather what it needs, call it → run the compressed block → write

   A sequential pass (GPTQ) gets the statistics of a stage after the stages before it were worked
   on. When it is the last pass, the residual stream is moved past the attention once that is
   finished, so that the MLP's statistics need no second walk through the attention.

   With float inputs the stream moves on by the block as it was loaded, and all statistics are taken
   before anything is rounded.

   Where inputs are to be rounded with fixed scales, the walks that move the stream on watch them:
   transforms are done by then, and what a linear gets is what it will get when the model runs, but
   for the rounding of inputs itself. The last block is walked once more for it. */
#include "calib/pipeline.h"

#include <math.h>
#include <string.h>

#include "algo/pass_list.h"
#include "base/file.h"
#include "base/mem.h"
#include "calib/block_output.h"
#include "calib/block_runner.h"
#include "calib/gather.h"
#include "calib/input_ranges.h"

typedef struct {
    const lu_pipeline *p;
    lutra_model *model;
    lu_la *la;
    lu_dataset data;
    lu_runner runner; /* .model is NULL without data */
    lu_output output;
    lu_view view;
    lu_input_ranges ranges; /* .view is NULL where no fixed scale is wanted */
    double *errors;         /* [most linears of a layer] */
    float **outputs;        /* of the site being rounded: rows times weights before, per linear */
    bool past_attention;    /* the stream is where the MLP begins */
    bool gathered;          /* float inputs: statistics are complete and stay */
    double statistics;      /* seconds, as below */
    double scales, clipping, rounding; /* without walks and factors */
} run;

static bool has_data(const run *r) { return r->runner.model != NULL; }

/* ---- time -------------------------------------------------------------------------------------
 */

/* Seconds so far of what is counted neither as a walk nor as statistics nor as factors. */
static double own_seconds(const run *r)
{
    return lu_seconds() - r->runner.seconds - r->statistics - lu_la_factor_seconds(r->la);
}

/* What is counted where it happens, since the run began. */
static lutra_quantize_times times_now(const run *r)
{
    return (lutra_quantize_times){.walk = r->runner.seconds,
                                  .statistics = r->statistics,
                                  .factor = lu_la_factor_seconds(r->la),
                                  .scales = r->scales,
                                  .ranges = r->clipping,
                                  .rounding = r->rounding};
}

static void count_times(run *r, const lutra_quantize_times *before, double worked, double written)
{
    const lutra_quantize_times now = times_now(r);
    lutra_quantize_times *all = r->p->times, t;
    t.statistics = now.statistics - before->statistics;
    t.walk = now.walk - before->walk;
    t.factor = now.factor - before->factor;
    t.methods = worked - t.walk - t.statistics - t.factor;
    t.write = written;
    t.scales = now.scales - before->scales;
    t.ranges = now.ranges - before->ranges;
    t.rounding = now.rounding - before->rounding;
    lu_log(r->p->ctx, LUTRA_LOG_DEBUG,
           "layer %lld: walks %.3f s, statistics %.3f, factors %.3f, methods %.3f (scales %.3f, "
           "ranges %.3f, rounding %.3f), writing %.3f",
           (long long)r->view.block.index, t.walk, t.statistics, t.factor, t.methods, t.scales,
           t.ranges, t.rounding, t.write);
    all->walk += t.walk;
    all->statistics += t.statistics;
    all->factor += t.factor;
    all->methods += t.methods;
    all->write += t.write;
    all->scales += t.scales;
    all->ranges += t.ranges;
    all->rounding += t.rounding;
}

/* ---- one pass over a block --------------------------------------------------------------------
 */

/* Marks the linears that the pass works on. Returns how many. */
static int choose(run *r, const lu_recipe_pass *rp)
{
    int n = 0;
    for (int i = 0; i < r->view.n_linears; i++) {
        lu_site_linear *l = &r->view.linears[i].face;
        const bool round = rp->pass->method.kind == LUTRA_METHOD_ROUND;
        l->wanted =
            !l->kept && !l->codes.codes && lu_recipe_covers(rp, l->name, r->view.block.index);
        if (l->wanted && round) {
            l->format = lu_output_scheme(&r->output, l->name)->format;
            l->range = rp->has_range ? rp->range : r->p->range;
        }
        n += l->wanted;
    }
    return n;
}

static bool any_wanted(const lu_site *s)
{
    bool any = false;
    for (int i = 0; i < s->n_linears; i++)
        any |= s->linears[i]->wanted;
    return any;
}

static bool wanted_at(const run *r, lu_stage stage)
{
    bool any = false;
    for (int i = 0; i < r->view.block.n_sites; i++)
        any |= r->view.stages[i] == stage && any_wanted(&r->view.block.sites[i]);
    return any;
}

/* Input ranges of the stages from `first` to before `end` are watched by the walk that follows. */
static lutra_status walk_and_watch(run *r, lu_stage first, lu_stage end, lu_stage to, bool advance,
                                   lutra_err *err)
{
    r->ranges.first = first;
    r->ranges.end = end;
    const lu_watch watch = {NULL, r->ranges.view ? &r->ranges : NULL};
    return lu_runner_walk(&r->runner, &r->view, first, to, watch, advance, err);
}

/* Statistics of the sites at stages first..last, from a walk that ends there. */
static lutra_status gather(run *r, lu_stage first, lu_stage last, unsigned needs, bool advance,
                           lutra_err *err)
{
    lu_gather g;
    const lu_stage from = r->past_attention ? LU_STAGE_MLP : LU_STAGE_QKV;
    lutra_status status =
        lu_gather_open(&r->view, first, last, needs, r->p->gpu, r->p->act == LUTRA_BF16, &g, err);
    const lu_watch watch = {&g, advance && r->ranges.view ? &r->ranges : NULL};
    double seconds;
    r->ranges.first = from;
    r->ranges.end = last;
    if (status == LUTRA_OK)
        status = lu_runner_walk(&r->runner, &r->view, from, last, watch, advance, err);
    r->runner.seconds -= g.seconds; /* counted once */
    const lutra_status closed = lu_gather_close(&g, &seconds, status == LUTRA_OK ? err : NULL);
    r->statistics += seconds;
    return status == LUTRA_OK ? closed : status;
}

/* ---- what a pass wants to know ------------------------------------------------------------------
 */

static unsigned needs_of(const run *r, const lu_recipe_pass *rp)
{
    unsigned needs = rp->pass->needs ? rp->pass->needs(rp->settings) : 0;
    if (has_data(r) && rp->pass->method.kind == LUTRA_METHOD_ROUND)
        needs |= LU_STAT_ROWS; /* for the table of errors */
    return needs;
}

static bool is_last(const run *r, const lu_recipe_pass *rp)
{
    return rp == &r->p->recipe->passes[r->p->recipe->n_passes - 1];
}

static bool is_sequential(const run *r, const lu_recipe_pass *rp)
{
    return rp->pass->sequential && rp->pass->sequential(rp->settings) && has_data(r) &&
           !r->gathered;
}

/* A transform keeps the rows that were gathered for it true (lu_seam_apply): a pass that comes next
   and wants nothing else needs no walk of its own. */
static bool rows_are_left_to_next(const run *r, const lu_recipe_pass *rp)
{
    return rp->pass->method.kind != LUTRA_METHOD_ROUND && !is_last(r, rp) &&
           needs_of(r, rp + 1) == LU_STAT_ROWS && !is_sequential(r, rp + 1);
}

static bool rows_are_there(const run *r)
{
    bool all = true;
    for (int i = 0; i < r->view.block.n_sites; i++)
        all &= r->view.block.sites[i].stats.rows || !any_wanted(&r->view.block.sites[i]);
    return all;
}

/* ---- what rounding does to outputs ------------------------------------------------------------
 */

static lutra_status outputs_of(run *r, const lu_site *s, const lu_site_linear *l, float *y,
                               lutra_err *err)
{
    return lu_la_gemm(r->la,
                      &(lu_la_gemm_args){.transpose_b = true,
                                         .m = s->stats.n_kept,
                                         .n = l->n,
                                         .k = l->k,
                                         .alpha = 1,
                                         .a = s->stats.rows,
                                         .lda = l->k,
                                         .b = l->w,
                                         .ldb = l->k,
                                         .c = y,
                                         .ldc = l->n},
                      err);
}

static double relative_error(const float *before, const float *after, int64_t n)
{
    double noise = 0, signal = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)after[i] - (double)before[i];
        noise += d * d;
        signal += (double)before[i] * (double)before[i];
    }
    return signal > 0 ? sqrt(noise / signal) : NAN;
}

static lu_view_linear *view_of(const lu_site_linear *l)
{
    return (lu_view_linear *)l; /* face is its first member */
}

/* Calls the pass for one site and notes the relative output error of each linear it rounds. */
static lutra_status work_on_site(run *r, const lu_recipe_pass *rp, lu_site *s, lutra_err *err)
{
    const bool rounds = rp->pass->method.kind == LUTRA_METHOD_ROUND;
    const bool measured = rounds && s->stats.n_kept > 0;
    const double start = own_seconds(r);
    lutra_status status = LUTRA_OK;
    for (int i = 0; status == LUTRA_OK && i < s->n_linears; i++)
        status = lu_view_fetch(&r->view, view_of(s->linears[i]), err);
    for (int i = 0; measured && status == LUTRA_OK && i < s->n_linears; i++) {
        const size_t count = (size_t)(s->stats.n_kept * s->linears[i]->n);
        r->outputs[i] = s->linears[i]->wanted ? lu_array(count, sizeof(float)) : NULL;
        if (s->linears[i]->wanted)
            status = r->outputs[i] ? outputs_of(r, s, s->linears[i], r->outputs[i], err)
                                   : lu_fail_nomem(err, count * sizeof(float));
    }
    if (status == LUTRA_OK && rp->pass->site)
        status = rp->pass->site(&r->view.block, s, rp->settings, err);
    for (int i = 0; i < s->n_linears; i++) {
        const int64_t count = s->stats.n_kept * s->linears[i]->n;
        if (status == LUTRA_OK && r->outputs[i]) {
            float *after = lu_array((size_t)count, sizeof *after);
            status = after ? outputs_of(r, s, s->linears[i], after, err)
                           : lu_fail_nomem(err, (size_t)count * sizeof *after);
            if (after)
                r->errors[view_of(s->linears[i]) - r->view.linears] =
                    relative_error(r->outputs[i], after, count);
            lu_free(after);
        }
        lu_free(r->outputs[i]);
        r->outputs[i] = NULL;
        lu_view_release(view_of(s->linears[i]));
    }
    if (!r->gathered && rows_are_left_to_next(r, rp))
        lu_stats_keep_rows(&s->stats);
    else if (!r->gathered)
        lu_stats_free(&s->stats);
    *(rounds ? &r->rounding : &r->clipping) += own_seconds(r) - start;
    return status;
}

static lutra_status work_on_seams(run *r, const lu_recipe_pass *rp, lutra_err *err)
{
    const double start = own_seconds(r);
    for (int i = 0; rp->pass->seam && i < r->view.block.n_seams; i++) {
        lu_seam *seam = &r->view.block.seams[i];
        bool any = false;
        for (int s = 0; s < seam->n_readers; s++)
            any |= any_wanted(seam->readers[s]);
        if (any)
            LU_TRY(rp->pass->seam(&r->view.block, seam, rp->settings, err));
    }
    r->scales += own_seconds(r) - start;
    return LUTRA_OK;
}

/* Weights that a transform may change stay in memory until they are rounded. */
static lutra_status hold_all(run *r, bool changed, lutra_err *err)
{
    LU_TRY(lu_view_fetch_all(&r->view, err));
    for (int i = 0; i < r->view.n_linears; i++)
        r->view.linears[i].changed |= changed;
    return LUTRA_OK;
}

static lutra_status run_pass(run *r, const lu_recipe_pass *rp, lutra_err *err)
{
    const lu_pass *pass = rp->pass;
    const bool sequential = is_sequential(r, rp);
    const unsigned needs = needs_of(r, rp);
    if (choose(r, rp) == 0)
        return LUTRA_OK;
    r->runner.stage = pass->method.name;
    if (needs && !sequential && !r->gathered && !(needs == LU_STAT_ROWS && rows_are_there(r)))
        LU_TRY(gather(r, LU_STAGE_QKV, LU_STAGE_DOWN, needs, false, err));
    if (pass->method.kind != LUTRA_METHOD_ROUND || pass->block)
        LU_TRY(hold_all(r, pass->method.kind != LUTRA_METHOD_ROUND, err));
    if (pass->block)
        LU_TRY(pass->block(&r->view.block, rp->settings, err));
    LU_TRY(work_on_seams(r, rp, err));
    for (lu_stage stage = LU_STAGE_QKV; pass->site && stage <= LU_STAGE_DOWN; stage++) {
        if (!wanted_at(r, stage))
            continue;
        if (sequential) {
            const bool move = is_last(r, rp) && stage == LU_STAGE_MLP && !r->past_attention;
            LU_TRY(gather(r, stage, stage, needs, move, err));
            r->past_attention |= move;
        }
        for (int i = 0; i < r->view.block.n_sites; i++)
            if (r->view.stages[i] == stage && any_wanted(&r->view.block.sites[i]))
                LU_TRY(work_on_site(r, rp, &r->view.block.sites[i], err));
    }
    return pass->method.kind == LUTRA_METHOD_ROUND ? LUTRA_OK
                                                   : lu_output_settle(&r->output, &r->view, err);
}

/* ---- one block --------------------------------------------------------------------------------
 */

/* What the rounding passes from i on want to know, all at once. */
static unsigned rest_needs(const run *r, int i)
{
    unsigned needs = 0;
    for (; i < r->p->recipe->n_passes; i++)
        needs |= needs_of(r, &r->p->recipe->passes[i]);
    return needs;
}

static lutra_status run_passes(run *r, lutra_err *err)
{
    const lutra_recipe *recipe = r->p->recipe;
    const bool float_inputs = has_data(r) && r->p->calibration->float_inputs;
    for (int i = 0; i < recipe->n_passes; i++) {
        const bool rounds = recipe->passes[i].pass->method.kind == LUTRA_METHOD_ROUND;
        if (float_inputs && rounds && !r->gathered) {
            r->runner.stage = "float";
            LU_TRY(gather(r, LU_STAGE_QKV, LU_STAGE_DOWN, rest_needs(r, i), false, err));
            LU_TRY(walk_and_watch(r, LU_STAGE_QKV, LU_STAGE_END, LU_STAGE_END, true, err));
            r->gathered = true;
        }
        LU_TRY(run_pass(r, &recipe->passes[i], err));
    }
    return LUTRA_OK;
}

/* The stream to where the next layer begins. */
static lutra_status move_on(run *r, lutra_err *err)
{
    r->runner.stage = "outputs";
    return walk_and_watch(r, r->past_attention ? LU_STAGE_MLP : LU_STAGE_QKV, LU_STAGE_END,
                          LU_STAGE_END, true, err);
}

/* Nothing follows the last layer: only the ranges are wanted. */
static lutra_status watch_last(run *r, lutra_err *err)
{
    r->runner.stage = "inputs";
    return walk_and_watch(r, r->past_attention ? LU_STAGE_MLP : LU_STAGE_QKV, LU_STAGE_END,
                          LU_STAGE_DOWN, false, err);
}

static lutra_status compress_block(run *r, lutra_err *err)
{
    const bool last = r->view.block.index + 1 == r->model->config.n_layers;
    for (int i = 0; i < r->view.n_linears; i++) {
        lu_view_linear *l = &r->view.linears[i];
        const lu_scheme *s = lu_output_scheme(&r->output, l->name);
        l->face.kept = !s;
        if (s) {
            l->face.format = s->format;
            l->face.act = s->act;
        }
        const lu_recipe_pass *rounds = lu_recipe_rounds(
            r->p->recipe, l->name, r->view.block.index); /* transforms look ahead */
        l->face.range = rounds && rounds->has_range ? rounds->range : r->p->range;
        l->face.gptq = rounds && rounds->pass == &lu_pass_gptq ? rounds->settings : NULL;
        r->errors[i] = NAN;
    }
    if (has_data(r))
        lu_runner_serve(&r->runner, &r->view);
    const lutra_quantize_times before = times_now(r);
    const double start = lu_seconds();
    if (lu_input_ranges_wanted(&r->view))
        LU_TRY(lu_input_ranges_open(&r->view, r->p->act_rule, r->p->act_percentile, r->data.length,
                                    &r->ranges, err));
    LU_TRY(run_passes(r, err));
    /* the stream first: once the layer is on disk, a run that stops here has nothing to repeat */
    if (has_data(r) && !last && !r->gathered)
        LU_TRY(move_on(r, err));
    if (last && r->ranges.view && !r->gathered)
        LU_TRY(watch_last(r, err));
    if (r->ranges.view)
        LU_TRY(lu_input_ranges_settle(&r->ranges, err));
    const double worked = lu_seconds();
    LU_TRY(lu_output_write(&r->output, &r->view, r->errors, err));
    count_times(r, &before, worked - start, lu_seconds() - worked);
    return LUTRA_OK;
}

/* A layer that a former run has finished: only its outputs are wanted. */
static lutra_status pass_by(run *r, lutra_err *err)
{
    if (!r->p->calibration->float_inputs)
        LU_TRY(lu_output_read(&r->output, &r->view, err));
    return move_on(r, err);
}

static lutra_status run_layer(run *r, int64_t layer, int64_t n_done, lutra_err *err)
{
    r->past_attention = r->gathered = false;
    lutra_status status = lu_view_open(r->model, r->la, layer, &r->view, err);
    if (status == LUTRA_OK && layer >= n_done)
        status = compress_block(r, err);
    else if (status == LUTRA_OK && has_data(r))
        status = pass_by(r, err);
    lu_input_ranges_close(&r->ranges);
    lu_view_close(&r->view);
    if (status == LUTRA_OK && !has_data(r))
        lu_progress(r->p->ctx, "quantize", NULL, "layers", layer + 1, r->model->config.n_layers);
    return status;
}

/* ---- the run ----------------------------------------------------------------------------------
 */

/* How many layers from the first on are on disk. */
static lutra_status count_done(run *r, int64_t *n, lutra_err *err)
{
    bool all = true;
    for (*n = 0; all && *n < r->model->config.n_layers; *n += all) {
        lu_view v;
        const lutra_status status = lu_view_open(r->model, r->la, *n, &v, err);
        all = status == LUTRA_OK && lu_output_has(&r->output, &v);
        lu_view_close(&v);
        LU_TRY(status);
    }
    return LUTRA_OK;
}

/* Walks of one block, in units of a whole layer, for the forecast of the time left. */
static double walks_per_block(const run *r)
{
    double walks = 1;
    for (int i = 0; i < r->p->recipe->n_passes; i++) {
        const lu_recipe_pass *rp = &r->p->recipe->passes[i];
        if (rp->pass->sequential && rp->pass->sequential(rp->settings) &&
            !r->p->calibration->float_inputs)
            walks += 4;
        else if (rp->pass->needs && rp->pass->needs(rp->settings))
            walks += 1;
    }
    return walks;
}

static lutra_status open_data(run *r, int64_t n_done, lutra_err *err)
{
    const lu_pipeline *p = r->p;
    const int64_t layers = r->model->config.n_layers;
    if (!p->calibration || !p->calibration->data)
        return LUTRA_OK;
    LU_TRY(lu_dataset_open(p->ctx, p->calibration, lu_checkpoint_path(p->plan->checkpoint),
                           r->model->config.vocab_size, &r->data, err));
    const lu_walker_options o = {.gpu = p->gpu,
                                 .act = p->act,
                                 .gpu_reserve = p->gpu_reserve,
                                 .memory = p->calibration->memory,
                                 .folder = p->folder};
    return lu_runner_open(r->model, &r->data, &o,
                          (double)n_done + (double)(layers - n_done) * walks_per_block(r),
                          &r->runner, err);
}

static lutra_status run_all(run *r, lutra_err *err)
{
    const lu_pipeline *p = r->p;
    int64_t n_done = 0;
    LU_TRY(lu_la_open(p->ctx->pool, p->gpu, &r->la, err));
    LU_TRY(lu_model_open_bare(p->ctx, lu_checkpoint_path(p->plan->checkpoint), &r->model, err));
    LU_TRY(lu_output_open(p->plan, p->folder, p->journal, p->entries, &r->output, err));
    LU_TRY(count_done(r, &n_done, err));
    const int64_t layers = r->model->config.n_layers;
    if (n_done == layers)
        return LUTRA_OK;
    const size_t most = 5 + 3 * (size_t)r->model->config.n_experts;
    r->errors = lu_array(most, sizeof *r->errors);
    r->outputs = lu_calloc(most, sizeof *r->outputs);
    if (!r->errors || !r->outputs)
        return lu_fail_nomem(err, most * sizeof *r->errors);
    LU_TRY(open_data(r, n_done, err));
    for (int64_t layer = has_data(r) ? 0 : n_done; layer < layers; layer++)
        LU_TRY(run_layer(r, layer, n_done, err));
    return LUTRA_OK;
}

lutra_status lu_pipeline_run(const lu_pipeline *p, lutra_err *err)
{
    run r = {.p = p};
    const lutra_status status = run_all(&r, err);
    if (has_data(&r))
        lu_runner_close(&r.runner);
    lu_dataset_close(&r.data);
    lu_output_close(&r.output);
    lu_free(r.errors);
    lu_free(r.outputs);
    lutra_model_close(r.model);
    lu_la_close(r.la);
    return status;
}
