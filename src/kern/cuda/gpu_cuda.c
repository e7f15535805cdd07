/* gpu_cuda.c - gpu.h on the CUDA runtime, which is linked statically and finds the driver at run
   time; cuBLASLt is found then too (dense_lt.c). So the program starts on machines with neither. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cuda/dense_lt.h"
#include "kern/cuda/dense_rows.h"
#include "kern/cuda/gemm_plain.h"
#include "kern/gpu.h"

/* A few milliseconds of sixteen cores, and of copying as much as such work reads. */
#define WORTH ((int64_t)1 << 31)
#define INT8_FEW_ROWS 32  /* rows up to which integer products take our own kernel */
#define TILE_ROWS 256     /* what cuBLASLt's tiles divide */
#define MOST_SCALED 65535 /* rows that are scaled at a time: of a grid */

typedef struct {
    cudaStream_t stream;
    lu_dense_lt *lt;
    bool lt_tried;
} cuda_gpu;

static cuda_gpu *own(lu_gpu *g) { return g->own; }

/* What the runtime says when there is no driver, as a mend. */
static lutra_status no_gpu(cudaError_t e, lutra_err *err)
{
    cudaGetLastError(); /* so that it is not found again by a later call */
    if (e == cudaErrorInsufficientDriver) {
        int version = 0;
        cudaDriverGetVersion(&version);
        if (version > 0)
            return lu_fail(err, LUTRA_E_UNSUPPORTED,
                           "the NVIDIA driver here is for CUDA %d.%d, this lutra needs %d.%d: "
                           "update the driver, or use the CPU (--device cpu)",
                           version / 1000, version % 1000 / 10, CUDART_VERSION / 1000,
                           CUDART_VERSION % 1000 / 10);
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "no NVIDIA driver found: install it, or use the CPU (--device cpu)");
    }
    if (e == cudaErrorNoDevice)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "the NVIDIA driver sees no GPU: use the CPU (--device cpu)");
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "the GPU cannot be used: %s", cudaGetErrorString(e));
}

static lutra_status cuda_count(int *n, lutra_err *err)
{
    const cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaSuccess && *n > 0)
        return LUTRA_OK;
    return no_gpu(e == cudaSuccess ? cudaErrorNoDevice : e, err);
}

static lutra_status cuda_info(int ordinal, lu_gpu_info *out, lutra_err *err)
{
    struct cudaDeviceProp p;
    const cudaError_t e = cudaGetDeviceProperties(&p, ordinal);
    if (e != cudaSuccess)
        return no_gpu(e, err);
    *out = (lu_gpu_info){.capability = p.major * 10 + p.minor, .memory = (int64_t)p.totalGlobalMem};
    snprintf(out->name, sizeof out->name, "%s", p.name);
    cudaDriverGetVersion(&out->driver);
    return LUTRA_OK;
}

static lutra_status cuda_open(lu_gpu *g, lutra_err *err)
{
    if (g->info.capability < 80)
        return lu_fail(err, LUTRA_E_UNSUPPORTED,
                       "cuda:%d (%s) has compute capability %d.%d, the kernels need 8.0: use the "
                       "CPU (--device cpu)",
                       g->ordinal, g->info.name, g->info.capability / 10, g->info.capability % 10);
    cuda_gpu *c = lu_calloc(1, sizeof *c);
    if (!c)
        return lu_fail_nomem(err, sizeof *c);
    cudaError_t e = cudaSetDevice(g->ordinal);
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = (cudaError_t)lu_cuda_device_get(g->ordinal, &g->chip);
    if (e != cudaSuccess) {
        if (c->stream)
            cudaStreamDestroy(c->stream);
        lu_free(c);
        return lu_gpu_fail(g, (int)e, "opening", err);
    }
    g->worth = WORTH;
    g->own = c;
    g->stream = c->stream;
    return LUTRA_OK;
}

static void cuda_close(lu_gpu *g)
{
    cudaSetDevice(g->ordinal);
    cudaStreamSynchronize(own(g)->stream);
    lu_dense_lt_close(own(g)->lt);
    cudaStreamDestroy(own(g)->stream);
    lu_free(g->own);
}

static int use(lu_gpu *g) { return (int)cudaSetDevice(g->ordinal); }

static int free_memory(lu_gpu *g, size_t *bytes)
{
    size_t all;
    const int e = use(g);
    return e ? e : (int)cudaMemGetInfo(bytes, &all);
}

static int take(lu_gpu *g, size_t bytes, void **out)
{
    cudaError_t e = (cudaError_t)use(g);
    if (e == cudaSuccess)
        e = cudaMalloc(out, bytes ? bytes : 1);
    if (e != cudaSuccess)
        cudaGetLastError();
    else
        lu_gpu_note_free(g);
    return (int)e;
}

static void give(lu_gpu *g, void *p)
{
    if (!p)
        return;
    cudaStreamSynchronize(own(g)->stream);
    cudaFree(p);
}

static int take_host(lu_gpu *g, size_t bytes, void **out)
{
    (void)g;
    return (int)cudaMallocHost(out, bytes ? bytes : 1);
}

static void give_host(lu_gpu *g, void *p)
{
    if (!p)
        return;
    cudaStreamSynchronize(own(g)->stream);
    cudaFreeHost(p);
}

static int copy_kind(lu_gpu *g, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    return bytes ? (int)cudaMemcpyAsync(to, from, bytes, kind, own(g)->stream) : 0;
}

/* The runtime stages memory that is not page-locked before it returns. */
static int upload(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    return copy_kind(g, to, from, bytes, cudaMemcpyHostToDevice);
}

static int download(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    const int e = copy_kind(g, to, from, bytes, cudaMemcpyDeviceToHost);
    return e ? e : (int)cudaStreamSynchronize(own(g)->stream);
}

static int fetch(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    return copy_kind(g, to, from, bytes, cudaMemcpyDeviceToHost);
}

static int copy(lu_gpu *g, void *to, const void *from, size_t bytes)
{
    return copy_kind(g, to, from, bytes, cudaMemcpyDeviceToDevice);
}

static int zero(lu_gpu *g, void *to, size_t bytes)
{
    return bytes ? (int)cudaMemsetAsync(to, 0, bytes, own(g)->stream) : 0;
}

static int mark_open(lu_gpu *g, void **mark)
{
    const int e = use(g);
    return e ? e : (int)cudaEventCreateWithFlags((cudaEvent_t *)mark, cudaEventDisableTiming);
}

static void mark_close(lu_gpu *g, void *mark)
{
    (void)g;
    if (mark)
        cudaEventDestroy((cudaEvent_t)mark);
}

static int set_mark(lu_gpu *g, void *mark)
{
    return (int)cudaEventRecord((cudaEvent_t)mark, own(g)->stream);
}

static int wait_mark(lu_gpu *g, void *mark)
{
    (void)g;
    return (int)cudaEventSynchronize((cudaEvent_t)mark);
}

static int sync(lu_gpu *g) { return (int)cudaStreamSynchronize(own(g)->stream); }

static int capture_begin(lu_gpu *g)
{
    return (int)cudaStreamBeginCapture(own(g)->stream, cudaStreamCaptureModeThreadLocal);
}

static int capture_end(lu_gpu *g, void **graph)
{
    cudaGraph_t recorded = NULL;
    cudaGraphExec_t ready = NULL;
    cudaError_t e = cudaStreamEndCapture(own(g)->stream, &recorded);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&ready, recorded, 0);
    if (recorded)
        cudaGraphDestroy(recorded);
    *graph = ready;
    return (int)e;
}

static int launch(lu_gpu *g, void *graph)
{
    return (int)cudaGraphLaunch((cudaGraphExec_t)graph, own(g)->stream);
}

static void graph_close(lu_gpu *g, void *graph)
{
    if (!graph)
        return;
    cudaStreamSynchronize(own(g)->stream);
    cudaGraphExecDestroy((cudaGraphExec_t)graph);
}

/* cuBLASLt is loaded at the first product; NULL where it is missing. */
static lu_dense_lt *lt_of(lu_gpu *g)
{
    cuda_gpu *c = own(g);
    if (!c->lt_tried) {
        c->lt_tried = true;
        c->lt = lu_dense_lt_open();
    }
    return c->lt;
}

/* Where cuBLASLt is missing, or refuses a shape (rows at odd addresses), our kernels do it: this
   one four rows at a time. */
static int dense(lu_gpu *g, const lu_gpu_dense *a)
{
    lu_dense_lt *lt = lt_of(g);
    if (lt && a->m > 0) {
        const int e = lu_dense_lt_run(lt, a, own(g)->stream);
        if (e != LU_DENSE_LT_FAILED)
            return e;
    }
    return lu_cuda_dense_rows(a, own(g)->stream);
}

static int gemm(lu_gpu *g, const lu_gpu_gemm *a)
{
    lu_dense_lt *lt = lt_of(g);
    if (lt && a->m > 0 && a->n > 0 && a->k > 0) {
        const int e = lu_dense_lt_gemm(lt, a, own(g)->stream);
        if (e != LU_DENSE_LT_FAILED)
            return e;
    }
    return lu_cuda_gemm_plain(a, own(g)->stream);
}

/* Few rows by our kernel, which reads the weights once and scales at its end; more by cuBLASLt,
   whose int32 sums are scaled while they are still in L2, where the library is there. */
static int int8(lu_gpu *g, const lu_gpu_int8 *a)
{
    lu_dense_lt *lt = a->m > INT8_FEW_ROWS && a->sum_rows > 0 ? lt_of(g) : NULL;
    int64_t most = a->sum_rows < MOST_SCALED ? a->sum_rows : MOST_SCALED;
    most = most < TILE_ROWS ? most : most / TILE_ROWS * TILE_ROWS;
    for (int64_t row = 0, rows; lt && row < a->m; row += rows) {
        rows = a->m - row < most ? a->m - row : most;
        int e = lu_dense_lt_sums(lt, a, row, rows, g->stream);
        if (e == LU_DENSE_LT_FAILED)
            return lu_cuda_int8_rows(a, g->stream);
        if (!e)
            e = lu_cuda_int8_scale(a, row, rows, g->stream);
        if (e || row + rows == a->m)
            return e;
    }
    return lu_cuda_int8_rows(a, g->stream);
}

static const char *error_text(int error, bool *nomem, bool *unsupported)
{
    *nomem = error == (int)cudaErrorMemoryAllocation;
    *unsupported =
        error == (int)cudaErrorNotSupported || error == (int)cudaErrorNoKernelImageForDevice;
    return cudaGetErrorString((cudaError_t)error);
}

const lu_gpu_api *lu_gpu_builtin(void)
{
#define KERNEL(name, result, args) .name = lu_cuda_##name,
    static const lu_gpu_api api = {
        .name = "cuda",
        .graphs = true,
        .count = cuda_count,
        .info = cuda_info,
        .open = cuda_open,
        .close = cuda_close,
        .use = use,
        .free_memory = free_memory,
        .take = take,
        .give = give,
        .take_host = take_host,
        .give_host = give_host,
        .upload = upload,
        .download = download,
        .send = upload,
        .fetch = fetch,
        .copy = copy,
        .zero = zero,
        .mark_open = mark_open,
        .mark_close = mark_close,
        .mark = set_mark,
        .wait = wait_mark,
        .sync = sync,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .launch = launch,
        .graph_close = graph_close,
        .dense = dense,
        .gemm = gemm,
        .int8 = int8,
        LU_GPU_KERNELS(KERNEL).error_text = error_text,
    };
#undef KERNEL
    return &api;
}
