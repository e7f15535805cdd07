/* perplexity.h - perplexity of token ids: lutra_eval_perplexity after the tokenizer. */
#ifndef LU_EVAL_PERPLEXITY_H
#define LU_EVAL_PERPLEXITY_H

#include "base/status.h"
#include "lutra/eval.h"

/* ids: n tokens, cut into windows as lutra/eval.h says. */
lutra_status lu_perplexity_of_ids(lutra_model *m, const int32_t *ids, int64_t n,
                                  const lutra_perplexity_options *o, lutra_perplexity *out,
                                  lutra_err *err);

#endif
