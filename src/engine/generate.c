/* generate.c - prompt in, tokens out: feed, pick, hand over, repeat. The last token handed over has
   no successor to compute and is not fed; the session then holds all tokens but that one. An end
   token is neither handed over nor fed. */
#include <inttypes.h>
#include <string.h>

#include "base/context.h"
#include "engine/sampler.h"
#include "engine/session.h"

void lutra_generation_init(lutra_generation *g)
{
    memset(g, 0, sizeof *g);
    g->size = sizeof *g;
    lutra_sampling_init(&g->sampling);
}

static bool is_end(const lu_model_config *c, int32_t id)
{
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_id[i] == id)
            return true;
    return false;
}

typedef struct {
    lutra_session *session;
    const lutra_generation *g;
    lutra_sampler *sampler;
    int64_t limit; /* new tokens at most */
    lutra_generation_result *r;
} generation;

/* Hands a chosen token over. True if it is to be fed and another one chosen. */
static bool hand_over(const generation *n, int32_t id)
{
    lutra_generation_result *r = n->r;
    if (!n->g->ignore_eos && is_end(&n->session->model->config, id)) {
        r->finish = LUTRA_FINISH_EOS;
        return false;
    }
    lutra_sampler_accept(n->sampler, id);
    r->n_new++;
    if (n->g->on_token && !n->g->on_token(n->g->user, id)) {
        r->finish = LUTRA_FINISH_CALLER;
        return false;
    }
    return r->n_new < n->limit;
}

static double draw(void *user, int64_t sequence)
{
    (void)sequence;
    return lu_sampler_draw(user);
}

/* Takes tokens that steps on a GPU choose, some steps being queued before the last token is known.
   What a step has fed beyond the token that ends the answer lies behind the session's end. */
static lutra_status take_steps(const generation *n, int32_t id, lutra_err *err)
{
    lutra_session *s = n->session;
    int64_t ahead = 0, left = n->limit - 1;
    do {
        for (; ahead < LU_STEPS_AHEAD && left > 0; ahead++, left--)
            LU_TRY(lu_forward_steps_queue(s->forward, err));
        int32_t next;
        LU_TRY(lu_forward_steps_take(s->forward, &next, err));
        ahead--;
        s->ids[s->length++] = id;
        id = next;
    } while (hand_over(n, id));
    return LUTRA_OK;
}

static lutra_status decode_ahead(const generation *n, int32_t id, lutra_err *err)
{
    lutra_session *s = n->session;
    const lu_segment segment = {.kv = &s->kv, .pos = s->length};
    const int32_t *held = s->ids;
    const lu_steps steps = {.n = 1,
                            .segments = &segment,
                            .ids = &id,
                            .sampling = n->g->sampling,
                            .held = &held,
                            .n_held = &s->length,
                            .draw = draw,
                            .user = n->sampler};
    LU_TRY(lu_forward_steps_begin(s->forward, &steps, err));
    const lutra_status status = take_steps(n, id, err);
    lu_forward_steps_end(s->forward);
    return status;
}

static lutra_status decode(const generation *n, lutra_err *err)
{
    lutra_session *s = n->session;
    n->r->finish = LUTRA_FINISH_LENGTH;
    if (n->limit < 1)
        return LUTRA_OK;
    int32_t id = lutra_sampler_pick(n->sampler, s->logits);
    if (!hand_over(n, id))
        return LUTRA_OK;
    if (lu_forward_steps_possible(s->forward))
        return decode_ahead(n, id, err);
    do {
        LU_TRY(lutra_session_feed(s, &id, 1, false, s->logits, err));
        id = lutra_sampler_pick(n->sampler, s->logits);
    } while (hand_over(n, id));
    return LUTRA_OK;
}

static lutra_status run(lutra_session *s, const int32_t *prompt, int64_t n,
                        const lutra_generation *g, lutra_sampler *sampler,
                        lutra_generation_result *r, lutra_err *err)
{
    const double start = lu_seconds();
    LU_TRY(lutra_session_feed(s, prompt, n, false, s->logits, err));
    const double fed = lu_seconds();
    const int64_t room = s->kv.capacity - s->length;
    const int64_t limit = g->max_tokens && g->max_tokens < room ? g->max_tokens : room;
    for (int64_t i = 0; i < s->length; i++)
        lutra_sampler_accept(sampler, s->ids[i]);
    const generation all = {.session = s, .g = g, .sampler = sampler, .limit = limit, .r = r};
    const lutra_status status = decode(&all, err);
    if (status == LUTRA_E_CANCELLED)
        r->finish = LUTRA_FINISH_CALLER;
    r->n_prompt = n;
    r->prompt_seconds = fed - start;
    r->decode_seconds = lu_seconds() - fed;
    return status;
}

lutra_status lutra_generate(lutra_session *s, const int32_t *prompt, int64_t n,
                            const lutra_generation *g, lutra_generation_result *out, lutra_err *err)
{
    lutra_generation opts;
    lutra_generation_result result = {.n_prompt = 0};
    lutra_sampler *sampler = NULL;
    lutra_generation_init(&opts);
    if (g)
        memcpy(&opts, g, g->size < sizeof opts ? g->size : sizeof opts);
    if (opts.max_tokens < 0)
        return lu_fail(err, LUTRA_E_ARG, "max_tokens is %" PRId64 ", expected 0 (no limit) or more",
                       opts.max_tokens);
    LU_TRY(lutra_sampler_open(&opts.sampling, s->model->config.vocab_size, &sampler, err));
    const lutra_status status = run(s, prompt, n, &opts, sampler, &result, err);
    lutra_sampler_close(sampler);
    if (out && (status == LUTRA_OK || status == LUTRA_E_CANCELLED))
        *out = result;
    return status;
}
