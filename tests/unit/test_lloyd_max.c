/* test_lloyd_max.c - the numbers of the lm codebooks, derived: each value is the mean of a standard
   normal over its cell, whose bounds are midway between values; the minmax reference is the mean of
   the largest of 64 normal magnitudes, or the end of the table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>

#include <cmocka.h>

#include "lutra/format.h"

static double density(double x) { return exp(-x * x / 2) / sqrt(2 * acos(-1)); }
static double below(double x) { return 0.5 * erfc(-x / sqrt(2)); }

/* Lloyd's iteration from an even grid until nothing moves; the cost has one minimum (the normal
   density is log-concave), so the start does not matter. */
static void derive(int n, double *value)
{
    for (int i = 0; i < n; i++)
        value[i] = 4.0 * (i + 0.5) / n - 2;
    for (double moved = 1; moved > 1e-13;) {
        double next[16];
        moved = 0;
        for (int i = 0; i < n; i++) {
            const double lo = i ? (value[i - 1] + value[i]) / 2 : -40;
            const double hi = i + 1 < n ? (value[i] + value[i + 1]) / 2 : 40;
            next[i] = (density(lo) - density(hi)) / (below(hi) - below(lo));
            moved = fmax(moved, fabs(next[i] - value[i]));
        }
        for (int i = 0; i < n; i++)
            value[i] = next[i];
    }
}

/* E max |w| of 64 = integral over m of 1 - P(|w| < m)^64, by the trapezoid rule. */
static double mean_absmax(void)
{
    const double step = 1e-3;
    double sum = 0.5;
    for (int i = 1; i < 12000; i++)
        sum += 1 - pow(erf(i * step / sqrt(2)), 64);
    return sum * step;
}

static void lm_tables_hold_the_derived_numbers(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 4; bits++) {
        char spec[8];
        double value[16];
        lutra_format f;
        snprintf(spec, sizeof spec, "lm%d", bits);
        assert_int_equal(lutra_format_parse(spec, &f, NULL), LUTRA_OK);
        assert_int_equal(f.bits, bits);
        derive(1 << bits, value);
        for (int i = 0; i < 1 << bits; i++) {
            if (!(fabs((double)f.table[i] - value[i]) <= 1e-6))
                fail_msg("%s value %d is %.9g, derived %.9g", spec, i, (double)f.table[i],
                         value[i]);
            assert_true(f.table[i] == -f.table[(1 << bits) - 1 - i]);
        }
        const double reference = fmax(mean_absmax(), value[(1 << bits) - 1]);
        if (!(fabs((double)f.absmax_ref - reference) <= 1e-6))
            fail_msg("%s reference is %.9g, derived %.9g", spec, (double)f.absmax_ref, reference);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(lm_tables_hold_the_derived_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
