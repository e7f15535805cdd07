/* lut_wgmma_plan.cuh - many tokens on compute capability 9.0: wgmma fed from the packed layout.

   Each variant is a tile: rows of W by tokens. Where the caller gives scratch memory, tiles are cut along K
   if there are fewer than blocks, or those that do not fill whole rounds are shared out by bricks; sums of
   parts are added in the order of K, so results repeat bit by bit. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_PLAN_CUH
#define LU_KERN_CUDA_LUT_WGMMA_PLAN_CUH

#include "kern/cuda/lut_layout.cuh"
#include "kern/cuda/lut_matmul.h"

typedef struct lut_wgmma_variant {
    const char *name;
    int tokens, rows;
    int general; /* also groups of 32, zero points, and codes of 5 to 8 bits */
} lut_wgmma_variant;

typedef struct lut_wgmma_plan {
    int variant;
    int cuts;    /* parts of a tile along K, each to a block; 0: tiles are shared out by bricks */
    int plain_x; /* x through registers instead of the copy engine: rows of x off 16 bytes */
} lut_wgmma_plan;

extern const lut_wgmma_variant lut_wgmma_variants[];
extern const int lut_wgmma_n_variants;

/* Bytes that sharing out takes at most. */
size_t lut_wgmma_scratch(const lu_cuda_device *dev);

/* Whether variant v can run this product. */
bool lut_wgmma_accepts(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w, int v);

/* Most cuts a plan for m tokens may have with variant v. */
int lut_wgmma_most_cuts(const lu_cuda_device *dev, const lut_shape *s, int v, int64_t m);

/* The plan for m tokens; false where nothing here suits and the caller must take another kernel. */
bool lut_wgmma_choose(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w,
                      const lu_cuda_lut_call *call, lut_wgmma_plan *out);

/* Runs a plan that is accepted. Returns 0 or a cudaError_t. */
int lut_wgmma_run(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w,
                  const lu_cuda_lut_call *call, const lut_wgmma_plan *plan);

#endif
