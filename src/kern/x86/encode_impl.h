/* encode_impl.h - the row encoder of a vector level, compiled once per level: the flags of the file
   that includes this choose the header with its parts. A group's range gives its scale, the scale
   its pivots, the pivots the ranks; ranks are held until a chunk of codes can be packed. */
#ifndef LU_KERN_ENCODE_IMPL_H
#define LU_KERN_ENCODE_IMPL_H

#if defined(__AVX512F__)
#include "kern/x86/encode_avx512.h"
#else
#include "kern/x86/encode_avx2.h"
#endif

INLINE void put_codes(const lu_grid *g, const packer *p, uint8_t *ranks, int64_t n, uint8_t *out)
{
    if (!g->identity)
        for (int64_t i = 0; i < n; i++)
            ranks[i] = g->code[ranks[i]];
    pack(p, ranks, n, out);
}

INLINE int64_t encode_row(const lu_encoder *e, lu_encode_row_args *a, lutra_dtype t,
                          bool use_search)
{
    const lutra_format *f = &e->format;
    const lu_grid *g = &e->grid;
    const int64_t size = f->group_size > 0 ? f->group_size : a->k;
    const search table = search_make(g);
    sums s;
    const packer packing = packer_make(f->bits);
    uint8_t ranks[CHUNK], *codes = a->codes;
    int64_t held = 0; /* ranks not yet packed */
    sums_clear(&s);
    for (int64_t at = 0, group = 0; at < a->k; at += size, group++) {
        float lo, hi, scale;
        int zero;
        if (!find_range(t, f->zero_point, a->w, at, size, &lo, &hi) ||
            !lu_store_scale(f, lo, hi, a->scales, group, &scale, &zero))
            return e->plain(e, a); /* finds the column */
        if (e->range == LUTRA_RANGE_MSE) {
            lu_encoder_shrink_range(e, a, range_errors(e, use_search), at, size, &lo, &hi);
            lu_store_scale(f, lo, hi, a->scales, group, &scale, &zero);
        }
        if (f->zero_point)
            a->zeros[group] = (uint8_t)zero;
        const float zero_value = f->zero_point ? f->table[zero] : 0;
        const search p = search_scale(&table, scale, zero_value);
        const line l = line_make(g, scale, zero_value);
        for (int64_t i = 0, n; i < size; i += n) {
            n = size - i < CHUNK - held ? size - i : CHUNK - held;
            if (scale == 0)
                memset(ranks + held, g->near_zero, (size_t)n);
            else if (use_search)
                ranks_search(t, &p, a->w, at + i, n, ranks + held, &s);
            else
                ranks_line(t, &l, a->w, at + i, n, ranks + held, &s);
            held += n;
            if (held == CHUNK || at + i + n == a->k) {
                put_codes(g, &packing, ranks, held, codes);
                codes += held / 8 * f->bits;
                held = 0;
            }
        }
    }
    a->signal = add_lanes(s.signal);
    a->noise = add_lanes(s.noise);
    return -1;
}

static int64_t encode_search(const lu_encoder *e, lu_encode_row_args *a)
{
    if (a->dtype == LUTRA_BF16)
        return encode_row(e, a, LUTRA_BF16, true);
    return a->dtype == LUTRA_F16 ? encode_row(e, a, LUTRA_F16, true)
                                 : encode_row(e, a, LUTRA_F32, true);
}

static int64_t encode_line(const lu_encoder *e, lu_encode_row_args *a)
{
    if (a->dtype == LUTRA_BF16)
        return encode_row(e, a, LUTRA_BF16, false);
    return a->dtype == LUTRA_F16 ? encode_row(e, a, LUTRA_F16, false)
                                 : encode_row(e, a, LUTRA_F32, false);
}

INLINE void choose(lu_encoder *e)
{
    if (e->grid.n <= 16)
        e->vector = encode_search;
    else if (e->grid.uniform)
        e->vector = encode_line;
}

#endif
