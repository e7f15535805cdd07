/* test_json.c - JSON as Python writes it, positions in messages, typed getters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "support/alloc_sweep.h"

static json_t *parse(const char *text)
{
    json_t *v = NULL;
    lutra_err err = {0};
    if (lu_json_parse("input", text, strlen(text), true, &v, &err) != LUTRA_OK)
        fail_msg("%s: %s", text, err.msg);
    return v;
}

static void refused(const char *text, const char *position)
{
    json_t *v = NULL;
    lutra_err err = {0};
    if (lu_json_parse("input", text, strlen(text), true, &v, &err) != LUTRA_E_FORMAT)
        fail_msg("%s is not refused", text);
    assert_null(v);
    if (!strstr(err.msg, position))
        fail_msg("%s: expected %s in '%s'", text, position, err.msg);
    assert_null(strchr(err.msg, '\n'));
}

static void numbers_are_read_as_python_writes_them(void **state)
{
    (void)state;
    json_t *v =
        parse("{\"eps\": 1e-05, \"theta\": 500000.0, \"neg\": -7, \"max\": 9223372036854775807,"
              " \"min\": -9223372036854775808, \"huge\": 1000000000000000019884624838656,"
              " \"over\": 9223372036854775808}");
    double x = 0;
    int64_t i = 0;
    assert_int_equal(lu_json_float("input", v, "eps", &x, NULL), LUTRA_OK);
    assert_true(x == 1e-5);
    assert_int_equal(lu_json_int("input", v, "theta", &i, NULL), LUTRA_OK);
    assert_int_equal(i, 500000);
    assert_int_equal(lu_json_float("input", v, "neg", &x, NULL), LUTRA_OK);
    assert_true(x == -7);
    assert_int_equal(lu_json_int("input", v, "max", &i, NULL), LUTRA_OK);
    assert_true(i == INT64_MAX);
    assert_int_equal(lu_json_int("input", v, "min", &i, NULL), LUTRA_OK);
    assert_true(i == INT64_MIN);
    assert_int_equal(lu_json_float("input", v, "huge", &x, NULL), LUTRA_OK);
    assert_true(x == 1e30);
    assert_int_equal(lu_json_int("input", v, "huge", &i, NULL), LUTRA_E_FORMAT);
    assert_int_equal(lu_json_int("input", v, "over", &i, NULL), LUTRA_E_FORMAT);
    assert_true(i == INT64_MIN); /* untouched */
    json_decref(v);
}

static void nonfinite_literals_are_floats_and_nothing_else(void **state)
{
    (void)state;
    json_t *v =
        parse("{\"a\":NaN,\"b\": Infinity ,\"c\":-Infinity,\"d\":[NaN,[-Infinity]],\"s\":\"NaN\"}");
    double x = 0;
    assert_int_equal(lu_json_float("input", v, "a", &x, NULL), LUTRA_OK);
    assert_true(isnan(x));
    assert_int_equal(lu_json_float("input", v, "b", &x, NULL), LUTRA_OK);
    assert_true(x == INFINITY);
    assert_int_equal(lu_json_float("input", v, "c", &x, NULL), LUTRA_OK);
    assert_true(x == -INFINITY);
    assert_int_equal(lu_json_float("input", v, "s", &x, NULL), LUTRA_E_FORMAT);
    assert_true(lu_json_nonfinite(json_array_get(json_object_get(v, "d"), 0), &x));
    int64_t i = 5;
    const char *s = "default";
    lutra_err err;
    assert_int_equal(lu_json_int("input", v, "a", &i, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "input: \"a\" is NaN, expected an integer");
    assert_int_equal(lu_json_string("input", v, "b", &s, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "input: \"b\" is Infinity, expected a string");
    assert_string_equal(s, "default");
    json_decref(v);
}

static void literals_inside_strings_are_text(void **state)
{
    (void)state;
    json_t *v = parse("{\"a\\\"NaN\":\"x NaN -Infinity \\\\\",\"b\":\"12345678901234567890\"}");
    assert_string_equal(json_string_value(json_object_get(v, "a\"NaN")), "x NaN -Infinity \\");
    assert_string_equal(json_string_value(json_object_get(v, "b")), "12345678901234567890");
    json_decref(v);
}

static void a_dump_writes_the_literals_back(void **state)
{
    (void)state;
    const char text[] = "{\"a\":NaN,\"b\":[Infinity,-Infinity],\"s\":\"NaN\",\"t\":\"\\\"q\"}";
    json_t *v = parse(text);
    size_t size;
    char *out = lu_json_dump(v, JSON_COMPACT, &size);
    assert_string_equal(out, text);
    assert_int_equal(size, strlen(text));
    lu_free(out);
    json_decref(v);
}

static void syntax_errors_give_line_and_column_of_the_original(void **state)
{
    (void)state;
    refused("", "line 1, column 1");
    refused("{\"a\": }", "line 1, column 7");
    refused("{\n  \"a\": 1,\n  \"b\" 2\n}", "line 3, column 7");
    /* after rewritten literals, which are longer than what the file has */
    refused("[NaN, Infinity, NaN, x]", "line 1, column 22");
    refused("[10000000000000000000,\nNaN, x]", "line 2, column 6");
    refused("{\"a\": 1, \"a\": 2}", "line 1");
    refused("[1] 2", "line 1, column 5");
    refused("[\"\x01\"]", "line 1");
    refused("[\"\xff\xfe\"]", "line 1");
    refused("{NaN: 1}", "line 1, column 4");
    refused("[-NaN]", "line 1");
    refused("[Nan]", "line 1");
    refused("[1e999]", "line 1");
    refused("[\"", "line 1");
    refused("[\"\\", "line 1");
}

static void duplicates_are_refused_only_on_request(void **state)
{
    (void)state;
    const char text[] = "{\"a\":1,\"a\":2}";
    json_t *v = NULL;
    assert_int_equal(lu_json_parse("input", text, strlen(text), true, &v, NULL), LUTRA_E_FORMAT);
    assert_int_equal(lu_json_parse("input", text, strlen(text), false, &v, NULL), LUTRA_OK);
    json_decref(v);
}

static void a_depth_bomb_is_refused(void **state)
{
    (void)state;
    const size_t n = 4u << 20;
    char *text = malloc(n);
    assert_non_null(text);
    memset(text, '[', n);
    json_t *v = NULL;
    assert_int_equal(lu_json_parse("bomb", text, n, true, &v, NULL), LUTRA_E_FORMAT);
    for (size_t i = 0; i + 5 <= n; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    assert_int_equal(lu_json_parse("bomb", text, n, true, &v, NULL), LUTRA_E_FORMAT);
    free(text);
}

static void every_prefix_of_a_document_is_refused_in_bounds(void **state)
{
    (void)state;
    const char text[] =
        "{\"a\\n\":[NaN,-Infinity,12345678901234567890,1e-05],\"b\":{\"c\":\"\\u00e9\"}}";
    for (size_t n = 0; n < strlen(text); n++) {
        char *copy = malloc(n ? n : 1); /* exact size: a sanitizer sees a read past the end */
        json_t *v = NULL;
        memcpy(copy, text, n);
        assert_int_equal(lu_json_parse("input", copy, n, true, &v, NULL), LUTRA_E_FORMAT);
        free(copy);
    }
}

static void missing_and_null_members_keep_the_default(void **state)
{
    (void)state;
    json_t *v = parse("{\"n\": null}");
    static const char *const keys[] = {"n", "absent"};
    for (int k = 0; k < 2; k++) {
        int64_t i = 3;
        double x = 0.5;
        bool b = true;
        const char *s = "d";
        assert_int_equal(lu_json_int("input", v, keys[k], &i, NULL), LUTRA_OK);
        assert_int_equal(lu_json_float("input", v, keys[k], &x, NULL), LUTRA_OK);
        assert_int_equal(lu_json_bool("input", v, keys[k], &b, NULL), LUTRA_OK);
        assert_int_equal(lu_json_string("input", v, keys[k], &s, NULL), LUTRA_OK);
        assert_true(i == 3 && x == 0.5 && b && strcmp(s, "d") == 0);
    }
    json_decref(v);
}

static void a_wrong_type_is_named(void **state)
{
    (void)state;
    json_t *v = parse("{\"s\":\"x\",\"i\":1,\"r\":0.5,\"o\":{},\"l\":[],\"t\":true}");
    int64_t i;
    double x;
    bool b;
    const char *s;
    lutra_err err;
    assert_int_equal(lu_json_int("c.json", v, "s", &i, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "c.json: \"s\" is a string, expected an integer");
    assert_int_equal(lu_json_int("c.json", v, "r", &i, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "c.json: \"r\" is 0.5, expected an integer");
    assert_int_equal(lu_json_float("c.json", v, "t", &x, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "c.json: \"t\" is true, expected a number");
    assert_int_equal(lu_json_bool("c.json", v, "i", &b, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "c.json: \"i\" is an integer, expected true or false");
    assert_int_equal(lu_json_string("c.json", v, "l", &s, &err), LUTRA_E_FORMAT);
    assert_string_equal(err.msg, "c.json: \"l\" is an array, expected a string");
    json_decref(v);
}

static void loading_names_the_file(void **state)
{
    (void)state;
    json_t *v = NULL;
    lutra_err err;
    assert_int_equal(lu_json_load("models/llama-8m/config.json", &v, &err), LUTRA_OK);
    json_decref(v);
    assert_int_equal(lu_json_load("no/such/config.json", &v, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, "no/such/config.json"));
}

static lutra_status parse_nan(void *unused)
{
    json_t *v = NULL;
    (void)unused;
    const lutra_status status = lu_json_parse("input", "[NaN]", 5, true, &v, NULL);
    json_decref(v);
    return status;
}

static void parsing_survives_every_failed_allocation(void **state)
{
    (void)state;
    assert_true(fail_each_allocation(parse_nan, NULL) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_as_python_writes_them),
        cmocka_unit_test(nonfinite_literals_are_floats_and_nothing_else),
        cmocka_unit_test(literals_inside_strings_are_text),
        cmocka_unit_test(a_dump_writes_the_literals_back),
        cmocka_unit_test(syntax_errors_give_line_and_column_of_the_original),
        cmocka_unit_test(duplicates_are_refused_only_on_request),
        cmocka_unit_test(a_depth_bomb_is_refused),
        cmocka_unit_test(every_prefix_of_a_document_is_refused_in_bounds),
        cmocka_unit_test(missing_and_null_members_keep_the_default),
        cmocka_unit_test(a_wrong_type_is_named),
        cmocka_unit_test(loading_names_the_file),
        cmocka_unit_test(parsing_survives_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
