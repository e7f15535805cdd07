/* session.c - feeding tokens of one sequence. Long inputs run in passes of bounded size; the length
   moves only when all of them are done, so a refused or cancelled feed leaves the session as it was
   (the cache rows written meanwhile are behind its end). Nothing is allocated after opening. */
#include "engine/session.h"

#include <inttypes.h>
#include <string.h>

#include "base/context.h"
#include "base/mem.h"

static lutra_status open_into(lutra_session *s, int64_t capacity, lutra_err *err)
{
    const int64_t vocab = s->model->config.vocab_size;
    const int64_t most = s->model->gpu ? LU_GPU_FORWARD_ROWS : LU_FORWARD_ROWS;
    LU_TRY(lu_kv_open(s->model, capacity, &s->kv, err));
    const int64_t rows = capacity < most ? capacity : most;
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

lutra_status lutra_session_feed(lutra_session *s, const int32_t *ids, int64_t n, bool all,
                                float *logits, lutra_err *err)
{
    const int64_t vocab = s->model->config.vocab_size, step = lu_forward_max_rows(s->forward);
    LU_TRY(check_ids(s, ids, n, err));
    for (int64_t done = 0; done < n;) {
        const int64_t rows = n - done < step ? n - done : step;
        const lu_segment segment = {
            .kv = &s->kv, .pos = s->length + done, .ids = ids + done, .n = rows};
        LU_TRY(lu_forward_run(s->forward, &segment, 1, err));
        if (logits && all)
            LU_TRY(lu_forward_logits(s->forward, 0, rows, logits + done * vocab, err));
        else if (logits && done + rows == n)
            LU_TRY(lu_forward_logits(s->forward, rows - 1, 1, logits, err));
        done += rows;
    }
    memcpy(s->ids + s->length, ids, (size_t)n * sizeof *ids);
    s->length += n;
    return LUTRA_OK;
}

lutra_status lutra_session_truncate(lutra_session *s, int64_t n, lutra_err *err)
{
    if (n < 0 || n > s->length)
        return lu_fail(err, LUTRA_E_ARG, "cannot keep %" PRId64 " tokens of a session of %" PRId64,
                       n, s->length);
    s->length = n;
    return LUTRA_OK;
}
