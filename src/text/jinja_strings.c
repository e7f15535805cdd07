/* jinja_strings.c - methods of strings and the filters that make text or numbers of one value.
   Letter case is Unicode's simple mapping, one character to one, but for the sharp s. */
#include <math.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja_eval.h"

/* --- letter case ---------------------------------------------------------------------------- */

static bool is_letter(uint32_t c)
{
    const utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)c);
    return cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LT;
}

typedef enum casing { UPPER, LOWER, CAPITALIZE, TITLE_METHOD, TITLE_FILTER } casing;

/* Whether a character is in upper case, by the one before it (0: none). */
static bool raised(casing how, uint32_t before)
{
    switch (how) {
    case UPPER: return true;
    case LOWER: return false;
    case CAPITALIZE: return before == 0;
    case TITLE_METHOD: return !is_letter(before); /* Python: a letter after none */
    default: /* Jinja: the first after white space or one of - ( { [ < */
        return before == 0 || (before < 0x80 && strchr(" \t\n\v\f\r-({[<", (int)before));
    }
}

static lu_jv cased(lu_jcall *call, casing how)
{
    const lu_jstr s = lu_j_self_str(call);
    lu_jbuf b = {0};
    uint32_t before = 0;
    for (size_t i = 0, size; i < s.n; i += size) {
        const uint32_t c = lu_j_char(s.p + i, s.n - i, &size);
        const bool up = raised(how, before);
        const utf8proc_int32_t mapped = !up            ? utf8proc_tolower((utf8proc_int32_t)c)
                                        : how == UPPER ? utf8proc_toupper((utf8proc_int32_t)c)
                                                       : utf8proc_totitle((utf8proc_int32_t)c);
        before = c;
        if (up && c == 0xDF)
            lu_j_put_text(call->env, &b, how == UPPER ? "SS" : "Ss");
        else if ((uint32_t)mapped == c)
            lu_j_put(call->env, &b, s.p + i, size);
        else
            lu_j_put_char(call->env, &b, (uint32_t)mapped);
    }
    return lu_j_take(&b);
}

static lu_jv s_upper(lu_jcall *call) { return cased(call, UPPER); }
static lu_jv s_lower(lu_jcall *call) { return cased(call, LOWER); }
static lu_jv s_capitalize(lu_jcall *call) { return cased(call, CAPITALIZE); }
static lu_jv s_title(lu_jcall *call) { return cased(call, TITLE_METHOD); }
static lu_jv f_title(lu_jcall *call) { return cased(call, TITLE_FILTER); }

/* --- white space, search -------------------------------------------------------------------- */

static lu_jv stripped(lu_jcall *call, bool left, bool right)
{
    const lu_jstr s = lu_j_self_str(call);
    const bool given = call->a[0].type != J_ABSENT && call->a[0].type != J_NONE;
    const lu_jstr chars = given ? lu_j_arg_str(call, 0) : (lu_jstr){NULL, 0};
    const lu_jstr rest = lu_j_strip(s, given ? &chars : NULL, left, right);
    lu_j_work(call->env, ((s.n - rest.n) >> 4) * (1 + chars.n));
    return lu_j_str(rest);
}

static lu_jv s_strip(lu_jcall *call) { return stripped(call, true, true); }
static lu_jv s_lstrip(lu_jcall *call) { return stripped(call, true, false); }
static lu_jv s_rstrip(lu_jcall *call) { return stripped(call, false, true); }

static bool affix(lu_jstr s, lu_jstr part, bool at_end)
{
    return part.n <= s.n && lu_j_same((lu_jstr){at_end ? s.p + s.n - part.n : s.p, part.n}, part);
}

/* startswith and endswith take one string or a tuple of them. */
static lu_jv has_affix(lu_jcall *call, bool at_end)
{
    if (call->a[0].type != J_TUPLE)
        return lu_j_bool(affix(call->self.s, lu_j_arg_str(call, 0), at_end));
    const lu_jlist *parts = call->a[0].list;
    for (size_t i = 0; i < parts->n; i++) {
        if (parts->items[i].type != J_STR)
            lu_j_wrong_type(call->env, call->what->name, parts->items[i], "a string");
        if (affix(call->self.s, parts->items[i].s, at_end))
            return lu_j_bool(true);
    }
    return lu_j_bool(false);
}

static lu_jv s_startswith(lu_jcall *call) { return has_affix(call, false); }
static lu_jv s_endswith(lu_jcall *call) { return has_affix(call, true); }

static lu_jv s_removeprefix(lu_jcall *call)
{
    const lu_jstr s = call->self.s, part = lu_j_arg_str(call, 0);
    return affix(s, part, false) ? lu_j_str((lu_jstr){s.p + part.n, s.n - part.n}) : call->self;
}

static lu_jv s_removesuffix(lu_jcall *call)
{
    const lu_jstr s = call->self.s, part = lu_j_arg_str(call, 0);
    return affix(s, part, true) ? lu_j_str((lu_jstr){s.p, s.n - part.n}) : call->self;
}

static lu_jv s_find(lu_jcall *call)
{
    const lu_jstr s = call->self.s;
    const char *hit = lu_j_find(call->env, s, lu_j_arg_str(call, 0));
    return lu_j_int(hit ? (int64_t)lu_j_char_count((lu_jstr){s.p, (size_t)(hit - s.p)}) : -1);
}

static lu_jv s_count(lu_jcall *call)
{
    const lu_jstr what = lu_j_arg_str(call, 0);
    lu_jstr s = call->self.s;
    int64_t n = 0;
    if (!what.n)
        return lu_j_int((int64_t)lu_j_char_count(s) + 1);
    for (const char *hit; (hit = lu_j_find(call->env, s, what)) != NULL; n++)
        s = (lu_jstr){hit + what.n, s.n - (size_t)(hit - s.p) - what.n};
    return lu_j_int(n);
}

static lu_jv s_replace(lu_jcall *call)
{
    const lu_jstr old = lu_j_to_str(call->env, call->a[0]),
                  new_text = lu_j_to_str(call->env, call->a[1]);
    const int64_t count = call->a[2].type == J_NONE ? -1 : lu_j_arg_int(call, 2, -1);
    return lu_j_str(lu_j_replace(call->env, lu_j_self_str(call), old, new_text, count));
}

/* --- splitting and joining ------------------------------------------------------------------ */

static void add_part(lu_jcall *call, lu_jv list, const char *from, const char *to)
{
    lu_j_append(call->env, list.list, lu_j_str((lu_jstr){from, (size_t)(to - from)}));
}

/* Runs of white space separate; none at the ends. */
static lu_jv split_words(lu_jcall *call, int64_t max)
{
    const lu_jv out = lu_j_list(call->env, J_LIST);
    lu_jstr s = lu_j_strip(call->self.s, NULL, true, false);
    lu_j_work(call->env, call->self.s.n >> 4);
    while (s.n) {
        size_t n = max == 0 ? s.n : 0;
        while (n < s.n && !lu_j_space_size(s.p + n, s.n - n))
            n += lu_j_char_size(s.p + n, s.n - n);
        add_part(call, out, s.p, s.p + n);
        s = lu_j_strip((lu_jstr){s.p + n, s.n - n}, NULL, true, false);
        max -= max > 0;
    }
    return out;
}

static lu_jv s_split(lu_jcall *call)
{
    const int64_t max = lu_j_arg_int(call, 1, -1);
    if (call->a[0].type == J_ABSENT || call->a[0].type == J_NONE)
        return split_words(call, max);
    const lu_jstr separator = lu_j_arg_str(call, 0);
    if (!separator.n)
        lu_j_fail(call->env, LUTRA_E_FORMAT, "split: separator is empty");
    const lu_jv out = lu_j_list(call->env, J_LIST);
    lu_jstr s = call->self.s;
    for (int64_t left = max; left != 0; left -= left > 0) {
        const char *hit = lu_j_find(call->env, s, separator);
        if (!hit)
            break;
        add_part(call, out, s.p, hit);
        s = (lu_jstr){hit + separator.n, s.n - (size_t)(hit - s.p) - separator.n};
    }
    lu_j_append(call->env, out.list, lu_j_str(s));
    return out;
}

/* As split, but a maximum counts from the right: joins the parts before again. */
static lu_jv s_rsplit(lu_jcall *call)
{
    const int64_t max = lu_j_arg_int(call, 1, -1);
    if (call->a[0].type != J_STR)
        lu_j_wrong_type(call->env, "rsplit", call->a[0], "a separator");
    call->a[1] = lu_j_int(-1);
    const lu_jv all = s_split(call);
    if (max < 0 || (int64_t)all.list->n <= max + 1)
        return all;
    const lu_jv out = lu_j_list(call->env, J_LIST);
    const size_t first = all.list->n - (size_t)max - 1;
    const lu_jstr last = all.list->items[first].s;
    add_part(call, out, call->self.s.p, last.p + last.n);
    for (size_t i = first + 1; i < all.list->n; i++)
        lu_j_append(call->env, out.list, all.list->items[i]);
    return out;
}

static lu_jv s_splitlines(lu_jcall *call)
{
    const lu_jv out = lu_j_list(call->env, J_LIST);
    const lu_jstr s = call->self.s;
    for (size_t at = 0, end; at < s.n; at = end) {
        end = at;
        while (end < s.n && s.p[end] != '\n' && s.p[end] != '\r')
            end++;
        add_part(call, out, s.p + at, s.p + end);
        end += end + 1 < s.n && s.p[end] == '\r' && s.p[end + 1] == '\n' ? 2 : 1;
    }
    return out;
}

static lu_jv s_join(lu_jcall *call)
{
    const lu_jlist *items = lu_j_items(call->env, call->a[0]);
    lu_jbuf b = {0};
    for (size_t i = 0; i < items->n; i++) {
        if (items->items[i].type != J_STR)
            lu_j_wrong_type(call->env, "join", items->items[i], "a string");
        if (i)
            lu_j_put(call->env, &b, call->self.s.p, call->self.s.n);
        lu_j_show(call->env, &b, items->items[i]);
    }
    return lu_j_take(&b);
}

static lu_jv all_are(lu_jcall *call, bool (*is)(uint32_t))
{
    const lu_jstr s = call->self.s;
    lu_j_work(call->env, s.n >> 4);
    for (size_t i = 0, size; i < s.n; i += size)
        if (!is(lu_j_char(s.p + i, s.n - i, &size)))
            return lu_j_bool(false);
    return lu_j_bool(s.n > 0);
}

static bool is_digit(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

static bool is_alpha(uint32_t c)
{
    const utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)c);
    return cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO;
}

static lu_jv s_isdigit(lu_jcall *call) { return all_are(call, is_digit); }
static lu_jv s_isalpha(lu_jcall *call) { return all_are(call, is_alpha); }

static lu_jv s_isspace(lu_jcall *call)
{
    return lu_j_bool(call->self.s.n && !lu_j_strip(call->self.s, NULL, true, false).n);
}

const lu_jbuiltin lu_j_str_methods[] = {
    {"upper", s_upper, 0, ""},
    {"lower", s_lower, 0, ""},
    {"capitalize", s_capitalize, 0, ""},
    {"title", s_title, 0, ""},
    {"strip", s_strip, 0, "chars"},
    {"lstrip", s_lstrip, 0, "chars"},
    {"rstrip", s_rstrip, 0, "chars"},
    {"startswith", s_startswith, 1, "prefix"},
    {"endswith", s_endswith, 1, "suffix"},
    {"removeprefix", s_removeprefix, 1, "prefix"},
    {"removesuffix", s_removesuffix, 1, "suffix"},
    {"find", s_find, 1, "sub"},
    {"count", s_count, 1, "sub"},
    {"replace", s_replace, 2, "old new count"},
    {"split", s_split, 0, "sep maxsplit"},
    {"rsplit", s_rsplit, 1, "sep maxsplit"},
    {"splitlines", s_splitlines, 0, ""},
    {"join", s_join, 1, "items"},
    {"isdigit", s_isdigit, 0, ""},
    {"isalpha", s_isalpha, 0, ""},
    {"isspace", s_isspace, 0, ""},
    {NULL},
};

/* --- filters of one value ------------------------------------------------------------------- */

static lu_jv f_string(lu_jcall *call) { return lu_j_str(lu_j_self_str(call)); }

static lu_jv f_default(lu_jcall *call)
{
    const bool use = call->self.type == J_UNDEFINED ||
                     (lu_j_arg_bool(call, 1, false) && !lu_j_truth(call->self));
    return !use ? call->self : call->a[0].type == J_ABSENT ? lu_j_text("") : call->a[0];
}

/* Lines after the first are indented; blank ones only if asked for. */
static lu_jv f_indent(lu_jcall *call)
{
    const bool first = lu_j_arg_bool(call, 1, false), blank = lu_j_arg_bool(call, 2, false);
    const lu_jstr s = call->self.s;
    if (call->self.type != J_STR)
        lu_j_wrong_type(call->env, "indent", call->self, "a string");
    lu_jbuf pad = {0}, b = {0};
    if (call->a[0].type == J_STR)
        lu_j_show(call->env, &pad, call->a[0]);
    else
        for (int64_t i = lu_j_arg_int(call, 0, 4); i > 0; i--)
            lu_j_put_text(call->env, &pad, " ");
    for (size_t at = 0, end; at <= s.n; at = end + 1) {
        const char *next = at < s.n ? memchr(s.p + at, '\n', s.n - at) : NULL;
        end = next ? (size_t)(next - s.p) : s.n;
        if (at == 0 ? first : end > at || blank)
            lu_j_put(call->env, &b, pad.p, pad.n);
        lu_j_put(call->env, &b, s.p + at, end - at);
        if (next)
            lu_j_put_text(call->env, &b, "\n");
    }
    return lu_j_take(&b);
}

/* int(default=0, base=10): what cannot be read is the default. */
static lu_jv f_int(lu_jcall *call)
{
    const lu_jv other = call->a[0].type == J_ABSENT ? lu_j_int(0) : call->a[0];
    double f = 0;
    if (lu_j_arg_int(call, 1, 10) != 10)
        lu_j_fail(call->env, LUTRA_E_UNSUPPORTED, "int: bases other than 10 are not known");
    if (call->self.type == J_INT)
        return call->self;
    if (call->self.type == J_STR) {
        const lu_jstr s = lu_j_strip(call->self.s, NULL, true, true);
        if (!lu_j_parse_float(s, &f))
            return other;
        if (fabs(f) > 9007199254740992.0) { /* digits beyond a double's: read as an integer */
            uint64_t i = 0;
            const bool minus = *s.p == '-';
            for (size_t k = minus || *s.p == '+'; k < s.n; k++) {
                if (s.p[k] < '0' || s.p[k] > '9' || i > ((uint64_t)INT64_MAX - 9) / 10)
                    lu_j_fail(call->env, LUTRA_E_LIMIT, "int: the number does not fit 64 bits");
                i = i * 10 + (uint64_t)(s.p[k] - '0');
            }
            return lu_j_int(minus ? -(int64_t)i : (int64_t)i);
        }
    } else if (lu_j_is_number(call->self)) {
        f = lu_j_number(call->self);
    } else {
        return other;
    }
    if (isnan(f) || isinf(f))
        return other;
    if (!(fabs(f) < 9.2e18))
        lu_j_fail(call->env, LUTRA_E_LIMIT, "int: the number does not fit 64 bits");
    return lu_j_int((int64_t)f);
}

static lu_jv f_float(lu_jcall *call)
{
    double f = 0;
    if (lu_j_is_number(call->self))
        return lu_j_float(lu_j_number(call->self));
    if (call->self.type == J_STR &&
        lu_j_parse_float(lu_j_strip(call->self.s, NULL, true, true), &f))
        return lu_j_float(f);
    return call->a[0].type == J_ABSENT ? lu_j_float(0) : call->a[0];
}

static lu_jv f_abs(lu_jcall *call)
{
    if (!lu_j_is_number(call->self))
        lu_j_wrong_type(call->env, "abs", call->self, "a number");
    if (call->self.type == J_FLOAT)
        return lu_j_float(fabs(call->self.f));
    return lu_j_number(call->self) < 0 ? lu_j_negative(call->env, call->self)
                                       : lu_j_binary(call->env, '+', call->self, lu_j_int(0));
}

/* round(precision=0, method='common'): to even on ties, always a float unless given an integer */
static lu_jv f_round(lu_jcall *call)
{
    const int64_t precision = lu_j_arg_int(call, 0, 0);
    const lu_jstr method = call->a[1].type == J_ABSENT ? lu_j_lit("common") : lu_j_arg_str(call, 1);
    if (!lu_j_is_number(call->self))
        lu_j_wrong_type(call->env, "round", call->self, "a number");
    if (precision < -300 || precision > 300)
        lu_j_fail(call->env, LUTRA_E_LIMIT, "round: precision is beyond 300 digits");
    const double scale = pow(10, (double)precision), f = lu_j_number(call->self) * scale;
    const bool common = lu_j_is(method, "common");
    if (!common && !lu_j_is(method, "ceil") && !lu_j_is(method, "floor"))
        lu_j_fail(call->env, LUTRA_E_FORMAT, "round: method must be common, ceil or floor");
    if (common && call->self.type != J_FLOAT && precision >= 0)
        return call->self;
    return lu_j_float((common                    ? nearbyint(f)
                       : lu_j_is(method, "ceil") ? ceil(f)
                                                 : floor(f)) /
                      scale);
}

const lu_jbuiltin lu_j_text_filters[] = {
    {"trim", s_strip, 0, "chars"},
    {"upper", s_upper, 0, ""},
    {"lower", s_lower, 0, ""},
    {"capitalize", s_capitalize, 0, ""},
    {"title", f_title, 0, ""},
    {"replace", s_replace, 2, "old new count"},
    {"string", f_string, 0, ""},
    {"safe", f_string, 0, ""},
    {"default", f_default, 0, "default_value boolean"},
    {"d", f_default, 0, "default_value boolean"},
    {"indent", f_indent, 0, "width first blank"},
    {"int", f_int, 0, "default base"},
    {"float", f_float, 0, "default"},
    {"abs", f_abs, 0, ""},
    {"round", f_round, 0, "precision method"},
    {"tojson", lu_j_to_json, 0, "ensure_ascii indent separators sort_keys"},
    {NULL},
};
