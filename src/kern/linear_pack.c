/* linear_pack.c - see linear_pack.h. Packing is a transposition of 32-bit words (or dense
   elements), done in tiles of one cache line per row so that reads and writes both stay in L1. */
#include "kern/linear_pack.h"

#include "base/mem.h"
#include "fmt/codec.h"
#include "tensor/convert.h"

enum { TILE = 16 }; /* words or elements of a row moved at a time: a cache line of words */

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

lu_pack_layout lu_pack_layout_of(const lu_linear *l, int64_t unit_rows)
{
    lu_pack_layout o = {.groups = 1, .group_blocks = l->k, .k_padded = l->k};
    const size_t rows = (size_t)unit_rows;
    if (!l->bits) {
        o.block_bytes = rows * lutra_dtype_bytes(l->dtype);
        o.unit_bytes = align64((size_t)l->k * o.block_bytes);
        return o;
    }
    o.groups = l->k / l->group_size;
    o.group_blocks = (l->group_size + LU_PACK_BLOCK - 1) / LU_PACK_BLOCK;
    o.k_padded = o.groups * o.group_blocks * LU_PACK_BLOCK;
    o.block_bytes = rows * (size_t)l->bits * sizeof(uint32_t);
    o.scales = (size_t)(o.groups * o.group_blocks) * o.block_bytes;
    o.zeros = o.scales + (size_t)o.groups * rows * lutra_dtype_bytes(l->scale_dtype);
    o.unit_bytes = align64(o.zeros + (l->zeros ? (size_t)o.groups * rows : 0));
    return o;
}

bool lu_pack_unit_bytes(const lu_linear *l, int64_t unit_rows, size_t *out)
{
    size_t most; /* k < 2^31, at most 4 times as many padded columns of at most 16 bytes in all */
    if (!lu_mul_size((size_t)l->k, (size_t)unit_rows * 64, &most))
        return false;
    *out = lu_pack_layout_of(l, unit_rows).unit_bytes;
    return true;
}

/* Words of one group for the rows [0, rows) of a unit; rows past it become 0. bytes: of a row. */
static void pack_words(const uint8_t *in, size_t stride, size_t bytes, int64_t rows, int64_t U,
                       int64_t words, uint32_t *out)
{
    const int64_t whole = (int64_t)(bytes / sizeof(uint32_t));
    memset(out, 0, (size_t)(words * U) * sizeof *out);
    for (int64_t j0 = 0; j0 < whole; j0 += TILE) {
        const int64_t j1 = j0 + TILE < whole ? j0 + TILE : whole;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = j0; j < j1; j++)
                memcpy(out + j * U + r, in + (size_t)r * stride + 4 * j, sizeof *out);
    }
    if (bytes % sizeof(uint32_t))
        for (int64_t r = 0; r < rows; r++)
            memcpy(out + whole * U + r, in + (size_t)r * stride + 4 * whole,
                   bytes % sizeof(uint32_t));
}

/* The same for columns that are gathered: order[0..columns) says which. */
static void gather_words(const uint8_t *in, size_t stride, const int32_t *order, int64_t columns,
                         int bits, int64_t rows, int64_t U, int64_t words, uint32_t *out)
{
    memset(out, 0, (size_t)(words * U) * sizeof *out);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const uint64_t code = (uint64_t)lu_code_at(in + (size_t)r * stride, order[c], bits);
            const int64_t bit = c * bits, word = bit / 32;
            const uint64_t placed = code << (bit % 32);
            out[word * U + r] |= (uint32_t)placed;
            if (placed >> 32)
                out[(word + 1) * U + r] |= (uint32_t)(placed >> 32);
        }
}

static void pack_coded(const lu_linear *l, const lu_weight *w, int64_t row, int64_t rows,
                       uint8_t *unit)
{
    const lu_pack_layout o = lu_pack_layout_of(l, l->unit_rows);
    const int64_t U = l->unit_rows, words = o.group_blocks * l->bits;
    const size_t row_bytes = ((size_t)l->k * (size_t)l->bits + 7) / 8;
    const size_t group_bytes = ((size_t)l->group_size * (size_t)l->bits + 7) / 8;
    const size_t scale = lutra_dtype_bytes(l->scale_dtype);
    memset(unit + o.scales, 0, o.unit_bytes - o.scales);
    for (int64_t g = 0; g < o.groups; g++) {
        const uint8_t *codes = (const uint8_t *)w->data + (size_t)row * row_bytes;
        uint32_t *to_words = (uint32_t *)(unit + (size_t)(g * o.group_blocks) * o.block_bytes);
        if (l->order)
            gather_words(codes, row_bytes, l->order + g * l->group_size, l->group_size, l->bits,
                         rows, U, words, to_words);
        else
            pack_words(codes + (size_t)g * group_bytes, row_bytes, group_bytes, rows, U, words,
                       to_words);
        for (int64_t r = 0; r < rows; r++) {
            const size_t from = (size_t)((row + r) * o.groups + g), to = (size_t)(g * U + r);
            memcpy(unit + o.scales + to * scale, (const uint8_t *)w->scales + from * scale, scale);
            if (w->zeros)
                unit[o.zeros + to] = w->zeros[from];
        }
    }
}

/* Exact; lu_f16_to_f32 is the readable version. The exponent is rebased by a product with 2^112,
   which also normalises subnormals; infinities and NaN keep the top exponent. */
static float f16_value(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = (uint32_t)(h & 0x7fffu) << 13;
    const uint32_t bits = (h & 0x7c00u) == 0x7c00u ? rest | 0x7f800000u
                                                   : lu_f32_bits(lu_f32_from_bits(rest) * 0x1p112f);
    return lu_f32_from_bits(sign | bits);
}

/* n elements of a row from column k0 as they are packed: copied, or rounded to bf16. */
static void convert_elements(const lu_linear *l, const lu_weight *w, int64_t row, int64_t k0,
                             int64_t n, void *out)
{
    const size_t size = lutra_dtype_bytes(w->dtype);
    const uint8_t *in = (const uint8_t *)w->data + (size_t)(row * l->k + k0) * size;
    if (w->dtype == l->dtype) {
        memcpy(out, in, (size_t)n * size);
        return;
    }
    for (int64_t i = 0; i < n; i++) { /* a mapped file may hold the row at any byte */
        float v;
        uint16_t h;
        if (w->dtype == LUTRA_F32) {
            memcpy(&v, in + 4 * i, sizeof v);
        } else {
            memcpy(&h, in + 2 * i, sizeof h);
            v = f16_value(h);
        }
        ((uint16_t *)out)[i] = lu_f32_to_bf16(v);
    }
}

static void pack_dense(const lu_linear *l, const lu_weight *w, int64_t row, int64_t rows,
                       uint8_t *unit)
{
    const int64_t U = l->unit_rows;
    const bool wide = l->dtype == LUTRA_F32;
    memset(unit, 0, l->unit_bytes);
    for (int64_t k0 = 0; k0 < l->k; k0 += TILE) {
        const int64_t n = l->k - k0 < TILE ? l->k - k0 : TILE;
        for (int64_t r = 0; r < rows; r++) {
            uint32_t words[TILE];
            uint16_t halves[TILE];
            convert_elements(l, w, row + r, k0, n, wide ? (void *)words : halves);
            for (int64_t i = 0; i < n; i++) {
                const size_t to = (size_t)((k0 + i) * U + r);
                if (wide)
                    ((uint32_t *)unit)[to] = words[i];
                else
                    ((uint16_t *)unit)[to] = halves[i];
            }
        }
    }
}

void lu_pack_units(const lu_linear *l, const lu_weight *w, int64_t unit0, int64_t unit1)
{
    for (int64_t u = unit0; u < unit1; u++) {
        uint8_t *unit = (uint8_t *)l->packed + (size_t)u * l->unit_bytes;
        const int64_t row = u * l->unit_rows;
        const int64_t rows = l->n - row < l->unit_rows ? l->n - row : l->unit_rows;
        if (l->bits)
            pack_coded(l, w, row, rows, unit);
        else
            pack_dense(l, w, row, rows, unit);
    }
}
