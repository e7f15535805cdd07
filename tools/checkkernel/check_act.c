/* check_act.c - rounding of a linear's input: every operation is rounded once and in a fixed order,
   so results are compared exactly with the definition of kern/ops.h. */
#include <math.h>

#include "checkkernel.h"

typedef bool (*act_case)(ck *t, int64_t n, ck_kind kind);

static void every_length(ck *t, act_case run)
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++)
        for (int kind = 0; kind < CK_N_KINDS; kind++) {
            ck_case(t, "n %lld, %s", (long long)*n, ck_kind_name((ck_kind)kind));
            const bool ok = run(t, *n, (ck_kind)kind);
            if (!ck_end_case(t) || !ok)
                return;
        }
}

static bool range_of(ck *t, const float *x, int64_t n, double want_lo, double want_hi)
{
    float *r = ck_output(t, 2 * sizeof *r);
    t->ops->act_range(r, x, n);
    return ck_close(t, "lo_hi", 0, r[0], want_lo, 0) && ck_close(t, "lo_hi", 1, r[1], want_hi, 0);
}

static bool range_case(ck *t, int64_t n, ck_kind kind)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    float *x = ck_input(t, n, kind), *spoilt = ck_copy(t, x, n);
    double lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = fmin(lo, x[i]);
        hi = fmax(hi, x[i]);
    }
    ck_freeze(t, x);
    bool ok = range_of(t, x, n, lo, hi);
    for (int i = 0; i < 3 && n && ok; i++) { /* one bad value anywhere, also the last */
        const int64_t at = i ? (int64_t)(ck_random(t) % (uint64_t)n) : n - 1;
        const float was = spoilt[at];
        spoilt[at] = bad[i];
        ok = range_of(t, spoilt, n, NAN, NAN);
        spoilt[at] = was;
    }
    return ok;
}

void ck_check_act_range(ck *t) { every_length(t, range_case); }

/* Symmetric and asymmetric ranges of 2 to 8 bits; scales at which some values are clamped, ties
   occur, and none are. */
static bool encode_case(ck *t, int64_t n, ck_kind kind)
{
    float *x = ck_input(t, n, kind);
    const bool gauss = kind == CK_GAUSS || kind == CK_HEAVY;
    for (int64_t i = 0; i < n && gauss; i += 3)
        x[i] = rintf(x[i] * 16) / 32; /* ties of scale 1/16 */
    for (int64_t i = 1; i < n && gauss; i += 3)
        x[i] = (rintf(x[i] * 40) + 0.5f) * 0.003f; /* close to ties of another */
    ck_freeze(t, x);
    static const float scales[] = {0x1p-4f, 0.003f, 0x1p-126f, 3e30f};
    for (int i = 0; i < 4; i++)
        for (int bits = 2; bits <= 8; bits += 3) {
            const int symmetric = (int)(ck_random(t) % 2),
                      lowest = symmetric ? 128 - (1 << (bits - 1)) : 0;
            const int highest = lowest + (1 << bits) - 1;
            const int zero = symmetric ? 128 : (int)(ck_random(t) % (1u << bits));
            uint8_t *codes = ck_output(t, (size_t)n);
            t->ops->act_encode(codes, x, n, scales[i], zero, lowest, highest);
            for (int64_t j = 0; j < n; j++) {
                const double r = rint((double)(x[j] / scales[i])) + zero;
                const int want = r < lowest ? lowest : r > highest ? highest : (int)r;
                if (!ck_same(t, "code", j, codes[j], (uint32_t)want))
                    return false;
            }
        }
    return true;
}

void ck_check_act_encode(ck *t) { every_length(t, encode_case); }

static bool decode_case(ck *t, int64_t n, ck_kind kind)
{
    uint8_t *codes = ck_output(t, (size_t)n);
    float *y = ck_output(t, (size_t)n * sizeof *y), scale;
    ck_fill(t, &scale, 1, kind);
    const int zero = (int)(ck_random(t) % 256);
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)ck_random(t);
    ck_freeze(t, codes);
    t->ops->act_decode(y, codes, n, scale, zero);
    for (int64_t i = 0; i < n; i++)
        if (!ck_close(t, "y", i, y[i], (double)(scale * (float)(codes[i] - zero)), 0))
            return false;
    return true;
}

void ck_check_act_decode(ck *t) { every_length(t, decode_case); }
