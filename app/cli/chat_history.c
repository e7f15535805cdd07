/* chat_history.c - messages, and the token ids the session's KV cache holds. A turn feeds only what
   the cache does not hold yet: the rendered conversation is encoded afresh and compared with what
   was fed. Where they part (a template that rewrites earlier turns, an answer that encodes
   differently than it was generated) the cache is cut back to the common beginning.
   Invariant: fed[0..n_fed) is what the session holds. */
#include "chat_history.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

lutra_status chat_history_open(chat_history *h, const char *system, lutra_err *err)
{
    memset(h, 0, sizeof *h);
    h->has_system = system != NULL;
    return system ? chat_history_add(h, "system", system, err) : LUTRA_OK;
}

static void drop(chat_history *h, int at)
{
    char *content = (char *)(uintptr_t)h->messages[at].content; /* ours: see chat_history_add */
    lu_free(content);
    h->n--;
    memmove(h->messages + at, h->messages + at + 1, (size_t)(h->n - at) * sizeof *h->messages);
}

void chat_history_close(chat_history *h)
{
    while (h->n > 0)
        drop(h, h->n - 1);
    lu_free(h->messages);
    lu_free(h->fed);
}

lutra_status chat_history_add(chat_history *h, const char *role, const char *content,
                              lutra_err *err)
{
    if (h->n == h->room) {
        const int room = h->room * 2 + 16;
        lutra_message *more = lu_resize(h->messages, (size_t)room * sizeof *more);
        if (!more)
            return lu_fail_nomem(err, (size_t)room * sizeof *more);
        h->messages = more;
        h->room = room;
    }
    char *copy = lu_strdup(content);
    if (!copy)
        return lu_fail_nomem(err, strlen(content));
    h->messages[h->n++] = (lutra_message){role, copy};
    return LUTRA_OK;
}

void chat_history_drop_last(chat_history *h)
{
    if (h->n > 0)
        drop(h, h->n - 1);
}

bool chat_history_drop_oldest(chat_history *h)
{
    const int first = h->has_system ? 1 : 0;
    if (h->n - first <= 1)
        return false;
    do
        drop(h, first);
    while (h->n - first > 1 && strcmp(h->messages[first].role, "user") != 0);
    return true;
}

void chat_history_clear(chat_history *h)
{
    while (h->n > (h->has_system ? 1 : 0))
        drop(h, h->n - 1);
}

lutra_status chat_history_encode(const chat_history *h, const lutra_tokenizer *t, int32_t **ids,
                                 int64_t *n, lutra_err *err)
{
    char *text;
    size_t length;
    LU_TRY(lutra_chat_render(t, h->messages, h->n, true, &text, &length, err));
    const lutra_status status = lutra_encode(t, text, length, false, ids, n, err);
    lutra_free(text);
    return status;
}

lutra_status chat_history_rewind(chat_history *h, lutra_session *s, const int32_t *ids, int64_t n,
                                 int64_t *common, lutra_err *err)
{
    int64_t same = 0;
    while (same < h->n_fed && same < n - 1 && h->fed[same] == ids[same])
        same++;
    LU_TRY(lutra_session_truncate(s, same, err));
    h->n_fed = same;
    *common = same;
    return LUTRA_OK;
}

lutra_status chat_history_fed(chat_history *h, const lutra_session *s, const int32_t *ids,
                              int64_t n, const int32_t *more, int64_t m, lutra_err *err)
{
    if (n + m > h->fed_room) {
        const int64_t room = (n + m) * 2;
        int32_t *grown = lu_resize(h->fed, (size_t)room * sizeof *grown);
        if (!grown)
            return lu_fail_nomem(err, (size_t)room * sizeof *grown);
        h->fed = grown;
        h->fed_room = room;
    }
    memcpy(h->fed, ids, (size_t)n * sizeof *ids);
    if (m > 0)
        memcpy(h->fed + n, more, (size_t)m * sizeof *more);
    const int64_t held = lutra_session_length(s); /* the last token may not have been fed */
    h->n_fed = held < n + m ? held : n + m;
    return LUTRA_OK;
}

lutra_status chat_history_save(const chat_history *h, const char *path, lutra_err *err)
{
    json_t *list = json_array();
    bool complete = list != NULL;
    for (int i = 0; i < h->n; i++) {
        json_error_t why;
        json_t *m = json_pack_ex(&why, 0, "{s:s, s:s}", "role", h->messages[i].role, "content",
                                 h->messages[i].content);
        if (!m && json_error_code(&why) == json_error_invalid_utf8) {
            json_decref(list);
            return lu_fail(err, LUTRA_E_FORMAT, "message %d is not UTF-8, which JSON cannot hold",
                           i + 1);
        }
        complete = json_array_append_new(list, m) == 0 && complete;
    }
    char *text = complete ? lu_json_dump(list, JSON_INDENT(2), NULL) : NULL;
    json_decref(list);
    if (!text)
        return lu_fail_nomem(err, 0);
    const lutra_status status = lu_file_write(path, text, strlen(text), err);
    lu_free(text);
    return status;
}
