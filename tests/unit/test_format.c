/* test_format.c - format specs: what parses, what is refused with which help, sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "base/near.h"
#include "fmt/codec.h"
#include "lutra/format.h"

static void specs_parse_to_canonical_form(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"nf4", "nf4:g64:f16"},
        {"nf4:g64", "nf4:g64:f16"},
        {"int3:g128:asym", "int3:g128:asym:f16"},
        {"int8:channel:f32", "int8:channel:f32"},
        {"fp4:bf16:g32:sym", "fp4:g32:bf16"},
        {"int4:asym:f32:g256", "int4:g256:asym:f32"},
        {"nf2:g8", "nf2:g8:f16"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lutra_format f, again;
        lutra_err err;
        char spec[64];
        assert_int_equal(lutra_format_parse(cases[i][0], &f, &err), LUTRA_OK);
        assert_string_equal(lutra_format_spec(&f, spec, sizeof spec), cases[i][1]);
        assert_int_equal(lutra_format_parse(spec, &again, &err), LUTRA_OK);
        assert_memory_equal(&f, &again, sizeof f);
        assert_int_equal(lu_format_check(&f, &err), LUTRA_OK);
    }
}

static void bad_specs_are_refused_with_help(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "empty"},
        {"nf5", "near: nf4"},
        {"Nf4", "near: nf4"},
        {"itn4", "near: int4"},
        {"quartz", "known: nf4 nf3"},
        {"table", "lutra_format_from_table"},
        {"nf4:g0", "g64"},
        {"nf4:g12", "multiple of 8"},
        {"nf4:g64x", "g64"},
        {"nf4:g99999999999999999999", "multiple of 8"},
        {"nf4:g64:g32", "repeats"},
        {"nf4:g64:channel", "repeats"},
        {"int4:sym:asym", "repeats"},
        {"nf4:asym", "only the int"},
        {"fp4:asym", "only the int"},
        {"nf4:chanel", "near: channel"},
        {"nf4:f64", "near:"},
        {"nf4:", "unknown part ''"},
        {"nf4:g64:zzzzzz", "expected gSIZE"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lutra_format f = {.bits = 99};
        lutra_err err;
        assert_int_equal(lutra_format_parse(cases[i][0], &f, &err), LUTRA_E_ARG);
        if (!strstr(err.msg, cases[i][1]))
            fail_msg("'%s' gave '%s', expected '%s' in it", cases[i][0], err.msg, cases[i][1]);
        assert_int_equal(f.bits, 99);
    }
}

/* The largest weight of a group maps to an end of the table; lm tables clip it and have no zero. */
static void every_codebook_is_ascending_and_spans_its_absmax(void **state)
{
    (void)state;
    for (int c = 0; c < lutra_codebook_count(); c++) {
        lutra_format f;
        assert_true(strlen(lutra_codebook_help(c)) > 0);
        assert_int_equal(lutra_format_parse(lutra_codebook_name(c), &f, NULL), LUTRA_OK);
        bool has_low = false, has_high = false, has_zero = false;
        for (int i = 0; i < 1 << f.bits; i++) {
            assert_true(i == 0 || f.table[i - 1] <= f.table[i]);
            has_low |= f.table[i] == -f.absmax_ref;
            has_high |= f.table[i] == f.absmax_ref;
            has_zero |= f.table[i] == 0;
        }
        if (strncmp(f.name, "lm", 2) == 0 || f.learned) /* learning starts from lm */
            assert_true(f.table[(1 << f.bits) - 1] <= f.absmax_ref && !has_zero);
        else if (strncmp(f.name, "int", 3) == 0) /* absmax is half of all steps */
            assert_true(2 * f.absmax_ref == f.table[(1 << f.bits) - 1] - f.table[0] && has_zero);
        else
            assert_true(has_low && has_high && has_zero);
    }
    assert_null(lutra_codebook_name(-1));
    assert_null(lutra_codebook_name(lutra_codebook_count()));
}

static void nf4_holds_the_published_numbers(void **state)
{
    (void)state;
    lutra_format f;
    assert_int_equal(lutra_format_parse("nf4", &f, NULL), LUTRA_OK);
    assert_true(f.table[1] == -0.6961928009986877f && f.table[7] == 0 &&
                f.table[14] == 0.7229568362236023f);
    lu_grid g;
    lu_grid_init(&g, &f);
    static const float pivots[] = {-0.8480963707f, -0.6106328964f, -0.4599952698f, -0.3396794200f,
                                   -0.2346073985f, -0.1379117370f, -0.0455250181f, 0.0397901498f,
                                   0.1202552468f,  0.2035212517f,  0.2920137644f,  0.3893125355f,
                                   0.5016634464f,  0.6427869201f,  0.8614784479f};
    for (int i = 0; i < 15; i++)
        assert_true(fabsf(g.mid[i] - pivots[i]) <= 1e-7f);
}

static void a_users_table_is_checked(void **state)
{
    (void)state;
    const float good[4] = {3, -1, 0, 0.5f}, zeros[4] = {0}, nan[4] = {0, 1, NAN, 2},
                huge[4] = {0, 1, 2, 1e30f}, tiny[4] = {0, 1e-30f, 0, 0};
    lutra_format f;
    lutra_err err;
    assert_int_equal(lutra_format_from_table(good, 4, 32, LUTRA_F16, &f, &err), LUTRA_OK);
    assert_true(f.absmax_ref == 3 && f.bits == 2);
    char spec[64];
    assert_string_equal(lutra_format_spec(&f, spec, sizeof spec), "table:g32:f16");
    assert_int_equal(lutra_format_from_table(good, 3, 32, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(good, 4, 33, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(good, 4, -8, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(good, 4, 32, LUTRA_U8, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(zeros, 4, 32, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(nan, 4, 32, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "value 2"));
    assert_int_equal(lutra_format_from_table(huge, 4, 32, LUTRA_F16, &f, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_format_from_table(tiny, 4, 32, LUTRA_F16, &f, &err), LUTRA_E_ARG);
}

static void sizes_follow_from_bits_and_groups(void **state)
{
    (void)state;
    lutra_format f;
    assert_int_equal(lutra_format_parse("int3:g32", &f, NULL), LUTRA_OK);
    assert_int_equal(lutra_format_row_bytes(&f, 64), 24);
    assert_int_equal(lutra_format_row_bytes(&f, 3), 2);
    assert_int_equal(lutra_format_groups(&f, 96), 3);
    assert_int_equal(lutra_format_groups(&f, 100), 0);
    f.group_size = 0;
    assert_int_equal(lutra_format_groups(&f, 100), 1);
}

static void near_names_come_nearest_first(void **state)
{
    (void)state;
    static const char *const names[] = {"quantize", "eval", "run", "chat", "inspect", NULL};
    char buf[64], small[6];
    assert_int_equal(lu_near("quantise", lu_near_array, names, buf, sizeof buf), 1);
    assert_string_equal(buf, "quantize");
    assert_int_equal(lu_near("cat", lu_near_array, names, buf, sizeof buf), 1);
    assert_string_equal(buf, "chat");
    assert_int_equal(lu_near("rnu", lu_near_array, names, buf, sizeof buf), 1);
    assert_int_equal(lu_near("zzz", lu_near_array, names, buf, sizeof buf), 0);
    assert_string_equal(buf, "");
    assert_int_equal(lu_near("insp", lu_near_array, names, small, sizeof small), 1);
    assert_string_equal(small, "inspe");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_parse_to_canonical_form),
        cmocka_unit_test(bad_specs_are_refused_with_help),
        cmocka_unit_test(every_codebook_is_ascending_and_spans_its_absmax),
        cmocka_unit_test(nf4_holds_the_published_numbers),
        cmocka_unit_test(a_users_table_is_checked),
        cmocka_unit_test(sizes_follow_from_bits_and_groups),
        cmocka_unit_test(near_names_come_nearest_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
