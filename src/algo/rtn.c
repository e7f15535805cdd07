/* rtn.c - rounding to nearest over rows; the numbers are made in kern/encode.h. */
#include "algo/rtn.h"

#include <math.h>

#include "tensor/convert.h"

bool lu_rtn_needs_row(lutra_dtype t) { return t != LUTRA_F32 && t != LUTRA_F16 && t != LUTRA_BF16; }

bool lu_rtn_encode(const lu_encoder *e, lu_rtn_block *b)
{
    const lutra_format *f = &e->format;
    const size_t in_bytes = (size_t)b->k * lutra_dtype_bytes(b->dtype);
    const size_t groups = (size_t)lutra_format_groups(f, b->k);
    const size_t scale_bytes = groups * lutra_dtype_bytes(f->scale_dtype);
    const size_t code_bytes = lutra_format_row_bytes(f, b->k);
    b->signal = b->noise = 0;
    for (int64_t i = 0; i < b->n; i++) {
        const size_t r = (size_t)i;
        lu_encode_row_args a = {
            .w = (const uint8_t *)b->w + r * in_bytes,
            .dtype = b->dtype,
            .k = b->k,
            .codes = b->codes + r * code_bytes,
            .scales = (uint8_t *)b->scales + r * scale_bytes,
            .zeros = b->zeros ? b->zeros + r * groups : NULL,
        };
        if (lu_rtn_needs_row(b->dtype)) {
            lu_to_f32(b->dtype, a.w, b->k, b->row);
            a.w = b->row;
            a.dtype = LUTRA_F32;
        }
        b->bad_column = lu_encoder_row(e, &a);
        if (b->bad_column >= 0) {
            b->bad_row = i;
            return false;
        }
        b->signal += a.signal;
        b->noise += a.noise;
    }
    return true;
}

lutra_status lu_rtn_fail(const lutra_format *f, const lutra_tensor *w, int64_t row, int64_t column,
                         lutra_err *err)
{
    const size_t at = (size_t)(row * w->shape[1] + column) * lutra_dtype_bytes(w->dtype);
    float v = 0;
    lu_to_f32(w->dtype, (const uint8_t *)w->data + at, 1, &v);
    if (!isfinite(v))
        return lu_fail(err, LUTRA_E_FORMAT, "row %lld, column %lld is %s, expected finite weights",
                       (long long)row, (long long)column, isnan(v) ? "NaN" : "infinite");
    return lu_fail(err, LUTRA_E_FORMAT, "row %lld, column %lld is %g, too large for %s scales%s",
                   (long long)row, (long long)column, (double)v, lutra_dtype_name(f->scale_dtype),
                   f->scale_dtype == LUTRA_F16 ? ": use :bf16 or :f32" : "");
}
