/* check_rows.c - row kernels against their definitions in double. The bounds count roundings: k
   operations in a row give k u |result|, sums take each term's own, exp and tanh count as 2 ulp
   (4u). CK_TINY terms are for results that underflow. Where a kernel is monotone in the error of
   its argument the argument's error times the slope is added and explained. */
#include <math.h>
#include <string.h>

#include "checkkernel.h"
#include "tensor/convert.h"

typedef bool (*row_case)(ck *t, int64_t n, ck_kind kind);

static void every_row(ck *t, row_case run)
{
    for (const int64_t *n = ck_lengths; *n >= 0; n++)
        for (int kind = 0; kind < CK_N_KINDS; kind++) {
            ck_case(t, "n %lld, %s", (long long)*n, ck_kind_name((ck_kind)kind));
            const bool ok = run(t, *n, (ck_kind)kind);
            if (!ck_end_case(t) || !ok)
                return;
        }
}

/* Roundings: r, x r, w + offset, the product. */
static bool rmsnorm_case(ck *t, int64_t n, ck_kind kind)
{
    const float eps = 1e-5f, offset = n % 2 ? 1.0f : 0.0f;
    float *x = ck_input(t, n, kind), *w = ck_input(t, n, CK_HEAVY);
    float *y = ck_output(t, (size_t)n * sizeof *y), *in_place = ck_copy(t, x, n);
    ck_freeze(t, x);
    ck_freeze(t, w);
    t->ops->rmsnorm(y, x, w, n, eps, offset);
    t->ops->rmsnorm(in_place, in_place, w, n, eps, offset);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    const double r = 1 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) {
        const double scale = (double)w[i] + offset, want = x[i] * r * scale;
        const double bound = 4.1 * CK_U * fabs(want) + CK_TINY * (fabs(scale) + 1);
        if (!ck_close(t, "y", i, y[i], want, bound) ||
            !ck_same(t, "y in place", i, lu_f32_bits(in_place[i]), lu_f32_bits(y[i])))
            return false;
    }
    return true;
}

void ck_check_rmsnorm(ck *t) { every_row(t, rmsnorm_case); }

/* Two products and their sum: 2u of each product. */
static bool rope_case(ck *t, int64_t head_dim, int64_t n_heads, ck_kind kind)
{
    const int64_t half = head_dim / 2, n = n_heads * head_dim;
    float *x = ck_input(t, n, kind);
    float *c = ck_input(t, half, CK_ZERO), *s = ck_input(t, half, CK_ZERO);
    for (int64_t i = 0; i < half; i++) {
        const double angle = ck_gauss(t) * 100;
        c[i] = (float)cos(angle);
        s[i] = (float)sin(angle);
    }
    ck_freeze(t, c);
    ck_freeze(t, s);
    float *y = ck_copy(t, x, n);
    t->ops->rope(y, c, s, n_heads, head_dim);
    for (int64_t i = 0; i < n; i++) {
        const int64_t d = i % head_dim, pair = d % half;
        const double a = x[i - d + pair], b = x[i - d + pair + half];
        const double p = d < half ? a * c[pair] : b * c[pair];
        const double q = d < half ? -b * s[pair] : a * s[pair];
        if (!ck_close(t, "x", i, y[i], p + q, 2.1 * CK_U * (fabs(p) + fabs(q)) + 2 * CK_TINY))
            return false;
    }
    return true;
}

void ck_check_rope(ck *t)
{
    static const int64_t dims[] = {2, 4, 6, 14, 16, 18, 30, 32, 34, 64, 80, 96, 128, 256};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (int64_t heads = 0; heads <= 9; heads += 3)
            for (int kind = 0; kind < CK_N_KINDS; kind++) {
                ck_case(t, "head_dim %lld, heads %lld, %s", (long long)dims[d], (long long)heads,
                        ck_kind_name((ck_kind)kind));
                const bool ok = rope_case(t, dims[d], heads, (ck_kind)kind);
                if (!ck_end_case(t) || !ok)
                    return;
            }
}

/* a sigmoid(s) up: exp 4u (in the numerator or in 1 + e, not both beyond that), product, sum,
   quotient, product; an error ds of s shifts the logarithm of the result by |ds| (1 - sigmoid(s))
 */
static bool check_gated(ck *t, int64_t i, float got, double gate, double s, double up,
                        double s_error)
{
    const double sigmoid = s < 0 ? exp(s) / (1 + exp(s)) : 1 / (1 + exp(-s));
    const double slope = s < 0 ? 1 / (1 + exp(s)) : exp(-s) / (1 + exp(-s));
    const double want = gate * sigmoid * up;
    const double drift = isfinite(s) && slope > 0 ? s_error * fabs(s) * slope : 0;
    const double bound =
        fabs(want) * (10 * CK_U + drift) + 4 * CK_TINY * (fabs(gate) + 1) * (fabs(up) + 1);
    return ck_close(t, "y", i, got, want, bound);
}

static float *gate_input(ck *t, int64_t n, ck_kind kind)
{
    float *gate = ck_input(t, n, kind);
    for (int64_t i = 0; i < n && kind == CK_GAUSS; i++)
        gate[i] *= 30; /* through the underflow of exp at -87 and -104 */
    return gate;
}

static bool silu_case(ck *t, int64_t n, ck_kind kind)
{
    float *gate = gate_input(t, n, kind), *up = ck_input(t, n, CK_HEAVY);
    float *y = ck_output(t, (size_t)n * sizeof *y);
    ck_freeze(t, gate);
    ck_freeze(t, up);
    t->ops->silu_mul(y, gate, up, n);
    for (int64_t i = 0; i < n; i++)
        if (!check_gated(t, i, y[i], gate[i], gate[i], up[i], 0))
            return false;
    return true;
}

void ck_check_silu_mul(ck *t) { every_row(t, silu_case); }

/* s = 2 sqrt(2/pi) (g + 0.044715 g^3): two rounded constants and four operations, 6u */
static bool gelu_case(ck *t, int64_t n, ck_kind kind)
{
    float *gate = gate_input(t, n, kind), *up = ck_input(t, n, CK_HEAVY);
    float *y = ck_output(t, (size_t)n * sizeof *y);
    for (int64_t i = 0; i < n && kind == CK_GAUSS; i++)
        gate[i] /= 8; /* the cubic reaches the underflow of exp at about -9 */
    ck_freeze(t, gate);
    ck_freeze(t, up);
    t->ops->gelu_mul(y, gate, up, n);
    for (int64_t i = 0; i < n; i++) {
        const double g = gate[i], s = 1.5957691216057308 * (g + 0.044715 * g * g * g);
        if (!check_gated(t, i, y[i], g, s, up[i], 6 * CK_U))
            return false;
    }
    return true;
}

void ck_check_gelu_mul(ck *t) { every_row(t, gelu_case); }

/* One correctly rounded operation: exact. */
static bool add_case(ck *t, int64_t n, ck_kind kind)
{
    float *x = ck_input(t, n, kind), *y = ck_input(t, n, CK_HEAVY), *was = ck_copy(t, y, n);
    ck_freeze(t, x);
    t->ops->add(y, x, n);
    for (int64_t i = 0; i < n; i++)
        if (!ck_same(t, "y", i, lu_f32_bits(y[i]), lu_f32_bits(was[i] + x[i])))
            return false;
    return true;
}

void ck_check_add(ck *t) { every_row(t, add_case); }

/* Fused or not: u of the product, u of the sum. */
static bool axpy_case(ck *t, int64_t n, ck_kind kind)
{
    float *x = ck_input(t, n, kind), *y = ck_input(t, n, CK_HEAVY), *was = ck_copy(t, y, n);
    const float a = ck_gauss(t);
    ck_freeze(t, x);
    t->ops->axpy(y, a, x, n);
    for (int64_t i = 0; i < n; i++) {
        const double p = (double)a * x[i], want = was[i] + p;
        if (!ck_close(t, "y", i, y[i], want, 1.1 * CK_U * (fabs(p) + fabs(want)) + 2 * CK_TINY))
            return false;
    }
    return true;
}

void ck_check_axpy(ck *t) { every_row(t, axpy_case); }

/* Quotient (tanh's logarithmic slope is at most 1), tanh 4u, product. */
static bool softcap_case(ck *t, int64_t n, ck_kind kind)
{
    const float cap = n % 2 ? 30.0f : 50.0f;
    float *x = ck_input(t, n, kind), *was = ck_copy(t, x, n);
    for (int64_t i = 0; i < n && kind == CK_GAUSS; i++)
        was[i] = x[i] *= cap; /* both sides of the switch between tanh's two formulas */
    t->ops->softcap(x, cap, n);
    for (int64_t i = 0; i < n; i++) {
        const double want = cap * tanh((double)was[i] / cap);
        if (!ck_close(t, "x", i, x[i], want, 6.1 * CK_U * fabs(want) + CK_TINY * (cap + 1)))
            return false;
    }
    return true;
}

void ck_check_softcap(ck *t) { every_row(t, softcap_case); }
