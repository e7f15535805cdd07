/* test_codec.c - the reference encoder and decoder: nearest values, idempotence, edge cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fmt/codec.h"
#include "tensor/convert.h"

#define MAX_K 1024

/* Small deterministic generator; sums of four uniforms are close enough to a normal. */
static uint32_t seed = 1;
static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 16777216.0f - 0.5f;
}
static float bell(void) { return uniform() + uniform() + uniform() + uniform(); }

typedef struct {
    uint8_t codes[MAX_K];
    float scales[MAX_K / 8]; /* room for any scale type */
    uint8_t zeros[MAX_K / 8];
} row;

typedef void (*check)(const lutra_format *f, const float *w, int64_t k);

/* Every codebook, symmetry, group and scale type, with several weights and lengths. */
static void for_every_format(check run)
{
    static const char *const groups[] = {"g8", "g32", "g64", "g128", "channel"};
    static const char *const scales[] = {"f16", "bf16", "f32"};
    static const float sizes[] = {1, 1e-3f, 300};
    for (int c = 0; c < lutra_codebook_count(); c++)
        for (int asym = 0; asym < 2; asym++)
            for (int g = 0; g < 5; g++)
                for (int s = 0; s < 3; s++) {
                    char spec[64];
                    lutra_format f;
                    snprintf(spec, sizeof spec, "%s:%s%s:%s", lutra_codebook_name(c), groups[g],
                             asym ? ":asym" : "", scales[s]);
                    if (lutra_format_parse(spec, &f, NULL) != LUTRA_OK)
                        continue;
                    const int64_t ks[] = {1, 7, 77, 128, 640};
                    for (int i = 0; i < 5; i++) {
                        float w[MAX_K];
                        if (lutra_format_groups(&f, ks[i]) == 0)
                            continue;
                        for (int64_t j = 0; j < ks[i]; j++)
                            w[j] = bell() * sizes[i % 3] * (j % 50 == 3 ? 10.0f : 1.0f);
                        run(&f, w, ks[i]);
                    }
                }
}

static void check_nearest(const lutra_format *f, const float *w, int64_t k)
{
    row r;
    float out[MAX_K];
    assert_int_equal(lu_encode_row(f, w, k, r.codes, r.scales, r.zeros), -1);
    lu_decode_row(f, r.codes, r.scales, r.zeros, k, out);
    const int64_t group = f->group_size ? f->group_size : k;
    for (int64_t i = 0; i < k; i++) {
        const double scale = lu_scale_get(f->scale_dtype, r.scales, i / group);
        const double zero = f->zero_point ? f->table[r.zeros[i / group]] : 0;
        double best = INFINITY;
        bool on_grid = false;
        for (int v = 0; v < 1 << f->bits; v++) {
            const double value = scale * (f->table[v] - zero);
            best = fmin(best, fabs(w[i] - value));
            on_grid |= out[i] == (float)value;
        }
        assert_true(on_grid);
        /* pivots and values are rounded to float32 once each */
        const double slack = 4 * 0x1p-24 * (fabs((double)w[i]) + best);
        if (!(fabs((double)w[i] - out[i]) <= best + slack))
            fail_msg("%s: column %lld: %g became %g", f->name, (long long)i, w[i], out[i]);
    }
}

static void every_weight_gets_the_nearest_value_of_its_grid(void **state)
{
    (void)state;
    for_every_format(check_nearest);
}

static void check_idempotent(const lutra_format *f, const float *w, int64_t k)
{
    row a, b;
    float once[MAX_K], twice[MAX_K];
    if (f->zero_point || -f->table[0] < f->absmax_ref ||
        f->table[(1 << f->bits) - 1] < f->absmax_ref)
        return; /* the decoded range may be narrower than the grid: another scale */
    assert_int_equal(lu_encode_row(f, w, k, a.codes, a.scales, a.zeros), -1);
    for (int64_t i = 0; i < lutra_format_groups(f, k); i++)
        if (f->scale_dtype == LUTRA_F16 && lu_scale_get(LUTRA_F16, a.scales, i) < 0x1p-14f)
            return; /* a subnormal half is too coarse for absmax to keep its code */
    lu_decode_row(f, a.codes, a.scales, a.zeros, k, once);
    assert_int_equal(lu_encode_row(f, once, k, b.codes, b.scales, b.zeros), -1);
    for (int64_t i = 0; i < k; i++) /* values, as fp tables have two codes for 0 */
        assert_true(f->table[lu_code_at(a.codes, i, f->bits)] ==
                    f->table[lu_code_at(b.codes, i, f->bits)]);
    lu_decode_row(f, b.codes, b.scales, b.zeros, k, twice);
    for (int64_t i = 0; i < k; i++) /* float32 scales may move by an ulp: a * 7 / 7 */
        assert_true(fabsf(once[i] - twice[i]) <=
                    (f->scale_dtype == LUTRA_F32 ? 0x1p-23f * fabsf(once[i]) : 0));
}

static void encoding_decoded_weights_changes_nothing(void **state)
{
    (void)state;
    for_every_format(check_idempotent);
}

static void a_weight_midway_takes_the_lower_value(void **state)
{
    (void)state;
    lutra_format f;
    row r;
    float out[8];
    assert_int_equal(lutra_format_parse("int4:g8:f32", &f, NULL), LUTRA_OK);
    const float w[8] = {7, 0.5f, -0.5f, 1.5f, 2.5f, -2.5f, 0.50001f, -7.5f}; /* scale 1 */
    const float expected[8] = {7, 0, -1, 1, 2, -3, 1, -8};
    assert_int_equal(lu_encode_row(&f, w, 8, r.codes, r.scales, NULL), -1);
    lu_decode_row(&f, r.codes, r.scales, NULL, 8, out);
    for (int i = 0; i < 8; i++)
        assert_true(out[i] == expected[i]);
}

static void a_group_of_zeros_decodes_to_zeros(void **state)
{
    (void)state;
    for (int c = 0; c < lutra_codebook_count(); c++)
        for (int asym = 0; asym < 2; asym++) {
            char spec[64];
            lutra_format f;
            row r;
            float w[64] = {0}, out[64];
            snprintf(spec, sizeof spec, "%s:g32%s", lutra_codebook_name(c), asym ? ":asym" : "");
            if (lutra_format_parse(spec, &f, NULL) != LUTRA_OK)
                continue;
            w[5] = -0.0f;
            w[40] = 1;
            assert_int_equal(lu_encode_row(&f, w, 64, r.codes, r.scales, r.zeros), -1);
            assert_true(lu_scale_get(LUTRA_F16, r.scales, 0) == 0);
            lu_decode_row(&f, r.codes, r.scales, r.zeros, 64, out);
            const bool has_zero = strncmp(f.name, "lm", 2) != 0 && !f.learned;
            /* a symmetric integer's largest weight lies half a step beyond the highest code */
            const float beyond = f.zero_point ? 0 : f.absmax_ref - f.table[(1 << f.bits) - 1];
            const float off = (beyond > 0 ? beyond / f.absmax_ref : 0) + 1e-3f;
            for (int i = 0; i < (has_zero ? 64 : 32); i++)
                assert_true(i == 40 ? fabsf(out[i] - 1) < off : out[i] == 0);
            assert_true(!has_zero || f.table[lu_code_at(r.codes, 0, f.bits)] == 0);
        }
}

static void an_asymmetric_range_contains_zero(void **state)
{
    (void)state;
    lutra_format f;
    row r;
    float w[32], out[32];
    assert_int_equal(lutra_format_parse("int4:g32:asym:f32", &f, NULL), LUTRA_OK);
    for (int i = 0; i < 32; i++)
        w[i] = 1.0f + (float)i / 31.0f; /* 1 .. 2: the grid covers 0 .. 2 */
    assert_int_equal(lu_encode_row(&f, w, 32, r.codes, r.scales, r.zeros), -1);
    assert_int_equal(r.zeros[0], 0);
    assert_true(r.scales[0] == 2.0f / 15.0f);
    for (int i = 0; i < 32; i++)
        w[i] = -w[i];
    assert_int_equal(lu_encode_row(&f, w, 32, r.codes, r.scales, r.zeros), -1);
    assert_int_equal(r.zeros[0], 15);
    lu_decode_row(&f, r.codes, r.scales, r.zeros, 32, out);
    for (int i = 0; i < 32; i++)
        assert_true(fabsf(out[i] - w[i]) <= 0.5001f * r.scales[0]);
}

static void scales_neither_vanish_nor_overflow(void **state)
{
    (void)state;
    static const char *const specs[] = {"nf4:g8:f16", "nf4:g8:bf16", "nf4:g8:f32",
                                        "int8:g8:asym:f16"};
    for (int s = 0; s < 4; s++) {
        lutra_format f;
        row r;
        float out[8];
        assert_int_equal(lutra_format_parse(specs[s], &f, NULL), LUTRA_OK);
        const float tiny[8] = {1e-9f, -1e-9f, 1e-40f}, huge[8] = {0, 3e38f, -3e38f};
        assert_int_equal(lu_encode_row(&f, tiny, 8, r.codes, r.scales, r.zeros), -1);
        assert_true(lu_scale_get(f.scale_dtype, r.scales, 0) > 0);
        lu_decode_row(&f, r.codes, r.scales, r.zeros, 8, out);
        for (int i = 0; i < 8; i++)
            assert_true(fabsf(out[i]) <= 0x1p-24f && isfinite(out[i]));
        assert_int_equal(lu_encode_row(&f, huge, 8, r.codes, r.scales, r.zeros), 1);
    }
}

static void the_first_bad_weight_is_named(void **state)
{
    (void)state;
    lutra_format f;
    row r;
    assert_int_equal(lutra_format_parse("nf4:g32", &f, NULL), LUTRA_OK);
    float w[64] = {0};
    w[40] = NAN;
    w[50] = INFINITY;
    assert_int_equal(lu_encode_row(&f, w, 64, r.codes, r.scales, NULL), 40);
    w[40] = 1;
    assert_int_equal(lu_encode_row(&f, w, 64, r.codes, r.scales, NULL), 50);
    w[50] = -INFINITY;
    assert_int_equal(lu_encode_row(&f, w, 64, r.codes, r.scales, NULL), 50);
}

static void a_users_table_decodes_to_exactly_its_values(void **state)
{
    (void)state;
    const float values[8] = {0.3f, -1, 0, 0.1f, 1, -0.2f, 0.7f, 0.3f}; /* unsorted, one twice */
    lutra_format f;
    row r;
    float out[8];
    assert_int_equal(lutra_format_from_table(values, 8, 8, LUTRA_F16, &f, NULL), LUTRA_OK);
    assert_int_equal(lu_encode_row(&f, values, 8, r.codes, r.scales, NULL), -1);
    lu_decode_row(&f, r.codes, r.scales, NULL, 8, out);
    for (int i = 0; i < 8; i++) {
        assert_true(out[i] == values[i]);
        assert_int_equal(lu_code_at(r.codes, i, 3), i == 7 ? 0 : i);
    }
}

static void packed_codes_come_back_and_padding_is_zero(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 8; bits++)
        for (int64_t n = 0; n < 70; n++) {
            uint8_t codes[70], back[70], packed[80];
            memset(packed, 0xee, sizeof packed);
            for (int64_t i = 0; i < n; i++)
                codes[i] = (uint8_t)((unsigned)(uniform() * 1000 + 500) & ((1u << bits) - 1));
            lu_codes_pack(codes, n, bits, packed);
            lu_codes_unpack(packed, n, bits, back);
            const int64_t bytes = (n * bits + 7) / 8;
            assert_memory_equal(codes, back, (size_t)n);
            assert_int_equal(packed[bytes], 0xee);
            if (n * bits % 8)
                assert_int_equal(packed[bytes - 1] >> (n * bits % 8), 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_weight_gets_the_nearest_value_of_its_grid),
        cmocka_unit_test(encoding_decoded_weights_changes_nothing),
        cmocka_unit_test(a_weight_midway_takes_the_lower_value),
        cmocka_unit_test(a_group_of_zeros_decodes_to_zeros),
        cmocka_unit_test(an_asymmetric_range_contains_zero),
        cmocka_unit_test(scales_neither_vanish_nor_overflow),
        cmocka_unit_test(the_first_bad_weight_is_named),
        cmocka_unit_test(a_users_table_decodes_to_exactly_its_values),
        cmocka_unit_test(packed_codes_come_back_and_padding_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
