/* Recipes: what they say, what is refused and how; the tables of parameters keep their own rules.
 */
#include "support/expect.h"

#include <stdio.h>
#include <string.h>

#include "calib/out_folder.h"
#include "calib/recipe_parts.h"

static lutra_recipe *parse(const char *text)
{
    lutra_recipe *r = NULL;
    lutra_err err = {0};
    must(lutra_recipe_parse("r.yaml", text, strlen(text), &r, &err), &err);
    return r;
}

static void passes_have_settings_and_targets(void **state)
{
    (void)state;
    lutra_recipe *r = parse("# why\n"
                            "format: int3:g128:asym\n"
                            "range: mse\n"
                            "ignore: [lm_head, \"*.layers.0.*\"]\n"
                            "passes:\n"
                            "  - method: gptq\n"
                            "    damp: 0.05\n"
                            "    act_order: no\n"
                            "    modules: ['*.mlp.*']\n"
                            "    layers: 0-3,7\n"
                            "    format: nf4:g64\n"
                            "  - {method: rtn, modules: '*o_proj'}\n");
    lutra_format f;
    lutra_range range;
    const char *const *ignore;
    int n_ignore;
    assert_true(lutra_recipe_format(r, &f) && f.bits == 3 && f.group_size == 128 && f.zero_point);
    assert_true(lutra_recipe_range(r, &range) && range == LUTRA_RANGE_MSE);
    assert_true(lutra_recipe_ignore(r, &ignore, &n_ignore) && n_ignore == 2);
    assert_string_equal(ignore[1], "*.layers.0.*");
    assert_true(lutra_recipe_needs_data(r));
    assert_int_equal(r->n_passes, 2);
    assert_true(r->passes[0].has_format && r->passes[0].format.bits == 4);
    assert_false(r->passes[1].has_format);
    const lu_recipe_pass *gptq = &r->passes[0], *rtn = &r->passes[1];
    assert_ptr_equal(lu_recipe_rounds(r, "model.layers.3.mlp.up_proj", 3), gptq);
    assert_ptr_equal(lu_recipe_rounds(r, "model.layers.7.mlp.up_proj", 7), gptq);
    assert_null(lu_recipe_rounds(r, "model.layers.4.mlp.up_proj", 4));
    assert_ptr_equal(lu_recipe_rounds(r, "model.layers.4.self_attn.o_proj", 4), rtn);
    lutra_recipe_free(r);
}

static void inputs_have_a_say(void **state)
{
    (void)state;
    const char *spec = "", *rule = "";
    double percentile = 0;
    lutra_recipe *r = parse("activations: int8\n"
                            "activation_range: percentile\n"
                            "activation_percentile: 99.5\n"
                            "passes: [{method: rtn}]\n");
    assert_true(lutra_recipe_activations(r, &spec));
    assert_string_equal(spec, "int8:token");
    assert_true(lutra_recipe_activation_range(r, &rule));
    assert_string_equal(rule, "percentile");
    assert_true(lutra_recipe_activation_percentile(r, &percentile) && percentile == 99.5);
    assert_false(lutra_recipe_needs_data(r)); /* each row has its own scale */
    lutra_recipe_free(r);
    r = parse("passes: [{method: rtn, activations: int8:tensor:asym}, {method: rtn}]\n");
    assert_false(lutra_recipe_activations(r, &spec) || lutra_recipe_activation_range(r, &rule) ||
                 lutra_recipe_activation_percentile(r, &percentile));
    assert_true(r->passes[0].has_act && r->passes[0].act.zero_point);
    assert_false(r->passes[1].has_act);
    assert_true(lutra_recipe_needs_data(r)); /* for the fixed scale */
    lutra_recipe_free(r);
    r = parse("activations: none\npasses: [{method: rtn}]\n");
    assert_true(lutra_recipe_activations(r, &spec));
    assert_string_equal(spec, "none");
    assert_false(lutra_recipe_needs_data(r));
    lutra_recipe_free(r);
}

static void methods_alone_are_recipes(void **state)
{
    (void)state;
    lutra_recipe *r = NULL;
    lutra_err err = {0};
    const char *const settings[] = {"damp=0.5", "act_order=false"};
    must(lutra_recipe_of_method("gptq", settings, 2, &r, &err), &err);
    assert_int_equal(r->n_passes, 1);
    lutra_format f;
    assert_false(lutra_recipe_format(r, &f));
    lutra_recipe_free(r);
    must(lutra_recipe_of_method("rtn", NULL, 0, &r, &err), &err);
    assert_false(lutra_recipe_needs_data(r));
    lutra_recipe_free(r);
    const char *const bad[] = {"damp"};
    assert_int_equal(lutra_recipe_of_method("gptq", bad, 1, &r, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_recipe_of_method("gtpq", NULL, 0, &r, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "did you mean gptq"));
}

static void slips_are_named_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        lutra_status status;
        const char *words;
    } cases[] = {
        {"", LUTRA_E_ARG, "holds no recipe"},
        {"- a\n", LUTRA_E_ARG, "holds no recipe"},
        {"passes: [", LUTRA_E_FORMAT, "r.yaml:"},
        {"\tpasses: 1", LUTRA_E_FORMAT, "r.yaml:1"},
        {"format: int3\n", LUTRA_E_ARG, "has no \"passes\""},
        {"passes: []\n", LUTRA_E_ARG, "at least one pass"},
        {"passes: gptq\n", LUTRA_E_ARG, "at least one pass"},
        {"passes: [gptq]\n", LUTRA_E_ARG, "expected \"method: ...\""},
        {"passes: [{damp: 1}]\n", LUTRA_E_ARG, "has no \"method\""},
        {"passes:\n - method: gtpq\n", LUTRA_E_ARG,
         "r.yaml:2: unknown method 'gtpq', did you mean gptq"},
        {"passes:\n - method: gptq\n   dmap: 1\n", LUTRA_E_ARG,
         "r.yaml:3: unknown key 'dmap', did you mean damp"},
        {"passes:\n - method: gptq\n   modles: x\n", LUTRA_E_ARG, "did you mean modules"},
        {"pases: []\n", LUTRA_E_ARG, "unknown key 'pases', did you mean passes"},
        {"passes:\n - method: gptq\n   damp: 2\n", LUTRA_E_ARG,
         "r.yaml:3: damp is '2', expected a number from 0 to 1"},
        {"passes:\n - method: gptq\n   damp: .nan\n", LUTRA_E_ARG, "damp is '.nan'"},
        {"passes:\n - method: gptq\n   damp: nan\n", LUTRA_E_ARG, "damp is 'nan'"},
        {"passes:\n - method: gptq\n   damp: [1]\n", LUTRA_E_ARG, "damp is not a single value"},
        {"passes:\n - method: gptq\n   act_order: 2\n", LUTRA_E_ARG, "expected true or false"},
        {"passes:\n - method: gptq\n   block_size: 1.5\n", LUTRA_E_ARG, "a whole number"},
        {"passes:\n - method: gptq\n   damp: 1\n   damp: 1\n", LUTRA_E_ARG,
         "r.yaml:4: key 'damp' stands there twice"},
        {"passes:\n - method: gptq\n   layers: 3-1\n", LUTRA_E_ARG, "layers is '3-1'"},
        {"passes:\n - method: gptq\n   layers: -1\n", LUTRA_E_ARG, "layers is '-1'"},
        {"passes:\n - method: gptq\n   layers: 1,\n", LUTRA_E_ARG, "layers is '1,'"},
        {"passes:\n - method: gptq\n   layers: 99999999999999999999\n", LUTRA_E_ARG, "layers is"},
        {"passes:\n - method: gptq\n   format: nf44\n", LUTRA_E_ARG, "r.yaml:3: unknown codebook"},
        {"range: max\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "expected minmax or mse"},
        {"passes: [{method: rtn}]\nignore: {a: b}\n", LUTRA_E_ARG, "ignore is not a single value"},
        {"passes: [{method: \"rtn\\0x\"}]\n", LUTRA_E_ARG, "not a single value"},
        {"activations: int9\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "r.yaml:1: activation format"},
        {"passes: [{method: rtn, activations: [int8]}]\n", LUTRA_E_ARG, "not a single value"},
        {"passes:\n - method: awq\n   activations: int8\n", LUTRA_E_ARG, "r.yaml:3: activations: awq"},
        {"activation_range: mime\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "r.yaml:1: unknown range rule"},
        {"activation_percentile: 50\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "'50', expected above 50"},
        {"activation_percentile: nan\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "'nan', expected above"},
        {"activation: int8\npasses: [{method: rtn}]\n", LUTRA_E_ARG, "did you mean activations"},
        {"? [a]\n: b\n", LUTRA_E_ARG, "a key is not a single value"},
        {"a: &x [*x]\n", LUTRA_E_ARG, "unknown key 'a'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lutra_recipe *r = NULL;
        lutra_err err = {0};
        const lutra_status got =
            lutra_recipe_parse("r.yaml", cases[i].text, strlen(cases[i].text), &r, &err);
        if (got != cases[i].status || !strstr(err.msg, cases[i].words))
            fail_msg("case %zu: %s: %s, expected: %s", i, lutra_status_text(got), err.msg,
                     cases[i].words);
        assert_null(r);
    }
}

static void transforms_after_rounding_are_refused(void **state)
{
    (void)state;
    const lutra_method *transform = NULL;
    for (int i = 0; lutra_method_at(i); i++)
        if (lutra_method_at(i)->kind == LUTRA_METHOD_TRANSFORM)
            transform = lutra_method_at(i);
    if (!transform)
        skip();
    char text[200];
    lutra_recipe *r = NULL;
    lutra_err err = {0};
    snprintf(text, sizeof text, "passes: [{method: rtn}, {method: %s}]\n", transform->name);
    assert_int_equal(lutra_recipe_parse("r", text, strlen(text), &r, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "comes after rtn"));
    snprintf(text, sizeof text, "passes: [{method: rtn, layers: 0}, {method: %s, layers: 1}]\n",
             transform->name);
    must(lutra_recipe_parse("r", text, strlen(text), &r, &err), &err);
    lutra_recipe_free(r);
}

/* Defaults lie in their ranges, names are keys of their own, every method says what it is. */
static void tables_keep_their_own_rules(void **state)
{
    (void)state;
    static const char *const taken[] = {"method", "modules", "layers", "format", "range"};
    int n = 0;
    for (; lutra_method_at(n); n++) {
        const lutra_method *m = lutra_method_at(n);
        const lu_pass *p = lu_pass_at(n);
        uint8_t settings[1024];
        assert_true(*m->name && *m->summary && m->source && p->settings_size <= sizeof settings);
        assert_ptr_equal(lu_pass_find(m->name), p);
        lu_pass_defaults(p, settings);
        assert_true(!m->needs_data || p->needs);
        assert_true(p->seam || p->site || p->block);
        for (const lutra_param *q = m->params; q->name; q++) {
            for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
                assert_string_not_equal(q->name, taken[i]);
            for (const lutra_param *o = m->params; o < q; o++)
                assert_string_not_equal(q->name, o->name);
            assert_true(*q->help && q->offset < p->settings_size);
            if (q->type == LUTRA_PARAM_INT || q->type == LUTRA_PARAM_REAL)
                assert_true(q->lo <= q->dflt && q->dflt <= q->hi);
            if (q->type == LUTRA_PARAM_CHOICE)
                assert_true(q->choices && *q->choices);
        }
    }
    assert_true(n >= 2);
}

static lutra_status load_one(void *arg, const char *folder, const char *name, lutra_err *err)
{
    char path[256];
    lutra_recipe *r = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    LU_TRY(lutra_recipe_load(path, &r, err));
    lutra_recipe_free(r);
    ++*(int *)arg;
    return LUTRA_OK;
}

static void shipped_recipes_are_understood(void **state)
{
    (void)state;
    int n = 0;
    lutra_err err = {0};
    must(lu_folder_list("recipes", load_one, &n, &err), &err);
    assert_true(n >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_have_settings_and_targets),
        cmocka_unit_test(inputs_have_a_say),
        cmocka_unit_test(methods_alone_are_recipes),
        cmocka_unit_test(slips_are_named_with_their_line),
        cmocka_unit_test(transforms_after_rounding_are_refused),
        cmocka_unit_test(tables_keep_their_own_rules),
        cmocka_unit_test(shipped_recipes_are_understood),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
