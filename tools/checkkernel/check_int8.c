/* check_int8.c - products of integers against their definition (kern/linear_int8.h) computed here
   in int64 and fused float32: every level must give the same bits, for every batch and split. */
#include <math.h>
#include <string.h>

#include "checkkernel.h"
#include "kern/linear_int8.h"
#include "tensor/convert.h"

typedef struct {
    int bits;
    int64_t group; /* 0: the whole row */
    bool zeros, bias;
    lutra_dtype scales;
    int64_t n, k, max_m;
} problem;

typedef struct {
    problem p;
    lu_weight w;
    lu_linear l;
    float *bias;
    int64_t ldx, ldy;
    uint8_t *x; /* [max_m][ldx] records */
} product;

static int integer(const product *c, int64_t n, int64_t i, int64_t groups)
{
    const size_t row = ((size_t)c->p.k * (size_t)c->p.bits + 7) / 8;
    const uint8_t *codes = (const uint8_t *)c->w.data + (size_t)n * row;
    int code = 0;
    for (int b = 0; b < c->p.bits; b++) {
        const int64_t bit = i * c->p.bits + b;
        code |= (codes[bit / 8] >> bit % 8 & 1) << b;
    }
    const int64_t g = i / (c->p.k / groups);
    return (int)c->w.table[code] - (c->w.zeros ? (int)c->w.table[c->w.zeros[n * groups + g]] : 0);
}

static float wanted(const product *c, int64_t m, int64_t n)
{
    const int64_t groups = c->p.group ? c->p.k / c->p.group : 1, size = c->p.k / groups;
    const uint8_t *record = c->x + m * c->ldx;
    float sum = 0, scale;
    for (int64_t g = 0; g < groups; g++) {
        lu_to_f32(c->p.scales,
                  (const uint8_t *)c->w.scales +
                      (size_t)(n * groups + g) * lutra_dtype_bytes(c->p.scales),
                  1, &scale);
        for (int64_t k = g * size; k < (g + 1) * size;) {
            int64_t exact = 0, end = (g + 1) * size;
            end = end - k > LU_INT8_SEGMENT ? k + LU_INT8_SEGMENT : end;
            for (; k < end; k++)
                exact += (record[LU_ACT_HEADER + k] - record[4]) * integer(c, n, k, groups);
            sum = fmaf(scale, (float)exact, sum);
        }
    }
    memcpy(&scale, record, sizeof scale);
    const float v = scale * sum;
    return c->bias ? v + c->bias[n] : v;
}

static void make_weight(ck *t, product *c)
{
    const problem *p = &c->p;
    const int64_t groups = p->n * (p->group ? p->k / p->group : 1);
    const size_t row = ((size_t)p->k * (size_t)p->bits + 7) / 8;
    const size_t size = lutra_dtype_bytes(p->scales);
    uint8_t *data = ck_output(t, (size_t)p->n * row), *scales = ck_output(t, (size_t)groups * size);
    uint8_t *zeros = p->zeros ? ck_output(t, (size_t)groups) : NULL;
    for (size_t i = 0; i < (size_t)p->n * row; i++)
        data[i] = (uint8_t)(i % 7 ? ck_random(t) : ck_random(t) % 2 ? 0xff : 0); /* extremes */
    for (int64_t i = 0; i < groups; i++) {
        const float v = 0.01f * expf(ck_gauss(t));
        lu_from_f32(p->scales, &v, 1, scales + (size_t)i * size);
        if (zeros)
            zeros[i] = (uint8_t)(ck_random(t) % (1u << p->bits));
    }
    ck_freeze(t, data);
    ck_freeze(t, scales);
    ck_freeze(t, zeros);
    c->w = (lu_weight){.n = p->n,
                       .k = p->k,
                       .data = data,
                       .bits = p->bits,
                       .group_size = p->group,
                       .scales = scales,
                       .scale_dtype = p->scales,
                       .zeros = zeros};
    for (int i = 0; i < 1 << p->bits; i++) /* asymmetric ones begin at 0, as the int codebooks do */
        c->w.table[i] = (float)(p->zeros ? i : i - (1 << (p->bits - 1)));
}

/* Rows: random codes; all 255 with zero point 0 (the largest sums); a zero row; a NaN scale. */
static void make_x(ck *t, product *c)
{
    const problem *p = &c->p;
    c->ldx = lu_act_record_bytes(p->k) + p->n % 2 * 8;
    c->x = ck_aligned(t, (size_t)((p->max_m - 1) * c->ldx + lu_act_record_bytes(p->k)));
    for (int64_t m = 0; m < p->max_m; m++) {
        uint8_t *record = c->x + m * c->ldx;
        const float scale = m % 7 == 6 ? NAN : 0.1f * expf(ck_gauss(t));
        memset(record, 0, (size_t)lu_act_record_bytes(p->k));
        memcpy(record, &scale, sizeof scale);
        record[4] = (uint8_t)(m % 7 == 1 ? 0 : m % 2 ? 128 : ck_random(t));
        for (int64_t i = 0; i < p->k; i++)
            record[LU_ACT_HEADER + i] = m % 7 == 1   ? 255
                                        : m % 7 == 2 ? record[4]
                                                     : (uint8_t)ck_random(t);
    }
    ck_freeze(t, c->x);
}

static bool prepare(ck *t, product *c)
{
    lutra_err err;
    make_weight(t, c);
    make_x(t, c);
    c->ldy = c->p.n + c->p.k % 3;
    if (lu_linear_plan(&c->w, LUTRA_U8, t->level, &c->l, &err) != LUTRA_OK) {
        ck_fail(t, "plan: %s", err.msg);
        return false;
    }
    lu_linear_attach(&c->l, &c->w, ck_aligned(t, c->l.packed_bytes));
    t->subject->linear_pack(&c->l, &c->w, 0, c->l.n_units / 2);
    t->subject->linear_pack(&c->l, &c->w, c->l.n_units / 2, c->l.n_units);
    ck_freeze(t, c->l.packed);
    if (c->p.bias) {
        c->bias = ck_input(t, c->p.n, CK_GAUSS);
        ck_freeze(t, c->bias);
        c->l.bias = c->bias;
    }
    return true;
}

static bool check_batch(ck *t, const product *c, int64_t first, int64_t M, int64_t split)
{
    float *y = ck_output(t, (size_t)((M - 1) * c->ldy + c->p.n) * sizeof *y);
    void *scratch = ck_aligned(t, lu_linear_scratch(&c->l, M));
    for (int64_t u = 0; u < c->l.n_units; u += split) {
        const int64_t end = u + split < c->l.n_units ? u + split : c->l.n_units;
        const lu_linear_args a = {.x = c->x + first * c->ldx,
                                  .ldx = c->ldx,
                                  .M = M,
                                  .y = y,
                                  .ldy = c->ldy,
                                  .unit0 = u,
                                  .unit1 = end,
                                  .scratch = scratch};
        t->subject->linear_run(&c->l, &a);
    }
    for (int64_t m = 0; m < M; m++) {
        for (int64_t n = 0; n < c->p.n; n++) {
            const float want = wanted(c, first + m, n), got = y[m * c->ldy + n];
            if (isnan(want) ? !isnan(got) : got != want) {
                ck_fail(t, "y[%lld][%lld] = %.9g, expected %.9g", (long long)m, (long long)n,
                        (double)got, (double)want);
                return false;
            }
        }
        for (int64_t n = c->p.n; n < c->ldy && m + 1 < M; n++)
            if (!ck_same(t, "between rows, y", n, lu_f32_bits(y[m * c->ldy + n]), UINT32_MAX))
                return false;
    }
    return true;
}

static bool check_product(ck *t, const problem *p)
{
    static const int64_t batches[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 193, 400};
    product c = {.p = *p};
    ck_case(t, "%d bits, n %lld, k %lld, group %lld%s%s", p->bits, (long long)p->n, (long long)p->k,
            (long long)p->group, p->zeros ? ", zeros" : "", p->bias ? ", bias" : "");
    bool ok = prepare(t, &c);
    for (size_t i = 0; ok && i < sizeof batches / sizeof *batches; i++) {
        const int64_t M = batches[i];
        if (M <= p->max_m)
            ok = check_batch(t, &c, t->side == CK_END ? p->max_m - M : 0, M,
                             M % 2 ? c.l.n_units : 1);
    }
    return ck_end_case(t) && ok;
}

void ck_check_int8(ck *t)
{
    static const int64_t rows[] = {1, 15, 16, 31, 33, 63, 64, 65, 129};
    static const int64_t groups[] = {8, 32, 64, 128, 264, 0};
    static const int64_t channels[] = {1, 3, 7, 33, 131, 300, 520};
    static const lutra_dtype scales[] = {LUTRA_F16, LUTRA_F32, LUTRA_BF16};
    int64_t turn = 0;
    for (int bits = 2; bits <= 8; bits++)
        for (int g = 0; g < 6; g++)
            for (int z = 0; z < (bits < 8 ? 2 : 1); z++, turn++) {
                const problem p = {.bits = bits,
                                   .group = groups[g],
                                   .zeros = z,
                                   .bias = turn % 3 == 0,
                                   .scales = scales[turn % 3],
                                   .n = rows[turn * 5 % 9],
                                   .k = groups[g] ? groups[g] * (1 + turn % 3) : channels[turn % 7],
                                   .max_m = turn % 20 == 7 ? 400 : 13};
                if (!check_product(t, &p))
                    return;
            }
    /* the largest exact sum, and a group that is cut in two */
    const problem wide[] = {{.bits = 8, .scales = LUTRA_F32, .n = 17, .k = 65536, .max_m = 2},
                            {.bits = 4, .scales = LUTRA_F32, .n = 17, .k = 65536, .max_m = 2},
                            {.bits = 8, .scales = LUTRA_F32, .n = 5, .k = 65544, .max_m = 2},
                            {.bits = 4, .scales = LUTRA_F32, .n = 5, .k = 65607, .max_m = 2}};
    for (int i = 0; i < 4; i++)
        if (!check_product(t, &wide[i]))
            return;
}
