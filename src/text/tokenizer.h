/* tokenizer.h - inside of a tokenizer: what the chat side and the tests reach beyond lutra/text.h.
 */
#ifndef LU_TEXT_TOKENIZER_H
#define LU_TEXT_TOKENIZER_H

#include "text/bpe.h"
#include "text/chat.h"
#include "text/parts.h"

struct lutra_tokenizer {
    lu_vocab vocab;
    lu_bpe bpe;
    lu_added added;
    lu_normalizer normalizer;
    lu_pretokenizer pretokenizer;
    lu_postprocessor postprocessor;
    lu_decoder decoder;
    lu_chat_config chat;
};

/* Opens a tokenizer from the text of a tokenizer.json, without chat configuration. `what` names the
   text in messages. */
lutra_status lu_tokenizer_parse(const char *what, const char *text, size_t n, lutra_tokenizer **out,
                                lutra_err *err);

/* Puts the piece of an id through a decoding: nothing for an id without a piece, or a special one
   when skip_special. */
lutra_status lu_tokenizer_push(const lutra_tokenizer *t, lu_decoding *d, int32_t id,
                               bool skip_special, lutra_err *err);

#endif
