/* int8_impl.h - products of integers (linear_int8.h) of a vector level, compiled once per level. A
   unit is 4 vectors of rows. Its columns are taken LU_INT8_CHUNK at a time, which stay in L1 while
   TOKENS rows of x at a time pass over them; nibbles become bytes in a tile first. Sums of a chunk
   wait in scratch for the next chunk of their group. */
#ifndef LU_KERN_INT8_IMPL_H
#define LU_KERN_INT8_IMPL_H

#include <string.h>

#include "kern/linear_int8.h"
#if defined(__AVX512F__)
#include "kern/x86/int8_avx512.h"
#else
#include "kern/x86/int8_avx2.h"
#endif

#define INLINE static inline __attribute__((always_inline))
#if !defined(__has_feature)
#define __has_feature(x) 0
#endif
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNROLL /* each unrolled access would carry its checks: minutes of compile time */
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

enum {
    VECTORS = 4,
    UNIT_ROWS = VECTORS * LANES,
    QUAD = UNIT_ROWS * 4, /* bytes of 4 columns */
    MAX_TOKENS = 192,     /* rows of x per walk through a unit: they stay near L2 */
    PREFETCH = 4096       /* bytes between a line asked for and the one in use */
};

/* Work on one packed group. */
typedef struct group {
    const float *scales; /* [UNIT_ROWS] */
    const int32_t *sums; /* [UNIT_ROWS] */
    bool first, last;    /* chunk of the group */
} group;

/* Columns of a chunk as bytes: [quads][UNIT_ROWS][4]. */
static void widen(const uint8_t *codes, int64_t octets, const uint8_t *offsets, uint8_t *tile)
{
    vi offset[VECTORS];
    UNROLL
    for (int v = 0; v < VECTORS; v++)
        offset[v] = vi_load(offsets + v * LANES * 4);
    for (int64_t j = 0; j < octets; j++, codes += QUAD, tile += 2 * QUAD) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const int at = v * LANES * 4;
            const vi c = vi_load(codes + at);
            __builtin_prefetch((const void *)((uintptr_t)codes + PREFETCH + (uintptr_t)at));
            vi_store(tile + at, vi_add8(vi_low_nibbles(c), offset[v]));
            vi_store(tile + QUAD + at, vi_add8(vi_high_nibbles(c), offset[v]));
        }
    }
}

/* T rows of x (codes, of records with zero points at zero[t * ldx]) over `quads` of 4 columns. kept
   and y: [T][UNIT_ROWS] */
INLINE void tokens(int T, const uint8_t *w, int64_t quads, const uint8_t *x, const uint8_t *zero,
                   int64_t ldx, const group *g, int32_t *kept, float *y)
{
    vi a[TOKENS][VECTORS];
    UNROLL
    for (int t = 0; t < T; t++) {
        const vi minus = vi_set(-(int32_t)zero[t * ldx]);
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            a[t][v] = g->first ? vi_mul(minus, vi_load(g->sums + v * LANES))
                               : vi_load(kept + t * UNIT_ROWS + v * LANES);
    }
    for (int64_t q = 0; q < quads; q++, w += QUAD) {
        vw weights[VECTORS];
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            weights[v] = vw_load(w + v * LANES * 4);
        UNROLL
        for (int t = 0; t < T; t++) {
            int32_t four;
            memcpy(&four, x + t * ldx + 4 * q, sizeof four);
            const vx codes = vx_set(four);
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                a[t][v] = vi_dot(a[t][v], codes, weights[v]);
        }
    }
    UNROLL
    for (int t = 0; t < T; t++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const int at = t * UNIT_ROWS + v * LANES;
            if (g->last)
                vf_store(y + at,
                         vf_fma(vf_load(g->scales + v * LANES), vf_from(a[t][v]), vf_load(y + at)));
            else
                vi_store(kept + at, a[t][v]);
        }
    }
}

static void all_tokens(const uint8_t *w, int64_t quads, const uint8_t *x, const uint8_t *zero,
                       int64_t ldx, int64_t M, const group *g, int32_t *kept, float *y)
{
    for (; M >= TOKENS; M -= TOKENS, x += TOKENS * ldx, zero += TOKENS * ldx) {
        tokens(TOKENS, w, quads, x, zero, ldx, g, kept, y);
        kept += TOKENS * UNIT_ROWS;
        y += TOKENS * UNIT_ROWS;
    }
    switch (M) {
    case 1: tokens(1, w, quads, x, zero, ldx, g, kept, y); break;
#if defined(__AVX512F__) /* TOKENS is 6, else 2 */
    case 2: tokens(2, w, quads, x, zero, ldx, g, kept, y); break;
    case 3: tokens(3, w, quads, x, zero, ldx, g, kept, y); break;
    case 4: tokens(4, w, quads, x, zero, ldx, g, kept, y); break;
    case 5: tokens(5, w, quads, x, zero, ldx, g, kept, y); break;
#endif
    default: break;
    }
}

typedef struct buffers {
    float *y;      /* [M][UNIT_ROWS] */
    int32_t *kept; /* [M][UNIT_ROWS] */
    uint8_t *tile; /* [LU_INT8_CHUNK][UNIT_ROWS] */
} buffers;

/* One unit times M records. */
static void run_unit(const lu_linear *l, const lu_int8_layout *o, const uint8_t *unit,
                     const uint8_t *records, int64_t ldx, int64_t M, const buffers *b)
{
    memset(b->y, 0, (size_t)(M * UNIT_ROWS) * sizeof *b->y);
    for (int64_t i = 0; i < o->groups; i++) {
        const size_t lanes = (size_t)(i * UNIT_ROWS) * 4;
        group g = {.scales = (const float *)(const void *)(unit + o->scales + lanes),
                   .sums = (const int32_t *)(const void *)(unit + o->sums + lanes)};
        int64_t k0, k1;
        lu_int8_group(l, o, i, &k0, &k1);
        for (int64_t k = k0; k < k1; k += LU_INT8_CHUNK) {
            const int64_t n = k1 - k < LU_INT8_CHUNK ? k1 - k : LU_INT8_CHUNK;
            const uint8_t *w = unit + lu_int8_codes_at(l, k, UNIT_ROWS);
            g.first = k == k0;
            g.last = k + n == k1;
            if (l->nibbles) {
                widen(w, (n + 7) / 8, unit + o->offsets + lanes, b->tile);
                w = b->tile;
            } else {
                for (int64_t at = 0; at < n * UNIT_ROWS; at += 64)
                    __builtin_prefetch((const void *)((uintptr_t)w + PREFETCH * 4 + (uintptr_t)at));
            }
            all_tokens(w, (n + 3) / 4, records + LU_ACT_HEADER + k, records + 4, ldx, M, &g,
                       b->kept, b->y);
        }
    }
}

/* y[m][0..n) = sums[m][0..n) * scale of record m + bias */
static void put(const float *sums, const uint8_t *records, int64_t ldx, int64_t M, int64_t n,
                const float *bias, float *y, int64_t ldy)
{
    for (int64_t m = 0; m < M; m++, sums += UNIT_ROWS, y += ldy, records += ldx) {
        float scale;
        memcpy(&scale, records, sizeof scale);
        for (int64_t i = 0; i < n; i++) {
            const float v = scale * sums[i];
            y[i] = bias ? v + bias[i] : v;
        }
    }
}

static void run(const lu_linear *l, const lu_linear_args *a)
{
    const lu_int8_layout o = lu_int8_layout_of(l, UNIT_ROWS);
    const int64_t pass = a->M < MAX_TOKENS ? a->M : MAX_TOKENS;
    buffers b = {.y = a->scratch};
    b.kept = (int32_t *)(void *)(b.y + pass * UNIT_ROWS);
    b.tile = (uint8_t *)(b.kept + pass * UNIT_ROWS);
    for (int64_t m = 0; m < a->M; m += pass) {
        const int64_t rows = a->M - m < pass ? a->M - m : pass;
        const uint8_t *records = (const uint8_t *)a->x + m * a->ldx;
        for (int64_t u = a->unit0; u < a->unit1; u++) {
            const int64_t row = u * UNIT_ROWS;
            const int64_t n = l->n - row < UNIT_ROWS ? l->n - row : UNIT_ROWS;
            run_unit(l, &o, (const uint8_t *)l->packed + (size_t)u * l->unit_bytes, records, a->ldx,
                     rows, &b);
            put(b.y, records, a->ldx, rows, n, l->bias ? l->bias + row : NULL,
                a->y + m * a->ldy + row, a->ldy);
        }
    }
}

static size_t scratch(const lu_linear *l, int64_t M)
{
    const int64_t pass = M < MAX_TOKENS ? M : MAX_TOKENS;
    (void)l;
    return (size_t)(pass * UNIT_ROWS * 8 + LU_INT8_CHUNK * UNIT_ROWS);
}

static bool unit_bytes(const lu_linear *l, size_t *out)
{
    return lu_int8_unit_bytes(l, UNIT_ROWS, out);
}

#define INT8_VARIANT(name_, level_)                                                       \
    {                                                                                     \
        .name = name_, .level = level_, .unit_rows = UNIT_ROWS, .unit_bytes = unit_bytes, \
        .pack = lu_int8_pack_units, .run = run, .scratch = scratch                        \
    }

#endif
