/* bench_cuda_wgmma.cu - checks and times each variant of the kernels for many tokens, by name.

   usage: bench_cuda_wgmma [check] [time] [blas]...    runs each variant in a process of its own, so
                                                       that a trapped kernel costs only its own rows
          bench_cuda_wgmma variant V check|time        one variant, here
   words for both: bits B, group G, bf16, 70b, all (more tokens), only V; plain (x by hand), nosplit,
   reduced (small shapes, for compute-sanitizer; racecheck wants LUT_WARP_ARRIVALS, lut_wgmma_ops.cuh); raw FILE keeps every timing; one LAYER M SPLITS runs
   (with variant V time) just that product, for a profiler
   check   shapes, widths, groups, types against float64 sums on the device; one-hot inputs exact;
           repeats bit-identical; on an error the first wrong element and which column it came from
   time    the layers of an 8B or 70B block, group 128, 4 bits unless told otherwise: graphs of launches over rotated copies of the weights, median of replays; every split */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kern/cuda/lut_wgmma_plan.cuh"

#define CHECK(e)                                                                                  \
    do {                                                                                          \
        const int code_ = (int)(e);                                                               \
        if (code_) {                                                                              \
            printf("ERROR %s:%d: %s: %d %s\n", __FILE__, __LINE__, #e, code_,                     \
                   cudaGetErrorString((cudaError_t)code_));                                       \
            fflush(stdout);                                                                       \
            _exit(3);                                                                             \
        }                                                                                         \
    } while (0)

static lu_cuda_device device;
static void *scratch;
static uint64_t seed = 1;
static int skipped, plain_only, no_split, reduced;

__device__ static uint32_t mix(uint64_t v)
{
    v = (v ^ v >> 31) * 0x9e3779b97f4a7c15ull;
    v = (v ^ v >> 29) * 0xbf58476d1ce4e5b9ull;
    return (uint32_t)(v ^ v >> 32);
}

__device__ static uint16_t bits_of(float v, int bf16)
{
    if (bf16) {
        const __nv_bfloat16 b = __float2bfloat16_rn(v);
        return *(const uint16_t *)&b;
    }
    const __half h = __float2half_rn(v);
    return *(const uint16_t *)&h;
}

__host__ __device__ static float value_of(uint16_t v, int bf16)
{
    return bf16 ? __bfloat162float(*(const __nv_bfloat16 *)&v) : __half2float(*(const __half *)&v);
}

__global__ void fill_bytes(uint8_t *p, int64_t n, int64_t row, uint8_t last_mask, uint8_t mask, uint64_t s)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        p[i] = (uint8_t)mix(i + s * 0x10001) & mask & (i % row == row - 1 ? last_mask : 0xff);
}

/* exact: powers of two */
__global__ void fill_scales(uint16_t *p, int64_t n, int exact, uint64_t s)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const uint32_t r = mix(i + s * 0x20003);
        p[i] = bits_of(exact ? exp2f((float)(r % 5) - 2) : 0.02f + 0.05f * (r >> 8) / 16777216.0f, 0);
    }
}

/* one_hot: row i has a one in column hot(i); else normal. Columns from k on are NaN. */
__host__ __device__ static int hot_column(int64_t i, int64_t k)
{
    return (int)(i * 37 % k);
}

__global__ void fill_x(uint16_t *p, int64_t m, int64_t k, int64_t ld, int one_hot, int bf16, uint64_t s)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < m * ld; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / ld, c = i % ld;
        const float u = (mix(2 * i + s) >> 8) / 16777216.0f + 1e-7f, v = (mix(2 * i + 1 + s) >> 8) / 16777216.0f;
        p[i] = c >= k ? 0x7fff : bits_of(one_hot ? (c == hot_column(r, k)) : sqrtf(-2 * logf(u)) * cospif(2 * v), bf16);
    }
}

__device__ static int code_at(const uint8_t *row, int64_t c, int bits)
{
    const int64_t bit = c * bits;
    unsigned v = row[bit >> 3];
    if ((bit & 7) + bits > 8)
        v |= (unsigned)row[(bit >> 3) + 1] << 8;
    return v >> (bit & 7) & ((1u << bits) - 1);
}

struct tables {
    uint16_t of[256], zero[256];
};

/* Dequantized weights, float. */
__global__ void plain_weights(float *w, int64_t n, int64_t k, int bits, int64_t group, const uint8_t *codes,
                              const uint16_t *scales, const uint8_t *zeros, tables t, int bf16)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n * k; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t r = i / k, c = i % k, g = r * (k / group) + c / group;
        const float z = zeros ? value_of(t.zero[zeros[g]], 0) : 0;
        w[i] = value_of(scales[g], 0) * (value_of(t.of[code_at(codes + r * ((k * bits + 7) / 8), c, bits)], bf16) - z);
    }
}

__global__ void reference(double *y, const float *w, const uint16_t *x, const uint16_t *bias, int64_t m, int64_t n,
                          int64_t k, int64_t ld, int bf16)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= m * n)
        return;
    const int64_t t = i / n, r = i % n;
    double s = bias ? value_of(bias[r], bf16) : 0;
    for (int64_t c = 0; c < k; c++)
        s += (double)w[r * k + c] * value_of(x[t * ld + c], bf16);
    y[i] = s;
}

struct test {
    int64_t n, k, group; /* group 0: the whole row */
    int bits, zeros, bf16;
    int64_t m, pad, pad_y;
    int one_hot, splits, plain_x, bias;
};

static bool check_one(int variant, const test &v, bool quiet)
{
    const int64_t n = v.n, k = v.k, m = v.m, ldx = k + v.pad, ldy = n + v.pad_y, group = v.group ? v.group : k;
    const int64_t row = (k * v.bits + 7) / 8, groups = k / group;
    const uint8_t last = (uint8_t)(k * v.bits % 8 ? (1 << k * v.bits % 8) - 1 : 0xff);
    seed += 1000;
    uint8_t *codes, *zeros = NULL;
    uint16_t *scales, *x, *y, *bias = NULL;
    float *plain;
    double *ref;
    void *block;
    lu_cuda_lut lut;
    tables t;
    float table[256];
    for (int i = 0; i < 1 << v.bits; i++) {
        table[i] = v.one_hot ? (float)(i - (1 << (v.bits - 1))) / 64
                             : (float)(i - (1 << (v.bits - 1)) + (i & 1 ? 0.1f : 0)) / (1 << (v.bits - 1));
        const __half h = __float2half_rn(table[i]);
        const __nv_bfloat16 b = __float2bfloat16_rn(table[i]);
        memcpy(&t.of[i], v.bf16 ? (const void *)&b : (const void *)&h, 2);
        memcpy(&t.zero[i], &h, 2);
    }
    const int64_t margin = 512, y_size = m * ldy + 2 * margin;
    CHECK(cudaMalloc(&codes, n * row));
    CHECK(cudaMalloc(&scales, n * groups * 2));
    CHECK(cudaMalloc(&x, m * ldx * 2));
    CHECK(cudaMalloc(&y, y_size * 2));
    CHECK(cudaMalloc(&plain, n * k * 4));
    CHECK(cudaMalloc(&ref, m * n * 8));
    fill_bytes<<<256, 256>>>(codes, n * row, row, last, 0xff, seed);
    fill_scales<<<256, 256>>>(scales, n * groups, v.one_hot, seed + 1);
    fill_x<<<256, 256>>>(x, m, k, ldx, v.one_hot, v.bf16, seed + 2);
    if (v.zeros) {
        CHECK(cudaMalloc(&zeros, n * groups));
        fill_bytes<<<256, 256>>>(zeros, n * groups, 1, 0xff, (uint8_t)((1 << v.bits) - 1), seed + 3);
    }
    if (v.bias) {
        CHECK(cudaMalloc(&bias, n * 2));
        fill_x<<<64, 256>>>(bias, 1, n, n, 0, v.bf16, seed + 4);
    }
    const size_t bytes = lu_cuda_lut_bytes(n, k, v.bits, group, v.zeros);
    CHECK(cudaMalloc(&block, bytes));
    CHECK(cudaMemset(block, 0xff, bytes));
    CHECK(lu_cuda_lut_pack(n, k, v.bits, group, codes, scales, zeros, table, v.bf16, block, &lut, 0));
    plain_weights<<<512, 256>>>(plain, n, k, v.bits, group, codes, scales, zeros, t, v.bf16);
    reference<<<(unsigned)((m * n + 127) / 128), 128>>>(ref, plain, x, bias, m, n, k, ldx, v.bf16);
    CHECK(cudaDeviceSynchronize());
    const lut_shape s = lut_make_shape(n, k, v.bits, group);
    const lut_wgmma_plan plan = {variant, v.splits > 2 ? 0 : std::min(v.splits, lut_wgmma_most_cuts(&device, &s, variant, m)),
                                 v.plain_x || plain_only};
    if (!lut_wgmma_accepts(&device, &s, &lut, variant)) {
        printf("  not accepted: n %ld k %ld group %ld bits %d zeros %d splits %d\n", n, k, v.group, v.bits, v.zeros, v.splits);
        skipped++;
        return true;
    }
    std::vector<uint16_t> got((size_t)y_size), again((size_t)y_size);
    bool same = true;
    for (int rep = 0; rep < 4; rep++) {
        const lu_cuda_lut_call call = {m, x, ldx, y + margin, ldy, bias, rep > 0, 0, scratch};
        if (rep < 2)
            CHECK(cudaMemset(y, 0xff, y_size * 2));
        const int e = lut_wgmma_run(&device, &s, &lut, &call, &plan);
        const int f = e ? e : (int)cudaDeviceSynchronize();
        if (f) {
            printf("  ERROR %d %s%s: n %ld k %ld group %ld bits %d zeros %d bf16 %d m %ld pad %ld splits %d plain_x %d\n", f,
                   cudaGetErrorString((cudaError_t)f), e ? " (launch)" : "", n, k, v.group, v.bits, v.zeros, v.bf16, m, v.pad,
                   v.splits, v.plain_x);
            fflush(stdout);
            _exit(3);
        }
        CHECK(cudaMemcpy(rep ? again.data() : got.data(), y, y_size * 2, cudaMemcpyDeviceToHost));
        same = same && (!rep || got == again);
    }
    std::vector<double> want((size_t)(m * n));
    CHECK(cudaMemcpy(want.data(), ref, want.size() * 8, cudaMemcpyDeviceToHost));
    double num = 0, den = 0, worst = 0;
    int64_t wrong = 0, first = -1, worst_at = 0;
    bool inside = true;
    for (int64_t i = 0; i < margin; i++)
        inside = inside && got[(size_t)i] == 0xffff && got[(size_t)(y_size - 1 - i)] == 0xffff;
    double typical = 0;
    for (double d : want)
        typical += d * d;
    typical = sqrt(typical / (double)want.size());
    for (int64_t i = 0; i < m * n; i++) {
        const double w = want[(size_t)i], d = value_of(got[(size_t)(margin + i / n * ldy + i % n)], v.bf16) - w;
        const bool bad = v.one_hot ? d != 0 : !(fabs(d) <= 0.02 * typical + 0.02 * fabs(w));
        if (bad && first < 0)
            first = i;
        wrong += bad;
        num += d * d;
        den += w * w;
        if (!(fabs(d) <= worst)) {
            worst = fabs(d);
            worst_at = i;
        }
    }
    const double rel = sqrt(num / (den > 0 ? den : 1));
    const bool ok = rel <= (v.bf16 ? 3e-3 : 5e-4) && same && inside && !(v.one_hot && wrong);
    if (!ok && !quiet) {
        printf("  FAIL n %ld k %ld group %ld bits %d zeros %d bf16 %d m %ld pad %ld/%ld hot %d splits %d plain_x %d bias %d: rel %.3g "
               "wrong %ld of %ld, first (token %ld row %ld), worst %.3g at (token %ld row %ld) want %.4g, %s%s\n",
               n, k, v.group, v.bits, v.zeros, v.bf16, m, v.pad, v.pad_y, v.one_hot, v.splits, v.plain_x, v.bias, rel, wrong,
               m * n, first < 0 ? -1 : first / n, first < 0 ? -1 : first % n, worst, worst_at / n, worst_at % n,
               want[(size_t)worst_at], same ? "" : "NOT REPEATABLE ", inside ? "" : "MARGIN WRITTEN");
        if (wrong) { /* which rows and tokens are wrong, coarsely */
            std::vector<int> by_row(16), by_token(16), by_warp(16), by_block(8);
            for (int64_t i = 0; i < m * n; i++) {
                const double w = want[(size_t)i], d = value_of(got[(size_t)(margin + i / n * ldy + i % n)], v.bf16) - w;
                if (v.one_hot ? d != 0 : !(fabs(d) <= 0.02 * typical + 0.02 * fabs(w))) {
                    by_row[i % n % 16]++;
                    by_warp[i % n / 16 % 16]++;
                    by_token[i / n % 16]++;
                    by_block[i / n / 32 % 8]++;
                }
            }
            printf("    wrong by row%%16:");
            for (int c : by_row)
                printf(" %d", c);
            printf(" | strip%%16:");
            for (int c : by_warp)
                printf(" %d", c);
            printf(" | token%%16:");
            for (int c : by_token)
                printf(" %d", c);
            printf(" | token/32%%8:");
            for (int c : by_block)
                printf(" %d", c);
            printf("\n");
        }
        if (v.one_hot && wrong && k <= 1024) { /* which column did each token take? */
            std::vector<float> w((size_t)(n * k));
            CHECK(cudaMemcpy(w.data(), plain, w.size() * 4, cudaMemcpyDeviceToHost));
            printf("    column wanted>taken (rows 0..15 | rows 16..31):");
            for (int64_t i = 0; i < std::min<int64_t>(m, 24); i++) {
                printf(" %d>", hot_column(i, k));
                for (int half = 0; half < 2; half++) {
                    int64_t found = -1;
                    for (int64_t c = 0; c < k && found < 0; c++) {
                        bool all = true;
                        for (int64_t r = half * 16; r < half * 16 + 16 && r < n && all; r++)
                            all = value_of(got[(size_t)(margin + i * ldy + r)], v.bf16) == w[(size_t)(r * k + c)];
                        found = all ? c : -1;
                    }
                    printf(half ? "|%ld" : "%ld", found);
                }
            }
            printf("\n    token 0, rows 0..31 got:");
            for (int64_t r = 0; r < std::min<int64_t>(n, 32); r++)
                printf(" %g", value_of(got[(size_t)(margin + r)], v.bf16));
            printf("\n    token 0, rows 0..31 want:");
            for (int64_t r = 0; r < std::min<int64_t>(n, 32); r++)
                printf(" %g", want[(size_t)r]);
            printf("\n");
        }
    }
    cudaFree(codes);
    cudaFree(zeros);
    cudaFree(scales);
    cudaFree(x);
    cudaFree(y);
    cudaFree(bias);
    cudaFree(plain);
    cudaFree(ref);
    cudaFree(block);
    return ok;
}

static int check_variant(int v)
{
    const lut_wgmma_variant *is = &lut_wgmma_variants[v];
    const int64_t t = is->tokens, r = is->rows;
    std::vector<test> tests = {
        {256, 256, 0, 4, 0, 0, t, 0, 0, 1, 1, 1, 0}, /* the simplest: no tensor map, one brick or two */
        {256, 256, 0, 4, 0, 0, t, 0, 0, 1, 1, 0, 0},
        {256, 256, 128, 4, 0, 0, t, 0, 0, 1, 2, 0, 0},
        {512, 1024, 128, 4, 0, 0, t, 0, 0, 0, 1, 1, 0},
        {512, 1024, 128, 4, 0, 0, t, 0, 0, 0, 1, 0, 1},
        {512, 1024, 128, 4, 0, 0, t - 7, 8, 8, 0, 2, 0, 1},
        {512, 1024, 128, 4, 0, 0, t, 0, 0, 0, 4, 0, 1},
        {512, 1024, 128, 4, 0, 0, t, 0, 0, 0, 8, 0, 1},
        {512, 1024, 128, 4, 0, 1, t, 0, 0, 0, 1, 0, 1},
        {512, 1024, 128, 2, 0, 0, t, 0, 0, 1, 1, 0, 0},
        {512, 1024, 128, 3, 0, 0, t, 0, 0, 1, 1, 0, 0},
        {512, 1024, 128, 2, 0, 0, t, 0, 0, 0, 1, 0, 1},
        {512, 1024, 128, 3, 0, 0, t, 0, 0, 0, 4, 0, 1},
        {512, 1024, 64, 4, 0, 0, t, 0, 0, 0, 1, 0, 0},
        {512, 1024, 64, 3, 0, 1, t, 0, 0, 0, 2, 0, 0},
        {512, 1024, 256, 4, 0, 0, t, 0, 0, 0, 1, 0, 0},
        {512, 1024, 0, 4, 0, 0, t, 0, 0, 0, 1, 0, 0},
        {77, 640, 64, 4, 0, 0, 17, 0, 1, 0, 1, 0, 1},   /* odd rows, rows of y off 16 bytes */
        {77, 640, 128, 3, 0, 1, 33, 8, 3, 0, 2, 0, 1},
        {r + 16, 100, 0, 4, 0, 0, 19, 4, 0, 0, 1, 0, 1},  /* k no multiple of 8, rows of x padded to one */
        {r - 8, 331, 0, 4, 0, 0, t + 1, 0, 0, 0, 1, 1, 1}, /* rows of x off 16 bytes */
        {5000, 4992, 128, 4, 0, 0, std::min<int64_t>(t, 65), 0, 0, 0, 1, 0, 0},
        {r * 150, 512, 128, 4, 0, 0, t + 5, 0, 0, 0, 1, 0, 1}, /* several tiles a block */
        {r * 3 + 16, 1024, 128, 4, 0, 1, 3 * t + 9, 0, 0, 0, 2, 0, 1},
        {28672, 256, 128, 4, 0, 0, 100, 0, 0, 0, 1, 0, 0},
        {4096, 4096, 128, 4, 0, 0, t, 0, 0, 0, 4, 0, 0},
        {4096, 2048, 64, 2, 0, 1, t, 0, 0, 0, 4, 0, 0},
    };
    if (is->general) {
        for (int bits = 2; bits <= 8; bits++) {
            tests.push_back({192, 512, 32, bits, 0, 0, 40, 0, 0, 0, 1, 0, 0});
            tests.push_back({192, 512, 32, bits, 1, 0, 40, 0, 0, 1, 1, 0, 0});
            tests.push_back({192, 512, 64, bits, 1, 1, 40, 0, 0, 0, 2, 0, 1});
            tests.push_back({192, 512, 128, bits, 1, 0, 40, 0, 0, 0, 1, 0, 1});
            tests.push_back({192, 512, 0, bits, 1, 1, t, 0, 0, 1, 1, 0, 0});
            tests.push_back({200, 512, 128, bits, 0, 0, t + 2, 0, 0, 0, 1, 1, 0});
        }
    }
    int bad = 0, shown = 0;
    for (auto &c : tests) {
        if ((c.splits != 1 && no_split) || (reduced && (c.n * c.k > 300000 || c.m > 300)))
            continue;
        const bool ok = check_one(v, c, shown >= 6);
        shown += !ok;
        bad += !ok;
        fflush(stdout);
    }
    printf("check %d %s%s: %d of %d passed, %d not accepted\n", v, is->name, plain_only ? " (x by hand)" : "",
           (int)tests.size() - bad - skipped, (int)tests.size(), skipped);
    return bad;
}

/* Median microseconds of one launch: `launches` calls in a graph, replayed. */
template <class F> static double time_graph(F launch, int launches, int replays)
{
    cudaStream_t st;
    CHECK(cudaStreamCreate(&st));
    launch(0, st);
    CHECK(cudaStreamSynchronize(st));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; i++)
        launch(i, st);
    CHECK(cudaStreamEndCapture(st, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b;
    cudaEventCreate(&a);
    cudaEventCreate(&b);
    std::vector<double> t;
    for (int i = 0; i < replays + 1; i++) {
        cudaEventRecord(a, st);
        CHECK(cudaGraphLaunch(exec, st));
        cudaEventRecord(b, st);
        CHECK(cudaEventSynchronize(b));
        float ms;
        cudaEventElapsedTime(&ms, a, b);
        if (i)
            t.push_back(ms * 1000.0 / launches);
    }
    std::sort(t.begin(), t.end());
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    cudaStreamDestroy(st);
    return t[t.size() / 2];
}

struct layer {
    const char *name;
    int64_t n, k;
};
static const layer models[2][4] = {
    {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}},
    {{"qkv", 10240, 8192}, {"o", 8192, 8192}, {"gate_up", 57344, 8192}, {"down", 8192, 28672}}};

/* What the words after "variant V time" ask for. */
struct request {
    int model, bits, bf16;
    int64_t group;
    bool quick;
    int64_t layer, m, splits; /* "one": nothing but this, for a profiler; m 0: everything */
};

static int launches_for(int64_t m, int copies)
{
    return std::max(copies, m <= 128 ? 12 : m <= 1024 ? 4 : 2);
}

static const int64_t token_counts[] = {17, 32, 64, 128, 256, 512, 1024, 2048, 4096};

/* Lines "T model m variant layer splits us" for the parent. */
static void time_variant(int v, const request &q)
{
    const lut_wgmma_variant *is = &lut_wgmma_variants[v];
    float table[256];
    for (int i = 0; i < 1 << q.bits; i++)
        table[i] = (float)(i - (1 << (q.bits - 1)) + (i & 1 ? 0.1f : 0)) / (1 << (q.bits - 1));
    for (int l = 0; l < 4; l++) {
        if (q.m && q.layer != l)
            continue;
        const layer &is_layer = models[q.model][l];
        const int64_t n = is_layer.n, k = is_layer.k, row = (k * q.bits + 7) / 8, m_max = 4096;
        const size_t bytes = lu_cuda_lut_bytes(n, k, q.bits, q.group, 0), step = (bytes + 255) / 256 * 256;
        const int copies = (int)std::max<size_t>(2, (size_t)200e6 / step + 1);
        uint8_t *codes;
        uint16_t *scales, *x, *y;
        char *blocks;
        CHECK(cudaMalloc(&codes, n * row));
        CHECK(cudaMalloc(&scales, n * (k / q.group) * 2));
        CHECK(cudaMalloc(&x, m_max * k * 2));
        CHECK(cudaMalloc(&y, m_max * n * 2));
        CHECK(cudaMalloc(&blocks, step * copies));
        fill_bytes<<<1024, 256>>>(codes, n * row, row, 0xff, 0xff, 5);
        fill_scales<<<256, 256>>>(scales, n * (k / q.group), 0, 6);
        fill_x<<<1024, 256>>>(x, m_max, k, k, 0, q.bf16, 7);
        std::vector<lu_cuda_lut> luts(copies);
        for (int i = 0; i < copies; i++)
            CHECK(lu_cuda_lut_pack(n, k, q.bits, q.group, codes, scales, NULL, table, q.bf16, blocks + step * i, &luts[i], 0));
        CHECK(cudaDeviceSynchronize());
        const lut_shape s = lut_make_shape(n, k, q.bits, q.group);
        if (q.m) {
            const lut_wgmma_plan plan = {v, (int)q.splits, 0};
            for (int i = 0; i < 3; i++) {
                const lu_cuda_lut_call call = {q.m, x, k, y, n, NULL, 1, 0, scratch};
                CHECK(lut_wgmma_run(&device, &s, &luts[i % copies], &call, &plan));
            }
            CHECK(cudaDeviceSynchronize());
            return;
        }
        for (int64_t m : token_counts) {
            if (is->tokens > 4 * m || m > (is->tokens <= 64 ? 4 : 64) * is->tokens || (q.quick && m == 2048))
                continue;
            for (int splits = 0; splits <= (no_split ? 1 : lut_wgmma_most_cuts(&device, &s, v, m)); splits++) {
                if (!lut_wgmma_accepts(&device, &s, &luts[0], v))
                    continue;
                const lut_wgmma_plan plan = {v, splits, plain_only};
                const double us = time_graph([&](int i, cudaStream_t st) {
                    const lu_cuda_lut_call call = {m, x, k, y, n, NULL, 1, st, scratch};
                    CHECK(lut_wgmma_run(&device, &s, &luts[i % copies], &call, &plan));
                }, launches_for(m, copies), m <= 1024 ? 7 : 3);
                printf("T %d %ld %d %d %d %.2f\n", q.model, m, v, l, splits, us);
                fflush(stdout);
            }
        }
        cudaFree(codes);
        cudaFree(scales);
        cudaFree(x);
        cudaFree(y);
        cudaFree(blocks);
    }
}

static void time_blas(const request &q)
{
    cublasHandle_t cb;
    CHECK(cublasCreate(&cb));
    void *ws;
    CHECK(cudaMalloc(&ws, 32 << 20));
    CHECK(cublasSetWorkspace(cb, ws, 32 << 20));
    const float one = 1, zero = 0;
    for (int l = 0; l < 4; l++) {
        const int64_t n = models[q.model][l].n, k = models[q.model][l].k;
        const int copies = (int)std::max<size_t>(2, (size_t)200e6 / (size_t)(n * k * 2) + 1);
        uint16_t *w, *x, *y;
        CHECK(cudaMalloc(&w, n * k * 2 * copies));
        CHECK(cudaMalloc(&x, 4096 * k * 2));
        CHECK(cudaMalloc(&y, 4096 * n * 2));
        fill_x<<<1024, 256>>>(w, n * copies, k, k, 0, 0, 8);
        fill_x<<<1024, 256>>>(x, 4096, k, k, 0, 0, 9);
        CHECK(cudaDeviceSynchronize());
        for (int64_t m : token_counts) {
            if (q.quick && m == 2048)
                continue;
            const double us = time_graph([&](int i, cudaStream_t st) {
                CHECK(cublasSetStream(cb, st));
                CHECK(cublasGemmEx(cb, CUBLAS_OP_T, CUBLAS_OP_N, (int)n, (int)m, (int)k, &one, w + n * k * (i % copies),
                                   CUDA_R_16F, (int)k, x, CUDA_R_16F, (int)k, &zero, y, CUDA_R_16F, (int)n,
                                   CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
            }, launches_for(m, copies), m <= 1024 ? 7 : 3);
            printf("T %d %ld -1 %d 1 %.2f\n", q.model, m, l, us);
            fflush(stdout);
        }
        cudaFree(w);
        cudaFree(x);
        cudaFree(y);
    }
}

static FILE *raw; /* every timing, as the children wrote it */

typedef std::map<std::pair<int64_t, int>, std::vector<std::pair<double, std::pair<int, int>>>> results; /* (m, layer) */

/* Runs this program with `words`, passing its lines on; timings go to `into`. */
static int child(const char *self, const std::vector<std::string> &words, results *into, int seconds)
{
    int ends[2];
    if (pipe(ends))
        return 1;
    const pid_t pid = fork();
    if (pid == 0) {
        std::vector<char *> argv = {(char *)self};
        for (auto &w : words)
            argv.push_back((char *)w.c_str());
        argv.push_back(NULL);
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        close(ends[0]);
        alarm((unsigned)seconds); /* kept across exec: a hang ends there */
        execv("/proc/self/exe", argv.data());
        _exit(127);
    }
    close(ends[1]);
    FILE *f = fdopen(ends[0], "r");
    char line[8192];
    while (fgets(line, sizeof line, f)) {
        int model, v, l, splits;
        long m;
        double us;
        if (sscanf(line, "T %d %ld %d %d %d %lf", &model, &m, &v, &l, &splits, &us) == 6) {
            (*into)[{m, l}].push_back({us, {v, splits}});
            if (raw)
                fputs(line, raw);
        }
        else
            fputs(line, stdout);
        if (raw)
            fflush(raw);
    }
    fclose(f);
    int status;
    waitpid(pid, &status, 0);
    if (status)
        printf("  child %s %s %s ended with %s %d\n", words[0].c_str(), words.size() > 1 ? words[1].c_str() : "",
               words.size() > 2 ? words[2].c_str() : "", WIFSIGNALED(status) ? "signal" : "status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    fflush(stdout);
    return status;
}

static void print_results(results &r)
{
    auto label = [](int v) { return v < 0 ? "cuBLAS fp16" : lut_wgmma_variants[v].name; };
    printf("us per product: best split of each variant (xS); sum of the four layers\n"
           "| M | variant | qkv | o | gate_up | down | sum |\n|---|---|---|---|---|---|---|\n");
    for (int64_t m : token_counts) {
        for (int v = -1; v <= lut_wgmma_n_variants; v++) { /* the last: best of all for each layer */
            double sum = 0;
            char text[512];
            int at = 0, layers = 0;
            for (int l = 0; l < 4; l++) {
                double best = 0;
                std::pair<int, int> how;
                for (auto &e : r[{m, l}])
                    if ((v == lut_wgmma_n_variants ? e.second.first >= 0 : e.second.first == v) && (best == 0 || e.first < best)) {
                        best = e.first;
                        how = e.second;
                    }
                layers += best > 0;
                sum += best;
                if (v == lut_wgmma_n_variants)
                    at += snprintf(text + at, sizeof text - at, " %.1f v%dx%d |", best, how.first, how.second);
                else
                    at += snprintf(text + at, sizeof text - at, " %.1f x%d |", best, how.second);
            }
            if (layers)
                printf("| %ld | %s |%s %.1f%s |\n", m, v == lut_wgmma_n_variants ? "BEST" : label(v), text, sum,
                       layers < 4 ? " (part)" : "");
        }
    }
}

int main(int argc, char **argv)
{
    request q = {0, 4, 0, 128, true, 0, 0, 1};
    int one = -1, bad = 0;
    bool check = false, time = false, blas = false;
    std::vector<std::string> passed; /* for children */
    std::vector<int> only;
    for (int i = 1; i < argc; i++) {
        const std::string w = argv[i];
        if (w == "variant" && i + 1 < argc)
            one = atoi(argv[++i]);
        else if (w == "one" && i + 3 < argc) {
            q.layer = atoi(argv[++i]);
            q.m = atoi(argv[++i]);
            q.splits = atoi(argv[++i]);
        } else if (w == "raw" && i + 1 < argc)
            raw = fopen(argv[++i], "w");
        else if (w == "only" && i + 1 < argc)
            only.push_back(atoi(argv[++i]));
        else if (w == "check")
            check = true;
        else if (w == "time")
            time = true;
        else if (w == "blas")
            blas = true;
        else {
            passed.push_back(w);
            if (w == "70b")
                q.model = 1;
            else if (w == "bf16")
                q.bf16 = 1;
            else if (w == "plain")
                plain_only = 1;
            else if (w == "reduced")
                reduced = 1;
            else if (w == "nosplit")
                no_split = 1;
            else if (w == "all")
                q.quick = false;
            else if ((w == "bits" || w == "group") && i + 1 < argc) {
                (w == "bits" ? (void)(q.bits = atoi(argv[i + 1])) : (void)(q.group = atoi(argv[i + 1])));
                passed.push_back(argv[++i]);
            } else {
                fprintf(stderr, "unknown word %s\n", argv[i]);
                return 2;
            }
        }
    }
    if (one >= 0) {
        CHECK(lu_cuda_device_get(0, &device));
        CHECK(cudaMalloc(&scratch, lu_cuda_lut_scratch(&device)));
        CHECK(cudaMemset(scratch, 0, lu_cuda_lut_scratch(&device)));
        if (check)
            bad += check_variant(one);
        if (time)
            time_variant(one, q);
        return bad != 0;
    }
    results r;
    auto chosen = [&](int v) { return only.empty() || std::find(only.begin(), only.end(), v) != only.end(); };
    if (getenv("LUT_BENCH_BLAS_CHILD")) {
        time_blas(q);
        return 0;
    }
    for (int v = 0; v < lut_wgmma_n_variants && (check || time); v++) {
        if (!chosen(v))
            continue;
        std::vector<std::string> words = {"variant", std::to_string(v)};
        if (check)
            words.push_back("check");
        if (time)
            words.push_back("time");
        words.insert(words.end(), passed.begin(), passed.end());
        int status = child(argv[0], words, &r, 40);
        const char *less[] = {"nosplit", "plain"};
        for (int i = 0; i < 2 && status && !(WIFEXITED(status) && WEXITSTATUS(status) == 1); i++) { /* it trapped or hung */
            words.push_back(less[i]);
            status = child(argv[0], words, &r, 20);
        }
        bad += status != 0;
    }
    if (blas) {
        setenv("LUT_BENCH_BLAS_CHILD", "1", 1);
        passed.push_back("all");
        bad += child(argv[0], passed, &r, 40) != 0;
    }
    if (time || blas)
        print_results(r);
    return bad != 0;
}
