/* test_cli_options.c - the option parser: values, defaults, ranges, and the tables of all commands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli.h"

typedef struct settings {
    bool flag;
    int64_t count;
    double share;
    const char *text, *kind;
    cli_list words;
} settings;

#define S(field) offsetof(settings, field)

static const cli_option options[] = {
    {"flag", 'f', CLI_FLAG, NULL, S(flag), 0, 0, NULL, NULL, "a flag"},
    {"count", 'n', CLI_INT, "N", S(count), -5, 5, NULL, "3", "a number"},
    {"share", 0, CLI_REAL, "X", S(share), 0, 1, NULL, "0.5", "a share"},
    {"text", 'p', CLI_TEXT, "TEXT", S(text), 0, 0, NULL, NULL, "a text"},
    {"kind", 0, CLI_CHOICE, "KIND", S(kind), 0, 0, "red|green", "red", "a kind"},
    {"word", 0, CLI_LIST, "WORD", S(words), 0, 0, NULL, NULL, "a word"},
    {0},
};
static const cli_operand operands[] = {
    {"FILE", false, NULL, "a file"}, {"MORE", true, NULL, "more"}, {0}};
static const cli_command command = {
    .name = "test", .operands = operands, .options = options, .settings_size = sizeof(settings)};

/* Parses the words of `line`, which is cut up. */
static lutra_status parse(char *line, cli_call *call, lutra_err *err)
{
    static char *argv[16];
    int argc = 0, used;
    for (char *word = line; *word && argc < 16; word += strlen(word) + 1) {
        word += strspn(word, " ");
        argv[argc++] = word;
        const size_t n = strcspn(word, " ");
        if (!word[n]) {
            break;
        }
        word[n] = '\0';
    }
    memset(call, 0, sizeof *call);
    memset(err, 0, sizeof *err);
    return cli_parse(&command, argc, argv, &used, call, err);
}

static void defaults_stand_and_are_not_given(void **state)
{
    (void)state;
    cli_call call;
    lutra_err err;
    char line[] = "in";
    assert_int_equal(parse(line, &call, &err), LUTRA_OK);
    const settings *s = call.settings;
    assert_int_equal(s->count, 3);
    assert_true(s->share == 0.5);
    assert_string_equal(s->kind, "red");
    assert_null(s->text);
    assert_false(s->flag);
    assert_int_equal(s->words.n, 0);
    assert_false(cli_given(&call, "count"));
    assert_int_equal(call.n_operands, 1);
    cli_call_free(&call);
}

static void values_are_joined_or_apart_in_any_order(void **state)
{
    (void)state;
    cli_call call;
    lutra_err err;
    char line[] = "--count=-5 a --word x -fptext --word=y --kind green --share 1 b";
    assert_int_equal(parse(line, &call, &err), LUTRA_OK);
    const settings *s = call.settings;
    assert_int_equal(s->count, -5);
    assert_true(s->flag);
    assert_string_equal(s->text, "text");
    assert_string_equal(s->kind, "green");
    assert_true(s->share == 1);
    assert_int_equal(s->words.n, 2);
    assert_string_equal(s->words.items[1], "y");
    assert_string_equal(call.operands[1], "b");
    assert_true(cli_given(&call, "count"));
    assert_false(cli_given(&call, "nothing"));
    cli_call_free(&call);
}

static void nothing_is_an_option_after_two_dashes(void **state)
{
    (void)state;
    cli_call call;
    lutra_err err;
    char line[] = "-- --flag -n";
    assert_int_equal(parse(line, &call, &err), LUTRA_OK);
    assert_string_equal(call.operands[0], "--flag");
    assert_string_equal(call.operands[1], "-n");
    assert_false(((const settings *)call.settings)->flag);
    cli_call_free(&call);
}

static void a_dash_is_an_operand_and_a_negative_number_a_value(void **state)
{
    (void)state;
    cli_call call;
    lutra_err err;
    char line[] = "- -n -2";
    assert_int_equal(parse(line, &call, &err), LUTRA_OK);
    assert_string_equal(call.operands[0], "-");
    assert_int_equal(((const settings *)call.settings)->count, -2);
    cli_call_free(&call);
}

static void bad_lines_are_refused_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"in --count 6", "--count: 6 is out of range, expected -5 to 5"},
        {"in --count 1e1", "--count: '1e1' is not a whole number"},
        {"in --count=", "--count: '' is not a whole number"},
        {"in --share nan", "--share: 'nan' is not a number"},
        {"in --share -0.1", "--share: -0.1 is out of range, expected 0 to 1"},
        {"in --kind blue", "--kind: unknown value 'blue', expected red or green"},
        {"in --kind re", "--kind: unknown value 're', expected red or green"},
        {"in --flag=yes", "--flag: takes no value"},
        {"in --text", "--text: needs a value: --text=TEXT"},
        {"in --text --flag", "--text: needs a value: --text=TEXT"},
        {"in -p", "-p: needs a value: -p TEXT"},
        {"in --cuont 1", "unknown option '--cuont', near: --count"},
        {"in -x", "unknown option '-x' in '-x'"},
        {"--flag", "test: FILE is missing (a file)"},
        {"a b c", "test: 'c' is one argument too many, expected at most 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cli_call call;
        lutra_err err;
        char line[80];
        snprintf(line, sizeof line, "%s", cases[i].line);
        assert_int_equal(parse(line, &call, &err), LUTRA_E_ARG);
        assert_string_equal(err.msg, cases[i].message);
    }
}

static void every_command_has_sound_tables(void **state)
{
    (void)state;
    for (int i = 0; cli_commands[i]; i++) {
        const cli_command *c = cli_commands[i];
        char help[] = "--help";
        char *argv[] = {help};
        int used;
        cli_call call = {0};
        lutra_err err = {0};
        /* all defaults are parsed here: each is inside its own range and choices */
        assert_int_equal(cli_parse(c, 1, argv, &used, &call, &err), LUTRA_OK);
        assert_true(call.globals.help);
        cli_call_free(&call);
        assert_true(cli_option_count(c->options) <= CLI_MAX_OPTIONS);
        assert_ptr_equal(cli_find_command(c->name), c);
        assert_non_null(c->examples);
        for (const cli_option *o = c->options; o && o->name; o++) {
            assert_true(o->offset < c->settings_size);
            assert_int_equal(o->metavar != NULL, o->type != CLI_FLAG);
            assert_int_equal(o->choices != NULL, o->type == CLI_CHOICE);
            for (const cli_option *p = c->options; p < o; p++) {
                assert_string_not_equal(o->name, p->name);
                assert_true(!o->letter || o->letter != p->letter);
            }
            for (const cli_option *g = cli_global_options; g->name; g++) {
                assert_string_not_equal(o->name, g->name);
                assert_true(!o->letter || o->letter != g->letter);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_stand_and_are_not_given),
        cmocka_unit_test(values_are_joined_or_apart_in_any_order),
        cmocka_unit_test(nothing_is_an_option_after_two_dashes),
        cmocka_unit_test(a_dash_is_an_operand_and_a_negative_number_a_value),
        cmocka_unit_test(bad_lines_are_refused_with_the_reason),
        cmocka_unit_test(every_command_has_sound_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
