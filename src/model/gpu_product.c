/* gpu_product.c - one stack of linears on the GPU (gpu_model.h). */
#include "model/gpu_model.h"

typedef struct {
    const uint16_t *x; /* rounded where the part asks for it */
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
                                   .stream = gpu->stream,
                                   .scratch = g->scratch};
    LU_GPU_TRY(gpu, gpu->api->lut_matmul(&gpu->chip, &p->lut, &call), "a product", err);
    return LUTRA_OK;
}

static lutra_status multiply_integers(const lu_gpu_model *g, const lu_gpu_rounded *room,
                                      const lu_gpu_linear *l, const operands *o,
                                      const lu_gpu_part *p, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const lu_gpu_int8 call = {.m = o->rows,
                              .n = p->n,
                              .k = l->k,
                              .x = (const int8_t *)o->x,
                              .x_scale = room->scale,
                              .x_zero = p->input.format.zero_point ? room->zero : NULL,
                              .w = p->integers,
                              .w_scale = p->scales,
                              .w_sum = p->sums,
                              .bias = p->bias,
                              .y = o->y + p->row,
                              .ldy = l->n,
                              .bf16 = g->bf16,
                              .sums = room->sums,
                              .sum_rows = room->n_sums / lu_int8_padded(p->n, LU_INT8_ROWS)};
    LU_GPU_TRY(gpu, gpu->api->int8(gpu, &call), "a product of integers", err);
    return LUTRA_OK;
}

/* x rounded as the part wants it, to room: codes for integers, values for the rest. */
static lutra_status round_rows(const lu_gpu_model *g, const lu_gpu_rounded *room,
                               const lu_gpu_linear *l, const lu_gpu_part *p, const uint16_t *x,
                               int64_t rows, lutra_err *err)
{
    lu_gpu *gpu = g->gpu;
    const lu_act_quant *q = &p->input;
    const lu_cuda_act_args a = {
        .n = rows,
        .k = l->k,
        .x = x,
        .ldx = l->k,
        .bf16 = g->bf16,
        .rule = {.bits = q->format.bits,
                 .asymmetric = q->format.zero_point,
                 .group = q->format.scope == LU_ACT_GROUP ? q->format.group_size : l->k,
                 .fixed = q->format.scope == LU_ACT_TENSOR,
                 .scale = q->scale,
                 .zero = q->zero},
        .stream = gpu->stream};
    LU_GPU_TRY(gpu,
               p->kind == LU_GPU_INTEGERS
                   ? gpu->api->act_codes(&a, (int8_t *)room->x, room->scale, room->zero)
                   : gpu->api->act_fake(&a, room->x),
               "rounding inputs", err);
    return LUTRA_OK;
}

/* Whether what a's input was rounded to serves b. */
static bool rounds_alike(const lu_gpu_part *a, const lu_gpu_part *b)
{
    return (a->kind == LU_GPU_INTEGERS) == (b->kind == LU_GPU_INTEGERS) &&
           lu_act_same(&a->input, &b->input);
}

lutra_status lu_gpu_product(const lu_gpu_model *g, const lu_gpu_rounded *room,
                            const lu_gpu_linear *l, const uint16_t *x, int64_t rows, uint16_t *y,
                            lutra_err *err)
{
    const lu_gpu_part *rounded = NULL; /* whose input lies in room */
    for (int i = 0; i < l->n_parts; i++) {
        const lu_gpu_part *p = &l->parts[i];
        const bool rounds = p->input.format.bits != 0;
        if (rounds && !(rounded && rounds_alike(rounded, p))) {
            LU_TRY(round_rows(g, room, l, p, x, rows, err));
            rounded = p;
        }
        const operands o = {rounds ? room->x : x, rows, y};
        switch (p->kind) {
        case LU_GPU_DENSE:
            LU_TRY(multiply_dense(g, l, &o, p->dense, p->row, p->n, p->bias, err));
            break;
        case LU_GPU_CODED: LU_TRY(multiply_coded(g, l, &o, p, err)); break;
        case LU_GPU_INTEGERS: LU_TRY(multiply_integers(g, room, l, &o, p, err)); break;
        }
    }
    return LUTRA_OK;
}
