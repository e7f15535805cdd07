/* lut_wgmma_ops.cuh - the instructions of compute capability 9.0 that lut_wgmma.cuh is made of:
   warpgroup products, barriers in shared memory, bulk copies (PTX ISA 8.x, chapters wgmma, mbarrier,
   cp.async.bulk). Shared-memory addresses are 32-bit. */
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
#define LUT_F32(i) LUT_F16(i), LUT_F16(i + 16)
#define LUT_F64(i) LUT_F32(i), LUT_F32(i + 32)
#define LUT_F128(i) LUT_F64(i), LUT_F64(i + 64)
#define LUT_N16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define LUT_N32 \
    LUT_N16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define LUT_N64 \
    LUT_N32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
            ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define LUT_N128 \
    LUT_N64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
            ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
            ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
            ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
/* N tokens, whose sums are the first COUNT operands; after them come a and b. */
#define LUT_WGMMA(N, COUNT, A, B, TYPE)                                                            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE                   \
                 " {" LUT_N##COUNT "}, {" A "}, " B ", p, 1, 1, 0;\n}"                             \
                 : LUT_F##COUNT(0)                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define LUT_WGMMA_OF(N, COUNT, A, B)                                                               \
    if (BF16)                                                                                      \
        LUT_WGMMA(N, COUNT, A, B, "bf16");                                                         \
    else                                                                                           \
        LUT_WGMMA(N, COUNT, A, B, "f16")

/* d (64 rows x N tokens) += a (16 columns, registers) . b; runs asynchronously. */
template <int N, bool BF16> static __device__ __forceinline__ void wgmma(float *d, const unsigned *a, uint64_t b)
{
    static_assert(N == 32 || N == 64 || N == 128 || N == 256, "no such shape");
    if constexpr (N == 32) {
        LUT_WGMMA_OF(32, 16, "%16,%17,%18,%19", "%20");
    } else if constexpr (N == 64) {
        LUT_WGMMA_OF(64, 32, "%32,%33,%34,%35", "%36");
    } else if constexpr (N == 128) {
        LUT_WGMMA_OF(128, 64, "%64,%65,%66,%67", "%68");
    } else {
        LUT_WGMMA_OF(256, 128, "%128,%129,%130,%131", "%132");
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

/* A warp's arrivals. compute-sanitizer's racecheck does not see that __syncwarp orders the other lanes'
   reads before lane 0's arrival: compile with 32 for it. */
#ifndef LUT_WARP_ARRIVALS
#define LUT_WARP_ARRIVALS 1
#endif

/* After what all lanes of the warp did. */
static __device__ __forceinline__ void warp_arrive(unsigned at, int lane)
{
    __syncwarp();
    if (lane < LUT_WARP_ARRIVALS)
        barrier_arrive(at);
}

/* Ordinary writes to shared memory become visible to wgmma and bulk copies. */
static __device__ __forceinline__ void publish_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void publish_barriers()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    publish_shared();
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

static __device__ __forceinline__ void sync_some(int name, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

static __device__ __forceinline__ void arrive_some(int name, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

static __device__ __forceinline__ void read_shared(uint32_t *to, unsigned at, int count)
{
    if (count == 4)
        asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    else if (count == 2)
        asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(at) : "memory");
    else
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(to[0]) : "r"(at) : "memory");
}

#endif
