/* encode.c - chooses the row encoder for a format, a level and a shape. */
#include "kern/encode.h"

#include <math.h>

#define BLOCK 32 /* columns that the vector encoders take at a time */

void lu_encoder_init(lu_encoder *e, const lutra_format *f, lu_level level)
{
    e->format = *f;
    e->vector = NULL;
    e->range = LUTRA_RANGE_MINMAX;
    lu_grid_init(&e->grid, f);
    const float lowest = fabsf(e->grid.value[0]), highest = fabsf(e->grid.value[e->grid.n - 1]);
    const float reach = lowest > highest ? lowest : highest;
    e->widest = !f->zero_point && f->absmax_ref > reach ? f->absmax_ref / reach : 1;
    lu_fill_ref_encode(e);
#if defined(__x86_64__)
    if (level == LU_LEVEL_AVX2)
        lu_fill_avx2_encode(e);
    if (level == LU_LEVEL_AVX512)
        lu_fill_avx512_encode(e);
#else
    (void)level;
#endif
}

int64_t lu_encoder_row(const lu_encoder *e, lu_encode_row_args *a)
{
    const bool whole = a->k % BLOCK == 0 && e->format.group_size % BLOCK == 0;
    return e->vector && whole ? e->vector(e, a) : e->plain(e, a);
}
