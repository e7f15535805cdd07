/* hqq.c - half-quadratic quantization (Badri and Shaji 2023, "Half-Quadratic Quantization of Large
   Machine Learning Models"): zero points z that make the l_p norm, p < 1, of the rounding error
   small, without data. With the scale s of a group fixed, it alternates

       Q = clamp(rint(w / s + z)),  R = s (Q - z),  D = w - R
       E = sign(D) max(|D| - |D|^(p - 1) / beta, 0)            shrinkage
       z = mean of Q - (w - E) / s,  beta *= kappa             annealing

   for the whole matrix, until the mean of |D| no longer falls. The scale and the first zero point
   are those of the range rule (or of the ranges that a pass before has set).

   The solver's zero points are real numbers and the format's are codes: they are rounded at the
   end, and a group whose l_p error has not become smaller by that keeps what it had. */
#include <math.h>
#include <string.h>

#include "algo/hqq.h"
#include "algo/pass.h"
#include "base/mem.h"
#include "fmt/codec.h"

typedef struct {
    int64_t iterations;
    double norm, beta, kappa;
} settings;

static const lutra_param params[] = {
    {"iterations", LUTRA_PARAM_INT, offsetof(settings, iterations), 20, 1, 10000, NULL,
     "most steps of the solver"},
    {"norm", LUTRA_PARAM_REAL, offsetof(settings, norm), 0.7, 0.05, 1, NULL,
     "p of the l_p norm of the error"},
    {"beta", LUTRA_PARAM_REAL, offsetof(settings, beta), 10, 1e-3, 1e6, NULL,
     "strength of the quadratic term; larger: the error is shrunk less"},
    {"kappa", LUTRA_PARAM_REAL, offsetof(settings, kappa), 1.01, 1, 10, NULL,
     "beta grows by this factor every step"},
    {0},
};

double lu_hqq_step(const lu_hqq_solver *s, const float *w, int64_t n, float *zero)
{
    const double scale = (double)s->scale, z = (double)*zero, top = (double)s->top;
    double error = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const double q = fmin(fmax(rint((double)w[i] / scale + z), 0), top);
        const double d = (double)w[i] - scale * (q - z), size = fabs(d);
        const double left = size > 0 ? size - pow(size, s->norm - 1) / s->beta : 0;
        const double e = left > 0 ? copysign(left, d) : 0;
        error += size;
        sum += q - ((double)w[i] - e) / scale;
    }
    *zero = (float)(sum / (double)n);
    return error;
}

/* ---- a matrix -----------------------------------------------------------------------------------
 */

typedef struct {
    const settings *set;
    lu_site_linear *l; /* codes: the start, then the result */
    const float *w;    /* [n][k] the weights that it rounds */
    int64_t groups, size;
    float top;
    double beta;
    float *zero;       /* [n][groups] real */
    double *row_error; /* [n] */
} job;

static float scale_at(const job *j, int64_t i)
{
    return lu_scale_get(j->l->format.scale_dtype, j->l->codes.scales, i);
}

static void begin_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    (void)worker;
    for (int64_t i = begin * j->groups; i < end * j->groups; i++)
        j->zero[i] = (float)j->l->codes.zeros[i];
}

static void step_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    lu_hqq_solver s = {.norm = j->set->norm, .beta = j->beta, .top = j->top};
    (void)worker;
    for (int64_t r = begin; r < end; r++) {
        j->row_error[r] = 0;
        for (int64_t i = r * j->groups; i < (r + 1) * j->groups; i++) {
            s.scale = scale_at(j, i);
            if (s.scale > 0)
                j->row_error[r] += lu_hqq_step(&s, j->w + i * j->size, j->size, &j->zero[i]);
        }
    }
}

static double norm_of_error(const job *j, const float *w, float scale, float zero)
{
    double sum = 0;
    for (int64_t c = 0; c < j->size; c++) {
        const float q = fminf(fmaxf(rintf(w[c] / scale + zero), 0), j->top);
        sum += pow(fabs((double)w[c] - (double)scale * (double)(q - zero)), j->set->norm);
    }
    return sum;
}

static void finish_group(const job *j, int64_t r, int64_t g)
{
    const lutra_format *f = &j->l->format;
    const int64_t i = r * j->groups + g;
    const float *w = j->w + i * j->size, scale = scale_at(j, i), old = j->l->codes.zeros[i];
    const float zero = fminf(fmaxf(rintf(j->zero[i]), 0), j->top);
    if (!(scale > 0) || !(norm_of_error(j, w, scale, zero) < norm_of_error(j, w, scale, old)))
        return;
    uint8_t *out = j->l->codes.codes + (size_t)r * lutra_format_row_bytes(f, j->l->k) +
                   (size_t)(g * j->size / 8) * (size_t)f->bits;
    uint8_t codes[256];
    j->l->codes.zeros[i] = (uint8_t)zero;
    for (int64_t c = 0; c < j->size; c += 256) { /* groups are multiples of 8, or the row */
        const int64_t n = j->size - c < 256 ? j->size - c : 256;
        for (int64_t x = 0; x < n; x++)
            codes[x] = (uint8_t)fminf(fmaxf(rintf(w[c + x] / scale + zero), 0), j->top);
        lu_codes_pack(codes, n, f->bits, out + (size_t)(c / 8) * (size_t)f->bits);
    }
}

static void finish_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const job *j = arg;
    (void)worker;
    for (int64_t r = begin; r < end; r++)
        for (int64_t g = 0; g < j->groups; g++)
            finish_group(j, r, g);
}

static lutra_status solve(lu_block *b, job *j, lutra_err *err)
{
    double best = INFINITY;
    lu_pool_for(b->ctx->pool, j->l->n, 16, begin_rows, j);
    j->beta = j->set->beta;
    for (int64_t i = 0; i < j->set->iterations; i++, j->beta *= j->set->kappa) {
        double error = 0;
        LU_TRY(lu_check_cancel(b->ctx, err));
        lu_pool_for(b->ctx->pool, j->l->n, 8, step_rows, j);
        for (int64_t r = 0; r < j->l->n; r++)
            error += j->row_error[r];
        if (!(error < best))
            break;
        best = error;
    }
    lu_pool_for(b->ctx->pool, j->l->n, 8, finish_rows, j);
    return LUTRA_OK;
}

static lutra_status hqq_linear(lu_block *b, lu_site_linear *l, const settings *set, lutra_err *err)
{
    const size_t bytes = (size_t)l->n * (size_t)l->k * sizeof *l->w;
    float *w = lu_alloc(bytes);
    if (!w)
        return lu_fail_nomem(err, bytes);
    memcpy(w, l->w, bytes);
    lutra_status status = lu_linear_round(b, l, err); /* the start */
    job j = {.set = set, .l = l, .w = w, .groups = lutra_format_groups(&l->format, l->k)};
    if (status == LUTRA_OK) {
        j.size = l->k / j.groups;
        j.top = (float)((1 << l->format.bits) - 1);
        j.zero = lu_array((size_t)l->n, (size_t)j.groups * sizeof *j.zero);
        j.row_error = lu_array((size_t)l->n, sizeof *j.row_error);
        status = j.zero && j.row_error ? solve(b, &j, err) : lu_fail_nomem(err, bytes);
    }
    memcpy(l->w, w, bytes);
    if (status == LUTRA_OK)
        status = lu_linear_close_codes(b, l, err);
    lu_free(w);
    lu_free(j.zero);
    lu_free(j.row_error);
    return status;
}

/* ---- the pass -----------------------------------------------------------------------------------
 */

static lutra_status hqq_check(const void *set, const lutra_format *f, lutra_err *err)
{
    (void)set;
    if (!f->zero_point)
        return lu_fail(err, LUTRA_E_ARG,
                       "hqq looks for zero points and format '%s' has none: use intB:asym",
                       f->name);
    return LUTRA_OK;
}

static lutra_status hqq_site(lu_block *b, lu_site *site, const void *set, lutra_err *err)
{
    for (int i = 0; i < site->n_linears; i++)
        if (site->linears[i]->wanted && !site->linears[i]->kept)
            LU_TRY(hqq_linear(b, site->linears[i], set, err));
    return LUTRA_OK;
}

const lu_pass lu_pass_hqq = {
    .method = {.name = "hqq",
               .summary = "rounds with the zero points that make the l_p norm of the error small",
               .source = "Badri and Shaji 2023, Half-Quadratic Quantization",
               .kind = LUTRA_METHOD_ROUND,
               .params = params},
    .settings_size = sizeof(settings),
    .check = hqq_check,
    .site = hqq_site,
};
