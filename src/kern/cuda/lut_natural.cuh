/* lut_natural.cuh - a lane's codes of a brick, moved so that columns come in their natural order.

   The layout gives lane t of four the columns 8 t .. 8 t + 7 of 32; the A operand of mma and wgmma
   in natural order wants word 2 t, 2 t + 1 of each eight. With u the number of a pair among the four
   of a lane, that is a 4 x 4 transposition of (lane t, pair u), done on codes, before they become
   weights: activations can then lie as they lie in memory. */
#ifndef LU_KERN_CUDA_LUT_NATURAL_CUH
#define LU_KERN_CUDA_LUT_NATURAL_CUH

#include "kern/cuda/lut_brick.cuh"

/* What depends on t alone. */
struct lut_turn {
    unsigned give, keep0, keep1; /* permutes of halves (2 bits: of bytes) */
    bool t1, t0;
};

template <int B> static __device__ __forceinline__ lut_turn turn_of(int lane)
{
    lut_turn v;
    v.t0 = lane & 1;
    v.t1 = lane & 2;
    if (B == 2) {
        v.give = v.t1 ? 0x3276 : 0x5410;
        v.keep0 = v.t0 ? 0x3715 : 0x6240;
        v.keep1 = 0;
    } else {
        v.give = v.t0 ? 0x5410 : 0x7632;
        v.keep0 = v.t0 ? 0x3254 : 0x5410;
        v.keep1 = v.t0 ? 0x3276 : 0x7610;
    }
    return v;
}

static __device__ __forceinline__ unsigned from_lane(unsigned v, int distance)
{
    return __shfl_xor_sync(0xffffffffu, v, distance);
}

/* Halves of w0, w1 are pairs u = 0..3: both rows of a pair. */
static __device__ __forceinline__ void turn_halves(unsigned &w0, unsigned &w1, const lut_turn &v)
{
    const unsigned r = from_lane(v.t1 ? w0 : w1, 2);
    const unsigned a = v.t1 ? r : w0, b = v.t1 ? w1 : r;
    const unsigned q = from_lane(__byte_perm(a, b, v.give), 1);
    w0 = __byte_perm(a, q, v.keep0);
    w1 = __byte_perm(b, q, v.keep1);
}

/* Nibbles 1 and 2 of each half change places. */
static __device__ __forceinline__ unsigned swap_nibbles(unsigned w)
{
    const unsigned d = (w ^ w >> 4) & 0x00f000f0u;
    return w ^ d ^ d << 4;
}

/* The words of steps 2 h and 2 h + 1 in natural order. B = 3, 4: out[0], out[1], field i in byte i.
   B = 2: out[0], laid out as in lut_layout.cuh. B = 8: out[0..3], two words a step. */
template <int B>
static __device__ __forceinline__ void natural_words(const uint32_t *w, int h, const lut_turn &v, unsigned out[4])
{
    if (B == 2) {
        const unsigned e = swap_nibbles(w[h]);
        const unsigned a = __byte_perm(e, from_lane(e, 2), v.give);
        out[0] = swap_nibbles(__byte_perm(a, from_lane(a, 1), v.keep0));
    } else if (B == 8) {
        unsigned a[4];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const unsigned lo = w[4 * h + u], hi = w[4 * h + 2 + u], r = from_lane(v.t1 ? lo : hi, 2);
            a[u] = v.t1 ? r : lo;
            a[2 + u] = v.t1 ? hi : r;
        }
#pragma unroll
        for (int u = 0; u < 4; u += 2) {
            const unsigned r = from_lane(v.t0 ? a[u] : a[u + 1], 1);
            out[u] = v.t0 ? r : a[u];
            out[u + 1] = v.t0 ? a[u + 1] : r;
        }
    } else {
        if (B == 4) {
            out[0] = w[2 * h];
            out[1] = w[2 * h + 1];
        } else {
            const uint32_t *p = w + 3 * (h >> 1);
            if (h & 1) {
                out[0] = p[2];
                out[1] = (p[0] >> 6 & 0x03030303u) | (p[1] >> 4 & 0x0c0c0c0cu) | (p[2] >> 2 & 0x30303030u);
            } else {
                out[0] = p[0];
                out[1] = p[1];
            }
        }
        turn_halves(out[0], out[1], v);
    }
}

/* The A registers of steps 2 h and 2 h + 1. */
template <int B>
static __device__ __forceinline__ void natural_weights(const uint32_t *w, int h, const lut_turn &v, unsigned lane_at,
                                                       unsigned a[8])
{
    unsigned n[4];
    natural_words<B>(w, h, v, n);
#pragma unroll
    for (int step = 0; step < 2; step++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (B == 2) {
                a[4 * step + i] = look_up(entry_at<B>(n[0], 2 * step + (i & 1), lane_at) + (i >> 1) * LUT_SECOND_PAIR);
            } else if (B == 8) {
                const unsigned c = n[2 * step + (i >> 1)];
                const unsigned lo = look_up(entry_at<B>(c, 2 * (i & 1), lane_at));
                const unsigned hi = look_up(entry_at<B>(c, 2 * (i & 1) + 1, lane_at));
                a[4 * step + i] = __byte_perm(lo, hi, 0x5410);
            } else {
                a[4 * step + i] = look_up(entry_at<B>(n[step], i, lane_at));
            }
        }
    }
}

#endif
