/* config.c - reading and checking config.json, see config.h. The order of the checks is the order
   in which later keys depend on earlier ones; nothing is derived that the file states. */
#include "model/config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "tensor/convert.h"

/* Bounds: far above any published model, low enough that hidden * vocab * 4 stays below 2^47. */
#define MAX_VOCAB (1 << 24)
#define MAX_WIDTH (1 << 20)
#define MAX_HEADS 4096
#define MAX_HEAD_DIM 1024
#define MAX_CONTEXT (1 << 26)
#define MAX_EXPERTS 1024

typedef struct {
    const char *what;
    json_t *json;
    lutra_err *err;
} reader;

static bool is_null(const reader *r, const char *key)
{
    return json_is_null(json_object_get(r->json, key));
}

static lutra_status check_range(const reader *r, const char *key, int64_t value, int64_t limit)
{
    if (value >= 1 && value <= limit)
        return LUTRA_OK;
    return lu_fail(r->err, LUTRA_E_FORMAT, "%s: \"%s\" is %" PRId64 ", expected 1 to %" PRId64,
                   r->what, key, value, limit);
}

/* A size that must be there. */
static lutra_status need_size(const reader *r, const char *key, int64_t limit, int64_t *out)
{
    const json_t *v = json_object_get(r->json, key);
    if (!v || json_is_null(v))
        return lu_fail(r->err, LUTRA_E_FORMAT, "%s: \"%s\" is missing", r->what, key);
    LU_TRY(lu_json_int(r->what, r->json, key, out, r->err));
    return check_range(r, key, *out, limit);
}

/* A size with what absence and null mean. */
static lutra_status size_or(const reader *r, const char *key, int64_t absent, int64_t null,
                            int64_t limit, int64_t *out)
{
    *out = is_null(r, key) ? null : absent;
    LU_TRY(lu_json_int(r->what, r->json, key, out, r->err));
    return check_range(r, key, *out, limit);
}

static lutra_status read_architecture(const reader *r, lu_model_config *c)
{
    const json_t *list = json_object_get(r->json, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (!name)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"architectures\" does not name a class, expected a list such as "
                       "[\"LlamaForCausalLM\"]",
                       r->what);
    c->arch = lu_arch_find(name);
    if (c->arch)
        return LUTRA_OK;
    char known[256];
    return lu_fail(r->err, LUTRA_E_UNSUPPORTED,
                   "%s: architecture %.60s is not supported, expected one of %s", r->what, name,
                   lu_arch_list(known, sizeof known));
}

/* "dtype" since transformers 4.56, "torch_dtype" before. */
static lutra_status read_dtype(const reader *r, lu_model_config *c)
{
    const char *name = "float32";
    LU_TRY(lu_json_string(r->what, r->json, "torch_dtype", &name, r->err));
    LU_TRY(lu_json_string(r->what, r->json, "dtype", &name, r->err));
    if (strncmp(name, "torch.", 6) == 0)
        name += 6;
    c->dtype = lutra_dtype_parse(name);
    if (c->dtype == LUTRA_F32 || c->dtype == LUTRA_F16 || c->dtype == LUTRA_BF16)
        return LUTRA_OK;
    return lu_fail(r->err, LUTRA_E_UNSUPPORTED,
                   "%s: dtype \"%.40s\" is not supported, expected float32, float16 or bfloat16",
                   r->what, name);
}

static lutra_status read_sizes(const reader *r, lu_model_config *c)
{
    const lu_arch *a = c->arch;
    LU_TRY(need_size(r, "vocab_size", MAX_VOCAB, &c->vocab_size));
    LU_TRY(need_size(r, "hidden_size", MAX_WIDTH, &c->hidden_size));
    LU_TRY(need_size(r, "intermediate_size", MAX_WIDTH, &c->intermediate_size));
    LU_TRY(need_size(r, "num_hidden_layers", LU_MAX_LAYERS, &c->n_layers));
    LU_TRY(need_size(r, "num_attention_heads", MAX_HEADS, &c->n_heads));
    LU_TRY(size_or(r, "max_position_embeddings", a->max_context, a->max_context, MAX_CONTEXT,
                   &c->max_context));
    LU_TRY(size_or(r, "num_key_value_heads", a->n_kv_heads ? a->n_kv_heads : c->n_heads, c->n_heads,
                   MAX_HEADS, &c->n_kv_heads));
    if (c->n_heads % c->n_kv_heads)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"num_attention_heads\" %" PRId64
                       " is not a multiple of \"num_key_value_heads\" %" PRId64,
                       r->what, c->n_heads, c->n_kv_heads);
    const int64_t derived = c->hidden_size / c->n_heads;
    int64_t given = a->head_dim && !is_null(r, "head_dim") ? a->head_dim : 0;
    LU_TRY(lu_json_int(r->what, r->json, "head_dim", &given, r->err));
    const bool stated = given != 0 || json_is_number(json_object_get(r->json, "head_dim"));
    if (!stated && c->hidden_size % c->n_heads)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"hidden_size\" %" PRId64
                       " is not a multiple of \"num_attention_heads\" %" PRId64
                       " and \"head_dim\" is not given",
                       r->what, c->hidden_size, c->n_heads);
    c->head_dim = stated ? given : derived;
    LU_TRY(check_range(r, "head_dim", c->head_dim, MAX_HEAD_DIM));
    if (c->head_dim % 2)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: head_dim is %" PRId64 ", expected an even number", r->what,
                       c->head_dim);
    return check_range(r, "heads times head_dim", c->n_heads * c->head_dim, MAX_WIDTH);
}

static lutra_status read_experts(const reader *r, lu_model_config *c)
{
    c->n_experts = c->n_active = 1;
    if (!c->arch->n_experts)
        return LUTRA_OK;
    LU_TRY(size_or(r, "num_local_experts", c->arch->n_experts, c->arch->n_experts, MAX_EXPERTS,
                   &c->n_experts));
    LU_TRY(size_or(r, "num_experts_per_tok", c->arch->n_active, c->arch->n_active, MAX_EXPERTS,
                   &c->n_active));
    if (c->n_active > c->n_experts)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"num_experts_per_tok\" %" PRId64
                       " is above \"num_local_experts\" %" PRId64,
                       r->what, c->n_active, c->n_experts);
    return LUTRA_OK;
}

static lutra_status read_bias(const reader *r, lu_bias_rule rule, const char *key, bool *out)
{
    *out = rule == LU_BIAS_ALWAYS;
    return rule == LU_BIAS_BY_CONFIG ? lu_json_bool(r->what, r->json, key, out, r->err) : LUTRA_OK;
}

static lutra_status read_activation(const reader *r, lu_model_config *c)
{
    static const struct {
        const char *name;
        lu_activation activation;
    } known[] = {
        {"silu", LU_ACT_SILU},
        {"swish", LU_ACT_SILU},
        {"gelu_pytorch_tanh", LU_ACT_GELU_TANH},
        {"gelu_new", LU_ACT_GELU_TANH},
    };
    const char *name = NULL;
    c->activation = c->arch->activation;
    LU_TRY(lu_json_string(r->what, r->json, c->arch->activation_key, &name, r->err));
    if (!name)
        return LUTRA_OK;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i].name) == 0) {
            c->activation = known[i].activation;
            return LUTRA_OK;
        }
    return lu_fail(r->err, LUTRA_E_UNSUPPORTED,
                   "%s: activation \"%.40s\" is not supported, expected silu or gelu_pytorch_tanh",
                   r->what, name);
}

/* Soft caps exist where the class has a default; null switches one off. */
static lutra_status read_softcap(const reader *r, const char *key, double absent, float *out)
{
    double cap = is_null(r, key) ? 0.0 : absent;
    if (absent > 0.0) {
        const bool given = json_object_get(r->json, key) && !is_null(r, key);
        LU_TRY(lu_json_float(r->what, r->json, key, &cap, r->err));
        if (given && !(cap >= 1e-6 && cap < 1e9))
            return lu_fail(r->err, LUTRA_E_FORMAT,
                           "%s: \"%s\" is %g, expected a positive number or null", r->what, key,
                           cap);
    }
    *out = (float)cap;
    return LUTRA_OK;
}

static lutra_status read_scales(const reader *r, lu_model_config *c)
{
    double eps = c->arch->rms_norm_eps;
    LU_TRY(lu_json_float(r->what, r->json, "rms_norm_eps", &eps, r->err));
    if (!(eps >= 0.0 && eps < 1.0))
        return lu_fail(r->err, LUTRA_E_FORMAT, "%s: \"rms_norm_eps\" is %g, expected 0 to 1",
                       r->what, eps);
    c->eps = (float)eps;
    double scalar = (double)c->head_dim;
    if (c->arch->query_scalar > 0.0) {
        scalar = c->arch->query_scalar;
        LU_TRY(lu_json_float(r->what, r->json, "query_pre_attn_scalar", &scalar, r->err));
    }
    if (!(scalar >= 1e-6 && scalar < 1e9)) /* the scale stays finite in float32 */
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"query_pre_attn_scalar\" is %g, expected a positive number", r->what,
                       scalar);
    c->query_scale = (float)(1.0 / sqrt(scalar));
    c->embed_scale = 1.0f;
    if (c->arch->scaled_embedding) {
        /* The class multiplies by a scalar tensor of the model's dtype: 59.75 for hidden 3584 in
         * bf16. */
        const float exact = (float)sqrt((double)c->hidden_size);
        c->embed_scale = c->dtype == LUTRA_BF16  ? lu_bf16_to_f32(lu_f32_to_bf16(exact))
                         : c->dtype == LUTRA_F16 ? lu_f16_to_f32(lu_f32_to_f16(exact))
                                                 : exact;
    }
    LU_TRY(read_softcap(r, "attn_logit_softcapping", c->arch->attn_softcap, &c->attn_softcap));
    return read_softcap(r, "final_logit_softcapping", c->arch->final_softcap, &c->final_softcap);
}

/* layer_types of newer files: one word a layer. */
static lutra_status read_layer_types(const reader *r, const json_t *list, lu_model_config *c)
{
    if (!json_is_array(list) || json_array_size(list) != (size_t)c->n_layers)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"layer_types\" is not a list of %" PRId64 " names", r->what,
                       c->n_layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        const char *name = json_string_value(json_array_get(list, (size_t)i));
        const bool full = name && strcmp(name, "full_attention") == 0;
        if (!full && !(name && strcmp(name, "sliding_attention") == 0))
            return lu_fail(r->err, LUTRA_E_UNSUPPORTED,
                           "%s: layer_types[%" PRId64
                           "] is \"%.40s\", expected full_attention or sliding_attention",
                           r->what, i, name ? name : "?");
        if (!full && !c->window)
            return lu_fail(r->err, LUTRA_E_FORMAT,
                           "%s: layer_types[%" PRId64
                           "] is sliding_attention but \"sliding_window\" is off",
                           r->what, i);
        c->kind[i] = full ? LU_ATTN_FULL : LU_ATTN_SLIDING;
    }
    return LUTRA_OK;
}

static lutra_status read_window(const reader *r, lu_model_config *c)
{
    const lu_arch *a = c->arch;
    if (a->window_rule == LU_WINDOW_NONE)
        return LUTRA_OK;
    bool use = a->window_rule != LU_WINDOW_FROM_LAYER;
    if (!use)
        LU_TRY(lu_json_bool(r->what, r->json, "use_sliding_window", &use, r->err));
    int64_t window = is_null(r, "sliding_window") ? 0 : a->window;
    LU_TRY(lu_json_int(r->what, r->json, "sliding_window", &window, r->err));
    if (json_is_number(json_object_get(r->json, "sliding_window")))
        LU_TRY(check_range(r, "sliding_window", window, INT32_MAX));
    c->window = use ? window : 0;
    const json_t *types = json_object_get(r->json, "layer_types");
    if (types && !json_is_null(types))
        return read_layer_types(r, types, c);
    int64_t first = a->max_window_layers;
    if (a->window_rule == LU_WINDOW_FROM_LAYER)
        LU_TRY(lu_json_int(r->what, r->json, "max_window_layers", &first, r->err));
    for (int64_t i = 0; c->window && i < c->n_layers; i++) {
        const bool sliding = a->window_rule == LU_WINDOW_ALL ||
                             (a->window_rule == LU_WINDOW_EVEN && i % 2 == 0) ||
                             (a->window_rule == LU_WINDOW_FROM_LAYER && i >= first);
        c->kind[i] = sliding ? LU_ATTN_SLIDING : LU_ATTN_FULL;
    }
    return LUTRA_OK;
}

static lutra_status add_eos(const reader *r, const json_t *v, lu_model_config *c)
{
    const json_int_t id = json_integer_value(v);
    if (!json_is_integer(v) || id < 0 || id >= c->vocab_size)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"eos_token_id\" is not a token id below %" PRId64 " or a list of them",
                       r->what, c->vocab_size);
    if (c->n_eos == LU_MAX_EOS)
        return lu_fail(r->err, LUTRA_E_LIMIT, "%s: \"eos_token_id\" has more than %d entries",
                       r->what, LU_MAX_EOS);
    c->eos_id[c->n_eos++] = (int32_t)id;
    return LUTRA_OK;
}

static lutra_status read_specials(const reader *r, json_t *generation, lu_model_config *c)
{
    int64_t bos = -1;
    LU_TRY(lu_json_int(r->what, r->json, "bos_token_id", &bos, r->err));
    if (bos < -1 || bos >= c->vocab_size)
        return lu_fail(r->err, LUTRA_E_FORMAT,
                       "%s: \"bos_token_id\" is %" PRId64 ", the vocabulary has %" PRId64, r->what,
                       bos, c->vocab_size);
    c->bos_id = (int32_t)bos;
    const json_t *eos = json_object_get(generation, "eos_token_id"); /* NULL object: NULL */
    if (!eos || json_is_null(eos))
        eos = json_object_get(r->json, "eos_token_id");
    if (!eos || json_is_null(eos))
        return LUTRA_OK;
    if (!json_is_array(eos))
        return add_eos(r, eos, c);
    for (size_t i = 0; i < json_array_size(eos); i++)
        LU_TRY(add_eos(r, json_array_get(eos, i), c));
    return LUTRA_OK;
}

lutra_status lu_model_config_read(const char *what, json_t *config, json_t *generation,
                                  lu_model_config *out, lutra_err *err)
{
    const reader r = {.what = what, .json = config, .err = err};
    lu_model_config c = {.n_layers = 0};
    if (!json_is_object(config))
        return lu_fail(err, LUTRA_E_FORMAT, "%s: not a JSON object", what);
    LU_TRY(read_architecture(&r, &c));
    LU_TRY(read_dtype(&r, &c));
    LU_TRY(read_sizes(&r, &c));
    LU_TRY(read_experts(&r, &c));
    LU_TRY(read_bias(&r, c.arch->qkv_bias, "attention_bias", &c.qkv_bias));
    LU_TRY(read_bias(&r, c.arch->o_bias, "attention_bias", &c.o_bias));
    LU_TRY(read_bias(&r, c.arch->mlp_bias, "mlp_bias", &c.mlp_bias));
    c.tied = c.arch->tied;
    LU_TRY(lu_json_bool(what, config, "tie_word_embeddings", &c.tied, err));
    LU_TRY(read_activation(&r, &c));
    LU_TRY(read_scales(&r, &c));
    LU_TRY(lu_rope_read(what, config, c.arch->rope_theta, c.rope, err));
    LU_TRY(read_window(&r, &c));
    LU_TRY(read_specials(&r, generation, &c));
    *out = c;
    return LUTRA_OK;
}
