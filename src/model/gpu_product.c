/* gpu_product.c - one stack of linears on the GPU (gpu_model.h). */
#include "model/gpu_model.h"

lutra_status lu_gpu_product(const lu_gpu_model *g, const lu_gpu_linear *l, const uint16_t *x,
                            int64_t rows, uint16_t *y, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    for (int i = 0; i < l->n_parts; i++) {
        const lu_gpu_part *p = &l->parts[i];
        if (p->coded) {
            const lu_cuda_lut_call call = {.m = rows,
                                           .x = x,
                                           .ldx = l->k,
                                           .y = y + p->row,
                                           .ldy = l->n,
                                           .bias = p->bias,
                                           .overlap = 1,
                                           .stream = gpu->stream};
            LU_GPU_TRY(gpu, gpu->api->lut_matmul(&gpu->chip, &p->lut, &call), "a product", err);
        } else {
            const lu_gpu_dense call = {.m = rows,
                                       .n = p->n,
                                       .k = l->k,
                                       .x = x,
                                       .ldx = l->k,
                                       .w = p->dense,
                                       .y = y + p->row,
                                       .ldy = l->n,
                                       .bias = p->bias,
                                       .bf16 = g->bf16};
            LU_GPU_TRY(gpu, gpu->api->dense(gpu, &call), "a dense product", err);
        }
    }
    return LUTRA_OK;
}
