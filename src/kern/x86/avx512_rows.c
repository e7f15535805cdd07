/* avx512_rows.c - rows_impl.h compiled for AVX-512. Exports its fill function only. */
#include "kern/x86/rows_impl.h"

void lu_fill_avx512_rows(lu_ops *ops) { fill_rows(ops); }
