/* generate.c - prompt in, tokens out: feed, pick, hand over, repeat. The last token handed over has
   no successor to compute and is not fed; the session then holds all tokens but that one. An end
   token is neither handed over nor fed. */
#include <inttypes.h>
#include <string.h>

#include "base/context.h"
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

static lutra_status decode(lutra_session *s, const lutra_generation *g, lutra_sampler *sampler,
                           int64_t limit, lutra_generation_result *r, lutra_err *err)
{
    r->finish = LUTRA_FINISH_LENGTH;
    while (r->n_new < limit) {
        const int32_t id = lutra_sampler_pick(sampler, s->logits);
        if (!g->ignore_eos && is_end(&s->model->config, id)) {
            r->finish = LUTRA_FINISH_EOS;
            break;
        }
        lutra_sampler_accept(sampler, id);
        r->n_new++;
        if (g->on_token && !g->on_token(g->user, id)) {
            r->finish = LUTRA_FINISH_CALLER;
            break;
        }
        if (r->n_new < limit)
            LU_TRY(lutra_session_feed(s, &id, 1, false, s->logits, err));
    }
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
    const lutra_status status = decode(s, g, sampler, limit, r, err);
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
