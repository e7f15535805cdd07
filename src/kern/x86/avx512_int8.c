/* avx512_int8.c - products of integers for AVX-512 with VNNI: int8_impl.h over 16 rows. */
#include "kern/x86/int8_impl.h"

const lu_linear_variant lu_linear_int8_avx512 = INT8_VARIANT("avx512", LU_LEVEL_AVX512);
