/* gpu.h - one face of a GPU for everything above the kernels: memory, copies, graphs, dense
   products and the kernels of kern/cuda, as a table of functions. Three tables exist: CUDA's
   (kern/cuda/gpu_cuda.c), the one of builds without CUDA, whose every opening fails and says so
   (gpu_none.c), and the emulation in plain C that the tests run the engine on
   (tests/support/gpu_emulated.c). Nothing above knows which it has.

   Functions that return int give 0 or an error number that lu_gpu_fail turns into a status and a
   message. Work is queued in order on the GPU's one stream; copies and kernels return before they
   are done unless they say otherwise. A GPU belongs to the thread that uses its context. */
#ifndef LU_KERN_GPU_H
#define LU_KERN_GPU_H

#include "base/status.h"
#include "kern/cuda/calib_ops.h"
#include "kern/cuda/cuda_encode.h"
#include "kern/cuda/cuda_int8.h"
#include "kern/cuda/cuda_ops.h"

typedef struct lu_gpu_info {
    char name[128];
    int capability; /* 10 * major + minor */
    int64_t memory; /* bytes in all */
    int driver;     /* newest CUDA the driver runs: 1000 * major + 10 * minor */
} lu_gpu_info;

typedef struct lu_gpu_api lu_gpu_api;

/* An opened GPU. */
typedef struct lu_gpu {
    const lu_gpu_api *api;
    int ordinal;
    lu_gpu_info info;
    lu_cuda_device chip; /* for lut_matmul */
    void *stream;
    void *own;         /* of the table */
    int64_t worth;     /* multiply-adds from which work is worth bringing here; set by open */
    size_t least_free; /* bytes: the least that any take since the opening has left */
} lu_gpu;

/* y[m][n] = x[m][k] . w[n][k]^T (+ bias): fp16 or bf16 as bf16 says, sums in float32. w has dense
   rows; rows of x and y are ldx and ldy elements apart. */
typedef struct lu_gpu_dense {
    int64_t m, n, k;
    const uint16_t *x;
    int64_t ldx;
    const uint16_t *w;
    uint16_t *y;
    int64_t ldy;
    const uint16_t *bias; /* [n] or NULL */
    int bf16;
} lu_gpu_dense;

/* c[m][n] = alpha op(a) op(b) + beta c, row-major, where op transposes if asked: op(a) is [m][k],
   op(b) is [k][n]. c and the sums are float32; of_float: a and b are float32 too and nothing is
   rounded to a shorter type on the way, else fp16 or bf16 as bf16 says. lda, ldb, ldc: elements
   between rows as stored. With beta 0, c is not read. The same call gives the same bits. */
typedef struct lu_gpu_gemm {
    bool transpose_a, transpose_b, of_float, bf16;
    int64_t m, n, k;
    float alpha, beta;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
} lu_gpu_gemm;

/* The kernels of cuda_ops.h, cuda_int8.h, calib_ops.h, cuda_encode.h and lut_matmul.h that are
   called from above: name, result, parameters. */
#define LU_GPU_KERNELS(X)                                                                          \
    X(lut_bytes, size_t, (int64_t n, int64_t k, int bits, int64_t group_size, int has_zeros))      \
    X(lut_pack, int,                                                                               \
      (int64_t n, int64_t k, int bits, int64_t group_size, const uint8_t *codes,                   \
       const uint16_t *scales, const uint8_t *zeros, const float *table, int bf16, void *block,    \
       lu_cuda_lut *out, void *stream))                                                            \
    X(lut_matmul, int,                                                                             \
      (const lu_cuda_device *chip, const lu_cuda_lut *w, const lu_cuda_lut_call *call))            \
    X(lut_unpack, int,                                                                             \
      (const lu_cuda_lut *w, int64_t first_row, int64_t rows, uint16_t *out, void *stream))        \
    X(lut_dense_from, int64_t, (const lu_cuda_device *chip, const lu_cuda_lut *w))                 \
    X(lut_scratch, size_t, (const lu_cuda_device *chip))                                           \
    X(act_codes, int, (const lu_cuda_act_args *a, int8_t *codes, float *scale, int32_t *zero))     \
    X(act_fake, int, (const lu_cuda_act_args *a, uint16_t *y))                                     \
    X(int8_pack, int,                                                                              \
      (int64_t n, int64_t k, int bits, const uint8_t *codes, const uint8_t *zeros,                 \
       const float *table, int8_t *w, int32_t *w_sum, void *stream))                               \
    X(embed, int, (const lu_cuda_embed_args *a))                                                   \
    X(seam, int, (const lu_cuda_seam_args *a))                                                     \
    X(rope_store, int, (const lu_cuda_rope_args *a))                                               \
    X(attend_scratch, size_t,                                                                      \
      (int64_t rows, int64_t n_heads, int64_t head_dim, int64_t max_position))                     \
    X(rope_attend_decode, int,                                                                     \
      (const lu_cuda_attend_args *a, const float *cosines, const float *sines))                    \
    X(attend_prefill, int,                                                                         \
      (const lu_cuda_attend_args *a, const int32_t *starts, int64_t n_segments))                   \
    X(act_mul, int,                                                                                \
      (int64_t n, int64_t cols, const uint16_t *gate_up, int gelu, int bf16, uint16_t *mid,        \
       void *stream))                                                                              \
    X(moe_route, int,                                                                              \
      (int64_t n, int64_t n_experts, int64_t n_active, const uint16_t *logits, int bf16,           \
       int32_t *source, int32_t *place, float *share, int32_t *first, void *stream))               \
    X(moe_gather, int,                                                                             \
      (int64_t n_gathered, int64_t cols, const int32_t *source, const uint16_t *in, uint16_t *out, \
       void *stream))                                                                              \
    X(moe_scatter, int,                                                                            \
      (int64_t n, int64_t cols, int64_t n_active, const int32_t *place, const float *share,        \
       const uint16_t *y, int bf16, uint16_t *out, void *stream))                                  \
    X(logits, int,                                                                                 \
      (int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16, float *out,          \
       void *stream))                                                                              \
    X(nll, int,                                                                                    \
      (int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16,                      \
       const int32_t *target, float *nll, void *stream))                                           \
    X(sample_scratch, size_t, (int64_t n, int64_t vocab))                                          \
    X(sample, int, (const lu_cuda_sample_args *a))                                                 \
    X(column_stats, int, (const lu_cuda_column_args *a))                                           \
    X(square_rows, int,                                                                            \
      (int64_t n, int64_t cols, const uint16_t *a, const uint16_t *b, int bf16, double *sums,      \
       void *stream))                                                                              \
    X(dot_rows, int,                                                                               \
      (int64_t n, int64_t cols, const float *a, const float *b, double *sums, void *stream))       \
    X(scale_columns, int,                                                                          \
      (int64_t n, int64_t cols, const float *w, const float *scale, float *out, void *stream))     \
    X(decode, int, (const lu_cuda_decode_args *a))                                                 \
    X(mirror, int, (int64_t n, float factor, float *c, void *stream))                              \
    X(reverse, int, (int64_t count, float *a, void *stream))                                       \
    X(copy_rows, int,                                                                              \
      (int64_t rows, int64_t cols, const float *from, int64_t ld_from, float *to, int64_t ld_to,   \
       void *stream))                                                                              \
    X(clear_upper, int, (int64_t n, float *a, void *stream))                                       \
    X(cholesky_block, int, (int64_t n, float *a, int64_t ld, int32_t *bad, void *stream))          \
    X(invert_blocks, int,                                                                          \
      (int64_t n, const float *a, int64_t ld, int upper, float *inverses, void *stream))           \
    X(judge_groups, int,                                                                           \
      (int64_t n, int64_t groups, int64_t size, const float *d, const float *product, int first,   \
       float factor, double *best, float *best_factor, void *stream))                              \
    X(clip, int, (const lu_cuda_clip_args *a))                                                     \
    X(encode, int, (const lu_cuda_encode_args *a))

struct lu_gpu_api {
    const char *name; /* "cuda" */
    bool graphs;      /* capture and launch work */

    /* E_UNSUPPORTED says why there is none. */
    lutra_status (*count)(int *n, lutra_err *err);
    lutra_status (*info)(int ordinal, lu_gpu_info *out, lutra_err *err);
    /* Fills everything but api and ordinal, which are set. */
    lutra_status (*open)(lu_gpu *g, lutra_err *err);
    void (*close)(lu_gpu *g);

    /* Before work from a thread that may have used another GPU; free_memory, take and mark_open do
       it themselves. */
    int (*use)(lu_gpu *g);
    int (*free_memory)(lu_gpu *g, size_t *bytes);
    int (*take)(lu_gpu *g, size_t bytes, void **out);
    void (*give)(lu_gpu *g, void *p); /* waits for the GPU first; NULL is fine */
    /* Host memory that copies reach directly. Must outlive the copies that read or write it. */
    int (*take_host)(lu_gpu *g, size_t bytes, void **out);
    void (*give_host)(lu_gpu *g, void *p);

    /* From ordinary host memory: it may change once the call returns. */
    int (*upload)(lu_gpu *g, void *to, const void *from, size_t bytes);
    /* To ordinary host memory: returns when the bytes are there. */
    int (*download)(lu_gpu *g, void *to, const void *from, size_t bytes);
    /* Between take_host memory and the GPU: only queued. */
    int (*send)(lu_gpu *g, void *to, const void *from, size_t bytes);
    int (*fetch)(lu_gpu *g, void *to, const void *from, size_t bytes);
    int (*copy)(lu_gpu *g, void *to, const void *from, size_t bytes); /* on the GPU */
    int (*zero)(lu_gpu *g, void *to, size_t bytes);

    /* Marks of the queue: mark sets one after all work so far, wait returns once it is passed. */
    int (*mark_open)(lu_gpu *g, void **mark);
    void (*mark_close)(lu_gpu *g, void *mark);
    int (*mark)(lu_gpu *g, void *mark);
    int (*wait)(lu_gpu *g, void *mark);
    int (*sync)(lu_gpu *g);

    /* Between begin and end, work is recorded instead of run. end may be called after a failure. */
    int (*capture_begin)(lu_gpu *g);
    int (*capture_end)(lu_gpu *g, void **graph);
    int (*launch)(lu_gpu *g, void *graph);
    void (*graph_close)(lu_gpu *g, void *graph);

    int (*dense)(lu_gpu *g, const lu_gpu_dense *a);
    int (*gemm)(lu_gpu *g, const lu_gpu_gemm *a);
    int (*int8)(lu_gpu *g, const lu_gpu_int8 *a); /* cuda_int8.h */

#define LU_GPU_KERNEL_FIELD(name, result, args) result(*name) args;
    LU_GPU_KERNELS(LU_GPU_KERNEL_FIELD)
#undef LU_GPU_KERNEL_FIELD

    /* A text for an error number; *nomem and *unsupported say what kind it is. */
    const char *(*error_text)(int error, bool *nomem, bool *unsupported);
};

/* The table of this build. */
const lu_gpu_api *lu_gpu_builtin(void);

/* "cpu", NULL or "": *ordinal = -1. "cuda": 0. "cuda:N": N. Else E_ARG. */
lutra_status lu_gpu_parse(const char *device, int *ordinal, lutra_err *err);

/* api: NULL = the build's. E_UNSUPPORTED: no such GPU, or none at all, and why. E_NOMEM. */
lutra_status lu_gpu_open(const lu_gpu_api *api, int ordinal, lu_gpu **out, lutra_err *err);
void lu_gpu_close(lu_gpu *g);
/* For the tables' take: looks what is free. */
void lu_gpu_note_free(lu_gpu *g);

/* "cuda:0: WHAT: text of the error" */
lutra_status lu_gpu_fail(const lu_gpu *g, int error, const char *what, lutra_err *err);

#define LU_GPU_TRY(g, call, what, err)                       \
    do {                                                     \
        const int lu_gpu_error_ = (call);                    \
        if (lu_gpu_error_)                                   \
            return lu_gpu_fail(g, lu_gpu_error_, what, err); \
    } while (0)

#endif
