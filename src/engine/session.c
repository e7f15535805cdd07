/* session.c - feeding tokens of one sequence. Long inputs run in passes of bounded size; the length
   moves only when all of them are done, so a refused or cancelled feed leaves the session as it was
   (the cache rows written meanwhile are behind its end, or are made again). Nothing is allocated
   after opening. */
#include "engine/session.h"

#include <inttypes.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"

static lutra_status open_into(lutra_session *s, int64_t capacity, lutra_err *err)
{
    const int64_t vocab = s->model->config.vocab_size;
    const int64_t most = s->model->gpu ? LU_GPU_FORWARD_ROWS : LU_FORWARD_ROWS;
    const int64_t rows = capacity < most ? capacity : most;
    LU_TRY(lu_kv_open_for(s->model, capacity, rows, &s->kv, err));
    LU_TRY(lu_forward_open(s->model, rows, capacity, &s->forward, err));
    s->ids = lu_array((size_t)capacity, sizeof *s->ids);
    s->logits = lu_array((size_t)vocab, sizeof *s->logits);
    return s->ids && s->logits ? LUTRA_OK
                               : lu_fail_nomem(err, (size_t)capacity * sizeof *s->ids +
                                                        (size_t)vocab * sizeof *s->logits);
}

lutra_status lutra_session_open(lutra_model *m, int64_t capacity, lutra_session **out,
                                lutra_err *err)
{
    const int64_t context = m->config.max_context;
    if (capacity < 0)
        return lu_fail(err, LUTRA_E_ARG,
                       "session capacity is %" PRId64 ", expected 0 or more tokens", capacity);
    if (capacity > context)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "session capacity %" PRId64 " exceeds the model's context of %" PRId64
                       " tokens",
                       capacity, context);
    lutra_session *s = lu_calloc(1, sizeof *s);
    if (!s)
        return lu_fail_nomem(err, sizeof *s);
    s->model = m;
    const lutra_status status = open_into(s, capacity ? capacity : context, err);
    if (status != LUTRA_OK) {
        lutra_session_close(s);
        return status;
    }
    *out = s;
    return LUTRA_OK;
}

void lutra_session_close(lutra_session *s)
{
    if (!s)
        return;
    lu_kv_close(&s->kv);
    lu_forward_close(s->forward);
    lu_free(s->ids);
    lu_free(s->logits);
    lu_free(s);
}

int64_t lutra_session_length(const lutra_session *s) { return s->length; }

int64_t lutra_session_capacity(const lutra_session *s) { return s->kv.capacity; }

static lutra_status check_ids(const lutra_session *s, const int32_t *ids, int64_t n, lutra_err *err)
{
    const int64_t vocab = s->model->config.vocab_size;
    if (n < 1)
        return lu_fail(err, LUTRA_E_ARG, "%" PRId64 " tokens given, expected at least 1", n);
    if (n > s->kv.capacity - s->length)
        return lu_fail(err, LUTRA_E_LIMIT,
                       "%" PRId64 " tokens after %" PRId64
                       " exceed the session's capacity of %" PRId64,
                       n, s->length, s->kv.capacity);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return lu_fail(err, LUTRA_E_ARG,
                           "token id %" PRId32 " at index %" PRId64
                           " is outside the vocabulary of %" PRId64,
                           ids[i], i, vocab);
    return LUTRA_OK;
}

/* Runs tokens at [pos, pos + n). logits as lutra_session_feed says. */
static lutra_status run_tokens(lutra_session *s, int64_t pos, const int32_t *ids, int64_t n,
                               bool all, float *logits, lutra_err *err)
{
    const int64_t vocab = s->model->config.vocab_size, step = lu_forward_max_rows(s->forward);
    for (int64_t done = 0; done < n;) {
        const int64_t rows = n - done < step ? n - done : step;
        const lu_segment segment = {.kv = &s->kv, .pos = pos + done, .ids = ids + done, .n = rows};
        if (s->written < pos + done + rows)
            s->written = pos + done + rows;
        LU_TRY(lu_forward_run(s->forward, &segment, 1, err));
        if (logits && all)
            LU_TRY(lu_forward_logits(s->forward, 0, rows, logits + done * vocab, err));
        else if (logits && done + rows == n)
            LU_TRY(lu_forward_logits(s->forward, rows - 1, 1, logits, err));
        done += rows;
    }
    return LUTRA_OK;
}

/* Where the cache went further than it can go back (kv.h), it is made again from the tokens. */
static lutra_status restore(lutra_session *s, lutra_err *err)
{
    if (s->written - s->length <= s->kv.slack)
        return LUTRA_OK;
    s->written = INT64_MAX; /* also if this is cancelled */
    LU_TRY(run_tokens(s, 0, s->ids, s->length, false, NULL, err));
    s->written = s->length;
    return LUTRA_OK;
}

lutra_status lutra_session_feed(lutra_session *s, const int32_t *ids, int64_t n, bool all,
                                float *logits, lutra_err *err)
{
    LU_TRY(check_ids(s, ids, n, err));
    LU_TRY(restore(s, err));
    LU_TRY(run_tokens(s, s->length, ids, n, all, logits, err));
    memcpy(s->ids + s->length, ids, (size_t)n * sizeof *ids);
    s->length += n;
    return LUTRA_OK;
}

int64_t lutra_session_kv_bytes(const lutra_session *s) { return (int64_t)s->kv.bytes; }

lutra_status lutra_session_truncate(lutra_session *s, int64_t n, lutra_err *err)
{
    if (n < 0 || n > s->length)
        return lu_fail(err, LUTRA_E_ARG, "cannot keep %" PRId64 " tokens of a session of %" PRId64,
                       n, s->length);
    s->length = n;
    return LUTRA_OK;
}
