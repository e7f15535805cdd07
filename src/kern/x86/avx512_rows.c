/* avx512_rows.c - row kernels for AVX-512: rows_impl.h on vec_avx512.h. Exports its fill function
 * only. */
#include "kern/levels.h"
#include "kern/x86/vec_avx512.h"

#include "kern/x86/vec_math.h"

#include "kern/x86/rows_impl.h"

void lu_fill_avx512_rows(lu_ops *ops) { fill_rows(ops); }
