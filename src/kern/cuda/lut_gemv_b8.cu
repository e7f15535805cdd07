/* lut_gemv_b8.cu - the small-M kernel for 5 to 8 bit codes. */
#include "lut_gemv.cuh"

LUT_GEMV_INSTANTIATE(8)
