/* check_convert.c - conversions must be exact: every bit pattern is compared with the scalar
   functions of tensor/convert.h. A NaN may become any NaN. */
#include <math.h>
#include <string.h>

#include "checkkernel.h"
#include "tensor/convert.h"

typedef void (*widen)(float *, const uint16_t *, int64_t);
typedef void (*narrow)(uint16_t *, const float *, int64_t);

static void check_widen(ck *t, widen run, float (*truth)(uint16_t))
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++) {
        ck_case(t, "n %lld", (long long)*n);
        uint16_t *x = ck_output(t, (size_t)*n * sizeof *x);
        float *y = ck_output(t, (size_t)*n * sizeof *y);
        for (int64_t i = 0; i < *n; i++)
            x[i] = (uint16_t)ck_random(t);
        ck_freeze(t, x);
        run(y, x, *n);
        for (int64_t i = 0; i < *n && !t->report->failed; i++) {
            const float want = truth(x[i]);
            if (!isnan(want) || !isnan(y[i]))
                ck_same(t, "y", i, lu_f32_bits(y[i]), lu_f32_bits(want));
        }
        if (!ck_end_case(t))
            return;
    }
}

/* NaNs whose kept bits are zero or carry over, the largest float, both sides of fp16's overflow
   (65520) and of its smallest subnormal's half, and the zeros */
static const uint32_t SPECIAL[] = {0x7f800001, 0xff800001, 0x7fffffff, 0xffffffff, 0x7f7fffff,
                                   0x7f800000, 0xff800000, 0x477fefff, 0x477ff000, 0x477fe001,
                                   0x33000000, 0x33000001, 0x387fc000, 0x387fe000, 0x80000000,
                                   0x00000000, 0x00000001, 0x80800000};

/* In turn: random bits, a tie of bf16, a tie of fp16, an exponent near one end of fp16's range,
   a special value. */
static float awkward(ck *t, int64_t i)
{
    const uint32_t u = (uint32_t)ck_random(t);
    switch (i % 5) {
    case 4: return lu_f32_from_bits(SPECIAL[u % (sizeof SPECIAL / sizeof *SPECIAL)]);
    case 1: return lu_f32_from_bits((u & 0xffff0000u) | 0x8000u);         /* tie of bf16 */
    case 2: return ldexpf((float)(u % 4096) + 0.5f, (int)(u >> 27) - 26); /* ties of fp16 */
    case 3: return ldexpf(ck_gauss(t), u % 2 ? 15 : -20);
    default: return lu_f32_from_bits(u);
    }
}

static void check_narrow(ck *t, narrow run, uint16_t (*truth)(float), float (*back)(uint16_t))
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++) {
        ck_case(t, "n %lld", (long long)*n);
        float *x = ck_output(t, (size_t)*n * sizeof *x);
        uint16_t *y = ck_output(t, (size_t)*n * sizeof *y);
        for (int64_t i = 0; i < *n; i++)
            x[i] = awkward(t, i);
        ck_freeze(t, x);
        run(y, x, *n);
        for (int64_t i = 0; i < *n && !t->report->failed; i++)
            if (!isnan(x[i]) || !isnan(back(y[i])))
                ck_same(t, "y", i, y[i], truth(x[i]));
        if (!ck_end_case(t))
            return;
    }
}

static float widen_bf16(uint16_t h) { return lu_bf16_to_f32(h); }
static uint16_t narrow_bf16(float f) { return lu_f32_to_bf16(f); }

void ck_check_bf16_to_f32(ck *t) { check_widen(t, t->ops->bf16_to_f32, widen_bf16); }
void ck_check_f16_to_f32(ck *t) { check_widen(t, t->ops->f16_to_f32, lu_f16_to_f32); }
void ck_check_f32_to_bf16(ck *t) { check_narrow(t, t->ops->f32_to_bf16, narrow_bf16, widen_bf16); }
void ck_check_f32_to_f16(ck *t)
{
    check_narrow(t, t->ops->f32_to_f16, lu_f32_to_f16, lu_f16_to_f32);
}
