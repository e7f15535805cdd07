/* test_cli_chat_history.c - conversations saved as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "chat_history.h"
#include "support/expect.h"
#include "support/synthetic_checkpoint.h"

static void messages_are_saved_in_order(void **state)
{
    (void)state;
    chat_history h;
    lutra_err err;
    json_t *saved;
    char folder[SYN_PATH], path[SYN_PATH + 16];
    syn_temp(folder);
    snprintf(path, sizeof path, "%s/saved.json", folder);
    must(chat_history_open(&h, "Be brief.", &err), &err);
    must(chat_history_add(&h, "user", "\"na\xC3\xAFve\"\n", &err), &err);
    must(chat_history_save(&h, path, &err), &err);
    must(lu_json_load(path, &saved, &err), &err);
    assert_int_equal(json_array_size(saved), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(saved, 0), "role")),
                        "system");
    assert_string_equal(json_string_value(json_object_get(json_array_get(saved, 1), "content")),
                        "\"na\xC3\xAFve\"\n");
    json_decref(saved);
    chat_history_close(&h);
    syn_delete(folder);
}

static void a_message_that_json_cannot_hold_is_refused_not_dropped(void **state)
{
    (void)state;
    chat_history h;
    lutra_err err;
    char folder[SYN_PATH], path[SYN_PATH + 16];
    syn_temp(folder);
    snprintf(path, sizeof path, "%s/saved.json", folder);
    must(chat_history_open(&h, NULL, &err), &err);
    must(chat_history_add(&h, "user", "caf\xE9", &err), &err);
    assert_int_equal(chat_history_save(&h, path, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "message 1 is not UTF-8"));
    assert_false(lu_path_exists(path));
    chat_history_close(&h);
    syn_delete(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_saved_in_order),
        cmocka_unit_test(a_message_that_json_cannot_hold_is_refused_not_dropped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
