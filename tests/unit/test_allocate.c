/* test_allocate.c - the solver of mixed precision against trying everything. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "algo/allocate.h"
#include "support/alloc_sweep.h"

static uint64_t seed = 7;

static uint64_t random_below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static double brute(const lu_choice *c, int64_t n, int k, int64_t budget)
{
    double best = INFINITY;
    if (n == 0)
        return 0;
    for (int j = 0; j < k; j++)
        if (c[j].cost <= budget)
            best = fmin(best, c[j].loss + brute(c + k, n - 1, k, budget - c[j].cost));
    return best;
}

static void the_choice_is_as_good_as_trying_everything(void **state)
{
    (void)state;
    for (int turn = 0; turn < 400; turn++) {
        const int64_t n = 1 + (int64_t)random_below(7), unit = 1 + (int64_t)random_below(5) * 977;
        const int k = 1 + (int)random_below(4);
        lu_choice c[7 * 4];
        int picked[7];
        int64_t cheapest = 0, dearest = 0;
        for (int64_t i = 0; i < n; i++) {
            int64_t lo = INT64_MAX, hi = 0;
            for (int j = 0; j < k; j++) {
                lu_choice *x = &c[i * k + j];
                *x = (lu_choice){unit * (int64_t)random_below(60), (double)random_below(1000)};
                if (j && random_below(8) == 0)
                    x->loss = INFINITY; /* the group does not divide these columns */
                if (isfinite(x->loss)) {
                    lo = x->cost < lo ? x->cost : lo;
                    hi = x->cost > hi ? x->cost : hi;
                }
            }
            cheapest += lo;
            dearest += hi;
        }
        const int64_t budget = cheapest + (int64_t)random_below((uint64_t)(dearest - cheapest) + 2);
        lutra_err err;
        if (lu_allocate(c, n, k, budget, picked, &err) != LUTRA_OK)
            fail_msg("%s", err.msg);
        int64_t cost = 0;
        double loss = 0;
        for (int64_t i = 0; i < n; i++) {
            cost += c[i * k + picked[i]].cost;
            loss += c[i * k + picked[i]].loss;
        }
        assert_true(cost <= budget);
        assert_true(loss == brute(c, n, k, budget));
        if (cheapest > 0)
            assert_int_equal(lu_allocate(c, n, k, cheapest - 1, picked, &err), LUTRA_E_ARG);
    }
}

/* Costs without a common divisor and a budget far above the table: never worse than halving losses
   by price alone, within one item of the bound that prices give. */
static void large_problems_come_close_to_the_bound(void **state)
{
    (void)state;
    enum { N = 500, K = 5 };
    static lu_choice c[N * K];
    static int picked[N];
    int64_t budget = 0;
    double largest = 0;
    for (int i = 0; i < N; i++) {
        const int64_t size = 1000003 + (int64_t)random_below(4000000);
        const double weight = (double)(1 + random_below(1000));
        for (int j = 0; j < K; j++)
            c[i * K + j] = (lu_choice){size * (2 + j), weight * pow(0.25, j)};
        budget += size * 35 / 10;
        largest = fmax(largest, weight);
    }
    assert_int_equal(lu_allocate(c, N, K, budget, picked, NULL), LUTRA_OK);
    double bound = 0, loss = 0;
    for (double p = 1e-12; p < 1e3; p *= 1.02) { /* weak duality: each price bounds the optimum */
        double value = -p * (double)budget;
        for (int i = 0; i < N; i++) {
            double least = INFINITY;
            for (int j = 0; j < K; j++)
                least = fmin(least, c[i * K + j].loss + p * (double)c[i * K + j].cost);
            value += least;
        }
        bound = fmax(bound, value);
    }
    int64_t cost = 0;
    for (int i = 0; i < N; i++) {
        loss += c[i * K + picked[i]].loss;
        cost += c[i * K + picked[i]].cost;
    }
    assert_true(cost <= budget);
    if (!(loss >= bound * (1 - 1e-9) && loss <= bound * 1.002))
        fail_msg("loss %g, bound %g", loss, bound);
}

static lutra_status allocate_quietly(void *arg)
{
    int picked[2];
    return lu_allocate(arg, 2, 2, 10, picked, NULL);
}

static void allocating_survives_every_failed_allocation(void **state)
{
    (void)state;
    lu_choice c[4] = {{1, 5}, {4, 1}, {2, 7}, {9, 0}};
    assert_true(fail_each_allocation(allocate_quietly, c) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_choice_is_as_good_as_trying_everything),
        cmocka_unit_test(large_problems_come_close_to_the_bound),
        cmocka_unit_test(allocating_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
