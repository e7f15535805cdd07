/* test_sampler.c - which tokens each setting leaves, that draws follow the distribution (chi-square
   with fixed seeds: the outcome never changes), and that a seed decides everything. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/random.h"
#include "lutra/engine.h"
#include "support/alloc_sweep.h"

#define N 12

/* Probabilities in no order, all different, sum 1. */
static const double share[N] = {0.05, 0.20, 0.01, 0.16, 0.12, 0.03,
                                0.10, 0.02, 0.15, 0.06, 0.08, 0.02000001};

static lutra_sampler *open_sampler(lutra_sampling p, int64_t vocab)
{
    lutra_sampler *s;
    lutra_err err;
    if (lutra_sampler_open(&p, vocab, &s, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    return s;
}

static lutra_sampling warm(float temperature)
{
    lutra_sampling p;
    lutra_sampling_init(&p);
    p.temperature = temperature;
    p.seed = 1;
    return p;
}

static void fill_logits(float *logits)
{
    for (int i = 0; i < N; i++)
        logits[i] = (float)log(share[i]) + 3.0f;
}

/* Counts of `draws` picks; checks chi-square against p (zero entries must never be drawn). */
static void expect_distribution(lutra_sampling params, const double *p, int draws)
{
    float logits[N];
    int count[N] = {0}, cells = 0;
    double chi2 = 0.0;
    fill_logits(logits);
    lutra_sampler *s = open_sampler(params, N);
    for (int i = 0; i < draws; i++)
        count[lutra_sampler_pick(s, logits)]++;
    lutra_sampler_close(s);
    for (int i = 0; i < N; i++) {
        if (p[i] == 0.0) {
            assert_int_equal(count[i], 0);
            continue;
        }
        const double expected = p[i] * draws;
        chi2 += (count[i] - expected) * (count[i] - expected) / expected;
        cells++;
    }
    /* mean cells - 1, variance 2 (cells - 1): 4 standard deviations, about 1 seed in 2000 */
    const double freedom = cells - 1;
    if (!(chi2 <= freedom + 4.0 * sqrt(2.0 * freedom)))
        fail_msg("chi-square %g with %g degrees of freedom", chi2, freedom);
}

/* share[i]^(1/T) for ids in `kept` (a bit mask), scaled to sum 1. */
static void among(unsigned kept, double temperature, double *p)
{
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        p[i] = kept >> i & 1 ? pow(share[i], 1.0 / temperature) : 0.0;
        sum += p[i];
    }
    for (int i = 0; i < N; i++)
        p[i] /= sum;
}

#define ALL 0xfffu
#define BIT(i) (1u << (i))

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    double p[N];
    among(ALL, 1.0, p);
    expect_distribution(warm(1.0f), p, 50000);
    among(ALL, 0.5, p);
    expect_distribution(warm(0.5f), p, 50000);
    among(ALL, 2.0, p);
    expect_distribution(warm(2.0f), p, 50000);
}

static void top_k_keeps_the_k_largest(void **state)
{
    (void)state;
    /* descending: 1 .20, 3 .16, 8 .15, 4 .12, 6 .10, 10 .08, ... */
    double p[N];
    lutra_sampling s = warm(1.0f);
    s.top_k = 4;
    among(BIT(1) | BIT(3) | BIT(8) | BIT(4), 1.0, p);
    expect_distribution(s, p, 20000);
    s.top_k = 1;
    among(BIT(1), 1.0, p);
    expect_distribution(s, p, 1000);
    s.top_k = N + 5;
    among(ALL, 1.0, p);
    expect_distribution(s, p, 20000);
}

static void top_p_keeps_the_fewest_that_reach_p(void **state)
{
    (void)state;
    double p[N];
    lutra_sampling s = warm(1.0f);
    s.top_p = 0.5f; /* .20 + .16 = .36 < .5, + .15 = .51 */
    among(BIT(1) | BIT(3) | BIT(8), 1.0, p);
    expect_distribution(s, p, 20000);
    s.top_p = 0.19f;
    among(BIT(1), 1.0, p);
    expect_distribution(s, p, 1000);
    s.top_p = 0.999999f;
    among(ALL, 1.0, p);
    expect_distribution(s, p, 20000);
}

static void min_p_is_relative_to_the_largest(void **state)
{
    (void)state;
    double p[N];
    lutra_sampling s = warm(1.0f);
    s.min_p = 0.55f; /* at least .11 */
    among(BIT(1) | BIT(3) | BIT(8) | BIT(4), 1.0, p);
    expect_distribution(s, p, 20000);
    s.min_p = 1.0f;
    among(BIT(1), 1.0, p);
    expect_distribution(s, p, 1000);
}

/* top-k first, then top-p of what it left, then min-p. */
static void filters_apply_in_the_documented_order(void **state)
{
    (void)state;
    double p[N];
    lutra_sampling s = warm(1.0f);
    s.top_k = 4;    /* .20 .16 .15 .12, sum .63 */
    s.top_p = 0.8f; /* .504: .20 + .16 + .15 = .51 reaches it; of the whole it would take 6 */
    among(BIT(1) | BIT(3) | BIT(8), 1.0, p);
    expect_distribution(s, p, 20000);
    s.min_p = 0.78f; /* .156 */
    among(BIT(1) | BIT(3), 1.0, p);
    expect_distribution(s, p, 20000);
}

static void temperature_applies_before_top_p(void **state)
{
    (void)state;
    double p[N];
    lutra_sampling s = warm(0.25f);
    s.top_p = 0.6f; /* at T 1 four tokens; at T 1/4 the first has .51, two have .72 */
    among(BIT(1) | BIT(3), 0.25, p);
    expect_distribution(s, p, 20000);
}

static void greedy_takes_the_lowest_id_of_the_largest(void **state)
{
    (void)state;
    const float logits[] = {1.0f, 5.0f, -2.0f, 5.0f, NAN};
    const float nothing[] = {NAN, NAN, NAN, NAN, NAN};
    const float infinite[] = {-INFINITY, 1.0f, INFINITY, 3.0f, INFINITY};
    lutra_sampling p;
    lutra_sampling_init(&p);
    lutra_sampler *s = open_sampler(p, 5);
    assert_int_equal(lutra_sampler_pick(s, logits), 1);
    assert_int_equal(lutra_sampler_pick(s, nothing), 0);
    assert_int_equal(lutra_sampler_pick(s, infinite), 2);
    lutra_sampler_close(s);
    s = open_sampler(warm(1.0f), 5);
    assert_int_equal(lutra_sampler_pick(s, infinite), 2);
    for (int i = 0; i < 100; i++)
        assert_int_not_equal(lutra_sampler_pick(s, logits), 4);
    lutra_sampler_close(s);
}

static void repetition_penalty_pushes_down_what_was_seen(void **state)
{
    (void)state;
    const float up[] = {2.0f, 1.9f, -1.0f}, down[] = {-1.0f, -1.05f, -3.0f};
    lutra_sampling p;
    lutra_sampling_init(&p);
    p.repetition_penalty = 1.2f;
    lutra_sampler *s = open_sampler(p, 3);
    assert_int_equal(lutra_sampler_pick(s, up), 0);
    lutra_sampler_accept(s, 0);
    lutra_sampler_accept(s, -1); /* outside the vocabulary: no effect */
    lutra_sampler_accept(s, 3);
    assert_int_equal(lutra_sampler_pick(s, up), 1);
    assert_int_equal(lutra_sampler_pick(s, down), 1); /* a negative logit is multiplied */
    lutra_sampler_accept(s, 0);                       /* twice is as once */
    const float close[] = {2.0f, 1.6f, -1.0f};
    assert_int_equal(lutra_sampler_pick(s, close), 0);
    lutra_sampler_close(s);
}

static void a_seed_decides_everything(void **state)
{
    (void)state;
    float logits[N];
    fill_logits(logits);
    lutra_sampling p = warm(1.0f);
    p.top_k = 10;
    p.top_p = 0.95f;
    p.seed = 42;
    lutra_sampler *a = open_sampler(p, N), *b = open_sampler(p, N);
    p.seed = 43;
    lutra_sampler *c = open_sampler(p, N);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        const int32_t x = lutra_sampler_pick(a, logits);
        assert_int_equal(x, lutra_sampler_pick(b, logits));
        differ += x != lutra_sampler_pick(c, logits);
    }
    assert_true(differ > 50);
    lutra_sampler_close(a);
    lutra_sampler_close(b);
    lutra_sampler_close(c);
}

/* Published first outputs of splitmix64 from seed 1234567. */
static void splitmix_is_splitmix(void **state)
{
    (void)state;
    uint64_t s = 1234567;
    assert_true(lu_splitmix(&s) == 6457827717110365317u);
    assert_true(lu_splitmix(&s) == 3203168211198807973u);
}

static void a_unit_draw_is_below_one(void **state)
{
    (void)state;
    lu_random r;
    double sum = 0.0;
    lu_random_seed(&r, 0);
    for (int i = 0; i < 100000; i++) {
        const double u = lu_random_unit(&r);
        assert_true(u >= 0.0 && u < 1.0);
        sum += u;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 4.0 / sqrt(12.0 * 100000));
}

/* The heap against a full sort, on a large vocabulary with ties. */
static void top_k_of_many_equals_a_sort(void **state)
{
    (void)state;
    enum { V = 5000, K = 37 };
    static float logits[V];
    lu_random r;
    lu_random_seed(&r, 9);
    for (int i = 0; i < V; i++)
        logits[i] = (float)(lu_random_next(&r) % 300);
    lutra_sampling p = warm(1000.0f); /* flat: every kept token turns up */
    p.top_k = K;
    lutra_sampler *s = open_sampler(p, V);
    static bool drawn[V];
    for (int i = 0; i < 5000; i++)
        drawn[lutra_sampler_pick(s, logits)] = true;
    lutra_sampler_close(s);
    int n = 0;
    for (int i = 0; i < V; i++) {
        int before = 0;
        for (int j = 0; j < V; j++)
            before += logits[j] > logits[i] || (logits[j] == logits[i] && j < i);
        assert_int_equal(drawn[i], before < K);
        n += drawn[i];
    }
    assert_int_equal(n, K);
}

static void settings_out_of_range_are_refused(void **state)
{
    (void)state;
    lutra_err err;
    lutra_sampler *s = NULL;
    for (int i = 0; i < 12; i++) {
        lutra_sampling p = warm(1.0f);
        float *const fields[] = {&p.temperature, &p.top_p, &p.min_p, &p.repetition_penalty};
        if (i < 4)
            *fields[i] = NAN;
        else if (i < 8)
            *fields[i - 4] = -0.5f;
        else if (i == 8)
            p.top_p = 1.5f;
        else if (i == 9)
            p.min_p = 1.5f;
        else if (i == 10)
            p.repetition_penalty = 0.0f;
        else
            p.top_k = -1;
        assert_int_equal(lutra_sampler_open(&p, N, &s, &err), LUTRA_E_ARG);
        assert_null(s);
    }
    assert_int_equal(lutra_sampler_open(NULL, 0, &s, &err), LUTRA_E_ARG);
}

static lutra_status open_and_close(void *unused)
{
    lutra_sampler *s = NULL;
    (void)unused;
    const lutra_status status = lutra_sampler_open(NULL, N, &s, NULL);
    lutra_sampler_close(s);
    return status;
}

static void opening_survives_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(fail_each_allocation(open_and_close, NULL) >= 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(top_k_keeps_the_k_largest),
        cmocka_unit_test(top_p_keeps_the_fewest_that_reach_p),
        cmocka_unit_test(min_p_is_relative_to_the_largest),
        cmocka_unit_test(filters_apply_in_the_documented_order),
        cmocka_unit_test(temperature_applies_before_top_p),
        cmocka_unit_test(greedy_takes_the_lowest_id_of_the_largest),
        cmocka_unit_test(repetition_penalty_pushes_down_what_was_seen),
        cmocka_unit_test(a_seed_decides_everything),
        cmocka_unit_test(splitmix_is_splitmix),
        cmocka_unit_test(a_unit_draw_is_below_one),
        cmocka_unit_test(top_k_of_many_equals_a_sort),
        cmocka_unit_test(settings_out_of_range_are_refused),
        cmocka_unit_test(opening_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
