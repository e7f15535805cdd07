/* attention_impl.h - blocked streaming attention on vectors. Included once by each level's
   *_attention.c, so everything here is static.

   A row is one (query, head); rows are ordered heads first, so rows of a tile mostly see the same
   keys. For every block of 64 rows, for every block of 64 keys: the keys are transposed once
   (lanes = keys, so scores need no horizontal sums), then each tile of 4 rows computes its scores,
   rescales its running sums to the new maximum and adds the block's values.

   A quantized cache is decoded a block at a time, once for all rows. A KIVI block is read in two
   views, as codes and as it was: a row takes all keys of a block from one of them, and its values
   up to a position of its own from the codes, from there on as they were.

   Invariant: what a row computes depends on that row and the keys it sees alone. Key blocks start
   at absolute positions; a key a row does not see is masked before the maximum and, where rows of
   a tile differ in what they see, values are added row by row. So a query's bits are the same in
   every batch, and non-finite values at positions it does not see do not reach it. */

#include <stdbool.h>
#include <string.h>

#include "kern/attend_scratch.h"
#include "kern/levels.h"
#include "kern/x86/kv_decode.h"
#include "kern/x86/vec_math.h"

#define ROWS LU_ATTEND_ROWS
#define KEYS LU_ATTEND_KEYS
#define TILE LU_ATTEND_TILE
#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef struct {
    const lu_attend_args *a;
    int64_t n_heads, dim; /* dim: head_dim rounded up to whole vectors */
    float *keys;          /* [head_dim][KEYS], zero where no row of the block sees the key */
    float *values;        /* [KEYS][dim] copy, used where the cache cannot be read in place */
    float *recent;        /* [KEYS][dim] KIVI: the values as they were */
    float *decoded;       /* [KEYS][dim] keys of a quantized cache */
    float *sums;          /* [ROWS][dim] weighted sums of values, relative to max */
    float *weights;       /* [ROWS][LANES] sums of weights, lane by lane */
    float *max;           /* [ROWS] */
    float *p;             /* [TILE][KEYS] scores, then weights */
    const float *v;       /* values of the current key block: the cache or the copy */
    int64_t v_stride;
} attention;

/* Rows of one kind as they lie in a cache, from the current key block on: a block never wraps. */
typedef struct {
    lu_kv_kind kind;
    const uint8_t *rows;
    int64_t bytes; /* of a row */
} block_rows;

static block_rows rows_from(const void *cache, lu_kv_kind kind, int64_t slots, int64_t head_dim,
                            int64_t block)
{
    const int64_t bytes = lu_kv_row_bytes(kind, head_dim);
    return (block_rows){kind, (const uint8_t *)cache + (slots ? block % slots : block) * bytes,
                        bytes};
}

typedef struct {
    int64_t lo, hi; /* keys [lo, hi) of the current block, relative to its start */
} key_range;

static attention start(const lu_attend_args *a)
{
    attention t = {.a = a, .n_heads = a->n_heads > 1 ? a->n_heads : 1};
    t.dim = (a->head_dim + LANES - 1) / LANES * LANES;
    t.keys = (float *)(((uintptr_t)a->scratch + 63) & ~(uintptr_t)63);
    t.values = t.keys + KEYS * t.dim;
    t.recent = t.values + KEYS * t.dim;
    t.decoded = t.recent; /* keys are transposed before values are decoded */
    t.sums = t.recent + KEYS * t.dim;
    t.weights = t.sums + ROWS * t.dim;
    t.max = t.weights + ROWS * LANES;
    t.p = t.max + ROWS;
    return t;
}

/* The positions that a row sees. */
static key_range visible(const attention *t, int64_t row)
{
    const int64_t end = t->a->pos + row / t->n_heads + 1;
    const int64_t window = t->a->window;
    return (key_range){window > 0 && window < end ? end - window : 0, end};
}

static key_range within(key_range r, int64_t block)
{
    const int64_t lo = r.lo - block, hi = r.hi - block;
    return (key_range){lo < 0 ? 0 : lo, hi > KEYS ? KEYS : hi};
}

static const float *query(const attention *t, int64_t row)
{
    return t->a->q + row % t->n_heads * t->a->q_head_stride + row / t->n_heads * t->a->q_stride;
}

static int64_t at_most_lanes(int64_t n) { return n < LANES ? n : LANES; }

/* LANES keys from row `first` of the block on, of which [lo, hi) are seen, to column j of t->keys.
 */
static void transpose_float(const attention *t, const float *keys, int64_t stride, int64_t j,
                            int64_t lo, int64_t hi)
{
    const int64_t head_dim = t->a->head_dim;
    for (int64_t d = 0; d < head_dim; d += LANES) {
        const int64_t n = at_most_lanes(head_dim - d);
        const float *k = keys + j * stride + d;
        vec rows[LANES];
        for (int64_t l = 0; l < LANES; l++)
            rows[l] = l >= lo && l < hi ? v_load_n(k + l * stride, n) : v_set1(0);
        v_transpose(rows);
        for (int64_t l = 0; l < n; l++)
            v_store(t->keys + (d + l) * KEYS + j, rows[l]);
    }
}

/* The same for bf16: pairs of columns travel as one 32-bit lane and part after the transpose. */
static void transpose_bf16(const attention *t, const uint16_t *keys, int64_t j, int64_t lo,
                           int64_t hi)
{
    const int64_t head_dim = t->a->head_dim;
    for (int64_t d = 0; d < head_dim; d += 2 * LANES) {
        const int64_t n = head_dim - d < 2 * LANES ? head_dim - d : 2 * LANES;
        const uint16_t *k = keys + j * head_dim + d;
        vec rows[LANES];
        for (int64_t l = 0; l < LANES; l++)
            rows[l] = l >= lo && l < hi ? v_load_pairs_n(k + l * head_dim, n) : v_set1(0);
        v_transpose(rows);
        for (int64_t l = 0; l < n; l++)
            v_store(t->keys + (d + l) * KEYS + j,
                    l % 2 ? v_second_of_pairs(rows[l / 2]) : v_first_of_pairs(rows[l / 2]));
    }
}

/* Keys [r.lo, r.hi) of a block of codes to t->decoded, at their rows. */
static void decode_block(const attention *t, const block_rows *b, key_range r)
{
    const int64_t head_dim = t->a->head_dim;
    if (!lu_kv_is_kivi(b->kind)) {
        for (int64_t j = r.lo; j < r.hi; j++)
            decode_row(b->kind, b->rows + j * b->bytes, head_dim, t->decoded + j * t->dim);
        return;
    }
    const int64_t bytes = lu_kivi_group_bytes(b->kind, head_dim);
    for (int64_t at = 0; at < KEYS; at += LU_KIVI_GROUP) {
        const int64_t from = r.lo > at ? r.lo - at : 0;
        const int64_t to = r.hi - at < LU_KIVI_GROUP ? r.hi - at : LU_KIVI_GROUP;
        if (from < to)
            decode_keys(b->kind, b->rows + at / LU_KIVI_GROUP * bytes, head_dim, from, to, t->dim,
                        t->decoded + (at + from) * t->dim);
    }
}

static void transpose_keys(const attention *t, const block_rows *b, key_range r)
{
    const float *keys = (const float *)(const void *)b->rows;
    int64_t stride = t->a->head_dim;
    if (b->kind > LU_KV_BF16) {
        decode_block(t, b, r);
        keys = t->decoded;
        stride = t->dim;
    }
    for (int64_t j = 0; j < KEYS; j += LANES)
        if (b->kind == LU_KV_BF16)
            transpose_bf16(t, (const uint16_t *)(const void *)b->rows, j, r.lo - j, r.hi - j);
        else
            transpose_float(t, keys, stride, j, r.lo - j, r.hi - j);
}

/* Values [r.lo, r.hi) of a block, at their rows of out [KEYS][dim]. */
static void copy_values(const attention *t, const block_rows *b, key_range r, float *out)
{
    const int64_t head_dim = t->a->head_dim;
    for (int64_t j = r.lo; j < r.hi; j++) {
        const uint8_t *row = b->rows + j * b->bytes;
        if (b->kind > LU_KV_BF16) {
            decode_row(b->kind, row, head_dim, out + j * t->dim);
            for (int64_t d = head_dim; d < t->dim; d++)
                out[j * t->dim + d] = 0;
            continue;
        }
        for (int64_t d = 0; d < head_dim; d += LANES) {
            const int64_t n = at_most_lanes(head_dim - d);
            v_store(out + j * t->dim + d,
                    b->kind == LU_KV_BF16
                        ? v_load_bf16_n((const uint16_t *)(const void *)row + d, n)
                        : v_load_n((const float *)(const void *)row + d, n));
        }
    }
}

static void take_values(attention *t, const block_rows *b, key_range r)
{
    if (b->kind == LU_KV_F32 && t->a->head_dim == t->dim) {
        t->v = (const float *)(const void *)b->rows;
        t->v_stride = t->dim;
        return;
    }
    t->v = t->values;
    t->v_stride = t->dim;
    copy_values(t, b, r, t->values);
}

/* p[0..n_rows)[KEYS] = capped, scaled q.k */
ALWAYS_INLINE void scores(const attention *t, int64_t row, const int n_rows, float *p)
{
    const vec scale = v_set1(t->a->scale), cap = v_set1(t->a->softcap);
    const float *q[TILE];
    for (int r = 0; r < n_rows; r++)
        q[r] = query(t, row + r);
    for (int j = 0; j < KEYS; j += TILE_VECTORS * LANES) {
        vec s[TILE][TILE_VECTORS];
        for (int r = 0; r < n_rows; r++)
            for (int c = 0; c < TILE_VECTORS; c++)
                s[r][c] = v_set1(0.0f);
        for (int64_t d = 0; d < t->a->head_dim; d++)
            for (int c = 0; c < TILE_VECTORS; c++) {
                const vec k = v_load(t->keys + d * KEYS + j + c * LANES);
                for (int r = 0; r < n_rows; r++)
                    s[r][c] = v_fma(v_set1(q[r][d]), k, s[r][c]);
            }
        for (int r = 0; r < n_rows; r++)
            for (int c = 0; c < TILE_VECTORS; c++) {
                const vec x = v_mul(s[r][c], scale);
                v_store(p + r * KEYS + j + c * LANES, t->a->softcap != 0 ? v_softcap(x, cap) : x);
            }
    }
}

/* Scores of one row to weights relative to the new maximum; returns what its old sums shrink by. */
static float reweigh(attention *t, int64_t slot, float *p, key_range r)
{
    vec s[KEYS / LANES], top = v_set1(t->max[slot]);
    for (int c = 0; c < KEYS / LANES; c++) {
        s[c] = v_outside_to(v_load(p + c * LANES), r.lo - c * LANES, r.hi - c * LANES, -INFINITY);
        top = v_max(s[c], top);
    }
    const float m = v_hmax(top);
    float shrink[LANES];
    v_store(shrink, v_exp(v_sub(v_set1(t->max[slot]), v_set1(m))));
    vec sum = v_mul(v_load(t->weights + slot * LANES), v_set1(shrink[0]));
    for (int c = 0; c < KEYS / LANES; c++) {
        const vec e = v_exp(v_sub(s[c], v_set1(m)));
        v_store(p + c * LANES, e);
        sum = v_add(sum, e);
    }
    v_store(t->weights + slot * LANES, sum);
    t->max[slot] = m;
    return shrink[0];
}

/* sums = sums * shrink + p . v over n_vectors vectors of columns from column d on. Values before
   `split` are rows of t->v, the others of t->recent. */
ALWAYS_INLINE void add_values_at(const attention *t, int64_t slot, const int n_rows,
                                 const int n_vectors, const float *p, key_range r, int64_t split,
                                 const float *shrink, int64_t d)
{
    vec s[TILE][TILE_VECTORS];
    for (int i = 0; i < n_rows; i++)
        for (int c = 0; c < n_vectors; c++)
            s[i][c] = v_set1(0.0f);
    for (int64_t j = r.lo; j < split; j++)
        for (int c = 0; c < n_vectors; c++) {
            const vec v = v_load(t->v + j * t->v_stride + d + c * LANES);
            for (int i = 0; i < n_rows; i++)
                s[i][c] = v_fma(v_set1(p[i * KEYS + j]), v, s[i][c]);
        }
    for (int64_t j = split; j < r.hi; j++)
        for (int c = 0; c < n_vectors; c++) {
            const vec v = v_load(t->recent + j * t->dim + d + c * LANES);
            for (int i = 0; i < n_rows; i++)
                s[i][c] = v_fma(v_set1(p[i * KEYS + j]), v, s[i][c]);
        }
    for (int i = 0; i < n_rows; i++)
        for (int c = 0; c < n_vectors; c++) {
            float *sum = t->sums + (slot + i) * t->dim + d + c * LANES;
            v_store(sum, v_fma(v_load(sum), v_set1(shrink[i]), s[i][c]));
        }
}

ALWAYS_INLINE void add_values(const attention *t, int64_t slot, const int n_rows, const float *p,
                              key_range r, int64_t split, const float *shrink)
{
    int64_t d = 0;
    for (; d + TILE_VECTORS * LANES <= t->dim; d += TILE_VECTORS * LANES)
        add_values_at(t, slot, n_rows, TILE_VECTORS, p, r, split, shrink, d);
    for (; d < t->dim; d += LANES)
        add_values_at(t, slot, n_rows, 1, p, r, split, shrink, d);
}

/* Which rows take part in a view of a block: those that see its keys rounded, those that see them
   as they were. */
typedef enum { ANY_KEYS, ROUNDED_KEYS, RECENT_KEYS } key_view;

static bool has_view(int64_t n, int64_t block, key_view view)
{
    return view == ANY_KEYS || (lu_kivi_rounded_keys(n) > block) == (view == ROUNDED_KEYS);
}

/* Rows [slot, slot + n_rows) of the row block that starts at row `first`, against one key block. */
static void attend_tile(attention *t, int64_t first, int64_t slot, int n_rows, int64_t block,
                        key_view view)
{
    key_range r[TILE];
    int64_t split[TILE];
    bool any = false, same = n_rows == TILE;
    for (int i = 0; i < n_rows; i++) {
        const key_range seen = visible(t, first + slot + i);
        r[i] = within(seen, block);
        if (!has_view(seen.hi, block, view))
            r[i].hi = r[i].lo;
        split[i] = r[i].hi;
        if (view != ANY_KEYS) {
            const int64_t rounded = lu_kivi_rounded_values(seen.hi) - block;
            split[i] = rounded < r[i].lo ? r[i].lo : rounded < r[i].hi ? rounded : r[i].hi;
        }
        any |= r[i].lo < r[i].hi;
        same &= r[i].lo == r[0].lo && r[i].hi == r[0].hi && split[i] == split[0];
    }
    if (!any)
        return;
    if (n_rows == TILE)
        scores(t, first + slot, TILE, t->p);
    else
        for (int i = 0; i < n_rows; i++)
            scores(t, first + slot + i, 1, t->p + i * KEYS);
    float shrink[TILE];
    for (int i = 0; i < n_rows; i++) {
        if (r[i].lo >= r[i].hi)
            continue;
        shrink[i] = reweigh(t, slot + i, t->p + i * KEYS, r[i]);
        if (!same)
            add_values(t, slot + i, 1, t->p + i * KEYS, r[i], split[i], &shrink[i]);
    }
    if (same)
        add_values(t, slot, TILE, t->p, r[0], split[0], shrink);
}

static void attend_tiles(attention *t, int64_t first, int64_t n_rows, int64_t block, key_view view)
{
    for (int64_t slot = 0; slot < n_rows; slot += TILE)
        attend_tile(t, first, slot, n_rows - slot < TILE ? (int)(n_rows - slot) : TILE, block,
                    view);
}

/* One key block of a KIVI cache; n0 .. n1: positions that the first and the last row see. Values
   are decoded again where both views are taken, because decoded keys lie in t->recent. */
static void attend_kivi(attention *t, int64_t first, int64_t n_rows, int64_t block, key_range r,
                        int64_t n0, int64_t n1)
{
    const lu_attend_args *a = t->a;
    const lu_kv_kind recent = a->recent_bf16 ? LU_KV_BF16 : LU_KV_F32;
    const block_rows recent_k = rows_from(a->recent_k, recent, a->recent_slots, a->head_dim, block),
                     recent_v = rows_from(a->recent_v, recent, a->recent_slots, a->head_dim, block),
                     v = rows_from(a->v, a->kind, a->slots, a->head_dim, block);
    const int64_t group = (a->slots ? block % a->slots : block) / LU_KIVI_GROUP;
    const block_rows k = {
        a->kind, (const uint8_t *)a->k + group * lu_kivi_group_bytes(a->kind, a->head_dim), 0};
    const int64_t least = lu_kivi_rounded_values(n0) - block,
                  most = lu_kivi_rounded_values(n1) - block;
    const key_range rounded = {r.lo, most < r.hi ? most : r.hi},
                    kept = {least > r.lo ? least : r.lo, r.hi};
    t->v = t->values;
    t->v_stride = t->dim;
    copy_values(t, &v, rounded, t->values);
    for (int view = ROUNDED_KEYS; view <= RECENT_KEYS; view++) {
        if (!has_view(view == ROUNDED_KEYS ? n1 : n0, block, (key_view)view))
            continue;
        transpose_keys(t, view == ROUNDED_KEYS ? &k : &recent_k, r);
        copy_values(t, &recent_v, kept, t->recent);
        attend_tiles(t, first, n_rows, block, (key_view)view);
    }
}

static void write_out(const attention *t, int64_t row, int64_t slot)
{
    const lu_attend_args *a = t->a;
    float *out = a->out + row % t->n_heads * a->out_head_stride + row / t->n_heads * a->out_stride;
    const vec total = v_set1(v_hsum(v_load(t->weights + slot * LANES)));
    for (int64_t d = 0; d < a->head_dim; d += LANES)
        v_store_n(out + d, v_div(v_load(t->sums + slot * t->dim + d), total),
                  at_most_lanes(a->head_dim - d));
}

static void attend_rows(attention *t, int64_t first, int64_t n_rows)
{
    for (int64_t i = 0; i < n_rows; i++)
        t->max[i] = -INFINITY;
    memset(t->weights, 0, sizeof(float) * LANES * (size_t)n_rows);
    memset(t->sums, 0, sizeof(float) * (size_t)(t->dim * n_rows));
    const lu_attend_args *a = t->a;
    const key_range all = {visible(t, first).lo, visible(t, first + n_rows - 1).hi};
    for (int64_t block = all.lo / KEYS * KEYS; block < all.hi; block += KEYS) {
        const key_range r = within(all, block);
        if (lu_kv_is_kivi(a->kind)) {
            attend_kivi(t, first, n_rows, block, r, visible(t, first).hi, all.hi);
            continue;
        }
        const block_rows k = rows_from(a->k, a->kind, a->slots, a->head_dim, block),
                         v = rows_from(a->v, a->kind, a->slots, a->head_dim, block);
        transpose_keys(t, &k, r);
        take_values(t, &v, r);
        attend_tiles(t, first, n_rows, block, ANY_KEYS);
    }
    for (int64_t i = 0; i < n_rows; i++)
        write_out(t, first + i, i);
}

static void attend(const lu_attend_args *a)
{
    attention t = start(a);
    const int64_t n = a->n_q * t.n_heads;
    for (int64_t first = 0; first < n; first += ROWS)
        attend_rows(&t, first, n - first < ROWS ? n - first : ROWS);
}
