/* lut_gemv_b3.cu - the small-M kernel for 3-bit codes. */
#include "lut_gemv.cuh"

LUT_GEMV_INSTANTIATE(3)
