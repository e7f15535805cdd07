/* test_table.c - names and availability of CPU levels, and that every level fills every slot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kern/table.h"

static void the_reference_level_exists_everywhere(void **state)
{
    (void)state;
    assert_true(lu_level_available(LU_LEVEL_REF));
    assert_true(lu_level_available(lu_level_best()));
}

static void no_name_means_the_best_level(void **state)
{
    (void)state;
    lu_level level = LU_LEVEL_REF;
    assert_int_equal(lu_level_parse(NULL, &level, NULL), LUTRA_OK);
    assert_int_equal(level, lu_level_best());
}

static void every_level_is_found_by_its_name_or_refused_as_unsupported(void **state)
{
    (void)state;
    for (int i = 0; i < LU_N_LEVELS; i++) {
        lu_level level = LU_N_LEVELS;
        lutra_err err;
        const lutra_status status = lu_level_parse(lu_level_name((lu_level)i), &level, &err);
        assert_int_equal(status, lu_level_available((lu_level)i) ? LUTRA_OK : LUTRA_E_UNSUPPORTED);
        assert_int_equal(level, status == LUTRA_OK ? i : LU_N_LEVELS);
    }
}

static void an_unknown_level_is_refused_with_the_known_ones(void **state)
{
    (void)state;
    lu_level level = LU_N_LEVELS;
    lutra_err err;
    assert_int_equal(lu_level_parse("sse9", &level, &err), LUTRA_E_ARG);
    assert_int_equal(level, LU_N_LEVELS);
    for (int i = 0; i < LU_N_LEVELS; i++)
        assert_non_null(strstr(err.msg, lu_level_name((lu_level)i)));
}

static void every_available_level_fills_every_slot(void **state)
{
    (void)state;
    for (int i = 0; i <= (int)lu_level_best(); i++) {
        lu_ops ops;
        memset(&ops, 0, sizeof ops);
        lu_ops_fill(&ops, (lu_level)i);
        assert_string_equal(ops.level, lu_level_name((lu_level)i));
#define SLOT_IS_FILLED(name, args) assert_true(ops.name != NULL);
        LU_OPS_LIST(SLOT_IS_FILLED)
#undef SLOT_IS_FILLED
        assert_true(ops.logsumexp != NULL);
        assert_true(ops.argmax != NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_level_exists_everywhere),
        cmocka_unit_test(no_name_means_the_best_level),
        cmocka_unit_test(every_level_is_found_by_its_name_or_refused_as_unsupported),
        cmocka_unit_test(an_unknown_level_is_refused_with_the_known_ones),
        cmocka_unit_test(every_available_level_fills_every_slot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
