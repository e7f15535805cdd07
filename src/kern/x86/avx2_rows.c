/* avx2_rows.c - rows_impl.h compiled for AVX2. Exports its fill function only. */
#include "kern/x86/rows_impl.h"

void lu_fill_avx2_rows(lu_ops *ops) { fill_rows(ops); }
