/* ops.h - every CPU kernel's signature, once. A level (ref, avx2, avx512) is a table of these
   pointers: the reference fills every slot, each higher level overwrites what it has (table.c).
   tools/checkkernel walks the same list.

   Kernels are pure: no allocation, no threads, no globals, any alignment, n >= 0. bf16 and f16 are
   raw bits in uint16_t. Unless a kernel says so, results are functions of the inputs alone, not of
   how a caller splits rows among threads. Matrix products live in linear.h. */
#ifndef LU_KERN_OPS_H
#define LU_KERN_OPS_H

#include <stddef.h>
#include <stdint.h>

/* What attention of one query head block needs. Shapes, all row-major:
   q [n_q][head_dim] f32 with row stride q_stride (floats): the n_q queries are n_q/group_rows...
   see each field. */
typedef struct lu_attend_args {
    const float *q;      /* query of one head at n_q consecutive positions; row stride q_stride */
    int64_t q_stride;    /* floats */
    int64_t n_q;
    int64_t pos;         /* position of the first query; query i is at pos + i */
    const void *k, *v;   /* [position][head_dim] of this KV head from position 0, dense */
    int kv_bf16;         /* 0: float, 1: bf16 elements in k and v */
    int64_t head_dim;
    int64_t window;      /* 0 = full causal; else position j is visible iff i - j < window */
    float scale;         /* multiplies q.k */
    float softcap;       /* 0 = none; else s = softcap * tanh(s / softcap) before the mask */
    float *out;          /* [n_q][head_dim], row stride out_stride */
    int64_t out_stride;
    float *scratch;      /* lu_attend_scratch(...) floats */
} lu_attend_args;

#define LU_OPS_LIST(X)                                                                            \
    /* y[i] = f32(x[i]) */                                                                        \
    X(bf16_to_f32, (float *y, const uint16_t *x, int64_t n))                                      \
    X(f16_to_f32, (float *y, const uint16_t *x, int64_t n))                                       \
    /* y[i] = round(x[i]), nearest, ties to even */                                               \
    X(f32_to_bf16, (uint16_t *y, const float *x, int64_t n))                                      \
    X(f32_to_f16, (uint16_t *y, const float *x, int64_t n))                                       \
    /* y = x * rsqrt(mean(x^2) + eps) * (w + w_offset), one row of n */                           \
    X(rmsnorm, (float *y, const float *x, const float *w, int64_t n, float eps, float w_offset))  \
    /* half-split rotation in place of n_heads heads of head_dim: pairs (i, i + head_dim/2);      \
       cos, sin: [head_dim/2] of this position */                                                 \
    X(rope, (float *x, const float *cos, const float *sin, int64_t n_heads, int64_t head_dim))    \
    /* y = silu(gate) * up;  y = gelu_tanh(gate) * up */                                          \
    X(silu_mul, (float *y, const float *gate, const float *up, int64_t n))                        \
    X(gelu_mul, (float *y, const float *gate, const float *up, int64_t n))                        \
    /* y += x */                                                                                  \
    X(add, (float *y, const float *x, int64_t n))                                                 \
    /* y += a * x */                                                                              \
    X(axpy, (float *y, float a, const float *x, int64_t n))                                       \
    /* x = cap * tanh(x / cap) */                                                                 \
    X(softcap, (float *x, float cap, int64_t n))                                                  \
    /* softmax in place, float32, max-subtracted */                                               \
    X(softmax, (float *x, int64_t n))                                                             \
    /* attention of one head over its cache; results for a query do not depend on n_q */          \
    X(attend, (const lu_attend_args *a))

typedef struct lu_ops {
    const char *level; /* "ref", "avx2", "avx512" */
#define LU_OPS_FIELD(name, args) void (*name) args;
    LU_OPS_LIST(LU_OPS_FIELD)
#undef LU_OPS_FIELD
    /* sum over i of exp(x[i] - max) as float32-accurate logsumexp: returns log(sum exp(x)) */
    float (*logsumexp)(const float *x, int64_t n);
    /* index of the largest value, the lowest index on ties; NaN never wins; -1 if n = 0 */
    int64_t (*argmax)(const float *x, int64_t n);
} lu_ops;

size_t lu_attend_scratch(int64_t n_kv, int64_t head_dim); /* floats, for one call of attend */

#endif
