/* lut_wgmma_plan.cu - the host side of lut_wgmma.cuh: variants, shared memory, tensor map, launch. */
#include "kern/cuda/lut_wgmma_plan.cuh"

#include <cudaTypedefs.h>
#include <math.h>

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
#define LUT_VARIANT(number, nt, c, general) {#c " x 64 rows by " #nt, nt, c * 64, general},
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
    const unsigned strips = (unsigned)v->rows / 16, x = (unsigned)v->tokens * 128;
    const unsigned weights = strips * (256 * (unsigned)s->slot_bits + 32 * (unsigned)s->parts * (zeros ? 2 : 1));
    arena m = {{1024, LUT_TABLE_AT + LUT_TABLE_BYTES}, {LUT_TABLE_AT, 1024 + (unsigned)dev->shared_bytes}};
    a->x_stages = a->w_stages = 0;
    a->staging_at = take(&m, (unsigned)v->rows / 64 * 4096, 1024);
    a->barriers_at = take(&m, LUT_WGMMA_STAGES * 32, 128);
    for (bool more = true; more;) {
        more = false;
        if (a->w_stages < LUT_WGMMA_STAGES / 2 && (a->w_at[a->w_stages] = take(&m, weights, 128)) != 0) {
            a->w_stages++;
            more = true;
        }
        for (int half = 0; half < 2 && a->x_stages < LUT_WGMMA_STAGES; half++)
            if ((a->x_at[a->x_stages] = take(&m, x, 1024)) != 0) {
                a->x_stages++;
                more = true;
            }
    }
    *end = m.at[1];
    return a->w_stages >= 2 && a->x_stages >= 2;
}

bool lut_wgmma_accepts(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w, int v)
{
    if (dev->capability != 90 || dev->shared_bytes < 227 * 1024 || !s->parts || v < 0 || v >= lut_wgmma_n_variants)
        return false;
    const bool general = w->zeros || s->parts == 4 || s->slot_bits == 8;
    lut_wgmma_args a;
    unsigned end;
    return (!general || lut_wgmma_variants[v].general) &&
           lay_out(dev, s, &lut_wgmma_variants[v], w->zeros != NULL, &a, &end);
}

/* Counters first, then two parts for each block. */
static const size_t counter_bytes = 16384;

static size_t part_bytes(const lut_wgmma_variant *v)
{
    return (size_t)v->rows * (size_t)v->tokens * sizeof(float);
}

size_t lut_wgmma_scratch(const lu_cuda_device *dev)
{
    size_t most = 0;
    for (int v = 0; v < lut_wgmma_n_variants; v++)
        if (part_bytes(&lut_wgmma_variants[v]) > most)
            most = part_bytes(&lut_wgmma_variants[v]);
    return dev->capability == 90 ? counter_bytes + 2 * (size_t)dev->sm_count * most : 0;
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

static int64_t tiles_of(const lut_shape *s, int v, int64_t m)
{
    const int64_t strips = lut_wgmma_variants[v].rows / 16, tokens = lut_wgmma_variants[v].tokens;
    return (s->n_strips + strips - 1) / strips * ((m + tokens - 1) / tokens);
}

/* Tiles to share out: those beyond whole rounds and, so that all blocks get more than one, a round. */
static int64_t tiles_shared(int64_t tiles, int blocks)
{
    return tiles % blocks == 0 ? 0 : tiles < blocks ? tiles : tiles % blocks + blocks;
}

/* A block that gets fewer bricks is not worth the joining. */
enum { LEAST_BRICKS = 4 };

int lut_wgmma_most_cuts(const lu_cuda_device *dev, const lut_shape *s, int v, int64_t m)
{
    const int64_t tiles = tiles_of(s, v, m), cuts = tiles > dev->sm_count ? 1 : dev->sm_count / tiles;
    return (int)(cuts * LEAST_BRICKS <= s->n_bricks ? cuts : s->n_bricks < LEAST_BRICKS ? 1 : s->n_bricks / LEAST_BRICKS);
}

/* Microseconds by variant of a tile, of each of its bricks, of joining its parts where it is cut, and of
   sharing out: fitted to all plans for the layers of 8B and 70B blocks, 17 to 4096 tokens, on an H200.
   The sums of what is chosen so are 0 to 2.3 % above those of the fastest plans. */
static const struct {
    double tile, brick, join, share;
} costs[] = {{1.45, .86, 2.71, 10.6}, {1.96, .62, 2.35, 7.9},  {1.03, 1.03, 3.83, 14.1}, {1.76, .69, 2.97, 9.8},
             {.33, .99, 4.62, 11.4},  {.63, 1.26, 5.16, 14.8}, {1.45, 1.53, 5.96, 17.3}};

static double time_of(const lu_cuda_device *dev, const lut_shape *s, int v, int64_t m, int cuts)
{
    const double tiles = (double)tiles_of(s, v, m), blocks = dev->sm_count, bricks = (double)s->n_bricks;
    if (cuts)
        return ceil(tiles * cuts / blocks) * (costs[v].tile + ceil(bricks / cuts) * costs[v].brick) +
               (cuts > 1 ? costs[v].join * (1 + 0.25 * cuts) : 0);
    return ceil(tiles / blocks) * costs[v].tile + tiles / blocks * bricks * costs[v].brick + costs[v].share;
}

bool lut_wgmma_choose(const lu_cuda_device *dev, const lut_shape *s, const lu_cuda_lut *w,
                      const lu_cuda_lut_call *call, lut_wgmma_plan *out)
{
    double best = 0;
    for (int v = 0; v < lut_wgmma_n_variants; v++) {
        if (!lut_wgmma_accepts(dev, s, w, v))
            continue;
        const int most = lut_wgmma_most_cuts(dev, s, v, call->m);
        for (int cuts = call->scratch ? 0 : 1; cuts <= (call->scratch ? most : 1); cuts++) {
            if (cuts == 0 && (tiles_of(s, v, call->m) * 2 < dev->sm_count || tiles_of(s, v, call->m) % dev->sm_count == 0))
                continue; /* equal cuts, or none, are better */
            const double time = time_of(dev, s, v, call->m, cuts);
            if (best == 0 || time < best) {
                best = time;
                *out = {v, cuts, !map_suits(call)};
            }
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
        const int e = map_of(w, call, v->tokens, &map);
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
    a.y_vector = call->ldy % 8 == 0 && (uintptr_t)call->y % 16 == 0;
    for (int i = 0; i < 1 << w->bits; i++)
        a.table[i] = w->table[i];
    const int64_t strips = v->rows / 16;
    a.token_tiles = (int)((call->m + v->tokens - 1) / v->tokens);
    a.row_tiles = (int)((a.n_strips + strips - 1) / strips);
    const int cuts = call->scratch ? plan->cuts : 1;
    /* Where no tile is cut, as many row tiles as blocks if that spreads the strips of one round evenly. */
    if (cuts == 1 && a.token_tiles == 1 && a.row_tiles < dev->sm_count)
        a.row_tiles = dev->sm_count < a.n_strips ? dev->sm_count : a.n_strips;
    const int64_t tiles = (int64_t)a.row_tiles * a.token_tiles, parts = cuts ? tiles * cuts : tiles * a.n_bricks;
    const int blocks = parts < dev->sm_count ? (int)parts : dev->sm_count;
    if (tiles > INT32_MAX || (cuts > 1 && parts > blocks))
        return (int)cudaErrorNotSupported;
    if (cuts != 1) {
        a.shared_tiles = cuts ? (int)tiles : (int)tiles_shared(tiles, blocks);
        a.done = (unsigned *)call->scratch;
        a.parts = (float4 *)((char *)call->scratch + counter_bytes);
    }
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attrs[1] = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3((unsigned)(v->rows * 2 + 128));
    config.dynamicSmemBytes = end - 1024;
    config.stream = (cudaStream_t)call->stream;
    config.attrs = attrs;
    if (call->overlap) {
        attrs[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attrs[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs++;
    }
    return launchers[s->slot_bits == 8 ? 3 : s->slot_bits - 2][w->bf16 != 0](a, map, plan->variant, s->parts, &config);
}
