/* test_safetensors.c - the reader against good, hostile and damaged files; the writer's layout. */
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
#include "base/mem.h"
#include "io/safetensors.h"
#include "support/alloc_sweep.h"

/* A file in memory, in a block of exactly its size so that a sanitizer sees any read past it. */
typedef struct image {
    uint8_t *data;
    size_t size;
} image;

static image image_of(const char *header, uint64_t h, size_t data_bytes)
{
    const size_t n = strlen(header);
    image m = {malloc(8 + n + data_bytes), 8 + n + data_bytes};
    assert_non_null(m.data);
    for (int i = 0; i < 8; i++)
        m.data[i] = (uint8_t)(h >> (8 * i));
    memcpy(m.data + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++)
        m.data[8 + n + i] = (uint8_t)(i * 37 + 1);
    return m;
}

/* On success every view lies inside the file and can be read. */
static lutra_status parse(const image *m, lutra_err *err)
{
    lu_st_file *f = NULL;
    const lutra_status status = lu_st_parse("f.st", m->data, m->size, &f, err);
    assert_int_equal(status == LUTRA_OK, f != NULL);
    const uint8_t *at = NULL;
    for (int64_t i = 0; f && i < lu_st_count(f); i++) {
        const lu_st_entry *e = lu_st_at(f, i);
        const uint8_t *begin = e->view.data;
        assert_true(begin >= m->data && begin <= m->data + m->size);
        assert_true(e->view.bytes <= (size_t)(m->data + m->size - begin));
        assert_true(!at || begin == at);
        assert_ptr_equal(lu_st_find(f, e->name), e);
        at = begin + e->view.bytes;
        for (size_t b = 0; b < e->view.bytes; b++)
            assert_in_range(begin[b], 0, 255);
    }
    lu_st_close(f);
    return status;
}

static void expect(const char *header, size_t data_bytes, lutra_status status, const char *word)
{
    lutra_err err = {0};
    const image m = image_of(header, strlen(header), data_bytes);
    const lutra_status got = parse(&m, &err);
    if (got != status || (word && (!strstr(err.msg, word) || !strstr(err.msg, "f.st"))))
        fail_msg("%.200s: status %d, message '%s', expected %d and '%s'", header, (int)got, err.msg,
                 (int)status, word ? word : "");
    free(m.data);
}

#define GOOD                                                                                 \
    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_" \
    "offsets\":[3,19]},"                                                                     \
    "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"                         \
    "\"z\":{\"dtype\":\"BF16\",\"shape\":[0,7],\"data_offsets\":[3,3]},"                     \
    "\"s\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[19,21]}}"
#define GOOD_DATA 21

static void a_good_file_is_read_in_order_of_its_data(void **state)
{
    (void)state;
    const image m = image_of(GOOD "  ", strlen(GOOD) + 2, GOOD_DATA);
    lu_st_file *f;
    assert_int_equal(lu_st_parse("f.st", m.data, m.size, &f, NULL), LUTRA_OK);
    static const char *const order[] = {"a", "z", "b", "s"};
    assert_int_equal(lu_st_count(f), 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(lu_st_at(f, i)->name, order[i]);
    const lutra_tensor *b = &lu_st_find(f, "b")->view; /* starts at an odd byte: allowed */
    assert_int_equal(b->dtype, LUTRA_F32);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->bytes, 16);
    assert_ptr_equal(b->data, m.data + 8 + strlen(GOOD) + 2 + 3);
    assert_int_equal(lu_st_find(f, "s")->view.rank, 0);
    assert_int_equal(lu_st_find(f, "z")->view.bytes, 0);
    assert_null(lu_st_find(f, "__metadata__"));
    assert_null(lu_st_find(f, ""));
    assert_string_equal(lu_st_path(f), "f.st");
    lu_st_close(f);
    free(m.data);
}

static void every_known_dtype_is_accepted(void **state)
{
    (void)state;
    for (int t = 1; lutra_dtype_bytes((lutra_dtype)t); t++) {
        char header[200];
        const int n = (int)lutra_dtype_bytes((lutra_dtype)t) * 3;
        snprintf(header, sizeof header,
                 "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}",
                 lutra_dtype_name((lutra_dtype)t), n);
        expect(header, (size_t)n, LUTRA_OK, NULL);
    }
    expect("{}      ", 0, LUTRA_OK, NULL);
}

#define ONE(dtype, shape, offsets) \
    "{\"x\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void each_rule_of_the_format_is_held(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        lutra_status status;
        const char *word;
    } cases[] = {
        {"", 0, LUTRA_E_FORMAT, "'{'"},
        {" {}", 0, LUTRA_E_FORMAT, "'{'"},
        {"[]", 0, LUTRA_E_FORMAT, "'{'"},
        {"{", 0, LUTRA_E_FORMAT, "line 1"},
        {"{}x", 0, LUTRA_E_FORMAT, "line 1"},
        {"{}", 1, LUTRA_E_FORMAT, "after the last tensor"},
        {"{\"\xff\":1}", 0, LUTRA_E_FORMAT, "line 1"},
        {"{\"x\":1}", 0, LUTRA_E_FORMAT, "'x'"},
        {"{\"x\":{}}", 0, LUTRA_E_FORMAT, "dtype"},
        {ONE("\"U8\"", "[1]", "[0,1]") "}", 1, LUTRA_E_FORMAT, "line 1"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, LUTRA_E_FORMAT, "data_offsets"},
        {"{\"x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"F4\"", "[2]", "[0,1]"), 1, LUTRA_E_UNSUPPORTED, "unknown dtype 'F4'"},
        {ONE("\"f32\"", "[1]", "[0,4]"), 4, LUTRA_E_UNSUPPORTED, "'x'"},
        {ONE("\"bfloat16\"", "[1]", "[0,2]"), 2, LUTRA_E_UNSUPPORTED, "bfloat16"},
        {ONE("8", "[1]", "[0,1]"), 1, LUTRA_E_FORMAT, "dtype"},
        {ONE("null", "[1]", "[0,1]"), 1, LUTRA_E_FORMAT, "dtype"},
        {ONE("\"U8\"", "1", "[0,1]"), 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[-1]", "[0,1]"), 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[1.0]", "[0,1]"), 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[\"1\"]", "[0,1]"), 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[NaN]", "[0,1]"), 1, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[18446744073709551616]", "[0,0]"), 0, LUTRA_E_FORMAT, "shape"},
        {ONE("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, LUTRA_E_FORMAT, "overflow"},
        {ONE("\"F64\"", "[4611686018427387904]", "[0,0]"), 0, LUTRA_E_FORMAT, "overflow"},
        {ONE("\"U8\"", "[9223372036854775807,3,0]", "[0,0]"), 0, LUTRA_E_FORMAT, "overflow"},
        {ONE("\"U8\"", "[0,9223372036854775807,3]", "[0,0]"), 0, LUTRA_OK, NULL},
        {ONE("\"U8\"", "[1,1,1,1,1,1,1,1]", "[0,1]"), 1, LUTRA_OK, NULL},
        {ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, LUTRA_E_UNSUPPORTED, "9 dimensions"},
        {ONE("\"U8\"", "[1]", "0"), 1, LUTRA_E_FORMAT, "data_offsets"},
        {ONE("\"U8\"", "[1]", "[0]"), 1, LUTRA_E_FORMAT, "data_offsets"},
        {ONE("\"U8\"", "[1]", "[0,1,2]"), 1, LUTRA_E_FORMAT, "data_offsets"},
        {ONE("\"U8\"", "[1]", "[0.0,1]"), 1, LUTRA_E_FORMAT, "data_offsets"},
        {ONE("\"U8\"", "[1]", "[1,0]"), 1, LUTRA_E_FORMAT, "backwards"},
        {ONE("\"U8\"", "[1]", "[-1,0]"), 1, LUTRA_E_FORMAT, "backwards"},
        {ONE("\"U8\"", "[2]", "[0,1]"), 1, LUTRA_E_FORMAT, "span 1 bytes"},
        {ONE("\"U8\"", "[1]", "[1,2]"), 2, LUTRA_E_FORMAT, "hole"},
        {ONE("\"U8\"", "[1]", "[9223372036854775806,9223372036854775807]"), 1, LUTRA_E_FORMAT,
         "hole"},
        {ONE("\"U8\"", "[4]", "[0,4]"), 3, LUTRA_E_FORMAT, "download it again"},
        {ONE("\"U8\"", "[4]", "[0,4]"), 5, LUTRA_E_FORMAT, "1 bytes after the last tensor"},
        {ONE("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]"), 1, LUTRA_E_FORMAT,
         "cut short"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, LUTRA_E_FORMAT, "'y': overlaps"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"y\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         2, LUTRA_E_FORMAT, "'y': overlaps"},
        {"{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, LUTRA_E_FORMAT, "duplicate"},
        {"{\"x\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         LUTRA_E_FORMAT, "duplicate"},
        {"{\"__metadata__\":3}", 0, LUTRA_E_FORMAT, "__metadata__"},
        {"{\"__metadata__\":{\"k\":1}}", 0, LUTRA_E_FORMAT, "'k'"},
        {"{\"__metadata__\":{\"k\":NaN}}", 0, LUTRA_E_FORMAT, "'k'"},
        {"{\"__metadata__\":{\"k\":{}}}", 0, LUTRA_E_FORMAT, "'k'"},
        {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
         LUTRA_E_FORMAT, "line 1"},
        {"{\"\\ud800\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, LUTRA_E_FORMAT,
         "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(cases[i].header, cases[i].data, cases[i].status, cases[i].word);
}

static void wrong_header_lengths_are_refused(void **state)
{
    (void)state;
    const size_t n = strlen(GOOD);
    const uint64_t lengths[] = {
        0,         1,         n - 1,     n + 1,          n + GOOD_DATA,  n + GOOD_DATA + 1,
        100000000, 100000001, INT64_MAX, UINT64_MAX - 8, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        lutra_err err = {0};
        const image m = image_of(GOOD, lengths[i], GOOD_DATA);
        assert_int_equal(parse(&m, &err), LUTRA_E_FORMAT);
        assert_non_null(strstr(err.msg, "f.st"));
        free(m.data);
    }
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    const image whole = image_of(GOOD, strlen(GOOD), GOOD_DATA);
    assert_int_equal(parse(&whole, NULL), LUTRA_OK);
    for (size_t n = 0; n < whole.size; n++) {
        lutra_err err = {0};
        image m = {malloc(n ? n : 1), n};
        memcpy(m.data, whole.data, n);
        assert_int_equal(parse(&m, &err), LUTRA_E_FORMAT);
        free(m.data);
    }
    free(whole.data);
}

/* xorshift64: the same mutations everywhere */
static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void random_damage_gives_an_error_or_views_inside_the_file(void **state)
{
    (void)state;
    uint64_t seed = 20240607;
    int n_ok = 0, n_bad = 0;
    for (int round = 0; round < 4000; round++) {
        const image m = image_of(GOOD, strlen(GOOD), GOOD_DATA);
        const int changes = 1 + round % 3;
        for (int i = 0; i < changes; i++) {
            const size_t at = (size_t)(next_random(&seed) % (8 + strlen(GOOD)));
            if (round & 1)
                m.data[at] ^= (uint8_t)(1u << (next_random(&seed) % 8));
            else
                m.data[at] = (uint8_t) "0123456789[]{},:\"-.eE \\\0\xff"[next_random(&seed) % 26];
        }
        lutra_err err = {0};
        if (parse(&m, &err) == LUTRA_OK)
            n_ok++; /* a name changed, a space moved */
        else
            n_bad++, assert_true(err.msg[0] != '\0');
        free(m.data);
    }
    assert_true(n_bad > n_ok && n_ok > 0);
}

static lutra_status parse_quietly(void *m) { return parse(m, NULL); }

static void every_failed_allocation_is_reported(void **state)
{
    (void)state;
    image m = image_of(GOOD, strlen(GOOD), GOOD_DATA);
    assert_true(fail_each_allocation(parse_quietly, &m) > 0);
    free(m.data);
}

static void many_tensors_are_found_by_name(void **state)
{
    (void)state;
    enum { N = 20000 };
    char *header = malloc(N * 80 + 2), *p = header;
    *p++ = '{';
    for (int i = 0; i < N; i++)
        p += sprintf(p, "%s\"t.%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                     i ? "," : "", (i * 7919) % N, i, i + 1);
    strcpy(p, "}");
    expect(header, N, LUTRA_OK, NULL); /* parse() looks every one of them up */
    free(header);
}

/* ---- writer --------------------------------------------------------------------------------- */

static lu_st_entry entry(const char *name, lutra_dtype t, int rank, int64_t r, int64_t c)
{
    lu_st_entry e = {name, {.dtype = t, .rank = rank, .shape = {r, c}}};
    e.view.bytes = lutra_dtype_bytes(t) * (size_t)(rank > 0 ? r : 1) * (size_t)(rank > 1 ? c : 1);
    return e;
}

static void a_written_layout_reads_back(void **state)
{
    (void)state;
    const lu_st_entry list[] = {
        entry("w", LUTRA_F32, 2, 3, 5),
        entry("tab\t\"\xc3\xa9", LUTRA_U8, 1, 7, 0),
        entry("empty", LUTRA_F16, 2, 0, 4),
        entry("scalar", LUTRA_BF16, 0, 0, 0),
    };
    void *header;
    size_t header_bytes;
    uint64_t offsets[4], file_size;
    assert_int_equal(lu_st_layout(list, 4, &header, &header_bytes, offsets, &file_size, NULL),
                     LUTRA_OK);
    assert_int_equal(header_bytes % 8, 0);
    assert_int_equal(file_size, header_bytes + 60 + 7 + 2);
    uint8_t *file = calloc(1, (size_t)file_size);
    memcpy(file, header, header_bytes);
    assert_non_null(strstr((const char *)file + 8, "{\"__metadata__\":{\"format\":\"pt\"}"));
    lu_st_file *f;
    lutra_err err = {0};
    if (lu_st_parse("f.st", file, (size_t)file_size, &f, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    assert_int_equal(lu_st_count(f), 4);
    for (int i = 0; i < 4; i++) {
        const lu_st_entry *e = lu_st_find(f, list[i].name);
        assert_non_null(e);
        assert_ptr_equal(e->view.data, file + offsets[i]);
        assert_int_equal(e->view.dtype, list[i].view.dtype);
        assert_int_equal(e->view.rank, list[i].view.rank);
        assert_int_equal(e->view.bytes, list[i].view.bytes);
    }
    lu_st_close(f);
    free(file);
    lu_free(header);
}

static void a_file_of_hundreds_of_gigabytes_can_be_laid_out(void **state)
{
    (void)state;
    lu_st_entry list[] = {entry("a", LUTRA_BF16, 2, 1 << 20, 1 << 17),
                          entry("b", LUTRA_U8, 1, 5, 0)};
    void *header;
    size_t header_bytes;
    uint64_t offsets[2], file_size;
    assert_int_equal(lu_st_layout(list, 2, &header, &header_bytes, offsets, &file_size, NULL),
                     LUTRA_OK);
    assert_true(offsets[1] == header_bytes + ((uint64_t)1 << 38));
    assert_true(file_size == offsets[1] + 5);
    lu_free(header);
}

static void a_sparse_file_beyond_4_gib_is_mapped_not_read(void **state)
{
    (void)state;
    const lu_st_entry list[] = {entry("big", LUTRA_F32, 2, 1 << 20, 2048),
                                entry("tail", LUTRA_U8, 1, 1, 0)};
    void *header;
    size_t header_bytes;
    uint64_t offsets[2], file_size;
    assert_int_equal(lu_st_layout(list, 2, &header, &header_bytes, offsets, &file_size, NULL),
                     LUTRA_OK);
    char path[] = "/tmp/lutra-test-sparse-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    if (ftruncate(fd, (off_t)file_size) != 0) { /* a file system without room for 8 GiB of holes */
        close(fd);
        unlink(path);
        lu_free(header);
        skip();
    }
    assert_int_equal(lu_write_at(fd, path, header, header_bytes, 0, NULL), LUTRA_OK);
    assert_int_equal(lu_write_at(fd, path, "T", 1, offsets[1], NULL), LUTRA_OK);
    close(fd);
    lu_st_file *f;
    assert_int_equal(lu_st_open(path, &f, NULL), LUTRA_OK);
    assert_int_equal(*(const char *)lu_st_find(f, "tail")->view.data, 'T');
    lu_st_close(f);
    unlink(path);
    lu_free(header);
}

static void a_layout_that_cannot_be_written_is_refused(void **state)
{
    (void)state;
    static const struct {
        lutra_status status;
        const char *word;
    } expected[] = {{LUTRA_E_ARG, "twice"},       {LUTRA_E_ARG, "reserved"}, {LUTRA_E_ARG, "UTF-8"},
                    {LUTRA_E_ARG, "bytes"},       {LUTRA_E_ARG, "shape"},    {LUTRA_E_ARG, "dtype"},
                    {LUTRA_E_LIMIT, "too large"}, {LUTRA_E_ARG, "rank"}};
    for (int i = 0; i < 8; i++) {
        lu_st_entry list[] = {entry("x", LUTRA_U8, 1, 2, 0), entry("y", LUTRA_U8, 1, 2, 0)};
        lu_st_entry *e = &list[1];
        switch (i) {
        case 0: e->name = "x"; break;
        case 1: e->name = "__metadata__"; break;
        case 2: e->name = "\xff"; break;
        case 3: e->view.bytes = 3; break;
        case 4: e->view.shape[0] = -2; break;
        case 5: e->view.dtype = LUTRA_DTYPE_NONE; break;
        case 6: *e = entry("y", LUTRA_U8, 1, INT64_MAX - 4, 0); break;
        case 7: e->view.rank = 9; break;
        }
        void *header = NULL;
        size_t header_bytes;
        uint64_t offsets[2], file_size;
        lutra_err err = {0};
        assert_int_equal(lu_st_layout(list, 2, &header, &header_bytes, offsets, &file_size, &err),
                         expected[i].status);
        if (!strstr(err.msg, expected[i].word))
            fail_msg("case %d: %s", i, err.msg);
        assert_null(header);
    }
}

static void the_demo_shards_open(void **state)
{
    (void)state;
    lu_st_file *f;
    assert_int_equal(lu_st_open("models/llama-8m/reference.safetensors", &f, NULL), LUTRA_OK);
    assert_true(lu_st_count(f) > 0);
    lu_st_close(f);
    lutra_err err;
    assert_int_equal(lu_st_open("models/llama-8m/config.json", &f, &err), LUTRA_E_FORMAT);
    assert_int_equal(lu_st_open("no/such.safetensors", &f, &err), LUTRA_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_is_read_in_order_of_its_data),
        cmocka_unit_test(every_known_dtype_is_accepted),
        cmocka_unit_test(each_rule_of_the_format_is_held),
        cmocka_unit_test(wrong_header_lengths_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(random_damage_gives_an_error_or_views_inside_the_file),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(many_tensors_are_found_by_name),
        cmocka_unit_test(a_written_layout_reads_back),
        cmocka_unit_test(a_file_of_hundreds_of_gigabytes_can_be_laid_out),
        cmocka_unit_test(a_sparse_file_beyond_4_gib_is_mapped_not_read),
        cmocka_unit_test(a_layout_that_cannot_be_written_is_refused),
        cmocka_unit_test(the_demo_shards_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
