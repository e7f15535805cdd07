/* lut_wgmma_b4_bf16.cu - the kernel for many tokens: 4-bit codes, bf16 activations. */
#include "kern/cuda/lut_wgmma.cuh"

template int lut_wgmma_launch<4, true>(const lut_wgmma_args &a, const CUtensorMap &map, int variant, int parts,
                                        const cudaLaunchConfig_t *config);
