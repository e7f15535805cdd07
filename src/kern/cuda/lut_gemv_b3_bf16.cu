/* lut_gemv_b3_bf16.cu - the small-M kernel for 3-bit codes, bf16 activations. */
#include "kern/cuda/lut_gemv.cuh"

template int lut_gemv_launch<3, true>(const lut_gemv_args &a, const lut_gemv_choice &c,
                                      const cudaLaunchConfig_t *config);
