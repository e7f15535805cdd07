/* selftest.c - does checkkernel notice? Each row of FAULTS plants one broken kernel in an otherwise
   good table and demands that the op's check fails. Broken kernels call the good reference and then
   do one thing wrong, the way kernels do go wrong: tails, bounds, rounding, masks, batching. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkkernel.h"
#include "tensor/convert.h"

static lu_ops good;

static void silu_leaves_the_last_element(float *y, const float *gate, const float *up, int64_t n)
{
    good.silu_mul(y, gate, up, n > 0 ? n - 1 : 0);
}

static void silu_overflows(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i]; /* 0 below -89 */
}

static void gelu_is_the_erf_one(float *y, const float *gate, const float *up, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] * 0.5f * (1.0f + erff(gate[i] * 0.70710678f)) * up[i];
}

static void add_writes_past_the_end(float *y, const float *x, int64_t n)
{
    good.add(y, x, n);
    ((volatile float *)y)[n] = 0;
}

static void add_writes_before_the_start(float *y, const float *x, int64_t n)
{
    good.add(y, x, n);
    ((volatile float *)y)[-1] = 0;
}

static void add_writes_its_input(float *y, const float *x, int64_t n)
{
    good.add(y, x, n);
    if (n > 0)
        ((volatile float *)x)[0] = x[0]; /* even the same value: another thread may read it */
}

static void add_is_not_written_for_one_tail(float *y, const float *x, int64_t n)
{
    good.add(y, x, n % 16 == 15 ? n - 7 : n);
}

static void axpy_drops_a_bit(float *y, float a, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += lu_f32_from_bits(lu_f32_bits(a * x[i]) & ~3u);
}

static int64_t argmax_reads_past_the_end(const float *x, int64_t n)
{
    (void)((const volatile float *)x)[n];
    return good.argmax(x, n);
}

static int64_t argmax_takes_the_last_tie(const float *x, int64_t n)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (!isnan(x[i]) && (best < 0 || x[i] >= x[best]))
            best = i;
    return best;
}

static int64_t argmax_is_stopped_by_nan(const float *x, int64_t n)
{
    int64_t best = n > 0 ? 0 : -1;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) /* never, if x[0] is NaN */
            best = i;
    return best;
}

static void bf16_is_cut_off(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = isnan(x[i]) ? 0x7fc0 : (uint16_t)(lu_f32_bits(x[i]) >> 16);
}

static void bf16_rounds_ties_up(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = isnan(x[i]) ? 0x7fc0 : (uint16_t)((lu_f32_bits(x[i]) + 0x8000u) >> 16);
}

static void bf16_loses_nan(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint32_t u = lu_f32_bits(x[i]);
        y[i] = (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
}

static void f16_flushes_subnormals(float *y, const uint16_t *x, int64_t n)
{
    good.f16_to_f32(y, x, n);
    for (int64_t i = 0; i < n; i++)
        if ((x[i] & 0x7c00) == 0)
            y[i] = copysignf(0, y[i]);
}

static void f16_overflows_early(uint16_t *y, const float *x, int64_t n)
{
    good.f32_to_f16(y, x, n);
    for (int64_t i = 0; i < n; i++)
        if (fabsf(x[i]) > 65504.0f && (y[i] & 0x7fff) == 0x7bff)
            y[i] |= 0x7c00;
}

static void bf16_widens_to_the_wrong_place(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = lu_bf16_to_f32(x[i ^ (n > 64 && (i ^ 1) < n)]);
}

static void rmsnorm_forgets_the_offset(float *y, const float *x, const float *w, int64_t n,
                                       float eps, float w_offset)
{
    (void)w_offset;
    good.rmsnorm(y, x, w, n, eps, 0);
}

static void rmsnorm_uses_an_approximate_root(float *y, const float *x, const float *w, int64_t n,
                                             float eps, float w_offset)
{
    good.rmsnorm(y, x, w, n, eps, w_offset);
    for (int64_t i = 0; i < n; i++)
        y[i] *= 1.0f + 0x1p-14f; /* what a bare vrsqrt14ps gives */
}

static void rmsnorm_sums_whole_vectors_only(float *y, const float *x, const float *w, int64_t n,
                                            float eps, float w_offset)
{
    double sum = 0;
    for (int64_t i = 0; i < n / 16 * 16; i++)
        sum += (double)x[i] * x[i];
    const float r = (float)(1.0 / sqrt(sum / (double)(n ? n : 1) + eps));
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * r * (w[i] + w_offset);
}

static void rope_turns_backwards(float *x, const float *c, const float *s, int64_t n_heads,
                                 int64_t head_dim)
{
    float minus[512];
    for (int64_t i = 0; i < head_dim / 2; i++)
        minus[i] = -s[i];
    good.rope(x, c, minus, n_heads, head_dim);
}

static void rope_turns_the_first_head_only(float *x, const float *c, const float *s,
                                           int64_t n_heads, int64_t head_dim)
{
    good.rope(x, c, s, n_heads > 1 ? 1 : n_heads, head_dim);
}

static void softcap_is_a_clamp(float *x, float cap, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = fmaxf(-cap, fminf(cap, x[i]));
}

static void softcap_cancels_near_zero(float *x, float cap, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = cap * (1.0f - 2.0f / (expf(2 * x[i] / cap) + 1.0f));
}

static void softmax_does_not_subtract_the_maximum(float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = expf(x[i]);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(x[i] / sum);
}

static float logsumexp_misses_the_tail(const float *x, int64_t n)
{
    return good.logsumexp(x, n > 8 ? n / 8 * 8 : n);
}

static void range_is_not_stopped_by_infinity(float *lo_hi, const float *x, int64_t n)
{
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    lo_hi[0] = lo;
    lo_hi[1] = hi;
}

static void encode_rounds_ties_away(uint8_t *codes, const float *x, int64_t n, float scale,
                                    int zero, int lowest, int highest)
{
    for (int64_t i = 0; i < n; i++) {
        const float r = roundf(x[i] / scale) + (float)zero;
        codes[i] = (uint8_t)fminf(fmaxf(r, (float)lowest), (float)highest);
    }
}

static void encode_multiplies_by_the_inverse(uint8_t *codes, const float *x, int64_t n, float scale,
                                             int zero, int lowest, int highest)
{
    const float inverse = 1 / scale;
    for (int64_t i = 0; i < n; i++) {
        const float r = rintf(x[i] * inverse) + (float)zero;
        codes[i] = (uint8_t)fminf(fmaxf(r, (float)lowest), (float)highest);
    }
}

static void encode_wraps(uint8_t *codes, const float *x, int64_t n, float scale, int zero,
                         int lowest, int highest)
{
    (void)lowest, (void)highest;
    good.act_encode(codes, x, n, scale, zero, 0, 255);
}

static void decode_forgets_the_zero(float *y, const uint8_t *codes, int64_t n, float scale, int zero)
{
    (void)zero;
    good.act_decode(y, codes, n, scale, 0);
}

static void int8_ignores_zero_points(const lu_linear *l, const lu_linear_args *a)
{
    lu_linear_args b = *a;
    uint8_t *records = malloc((size_t)(a->M * a->ldx));
    if (!records)
        abort();
    for (int64_t m = 0; m < a->M; m++) {
        memcpy(records + m * a->ldx, (const uint8_t *)a->x + m * a->ldx,
               (size_t)lu_act_record_bytes(l->k));
        records[m * a->ldx + 4] = LU_ACT_SYM_ZERO;
    }
    b.x = records;
    lu_linear_run(l, &b);
    free(records);
}

static void attend_ignores_the_window(const lu_attend_args *a)
{
    lu_attend_args b = *a;
    b.window = 0;
    good.attend(&b);
}

static void attend_window_is_off_by_one(const lu_attend_args *a)
{
    lu_attend_args b = *a;
    b.window += b.window > 0;
    good.attend(&b);
}

static void attend_ignores_softcap(const lu_attend_args *a)
{
    lu_attend_args b = *a;
    b.softcap = 0;
    good.attend(&b);
}

static void attend_looks_ahead(const lu_attend_args *a)
{
    good.attend(a);
    for (int64_t i = 0; i + 1 < a->n_q; i++) { /* all but the last query see one key too many */
        lu_attend_args b = *a;
        b.q += i * a->q_stride;
        b.out += i * a->out_stride;
        b.pos += i + 1;
        b.n_q = 1;
        good.attend(&b);
    }
}

static void attend_depends_on_the_batch(const lu_attend_args *a)
{
    good.attend(a);
    for (int64_t i = 0; i < a->n_q && a->n_q > 1 && a->head_dim > 0; i++)
        a->out[i * a->out_stride] = nextafterf(a->out[i * a->out_stride], INFINITY);
}

static void attend_uses_one_head(const lu_attend_args *a)
{
    lu_attend_args b = *a;
    b.q_head_stride = 0;
    good.attend(&b);
}

static void attend_reads_past_the_keys(const lu_attend_args *a)
{
    const int64_t n = (a->pos + a->n_q) * a->head_dim;
    (void)*((const volatile uint16_t *)a->k + (a->kind == LU_KV_BF16 ? n : 2 * n));
    good.attend(a);
}

static void attend_overruns_its_scratch(const lu_attend_args *a)
{
    good.attend(a);
    ((volatile float *)a->scratch)[lu_attend_scratch(a->pos + a->n_q, a->head_dim)] = 0;
}

static void attend_weights_are_bf16(const lu_attend_args *a)
{
    good.attend(a);
    for (int64_t i = 0; i < a->n_q; i++)
        for (int64_t d = 0; d < a->head_dim; d++) {
            float *out = a->out + i * a->out_stride + d;
            *out = lu_bf16_to_f32(lu_f32_to_bf16(*out));
        }
}

static void linear_uses_the_first_scale_for_the_last_group(lu_linear *l, const lu_weight *w,
                                                           int64_t unit0, int64_t unit1)
{
    static uint8_t scales[1 << 16];
    const int64_t groups = w->bits && w->group_size ? w->k / w->group_size : 1;
    const size_t size = w->bits ? lutra_dtype_bytes(w->scale_dtype) : 0;
    lu_weight b = *w;
    if (size && (size_t)(w->n * groups) * size <= sizeof scales) {
        memcpy(scales, w->scales, (size_t)(w->n * groups) * size);
        for (int64_t r = 0; r < w->n; r++)
            memcpy(scales + (size_t)(r * groups + groups - 1) * size,
                   (const uint8_t *)w->scales + (size_t)(r * groups) * size, size);
        b.scales = scales;
    }
    lu_linear_pack(l, &b, unit0, unit1);
}

static void linear_forgets_the_zero_points(lu_linear *l, const lu_weight *w, int64_t unit0,
                                           int64_t unit1)
{
    static const uint8_t none[1 << 16];
    lu_weight b = *w;
    if (b.zeros)
        b.zeros = none;
    lu_linear_pack(l, &b, unit0, unit1);
}

static void linear_does_not_pack_the_last_unit(lu_linear *l, const lu_weight *w, int64_t unit0,
                                               int64_t unit1)
{
    lu_linear_pack(l, w, unit0, unit1 == l->n_units && unit1 > 1 ? unit1 - 1 : unit1);
}

static void linear_depends_on_the_batch(const lu_linear *l, const lu_linear_args *a)
{
    lu_linear_run(l, a);
    if (a->M >= 8 && a->unit0 < a->unit1)
        a->y[a->unit0 * l->unit_rows] = nextafterf(a->y[a->unit0 * l->unit_rows], INFINITY);
}

static void linear_skips_the_last_column(const lu_linear *l, const lu_linear_args *a)
{
    const uint32_t poison = UINT32_MAX;
    lu_linear_run(l, a);
    if (a->unit1 == l->n_units && l->n % 2)
        for (int64_t m = 0; m < a->M; m++)
            memcpy(&a->y[m * a->ldy + l->n - 1], &poison, sizeof poison);
}

static void linear_writes_whole_tiles(const lu_linear *l, const lu_linear_args *a)
{
    lu_linear_run(l, a);
    for (int64_t m = 0; m + 1 < a->M; m++)
        for (int64_t n = l->n; n < a->ldy; n++)
            a->y[m * a->ldy + n] = 0;
}

static void linear_forgets_the_bias(const lu_linear *l, const lu_linear_args *a)
{
    lu_linear b = *l;
    b.bias = NULL;
    lu_linear_run(&b, a);
}

static void linear_results_are_bf16(const lu_linear *l, const lu_linear_args *a)
{
    lu_linear_run(l, a);
    for (int64_t n = a->unit0 * l->unit_rows; n < l->n && n < a->unit1 * l->unit_rows; n++)
        for (int64_t m = 0; m < a->M; m++)
            a->y[m * a->ldy + n] = lu_bf16_to_f32(lu_f32_to_bf16(a->y[m * a->ldy + n]));
}

static void linear_reads_past_x(const lu_linear *l, const lu_linear_args *a)
{
    const int64_t n = (a->M - 1) * a->ldx + l->k;
    (void)*((const volatile uint16_t *)a->x + (l->act == LUTRA_BF16 ? n : 2 * n));
    lu_linear_run(l, a);
}

static int64_t encode_changes_the_last_code(const lu_encoder *e, lu_encode_row_args *a)
{
    const int64_t bad = lu_encoder_row(e, a);
    a->codes[lutra_format_row_bytes(&e->format, a->k) - 1] ^= 1u;
    return bad;
}

static int64_t encode_writes_past_the_codes(const lu_encoder *e, lu_encode_row_args *a)
{
    const int64_t bad = lu_encoder_row(e, a);
    ((volatile uint8_t *)a->codes)[lutra_format_row_bytes(&e->format, a->k)] = 0;
    return bad;
}

static int64_t encode_accepts_nan(const lu_encoder *e, lu_encode_row_args *a)
{
    lu_encoder_row(e, a);
    return -1;
}

static int64_t encode_misses_noise(const lu_encoder *e, lu_encode_row_args *a)
{
    const int64_t bad = lu_encoder_row(e, a);
    a->noise *= 1 - 1e-6;
    return bad;
}

typedef struct {
    const char *name, *op;
    ck_subject broken; /* only the kernel that is wrong is set */
} fault;

#define FAULT(op_name, kernel)                       \
    {                                                \
#kernel, #op_name, { .ops.op_name = kernel } \
    }
#define FAULT_IN(op_name, member, kernel)       \
    {                                           \
#kernel, #op_name, { .member = kernel } \
    }
static const fault FAULTS[] = {
    FAULT(silu_mul, silu_leaves_the_last_element),
    FAULT(silu_mul, silu_overflows),
    FAULT(gelu_mul, gelu_is_the_erf_one),
    FAULT(add, add_writes_past_the_end),
    FAULT(add, add_writes_before_the_start),
    FAULT(add, add_writes_its_input),
    FAULT(add, add_is_not_written_for_one_tail),
    FAULT(axpy, axpy_drops_a_bit),
    FAULT(argmax, argmax_reads_past_the_end),
    FAULT(argmax, argmax_takes_the_last_tie),
    FAULT(argmax, argmax_is_stopped_by_nan),
    FAULT(f32_to_bf16, bf16_is_cut_off),
    FAULT(f32_to_bf16, bf16_rounds_ties_up),
    FAULT(f32_to_bf16, bf16_loses_nan),
    FAULT(f16_to_f32, f16_flushes_subnormals),
    FAULT(f32_to_f16, f16_overflows_early),
    FAULT(bf16_to_f32, bf16_widens_to_the_wrong_place),
    FAULT(rmsnorm, rmsnorm_forgets_the_offset),
    FAULT(rmsnorm, rmsnorm_uses_an_approximate_root),
    FAULT(rmsnorm, rmsnorm_sums_whole_vectors_only),
    FAULT(rope, rope_turns_backwards),
    FAULT(rope, rope_turns_the_first_head_only),
    FAULT(softcap, softcap_is_a_clamp),
    FAULT(softcap, softcap_cancels_near_zero),
    FAULT(softmax, softmax_does_not_subtract_the_maximum),
    FAULT(logsumexp, logsumexp_misses_the_tail),
    FAULT(act_range, range_is_not_stopped_by_infinity),
    FAULT(act_encode, encode_rounds_ties_away),
    FAULT(act_encode, encode_multiplies_by_the_inverse),
    FAULT(act_encode, encode_wraps),
    FAULT(act_decode, decode_forgets_the_zero),
    FAULT(attend, attend_ignores_the_window),
    FAULT(attend, attend_window_is_off_by_one),
    FAULT(attend, attend_ignores_softcap),
    FAULT(attend, attend_looks_ahead),
    FAULT(attend, attend_depends_on_the_batch),
    FAULT(attend, attend_uses_one_head),
    FAULT(attend, attend_reads_past_the_keys),
    FAULT(attend, attend_overruns_its_scratch),
    FAULT(attend, attend_weights_are_bf16),
    FAULT_IN(linear, linear_pack, linear_uses_the_first_scale_for_the_last_group),
    FAULT_IN(linear, linear_pack, linear_forgets_the_zero_points),
    FAULT_IN(linear, linear_pack, linear_does_not_pack_the_last_unit),
    FAULT_IN(linear, linear_run, linear_depends_on_the_batch),
    FAULT_IN(linear, linear_run, linear_skips_the_last_column),
    FAULT_IN(linear, linear_run, linear_writes_whole_tiles),
    FAULT_IN(linear, linear_run, linear_forgets_the_bias),
    FAULT_IN(linear, linear_run, linear_results_are_bf16),
    FAULT_IN(linear, linear_run, linear_reads_past_x),
    FAULT_IN(int8, linear_run, int8_ignores_zero_points),
    FAULT_IN(int8, linear_run, linear_skips_the_last_column),
    FAULT_IN(int8, linear_run, linear_forgets_the_bias),
    FAULT_IN(int8, linear_run, linear_results_are_bf16),
    FAULT_IN(int8, linear_pack, linear_does_not_pack_the_last_unit),
    FAULT_IN(encode, encode_row, encode_changes_the_last_code),
    FAULT_IN(encode, encode_row, encode_writes_past_the_codes),
    FAULT_IN(encode, encode_row, encode_accepts_nan),
    FAULT_IN(encode, encode_row, encode_misses_noise),
};
#define N_FAULTS (sizeof FAULTS / sizeof *FAULTS)

/* The good kernels with the broken one over them; what is not set in `broken` is NULL. */
static ck_subject plant(const ck_subject *broken)
{
    ck_subject s = ck_subject_of(LU_LEVEL_REF);
#define TAKE(member)    \
    if (broken->member) \
        s.member = broken->member;
#define TAKE_OP(name, args) TAKE(ops.name)
    LU_OPS_LIST(TAKE_OP)
    TAKE(ops.logsumexp)
    TAKE(ops.argmax)
    TAKE(linear_pack)
    TAKE(linear_run)
    TAKE(encode_row)
#undef TAKE
#undef TAKE_OP
    return s;
}

static const ck_op *find(const char *name)
{
    const ck_op *op = ck_op_list;
    while (op->name && strcmp(op->name, name) != 0)
        op++;
    return op;
}

int main(void)
{
    int missed = 0;
    lu_ops_fill(&good, LU_LEVEL_REF);
    for (size_t i = 0; i < N_FAULTS; i++) {
        const ck_subject subject = plant(&FAULTS[i].broken);
        ck_report r;
        ck_run(find(FAULTS[i].op), &subject, 1, &r);
        printf("%-7s %-47s %s: %s\n", r.failed ? "caught" : "MISSED", FAULTS[i].name,
               r.failed ? r.at : "", r.failed ? r.message : "");
        missed += !r.failed;
    }
    printf("%d of %d faults caught\n", (int)N_FAULTS - missed, (int)N_FAULTS);
    return missed > 0;
}
