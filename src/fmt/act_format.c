/* act_format.c - see act_format.h. */
#include "fmt/act_format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/near.h"

#define MAX_SPEC 63

static const char *const known_parts[] = {"token", "tensor", "static", "g64",
                                          "g128",  "sym",    "asym",   NULL};

typedef struct {
    bool scope, symmetry, fixed; /* given already */
} given;

static lutra_status once(bool *seen, const char *spec, const char *part, lutra_err *err)
{
    if (*seen)
        return lu_fail(err, LUTRA_E_ARG,
                       "activation format '%s': '%s' repeats or contradicts an earlier part", spec,
                       part);
    *seen = true;
    return LUTRA_OK;
}

static lutra_status parse_group(const char *spec, const char *part, lu_act_format *f,
                                lutra_err *err)
{
    char *end;
    const long long group = strtoll(part + 1, &end, 10);
    if (*end != '\0' || group <= 0 || group > INT32_MAX || group % 8 != 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "activation format '%s': group '%s', expected g and a multiple of 8, such "
                       "as g128",
                       spec, part);
    f->scope = LU_ACT_GROUP;
    f->group_size = group;
    return LUTRA_OK;
}

static lutra_status parse_part(const char *spec, const char *part, lu_act_format *f, given *seen,
                               lutra_err *err)
{
    char near[64];
    if (part[0] == 'g' && part[1] >= '0' && part[1] <= '9') {
        LU_TRY(once(&seen->scope, spec, part, err));
        return parse_group(spec, part, f, err);
    }
    if (strcmp(part, "token") == 0 || strcmp(part, "tensor") == 0) {
        f->scope = part[1] == 'o' ? LU_ACT_TOKEN : LU_ACT_TENSOR;
        return once(&seen->scope, spec, part, err);
    }
    if (strcmp(part, "static") == 0)
        return once(&seen->fixed, spec, part, err);
    if (strcmp(part, "sym") == 0 || strcmp(part, "asym") == 0) {
        f->zero_point = part[0] == 'a';
        return once(&seen->symmetry, spec, part, err);
    }
    if (lu_near(part, lu_near_array, known_parts, near, sizeof near) > 0)
        return lu_fail(err, LUTRA_E_ARG, "activation format '%s': unknown part '%s', near: %s",
                       spec, part, near);
    return lu_fail(
        err, LUTRA_E_ARG,
        "activation format '%s': unknown part '%s', expected token, gSIZE or tensor, sym "
        "or asym",
        spec, part);
}

lutra_status lu_act_format_parse(const char *spec, lu_act_format *out, lutra_err *err)
{
    char text[MAX_SPEC + 1];
    if (!spec || !*spec || strlen(spec) > MAX_SPEC)
        return lu_fail(err, LUTRA_E_ARG, "activation format is %s, expected for example int8:token",
                       spec && *spec ? "too long" : "empty");
    if (strcmp(spec, "none") == 0) {
        *out = (lu_act_format){.bits = 0};
        return LUTRA_OK;
    }
    memcpy(text, spec, strlen(spec) + 1);
    char *part = strchr(text, ':');
    if (part)
        *part++ = '\0';
    lu_act_format f = {.scope = LU_ACT_TOKEN};
    if (strncmp(text, "int", 3) == 0 && text[3] >= '0' && text[3] <= '9' && text[4] == '\0')
        f.bits = text[3] - '0';
    if (f.bits < LU_ACT_MIN_BITS || f.bits > LU_ACT_MAX_BITS)
        return lu_fail(err, LUTRA_E_ARG, "activation format '%s': '%s', expected int%d to int%d",
                       spec, text, LU_ACT_MIN_BITS, LU_ACT_MAX_BITS);
    given seen = {false, false, false};
    while (part) {
        char *next = strchr(part, ':');
        if (next)
            *next++ = '\0';
        LU_TRY(parse_part(spec, part, &f, &seen, err));
        part = next;
    }
    if (seen.fixed && f.scope != LU_ACT_TENSOR)
        return lu_fail(err, LUTRA_E_ARG,
                       "activation format '%s': only 'tensor' is static, tokens and groups take "
                       "their scale from the row",
                       spec);
    *out = f;
    return LUTRA_OK;
}

const char *lu_act_format_spec(const lu_act_format *f, char *buf, size_t size)
{
    char scope[32];
    if (f->bits == 0) {
        snprintf(buf, size, "none");
        return buf;
    }
    if (f->scope == LU_ACT_GROUP)
        snprintf(scope, sizeof scope, "g%lld", (long long)f->group_size);
    else
        snprintf(scope, sizeof scope, "%s", f->scope == LU_ACT_TOKEN ? "token" : "tensor");
    snprintf(buf, size, "int%d:%s%s", f->bits, scope, f->zero_point ? ":asym" : "");
    return buf;
}

bool lu_act_format_same(const lu_act_format *a, const lu_act_format *b)
{
    return a->bits == b->bits && a->scope == b->scope && a->group_size == b->group_size &&
           a->zero_point == b->zero_point;
}

void lu_act_params(const lu_act_format *f, float lo, float hi, float *scale, int *zero)
{
    const double levels = f->zero_point ? (1 << f->bits) - 1 : (1 << (f->bits - 1)) - 1;
    const double span = f->zero_point ? (double)hi - (double)lo : -lo > hi ? -lo : hi;
    const float s = (float)(span / levels);
    *scale = s < LU_ACT_MIN_SCALE ? LU_ACT_MIN_SCALE : s;
    *zero = LU_ACT_SYM_ZERO;
    if (!f->zero_point)
        return;
    const float top = (float)levels, z = rintf(-lo / *scale);
    *zero = z > 0 ? (int)(z < top ? z : top) : 0;
}
