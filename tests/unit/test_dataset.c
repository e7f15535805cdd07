/* Calibration samples: drawn as the seed says, from every kind of file; slips are named. */
#include "support/expect.h"

#include <string.h>

#include "calib/dataset.h"
#include "support/synthetic_checkpoint.h"

#define MODEL "models/llama-8m"
#define VOCAB 8192

typedef struct {
    lutra_ctx *ctx;
    char folder[SYN_PATH], path[SYN_PATH + 32];
    lutra_calibration c;
} place;

static void enter(place *p)
{
    p->ctx = open_ctx(1);
    syn_temp(p->folder);
    lutra_calibration_init(&p->c);
    p->c.n_samples = 3;
    p->c.length = 4;
    p->c.data = p->path;
}

static void leave(place *p)
{
    syn_delete(p->folder);
    lutra_close(p->ctx);
}

static lutra_status open_text(place *p, const char *name, const char *text, lu_dataset *d,
                              lutra_err *err)
{
    syn_text(p->folder, name, text);
    snprintf(p->path, sizeof p->path, "%s/%s", p->folder, name);
    return lu_dataset_open(p->ctx, &p->c, MODEL, VOCAB, d, err);
}

static void packed_samples_are_windows_drawn_once(void **state)
{
    (void)state;
    place p;
    lu_dataset d, again;
    lutra_err err;
    bool seen[5] = {false};
    enter(&p);
    p.c.n_samples = 5;
    const char text[] = "0 1 2 3 4 5 6\n7,8, 9\n\n10 11 12 13 14 15 16 17 18 19 20 21\n";
    must(open_text(&p, "a.ids", text, &d, &err), &err);
    assert_int_equal(d.n_samples, 5);
    for (int s = 0; s < 5; s++) {
        const int32_t first = d.ids[s * 4];
        assert_true(first % 4 == 0 && first < 20 && !seen[first / 4]);
        seen[first / 4] = true;
        for (int i = 0; i < 4; i++)
            assert_int_equal(d.ids[s * 4 + i], first + i);
    }
    must(open_text(&p, "a.ids", text, &again, &err), &err);
    assert_memory_equal(d.ids, again.ids, 20 * sizeof *d.ids);
    lu_dataset_close(&again);
    p.c.seed = 1;
    must(open_text(&p, "a.ids", text, &again, &err), &err);
    assert_memory_not_equal(d.ids, again.ids, 20 * sizeof *d.ids);
    lu_dataset_close(&again);
    lu_dataset_close(&d);
    leave(&p);
}

static void per_document_samples_begin_with_documents(void **state)
{
    (void)state;
    place p;
    lu_dataset d;
    lutra_err err;
    enter(&p);
    p.c.per_document = true;
    p.c.n_samples = 8;
    must(open_text(&p, "a.ids", "1 2 3 4 5 6\n7 8\n9 10 11 12\n", &d, &err), &err);
    assert_int_equal(d.n_samples, 2); /* the second is too short */
    const int64_t first = d.ids[0] == 1 ? 0 : 1;
    assert_int_equal(d.ids[first * 4], 1);
    assert_int_equal(d.ids[first * 4 + 3], 4);
    assert_int_equal(d.ids[(1 - first) * 4], 9);
    lu_dataset_close(&d);
    leave(&p);
}

static void text_and_chats_are_tokenized(void **state)
{
    (void)state;
    place p;
    lu_dataset d;
    lutra_err err;
    enter(&p);
    p.c.n_samples = 2;
    must(open_text(&p, "a.txt", "The quick brown fox jumps over the lazy dog again and again.", &d,
                   &err),
         &err);
    assert_int_equal(d.n_samples, 2);
    lu_dataset_close(&d);
    must(open_text(&p, "a.jsonl",
                   "{\"text\": \"The quick brown fox jumps over the lazy dog.\"}\n\n"
                   "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello, how are you?\"}]}\n"
                   "{\"ids\": [1, 2, 3, 4]}\n",
                   &d, &err),
         &err);
    lu_dataset_close(&d);
    leave(&p);
}

static void slips_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
        lutra_status status;
        const char *words;
    } cases[] = {
        {"a.ids", "", LUTRA_E_ARG, "hold no sample of 4 tokens"},
        {"a.ids", "1 2 3", LUTRA_E_ARG, "3 tokens in 1 documents"},
        {"a.ids", "1 2 x 4", LUTRA_E_FORMAT, "a.ids:1: 'x 4' is not a token id"},
        {"a.ids", "1\n8192 1 1 1", LUTRA_E_FORMAT, "a.ids:2: token id 8192"},
        {"a.ids", "1\n-5 1 1 1", LUTRA_E_FORMAT, "token id -1"},
        {"a.ids", "99999999999999999999999", LUTRA_E_FORMAT, "is not a token id"},
        {"a.jsonl", "{\"text\": 5}", LUTRA_E_FORMAT, "has none of"},
        {"a.jsonl", "[1]", LUTRA_E_FORMAT, "has none of"},
        {"a.jsonl", "{\"text\": ", LUTRA_E_FORMAT, "a.jsonl:1"},
        {"a.jsonl", "{\"messages\": []}", LUTRA_E_FORMAT, "has 0 entries"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\"}]}", LUTRA_E_FORMAT, "message 0 has no"},
        {"a.jsonl", "{\"ids\": [1, \"a\"]}", LUTRA_E_FORMAT, "token id -1"},
        {"a.txt", "", LUTRA_E_ARG, "hold no sample"},
    };
    place p;
    enter(&p);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lu_dataset d;
        lutra_err err = {0};
        const lutra_status got = open_text(&p, cases[i].name, cases[i].text, &d, &err);
        if (got != cases[i].status || !strstr(err.msg, cases[i].words))
            fail_msg("case %zu: %s: %s, expected: %s", i, lutra_status_text(got), err.msg,
                     cases[i].words);
    }
    lu_dataset d;
    lutra_err err = {0};
    p.c.data = "/nowhere/x.txt";
    assert_int_equal(lu_dataset_open(p.ctx, &p.c, MODEL, VOCAB, &d, &err), LUTRA_E_IO);
    p.c.length = 0;
    assert_int_equal(lu_dataset_open(p.ctx, &p.c, MODEL, VOCAB, &d, &err), LUTRA_E_ARG);
    leave(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_samples_are_windows_drawn_once),
        cmocka_unit_test(per_document_samples_begin_with_documents),
        cmocka_unit_test(text_and_chats_are_tokenized),
        cmocka_unit_test(slips_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
