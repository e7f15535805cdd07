/* bench_linear.c - times matrix products: one 2048 x 2048 projection in each weight format, for one
   row of x (decode: bytes of packed weights per second count) and for 128 (prefill: flops count).
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "checkkernel.h"
#include "tensor/convert.h"
#include "timing.h"

#define SIZE 2048
#define GROUP 128

typedef struct {
    lu_linear l;
    void *x, *scratch;
    float *y;
    int64_t M;
} job;

static void run(void *arg)
{
    const job *j = arg;
    const lu_linear_args a = {.x = j->x,
                              .ldx = SIZE,
                              .M = j->M,
                              .y = j->y,
                              .ldy = SIZE,
                              .unit1 = j->l.n_units,
                              .scratch = j->scratch};
    lu_linear_run(&j->l, &a);
}

static bool time_job(job *j, int64_t M, const ck_roof *roof)
{
    const size_t x_bytes = (size_t)(M * SIZE) * lutra_dtype_bytes(j->l.act);
    const size_t y_bytes = (size_t)(M * SIZE) * sizeof(float);
    j->M = M;
    j->x = lu_alloc_aligned(x_bytes);
    j->y = lu_alloc_aligned(y_bytes);
    j->scratch = lu_alloc_aligned(lu_linear_scratch(&j->l, M));
    const bool ok = j->x && j->y && j->scratch;
    if (ok) {
        ck_timed t = {.op = "linear",
                      .run = run,
                      .arg = j,
                      .bytes = (double)(j->l.packed_bytes + x_bytes + y_bytes),
                      .flops = 2.0 * SIZE * SIZE * (double)M,
                      .operands = {{j->l.packed, j->l.packed_bytes}},
                      .n_operands = 1};
        const float one = 1;
        for (int64_t i = 0; i < M * SIZE; i++)
            lu_from_f32(j->l.act, &one, 1, (char *)j->x + i * (int64_t)lutra_dtype_bytes(j->l.act));
        snprintf(t.shape, sizeof t.shape, "%s M%lld", lu_linear_variant_name(&j->l), (long long)M);
        ck_time(&t, roof);
    }
    lu_free_aligned(j->x);
    lu_free_aligned(j->y);
    lu_free_aligned(j->scratch);
    return ok;
}

/* bits 0: dense bf16. Codes and scales are bytes of one value: speed does not depend on them. */
static int bench_format(int bits, lutra_dtype act, const ck_roof *roof)
{
    const size_t data_bytes = (size_t)SIZE * SIZE * (size_t)(bits ? bits : 16) / 8;
    const size_t scale_bytes = (size_t)SIZE * SIZE / GROUP * 2;
    void *data = lu_alloc(data_bytes), *scales = lu_alloc(scale_bytes);
    lu_weight w = {.n = SIZE,
                   .k = SIZE,
                   .dtype = bits ? LUTRA_DTYPE_NONE : LUTRA_BF16,
                   .data = data,
                   .bits = bits,
                   .group_size = bits ? GROUP : 0,
                   .scales = scales,
                   .scale_dtype = LUTRA_F16};
    job j = {0};
    int n = 0;
    for (int i = 0; i < 1 << bits && bits; i++)
        w.table[i] = (float)i;
    if (data && scales && lu_linear_plan(&w, act, roof->level, &j.l, NULL) == LUTRA_OK)
        j.l.packed = lu_alloc_aligned(j.l.packed_bytes);
    if (j.l.packed) {
        memset(data, 0x3c, data_bytes);
        memset(scales, 0x3c, scale_bytes);
        lu_linear_attach(&j.l, &w, j.l.packed);
        lu_linear_pack(&j.l, &w, 0, j.l.n_units);
        n = time_job(&j, 1, roof) + time_job(&j, 128, roof);
    }
    lu_free_aligned(j.l.packed);
    lu_free(data);
    lu_free(scales);
    return n;
}

int ck_bench_linear(const ck_roof *roof)
{
    static const int bits[] = {0, 2, 3, 4, 8};
    int n = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        n += bench_format(bits[i], LUTRA_F32, roof) + bench_format(bits[i], LUTRA_BF16, roof);
    return n;
}
