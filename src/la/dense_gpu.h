/* dense_gpu.h - the large operations of dense.h on a GPU: float32 throughout, with matrices that
   lie in host memory before and after. One matrix at a time may be held: a copy that several calls
   read. Inside la only. */
#ifndef LU_LA_DENSE_GPU_H
#define LU_LA_DENSE_GPU_H

#include "kern/gpu.h"
#include "la/dense.h"

typedef struct lu_la_gpu {
    lu_gpu *gpu;
    const float *key; /* the matrix that is held, in host memory; NULL: none */
    float *held;      /* its copy */
    int64_t count;    /* elements */
    float *inverses;  /* of held's diagonal blocks (kern/cuda/calib_ops.h) once divide made them */
    float *buffer;    /* grows */
    size_t bytes;
    int64_t piece; /* floats of a matrix that a product brings at a time */
    void *mark;
} lu_la_gpu;

/* gpu is set. Close also after a failure. */
lutra_status lu_la_gpu_open(lu_la_gpu *g, lutra_err *err);
void lu_la_gpu_close(lu_la_gpu *g);
/* NULL: la has none. */
lu_la_gpu *lu_la_gpu_of(lu_la *la);

/* Whether so many multiply-adds are worth the copies. */
bool lu_la_gpu_pays(const lu_la_gpu *g, int64_t m, int64_t n, int64_t k);

lutra_status lu_la_gpu_hold(lu_la_gpu *g, const float *a, int64_t count, lutra_err *err);
void lu_la_gpu_release(lu_la_gpu *g);
/* Where element *p of the held matrix is on the GPU; NULL if p does not point into it. */
const float *lu_la_gpu_find(const lu_la_gpu *g, const float *p);

/* Room for so many floats, the same memory at every call: E_NOMEM names `what`. */
lutra_status lu_la_gpu_room(lu_la_gpu *g, int64_t count, const char *what, float **out,
                            lutra_err *err);
lutra_status lu_la_gpu_multiply(lu_la_gpu *g, const lu_la_gemm_args *device, lutra_err *err);

lutra_status lu_la_gpu_gemm(lu_la_gpu *g, const lu_la_gemm_args *host, lutra_err *err);
/* there: d is on the GPU already. */
lutra_status lu_la_gpu_norms(lu_la_gpu *g, int64_t m, int64_t n, const float *d, bool there,
                             const float *h, double *sums, lutra_err *err);
/* U is held afterwards. */
lutra_status lu_la_gpu_inverse_factor(lu_la_gpu *g, int64_t n, float *h, bool *definite,
                                      lutra_err *err);
lutra_status lu_la_gpu_divide_upper(lu_la_gpu *g, int64_t n, const float *u, int64_t m, float *b,
                                    lutra_err *err);

#endif
