/* lut_wgmma_b8_bf16.cu - the kernel for many tokens: codes of 5 to 8 bits, bf16 activations. */
#include "kern/cuda/lut_wgmma.cuh"

template int lut_wgmma_launch<8, true>(const lut_wgmma_args &a, const CUtensorMap &map, int variant, int parts,
                                        const cudaLaunchConfig_t *config);
