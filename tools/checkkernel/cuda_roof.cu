/* cuda_roof.cu - a kernel that only reads: what memory gives at most. */
#include <cuda_runtime.h>
#include <stdint.h>

static __global__ void __launch_bounds__(512) read_all(const uint4 *from, int64_t n, unsigned *sink)
{
    const int64_t stride = (int64_t)gridDim.x * 512;
    unsigned v = 0;
#pragma unroll 8
    for (int64_t i = (int64_t)blockIdx.x * 512 + threadIdx.x; i < n; i += stride) {
        const uint4 w = from[i];
        v |= w.x & w.y & w.z & w.w;
    }
    if (v == 0x12345678)
        *sink = v;
}

/* bytes: a multiple of 16. sink: device, 4 bytes. */
extern "C" int cc_read(const void *from, size_t bytes, void *sink, cudaStream_t stream)
{
    read_all<<<132 * 16, 512, 0, stream>>>((const uint4 *)from, (int64_t)(bytes / 16), (unsigned *)sink);
    return (int)cudaGetLastError();
}
