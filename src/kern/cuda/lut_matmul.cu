/* lut_matmul.cu - the face of lut_matmul.h: how the work is cut and which kernel runs. */
#include "lut_matmul.h"

#include "lut_gemv.cuh"

template <> int lut_gemv_launch<2>(const lut_gemv_args &, int, int, int, int, cudaStream_t);
template <> int lut_gemv_launch<3>(const lut_gemv_args &, int, int, int, int, cudaStream_t);
template <> int lut_gemv_launch<4>(const lut_gemv_args &, int, int, int, int, cudaStream_t);
template <> int lut_gemv_launch<8>(const lut_gemv_args &, int, int, int, int, cudaStream_t);

#define MAX_WR 4
#define MAX_NT 4

size_t lu_cuda_lut_scratch(int sm_count)
{
    return (size_t)sm_count * (256 + 2 * MAX_WR * 64 * 8 * MAX_NT * sizeof(float));
}

/* Row blocks per unit, in stage times: the rounds of the busiest SM, the reads of x (fewer with more
   rows per unit), and the adding of parts where several blocks share a row block. */
static int choose_wr(const lut_shape &s, int m, int warps, int sms)
{
    int best = 1;
    double best_cost = 1e30;
    for (int wr = 1; wr <= MAX_WR; wr *= 2) {
        const int64_t wk = warps / wr;
        const int64_t n_ku = (s.n_kt + wk - 1) / wk, units = (s.n_rb + wr - 1) / wr * n_ku;
        const int64_t rounds = (units + sms - 1) / sms;
        const double sharers = units > sms ? (double)n_ku * sms / units : (double)n_ku;
        const double ends = (double)((rounds + n_ku - 1) / n_ku);
        const double cost = (double)rounds * (1.0 + 0.02 * m / wr) + 0.3 * ends + 0.05 * sharers * wr;
        if (cost < best_cost - 1e-9) {
            best_cost = cost;
            best = wr;
        }
    }
    return best;
}

int lu_cuda_lut_matmul(const lu_cuda_lut *w, int64_t m, const uint16_t *x, int64_t ldx, uint16_t *y,
                       int64_t ldy, const uint16_t *bias, void *scratch, int sm_count, void *stream)
{
    if (m < 0 || w->n >= 1 << 30 || w->k >= 1 << 30)
        return LU_CUDA_E_SHAPE;
    const lut_shape s = lut_make_shape(w->n, w->k, w->bits, w->group_size);
    lut_gemv_args a = {};
    a.words = w->words;
    a.scales = w->scales;
    a.zeros = w->zeros;
    a.bias = bias;
    a.ldx = ldx;
    a.ldy = ldy;
    a.n = (int)w->n;
    a.k = (int)w->k;
    a.n_rb = (int)s.n_rb;
    a.n_kt = (int)s.n_kt;
    a.n_groups = (int)s.n_groups;
    if (ldx % 8 || (uintptr_t)x % 16 || w->k % 8)
        return LU_CUDA_E_SHAPE;
    int log2 = 31;
    if (s.n_groups > 1) {
        const int64_t per = s.group_cols / 64;
        log2 = -1;
        for (int l = 0; l < 20; l++)
            if (per == (int64_t)1 << l)
                log2 = l;
        if (per && log2 < 0)
            return LU_CUDA_E_SHAPE;
    }
    a.stages_per_group_log2 = log2;
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    a.counters = (int *)scratch;
    a.parts = (float *)((char *)scratch + (size_t)sm_count * 256);
    const int general = w->zeros != NULL || log2 < 0; /* zero points, or two groups in a stage */
    for (int64_t m0 = 0; m0 < m; m0 += 8 * MAX_NT) {
        a.m = (int)(m - m0 < 8 * MAX_NT ? m - m0 : 8 * MAX_NT);
        a.x = x + m0 * ldx;
        a.y = y + m0 * ldy;
        const int nt = a.m > 16 ? 4 : a.m > 8 ? 2 : 1;
        const int warps = nt > 2 ? lut_plan<4, false>::warps : lut_plan<1, false>::warps;
        a.wr = choose_wr(s, a.m, warps, sm_count);
        const int wk = warps / a.wr;
        a.n_ku = (int)((s.n_kt + wk - 1) / wk);
        a.n_units = (int)((s.n_rb + a.wr - 1) / a.wr) * a.n_ku;
        const int grid = a.n_units < sm_count ? a.n_units : sm_count;
        cudaStream_t st = (cudaStream_t)stream;
        const int e = s.slot_bits == 2   ? lut_gemv_launch<2>(a, nt, w->bf16, general, grid, st)
                      : s.slot_bits == 3 ? lut_gemv_launch<3>(a, nt, w->bf16, general, grid, st)
                      : s.slot_bits == 4 ? lut_gemv_launch<4>(a, nt, w->bf16, general, grid, st)
                                         : lut_gemv_launch<8>(a, nt, w->bf16, general, grid, st);
        if (e)
            return e;
    }
    return 0;
}
