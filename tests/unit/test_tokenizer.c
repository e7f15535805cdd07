/* test_tokenizer.c - the tokenizers of three families against vectors of the reference library
   (fixtures/tokenizers, made with Hugging Face tokenizers). Parts one by one:
   test_tokenizer_parts.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/pool.h"
#include "text/tokenizer.h"

typedef struct family {
    const char *folder, *vectors;
} family;

static const family families[] = {
    {"models/llama-8m", "tests/fixtures/tokenizers/llama3/vectors.json"},
    {"tests/fixtures/tokenizers/gemma2", "tests/fixtures/tokenizers/gemma2/vectors.json"},
    {"tests/fixtures/tokenizers/mistral", "tests/fixtures/tokenizers/mistral/vectors.json"},
};
#define N_FAMILIES 3
#define N_VECTORS 404
#define N_DECODE_ONLY 145

static lutra_tokenizer *open_family(int i)
{
    lutra_tokenizer *t = NULL;
    lutra_err err = {0};
    if (lutra_tokenizer_open(families[i].folder, &t, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    return t;
}

static json_t *load_vectors(int i)
{
    json_t *root = NULL;
    lutra_err err = {0};
    if (lu_json_load(families[i].vectors, &root, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    return root;
}

static void assert_encodes(const lutra_tokenizer *t, const char *text, size_t n, bool add_special,
                           json_t *expected)
{
    int32_t *ids = NULL;
    int64_t n_ids = -1;
    lutra_err err = {0};
    if (lutra_encode(t, text, n, add_special, &ids, &n_ids, &err) != LUTRA_OK)
        fail_msg("\"%s\": %s", text, err.msg);
    bool same = n_ids == (int64_t)json_array_size(expected);
    for (int64_t k = 0; same && k < n_ids; k++)
        same = ids[k] == json_integer_value(json_array_get(expected, (size_t)k));
    if (!same) {
        for (int64_t k = 0; k < n_ids; k++)
            print_error("%d ", (int)ids[k]);
        fail_msg("is not what \"%s\" encodes to", text);
    }
    lutra_free(ids);
}

static int32_t *ids_of(json_t *list, int64_t *n)
{
    *n = (int64_t)json_array_size(list);
    int32_t *ids = lu_array((size_t)*n, sizeof *ids);
    assert_non_null(ids);
    for (int64_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

static void assert_decodes(const lutra_tokenizer *t, json_t *list, bool skip_special,
                           const char *expected)
{
    int64_t n_ids;
    int32_t *ids = ids_of(list, &n_ids);
    char *text = NULL;
    size_t n = 0;
    lutra_err err = {0};
    if (lutra_decode(t, ids, n_ids, skip_special, &text, &n, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
    lutra_free(text);
    lu_free(ids);
}

static void every_text_of_the_vectors_encodes_to_the_reference_ids(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        json_t *root = load_vectors(f), *vectors = json_object_get(root, "vectors");
        assert_int_equal(json_array_size(vectors), N_VECTORS);
        for (size_t i = 0; i < N_VECTORS; i++) {
            json_t *v = json_array_get(vectors, i), *text = json_object_get(v, "text");
            const char *p = json_string_value(text);
            assert_encodes(t, p, json_string_length(text), false, json_object_get(v, "ids"));
            assert_encodes(t, p, json_string_length(text), true,
                           json_object_get(v, "ids_with_special"));
        }
        json_decref(root);
        lutra_tokenizer_close(t);
    }
}

static void every_id_sequence_of_the_vectors_decodes_to_the_reference_text(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        json_t *root = load_vectors(f), *v;
        size_t i;
        json_array_foreach(json_object_get(root, "vectors"), i, v)
        {
            json_t *ids = json_object_get(v, "ids");
            assert_decodes(t, ids, false, json_string_value(json_object_get(v, "decoded")));
            assert_decodes(t, ids, true,
                           json_string_value(json_object_get(v, "decoded_skip_special")));
        }
        json_t *only = json_object_get(root, "decode_only");
        assert_int_equal(json_array_size(only), N_DECODE_ONLY);
        json_array_foreach(only, i, v) assert_decodes(
            t, json_object_get(v, "ids"), false, json_string_value(json_object_get(v, "decoded")));
        json_decref(root);
        lutra_tokenizer_close(t);
    }
}

static void a_long_text_encodes_like_its_vectors_one_by_one(void **state)
{
    (void)state;
    /* All texts in one call, with a special token between them, use the word cache; alone they do
     * not. */
    static const char *const between[N_FAMILIES] = {"<|end_of_text|>", "<eos>", "</s>"};
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        json_t *root = load_vectors(f), *v, *all_ids = json_array();
        size_t i, n = 0, at = 0;
        json_array_foreach(json_object_get(root, "vectors"), i, v) n +=
            json_string_length(json_object_get(v, "text")) + strlen(between[f]);
        char *all = lu_alloc(n + 1);
        assert_non_null(all);
        json_array_foreach(json_object_get(root, "vectors"), i, v)
        {
            strcpy(all + at, json_string_value(json_object_get(v, "text")));
            strcat(all + at, between[f]);
            at += strlen(all + at);
            json_array_extend(all_ids, json_object_get(v, "ids"));
            json_array_append_new(all_ids, json_integer(lutra_tokenizer_id(t, between[f])));
        }
        assert_encodes(t, all, n, false, all_ids);
        lu_free(all);
        json_decref(all_ids);
        json_decref(root);
        lutra_tokenizer_close(t);
    }
}

static void pieces_ids_and_special_marks_are_found(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_family(1);
    assert_int_equal(lutra_tokenizer_vocab_size(t), 8192);
    assert_int_equal(lutra_tokenizer_id(t, "<bos>"), 2);
    assert_string_equal(lutra_tokenizer_piece(t, 2), "<bos>");
    assert_int_equal(lutra_tokenizer_id(t, "no such piece"), -1);
    assert_null(lutra_tokenizer_piece(t, -1));
    assert_null(lutra_tokenizer_piece(t, 8192));
    assert_true(lutra_tokenizer_is_special(t, 2));
    assert_false(lutra_tokenizer_is_special(t, 300));
    assert_false(lutra_tokenizer_is_special(t, -1));
    assert_false(lutra_tokenizer_is_special(t, 1 << 30));
    lutra_tokenizer_close(t);
}

static void invalid_bytes_become_replacement_characters_part_by_part(void **state)
{
    (void)state;
    /* as bytes.decode(errors="replace") does: one U+FFFD per part that cannot be continued */
    static const struct {
        const char *bytes;
        size_t n;
        const char *clean;
    } cases[] = {
        {"a\xFF"
         "b",
         3,
         "a\xEF\xBF\xBD"
         "b"},
        {"\xE2\x82", 2, "\xEF\xBF\xBD"},
        {"\xE2\x82"
         "A",
         3,
         "\xEF\xBF\xBD"
         "A"},
        {"\xE2\x28\xA1", 3, "\xEF\xBF\xBD(\xEF\xBF\xBD"},
        {"\xC0\x80", 2, "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xED\xA0\x80", 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF0\x9F\x98", 3, "\xEF\xBF\xBD"},
        {"\xF4\x90\x80\x80", 4, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    lutra_tokenizer *t = open_family(0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t *ids;
        int64_t n_ids;
        char *text;
        size_t n;
        assert_int_equal(lutra_encode(t, cases[i].bytes, cases[i].n, false, &ids, &n_ids, NULL),
                         LUTRA_OK);
        assert_int_equal(lutra_decode(t, ids, n_ids, false, &text, &n, NULL), LUTRA_OK);
        assert_string_equal(text, cases[i].clean);
        lutra_free(ids);
        lutra_free(text);
    }
    lutra_tokenizer_close(t);
}

static void nul_bytes_are_text_like_any_other(void **state)
{
    (void)state;
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        int32_t *ids;
        int64_t n_ids;
        char *text;
        size_t n;
        assert_int_equal(lutra_encode(t, "a\0b", 3, true, &ids, &n_ids, NULL), LUTRA_OK);
        assert_int_equal(lutra_decode(t, ids, n_ids, true, &text, &n, NULL), LUTRA_OK);
        assert_int_equal(n, 3);
        assert_memory_equal(text, "a\0b", 3);
        lutra_free(ids);
        lutra_free(text);
        lutra_tokenizer_close(t);
    }
}

static void a_run_of_one_character_takes_no_quadratic_time(void **state)
{
    (void)state;
    /* 400 000 equal characters are one stretch without a cut: minutes if merging were quadratic */
    const size_t n = 400000;
    char *text = lu_alloc(n);
    assert_non_null(text);
    static const char fills[] = {' ', '=', 'a'};
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        for (size_t i = 0; i < sizeof fills; i++) {
            memset(text, fills[i], n);
            int32_t *ids;
            int64_t n_ids;
            char *back;
            size_t n_back;
            assert_int_equal(lutra_encode(t, text, n, false, &ids, &n_ids, NULL), LUTRA_OK);
            assert_int_equal(lutra_decode(t, ids, n_ids, false, &back, &n_back, NULL), LUTRA_OK);
            assert_int_equal(n_back, n);
            assert_memory_equal(back, text, n);
            lutra_free(ids);
            lutra_free(back);
        }
        lutra_tokenizer_close(t);
    }
    lu_free(text);
}

static void cuts_cache_and_heap_give_the_same_ids(void **state)
{
    (void)state;
    const size_t n = 200000;
    char *text;
    size_t size;
    assert_int_equal(lu_file_read("models/text/val.txt", SIZE_MAX / 2, &text, &size, NULL),
                     LUTRA_OK);
    assert_true(size > n);
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        int32_t *cut, *whole;
        int64_t n_cut, n_whole;
        assert_int_equal(lutra_encode(t, text, n, false, &cut, &n_cut, NULL), LUTRA_OK);
        lu_free(
            t->bpe.joins); /* without cuts a SentencePiece-like text is one stretch on the heap */
        t->bpe.joins = NULL;
        assert_int_equal(lutra_encode(t, text, n, false, &whole, &n_whole, NULL), LUTRA_OK);
        assert_int_equal(n_cut, n_whole);
        assert_memory_equal(cut, whole, (size_t)n_cut * sizeof *cut);
        lutra_free(cut);
        lutra_free(whole);
        lutra_tokenizer_close(t);
    }
    lu_free(text);
}

typedef struct shared_work {
    const lutra_tokenizer *t;
    json_t *vectors;
    bool right[N_VECTORS];
} shared_work;

static void encode_some(void *arg, int64_t begin, int64_t end, int worker)
{
    (void)worker;
    shared_work *w = arg;
    for (int64_t i = begin; i < end; i++) {
        json_t *v = json_array_get(w->vectors, (size_t)i);
        json_t *expected = json_object_get(v, "ids"), *text = json_object_get(v, "text");
        int32_t *ids = NULL;
        int64_t n = 0;
        bool same = lutra_encode(w->t, json_string_value(text), json_string_length(text), false,
                                 &ids, &n, NULL) == LUTRA_OK &&
                    n == (int64_t)json_array_size(expected);
        for (int64_t k = 0; same && k < n; k++)
            same = ids[k] == json_integer_value(json_array_get(expected, (size_t)k));
        w->right[i] = same;
        lutra_free(ids);
    }
}

static void one_tokenizer_serves_several_threads(void **state)
{
    (void)state;
    lu_pool *pool;
    assert_int_equal(lu_pool_open(4, &pool, NULL), LUTRA_OK);
    for (int f = 0; f < N_FAMILIES; f++) {
        lutra_tokenizer *t = open_family(f);
        json_t *root = load_vectors(f);
        shared_work w = {.t = t, .vectors = json_object_get(root, "vectors")};
        lu_pool_for(pool, N_VECTORS, 1, encode_some, &w);
        for (int i = 0; i < N_VECTORS; i++)
            assert_true(w.right[i]);
        json_decref(root);
        lutra_tokenizer_close(t);
    }
    lu_pool_close(pool);
}

static void ids_outside_the_vocabulary_decode_to_nothing_and_negative_ones_are_refused(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_family(0);
    char *text;
    size_t n;
    assert_int_equal(lutra_decode(t, (int32_t[]){39, 8192, INT32_MAX}, 3, false, &text, &n, NULL),
                     LUTRA_OK);
    assert_string_equal(text, "H");
    lutra_free(text);
    lutra_err err;
    assert_int_equal(lutra_decode(t, (int32_t[]){-5}, 1, false, &text, &n, &err), LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "-5"));
    lutra_tokenizer_close(t);
}

static void a_missing_folder_is_named(void **state)
{
    (void)state;
    lutra_tokenizer *t = NULL;
    lutra_err err;
    assert_int_equal(lutra_tokenizer_open("tests/no-such-folder", &t, &err), LUTRA_E_IO);
    assert_non_null(strstr(err.msg, "tests/no-such-folder/tokenizer.json"));
    assert_null(t);
    lutra_tokenizer_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_text_of_the_vectors_encodes_to_the_reference_ids),
        cmocka_unit_test(every_id_sequence_of_the_vectors_decodes_to_the_reference_text),
        cmocka_unit_test(a_long_text_encodes_like_its_vectors_one_by_one),
        cmocka_unit_test(pieces_ids_and_special_marks_are_found),
        cmocka_unit_test(invalid_bytes_become_replacement_characters_part_by_part),
        cmocka_unit_test(nul_bytes_are_text_like_any_other),
        cmocka_unit_test(a_run_of_one_character_takes_no_quadratic_time),
        cmocka_unit_test(cuts_cache_and_heap_give_the_same_ids),
        cmocka_unit_test(one_tokenizer_serves_several_threads),
        cmocka_unit_test(
            ids_outside_the_vocabulary_decode_to_nothing_and_negative_ones_are_refused),
        cmocka_unit_test(a_missing_folder_is_named),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
