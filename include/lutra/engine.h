/* lutra/engine.h - running a model: token ids in, logits or token ids out. */
#ifndef LUTRA_ENGINE_H
#define LUTRA_ENGINE_H

#include "lutra/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One sequence and its KV cache. Several sessions may share a model, used one at a time. */
typedef struct lutra_session lutra_session;

/* capacity: tokens the KV cache holds; 0 = the model's context. More than the context is E_LIMIT. */
LUTRA_API lutra_status lutra_session_open(lutra_model *m, int64_t capacity, lutra_session **out,
                                          lutra_err *err);
LUTRA_API void lutra_session_close(lutra_session *s);

/* Appends n >= 1 tokens. logits: NULL, or room for [vocab_size] floats of the last position
   (all = false) or [n][vocab_size] (all = true). E_LIMIT when the capacity would be exceeded,
   E_ARG on an id outside the vocabulary or n = 0, E_CANCELLED; the session is then unchanged (the
   contents of logits are not specified after E_CANCELLED). */
LUTRA_API lutra_status lutra_session_feed(lutra_session *s, const int32_t *ids, int64_t n,
                                          bool all, float *logits, lutra_err *err);
LUTRA_API int64_t lutra_session_length(const lutra_session *s);
LUTRA_API int64_t lutra_session_capacity(const lutra_session *s);
/* Bytes of the KV cache's memory; on a GPU, where sessions share pages, 0. */
LUTRA_API int64_t lutra_session_kv_bytes(const lutra_session *s);
/* Forgets all but the first n tokens (n <= length). Where a cache has dropped what the next token
   needs (layers with a sliding window, KIVI), the next feed computes it again from the tokens. */
LUTRA_API lutra_status lutra_session_truncate(lutra_session *s, int64_t n, lutra_err *err);

/* --- sampling ------------------------------------------------------------------------------- */

typedef struct lutra_sampling {
    size_t size;
    float temperature;        /* 0 = greedy */
    int top_k;                /* 0 = off */
    float top_p;              /* 1 = off */
    float min_p;              /* 0 = off */
    float repetition_penalty; /* 1 = off; over the tokens of the session */
    uint64_t seed;            /* same seed, same text */
} lutra_sampling;

LUTRA_API void lutra_sampling_init(lutra_sampling *p); /* temperature 0, all else off, seed 0 */

typedef struct lutra_sampler lutra_sampler;
/* Steps, in this order: repetition penalty, temperature, top_k, top_p of what is left, min_p. */
LUTRA_API lutra_status lutra_sampler_open(const lutra_sampling *p, int64_t vocab_size,
                                          lutra_sampler **out, lutra_err *err);
LUTRA_API void lutra_sampler_close(lutra_sampler *s);
/* Tells the sampler of a token of the prompt or answer (for the repetition penalty). */
LUTRA_API void lutra_sampler_accept(lutra_sampler *s, int32_t id);
/* Chooses from logits [vocab_size] (unchanged). Ties of the greedy choice go to the lower id. A NaN
   is never chosen; if all are NaN the choice is id 0. */
LUTRA_API int32_t lutra_sampler_pick(lutra_sampler *s, const float *logits);

/* --- generation ----------------------------------------------------------------------------- */

typedef struct lutra_generation {
    size_t size;
    lutra_sampling sampling;
    int64_t max_tokens;      /* at most this many new tokens; 0 = until the session is full */
    bool ignore_eos;
    void *user;
    bool (*on_token)(void *user, int32_t id); /* return false to stop; may be NULL */
} lutra_generation;

typedef enum lutra_finish { LUTRA_FINISH_EOS, LUTRA_FINISH_LENGTH, LUTRA_FINISH_CALLER } lutra_finish;

typedef struct lutra_generation_result {
    int64_t n_prompt, n_new;
    double prompt_seconds, decode_seconds;
    lutra_finish finish;
} lutra_generation_result;

LUTRA_API void lutra_generation_init(lutra_generation *g);

/* Feeds prompt ids (n >= 1) after what the session holds and generates. An end token stops and is
   not given to on_token. E_LIMIT if the prompt does not fit the session. Afterwards the session
   holds the prompt and the new tokens, but not the last one given to on_token when finish is LENGTH
   or CALLER: nothing came after it, so it was not fed. E_CANCELLED fills *out too: what came until
   then, finish CALLER. */
LUTRA_API lutra_status lutra_generate(lutra_session *s, const int32_t *prompt, int64_t n,
                                      const lutra_generation *g, lutra_generation_result *out,
                                      lutra_err *err);

#ifdef __cplusplus
}
#endif
#endif
