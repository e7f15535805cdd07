/* perplexity.c - mean negative log-likelihood of a text. Several windows run through the model
   together, each with its own KV cache, which changes no bit of a window's result but lets the
   matrix kernels work on many rows. Losses are summed in double in the order of the text.

       text     t0 t1 t2 t3 t4 t5 ...          window 4, stride 2
       window 0 t0[t1 t2 t3]                   [ ] counted
       window 1       t2 t3[t4 t5]             what window 0 has predicted is context only  */
#include "eval/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"
#include "model/forward.h"

#define MAX_ROWS 2048
#define SCRATCH_BYTES (128 << 20) /* of a pass, roughly; fewer rows run together in large models \
                                   */
#define LOGIT_BYTES (16 << 20)

typedef struct {
    lutra_model *model;
    const int32_t *ids; /* the text */
    int64_t window, stride, n_windows;
    int64_t lead;   /* 1 if BOS goes before each window */
    int64_t inputs; /* lead + window */
    int64_t batch;  /* windows run together */
    lu_forward *forward;
    lu_kv *kv;            /* [batch] */
    lu_segment *segments; /* [batch] */
    int32_t *input_ids;   /* [batch][inputs] */
    int64_t logit_rows;
    float *logits; /* [logit_rows][vocab] */
    double *losses; /* [logit_rows] */
    double total;
    int64_t predicted;
} evaluation;

void lutra_perplexity_options_init(lutra_perplexity_options *o)
{
    memset(o, 0, sizeof *o);
    o->size = sizeof *o;
    o->window = 512;
}

static lutra_status check(const evaluation *e, int64_t n, lutra_err *err)
{
    const lu_model_config *c = &e->model->config;
    if (e->lead && c->bos_id < 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "the model's config.json names no bos_token_id to put before each window");
    if (e->inputs < 2)
        return lu_fail(err, LUTRA_E_ARG, "window is %" PRId64 ", expected at least 2 tokens",
                       e->window);
    if (e->stride < 1 || e->stride > e->window)
        return lu_fail(err, LUTRA_E_ARG,
                       "stride is %" PRId64 ", expected 0 (the window) to %" PRId64, e->stride,
                       e->window);
    if (e->inputs > c->max_context)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "a window of %" PRId64 " tokens exceeds the model's context of %" PRId64,
                       e->inputs, c->max_context);
    if (n < e->window)
        return lu_fail(err, LUTRA_E_ARG,
                       "the text has %" PRId64 " tokens, fewer than one window of %" PRId64, n,
                       e->window);
    for (int64_t i = 0; i < n; i++)
        if (e->ids[i] < 0 || e->ids[i] >= c->vocab_size)
            return lu_fail(err, LUTRA_E_ARG,
                           "token id %" PRId32 " is outside the model's vocabulary of %" PRId64
                           ": the tokenizer belongs to another model",
                           e->ids[i], c->vocab_size);
    return LUTRA_OK;
}

/* How many rows to run together so that a pass's buffers stay near SCRATCH_BYTES. */
static int64_t rows_together(const lutra_model *m)
{
    const lu_model_config *c = &m->config;
    const int64_t floats =
        4 * c->hidden_size + 3 * c->n_heads * c->head_dim + 3 * c->n_active * c->intermediate_size;
    int64_t rows = MAX_ROWS;
    if (m->gpu)
        return rows;
    while (rows > LU_FORWARD_ROWS && rows * floats * (int64_t)sizeof(float) > SCRATCH_BYTES)
        rows /= 2;
    return rows;
}

static lutra_status prepare(evaluation *e, lutra_err *err)
{
    const lu_model_config *c = &e->model->config;
    const int64_t rows = rows_together(e->model);
    e->batch = rows / e->inputs < 1 ? 1 : rows / e->inputs;
    if (e->batch > e->n_windows)
        e->batch = e->n_windows;
    e->logit_rows = LOGIT_BYTES / ((int64_t)sizeof(float) * c->vocab_size);
    if (e->logit_rows < 1)
        e->logit_rows = 1;
    if (e->model->gpu) /* its logits stay there */
        e->logit_rows = rows;
    const int64_t needed = e->batch * e->inputs;
    LU_TRY(lu_forward_open(e->model, needed < rows ? needed : rows, e->inputs, &e->forward, err));
    const size_t batch = (size_t)e->batch, inputs = (size_t)e->inputs;
    size_t n_logits;
    if (!lu_mul_size(e->model->gpu ? 1 : (size_t)e->logit_rows, (size_t)c->vocab_size, &n_logits))
        return lu_fail(err, LUTRA_E_LIMIT,
                       "logits of %" PRId64 " rows do not fit the address space", e->logit_rows);
    e->kv = lu_calloc(batch, sizeof *e->kv);
    e->segments = lu_calloc(batch, sizeof *e->segments);
    e->input_ids = lu_array(batch * inputs, sizeof *e->input_ids);
    e->logits = lu_array(n_logits, sizeof *e->logits);
    e->losses = lu_array((size_t)e->logit_rows, sizeof *e->losses);
    if (!e->kv || !e->segments || !e->input_ids || !e->logits || !e->losses)
        return lu_fail_nomem(err, n_logits * sizeof *e->logits);
    for (int64_t i = 0; i < e->batch; i++)
        LU_TRY(lu_kv_open_for(e->model, e->inputs, needed < rows ? needed : rows, &e->kv[i], err));
    return LUTRA_OK;
}

static void finish(evaluation *e)
{
    for (int64_t i = 0; e->kv && i < e->batch; i++)
        lu_kv_close(&e->kv[i]);
    lu_forward_close(e->forward);
    lu_free(e->kv);
    lu_free(e->segments);
    lu_free(e->input_ids);
    lu_free(e->logits);
    lu_free(e->losses);
}

/* Adds the losses of the predictions made at rows [row, row + n) of the pass. */
static lutra_status count_losses(evaluation *e, int64_t row, int64_t n, const int32_t *targets,
                                 lutra_err *err)
{
    for (int64_t done = 0; done < n;) {
        const int64_t rows = n - done < e->logit_rows ? n - done : e->logit_rows;
        LU_TRY(lu_check_cancel(e->model->ctx, err));
        LU_TRY(lu_forward_losses(e->forward, row + done, rows, targets + done, e->logits,
                                 e->losses, err));
        for (int64_t r = 0; r < rows; r++) {
            if (!isfinite(e->losses[r]))
                return lu_fail(err, LUTRA_E_FORMAT,
                               "a prediction is not a number: weights, norms or scales of the "
                               "model hold NaN or infinity, get its files again");
            e->total += e->losses[r];
        }
        done += rows;
    }
    e->predicted += n;
    return LUTRA_OK;
}

/* Index in a window's inputs of the first token whose prediction counts. */
static int64_t first_counted(const evaluation *e, int64_t window)
{
    return window == 0 ? 1 : e->inputs - e->stride > 1 ? e->inputs - e->stride : 1;
}

/* Windows [first, first + n), all at the same place, in passes of as many rows as fit. */
static lutra_status run_windows(evaluation *e, int64_t first, int64_t n, lutra_err *err)
{
    for (int64_t b = 0; b < n; b++) {
        int32_t *in = e->input_ids + b * e->inputs;
        if (e->lead)
            in[0] = e->model->config.bos_id;
        memcpy(in + e->lead, e->ids + (first + b) * e->stride, (size_t)e->window * sizeof *in);
    }
    const int64_t step = lu_forward_max_rows(e->forward) / n;
    for (int64_t at = 0; at < e->inputs; at += step) {
        const int64_t rows = e->inputs - at < step ? e->inputs - at : step;
        for (int64_t b = 0; b < n; b++)
            e->segments[b] = (lu_segment){
                .kv = &e->kv[b], .pos = at, .ids = e->input_ids + b * e->inputs + at, .n = rows};
        LU_TRY(lu_forward_run(e->forward, e->segments, n, err));
        for (int64_t b = 0; b < n; b++) {
            /* the input at index i predicts the one at i + 1 */
            const int64_t counted = first_counted(e, first + b) - 1;
            const int64_t from = counted > at ? counted : at;
            const int64_t to = at + rows < e->inputs - 1 ? at + rows : e->inputs - 1;
            if (to > from)
                LU_TRY(count_losses(e, b * rows + from - at, to - from,
                                    e->input_ids + b * e->inputs + from + 1, err));
        }
    }
    return LUTRA_OK;
}

static lutra_status run(evaluation *e, lutra_err *err)
{
    lu_progress(e->model->ctx, "eval", NULL, "windows", 0, e->n_windows);
    for (int64_t w = 0; w < e->n_windows;) {
        const int64_t n = e->n_windows - w < e->batch ? e->n_windows - w : e->batch;
        LU_TRY(run_windows(e, w, n, err));
        w += n;
        lu_progress(e->model->ctx, "eval", NULL, "windows", w, e->n_windows);
    }
    return LUTRA_OK;
}

lutra_status lu_perplexity_of_ids(lutra_model *m, const int32_t *ids, int64_t n,
                                  const lutra_perplexity_options *o, lutra_perplexity *out,
                                  lutra_err *err)
{
    lutra_perplexity_options opts;
    lutra_perplexity_options_init(&opts);
    if (o)
        memcpy(&opts, o, o->size < sizeof opts ? o->size : sizeof opts);
    evaluation e = {.model = m, .ids = ids, .window = opts.window, .lead = opts.bos ? 1 : 0};
    if (opts.window < 0 || opts.max_windows < 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "window is %" PRId64 " and max_windows %" PRId64 ", expected no negative ones",
                       opts.window, opts.max_windows);
    if (opts.window > m->config.max_context)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "a window of %" PRId64 " tokens exceeds the model's context of %" PRId64,
                       opts.window, m->config.max_context);
    e.stride = opts.stride ? opts.stride : opts.window;
    e.inputs = e.lead + e.window;
    LU_TRY(check(&e, n, err));
    e.n_windows = (n - e.window) / e.stride + 1;
    if (opts.max_windows && e.n_windows > opts.max_windows)
        e.n_windows = opts.max_windows;
    const double start = lu_seconds();
    lutra_status status = prepare(&e, err);
    if (status == LUTRA_OK)
        status = run(&e, err);
    finish(&e);
    if (status != LUTRA_OK)
        return status;
    const double seconds = lu_seconds() - start, nll = e.total / (double)e.predicted;
    *out = (lutra_perplexity){.perplexity = exp(nll),
                              .nll = nll,
                              .tokens = n,
                              .windows = e.n_windows,
                              .predicted = e.predicted,
                              .seconds = seconds,
                              .tokens_per_second = (double)(e.n_windows * e.inputs) / seconds};
    return LUTRA_OK;
}

lutra_status lutra_eval_perplexity(lutra_model *m, const lutra_tokenizer *t, const char *text,
                                   size_t n, const lutra_perplexity_options *o,
                                   lutra_perplexity *out, lutra_err *err)
{
    int32_t *ids;
    int64_t n_ids;
    LU_TRY(lutra_encode(t, text, n, false, &ids, &n_ids, err));
    const lutra_status status = lu_perplexity_of_ids(m, ids, n_ids, o, out, err);
    lutra_free(ids);
    return status;
}
