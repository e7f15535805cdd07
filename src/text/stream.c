/* stream.c - decoding one id at a time, with stop strings. decoder.c gives out text that no later
   id changes; this file further holds back what could become a stop string. Invariant: without a
   stop, all that push and flush give out is what lutra_decode gives at once; with one, that text up
   to the stop string that is complete first, however the text was cut into ids. */
#include <string.h>

#include "base/mem.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

struct lutra_stream {
    const lutra_tokenizer *tokenizer;
    lu_decoding decoding;
    bool skip_special, stopped, finished;
    char **stops;
    int n_stops;
    lu_bytes waiting; /* decoded, not given out */
    lu_bytes given;   /* what the last call gave out */
};

lutra_status lutra_stream_open(const lutra_tokenizer *t, bool skip_special,
                               const char *const *stops, int n_stops, lutra_stream **out,
                               lutra_err *err)
{
    for (int i = 0; i < n_stops; i++)
        if (!*stops[i] || !lu_utf8_valid(stops[i], strlen(stops[i])))
            return lu_fail(err, LUTRA_E_ARG, "stop string %d is %s", i,
                           *stops[i] ? "not UTF-8" : "empty");
    lutra_stream *s = lu_calloc(1, sizeof *s);
    if (!s)
        return lu_fail_nomem(err, sizeof *s);
    s->tokenizer = t;
    s->skip_special = skip_special;
    lutra_status status = lu_decoding_open(&t->decoder, &s->decoding, err);
    if (status == LUTRA_OK && n_stops > 0) {
        s->stops = lu_calloc((size_t)n_stops, sizeof *s->stops);
        status = s->stops ? LUTRA_OK : lu_fail_nomem(err, (size_t)n_stops * sizeof *s->stops);
    }
    for (; status == LUTRA_OK && s->n_stops < n_stops; s->n_stops++) {
        s->stops[s->n_stops] = lu_strdup(stops[s->n_stops]);
        if (!s->stops[s->n_stops])
            status = lu_fail_nomem(err, strlen(stops[s->n_stops]));
    }
    if (status == LUTRA_OK)
        *out = s;
    else
        lutra_stream_close(s);
    return status;
}

void lutra_stream_close(lutra_stream *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_stops; i++)
        lu_free(s->stops[i]);
    lu_free(s->stops);
    lu_decoding_close(&s->decoding);
    lu_bytes_free(&s->waiting);
    lu_bytes_free(&s->given);
    lu_free(s);
}

/* Where the stop string begins that is complete first (of several that end together, the longest).
 */
static bool find_stop(const lutra_stream *s, size_t *begin)
{
    const char *text = s->waiting.data;
    size_t best_end = SIZE_MAX;
    for (int i = 0; i < s->n_stops; i++) {
        const size_t n = strlen(s->stops[i]);
        for (size_t at = 0; at + n <= s->waiting.n && at + n <= best_end; at++) {
            if (memcmp(text + at, s->stops[i], n) != 0)
                continue;
            if (at + n < best_end || at < *begin)
                *begin = at;
            best_end = at + n;
            break;
        }
    }
    return best_end != SIZE_MAX;
}

/* How many bytes at the end of the waiting text could be the beginning of a stop string. */
static size_t held_back(const lutra_stream *s)
{
    size_t most = 0;
    for (int i = 0; i < s->n_stops; i++) {
        size_t n = strlen(s->stops[i]) - 1;
        for (n = n < s->waiting.n ? n : s->waiting.n; n > most; n--)
            if (memcmp(s->waiting.data + s->waiting.n - n, s->stops[i], n) == 0)
                most = n;
    }
    return most;
}

/* Moves decoded text to `given`, as far as it is safe; all of it at the end. */
static lutra_status give(lutra_stream *s, bool all, const char **text, size_t *n, lutra_err *err)
{
    size_t ready = 0;
    lu_bytes_clear(&s->given);
    if (!s->stopped) {
        lu_bytes_append(&s->waiting, s->decoding.out.data, s->decoding.out.n);
        LU_TRY(lu_bytes_check(&s->waiting, err));
        s->stopped = find_stop(s, &ready);
        if (!s->stopped)
            ready = s->waiting.n - (all ? 0 : held_back(s));
    }
    lu_bytes_clear(&s->decoding.out);
    lu_bytes_append(&s->given, s->waiting.data, ready);
    LU_TRY(lu_bytes_check(&s->given, err));
    lu_bytes_drop(&s->waiting, ready);
    *text = s->given.data;
    *n = s->given.n;
    return LUTRA_OK;
}

lutra_status lutra_stream_push(lutra_stream *s, int32_t id, const char **text, size_t *n,
                               bool *stopped, lutra_err *err)
{
    if (s->finished)
        return lu_fail(err, LUTRA_E_ARG, "stream: push after flush");
    if (!s->stopped)
        LU_TRY(lu_tokenizer_push(s->tokenizer, &s->decoding, id, s->skip_special, err));
    LU_TRY(give(s, false, text, n, err));
    *stopped = s->stopped;
    return LUTRA_OK;
}

lutra_status lutra_stream_flush(lutra_stream *s, const char **text, size_t *n, lutra_err *err)
{
    if (!s->stopped && !s->finished)
        LU_TRY(lu_decoding_finish(&s->decoding, err));
    s->finished = true;
    return give(s, true, text, n, err);
}
