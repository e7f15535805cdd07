/* lutra/text.h - tokenizer, chat template, streaming decoder. */
#ifndef LUTRA_TEXT_H
#define LUTRA_TEXT_H

#include "lutra/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lutra_tokenizer lutra_tokenizer;

/* Opens tokenizer.json (and tokenizer_config.json, chat_template.jinja where present) of a model
   folder. Fails with E_IO, E_FORMAT, E_UNSUPPORTED naming the part that is not known. An open
   tokenizer is read only: several threads may use it. */
LUTRA_API lutra_status lutra_tokenizer_open(const char *folder, lutra_tokenizer **out, lutra_err *err);
LUTRA_API void lutra_tokenizer_close(lutra_tokenizer *t);

LUTRA_API int64_t lutra_tokenizer_vocab_size(const lutra_tokenizer *t); /* largest id + 1 */
LUTRA_API int32_t lutra_tokenizer_id(const lutra_tokenizer *t, const char *token); /* -1: none */
LUTRA_API const char *lutra_tokenizer_piece(const lutra_tokenizer *t, int32_t id);  /* NULL: none */
LUTRA_API bool lutra_tokenizer_is_special(const lutra_tokenizer *t, int32_t id);

/* Encodes n bytes of UTF-8 (invalid bytes become U+FFFD). add_special: what the post-processor
   adds (BOS). *ids is allocated (lutra_free). Special tokens inside the text are recognised.
   E_LIMIT for more than 2^30 bytes, and where the tokenizer's regex backtracks beyond measure. */
LUTRA_API lutra_status lutra_encode(const lutra_tokenizer *t, const char *text, size_t n,
                                    bool add_special, int32_t **ids, int64_t *n_ids, lutra_err *err);

/* Decodes to UTF-8; *text is NUL-terminated and allocated (lutra_free), *n excludes the NUL. An id
   without a piece decodes to nothing (models have more rows than their tokenizers have pieces); a
   negative id is E_ARG. */
LUTRA_API lutra_status lutra_decode(const lutra_tokenizer *t, const int32_t *ids, int64_t n_ids,
                                    bool skip_special, char **text, size_t *n, lutra_err *err);

/* --- chat ----------------------------------------------------------------------------------- */

typedef struct lutra_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content;
} lutra_message;

LUTRA_API bool lutra_has_chat_template(const lutra_tokenizer *t);

/* Renders messages with the model's chat template (Jinja, as Hugging Face renders it). *text as in
   lutra_decode. The template writes BOS itself: encode with add_special = false. What the template
   refuses (raise_exception) is E_ARG with its message, as is a tokenizer without a template; a
   broken template is E_FORMAT, one that uses what is not known E_UNSUPPORTED, one that takes too
   much time or memory E_LIMIT. */
LUTRA_API lutra_status lutra_chat_render(const lutra_tokenizer *t, const lutra_message *messages,
                                         int n_messages, bool add_generation_prompt, char **text,
                                         size_t *n, lutra_err *err);

/* --- streaming ------------------------------------------------------------------------------ */

typedef struct lutra_stream lutra_stream;

/* A decoder that takes one id at a time and gives out text that is safe to show: never part of a
   UTF-8 character, never the beginning of a stop string. stops: n_stops strings, copied; one that
   is empty or not UTF-8 is E_ARG. The stop string that is complete first wins, of several that end
   together the longest. */
LUTRA_API lutra_status lutra_stream_open(const lutra_tokenizer *t, bool skip_special,
                                         const char *const *stops, int n_stops, lutra_stream **out,
                                         lutra_err *err);
/* *text (NUL-terminated, owned by the stream, valid until the next call) is the new text, maybe
   empty; *stopped is set once a stop string was met: it and all after it are left out. Ids as in
   lutra_decode. E_ARG after lutra_stream_flush. */
LUTRA_API lutra_status lutra_stream_push(lutra_stream *s, int32_t id, const char **text, size_t *n,
                                         bool *stopped, lutra_err *err);
/* Gives out what is held back; incomplete characters become U+FFFD. */
LUTRA_API lutra_status lutra_stream_flush(lutra_stream *s, const char **text, size_t *n, lutra_err *err);
LUTRA_API void lutra_stream_close(lutra_stream *s);

#ifdef __cplusplus
}
#endif
#endif
