/* cuda_check_rows.c - embed, seam, rope_store, act_mul, mixture of experts, logits, likelihood. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_check.h"
#include "fmt/codec.h"
#include "kern/cuda/cuda_ops.h"

static const int64_t widths[] = {8, 9, 64, 100, 576, 1000, 2304, 4096, 5120, 12288};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

/* --- embed ------------------------------------------------------------------------------------ */

static void embed_dense(cc *t, int64_t n, int64_t cols, int bf16, float scale, float given)
{
    enum { VOCAB = 37 };
    cc_case(t, "dense n %lld cols %lld bf16 %d", (long long)n, (long long)cols, bf16);
    uint16_t *table = cc_random_act(t, VOCAB * cols, 1.0, bf16);
    int32_t *ids = cc_host((size_t)n * 4);
    double *ref = cc_host((size_t)(n * cols) * 8);
    for (int64_t r = 0; r < n; r++) {
        ids[r] = (int32_t)cc_pick(t, 0, VOCAB - 1);
        for (int64_t c = 0; c < cols; c++)
            ref[r * cols + c] = (double)scale * cc_act_value(table[ids[r] * cols + c], bf16);
    }
    float *x = cc_output(t, (size_t)(n * cols) * 4), *out = cc_host((size_t)(n * cols) * 4);
    const lu_cuda_embed_args a = {.n = n,
                                  .cols = cols,
                                  .ids = cc_input(t, ids, (size_t)n * 4),
                                  .dense = cc_input(t, table, (size_t)(VOCAB * cols) * 2),
                                  .bf16 = bf16,
                                  .scale = given,
                                  .x = x};
    cc_status(t, lu_cuda_embed(&a));
    cc_fetch(t, x, out, (size_t)(n * cols) * 4);
    cc_compare(t, "x", out, ref, n * cols, 1e-7, 1e-6);
    cc_end(t);
    free(out), free(ref), free(ids), free(table);
}

static void embed_coded(cc *t, int64_t cols, int64_t group, int bits, bool asymmetric)
{
    enum { VOCAB = 29, N = 5 };
    cc_case(t, "coded bits %d cols %lld group %lld zeros %d", bits, (long long)cols,
            (long long)group, asymmetric);
    const int64_t row = (cols * bits + 7) / 8, groups = cols / group;
    uint8_t *codes = cc_host((size_t)(VOCAB * row)), *zeros = cc_host((size_t)(VOCAB * groups));
    uint16_t *scales = cc_random_act(t, VOCAB * groups, 0.1, 0);
    float *table = cc_random_float(t, 1 << bits, -1, 1);
    double *ref = cc_host((size_t)(N * cols) * 8);
    int32_t ids[N];
    for (int64_t i = 0; i < VOCAB * row; i++)
        codes[i] = (uint8_t)cc_pick(t, 0, 255);
    for (int64_t i = 0; i < VOCAB * groups; i++)
        zeros[i] = (uint8_t)cc_pick(t, 0, (1 << bits) - 1);
    for (int r = 0; r < N; r++) {
        ids[r] = r == 0 ? VOCAB - 1 : (int32_t)cc_pick(t, 0, VOCAB - 1);
        for (int64_t c = 0; c < cols; c++) {
            const int64_t g = ids[r] * groups + c / group;
            const float v = table[lu_code_at(codes + ids[r] * row, c, bits)];
            ref[r * cols + c] = 3.0 * cc_act_value(scales[g], 0) *
                                ((double)v - (asymmetric ? (double)table[zeros[g]] : 0.0));
        }
    }
    float *x = cc_output(t, (size_t)(N * cols) * 4), *out = cc_host((size_t)(N * cols) * 4);
    const lu_cuda_embed_args a = {.n = N,
                                  .cols = cols,
                                  .ids = cc_input(t, ids, sizeof ids),
                                  .codes = cc_input(t, codes, (size_t)(VOCAB * row)),
                                  .scales = cc_input(t, scales, (size_t)(VOCAB * groups) * 2),
                                  .zeros = asymmetric ? cc_input(t, zeros, (size_t)(VOCAB * groups))
                                                      : NULL,
                                  .bits = bits,
                                  .group_size = group,
                                  .table = table,
                                  .scale = 3.0f,
                                  .x = x};
    cc_status(t, lu_cuda_embed(&a));
    cc_fetch(t, x, out, (size_t)(N * cols) * 4);
    cc_compare(t, "x", out, ref, N * cols, 1e-6, 1e-6);
    cc_end(t);
    free(out), free(ref), free(table), free(scales), free(zeros), free(codes);
}

static void check_embed(cc *t)
{
    for (int w = 0; w < N_WIDTHS; w++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            embed_dense(t, 1 + w * 3, widths[w], bf16, w % 2 ? 1.0f : 48.0f, w % 2 ? 1.0f : 48.0f);
    for (int bits = 2; bits <= 8; bits++) {
        embed_coded(t, 4096, 64, bits, bits % 2);
        embed_coded(t, 321, 107, bits, true);
        embed_coded(t, 576, 576, bits, false);
    }
    cc_plant(t);
    embed_dense(t, 3, 576, 0, 48.0f, 48.01f);
    cc_planted(t, "another scale");
}

/* --- seam ------------------------------------------------------------------------------------- */

static void rmsnorm(double *v, const float *w, int64_t n, double eps, double offset)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += v[i] * v[i];
    const double f = 1.0 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++)
        v[i] *= f * ((double)w[i] + offset);
}

static void seam(cc *t, int64_t n, int64_t cols, int bf16, int parts, float offset,
                 const char *fault)
{
    const bool branch = parts & 1, out_norm = parts & 2, in_norm = parts & 4;
    const size_t all = (size_t)(n * cols);
    cc_case(t, "n %lld cols %lld bf16 %d branch %d out_norm %d in_norm %d", (long long)n,
            (long long)cols, bf16, branch, out_norm, in_norm);
    float *x = cc_random_float(t, n * cols, -3, 3), *w1 = cc_random_float(t, cols, 0.2, 2),
          *w2 = cc_random_float(t, cols, 0.2, 2);
    uint16_t *b = cc_random_act(t, n * cols, 2.0, bf16);
    double *ref = cc_host(all * 8), *ref_in = cc_host(all * 8), *row = cc_host((size_t)cols * 8);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < cols; c++)
            row[c] = cc_act_value(b[r * cols + c], bf16);
        if (out_norm)
            rmsnorm(row, w1, cols, 1e-5, (double)offset);
        for (int64_t c = 0; c < cols; c++)
            ref[r * cols + c] = ref_in[r * cols + c] =
                (double)x[r * cols + c] + (branch ? row[c] : 0.0);
        rmsnorm(ref_in + r * cols, w2, cols, 1e-5, (double)offset);
    }
    float *out = cc_host(all * 4);
    void *in = in_norm ? cc_output(t, all * 2) : NULL,
         *again = in_norm ? cc_output(t, all * 2) : NULL;
    lu_cuda_seam_args a = {.n = n,
                           .cols = cols,
                           .x = cc_fresh(t, x, all * 4),
                           .branch = branch ? cc_input(t, b, all * 2) : NULL,
                           .out_norm = out_norm ? cc_input(t, w1, (size_t)cols * 4) : NULL,
                           .in_norm = in_norm ? cc_input(t, w2, (size_t)cols * 4) : NULL,
                           .eps = fault ? 1e-1f : 1e-5f,
                           .norm_offset = offset,
                           .in = in,
                           .bf16 = bf16};
    cc_status(t, lu_cuda_seam(&a));
    cc_fetch(t, a.x, out, all * 4);
    cc_compare(t, "x", out, ref, n * cols, 1e-6, 4e-6);
    if (in_norm) {
        cc_compare_act(t, "in", in, ref_in, n * cols, bf16);
        const int64_t last = n - 1; /* a row alone equals the row in the batch */
        a.n = 1;
        a.x = cc_fresh(t, x + last * cols, (size_t)cols * 4);
        a.branch = branch ? cc_input(t, b + last * cols, (size_t)cols * 2) : NULL;
        a.in = again;
        cc_status(t, lu_cuda_seam(&a));
        cc_same_bits(t, "row alone", again, (uint16_t *)in + last * cols, (size_t)cols * 2);
    }
    cc_end(t);
    free(out), free(row), free(ref_in), free(ref), free(b), free(w2), free(w1), free(x);
}

static void check_seam(cc *t)
{
    for (int w = 0; w < N_WIDTHS; w++)
        for (int parts = 1; parts < 8; parts++)
            if (parts != 2)
                seam(t, 1 + (w * 5 + parts) % 7, widths[w], (w + parts) % 2, parts == 6 ? 4 : parts,
                     parts == 7 ? 1.0f : 0.0f, NULL);
    seam(t, 2, 16384 + 8, 0, 7, 0, NULL);
    seam(t, 300, 4096, 1, 7, 0, NULL);
    cc_plant(t);
    seam(t, 2, 4096, 0, 7, 0, "eps");
    cc_planted(t, "a wrong eps");
}

/* --- rope_store ------------------------------------------------------------------------------- */

static void rope(cc *t, int64_t n, int64_t n_heads, int64_t kv_heads, int64_t hd,
                 int64_t page_tokens, int bf16, int shift)
{
    enum { SEQUENCES = 4, MAX_PAGES = 8, LAYERS = 2, LAYER = 1 };
    const int64_t heads = n_heads + 2 * kv_heads, ld = heads * hd, half = hd / 2,
                  pages = SEQUENCES * MAX_PAGES + 3;
    const int64_t positions = MAX_PAGES * page_tokens,
                  kv_half = pages * kv_heads * page_tokens * hd, kv_all = LAYERS * 2 * kv_half;
    cc_case(t, "n %lld heads %lld/%lld head_dim %lld page %lld bf16 %d", (long long)n,
            (long long)n_heads, (long long)kv_heads, (long long)hd, (long long)page_tokens, bf16);
    uint16_t *qkv = cc_random_act(t, n * ld, 1.0, bf16),
             *cache = cc_random_act(t, kv_all, 1.0, bf16);
    float *c = cc_random_float(t, (positions + 1) * half, -1, 1),
          *s = cc_random_float(t, (positions + 1) * half, -1, 1);
    int32_t table[SEQUENCES * MAX_PAGES], *sequence = cc_host((size_t)n * 4),
                                          *position = cc_host((size_t)n * 4);
    for (int i = 0; i < SEQUENCES * MAX_PAGES; i++)
        table[i] = (int32_t)((i * 3 + 5) % pages);
    double *ref = cc_host((size_t)(n * ld) * 8), *ref_cache = cc_host((size_t)kv_all * 8);
    for (int64_t i = 0; i < n * ld; i++)
        ref[i] = cc_act_value(qkv[i], bf16);
    for (int64_t i = 0; i < kv_all; i++)
        ref_cache[i] = cc_act_value(cache[i], bf16);
    for (int64_t r = 0; r < n; r++) {
        sequence[r] = (int32_t)(r % SEQUENCES);
        position[r] =
            r == 1 ? -1
                   : (int32_t)((r / SEQUENCES * 5 + r) % positions); /* distinct while n is small */
        if (position[r] < 0)
            continue;
        const int64_t p = position[r], page = table[sequence[r] * MAX_PAGES + p / page_tokens];
        for (int64_t h = 0; h < heads; h++) {
            double *v = ref + r * ld + h * hd, rotated[256];
            for (int64_t i = 0; i < half; i++) {
                const double co = c[p * half + i], si = s[p * half + i];
                rotated[i] = v[i] * co - v[i + half] * si;
                rotated[i + half] = v[i + half] * co + v[i] * si;
            }
            if (h < n_heads) {
                memcpy(v, rotated, (size_t)hd * 8);
                continue;
            }
            const int64_t value = h >= n_heads + kv_heads,
                          kv_head = h - n_heads - (value ? kv_heads : 0);
            memcpy(ref_cache + (LAYER * 2 + value) * kv_half +
                       ((page * kv_heads + kv_head) * page_tokens + p % page_tokens) * hd,
                   value ? v : rotated, (size_t)hd * 8);
        }
    }
    void *d_qkv = cc_fresh(t, qkv, (size_t)(n * ld) * 2),
         *d_cache = cc_fresh(t, cache, (size_t)kv_all * 2);
    const float *d_c = cc_input(t, c, (size_t)((positions + 1) * half) * 4),
                *d_s = cc_input(t, s, (size_t)((positions + 1) * half) * 4);
    const lu_cuda_rope_args a = {
        .rows = {n, cc_input(t, sequence, (size_t)n * 4), cc_input(t, position, (size_t)n * 4)},
        .qkv = d_qkv,
        .ld = ld,
        .n_heads = n_heads,
        .cosines = d_c + shift * half,
        .sines = d_s + shift * half,
        .kv = {d_cache, pages, page_tokens, kv_heads, hd, cc_input(t, table, sizeof table),
               MAX_PAGES},
        .layer = LAYER,
        .bf16 = bf16};
    cc_status(t, lu_cuda_rope_store(&a));
    cc_compare_act(t, "qkv", d_qkv, ref, n * ld, bf16);
    cc_compare_act(t, "cache", d_cache, ref_cache, kv_all, bf16);
    cc_end(t);
    free(ref_cache), free(ref), free(position), free(sequence), free(s), free(c), free(cache),
        free(qkv);
}

static void check_rope(cc *t)
{
    static const int64_t dims[] = {8, 24, 64, 80, 96, 128, 256};
    for (int d = 0; d < 7; d++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            rope(t, 1 + d * 3, d % 3 ? 8 : 7, d % 3 ? 2 : 1, dims[d], 16 << d % 3, bf16, 0);
    cc_plant(t);
    rope(t, 3, 8, 2, 128, 16, 0, 1);
    cc_planted(t, "the angles of the next position");
}

/* --- act_mul ---------------------------------------------------------------------------------- */

static void act_mul(cc *t, int64_t n, int64_t cols, int gelu, int bf16, int given)
{
    cc_case(t, "n %lld cols %lld gelu %d bf16 %d", (long long)n, (long long)cols, gelu, bf16);
    uint16_t *x = cc_random_act(t, n * 2 * cols, 3.0, bf16);
    double *ref = cc_host((size_t)(n * cols) * 8);
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < cols; c++) {
            const double g = cc_act_value(x[r * 2 * cols + c], bf16),
                         u = cc_act_value(x[r * 2 * cols + cols + c], bf16);
            ref[r * cols + c] =
                u * (gelu ? 0.5 * g * (1.0 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)))
                          : g / (1.0 + exp(-g)));
        }
    void *mid = cc_output(t, (size_t)(n * cols) * 2);
    cc_status(t, lu_cuda_act_mul(n, cols, cc_input(t, x, (size_t)(n * 2 * cols) * 2), given, bf16,
                                 mid, NULL));
    cc_compare_act(t, "mid", mid, ref, n * cols, bf16);
    cc_end(t);
    free(ref), free(x);
}

static void check_act_mul(cc *t)
{
    for (int w = 0; w < N_WIDTHS; w++)
        for (int k = 0; k < 4; k++)
            act_mul(t, 1 + (w * 3 + k) % 9, widths[w], k & 1, k >> 1, k & 1);
    cc_plant(t);
    act_mul(t, 2, 4096, 0, 0, 1);
    cc_planted(t, "gelu for silu");
}

/* --- mixture of experts ----------------------------------------------------------------------- */

static void moe(cc *t, int64_t n, int64_t experts, int64_t active, int64_t cols, int bf16,
                bool ties, int given)
{
    cc_case(t, "n %lld experts %lld active %lld cols %lld bf16 %d ties %d", (long long)n,
            (long long)experts, (long long)active, (long long)cols, bf16, ties);
    const int64_t pairs = n * active;
    uint16_t *logits = cc_random_act(t, n * experts, 2.0, bf16),
             *in = cc_random_act(t, n * cols, 1.0, bf16);
    for (int64_t i = 0; ties && i < n * experts; i++)
        logits[i] = cc_to_act((float)cc_pick(t, 0, 2), bf16);
    int32_t *chosen = cc_host((size_t)pairs * 4), *source = cc_host((size_t)pairs * 4),
            *place = cc_host((size_t)pairs * 4);
    int32_t *first = cc_host((size_t)(experts + 1) * 4), *next = cc_host((size_t)experts * 4);
    double *share = cc_host((size_t)pairs * 8);
    for (int64_t r = 0; r < n; r++) {
        bool taken[256] = {false};
        double sum = 0.0;
        for (int64_t k = 0; k < active; k++) {
            int64_t best = -1;
            for (int64_t e = 0; e < experts; e++)
                if (!taken[e] && (best < 0 || cc_act_value(logits[r * experts + e], bf16) >
                                                  cc_act_value(logits[r * experts + best], bf16)))
                    best = e;
            taken[best] = true;
            sum += exp((double)cc_act_value(logits[r * experts + best], bf16));
        }
        for (int64_t e = 0, k = 0; e < experts; e++)
            if (taken[e]) {
                chosen[r * active + k] = (int32_t)e;
                share[r * active + k++] =
                    exp((double)cc_act_value(logits[r * experts + e], bf16)) / sum;
                first[e + 1]++;
            }
    }
    for (int64_t e = 0; e < experts; e++) {
        first[e + 1] += first[e];
        next[e] = first[e];
    }
    double *gathered = cc_host((size_t)(pairs * cols) * 8),
           *summed = cc_host((size_t)(n * cols) * 8);
    for (int64_t i = 0; i < pairs; i++) {
        place[i] = next[chosen[i]]++;
        source[place[i]] = (int32_t)(i / active);
        for (int64_t c = 0; c < cols; c++)
            gathered[place[i] * cols + c] = cc_act_value(in[i / active * cols + c], bf16);
    }
    uint16_t *y = cc_random_act(t, pairs * cols, 1.0, bf16);
    for (int64_t i = 0; i < pairs; i++)
        for (int64_t c = 0; c < cols; c++)
            summed[i / active * cols + c] += share[i] * cc_act_value(y[place[i] * cols + c], bf16);

    int32_t *d_source = cc_output(t, (size_t)pairs * 4), *d_place = cc_output(t, (size_t)pairs * 4),
            *d_first = cc_output(t, (size_t)(experts + 1) * 4);
    float *d_share = cc_output(t, (size_t)pairs * 4), *out = cc_host((size_t)pairs * 4);
    void *d_gathered = cc_output(t, (size_t)(pairs * cols) * 2),
         *d_out = cc_output(t, (size_t)(n * cols) * 2);
    cc_status(t,
              lu_cuda_moe_route(n, experts, active, cc_input(t, logits, (size_t)(n * experts) * 2),
                                given, d_source, d_place, d_share, d_first, NULL));
    cc_status(t, lu_cuda_moe_gather(pairs, cols, d_source, cc_input(t, in, (size_t)(n * cols) * 2),
                                    d_gathered, NULL));
    cc_status(t,
              lu_cuda_moe_scatter(n, cols, active, d_place, d_share,
                                  cc_input(t, y, (size_t)(pairs * cols) * 2), bf16, d_out, NULL));
    cc_same_bits(t, "first", d_first, cc_input(t, first, (size_t)(experts + 1) * 4),
                 (size_t)(experts + 1) * 4);
    cc_same_bits(t, "place", d_place, cc_input(t, place, (size_t)pairs * 4), (size_t)pairs * 4);
    cc_same_bits(t, "source", d_source, cc_input(t, source, (size_t)pairs * 4), (size_t)pairs * 4);
    cc_fetch(t, d_share, out, (size_t)pairs * 4);
    cc_compare(t, "share", out, share, pairs, 1e-6, 4e-6);
    cc_compare_act(t, "gathered", d_gathered, gathered, pairs * cols, bf16);
    cc_compare_act(t, "out", d_out, summed, n * cols, bf16);
    cc_end(t);
    free(out), free(y), free(summed), free(gathered), free(share), free(next), free(first),
        free(place), free(source), free(chosen), free(in), free(logits);
}

static void check_moe(cc *t)
{
    static const int64_t rows[] = {1, 2, 5, 32, 64, 65, 300, 1000};
    for (int r = 0; r < 8; r++) {
        moe(t, rows[r], 8, 2, 64, r % 2, false, r % 2);
        moe(t, rows[r], 8, 2, 24, r % 2, true, r % 2);
        moe(t, rows[r], r % 2 ? 128 : 60, r % 2 ? 8 : 4, 33, 1 - r % 2, r % 3 == 0, 1 - r % 2);
    }
    moe(t, 3, 256, 32, 8, 0, false, 0);
    moe(t, 3, 1, 1, 8, 0, false, 0);
    cc_plant(t);
    moe(t, 40, 8, 2, 64, 0, false, 1);
    cc_planted(t, "logits of the other type");
}

/* --- logits, likelihood ----------------------------------------------------------------------- */

static void logits(cc *t, int64_t n, int64_t vocab, float cap, int bf16, float given)
{
    cc_case(t, "n %lld vocab %lld cap %g bf16 %d", (long long)n, (long long)vocab, (double)cap,
            bf16);
    uint16_t *x = cc_random_act(t, n * vocab, 8.0, bf16);
    double *ref = cc_host((size_t)(n * vocab) * 8), *nll = cc_host((size_t)n * 8);
    int32_t *target = cc_host((size_t)n * 4);
    for (int64_t r = 0; r < n; r++) {
        double sum = 0.0;
        for (int64_t i = 0; i < vocab; i++) {
            double v = cc_act_value(x[r * vocab + i], bf16);
            v = cap > 0.0f ? (double)cap * tanh(v / (double)cap) : v;
            ref[r * vocab + i] = v;
            sum += exp(v);
        }
        target[r] = (int32_t)(r == 0 ? vocab - 1 : cc_pick(t, 0, vocab - 1));
        nll[r] = log(sum) - ref[r * vocab + target[r]];
    }
    float *d_out = cc_output(t, (size_t)(n * vocab) * 4), *d_nll = cc_output(t, (size_t)n * 4);
    float *out = cc_host((size_t)(n * vocab) * 4);
    const void *d_x = cc_input(t, x, (size_t)(n * vocab) * 2);
    cc_status(t, lu_cuda_logits(n, vocab, d_x, given, bf16, d_out, NULL));
    cc_status(t, lu_cuda_nll(n, vocab, d_x, given, bf16, cc_input(t, target, (size_t)n * 4), d_nll,
                             NULL));
    cc_fetch(t, d_out, out, (size_t)(n * vocab) * 4);
    cc_compare(t, "logits", out, ref, n * vocab, 1e-6, 4e-6);
    cc_fetch(t, d_nll, out, (size_t)n * 4);
    for (int64_t r = 0; r < n;
         r++) { /* errors come in proportion to the logits, which are near 8 */
        out[r] += 8.0f;
        nll[r] += 8.0;
    }
    cc_compare(t, "nll", out, nll, n, 2e-6, 1e-5);
    cc_end(t);
    free(out), free(target), free(nll), free(ref), free(x);
}

static void check_logits(cc *t)
{
    static const int64_t vocabs[] = {1, 7, 8, 500, 4096, 32000, 50257, 128256};
    for (int v = 0; v < 8; v++)
        for (int k = 0; k < 2; k++)
            logits(t, v > 5 ? 3 : 1 + v, vocabs[v], (v + k) % 2 ? 30.0f : 0.0f, k,
                   (v + k) % 2 ? 30.0f : 0.0f);
    cc_plant(t);
    logits(t, 2, 500, 30.0f, 0, 30.01f);
    cc_planted(t, "another cap");
}

const cc_op cc_row_ops[] = {{"embed", check_embed},
                            {"seam", check_seam},
                            {"rope_store", check_rope},
                            {"act_mul", check_act_mul},
                            {"moe", check_moe},
                            {"logits+nll", check_logits},
                            {NULL, NULL}};
