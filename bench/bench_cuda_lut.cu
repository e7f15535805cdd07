/* bench_cuda_lut.cu - checks and times the GPU table-lookup products on model shapes.

   usage: bench_cuda_lut [check | reduced | alone | quick | time | one]...
   check    odd and even shapes, every width, group and type, against float64 sums of the exact
            operands; repeats must be bit-identical, one-hot inputs exact, planted faults noticed
   reduced  a small part of it, for compute-sanitizer
   quick, time   the four layers of an 8B and a 70B block, group 128: one CUDA graph of launches over
            rotated copies of the weights (cold in L2), median of replays; printed beside a kernel
            that only reads the same bytes, and cuBLAS fp16
   alone    before quick or time: launches may not overlap (no programmatic dependent launch)
   one      gate_up W4 M = 1 only, for a profiler */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kern/cuda/lut_matmul.h"

#define CHECK(e)                                                                                  \
    do {                                                                                          \
        const int code_ = (int)(e);                                                               \
        if (code_) {                                                                              \
            fprintf(stderr, "%s:%d: %s failed: %d %s\n", __FILE__, __LINE__, #e, code_,           \
                    cudaGetErrorString((cudaError_t)code_));                                      \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static uint64_t rng_state = 88172645463325252ull;
static uint64_t rng()
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    return rng_state ^= rng_state << 17;
}
static float uniform() { return (float)((rng() >> 40) / 16777216.0); }
static float normal() { return sqrtf(-2 * logf(uniform() + 1e-7f)) * cosf(6.2831853f * uniform()); }

static const float nf4[16] = {-1.0f, -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                              -0.09105004f, 0.0f, 0.0795803f, 0.1609302f, 0.2461123f, 0.33791524f,
                              0.44070983f, 0.562617f, 0.72295684f, 1.0f};

struct matrix {
    int64_t n, k, group;
    int bits, zeros, bf16;
    std::vector<uint8_t> codes;
    std::vector<uint16_t> scales;
    std::vector<uint8_t> zero_codes;
    std::vector<float> table;
    uint8_t *d_codes, *d_zeros;
    uint16_t *d_scales;
};

static float half_value(uint16_t h, int bf16)
{
    if (bf16) {
        __nv_bfloat16 b;
        memcpy(&b, &h, 2);
        return __bfloat162float(b);
    }
    __half f;
    memcpy(&f, &h, 2);
    return __half2float(f);
}
static uint16_t half_bits(float v, int bf16)
{
    uint16_t h;
    if (bf16) {
        const __nv_bfloat16 b = __float2bfloat16_rn(v);
        memcpy(&h, &b, 2);
    } else {
        const __half f = __float2half_rn(v);
        memcpy(&h, &f, 2);
    }
    return h;
}

static matrix make_matrix(int64_t n, int64_t k, int bits, int64_t group, int zeros, int bf16)
{
    matrix m = {};
    m.n = n; m.k = k; m.bits = bits; m.group = group ? group : k; m.zeros = zeros; m.bf16 = bf16;
    const size_t row = (size_t)(k * bits + 7) / 8, groups = (size_t)(k / m.group);
    m.codes.resize(row * (size_t)n);
    for (auto &c : m.codes)
        c = (uint8_t)rng();
    if ((k * bits) % 8) /* padding bits are zero */
        for (int64_t r = 0; r < n; r++)
            m.codes[(size_t)(r + 1) * row - 1] &= (uint8_t)((1 << (k * bits % 8)) - 1);
    m.scales.resize((size_t)n * groups);
    for (auto &s : m.scales)
        s = half_bits(0.02f + 0.05f * uniform(), 0);
    if (zeros) {
        m.zero_codes.resize((size_t)n * groups);
        for (auto &z : m.zero_codes)
            z = (uint8_t)(rng() & ((1 << bits) - 1));
    }
    m.table.resize((size_t)1 << bits);
    for (int i = 0; i < 1 << bits; i++)
        m.table[i] = bits == 4 ? nf4[i] : (float)(i - (1 << (bits - 1))) / (1 << (bits - 1)) + (i & 1 ? 0.01f : 0);
    CHECK(cudaMalloc(&m.d_codes, m.codes.size()));
    CHECK(cudaMemcpy(m.d_codes, m.codes.data(), m.codes.size(), cudaMemcpyHostToDevice));
    CHECK(cudaMalloc(&m.d_scales, m.scales.size() * 2));
    CHECK(cudaMemcpy(m.d_scales, m.scales.data(), m.scales.size() * 2, cudaMemcpyHostToDevice));
    if (zeros) {
        CHECK(cudaMalloc(&m.d_zeros, m.zero_codes.size()));
        CHECK(cudaMemcpy(m.d_zeros, m.zero_codes.data(), m.zero_codes.size(), cudaMemcpyHostToDevice));
    }
    return m;
}

static void free_matrix(matrix &m)
{
    cudaFree(m.d_codes);
    cudaFree(m.d_scales);
    if (m.d_zeros)
        cudaFree(m.d_zeros);
}

static int code_at(const matrix &m, int64_t r, int64_t c)
{
    const uint8_t *row = m.codes.data() + r * ((m.k * m.bits + 7) / 8);
    int v = 0;
    for (int b = 0; b < m.bits; b++) {
        const int64_t bit = c * m.bits + b;
        v |= (row[bit >> 3] >> (bit & 7) & 1) << b;
    }
    return v;
}

static lu_cuda_device device;
static int planted;         /* check_faults: which fault check_one makes */
static bool expect_failure;

static int multiply(const lu_cuda_lut &w, int64_t m, const uint16_t *x, int64_t ldx, uint16_t *y, const uint16_t *bias,
                    int overlap, cudaStream_t st)
{
    const lu_cuda_lut_call call = {m, x, ldx, y, w.n, bias, overlap, st};
    return lu_cuda_lut_matmul(&device, &w, &call);
}

struct variant {
    int64_t n, k, group; /* group 0: the whole row */
    int bits, zeros, bf16;
    int64_t m, pad; /* pad: extra elements between rows of x */
    int one_hot;    /* x selects columns, tables and scales are exact: results must be too */
};

static bool check_one(const variant &v)
{
    const int64_t n = v.n, k = v.k, m = v.m, ldx = k + v.pad;
    matrix w = make_matrix(n, k, v.bits, v.group, v.zeros, v.bf16);
    if (v.one_hot) { /* powers of two and small integers: every product and sum is exact */
        for (size_t i = 0; i < w.table.size(); i++)
            w.table[i] = (float)((int)i - (int)w.table.size() / 2) / 64;
        for (auto &s : w.scales)
            s = half_bits(ldexpf(1, (int)(rng() % 5) - 2), 0);
        CHECK(cudaMemcpy(w.d_scales, w.scales.data(), w.scales.size() * 2, cudaMemcpyHostToDevice));
    }
    void *block;
    lu_cuda_lut lut;
    const size_t bytes = lu_cuda_lut_bytes(n, k, v.bits, w.group, v.zeros);
    CHECK(cudaMalloc(&block, bytes));
    CHECK(cudaMemset(block, 0xff, bytes));
    CHECK(lu_cuda_lut_pack(n, k, v.bits, w.group, w.d_codes, w.d_scales, w.d_zeros, w.table.data(), v.bf16, block, &lut, 0));
    const size_t margin = 64; /* poisoned, must stay so */
    std::vector<uint16_t> x((size_t)(m * ldx) + 1, 0x7fff), y((size_t)(m * n) + 2 * margin), y2(y.size());
    std::vector<uint16_t> bias((size_t)n);
    for (auto &b : bias)
        b = half_bits(v.one_hot ? 0 : normal(), v.bf16);
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < k; c++)
            x[(size_t)(i * ldx + c)] = half_bits(v.one_hot ? 0 : normal(), v.bf16);
    if (v.one_hot)
        for (int64_t i = 0; i < m; i++)
            x[(size_t)(i * ldx) + rng() % (uint64_t)k] = half_bits(1, v.bf16);
    uint16_t *dx, *dy, *db;
    CHECK(cudaMalloc(&dx, x.size() * 2));
    CHECK(cudaMalloc(&dy, y.size() * 2));
    CHECK(cudaMalloc(&db, bias.size() * 2));
    CHECK(cudaMemcpy(dx, x.data(), x.size() * 2, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(db, bias.data(), bias.size() * 2, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(dy, 0xff, y.size() * 2)); /* NaN */
    if (planted == 1) /* one byte among the codes, one scale, one table entry */
        CHECK(cudaMemset((char *)lut.words + 1000, 0x5a, 16));
    else if (planted == 2)
        CHECK(cudaMemset(lut.scales + 100, 0x31, 2));
    else if (planted == 3)
        lut.table[3] ^= 0x40;
    CHECK(multiply(lut, m, dx, ldx, dy + margin, db, 0, 0));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(y.data(), dy, y.size() * 2, cudaMemcpyDeviceToHost));
    double num = 0, den = 0;
    bool exact = true, inside = true;
    for (size_t i = 0; i < margin; i++)
        inside = inside && y[i] == 0xffff && y[y.size() - 1 - i] == 0xffff;
    const int64_t groups = k / w.group;
    std::vector<float> row((size_t)k);
    for (int64_t r = 0; r < n; r++) {
        if (n > 600 && r % 37 && r < n - 70)
            continue; /* large shapes: a sample of rows and all of the tail */
        for (int64_t c = 0; c < k; c++) {
            const size_t g = (size_t)(r * groups + c / w.group);
            const float z = v.zeros ? half_value(half_bits(w.table[w.zero_codes[g]], 0), 0) : 0;
            const float t = half_value(half_bits(w.table[code_at(w, r, c)], v.bf16), v.bf16);
            row[(size_t)c] = half_value(w.scales[g], 0) * (t - z);
        }
        for (int64_t i = 0; i < m; i++) {
            double s = half_value(bias[(size_t)r], v.bf16);
            for (int64_t c = 0; c < k; c++)
                s += (double)row[(size_t)c] * half_value(x[(size_t)(i * ldx + c)], v.bf16);
            const double d = half_value(y[margin + (size_t)(i * n + r)], v.bf16) - s;
            exact = exact && (!v.one_hot || d == 0);
            num += d * d;
            den += s * s;
        }
    }
    const int repeats = n * k > 1000000 ? 20 : 5;
    for (int rep = 0; rep < repeats; rep++)
        CHECK(multiply(lut, m, dx, ldx, dy + margin, db, 1, 0));
    CHECK(cudaMemcpy(y2.data(), dy, y.size() * 2, cudaMemcpyDeviceToHost));
    const bool same = memcmp(y.data(), y2.data(), y.size() * 2) == 0;
    const double rel = sqrt(num / (den > 0 ? den : 1)), bound = v.bf16 ? 3e-3 : 5e-4;
    const bool ok = (m == 0 || rel <= bound) && same && exact && inside;
    if (!ok && !expect_failure)
        printf("FAIL n %ld k %ld bits %d group %ld zeros %d bf16 %d m %ld pad %ld one-hot %d: rel %.3g, repeat %s, margins %s\n",
               n, k, v.bits, w.group, v.zeros, v.bf16, m, v.pad, v.one_hot, rel, same ? "same" : "DIFFERS",
               inside ? "kept" : "WRITTEN");
    cudaFree(dx);
    cudaFree(dy);
    cudaFree(db);
    cudaFree(block);
    free_matrix(w);
    return ok;
}

static int check_all(bool reduced)
{
    int bad = 0, total = 0;
    static const int64_t shapes[][2] = {{1, 32}, {7, 64}, {64, 64}, {65, 128}, {127, 256}, {130, 96}, {257, 1024}, {33, 4128},
                                        {1000, 512}, {4096, 4096}, {3072, 3072}, {5000, 4992}, {512, 14336}};
    static const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130};
    auto run = [&](const variant &v) {
        total++;
        bad += !check_one(v);
    };
    for (int bits = 2; bits <= 8; bits++)
        for (auto &s : shapes)
            for (int64_t group : {32, 64, 128, 256, 0})
                for (int kind = 0; kind < 4; kind++) {
                    if (group && s[1] % group)
                        continue;
                    const bool large = s[0] * s[1] > 4000000;
                    if (large && (reduced || bits > 4 || (kind && group != 64)))
                        continue;
                    if (reduced && (kind == 1 || group > 64 || bits > 5))
                        continue;
                    run({s[0], s[1], group, bits, kind & 1, kind >> 1, ms[rng() % (large ? 17 : 24)], (int64_t)(rng() % 2 * 8), 0});
                }
    for (int bits = 2; bits <= 8; bits += reduced ? 3 : 1) { /* every M; exactness; odd x; odd groups */
        for (int64_t m : ms)
            if (!reduced || m % 4 == 1)
                for (int64_t group : {32, 64, 128})
                    run({77, 640, group, bits, (int)(m & 1), (int)(m >> 1 & 1), m, 0, (int)(group == 64)});
        for (int64_t m : {1, 9, 33}) {
            run({129, 384, 0, bits, 0, 0, m, 0, 1});
            run({129, 384, 128, bits, 1, 1, m, 3, 1}); /* rows of x off 16 bytes */
            run({48, 100, 0, bits, 0, 0, m, 0, 0});    /* k not a multiple of 8 */
            run({48, 331, 0, bits, 1, 1, m, 1, 0});
            run({50, 336, 48, bits, 0, 0, m, 0, 0}); /* groups the packed layout cannot hold */
            run({50, 336, 7, bits, 1, 1, m, 0, 0});
        }
        run({64, 128, 64, bits, 0, 0, 0, 0, 0});
    }
    printf("check: %d of %d passed\n", total - bad, total);
    return bad;
}

/* The checks must notice planted faults: a spoiled code word, scale or table entry. */
static int check_faults()
{
    int missed = 0;
    for (int fault = 1; fault <= 3; fault++) {
        planted = fault;
        expect_failure = true;
        missed += check_one({257, 1024, 128, 4, 0, 0, 3, 0, 0});
        planted = 0;
        expect_failure = false;
    }
    printf("planted faults: %d of 3 noticed\n", 3 - missed);
    return missed;
}

__global__ void read_only(const uint4 *p, int64_t n, unsigned *out)
{
    unsigned s = 0;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 a = p[i], b = p[i + step], c = p[i + 2 * step], d = p[i + 3 * step];
        s ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
    }
    for (; i < n; i += step)
        s ^= p[i].x ^ p[i].y ^ p[i].z ^ p[i].w;
    if (s == 0x12345677u)
        *out = s;
}

/* Median microseconds of one launch: `launches` calls in a graph, replayed. */
template <class F> static double time_graph(F launch, int launches)
{
    cudaStream_t st;
    CHECK(cudaStreamCreate(&st));
    for (int i = 0; i < 3; i++)
        launch(i, st);
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
    for (int i = 0; i < 15; i++) {
        cudaEventRecord(a, st);
        CHECK(cudaGraphLaunch(exec, st));
        cudaEventRecord(b, st);
        CHECK(cudaEventSynchronize(b));
        float ms;
        cudaEventElapsedTime(&ms, a, b);
        if (i >= 3)
            t.push_back(ms * 1000.0 / launches);
    }
    std::sort(t.begin(), t.end());
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(st);
    return t[t.size() / 2];
}

struct layer {
    const char *name;
    int64_t n, k;
};

static int overlap = 1; /* as in a model step: weights are at rest */

static double time_lut(const layer &l, int bits, int64_t group, int64_t m, int bf16, double *roof, double *pack_gbs)
{
    matrix w = make_matrix(l.n, l.k, bits, group, 0, bf16);
    const size_t bytes = lu_cuda_lut_bytes(l.n, l.k, bits, group, 0), step = (bytes + 255) / 256 * 256;
    const int copies = (int)std::max<size_t>(2, (size_t)300e6 / step + 1);
    char *blocks;
    CHECK(cudaMalloc(&blocks, step * copies));
    std::vector<lu_cuda_lut> luts(copies);
    for (int i = 0; i < copies; i++)
        CHECK(lu_cuda_lut_pack(l.n, l.k, bits, group, w.d_codes, w.d_scales, NULL, w.table.data(), bf16,
                               blocks + step * i, &luts[i], 0));
    CHECK(cudaDeviceSynchronize());
    if (pack_gbs) {
        lu_cuda_lut tmp;
        const double us = time_graph([&](int i, cudaStream_t st) {
            CHECK(lu_cuda_lut_pack(l.n, l.k, bits, group, w.d_codes, w.d_scales, NULL, w.table.data(), bf16,
                                   blocks + step * (i % copies), &tmp, st));
        }, 10);
        *pack_gbs = (double)w.codes.size() / us / 1e3;
    }
    uint16_t *x, *y;
    CHECK(cudaMalloc(&x, (size_t)(m * l.k * 2)));
    CHECK(cudaMalloc(&y, (size_t)(m * l.n * 2)));
    std::vector<uint16_t> hx((size_t)(m * l.k));
    for (auto &v : hx)
        v = half_bits(normal(), bf16);
    CHECK(cudaMemcpy(x, hx.data(), hx.size() * 2, cudaMemcpyHostToDevice));
    const int launches = std::max(copies, 20);
    const double us = time_graph([&](int i, cudaStream_t st) {
        CHECK(multiply(luts[i % copies], m, x, l.k, y, NULL, overlap, st));
    }, launches);
    if (roof)
        *roof = time_graph([&](int i, cudaStream_t st) {
            read_only<<<device.sm_count * 2, 1024, 0, st>>>((const uint4 *)(blocks + step * (i % copies)), (int64_t)bytes / 16, (unsigned *)y);
        }, launches);
    cudaFree(x);
    cudaFree(y);
    cudaFree(blocks);
    free_matrix(w);
    return us;
}

static double time_cublas(const layer &l, int64_t m)
{
    const size_t bytes = (size_t)(l.n * l.k * 2);
    const int copies = (int)std::max<size_t>(2, (size_t)300e6 / bytes + 1);
    __half *w, *x, *y;
    CHECK(cudaMalloc(&w, bytes * copies));
    CHECK(cudaMalloc(&x, (size_t)(m * l.k * 2)));
    CHECK(cudaMalloc(&y, (size_t)(m * l.n * 2)));
    std::vector<uint16_t> h((size_t)(l.n * l.k));
    for (auto &v : h)
        v = half_bits(normal(), 0);
    for (int i = 0; i < copies; i++)
        CHECK(cudaMemcpy((char *)w + bytes * i, h.data(), bytes, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(x, h.data(), (size_t)(m * l.k * 2), cudaMemcpyHostToDevice));
    cublasHandle_t cb;
    CHECK(cublasCreate(&cb));
    void *ws;
    CHECK(cudaMalloc(&ws, 32 << 20));
    CHECK(cublasSetWorkspace(cb, ws, 32 << 20));
    const float one = 1, zero = 0;
    const double us = time_graph([&](int i, cudaStream_t st) {
        CHECK(cublasSetStream(cb, st));
        CHECK(cublasGemmEx(cb, CUBLAS_OP_T, CUBLAS_OP_N, (int)l.n, (int)m, (int)l.k, &one,
                           (char *)w + bytes * (i % copies), CUDA_R_16F, (int)l.k, x, CUDA_R_16F, (int)l.k, &zero, y,
                           CUDA_R_16F, (int)l.n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    }, std::max(copies, 20));
    cublasDestroy(cb);
    cudaFree(ws);
    cudaFree(w);
    cudaFree(x);
    cudaFree(y);
    return us;
}

/* Median of the four layers of a block as one graph, in order, with weights cold: what a step pays. */
static const layer models[2][4] = {
    {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}},
    {{"qkv", 10240, 8192}, {"o", 8192, 8192}, {"gate_up", 57344, 8192}, {"down", 8192, 28672}}};

static void time_model(int mod, int bits, std::vector<int64_t> ms)
{
    static const char *names[] = {"8B", "70B"};
    for (int64_t m : ms) {
        double sum = 0, us[4], roofs = 0;
        for (int i = 0; i < 4; i++) {
            double roof = 0;
            us[i] = time_lut(models[mod][i], bits, 128, m, 0, m == 1 ? &roof : NULL, NULL);
            sum += us[i];
            roofs += roof;
        }
        printf("| %s | %d | %ld | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f |\n", names[mod], bits, m, us[0], us[1], us[2],
               us[3], sum, roofs);
        fflush(stdout);
    }
}

static void time_head()
{
    printf("overlap %d\n| model | bits | M | qkv | o | gate_up | down | sum us | read-only sum |\n|---|---|---|---|---|---|---|---|---|\n", overlap);
}

static void time_quick()
{
    time_head();
    for (int bits = 4; bits >= 2; bits--)
        time_model(0, bits, {1, 8, 16, 32});
}

static void time_all()
{
    time_head();
    for (int mod = 0; mod < 2; mod++)
        for (int bits = 4; bits >= 2; bits--)
            time_model(mod, bits, {1, 4, 8, 16, 32, 64});
    time_model(0, 8, {1, 16});
    for (int64_t m : {1, 16, 32, 64}) {
        double sum = 0;
        for (int i = 0; i < 4; i++)
            sum += time_cublas(models[0][i], m);
        printf("cuBLAS fp16 8B M=%ld sum %.1f us\n", m, sum);
    }
    double gbs;
    time_lut(models[0][2], 4, 128, 1, 0, NULL, &gbs);
    printf("pack W4 gate_up: %.0f GB/s of codes\n", gbs);
    static const layer odd[] = {{"3072", 3072, 3072}, {"2304x9216", 2304, 9216}, {"5000x4992", 5000, 4992}, {"2048", 2048, 2048}};
    for (auto &l : odd) {
        double roof;
        const double us = time_lut(l, 4, 128, 1, 0, &roof, NULL);
        printf("%s W4 M=1: %.1f us, read-only %.1f\n", l.name, us, roof);
    }
    double r;
    printf("g64 8B gate_up: %.1f us; ", time_lut(models[0][2], 4, 64, 1, 0, &r, NULL));
    printf("read-only %.1f; bf16 g128: %.1f us; ", r, time_lut(models[0][2], 4, 128, 1, 1, NULL, NULL));
    printf("g32: %.1f us\n", time_lut(models[0][2], 4, 32, 1, 0, NULL, NULL));
}

int main(int argc, char **argv)
{
    int bad = 0;
    cudaDeviceProp p;
    CHECK(cudaGetDeviceProperties(&p, 0));
    CHECK(lu_cuda_device_get(0, &device));
    printf("%s, %d SMs, L2 %d MB\n", p.name, device.sm_count, p.l2CacheSize >> 20);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "check"))
            bad += check_all(false) + check_faults();
        else if (!strcmp(word, "reduced"))
            bad += check_all(true);
        else if (!strcmp(word, "time"))
            time_all();
        else if (!strcmp(word, "quick"))
            time_quick();
        else if (!strcmp(word, "alone"))
            overlap = 0;
        else if (!strcmp(word, "one"))
            printf("%.1f us\n", time_lut(models[0][2], 4, 128, 1, 0, NULL, NULL));
        else
            bad += fprintf(stderr, "unknown word %s\n", word) > 0;
    }
    return bad != 0;
}
