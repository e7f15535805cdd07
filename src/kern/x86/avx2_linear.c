/* avx2_linear.c - matrix products for AVX2 and FMA: linear_impl.h over vectors of 8 rows. */
#define LU_LINEAR_TOKENS 3
#include "kern/x86/linear_avx2.h"
#include "kern/x86/linear_impl.h"

const lu_linear_variant lu_linear_avx2 = LINEAR_VARIANT("avx2", LU_LEVEL_AVX2);
