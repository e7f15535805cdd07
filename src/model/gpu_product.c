/* gpu_product.c - one stack of linears on the GPU (gpu_model.h). */
#include "model/gpu_model.h"

typedef struct {
    const uint16_t *x;
    int64_t rows;
    uint16_t *y;
} operands;

static lutra_status multiply_dense(const lu_gpu_model *g, const lu_gpu_linear *l, const operands *o,
                                   const uint16_t *w, int64_t row, int64_t n, const uint16_t *bias,
                                   lutra_err *err)
{
    const lu_gpu_dense call = {.m = o->rows,
                               .n = n,
                               .k = l->k,
                               .x = o->x,
                               .ldx = l->k,
                               .w = w,
                               .y = o->y + row,
                               .ldy = l->n,
                               .bias = bias,
                               .bf16 = g->bf16};
    LU_GPU_TRY(g->gpu, g->gpu->api->dense(g->gpu, &call), "a dense product", err);
    return LUTRA_OK;
}

/* Piece by piece through a dense copy, which pays when each weight is used often enough. */
static lutra_status multiply_unpacked(const lu_gpu_model *g, const lu_gpu_linear *l,
                                      const operands *o, const lu_gpu_part *p, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const int64_t most = g->unpacked_room / l->k / LU_GPU_STRIP * LU_GPU_STRIP;
    for (int64_t row = 0; row < p->n; row += most) {
        const int64_t n = p->n - row < most ? p->n - row : most;
        LU_GPU_TRY(gpu, gpu->api->lut_unpack(&p->lut, row, n, g->unpacked, gpu->stream),
                   "unpacking weights", err);
        LU_TRY(multiply_dense(g, l, o, g->unpacked, p->row + row, n, p->bias ? p->bias + row : NULL,
                              err));
    }
    return LUTRA_OK;
}

static lutra_status multiply_coded(const lu_gpu_model *g, const lu_gpu_linear *l, const operands *o,
                                   const lu_gpu_part *p, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    if (o->rows >= gpu->api->lut_dense_from(&gpu->chip, &p->lut))
        return multiply_unpacked(g, l, o, p, err);
    const lu_cuda_lut_call call = {.m = o->rows,
                                   .x = o->x,
                                   .ldx = l->k,
                                   .y = o->y + p->row,
                                   .ldy = l->n,
                                   .bias = p->bias,
                                   .overlap = 1,
                                   .stream = gpu->stream};
    LU_GPU_TRY(gpu, gpu->api->lut_matmul(&gpu->chip, &p->lut, &call), "a product", err);
    return LUTRA_OK;
}

lutra_status lu_gpu_product(const lu_gpu_model *g, const lu_gpu_linear *l, const uint16_t *x,
                            int64_t rows, uint16_t *y, lutra_err *err)
{
    const operands o = {x, rows, y};
    for (int i = 0; i < l->n_parts; i++) {
        const lu_gpu_part *p = &l->parts[i];
        LU_TRY(p->coded ? multiply_coded(g, l, &o, p, err)
                        : multiply_dense(g, l, &o, p->dense, p->row, p->n, p->bias, err));
    }
    return LUTRA_OK;
}
