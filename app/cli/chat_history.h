/* chat_history.h - the turns of a conversation and what of them the model has already read. */
#ifndef LUTRA_CLI_CHAT_HISTORY_H
#define LUTRA_CLI_CHAT_HISTORY_H

#include "loading.h"

typedef struct chat_history {
    lutra_message *messages; /* role: static text; content: owned */
    int n, room;
    bool has_system; /* messages[0] is the system prompt */
    int32_t *fed;    /* ids the session holds, in order */
    int64_t n_fed, fed_room;
} chat_history;

lutra_status chat_history_open(chat_history *h, const char *system, lutra_err *err);
void chat_history_close(chat_history *h);

/* Adds a message; content is copied. role: a string constant. */
lutra_status chat_history_add(chat_history *h, const char *role, const char *content,
                              lutra_err *err);
void chat_history_drop_last(chat_history *h);
/* Removes the oldest user message and the answers to it. false: only the last message is left. */
bool chat_history_drop_oldest(chat_history *h);
void chat_history_clear(chat_history *h); /* keeps the system prompt */

/* Renders the conversation with the model's template and encodes it. *ids: lutra_free. */
lutra_status chat_history_encode(const chat_history *h, const lutra_tokenizer *t, int32_t **ids,
                                 int64_t *n, lutra_err *err);

/* Cuts the session back to what it has in common with ids and leaves at least one id to feed.
 *common: how many of ids need not be fed again. */
lutra_status chat_history_rewind(chat_history *h, lutra_session *s, const int32_t *ids, int64_t n,
                                 int64_t *common, lutra_err *err);
/* Notes that ids [n] and then more [m] went to the session, of which it holds the beginning. */
lutra_status chat_history_fed(chat_history *h, const lutra_session *s, const int32_t *ids,
                              int64_t n, const int32_t *more, int64_t m, lutra_err *err);

/* Writes the messages as a JSON list of {"role", "content"}. */
lutra_status chat_history_save(const chat_history *h, const char *path, lutra_err *err);

#endif
