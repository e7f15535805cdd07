/* lut_gemv_b2_fp16.cu - the small-M kernel for 2-bit codes, fp16 activations. */
#include "kern/cuda/lut_gemv.cuh"

template int lut_gemv_launch<2, false>(const lut_gemv_args &a, const lut_gemv_choice &c,
                                      const cudaLaunchConfig_t *config);
