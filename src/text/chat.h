/* chat.h - the chat side of a tokenizer folder: template source and special token strings. The
   template language is Jinja as Hugging Face uses it (jinja.h); lutra_chat_render is in chat.c. */
#ifndef LU_TEXT_CHAT_H
#define LU_TEXT_CHAT_H

#include "base/status.h"
#include "lutra/text.h"

/* Read from tokenizer_config.json and chat_template.jinja of a folder. Absent strings are NULL. */
typedef struct lu_chat_config {
    char *chat_template; /* the jinja file wins; of a list of named templates, "default" */
    char *bos_token, *eos_token, *unk_token, *pad_token;
} lu_chat_config;

/* Missing files are no error: all fields are then NULL. */
lutra_status lu_chat_config_load(const char *folder, lu_chat_config *out, lutra_err *err);
void lu_chat_config_free(lu_chat_config *c);

/* lutra_chat_render without the tokenizer object. */
lutra_status lu_chat_render(const lu_chat_config *c, const lutra_message *messages, int n_messages,
                            bool add_generation_prompt, char **text, size_t *n, lutra_err *err);

#endif
