/* cuda_launch.cuh - how the kernels of cuda_ops.h are launched and begin.

   A decoder step is a chain of short kernels, so each may be scheduled while the one ahead still
   runs (programmatic dependent launch, from compute capability 9.0; a graph keeps it). Every kernel
   therefore calls lu_begin before it touches memory that another kernel writes: that lets the next
   one be scheduled, then waits until all ahead have ended and their writes are visible. Only data at
   rest (norms, tables of angles) may be fetched before. */
#ifndef LU_KERN_CUDA_LAUNCH_CUH
#define LU_KERN_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

static __device__ __forceinline__ void lu_let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

static __device__ __forceinline__ void lu_wait_for_ahead()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ __forceinline__ void lu_begin()
{
    lu_let_next_start();
    lu_wait_for_ahead();
}

static inline int lu_multiprocessors(int *n)
{
    int device;
    const cudaError_t e = cudaGetDevice(&device);
    return (int)(e != cudaSuccess ? e : cudaDeviceGetAttribute(n, cudaDevAttrMultiProcessorCount, device));
}

struct lu_launch_shape {
    dim3 grid;
    unsigned threads;
    size_t shared_bytes; /* dynamic */
    void *stream;
};

template <typename... Params, typename... Args>
static int lu_launch(void (*kernel)(Params...), const lu_launch_shape &s, const Args &...args)
{
    int device, major;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (e == cudaSuccess && s.shared_bytes > 48 * 1024)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)s.shared_bytes);
    if (e != cudaSuccess)
        return (int)e;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = s.grid;
    config.blockDim = dim3(s.threads);
    config.dynamicSmemBytes = s.shared_bytes;
    config.stream = (cudaStream_t)s.stream;
    config.attrs = &early;
    config.numAttrs = major >= 9 ? 1 : 0;
    return (int)cudaLaunchKernelEx(&config, kernel, args...);
}

#endif
