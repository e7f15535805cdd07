/* lut_wgmma_b3_bf16.cu - the kernel for many tokens: 3-bit codes, bf16 activations. */
#include "kern/cuda/lut_wgmma.cuh"

template int lut_wgmma_launch<3, true>(const lut_wgmma_args &a, const CUtensorMap &map, int variant, int parts,
                                        const cudaLaunchConfig_t *config);
