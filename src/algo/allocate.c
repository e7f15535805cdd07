/* allocate.c - see allocate.h.
   Lagrangian: for a price p per unit of cost each item takes the choice with the least loss + p
   cost, which is a corner of its lower convex hull; p falls until the budget is spent. That is
   optimal for the cost it has, and leaves a rest smaller than one item's step. The exact part is
   dynamic programming over the cost: least[c] = the least loss of the items so far that cost at
   most c. */
#include "algo/allocate.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define MOST_CELLS ((int64_t)64 << 20) /* bytes of choices that the exact part may remember */
#define HALVINGS 100

typedef struct {
    const lu_choice *choices;
    int64_t n;
    int k;
    int64_t budget;
} problem;

static const lu_choice *choice(const problem *p, int64_t i, int j)
{
    return &p->choices[i * p->k + j];
}

static int64_t cost_of(const problem *p, const int *picked)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < p->n; i++)
        sum += choice(p, i, picked[i])->cost;
    return sum;
}

static double loss_of(const problem *p, const int *picked)
{
    double sum = 0;
    for (int64_t i = 0; i < p->n; i++)
        sum += choice(p, i, picked[i])->loss;
    return sum;
}

/* ---- the Lagrangian ------------------------------------------------------------------------- */

static void pick_for_price(const problem *p, double price, int *picked)
{
    for (int64_t i = 0; i < p->n; i++) {
        int best = -1;
        double least = INFINITY;
        for (int j = 0; j < p->k; j++) {
            const lu_choice *c = choice(p, i, j);
            const double value = c->loss + price * (double)c->cost;
            if (isfinite(c->loss) && (best < 0 || value < least ||
                                      (value == least && c->cost < choice(p, i, best)->cost))) {
                best = j;
                least = value;
            }
        }
        picked[i] = best;
    }
}

static void pick_cheapest(const problem *p, int *picked)
{
    for (int64_t i = 0; i < p->n; i++) {
        picked[i] = -1;
        for (int j = 0; j < p->k; j++) {
            const lu_choice *c = choice(p, i, j);
            const lu_choice *b = picked[i] < 0 ? NULL : choice(p, i, picked[i]);
            if (isfinite(c->loss) &&
                (!b || c->cost < b->cost || (c->cost == b->cost && c->loss < b->loss)))
                picked[i] = j;
        }
    }
}

/* The lowest price whose picks fit, by halving in the logarithm; picked holds ones that fit. */
static void pick_by_price(const problem *p, int *picked, int *trial)
{
    double low = 1e-300, high = 1e300;
    for (int i = 0; i < HALVINGS; i++) {
        const double price = exp((log(low) + log(high)) / 2);
        pick_for_price(p, price, trial);
        if (cost_of(p, trial) <= p->budget) {
            memcpy(picked, trial, (size_t)p->n * sizeof *picked);
            high = price;
        } else {
            low = price;
        }
    }
}

/* Spends what is left, the largest gain per cost first. */
static void top_up(const problem *p, int *picked)
{
    for (int64_t left = p->budget - cost_of(p, picked);;) {
        int64_t item = -1;
        int best = 0;
        double most = 0;
        for (int64_t i = 0; i < p->n; i++)
            for (int j = 0; j < p->k; j++) {
                const lu_choice *now = choice(p, i, picked[i]), *c = choice(p, i, j);
                const int64_t more = c->cost - now->cost;
                if (!(c->loss < now->loss) || more > left)
                    continue;
                const double gain = (now->loss - c->loss) / (more > 0 ? (double)more : 1e-300);
                if (gain > most) {
                    most = gain;
                    item = i;
                    best = j;
                }
            }
        if (item < 0)
            return;
        left -= choice(p, item, best)->cost - choice(p, item, picked[item])->cost;
        picked[item] = best;
    }
}

/* ---- the exact part ------------------------------------------------------------------------- */

static int64_t divisor(const problem *p)
{
    int64_t g = 0;
    for (int64_t i = 0; i < p->n * p->k; i++)
        for (int64_t a = p->choices[i].cost; a;) {
            const int64_t rest = g % a;
            g = a;
            a = rest;
        }
    return g ? g : 1;
}

/* One item more: now[c] from before[c]; what it takes at each cost to taken[c] (255: nothing fits).
 */
static void add_item(const problem *p, int64_t i, int64_t unit, int64_t units, const double *before,
                     double *now, uint8_t *taken)
{
    for (int64_t c = 0; c <= units; c++) {
        now[c] = INFINITY;
        taken[c] = UINT8_MAX;
        for (int j = 0; j < p->k; j++) {
            const lu_choice *x = choice(p, i, j);
            const int64_t need = (x->cost + unit - 1) / unit;
            if (need <= c && before[c - need] + x->loss < now[c]) {
                now[c] = before[c - need] + x->loss;
                taken[c] = (uint8_t)j;
            }
        }
    }
}

/* False if costs rounded up to units do not fit; picked is then untouched. */
static lutra_status solve(const problem *p, int *picked, bool *solved, lutra_err *err)
{
    int64_t most = MOST_CELLS / p->n;
    most = most < LU_ALLOCATE_UNITS ? most : LU_ALLOCATE_UNITS;
    int64_t unit = divisor(p);
    if (p->budget / unit > most)
        unit = p->budget / most + 1;
    const int64_t units = p->budget / unit;
    const size_t width = (size_t)units + 1;
    double *rows = lu_array(width, 2 * sizeof *rows);
    uint8_t *taken = lu_array((size_t)p->n, width);
    const bool held_all = rows && taken;
    *solved = false;
    if (held_all) {
        double *before = rows, *now = rows + width;
        memset(before, 0, width * sizeof *before);
        for (int64_t i = 0; i < p->n; i++) {
            add_item(p, i, unit, units, before, now, taken + (size_t)i * width);
            double *held = before;
            before = now;
            now = held;
        }
        *solved = isfinite(before[units]);
        for (int64_t i = p->n - 1, c = units; *solved && i >= 0; i--) {
            picked[i] = taken[(size_t)i * width + (size_t)c];
            c -= (choice(p, i, picked[i])->cost + unit - 1) / unit;
        }
    }
    lu_free(rows);
    lu_free(taken);
    return held_all ? LUTRA_OK : lu_fail_nomem(err, (size_t)p->n * width);
}

lutra_status lu_allocate(const lu_choice *choices, int64_t n, int k, int64_t budget, int *picked,
                         lutra_err *err)
{
    const problem p = {choices, n, k, budget};
    if (n < 1 || k < 1 || k >= UINT8_MAX)
        return lu_fail(err, LUTRA_E_ARG, "%lld items with %d choices, expected some", (long long)n,
                       k);
    pick_cheapest(&p, picked);
    for (int64_t i = 0; i < n; i++)
        if (picked[i] < 0)
            return lu_fail(err, LUTRA_E_ARG, "item %lld has no choice", (long long)i);
    if (cost_of(&p, picked) > budget)
        return lu_fail(err, LUTRA_E_ARG, "the cheapest choices cost %lld, the budget is %lld",
                       (long long)cost_of(&p, picked), (long long)budget);
    int *other = lu_array((size_t)n, sizeof *other);
    if (!other)
        return lu_fail_nomem(err, (size_t)n * sizeof *other);
    bool solved;
    pick_by_price(&p, picked, other);
    top_up(&p, picked);
    const lutra_status status = solve(&p, other, &solved, err);
    if (status == LUTRA_OK && solved) {
        top_up(&p, other);
        if (loss_of(&p, other) < loss_of(&p, picked))
            memcpy(picked, other, (size_t)n * sizeof *picked);
    }
    lu_free(other);
    return status;
}
