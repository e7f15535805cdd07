/* added_tokens.c - tokens that are matched in the text before BPE sees it: special ones and user's
   own. Longest match wins at the leftmost place. Matching walks a sorted list, narrowing it byte by
   byte: it takes one step per byte of the longest token that begins like the text. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/parts.h"
#include "text/utf8.h"

static lutra_status parse_token(const char *what, size_t i, json_t *part, lu_added_token *t,
                                lutra_err *err)
{
    if (!json_is_object(part))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: entry %zu is no object", what, i);
    const char *content;
    size_t n;
    LU_TRY(lu_part_text(what, part, "content", &content, &n, err));
    int64_t id = -1;
    LU_TRY(lu_json_int(what, part, "id", &id, err));
    if (id < 0 || id >= LU_ID_LIMIT)
        return lu_fail(err, LUTRA_E_FORMAT, "%s: \"%.100s\" has the id %lld, expected 0 .. %d",
                       what, content, (long long)id, LU_ID_LIMIT - 1);
    t->id = (int32_t)id;
    LU_TRY(lu_json_bool(what, part, "special", &t->special, err));
    t->normalized = !t->special; /* the default where the member is missing */
    LU_TRY(lu_json_bool(what, part, "normalized", &t->normalized, err));
    LU_TRY(lu_json_bool(what, part, "single_word", &t->single_word, err));
    LU_TRY(lu_json_bool(what, part, "lstrip", &t->lstrip, err));
    LU_TRY(lu_json_bool(what, part, "rstrip", &t->rstrip, err));
    t->content = lu_strndup(content, n);
    return t->content ? LUTRA_OK : lu_fail_nomem(err, n);
}

lutra_status lu_added_parse(const char *what, json_t *list, lu_added *out, lutra_err *err)
{
    if (!list || json_is_null(list))
        return LUTRA_OK;
    if (!json_is_array(list))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: no array", what);
    const size_t n = json_array_size(list);
    out->tokens = lu_calloc(n, sizeof *out->tokens);
    if (!out->tokens)
        return lu_fail_nomem(err, n * sizeof *out->tokens);
    for (out->n = 0; out->n < n; out->n++) {
        lu_added_token *t = &out->tokens[out->n];
        const lutra_status status = parse_token(what, out->n, json_array_get(list, out->n), t, err);
        if (status != LUTRA_OK) {
            lu_free(t->content);
            return status;
        }
    }
    return LUTRA_OK;
}

void lu_added_free(lu_added *a)
{
    for (size_t i = 0; i < a->n; i++) {
        lu_free(a->tokens[i].content);
        lu_free(a->tokens[i].match);
    }
    lu_free(a->tokens);
    lu_free(a->verbatim.sorted);
    lu_free(a->normalized.sorted);
    *a = (lu_added){0};
}

static int by_bytes(const void *left, const void *right)
{
    const lu_added_token *a = *(const lu_added_token *const *)left;
    const lu_added_token *b = *(const lu_added_token *const *)right;
    const size_t n = a->n_match < b->n_match ? a->n_match : b->n_match;
    const int order = memcmp(a->match, b->match, n);
    if (order)
        return order;
    if (a->n_match != b->n_match)
        return a->n_match < b->n_match ? -1 : 1;
    return a < b ? -1 : a > b; /* equal texts: the one listed first wins */
}

static lutra_status sort_set(const lu_added *a, bool normalized, lu_added_set *set, lutra_err *err)
{
    set->sorted = lu_array(a->n, sizeof *set->sorted);
    if (!set->sorted)
        return lu_fail_nomem(err, a->n * sizeof *set->sorted);
    for (size_t i = 0; i < a->n; i++)
        if (a->tokens[i].normalized == normalized && a->tokens[i].n_match)
            set->sorted[set->n++] = &a->tokens[i];
    qsort(set->sorted, set->n, sizeof *set->sorted, by_bytes);
    size_t i = 0;
    for (int b = 0; b < 256; b++) {
        set->first[b] = (uint32_t)i;
        while (i < set->n && (uint8_t)set->sorted[i]->match[0] == b)
            i++;
    }
    set->first[256] = (uint32_t)i;
    return LUTRA_OK;
}

lutra_status lu_added_prepare(lu_added *a, const lu_normalizer *z, lutra_err *err)
{
    lu_match_room room = {0};
    lutra_status status = LUTRA_OK;
    for (size_t i = 0; i < a->n && status == LUTRA_OK; i++) {
        lu_added_token *t = &a->tokens[i];
        lu_bytes text = {0};
        bool at_start = true;
        lu_bytes_append(&text, t->content, strlen(t->content));
        status = t->normalized ? lu_normalize(z, &room, &text, &at_start, err) : LUTRA_OK;
        if (status == LUTRA_OK)
            status = lu_bytes_take(&text, &t->match, &t->n_match, err);
        lu_bytes_free(&text);
    }
    lu_match_room_free(&room);
    LU_TRY(status);
    LU_TRY(sort_set(a, false, &a->verbatim, err));
    return sort_set(a, true, &a->normalized, err);
}

/* The longest token that the text begins with, or NULL. */
static const lu_added_token *longest_match(const lu_added_set *set, const char *text, size_t n)
{
    size_t low = set->first[(uint8_t)text[0]], high = set->first[(uint8_t)text[0] + 1];
    const lu_added_token *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->sorted[low]->n_match == depth) /* all shorter ones are gone: it sorts first */
            best = set->sorted[low];
        while (low < high && set->sorted[low]->n_match == depth)
            low++;
        if (depth == n)
            break;
        const uint8_t c = (uint8_t)text[depth];
        for (size_t end = high; low < end;) { /* first entry whose next byte is >= c */
            const size_t middle = low + (end - low) / 2;
            if ((uint8_t)set->sorted[middle]->match[depth] < c)
                low = middle + 1;
            else
                end = middle;
        }
        for (size_t begin = low; begin < high;) { /* first entry whose next byte is > c */
            const size_t middle = begin + (high - begin) / 2;
            if ((uint8_t)set->sorted[middle]->match[depth] <= c)
                begin = middle + 1;
            else
                high = middle;
        }
    }
    return best;
}

static bool is_word_at(const char *text, size_t at)
{
    int length;
    return lu_char_is_word(lu_utf8_decode(text + at, &length));
}

/* Applies single_word, lstrip and rstrip to a match at [begin, end). False: not a match after all.
 */
static bool accept(const lu_added_scan *s, const lu_added_token *t, size_t *begin, size_t *end)
{
    if (t->single_word && ((*begin > 0 && is_word_at(s->text, lu_utf8_before(s->text, *begin))) ||
                           (*end < s->n && is_word_at(s->text, *end))))
        return false;
    int length;
    while (t->lstrip && *begin > s->done) {
        const size_t before = lu_utf8_before(s->text, *begin);
        if (!lu_char_is_space(lu_utf8_decode(s->text + before, &length)))
            break;
        *begin = before;
    }
    if (t->lstrip && *begin < s->done)
        *begin = s->done;
    while (t->rstrip && *end < s->n && lu_char_is_space(lu_utf8_decode(s->text + *end, &length)))
        *end += (size_t)length;
    return true;
}

void lu_added_begin(lu_added_scan *s, const lu_added_set *set, const char *text, size_t n)
{
    *s = (lu_added_scan){.set = set, .text = text, .n = n, .held.id = -1};
}

bool lu_added_next(lu_added_scan *s, lu_section *out)
{
    if (s->held.id >= 0) {
        *out = s->held;
        s->held.id = -1;
        return true;
    }
    if (!s->set->n)
        s->at = s->n;
    while (s->at < s->n) {
        const lu_added_token *t = longest_match(s->set, s->text + s->at, s->n - s->at);
        if (!t) {
            s->at++;
            continue;
        }
        size_t begin = s->at, end = begin + t->n_match;
        s->at = end;
        if (!accept(s, t, &begin, &end))
            continue;
        const size_t done = s->done;
        const lu_section token = {begin, end, t->id};
        s->done = end;
        if (done < begin) {
            s->held = token;
            *out = (lu_section){done, begin, -1};
        } else {
            *out = token;
        }
        return true;
    }
    *out = (lu_section){s->done, s->n, -1};
    s->done = s->n;
    return out->begin < out->end;
}
