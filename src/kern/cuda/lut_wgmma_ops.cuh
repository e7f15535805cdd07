/* lut_wgmma_ops.cuh - the instructions of compute capability 9.0 that lut_wgmma.cuh is made of:
   warpgroup products, barriers in shared memory, bulk copies, clusters (PTX ISA 8.x, chapters wgmma,
   mbarrier, cp.async.bulk, barrier.cluster). Shared-memory addresses are 32-bit. */
#ifndef LU_KERN_CUDA_LUT_WGMMA_OPS_CUH
#define LU_KERN_CUDA_LUT_WGMMA_OPS_CUH

#include <cuda.h>
#include <stdint.h>

/* B operand: rows of 128 bytes (64 columns of one token), 16-byte chunks exclusive-ored with the row
   number modulo 8, eight rows to 1024 bytes. A step of 16 columns adds 32 bytes to the address. */
static __device__ __forceinline__ uint64_t tile_descriptor(unsigned at)
{
    return (uint64_t)(at >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define LUT_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LUT_F16(i) LUT_F4(i), LUT_F4(i + 4), LUT_F4(i + 8), LUT_F4(i + 12)
#define LUT_N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LUT_N32 LUT_N16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LUT_N64                                                                                    \
    LUT_N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,"   \
            "%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LUT_WGMMA_32(type)                                                                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                      \
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                       \
                 " {" LUT_N16 "}, {%16,%17,%18,%19}, %20, p, 1, 1, 0;\n}"                          \
                 : LUT_F16(0)                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define LUT_WGMMA_64(type)                                                                         \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                      \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                       \
                 " {" LUT_N32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 0;\n}"                          \
                 : LUT_F16(0), LUT_F16(16)                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
#define LUT_WGMMA_128(type)                                                                        \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                      \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                      \
                 " {" LUT_N64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 0;\n}"                          \
                 : LUT_F16(0), LUT_F16(16), LUT_F16(32), LUT_F16(48)                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

/* d (64 rows x N tokens) = a (16 columns, registers) . b + (add ? d : 0); runs asynchronously. */
template <int N, bool BF16>
static __device__ __forceinline__ void wgmma(float *d, const unsigned *a, uint64_t b, int add)
{
    if constexpr (N == 32) {
        if (BF16)
            LUT_WGMMA_32("bf16");
        else
            LUT_WGMMA_32("f16");
    } else if constexpr (N == 64) {
        if (BF16)
            LUT_WGMMA_64("bf16");
        else
            LUT_WGMMA_64("f16");
    } else {
        static_assert(N == 128, "no such shape");
        if (BF16)
            LUT_WGMMA_128("bf16");
        else
            LUT_WGMMA_128("f16");
    }
}

/* Keeps the compiler from moving uses of d across this point. */
template <int COUNT> static __device__ __forceinline__ void hold(float *d)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int COUNT> static __device__ __forceinline__ void hold(unsigned *d)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

static __device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most PENDING of the committed groups still run. */
template <int PENDING> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

static __device__ __forceinline__ void barrier_init(unsigned at, unsigned count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}

static __device__ __forceinline__ void barrier_expect(unsigned at, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}

static __device__ __forceinline__ void barrier_arrive(unsigned at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Waits until the phase of the given parity has completed. */
static __device__ __forceinline__ void barrier_wait(unsigned at, unsigned parity)
{
    unsigned done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
    } while (!done);
}

/* Starts a copy of 16 bytes, global to shared memory. */
static __device__ __forceinline__ void copy_16(unsigned to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* Arrives when all copies this thread has started are there. */
static __device__ __forceinline__ void barrier_arrive_copied(unsigned at)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}

/* A box of a tensor map to shared memory, told at the barrier. */
static __device__ __forceinline__ void tensor_copy(unsigned to, const CUtensorMap *map, int column, int row,
                                                   unsigned barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

/* Ordinary writes to shared memory become visible to wgmma and bulk copies. */
static __device__ __forceinline__ void publish_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void sync_some(int name, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

static __device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Address of block `rank`'s copy of this block's shared address. */
static __device__ __forceinline__ unsigned of_rank(unsigned at, unsigned rank)
{
    unsigned v;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(v) : "r"(at), "r"(rank));
    return v;
}

static __device__ __forceinline__ float4 read_cluster(unsigned at)
{
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

#endif
