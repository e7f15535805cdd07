/* ops.h - every CPU kernel's signature, once. A level (ref, avx2, avx512) is a table of these
   pointers: the reference fills every slot, each higher level overwrites what it has (table.c).
   tools/checkkernel walks the same list.

   Kernels are pure: no allocation, no threads, no globals, any alignment, n >= 0. bf16 and f16 are
   raw bits in uint16_t. A float y may be x (or gate, or up) but not overlap it otherwise. Results
   are functions of the inputs alone, not of how a caller splits rows among threads. Matrix products
   live in linear.h, encoders in encode.h. */
#ifndef LU_KERN_OPS_H
#define LU_KERN_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "fmt/kv_format.h"

/* Causal attention of the query heads that share one KV head, at n_q consecutive positions.
   Element d of query i of head h is q[h * q_head_stride + i * q_stride + d]; out likewise.
   Query i stands at position pos + i and sees the positions j <= pos + i, of these only
   pos + i - j < window if a window is set. k and v are rows of `kind` (fmt/kv_format.h): position p
   is row p, or row p % slots where a cache is a ring; for KIVI k holds key groups instead, position p
   in group p % slots / LU_KIVI_GROUP, and recent_k and recent_v the positions as they were, p in row
   p % recent_slots. Nothing at or after position pos + n_q is read, nor of a ring what no query
   sees. */
typedef struct lu_attend_args {
    const float *q;
    int64_t q_stride;        /* floats between queries */
    int64_t q_head_stride;   /* floats between heads; unused if n_heads <= 1 */
    int64_t n_q;
    int64_t n_heads;         /* query heads on this KV head; 0 means 1 */
    int64_t pos;
    const void *k, *v;
    lu_kv_kind kind;
    int64_t slots;           /* 0: as many as there are positions; else a multiple of 64 */
    const void *recent_k, *recent_v; /* KIVI only, float or bf16 */
    int64_t recent_slots;    /* a multiple of 64 */
    int recent_bf16;
    int64_t head_dim;
    int64_t window;          /* 0 = none */
    float scale;             /* multiplies q.k */
    float softcap;           /* 0 = none; else s = softcap * tanh(s / softcap) before the softmax */
    float *out;
    int64_t out_stride;
    int64_t out_head_stride;
    float *scratch;          /* lu_attend_scratch(pos + n_q, head_dim) floats per concurrent call */
} lu_attend_args;

#define LU_OPS_LIST(X)                                                                            \
    /* y[i] = f32(x[i]) */                                                                        \
    X(bf16_to_f32, (float *y, const uint16_t *x, int64_t n))                                      \
    X(f16_to_f32, (float *y, const uint16_t *x, int64_t n))                                       \
    /* y[i] = round(x[i]), nearest, ties to even; a NaN becomes some NaN */                        \
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
    /* lo_hi[0] = min(0, x[0..n)), lo_hi[1] = max(0, x[0..n)); both NaN if any is not finite */    \
    X(act_range, (float *lo_hi, const float *x, int64_t n))                                       \
    /* codes = clamp(rint(x / scale) + zero, lowest, highest), 0 <= lowest <= zero <= highest      \
       < 256; x and scale are finite, scale > 0 */                                                \
    X(act_encode, (uint8_t *codes, const float *x, int64_t n, float scale, int zero, int lowest,  \
                   int highest))                                                                  \
    /* y = scale * (codes - zero) */                                                              \
    X(act_decode, (float *y, const uint8_t *codes, int64_t n, float scale, int zero))             \
    /* the result of a query does not depend on n_q, n_heads or the other queries, to the bit */  \
    X(attend, (const lu_attend_args *a))

typedef struct lu_ops {
    const char *level; /* "ref", "avx2", "avx512" */
#define LU_OPS_FIELD(name, args) void (*name) args;
    LU_OPS_LIST(LU_OPS_FIELD)
#undef LU_OPS_FIELD
    /* log(sum of exp(x[i])), max-subtracted, summed in double; -inf if n = 0 */
    float (*logsumexp)(const float *x, int64_t n);
    /* index of the largest value, the lowest on ties; a NaN never wins; -1 if there is no number */
    int64_t (*argmax)(const float *x, int64_t n);
} lu_ops;

/* Floats of scratch for one call of attend at any level; n_kv = pos + n_q. */
size_t lu_attend_scratch(int64_t n_kv, int64_t head_dim);

#endif
