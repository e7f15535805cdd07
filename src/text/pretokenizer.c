/* pretokenizer.c - the member "pre_tokenizer": cuts a stretch of text into the pieces that BPE
   works on. Every type comes down to four kinds of step: SPLIT (by a pattern or a character class),
   PREFIX (a space in front), BYTES (the byte-level alphabet) and METASPACE (spaces made visible).
 */
#include <string.h>

#include "base/mem.h"
#include "text/parts.h"
#include "text/utf8.h"

#define GPT2_REGEX \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* \w of Rust, which Whitespace is defined by, is not Oniguruma's: joiners are in, fractions out. */
#define RUST_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"
#define WORDS_REGEX "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+"

typedef enum step_kind { SPLIT, PREFIX, BYTES, METASPACE } step_kind;

/* What becomes of the delimiters, i.e. of the stretches that match. */
typedef enum behaviour {
    REMOVED,
    ISOLATED,
    MERGED_WITH_PREVIOUS,
    MERGED_WITH_NEXT,
    CONTIGUOUS
} behaviour;
static const char *const behaviour_names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                              "MergedWithNext", "Contiguous"};

struct lu_pre_step {
    step_kind kind;
    lu_pattern pattern;            /* SPLIT by pattern; METASPACE: literal is the replacement */
    bool (*is_delimiter)(int32_t); /* SPLIT by character class; NULL: by pattern */
    behaviour behaviour;
    bool invert;
    lu_prepend prepend;
};

/* --- reading -------------------------------------------------------------------------------- */

static lutra_status new_step(lu_pretokenizer *z, step_kind kind, lu_pre_step **out, lutra_err *err)
{
    lu_pre_step *grown = lu_part_grow(z->steps, z->n_steps, sizeof *grown);
    if (!grown)
        return lu_fail_nomem(err, sizeof *grown);
    z->steps = grown;
    *out = &grown[z->n_steps++];
    (*out)->kind = kind;
    return LUTRA_OK;
}

static lutra_status parse_behaviour(const char *what, json_t *part, behaviour *out, lutra_err *err)
{
    const char *name = NULL;
    LU_TRY(lu_json_string(what, part, "behavior", &name, err));
    if (!name)
        return LUTRA_OK;
    for (int i = 0; i <= CONTIGUOUS; i++)
        if (strcmp(name, behaviour_names[i]) == 0) {
            *out = (behaviour)i;
            return LUTRA_OK;
        }
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: behavior \"%.100s\" is unknown", what, name);
}

static lutra_status parse_split(lu_pretokenizer *z, const char *what, json_t *part, lutra_err *err)
{
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, SPLIT, &step, err));
    if (!json_object_get(part, "behavior"))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"behavior\" is missing", what);
    LU_TRY(parse_behaviour(what, part, &step->behaviour, err));
    LU_TRY(lu_json_bool(what, part, "invert", &step->invert, err));
    return lu_pattern_parse(what, part, &step->pattern, err);
}

static lutra_status parse_byte_level(lu_pretokenizer *z, const char *what, json_t *part,
                                     lutra_err *err)
{
    bool prefix = true, use_regex = true;
    LU_TRY(lu_json_bool(what, part, "add_prefix_space", &prefix, err));
    LU_TRY(lu_json_bool(what, part, "use_regex", &use_regex, err));
    lu_pre_step *step = NULL;
    if (prefix)
        LU_TRY(new_step(z, PREFIX, &step, err));
    if (use_regex) {
        LU_TRY(new_step(z, SPLIT, &step, err));
        step->behaviour = ISOLATED;
        LU_TRY(lu_pattern_compile(what, GPT2_REGEX, &step->pattern, err));
    }
    return new_step(z, BYTES, &step, err);
}

static lutra_status parse_metaspace(lu_pretokenizer *z, const char *what, json_t *part,
                                    lutra_err *err)
{
    const char *mark;
    size_t n;
    bool split = true;
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, METASPACE, &step, err));
    LU_TRY(lu_part_prepend(what, part, &step->prepend, err));
    LU_TRY(lu_json_bool(what, part, "split", &split, err));
    LU_TRY(lu_part_char(what, part, "replacement", &mark, &n, err));
    for (int i = 0; i < (split ? 2 : 1); i++) { /* METASPACE and, with split, SPLIT at the mark */
        if (i)
            LU_TRY(new_step(z, SPLIT, &step, err));
        step->behaviour = MERGED_WITH_NEXT;
        step->pattern.n = n;
        step->pattern.literal = lu_strndup(mark, n);
        if (!step->pattern.literal)
            return lu_fail_nomem(err, n);
    }
    return LUTRA_OK;
}

static lutra_status parse_digits(lu_pretokenizer *z, const char *what, json_t *part, lutra_err *err)
{
    bool individual = false;
    LU_TRY(lu_json_bool(what, part, "individual_digits", &individual, err));
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, SPLIT, &step, err));
    step->is_delimiter = lu_char_is_numeric;
    step->behaviour = individual ? ISOLATED : CONTIGUOUS;
    return LUTRA_OK;
}

static lutra_status parse_whitespace(lu_pretokenizer *z, const char *what, json_t *part,
                                     lutra_err *err)
{
    (void)part;
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, SPLIT, &step, err));
    step->invert = true;
    return lu_pattern_compile(what, WORDS_REGEX, &step->pattern, err);
}

static lutra_status parse_whitespace_split(lu_pretokenizer *z, const char *what, json_t *part,
                                           lutra_err *err)
{
    (void)what, (void)part;
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, SPLIT, &step, err));
    step->is_delimiter = lu_char_is_space;
    return LUTRA_OK;
}

static lutra_status parse_punctuation(lu_pretokenizer *z, const char *what, json_t *part,
                                      lutra_err *err)
{
    lu_pre_step *step = NULL;
    LU_TRY(new_step(z, SPLIT, &step, err));
    step->is_delimiter = lu_char_is_punctuation;
    step->behaviour = ISOLATED;
    return parse_behaviour(what, part, &step->behaviour, err);
}

static const struct {
    const char *type;
    lutra_status (*parse)(lu_pretokenizer *, const char *, json_t *, lutra_err *);
} kinds[] = {
    {"Split", parse_split},
    {"ByteLevel", parse_byte_level},
    {"Metaspace", parse_metaspace},
    {"Digits", parse_digits},
    {"Whitespace", parse_whitespace},
    {"WhitespaceSplit", parse_whitespace_split},
    {"Punctuation", parse_punctuation},
};

static lutra_status add_step(void *arg, const char *what, const char *type, json_t *part,
                             lutra_err *err)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(type, kinds[i].type) == 0)
            return kinds[i].parse(arg, what, part, err);
    return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: type \"%.100s\" is not supported", what, type);
}

lutra_status lu_pretokenizer_parse(const char *what, json_t *part, lu_pretokenizer *out,
                                   lutra_err *err)
{
    return lu_part_walk(what, part, "pretokenizers", add_step, out, err);
}

void lu_pretokenizer_free(lu_pretokenizer *z)
{
    for (int i = 0; i < z->n_steps; i++)
        lu_pattern_free(&z->steps[i].pattern);
    lu_free(z->steps);
    *z = (lu_pretokenizer){0};
}

/* --- cutting -------------------------------------------------------------------------------- */

void lu_pieces_free(lu_pieces *p)
{
    lu_bytes_free(&p->text);
    lu_free(p->spans);
    *p = (lu_pieces){0};
}

/* Out of memory is noted in p->text.failed, like everything else about p's memory. */
static void push_span(lu_pieces *p, size_t begin, size_t end, bool at_start)
{
    if (p->n == p->capacity) {
        const size_t capacity = p->capacity ? p->capacity * 2 : 64;
        size_t bytes;
        lu_span *grown =
            lu_mul_size(capacity, sizeof *grown, &bytes) ? lu_resize(p->spans, bytes) : NULL;
        if (!grown) {
            p->text.failed = true;
            return;
        }
        p->spans = grown;
        p->capacity = capacity;
    }
    p->spans[p->n++] = (lu_span){begin, end, at_start};
}

/* Adds the stretch [begin, end) of the span being cut, whose pieces begin at out->spans[first]. */
typedef struct cutting {
    lu_pieces *out;
    size_t first;
    bool previous; /* the stretch before was a delimiter */
    behaviour behaviour;
} cutting;

static void add_stretch(cutting *c, size_t begin, size_t end, bool delimiter)
{
    lu_span *last = c->out->n > c->first ? &c->out->spans[c->out->n - 1] : NULL;
    bool extend = false;
    switch (c->behaviour) {
    case REMOVED:
        if (delimiter)
            return;
        break;
    case ISOLATED: break;
    case MERGED_WITH_PREVIOUS: extend = delimiter && !c->previous; break;
    case MERGED_WITH_NEXT: extend = !delimiter && c->previous; break;
    case CONTIGUOUS: extend = delimiter == c->previous; break;
    }
    c->previous = delimiter;
    if (extend && last)
        last->end = end;
    else
        push_span(c->out, begin, end, false);
}

/* The next delimiter by character class, from `at` on. */
static bool next_delimiter(bool (*is)(int32_t), const char *text, size_t n, size_t at,
                           size_t *begin, size_t *end)
{
    int length;
    for (; at < n; at += (size_t)length)
        if (is(lu_utf8_decode(text + at, &length))) {
            *begin = at;
            *end = at + (size_t)length;
            return true;
        }
    return false;
}

static lutra_status split_span(const lu_pre_step *step, lu_match_room *room, const char *text,
                               lu_span span, lu_pieces *out, lutra_err *err)
{
    const char *base = text + span.begin;
    const size_t n = span.end - span.begin;
    cutting c = {.out = out, .first = out->n, .behaviour = step->behaviour};
    lu_pattern_scan scan;
    lu_pattern_begin(&scan, &step->pattern, room, base, n);
    size_t done = 0, begin = 0, end = 0;
    while (true) {
        bool found;
        if (step->is_delimiter)
            found = next_delimiter(step->is_delimiter, base, n, done, &begin, &end);
        else
            LU_TRY(lu_pattern_next(&scan, &found, &begin, &end, err));
        if (!found)
            break;
        if (done < begin)
            add_stretch(&c, span.begin + done, span.begin + begin, step->invert);
        add_stretch(&c, span.begin + begin, span.begin + end, !step->invert);
        done = end;
    }
    if (done < n)
        add_stretch(&c, span.begin + done, span.end, step->invert);
    size_t kept = c.first; /* matches may be empty: they cut, but are no pieces */
    for (size_t i = c.first; i < out->n; i++)
        if (out->spans[i].begin < out->spans[i].end)
            out->spans[kept++] = out->spans[i];
    out->n = kept;
    if (out->n > c.first)
        out->spans[c.first].at_start = span.at_start && out->spans[c.first].begin == span.begin;
    return LUTRA_OK;
}

static void map_bytes(const char *p, size_t n, lu_bytes *out)
{
    for (size_t i = 0; i < n; i++) {
        const int32_t c = lu_byte_to_char((uint8_t)p[i]);
        if (c >= 0x80)
            lu_bytes_put(out, (char)(0xC0 | c >> 6));
        lu_bytes_put(out, (char)(c < 0x80 ? c : 0x80 | (c & 0x3F)));
    }
}

static void mark_spaces(const lu_pre_step *step, const char *p, size_t n, bool at_start,
                        lu_bytes *out)
{
    const char *mark = step->pattern.literal;
    const size_t n_mark = step->pattern.n;
    const bool marked = p[0] == ' ' || (n >= n_mark && memcmp(p, mark, n_mark) == 0);
    if (!marked &&
        (step->prepend == LU_PREPEND_ALWAYS || (step->prepend == LU_PREPEND_FIRST && at_start)))
        lu_bytes_append(out, mark, n_mark);
    for (size_t i = 0; i < n; i++) {
        if (p[i] == ' ')
            lu_bytes_append(out, mark, n_mark);
        else
            lu_bytes_put(out, p[i]);
    }
}

static void transform_span(const lu_pre_step *step, const char *text, lu_span span, lu_pieces *out)
{
    const char *p = text + span.begin;
    const size_t n = span.end - span.begin, begin = out->text.n;
    if (step->kind == BYTES)
        map_bytes(p, n, &out->text);
    else if (step->kind == METASPACE)
        mark_spaces(step, p, n, span.at_start, &out->text);
    else {
        if (p[0] != ' ')
            lu_bytes_put(&out->text, ' ');
        lu_bytes_append(&out->text, p, n);
    }
    push_span(out, begin, out->text.n, span.at_start);
}

lutra_status lu_pretokenize(const lu_pretokenizer *z, lu_match_room *room, bool at_start,
                            lu_pieces *p, lu_pieces *spare, lutra_err *err)
{
    p->n = 0;
    if (p->text.n)
        push_span(p, 0, p->text.n, at_start);
    LU_TRY(lu_bytes_check(&p->text, err));
    for (int i = 0; i < z->n_steps; i++) {
        const lu_pre_step *step = &z->steps[i];
        spare->n = 0;
        lu_bytes_clear(&spare->text);
        for (size_t k = 0; k < p->n; k++) {
            if (step->kind == SPLIT)
                LU_TRY(split_span(step, room, p->text.data, p->spans[k], spare, err));
            else
                transform_span(step, p->text.data, p->spans[k], spare);
        }
        LU_TRY(lu_bytes_check(&spare->text, err));
        const lu_pieces swap = *p;
        *p = *spare;
        *spare = swap;
        if (step->kind == SPLIT) { /* only the spans are new */
            const lu_bytes text = p->text;
            p->text = spare->text;
            spare->text = text;
        }
    }
    return LUTRA_OK;
}
