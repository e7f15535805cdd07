/* cuda_mma.cuh - warp-level matrix instructions of compute capability 8.0. Lane (g = lane / 4,
   t = lane % 4) of mma.m16n8k16 holds, a pair of 16-bit values per word, low column first:
     A[16 x 16]  a0: row g, columns 2t 2t+1   a1: row g + 8   a2: row g, columns 2t+8 2t+9   a3: g + 8
     B[16 x 8]   b0: rows 2t 2t+1, column g   b1: rows 2t+8 2t+9
     C[16 x 8]   c0 c1: row g, columns 2t 2t+1   c2 c3: row g + 8  (float32) */
#ifndef LU_KERN_CUDA_MMA_CUH
#define LU_KERN_CUDA_MMA_CUH

#include <stdint.h>

/* c += a . b */
template <bool BF16>
static __device__ __forceinline__ void lu_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1)
{
    if (BF16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* The transpose of an 8 x 8 matrix of 16-bit values, spread over a warp as a quarter of A. */
static __device__ __forceinline__ uint32_t lu_transpose8(uint32_t v)
{
    uint32_t r;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

/* Four 8 x 8 matrices from shared memory: lane i gives the address of row i % 8 of matrix i / 8. */
static __device__ __forceinline__ void lu_ldmatrix(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void lu_ldmatrix_transposed(uint32_t r[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

/* 16 bytes to shared memory, zeros if not `real`; done after lu_async_wait. */
static __device__ __forceinline__ void lu_async_copy(uint32_t to, const void *from, bool real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void lu_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N of this thread's groups are still under way. */
template <int N> static __device__ __forceinline__ void lu_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Scores as attention uses them: exponents of 2. */
#define LU_LOG2_E 1.4426950408889634f

static __device__ __forceinline__ float lu_exp2(float x)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

/* tanh(x) = 1 - 2 / (exp(2 x) + 1): its error stays near 1e-7 absolute, which is what a capped score
   needs, at a tenth of the price of tanhf. */
static __device__ __forceinline__ float lu_fast_tanh(float x)
{
    return 1.0f - __fdividef(2.0f, lu_exp2(2.0f * LU_LOG2_E * fminf(x, 20.0f)) + 1.0f);
}

#endif
