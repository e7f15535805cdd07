/* rope.c - rope settings of config.json in their old and new spellings, and the frequencies.
   llama3 scaling (Llama 3.1): wavelengths shorter than original/high are kept, longer than
   original/low are stretched by factor, between them the two are blended. */
#include "model/rope.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

#define TWO_PI 6.283185307179586
#define MIN_FACTOR 1e-6 /* keeps frequencies finite in float32 */

static const char *const type_names[LU_N_ROPE_TYPES] = {"default", "linear", "llama3"};

static const char *const kind_names[LU_N_ATTN_KINDS] = {"full_attention", "sliding_attention"};

static lutra_status positive(const char *what, json_t *obj, const char *type, const char *key,
                             double *out, lutra_err *err)
{
    *out = 0.0;
    LU_TRY(lu_json_float(what, obj, key, out, err));
    if (!(*out >= MIN_FACTOR && *out < 1e12))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: rope type \"%s\" needs \"%s\" as a positive number", what, type, key);
    return LUTRA_OK;
}

/* "rope_type", or "type" as files before 2024 spell it. */
static lutra_status read_type(const char *what, json_t *obj, lu_rope_type *out, lutra_err *err)
{
    const char *name = "default";
    LU_TRY(lu_json_string(what, obj, "type", &name, err));
    LU_TRY(lu_json_string(what, obj, "rope_type", &name, err));
    for (int t = 0; t < LU_N_ROPE_TYPES; t++)
        if (strcmp(name, type_names[t]) == 0) {
            *out = (lu_rope_type)t;
            return LUTRA_OK;
        }
    return lu_fail(err, LUTRA_E_UNSUPPORTED,
                   "%s: rope type \"%.40s\" is not supported, expected default, linear or llama3",
                   what, name);
}

/* obj: rope_scaling, rope_parameters or one entry of the latter's map. */
static lutra_status read_one(const char *what, json_t *obj, double theta, lu_rope *out,
                             lutra_err *err)
{
    lu_rope r = {.type = LU_ROPE_DEFAULT, .theta = theta};
    if (obj && !json_is_null(obj)) {
        if (!json_is_object(obj))
            return lu_fail(err, LUTRA_E_FORMAT, "%s: the rope settings are not an object", what);
        LU_TRY(lu_json_float(what, obj, "rope_theta", &r.theta, err));
        LU_TRY(read_type(what, obj, &r.type, err));
        const char *name = type_names[r.type];
        if (r.type != LU_ROPE_DEFAULT)
            LU_TRY(positive(what, obj, name, "factor", &r.factor, err));
        if (r.type == LU_ROPE_LLAMA3) {
            LU_TRY(positive(what, obj, name, "low_freq_factor", &r.low_freq_factor, err));
            LU_TRY(positive(what, obj, name, "high_freq_factor", &r.high_freq_factor, err));
            LU_TRY(positive(what, obj, name, "original_max_position_embeddings",
                            &r.original_context, err));
            if (!(r.high_freq_factor > r.low_freq_factor))
                return lu_fail(err, LUTRA_E_FORMAT,
                               "%s: \"high_freq_factor\" %g is not above \"low_freq_factor\" %g",
                               what, r.high_freq_factor, r.low_freq_factor);
        }
        double partial = 1.0;
        LU_TRY(lu_json_float(what, obj, "partial_rotary_factor", &partial, err));
        if (partial != 1.0)
            return lu_fail(err, LUTRA_E_UNSUPPORTED,
                           "%s: partial_rotary_factor %g is not supported, expected 1", what,
                           partial);
    }
    if (!(r.theta >= 1.0 && r.theta < 1e15))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: rope_theta is %g, expected 1 or more", what,
                       r.theta);
    *out = r;
    return LUTRA_OK;
}

lutra_status lu_rope_read(const char *what, json_t *config, double default_theta,
                          lu_rope out[LU_N_ATTN_KINDS], lutra_err *err)
{
    double theta = default_theta;
    LU_TRY(lu_json_float(what, config, "rope_theta", &theta, err));
    json_t *settings = json_object_get(config, "rope_parameters");
    const bool newer = settings && !json_is_null(settings);
    if (!newer)
        settings = json_object_get(config, "rope_scaling");
    bool by_kind = false;
    for (int k = 0; newer && k < LU_N_ATTN_KINDS; k++)
        by_kind |= json_is_object(json_object_get(settings, kind_names[k]));
    lu_rope ropes[LU_N_ATTN_KINDS];
    for (int k = 0; k < LU_N_ATTN_KINDS; k++) {
        json_t *mine = by_kind ? json_object_get(settings, kind_names[k]) : settings;
        LU_TRY(read_one(what, mine, theta, &ropes[k], err));
    }
    memcpy(out, ropes, sizeof ropes);
    return LUTRA_OK;
}

static double scaled_frequency(const lu_rope *r, double f)
{
    if (r->type == LU_ROPE_DEFAULT)
        return f;
    if (r->type == LU_ROPE_LINEAR)
        return f / r->factor;
    const double wavelength = TWO_PI / f;
    if (wavelength < r->original_context / r->high_freq_factor)
        return f;
    if (wavelength > r->original_context / r->low_freq_factor)
        return f / r->factor;
    const double s = (r->original_context / wavelength - r->low_freq_factor) /
                     (r->high_freq_factor - r->low_freq_factor);
    return (1.0 - s) * f / r->factor + s * f;
}

void lu_rope_frequencies(const lu_rope *r, int64_t head_dim, float *inv_freq)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        const float f = (float)pow(r->theta, -(double)(2 * i) / (double)head_dim);
        inv_freq[i] = (float)scaled_frequency(r, (double)f);
    }
}

void lu_rope_angles(const float *inv_freq, int64_t head_dim, int64_t position, float *cosines,
                    float *sines)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        const float angle = (float)position * inv_freq[i];
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
}
