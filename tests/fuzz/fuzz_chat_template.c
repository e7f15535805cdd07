/* fuzz_chat_template.c - the input is a chat template, rendered for a short conversation.
   The limits are lower than the product's to keep each input quick; the code that enforces them is
   the same. */
#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "text/jinja_value.h"

static void define(lu_jenv *env, void *arg)
{
    (void)arg;
    static const char *const roles[] = {"system", "user", "assistant", "user"};
    static const char *const contents[] = {"Be brief.", " Hi \xf0\x9f\x98\x80\n",
                                           "<think>\nx\n</think>\n\n1.5", ""};
    const lu_jv list = lu_j_list(env, J_LIST);
    for (int i = 0; i < 4; i++) {
        const lu_jv message = lu_j_dict(env, J_DICT);
        lu_j_set_text(env, message.dict, "role", lu_j_text(roles[i]));
        lu_j_set_text(env, message.dict, "content", lu_j_text(contents[i]));
        lu_j_append(env, list.list, message);
    }
    lu_j_global(env, "messages", list);
    lu_j_global(env, "m", list.list->items[1]);
    lu_j_global(env, "add_generation_prompt", lu_j_bool(true));
    lu_j_global(env, "bos_token", lu_j_text("<s>"));
    lu_j_global(env, "eos_token", lu_j_text("</s>"));
    lu_j_global(env, "tools", lu_j_none());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lu_jinja_options options = lu_jinja_defaults;
    options.work = 200000;
    options.memory = (size_t)16 << 20;
    options.output = (size_t)1 << 20;
    options.now = 0;
    char *text = NULL;
    size_t n = 0;
    lutra_err err = {0};
    const lutra_status status =
        lu_jinja_render((const char *)data, size, define, NULL, &options, &text, &n, &err);
    REQUIRE(status != LUTRA_E_INTERNAL && status != LUTRA_E_NOMEM);
    if (status == LUTRA_OK)
        REQUIRE(text && strlen(text) <= n && n <= options.output);
    else
        REQUIRE(!text && err.msg[0] && !strchr(err.msg, '\n'));
    lu_free(text);
    return 0;
}
