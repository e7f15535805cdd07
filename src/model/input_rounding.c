/* input_rounding.c - rounds the inputs of a batch of products to integers before they run: to
   records of codes where the product multiplies integers, to float32 values otherwise. Products
   that share their input and round it alike share the result. */
#include <string.h>

#include "base/context.h"
#include "model/step.h"
#include "tensor/convert.h"

typedef struct {
    lu_forward *f;
    const lu_linear *linear;
    const void *x;
    uint8_t *out;
} rounding;

static size_t row_bytes(const lu_linear *l)
{
    return (size_t)lu_linear_x_stride(l) * lutra_dtype_bytes(l->act);
}

/* Outlier columns stay as they are and do not count for the scale. */
static void fake_row(const lu_forward *f, const lu_linear *l, float *row, float *out,
                     uint8_t *codes)
{
    float *rounded = l->n_outliers ? row : out;
    if (l->n_outliers)
        memcpy(out, row, (size_t)l->k * sizeof *row);
    for (int64_t i = 0; i < l->n_outliers; i++)
        row[l->outlier_columns[i]] = 0;
    lu_act_fake(&f->model->ops, l->input, row, l->k, rounded, codes);
    for (int64_t i = 0; i < l->n_outliers; i++)
        row[l->outlier_columns[i]] = out[l->outlier_columns[i]];
    if (l->n_outliers)
        memcpy(out, row, (size_t)l->k * sizeof *row);
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker)
{
    const rounding *r = arg;
    const lu_forward *f = r->f;
    const lu_linear *l = r->linear;
    const int64_t k = l->k;
    float *row = f->round_rows + worker * f->max_columns;
    uint8_t *codes = f->round_codes + worker * f->max_columns;
    for (int64_t i = begin; i < end; i++) {
        uint8_t *out = r->out + (size_t)i * row_bytes(l);
        if (f->model->act == LUTRA_BF16)
            f->model->ops.bf16_to_f32(row, (const uint16_t *)r->x + i * k, k);
        else
            memcpy(row, (const float *)r->x + i * k, (size_t)k * sizeof *row);
        if (l->act == LUTRA_U8)
            lu_act_record(&f->model->ops, l->input, row, k, out);
        else
            fake_row(f, l, row, (float *)(void *)out, codes);
    }
}

static bool alike(const lu_product *a, const void *x, const lu_product *b)
{
    return x == b->x && a->rows == b->rows && !a->linear->n_outliers && !b->linear->n_outliers &&
           a->linear->act == b->linear->act &&
           lu_act_same(a->linear->input, b->linear->input);
}

void lu_round_inputs(lu_forward *f, lu_product *products, int64_t n)
{
    uint8_t *out = f->rounded;
    for (int64_t i = 0; i < n; i++) {
        lu_product *p = &products[i];
        p->from = p->x;
        if (!p->linear->input || !p->rows)
            continue;
        int64_t same = 0;
        while (same < i && !(products[same].linear->input && products[same].rows &&
                             alike(&products[same], products[same].from, p)))
            same++;
        if (same < i) {
            p->x = products[same].x;
            continue;
        }
        rounding r = {.f = f, .linear = p->linear, .x = p->x, .out = out};
        lu_for_rows(f, p->rows, p->linear->k, round_rows, &r);
        p->x = out;
        out += ((size_t)p->rows * row_bytes(p->linear) + 63) / 64 * 64;
    }
}
