/* check_encode.c - row encoders against the codec that defines the formats: codes, scales and zero
   points bit for bit, the energies against float64 and, bit for bit, against the reference level.
 */
#include <math.h>
#include <stdio.h>

#include "checkkernel.h"
#include "tensor/convert.h"

typedef struct {
    lutra_format format;
    lutra_dtype dtype; /* of the weights */
    int64_t k;
    ck_kind kind;
    bool poisoned; /* one weight is NaN or infinite */
} row_case;

typedef struct {
    uint8_t *codes, *scales, *zeros;
} encoded;

static encoded outputs(ck *t, const row_case *c)
{
    const size_t groups = (size_t)lutra_format_groups(&c->format, c->k);
    encoded e = {.codes = ck_output(t, lutra_format_row_bytes(&c->format, c->k))};
    e.scales = ck_output(t, groups * lutra_dtype_bytes(c->format.scale_dtype));
    e.zeros = c->format.zero_point ? ck_output(t, groups) : NULL;
    return e;
}

static bool same_bytes(ck *t, const char *what, const uint8_t *got, const uint8_t *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!ck_same(t, what, (int64_t)i, got[i], want[i]))
            return false;
    return true;
}

/* Weights in type dtype; exact[i] is what the encoder reads. */
static void *weights(ck *t, const row_case *c, float *exact)
{
    const size_t size = lutra_dtype_bytes(c->dtype);
    uint8_t *w = ck_output(t, (size_t)c->k * size);
    ck_fill(t, exact, c->k, c->kind);
    if (c->poisoned && c->k > 0)
        exact[ck_random(t) % (uint64_t)c->k] = ck_random(t) % 2 ? NAN : -INFINITY;
    lu_from_f32(c->dtype, exact, c->k, w);
    lu_to_f32(c->dtype, w, c->k, exact);
    ck_freeze(t, w);
    return w;
}

/* Energies: k/16 float additions per lane, and 3 roundings of a term. */
static void check_energies(ck *t, const row_case *c, const float *w, const encoded *e,
                           const lu_encode_row_args *got, const lu_encode_row_args *ref)
{
    float *decoded = ck_output(t, (size_t)c->k * sizeof *decoded);
    double signal = 0, noise = 0, rounding = 0;
    lu_decode_row(&c->format, e->codes, e->scales, e->zeros, c->k, decoded);
    for (int64_t i = 0; i < c->k; i++) {
        const double d = (double)w[i] - decoded[i];
        signal += (double)w[i] * w[i];
        noise += d * d;
        rounding += fabs(d) * CK_U * (fabs(w[i]) + fabs(decoded[i]));
    }
    const double u = CK_U * ((double)c->k / LU_ENCODE_LANES + 4), tiny = (double)c->k * CK_TINY;
    if (got->signal != ref->signal || got->noise != ref->noise)
        ck_fail(t, "energies %.17g %.17g, the reference has %.17g %.17g", got->signal, got->noise,
                ref->signal, ref->noise);
    if (signal > 0x1p126)
        return; /* squares beyond float */
    if (!(fabs(got->signal - signal) <= u * signal + tiny))
        ck_fail(t, "signal %.9g, expected %.9g", got->signal, signal);
    if (!(fabs(got->noise - noise) <= u * noise + 2 * rounding + tiny))
        ck_fail(t, "noise %.9g, expected %.9g", got->noise, noise);
}

static void check_row(ck *t, const row_case *c)
{
    const lutra_format *f = &c->format;
    const size_t groups = (size_t)lutra_format_groups(f, c->k);
    lu_encoder encoder, reference;
    lu_encoder_init(&encoder, f, t->level);
    lu_encoder_init(&reference, f, LU_LEVEL_REF);
    float *exact = ck_output(t, (size_t)c->k * sizeof *exact);
    const void *w = weights(t, c, exact);
    const encoded got = outputs(t, c), want = outputs(t, c), again = outputs(t, c);
    lu_encode_row_args a = {.w = w,
                            .dtype = c->dtype,
                            .k = c->k,
                            .codes = got.codes,
                            .scales = got.scales,
                            .zeros = got.zeros};
    lu_encode_row_args r = a;
    r.codes = again.codes;
    r.scales = again.scales;
    r.zeros = again.zeros;
    const int64_t bad = t->subject->encode_row(&encoder, &a);
    const int64_t expected = lu_encode_row(f, exact, c->k, want.codes, want.scales, want.zeros);
    lu_encoder_row(&reference, &r);
    if (bad != expected)
        ck_fail(t, "first bad column %lld, expected %lld", (long long)bad, (long long)expected);
    if (expected >= 0 || t->report->failed)
        return;
    const size_t scale_bytes = groups * lutra_dtype_bytes(f->scale_dtype);
    if (same_bytes(t, "scales", got.scales, want.scales, scale_bytes) &&
        (!f->zero_point || same_bytes(t, "zeros", got.zeros, want.zeros, groups)) &&
        same_bytes(t, "codes", got.codes, want.codes, lutra_format_row_bytes(f, c->k)))
        check_energies(t, c, exact, &got, &a, &r);
}

static const char *const GROUPS[] = {"g16", "g32", "g64", "g96", "g128", "channel"};
#define N_GROUPS (sizeof GROUPS / sizeof *GROUPS)

/* Formats of one codebook: each group size, symmetric and not, in turn with each scale type. */
static bool check_codebook(ck *t, const char *name, size_t *turn)
{
    static const lutra_dtype types[] = {LUTRA_F32, LUTRA_F16, LUTRA_BF16};
    static const char *const scales[] = {"f16", "bf16", "f32"};
    static const int64_t channels[] = {1, 15, 33, 131, 320};
    for (size_t g = 0; g < N_GROUPS; g++)
        for (int asym = 0; asym < 2; asym++)
            for (int kind = 0; kind <= CK_N_KINDS; kind++, ++*turn) {
                row_case c = {.dtype = types[*turn % 3], .poisoned = kind == CK_N_KINDS};
                c.kind = c.poisoned ? CK_GAUSS : (ck_kind)kind;
                char spec[100];
                snprintf(spec, sizeof spec, "%s:%s:%s:%s", name, GROUPS[g], asym ? "asym" : "sym",
                         scales[*turn / 3 % 3]);
                if (lutra_format_parse(spec, &c.format, NULL) != LUTRA_OK)
                    continue; /* some codebooks are symmetric only */
                c.k = c.format.group_size ? c.format.group_size * (int64_t)(1 + *turn % 4)
                                          : channels[*turn % 5];
                ck_case(t, "%s, k %lld, %s%s", spec, (long long)c.k, ck_kind_name(c.kind),
                        c.poisoned ? ", one not finite" : "");
                check_row(t, &c);
                if (!ck_end_case(t))
                    return false;
            }
    return true;
}

void ck_check_encode(ck *t)
{
    size_t turn = 0;
    for (int i = 0; i < lutra_codebook_count(); i++)
        if (!check_codebook(t, lutra_codebook_name(i), &turn))
            return;
}
