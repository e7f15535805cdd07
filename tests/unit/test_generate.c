/* test_generate.c - lutra_generate over a tiny model: greedy continuation by hand, limits, end
   tokens, the caller's stop, and what the session holds afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/context.h"
#include "lutra/engine.h"
#include "model/slots.h"
#include "support/expect.h"

#define VOCAB 96
#define CAPACITY 24
static const int32_t prompt[] = {5, 17, 80, 3};
#define N_PROMPT 4

typedef struct {
    lutra_ctx *ctx;
    lutra_model *model;
    lutra_session *session;
} bench;

typedef struct {
    int32_t ids[64];
    int64_t n, stop_after; /* 0 = never */
} collected;

static int open_bench(void **state)
{
    static bench b;
    lutra_err err;
    must(lutra_open(NULL, &b.ctx, &err), &err);
    must(lutra_model_open(b.ctx, "tests/fixtures/tiny/mistral", NULL, &b.model, &err), &err);
    must(lutra_session_open(b.model, CAPACITY, &b.session, &err), &err);
    *state = &b;
    return 0;
}

static int close_bench(void **state)
{
    bench *b = *state;
    lutra_session_close(b->session);
    lutra_model_close(b->model);
    lutra_close(b->ctx);
    return 0;
}

static bool collect(void *user, int32_t id)
{
    collected *c = user;
    c->ids[c->n++] = id;
    return c->n != c->stop_after;
}

static lutra_generation greedy(collected *c, int64_t max_tokens)
{
    lutra_generation g;
    lutra_generation_init(&g);
    memset(c, 0, sizeof *c);
    g.user = c;
    g.on_token = collect;
    g.max_tokens = max_tokens;
    g.ignore_eos = true;
    return g;
}

/* The greedy continuation by feeding and picking. */
static void by_hand(bench *b, int64_t n, int32_t *out)
{
    float logits[VOCAB];
    lutra_err err;
    must(lutra_session_truncate(b->session, 0, &err), &err);
    must(lutra_session_feed(b->session, prompt, N_PROMPT, false, logits, &err), &err);
    for (int64_t i = 0; i < n; i++) {
        out[i] = 0;
        for (int32_t v = 1; v < VOCAB; v++)
            if (logits[v] > logits[out[i]])
                out[i] = v;
        if (i + 1 < n)
            must(lutra_session_feed(b->session, &out[i], 1, false, logits, &err), &err);
    }
    must(lutra_session_truncate(b->session, 0, &err), &err);
}

static void greedy_generation_is_feeding_and_picking(void **state)
{
    bench *b = *state;
    collected c;
    int32_t expected[12];
    lutra_err err;
    lutra_generation_result r;
    by_hand(b, 12, expected);
    const lutra_generation g = greedy(&c, 12);
    must(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), &err);
    assert_int_equal(c.n, 12);
    assert_memory_equal(c.ids, expected, sizeof expected);
    assert_int_equal(r.n_prompt, N_PROMPT);
    assert_int_equal(r.n_new, 12);
    assert_int_equal(r.finish, LUTRA_FINISH_LENGTH);
    assert_true(r.prompt_seconds >= 0 && r.decode_seconds >= 0);
    assert_int_equal(lutra_session_length(b->session), N_PROMPT + 11); /* the last one is not fed */
}

static void without_a_limit_it_fills_the_session(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    lutra_generation_result r;
    const lutra_generation g = greedy(&c, 0);
    must(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), &err);
    assert_int_equal(r.n_new, CAPACITY - N_PROMPT);
    assert_int_equal(r.finish, LUTRA_FINISH_LENGTH);
}

static void a_prompt_that_fills_the_session_gives_no_token(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    lutra_generation_result r;
    int32_t ids[CAPACITY + 1] = {0};
    const lutra_generation g = greedy(&c, 5);
    must(lutra_generate(b->session, ids, CAPACITY, &g, &r, &err), &err);
    assert_int_equal(r.n_new, 0);
    assert_int_equal(r.finish, LUTRA_FINISH_LENGTH);
    must(lutra_session_truncate(b->session, 0, &err), &err);
    assert_int_equal(lutra_generate(b->session, ids, CAPACITY + 1, &g, &r, &err), LUTRA_E_LIMIT);
    assert_int_equal(lutra_session_length(b->session), 0);
}

static void the_caller_may_stop(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    lutra_generation_result r;
    const lutra_generation g = greedy(&c, 10);
    c.stop_after = 3;
    must(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), &err);
    assert_int_equal(r.n_new, 3);
    assert_int_equal(r.finish, LUTRA_FINISH_CALLER);
}

static void an_end_token_stops_and_is_not_handed_over(void **state)
{
    bench *b = *state;
    collected c;
    int32_t expected[6];
    lutra_err err;
    lutra_generation_result r;
    by_hand(b, 6, expected);
    int first = 5; /* make the sixth token, at its first appearance, an end token */
    for (int i = 5; i >= 0; i--)
        if (expected[i] == expected[5])
            first = i;
    b->model->config.eos_id[0] = 95 - expected[5];
    b->model->config.eos_id[1] = expected[5];
    b->model->config.n_eos = 2;
    lutra_generation g = greedy(&c, 10);
    must(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), &err);
    assert_int_equal(r.n_new, 10); /* ignored */
    must(lutra_session_truncate(b->session, 0, &err), &err);
    g = greedy(&c, 10);
    g.ignore_eos = false;
    for (int i = 0; i < first; i++)
        if (expected[i] == 95 - expected[5])
            first = i;
    must(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), &err);
    assert_int_equal(r.finish, LUTRA_FINISH_EOS);
    assert_int_equal(r.n_new, first);
    assert_memory_equal(c.ids, expected, (size_t)first * sizeof *expected);
    assert_int_equal(lutra_session_length(b->session), N_PROMPT + first);
}

static void a_second_turn_continues_the_first(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    int32_t expected[6];
    by_hand(b, 6, expected);
    lutra_generation g = greedy(&c, 2);
    must(lutra_generate(b->session, prompt, 2, &g, NULL, &err), &err);
    must(lutra_session_truncate(b->session, 2, &err), &err);
    g = greedy(&c, 6);
    must(lutra_generate(b->session, prompt + 2, N_PROMPT - 2, &g, NULL, &err), &err);
    assert_memory_equal(c.ids, expected, sizeof expected);
}

static void the_penalty_counts_the_whole_session(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    lutra_generation g = greedy(&c, CAPACITY - N_PROMPT);
    g.sampling.repetition_penalty = 1e4f; /* nothing seen can win against anything unseen */
    must(lutra_session_feed(b->session, prompt, 2, false, NULL, &err), &err);
    must(lutra_generate(b->session, prompt + 2, N_PROMPT - 2, &g, NULL, &err), &err);
    for (int i = 0; i < c.n; i++) {
        for (int j = 0; j < i; j++)
            assert_int_not_equal(c.ids[i], c.ids[j]);
        for (int j = 0; j < N_PROMPT; j++)
            assert_int_not_equal(c.ids[i], prompt[j]);
    }
}

static void the_same_seed_gives_the_same_text(void **state)
{
    bench *b = *state;
    collected a, c;
    lutra_err err;
    for (uint64_t seed = 0; seed < 4; seed++) {
        lutra_generation g = greedy(&a, 16);
        g.sampling = (lutra_sampling){.size = sizeof g.sampling,
                                      .temperature = 1.5f,
                                      .top_k = 20,
                                      .top_p = 0.9f,
                                      .min_p = 0.01f,
                                      .repetition_penalty = 1.1f,
                                      .seed = seed};
        must(lutra_session_truncate(b->session, 0, &err), &err);
        must(lutra_generate(b->session, prompt, N_PROMPT, &g, NULL, &err), &err);
        memset(&c, 0, sizeof c);
        g.user = &c;
        must(lutra_session_truncate(b->session, 0, &err), &err);
        must(lutra_generate(b->session, prompt, N_PROMPT, &g, NULL, &err), &err);
        assert_memory_equal(a.ids, c.ids, sizeof a.ids);
    }
}

static void bad_arguments_are_refused(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    const int32_t outside = VOCAB;
    lutra_generation g = greedy(&c, -1);
    assert_int_equal(lutra_generate(b->session, prompt, N_PROMPT, &g, NULL, &err), LUTRA_E_ARG);
    g = greedy(&c, 1);
    assert_int_equal(lutra_generate(b->session, prompt, 0, &g, NULL, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_generate(b->session, &outside, 1, &g, NULL, &err), LUTRA_E_ARG);
    g.sampling.top_p = 0.0f;
    assert_int_equal(lutra_generate(b->session, prompt, N_PROMPT, &g, NULL, &err), LUTRA_E_ARG);
    assert_int_equal(lutra_session_length(b->session), 0);
}

static bool cancel_from_the_fifth(void *user) { return ((collected *)user)->n >= 5; }

static void a_cancelled_generation_tells_what_it_has_done(void **state)
{
    bench *b = *state;
    collected c;
    lutra_err err;
    lutra_generation_result r = {0};
    const lutra_generation g = greedy(&c, 12);
    b->ctx->options.user = &c;
    b->ctx->options.cancelled = cancel_from_the_fifth;
    assert_int_equal(lutra_generate(b->session, prompt, N_PROMPT, &g, &r, &err), LUTRA_E_CANCELLED);
    assert_int_equal(r.n_new, 5);
    assert_int_equal(r.n_prompt, N_PROMPT);
    assert_int_equal(r.finish, LUTRA_FINISH_CALLER);
    assert_int_equal(lutra_session_length(b->session), N_PROMPT + 4);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, open_bench, close_bench)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(greedy_generation_is_feeding_and_picking),
        CASE(without_a_limit_it_fills_the_session),
        CASE(a_prompt_that_fills_the_session_gives_no_token),
        CASE(the_caller_may_stop),
        CASE(an_end_token_stops_and_is_not_handed_over),
        CASE(a_second_turn_continues_the_first),
        CASE(the_penalty_counts_the_whole_session),
        CASE(the_same_seed_gives_the_same_text),
        CASE(a_cancelled_generation_tells_what_it_has_done),
        CASE(bad_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
