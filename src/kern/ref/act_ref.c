/* act_ref.c - reference kernels that round the inputs of linears to integers (act_quant.h). */
#include <math.h>

#include "kern/levels.h"

static void act_range(float *lo_hi, const float *x, int64_t n)
{
    float lo = 0, hi = 0, probe = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        probe += x[i] * 0.0f; /* NaN from the first NaN or infinity on */
    }
    lo_hi[0] = isnan(probe) ? NAN : lo;
    lo_hi[1] = isnan(probe) ? NAN : hi;
}

static void act_encode(uint8_t *codes, const float *x, int64_t n, float scale, int zero, int lowest,
                       int highest)
{
    const float lo = (float)(lowest - zero), hi = (float)(highest - zero);
    for (int64_t i = 0; i < n; i++) {
        const float r = rintf(x[i] / scale);
        codes[i] = (uint8_t)((int)(r < lo ? lo : r > hi ? hi : r) + zero);
    }
}

static void act_decode(float *y, const uint8_t *codes, int64_t n, float scale, int zero)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = scale * (float)(codes[i] - zero);
}

void lu_fill_ref_act(lu_ops *ops)
{
    ops->act_range = act_range;
    ops->act_encode = act_encode;
    ops->act_decode = act_decode;
}
