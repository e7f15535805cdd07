/* test_range.c - the range rule mse: no group gets worse than under minmax, codes stay the nearest
   for the stored scale, every level and any bad weight as under minmax. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kern/encode.h"
#include "tensor/convert.h"

#define MAX_K 1056

static uint32_t seed = 11;
static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 16777216.0f - 0.5f;
}

/* Bell, bell with outliers, tiny, groups of zeros, one sign, and so large that squares overflow. */
#define PATTERNS 6
static float weight(int pattern, int64_t i)
{
    const float bell = uniform() + uniform() + uniform() + uniform();
    switch (pattern) {
    case 0: return bell;
    case 1: return i % 97 == 5 ? 20 * bell : bell;
    case 2: return 1e-7f * bell;
    case 3: return i / 32 % 2 ? 0.0f : bell;
    case 4: return -0.5f - fabsf(bell);
    default: return 1e25f * bell;
    }
}

typedef struct {
    uint8_t codes[MAX_K], zeros[MAX_K];
    float scales[MAX_K], decoded[MAX_K];
    double signal, noise;
    int64_t bad;
} result;

static void encode(const lutra_format *f, lu_level level, lutra_range range, lutra_dtype t,
                   const void *w, int64_t k, result *r)
{
    static lu_encoder e;
    memset(r, 0, sizeof *r);
    lu_encoder_init(&e, f, level);
    e.range = range;
    lu_encode_row_args a = {.w = w, .dtype = t, .k = k, .codes = r->codes, .scales = r->scales};
    a.zeros = f->zero_point ? r->zeros : NULL;
    r->bad = lu_encoder_row(&e, &a);
    if (r->bad >= 0)
        return;
    r->signal = a.signal;
    r->noise = a.noise;
    lu_decode_row(f, r->codes, r->scales, r->zeros, k, r->decoded);
}

typedef void (*check)(const lutra_format *f, lutra_dtype t, const void *typed, const float *w,
                      int64_t k);

static void shapes_of(const lutra_format *f, check run)
{
    static const int64_t ks[] = {1, 40, 100, 128, 512, MAX_K};
    static const lutra_dtype types[] = {LUTRA_BF16, LUTRA_F16, LUTRA_F32};
    static float w[MAX_K], typed[MAX_K];
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int pattern = 0; pattern < PATTERNS; pattern++) {
            const lutra_dtype t = types[(i + (size_t)pattern) % 3];
            if (lutra_format_groups(f, ks[i]) == 0)
                continue;
            for (int64_t j = 0; j < ks[i]; j++)
                w[j] = weight(pattern, j);
            lu_from_f32(t, w, ks[i], typed);
            lu_to_f32(t, typed, ks[i], w);
            run(f, t, typed, w, ks[i]);
        }
}

static void for_every_format(check run)
{
    static const char *const groups[] = {"g8", "g32", "g64", "channel"};
    static const char *const scales[] = {"f16", "bf16", "f32"};
    lutra_format f;
    for (int c = 0; c < lutra_codebook_count(); c++)
        for (int asym = 0; asym < 2; asym++)
            for (int g = 0; g < 4; g++) {
                char spec[64];
                snprintf(spec, sizeof spec, "%s:%s%s:%s", lutra_codebook_name(c), groups[g],
                         asym ? ":asym" : "", scales[(c + g) % 3]);
                if (lutra_format_parse(spec, &f, NULL) == LUTRA_OK)
                    shapes_of(&f, run);
            }
    for (int bits = 2; bits <= 8; bits++) {
        float values[256];
        for (int i = 0; i < 1 << bits; i++)
            values[i] = uniform() * 3;
        assert_int_equal(lutra_format_from_table(values, 1 << bits, 32, LUTRA_F16, &f, NULL),
                         LUTRA_OK);
        shapes_of(&f, run);
    }
}

static double squared_error(const float *w, const float *decoded, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += ((double)w[i] - decoded[i]) * ((double)w[i] - decoded[i]);
    return sum;
}

static void check_never_worse(const lutra_format *f, lutra_dtype t, const void *typed,
                              const float *w, int64_t k)
{
    static result minmax, mse;
    const int64_t size = f->group_size ? f->group_size : k;
    encode(f, LU_LEVEL_REF, LUTRA_RANGE_MINMAX, t, typed, k, &minmax);
    encode(f, LU_LEVEL_REF, LUTRA_RANGE_MSE, t, typed, k, &mse);
    assert_int_equal(minmax.bad, mse.bad);
    if (mse.bad >= 0)
        return;
    /* The rule compares sums of float32: a lane of size / 16 terms, a tree of 4, 3 roundings of a
       term; both sides have them. Tiny squares may underflow. */
    const double slack = 2 * ((double)size / 16 + 8) * 0x1p-24;
    for (int64_t at = 0; at < k; at += size) {
        const double before = squared_error(w + at, minmax.decoded + at, size),
                     after = squared_error(w + at, mse.decoded + at, size);
        if (!(after <= before * (1 + slack) + (double)size * 0x1p-149))
            fail_msg("%s, k %lld, group at %lld: squared error %.9g became %.9g", f->name,
                     (long long)k, (long long)at, before, after);
    }
}

static void no_group_gets_a_larger_squared_error(void **state)
{
    (void)state;
    for_every_format(check_never_worse);
}

static void check_nearest(const lutra_format *f, lutra_dtype t, const void *typed, const float *w,
                          int64_t k)
{
    static result r;
    const int64_t size = f->group_size ? f->group_size : k;
    encode(f, LU_LEVEL_REF, LUTRA_RANGE_MSE, t, typed, k, &r);
    for (int64_t i = 0; r.bad < 0 && i < k; i++) {
        const double scale = lu_scale_get(f->scale_dtype, r.scales, i / size);
        const double zero = f->zero_point ? f->table[r.zeros[i / size]] : 0;
        double best = INFINITY;
        for (int v = 0; v < 1 << f->bits; v++)
            best = fmin(best, fabs(w[i] - scale * (f->table[v] - zero)));
        const double slack = 4 * 0x1p-24 * (fabs((double)w[i]) + best);
        if (!(fabs((double)w[i] - r.decoded[i]) <= best + slack))
            fail_msg("%s: column %lld: %g became %g", f->name, (long long)i, (double)w[i],
                     (double)r.decoded[i]);
    }
}

static void codes_are_the_nearest_for_the_stored_scale(void **state)
{
    (void)state;
    for_every_format(check_nearest);
}

static void check_levels(const lutra_format *f, lutra_dtype t, const void *typed, const float *w,
                         int64_t k)
{
    static result ref, fast;
    (void)w;
    encode(f, LU_LEVEL_REF, LUTRA_RANGE_MSE, t, typed, k, &ref);
    for (int level = 1; level < LU_N_LEVELS; level++) {
        if (!lu_level_available((lu_level)level))
            continue;
        encode(f, (lu_level)level, LUTRA_RANGE_MSE, t, typed, k, &fast);
        const bool same = ref.bad == fast.bad &&
                          (ref.bad >= 0 || (memcmp(&ref.codes, &fast.codes, MAX_K) == 0 &&
                                            memcmp(&ref.zeros, &fast.zeros, MAX_K) == 0 &&
                                            memcmp(&ref.scales, &fast.scales, 4 * MAX_K) == 0 &&
                                            memcmp(&ref.noise, &fast.noise, 8) == 0));
        if (!same)
            fail_msg("%s differs from ref: %s, %d bits, k %lld, %s", lu_level_name((lu_level)level),
                     f->name, f->bits, (long long)k, lutra_dtype_name(t));
    }
}

static void every_level_chooses_the_same_range(void **state)
{
    (void)state;
    for_every_format(check_levels);
}

/* On bell-shaped groups of 64 minmax loses that much; the search must find most of it. */
static void the_noise_of_low_bits_falls(void **state)
{
    (void)state;
    static const struct {
        const char *spec;
        double most; /* noise of mse over noise of minmax */
    } cases[] = {{"int2:g64", 0.65}, {"int3:g64", 0.8}, {"nf2:g64", 0.7}, {"int2:g64:asym", 0.8}};
    static float w[MAX_K];
    static result minmax, mse;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lutra_format f;
        assert_int_equal(lutra_format_parse(cases[i].spec, &f, NULL), LUTRA_OK);
        double most = 0, least = 0;
        for (int row = 0; row < 64; row++) { /* enough groups that chance decides nothing */
            for (int64_t j = 0; j < 1024; j++)
                w[j] = weight(0, j);
            encode(&f, LU_LEVEL_REF, LUTRA_RANGE_MINMAX, LUTRA_F32, w, 1024, &minmax);
            encode(&f, LU_LEVEL_REF, LUTRA_RANGE_MSE, LUTRA_F32, w, 1024, &mse);
            most += minmax.noise;
            least += mse.noise;
        }
        print_message("%s: %.3f of the noise\n", cases[i].spec, least / most);
        if (!(least <= cases[i].most * most))
            fail_msg("%s: noise %g of %g", cases[i].spec, least, most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_group_gets_a_larger_squared_error),
        cmocka_unit_test(codes_are_the_nearest_for_the_stored_scale),
        cmocka_unit_test(every_level_chooses_the_same_range),
        cmocka_unit_test(the_noise_of_low_bits_falls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
