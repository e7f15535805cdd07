/* loading.h - what eval, run and chat share: a model with its tokenizer, and how to choose tokens.
 */
#ifndef LUTRA_CLI_LOADING_H
#define LUTRA_CLI_LOADING_H

#include "cli.h"
#include "lutra/lutra.h"

typedef struct cli_loaded {
    lutra_ctx *ctx;
    lutra_model *model;
    lutra_tokenizer *tokenizer;
    lutra_model_info info;
} cli_loaded;

/* In which numbers a model runs, and where: part of a command's settings, as `cli_numbers numbers`. */
typedef struct cli_numbers {
    const char *dtype;     /* "bf16", "fp16" or "fp32" */
    const char *device;    /* "cpu", "cuda" or "cuda:N" */
    const char *act_quant; /* NULL: linears get their input as it is */
    const char *kv;        /* "dtype": as dtype says */
} cli_numbers;

/* Opens the model at `path` with the call's threads and CPU level. *out is always fit for
   cli_unload. */
lutra_status cli_load(cli_call *call, const char *path, const cli_numbers *numbers, cli_loaded *out,
                      lutra_err *err);
void cli_unload(cli_loaded *l);

/* Rows of an option table. */
#define CLI_NUMBERS_OPTIONS(settings)                                                              \
    {"device", 'd', CLI_TEXT, "NAME", offsetof(settings, numbers.device), 0, 0, NULL, "cpu",       \
     "where the model runs: cpu, cuda (the first NVIDIA GPU) or cuda:N; lutra --version lists "    \
     "the GPUs"},                                                                                  \
    {"dtype", 0, CLI_CHOICE, "TYPE", offsetof(settings, numbers.dtype), 0, 0, "bf16|fp16|fp32",    \
     "bf16", "activations and KV cache: bf16 is fast, fp32 (CPU only) exact, fp16 (GPU only) in "  \
     "between"},                                                                                   \
    {"kv", 0, CLI_CHOICE, "FORMAT", offsetof(settings, numbers.kv), 0, 0,                          \
     "dtype|int8|int4|fp8|kivi4|kivi2", "dtype",                                                   \
     "KV cache: as --dtype, or smaller: a scale per token and head, or KIVI (keys per channel)"},  \
    {                                                                                              \
        "act-quant", 0, CLI_TEXT, "SPEC", offsetof(settings, numbers.act_quant), 0, 0, NULL, NULL, \
            "round the inputs of linears to integers: int8 (a scale per token), int4:g128 (per "   \
            "128 columns), int8:tensor (fixed); ':asym' adds zero points; none = do not; without "  \
            "it as the checkpoint says"                                                            \
    }

/* How tokens are chosen: part of a command's settings, as `cli_sampling sampling`. */
typedef struct cli_sampling {
    bool sample;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, seed;
} cli_sampling;

#define CLI_SAMPLING_AT(settings, field) offsetof(settings, sampling.field)

/* Rows of an option table. */
#define CLI_SAMPLING_OPTIONS(settings)                                                            \
    {"sample",                                                                                    \
     0,                                                                                           \
     CLI_FLAG,                                                                                    \
     NULL,                                                                                        \
     CLI_SAMPLING_AT(settings, sample),                                                           \
     0,                                                                                           \
     0,                                                                                           \
     NULL,                                                                                        \
     NULL,                                                                                        \
     "draw tokens at random, with the values of the model's generation_config.json (temperature " \
     "1 "                                                                                         \
     "where it has none) unless given here"},                                                     \
        {"temperature",                                                                           \
         'T',                                                                                     \
         CLI_REAL,                                                                                \
         "X",                                                                                     \
         CLI_SAMPLING_AT(settings, temperature),                                                  \
         0,                                                                                       \
         100,                                                                                     \
         NULL,                                                                                    \
         "0",                                                                                     \
         "spread of the choice; 0 = greedy, always the likeliest token"},                         \
        {"top-k", 0,       CLI_INT, "N", CLI_SAMPLING_AT(settings, top_k),                        \
         0,       1 << 24, NULL,    "0", "choose among the N likeliest tokens; 0 = all"},         \
        {"top-p",                                                                                 \
         0,                                                                                       \
         CLI_REAL,                                                                                \
         "X",                                                                                     \
         CLI_SAMPLING_AT(settings, top_p),                                                        \
         0,                                                                                       \
         1,                                                                                       \
         NULL,                                                                                    \
         "1",                                                                                     \
         "choose among the likeliest tokens that together have this probability"},                \
        {"min-p", 0, CLI_REAL, "X", CLI_SAMPLING_AT(settings, min_p),                             \
         0,       1, NULL,     "0", "leave out tokens less likely than X times the likeliest"},   \
        {"repetition-penalty",                                                                    \
         0,                                                                                       \
         CLI_REAL,                                                                                \
         "X",                                                                                     \
         CLI_SAMPLING_AT(settings, repetition_penalty),                                           \
         0.01,                                                                                    \
         100,                                                                                     \
         NULL,                                                                                    \
         "1",                                                                                     \
         "make tokens that occurred before less likely; 1 = off"},                                \
    {                                                                                             \
        "seed", 's', CLI_INT, "N", CLI_SAMPLING_AT(settings, seed), 0, 9e18, NULL, "0",           \
            "the same seed gives the same text"                                                   \
    }

/* Turns the options into the library's settings, reading generation_config.json of `folder` for
   --sample. E_ARG where options contradict each other. */
lutra_status cli_choose_sampling(const cli_call *call, const cli_sampling *s, const char *folder,
                                 lutra_sampling *out, lutra_err *err);

#endif
