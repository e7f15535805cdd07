/* test_encode_kernel.c - every level's row encoder against the codec: codes, scales and zero points
   bit for bit, energies bit for bit between levels, nothing written outside the outputs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "kern/encode.h"
#include "tensor/convert.h"

#define MAX_K 2112
#define MARGIN 64

static uint32_t seed = 7;
static uint32_t bits32(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed;
}
static float uniform(void) { return (float)(bits32() >> 8) / 16777216.0f - 0.5f; }

/* Weight patterns: bell with outliers, exact ties of integer grids, tiny, zeros by groups, one
 * sign. */
static float weight(int pattern, int64_t i)
{
    const float bell = uniform() + uniform() + uniform() + uniform();
    switch (pattern) {
    case 0: return i % 97 == 5 ? 20 * bell : bell;
    case 1: return i % 32 == 0 ? 127.0f : 0.25f * (float)((int)(bits32() >> 16) % 512 - 256);
    case 2: return 1e-7f * bell;
    case 3: return i / 32 % 2 ? 0.0f : bell;
    case 4: return -0.5f - fabsf(bell);
    default: return 1e30f * bell; /* infinite as half: those rows are refused */
    }
}

typedef struct {
    uint8_t codes[MAX_K + MARGIN], scales[4 * MAX_K + MARGIN], zeros[MAX_K + MARGIN];
    double signal, noise;
    int64_t bad;
} result;

static void poison(result *r) { memset(r, 0xa5, sizeof *r); }

static void run(const lu_encoder *e, const void *w, lutra_dtype t, int64_t k, result *r)
{
    poison(r);
    lu_encode_row_args a = {.w = w,
                            .dtype = t,
                            .k = k,
                            .codes = r->codes,
                            .scales = r->scales,
                            .zeros = e->format.zero_point ? r->zeros : NULL};
    r->bad = lu_encoder_row(e, &a);
    r->signal = a.signal;
    r->noise = a.noise;
}

static void compare(const lutra_format *f, int64_t k, int pattern, lutra_dtype t)
{
    static float w[MAX_K], rounded[MAX_K];
    static uint8_t typed[4 * MAX_K];
    static result codec, ref, fast;
    static float decoded[MAX_K];
    for (int64_t i = 0; i < k; i++)
        w[i] = weight(pattern, i);
    lu_from_f32(t, w, k, typed);
    lu_to_f32(t, typed, k, rounded);

    poison(&codec);
    codec.bad = lu_encode_row(f, rounded, k, codec.codes, codec.scales, codec.zeros);
    for (int level = 0; level < LU_N_LEVELS; level++) {
        static lu_encoder e;
        if (!lu_level_available((lu_level)level))
            continue;
        lu_encoder_init(&e, f, (lu_level)level);
        run(&e, typed, t, k, &fast);
        if (level == 0)
            ref = fast;
        char spec[64];
        const bool same =
            codec.bad == fast.bad &&
            (codec.bad >= 0 || (memcmp(codec.codes, fast.codes, sizeof codec.codes) == 0 &&
                                memcmp(codec.scales, fast.scales, sizeof codec.scales) == 0 &&
                                memcmp(codec.zeros, fast.zeros, sizeof codec.zeros) == 0));
        if (!same)
            fail_msg("%s differs from the codec: %s, k %lld, pattern %d, %s",
                     lu_level_name((lu_level)level), lutra_format_spec(f, spec, sizeof spec),
                     (long long)k, pattern, lutra_dtype_name(t));
        if (codec.bad < 0 &&
            (memcmp(&ref.signal, &fast.signal, 8) || memcmp(&ref.noise, &fast.noise, 8)))
            fail_msg("%s: energies differ from ref: %s, k %lld, pattern %d, %s",
                     lu_level_name((lu_level)level), lutra_format_spec(f, spec, sizeof spec),
                     (long long)k, pattern, lutra_dtype_name(t));
    }
    if (codec.bad >= 0 || pattern > 1)
        return;
    double signal = 0, noise = 0;
    lu_decode_row(f, codec.codes, codec.scales, codec.zeros, k, decoded);
    for (int64_t i = 0; i < k; i++) {
        signal += (double)rounded[i] * (double)rounded[i];
        noise +=
            ((double)rounded[i] - (double)decoded[i]) * ((double)rounded[i] - (double)decoded[i]);
    }
    /* at most k/16 float32 additions a lane */
    const double bound = (4.0 + (double)k / 16) * 0x1p-24;
    assert_true(fabs(ref.signal - signal) <= bound * signal);
    assert_true(fabs(ref.noise - noise) <= bound * noise + 1e-30);
}

static void all_shapes(const lutra_format *f)
{
    static const int64_t ks[] = {1, 8, 31, 32, 96, 100, 128, 512, 640, 1056, MAX_K};
    static const lutra_dtype types[] = {LUTRA_BF16, LUTRA_F16, LUTRA_F32};
    for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
        for (int t = 0; t < 3; t++)
            for (int pattern = 0; pattern < 6; pattern++)
                if (lutra_format_groups(f, ks[i]) > 0)
                    compare(f, ks[i], pattern, types[t]);
}

static void every_level_encodes_as_the_codec(void **state)
{
    (void)state;
    static const char *const groups[] = {"g8", "g32", "g64", "g96", "channel"};
    static const char *const scales[] = {"f16", "bf16", "f32"};
    for (int c = 0; c < lutra_codebook_count(); c++)
        for (int asym = 0; asym < 2; asym++)
            for (int g = 0; g < 5; g++) {
                char spec[64];
                lutra_format f;
                snprintf(spec, sizeof spec, "%s:%s%s:%s", lutra_codebook_name(c), groups[g],
                         asym ? ":asym" : "", scales[(c + g) % 3]);
                if (lutra_format_parse(spec, &f, NULL) == LUTRA_OK)
                    all_shapes(&f);
            }
}

static void users_tables_in_any_order_encode_as_the_codec(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 8; bits++) {
        float values[256];
        lutra_format f;
        for (int i = 0; i < 1 << bits; i++)
            values[i] = uniform() * 3;
        values[1] = values[2]; /* one value twice */
        assert_int_equal(lutra_format_from_table(values, 1 << bits, 32, LUTRA_F16, &f, NULL),
                         LUTRA_OK);
        all_shapes(&f);
    }
}

static void a_bad_weight_is_found_at_every_level(void **state)
{
    (void)state;
    static const lutra_dtype types[] = {LUTRA_BF16, LUTRA_F16, LUTRA_F32};
    static const char *const specs[] = {"nf4:g32", "int8:g64:asym", "int5:channel"};
    static result r;
    for (int level = 0; level < LU_N_LEVELS; level++)
        for (int s = 0; s < 3; s++)
            for (int t = 0; t < 3; t++)
                for (int64_t at = 0; at < 192; at += 5) {
                    lutra_format f;
                    lu_encoder e;
                    float w[192];
                    uint8_t typed[4 * 192];
                    if (!lu_level_available((lu_level)level))
                        continue;
                    for (int64_t i = 0; i < 192; i++)
                        w[i] = i == at ? (at % 2 ? NAN : -INFINITY) : uniform();
                    lu_from_f32(types[t], w, 192, typed);
                    assert_int_equal(lutra_format_parse(specs[s], &f, NULL), LUTRA_OK);
                    lu_encoder_init(&e, &f, (lu_level)level);
                    run(&e, typed, types[t], 192, &r);
                    assert_int_equal(r.bad, at);
                }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_encodes_as_the_codec),
        cmocka_unit_test(users_tables_in_any_order_encode_as_the_codec),
        cmocka_unit_test(a_bad_weight_is_found_at_every_level),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
