/* jinja_text.c - strings of a render: building, searching, characters, and Python's str() and
   repr(). Strings are bytes, nearly always UTF-8; characters are code points as in Python, and a
   stray byte counts as one. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja_value.h"

lu_jstr lu_j_lit(const char *s) { return (lu_jstr){s, strlen(s)}; }

bool lu_j_same(lu_jstr a, lu_jstr b) { return a.n == b.n && (!a.n || memcmp(a.p, b.p, a.n) == 0); }

bool lu_j_is(lu_jstr a, const char *b) { return lu_j_same(a, lu_j_lit(b)); }

/* --- buffers -------------------------------------------------------------------------------- */

void lu_j_put(lu_jenv *env, lu_jbuf *b, const char *p, size_t n)
{
    lu_j_work(env, 1 + (n >> 6));
    if (n > env->left.output || b->n > env->left.output - n)
        lu_j_fail(env, LUTRA_E_LIMIT, "text is longer than %zu bytes", env->left.output);
    if (b->cap - b->n < n) {
        size_t cap = b->cap ? b->cap * 2 : 64;
        if (cap < b->n + n)
            cap = b->n + n;
        char *p2 = lu_j_alloc(env, cap, 1);
        if (b->n)
            memcpy(p2, b->p, b->n);
        b->p = p2;
        b->cap = cap;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
}

void lu_j_put_text(lu_jenv *env, lu_jbuf *b, const char *s) { lu_j_put(env, b, s, strlen(s)); }

void lu_j_put_char(lu_jenv *env, lu_jbuf *b, uint32_t code)
{
    utf8proc_uint8_t bytes[4];
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        code = 0xFFFD;
    const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)code, bytes);
    lu_j_put(env, b, (const char *)bytes, (size_t)n);
}

/* A string's pointer is never NULL, so that arithmetic on it is defined even for an empty one. */
lu_jv lu_j_take(const lu_jbuf *b) { return lu_j_str((lu_jstr){b->n ? b->p : "", b->n}); }

/* --- numbers -------------------------------------------------------------------------------- */

void lu_j_put_int(lu_jenv *env, lu_jbuf *b, int64_t i)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)i);
    lu_j_put_text(env, b, text);
}

bool lu_j_parse_float(lu_jstr s, double *out)
{
    char text[64];
    if (!s.n || s.n >= sizeof text)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!memchr("0123456789+-.eEinfatyNIFATY", s.p[i], 27))
            return false; /* no hex floats, no white space inside */
        text[i] = s.p[i] == '.' ? localeconv()->decimal_point[0] : s.p[i];
    }
    text[s.n] = '\0';
    char *end;
    *out = strtod(text, &end);
    return end == text + s.n;
}

/* The shortest digits that read back as f, laid out as Python does: exponent form below 1e-4 and
   from 1e16 on. */
void lu_j_put_float(lu_jenv *env, lu_jbuf *b, double f)
{
    if (isnan(f) || isinf(f)) {
        lu_j_put_text(env, b, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    char text[48]; /* -d.ddddddddddddddddde-ddd */
    for (int digits = 0; digits < 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, f);
        if (strtod(text, NULL) == f)
            break;
    }
    const int exponent = (int)strtol(strchr(text, 'e') + 1, NULL, 10);
    char digits[32];
    int n = 0;
    for (const char *p = text; *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    if (text[0] == '-')
        lu_j_put_text(env, b, "-");
    if (exponent < -4 || exponent >= 16) {
        lu_j_put(env, b, digits, 1);
        if (n > 1) {
            lu_j_put_text(env, b, ".");
            lu_j_put(env, b, digits + 1, (size_t)(n - 1));
        }
        snprintf(text, sizeof text, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        lu_j_put_text(env, b, text);
        return;
    }
    if (exponent < 0)
        lu_j_put(env, b, "0.0000", (size_t)(1 - exponent));
    for (int i = 0; i < n || i <= exponent + 1; i++) {
        if (i == exponent + 1 && exponent >= 0)
            lu_j_put_text(env, b, ".");
        if (i < n || exponent >= 0)
            lu_j_put(env, b, i < n ? digits + i : "0", 1);
    }
}

/* --- characters ----------------------------------------------------------------------------- */

uint32_t lu_j_char(const char *p, size_t n, size_t *size)
{
    utf8proc_int32_t code;
    const utf8proc_ssize_t got =
        utf8proc_iterate((const utf8proc_uint8_t *)p, n > 4 ? 4 : (utf8proc_ssize_t)n, &code);
    *size = got > 0 ? (size_t)got : 1;
    return got > 0 ? (uint32_t)code : 0xFFFD;
}

size_t lu_j_char_size(const char *p, size_t n)
{
    size_t size;
    if ((unsigned char)*p < 0x80)
        return 1;
    lu_j_char(p, n, &size);
    return size;
}

size_t lu_j_char_count(lu_jstr s)
{
    size_t count = 0;
    for (size_t i = 0; i < s.n; count++)
        i += lu_j_char_size(s.p + i, s.n - i);
    return count;
}

size_t lu_j_char_offset(lu_jstr s, size_t index)
{
    size_t at = 0;
    while (index-- && at < s.n)
        at += lu_j_char_size(s.p + at, s.n - at);
    return at;
}

/* What Python's str.isspace() accepts. */
size_t lu_j_space_size(const char *p, size_t n)
{
    if (!n)
        return 0;
    size_t size;
    const uint32_t c = lu_j_char(p, n, &size);
    const bool space = (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
                       c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
                       c == 0x202F || c == 0x205F || c == 0x3000;
    return space ? size : 0;
}

static bool strippable(const char *p, size_t n, const lu_jstr *chars)
{
    if (!chars)
        return lu_j_space_size(p, n) == n;
    for (size_t i = 0, size; i < chars->n; i += size) {
        size = lu_j_char_size(chars->p + i, chars->n - i);
        if (size == n && memcmp(chars->p + i, p, n) == 0)
            return true;
    }
    return false;
}

lu_jstr lu_j_strip(lu_jstr s, const lu_jstr *chars, bool left, bool right)
{
    while (left && s.n) {
        const size_t size = lu_j_char_size(s.p, s.n);
        if (!strippable(s.p, size, chars))
            break;
        s.p += size;
        s.n -= size;
    }
    while (right && s.n) {
        size_t size = 1; /* step back over continuation bytes, if they make one character */
        while (size < 4 && size < s.n && ((unsigned char)s.p[s.n - size] & 0xC0) == 0x80)
            size++;
        if (lu_j_char_size(s.p + s.n - size, size) != size)
            size = 1;
        if (!strippable(s.p + s.n - size, size, chars))
            break;
        s.n -= size;
    }
    return s;
}

const char *lu_j_find(lu_jenv *env, lu_jstr s, lu_jstr what)
{
    lu_j_work(env, 1 + (s.n >> 6));
    if (!what.n)
        return s.p;
    while (s.n >= what.n) {
        const char *hit = memchr(s.p, what.p[0], s.n - what.n + 1);
        if (!hit)
            return NULL;
        lu_j_work(env, 1 + (what.n >> 6));
        if (memcmp(hit, what.p, what.n) == 0)
            return hit;
        s.n -= (size_t)(hit + 1 - s.p);
        s.p = hit + 1;
    }
    return NULL;
}

lu_jstr lu_j_replace(lu_jenv *env, lu_jstr s, lu_jstr old, lu_jstr new_text, int64_t count)
{
    lu_jbuf b = {0};
    size_t at = 0;
    while (count != 0) {
        size_t hit = at; /* an empty pattern matches before every character and at the end */
        if (old.n) {
            const char *p = lu_j_find(env, (lu_jstr){s.p + at, s.n - at}, old);
            if (!p)
                break;
            hit = (size_t)(p - s.p);
        }
        lu_j_put(env, &b, s.p + at, hit - at);
        lu_j_put(env, &b, new_text.p, new_text.n);
        at = hit + old.n;
        if (!old.n) {
            if (at >= s.n)
                break;
            const size_t size = lu_j_char_size(s.p + at, s.n - at);
            lu_j_put(env, &b, s.p + at, size);
            at += size;
        }
        count -= count > 0;
    }
    lu_j_put(env, &b, s.p + at, s.n - at);
    return lu_j_take(&b).s;
}

/* --- str() and repr() ----------------------------------------------------------------------- */

static void repr(lu_jenv *env, lu_jbuf *b, lu_jv v);

static void repr_string(lu_jenv *env, lu_jbuf *b, lu_jstr s)
{
    const bool single = s.n && memchr(s.p, '\'', s.n) && !memchr(s.p, '"', s.n);
    const char quote = single ? '"' : '\'';
    lu_j_put(env, b, &quote, 1);
    for (size_t i = 0, size; i < s.n; i += size) {
        const uint32_t c = lu_j_char(s.p + i, s.n - i, &size);
        const utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)c);
        char text[16] = "";
        if (c == (uint32_t)quote || c == '\\')
            snprintf(text, sizeof text, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (c != ' ' && (cat >= UTF8PROC_CATEGORY_ZS || cat == UTF8PROC_CATEGORY_CN))
            snprintf(text, sizeof text,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     c);
        if (text[0])
            lu_j_put_text(env, b, text);
        else
            lu_j_put(env, b, s.p + i, size);
    }
    lu_j_put(env, b, &quote, 1);
}

static void repr_items(lu_jenv *env, lu_jbuf *b, const lu_jlist *list, bool tuple)
{
    lu_j_put_text(env, b, tuple ? "(" : "[");
    for (size_t i = 0; i < list->n; i++) {
        lu_j_put_text(env, b, i ? ", " : "");
        repr(env, b, list->items[i]);
    }
    lu_j_put_text(env, b, !tuple ? "]" : list->n == 1 ? ",)" : ")");
}

static void repr_pairs(lu_jenv *env, lu_jbuf *b, const lu_jdict *d)
{
    lu_j_put_text(env, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        lu_j_put_text(env, b, i ? ", " : "");
        repr(env, b, d->pairs[i].key);
        lu_j_put_text(env, b, ": ");
        repr(env, b, d->pairs[i].value);
    }
    lu_j_put_text(env, b, "}");
}

static void repr(lu_jenv *env, lu_jbuf *b, lu_jv v)
{
    lu_j_enter(env); /* a list that was appended to itself ends here */
    switch (v.type) {
    case J_UNDEFINED: lu_j_put_text(env, b, "Undefined"); break;
    case J_NONE: lu_j_put_text(env, b, "None"); break;
    case J_BOOL: lu_j_put_text(env, b, v.b ? "True" : "False"); break;
    case J_INT: lu_j_put_int(env, b, v.i); break;
    case J_FLOAT: lu_j_put_float(env, b, v.f); break;
    case J_STR: repr_string(env, b, v.s); break;
    case J_LIST:
    case J_TUPLE: repr_items(env, b, v.list, v.type == J_TUPLE); break;
    case J_DICT: repr_pairs(env, b, v.dict); break;
    default: lu_j_wrong_type(env, "printed value", v, "a value with a text form");
    }
    lu_j_leave(env);
}

void lu_j_show(lu_jenv *env, lu_jbuf *b, lu_jv v)
{
    if (v.type == J_STR)
        lu_j_put(env, b, v.s.p, v.s.n);
    else if (v.type != J_UNDEFINED)
        repr(env, b, v);
}

lu_jstr lu_j_to_str(lu_jenv *env, lu_jv v)
{
    if (v.type == J_STR)
        return v.s;
    lu_jbuf b = {0};
    lu_j_show(env, &b, v);
    return lu_j_take(&b).s;
}
