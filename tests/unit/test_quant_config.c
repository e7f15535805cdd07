/* test_quant_config.c - the quantization_config object: round trip, strictness, foreign methods. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "io/checkpoint.h"
#include "support/alloc_sweep.h"

static char *three_modules[] = {"model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj",
                                "model.layers.10.mlp.up_proj"};

static json_t *config_of_scheme(const lu_scheme *s)
{
    lu_quant_config q = {.n_schemes = 0};
    for (int i = 2; i >= 0; i--) /* writing sorts */
        assert_int_equal(lu_quant_config_add(&q, three_modules[i], s, NULL), LUTRA_OK);
    json_t *written = lu_quant_config_write(&q);
    lu_quant_config_free(&q);
    assert_non_null(written);
    return json_pack("{s:s, s:o}", "model_type", "llama", "quantization_config", written);
}

static json_t *config_of(const lutra_format *f)
{
    const lu_scheme s = {.format = *f};
    return config_of_scheme(&s);
}

static json_t *nf4_config(void)
{
    lutra_format f;
    assert_int_equal(lutra_format_parse("nf4:g64:f16", &f, NULL), LUTRA_OK);
    return config_of(&f);
}

static json_t *quant(json_t *config) { return json_object_get(config, "quantization_config"); }

static json_t *scheme(json_t *config)
{
    return json_array_get(json_object_get(quant(config), "schemes"), 0);
}

static lutra_status read(json_t *config, lutra_err *err)
{
    lu_quant_config q;
    bool found;
    const lutra_status status = lu_quant_config_read(config, &found, &q, err);
    if (status == LUTRA_OK)
        lu_quant_config_free(&q);
    return status;
}

/* Writes s, turns it to text and back, reads it. */
static void round_trip_scheme(const lu_scheme *s)
{
    json_t *config = config_of_scheme(s), *again;
    size_t size;
    char *text = lu_json_dump(config, JSON_INDENT(1), &size);
    assert_non_null(text);
    assert_int_equal(lu_json_parse("text", text, size, true, &again, NULL), LUTRA_OK);
    lu_quant_config q;
    bool found = false;
    lutra_err err = {0};
    if (lu_quant_config_read(again, &found, &q, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    assert_true(found);
    assert_int_equal(q.n_schemes, 1);
    assert_true(lu_scheme_equal(&q.schemes[0], s));
    assert_int_equal(q.n_modules, 3);
    for (int i = 0; i < 3; i++) {
        assert_string_equal(q.modules[i].name, three_modules[i]);
        assert_ptr_equal(lu_quant_config_find(&q, three_modules[i]), &q.schemes[0]);
    }
    assert_null(lu_quant_config_find(&q, "model.layers.0.mlp"));
    lu_quant_config_free(&q);
    lu_free(text);
    json_decref(again);
    json_decref(config);
}

static void round_trip(const lutra_format *f)
{
    const lu_scheme s = {.format = *f};
    round_trip_scheme(&s);
}

static void every_kind_of_scheme_survives_the_round_trip(void **state)
{
    (void)state;
    static const char *const acts[] = {"none",      "int8:token",       "int4:token:asym",
                                       "int8:g128", "int8:tensor:asym", "int6:tensor"};
    for (size_t a = 0; a < sizeof acts / sizeof *acts; a++)
        for (int flags = 0; flags < 8; flags++) {
            lu_scheme s = {.column_groups = flags & 1, .outlier_columns = flags & 2};
            const char *spec = flags & 4 ? "km3:g64:rows128:bf16" : "int4:g128:asym";
            assert_int_equal(lutra_format_parse(spec, &s.format, NULL), LUTRA_OK);
            assert_int_equal(lu_act_format_parse(acts[a], &s.act, NULL), LUTRA_OK);
            round_trip_scheme(&s);
        }
}

static void equal_schemes_are_listed_once(void **state)
{
    (void)state;
    static const char *const specs[] = {"nf4:g64", "int8:channel", "nf4:g64", "nf4:g32",
                                        "int8:channel"};
    lu_quant_config q = {.n_schemes = 0}, again;
    for (int i = 0; i < 5; i++) {
        lu_scheme s = {.format = {.bits = 0}};
        char name[8] = {(char)('e' - i)};
        assert_int_equal(lutra_format_parse(specs[i], &s.format, NULL), LUTRA_OK);
        assert_int_equal(lu_quant_config_add(&q, name, &s, NULL), LUTRA_OK);
    }
    assert_int_equal(q.n_schemes, 3);
    json_t *config = json_pack("{s:o}", "quantization_config", lu_quant_config_write(&q));
    bool found;
    assert_int_equal(lu_quant_config_read(config, &found, &again, NULL), LUTRA_OK);
    for (int i = 0; i < 5; i++) {
        char name[8] = {(char)('e' - i)}, spec[64];
        lutra_format_spec(&lu_quant_config_find(&again, name)->format, spec, sizeof spec);
        assert_memory_equal(spec, specs[i], strlen(specs[i]));
    }
    lu_quant_config_free(&again);
    lu_quant_config_free(&q);
    json_decref(config);
}

static void every_built_in_format_survives_the_round_trip(void **state)
{
    (void)state;
    static const char *const parts[] = {"", ":g32:f32", ":channel:bf16", ":g128:asym"};
    for (int i = 0; i < lutra_codebook_count(); i++)
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
            char spec[64];
            lutra_format f;
            snprintf(spec, sizeof spec, "%s%s", lutra_codebook_name(i), parts[j]);
            if (lutra_format_parse(spec, &f, NULL) == LUTRA_OK) /* asym is for integers only */
                round_trip(&f);
        }
}

static void a_users_table_survives_to_the_last_bit(void **state)
{
    (void)state;
    const float values[8] = {-0.1f, 1.0f / 3, 0x1.fffffep-1f, -0.0f, 3e-12f, 0x1p-149f, -7.7e5f, 5};
    lutra_format f;
    assert_int_equal(lutra_format_from_table(values, 8, 32, LUTRA_BF16, &f, NULL), LUTRA_OK);
    round_trip(&f);
    json_t *config = config_of(&f);
    assert_string_equal(json_string_value(json_object_get(scheme(config), "format")),
                        "table3:g32:bf16");
    json_decref(config);
}

static void an_unquantized_config_is_not_found(void **state)
{
    (void)state;
    bool found = true;
    json_t *config = json_pack("{s:s}", "model_type", "llama");
    assert_int_equal(lu_quant_config_read(config, &found, NULL, NULL), LUTRA_OK);
    assert_false(found);
    found = true;
    json_object_set_new(config, "quantization_config", json_null());
    assert_int_equal(lu_quant_config_read(config, &found, NULL, NULL), LUTRA_OK);
    assert_false(found);
    json_decref(config);
}

static void a_foreign_method_is_unsupported_by_name(void **state)
{
    (void)state;
    static const char *const methods[] = {"gptq", "awq",          "compressed-tensors",
                                          "fp8",  "bitsandbytes", ""};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        lutra_err err;
        json_t *config = json_pack("{s:{s:s}}", "quantization_config", "quant_method", methods[i]);
        assert_int_equal(read(config, &err), LUTRA_E_UNSUPPORTED);
        assert_non_null(strstr(err.msg, methods[i]));
        json_decref(config);
    }
}

static void unknown_members_are_ignored(void **state)
{
    (void)state;
    json_t *config = nf4_config();
    json_object_set_new(quant(config), "note", json_string("x"));
    json_object_set_new(scheme(config), "note", json_string("x"));
    assert_int_equal(read(config, NULL), LUTRA_OK);
    json_decref(config);
}

static void every_missing_or_wrongly_typed_member_is_named(void **state)
{
    (void)state;
    static const char *const keys[] = {"quant_method", "version",    "schemes",    "modules",
                                       "format",       "bits",       "group_size", "symmetric",
                                       "scale_dtype",  "absmax_ref", "table",      "learned",
                                       "table_rows",   "g_idx",      "activations"};
    const size_t of_config = 4, optional = 11; /* where these begin in the list */
    static const char *const values[] = {NULL,    "null", "{}",  "[{}]",
                                         "\"x\"", "0.5",  "NaN", "1e300"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            json_t *config = nf4_config();
            json_t *object = i < of_config ? quant(config) : scheme(config);
            const bool absent = !values[j] || strcmp(values[j], "null") == 0;
            if ((absent && i >= optional) || /* and an empty "modules" is fine */
                (strcmp(keys[i], "modules") == 0 && values[j] && strcmp(values[j], "{}") == 0)) {
                json_decref(config);
                continue;
            }
            json_object_del(object, keys[i]);
            if (values[j]) {
                char text[32];
                json_t *list;
                const int n = snprintf(text, sizeof text, "[%s]", values[j]);
                assert_int_equal(lu_json_parse("v", text, (size_t)n, true, &list, NULL), LUTRA_OK);
                json_object_set(object, keys[i], json_array_get(list, 0));
                json_decref(list);
            }
            lutra_err err = {0};
            const lutra_status status = read(config, &err);
            if (status == LUTRA_OK)
                fail_msg("%s = %s is accepted", keys[i], values[j] ? values[j] : "(absent)");
            if (!strstr(err.msg, keys[i]))
                fail_msg("%s = %s: message does not name it: %s", keys[i],
                         values[j] ? values[j] : "(absent)", err.msg);
            json_decref(config);
        }
}

/* A module's number must name a scheme, and no scheme stands twice. */
static void schemes_that_are_equal_are_refused(void **state)
{
    (void)state;
    json_t *config = nf4_config();
    lutra_err err;
    json_array_append(json_object_get(quant(config), "schemes"), scheme(config));
    assert_int_equal(read(config, &err), LUTRA_E_FORMAT);
    assert_non_null(strstr(err.msg, "0 and 1 are equal"));
    json_decref(config);
}

static void a_learned_table_belongs_to_its_codebook(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *word;
        bool learned;
    } cases[] = {
        {"nf4:g64:f16", "nf4", true},    /* no table, and learned ones are kmB */
        {"km4:g64:f16", "table", false}, /* no table, and not learned */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = nf4_config();
        lutra_err err = {0};
        json_object_del(scheme(config), "table");
        json_object_set_new(scheme(config), "learned", json_boolean(cases[i].learned));
        json_object_set_new(scheme(config), "format", json_string(cases[i].spec));
        assert_int_equal(read(config, &err), LUTRA_E_FORMAT);
        if (!strstr(err.msg, cases[i].word))
            fail_msg("%s: %s", cases[i].spec, err.msg);
        json_decref(config);
    }
}

/* One change to a good config and a word of the message it must give; NULL: it is fine. */
static void contradictions_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *value, *word;
    } cases[] = {
        {"version", "2", "version 2"},
        {"format", "\"nf4:g128:f16\"", "nf4:g64:f16"},
        {"format", "\"nf4\"", "nf4:g64:f16"},
        {"format", "\"int4:g64:f16\"", "int4"},
        {"format", "\"nf5:g64:f16\"", "nf5"},
        {"format", "\"table3:g64:f16\"", "table3"},
        {"bits", "3", "table"},
        {"bits", "9", "bits"},
        {"group_size", "60", "group"},
        {"group_size", "-64", "group"},
        {"group_size", "128", "nf4:g128:f16"},
        {"symmetric", "false", "zero point"},
        {"scale_dtype", "\"float16\"", "scale_dtype"},
        {"scale_dtype", "\"BF16\"", "nf4:g64:bf16"},
        {"scale_dtype", "\"F64\"", "F64"},
        {"absmax_ref", "0", "absmax_ref"},
        {"absmax_ref", "2.0", "absmax_ref"},
        {"table", "[0,1,2,3]", "16"},
        {"table", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", "nf4"},
        {"table", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,NaN]", "15"},
        {"table", "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,1e39,15]", "14"},
        {"table", "[\"0\",1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", "value 0"},
        {"table", "null", "table"},
        {"learned", "true", "\"table\" is given"},
        {"learned", "false", NULL},
        {"table_rows", "64", "table"},
        {"table_rows", "0", NULL},
        {"g_idx", "true", NULL},
        {"outlier_columns", "1", "outlier_columns"},
        {"activations", "\"int8:row\"", "int8:row"},
        {"activations", "\"int8:token\"", NULL},
        {"activations", "\"int8\"", "int8:token"},
        {"activations", "\"int8:tensor:static\"", "int8:tensor"},
        {"modules", "{\"a\": 1}", "'a'"},
        {"modules", "{\"a\": -1}", "'a'"},
        {"modules", "{\"a\": \"nf4\"}", "'a'"},
        {"modules", "{\"a\": null}", "'a'"},
        {"modules", "{\"\": 0}", "empty"},
        {"modules", "[]", "modules"},
        {"modules", "{}", NULL},
        {"schemes", "[]", "schemes"},
        {"schemes", "[3]", "schemes[0]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = nf4_config(), *list;
        char text[128];
        const int n = snprintf(text, sizeof text, "[%s]", cases[i].value);
        assert_int_equal(lu_json_parse("v", text, (size_t)n, true, &list, NULL), LUTRA_OK);
        const bool outer = json_object_get(quant(config), cases[i].key) != NULL;
        json_object_set(outer ? quant(config) : scheme(config), cases[i].key,
                        json_array_get(list, 0));
        lutra_err err = {0};
        const lutra_status status = read(config, &err);
        if (cases[i].word ? status == LUTRA_OK || !strstr(err.msg, cases[i].word)
                          : status != LUTRA_OK)
            fail_msg("%s = %s: status %d, %s", cases[i].key, cases[i].value, (int)status, err.msg);
        json_decref(list);
        json_decref(config);
    }
}

static lutra_status read_quietly(void *config) { return read(config, NULL); }

static void reading_survives_every_failed_allocation(void **state)
{
    (void)state;
    json_t *config = nf4_config();
    assert_true(fail_each_allocation(read_quietly, config) > 0);
    json_decref(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_built_in_format_survives_the_round_trip),
        cmocka_unit_test(a_users_table_survives_to_the_last_bit),
        cmocka_unit_test(an_unquantized_config_is_not_found),
        cmocka_unit_test(a_foreign_method_is_unsupported_by_name),
        cmocka_unit_test(unknown_members_are_ignored),
        cmocka_unit_test(every_missing_or_wrongly_typed_member_is_named),
        cmocka_unit_test(every_kind_of_scheme_survives_the_round_trip),
        cmocka_unit_test(equal_schemes_are_listed_once),
        cmocka_unit_test(schemes_that_are_equal_are_refused),
        cmocka_unit_test(a_learned_table_belongs_to_its_codebook),
        cmocka_unit_test(contradictions_are_refused),
        cmocka_unit_test(reading_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
