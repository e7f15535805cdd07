/* lut_plain.cuh - the slow kernel for groups that the packed layout cannot hold. */
#ifndef LU_KERN_CUDA_LUT_PLAIN_CUH
#define LU_KERN_CUDA_LUT_PLAIN_CUH

#include "kern/cuda/lut_matmul.h"

int lut_plain_launch(const lu_cuda_lut *w, const lu_cuda_lut_call *call);

#endif
