/* jinja_lex.c - template source to tokens, with Jinja's white space rules:
     - line ends become \n, and one at the very end of the source is dropped;
     - trim_blocks: a \n right after a block or comment is dropped, unless it ends in +%};
     - lstrip_blocks: white space from the line's start to a block or comment is dropped, unless it
       begins with {%+; never before {{;
     - a minus sign inside a delimiter drops all white space on that side. */
#include <string.h>

#include "text/jinja_ast.h"

typedef struct lexer {
    lu_jenv *env;
    const char *p, *end;
    lu_jtoken *tokens;
    size_t n, cap;
    int line;
    bool line_start; /* what came before ended a line, or is nothing */
} lexer;

static lu_jtoken *push(lexer *l, lu_jtoken_type type)
{
    if (l->n == l->cap) {
        const size_t cap = l->cap ? l->cap * 2 : 64;
        lu_jtoken *t = lu_j_alloc(l->env, cap, sizeof *t);
        if (l->n)
            memcpy(t, l->tokens, l->n * sizeof *t);
        l->tokens = t;
        l->cap = cap;
    }
    lu_jtoken *t = &l->tokens[l->n++];
    t->type = type;
    t->line = l->env->line = l->line;
    return t;
}

static bool at(const lexer *l, const char *s)
{
    const size_t n = strlen(s);
    return (size_t)(l->end - l->p) >= n && memcmp(l->p, s, n) == 0;
}

/* Moves on by n bytes, counting lines. */
static void skip(lexer *l, size_t n)
{
    for (; n; n--)
        l->line += *l->p++ == '\n';
}

static void skip_space(lexer *l)
{
    for (size_t n; (n = lu_j_space_size(l->p, (size_t)(l->end - l->p))) > 0;)
        skip(l, n);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

/* Eats the end of a tag, if it is here: a sign, the delimiter, and the white space it drops. */
static bool tag_end(lexer *l, const char *delimiter, bool block)
{
    const char sign = l->p < l->end && (*l->p == '-' || (block && *l->p == '+')) ? *l->p : 0;
    const size_t n = strlen(delimiter) + (sign ? 1 : 0);
    l->p += sign ? 1 : 0;
    const bool here = at(l, delimiter);
    l->p -= sign ? 1 : 0;
    if (!here)
        return false;
    skip(l, n);
    l->line_start = false;
    if (sign == '-') {
        const char *from = l->p;
        skip_space(l);
        l->line_start = l->p > from && l->p[-1] == '\n';
    } else if (block && sign != '+' && at(l, "\n")) {
        skip(l, 1);
        l->line_start = true;
    }
    return true;
}

static int hex_digit(char c)
{
    return is_digit(c)            ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* One escape of a string literal; l->p is behind the backslash. */
static void escape(lexer *l, lu_jbuf *b)
{
    static const char letters[] = "abfnrtv\\'\"", meanings[] = "\a\b\f\n\r\t\v\\'\"";
    const char c = *l->p;
    const char *known = c ? strchr(letters, c) : NULL;
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    skip(l, 1);
    if (known) {
        lu_j_put(l->env, b, &meanings[known - letters], 1);
    } else if (digits) {
        uint32_t code = 0;
        for (int i = 0; i < digits; i++, l->p++) {
            const int d = l->p < l->end ? hex_digit(*l->p) : -1;
            if (d < 0)
                lu_j_fail(l->env, LUTRA_E_FORMAT, "escape \\%c needs %d hexadecimal digits", c,
                          digits);
            code = code << 4 | (uint32_t)d;
        }
        if (code > 0x10FFFF)
            lu_j_fail(l->env, LUTRA_E_FORMAT, "escape \\%c is beyond U+10FFFF", c);
        lu_j_put_char(l->env, b, code);
    } else if (c >= '0' && c <= '7') {
        uint32_t code = (uint32_t)(c - '0');
        for (int i = 0; i < 2 && l->p < l->end && *l->p >= '0' && *l->p <= '7'; i++)
            code = code * 8 + (uint32_t)(*l->p++ - '0');
        lu_j_put_char(l->env, b, code);
    } else if (c != '\n') { /* a backslash before anything else is just that */
        lu_j_put(l->env, b, "\\", 1);
        lu_j_put(l->env, b, &c, 1);
    }
}

static void string(lexer *l)
{
    const char quote = *l->p;
    lu_jtoken *t = push(l, T_STRING);
    skip(l, 1);
    lu_jbuf b = {0};
    for (;;) {
        const char *from = l->p;
        while (l->p < l->end && *l->p != quote && *l->p != '\\')
            skip(l, 1);
        lu_j_put(l->env, &b, from, (size_t)(l->p - from));
        if (l->p == l->end || (*l->p == '\\' && l->p + 1 == l->end))
            lu_j_fail(l->env, LUTRA_E_FORMAT, "string is not closed");
        const char c = *l->p;
        skip(l, 1);
        if (c == quote)
            break;
        escape(l, &b);
    }
    t->value = lu_j_take(&b);
}

/* Digits with single underscores between them, copied without. */
static size_t digits(const lexer *l, const char **p, char *out, size_t n, size_t room)
{
    while (*p < l->end && (is_digit(**p) || (**p == '_' && *p + 1 < l->end && is_digit((*p)[1])))) {
        if (n + 1 >= room)
            lu_j_fail(l->env, LUTRA_E_LIMIT, "number has more than %zu digits", room);
        if (**p != '_')
            out[n++] = **p;
        ++*p;
    }
    return n;
}

static void number(lexer *l)
{
    char text[64];
    const char *p = l->p;
    lu_jtoken *t = push(l, T_NUMBER);
    size_t n = digits(l, &p, text, 0, sizeof text);
    const size_t whole = n;
    const bool after_dot = l->n > 1 && l->tokens[l->n - 2].op == '.'; /* a.0.1 is two subscripts */
    if (!after_dot && p + 1 < l->end && *p == '.' && is_digit(p[1])) {
        text[n++] = *p++;
        n = digits(l, &p, text, n, sizeof text);
    }
    const char *e = p;
    if (!after_dot && e < l->end && (*e == 'e' || *e == 'E')) {
        const size_t sign = e + 1 < l->end && (e[1] == '+' || e[1] == '-');
        if (e + 1 + sign < l->end && is_digit(e[1 + sign])) {
            if (n + 3 >= sizeof text)
                lu_j_fail(l->env, LUTRA_E_LIMIT, "number has too many digits");
            memcpy(text + n, e, 1 + sign);
            p = e + 1 + sign;
            n = digits(l, &p, text, n + 1 + sign, sizeof text);
        }
    }
    l->p = p;
    if (n > whole) {
        double f = 0;
        lu_j_parse_float((lu_jstr){text, n}, &f);
        t->value = lu_j_float(f);
        return;
    }
    int64_t i = 0;
    for (size_t k = 0; k < n; k++) {
        if (i > (INT64_MAX - (text[k] - '0')) / 10)
            lu_j_fail(l->env, LUTRA_E_LIMIT, "integer %.*s does not fit 64 bits", (int)n, text);
        i = i * 10 + (text[k] - '0');
    }
    t->value = lu_j_int(i);
}

static void operator_token(lexer *l)
{
    static const struct {
        char text[3];
        int op;
    } pairs[] = {{"==", OP_EQ}, {"!=", OP_NE},       {"<=", OP_LE},
                 {">=", OP_GE}, {"//", OP_FLOORDIV}, {"**", OP_POW}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (at(l, pairs[i].text)) {
            push(l, T_OP)->op = pairs[i].op;
            skip(l, 2);
            return;
        }
    }
    if (!strchr("+-/*%~[](){}<>=.:|,", *l->p) || !*l->p)
        lu_j_fail(l->env, LUTRA_E_FORMAT, "unexpected character '%.*s'",
                  (int)lu_j_char_size(l->p, (size_t)(l->end - l->p)), l->p);
    push(l, T_OP)->op = *l->p;
    skip(l, 1);
}

/* The inside of {{ }} or {% %}, to the end delimiter, which does not count inside brackets. */
static void tag(lexer *l, bool block)
{
    const int begun = l->line;
    char open[256]; /* brackets to be closed, innermost last */
    size_t depth = 0;
    for (;;) {
        skip_space(l);
        l->env->line = l->line;
        if (l->p == l->end) {
            l->env->line = begun;
            lu_j_fail(l->env, LUTRA_E_FORMAT, "'%s' is not closed", block ? "{%" : "{{");
        }
        if (depth == 0 && tag_end(l, block ? "%}" : "}}", block)) {
            push(l, block ? T_BLOCK_END : T_PRINT_END);
            return;
        }
        if (*l->p == '\'' || *l->p == '"') {
            string(l);
        } else if (is_digit(*l->p)) {
            number(l);
        } else if (is_name_start(*l->p)) {
            const char *from = l->p;
            lu_jtoken *t = push(l, T_NAME);
            while (l->p < l->end && (is_name_start(*l->p) || is_digit(*l->p)))
                l->p++;
            t->text = (lu_jstr){from, (size_t)(l->p - from)};
        } else {
            operator_token(l);
            const int op = l->tokens[l->n - 1].op;
            if (op == '(' || op == '[' || op == '{') {
                if (depth == sizeof open)
                    lu_j_fail(l->env, LUTRA_E_LIMIT, "more than %zu open brackets", sizeof open);
                open[depth++] = (char)(op == '(' ? ')' : op + 2);
            } else if (op == ')' || op == ']' || op == '}') {
                if (depth == 0 || open[--depth] != op)
                    lu_j_fail(l->env, LUTRA_E_FORMAT, "unexpected '%c'", op);
            }
        }
    }
}

static void comment(lexer *l)
{
    const int begun = l->line;
    for (; l->p < l->end; skip(l, 1))
        if (tag_end(l, "#}", true))
            return;
    l->env->line = begun;
    lu_j_fail(l->env, LUTRA_E_FORMAT, "'{#' is not closed");
}

/* Emits text that ends where a tag begins; sign: the one after the tag's "{%". */
static void data(lexer *l, const char *from, const char *to, char sign, bool lstrip)
{
    lu_jstr s = {from, (size_t)(to - from)};
    if (sign == '-') {
        s = lu_j_strip(s, NULL, false, true);
    } else if (lstrip && sign != '+') {
        size_t start = s.n;
        while (start && s.p[start - 1] != '\n')
            start--;
        const lu_jstr blank = {s.p + start, s.n - start};
        if ((start || l->line_start) && !lu_j_strip(blank, NULL, true, false).n)
            s.n = start;
    }
    if (s.n)
        push(l, T_DATA)->value = lu_j_str(s);
}

/* Eats "{% name %}" with its signs if it is here; ends: whether the closing side trims. */
static bool raw_tag(lexer *l, const char *name, bool ends)
{
    const lexer before = *l;
    if (!at(l, "{%"))
        return false;
    l->p += 2;
    if (l->p < l->end && (*l->p == '-' || *l->p == '+'))
        l->p++;
    skip_space(l);
    if (at(l, name)) {
        l->p += strlen(name);
        skip_space(l);
        if (ends ? tag_end(l, "%}", true) : tag_end(l, "%}", false))
            return true;
    }
    *l = before;
    return false;
}

static void raw(lexer *l)
{
    const int begun = l->line;
    const char *from = l->p;
    for (; l->p < l->end; skip(l, 1)) {
        const char *to = l->p;
        const bool line_start = l->line_start;
        if (!raw_tag(l, "endraw", true))
            continue;
        const bool line_start_after = l->line_start;
        l->line_start = line_start;
        data(l, from, to, to[2], true);
        l->line_start = line_start_after;
        return;
    }
    l->env->line = begun;
    lu_j_fail(l->env, LUTRA_E_FORMAT, "'{%% raw %%}' is not closed");
}

static lu_jstr with_plain_line_ends(lu_jenv *env, lu_jstr s)
{
    if (s.n && memchr(s.p, '\r', s.n)) {
        s = lu_j_replace(env, s, lu_j_lit("\r\n"), lu_j_lit("\n"), -1);
        s = lu_j_replace(env, s, lu_j_lit("\r"), lu_j_lit("\n"), -1);
    }
    if (s.n && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

lu_jtoken *lu_j_lex(lu_jenv *env, lu_jstr source)
{
    const lu_jstr s = with_plain_line_ends(env, source);
    lexer l = {.env = env, .p = s.p, .end = s.p + s.n, .line = 1, .line_start = true};
    const char *from = l.p;
    while (l.p < l.end) {
        if (*l.p != '{' || l.p + 1 == l.end || !strchr("{%#", l.p[1]) || !l.p[1]) {
            skip(&l, 1);
            continue;
        }
        const char kind = l.p[1], sign = l.p + 2 < l.end ? l.p[2] : 0;
        data(&l, from, l.p, sign, kind != '{');
        if (kind == '%' && raw_tag(&l, "raw", false)) {
            raw(&l);
        } else if (kind == '#') {
            skip(&l, 2);
            comment(&l);
        } else {
            push(&l, kind == '{' ? T_PRINT_BEGIN : T_BLOCK_BEGIN);
            skip(&l, sign == '-' || sign == '+' ? 3 : 2);
            tag(&l, kind == '%');
        }
        from = l.p;
    }
    data(&l, from, l.end, 0, false);
    push(&l, T_END);
    return l.tokens;
}
