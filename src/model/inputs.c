/* inputs.c - which linears get their input rounded to integers, and the fixed scales that a
   checkpoint may hold for it: M.input_scale [1] (F32, F16 or BF16) and, where asymmetric,
   M.input_zero [1] (U8). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "model/slots.h"
#include "tensor/convert.h"

#define NAME_BYTES 160

bool lu_module_is_rounded(const lutra_model *m, int64_t layer, const lu_module *module)
{
    return layer >= 0 && module != &m->layers[layer].router;
}

typedef struct {
    lutra_model *model;
    const lu_act_format *format;
} rounding;

/* The only element of tensor M.part; NULL if it is absent or of another shape. */
static const lutra_tensor *find_one(const lutra_model *m, const char *module, const char *part)
{
    char name[NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s.%s", module, part);
    const lu_st_entry *e = lu_checkpoint_find(m->files, name);
    if (!e)
        return NULL;
    int64_t n = 1;
    for (int i = 0; i < e->view.rank; i++)
        n *= e->view.shape[i];
    return n == 1 ? &e->view : NULL;
}

static lutra_status read_static(const lutra_model *m, const char *module, lu_act_quant *q,
                                lutra_err *err)
{
    const char *folder = lu_checkpoint_path(m->files);
    const lutra_tensor *scale = find_one(m, module, "input_scale");
    const lutra_tensor *zero = find_one(m, module, "input_zero");
    const lutra_dtype t = scale ? scale->dtype : LUTRA_DTYPE_NONE;
    if (t != LUTRA_F32 && t != LUTRA_F16 && t != LUTRA_BF16)
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: %s.input_scale is not there as one number, which a static activation "
                       "format needs: calibrate the model on sample text",
                       folder, module);
    lu_to_f32(t, scale->data, 1, &q->scale);
    if (!(q->scale >= LU_ACT_MIN_SCALE) || !isfinite(q->scale))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: %s.input_scale is %g, expected a positive number",
                       folder, module, (double)q->scale);
    q->zero = LU_ACT_SYM_ZERO;
    if (!q->format.zero_point)
        return LUTRA_OK;
    if (!zero || zero->dtype != LUTRA_U8)
        return lu_fail(
            err, LUTRA_E_ARG,
            "%s: %s.input_zero is not there as one U8, which asymmetric activations need", folder,
            module);
    q->zero = *(const uint8_t *)zero->data;
    if (q->zero > lu_act_highest(&q->format))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: %s.input_zero is %d, expected a code of %d bits",
                       folder, module, q->zero, q->format.bits);
    return LUTRA_OK;
}

static lutra_status round_module(void *arg, int64_t layer, lu_module *module, lutra_err *err)
{
    const rounding *r = arg;
    const lu_act_format *f = r->format, said = module->input.format;
    char name[NAME_BYTES];
    module->input = (lu_act_quant){.zero = 0};
    if (!f->bits || !lu_module_is_rounded(r->model, layer, module))
        return LUTRA_OK;
    snprintf(name, sizeof name, "model.layers.%" PRId64 ".%s", layer, module->site);
    if (lu_act_is_static(f) && lu_act_is_static(&said) && !lu_act_format_same(f, &said)) {
        char own[64];
        return lu_fail(err, LUTRA_E_ARG,
                       "%s: %s.input_scale belongs to the activation format %s: take that one, a "
                       "scale per token, or calibrate the model on sample text",
                       lu_checkpoint_path(r->model->files), name,
                       lu_act_format_spec(&said, own, sizeof own));
    }
    if (f->scope == LU_ACT_GROUP && module->weight.k % f->group_size != 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "%s has %" PRId64 " columns, which the activations' group size %" PRId64
                       " does not divide",
                       name, module->weight.k, f->group_size);
    lu_act_quant q = {.format = *f};
    if (lu_act_is_static(f))
        LU_TRY(read_static(r->model, name, &q, err));
    module->input = q;
    return LUTRA_OK;
}

lutra_status lu_model_round_inputs(lutra_model *m, const lu_act_format *f, lutra_err *err)
{
    rounding r = {.model = m, .format = f};
    m->rounds_inputs = f->bits != 0;
    return lu_model_each_module(m, round_module, &r, err);
}
