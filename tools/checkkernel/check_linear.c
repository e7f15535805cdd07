/* check_linear.c - matrix products against float64, and their bits in every batch and split.

   The oracle multiplies what the product is documented to multiply (kern/linear.h): weights decoded
   by lu_weight_row from the table as planned (rounded to bf16 when activations are bf16), x as
   given. Then |y - want| <= 8 u sqrt(k) |products|_2 + 2 u |want|, the last for scale and bias. An
   x of one 1 must give that column's weights exactly. vdpbf16ps takes subnormal operands and
   results as zero, so bf16 bounds have 2^-126 (sum |w| + k) on top. */
#include <math.h>

#include "checkkernel.h"
#include "tensor/convert.h"

typedef struct {
    int bits;          /* 0: dense */
    lutra_dtype dtype; /* of dense weights, or of scales */
    int64_t group;     /* 0: the whole row */
    bool zeros, bias;
    bool tables, gathered, outliers; /* kern/linear_extras.h */
    lutra_dtype act;
    int64_t n, k, max_m;
} problem;

/* Everything of one case. x has max_m rows with a kind of input each. */
typedef struct {
    problem p;
    lu_weight w;
    lu_linear l;
    float *bias;
    int64_t ldx, ldy;
    float *x;        /* [max_m][k] values */
    void *x_operand; /* [max_m][ldx] in type act */
    float *decoded;  /* [n][k] */
    float *all;      /* [max_m][ldy] the product of all rows at once */
} product;

static float as_bf16(float x) { return lu_bf16_to_f32(lu_f32_to_bf16(x)); }

static void make_dense(ck *t, product *c)
{
    const int64_t n = c->p.n * c->p.k;
    const size_t size = lutra_dtype_bytes(c->p.dtype);
    uint8_t *data = ck_output(t, (size_t)n * size);
    for (int64_t i = 0; i < n; i++) {
        const float v = ck_gauss(t);
        lu_from_f32(c->p.dtype, &v, 1, data + (size_t)i * size);
    }
    ck_freeze(t, data);
    c->w.dtype = c->p.dtype;
    c->w.data = data;
}

/* Neighbouring scales differ by factors, so that a wrong one shows. */
static void make_scales(ck *t, product *c, int64_t n)
{
    const size_t size = lutra_dtype_bytes(c->p.dtype);
    uint8_t *scales = ck_output(t, (size_t)n * size);
    uint8_t *zeros = c->p.zeros ? ck_output(t, (size_t)n) : NULL;
    for (int64_t i = 0; i < n; i++) {
        const float v = 0.01f * expf(ck_gauss(t));
        lu_from_f32(c->p.dtype, &v, 1, scales + (size_t)i * size);
        if (zeros)
            zeros[i] = (uint8_t)(ck_random(t) % (1u << c->p.bits));
    }
    ck_freeze(t, scales);
    ck_freeze(t, zeros);
    c->w.scales = scales;
    c->w.scale_dtype = c->p.dtype;
    c->w.zeros = zeros;
}

static void make_coded(ck *t, product *c)
{
    const int bits = c->p.bits;
    const size_t row = ((size_t)c->p.k * (size_t)bits + 7) / 8;
    const unsigned padding = (unsigned)(row * 8 - (size_t)c->p.k * (size_t)bits);
    const bool integers = ck_random(t) % 2;
    uint8_t *data = ck_output(t, (size_t)c->p.n * row);
    for (size_t i = 0; i < (size_t)c->p.n * row; i++)
        data[i] = (uint8_t)ck_random(t);
    for (size_t r = 1; r <= (size_t)c->p.n; r++)
        data[r * row - 1] &= (uint8_t)(0xff >> padding);
    ck_freeze(t, data);
    c->w.dtype = LUTRA_DTYPE_NONE;
    c->w.data = data;
    c->w.bits = bits;
    c->w.group_size = c->p.group;
    for (int i = 0; i < 1 << bits; i++)
        c->w.table[i] = integers ? (float)(i - (1 << bits) / 2) : ck_gauss(t);
    make_scales(t, c, c->p.n * (c->p.group ? c->p.k / c->p.group : 1));
}

/* A table for every 64 rows, groups in random order, about every 16th column an outlier. */
static void make_extras(ck *t, product *c)
{
    const int64_t n = c->p.n, k = c->p.k, groups = c->p.group ? k / c->p.group : 1;
    if (c->p.tables) {
        const int64_t count = (n + 63) / 64 << c->p.bits;
        float *tables = ck_input(t, count, CK_GAUSS);
        for (int64_t i = 0; i < count && c->p.act == LUTRA_BF16; i++)
            tables[i] = as_bf16(tables[i]); /* so that decode() need not round them */
        ck_freeze(t, tables);
        c->w.tables = tables;
        c->w.table_rows = 64;
    }
    if (c->p.gathered) {
        int32_t *g = ck_output(t, (size_t)k * sizeof *g);
        for (int64_t i = 0; i < k; i++)
            g[i] = (int32_t)(i % groups);
        for (int64_t i = k - 1; i > 0; i--) { /* shuffle */
            const int64_t j = (int64_t)(ck_random(t) % (uint64_t)(i + 1));
            const int32_t held = g[i];
            g[i] = g[j];
            g[j] = held;
        }
        ck_freeze(t, g);
        c->w.groups = g;
    }
    if (c->p.outliers) {
        int32_t *columns = ck_output(t, (size_t)k * sizeof *columns);
        for (int64_t i = 0; i < k; i++)
            if (ck_random(t) % 16 == 0)
                columns[c->w.n_outliers++] = (int32_t)i;
        uint16_t *weights = ck_output(t, (size_t)(n * c->w.n_outliers + 1) * sizeof *weights);
        for (int64_t i = 0; i < n * c->w.n_outliers; i++)
            weights[i] = lu_f32_to_f16(ck_gauss(t));
        ck_freeze(t, columns);
        ck_freeze(t, weights);
        c->w.outlier_columns = columns;
        c->w.outlier_weights = weights;
    }
}

static ck_kind row_kind(int64_t m) { return (ck_kind)(m % CK_N_KINDS); }

static void make_x(ck *t, product *c)
{
    const size_t size = lutra_dtype_bytes(c->p.act);
    const int64_t M = c->p.max_m, k = c->p.k;
    uint8_t *x = ck_output(t, (size_t)((M - 1) * c->ldx + k) * size);
    c->x = ck_output(t, (size_t)(M * k) * sizeof *c->x);
    for (int64_t m = 0; m < M; m++) {
        float *row = c->x + m * k;
        ck_fill(t, row, k, row_kind(m));
        for (int64_t i = 0; i < k && c->p.act == LUTRA_BF16; i++)
            row[i] = as_bf16(row[i]);
        lu_from_f32(c->p.act, row, k, x + (size_t)(m * c->ldx) * size);
    }
    ck_freeze(t, x);
    c->x_operand = x;
}

static void decode(ck *t, product *c)
{
    lu_weight w = c->w;
    const bool rounded = c->p.act == LUTRA_BF16;
    c->decoded = ck_output(t, (size_t)(c->p.n * c->p.k) * sizeof(float));
    for (int i = 0; i < 1 << c->p.bits && rounded && c->p.bits; i++)
        w.table[i] = as_bf16(w.table[i]);
    for (int64_t r = 0; r < c->p.n; r++)
        lu_weight_row(&w, r, c->decoded + r * c->p.k);
    for (int64_t i = 0; i < c->p.n * c->p.k && rounded && !c->p.bits; i++)
        c->decoded[i] = as_bf16(c->decoded[i]);
}

static bool prepare(ck *t, product *c)
{
    lutra_err err;
    c->w.n = c->p.n;
    c->w.k = c->p.k;
    c->ldx = c->p.k + c->p.n % 3;
    c->ldy = c->p.n + c->p.k % 3;
    if (c->p.bits) {
        make_coded(t, c);
        make_extras(t, c);
    } else {
        make_dense(t, c);
    }
    make_x(t, c);
    decode(t, c);
    if (lu_linear_plan(&c->w, c->p.act, t->level, &c->l, &err) != LUTRA_OK) {
        ck_fail(t, "plan: %s", err.msg);
        return false;
    }
    lu_linear_attach(&c->l, &c->w, ck_aligned(t, c->l.packed_bytes));
    t->subject->linear_pack(&c->l, &c->w, 0, c->l.n_units / 2);
    t->subject->linear_pack(&c->l, &c->w, c->l.n_units / 2, c->l.n_units);
    ck_freeze(t, c->l.packed);
    if (c->p.bias) {
        float *bias = ck_input(t, c->p.n, CK_GAUSS);
        ck_freeze(t, bias);
        c->l.bias = c->bias = bias;
    }
    return true;
}

/* Rows [first, first + M) in steps of `split` units; what lies between rows must stay untouched. */
static float *multiply(ck *t, const product *c, int64_t first, int64_t M, int64_t split)
{
    const size_t size = lutra_dtype_bytes(c->p.act);
    const uint8_t *x = (const uint8_t *)c->x_operand + (size_t)(first * c->ldx) * size;
    float *y = ck_output(t, (size_t)((M - 1) * c->ldy + c->p.n) * sizeof *y);
    void *scratch = ck_aligned(t, lu_linear_scratch(&c->l, M));
    for (int64_t u = 0; u < c->l.n_units; u += split) {
        const int64_t end = u + split < c->l.n_units ? u + split : c->l.n_units;
        const lu_linear_args a = {.x = x,
                                  .ldx = c->ldx,
                                  .M = M,
                                  .y = y,
                                  .ldy = c->ldy,
                                  .unit0 = u,
                                  .unit1 = end,
                                  .scratch = scratch};
        t->subject->linear_run(&c->l, &a);
    }
    for (int64_t m = 0; m + 1 < M; m++)
        for (int64_t n = c->p.n; n < c->ldy; n++)
            ck_same(t, "between rows, y", m * c->ldy + n, lu_f32_bits(y[m * c->ldy + n]),
                    UINT32_MAX);
    return y;
}

static bool check_element(ck *t, const product *c, int64_t m, int64_t n)
{
    const float *x = c->x + m * c->p.k, *w = c->decoded + n * c->p.k;
    const double bias = c->bias ? c->bias[n] : 0;
    double sum = 0, squares = bias * bias, weights = 0;
    for (int64_t i = 0; i < c->p.k; i++) {
        const double v = (double)x[i] * w[i];
        sum += v;
        squares += v * v;
        weights += fabs(w[i]);
    }
    const double want = sum + bias, k = (double)c->p.k;
    const double underflow = c->p.act == LUTRA_BF16 ? 0x1p-126 : CK_TINY;
    const double bound =
        8 * CK_U * sqrt(k * squares) + 2 * CK_U * fabs(want) + underflow * (weights + k);
    const float got = c->all[m * c->ldy + n];
    if (row_kind(m) == CK_ONE_HOT || row_kind(m) == CK_ZERO) /* no sum: the one value, exactly */
        return ck_close(t, "exact y", m * c->p.n + n, got, (float)sum + (float)bias, 0);
    return ck_close(t, "y", m * c->p.n + n, got, want, bound);
}

/* M rows taken from either end of x, so that they end (or start) at the unmapped page. */
static bool check_batch(ck *t, const product *c, int64_t M)
{
    const int64_t first = t->side == CK_END ? c->p.max_m - M : 0;
    const float *y = multiply(t, c, first, M, M % 3 == 0 ? 1 : M % 3 == 1 ? c->l.n_units : 2);
    for (int64_t m = 0; m < M; m++)
        for (int64_t n = 0; n < c->p.n; n++)
            if (!ck_same(t, "against the full batch, y", m * c->p.n + n,
                         lu_f32_bits(y[m * c->ldy + n]),
                         lu_f32_bits(c->all[(first + m) * c->ldy + n])))
                return false;
    return !t->report->failed;
}

static bool check_product(ck *t, const problem *p)
{
    static const int64_t batches[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12, 13,
                                      14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 512};
    product c = {.p = *p};
    ck_case(t, "%d bits (0: dense), %s, n %lld, k %lld, group %lld%s%s%s%s%s, x %s", p->bits,
            lutra_dtype_name(p->dtype), (long long)p->n, (long long)p->k, (long long)p->group,
            p->zeros ? ", zeros" : "", p->tables ? ", tables" : "", p->gathered ? ", gathered" : "",
            p->outliers ? ", outliers" : "", p->bias ? ", bias" : "", lutra_dtype_name(p->act));
    bool ok = prepare(t, &c);
    if (ok) {
        c.all = multiply(t, &c, 0, p->max_m, c.l.n_units);
        for (int64_t m = 0; m < p->max_m && ok; m++)
            for (int64_t n = 0; n < p->n && ok; n++)
                ok = check_element(t, &c, m, n);
    }
    for (size_t i = 0; ok && i < sizeof batches / sizeof *batches; i++)
        if (batches[i] <= p->max_m)
            ok = check_batch(t, &c, batches[i]);
    return ck_end_case(t) && ok;
}

static const int64_t ROWS[] = {1, 2, 15, 16, 17, 31, 33, 48, 63, 64, 65, 129};
#define N_ROWS (sizeof ROWS / sizeof *ROWS)
static const lutra_dtype FLOATS[] = {LUTRA_F32, LUTRA_F16, LUTRA_BF16};
static const lutra_dtype ACTS[] = {LUTRA_F32, LUTRA_BF16};

static bool check_dense(ck *t)
{
    static const int64_t columns[] = {1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 389};
    size_t turn = 0;
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++)
        for (int d = 0; d < 3; d++)
            for (int a = 0; a < 2; a++, turn++) {
                const problem p = {.dtype = FLOATS[d],
                                   .act = ACTS[a],
                                   .n = ROWS[turn * 5 % N_ROWS],
                                   .k = columns[k],
                                   .bias = turn % 3 == 0,
                                   .max_m = turn % 29 == 0 ? 512
                                            : turn % 2     ? 100
                                                           : 17};
                if (!check_product(t, &p))
                    return false;
            }
    return true;
}

static bool check_coded(ck *t)
{
    static const int64_t groups[] = {8, 32, 64, 128, 256, 0};
    static const int64_t channels[] = {1, 7, 33, 131, 300};
    size_t turn = 0;
    for (int bits = 2; bits <= LUTRA_MAX_BITS; bits++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (int a = 0; a < 2; a++)
                for (int z = 0; z < 2; z++, turn++) {
                    const int64_t k = groups[g] ? groups[g] * (int64_t)(1 + turn * 7 % 3)
                                                : channels[turn / 4 % 5];
                    const problem p = {.bits = bits,
                                       .dtype = FLOATS[turn % 3],
                                       .group = groups[g],
                                       .zeros = z,
                                       .tables = !z && turn % 3 == 0,
                                       .gathered = groups[g] && turn % 4 < 2,
                                       .outliers = turn % 7 < 3,
                                       .act = ACTS[a],
                                       .n = ROWS[turn * 7 % N_ROWS],
                                       .k = k,
                                       .bias = turn % 5 == 0,
                                       .max_m = turn % 37 == 0 ? 512
                                                : turn % 5 < 2 ? 100
                                                               : 17};
                    if (!check_product(t, &p))
                        return false;
                }
    return true;
}

/* The projections of a small model at the sizes of decoding. */
static bool check_model_shapes(ck *t)
{
    for (int bits = 0; bits <= 8; bits += 2)
        for (int a = 0; a < 2; a++) {
            const problem p = {.bits = bits,
                               .dtype = LUTRA_BF16,
                               .group = bits ? 128 : 0,
                               .act = ACTS[a],
                               .n = 192,
                               .k = 1536,
                               .max_m = 4};
            if (!check_product(t, &p))
                return false;
        }
    return true;
}

void ck_check_linear(ck *t)
{
    if (check_dense(t) && check_coded(t))
        check_model_shapes(t);
}
