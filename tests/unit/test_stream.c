/* test_stream.c - streaming equals decoding at once, never splits a character, and stops where a
   stop string is complete, wherever the ids cut the text. Random sequences from a fixed seed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

static const char *const folders[] = {"models/llama-8m", "tests/fixtures/tokenizers/gemma2",
                                      "tests/fixtures/tokenizers/mistral"};
#define N_FOLDERS 3
#define N_SEQUENCES 300
#define LONGEST 40

static uint64_t seed;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static lutra_tokenizer *open_folder(int i)
{
    lutra_tokenizer *t = NULL;
    lutra_err err = {0};
    if (lutra_tokenizer_open(folders[i], &t, &err) != LUTRA_OK)
        fail_msg("%s", err.msg);
    return t;
}

/* Low ids are specials and bytes: half of the ids come from there. */
static int64_t random_ids(int32_t ids[LONGEST])
{
    const int64_t n = random_below(LONGEST);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)random_below(random_below(2) ? 8200 : 300);
    return n;
}

/* Streams ids; what comes out is appended to *out. Returns whether a stop was met. */
static bool stream_all(const lutra_tokenizer *t, bool skip, const char *const *stops, int n_stops,
                       const int32_t *ids, int64_t n_ids, lu_bytes *out)
{
    lutra_stream *s;
    const char *text;
    size_t n;
    bool stopped = false;
    assert_int_equal(lutra_stream_open(t, skip, stops, n_stops, &s, NULL), LUTRA_OK);
    for (int64_t i = 0; i < n_ids; i++) {
        assert_int_equal(lutra_stream_push(s, ids[i], &text, &n, &stopped, NULL), LUTRA_OK);
        assert_true(lu_utf8_valid(text, n));
        assert_int_equal(text[n], '\0');
        lu_bytes_append(out, text, n);
    }
    assert_int_equal(lutra_stream_flush(s, &text, &n, NULL), LUTRA_OK);
    lu_bytes_append(out, text, n);
    lutra_stream_close(s);
    return stopped;
}

static void streamed_text_is_the_decoded_text(void **state)
{
    (void)state;
    seed = 1;
    for (int f = 0; f < N_FOLDERS; f++) {
        lutra_tokenizer *t = open_folder(f);
        for (int k = 0; k < N_SEQUENCES; k++) {
            int32_t ids[LONGEST];
            const int64_t n_ids = random_ids(ids);
            char *text;
            size_t n;
            lu_bytes streamed = {0};
            assert_int_equal(lutra_decode(t, ids, n_ids, k % 2, &text, &n, NULL), LUTRA_OK);
            /* stop strings that do not occur: they hold text back, but must lose none */
            static const char *const stops[] = {"e\x01\x02\x03\x04",
                                                "\xEF\xBF\xBD\xEF\xBF\xBD\x02\x03\x04"};
            assert_false(stream_all(t, k % 2, stops, 2, ids, n_ids, &streamed));
            assert_int_equal(streamed.n, n);
            if (n)
                assert_memory_equal(streamed.data, text, n);
            lu_bytes_free(&streamed);
            lutra_free(text);
        }
        lutra_tokenizer_close(t);
    }
}

/* The definition, on the whole text: the stop that ends first; of those that end there, the
 * longest. */
static size_t first_stop(const char *text, size_t n, const char *const *stops, int n_stops)
{
    for (size_t end = 1; end <= n; end++) {
        size_t begin = SIZE_MAX;
        for (int i = 0; i < n_stops; i++) {
            const size_t length = strlen(stops[i]);
            if (length <= end && memcmp(text + end - length, stops[i], length) == 0 &&
                end - length < begin)
                begin = end - length;
        }
        if (begin != SIZE_MAX)
            return begin;
    }
    return SIZE_MAX;
}

static void a_stop_string_cuts_the_text_where_it_begins(void **state)
{
    (void)state;
    seed = 2;
    int n_met = 0;
    for (int f = 0; f < N_FOLDERS; f++) {
        lutra_tokenizer *t = open_folder(f);
        for (int k = 0; k < N_SEQUENCES; k++) {
            int32_t ids[LONGEST];
            const int64_t n_ids = random_ids(ids);
            char *text;
            size_t n;
            assert_int_equal(lutra_decode(t, ids, n_ids, false, &text, &n, NULL), LUTRA_OK);
            /* two stops out of the text itself, so that they span ids, and one from elsewhere */
            char a[8] = "?", b[8] = "!";
            for (int i = 0; n > 8 && i < 2; i++) {
                const size_t at = random_below((uint32_t)n - 7), length = 1 + random_below(6);
                if (!memchr(text + at, '\0', length) && lu_utf8_valid(text + at, length)) {
                    memcpy(i ? a : b, text + at, length);
                    (i ? a : b)[length] = '\0';
                }
            }
            const char *const stops[] = {a, b, "the"};
            const size_t cut = first_stop(text, n, stops, 3);
            lu_bytes streamed = {0};
            if (stream_all(t, false, stops, 3, ids, n_ids,
                           &streamed)) /* else met by flush, or not at all */
                assert_true(cut != SIZE_MAX);
            const size_t expected = cut == SIZE_MAX ? n : cut;
            assert_int_equal(streamed.n, expected);
            if (expected)
                assert_memory_equal(streamed.data, text, expected);
            n_met += cut != SIZE_MAX;
            lu_bytes_free(&streamed);
            lutra_free(text);
        }
        lutra_tokenizer_close(t);
    }
    assert_true(n_met > N_SEQUENCES); /* the test would be idle otherwise */
}

static void assert_push(lutra_stream *s, const lutra_tokenizer *t, const char *piece,
                        const char *expected, bool expect_stop)
{
    const char *text;
    size_t n;
    bool stopped;
    assert_int_not_equal(lutra_tokenizer_id(t, piece), -1);
    assert_int_equal(lutra_stream_push(s, lutra_tokenizer_id(t, piece), &text, &n, &stopped, NULL),
                     LUTRA_OK);
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
    assert_int_equal(stopped, expect_stop);
}

static void parts_of_a_character_wait_for_the_rest(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_folder(0); /* byte-level: U+20AC is E2 82 AC */
    lutra_stream *s;
    const char *text;
    size_t n;
    assert_int_equal(lutra_stream_open(t, false, NULL, 0, &s, NULL), LUTRA_OK);
    assert_push(s, t, "a", "a", false);
    assert_push(s, t, "\xC3\xA2", "", false);
    assert_push(s, t, "\xC4\xA4", "", false);
    assert_push(s, t, "\xC2\xAC", "\xE2\x82\xAC", false);
    assert_push(s, t, "\xC3\xA2", "", false);
    assert_push(s, t, "b",
                "\xEF\xBF\xBD"
                "b",
                false);
    assert_push(s, t, "\xC3\xA2", "", false);
    assert_int_equal(lutra_stream_flush(s, &text, &n, NULL), LUTRA_OK);
    assert_string_equal(text, "\xEF\xBF\xBD");
    assert_int_equal(lutra_stream_flush(s, &text, &n, NULL), LUTRA_OK);
    assert_int_equal(n, 0);
    bool stopped;
    assert_int_equal(lutra_stream_push(s, 5, &text, &n, &stopped, NULL), LUTRA_E_ARG);
    lutra_stream_close(s);
    lutra_tokenizer_close(t);
}

static void the_first_space_is_left_out_and_no_other(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_folder(2);
    lutra_stream *s;
    assert_int_equal(lutra_stream_open(t, true, NULL, 0, &s, NULL), LUTRA_OK);
    assert_push(s, t, "<s>", "", false);
    assert_push(s, t, "\xE2\x96\x81the", "the", false);
    assert_push(s, t, "\xE2\x96\x81the", " the", false);
    assert_push(s, t, "<0x0A>", "", false); /* a byte run is text only once it is over */
    assert_push(s, t, "\xE2\x96\x81the", "\n the", false);
    lutra_stream_close(s);
    lutra_tokenizer_close(t);
}

static void what_begins_like_a_stop_string_is_held_until_it_is_known(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_folder(0);
    lutra_stream *s;
    const char *text;
    size_t n;
    assert_int_equal(lutra_stream_open(t, true, (const char *const[]){"User:"}, 1, &s, NULL),
                     LUTRA_OK);
    assert_push(s, t, "a", "a", false);
    assert_push(s, t, "U", "", false);
    assert_push(s, t, "s", "", false);
    assert_push(s, t, "U", "Us", false);
    assert_push(s, t, "s", "", false);
    assert_push(s, t, "er", "", false);
    assert_push(s, t, ":", "", true);
    assert_push(s, t, "a", "", true);
    assert_int_equal(lutra_stream_flush(s, &text, &n, NULL), LUTRA_OK);
    assert_string_equal(text, "");
    lutra_stream_close(s);
    lutra_tokenizer_close(t);
}

static void a_stop_string_that_is_empty_or_no_utf8_is_refused(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_folder(0);
    lutra_stream *s = NULL;
    lutra_err err;
    assert_int_equal(lutra_stream_open(t, true, (const char *const[]){"x", ""}, 2, &s, &err),
                     LUTRA_E_ARG);
    assert_non_null(strstr(err.msg, "stop string 1"));
    assert_int_equal(lutra_stream_open(t, true, (const char *const[]){"\xE2"}, 1, &s, &err),
                     LUTRA_E_ARG);
    assert_null(s);
    lutra_stream_close(NULL);
    lutra_tokenizer_close(t);
}

static void every_failed_allocation_is_an_error_without_a_leak(void **state)
{
    (void)state;
    lutra_tokenizer *t = open_folder(2);
    bool done = false;
    for (int64_t at = 1; !done && at < 1000; at++) {
        lutra_stream *s = NULL;
        lu_mem_fail_at(at, true);
        lutra_status status =
            lutra_stream_open(t, true, (const char *const[]){"stop"}, 1, &s, NULL);
        const char *text;
        size_t n;
        bool stopped;
        for (int32_t id = 250; id < 300 && status == LUTRA_OK; id++)
            status = lutra_stream_push(s, id, &text, &n, &stopped, NULL);
        if (status == LUTRA_OK)
            status = lutra_stream_flush(s, &text, &n, NULL);
        lu_mem_fail_at(0, false);
        assert_true(status == LUTRA_OK || status == LUTRA_E_NOMEM);
        done = status == LUTRA_OK;
        lutra_stream_close(s);
    }
    assert_true(done);
    lutra_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streamed_text_is_the_decoded_text),
        cmocka_unit_test(a_stop_string_cuts_the_text_where_it_begins),
        cmocka_unit_test(parts_of_a_character_wait_for_the_rest),
        cmocka_unit_test(the_first_space_is_left_out_and_no_other),
        cmocka_unit_test(what_begins_like_a_stop_string_is_held_until_it_is_known),
        cmocka_unit_test(a_stop_string_that_is_empty_or_no_utf8_is_refused),
        cmocka_unit_test(every_failed_allocation_is_an_error_without_a_leak),
    };
    return cmocka_run_group_tests_name("stream", tests, NULL, NULL);
}
