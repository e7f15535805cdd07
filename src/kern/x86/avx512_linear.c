/* avx512_linear.c - matrix products for AVX-512: linear_impl.h over vectors of 16 rows. Float32
   FMA, not vdpbf16ps, multiplies bf16 too: on Sapphire and Emerald Rapids the latter starts every
   second clock (16 products per clock against 32), and FMA rounds the same for every level. */
#define LU_LINEAR_TOKENS 6
#include "kern/x86/linear_avx512.h"
#include "kern/x86/linear_impl.h"

const lu_linear_variant lu_linear_avx512 = LINEAR_VARIANT("avx512", LU_LEVEL_AVX512);
