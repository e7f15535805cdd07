/* chat_render.c - the public face of chat templates: the configuration a tokenizer holds, rendered.
 */
#include "lutra/text.h"
#include "text/tokenizer.h"

bool lutra_has_chat_template(const lutra_tokenizer *t)
{
    return lu_tokenizer_chat(t)->chat_template != NULL;
}

lutra_status lutra_chat_render(const lutra_tokenizer *t, const lutra_message *messages,
                               int n_messages, bool add_generation_prompt, char **text, size_t *n,
                               lutra_err *err)
{
    return lu_chat_render(lu_tokenizer_chat(t), messages, n_messages, add_generation_prompt, text,
                          n, err);
}
