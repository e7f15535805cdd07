/* fuzz_model_config.c - any JSON as a model's config.json. What is accepted must be within the
   bounds that the arithmetic of the loader relies on; what is refused must have a message. */
#include <math.h>

#include "base/json.h"
#include "fuzz.h"
#include "model/config.h"

static void check(const lu_model_config *c)
{
    REQUIRE(c->vocab_size >= 1 && c->vocab_size <= 1 << 24);
    REQUIRE(c->hidden_size >= 1 && c->hidden_size <= 1 << 20);
    REQUIRE(c->intermediate_size >= 1 && c->intermediate_size <= 1 << 20);
    REQUIRE(c->n_layers >= 1 && c->n_layers <= LU_MAX_LAYERS);
    REQUIRE(c->n_kv_heads >= 1 && c->n_heads % c->n_kv_heads == 0);
    REQUIRE(c->head_dim >= 2 && c->head_dim % 2 == 0 && c->n_heads * c->head_dim <= 1 << 20);
    REQUIRE(c->n_active >= 1 && c->n_active <= c->n_experts && c->n_experts <= 1024);
    REQUIRE(c->max_context >= 1 && c->window >= 0);
    REQUIRE(isfinite(c->eps) && isfinite(c->query_scale) && c->query_scale > 0);
    REQUIRE(isfinite(c->embed_scale) && isfinite(c->attn_softcap) && isfinite(c->final_softcap));
    REQUIRE(c->n_eos >= 0 && c->n_eos <= LU_MAX_EOS);
    REQUIRE(c->bos_id >= -1 && c->bos_id < c->vocab_size);
    for (int64_t i = 0; i < c->n_layers; i++)
        REQUIRE(c->kind[i] == LU_ATTN_FULL || (c->kind[i] == LU_ATTN_SLIDING && c->window > 0));
    float inv_freq[512]; /* head_dim is at most 1024 */
    for (int k = 0; k < LU_N_ATTN_KINDS; k++) {
        lu_rope_frequencies(&c->rope[k], c->head_dim, inv_freq);
        REQUIRE(isfinite(inv_freq[c->head_dim / 2 - 1]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *value = NULL;
    lu_model_config config;
    lutra_err err = {0};
    if (lu_json_parse("input", (const char *)data, size, false, &value, &err) != LUTRA_OK)
        return 0;
    if (lu_model_config_read("input", value, value, &config, &err) == LUTRA_OK)
        check(&config);
    else
        REQUIRE(err.msg[0]);
    json_decref(value);
    return 0;
}
