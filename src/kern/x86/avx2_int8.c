/* avx2_int8.c - products of integers for AVX2: int8_impl.h over vectors of 8 rows. */
#include "kern/x86/int8_impl.h"

const lu_linear_variant lu_linear_int8_avx2 = INT8_VARIANT("avx2", LU_LEVEL_AVX2);
