/* rows_ref.c - reference kernels over one row: norm, rotation, activations, sums. Plain loops over
   libm; the numbers every other level is compared with. */
#include <math.h>

#include "kern/levels.h"

static void rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps, float w_offset)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    const float r = (float)(1.0 / sqrt(sum / (double)n + eps));
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * r * (w[i] + w_offset);
}

static void rope(float *x, const float *cos, const float *sin, int64_t n_heads, int64_t head_dim)
{
    const int64_t half = head_dim / 2;
    for (int64_t h = 0; h < n_heads; h++) {
        float *lo = x + h * head_dim, *hi = lo + half;
        for (int64_t i = 0; i < half; i++) {
            const float a = lo[i], b = hi[i];
            lo[i] = a * cos[i] - b * sin[i];
            hi[i] = b * cos[i] + a * sin[i];
        }
    }
}

/* x * sigmoid(t) without overflow or cancellation: e = exp(-|t|) <= 1 */
static float times_sigmoid(float x, float t)
{
    const float e = expf(-fabsf(t));
    return (t < 0 ? x * e : x) / (1.0f + e);
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = times_sigmoid(gate[i], gate[i]) * up[i];
}

/* x/2 (1 + tanh(u)) = x sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3) */
static void gelu_mul(float *y, const float *gate, const float *up, int64_t n)
{
    const float a = 1.5957691216f, b = 0.0713548163f; /* 2 sqrt(2/pi), and that times 0.044715 */
    for (int64_t i = 0; i < n; i++) {
        const float g = gate[i];
        y[i] = times_sigmoid(g, g * (a + b * (g * g))) * up[i];
    }
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void softcap(float *x, float cap, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = cap * tanhf(x[i] / cap);
}

void lu_fill_ref_rows(lu_ops *ops)
{
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->silu_mul = silu_mul;
    ops->gelu_mul = gelu_mul;
    ops->add = add;
    ops->axpy = axpy;
    ops->softcap = softcap;
}
