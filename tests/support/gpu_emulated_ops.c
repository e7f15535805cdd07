/* gpu_emulated_ops.c - the kernels of the emulated GPU (gpu_emulated.h): each puts its arguments
   into the queue with the function that computes it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/codec.h"
#include "support/gpu_emulated_ops.h"
#include "tensor/convert.h"

static float load(const uint16_t *p, int64_t i, int bf16)
{
    return bf16 ? lu_bf16_to_f32(p[i]) : lu_f16_to_f32(p[i]);
}

static void store(uint16_t *p, int64_t i, int bf16, double x)
{
    p[i] = bf16 ? lu_f32_to_bf16((float)x) : lu_f32_to_f16((float)x);
}

/* --- products --------------------------------------------------------------------------------- */

size_t emulated_lut_bytes(int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros)
{
    (void)bits, (void)group_size, (void)has_zeros;
    return (size_t)(n * k) * sizeof(float);
}

/* The block holds the values as the kernels see them: a table in the activation type, fp16 scales
   and zero points. */
int emulated_lut_pack(int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,
                      const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16,
                      void *block, lu_cuda_lut *out, void *stream)
{
    float *w = block;
    const int64_t row_bytes = (k * bits + 7) / 8, groups = k / group_size;
    (void)stream;
    if (k % group_size)
        return LU_CUDA_E_SHAPE;
    *out = (lu_cuda_lut){.n = n,
                         .k = k,
                         .bits = bits,
                         .group_size = group_size,
                         .has_zeros = zeros != NULL,
                         .bf16 = bf16,
                         .words = block};
    for (int i = 0; i < 1 << bits; i++)
        store(out->table, i, bf16, table[i]);
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < k; c++) {
            const int64_t group = r * groups + c / group_size;
            const float zero = zeros ? lu_f16_to_f32(lu_f32_to_f16(table[zeros[group]])) : 0.0f;
            const float t = load(out->table, lu_code_at(codes + r * row_bytes, c, bits), bf16);
            w[r * k + c] = lu_f16_to_f32(scales[group]) * (t - zero);
        }
    return 0;
}

typedef struct {
    lu_cuda_lut w;
    lu_cuda_lut_call c;
} lut_args;

static int run_lut(const void *args)
{
    const lut_args *a = args;
    const float *w = (const float *)(const void *)a->w.words;
    for (int64_t m = 0; m < a->c.m; m++)
        for (int64_t n = 0; n < a->w.n; n++) {
            double sum = a->c.bias ? load(a->c.bias, n, a->w.bf16) : 0.0;
            for (int64_t k = 0; k < a->w.k; k++)
                sum +=
                    (double)load(a->c.x, m * a->c.ldx + k, a->w.bf16) * (double)w[n * a->w.k + k];
            store(a->c.y, m * a->c.ldy + n, a->w.bf16, sum);
        }
    return 0;
}

int emulated_lut_matmul(const lu_cuda_device *chip, const lu_cuda_lut *w, const lu_cuda_lut_call *c)
{
    const lut_args a = {*w, *c};
    (void)chip;
    return gpu_emulated_queue(run_lut, &a, sizeof a);
}

typedef struct {
    lu_cuda_lut w;
    int64_t first_row, rows;
    uint16_t *out;
} unpack_args;

static int run_unpack(const void *args)
{
    const unpack_args *a = args;
    const float *w = (const float *)(const void *)a->w.words + a->first_row * a->w.k;
    for (int64_t i = 0; i < a->rows * a->w.k; i++)
        store(a->out, i, a->w.bf16, w[i]);
    return 0;
}

int emulated_lut_unpack(const lu_cuda_lut *w, int64_t first_row, int64_t rows, uint16_t *out,
                        void *stream)
{
    const unpack_args a = {*w, first_row, rows, out};
    (void)stream;
    if (first_row % 16 || first_row + rows > w->n || w->k % 8)
        return LU_CUDA_E_SHAPE;
    return gpu_emulated_queue(run_unpack, &a, sizeof a);
}

/* Not used, but tests see whether it is taken and given back. */
size_t emulated_lut_scratch(const lu_cuda_device *chip)
{
    (void)chip;
    return 4096;
}

/* Low, so that the tests' few tokens go both ways. */
int64_t emulated_lut_dense_from(const lu_cuda_device *chip, const lu_cuda_lut *w)
{
    (void)chip;
    return w->k % 8 ? INT64_MAX : 16;
}

static int run_dense(const void *args)
{
    const lu_gpu_dense *a = args;
    double *x = malloc((size_t)(a->m * a->k + a->k + 1) * sizeof *x), *w = x + a->m * a->k;
    for (int64_t i = 0; i < a->m * a->k; i++)
        x[i] = load(a->x, i / a->k * a->ldx + i % a->k, a->bf16);
    for (int64_t n = 0; n < a->n; n++) {
        for (int64_t k = 0; k < a->k; k++)
            w[k] = load(a->w, n * a->k + k, a->bf16);
        for (int64_t m = 0; m < a->m; m++) {
            double sum = a->bias ? load(a->bias, n, a->bf16) : 0.0;
            for (int64_t k = 0; k < a->k; k++)
                sum += x[m * a->k + k] * w[k];
            store(a->y, m * a->ldy + n, a->bf16, sum);
        }
    }
    free(x);
    return 0;
}

int gpu_emulated_dense(lu_gpu *g, const lu_gpu_dense *a)
{
    (void)g;
    return gpu_emulated_queue(run_dense, a, sizeof *a);
}

/* --- rows ------------------------------------------------------------------------------------- */

typedef struct {
    lu_cuda_embed_args a;
    float table[256]; /* the caller's lives until the call returns */
} embed_args;

static int run_embed(const void *args)
{
    const lu_cuda_embed_args *a = &((const embed_args *)args)->a;
    const float *table = ((const embed_args *)args)->table;
    const int64_t row_bytes = (a->cols * a->bits + 7) / 8;
    for (int64_t r = 0; r < a->n; r++)
        for (int64_t c = 0; c < a->cols; c++) {
            const int64_t id = a->ids[r];
            float w;
            if (a->dense) {
                w = load(a->dense, id * a->cols + c, a->bf16);
            } else {
                const int64_t group = id * (a->cols / a->group_size) + c / a->group_size;
                const float zero = a->zeros ? table[a->zeros[group]] : 0.0f;
                w = lu_f16_to_f32(a->scales[group]) *
                    (table[lu_code_at(a->codes + id * row_bytes, c, a->bits)] - zero);
            }
            a->x[r * a->cols + c] = w * a->scale;
        }
    return 0;
}

int emulated_embed(const lu_cuda_embed_args *a)
{
    embed_args e = {.a = *a};
    if (a->codes)
        memcpy(e.table, a->table, sizeof *e.table << a->bits);
    return gpu_emulated_queue(run_embed, &e, sizeof e);
}

static double norm_factor(const double *v, int64_t n, float eps)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i] * v[i];
    return 1.0 / sqrt(sum / (double)n + (double)eps);
}

static int run_seam(const void *args)
{
    const lu_cuda_seam_args *a = args;
    double *v = malloc((size_t)a->cols * sizeof *v);
    for (int64_t r = 0; r < a->n; r++) {
        float *x = a->x + r * a->cols;
        for (int64_t i = 0; a->branch && i < a->cols; i++)
            v[i] = load(a->branch, r * a->cols + i, a->bf16);
        const double f = a->branch && a->out_norm ? norm_factor(v, a->cols, a->eps) : 1.0;
        for (int64_t i = 0; a->branch && i < a->cols; i++)
            x[i] +=
                (float)(a->out_norm ? v[i] * f * (double)(a->out_norm[i] + a->norm_offset) : v[i]);
        for (int64_t i = 0; i < a->cols; i++)
            v[i] = x[i];
        const double g = norm_factor(v, a->cols, a->eps);
        for (int64_t i = 0; a->in_norm && i < a->cols; i++)
            store(a->in, r * a->cols + i, a->bf16,
                  v[i] * g * (double)(a->in_norm[i] + a->norm_offset));
    }
    free(v);
    return 0;
}

int emulated_seam(const lu_cuda_seam_args *a) { return gpu_emulated_queue(run_seam, a, sizeof *a); }

static uint16_t *kv_row(const lu_cuda_kv *kv, int64_t layer, int values, int32_t sequence,
                        int64_t position, int64_t head)
{
    const int64_t page = kv->pages[sequence * kv->max_pages + position / kv->page_tokens];
    const int64_t block = (layer * 2 + values) * kv->n_pages + page;
    return kv->data +
           ((block * kv->n_kv_heads + head) * kv->page_tokens + position % kv->page_tokens) *
               kv->head_dim;
}

static int run_rope_store(const void *args)
{
    const lu_cuda_rope_args *a = args;
    const int64_t hd = a->kv.head_dim, half = hd / 2;
    for (int64_t r = 0; r < a->rows.n; r++) {
        const int32_t position = a->rows.position[r], sequence = a->rows.sequence[r];
        const float *c = a->cosines + position * half, *s = a->sines + position * half;
        for (int64_t h = 0; h < a->n_heads + a->kv.n_kv_heads; h++) {
            uint16_t *x = a->qkv + r * a->ld + h * hd;
            uint16_t *to = h < a->n_heads
                               ? x
                               : kv_row(&a->kv, a->layer, 0, sequence, position, h - a->n_heads);
            for (int64_t i = 0; i < half; i++) {
                const double x0 = load(x, i, a->bf16), x1 = load(x, i + half, a->bf16);
                store(to, i, a->bf16, x0 * (double)c[i] - x1 * (double)s[i]);
                store(to, i + half, a->bf16, x1 * (double)c[i] + x0 * (double)s[i]);
            }
        }
        for (int64_t h = 0; h < a->kv.n_kv_heads; h++)
            memcpy(kv_row(&a->kv, a->layer, 1, sequence, position, h),
                   a->qkv + r * a->ld + (a->n_heads + a->kv.n_kv_heads + h) * hd,
                   (size_t)hd * sizeof(uint16_t));
    }
    return 0;
}

int emulated_rope_store(const lu_cuda_rope_args *a)
{
    return gpu_emulated_queue(run_rope_store, a, sizeof *a);
}

size_t emulated_attend_scratch(int64_t rows, int64_t n_heads, int64_t head_dim,
                               int64_t max_position)
{
    (void)head_dim;
    return (size_t)(rows * n_heads * max_position);
}

static void attend_head(const lu_cuda_attend_args *a, int64_t r, int64_t h, double *scores)
{
    const int64_t hd = a->kv.head_dim, kv_head = h / (a->n_heads / a->kv.n_kv_heads);
    const int32_t position = a->rows.position[r], sequence = a->rows.sequence[r];
    const int64_t first = a->window && position >= a->window ? position + 1 - a->window : 0;
    const uint16_t *q = a->q + r * a->ld + h * hd;
    double top = -INFINITY, total = 0.0;
    for (int64_t j = first; j <= position; j++) {
        const uint16_t *k = kv_row(&a->kv, a->layer, 0, sequence, j, kv_head);
        double s = 0.0;
        for (int64_t i = 0; i < hd; i++)
            s += (double)load(q, i, a->bf16) * (double)load(k, i, a->bf16);
        s *= (double)a->scale;
        if (a->softcap > 0.0f)
            s = (double)a->softcap * tanh(s / (double)a->softcap);
        scores[j] = s;
        top = s > top ? s : top;
    }
    for (int64_t j = first; j <= position; j++)
        total += scores[j] = exp(scores[j] - top);
    for (int64_t i = 0; i < hd; i++) {
        double sum = 0.0;
        for (int64_t j = first; j <= position; j++)
            sum += scores[j] *
                   (double)load(kv_row(&a->kv, a->layer, 1, sequence, j, kv_head), i, a->bf16);
        store(a->out, (r * a->n_heads + h) * hd + i, a->bf16, sum / total);
    }
}

static int run_attend(const void *args)
{
    const lu_cuda_attend_args *a = args;
    for (int64_t r = 0; r < a->rows.n; r++) {
        double *scores = malloc((size_t)(a->rows.position[r] + 1) * sizeof *scores);
        for (int64_t h = 0; h < a->n_heads; h++)
            attend_head(a, r, h, scores);
        free(scores);
    }
    return 0;
}

static int run_attend_decode(const void *args)
{
    const lu_cuda_attend_args *a = args;
    for (int64_t r = 0; r < a->rows.n; r++)
        if (a->rows.position[r] >= a->max_position)
            return LU_CUDA_E_SHAPE;
    return run_attend(args);
}

typedef struct {
    lu_cuda_attend_args a;
    const float *cosines, *sines;
} rope_attend_args;

/* q is rotated in a copy: the row stays as it is. */
static int run_rope_attend(const void *args)
{
    const rope_attend_args *r = args;
    const int64_t ld = r->a.ld;
    uint16_t *rows = malloc((size_t)(r->a.rows.n * ld) * sizeof *rows);
    memcpy(rows, r->a.q, (size_t)(r->a.rows.n * ld) * sizeof *rows);
    const lu_cuda_rope_args rope = {.rows = r->a.rows,
                                    .qkv = rows,
                                    .ld = ld,
                                    .n_heads = r->a.n_heads,
                                    .cosines = r->cosines,
                                    .sines = r->sines,
                                    .kv = r->a.kv,
                                    .layer = r->a.layer,
                                    .bf16 = r->a.bf16};
    lu_cuda_attend_args a = r->a;
    a.q = rows;
    const int e = run_rope_store(&rope) || run_attend_decode(&a) ? LU_CUDA_E_SHAPE : 0;
    free(rows);
    return e;
}

int emulated_rope_attend_decode(const lu_cuda_attend_args *a, const float *cosines,
                                const float *sines)
{
    const rope_attend_args r = {*a, cosines, sines};
    return gpu_emulated_queue(run_rope_attend, &r, sizeof r);
}

int emulated_attend_prefill(const lu_cuda_attend_args *a, const int32_t *starts, int64_t n_segments)
{
    if (starts[0] != 0 || starts[n_segments] != a->rows.n)
        return LU_CUDA_E_SHAPE;
    for (int64_t s = 0; s < n_segments; s++)
        for (int32_t r = starts[s] + 1; r < starts[s + 1]; r++)
            if (a->rows.position[r] != a->rows.position[r - 1] + 1 ||
                a->rows.sequence[r] != a->rows.sequence[r - 1])
                return LU_CUDA_E_SHAPE;
    return gpu_emulated_queue(run_attend, a, sizeof *a);
}

typedef struct {
    int64_t n, cols;
    const uint16_t *gate_up;
    int gelu, bf16;
    uint16_t *mid;
} act_args;

static int run_act_mul(const void *args)
{
    const act_args *a = args;
    for (int64_t r = 0; r < a->n; r++)
        for (int64_t i = 0; i < a->cols; i++) {
            const double g = load(a->gate_up, r * 2 * a->cols + i, a->bf16);
            const double up = load(a->gate_up, (r * 2 + 1) * a->cols + i, a->bf16);
            const double f =
                a->gelu ? 0.5 * g * (1.0 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)))
                        : g / (1.0 + exp(-g));
            store(a->mid, r * a->cols + i, a->bf16, f * up);
        }
    return 0;
}

int emulated_act_mul(int64_t n, int64_t cols, const uint16_t *gate_up, int gelu, int bf16,
                     uint16_t *mid, void *stream)
{
    const act_args a = {n, cols, gate_up, gelu, bf16, mid};
    (void)stream;
    return gpu_emulated_queue(run_act_mul, &a, sizeof a);
}

/* --- experts: never recorded ------------------------------------------------------------------ */

int emulated_moe_route(int64_t n, int64_t n_experts, int64_t n_active, const uint16_t *logits,
                       int bf16, int32_t *source, int32_t *place, float *share, int32_t *first,
                       void *stream)
{
    gpu_emulated_flush();
    int32_t *chosen = malloc((size_t)(n * n_active) * sizeof *chosen);
    (void)stream;
    for (int64_t r = 0; r < n; r++) {
        double sum = 0.0;
        int64_t taken = 0;
        bool *takes = calloc((size_t)n_experts, sizeof *takes);
        for (int64_t a = 0; a < n_active; a++) {
            int64_t best = -1;
            for (int64_t e = 0; e < n_experts; e++)
                if (!takes[e] && (best < 0 || load(logits, r * n_experts + e, bf16) >
                                                  load(logits, r * n_experts + best, bf16)))
                    best = e;
            takes[best] = true;
        }
        for (int64_t e = 0; e < n_experts; e++)
            if (takes[e]) {
                sum += exp(load(logits, r * n_experts + e, bf16));
                chosen[r * n_active + taken++] = (int32_t)e;
            }
        for (int64_t a = 0; a < n_active; a++)
            share[r * n_active + a] =
                (float)(exp(load(logits, r * n_experts + chosen[r * n_active + a], bf16)) / sum);
        free(takes);
    }
    int32_t at = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        first[e] = at;
        for (int64_t i = 0; i < n * n_active; i++)
            if (chosen[i] == e) {
                source[at] = (int32_t)(i / n_active);
                place[i] = at++;
            }
    }
    first[n_experts] = at;
    free(chosen);
    return 0;
}

int emulated_moe_gather(int64_t n, int64_t cols, const int32_t *source, const uint16_t *in,
                        uint16_t *out, void *stream)
{
    gpu_emulated_flush();
    (void)stream;
    for (int64_t g = 0; g < n; g++)
        memcpy(out + g * cols, in + source[g] * cols, (size_t)cols * sizeof *out);
    return 0;
}

int emulated_moe_scatter(int64_t n, int64_t cols, int64_t n_active, const int32_t *place,
                         const float *share, const uint16_t *y, int bf16, uint16_t *out,
                         void *stream)
{
    gpu_emulated_flush();
    (void)stream;
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < cols; i++) {
            double sum = 0.0;
            for (int64_t a = r * n_active; a < (r + 1) * n_active; a++)
                sum += (double)share[a] * (double)load(y, place[a] * cols + i, bf16);
            store(out, r * cols + i, bf16, sum);
        }
    return 0;
}

/* --- what becomes of logits ------------------------------------------------------------------- */

typedef struct {
    int64_t n, vocab;
    const uint16_t *logits;
    float cap;
    int bf16;
    const int32_t *target;
    float *out;
} logit_args;

static double capped(const logit_args *a, int64_t i)
{
    const double x = load(a->logits, i, a->bf16);
    return a->cap > 0.0f ? (double)a->cap * tanh(x / (double)a->cap) : x;
}

static int run_logits(const void *args)
{
    const logit_args *a = args;
    for (int64_t i = 0; i < a->n * a->vocab; i++)
        a->out[i] = (float)capped(a, i);
    return 0;
}

int emulated_logits(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16,
                    float *out, void *stream)
{
    const logit_args a = {n, vocab, logits, cap, bf16, NULL, out};
    (void)stream;
    return gpu_emulated_queue(run_logits, &a, sizeof a);
}

int emulated_nll(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16,
                 const int32_t *target, float *nll, void *stream)
{
    const logit_args a = {n, vocab, logits, cap, bf16, target, nll};
    (void)stream;
    for (int64_t r = 0; r < n; r++) {
        double sum = 0.0;
        for (int64_t i = 0; i < vocab; i++)
            sum += exp(capped(&a, r * vocab + i));
        nll[r] = (float)(log(sum) - capped(&a, r * vocab + target[r]));
    }
    return 0;
}

size_t emulated_sample_scratch(int64_t n, int64_t vocab) { return (size_t)(n * vocab); }

typedef struct {
    float score;
    double weight;
    int32_t id;
} ranked;

static int by_score(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->id - y->id;
}

static int by_rising_score(const void *a, const void *b) { return by_score(b, a); }

static float score_of(const lu_cuda_sample_args *a, int64_t r, int64_t i)
{
    const float x = a->logits[r * a->vocab + i], p = a->repetition_penalty;
    const uint32_t *seen = a->seen ? a->seen + r * ((a->vocab + 31) / 32) : NULL;
    if (!seen || !(seen[i / 32] >> (i % 32) & 1))
        return x;
    return x > 0.0f ? x / p : x * p;
}

static int by_id(const void *a, const void *b)
{
    return ((const ranked *)a)->id - ((const ranked *)b)->id;
}

/* Sorted by score and cut by top_k, top_p and min_p; one draw. The order that draws run through the
   candidates is engine/sampler.c's: by id, or from the least likely where top_k or top_p cut. */
static int32_t choose(const lu_cuda_sample_args *a, int64_t r)
{
    ranked *c = malloc((size_t)a->vocab * sizeof *c);
    int64_t n = a->vocab;
    double total = 0.0, reached = 0.0;
    for (int64_t i = 0; i < n; i++)
        c[i] = (ranked){.score = score_of(a, r, i), .id = (int32_t)i};
    qsort(c, (size_t)n, sizeof *c, by_score);
    int32_t id = c[0].id;
    if (a->temperature > 0.0f) {
        const float top = c[0].score;
        const bool cut = a->top_p < 1.0f || (a->top_k && a->top_k < n);
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++)
            c[i].weight = exp((double)((c[i].score - top) / a->temperature));
        n = a->top_k && a->top_k < n ? a->top_k : n;
        for (int64_t i = 0; i < n; i++)
            total += c[i].weight;
        while (kept < n && (!cut || reached < (double)a->top_p * total))
            reached += c[kept++].weight;
        qsort(c, (size_t)kept, sizeof *c, cut ? by_rising_score : by_id);
        total = 0.0;
        for (int64_t i = 0; i < kept; i++)
            total += c[i].weight = c[i].weight >= (double)a->min_p ? c[i].weight : 0.0;
        double left = a->uniform[r] * total;
        for (int64_t i = 0; i < kept; i++) {
            if (c[i].weight > 0.0)
                id = c[i].id;
            if (left < c[i].weight)
                break;
            left -= c[i].weight;
        }
    }
    free(c);
    return id;
}

static int run_sample(const void *args)
{
    const lu_cuda_sample_args *a = args;
    for (int64_t r = 0; r < a->n; r++) {
        a->ids[r] = choose(a, r);
        if (a->seen)
            a->seen[r * ((a->vocab + 31) / 32) + a->ids[r] / 32] |= 1u << (a->ids[r] % 32);
    }
    return 0;
}

int emulated_sample(const lu_cuda_sample_args *a)
{
    return gpu_emulated_queue(run_sample, a, sizeof *a);
}

/* --- compression ------------------------------------------------------------------------------ */

static int run_encode(const void *args)
{
    const lu_cuda_encode_args *a = args;
    const lutra_format *f = &a->encoder->format;
    const size_t groups = (size_t)lutra_format_groups(f, a->k),
                 in_row = (size_t)a->k * lutra_dtype_bytes(a->dtype);
    for (int64_t r = 0; r < a->n; r++) {
        const size_t i = (size_t)r;
        lu_encode_row_args row = {
            .w = (const uint8_t *)a->w + i * in_row,
            .dtype = a->dtype,
            .k = a->k,
            .codes = a->codes + i * lutra_format_row_bytes(f, a->k),
            .scales = (uint8_t *)a->scales + i * groups * lutra_dtype_bytes(f->scale_dtype),
            .zeros = a->zeros ? a->zeros + i * groups : NULL,
        };
        const bool good = lu_encoder_row(a->encoder, &row) < 0;
        a->energies[2 * r] = good ? row.signal : (double)NAN;
        a->energies[2 * r + 1] = good ? row.noise : (double)NAN;
    }
    return 0;
}

int emulated_encode(const lu_cuda_encode_args *a)
{
    if (a->n < 0 || a->k < 1 || a->k > LU_CUDA_ENCODE_MAX_K ||
        lutra_format_groups(&a->encoder->format, a->k) == 0)
        return LU_CUDA_E_SHAPE;
    return gpu_emulated_queue(run_encode, a, sizeof *a);
}
