/* cuda_kv.cuh - where a token lies in the paged cache, and the rotation of a pair. */
#ifndef LU_KERN_CUDA_KV_CUH
#define LU_KERN_CUDA_KV_CUH

#include "kern/cuda/cuda_ops.h"

/* One layer of the cache. */
struct lu_kv_layer {
    uint16_t *keys, *values;
    const int32_t *pages;
    int64_t max_pages;
    int n_kv_heads, head_dim, page_shift; /* page_tokens = 1 << page_shift */
};

static inline bool lu_kv_sound(const lu_cuda_kv *kv)
{
    return kv->page_tokens >= 16 && kv->page_tokens <= 256 && !(kv->page_tokens & (kv->page_tokens - 1)) &&
           kv->n_kv_heads >= 1 && kv->n_kv_heads <= 65535 && kv->head_dim >= 8 && kv->head_dim <= 256 &&
           kv->head_dim % 8 == 0 && kv->n_pages >= 1 && kv->max_pages >= 1;
}

static inline lu_kv_layer lu_kv_of_layer(const lu_cuda_kv *kv, int64_t layer)
{
    const int64_t half = kv->n_pages * kv->n_kv_heads * kv->page_tokens * kv->head_dim;
    lu_kv_layer l = {kv->data + layer * 2 * half, kv->data + (layer * 2 + 1) * half, kv->pages, kv->max_pages,
                     (int)kv->n_kv_heads, (int)kv->head_dim, 0};
    while ((int64_t)1 << l.page_shift < kv->page_tokens)
        l.page_shift++;
    return l;
}

/* Elements from keys (or values) to token `token` of KV head `head`, given its page. Tokens that follow
   in the page follow at head_dim elements each. */
static __device__ __forceinline__ int64_t lu_kv_at(const lu_kv_layer &l, int page, int head, int token)
{
    const int slot = token & ((1 << l.page_shift) - 1);
    return ((((int64_t)page * l.n_kv_heads + head) << l.page_shift) + slot) * l.head_dim;
}

static __device__ __forceinline__ int lu_kv_page(const lu_kv_layer &l, int sequence, int token)
{
    return l.pages[sequence * l.max_pages + (token >> l.page_shift)];
}

/* Both halves of a rotated pair; every kernel rotates through these, so that all agree to the bit. */
static __device__ __forceinline__ float lu_rotated_low(float low, float high, float cosine, float sine)
{
    return fmaf(low, cosine, -(high * sine));
}

static __device__ __forceinline__ float lu_rotated_high(float low, float high, float cosine, float sine)
{
    return fmaf(high, cosine, low * sine);
}

#endif
