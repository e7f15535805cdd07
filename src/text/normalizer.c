/* normalizer.c - the member "normalizer": Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip,
   Sequence. Works on whole stretches between added tokens. */
#include <string.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "text/parts.h"
#include "text/utf8.h"

typedef enum step_kind { PREPEND, REPLACE, UNICODE_FORM, LOWERCASE, STRIP } step_kind;

struct lu_norm_step {
    step_kind kind;
    lu_pattern pattern; /* REPLACE */
    char *text;         /* PREPEND, REPLACE: what is put there */
    size_t n;
    int form;         /* UNICODE_FORM: utf8proc_option_t flags */
    bool left, right; /* STRIP */
};

static const struct {
    const char *type;
    step_kind kind;
    int form;
} kinds[] = {
    {"Prepend", PREPEND, 0},
    {"Replace", REPLACE, 0},
    {"NFC", UNICODE_FORM, UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UNICODE_FORM, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UNICODE_FORM, UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UNICODE_FORM, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    {"Lowercase", LOWERCASE, 0},
    {"Strip", STRIP, 0},
};

static lutra_status add_step(void *arg, const char *what, const char *type, json_t *part,
                             lutra_err *err)
{
    lu_normalizer *z = arg;
    size_t k = 0, n_kinds = sizeof kinds / sizeof *kinds;
    while (k < n_kinds && strcmp(type, kinds[k].type) != 0)
        k++;
    if (k == n_kinds)
        return lu_fail(err, LUTRA_E_UNSUPPORTED, "%s: type \"%.100s\" is not supported", what,
                       type);
    lu_norm_step *grown = lu_part_grow(z->steps, z->n_steps, sizeof *grown);
    if (!grown)
        return lu_fail_nomem(err, sizeof *grown);
    z->steps = grown;
    lu_norm_step *step = &grown[z->n_steps++];
    step->kind = kinds[k].kind;
    step->form = kinds[k].form;
    if (step->kind == STRIP) {
        step->left = step->right = true;
        LU_TRY(lu_json_bool(what, part, "strip_left", &step->left, err));
        return lu_json_bool(what, part, "strip_right", &step->right, err);
    }
    if (step->kind != PREPEND && step->kind != REPLACE)
        return LUTRA_OK;
    const char *text;
    LU_TRY(lu_part_text(what, part, step->kind == PREPEND ? "prepend" : "content", &text, &step->n,
                        err));
    step->text = lu_strndup(text, step->n);
    if (!step->text)
        return lu_fail_nomem(err, step->n);
    return step->kind == REPLACE ? lu_pattern_parse(what, part, &step->pattern, err) : LUTRA_OK;
}

lutra_status lu_normalizer_parse(const char *what, json_t *part, lu_normalizer *out, lutra_err *err)
{
    return lu_part_walk(what, part, "normalizers", add_step, out, err);
}

void lu_normalizer_free(lu_normalizer *z)
{
    for (int i = 0; i < z->n_steps; i++) {
        lu_pattern_free(&z->steps[i].pattern);
        lu_free(z->steps[i].text);
    }
    lu_free(z->steps);
    *z = (lu_normalizer){0};
}

/* True for text that no normal form changes, seen from its lead bytes alone: the composed forms
   begin to act at U+0300 (0xCC), the others at the first character beyond ASCII. */
static bool form_is_plain(const lu_bytes *in, int form)
{
    const bool canonical = (form & UTF8PROC_COMPOSE) && !(form & UTF8PROC_COMPAT);
    const uint8_t limit = canonical ? 0xCC : 0x80;
    for (size_t i = 0; i < in->n; i++)
        if ((uint8_t)in->data[i] >= limit)
            return false;
    return true;
}

/* Sorts one run of combining marks by class, keeping the order of equals: by counting, because
   hostile text can make the run as long as it likes. */
static void sort_marks(int32_t *marks, size_t n, int32_t *spare)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(marks[i])->combining_class + 1]++;
    for (size_t k = 1; k < 257; k++)
        start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++)
        spare[start[utf8proc_get_property(marks[i])->combining_class]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

static void order_marks(int32_t *codes, size_t n, int32_t *spare)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && utf8proc_get_property(codes[end])->combining_class != 0)
            end++;
        if (end > i + 1)
            sort_marks(codes + i, end - i, spare);
        i = end + 1;
    }
}

#define MOST_PER_CHARACTER 18 /* U+FDFA has the longest compatibility decomposition */

static lutra_status unicode_form(int form, const lu_bytes *in, lu_bytes *out, lutra_err *err)
{
    const utf8proc_option_t split = (form & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE;
    size_t n = 0;
    for (size_t i = 0; i < in->n;) { /* first pass: how many characters it becomes */
        int length, bound = 0;
        int32_t few[MOST_PER_CHARACTER];
        const int32_t c = lu_utf8_decode(in->data + i, &length);
        n += (size_t)utf8proc_decompose_char(c, few, MOST_PER_CHARACTER, split, &bound);
        i += (size_t)length;
    }
    int32_t *codes = lu_array(n, 2 * sizeof *codes);
    if (!codes)
        return lu_fail_nomem(err, n * 2 * sizeof *codes);
    size_t at = 0;
    for (size_t i = 0; i < in->n;) {
        int length, bound = 0;
        const int32_t c = lu_utf8_decode(in->data + i, &length);
        at += (size_t)utf8proc_decompose_char(c, codes + at, (utf8proc_ssize_t)(n - at), split,
                                              &bound);
        i += (size_t)length;
    }
    order_marks(codes, n, codes + n);
    if (form & UTF8PROC_COMPOSE)
        n = (size_t)utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, (utf8proc_option_t)form);
    for (size_t i = 0; i < n; i++)
        lu_utf8_append(out, codes[i]);
    lu_free(codes);
    return LUTRA_OK;
}

static void lowercase(const lu_bytes *in, lu_bytes *out)
{
    int length;
    for (size_t i = 0; i < in->n; i += (size_t)length) {
        const int32_t c = lu_utf8_decode(in->data + i, &length);
        if (c == 0x130) /* the one letter whose full lower case has two characters */
            lu_bytes_append(out, "i\xCC\x87", 3);
        else
            lu_utf8_append(out, utf8proc_tolower(c));
    }
}

static void strip(const lu_norm_step *step, const lu_bytes *in, lu_bytes *out, bool *at_start)
{
    size_t begin = 0, end = in->n;
    int length;
    while (step->left && begin < end && lu_char_is_space(lu_utf8_decode(in->data + begin, &length)))
        begin += (size_t)length;
    while (step->right && begin < end) {
        const size_t last = lu_utf8_before(in->data, end);
        if (!lu_char_is_space(lu_utf8_decode(in->data + last, &length)))
            break;
        end = last;
    }
    lu_bytes_append(out, in->data + begin, end - begin);
    if (begin)
        *at_start = false;
}

static lutra_status run_step(const lu_norm_step *step, lu_match_room *room, const lu_bytes *in,
                             lu_bytes *out, bool *at_start, lutra_err *err)
{
    switch (step->kind) {
    case PREPEND:
        lu_bytes_append(out, step->text, step->n);
        lu_bytes_append(out, in->data, in->n);
        return LUTRA_OK;
    case REPLACE:
        return lu_pattern_replace(&step->pattern, room, &(lu_text){in->data, in->n},
                                  &(lu_text){step->text, step->n}, out, err);
    case UNICODE_FORM:
        if (!form_is_plain(in, step->form))
            return unicode_form(step->form, in, out, err);
        lu_bytes_append(out, in->data, in->n);
        return LUTRA_OK;
    case LOWERCASE: lowercase(in, out); return LUTRA_OK;
    case STRIP: strip(step, in, out, at_start); return LUTRA_OK;
    }
    return lu_fail(err, LUTRA_E_INTERNAL, "normalizer: step kind %d", (int)step->kind);
}

lutra_status lu_normalize(const lu_normalizer *z, lu_match_room *room, lu_bytes *text,
                          bool *at_start, lutra_err *err)
{
    lu_bytes next = {0};
    lutra_status status = lu_bytes_check(text, err);
    for (int i = 0; i < z->n_steps && text->n && status == LUTRA_OK; i++) {
        lu_bytes_clear(&next);
        status = run_step(&z->steps[i], room, text, &next, at_start, err);
        if (status == LUTRA_OK)
            status = lu_bytes_check(&next, err);
        const lu_bytes swap = *text;
        *text = next;
        next = swap;
    }
    lu_bytes_free(&next);
    return status;
}
