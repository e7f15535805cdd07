/* avx2_rows.c - row kernels for AVX2: rows_impl.h on vec_avx2.h. Exports its fill function only. */
#include "kern/levels.h"
#include "kern/x86/vec_avx2.h"

#include "kern/x86/vec_math.h"

#include "kern/x86/rows_impl.h"

void lu_fill_avx2_rows(lu_ops *ops) { fill_rows(ops); }
