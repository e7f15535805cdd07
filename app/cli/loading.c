/* loading.c - opens a model with its tokenizer; settles how tokens are chosen (loading.h). */
#include "loading.h"

#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

static lutra_dtype dtype_of(const char *name)
{
    return strcmp(name, "fp32") == 0   ? LUTRA_F32
           : strcmp(name, "fp16") == 0 ? LUTRA_F16
                                       : LUTRA_BF16;
}

lutra_status cli_load(cli_call *call, const char *path, const cli_numbers *numbers, cli_loaded *out,
                      lutra_err *err)
{
    lutra_model_options o;
    lutra_model_options_init(&o);
    o.dtype = dtype_of(numbers->dtype);
    o.device = numbers->device;
    o.act_quant = numbers->act_quant;
    o.kv = strcmp(numbers->kv, "dtype") == 0 ? NULL : numbers->kv;
    memset(out, 0, sizeof *out);
    LU_TRY(cli_open(call, &out->ctx, err));
    LU_TRY(lutra_tokenizer_open(path, &out->tokenizer, err)); /* first: it is quick to fail */
    LU_TRY(lutra_model_open(out->ctx, path, &o, &out->model, err));
    lutra_model_get_info(out->model, &out->info);
    progress_clear(call->progress);
    return LUTRA_OK;
}

void cli_unload(cli_loaded *l)
{
    lutra_tokenizer_close(l->tokenizer);
    lutra_model_close(l->model);
    lutra_close(l->ctx);
}

/* generation_config.json, where there is one. */
static lutra_status read_defaults(const char *folder, cli_sampling *s, lutra_err *err)
{
    char *path = lu_path_join(folder, "generation_config.json");
    if (!path)
        return lu_fail_nomem(err, strlen(folder));
    lutra_status status = LUTRA_OK;
    if (lu_path_exists(path)) {
        json_t *config = NULL;
        status = lu_json_load(path, &config, err);
        if (status == LUTRA_OK)
            status = lu_json_float(path, config, "temperature", &s->temperature, err);
        if (status == LUTRA_OK)
            status = lu_json_float(path, config, "top_p", &s->top_p, err);
        if (status == LUTRA_OK)
            status = lu_json_float(path, config, "min_p", &s->min_p, err);
        if (status == LUTRA_OK)
            status = lu_json_float(path, config, "repetition_penalty", &s->repetition_penalty, err);
        if (status == LUTRA_OK)
            status = lu_json_int(path, config, "top_k", &s->top_k, err);
        json_decref(config);
    }
    lu_free(path);
    return status;
}

lutra_status cli_choose_sampling(const cli_call *call, const cli_sampling *s, const char *folder,
                                 lutra_sampling *out, lutra_err *err)
{
    static const char *const narrowing[] = {"top-k", "top-p", "min-p"};
    cli_sampling v = *s;
    if (!s->sample && !cli_given(call, "temperature"))
        for (size_t i = 0; i < sizeof narrowing / sizeof *narrowing; i++)
            if (cli_given(call, narrowing[i]))
                return lu_fail(
                    err, LUTRA_E_ARG,
                    "--%s: has no effect on the greedy choice, give --temperature or --sample",
                    narrowing[i]);
    if (s->sample) {
        v = (cli_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1};
        LU_TRY(read_defaults(folder, &v, err));
        if (cli_given(call, "temperature"))
            v.temperature = s->temperature;
        if (cli_given(call, "top-k"))
            v.top_k = s->top_k;
        if (cli_given(call, "top-p"))
            v.top_p = s->top_p;
        if (cli_given(call, "min-p"))
            v.min_p = s->min_p;
        if (cli_given(call, "repetition-penalty"))
            v.repetition_penalty = s->repetition_penalty;
    }
    lutra_sampling_init(out);
    out->temperature = (float)v.temperature;
    out->top_k = (int)v.top_k;
    out->top_p = (float)v.top_p;
    out->min_p = (float)v.min_p;
    out->repetition_penalty = (float)v.repetition_penalty;
    out->seed = (uint64_t)s->seed;
    return LUTRA_OK;
}
