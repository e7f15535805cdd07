/* gpu_emulated_int8.c - the integer kernels of the emulated GPU (kern/cuda/cuda_int8.h), by the
   CPU's own rounding of inputs and in 64-bit sums. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/codec.h"
#include "kern/act_quant.h"
#include "kern/table.h"
#include "support/gpu_emulated_ops.h"
#include "tensor/convert.h"

/* --- inputs -------------------------------------------------------------------------------------
 */

typedef struct {
    lu_cuda_act_args a;
    int8_t *codes;
    float *scale;
    int32_t *zero;
    uint16_t *y;
} act_args;

static lu_act_quant quant_of(const lu_cuda_act_rule *r, int64_t k)
{
    const lu_act_format f = {.bits = r->bits,
                             .scope = r->fixed        ? LU_ACT_TENSOR
                                      : r->group == k ? LU_ACT_TOKEN
                                                      : LU_ACT_GROUP,
                             .group_size = r->group == k ? 0 : r->group,
                             .zero_point = r->asymmetric};
    return (lu_act_quant){f, r->scale, r->asymmetric ? r->zero : LU_ACT_SYM_ZERO};
}

static int run_act(const void *args)
{
    const act_args *p = args;
    const lu_cuda_act_args *a = &p->a;
    const int64_t k = a->k, ld = lu_int8_padded(k, LU_INT8_COLUMNS);
    const lutra_dtype type = a->bf16 ? LUTRA_BF16 : LUTRA_F16;
    const lu_act_quant q = quant_of(&a->rule, k);
    lu_ops ops;
    lu_ops_fill(&ops, LU_LEVEL_REF);
    float *row = malloc((size_t)k * sizeof *row);
    uint8_t *record = malloc((size_t)lu_act_record_bytes(k));
    for (int64_t r = 0; r < a->n; r++) {
        lu_to_f32(type, a->x + r * a->ldx, k, row);
        if (p->y) {
            lu_act_fake(&ops, &q, row, k, row, record);
            lu_from_f32(type, row, k, p->y + r * k);
            continue;
        }
        lu_act_record(&ops, &q, row, k, record);
        memcpy(&p->scale[r], record, sizeof *p->scale);
        p->zero[r] = record[4] - 128;
        for (int64_t i = 0; i < ld; i++)
            p->codes[r * ld + i] = i < k ? (int8_t)(record[LU_ACT_HEADER + i] - 128) : 0;
    }
    free(row);
    free(record);
    return 0;
}

int emulated_act_codes(const lu_cuda_act_args *a, int8_t *codes, float *scale, int32_t *zero)
{
    const act_args p = {*a, codes, scale, zero, NULL};
    return a->rule.group == a->k ? gpu_emulated_queue(run_act, &p, sizeof p) : LU_CUDA_E_SHAPE;
}

int emulated_act_fake(const lu_cuda_act_args *a, uint16_t *y)
{
    const act_args p = {.a = *a, .y = y};
    return a->k % a->rule.group == 0 ? gpu_emulated_queue(run_act, &p, sizeof p) : LU_CUDA_E_SHAPE;
}

/* --- products -----------------------------------------------------------------------------------
 */

int emulated_int8_pack(int64_t n, int64_t k, int bits, const uint8_t *codes, const uint8_t *zeros,
                       const float *table, int8_t *w, int32_t *w_sum, void *stream)
{
    const int64_t ld = lu_int8_padded(k, LU_INT8_COLUMNS), row_bytes = (k * bits + 7) / 8;
    (void)stream;
    memset(w, 0, (size_t)(lu_int8_padded(n, LU_INT8_ROWS) * ld));
    for (int64_t r = 0; r < n; r++) {
        w_sum[r] = 0;
        for (int64_t i = 0; i < k; i++) {
            const float v =
                table[lu_code_at(codes + r * row_bytes, i, bits)] - (zeros ? table[zeros[r]] : 0);
            w[r * ld + i] = (int8_t)v;
            w_sum[r] += w[r * ld + i];
        }
    }
    return 0;
}

static int run_int8(const void *args)
{
    const lu_gpu_int8 *a = args;
    const int64_t ld = lu_int8_padded(a->k, LU_INT8_COLUMNS);
    for (int64_t m = 0; m < a->m; m++)
        for (int64_t n = 0; n < a->n; n++) {
            int64_t sum = a->x_zero ? -(int64_t)a->x_zero[m] * a->w_sum[n] : 0;
            for (int64_t i = 0; i < ld; i++)
                sum += a->x[m * ld + i] * a->w[n * ld + i];
            float v = a->x_scale[m] * fmaf(a->w_scale[n], (float)(int32_t)sum, 0.0f);
            if (a->bias)
                v += a->bf16 ? lu_bf16_to_f32(a->bias[n]) : lu_f16_to_f32(a->bias[n]);
            a->y[m * a->ldy + n] = a->bf16 ? lu_f32_to_bf16(v) : lu_f32_to_f16(v);
        }
    return 0;
}

int gpu_emulated_int8(lu_gpu *g, const lu_gpu_int8 *a)
{
    (void)g;
    return gpu_emulated_queue(run_int8, a, sizeof *a);
}
