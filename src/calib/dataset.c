/* dataset.c - see dataset.h. Documents become one list of ids with their bounds. Packed, windows
   are drawn uniformly from the joined ids; windows at multiples of the length are drawn without
   repetition while there are enough, so that no token is seen twice. Per document, documents are
   drawn in a seeded order and cut at the length. The generator is splitmix64: the samples follow
   from the file, the seed and the counts on every machine. */
#include "calib/dataset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/context.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "lutra/text.h"

#define MAX_BYTES ((size_t)1 << 32)
#define JOIN "\n\n"
#define MAX_MESSAGES 4096

void lutra_calibration_init(lutra_calibration *c)
{
    memset(c, 0, sizeof *c);
    c->size = sizeof *c;
    c->n_samples = 128;
    c->length = 512;
    c->memory = (int64_t)4 << 30;
    c->dtype = LUTRA_BF16;
}

typedef struct {
    const char *path;
    const lutra_calibration *settings;
    const char *folder;
    lutra_tokenizer *tokenizer; /* opened when text comes */
    int64_t vocab_size;
    int32_t *ids;
    int64_t n_ids, room;
    int64_t *starts; /* [n_docs] */
    int64_t n_docs, doc_room;
    int64_t line;
} reader;

static lutra_status grow(void **p, int64_t *room, int64_t need, size_t size, lutra_err *err)
{
    if (need <= *room)
        return LUTRA_OK;
    const int64_t wanted = need > 2 * *room ? need : 2 * *room;
    void *grown = lu_resize(*p, (size_t)wanted * size);
    if (!grown)
        return lu_fail_nomem(err, (size_t)wanted * size);
    *p = grown;
    *room = wanted;
    return LUTRA_OK;
}

static lutra_status begin_document(reader *r, lutra_err *err)
{
    LU_TRY(grow((void **)&r->starts, &r->doc_room, r->n_docs + 1, sizeof *r->starts, err));
    r->starts[r->n_docs++] = r->n_ids;
    return LUTRA_OK;
}

static lutra_status add_ids(reader *r, const int32_t *ids, int64_t n, lutra_err *err)
{
    LU_TRY(grow((void **)&r->ids, &r->room, r->n_ids + n, sizeof *r->ids, err));
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= r->vocab_size)
            return lu_fail(err, LUTRA_E_FORMAT,
                           "%s:%lld: token id %d, expected one below the model's %lld", r->path,
                           (long long)r->line, ids[i], (long long)r->vocab_size);
        r->ids[r->n_ids++] = ids[i];
    }
    return LUTRA_OK;
}

static lutra_status add_text(reader *r, const char *text, size_t n, bool special, lutra_err *err)
{
    int32_t *ids;
    int64_t count;
    if (!r->tokenizer)
        LU_TRY(lutra_tokenizer_open(r->folder, &r->tokenizer, err));
    LU_TRY(lutra_encode(r->tokenizer, text, n, special, &ids, &count, err));
    const lutra_status status = add_ids(r, ids, count, err);
    lutra_free(ids);
    return status;
}

/* ---- one line of JSON -------------------------------------------------------------------------
 */

static lutra_status add_messages(reader *r, json_t *list, lutra_err *err)
{
    const size_t n = json_array_size(list);
    lutra_message *messages = n && n <= MAX_MESSAGES ? lu_calloc(n, sizeof *messages) : NULL;
    if (!messages)
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s:%lld: \"messages\" has %zu entries, expected 1 to %d", r->path,
                       (long long)r->line, n, MAX_MESSAGES);
    lutra_status status = LUTRA_OK;
    for (size_t i = 0; status == LUTRA_OK && i < n; i++) {
        json_t *m = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
        if (!messages[i].role || !messages[i].content)
            status = lu_fail(err, LUTRA_E_FORMAT,
                             "%s:%lld: message %zu has no \"role\" and \"content\" of text",
                             r->path, (long long)r->line, i);
    }
    char *text = NULL;
    size_t size = 0;
    if (status == LUTRA_OK && !r->tokenizer)
        status = lutra_tokenizer_open(r->folder, &r->tokenizer, err);
    if (status == LUTRA_OK) {
        status = lutra_chat_render(r->tokenizer, messages, (int)n, false, &text, &size, err);
        if (status != LUTRA_OK)
            lu_fail_prefix(err, status, "%s:%lld", r->path, (long long)r->line);
    }
    if (status == LUTRA_OK)
        status = add_text(r, text, size, false, err); /* the template writes BOS itself */
    lutra_free(text);
    lu_free(messages);
    return status;
}

static lutra_status add_id_list(reader *r, json_t *list, lutra_err *err)
{
    size_t i;
    json_t *v;
    json_array_foreach (list, i, v) {
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        const int32_t narrow = id >= 0 && id <= INT32_MAX ? (int32_t)id : -1;
        LU_TRY(add_ids(r, &narrow, 1, err));
    }
    return LUTRA_OK;
}

static lutra_status add_json_line(reader *r, const char *line, size_t n, lutra_err *err)
{
    json_t *root;
    char what[512];
    snprintf(what, sizeof what, "%.400s:%lld", r->path, (long long)r->line);
    LU_TRY(lu_json_parse(what, line, n, false, &root, err));
    json_t *text = json_object_get(root, "text"), *messages = json_object_get(root, "messages"),
           *ids = json_object_get(root, "ids");
    lutra_status status = begin_document(r, err);
    if (status == LUTRA_OK && json_is_string(text))
        status = add_text(r, json_string_value(text), json_string_length(text), true, err);
    else if (status == LUTRA_OK && json_is_array(messages))
        status = add_messages(r, messages, err);
    else if (status == LUTRA_OK && json_is_array(ids))
        status = add_id_list(r, ids, err);
    else if (status == LUTRA_OK)
        status =
            lu_fail(err, LUTRA_E_FORMAT,
                    "%s: has none of \"text\" (a string), \"messages\" and \"ids\" (lists)", what);
    json_decref(root);
    return status;
}

static lutra_status add_id_line(reader *r, const char *line, size_t n, lutra_err *err)
{
    const char *end = line + n;
    bool any = false;
    while (line < end) {
        char *after;
        if (strchr(" \t,\r", *line)) {
            line++;
            continue;
        }
        errno = 0;
        const long long v = strtoll(line, &after, 10);
        if (after == line || errno)
            return lu_fail(err, LUTRA_E_FORMAT, "%s:%lld: '%.*s' is not a token id", r->path,
                           (long long)r->line, (int)(end - line < 20 ? end - line : 20), line);
        const int32_t id = v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
        if (!any)
            LU_TRY(begin_document(r, err));
        any = true;
        LU_TRY(add_ids(r, &id, 1, err));
        line = after;
    }
    return LUTRA_OK;
}

/* ---- files ------------------------------------------------------------------------------------
 */

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

typedef lutra_status (*add_line)(reader *r, const char *line, size_t n, lutra_err *err);

static lutra_status add_lines(reader *r, const char *text, size_t n, add_line add, lutra_err *err)
{
    for (const char *at = text, *end = text + n; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const size_t size = (size_t)((stop ? stop : end) - at);
        r->line++;
        if (strspn(at, " \t\r") < size)
            LU_TRY(add(r, at, size, err));
        at += size + 1;
    }
    return LUTRA_OK;
}

/* A text file is one document; or, per document, one at each blank line. */
static lutra_status add_plain(reader *r, const char *text, size_t n, lutra_err *err)
{
    const char *end = text + n;
    while (text < end) {
        const char *stop = r->settings->per_document ? strstr(text, JOIN) : NULL;
        const size_t size = (size_t)((stop ? stop : end) - text);
        if (size > 0) {
            LU_TRY(begin_document(r, err));
            LU_TRY(add_text(r, text, size, r->settings->per_document, err));
        }
        text += size + strlen(JOIN);
    }
    return LUTRA_OK;
}

static lutra_status read_all(reader *r, lutra_err *err)
{
    char *text;
    size_t n;
    LU_TRY(lu_file_read(r->path, MAX_BYTES, &text, &n, err));
    lutra_status status;
    if (ends_with(r->path, ".jsonl") || ends_with(r->path, ".json"))
        status = add_lines(r, text, n, add_json_line, err);
    else if (ends_with(r->path, ".ids"))
        status = add_lines(r, text, n, add_id_line, err);
    else
        status = add_plain(r, text, n, err);
    lu_free(text);
    return status;
}

/* ---- drawing ----------------------------------------------------------------------------------
 */

static uint64_t next_random(uint64_t *s)
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The first n of a shuffled list of `of` places, in the order they were drawn. */
static lutra_status draw(int64_t n, int64_t of, uint64_t seed, int64_t *out, lutra_err *err)
{
    int64_t *all = lu_array((size_t)of, sizeof *all);
    if (!all)
        return lu_fail_nomem(err, (size_t)of * sizeof *all);
    for (int64_t i = 0; i < of; i++)
        all[i] = i;
    for (int64_t i = 0; i < n; i++) {
        const int64_t j = i + (int64_t)(next_random(&seed) % (uint64_t)(of - i)), t = all[j];
        all[j] = all[i];
        out[i] = all[i] = t;
    }
    lu_free(all);
    return LUTRA_OK;
}

/* Starts of the samples; *n becomes how many there are. */
static lutra_status choose(const reader *r, const lutra_calibration *c, int64_t *starts, int64_t *n,
                           lutra_err *err)
{
    int64_t places = r->n_ids / c->length;
    int64_t *whole = NULL; /* per document: starts of those that are long enough */
    if (c->per_document) {
        whole = lu_array((size_t)r->n_docs + 1, sizeof *whole);
        if (!whole)
            return lu_fail_nomem(err, (size_t)r->n_docs * sizeof *whole);
        places = 0;
        for (int64_t d = 0; d < r->n_docs; d++) {
            const int64_t end = d + 1 < r->n_docs ? r->starts[d + 1] : r->n_ids;
            if (end - r->starts[d] >= c->length)
                whole[places++] = r->starts[d];
        }
    }
    *n = places < c->n_samples ? places : c->n_samples;
    const lutra_status status = draw(*n, places, c->seed, starts, err);
    for (int64_t i = 0; status == LUTRA_OK && i < *n; i++)
        starts[i] = whole ? whole[starts[i]] : starts[i] * c->length;
    lu_free(whole);
    return status;
}

static lutra_status take(lutra_ctx *ctx, const reader *r, lu_dataset *out, lutra_err *err)
{
    const lutra_calibration *c = r->settings;
    int64_t n = 0, *starts = lu_array((size_t)c->n_samples, sizeof *starts);
    if (!starts)
        return lu_fail_nomem(err, (size_t)c->n_samples * sizeof *starts);
    lutra_status status = choose(r, c, starts, &n, err);
    if (status == LUTRA_OK && n == 0)
        status =
            lu_fail(err, LUTRA_E_ARG,
                    "%s: %lld tokens in %lld documents hold no sample of %lld tokens: give more "
                    "text or shorter samples",
                    r->path, (long long)r->n_ids, (long long)r->n_docs, (long long)c->length);
    if (status == LUTRA_OK) {
        out->ids = lu_array((size_t)n, (size_t)c->length * sizeof *out->ids);
        if (!out->ids)
            status = lu_fail_nomem(err, (size_t)(n * c->length) * sizeof *out->ids);
    }
    if (status == LUTRA_OK) {
        if (n < c->n_samples)
            lu_log(ctx, LUTRA_LOG_WARN,
                   "%s: holds %lld samples of %lld tokens, %lld were asked for", r->path,
                   (long long)n, (long long)c->length, (long long)c->n_samples);
        for (int64_t i = 0; i < n; i++)
            memcpy(out->ids + i * c->length, r->ids + starts[i],
                   (size_t)c->length * sizeof *out->ids);
        out->n_samples = n;
        out->length = c->length;
    }
    lu_free(starts);
    return status;
}

lutra_status lu_dataset_open(lutra_ctx *ctx, const lutra_calibration *c, const char *folder,
                             int64_t vocab_size, lu_dataset *out, lutra_err *err)
{
    if (c->n_samples < 1 || c->n_samples > 1000000 || c->length < 1 || c->length > 1000000)
        return lu_fail(
            err, LUTRA_E_ARG,
            "calibration with %lld samples of %lld tokens, expected 1 to 1000000 of each",
            (long long)c->n_samples, (long long)c->length);
    reader r = {.path = c->data, .settings = c, .folder = folder, .vocab_size = vocab_size};
    lu_dataset d = {.ids = NULL};
    lutra_status status = read_all(&r, err);
    if (status == LUTRA_OK)
        status = take(ctx, &r, &d, err);
    lutra_tokenizer_close(r.tokenizer);
    lu_free(r.ids);
    lu_free(r.starts);
    if (status == LUTRA_OK)
        *out = d;
    return status;
}

void lu_dataset_close(lu_dataset *d)
{
    lu_free(d->ids);
    d->ids = NULL;
}
