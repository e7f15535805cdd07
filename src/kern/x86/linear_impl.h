/* linear_impl.h - the matrix products of a vector level, compiled once per level: the flags of the
   file that includes this choose the header that says what a vector of rows is.

   A unit is 4 vectors of rows (layout: linear_pack.h). A few rows of x run straight from the codes:
   a code is shifted into place, looked up and multiplied in registers. More rows first decode a
   segment of the unit into a float32 tile that stays in cache and then take TOKENS rows of x at a
   time over it.

   Invariant: both ways, and any number of rows, do the same operations on the same numbers in the
   same order for each y: a = 0; a = fma(x, w, a) over a segment of k; y = fma(scale, a, y). */
#ifndef LU_KERN_LINEAR_IMPL_H
#define LU_KERN_LINEAR_IMPL_H

#include <string.h>

#include "kern/linear_pack.h"
#include "tensor/convert.h"
#if defined(__AVX512F__)
#include "kern/x86/linear_avx512.h"
#else
#include "kern/x86/linear_avx2.h"
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
    FEW_ROWS = TOKENS > 3 ? 4 : 2, /* of x that run straight from the codes */
    UNIT_ROWS = VECTORS * LANES,
    MAX_TOKENS = 96, /* rows of x per pass: decoding costs a few percent, x stays near L2 */
    PREFETCH = 4096, /* bytes between a line asked for and the one in use */
    X_PAD = 16       /* floats between rows of x, so that rows do not share cache sets */
};

/* What a kernel is specialised for; always a constant. bits 0: dense. */
typedef struct kind {
    int bits, affine, zeros;
    lutra_dtype dtype;
} kind;

typedef struct job {
    const lu_linear *l;
    lu_pack_layout o;
    tables t;
    int64_t block; /* columns of a block */
} job;

INLINE void load_scales(const job *j, const uint8_t *unit, int64_t g, kind f, vf *scale, vf *zero)
{
    UNROLL
    for (int v = 0; v < VECTORS; v++) {
        const int64_t at = g * UNIT_ROWS + v * LANES;
        const uint8_t *scales = unit + j->o.scales;
        if (!f.bits)
            scale[v] = vf_set(1.0f);
        else if (j->l->scale_dtype == LUTRA_F16)
            scale[v] = vf_load_f16(scales + 2 * at);
        else if (j->l->scale_dtype == LUTRA_BF16)
            scale[v] = vf_load_bf16(scales + 2 * at);
        else
            scale[v] = vf_load((const float *)scales + at);
        zero[v] = f.zeros ? vf_gather(j->t.entry, unit + j->o.zeros + at) : vf_zero();
    }
}

/* Column c of a block for vector v, without its scale. */
INLINE vf weight(const job *j, const uint8_t *block, int c, int v, kind f, vf zero)
{
    if (f.bits) {
        const int stride = UNIT_ROWS * (int)sizeof(uint32_t);
        const vu lanes = code_lanes(f.bits, c, block + v * LANES * (int)sizeof(uint32_t), stride);
        const vf w = code_value(f.bits, f.affine, c, lanes, &j->t);
        return f.zeros ? vf_sub(w, zero) : w;
    }
    if (f.dtype == LUTRA_F32)
        return vf_load((const float *)block + v * LANES);
    return f.dtype == LUTRA_F16 ? vf_load_f16(block + 2 * v * LANES)
                                : vf_load_bf16(block + 2 * v * LANES);
}

/* y[T][UNIT_ROWS] += scale * a, the sums of a segment. */
INLINE void add_sums(int T, vf a[][VECTORS], const vf *scale, float *y)
{
    UNROLL
    for (int t = 0; t < T; t++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            float *to = y + t * UNIT_ROWS + v * LANES;
            vf_store(to, vf_fma(scale[v], a[t][v], vf_load(to)));
        }
    }
}

/* Asks for column c's share of the lines that are read a few blocks later: the hardware's
   prefetcher stops at each page of 4 KiB. Past the end of a unit lies the next one, or what it
   hurts nobody to ask for. */
INLINE void prefetch(const uint8_t *block, int c, kind f)
{
    const int columns = f.bits ? LU_PACK_BLOCK : 1;
    const int lines = UNIT_ROWS * (f.bits ? f.bits * 4 : f.dtype == LUTRA_F32 ? 4 : 2) / 64;
    for (int i = lines * c / columns; i < lines * (c + 1) / columns; i++)
        __builtin_prefetch((const void *)((uintptr_t)block + PREFETCH + (uintptr_t)i * 64));
}

/* T rows of x straight from the codes of one unit: y[T][UNIT_ROWS]. */
INLINE void few_rows(int T, const job *j, const uint8_t *unit, const float *x, int64_t ldx,
                     float *y, kind f)
{
    const int columns = f.bits ? LU_PACK_BLOCK : 1;
    const uint8_t *block = unit;
    vf scale[VECTORS], zero[VECTORS];
    memset(y, 0, (size_t)(T * UNIT_ROWS) * sizeof *y);
    for (int64_t g = 0; g < j->o.groups; g++) {
        load_scales(j, unit, g, f, scale, zero);
        for (int64_t b = 0; b < j->o.group_blocks;) {
            int64_t end = b + LU_LINEAR_SEGMENT / columns;
            end = end < j->o.group_blocks ? end : j->o.group_blocks;
            vf a[FEW_ROWS][VECTORS];
            UNROLL
            for (int t = 0; t < T; t++) {
                UNROLL
                for (int v = 0; v < VECTORS; v++)
                    a[t][v] = vf_zero();
            }
            for (; b < end; b++, x += columns, block += j->o.block_bytes) {
                UNROLL
                for (int c = 0; c < columns; c++) {
                    prefetch(block, c, f);
                    UNROLL
                    for (int v = 0; v < VECTORS; v++) {
                        const vf w = weight(j, block, c, v, f, zero[v]);
                        UNROLL
                        for (int t = 0; t < T; t++)
                            a[t][v] = vf_fma(vf_set(x[t * ldx + c]), w, a[t][v]);
                    }
                }
            }
            add_sums(T, a, scale, y);
        }
    }
}

/* Blocks [0, n) from `block` on as floats: tile [column][UNIT_ROWS]. */
INLINE void decode(const job *j, const uint8_t *block, int64_t n, const vf *zero, float *tile,
                   kind f)
{
    const int columns = f.bits ? LU_PACK_BLOCK : 1;
    for (int64_t b = 0; b < n; b++, block += j->o.block_bytes) {
        UNROLL
        for (int c = 0; c < columns; c++) {
            prefetch(block, c, f);
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                vf_store(tile + v * LANES, weight(j, block, c, v, f, zero[v]));
            tile += UNIT_ROWS;
        }
    }
}

/* T rows of x over a tile of n columns: y[T][UNIT_ROWS] += scale * x . tile. */
INLINE void tokens(int T, const float *tile, int64_t n, const float *x, int64_t ldx,
                   const vf *scale, float *y)
{
    vf a[TOKENS][VECTORS];
    UNROLL
    for (int t = 0; t < T; t++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            a[t][v] = vf_zero();
    }
    for (int64_t k = 0; k < n; k++, tile += UNIT_ROWS) {
        UNROLL
        for (int t = 0; t < T; t++) {
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                a[t][v] = vf_fma(vf_set(x[t * ldx + k]), vf_load(tile + v * LANES), a[t][v]);
        }
    }
    add_sums(T, a, scale, y);
}

static void all_tokens(const float *tile, int64_t n, const float *x, int64_t ldx, int64_t M,
                       const vf *scale, float *y)
{
    for (; M >= TOKENS; M -= TOKENS, x += TOKENS * ldx, y += TOKENS * UNIT_ROWS)
        tokens(TOKENS, tile, n, x, ldx, scale, y);
    switch (M) {
    case 1: tokens(1, tile, n, x, ldx, scale, y); break;
    case 2: tokens(2, tile, n, x, ldx, scale, y); break;
#if defined(__AVX512F__) /* TOKENS is 6 */
    case 3: tokens(3, tile, n, x, ldx, scale, y); break;
    case 4: tokens(4, tile, n, x, ldx, scale, y); break;
    case 5: tokens(5, tile, n, x, ldx, scale, y); break;
#endif
    default: break;
    }
}

/* M rows of x over one unit: y[M][UNIT_ROWS]. */
INLINE void many_rows(const job *j, const uint8_t *unit, const float *x, int64_t ldx, int64_t M,
                      float *y, float *tile, kind f)
{
    const int64_t columns = f.bits ? LU_PACK_BLOCK : 1;
    const uint8_t *block = unit;
    vf scale[VECTORS], zero[VECTORS];
    memset(y, 0, (size_t)(M * UNIT_ROWS) * sizeof *y);
    for (int64_t g = 0; g < j->o.groups; g++) {
        load_scales(j, unit, g, f, scale, zero);
        for (int64_t b = 0; b < j->o.group_blocks;) {
            int64_t n = LU_LINEAR_SEGMENT / columns;
            n = n < j->o.group_blocks - b ? n : j->o.group_blocks - b;
            decode(j, block, n, zero, tile, f);
            all_tokens(tile, n * columns, x, ldx, M, scale, y);
            b += n;
            x += n * columns;
            block += (size_t)n * j->o.block_bytes;
        }
    }
}

/* Few rows are worth looking every code up once or twice more instead of writing and reading a
   tile; not where a look-up is slow. Dense bf16 is cheap to widen and its tile is large. */
INLINE void rows(const job *j, const uint8_t *unit, const float *x, int64_t ldx, int64_t M,
                 float *y, float *tile, kind f)
{
    if (M > 1 && (f.bits > 4 || M > (f.bits ? FEW_ROWS : 2 * FEW_ROWS))) {
        many_rows(j, unit, x, ldx, M, y, tile, f);
        return;
    }
#if defined(__AVX512F__) /* TOKENS is 6 */
    for (; f.bits <= 4 && M >= 4; M -= 4, x += 4 * ldx, y += 4 * UNIT_ROWS)
        few_rows(4, j, unit, x, ldx, y, f);
#endif
    for (; f.bits <= 4 && M >= 2; M -= 2, x += 2 * ldx, y += 2 * UNIT_ROWS)
        few_rows(2, j, unit, x, ldx, y, f);
    if (M)
        few_rows(1, j, unit, x, ldx, y, f);
}

typedef void (*rows_fn)(const job *j, const uint8_t *unit, const float *x, int64_t ldx, int64_t M,
                        float *y, float *tile);

#define CODED_LIST(X) \
    X(2, 0) X(3, 0) X(4, 0) X(5, 0) X(6, 0) X(7, 0) X(8, 0) X(5, 1) X(6, 1) X(7, 1) X(8, 1)
#define DENSE_LIST(X) X(F32) X(F16) X(BF16)

#define CODED_FN(bits_, affine_)                                                                  \
    static void lut##bits_##_##affine_(const job *j, const uint8_t *unit, const float *x,         \
                                       int64_t ldx, int64_t M, float *y, float *tile)             \
    {                                                                                             \
        rows(j, unit, x, ldx, M, y, tile, (kind){.bits = bits_, .affine = affine_});              \
    }                                                                                             \
    static void lut##bits_##_##affine_##_zeros(const job *j, const uint8_t *unit, const float *x, \
                                               int64_t ldx, int64_t M, float *y, float *tile)     \
    {                                                                                             \
        rows(j, unit, x, ldx, M, y, tile, (kind){.bits = bits_, .affine = affine_, .zeros = 1});  \
    }
CODED_LIST(CODED_FN)

#define DENSE_FN(dtype_)                                                                       \
    static void dense_##dtype_(const job *j, const uint8_t *unit, const float *x, int64_t ldx, \
                               int64_t M, float *y, float *tile)                               \
    {                                                                                          \
        rows(j, unit, x, ldx, M, y, tile, (kind){.dtype = LUTRA_##dtype_});                    \
    }
DENSE_LIST(DENSE_FN)

static rows_fn choose(const lu_linear *l)
{
#define CODED_CASE(bits_, affine_)                                  \
    if (l->bits == bits_ && (l->affine && l->bits >= 5) == affine_) \
        return l->zeros ? lut##bits_##_##affine_##_zeros : lut##bits_##_##affine_;
    CODED_LIST(CODED_CASE)
#define DENSE_CASE(dtype_)          \
    if (l->dtype == LUTRA_##dtype_) \
        return dense_##dtype_;
    DENSE_LIST(DENSE_CASE)
    return NULL;
}

static void x_to_f32(lutra_dtype act, const void *x, int64_t n, float *out)
{
    if (act == LUTRA_F32) {
        memcpy(out, x, (size_t)n * sizeof *out);
        return;
    }
    const uint16_t *h = x;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        vf_store(out + i, vf_load_bf16(h + i));
    for (; i < n; i++)
        out[i] = lu_bf16_to_f32(h[i]);
}

/* One row of x as float32, each group padded with zeros to whole blocks. */
static void expand_x(const job *j, const void *x, float *out)
{
    const lu_linear *l = j->l;
    const int64_t size = l->bits ? l->group_size : l->k, padded = j->o.group_blocks * j->block;
    if (size == padded) {
        x_to_f32(l->act, x, l->k, out);
        return;
    }
    const size_t step = (size_t)size * lutra_dtype_bytes(l->act);
    for (int64_t g = 0; g < j->o.groups; g++, out += padded) {
        x_to_f32(l->act, (const uint8_t *)x + (size_t)g * step, size, out);
        memset(out + size, 0, (size_t)(padded - size) * sizeof *out);
    }
}

static int64_t x_stride(int64_t k_padded) { return ((k_padded + 15) & ~(int64_t)15) + X_PAD; }

/* y[m][0..n) = sums[m][0..n) + bias */
static void put(const float *sums, int64_t M, int64_t n, const float *bias, float *y, int64_t ldy)
{
    for (int64_t m = 0; m < M; m++, sums += UNIT_ROWS, y += ldy) {
        int64_t i = 0;
        for (; i + LANES <= n; i += LANES) {
            const vf v = vf_load(sums + i);
            vf_store(y + i, bias ? vf_add(v, vf_load(bias + i)) : v);
        }
        for (; i < n; i++)
            y[i] = bias ? sums[i] + bias[i] : sums[i];
    }
}

static void run(const lu_linear *l, const lu_linear_args *a)
{
    job j = {.l = l, .o = lu_pack_layout_of(l, UNIT_ROWS), .block = l->bits ? LU_PACK_BLOCK : 1};
    const rows_fn fn = choose(l);
    const float *table = NULL;
    const int64_t pass = a->M < MAX_TOKENS ? a->M : MAX_TOKENS;
    float *tile = a->scratch, *sums = tile + LU_LINEAR_SEGMENT * UNIT_ROWS;
    float *expanded = sums + pass * UNIT_ROWS;
    const bool direct = l->act == LUTRA_F32 && j.o.k_padded == l->k;
    const size_t x_row = (size_t)a->ldx * lutra_dtype_bytes(l->act);
    for (int64_t m = 0; m < a->M; m += pass) {
        const int64_t n_rows = a->M - m < pass ? a->M - m : pass;
        const uint8_t *from = (const uint8_t *)a->x + (size_t)m * x_row;
        const float *xf = direct ? (const float *)from : expanded;
        const int64_t stride = direct ? a->ldx : x_stride(j.o.k_padded);
        for (int64_t i = 0; !direct && i < n_rows; i++)
            expand_x(&j, from + (size_t)i * x_row, expanded + i * stride);
        for (int64_t u = a->unit0; u < a->unit1; u++) {
            const int64_t row = u * UNIT_ROWS;
            const int64_t n = l->n - row < UNIT_ROWS ? l->n - row : UNIT_ROWS;
            if (table != lu_unit_table(l, u)) {
                table = lu_unit_table(l, u);
                j.t = make_tables(l->bits ? l->bits : 1, table);
            }
            fn(&j, (const uint8_t *)l->packed + (size_t)u * l->unit_bytes, xf, stride, n_rows, sums,
               tile);
            put(sums, n_rows, n, l->bias ? l->bias + row : NULL, a->y + m * a->ldy + row, a->ldy);
        }
    }
}

static size_t scratch(const lu_linear *l, int64_t M)
{
    const int64_t pass = M < MAX_TOKENS ? M : MAX_TOKENS;
    const int64_t stride = x_stride(lu_pack_layout_of(l, UNIT_ROWS).k_padded);
    return (size_t)(LU_LINEAR_SEGMENT * UNIT_ROWS + pass * (UNIT_ROWS + stride)) * sizeof(float);
}

static bool unit_bytes(const lu_linear *l, size_t *out)
{
    return lu_pack_unit_bytes(l, UNIT_ROWS, out);
}

#define LINEAR_VARIANT(name_, level_)                                                     \
    {                                                                                     \
        .name = name_, .level = level_, .unit_rows = UNIT_ROWS, .unit_bytes = unit_bytes, \
        .pack = lu_pack_units, .run = run, .scratch = scratch                             \
    }

#endif
