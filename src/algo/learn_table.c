/* learn_table.c - see learn_table.h. The histogram spans the values seen; each bin keeps its mass
   and its centre of mass, so that only the spread within a bin is lost. */
#include "algo/learn_table.h"

#include <math.h>
#include <string.h>

#include "algo/kmeans1d.h"
#include "base/mem.h"
#include "kern/encode.h"
#include "tensor/convert.h"

#define BINS 2048
#define ROUNDS 4 /* more change the error by under a percent */

typedef struct {
    const lu_learn_args *a;
    lu_encoder encoder;
    float *row, *decoded;
    double error; /* of the table as it is */
    uint8_t *codes;
    void *scales;
    double mass[BINS], moment[BINS];
    double x[BINS], m[BINS]; /* bins that hold something */
} learner;

static int64_t rows_apart(const lu_learn_args *a)
{
    const int64_t most = LU_LEARN_WEIGHTS / a->k;
    return most < 1 ? a->n : (a->n + most - 1) / most;
}

/* Row r as float32 and its scales for the table as it is. False if it cannot be encoded. */
static bool read_row(learner *l, int64_t r)
{
    const lu_learn_args *a = l->a;
    const size_t bytes = (size_t)a->k * lutra_dtype_bytes(a->dtype);
    lu_to_f32(a->dtype, (const uint8_t *)a->w + (size_t)r * bytes, a->k, l->row);
    lu_encode_row_args e = {.w = l->row, .dtype = LUTRA_F32, .k = a->k, .codes = l->codes};
    e.scales = l->scales;
    return lu_encoder_row(&l->encoder, &e) < 0;
}

static void add_error(learner *l)
{
    const lu_learn_args *a = l->a;
    double sum = 0;
    lu_decode_row(&l->encoder.format, l->codes, l->scales, NULL, a->k, l->decoded);
    for (int64_t i = 0; i < a->k; i++) {
        const double d = (double)l->row[i] - (double)l->decoded[i];
        sum += d * d * (a->importance ? (double)a->importance[i] : 1);
    }
    l->error += sum;
}

/* Adds the row's weights over their scales. Values past the histogram's ends go into its last bins:
   means stay true. */
static void add_row(learner *l, float reach)
{
    const lu_learn_args *a = l->a;
    const lutra_format *f = a->format;
    const int64_t groups = lutra_format_groups(f, a->k), size = a->k / groups;
    for (int64_t g = 0; g < groups; g++) {
        const float scale = lu_scale_get(f->scale_dtype, l->scales, g);
        if (scale == 0)
            continue;
        const double unit = (double)scale * (double)scale, per_bin = BINS / (2.0 * (double)reach);
        for (int64_t i = g * size; i < (g + 1) * size; i++) {
            const double v = (double)l->row[i] / (double)scale;
            const double mass = a->importance ? unit * (double)a->importance[i] : unit;
            const double at = (v + (double)reach) * per_bin;
            const int bin = at < 0 ? 0 : at >= BINS ? BINS - 1 : (int)at;
            l->mass[bin] += mass;
            l->moment[bin] += mass * v;
        }
    }
}

/* The table for the histogram; keeps it as it is where nothing counts. */
static lutra_status fit(learner *l, float *table, lutra_err *err)
{
    const int n = 1 << l->a->format->bits;
    double centroids[1 << LUTRA_MAX_BITS], largest = 0;
    int32_t points = 0;
    for (int i = 0; i < BINS; i++)
        if (l->mass[i] > 0) {
            l->x[points] = l->moment[i] / l->mass[i];
            l->m[points++] = l->mass[i];
        }
    if (points == 0)
        return LUTRA_OK;
    LU_TRY(lu_kmeans1d(l->x, l->m, points, n, centroids, NULL, err));
    for (int i = 0; i < n; i++)
        largest = fmax(largest, fabs(centroids[i]));
    for (int i = 0; i < n && largest > 0; i++)
        table[i] = (float)(centroids[i] / largest);
    return LUTRA_OK;
}

/* Judges the encoder's table; then, if wanted, fits `table` to the scales that it has led to. */
static lutra_status improve(learner *l, bool wanted, float *table, lutra_err *err)
{
    /* mse lets weights lie beyond the table by 1 / 0.21 at most; nearly all lie within twice */
    const float reach = 2;
    memset(l->mass, 0, sizeof l->mass);
    memset(l->moment, 0, sizeof l->moment);
    l->error = 0;
    for (int64_t r = 0; r < l->a->n; r += rows_apart(l->a)) {
        if (!read_row(l, r))
            continue;
        add_error(l);
        if (wanted)
            add_row(l, reach);
    }
    return wanted ? fit(l, table, err) : LUTRA_OK;
}

lutra_status lu_learn_table(const lu_learn_args *a, float *table, lutra_err *err)
{
    const lutra_format *f = a->format;
    const size_t k = (size_t)a->k, groups = (size_t)lutra_format_groups(f, a->k);
    lutra_format now = *f;
    learner *l = lu_alloc(sizeof *l);
    if (!l)
        return lu_fail_nomem(err, sizeof *l);
    l->a = a;
    l->row = lu_array(k, sizeof *l->row);
    l->decoded = lu_array(k, sizeof *l->decoded);
    l->codes = lu_alloc(lutra_format_row_bytes(f, a->k));
    l->scales = lu_alloc_aligned(groups * sizeof(float));
    lutra_status status =
        l->row && l->decoded && l->codes && l->scales ? LUTRA_OK : lu_fail_nomem(err, k * sizeof *l->row);
    double least = INFINITY;
    for (int i = 0; status == LUTRA_OK && i <= ROUNDS; i++) {
        lu_encoder_init(&l->encoder, &now, a->level);
        l->encoder.range = LUTRA_RANGE_MSE;
        status = improve(l, i < ROUNDS, now.table, err);
        if (status == LUTRA_OK && l->error < least) {
            least = l->error;
            memcpy(table, l->encoder.format.table, sizeof *table << f->bits);
        }
    }
    lu_free(l->row);
    lu_free(l->decoded);
    lu_free(l->codes);
    lu_free_aligned(l->scales);
    lu_free(l);
    return status;
}
