/* lut_gemv_b8_fp16.cu - the small-M kernel for codes of 5 to 8 bits, fp16 activations. */
#include "kern/cuda/lut_gemv.cuh"

template int lut_gemv_launch<8, false>(const lut_gemv_args &a, const lut_gemv_choice &c,
                                      const cudaLaunchConfig_t *config);
