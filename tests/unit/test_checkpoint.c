/* test_checkpoint.c - model folders: good ones, and each way in which a download or an index can be
   wrong. The folders are made here, under /tmp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"
#include "io/checkpoint.h"
#include "support/alloc_sweep.h"
#include "support/synthetic_checkpoint.h"

#define INDEX "model.safetensors.index.json"

static char folder[SYN_PATH];

static void empty_folder(void)
{
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[2 * SYN_PATH];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove(path);
    }
    closedir(d);
}

static void put(const char *name, const void *data, size_t size)
{
    syn_write(folder, name, data, size);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

/* A shard with tensors of 4 bytes, F32 [1]. */
static void put_shard(const char *file, const char *const *names, int n)
{
    lu_st_entry list[4];
    uint64_t offsets[4], size;
    void *header;
    size_t header_bytes;
    for (int i = 0; i < n; i++)
        list[i] =
            (lu_st_entry){names[i], {.dtype = LUTRA_F32, .rank = 1, .shape = {1}, .bytes = 4}};
    assert_int_equal(lu_st_layout(list, n, &header, &header_bytes, offsets, &size, NULL), LUTRA_OK);
    uint8_t *data = calloc(1, (size_t)size);
    memcpy(data, header, header_bytes);
    put(file, data, (size_t)size);
    free(data);
    lu_free(header);
}

static const char GOOD_INDEX[] =
    "{\"metadata\":{\"total_size\":12},\"weight_map\":{\"c\":\"one.safetensors\","
    "\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}";

/* Two shards, three tensors in the index, one tensor and one file that it does not name. */
static int good_folder(void **state)
{
    (void)state;
    static const char *const one[] = {"b", "c", "unmapped"}, *const two[] = {"a"};
    empty_folder();
    put_text("config.json", "{\"model_type\":\"llama\"}");
    put_shard("one.safetensors", one, 3);
    put_shard("two.safetensors", two, 1);
    put_text("consolidated.safetensors", "not read");
    put_text(INDEX, GOOD_INDEX);
    return 0;
}

static lutra_status open_it(lutra_err *err)
{
    lutra_checkpoint *c = NULL;
    const lutra_status status = lu_checkpoint_open(folder, &c, err);
    assert_int_equal(status == LUTRA_OK, c != NULL);
    for (int64_t i = 0; c && i < lutra_checkpoint_count(c); i++) {
        lutra_tensor t;
        lutra_checkpoint_tensor(c, i, &t);
        for (size_t b = 0; b < t.bytes; b++)
            assert_in_range(((const uint8_t *)t.data)[b], 0, 255);
    }
    lutra_checkpoint_close(c);
    return status;
}

static void expect(lutra_status status, const char *const *words)
{
    lutra_err err = {0};
    const lutra_status got = open_it(&err);
    for (int i = 0; words[i]; i++)
        if (got != status || !strstr(err.msg, words[i]))
            fail_msg("status %d, message '%s'; expected %d and '%s'", (int)got, err.msg,
                     (int)status, words[i]);
}

#define EXPECT(status, ...) expect(status, (const char *const[]){__VA_ARGS__, NULL})

static void the_demo_model_opens_sorted_and_mapped(void **state)
{
    (void)state;
    lutra_checkpoint *c;
    lutra_err err = {0};
    if (lutra_checkpoint_open(NULL, "models/llama-8m", &c, &err) != LUTRA_OK)
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

static void the_index_decides_what_is_in_the_model(void **state)
{
    (void)state;
    lutra_checkpoint *c;
    static const char *const names[] = {"a", "b", "c"}, *const files[] = {"two", "one", "one"};
    assert_int_equal(lu_checkpoint_open(folder, &c, NULL), LUTRA_OK);
    assert_int_equal(lutra_checkpoint_count(c), 3);
    assert_int_equal(lu_checkpoint_n_shards(c), 2);
    for (int i = 0; i < 3; i++) {
        lutra_tensor t;
        lutra_checkpoint_tensor(c, i, &t);
        assert_string_equal(lutra_checkpoint_name(c, i), names[i]);
        assert_memory_equal(lutra_checkpoint_file(c, i), files[i], 3);
        assert_ptr_equal(lu_checkpoint_find(c, names[i])->view.data, t.data);
    }
    assert_null(lu_checkpoint_find(c, "unmapped"));
    assert_string_equal(lu_checkpoint_path(c), folder);
    assert_string_equal(lu_checkpoint_shard_name(c, 0), "one.safetensors");
    assert_int_equal(lu_st_count(lu_checkpoint_shard(c, 0)), 3);
    assert_string_equal(json_string_value(json_object_get(lu_checkpoint_json(c), "model_type")),
                        "llama");
    lutra_checkpoint_close(c);
}

static void a_folder_without_index_has_one_file(void **state)
{
    (void)state;
    static const char *const names[] = {"z", "y"};
    empty_folder();
    put_shard("model.safetensors", names, 2);
    lutra_checkpoint *c;
    assert_int_equal(lu_checkpoint_open(folder, &c, NULL), LUTRA_OK); /* no config.json either */
    assert_int_equal(lutra_checkpoint_count(c), 2);
    assert_string_equal(lutra_checkpoint_name(c, 0), "y");
    assert_string_equal(lutra_checkpoint_file(c, 0), "model.safetensors");
    assert_null(lutra_checkpoint_config(c));
    assert_null(lu_checkpoint_json(c));
    lutra_checkpoint_close(c);
}

static void a_single_file_opens(void **state)
{
    (void)state;
    char *path = lu_path_join(folder, "one.safetensors");
    lutra_checkpoint *c;
    assert_int_equal(lu_checkpoint_open(path, &c, NULL), LUTRA_OK);
    assert_int_equal(lutra_checkpoint_count(c), 3);
    assert_null(lutra_checkpoint_config(c));
    assert_string_equal(lutra_checkpoint_file(c, 2), "one.safetensors");
    lutra_checkpoint_close(c);
    lu_free(path);
}

static void links_are_followed(void **state)
{
    (void)state; /* the Hugging Face cache is made of them */
    char *from = lu_path_join(folder, "blob"), *to = lu_path_join(folder, "one.safetensors");
    assert_int_equal(rename(to, from), 0);
    assert_int_equal(symlink("blob", to), 0);
    assert_int_equal(open_it(NULL), LUTRA_OK);
    lu_free(from);
    lu_free(to);
}

static void an_index_must_stay_in_its_folder(void **state)
{
    (void)state;
    static const char *const shards[] = {"../one.safetensors",
                                         "/etc/passwd",
                                         "sub/one.safetensors",
                                         "..",
                                         ".",
                                         "",
                                         "a\\\\b",
                                         "./one.safetensors",
                                         "x/../one.safetensors",
                                         "..\\\\one"};
    for (size_t i = 0; i < sizeof shards / sizeof *shards; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"weight_map\":{\"tensor.name\":\"%s\"}}", shards[i]);
        put_text(INDEX, text);
        EXPECT(LUTRA_E_FORMAT, INDEX, "tensor.name", "inside the folder");
    }
}

static void a_wrong_index_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "[]",
        "{}",
        "null",
        "{\"weight_map\":[]}",
        "{\"weight_map\":null}",
        "{\"weight_map\":{\"a\":1}}",
        "{\"weight_map\":{\"a\":null}}",
        "{\"weight_map\":{\"a\":[\"one.safetensors\"]}}",
        "{\"weight_map\":{\"a\":NaN}}",
        "{\"weight_map\":{\"a\":\"two.safetensors\",\"a\":\"one.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"two.safetensors\\u0000\"}}",
        "{\"weight_map\":{\"a\":\"\xff\"}}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_text(INDEX, texts[i]);
        lutra_err err = {0};
        const lutra_status status = open_it(&err);
        if ((status != LUTRA_E_FORMAT && status != LUTRA_E_IO) || !strstr(err.msg, folder))
            fail_msg("%s: status %d, %s", texts[i], (int)status, err.msg);
    }
}

static void a_missing_shard_is_named_with_its_tensor(void **state)
{
    (void)state;
    char *path = lu_path_join(folder, "one.safetensors");
    unlink(path);
    lu_free(path);
    EXPECT(LUTRA_E_IO, "one.safetensors", "'b'", "missing", "download it again");
}

static void a_shard_that_is_a_folder_is_refused(void **state)
{
    (void)state;
    char *path = lu_path_join(folder, "one.safetensors");
    unlink(path);
    assert_int_equal(mkdir(path, 0777), 0);
    lu_free(path);
    EXPECT(LUTRA_E_IO, "one.safetensors", "folder");
}

static void a_tensor_that_is_not_in_its_shard_is_named(void **state)
{
    (void)state;
    put_text(INDEX, "{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"two.safetensors\"}}");
    EXPECT(LUTRA_E_FORMAT, "two.safetensors", "'b'", "download");
}

static void a_shard_cut_anywhere_is_refused_and_named(void **state)
{
    (void)state;
    char *path = lu_path_join(folder, "one.safetensors");
    char *data;
    size_t size;
    assert_int_equal(lu_file_read(path, 1 << 20, &data, &size, NULL), LUTRA_OK);
    for (size_t n = 0; n < size; n++) {
        put("one.safetensors", data, n);
        EXPECT(LUTRA_E_FORMAT, "one.safetensors");
        if (n + 12 >= size && n > 8) /* the data part: header whole, tensor named */
            EXPECT(LUTRA_E_FORMAT, "tensor '", "download it again");
    }
    lu_free(data);
    lu_free(path);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Overwrites random bytes of a file; any status will do, and every view must be readable. */
static void damage(const char *file, uint64_t seed, int rounds)
{
    char *path = lu_path_join(folder, file), *data;
    size_t size;
    int n_bad = 0;
    assert_int_equal(lu_file_read(path, 1 << 20, &data, &size, NULL), LUTRA_OK);
    for (int i = 0; i < rounds; i++) {
        const size_t at = (size_t)(next_random(&seed) % size);
        const char old = data[at];
        data[at] = i & 1 ? "{}[]\",:\\/.0N"[next_random(&seed) % 12] : (char)next_random(&seed);
        put(file, data, size);
        lutra_err err = {0};
        if (open_it(&err) != LUTRA_OK) {
            assert_true(err.msg[0] != '\0');
            n_bad++;
        }
        data[at] = old;
    }
    assert_true(n_bad > 0);
    lu_free(data);
    lu_free(path);
}

static void damaged_index_config_and_shard_never_crash(void **state)
{
    damage(INDEX, 11, 150);
    good_folder(state);
    damage("config.json", 12, 60);
    good_folder(state);
    damage("one.safetensors", 13, 150);
}

static void a_wrong_config_is_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "[1]", "{\"a\":}", "{", "\xff{}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        put_text("config.json", texts[i]);
        EXPECT(LUTRA_E_FORMAT, "config.json");
    }
}

static void a_folder_without_weights_says_what_is_expected(void **state)
{
    (void)state;
    empty_folder();
    EXPECT(LUTRA_E_IO, folder, "safetensors");
    lutra_checkpoint *c;
    lutra_err err;
    assert_int_equal(lu_checkpoint_open("no/such/model", &c, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, "no/such/model"));
}

static lutra_status open_and_close(void *path)
{
    lutra_checkpoint *c = NULL;
    const lutra_status status = lu_checkpoint_open(path, &c, NULL);
    lutra_checkpoint_close(c);
    return status;
}

static void every_failed_allocation_is_reported(void **state)
{
    for (int single = 0; single < 2; single++) {
        if (single) {
            static const char *const names[] = {"z", "y"};
            empty_folder();
            put_shard("model.safetensors", names, 2);
        } else {
            good_folder(state);
        }
        assert_true(fail_each_allocation(open_and_close, folder) > 0);
    }
}

static int make_folder(void **state)
{
    (void)state;
    syn_temp(folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    syn_delete(folder);
    return 0;
}

#define IN_GOOD_FOLDER(test) cmocka_unit_test_setup(test, good_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_model_opens_sorted_and_mapped),
        IN_GOOD_FOLDER(the_index_decides_what_is_in_the_model),
        cmocka_unit_test(a_folder_without_index_has_one_file),
        IN_GOOD_FOLDER(a_single_file_opens),
        IN_GOOD_FOLDER(links_are_followed),
        IN_GOOD_FOLDER(an_index_must_stay_in_its_folder),
        IN_GOOD_FOLDER(a_wrong_index_is_refused),
        IN_GOOD_FOLDER(a_missing_shard_is_named_with_its_tensor),
        IN_GOOD_FOLDER(a_shard_that_is_a_folder_is_refused),
        IN_GOOD_FOLDER(a_tensor_that_is_not_in_its_shard_is_named),
        IN_GOOD_FOLDER(a_shard_cut_anywhere_is_refused_and_named),
        IN_GOOD_FOLDER(damaged_index_config_and_shard_never_crash),
        IN_GOOD_FOLDER(a_wrong_config_is_refused),
        cmocka_unit_test(a_folder_without_weights_says_what_is_expected),
        cmocka_unit_test(every_failed_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
