/* lut_matmul.cu - the face of lut_matmul.h: how the work is cut and which kernel runs. */
#include "kern/cuda/lut_matmul.h"

#include "kern/cuda/lut_gemv.cuh"
#include "kern/cuda/lut_plain.cuh"
#include "kern/cuda/lut_wgmma_plan.cuh"

typedef int launcher(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<2, false>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<2, true>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<3, false>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<3, true>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<4, false>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<4, true>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<8, false>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);
extern template int lut_gemv_launch<8, true>(const lut_gemv_args &, const lut_gemv_choice &, const cudaLaunchConfig_t *);

/* By bits a code takes (2, 3, 4, 8), then activation type. */
static launcher *const launchers[4][2] = {{lut_gemv_launch<2, false>, lut_gemv_launch<2, true>},
                                          {lut_gemv_launch<3, false>, lut_gemv_launch<3, true>},
                                          {lut_gemv_launch<4, false>, lut_gemv_launch<4, true>},
                                          {lut_gemv_launch<8, false>, lut_gemv_launch<8, true>}};

int lu_cuda_device_get(int ordinal, lu_cuda_device *out)
{
    static const cudaDeviceAttr what[4] = {cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                           cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor};
    int v[4];
    for (int i = 0; i < 4; i++) {
        const cudaError_t e = cudaDeviceGetAttribute(&v[i], what[i], ordinal);
        if (e != cudaSuccess)
            return (int)e;
    }
    out->sm_count = v[0];
    out->shared_bytes = v[1];
    out->capability = v[2] * 10 + v[3];
    return 0;
}

/* Warps along K and along strips: least time of the busiest warp, in units; fetching a chunk's
   activations takes about as long as a unit. */
static void choose_warps(int64_t chunks, int64_t strips, int max_warps, lut_gemv_args *a)
{
    int64_t best = INT64_MAX;
    for (int ws = 1; ws <= max_warps; ws++)
        for (int wk = max_warps / ws; wk >= 1; wk--) {
            const int64_t units = ((chunks + wk - 1) / wk) * ((strips + ws - 1) / ws + 1);
            if (wk <= chunks && units < best) {
                best = units;
                a->n_wk = wk;
                a->n_ws = ws;
            }
        }
}

/* One scale a row: entry 0. Else by a shift where there is one: groups of 128 times a power of two. */
static int entry_shift(const lut_shape *s)
{
    if (s->n_entries == 1)
        return 31;
    for (int shift = 0; shift < 31; shift++)
        if (s->bricks_per_entry == (int64_t)1 << shift)
            return shift;
    return -1;
}

/* Where tiles may not be cut: from this many weights on wgmma wins from 17 tokens, below it from 33 (H200,
   layers of 8B and 70B). */
#define LUT_LARGE_MATRIX 64000000

/* Sums of strips go below the table and above it, or, where there is none, below only. */
static int launch(const lu_cuda_device *dev, const lut_shape &s, const lu_cuda_lut *w, const lu_cuda_lut_call *call,
                  lut_gemv_args &a, int general)
{
    const int way = w->way, table = lut_needs_table(way);
    const lut_gemv_choice choice = {a.m > 16 ? 4 : a.m > 8 ? 2 : 1, s.parts, general, way};
    const int grid = a.n_strips < dev->sm_count ? a.n_strips : dev->sm_count;
    const int most = (a.n_strips + grid - 1) / grid; /* strips of a block */
    const int pairs = choice.nt == 1 && s.slot_bits < 8 && !general; /* bricks per unit: lut_plan */
    const int chunks = pairs ? (a.n_bricks + 1) / 2 : a.n_bricks;
    a.block_strips = a.n_strips / grid;
    a.wide_blocks = a.n_strips % grid;
    choose_warps(chunks, most, choice.nt > 2 ? lut_plan<4, 4, 1, false>::warps : lut_plan<4, 1, 1, false>::warps, &a);
    a.warp_chunks = chunks / a.n_wk;
    a.wide_warps = chunks % a.n_wk;
    a.by_wk = lut_reciprocal(a.n_wk);
    a.by_ws = lut_reciprocal(a.n_ws);
    a.pairs_shift = choice.nt > 1 || a.m > 4 ? 2 : a.m > 2;
    const int per_strip = (a.n_wk * choice.nt * 8 << a.pairs_shift) * (int)sizeof(float4);
    const int above = dev->shared_bytes - LUT_TABLE_AT - LUT_TABLE_BYTES;
    if (table && above < 0)
        return (int)cudaErrorNotSupported; /* chips with under 128 KB of shared memory per block */
    const int below = (table ? LUT_BELOW_BYTES : dev->shared_bytes) / per_strip;
    int room = below + (table ? above / per_strip : 0);
    room = (room < LUT_DIVIDED - 16 ? room : LUT_DIVIDED - 16) / a.n_ws * a.n_ws;
    if (room < 1)
        return (int)cudaErrorNotSupported;
    const int passes = (most + room - 1) / room;
    a.pass_strips = ((most + passes - 1) / passes + a.n_ws - 1) / a.n_ws * a.n_ws;
    a.strips_below = below < a.pass_strips ? below : a.pass_strips;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)grid);
    config.blockDim = dim3((unsigned)(a.n_wk * a.n_ws * 32));
    config.dynamicSmemBytes = (size_t)(table ? LUT_TABLE_AT + LUT_TABLE_BYTES + (a.pass_strips - a.strips_below) * per_strip
                                             : a.pass_strips * per_strip);
    config.stream = (cudaStream_t)call->stream;
    config.attrs = &early;
    config.numAttrs = call->overlap && dev->capability >= 90 ? 1 : 0;
    return launchers[s.slot_bits == 8 ? 3 : s.slot_bits - 2][w->bf16 != 0](a, choice, &config);
}

size_t lu_cuda_lut_scratch(const lu_cuda_device *dev)
{
    return lut_wgmma_scratch(dev);
}

int lu_cuda_lut_matmul(const lu_cuda_device *dev, const lu_cuda_lut *w, const lu_cuda_lut_call *call)
{
    const lut_shape s = lut_make_shape(w->n, w->k, w->bits, w->group_size);
    if (call->m < 0 || s.n_strips * s.n_bricks > INT32_MAX)
        return LU_CUDA_E_SHAPE;
    if (call->m == 0)
        return 0;
    if (!s.parts)
        return lut_plain_launch(w, call);
    lut_gemv_args a = {};
    a.words = w->words;
    a.scales = (const uint32_t *)w->scales;
    a.zeros = (const uint32_t *)w->zeros;
    a.bias = call->bias;
    a.ldx = call->ldx;
    a.ldy = call->ldy;
    a.n = (int)w->n;
    a.k = (int)w->k;
    a.n_strips = (int)s.n_strips;
    a.n_bricks = (int)s.n_bricks;
    a.n_entries = (int)s.n_entries;
    a.bricks_per_entry = (int)s.bricks_per_entry;
    a.entry_shift = entry_shift(&s);
    a.x_vector = call->ldx % 8 == 0 && (uintptr_t)call->x % 16 == 0 && w->k % 8 == 0;
    a.decoder = w->decoder;
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    const int general = w->zeros != NULL || !a.x_vector || s.parts == 4;
    const int tokens = general ? LUT_GENERAL_TOKENS : LUT_TOKENS;
    lut_wgmma_plan plan;
    const int few = call->scratch || w->n * w->k >= LUT_LARGE_MATRIX ? LUT_GENERAL_TOKENS : tokens;
    if (call->m > few && lut_wgmma_choose(dev, &s, w, call, &plan))
        return lut_wgmma_run(dev, &s, w, call, &plan);
    for (int64_t m0 = 0; m0 < call->m; m0 += tokens) {
        a.m = (int)(call->m - m0 < tokens ? call->m - m0 : tokens);
        a.x = call->x + m0 * call->ldx;
        a.y = call->y + m0 * call->ldy;
        const int e = launch(dev, s, w, call, a, general);
        if (e)
            return e;
    }
    return 0;
}
