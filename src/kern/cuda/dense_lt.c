/* dense_lt.c - y = x W^T (+ bias), and c = alpha op(a) op(b) + beta c, through cuBLASLt. Its matrices
   are column-major, so the first is written as y^T = W x^T: W is read transposed (rows of k are its
   columns), x^T and y^T are the row-major x and y as they lie; the second as c^T = op(b)^T op(a)^T.
   The library's first proposal for a shape is kept in a small cache. Float32 is multiplied as such:
   its proposals for CUBLAS_COMPUTE_32F leave out those that round to TF32. Integers of 8 bits come in
   the first form, the one way in which it takes them.
   One workspace serves all products: they run one after the other on the GPU's stream. */
#include "kern/cuda/dense_lt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <string.h>

#include "base/mem.h"

#define WORKSPACE_BYTES (32u << 20)
#define CACHE 256 /* shapes remembered */

#define FUNCTIONS(X)                        \
    X(cublasLtCreate)                       \
    X(cublasLtDestroy)                      \
    X(cublasLtMatmul)                       \
    X(cublasLtMatmulDescCreate)             \
    X(cublasLtMatmulDescDestroy)            \
    X(cublasLtMatmulDescSetAttribute)       \
    X(cublasLtMatrixLayoutCreate)           \
    X(cublasLtMatrixLayoutDestroy)          \
    X(cublasLtMatmulPreferenceCreate)       \
    X(cublasLtMatmulPreferenceDestroy)      \
    X(cublasLtMatmulPreferenceSetAttribute) \
    X(cublasLtMatmulAlgoGetHeuristic)

/* Integer sums [m][n] of padded codes: all there is to know, as every row lies on 16 bytes. */
typedef struct {
    int64_t m, n, k;
} sums;

/* One of the three, the others all zero. Pointers are alignments; bias is not NULL or NULL. */
typedef struct {
    lu_gpu_dense dense;
    lu_gpu_gemm gemm;
    sums sums;
} shape;

typedef struct {
    shape key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y; /* the first operand, the second, the result */
    cublasLtMatmulAlgo_t algo;
} plan;

struct lu_dense_lt {
    void *library;
#define FIELD(name) __typeof__(&name) name;
    FUNCTIONS(FIELD)
#undef FIELD
    cublasLtHandle_t handle;
    void *workspace;
    int n_plans, next;
    plan plans[CACHE];
};

static void *find_library(void)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "/usr/local/cuda/lib64/libcublasLt.so.12"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
    }
    return NULL;
}

static bool find_functions(lu_dense_lt *lt)
{
    bool all = true;
#define FIND(name)                                   \
    *(void **)&lt->name = dlsym(lt->library, #name); \
    all = all && lt->name;
    FUNCTIONS(FIND)
#undef FIND
    return all;
}

lu_dense_lt *lu_dense_lt_open(void)
{
    lu_dense_lt *lt = lu_calloc(1, sizeof *lt);
    if (!lt)
        return NULL;
    lt->library = find_library();
    if (!lt->library || !find_functions(lt) ||
        cudaMalloc(&lt->workspace, WORKSPACE_BYTES) != cudaSuccess ||
        lt->cublasLtCreate(&lt->handle) != CUBLAS_STATUS_SUCCESS) {
        lu_dense_lt_close(lt);
        return NULL;
    }
    return lt;
}

static void free_plan(lu_dense_lt *lt, plan *p)
{
    if (p->desc)
        lt->cublasLtMatmulDescDestroy(p->desc);
    if (p->w)
        lt->cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        lt->cublasLtMatrixLayoutDestroy(p->x);
    if (p->y)
        lt->cublasLtMatrixLayoutDestroy(p->y);
    memset(p, 0, sizeof *p);
}

void lu_dense_lt_close(lu_dense_lt *lt)
{
    if (!lt)
        return;
    for (int i = 0; i < lt->n_plans; i++)
        free_plan(lt, &lt->plans[i]);
    if (lt->handle)
        lt->cublasLtDestroy(lt->handle);
    cudaFree(lt->workspace);
    if (lt->library)
        dlclose(lt->library);
    lu_free(lt);
}

static bool describe(lu_dense_lt *lt, const lu_gpu_dense *a, plan *p)
{
    const cudaDataType_t type = a->bf16 ? CUDA_R_16BF : CUDA_R_16F;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
    const uint64_t n = (uint64_t)a->n, k = (uint64_t)a->k, m = (uint64_t)a->m;
    return lt->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
           lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) == 0 &&
           (!a->bias ||
            (lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias,
                                                sizeof bias) == 0 &&
             lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                &a->bias, sizeof a->bias) == 0)) &&
           lt->cublasLtMatrixLayoutCreate(&p->w, type, k, n, a->k) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->x, type, k, m, a->ldx) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->y, type, n, m, a->ldy) == 0;
}

/* The largest power of two up to 256 that the address is a multiple of: what a kernel may assume.
 */
static uint32_t alignment(const void *p)
{
    const uintptr_t low = (uintptr_t)p & (~(uintptr_t)p + 1);
    return low && low < 256 ? (uint32_t)low : 256;
}

static bool describe_gemm(lu_dense_lt *lt, const lu_gpu_gemm *a, plan *p)
{
    const cudaDataType_t type = a->of_float ? CUDA_R_32F : a->bf16 ? CUDA_R_16BF : CUDA_R_16F;
    const cublasOperation_t first = a->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                            second = a->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint64_t m = (uint64_t)a->m, n = (uint64_t)a->n, k = (uint64_t)a->k;
    return lt->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
           lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                              sizeof first) == 0 &&
           lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second,
                                              sizeof second) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->w, type, a->transpose_b ? k : n,
                                          a->transpose_b ? n : k, a->ldb) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->x, type, a->transpose_a ? m : k,
                                          a->transpose_a ? k : m, a->lda) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32F, n, m, a->ldc) == 0;
}

static bool describe_sums(lu_dense_lt *lt, const sums *a, plan *p)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t m = (uint64_t)a->m, n = (uint64_t)a->n, k = (uint64_t)a->k;
    return lt->cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32I, CUDA_R_32I) == 0 &&
           lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->w, CUDA_R_8I, k, n, a->k) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->x, CUDA_R_8I, k, m, a->k) == 0 &&
           lt->cublasLtMatrixLayoutCreate(&p->y, CUDA_R_32I, n, m, a->n) == 0;
}

/* w, x, y: addresses of the operands and the result, or of what is aligned like them. */
static bool choose(lu_dense_lt *lt, uint32_t w, uint32_t x, uint32_t y, plan *p)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t bytes;
    } aligned[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y}};
    const uint64_t room = WORKSPACE_BYTES;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    bool good = lt->cublasLtMatmulPreferenceCreate(&wish) == 0 &&
                lt->cublasLtMatmulPreferenceSetAttribute(
                    wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room) == 0;
    for (size_t i = 0; good && i < sizeof aligned / sizeof *aligned; i++)
        good = lt->cublasLtMatmulPreferenceSetAttribute(wish, aligned[i].what, &aligned[i].bytes,
                                                        sizeof aligned[i].bytes) == 0;
    good = good &&
           lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, p->desc, p->w, p->x, p->y, p->y, wish, 1,
                                              &best, &found) == 0 &&
           found == 1;
    if (wish)
        lt->cublasLtMatmulPreferenceDestroy(wish);
    if (good)
        p->algo = best.algo;
    return good;
}

static uint16_t *as_address(uint32_t alignment) { return (uint16_t *)(uintptr_t)alignment; }

/* The alignment of the rows decides which kernels the library may propose. */
static shape shape_of(const lu_gpu_dense *a)
{
    shape s;
    memset(&s, 0, sizeof s); /* padding is compared too */
    s.dense.m = a->m;
    s.dense.n = a->n;
    s.dense.k = a->k;
    s.dense.ldx = a->ldx;
    s.dense.ldy = a->ldy;
    s.dense.bf16 = a->bf16;
    s.dense.bias = a->bias ? (const uint16_t *)1 : NULL;
    s.dense.y = as_address(alignment(a->y));
    s.dense.x = as_address(alignment(a->x));
    s.dense.w = as_address(alignment(a->w));
    return s;
}

/* alpha and beta are no part of it, but whether c is read may be. */
static shape shape_of_gemm(const lu_gpu_gemm *a)
{
    shape s;
    memset(&s, 0, sizeof s);
    s.gemm.transpose_a = a->transpose_a;
    s.gemm.transpose_b = a->transpose_b;
    s.gemm.of_float = a->of_float;
    s.gemm.bf16 = a->bf16;
    s.gemm.m = a->m;
    s.gemm.n = a->n;
    s.gemm.k = a->k;
    s.gemm.beta = a->beta != 0.0f;
    s.gemm.lda = a->lda;
    s.gemm.ldb = a->ldb;
    s.gemm.ldc = a->ldc;
    s.gemm.a = as_address(alignment(a->a));
    s.gemm.b = as_address(alignment(a->b));
    s.gemm.c = (float *)(void *)as_address(alignment(a->c));
    return s;
}

static shape shape_of_sums(const sums *a)
{
    shape s;
    memset(&s, 0, sizeof s);
    s.sums = *a;
    return s;
}

/* d, g or i8: the product; the others are NULL. */
static plan *find_plan(lu_dense_lt *lt, const lu_gpu_dense *d, const lu_gpu_gemm *g, const sums *i8)
{
    const shape key = d ? shape_of(d) : g ? shape_of_gemm(g) : shape_of_sums(i8);
    for (int i = 0; i < lt->n_plans; i++)
        if (memcmp(&lt->plans[i].key, &key, sizeof key) == 0)
            return &lt->plans[i];
    plan *p = &lt->plans[lt->next];
    free_plan(lt, p);
    const bool good =
        d ? describe(lt, d, p) && choose(lt, alignment(d->w), alignment(d->x), alignment(d->y), p)
        : g ? describe_gemm(lt, g, p) &&
                  choose(lt, alignment(g->b), alignment(g->a), alignment(g->c), p)
            : describe_sums(lt, i8, p) && choose(lt, 16, 16, 16, p);
    if (!good) {
        free_plan(lt, p);
        return NULL;
    }
    p->key = key;
    lt->next = (lt->next + 1) % CACHE;
    if (lt->n_plans < CACHE)
        lt->n_plans++;
    return p;
}

int lu_dense_lt_run(lu_dense_lt *lt, const lu_gpu_dense *a, void *stream)
{
    const float one = 1.0f, none = 0.0f;
    const plan *p = find_plan(lt, a, NULL, NULL);
    if (!p)
        return LU_DENSE_LT_FAILED;
    if (a->bias && lt->cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                      &a->bias, sizeof a->bias) != 0)
        return LU_DENSE_LT_FAILED;
    const cublasStatus_t s = lt->cublasLtMatmul(
        lt->handle, p->desc, &one, a->w, p->w, a->x, p->x, &none, a->y, p->y, a->y, p->y, &p->algo,
        lt->workspace, WORKSPACE_BYTES, (cudaStream_t)stream);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : LU_DENSE_LT_FAILED;
}

int lu_dense_lt_gemm(lu_dense_lt *lt, const lu_gpu_gemm *a, void *stream)
{
    const plan *p = find_plan(lt, NULL, a, NULL);
    if (!p)
        return LU_DENSE_LT_FAILED;
    const cublasStatus_t s = lt->cublasLtMatmul(
        lt->handle, p->desc, &a->alpha, a->b, p->w, a->a, p->x, &a->beta, a->c, p->y, a->c, p->y,
        &p->algo, lt->workspace, WORKSPACE_BYTES, (cudaStream_t)stream);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : LU_DENSE_LT_FAILED;
}

int lu_dense_lt_sums(lu_dense_lt *lt, const lu_gpu_int8 *a, int64_t row, int64_t rows, void *stream)
{
    static const int32_t one = 1, none = 0;
    const sums size = {rows, lu_int8_padded(a->n, LU_INT8_ROWS),
                       lu_int8_padded(a->k, LU_INT8_COLUMNS)};
    const plan *p = find_plan(lt, NULL, NULL, &size);
    if (!p)
        return LU_DENSE_LT_FAILED;
    const cublasStatus_t s = lt->cublasLtMatmul(
        lt->handle, p->desc, &one, a->w, p->w, a->x + row * size.k, p->x, &none, a->sums, p->y,
        a->sums, p->y, &p->algo, lt->workspace, WORKSPACE_BYTES, (cudaStream_t)stream);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : LU_DENSE_LT_FAILED;
}
