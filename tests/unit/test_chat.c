/* test_chat.c - conversations rendered: the project's test models as transformers renders them
   (tests/fixtures/chat/models.json), templates in the manner of known families as Jinja2 renders
   them (family_cases.json), and the folder's files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "support/alloc_sweep.h"
#include "support/synthetic_checkpoint.h"
#include "text/chat.h"

#define MAX_MESSAGES 16

static lu_chat_config config_of(json_t *row)
{
    return (lu_chat_config){
        .chat_template = (char *)json_string_value(json_object_get(row, "chat_template")),
        .bos_token = (char *)json_string_value(json_object_get(row, "bos_token")),
        .eos_token = (char *)json_string_value(json_object_get(row, "eos_token")),
        .unk_token = (char *)json_string_value(json_object_get(row, "unk_token")),
        .pad_token = (char *)json_string_value(json_object_get(row, "pad_token")),
    };
}

static bool renders_as_expected(const char *name, const lu_chat_config *config, json_t *chat)
{
    lutra_message messages[MAX_MESSAGES];
    json_t *list = json_object_get(chat, "messages");
    const size_t count = json_array_size(list);
    assert_true(count <= MAX_MESSAGES);
    for (size_t i = 0; i < count; i++) {
        json_t *m = json_array_get(list, i);
        messages[i].role = json_string_value(json_object_get(m, "role"));
        messages[i].content = json_string_value(json_object_get(m, "content"));
    }
    const char *want = json_string_value(json_object_get(chat, "text"));
    const char *refusal = json_string_value(json_object_get(chat, "error"));
    char *text = NULL, message[600];
    size_t n = 0;
    lutra_err err = {0};
    const lutra_status status = lu_chat_render(
        config, messages, (int)count, json_is_true(json_object_get(chat, "add_generation_prompt")),
        &text, &n, &err);
    bool same;
    if (want) {
        same = status == LUTRA_OK && n == strlen(want) && strcmp(text, want) == 0;
    } else if (refusal) {
        snprintf(message, sizeof message, "chat template: %s", refusal);
        same = status == LUTRA_E_ARG && strcmp(err.msg, message) == 0;
    } else { /* what Jinja2 itself trips over */
        same = status == LUTRA_E_FORMAT && text == NULL;
    }
    if (!same)
        print_error("%s:\n%s\nexpected:\n%s\n", name, text ? text : err.msg, want ? want : refusal);
    lu_free(text);
    return same;
}

static void check_file(const char *path, size_t at_least)
{
    json_t *rows = NULL, *row, *chat;
    size_t i, k, seen = 0, wrong = 0;
    assert_int_equal(lu_json_load(path, &rows, NULL), LUTRA_OK);
    json_array_foreach(rows, i, row)
    {
        const lu_chat_config config = config_of(row);
        json_array_foreach(json_object_get(row, "chat"), k, chat)
        {
            wrong += !renders_as_expected(json_string_value(json_object_get(row, "name")), &config,
                                          chat);
            seen++;
        }
    }
    json_decref(rows);
    assert_int_equal(wrong, 0);
    assert_true(seen >= at_least);
}

static void the_test_models_render_as_in_transformers(void **state)
{
    (void)state;
    check_file("tests/fixtures/chat/models.json", 24);
}

static void known_families_render_as_in_jinja(void **state)
{
    (void)state;
    check_file("tests/fixtures/chat/family_cases.json", 100);
}

static void unusable_arguments_are_refused(void **state)
{
    (void)state;
    char template[] = "{{ messages }}";
    const lutra_message hole = {"user", NULL};
    lu_chat_config c = {0};
    lutra_err err;
    char *text = NULL;
    size_t n;
    assert_int_equal(lu_chat_render(&c, NULL, 0, false, &text, &n, &err), LUTRA_E_ARG);
    assert_string_equal(err.msg, "model has no chat template, give it plain text");
    c.chat_template = template;
    assert_int_equal(lu_chat_render(&c, NULL, 1, false, &text, &n, &err), LUTRA_E_ARG);
    assert_int_equal(lu_chat_render(&c, &hole, 1, false, &text, &n, &err), LUTRA_E_ARG);
    assert_string_equal(err.msg, "message 0 has no content");
    assert_null(text);
}

/* --- folders -------------------------------------------------------------------------------- */

static char folder[SYN_PATH];

static int make_folder(void **state)
{
    (void)state;
    syn_temp(folder);
    return 0;
}

static int drop_folder(void **state)
{
    (void)state;
    syn_delete(folder);
    return 0;
}

static void put(const char *name, const char *text) { syn_text(folder, name, text); }

static void a_folder_without_files_has_no_template(void **state)
{
    (void)state;
    lu_chat_config c = {0};
    assert_int_equal(lu_chat_config_load(folder, &c, NULL), LUTRA_OK);
    assert_null(c.chat_template);
    assert_null(c.bos_token);
    lu_chat_config_free(&c);
    lu_chat_config_free(NULL);
}

static void tokens_may_be_strings_or_objects(void **state)
{
    (void)state;
    lu_chat_config c;
    put("tokenizer_config.json",
        "{\"bos_token\": {\"content\": \"<s>\", \"lstrip\": false}, \"eos_token\": \"</s>\","
        "\"pad_token\": null, \"chat_template\": \"{{ bos_token }}x\"}");
    assert_int_equal(lu_chat_config_load(folder, &c, NULL), LUTRA_OK);
    assert_string_equal(c.bos_token, "<s>");
    assert_string_equal(c.eos_token, "</s>");
    assert_null(c.pad_token);
    assert_null(c.unk_token);
    assert_string_equal(c.chat_template, "{{ bos_token }}x");
    lu_chat_config_free(&c);
}

static void of_named_templates_the_default_is_taken(void **state)
{
    (void)state;
    lu_chat_config c;
    put("tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"t\"},"
        "{\"name\": \"default\", \"template\": \"d\"}]}");
    assert_int_equal(lu_chat_config_load(folder, &c, NULL), LUTRA_OK);
    assert_string_equal(c.chat_template, "d");
    lu_chat_config_free(&c);
}

static void the_template_file_wins(void **state)
{
    (void)state;
    lu_chat_config c;
    put("tokenizer_config.json", "{\"chat_template\": \"old\", \"eos_token\": \"e\"}");
    put("chat_template.jinja", "new\n");
    assert_int_equal(lu_chat_config_load(folder, &c, NULL), LUTRA_OK);
    assert_string_equal(c.chat_template, "new\n");
    assert_string_equal(c.eos_token, "e");
    lu_chat_config_free(&c);
}

static void malformed_configs_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const configs[] = {"[1]",
                                          "{\"bos_token\": 3}",
                                          "{\"eos_token\": {\"id\": 3}}",
                                          "{\"chat_template\": 5}",
                                          "{\"chat_template\": []}",
                                          "{"};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        lu_chat_config c = {0};
        lutra_err err = {0};
        put("tokenizer_config.json", configs[i]);
        assert_int_equal(lu_chat_config_load(folder, &c, &err), LUTRA_E_FORMAT);
        assert_non_null(strstr(err.msg, "tokenizer_config.json"));
        assert_null(c.chat_template);
    }
}

static void a_tokenizer_renders_with_its_folder(void **state)
{
    (void)state;
    const lutra_message messages[] = {{"user", "a"}};
    lutra_tokenizer *t = NULL;
    lutra_err err = {0};
    char *text = NULL;
    size_t n = 0;
    put("tokenizer.json",
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}}");
    put("tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
    assert_int_equal(lutra_tokenizer_open(folder, &t, &err), LUTRA_OK);
    assert_false(lutra_has_chat_template(t));
    assert_int_equal(lutra_chat_render(t, messages, 1, true, &text, &n, &err), LUTRA_E_ARG);
    lutra_tokenizer_close(t);
    put("chat_template.jinja",
        "{{ bos_token }}{{ messages[0].content }}{{ add_generation_prompt }}");
    assert_int_equal(lutra_tokenizer_open(folder, &t, &err), LUTRA_OK);
    assert_true(lutra_has_chat_template(t));
    assert_int_equal(lutra_chat_render(t, messages, 1, true, &text, &n, &err), LUTRA_OK);
    assert_string_equal(text, "<s>aTrue");
    assert_int_equal(n, 8);
    lutra_free(text);
    lutra_tokenizer_close(t);
}

static lutra_status load_and_render(void *unused)
{
    const lutra_message messages[] = {{"user", "a"}, {"assistant", "b"}};
    lu_chat_config c = {0};
    char *text = NULL;
    size_t size;
    (void)unused;
    lutra_status status = lu_chat_config_load(folder, &c, NULL);
    if (status == LUTRA_OK)
        status = lu_chat_render(&c, messages, 2, true, &text, &size, NULL);
    if (status == LUTRA_OK)
        assert_string_equal(text, "<s>USER: a\nASSISTANT: b\n");
    lu_free(text);
    lu_chat_config_free(&c);
    return status;
}

static void loading_and_rendering_survive_every_failed_allocation(void **state)
{
    (void)state;
    put("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}");
    put("chat_template.jinja",
        "{{ bos_token }}{% for m in messages %}{{ m.role|upper }}: {{ m.content }}\n{% endfor %}");
    assert_true(fail_each_allocation(load_and_render, NULL) > 0);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_test_models_render_as_in_transformers),
        cmocka_unit_test(known_families_render_as_in_jinja),
        cmocka_unit_test(unusable_arguments_are_refused),
        IN_FOLDER(a_folder_without_files_has_no_template),
        IN_FOLDER(tokens_may_be_strings_or_objects),
        IN_FOLDER(of_named_templates_the_default_is_taken),
        IN_FOLDER(the_template_file_wins),
        IN_FOLDER(malformed_configs_are_refused_by_name),
        IN_FOLDER(a_tokenizer_renders_with_its_folder),
        IN_FOLDER(loading_and_rendering_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
