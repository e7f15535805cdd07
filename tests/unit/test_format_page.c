/* test_format_page.c - the worked examples of docs/formats.md, read from the page: what it says is
   what the code does. Each example is a json block followed by a text block of "key row values". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "fmt/codec.h"
#include "io/checkpoint.h"

#define PAGE "docs/formats.md"
#define MAX_ROWS 4
#define MAX_COLUMNS 64

typedef struct example {
    int64_t n, k;
    uint8_t q[MAX_ROWS][MAX_COLUMNS];
    uint8_t codes[MAX_ROWS][MAX_COLUMNS];
    _Alignas(8) uint8_t scales[MAX_ROWS][MAX_COLUMNS];
    uint8_t zeros[MAX_ROWS][MAX_COLUMNS];
    float w[MAX_ROWS][MAX_COLUMNS];
    int n_codes[MAX_ROWS], n_scales[MAX_ROWS], n_zeros[MAX_ROWS], n_w[MAX_ROWS], n_q[MAX_ROWS];
} example;

/* The text between "```kind\n" and the closing fence after `from`; NULL if there is none. */
static char *block(const char *from, const char *kind, const char **next)
{
    char open[32];
    snprintf(open, sizeof open, "\n```%s\n", kind);
    const char *begin = strstr(from, open);
    if (!begin)
        return NULL;
    begin += strlen(open);
    const char *end = strstr(begin, "\n```");
    assert_non_null(end);
    *next = end + 4;
    return lu_strndup(begin, (size_t)(end - begin));
}

static int read_bytes(char *text, int base, uint8_t *out)
{
    int n = 0;
    for (char *p = strtok(text, " "); p; p = strtok(NULL, " ")) {
        assert_true(n < MAX_COLUMNS);
        char *end;
        out[n++] = (uint8_t)strtoul(p, &end, base);
        assert_int_equal(*end, '\0');
    }
    return n;
}

static void read_line(example *x, char *line)
{
    char key[16];
    int row, used;
    assert_int_equal(sscanf(line, "%15s %d%n", key, &row, &used), 2);
    if (strcmp(key, "size") == 0) {
        x->n = row;
        x->k = atoi(line + used);
        return;
    }
    assert_in_range(row, 0, MAX_ROWS - 1);
    char *values = line + used;
    if (strcmp(key, "q") == 0) {
        x->n_q[row] = read_bytes(values, 10, x->q[row]);
    } else if (strcmp(key, "codes") == 0) {
        x->n_codes[row] = read_bytes(values, 16, x->codes[row]);
    } else if (strcmp(key, "scales") == 0) {
        x->n_scales[row] = read_bytes(values, 16, x->scales[row]);
    } else if (strcmp(key, "zeros") == 0) {
        x->n_zeros[row] = read_bytes(values, 16, x->zeros[row]);
    } else {
        assert_string_equal(key, "w");
        for (char *p = strtok(values, " "); p; p = strtok(NULL, " "))
            x->w[row][x->n_w[row]++] = strtof(p, NULL);
    }
}

static void read_example(example *x, char *text)
{
    memset(x, 0, sizeof *x);
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        read_line(x, line);
    }
}

static void check_example(json_t *config, const example *x)
{
    lu_quant_config q;
    lutra_err err = {0};
    bool found = false;
    if (lu_quant_config_read(config, &found, &q, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    assert_true(found);
    assert_int_equal(q.n_modules, 1);
    assert_string_equal(q.modules[0], "m");
    const lutra_format *f = &q.format;
    const int groups = (int)lutra_format_groups(f, x->k);
    for (int64_t r = 0; r < x->n; r++) {
        uint8_t packed[MAX_COLUMNS];
        float w[MAX_COLUMNS];
        assert_int_equal(x->n_q[r], x->k);
        assert_int_equal(x->n_w[r], x->k);
        assert_int_equal(x->n_codes[r], lutra_format_row_bytes(f, x->k));
        assert_int_equal(x->n_scales[r], groups * (int)lutra_dtype_bytes(f->scale_dtype));
        assert_int_equal(x->n_zeros[r], f->zero_point ? groups : 0);
        lu_codes_pack(x->q[r], x->k, f->bits, packed);
        assert_memory_equal(packed, x->codes[r], x->n_codes[r]);
        lu_decode_row(f, x->codes[r], x->scales[r], x->zeros[r], x->k, w);
        for (int64_t k = 0; k < x->k; k++)
            if (!(w[k] == x->w[r][k]))
                fail_msg("w[%d][%d] decodes to %g, the page says %g", (int)r, (int)k, (double)w[k],
                         (double)x->w[r][k]);
    }
    json_t *again = lu_quant_config_write(&q);
    assert_true(json_equal(again, json_object_get(config, "quantization_config")));
    json_decref(again);
    lu_quant_config_free(&q);
}

static void every_example_of_the_page_is_true(void **state)
{
    (void)state;
    char *page;
    size_t size;
    lutra_err err = {0};
    if (lu_file_read(PAGE, 1 << 20, &page, &size, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    int n = 0;
    const char *at = page;
    for (char *text; (text = block(at, "json", &at)) != NULL; n++) {
        json_t *config;
        if (lu_json_parse(PAGE, text, strlen(text), true, &config, &err) != LUTRA_OK)
            fail_msg("%s", err.msg);
        lu_free(text);
        char *numbers = block(at, "text", &at);
        assert_non_null(numbers);
        example x;
        read_example(&x, numbers);
        lu_free(numbers);
        check_example(config, &x);
        json_decref(config);
    }
    assert_int_equal(n, 2);
    lu_free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_example_of_the_page_is_true)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
