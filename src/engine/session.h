/* session.h - one sequence: its tokens, its KV cache, the scratch of its passes. */
#ifndef LU_ENGINE_SESSION_H
#define LU_ENGINE_SESSION_H

#include "lutra/engine.h"
#include "model/forward.h"

struct lutra_session {
    lutra_model *model;
    lu_kv kv;
    lu_forward *forward;
    int64_t length;
    int64_t written; /* the furthest the cache was written to since it was last whole */
    int32_t *ids;  /* [capacity]: tokens fed so far */
    float *logits; /* [vocab_size]: of the last position, for lutra_generate */
};

#endif
