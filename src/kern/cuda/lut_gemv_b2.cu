/* lut_gemv_b2.cu - the small-M kernel for 2-bit codes. */
#include "lut_gemv.cuh"

LUT_GEMV_INSTANTIATE(2)
