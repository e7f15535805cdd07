/* chat.c - chat_template and special tokens of a tokenizer folder, and messages rendered with them.
   The variables are those of Hugging Face's apply_chat_template: messages, add_generation_prompt,
   tools and documents (none), and the special tokens that the folder names. */
#include "text/chat.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/jinja_value.h"
#include "text/tokenizer.h"

#define MAX_TEMPLATE ((size_t)1 << 20)

/* --- the folder ----------------------------------------------------------------------------- */

static lutra_status keep(const char *s, char **out, lutra_err *err)
{
    *out = lu_strdup(s);
    return *out ? LUTRA_OK : lu_fail_nomem(err, strlen(s) + 1);
}

/* A string, or an object whose "content" is it; null and a missing key leave *out NULL. */
static lutra_status load_token(const char *path, json_t *root, const char *key, char **out,
                               lutra_err *err)
{
    json_t *value = json_object_get(root, key);
    const char *s =
        json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    if (s)
        return keep(s, out, err);
    if (!value || json_is_null(value))
        return LUTRA_OK;
    return lu_fail(err, LUTRA_E_FORMAT,
                   "%s: \"%s\" is neither a string nor an object with a string \"content\"", path,
                   key);
}

/* Of a list of named templates, the one named "default", else the first. */
static lutra_status load_template(const char *path, json_t *root, char **out, lutra_err *err)
{
    json_t *value = json_object_get(root, "chat_template"), *entry, *chosen = NULL;
    size_t i;
    if (!value || json_is_null(value))
        return LUTRA_OK;
    if (json_is_array(value)) {
        json_array_foreach(value, i, entry)
        {
            const char *name = json_string_value(json_object_get(entry, "name"));
            if (!chosen || (name && strcmp(name, "default") == 0))
                chosen = json_object_get(entry, "template");
        }
        value = chosen;
    }
    if (!json_is_string(value))
        return lu_fail(err, LUTRA_E_FORMAT,
                       "%s: \"chat_template\" is neither a string nor a list of named templates",
                       path);
    return keep(json_string_value(value), out, err);
}

static lutra_status load_config(const char *path, lu_chat_config *out, lutra_err *err)
{
    json_t *root = NULL;
    if (!lu_path_exists(path))
        return LUTRA_OK;
    LU_TRY(lu_json_load(path, &root, err));
    const struct {
        const char *key;
        char **to;
    } tokens[] = {{"bos_token", &out->bos_token},
                  {"eos_token", &out->eos_token},
                  {"unk_token", &out->unk_token},
                  {"pad_token", &out->pad_token}};
    lutra_status status =
        json_is_object(root) ? LUTRA_OK : lu_fail(err, LUTRA_E_FORMAT, "%s: not an object", path);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens && status == LUTRA_OK; i++)
        status = load_token(path, root, tokens[i].key, tokens[i].to, err);
    if (status == LUTRA_OK && !out->chat_template)
        status = load_template(path, root, &out->chat_template, err);
    json_decref(root);
    return status;
}

static lutra_status load_file(const char *path, lu_chat_config *out, lutra_err *err)
{
    size_t n;
    if (!lu_path_exists(path))
        return LUTRA_OK;
    return lu_file_read(path, MAX_TEMPLATE, &out->chat_template, &n, err);
}

lutra_status lu_chat_config_load(const char *folder, lu_chat_config *out, lutra_err *err)
{
    lu_chat_config c = {0};
    lutra_status status = LUTRA_OK;
    char *file = lu_path_join(folder, "chat_template.jinja");
    char *config = lu_path_join(folder, "tokenizer_config.json");
    if (!file || !config)
        status = lu_fail_nomem(err, strlen(folder) + 32);
    if (status == LUTRA_OK)
        status = load_file(file, &c, err);
    if (status == LUTRA_OK)
        status = load_config(config, &c, err);
    lu_free(file);
    lu_free(config);
    if (status != LUTRA_OK) {
        lu_chat_config_free(&c);
        return status;
    }
    *out = c;
    return LUTRA_OK;
}

void lu_chat_config_free(lu_chat_config *c)
{
    if (!c)
        return;
    lu_free(c->chat_template);
    lu_free(c->bos_token);
    lu_free(c->eos_token);
    lu_free(c->unk_token);
    lu_free(c->pad_token);
    *c = (lu_chat_config){0};
}

/* --- the render ----------------------------------------------------------------------------- */

typedef struct chat {
    const lu_chat_config *config;
    const lutra_message *messages;
    int n_messages;
    bool add_generation_prompt;
} chat;

static void define_variables(lu_jenv *env, void *arg)
{
    const chat *c = arg;
    const lu_jv list = lu_j_list(env, J_LIST);
    for (int i = 0; i < c->n_messages; i++) {
        const lu_jv message = lu_j_dict(env, J_DICT);
        lu_j_set_text(env, message.dict, "role", lu_j_text(c->messages[i].role));
        lu_j_set_text(env, message.dict, "content", lu_j_text(c->messages[i].content));
        lu_j_append(env, list.list, message);
    }
    lu_j_global(env, "messages", list);
    lu_j_global(env, "add_generation_prompt", lu_j_bool(c->add_generation_prompt));
    lu_j_global(env, "tools", lu_j_none());
    lu_j_global(env, "documents", lu_j_none());
    const struct {
        const char *name, *token;
    } tokens[] = {{"bos_token", c->config->bos_token},
                  {"eos_token", c->config->eos_token},
                  {"unk_token", c->config->unk_token},
                  {"pad_token", c->config->pad_token}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (tokens[i].token)
            lu_j_global(env, tokens[i].name, lu_j_text(tokens[i].token));
}

lutra_status lu_chat_render(const lu_chat_config *c, const lutra_message *messages, int n_messages,
                            bool add_generation_prompt, char **text, size_t *n, lutra_err *err)
{
    if (!c->chat_template)
        return lu_fail(err, LUTRA_E_ARG, "model has no chat template, give it plain text");
    if (n_messages < 0 || (n_messages && !messages))
        return lu_fail(err, LUTRA_E_ARG, "messages: count %d without messages", n_messages);
    for (int i = 0; i < n_messages; i++)
        if (!messages[i].role || !messages[i].content)
            return lu_fail(err, LUTRA_E_ARG, "message %d has no %s", i,
                           messages[i].role ? "content" : "role");
    chat request = {c, messages, n_messages, add_generation_prompt};
    return lu_jinja_render(c->chat_template, strlen(c->chat_template), define_variables, &request,
                           NULL, text, n, err);
}

bool lutra_has_chat_template(const lutra_tokenizer *t) { return t->chat.chat_template != NULL; }

lutra_status lutra_chat_render(const lutra_tokenizer *t, const lutra_message *messages,
                               int n_messages, bool add_generation_prompt, char **text, size_t *n,
                               lutra_err *err)
{
    return lu_chat_render(&t->chat, messages, n_messages, add_generation_prompt, text, n, err);
}
