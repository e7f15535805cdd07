/* test_format_page.c - the worked examples of docs/formats.md, read from the page: what it says is
   what the code does. Each example is a json block followed by a text block of "key row values".
   The tensors are written as a checkpoint, bound like a model's and decoded. */
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
#include "model/bind_coded.h"
#include "support/synthetic_checkpoint.h"
#include "tensor/convert.h"

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
    int32_t g_idx[MAX_COLUMNS], outliers[MAX_COLUMNS];
    float table[MAX_COLUMNS], outlier_w[MAX_COLUMNS][MAX_ROWS];
    int n_g_idx, n_table, n_outliers;
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
    char *values = line + used;
    if (strcmp(key, "groups") == 0 || strcmp(key, "table") == 0 || strcmp(key, "outlier") == 0) {
        float v[MAX_COLUMNS];
        int n = 0;
        for (char *p = strtok(values, " "); p; p = strtok(NULL, " "))
            v[n++] = strtof(p, NULL);
        for (int i = 0; i < n; i++) {
            if (key[0] == 'g')
                x->g_idx[x->n_g_idx++] = (int32_t)v[i];
            else if (key[0] == 't')
                x->table[x->n_table++] = v[i];
            else
                x->outlier_w[x->n_outliers][i] = v[i];
        }
        if (key[0] == 'o')
            x->outliers[x->n_outliers++] = row;
        return;
    }
    assert_in_range(row, 0, MAX_ROWS - 1);
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

/* The example's tensors as a file: what a writer of checkpoints would make of it. */
typedef struct {
    lu_st_entry entries[LU_N_TENSOR_KINDS];
    uint8_t data[LU_N_TENSOR_KINDS][MAX_ROWS * MAX_COLUMNS * 4];
    char names[LU_N_TENSOR_KINDS][32];
    int n;
} tensors;

static void fill_tensor(const example *x, lu_tensor_kind kind, uint8_t *out)
{
    for (int64_t r = 0; r < x->n; r++) {
        if (kind == LU_TENSOR_CODES)
            memcpy(out + r * x->n_codes[r], x->codes[r], (size_t)x->n_codes[r]);
        if (kind == LU_TENSOR_SCALES)
            memcpy(out + r * x->n_scales[r], x->scales[r], (size_t)x->n_scales[r]);
        if (kind == LU_TENSOR_ZEROS)
            memcpy(out + r * x->n_zeros[r], x->zeros[r], (size_t)x->n_zeros[r]);
        for (int i = 0; kind == LU_TENSOR_OUTLIER_WEIGHTS && i < x->n_outliers; i++)
            ((uint16_t *)out)[r * x->n_outliers + i] = lu_f32_to_f16(x->outlier_w[i][r]);
    }
    if (kind == LU_TENSOR_TABLE)
        memcpy(out, x->table, sizeof x->table);
    if (kind == LU_TENSOR_GROUPS)
        memcpy(out, x->g_idx, sizeof x->g_idx);
    if (kind == LU_TENSOR_OUTLIER_COLUMNS)
        memcpy(out, x->outliers, sizeof x->outliers);
}

static void write_example(const example *x, const lu_scheme *s, const char *path)
{
    tensors *t = calloc(1, sizeof *t);
    lu_tensor_info info[LU_N_TENSOR_KINDS];
    t->n = lu_scheme_tensors(s, x->n, x->k, x->n_outliers, info);
    for (int i = 0; i < t->n; i++) {
        lutra_tensor *v = &t->entries[i].view;
        *v = (lutra_tensor){.dtype = info[i].dtype, .rank = info[i].rank};
        v->bytes = lutra_dtype_bytes(v->dtype);
        for (int d = 0; d < v->rank; d++)
            v->bytes *= (size_t)(v->shape[d] = info[i].shape[d]);
        snprintf(t->names[i], sizeof t->names[i], "m%s", lu_tensor_suffix(info[i].kind));
        t->entries[i].name = t->names[i];
        fill_tensor(x, info[i].kind, t->data[i]);
    }
    void *header;
    size_t header_bytes;
    uint64_t at[LU_N_TENSOR_KINDS], size;
    assert_int_equal(lu_st_layout(t->entries, t->n, &header, &header_bytes, at, &size, NULL),
                     LUTRA_OK);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(header, 1, header_bytes, f);
    for (int i = 0; i < t->n; i++) {
        fseek(f, (long)at[i], SEEK_SET);
        fwrite(t->data[i], 1, t->entries[i].view.bytes, f);
    }
    fclose(f);
    lu_free(header);
    free(t);
}

static void check_rows(const example *x, const lu_weight *w)
{
    for (int64_t r = 0; r < x->n; r++) {
        float row[MAX_COLUMNS];
        lu_weight_row(w, r, row);
        for (int64_t k = 0; k < x->k; k++)
            if (!(row[k] == x->w[r][k]))
                fail_msg("w[%d][%d] decodes to %g, the page says %g", (int)r, (int)k,
                         (double)row[k], (double)x->w[r][k]);
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
    assert_string_equal(q.modules[0].name, "m");
    const lu_scheme *s = lu_quant_config_find(&q, "m");
    const lutra_format *f = &s->format;
    const int groups = (int)lutra_format_groups(f, x->k);
    assert_int_equal(x->n_g_idx, s->column_groups ? x->k : 0);
    assert_int_equal(x->n_table, f->learned ? 1 << f->bits : 0);
    for (int64_t r = 0; r < x->n; r++) {
        uint8_t packed[MAX_COLUMNS];
        assert_int_equal(x->n_q[r], x->k);
        assert_int_equal(x->n_w[r], x->k);
        assert_int_equal(x->n_codes[r], lutra_format_row_bytes(f, x->k));
        assert_int_equal(x->n_scales[r], groups * (int)lutra_dtype_bytes(f->scale_dtype));
        assert_int_equal(x->n_zeros[r], f->zero_point ? groups : 0);
        lu_codes_pack(x->q[r], x->k, f->bits, packed);
        assert_memory_equal(packed, x->codes[r], x->n_codes[r]);
    }
    char folder[SYN_PATH], path[SYN_PATH + 32];
    lutra_checkpoint *c;
    lu_weight w = {.n = x->n, .k = x->k};
    lu_act_quant input;
    syn_temp(folder);
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    write_example(x, s, path);
    assert_int_equal(lu_checkpoint_open(path, &c, &err), LUTRA_OK);
    if (lu_bind_coded(c, "m", s, &w, &input, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    check_rows(x, &w);
    lutra_checkpoint_close(c);
    syn_delete(folder);
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
    assert_int_equal(n, 3);
    lu_free(page);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_example_of_the_page_is_true)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
