/* bare_block.h - a block view without a model, for tests of passes: sites made of given matrices.
 */
#ifndef LU_TESTS_BARE_BLOCK_H
#define LU_TESTS_BARE_BLOCK_H

#include <stdlib.h>
#include <string.h>

#include "algo/pass.h"
#include "base/mem.h"

static inline float bare_noise(uint64_t *s)
{
    float sum = 0; /* near enough a normal deviate */
    for (int i = 0; i < 4; i++) {
        *s = *s * 6364136223846793005u + 1442695040888963407u;
        sum += (float)((double)(*s >> 40) / (1 << 23) - 1);
    }
    return sum * 0.866f;
}

static inline lu_block bare_block(lutra_ctx *ctx)
{
    lu_block b = {.ctx = ctx};
    if (lu_la_open(ctx->pool, NULL, &b.la, NULL) || lu_level_parse(ctx->options.cpu, &b.level, NULL))
        abort();
    return b;
}

/* Weights of unit variance times 0.05, some rows with an outlier. */
static inline lu_site_linear bare_linear(const char *spec, int64_t n, int64_t k, uint64_t seed)
{
    lu_site_linear l = {.name = "model.layers.0.test", .n = n, .k = k, .wanted = true};
    if (lutra_format_parse(spec, &l.format, NULL))
        abort();
    l.w = lu_array((size_t)(n * k), sizeof *l.w);
    for (int64_t i = 0; i < n * k; i++)
        l.w[i] = 0.05f * bare_noise(&seed) * (i % 97 == 0 ? 4.0f : 1.0f);
    return l;
}

static inline void bare_linear_free(lu_site_linear *l)
{
    lu_linear_free_codes(l);
    lu_free(l->w);
    lu_free(l->bias);
    lu_free(l->lo);
    lu_free(l->hi);
    lu_free(l->tables);
}

/* Correlated rows with channels of different size, and all statistics of them. */
static inline lu_stats bare_stats(lu_block *b, int64_t rows, int64_t k, uint64_t seed)
{
    lu_stats s = {.n_rows = rows, .n_kept = rows};
    float *const vectors[] = {
        s.absmax = lu_calloc((size_t)k, 4), s.absmean = lu_calloc((size_t)k, 4),
        s.lowest = lu_calloc((size_t)k, 4), s.highest = lu_calloc((size_t)k, 4)};
    s.rows = lu_array((size_t)(rows * k), 4);
    s.hessian = lu_calloc((size_t)(k * k), 4);
    for (size_t i = 0; i < 4; i++)
        if (!vectors[i])
            abort();
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < k; c++) {
            float *x = s.rows + r * k + c;
            *x = bare_noise(&seed) * (c % 11 == 3 ? 6.0f : c % 5 == 0 ? 0.2f : 1.0f);
            if (c > 0)
                *x += 0.6f * x[-1];
            const float a = *x < 0 ? -*x : *x;
            s.absmax[c] = a > s.absmax[c] ? a : s.absmax[c];
            s.absmean[c] += a / (float)rows;
            s.lowest[c] = *x < s.lowest[c] ? *x : s.lowest[c];
            s.highest[c] = *x > s.highest[c] ? *x : s.highest[c];
        }
    lu_la_add_gram(b->la, rows, k, 1.0f / (float)rows, s.rows, k, s.hessian);
    lu_la_mirror(b->la, k, s.hessian);
    return s;
}

static inline void bare_stats_free(lu_stats *s)
{
    lu_free(s->absmax);
    lu_free(s->absmean);
    lu_free(s->lowest);
    lu_free(s->highest);
    lu_free(s->rows);
    lu_free(s->hessian);
}

#endif
