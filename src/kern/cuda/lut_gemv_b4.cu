/* lut_gemv_b4.cu - the small-M kernel for 4-bit codes. */
#include "lut_gemv.cuh"

LUT_GEMV_INSTANTIATE(4)
