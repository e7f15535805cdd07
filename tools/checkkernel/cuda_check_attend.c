/* cuda_check_attend.c - attention over the paged cache, decoding and prefill, against float64. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "kern/cuda/cuda_ops.h"

/* A cache of sequences in shuffled pages; what no sequence owns is NaN, and so is what lies behind
   a sequence's end, so that reading it shows. */
typedef struct {
    int64_t n_heads, kv_heads, head_dim, page_tokens, window;
    float softcap;
    int bf16;
    int64_t sequences, longest;
} shape;

typedef struct {
    shape s;
    int64_t max_pages, pages, half;
    int64_t *length;
    int32_t *table;
    uint16_t *cache;
    lu_cuda_kv kv;
} world;

enum { LAYERS = 2, LAYER = 1 };

static uint16_t *token_at(const world *w, int64_t sequence, int64_t token, int64_t kv_head,
                          int value)
{
    const shape *s = &w->s;
    const int64_t page = w->table[sequence * w->max_pages + token / s->page_tokens];
    return w->cache + (LAYER * 2 + value) * w->half +
           ((page * s->kv_heads + kv_head) * s->page_tokens + token % s->page_tokens) * s->head_dim;
}

static world make_world(cc *t, const shape *s)
{
    world w = {.s = *s};
    w.max_pages = (s->longest + s->page_tokens - 1) / s->page_tokens + 1;
    w.pages = s->sequences * w.max_pages + 1;
    w.half = w.pages * s->kv_heads * s->page_tokens * s->head_dim;
    w.length = cc_host((size_t)s->sequences * 8);
    w.table = cc_host((size_t)(s->sequences * w.max_pages) * 4);
    w.cache = cc_host((size_t)(LAYERS * 2 * w.half) * 2);
    memset(w.cache, 0xff, (size_t)(LAYERS * 2 * w.half) * 2);
    int32_t *order = cc_host((size_t)w.pages * 4);
    for (int64_t i = 0; i < w.pages; i++)
        order[i] = (int32_t)i;
    for (int64_t i = w.pages - 1; i > 0; i--) {
        const int64_t j = cc_pick(t, 0, i);
        const int32_t o = order[i];
        order[i] = order[j];
        order[j] = o;
    }
    for (int64_t q = 0; q < s->sequences; q++) {
        w.length[q] = q == 0 ? s->longest : cc_pick(t, 1, s->longest);
        for (int64_t p = 0; p < w.max_pages; p++) /* pages that are not needed yet have no number */
            w.table[q * w.max_pages + p] =
                p * s->page_tokens < w.length[q] ? order[q * w.max_pages + p] : -1000000;
        for (int64_t k = 0; k < w.length[q]; k++)
            for (int64_t h = 0; h < s->kv_heads; h++)
                for (int value = 0; value < 2; value++) {
                    uint16_t *v = cc_random_act(t, s->head_dim, 1.0, s->bf16);
                    memcpy(token_at(&w, q, k, h, value), v, (size_t)s->head_dim * 2);
                    free(v);
                }
    }
    free(order);
    return w;
}

static void free_world(world *w)
{
    free(w->length);
    free(w->table);
    free(w->cache);
}

/* out: n_heads * head_dim of one row */
static void attend_row(const world *w, const uint16_t *q, int64_t sequence, int64_t position,
                       float scale, double *out)
{
    const shape *s = &w->s;
    const int64_t group = s->n_heads / s->kv_heads,
                  start = s->window > 0 && position >= s->window ? position + 1 - s->window : 0;
    double *p = cc_host((size_t)(position + 1) * 8), query[256];
    for (int64_t h = 0; h < s->n_heads; h++) {
        double top = -INFINITY, total = 0.0, *o = out + h * s->head_dim;
        for (int64_t d = 0; d < s->head_dim; d++)
            query[d] = (double)scale * cc_act_value(q[h * s->head_dim + d], s->bf16);
        for (int64_t j = start; j <= position; j++) {
            const uint16_t *k = token_at(w, sequence, j, h / group, 0);
            double sum = 0.0;
            for (int64_t d = 0; d < s->head_dim; d++)
                sum += query[d] * cc_act_value(k[d], s->bf16);
            p[j] = s->softcap > 0.0f ? s->softcap * tanh(sum / s->softcap) : sum;
            top = p[j] > top ? p[j] : top;
        }
        memset(o, 0, (size_t)s->head_dim * 8);
        for (int64_t j = start; j <= position; j++) {
            const double e = exp(p[j] - top);
            const uint16_t *v = token_at(w, sequence, j, h / group, 1);
            total += e;
            for (int64_t d = 0; d < s->head_dim; d++)
                o[d] += e * cc_act_value(v[d], s->bf16);
        }
        for (int64_t d = 0; d < s->head_dim; d++)
            o[d] /= total;
    }
    free(p);
}

static void name_case(cc *t, const char *what, const shape *s, int64_t n)
{
    cc_case(
        t,
        "%s n %lld heads %lld/%lld head_dim %lld page %lld window %lld cap %g bf16 %d longest %lld",
        what, (long long)n, (long long)s->n_heads, (long long)s->kv_heads, (long long)s->head_dim,
        (long long)s->page_tokens, (long long)s->window, (double)s->softcap, s->bf16,
        (long long)s->longest);
}

static lu_cuda_kv device_kv(cc *t, const world *w)
{
    const size_t bytes = (size_t)(LAYERS * 2 * w->half) * 2;
    return (lu_cuda_kv){cc_fresh(t, w->cache, bytes),
                        w->pages,
                        w->s.page_tokens,
                        w->s.kv_heads,
                        w->s.head_dim,
                        cc_input(t, w->table, (size_t)(w->s.sequences * w->max_pages) * 4),
                        w->max_pages};
}

/* One row per sequence, at its last position; every fourth run one row is idle. */
static void decode(cc *t, const shape *s, int64_t wrong_window)
{
    name_case(t, "decode", s, s->sequences);
    const int64_t n = s->sequences, hd = s->head_dim, ld = (s->n_heads + 2 * s->kv_heads) * hd,
                  cols = s->n_heads * hd, half = hd / 2;
    world w = make_world(t, s);
    uint16_t *q = cc_random_act(t, n * ld, 1.0, s->bf16);
    int32_t *sequence = cc_host((size_t)n * 4), *position = cc_host((size_t)n * 4),
            *alone = cc_host((size_t)n * 4);
    const float scale = (float)(1.5 / sqrt((double)hd));
    double *ref = cc_host((size_t)(n * cols) * 8);
    for (int64_t r = 0; r < n; r++) {
        sequence[r] = (int32_t)(n - 1 - r);
        position[r] = (int32_t)w.length[sequence[r]] - 1;
        alone[r] = r == n / 2 ? position[r] : -1;
        attend_row(&w, q + r * ld, sequence[r], position[r], scale, ref + r * cols);
    }
    const size_t out_bytes = (size_t)(n * cols) * 2,
                 scratch = lu_cuda_attend_scratch(n, s->n_heads, hd, s->longest + 5000);
    void *zeros = cc_host(scratch);
    lu_cuda_attend_args a = {
        .rows = {n, cc_input(t, sequence, (size_t)n * 4), cc_input(t, position, (size_t)n * 4)},
        .q = cc_input(t, q, (size_t)(n * ld) * 2),
        .ld = ld,
        .n_heads = s->n_heads,
        .kv = device_kv(t, &w),
        .layer = LAYER,
        .window = wrong_window ? wrong_window : s->window,
        .scale = scale,
        .softcap = s->softcap,
        .out = cc_output(t, out_bytes),
        .bf16 = s->bf16,
        .max_position = s->longest,
        .scratch = cc_fresh(t, zeros, scratch)};
    cc_status(t, lu_cuda_attend_decode(&a));
    cc_compare_act(t, "out", a.out, ref, n * cols, s->bf16);
    const uint16_t *first = a.out;
    for (int repeat = 0; repeat < 3 && !wrong_window;
         repeat++) { /* other grids, the same scratch */
        a.max_position = repeat == 1 ? s->longest + 5000 : s->longest;
        a.out = cc_output(t, out_bytes);
        cc_status(t, lu_cuda_attend_decode(&a));
        cc_same_bits(t, "again", first, a.out, out_bytes);
    }
    if (!wrong_window) { /* one row, its neighbours idle */
        const int64_t r = n / 2;
        a.out = cc_output(t, out_bytes);
        a.rows.position = cc_input(t, alone, (size_t)n * 4);
        cc_status(t, lu_cuda_attend_decode(&a));
        cc_same_bits(t, "row alone", first + r * cols, a.out + r * cols, (size_t)cols * 2);
        a.rows.position = cc_input(t, position, (size_t)n * 4);
    }
    if (!wrong_window) { /* rotation in two launches and in one */
        float *c = cc_random_float(t, s->longest * half, -1, 1),
              *sn = cc_random_float(t, s->longest * half, -1, 1);
        const float *d_c = cc_input(t, c, (size_t)(s->longest * half) * 4),
                    *d_s = cc_input(t, sn, (size_t)(s->longest * half) * 4);
        const lu_cuda_kv one = a.kv, two = device_kv(t, &w);
        a.out = cc_output(t, out_bytes);
        first = a.out;
        cc_status(t, lu_cuda_rope_attend_decode(&a, d_c, d_s));
        uint16_t *rotated = cc_fresh(t, q, (size_t)(n * ld) * 2);
        const lu_cuda_rope_args rope = {.rows = a.rows,
                                        .qkv = rotated,
                                        .ld = ld,
                                        .n_heads = s->n_heads,
                                        .cosines = d_c,
                                        .sines = d_s,
                                        .kv = two,
                                        .layer = LAYER,
                                        .bf16 = s->bf16};
        cc_status(t, lu_cuda_rope_store(&rope));
        a.q = rotated;
        a.kv = two;
        a.out = cc_output(t, out_bytes);
        cc_status(t, lu_cuda_attend_decode(&a));
        cc_same_bits(t, "rope_attend", first, a.out, out_bytes);
        cc_same_bits(t, "cache of rope_attend", one.data, two.data,
                     (size_t)(LAYERS * 2 * w.half) * 2);
        free(c), free(sn);
    }
    cc_end(t);
    free_world(&w);
    free(zeros), free(ref), free(alone), free(position), free(sequence), free(q);
}

static void check_decode(cc *t)
{
    static const int64_t dims[] = {128, 64, 256, 80, 8, 24, 96, 192},
                         lengths[] = {1, 17, 64, 65, 130, 300, 1000, 2500, 4200};
    static const int64_t heads[][2] = {{8, 2}, {4, 4}, {7, 1}, {12, 1}, {20, 1}, {16, 2}};
    int i = 0;
    for (int d = 0; d < 8; d++)
        for (int k = 0; k < 4; k++, i++) {
            const shape s = {
                heads[(i + d) % 6][0],      heads[(i + d) % 6][1],     dims[d], 16 << i % 4,
                i % 3 == 1 ? 1 + i * 7 : 0, i % 4 == 2 ? 20.0f : 0.0f, i % 2,   1 + i % 5,
                lengths[(i * 5 + d) % 7]};
            decode(t, &s, 0);
        }
    for (int k = 0; k < 4; k++) { /* larger splits, windows that begin within one */
        const shape s = {8, 2, 128, 64, k & 1 ? 2300 : 0, 0.0f, k >> 1, 2, lengths[7 + (k & 1)]};
        decode(t, &s, 0);
    }
    const shape s = {8, 2, 128, 16, 100, 0.0f, 0, 2, 300};
    cc_plant(t);
    decode(t, &s, 101);
    cc_planted(t, "a window of one more");
}

/* Runs of several sequences; then the same rows cut otherwise. */
static void prefill(cc *t, const shape *s, int64_t wrong_window)
{
    world w = make_world(t, s);
    const int64_t hd = s->head_dim, ld = (s->n_heads + 2 * s->kv_heads) * hd,
                  cols = s->n_heads * hd;
    int32_t starts[17] = {0}, cuts[40] = {0};
    int64_t n = 0, n_cuts = 0;
    for (int64_t q = 0; q < s->sequences; q++) {
        n += q == 1 ? 1 : cc_pick(t, (w.length[q] + 1) / 2, w.length[q]);
        starts[q + 1] = (int32_t)n;
    }
    name_case(t, "prefill", s, n);
    uint16_t *q = cc_random_act(t, n * ld, 1.0, s->bf16);
    int32_t *sequence = cc_host((size_t)n * 4), *position = cc_host((size_t)n * 4);
    double *ref = cc_host((size_t)(n * cols) * 8), *seen = cc_host((size_t)(n * cols) * 8);
    const float scale = (float)(1.5 / sqrt((double)hd));
    int64_t n_seen = 0, *rows_seen = cc_host((size_t)n * 8);
    for (int64_t k = 0; k < s->sequences; k++)
        for (int64_t r = starts[k]; r < starts[k + 1]; r++) {
            sequence[r] = (int32_t)k;
            position[r] = (int32_t)(w.length[k] - (starts[k + 1] - r));
            if (n > 200 && r != starts[k] && r + 1 != starts[k + 1] &&
                r % 37) /* enough rows of long runs */
                continue;
            attend_row(&w, q + r * ld, k, position[r], scale, ref + n_seen * cols);
            rows_seen[n_seen++] = r;
        }
    const size_t bytes = (size_t)(n * cols) * 2;
    lu_cuda_attend_args a = {
        .rows = {n, cc_input(t, sequence, (size_t)n * 4), cc_input(t, position, (size_t)n * 4)},
        .q = cc_input(t, q, (size_t)(n * ld) * 2),
        .ld = ld,
        .n_heads = s->n_heads,
        .kv = device_kv(t, &w),
        .layer = LAYER,
        .window = wrong_window ? wrong_window : s->window,
        .scale = scale,
        .softcap = s->softcap,
        .out = cc_output(t, bytes),
        .bf16 = s->bf16,
        .max_position = s->longest};
    cc_status(t, lu_cuda_attend_prefill(&a, starts, s->sequences));
    uint16_t *out = cc_host(bytes), *picked = cc_host(bytes);
    cc_fetch(t, a.out, out, bytes);
    for (int64_t i = 0; i < n_seen; i++)
        memcpy(picked + i * cols, out + rows_seen[i] * cols, (size_t)cols * 2);
    for (int64_t i = 0; i < n * cols; i++)
        if (!isfinite(cc_act_value(out[i], s->bf16))) {
            cc_fail(t, "row %lld is not finite", (long long)(i / cols));
            break;
        }
    cc_compare_act(t, "out", cc_input(t, picked, (size_t)(n_seen * cols) * 2), ref, n_seen * cols,
                   s->bf16);
    for (int64_t k = 0; k < s->sequences; k++) { /* cut every run in two or three */
        const int64_t from = starts[k], to = starts[k + 1];
        cuts[n_cuts++] = (int32_t)from;
        if (to - from > 1)
            cuts[n_cuts++] = (int32_t)(from + (to - from) / 3 + ((to - from) / 3 == 0));
        if (to - from > 3)
            cuts[n_cuts++] = (int32_t)(to - 1);
    }
    cuts[n_cuts] = (int32_t)n;
    if (!wrong_window) {
        const uint16_t *first = a.out;
        a.out = cc_output(t, bytes);
        cc_status(t, lu_cuda_attend_prefill(&a, cuts, n_cuts));
        cc_same_bits(t, "cut otherwise", first, a.out, bytes);
        a.out = cc_output(t, bytes);
        cc_status(t, lu_cuda_attend_prefill(&a, starts, s->sequences));
        cc_same_bits(t, "again", first, a.out, bytes);
    }
    cc_end(t);
    free_world(&w);
    free(picked), free(out), free(rows_seen), free(seen), free(ref), free(position), free(sequence),
        free(q);
}

static void check_prefill(cc *t)
{
    static const int64_t dims[] = {128, 64, 256, 80, 8, 24, 96, 192},
                         lengths[] = {1, 5, 33, 64, 130, 257, 600};
    static const int64_t heads[][2] = {{8, 2}, {4, 4}, {7, 1}, {12, 1}, {14, 2}, {16, 2}};
    int i = 0;
    for (int d = 0; d < 8; d++)
        for (int k = 0; k < 4; k++, i++) {
            const shape s = {
                heads[(i + d) % 6][0],      heads[(i + d) % 6][1],     dims[d], 16 << i % 4,
                i % 3 == 1 ? 1 + i * 3 : 0, i % 4 == 2 ? 20.0f : 0.0f, i % 2,   1 + i % 4,
                lengths[(i * 5 + d) % 7]};
            prefill(t, &s, 0);
        }
    for (int k = 0; k < 2; k++) {
        const shape s = {8, 2, 128, 64, k ? 900 : 0, 0.0f, k, 1, 2100};
        prefill(t, &s, 0);
    }
    const shape s = {8, 2, 128, 16, 100, 0.0f, 0, 2, 300};
    cc_plant(t);
    prefill(t, &s, 101);
    cc_planted(t, "a window of one more");
}

const cc_op cc_attend_ops[] = {
    {"attend_decode", check_decode}, {"attend_prefill", check_prefill}, {NULL, NULL}};
