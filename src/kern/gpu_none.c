/* gpu_none.c - the GPU of a build without CUDA: there is none. Only count can be reached. */
#include "kern/gpu.h"

static lutra_status count(int *n, lutra_err *err)
{
    (void)n;
    return lu_fail(err, LUTRA_E_UNSUPPORTED,
                   "this lutra was built without CUDA: build it where nvcc is found, or use the "
                   "CPU (--device cpu)");
}

const lu_gpu_api *lu_gpu_builtin(void)
{
    static const lu_gpu_api none = {.name = "cuda", .count = count};
    return &none;
}
