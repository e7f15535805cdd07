/* int8_ref.c - products of integers (linear_int8.h) in plain C: the version that runs everywhere
   and that the others equal to the bit. */
#include <math.h>
#include <string.h>

#include "kern/linear_int8.h"

enum { UNIT_ROWS = 16 };

static int value(const lu_linear *l, const uint8_t *unit, int offset, int64_t k, int64_t r)
{
    if (!l->nibbles)
        return (int8_t)unit[(k / 4 * UNIT_ROWS + r) * 4 + k % 4];
    return (unit[(k / 8 * UNIT_ROWS + r) * 4 + k % 4] >> (k % 8 / 4 * 4) & 15) + offset;
}

/* The exact sum over packed group g; in unsigned arithmetic, as z sum(v) may leave int32 and
 * return. */
static int32_t group_sum(const lu_linear *l, const lu_int8_layout *o, const uint8_t *unit,
                         const uint8_t *record, int64_t g, int64_t r)
{
    const size_t lane = (size_t)(g * UNIT_ROWS + r) * 4;
    const int offset = l->nibbles ? (int8_t)unit[o->offsets + lane] : 0;
    uint32_t sum, v_sum;
    int64_t k0, k1;
    lu_int8_group(l, o, g, &k0, &k1);
    memcpy(&v_sum, unit + o->sums + lane, sizeof v_sum);
    sum = 0u - record[4] * v_sum;
    for (int64_t k = k0; k < k1; k++)
        sum += (uint32_t)(record[LU_ACT_HEADER + k] * value(l, unit, offset, k, r));
    return (int32_t)sum;
}

static void run(const lu_linear *l, const lu_linear_args *a)
{
    const lu_int8_layout o = lu_int8_layout_of(l, UNIT_ROWS);
    const int64_t end = a->unit1 * UNIT_ROWS < l->n ? a->unit1 * UNIT_ROWS : l->n;
    for (int64_t n = a->unit0 * UNIT_ROWS; n < end; n++) {
        const int64_t r = n % UNIT_ROWS;
        const uint8_t *unit = (const uint8_t *)l->packed + (size_t)(n / UNIT_ROWS) * l->unit_bytes;
        for (int64_t m = 0; m < a->M; m++) {
            const uint8_t *record = (const uint8_t *)a->x + m * a->ldx;
            float sum = 0, scale;
            for (int64_t g = 0; g < o.groups; g++) {
                memcpy(&scale, unit + o.scales + (size_t)(g * UNIT_ROWS + r) * 4, sizeof scale);
                sum = fmaf(scale, (float)group_sum(l, &o, unit, record, g, r), sum);
            }
            memcpy(&scale, record, sizeof scale);
            const float v = scale * sum;
            a->y[m * a->ldy + n] = l->bias ? v + l->bias[n] : v;
        }
    }
}

static bool unit_bytes(const lu_linear *l, size_t *out)
{
    return lu_int8_unit_bytes(l, UNIT_ROWS, out);
}

static size_t scratch(const lu_linear *l, int64_t M)
{
    (void)l, (void)M;
    return 0;
}

const lu_linear_variant lu_linear_int8_ref = {
    .name = "ref",
    .level = LU_LEVEL_REF,
    .unit_rows = UNIT_ROWS,
    .unit_bytes = unit_bytes,
    .pack = lu_int8_pack_units,
    .run = run,
    .scratch = scratch,
};
