/* regex.c - Oniguruma patterns on PCRE2. The two agree on what tokenizers use but for
   - \s and \w: PCRE2's sets differ in a few characters (U+180E, marks), so they are spelled out;
   - ^ and $: match at every line in Oniguruma, hence MULTILINE with "\n" as the only line end;
   - \h (a hex digit), nested classes, && in classes, X{n,m}+ (repeats instead of possessive):
     refused by name rather than matched wrongly.
   Text is valid UTF-8 by the time it gets here, so PCRE2 need not check it again. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>
#include <string.h>

#include "base/mem.h"
#include "text/utf8.h"

#define JIT_STACK_START (32u << 10)
#define JIT_STACK_LIMIT (1u << 20)

#define SPACE_SET "\\p{White_Space}"
/* Inside a class \w is letters, marks, decimal digits and connectors; outside, Oniguruma decides
   about characters below U+0100 by a table that has the superscript digits and fractions too. */
#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define LONE_WORD_SET WORD_SET "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

static void *pcre_alloc(PCRE2_SIZE n, void *unused)
{
    (void)unused;
    return lu_alloc(n);
}

static void pcre_release(void *p, void *unused)
{
    (void)unused;
    lu_free(p);
}

static lutra_status refuse(const char *what, const char *regex, const char *construct,
                           lutra_err *err)
{
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: regex \"%s\" uses %s, which is not supported",
                   what, regex, construct);
}

/* Writes the translation of the escape \c. */
static lutra_status translate_escape(const char *what, const char *regex, char c, bool in_class,
                                     lu_bytes *out, lutra_err *err)
{
    switch (c) {
    case 's': lu_bytes_append(out, SPACE_SET, sizeof SPACE_SET - 1); break;
    case 'S': lu_bytes_append(out, "\\P{White_Space}", sizeof "\\P{White_Space}" - 1); break;
    case 'w':
        if (in_class)
            lu_bytes_append(out, WORD_SET, sizeof WORD_SET - 1);
        else
            lu_bytes_append(out, "[" LONE_WORD_SET "]", sizeof "[" LONE_WORD_SET "]" - 1);
        break;
    case 'W':
        if (in_class)
            return refuse(what, regex, "\\W inside a class", err);
        lu_bytes_append(out, "[^" LONE_WORD_SET "]", sizeof "[^" LONE_WORD_SET "]" - 1);
        break;
    case 'h':
    case 'H': return refuse(what, regex, "\\h", err);
    default: lu_bytes_put(out, '\\'); lu_bytes_put(out, c);
    }
    return LUTRA_OK;
}

static lutra_status translate(const char *what, const char *regex, lu_bytes *out, lutra_err *err)
{
    bool in_class = false;
    size_t class_start = 0; /* where a ']' would be a literal first member */
    for (size_t i = 0; regex[i]; i++) {
        const char c = regex[i], next = regex[i + 1];
        if (c == '\\' && next) {
            LU_TRY(translate_escape(what, regex, next, in_class, out, err));
            i++;
            if (strchr("pPx", next) && regex[i + 1] == '{') /* \p{L}: these braces do not repeat */
                while (regex[i] && regex[i] != '}')
                    if (regex[++i])
                        lu_bytes_put(out, regex[i]);
            if (!regex[i])
                break;
            continue;
        }
        if (!in_class && c == '[') {
            in_class = true;
            class_start = i + (next == '^' ? 2 : 1);
        } else if (in_class && c == '[') {
            if (next != ':')
                return refuse(what, regex, "a class inside a class", err);
            const char *end = strstr(regex + i, ":]");
            if (!end)
                return refuse(what, regex, "an unclosed class name", err);
            const size_t length = (size_t)(end - (regex + i)) + 2;
            lu_bytes_append(out, regex + i, length);
            i += length - 1;
            continue;
        } else if (in_class && c == '&' && next == '&') {
            return refuse(what, regex, "&& inside a class", err);
        } else if (in_class && c == ']' && i != class_start) {
            in_class = false;
        } else if (!in_class && c == '}' && next == '+') {
            return refuse(what, regex, "{n,m}+", err);
        }
        lu_bytes_put(out, c);
    }
    return lu_bytes_check(out, err);
}

static lutra_status compile(const char *what, const char *regex, const lu_bytes *translated,
                            lu_pattern *out, lutra_err *err)
{
    pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    pcre2_compile_context *context = general ? pcre2_compile_context_create(general) : NULL;
    int error = PCRE2_ERROR_NOMEMORY;
    PCRE2_SIZE where = 0;
    pcre2_code *code = NULL;
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        code = pcre2_compile((PCRE2_SPTR)translated->data, translated->n,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &where, context);
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    if (!code) {
        PCRE2_UCHAR text[128];
        if (error == PCRE2_ERROR_NOMEMORY || error == PCRE2_ERROR_HEAP_FAILED)
            return lu_fail_nomem(err, translated->n);
        pcre2_get_error_message(error, text, sizeof text);
        return lu_fail(err, LUTRA_E_FORMAT, "%s: regex \"%s\" does not compile: %s", what, regex,
                       (const char *)text);
    }
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
    out->code = code;
    return LUTRA_OK;
}

lutra_status lu_pattern_compile(const char *what, const char *regex, lu_pattern *out,
                                lutra_err *err)
{
    if (!*regex)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: the pattern is empty", what);
    lu_bytes translated = {0};
    lutra_status status = translate(what, regex, &translated, err);
    if (status == LUTRA_OK)
        status = compile(what, regex, &translated, out, err);
    lu_bytes_free(&translated);
    return status;
}

lutra_status lu_pattern_parse(const char *what, json_t *part, lu_pattern *out, lutra_err *err)
{
    json_t *pattern = json_object_get(part, "pattern");
    if (!json_is_object(pattern))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: \"pattern\" is missing or no object, expected String or Regex", what);
    const char *literal = NULL, *regex = NULL;
    LU_TRY(lu_json_string(what, pattern, "String", &literal, err));
    LU_TRY(lu_json_string(what, pattern, "Regex", &regex, err));
    if (!literal == !regex)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"pattern\" must hold one of String and Regex",
                       what);
    if (regex)
        return lu_pattern_compile(what, regex, out, err);
    if (!*literal)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: the pattern is empty", what);
    out->n = json_string_length(json_object_get(pattern, "String"));
    out->literal = lu_strndup(literal, out->n);
    return out->literal ? LUTRA_OK : lu_fail_nomem(err, out->n);
}

void lu_pattern_free(lu_pattern *p)
{
    lu_free(p->literal);
    pcre2_code_free(p->code);
    *p = (lu_pattern){0};
}

void lu_match_room_free(lu_match_room *r)
{
    pcre2_match_data_free(r->data);
    pcre2_match_context_free(r->context);
    pcre2_jit_stack_free(r->stack);
    *r = (lu_match_room){0};
}

static bool match_room_ready(lu_match_room *r)
{
    if (r->data)
        return true;
    pcre2_general_context *general = pcre2_general_context_create(pcre_alloc, pcre_release, NULL);
    if (general) {
        r->context = pcre2_match_context_create(general);
        r->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_LIMIT, general);
        r->data = r->context ? pcre2_match_data_create(1, general) : NULL;
        if (r->context && r->stack) /* without a stack of its own the JIT uses 32 KiB */
            pcre2_jit_stack_assign(r->context, NULL, r->stack);
    }
    pcre2_general_context_free(general);
    if (!r->data) {
        lu_match_room_free(r);
        return false;
    }
    return true;
}

void lu_pattern_begin(lu_pattern_scan *s, const lu_pattern *p, lu_match_room *room,
                      const char *text, size_t n)
{
    *s = (lu_pattern_scan){.pattern = p, .room = room, .text = text, .n = n};
}

static const char *find_literal(const char *text, size_t n, const char *needle, size_t n_needle)
{
    const char *end = text + n;
    while ((size_t)(end - text) >= n_needle) {
        text = memchr(text, needle[0], (size_t)(end - text) - n_needle + 1);
        if (!text || memcmp(text, needle, n_needle) == 0)
            return text;
        text++;
    }
    return NULL;
}

lutra_status lu_pattern_next(lu_pattern_scan *s, bool *found, size_t *begin, size_t *end,
                             lutra_err *err)
{
    const lu_pattern *p = s->pattern;
    *found = false;
    if (p->literal) {
        const char *hit =
            s->at < s->n ? find_literal(s->text + s->at, s->n - s->at, p->literal, p->n) : NULL;
        if (hit) {
            *found = true;
            *begin = (size_t)(hit - s->text);
            *end = s->at = *begin + p->n;
        }
        return LUTRA_OK;
    }
    if (!match_room_ready(s->room))
        return lu_fail_nomem(err, 0);
    while (s->at <= s->n) {
        const int rc = pcre2_match(p->code, (PCRE2_SPTR)s->text, s->n, s->at, PCRE2_NO_UTF_CHECK,
                                   s->room->data, s->room->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc == PCRE2_ERROR_NOMEMORY)
            return lu_fail_nomem(err, 0);
        if (rc < 0)
            return lu_fail(err, LUTRA_E_LIMIT,
                           "tokenizer regex gave up %zu bytes into the text (PCRE2 error %d)",
                           s->at, rc);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(s->room->data);
        if (span[1] < span[0] || span[0] < s->at) /* \K in a lookaround can move the start */
            return lu_fail(err, LUTRA_E_UNSUPPORTED,
                           "tokenizer regex moves the start of its match");
        if (span[0] == span[1] && s->any && s->last_end == span[1]) {
            int length = 1;
            if (s->at < s->n)
                lu_utf8_decode(s->text + s->at, &length);
            s->at += (size_t)length;
            continue;
        }
        s->any = *found = true;
        *begin = span[0];
        *end = s->at = s->last_end = span[1];
        break;
    }
    return LUTRA_OK;
}

lutra_status lu_pattern_replace(const lu_pattern *p, lu_match_room *room, const lu_text *in,
                                const lu_text *with, lu_bytes *out, lutra_err *err)
{
    lu_pattern_scan scan;
    size_t done = 0, begin, end;
    lu_pattern_begin(&scan, p, room, in->data, in->n);
    while (true) {
        bool found;
        LU_TRY(lu_pattern_next(&scan, &found, &begin, &end, err));
        if (!found)
            break;
        lu_bytes_append(out, in->data + done, begin - done);
        lu_bytes_append(out, with->data, with->n);
        done = end;
    }
    lu_bytes_append(out, in->data + done, in->n - done);
    return lu_bytes_check(out, err);
}
