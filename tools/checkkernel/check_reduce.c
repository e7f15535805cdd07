/* check_reduce.c - softmax, logsumexp and argmax against their definitions in double.
   The difference x - max is rounded once, which changes exp's result by u |x - max| relatively;
   `spread` is the average of that over the distribution and so the error of the sum. */
#include <math.h>

#include "checkkernel.h"

typedef struct {
    double max, sum, spread;
} reduction;

static reduction reduce(const float *x, int64_t n)
{
    reduction r = {-INFINITY, 0, 0};
    for (int64_t i = 0; i < n; i++)
        r.max = x[i] > r.max ? x[i] : r.max;
    for (int64_t i = 0; i < n; i++) {
        const double d = x[i] - r.max, e = exp(d);
        r.sum += e;
        r.spread += e > 0 ? e * -d : 0;
    }
    r.spread /= r.sum;
    return r;
}

static float *logits(ck *t, int64_t n, ck_kind kind)
{
    float *x = ck_input(t, n, kind);
    for (int64_t i = 0; i < n && kind == CK_GAUSS; i++)
        x[i] *= 20;
    if (kind == CK_GAUSS && n > 9)
        x[n - 2] = -INFINITY; /* what a mask leaves */
    return x;
}

void ck_check_softmax(ck *t)
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++)
        for (int kind = 0; kind < CK_N_KINDS; kind++) {
            ck_case(t, "n %lld, %s", (long long)*n, ck_kind_name((ck_kind)kind));
            float *x = logits(t, *n, (ck_kind)kind), *was = ck_copy(t, x, *n);
            t->ops->softmax(x, *n);
            const reduction r = reduce(was, *n);
            for (int64_t i = 0; i < *n && !t->report->failed; i++) {
                const double d = was[i] - r.max, want = exp(d) / r.sum;
                const double slack = want > 0 ? -d + r.spread : 0;
                /* exp, the same in the sum, 1/sum, product */
                ck_close(t, "p", i, x[i], want, CK_U * want * (10.1 + 1.1 * slack) + 2 * CK_TINY);
            }
            if (!ck_end_case(t))
                return;
        }
}

void ck_check_logsumexp(ck *t)
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++)
        for (int kind = 0; kind < CK_N_KINDS; kind++) {
            ck_case(t, "n %lld, %s", (long long)*n, ck_kind_name((ck_kind)kind));
            float *x = logits(t, *n, (ck_kind)kind);
            ck_freeze(t, x);
            const float got = t->ops->logsumexp(x, *n);
            const reduction r = reduce(x, *n);
            const double want = *n > 0 ? r.max + log(r.sum) : -INFINITY;
            if (*n > 0)
                ck_close(t, "result", 0, got, want,
                         CK_U * (1.1 * fabs(want) + 4.1 + 1.1 * r.spread) + CK_TINY);
            else if (got != want)
                ck_fail(t, "empty sum gives %g, expected -inf", (double)got);
            if (!ck_end_case(t))
                return;
        }
}

static int64_t first_largest(const float *x, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = n - 1; i >= 0; i--)
        if (!isnan(x[i]) && (best < 0 || x[i] >= x[best]))
            best = i;
    return best;
}

void ck_check_argmax(ck *t)
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++)
        for (int kind = 0; kind < 2 * CK_N_KINDS; kind++) {
            const bool ties = kind >= CK_N_KINDS;
            const ck_kind k = (ck_kind)(kind % CK_N_KINDS);
            ck_case(t, "n %lld, %s%s", (long long)*n, ck_kind_name(k),
                    ties ? ", ties and NaN" : "");
            float *x = ck_input(t, *n, k);
            for (int64_t i = 0; i < *n && ties; i++)
                x[i] = ck_random(t) % 8 == 0 ? NAN : truncf(x[i]);
            ck_freeze(t, x);
            const int64_t got = t->ops->argmax(x, *n), want = first_largest(x, *n);
            if (got != want)
                ck_fail(t, "index %lld, expected %lld", (long long)got, (long long)want);
            if (!ck_end_case(t))
                return;
        }
}
