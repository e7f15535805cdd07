/* lut_wgmma_plan.cu - the host side of lut_wgmma.cuh: variants, shared memory, tensor map, launch. */
#include "kern/cuda/lut_wgmma_plan.cuh"

#include <cudaTypedefs.h>

#include "kern/cuda/lut_wgmma.cuh"

typedef int launcher(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<2, false>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<2, true>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<3, false>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<3, true>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<4, false>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<4, true>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<8, false>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);
extern template int lut_wgmma_launch<8, true>(const lut_wgmma_args &, const CUtensorMap &, int, int, const cudaLaunchConfig_t *);

/* By bits a code takes (2, 3, 4, 8), then activation type. */
static launcher *const launchers[4][2] = {{lut_wgmma_launch<2, false>, lut_wgmma_launch<2, true>},
                                          {lut_wgmma_launch<3, false>, lut_wgmma_launch<3, true>},
                                          {lut_wgmma_launch<4, false>, lut_wgmma_launch<4, true>},
                                          {lut_wgmma_launch<8, false>, lut_wgmma_launch<8, true>}};

const lut_wgmma_variant lut_wgmma_variants[] = {
#define LUT_VARIANT(number, nt, np, c, ahead, general) {#c " x 64 rows by " #nt "/" #np "/" #ahead, nt, np, c * 64, general},
    LUT_WGMMA_TABLE(LUT_VARIANT)
#undef LUT_VARIANT
};
const int lut_wgmma_n_variants = (int)(sizeof lut_wgmma_variants / sizeof *lut_wgmma_variants);

/* Shared memory below and above the table. */
struct arena {
    unsigned at[2], end[2];
};

static unsigned take(arena *m, unsigned bytes, unsigned align)
{
    for (int i = 0; i < 2; i++) {
        const unsigned at = (m->at[i] + align - 1) / align * align;
        if (at + bytes <= m->end[i]) {
            m->at[i] = at + bytes;
            return at;
        }
    }
    return 0;
}

/* Lays out the two rings, a brick's worth of both at a time; false if not even two bricks fit. */
static bool lay_out(const lu_cuda_device *dev, const lut_shape *s, const lut_wgmma_variant *v, bool zeros,
                    lut_wgmma_args *a, unsigned *end)
{
    const unsigned strips = (unsigned)v->rows / 16, x = (unsigned)v->part_tokens * 256;
    const unsigned weights = strips * (256 * (unsigned)s->slot_bits + 32 * (unsigned)s->parts * (zeros ? 2 : 1));
    const int chunks = v->tokens / v->part_tokens;
    arena m = {{1024, LUT_TABLE_AT + LUT_TABLE_BYTES}, {LUT_TABLE_AT, 1024 + (unsigned)dev->shared_bytes}};
    a->x_stages = a->w_stages = 0;
    a->staging_at = take(&m, (unsigned)v->rows / 64 * 4096, 1024);
    a->barriers_at = take(&m, LUT_WGMMA_STAGES * 32, 128);
    for (bool more = true; more;) {
        more = false;
        if (a->w_stages < (chunks > 1 ? 3 : LUT_WGMMA_STAGES) && (a->w_at[a->w_stages] = take(&m, weights, 128)) != 0) {
            a->w_stages++;
            more = true;
        }
        for (int c = 0; c < chunks && a->x_stages < LUT_WGMMA_STAGES; c++)
            if ((a->x_at[a->x_stages] = take(&m, x, 1024)) != 0) {
                a->x_stages++;
                more = true;
            }
    }
    *end = m.at[1];
    return a->w_stages >= 2 && a->x_stages >= (chunks > 2 ? chunks : 2);
}

bool lut_wgmma_accepts(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w, int v, int splits)
{
    if (dev->capability != 90 || dev->shared_bytes < 227 * 1024 || !s->parts || v < 0 || v >= lut_wgmma_n_variants)
        return false;
    const bool general = w->zeros || s->parts == 4 || s->slot_bits == 8;
    lut_wgmma_args a;
    unsigned end;
    if (!lay_out(dev, s, &lut_wgmma_variants[v], w->zeros != NULL, &a, &end))
        return false;
    return splits >= 1 && splits <= LUT_WGMMA_SPLITS && splits <= s->n_bricks && (!general || lut_wgmma_variants[v].general);
}

/* x as [m][k], boxes of 64 columns by `tokens` rows; outside it reads as zero. */
static int map_of(const lu_cuda_lut *w, const lu_cuda_lut_call *call, int tokens, CUtensorMap *map)
{
    static PFN_cuTensorMapEncodeTiled_v12000 encode;
    if (!encode) {
        void *p = NULL;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t e =
            cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found);
        if (e != cudaSuccess || found != cudaDriverEntryPointSuccess)
            return e != cudaSuccess ? (int)e : (int)cudaErrorNotSupported;
        encode = (PFN_cuTensorMapEncodeTiled_v12000)p;
    }
    const cuuint64_t size[2] = {(cuuint64_t)w->k, (cuuint64_t)call->m}, pitch[1] = {(cuuint64_t)call->ldx * 2};
    const cuuint32_t box[2] = {64, (cuuint32_t)tokens}, step[2] = {1, 1};
    const CUresult e = encode(map, w->bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
                              (void *)call->x, size, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                              CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return e == CUDA_SUCCESS ? 0 : (int)cudaErrorInvalidValue;
}

static bool map_suits(const lu_cuda_lut_call *call)
{
    return call->ldx % 8 == 0 && (uintptr_t)call->x % 16 == 0;
}

/* Clusters that run at once, a block per multiprocessor; a cluster lies within one of the chip's parts
   of 16 or 18. */
static int clusters_of(const lu_cuda_device *dev, int splits)
{
    return splits <= 2 ? dev->sm_count / splits : dev->sm_count / 16 * 16 / splits;
}

/* Microseconds of a tile and of each of its bricks, by variant: fitted to measurements on an H200 so
   that the fastest of all plans is chosen for the layers of 8B and 70B blocks, 32 to 4096 tokens. More
   than two blocks to a tile never were the fastest. */
static const struct {
    double tile, brick;
} costs[] = {{2.9, 0.87}, {2.92, 1.05}, {1.64, 0.77}, {2.92, 1.05}, {3.58, 1.63}, {1.23, 1.36}, {0.71, 0.66}, {3.4, 1.57}};
static const double split_us = 0.4;

bool lut_wgmma_choose(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w,
                      const lu_cuda_lut_call *call, lut_wgmma_plan *out)
{
    double best = 0;
    for (int v = 0; v < lut_wgmma_n_variants; v++)
        for (int splits = 1; splits <= 2; splits++) {
            if (!lut_wgmma_accepts(dev, s, w, v, splits))
                continue;
            const int64_t strips = lut_wgmma_variants[v].rows / 16, tokens = lut_wgmma_variants[v].tokens;
            const int64_t tiles = (s->n_strips + strips - 1) / strips * ((call->m + tokens - 1) / tokens);
            const int64_t clusters = clusters_of(dev, splits), rounds = (tiles + clusters - 1) / clusters;
            if (splits > 1 && rounds > 1)
                continue;
            const int64_t bricks = (s->n_bricks + splits - 1) / splits;
            const double time = (double)rounds * (costs[v].tile + (double)bricks * costs[v].brick) + (splits - 1) * split_us;
            if (best == 0 || time < best) {
                best = time;
                *out = {v, splits, !map_suits(call)};
            }
        }
    return best > 0;
}

int lut_wgmma_run(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w, const lu_cuda_lut_call *call,
                  const lut_wgmma_plan *plan)
{
    const lut_wgmma_variant *v = &lut_wgmma_variants[plan->variant];
    lut_wgmma_args a = {};
    CUtensorMap map = {};
    unsigned end;
    if (!lay_out(dev, s, v, w->zeros != NULL, &a, &end))
        return (int)cudaErrorNotSupported;
    a.plain_x = plan->plain_x || !map_suits(call);
    if (!a.plain_x) {
        const int e = map_of(w, call, v->part_tokens, &map);
        if (e)
            return e;
    }
    a.words = w->words;
    a.scales = (const uint32_t *)w->scales;
    a.zeros = (const uint32_t *)w->zeros;
    a.x = call->x;
    a.y = call->y;
    a.bias = call->bias;
    a.ldx = call->ldx;
    a.ldy = call->ldy;
    a.n = (int)w->n;
    a.k = (int)w->k;
    a.m = (int)call->m;
    a.n_strips = (int)s->n_strips;
    a.n_bricks = (int)s->n_bricks;
    a.n_entries = (int)s->n_entries;
    a.bricks_per_entry = (int)s->bricks_per_entry;
    a.splits = plan->splits;
    a.y_vector = call->ldy % 8 == 0 && (uintptr_t)call->y % 16 == 0;
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    /* As many row tiles as blocks if that spreads the strips of one round evenly. */
    const int clusters = clusters_of(dev, a.splits), strips = v->rows / 16;
    a.token_tiles = (int)((call->m + v->tokens - 1) / v->tokens);
    a.row_tiles = (a.n_strips + strips - 1) / strips;
    if (a.row_tiles * a.token_tiles < clusters && a.token_tiles == 1)
        a.row_tiles = clusters < a.n_strips ? clusters : a.n_strips;
    const int tiles = a.row_tiles * a.token_tiles;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attrs[2] = {};
    config.gridDim = dim3((unsigned)(a.splits * (a.splits > 1 || tiles < clusters ? tiles : clusters)));
    config.blockDim = dim3((unsigned)(v->rows * 2 + 128));
    config.dynamicSmemBytes = end - 1024;
    config.stream = (cudaStream_t)call->stream;
    config.attrs = attrs;
    if (a.splits > 1) {
        attrs[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attrs[config.numAttrs].val.clusterDim.x = (unsigned)a.splits;
        attrs[config.numAttrs].val.clusterDim.y = attrs[config.numAttrs].val.clusterDim.z = 1;
        config.numAttrs++;
    }
    if (call->overlap) {
        attrs[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attrs[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs++;
    }
    return launchers[s->slot_bits == 8 ? 3 : s->slot_bits - 2][w->bf16 != 0](a, map, plan->variant, s->parts, &config);
}
