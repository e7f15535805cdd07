/* test_checkpoint.c - model folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "io/checkpoint.h"

static void the_demo_model_opens_sorted_and_mapped(void **state)
{
    (void)state;
    lutra_checkpoint *c;
    lutra_err err = {0};
    const lutra_status status = lutra_checkpoint_open(NULL, "models/llama-8m", &c, &err);
    if (status != LUTRA_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(lu_checkpoint_n_shards(c), 2);
    for (int64_t i = 1; i < lutra_checkpoint_count(c); i++)
        assert_true(strcmp(lutra_checkpoint_name(c, i - 1), lutra_checkpoint_name(c, i)) < 0);
    const lu_st_entry *e = lu_checkpoint_find(c, "model.embed_tokens.weight");
    assert_non_null(e);
    assert_int_equal(e->view.dtype, LUTRA_BF16);
    assert_int_equal(e->view.shape[0], 8192);
    assert_int_equal(e->view.bytes, 8192 * 256 * 2);
    assert_null(lu_checkpoint_find(c, "model.embed_tokens.weigh"));
    assert_non_null(strstr(lutra_checkpoint_config(c), "LlamaForCausalLM"));
    lutra_checkpoint_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_demo_model_opens_sorted_and_mapped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
