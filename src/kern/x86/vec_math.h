/* vec_math.h - exp and tanh on vectors, written in the operations of vec.h. Coefficients are
   minimax fits (Lawson iteration on 4000 Chebyshev points) rounded to float. NaN stays NaN,
   exp(-inf) = 0, exp(inf) = inf. */
#ifndef LU_KERN_X86_VEC_MATH_H
#define LU_KERN_X86_VEC_MATH_H

#include "kern/x86/vec.h"

/* x = n ln2 + r, |r| <= ln2/2; exp(x) = 2^n (1 + r + r^2 p(r)), |error of p r^2| < 3.2e-9.
   ln2 in two floats: the fma makes n * ln2_hi exact. Error below 1.04 ulp (every 37th float). */
static inline vec v_exp(vec x)
{
    x = v_min(v_set1(100.0f), v_max(v_set1(-110.0f), x)); /* beyond, the result is inf or 0 */
    const vec n = v_round(v_mul(x, v_set1(0x1.715476p+0f)));
    vec r = v_fnma(n, v_set1(0x1.62e430p-1f), x);
    r = v_fnma(n, v_set1(-0x1.05c610p-29f), r);
    vec p = v_set1(0x1.6db4e8p-10f);
    p = v_fma(p, r, v_set1(0x1.123bdep-7f));
    p = v_fma(p, r, v_set1(0x1.55545ep-5f));
    p = v_fma(p, r, v_set1(0x1.55548ep-3f));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(v_mul(p, r), r, r);
    return v_scale2(v_add(p, v_set1(1.0f)), n);
}

/* |x| < 0.625: x + x^3 p(x^2); else 1 - 2 / (exp(2|x|) + 1) with x's sign. Error below 1.31
   ulp (every 37th float). */
static inline vec v_tanh(vec x)
{
    const vec a = v_abs(x), z = v_mul(x, x);
    vec p = v_set1(-0.005717044696211815f);
    p = v_fma(p, z, v_set1(0.020650586113333702f));
    p = v_fma(p, z, v_set1(-0.05374349653720856f));
    p = v_fma(p, z, v_set1(0.13331490755081177f));
    p = v_fma(p, z, v_set1(-0.3333328366279602f));
    const vec small = v_fma(v_mul(p, z), x, x);
    const vec e = v_exp(v_add(a, a));
    const vec big = v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(e, v_set1(1.0f))));
    return v_if_less(a, v_set1(0.625f), small, v_copysign(big, x));
}

/* cap * tanh(s / cap) */
static inline vec v_softcap(vec s, vec cap) { return v_mul(cap, v_tanh(v_div(s, cap))); }

/* x * sigmoid(t) without overflow or cancellation: e = exp(-|t|) <= 1 */
static inline vec v_times_sigmoid(vec x, vec t)
{
    const vec e = v_exp(v_sub(v_set1(0.0f), v_abs(t)));
    const vec top = v_if_less(t, v_set1(0.0f), v_mul(x, e), x);
    return v_div(top, v_add(v_set1(1.0f), e));
}

#endif
