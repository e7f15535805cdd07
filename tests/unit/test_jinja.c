/* test_jinja.c - the template language against Jinja2: tests/fixtures/chat/jinja_cases.json holds
   what Jinja2 itself made of each template (make_cases.py there); limits, error texts and failed
   allocations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/jinja_value.h"

static lu_jv from_json(lu_jenv *env, const json_t *j)
{
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        const lu_jv v = lu_j_dict(env, J_DICT);
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)j, key, value)
            lu_j_set_text(env, v.dict, key, from_json(env, value));
        return v;
    }
    case JSON_ARRAY: {
        const lu_jv v = lu_j_list(env, J_LIST);
        for (size_t i = 0; i < json_array_size(j); i++)
            lu_j_append(env, v.list, from_json(env, json_array_get(j, i)));
        return v;
    }
    case JSON_STRING: return lu_j_str((lu_jstr){json_string_value(j), json_string_length(j)});
    case JSON_INTEGER: return lu_j_int(json_integer_value(j));
    case JSON_REAL: return lu_j_float(json_real_value(j));
    case JSON_NULL: return lu_j_none();
    default: return lu_j_bool(json_is_true(j));
    }
}

static void define(lu_jenv *env, void *arg)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)arg, key, value) lu_j_global(env, key, from_json(env, value));
}

static lutra_status render(const char *template, json_t *context, const lu_jinja_options *options,
                           char **text, lutra_err *err)
{
    size_t n;
    *text = NULL;
    return lu_jinja_render(template, strlen(template), context ? define : NULL, context, options,
                           text, &n, err);
}

static json_t *cases(void)
{
    json_t *rows = NULL;
    lutra_err err = {0};
    if (lu_json_load("tests/fixtures/chat/jinja_cases.json", &rows, &err) != LUTRA_OK)
        print_error("%s\n", err.msg);
    assert_true(json_is_array(rows) && json_array_size(rows) > 100);
    return rows;
}

static bool agrees(json_t *row)
{
    const char *template = json_string_value(json_object_get(row, "template"));
    const char *want = json_string_value(json_object_get(row, "text"));
    const char *refused = json_string_value(json_object_get(row, "refused"));
    lutra_err err = {0};
    char *text, message[600];
    const lutra_status status =
        render(template, json_object_get(row, "context"), NULL, &text, &err);
    bool same;
    if (want) {
        same = status == LUTRA_OK && strcmp(text, want) == 0;
    } else if (refused) {
        snprintf(message, sizeof message, "chat template: %s", refused);
        same = status == LUTRA_E_ARG && strcmp(err.msg, message) == 0;
    } else {
        same = status == LUTRA_E_FORMAT || status == LUTRA_E_UNSUPPORTED || status == LUTRA_E_LIMIT;
        same = same && text == NULL && strncmp(err.msg, "chat template line 1: ", 22) == 0;
    }
    if (!same)
        print_error("template %s\n  gives %d %s\n  not   %s\n", template, (int)status,
                    text ? text : err.msg,
                    want ? want
                         : json_string_value(json_object_get(row, refused ? "refused" : "error")));
    lu_free(text);
    return same;
}

static void every_case_is_as_jinja_has_it(void **state)
{
    (void)state;
    json_t *rows = cases();
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(rows); i++)
        wrong += !agrees(json_array_get(rows, i));
    json_decref(rows);
    assert_int_equal(wrong, 0);
}

static void expect_failure(const char *template, const lu_jinja_options *options,
                           lutra_status status, const char *message)
{
    lutra_err err = {0};
    char *text;
    assert_int_equal(render(template, NULL, options, &text, &err), status);
    assert_string_equal(err.msg, message);
    assert_null(text);
}

static void messages_name_the_line_and_the_thing(void **state)
{
    (void)state;
    expect_failure("a\n\n{{ x|frob }}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 3: unknown filter 'frob'");
    expect_failure("{% if true %}\n{{ 1 is frob }}{% endif %}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 2: unknown test 'frob'");
    expect_failure("\n{% frob %}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 2: unknown statement 'frob'");
    expect_failure("{{ frob(1) }}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 1: unknown function 'frob'");
    expect_failure("{{ 'a'.frob() }}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 1: unknown method 'frob' of a string");
    expect_failure("{{ a.b }}", NULL, LUTRA_E_FORMAT, "chat template line 1: 'a' is undefined");
    expect_failure("{{ 'a'|trim(x=1) }}", NULL, LUTRA_E_UNSUPPORTED,
                   "chat template line 1: 'trim' has no argument 'x'");
    expect_failure("\n{% if 1 %}\n\n{{ 1 }}", NULL, LUTRA_E_FORMAT,
                   "chat template line 2: block is not closed, expected 'elif'");
    expect_failure("{{ raise_exception('No\nway') }}", NULL, LUTRA_E_ARG, "chat template: No way");
}

static lutra_status status_of(const char *template)
{
    lu_jinja_options o = lu_jinja_defaults;
    char *text;
    o.work /= 10; /* enough for what must pass, and quicker to run out of */
    const lutra_status status = render(template, NULL, &o, &text, NULL);
    lu_free(text);
    return status;
}

static void endless_templates_meet_a_limit(void **state)
{
    (void)state;
    static const char *const templates[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='0123456789') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s "
        "%}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set l = [] %}{{ l.append(l) }}{{ l }}",
        "{% set l = [] %}{{ l.append(l) }}{{ l|tojson }}",
        "{% set l = [] %}{% set k = [] %}{{ l.append(k) }}{{ k.append(l) }}{{ l == k }}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x' * 9999999999 }}",
        "{{ [0] * 9999999999 }}",
        "{{ '' * 9999999999 }}",
        "{{ range(9999999999) }}",
        "{{ 9223372036854775807 + 1 }}",
        "{{ 3 ** 99999999 }}",
        "{{ -9223372036854775807 - 2 }}",
        "{{ 99999999999999999999 }}",
        "{{ 'a'|indent(9999999999) }}",
        "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ "
        "s.count('aaaaaaaaaaaaaaaaaaaaaaaab') }}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s[-1] }}{% endfor %}",
        "{% set s = ' ' * 1000000 %}{% for i in range(99999) %}{{ s|trim }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        const double begin = (double)clock();
        const lutra_status status = status_of(templates[i]);
        if (status != LUTRA_E_LIMIT)
            print_error("%s\n", templates[i]);
        assert_int_equal(status, LUTRA_E_LIMIT);
        assert_true((clock() - begin) / CLOCKS_PER_SEC < 60); /* far above what any takes */
    }
}

/* Nesting of the source itself must not use up the stack either. */
static void deep_sources_meet_a_limit(void **state)
{
    (void)state;
    static const char *const pieces[] = {"(",
                                         "[",
                                         "{1:",
                                         "-",
                                         "not ",
                                         "a if a else ",
                                         "a[",
                                         "f(",
                                         "1+(",
                                         "{% if 1 %}",
                                         "{% for x in 1 %}"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        const size_t n = strlen(pieces[i]), times = 5000;
        char *source = lu_alloc(n * times + 8), *p = source;
        assert_non_null(source);
        const bool block = pieces[i][0] == '{' && pieces[i][1] == '%';
        p += sprintf(p, "%s", block ? "" : "{{ ");
        for (size_t k = 0; k < times; k++)
            p += sprintf(p, "%s", pieces[i]);
        sprintf(p, "%s", block ? "" : " }}");
        const lutra_status status = status_of(source);
        lu_free(source);
        assert_int_equal(status, LUTRA_E_LIMIT);
    }
}

/* Long but flat: operators and filters chain to the left without nesting in the source. */
static void long_chains_meet_a_limit_when_run(void **state)
{
    (void)state;
    static const char *const pieces[] = {" + 1", "|abs", ".a", "[0]", " and 1"};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        char source[60000], *p = source + sprintf(source, "{{ 1");
        for (size_t k = 0; k < 5000; k++)
            p += sprintf(p, "%s", pieces[i]);
        sprintf(p, " }}");
        assert_int_equal(status_of(source), LUTRA_E_LIMIT);
    }
}

static void each_limit_can_be_set(void **state)
{
    (void)state;
    lu_jinja_options o = lu_jinja_defaults;
    o.output = 10;
    expect_failure("{{ 'x' * 11 }}", &o, LUTRA_E_LIMIT,
                   "chat template line 1: text is longer than 10 bytes");
    o = lu_jinja_defaults;
    o.range = 3;
    expect_failure("{{ range(4) }}", &o, LUTRA_E_LIMIT,
                   "chat template line 1: range has more than 3 items");
    o = lu_jinja_defaults;
    o.work = 100;
    expect_failure("{% for x in range(100) %}{% endfor %}", &o, LUTRA_E_LIMIT,
                   "chat template line 1: evaluation takes too long");
    o = lu_jinja_defaults;
    o.memory = 20000;
    expect_failure("{{ 'x' * 50000 }}", &o, LUTRA_E_LIMIT,
                   "chat template line 1: values take too much memory");
}

static void dates_are_those_of_strftime(void **state)
{
    (void)state;
    lu_jinja_options o = lu_jinja_defaults;
    o.now = 1721995200; /* 2024-07-26 12:00 UTC: the 26th or, far east, the 27th */
    const time_t now = (time_t)o.now;
    struct tm local;
    char want[64], *text;
    assert_non_null(localtime_r(&now, &local));
    strftime(want, sizeof want, "[%d %b %Y|]", &local);
    assert_int_equal(
        render("[{{ strftime_now('%d %b %Y') }}|{{ strftime_now('') }}]", NULL, &o, &text, NULL),
        LUTRA_OK);
    assert_string_equal(text, want);
    lu_free(text);
    expect_failure("{{ strftime_now('%9999d') }}", &o, LUTRA_E_LIMIT,
                   "chat template line 1: strftime_now: date is longer than 1024 bytes");
}

static void append_changes_the_list(void **state)
{
    (void)state;
    char *text;
    assert_int_equal(
        render("{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}", NULL, NULL, &text, NULL),
        LUTRA_OK);
    assert_string_equal(text, "[1, 2]");
    lu_free(text);
}

static void bytes_that_are_no_text_pass_through(void **state)
{
    (void)state;
    char *text;
    assert_int_equal(
        render("a\xff\xc3{{ '\xf0\x9f'|length }}{{ '\xe2\x82 '|trim }}{{ '\x80'|upper }}", NULL,
               NULL, &text, NULL),
        LUTRA_OK);
    assert_string_equal(text, "a\xff\xc3"
                              "2\xe2\x82\x80");
    lu_free(text);
}

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    static const char template[] = "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{% for x in "
                                   "range(2000) %}{{ m(x)|trim ~ [x, {'a': x}]|tojson }}"
                                   "{% endfor %}{{ ['b', 'a']|sort|join(', ') }}{{ 'x' * 100000 }}";
    for (int64_t n = 1;; n++) {
        char *text;
        lutra_err err = {0};
        lu_mem_fail_at(n, false);
        const lutra_status status = render(template, NULL, NULL, &text, &err);
        const bool reached = lu_mem_count() >= n;
        lu_mem_fail_at(0, false);
        lu_free(text);
        if (!reached) {
            assert_int_equal(status, LUTRA_OK);
            assert_true(n > 10);
            break;
        }
        assert_int_equal(status, LUTRA_E_NOMEM);
        assert_non_null(strstr(err.msg, "out of memory"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_is_as_jinja_has_it),
        cmocka_unit_test(messages_name_the_line_and_the_thing),
        cmocka_unit_test(endless_templates_meet_a_limit),
        cmocka_unit_test(deep_sources_meet_a_limit),
        cmocka_unit_test(long_chains_meet_a_limit_when_run),
        cmocka_unit_test(each_limit_can_be_set),
        cmocka_unit_test(dates_are_those_of_strftime),
        cmocka_unit_test(append_changes_the_list),
        cmocka_unit_test(bytes_that_are_no_text_pass_through),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
