/* cuda_ops.h - everything a decoder step does on the GPU besides matrix products, plain C face.

   Activations ("act") are fp16 or bf16 bits in uint16_t; the residual stream x and all norms and
   tables of angles are float32; sums are float32. Every pointer is device memory unless it says
   host. Calls are asynchronous on `stream` (a cudaStream_t), allocate nothing and may be captured
   into a graph, unless they say otherwise: what changes from step to step (ids, positions, lengths)
   is read from device memory. Results are bit-identical from run to run and do not depend on what
   else is in the batch. Functions return 0, a cudaError_t, or LU_CUDA_E_SHAPE for arguments that
   make no sense. Rows of one call: tokens, in any mix of sequences.

   From compute capability 9.0 on every kernel is launched so that it may be scheduled while the one
   ahead in the stream still runs, and waits for it by itself (programmatic dependent launch); only
   norms may be fetched before, so no kernel directly ahead may write them. Speed wants rows on 16
   bytes and widths that are multiples of 8; where that is a demand it says so. */
#ifndef LU_KERN_CUDA_CUDA_OPS_H
#define LU_KERN_CUDA_CUDA_OPS_H

#include "kern/cuda/lut_matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where each row of a pass stands: its sequence (a row of the page table) and position. A row at a
   negative position is idle: rope_store and the attention of decoding pass over it. */
typedef struct lu_cuda_rows {
    int64_t n;
    const int32_t *sequence; /* [n] */
    const int32_t *position; /* [n] */
} lu_cuda_rows;

/* The KV cache of all sequences, in pages of page_tokens tokens that sequences own through the page
   table. Element type: act. data: [layer][0 = keys, 1 = values][page][kv head][page_tokens]
   [head_dim]. Token t of sequence s lies in page pages[s * max_pages + t / page_tokens]. */
typedef struct lu_cuda_kv {
    uint16_t *data;
    int64_t n_pages, page_tokens; /* page_tokens: a power of two, 16 .. 256 */
    int64_t n_kv_heads, head_dim;
    const int32_t *pages; /* [sequences][max_pages] */
    int64_t max_pages;
} lu_cuda_kv;

/* x[r] = scale * row ids[r] of the embedding: dense [vocab][cols] in act type, or, with codes set,
   canonical codes (lutra/format.h) with fp16 scales and zero codes or NULL, table: host, 2^bits. */
typedef struct lu_cuda_embed_args {
    int64_t n, cols;
    const int32_t *ids;
    const uint16_t *dense;
    const uint8_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
    int bits;
    int64_t group_size;
    const float *table; /* host */
    int bf16;
    float scale;
    float *x;
    void *stream;
} lu_cuda_embed_args;
int lu_cuda_embed(const lu_cuda_embed_args *a);

/* Between two branches, row by row:
     if branch: x += out_norm ? rmsnorm(branch, out_norm) : branch
     if in_norm: in = rmsnorm(x, in_norm)                 (act)
   rmsnorm(v, w) = v * rsqrt(mean(v^2) + eps) * (w + norm_offset). */
typedef struct lu_cuda_seam_args {
    int64_t n, cols;
    float *x;                /* [n][cols] */
    const uint16_t *branch;  /* act [n][cols] or NULL */
    const float *out_norm;   /* [cols] or NULL */
    const float *in_norm;    /* [cols] or NULL */
    float eps, norm_offset;
    uint16_t *in;            /* act [n][cols]; NULL without in_norm */
    int bf16;
    void *stream;
} lu_cuda_seam_args;
int lu_cuda_seam(const lu_cuda_seam_args *a);

/* Rotates q in place and k on its way into the cache, copies v into the cache. qkv: act rows of
   ld elements: n_heads heads of q, then kv heads of k, then of v. cosines, sines:
   [positions][head_dim / 2] float32; half-split pairs (i, i + head_dim / 2). */
typedef struct lu_cuda_rope_args {
    lu_cuda_rows rows;
    uint16_t *qkv;
    int64_t ld, n_heads;
    const float *cosines, *sines;
    lu_cuda_kv kv;
    int64_t layer;
    int bf16;
    void *stream;
} lu_cuda_rope_args;
int lu_cuda_rope_store(const lu_cuda_rope_args *a);

/* Causal attention over the paged cache. Query row r at position p of sequence s sees positions
   j <= p, of these only p - j < window if a window is set; scores are scale * q.k, with softcap c > 0
   then c * tanh(s / c). q: act, head h of row r at q + r * ld + h * head_dim; out: act, dense
   [rows][n_heads * head_dim]. Query heads h share KV head h / (n_heads / n_kv_heads).
   head_dim: a multiple of 8 up to 256. ld: a multiple of 8; q, out, scratch and the cache: on 16
   bytes. */
typedef struct lu_cuda_attend_args {
    lu_cuda_rows rows;
    const uint16_t *q;
    int64_t ld, n_heads;
    lu_cuda_kv kv;
    int64_t layer, window;
    float scale, softcap;
    uint16_t *out;
    int bf16;
    int64_t max_position; /* bound on every position + 1: how many blocks decoding starts; no result
                             depends on it */
    void *scratch;        /* decoding: lu_cuda_attend_scratch bytes for at least these rows and
                             max_position, filled with zeros once; each call leaves it ready for the
                             next. Calls that may run at the same time need one each. */
    void *stream;
} lu_cuda_attend_args;
size_t lu_cuda_attend_scratch(int64_t rows, int64_t n_heads, int64_t head_dim, int64_t max_position);
/* Decoding: rows may be of different sequences each. */
int lu_cuda_attend_decode(const lu_cuda_attend_args *a);
/* rope_store and attend_decode in one launch, the same bits: q is the start of a qkv row
   (lu_cuda_rope_args), which stays as it is; k and v go into the cache. Rows must be of different
   sequences. cosines, sines: as lu_cuda_rope_args, on 16 bytes. */
int lu_cuda_rope_attend_decode(const lu_cuda_attend_args *a, const float *cosines, const float *sines);
/* Prefill: rows [first, first + n) of the call are consecutive positions of one sequence; starts is
   host memory [n_segments + 1] with the first row of each such run and rows.n at its end. The result
   of a row does not depend on where runs were cut. */
int lu_cuda_attend_prefill(const lu_cuda_attend_args *a, const int32_t *starts, int64_t n_segments);

/* mid[r][i] = f(gate_up[r][i]) * gate_up[r][cols + i]; f: silu, or gelu_tanh. act in and out. */
int lu_cuda_act_mul(int64_t n, int64_t cols, const uint16_t *gate_up, int gelu, int bf16,
                    uint16_t *mid, void *stream);

/* Mixture of experts. route: per row softmax over router logits (act [n][n_experts]), the n_active
   largest (ties to the lower expert), their probabilities renormalised to 1. The (row, expert) pairs
   are then sorted by expert, rows ascending: expert e owns the gathered rows first[e] .. first[e+1].
     source[g]: row of gathered row g.  place[r * n_active + i], share[...]: its gathered rows and
   weights, experts ascending. first is device [n_experts + 1]; copying it to the host is the
   caller's business. At most 256 experts, 32 of them active. gather: out[g] = in[source[g]].
   scatter: out[r] = sum_i share * y[place]. */
int lu_cuda_moe_route(int64_t n, int64_t n_experts, int64_t n_active, const uint16_t *logits,
                      int bf16, int32_t *source, int32_t *place, float *share, int32_t *first,
                      void *stream);
int lu_cuda_moe_gather(int64_t n_gathered, int64_t cols, const int32_t *source, const uint16_t *in,
                       uint16_t *out, void *stream);
int lu_cuda_moe_scatter(int64_t n, int64_t cols, int64_t n_active, const int32_t *place,
                        const float *share, const uint16_t *y, int bf16, uint16_t *out, void *stream);

/* out[r] = float32 of logits[r] (act), soft-capped if cap > 0. */
int lu_cuda_logits(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16, float *out,
                   void *stream);

/* nll[r] = logsumexp(logits[r]) - logits[r][target[r]], soft-capped first if cap > 0. */
int lu_cuda_nll(int64_t n, int64_t vocab, const uint16_t *logits, float cap, int bf16,
                const int32_t *target, float *nll, void *stream);

/* One token per row from float32 logits [n][vocab], as lutra/engine.h's sampler: repetition penalty
   over seen (bit set [n][(vocab + 31) / 32]), temperature, top_k, top_p of what is left, min_p.
   temperature 0: the largest, ties to the lower id, NaN never. uniform[r]: the random number in
   [0, 1). ids[r]: the choice, whose bit in seen is then set (seen may be NULL: no penalty). */
typedef struct lu_cuda_sample_args {
    int64_t n, vocab;
    const float *logits;
    uint32_t *seen;
    float temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    const double *uniform;
    int32_t *ids;
    void *scratch; /* lu_cuda_sample_scratch bytes */
    void *stream;
} lu_cuda_sample_args;
size_t lu_cuda_sample_scratch(int64_t n, int64_t vocab);
int lu_cuda_sample(const lu_cuda_sample_args *a);

#ifdef __cplusplus
}
#endif
#endif
