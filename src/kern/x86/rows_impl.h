/* rows_impl.h - the row kernels of rows_ref.c, reduce_ref.c and convert_ref.c on vectors. Included
   once by each level's *_rows.c, so everything here is static. The loops have one form: whole
   vectors and the tail are the same code with n = min(LANES, what is left). */

#include <stdbool.h>

#include "kern/levels.h"
#include "kern/x86/vec_math.h"

static inline int64_t step(int64_t n, int64_t i) { return n - i < LANES ? n - i : LANES; }

static void bf16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        v_store_n(y + i, v_load_bf16_n(x + i, step(n, i)), step(n, i));
}

static void f16_to_f32(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        v_store_n(y + i, v_load_f16_n(x + i, step(n, i)), step(n, i));
}

static void f32_to_bf16(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        v_store_bf16_n(y + i, v_load_n(x + i, step(n, i)), step(n, i));
}

static void f32_to_f16(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES)
        v_store_f16_n(y + i, v_load_n(x + i, step(n, i)), step(n, i));
}

static double sum_of_squares(const float *x, int64_t n)
{
    vec_double a = vd_zero(), b = vd_zero();
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) { /* two chains hide the latency of the sum */
        a = vd_add_square(a, vd_from(v_load(x + i)));
        b = vd_add_square(b, vd_from(v_load(x + i + LANES)));
    }
    for (; i < n; i += LANES)
        a = vd_add_square(a, vd_from(v_load_n(x + i, step(n, i))));
    return vd_sum(vd_add(a, b));
}

static void rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps, float w_offset)
{
    const vec r = v_set1((float)(1.0 / sqrt(sum_of_squares(x, n) / (double)n + eps)));
    const vec offset = v_set1(w_offset);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const vec scaled = v_mul(v_load_n(x + i, m), r);
        v_store_n(y + i, v_mul(scaled, v_add(v_load_n(w + i, m), offset)), m);
    }
}

static void rope(float *x, const float *cos, const float *sin, int64_t n_heads, int64_t head_dim)
{
    const int64_t half = head_dim / 2;
    for (int64_t h = 0; h < n_heads; h++) {
        float *lo = x + h * head_dim, *hi = lo + half;
        for (int64_t i = 0; i < half; i += LANES) {
            const int64_t m = step(half, i);
            const vec a = v_load_n(lo + i, m), b = v_load_n(hi + i, m);
            const vec c = v_load_n(cos + i, m), s = v_load_n(sin + i, m);
            v_store_n(lo + i, v_fnma(b, s, v_mul(a, c)), m);
            v_store_n(hi + i, v_fma(a, s, v_mul(b, c)), m);
        }
    }
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const vec g = v_load_n(gate + i, m);
        v_store_n(y + i, v_mul(v_times_sigmoid(g, g), v_load_n(up + i, m)), m);
    }
}

static void gelu_mul(float *y, const float *gate, const float *up, int64_t n)
{
    const vec a = v_set1(1.5957691216f), b = v_set1(0.0713548163f); /* see rows_ref.c */
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const vec g = v_load_n(gate + i, m);
        const vec t = v_mul(g, v_fma(b, v_mul(g, g), a));
        v_store_n(y + i, v_mul(v_times_sigmoid(g, t), v_load_n(up + i, m)), m);
    }
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        v_store_n(y + i, v_add(v_load_n(y + i, m), v_load_n(x + i, m)), m);
    }
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
    const vec va = v_set1(a);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        v_store_n(y + i, v_fma(va, v_load_n(x + i, m), v_load_n(y + i, m)), m);
    }
}

static void softcap(float *x, float cap, int64_t n)
{
    const vec c = v_set1(cap);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        v_store_n(x + i, v_softcap(v_load_n(x + i, m), c), m);
    }
}

/* -inf if there is no number; NaNs are passed over */
static float largest(const float *x, int64_t n)
{
    vec best = v_set1(-INFINITY);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        best = v_max(v_outside_to(v_load_n(x + i, m), 0, m, -INFINITY), best);
    }
    return v_hmax(best);
}

static void softmax(float *x, int64_t n)
{
    const vec top = v_set1(largest(x, n));
    vec_double sum = vd_zero();
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const vec e = v_exp(v_sub(v_load_n(x + i, m), top));
        v_store_n(x + i, e, m);
        sum = vd_add(sum, vd_from(v_outside_to(e, 0, m, 0.0f)));
    }
    const vec r = v_set1((float)(1.0 / vd_sum(sum)));
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        v_store_n(x + i, v_mul(v_load_n(x + i, m), r), m);
    }
}

static float logsumexp(const float *x, int64_t n)
{
    if (n == 0)
        return -INFINITY;
    const float m = largest(x, n);
    const vec top = v_set1(m);
    vec_double sum = vd_zero();
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t c = step(n, i);
        const vec e = v_exp(v_sub(v_load_n(x + i, c), top));
        sum = vd_add(sum, vd_from(v_outside_to(e, 0, c, 0.0f)));
    }
    return (float)(m + log(vd_sum(sum)));
}

/* The largest value first, then the first place that holds it. */
static int64_t argmax(const float *x, int64_t n)
{
    const vec top = v_set1(largest(x, n));
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const int lane = v_find_equal(v_outside_to(v_load_n(x + i, m), 0, m, NAN), top);
        if (lane >= 0)
            return i + lane;
    }
    return -1;
}

static void act_range(float *lo_hi, const float *x, int64_t n)
{
    const vec zero = v_set1(0);
    vec lo = zero, hi = zero, probe = zero;
    for (int64_t i = 0; i < n; i += LANES) {
        const vec v = v_load_n(x + i, step(n, i)); /* lanes past the end are 0 */
        lo = v_min(v, lo);
        hi = v_max(v, hi);
        probe = v_fma(v, zero, probe);
    }
    const bool finite = v_hsum(probe) == 0;
    lo_hi[0] = finite ? v_hmin(lo) : NAN;
    lo_hi[1] = finite ? v_hmax(hi) : NAN;
}

static void act_encode(uint8_t *codes, const float *x, int64_t n, float scale, int zero, int lowest,
                       int highest)
{
    const vec s = v_set1(scale), z = v_set1((float)zero);
    const vec lo = v_set1((float)(lowest - zero)), hi = v_set1((float)(highest - zero));
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        const vec r = v_round(v_div(v_load_n(x + i, m), s));
        v_store_u8_n(codes + i, v_add(v_min(v_max(r, lo), hi), z), m);
    }
}

static void act_decode(float *y, const uint8_t *codes, int64_t n, float scale, int zero)
{
    const vec s = v_set1(scale), z = v_set1((float)zero);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t m = step(n, i);
        v_store_n(y + i, v_mul(s, v_sub(v_load_u8_n(codes + i, m), z)), m);
    }
}

static void fill_rows(lu_ops *ops)
{
    ops->bf16_to_f32 = bf16_to_f32;
    ops->f16_to_f32 = f16_to_f32;
    ops->f32_to_bf16 = f32_to_bf16;
    ops->f32_to_f16 = f32_to_f16;
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->silu_mul = silu_mul;
    ops->gelu_mul = gelu_mul;
    ops->add = add;
    ops->axpy = axpy;
    ops->softcap = softcap;
    ops->softmax = softmax;
    ops->logsumexp = logsumexp;
    ops->argmax = argmax;
    ops->act_range = act_range;
    ops->act_encode = act_encode;
    ops->act_decode = act_decode;
}
