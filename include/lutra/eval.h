/* lutra/eval.h - perplexity. */
#ifndef LUTRA_EVAL_H
#define LUTRA_EVAL_H

#include "lutra/model.h"
#include "lutra/text.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lutra_perplexity_options {
    size_t size;
    int64_t window;      /* tokens of text per window; default 512 */
    int64_t stride;      /* tokens from one window's start to the next; 0 = window (no overlap).
                            With overlap only the tokens not predicted before are counted. */
    bool bos;            /* put BOS before each window; then all of the window is predicted */
    int64_t max_windows; /* 0 = all */
} lutra_perplexity_options;

typedef struct lutra_perplexity {
    double perplexity;   /* exp(nll) */
    double nll;          /* mean negative log-likelihood per predicted token, nats */
    int64_t tokens, windows, predicted;
    double seconds, tokens_per_second; /* tokens run through the model per second */
} lutra_perplexity;

LUTRA_API void lutra_perplexity_options_init(lutra_perplexity_options *o);

/* Tokenizes the whole text in one call without special tokens, cuts the ids into windows (a
   shorter tail is dropped), runs each window by itself. E_ARG if the text is shorter than a window,
   E_LIMIT if the window exceeds the model's context, E_FORMAT if the model predicts NaN. */
LUTRA_API lutra_status lutra_eval_perplexity(lutra_model *m, const lutra_tokenizer *t,
                                             const char *text, size_t n,
                                             const lutra_perplexity_options *o,
                                             lutra_perplexity *out, lutra_err *err);

#ifdef __cplusplus
}
#endif
#endif
